//! The transcript page: what one recorder heard, bounded, a document of its own.
//!
//! Segments are keyed by id and ordered by start and id; two that were added without having seen
//! each other never swap or overwrite. A page never grows past [`SEGMENTS_PER_PAGE_MAX`].

use std::collections::BTreeSet;

use automerge::{ROOT, ReadDoc, ScalarValue};
use reconvene_core::ids::DocumentId;
use serde::{Deserialize, Serialize};

use crate::compose::Composer;
use crate::document::{Document, ReadError};
use crate::edit::{Editor, ModelError};
use crate::genesis::{SEGMENTS, TRANSCRIPT};
use crate::view::{Conflict, View};

/// Most segments of one page. At the bound the recorder opens another page
/// ([`ModelError::PageFull`]).
pub const SEGMENTS_PER_PAGE_MAX: usize = 500;

/// What a page's starts and ends count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timebase {
    /// Milliseconds since the recording began.
    #[default]
    Ms,
    /// Nothing but the order; for imports without times.
    Order,
}

impl Timebase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ms => "ms",
            Self::Order => "order",
        }
    }
}

/// A transcript page as people see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TranscriptPage {
    /// The meeting it belongs to.
    pub meeting: Option<DocumentId>,
    /// The device that records it.
    pub recorder: Option<String>,
    /// Its number among the recorder's pages of the meeting, from 0.
    pub page: i64,
    /// What the segments' starts and ends count.
    pub timebase: Timebase,
    /// Its segments, in reading order.
    pub segments: Vec<Segment>,
    /// Registers that hold several values.
    pub conflicts: Vec<Conflict>,
    /// Paths whose value has a type this version does not expect; read as absent.
    pub malformed: Vec<String>,
}

/// What a page says of itself from the start.
#[derive(Clone, Copy, Debug)]
pub struct PageHeader<'a> {
    /// The meeting it belongs to.
    pub meeting: DocumentId,
    /// The device that records it.
    pub recorder: &'a str,
    /// Its number among the recorder's pages of the meeting, from 0.
    pub page: i64,
    /// What the segments' starts and ends count.
    pub timebase: Timebase,
}

/// Something that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Unique within the meeting.
    pub id: String,
    /// Where it begins, in the page's timebase.
    pub start: i64,
    /// Where it ends, if that is known.
    pub end: Option<i64>,
    /// Who said it, if that is known.
    pub speaker: Option<String>,
    /// What was said.
    pub text: String,
}

impl Document {
    /// Reads a transcript page.
    pub fn transcript(&self) -> Result<TranscriptPage, ReadError> {
        self.read(TRANSCRIPT, read)
    }

    /// The meeting a transcript page belongs to, without reading its segments; `None` if the page
    /// does not say.
    pub fn transcript_meeting(&self) -> Result<Option<DocumentId>, ReadError> {
        self.read(TRANSCRIPT, |view| {
            let mut root = view.root();
            view.parsed(&mut root, "meeting", "")
        })
    }
}

impl Editor {
    /// The operations on a transcript page.
    pub fn transcript(&mut self) -> Result<TranscriptEditor<'_>, ModelError> {
        self.expect_kind(TRANSCRIPT)?;
        Ok(TranscriptEditor {
            segments: self.reader().length(SEGMENTS.id()),
            editor: self,
        })
    }
}

/// The operations on a transcript page.
pub struct TranscriptEditor<'a> {
    editor: &'a mut Editor,
    /// How many segments the page holds; counted once, because counting costs as much as appending.
    segments: usize,
}

