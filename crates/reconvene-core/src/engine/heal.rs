//! Damage to single records: found where they are read, quarantined, and healed.
//!
//! Whatever record of a document is damaged, the document is examined as a whole, in its turn among
//! the jobs and with nothing else on its way to the store. Then one batch keeps the bytes of what is
//! damaged in quarantine, removes it, takes from the journal what only that still has, and enters in
//! the feed, anew, what is left of the document. If something is lost that is written down, too, and
//! a new history begins, with no cursor kept: so every peer compares its catalogue with ours, finds
//! that the document differs, and gives back what it holds of it. Nothing that reads is given up, but
//! for what is left of a document of which nothing says the kind: nobody can read that, and it is kept
//! in quarantine, too.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::ingest::{Entry, Job, PendingBatch, Work};
use super::purge::tombstone_of;
use super::relay::Waypoints;
use super::{CloseReason, Engine, Event, ReadQuery, Reading, Workspace, rebuilt_row};
use crate::examine::{DamagedRecord, Examined, FeedEnd, Found};
use crate::feed::FeedPoint;
use crate::guard::ChangeHeader;
use crate::ids::{ChangeHash, DocumentId, DocumentKind, FeedSeq, LinkId, WorkspaceId};
use crate::keys::{Key, KeyKind, KeyRange};
use crate::limits;
use crate::mutants::Mutant;
use crate::records::{
    ChangeRow, DamageRow, FeedHeadRow, FeedRow, HeadRow, PeerRow, QuarantineRow, Record as _,
};
use crate::storage::{Rows, StoreError};
use crate::time::WallTime;

/// Most changes that one feed entry of a document that was entered anew names.
const ENTRY_CHANGES_MAX: usize = 4096;

/// Named by an entry that only keeps the feed's last place; no document has this id.
const NO_DOCUMENT: DocumentId = DocumentId::from_bytes([0xff; 16]);

/// Damaged records that an event names; the others are counted.
const NAMED_MAX: usize = 3;

/// A document that is to be examined, and what was found.
#[derive(Debug)]
pub(super) struct Examination {
    pub(super) workspace: WorkspaceId,
    pub(super) document: DocumentId,
    is_asked: bool,
    result: Option<Result<Box<Examined>, StoreError>>,
}

/// What waits for a search for damaged records.
#[derive(Clone, Debug)]
pub(super) enum Search {
    /// Documents whose head rows could not be read together.
    Slots(Vec<DocumentId>, StoreError),
    /// The job whose turn it is wants the rows of all peers.
    Holders(StoreError),
    /// Nobody. With what is searched: it is not searched again meanwhile.
    Any(ReadQuery),
}

impl Engine {
    pub(super) fn on_suspect(&mut self, workspace: WorkspaceId, document: Option<DocumentId>) {
        match document {
            Some(document) => self.suspect(workspace, document),
            None if self.failed.is_some() || self.recovering => {}
            None => {
                let ranges = [KeyRange::heads, KeyRange::feed, KeyRange::index_rows];
                let ranges = ranges.map(|range| range(&workspace)).to_vec();
                self.search_any(workspace, ReadQuery::Search { workspace, ranges });
            }
        }
    }

    /// A record of a document is perhaps damaged: has the document examined, ahead of all other work.
    pub(super) fn suspect(&mut self, workspace: WorkspaceId, document: DocumentId) {
        let is_known = self.ready(&workspace).is_some_and(|state| {
            let is_known = state.unreadable.contains(&document);
            if is_known {
                // Whoever waits for its head row waits in vain, also if they came since.
                state.slots.give_up(&document);
            }
            is_known
        });
        let mut jobs = self.jobs.iter();
        let is_queued = jobs.any(|job| match &job.work {
            Work::Heal(known) => (known.workspace, known.document) == (workspace, document),
            _ => false,
        });
        if is_known || is_queued {
            return;
        }
        let work = Work::Heal(Box::new(Examination {
            workspace,
            document,
            is_asked: false,
            result: None,
        }));
        self.enqueue_ahead(workspace, work);
    }

    fn enqueue_ahead(&mut self, workspace: WorkspaceId, work: Work) {
        let is_stopped = self.failed.is_some() || self.recovering;
        if is_stopped || self.leaving.contains_key(&workspace) {
            return;
        }
        self.put_ahead(Job::new(work));
    }

