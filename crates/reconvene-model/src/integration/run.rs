//! Runs: how often an integration was brought together with what it is elsewhere, and how that went.

use std::fmt;
use std::str::FromStr;

use automerge::ReadDoc;
use reconvene_core::ids::DocumentId;
use reconvene_core::time::WallTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{IntegrationEditor, Problem, RUNS_MAX};
use crate::command::ParseStateError;
use crate::edit::{Editor, ModelError};
use crate::genesis::RUNS;
use crate::view::{Fields, View};

/// A run of an integration: 16 bytes, the first six of which are a time. The server that issued it
/// knows it again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId([u8; 16]);

/// A text that is not the id of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a run: expected 32 hexadecimal digits")]
pub struct ParseRunIdError;

impl RunId {
    /// Takes the 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RunId {
    type Err = ParseRunIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(number) if is_hex && text.len() == 32 => Ok(Self(number.to_be_bytes())),
            _ => Err(ParseRunIdError),
        }
    }
}

impl Serialize for RunId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where it stands.
    pub state: RunState,
    /// What started it: `manual`, `schedule` or whatever the command said.
    pub trigger: String,
    /// The command that asked for it.
    pub command: Option<DocumentId>,
    /// How many items are done.
    pub done: u64,
    /// How many there are, where that is known.
    pub total: Option<u64>,
    /// How many items were made or changed by it.
    pub items: u64,
    /// Whether somebody wants it to end.
    pub cancel: bool,
    /// What went wrong.
    pub error: Option<Problem>,
    /// When it began.
    pub started_at: Option<WallTime>,
    /// When it ended.
    pub finished_at: Option<WallTime>,
    /// Until when this is kept; `None` while it goes on.
    pub expires_at: Option<WallTime>,
}

impl Run {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.state.is_end()
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It goes on, or goes on as soon as the server is up.
    Running,
    /// It ended well.
    Succeeded,
    /// It ended, and something went wrong.
    Failed,
    /// It was ended because somebody wanted that.
    Cancelled,
}

impl RunState {
    /// The state's name in documents and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    const fn is_end(self) -> bool {
        !matches!(self, Self::Running)
    }
}

impl FromStr for RunState {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [
            Self::Running,
            Self::Succeeded,
            Self::Failed,
            Self::Cancelled,
        ];
        let found = all.into_iter().find(|state| state.as_str() == text);
        found.ok_or(ParseStateError)
    }
}

/// What a new run says.
#[derive(Clone, Debug)]
pub struct RunDraft {
    /// Its id.
    pub id: RunId,
    /// What started it.
    pub trigger: String,
    /// The command that asked for it.
    pub command: Option<DocumentId>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunEnd {
    /// In which way.
    pub state: RunState,
    /// What went wrong.
    pub error: Option<Problem>,
    /// For how long that is kept, in milliseconds.
    pub kept_ms: i64,
}

impl IntegrationEditor<'_> {
    /// Begins a run, now. There is one at a time: while another goes on this is
    /// [`ModelError::Exists`]. The oldest that ended make room.
    pub fn start_run(&mut self, draft: &RunDraft) -> Result<(), ModelError> {
        Editor::check_string("trigger", &draft.trigger)?;
        let runs = RUNS.id();
        let keys: Vec<_> = self.editor.reader().keys(&runs).collect();
        let mut ended = Vec::new();
        for key in keys {
            if self.run_goes_on(&key)? {
                return Err(ModelError::Exists {
                    what: "run going on,",
                    id: key,
                });
            }
            ended.push(key);
        }
        // Ids begin with a time, so the first are the oldest.
        let past = (ended.len() + 1).saturating_sub(RUNS_MAX);
        for key in ended.into_iter().take(past) {
            self.editor.remove(&runs, &key)?;
        }
        let now = self.editor.now().as_millis();
        let command = draft.command.map(|id| id.to_string().into());
        let registers = [
            ("state", Some(RunState::Running.as_str().into())),
            ("trigger", Some(draft.trigger.as_str().into())),
            ("command", command),
            ("started_at", Some(now.into())),
        ];
        self.editor
            .put_record(&runs, &draft.id.to_string(), registers)
    }

