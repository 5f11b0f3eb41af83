//! Peers that send what no peer sends that keeps the protocol, and those that pass it on unknowing.

use bytes::Bytes;
use reconvene_core::engine::Event;
use reconvene_core::guard::parse_change;
use reconvene_core::ids::{DocumentId, PeerId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits;
use reconvene_core::records::{Offence, QuarantineRow, Record as _};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::wire::{Changes, DocumentChanges, Frame};

use super::{linked_team, seconds, told};
use crate::changes::{KIND, Made, OTHER_KIND, Recipe, genesis, make};
use crate::world::{NodeId, World, document, workspace};

fn change(actor: u8, start_op: u64, of: Option<&Made>, value: u16) -> Made {
    make(Recipe {
        actor: [actor; 16],
        seq: 1,
        start_op,
        dependencies: vec![of.map_or(genesis(KIND).hash, |made| made.hash)],
        value: value.to_be_bytes().to_vec(),
    })
}

/// A change of which the last byte rotted.
fn broken(value: u16) -> Bytes {
    let mut body = change(0xb0, 2, None, value).body.to_vec();
    let last = body.len() - 1;
    body[last] ^= 1;
    body.into()
}

/// Sends changes of documents in one frame, as if a node had.
fn send(world: &mut World, from: NodeId, to: NodeId, sent: &[(u64, Bytes)], early: bool) {
    let documents = sent.iter().map(|(number, body)| DocumentChanges {
        document: document(*number),
        kind: KIND,
        snapshot: None,
        changes: vec![body.clone()],
        purged: None,
    });
    let frame = Frame::Changes(Changes {
        workspace: workspace(1),
        documents: documents.collect(),
        feed: None,
        number: 0,
        early,
    });
    for frame in frame.encode() {
        world.inject(from, to, frame);
    }
    world.run_until_quiet();
}

/// What a node found out about a peer, and whether it closed a link for it.
fn found(world: &World, node: NodeId) -> Vec<(PeerId, Vec<Offence>, bool)> {
    told(world, node)
        .filter_map(|event| match event {
            Event::Offended {
                peer,
                offences,
                closes,
                ..
            } => Some((*peer, offences.clone(), *closes)),
            _ => None,
        })
        .collect()
}

/// Documents for which a node was told of a fault of its own.
fn blamed(world: &World, node: NodeId) -> Vec<Vec<DocumentId>> {
    told(world, node)
        .filter_map(|event| match event {
            Event::RefusedByPeer {
                code: RefusalCode::Fault,
                fault: Some(fault),
                ..
            } => Some(fault.documents.iter().map(|(of, _)| *of).collect()),
            _ => None,
        })
        .collect()
}

fn greetings(world: &World, node: NodeId, with: NodeId) -> usize {
    let with = world.peer(with);
    let ready = told(world, node)
        .filter(|event| matches!(event, Event::LinkReady { peer, .. } if *peer == with));
    ready.count()
}

/// What a node's store keeps in quarantine.
fn quarantine(world: &World, node: NodeId) -> Vec<QuarantineRow> {
    let range = KeyRange::quarantined(&workspace(1));
    let rows = world.disk(node).reader.scan(&Scan::ascending(range, 4096));
    let rows = rows.unwrap().rows;
    rows.iter()
        .map(|(_, value)| QuarantineRow::decode(value).unwrap())
        .collect()
}

fn remembered(world: &World, node: NodeId, of: NodeId) -> Vec<Offence> {
    let engine = world.engine(node).unwrap();
    let status = engine.workspace_status(&workspace(1)).unwrap();
    status.peers[&world.peer(of)].offences.clone()
}

#[test]
fn an_offence_is_told_and_kept_and_closes_its_link_and_no_other() {
    for early in [false, true] {
        let (mut world, server, devices, of) = linked_team(120, 2);
        world.liars = true;
        let [mallory, ada] = devices[..] else {
            panic!("there are two devices");
        };
        world.recorded = Some(Vec::new());
        let good = change(0xb1, 2, None, 1).body;
        let too_low = change(0xb2, 1, None, 1).body;
        let sent = [
            (2, broken(1)),
            (3, good.clone()),
            (4, too_low.clone()),
            (5, good),
        ];
        send(&mut world, mallory, server, &sent, early);
        let bad = [(document(2), broken(1)), (document(4), too_low)];

        // Both sides know what it was, the refusal ahead of the fault.
        let [(peer, offences, true)] = &found(&world, server)[..] else {
            panic!("{:?}", found(&world, server));
        };
        let ids: Vec<_> = offences.iter().map(|offence| offence.document).collect();
        assert_eq!(
            (*peer, &ids[..]),
            (world.peer(mallory), &[bad[0].0, bad[1].0][..])
        );
        assert_eq!(blamed(&world, mallory), std::slice::from_ref(&ids));
        let refusals = told(&world, mallory).filter_map(|event| match event {
            Event::DocumentsRefused {
                here: false,
                documents,
                ..
            } => Some(documents.clone()),
            Event::RefusedByPeer { .. } => Some(Vec::new()),
            _ => None,
        });
        let damaged = |id: &DocumentId| (*id, RefusalCode::Damaged);
        let expected = [ids.iter().map(damaged).collect(), Vec::new()];
        assert_eq!(refusals.collect::<Vec<_>>(), expected, "early: {early}");

        // The bytes are kept, whole and under whose they are.
        let rows = quarantine(&world, server);
        assert_eq!(rows.len(), 2);
        for (id, body) in &bad {
            let row = rows.iter().find(|row| row.raw == body);
            let row = row.unwrap_or_else(|| panic!("{id} is not in {rows:?}"));
            assert_eq!(row.peer, Some(world.peer(mallory)));
            assert_eq!(&row.key[..], Key::head(&of, id).as_bytes());
        }
        assert_eq!(&remembered(&world, server, mallory), offences);

        // The rest of the frame is everywhere, and only one link was closed, once.
        for node in [server, ada] {
            let held = world.held(node, of);
            let ids: Vec<_> = held.iter().map(|fact| fact.1).collect();
            assert_eq!(ids, [document(3), document(5)]);
        }
        assert_eq!(greetings(&world, mallory, server), 2);
        assert_eq!(greetings(&world, ada, server), 1);
        assert!(world.is_greeted(mallory, server));

        // It is remembered over a restart: the same again is refused, and that is all.
        world.crash(server, 0);
        world.run_until_quiet();
        world.restart(server);
        world.advance(seconds(70));
        world.run_until_quiet();
        let before = greetings(&world, mallory, server);
        let found_before = found(&world, server).len();
        for _ in 0..3 {
            send(&mut world, mallory, server, &sent[..1], early);
        }
        assert_eq!(found(&world, server).len(), found_before);
        assert_eq!(greetings(&world, mallory, server), before);
        assert_eq!(quarantine(&world, server).len(), 2);
        world.edit(mallory, of, document(9), 60);
        world.run_until_quiet();
        assert_eq!(world.held(ada, of).len(), 3);
        // Something else of the same document is another offence.
        send(&mut world, mallory, server, &[(2, broken(2))], early);
        assert_eq!(found(&world, server).len(), found_before + 1);
        assert_eq!(greetings(&world, mallory, server), before + 1);
    }
}

#[test]
fn what_an_honest_peer_may_send_closes_no_link() {
    let (mut world, server, devices, _) = linked_team(121, 1);
    let device = devices[0];
    world.liars = true;
    let first = change(0xb1, 2, None, 1);
    send(
        &mut world,
        device,
        server,
        &[(1, first.body.clone())],
        false,
    );
    let gap = make(Recipe {
        actor: [0xb3; 16],
        seq: 3,
        start_op: 3,
        dependencies: vec![first.hash],
        value: vec![1],
    });
    let orphan = change(0xb5, 3, Some(&change(0xb6, 2, None, 7)), 1);
    let equal = change(0xb1, 2, None, 2);
    let not_next = change(0xb7, 9, Some(&first), 1);
    let huge = Bytes::from(vec![0; limits::CHANGE_BYTES_MAX + 1]);
    for (body, code) in [
        (gap.body, RefusalCode::Damaged),
        (orphan.body, RefusalCode::MissingDependencies),
        (equal.body, RefusalCode::Equivocation),
        (not_next.body, RefusalCode::Damaged),
        (huge, RefusalCode::TooLarge),
    ] {
        send(&mut world, device, server, &[(1, body)], false);
        let refused = told(&world, server).filter_map(|event| match event {
            Event::DocumentsRefused {
                here: true,
                documents,
                ..
            } => documents.first().copied(),
            _ => None,
        });
        assert_eq!(refused.last(), Some((document(1), code)));
    }
    // Who put a document here first may have said the wrong kind of it.
    let other = make(Recipe {
        actor: [0xb8; 16],
        seq: 1,
        start_op: 2,
        dependencies: vec![genesis(OTHER_KIND).hash],
        value: vec![1],
    });
    let frame = Frame::Changes(Changes {
        workspace: workspace(1),
        documents: vec![DocumentChanges {
            document: document(1),
            kind: OTHER_KIND,
            snapshot: None,
            changes: vec![other.body],
            purged: None,
        }],
        feed: None,
        number: 0,
        early: false,
    });
    world.inject(device, server, frame.encode().remove(0));
    world.run_until_quiet();
    assert_eq!(found(&world, server).len(), 0);
    assert_eq!(quarantine(&world, server).len(), 0);
    assert_eq!(greetings(&world, device, server), 1);
}

#[test]
fn what_a_server_passes_on_unknowing_closes_no_link() {
    let (mut world, server, devices, of) = linked_team(122, 2);
    let [mallory, ada] = devices[..] else {
        panic!("there are two devices");
    };
    world.liar = Some(mallory);
    world.part(ada, server);
    world.run_until_quiet();
    for _ in 0..2 {
        world.edit(mallory, of, document(1), 60);
        world.run_until_quiet();
    }
    // The server knows of the first change only that it is there.
    world.crash(server, 0);
    world.restart(server);
    world.advance(seconds(70));
    world.run_until_quiet();
    let held: Vec<_> = world.held(server, of).into_iter().collect();
    let head = world.last_change(mallory, of, document(1));
    let head = parse_change(&head).unwrap();
    let first = held
        .iter()
        .map(|fact| fact.2)
        .find(|hash| *hash != head.hash);
    let first = Made {
        hash: first.unwrap(),
        body: Bytes::new(),
    };
    let wrong = change(0xb1, head.max_op() + 1, Some(&first), 1);
    send(&mut world, mallory, server, &[(1, wrong.body)], false);
    assert_eq!(world.held(server, of).len(), 3, "the server takes it");
    // Who gets all of it at once sees that it does not count on, and does not blame the server.
    world.heal(ada, server);
    world.run_until_quiet();
    let refused = told(&world, ada).any(|event| {
        let expected = [(document(1), RefusalCode::Damaged)];
        matches!(event, Event::DocumentsRefused { here: true, documents, .. } if *documents == expected)
    });
    assert!(refused, "{:?}", world.events(ada));
    let before = greetings(&world, ada, server);
    world.edit(ada, of, document(7), 60);
    world.edit(mallory, of, document(8), 60);
    world.advance(seconds(30));
    assert_eq!(greetings(&world, ada, server), before);
    assert_eq!(found(&world, ada).len(), 0);
    assert_eq!(world.held(ada, of).len(), 4);
}

#[test]
fn a_peer_with_more_offences_than_are_remembered_goes_on_with_what_is_sound() {
    let (mut world, server, devices, of) = linked_team(123, 1);
    let device = devices[0];
    world.liars = true;
    let max = u16::try_from(limits::OFFENCES_MAX).unwrap();
    for number in 0..max + 20 {
        let sent = [(u64::from(100 + number), broken(number))];
        send(&mut world, device, server, &sent, false);
    }
    assert_eq!(greetings(&world, device, server), 1 + limits::OFFENCES_MAX);
    assert_eq!(quarantine(&world, server).len(), limits::OFFENCES_MAX);
    let kept = remembered(&world, server, device);
    assert_eq!(kept.len(), limits::OFFENCES_MAX);
    assert_eq!(kept[0].document, document(120), "the oldest go");
    world.edit(device, of, document(1), 60);
    world.run_until_quiet();
    assert_eq!(world.held(server, of).len(), 1);
    // After a while another one closes its link again.
    world.advance(limits::OFFENCES_REMEMBERED_FOR);
    let before = greetings(&world, device, server);
    send(&mut world, device, server, &[(7, broken(999))], false);
    assert_eq!(greetings(&world, device, server), before + 1);
}
