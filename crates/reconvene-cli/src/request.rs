//! What can be asked of an open store, as a value: the same whether this process has it open or
//! another one does.
//!
//! Requests cross the control socket between processes of one release; `control` says which version.

use std::path::PathBuf;
use std::sync::Arc;

use reconvene::State;
use serde::{Deserialize, Serialize};

/// One command on an open store. `Debug` is only for tests: requests hold titles, notes and tickets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Make a shared workspace.
    WorkspaceAdd {
        /// Its name.
        name: String,
    },
    /// List the workspaces.
    WorkspaceList,
    /// Make a workspace the current one.
    WorkspaceUse {
        /// Its id or name.
        workspace: String,
    },
    /// Make a ticket for the current workspace.
    Invite {
        /// Whose device it is for; else a new member's.
        member: Option<String>,
        /// How long it can be used.
        expires_ms: u64,
    },
    /// Redeem a ticket.
    Join {
        /// The ticket.
        ticket: String,
    },
    /// Make a project.
    ProjectAdd {
        /// Its name.
        name: String,
    },
    /// List the projects.
    ProjectList,
    /// Make a project the active one.
    ProjectActivate {
        /// Its id or name.
        project: String,
    },
    /// Make a meeting.
    MeetingAdd {
        /// Its title.
        title: String,
        /// Its project's id or name; else one is chosen by rule.
        project: Option<String>,
    },
    /// List a page of meetings.
    MeetingList {
        /// How many.
        limit: usize,
        /// After which.
        after: Option<String>,
    },
    /// Show a meeting with its transcript.
    MeetingShow {
        /// Its id.
        id: String,
    },
    /// Change a meeting.
    MeetingEdit {
        /// Its id.
        id: String,
        /// What to change.
        changes: MeetingChanges,
    },
    /// Import files of the QMSum corpus.
    ImportQmsum {
        /// The files.
        files: Vec<ImportFile>,
    },
    /// One pass of synchronisation.
    Sync {
        /// How long to go on while nothing moves.
        timeout_ms: u64,
    },
    /// What the store holds.
    Status,
    /// Read everything, and say what is damaged.
    Verify,
    /// A workspace as canonical JSON text.
    Export {
        /// Its id or name; else the current one.
        workspace: Option<String>,
    },
}

impl Request {
    /// The request's name, for logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::WorkspaceAdd { .. } => "workspace_add",
            Self::WorkspaceList => "workspace_list",
            Self::WorkspaceUse { .. } => "workspace_use",
            Self::Invite { .. } => "invite",
            Self::Join { .. } => "join",
            Self::ProjectAdd { .. } => "project_add",
            Self::ProjectList => "project_list",
            Self::ProjectActivate { .. } => "project_activate",
            Self::MeetingAdd { .. } => "meeting_add",
            Self::MeetingList { .. } => "meeting_list",
            Self::MeetingShow { .. } => "meeting_show",
            Self::MeetingEdit { .. } => "meeting_edit",
            Self::ImportQmsum { .. } => "import_qmsum",
            Self::Sync { .. } => "sync",
            Self::Status => "status",
            Self::Verify => "verify",
            Self::Export { .. } => "export",
        }
    }

    /// What is being done while it is carried out, for people.
    pub(crate) fn doing(&self) -> &'static str {
        match self {
            Self::Join { .. } => "joining",
            Self::ImportQmsum { .. } => "importing",
            Self::Sync { .. } => "syncing",
            Self::Verify => "verifying",
            Self::Export { .. } => "exporting",
            _ => "working",
        }
    }
}

/// What to change of a meeting, all in one edit.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct MeetingChanges {
    /// A new title.
    pub title: Option<String>,
    /// A line to add to the notes.
    pub append_note: Option<String>,
    /// A state it has reached.
    pub state: Option<State>,
    /// Tags to add and to take away, in this order.
    pub tags: Vec<TagEdit>,
}

/// One change of a meeting's tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TagEdit {
    /// Add it.
    Add(String),
    /// Take it away.
    Remove(String),
}

/// A file to import.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct ImportFile {
    /// The file as it was named, for messages.
    pub given: String,
    /// Where it is, absolute: the process that reads it may stand elsewhere.
    pub path: PathBuf,
}

/// How far a long command has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// What is being done.
    pub what: String,
    /// How much of it is done.
    pub done: u64,
    /// How much there is, where that is known.
    pub total: Option<u64>,
}

/// Takes progress as it is made; must not block.
pub(crate) type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;
