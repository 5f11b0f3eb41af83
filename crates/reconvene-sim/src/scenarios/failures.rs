//! Failing disks and lost power, at every point in time.

use std::collections::BTreeSet;

use reconvene_core::engine::{Edit, EditError, EditedDocument, Event, Input};
use reconvene_core::ids::RequestId;
use reconvene_core::memory::{Fault, Faults};
use reconvene_core::storage::StoreError;

use super::{linked_team, seconds, team, told};
use crate::changes::{KIND, Recipe, make};
use crate::world::{NodeId, World, document};

/// Lets `play` begin, cuts the power of one node after some steps, and sees it through; for cuts
/// over the whole course.
pub(super) fn check_crashes(
    every: u64,
    victims: &[usize],
    play: impl Fn() -> (World, Vec<NodeId>, reconvene_core::ids::WorkspaceId),
) {
    let (mut undisturbed, nodes, of) = play();
    let start = undisturbed.steps();
    undisturbed.run_until_quiet();
    let course = undisturbed.steps() - start;
    undisturbed.check_converged(&nodes, of);
    for victim in victims {
        for cut in (0..course).step_by(usize::try_from(every).expect("it is small")) {
            let (mut world, nodes, of) = play();
            for _ in 0..cut {
                world.step();
            }
            let kept = world.pick(3);
            world.crash(nodes[*victim], kept);
            world.advance(seconds(cut % 3));
            world.restart(nodes[*victim]);
            world.run_until_quiet();
            world.check_converged(&nodes, of);
        }
    }
}

#[test]
fn a_crash_at_any_step_of_a_first_sync_loses_nothing() {
    check_crashes(23, &[0, 1, 2], || {
        let (mut world, server, devices, of) = team(40, 2);
        world.settings.completion = (0, 3);
        for number in 0..24 {
            world.edit(devices[0], of, document(number), 900);
        }
        world.connect(devices[0], server);
        world.connect(devices[1], server);
        (world, vec![server, devices[0], devices[1]], of)
    });
}

#[test]
fn a_crash_at_any_step_of_a_reconnect_with_edits_loses_nothing() {
    check_crashes(19, &[0, 1], || {
        let (mut world, server, devices, of) = linked_team(41, 2);
        world.part(devices[0], server);
        world.run_until_quiet();
        for number in 0..8 {
            world.edit(devices[0], of, document(number), 300);
            world.edit(devices[1], of, document(number), 300);
        }
        world.run_until_quiet();
        world.heal(devices[0], server);
        world.edit(devices[0], of, document(3), 300);
        (world, vec![server, devices[0], devices[1]], of)
    });
}

#[test]
fn a_crash_at_any_step_of_a_reconciliation_loses_nothing() {
    check_crashes(17, &[0, 1], || {
        let (mut world, _, devices, of) = team(42, 2);
        world.share(devices[0], devices[1], &[of]);
        for number in 0..8 {
            world.edit(devices[0], of, document(number), 300);
            world.edit(devices[1], of, document(number + 4), 300);
        }
        world.run_until_quiet();
        world.connect(devices[0], devices[1]);
        world.edit(devices[1], of, document(3), 300);
        (world, devices, of)
    });
}

/// The error of each refused edit.
fn refused(world: &World, node: NodeId) -> Vec<&EditError> {
    told(world, node)
        .filter_map(|event| match event {
            Event::EditRefused { error, .. } => Some(error),
            _ => None,
        })
        .collect()
}

#[test]
fn a_failed_apply_of_what_peers_sent_is_made_good_without_opening_the_store() {
    for call in 0..6 {
        let (mut world, server, devices, of) = linked_team(43, 2);
        let faults = Faults {
            apply: [(call, StoreError::NoSpace)].into(),
            ..Faults::default()
        };
        world.set_faults(server, faults.clone());
        for number in 0..6 {
            world.edit(devices[0], of, document(number), 60);
            world.edit(devices[1], of, document(number), 60);
        }
        world.run_until_quiet();
        let failed = told(&world, server).any(|event| {
            matches!(
                event,
                Event::StoreFailed {
                    error: StoreError::NoSpace
                }
            )
        });
        assert!(failed, "call {call} is made and the host is told");
        assert!(!world.refuses_writes(server));
        world.advance(seconds(70));
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], devices[1]], of);
    }
}

