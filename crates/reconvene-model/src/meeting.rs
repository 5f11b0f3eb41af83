//! The meeting document: title, notes, summary, state, who took part, what is to be done.
//!
//! What was said is not here: a meeting lists its transcript pages, which are documents of their own
//! and may arrive later or never.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{ROOT, ReadDoc, ScalarValue};
use reconvene_core::ids::DocumentId;
use reconvene_core::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::document::{Document, ReadError};
use crate::edit::{Editor, ModelError};
use crate::genesis::{
    ACTION_ITEMS, MEETING, NOTES, PAGES, PARTICIPANTS, STATES, SUMMARY, TAGS, TITLE,
};
use crate::view::{Conflict, View};
use crate::workspace::ProjectId;

/// How far a meeting has come. States are only ever reached, never left: the furthest one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It exists.
    Created,
    /// It is being recorded.
    Recording,
    /// Recording is about to end.
    Stopping,
    /// Recording has ended.
    Stopped,
    /// Nothing more will be added by machines.
    Completed,
}

impl State {
    const ALL: [Self; 5] = [
        Self::Created,
        Self::Recording,
        Self::Stopping,
        Self::Stopped,
        Self::Completed,
    ];

    /// The state's name in documents and exports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Recording => "recording",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Completed => "completed",
        }
    }

    /// The state of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// A meeting as people see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meeting {
    /// Its title.
    pub title: String,
    /// Its notes.
    pub notes: String,
    /// Its summary.
    pub summary: String,
    /// The project it is filed under.
    pub project: Option<ProjectId>,
    /// When it was created.
    pub created_at: Option<WallTime>,
    /// Where it was imported from, such as `qmsum:ES2002a`.
    pub source: Option<String>,
    /// Which version of what is there was imported last, in the source's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_version: Option<String>,
    /// When it is to begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<WallTime>,
    /// When it is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<WallTime>,
    /// The furthest state it has reached.
    pub state: Option<State>,
    /// The states it has reached, each with the earliest time anyone reached it.
    pub reached: BTreeMap<State, WallTime>,
    /// What went wrong, if something did. Independent of the state.
    pub error: Option<MeetingError>,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Who took part, by id.
    pub participants: BTreeMap<String, Participant>,
    /// What is to be done, by id.
    pub action_items: BTreeMap<String, ActionItem>,
    /// Its transcript pages, which are documents of their own.
    pub pages: BTreeMap<DocumentId, Page>,
    /// That somebody deleted it, whether that took effect or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// Registers that hold several values.
    pub conflicts: Vec<Conflict>,
    /// Paths whose value has a type this version does not expect; read as absent.
    pub malformed: Vec<String>,
}

/// That a meeting was deleted. It takes effect only if whoever deleted it had seen all there is of
/// it, its transcript pages included; otherwise the meeting stays, and this says that it was to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// When; the latest of several.
    pub at: Option<WallTime>,
    /// Whether nothing of the meeting itself was unseen. Its pages are documents of their own: they,
    /// too, have to be what `pages` says.
    pub saw_all: bool,
    /// The version of each transcript page that was seen, as `heads_digest` names it.
    pub pages: BTreeMap<DocumentId, String>,
}

/// What went wrong with a meeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeetingError {
    /// The cause, as told to people.
    pub cause: String,
    /// When it happened.
    pub at: Option<WallTime>,
}

/// Someone who took part in a meeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    /// Their name; empty if none is readable.
    pub name: String,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionItem {
    /// What.
    pub text: String,
    /// Whether it was done.
    pub done: bool,
    /// By whom.
    pub assignee: Option<String>,
}

/// A transcript page as its meeting lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The device that records it.
    pub recorder: Option<String>,
    /// Its place among the meeting's pages; equal places are ordered by document id.
    pub order: i64,
}

