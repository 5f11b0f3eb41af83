//! Purging, and what follows from it for those who were away, lost their past, or know more.

use std::collections::BTreeMap;

use bytes::Bytes;
use reconvene_core::engine::{CompactHold, EditError, Event, PurgeError};
use reconvene_core::ids::{FeedSeq, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits::PURGE_DOCUMENTS_MAX;
use reconvene_core::memory::Faults;
use reconvene_core::records::{FeedHeadRow, FeedRow, Record as _};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Scan, StoreError, StoreRead as _};
use reconvene_core::wire::Role;

use super::failures::check_crashes;
use super::{fill, linked_team, seconds, team, told, while_apart};
use crate::world::{NodeId, World, document, workspace};

const GONE: RefusalCode = RefusalCode::DocumentDeleted;

fn purge(world: &mut World, node: NodeId, of: WorkspaceId, numbers: &[u64]) {
    let documents: Vec<_> = numbers.iter().map(|number| document(*number)).collect();
    world.purge(node, of, &documents);
    world.run_until_quiet();
}

fn is_purged(world: &World, node: NodeId, of: WorkspaceId, number: u64) -> bool {
    let row = world.head_row(node, of, document(number));
    row.is_some_and(|row| row.purged_at.is_some())
}

/// How many feed entries, changes and snapshots a node stores of a document.
fn records(world: &World, node: NodeId, of: WorkspaceId, number: u64) -> [usize; 3] {
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
    let snapshots = rows(KeyRange::snapshots(&of, &document(number)));
    [entries.count(), changes.len(), snapshots.len()]
}

/// How many documents a node says it has.
fn documents(world: &World, node: NodeId, of: WorkspaceId) -> u64 {
    let row = world.disk(node).reader.read(&Key::feed_head(&of));
    let row = row.expect("an open store reads").expect("it has a feed");
    let row = FeedHeadRow::decode(&row).expect("a stored feed head decodes");
    row.documents
}

/// Has hosts remove what is left of a purged document.
fn remove(world: &mut World, nodes: &[NodeId], of: WorkspaceId, number: u64) {
    for node in nodes {
        world.compact(*node, of, document(number));
        world.run_until_quiet();
    }
}

fn holds(world: &World, node: NodeId) -> Vec<CompactHold> {
    let events = told(world, node).filter_map(|event| match event {
        Event::CompactRefused { why, .. } => Some(why.clone()),
        _ => None,
    });
    events.collect()
}

fn purge_errors(world: &World, node: NodeId) -> Vec<PurgeError> {
    let events = told(world, node).filter_map(|event| match event {
        Event::PurgeRefused { error, .. } => Some(error.clone()),
        _ => None,
    });
    events.collect()
}

/// Edits a document at one node, and sees it reach another: nothing is stalled.
fn check_flows(world: &mut World, from: NodeId, to: NodeId, of: WorkspaceId) {
    world.edit(from, of, document(900), 20);
    world.run_until_quiet();
    assert_eq!(world.held(from, of), world.held(to, of));
    world.advance(seconds(25));
    if world.is_linked(from, to) {
        world.check_fresh(from, to, of);
        world.check_fresh(to, from, of);
    }
}

#[test]
fn a_purge_reaches_everyone_and_only_a_tombstone_is_left() {
    let (mut world, server, devices, of) = linked_team(100, 2);
    let all = [server, devices[0], devices[1]];
    fill(&mut world, devices[0], of, 0..5);
    for _ in 0..3 {
        world.edit(devices[1], of, document(1), 60);
        world.run_until_quiet();
    }
    // One of them already in a snapshot.
    world.compact(devices[0], of, document(1));
    world.run_until_quiet();
    purge(&mut world, server, of, &[1, 2, 77]);
    for node in all {
        assert!(is_purged(&world, node, of, 1) && is_purged(&world, node, of, 2));
        assert_eq!(documents(&world, node, of), 3, "node {node}");
        let gone = told(&world, node).filter(|event| matches!(event, Event::DocumentPurged { .. }));
        assert_eq!(gone.count(), 2, "node {node} is told of each, once");
        let due = told(&world, node).filter(|event| matches!(event, Event::CompactionDue { .. }));
        assert_eq!(due.count(), 2, "and that something is left of each");
    }
    let done =
        told(&world, server).any(|event| matches!(event, Event::Purged { documents: 2, .. }));
    assert!(done, "what is not there is not purged");
    world.check_converged(&all, of);
    remove(&mut world, &all, of, 1);
    remove(&mut world, &all, of, 2);
    for node in all {
        assert_eq!(records(&world, node, of, 1), [1, 0, 0], "node {node}");
        assert_eq!(records(&world, node, of, 2), [1, 0, 0], "node {node}");
    }
    world.check_converged(&all, of);
    // Again is not a change, and an edit of it is refused.
    let head = world
        .engine(server)
        .expect("it is up")
        .workspace_status(&of);
    purge(&mut world, server, of, &[1]);
    let after = world
        .engine(server)
        .expect("it is up")
        .workspace_status(&of);
    assert_eq!(head.map(|of| of.head), after.map(|of| of.head));
    world.edit(devices[0], of, document(1), 60);
    world.run_until_quiet();
    let stale = EditError::Stale { code: GONE };
    assert!(
        told(&world, devices[0])
            .any(|event| matches!(event, Event::EditRefused { error, .. } if *error == stale))
    );
    check_flows(&mut world, devices[0], devices[1], of);
    world.check_converged(&all, of);
}

