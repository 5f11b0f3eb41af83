//! Captions in, Markdown out: beside a process that serves, and alike on every device.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Peer, Process, Server};

/// A caption file of the examples.
pub(crate) fn example(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/captions");
    directory.join(name)
}

/// What a command for people writes to stdout.
fn told(peer: &Peer, args: &[&str]) -> String {
    let ended = Process::spawn(peer.command(args)).end();
    assert!(ended.status.success(), "{args:?}: {ended:?}");
    ended.stdout
}

fn segments(peer: &Peer, id: &Value) -> Vec<Value> {
    let shown = peer.run(&["meeting", "show", id.as_str().unwrap()]);
    shown["pages"][0]["page"]["segments"]
        .as_array()
        .unwrap()
        .clone()
}

#[test]
fn captions_come_in_beside_a_serving_process_and_a_bad_file_keeps_no_other_out() {
    let server = Server::new();
    let peer = &server.peer;
    let bad = peer.files().join("bad.vtt");
    std::fs::write(
        &bad,
        "WEBVTT\r\n\r\n00:01.000 --> 00:02.000\r\na\r\n\r\nleft behind\r\n",
    )
    .unwrap();
    let (vtt, srt) = (example("kickoff.vtt"), example("kickoff.srt"));
    let (vtt, srt, bad) = (
        vtt.to_str().unwrap(),
        srt.to_str().unwrap(),
        bad.to_str().unwrap(),
    );

    let ended = peer.end(&["import", "vtt", bad, vtt, "nowhere.vtt", srt]);
    assert_eq!(ended.status.code(), Some(8), "{ended:?}");
    let answer = ended.json();
    assert_eq!(answer["imported"], 1, "{answer}");
    assert_eq!(answer["taken"][0]["file"], vtt);
    let id = &answer["taken"][0]["meeting"];
    assert_eq!(answer["meetings"], json!([id]));
    let failed = answer["failed"].as_array().unwrap();
    let failed: Vec<_> = failed
        .iter()
        .map(|failed| (failed["file"].as_str().unwrap(), failed["place"].as_str()))
        .collect();
    assert_eq!(
        failed,
        [
            (bad, Some("line 6, cue 2")),
            ("nowhere.vtt", Some("")),
            (srt, Some("line 1")),
        ]
    );
    assert!(answer["stopped"].is_null());
    // Nothing of the bad ones is there, the good one is there whole.
    let listed = peer.run(&["meeting", "list"]);
    assert_eq!(listed["meetings"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["meetings"][0]["title"], "kickoff");
    let spoken = segments(peer, id);
    assert_eq!(spoken.len(), 7);
    assert_eq!(spoken[1]["speaker"], "Charles Babbage");
    assert_eq!(spoken[1]["start"], 2_000);
    assert_eq!(spoken[6]["start"], 123 * 3_600_000);

    let again = peer.run(&["import", "srt", srt, srt]);
    assert_eq!(again["imported"], 2, "{again}");
    assert_ne!(again["meetings"][0], again["meetings"][1]);
    for id in again["meetings"].as_array().unwrap() {
        let spoken = segments(peer, id);
        assert_eq!(spoken[0]["speaker"], "Ada Byron");
        assert_eq!(spoken[0]["text"], "Good morning.\nShall we begin?");
    }

    // For people: which were taken on stdout, why others were not on stderr.
    let ended = Process::spawn(peer.command(&["import", "vtt", bad, vtt])).end();
    assert_eq!(ended.status.code(), Some(8), "{ended:?}");
    assert!(ended.stdout.starts_with("Imported 1 of 2 files.\n  "));
    assert!(ended.stdout.ends_with(&format!("  {vtt}\n")), "{ended:?}");
    let why = format!("{bad}: line 6, cue 2: text without a time line");
    assert!(ended.stderr.contains(&why), "{ended:?}");
}

#[test]
fn markdown_is_the_same_bytes_on_every_device_and_beside_a_serving_process() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let other = Peer::joined(&server, "Ben");
    let vtt = example("kickoff.vtt");
    let imported = device.run(&["import", "vtt", vtt.to_str().unwrap()]);
    let id = imported["meetings"][0].as_str().unwrap();
    let note = "# no heading\n<b>";
    device.run(&["meeting", "edit", id, "--append-note", note]);
    let second = device.add("Second");
    device.sync();
    other.sync();

    let all = told(&device, &["export", "--markdown"]);
    assert_eq!(told(&server.peer, &["export", "--markdown"]), all);
    assert_eq!(told(&other, &["export", "--markdown"]), all);
    let one = told(&server.peer, &["export", "--markdown", "--meeting", id]);
    assert_eq!(
        told(&device, &["export", "--markdown", "--meeting", id]),
        one
    );
    assert!(
        all.starts_with(&one) && all.contains("\n# Second\n"),
        "{all}"
    );
    assert!(!one.contains("Second"), "{one}");
    assert!(one.contains("\n\\# no heading\\\n\\<b\\>\n"), "{one}");
    assert!(one.contains("`00:00:02` **Charles Babbage:** Yes"), "{one}");
    let answer = server.peer.run(&["export", "--markdown", "--meeting", id]);
    assert_eq!(answer, json!({ "markdown": one }));

    device.run(&["meeting", "delete", &second]);
    assert_eq!(told(&device, &["export", "--markdown"]), one);
    let args = ["export", "--markdown", "--meeting", &second];
    device.fails(&args, 7, "meeting_deleted");
    device.fails(&["export", "--meeting", id], 2, "usage");
}
