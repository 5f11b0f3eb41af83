//! Findings: what documents show that needs a person. A conflict, a deletion that others' edits
//! outlived, damage.
//!
//! They are looked for where a row of the index is made, in the document that is open for that anyway;
//! where nothing is found this costs a look into a map. What is found is noted here and filed in the
//! member's home by a task of its own ([`filing`]). The index is not said to be whole before that, so
//! a crash in between repeats the look. Servers look for nothing: they have no member to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reconvene_core::ids::{ChangeHash, DocumentId, MemberId, PeerId, WorkspaceId};
use reconvene_core::storage::StoreRead;
use reconvene_model::entry::CAUSE_GONE;
use reconvene_model::index::{EntryRow, IndexRow};
use reconvene_model::{Document, EntryDraft, WORKSPACE_DOCUMENT};
use tokio::sync::{Notify, watch};

use crate::deletion::is_deleted;
use crate::inbox::entries;
use crate::limits::{FINDINGS_LEFT_OUT_MAX, FINDINGS_WAITING_MAX};
use crate::{Error, rows};

pub(crate) mod filing;

/// A document and its workspace.
type Place = (WorkspaceId, DocumentId);

/// Whose findings these are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Finder {
    pub(crate) peer: PeerId,
    pub(crate) member: MemberId,
    pub(crate) home: WorkspaceId,
}

/// What is found, and what is known to be in the inbox about it.
pub(crate) struct Findings {
    state: Mutex<State>,
    /// Something is to be filed.
    wake: Notify,
    /// Whether nothing is.
    is_idle: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// `None` where nobody is to be asked.
    finder: Option<Finder>,
    /// Whether the entries that were there at the start are known.
    is_loaded: bool,
    entries: BTreeMap<DocumentId, Known>,
    /// Entries about what a document shows.
    about: BTreeMap<Place, BTreeSet<DocumentId>>,
    found: BTreeMap<Place, Found>,
    /// Documents whose damage changed.
    damaged: BTreeSet<Place>,
    left_out: BTreeMap<WorkspaceId, LeftOut>,
    /// Entries that cannot be written, such as those that were purged: they are tried once.
    unwritable: BTreeSet<DocumentId>,
}

/// Documents that were left out for want of room.
#[derive(Default)]
struct LeftOut {
    documents: BTreeSet<DocumentId>,
    /// Whether there were more than are remembered.
    is_least: bool,
    /// Whether all rows are to be looked at.
    is_to_be_sought: bool,
    /// How many were told.
    told: usize,
}

/// An entry about a finding.
#[derive(Clone)]
struct Known {
    place: Place,
    topic: String,
    changes: Vec<ChangeHash>,
    is_open: bool,
    /// Whether a person resolved it.
    is_seen_to: bool,
}

/// What one document shows now.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    place: Place,
    drafts: Vec<EntryDraft>,
    /// Open entries whose cause is gone.
    gone: Vec<DocumentId>,
}

/// What a row that was written has to say here.
#[derive(Clone, Debug)]
pub(crate) enum Look {
    /// A document shows something, or shows it no more.
    Found(Found),
    /// An entry of the inbox is other than it was.
    Entry(Box<EntryRow>),
}

impl Findings {
    /// With nobody to look for, nothing is ever found.
    pub(crate) fn new(finder: Option<Finder>) -> Self {
        Self {
            state: Mutex::new(State {
                finder,
                ..State::default()
            }),
            wake: Notify::new(),
            is_idle: watch::Sender::new(true),
        }
    }

    /// The member is another now, or their home: a server was joined, or left.
    pub(crate) fn follow(&self, member: MemberId, home: WorkspaceId) {
        let mut state = self.lock();
        let Some(finder) = state.finder else {
            return;
        };
        let now = Finder {
            member,
            home,
            ..finder
        };
        if now != finder {
            // What waits was found for whoever it is now, too; what is in the inbox is another.
            *state = State {
                finder: Some(now),
                found: std::mem::take(&mut state.found),
                damaged: std::mem::take(&mut state.damaged),
                ..State::default()
            };
        }
    }

