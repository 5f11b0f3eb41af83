//! The main job: what is edited apart merges, and what is edited together arrives.

use crate::harness::{Peer, Server};
use crate::qmsum;

#[test]
fn meetings_edited_apart_on_two_devices_merge_on_all_three() {
    let server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let ids = a.import(&qmsum::real(a.files(), 10));
    assert_eq!(ids.len(), 10);
    a.sync();
    let first = b.sync();
    assert!(
        first["documents_received"].as_u64().unwrap() >= 20,
        "{first}"
    );

    for id in &ids[..3] {
        let title = a.run(&["meeting", "show", id])["meeting"]["title"].take();
        let title = title.as_str().unwrap();
        a.run(&["meeting", "edit", id, "--title", &format!("{title}, by A")]);
        a.run(&[
            "meeting",
            "edit",
            id,
            "--append-note",
            "a note of A",
            "--tag",
            "+a",
        ]);
        a.run(&["meeting", "edit", id, "--state", "recording"]);
        b.run(&["meeting", "edit", id, "--title", &format!("B and {title}")]);
        b.run(&[
            "meeting",
            "edit",
            id,
            "--append-note",
            "a note of B",
            "--tag",
            "+b",
        ]);
        b.run(&["meeting", "edit", id, "--state", "stopped"]);
    }
    a.run(&[
        "meeting",
        "edit",
        &ids[4],
        "--append-note",
        "only A was here",
    ]);
    b.run(&[
        "meeting",
        "edit",
        &ids[5],
        "--append-note",
        "only B was here",
    ]);
    a.add("new on A");
    b.add("new on B");
    a.run(&["project", "add", "Apollo"]);
    b.run(&["project", "add", "Zephyr"]);

    a.sync();
    b.sync();
    a.sync();
    let export = a.export();
    assert_eq!(export, b.export());
    assert_eq!(export, server.export());
    for expected in [
        "only A was here",
        "only B was here",
        "new on A",
        "new on B",
        "Apollo",
        "Zephyr",
    ] {
        assert!(export.contains(expected), "{expected} is missing");
    }
    for id in &ids[..3] {
        for peer in [&a, &b, &server.peer] {
            let shown = peer.run(&["meeting", "show", id]);
            let meeting = &shown["meeting"];
            let title = meeting["title"].as_str().unwrap();
            assert!(
                title.starts_with("B and ") && title.ends_with(", by A"),
                "{title}"
            );
            let notes = meeting["notes"].as_str().unwrap();
            assert!(
                notes.contains("a note of A\n") && notes.contains("a note of B\n"),
                "{notes}"
            );
            assert_eq!(meeting["tags"], serde_json::json!(["a", "b"]));
            assert!(meeting["reached"]["recording"].is_i64(), "{meeting}");
            assert!(meeting["reached"]["stopped"].is_i64(), "{meeting}");
        }
    }
    let listed = b.run(&["meeting", "list", "--limit", "100"]);
    assert_eq!(listed["meetings"].as_array().unwrap().len(), 12);
}

#[test]
fn a_conflict_is_told_in_the_inbox_and_settled_from_there() {
    let server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    a.run(&["project", "add", "Apollo"]);
    a.sync();
    b.sync();
    a.run(&["project", "rename", "Apollo", "Artemis"]);
    b.run(&["project", "rename", "Apollo", "Ares"]);
    a.sync();
    b.sync();
    a.sync();
    let events = a.start(&["events"]);
    assert_eq!(events.line()["event"], "watching");
    let listed = a.run(&["inbox", "list"])["entries"].take();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["code"], "conflict");
    assert_eq!(listed[0]["subject"]["kind"], "workspace");
    let entry = listed[0]["id"].as_str().unwrap();
    let shown = a.run(&["inbox", "show", entry]);
    assert_eq!(shown["entry"], listed[0]);
    let conflict = &shown["conflict"];
    assert!(conflict["path"].as_str().unwrap().ends_with("/name"));
    assert_eq!(conflict["base"], "Apollo");
    let values = conflict["values"].as_array().unwrap();
    assert_eq!(values.len(), 2, "{conflict}");
    let from: Vec<_> = values.iter().map(|of| &of["origin"]["from"]).collect();
    assert!(from.contains(&&"here".into()) && from.contains(&&"peer".into()));
    for of in values {
        assert!(of["at"].is_i64() && of["actor"].is_string(), "{of}");
    }
    let said = a.command(&["inbox", "show", entry]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    for part in [
        "was set apart to 2 values",
        "before: Apollo",
        "shown now",
        "inbox settle",
    ] {
        assert!(said.contains(part), "{said}");
    }

    let other = values.iter().position(|of| of["shown"] == false).unwrap();
    a.run(&["inbox", "settle", entry, &(other + 1).to_string()]);
    events.line_where(|line| line["event"] == "inbox_entry" && line["open"] == false);
    events.stop();
    a.sync();
    b.sync();
    for peer in [&a, &b] {
        assert_eq!(
            peer.run(&["inbox", "list"])["entries"],
            serde_json::json!([])
        );
        let listed = peer.run(&["project", "list"]);
        assert_eq!(listed["projects"][0]["name"], values[other]["value"]);
    }
    a.fails(&["inbox", "settle", entry, "1"], 7, "bad_input");
}

