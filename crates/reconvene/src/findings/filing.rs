//! Files what was found in the member's home, and resolves what shows no more.
//!
//! It writes one batch at a time, and nothing twice: an entry's id names the very finding, and what is
//! in the inbox is known. Entries are documents of a kind that is never looked into for findings, so
//! that filing leads to no filing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use reconvene_core::engine::EditError;
use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::DamageRow;
use reconvene_core::storage::{Direction, Scan, StoreError, StoreRead as _};
use reconvene_model::entry::CAUSE_GONE;
use reconvene_model::index::{IndexRow, index_row};
use reconvene_model::{ENTRY, EntryDraft, MEETING, Purpose};
use tokio::time::Instant;

use super::{Findings, Found, LeftOut, Place, State, may_show, of_workspace};
use crate::clock::wall_now;
use crate::documents::decode;
use crate::inbox::entries;
use crate::limits::{FINDINGS_COUNT_PACE, FINDINGS_OPEN_MAX, FINDINGS_TOGETHER_MAX};
use crate::replica::{EditMode, Shared, known_workspaces};
use crate::together::Part;
use crate::{Error, Replica};

/// When what could not be filed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Damaged documents and index rows looked at at a time.
const PAGE_ROWS: usize = 1024;

/// What one batch writes.
#[derive(Default)]
struct Writes {
    file: BTreeMap<DocumentId, EntryDraft>,
    resolve: BTreeSet<DocumentId>,
}

/// Files for as long as the replica is open.
pub(crate) async fn run(findings: Arc<Findings>, shared: Weak<Shared>) {
    if findings.finder().is_none() {
        return;
    }
    let mut counted_at = None;
    let mut is_begun = false;
    loop {
        let Some(replica) = shared.upgrade().map(Replica::of) else {
            return;
        };
        let work = async {
            if !is_begun {
                findings.begin(&replica).await?;
                is_begun = true;
            }
            while findings.turn(&replica).await? {}
            let counted_for = counted_at.map(|at: Instant| at.elapsed());
            if counted_for.is_none_or(|passed| passed >= FINDINGS_COUNT_PACE)
                && findings.count(&replica).await?
            {
                counted_at = Some(Instant::now());
            }
            Ok::<_, Error>(())
        };
        let wait = match work.await {
            Ok(()) => {
                findings.rest();
                let is_uncounted = findings.lock().is_uncounted();
                is_uncounted.then_some(FINDINGS_COUNT_PACE)
            }
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "what documents show could not be filed yet");
                Some(RETRY_AFTER)
            }
        };
        drop(replica);
        let woken = findings.wake.notified();
        match wait {
            None => woken.await,
            // A turn that finds nothing to do costs nothing.
            Some(wait) => drop(tokio::time::timeout(wait, woken).await),
        }
    }
}

impl Findings {
    /// What is damaged is in the store, whoever was told; and so are entries about what was.
    async fn begin(self: &Arc<Self>, replica: &Replica) -> Result<(), Error> {
        let findings = Arc::clone(self);
        let damaged = replica.blocking(move |shared| {
            let Some(finder) = &findings.finder() else {
                return Ok(BTreeSet::new());
            };
            let mut damaged = BTreeSet::new();
            for workspace in known_workspaces(&shared.reader)? {
                let mut range = KeyRange::damages(&workspace);
                loop {
                    let rows = shared
                        .reader
                        .scan(&Scan::ascending(range.clone(), PAGE_ROWS))?;
                    let documents = rows.rows.iter().filter_map(|(key, _)| key.document());
                    damaged.extend(documents.map(|document| (workspace, document)));
                    match rows.rows.last().filter(|_| rows.more) {
                        Some((last, _)) => range = range.after(last),
                        None => break,
                    }
                }
            }
            let state = findings.loaded(&shared.reader, finder)?;
            let mine = entries::damage_on(&finder.peer);
            let known = state.entries.values();
            let known = known.filter(|known| known.is_open && known.topic.starts_with(&mine));
            damaged.extend(known.map(|known| known.place));
            Ok(damaged)
        });
        let damaged = damaged.await?;
        self.lock().damaged.extend(damaged);
        Ok(())
    }