impl TranscriptEditor<'_> {
    /// Says whose page this is; to be called once, by the recorder.
    pub fn create(&mut self, header: &PageHeader<'_>) -> Result<(), ModelError> {
        Editor::check_string("recorder", header.recorder)?;
        let meeting = header.meeting.to_string();
        self.editor.put(&ROOT, "meeting", meeting)?;
        self.editor.put(&ROOT, "recorder", header.recorder)?;
        self.editor.put(&ROOT, "page", header.page)?;
        self.editor.put(&ROOT, "timebase", header.timebase.as_str())
    }

    /// How many more segments the page takes.
    pub fn room(&self) -> usize {
        SEGMENTS_PER_PAGE_MAX.saturating_sub(self.segments)
    }

    /// Adds a segment under a new id.
    pub fn append_segment(&mut self, segment: &Segment) -> Result<(), ModelError> {
        check(segment)?;
        let segments = SEGMENTS.id();
        if self.editor.reader().get(&segments, &segment.id)?.is_some() {
            return Err(ModelError::Exists {
                what: "segment",
                id: segment.id.clone(),
            });
        }
        if self.room() == 0 {
            return Err(ModelError::PageFull);
        }
        self.editor
            .put_record(&segments, &segment.id, registers(segment))?;
        self.segments += 1;
        Ok(())
    }

    /// Replaces what a segment says. Two corrections made without having seen each other are a
    /// conflict that readers see; correcting again settles it.
    pub fn correct_segment(&mut self, id: &str, text: &str) -> Result<(), ModelError> {
        Editor::check_string("segment text", text)?;
        let segment = self.editor.record(SEGMENTS, "segment", id)?;
        self.editor.put(&segment, "text", text)
    }

    /// Says who said a segment, or that it is not known.
    pub fn set_speaker(&mut self, id: &str, speaker: Option<&str>) -> Result<(), ModelError> {
        Editor::check_string("speaker", speaker.unwrap_or_default())?;
        let segment = self.editor.record(SEGMENTS, "segment", id)?;
        let value = speaker.map_or(ScalarValue::Null, ScalarValue::from);
        self.editor.put(&segment, "speaker", value)
    }
}

/// Writes a page that nobody has written to, as [`TranscriptEditor::create`] and
/// [`TranscriptEditor::append_segment`] would, without a document.
pub(crate) fn compose(
    composer: &mut Composer,
    header: &PageHeader<'_>,
    segments: &[Segment],
) -> Result<(), ModelError> {
    Editor::check_string("recorder", header.recorder)?;
    composer.put_root("meeting", header.meeting.to_string())?;
    composer.put_root("recorder", header.recorder)?;
    composer.put_root("page", header.page)?;
    composer.put_root("timebase", header.timebase.as_str())?;
    if segments.len() > SEGMENTS_PER_PAGE_MAX {
        return Err(ModelError::PageFull);
    }
    let mut ids = BTreeSet::new();
    for segment in segments {
        check(segment)?;
        if !ids.insert(&segment.id) {
            return Err(ModelError::Exists {
                what: "segment",
                id: segment.id.clone(),
            });
        }
        composer.put_record(SEGMENTS, &segment.id, registers(segment))?;
    }
    Ok(())
}

fn check(segment: &Segment) -> Result<(), ModelError> {
    Editor::check_name("segment id", &segment.id)?;
    Editor::check_string("segment text", &segment.text)?;
    Editor::check_string("speaker", segment.speaker.as_deref().unwrap_or_default())
}

fn registers(segment: &Segment) -> [(&'static str, Option<ScalarValue>); 4] {
    [
        ("start", Some(segment.start.into())),
        ("end", segment.end.map(ScalarValue::from)),
        ("speaker", segment.speaker.as_deref().map(ScalarValue::from)),
        ("text", Some(segment.text.as_str().into())),
    ]
}

fn read(view: &mut View<'_>) -> TranscriptPage {
    let mut root = view.root();
    let mut page = TranscriptPage {
        meeting: view.parsed(&mut root, "meeting", ""),
        recorder: view.string(&mut root, "recorder", ""),
        page: view.integer(&mut root, "page", "").unwrap_or(0),
        timebase: match view.string(&mut root, "timebase", "").as_deref() {
            Some("order") => Timebase::Order,
            Some("ms") | None => Timebase::Ms,
            Some(_) => {
                view.malformed.push("timebase".to_owned());
                Timebase::Ms
            }
        },
        ..TranscriptPage::default()
    };
    for (id, mut fields) in view.entries(SEGMENTS) {
        let path = format!("{}/{id}", SEGMENTS.key);
        let Some(start) = view.integer(&mut fields, "start", &path) else {
            // Without a place it cannot be shown; it is named instead.
            view.malformed.push(path);
            continue;
        };
        page.segments.push(Segment {
            start,
            end: view.integer(&mut fields, "end", &path),
            speaker: view.string(&mut fields, "speaker", &path),
            text: view.string(&mut fields, "text", &path).unwrap_or_default(),
            id,
        });
    }
    page.segments
        .sort_by(|one, other| (one.start, &one.id).cmp(&(other.start, &other.id)));
    (page.conflicts, page.malformed) = view.finish();
    page
}

#[cfg(test)]
mod tests;
