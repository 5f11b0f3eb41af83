//! Building the documents of a meeting that was held elsewhere.
//!
//! The same input under the same ids gives the same changes, so an import that was interrupted can be
//! repeated. Nothing here knows a file format; see [`crate::qmsum`] and
//! [`crate::captions`].

use reconvene_core::ids::{DocumentId, DocumentKind, PeerId};
use reconvene_core::time::WallTime;

use crate::actor::derive_actor;
use crate::compose::Composer;
use crate::document::{Document, EncodedChange, ReadError};
use crate::edit::{EditError, ModelError};
use crate::genesis::{MEETING, TRANSCRIPT, genesis};
use crate::index::{IndexRow, index_row};
use crate::meeting::State;
use crate::transcript::{self, PageHeader, SEGMENTS_PER_PAGE_MAX, Segment, Timebase};
use crate::workspace::ProjectId;

/// A meeting as some file tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedMeeting {
    /// Its title.
    pub title: String,
    /// Where it comes from, such as `qmsum:ES2002a` or `vtt:planning`.
    pub source: String,
    /// Who took part, in the order in which they first speak. Names serve as ids.
    pub participants: Vec<String>,
    /// What the segments' starts and ends count.
    pub timebase: Timebase,
    /// What was said, in order.
    pub segments: Vec<Segment>,
    /// Its summary.
    pub summary: Option<String>,
}

impl ImportedMeeting {
    /// How many transcript pages it needs.
    pub fn pages(&self) -> usize {
        self.segments.len().div_ceil(SEGMENTS_PER_PAGE_MAX)
    }
}

/// Under which ids, by whom and when a meeting is imported.
#[derive(Clone, Copy, Debug)]
pub struct ImportContext<'a> {
    /// The device that imports, and becomes the pages' recorder.
    pub device: &'a PeerId,
    /// A fresh incarnation; the documents are new, so they may share it.
    pub incarnation: &'a [u8; 16],
    /// The id of the new meeting.
    pub meeting: DocumentId,
    /// Ids of its pages, at least [`ImportedMeeting::pages`]; more are ignored.
    pub pages: &'a [DocumentId],
    /// The project to file it under.
    pub project: Option<ProjectId>,
    /// The time of the import.
    pub now: WallTime,
}

/// A new document: its changes in the order in which they were made, and its row.
#[derive(Clone, Debug)]
pub struct BuiltDocument {
    /// The document.
    pub id: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// Its changes, without the genesis.
    pub changes: Vec<EncodedChange>,
    /// Its row, if its kind has one.
    pub row: Option<IndexRow>,
}

/// Why a meeting could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Fewer ids were given than the meeting has pages.
    #[error("{needed} pages need an id each; {given} were given")]
    TooFewPageIds {
        /// How many are needed.
        needed: usize,
        /// How many were given.
        given: usize,
    },
    /// A document could not be written, for instance because a segment id occurs twice.
    #[error("the meeting could not be written")]
    Edit(#[from] EditError<ModelError>),
    /// The new document could not be read back.
    #[error("the meeting could not be read back")]
    Read(#[from] ReadError),
}

/// Builds the documents of an imported meeting: the meeting first, then its pages in order.
pub fn build_meeting(
    imported: &ImportedMeeting,
    context: &ImportContext<'_>,
) -> Result<Vec<BuiltDocument>, ImportError> {
    let needed = imported.pages();
    let Some(pages) = context.pages.get(..needed) else {
        return Err(ImportError::TooFewPageIds {
            needed,
            given: context.pages.len(),
        });
    };
    let mut built = vec![meeting(imported, context, pages)?];
    let chunks = imported.segments.chunks(SEGMENTS_PER_PAGE_MAX);
    for ((number, id), segments) in (0..).zip(pages).zip(chunks) {
        built.push(page(imported, context, (number, *id), segments)?);
    }
    Ok(built)
}

fn meeting(
    imported: &ImportedMeeting,
    context: &ImportContext<'_>,
    pages: &[DocumentId],
) -> Result<BuiltDocument, ImportError> {
    let recorder = context.device.to_string();
    let actor = derive_actor(context.device, &context.meeting, context.incarnation);
    let mut document = Document::create(MEETING).expect(HAS_GENESIS);
    let ((), changes) = document.edit(&actor, context.now, |editor| {
        let mut meeting = editor.meeting()?;
        meeting.create(&imported.title, context.project)?;
        meeting.set_source(&imported.source)?;
        meeting.reach_state(State::Completed)?;
        if let Some(summary) = &imported.summary {
            meeting.set_summary(summary)?;
        }
        for name in &imported.participants {
            meeting.add_participant(name, name)?;
        }
        for (order, page) in (0..).zip(pages) {
            meeting.add_page(*page, &recorder, order)?;
        }
        Ok(())
    })?;
    Ok(BuiltDocument {
        id: context.meeting,
        kind: MEETING,
        changes,
        row: index_row(context.meeting, &document)?,
    })
}

fn page(
    imported: &ImportedMeeting,
    context: &ImportContext<'_>,
    (number, id): (i64, DocumentId),
    segments: &[Segment],
) -> Result<BuiltDocument, ImportError> {
    let recorder = context.device.to_string();
    let header = PageHeader {
        meeting: context.meeting,
        recorder: &recorder,
        page: number,
        timebase: imported.timebase,
    };
    let actor = derive_actor(context.device, &id, context.incarnation);
    let genesis = genesis(TRANSCRIPT).expect(HAS_GENESIS);
    let mut composer = Composer::new(genesis, &actor, context.now);
    let composed = transcript::compose(&mut composer, &header, segments);
    Ok(BuiltDocument {
        id,
        kind: TRANSCRIPT,
        changes: composed
            .and_then(|()| composer.finish())
            .map_err(EditError::Refused)?,
        row: None,
    })
}

/// What a meeting is called that a file holds: the last part of its path without its extension.
pub(crate) fn title_of(file: &str) -> &str {
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file);
    match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem,
        _ => name,
    }
}

/// Why looking up the genesis of a kind that is named here cannot fail.
const HAS_GENESIS: &str = "imports write kinds that have a genesis";

#[cfg(test)]
mod tests;
