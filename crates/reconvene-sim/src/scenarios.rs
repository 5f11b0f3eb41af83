//! What the engine does, told as scenarios: nodes, edits, mishaps, and what must be true after.
//!
//! Each test is named after a behaviour and drives engines through their two doors only.

use std::time::Duration;

use reconvene_core::engine::Event;
use reconvene_core::ids::WorkspaceId;
use reconvene_core::wire::Role;

use crate::world::{NodeId, World, document, workspace};

mod archives;
mod damage;
mod devices;
mod documents;
mod failures;
mod histories;
mod links;
mod offenders;
mod purges;
mod roaming;
mod snapshots;
mod strangers;
mod sync;
mod truth;

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

/// The same, linked and in step.
fn linked_team(seed: u64, devices: usize) -> (World, NodeId, Vec<NodeId>, WorkspaceId) {
    let (mut world, server, devices, of) = team(seed, devices);
    for device in &devices {
        world.connect(*device, server);
    }
    world.run_until_quiet();
    (world, server, devices, of)
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

/// Cuts a device's link, lets some things be done meanwhile, and lets it come back.
fn while_apart(
    world: &mut World,
    device: NodeId,
    server: NodeId,
    meanwhile: impl FnOnce(&mut World),
) {
    world.part(device, server);
    world.run_until_quiet();
    meanwhile(world);
    world.run_until_quiet();
    world.heal(device, server);
    world.run_until_quiet();
}

/// What a node was told, without the moments.
fn told(world: &World, node: NodeId) -> impl Iterator<Item = &Event> {
    world.events(node).iter().map(|(_, event)| event)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
