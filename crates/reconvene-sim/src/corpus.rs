//! Random histories: a server and three devices that edit, lose power, lose the network and lose
//! their disks, as a seed has it; then everything heals and everything is checked.

use std::collections::BTreeMap;
use std::time::Duration;

use reconvene_core::engine::Input;
use reconvene_core::ids::WorkspaceId;
use reconvene_core::keys::{Key, KeyKind};
use reconvene_core::memory::{Fault, Faults};
use reconvene_core::storage::StoreError;
use reconvene_core::wire::Role;

use crate::disk::all_rows;
use crate::world::{NodeId, Settings, StoreCopy, World, document, workspace};

/// What a history came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of everything that happened.
    pub trace: [u8; 32],
    /// How many things happened.
    pub steps: u64,
    /// How many changes every node holds in the end.
    pub changes: usize,
}

/// What may go wrong in one history; each seed turns only some of it on.
#[derive(Clone, Copy, Debug)]
struct Mishaps {
    cuts: bool,
    partitions: bool,
    crashes: bool,
    store_faults: bool,
    wipes: bool,
    rollbacks: bool,
    /// Devices that link to each other, too.
    direct_links: bool,
    /// Hosts that compact. By the seed's number, so that the others play as they always did.
    compactions: bool,
    /// A server that purges, and hosts that remove what is left. By the seed's number, too.
    purges: bool,
    /// One node whose records rot; the others keep what it loses. By the seed's number, too.
    rot: bool,
}

/// Plays the history of a seed.
///
/// # Panics
/// If anything that must hold does not; the message names the seed.
pub fn run_seed(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    let on = |world: &mut World, one_in: usize| world.pick(one_in) == 0;
    let mut mishaps = Mishaps {
        cuts: on(&mut world, 2),
        partitions: on(&mut world, 3),
        crashes: on(&mut world, 2),
        store_faults: on(&mut world, 4),
        wipes: on(&mut world, 4),
        rollbacks: on(&mut world, 5),
        direct_links: on(&mut world, 3),
        compactions: seed.is_multiple_of(3),
        purges: seed.is_multiple_of(5),
        rot: seed.is_multiple_of(13),
    };
    // Two disks that lose their past can lose it for good: one holds what the other's journal
    // already let go.
    mishaps.rollbacks &= !mishaps.wipes;
    mishaps.rot &= !mishaps.wipes && !mishaps.rollbacks;
    let victim = world.pick(4);
    world.settings = if on(&mut world, 2) {
        Settings::default()
    } else {
        Settings {
            latency: (1, 120),
            read: (0, 20),
            write: (0, 40),
            completion: (0, 10),
        }
    };
    let server = world.add(Role::Server);
    let devices = [
        world.add(Role::Device),
        world.add(Role::Device),
        world.add(Role::Device),
    ];
    let shared = workspace(1);
    for device in devices {
        let skew = i64::try_from(world.pick(1_200_000)).expect("it is small") - 600_000;
        world.set_skew(device, skew);
        world.share(server, device, &[shared]);
    }
    if mishaps.direct_links {
        for (one, other) in [(1, 2), (2, 3), (1, 3)] {
            world.share(one, other, &[shared]);
        }
    }
    world.run_until_quiet();
    for device in devices {
        world.connect(device, server);
    }
    let mut copies = BTreeMap::new();
    let actions = 40 + world.pick(80);
    for _ in 0..actions {
        act(&mut world, mishaps, victim, &mut copies);
        if on(&mut world, 2) {
            let pause = world.pick(300) as u64;
            world.advance(Duration::from_millis(pause));
        }
    }
    // What one of them lost only the server may have.
    if mishaps.direct_links && !mishaps.wipes && !mishaps.rollbacks && !mishaps.rot {
        go_on_alone(&mut world, shared);
    }
    recover(&mut world);
    world.run_until_quiet();
    if mishaps.rot {
        suspect_all(&mut world, victim);
    }
    // Longer than the longest backoff, so that whoever waits to dial has done so.
    world.advance(Duration::from_secs(70));
    world.run_until_quiet();
    world.advance(Duration::from_secs(25));
    let all = [server, devices[0], devices[1], devices[2]];
    if mishaps.purges {
        purge_again(&mut world, &all, shared);
    }
    world.check_converged(&all, shared);
    for device in devices {
        world.check_fresh(device, server, shared);
    }
    Outcome {
        trace: world.trace(),
        steps: world.steps(),
        changes: world.held(server, shared).len(),
    }
}

