//! What was made before joining, several workspaces side by side, and leaving one.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Peer, Server, deadline};
use crate::qmsum;

fn listed(peer: &Peer) -> Vec<String> {
    let page = peer.run(&["meeting", "list", "--limit", "1000"]);
    let rows = page["meetings"].as_array().unwrap().iter();
    let mut ids: Vec<_> = rows
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

fn names(peer: &Peer, of: &str) -> Vec<String> {
    let answer = peer.run(&[of, "list"]);
    let rows = answer[format!("{of}s")].as_array().unwrap().iter();
    let mut names: Vec<_> = rows
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// The workspace in use.
fn current(peer: &Peer) -> String {
    let answer = peer.run(&["workspace", "list"]);
    let known = answer["workspaces"].as_array().unwrap();
    let current = known.iter().find(|known| known["current"] == true);
    current.unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn what_was_made_before_joining_moves_with_its_history_and_projects() {
    let server = Server::new();
    let other = Peer::joined(&server, "Ben");
    other.run(&["project", "add", "Theirs"]);
    other.sync();

    let device = Peer::new();
    device.run(&["init", "--name", "laptop"]);
    let in_home = device.add("kept at home");
    device.run(&["workspace", "add", "mine"]);
    device.run(&["workspace", "use", "mine"]);
    device.run(&["project", "add", "Ours"]);
    let project = device.run(&["project", "activate", "Ours"]);
    let mut ids = device.import(&qmsum::real(device.files(), 3));
    let filed = device.add("filed under ours");
    device.run(&["meeting", "edit", &filed, "--append-note", "first"]);
    device.run(&[
        "meeting",
        "edit",
        &filed,
        "--title",
        "filed under ours, twice edited",
    ]);
    let before: Value = serde_json::from_str(&device.export()).unwrap();

    let joined = device.run(&["join", &server.ticket("Ada"), "--adopt"]);
    assert!(
        joined["merged_documents"].as_u64().unwrap() >= 8,
        "{joined}"
    );
    ids.extend([in_home, filed.clone()]);
    ids.sort();
    assert_eq!(listed(&device), ids);
    assert_eq!(names(&device, "project"), ["Ours"]);
    let workspaces = names(&device, "workspace");
    assert!(!workspaces.contains(&"mine".to_owned()), "{workspaces:?}");
    // The same documents in the same versions.
    let after: Value = serde_json::from_str(&device.export()).unwrap();
    for document in before["documents"].as_array().unwrap() {
        let same = after["documents"].as_array().unwrap().iter();
        let same = same.filter(|one| one["id"] == document["id"]).count();
        assert_eq!(same, 1, "{document}");
    }

    device.sync();
    other.sync();
    device.sync();
    let export = device.export();
    assert_eq!(other.export(), export);
    assert_eq!(server.export(), export);
    assert_eq!(listed(&other), ids);
    assert_eq!(names(&other, "project"), ["Ours", "Theirs"]);
    let shown = other.run(&["meeting", "show", &filed]);
    assert_eq!(shown["meeting"]["project"], project["project"]["id"]);
    assert_eq!(shown["meeting"]["notes"], "first\n");
    let shared = server.peer.run(&["workspace", "list"]);
    let name = shared["workspaces"].as_array().unwrap().iter();
    let name = name
        .filter(|one| one["current"] == true)
        .map(|one| &one["name"])
        .next();
    let parsed: Value = serde_json::from_str(&export).unwrap();
    assert!(parsed.to_string().contains(name.unwrap().as_str().unwrap()));
    assert!(
        !parsed.to_string().contains("\"mine\""),
        "the joined name stays"
    );
}

#[test]
fn a_move_that_is_killed_goes_on_with_the_next_command() {
    let server = Server::new();
    let device = Peer::new();
    device.run(&["init"]);
    device.run(&["workspace", "add", "mine"]);
    device.run(&["workspace", "use", "mine"]);
    let mut ids = device.import(&qmsum::made(device.files(), "meeting", 150, 30));
    ids.sort();
    let ticket = server.ticket("Ada");
    let profile = device.data().join("profile.json");
    let says = |what: &str| std::fs::read_to_string(&profile).unwrap().contains(what);
    let moving = || !says("\"moves\": []");
    let mut killed = 0;
    let mut first = device.start(&["join", &ticket, "--adopt"]);
    let until = Instant::now() + deadline();
    // From the moment it is written down that something moves, again and again, a little later each.
    while !moving() && !first.has_ended() {
        assert!(Instant::now() < until, "it never begins to move");
        std::thread::yield_now();
    }
    first.kill();
    for round in 1..12_u64 {
        if !moving() {
            break;
        }
        killed += 1;
        let mut next = device.start(&["workspace", "list"]);
        let pause = Instant::now() + Duration::from_millis(15 * round);
        while Instant::now() < pause && !next.has_ended() {
            std::thread::yield_now();
        }
        next.kill();
    }
    assert!(killed > 0, "it was killed while something moved");
    assert!(listed(&device) == ids, "all of them are listed");
    assert!(!moving());
    device.sync();
    let export = device.export();
    assert_eq!(server.export(), export);
    let parsed: Value = serde_json::from_str(&export).unwrap();
    let documents = parsed["documents"].as_array().unwrap();
    for id in &ids {
        let same = documents
            .iter()
            .filter(|document| document["id"] == id.as_str());
        assert_eq!(same.count(), 1, "{id}");
    }
    assert!(!names(&device, "workspace").contains(&"mine".to_owned()));
}

#[test]
fn a_device_in_two_workspaces_of_two_servers_keeps_them_apart() {
    let (one, other) = (Server::new(), Server::new());
    let device = Peer::joined(&one, "Ada");
    let first = current(&device);
    let first = &first[..];
    // Joined beside a process that keeps in touch: the new server is linked at once.
    let watch = device.start(&["sync", "--watch"]);
    watch.line_where(|event| event["event"] == "verified");
    let joined = device.run(&["join", &other.ticket("Ada")]);
    let second = joined["workspace"].as_str().unwrap();
    watch.line_where(|event| event["event"] == "verified" && event["workspace"] == second);
    let here = device.add("of the second server");
    let there = device.run(&[
        "--workspace",
        first,
        "meeting",
        "add",
        "of the first server",
    ]);
    let there = there["meeting"]["id"].as_str().unwrap();
    let ended = watch.stop();
    assert!(ended.status.success(), "{ended:?}");
    device.sync();
    assert!(one.export().contains(there) && !one.export().contains(&here));
    assert!(other.export().contains(&here) && !other.export().contains(there));
    let exported = device.end(&["export", "--workspace", first]);
    assert_eq!(exported.stdout, one.export());
    assert_eq!(device.export(), other.export());
    device.fails(&["--workspace", first, "status"], 2, "usage");
    device.fails(
        &["--workspace", "nowhere", "meeting", "list"],
        7,
        "not_found",
    );
}

#[test]
fn leaving_gives_up_no_edit_unasked_and_ends_the_share_on_both_sides() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let other = Peer::joined(&server, "Ben");
    let id = device.add("everybody has it");
    device.sync();
    other.sync();
    let only_here = device.add("only here");
    let workspace = current(&device);
    let workspace = &workspace[..];
    let error = device.fails(&["workspace", "leave", workspace], 7, "not_held_elsewhere");
    assert!(
        error["message"].as_str().unwrap().starts_with("1 change"),
        "{error}"
    );
    let home = device.run(&["status"])["device"]["home"].clone();
    device.fails(
        &["workspace", "leave", home.as_str().unwrap()],
        7,
        "bad_input",
    );

    // With its documents kept, it is this device's own from then on.
    let left = device.run(&["workspace", "leave", workspace, "--discard"]);
    assert_eq!(left["told_server"], true, "{left}");
    assert_eq!(
        (&left["removed"], &left["not_held_elsewhere"]),
        (&false.into(), &1.into())
    );
    assert_eq!(
        device.run(&["--workspace", workspace, "meeting", "list"])["meetings"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    other.add("after it left");
    other.sync();
    device.sync();
    assert!(
        !device
            .end(&["export", "--workspace", workspace])
            .stdout
            .contains("after it left")
    );
    assert!(!server.export().contains(&only_here));

    // A device that removes it has nothing of it any more, and may come back to all of it.
    let left = other.run(&["workspace", "leave", workspace, "--remove"]);
    assert_eq!(
        (&left["removed"], &left["told_server"]),
        (&true.into(), &true.into())
    );
    other.fails(
        &["--workspace", workspace, "meeting", "list"],
        7,
        "not_found",
    );
    assert_eq!(other.run(&["status"])["documents"], 0);
    other.run(&["join", &server.ticket("Ben")]);
    other.sync();
    assert_eq!(other.export(), server.export());
    assert!(listed(&other).contains(&id) && !listed(&other).contains(&only_here));
}
