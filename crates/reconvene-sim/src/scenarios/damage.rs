//! Records that rot on a disk: what is lost of a document comes back from whoever holds it, and no
//! other document waits for it.

use bytes::Bytes;
use reconvene_core::engine::{Event, Input, Write};
use reconvene_core::ids::{DocumentId, DocumentKind, WorkspaceId};
use reconvene_core::keys::{Key, KeyKind, KeyRange};
use reconvene_core::records::{FeedRow, Record as _};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::wire::Role;

use super::failures::check_crashes;
use super::{fill, linked_team, seconds, team, told};
use crate::disk::all_rows;
use crate::world::{NodeId, World, document};

/// A record of a document, or of what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rot {
    Head,
    FirstChange,
    LastChange,
    EveryChange,
    Snapshot,
    FirstEntry,
    LastEntry,
    HeadAndEntries,
    HeadAndLastChange,
    Everything,
    Peer,
}

const ROTS: [Rot; 11] = [
    Rot::Head,
    Rot::FirstChange,
    Rot::LastChange,
    Rot::EveryChange,
    Rot::Snapshot,
    Rot::FirstEntry,
    Rot::LastEntry,
    Rot::HeadAndEntries,
    Rot::HeadAndLastChange,
    Rot::Everything,
    Rot::Peer,
];

fn keys(world: &World, node: NodeId, range: KeyRange) -> Vec<Key> {
    let rows = world
        .disk(node)
        .reader
        .scan(&Scan::ascending(range, usize::MAX));
    let rows = rows.expect("an open store reads").rows;
    rows.into_iter().map(|(key, _)| key).collect()
}

/// The keys of a document's changes, in the order in which they were made.
fn changes(world: &World, node: NodeId, of: WorkspaceId, document: DocumentId) -> Vec<Key> {
    let reader = &world.disk(node).reader;
    let mut headers = crate::host::read_changes(reader, (of, document));
    headers.sort_by_key(|header| header.start_op);
    let keys = headers
        .iter()
        .map(|header| Key::change(&of, &document, &header.hash));
    keys.filter(|key| reader.contains(key).expect("an open store reads"))
        .collect()
}

/// The keys of a document's feed entries.
fn entries(world: &World, node: NodeId, of: WorkspaceId, document: DocumentId) -> Vec<Key> {
    let rows = all_rows(&world.disk(node).reader);
    let own = rows.into_iter().filter(|(key, value)| {
        key.kind() == Some(KeyKind::Feed)
            && key.as_bytes()[1..17] == *of.as_bytes()
            && FeedRow::decode(value)
                .expect("a feed entry decodes")
                .document
                == document
    });
    own.map(|(key, _)| key).collect()
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Rots,
    GetsLost,
}

fn rot(world: &mut World, node: NodeId, of: WorkspaceId, document: DocumentId, which: Rot) {
    spoil(world, node, of, document, (which, How::Rots));
}

fn spoil(
    world: &mut World,
    node: NodeId,
    of: WorkspaceId,
    document: DocumentId,
    (which, how): (Rot, How),
) {
    let head = Key::head(&of, &document);
    let changes = changes(world, node, of, document);
    let entries = entries(world, node, of, document);
    let snapshots = keys(world, node, KeyRange::snapshots(&of, &document));
    let rotten: Vec<Key> = match which {
        Rot::Head => vec![head],
        Rot::FirstChange => changes.first().cloned().into_iter().collect(),
        Rot::LastChange => changes.last().cloned().into_iter().collect(),
        Rot::EveryChange => changes,
        Rot::Snapshot => snapshots,
        Rot::FirstEntry => entries.first().cloned().into_iter().collect(),
        Rot::LastEntry => entries.last().cloned().into_iter().collect(),
        Rot::HeadAndEntries => [vec![head], entries].concat(),
        Rot::HeadAndLastChange => vec![head, changes[changes.len() - 1].clone()],
        Rot::Everything => [vec![head], changes, entries, snapshots].concat(),
        Rot::Peer => keys(world, node, KeyRange::peers(&of)),
    };
    assert!(!rotten.is_empty(), "{which:?} is there to rot");
    for key in rotten {
        match how {
            How::Rots => world.rot(node, &key),
            How::GetsLost => world.lose(node, &key),
        }
    }
}