#[test]
fn a_newcomer_gets_the_tombstone_and_one_of_the_removed_gets_nothing_else() {
    for removes in [false, true] {
        let (mut world, server, devices, of) = linked_team(101, 1);
        fill(&mut world, devices[0], of, 0..4);
        purge(&mut world, server, of, &[1]);
        if removes {
            remove(&mut world, &[server], of, 1);
        }
        let newcomer = world.add(Role::Device);
        world.share(server, newcomer, &[of]);
        world.run_until_quiet();
        world.connect(newcomer, server);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], newcomer], of);
        assert!(is_purged(&world, newcomer, of, 1));
        assert_eq!(documents(&world, newcomer, of), 3);
        let pass = world.last_pass(server, newcomer).expect("it completes");
        assert_eq!(pass.changes_sent, if removes { 3 } else { 4 });
        // Even where the changes came ahead of it, in the same frame.
        assert_eq!(records(&world, newcomer, of, 1), [1, 0, 0]);
    }
}

#[test]
fn a_late_change_stays_with_its_author_and_stalls_nothing() {
    let (mut world, server, devices, of) = linked_team(102, 2);
    fill(&mut world, devices[0], of, 0..4);
    while_apart(&mut world, devices[1], server, |world| {
        world.edit(devices[1], of, document(1), 60);
        world.edit(devices[1], of, document(3), 60);
        world.run_until_quiet();
        purge(world, server, of, &[1, 2]);
    });
    let all = [server, devices[0], devices[1]];
    assert!(is_purged(&world, devices[0], of, 1) && is_purged(&world, devices[1], of, 2));
    assert!(!is_purged(&world, devices[1], of, 1), "it stays there");
    assert_eq!(
        world.refusal(server, devices[1], of, document(1)),
        Some(GONE)
    );
    assert_eq!(
        world.refusal(devices[1], server, of, document(1)),
        Some(GONE)
    );
    let row = world
        .head_row(devices[1], of, document(1))
        .expect("it is there");
    assert_eq!(row.change_count, 2);
    let pass = world.last_pass(devices[1], server);
    assert!(pass.is_some(), "the pass completes");
    check_flows(&mut world, devices[1], devices[0], of);
    world.check_converged(&all, of);
    // It may be written on there, which nobody else is told of, and reconnecting asks for nothing.
    world.edit(devices[1], of, document(1), 60);
    world.run_until_quiet();
    while_apart(&mut world, devices[1], server, |_| {});
    let pass = world.last_pass(devices[1], server).expect("it completes");
    assert_eq!((pass.changes_sent, pass.round_trips), (0, 1), "{pass:?}");
    world.check_converged(&all, of);
    // When its host gives the late changes up, nothing is refused any more, on either side.
    purge(&mut world, devices[1], of, &[1]);
    assert!(is_purged(&world, devices[1], of, 1));
    assert_eq!(world.refusal(server, devices[1], of, document(1)), None);
    assert_eq!(world.refusal(devices[1], server, of, document(1)), None);
    world.check_converged(&all, of);
}

