//! Strangers, tickets, liars and noise.

use bytes::Bytes;
use reconvene_core::engine::Event;
use reconvene_core::guard::parse_change;
use reconvene_core::ids::{ChangeHash, DocumentId, RequestId};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::wire::{Changes, DocumentChanges, Frame, Hello, Role};

use super::{fill, linked_team, seconds, team, told};
use crate::changes::{KIND, Made, OTHER_KIND, Recipe, genesis, make};
use crate::world::{NodeId, World, document, workspace};

/// Makes a node believe that it shares a workspace with another, which knows nothing of it.
fn believe(world: &mut World, node: NodeId, other: NodeId) {
    world.believe_in(node, other, workspace(1));
}

pub(super) fn refusals(world: &World, node: NodeId) -> Vec<RefusalCode> {
    told(world, node)
        .filter_map(|event| match event {
            Event::RefusedByPeer { code, .. } => Some(*code),
            _ => None,
        })
        .collect()
}

#[test]
fn an_unknown_peer_is_refused_as_not_enrolled() {
    let (mut world, server, _, _) = team(60, 1);
    let stranger = world.add(Role::Device);
    believe(&mut world, stranger, server);
    world.connect(stranger, server);
    world.advance(seconds(2));
    let codes = refusals(&world, stranger);
    assert!(codes.contains(&RefusalCode::NotEnrolled), "{codes:?}");
    assert!(!world.is_linked(stranger, server));
}

#[test]
fn a_peer_of_another_protocol_is_refused_as_such_known_or_not() {
    for known in [false, true] {
        let (mut world, server, devices, _) = team(61, 1);
        let mut node = devices[0];
        if !known {
            node = world.add(Role::Device);
            believe(&mut world, node, server);
        }
        world.settings.read = (50, 50);
        world.connect(node, server);
        world.run_until(|world| world.is_linked(node, server));
        // Before its own greeting comes, one of a version nobody speaks any more.
        let hello = Frame::Hello(Hello {
            protocol_min: 0,
            protocol_max: 0,
            role: Role::Device,
            state_version: 1,
            workspaces: Vec::new(),
            more: false,
            shares: None,
        });
        world.inject(node, server, hello.encode()[0].clone());
        world.disconnect_quietly(node, server);
        world.advance(seconds(1));
        let codes = refusals(&world, node);
        assert!(
            codes.contains(&RefusalCode::IncompatibleProtocol),
            "known: {known}, {codes:?}"
        );
    }
}

fn outcome(world: &World, node: NodeId, request: RequestId) -> Option<Result<(), RefusalCode>> {
    told(world, node).find_map(|event| match event {
        Event::Joined { request: of, .. } if *of == request => Some(Ok(())),
        Event::JoinFailed {
            request: of, code, ..
        } if *of == request => Some(Err(code.unwrap_or(RefusalCode::Unknown))),
        _ => None,
    })
}

/// Has a device redeem a ticket and act on the answer as its host would.
pub(super) fn redeem(
    world: &mut World,
    node: NodeId,
    server: NodeId,
    secret: [u8; 32],
) -> Result<(), RefusalCode> {
    let request = world.join(node, server, secret);
    world.run_until(|world| outcome(world, node, request).is_some());
    let result = outcome(world, node, request).expect("it has an outcome");
    if result.is_ok() {
        believe(world, node, server);
    }
    result
}

#[test]
fn a_ticket_opens_its_workspace_once_and_again_for_the_same_device() {
    let (mut world, server, devices, of) = linked_team(62, 1);
    fill(&mut world, devices[0], of, 0..5);
    let [one, other] = [world.add(Role::Device), world.add(Role::Device)];
    let secret = world.issue_ticket(server, (of, workspace(2)), 60_000);
    world.run_until_quiet();
    assert_eq!(redeem(&mut world, one, server, secret), Ok(()));
    world.connect(one, server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], one], of);
    let enrolled = told(&world, server).any(
        |event| matches!(event, Event::DeviceEnrolled { peer, .. } if *peer == world.peer(one)),
    );
    assert!(enrolled);
    // It may not have heard the answer, so it may ask again, also late, also while enrolled.
    world.advance(seconds(120));
    assert_eq!(redeem(&mut world, one, server, secret), Ok(()));
    let used = redeem(&mut world, other, server, secret);
    assert_eq!(used, Err(RefusalCode::TicketUsed));
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], one], of);
}

