//! The engine: one value that decides everything a replica does, for a device and a server alike.
//!
//! One way in, [`Engine::handle`]; one way out, [`Engine::poll`]. After every input the caller
//! drains `poll` before the next one. The engine holds what is in flight (links, edits, batches,
//! the documents they touch); everything else it asks the store for. Nothing leaves before its
//! barrier: no change, own or forwarded, and no acknowledgement.
//!
//! The parts: `links` greets peers and keeps them; `ingest` turns edits and received changes into
//! batches; `follow` sends what a peer's cursor lacks and acknowledges what came; `reconcile` finds
//! out what differs where no cursor can be trusted; `snapshots` takes whole versions in; `compact`
//! lets changes go that a snapshot holds; `heal` quarantines damaged records and has peers give back
//! what was lost; `purge` leaves nothing of a document but a tombstone;
//! `shares` knows what is shared with whom, and tells those who may know; `alive` closes links that
//! no longer carry anything; `fresh` knows as of when all a peer had is here, and `relay` what a
//! member's other devices hold; `space` waits while the disk is full.

mod alive;
mod compact;
mod follow;
mod fresh;
mod heal;
mod ingest;
mod io;
mod links;
mod load;
mod purge;
mod rebuild;
mod reconcile;
mod relay;
mod shares;
mod snapshots;
mod space;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::feed::FeedPoint;
use crate::ids::{
    BatchId, ChangeHash, DocumentId, DocumentKind, FeedSeq, LinkId, PeerId, ReadId, WorkspaceId,
};
use crate::keys::{Key, KeyRange};
use crate::mutants::{Mutant, Mutants};
use crate::records::{DamageRow, FeedHeadRow, PeerRow, Record as _, RecordError};
use crate::storage::{JournalRelease, Scan, StoreError};
use crate::time::Tick;
use crate::wire::Role;

pub use io::{
    CloseReason, Compact, CompactHold, Edit, EditError, EditedDocument, Enrolment, Event, Input,
    JoinRequest, LinkStats, Moment, Output, Purge, PurgeError, ReadQuery, ReadResult, SendStored,
    StoredDocument, WorkspaceStatus, Write,
};

pub use alive::Stall;
pub use compact::needs_singly;
pub use follow::{StoredBodies, stored_frames};
pub use fresh::{Verified, word_counts};
#[cfg(any(test, feature = "fuzz"))]
pub use ingest::LoneGraph;
pub use ingest::{Restore, RestoreError, Restored, RestoredDocument};
pub use links::Trouble;
pub use load::Load;
pub use purge::tombstone_of;
pub use rebuild::{Remains, rebuilt_row};
pub use reconcile::progress_of;
pub use snapshots::snapshot_hash;

use heal::Search;
use ingest::{Job, PendingBatch, Replay, Slots};
use links::{Dialer, Link};
use relay::Waypoints;
use shares::Roster;
use space::LowSpace;

/// What an engine is, fixed for its life.
#[derive(Clone, Debug)]
pub struct Config {
    /// This device's own id.
    pub me: PeerId,
    /// Device or server.
    pub role: Role,
    /// Number for breaking state changes, told to peers.
    pub state_version: u32,
    /// How old what was verified last may be for a workspace to count as fresh.
    pub staleness_bound: std::time::Duration,
    /// Documents of a workspace beyond which new ones of peers are refused.
    pub workspace_documents_max: u64,
    /// The constant genesis changes every document of a kind begins with; never stored or sent.
    pub roots: BTreeMap<ChangeHash, Root>,
    /// What is wrong with it on purpose.
    pub mutants: Mutants,
}

/// What the engine knows of a genesis change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The kind of document that begins with it.
    pub kind: DocumentKind,
    /// The counter of its last operation.
    pub max_op: u64,
}

/// Why the engine wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WakeReason {
    /// A heartbeat is due.
    Heartbeat(LinkId),
    /// A peer is to be dialled again.
    Redial(PeerId),
    /// A link has not answered a probe.
    Proof(LinkId),
    /// Edits that are in the journal and that the store refused are to be tried again.
    Replay,
    /// The store is to be asked whether the disk has room again.
    Room,
    /// What was verified last is about to be older than the bound.
    Stale(WorkspaceId),
    /// The peers of a workspace are to be asked where their feeds end.
    Ask(WorkspaceId),
}