#[test]
fn late_changes_do_not_keep_a_comparison_from_ending() {
    let (mut world, server, devices, of) = linked_team(103, 2);
    fill(&mut world, devices[0], of, 0..6);
    let copy = world.copy_durable(server);
    fill(&mut world, devices[0], of, 6..9);
    world.part(devices[1], server);
    world.run_until_quiet();
    world.edit(devices[1], of, document(1), 60);
    world.run_until_quiet();
    // The server loses its past, and then purges: its history is another one for everybody.
    world.crash(server, 0);
    world.restore(server, &copy);
    world.restart(server);
    world.run_until_quiet();
    purge(&mut world, server, of, &[1]);
    world.heal(devices[1], server);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    assert_eq!(
        world.refusal(devices[1], server, of, document(1)),
        Some(GONE)
    );
    let all = [server, devices[0], devices[1]];
    world.check_converged(&all, of);
    let steps = world.steps();
    world.advance(seconds(60));
    let idle = world.steps() - steps;
    assert!(
        idle < 200,
        "{idle} things happen in a minute of nothing new"
    );
    check_flows(&mut world, devices[1], devices[0], of);
    world.check_converged(&all, of);
}

#[test]
fn a_wiped_server_is_told_by_its_devices_and_nothing_comes_back() {
    for removes in [false, true] {
        let (mut world, server, devices, of) = linked_team(104, 3);
        fill(&mut world, devices[0], of, 0..6);
        let late = devices[2];
        world.part(late, server);
        world.run_until_quiet();
        world.edit(late, of, document(1), 60);
        world.edit(late, of, document(5), 60);
        world.run_until_quiet();
        purge(&mut world, server, of, &[1, 2]);
        if removes {
            for number in [1, 2] {
                remove(&mut world, &devices[..2], of, number);
            }
        }
        world.crash(server, 0);
        world.wipe(server);
        world.restart(server);
        world.run_until_quiet();
        assert_eq!(world.held(server, of), world.held(devices[0], of));
        for number in [1, 2] {
            assert!(is_purged(&world, server, of, number));
            assert_eq!(records(&world, server, of, number), [1, 0, 0]);
        }
        assert_eq!(documents(&world, server, of), 4);
        world.heal(late, server);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        let all = [server, devices[0], devices[1], late];
        world.check_converged(&all, of);
        assert!(is_purged(&world, late, of, 2));
        assert_eq!(world.refusal(server, late, of, document(1)), Some(GONE));
        check_flows(&mut world, late, devices[0], of);
    }
}

#[test]
fn a_device_cannot_purge_what_others_hold() {
    let (mut world, server, devices, of) = linked_team(105, 2);
    fill(&mut world, devices[0], of, 0..3);
    world.share(devices[0], devices[1], &[of]);
    world.run_until_quiet();
    world.connect(devices[0], devices[1]);
    world.run_until_quiet();
    purge(&mut world, devices[0], of, &[1]);
    let denied = Some(RefusalCode::NotPermitted);
    for other in [server, devices[1]] {
        assert!(!is_purged(&world, other, of, 1));
        assert_eq!(world.refusal(other, devices[0], of, document(1)), denied);
    }
    check_flows(&mut world, devices[0], server, of);
    // What others write there is not taken back, and is told.
    world.edit(devices[1], of, document(1), 60);
    world.run_until_quiet();
    assert!(is_purged(&world, devices[0], of, 1));
    assert_eq!(
        world.refusal(devices[0], server, of, document(1)),
        Some(GONE)
    );
    // The server may, and then nothing is refused any more.
    purge(&mut world, server, of, &[1]);
    let all = [server, devices[0], devices[1]];
    world.check_converged(&all, of);
    for (one, other) in [
        (server, devices[0]),
        (devices[1], devices[0]),
        (devices[0], server),
    ] {
        assert_eq!(world.refusal(one, other, of, document(1)), None);
    }
}

#[test]
fn what_is_purged_is_removed_once_nobody_walks_over_it_any_more() {
    let (mut world, server, devices, of) = linked_team(106, 2);
    fill(&mut world, devices[0], of, 0..3);
    while_apart(&mut world, devices[1], server, |world| {
        world.edit(devices[0], of, document(1), 60);
        world.run_until_quiet();
        purge(world, server, of, &[1]);
        remove(world, &[server], of, 1);
        let peer = world.peer(devices[1]);
        assert_eq!(holds(world, server), [CompactHold::Behind { peer }]);
        assert_eq!(records(world, server, of, 1), [3, 2, 0]);
        remove(world, &[devices[0]], of, 1);
        assert_eq!(records(world, devices[0], of, 1), [1, 0, 0]);
    });
    assert!(is_purged(&world, devices[1], of, 1));
    remove(&mut world, &[server, devices[1]], of, 1);
    for node in [server, devices[0], devices[1]] {
        assert_eq!(records(&world, node, of, 1), [1, 0, 0]);
    }
    world.check_converged(&[server, devices[0], devices[1]], of);
    // A compaction that was begun before the purge is refused when it is asked for.
    world.edit_many(devices[0], of, &[(document(2), 5)], 60);
    world.run_until_quiet();
    world.compact(server, of, document(2));
    world.purge(server, of, &[document(2)]);
    world.run_until_quiet();
    assert_eq!(holds(&world, server).last(), Some(&CompactHold::Changed));
    remove(&mut world, &[server], of, 2);
    assert_eq!(
        records(&world, server, of, 2),
        [1, 0, 0],
        "its snapshot, too"
    );
}

