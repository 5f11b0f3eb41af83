//! Edits and received changes on their way into the store: checked, placed in the graph, entered
//! in the feed, batched, and released in feed order once they are behind their barrier.
//!
//! Work is a queue of jobs, carried out strictly in order; only the reads they need run ahead. A
//! document touched by a job or an unstored batch has a slot here, which is always newer than the
//! store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::compact::Compaction;
use super::purge::{Purging, Tombstone, Verdict, tombstone_of};
use super::reconcile::Healing;
use super::shares::Roster;
use super::{
    CompactHold, Edit, EditError, Engine, Event, Output, PurgeError, ReadQuery, Reading, Root,
    Workspace, WorkspaceState, Write,
};
use crate::feed::FeedPoint;
use crate::guard::{ChangeHeader, parse_change};
use crate::ids::{
    BatchId, ChangeHash, DocumentId, DocumentKind, FeedSeq, LinkId, PeerId, RequestId, StoreEpoch,
    WorkspaceId,
};
use crate::keys::{Key, KeyKind};
use crate::limits;
use crate::records::{
    ChangeRow, FeedRow, HeadRow, InviteRow, JournalDocument, JournalFrame, Record, RecordError,
    SnapshotRef, SnapshotRow,
};
use crate::refusal::RefusalCode;
use crate::storage::{Batch, Durability, JournalEntry, JournalReleases, StoreError};
use crate::wire;

mod counters;

/// A change that passed the guard, with its bytes as received.
#[derive(Clone, Debug)]
pub(super) struct CheckedChange {
    header: ChangeHeader,
    body: Bytes,
}

/// A received snapshot that was loaded, with what is in it.
#[derive(Clone, Debug)]
pub(super) struct CheckedSnapshot {
    pub(super) snapshot: SnapshotRef,
    pub(super) body: Bytes,
    pub(super) changes: Vec<ChangeHeader>,
}

#[derive(Debug)]
pub(super) struct JobDocument {
    pub(super) document: DocumentId,
    kind: DocumentKind,
    snapshot: Option<CheckedSnapshot>,
    changes: Vec<CheckedChange>,
    refused: Option<RefusalCode>,
    pub(super) tombstone: Option<Tombstone>,
}

impl JobDocument {
    /// The headers of everything that came, each after its dependencies.
    pub(super) fn headers(&self) -> impl Iterator<Item = &ChangeHeader> {
        let snapshot = self.snapshot.iter().flat_map(|snapshot| &snapshot.changes);
        snapshot.chain(self.changes.iter().map(|change| &change.header))
    }
}

/// Who wants the job done, and what they are owed.
#[derive(Debug)]
pub(super) enum Author {
    Host {
        request: RequestId,
        rows: Vec<(Key, Bytes)>,
    },
    /// A journal frame; done at once if the feed already covers it.
    Journal { epoch: StoreEpoch, through: FeedSeq },
    Peer {
        link: LinkId,
        peer: PeerId,
        number: u64,
        bytes: usize,
        early: bool,
        /// Documents of which an answer ends with this frame.
        answered: Vec<DocumentId>,
    },
}

/// How a peer's cursor moves with a job.
#[derive(Clone, Copy, Debug)]
pub(super) enum CursorMove {
    /// The changes continue the feed from the first place to the second.
    Follow(FeedSeq, FeedPoint),
    /// Reconciliation proved that everything up to here is held.
    Set(FeedPoint),
}

#[derive(Debug)]
pub(super) enum Work {
    Changes {
        workspace: WorkspaceId,
        documents: Vec<JobDocument>,
        author: Author,
        cursor: Option<CursorMove>,
    },
    Write(Write),
    Redeem {
        link: LinkId,
        peer: PeerId,
        secret_hash: [u8; 32],
        invite: Box<InviteRow>,
        device_name: String,
    },
    /// Writes what is known of a peer, when nothing else carries it.
    PeerRow {
        workspace: WorkspaceId,
        peer: PeerId,
    },
    /// Writes the shares a server told of.
    Learn(Learned),
    /// Removes the share of a device that left.
    Left {
        workspace: WorkspaceId,
        peer: PeerId,
    },
    /// Writes the end of the feed, when its epoch changed.
    FeedHead {
        workspace: WorkspaceId,
    },
    Compact(Box<Compaction>),
    Purge(Box<Purging>),
}

impl Work {
    /// The documents whose slots the work needs.
    pub(super) fn documents(&self) -> Option<(WorkspaceId, Vec<DocumentId>)> {
        match self {
            Self::Changes {
                workspace,
                documents,
                ..
            } => {
                let ids = documents.iter().map(|document| document.document);
                Some((*workspace, ids.collect()))
            }
            Self::Compact(compaction) => {
                let compact = &compaction.compact;
                Some((compact.workspace, vec![compact.document]))
            }
            Self::Purge(purging) => {
                let purge = &purging.purge;
                Some((purge.workspace, purge.documents.clone()))
            }
            Self::Write(_)
            | Self::Redeem { .. }
            | Self::PeerRow { .. }
            | Self::FeedHead { .. }
            | Self::Learn(_)
            | Self::Left { .. } => None,
        }
    }
}

/// What a server told of the shares of a workspace: all of it.
#[derive(Debug)]
pub(super) struct Learned {
    pub(super) workspace: WorkspaceId,
    pub(super) server: PeerId,
    pub(super) devices: Vec<wire::SharedDevice>,
}

/// One unit of ordered work.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    /// Whether the job holds references on its documents' slots.
    pinned: bool,
    /// Reads the job asked for that are not answered yet.
    pub(super) looking_up: usize,
}

impl Job {
    fn new(work: Work) -> Self {
        Self {
            work,
            pinned: false,
            looking_up: 0,
        }
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// For a journal frame: its workspace and the last feed entry it was given.
    fn journaled_through(&self) -> Option<(WorkspaceId, StoreEpoch, FeedSeq)> {
        match &self.work {
            Work::Changes {
                workspace,
                author: Author::Journal { epoch, through },
                ..
            } => Some((*workspace, *epoch, *through)),
            _ => None,
        }
    }
}

/// A document that is newer here than in the store, or about to be.
#[derive(Debug, Default)]
struct Slot {
    /// `None` while its head row is being read.
    row: Option<HeadRow>,
    loaded: bool,
    /// Changes stored by batches since the slot was made, with their last operations' counters.
    fresh: BTreeMap<ChangeHash, u64>,
    /// What lookups found.
    looked_up: BTreeMap<ChangeHash, bool>,
    /// Jobs and unstored batches that need the slot.
    pins: usize,
}

/// The documents of one workspace that have slots.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: BTreeMap<DocumentId, Slot>,
    /// Unpinned slots, least recently used first; an entry may be out of date.
    idle: VecDeque<DocumentId>,
}

impl Slots {
    pub(super) fn row_mut(&mut self, document: &DocumentId) -> Option<&mut HeadRow> {
        self.slots.get_mut(document)?.row.as_mut()
    }

    fn unpin(&mut self, document: &DocumentId) {
        let Some(slot) = self.slots.get_mut(document) else {
            return;
        };
        slot.pins -= 1;
        if slot.pins > 0 {
            return;
        }
        // The store now knows everything; only the head row is worth keeping.
        slot.fresh.clear();
        slot.looked_up.clear();
        self.idle.push_back(*document);
        while self.idle.len() > limits::IDLE_DOCUMENTS_MAX {
            let Some(oldest) = self.idle.pop_front() else {
                break;
            };
            if self.slots.get(&oldest).is_some_and(|slot| slot.pins == 0) {
                self.slots.remove(&oldest);
            }
        }
    }
}

/// One feed entry of a batch, kept until it was pushed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) workspace: WorkspaceId,
    pub(super) document: DocumentId,
    pub(super) kind: DocumentKind,
    pub(super) changes: Vec<(ChangeHash, Bytes)>,
    /// Whether a snapshot belongs to it, which is not kept here.
    pub(super) has_snapshot: bool,
    /// Whether it purges the document: its tombstone is not kept here either.
    pub(super) is_purged: bool,
    compaction_due: bool,
    pub(super) origin: Option<PeerId>,
    pub(super) point: FeedPoint,
}

