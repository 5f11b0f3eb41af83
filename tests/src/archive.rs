//! Archives: a store goes into a file and comes back whole, also from an old one, beside others and
//! past damage; whatever ends a process, there is no half file and no half store.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Instant;

use reconvene::{
    ArchiveOptions, Error, NewMeeting, OpenOptions, Replica, RestoreOptions, RestoreReport,
};
use reconvene_core::archive::{Decoder, Encoder, Found, Piece};
use serde_json::Value;
use tempfile::TempDir;

use crate::disk::Disk;
use crate::harness::{Peer, Process, Server, deadline};
use crate::qmsum;

/// Archives a peer's store and yields the file and the answer.
fn archive(peer: &Peer, name: &str, options: &[&str]) -> (String, Value) {
    let file = peer.files().join(name).to_str().unwrap().to_owned();
    let answer = peer.run(&[&["archive", "create", &file], options].concat());
    assert_eq!(answer["complete"], true, "{answer}");
    (file, answer)
}

/// The epoch of a peer's current workspace.
fn epoch(peer: &Peer) -> String {
    let status = peer.run(&["status"]);
    let workspaces = status["workspaces"].as_array().unwrap().iter();
    let mut current = workspaces.filter(|workspace| workspace["current"] == true);
    let feed = &current.next().unwrap()["feed"];
    feed["epoch"].as_str().unwrap().to_owned()
}

fn check_intact(peer: &Peer) {
    let report = peer.run(&["verify"]);
    assert_eq!(report["intact"], true, "{report}");
}

fn listed(peer: &Peer, words: &[&str]) -> Value {
    let mut page = peer.run(&[&["meeting", "list", "--limit", "1000"], words].concat());
    let rows = page["meetings"].as_array_mut().unwrap();
    rows.iter_mut()
        .for_each(|row| row["freshness"] = Value::Null);
    page["meetings"].take()
}

#[test]
fn a_store_of_real_meetings_comes_back_whole_in_another_directory() {
    let device = Peer::new();
    device.run(&["init", "--name", "laptop"]);
    device.run(&["project", "add", "Apollo"]);
    device.run(&["project", "activate", "Apollo"]);
    let ids = device.import(&qmsum::real(device.files(), 5));
    for _ in 0..3 {
        let words = ["meeting", "edit", &ids[0], "--append-note", "a line more"];
        device.run(&words);
    }
    device.run(&["compact"]);
    device.run(&[
        "meeting",
        "edit",
        &ids[0],
        "--append-note",
        "after the snapshot",
    ]);
    device.run(&["meeting", "delete", &ids[1]]);
    device.run(&["meeting", "delete", &ids[2]]);
    device.run(&["purge", "--deleted-for", "1ms"]);
    device.run(&["meeting", "delete", &ids[3]]);
    let (export, deleted) = (device.export(), listed(&device, &["--deleted"]));

    // Alone, and beside a process that has the store open.
    let (alone, answer) = archive(&device, "alone", &[]);
    assert!(answer["documents"].as_u64().unwrap() >= 6, "{answer}");
    assert!(answer["purged"].as_u64().unwrap() >= 4, "{answer}");
    assert_eq!(fs::metadata(&alone).unwrap().len(), answer["bytes"]);
    let host = device.start(&["events"]);
    host.line();
    let (beside, _) = archive(&device, "beside", &[]);
    let refused = ["archive", "create", &beside];
    device.fails(&refused, 7, "file_exists");
    archive(&device, "beside", &["--overwrite"]);
    let ended = host.stop();
    assert!(ended.status.success(), "{ended:?}");

    for file in [&alone, &beside] {
        let restored = Peer::new();
        let report = restored.run(&["archive", "restore", file]);
        assert_eq!(report["complete"], true, "{report}");
        assert_eq!(
            report["documents"],
            answer["documents"].as_u64().unwrap() + answer["purged"].as_u64().unwrap()
        );
        assert_eq!(report["restored"], answer["documents"]);
        assert_eq!(report["purged"], answer["purged"]);
        assert_eq!(restored.export(), export);
        assert_eq!(listed(&restored, &[]), listed(&device, &[]));
        assert_eq!(listed(&restored, &["--deleted"]), deleted);
        check_intact(&restored);
        // Another device, of the same member, with another history.
        assert_ne!(epoch(&restored), epoch(&device));
        let (was, is) = (device.run(&["status"]), restored.run(&["status"]));
        let (was, is) = (&was["device"], &is["device"]);
        assert_ne!(was["peer_id"], is["peer_id"]);
        for same in ["member", "member_name", "home", "current", "role"] {
            assert_eq!(was[same], is[same], "{same}");
        }
        // Once more changes nothing, and what was purged stays away.
        let again = restored.run(&["archive", "restore", file]);
        assert_eq!(
            (&again["restored"], &again["changes"]),
            (&0.into(), &0.into())
        );
        assert_eq!(again["complete"], true, "{again}");
        assert_eq!(restored.export(), export);
        // And what is in it can be put into an archive again.
        let (second, again) = archive(&restored, "again", &[]);
        assert_eq!(again["documents"], answer["documents"]);
        assert_eq!(again["purged"], answer["purged"]);
        let third = Peer::new();
        third.run(&["archive", "restore", &second]);
        assert_eq!(third.export(), export);
        restored.add("it goes on");
    }
}

