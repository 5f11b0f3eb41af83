//! Compaction, and what follows from it for everyone who has yet to come.

use std::time::Duration;

use bytes::Bytes;
use reconvene_core::engine::{CompactHold, Event};
use reconvene_core::ids::{FeedSeq, WorkspaceId};
use reconvene_core::keys::KeyRange;
use reconvene_core::limits::BEHIND_ENTRIES_MAX;
use reconvene_core::records::{FeedRow, Record as _};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::wire::{Changes, DocumentChanges, Frame, Role};

use super::failures::check_crashes;
use super::{linked_team, team, told, while_apart};
use crate::changes::KIND;
use crate::world::{NodeId, World, document, workspace};

/// Edits one document again and again, everyone following.
fn type_into(world: &mut World, node: NodeId, of: WorkspaceId, number: u64, edits: u64) {
    for edit in 0..edits {
        world.edit(node, of, document(number), 20);
        if edit % 64 == 63 {
            world.run_until_quiet();
        }
    }
    world.run_until_quiet();
}

fn compact(world: &mut World, node: NodeId, of: WorkspaceId, number: u64) {
    world.compact(node, of, document(number));
    world.run_until_quiet();
}

fn compacted(world: &World, node: NodeId) -> usize {
    let events = told(world, node);
    events
        .filter(|event| matches!(event, Event::Compacted { .. }))
        .count()
}

fn holds(world: &World, node: NodeId) -> Vec<CompactHold> {
    let events = told(world, node).filter_map(|event| match event {
        Event::CompactRefused { why, .. } => Some(why.clone()),
        _ => None,
    });
    events.collect()
}

/// How many feed entries and single changes of a document a node stores.
fn records(world: &World, node: NodeId, of: WorkspaceId, number: u64) -> (usize, usize) {
    let reader = &world.disk(node).reader;
    let rows = |range| {
        let rows = reader.scan(&Scan::ascending(range, usize::MAX));
        rows.expect("an open store reads").rows
    };
    let feed = rows(KeyRange::feed_after(&of, FeedSeq(0)));
    let entries = feed.iter().filter(|(_, value)| {
        let row = FeedRow::decode(value).expect("a stored feed entry decodes");
        row.document == document(number)
    });
    let changes = rows(KeyRange::changes(&of, &document(number)));
    (entries.count(), changes.len())
}

/// Has a new device join the team.
fn join(world: &mut World, server: NodeId) -> NodeId {
    let newcomer = world.add(Role::Device);
    world.share(server, newcomer, &[workspace(1)]);
    world.run_until_quiet();
    world.connect(newcomer, server);
    world.run_until_quiet();
    newcomer
}

#[test]
fn a_compacted_document_is_one_record_and_one_entry_and_reaches_a_newcomer_whole() {
    let (mut world, server, devices, of) = linked_team(80, 2);
    type_into(&mut world, devices[0], of, 1, 200);
    type_into(&mut world, devices[1], of, 2, 3);
    let all = [server, devices[0], devices[1]];
    for node in all {
        compact(&mut world, node, of, 1);
        assert_eq!(compacted(&world, node), 1, "{:?}", holds(&world, node));
        assert_eq!(records(&world, node, of, 1), (1, 0));
    }
    world.check_converged(&all, of);
    let newcomer = join(&mut world, server);
    world.check_converged(&[server, newcomer], of);
    assert_eq!(world.held(newcomer, of).len(), 203);
    let pass = world.last_pass(server, newcomer).expect("it completes");
    assert_eq!((pass.snapshots_sent, pass.changes_sent), (1, 3));
    // It goes on from there, both ways, and without loading anything.
    let loads = world.disk(server).counts.loads;
    for device in [newcomer, devices[0]] {
        world.edit(device, of, document(1), 20);
        world.run_until_quiet();
    }
    world.check_converged(&[server, devices[0], devices[1], newcomer], of);
    assert_eq!(world.disk(server).counts.loads, loads);
    // And a second compaction takes the first one in.
    for node in [server, devices[0], newcomer] {
        compact(&mut world, node, of, 1);
        assert_eq!(records(&world, node, of, 1).1, 0);
    }
    world.check_converged(&[server, devices[0], devices[1], newcomer], of);
}

