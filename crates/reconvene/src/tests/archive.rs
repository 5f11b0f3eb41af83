//! Archives of damaged stores, of stores that are written meanwhile, and what an open replica shows of
//! what is restored.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use reconvene_core::engine::Write;
use reconvene_core::ids::{BatchId, DocumentId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::{ChangeRow, FeedHeadRow, HeadRow, Record as _};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Batch, Durability, Scan, StoreRead as _, StoreWrite as _};
use reconvene_sled::{SledReader, SledStore, open_data_dir, open_store};

use super::{Peer, run};
use crate::replica::request_id;
use crate::{
    ArchiveOptions, ArchiveReport, MeetingFilter, NewMeeting, OpenOptions, Replica, RestoreOptions,
    Role,
};

/// Meetings with some notes each.
async fn meetings(peer: &Peer) -> Vec<DocumentId> {
    let meetings = peer.replica.meetings();
    let mut ids = Vec::new();
    for title in ["zero", "one", "two", "three", "four", "five"] {
        let id = meetings.add(NewMeeting::titled(title)).await;
        let id = id.unwrap().meeting.id;
        for note in ["a", "b", "c"] {
            let edit = meetings.edit(id, move |meeting| meeting.append_note(note));
            edit.await.unwrap();
        }
        ids.push(id);
    }
    ids
}

async fn archive(replica: &Replica, file: &Path) -> ArchiveReport {
    let options = ArchiveOptions {
        overwrite: true,
        ..ArchiveOptions::default()
    };
    replica.archive(file, options).await.unwrap()
}

/// A new store with what is in an archive.
async fn restored(file: &Path) -> (Peer, crate::RestoreReport) {
    let dir = tempfile::tempdir().unwrap();
    let open = OpenOptions::new(dir.path().join("data"));
    let restored = open.restore(file, RestoreOptions::default()).await;
    let (replica, report) = restored.unwrap();
    let verified = replica.verify(None).await.unwrap();
    assert!(verified.intact, "{verified:?}");
    (Peer { dir, replica }, report)
}

/// Closes a peer's store, changes it behind everyone's back, and opens it again.
async fn tamper(peer: Peer, role: Role, tamper: impl FnOnce(&mut SledStore)) -> Peer {
    peer.replica.close().await.unwrap();
    let mut store = open_store(&open_data_dir(peer.dir.path()).unwrap())
        .unwrap()
        .store;
    tamper(&mut store);
    store.close().unwrap();
    let options = OpenOptions::new(peer.dir.path()).role(role);
    let replica = options.open().await.unwrap();
    let dir = peer.dir;
    Peer { dir, replica }
}

/// The changes of a document in the order in which they were made.
fn changes(reader: &SledReader, of: WorkspaceId, document: DocumentId) -> Vec<Key> {
    let range = KeyRange::changes(&of, &document);
    let rows = reader.scan(&Scan::ascending(range, 1_000)).unwrap().rows;
    let mut changes: Vec<_> = rows
        .into_iter()
        .map(|(key, value)| {
            let row = ChangeRow::decode(&value).unwrap();
            let header = reconvene_core::guard::parse_change(&row.body).unwrap();
            (header.start_op, key)
        })
        .collect();
    changes.sort();
    changes.into_iter().map(|(_, key)| key).collect()
}

fn delete(store: &mut SledStore, keys: Vec<Key>) {
    let batch = Batch {
        id: BatchId(1),
        after: None,
        puts: Vec::new(),
        deletes: keys,
        journal: None,
        durability: Durability::Barrier,
    };
    store.apply(&batch).unwrap();
}

async fn export(replica: &Replica, of: WorkspaceId) -> serde_json::Value {
    let export = replica.export(Some(&of.to_string())).await.unwrap();
    serde_json::from_str(&export).unwrap()
}

/// A document as an export has it.
fn document(export: &serde_json::Value, id: DocumentId) -> Option<&serde_json::Value> {
    let documents = export["documents"].as_array().unwrap();
    let id = id.to_string();
    documents.iter().find(|document| document["id"] == id)
}

