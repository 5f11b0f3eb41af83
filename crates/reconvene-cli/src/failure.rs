//! A failure as the person at the command line meets it: a stable code, what failed, what to do next.
//!
//! It is also what crosses the control socket, so it holds text only.

use serde::{Deserialize, Serialize};

use crate::exit;

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// A stable word that scripts branch on.
    pub code: String,
    /// What failed.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with the hint that belongs to its code.
    pub(crate) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            hint: hint(code).map(str::to_owned),
        }
    }

    /// The same failure with another hint.
    #[must_use]
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The exit code the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        exit::code_of(&self.code)
    }
}

impl From<reconvene::Error> for Failure {
    fn from(error: reconvene::Error) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.full_message(),
            hint: hint(error.code()).or(error.hint()).map(str::to_owned),
        }
    }
}

impl From<reconvene_server::Error> for Failure {
    fn from(error: reconvene_server::Error) -> Self {
        match error {
            reconvene_server::Error::Replica(error) => error.into(),
            reconvene_server::Error::Services(error) => {
                let mut message = error.to_string();
                if let Some(source) = std::error::Error::source(&error) {
                    message.push_str(&format!(": {source}"));
                }
                let failure = Self::new(error.code(), message);
                match error.hint() {
                    Some(hint) => failure.with_hint(hint),
                    None => failure,
                }
            }
            other => Self::new("timeout", other.to_string()),
        }
    }
}

/// What a person at the command line does next, where the node does not know it or knows it less well.
fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "usage" => "run `reconvene --help`, or `reconvene COMMAND --help`",
        "store_locked" => {
            "end the other process or wait for it; while `reconvene serve` or `reconvene sync \
             --watch` has the store open, commands reach it over its control socket"
        }
        "control_failed" => "end the process that has the store open, then run the command again",
        "runtime_dir" => "set XDG_RUNTIME_DIR to a directory that only you can enter (mode 0700)",
        "not_initialised" => {
            "run `reconvene init` to start a store here, `reconvene join TICKET` to join a \
             workspace, or name another directory with --data"
        }
        "bad_address" => "write it like /ip4/192.0.2.7/tcp/4001 or /dns4/example.org/tcp/4001",
        "busy" | "unavailable" => "run it again in a moment",
        "network" => "check the address and that nothing else listens on it",
        "io" => "check the path and the disk, then run the command again",
        "identity" => "restore the file from a backup, or join again from an empty directory",
        "document_too_new" => "use a newer release of reconvene to edit it; reading goes on",
        "document_deleted" => "it cannot be brought back; an earlier export may still have it",
        "document_damaged" => "sync with the server, which sends it again; the rest is unharmed",
        "store_damaged" | "store_failed" => {
            "run `reconvene verify` to see what is damaged, and `reconvene repair` to keep the rest: \
             the next sync brings back what is missing"
        }
        "too_large" => "make it smaller, or split it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
