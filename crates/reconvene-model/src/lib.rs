//! Workspaces, projects, meetings and transcripts as typed views over Automerge documents.
//!
//! This crate says what a document means: the constant changes it starts from, how it is edited so
//! that concurrent edits merge into what people meant, how it is read, listed, exported and
//! imported. It is plain synchronous Rust: no clock, no entropy, no I/O. Time, ids and actors are
//! arguments. `schema/documents/v1.md` describes the shapes; `schema/golden/v1` freezes their bytes.
//!
//! It never trusts a shape: whatever a merged document holds, reading it neither panics nor guesses.
//! Every document that is built from stored changes is built, and counted, by [`materialise()`].

//!
//! ```
//! use reconvene_core::ids::{DocumentId, PeerId};
//! use reconvene_core::time::WallTime;
//! use reconvene_model::{
//!     Document, MEETING, MaterialiseCounter, ModelError, Purpose, derive_actor, materialise,
//! };
//!
//! let id = DocumentId::from_bytes([1; 16]);
//! let actor = derive_actor(&PeerId::from_bytes([2; 32]), &id, &[3; 16]);
//! let now = WallTime::from_millis(1_700_000_000_000);
//!
//! let mut document = Document::create(MEETING).expect("meetings are a known kind");
//! let ((), changes) = document.edit(&actor, now, |editor| {
//!     let mut meeting = editor.meeting()?;
//!     meeting.create("Weekly planning", None)?;
//!     meeting.add_tag("planning")?;
//!     Ok::<_, ModelError>(())
//! })?;
//!
//! // Elsewhere, from the changes alone:
//! let counter = MaterialiseCounter::new();
//! let chunks = changes.iter().map(|change| change.bytes.as_slice());
//! let copy = materialise(MEETING, chunks, Purpose::Read, &counter)?;
//! assert_eq!(copy.meeting()?, document.meeting()?);
//! assert_eq!(copy.heads(), document.heads());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

pub mod actor;
pub mod document;
pub mod edit;
pub mod genesis;
pub mod materialise;
pub mod snapshot;

pub mod meeting;
pub mod transcript;
pub mod workspace;

pub mod command;
pub mod entries;
pub mod entry;
pub mod integration;

pub mod ids;

mod compose;
mod conflict;
mod view;

pub mod captions;
pub mod export;
pub mod import;
pub mod index;
pub mod markdown;
pub mod qmsum;
pub mod resolve;

#[cfg(test)]
mod attack;
#[cfg(test)]
mod testing;

pub use actor::derive_actor;
pub use command::{Ask, AskError, Command, CommandDraft, Outcome, OutcomeState};
pub use document::{ApplyError, Document, EncodedChange, ReadError};
pub use edit::{EditError, Editor, ModelError};
pub use entry::{Entry, EntryDraft, Resolved, Subject};
pub use genesis::{
    COMMAND, ENTRY, Genesis, INTEGRATION, MEETING, TRANSCRIPT, WORKSPACE, WORKSPACE_DOCUMENT,
    genesis, roots,
};
pub use ids::{Author, derive_document_id};
pub use integration::{
    Integration, IntegrationDraft, IntegrationState, Problem, Run, RunDraft, RunEnd, RunId,
    RunState, Settings, Validation,
};
pub use materialise::{MaterialiseCounter, MaterialiseError, Purpose, materialise};
pub use meeting::{Meeting, State};
pub use resolve::{Resolution, resolve_project};
pub use transcript::{SEGMENTS_PER_PAGE_MAX, Segment, TranscriptPage};
pub use view::{Conflict, ConflictValue};
pub use workspace::{Project, ProjectId, Workspace};
