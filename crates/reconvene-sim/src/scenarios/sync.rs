//! Syncing: the first time, with nothing changed, with a little changed, live, and with much.

use std::collections::BTreeSet;

use reconvene_core::engine::Event;
use reconvene_core::limits::{CHANGE_BYTES_MAX, FRAME_BODY_BYTES_TARGET, WINDOW_BYTES};
use reconvene_core::records::{PeerRow, Record as _};
use reconvene_core::storage::StoreRead as _;

use super::{fill, linked_team, team, told, while_apart};
use crate::world::{NodeId, Settings, Traffic, World, document};

fn both_ways(world: &World, one: NodeId, other: NodeId) -> (u64, u64) {
    let (Traffic { frames, bytes, .. }, back) =
        (world.traffic(one, other), world.traffic(other, one));
    (frames + back.frames, bytes + back.bytes)
}

#[test]
fn first_sync_of_300_documents_reaches_an_empty_server_and_then_a_second_device() {
    let (mut world, server, devices, of) = team(1, 2);
    fill(&mut world, devices[0], of, 0..300);
    world.connect(devices[0], server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    assert_eq!(world.held(server, of).len(), 300);
    world.connect(devices[1], server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    let pass = world
        .last_pass(devices[1], server)
        .expect("the pass completes");
    assert_eq!((pass.changes_received, pass.changes_sent), (300, 0));
}

fn check_reconnect_with_nothing_changed(documents: u64) {
    let (mut world, server, devices, of) = linked_team(documents, 2);
    fill(&mut world, devices[0], of, 0..documents);
    fill(&mut world, devices[1], of, documents..documents + 3);
    let before = [world.disk_counts(server), world.disk_counts(devices[0])];
    while_apart(&mut world, devices[0], server, |_| {});
    let (frames, bytes) = both_ways(&world, devices[0], server);
    assert_eq!(
        frames, 4,
        "one hello each, what the other device holds, and that the server's hello was read"
    );
    assert!(bytes < 1_024, "{bytes} bytes");
    let after = [world.disk_counts(server), world.disk_counts(devices[0])];
    for (before, after) in before.iter().zip(after) {
        assert_eq!(before.bodies, after.bodies, "no body is read");
        assert!(
            after.reads - before.reads <= 3,
            "{after:?} after {before:?}"
        );
    }
    let pass = world
        .last_pass(devices[0], server)
        .expect("the pass completes");
    assert_eq!((pass.round_trips, pass.documents_compared), (1, 0));
    world.check_fresh(devices[0], server, of);
    world.check_fresh(server, devices[0], of);
}

#[test]
fn a_reconnect_with_nothing_changed_is_one_round_trip_with_5_documents() {
    check_reconnect_with_nothing_changed(5);
}

#[test]
fn a_reconnect_with_nothing_changed_is_one_round_trip_with_2000_documents() {
    check_reconnect_with_nothing_changed(2_000);
}

#[test]
fn with_10_of_2000_changed_only_those_10_are_sent() {
    let (mut world, server, devices, of) = linked_team(3, 2);
    fill(&mut world, devices[0], of, 0..2_000);
    while_apart(&mut world, devices[0], server, |world| {
        for number in 0..10 {
            world.edit(devices[1], of, document(number * 191), 60);
        }
    });
    let pass = world
        .last_pass(devices[0], server)
        .expect("the pass completes");
    assert_eq!((pass.documents_received, pass.changes_received), (10, 10));
    assert_eq!((pass.documents_sent, pass.documents_compared), (0, 0));
    let (_, bytes) = both_ways(&world, devices[0], server);
    assert!(bytes < 8 * 1024, "{bytes} bytes");
    world.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn concurrent_edits_while_apart_converge() {
    let (mut world, server, devices, of) = linked_team(4, 2);
    fill(&mut world, devices[0], of, 0..5);
    while_apart(&mut world, devices[0], server, |world| {
        for number in 0..5 {
            world.edit(devices[0], of, document(number), 60);
            world.edit(devices[0], of, document(number), 60);
            world.edit(devices[1], of, document(number), 60);
        }
    });
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert_eq!(world.held(server, of).len(), 20);
    // Two heads stay two heads until someone edits on top of both.
    world.edit(devices[1], of, document(0), 60);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn a_live_edit_is_pushed_to_the_server_and_on_to_the_other_device() {
    let (mut world, server, devices, of) = linked_team(5, 2);
    world.edit(devices[0], of, document(7), 60);
    let start = world.now();
    world.run_until(|world| {
        told(world, devices[1]).any(|event| matches!(event, Event::DocumentChanged { .. }))
    });
    // Two hops of 5 ms, and on each of three disks a few steps of a millisecond.
    assert!(world.now() - start <= 30, "{} ms", world.now() - start);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn own_changes_are_not_echoed_and_the_cursor_moves_with_the_acknowledgement() {
    let (mut world, server, devices, of) = linked_team(6, 1);
    fill(&mut world, devices[0], of, 0..40);
    let pass_received = told(&world, devices[0])
        .filter(|event| matches!(event, Event::DocumentChanged { .. }))
        .count();
    assert_eq!(pass_received, 0);
    let sent = world.traffic(server, devices[0]);
    assert!(sent.bytes < 40 * 200, "only acknowledgements: {sent:?}");
    // The device's stored cursor is at the end of the server's feed, without a body having come.
    let key = reconvene_core::keys::Key::peer(&of, &world.peer(server));
    let row = world.disk(devices[0]).reader.read(&key).expect("it reads");
    let row = PeerRow::decode(&row.expect("there is a row")).expect("it decodes");
    assert_eq!(row.held.map(|point| point.seq.0), Some(40));
}

#[test]
fn own_changes_are_not_echoed_while_the_feed_is_still_being_read() {
    let (mut world, server, devices, of) = team(16, 2);
    for number in 0..200 {
        world.edit(devices[1], of, document(number), 8_000);
    }
    world.connect(devices[1], server);
    world.run_until_quiet();
    world.settings.latency = (30, 30);
    world.connect(devices[0], server);
    world.run_until(|world| world.held(devices[0], of).len() > 10);
    for number in 500..540 {
        world.edit(devices[0], of, document(number), 60);
    }
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    let peer = world.peer(devices[0]);
    let engine = world.engine(server).expect("the server runs");
    let (_, _, stats) = engine
        .links()
        .find(|(_, of, _)| *of == peer)
        .expect("they are linked");
    assert_eq!(stats.changes_sent, 200);
}

#[test]
fn a_cursor_that_is_not_stored_yet_is_not_greeted_with() {
    for seed in 1_700..1_716 {
        let (mut world, server, devices, of) = linked_team(seed, 2);
        world.settings.write = (300, 300);
        world.edit(devices[1], of, document(1), 60);
        world.edit(devices[1], of, document(2), 60);
        world.run_until(|world| world.held(server, of).len() == 2);
        // The server's barrier has passed, the device's has not; it comes back at once or later.
        world.advance(std::time::Duration::from_millis(350));
        world.cut_between(devices[0], server);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], devices[1]], of);
    }
}

#[test]
fn a_large_change_goes_in_parts_live_and_from_the_store() {
    let (mut world, server, devices, of) = linked_team(7, 2);
    let large = CHANGE_BYTES_MAX - 200;
    world.edit(devices[0], of, document(1), large);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    while_apart(&mut world, devices[1], server, |world| {
        world.edit(devices[0], of, document(1), large);
        world.edit(devices[0], of, document(2), large);
    });
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert_eq!(world.held(devices[1], of).len(), 3);
}

#[test]
fn a_change_that_is_too_large_is_refused_before_it_is_stored() {
    let (mut world, _, devices, of) = team(8, 1);
    let request = world.edit(devices[0], of, document(1), CHANGE_BYTES_MAX + 1);
    world.run_until_quiet();
    let refused = told(&world, devices[0])
        .any(|event| matches!(event, Event::EditRefused { request: of, .. } if *of == request));
    assert!(refused);
    assert!(world.held(devices[0], of).is_empty());
}

#[test]
fn the_window_bounds_what_is_sent_and_not_acknowledged() {
    let (mut world, server, devices, of) = team(9, 1);
    for number in 0..400 {
        world.edit(devices[0], of, document(number), 8_000);
    }
    world.run_until_quiet();
    // A server so slow that everything that may be sent is sent before it answers.
    world.settings = Settings {
        latency: (1, 1),
        write: (200, 200),
        ..Settings::default()
    };
    world.connect(devices[0], server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    let most = world.traffic(devices[0], server).unacknowledged_max;
    assert!(most <= WINDOW_BYTES + FRAME_BODY_BYTES_TARGET, "{most}");
    assert!(most >= WINDOW_BYTES / 2, "the window is used: {most}");
}

#[test]
fn live_edits_over_a_slow_link_stay_within_twice_the_window() {
    let (mut world, server, devices, of) = linked_team(10, 1);
    world.settings = Settings {
        write: (0, 5),
        latency: (400, 400),
        ..Settings::default()
    };
    for round in 0..300 {
        world.edit(devices[0], of, document(round % 7), 9_000);
        world.advance(std::time::Duration::from_millis(5));
    }
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    let most = world.traffic(devices[0], server).unacknowledged_max;
    let bound = 2 * WINDOW_BYTES + FRAME_BODY_BYTES_TARGET;
    assert!(most <= bound, "{most} of {bound}");
    assert!(most > WINDOW_BYTES, "live edits may go past it: {most}");
    let link_lost = told(&world, server).any(|event| matches!(event, Event::Unreachable { .. }));
    assert!(!link_lost, "nobody calls it a fault");
}

#[test]
fn early_copies_count_against_what_a_slow_peer_takes() {
    let (mut world, server, devices, of) = team(11, 1);
    for number in 0..200 {
        world.edit(devices[0], of, document(number), 8_000);
    }
    world.run_until_quiet();
    world.connect(devices[0], server);
    world.run_until(|world| world.is_linked(devices[0], server));
    // While the bulk is under way, each edit goes ahead of it, to a server that stores slowly.
    world.settings.write = (3, 600);
    for number in 0..400 {
        world.edit(devices[0], of, document(1_000 + number), 8_000);
        world.advance(std::time::Duration::from_millis(2));
    }
    world.settings = Settings::default();
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    let faulted = told(&world, server).any(|event| matches!(event, Event::Unreachable { .. }));
    assert!(!faulted, "the link is never closed as a fault");
}

#[test]
fn an_edit_of_several_documents_is_stored_whole_or_not_at_all() {
    for cut in 0..40 {
        let (mut world, server, devices, of) = linked_team(12, 1);
        let documents = [(document(1), 2), (document(2), 1), (document(3), 3)];
        world.edit_many(devices[0], of, &documents, 40);
        for _ in 0..cut {
            world.step();
        }
        world.crash(devices[0], 0);
        world.restart(devices[0]);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0]], of);
        let held = world.held(devices[0], of).len();
        assert!(held == 0 || held == 6, "{held} of 6 after {cut} steps");
    }
}

