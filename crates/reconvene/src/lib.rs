//! The crate apps embed: a local-first, durable, always-writable copy of a member's workspaces that
//! merges with every other copy.
//!
//! A [`Replica`] is opened on a directory and runs on the host's tokio runtime. Reads and edits are
//! local; an edit resolves when it would survive the loss of everything but its journal. Where a
//! server was joined, [`Replica::sync`] makes one pass with it and [`Replica::connect`] keeps in
//! touch. [`Replica::close`] ends it all in order.
//!
//! ```
//! # async fn example(dir: &std::path::Path) -> Result<(), reconvene::Error> {
//! use reconvene::{ListOptions, NewMeeting, Replica};
//!
//! let replica = Replica::open(dir).await?;
//! let added = replica.meetings().add(NewMeeting::titled("Weekly planning")).await?;
//! replica
//!     .meetings()
//!     .edit(added.meeting.id, |meeting| meeting.append_note("Bring the figures.\n"))
//!     .await?;
//!
//! let page = replica.meetings().list(ListOptions::default()).await?;
//! assert_eq!(page.meetings[0].title, "Weekly planning");
//! replica.close().await?;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! #     let dir = tempfile::tempdir().unwrap();
//! #     example(dir.path()).await.unwrap();
//! # });
//! ```

mod error;
mod options;
mod replica;

mod archive;
mod deletion;
mod feed_watch;
mod filter;
mod joining;
mod leaving;
mod markdown;
mod meetings;
mod projects;
mod query;
mod recording;
mod sync;
mod workspaces;

mod commands;
mod delivery;
mod inbox;
mod integrations;
mod outstanding;
mod runs;
mod serving;

mod events;
mod freshness;
mod status;

mod compaction;
mod documents;
mod driver;
mod findings;
mod indexer;
mod news;
mod pace;
mod purging;
mod records;
mod repair;
mod rows;
mod subscriptions;
mod together;
mod verify;

pub mod limits;
#[doc(hidden)]
pub mod mutants;

mod clock;
mod enrolled;
mod kept;
mod profile;

pub use archive::{
    ArchiveOptions, ArchiveProgress, ArchiveReport, IncompleteDocument, LostStretch,
    OnArchiveProgress, RefusedRestore, RestoreOptions, RestoreReport,
};
pub use clock::ManualClock;
pub use commands::{CommandFilter, Commands};
pub use compaction::{CompactReport, HeldDocument};
pub use delivery::{
    Debt, Delivery, HeldBy, Holder, PeerPending, Pending, PendingWatch, WorkspacePending, Write,
};
pub use documents::{ApplyStats, OpenDocuments};
pub use error::Error;
pub use events::{Events, ReplicaEvent};
pub use feed_watch::{ChangedDocument, ChangedDocuments, ChangedKind, FeedCursor, FeedWatch};
pub use filter::MeetingFilter;
pub use freshness::{AtLeast, Freshness, FreshnessState, StaleReason};
pub use inbox::conflicts::{Choice, ShownConflict, ShownValue, ValueOrigin};
pub use inbox::{EntryFilter, Inbox, Retried, entries};
pub use integrations::{IntegrationChanges, Integrations, NewIntegration};
pub use joining::{JoinOptions, JoinReport};
pub use leaving::{LeaveOptions, LeaveReport};
pub use meetings::{
    AddedMeeting, LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, ListOptions, MeetingPage, MeetingView,
    Meetings, NewMeeting, PageView,
};
pub use options::OpenOptions;
pub use outstanding::Outstanding;
pub use profile::Role;
pub use projects::Projects;
pub use purging::PurgeReport;
pub use query::{MeetingQuery, MeetingSubscription, QueryBatch, Subscription};
pub use recording::AppendReport;
pub use records::{RecordUse, RecordUses};
pub use repair::RepairReport;
pub use replica::{DeviceInfo, Replica};
pub use runs::{NotFoundReason, RunStanding, RunStatus, RunWatch, Runs};
pub use serving::{ChangedMeetings, Changes, Due, DueFeed, Serving, Taken};
pub use status::{
    DAMAGED_MAX, DamagedDocument, DialStatus, DiskUse, FeedStatus, IndexStatus, LinkStatus,
    OffenceStatus, PeerStatus, StallStatus, Status, Traffic, WorkspaceStatus,
};
pub use sync::{OnProgress, SyncOptions, SyncProgress, SyncReport};
pub use verify::{DAMAGES_MAX, Damage, OnVerifyProgress, VerifyProgress, VerifyReport};
pub use workspaces::{Invitation, InviteOptions, TICKET_LIFE_MAX, WorkspaceInfo};

pub use reconvene_core::ids::{ChangeHash, DocumentId, MemberId, PeerId, WorkspaceId};
pub use reconvene_core::refusal::RefusalCode;
pub use reconvene_core::ticket::Ticket;
pub use reconvene_core::time::WallTime;
pub use reconvene_model::captions;
pub use reconvene_model::import::ImportedMeeting;
pub use reconvene_model::index::{CommandRow, EntryRow, IntegrationRow, MeetingRow, ProjectRow};
pub use reconvene_model::integration::IntegrationEditor;
pub use reconvene_model::meeting::MeetingEditor;
pub use reconvene_model::qmsum;
pub use reconvene_model::transcript::{Timebase, TranscriptEditor};
pub use reconvene_model::{
    Ask, AskError, Author, Command, Entry, EntryDraft, Integration, IntegrationState, Meeting,
    ModelError, Outcome, OutcomeState, Problem, ProjectId, Resolution, Resolved, Run, RunDraft,
    RunEnd, RunId, RunState, Segment, Settings, State, Subject, TranscriptPage, Validation,
    derive_document_id,
};

#[cfg(test)]
mod tests;
