//! Bad input: each a clear error with its code, and nothing lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use crate::harness::{Ended, Peer, Process, Server, deadline};
use crate::qmsum;

/// A device with one meeting, to see that it stays.
fn device_with_a_meeting() -> (Peer, String) {
    let device = Peer::new();
    device.run(&["init"]);
    let id = device.add("was here before");
    (device, id)
}

fn still_has(device: &Peer, id: &str) {
    let shown = device.run(&["meeting", "show", id]);
    assert_eq!(shown["meeting"]["title"], "was here before");
}

#[test]
fn a_malformed_ticket_is_refused_before_anything_is_made() {
    let server = Server::new();
    let ticket = server.ticket("Ada");
    let fresh = Peer::new();
    let shortened = &ticket[..ticket.len() - 1];
    for bad in [
        "",
        "hello",
        "rcv1-",
        "rcv1-0OIl",
        &format!("{ticket}x"),
        shortened,
    ] {
        fresh.fails(&["join", bad], 6, "bad_ticket");
        assert!(!fresh.data().exists(), "`{bad}` made a store");
    }
    let (device, id) = device_with_a_meeting();
    device.fails(&["join", shortened], 6, "bad_ticket");
    still_has(&device, &id);
    device.run(&["join", &ticket]);
}

#[test]
fn an_expired_ticket_is_refused() {
    let server = Server::new();
    let answer = server.peer.run(&["invite", "--expires", "1ms"]);
    let ticket = answer["ticket"].as_str().unwrap();
    let (device, id) = device_with_a_meeting();
    device.fails(&["join", ticket], 6, "ticket_expired");
    still_has(&device, &id);
    device.fails(&["sync"], 5, "no_server");
}

#[test]
fn a_ticket_that_another_device_used_is_refused() {
    let server = Server::new();
    let ticket = server.ticket("Ada");
    let first = Peer::new();
    first.run(&["join", &ticket]);
    let (second, id) = device_with_a_meeting();
    second.fails(&["join", &ticket], 6, "ticket_used");
    still_has(&second, &id);
    first.sync();
}

#[test]
fn a_ticket_that_was_never_issued_there_is_refused() {
    let server = Server::new();
    let mut ticket = reconvene::Ticket::decode(&server.ticket("Ada")).unwrap();
    ticket.secret = [7; 32];
    let device = Peer::new();
    device.fails(&["join", &ticket.encode()], 6, "ticket_unknown");
}

#[test]
fn an_unknown_id_is_not_found_and_a_malformed_one_is_no_id() {
    let (device, id) = device_with_a_meeting();
    let unknown = "00000000-0000-7000-8000-000000000000";
    for args in [
        ["meeting", "show", unknown, "--verbose"],
        ["meeting", "edit", unknown, "--title=x"],
    ] {
        device.fails(&args, 7, "not_found");
    }
    device.fails(&["meeting", "show", "not-an-id"], 7, "bad_id");
    device.fails(&["meeting", "list", "--after", "not-an-id"], 7, "bad_id");
    device.fails(&["workspace", "use", unknown], 7, "not_found");
    device.fails(&["project", "activate", "Apollo"], 7, "unknown_project");
    device.fails(
        &["meeting", "add", "x", "--project", "Apollo"],
        7,
        "unknown_project",
    );
    device.fails(&["export", "--workspace", "elsewhere"], 7, "not_found");
    let listed = device.run(&["meeting", "list"]);
    assert_eq!(listed["meetings"].as_array().unwrap().len(), 1);
    still_has(&device, &id);
}

#[test]
fn a_file_that_is_not_qmsum_is_named_with_the_place_and_the_others_are_imported() {
    let (device, id) = device_with_a_meeting();
    let good = qmsum::real(device.files(), 2);
    let write = |name: &str, text: &str| {
        let path = device.files().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cut_off = write("cut-off.json", "{\n  \"meeting_transcripts\": [");
    let wrong = write(
        "wrong.json",
        r#"{"general_query_list": [], "meeting_transcripts":
            [{"speaker": "A", "content": "x"}, {"speaker": "B", "content": 5}]}"#,
    );
    let absent = device
        .files()
        .join("absent.json")
        .to_str()
        .unwrap()
        .to_owned();
    let (first, last) = (good[0].to_str().unwrap(), good[1].to_str().unwrap());
    let ended = device.end(&["import", "qmsum", first, &cut_off, &wrong, &absent, last]);
    assert_eq!(ended.status.code(), Some(8), "{ended:?}");
    let answer = ended.json();
    assert_eq!(answer["imported"], 2, "{answer}");
    let failed = answer["failed"].as_array().unwrap();
    let places = failed.iter().map(|failure| {
        let text = |key: &str| failure[key].as_str().unwrap().to_owned();
        assert!(!text("message").is_empty());
        (text("file"), text("place"))
    });
    let places: Vec<_> = places.collect();
    assert_eq!(places[0].0, cut_off);
    assert!(places[0].1.starts_with("line 2"), "{places:?}");
    assert_eq!(
        places[1],
        (wrong, "meeting_transcripts[1].content".to_owned())
    );
    assert_eq!(places[2].0, absent);
    let listed = device.run(&["meeting", "list"]);
    assert_eq!(listed["meetings"].as_array().unwrap().len(), 3);
    still_has(&device, &id);
}

