//! What commands there are: each with its arguments, as text in the document and as a value here.

use std::collections::BTreeMap;

use reconvene_core::ids::DocumentId;
use serde::{Deserialize, Serialize};

use super::Command;
use crate::integration::RunId;

/// What a command asks of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name")]
#[non_exhaustive]
pub enum Ask {
    /// Bring an integration and what it is elsewhere together. Yields `run`.
    StartIntegrationSync {
        /// The integration.
        integration: DocumentId,
        /// What started it, such as `manual`.
        trigger: String,
    },
    /// End a sync run. Yields its `state`.
    CancelRun {
        /// The run.
        run: RunId,
    },
    /// Say what is known of a sync run. Yields `status`: `found` with its `integration`, `expired` or
    /// `never_existed`.
    FindRun {
        /// The run.
        run: RunId,
    },
    /// Look whether integrations work. Yields how many are `valid`, `invalid` and `unreachable`.
    ValidateIntegrations {
        /// Which; without, every one of the workspace.
        integration: Option<DocumentId>,
    },
    /// Have the recording of a meeting stop, on whatever device it runs. Yields the meeting's `state`.
    StopRecording {
        /// The meeting.
        meeting: DocumentId,
    },
}

/// A command that asks for nothing this version knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// There is no command of this name.
    #[error("there is no command `{0}`")]
    Unknown(String),
    /// An argument is missing.
    #[error("the argument `{0}` is missing")]
    Missing(&'static str),
    /// An argument is not what it should be.
    #[error("the argument `{name}` cannot be `{value}`")]
    Bad {
        /// Its name.
        name: &'static str,
        /// What it says.
        value: String,
    },
}

impl AskError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_command",
            Self::Missing(_) | Self::Bad { .. } => "bad_argument",
        }
    }
}

impl Ask {
    /// The command's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StartIntegrationSync { .. } => "start_integration_sync",
            Self::CancelRun { .. } => "cancel_run",
            Self::FindRun { .. } => "find_run",
            Self::ValidateIntegrations { .. } => "validate_integrations",
            Self::StopRecording { .. } => "stop_recording",
        }
    }

    /// Its arguments.
    pub fn arguments(&self) -> BTreeMap<String, String> {
        let arguments = match self {
            Self::StartIntegrationSync {
                integration,
                trigger,
            } => vec![
                ("integration", integration.to_string()),
                ("trigger", trigger.clone()),
            ],
            Self::CancelRun { run } | Self::FindRun { run } => vec![("run", run.to_string())],
            Self::ValidateIntegrations { integration } => integration
                .iter()
                .map(|id| ("integration", id.to_string()))
                .collect(),
            Self::StopRecording { meeting } => vec![("meeting", meeting.to_string())],
        };
        let named = arguments.into_iter();
        named
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Reads a command's name and arguments. Arguments that it does not know are passed over.
    pub fn parse(name: &str, arguments: &BTreeMap<String, String>) -> Result<Self, AskError> {
        let arguments = Arguments(arguments);
        Ok(match name {
            "start_integration_sync" => Self::StartIntegrationSync {
                integration: arguments.needed("integration")?,
                trigger: arguments
                    .wanted("trigger")?
                    .unwrap_or_else(|| "manual".to_owned()),
            },
            "cancel_run" => Self::CancelRun {
                run: arguments.needed("run")?,
            },
            "find_run" => Self::FindRun {
                run: arguments.needed("run")?,
            },
            "validate_integrations" => Self::ValidateIntegrations {
                integration: arguments.wanted("integration")?,
            },
            "stop_recording" => Self::StopRecording {
                meeting: arguments.needed("meeting")?,
            },
            other => return Err(AskError::Unknown(other.to_owned())),
        })
    }
}

impl Command {
    /// What it asks.
    pub fn ask(&self) -> Result<Ask, AskError> {
        Ask::parse(&self.name, &self.arguments)
    }
}

struct Arguments<'a>(&'a BTreeMap<String, String>);

impl Arguments<'_> {
    fn wanted<T: std::str::FromStr>(&self, name: &'static str) -> Result<Option<T>, AskError> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let bad = |_| AskError::Bad {
            name,
            value: value.clone(),
        };
        value.parse().map(Some).map_err(bad)
    }

    fn needed<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, AskError> {
        self.wanted(name)?.ok_or(AskError::Missing(name))
    }
}