#[test]
fn an_edit_that_the_journal_has_and_the_store_failed_to_apply_is_neither_durable_nor_gone() {
    for call in 0..4 {
        let (mut world, server, devices, of) = linked_team(43, 1);
        let device = devices[0];
        let faults = Faults {
            apply: [(call, StoreError::NoSpace)].into(),
            ..Faults::default()
        };
        world.set_faults(device, faults);
        let mut edits = BTreeSet::new();
        for number in 0..6 {
            edits.insert(world.edit(device, of, document(number), 60));
        }
        world.advance(seconds(5));
        let (mut durable, mut unknown) = (0, 0);
        for event in told(&world, device) {
            match event {
                Event::EditDurable { request, .. } => {
                    assert!(edits.remove(request));
                    durable += 1;
                }
                Event::EditRefused { request, error } => {
                    assert!(edits.remove(request));
                    unknown += usize::from(matches!(error, EditError::Unknown(_)));
                }
                _ => {}
            }
        }
        assert!(edits.is_empty(), "each is answered");
        assert!(unknown > 0, "call {call} is made");
        let held = world.held(server, of);
        world.edit(device, of, document(9), 60);
        world.advance(seconds(70));
        assert_eq!(
            world.held(server, of),
            held,
            "nothing more is taken or sent"
        );
        world.crash(device, 0);
        world.restart(device);
        world.run_until_quiet();
        let back = world.held(device, of).len();
        assert_eq!(back, durable + unknown, "all of it comes back, once");
        world.check_converged(&[server, device], of);
    }
}

#[test]
fn a_history_begun_anew_is_not_given_up_when_writing_it_fails() {
    for failures in 0..3 {
        // The power goes again at one moment after another.
        for cut in 0..40 {
            let (mut world, server, devices, of) = linked_team(47, 1);
            let device = devices[0];
            world.edit(device, of, document(9), 60);
            world.run_until_quiet();
            world.part(device, server);
            world.run_until_quiet();
            for number in 0..3 {
                world.edit(device, of, document(number), 60);
            }
            world.run_until(|world| world.acknowledged().len() == 4);
            // Safe in the journal; the store lost it with the power, and has no room for it at first. Once
            // there is room, the new history that this needs is not stored as often as the disk fails.
            world.crash(device, 0);
            world.restart(device);
            world.set_low_space(device, true);
            world.run_until(|world| {
                told(world, device).any(|event| matches!(event, Event::StoreFailed { .. }))
            });
            world.set_low_space(device, false);
            let failing = (0..failures).map(|call| (call, StoreError::NoSpace));
            let faults = Faults {
                apply: failing.collect(),
                ..Faults::default()
            };
            world.set_faults(device, faults);
            // These come ahead of what is owed, and take its place in the feed if the history is the same.
            for number in 3..6 {
                world.edit(device, of, document(number), 60);
            }
            for _ in 0..cut {
                world.step();
            }
            world.crash(device, 0);
            world.set_faults(device, Faults::default());
            world.restart(device);
            world.heal(device, server);
            world.run_until_quiet();
            world.advance(seconds(70));
            world.run_until_quiet();
            world.check_converged(&[server, device], of);
        }
    }
}

#[test]
fn an_edit_on_top_of_what_only_the_journal_has_brings_that_in_first() {
    let (mut world, server, devices, of) = linked_team(47, 1);
    let device = devices[0];
    world.part(device, server);
    world.run_until_quiet();
    world.edit(device, of, document(1), 60);
    world.run_until(|world| !world.acknowledged().is_empty());
    let first = world.acknowledged().iter().map(|(.., hash)| *hash);
    let first: Vec<_> = first.collect();
    // Safe in the journal; the store lost it with the power, and has no room for it at first.
    world.crash(device, 0);
    world.restart(device);
    world.set_low_space(device, true);
    world.run_until(|world| {
        told(world, device).any(|event| matches!(event, Event::StoreFailed { .. }))
    });
    world.set_low_space(device, false);
    // Whoever reads what the journal has goes on from there.
    let second = RequestId::from_bytes([2; 16]);
    let on_top = make(Recipe {
        actor: [0xa7; 16],
        seq: 1,
        start_op: 3,
        dependencies: first,
        value: vec![1; 60],
    });
    world.give(
        device,
        Input::Edit(Edit {
            request: second,
            workspace: of,
            documents: vec![EditedDocument {
                document: document(1),
                kind: KIND,
                changes: vec![on_top.body],
            }],
            rows: Vec::new(),
        }),
    );
    world.advance(seconds(1));
    assert_eq!(refused(&world, device), Vec::<&EditError>::new());
    let is_durable = told(&world, device)
        .any(|event| matches!(event, Event::EditDurable { request: of, .. } if *of == second));
    assert!(is_durable, "it did not wait for its turn");
    world.heal(device, server);
    world.run_until_quiet();
    world.check_converged(&[server, device], of);
}