#[test]
fn a_directory_of_a_newer_version_is_left_alone() {
    let (device, id) = device_with_a_meeting();
    let format = device.data().join("format");
    let before = fs::read_to_string(&format).unwrap();
    let newer = before.replace('1', "99");
    assert_ne!(newer, before);
    fs::write(&format, &newer).unwrap();
    for args in [
        &["status"][..],
        &["meeting", "add", "x"],
        &["init"],
        &["serve"],
    ] {
        device.fails(args, 9, "newer_version");
    }
    assert_eq!(fs::read_to_string(&format).unwrap(), newer);
    fs::write(&format, before).unwrap();
    still_has(&device, &id);
}

#[test]
fn a_store_that_another_process_holds_says_who_holds_it() {
    let (device, id) = device_with_a_meeting();
    // Whoever holds it without hosting commands: here this test.
    let held = reconvene_sled::open_data_dir(device.data()).unwrap();
    let error = device.fails(&["meeting", "add", "x"], 4, "store_locked");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&std::process::id().to_string()),
        "{message}"
    );
    assert!(error["hint"].is_string(), "{error}");
    drop(held);
    still_has(&device, &id);

    // A second server cannot have it while the first one does.
    let server = Server::new();
    server.peer.fails(&["serve"], 4, "store_locked");
    server.peer.run(&["status"]);
}

#[test]
fn a_directory_without_permission_is_left_alone() {
    let (device, id) = device_with_a_meeting();
    let data = device.data();
    for args in [&["status"][..], &["meeting", "add", "x"], &["serve"]] {
        let ended = run_without_permission(&device, args);
        ended.failed(9, "permission");
    }
    still_has(&device, &id);
    assert_eq!(
        fs::metadata(data).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

/// Runs a command as somebody who may not enter the data directory: as another user if this one may
/// go everywhere, else with the directory closed.
fn run_without_permission(device: &Peer, args: &[&str]) -> Ended {
    use std::os::unix::process::CommandExt as _;
    let mode =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    let mut command = device.command(args);
    command.arg("--json");
    if !rustix::process::geteuid().is_root() {
        let before = fs::metadata(device.data()).unwrap().permissions().mode();
        mode(&device.data(), 0o000);
        let ended = Process::spawn(command).end();
        mode(&device.data(), before & 0o777);
        return ended;
    }
    // The program may lie where only its owner gets to.
    mode(device.files(), 0o755);
    let program = device.files().join("reconvene");
    if !program.exists() {
        fs::copy(command.get_program(), &program).unwrap();
        mode(&program, 0o755);
    }
    let mut again = std::process::Command::new(program);
    again.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => again.env(key, value),
            None => again.env_remove(key),
        };
    }
    again
        .uid(65_534)
        .gid(65_534)
        .env_remove("XDG_RUNTIME_DIR")
        .current_dir("/");
    Process::spawn(again).end()
}

#[test]
fn a_directory_that_holds_something_else_is_left_alone() {
    let peer = Peer::new();
    fs::create_dir(peer.data()).unwrap();
    fs::write(peer.data().join("thesis.txt"), "mine").unwrap();
    peer.fails(&["init"], 9, "not_a_store");
    peer.fails(&["status"], 3, "not_initialised");
    let names = fs::read_dir(peer.data()).unwrap().count();
    assert_eq!(names, 1);
}

#[test]
fn an_empty_directory_says_how_to_begin() {
    let peer = Peer::new();
    for args in [
        &["status"][..],
        &["meeting", "list"],
        &["sync"],
        &["invite"],
    ] {
        let error = peer.fails(args, 3, "not_initialised");
        assert!(
            error["hint"].as_str().unwrap().contains("reconvene init"),
            "{error}"
        );
    }
    assert!(!peer.data().exists());
}

#[test]
fn a_device_that_is_not_enrolled_is_refused() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let id = device.add("made after joining");
    // Another identity than the one that joined.
    fs::remove_file(device.data().join("identity.key")).unwrap();
    device.fails(&["sync"], 6, "not_enrolled");
    let shown = device.run(&["meeting", "show", &id]);
    assert_eq!(shown["meeting"]["title"], "made after joining");
    // With a ticket of its own it is let in, and what it had is not lost.
    device.run(&["join", &server.ticket("Ada")]);
    device.sync();
    assert!(server.export().contains(&id));
    assert_eq!(server.export(), device.export());
}

#[test]
fn a_server_that_is_gone_is_a_time_out_that_says_so() {
    let mut server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let id = device.add("made offline");
    server.kill();
    let began = Instant::now();
    let error = device.fails(&["sync", "--timeout", "300ms"], 5, "timeout");
    assert!(began.elapsed() < deadline());
    assert!(error["hint"].is_string(), "{error}");
    server.start();
    device.sync();
    assert!(server.export().contains(&id));
}

#[test]
fn a_command_line_that_is_not_understood_is_a_usage_error() {
    let peer = Peer::new();
    for args in [
        &["meeting"][..],
        &["meeting", "edit", "00000000-0000-7000-8000-000000000000"],
        &["meeting", "list", "--limit", "0"],
        &["sync", "--timeout", "soon"],
        &["frobnicate"],
    ] {
        peer.fails(args, 2, "usage");
    }
    assert!(!peer.data().exists());
}
