//! What can be done to the world: a closed list, as values, so that a history of them can be drawn
//! ahead, written down, made shorter and played again.

use std::collections::{BTreeMap, BTreeSet};

use reconvene_core::engine::{Input, RestoredDocument};
use reconvene_core::keys::{Key, KeyKind};
use reconvene_core::memory::{Fault, Faults};
use reconvene_core::storage::StoreError;
use serde::{Deserialize, Serialize};

use crate::disk::all_rows;
use crate::edits::ModelEdit;
use crate::world::{NodeId, Settings, StoreCopy, World, document, workspace};

/// One thing that is done to the world. Nodes are named by their place; numbers that have to fall
/// within something are taken modulo its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A host changes one document by about so many bytes.
    Edit {
        /// Whose host.
        node: NodeId,
        /// The document's number.
        document: u64,
        /// Bytes.
        bytes: usize,
    },
    /// A host makes several changes to a document and one to the next, in one edit.
    EditMany {
        /// Whose host.
        node: NodeId,
        /// The first document's number.
        document: u64,
        /// Changes to the first.
        changes: usize,
        /// Bytes of each.
        bytes: usize,
    },
    /// A host makes many documents in one edit.
    Import {
        /// Whose host.
        node: NodeId,
        /// The first document's number.
        document: u64,
        /// How many.
        documents: u64,
        /// Bytes of each.
        #[serde(default = "small")]
        bytes: usize,
    },
    /// A host makes one edit of a real document.
    Revise {
        /// Whose host.
        node: NodeId,
        /// The document's number.
        document: u64,
        /// Which.
        edit: ModelEdit,
    },
    /// Somebody looks at a real document.
    Look {
        /// At which node.
        node: NodeId,
        /// The document's number.
        document: u64,
    },
    /// A host issues a command. The same number is the same command, whoever issues it.
    Command {
        /// Whose host.
        node: NodeId,
        /// The command's number.
        command: u64,
    },
    /// A host wants a command no more.
    Cancel {
        /// Whose host.
        node: NodeId,
        /// The command's number.
        command: u64,
    },
    /// Somebody with a later version writes to a real document, so that this version may only read it.
    Outdate {
        /// At which node.
        node: NodeId,
        /// The document's number.
        document: u64,
    },
    /// An archive is made of a node's store.
    Archive {
        /// Which.
        node: NodeId,
    },
    /// The archive that was made last is merged into a node's store.
    Restore {
        /// Which.
        node: NodeId,
    },
    /// A node starts again with a program that speaks these versions of the protocol.
    Upgrade {
        /// Which.
        node: NodeId,
        /// The oldest; 1 is what is spoken now.
        oldest: u32,
        /// The newest.
        newest: u32,
    },
    /// A host lets go of the documents it has open.
    Evict {
        /// Whose host.
        node: NodeId,
    },
    /// A host asks how fresh it is.
    Refresh {
        /// Whose host.
        node: NodeId,
    },
    /// A host compacts a document.
    Compact {
        /// Whose host.
        node: NodeId,
        /// The document's number.
        document: u64,
    },
    /// The server purges a document.
    Purge {
        /// The document's number.
        document: u64,
    },
    /// A host has its node keep a link to another.
    Connect {
        /// Whose host.
        node: NodeId,
        /// To whom.
        to: NodeId,
    },
    /// A host has its node keep no link to another any more.
    Disconnect {
        /// Whose host.
        node: NodeId,
        /// To whom.
        from: NodeId,
    },
    /// A node hears that its network is another.
    Roam {
        /// Which.
        node: NodeId,
    },
    /// A node hears that it slept.
    Resume {
        /// Which.
        node: NodeId,
    },
    /// The wires between two nodes are cut.
    Cut {
        /// One.
        one: NodeId,
        /// The other.
        other: NodeId,
    },
    /// A node is cut off from a peer once something of that peer is on its way to its disk.
    CutWhileTaking {
        /// Who takes it.
        node: NodeId,
        /// Whether it is something that had been refused before.
        retaken: bool,
    },
    /// Two nodes are kept apart.
    Part {
        /// One.
        one: NodeId,
        /// The other.
        other: NodeId,
    },
    /// What one node sends another is lost, and not what the other sends.
    Mute {
        /// Who sends.
        from: NodeId,
        /// Who does not hear it.
        to: NodeId,
    },
    /// Two nodes reach each other again, both ways.
    Heal {
        /// One.
        one: NodeId,
        /// The other.
        other: NodeId,
    },
    /// Everything takes longer, or not any more.
    Slow {
        /// Whether it does.
        slow: bool,
    },
    /// A node loses power.
    Crash {
        /// Which.
        node: NodeId,
        /// How many batches that no barrier covered survive.
        kept: usize,
        /// Whether the other ends of its wires stay up.
        quietly: bool,
    },
    /// A node that is down starts.
    Restart {
        /// Which.
        node: NodeId,
    },
    /// A node is suspended with everything it has under way.
    Sleep {
        /// Which.
        node: NodeId,
    },
    /// A node that sleeps goes on.
    Wake {
        /// Which.
        node: NodeId,
    },
    /// A node's wall clock jumps to so many milliseconds from the world's.
    Skew {
        /// Which.
        node: NodeId,
        /// Milliseconds.
        ms: i64,
    },
    /// A node loses power and its store, but for the journal.
    Wipe {
        /// Which.
        node: NodeId,
    },
    /// A node's store is copied; the next time that copy takes its place, but for the journal.
    RollBack {
        /// Which.
        node: NodeId,
    },
    /// A record rots.
    Rot {
        /// Whose.
        node: NodeId,
        /// What kind of record.
        kind: u64,
        /// Which of them.
        which: u64,
        /// Whether its host meets it at once.
        met: bool,
    },
    /// A coming call of a node's store fails, or its disk is full or not any more.
    Fail {
        /// Whose.
        node: NodeId,
        /// What fails.
        what: Failure,
        /// Which of the coming calls.
        call: u64,
        /// Whether what fails happens all the same; of a disk, whether it is full.
        lands: bool,
    },
    /// The server starts again with another state version.
    BumpStateVersion,
    /// The peer that lies sends the server something like what was sent before.
    Lie {
        /// Which frame of those that were sent.
        frame: u64,
        /// How it is altered.
        alter: u64,
    },
}