/// An acknowledgement owed once its batch is stored.
#[derive(Clone, Debug)]
pub(super) struct AckDue {
    pub(super) link: LinkId,
    pub(super) peer: PeerId,
    pub(super) workspace: WorkspaceId,
    pub(super) number: u64,
    pub(super) bytes: usize,
    pub(super) held: Option<FeedPoint>,
    pub(super) refused: Vec<(DocumentId, RefusalCode)>,
    /// Documents refused before and accepted with this.
    pub(super) accepted: Vec<DocumentId>,
    /// Documents of which an answer ends with this, and what that means.
    pub(super) healing: Vec<(DocumentId, Healing)>,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct PendingBatch {
    id: BatchId,
    journaled: bool,
    stored: bool,
    released: bool,
    /// Where the batch takes a feed.
    reaches: Option<(WorkspaceId, FeedPoint)>,
    /// What the journal keeps of the batch.
    journal: Option<JournalEntry>,
    pub(super) entries: Vec<Entry>,
    acks: Vec<AckDue>,
    edit: Option<RequestId>,
    write: Option<RequestId>,
    compact: Option<RequestId>,
    /// A purge, and how many documents it purges.
    purge: Option<(RequestId, u64)>,
    replayed: Option<u64>,
    redeemed: Option<Redeemed>,
    /// Shares it writes or removes.
    shares: BTreeSet<(WorkspaceId, PeerId)>,
    /// The workspace of which it learns.
    learned: Option<WorkspaceId>,
    /// Workspaces that it removes.
    removed: Vec<WorkspaceId>,
    pub(super) pinned: Vec<(WorkspaceId, DocumentId)>,
}

/// Where the changes of journal frames of earlier epochs are.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// A frame could not be read, or its documents were purged meanwhile. Nothing is released in this
    /// run.
    is_held: bool,
    /// Up to here in the feed, at the latest.
    pub(super) through: FeedSeq,
}

#[derive(Debug)]
struct Redeemed {
    link: LinkId,
    peer: PeerId,
    secret_hash: [u8; 32],
    invite: Box<InviteRow>,
    device_name: String,
}

impl Engine {
    pub(super) fn on_edit(&mut self, edit: Edit) {
        let Edit {
            request,
            workspace,
            documents,
            rows,
        } = edit;
        let checked = match &self.failed {
            Some(error) => Err(EditError::Store(error.clone())),
            None if self.leaving.contains_key(&workspace) => Err(EditError::Left),
            None => check_edit(&documents, &rows, self.jobs.len()),
        };
        match checked {
            Ok(documents) => {
                let author = Author::Host { request, rows };
                self.enqueue(Work::Changes {
                    workspace,
                    documents,
                    author,
                    cursor: None,
                });
            }
            Err(error) => self.emit(Event::EditRefused { request, error }),
        }
    }

    pub(super) fn on_write(&mut self, write: Write) {
        if let Some(error) = self.failed.clone() {
            let request = write.request;
            return self.emit(Event::WriteFailed { request, error });
        }
        self.enqueue(Work::Write(write));
    }

    pub(super) fn on_replay(&mut self, entries: Vec<JournalEntry>) {
        self.replaying.0 += entries.len();
        if entries.is_empty() {
            self.emit(Event::ReplayDone { changes: 0 });
        }
        for entry in entries {
            if let Some(work) = self.read_journal(&entry) {
                self.enqueue(work);
            }
        }
    }

    /// One more frame of the journal is in the store.
    fn note_replayed(&mut self, changes: u64) {
        let (left, restored) = &mut self.replaying;
        *left = left.saturating_sub(1);
        *restored += changes;
        if *left == 0 {
            let changes = std::mem::take(restored);
            self.emit(Event::ReplayDone { changes });
        }
    }

    /// The work of bringing a journal entry into the store.
    fn read_journal(&mut self, entry: &JournalEntry) -> Option<Work> {
        // A frame passed the journal's checksum, so one that does not decode was written so.
        let decoded = JournalFrame::decode(&entry.frame);
        let Some(frame) = decoded.ok().filter(|frame| !frame.documents.is_empty()) else {
            self.emit(Event::JournalUnreadable {
                workspace: entry.workspace,
                through: entry.through,
            });
            let replay = self.replays.entry(entry.workspace).or_default();
            replay.is_held = true;
            self.note_replayed(0);
            return None;
        };
        let through = FeedSeq(frame.seq.0 + frame.documents.len() as u64 - 1);
        let author = Author::Journal {
            epoch: frame.epoch,
            through,
        };
        let documents = frame
            .documents
            .into_iter()
            .map(|document| {
                let (changes, refused) = check_changes(document.changes);
                JobDocument {
                    document: document.document,
                    kind: document.kind,
                    snapshot: None,
                    changes,
                    refused,
                    tombstone: None,
                }
            })
            .collect();
        Some(Work::Changes {
            workspace: frame.workspace,
            documents,
            author,
            cursor: None,
        })
    }

    /// `snapshots` are those of the documents that have one, in order, loaded.
    pub(super) fn enqueue_received(
        &mut self,
        link: LinkId,
        peer: PeerId,
        changes: wire::Changes,
        snapshots: Vec<Result<CheckedSnapshot, RefusalCode>>,
    ) {
        let bytes = changes.window_bytes();
        let mut snapshots = snapshots.into_iter();
        let mut documents: Vec<JobDocument> = Vec::with_capacity(changes.documents.len());
        let mut places: BTreeMap<DocumentId, usize> = BTreeMap::new();
        let flow = self.flow(link, &changes.workspace);
        let is_trusted = flow.is_some_and(|flow| flow.we_take_snapshots);
        let ends = changes.documents.iter().filter(|of| of.body_bytes() == 0);
        let answered = ends.map(|of| of.document).collect();
        for received in changes.documents {
            let snapshot = received.snapshot.as_ref().and_then(|_| snapshots.next());
            let (snapshot, unloadable) = match snapshot.transpose() {
                Ok(snapshot) => (snapshot, None),
                Err(code) => (None, Some(code)),
            };
            let (checked, refused) = check_changes(received.changes);
            let refused = unloadable.or(refused);
            // What is not in the feed's order, or asked for, may be ahead of what it takes away.
            let tombstone = received.purged.filter(|_| !changes.early);
            let tombstone = tombstone.map(|purged| Tombstone::new(purged, is_trusted));
            // One entry in our feed per document and frame, in the order of first mention.
            if let Some(place) = places.get(&received.document) {
                let known = &mut documents[*place];
                if snapshot.is_some() {
                    known.refused = Some(RefusalCode::Damaged); // Its place is ahead of the changes.
                }
                known.changes.extend(checked);
                known.refused = known.refused.or(refused);
                known.tombstone = tombstone.or(known.tombstone.take());
                continue;
            }
            places.insert(received.document, documents.len());
            documents.push(JobDocument {
                document: received.document,
                kind: received.kind,
                snapshot,
                changes: checked,
                refused,
                tombstone,
            });
        }
        let author = Author::Peer {
            link,
            peer,
            number: changes.number,
            bytes,
            early: changes.early,
            answered,
        };
        let cursor = changes
            .feed
            .map(|(from, through)| CursorMove::Follow(from, through));
        self.enqueue(Work::Changes {
            workspace: changes.workspace,
            documents,
            author,
            cursor,
        });
    }

    /// Moves the cursor we hold of a peer's feed, after everything received before.
    pub(super) fn enqueue_cursor(
        &mut self,
        link: LinkId,
        peer: PeerId,
        workspace: WorkspaceId,
        cursor: CursorMove,
    ) {
        let author = Author::Peer {
            link,
            peer,
            number: 0,
            bytes: 0,
            early: false,
            answered: Vec::new(),
        };
        self.enqueue(Work::Changes {
            workspace,
            documents: Vec::new(),
            author,
            cursor: Some(cursor),
        });
    }

    pub(super) fn enqueue_redeem(
        &mut self,
        link: LinkId,
        peer: PeerId,
        secret_hash: [u8; 32],
        invite: InviteRow,
        device_name: String,
    ) {
        self.redeeming.insert(secret_hash, peer);
        let invite = Box::new(invite);
        self.enqueue(Work::Redeem {
            link,
            peer,
            secret_hash,
            invite,
            device_name,
        });
    }

