//! Histories that cannot be followed: devices that never met, stores that lost their past.

use std::time::Duration;

use reconvene_core::engine::{Event, Input};
use reconvene_core::storage::JournalEntry;

use super::{fill, linked_team, seconds, team, told, while_apart};
use crate::world::{NodeId, World, document};

fn rolled_back(world: &World, node: NodeId) -> bool {
    told(world, node).any(|event| matches!(event, Event::RolledBack { .. }))
}

#[test]
fn devices_that_met_through_the_server_link_directly_and_exchange_only_what_differs() {
    let (mut world, server, devices, of) = linked_team(20, 2);
    fill(&mut world, devices[0], of, 0..300);
    world.share(devices[0], devices[1], &[of]);
    world.run_until_quiet();
    world.part(devices[0], server);
    world.part(devices[1], server);
    world.run_until_quiet();
    for number in 0..4 {
        world.edit(devices[0], of, document(number), 60);
        world.edit(devices[1], of, document(number + 2), 60);
    }
    world.run_until_quiet();
    world.connect(devices[0], devices[1]);
    world.run_until_quiet();
    world.check_converged(&devices, of);
    let pass = world
        .last_pass(devices[0], devices[1])
        .expect("the pass completes");
    assert_eq!((pass.changes_sent, pass.changes_received), (4, 4));
    assert_eq!(pass.documents_compared, 6, "in one run: {pass:?}");
    // From here on the two follow each other.
    world.edit(devices[0], of, document(77), 60);
    world.run_until_quiet();
    world.check_converged(&devices, of);
    world.heal(devices[0], server);
    world.run_until_quiet();
    world.check_converged(&[devices[0], devices[1], server], of);
}

#[test]
fn an_edit_that_is_only_journalled_when_a_run_begins_is_not_left_out() {
    for wait in (100..1_000).step_by(50) {
        let (mut world, server, devices, of) = linked_team(31, 2);
        fill(&mut world, devices[0], of, 0..6);
        world.share(devices[0], devices[1], &[of]);
        world.run_until_quiet();
        world.part(devices[0], server);
        world.part(devices[1], server);
        world.run_until_quiet();
        // Journalled after 300 ms, readable after 600, behind its barrier after 900.
        world.settings.write = (300, 300);
        world.edit(devices[1], of, document(3), 60);
        world.advance(Duration::from_millis(wait));
        world.connect(devices[0], devices[1]);
        world.run_until_quiet();
        world.check_converged(&devices, of);
    }
}

#[test]
fn the_journal_keeps_an_edit_until_someone_else_holds_it() {
    for wait in (0..500).step_by(25) {
        let (mut world, server, devices, of) = linked_team(32, 2);
        world.settings.latency = (100, 100);
        for number in 0..30 {
            world.edit(devices[0], of, document(number), 60);
            world.advance(Duration::from_millis(10));
        }
        world.advance(Duration::from_millis(wait));
        world.crash(devices[0], 0);
        world.wipe(devices[0]);
        world.restart(devices[0]);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], devices[1]], of);
        assert_eq!(world.held(server, of).len(), 30, "after {wait} ms");
    }
}

#[test]
fn the_journal_lets_go_of_what_the_server_holds() {
    let (mut world, _, devices, of) = linked_team(33, 1);
    fill(&mut world, devices[0], of, 0..30);
    world.edit(devices[0], of, document(1), 60);
    world.run_until_quiet();
    let kept = world.disk(devices[0]).store.journal_entries().len();
    assert!(kept <= 2, "{kept} entries are kept");
}

#[test]
fn the_journal_keeps_what_was_refused_by_whoever_holds_the_rest() {
    let (mut world, server, devices, of) = linked_team(35, 2);
    let device = devices[0];
    fill(&mut world, device, of, 0..4);
    // A change of a document that is purged meanwhile is refused, and nobody else has it.
    while_apart(&mut world, device, server, |world| {
        world.edit(device, of, document(1), 60);
        world.run_until_quiet();
        world.purge(server, of, &[document(1)]);
        world.run_until_quiet();
    });
    let late = world.heads(device, of, document(1));
    fill(&mut world, device, of, 10..40);
    // It is still so after a restart, before and after it is told again.
    for wait in 0..20 {
        world.crash(device, 0);
        world.restart(device);
        world.run_until(|world| world.is_greeted(device, server));
        for _ in 0..wait {
            world.step();
        }
        world.edit(device, of, document(50), 60);
    }
    world.run_until_quiet();
    let entries = world.disk(device).store.journal_entries();
    let is_refused = |entry: &&JournalEntry| entry.documents().contains(&document(1));
    assert_eq!(entries.iter().filter(is_refused).count(), 1);
    assert!(entries.len() <= 3, "{} entries are kept", entries.len());
    world.crash(device, 0);
    world.wipe(device);
    world.restart(device);
    world.run_until_quiet();
    let facts: Vec<_> = late.iter().map(|hash| (of, document(1), *hash)).collect();
    for fact in facts {
        assert!(world.disk(device).durable.contains(&fact), "{fact:?}");
    }
}