/// What of a node's store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Its journal.
    Journal,
    /// Its barrier.
    Barrier,
    /// Taking a batch.
    Apply,
    /// Its room.
    Space,
}

impl Failure {
    /// One of them by a number below four.
    pub(crate) fn of(number: u64) -> Self {
        match number {
            0 => Self::Journal,
            1 => Self::Barrier,
            2 => Self::Apply,
            _ => Self::Space,
        }
    }
}

/// The server, in every history.
pub const SERVER: NodeId = 0;

/// The devices, in every history.
pub const DEVICES: [NodeId; 3] = [1, 2, 3];

/// A device of another member that lies, where there is one.
pub const LIAR: NodeId = 4;

/// Kinds of records that rot in a way that a store gets over.
const ROTTING: [KeyKind; 5] = [
    KeyKind::Head,
    KeyKind::Change,
    KeyKind::Snapshot,
    KeyKind::Feed,
    KeyKind::Peer,
];

/// Bytes of an imported document in plans that do not say.
fn small() -> usize {
    40
}

impl Action {
    /// What it is, in a word; for failures of a store with what failed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Edit { .. } => "edit",
            Self::EditMany { .. } => "edit many",
            Self::Import { .. } => "import",
            Self::Revise { .. } => "revise",
            Self::Look { .. } => "look",
            Self::Command { .. } => "command",
            Self::Cancel { .. } => "cancel",
            Self::Outdate { .. } => "outdate",
            Self::Archive { .. } => "archive",
            Self::Restore { .. } => "restore",
            Self::Upgrade { .. } => "upgrade",
            Self::Evict { .. } => "evict",
            Self::Refresh { .. } => "refresh",
            Self::Compact { .. } => "compact",
            Self::Purge { .. } => "purge",
            Self::Connect { .. } => "connect",
            Self::Disconnect { .. } => "disconnect",
            Self::Roam { .. } => "roam",
            Self::Resume { .. } => "resume",
            Self::Cut { .. } | Self::CutWhileTaking { .. } => "cut",
            Self::Part { .. } => "part",
            Self::Mute { .. } => "mute",
            Self::Heal { .. } => "heal",
            Self::Slow { .. } => "slow",
            Self::Crash { quietly: true, .. } => "crash quietly",
            Self::Crash { .. } => "crash",
            Self::Restart { .. } => "restart",
            Self::Sleep { .. } => "sleep",
            Self::Wake { .. } => "wake",
            Self::Skew { .. } => "skew",
            Self::Wipe { node: SERVER } => "wipe server",
            Self::Wipe { .. } => "wipe device",
            Self::RollBack { node: SERVER } => "roll back server",
            Self::RollBack { .. } => "roll back device",
            Self::Rot { .. } => "rot",
            Self::Fail { what, .. } => match what {
                Failure::Journal => "fail journal",
                Failure::Barrier => "fail barrier",
                Failure::Apply => "fail apply",
                Failure::Space => "fill disk",
            },
            Self::BumpStateVersion => "bump state version",
            Self::Lie { .. } => "lie",
        }
    }

    /// The node it is done to, or the first of them.
    fn node(&self) -> NodeId {
        match self {
            Self::Edit { node, .. }
            | Self::EditMany { node, .. }
            | Self::Import { node, .. }
            | Self::Revise { node, .. }
            | Self::Look { node, .. }
            | Self::Command { node, .. }
            | Self::Cancel { node, .. }
            | Self::Outdate { node, .. }
            | Self::Archive { node }
            | Self::Restore { node }
            | Self::Upgrade { node, .. }
            | Self::Evict { node }
            | Self::Refresh { node }
            | Self::Compact { node, .. }
            | Self::Connect { node, .. }
            | Self::Disconnect { node, .. }
            | Self::Roam { node }
            | Self::Resume { node }
            | Self::Crash { node, .. }
            | Self::Restart { node }
            | Self::Sleep { node }
            | Self::Wake { node }
            | Self::Skew { node, .. }
            | Self::Wipe { node }
            | Self::RollBack { node }
            | Self::Rot { node, .. }
            | Self::CutWhileTaking { node, .. }
            | Self::Fail { node, .. } => *node,
            Self::Cut { one, .. } | Self::Part { one, .. } | Self::Heal { one, .. } => *one,
            Self::Mute { from, .. } => *from,
            Self::Purge { .. } | Self::Slow { .. } | Self::BumpStateVersion => SERVER,
            Self::Lie { .. } => LIAR,
        }
    }

    /// Every name of what a host or a person does.
    pub const DEEDS: [&'static str; 20] = [
        "edit",
        "edit many",
        "import",
        "revise",
        "look",
        "command",
        "cancel",
        "outdate",
        "archive",
        "restore",
        "upgrade",
        "evict",
        "refresh",
        "compact",
        "purge",
        "connect",
        "disconnect",
        "restart",
        "bump state version",
        "heal",
    ];

    /// Every name of what goes wrong.
    pub const MISHAPS: [&'static str; 21] = [
        "roam",
        "resume",
        "cut",
        "part",
        "mute",
        "slow",
        "crash",
        "crash quietly",
        "sleep",
        "wake",
        "skew",
        "wipe server",
        "wipe device",
        "roll back server",
        "roll back device",
        "rot",
        "fail journal",
        "fail barrier",
        "fail apply",
        "fill disk",
        "lie",
    ];
}

