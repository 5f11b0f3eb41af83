//! Histories as they were drawn first: each action by the world's own chances, when its turn comes.
//! Seeds that once failed are still played so; what is played otherwise is another history.

use crate::action::{Action, Failure, SERVER, Stage, can_rot};
use crate::history::{DOCUMENTS, Ending, Outcome, end, enter};
use crate::world::{NodeId, Settings, World};

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
    let mut mishaps = Mishaps {
        cuts: one_in(&mut world, 2),
        partitions: one_in(&mut world, 3),
        crashes: one_in(&mut world, 2),
        store_faults: one_in(&mut world, 4),
        wipes: one_in(&mut world, 4),
        rollbacks: one_in(&mut world, 5),
        direct_links: one_in(&mut world, 3),
        compactions: seed.is_multiple_of(3),
        purges: seed.is_multiple_of(5),
        rot: seed.is_multiple_of(13),
    };
    // Two disks that lose their past can lose it for good: one holds what the other's journal
    // already let go.
    mishaps.rollbacks &= !mishaps.wipes;
    mishaps.rot &= !mishaps.wipes && !mishaps.rollbacks;
    let victim = world.pick(4);
    world.settings = if one_in(&mut world, 2) {
        Settings::default()
    } else {
        Settings {
            latency: (1, 120),
            read: (0, 20),
            write: (0, 40),
            completion: (0, 10),
            late: 0,
        }
    };
    let skew =
        |world: &mut World| i64::try_from(world.pick(1_200_000)).expect("it is small") - 600_000;
    enter(&mut world, skew, mishaps.direct_links, false);
    let actions = 40 + world.pick(80);
    let mut stage = Stage::new(world);
    for _ in 0..actions {
        act(&mut stage, mishaps, victim);
        let world = &mut stage.world;
        if one_in(world, 2) {
            let pause = world.pick(300) as u64;
            world.advance(std::time::Duration::from_millis(pause));
        }
    }
    // What one of them lost only the server may have.
    let loses = mishaps.wipes || mishaps.rollbacks || mishaps.rot;
    let ending = Ending {
        alone: mishaps.direct_links && !loses,
        rotten: mishaps.rot.then_some(victim),
        purges: mishaps.purges,
    };
    let changes = end(&mut stage, ending);
    Outcome::of(stage, changes)
}

fn one_in(world: &mut World, count: usize) -> bool {
    world.pick(count) == 0
}

fn act(stage: &mut Stage, mishaps: Mishaps, victim: NodeId) {
    let world = &mut stage.world;
    let node = world.pick(4);
    let other = (node + 1 + world.pick(3)) % 4;
    let action = match world.pick(24) {
        0 if mishaps.purges && world.is_up(SERVER) => Action::Purge {
            document: number(world),
        },
        1 if mishaps.purges => Action::Compact {
            node,
            document: number(world),
        },
        2 | 3 if mishaps.rot && world.is_up(victim) => {
            let kind = world.pick(5) as u64;
            if !can_rot(world, victim, kind) {
                return;
            }
            Action::Rot {
                node: victim,
                kind,
                which: world.chance(),
                met: one_in(world, 2),
            }
        }
        0..=9 => return edit(stage, node),
        10 | 11 if mishaps.cuts => Action::Cut { one: node, other },
        12 if mishaps.partitions => Action::Part { one: node, other },
        13 if mishaps.partitions => Action::Heal { one: node, other },
        14 | 15 if mishaps.crashes && world.is_up(node) => Action::Crash {
            node,
            kept: world.pick(3),
            quietly: false,
        },
        16 | 17 if !world.is_up(node) => Action::Restart { node },
        18 if mishaps.wipes && node == victim.max(1) && world.is_up(node) => Action::Wipe { node },
        19 if mishaps.rollbacks => Action::RollBack { node: victim },
        20 if mishaps.store_faults && world.is_up(node) => fail(world, node),
        21 if mishaps.direct_links && node != SERVER && other != SERVER && world.is_up(node) => {
            stage.act(Action::Connect { node, to: other });
            let world = &mut stage.world;
            if !one_in(world, 2) || !world.is_up(other) {
                return;
            }
            Action::Connect {
                node: other,
                to: node,
            }
        }
        23 if world.is_up(node) => match one_in(world, 2) {
            true => Action::Resume { node },
            false => Action::Roam { node },
        },
        22 if world.is_up(node) && !world.shared(node, other).is_empty() && node != SERVER => {
            Action::Disconnect { node, from: other }
        }
        22 | 23 if mishaps.compactions => Action::Compact {
            node,
            document: number(world),
        },
        _ => return edit(stage, node),
    };
    stage.act(action);
}

fn number(world: &mut World) -> u64 {
    world.pick(usize::try_from(DOCUMENTS).expect("it is small")) as u64
}

fn edit(stage: &mut Stage, node: NodeId) {
    let world = &mut stage.world;
    if !world.is_up(node) {
        return;
    }
    let size = match world.pick(20) {
        0 => 70_000,
        1 => 200_000,
        _ => 10 + world.pick(400),
    };
    let action = match one_in(world, 6) {
        true => Action::EditMany {
            node,
            document: world.pick(8) as u64,
            changes: 1 + world.pick(3),
            bytes: size.min(1_000),
        },
        false => Action::Edit {
            node,
            document: number(world),
            bytes: size,
        },
    };
    stage.act(action);
}

fn fail(world: &mut World, node: NodeId) -> Action {
    let call = world.pick(3) as u64;
    let lands = one_in(world, 2);
    let what = Failure::of(world.pick(4) as u64);
    Action::Fail {
        node,
        what,
        call,
        lands,
    }
}