/// When the engine next wants [`Input::Wake`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// The moment.
    pub at: Tick,
    /// What it is for.
    pub why: WakeReason,
}

/// One workspace in use.
#[derive(Debug)]
struct Workspace {
    /// The end of the feed as assigned to batches, stored or not.
    point: FeedPoint,
    /// The end of the feed that may leave: everything up to here is behind its barrier.
    released: FeedPoint,
    /// The end of the feed that the store holds: what is only journalled may not be readable yet.
    stored: FeedPoint,
    /// The end of the feed when the workspace was loaded: journal frames of that history up to
    /// there are in it. What is replayed since may have taken the numbers of others.
    opened: FeedPoint,
    documents: u64,
    /// Entries of the feed up to here may have been compacted away.
    compacted: FeedSeq,
    /// Whether the feed head was ever written under this epoch.
    persisted: bool,
    /// Whether the epoch began since the workspace was loaded, so that no journal frame is of it.
    is_refounded: bool,
    slots: Slots,
    /// Documents of which something was lost that is not back.
    damaged: BTreeMap<DocumentId, DamageRow>,
    /// Documents about which nothing can be done here.
    unreadable: BTreeSet<DocumentId>,
    /// Where documents were entered anew since the workspace was loaded.
    healed_at: BTreeMap<DocumentId, FeedSeq>,
    peers: BTreeMap<PeerId, Peer>,
    /// The part of our feed some other peer holds, as last reported to the journal.
    journal_released: Option<JournalRelease>,
}

/// What is known of a peer in one workspace, for as long as this engine lives.
#[derive(Debug, Default)]
struct Peer {
    /// As assigned to batches.
    row: PeerRow,
    /// The cursor that is behind its barrier.
    held_stored: Option<FeedPoint>,
    /// The link on which the cursor was agreed last. What came over another, and was not carried out
    /// or stored by then, says nothing about it: the peer may have lost its feed in between.
    agreed_on: Option<LinkId>,
    /// Whether `row` has something no batch carries yet.
    dirty: bool,
    /// What was verified last in this engine's life.
    verified: Option<Verified>,
    /// Where in its own feed and in ours the peer was when what it sent was stored: a device that has
    /// ours up to there has the peer's up to there, too.
    waypoints: Waypoints,
    /// Batches on their way that take what was refused of the peer before: until they are released
    /// there are no waypoints, since what was left out of them is further on in our feed.
    accepting: usize,
}

#[derive(Debug)]
enum WorkspaceState {
    Loading,
    Ready(Box<Workspace>),
}

/// What a read will be used for.
#[derive(Debug)]
enum Reading {
    Damages(WorkspaceId),
    Workspace(WorkspaceId, BTreeMap<DocumentId, DamageRow>),
    FeedEnd(
        WorkspaceId,
        BTreeMap<DocumentId, DamageRow>,
        Option<StoreError>,
    ),
    Search(WorkspaceId, Search),
    Examine(WorkspaceId, DocumentId),
    Shares(LinkId),
    Peers(LinkId, Vec<WorkspaceId>),
    Siblings(WorkspaceId, Vec<PeerId>),
    Invite(LinkId),
    Roster,
    Slots(WorkspaceId, Vec<DocumentId>),
    Lookups(WorkspaceId, Vec<(DocumentId, ChangeHash)>),
    FeedPage(LinkId, WorkspaceId),
    Catalogue(LinkId, WorkspaceId),
    WantRows(LinkId, WorkspaceId),
    Exchange(LinkId, WorkspaceId),
    ExchangeHead(LinkId, WorkspaceId),
    ExchangeSnapshots(LinkId, WorkspaceId),
    ExchangeBeyond(LinkId, WorkspaceId),
    Holds(WorkspaceId, DocumentId, Vec<ChangeHash>),
    Inspect(LinkId),
    Holders(WorkspaceId),
}

