//! The command document: what a device asks of the server, and what became of it.
//!
//! The device writes what is asked and whether it still wants it; the server writes when it accepted
//! the command and its outcome, once. Nothing here carries a command out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use automerge::{ROOT, ReadDoc};
use reconvene_core::ids::DocumentId;
use reconvene_core::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::document::{Document, ReadError};
use crate::edit::{Editor, ModelError};
use crate::genesis::{ARGUMENTS, COMMAND, RESULT};
use crate::ids::Author;
use crate::view::{Conflict, View};

mod ask;

pub use ask::{Ask, AskError};

/// Most arguments of a command, and most parts of its result. More are refused.
pub const ARGUMENTS_MAX: usize = 64;

/// A command as people see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// What is asked, such as `start_integration_sync`; empty if none is readable.
    pub name: String,
    /// With what, by name.
    pub arguments: BTreeMap<String, String>,
    /// When it was issued.
    pub issued_at: Option<WallTime>,
    /// By whom.
    pub issued_by: Option<Author>,
    /// The command that this one is another attempt at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<DocumentId>,
    /// Whether its author wants it no more.
    pub cancel: bool,
    /// When the server took it up.
    pub accepted_at: Option<WallTime>,
    /// What became of it; `None` while it is pending.
    pub outcome: Option<Outcome>,
    /// Registers that hold several values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// Paths whose value has a type this version does not expect; read as absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub malformed: Vec<String>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub state: OutcomeState,
    /// A stable word for why, unless it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether the same command may end otherwise at another time.
    #[serde(default)]
    pub retryable: bool,
    /// When it ended; written as the time of the edit.
    pub at: Option<WallTime>,
    /// What it yielded, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub result: BTreeMap<String, String>,
}

impl Outcome {
    /// It was done, and yielded this.
    pub fn done(result: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let result = result.into_iter();
        Self {
            state: OutcomeState::Done,
            code: None,
            message: None,
            retryable: false,
            at: None,
            result: result
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    /// It is not possible.
    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self {
            state: OutcomeState::Refused,
            code: Some(code.to_owned()),
            message: Some(message.into()),
            ..Self::done([])
        }
    }

    /// It was tried.
    pub fn failed(code: &str, message: impl Into<String>, retryable: bool) -> Self {
        Self {
            state: OutcomeState::Failed,
            retryable,
            ..Self::refused(code, message)
        }
    }

    /// Its author wanted it no more before it was taken up.
    pub fn cancelled() -> Self {
        Self {
            state: OutcomeState::Cancelled,
            ..Self::done([])
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeState {
    /// It was done.
    Done,
    /// It is not possible, and nothing was done.
    Refused,
    /// It was tried, and did not succeed.
    Failed,
    /// It was cancelled before it was taken up.
    Cancelled,
}

impl OutcomeState {
    /// The state's name in documents and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A word that names none of the states there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a state that this version knows")]
pub struct ParseStateError;

impl FromStr for OutcomeState {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Done, Self::Refused, Self::Failed, Self::Cancelled];
        let found = all.into_iter().find(|state| state.as_str() == text);
        found.ok_or(ParseStateError)
    }
}

impl fmt::Display for OutcomeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a new command says.
#[derive(Clone, Debug)]
pub struct CommandDraft {
    /// What is asked.
    pub name: String,
    /// With what.
    pub arguments: BTreeMap<String, String>,
    /// By whom.
    pub issued_by: Author,
    /// The command that this one is another attempt at.
    pub replaces: Option<DocumentId>,
}

impl Document {
    /// Reads a command document.
    pub fn command(&self) -> Result<Command, ReadError> {
        self.read(COMMAND, read)
    }
}

impl Editor {
    /// The operations on a command document.
    pub fn command(&mut self) -> Result<CommandEditor<'_>, ModelError> {
        self.expect_kind(COMMAND)?;
        Ok(CommandEditor { editor: self })
    }
}

/// The operations on a command document.
pub struct CommandEditor<'a> {
    editor: &'a mut Editor,
}

impl CommandEditor<'_> {
    /// Says what is asked. Issuing what the document asks already changes nothing; anything else than
    /// that is [`ModelError::Exists`].
    pub fn issue(&mut self, draft: &CommandDraft) -> Result<(), ModelError> {
        Editor::check_name("command", &draft.name)?;
        check_count(&draft.arguments)?;
        if let Some(name) = self.editor.string_at(&ROOT, "name")? {
            let arguments = self.editor.strings_at(ARGUMENTS)?;
            if name == draft.name && arguments == draft.arguments {
                return Ok(());
            }
            return Err(ModelError::Exists {
                what: "other command of this id, a",
                id: name,
            });
        }
        let now = self.editor.now().as_millis();
        self.editor.put(&ROOT, "name", draft.name.as_str())?;
        self.editor.put(&ROOT, "issued_at", now)?;
        let Author { member, device } = draft.issued_by;
        self.editor.put(&ROOT, "member", member.to_string())?;
        self.editor.put(&ROOT, "device", device.to_string())?;
        if let Some(replaces) = draft.replaces {
            self.editor.put(&ROOT, "replaces", replaces.to_string())?;
        }
        for (name, value) in &draft.arguments {
            Editor::check_name("argument", name)?;
            Editor::check_string("argument", value)?;
            self.editor.put(&ARGUMENTS.id(), name, value.as_str())?;
        }
        Ok(())
    }

