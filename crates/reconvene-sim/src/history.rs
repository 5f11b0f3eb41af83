//! What all histories have in common: who takes part, how everything heals, and what must hold then.

use std::collections::BTreeSet;
use std::time::Duration;

use reconvene_core::engine::Input;
use reconvene_core::ids::WorkspaceId;
use reconvene_core::memory::Faults;
use reconvene_core::wire::Role;

use crate::action::{DEVICES, LIAR, SERVER, Stage};
use crate::world::{NodeId, World, document, workspace};

/// Documents that histories change.
pub(crate) const DOCUMENTS: u64 = 10;

/// What a history came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of everything that happened.
    pub trace: [u8; 32],
    /// How many things happened.
    pub steps: u64,
    /// How many changes every node holds in the end.
    pub changes: usize,
    /// How many milliseconds passed in the world.
    pub time_ms: u64,
    /// What was done, after what had gone wrong: names of [`crate::action::Action`].
    pub pairs: BTreeSet<(&'static str, &'static str)>,
}

impl Outcome {
    pub(crate) fn of(stage: Stage, changes: usize) -> Self {
        let world = &stage.world;
        Self {
            trace: world.trace(),
            steps: world.steps(),
            time_ms: world.now(),
            changes,
            pairs: stage.into_pairs(),
        }
    }
}

/// How a history ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ending {
    /// The devices find each other without their server, before that comes back.
    pub(crate) alone: bool,
    /// Whose records rotted.
    pub(crate) rotten: Option<NodeId>,
    /// Documents were purged.
    pub(crate) purges: bool,
}

/// A server and three devices that share a workspace, the devices perhaps with each other, too.
pub(crate) fn enter(
    world: &mut World,
    mut skews: impl FnMut(&mut World) -> i64,
    direct: bool,
    liar: bool,
) {
    let shared = workspace(1);
    world.add(Role::Server);
    for _ in DEVICES {
        world.add(Role::Device);
    }
    for device in DEVICES {
        let skew = skews(world);
        world.set_skew(device, skew);
        world.share(SERVER, device, &[shared]);
    }
    if liar {
        world.add(Role::Device);
        world.share(SERVER, LIAR, &[shared]);
        world.liar = Some(LIAR);
        world.recorded = Some(Vec::new());
    }
    if direct {
        for (one, other) in [(1, 2), (2, 3), (1, 3)] {
            world.share(one, other, &[shared]);
        }
    }
    world.run_until_quiet();
    for device in DEVICES {
        world.connect(device, SERVER);
    }
    if liar {
        world.connect(LIAR, SERVER);
    }
}

/// Lets everything heal, and checks what must hold then; yields how many changes there are.
pub(crate) fn end(stage: &mut Stage, ending: Ending) -> usize {
    let shared = workspace(1);
    let world = &mut stage.world;
    if ending.alone {
        go_on_alone(world, shared);
    }
    recover(world);
    world.run_until_quiet();
    world.check_calm();
    if let Some(rotten) = ending.rotten {
        suspect_all(world, rotten);
    }
    // Longer than the longest backoff, so that whoever waits to dial has done so.
    world.advance(Duration::from_secs(70));
    world.run_until_quiet();
    world.advance(Duration::from_secs(25));
    world.check_calm();
    let all = [SERVER, DEVICES[0], DEVICES[1], DEVICES[2]];
    if ending.purges {
        purge_again(world, &all, shared);
    }
    world.check_converged(&all, shared);
    for device in DEVICES {
        world.check_fresh(device, SERVER, shared);
    }
    world.held(SERVER, shared).len()
}

/// The server is gone; the devices find each other and agree. When it comes back, it meets only one of
/// them, which is enough.
fn go_on_alone(world: &mut World, shared: WorkspaceId) {
    world.speaks.clear();
    world.cuts_due.clear();
    if world.is_up(SERVER) {
        world.crash(SERVER, 0);
    }
    for node in DEVICES {
        repair(world, node);
    }
    // Both sides dial, at about the same time.
    for (one, other) in [(1, 2), (2, 1), (2, 3), (3, 2), (1, 3), (3, 1)] {
        world.connect(one, other);
    }
    world.advance(Duration::from_secs(70));
    world.run_until_quiet();
    let held = world.held(1, shared);
    for node in DEVICES {
        world.check_rows(node, shared);
        assert_eq!(
            world.held(node, shared),
            held,
            "node {node} has what node 1 has"
        );
    }
    for node in [2, 3] {
        world.part(node, SERVER);
    }
    repair(world, SERVER);
    world.connect(1, SERVER);
    world.run_until_quiet();
    let kept = world.held(SERVER, shared);
    let lacking = held.difference(&kept).next();
    assert_eq!(lacking, None, "the server lacks it");
}

/// Ends every mishap that has befallen a node.
fn repair(world: &mut World, node: NodeId) {
    world.set_faults(node, Faults::default());
    world.set_low_space(node, false);
    world.wake(node);
    for other in (0..world.count()).filter(|other| *other != node) {
        world.heal(node, other);
    }
    if world.is_up(node) && world.refuses_writes(node) {
        world.crash(node, 0);
    }
    if !world.is_up(node) {
        world.restart(node);
    }
}

/// A server that lost a purge with its past decides on it anew, since the meeting says that it was
/// deleted; then what is left of all that was purged is removed wherever nobody needs it.
fn purge_again(world: &mut World, all: &[NodeId], shared: WorkspaceId) {
    let wanted: Vec<_> = world.purged().map(|(_, document)| *document).collect();
    world.purge(all[0], shared, &wanted);
    world.run_until_quiet();
    for node in all {
        for document in &wanted {
            world.compact(*node, shared, *document);
        }
    }
    world.run_until_quiet();
    for document in wanted {
        let row = world.head_row(all[0], shared, document);
        let is_left = row.is_some_and(|row| row.has_remains());
        assert!(!is_left, "the server still has something of {document}");
    }
}

/// Has everything looked at, whoever may have met it.
fn suspect_all(world: &mut World, node: NodeId) {
    if !world.is_up(node) {
        return;
    }
    let documents = (0..DOCUMENTS).map(|number| Some(document(number)));
    for document in documents.chain([None]) {
        let suspect = Input::Suspect {
            workspace: workspace(1),
            document,
        };
        world.give(node, suspect);
    }
    world.run_until_quiet();
}

/// Ends every mishap: the network is whole, every store is opened again, every node runs.
fn recover(world: &mut World) {
    world.speaks.clear();
    world.cuts_due.clear();
    for node in 0..world.count() {
        for other in 0..node {
            world.heal(node, other);
        }
        world.set_faults(node, Faults::default());
        world.set_low_space(node, false);
        world.wake(node);
        if world.is_up(node) {
            // A store that refuses writes has to be opened again.
            if world.refuses_writes(node) {
                world.crash(node, 0);
                world.restart(node);
            } else {
                world.enter_shares(node);
            }
        } else {
            world.restart(node);
        }
        if node != SERVER {
            world.connect(node, SERVER);
        }
    }
}