/// The engine. See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    rng: ChaCha12Rng,
    now: Moment,
    outputs: VecDeque<Output>,
    links: BTreeMap<LinkId, Link>,
    dialers: BTreeMap<PeerId, Dialer>,
    workspaces: BTreeMap<WorkspaceId, WorkspaceState>,
    jobs: VecDeque<Job>,
    pending: VecDeque<PendingBatch>,
    replays: BTreeMap<WorkspaceId, Replay>,
    /// Invitations whose redemption is on its way to the store or got there in this run.
    redeeming: BTreeMap<[u8; 32], PeerId>,
    /// Journal frames not yet in the store, and the changes restored so far.
    replaying: (usize, u64),
    reads: BTreeMap<ReadId, Reading>,
    next_read: ReadId,
    next_batch: BatchId,
    last_batch: Option<BatchId>,
    /// A batch failed and the outcome of others is awaited; nothing new is submitted meanwhile.
    recovering: bool,
    /// The outcome of a batch is unknown: what can be read may not be durable, so nothing is
    /// stored, sent or believed until the store is opened again, with a new engine.
    failed: Option<StoreError>,
    /// The disk has too little room: nothing is given to the store until it has.
    low_space: Option<LowSpace>,
    /// Edits whose authors were told that they are safe, in the journal and refused by the store.
    owed: Vec<Job>,
    /// When those are tried again.
    replay_at: Option<Tick>,
    /// Workspaces in which the journal numbers entries that the feed does not have.
    forked: BTreeSet<WorkspaceId>,
    roster: Roster,
    /// Workspaces of which a server said who takes part, and that is stored: nobody else does, as far
    /// as it knows.
    shares_told: BTreeSet<WorkspaceId>,
    /// Workspaces that the host leaves: nothing of them is taken until that is done.
    /// With whether their records are going to be removed.
    leaving: BTreeMap<WorkspaceId, bool>,
    stalls: BTreeMap<(PeerId, WorkspaceId), Stall>,
    /// Links whose peers asked where our feeds end, which could not be said of all of them yet.
    owing: BTreeSet<LinkId>,
    /// Workspaces that the host was told to be fresh.
    fresh: BTreeMap<WorkspaceId, fresh::Fresh>,
}

impl Engine {
    /// Makes an engine; it knows nothing until asked. `seed` feeds its only generator.
    pub fn new(config: Config, seed: [u8; 32], now: Moment) -> Self {
        Self {
            config,
            rng: ChaCha12Rng::from_seed(seed),
            now,
            outputs: VecDeque::new(),
            links: BTreeMap::new(),
            dialers: BTreeMap::new(),
            workspaces: BTreeMap::new(),
            jobs: VecDeque::new(),
            pending: VecDeque::new(),
            replays: BTreeMap::new(),
            redeeming: BTreeMap::new(),
            replaying: (0, 0),
            reads: BTreeMap::new(),
            next_read: ReadId(1),
            next_batch: BatchId(1),
            last_batch: None,
            recovering: false,
            failed: None,
            low_space: None,
            owed: Vec::new(),
            replay_at: None,
            forked: BTreeSet::new(),
            roster: Roster::default(),
            shares_told: BTreeSet::new(),
            leaving: BTreeMap::new(),
            stalls: BTreeMap::new(),
            owing: BTreeSet::new(),
            fresh: BTreeMap::new(),
        }
    }