#[test]
fn a_newcomer_that_comes_while_a_document_is_compacted_gets_it_over_one_link() {
    let mut met = 0;
    for after in (0..3_500).step_by(50) {
        let (mut world, server, devices, of) = linked_team(90, 1);
        type_into(&mut world, devices[0], of, 1, 4);
        let newcomer = world.add(Role::Device);
        world.share(server, newcomer, &[of]);
        world.run_until_quiet();
        // So slow that a page of the feed is read before what it names is gone, and sent after.
        world.settings.write = (600, 600);
        world.settings.read = (60, 60);
        world.compact(server, of, document(1));
        world.advance(Duration::from_millis(after));
        let is_before = compacted(&world, server) == 0;
        world.connect(newcomer, server);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], newcomer], of);
        met += u64::from(is_before && compacted(&world, server) == 1);
    }
    assert!(met > 0, "the newcomer comes in between");
}

#[test]
fn what_a_peer_has_not_acknowledged_is_kept_singly() {
    let (mut world, server, devices, of) = linked_team(81, 2);
    type_into(&mut world, devices[0], of, 1, 10);
    while_apart(&mut world, devices[1], server, |world| {
        type_into(world, devices[0], of, 1, 10);
        compact(world, server, of, 1);
        let peer = world.peer(devices[1]);
        assert_eq!(holds(world, server), [CompactHold::Behind { peer }]);
        // The other device knows of the server only, which has everything.
        compact(world, devices[0], of, 1);
        assert_eq!(compacted(world, devices[0]), 1);
        // Nobody else holds what was written offline.
        type_into(world, devices[1], of, 1, 2);
        compact(world, devices[1], of, 1);
        let peer = world.peer(server);
        assert_eq!(holds(world, devices[1]), [CompactHold::Behind { peer }]);
    });
    world.check_converged(&[server, devices[0], devices[1]], of);
    let pass = world.last_pass(server, devices[1]).expect("it completes");
    assert_eq!((pass.snapshots_sent, pass.changes_sent), (0, 10));
    compact(&mut world, server, of, 1);
    assert_eq!(compacted(&world, server), 1);
}

#[test]
fn a_device_far_behind_gets_the_snapshot_and_what_follows() {
    let (mut world, server, devices, of) = linked_team(82, 2);
    type_into(&mut world, devices[0], of, 1, 5);
    let mut edits = 0;
    while_apart(&mut world, devices[1], server, |world| {
        edits = BEHIND_ENTRIES_MAX + 2;
        type_into(world, devices[0], of, 1, edits);
        compact(world, server, of, 1);
        assert_eq!(compacted(world, server), 1, "{:?}", holds(world, server));
        type_into(world, devices[0], of, 1, 3);
    });
    world.check_converged(&[server, devices[0], devices[1]], of);
    let pass = world.last_pass(server, devices[1]).expect("it completes");
    assert_eq!((pass.snapshots_sent, pass.changes_sent), (1, 3));
}