impl Meeting {
    /// The transcript pages in reading order.
    pub fn pages_in_order(&self) -> Vec<DocumentId> {
        let mut pages: Vec<_> = self.pages.iter().collect();
        pages.sort_by_key(|(id, page)| (page.order, **id));
        pages.into_iter().map(|(id, _)| *id).collect()
    }
}

impl Document {
    /// Reads a meeting document.
    pub fn meeting(&self) -> Result<Meeting, ReadError> {
        self.read(MEETING, read)
    }

    /// Reads of a meeting document only whether somebody deleted it.
    pub fn meeting_deletion(&self) -> Result<Option<Deletion>, ReadError> {
        self.read(MEETING, deletion)
    }

    /// The transcript pages a meeting document lists, without reading the rest of it.
    pub fn meeting_pages(&self) -> Result<Vec<DocumentId>, ReadError> {
        self.read(MEETING, |view| {
            let keys = view.keys(PAGES).into_iter();
            keys.filter_map(|key| key.parse().ok()).collect()
        })
    }
}

impl Editor {
    /// The operations on a meeting document.
    pub fn meeting(&mut self) -> Result<MeetingEditor<'_>, ModelError> {
        self.expect_kind(MEETING)?;
        Ok(MeetingEditor { editor: self })
    }
}

/// The operations on a meeting document.
pub struct MeetingEditor<'a> {
    editor: &'a mut Editor,
}