#[test]
fn of_a_damaged_store_all_that_reads_is_archived_and_the_rest_is_named() {
    run(async {
        let server = Peer::server().await;
        let device = Peer::device_of(&server, "Ada").await;
        let ids = meetings(&device).await;
        device.sync().await;
        let of = device.replica.current_workspace().unwrap();
        let before = export(&server.replica, of).await;
        let (mut rotten, mut missing) = (None, None);
        // A change in the middle, one at the end, a head row that rots and one that goes.
        let server = tamper(server, Role::Server, |store| {
            let reader = store.reader();
            let middle = changes(&reader, of, ids[0])[1].clone();
            assert!(store.rot(&middle).unwrap());
            rotten = Some(middle);
            let last = changes(&reader, of, ids[1]).pop().unwrap();
            missing = Some(last.clone());
            assert!(store.rot(&Key::head(&of, &ids[2])).unwrap());
            delete(store, vec![last, Key::head(&of, &ids[3])]);
        })
        .await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("archive");
        let report = archive(&server.replica, &file).await;
        // The store heals meanwhile: what was set aside by then stands in a damage record, and a head
        // row that was made anew from its changes reads.
        let record = |document: usize, key: &Key| (Some(ids[document]), format!("{key:?}"));
        let records = |document: usize, key: &Key| {
            let set_aside = Key::damage(&of, &ids[document]);
            [record(document, key), record(document, &set_aside)]
        };
        let heads = [2, 3].map(|document| records(document, &Key::head(&of, &ids[document])));
        let allowed = [
            records(0, &rotten.unwrap()),
            records(1, &missing.unwrap()),
            records(0, &Key::head(&of, &ids[0])),
        ];
        let allowed: BTreeSet<_> = allowed.into_iter().chain(heads).flatten().collect();
        for damage in &report.damaged {
            let named = (damage.document, damage.record.clone());
            assert!(allowed.contains(&named), "{report:?}");
        }
        let named: BTreeSet<_> = report.damaged.iter().map(|of| of.document).collect();
        assert!(named.contains(&Some(ids[0])), "{report:?}");
        assert!(named.contains(&Some(ids[1])), "{report:?}");
        assert_eq!(report.damages, report.damaged.len() as u64);
        assert!(!report.complete);

        let (restored, taken) = restored(&file).await;
        assert!(!taken.complete);
        assert_eq!(taken.damages, report.damages);
        // What comes after what was lost has nothing to stand on.
        let refused: Vec<_> = taken
            .refused
            .iter()
            .map(|of| (of.document, of.code))
            .collect();
        assert_eq!(refused, [(ids[0], RefusalCode::MissingDependencies)]);
        let after = export(&restored.replica, of).await;
        for whole in [2, 3, 4, 5] {
            let whole = ids[whole];
            assert_eq!(document(&after, whole), document(&before, whole));
        }
        for part in [ids[0], ids[1]] {
            let now = document(&after, part);
            assert!(now.is_some() && now != document(&before, part), "{now:?}");
        }
        // A device has the rest: both bring together what they have.
        let second = dir.path().join("second");
        let report = archive(&device.replica, &second).await;
        assert!(report.complete, "{report:?}");
        let options = RestoreOptions::default();
        let taken = restored.replica.restore(&second, options).await.unwrap();
        assert!(taken.complete, "{taken:?}");
        assert_eq!(export(&restored.replica, of).await, before);
    });
}

/// An archive of this device is complete, and makes a store that exports this.
async fn archives_whole(device: &Peer, of: WorkspaceId, before: &serde_json::Value) {
    let file = device.dir.path().join("archive");
    let report = archive(&device.replica, &file).await;
    assert!(report.complete, "{report:?}");
    let (restored, taken) = restored(&file).await;
    assert!(taken.complete, "{taken:?}");
    assert_eq!(&export(&restored.replica, of).await, before);
}

#[test]
fn what_rotted_and_is_in_the_journal_is_archived_from_there() {
    run(async {
        let device = Peer::new(Role::Device).await;
        let ids = meetings(&device).await;
        let of = device.replica.current_workspace().unwrap();
        let before = export(&device.replica, of).await;
        let device = tamper(device, Role::Device, |store| {
            let reader = store.reader();
            let rotten = changes(&reader, of, ids[0])[1].clone();
            assert!(store.rot(&rotten).unwrap());
            let missing = changes(&reader, of, ids[1])[2].clone();
            delete(store, vec![missing]);
        })
        .await;
        archives_whole(&device, of, &before).await;
    });
}

#[test]
fn what_the_store_refused_is_archived_from_the_journal() {
    run(async {
        let device = Peer::new(Role::Device).await;
        let ids = meetings(&device).await;
        let of = device.replica.current_workspace().unwrap();
        let row = |key: Key| device.replica.shared.reader.read(&key).unwrap().unwrap();
        let head = Key::head(&of, &ids[1]);
        let end = Key::feed_head(&of);
        let (old_head, old_end) = (row(head.clone()), row(end.clone()));
        let known = changes(&device.replica.shared.reader, of, ids[1]);
        let edit = device.replica.meetings();
        let edit = edit.edit(ids[1], |meeting| meeting.append_note("kept"));
        edit.await.unwrap();
        let before = export(&device.replica, of).await;
        // As if neither this edit nor all of another document had ever been applied.
        let mut gone = changes(&device.replica.shared.reader, of, ids[1]);
        gone.retain(|key| !known.contains(key));
        assert_eq!(gone.len(), 1);
        let last = FeedHeadRow::decode(&row(end.clone())).unwrap().point.seq;
        gone.push(Key::feed(&of, last));
        gone.extend(changes(&device.replica.shared.reader, of, ids[0]));
        gone.push(Key::head(&of, &ids[0]));
        let write = Write {
            request: request_id(),
            puts: vec![(head, old_head), (end, old_end)],
            deletes: gone,
        };
        device.replica.shared.driver.write(write).await.unwrap();

        archives_whole(&device, of, &before).await;
    });
}