#[test]
fn one_workspace_is_merged_into_a_living_store_and_takes_nothing_from_it() {
    let device = Peer::new();
    device.run(&["init"]);
    let kept = device.add("kept");
    let later = device.add("purged later");
    device.run(&["workspace", "add", "research"]);
    device.run(&["workspace", "use", "research"]);
    let research = device.add("of research");
    device.run(&["workspace", "use", "home"]);
    let (whole, _) = archive(&device, "whole", &[]);
    let (one, answer) = archive(&device, "one", &["--workspace", "research"]);
    assert_eq!(answer["workspaces"], 1, "{answer}");
    let refused = [
        "archive",
        "create",
        "none",
        "--workspace",
        "research",
        "--with-identity",
    ];
    device.fails(&refused, 7, "bad_input");

    // What came and went meanwhile stays as it is.
    device.run(&["meeting", "edit", &kept, "--title", "changed since"]);
    device.run(&["meeting", "delete", &later]);
    device.run(&["purge", "--deleted-for", "1ms"]);
    let new = device.add("new since");
    let export = device.export();
    let before = epoch(&device);
    let host = device.start(&["events"]);
    host.line();
    let report = device.run(&["archive", "restore", &whole]);
    assert_eq!(report["complete"], true, "{report}");
    assert_eq!(report["stayed_deleted"], 0, "{report}");
    assert_eq!(device.export(), export);
    assert_eq!(epoch(&device), before);
    device.fails(&["meeting", "show", &later], 7, "document_deleted");
    host.stop();

    // Deleted for good is what was known then, whichever side says so; what was not keeps it where it is.
    let (tombstones, _) = archive(&device, "tombstones", &[]);
    for edited in [false, true] {
        let copy = Peer::new();
        copy.run(&["archive", "restore", &whole]);
        if edited {
            copy.run(&["meeting", "edit", &later, "--title", "edited elsewhere"]);
        }
        let (elsewhere, _) = archive(&copy, "elsewhere", &[]);
        let report = device.run(&["archive", "restore", &elsewhere]);
        assert_eq!(report["stayed_deleted"], u64::from(edited), "{report}");
        device.fails(&["meeting", "show", &later], 7, "document_deleted");
        let report = copy.run(&["archive", "restore", &tombstones]);
        assert_eq!(report["purged"], u64::from(!edited), "{report}");
        assert_eq!(report["stayed"], u64::from(edited), "{report}");
        match edited {
            true => assert!(copy.export().contains("edited elsewhere")),
            false => assert_eq!(copy.export(), device.export()),
        }
        check_intact(&copy);
    }
    assert_eq!(device.export(), export);

    // Another store gets the workspace, and keeps its own.
    let other = Peer::new();
    other.run(&["init"]);
    let own = other.add("of its own");
    let report = other.run(&["archive", "restore", &one]);
    assert_eq!(
        report["workspaces"].as_array().unwrap().len(),
        1,
        "{report}"
    );
    assert!(other.export().contains(&own));
    let shown = other.run(&["meeting", "show", &research, "--workspace", "research"]);
    assert_eq!(shown["meeting"]["title"], "of research");
    // The home of another member is one more workspace there.
    let report = other.run(&["archive", "restore", &whole]);
    let home = device.run(&["status"])["device"]["home"].clone();
    let shown = other.run(&[
        "meeting",
        "show",
        &kept,
        "--workspace",
        home.as_str().unwrap(),
    ]);
    assert_eq!(shown["meeting"]["title"], "kept", "{report}");
    assert!(!other.export().contains(&kept));
    check_intact(&other);
    assert!(export.contains(&new));
    // A store that is there does not become another device.
    let words = ["archive", "restore", &whole, "--with-identity"];
    other.fails(&words, 3, "already_initialised");
    let nobody = Peer::new();
    nobody.fails(&words, 7, "bad_input");
    assert!(!nobody.data().join("profile.json").exists());
}