    fn put_ahead(&mut self, job: Job) {
        // What the first job was promised to be told comes to the first job.
        let first = self.jobs.front();
        let place = usize::from(first.is_some_and(|job| job.looking_up > 0));
        self.jobs.insert(place.min(self.jobs.len()), job);
    }

    /// Looks for damaged records among some.
    fn search(&mut self, workspace: WorkspaceId, ranges: Vec<KeyRange>, search: Search) {
        let query = ReadQuery::Search { workspace, ranges };
        self.read(query, Reading::Search(workspace, search));
    }

    /// The same where nothing waits for it, unless it is under way: what it does not find is met again.
    fn search_any(&mut self, workspace: WorkspaceId, query: ReadQuery) {
        let mut reads = self.reads.values();
        let is_searching = reads
            .any(|read| matches!(read, Reading::Search(_, Search::Any(known)) if *known == query));
        if !is_searching {
            let search = Search::Any(query.clone());
            self.read(query, Reading::Search(workspace, search));
        }
    }

    pub(super) fn on_found(&mut self, workspace: WorkspaceId, search: &Search, found: Vec<Found>) {
        match search {
            Search::Slots(_, error) | Search::Holders(error) if found.is_empty() => {
                return self.fail_store(error);
            }
            Search::Slots(documents, _) => {
                let mut sound = documents.clone();
                sound.retain(|document| found.iter().all(|of| of.document != Some(*document)));
                if !sound.is_empty() {
                    let keys = sound.iter().map(|document| Key::head(&workspace, document));
                    let query = ReadQuery::Values(keys.collect());
                    self.read(query, Reading::Slots(workspace, sound));
                }
            }
            Search::Holders(_) => {
                if let Some(job) = self.jobs.front_mut() {
                    job.looking_up = 0; // It asks again.
                }
            }
            Search::Any(_) => {}
        }
        self.see_to(workspace, found);
    }

