//! Commands while another process has the store open, and the shapes of their answers.

use serde_json::Value;

use crate::harness::{Peer, Server};
use crate::qmsum;

/// What must be where in an answer.
type Shape<'a> = [(&'a str, fn(&Value) -> bool)];

/// Asserts that a value has, at each path, something of this type.
fn check_shape(value: &Value, shape: &Shape<'_>) {
    for (pointer, is) in shape {
        let at = value.pointer(pointer);
        assert!(at.is_some_and(is), "{pointer} in {value}");
    }
}

fn is_id(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.len() >= 32 && !text.contains(' '))
}

/// All that can be asked of a store without changing it.
fn check_reading(peer: &Peer, id: &str) -> String {
    let status = peer.run(&["status"]);
    check_shape(
        &status,
        &[
            ("/documents", Value::is_u64),
            ("/documents_materialised_by", Value::is_object),
            ("/workspaces", Value::is_array),
            ("/workspaces/0/id", is_id),
            ("/workspaces/0/documents", Value::is_u64),
            ("/workspaces/0/freshness/state/is", Value::is_string),
            ("/device/peer_id", Value::is_string),
            ("/disk/store_bytes", Value::is_u64),
        ],
    );
    let current = status["workspaces"].as_array().unwrap().iter();
    let current = current.filter(|workspace| workspace["current"] == true);
    let feeds: Vec<_> = current.map(|workspace| &workspace["feed"]).collect();
    assert_eq!(feeds.len(), 1, "{status}");
    check_shape(
        feeds[0],
        &[
            ("/epoch", Value::is_string),
            ("/seq", Value::is_u64),
            ("/digest", Value::is_string),
        ],
    );
    let listed = peer.run(&["meeting", "list", "--limit", "1"]);
    check_shape(
        &listed,
        &[
            ("/meetings/0/id", is_id),
            ("/meetings/0/title", Value::is_string),
            ("/next", is_id),
        ],
    );
    let next = listed["next"].as_str().unwrap();
    let rest = peer.run(&["meeting", "list", "--after", next]);
    assert!(rest["next"].is_null(), "{rest}");
    assert_ne!(rest["meetings"][0]["id"], listed["meetings"][0]["id"]);
    let shown = peer.run(&["meeting", "show", id]);
    check_shape(
        &shown,
        &[
            ("/id", is_id),
            ("/meeting/title", Value::is_string),
            ("/meeting/notes", Value::is_string),
            ("/pages/0/page/segments/0/text", Value::is_string),
            ("/freshness/state/is", Value::is_string),
        ],
    );
    check_shape(
        &peer.run(&["workspace", "list"]),
        &[("/workspaces/0/id", is_id)],
    );
    check_shape(
        &peer.run(&["project", "list"]),
        &[("/projects", Value::is_array)],
    );
    let export = peer.export();
    let parsed: Value = serde_json::from_str(&export).unwrap();
    check_shape(
        &parsed,
        &[
            ("/documents/0/id", is_id),
            ("/documents/0/heads", Value::is_array),
        ],
    );
    export
}

#[test]
fn everything_can_be_read_while_the_server_serves_and_a_device_watches() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let ids = device.import(&qmsum::real(device.files(), 2));
    device.sync();
    let alone = check_reading(&device, &ids[0]);
    let watch = device.start(&["sync", "--watch"]);
    check_shape(&watch.line(), &[("/event", Value::is_string)]);
    assert_eq!(check_reading(&device, &ids[0]), alone);
    assert_eq!(check_reading(&server.peer, &ids[0]), alone);
    let invited = server.peer.run(&["invite", "--expires", "2h"]);
    check_shape(
        &invited,
        &[
            ("/ticket", Value::is_string),
            ("/expires_at", Value::is_string),
        ],
    );
    let ended = watch.stop();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn answers_have_the_documented_shapes() {
    let server = Server::new();
    check_shape(
        &server.info,
        &[
            ("/peer_id", Value::is_string),
            ("/listening/0", Value::is_string),
        ],
    );
    let device = Peer::joined(&server, "Ada");
    let added = device.run(&["meeting", "add", "first"]);
    check_shape(
        &added,
        &[("/meeting/id", is_id), ("/resolution", Value::is_object)],
    );
    assert!(
        added.as_object().unwrap()["resolved_project_id"].is_null(),
        "{added}"
    );

    let project = device.run(&["project", "add", "Apollo"]);
    check_shape(&project, &[("/project/id", is_id)]);
    let project = &project["project"]["id"];
    device.run(&["project", "activate", "Apollo"]);
    let added = device.run(&["meeting", "add", "second"]);
    assert_eq!(added["resolved_project_id"], *project, "{added}");
    assert_eq!(added["resolution"]["rule"], "active", "{added}");
    let named = device.run(&["meeting", "add", "third", "--project", "Apollo"]);
    assert_eq!(named["resolution"]["rule"], "explicit", "{named}");

    let files = qmsum::real(device.files(), 1);
    let imported = device.run(&["import", "qmsum", files[0].to_str().unwrap()]);
    assert_eq!(imported["imported"], 1);
    check_shape(&imported, &[("/meetings/0", is_id)]);
    let report = device.run(&["--json", "sync"]);
    check_shape(&report, &[("/verified", Value::is_boolean)]);
    for count in [
        "documents_compared",
        "documents_sent",
        "documents_received",
        "documents_materialised",
        "bytes_sent",
        "bytes_received",
        "round_trips",
        "elapsed_ms",
        "socket_bytes_sent",
        "socket_bytes_received",
    ] {
        assert!(report[count].is_u64(), "{count} in {report}");
    }
    let materialised = &device.run(&["status"])["documents_materialised_by"];
    for purpose in ["sync", "index", "edit"] {
        assert!(
            materialised[purpose].is_u64(),
            "{purpose} in {materialised}"
        );
    }
}

#[test]
fn edits_on_the_serving_store_reach_devices() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let watch = device.start(&["sync", "--watch"]);
    watch.line_where(|event| event["event"] == "verified");
    let id = server.peer.add("made on the server");
    watch.line_where(|event| event.to_string().contains(&id));
    assert_eq!(device.export(), server.export());
}

#[test]
fn importing_the_same_file_again_makes_a_new_meeting() {
    let device = Peer::new();
    device.run(&["init"]);
    let file = qmsum::real(device.files(), 1);
    let first = device.import(&file);
    let second = device.import(&file);
    assert_ne!(first, second);
    let shown = device.run(&["meeting", "show", &second[0]]);
    assert_eq!(shown["meeting"]["title"], "ES2002a-0");
    assert!(!shown["meeting"]["summary"].as_str().unwrap().is_empty());
    assert_eq!(shown["pages"][0]["page"]["timebase"], "order");
}

#[test]
fn the_demo_runs_and_holds() {
    let peer = Peer::new();
    // Not into the directory that the environment names for the user's own store.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_reconvene-under-test"));
    command
        .args(["demo", "--json"])
        .env("RECONVENE_DATA", peer.data());
    let report = crate::harness::Process::spawn(command).end();
    assert!(report.status.success(), "{report:?}");
    let report = report.json();
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["phases"].as_array().unwrap().len(), 7);
    assert!(!peer.data().exists());
    // Nor into one that is in use.
    std::fs::create_dir(peer.data()).unwrap();
    std::fs::write(peer.data().join("mine"), "").unwrap();
    peer.fails(&["demo"], 7, "bad_input");
}