impl MeetingEditor<'_> {
    /// Marks the meeting as created, now; to be called once, by whoever creates it.
    pub fn create(&mut self, title: &str, project: Option<ProjectId>) -> Result<(), ModelError> {
        let now = self.editor.now().as_millis();
        self.editor.put(&ROOT, "created_at", now)?;
        self.reach_state(State::Created)?;
        self.set_title(title)?;
        match project {
            Some(_) => self.set_project(project),
            None => Ok(()),
        }
    }

    /// Makes the title read as given; concurrent edits of other parts of it survive.
    pub fn set_title(&mut self, title: &str) -> Result<(), ModelError> {
        Editor::check_string("title", title)?;
        self.editor.set_text(TITLE, title)
    }

    /// Makes the notes read as given; concurrent edits of other parts of them survive.
    pub fn set_notes(&mut self, notes: &str) -> Result<(), ModelError> {
        self.editor.set_text(NOTES, notes)
    }

    /// Adds to the end of the notes, exactly as given.
    pub fn append_note(&mut self, text: &str) -> Result<(), ModelError> {
        self.editor.append_text(NOTES, text)
    }

    /// Replaces a part of the notes: `removed` UTF-16 code units from `at`, as an editor in a webview
    /// counts them. The best merging comes from passing on what the person did.
    pub fn splice_notes(
        &mut self,
        at: usize,
        removed: usize,
        inserted: &str,
    ) -> Result<(), ModelError> {
        self.editor.splice_text(NOTES, at, removed, inserted)
    }

    /// Makes the summary read as given; concurrent edits of other parts of it survive.
    pub fn set_summary(&mut self, summary: &str) -> Result<(), ModelError> {
        self.editor.set_text(SUMMARY, summary)
    }

    /// Files the meeting under a project, or under none.
    pub fn set_project(&mut self, project: Option<ProjectId>) -> Result<(), ModelError> {
        let value = project.map_or(ScalarValue::Null, |id| id.to_string().into());
        self.editor.put(&ROOT, "project", value)
    }

    /// Says where the meeting was imported from.
    pub fn set_source(&mut self, source: &str) -> Result<(), ModelError> {
        Editor::check_string("source", source)?;
        self.editor.put(&ROOT, "source", source)
    }

    /// Whether somebody created the meeting, as far as it is here.
    pub fn is_created(&self) -> Result<bool, ModelError> {
        Ok(self.editor.reader().get(ROOT, "created_at")?.is_some())
    }

    /// The version that was imported last.
    pub fn source_version(&self) -> Result<Option<String>, ModelError> {
        self.editor.string_at(&ROOT, "source_version")
    }

    /// Says which version of what is there was imported.
    pub fn set_source_version(&mut self, version: &str) -> Result<(), ModelError> {
        Editor::check_string("source version", version)?;
        self.editor.put(&ROOT, "source_version", version)
    }

    /// Says when it is to begin and to end, as far as that is known.
    pub fn schedule(
        &mut self,
        starts_at: Option<WallTime>,
        ends_at: Option<WallTime>,
    ) -> Result<(), ModelError> {
        for (key, at) in [("starts_at", starts_at), ("ends_at", ends_at)] {
            match at {
                Some(at) => self.editor.put(&ROOT, key, at.as_millis())?,
                None => self.editor.remove(&ROOT, key)?,
            }
        }
        Ok(())
    }

    /// Marks a state as reached now. Reaching one again changes nothing.
    pub fn reach_state(&mut self, state: State) -> Result<(), ModelError> {
        let (states, key) = (STATES.id(), state.as_str());
        if self.editor.reader().get(&states, key)?.is_some() {
            return Ok(());
        }
        let now = self.editor.now().as_millis();
        self.editor.put(&states, key, now)
    }

    /// Flags that something went wrong now.
    pub fn set_error(&mut self, cause: &str) -> Result<(), ModelError> {
        Editor::check_string("error cause", cause)?;
        let at = self.editor.now().as_millis();
        let registers = [("cause", Some(cause.into())), ("at", Some(at.into()))];
        self.editor.put_record(&ROOT, "error", registers)
    }

    /// Takes the error flag away; one that is set meanwhile elsewhere stays.
    pub fn clear_error(&mut self) -> Result<(), ModelError> {
        self.editor.remove(&ROOT, "error")
    }

    /// Adds a tag. A removal that did not see this very addition does not undo it.
    pub fn add_tag(&mut self, tag: &str) -> Result<(), ModelError> {
        Editor::check_name("tag", tag)?;
        // A fresh map each time, even where the tag is set already: its operation is the token that
        // makes this addition distinguishable from earlier ones.
        self.editor.put_map(&TAGS.id(), tag).map(drop)
    }

    /// Removes a tag, as far as its additions are known here.
    pub fn remove_tag(&mut self, tag: &str) -> Result<(), ModelError> {
        self.editor.remove(&TAGS.id(), tag)
    }

    /// Adds someone who took part. A removal that did not see this very addition does not undo it.
    pub fn add_participant(&mut self, id: &str, name: &str) -> Result<(), ModelError> {
        Editor::check_name("participant id", id)?;
        Editor::check_string("participant name", name)?;
        let registers = [("name", Some(name.into()))];
        self.editor.put_record(&PARTICIPANTS.id(), id, registers)
    }

    /// Removes someone who did not take part after all.
    pub fn remove_participant(&mut self, id: &str) -> Result<(), ModelError> {
        self.editor.remove(&PARTICIPANTS.id(), id)
    }

    /// Deletes the meeting, as far as it is seen here: `pages` are the versions of its transcript pages
    /// that are, each as `heads_digest` names it. What somebody writes meanwhile keeps the meeting.
    pub fn delete<'p>(
        &mut self,
        pages: impl IntoIterator<Item = (&'p DocumentId, &'p String)>,
    ) -> Result<(), ModelError> {
        let now = self.editor.now().as_millis();
        let pages = pages.into_iter();
        let pages: Vec<_> = pages
            .map(|(id, version)| (id.to_string(), version.as_str().into()))
            .collect();
        let pages = pages
            .iter()
            .map(|(id, version): &(String, ScalarValue)| (id.as_str(), Some(version.clone())));
        let registers = std::iter::once(("at", Some(now.into()))).chain(pages);
        self.editor.put_record(&ROOT, "deleted", registers)
    }

    /// Takes the deletions away that are known here.
    pub fn restore(&mut self) -> Result<(), ModelError> {
        self.editor.remove(&ROOT, "deleted")
    }

    /// Lists a transcript page. Listing it again changes nothing.
    pub fn add_page(
        &mut self,
        page: DocumentId,
        recorder: &str,
        order: i64,
    ) -> Result<(), ModelError> {
        Editor::check_string("recorder", recorder)?;
        let key = page.to_string();
        if self.editor.reader().get(PAGES.id(), &key)?.is_some() {
            return Ok(());
        }
        let registers = [
            ("recorder", Some(recorder.into())),
            ("order", Some(order.into())),
        ];
        self.editor.put_record(&PAGES.id(), &key, registers)
    }

    /// Adds something to be done, under a new id.
    pub fn add_action_item(
        &mut self,
        id: &str,
        text: &str,
        assignee: Option<&str>,
    ) -> Result<(), ModelError> {
        Editor::check_name("action item id", id)?;
        Editor::check_string("action item", text)?;
        Editor::check_string("assignee", assignee.unwrap_or_default())?;
        if self.editor.reader().get(ACTION_ITEMS.id(), id)?.is_some() {
            return Err(ModelError::Exists {
                what: "action item",
                id: id.to_owned(),
            });
        }
        let registers = [
            ("text", Some(text.into())),
            ("done", Some(false.into())),
            ("assignee", assignee.map(ScalarValue::from)),
        ];
        self.editor.put_record(&ACTION_ITEMS.id(), id, registers)
    }

    /// Marks an action item as done, or as not done.
    pub fn complete_action_item(&mut self, id: &str, done: bool) -> Result<(), ModelError> {
        let item = self.editor.record(ACTION_ITEMS, "action item", id)?;
        self.editor.put(&item, "done", done)
    }

    /// Rewrites an action item.
    pub fn set_action_item_text(&mut self, id: &str, text: &str) -> Result<(), ModelError> {
        Editor::check_string("action item", text)?;
        let item = self.editor.record(ACTION_ITEMS, "action item", id)?;
        self.editor.put(&item, "text", text)
    }

    /// Says who is to do an action item, or that it is open.
    pub fn assign_action_item(
        &mut self,
        id: &str,
        assignee: Option<&str>,
    ) -> Result<(), ModelError> {
        Editor::check_string("assignee", assignee.unwrap_or_default())?;
        let item = self.editor.record(ACTION_ITEMS, "action item", id)?;
        let value = assignee.map_or(ScalarValue::Null, ScalarValue::from);
        self.editor.put(&item, "assignee", value)
    }
}

