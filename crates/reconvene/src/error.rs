//! What can go wrong for the embedding app, with stable codes.

use std::path::PathBuf;

use reconvene_core::archive::ArchiveError;
use reconvene_core::engine::{EditError, PurgeError, RestoreError};
use reconvene_core::ids::{DocumentId, ParseIdError};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::StoreError;
use reconvene_core::ticket::TicketError;
use reconvene_core::time::WallTime;
use reconvene_libp2p::{AddressError, IdentityError, NetworkError};
use reconvene_model::resolve::ResolveError;
use reconvene_model::{MaterialiseError, ModelError, ReadError};
use reconvene_sled::OpenError;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

/// A failed operation of a replica.
///
/// Serialises as `{"code", "message", "hint"}`; the code is stable, the texts are for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory holds no replica yet.
    #[error("{} holds no replica yet", .0.display())]
    NotInitialised(PathBuf),
    /// The directory holds a replica already.
    #[error("{} holds a replica already", .0.display())]
    AlreadyInitialised(PathBuf),
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The device's identity could not be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file that says what this device is part of, or a server whom it enrolled, could not be read or
    /// written.
    #[error("the file {}: {what}", .path.display())]
    Profile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Something with this id or name does not exist here.
    #[error("there is no {what} `{id}` here")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// A text is not the id it should be.
    #[error(transparent)]
    BadId(#[from] ParseIdError),
    /// A text is not a ticket.
    #[error(transparent)]
    BadTicket(#[from] TicketError),
    /// A text is not an address.
    #[error(transparent)]
    BadAddress(#[from] AddressError),
    /// An argument is out of its range.
    #[error("{0}")]
    BadInput(String),
    /// Another peer refused.
    #[error("{message}")]
    Refused {
        /// Its code.
        code: RefusalCode,
        /// The same for people.
        message: String,
    },
    /// A peer could not be reached.
    #[error("the server could not be reached: {0}")]
    Unreachable(String),
    /// Nothing moved for the time given.
    #[error("nothing moved for {seconds} s: {why}")]
    Timeout {
        /// The time-out.
        seconds: u64,
        /// What was the last thing known.
        why: String,
    },
    /// As many commands of the member wait for the server as may.
    #[error("{max} commands wait for the server already")]
    TooManyCommands {
        /// How many may.
        max: usize,
    },
    /// This device has not joined any server.
    #[error("this device has not joined a server yet")]
    NoServer,
    /// The server no longer shares workspaces this device has from it.
    #[error("the server does not share {} workspace(s) with this device any more", .0.len())]
    NotShared(Vec<reconvene_core::ids::WorkspaceId>),
    /// Another device was named that shares no workspace with this one, as far as this one was told.
    #[error("{0} shares no workspace with this device, as far as this device was told")]
    Stranger(reconvene_core::ids::PeerId),
    /// More workspaces are shared with one peer than a link carries.
    #[error(
        "more than {} workspaces are shared with {peer}",
        reconvene_core::limits::LINK_WORKSPACES_MAX
    )]
    TooManyWorkspaces {
        /// The peer.
        peer: reconvene_core::ids::PeerId,
    },
    /// A workspace has edits that no other peer holds.
    #[error("{changes} change(s) of this device in that workspace are held by nobody else")]
    NotHeldElsewhere {
        /// How many changes.
        changes: u64,
    },
    /// The meeting is deleted.
    #[error("meeting {id} is deleted; restore it to go on with it")]
    MeetingDeleted {
        /// The meeting.
        id: DocumentId,
    },
    /// The meeting is not as it was seen.
    #[error("meeting {id} changed since it was seen; look at it again")]
    MeetingChanged {
        /// The meeting.
        id: DocumentId,
    },
    /// A cursor is of a history that this store does not have, or is not known to be of this one.
    #[error(
        "what changed since that cursor can not be told: it is of another history of the store"
    )]
    OtherHistory,
    /// Trying the same again cannot help.
    #[error("what entry {id} is about would end the same: amend it, or discard the entry")]
    NotRetryable {
        /// The entry.
        id: DocumentId,
    },
    /// Projects still hold meetings.
    #[error(
        "{meetings} meeting(s) are filed under the project; file them elsewhere, or archive it"
    )]
    ProjectInUse {
        /// How many.
        meetings: usize,
    },
    /// A project was named that does not exist or is ambiguous.
    #[error(transparent)]
    Project(#[from] ResolveError),
    /// A file that would be written is there already.
    #[error("there is a file {} already", .0.display())]
    FileExists(PathBuf),
    /// An archive is not what it should be.
    #[error("the archive {}: {source}", .path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// Documents of an archive were not taken.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The edit was refused by the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The document cannot be edited by this version.
    #[error("the document needs a newer version to be edited (schema {min_reader})")]
    DocumentTooNew {
        /// The oldest schema version that may edit it.
        min_reader: u64,
    },
    /// The document was purged: nothing of it is kept.
    #[error("document {id} was deleted, and nothing of it is kept")]
    DocumentDeleted {
        /// The document.
        id: reconvene_core::ids::DocumentId,
        /// When.
        at: WallTime,
    },
    /// Documents were not purged.
    #[error(transparent)]
    Purge(#[from] PurgeError),
    /// The edit was refused by the engine or the store.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// A document could not be built from its stored changes.
    #[error("document {id} cannot be loaded")]
    Document {
        /// The document.
        id: reconvene_core::ids::DocumentId,
        /// Why.
        source: Box<MaterialiseError>,
    },
    /// A document could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The network could not be started or used.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The address could not be listened on.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        why: String,
    },
    /// The operating system failed something.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The replica was closed.
    #[error("the replica is closed")]
    Closed,
    /// The app's own code panicked inside an edit; nothing was stored.
    #[error("the edit panicked: {0}")]
    EditPanicked(String),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotInitialised(_) => "not_initialised",
            Self::AlreadyInitialised(_) => "already_initialised",
            Self::Open(error) => match error {
                OpenError::Locked { .. } => "store_locked",
                OpenError::NewerVersion { .. } => "newer_version",
                OpenError::NotAStore { .. } => "not_a_store",
                OpenError::Permission { .. } => "permission",
                OpenError::NoSpace { .. } => "no_space",
                _ => "store_damaged",
            },
            Self::Identity(_) => "identity",
            Self::Profile { .. } => "profile",
            Self::NotFound { .. } => "not_found",
            Self::BadId(_) => "bad_id",
            Self::BadTicket(_) => "bad_ticket",
            Self::BadAddress(_) => "bad_address",
            Self::BadInput(_) => "bad_input",
            Self::Refused { code, .. } => match code {
                RefusalCode::NotEnrolled => "not_enrolled",
                RefusalCode::IncompatibleProtocol => "incompatible_protocol",
                RefusalCode::TicketUnknown => "ticket_unknown",
                RefusalCode::TicketExpired => "ticket_expired",
                RefusalCode::TicketUsed => "ticket_used",
                RefusalCode::Unavailable => "unavailable",
                RefusalCode::TooManyWorkspaces => "too_many_workspaces",
                _ => "refused",
            },
            Self::Unreachable(_) => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::NoServer => "no_server",
            Self::NotShared(_) => "not_shared",
            Self::Stranger(_) => "not_enrolled",
            Self::TooManyWorkspaces { .. } => "too_many_workspaces",
            Self::TooManyCommands { .. } => "too_many_commands",
            Self::NotHeldElsewhere { .. } => "not_held_elsewhere",
            Self::MeetingDeleted { .. } => "meeting_deleted",
            Self::MeetingChanged { .. } => "meeting_changed",
            Self::OtherHistory => "other_history",
            Self::NotRetryable { .. } => "not_retryable",
            Self::ProjectInUse { .. } => "project_in_use",
            Self::Project(ResolveError::AmbiguousName { .. }) => "ambiguous_project",
            Self::Project(ResolveError::Deleted { .. }) => "project_deleted",
            Self::Project(ResolveError::Archived { .. }) => "project_archived",
            Self::Project(_) => "unknown_project",
            Self::Model(_) | Self::EditPanicked(_) => "edit_refused",
            Self::DocumentTooNew { .. } => "document_too_new",
            Self::DocumentDeleted { .. }
            | Self::Edit(EditError::Stale {
                code: RefusalCode::DocumentDeleted,
            }) => "document_deleted",
            Self::Edit(EditError::TooLarge { .. }) => "too_large",
            Self::Edit(EditError::Busy) | Self::Purge(PurgeError::Owed { .. }) => "busy",
            Self::Purge(PurgeError::TooMany { .. }) => "bad_input",
            Self::Edit(EditError::Store(error) | EditError::Unknown(error))
            | Self::Purge(PurgeError::Store(error))
            | Self::Restore(RestoreError::Store(error))
            | Self::Store(error) => match error {
                StoreError::NoSpace | StoreError::LowSpace { .. } => "no_space",
                StoreError::Damaged { .. } => "store_damaged",
                StoreError::Closed => "closed",
                _ => "store_failed",
            },
            Self::Edit(_) | Self::Purge(_) | Self::Restore(_) => "edit_refused",
            Self::FileExists(_) => "file_exists",
            Self::Archive { source, .. } => match source {
                ArchiveError::NotAnArchive => "not_an_archive",
                ArchiveError::TooNew { .. } => "newer_version",
                ArchiveError::TooLarge { .. } => "too_large",
                _ => "archive_damaged",
            },
            Self::Document { .. } | Self::Read(_) => "document_damaged",
            Self::Network(_) | Self::Listen { .. } => "network",
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "no_space"
            }
            Self::Io { .. } => "io",
            Self::Closed => "closed",
        }
    }

    /// What to do next, where something can be done.
    pub fn hint(&self) -> Option<&'static str> {
        if let Self::Stranger(_) = self {
            return Some(
                "sync once with the server that both devices joined, so that it tells them of each other",
            );
        }
        Some(match self.code() {
            "not_initialised" => {
                "run `reconvene init`, or `reconvene join TICKET` with a ticket from a server"
            }
            "already_initialised" => "use it as it is, or choose another directory with --data",
            "store_locked" => "close the other program that uses this directory, or talk to it",
            "newer_version" => "use the version of reconvene that wrote it, or a later one",
            "not_a_store" => "choose an empty or new directory with --data",
            "permission" => {
                "make the directory yours and writable (its disk may be mounted read-only), or choose \
                 another one with --data"
            }
            "no_space" => "free some space on the disk; nothing that was stored is lost",
            "bad_ticket" => {
                "copy the whole ticket again, or ask for a new one (`reconvene invite`)"
            }
            "ticket_unknown" | "ticket_expired" | "ticket_used" => {
                "ask for a new ticket on the server (`reconvene invite`)"
            }
            "not_enrolled" => {
                "join with a ticket from that server (`reconvene invite` there, `reconvene join` here)"
            }
            "incompatible_protocol" => "update reconvene on the side with the older version",
            "unreachable" | "timeout" => {
                "check that the server runs and can be reached; local work goes on meanwhile"
            }
            "no_server" => "run `reconvene join TICKET` with a ticket from a server",
            "not_shared" => "ask whoever runs the server to invite this device again",
            "too_many_commands" => {
                "sync, so that the server carries them out, or cancel some (`reconvene commands list`)"
            }
            "too_many_workspaces" => "leave a workspace first (`reconvene workspace leave`)",
            "not_held_elsewhere" => "sync first, or say --discard to leave all the same",
            "unknown_project" => {
                "see `reconvene project list`, or add it with `reconvene project add`"
            }
            "ambiguous_project" => "name the project by its id (`reconvene project list`)",
            "not_found" => {
                "see the list for what there is (`meeting list`, `project list`, `workspace list`)"
            }
            "file_exists" => "choose another name, or say --overwrite",
            "archive_damaged" => {
                "use another copy of it, or restore what still reads with --partial"
            }
            "other_history" => "list anew, and go on from the cursor of a new watch",
            "bad_id" => "copy the id from a list",
            _ => return None,
        })
    }
}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Error", 3)?;
        out.serialize_field("code", self.code())?;
        out.serialize_field("message", &self.full_message())?;
        out.serialize_field("hint", &self.hint())?;
        out.end()
    }
}

impl Error {
    /// The message with its causes, on one line.
    pub fn full_message(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }
}
