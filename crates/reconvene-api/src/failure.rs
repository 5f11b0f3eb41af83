//! How errors leave: a status code, a message, and the stable code and hint as `google.rpc.ErrorInfo`.

use std::collections::HashMap;

use reconvene::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What `ErrorInfo.domain` says.
pub(crate) const DOMAIN: &str = "reconvene";

/// An error of the replica as the caller sees it.
pub(crate) fn status(error: &Error) -> Status {
    detailed(
        code(error),
        error.code(),
        error.full_message(),
        error.hint(),
    )
}

/// A request that cannot be meant.
pub(crate) fn bad_input(message: impl Into<String>) -> Status {
    status(&Error::BadInput(message.into()))
}

/// A status that carries a stable reason.
pub(crate) fn detailed(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    hint: Option<&str>,
) -> Status {
    let hint = hint.map(|hint| ("hint".to_owned(), hint.to_owned()));
    let metadata: HashMap<_, _> = hint.into_iter().collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

fn code(error: &Error) -> Code {
    match error.code() {
        "not_found" | "unknown_project" => Code::NotFound,
        "bad_id" | "bad_input" | "bad_address" | "bad_ticket" | "ambiguous_project"
        | "too_large" => Code::InvalidArgument,
        "edit_refused" => match error {
            Error::EditPanicked(_) => Code::Internal,
            _ => Code::InvalidArgument,
        },
        "meeting_changed" => Code::Aborted,
        "meeting_deleted" | "document_deleted" | "project_archived" | "project_deleted"
        | "project_in_use" | "document_too_new" | "other_history" => Code::FailedPrecondition,
        "no_space" | "too_many_workspaces" | "too_many_commands" => Code::ResourceExhausted,
        "busy" | "closed" | "unavailable" | "unreachable" => Code::Unavailable,
        "timeout" => Code::DeadlineExceeded,
        "store_damaged" | "document_damaged" => Code::DataLoss,
        _ => Code::Internal,
    }
}
