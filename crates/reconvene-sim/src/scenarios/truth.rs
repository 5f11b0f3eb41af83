//! What a host may say of freshness and delivery: how old what it shows is, and who holds what it did.

use std::collections::BTreeMap;

use reconvene_core::engine::{Event, Input};
use reconvene_core::ids::WorkspaceId;
use reconvene_core::limits::{STALENESS_BOUND, STALENESS_BOUND_MIN};
use reconvene_core::records::{PeerRow, Record as _, RelayedRow};
use reconvene_core::storage::StoreRead as _;

use super::{fill, linked_team, seconds, told, while_apart};
use crate::world::{NodeId, World, document};

/// The freshness events of a node, with their moments: whether it was fresh from then on.
fn freshness(world: &World, node: NodeId) -> Vec<(u64, bool)> {
    let events = world.events(node).iter();
    let events = events.filter_map(|(at, event)| match event {
        Event::Fresh { .. } => Some((*at, true)),
        Event::Stale { .. } => Some((*at, false)),
        _ => None,
    });
    events.collect()
}

/// When a node was last verified with any peer.
fn verified_at(world: &World, node: NodeId) -> u64 {
    let engine = world.engine(node).expect("it runs");
    let moments = engine
        .verified()
        .map(|(_, _, verified)| verified.as_of.tick);
    moments.max().expect("it was").as_millis()
}

#[test]
fn a_workspace_turns_stale_when_the_bound_is_over_and_fresh_again_with_the_link() {
    let (mut world, server, devices, _) = linked_team(90, 1);
    let device = devices[0];
    world.advance(seconds(120));
    assert_eq!(freshness(&world, device).len(), 1, "fresh since it began");
    world.part(device, server);
    let as_of = verified_at(&world, device);
    world.advance(STALENESS_BOUND + seconds(5));
    let bound = u64::try_from(STALENESS_BOUND.as_millis()).expect("it is short");
    assert_eq!(
        freshness(&world, device)[1..],
        [(as_of + bound + 1, false)],
        "not a millisecond early or late"
    );
    world.heal(device, server);
    world.advance(seconds(70));
    let after = freshness(&world, device);
    assert_eq!(after.len(), 3);
    assert!(after[2].1);
}

#[test]
fn a_device_is_fresh_by_its_server_s_word_and_not_by_another_device_s() {
    let (mut world, server, devices, of) = linked_team(91, 2);
    world.share(devices[0], devices[1], &[of]);
    world.run_until_quiet();
    for device in &devices {
        world.part(*device, server);
    }
    world.connect(devices[0], devices[1]);
    world.advance(STALENESS_BOUND + seconds(60));
    assert!(world.is_greeted(devices[0], devices[1]));
    let last = freshness(&world, devices[0]).last().copied();
    assert!(matches!(last, Some((_, false))), "{last:?}");
}

#[test]
fn whoever_asks_how_fresh_it_is_gets_to_know_now() {
    let (mut world, _, devices, of) = linked_team(92, 1);
    let device = devices[0];
    for _ in 0..20 {
        world.advance(seconds(1));
        let asked = world.now();
        world.give(device, Input::Refresh(of));
        world.run_until_quiet();
        let as_of = verified_at(&world, device);
        assert_eq!(as_of, asked, "neither before it was asked nor after");
    }
}

#[test]
fn freshness_is_as_of_when_was_asked_and_not_of_when_the_answer_came() {
    let (mut world, server, devices, of) = linked_team(89, 1);
    let device = devices[0];
    world.advance(seconds(30));
    world.settings.latency = (2_000, 2_000);
    for _ in 0..10 {
        world.advance(seconds(7));
        let asked = world.now();
        world.give(device, Input::Refresh(of));
        // The server's answer is on its way when it takes this.
        world.advance(seconds(3));
        world.edit(server, of, document(1), 60);
        world.run_until(|world| verified_at(world, device) >= asked);
        assert!(world.now() >= asked + 4_000, "after one round trip");
        assert!(
            verified_at(&world, device) < asked + 3_000,
            "what the server took since is not here yet"
        );
        // Nobody asks for what comes next: it is as of the last that the server had read of this one.
        world.advance(seconds(40));
        let age = world.now() - verified_at(&world, device);
        assert!((4_000..30_000).contains(&age), "{age} ms");
    }
}