    pub(super) fn enqueue_peer_row(&mut self, workspace: WorkspaceId, peer: PeerId) {
        self.enqueue(Work::PeerRow { workspace, peer });
    }

    pub(super) fn enqueue_learned(&mut self, learned: Learned) {
        self.enqueue(Work::Learn(learned));
    }

    pub(super) fn enqueue_left(&mut self, workspace: WorkspaceId, peer: PeerId) {
        self.enqueue(Work::Left { workspace, peer });
    }

    pub(super) fn enqueue_feed_head(&mut self, workspace: WorkspaceId) {
        self.enqueue(Work::FeedHead { workspace });
    }

    pub(super) fn enqueue(&mut self, work: Work) {
        let mut job = Job::new(work);
        // A journal frame usually needs nothing: it is looked at when its turn comes.
        if job.journaled_through().is_none() {
            self.pin(&mut job);
        }
        self.jobs.push_back(job);
    }

    /// Takes references on the slots a job needs and asks for those that are not loaded. A
    /// workspace that is not loaded yet is asked for first; the job is pinned when it comes up.
    fn pin(&mut self, job: &mut Job) {
        let Some((workspace, documents)) = job.work.documents() else {
            return;
        };
        // While outcomes are awaited, what could be read may be about to change.
        if job.pinned || self.recovering || !self.ensure_workspace(workspace) {
            return;
        }
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        let mut absent = Vec::new();
        for document in documents {
            let slot = state.slots.slots.entry(document).or_insert_with(|| {
                absent.push(document);
                Slot::default()
            });
            slot.pins += 1;
        }
        job.pinned = true;
        if !absent.is_empty() {
            let keys = absent
                .iter()
                .map(|document| Key::head(&workspace, document))
                .collect();
            self.read(ReadQuery::Values(keys), Reading::Slots(workspace, absent));
        }
    }

    pub(super) fn on_slots(
        &mut self,
        workspace: WorkspaceId,
        documents: &[DocumentId],
        values: &[Option<Bytes>],
    ) -> Result<(), RecordError> {
        let Some(state) = self.ready(&workspace) else {
            return Ok(());
        };
        for (document, value) in documents.iter().zip(values) {
            let row = value
                .as_ref()
                .map(|value| HeadRow::decode(value))
                .transpose()?;
            if let Some(slot) = state.slots.slots.get_mut(document) {
                slot.row = row;
                slot.loaded = true;
            }
        }
        Ok(())
    }

    pub(super) fn on_lookups(
        &mut self,
        workspace: WorkspaceId,
        lookups: &[(DocumentId, ChangeHash)],
        present: &[bool],
    ) {
        let mut unknown: BTreeMap<DocumentId, Vec<ChangeHash>> = BTreeMap::new();
        if let Some(state) = self.ready(&workspace) {
            for ((document, hash), present) in lookups.iter().zip(present) {
                if let Some(slot) = state.slots.slots.get_mut(document) {
                    let snapshots = slot.row.as_ref().map_or(0, |row| row.snapshots.len());
                    if !present && snapshots > 0 {
                        // Not stored singly; only loading shows what a snapshot holds.
                        unknown.entry(*document).or_default().push(*hash);
                    } else {
                        slot.looked_up.insert(*hash, *present);
                    }
                }
            }
        }
        let loads = unknown.len();
        for (document, hashes) in unknown {
            let query = ReadQuery::Holds {
                workspace,
                document,
                hashes: hashes.clone(),
            };
            self.read(query, Reading::Holds(workspace, document, hashes));
        }
        if let Some(job) = self.jobs.front_mut() {
            job.looking_up = loads;
        }
    }

    /// What loading a document showed to be in it.
    pub(super) fn on_holds(
        &mut self,
        workspace: WorkspaceId,
        document: DocumentId,
        hashes: &[ChangeHash],
        present: &[bool],
    ) {
        if let Some(state) = self.ready(&workspace)
            && let Some(slot) = state.slots.slots.get_mut(&document)
        {
            let found = hashes.iter().copied().zip(present.iter().copied());
            slot.looked_up.extend(found);
        }
        if let Some(job) = self.jobs.front_mut() {
            job.looking_up = job.looking_up.saturating_sub(1);
        }
    }

    /// Carries out jobs from the front of the queue until one has to wait.
    pub(super) fn advance_jobs(&mut self) {
        while !self.recovering && self.pending.len() < limits::PENDING_BATCHES_MAX {
            let Some(mut job) = self.jobs.pop_front() else {
                return;
            };
            if let Some((workspace, epoch, through)) = job.journaled_through()
                && self.feed_covers(workspace, epoch, through)
            {
                self.note_replayed(0);
                self.release_journal(workspace);
                continue;
            }
            self.pin(&mut job);
            if !self.is_prepared(&mut job) {
                self.jobs.push_front(job);
                return;
            }
            self.carry_out(job);
        }
    }

    /// Whether the store's feed, in the same history, reaches at least this far.
    fn feed_covers(&mut self, workspace: WorkspaceId, epoch: StoreEpoch, through: FeedSeq) -> bool {
        self.ready(&workspace)
            .is_some_and(|state| state.opened.epoch == epoch && state.opened.seq >= through)
    }

    /// Whether the slot of a pinned document has its head row, or knows that there is none.
    pub(super) fn is_loaded(&mut self, workspace: &WorkspaceId, document: &DocumentId) -> bool {
        self.ready(workspace)
            .and_then(|state| state.slots.slots.get(document))
            .is_some_and(|slot| slot.loaded)
    }

    /// Whether everything the job needs was read; asks for what was not.
    fn is_prepared(&mut self, job: &mut Job) -> bool {
        let (workspace, documents) = match &job.work {
            Work::Changes {
                workspace,
                documents,
                ..
            } => (*workspace, documents),
            Work::Write(_) | Work::Redeem { .. } | Work::Learn(_) | Work::Left { .. } => {
                return true;
            }
            Work::PeerRow { workspace, .. } | Work::FeedHead { workspace } => {
                return self.ensure_workspace(*workspace);
            }
            Work::Compact(_) | Work::Purge(_) => return self.is_compaction_prepared(job),
        };
        if !job.pinned || job.looking_up > 0 {
            return false;
        }
        let roots = &self.config.roots;
        let Some(WorkspaceState::Ready(state)) = self.workspaces.get(&workspace) else {
            return false;
        };
        let mut lookups = Vec::new();
        for document in documents {
            let Some(slot) = state.slots.slots.get(&document.document) else {
                panic!("a pinned document has no slot");
            };
            if !slot.loaded {
                return false;
            }
            let Some(row) = &slot.row else {
                continue; // Nothing of it is stored, so there is nothing to look up.
            };
            if row.purged_at.is_some() {
                continue; // Only numbers are known of it.
            }
            let mut earlier = BTreeSet::new();
            let mut ask = |hash: ChangeHash| {
                let known = roots.contains_key(&hash)
                    || slot.fresh.contains_key(&hash)
                    || row.heads.contains(&hash)
                    || slot.looked_up.contains_key(&hash);
                if !known {
                    lookups.push((document.document, hash));
                }
            };
            for header in document.headers() {
                let progress = row.actors.get(&header.actor);
                if progress.is_some_and(|progress| progress.holds(header.seq)) {
                    ask(header.hash);
                }
                for dependency in &header.dependencies {
                    if !earlier.contains(dependency) && !row.missing.contains(dependency) {
                        ask(*dependency);
                    }
                }
                earlier.insert(header.hash);
            }
        }
        if lookups.is_empty() {
            return true;
        }
        lookups.sort_unstable();
        lookups.dedup();
        let keys = lookups
            .iter()
            .map(|(document, hash)| Key::change(&workspace, document, hash))
            .collect();
        job.looking_up = 1;
        self.read(
            ReadQuery::Presence(keys),
            Reading::Lookups(workspace, lookups),
        );
        false
    }