/// The world and what a history needs to remember beside it.
#[derive(Debug)]
pub struct Stage {
    /// The world.
    pub world: World,
    copies: BTreeMap<NodeId, StoreCopy>,
    /// The archive that was made last.
    archived: Vec<RestoredDocument>,
    /// Names of what went wrong so far.
    gone_wrong: BTreeSet<&'static str>,
    pairs: BTreeSet<(&'static str, &'static str)>,
    /// How long things take when nothing is slow.
    settings: Settings,
}

impl Stage {
    /// A stage for this world.
    pub fn new(world: World) -> Self {
        let settings = world.settings;
        Self {
            world,
            copies: BTreeMap::new(),
            archived: Vec::new(),
            gone_wrong: BTreeSet::new(),
            pairs: BTreeSet::new(),
            settings,
        }
    }

    /// Does something; whether there was something to do.
    pub fn act(&mut self, action: Action) -> bool {
        self.world.check_calm();
        self.world
            .observe(action.node(), &format_args!("--- {action:?}"));
        let is_done = self.carry_out(action);
        if is_done {
            let name = action.name();
            self.pairs
                .extend(self.gone_wrong.iter().map(|wrong| (*wrong, name)));
            if Action::MISHAPS.contains(&name) {
                self.gone_wrong.insert(name);
            }
        }
        is_done
    }