/// What a list shows of a meeting, read without the rest.
pub(crate) struct Headline {
    pub(crate) title: String,
    pub(crate) state: Option<State>,
    pub(crate) project: Option<ProjectId>,
    pub(crate) created_at: Option<WallTime>,
    pub(crate) has_error: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) participants: usize,
    pub(crate) pages: usize,
    pub(crate) deletion: Option<Deletion>,
    pub(crate) has_conflicts: bool,
}

pub(crate) fn headline(view: &mut View<'_>) -> Headline {
    let mut root = view.root();
    Headline {
        title: view.text(TITLE),
        state: reached(view).into_keys().next_back(),
        project: view.parsed(&mut root, "project", ""),
        created_at: view.time(&mut root, "created_at", ""),
        has_error: error(view, root.remove("error")).is_some(),
        tags: view.keys(TAGS),
        participants: view.count(PARTICIPANTS),
        pages: view.count(PAGES),
        deletion: deletion(view),
        has_conflicts: view.has_conflicting_entries(PARTICIPANTS)
            || view.has_conflicting_entries(ACTION_ITEMS)
            || view.has_conflicting_entries(PAGES),
    }
}

fn read(view: &mut View<'_>) -> Meeting {
    let mut root = view.root();
    let reached = reached(view);
    let mut meeting = Meeting {
        title: view.text(TITLE),
        notes: view.text(NOTES),
        summary: view.text(SUMMARY),
        project: view.parsed(&mut root, "project", ""),
        created_at: view.time(&mut root, "created_at", ""),
        source: view.string(&mut root, "source", ""),
        source_version: view.string(&mut root, "source_version", ""),
        starts_at: view.time(&mut root, "starts_at", ""),
        ends_at: view.time(&mut root, "ends_at", ""),
        state: reached.keys().next_back().copied(),
        reached,
        error: error(view, root.remove("error")),
        deletion: deletion(view),
        tags: view.keys(TAGS).into_iter().collect(),
        ..Meeting::default()
    };
    for (id, mut fields) in view.entries(PARTICIPANTS) {
        let path = format!("{}/{id}", PARTICIPANTS.key);
        let name = view.string(&mut fields, "name", &path).unwrap_or_default();
        meeting.participants.insert(id, Participant { name });
    }
    for (id, mut fields) in view.entries(ACTION_ITEMS) {
        let path = format!("{}/{id}", ACTION_ITEMS.key);
        let item = ActionItem {
            text: view.string(&mut fields, "text", &path).unwrap_or_default(),
            done: view.boolean(&mut fields, "done", &path).unwrap_or(false),
            assignee: view.string(&mut fields, "assignee", &path),
        };
        meeting.action_items.insert(id, item);
    }
    for (key, mut fields) in view.entries(PAGES) {
        let path = format!("{}/{key}", PAGES.key);
        let Ok(id) = key.parse() else {
            view.malformed.push(path);
            continue;
        };
        let page = Page {
            recorder: view.string(&mut fields, "recorder", &path),
            order: view.integer(&mut fields, "order", &path).unwrap_or(0),
        };
        meeting.pages.insert(id, page);
    }
    (meeting.conflicts, meeting.malformed) = view.finish();
    meeting
}