    fn carry_out(&mut self, job: Job) {
        match job.work {
            Work::Changes {
                workspace,
                documents,
                author,
                cursor,
            } => {
                self.carry_out_changes(workspace, documents, author, cursor);
            }
            Work::Write(write) => {
                let mut pending = PendingBatch::new();
                pending.write = Some(write.request);
                self.submit(pending, write.puts, write.deletes, None);
            }
            Work::Redeem {
                link,
                peer,
                secret_hash,
                mut invite,
                device_name,
            } => {
                invite.redeemed_by = Some(peer);
                let share = crate::records::ShareRow {
                    member: invite.member,
                    device_name: device_name.clone(),
                    since: self.now.wall,
                    standing: crate::records::Standing::Device,
                }
                .encode();
                let puts = vec![
                    (Key::invite(&secret_hash), invite.encode()),
                    (Key::share(&peer, &invite.workspace), share.clone()),
                    (Key::share(&peer, &invite.home), share),
                ];
                let mut pending = PendingBatch::new();
                pending.redeemed = Some(Redeemed {
                    link,
                    peer,
                    secret_hash,
                    invite,
                    device_name,
                });
                self.submit(pending, puts, Vec::new(), None);
            }
            Work::Learn(learned) => {
                if !self.roster.is_known() {
                    return; // The store failed meanwhile; the server tells again.
                }
                let (puts, deletes) = self.differing_shares(&learned);
                if puts.is_empty() && deletes.is_empty() {
                    return;
                }
                let mut pending = PendingBatch::new();
                pending.learned = Some(learned.workspace);
                self.submit(pending, puts, deletes, None);
            }
            Work::Left { workspace, peer } => {
                let deletes = vec![Key::share(&peer, &workspace), Key::peer(&workspace, &peer)];
                self.submit(PendingBatch::new(), Vec::new(), deletes, None);
            }
            Work::FeedHead { workspace } => {
                let Some(state) = self.ready(&workspace) else {
                    return;
                };
                state.persisted = true;
                let put = (Key::feed_head(&workspace), Self::feed_head(state));
                self.submit(PendingBatch::new(), vec![put], Vec::new(), None);
            }
            Work::Compact(compaction) => self.carry_out_compaction(*compaction),
            Work::Purge(purging) => self.carry_out_purge(*purging),
            Work::PeerRow { workspace, peer } => {
                let Some(state) = self.ready(&workspace) else {
                    return;
                };
                let Some(known) = state.peers.get_mut(&peer).filter(|known| known.dirty) else {
                    return;
                };
                known.dirty = false;
                let put = (Key::peer(&workspace, &peer), known.row.encode());
                self.submit(PendingBatch::new(), vec![put], Vec::new(), None);
            }
        }
    }

    fn carry_out_changes(
        &mut self,
        workspace: WorkspaceId,
        mut documents: Vec<JobDocument>,
        author: Author,
        cursor: Option<CursorMove>,
    ) {
        self.note_owed(&workspace, &mut documents);
        let roots = std::mem::take(&mut self.config.roots);
        let placed = match self.ready(&workspace) {
            Some(state) => place(state, &roots, &documents, &author),
            None => panic!("a prepared job's workspace is loaded"),
        };
        self.config.roots = roots;
        let ids: Vec<_> = documents.iter().map(|document| document.document).collect();
        match author {
            Author::Host { request, rows } => {
                if let Some((_, code)) = placed.refused.first() {
                    let error = EditError::Stale { code: *code };
                    self.unpin(&workspace, &ids);
                    self.emit(Event::EditRefused { request, error });
                    return;
                }
                self.commit_local(workspace, placed, ids, Some(request), rows, None);
            }
            Author::Journal { epoch, .. } => {
                self.note_purged_since(workspace, &placed);
                let replayed = placed.change_count();
                // Entered here, it takes a number that this history gave to something else, which
                // the journal may still have to bring back.
                let is_foreign = self
                    .ready(&workspace)
                    .is_some_and(|state| state.point.epoch != epoch && !state.is_refounded);
                if replayed > 0 && is_foreign {
                    self.begin_history(workspace);
                }
                self.commit_local(workspace, placed, ids, None, Vec::new(), Some(replayed));
            }
            Author::Peer {
                link,
                peer,
                number,
                bytes,
                early,
                answered,
            } => {
                let follows = cursor.is_some();
                let healing = if early {
                    Vec::new()
                } else {
                    self.note_answers(workspace, link, &placed, &answered, follows)
                };
                let due = AckDue {
                    link,
                    peer,
                    workspace,
                    number,
                    bytes,
                    held: None,
                    refused: if early {
                        Vec::new()
                    } else {
                        placed.refused.clone()
                    },
                    accepted: Vec::new(),
                    healing,
                };
                self.commit_received(workspace, placed, ids, due, cursor, early);
            }
        }
    }

    /// Changes that only the journal has, of documents that this store purged without knowing them,
    /// stay there.
    fn note_purged_since(&mut self, workspace: WorkspaceId, placed: &Placed) {
        let refused = placed.refused.iter();
        let documents: Vec<_> = refused
            .filter(|(_, code)| *code == RefusalCode::DocumentDeleted)
            .map(|(document, _)| *document)
            .collect();
        if !documents.is_empty() {
            self.replays.entry(workspace).or_default().is_held = true;
            self.emit(Event::JournalRefused {
                workspace,
                documents,
            });
        }
    }

    fn commit_local(
        &mut self,
        workspace: WorkspaceId,
        placed: Placed,
        pinned: Vec<DocumentId>,
        request: Option<RequestId>,
        rows: Vec<(Key, Bytes)>,
        replayed: Option<u64>,
    ) {
        let mut pending = PendingBatch::new();
        pending.edit = request;
        pending.replayed = replayed;
        pending.pinned = pinned
            .into_iter()
            .map(|document| (workspace, document))
            .collect();
        // What the journal brought back has no index row: its entries name this device as their
        // origin, so that whoever follows the feed for the index sees them.
        let origin = replayed.map(|_| self.config.me);
        let Some(state) = self.ready(&workspace) else {
            panic!("a prepared job's workspace is loaded");
        };
        let first = state.point;
        let mut puts = rows;
        let nothing = placed.documents.is_empty() && puts.is_empty();
        if let Some(changes) = replayed.filter(|_| nothing) {
            let documents: Vec<_> = pending
                .pinned
                .iter()
                .map(|(_, document)| *document)
                .collect();
            self.unpin(&workspace, &documents);
            let through = first.seq;
            self.note_replayed(changes);
            return self.on_replayed(workspace, through);
        }
        enter(
            state,
            workspace,
            placed,
            origin,
            &mut puts,
            &mut pending.entries,
        );
        let journal = (!pending.entries.is_empty()).then(|| {
            let frame = JournalFrame {
                workspace,
                epoch: first.epoch,
                seq: first.seq.next(),
                documents: pending
                    .entries
                    .iter()
                    .map(|entry| JournalDocument {
                        document: entry.document,
                        kind: entry.kind,
                        changes: entry.changes.iter().map(|(_, body)| body.clone()).collect(),
                    })
                    .collect(),
            };
            JournalEntry {
                workspace,
                epoch: first.epoch,
                through: state.point.seq,
                frame: frame.encode(),
            }
        });
        self.submit(pending, puts, Vec::new(), journal);
    }

    /// Takes note of refusals and of answers that end, of what is being healed.
    fn note_answers(
        &mut self,
        workspace: WorkspaceId,
        link: LinkId,
        placed: &Placed,
        answered: &[DocumentId],
        follows: bool,
    ) -> Vec<(DocumentId, Healing)> {
        let Some(flow) = self.flow(link, &workspace) else {
            return Vec::new();
        };
        let lacking = |code: &RefusalCode| *code == RefusalCode::MissingDependencies;
        let mut healing = Vec::new();
        for (document, _) in placed.refused.iter().filter(|(_, code)| lacking(code)) {
            let refused = flow.exchange.note_refused(document, follows);
            healing.push((*document, refused));
        }
        for document in answered {
            healing.push((*document, flow.exchange.note_answered(document)));
        }
        healing
    }