#[test]
fn a_bound_below_three_heartbeats_is_kept_by_asking() {
    let (mut world, server, devices, _) = linked_team(97, 1);
    let device = devices[0];
    world.staleness_bound = STALENESS_BOUND_MIN;
    world.crash(device, 0);
    world.restart(device);
    world.connect(device, server);
    world.advance(seconds(120));
    assert_eq!(freshness(&world, device).len(), 2, "fresh since each start");
    world.part(device, server);
    let as_of = verified_at(&world, device);
    world.advance(seconds(5));
    let bound = u64::try_from(STALENESS_BOUND_MIN.as_millis()).expect("it is short");
    assert_eq!(
        freshness(&world, device)[2..],
        [(as_of + bound + 1, false)],
        "not a millisecond early or late"
    );
}

#[test]
fn a_clock_that_jumps_makes_nothing_fresh_or_stale() {
    let (mut world, server, devices, _) = linked_team(93, 1);
    let device = devices[0];
    for jump in [86_400_000, -86_400_000] {
        world.set_skew(device, jump);
        world.advance(seconds(60));
        assert_eq!(freshness(&world, device).len(), 1);
    }
    world.part(device, server);
    world.advance(STALENESS_BOUND + seconds(5));
    let last = freshness(&world, device).last().copied();
    assert!(matches!(last, Some((_, false))), "{last:?}");
}

/// What a device was told last of another.
fn relayed(world: &World, node: NodeId, of: NodeId) -> Option<&RelayedRow> {
    let of = world.peer(of);
    let rows = told(world, node).filter_map(|event| match event {
        Event::Relayed { peer, row, .. } if *peer == of => Some(row),
        _ => None,
    });
    rows.last()
}

/// The end of a node's feed.
fn feed_end(world: &World, node: NodeId, of: WorkspaceId) -> u64 {
    let engine = world.engine(node).expect("it runs");
    let status = engine.workspace_status(&of).expect("it is in use");
    status.durable.seq.0
}

fn held(world: &World, node: NodeId, of: NodeId) -> Option<u64> {
    relayed(world, node, of)?.held.map(|held| held.seq.0)
}

#[test]
fn a_device_learns_through_the_server_what_its_member_s_other_devices_hold() {
    let (mut world, server, devices, of) = linked_team(94, 2);
    let [a, b] = [devices[0], devices[1]];
    fill(&mut world, a, of, 0..5);
    assert_eq!(held(&world, a, b), Some(feed_end(&world, a, of)));
    // While the other is away, what it held stays what it holds.
    world.part(b, server);
    world.run_until_quiet();
    let before = feed_end(&world, a, of);
    fill(&mut world, a, of, 0..5);
    assert_eq!(held(&world, a, b), Some(before));
    // It gets it while the author is away, who is told at the next greeting.
    world.part(a, server);
    world.run_until_quiet();
    world.heal(b, server);
    world.run_until_quiet();
    assert_eq!(held(&world, a, b), Some(before));
    world.heal(a, server);
    world.run_until_quiet();
    assert_eq!(held(&world, a, b), Some(feed_end(&world, a, of)));
    // It is still known after a restart, and without the server.
    let end = feed_end(&world, a, of);
    world.part(a, server);
    world.run_until_quiet();
    world.crash(a, 0);
    world.restart(a);
    world.run_until_quiet();
    let key = reconvene_core::keys::Key::peer(&of, &world.peer(server));
    let row = world.disk(a).reader.read(&key).expect("it reads");
    let row = PeerRow::decode(&row.expect("it is there")).expect("it decodes");
    let told = row.relayed[&world.peer(b)].held.expect("it is known");
    assert_eq!(told.seq.0, end);
}

