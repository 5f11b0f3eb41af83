//! The world: nodes with an engine, a disk and a host each, wires between them, and one agenda of
//! everything that will happen.
//!
//! The engine's outputs are carried out here with delays drawn from the world's generator. Some
//! invariants are checked at every step (see `check`); a broken one panics with the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use reconvene_core::engine::{
    Config, Engine, Event, Input, JoinRequest, LinkStats, Moment, Output, ReadQuery, ReadResult,
    Root, SendStored, Write,
};
use reconvene_core::examine::FeedEnd;
use reconvene_core::ids::{ChangeHash, DocumentId, LinkId, PeerId, ReadId, RequestId, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::limits::STALENESS_BOUND;
use reconvene_core::memory::{Faults, MemoryStore};
use reconvene_core::mutants::Mutants;
use reconvene_core::storage::{StoreError, StoreRead as _, StoreWrite as _};
use reconvene_core::time::{Tick, WallTime};
use reconvene_core::wire::Role;
use reconvene_model::MaterialiseCounter;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::changes::{KIND, OTHER_KIND, genesis};
use crate::check::Knowledge;
use crate::disk::{Disk, DiskCounts};
use crate::host::Host;
use crate::wires::{Side, Wire, WireId};

pub use crate::disk::{Fact, StoreCopy};
pub use crate::host::{document, workspace};
pub use crate::wires::Traffic;

/// A node, by its place.
pub type NodeId = usize;

/// How long things take: each is drawn between its two bounds, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// One way over a wire.
    pub latency: (u64, u64),
    /// From asking for a read until the store is looked at, and again until the answer.
    pub read: (u64, u64),
    /// Each of a group's journalling, application and barrier.
    pub write: (u64, u64),
    /// From a completion until the engine hears of it.
    pub completion: (u64, u64),
    /// By up to how much more one read in eight is late, whatever is asked and answered meanwhile.
    #[serde(default, skip_serializing_if = "is_none")]
    pub late: u64,
}

fn is_none(late: &u64) -> bool {
    *late == 0
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            latency: (5, 5),
            read: (0, 1),
            write: (1, 1),
            completion: (0, 0),
            late: 0,
        }
    }
}

impl Settings {
    /// Everything ten times as slow, and never at once.
    #[must_use]
    pub fn slower(self) -> Self {
        let slower = |(least, most): (u64, u64)| (least, 10 * most.max(2));
        Self {
            latency: slower(self.latency),
            read: slower(self.read),
            write: slower(self.write),
            completion: slower(self.completion),
            late: self.late,
        }
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) me: PeerId,
    pub(crate) role: Role,
    /// How far its wall clock is from the world's, in milliseconds.
    pub(crate) skew: i64,
    /// `None` while it is down.
    pub(crate) engine: Option<Engine>,
    /// Counts its restarts; what was meant for an earlier life is dropped.
    pub(crate) life: u64,
    /// `None` only while the store changes hands.
    pub(crate) disk: Option<Disk>,
    pub(crate) host: Host,
    /// What would have happened to it since it sleeps; `None` if it is awake.
    asleep: Option<Vec<Happening>>,
    completions_at: u64,
    wake_at: Option<u64>,
    wanted: BTreeSet<NodeId>,
    /// What it shares with whom, to be written again when its store was lost.
    pub(crate) shares: BTreeMap<Key, Bytes>,
    /// Whether its store was ever replaced, so that others may rightly hold more of it.
    rewritten: bool,
    /// Whether a record of it ever rotted or got lost.
    pub(crate) spoilt: bool,
    pub(crate) events: Vec<(u64, Event)>,
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Wake(NodeId, u64),
    Read(NodeId, u64, ReadId, ReadQuery),
    Journal(NodeId, u64),
    Apply(NodeId, u64),
    Barrier(NodeId, u64),
    Input(NodeId, u64, Box<Input>),
    Dialled(NodeId, u64, PeerId),
    Transmit(WireId, Side, Sending),
    Arrive(WireId, Side, Arrival),
    /// A server looks at a command, or at an integration.
    Execute(NodeId, u64, WorkspaceId, DocumentId),
    /// It is looked at whether anything was heard at an end of a wire.
    Idle(WireId, Side),
}

/// Something on its way out of a node.
#[derive(Debug)]
pub(crate) enum Sending {
    Frame(Bytes),
    Stored(Box<SendStored>),
    Close(String),
}

/// Something on its way into a node.
#[derive(Debug)]
pub(crate) enum Arrival {
    Up,
    Frame(Bytes),
    Down(String),
}