#[test]
fn a_rolled_back_server_takes_back_nothing_from_its_devices_and_purges_again() {
    for removes in [false, true] {
        let (mut world, server, devices, of) = linked_team(107, 2);
        let all = [server, devices[0], devices[1]];
        fill(&mut world, devices[0], of, 0..4);
        let copy = world.copy_durable(server);
        purge(&mut world, server, of, &[1]);
        if removes {
            remove(&mut world, &all, of, 1);
        }
        fill(&mut world, devices[1], of, 4..6);
        world.crash(server, 0);
        world.restore(server, &copy);
        world.restart(server);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        let denied = Some(RefusalCode::NotPermitted);
        for device in &devices {
            assert!(is_purged(&world, *device, of, 1));
            assert_eq!(world.refusal(server, *device, of, document(1)), denied);
        }
        check_flows(&mut world, devices[0], server, of);
        // The meeting says that it was deleted: the server's host decides as it did before.
        purge(&mut world, server, of, &[1]);
        world.check_converged(&all, of);
        for device in &devices {
            assert_eq!(world.refusal(server, *device, of, document(1)), None);
        }
    }
}

#[test]
fn a_crash_at_any_step_of_a_purge_loses_nothing_else_and_brings_nothing_back() {
    check_crashes(1, &[0, 1, 2], || {
        let (mut world, server, devices, of) = linked_team(108, 2);
        fill(&mut world, devices[0], of, 0..3);
        world.purge(server, of, &[document(1)]);
        world.edit(devices[0], of, document(2), 60);
        world.edit(devices[1], of, document(1), 60);
        (world, vec![server, devices[0], devices[1]], of)
    });
}

#[test]
fn a_crash_at_any_step_of_a_removal_loses_nothing_else_and_brings_nothing_back() {
    check_crashes(1, &[0, 1], || {
        let (mut world, server, devices, of) = linked_team(109, 2);
        fill(&mut world, devices[0], of, 0..3);
        purge(&mut world, server, of, &[1]);
        world.compact(server, of, document(1));
        world.compact(devices[0], of, document(1));
        world.edit(devices[1], of, document(2), 60);
        (world, vec![server, devices[0], devices[1]], of)
    });
}

#[test]
fn what_the_journal_brings_back_is_purged_or_kept_by_whether_it_was_known() {
    for is_late in [false, true] {
        let (mut world, server, devices, of) = linked_team(110, 2);
        let device = devices[0];
        fill(&mut world, device, of, 0..3);
        world.part(device, server);
        world.run_until_quiet();
        world.edit(device, of, document(1), 60);
        world.run_until_quiet();
        if !is_late {
            // It reaches the server, and the device dies before it hears of that.
            world.heal(device, server);
            world.run_until(|world| world.held(server, of).len() == 4);
        }
        world.crash(device, 0);
        world.wipe(device);
        world.part(device, server);
        purge(&mut world, server, of, &[1]);
        world.restart(device);
        world.run_until_quiet();
        let row = world.head_row(device, of, document(1));
        assert_eq!(
            row.map(|row| row.change_count),
            Some(1),
            "the journal had it"
        );
        world.heal(device, server);
        world.run_until_quiet();
        assert_eq!(is_purged(&world, device, of, 1), !is_late);
        let code = world.refusal(device, server, of, document(1));
        assert_eq!(code, is_late.then_some(GONE));
        world.check_converged(&[server, device, devices[1]], of);
        check_flows(&mut world, device, server, of);
    }
}