    fn commit_received(
        &mut self,
        workspace: WorkspaceId,
        placed: Placed,
        pinned: Vec<DocumentId>,
        mut due: AckDue,
        cursor: Option<CursorMove>,
        early: bool,
    ) {
        let peer = due.peer;
        let mut pending = PendingBatch::new();
        pending.pinned = pinned
            .into_iter()
            .map(|document| (workspace, document))
            .collect();
        let refused = due.refused.clone();
        let healed: Vec<_> = placed
            .documents
            .iter()
            .map(|(document, _)| document.document)
            .collect();
        let missing: Vec<_> = placed
            .refused
            .iter()
            .filter(|(_, code)| !early && *code == RefusalCode::MissingDependencies)
            .map(|(document, _)| *document)
            .collect();
        let received = (healed.len() as u64, placed.change_count());
        let over = placed.purged_documents();
        let Some(state) = self.ready(&workspace) else {
            panic!("a prepared job's workspace is loaded");
        };
        let mut puts = Vec::new();
        let deletes = enter(
            state,
            workspace,
            placed,
            Some(peer),
            &mut puts,
            &mut pending.entries,
        );
        // Of what is purged nothing is refused any more.
        for (other, known) in &mut state.peers {
            for document in &over {
                let was_refused = known.row.refused_here.remove(document).is_some();
                known.dirty |= was_refused;
                if was_refused && *other == peer {
                    due.accepted.push(*document);
                }
            }
        }
        // What someone else refused to build on may follow from what came now.
        let mut others_lacking = Vec::new();
        for (other, row) in state.peers.iter().filter(|(other, _)| **other != peer) {
            let documents = healed
                .iter()
                .filter(|document| row.row.lacks_dependencies_of(document));
            others_lacking.extend(documents.map(|document| (*other, *document)));
        }
        let known = state.peers.entry(peer).or_default();
        let moved = match cursor {
            Some(CursorMove::Set(point)) => {
                known.row.held = Some(point);
                Ok(true)
            }
            Some(CursorMove::Follow(from, through)) => {
                follow_cursor(&mut known.row.held, from, through)
            }
            None => Ok(false),
        };
        let mut fresh_wants: Vec<_> = missing
            .into_iter()
            .filter(|document| !known.row.refused_here.contains_key(document))
            .collect();
        for (document, code) in &refused {
            known.dirty |= known.row.refuse_here(*document, *code);
        }
        for document in &healed {
            if refused.iter().any(|(other, _)| other == document) {
                continue;
            }
            if known.row.lacks_dependencies_of(document) {
                // This may not be all that was refused: ask once more.
                fresh_wants.push(*document);
            }
            if known.row.refused_here.remove(document).is_some() {
                known.dirty = true;
                due.accepted.push(*document);
            }
        }
        for (document, healing) in std::mem::take(&mut due.healing) {
            if !known.row.lacks_dependencies_of(&document) {
                continue;
            }
            match healing {
                Healing::Done => {
                    known.row.refused_here.remove(&document);
                    known.dirty = true;
                    due.accepted.push(document);
                }
                Healing::AskAgain => fresh_wants.push(document),
                Healing::Open => {}
            }
        }
        if moved == Ok(true)
            || (known.dirty && !pending.entries.is_empty())
            || !refused.is_empty()
            || !due.accepted.is_empty()
        {
            known.dirty = false;
            puts.push((Key::peer(&workspace, &peer), known.row.encode()));
        }
        due.held = known.row.held;
        if let Err(why) = moved {
            // What came is stored all the same; the cursor is not moved and the link starts anew.
            self.fault(due.link, why);
        }
        let link = due.link;
        self.count_received(link, received.0, received.1);
        if !refused.is_empty() {
            self.emit(Event::DocumentsRefused {
                peer,
                workspace,
                here: true,
                documents: refused,
            });
        }
        pending.acks.push(due);
        if puts.is_empty() {
            // Nothing to store; what was received is covered by the batches before this.
            let pinned = std::mem::take(&mut pending.pinned);
            let documents: Vec<_> = pinned.into_iter().map(|(_, document)| document).collect();
            self.unpin(&workspace, &documents);
            match self.pending.back_mut().filter(|batch| !batch.released) {
                Some(last) => last.acks.append(&mut pending.acks),
                None => self.acknowledge(pending.acks),
            }
        } else {
            self.submit(pending, puts, deletes, None);
        }
        fresh_wants.sort_unstable();
        fresh_wants.dedup();
        if !fresh_wants.is_empty() {
            self.want_documents(link, workspace, fresh_wants);
        }
        for (other, document) in others_lacking {
            for link in self.links_sharing(&workspace) {
                if self.links.get(&link).is_some_and(|link| link.peer == other) {
                    self.want_documents(link, workspace, vec![document]);
                }
            }
        }
    }

    pub(super) fn unpin(&mut self, workspace: &WorkspaceId, documents: &[DocumentId]) {
        if let Some(state) = self.ready(workspace) {
            for document in documents {
                state.slots.unpin(document);
            }
        }
    }

    pub(super) fn submit(
        &mut self,
        mut pending: PendingBatch,
        puts: Vec<(Key, Bytes)>,
        deletes: Vec<Key>,
        journal: Option<JournalEntry>,
    ) {
        let id = self.next_batch;
        self.next_batch = id.next();
        pending.id = id;
        pending.reaches = pending
            .entries
            .last()
            .map(|entry| (entry.workspace, entry.point));
        pending.journal.clone_from(&journal);
        for (key, value) in &puts {
            self.roster.note_write(key, Some(value));
            pending.shares.extend(share_of(key));
        }
        for key in &deletes {
            self.roster.note_write(key, None);
            pending.shares.extend(share_of(key));
            if key.kind() == Some(KeyKind::FeedHead) {
                pending.removed.extend(key.workspace_id());
            }
        }
        let batch = Batch {
            id,
            after: self.last_batch.replace(id),
            puts,
            deletes,
            journal,
            durability: Durability::Barrier,
        };
        self.pending.push_back(pending);
        self.outputs.push_back(Output::StoreBatch(batch));
    }

    pub(super) fn on_journaled(&mut self, id: BatchId) {
        let Some(batch) = self.pending.iter_mut().find(|batch| batch.id == id) else {
            return;
        };
        batch.journaled = true;
        let edit = batch.edit.take();
        if let Some(request) = edit {
            self.emit(Event::EditDurable { request });
        }
        self.release();
    }

    pub(super) fn on_stored(&mut self, id: BatchId) {
        let mut edits = Vec::new();
        for batch in self.pending.iter_mut().take_while(|batch| batch.id <= id) {
            batch.stored = true;
            edits.extend(batch.edit.take());
        }
        for request in edits {
            self.emit(Event::EditDurable { request });
        }
        self.release();
        while self.pending.front().is_some_and(|batch| batch.stored) {
            let Some(batch) = self.pending.pop_front() else {
                break;
            };
            if let Some((workspace, point)) = batch.reaches
                && let Some(state) = self.ready(&workspace)
            {
                let epoch = state.stored.epoch;
                state.stored = FeedPoint { epoch, ..point };
            }
            for (workspace, document) in batch.pinned {
                self.unpin(&workspace, &[document]);
            }
            for workspace in batch.removed {
                self.forget_workspace(workspace);
            }
        }
        self.walk_all();
        self.finish_recovery();
    }

    /// A workspace's records are gone: so is what was known of it, and what the journal has of it.
    fn forget_workspace(&mut self, workspace: WorkspaceId) {
        if let Some(state) = self.ready(&workspace) {
            let end = (state.point.epoch, FeedSeq(u64::MAX));
            let releases = JournalReleases::from([(workspace, end)]);
            self.outputs.push_back(Output::ReleaseJournal(releases));
        }
        self.workspaces.remove(&workspace);
        self.replays.remove(&workspace);
        self.leaving.remove(&workspace);
        self.stalls.retain(|(_, of), _| *of != workspace);
        for job in &mut self.jobs {
            if job.work.documents().is_some_and(|(of, _)| of == workspace) {
                job.pinned = false;
                job.looking_up = 0;
            }
        }
    }