    /// Says that nothing is to be filed, unless something came meanwhile.
    fn rest(&self) {
        let state = self.lock();
        if state.found.is_empty() && state.damaged.is_empty() {
            self.is_idle.send_replace(true);
        }
    }

    /// Writes one batch; whether there may be more to do.
    async fn turn(self: &Arc<Self>, replica: &Replica) -> Result<bool, Error> {
        let (found, damaged) = self.take();
        let mut writes = Writes::default();
        let looked = self.look_at_damage(replica, &damaged, &mut writes).await;
        self.settle_found(found.values(), &mut writes);
        let mut written = looked;
        if written.is_ok() && !writes.is_empty() {
            written = self.write(replica, &writes).await;
        }
        if let Err(error) = written {
            // It is tried again, unless the same was looked at anew meanwhile.
            let mut state = self.lock();
            for (place, found) in found {
                state.found.entry(place).or_insert(found);
            }
            state.damaged.extend(damaged);
            return Err(error);
        }
        if !found.is_empty() || !damaged.is_empty() {
            return Ok(true);
        }
        self.seek(replica).await?;
        self.look_at_left_out(replica).await
    }

    fn take(&self) -> (BTreeMap<Place, Found>, BTreeSet<Place>) {
        let mut state = self.lock();
        let mut found = BTreeMap::new();
        let mut drafts = 0;
        while let Some(first) = state.found.first_entry() {
            drafts += first.get().drafts.len() + first.get().gone.len();
            if drafts > FINDINGS_TOGETHER_MAX && !found.is_empty() {
                break;
            }
            let (place, of) = first.remove_entry();
            found.insert(place, of);
        }
        let mut damaged = BTreeSet::new();
        while damaged.len() < FINDINGS_TOGETHER_MAX
            && let Some(place) = state.damaged.pop_first()
        {
            damaged.insert(place);
        }
        (found, damaged)
    }