#[test]
fn a_wiped_server_restored_with_its_identity_takes_its_devices_back() {
    let mut server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let ids = a.import(&qmsum::real(a.files(), 5));
    a.sync();
    b.sync();
    let (file, _) = archive(&server.peer, "server", &["--with-identity"]);
    let peer_id = server.info["peer_id"].clone();
    // Everyone goes on after it was made, the server too, and then it is gone with its directory.
    b.run(&[
        "meeting",
        "edit",
        &ids[0],
        "--append-note",
        "from B, since then",
    ]);
    b.sync();
    let served = server.peer.add("made on the server");
    a.sync();
    let offline = a.add("only on A");
    a.run(&[
        "meeting",
        "edit",
        &ids[0],
        "--append-note",
        "from A, offline",
    ]);
    let listening = server.info["listening"].clone();
    server.kill();
    fs::remove_dir_all(server.peer.data()).unwrap();

    let report = server
        .peer
        .run(&["archive", "restore", &file, "--with-identity"]);
    assert_eq!(report["complete"], true, "{report}");
    assert_eq!(report["archived_by"], peer_id);
    server.start();
    assert_eq!(server.info["peer_id"], peer_id);
    assert_eq!(server.info["listening"], listening);
    for device in [&a, &b, &a] {
        device.sync();
    }
    let export = a.export();
    assert_eq!(export, b.export());
    assert_eq!(export, server.export());
    for id in ids.iter().chain([&served, &offline]) {
        assert!(export.contains(id.as_str()), "{id} is lost");
    }
    for note in ["from B, since then", "from A, offline"] {
        assert!(export.contains(note), "{note} is lost");
    }
    for peer in [&a, &b, &server.peer] {
        check_intact(peer);
    }
    assert_eq!(b.sync()["round_trips"], 1);
    // Who comes now is let in as before.
    let c = Peer::joined(&server, "Ada");
    c.sync();
    assert_eq!(c.export(), export);
}