#[test]
fn an_edit_that_names_a_document_twice_is_refused() {
    let (mut world, _, devices, of) = team(13, 1);
    world.edit_many(devices[0], of, &[(document(1), 1), (document(1), 1)], 40);
    world.run_until_quiet();
    let refused = told(&world, devices[0]).any(|event| matches!(event, Event::EditRefused { .. }));
    assert!(refused);
    assert!(world.held(devices[0], of).is_empty());
}

#[test]
fn stored_heads_are_what_automerge_says_they_are() {
    let (mut world, server, devices, of) = linked_team(14, 2);
    fill(&mut world, devices[0], of, 0..1);
    while_apart(&mut world, devices[0], server, |world| {
        world.edit(devices[0], of, document(0), 40);
        world.edit(devices[1], of, document(0), 40);
    });
    let heads: BTreeSet<_> = world.heads(server, of, document(0));
    assert_eq!(heads.len(), 2);
    assert_eq!(heads, world.heads_by_automerge(server, of, document(0)));
}

#[test]
fn a_server_of_many_workspaces_syncs_each_with_who_shares_it() {
    use crate::world::workspace;
    let (mut world, server, devices, _) = team(15, 2);
    let many: Vec<_> = (10..40).map(workspace).collect();
    world.share(server, devices[0], &many);
    world.share(server, devices[1], &many[..3]);
    world.run_until_quiet();
    for of in &many {
        world.edit(devices[0], *of, document(1), 60);
    }
    world.run_until_quiet();
    // Hellos of more than eight workspaces go in several frames.
    world.connect(devices[0], server);
    world.connect(devices[1], server);
    world.run_until_quiet();
    for of in &many {
        world.check_converged(&[server, devices[0]], *of);
        assert_eq!(world.held(server, *of).len(), 1);
    }
    for of in &many[..3] {
        world.check_converged(&[server, devices[1]], *of);
    }
    assert!(world.held(devices[1], many[3]).is_empty());
    while_apart(&mut world, devices[0], server, |_| {});
    let (frames, _) = both_ways(&world, devices[0], server);
    // Four of them are shared with the member's other device, of which the server tells.
    assert_eq!(frames, 8 + 4 + 1, "31 workspaces greet in four hellos each");
}

#[test]
fn an_edit_larger_than_the_window_is_sent_as_the_window_allows() {
    let (mut world, server, devices, of) = linked_team(23, 2);
    let links = world.wires_laid();
    let documents: Vec<_> = (0..100).map(|number| (document(number), 1)).collect();
    world.edit_many(devices[0], of, &documents, 50_000);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert_eq!(world.wires_laid(), links, "no link was given up");
}