fn damaged(world: &World, node: NodeId) -> Vec<DocumentId> {
    told(world, node)
        .filter_map(|event| match event {
            Event::DocumentDamaged { document, .. } => Some(*document),
            _ => None,
        })
        .collect()
}

fn healed(world: &World, node: NodeId) -> Vec<DocumentId> {
    told(world, node)
        .filter_map(|event| match event {
            Event::DocumentHealed { document, .. } => Some(*document),
            _ => None,
        })
        .collect()
}

fn damage_rows(world: &World, node: NodeId, of: WorkspaceId) -> Vec<Key> {
    keys(world, node, KeyRange::damages(&of))
}

fn quarantined(world: &World, node: NodeId) -> usize {
    let rows = all_rows(&world.disk(node).reader);
    rows.iter()
        .filter(|(key, _)| key.kind() == Some(KeyKind::Quarantine))
        .count()
}

/// Two devices that sync through a server, and a third one that has yet to come.
fn grown(seed: u64, which: Rot, victim: usize) -> (World, Vec<NodeId>, WorkspaceId) {
    let (mut world, server, devices, of) = team(seed, 2);
    let late = world.add(Role::Device);
    world.share(server, late, &[of]);
    for device in &devices {
        world.connect(*device, server);
    }
    world.run_until_quiet();
    for _ in 0..3 {
        fill(&mut world, devices[0], of, 0..8);
    }
    let all = vec![server, devices[0], devices[1], late];
    if which == Rot::Snapshot {
        for number in 0..8 {
            world.compact(all[victim], of, document(number));
        }
        world.run_until_quiet();
    }
    (world, all, of)
}

/// What a newcomer and edits of others lead to reading, and what the app does.
fn go_on(world: &mut World, all: &[NodeId], of: WorkspaceId, hit: DocumentId) {
    world.edit(all[1], of, document(3), 60);
    world.edit(all[2], of, document(6), 60);
    world.edit(all[2], of, hit, 60);
    world.connect(all[3], all[0]);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
}

fn suspect(world: &mut World, victim: NodeId, of: WorkspaceId, hit: DocumentId) {
    let suspect = Input::Suspect {
        workspace: of,
        document: Some(hit),
    };
    world.give(victim, suspect);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
}

fn check_spoilt(seed: u64, victim: usize, which: Rot, how: How) {
    let (mut world, all, of) = grown(seed, which, victim);
    let hit = document(5);
    spoil(&mut world, all[victim], of, hit, (which, how));
    let is_cached = matches!(
        which,
        Rot::Head | Rot::HeadAndEntries | Rot::HeadAndLastChange | Rot::Everything | Rot::Peer
    );
    if is_cached {
        // What is in memory is read only once the store was opened anew, and may be written before.
        world.crash(all[victim], 0);
        world.restart(all[victim]);
    }
    go_on(&mut world, &all, of, hit);
    suspect(&mut world, all[victim], of, hit);
    world.check_converged(&all, of);
    if which != Rot::Peer {
        assert_eq!(damaged(&world, all[victim]), [hit], "told once: {which:?}");
        assert_eq!(healed(&world, all[victim]), [hit], "{which:?}");
    }
    let has_rotted = how == How::Rots;
    assert_eq!(
        quarantined(&world, all[victim]) > 0,
        has_rotted,
        "{which:?}"
    );
    assert_eq!(damage_rows(&world, all[victim], of), [], "{which:?}");
    for node in &all[1..] {
        world.check_fresh(*node, all[0], of);
    }
}

#[test]
fn whatever_rots_on_a_server_is_healed_by_its_devices() {
    for (seed, which) in (700..).zip(ROTS) {
        check_spoilt(seed, 0, which, How::Rots);
    }
}

/// Losses of what other records name.
const LOSSES: [Rot; 6] = [
    Rot::FirstChange,
    Rot::LastChange,
    Rot::EveryChange,
    Rot::Snapshot,
    Rot::FirstEntry,
    Rot::LastEntry,
];

#[test]
fn whatever_a_disk_loses_of_a_document_is_found_missing_and_healed() {
    for victim in [0, 1] {
        for (seed, which) in (790..).zip(LOSSES) {
            check_spoilt(seed + 10 * victim as u64, victim, which, How::GetsLost);
        }
    }
}