#[test]
fn two_devices_that_dial_each_other_end_up_with_a_link() {
    let (mut world, _, devices, of) = team(21, 2);
    world.share(devices[0], devices[1], &[of]);
    world.run_until_quiet();
    fill(&mut world, devices[0], of, 0..3);
    fill(&mut world, devices[1], of, 3..6);
    world.connect(devices[0], devices[1]);
    world.connect(devices[1], devices[0]);
    world.run_until_quiet();
    world.advance(seconds(5));
    world.run_until_quiet();
    assert!(world.is_linked(devices[0], devices[1]));
    world.check_converged(&devices, of);
}

#[test]
fn a_wiped_device_with_its_journal_loses_nothing_and_gets_everything_back() {
    let (mut world, server, devices, of) = linked_team(22, 2);
    fill(&mut world, devices[0], of, 0..40);
    world.part(devices[0], server);
    world.run_until_quiet();
    // Not held by anyone else yet: the journal alone has these, on top of what will be gone.
    for number in 0..5 {
        world.edit(devices[0], of, document(number), 60);
        world.edit(devices[0], of, document(number), 60);
    }
    world.run_until_quiet();
    world.crash(devices[0], 0);
    world.wipe(devices[0]);
    world.restart(devices[0]);
    world.run_until_quiet();
    assert_eq!(
        world.held(devices[0], of).len(),
        10,
        "orphans until refetched"
    );
    world.heal(devices[0], server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert_eq!(world.held(devices[0], of).len(), 50);
}

#[test]
fn a_wiped_device_without_anything_unsent_gets_its_own_changes_back() {
    let (mut world, server, devices, of) = linked_team(23, 1);
    fill(&mut world, devices[0], of, 0..40);
    world.crash(devices[0], 0);
    world.wipe(devices[0]);
    world.restart(devices[0]);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    assert_eq!(world.held(devices[0], of).len(), 40);
}

#[test]
fn a_wiped_server_is_filled_again_by_its_devices() {
    let (mut world, server, devices, of) = linked_team(24, 2);
    fill(&mut world, devices[0], of, 0..20);
    fill(&mut world, devices[1], of, 20..40);
    world.crash(server, 0);
    world.wipe(server);
    world.restart(server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert_eq!(world.held(server, of).len(), 40);
}

/// Takes a copy of `victim`'s store, lets the team go on, and puts the copy back.
fn check_rollback(seed: u64, victim: usize, edits_after: u64) {
    let (mut world, server, devices, of) = linked_team(seed, 2);
    let all = [server, devices[0], devices[1]];
    fill(&mut world, devices[0], of, 0..10);
    fill(&mut world, devices[1], of, 10..20);
    let copy = world.copy_durable(all[victim]);
    fill(&mut world, devices[0], of, 5..25);
    fill(&mut world, devices[1], of, 25..35);
    world.crash(all[victim], 0);
    world.restore_all(all[victim], &copy);
    for node in all {
        for other in all {
            if node != other {
                world.part(node, other);
            }
        }
    }
    world.restart(all[victim]);
    // Its feed may even grow past what others remember of it before they meet again.
    for number in 0..edits_after {
        world.edit(all[victim], of, document(100 + number), 60);
    }
    world.run_until_quiet();
    for node in all {
        for other in all {
            world.heal(node, other);
        }
    }
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    assert!(rolled_back(&world, all[victim]), "it is found out");
    world.check_converged(&all, of);
}

#[test]
fn what_a_device_was_storing_when_its_server_lost_its_past_comes_back_to_it() {
    for after in (0..12_000).step_by(150) {
        let (mut world, server, devices, of) = linked_team(51, 2);
        let (author, device) = (devices[0], devices[1]);
        fill(&mut world, author, of, 0..3);
        let copy = world.copy_durable(server);
        // So slow that the device greets anew while it stores what came over the link before.
        world.settings.write = (900, 900);
        world.edit(author, of, document(7), 60);
        world.advance(Duration::from_millis(after));
        world.part(author, server);
        world.crash(server, 0);
        world.restore_all(server, &copy);
        world.restart(server);
        world.run_until_quiet();
        world.advance(seconds(30));
        world.run_until_quiet();
        let (held, kept) = (world.held(device, of), world.held(server, of));
        assert_eq!(held, kept, "the server was set back after {after} ms");
    }
}

#[test]
fn what_came_over_an_earlier_link_moves_no_cursor_that_was_agreed_since() {
    let (mut world, server, devices, of) = linked_team(52, 2);
    let (author, device) = (devices[0], devices[1]);
    fill(&mut world, author, of, 0..3);
    let copy = world.copy_durable(server);
    // The device has it, and does not know for long what is stored of the document.
    let arrives_slowly = |world: &mut World, from, number, slowness: u64| {
        world.edit(from, of, document(number), 60);
        world.run_until(|world| world.held(server, of).len() == 4);
        world.settings.read = (slowness, slowness);
        world.advance(Duration::from_millis(100));
        world.settings.read = (0, 0);
    };
    world.settings.latency = (20, 20);
    arrives_slowly(&mut world, author, 7, 5_000);
    world.part(author, server);
    world.crash(server, 0);
    world.restore_all(server, &copy);
    world.restart(server);
    world.run_until(|world| !world.is_greeted(device, server));
    world.run_until(|world| world.is_greeted(device, server));
    // In this history something else has its place. Until that is stored the device is not verified.
    arrives_slowly(&mut world, server, 8, 20_000);
    assert_eq!(world.held(device, of).len(), 3, "both are to be stored");
    world.run_until(|world| world.held(device, of).len() == 4);
    // The server says where its feed ends before it has stored what the device gives back.
    world.settings.write = (1_000, 1_000);
    world.give(device, Input::Refresh(of));
    world.advance(seconds(40));
    world.heal(author, server);
    world.run_until_quiet();
    world.check_converged(&[server, author, device], of);
    assert_eq!(world.held(device, of).len(), 5);
}

#[test]
fn a_rolled_back_server_is_found_out_and_converges() {
    check_rollback(25, 0, 0);
}

#[test]
fn a_rolled_back_server_is_found_out_after_its_feed_grew_past_every_cursor() {
    check_rollback(26, 0, 90);
}

#[test]
fn a_rolled_back_device_is_found_out_and_converges() {
    check_rollback(27, 1, 0);
}

#[test]
fn a_rolled_back_device_is_found_out_after_its_feed_grew_past_every_cursor() {
    check_rollback(28, 1, 90);
}

#[test]
fn a_rolled_back_device_whose_feed_is_as_long_as_remembered_is_found_out() {
    check_rollback(29, 1, 20);
}

#[test]
fn a_new_epoch_reconciles_instead_of_sending_everything_again() {
    let (mut world, server, devices, of) = linked_team(30, 1);
    fill(&mut world, devices[0], of, 0..200);
    let copy = world.copy_durable(server);
    world.edit(devices[0], of, document(7), 60);
    world.run_until_quiet();
    world.crash(server, 0);
    world.restore(server, &copy);
    world.restart(server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    let pass = world
        .last_pass(devices[0], server)
        .expect("the pass completes");
    assert_eq!((pass.changes_sent, pass.changes_received), (1, 0));
    while_apart(&mut world, devices[0], server, |_| {});
    let pass = world
        .last_pass(devices[0], server)
        .expect("the pass completes");
    assert_eq!((pass.round_trips, pass.changes_sent), (1, 0));
}

#[test]
fn a_cursor_into_a_lost_history_frees_nothing_in_the_journal() {
    for steps in 0..40 {
        let (mut world, server, devices, of) = linked_team(34, 1);
        let device = devices[0];
        fill(&mut world, device, of, 0..5);
        let copy = world.copy_durable(device);
        fill(&mut world, device, of, 5..25);
        world.crash(device, 0);
        world.restore_all(device, &copy);
        world.part(device, server);
        world.restart(device);
        // Its feed grows past what the server remembers of it.
        for number in 0..60 {
            world.edit(device, of, document(100 + number), 60);
        }
        world.run_until_quiet();
        world.heal(device, server);
        world.run_until(|world| world.is_greeted(device, server));
        for _ in 0..steps {
            world.step();
        }
        world.crash(device, 0);
        world.wipe(device);
        world.restart(device);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.check_converged(&[server, device], of);
    }
}