#[test]
fn what_only_the_journal_has_waits_for_room_without_hurry() {
    let (mut world, server, devices, of) = linked_team(44, 1);
    let device = devices[0];
    world.edit(device, of, document(1), 60);
    world.run_until(|world| !world.acknowledged().is_empty());
    // Safe in the journal; the store lost it with the power, and has no room for it from now on.
    world.crash(device, 0);
    world.restart(device);
    world.set_low_space(device, true);
    let before = world.disk_counts(device).batches;
    world.advance(seconds(60));
    let tried = world.disk_counts(device).batches - before;
    assert!((1..=3).contains(&tried), "{tried} batches in 60 s");
    world.set_low_space(device, false);
    world.advance(seconds(70));
    world.run_until_quiet();
    world.check_converged(&[server, device], of);
    assert_eq!(world.held(device, of).len(), 1);
}

fn greetings(world: &World, node: NodeId) -> usize {
    let ready = told(world, node).filter(|event| matches!(event, Event::LinkReady { .. }));
    ready.count()
}

#[test]
fn a_full_disk_refuses_edits_takes_nothing_and_keeps_its_link() {
    let (mut world, server, devices, of) = linked_team(47, 2);
    let [a, b] = [devices[0], devices[1]];
    world.part(b, server);
    world.edit(b, of, document(1), 60);
    world.run_until_quiet();
    world.set_low_space(b, true);
    // What was on its way when it became known costs the link; nothing after that does.
    world.edit(b, of, document(1), 60);
    world.run_until_quiet();
    world.heal(b, server);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    assert!(world.is_greeted(b, server));
    let (greetings_before, held) = (greetings(&world, b), world.held(b, of));
    assert_eq!(world.held(server, of), held, "what it has still goes out");
    for number in 0..40 {
        world.edit(a, of, document(number), 60);
        world.edit(b, of, document(number), 60);
        world.advance(seconds(1));
    }
    world.run_until_quiet();
    let refused = refused(&world, b);
    assert_eq!(refused.len(), 41);
    let is_typed =
        |error: &EditError| matches!(error, EditError::Store(StoreError::LowSpace { .. }));
    assert!(refused.iter().all(|error| is_typed(error)));
    assert_eq!(world.held(b, of), held);
    let engine = world.engine(b).expect("it runs");
    assert!(engine.low_space().is_some());
    assert!(told(&world, b).any(|event| matches!(event, Event::LowSpace { .. })));

    // An edit is enough to find out that there is room again, and what came meanwhile is stored
    // without being sent once more.
    world.set_low_space(b, false);
    world.edit(b, of, document(3), 60);
    world.run_until_quiet();
    assert_eq!(greetings(&world, b), greetings_before);
    assert!(told(&world, b).any(|event| matches!(event, Event::RoomAgain)));
    world.check_converged(&[server, a, b], of);
    assert_eq!(world.held(b, of).len(), 42);
}

#[test]
fn what_the_disk_said_before_refuses_nothing_that_was_asked_since() {
    let (mut world, server, devices, of) = linked_team(47, 1);
    let device = devices[0];
    world.set_low_space(device, true);
    world.edit(device, of, document(1), 60);
    world.run_until_quiet();
    assert_eq!(refused(&world, device).len(), 1);
    // This asks the disk again, and its answer is on its way when there is room.
    world.edit(device, of, document(2), 60);
    world.set_low_space(device, false);
    world.edit(device, of, document(3), 60);
    world.run_until_quiet();
    assert_eq!(refused(&world, device).len(), 2);
    assert_eq!(world.held(device, of).len(), 1);
    world.advance(seconds(5));
    world.run_until_quiet();
    world.check_converged(&[server, device], of);
}

#[test]
fn what_waits_for_room_goes_with_its_link_and_comes_again() {
    let (mut world, server, devices, of) = linked_team(48, 2);
    let [a, b] = [devices[0], devices[1]];
    world.set_low_space(b, true);
    world.edit(b, of, document(1), 60);
    world.advance(seconds(70));
    world.run_until_quiet();
    for _ in 0..3 {
        for number in 0..20 {
            world.edit(a, of, document(number), 60);
        }
        world.run_until_quiet();
        let is_idle = |world: &World| world.engine(b).is_some_and(|engine| engine.is_idle());
        assert!(!is_idle(&world), "something waits");
        world.part(b, server);
        world.run_until_quiet();
        assert!(is_idle(&world), "nothing waits any more");
        world.heal(b, server);
        world.advance(seconds(70));
        world.run_until_quiet();
    }
    world.set_low_space(b, false);
    // Nobody asks for anything: it finds out by itself.
    world.advance(seconds(5));
    world.run_until_quiet();
    world.check_converged(&[server, a, b], of);
}

