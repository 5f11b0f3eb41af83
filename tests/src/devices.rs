//! Devices of one workspace without their server.

use serde_json::Value;

use crate::harness::{Peer, Process, Server};
use crate::qmsum;

/// A device that lets others in beside its links, and where it does.
fn listening(device: &Peer) -> (Process, String) {
    let watch = device.start(&["sync", "--watch", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let first = watch.line();
    let address = first["listening"][0].as_str().unwrap().to_owned();
    let id = first["peer_id"].as_str().unwrap();
    assert!(address.ends_with(&format!("/p2p/{id}")), "{first}");
    (watch, address)
}

/// Two devices that the server told of each other.
fn acquainted(server: &Server) -> (Peer, Peer) {
    let (a, b) = (Peer::joined(server, "Ada"), Peer::joined(server, "Ben"));
    for device in [&a, &b] {
        device.sync();
    }
    (a, b)
}

#[test]
fn two_devices_converge_without_the_server_and_one_of_them_brings_it_everything() {
    let mut server = Server::new();
    let (a, b) = acquainted(&server);
    let ids = a.import(&qmsum::real(a.files(), 3));
    a.sync();
    b.sync();
    server.kill();

    let from_a = a.add("made on A while the server was down");
    let from_b = b.add("made on B while the server was down");
    a.run(&["meeting", "edit", &ids[0], "--append-note", "a note of A"]);
    b.run(&["meeting", "edit", &ids[0], "--append-note", "a note of B"]);
    b.fails(&["sync", "--timeout", "1s"], 5, "timeout");

    let (watch, address) = listening(&a);
    let report = b.run(&["sync", "--with", &address]);
    assert_eq!(report["verified"], true, "{report}");
    assert!(report["documents_sent"].as_u64().unwrap() >= 2, "{report}");
    let export = b.export();
    assert_eq!(a.export(), export);
    for expected in [&from_a[..], &from_b, "a note of A", "a note of B"] {
        assert!(export.contains(expected), "{expected} is missing");
    }
    // Nothing is left to do, and doing it again is one round trip.
    let again = b.run(&["sync", "--with", &address]);
    assert_eq!(again["round_trips"], 1, "{again}");

    // B never meets the server again: what it made comes by way of A.
    server.start();
    let peer = server.info["peer_id"].as_str().unwrap().to_owned();
    watch.line_where(|event| event["event"] == "verified" && event["peer"] == peer.as_str());
    let ended = watch.stop();
    assert!(ended.status.success(), "{ended:?}");
    a.sync();
    assert_eq!(server.export(), export);
    assert_eq!(a.export(), export);
}

#[test]
fn live_edits_go_from_device_to_device_without_the_server() {
    let mut server = Server::new();
    let (a, b) = acquainted(&server);
    server.kill();
    let (on_a, address) = listening(&a);
    let on_b = b.start(&["sync", "--watch", "--with", &address]);
    let id = a.run(&["status"])["device"]["peer_id"]
        .as_str()
        .unwrap()
        .to_owned();
    on_b.line_where(|event| event["event"] == "verified" && event["peer"] == id.as_str());
    let from_b = b.add("typed on B");
    on_a.line_where(|event| event["event"] == "changed" && event.to_string().contains(&from_b));
    a.run(&["meeting", "edit", &from_b, "--append-note", "answer of A"]);
    on_b.line_where(|event| event["event"] == "changed" && event.to_string().contains(&from_b));
    assert_eq!(a.export(), b.export());
    // The status names the device.
    let status = b.run(&["status"]);
    let workspaces = status["workspaces"].as_array().unwrap().iter();
    let current: Vec<&Value> = workspaces.filter(|one| one["current"] == true).collect();
    let peers = current[0]["peers"].as_array().unwrap();
    let of_a = peers
        .iter()
        .find(|peer| peer["peer"] == id.as_str())
        .unwrap();
    assert!(of_a["device_name"].is_string(), "{of_a}");
    assert_eq!(of_a["linked"], true, "{of_a}");
}

#[test]
fn devices_refuse_strangers_and_say_so() {
    let (server, other) = (Server::new(), Server::new());
    let (a, _) = acquainted(&server);
    let stranger = Peer::joined(&other, "Eve");
    let (watch, address) = listening(&a);
    // It knows nothing of the device, so it does not even try.
    stranger.fails(&["sync", "--with", &address], 6, "not_enrolled");
    // A newcomer that the listening device was not told of is a stranger to it until it is.
    watch.line_where(|event| event["event"] == "verified");
    let newcomer = Peer::joined(&server, "Cid");
    watch.line_where(|event| event["event"] == "devices_changed");
    newcomer.sync();
    let report = newcomer.run(&["sync", "--with", &address]);
    assert_eq!(report["verified"], true, "{report}");
    // What names no device cannot be synced with.
    let bare = address.split("/p2p/").next().unwrap();
    newcomer.fails(&["sync", "--with", bare], 7, "bad_input");
}