/// A device writes, then another takes that from the server while the first is away; in the end both are.
fn one_after_the_other(world: &mut World, server: NodeId, [a, b]: [NodeId; 2], of: WorkspaceId) {
    world.part(b, server);
    fill(world, a, of, 0..5);
    world.part(a, server);
    world.run_until_quiet();
    world.heal(b, server);
    world.run_until_quiet();
    world.part(b, server);
}

#[test]
fn what_is_said_before_a_history_is_confirmed_is_taken_when_it_is() {
    let (mut world, server, devices, of) = linked_team(87, 2);
    let [a, b] = [devices[0], devices[1]];
    one_after_the_other(&mut world, server, [a, b], of);
    let end = feed_end(&world, a, of);
    // The server is behind, so that its cursor has to be confirmed, and has nothing more to say of b.
    world.settings.read = (40, 40);
    fill(&mut world, a, of, 5..8);
    world.heal(a, server);
    world.run_until_quiet();
    assert_eq!(held(&world, a, b), Some(end));
}

#[test]
fn a_server_that_restarted_tells_of_a_device_that_is_away() {
    let (mut world, server, devices, of) = linked_team(88, 2);
    let [a, b] = [devices[0], devices[1]];
    one_after_the_other(&mut world, server, [a, b], of);
    world.crash(server, 0);
    world.restart(server);
    world.run_until_quiet();
    world.heal(a, server);
    world.run_until_quiet();
    assert_eq!(held(&world, a, b), Some(feed_end(&world, a, of)));
}

#[test]
fn who_takes_part_is_known_when_the_server_has_said_so_and_that_is_stored() {
    for (seed, count) in [(85, 1), (86, 2)] {
        let (mut world, server, devices, of) = super::team(seed, count);
        let device = devices[0];
        world.settings.latency = (20, 20);
        world.settings.write = (30, 30);
        world.connect(device, server);
        let is_told = |world: &World| {
            let engine = world.engine(device).expect("it runs");
            engine.shares_told().any(|told| told == of)
        };
        assert!(!is_told(&world), "nobody said anything yet");
        world.run_until(|world| world.is_greeted(device, server));
        assert!(!is_told(&world), "a greeting does not say it");
        // Who wants to know asks.
        let asked = world.now();
        world.give(device, Input::Refresh(of));
        while !is_told(&world) {
            world.step();
            assert!(world.now() < asked + 1_000, "it is said at once");
        }
        for other in &devices[1..] {
            let row = world.share_row(device, &of, *other);
            assert!(row.is_some(), "what is said to be known is known");
        }
    }
}

#[test]
fn a_device_of_another_member_is_not_told_of() {
    use reconvene_core::ids::MemberId;
    use reconvene_core::keys::Key;
    use reconvene_core::records::{ShareRow, Standing};
    use reconvene_core::time::WallTime;
    let (mut world, server, devices, of) = linked_team(95, 2);
    let other = ShareRow {
        member: MemberId::from_bytes([8; 16]),
        device_name: "another's".to_owned(),
        since: WallTime::from_millis(0),
        standing: Standing::Device,
    };
    let key = Key::share(&world.peer(devices[1]), &of);
    world.write(server, vec![(key, other.encode())]);
    world.run_until_quiet();
    let before = told(&world, devices[0])
        .filter(|event| matches!(event, Event::Relayed { .. }))
        .count();
    for number in 0..5 {
        world.edit(devices[0], of, document(number), 60);
    }
    world.run_until_quiet();
    let after = told(&world, devices[0])
        .filter(|event| matches!(event, Event::Relayed { .. }))
        .count();
    assert_eq!(before, after);
}