#[test]
fn a_device_restored_from_an_old_archive_syncs_to_equality_both_ways() {
    let server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let ids = a.import(&qmsum::real(a.files(), 4));
    a.sync();
    // In the archive, and on no server yet.
    let unsent = a.add("in the archive alone");
    let (with, _) = archive(&a, "with", &["--with-identity"]);
    let (without, _) = archive(&a, "without", &[]);
    a.run(&[
        "meeting",
        "edit",
        &ids[0],
        "--append-note",
        "synced after it was made",
    ]);
    a.run(&["meeting", "delete", &unsent]);
    b.sync();
    b.run(&["meeting", "edit", &ids[1], "--title", "of B meanwhile"]);
    let newer = b.add("of B, newer than the archive");
    b.sync();
    let before = epoch(&a);
    fs::remove_dir_all(a.data()).unwrap();

    // As the device that it was.
    a.run(&["archive", "restore", &with, "--with-identity"]);
    assert_ne!(epoch(&a), before);
    a.run(&[
        "meeting",
        "edit",
        &ids[1],
        "--append-note",
        "of A, before any sync",
    ]);
    a.sync();
    b.sync();
    let export = a.export();
    assert_eq!(export, server.export());
    assert_eq!(export, b.export());
    for text in [&unsent, &newer, "of B meanwhile", "of A, before any sync"] {
        assert!(export.contains(text), "{text} is lost");
    }
    let mode = fs::metadata(a.data().join("identity.key")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o600
    );

    // As a new device, which has to be let in first; then it gets and gives everything, too.
    let new = Peer::new();
    new.run(&["archive", "restore", &without]);
    new.fails(&["sync", "--timeout", "20s"], 6, "not_enrolled");
    let own = new.add("before it was let in");
    new.run(&["join", &server.ticket("Ada")]);
    new.sync();
    for device in [&a, &b] {
        device.sync();
    }
    assert!(
        new.export().contains(&own) || a.run(&["workspace", "list"]).to_string().contains(&own)
    );
    assert_eq!(new.export(), server.export());
    assert_eq!(new.export(), b.export());
}

/// Runs a test on a store of this process.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

/// A small archive of a few meetings, with its bytes.
async fn small(root: &Path) -> (PathBuf, Vec<u8>, String) {
    let replica = Replica::open(root.join("small")).await.unwrap();
    let meetings = replica.meetings();
    for title in ["one", "two", "three"] {
        let added = meetings.add(NewMeeting::titled(title)).await.unwrap();
        for note in ["first", "second"] {
            let edit = meetings.edit(added.meeting.id, move |meeting| meeting.append_note(note));
            edit.await.unwrap();
        }
    }
    let file = root.join("small.archive");
    let report = replica
        .archive(&file, ArchiveOptions::default())
        .await
        .unwrap();
    assert!(report.complete, "{report:?}");
    let export = replica.export(None).await.unwrap();
    replica.close().await.unwrap();
    (file.clone(), fs::read(&file).unwrap(), export)
}

/// The pieces of an archive, with where they begin and end.
fn pieces(bytes: &[u8]) -> Vec<(usize, usize, Piece)> {
    let mut decoder = Decoder::strict();
    decoder.feed(bytes);
    decoder.finish();
    let mut found = Vec::new();
    while let Some(Found::Piece { offset, piece }) = decoder.next_found().unwrap() {
        found.push((usize::try_from(offset).unwrap(), piece));
    }
    let ends = found.iter().skip(1).map(|(offset, _)| *offset);
    let ends: Vec<_> = ends.chain([bytes.len()]).collect();
    let with_ends = found.into_iter().zip(ends);
    with_ends
        .map(|((from, piece), to)| (from, to, piece))
        .collect()
}

/// Restores a file into a new store in part; the report and what the store then exports.
async fn restored_in_part(root: &Path, file: &Path) -> (RestoreReport, String) {
    let store = TempDir::new_in(root).unwrap();
    let options = RestoreOptions {
        partial: true,
        ..RestoreOptions::default()
    };
    let open = OpenOptions::new(store.path().join("data"));
    let (replica, report) = open.restore(file, options).await.unwrap();
    let verified = replica.verify(None).await.unwrap();
    assert!(verified.intact, "{verified:?}");
    // What was archived is one workspace; where its piece is lost it is not the home.
    let ids: Vec<_> = report.workspaces.iter().map(ToString::to_string).collect();
    let export = match ids.first() {
        Some(id) => replica.export(Some(id)).await.unwrap(),
        None => String::new(),
    };
    replica.close().await.unwrap();
    (report, export)
}

