//! Archives that are restored: what was lost comes back, what is there stays, what was purged stays
//! away, and a file is worth no more than a peer.

use bytes::Bytes;
use reconvene_core::engine::{Event, Input, Restore, RestoreError, Restored};
use reconvene_core::ids::{StoreEpoch, WorkspaceId};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::StoreError;

use super::{fill, linked_team, seconds, told, while_apart};
use crate::world::{NodeId, World, document};

/// What became of the restores of a node, in their order.
fn outcomes(world: &World, node: NodeId) -> Vec<Result<Restored, RestoreError>> {
    let outcomes = told(world, node).filter_map(|event| match event {
        Event::Restored { restored, .. } => Some(Ok(restored.clone())),
        Event::RestoreRefused { error, .. } => Some(Err(error.clone())),
        _ => None,
    });
    outcomes.collect()
}

/// What was refused of them.
fn refused(world: &World, node: NodeId) -> Vec<RefusalCode> {
    let outcomes = outcomes(world, node).into_iter();
    let taken = outcomes.map(|outcome| outcome.expect("the store takes it"));
    let refused = taken.flat_map(|restored| restored.refused);
    refused.map(|(_, code)| code).collect()
}

fn epoch(world: &World, node: NodeId, of: WorkspaceId) -> StoreEpoch {
    let status = world.engine(node).expect("it is up").workspace_status(&of);
    status.expect("it is in use").head.epoch
}

/// A server and two devices; some documents are on all of them, one compacted, one purged.
fn settled(seed: u64) -> (World, NodeId, Vec<NodeId>, WorkspaceId) {
    let (mut world, server, devices, of) = linked_team(seed, 2);
    fill(&mut world, devices[0], of, 0..8);
    for number in [1, 2, 1] {
        world.edit(devices[1], of, document(number), 60);
        world.run_until_quiet();
    }
    world.compact(server, of, document(1));
    world.purge(server, of, &[document(7)]);
    world.run_until_quiet();
    (world, server, devices, of)
}

#[test]
fn a_wiped_server_restored_from_an_old_archive_takes_its_devices_back() {
    let (mut world, server, devices, of) = settled(500);
    let archived = world.archive(server, of);
    let before = epoch(&world, server, of);
    // What came after the archive was made, on the server as well as on devices.
    world.edit(devices[0], of, document(2), 60);
    world.edit(devices[0], of, document(20), 60);
    world.run_until_quiet();
    for device in &devices {
        world.part(*device, server);
    }
    world.run_until_quiet();
    world.edit(devices[0], of, document(3), 60);
    world.edit(devices[1], of, document(3), 60);
    world.edit(devices[1], of, document(21), 60);
    world.crash(server, 0);
    world.wipe(server);
    world.restart(server);
    world.run_until_quiet();
    world.restore_archive(server, of, &archived, true);
    world.run_until_quiet();
    assert_eq!(refused(&world, server), []);
    assert_ne!(epoch(&world, server, of), before);
    // What it was told to be there survives a power cut, before any device is.
    let held = world.held(server, of);
    assert!(!held.is_empty());
    world.crash(server, 0);
    world.restart(server);
    world.run_until_quiet();
    assert_eq!(world.held(server, of), held);
    for device in &devices {
        world.heal(*device, server);
    }
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    let row = world
        .head_row(server, of, document(7))
        .expect("its tombstone");
    assert!(row.purged_at.is_some());
}

#[test]
fn a_device_restored_from_an_old_archive_gives_and_gets_all_that_is_newer() {
    let (mut world, server, devices, of) = settled(501);
    let device = devices[0];
    while_apart(&mut world, device, server, |world| {
        // Nobody else has this, and the archive does.
        world.edit(device, of, document(30), 60);
        world.edit(device, of, document(2), 60);
        world.edit(devices[1], of, document(2), 60);
        world.run_until_quiet();
        let archived = world.archive(device, of);
        world.crash(device, 0);
        world.wipe(device);
        world.restart(device);
        world.restore_archive(device, of, &archived, false);
        world.run_until_quiet();
        assert_eq!(refused(world, device), []);
        world.edit(device, of, document(2), 60);
    });
    world.advance(seconds(70));
    world.run_until_quiet();
    world.check_converged(&[server, device, devices[1]], of);
    assert!(world.head_row(server, of, document(30)).is_some());
}

