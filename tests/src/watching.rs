//! Commands that go on, and every command beside a process that has the store open.

use serde_json::Value;

use crate::formats::example;
use crate::harness::{Peer, Process, Server, wait};
use crate::qmsum;

/// The next line that tells this change.
fn told(watch: &Process, change: &str) -> Value {
    watch.line_where(|line| line["change"] == change)
}

/// Ends a process that watches, in order.
fn stop(watch: Process) {
    let ended = watch.stop();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn every_command_runs_beside_a_serving_process() {
    let server = Server::new();
    let peer = &server.peer;
    let other = Server::new();
    let ticket = other.ticket("Ada");
    let meeting = peer.add("here before");
    let workspace = peer.run(&["status"])["device"]["current"].clone();
    let workspace = workspace.as_str().unwrap();
    let file = qmsum::real(peer.files(), 1).remove(0);
    let (vtt, srt) = (example("kickoff.vtt"), example("kickoff.srt"));
    // Entries to be worked off: of commands that are refused, and of an integration that does not work.
    let mut refused = Vec::new();
    for _ in 0..3 {
        let stopped = peer.run(&["meeting", "stop", &meeting, "--wait", wait()]);
        assert_eq!(stopped["command"]["outcome"]["code"], "not_recording");
        refused.push(stopped["command"]["id"].as_str().unwrap().to_owned());
    }
    let added = peer.run(&["integrations", "add", "ical", "file:none.ics"]);
    let integration = added["integration"]["id"].as_str().unwrap().to_owned();
    peer.run(&["integrations", "validate", "--wait", wait()]);
    let listed = peer.run(&["inbox", "list"])["entries"].clone();
    let entry = |subject: &str| {
        let mut entries = listed.as_array().unwrap().iter();
        let found = entries.find(|entry| entry["subject"]["id"] == subject);
        found.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let entries: Vec<_> = refused.iter().map(|id| entry(id)).collect();
    let retryable = entry(&integration);
    let amended = format!("meeting={workspace}");
    let run = "0".repeat(32);
    let archive = peer.files().join("archive").to_str().unwrap().to_owned();
    for (command, alone) in reconvene_cli::commands() {
        let words: Vec<_> = command.split(' ').collect();
        // A command that is not here yet: say how it is called, or enter it in the table of those
        // that need the store for themselves.
        let rest: &[&str] = match command.as_str() {
            "init" | "serve" | "repair" | "workspace list" | "invite" | "project list" | "sync"
            | "status" | "export" | "meeting list" | "events" | "compact" | "purge" | "verify" => {
                &[]
            }
            "workspace add" | "project add" => &["Apollo"],
            "workspace use" => &[workspace],
            "workspace leave" => &["Apollo", "--discard", "--remove"],
            "project rename" => &["Apollo", "Apollo 11"],
            // As it is already: what comes after needs it in use.
            "project archive" => &["Apollo 11", "--undo"],
            "project activate" | "project delete" | "project restore" => &["Apollo 11"],
            "join" => &[&ticket],
            "meeting add" => &["another"],
            "meeting show" | "meeting delete" | "meeting restore" => &[&meeting],
            "meeting edit" => &[&meeting, "--title", "renamed"],
            "meeting stop" => &[&meeting],
            "commands list" | "inbox list" | "integrations list" | "runs list" => &[],
            "commands show" | "commands cancel" => &[&refused[0]],
            "inbox retry" => &[&retryable],
            "inbox amend" => &[&entries[0], "--set", &amended],
            "inbox show" => &[&entries[0]],
            "inbox settle" => &[&entries[0], "1"],
            "inbox discard" => &[&entries[1]],
            "inbox resolve" => &[&entries[2]],
            "integrations add" => &["ical", "file:other.ics"],
            "integrations edit" => &[&integration, "--place", "file:none-either.ics"],
            "integrations remove" | "integrations validate" | "integrations sync" => {
                &[&integration]
            }
            "runs show" | "runs cancel" => &[&run],
            "import qmsum" => &[file.to_str().unwrap()],
            "import vtt" => &[vtt.to_str().unwrap()],
            "import srt" => &[srt.to_str().unwrap()],
            "archive create" | "archive restore" => &[&archive],
            "demo" => &["--meetings", "1"],
            new => panic!("how `{new}` runs beside a serving process is not tested"),
        };
        let args = [&words[..], rest].concat();
        match (command.as_str(), alone) {
            (_, Some(code)) => {
                let ended = peer.end(&args);
                assert!(!ended.status.success(), "{command}: {ended:?}");
                assert_eq!(ended.json()["error"]["code"], code, "{command}");
                assert!(ended.json()["error"]["hint"].is_string(), "{command}");
            }
            // It is the store's owner that says so.
            ("inbox settle", None) => drop(peer.fails(&args, 7, "bad_input")),
            ("events", None) => {
                let watch = peer.start(&args);
                assert_eq!(watch.line()["event"], "watching");
                stop(watch);
            }
            // In directories of its own.
            ("demo", None) => {
                let mut command = peer.command(&[]);
                let program = command.get_program().to_owned();
                command = std::process::Command::new(program);
                command.args(&args).arg("--json");
                let ended = Process::spawn(command).end();
                assert!(ended.status.success(), "{ended:?}");
            }
            (_, None) => {
                let ended = peer.end(&args);
                assert!(ended.status.success(), "{command}: {ended:?}");
                ended.json();
                // Whatever became current meanwhile.
                peer.run(&["workspace", "use", workspace]);
            }
        }
    }
    // They did what they do, in the store that is being served.
    let added = peer.run(&["project", "list"])["projects"].clone();
    assert_eq!(added[0]["name"], "Apollo 11", "{added}");
}

#[test]
fn a_watched_list_tells_what_is_done_here_and_elsewhere() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let first = device.add("first plan");
    device.add("something else");
    device.sync();

    // It has the store open itself, and other commands reach it.
    let args = ["meeting", "list", "--watch", "--text", "PLAN"];
    let watch = device.start(&args);
    let line = watch.line();
    assert_eq!(line["change"], "added", "{line}");
    assert_eq!(line["meeting"]["id"], first, "{line}");
    assert_eq!(watch.line()["change"], "complete");
    let second = device.add("second plan");
    assert_eq!(told(&watch, "added")["meeting"]["id"], second);
    device.run(&["meeting", "edit", &first, "--title", "no more"]);
    assert_eq!(told(&watch, "removed")["id"], first);

    // Beside a process that serves, in both directions.
    let beside = server.peer.start(&args);
    let elsewhere = server.peer.add("plan on the server");
    assert_eq!(told(&watch, "added")["meeting"]["id"], elsewhere);
    beside.line_where(|line| line["meeting"]["id"] == elsewhere);
    device.run(&["meeting", "edit", &second, "--append-note", "x"]);
    let changed =
        beside.line_where(|line| line["change"] == "changed" && line["meeting"]["id"] == second);
    assert_eq!(changed["meeting"]["title"], "second plan");
    // Not only what the filter lets through is what is listed.
    let args = ["meeting", "list", "--text", "plan", "--since", "1h"];
    let listed = server.peer.run(&args);
    assert_eq!(listed["meetings"].as_array().unwrap().len(), 2, "{listed}");
    let none = server.peer.run(&["meeting", "list", "--until", "1h"]);
    assert_eq!(none["meetings"], serde_json::json!([]));
    stop(beside);
    stop(watch);
}

#[test]
fn a_watched_status_shows_what_is_to_be_delivered_and_that_it_was() {
    let mut server = Server::new();
    let device = Peer::joined(&server, "Ada");
    device.run(&["sync"]);
    let watch = device.start(&["status", "--watch"]);
    let owed = |line: &Value| {
        let shared = &line["workspaces"].as_array().unwrap();
        let current = shared.iter().find(|of| of["current"] == true).unwrap();
        let pending = line["pending"]["workspaces"].as_array().unwrap();
        let of = pending.iter().find(|of| of["workspace"] == current["id"]);
        let server = of.map(|of| of["peers"][0].clone()).unwrap_or_default();
        (
            server["owed"].clone(),
            current["freshness"]["state"].clone(),
        )
    };
    watch.line_where(|line| owed(line).1["is"] == "verified");
    server.kill();
    watch.line_where(|line| line["links"].as_array().unwrap().is_empty());
    let begun = std::time::SystemTime::now();
    device.add("Made offline");
    let line = watch.line_where(|line| owed(line).0["documents"] == 1);
    let debt = owed(&line).0;
    assert!(debt["bytes"].as_u64().unwrap() > 0, "{debt}");
    let since = begun.duration_since(std::time::UNIX_EPOCH).unwrap();
    let oldest = debt["oldest"].as_u64().unwrap();
    assert!(u128::from(oldest) + 1_000 >= since.as_millis(), "{debt}");
    server.start();
    watch.line_where(|line| owed(line).0["documents"] == 0);
    stop(watch);
}

#[test]
fn a_caller_that_is_killed_and_ones_that_stay_disturb_nobody() {
    let server = Server::new();
    for _ in 0..12 {
        let watch = server.peer.start(&["meeting", "list", "--watch"]);
        watch.line();
        watch.kill();
    }
    // More than may watch at once were there; the host has noticed that they are gone, or does soon.
    let until = std::time::Instant::now() + crate::harness::deadline();
    loop {
        let mut watch = server.peer.start(&["events"]);
        let line = watch.line();
        if line["event"] == "watching" {
            let id = server.peer.add("still served");
            assert!(!watch.has_ended());
            let shown = server.peer.run(&["meeting", "show", &id]);
            assert_eq!(shown["meeting"]["title"], "still served");
            stop(watch);
            break;
        }
        assert_eq!(line["error"]["code"], "busy", "{line}");
        assert!(std::time::Instant::now() < until, "no place became free");
    }
}

#[test]
fn events_and_syncing_can_be_watched_beside_a_process_that_watches() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let first = device.start(&["sync", "--watch"]);
    first.line_where(|event| event["event"] == "verified");
    let events = device.start(&["events"]);
    assert_eq!(events.line()["event"], "watching");
    let again = device.start(&["sync", "--watch"]);
    assert_eq!(again.line()["event"], "watching");
    let id = server.peer.add("made on the server");
    for watch in [&first, &events, &again] {
        let changed = watch
            .line_where(|event| event["event"] == "changed" && event.to_string().contains(&id));
        assert_eq!(changed["meetings"][0], id, "{changed}");
    }
    // Without a server there is nothing to sync with, over the socket as without it.
    server.peer.fails(&["sync", "--watch"], 5, "no_server");
    stop(again);
    stop(events);
    stop(first);
}

#[test]
fn killing_the_process_that_has_the_store_leaves_the_next_command_working() {
    let mut server = Server::new();
    server.peer.add("before");
    let watch = server.peer.start(&["meeting", "list", "--watch"]);
    told(&watch, "complete");
    server.kill();
    // Whoever was watching is told, and the socket file that stays behind is no obstacle.
    watch.end().failed(4, "control_failed");
    let id = server.peer.add("after");
    let holder = server.peer.start(&["meeting", "list", "--watch"]);
    told(&holder, "complete");
    let caller = server.peer.start(&["events"]);
    assert_eq!(caller.line()["event"], "watching");
    holder.kill();
    caller.end().failed(4, "control_failed");
    let shown = server.peer.run(&["meeting", "show", &id]);
    assert_eq!(shown["meeting"]["title"], "after");
    server.start();
    // And one that ends in order tells those that watch.
    let watch = server.peer.start(&["events"]);
    assert_eq!(watch.line()["event"], "watching");
    server.stop();
    let failure = watch.end().failed(1, "closed");
    assert!(failure["hint"].is_string(), "{failure}");
    assert_eq!(
        server.peer.run(&["meeting", "list"])["meetings"][0]["id"],
        id
    );
}
