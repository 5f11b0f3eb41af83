//! Bytes that rot on the disk of a closed store.

use std::fs;

use crate::harness::{Peer, Server};
use crate::qmsum;

/// Places of the database file that are flipped, one at a time.
const FLIPS: usize = 24;

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

#[test]
fn a_flipped_byte_is_found_or_set_aside_or_changes_nothing() {
    let peer = Peer::new();
    peer.run(&["init"]);
    peer.import(&qmsum::real(peer.files(), 3));
    let export = peer.export();
    let database = peer.data().join("sled").join("db");
    let whole = fs::read(&database).unwrap();
    // What was never written is zeros, and says nothing.
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let mut found = 0;
    for n in 0..FLIPS {
        let case = Peer::new();
        crate::cuts::copy_dir(&peer.data(), &case.data());
        let at = written * (2 * n + 1) / (2 * FLIPS);
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(case.data().join("sled").join("db"), bytes).unwrap();
        let ended = case.end(&["verify"]);
        let set_aside = fs::read_dir(case.data().join("quarantine")).map_or(0, Iterator::count);
        match ended.status.code() {
            // Nothing of it is of use, or a new database was begun from the journal.
            Some(0) if set_aside == 0 => assert_eq!(case.export(), export, "at {at}"),
            Some(0) => found += 1,
            Some(9) => {
                found += 1;
                let answer = ended.json();
                let named = answer["damaged"][0]["record"].is_string()
                    || answer["error"]["code"].is_string();
                assert!(named, "{answer}");
            }
            _ => panic!("at {at}: {ended:?}"),
        }
    }
    assert!(found > 0, "no flip did any harm");
}