    /// Takes an input. Time never runs backwards: an earlier tick counts as the last one.
    ///
    /// # Panics
    /// If the outputs of the input before were not drained.
    pub fn handle(&mut self, now: Moment, input: Input) {
        assert!(
            self.outputs.is_empty(),
            "the engine's outputs must be drained before its next input"
        );
        self.now = Moment {
            tick: now.tick.max(self.now.tick),
            wall: now.wall,
        };
        match input {
            Input::LinkUp { link, peer, dialed } => self.on_link_up(link, peer, dialed),
            Input::LinkDown { link, why } => self.on_link_down(link, &why),
            Input::FrameArrived { link, frame } => self.on_frame(link, &frame),
            Input::DialFailed { peer, why } => self.on_dial_failed(peer, &why),
            Input::SendFailed {
                link,
                workspace,
                document,
                error,
            } => self.on_send_failed(link, workspace, document, &error),
            Input::Suspect {
                workspace,
                document,
            } => self.on_suspect(workspace, document),
            Input::Journaled(batch) => self.on_journaled(batch),
            Input::Stored(batch) => self.on_stored(batch),
            Input::BatchFailed { batch, error } => self.on_batch_failed(batch, &error),
            Input::BatchUnknown { batch, error } => {
                self.failed.get_or_insert_with(|| error.clone());
                self.on_batch_failed(batch, &error);
            }
            Input::Room(room) => self.on_room(room),
            Input::ReadDone { read, result } => self.on_read_done(read, result),
            Input::Edit(edit) => self.on_edit(edit),
            Input::Write(write) => self.on_write(write),
            Input::Compact(compact) => self.on_compact(*compact),
            Input::Purge(purge) => self.on_purge(purge),
            Input::Restore(restore) => self.on_restore(restore),
            Input::Replay(entries) => self.on_replay(entries),
            Input::Connect { peer, addresses } => self.on_connect(peer, addresses),
            Input::Disconnect { peer } => self.on_disconnect(peer),
            Input::Join(request) => self.on_join_request(request),
            Input::Reached { peer, address } => self.on_reached(peer, &address),
            Input::NetworkChanged | Input::Resumed => self.on_disturbed(),
            Input::Refresh(workspace) => self.on_refresh(workspace),
            Input::Leave {
                workspace,
                removing,
            } => self.on_leave(workspace, removing),
            Input::Close => self.on_close(),
            Input::Wake => self.on_wake(),
        }
        self.advance_jobs();
        self.state_owed();
    }

    /// The next thing to do; `None` when everything was handed out.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Wake`] is wanted next. Ask again after every input.
    pub fn wake_at(&self) -> Option<Wake> {
        let heartbeats = self.heartbeats_due();
        let redials = self.dialers.iter().filter_map(|(peer, dialer)| {
            let at = dialer.redial_at?;
            Some((at, WakeReason::Redial(*peer)))
        });
        let replay = self.replay_at.map(|at| (at, WakeReason::Replay));
        let proofs = self.proofs_due();
        let stale = self.stale_due();
        let asks = self.ask_due();
        let room = self.room_due().map(|at| (at, WakeReason::Room));
        let (at, why) = heartbeats
            .chain(redials)
            .chain(replay)
            .chain(proofs)
            .chain(room)
            .chain(stale)
            .chain(asks)
            .min()?;
        Some(Wake { at, why })
    }