fn act(
    world: &mut World,
    mishaps: Mishaps,
    victim: NodeId,
    copies: &mut BTreeMap<NodeId, StoreCopy>,
) {
    let node = world.pick(4);
    let other = (node + 1 + world.pick(3)) % 4;
    match world.pick(24) {
        0 if mishaps.purges && world.is_up(0) => {
            let which = world.pick(10) as u64;
            world.purge(0, workspace(1), &[document(which)]);
        }
        1 if mishaps.purges => {
            let which = world.pick(10) as u64;
            world.compact(node, workspace(1), document(which));
        }
        2 | 3 if mishaps.rot && world.is_up(victim) => rot(world, victim),
        0..=9 => edit(world, node),
        10 | 11 if mishaps.cuts => world.cut_between(node, other),
        12 if mishaps.partitions => world.part(node, other),
        13 if mishaps.partitions => world.heal(node, other),
        14 | 15 if mishaps.crashes && world.is_up(node) => {
            let kept = world.pick(3);
            world.crash(node, kept);
        }
        16 | 17 if !world.is_up(node) => world.restart(node),
        18 if mishaps.wipes && node == victim.max(1) && world.is_up(node) => {
            world.crash(node, 0);
            world.wipe(node);
            world.restart(node);
        }
        19 if mishaps.rollbacks => roll_back(world, victim, copies),
        20 if mishaps.store_faults && world.is_up(node) => fault(world, node),
        21 if mishaps.direct_links && node != 0 && other != 0 && world.is_up(node) => {
            world.connect(node, other);
            if on_both_sides(world) && world.is_up(other) {
                world.connect(other, node);
            }
        }
        23 if world.is_up(node) => {
            let asleep = world.pick(2) == 0;
            let input = if asleep {
                Input::Resumed
            } else {
                Input::NetworkChanged
            };
            world.give(node, input);
        }
        22 if world.is_up(node) && !world.shared(node, other).is_empty() && node != 0 => {
            world.disconnect(node, other);
            if other == 0 {
                world.connect(node, other);
            }
        }
        22 | 23 if mishaps.compactions => {
            let which = world.pick(10) as u64;
            world.compact(node, workspace(1), document(which));
        }
        _ => edit(world, node),
    }
}

fn on_both_sides(world: &mut World) -> bool {
    world.pick(2) == 0
}

/// The server is gone; the devices find each other and agree. When it comes back, it meets only one of
/// them, which is enough.
fn go_on_alone(world: &mut World, shared: WorkspaceId) {
    const DEVICES: [NodeId; 3] = [1, 2, 3];
    if world.is_up(0) {
        world.crash(0, 0);
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
        world.part(node, 0);
    }
    repair(world, 0);
    world.connect(1, 0);
    world.run_until_quiet();
    let kept = world.held(0, shared);
    let lacking = held.difference(&kept).next();
    assert_eq!(lacking, None, "the server lacks it");
}

/// Ends every mishap that has befallen a node.
fn repair(world: &mut World, node: NodeId) {
    world.set_faults(node, Faults::default());
    world.set_low_space(node, false);
    for other in (0..4).filter(|other| *other != node) {
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

fn edit(world: &mut World, node: NodeId) {
    if !world.is_up(node) {
        return;
    }
    let shared = workspace(1);
    let size = match world.pick(20) {
        0 => 70_000,
        1 => 200_000,
        _ => 10 + world.pick(400),
    };
    if world.pick(6) == 0 {
        let first = world.pick(8) as u64;
        let count = 1 + world.pick(3);
        let documents = [(document(first), count), (document(first + 1), 1)];
        world.edit_many(node, shared, &documents, size.min(1_000));
    } else {
        let which = world.pick(10) as u64;
        world.edit(node, shared, document(which), size);
    }
}

/// Takes a copy of a node's store, or puts back the one taken before. The journal stays.
fn roll_back(world: &mut World, node: NodeId, copies: &mut BTreeMap<NodeId, StoreCopy>) {
    match copies.remove(&node) {
        None => {
            copies.insert(node, world.copy_durable(node));
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

/// Lets a record of a node rot. Its host may meet it at once, or the engine some time.
fn rot(world: &mut World, node: NodeId) {
    const KINDS: [KeyKind; 5] = [
        KeyKind::Head,
        KeyKind::Change,
        KeyKind::Snapshot,
        KeyKind::Feed,
        KeyKind::Peer,
    ];
    let kind = KINDS[world.pick(KINDS.len())];
    let rows = all_rows(&world.disk(node).reader);
    let of_kind = |(key, _): &(Key, _)| key.kind() == Some(kind);
    let keys: Vec<_> = rows.into_iter().filter(of_kind).collect();
    if keys.is_empty() {
        return;
    }
    let (key, _) = &keys[world.pick(keys.len())];
    world.rot(node, key);
    if world.pick(2) == 0 {
        let suspect = Input::Suspect {
            workspace: workspace(1),
            document: key.document(),
        };
        world.give(node, suspect);
    }
}

/// Has everything looked at, whoever may have met it.
fn suspect_all(world: &mut World, node: NodeId) {
    if !world.is_up(node) {
        return;
    }
    let documents = (0..10).map(|number| Some(document(number)));
    for document in documents.chain([None]) {
        let suspect = Input::Suspect {
            workspace: workspace(1),
            document,
        };
        world.give(node, suspect);
    }
    world.run_until_quiet();
}

fn fault(world: &mut World, node: NodeId) {
    let mut faults = Faults::default();
    let call = world.pick(3) as u64;
    let lands = world.pick(2) == 0;
    let error = StoreError::NoSpace;
    match world.pick(4) {
        0 => {
            faults.journal.insert(call, Fault { error, lands });
        }
        1 => {
            faults.barrier.insert(call, Fault { error, lands });
        }
        2 => {
            faults.apply.insert(call, error);
        }
        _ => world.set_low_space(node, lands),
    }
    world.set_faults(node, faults);
}

/// Ends every mishap: the network is whole, every store is opened again, every node runs.
fn recover(world: &mut World) {
    for node in 0..4 {
        for other in 0..node {
            world.heal(node, other);
        }
        world.set_faults(node, Faults::default());
        world.set_low_space(node, false);
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
        if node != 0 {
            world.connect(node, 0);
        }
    }
}

#[cfg(test)]
mod tests;
