//! Letting go of what a snapshot holds: the changes of a document that no peer's cursor needs singly
//! any more, and the feed entries that named them.
//!
//! The host makes the snapshot, proves it, and stores it; only when that is durable does it ask. The
//! decision here is whether anybody may still need what would go. A peer that follows our feed needs
//! it until it has acknowledged it, unless it is far behind and takes snapshots.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::ingest::{PendingBatch, Work};
use super::{Compact, CompactHold, Engine, Event, ReadQuery, Reading, Workspace, WorkspaceState};
use crate::feed::FeedPoint;
use crate::ids::{FeedSeq, PeerId, WorkspaceId};
use crate::keys::{Key, KeyRange};
use crate::limits;
use crate::mutants::Mutant;
use crate::records::{FeedRow, PeerRow, Record as _, RecordError};
use crate::storage::{Rows, Scan};
use crate::stored::last_for;

/// A compaction on its way to its turn.
#[derive(Debug)]
pub(super) struct Compaction {
    pub(super) compact: Compact,
    /// What the store says of each peer of the workspace; `None` until it was read.
    holders: Option<Holders>,
}

/// What a store says of each peer of a workspace.
pub(super) type Holders = BTreeMap<PeerId, PeerRow>;

impl Engine {
    pub(super) fn on_compact(&mut self, compact: Compact) {
        if let Some(error) = self.failed.clone() {
            let request = compact.request;
            let why = CompactHold::Store(error);
            return self.emit(Event::CompactRefused { request, why });
        }
        let holders = None;
        self.enqueue(Work::Compact(Box::new(Compaction { compact, holders })));
    }

    /// Whether everything a compaction or a purge needs was read; asks for what was not.
    pub(super) fn is_compaction_prepared(&mut self, job: &mut super::ingest::Job) -> bool {
        if !job.is_pinned() {
            return false;
        }
        let holders = match &job.work {
            Work::Compact(compaction) => &compaction.holders,
            Work::Purge(purging) => &purging.holders,
            _ => return true,
        };
        let is_read = holders.is_some();
        let Some((workspace, documents)) = job.work.documents() else {
            return true;
        };
        if is_read {
            let mut documents = documents.iter();
            return documents.all(|document| self.is_loaded(&workspace, document));
        }
        if job.looking_up == 0 {
            job.looking_up = 1;
            let scan =
                Scan::ascending(KeyRange::peers(&workspace), limits::PEERS_PER_WORKSPACE_MAX);
            self.read(ReadQuery::Scan(scan), Reading::Holders(workspace));
        }
        false
    }

    pub(super) fn on_holders(
        &mut self,
        workspace: WorkspaceId,
        rows: &Rows,
    ) -> Result<(), RecordError> {
        let mut known = BTreeMap::new();
        for (key, value) in &rows.rows {
            if let Some(peer) = key.peer_id() {
                known.insert(peer, PeerRow::decode(value)?);
            }
        }
        let Some(job) = self.jobs.front_mut() else {
            return Ok(());
        };
        let holders = match &mut job.work {
            Work::Compact(compaction) if compaction.compact.workspace == workspace => {
                &mut compaction.holders
            }
            Work::Purge(purging) if purging.purge.workspace == workspace => &mut purging.holders,
            _ => return Ok(()),
        };
        *holders = Some(known);
        job.looking_up = 0;
        Ok(())
    }

    pub(super) fn carry_out_compaction(&mut self, compaction: Compaction) {
        let Compaction { compact, holders } = compaction;
        let request = compact.request;
        let (workspace, document) = (compact.workspace, compact.document);
        if let Err(why) = self.may_compact(&compact, holders.unwrap_or_default()) {
            self.unpin(&workspace, &[document]);
            return self.emit(Event::CompactRefused { request, why });
        }
        let deletes_unread = self.is(Mutant::DeletesUnread);
        let Some(state) = self.ready(&workspace) else {
            panic!("a prepared job's workspace is loaded");
        };
        let Some(row) = state.head_row(&document) else {
            panic!("a compaction was let through of a document that is not stored");
        };
        let (last, entry) = &compact.last;
        row.snapshots
            .retain(|known| !compact.snapshots.contains(known));
        row.snapshots.extend(compact.snapshot);
        row.change_count -= compact.changes.len() as u64;
        let bytes = compact.changes.iter().map(|(_, size)| u64::from(*size));
        row.change_bytes -= bytes.sum::<u64>();
        let head = (Key::head(&workspace, &document), row.encode());
        let since = row.heads.iter().copied().next_back();
        let unread = since.filter(|_| deletes_unread && row.change_count > 0);
        let gone = compact.entries.iter().max().copied();
        state.compacted = state.compacted.max(gone.unwrap_or(FeedSeq(0)));
        let origin = match compact.snapshot {
            // Others wrote some of it perhaps, and the index may not have seen those entries.
            Some(_) => Some(self.config.me),
            None => entry.origin,
        };
        let entry = FeedRow {
            changes: Vec::new(),
            snapshot: compact.snapshot,
            origin,
            previous: compact.previous,
            ..entry.clone()
        };
        let mut puts = vec![head, (Key::feed(&workspace, *last), entry.encode())];
        puts.extend(self.feed_head_put(workspace));
        let changes = compact.changes.iter();
        let changes = changes.map(|(hash, _)| Key::change(&workspace, &document, hash));
        let entries = compact.entries.iter();
        let entries = entries.map(|seq| Key::feed(&workspace, *seq));
        let named = compact.snapshots.iter().map(|old| &old.hash);
        let snapshots = named.chain(&compact.orphans);
        let made = compact.snapshot.map(|snapshot| snapshot.hash);
        let snapshots = snapshots.filter(|old| made != Some(**old));
        let snapshots = snapshots.map(|old| Key::snapshot(&workspace, &document, old));
        let mut deletes: Vec<_> = changes.chain(entries).chain(snapshots).collect();
        deletes.extend(unread.map(|hash| Key::change(&workspace, &document, &hash)));
        let pending = PendingBatch::of_compaction(request, (workspace, document));
        self.submit(pending, puts, deletes, None);
    }