#[test]
fn a_tombstone_waits_for_what_the_store_owes_to_the_journal() {
    let (mut world, server, devices, of) = linked_team(111, 2);
    let device = devices[0];
    fill(&mut world, device, of, 0..3);
    world.part(device, server);
    world.run_until_quiet();
    purge(&mut world, server, of, &[1]);
    // Safe in the journal, lost by the store with the power, and refused by it then; it is asked again
    // seconds later.
    let safe = world.acknowledged().len();
    world.edit(device, of, document(1), 60);
    world.run_until(|world| world.acknowledged().len() > safe);
    world.crash(device, 0);
    world.restart(device);
    world.set_low_space(device, true);
    world.run_until(|world| {
        told(world, device).any(|event| matches!(event, Event::StoreFailed { .. }))
    });
    world.set_low_space(device, false);
    world.run_until_quiet();
    world.purge(device, of, &[document(1)]);
    world.run_until_quiet();
    let document_id = document(1);
    let owed = PurgeError::Owed {
        document: document_id,
    };
    assert_eq!(purge_errors(&world, device), [owed]);
    world.heal(device, server);
    world.run_until(|world| world.refusal(device, server, of, document(1)).is_some());
    assert_eq!(world.refusal(device, server, of, document(1)), Some(GONE));
    world.advance(seconds(70));
    world.run_until_quiet();
    let row = world
        .head_row(device, of, document(1))
        .expect("it is there");
    assert_eq!((row.purged_at, row.change_count), (None, 2));
    assert_eq!(world.refusal(device, server, of, document(1)), Some(GONE));
    world.check_converged(&[server, device, devices[1]], of);
}

#[test]
fn a_journal_of_changes_that_were_purged_unknown_is_kept_and_told_each_time() {
    let (mut world, server, devices, of) = linked_team(112, 2);
    let device = devices[0];
    fill(&mut world, device, of, 0..3);
    world.part(device, server);
    world.run_until_quiet();
    world.edit(device, of, document(1), 60);
    world.run_until_quiet();
    purge(&mut world, server, of, &[1]);
    // Someone puts another device's store in the place of this one's, beside its journal.
    let copy = world.copy_durable(devices[1]);
    world.crash(device, 0);
    world.restore(device, &copy);
    world.heal(device, server);
    for opened in 1..3 {
        world.restart(device);
        world.run_until_quiet();
        let documents = vec![document(1)];
        let event = Event::JournalRefused {
            workspace: of,
            documents,
        };
        let count = told(&world, device).filter(|told| **told == event).count();
        assert_eq!(count, opened, "once each time");
        check_flows(&mut world, device, server, of);
        let kept = world.disk(device).store.journal_entries();
        let mut facts = kept.iter().flat_map(crate::disk::journal_facts);
        assert!(facts.any(|fact| fact.1 == document(1)), "it is kept");
        world.check_converged(&[server, device, devices[1]], of);
        world.crash(device, 0);
    }
}

#[test]
fn a_purge_says_why_not() {
    let (mut world, server, devices, of) = linked_team(113, 1);
    fill(&mut world, devices[0], of, 0..3);
    let max = PURGE_DOCUMENTS_MAX;
    let many: Vec<_> = (0..=max as u64).collect();
    purge(&mut world, server, of, &many);
    let documents = max + 1;
    assert_eq!(
        purge_errors(&world, server),
        [PurgeError::TooMany { documents, max }]
    );
    let faults = Faults {
        apply: BTreeMap::from([(0, StoreError::NoSpace)]),
        ..Faults::default()
    };
    world.set_faults(server, faults);
    purge(&mut world, server, of, &[1]);
    let error = PurgeError::Store(StoreError::NoSpace);
    assert_eq!(purge_errors(&world, server).last(), Some(&error));
    assert!(!is_purged(&world, server, of, 1));
    world.run_until_quiet();
    purge(&mut world, server, of, &[1]);
    assert!(is_purged(&world, devices[0], of, 1));
    world.check_converged(&[server, devices[0]], of);
}

#[test]
fn many_tombstones_of_many_actors_go_in_frames_that_fit() {
    let (mut world, server, devices, of) = team(114, 3);
    for device in &devices[..2] {
        world.connect(*device, server);
    }
    world.run_until_quiet();
    // Every open of a document writes under an actor of its own.
    for _ in 0..30 {
        let all: Vec<_> = (0..60).map(|number| (document(number), 1)).collect();
        world.edit_many(devices[0], of, &all, 8);
        world.run_until_quiet();
        world.crash(devices[0], 0);
        world.restart(devices[0]);
        world.run_until_quiet();
    }
    let all: Vec<_> = (0..60).collect();
    purge(&mut world, server, of, &all);
    for number in &all {
        remove(&mut world, &[server], of, *number);
    }
    world.recorded = Some(Vec::new());
    world.connect(devices[2], server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1], devices[2]], of);
    let frames: Vec<Bytes> = world.recorded.take().unwrap_or_default();
    let bytes: usize = frames.iter().map(Bytes::len).sum();
    assert!(
        bytes < 200_000,
        "{bytes} bytes for 60 tombstones of 30 actors"
    );
    assert_eq!(documents(&world, devices[2], workspace(1)), 0);
}