    /// What was done so far after what had gone wrong.
    pub(crate) fn into_pairs(self) -> BTreeSet<(&'static str, &'static str)> {
        self.pairs
    }

    fn carry_out(&mut self, action: Action) -> bool {
        let world = &mut self.world;
        let shared = workspace(1);
        let runs = |world: &World, node: NodeId| world.is_awake(node);
        match action {
            Action::Edit {
                node,
                document: which,
                bytes,
            } if runs(world, node) => {
                world.edit(node, shared, document(which), bytes);
            }
            Action::EditMany {
                node,
                document: first,
                changes,
                bytes,
            } if runs(world, node) => {
                let documents = [(document(first), changes), (document(first + 1), 1)];
                world.edit_many(node, shared, &documents, bytes);
            }
            Action::Import {
                node,
                document: first,
                documents,
                bytes,
            } if runs(world, node) => {
                let documents = (first..first + documents).map(|number| (document(number), 1));
                world.edit_many(node, shared, &documents.collect::<Vec<_>>(), bytes);
            }
            Action::Revise {
                node,
                document: which,
                edit,
            } if runs(world, node) => return world.revise(node, shared, document(which), edit),
            Action::Look {
                node,
                document: which,
            } if runs(world, node) => return world.look(node, shared, document(which)),
            Action::Command { node, command } if runs(world, node) => {
                return world.command(node, shared, command);
            }
            Action::Cancel { node, command } if runs(world, node) => {
                return world.cancel_command(node, shared, command);
            }
            Action::Outdate {
                node,
                document: which,
            } if runs(world, node) => return world.outdate(node, shared, document(which)),
            Action::Archive { node } => self.archived = world.archive(node, shared),
            Action::Restore { node } if runs(world, node) && !self.archived.is_empty() => {
                // Only the server has the last word on what is purged.
                world.restore_archive(node, shared, &self.archived, node == SERVER);
            }
            Action::Upgrade {
                node,
                oldest,
                newest,
            } if world.is_up(node) => {
                world.speaks.insert(node, (oldest, newest.max(oldest)));
                world.crash(node, 0);
                world.restart(node);
            }
            Action::Evict { node } if runs(world, node) => world.evict(node),
            Action::Refresh { node } if runs(world, node) => {
                world.give(node, Input::Refresh(shared));
            }
            Action::Compact {
                node,
                document: which,
            } if runs(world, node) => world.compact(node, shared, document(which)),
            Action::Purge { document: which } if runs(world, SERVER) => {
                world.purge(SERVER, shared, &[document(which)]);
            }
            Action::Connect { node, to } if runs(world, node) => world.connect(node, to),
            Action::Disconnect { node, from }
                if runs(world, node) && !world.shared(node, from).is_empty() =>
            {
                world.disconnect(node, from);
                // Devices always look for their server.
                if from == SERVER {
                    world.connect(node, from);
                }
            }
            Action::Roam { node } if runs(world, node) => world.give(node, Input::NetworkChanged),
            Action::Resume { node } if runs(world, node) => world.give(node, Input::Resumed),
            Action::Cut { one, other } => world.cut_between(one, other),
            Action::CutWhileTaking { node, retaken } => world.cut_while_taking(node, retaken),
            Action::Part { one, other } => world.part(one, other),
            Action::Mute { from, to } => world.mute(from, to),
            Action::Heal { one, other } => world.heal(one, other),
            Action::Slow { slow } => {
                world.settings = self.settings;
                if slow {
                    world.settings = self.settings.slower();
                }
            }
            Action::Crash {
                node,
                kept,
                quietly,
            } if world.is_up(node) => {
                if quietly {
                    world.crash_quietly(node, kept);
                } else {
                    world.crash(node, kept);
                }
            }
            Action::Restart { node } if !world.is_up(node) => world.restart(node),
            Action::Sleep { node } if runs(world, node) => world.sleep(node),
            Action::Wake { node } if world.is_up(node) && !runs(world, node) => world.wake(node),
            Action::Skew { node, ms } => world.set_skew(node, ms),
            Action::Wipe { node } if world.is_up(node) => {
                world.crash(node, 0);
                world.wipe(node);
                world.restart(node);
            }
            Action::RollBack { node } => self.roll_back(node),
            Action::Rot {
                node,
                kind,
                which,
                met,
            } if runs(world, node) => return rot(world, node, kind, which, met),
            Action::Fail {
                node,
                what,
                call,
                lands,
            } if runs(world, node) => fail(world, node, what, call, lands),
            Action::BumpStateVersion if world.is_up(SERVER) => {
                world.state_version += 1;
                world.crash(SERVER, 0);
                world.restart(SERVER);
            }
            Action::Lie { frame, alter } => return world.lie(LIAR, SERVER, frame, alter),
            _ => return false,
        }
        true
    }

