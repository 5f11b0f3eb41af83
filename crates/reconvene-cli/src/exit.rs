//! Exit codes: one table, from which `--help` is written and to which the README is compared.
//!
//! Scripts rely on these numbers; none is ever given another meaning.

use std::fmt::Write;

/// One exit code: what it means and which error codes lead to it.
#[derive(Debug)]
pub(crate) struct Exit {
    /// The number the process ends with.
    pub code: u8,
    /// What it means, as `--help` says it.
    pub meaning: &'static str,
    /// The `error.code` values that lead to it.
    pub errors: &'static [&'static str],
}

/// Done.
pub(crate) const OK: u8 = 0;
/// Any failure that has no number of its own.
pub(crate) const FAILURE: u8 = 1;
/// The command line was not understood.
pub(crate) const USAGE: u8 = 2;
/// Bad input, or what it names does not exist.
pub(crate) const BAD_INPUT: u8 = 7;
/// Some files were not imported, or some documents of an archive not restored.
pub(crate) const INCOMPLETE: u8 = 8;

/// Every exit code, in order.
pub(crate) const TABLE: &[Exit] = &[
    Exit {
        code: OK,
        meaning: "done",
        errors: &[],
    },
    Exit {
        code: FAILURE,
        meaning: "any failure without a code of its own",
        errors: &["internal", "io", "network", "closed", "busy", "runtime_dir"],
    },
    Exit {
        code: USAGE,
        meaning: "the command line was not understood",
        errors: &["usage"],
    },
    Exit {
        code: 3,
        meaning: "there is no store in the data directory, or for init: there is one already",
        errors: &["not_initialised", "already_initialised"],
    },
    Exit {
        code: 4,
        meaning: "another process has the store open and did not carry out the command",
        errors: &["store_locked", "control_failed"],
    },
    Exit {
        code: 5,
        meaning: "no server was reached, or nothing moved until the time-out",
        errors: &["unreachable", "unavailable", "timeout", "no_server"],
    },
    Exit {
        code: 6,
        meaning: "refused: the ticket, the enrolment or the protocol version",
        errors: &[
            "bad_ticket",
            "ticket_expired",
            "ticket_used",
            "ticket_unknown",
            "not_enrolled",
            "not_shared",
            "incompatible_protocol",
            "too_many_workspaces",
            "refused",
        ],
    },
    Exit {
        code: BAD_INPUT,
        meaning: "bad input, or what it names does not exist",
        errors: &[
            "bad_input",
            "bad_id",
            "bad_address",
            "not_found",
            "document_deleted",
            "unknown_project",
            "ambiguous_project",
            "edit_refused",
            "too_many_commands",
            "too_large",
            "not_held_elsewhere",
            "meeting_deleted",
            "meeting_changed",
            "project_deleted",
            "project_in_use",
            "not_retryable",
            "not_an_archive",
            "file_exists",
        ],
    },
    Exit {
        code: INCOMPLETE,
        meaning: "some files were not imported, or documents not restored; the others were",
        errors: &[],
    },
    Exit {
        code: 9,
        meaning: "the store or a document cannot be used: damaged, newer version, permission, space",
        errors: &[
            "store_damaged",
            "store_failed",
            "document_damaged",
            "document_too_new",
            "archive_damaged",
            "identity",
            "profile",
            "newer_version",
            "not_a_store",
            "permission",
            "no_space",
        ],
    },
];

/// The exit code that an error code leads to.
pub(crate) fn code_of(error: &str) -> u8 {
    let exit = TABLE.iter().find(|exit| exit.errors.contains(&error));
    exit.map_or(FAILURE, |exit| exit.code)
}

/// The table as text, one line per code.
pub(crate) fn describe() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in TABLE {
        writeln!(text, "  {}  {}", exit.code, exit.meaning).expect("a string takes every write");
    }
    text
}

#[cfg(test)]
mod tests;