#[test]
fn expired_and_unknown_tickets_are_refused_as_such() {
    let (mut world, server, _, of) = team(63, 1);
    let device = world.add(Role::Device);
    let secret = world.issue_ticket(server, (of, workspace(2)), 5_000);
    world.advance(seconds(6));
    let late = redeem(&mut world, device, server, secret);
    assert_eq!(late, Err(RefusalCode::TicketExpired));
    let unknown = redeem(&mut world, device, server, [9; 32]);
    assert_eq!(unknown, Err(RefusalCode::TicketUnknown));
}

#[test]
fn of_two_devices_that_redeem_one_ticket_at_once_one_gets_in() {
    for read in [(0, 1), (0, 40), (30, 30)] {
        for write in [(1, 1), (0, 30)] {
            let (mut world, server, _, of) = team(64, 1);
            let devices = [world.add(Role::Device), world.add(Role::Device)];
            let secret = world.issue_ticket(server, (of, workspace(2)), 60_000);
            world.run_until_quiet();
            world.settings.read = read;
            world.settings.write = write;
            let requests = devices.map(|device| (device, world.join(device, server, secret)));
            world.advance(seconds(5));
            let mut outcomes: Vec<_> = requests
                .iter()
                .map(|(device, request)| outcome(&world, *device, *request))
                .collect();
            outcomes.sort();
            let expected = vec![Some(Ok(())), Some(Err(RefusalCode::TicketUsed))];
            assert_eq!(outcomes, expected, "read {read:?}, write {write:?}");
        }
    }
}

#[test]
fn a_ticket_for_more_workspaces_than_a_link_carries_is_refused_as_such() {
    let (mut world, server, _, _) = team(73, 0);
    let device = world.add(Role::Device);
    let max = reconvene_core::limits::LINK_WORKSPACES_MAX;
    let many: Vec<_> = (0..max - 1)
        .map(|number| {
            let mut id = [0xf0; 16];
            id[..2].copy_from_slice(&u16::try_from(number).expect("it is small").to_be_bytes());
            reconvene_core::ids::WorkspaceId::from_bytes(id)
        })
        .collect();
    world.share(server, device, &many);
    world.run_until_quiet();
    let secret = world.issue_ticket(server, (workspace(1), workspace(2)), 60_000);
    world.run_until_quiet();
    let refused = redeem(&mut world, device, server, secret);
    assert_eq!(refused, Err(RefusalCode::TooManyWorkspaces));
    // One that opens no further workspace is as good as ever.
    let secret = world.issue_ticket(server, (many[0], many[1]), 60_000);
    world.run_until_quiet();
    assert_eq!(redeem(&mut world, device, server, secret), Ok(()));
}

#[test]
fn a_join_at_a_server_that_cannot_be_reached_fails_and_says_so() {
    let (mut world, server, _, _) = team(65, 1);
    let device = world.add(Role::Device);
    world.part(device, server);
    let request = world.join(device, server, [1; 32]);
    world.advance(seconds(1));
    let result = outcome(&world, device, request);
    assert_eq!(result, Some(Err(RefusalCode::Unknown)));
}

/// A change of a made-up actor.
fn forged(actor: u8, seq: u64, dependencies: Vec<ChangeHash>, value: u8) -> Made {
    make(Recipe {
        actor: [actor; 16],
        seq,
        start_op: seq + 1,
        dependencies,
        value: vec![value],
    })
}