    /// Takes a copy of a node's store, or puts back the one taken before. The journal stays.
    fn roll_back(&mut self, node: NodeId) {
        let world = &mut self.world;
        match self.copies.remove(&node) {
            None => {
                self.copies.insert(node, world.copy_durable(node));
            }
            Some(copy) => {
                if world.is_up(node) {
                    world.crash(node, 0);
                }
                world.restore(node, &copy);
                world.restart(node);
            }
        }
    }
}

/// The records of a node that may rot, of one kind.
fn rotting(world: &World, node: NodeId, kind: u64) -> Vec<Key> {
    let kind = ROTTING[within(kind, ROTTING.len())];
    let keys = all_rows(&world.disk(node).reader).into_iter();
    let keys = keys.map(|(key, _)| key);
    keys.filter(|key| key.kind() == Some(kind)).collect()
}

/// Whether a node has a record that may rot, of one kind.
pub(crate) fn can_rot(world: &World, node: NodeId, kind: u64) -> bool {
    !rotting(world, node, kind).is_empty()
}

/// Lets a record of a node rot. Its host may meet it at once, or the engine some time.
fn rot(world: &mut World, node: NodeId, kind: u64, which: u64, met: bool) -> bool {
    let keys = rotting(world, node, kind);
    if keys.is_empty() {
        return false;
    }
    let key = &keys[within(which, keys.len())];
    world.rot(node, key);
    if met {
        let suspect = Input::Suspect {
            workspace: workspace(1),
            document: key.document(),
        };
        world.give(node, suspect);
    }
    true
}

fn within(number: u64, bound: usize) -> usize {
    usize::try_from(number % bound as u64).expect("it is below a usize")
}

fn fail(world: &mut World, node: NodeId, what: Failure, call: u64, lands: bool) {
    let mut faults = Faults::default();
    let error = StoreError::NoSpace;
    match what {
        Failure::Journal => {
            faults.journal.insert(call, Fault { error, lands });
        }
        Failure::Barrier => {
            faults.barrier.insert(call, Fault { error, lands });
        }
        Failure::Apply => {
            faults.apply.insert(call, error);
        }
        Failure::Space => world.set_low_space(node, lands),
    }
    world.set_faults(node, faults);
}
