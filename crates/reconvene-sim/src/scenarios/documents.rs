//! Real documents above the engine: what hosts read, let go, compact and carry out, and what happens
//! where somebody is of a later version.

use reconvene_core::engine::Event;
use reconvene_core::ids::WorkspaceId;
use reconvene_core::refusal::RefusalCode;
use reconvene_model::meeting::State;

use super::{seconds, team, told, while_apart};
use crate::documents::OPEN_BYTES_MAX;
use crate::edits::ModelEdit;
use crate::executor::COMMANDS_FROM;
use crate::world::{NodeId, World, document};

/// A server and two devices whose hosts keep real documents.
fn real_team(seed: u64) -> (World, NodeId, Vec<NodeId>, WorkspaceId) {
    // What documents begin with is told to engines when they start.
    let (mut world, server, devices, of) = team(seed, 2);
    world.real = true;
    for node in 0..world.count() {
        world.crash(node, 0);
        world.restart(node);
    }
    for device in &devices {
        world.connect(*device, server);
    }
    world.run_until_quiet();
    (world, server, devices, of)
}

fn state(world: &mut World, node: NodeId, of: WorkspaceId, number: u64) -> Option<State> {
    let read = world.all_documents(node, of);
    let found = read.into_iter().find(|(id, _)| *id == document(number));
    found.and_then(|(_, read)| read.meeting().expect("it is a meeting").state)
}

#[test]
fn hosts_read_alike_what_was_written_apart_and_keep_few_documents_open() {
    let (mut world, server, devices, of) = real_team(90);
    let everybody = [server, devices[0], devices[1]];
    while_apart(&mut world, devices[0], server, |world| {
        for number in 0..40 {
            world.edit(devices[0], of, document(number), 200);
            world.edit(devices[1], of, document(number), 200);
        }
        for edit in ModelEdit::ALL {
            world.revise(devices[0], of, document(1), *edit);
            world.revise(devices[1], of, document(1), *edit);
        }
    });
    world.run_until_quiet();
    world.check_converged(&everybody, of);
    for node in everybody {
        for number in 0..40 {
            assert!(world.look(node, of, document(number)));
            assert!(world.open_bytes(node) <= OPEN_BYTES_MAX);
        }
        assert!(
            world.open_bytes(node) > OPEN_BYTES_MAX / 4,
            "some stay open"
        );
    }
}

#[test]
fn a_real_document_is_compacted_with_proof_and_read_the_same() {
    let (mut world, server, devices, of) = real_team(91);
    for _ in 0..30 {
        world.edit(devices[0], of, document(1), 60);
    }
    world.run_until_quiet();
    world.compact(server, of, document(1));
    world.run_until_quiet();
    let row = world
        .head_row(server, of, document(1))
        .expect("it is there");
    assert_eq!((row.snapshots.len(), row.change_count), (1, 0));
    // Whoever comes anew gets the snapshot.
    world.crash(devices[1], 0);
    world.wipe(devices[1]);
    world.restart(devices[1]);
    world.edit(devices[0], of, document(1), 60);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert!(world.look(devices[1], of, document(1)));
}

#[test]
fn a_command_ends_once_wherever_the_server_stops_and_the_outside_knows_it_again() {
    let mut told_again = 0;
    for wait in (0..60).step_by(3) {
        let (mut world, server, devices, of) = real_team(92);
        world.settings.write = (7, 7);
        world.revise(devices[0], of, document(1), ModelEdit::ReachState(1));
        for number in 0..4 {
            world.command(devices[0], of, number);
        }
        world.advance(std::time::Duration::from_millis(wait));
        world.crash(server, 0);
        world.restart(server);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        let everybody = [server, devices[0], devices[1]];
        world.check_converged(&everybody, of);
        assert_eq!(
            state(&mut world, devices[1], of, 1),
            Some(State::Stopping),
            "after {wait} ms"
        );
        let outside = &world.knowledge.commands.outside;
        told_again += outside.values().filter(|count| **count > 1).count();
        let first = document(COMMANDS_FROM).to_string();
        let second = document(COMMANDS_FROM + 1).to_string();
        assert!(outside.keys().all(|key| *key == first || *key == second));
        assert!(!outside.is_empty());
    }
    assert!(
        told_again > 0,
        "some crash falls between telling and noting it"
    );
}

#[test]
fn who_speaks_no_version_in_common_is_refused_for_that_and_loses_nothing() {
    let (mut world, server, devices, of) = real_team(93);
    let upgrade = |world: &mut World, node: NodeId, speaks| {
        world.speaks.insert(node, speaks);
        world.crash(node, 0);
        world.restart(node);
        world.edit(node, of, document(2), 40);
        world.edit(devices[0], of, document(2), 40);
        world.advance(seconds(100));
    };
    let is_refused = |world: &World, node: NodeId| {
        told(world, node).any(|event| {
            let code = RefusalCode::IncompatibleProtocol;
            matches!(event, Event::RefusedByPeer { code: of, .. } if *of == code)
        })
    };
    // A later one that still speaks this version is understood, whatever else it says.
    upgrade(&mut world, devices[1], (1, 2));
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert!(!is_refused(&world, devices[1]));
    upgrade(&mut world, devices[1], (2, 2));
    assert!(is_refused(&world, devices[1]));
    assert!(world.held(server, of) != world.held(devices[1], of));
    // The others go on, and once the server is of that version, too, nothing is lost.
    assert_eq!(world.held(server, of), world.held(devices[0], of));
    upgrade(&mut world, server, (1, 2));
    world.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn a_document_that_needs_a_later_version_is_synced_and_read_and_not_edited() {
    let (mut world, server, devices, of) = real_team(94);
    world.edit(devices[0], of, document(1), 40);
    world.run_until_quiet();
    assert!(world.outdate(devices[0], of, document(1)));
    world.run_until_quiet();
    let held = world.held(server, of);
    for node in [server, devices[0], devices[1]] {
        world.edit(node, of, document(1), 40);
        assert!(world.look(node, of, document(1)));
    }
    world.run_until_quiet();
    assert_eq!(world.held(server, of), held, "nobody edits it");
    world.check_converged(&[server, devices[0], devices[1]], of);
}
