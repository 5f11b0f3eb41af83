//! What can be asked of an open store, as a value: the same whether this process has it open or
//! another one does.
//!
//! Requests cross the control socket between processes of one release; `control` says which version.

use std::path::PathBuf;
use std::sync::Arc;

use reconvene::{MeetingFilter, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use outbox::{CommandsRequest, InboxRequest, IntegrationsRequest, Issue, RunsRequest};

pub(crate) mod outbox;

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
    /// Leave a workspace.
    WorkspaceLeave {
        /// Its id or name.
        workspace: String,
        /// Although there are edits that nobody else holds.
        discard: bool,
        /// And remove its documents.
        remove: bool,
    },
    /// Carry out a request on another workspace than the current one.
    In {
        /// Its id or name.
        workspace: String,
        /// The request.
        request: Box<Request>,
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
        /// Whether what was made before moves into the workspace.
        adopt: bool,
    },
    /// Make a project.
    ProjectAdd {
        /// Its name.
        name: String,
    },
    /// List the projects.
    ProjectList {
        /// Whether also those that were deleted.
        all: bool,
    },
    /// Rename a project.
    ProjectRename {
        /// Its id or name.
        project: String,
        /// The new name.
        name: String,
    },
    /// Take a project out of use, or back into it.
    ProjectArchive {
        /// Its id or name.
        project: String,
        /// Out of use.
        archived: bool,
    },
    /// Delete a project that holds no meetings.
    ProjectDelete {
        /// Its id or name.
        project: String,
    },
    /// Bring a deleted project back.
    ProjectRestore {
        /// Its id or name.
        project: String,
    },
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
        /// Which.
        wanted: Wanted,
    },
    /// All meetings, and what changes about them: a stream.
    MeetingWatch {
        /// Which.
        wanted: Wanted,
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
    /// Delete a meeting.
    MeetingDelete {
        /// Its id.
        id: String,
        /// Only if it still is this version.
        seen: Option<String>,
    },
    /// Bring a deleted meeting back.
    MeetingRestore {
        /// Its id.
        id: String,
    },
    /// Have the recording of a meeting stop, on whatever device it runs.
    MeetingStop {
        /// Its id.
        id: String,
        /// How it is issued.
        issue: Issue,
    },
    /// About commands.
    Commands(CommandsRequest),
    /// About the inbox.
    Inbox(InboxRequest),
    /// About integrations.
    Integrations(IntegrationsRequest),
    /// About sync runs.
    Runs(RunsRequest),
    /// Import files, each a meeting.
    Import {
        /// What they are.
        format: ImportFormat,
        /// The files.
        files: Vec<ImportFile>,
    },
    /// One pass of synchronisation.
    Sync {
        /// How long to go on while nothing moves.
        timeout_ms: u64,
        /// Addresses of the devices to sync with; none: the servers.
        with: Vec<String>,
    },
    /// Keep links to the servers and to other devices, let those in where it is asked to listen, and
    /// tell what happens: a stream.
    SyncWatch {
        /// Addresses of other devices.
        with: Vec<String>,
        /// Where to listen.
        listen: Vec<String>,
    },
    /// What happens: a stream.
    Events,
    /// Compact every document worth it.
    Compact,
    /// Let go for good of what was deleted.
    Purge {
        /// At least so long ago.
        deleted_for_ms: u64,
    },
    /// What the store holds.
    Status {
        /// Whether to count its records.
        records: bool,
        /// Only those of this document.
        document: Option<String>,
    },
    /// The same without records, again whenever links, freshness or what is to be delivered change: a
    /// stream.
    StatusWatch,
    /// Write an archive.
    ArchiveCreate {
        /// The file, absolute: the process that writes it may stand elsewhere.
        file: PathBuf,
        /// With what makes the store this device.
        with_identity: bool,
        /// Also where there is such a file.
        overwrite: bool,
    },
    /// Take in what an archive has.
    ArchiveRestore {
        /// The file, absolute.
        file: PathBuf,
        /// As far as it still reads.
        partial: bool,
    },
    /// Read everything, and say what is damaged.
    Verify,
    /// A workspace as canonical JSON text.
    Export {
        /// Its id or name; else the current one.
        workspace: Option<String>,
    },
    /// Meetings as Markdown text.
    ExportMarkdown {
        /// Only this one.
        meeting: Option<String>,
    },
}

impl Request {
    /// What `status` asks without options.
    #[cfg(test)]
    pub(crate) fn status() -> Self {
        Self::Status {
            records: false,
            document: None,
        }
    }

    /// The request's name, for logs. What it holds stays out of it.
    pub(crate) fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(Value::String(name)) => name,
            Ok(Value::Object(named)) => named.into_iter().map(|(name, _)| name).collect(),
            _ => "unknown".to_owned(),
        }
    }

    /// Whether it goes on until its caller has had enough, and tells items rather than an answer.
    pub(crate) fn is_stream(&self) -> bool {
        match self {
            Self::MeetingWatch { .. }
            | Self::SyncWatch { .. }
            | Self::StatusWatch
            | Self::Events => true,
            Self::Commands(CommandsRequest::Watch { .. })
            | Self::Inbox(InboxRequest::Watch { .. })
            | Self::Integrations(IntegrationsRequest::Watch)
            | Self::Runs(RunsRequest::Watch { .. }) => true,
            Self::In { request, .. } => request.is_stream(),
            _ => false,
        }
    }

    /// Whether it is only worth its while for a caller that waits; otherwise it is carried through
    /// also when the caller hangs up.
    pub(crate) fn ends_with_caller(&self) -> bool {
        self.is_stream()
            || matches!(
                self,
                Self::Sync { .. }
                    | Self::Runs(RunsRequest::Show { .. })
                    | Self::Commands(CommandsRequest::Show { .. })
            )
    }

    /// What is being done while it is carried out, for people.
    pub(crate) fn doing(&self) -> &'static str {
        match self {
            Self::Join { .. } => "joining",
            Self::Import { .. } => "importing",
            Self::Sync { .. } => "syncing",
            Self::Verify => "verifying",
            Self::ArchiveCreate { .. } => "archiving",
            Self::ArchiveRestore { .. } => "restoring",
            Self::Export { .. } | Self::ExportMarkdown { .. } => "exporting",
            Self::Compact => "compacting",
            Self::Purge { .. } => "purging",
            Self::Status { records: true, .. } => "counting",
            Self::In { request, .. } => request.doing(),
            _ => "working",
        }
    }
}

/// Which meetings are wanted.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Debug))]
pub(crate) struct Wanted {
    /// The project's id or name; which one that is, the store knows.
    pub project: Option<String>,
    /// Everything else.
    pub filter: MeetingFilter,
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

/// What a file to import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ImportFormat {
    /// A meeting of the QMSum corpus.
    Qmsum,
    /// Captions in WebVTT.
    Vtt,
    /// Captions in SubRip.
    Srt,
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

/// Most items of a stream that wait for their reader. Past it the stream waits, too.
pub(crate) const ITEMS_MAX: usize = 16;

/// Where a request tells what there is to tell before it ends.
#[derive(Clone)]
pub(crate) struct Sinks {
    /// How far it has come.
    pub progress: ProgressSink,
    /// The items of a stream.
    pub items: mpsc::Sender<Value>,
}

impl Sinks {
    /// For a request that is no stream.
    pub(crate) fn progress_only(progress: ProgressSink) -> Self {
        let (items, _) = mpsc::channel(1);
        Self { progress, items }
    }
}