/// The documents of an export by their ids.
fn documents(export: &str) -> Vec<(String, Value)> {
    if export.is_empty() {
        return Vec::new();
    }
    let export: Value = serde_json::from_str(export).unwrap();
    let documents = export["documents"].as_array().unwrap().iter();
    let with_ids = documents.map(|document| {
        let id = document["id"].as_str().unwrap().to_owned();
        (id, document.clone())
    });
    with_ids.collect()
}

/// Splitmix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[test]
fn every_truncation_and_flip_of_an_archive_is_refused_and_nothing_of_it_taken() {
    run(async {
        let root = TempDir::new().unwrap();
        let (file, bytes, _) = small(root.path()).await;
        let living = Replica::open(root.path().join("living")).await.unwrap();
        living
            .meetings()
            .add(NewMeeting::titled("own"))
            .await
            .unwrap();
        let before = living.export(None).await.unwrap();
        let workspaces = living.workspaces().await.unwrap().len();
        let altered = root.path().join("altered");
        let refused = async |bytes: &[u8]| {
            fs::write(&altered, bytes).unwrap();
            let restored = living.restore(&altered, RestoreOptions::default()).await;
            let error = restored.expect_err("it is refused");
            assert!(matches!(error, Error::Archive { .. }), "{error:?}");
            error
        };
        for length in 0..bytes.len() {
            let error = refused(&bytes[..length]).await;
            let expected = match length {
                0 => "not_an_archive",
                _ => "archive_damaged",
            };
            assert_eq!(error.code(), expected, "{length}: {error}");
            let place = format!("byte {length}");
            assert!(length == 0 || error.to_string().contains(&place), "{error}");
        }
        let mut seed = 1;
        for _ in 0..2_000 {
            let place = random(&mut seed);
            let at = usize::try_from(place >> 3).unwrap() % bytes.len();
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (place & 7);
            let error = refused(&flipped).await;
            let expected = match at {
                0..8 => "not_an_archive",
                _ => "archive_damaged",
            };
            assert_eq!(error.code(), expected, "{at}: {error}");
        }
        // What a later version wrote.
        let mut later = bytes.clone();
        later[8..12].copy_from_slice(&2_u32.to_be_bytes());
        let mut header = Vec::new();
        Encoder::begin(later[12..20].try_into().unwrap(), &mut header);
        assert_eq!(header[..], bytes[..24], "the header is the same again");
        // Its checksum is right.
        let checksum = crc(&later[..20]);
        later[20..24].copy_from_slice(&checksum.to_be_bytes());
        let error = refused(&later).await;
        assert_eq!(error.code(), "newer_version", "{error}");
        assert_eq!(living.export(None).await.unwrap(), before);
        assert_eq!(living.workspaces().await.unwrap().len(), workspaces);
        let whole = living.restore(&file, RestoreOptions::default()).await;
        assert!(whole.unwrap().complete);
        living.close().await.unwrap();
    });
}

