//! Links between machines that sleep, move, and dial each other at the same time; and links on which
//! nothing moves.

use std::time::Duration;

use reconvene_core::engine::{Event, Input};
use reconvene_core::limits::{BACKOFF_FIRST, PROOF_DEADLINE, STALL_AFTER};

use super::{fill, linked_team, seconds, team, told};
use crate::world::{NodeId, Swallow, World, document};

fn greetings(world: &World, node: NodeId) -> usize {
    told(world, node)
        .filter(|event| matches!(event, Event::LinkReady { .. }))
        .count()
}

#[test]
fn of_two_links_that_crossed_both_sides_keep_the_same_one() {
    for seed in 90..110 {
        for apart in [0, 3, 11, 19] {
            let (mut world, _, devices, of) = team(seed, 2);
            world.share(devices[0], devices[1], &[of]);
            world.run_until_quiet();
            world.settings.latency = (10, 20);
            fill(&mut world, devices[0], of, 0..3);
            fill(&mut world, devices[1], of, 3..6);
            let before = world.wires_laid();
            world.connect(devices[0], devices[1]);
            world.advance(Duration::from_millis(apart));
            world.connect(devices[1], devices[0]);
            world.advance(seconds(1));
            world.run_until_quiet();
            let laid = world.wires_laid() - before;
            // A side that hears of the end of one before the other is there may dial once more.
            assert!(
                (1..=3).contains(&laid),
                "seed {seed}: {laid} links were made"
            );
            assert_eq!(world.wires_between(devices[0], devices[1]).len(), 1);
            for device in &devices {
                let greeted = greetings(&world, *device);
                assert!(
                    (1..=2).contains(&greeted),
                    "seed {seed}: greeted {greeted} times"
                );
                assert!(world.is_greeted(*device, devices[0]) || *device == devices[0]);
            }
            world.check_converged(&devices, of);
        }
    }
}

#[test]
fn a_peer_whose_link_died_unnoticed_gets_in_at_once() {
    let (mut world, server, devices, of) = linked_team(111, 1);
    fill(&mut world, devices[0], of, 0..3);
    world.advance(seconds(60));
    // It forgets its link without a word, as a machine that lost its power does.
    world.swallowed = Some((devices[0], server, Swallow::Everything));
    world.crash_quietly(devices[0], 0);
    world.swallowed = None;
    world.restart(devices[0]);
    world.advance(seconds(1));
    assert!(world.is_greeted(devices[0], server));
    world.edit(server, of, document(1), 60);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
}

#[test]
fn after_a_sleep_a_live_link_stays_and_a_dead_one_is_made_anew() {
    for input in [Input::Resumed, Input::NetworkChanged] {
        let (mut world, server, devices, of) = linked_team(112, 1);
        let before = greetings(&world, devices[0]);
        world.give(devices[0], input.clone());
        world.advance(PROOF_DEADLINE * 3);
        assert_eq!(greetings(&world, devices[0]), before, "it answered");
        world.swallowed = Some((devices[0], server, Swallow::Everything));
        world.give(devices[0], input);
        world.advance(PROOF_DEADLINE - Duration::from_millis(100));
        assert!(world.is_greeted(devices[0], server), "it still has time");
        world.swallowed = None;
        world.advance(Duration::from_millis(200));
        assert!(world.is_greeted(devices[0], server), "a new link is up");
        assert_eq!(greetings(&world, devices[0]), before + 1);
        world.edit(server, of, document(1), 60);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0]], of);
    }
}

#[test]
fn a_changed_network_is_tried_at_once_whatever_the_backoff() {
    let (mut world, server, devices, _) = linked_team(113, 1);
    for round in 0..6 {
        world.part(devices[0], server);
        world.advance(seconds(400 + round));
        world.heal(devices[0], server);
        world.give(devices[0], Input::NetworkChanged);
        world.advance(Duration::from_millis(100));
        assert!(world.is_greeted(devices[0], server), "round {round}");
    }
}

#[test]
fn backoff_grows_while_links_come_up_and_lead_to_nothing() {
    let (mut world, server, devices, of) = team(114, 1);
    world.edit(devices[0], of, document(1), 60);
    world.run_until_quiet();
    world.swallowed = Some((devices[0], server, Swallow::Changes));
    world.connect(devices[0], server);
    let mut delays = Vec::new();
    for _ in 0..14 {
        world.run_until(|world| world.is_greeted(devices[0], server));
        world.cut_between(devices[0], server);
        world.run_until(|world| !world.is_greeted(devices[0], server));
        let last = world
            .events(devices[0])
            .iter()
            .rev()
            .find_map(|(at, event)| match event {
                Event::Unreachable { retry_at, .. } => retry_at.map(|retry| retry.as_millis() - at),
                _ => None,
            });
        delays.push(last.expect("it will be tried again"));
    }
    let first = u64::try_from(BACKOFF_FIRST.as_millis()).expect("it is short");
    assert!(delays.iter().any(|delay| *delay > 10 * first), "{delays:?}");
    // Progress starts it over.
    world.swallowed = None;
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    world.cut_between(devices[0], server);
    world.advance(seconds(2));
    assert!(world.is_greeted(devices[0], server));
}

#[test]
fn a_link_on_which_nothing_moves_is_told_and_greeted_anew() {
    let (mut world, server, devices, of) = linked_team(115, 2);
    fill(&mut world, devices[0], of, 0..3);
    world.advance(seconds(300));
    world.swallowed = Some((devices[0], server, Swallow::Changes));
    let greeted = greetings(&world, devices[0]);
    world.edit(devices[0], of, document(1), 60);
    let stalls = |world: &World, node: NodeId| {
        told(world, node)
            .filter(|event| matches!(event, Event::Stalled { .. }))
            .count()
    };
    world.advance(STALL_AFTER - seconds(20));
    assert_eq!(stalls(&world, devices[0]) + stalls(&world, server), 0);
    world.advance(seconds(60));
    assert!(stalls(&world, devices[0]) + stalls(&world, server) > 0);
    assert!(greetings(&world, devices[0]) > greeted, "they greet anew");
    let visible = |world: &World| {
        let nodes = [devices[0], server];
        nodes.iter().any(|node| {
            let engine = world.engine(*node);
            engine.is_some_and(|engine| engine.stalls().next().is_some())
        })
    };
    assert!(
        visible(&world),
        "and it stays to be seen while nothing moves"
    );
    assert!(
        world.is_greeted(devices[1], server),
        "the other device has nothing to do with it"
    );
    world.swallowed = None;
    world.cut_between(devices[0], server);
    world.run_until_quiet();
    world.advance(seconds(20));
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert!(!visible(&world));
}

#[test]
fn the_address_that_worked_last_is_tried_first() {
    let (mut world, server, devices, _) = team(116, 1);
    let peer = world.peer(server);
    let addresses = ["a", "b", "c", "b"].map(str::to_owned).to_vec();
    world.give(devices[0], Input::Connect { peer, addresses });
    let order = |world: &World| {
        let engine = world.engine(devices[0]).expect("it is up");
        let (_, addresses) = engine.addresses().next().expect("it is wanted");
        addresses.concat()
    };
    assert_eq!(order(&world), "abc");
    for (address, expected) in [("c", "cab"), ("b", "bca"), ("elsewhere", "bca")] {
        let address = address.to_owned();
        world.give(devices[0], Input::Reached { peer, address });
        assert_eq!(order(&world), expected);
    }
}