    fn feed_head_put(&mut self, workspace: WorkspaceId) -> Option<(Key, Bytes)> {
        let state = self.ready(&workspace)?;
        Some((Key::feed_head(&workspace), Self::feed_head(state)))
    }

    /// Whether what a snapshot holds is on its way out of the store: whoever reads the feed waits until
    /// it is gone, or links are closed since the store failed.
    pub(super) fn is_letting_go(&self, workspace: &WorkspaceId) -> bool {
        self.pending.iter().any(|batch| batch.lets_go_of(workspace))
    }

    fn may_compact(
        &mut self,
        compact: &Compact,
        mut holders: BTreeMap<PeerId, PeerRow>,
    ) -> Result<(), CompactHold> {
        let workspace = compact.workspace;
        let last = compact.last.0;
        let links = self.links.values();
        let linked = links.filter(|link| link.shares(&workspace));
        let linked: Vec<_> = linked.map(|link| link.peer).collect();
        let is_leaving = self.leaving.contains_key(&workspace);
        let Some(state) = self.ready(&workspace) else {
            return Err(CompactHold::Changed);
        };
        let stored = state.stored;
        // An orphan that a head row names by now is none.
        let is_orphan_named = state.head_row(&compact.document).is_some_and(|row| {
            let named = row.snapshots.iter();
            named
                .filter(|known| !compact.snapshots.contains(known))
                .any(|known| compact.orphans.contains(&known.hash))
        });
        // What was read to make the snapshot is as it was before the document was entered anew.
        let was_healed = state.healed_at.get(&compact.document);
        let was_healed = was_healed.is_some_and(|at| last < *at);
        if is_leaving || is_orphan_named || was_healed {
            return Err(CompactHold::Changed);
        }
        let unchanged = last <= stored.seq
            && state.head_row(&compact.document).is_some_and(|row| {
                let bytes = compact.changes.iter().map(|(_, size)| u64::from(*size));
                // Another compaction that was made of the same, and took it away, shows in these.
                let is_first = match compact.snapshot {
                    Some(_) => row.snapshots == compact.snapshots,
                    None => row.change_count == compact.singly,
                };
                row.feed_seq >= last
                    && is_first
                    && row.purged_at.is_some() == compact.snapshot.is_none()
                    && row.change_count >= compact.changes.len() as u64
                    && row.change_bytes >= bytes.sum()
            });
        if !unchanged {
            return Err(CompactHold::Changed);
        }
        // What this engine learned since is newer than what was read.
        let live = state.peers.iter();
        holders.extend(live.map(|(peer, known)| (*peer, known.row.clone())));
        for (peer, row) in holders {
            let last = last_for(&compact.last, compact.last_by_others, &peer);
            // With whoever is linked something may be on its way that was not read yet.
            let is_linked = linked.contains(&peer);
            if needs_singly(&row, stored, last) || (is_linked && !has_passed(&row, stored, last)) {
                return Err(CompactHold::Behind { peer });
            }
        }
        let Some(WorkspaceState::Ready(state)) = self.workspaces.get(&workspace) else {
            return Err(CompactHold::Changed);
        };
        let exchanging = self.links.values().find(|link| {
            let flow = link.flows.get(&workspace);
            flow.is_some_and(|flow| !flow.is_past(last, state.released))
        });
        match exchanging {
            Some(link) => Err(CompactHold::Exchanging { peer: link.peer }),
            None => Ok(()),
        }
    }
}

/// Whether a peer has acknowledged everything up to the feed entry `last`.
fn has_passed(row: &PeerRow, end: FeedPoint, last: FeedSeq) -> bool {
    row.acknowledged
        .is_some_and(|cursor| cursor.epoch == end.epoch && cursor.seq >= last)
}

/// Whether a peer may yet ask for changes up to the feed entry `last` one by one; `end` is where the
/// feed ends.
pub fn needs_singly(row: &PeerRow, end: FeedPoint, last: FeedSeq) -> bool {
    match row.acknowledged {
        Some(cursor) if cursor.epoch == end.epoch && cursor.seq < last => {
            let behind = end.seq.0.saturating_sub(cursor.seq.0);
            !(row.takes_snapshots && behind > limits::BEHIND_ENTRIES_MAX)
        }
        // Whoever holds it needs nothing of it. A cursor into another history, or none, says nothing
        // of this feed: such a peer is compared with document by document, and gets what it lacks.
        _ => false,
    }
}

impl Workspace {
    /// The head row of a document that has a slot and is stored.
    fn head_row(
        &mut self,
        document: &crate::ids::DocumentId,
    ) -> Option<&mut crate::records::HeadRow> {
        self.slots.row_mut(document)
    }
}