#[test]
fn a_server_without_room_says_that_a_ticket_cannot_be_redeemed_now() {
    let (mut world, server, devices, of) = linked_team(49, 1);
    world.set_low_space(server, true);
    world.edit(devices[0], of, document(1), 60);
    world.run_until_quiet();
    world.advance(seconds(5));
    let engine = world.engine(server).expect("it runs");
    assert!(engine.low_space().is_some());
    world.set_low_space(server, false);
    let home = crate::world::workspace(9);
    let secret = world.issue_ticket(server, (of, home), 600_000);
    world.run_until_quiet();
    world.set_low_space(server, true);
    world.edit(devices[0], of, document(1), 60);
    world.run_until_quiet();
    let other = world.add(reconvene_core::wire::Role::Device);
    let request = world.join(other, server, secret);
    world.run_until_quiet();
    let failed = told(&world, other).any(|event| {
        matches!(event, Event::JoinFailed { request: of, code: Some(code), .. }
            if *of == request && *code == reconvene_core::refusal::RefusalCode::Unavailable)
    });
    assert!(failed);
    world.set_low_space(server, false);
    let request = world.join(other, server, secret);
    world.run_until_quiet();
    let joined = told(&world, other)
        .any(|event| matches!(event, Event::Joined { request: of, .. } if *of == request));
    assert!(joined);
}

fn check_unknown_outcome(barrier: bool, lands: bool) {
    for call in 0..3 {
        let (mut world, server, devices, of) = linked_team(45, 2);
        let fault = Fault {
            error: StoreError::Io {
                what: "simulated".to_owned(),
            },
            lands,
        };
        let mut faults = Faults::default();
        let which = if barrier {
            &mut faults.barrier
        } else {
            &mut faults.journal
        };
        which.insert(call, fault);
        world.set_faults(devices[0], faults);
        for number in 0..30 {
            world.edit(devices[0], of, document(number % 4), 60);
            world.advance(std::time::Duration::from_millis(2));
        }
        world.advance(seconds(30));
        assert!(world.refuses_writes(devices[0]), "call {call} was made");
        assert!(!refused(&world, devices[0]).is_empty());
        assert!(
            !world.is_linked(devices[0], server),
            "no link while nothing can be stored"
        );
        let held = world.held(server, of);
        let request = world.edit(devices[0], of, document(1), 60);
        let answered = told(&world, devices[0])
            .any(|event| matches!(event, Event::EditRefused { request: of, .. } if *of == request));
        assert!(answered, "at once, and typed");
        world.advance(seconds(30));
        assert_eq!(world.held(server, of), held, "nothing more leaves");
        world.crash(devices[0], 0);
        world.restart(devices[0]);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], devices[1]], of);
    }
}

#[test]
fn after_a_barrier_of_unknown_outcome_nothing_leaves_until_the_store_is_opened_again() {
    check_unknown_outcome(true, false);
    check_unknown_outcome(true, true);
}

#[test]
fn after_a_journal_of_unknown_outcome_nothing_leaves_until_the_store_is_opened_again() {
    check_unknown_outcome(false, false);
    check_unknown_outcome(false, true);
}

#[test]
fn a_write_that_is_stored_while_an_outcome_is_awaited_is_reported() {
    use bytes::Bytes;
    use reconvene_core::keys::Key;
    let (mut world, _, devices, of) = linked_team(46, 1);
    // One group: a write and then an edit whose batch fails.
    let faults = Faults {
        apply: [(2, StoreError::NoSpace)].into(),
        ..Faults::default()
    };
    world.set_faults(devices[0], faults);
    let first = world.write(devices[0], vec![(Key::meta(1), Bytes::from_static(b"a"))]);
    let second = world.write(devices[0], vec![(Key::meta(2), Bytes::from_static(b"b"))]);
    world.edit(devices[0], of, document(1), 60);
    world.advance(seconds(5));
    for request in [first, second] {
        let done = told(&world, devices[0])
            .any(|event| matches!(event, Event::WriteDone { request: of } if *of == request));
        assert!(done, "{request}");
    }
}