/// CRC-32 as Ethernet has it, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => (crc >> 1) ^ 0xedb8_8320,
            _ => crc >> 1,
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[test]
fn of_a_damaged_archive_every_whole_piece_is_taken_and_the_rest_named() {
    run(async {
        let root = TempDir::new().unwrap();
        let (_, bytes, export) = small(root.path()).await;
        let original = documents(&export);
        let pieces = pieces(&bytes);
        let altered = root.path().join("altered");
        let mut seed = 7;
        let mut hit = BTreeSet::new();
        for round in 0..120 {
            let place = random(&mut seed);
            // Every piece at least once.
            let (from, to, piece) = &pieces[round % pieces.len()];
            let at = from + usize::try_from(place >> 3).unwrap() % (to - from);
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (place & 7);
            fs::write(&altered, &flipped).unwrap();
            let (report, export) = restored_in_part(root.path(), &altered).await;
            assert!(!report.complete, "{at}");
            let lost = (report.lost[0].offset, report.lost[0].bytes);
            let stretch = (*from as u64, (to - from) as u64);
            let ends = matches!(piece, Piece::End(_));
            assert_eq!(lost, stretch, "{at}, {piece:?}");
            assert_eq!(
                report.lost.len(),
                if ends && report.losses == 2 { 2 } else { 1 }
            );
            let changed = match piece {
                Piece::Change(body) => Some(body.document),
                _ => None,
            };
            hit.extend(changed);
            // Which documents lack something is told by name, and the others are as they were.
            let lacking: Vec<_> = report
                .incomplete
                .iter()
                .map(|of| (of.document, of.changes))
                .collect();
            let expected: Vec<_> = changed.iter().map(|document| (*document, 1)).collect();
            assert_eq!(lacking, expected, "{at}");
            let refused: BTreeSet<_> = report.refused.iter().map(|of| of.document).collect();
            assert!(refused.iter().all(|document| Some(*document) == changed));
            let restored = documents(&export);
            assert!(
                restored.len() + usize::from(changed.is_some()) >= original.len(),
                "{at}"
            );
            for (id, document) in restored {
                let is_changed = changed.is_some_and(|changed| changed.to_string() == id);
                if !is_changed {
                    assert!(original.contains(&(id, document)), "{at}");
                }
            }
        }
        assert!(hit.len() > 2, "{hit:?}");
        for _ in 0..40 {
            let length = usize::try_from(random(&mut seed)).unwrap_or(usize::MAX) % bytes.len();
            if length < 60 {
                continue;
            }
            fs::write(&altered, &bytes[..length]).unwrap();
            let (report, export) = restored_in_part(root.path(), &altered).await;
            let whole = pieces.iter().filter(|(_, to, _)| *to <= length);
            let changes = whole.filter(|(_, _, piece)| matches!(piece, Piece::Change(_)));
            assert_eq!(report.changes, changes.count() as u64, "{length}");
            let last = report.lost.last().unwrap();
            assert_eq!((last.offset, last.bytes), (length as u64, 0), "{report:?}");
            let incomplete: BTreeSet<_> = report
                .incomplete
                .iter()
                .map(|of| of.document.to_string())
                .collect();
            for (id, document) in documents(&export) {
                assert!(incomplete.contains(&id) || original.contains(&(id, document)));
            }
        }
    });
}

/// What stands in a directory besides what stood there.
fn left_in(directory: &Path, before: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let now = entries(directory).into_iter();
    now.filter(|path| !before.contains(path)).collect()
}