#[test]
fn an_edit_reaches_a_watching_device_when_the_other_syncs() {
    let server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let watch = b.start(&["sync", "--watch"]);
    watch.line_where(|event| event["event"] == "verified");
    let id = a.add("seen at once");
    a.sync();
    let changed = watch.line_where(|event| {
        let documents = event["documents"].as_array();
        event["event"] == "changed"
            && documents.is_some_and(|all| all.contains(&id.as_str().into()))
    });
    assert!(changed["workspace"].is_string());
    // Over the control socket of the watching process.
    let shown = b.run(&["meeting", "show", &id]);
    assert_eq!(shown["meeting"]["title"], "seen at once");
    let ended = watch.stop();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn both_watching_devices_see_each_others_edits_as_they_happen() {
    let server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let on_a = a.start(&["sync", "--watch"]);
    let on_b = b.start(&["sync", "--watch"]);
    for watch in [&on_a, &on_b] {
        watch.line_where(|event| event["event"] == "verified");
    }
    // Both edits go through the control socket of the process that watches.
    let from_a = a.add("from A");
    on_b.line_where(|event| event.to_string().contains(&from_a));
    b.run(&["meeting", "edit", &from_a, "--append-note", "answer of B"]);
    on_a.line_where(|event| event["event"] == "changed" && event.to_string().contains(&from_a));
    let shown = a.run(&["meeting", "show", &from_a]);
    assert_eq!(shown["meeting"]["notes"], "answer of B\n");
    assert_eq!(a.export(), b.export());
}

#[test]
fn a_members_second_device_shares_their_home() {
    let server = Server::new();
    let first = Peer::joined(&server, "Ada");
    // The second one was used alone before.
    let second = Peer::new();
    second.run(&["init", "--name", "tablet"]);
    let early = second.add("made before joining");
    let joined = second.run(&["join", &server.ticket("Ada")]);
    let other = Peer::joined(&server, "Ben");
    let home = joined["home"].as_str().unwrap();
    assert_eq!(first.run(&["status"])["device"]["home"], home);
    assert_ne!(other.run(&["status"])["device"]["home"], home);

    second.sync();
    first.sync();
    other.sync();
    first.run(&["workspace", "use", home]);
    let listed = first.run(&["meeting", "list"]);
    assert_eq!(listed["meetings"][0]["id"], early.as_str());
    assert_eq!(first.export(), {
        second.run(&["workspace", "use", home]);
        second.export()
    });
    // Nobody else gets it.
    other.fails(&["workspace", "use", home], 7, "not_found");
    assert!(!other.export().contains("made before joining"));
}

#[test]
fn a_paste_of_60000_characters_is_accepted_here_and_everywhere() {
    const CHARACTERS: usize = 60_000;
    let server = Server::new();
    let a = Peer::joined(&server, "Ada");
    let b = Peer::joined(&server, "Ben");
    let id = a.add("pasted into");
    // Over the control socket and live, then read on the other two.
    let watching = [&a, &b].map(|device| {
        let watch = device.start(&["sync", "--watch"]);
        watch.line_where(|event| event["event"] == "verified");
        watch
    });
    let pasted: String = "Grüße aus 会議, 42 mal. "
        .chars()
        .cycle()
        .take(CHARACTERS)
        .collect();
    a.run(&["meeting", "edit", &id, "--append-note", &pasted]);
    watching[1].line_where(|event| {
        event["event"] == "changed"
            && event["meetings"]
                .as_array()
                .is_some_and(|all| all.contains(&id.as_str().into()))
            && b.run(&["meeting", "show", &id])["meeting"]["notes"]
                .as_str()
                .is_some_and(|notes| notes.chars().count() == CHARACTERS + 1)
    });
    for peer in [&a, &b, &server.peer] {
        let shown = peer.run(&["meeting", "show", &id]);
        let notes = shown["meeting"]["notes"].as_str().unwrap();
        assert!(notes.trim_end_matches('\n') == pasted.trim_end_matches('\n'));
    }
    assert_eq!(a.export(), server.export());
    assert_eq!(b.export(), server.export());
}
