//! Edits and received changes on their way into the store: checked, placed in the graph, entered
//! in the feed, batched, and released in feed order once they are behind their barrier.
//!
//! Work is a queue of jobs, carried out strictly in order; only the reads they need run ahead. A
//! document touched by a job or an unstored batch has a slot here, which is always newer than the
//! store.
//!
//! Here are the jobs and what they wait for; `place` puts changes into the graphs of their documents,
//! `commit` makes a job whose turn has come into a batch, `batches` hands batches to the store and
//! lets out what is behind its barrier, `offences` keeps what no peer sends that keeps the protocol, and
//! closes its link, `restore` takes in what an archive has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::compact::Compaction;
use super::heal::Examination;
use super::purge::{Purging, Tombstone};
use super::reconcile::Healing;
use super::{Edit, EditError, Engine, Event, ReadQuery, Reading, WorkspaceState, Write};
use crate::examine::DamagedRecord;
use crate::feed::FeedPoint;
use crate::guard::{ChangeHeader, parse_change};
use crate::ids::{
    BatchId, ChangeHash, DocumentId, DocumentKind, FeedSeq, LinkId, PeerId, RequestId, StoreEpoch,
    WorkspaceId,
};
use crate::keys::Key;
use crate::limits;
use crate::mutants::Mutant;
use crate::records::{HeadRow, InviteRow, JournalFrame, Record, RecordError, SnapshotRef};
use crate::refusal::RefusalCode;
use crate::storage::JournalEntry;
use crate::wire;

mod batches;
mod commit;
mod counters;
#[cfg(any(test, feature = "fuzz"))]
mod lone;
mod offences;
mod place;
mod restore;

#[cfg(any(test, feature = "fuzz"))]
pub use lone::LoneGraph;
pub(super) use offences::Unfit;
pub(super) use place::{Placed, PlacedDocument, enter};
pub use restore::{Restore, RestoreError, Restored, RestoredDocument};

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
    refused: Option<Unfit>,
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
    /// An archive that is restored.
    Archive { request: RequestId },
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
    /// Examines a document of which a record is perhaps damaged, and heals it as far as can be.
    Heal(Box<Examination>),
    /// Sets a damaged record aside that is not of a document.
    SetAside(WorkspaceId, Box<DamagedRecord>),
}

impl Work {
    /// Whether someone waits to be told what came of it.
    pub(super) fn is_waited_for(&self) -> bool {
        match self {
            Self::Changes { author, .. } => {
                matches!(author, Author::Host { .. } | Author::Archive { .. })
            }
            Self::Write(_) | Self::Redeem { .. } | Self::Compact(_) | Self::Purge(_) => true,
            Self::PeerRow { .. }
            | Self::Learn(_)
            | Self::Left { .. }
            | Self::FeedHead { .. }
            | Self::Heal(_)
            | Self::SetAside(..) => false,
        }
    }

    /// Whether it came on this link, or on any and is told again with the next.
    pub(super) fn came_with(&self, gone: LinkId) -> bool {
        match self {
            Self::Changes { author, .. } => {
                matches!(author, Author::Peer { link, .. } if *link == gone)
            }
            Self::Redeem { link, .. } => *link == gone,
            Self::PeerRow { .. } | Self::Learn(_) => true,
            Self::Write(_)
            | Self::Left { .. }
            | Self::FeedHead { .. }
            | Self::Compact(_)
            | Self::Purge(_)
            | Self::Heal(_)
            | Self::SetAside(..) => false,
        }
    }

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
            | Self::Left { .. }
            | Self::Heal(_)
            | Self::SetAside(..) => None,
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
    /// Whether the store was asked for room before this came and has not answered yet: that answer is
    /// none to this.
    pub(super) is_past_question: bool,
}