/// The world. See the module's documentation.
#[derive(Debug)]
pub struct World {
    pub(crate) seed: u64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) now: u64,
    order: u64,
    next_link: u64,
    next_request: u64,
    pub(crate) next_actor: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) wires: BTreeMap<WireId, Wire>,
    agenda: BTreeMap<(u64, u64), Happening>,
    apart: BTreeSet<(NodeId, NodeId)>,
    /// Whom nobody hears: the first by the second.
    pub(crate) muted: BTreeSet<(NodeId, NodeId)>,
    /// What they said meanwhile, which still arrives if they are heard again in time.
    pub(crate) withheld: Vec<(WireId, Side, Arrival)>,
    pub(crate) knowledge: Knowledge,
    trace: Sha256,
    steps: u64,
    /// How long things take from now on.
    pub settings: Settings,
    /// For how long what is verified counts as fresh, on nodes that start from now on.
    pub staleness_bound: Duration,
    /// What is wrong with engines that start from now on, on purpose.
    pub mutants: Mutants,
    /// The state version of servers that start from now on.
    pub state_version: u32,
    /// A node of which others may be told anything, so that nobody is blamed for believing it.
    pub liar: Option<NodeId>,
    /// Whether peers may lie, so that nobody can be blamed for believing them.
    pub liars: bool,
    /// Frames sent from now on, if they are to be kept.
    pub recorded: Option<Vec<Bytes>>,
    /// Every change that crosses a wire from now on, if that is to be counted: early copies aside.
    pub(crate) crossings: Option<Crossings>,
    /// Who is told what happens.
    pub observer: Option<Observer>,
    /// Whether hosts keep real documents, made by the model's editor; otherwise changes of one operation
    /// each, of which the engine sees no more.
    pub real: bool,
    pub(crate) counter: MaterialiseCounter,
    /// The oldest and the newest version of the protocol that a node speaks, where it is not what is
    /// spoken now, version 1.
    pub speaks: BTreeMap<NodeId, (u32, u32)>,
    /// What is lost on the way from one node to another although the wire is whole.
    pub swallowed: Option<(NodeId, NodeId, Swallow)>,
    /// Who is cut off from a peer once something of that peer is on its way to the disk: the next of it,
    /// or the next that had been refused before.
    pub(crate) cuts_due: BTreeMap<NodeId, bool>,
}

/// Who is told what happens, as it happens: the moment, the node, and the event or what was done to it.
#[derive(Clone, Copy)]
pub struct Observer(pub fn(u64, NodeId, &str));

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observer")
    }
}

/// How often a change crossed a wire, by wire and by the side that sent it.
pub(crate) type Crossings = BTreeMap<(WireId, Side, Fact), usize>;