#[test]
fn an_archive_of_a_store_that_is_written_meanwhile_is_a_version_of_each_document() {
    run(async {
        let device = Peer::new(Role::Device).await;
        let ids = meetings(&device).await;
        let of = device.replica.current_workspace().unwrap();
        // One of them with more changes than a store reads at a time.
        for n in 0..1_500 {
            let note = format!("{n} ");
            let meetings = device.replica.meetings();
            let edit = meetings.edit_buffered(ids[2], move |meeting| meeting.append_note(&note));
            edit.await.unwrap();
        }
        let writer = device.replica.clone();
        let typed = ids.clone();
        let typing = tokio::spawn(async move {
            for n in 0..400 {
                let id = typed[n % 3];
                let note = format!("{n} ");
                let meetings = writer.meetings();
                let edit = meetings.edit(id, move |meeting| meeting.append_note(&note));
                edit.await.unwrap();
                if n % 100 == 99 {
                    writer.compact(None).await.unwrap();
                }
            }
        });
        let file = device.dir.path().join("archive");
        let mut rounds = 0;
        while !typing.is_finished() {
            let report = archive(&device.replica, &file).await;
            assert!(report.complete, "{report:?}");
            let (restored, taken) = restored(&file).await;
            assert!(taken.complete, "{taken:?}");
            for id in &ids {
                let key = Key::head(&of, id);
                let row = restored.replica.shared.reader.read(&key).unwrap();
                let row = HeadRow::decode(&row.unwrap()).unwrap();
                assert!(row.missing.is_empty() && row.heads.len() == 1);
            }
            rounds += 1;
        }
        typing.await.unwrap();
        assert!(rounds > 1, "{rounds}");
        let report = archive(&device.replica, &file).await;
        assert!(report.snapshots >= 2, "{report:?}");
        let (restored, _) = restored(&file).await;
        let exports = (
            export(&restored.replica, of).await,
            export(&device.replica, of).await,
        );
        assert_eq!(exports.0, exports.1);
    });
}

#[test]
fn what_is_restored_shows_at_once_in_open_documents_lists_and_live_queries() {
    run(async {
        let device = Peer::new(Role::Device).await;
        let ids = meetings(&device).await;
        let file = device.dir.path().join("archive");
        archive(&device.replica, &file).await;
        let (other, _) = restored(&file).await;
        let meetings = other.replica.meetings();
        let renamed = meetings.edit(ids[0], |meeting| meeting.set_title("renamed elsewhere"));
        renamed.await.unwrap();
        let new = meetings.add(NewMeeting::titled("new elsewhere")).await;
        let new = new.unwrap().meeting.id;
        archive(&other.replica, &file).await;

        // Open, and watched.
        let shown = device.replica.meetings().show(ids[0]).await.unwrap();
        assert_eq!(shown.meeting.title, "zero");
        let query = device.replica.meetings().query(MeetingFilter::default());
        let mut watched = query.subscribe().unwrap();
        let mut complete = false;
        while !complete {
            complete = watched.next().await.unwrap().complete;
        }
        let taken = device.replica.restore(&file, RestoreOptions::default());
        let taken = taken.await.unwrap();
        assert_eq!((taken.restored, taken.changes > 1), (2, true), "{taken:?}");
        let shown = device.replica.meetings().show(ids[0]).await.unwrap();
        assert_eq!(shown.meeting.title, "renamed elsewhere");
        let listed = device.replica.meetings().list(Default::default()).await;
        let listed = listed.unwrap().meetings;
        assert!(listed.iter().any(|row| row.id == new));
        let mut told = BTreeSet::new();
        while told.len() < 2 {
            let batch = watched.next().await.unwrap();
            let rows = batch.added.iter().chain(&batch.changed);
            told.extend(rows.map(|row| row.id));
        }
        assert_eq!(told, BTreeSet::from([ids[0], new]));
        // And it is edited on, by both.
        let edit = device.replica.meetings();
        let edit = edit.edit(ids[0], |meeting| meeting.append_note("here"));
        edit.await.unwrap();
    });
}

#[test]
fn an_archive_that_nobody_waits_for_any_more_leaves_nothing() {
    run(async {
        let device = Peer::new(Role::Device).await;
        meetings(&device).await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("archive");
        let mut was_begun = false;
        for patience in 0..20 {
            let making = device.replica.archive(&file, ArchiveOptions::default());
            let patience = Duration::from_micros(patience * 150);
            let made = tokio::time::timeout(patience, making).await;
            if made.is_ok() {
                std::fs::remove_file(&file).unwrap();
            }
            let entries = || std::fs::read_dir(dir.path()).unwrap().count();
            was_begun |= entries() > 0;
            let until = Instant::now() + Duration::from_secs(60);
            while entries() > 0 {
                assert!(Instant::now() < until, "something is left");
                // It may have been whole by then.
                let is_whole = file.exists();
                if is_whole {
                    std::fs::remove_file(&file).unwrap();
                }
                tokio::task::yield_now().await;
            }
        }
        assert!(was_begun, "none was begun");
    });
}