/// Gives the server changes as if a device had sent them.
fn send_forged(world: &mut World, from: NodeId, to: NodeId, documents: Vec<DocumentChanges>) {
    let frame = Frame::Changes(Changes {
        workspace: workspace(1),
        documents,
        feed: None,
        number: 0,
        early: false,
    });
    for frame in frame.encode() {
        world.inject(from, to, frame);
    }
    world.run_until_quiet();
}

fn changes(
    number: u64,
    kind: reconvene_core::ids::DocumentKind,
    made: &[&Made],
) -> DocumentChanges {
    DocumentChanges {
        document: document(number),
        kind,
        snapshot: None,
        changes: made.iter().map(|made| made.body.clone()).collect(),
        purged: None,
    }
}

/// What the server refused of a document.
fn refused_of(world: &World, server: NodeId, number: u64) -> Vec<RefusalCode> {
    told(world, server)
        .filter_map(|event| match event {
            Event::DocumentsRefused {
                here: true,
                documents,
                ..
            } => documents
                .iter()
                .find(|(of, _)| *of == document(number))
                .map(|(_, code)| *code),
            _ => None,
        })
        .collect()
}

#[test]
fn bad_changes_are_refused_by_document_and_stall_no_other() {
    let (mut world, server, devices, of) = linked_team(66, 2);
    world.liars = true;
    let root = genesis(KIND).hash;
    let honest = forged(0xb1, 1, vec![root], 1);
    let second = forged(0xb1, 1, vec![root], 2);
    let mut broken = honest.body.to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let broken = Made {
        hash: honest.hash,
        body: broken.into(),
    };
    let huge = Made {
        hash: honest.hash,
        body: Bytes::from(vec![0; reconvene_core::limits::CHANGE_BYTES_MAX + 1]),
    };
    let orphan = forged(0xb2, 2, vec![honest.hash], 3);
    let gap = forged(0xb3, 3, vec![root], 4);
    // A genesis has one operation here; the next is the second.
    let [low, high] = [1, 3].map(|start_op| {
        make(Recipe {
            actor: [0xb4; 16],
            seq: 1,
            start_op,
            dependencies: vec![root],
            value: vec![5],
        })
    });
    send_forged(
        &mut world,
        devices[0],
        server,
        vec![changes(1, KIND, &[&honest])],
    );
    send_forged(
        &mut world,
        devices[0],
        server,
        vec![
            changes(1, KIND, &[&second]),
            changes(2, KIND, &[&broken]),
            changes(3, KIND, &[&orphan]),
            changes(4, KIND, &[&gap]),
            changes(5, OTHER_KIND, &[&honest]),
            changes(6, KIND, &[&honest]),
            changes(8, KIND, &[&honest, &second]),
            changes(9, KIND, &[&low]),
            changes(10, KIND, &[&high]),
        ],
    );
    send_forged(
        &mut world,
        devices[0],
        server,
        vec![changes(7, KIND, &[&huge])],
    );
    let expected = [
        (1, Some(RefusalCode::Equivocation)),
        (2, Some(RefusalCode::Damaged)),
        (3, Some(RefusalCode::MissingDependencies)),
        (4, Some(RefusalCode::Damaged)),
        (5, Some(RefusalCode::Damaged)),
        (6, None),
        (7, Some(RefusalCode::TooLarge)),
        (8, Some(RefusalCode::Equivocation)),
        (9, Some(RefusalCode::Damaged)),
        (10, Some(RefusalCode::Damaged)),
    ];
    for (number, code) in expected {
        assert_eq!(
            refused_of(&world, server, number).last().copied(),
            code,
            "document {number}"
        );
    }
    // The sender is told, the good ones are everywhere, and everything else goes on.
    let told_back = told(&world, devices[0])
        .any(|event| matches!(event, Event::DocumentsRefused { here: false, .. }));
    assert!(told_back);
    world.edit(devices[1], of, document(50), 60);
    world.run_until_quiet();
    world.check_rows(server, of);
    assert_eq!(world.held(server, of), world.held(devices[1], of));
    assert_eq!(world.held(server, of).len(), 4);
}

