//! Bytes that rot on the disk of a closed store.

use std::fs;

use crate::harness::{Peer, Server};
use crate::qmsum;

/// Places of the database file that are flipped, one at a time: about a fifth of them do harm that
/// verifying finds.
const FLIPS: usize = 64;
/// Repairs after which no more is flipped.
const REPAIRS: usize = 3;

#[test]
fn verify_finds_whole_stores_whole_beside_a_running_process() {
    let server = Server::new();
    let a = Peer::joined(&server, "Ada");
    a.import(&qmsum::real(a.files(), 3));
    a.sync();
    let watch = a.start(&["events"]);
    watch.line();
    for peer in [&a, &server.peer] {
        let report = peer.run(&["verify"]);
        assert_eq!(report["intact"], true, "{report}");
        assert_eq!(report["damages"], 0, "{report}");
        assert!(report["documents"].as_u64().unwrap() >= 6, "{report}");
    }
    // A journal with a flipped byte in its middle is named, without the store being opened anew.
    a.add("in the journal");
    a.add("in the journal as well");
    let segment = a.data().join("journal").join("1.log");
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let ended = a.end(&["verify"]);
    assert_eq!(ended.status.code(), Some(9), "{ended:?}");
    let report = ended.json();
    assert_eq!(report["damaged"][0]["record"], "journal/1.log", "{report}");
}

/// Flips a byte of a peer's closed database.
fn flip(peer: &Peer, at: usize) {
    let database = peer.data().join("sled").join("db");
    let mut bytes = fs::read(&database).unwrap();
    bytes[at] ^= 0x10;
    fs::write(database, bytes).unwrap();
}

/// Places spread over what was written of a peer's database; beyond are zeros, which say nothing.
fn places(peer: &Peer) -> Vec<usize> {
    let bytes = fs::read(peer.data().join("sled").join("db")).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // In an order in which neighbours are far apart.
    let places = (0..FLIPS).map(|n| (n * 29) % FLIPS);
    places
        .map(|n| written * (2 * n + 1) / (2 * FLIPS))
        .collect()
}

fn set_aside(peer: &Peer) -> usize {
    fs::read_dir(peer.data().join("quarantine")).map_or(0, Iterator::count)
}

#[test]
fn a_flipped_byte_is_found_and_repaired_or_set_aside_or_changes_nothing() {
    let server = Server::new();
    let base = Peer::joined(&server, "Ada");
    base.import(&qmsum::real(base.files(), 20));
    base.sync();
    base.add("not synced yet");
    let export = base.export();
    let mut repaired = 0;
    for at in places(&base) {
        if repaired == REPAIRS {
            break;
        }
        let device = Peer::new();
        crate::cuts::copy_dir(&base.data(), &device.data());
        flip(&device, at);
        let ended = device.end(&["verify"]);
        match ended.status.code() {
            // It hit nothing of use, or opening began a new database.
            Some(0) if set_aside(&device) == 0 => {
                assert_eq!(device.export(), export, "at {at}");
                continue;
            }
            Some(0) => {}
            Some(9) => {
                let report = ended.json();
                let named = report["damaged"][0]["record"].is_string();
                assert!(named, "at {at}: {report}");
                let report = device.run(&["repair"]);
                assert!(report["damages"].as_u64().unwrap() > 0, "at {at}: {report}");
                assert_eq!(set_aside(&device), 1);
                repaired += 1;
            }
            _ => panic!("at {at}: {ended:?}"),
        }
        // Whatever was lost here comes back, and what only this device had was in its journal.
        device.sync();
        device.sync();
        assert_eq!(device.export(), export, "at {at}");
        assert_eq!(device.export(), server.export(), "at {at}");
        assert_eq!(device.run(&["verify"])["intact"], true, "at {at}");
    }
    assert_eq!(repaired, REPAIRS, "few flips did any harm");
}

#[test]
fn a_server_with_damage_is_repaired_and_its_devices_bring_back_what_it_lost() {
    let mut server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    a.import(&qmsum::real(a.files(), 20));
    a.sync();
    b.sync();
    b.add("made by B");
    let mut kept = 0;
    server.stop();
    // Opening reads what was written since it was opened last, and sets aside what it cannot read.
    server.peer.run(&["status"]);
    let before = server.peer.files().join("before");
    crate::cuts::copy_dir(&server.peer.data(), &before);
    for at in places(&server.peer) {
        if kept == REPAIRS {
            break;
        }
        fs::remove_dir_all(server.peer.data()).unwrap();
        crate::cuts::copy_dir(&before, &server.peer.data());
        flip(&server.peer, at);
        let ended = server.peer.end(&["verify"]);
        if ended.status.code() != Some(9) {
            continue;
        }
        server.peer.run(&["repair"]);
        server.start();
        // Enrolments may be among what was lost; whoever is still enrolled brings everything back.
        let ends = [&a, &b].map(|device| device.end(&["sync", "--timeout", "8s"]));
        if ends.iter().all(|ended| ended.status.success()) {
            a.sync();
            kept += 1;
            assert_eq!(a.export(), server.export(), "at {at}");
            assert_eq!(b.export(), server.export(), "at {at}");
            assert_eq!(server.peer.run(&["verify"])["intact"], true, "at {at}");
        }
        server.stop();
    }
    assert_eq!(kept, REPAIRS, "few flips did any harm");
}