#[test]
fn what_the_server_says_of_others_survives_its_restart_and_a_wiped_device_is_not_said_to_hold() {
    let (mut world, server, devices, of) = linked_team(96, 2);
    let [a, b] = [devices[0], devices[1]];
    fill(&mut world, a, of, 0..5);
    world.crash(server, 0);
    world.restart(server);
    world.run_until_quiet();
    world.edit(a, of, document(9), 60);
    world.run_until_quiet();
    assert_eq!(held(&world, a, b), Some(feed_end(&world, a, of)));
    // Everything the other had is gone, and the server finds out before it can give it back.
    world.crash(b, 0);
    world.wipe(b);
    world.settings.read = (40, 40);
    world.restart(b);
    world.run_until(|world| relayed(world, a, b).is_some_and(|row| row.held.is_none()));
    world.run_until_quiet();
    assert_eq!(held(&world, a, b), Some(feed_end(&world, a, of)));
}

/// A device wrote on in a document that was purged without it: the server refuses that.
fn team_with_a_late_change(seed: u64) -> (World, NodeId, [NodeId; 2], WorkspaceId) {
    let (mut world, server, devices, of) = linked_team(seed, 2);
    let [a, b] = [devices[0], devices[1]];
    fill(&mut world, a, of, 0..4);
    while_apart(&mut world, a, server, |world| {
        world.edit(a, of, document(1), 60);
        world.run_until_quiet();
        world.purge(server, of, &[document(1)]);
        world.run_until_quiet();
    });
    (world, server, [a, b], of)
}

#[test]
fn what_the_server_refused_is_not_said_to_be_held_by_another_device() {
    let (world, _, [a, b], of) = team_with_a_late_change(98);
    let row = relayed(&world, a, b).expect("it was told");
    let held = row.held.expect("it holds what the server took");
    assert_eq!(held.seq.0, feed_end(&world, a, of));
    assert!(row.refused.contains_key(&document(1)), "{row:?}");
}

#[test]
fn what_was_refused_stays_in_the_journal_of_a_device_that_was_killed_before_it_wrote_that_down() {
    let (mut world, server, [a, _], of) = team_with_a_late_change(100);
    let is_kept = |world: &World| {
        let entries = world.disk(a).store.journal_entries();
        let mut facts = entries.iter().flat_map(crate::disk::journal_facts);
        facts.any(|fact| fact.1 == document(1))
    };
    assert!(is_kept(&world));
    // What it knows of the server is as before the server refused anything.
    let peer = world.peer(server);
    let key = reconvene_core::keys::Key::peer(&of, &peer);
    let engine = world.engine(a).expect("it runs");
    let status = engine.workspace_status(&of).expect("it is in use");
    let row = PeerRow {
        refused_there: BTreeMap::new(),
        ..status.peers[&peer].clone()
    };
    world.part(a, server);
    world.run_until_quiet();
    world.write(a, vec![(key, row.encode())]);
    world.run_until_quiet();
    world.crash(a, 0);
    world.restart(a);
    world.heal(a, server);
    world.run_until_quiet();
    assert!(world.is_greeted(a, server) && is_kept(&world));
}

#[test]
fn a_refusal_counts_from_the_greeting_until_it_is_told_again_also_over_a_cut() {
    let (mut world, server, [a, _], of) = team_with_a_late_change(99);
    let refused = |world: &World| {
        let engine = world.engine(a).expect("it runs");
        let before = engine.refused_before().map(|(.., document, _)| document);
        let rows = engine.peers(Some(of)).flat_map(|(_, rows)| rows);
        let told = rows.flat_map(|(_, row)| row.refused_there.keys().copied());
        before.chain(told).any(|id| id == document(1))
    };
    assert!(refused(&world));
    world.part(a, server);
    world.run_until_quiet();
    world.heal(a, server);
    world.run_until(|world| world.is_greeted(a, server));
    assert!(refused(&world), "it was not told again yet");
    world.part(a, server);
    world.run_until_quiet();
    world.crash(a, 0);
    world.restart(a);
    world.run_until_quiet();
    let key = reconvene_core::keys::Key::peer(&of, &world.peer(server));
    let row = world.disk(a).reader.read(&key).expect("it reads");
    let row = PeerRow::decode(&row.expect("it is there")).expect("it decodes");
    assert!(row.refused_there.contains_key(&document(1)), "{row:?}");
}