    /// Notes how far a run is, while it goes on.
    pub fn progress(
        &mut self,
        run: RunId,
        done: u64,
        total: Option<u64>,
        items: u64,
    ) -> Result<(), ModelError> {
        let record = self.running(run)?;
        self.editor.put(&record, "done", done)?;
        self.editor.put(&record, "items", items)?;
        match total {
            Some(total) => self.editor.put(&record, "total", total),
            None => Ok(()),
        }
    }

    /// Says that somebody wants a run to end. Nothing changes if it has.
    pub fn cancel_run(&mut self, run: RunId) -> Result<(), ModelError> {
        if !self.run_goes_on(&run.to_string())? {
            return Ok(());
        }
        let record = self.running(run)?;
        self.editor.put(&record, "cancel", true)
    }

    /// Ends a run, now. One that has ended stays as it is.
    pub fn end_run(&mut self, run: RunId, end: &RunEnd) -> Result<(), ModelError> {
        if !self.run_goes_on(&run.to_string())? {
            return Ok(());
        }
        let record = self.running(run)?;
        let now = self.editor.now().as_millis();
        self.editor.put(&record, "state", end.state.as_str())?;
        self.editor.put(&record, "finished_at", now)?;
        let expires_at = now.saturating_add(end.kept_ms);
        self.editor.put(&record, "expires_at", expires_at)?;
        if let Some(Problem { code, message }) = &end.error {
            Editor::check_string("code", code)?;
            Editor::check_string("message", message)?;
            self.editor.put(&record, "error_code", code.as_str())?;
            self.editor
                .put(&record, "error_message", message.as_str())?;
        }
        Ok(())
    }

    /// Removes a run that nobody is told of any more.
    pub fn forget_run(&mut self, run: RunId) -> Result<(), ModelError> {
        self.editor.remove(&RUNS.id(), &run.to_string())
    }

    fn running(&self, run: RunId) -> Result<automerge::ObjId, ModelError> {
        self.editor.record(RUNS, "run", &run.to_string())
    }

    fn run_goes_on(&self, key: &str) -> Result<bool, ModelError> {
        let Some((value, record)) = self.editor.reader().get(RUNS.id(), key)? else {
            return Ok(false);
        };
        if !value.is_object() {
            return Ok(false);
        }
        let state = self.editor.string_at(&record, "state")?;
        Ok(state.as_deref() == Some(RunState::Running.as_str()))
    }
}

/// Reads a run; `None` without a readable state.
pub(super) fn read(view: &mut View<'_>, mut fields: Fields, path: &str) -> Option<Run> {
    let fields = &mut fields;
    let state = view.parsed(fields, "state", path)?;
    let mut count = |view: &mut View<'_>, key| {
        let value = view.integer(fields, key, path)?;
        u64::try_from(value).ok()
    };
    let (done, total, items) = (
        count(view, "done").unwrap_or(0),
        count(view, "total"),
        count(view, "items").unwrap_or(0),
    );
    let code = view.string(fields, "error_code", path);
    let message = view.string(fields, "error_message", path);
    Some(Run {
        state,
        trigger: view.string(fields, "trigger", path).unwrap_or_default(),
        command: view.parsed(fields, "command", path),
        done,
        total,
        items,
        cancel: view.boolean(fields, "cancel", path).unwrap_or(false),
        error: code.map(|code| Problem {
            code,
            message: message.unwrap_or_default(),
        }),
        started_at: view.time(fields, "started_at", path),
        finished_at: view.time(fields, "finished_at", path),
        expires_at: view.time(fields, "expires_at", path),
    })
}