    /// Has what was found examined or set aside.
    fn see_to(&mut self, workspace: WorkspaceId, found: Vec<Found>) {
        for Found { record, document } in found {
            match (document, record.key.kind()) {
                (Some(document), kind) if kind != Some(KeyKind::Index) => {
                    self.suspect(workspace, document);
                }
                (_, Some(KeyKind::Feed | KeyKind::Peer | KeyKind::Index | KeyKind::Share)) => {
                    let of_share = record.key.share_parts().map(|(_, workspace)| workspace);
                    let workspace = of_share.unwrap_or(workspace);
                    let known = self.jobs.iter().position(
                        |job| matches!(&job.work, Work::SetAside(_, known) if known.key == record.key),
                    );
                    match known.and_then(|place| self.jobs.remove(place)) {
                        // What asks again and again may be in its way.
                        Some(queued) => self.put_ahead(queued),
                        None => {
                            let work = Work::SetAside(workspace, Box::new(record));
                            self.enqueue_ahead(workspace, work);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// A record that was read for a purpose does not read, or is not what its key promises.
    pub(super) fn on_damage_read(&mut self, reading: &Reading, error: StoreError) {
        match reading {
            Reading::Slots(workspace, documents) if self.is(Mutant::TakesUnreadableForAbsent) => {
                if let Some(state) = self.ready(workspace) {
                    for document in documents {
                        state.slots.settle(document, None);
                    }
                }
            }
            Reading::Slots(workspace, documents) => {
                let heads = documents.iter();
                let heads = heads.map(|document| KeyRange::one(&Key::head(workspace, document)));
                let search = Search::Slots(documents.clone(), error);
                self.search(*workspace, heads.collect(), search);
            }
            Reading::Holders(workspace) => {
                let peers = vec![KeyRange::peers(workspace)];
                self.search(*workspace, peers, Search::Holders(error));
            }
            Reading::Holds(workspace, document, hashes) => {
                // It is taken not to hold what was asked for: what came is refused for want of it.
                let absent = vec![false; hashes.len()];
                self.on_holds(*workspace, *document, hashes, &absent);
                self.suspect(*workspace, *document);
            }
            Reading::FeedPage(link, workspace) => {
                let ranges = vec![KeyRange::feed(workspace)];
                let workspace = *workspace;
                self.search_any(workspace, ReadQuery::Search { workspace, ranges });
                self.close_link(*link, CloseReason::Healing);
            }
            Reading::Catalogue(link, workspace) => {
                let ranges = vec![KeyRange::heads(workspace)];
                let workspace = *workspace;
                self.search_any(workspace, ReadQuery::Search { workspace, ranges });
                self.close_link(*link, CloseReason::Healing);
            }
            Reading::WantRows(link, workspace) => {
                let wanted = self.flow(*link, workspace);
                let wanted = wanted.map_or_else(Vec::new, |flow| flow.exchange.asking());
                let heads = wanted.iter();
                let heads = heads.map(|document| KeyRange::one(&Key::head(workspace, document)));
                let ranges = heads.collect();
                let workspace = *workspace;
                self.search_any(workspace, ReadQuery::Search { workspace, ranges });
                self.close_link(*link, CloseReason::Healing);
            }
            Reading::Exchange(link, workspace)
            | Reading::ExchangeHead(link, workspace)
            | Reading::ExchangeSnapshots(link, workspace)
            | Reading::ExchangeBeyond(link, workspace) => {
                let flow = self.flow(*link, workspace);
                let document = flow.and_then(|flow| flow.exchange.answering());
                if let Some(document) = document {
                    self.suspect(*workspace, document);
                }
                self.close_link(*link, CloseReason::Healing);
            }
            Reading::Peers(link, workspaces) => {
                let peer = self.links.get(link).map(|state| state.peer);
                for (workspace, peer) in workspaces.iter().zip(peer.iter().cycle()) {
                    let ranges = vec![KeyRange::one(&Key::peer(workspace, peer))];
                    let workspace = *workspace;
                    self.search_any(workspace, ReadQuery::Search { workspace, ranges });
                }
                self.close_link(*link, CloseReason::Healing);
            }
            Reading::Workspace(workspace, damaged) => {
                let reading = Reading::FeedEnd(*workspace, damaged.clone(), Some(error));
                self.read(ReadQuery::FeedEnd(*workspace), reading);
            }
            Reading::Roster => {
                self.roster.read_again();
                self.search_shares();
            }
            Reading::Shares(link) => {
                self.search_shares();
                self.close_link(*link, CloseReason::Healing);
            }
            // What was lost of which document is then not known until it is met again.
            Reading::Damages(workspace) => self.read_workspace(*workspace, BTreeMap::new()),
            _ => self.on_read_failed(reading, error),
        }
    }

    /// Shares that do not read are set aside: who had them is told again, or entered by the host.
    fn search_shares(&mut self) {
        let workspace = WorkspaceId::from_bytes([0; 16]);
        let ranges = vec![KeyRange::shares()];
        self.search_any(workspace, ReadQuery::Search { workspace, ranges });
    }

    /// The end of a workspace's feed, of which the record did not read, for a reason, or was not there.
    /// What is lost is of a history that nobody can tell from another any more: a new one begins.
    pub(super) fn on_feed_end(
        &mut self,
        workspace: WorkspaceId,
        damaged: &BTreeMap<DocumentId, DamageRow>,
        why: Option<&StoreError>,
        end: FeedEnd,
    ) {
        let lost = match (end, why) {
            (FeedEnd::Unused, None) => return self.load_workspace(workspace, damaged, None),
            (FeedEnd::Lost(lost), _) => *lost,
            // It came and went, which is no damage that can be mended.
            (_, Some(error)) => return self.fail_store(error),
            (FeedEnd::Read, None) => return self.read_workspace(workspace, damaged.clone()),
        };
        let epoch = self.fresh_epoch();
        let unknown = FeedPoint::start_of(epoch).digest;
        let row = FeedHeadRow {
            point: FeedPoint {
                epoch,
                seq: lost.last,
                digest: lost.digest.unwrap_or(unknown),
            },
            documents: lost.documents,
            compacted: lost.last,
        };
        // What the journal has of earlier histories stays until others hold it.
        self.forked.insert(workspace);
        self.replays.entry(workspace).or_default().through = lost.last;
        self.load_workspace(workspace, damaged, Some(row));
        let record = Box::new(lost.record);
        self.enqueue_ahead(workspace, Work::SetAside(workspace, record));
        self.see_to(workspace, lost.damaged);
    }

    /// Bodies of a document could not be sent, and nothing after them on the link was.
    pub(super) fn on_send_failed(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        document: Option<DocumentId>,
        error: &StoreError,
    ) {
        if let (StoreError::Damaged { .. }, Some(document)) = (error, document) {
            self.suspect(workspace, document);
            return self.close_link(link, CloseReason::Healing);
        }
        self.close_link(link, CloseReason::StoreFailed);
        self.emit(Event::StoreFailed {
            error: error.clone(),
        });
    }

    /// An entry that the feed must have is missing.
    pub(super) fn on_entry_missing(&mut self, link: LinkId, workspace: WorkspaceId, seq: FeedSeq) {
        self.search_any(workspace, ReadQuery::Owner { workspace, seq });
        self.close_link(link, CloseReason::Healing);
    }

    /// Whether a document was examined; asks for it once nothing is on its way to the store.
    pub(super) fn is_examined(&mut self, examination: &mut Examination) -> bool {
        if examination.result.is_some() {
            return true;
        }
        let (workspace, document) = (examination.workspace, examination.document);
        if !self.ensure_workspace(workspace) || !self.pending.is_empty() {
            return false;
        }
        if !std::mem::replace(&mut examination.is_asked, true) {
            let roots = self.config.roots.iter();
            let query = ReadQuery::Examine {
                workspace,
                document,
                roots: roots.map(|(hash, root)| (*hash, root.kind)).collect(),
            };
            self.read(query, Reading::Examine(workspace, document));
        }
        false
    }

    pub(super) fn on_examined(
        &mut self,
        workspace: WorkspaceId,
        document: DocumentId,
        result: Result<Box<Examined>, StoreError>,
    ) {
        for job in &mut self.jobs {
            if let Work::Heal(known) = &mut job.work
                && (known.workspace, known.document) == (workspace, document)
            {
                known.result = Some(result);
                return;
            }
        }
    }

    /// Whether a batch that takes away what was damaged is on its way to the store.
    pub(super) fn is_healing(&self) -> bool {
        self.pending.back().is_some_and(PendingBatch::heals)
    }

    pub(super) fn carry_out_heal(&mut self, examination: Examination) {
        let (workspace, document) = (examination.workspace, examination.document);
        let examined = match examination.result {
            Some(Ok(examined)) => *examined,
            Some(Err(error)) => return self.give_up(workspace, document, error.to_string()),
            None => return,
        };
        if !examined.is_damaged() {
            if let Some(state) = self.ready(&workspace) {
                state.slots.settle(&document, examined.head);
            }
            return;
        }
        let what = describe(&examined.damaged);
        // Of a document whose kind nothing says nothing is left.
        let kind = examined.kind.unwrap_or(DocumentKind(0));
        if !self.is(Mutant::HealsQuietly) {
            self.begin_history(workspace, CloseReason::Healing);
        }
        self.heal(workspace, document, kind, examined, what);
    }

    /// Puts what is left of a document in the place of what is damaged.
    fn heal(
        &mut self,
        workspace: WorkspaceId,
        document: DocumentId,
        kind: DocumentKind,
        examined: Examined,
        what: String,
    ) {
        let now = self.now.wall;
        let me = self.config.me;
        let roots = self.config.roots.iter();
        let roots = roots.filter(|(_, root)| root.kind == kind);
        let roots: Vec<ChangeHash> = roots.map(|(hash, _)| *hash).collect();
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        let Examined {
            head,
            is_purged,
            others,
            mut remains,
            recovered,
            damaged,
            lost,
            entries: old_entries,
            peers,
            ..
        } = examined;
        let mut puts = quarantined(&workspace, &damaged, now);
        let mut deletes: BTreeSet<Key> = damaged.iter().map(|record| record.key.clone()).collect();
        deletes.extend(old_entries.iter().map(|seq| Key::feed(&workspace, *seq)));
        let mut damage = DamageRow {
            since: now,
            what: what.clone(),
            lost,
            held: head
                .as_ref()
                .map_or_else(BTreeMap::new, |row| row.actors.clone()),
            is_vague: false,
        };
        damage.is_vague = head.is_none()
            && (remains.is_empty() && recovered.is_empty()
                || damaged
                    .iter()
                    .any(|record| record.key.kind() == Some(KeyKind::Snapshot)));
        for (header, body) in recovered {
            let key = Key::change(&workspace, &document, &header.hash);
            let envelope = Bytes::new();
            puts.push((key, ChangeRow { body, envelope }.encode()));
            remains.changes.push(header);
        }
        // A change starts after all operations it depends on: in this order it comes after them.
        remains
            .changes
            .sort_by_key(|header| (header.start_op, header.hash));
        let row = rebuilt_row(kind, &remains, &roots);
        let place = (workspace, document);
        let (row, rows) = if is_purged {
            let singly = remains.changes.iter();
            let singly = singly.map(|header| Key::change(&workspace, &document, &header.hash));
            let whole = remains.snapshots.iter();
            let whole = whole.map(|(named, _)| Key::snapshot(&workspace, &document, &named.hash));
            deletes.extend(singly.chain(whole));
            puts.retain(|(key, _)| key.kind() != Some(KeyKind::Change));
            let mut row = head.clone().unwrap_or(row);
            row.snapshots.clear();
            (row.change_count, row.change_bytes) = (0, 0);
            let at = row.purged_at.unwrap_or(now);
            row.purge(at);
            let rows = vec![entry_of_tombstone(state, &document, &row)];
            (Some(row), rows)
        } else if remains.is_empty() {
            // The feed's last entry must not be a gap.
            let rows = vec![entry_of(state, &document, kind, None, &[])];
            deletes.insert(Key::head(&workspace, &document));
            (None, rows)
        } else {
            let named = remains.snapshots.iter();
            let named: Vec<_> = named.map(|(named, _)| *named).collect();
            let mut rows = Vec::new();
            for named in named {
                rows.push(entry_of(state, &document, kind, Some(named), &[]));
            }
            for changes in remains.changes.chunks(ENTRY_CHANGES_MAX) {
                rows.push(entry_of(state, &document, kind, None, changes));
            }
            (Some(row), rows)
        };
        let is_counted = |row: &Option<HeadRow>| {
            u64::from(row.as_ref().is_some_and(|row| row.purged_at.is_none()))
        };
        // What a head row that does not read was counted as is not known.
        let others = others.unwrap_or_else(|| state.documents.saturating_sub(is_counted(&head)));
        state.documents = others + is_counted(&row);
        let last = old_entries.last().copied().unwrap_or_default();
        state.compacted = state.compacted.max(last);
        let mut previous = FeedSeq(0);
        let mut entries = Vec::new();
        for (point, mut entry) in rows {
            entry.origin = Some(me);
            entry.previous = previous;
            previous = point.seq;
            puts.push((Key::feed(&workspace, point.seq), entry.encode()));
            entries.push(Entry::of_rebuilt(place, kind, point, me));
        }
        let row = row.map(|row| HeadRow {
            feed_seq: previous,
            ..row
        });
        if let Some(row) = &row {
            puts.push((Key::head(&workspace, &document), row.encode()));
        }
        if let Some(known) = state.damaged.get(&document) {
            let mut merged = known.clone();
            merged.merge(damage);
            damage = merged;
        }
        let is_over = row.as_ref().is_some_and(|row| damage.is_over(row));
        let lost = damage.lost.len() as u64;
        if is_over {
            if state.damaged.remove(&document).is_some() {
                deletes.insert(Key::damage(&workspace, &document));
            }
        } else {
            puts.push((Key::damage(&workspace, &document), damage.encode()));
            state.damaged.insert(document, damage);
        }
        forget_cursors(state, workspace, peers, &mut puts);
        state.healed_at.insert(document, previous);
        state.slots.replace(document, row);
        state.persisted = true;
        puts.push((Key::feed_head(&workspace), Self::feed_head(state)));
        for (key, _) in &puts {
            deletes.remove(key);
        }
        if let Some(entry) = entries.last_mut() {
            entry.is_healed = is_over;
        }
        let mut pending = PendingBatch::of_healing(place, entries);
        pending.told.push(Event::DocumentDamaged {
            workspace,
            document,
            what,
            lost,
        });
        // At once: it is so whether or not the batch is stored.
        if let Some(fresh) = self.fresh.remove(&workspace) {
            let since = fresh.as_of.wall;
            self.emit(Event::Stale { workspace, since });
        }
        self.submit(pending, puts, deletes.into_iter().collect(), None);
        // What the journal keeps of earlier histories stays until others hold what was entered now.
        let replay = self.replays.entry(workspace).or_default();
        replay.through = replay.through.max(previous);
    }

    /// Nothing can be done about a document here: that is written down, it is left as it is, and what
    /// comes of it is refused until it was examined anew after a restart.
    fn give_up(&mut self, workspace: WorkspaceId, document: DocumentId, what: String) {
        let damage = DamageRow {
            since: self.now.wall,
            what: what.clone(),
            is_vague: true,
            ..DamageRow::default()
        };
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        state.unreadable.insert(document);
        state.slots.give_up(&document);
        let known = state.damaged.entry(document).or_insert(damage);
        known.what.clone_from(&what);
        let put = (Key::damage(&workspace, &document), known.encode());
        let mut pending = PendingBatch::of_healing_nothing();
        pending.told.push(Event::DocumentDamaged {
            workspace,
            document,
            what,
            lost: 0,
        });
        self.submit(pending, vec![put], Vec::new(), None);
    }

    /// Sets aside a damaged record that no document is made of: the row of a peer, which is compared
    /// with anew; a feed entry that no document has, of which only the last one's place has to be
    /// kept; an index row, which stays where it is until the host has made it anew.
    pub(super) fn carry_out_set_aside(&mut self, workspace: WorkspaceId, record: &DamagedRecord) {
        let now = self.now.wall;
        let mut puts = quarantined(&workspace, std::slice::from_ref(record), now);
        let (mut deletes, mut entries, mut told) = (Vec::new(), Vec::new(), Vec::new());
        let me = self.config.me;
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        if let Some(peer) = record.key.peer_id() {
            let known = state.peers.get(&peer);
            let row = known.map_or_else(PeerRow::default, |known| known.row.clone());
            puts.push((record.key.clone(), row.encode()));
        } else if let Some(seq) = record.key.feed_seq().filter(|seq| *seq < state.point.seq) {
            deletes.push(record.key.clone());
            state.compacted = state.compacted.max(seq);
            puts.push((Key::feed_head(&workspace), Self::feed_head(state)));
        } else if let Some(seq) = record.key.feed_seq() {
            if seq != state.point.seq {
                return;
            }
            // The feed's last entry must not be a gap.
            deletes.push(record.key.clone());
            state.compacted = state.compacted.max(seq);
            let (point, mut entry) = entry_of(state, &NO_DOCUMENT, DocumentKind(0), None, &[]);
            entry.origin = Some(me);
            let place = (workspace, NO_DOCUMENT);
            entries.push(Entry::of_rebuilt(place, entry.kind, point, me));
            puts.push((Key::feed(&workspace, point.seq), entry.encode()));
            puts.push((Key::feed_head(&workspace), Self::feed_head(state)));
        } else if record.key.kind() == Some(KeyKind::FeedHead) {
            puts.push((record.key.clone(), Self::feed_head(state)));
        } else if record.key.kind() == Some(KeyKind::Share) {
            deletes.push(record.key.clone());
        } else if let Some((_, _, document)) = record.key.index_place() {
            told.push(Event::IndexRowLost {
                workspace,
                document,
            });
        } else {
            return;
        }
        let mut pending = PendingBatch::of_healing_nothing();
        pending.entries = entries;
        pending.told = told;
        self.submit(pending, puts, deletes, None);
    }

    pub(super) fn on_damage_rows(&mut self, workspace: WorkspaceId, rows: &Rows) {
        let rows = rows.rows.iter();
        // One that does not read is not waited for; verifying names it.
        let damaged =
            rows.filter_map(|(key, value)| Some((key.document()?, DamageRow::decode(value).ok()?)));
        self.read_workspace(workspace, damaged.collect());
    }
}

/// Notes what came of a document of which something was lost; whether it is whole by now.
pub(super) fn note_returned(
    state: &mut Workspace,
    workspace: &WorkspaceId,
    document: &DocumentId,
    returned: impl Iterator<Item = ChangeHash>,
    (puts, deletes): (&mut Vec<(Key, Bytes)>, &mut Vec<Key>),
) -> bool {
    let Some(damage) = state.damaged.get_mut(document) else {
        return false;
    };
    let before = damage.lost.len();
    for hash in returned {
        damage.lost.remove(&hash);
    }
    let key = Key::damage(workspace, document);
    let row = state.slots.row_mut(document);
    if row.is_some_and(|row| damage.is_over(row)) {
        deletes.push(key);
        state.damaged.remove(document);
        return true;
    }
    if damage.lost.len() < before {
        puts.push((key, damage.encode()));
    }
    false
}

/// No cursor into a peer's feed says the truth any more, where something was lost, and nothing that
/// was concluded from one.
fn forget_cursors(
    state: &mut Workspace,
    workspace: WorkspaceId,
    stored: BTreeMap<crate::ids::PeerId, PeerRow>,
    puts: &mut Vec<(Key, Bytes)>,
) {
    let mut rows = stored;
    // What this engine knows is newer than what was read, here and by links that are to greet.
    let live = state.peers.iter();
    rows.extend(live.map(|(peer, known)| (*peer, known.row.clone())));
    for (peer, mut row) in rows {
        row.held = None;
        row.verified_at = None;
        puts.push((Key::peer(&workspace, &peer), row.encode()));
        let known = state.peers.entry(peer).or_default();
        known.held_stored = None;
        // What came before, on links that are closed by now, moves no cursor that was let go.
        known.agreed_on = None;
        known.row = row;
        known.dirty = false;
        known.verified = None;
        known.waypoints = Waypoints::default();
    }
}

fn entry_of(
    state: &mut Workspace,
    document: &DocumentId,
    kind: DocumentKind,
    snapshot: Option<crate::records::SnapshotRef>,
    changes: &[ChangeHeader],
) -> (FeedPoint, FeedRow) {
    // In the digest a snapshot stands for what it holds.
    let named = snapshot.map(|named| ChangeHash::from_bytes(*named.hash.as_bytes()));
    let hashes = changes.iter().map(|header| header.hash);
    state.point = state
        .point
        .advance(document, named.into_iter().chain(hashes));
    let sizes = changes.iter().map(|header| {
        let size = u32::try_from(header.body_bytes);
        let size = size.expect("a checked change is far smaller than 4 GiB");
        (header.hash, size)
    });
    let row = FeedRow {
        document: *document,
        kind,
        changes: sizes.collect(),
        origin: None,
        digest: state.point.digest,
        snapshot,
        previous: FeedSeq(0),
        purged: None,
    };
    (state.point, row)
}

fn entry_of_tombstone(
    state: &mut Workspace,
    document: &DocumentId,
    row: &HeadRow,
) -> (FeedPoint, FeedRow) {
    let (point, entry) = entry_of(state, document, row.kind, None, &[]);
    let purged = tombstone_of(row)
        .map(|purged| u32::try_from(purged.bytes()).expect("a tombstone is far below 4 GiB"));
    (point, FeedRow { purged, ..entry })
}

/// The rows that keep the bytes of damaged records.
fn quarantined(
    workspace: &WorkspaceId,
    damaged: &[DamagedRecord],
    at: WallTime,
) -> Vec<(Key, Bytes)> {
    let mut rows = Vec::new();
    for record in damaged {
        let Some(raw) = &record.raw else {
            continue;
        };
        let mut offset = 0;
        loop {
            let end = raw.len().min(offset + limits::QUARANTINE_BYTES_MAX);
            let row = QuarantineRow {
                key: Bytes::copy_from_slice(record.key.as_bytes()),
                raw: raw.slice(offset..end),
                offset: offset as u64,
                what: record.what.clone(),
                at,
                peer: None,
            };
            let mut hasher = Sha256::new();
            hasher.update(record.key.as_bytes());
            hasher.update(row.offset.to_be_bytes());
            hasher.update(&row.raw);
            let hash: [u8; 32] = hasher.finalize().into();
            rows.push((Key::quarantine(workspace, &hash), row.encode()));
            offset = end;
            if offset >= raw.len() {
                break;
            }
        }
    }
    rows
}

/// The first damaged records, for people.
fn describe(damaged: &[DamagedRecord]) -> String {
    let named = damaged.iter().take(NAMED_MAX);
    let named = named.map(|record| format!("{:?}: {}", record.key, record.what));
    let mut what = named.collect::<Vec<_>>().join("; ");
    let others = damaged.len().saturating_sub(NAMED_MAX);
    if damaged.is_empty() {
        what.push_str("changes that its feed names are missing");
    } else if others > 0 {
        what.push_str(&format!("; and {others} more"));
    }
    what
}