    /// Says that it is wanted no more. Nothing changes once it has an outcome.
    pub fn cancel(&mut self) -> Result<(), ModelError> {
        if self.has_outcome()? {
            return Ok(());
        }
        self.editor.put(&ROOT, "cancel", true)
    }

    /// Says that the server took it up, now. Doing so again changes nothing.
    pub fn accept(&mut self) -> Result<(), ModelError> {
        if self.editor.reader().get(ROOT, "accepted_at")?.is_some() {
            return Ok(());
        }
        let now = self.editor.now().as_millis();
        self.editor.put(&ROOT, "accepted_at", now)
    }

    /// Says what became of it, now. A command has one outcome: another is [`ModelError::Exists`].
    pub fn finish(&mut self, outcome: &Outcome) -> Result<(), ModelError> {
        if self.has_outcome()? {
            return Err(ModelError::Exists {
                what: "outcome",
                id: outcome.state.to_string(),
            });
        }
        check_count(&outcome.result)?;
        Editor::check_string("code", outcome.code.as_deref().unwrap_or_default())?;
        Editor::check_string("message", outcome.message.as_deref().unwrap_or_default())?;
        for (name, value) in &outcome.result {
            Editor::check_name("result", name)?;
            Editor::check_string("result", value)?;
            self.editor.put(&RESULT.id(), name, value.as_str())?;
        }
        let at = self.editor.now().as_millis();
        let registers = [
            ("state", Some(outcome.state.as_str().into())),
            ("code", outcome.code.as_deref().map(Into::into)),
            ("message", outcome.message.as_deref().map(Into::into)),
            ("retryable", Some(outcome.retryable.into())),
            ("at", Some(at.into())),
        ];
        self.editor.put_record(&ROOT, "outcome", registers)
    }

    /// Whether its author wants it no more, as far as that is here.
    pub fn is_cancelled(&self) -> Result<bool, ModelError> {
        let found = self.editor.reader().get(ROOT, "cancel")?;
        Ok(found.is_some_and(|(value, _)| value.as_bool() == Some(true)))
    }

    /// Whether the server took it up.
    pub fn is_accepted(&self) -> Result<bool, ModelError> {
        Ok(self.editor.reader().get(ROOT, "accepted_at")?.is_some())
    }

    /// Whether it has ended.
    pub fn has_outcome(&self) -> Result<bool, ModelError> {
        let found = self.editor.reader().get(ROOT, "outcome")?;
        Ok(found.is_some_and(|(value, _)| value.is_object()))
    }
}

fn check_count(map: &BTreeMap<String, String>) -> Result<(), ModelError> {
    if map.len() > ARGUMENTS_MAX {
        return Err(ModelError::TooMany {
            what: "arguments",
            max: ARGUMENTS_MAX,
        });
    }
    Ok(())
}

fn read(view: &mut View<'_>) -> Command {
    let mut root = view.root();
    let mut command = Command {
        name: view.string(&mut root, "name", "").unwrap_or_default(),
        arguments: view.strings(ARGUMENTS),
        issued_at: view.time(&mut root, "issued_at", ""),
        issued_by: view.author(&mut root, "member", "device"),
        replaces: view.parsed(&mut root, "replaces", ""),
        cancel: view.boolean(&mut root, "cancel", "").unwrap_or(false),
        accepted_at: view.time(&mut root, "accepted_at", ""),
        ..Command::default()
    };
    if let Some(mut fields) = view.fields_of(root.remove("outcome"), "outcome") {
        // One without a readable state says nothing; the command reads as pending.
        let state = view.parsed(&mut fields, "state", "outcome");
        command.outcome = state.map(|state| Outcome {
            state,
            code: view.string(&mut fields, "code", "outcome"),
            message: view.string(&mut fields, "message", "outcome"),
            retryable: view
                .boolean(&mut fields, "retryable", "outcome")
                .unwrap_or(false),
            at: view.time(&mut fields, "at", "outcome"),
            result: view.strings(RESULT),
        });
    }
    (command.conflicts, command.malformed) = view.finish();
    command
}

#[cfg(test)]
mod tests;
