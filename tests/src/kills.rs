//! Processes that end without warning, and stores that vanish: nothing acknowledged is lost.

use std::collections::BTreeSet;
use std::fs;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::harness::{Peer, Process, Server, deadline};
use crate::qmsum;
use crate::writer::{Chances, Survivors, Writer, WriterOptions, has_set_aside, times};
use reconvene::Role;
use reconvene_testkit::Proxy;

/// How often processes that write are killed, unless `RECONVENE_KILLS` says otherwise: three of four
/// times a device, else a server.
const KILLS: u64 = 200;
/// Kills after which a new store is begun, so that reading it all stays cheap.
const KILLS_PER_STORE: u64 = 20;
/// Edits of each task of a device that closes its store in the end, if it lives that long.
const EDITS: u64 = 12;
/// The longest time from what is waited for to the kill: as long as a store takes to open.
const MICROSECONDS_MAX: u64 = 150_000;

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

/// A time before a kill: mostly short.
fn moment(chances: &mut Chances) -> Duration {
    let end = [200, 5_000, MICROSECONDS_MAX][usize::try_from(chances.below(3)).unwrap()];
    Duration::from_micros(chances.below(end))
}

#[test]
fn a_device_that_is_killed_while_it_writes_opens_again_with_all_it_acknowledged() {
    let kills = times("RECONVENE_KILLS", KILLS) * 3 / 4;
    let mut chances = Chances::named("RECONVENE_KILLS_SEED");
    let (mut done, mut edits) = (0, 0);
    while done < kills {
        let device = Peer::new();
        let mut acknowledged = BTreeSet::new();
        for kill in 0..KILLS_PER_STORE.min(kills - done) {
            let mut writer = Writer::spawn(&WriterOptions {
                data: device.data(),
                run: format!("k{kill}"),
                linked: false,
                edits: EDITS,
            });
            let what = chances.below(5);
            let after = chances.below(3 * EDITS);
            writer.hear_until(|heard| match what {
                0 => heard.last == "opening",
                1 => heard.last == "opened",
                2 => heard.last == "closing",
                _ => heard.acknowledged.len() as u64 > after,
            });
            writer.hear_for(moment(&mut chances));
            let heard = writer.kill();
            let what = format!("kill {} after it was {}", done + kill + 1, heard.last);
            acknowledged.extend(heard.acknowledged);
            // Now and then who is killed next is the first to open it.
            if chances.below(3) > 0 {
                let found = Survivors::of(&device.data(), Role::Device);
                found.check(&acknowledged, &what);
                assert!(!has_set_aside(&device.data()), "{what}");
            }
        }
        Survivors::of(&device.data(), Role::Device).check(&acknowledged, "at the end");
        done += KILLS_PER_STORE.min(kills - done);
        edits += acknowledged.len();
    }
    println!("{done} kills of a device, {edits} edits acknowledged");
}

/// Waits for a moment in the life of a server at which it is to be killed.
fn wait_for_moment(server: &Server, writer: &mut Writer, chances: &mut Chances) {
    let held = writer.heard.held.len() as u64 + chances.below(16);
    match chances.below(4) {
        // While it takes in what has come together since it was killed last.
        0 => server.wait_for_log("link up"),
        1 => server.wait_for_log("changed"),
        _ => assert!(writer.hear_until(|heard| heard.held.len() as u64 > held)),
    }
    writer.hear_for(moment(chances));
}

#[test]
fn a_server_that_is_killed_while_a_device_writes_holds_all_it_said_it_holds() {
    let kills = (times("RECONVENE_KILLS", KILLS) / 4).max(1);
    let mut chances = Chances::named("RECONVENE_KILLS_SEED");
    let (mut done, mut edits) = (0, 0);
    while done < kills {
        let proxy = Proxy::new().unwrap();
        let mut server = Server::behind(&proxy);
        let device = Peer::joined(&server, "Ada");
        let data = server.peer.data();
        let mut writer = Writer::spawn(&WriterOptions {
            data: device.data(),
            run: "k".to_owned(),
            linked: true,
            edits: 100_000,
        });
        for _ in 0..KILLS_PER_STORE.min(kills - done) {
            wait_for_moment(&server, &mut writer, &mut chances);
            server.kill();
            if chances.below(3) == 0 {
                // And again while it opens its store.
                let opening = server.begin();
                writer.hear_for(moment(&mut chances));
                opening.kill();
                done += 1;
            }
            writer.hear_now();
            done += 1;
            let what = format!("kill {done} of a server");
            Survivors::of(&data, Role::Server).check(&writer.heard.held, &what);
            assert!(!has_set_aside(&data), "{what}");
            server.start();
            proxy.lead_to(server.info["listening"][0].as_str().unwrap());
        }
        // The device was not disturbed, and the server comes to hold everything.
        let held = writer.heard.held.len();
        assert!(writer.hear_until(|heard| heard.held.len() > held));
        let heard = writer.kill();
        device.sync();
        server.stop();
        Survivors::of(&data, Role::Server).check(&heard.acknowledged, "at the end");
        edits += heard.held.len();
    }
    println!("{done} kills of a server, {edits} edits held");
}
