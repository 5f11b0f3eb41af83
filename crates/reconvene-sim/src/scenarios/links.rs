//! Links over time: heartbeats, backoff, slow greetings.

use reconvene_core::engine::{Event, WakeReason};
use reconvene_core::limits::{BACKOFF_FIRST, BACKOFF_MAX, STALENESS_BOUND};
use reconvene_core::time::Tick;

use super::{fill, linked_team, seconds, team, told};
use crate::world::{Settings, World, document};

#[test]
fn heartbeats_bound_staleness_on_an_idle_link_and_on_a_busy_one() {
    let (mut world, server, devices, of) = linked_team(50, 2);
    fill(&mut world, devices[0], of, 0..3);
    for busy in [false, true] {
        for _ in 0..120 {
            if busy {
                world.edit(devices[1], of, document(1), 60);
            }
            world.advance(seconds(1));
            world.check_fresh(devices[0], server, of);
            world.check_fresh(server, devices[0], of);
        }
    }
}

#[test]
fn a_peer_that_cannot_be_heard_leaves_the_last_truth_standing() {
    let (mut world, server, devices, of) = linked_team(51, 1);
    world.part(devices[0], server);
    world.run_until_quiet();
    let count = |world: &World| {
        told(world, devices[0])
            .filter(|event| matches!(event, Event::Verified { .. }))
            .count()
    };
    let before = count(&world);
    world.edit(server, of, document(1), 60);
    world.advance(STALENESS_BOUND);
    assert_eq!(count(&world), before);
}

/// How long each dial was put off, in milliseconds.
fn delays(world: &World, node: usize) -> Vec<u64> {
    world
        .events(node)
        .iter()
        .filter_map(|(at, event)| match event {
            Event::Unreachable { retry_at, .. } => {
                Some(retry_at.map_or(0, |retry: Tick| retry.as_millis() - at))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn backoff_grows_with_jitter_up_to_its_bound_and_resets_after_a_link() {
    let (mut world, server, devices, _) = team(52, 1);
    world.part(devices[0], server);
    world.connect(devices[0], server);
    world.advance(seconds(1_200));
    let delays_before = delays(&world, devices[0]);
    for (attempt, delay) in delays_before.iter().enumerate() {
        let bound = (BACKOFF_FIRST * 2_u32.pow(attempt.min(6) as u32)).min(BACKOFF_MAX);
        assert!(u128::from(*delay) < bound.as_millis(), "{attempt}: {delay}");
    }
    assert!(delays_before.len() > 20, "it never gives up");
    let late = &delays_before[8..];
    assert!(
        late.iter().any(|delay| *delay > 20_000),
        "it grows: {late:?}"
    );
    assert!(
        late.iter().any(|delay| *delay < 30_000),
        "it varies: {late:?}"
    );
    world.heal(devices[0], server);
    world.run_until_quiet();
    world.part(devices[0], server);
    world.advance(seconds(1));
    let first = delays(&world, devices[0])[delays_before.len()];
    assert!(u128::from(first) < BACKOFF_FIRST.as_millis(), "{first}");
}

#[test]
fn a_dial_that_fails_beside_a_link_of_the_other_side_asks_for_no_wake() {
    let (mut world, _, devices, of) = team(53, 2);
    world.share(devices[0], devices[1], &[of]);
    world.run_until_quiet();
    world.connect(devices[1], devices[0]);
    world.run_until_quiet();
    // Its own dial is on its way when the network decides otherwise.
    let peer = world.peer(devices[1]);
    world.give(
        devices[0],
        reconvene_core::engine::Input::DialFailed {
            peer,
            why: "too late".to_owned(),
        },
    );
    world.connect(devices[0], devices[1]);
    world.give(
        devices[0],
        reconvene_core::engine::Input::DialFailed {
            peer,
            why: "too late".to_owned(),
        },
    );
    let wake = world.engine(devices[0]).and_then(|engine| engine.wake_at());
    let redial = wake.is_some_and(|wake| matches!(wake.why, WakeReason::Redial(_)));
    assert!(!redial, "{wake:?}");
    world.advance(seconds(100));
    assert!(world.is_linked(devices[0], devices[1]));
}

#[test]
fn a_disconnect_lasts_until_the_next_connect() {
    let (mut world, server, devices, of) = linked_team(54, 1);
    world.disconnect(devices[0], server);
    world.advance(seconds(200));
    assert!(!world.is_linked(devices[0], server));
    world.edit(devices[0], of, document(1), 60);
    world.run_until_quiet();
    world.connect(devices[0], server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
}

#[test]
fn a_link_that_is_cut_at_any_step_converges_in_the_end() {
    for cut in (0..260).step_by(7) {
        let (mut world, server, devices, of) = team(55, 2);
        world.settings = Settings {
            latency: (1, 30),
            read: (0, 9),
            write: (0, 9),
            completion: (0, 5),
            late: 0,
        };
        for number in 0..12 {
            world.edit(devices[0], of, document(number), 9_000);
            world.edit(devices[1], of, document(number), 60);
        }
        world.connect(devices[0], server);
        world.connect(devices[1], server);
        for _ in 0..cut {
            world.step();
        }
        world.cut_between(devices[0], server);
        world.cut_between(devices[1], server);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], devices[1]], of);
    }
}

#[test]
fn an_edit_in_the_middle_of_a_bulk_goes_ahead_of_it() {
    let (mut world, server, devices, of) = team(56, 1);
    for number in 0..300 {
        world.edit(devices[0], of, document(number), 8_000);
    }
    world.run_until_quiet();
    world.settings.latency = (40, 40);
    world.connect(devices[0], server);
    world.run_until(|world| world.held(server, of).len() > 10);
    world.edit(devices[0], of, document(9_999), 60);
    world.run_until(|world| {
        world
            .held(server, of)
            .iter()
            .any(|fact| fact.1 == document(9_999))
    });
    let held = world.held(server, of).len();
    assert!(held < 200, "it came after {held} of 300");
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
}
