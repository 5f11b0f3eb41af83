//! Verifying real stores: whole ones are, and each damage is named with what it befell.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use reconvene_core::feed::Digest;
use reconvene_core::ids::{BatchId, ChangeHash, DocumentId, FeedSeq, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::{ChangeRow, FeedRow, HeadRow, Record};
use reconvene_core::storage::{Batch, Durability, Scan, StoreRead as _, StoreWrite as _};
use reconvene_sled::{SledReader, open_data_dir, open_store};

use super::{MEETING, Peer, run};
use crate::{NewMeeting, Role, VerifyReport, qmsum};

/// What a store is changed by behind everyone's back.
#[derive(Default)]
struct Tampering {
    puts: Vec<(Key, Bytes)>,
    deletes: Vec<Key>,
}

/// Closes a peer's store, changes it, opens it again and verifies it.
async fn verify_after(
    peer: Peer,
    tamper: impl FnOnce(&SledReader) -> Tampering,
) -> (Peer, VerifyReport) {
    peer.replica.close().await.unwrap();
    let mut store = open_store(&open_data_dir(peer.dir.path()).unwrap())
        .unwrap()
        .store;
    let Tampering { puts, deletes } = tamper(&store.reader());
    let batch = Batch {
        id: BatchId(1),
        after: None,
        puts,
        deletes,
        journal: None,
        durability: Durability::Barrier,
    };
    store.apply(&batch).unwrap();
    store.close().unwrap();
    let replica = crate::OpenOptions::new(peer.dir.path())
        .open()
        .await
        .unwrap();
    let report = replica.verify(None).await.unwrap();
    let dir = peer.dir;
    (Peer { dir, replica }, report)
}

fn rows(reader: &SledReader, range: KeyRange) -> Vec<(Key, Bytes)> {
    reader.scan(&Scan::ascending(range, 10_000)).unwrap().rows
}

async fn device_with_meetings() -> (Peer, WorkspaceId, DocumentId) {
    let device = Peer::new(Role::Device).await;
    let imported = qmsum::parse("m", MEETING).unwrap();
    device.replica.meetings().import(imported).await.unwrap();
    let meetings = device.replica.meetings();
    let added = meetings.add(NewMeeting::titled("Second")).await;
    let id = added.unwrap().meeting.id;
    for note in ["one", "two", "three"] {
        let edit = meetings.edit(id, move |meeting| meeting.append_note(note));
        edit.await.unwrap();
    }
    let workspace = device.replica.device().home;
    (device, workspace, id)
}

#[test]
fn whole_stores_are_found_whole_while_they_are_used() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let imported = qmsum::parse("m", MEETING).unwrap();
        let id = a.replica.meetings().import(imported).await.unwrap();
        a.sync().await;
        let typing = a.replica.clone();
        let typing = tokio::spawn(async move {
            for n in 0..300 {
                let note = n.to_string();
                let meetings = typing.meetings();
                let edit = meetings.edit(id, move |meeting| meeting.append_note(&note));
                edit.await.unwrap();
            }
        });
        let told = Arc::new(Mutex::new(Vec::new()));
        while !typing.is_finished() {
            let told = told.clone();
            let progress = Arc::new(move |progress| told.lock().unwrap().push(progress));
            let report = a.replica.verify(Some(progress)).await.unwrap();
            assert!(report.intact && report.damaged.is_empty(), "{report:?}");
        }
        typing.await.unwrap();
        let last = *told.lock().unwrap().last().unwrap();
        assert_eq!(last.documents, last.total);
        a.sync().await;
        for peer in [&a, &server] {
            for compacted in [false, true] {
                if compacted {
                    peer.replica.compact(None).await.unwrap();
                }
                let report = peer.replica.verify(None).await.unwrap();
                assert!(report.intact, "{report:?}");
                assert!(report.documents >= 3 && report.changes > 300, "{report:?}");
                assert!(report.records > 10 && report.feed_entries > 0, "{report:?}");
            }
        }
    });
}