#[test]
fn what_is_missing_of_a_purged_document_holds_up_no_newcomer() {
    for (seed, which) in [
        (810, Rot::FirstChange),
        (811, Rot::LastChange),
        (812, Rot::FirstEntry),
        (813, Rot::EveryChange),
    ] {
        let (mut world, all, of) = grown(seed, which, 0);
        let (server, late) = (all[0], all[3]);
        let hit = document(5);
        world.purge(server, of, &[hit]);
        world.run_until_quiet();
        spoil(&mut world, server, of, hit, (which, How::GetsLost));
        world.connect(late, server);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.check_converged(&all, of);
        world.check_fresh(late, server, of);
        assert_eq!(damaged(&world, server), [hit], "{which:?}");
        assert_eq!(damage_rows(&world, server, of), [], "{which:?}");
    }
}

#[test]
fn what_many_meet_at_once_is_searched_for_once() {
    for (seed, how) in [(820, How::Rots), (821, How::GetsLost)] {
        let (mut world, mut all, of) = grown(seed, Rot::FirstEntry, 0);
        let server = all[0];
        for _ in 0..6 {
            let late = world.add(Role::Device);
            world.share(server, late, &[of]);
            all.push(late);
        }
        world.run_until_quiet();
        spoil(&mut world, server, of, document(5), (Rot::FirstEntry, how));
        world.settings.read = (30, 30);
        let before = world.disk_counts(server).searches;
        for late in &all[3..] {
            world.connect(*late, server);
        }
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.check_converged(&all, of);
        assert_eq!(world.disk_counts(server).searches - before, 1, "{how:?}");
    }
}

#[test]
fn where_a_feed_ends_is_found_again_and_everything_goes_on() {
    let mut seed = 830;
    for (victim, how) in [
        (0, How::Rots),
        (1, How::Rots),
        (0, How::GetsLost),
        (1, How::GetsLost),
    ] {
        for with in [vec![], vec!["entry"], vec!["head"], vec!["entry", "head"]] {
            let case = format!("node {victim}, {how:?}, with {with:?}");
            let (mut world, all, of) = grown(seed, Rot::Head, victim);
            seed += 1;
            let node = all[victim];
            world.part(all[1], all[0]);
            world.edit(all[1], of, document(3), 60);
            world.edit(all[2], of, document(4), 60);
            world.run_until_quiet();
            world.crash(node, 0);
            let end = Key::feed_head(&of);
            match how {
                How::Rots => world.rot(node, &end),
                How::GetsLost => world.lose(node, &end),
            }
            for record in &with {
                let key = match *record {
                    "entry" => keys(&world, node, KeyRange::feed(&of)).pop().unwrap(),
                    _ => Key::head(&of, &document(5)),
                };
                world.rot(node, &key);
            }
            world.restart(node);
            world.edit(node, of, document(2), 60);
            world.heal(all[1], all[0]);
            world.connect(all[3], all[0]);
            world.run_until_quiet();
            world.advance(seconds(70));
            world.run_until_quiet();
            world.check_converged(&all, of);
            let rotten = with.len() + usize::from(matches!(how, How::Rots));
            assert_eq!(quarantined(&world, node), rotten, "{case}");
            let failed = told(&world, node).any(|event| matches!(event, Event::StoreFailed { .. }));
            assert!(!failed, "nothing stops: {case}");
        }
    }
}

#[test]
fn a_share_that_has_rotted_stops_nobody_else() {
    let (mut world, all, of) = grown(832, Rot::Head, 0);
    let (server, hit) = (all[0], all[1]);
    world.part(hit, server);
    world.crash(server, 0);
    world.rot(server, &Key::share(&world.peer(hit), &of));
    world.restart(server);
    world.connect(all[3], server);
    world.edit(all[2], of, document(3), 60);
    world.run_until_quiet();
    world.advance(seconds(10));
    world.check_converged(&[server, all[2], all[3]], of);
    assert_eq!(quarantined(&world, server), 1);
    // Its host knows whom it enrolled.
    world.enter_shares(server);
    world.heal(hit, server);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    world.check_converged(&all, of);
    let failed = told(&world, server).any(|event| matches!(event, Event::StoreFailed { .. }));
    assert!(!failed, "nothing stops");
}