    /// Decides what of what was found is to be written.
    fn settle_found<'a>(&self, found: impl Iterator<Item = &'a Found>, writes: &mut Writes) {
        let mut state = self.lock();
        let mut room = FINDINGS_OPEN_MAX.saturating_sub(state.open() + writes.file.len());
        for found in found {
            let mut is_whole = true;
            for draft in &found.drafts {
                let id = draft.id();
                if state.is_filed(&id) {
                    continue;
                }
                if room == 0 {
                    is_whole = false;
                    break;
                }
                room -= 1;
                writes.file.insert(id, draft.clone());
            }
            writes.resolve.extend(&found.gone);
            if is_whole {
                state.let_in(&found.place);
            } else {
                state.leave_out(found.place);
            }
        }
    }

    /// Decides what is to be written about damaged documents, as the store has them now.
    async fn look_at_damage(
        self: &Arc<Self>,
        replica: &Replica,
        places: &BTreeSet<Place>,
        writes: &mut Writes,
    ) -> Result<(), Error> {
        if places.is_empty() {
            return Ok(());
        }
        let name = replica.device().name;
        let (findings, places) = (Arc::clone(self), places.clone());
        let looked = replica.blocking(move |shared| {
            let mut writes = Writes::default();
            for place in places {
                let (workspace, document) = place;
                let key = Key::damage(&workspace, &document);
                let damage = shared.reader.read(&key)?;
                let damage = damage.map(|value| decode::<DamageRow>(&key, &value));
                let draft = damage.transpose()?.map(|damage| {
                    entries::of_damage(workspace, document, (&shared.peer, &name), &damage)
                });
                let id = draft.as_ref().map(EntryDraft::id);
                let mine = entries::damage_on(&shared.peer);
                let mut state = findings.lock();
                let known = state.entries.iter().filter(|(known, of)| {
                    of.place == place
                        && of.is_open
                        && of.topic.starts_with(&mine)
                        && Some(**known) != id
                });
                writes.resolve.extend(known.map(|(known, _)| *known));
                if let Some(draft) = draft {
                    if state.is_filed(&draft.id()) {
                        continue;
                    }
                    if state.open() + writes.file.len() < FINDINGS_OPEN_MAX {
                        writes.file.insert(draft.id(), draft);
                    } else {
                        state.leave_out(place);
                    }
                }
            }
            Ok(writes)
        });
        let looked = looked.await?;
        writes.file.extend(looked.file);
        writes.resolve.extend(looked.resolve);
        Ok(())
    }

    /// After a restart: finds the documents that were left out, by their rows.
    async fn seek(self: &Arc<Self>, replica: &Replica) -> Result<(), Error> {
        let sought = self.lock().sought();
        let Some(workspace) = sought else {
            return Ok(());
        };
        let findings = Arc::clone(self);
        replica
            .blocking(move |shared| {
                let mut range = KeyRange::index(&workspace, MEETING);
                loop {
                    let rows = shared.reader.scan(&Scan {
                        range: range.clone(),
                        direction: Direction::Ascending,
                        rows_max: PAGE_ROWS,
                        bytes_max: usize::MAX,
                    })?;
                    let mut state = findings.lock();
                    for (key, value) in &rows.rows {
                        let shows = IndexRow::decode(value).is_ok_and(|row| may_show(&row));
                        if let Some(document) = key.document().filter(|_| shows) {
                            let place = (workspace, document);
                            if !state.about.contains_key(&place) {
                                state.leave_out(place);
                            }
                        }
                    }
                    match rows.rows.last().filter(|_| rows.more) {
                        Some((last, _)) => range = range.after(last),
                        None => break,
                    }
                }
                let mut state = findings.lock();
                state.left_out.entry(workspace).or_default().is_to_be_sought = false;
                Ok(())
            })
            .await?;
        self.look_again(replica, of_workspace(workspace)).await
    }

    /// Looks at some of what was left out, where there is room again; whether there may be more to do.
    async fn look_at_left_out(self: &Arc<Self>, replica: &Replica) -> Result<bool, Error> {
        let places = self.lock().next_left_out();
        for place in &places {
            self.look_again(replica, *place).await?;
        }
        Ok(!places.is_empty())
    }

    /// Looks at a document whose row is as it was.
    async fn look_again(self: &Arc<Self>, replica: &Replica, place: Place) -> Result<(), Error> {
        let (workspace, document) = place;
        let mut lease = replica.shared.documents.lease(workspace, document).await;
        let findings = Arc::clone(self);
        let look = replica.blocking(move |shared| {
            let loaded = shared.documents.load(&mut lease, Purpose::Index);
            let look = loaded.and_then(|loaded| match index_row(document, loaded)? {
                Some(row) => findings.look(&shared.reader, place, loaded, &row),
                None => Ok(None),
            });
            shared.documents.give_back(lease);
            if shared
                .reader
                .contains(&Key::damage(&workspace, &document))?
            {
                findings.lock().damaged.insert(place);
            }
            look
        });
        match look.await {
            Ok(Some(look)) => self.note([look]),
            Ok(None) => self.lock().let_in(&place),
            Err(error) if is_passing(&error) => return Err(error),
            // Purged, damaged or of a later version: it is looked at when it changes.
            Err(error) => {
                tracing::debug!(%document, %error, "what was left out cannot be looked at");
                self.lock().let_in(&place);
            }
        }
        Ok(())
    }

    /// Tells how much is left out, where that is other than was told; whether anything was told.
    async fn count(&self, replica: &Replica) -> Result<bool, Error> {
        let peer = &replica.shared.peer;
        let mine = entries::left_out_by(peer);
        let mut writes = Writes::default();
        let mut counted = Vec::new();
        {
            let state = self.lock();
            let uncounted = state.left_out.iter();
            let uncounted = uncounted.filter(|(_, of)| of.is_uncounted());
            let uncounted: Vec<_> = uncounted
                .map(|(workspace, of)| (*workspace, of.documents.len(), of.is_least))
                .collect();
            for (workspace, count, is_least) in uncounted {
                let mut known = state.entries.iter();
                let open = known.find(|(_, known)| {
                    known.is_open && known.place.0 == workspace && known.topic.starts_with(&mine)
                });
                if count > 0 {
                    let since = wall_now();
                    let mut draft = entries::of_left_out(workspace, peer, since, count, is_least);
                    if let Some((_, known)) = open {
                        draft.topic = known.topic.clone();
                    }
                    writes.file.insert(draft.id(), draft);
                } else {
                    writes.resolve.extend(open.map(|(id, _)| *id));
                }
                counted.push((workspace, count));
            }
        }
        if !writes.is_empty() {
            self.write(replica, &writes).await?;
        }
        let mut state = self.lock();
        for (workspace, count) in &counted {
            if let Some(left_out) = state.left_out.get_mut(workspace) {
                left_out.told = *count;
            }
        }
        state
            .left_out
            .retain(|_, of| of.is_uncounted() || of.told > 0 || of.is_to_be_sought);
        Ok(!counted.is_empty())
    }

    /// Writes a batch whole; where one entry cannot be written, the others one by one.
    async fn write(&self, replica: &Replica, writes: &Writes) -> Result<(), Error> {
        let home = replica.device().home;
        let parts = writes.parts().into_iter().map(|(_, part)| part).collect();
        match replica.edit_together(home, parts).await {
            Ok(()) => return Ok(()),
            Err(error) if is_passing(&error) => return Err(error),
            Err(error) => tracing::debug!(%error, "entries are written one by one"),
        }
        for (id, part) in writes.parts() {
            match replica.edit_together(home, vec![part]).await {
                Ok(()) => continue,
                Err(error) if is_passing(&error) => return Err(error),
                // It was seen to so long ago that it was purged.
                Err(Error::DocumentDeleted { .. }) => {}
                Err(error) => {
                    tracing::warn!(entry = %id, %error, "an inbox entry cannot be written")
                }
            }
            // Else the same would be tried for as long as its document is left out.
            if writes.file.contains_key(&id) {
                self.lock().unwritable.insert(id);
            }
        }
        Ok(())
    }
}