    /// Whether everything that was handed in is stored or refused.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.pending.is_empty()
    }

    /// This engine's own id.
    pub fn me(&self) -> PeerId {
        self.config.me
    }

    /// What is known of a workspace; `None` if it was not used since the engine was made.
    pub fn workspace_status(&self, workspace: &WorkspaceId) -> Option<WorkspaceStatus> {
        let WorkspaceState::Ready(state) = self.workspaces.get(workspace)? else {
            return None;
        };
        let peers = state
            .peers
            .iter()
            .map(|(peer, known)| (*peer, known.row.clone()));
        Some(WorkspaceStatus {
            head: state.point,
            durable: state.released,
            documents: state.documents,
            peers: peers.collect(),
        })
    }

    /// What each peer holds, of one workspace in use or of all of them: newer than the rows in the
    /// store, which are written with the next batch or when a link ends.
    pub fn peers(
        &self,
        workspace: Option<WorkspaceId>,
    ) -> impl Iterator<Item = (WorkspaceId, impl Iterator<Item = (PeerId, &PeerRow)>)> {
        let wanted = self
            .workspaces
            .iter()
            .filter(move |(id, _)| workspace.is_none_or(|wanted| wanted == **id));
        wanted.filter_map(|(id, state)| match state {
            WorkspaceState::Ready(state) => Some((
                *id,
                state.peers.iter().map(|(peer, known)| (*peer, &known.row)),
            )),
            WorkspaceState::Loading => None,
        })
    }

    /// What peers refused before they greeted and have not told again yet: it counts until they have.
    pub fn refused_before(
        &self,
    ) -> impl Iterator<Item = (WorkspaceId, PeerId, DocumentId, crate::refusal::RefusalCode)> + '_
    {
        self.links.values().flat_map(|link| {
            let flows = link.flows.iter();
            let untold = flows.filter(|(_, flow)| !flow.has_retold);
            untold.flat_map(|(workspace, flow)| {
                let refused = flow.refused_before.iter();
                refused.map(|(document, code)| (*workspace, link.peer, *document, *code))
            })
        })
    }

    /// The peers there is a greeted link to, with what it moved.
    pub fn links(&self) -> impl Iterator<Item = (LinkId, PeerId, LinkStats)> + '_ {
        let up = self.links.iter().filter(|(_, link)| link.is_up());
        up.map(|(id, link)| (*id, link.peer, link.stats()))
    }

    /// Where nothing moved on a link although one side lacks something, and was not seen to since.
    pub fn stalls(&self) -> impl Iterator<Item = (PeerId, WorkspaceId, Stall)> + '_ {
        let stalls = self.stalls.iter();
        stalls.map(|((peer, workspace), stall)| (*peer, *workspace, *stall))
    }

    /// What the last attempt to reach each wanted peer came to, where it came to nothing.
    pub fn troubles(&self) -> impl Iterator<Item = (PeerId, &Trouble)> {
        let dialers = self.dialers.iter();
        dialers.filter_map(|(peer, dialer)| Some((*peer, dialer.trouble()?)))
    }

    /// The addresses of each wanted peer, those that worked last first.
    pub fn addresses(&self) -> impl Iterator<Item = (PeerId, &[String])> {
        let dialers = self.dialers.iter();
        dialers.map(|(peer, dialer)| (*peer, dialer.addresses()))
    }

    /// The number for breaking changes of state that peers are told.
    pub fn state_version(&self) -> u32 {
        self.config.state_version
    }

    /// What the store said of the disk's room, for as long as that is too little.
    pub fn low_space(&self) -> Option<&StoreError> {
        self.low_space.as_ref().map(LowSpace::error)
    }

    /// Whether there is a link, or one is wanted.
    pub fn is_networked(&self) -> bool {
        !self.links.is_empty() || !self.dialers.is_empty()
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.config.mutants.has(mutant)
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn read(&mut self, query: ReadQuery, reading: Reading) -> ReadId {
        let read = self.next_read;
        self.next_read = read.next();
        self.reads.insert(read, reading);
        self.outputs.push_back(Output::Read { read, query });
        read
    }

    fn on_read_done(&mut self, read: ReadId, result: Result<ReadResult, StoreError>) {
        let Some(reading) = self.reads.remove(&read) else {
            return; // Asked for before a failure; nobody waits any more.
        };
        let result = match (&reading, result) {
            (_, Ok(result)) => result,
            (Reading::Examine(workspace, document), Err(error)) => {
                return self.on_examined(*workspace, *document, Err(error));
            }
            (_, Err(error @ StoreError::Damaged { .. })) => {
                return self.on_damage_read(&reading, error);
            }
            (_, Err(error)) => return self.on_read_failed(&reading, error),
        };
        let outcome = match (&reading, result) {
            (Reading::Damages(workspace), ReadResult::Rows(rows)) => {
                self.on_damage_rows(*workspace, &rows);
                Ok(())
            }
            (Reading::Workspace(workspace, damaged), ReadResult::Values(values)) => {
                self.on_workspace_row(*workspace, damaged, &values)
            }
            (Reading::FeedEnd(workspace, damaged, why), ReadResult::FeedEnd(end)) => {
                self.on_feed_end(*workspace, damaged, why.as_ref(), end);
                Ok(())
            }
            (Reading::Search(workspace, search), ReadResult::Found(found)) => {
                self.on_found(*workspace, search, found);
                Ok(())
            }
            (Reading::Examine(workspace, document), ReadResult::Examined(examined)) => {
                self.on_examined(*workspace, *document, Ok(examined));
                Ok(())
            }
            (Reading::Slots(workspace, documents), ReadResult::Values(values)) => {
                self.on_slots(*workspace, documents, &values)
            }
            (Reading::Lookups(workspace, lookups), ReadResult::Presence(present)) => {
                self.on_lookups(*workspace, lookups, &present);
                Ok(())
            }
            (Reading::Shares(link), ReadResult::Rows(rows)) => {
                self.on_shares(*link, &rows);
                Ok(())
            }
            (Reading::Peers(link, workspaces), ReadResult::Values(values)) => {
                self.on_peer_rows(*link, workspaces, &values)
            }
            (Reading::Siblings(workspace, siblings), ReadResult::Values(values)) => {
                self.on_sibling_rows(*workspace, siblings, &values);
                Ok(())
            }
            (Reading::Invite(link), ReadResult::Values(values)) => self.on_invite(*link, &values),
            (Reading::Roster, ReadResult::Rows(rows)) => self.on_roster(read, &rows),
            (Reading::FeedPage(link, workspace), ReadResult::Rows(rows)) => {
                self.on_feed_page(read, *link, *workspace, rows)
            }
            (Reading::Catalogue(link, workspace), ReadResult::Rows(rows)) => {
                self.on_catalogue_page(read, *link, *workspace, &rows)
            }
            (Reading::WantRows(link, workspace), ReadResult::Values(values)) => {
                self.on_want_rows(*link, *workspace, &values)
            }
            (Reading::Exchange(link, workspace), ReadResult::Rows(rows)) => {
                self.on_exchange_rows(*link, *workspace, &rows)
            }
            (Reading::ExchangeHead(link, workspace), ReadResult::Values(values)) => {
                self.on_exchange_head(*link, *workspace, &values)
            }
            (Reading::ExchangeSnapshots(link, workspace), ReadResult::Values(values)) => {
                self.on_exchange_snapshots(*link, *workspace, &values)
            }
            (Reading::ExchangeBeyond(link, workspace), ReadResult::Changes(bodies)) => {
                self.on_exchange_beyond(*link, *workspace, bodies);
                Ok(())
            }
            (Reading::Holds(workspace, document, hashes), ReadResult::Presence(present)) => {
                self.on_holds(*workspace, *document, hashes, &present);
                Ok(())
            }
            (Reading::Inspect(link), ReadResult::Inspected(inspected)) => {
                self.on_inspected(read, *link, inspected);
                Ok(())
            }
            (Reading::Holders(workspace), ReadResult::Rows(rows)) => {
                self.on_holders(*workspace, &rows)
            }
            (reading, result) => {
                panic!("a read for {reading:?} was answered in another shape: {result:?}")
            }
        };
        if let Err(error) = outcome {
            let key = String::new();
            let what = error.to_string();
            self.on_damage_read(&reading, StoreError::Damaged { key, what });
        }
    }

    fn on_read_failed(&mut self, reading: &Reading, error: StoreError) {
        match reading {
            // One document that cannot be loaded is taken not to hold what was asked for: what came is
            // refused for want of it, and nothing else is held up.
            Reading::Holds(workspace, document, hashes) => {
                let absent = vec![false; hashes.len()];
                let (workspace, document, hashes) = (*workspace, *document, hashes.clone());
                self.on_holds(workspace, document, &hashes, &absent);
            }
            // What others hold stays unknown until they greet.
            Reading::Siblings(..) => {}
            // Only this link needed the answer.
            Reading::Shares(link)
            | Reading::Peers(link, _)
            | Reading::Invite(link)
            | Reading::FeedPage(link, _)
            | Reading::Catalogue(link, _)
            | Reading::WantRows(link, _)
            | Reading::Exchange(link, _)
            | Reading::ExchangeHead(link, _)
            | Reading::ExchangeSnapshots(link, _)
            | Reading::ExchangeBeyond(link, _)
            | Reading::Inspect(link) => {
                self.close_link(*link, CloseReason::StoreFailed);
                self.emit(Event::StoreFailed { error });
            }
            Reading::Search(_, Search::Any(_)) => self.emit(Event::StoreFailed { error }),
            Reading::Damages(_)
            | Reading::Examine(..)
            | Reading::FeedEnd(..)
            | Reading::Search(..)
            | Reading::Workspace(..)
            | Reading::Roster
            | Reading::Slots(..)
            | Reading::Lookups(..)
            | Reading::Holders(_) => {
                self.fail_store(&error);
            }
        }
    }

    /// The workspace if it is loaded; otherwise asks for it.
    fn ensure_workspace(&mut self, workspace: WorkspaceId) -> bool {
        match self.workspaces.get(&workspace) {
            Some(WorkspaceState::Ready(_)) => true,
            Some(WorkspaceState::Loading) => false,
            None => {
                self.workspaces.insert(workspace, WorkspaceState::Loading);
                let scan = Scan::ascending(KeyRange::damages(&workspace), usize::MAX);
                self.read(ReadQuery::Scan(scan), Reading::Damages(workspace));
                false
            }
        }
    }

    /// Reads the end of a workspace's feed, its damaged documents being known.
    fn read_workspace(&mut self, workspace: WorkspaceId, damaged: BTreeMap<DocumentId, DamageRow>) {
        let query = ReadQuery::Values(vec![Key::feed_head(&workspace)]);
        self.read(query, Reading::Workspace(workspace, damaged));
    }

    fn on_workspace_row(
        &mut self,
        workspace: WorkspaceId,
        damaged: &BTreeMap<DocumentId, DamageRow>,
        values: &[Option<bytes::Bytes>],
    ) -> Result<(), RecordError> {
        match values.first() {
            Some(Some(value)) => {
                let row = FeedHeadRow::decode(value)?;
                self.load_workspace(workspace, damaged, Some(row));
            }
            _ => {
                let reading = Reading::FeedEnd(workspace, damaged.clone(), None);
                self.read(ReadQuery::FeedEnd(workspace), reading);
            }
        }
        Ok(())
    }

    /// Goes on with a workspace whose feed ends as this says; one that is new without it.
    fn load_workspace(
        &mut self,
        workspace: WorkspaceId,
        damaged: &BTreeMap<DocumentId, DamageRow>,
        row: Option<FeedHeadRow>,
    ) {
        let forked = self.forked.remove(&workspace) && row.is_some();
        let persisted = row.is_some() && !forked;
        let (mut point, documents, compacted) = match row {
            Some(row) => (row.point, row.documents, row.compacted),
            None => (FeedPoint::start_of(self.fresh_epoch()), 0, FeedSeq(0)),
        };
        if forked {
            point.epoch = self.fresh_epoch();
        }
        let state = Workspace {
            point,
            released: point,
            stored: point,
            opened: point,
            is_refounded: forked || !persisted,
            documents,
            compacted,
            persisted,
            slots: Slots::default(),
            damaged: damaged.clone(),
            unreadable: BTreeSet::new(),
            healed_at: BTreeMap::new(),
            peers: BTreeMap::new(),
            journal_released: None,
        };
        self.workspaces
            .insert(workspace, WorkspaceState::Ready(Box::new(state)));
        if forked {
            self.enqueue_feed_head(workspace);
        }
        self.greet_waiting_links();
    }

    /// The record of where a workspace's feed ends.
    fn feed_head(state: &Workspace) -> bytes::Bytes {
        let row = FeedHeadRow {
            point: state.point,
            documents: state.documents,
            compacted: state.compacted,
        };
        row.encode()
    }

    fn fresh_epoch(&mut self) -> crate::ids::StoreEpoch {
        use rand_chacha::rand_core::RngCore as _;
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        crate::ids::StoreEpoch::from_bytes(bytes)
    }

    fn ready(&mut self, workspace: &WorkspaceId) -> Option<&mut Workspace> {
        match self.workspaces.get_mut(workspace)? {
            WorkspaceState::Ready(state) => Some(state),
            WorkspaceState::Loading => None,
        }
    }
}