    /// Lets out, in order, whatever is behind its barrier.
    fn release(&mut self) {
        let mut entries = Vec::new();
        let mut acks = Vec::new();
        let mut events = Vec::new();
        let mut redeemed = Vec::new();
        let mut replayed = Vec::new();
        let mut shares = BTreeSet::new();
        for batch in &mut self.pending {
            if batch.released {
                continue;
            }
            let behind_barrier = batch.stored || (batch.journal.is_some() && batch.journaled);
            if !behind_barrier {
                break;
            }
            batch.released = true;
            entries.append(&mut batch.entries);
            acks.append(&mut batch.acks);
            if let Some(request) = batch.write.take() {
                events.push(Event::WriteDone { request });
            }
            let compacted = batch.compact.take();
            events.extend(compacted.map(|request| Event::Compacted { request }));
            let purged = batch.purge.take();
            events.extend(purged.map(|(request, documents)| Event::Purged { request, documents }));
            if let Some(changes) = batch.replayed.take() {
                replayed.push((
                    changes,
                    batch.pinned.first().map(|(workspace, _)| *workspace),
                ));
            }
            redeemed.extend(batch.redeemed.take());
            shares.append(&mut batch.shares);
            if let Some(workspace) = batch.learned.take() {
                events.push(Event::SharesLearned { workspace });
            }
        }
        for event in events {
            self.emit(event);
        }
        for entry in entries.iter().filter(|entry| entry.compaction_due) {
            self.emit(Event::CompactionDue {
                workspace: entry.workspace,
                document: entry.document,
            });
        }
        self.push_entries(entries);
        self.acknowledge(acks);
        for (changes, workspace) in replayed {
            self.note_replayed(changes);
            if let Some(workspace) = workspace
                && let Some(state) = self.ready(&workspace)
            {
                let through = state.released.seq;
                self.on_replayed(workspace, through);
            }
        }
        for redeemed in redeemed {
            // It stays among those being redeemed: an invitation read before may still be on its
            // way to us as unused.
            let Redeemed {
                link,
                peer,
                invite,
                device_name,
                ..
            } = redeemed;
            self.emit(Event::DeviceEnrolled {
                peer,
                workspace: invite.workspace,
                member: invite.member,
                device_name,
            });
            self.answer_join(link, &invite);
        }
        if !shares.is_empty() {
            self.on_shares_stored(&shares);
        }
    }

    pub(super) fn on_batch_failed(&mut self, id: BatchId, error: &StoreError) {
        let Some(place) = self.pending.iter().position(|batch| batch.id == id) else {
            return;
        };
        let Some(batch) = self.pending.remove(place) else {
            return;
        };
        self.fail_batch(batch, error);
        if !self.recovering {
            self.fail_store(error);
        }
        self.finish_recovery();
    }

    fn fail_batch(&mut self, batch: PendingBatch, error: &StoreError) {
        if let Some(request) = batch.edit {
            let error = EditError::Store(error.clone());
            self.emit(Event::EditRefused { request, error });
        }
        if let Some(request) = batch.write {
            self.emit(Event::WriteFailed {
                request,
                error: error.clone(),
            });
        }
        if let Some(request) = batch.compact {
            let why = CompactHold::Store(error.clone());
            self.emit(Event::CompactRefused { request, why });
        }
        if let Some((request, _)) = batch.purge {
            let error = PurgeError::Store(error.clone());
            self.emit(Event::PurgeRefused { request, error });
        }
        if let Some(redeemed) = batch.redeemed {
            self.redeeming.remove(&redeemed.secret_hash);
        }
        // An edit that was reported durable is still owed to the store.
        if let Some(entry) = batch
            .journal
            .filter(|_| batch.journaled || batch.replayed.is_some())
            && let Some(work) = self.read_journal(&entry)
        {
            // Its place in the feed may go to something else.
            self.forked.insert(entry.workspace);
            self.owed.push(Job::new(work));
        }
    }

    /// The store refused or lost something: forget everything it was assumed to hold, close every
    /// link, and start again from what it says once all outcomes are in.
    pub(super) fn fail_store(&mut self, error: &StoreError) {
        let first = !std::mem::replace(&mut self.recovering, true);
        let jobs = std::mem::take(&mut self.jobs);
        for job in jobs {
            match job.work {
                work @ Work::Changes {
                    author: Author::Journal { .. },
                    ..
                } => self.owed.push(Job::new(work)),
                Work::Changes {
                    author: Author::Host { request, .. },
                    ..
                } => {
                    let error = EditError::Store(error.clone());
                    self.emit(Event::EditRefused { request, error });
                }
                Work::Write(write) => {
                    let error = error.clone();
                    self.emit(Event::WriteFailed {
                        request: write.request,
                        error,
                    });
                }
                Work::Redeem { secret_hash, .. } => {
                    self.redeeming.remove(&secret_hash);
                }
                Work::Compact(compaction) => {
                    let request = compaction.compact.request;
                    let why = CompactHold::Store(error.clone());
                    self.emit(Event::CompactRefused { request, why });
                }
                Work::Purge(purging) => {
                    let request = purging.purge.request;
                    let error = PurgeError::Store(error.clone());
                    self.emit(Event::PurgeRefused { request, error });
                }
                Work::Changes { .. }
                | Work::PeerRow { .. }
                | Work::FeedHead { .. }
                | Work::Learn(_)
                | Work::Left { .. } => {}
            }
        }
        self.close_all_links(error);
        self.workspaces.clear();
        self.roster = Roster::default();
        self.reads.clear();
        for batch in &mut self.pending {
            // Their slots are gone, and the feed is read anew.
            batch.pinned.clear();
            batch.reaches = None;
        }
        if first {
            self.emit(Event::StoreFailed {
                error: error.clone(),
            });
        }
        self.finish_recovery();
    }

    fn finish_recovery(&mut self) {
        if self.recovering && self.pending.is_empty() && self.failed.is_none() {
            self.recovering = false;
            self.last_batch = None;
            if !self.owed.is_empty() {
                self.replay_at = Some(self.now.tick + limits::REPLAY_AFTER);
            }
        }
    }

    /// Tries again what the store owes to the journal.
    pub(super) fn replay_owed(&mut self) {
        self.replay_at = None;
        self.jobs.extend(std::mem::take(&mut self.owed));
    }

    /// Whether something that is in the journal is not in the store yet, nor in the journal again
    /// under its new place in the feed.
    fn owes_replay(&self) -> bool {
        let queued = self
            .jobs
            .iter()
            .any(|job| job.journaled_through().is_some());
        let written = self
            .pending
            .iter()
            .any(|batch| batch.replayed.is_some() && !batch.journaled && !batch.stored);
        queued || written || !self.owed.is_empty()
    }

    /// A journal frame's changes are in the feed, at `through` at the latest.
    fn on_replayed(&mut self, workspace: WorkspaceId, through: FeedSeq) {
        let replay = self.replays.entry(workspace).or_default();
        replay.through = replay.through.max(through);
        self.release_journal(workspace);
    }

    /// Tells the journal what other peers hold by now.
    ///
    /// A release also frees the frames of earlier epochs, so it waits until what those hold is in
    /// the feed and held by the peer.
    pub(super) fn release_journal(&mut self, workspace: WorkspaceId) {
        if self.owes_replay() {
            return;
        }
        let earlier = match self.replays.get(&workspace) {
            Some(replay) if replay.is_held => return,
            Some(replay) => replay.through.0,
            None => 0,
        };
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        let epoch = state.point.epoch;
        let held = state
            .peers
            .values()
            .filter_map(|peer| peer.row.acknowledged)
            .filter(|point| point.epoch == epoch)
            .map(|point| point.seq.0)
            .max()
            .unwrap_or(0);
        if held > state.journal_released && held >= earlier {
            state.journal_released = held;
            let releases = JournalReleases::from([(workspace, (epoch, FeedSeq(held)))]);
            self.outputs.push_back(Output::ReleaseJournal(releases));
        }
    }

    /// The oldest batch whose barrier has not passed.
    pub(super) fn first_unstored(&self) -> Option<BatchId> {
        self.pending
            .iter()
            .find(|batch| !batch.stored)
            .map(|batch| batch.id)
    }

    pub(super) fn links_sharing(&self, workspace: &WorkspaceId) -> Vec<LinkId> {
        let links = self.links.iter().filter(|(_, link)| link.shares(workspace));
        links.map(|(id, _)| *id).collect()
    }
}

fn share_of(key: &Key) -> Option<(WorkspaceId, PeerId)> {
    let (peer, workspace) = key.share_parts()?;
    Some((workspace, peer))
}

impl PendingBatch {
    pub(super) fn of_compaction(request: RequestId, place: (WorkspaceId, DocumentId)) -> Self {
        let mut pending = Self::new();
        pending.compact = Some(request);
        pending.pinned.push(place);
        pending
    }