#[test]
fn what_is_there_stays_and_restoring_again_changes_nothing() {
    let (mut world, server, devices, of) = settled(502);
    let archived = world.archive(devices[0], of);
    let held = world.held(server, of);
    world.edit(server, of, document(2), 60);
    world.run_until_quiet();
    let status = |world: &World| {
        let engine = world.engine(server).expect("it is up");
        engine.workspace_status(&of).expect("it is in use").head
    };
    let before = status(&world);
    world.restore_archive(server, of, &archived, true);
    world.run_until_quiet();
    assert_eq!(status(&world), before, "the feed has nothing new");
    assert_eq!(refused(&world, server), []);
    let changes: u64 = outcomes(&world, server)
        .into_iter()
        .map(|outcome| outcome.expect("the store takes it").changes)
        .sum();
    assert_eq!(changes, 0);
    assert!(world.held(server, of).is_superset(&held));
    world.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn what_was_purged_does_not_come_back_and_tombstones_win_where_all_was_known() {
    let (mut world, server, devices, of) = settled(503);
    let older = world.archive(server, of);
    world.purge(server, of, &[document(3), document(4)]);
    world.run_until_quiet();
    let newer = world.archive(server, of);
    // A tombstone that is here wins over the document in the archive.
    world.restore_archive(server, of, &older, true);
    world.run_until_quiet();
    for number in [3, 4, 7] {
        let row = world.head_row(server, of, document(number));
        assert!(row.expect("its tombstone").purged_at.is_some(), "{number}");
    }
    world.check_converged(&[server, devices[0], devices[1]], of);

    // One in the archive wins where everything was known, and only with the last word.
    let (mut other, server, devices, of) = settled(503);
    other
        .knowledge
        .purged
        .extend([(of, document(3)), (of, document(4))]);
    other.edit(devices[0], of, document(4), 60);
    other.run_until_quiet();
    other.restore_archive(server, of, &newer, false);
    other.run_until_quiet();
    assert_eq!(refused(&other, server), [RefusalCode::NotPermitted; 2]);
    other.restore_archive(server, of, &newer, true);
    other.run_until_quiet();
    let refused = refused(&other, server);
    assert_eq!(refused[2..], [RefusalCode::DocumentDeleted]);
    let is_purged = |number| {
        let row = other.head_row(server, of, document(number));
        row.expect("it is there").purged_at.is_some()
    };
    assert!(is_purged(3) && !is_purged(4));
    other.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn a_file_is_worth_no_more_than_a_peer() {
    let (mut world, server, devices, of) = settled(504);
    let whole = world.archive(devices[0], of);
    world.crash(server, 0);
    world.wipe(server);
    for device in &devices {
        world.part(*device, server);
    }
    world.restart(server);
    world.run_until_quiet();
    let mut altered = whole.clone();
    let place = |number| {
        let found = whole
            .iter()
            .position(|known| known.document == document(number));
        found.expect("it is in the archive")
    };
    // A change without the one before it, one with a flipped bit, one of another document.
    let second = altered[place(2)].changes.split_off(1);
    altered[place(2)].changes = second;
    let mut flipped = altered[place(3)].changes[0].to_vec();
    let end = flipped.len() - 1;
    flipped[end] ^= 1;
    altered[place(3)].changes[0] = Bytes::from(flipped);
    world.restore_archive(server, of, &altered, true);
    world.run_until_quiet();
    let expected = [RefusalCode::MissingDependencies, RefusalCode::Damaged];
    assert_eq!(refused(&world, server), expected);
    for number in [2, 3] {
        assert!(world.head_row(server, of, document(number)).is_none());
    }
    assert!(world.head_row(server, of, document(4)).is_some());
    // The whole one later brings what was refused.
    world.restore_archive(server, of, &whole, true);
    world.run_until_quiet();
    assert_eq!(refused(&world, server).len(), expected.len());
    assert_eq!(world.held(server, of), world.held(devices[0], of));
    // More than a restore takes, and one document twice, is nothing at all.
    let one = whole[place(4)].clone();
    for (many, is_twice) in [
        (vec![one.clone(), one.clone()], true),
        (vec![one; 1025], false),
    ] {
        let request = world.request();
        let restore = Restore {
            request,
            workspace: of,
            may_purge: false,
            documents: many,
        };
        world.give(server, Input::Restore(restore));
        let last = outcomes(&world, server).pop().expect("it was answered");
        match last {
            Err(RestoreError::Twice { .. }) => assert!(is_twice),
            Err(RestoreError::TooLarge { .. }) => assert!(!is_twice),
            other => panic!("it was not refused: {other:?}"),
        }
    }
    for device in &devices {
        world.heal(*device, server);
    }
    world.run_until_quiet();
    world.advance(seconds(70));
    world.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn a_crash_at_any_step_of_a_restore_leaves_a_store_that_can_be_restored_again() {
    let play = || {
        let (mut world, server, devices, of) = settled(505);
        let archived = world.archive(server, of);
        world.edit(devices[0], of, document(2), 60);
        world.run_until_quiet();
        world.crash(server, 0);
        world.wipe(server);
        world.restart(server);
        world.restore_archive(server, of, &archived, true);
        (world, server, devices, of, archived)
    };
    let (mut undisturbed, ..) = play();
    let start = undisturbed.steps();
    undisturbed.run_until_quiet();
    let course = undisturbed.steps() - start;
    assert!(course > 50, "{course}");
    for cut in (0..course).step_by(7) {
        let (mut world, server, devices, of, archived) = play();
        for _ in 0..cut {
            world.step();
        }
        let told: Vec<_> = outcomes(&world, server)
            .into_iter()
            .flat_map(|outcome| outcome.expect("the store takes it").documents)
            .collect();
        let kept = world.pick(3);
        world.crash(server, kept);
        world.restart(server);
        for document in told {
            let row = world.head_row(server, of, document);
            assert!(row.is_some(), "{document} was said to be durable");
        }
        if cut % 2 == 0 {
            world.restore_archive(server, of, &archived, true);
        }
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], devices[1]], of);
    }
}