#[test]
fn whatever_rots_on_a_device_is_healed_by_its_server() {
    for (seed, which) in (720..).zip(ROTS) {
        check_spoilt(seed, 1, which, How::Rots);
    }
}

#[test]
fn what_nobody_else_holds_is_told_and_holds_up_nothing_until_someone_brings_it() {
    for (seed, which) in [(740, Rot::FirstChange), (741, Rot::LastChange)] {
        let (mut world, all, of) = grown(seed, which, 0);
        let (server, owner, late) = (all[0], all[1], all[3]);
        let hit = document(5);
        world.part(owner, server);
        world.part(all[2], server);
        world.crash(server, 0);
        rot(&mut world, server, of, hit, which);
        world.restart(server);
        world.connect(late, server);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.edit(late, of, document(3), 60);
        world.run_until_quiet();
        let lacking = [Key::damage(&of, &hit)];
        assert_eq!(damage_rows(&world, server, of), lacking, "{which:?}");
        let changes_of = |node: NodeId, other: DocumentId| {
            let held = world.held(node, of);
            held.iter().filter(|fact| fact.1 == other).count()
        };
        for number in (0..8).filter(|number| *number != 5) {
            let expected = if number == 3 { 4 } else { 3 };
            assert_eq!(changes_of(late, document(number)), expected, "{number}");
            assert_eq!(changes_of(server, document(number)), expected, "{number}");
        }
        // What is left of it is kept, whatever it depends on.
        assert_eq!(changes_of(server, hit), 2, "{which:?}");
        // It is still known after a restart, and told no second time.
        world.crash(server, 0);
        world.restart(server);
        world.run_until_quiet();
        assert_eq!(damage_rows(&world, server, of), lacking);
        assert_eq!(damaged(&world, server), [hit]);
        world.heal(owner, server);
        world.heal(all[2], server);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.check_converged(&all, of);
        assert_eq!(healed(&world, server), [hit]);
        assert_eq!(damage_rows(&world, server, of), []);
    }
}

#[test]
fn what_only_the_journal_has_is_taken_from_there() {
    for (seed, which) in (750..).zip([
        Rot::FirstChange,
        Rot::LastChange,
        Rot::EveryChange,
        Rot::Everything,
    ]) {
        let (mut world, server, devices, of) = linked_team(seed, 1);
        let device = devices[0];
        fill(&mut world, device, of, 0..4);
        world.part(device, server);
        let hit = document(9);
        for _ in 0..3 {
            world.edit(device, of, hit, 60);
            world.edit(device, of, document(2), 60);
        }
        world.run_until_quiet();
        rot(&mut world, device, of, hit, which);
        let suspect = Input::Suspect {
            workspace: of,
            document: Some(hit),
        };
        world.give(device, suspect);
        world.run_until_quiet();
        assert_eq!(damaged(&world, device), [hit], "{which:?}");
        assert_eq!(healed(&world, device), [hit], "{which:?}");
        // The journal goes on keeping it until someone else holds it.
        for lost in [false, true] {
            world.crash(device, 0);
            if lost {
                world.wipe(device);
            }
            world.restart(device);
            world.run_until_quiet();
        }
        world.heal(device, server);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.check_converged(&[server, device], of);
    }
}

#[test]
fn two_that_lost_different_parts_give_each_other_what_they_lack() {
    for (seed, whiches) in (760..).zip([
        [Rot::FirstChange, Rot::LastChange],
        [Rot::Head, Rot::EveryChange],
        [Rot::LastEntry, Rot::Everything],
    ]) {
        let (mut world, all, of) = grown(seed, whiches[0], 0);
        let hit = document(5);
        world.part(all[2], all[0]);
        world.run_until_quiet();
        for (node, which) in all.iter().zip(whiches) {
            world.crash(*node, 0);
            rot(&mut world, *node, of, hit, which);
            world.restart(*node);
        }
        for node in &all[..2] {
            let suspect = Input::Suspect {
                workspace: of,
                document: Some(hit),
            };
            world.give(*node, suspect);
        }
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.heal(all[2], all[0]);
        world.connect(all[3], all[0]);
        world.run_until_quiet();
        world.advance(seconds(70));
        world.run_until_quiet();
        world.check_converged(&all, of);
    }
}

