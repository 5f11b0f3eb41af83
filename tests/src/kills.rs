//! Processes that end without warning, and stores that vanish: nothing acknowledged is lost.

use std::fs;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::harness::{Peer, Process, Server, deadline};
use crate::qmsum;

/// Waits until the server logged a word this often or the command ended, whichever is first.
fn wait_for_log(server: &Server, word: &str, times: usize, running: &mut Process) {
    let until = Instant::now() + deadline();
    let mut seen = 0;
    while seen < times && !running.has_ended() {
        assert!(Instant::now() < until, "`{word}` was not logged in time");
        match server.log().recv_timeout(Duration::from_millis(5)) {
            Ok(line) if line.contains(word) => seen += 1,
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the server ended by itself"),
        }
    }
}

#[test]
fn killing_the_server_while_devices_sync_loses_nothing() {
    let mut server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let mut expected = Vec::new();
    // From the moment the link is up until much of it has been stored and indexed.
    let points = [
        ("link up", 1),
        ("changed", 1),
        ("changed", 3),
        ("link up", 1),
        ("changed", 6),
    ];
    for (round, (word, times)) in points.into_iter().enumerate() {
        expected.extend(a.import(&qmsum::made(a.files(), &format!("r{round}"), 60, 40)));
        expected.push(b.add(&format!("of B in round {round}")));
        // B takes what earlier rounds left on the server, while its own goes up.
        let device = if round == 3 { &b } else { &a };
        server.forget_log();
        let mut sync = device.start(&["sync", "--timeout", "20s"]);
        wait_for_log(&server, word, times, &mut sync);
        server.kill();
        server.start();
        // It redials by itself, and may well find the server that came back.
        let ended = sync.end();
        assert!(matches!(ended.status.code(), Some(0 | 5)), "{ended:?}");
    }
    for device in [&a, &b, &a] {
        device.sync();
    }
    let export = a.export();
    assert_eq!(export, b.export());
    assert_eq!(export, server.export());
    for id in &expected {
        assert!(export.contains(id.as_str()), "{id} is lost");
    }
    // And nothing is left to be done.
    let again = b.sync();
    assert_eq!(again["round_trips"], 1, "{again}");
}

#[test]
fn a_meeting_is_there_once_its_answer_was_printed_whatever_ends_the_process() {
    let device = Peer::new();
    device.run(&["init"]);
    let mut ids = Vec::new();
    for n in 0..5 {
        let process = device.start(&["meeting", "add", &format!("meeting {n}")]);
        let answer = process.line();
        process.kill();
        ids.push(answer["meeting"]["id"].as_str().unwrap().to_owned());
    }
    // The process that prints is not the one that is killed: the host of the store is.
    let host = device.start(&["events"]);
    host.line();
    ids.push(device.add("added through the control socket"));
    host.kill();
    let listed = device.run(&["meeting", "list"]);
    let listed = listed["meetings"].as_array().unwrap().iter();
    let mut listed: Vec<_> = listed.map(|row| row["id"].as_str().unwrap()).collect();
    listed.reverse();
    assert_eq!(listed, ids);
}

#[test]
fn deleting_the_sled_directory_after_an_offline_edit_loses_nothing() {
    let server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let ids = a.import(&qmsum::real(a.files(), 5));
    a.sync();
    b.sync();
    b.run(&[
        "meeting",
        "edit",
        &ids[0],
        "--append-note",
        "from B meanwhile",
    ]);

    a.run(&[
        "meeting",
        "edit",
        &ids[0],
        "--append-note",
        "just acknowledged",
    ]);
    let new = a.add("only on A");
    let before = a.export();
    fs::remove_dir_all(a.data().join("sled")).unwrap();
    // What nobody else has is here at once; the rest comes back from the server.
    let shown = a.run(&["meeting", "show", &new]);
    assert_eq!(shown["meeting"]["title"], "only on A");
    a.sync();
    assert_eq!(a.export(), before);
    for device in [&b, &a] {
        device.sync();
    }
    let export = a.export();
    assert!(export.contains("just acknowledged") && export.contains("from B meanwhile"));
    assert_eq!(export, b.export());
    assert_eq!(export, server.export());
    let listed = a.run(&["meeting", "list"]);
    assert_eq!(listed["meetings"].as_array().unwrap().len(), 6);
}

#[test]
fn a_killed_device_whose_store_is_deleted_too_still_has_its_edits() {
    let server = Server::new();
    let a = Peer::joined(&server, "Ada");
    a.import(&qmsum::made(a.files(), "meeting", 20, 20));
    a.sync();
    let host = a.start(&["events"]);
    host.line();
    let id = a.add("answered, then everything went");
    host.kill();
    fs::remove_dir_all(a.data().join("sled")).unwrap();
    a.sync();
    let listed = a.run(&["meeting", "list"]);
    assert_eq!(listed["meetings"].as_array().unwrap().len(), 21);
    assert_eq!(listed["meetings"][0]["id"], id.as_str());
    assert_eq!(a.export(), server.export());
}