#[test]
fn a_wiped_server_gets_the_changes_of_what_only_snapshots_hold() {
    let (mut world, server, devices, of) = linked_team(83, 2);
    type_into(&mut world, devices[0], of, 1, 40);
    type_into(&mut world, devices[0], of, 2, 1);
    for device in &devices {
        compact(&mut world, *device, of, 1);
        assert_eq!(records(&world, *device, of, 1).1, 0);
    }
    world.crash(server, 0);
    world.wipe(server);
    world.restart(server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert_eq!(world.held(server, of).len(), 41);
    assert_eq!(
        records(&world, server, of, 1).1,
        40,
        "one by one, none taken on trust"
    );
}

#[test]
fn a_branch_from_within_a_snapshot_finds_its_place() {
    let (mut world, server, devices, of) = linked_team(84, 3);
    type_into(&mut world, devices[0], of, 1, 10);
    // Devices 1 and 2 know the first ten; what they write depends on the tenth.
    for device in [devices[1], devices[2]] {
        world.part(device, server);
    }
    world.run_until_quiet();
    world.edit(devices[1], of, document(1), 20);
    world.run_until_quiet();
    type_into(&mut world, devices[0], of, 1, BEHIND_ENTRIES_MAX + 10);
    compact(&mut world, server, of, 1);
    assert_eq!(compacted(&world, server), 1, "{:?}", holds(&world, server));
    let loads = world.disk(server).counts.loads;
    world.heal(devices[1], server);
    world.run_until_quiet();
    assert!(
        world.disk(server).counts.loads > loads,
        "only loading shows the tenth"
    );
    world.heal(devices[2], server);
    world.run_until_quiet();
    let all = [server, devices[0], devices[1], devices[2]];
    world.check_converged(&all, of);
    assert_eq!(
        world.heads(server, of, document(1)),
        world.heads_by_automerge(server, of, document(1))
    );
}

#[test]
fn a_document_compacted_on_both_sides_is_compared_and_merged() {
    let (mut world, server, devices, of) = linked_team(85, 2);
    world.share(devices[0], devices[1], &[of]);
    type_into(&mut world, devices[0], of, 1, 30);
    for node in [server, devices[0], devices[1]] {
        compact(&mut world, node, of, 1);
    }
    for device in &devices {
        world.part(*device, server);
    }
    world.run_until_quiet();
    world.edit(devices[0], of, document(1), 20);
    world.edit(devices[1], of, document(1), 20);
    world.run_until_quiet();
    // They never met: set reconciliation, with actors' numbers from the head rows.
    world.connect(devices[0], devices[1]);
    world.run_until_quiet();
    world.check_converged(&devices, of);
    let pass = world
        .last_pass(devices[0], devices[1])
        .expect("it completes");
    assert_eq!((pass.changes_sent, pass.snapshots_sent), (1, 0));
}

#[test]
fn a_rolled_back_server_follows_on_past_what_a_device_compacted() {
    let (mut world, server, devices, of) = linked_team(86, 2);
    type_into(&mut world, devices[0], of, 1, 20);
    let copy = world.copy_durable(server);
    type_into(&mut world, devices[0], of, 1, 20);
    for device in &devices {
        compact(&mut world, *device, of, 1);
    }
    world.crash(server, 0);
    world.restore(server, &copy);
    world.restart(server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert_eq!(world.held(server, of).len(), 40);
}

#[test]
fn a_crash_at_any_step_of_a_compaction_loses_nothing() {
    check_crashes(1, &[0, 1], || {
        let (mut world, server, devices, of) = linked_team(87, 2);
        for _ in 0..6 {
            world.edit(devices[0], of, document(1), 60);
            world.run_until_quiet();
        }
        world.compact(server, of, document(1));
        world.compact(devices[0], of, document(1));
        world.edit(devices[1], of, document(1), 60);
        (world, vec![server, devices[0], devices[1]], of)
    });
}

#[test]
fn a_crash_at_any_step_of_a_first_sync_of_snapshots_loses_nothing() {
    check_crashes(5, &[0, 2], || {
        let (mut world, server, devices, of) = team(88, 2);
        world.connect(devices[0], server);
        for number in 0..6 {
            type_into(&mut world, devices[0], of, number, 4);
            compact(&mut world, server, of, number);
        }
        world.connect(devices[1], server);
        world.edit(devices[0], of, document(3), 60);
        (world, vec![server, devices[0], devices[1]], of)
    });
}

fn snapshot_frame(number: u64, body: &[u8]) -> Vec<Bytes> {
    Frame::Changes(Changes {
        workspace: workspace(1),
        documents: vec![DocumentChanges {
            document: document(number),
            kind: KIND,
            snapshot: Some(Bytes::copy_from_slice(body)),
            purged: None,
            changes: Vec::new(),
        }],
        feed: None,
        number: 1_000,
        early: false,
    })
    .encode()
}

#[test]
fn a_server_takes_no_snapshot_and_a_device_no_broken_one() {
    let (mut world, server, devices, of) = linked_team(89, 2);
    world.liars = true;
    for frame in snapshot_frame(9, b"S") {
        world.inject(devices[0], server, frame);
    }
    world.run_until_quiet();
    let closed = told(&world, devices[0]).any(|event| {
        matches!(event, Event::Unreachable { why, .. } if why.contains("where none is taken"))
    });
    assert!(closed, "the server closes the link");
    world.advance(super::seconds(5));
    world.run_until_quiet();
    for frame in snapshot_frame(9, b"not a snapshot") {
        world.inject(server, devices[0], frame);
    }
    world.run_until_quiet();
    let refused = told(&world, devices[0]).find_map(|event| match event {
        Event::DocumentsRefused {
            here: true,
            documents,
            ..
        } => documents.first().copied(),
        _ => None,
    });
    assert_eq!(refused, Some((document(9), RefusalCode::Damaged)));
    world.edit(devices[1], of, document(3), 60);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
}