#[test]
fn a_crash_at_any_step_of_a_healing_loses_nothing() {
    for which in [Rot::FirstChange, Rot::Everything, Rot::LastEntry] {
        check_crashes(13, &[0, 1], || {
            let (mut world, all, of) = grown(770, which, 0);
            rot(&mut world, all[0], of, document(5), which);
            let suspect = Input::Suspect {
                workspace: of,
                document: Some(document(5)),
            };
            world.give(all[0], suspect);
            world.edit(all[1], of, document(5), 60);
            world.connect(all[3], all[0]);
            (world, all, of)
        });
    }
}

#[test]
fn an_index_row_that_has_rotted_is_kept_and_its_host_is_told_to_make_it_anew() {
    let (mut world, _, devices, of) = linked_team(780, 1);
    let device = devices[0];
    fill(&mut world, device, of, 0..4);
    let key = Key::index(&of, DocumentKind(1), &document(2));
    let row = Bytes::from_static(b"a row");
    let request = world.request();
    let write = |request| Write {
        request,
        puts: vec![(key.clone(), row.clone())],
        deletes: Vec::new(),
    };
    world.give(device, Input::Write(write(request)));
    world.run_until_quiet();
    world.rot(device, &key);
    // Whoever lists asks again and again.
    for _ in 0..3 {
        let suspect = Input::Suspect {
            workspace: of,
            document: None,
        };
        world.give(device, suspect);
    }
    world.run_until_quiet();
    let lost = told(&world, device).filter(
        |event| matches!(event, Event::IndexRowLost { document: of, .. } if *of == document(2)),
    );
    assert_eq!(lost.count(), 1);
    assert_eq!(quarantined(&world, device), 1);
    assert!(world.disk(device).rotting.read(&key).is_err(), "it is kept");
    assert_eq!(damaged(&world, device), []);
    let request = world.request();
    world.give(device, Input::Write(write(request)));
    world.run_until_quiet();
    assert_eq!(world.disk(device).rotting.read(&key), Ok(Some(row.clone())));
}

#[test]
fn what_keeps_the_place_of_a_lost_document_at_the_end_of_the_feed_may_rot_too() {
    let (mut world, all, of) = grown(781, Rot::Everything, 0);
    let (server, owner, late) = (all[0], all[1], all[3]);
    let hit = document(5);
    world.part(owner, server);
    world.part(all[2], server);
    rot(&mut world, server, of, hit, Rot::Everything);
    let suspect = Input::Suspect {
        workspace: of,
        document: Some(hit),
    };
    world.give(server, suspect);
    world.run_until_quiet();
    let last = keys(&world, server, KeyRange::feed(&of));
    world.rot(server, last.last().expect("the feed is not empty"));
    world.connect(late, server);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    let held = world.held(late, of);
    let others = (0..8).filter(|number| *number != 5);
    for number in others {
        let here = held.iter().filter(|fact| fact.1 == document(number));
        assert_eq!(here.count(), 3, "{number}");
    }
    world.heal(owner, server);
    world.heal(all[2], server);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    world.check_converged(&all, of);
    assert_eq!(damage_rows(&world, server, of), []);
}

#[test]
fn no_new_change_gets_the_number_of_one_that_was_lost() {
    let (mut world, all, of) = grown(782, Rot::LastChange, 1);
    let (server, device) = (all[0], all[1]);
    let hit = document(5);
    world.part(device, server);
    rot(&mut world, device, of, hit, Rot::LastChange);
    let suspect = Input::Suspect {
        workspace: of,
        document: Some(hit),
    };
    world.give(device, suspect);
    // Its host edits what it has open under the same actor, before and after it is told.
    world.edit(device, of, hit, 60);
    world.run_until_quiet();
    world.edit(device, of, hit, 60);
    world.run_until_quiet();
    world.heal(device, server);
    world.run_until_quiet();
    world.advance(seconds(70));
    world.run_until_quiet();
    world.check_converged(&all[..3], of);
    let refused = told(&world, server).filter(|event| {
        matches!(event, Event::DocumentsRefused { documents, .. }
            if documents.iter().any(|(_, code)| *code == RefusalCode::Equivocation))
    });
    assert_eq!(refused.count(), 0);
}