impl Job {
    pub(super) fn new(work: Work) -> Self {
        Self {
            work,
            pinned: false,
            looking_up: 0,
            is_past_question: false,
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
    /// Whether there is a head row that cannot be read: nothing is taken for the document.
    unreadable: bool,
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

    /// Sets what is stored of a document, which a batch is about to write; pins it for that batch.
    pub(super) fn replace(&mut self, document: DocumentId, row: Option<HeadRow>) {
        let pins = self.slots.get(&document).map_or(0, |slot| slot.pins);
        let slot = Slot {
            row,
            loaded: true,
            pins: pins + 1,
            ..Slot::default()
        };
        self.slots.insert(document, slot);
    }

    /// Takes documents that were purged for documents that never were.
    pub(super) fn forget_purged<'a>(&mut self, documents: impl Iterator<Item = &'a DocumentId>) {
        for document in documents {
            if let Some(slot) = self.slots.get_mut(document)
                && slot.row.as_ref().is_some_and(|row| row.purged_at.is_some())
            {
                slot.row = None;
            }
        }
    }

    /// A document's head row was read after all.
    pub(super) fn settle(&mut self, document: &DocumentId, row: Option<HeadRow>) {
        if let Some(slot) = self.slots.get_mut(document).filter(|slot| !slot.loaded) {
            slot.row = row;
            slot.loaded = true;
        }
    }

    /// A document's head row will not be read.
    pub(super) fn give_up(&mut self, document: &DocumentId) {
        if let Some(slot) = self.slots.get_mut(document).filter(|slot| !slot.loaded) {
            slot.loaded = true;
            slot.unreadable = true;
        }
    }

    /// How many are remembered though nothing is done to them.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
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
        if slot.unreadable {
            self.slots.remove(document);
            return;
        }
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
    /// Whether the document, of which something was lost, is whole with it.
    pub(super) is_healed: bool,
    pub(super) origin: Option<PeerId>,
    pub(super) point: FeedPoint,
}

impl Entry {
    /// What was left of a document, entered anew by this store: whoever wants it reads it back.
    pub(super) fn of_rebuilt(
        (workspace, document): (WorkspaceId, DocumentId),
        kind: DocumentKind,
        point: FeedPoint,
        me: PeerId,
    ) -> Self {
        Self {
            workspace,
            document,
            kind,
            changes: Vec::new(),
            has_snapshot: true,
            is_purged: false,
            compaction_due: false,
            is_healed: false,
            origin: Some(me),
            point,
        }
    }
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
    /// Whether something was new in what is acknowledged.
    pub(super) brings_changes: bool,
    /// Documents for whose offences the link is closed once it is acknowledged, and what was wrong.
    pub(super) faults: Vec<(DocumentId, String)>,
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
    /// Restores that are done with it.
    restores: Vec<(RequestId, Restored)>,
    /// A purge, and how many documents it purges.
    purge: Option<(RequestId, u64)>,
    replayed: Option<u64>,
    /// Whether it takes away what was damaged: no other is made before it is stored.
    heals: bool,
    /// What the host is told once it is stored.
    pub(super) told: Vec<Event>,
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
                self.replay_beneath(&workspace, &documents);
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

    pub(super) fn on_replay(&mut self, mut entries: Vec<JournalEntry>) {
        if self.is(Mutant::IgnoresJournal) {
            entries.clear();
        }
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
        snapshots: Vec<Result<CheckedSnapshot, Unfit>>,
    ) {
        let bytes = changes.window_bytes();
        let mut snapshots = snapshots.into_iter();
        let mut documents: Vec<JobDocument> = Vec::with_capacity(changes.documents.len());
        let mut places: BTreeMap<DocumentId, usize> = BTreeMap::new();
        let flow = self.flow(link, &changes.workspace);
        let is_trusted = flow.is_some_and(|flow| flow.we_take_snapshots);
        let mutants = self.config.mutants;
        let ends = changes.documents.iter().filter(|of| of.body_bytes() == 0);
        let answered = ends.map(|of| of.document).collect();
        for received in changes.documents {
            let snapshot = received.snapshot.as_ref().and_then(|_| snapshots.next());
            let (snapshot, unloadable) = match snapshot.transpose() {
                Ok(snapshot) => (snapshot, None),
                Err(unfit) => (None, Some(unfit)),
            };
            let (checked, refused) = check_changes(received.changes);
            let refused = unloadable.or(refused);
            // What is not in the feed's order, or asked for, may be ahead of what it takes away.
            let tombstone = received.purged.filter(|_| !changes.early);
            let tombstone = tombstone.map(|purged| Tombstone::new(purged, is_trusted, mutants));
            // One entry in our feed per document and frame, in the order of first mention.
            if let Some(place) = places.get(&received.document) {
                let known = &mut documents[*place];
                if snapshot.is_some() {
                    // Its place is ahead of the changes.
                    known.refused = Some(RefusalCode::Damaged.into());
                }
                known.changes.extend(checked);
                known.refused = known.refused.take().or(refused);
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
        if job.work.is_waited_for() {
            job.is_past_question = self.is_asked_for_room();
            self.ask_room();
        }
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
            state.slots.settle(document, row);
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
        let may_write = !self.recovering && self.low_space.is_none();
        while may_write
            && self.pending.len() < limits::PENDING_BATCHES_MAX
            && self.pending.back().is_none_or(|last| !last.heals)
        {
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
        let short = u64::from(self.is(Mutant::ReplaysOneTooFew));
        self.ready(&workspace).is_some_and(|state| {
            state.opened.epoch == epoch && state.opened.seq.0 + short >= through.0
        })
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
            Work::SetAside(workspace, _) => return self.ensure_workspace(*workspace),
            Work::Heal(_) => {
                let Work::Heal(examination) = &mut job.work else {
                    return false;
                };
                return self.is_examined(examination);
            }
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
}

/// Checks each change; the first that fails ends the list and gives its reason.
fn check_changes(bodies: Vec<Bytes>) -> (Vec<CheckedChange>, Option<Unfit>) {
    let mut checked = Vec::with_capacity(bodies.len());
    for body in bodies {
        match parse_change(&body) {
            Ok(header) => checked.push(CheckedChange { header, body }),
            Err(error) => return (checked, Some(Unfit::of_change(body, &error))),
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