/// Which frames are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swallow {
    /// Those of changes.
    Changes,
    /// All, both ways.
    Everything,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: 1_000,
            order: 0,
            next_link: 1,
            next_request: 1,
            next_actor: 1,
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            agenda: BTreeMap::new(),
            apart: BTreeSet::new(),
            muted: BTreeSet::new(),
            withheld: Vec::new(),
            knowledge: Knowledge::default(),
            trace: Sha256::new(),
            steps: 0,
            settings: Settings::default(),
            staleness_bound: STALENESS_BOUND,
            mutants: Mutants::NONE,
            state_version: 1,
            liar: None,
            liars: false,
            recorded: None,
            crossings: None,
            observer: None,
            real: false,
            counter: MaterialiseCounter::new(),
            speaks: BTreeMap::new(),
            swallowed: None,
            cuts_due: BTreeMap::new(),
        }
    }

    /// What every document begins with.
    pub(crate) fn roots(&self) -> BTreeMap<ChangeHash, Root> {
        let real = reconvene_model::roots().iter().filter(|_| self.real);
        let real = real.map(|root| {
            let (kind, max_op) = (root.kind, root.max_op);
            (root.hash, Root { kind, max_op })
        });
        let made = [KIND, OTHER_KIND].into_iter().filter(|_| !self.real);
        let made = made.map(|kind| (genesis(kind).hash, Root { kind, max_op: 1 }));
        real.chain(made).collect()
    }

    /// Adds a node with an empty store and starts it.
    pub fn add(&mut self, role: Role) -> NodeId {
        let node = self.nodes.len();
        let mut key = [0; 32];
        self.rng.fill_bytes(&mut key);
        self.nodes.push(Node {
            me: PeerId::from_bytes(key),
            role,
            skew: 0,
            engine: None,
            life: 0,
            disk: Some(Disk::open(MemoryStore::new(), BTreeSet::new())),
            host: Host::default(),
            asleep: None,
            completions_at: 0,
            wake_at: None,
            wanted: BTreeSet::new(),
            shares: BTreeMap::new(),
            rewritten: false,
            spoilt: false,
            events: Vec::new(),
        });
        self.restart(node);
        node
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Sets how far a node's wall clock is from the world's.
    pub fn set_skew(&mut self, node: NodeId, ms: i64) {
        self.nodes[node].skew = ms;
    }

    /// A node's peer id.
    pub fn peer(&self, node: NodeId) -> PeerId {
        self.nodes[node].me
    }

    /// The node of a peer id.
    pub fn node_of(&self, peer: &PeerId) -> Option<NodeId> {
        self.nodes.iter().position(|node| node.me == *peer)
    }

    /// The moment, in milliseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// How many things happened so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// A digest of everything that happened so far.
    pub fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    /// What a node was told so far, oldest first, with the moments.
    pub fn events(&self, node: NodeId) -> &[(u64, Event)] {
        &self.nodes[node].events
    }

    /// A node's engine, if it is up.
    pub fn engine(&self, node: NodeId) -> Option<&Engine> {
        self.nodes[node].engine.as_ref()
    }

    /// What a node's disk was asked to do since it was opened.
    pub fn disk_counts(&self, node: NodeId) -> DiskCounts {
        self.disk(node).counts
    }

    pub(crate) fn disk(&self, node: NodeId) -> &Disk {
        self.nodes[node]
            .disk
            .as_ref()
            .expect("a disk is absent only while it changes hands")
    }

    pub(crate) fn disk_mut(&mut self, node: NodeId) -> &mut Disk {
        self.nodes[node]
            .disk
            .as_mut()
            .expect("a disk is absent only while it changes hands")
    }

    pub(crate) fn rewritten(&self, node: NodeId) -> bool {
        self.nodes[node].rewritten
    }

    /// Whether a node runs.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.nodes[node].engine.is_some()
    }

    /// Whether a node runs and is not suspended.
    pub fn is_awake(&self, node: NodeId) -> bool {
        self.is_up(node) && self.nodes[node].asleep.is_none()
    }

    /// Whether what a node says of itself may be wrong.
    pub(crate) fn lies(&self, node: NodeId) -> bool {
        self.liars || self.liar == Some(node)
    }

    /// What the last pass that a node completed with a peer took.
    pub fn last_pass(&self, node: NodeId, peer: NodeId) -> Option<LinkStats> {
        let peer = self.peer(peer);
        let events = self.nodes[node].events.iter().rev();
        events
            .filter_map(|(_, event)| match event {
                Event::PassComplete {
                    peer: with, stats, ..
                } if *with == peer => Some(*stats),
                _ => None,
            })
            .next()
    }

    pub(crate) fn draw(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.rng.next_u64() % (most - least + 1)
    }

    /// A number.
    pub(crate) fn chance(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A number below `bound`.
    pub fn pick(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.next_u64() % bound as u64).expect("it is below a usize")
    }

    pub(crate) fn request(&mut self) -> RequestId {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&self.next_request.to_be_bytes());
        self.next_request += 1;
        RequestId::from_bytes(bytes)
    }

    // What a host asks for.

    /// Has a node keep a link to another.
    pub fn connect(&mut self, node: NodeId, to: NodeId) {
        self.nodes[node].wanted.insert(to);
        let peer = self.peer(to);
        let addresses = vec![format!("node {to}")];
        self.give(node, Input::Connect { peer, addresses });
    }

    /// Has a node keep no link to another any more.
    pub fn disconnect(&mut self, node: NodeId, from: NodeId) {
        self.nodes[node].wanted.remove(&from);
        let peer = self.peer(from);
        self.give(node, Input::Disconnect { peer });
    }

    /// Forgets that a node should keep a link, without telling its engine.
    #[cfg(test)]
    pub(crate) fn disconnect_quietly(&mut self, node: NodeId, from: NodeId) {
        self.nodes[node].wanted.remove(&from);
    }

    /// Whether a node has a link to another on which both have greeted.
    pub fn is_greeted(&self, node: NodeId, with: NodeId) -> bool {
        let peer = self.peer(with);
        let engine = self.engine(node);
        engine.is_some_and(|engine| engine.links().any(|(_, of, _)| of == peer))
    }

    /// Has a node redeem a ticket at another.
    pub fn join(&mut self, node: NodeId, at: NodeId, secret: [u8; 32]) -> RequestId {
        let request = self.request();
        let join = JoinRequest {
            request,
            peer: self.peer(at),
            addresses: vec![format!("node {at}")],
            secret,
            device_name: format!("node {node}"),
        };
        self.give(node, Input::Join(join));
        request
    }

    /// Has a node write records of its own.
    pub fn write(&mut self, node: NodeId, puts: Vec<(Key, Bytes)>) -> RequestId {
        let request = self.request();
        let deletes = Vec::new();
        self.give(
            node,
            Input::Write(Write {
                request,
                puts,
                deletes,
            }),
        );
        request
    }

    // What befalls them.

    /// Cuts the power of a node: what no barrier covered is lost, but for the first `kept` batches.
    pub fn crash(&mut self, node: NodeId, kept: usize) {
        assert!(self.is_up(node), "only a running node can crash");
        self.note(&[b"crash", &node.to_be_bytes()]);
        self.nodes[node].engine = None;
        self.nodes[node].life += 1;
        self.nodes[node].wake_at = None;
        self.nodes[node].asleep = None;
        self.nodes[node].host = Host::default();
        for wire in self.wires_of(node) {
            self.cut(wire, "the other side lost power");
        }
        self.with_store(node, |store| store.crash_keeping(kept));
        self.check_what_left(node);
    }

    /// The same, and nobody notices: the other ends of its wires stay up.
    pub fn crash_quietly(&mut self, node: NodeId, kept: usize) {
        let wires = self.wires_of(node);
        let ends = std::mem::take(&mut self.wires);
        self.crash(node, kept);
        self.wires = ends;
        for wire in wires {
            self.close_end(wire, node);
        }
    }

    /// Replaces a node's store while the node is down.
    fn with_store(&mut self, node: NodeId, change: impl FnOnce(MemoryStore) -> MemoryStore) {
        assert!(!self.is_up(node), "the store of a running node is in use");
        let disk = self.nodes[node]
            .disk
            .take()
            .expect("a disk is absent only while it changes hands");
        let disk = Disk::open(change(disk.store), disk.lost);
        let mut held = disk.told.clone();
        // What else the journal has may have been refused, and its place in the feed may be another's.
        let acknowledged = &self.knowledge.acknowledged;
        held.extend(disk.durable.intersection(acknowledged));
        self.nodes[node].disk = Some(disk);
        self.knowledge.forget(node);
        self.knowledge.note_store(node, self.now, held);
    }

    /// Starts a node that is down, as its host would: journal first, then the links it wants.
    pub fn restart(&mut self, node: NodeId) {
        assert!(!self.is_up(node), "a running node cannot be started");
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let config = Config {
            me: self.peer(node),
            role: self.nodes[node].role,
            state_version: match self.nodes[node].role {
                Role::Server => self.state_version,
                Role::Device => 1,
            },
            staleness_bound: self.staleness_bound,
            workspace_documents_max: u64::MAX,
            roots: self.roots(),
            mutants: self.mutants,
        };
        self.with_store(node, MemoryStore::reopen);
        self.begin_to_be_told(node);
        let moment = self.moment(node);
        self.nodes[node].engine = Some(Engine::new(config, seed, moment));
        self.nodes[node].completions_at = self.now;
        let entries = self.disk(node).store.journal_entries();
        if !entries.is_empty() {
            self.nodes[node].host.executor.is_replaying = true;
            self.nodes[node].host.told.replays = true;
            self.give(node, Input::Replay(entries));
        }
        self.enter_shares(node);
        self.look_for_commands(node, workspace(1));
        for to in self.nodes[node].wanted.clone() {
            self.connect(node, to);
        }
    }

    /// Has a host write what it shares with whom, where its store lost it or failed to take it.
    pub(crate) fn enter_shares(&mut self, node: NodeId) {
        let reader = self.disk(node).reader.clone();
        let mut shares = self.nodes[node].shares.clone();
        shares.retain(|key, _| !reader.contains(key).expect("an open store reads"));
        if !shares.is_empty() {
            self.write(node, shares.into_iter().collect());
        }
    }

    /// Loses everything a node that is down has stored, but for its journal.
    pub fn wipe(&mut self, node: NodeId) {
        self.with_store(node, MemoryStore::wipe);
        self.nodes[node].rewritten = true;
    }

    /// A copy of what a node's store would be found to hold after a power cut.
    pub fn copy_durable(&self, node: NodeId) -> StoreCopy {
        self.disk(node).copy_durable()
    }

    /// Whether a node's store has failed and refuses writes until it is opened again.
    pub fn refuses_writes(&self, node: NodeId) -> bool {
        self.disk(node).refuses_writes
    }

    /// Puts an older copy in the place of the store of a node that is down; the journal stays.
    pub fn restore(&mut self, node: NodeId, copy: &StoreCopy) {
        self.with_store(node, |store| copy.restore_into(store));
        self.nodes[node].rewritten = true;
    }

    /// Puts an older copy in the place of all a node that is down has, the journal included.
    pub fn restore_all(&mut self, node: NodeId, copy: &StoreCopy) {
        self.with_store(node, |_| copy.restore_into(MemoryStore::new()));
        self.nodes[node].rewritten = true;
    }

    /// Lets a record of a node's store rot: from now on it reads as damaged.
    pub fn rot(&mut self, node: NodeId, key: &Key) {
        self.note(&[b"rot", &node.to_be_bytes(), key.as_bytes()]);
        self.disk_mut(node).store.rot(key);
        self.nodes[node].spoilt = true;
        // What it sent may then be nowhere but at others.
        self.nodes[node].rewritten = true;
    }

    /// Lets a record of a node's store get lost: from now on it reads as absent.
    pub fn lose(&mut self, node: NodeId, key: &Key) {
        self.note(&[b"lose", &node.to_be_bytes(), key.as_bytes()]);
        self.disk_mut(node).store.lose(key);
        self.nodes[node].spoilt = true;
        self.nodes[node].rewritten = true;
    }

    /// Sets which of the coming calls of a node's store fail.
    pub fn set_faults(&mut self, node: NodeId, faults: Faults) {
        self.disk_mut(node).store.set_faults(faults);
    }

    /// Fills a node's disk, or frees it.
    pub fn set_low_space(&mut self, node: NodeId, low: bool) {
        self.disk_mut(node).low_space = low;
    }

    /// Keeps two nodes apart from now on.
    pub fn part(&mut self, one: NodeId, other: NodeId) {
        self.apart.insert((one.min(other), one.max(other)));
        for wire in self.wires_between(one, other) {
            self.cut(wire, "the network is gone");
        }
    }

    /// Lets two nodes reach each other again.
    pub fn heal(&mut self, one: NodeId, other: NodeId) {
        self.apart.remove(&(one.min(other), one.max(other)));
        self.muted.remove(&(one, other));
        self.muted.remove(&(other, one));
        for (wire, side, arrival) in std::mem::take(&mut self.withheld) {
            self.arrive_later(wire, side, arrival);
        }
    }

    /// Has nothing that one node sends another arrive from now on. Nothing can be dialled then; what
    /// was sent over a wire that is still there when the two are healed arrives after all.
    pub fn mute(&mut self, from: NodeId, to: NodeId) {
        self.muted.insert((from, to));
    }

    /// Suspends a node: nothing happens to it until it wakes, and nobody notices.
    pub fn sleep(&mut self, node: NodeId) {
        assert!(self.is_awake(node), "only a running node can fall asleep");
        self.note(&[b"sleep", &node.to_be_bytes()]);
        self.nodes[node].asleep = Some(Vec::new());
    }

    /// Lets a node that sleeps go on where it was, and tells it that it slept.
    pub fn wake(&mut self, node: NodeId) {
        let Some(deferred) = self.nodes[node].asleep.take() else {
            return;
        };
        self.note(&[b"wake", &node.to_be_bytes()]);
        for happening in deferred {
            self.schedule(self.now, happening);
        }
        self.give(node, Input::Resumed);
    }

    /// Cuts the wires there are between two nodes; they may dial again at once.
    pub fn cut_between(&mut self, one: NodeId, other: NodeId) {
        for wire in self.wires_between(one, other) {
            self.cut(wire, "the connection was reset");
        }
    }

    pub(crate) fn may_reach(&self, one: NodeId, other: NodeId) -> bool {
        self.is_awake(one)
            && self.is_awake(other)
            && !self.apart.contains(&(one.min(other), one.max(other)))
            && !self.muted.contains(&(one, other))
            && !self.muted.contains(&(other, one))
    }

    // Time.

    /// Lets the next thing happen; false if nothing is due until `limit`.
    fn step_until(&mut self, limit: u64) -> bool {
        let Some(entry) = self.agenda.first_entry() else {
            return false;
        };
        let (at, _) = *entry.key();
        if at > limit {
            return false;
        }
        let happening = entry.remove();
        self.now = self.now.max(at);
        self.steps += 1;
        self.happen(happening);
        true
    }

    /// Lets the next thing happen, whenever that is; false if nothing ever will.
    pub fn step(&mut self) -> bool {
        self.step_until(u64::MAX)
    }

    /// Lets everything happen that is due within a time, and that time pass.
    pub fn advance(&mut self, time: Duration) {
        let limit = self.now + u64::try_from(time.as_millis()).expect("a test's time is short");
        while self.step_until(limit) {}
        self.now = limit;
    }

    /// Runs until nothing is left to do but to keep links alive.
    ///
    /// # Panics
    /// If that takes more than ten minutes of the world's time.
    pub fn run_until_quiet(&mut self) {
        let limit = self.now + 600_000;
        while !self.is_quiet() {
            if !self.step_until(limit) {
                let last: Vec<_> = self
                    .nodes
                    .iter()
                    .map(|node| node.events.iter().rev().take(4).collect::<Vec<_>>())
                    .collect();
                panic!(
                    "seed {}: not quiet after ten minutes; the last events: {last:#?}",
                    self.seed
                );
            }
        }
    }

    /// Runs until something is the case.
    ///
    /// # Panics
    /// If that takes more than ten minutes of the world's time.
    pub fn run_until(&mut self, what: impl Fn(&Self) -> bool) {
        let limit = self.now + 600_000;
        while !what(self) {
            assert!(self.step_until(limit), "it never comes to that");
        }
    }

    /// Whether something is still to happen at this moment.
    pub(crate) fn has_due(&self) -> bool {
        let next = self.agenda.first_key_value();
        next.is_some_and(|((at, _), _)| *at <= self.now)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        let idle = self
            .agenda
            .values()
            .all(|happening| matches!(happening, Happening::Wake(..) | Happening::Idle(..)));
        idle && self.nodes.iter().enumerate().all(|(place, node)| {
            let mut wanted = node.wanted.iter();
            node.engine.is_none()
                || wanted.all(|to| !self.may_reach(place, *to) || self.is_linked(place, *to))
        })
    }

    /// Whether a wire between two nodes is up at both ends.
    pub fn is_linked(&self, one: NodeId, other: NodeId) -> bool {
        let wires = self.wires_between(one, other);
        wires.iter().any(|wire| self.wires[wire].is_up())
    }

    /// Gives a node an input as soon as it has carried out what it is asked just now.
    pub(crate) fn later(&mut self, node: NodeId, input: Input) {
        let life = self.nodes[node].life;
        self.schedule(self.now, Happening::Input(node, life, Box::new(input)));
    }

    pub(crate) fn schedule(&mut self, at: u64, happening: Happening) {
        let order = self.order;
        self.order += 1;
        self.agenda.insert((at.max(self.now), order), happening);
    }

    /// Schedules the same, but never before what was scheduled for a node's completions earlier.
    fn complete(&mut self, node: NodeId, inputs: Vec<Input>) {
        for input in inputs {
            let delay = self.draw(self.settings.completion);
            let at = (self.now + delay).max(self.nodes[node].completions_at);
            self.nodes[node].completions_at = at;
            let life = self.nodes[node].life;
            self.schedule(at, Happening::Input(node, life, Box::new(input)));
        }
    }

    pub(crate) fn moment(&self, node: NodeId) -> Moment {
        let wall = i64::try_from(self.now).expect("simulated time is short");
        Moment {
            tick: Tick::from_millis(self.now),
            wall: WallTime::from_millis(wall + self.nodes[node].skew),
        }
    }

    pub(crate) fn note(&mut self, parts: &[&[u8]]) {
        self.trace.update(self.now.to_be_bytes());
        for part in parts {
            self.trace.update(part.len().to_be_bytes());
            self.trace.update(part);
        }
    }

    /// Whom something happens to.
    fn concerns(&self, happening: &Happening) -> NodeId {
        match happening {
            Happening::Wake(node, _)
            | Happening::Read(node, ..)
            | Happening::Journal(node, _)
            | Happening::Apply(node, _)
            | Happening::Barrier(node, _)
            | Happening::Input(node, ..)
            | Happening::Execute(node, ..)
            | Happening::Dialled(node, ..) => *node,
            Happening::Transmit(wire, side, _)
            | Happening::Arrive(wire, side, _)
            | Happening::Idle(wire, side) => self.wires[wire].ends[*side].node,
        }
    }

    fn happen(&mut self, happening: Happening) {
        let node = self.concerns(&happening);
        if let Some(deferred) = &mut self.nodes[node].asleep {
            return deferred.push(happening);
        }
        let alive = |node: &NodeId, life: &u64| {
            self.nodes[*node].life == *life && self.nodes[*node].engine.is_some()
        };
        match happening {
            Happening::Wake(node, at) => {
                if self.nodes[node].wake_at == Some(at) {
                    self.nodes[node].wake_at = None;
                    self.give(node, Input::Wake);
                }
            }
            Happening::Read(node, life, read, query) if alive(&node, &life) => {
                let result = self.disk_mut(node).read(&query);
                let delay = self.draw(self.settings.read) + self.lateness();
                let input = Box::new(Input::ReadDone { read, result });
                self.schedule(self.now + delay, Happening::Input(node, life, input));
            }
            Happening::Journal(node, life) if alive(&node, &life) => {
                let inputs = self.disk_mut(node).journal();
                self.complete(node, inputs);
                let delay = self.draw(self.settings.write);
                self.schedule(self.now + delay, Happening::Apply(node, life));
            }
            Happening::Apply(node, life) if alive(&node, &life) => {
                let inputs = self.disk_mut(node).apply();
                self.complete(node, inputs);
                let delay = self.draw(self.settings.write);
                self.schedule(self.now + delay, Happening::Barrier(node, life));
            }
            Happening::Barrier(node, life) if alive(&node, &life) => {
                let inputs = self.disk_mut(node).barrier();
                self.complete(node, inputs);
                self.start_writing(node);
            }
            Happening::Input(node, life, input) if alive(&node, &life) => self.give(node, *input),
            Happening::Dialled(node, life, peer) if alive(&node, &life) => {
                self.on_dialled(node, peer);
            }
            Happening::Execute(node, life, of, id) if alive(&node, &life) => {
                self.execute(node, of, id);
            }
            Happening::Transmit(wire, side, sending) => self.transmit(wire, side, sending),
            Happening::Arrive(wire, side, arrival) => self.arrive(wire, side, arrival),
            Happening::Idle(wire, side) => self.look_whether_idle(wire, side),
            Happening::Read(..)
            | Happening::Journal(..)
            | Happening::Apply(..)
            | Happening::Barrier(..)
            | Happening::Input(..)
            | Happening::Execute(..)
            | Happening::Dialled(..) => {} // Meant for an earlier life.
        }
    }

    /// How much later than others a read is answered.
    fn lateness(&mut self) -> u64 {
        let late = self.settings.late;
        match late > 0 && self.chance().is_multiple_of(8) {
            true => self.draw((0, late)),
            false => 0,
        }
    }

    fn start_writing(&mut self, node: NodeId) {
        let disk = self.disk_mut(node);
        if disk.busy || !disk.has_work() {
            return;
        }
        disk.busy = true;
        let life = self.nodes[node].life;
        let delay = self.draw(self.settings.write);
        self.schedule(self.now + delay, Happening::Journal(node, life));
    }

    /// Gives a node's engine an input and carries out what it wants done.
    pub(crate) fn give(&mut self, node: NodeId, input: Input) {
        let moment = self.moment(node);
        self.note_input(node, &input);
        let told = self.disk_mut(node).note_told(&input);
        self.knowledge.note_told(node, self.now, told);
        let was_wake = matches!(input, Input::Wake);
        let Some(engine) = self.nodes[node].engine.as_mut() else {
            return;
        };
        engine.handle(moment, input);
        while let Some(output) = self.nodes[node].engine.as_mut().and_then(Engine::poll) {
            self.carry_out(node, output);
        }
        self.check_load(node);
        let wake = self.engine(node).and_then(Engine::wake_at);
        let at = wake.map(|wake| wake.at.as_millis());
        assert!(
            !was_wake || at.is_none_or(|at| at > self.now),
            "seed {}: node {node} wants to be woken in the past: {wake:?}",
            self.seed
        );
        if let Some(at) = at.map(|at| at.max(self.now))
            && self.nodes[node].wake_at != Some(at)
        {
            self.nodes[node].wake_at = Some(at);
            self.schedule(at, Happening::Wake(node, at));
        }
    }

    fn note_input(&mut self, node: NodeId, input: &Input) {
        let place = node.to_be_bytes();
        match input {
            Input::FrameArrived { link, frame } => {
                self.note(&[b"frame", &place, &link.0.to_be_bytes(), frame]);
            }
            Input::ReadDone { read, result } => {
                let size = match result {
                    Ok(ReadResult::Values(values)) => values.len(),
                    Ok(ReadResult::Presence(present)) => present.len(),
                    Ok(ReadResult::Rows(rows)) => rows.rows.len(),
                    Ok(ReadResult::Inspected(inspected)) => inspected.len(),
                    Ok(ReadResult::Changes(bodies)) => bodies.len(),
                    Ok(ReadResult::Found(found)) => found.len(),
                    Ok(ReadResult::FeedEnd(FeedEnd::Lost(lost))) => lost.damaged.len(),
                    Ok(ReadResult::FeedEnd(_)) => 0,
                    Ok(ReadResult::Examined(examined)) => examined.damaged.len(),
                    Err(_) => usize::MAX,
                };
                let size = size.to_be_bytes();
                self.note(&[b"read", &place, &read.0.to_be_bytes(), &size]);
            }
            Input::Edit(edit) => self.note(&[b"edit", &place, edit.request.as_bytes()]),
            Input::Write(write) => self.note(&[b"write", &place, write.request.as_bytes()]),
            Input::Replay(entries) => {
                self.note(&[b"replay", &place, &entries.len().to_be_bytes()]);
            }
            other => self.note(&[&place, format!("{other:?}").as_bytes()]),
        }
    }

    fn carry_out(&mut self, node: NodeId, output: Output) {
        let life = self.nodes[node].life;
        match output {
            Output::StoreBatch(batch) => {
                self.note(&[b"batch", &batch.id.0.to_be_bytes()]);
                self.check_stays_purged(node, &batch);
                for (key, value) in &batch.puts {
                    self.trace.update(key.as_bytes());
                    self.trace.update(value);
                }
                let cut_from = self.due_to_be_cut(node, &batch);
                self.disk_mut(node).submit(batch);
                self.start_writing(node);
                if let Some(other) = cut_from {
                    self.cut_at_once(node, other);
                }
            }
            Output::AskRoom => {
                let room = self.disk(node).room();
                self.complete(node, vec![Input::Room(room)]);
            }
            Output::Read { read, query } => {
                let delay = self.draw(self.settings.read);
                self.schedule(self.now + delay, Happening::Read(node, life, read, query));
            }
            Output::ReleaseJournal(releases) => {
                match self.disk_mut(node).store.release_journal(&releases) {
                    // A store that refuses writes keeps its journal, which is safe.
                    Ok(()) | Err(StoreError::ReadOnly { .. }) => {}
                    Err(error) => panic!("seed {}: a release failed: {error}", self.seed),
                }
            }
            Output::SendFrame { link, frame } => {
                self.check_statement(node, link, &frame);
                self.send(node, link, Sending::Frame(frame));
            }
            Output::SendStored(stored) => {
                self.send(node, stored.link, Sending::Stored(Box::new(stored)));
            }
            Output::AdmitLink { link } => self.admit(node, link),
            Output::CloseLink { link, why } => {
                self.check_close(node, link, &why);
                self.observe(node, &format_args!("closes link {}: {why:?}", link.0));
                self.note(&[b"close", format!("{why:?}").as_bytes()]);
                self.send(node, link, Sending::Close(format!("{why:?}")));
            }
            Output::Dial { peer, .. } => {
                let delay = 2 * self.draw(self.settings.latency);
                self.schedule(self.now + delay, Happening::Dialled(node, life, peer));
            }
            Output::Event(event) => {
                self.observe(node, &format_args!("{event:?}"));
                self.note(&[b"event", format!("{event:?}").as_bytes()]);
                self.on_event(node, &event);
                self.nodes[node].events.push((self.now, event));
            }
        }
    }

    pub(crate) fn observe(&self, node: NodeId, what: &dyn std::fmt::Display) {
        if let Some(Observer(observe)) = self.observer {
            observe(self.now, node, &what.to_string());
        }
    }

    fn on_dialled(&mut self, node: NodeId, peer: PeerId) {
        let target = self.node_of(&peer).filter(|to| self.may_reach(node, *to));
        let Some(to) = target else {
            let why = "nobody answers".to_owned();
            return self.give(node, Input::DialFailed { peer, why });
        };
        let links = [LinkId(self.next_link), LinkId(self.next_link + 1)];
        self.next_link += 2;
        self.lay_wire([node, to], links);
    }

    /// Workspaces shared by two nodes, as the first one's store has it.
    pub fn shared(&self, node: NodeId, peer: NodeId) -> Vec<WorkspaceId> {
        use reconvene_core::keys::KeyRange;
        use reconvene_core::storage::{Scan, StoreRead as _};
        let range = KeyRange::shares_of(&self.peer(peer));
        let rows = self.disk(node).reader.scan(&Scan::ascending(range, 4096));
        let rows = rows.expect("an open store reads").rows;
        rows.iter()
            .filter_map(|(key, _)| key.workspace_id())
            .collect()
    }
}