    fn finder(&self) -> Option<Finder> {
        self.lock().finder
    }

    /// What a document shows, whose row is about to be written. `None` if that is nothing and nothing
    /// was known: then nothing is read, either.
    pub(crate) fn look(
        &self,
        reader: &impl StoreRead,
        place: Place,
        document: &Document,
        row: &IndexRow,
    ) -> Result<Option<Look>, Error> {
        let Some(finder) = &self.finder() else {
            return Ok(None);
        };
        let (workspace, _) = place;
        let mut drafts = match row {
            IndexRow::Entry(row) if workspace == finder.home => {
                return Ok(is_finding(row).then(|| Look::Entry(row.clone())));
            }
            // What is deleted needs nobody; it is looked at again when it is brought back.
            IndexRow::Meeting(row) if is_deleted(reader, workspace, row)? => Vec::new(),
            IndexRow::Meeting(_) | IndexRow::Workspace(_) => {
                entries::shown_by(place, document, row, finder.member)?
            }
            _ => return Ok(None),
        };
        let state = self.loaded(reader, finder)?;
        let ids: BTreeSet<_> = drafts.iter().map(EntryDraft::id).collect();
        let mut gone = state.open_about(&place);
        gone.retain(|(id, known)| {
            // Another device may have found what is not here yet.
            !ids.contains(id) && document.lacking(known.changes.iter().copied()).is_empty()
        });
        let gone: Vec<_> = gone.into_iter().map(|(id, _)| id).collect();
        drafts.retain(|draft| !state.is_filed(&draft.id()));
        let is_nothing = drafts.is_empty() && gone.is_empty() && !state.is_left_out(&place);
        Ok((!is_nothing).then_some(Look::Found(Found {
            place,
            drafts,
            gone,
        })))
    }

    /// That a document is purged: nobody needs to see to it.
    pub(crate) fn look_at_purged(&self, place: Place) -> Option<Look> {
        let state = self.lock();
        let gone: Vec<_> = state
            .open_about(&place)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        let is_nothing = gone.is_empty() && !state.is_left_out(&place);
        (!is_nothing).then_some(Look::Found(Found {
            place,
            drafts: Vec::new(),
            gone,
        }))
    }

    /// Notes what was looked at, its row being durable.
    pub(crate) fn note(&self, looks: impl IntoIterator<Item = Look>) {
        let mut state = self.lock();
        let mut is_news = false;
        for look in looks {
            is_news = true;
            match look {
                Look::Entry(row) => state.know(&row),
                Look::Found(found) => state.wait(found),
            }
        }
        drop(state);
        if is_news {
            self.wake();
        }
    }

    /// Notes that a document was found damaged, or healed. What of the two is read from the store.
    pub(crate) fn note_damage(&self, place: Place) {
        if self.finder().is_some() {
            self.lock().damaged.insert(place);
            self.wake();
        }
    }

    /// Whether all that was found is filed.
    pub(crate) fn is_filed(&self) -> bool {
        *self.is_idle.borrow()
    }