/// The marks, each with its earliest time: when several devices reached a state without having met,
/// the first of them did, and that is no conflict.
fn reached(view: &mut View<'_>) -> BTreeMap<State, WallTime> {
    let mut reached = BTreeMap::new();
    for name in view.keys(STATES) {
        let times = view.all(STATES, &name);
        let earliest = times.iter().filter_map(crate::view::Field::as_i64).min();
        match (State::from_name(&name), earliest) {
            (Some(state), Some(at)) => {
                reached.insert(state, WallTime::from_millis(at));
            }
            (Some(_), None) => view.malformed.push(format!("{}/{name}", STATES.key)),
            // A state of a later version: kept, and not shown.
            (None, _) => {}
        }
    }
    reached
}

/// All deletions count together: it has effect if every head of the document is one of them.
fn deletion(view: &mut View<'_>) -> Option<Deletion> {
    let deletions = view.maps_at_root("deleted");
    if deletions.is_empty() {
        return None;
    }
    let mut found = Deletion {
        at: None,
        saw_all: view.heads_are_among(deletions.iter().map(|(change, _)| *change)),
        pages: BTreeMap::new(),
    };
    for (_, mut fields) in deletions {
        let at = view.time(&mut fields, "at", "deleted");
        found.at = found.at.max(at);
        for (key, field) in fields {
            if let (Ok(page), Some(version)) = (key.parse(), field.as_str()) {
                found.pages.insert(page, version.to_owned());
            }
        }
    }
    // A page that was listed when nobody looked was not seen.
    let listed = view.keys(PAGES);
    let seen = |page: &String| {
        page.parse()
            .is_ok_and(|page| found.pages.contains_key(&page))
    };
    found.saw_all &= listed.iter().all(seen);
    Some(found)
}

fn error(view: &mut View<'_>, field: Option<crate::view::Field>) -> Option<MeetingError> {
    let mut fields = view.fields_of(field, "error")?;
    Some(MeetingError {
        cause: view
            .string(&mut fields, "cause", "error")
            .unwrap_or_default(),
        at: view.time(&mut fields, "at", "error"),
    })
}

#[cfg(test)]
mod tests;