impl LeftOut {
    /// Whether other than what was told is left out.
    fn is_uncounted(&self) -> bool {
        self.documents.len() != self.told && !self.is_to_be_sought
    }
}

impl State {
    fn let_in(&mut self, (workspace, document): &Place) {
        if let Some(left_out) = self.left_out.get_mut(workspace) {
            left_out.documents.remove(document);
        }
    }

    fn is_uncounted(&self) -> bool {
        self.left_out.values().any(LeftOut::is_uncounted)
    }

    fn sought(&self) -> Option<WorkspaceId> {
        let mut left_out = self.left_out.iter();
        let sought = left_out.find(|(_, of)| of.is_to_be_sought);
        sought.map(|(workspace, _)| *workspace)
    }

    fn next_left_out(&self) -> Vec<Place> {
        let room = FINDINGS_OPEN_MAX.saturating_sub(self.open());
        let all = self.left_out.iter();
        let all = all.flat_map(|(workspace, of)| of.documents.iter().map(|id| (*workspace, *id)));
        all.take(room.min(FINDINGS_TOGETHER_MAX)).collect()
    }
}

impl Writes {
    fn is_empty(&self) -> bool {
        self.file.is_empty() && self.resolve.is_empty()
    }

    fn parts(&self) -> Vec<(DocumentId, Part)> {
        let file = self.file.iter().map(|(id, draft)| {
            let draft = draft.clone();
            let find = move |editor: &mut reconvene_model::Editor| editor.entry()?.find(&draft);
            (*id, Part::new(*id, EditMode::creating(ENTRY), find))
        });
        let resolve = self.resolve.iter().filter(|id| !self.file.contains_key(id));
        let resolve = resolve.map(|id| {
            let resolve =
                |editor: &mut reconvene_model::Editor| editor.entry()?.resolve(CAUSE_GONE);
            (*id, Part::new(*id, EditMode::default(), resolve))
        });
        file.chain(resolve).collect()
    }
}

/// Whether the same may succeed later.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Store(error) | Error::Edit(EditError::Store(error) | EditError::Unknown(error)) => {
            !matches!(error, StoreError::Damaged { .. })
        }
        Error::Closed | Error::Edit(EditError::Busy | EditError::Stale { .. }) => true,
        _ => false,
    }
}