fn entries(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Waits for something that a process does, unless the process ends first.
fn wait_until(process: &mut Process, mut is_so: impl FnMut(&Process) -> bool) {
    let until = Instant::now() + deadline();
    while !process.has_ended() && !is_so(process) {
        assert!(Instant::now() < until, "it did not come to that in time");
        std::thread::yield_now();
    }
}

#[test]
fn a_kill_while_an_archive_is_made_leaves_no_half_file() {
    let device = Peer::new();
    device.run(&["init"]);
    device.import(&qmsum::made(device.files(), "m", 150, 60));
    let target = device.files().join("target");
    fs::create_dir(&target).unwrap();
    let file = target.join("archive");
    let words = ["archive", "create", file.to_str().unwrap(), "--overwrite"];
    device.run(&words);
    let size = fs::metadata(&file).unwrap().len();
    let whole = fs::read(&file).unwrap();
    let mut halves = 0;
    for round in 0..12 {
        if round % 2 == 0 {
            fs::remove_file(&file).unwrap_or(());
        } else {
            fs::write(&file, &whole).unwrap();
        }
        let before = entries(&target);
        let mut process = device.start(&words);
        // Some way into it.
        let enough = size * round / 12;
        wait_until(&mut process, |_| {
            let left = left_in(&target, &before);
            let sizes = left.iter().filter_map(|path| fs::metadata(path).ok());
            sizes
                .map(|metadata| metadata.len())
                .any(|bytes| bytes > enough)
        });
        process.kill();
        halves += left_in(&target, &before)
            .iter()
            .filter(|path| **path != file)
            .count();
        match fs::read(&file) {
            // It is the one that was there, or a whole new one.
            Ok(bytes) => assert!(bytes == whole || !pieces(&bytes).is_empty()),
            Err(_) => assert!(round % 2 == 0),
        }
        // The next one clears away what was left.
        device.run(&words);
        assert_eq!(entries(&target), BTreeSet::from([file.clone()]));
    }
    assert!(halves > 0, "none was killed while it was written");
    let restored = Peer::new();
    restored.run(&["archive", "restore", file.to_str().unwrap()]);
    assert_eq!(restored.export(), device.export());
}

#[test]
fn a_kill_while_an_archive_is_restored_leaves_a_store_that_is_restored_again() {
    let device = Peer::new();
    device.run(&["init"]);
    device.import(&qmsum::made(device.files(), "m", 600, 2));
    let export = device.export();
    let (file, answer) = archive(&device, "archive", &["--with-identity"]);
    let mut parts = 0;
    for round in 0..8 {
        let restored = Peer::new();
        let with = ["archive", "restore", &file, "--with-identity"];
        let words = &with[..if round % 2 == 0 { 3 } else { 4 }];
        let mut command = restored.command(words);
        command.env("RECONVENE_LOG", "reconvene=debug");
        let mut process = Process::spawn(command);
        // From its first file to the middle of its documents.
        let mut batches = 0;
        let data = restored.data();
        wait_until(&mut process, |process| {
            let batch = "a batch of an archive is restored";
            batches += process
                .log()
                .try_iter()
                .filter(|line| line.contains(batch))
                .count();
            match round / 2 {
                0 => data.exists(),
                enough => batches >= enough,
            }
        });
        process.kill();
        if data.join("profile.json").exists() {
            let documents = restored.run(&["status"])["documents"].clone();
            check_intact(&restored);
            parts += usize::from(documents.as_u64() < answer["documents"].as_u64());
            let report = restored.run(&["archive", "restore", &file]);
            assert_eq!(report["complete"], true, "{report}");
        } else {
            restored.run(words);
        }
        assert_eq!(restored.export(), export, "{round}");
        let is_same = restored.run(&["status"])["device"]["peer_id"]
            == device.run(&["status"])["device"]["peer_id"];
        assert_eq!(is_same, words.len() == 4);
        check_intact(&restored);
    }
    assert!(parts > 0, "none was killed midway");
}

#[test]
fn a_full_disk_ends_an_archive_and_leaves_nothing_of_it() {
    let Some(disk) = Disk::new("a_full_disk_ends_an_archive_and_leaves_nothing_of_it") else {
        return;
    };
    let device = disk.peer();
    device.run(&["init"]);
    device.import(&qmsum::real(device.files(), 10));
    let export = device.export();
    let (seen, file) = disk.file("archive");
    let before = entries(seen.parent().unwrap());
    // The store is read all the same.
    disk.fill(64 * 1024);
    let words = ["archive", "create", file.to_str().unwrap()];
    device.fails(&words, 9, "no_space");
    disk.free();
    assert_eq!(entries(seen.parent().unwrap()), before);
    let answer = device.run(&words);
    assert_eq!(fs::metadata(&seen).unwrap().len(), answer["bytes"]);
    // Nor is one that is there harmed.
    disk.fill(64 * 1024);
    let whole = fs::read(&seen).unwrap();
    device.fails(&[&words[..], &["--overwrite"]].concat(), 9, "no_space");
    assert_eq!(fs::read(&seen).unwrap(), whole);
    disk.free();
    assert_eq!(device.export(), export);
}