#[test]
fn changes_whose_dependencies_are_missing_are_wanted_and_healed() {
    let (mut world, server, devices, of) = linked_team(67, 1);
    fill(&mut world, devices[0], of, 0..1);
    world.part(devices[0], server);
    world.run_until_quiet();
    world.edit(devices[0], of, document(0), 60);
    world.edit(devices[0], of, document(0), 60);
    world.run_until_quiet();
    let last = world.last_change(devices[0], of, document(0));
    world.heal(devices[0], server);
    // The last change comes first, as from someone who skipped what it stands on.
    world.settings.read = (20, 20);
    world.run_until(|world| world.is_greeted(server, devices[0]));
    let made = Made {
        hash: parse_change(&last).expect("it is a change").hash,
        body: last,
    };
    send_forged(
        &mut world,
        devices[0],
        server,
        vec![changes(0, KIND, &[&made])],
    );
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    assert_eq!(
        refused_of(&world, server, 0),
        vec![RefusalCode::MissingDependencies]
    );
    assert_eq!(listed(&world, server, devices[0]), (vec![], vec![]));
    assert_eq!(listed(&world, devices[0], server), (vec![], vec![]));
}

/// Which documents a node has on its lists for a peer: refused here, and refused there.
fn listed(world: &World, node: NodeId, peer: NodeId) -> (Vec<DocumentId>, Vec<DocumentId>) {
    let status = world
        .engine(node)
        .and_then(|engine| engine.workspace_status(&workspace(1)));
    let status = status.expect("the workspace is in use");
    let row = &status.peers[&world.peer(peer)];
    let here = row.refused_here.keys().copied().collect();
    (here, row.refused_there.keys().copied().collect())
}

#[test]
fn what_was_refused_for_want_of_others_leaves_the_lists_when_a_third_peer_brings_it() {
    let (mut world, server, devices, of) = linked_team(71, 2);
    let root = genesis(KIND).hash;
    let first = forged(0xb1, 1, vec![root], 1);
    let second = forged(0xb1, 2, vec![first.hash], 2);
    world.liars = true;
    let [one, other] = [devices[0], devices[1]];
    send_forged(&mut world, one, server, vec![changes(1, KIND, &[&second])]);
    assert_eq!(
        refused_of(&world, server, 1),
        vec![RefusalCode::MissingDependencies]
    );
    send_forged(
        &mut world,
        other,
        server,
        vec![changes(1, KIND, &[&first, &second])],
    );
    assert_eq!(world.held(server, of).len(), 2);
    assert_eq!(listed(&world, server, one).0, vec![]);
    assert_eq!(listed(&world, one, server).1, vec![]);
}

#[test]
fn more_refusals_than_are_listed_end_no_link_and_are_found_again() {
    let (mut world, server, devices, of) = linked_team(72, 1);
    let device = devices[0];
    world.liars = true;
    // Such as an honest peer may pass on: they do not follow what their author made before.
    let root = genesis(KIND).hash;
    let bad: Vec<_> = (0..300_u64)
        .map(|number| {
            let gap = make(Recipe {
                actor: [0xb1; 16],
                seq: 3,
                start_op: 2,
                dependencies: vec![root],
                value: number.to_be_bytes().to_vec(),
            });
            (number, gap)
        })
        .collect();
    for part in bad.chunks(50) {
        let documents = part
            .iter()
            .map(|(number, made)| changes(1_000 + number, KIND, &[made]))
            .collect();
        send_forged(&mut world, device, server, documents);
    }
    assert!(world.is_greeted(device, server), "the link stays");
    let max = reconvene_core::limits::REFUSALS_MAX;
    assert_eq!(listed(&world, server, device).0.len(), max);
    assert_eq!(listed(&world, device, server).1.len(), max);
    fill(&mut world, device, of, 0..3);
    world.check_converged(&[server, device], of);
    // Greeting anew, everything is compared; there is nothing of the kind on the device.
    world.cut_between(device, server);
    world.run_until_quiet();
    fill(&mut world, device, of, 3..6);
    world.check_converged(&[server, device], of);
}