    pub(super) fn of_purge(request: RequestId, documents: u64) -> Self {
        let mut pending = Self::new();
        pending.purge = Some((request, documents));
        pending
    }

    fn new() -> Self {
        Self {
            id: BatchId(0),
            journaled: false,
            stored: false,
            released: false,
            reaches: None,
            journal: None,
            entries: Vec::new(),
            acks: Vec::new(),
            edit: None,
            write: None,
            compact: None,
            purge: None,
            replayed: None,
            redeemed: None,
            shares: BTreeSet::new(),
            learned: None,
            removed: Vec::new(),
            pinned: Vec::new(),
        }
    }
}

/// What placing a job's changes in their graphs came to. Slots are already updated.
#[derive(Default)]
pub(super) struct Placed {
    pub(super) documents: Vec<(PlacedDocument, Vec<CheckedChange>)>,
    refused: Vec<(DocumentId, RefusalCode)>,
    /// Documents that were purged before, and of which a tombstone came.
    settled: Vec<DocumentId>,
}

impl Placed {
    fn change_count(&self) -> u64 {
        let counts = self.documents.iter().map(|(document, changes)| {
            let snapshot = document.snapshot.as_ref();
            snapshot.map_or(0, |snapshot| snapshot.changes.len()) + changes.len()
        });
        counts.sum::<usize>() as u64
    }

    /// The documents that are purged by now.
    fn purged_documents(&self) -> Vec<DocumentId> {
        let placed = self.documents.iter().map(|(document, _)| document);
        let purged = placed.filter(|document| document.is_purged);
        let purged = purged.map(|document| document.document);
        purged.chain(self.settled.iter().copied()).collect()
    }
}

pub(super) struct PlacedDocument {
    pub(super) document: DocumentId,
    pub(super) kind: DocumentKind,
    pub(super) is_new: bool,
    pub(super) snapshot: Option<CheckedSnapshot>,
    pub(super) is_purged: bool,
}

impl std::ops::Deref for PlacedDocument {
    type Target = DocumentId;

    fn deref(&self) -> &DocumentId {
        &self.document
    }
}

/// Places changes: duplicates fall out, the rest updates heads and sequences, or is refused. An
/// edit of the host is placed whole or, on the first refusal, not at all.
fn place(
    state: &mut Workspace,
    roots: &BTreeMap<ChangeHash, Root>,
    documents: &[JobDocument],
    author: &Author,
) -> Placed {
    let mut placed = Placed::default();
    let mut staged = Vec::new();
    for document in documents {
        let Some(slot) = state.slots.slots.get(&document.document) else {
            panic!("a pinned document has no slot");
        };
        let is_new = slot.row.is_none();
        let mut refused = None;
        if let Some(tombstone) = &document.tombstone {
            match tombstone.judge(document.kind, slot.row.as_ref()) {
                Verdict::Take => {
                    let row = tombstone.row(document.kind, slot.row.as_ref());
                    staged.push((document, row, BTreeMap::new(), is_new, None, Vec::new()));
                    continue;
                }
                Verdict::Settled => {
                    placed.settled.push(document.document);
                    continue;
                }
                // What came ahead of it is taken all the same.
                Verdict::Refuse(code) => refused = Some(code),
            }
        }
        let tombstone_refused = refused;
        let mut row = slot
            .row
            .clone()
            .unwrap_or_else(|| HeadRow::empty(document.kind));
        if document.snapshot.is_some() && row.snapshots.len() >= limits::SNAPSHOTS_PER_DOCUMENT_MAX
        {
            placed
                .refused
                .push((document.document, RefusalCode::TooLarge));
            continue;
        }
        let mut added = Vec::new();
        let mut hashes = BTreeMap::new();
        let orphans = matches!(author, Author::Journal { .. });
        let from_snapshot = document.snapshot.iter();
        let from_snapshot = from_snapshot.flat_map(|snapshot| &snapshot.changes);
        let from_snapshot = from_snapshot.map(|header| (header, None));
        let singly = document.changes.iter();
        let singly = singly.map(|change| (&change.header, Some(change)));
        let mut snapshot_adds = false;
        for (header, change) in from_snapshot.chain(singly) {
            let present = |hash: &ChangeHash| {
                hashes.contains_key(hash)
                    || slot.fresh.contains_key(hash)
                    // What was a head before is stored, also once something was put on top of it.
                    || slot.row.as_ref().is_some_and(|row| row.heads.contains(hash))
                    || (!row.missing.contains(hash)
                        && (row.heads.contains(hash)
                            || slot.looked_up.get(hash).copied().unwrap_or(false)))
            };
            let max_op = |hash: &ChangeHash| {
                let stored = slot.row.as_ref().and_then(|row| row.head_max_ops.get(hash));
                let new = hashes.get(hash).or_else(|| slot.fresh.get(hash));
                new.or(stored).copied()
            };
            let known = Known {
                roots,
                present: &present,
                max_op: &max_op,
                orphans,
            };
            match judge(header, &row, document.kind, &known) {
                Judgement::Duplicate => {}
                Judgement::Refuse(code) => {
                    refused = Some(code);
                    if change.is_none() {
                        // A snapshot is taken whole or not at all.
                        snapshot_adds = false;
                        hashes.clear();
                        row = slot
                            .row
                            .clone()
                            .unwrap_or_else(|| HeadRow::empty(document.kind));
                    }
                    break;
                }
                Judgement::Add => {
                    let absent: Vec<_> = header
                        .dependencies
                        .iter()
                        .filter(|hash| !roots.contains_key(*hash) && !present(hash))
                        .copied()
                        .collect();
                    add(&mut row, header, absent);
                    hashes.insert(header.hash, header.max_op());
                    match change {
                        Some(change) => {
                            row.change_count += 1;
                            row.change_bytes += change.body.len() as u64;
                            added.push(change.clone());
                        }
                        None => snapshot_adds = true,
                    }
                }
            }
        }
        if let Some(code) = tombstone_refused.or(refused).or(document.refused) {
            placed.refused.push((document.document, code));
        }
        let snapshot = document.snapshot.as_ref().filter(|_| snapshot_adds);
        row.snapshots
            .extend(snapshot.map(|checked| checked.snapshot));
        if !added.is_empty() || snapshot.is_some() {
            staged.push((document, row, hashes, is_new, snapshot, added));
        }
    }
    if matches!(author, Author::Host { .. }) && !placed.refused.is_empty() {
        return placed;
    }
    for (document, row, hashes, is_new, snapshot, added) in staged {
        if let Some(slot) = state.slots.slots.get_mut(&document.document) {
            let kind = row.kind;
            let is_purged = row.purged_at.is_some();
            slot.row = Some(row);
            slot.fresh.extend(hashes);
            let document = PlacedDocument {
                document: document.document,
                kind,
                is_new,
                snapshot: snapshot.cloned(),
                is_purged,
            };
            placed.documents.push((document, added));
        }
    }
    placed
}

enum Judgement {
    Add,
    Duplicate,
    Refuse(RefusalCode),
}

/// What is known of other changes when one is judged.
struct Known<'a> {
    roots: &'a BTreeMap<ChangeHash, Root>,
    present: &'a dyn Fn(&ChangeHash) -> bool,
    /// The counter of the last operation of some changes that are present.
    max_op: &'a dyn Fn(&ChangeHash) -> Option<u64>,
    /// Whether a change is taken though what it depends on is absent.
    orphans: bool,
}

