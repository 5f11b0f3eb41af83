//! Disks that fill: a typed refusal, nothing acknowledged lost, and on it goes once there is space.

use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{Peer, Server};
use crate::qmsum;

/// What a store still takes before it is at its floor.
const LITTLE: u64 = 1024 * 1024;

/// The titles and ids that are listed.
fn listed(peer: &Peer) -> Vec<String> {
    let page = peer.run(&["meeting", "list", "--limit", "1000"]);
    let rows = page["meetings"].as_array().unwrap().iter();
    rows.map(|row| row["id"].as_str().unwrap().to_owned())
        .collect()
}

fn quarantined(peer: &Peer) -> usize {
    std::fs::read_dir(peer.data().join("quarantine")).map_or(0, Iterator::count)
}

#[test]
fn a_full_disk_refuses_with_a_typed_error_and_loses_nothing() {
    let Some(disk) = Disk::new("a_full_disk_refuses_with_a_typed_error_and_loses_nothing") else {
        return;
    };
    let device = disk.peer();
    device.run(&["init"]);
    let mut ids = vec![device.add("before")];
    disk.fill(reconvene_sled::FREE_BYTES_MIN + LITTLE);
    let files = qmsum::real(device.files(), 60);
    let mut args = vec!["import", "qmsum"];
    args.extend(files.iter().map(|file| file.to_str().unwrap()));
    let ended = device.end(&args);
    assert_eq!(ended.status.code(), Some(9), "{ended:?}");
    let answer = ended.json();
    assert_eq!(answer["stopped"]["code"], "no_space", "{answer}");
    assert!(answer["stopped"]["hint"].is_string(), "{answer}");
    let imported = answer["meetings"].as_array().unwrap();
    assert!(!imported.is_empty() && imported.len() < files.len());
    ids.extend(imported.iter().map(|id| id.as_str().unwrap().to_owned()));

    // What was acknowledged is there, and all of it can be read; only writing is refused.
    let check_read_only = || {
        let mut there = listed(&device);
        there.reverse();
        assert_eq!(there, ids);
        device.run(&["meeting", "show", ids.last().unwrap()]);
        device.run(&["status"]);
        let error = device.fails(&["meeting", "add", "refused"], 9, "no_space");
        let said = error["message"].as_str().unwrap();
        let floor = reconvene_sled::FREE_BYTES_MIN.to_string();
        assert!(said.contains(&floor), "{error}");
    };
    check_read_only();
    let export = device.export();
    // The same of a process that stays; and it goes on without being started again.
    let host = device.start(&["events"]);
    host.line();
    check_read_only();
    disk.free();
    ids.push(device.add("after"));
    let ended = host.stop();
    assert!(ended.status.success(), "{ended:?}");
    ids.extend(device.import(&files[..1]));
    let mut there = listed(&device);
    there.reverse();
    assert_eq!(there, ids);

    // Where others took even what is kept free, opening says so, or reads.
    let export_now = device.export();
    assert_ne!(export_now, export);
    disk.fill(0);
    for _ in 0..3 {
        let ended = device.end(&["export"]);
        match ended.status.code() {
            Some(0) => assert_eq!(ended.stdout, export_now),
            _ => drop(ended.failed(9, "no_space")),
        }
        device.fails(&["meeting", "add", "refused"], 9, "no_space");
    }
    disk.free();
    assert_eq!(device.export(), export_now);
    assert_eq!(quarantined(&device), 0);
    device.add("at the end");
}

#[test]
fn a_device_whose_disk_fills_while_it_syncs_goes_on_once_there_is_space() {
    let name = "a_device_whose_disk_fills_while_it_syncs_goes_on_once_there_is_space";
    let Some(disk) = Disk::new(name) else {
        return;
    };
    let server = Server::new();
    let a = Peer::joined(&server, "Ada");
    let b = disk.peer();
    b.run(&["join", &server.ticket("Ben")]);
    let own = b.add("made by B");
    b.sync();
    a.import(&qmsum::real(a.files(), 60));
    a.sync();
    let documents = |peer: &Peer| -> Value { peer.run(&["status"])["documents"].clone() };

    disk.fill(reconvene_sled::FREE_BYTES_MIN + LITTLE);
    for _ in 0..2 {
        b.fails(&["sync"], 9, "no_space");
        assert!(listed(&b).contains(&own));
    }
    let part = documents(&b).as_u64().unwrap();
    assert!(part < documents(&a).as_u64().unwrap(), "{part}");
    // The server sends on once B can take it, and was not misled about what B holds.
    disk.free();
    b.sync();
    a.sync();
    let export = b.export();
    assert!(export.contains(&own));
    assert_eq!(export, server.export());
    assert_eq!(export, a.export());
    assert_eq!(quarantined(&b), 0);
}