#[test]
fn frames_that_come_twice_change_nothing() {
    let (mut world, server, devices, of) = linked_team(68, 2);
    world.recorded = Some(Vec::new());
    for number in 0..20 {
        world.edit(devices[0], of, document(number % 6), 60);
        world.run_until_quiet();
    }
    let before = world.held(server, of);
    let frames = world.recorded.take().unwrap_or_default();
    // It may be blamed for saying it twice.
    world.liar = Some(devices[0]);
    for frame in frames {
        if matches!(Frame::decode(&frame), Ok(Frame::Changes(_))) {
            world.inject(devices[0], server, frame);
            world.run_until_quiet();
        }
    }
    world.liar = None;
    assert_eq!(world.held(server, of), before);
    world.check_converged(&[server, devices[0], devices[1]], of);
}

#[test]
fn reconciliation_started_twice_at_once_breaks_nothing() {
    let (mut world, server, devices, of) = linked_team(69, 2);
    fill(&mut world, devices[0], of, 0..20);
    world.liars = true;
    let negentropy_probe = |run| {
        Frame::Reconcile(reconvene_core::wire::Reconcile {
            workspace: of,
            run,
            message: Bytes::from_static(&[0x61]),
        })
    };
    for run in [1, 2, 3] {
        let frame = negentropy_probe(run).encode()[0].clone();
        world.inject(devices[0], server, frame);
    }
    world.run_until_quiet();
    world.edit(devices[1], of, document(3), 60);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    world.check_rows(server, of);
    assert_eq!(world.held(server, of), world.held(devices[1], of));
}

#[test]
fn noise_never_panics_and_never_stalls_another_peer() {
    let (mut world, server, devices, of) = team(70, 2);
    world.recorded = Some(Vec::new());
    world.liars = true;
    world.share(devices[0], devices[1], &[of]);
    for number in 0..12 {
        world.edit(devices[0], of, document(number), 60);
        world.edit(devices[1], of, document(number + 6), 60);
    }
    world.run_until_quiet();
    world.connect(devices[0], devices[1]);
    world.connect(devices[0], server);
    world.connect(devices[1], server);
    world.run_until_quiet();
    world.edit(devices[0], of, document(1), 70_000);
    world.advance(seconds(12));
    let frames = world.recorded.take().unwrap_or_default();
    assert!(frames.len() > 50, "{}", frames.len());
    let mut closed = 0;
    for _ in 0..1_500 {
        let which = world.pick(frames.len());
        let mut noise = frames[which].to_vec();
        for _ in 0..=world.pick(3) {
            let place = world.pick(noise.len().max(1));
            match world.pick(4) {
                0 if !noise.is_empty() => noise.truncate(place),
                1 => noise.insert(place.min(noise.len()), 0xff),
                _ if !noise.is_empty() => {
                    let at = place % noise.len();
                    noise[at] = u8::try_from(world.pick(256)).expect("it is below 256");
                }
                _ => noise.push(7),
            }
        }
        if !world.is_linked(devices[0], server) {
            closed += 1;
            world.run_until_quiet();
        }
        world.inject(devices[0], server, noise.into());
        for _ in 0..world.pick(4) {
            world.step();
        }
    }
    assert!(closed > 20, "noise closes links: {closed}");
    world.run_until_quiet();
    world.edit(devices[1], of, document(500), 60);
    world.edit(server, of, document(501), 60);
    world.run_until_quiet();
    world.check_rows(server, of);
    let server_holds = world.held(server, of);
    let device_holds = world.held(devices[1], of);
    for number in [500, 501] {
        let has = |facts: &std::collections::BTreeSet<crate::world::Fact>| {
            facts.iter().any(|fact| fact.1 == document(number))
        };
        assert!(
            has(&server_holds) && has(&device_holds),
            "document {number}"
        );
    }
}