#[test]
fn what_a_peer_was_refused_comes_once_an_archive_brings_what_it_builds_on() {
    let (mut world, server, devices, of) = linked_team(507, 2);
    world.edit(devices[1], of, document(1), 60);
    world.run_until_quiet();
    let archived = world.archive(devices[1], of);
    world.part(devices[0], server);
    world.run_until_quiet();
    world.edit(devices[0], of, document(1), 60);
    world.run_until_quiet();
    // Of the first change nothing is left but the archive, and of the second the journal.
    world.part(devices[1], server);
    for node in [server, devices[0]] {
        world.crash(node, 0);
        world.wipe(node);
        world.restart(node);
    }
    world.heal(devices[0], server);
    world.run_until_quiet();
    let refused = |world: &World| world.refusal(server, devices[0], of, document(1));
    assert_eq!(refused(&world), Some(RefusalCode::MissingDependencies));
    world.restore_archive(server, of, &archived, true);
    world.run_until_quiet();
    assert_eq!(refused(&world), None);
    let row = world.head_row(server, of, document(1));
    assert_eq!(row.map(|row| row.change_count), Some(2));
    world.heal(devices[1], server);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn a_disk_without_room_refuses_a_restore_and_takes_it_later() {
    let (mut world, server, devices, of) = settled(506);
    let archived = world.archive(devices[0], of);
    for device in &devices {
        world.part(*device, server);
    }
    world.crash(server, 0);
    world.wipe(server);
    world.restart(server);
    world.run_until_quiet();
    world.set_low_space(server, true);
    world.restore_archive(server, of, &archived, true);
    world.run_until_quiet();
    let told = outcomes(&world, server);
    assert_eq!(told.len(), archived.len().div_ceil(3));
    assert!(told.iter().all(|outcome| matches!(
        outcome,
        Err(RestoreError::Store(
            StoreError::LowSpace { .. } | StoreError::PredecessorFailed
        ))
    )));
    world.set_low_space(server, false);
    world.restore_archive(server, of, &archived, true);
    world.run_until_quiet();
    assert_eq!(world.held(server, of), world.held(devices[0], of));
    for device in &devices {
        world.heal(*device, server);
    }
    world.run_until_quiet();
    world.advance(seconds(70));
    world.check_converged(&[server, devices[0], devices[1]], of);
}
