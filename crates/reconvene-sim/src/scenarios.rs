//! What the engine does, told as scenarios: nodes, edits, mishaps, and what must be true after.
//!
//! Each test is named after a behaviour and drives engines through their two doors only.

use reconvene_core::ids::WorkspaceId;
use reconvene_core::wire::Role;

use crate::world::{NodeId, World, document, workspace};

mod first;

/// A server and some devices that share workspace 1 with it and are not linked yet.
fn team(seed: u64, devices: usize) -> (World, NodeId, Vec<NodeId>, WorkspaceId) {
    let mut world = World::new(seed);
    let server = world.add(Role::Server);
    let devices: Vec<_> = (0..devices).map(|_| world.add(Role::Device)).collect();
    for device in &devices {
        world.share(server, *device, &[workspace(1)]);
    }
    world.run_until_quiet();
    (world, server, devices, workspace(1))
}

/// Fills a node with documents of one change each.
fn fill(world: &mut World, node: NodeId, of: WorkspaceId, documents: std::ops::Range<u64>) {
    for number in documents {
        world.edit(node, of, document(number), 60);
        if number % 256 == 255 {
            world.run_until_quiet();
        }
    }
    world.run_until_quiet();
}
