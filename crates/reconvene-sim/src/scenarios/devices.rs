//! Devices of one workspace without their server: they know of each other through it, and what one of
//! them has reaches all the others by any way there is.

use reconvene_core::engine::{Event, Input};
use reconvene_core::ids::{PeerId, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::records::{PeerRow, Record as _, Standing};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::StoreRead as _;
use reconvene_core::wire::{Frame, Role, SharedDevice, Shares};

use super::strangers::{redeem, refusals};
use super::{fill, linked_team, seconds, told};
use crate::world::{Crossings, NodeId, World, document, workspace};

/// A server and devices that joined it with tickets, as members with these homes, and are linked.
fn enrolled(seed: u64, homes: &[u8]) -> (World, NodeId, Vec<NodeId>) {
    let mut world = World::new(seed);
    let server = world.add(Role::Server);
    let devices: Vec<_> = homes
        .iter()
        .map(|home| {
            let device = world.add(Role::Device);
            let opened = (workspace(1), workspace(*home));
            let secret = world.issue_ticket(server, opened, 60_000);
            world.run_until_quiet();
            assert_eq!(redeem(&mut world, device, server, secret), Ok(()));
            world.believe_in(device, server, workspace(*home));
            world.connect(device, server);
            world.run_until_quiet();
            device
        })
        .collect();
    (world, server, devices)
}

fn standing(world: &World, node: NodeId, of: WorkspaceId, peer: NodeId) -> Option<Standing> {
    world.share_row(node, &of, peer).map(|row| row.standing)
}

#[test]
fn enrolled_devices_learn_of_each_other_from_their_server_alone() {
    let (mut world, server, devices) = enrolled(80, &[11, 12, 11]);
    let learned = Some(Standing::Learned(world.peer(server)));
    for one in 0..3 {
        for other in (0..3).filter(|other| *other != one) {
            let (one, other) = (devices[one], devices[other]);
            assert_eq!(standing(&world, one, workspace(1), other), learned);
        }
    }
    // A home is for its member's devices.
    assert_eq!(
        standing(&world, devices[0], workspace(11), devices[2]),
        learned
    );
    for (one, other) in [(0, 1), (1, 0), (1, 2)] {
        for home in [11, 12] {
            let of = workspace(home);
            assert_eq!(standing(&world, devices[one], of, devices[other]), None);
        }
    }
    let row = world.share_row(devices[0], &workspace(1), devices[1]);
    assert_eq!(
        row.expect("it is there").device_name,
        format!("node {}", devices[1])
    );

    // What is known is not told again.
    world.recorded = Some(Vec::new());
    world.cut_between(devices[0], server);
    world.run_until_quiet();
    let frames = world.recorded.take().unwrap_or_default();
    let told = frames
        .iter()
        .filter(|frame| matches!(Frame::decode(frame), Ok(Frame::Shares(_))));
    assert_eq!(told.count(), 0);

    // Another device may not tell.
    world.connect(devices[0], devices[1]);
    world.run_until_quiet();
    assert!(world.is_linked(devices[0], devices[1]));
    world.liars = true;
    let shares = Frame::Shares(Shares {
        workspace: workspace(1),
        devices: vec![SharedDevice {
            peer: PeerId::from_bytes([0x66; 32]),
            member: reconvene_core::ids::MemberId::from_bytes([1; 16]),
            device_name: "an intruder".to_owned(),
        }],
        more: false,
    });
    for to in [devices[1], server] {
        world.inject(devices[0], to, shares.encode()[0].clone());
        world.run_until_quiet();
        let key = Key::share(&PeerId::from_bytes([0x66; 32]), &workspace(1));
        let found = world.disk(to).reader.contains(&key);
        assert_eq!(found, Ok(false));
    }
    world.check_converged(&[server, devices[0], devices[1], devices[2]], workspace(1));
}

#[test]
fn a_device_that_leaves_is_forgotten_by_the_others() {
    let (mut world, server, devices) = enrolled(81, &[11, 12, 13]);
    world.connect(devices[0], devices[1]);
    world.run_until_quiet();
    let leaving = Input::Leave {
        workspace: workspace(1),
        removing: true,
    };
    world.give(devices[1], leaving);
    world.disconnect(devices[1], server);
    world.advance(seconds(5));
    assert_eq!(standing(&world, server, workspace(1), devices[1]), None);
    for device in [devices[0], devices[2]] {
        assert_eq!(standing(&world, device, workspace(1), devices[1]), None);
    }
    assert!(told(&world, server).any(|event| matches!(event, Event::DeviceLeft { .. })));
    assert!(!world.is_greeted(devices[0], devices[1]));
    // It is a stranger to them now.
    world.connect(devices[1], devices[2]);
    world.advance(seconds(2));
    assert!(refusals(&world, devices[1]).contains(&RefusalCode::NotEnrolled));
}

#[test]
fn a_device_of_no_common_workspace_is_a_stranger_to_devices() {
    let (mut world, _, devices) = enrolled(82, &[11, 12]);
    let stranger = world.add(Role::Device);
    world.believe_in(stranger, devices[0], workspace(1));
    world.connect(stranger, devices[0]);
    world.advance(seconds(2));
    assert!(refusals(&world, stranger).contains(&RefusalCode::NotEnrolled));
    // Nor does a device dial one it knows nothing of for long.
    world.connect(devices[1], stranger);
    world.advance(seconds(2));
    assert!(!world.is_greeted(devices[1], stranger));
}

/// What the journal of a node keeps.
fn kept(world: &World, node: NodeId) -> usize {
    world.disk(node).store.journal_entries().len()
}

#[test]
fn two_devices_go_on_without_the_server_and_one_of_them_brings_it_everything() {
    let (mut world, server, devices) = enrolled(83, &[11, 12]);
    let of = workspace(1);
    fill(&mut world, devices[0], of, 0..30);
    world.crash(server, 0);
    world.run_until_quiet();
    for number in 0..10 {
        world.edit(devices[0], of, document(number), 60);
        world.edit(devices[1], of, document(number + 5), 60);
        world.edit(devices[1], of, document(100 + number), 60);
    }
    world.run_until_quiet();
    assert!(
        kept(&world, devices[1]) >= 20,
        "nobody else holds its edits"
    );
    world.connect(devices[0], devices[1]);
    world.run_until_quiet();
    world.check_converged(&devices, of);
    assert!(kept(&world, devices[1]) <= 2, "the other device holds them");
    // The one that made most of it never comes back.
    world.part(devices[1], server);
    world.restart(server);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    assert_eq!(world.held(server, of).len(), 60);
}

fn mesh(world: &mut World, nodes: &[NodeId]) {
    for (place, one) in nodes.iter().enumerate() {
        for other in &nodes[place + 1..] {
            world.connect(*other, *one);
        }
    }
    world.run_until_quiet();
}

#[test]
fn in_a_mesh_a_change_crosses_each_link_at_most_once_and_never_back() {
    for latency in [(5, 5), (1, 80)] {
        let (mut world, server, devices) = enrolled(84, &[11, 12]);
        let of = workspace(1);
        world.settings.latency = latency;
        fill(&mut world, devices[0], of, 0..5);
        let all = [server, devices[0], devices[1]];
        mesh(&mut world, &all);
        world.crossings = Some(Crossings::new());
        for number in 0..60 {
            let node = all[world.pick(3)];
            world.edit(node, of, document(number % 7), 60);
            if number % 3 == 0 {
                world.advance(std::time::Duration::from_millis(30));
            }
        }
        world.run_until_quiet();
        world.advance(seconds(30));
        world.check_converged(&all, of);
        let crossings = world.crossings.take().unwrap_or_default();
        let mut by_change = std::collections::BTreeMap::<_, usize>::new();
        for ((wire, side, fact), times) in &crossings {
            assert_eq!(*times, 1, "{fact:?} crossed wire {wire} from side {side}");
            *by_change.entry(*fact).or_default() += 1;
        }
        assert_eq!(by_change.len(), 60);
        // Two links bring it to the other two, and those may at most pass each other with it.
        assert!(by_change.values().all(|times| (2..=4).contains(times)));
    }
}

#[test]
fn a_mesh_that_was_brought_up_again_sends_nothing_twice_and_stalls_nowhere() {
    let (mut world, server, devices) = enrolled(85, &[11, 12]);
    let of = workspace(1);
    let all = [server, devices[0], devices[1]];
    fill(&mut world, devices[0], of, 0..40);
    mesh(&mut world, &all);
    for one in 0..3 {
        for other in 0..one {
            world.cut_between(all[one], all[other]);
        }
    }
    world.crossings = Some(Crossings::new());
    world.run_until_quiet();
    world.advance(seconds(600));
    world.check_converged(&all, of);
    assert_eq!(world.crossings.take(), Some(Crossings::new()));
    for node in all {
        let stalled = told(&world, node).any(|event| matches!(event, Event::Stalled { .. }));
        assert!(!stalled, "node {node}");
    }
}

#[test]
fn a_mesh_loses_nothing_to_a_crash_at_any_step() {
    let play = || {
        let (mut world, server, devices) = enrolled(86, &[11, 12]);
        let of = workspace(1);
        world.settings.latency = (1, 20);
        world.settings.completion = (0, 3);
        let all = [server, devices[0], devices[1]];
        for number in 0..6 {
            for node in all {
                world.edit(node, of, document(number), 200);
            }
        }
        for (one, other) in [(0, 1), (1, 2)] {
            let (one, other) = (all[one], all[other]);
            world.connect(other, one);
        }
        world.connect(devices[0], devices[1]);
        (world, all, of)
    };
    let (mut undisturbed, ..) = play();
    let start = undisturbed.steps();
    undisturbed.run_until_quiet();
    let course = undisturbed.steps() - start;
    for victim in 0..3 {
        for cut in (0..course).step_by(29) {
            let (mut world, all, of) = play();
            for _ in 0..cut {
                world.step();
            }
            let lost = world.pick(3);
            world.crash(all[victim], lost);
            world.advance(seconds(cut % 4));
            world.restart(all[victim]);
            world.run_until_quiet();
            world.advance(seconds(70));
            world.run_until_quiet();
            world.check_converged(&all, of);
        }
    }
}

/// Makes a device claim to hold far more of the server's feed than there is.
fn lie(world: &mut World, device: NodeId, server: NodeId, of: WorkspaceId) {
    let status = world
        .engine(server)
        .and_then(|engine| engine.workspace_status(&of));
    let mut claimed = status.expect("the server uses the workspace").durable;
    claimed.seq = reconvene_core::ids::FeedSeq(claimed.seq.0 + 1_000);
    world.disconnect(device, server);
    world.run_until_quiet();
    world.crash(device, 0);
    world.restart(device);
    world.run_until_quiet();
    let row = PeerRow {
        held: Some(claimed),
        ..PeerRow::default()
    };
    let key = Key::peer(&of, &world.peer(server));
    world.write(device, vec![(key, row.encode())]);
    world.run_until_quiet();
    world.connect(device, server);
    world.run_until_quiet();
}

#[test]
fn a_device_that_claims_a_rollback_again_and_again_costs_the_others_nothing() {
    let (mut world, server, devices, of) = linked_team(87, 2);
    fill(&mut world, devices[1], of, 0..10);
    world.crash(server, 0);
    world.restart(server);
    world.run_until_quiet();
    world.liars = true;
    let count = |world: &World, node: NodeId, what: fn(&Event) -> bool| {
        told(world, node).filter(|event| what(event)).count()
    };
    // The first one may be true: the server cannot know what it lost before it was started.
    lie(&mut world, devices[0], server, of);
    world.advance(seconds(5));
    let links = count(&world, devices[1], |event| {
        matches!(event, Event::LinkReady { .. })
    });
    for _ in 0..4 {
        lie(&mut world, devices[0], server, of);
        world.edit(devices[1], of, document(3), 60);
        world.edit(devices[0], of, document(4), 60);
        world.run_until_quiet();
        world.check_converged(&[server, devices[0], devices[1]], of);
    }
    let now = count(&world, devices[1], |event| {
        matches!(event, Event::LinkReady { .. })
    });
    assert_eq!(now, links, "the other device's link stays");
    let claims = count(&world, server, |event| {
        matches!(event, Event::FalseClaim { .. })
    });
    let believed = count(&world, server, |event| {
        matches!(event, Event::RolledBack { .. })
    });
    assert_eq!((believed, claims), (1, 4));
}