    /// Waits until all that was found is filed, so long at most; whether it is.
    pub(crate) async fn filed(&self, wait: Duration) -> bool {
        let mut idle = self.is_idle.subscribe();
        let waited = tokio::time::timeout(wait, idle.wait_for(|idle| *idle)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// As if so many entries more could be open.
    #[cfg(test)]
    pub(crate) fn leave_room(&self, room: usize) {
        let mut state = self.lock();
        let others = crate::limits::FINDINGS_OPEN_MAX - state.open() - room;
        for number in 0..others {
            let id = DocumentId::from_bytes((number as u128 + 1).to_be_bytes());
            let known = Known {
                place: (WorkspaceId::from_bytes([0; 16]), id),
                topic: entries::CONFLICT.to_owned(),
                changes: Vec::new(),
                is_open: true,
                is_seen_to: false,
            };
            state.entries.insert(id, known);
        }
    }

    fn wake(&self) {
        self.is_idle.send_replace(false);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with the entries that were there before.
    fn loaded(
        &self,
        reader: &impl StoreRead,
        finder: &Finder,
    ) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.lock();
        if !state.is_loaded {
            for row in rows::scan::<EntryRow>(reader, finder.home, is_finding)? {
                state.know(&row);
                if row
                    .entry
                    .topic
                    .starts_with(&entries::left_out_by(&finder.peer))
                    && row.entry.resolved.is_none()
                    && let Some((workspace, _)) = entries::document_of(&row.entry)
                {
                    let left_out = state.left_out.entry(workspace).or_default();
                    left_out.is_to_be_sought = true;
                    // Whatever was told before, it is told anew.
                    left_out.told = usize::MAX;
                }
            }
            state.is_loaded = true;
        }
        Ok(state)
    }
}

impl State {
    fn know(&mut self, row: &EntryRow) {
        let Some(place) = entries::document_of(&row.entry) else {
            return;
        };
        let resolved = row.entry.resolved.as_ref();
        let known = Known {
            place,
            topic: row.entry.topic.clone(),
            changes: entries::changes_of(&row.entry),
            is_open: resolved.is_none(),
            is_seen_to: resolved.is_some_and(|resolved| resolved.how != CAUSE_GONE),
        };
        if known.is_of_document() {
            self.about.entry(place).or_default().insert(row.id);
        }
        self.entries.insert(row.id, known);
    }

    fn wait(&mut self, found: Found) {
        let is_known = self.found.contains_key(&found.place);
        if is_known || self.found.len() < FINDINGS_WAITING_MAX {
            self.found.insert(found.place, found);
        } else {
            self.leave_out(found.place);
        }
    }

    fn leave_out(&mut self, (workspace, document): Place) {
        let left_out = self.left_out.entry(workspace).or_default();
        if left_out.documents.len() < FINDINGS_LEFT_OUT_MAX {
            left_out.documents.insert(document);
        } else {
            left_out.is_least |= !left_out.documents.contains(&document);
        }
    }

    /// The open entries about what a document shows.
    fn open_about(&self, place: &Place) -> Vec<(DocumentId, &Known)> {
        let about = self.about.get(place).into_iter().flatten();
        let known = about.filter_map(|id| Some((*id, self.entries.get(id)?)));
        known.filter(|(_, known)| known.is_open).collect()
    }

    /// Whether there is an entry that is not to be filed again.
    fn is_filed(&self, id: &DocumentId) -> bool {
        let known = self.entries.get(id);
        self.unwritable.contains(id) || known.is_some_and(|known| known.is_open || known.is_seen_to)
    }

    fn is_left_out(&self, (workspace, document): &Place) -> bool {
        let left_out = self.left_out.get(workspace);
        left_out.is_some_and(|left_out| left_out.documents.contains(document))
    }

    /// How many entries are open about what documents show.
    fn open(&self) -> usize {
        let known = self.entries.values();
        known.filter(|of| of.is_open && of.is_counted()).count()
    }
}

impl Known {
    /// Whether it is about what the document itself shows, and not its store.
    fn is_of_document(&self) -> bool {
        let of = [entries::CONFLICT, entries::DELETION];
        of.iter().any(|topic| self.topic.starts_with(topic))
    }

    fn is_counted(&self) -> bool {
        !self.topic.starts_with(entries::LEFT_OUT)
    }
}

fn is_finding(row: &EntryRow) -> bool {
    [
        entries::CONFLICT,
        entries::DELETION,
        entries::DAMAGE,
        entries::LEFT_OUT,
    ]
    .iter()
    .any(|topic| row.entry.topic.starts_with(topic))
}

/// Whether a row is worth looking for in search of what was left out.
fn may_show(row: &IndexRow) -> bool {
    match row {
        IndexRow::Meeting(row) => row.has_conflicts || row.deletion.is_some(),
        _ => false,
    }
}

/// Where the projects and settings of a workspace are.
fn of_workspace(workspace: WorkspaceId) -> Place {
    (workspace, WORKSPACE_DOCUMENT)
}