#[test]
fn each_damage_is_named_with_what_it_befell() {
    run(async {
        // A change that is gone: its head row and its feed entry say so.
        let (device, workspace, id) = device_with_meetings().await;
        let mut gone = None;
        let (device, report) = verify_after(device, |reader| {
            let changes = rows(reader, KeyRange::changes(&workspace, &id));
            gone = changes[0].0.change_hash();
            Tampering {
                deletes: vec![changes[0].0.clone()],
                ..Tampering::default()
            }
        })
        .await;
        let gone = gone.unwrap().to_string();
        assert!(!report.intact);
        assert_eq!(report.damages, report.damaged.len() as u64);
        let of = |record: &str| {
            let found = report.damaged.iter();
            found
                .filter(|damage| damage.record.starts_with(record))
                .count()
        };
        assert!(of("Head/") >= 2 && of("Feed/") == 1, "{report:?}");
        assert!(
            report
                .damaged
                .iter()
                .all(|damage| damage.document == Some(id))
        );
        assert!(
            report
                .damaged
                .iter()
                .all(|damage| damage.workspace == Some(workspace))
        );
        let entry = report
            .damaged
            .iter()
            .find(|damage| damage.record.starts_with("Feed/"));
        assert!(entry.unwrap().what.contains(&gone), "{report:?}");
        drop(device);

        // A change under another's name, and a feed entry that does not follow.
        let (device, workspace, id) = device_with_meetings().await;
        let (device, report) = verify_after(device, |reader| {
            let changes = rows(reader, KeyRange::changes(&workspace, &id));
            let swapped = (changes[0].0.clone(), changes[1].1.clone());
            let mut puts = vec![swapped];
            let feed = rows(reader, KeyRange::feed_after(&workspace, FeedSeq(0)));
            let (key, value) = feed.last().unwrap();
            let mut row = FeedRow::decode(value).unwrap();
            row.digest = Digest::from_bytes([7; 16]);
            puts.push((key.clone(), row.encode()));
            Tampering {
                puts,
                ..Tampering::default()
            }
        })
        .await;
        let said = |what: &str| {
            let mut found = report.damaged.iter();
            found.any(|damage| damage.what.contains(what))
        };
        assert!(said("it holds change"), "{report:?}");
        assert!(said("its digest does not follow"), "{report:?}");
        assert!(
            said("its digest is not that of the feed's end"),
            "{report:?}"
        );

        // Nothing more is damaged by looking.
        let again = device.replica.verify(None).await.unwrap();
        assert_eq!(again.damaged, report.damaged);
        drop(device);

        // A head row of another version.
        let (device, workspace, id) = device_with_meetings().await;
        let (device, report) = verify_after(device, |reader| {
            let key = Key::head(&workspace, &id);
            let mut head = HeadRow::decode(&reader.read(&key).unwrap().unwrap()).unwrap();
            head.heads.insert(ChangeHash::from_bytes([3; 32]));
            head.change_count += 1;
            Tampering {
                puts: vec![(key, head.encode())],
                ..Tampering::default()
            }
        })
        .await;
        assert_eq!(report.damages, 2, "{report:?}");
        drop(device);

        // A change and a workspace that are none.
        let (device, workspace, id) = device_with_meetings().await;
        let (_device, report) = verify_after(device, |_| {
            let odd = ChangeHash::from_bytes([5; 32]);
            let row = ChangeRow {
                body: Bytes::from_static(b"no change"),
                envelope: Bytes::new(),
            };
            Tampering {
                puts: vec![
                    (Key::change(&workspace, &id, &odd), row.encode()),
                    (Key::workspace(&workspace), Bytes::from_static(&[0xff])),
                ],
                ..Tampering::default()
            }
        })
        .await;
        let records: Vec<_> = report
            .damaged
            .iter()
            .map(|damage| &damage.record[..7])
            .collect();
        assert_eq!(records, ["Workspa", "Change/"], "{report:?}");
    });
}

#[test]
fn what_is_damaged_is_set_aside_and_comes_back_from_peers() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let meetings = a.replica.meetings();
        let imported = qmsum::parse("m", MEETING).unwrap();
        meetings.import(imported).await.unwrap();
        let id = meetings
            .add(NewMeeting::titled("Edited"))
            .await
            .unwrap()
            .meeting
            .id;
        for n in 0..20 {
            let note = n.to_string();
            let edit = meetings.edit(id, move |meeting| meeting.append_note(&note));
            edit.await.unwrap();
        }
        // It holds the directory.
        drop(meetings);
        a.sync().await;
        // On the server it is a snapshot, which will be damaged as well.
        server.replica.compact(None).await.unwrap();
        let before = a.replica.export(None).await.unwrap();
        let workspace = a.replica.device().current.unwrap();

        // A change in the middle, the newest one, a head row.
        let (a, report) = verify_after(a, |reader| {
            let changes = rows(reader, KeyRange::changes(&workspace, &id));
            let swapped = [(2, 3), (7, 8), (11, 12)];
            let swapped = swapped.map(|(at, by)| (changes[at].0.clone(), changes[by].1.clone()));
            let mut puts = swapped.to_vec();
            let heads = rows(reader, KeyRange::heads(&workspace));
            let other = heads
                .iter()
                .find(|(key, _)| key.document() != Some(id))
                .unwrap();
            puts.push((other.0.clone(), Bytes::from_static(&[0xff])));
            Tampering {
                puts,
                ..Tampering::default()
            }
        })
        .await;
        assert!(!report.intact);
        let a = repaired(a, Role::Device).await;
        let report = a.replica.verify(None).await.unwrap();
        assert!(report.intact, "{report:?}");
        assert_ne!(a.replica.export(None).await.unwrap(), before);
        a.sync().await;
        assert_eq!(a.replica.export(None).await.unwrap(), before);
        assert_eq!(server.replica.export(None).await.unwrap(), before);
        let listed = a
            .replica
            .meetings()
            .list(crate::ListOptions::default())
            .await;
        assert_eq!(listed.unwrap().meetings.len(), 2);

        // A snapshot on the server.
        let (server, report) = verify_after(server, |reader| {
            let snapshots = rows(reader, KeyRange::snapshots(&workspace, &id));
            assert!(!snapshots.is_empty());
            Tampering {
                puts: vec![(snapshots[0].0.clone(), Bytes::from_static(b"none"))],
                ..Tampering::default()
            }
        })
        .await;
        assert!(!report.intact);
        let server = repaired(server, Role::Server).await;
        server.replica.listen(&[]).await.unwrap();
        a.sync().await;
        assert_eq!(server.replica.export(None).await.unwrap(), before);
        for peer in [&a, &server] {
            let report = peer.replica.verify(None).await.unwrap();
            assert!(report.intact, "{report:?}");
        }
    });
}

/// Repairs a peer's store and opens it again. What others hold is not taken from its journal, which
/// keeps it for a while.
async fn repaired(peer: Peer, role: Role) -> Peer {
    peer.replica.close().await.unwrap();
    for segment in std::fs::read_dir(peer.dir.path().join("journal")).unwrap() {
        std::fs::remove_file(segment.unwrap().path()).unwrap();
    }
    let options = crate::OpenOptions::new(peer.dir.path());
    let report = options.clone().repair().await.unwrap();
    assert!(
        report.damages > 0 && report.set_aside.is_dir(),
        "{report:?}"
    );
    let dir = peer.dir;
    let replica = options.role(role).open().await.unwrap();
    Peer { dir, replica }
}