fn judge(header: &ChangeHeader, row: &HeadRow, kind: DocumentKind, known: &Known<'_>) -> Judgement {
    let Known {
        roots,
        present,
        max_op,
        orphans,
    } = *known;
    if row.purged_at.is_some() {
        let progress = row.actors.get(&header.actor);
        return match progress.is_some_and(|progress| progress.holds(header.seq)) {
            true => Judgement::Duplicate,
            false => Judgement::Refuse(RefusalCode::DocumentDeleted),
        };
    }
    if present(&header.hash) {
        return Judgement::Duplicate;
    }
    if row.kind != kind || header.dependencies.is_empty() {
        return Judgement::Refuse(RefusalCode::Damaged);
    }
    for dependency in &header.dependencies {
        match roots.get(dependency) {
            Some(root) if root.kind != row.kind => return Judgement::Refuse(RefusalCode::Damaged),
            Some(_) => {}
            None if present(dependency) || orphans => {}
            None => return Judgement::Refuse(RefusalCode::MissingDependencies),
        }
    }
    let progress = row.actors.get(&header.actor);
    if progress.is_some_and(|progress| progress.holds(header.seq)) {
        return Judgement::Refuse(RefusalCode::Equivocation);
    }
    let last_seq = progress.map_or(0, |progress| progress.last_seq);
    let gaps = orphans || progress.is_some_and(|progress| !progress.beyond.is_empty());
    if header.seq != last_seq + 1 && !gaps {
        // A change follows its actor's last one, so with its dependencies here the last one is too.
        return Judgement::Refuse(RefusalCode::Damaged);
    }
    if !counters::begins_rightly(header, row, roots, max_op, !orphans) {
        return Judgement::Refuse(RefusalCode::Damaged);
    }
    if row.operations + header.operations > limits::OPERATIONS_PER_DOCUMENT_MAX {
        return Judgement::Refuse(RefusalCode::TooLarge);
    }
    if row.bytes() >= limits::DOCUMENT_BYTES_MAX
        || row.change_count >= limits::CHANGES_PER_DOCUMENT_MAX as u64
    {
        return Judgement::Refuse(RefusalCode::TooLarge);
    }
    if progress.is_none() && row.actors.len() >= limits::ACTORS_PER_DOCUMENT_MAX {
        return Judgement::Refuse(RefusalCode::TooLarge);
    }
    Judgement::Add
}

fn add(row: &mut HeadRow, header: &ChangeHeader, absent_dependencies: Vec<ChangeHash>) {
    for dependency in &header.dependencies {
        row.heads.remove(dependency);
    }
    row.missing.extend(absent_dependencies);
    if !row.missing.remove(&header.hash) {
        row.heads.insert(header.hash);
    }
    row.actors
        .entry(header.actor.clone())
        .or_default()
        .add(header.seq);
    counters::count(row, header);
}

/// Enters placed documents in the feed and writes their rows; yields what is to be removed.
pub(super) fn enter(
    state: &mut Workspace,
    workspace: WorkspaceId,
    placed: Placed,
    origin: Option<PeerId>,
    puts: &mut Vec<(Key, Bytes)>,
    entries: &mut Vec<Entry>,
) -> Vec<Key> {
    let mut deletes = Vec::new();
    for (document, changes) in placed.documents {
        let PlacedDocument {
            document,
            kind,
            is_new,
            snapshot,
            is_purged,
        } = document;
        let named = snapshot.iter().map(|snapshot| {
            // In the digest a snapshot stands for what it holds.
            ChangeHash::from_bytes(*snapshot.snapshot.hash.as_bytes())
        });
        let named = named.chain(changes.iter().map(|change| change.header.hash));
        state.point = state.point.advance(&document, named);
        match (is_new, is_purged) {
            (true, false) => state.documents += 1,
            (false, true) => state.documents = state.documents.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        if is_purged {
            deletes.push(Key::index(&workspace, kind, &document));
        }
        let head = state.slots.slots.get_mut(&document);
        let mut head = head.and_then(|slot| slot.row.as_mut());
        let previous = head.as_ref().map_or(FeedSeq(0), |row| row.feed_seq);
        let row = FeedRow {
            document,
            kind,
            changes: changes
                .iter()
                .map(|change| {
                    let size = u32::try_from(change.body.len())
                        .expect("a checked change is far smaller than 4 GiB");
                    (change.header.hash, size)
                })
                .collect(),
            origin,
            digest: state.point.digest,
            snapshot: snapshot.as_ref().map(|snapshot| snapshot.snapshot),
            previous,
            purged: head
                .as_ref()
                .and_then(|row| tombstone_of(row))
                .map(|purged| {
                    u32::try_from(purged.bytes()).expect("a tombstone is far below 4 GiB")
                }),
        };
        puts.push((Key::feed(&workspace, state.point.seq), row.encode()));
        let before = head.as_ref().map_or(0, |row| {
            row.change_count.saturating_sub(changes.len() as u64)
        });
        let compaction_due = head
            .as_ref()
            .is_some_and(|row| row.has_remains() || row.compaction_due(before));
        if let Some(row) = &mut head {
            row.feed_seq = state.point.seq;
            puts.push((Key::head(&workspace, &document), row.encode()));
        }
        if let Some(snapshot) = &snapshot {
            let body = snapshot.body.clone();
            puts.push((
                Key::snapshot(&workspace, &document, &snapshot.snapshot.hash),
                SnapshotRow { body }.encode(),
            ));
        }
        for change in &changes {
            let row = ChangeRow {
                body: change.body.clone(),
                envelope: Bytes::new(),
            };
            puts.push((
                Key::change(&workspace, &document, &change.header.hash),
                row.encode(),
            ));
        }
        entries.push(Entry {
            workspace,
            document,
            kind,
            changes: changes
                .into_iter()
                .map(|change| (change.header.hash, change.body))
                .collect(),
            has_snapshot: snapshot.is_some(),
            is_purged,
            compaction_due,
            origin,
            point: state.point,
        });
    }
    if !entries.is_empty() || (!puts.is_empty() && !state.persisted) {
        state.persisted = true;
        puts.push((Key::feed_head(&workspace), Engine::feed_head(state)));
    }
    deletes
}

/// Moves a cursor along a feed; whether it moved, or why that cannot be.
fn follow_cursor(
    held: &mut Option<FeedPoint>,
    from: FeedSeq,
    through: FeedPoint,
) -> Result<bool, String> {
    let Some(point) = held else {
        return Err("changes in feed order before any cursor was agreed".to_owned());
    };
    if point.epoch != through.epoch {
        return Err("the feed changed its epoch while it was followed".to_owned());
    }
    if from > point.seq {
        return Err(format!(
            "the feed was held up to {} and continued after {from}",
            point.seq
        ));
    }
    if through.seq <= point.seq {
        return Ok(false);
    }
    *held = Some(through);
    Ok(true)
}

/// Checks each change; the first that fails ends the list and gives its reason.
fn check_changes(bodies: Vec<Bytes>) -> (Vec<CheckedChange>, Option<RefusalCode>) {
    let mut checked = Vec::with_capacity(bodies.len());
    for body in bodies {
        match parse_change(&body) {
            Ok(header) => checked.push(CheckedChange { header, body }),
            Err(error) if error.is_too_large() => return (checked, Some(RefusalCode::TooLarge)),
            Err(_) => return (checked, Some(RefusalCode::Damaged)),
        }
    }
    (checked, None)
}

fn check_edit(
    edited: &[super::EditedDocument],
    rows: &[(Key, Bytes)],
    queued: usize,
) -> Result<Vec<JobDocument>, EditError> {
    if queued >= limits::LOCAL_EDITS_QUEUED_MAX {
        return Err(EditError::Busy);
    }
    let rows = rows
        .iter()
        .map(|(key, value)| key.as_bytes().len() + value.len());
    let bodies = edited
        .iter()
        .flat_map(|document| &document.changes)
        .map(Bytes::len);
    let bytes = rows.chain(bodies).sum();
    if bytes > limits::BATCH_BYTES_MAX {
        return Err(EditError::TooLarge {
            bytes,
            max: limits::BATCH_BYTES_MAX,
        });
    }
    let mut documents: Vec<JobDocument> = Vec::with_capacity(edited.len());
    for document in edited {
        // Two entries for one document would each be placed on what was there before.
        if documents
            .iter()
            .any(|known| known.document == document.document)
        {
            return Err(EditError::Guard {
                what: format!("document {} stands in it twice", document.document),
            });
        }
        let mut changes = Vec::with_capacity(document.changes.len());
        for (number, body) in (1..).zip(&document.changes) {
            let header = parse_change(body).map_err(|error| EditError::Guard {
                what: format!("change {number} of document {}: {error}", document.document),
            })?;
            changes.push(CheckedChange {
                header,
                body: body.clone(),
            });
        }
        documents.push(JobDocument {
            document: document.document,
            kind: document.kind,
            snapshot: None,
            changes,
            refused: None,
            tombstone: None,
        });
    }
    Ok(documents)
}

#[cfg(test)]
mod tests;
