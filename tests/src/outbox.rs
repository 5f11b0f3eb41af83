//! Commands, the inbox, integrations and sync runs, between devices and a server that are separate
//! processes.

use std::collections::BTreeSet;
use std::fs;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cuts::copy_dir;
use crate::harness::{Peer, Process, Server, deadline, wait};
use crate::receiver::Receiver;
use reconvene_testkit::{Fault, Passed, Proxy, Strike, Way};

/// A run that no server ever issued.
const NEVER: &str = "00000000000000000000000000000001";

/// Writes the calendar `team.ics` of a server, with these events.
pub(crate) fn write_calendar(server: &Peer, titles: &[&str]) {
    let mut text = String::from("BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\n");
    for (number, title) in titles.iter().enumerate() {
        text.push_str(&format!(
            "BEGIN:VEVENT\r\nUID:event-{number}@example.com\r\nDTSTAMP:20260105T090000Z\r\n\
             DTSTART:20260706T{:02}0000Z\r\nSUMMARY:{title}\r\nEND:VEVENT\r\n",
            number + 8
        ));
    }
    text.push_str("END:VCALENDAR\r\n");
    let calendars = server.data().join("calendars");
    fs::create_dir_all(&calendars).unwrap();
    fs::write(calendars.join("team.ics"), text).unwrap();
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// Adds an integration and yields its id.
fn integrate(device: &Peer, args: &[&str]) -> String {
    let args = [&["integrations", "add"], args].concat();
    text(&device.run(&args)["integration"]["id"]).to_owned()
}

/// Adds a webhook that leads there.
fn hook(device: &Peer, receiver: &Receiver) -> String {
    integrate(device, &["webhook", &receiver.url(), "--set", "secret=key"])
}

/// Starts a sync run and yields its id, once the server has begun it.
fn start_run(device: &Peer, integration: &str) -> String {
    let answer = device.run(&["integrations", "sync", integration, "--wait", wait()]);
    let outcome = &answer["command"]["outcome"];
    assert_eq!(outcome["state"], "done", "{answer}");
    text(&outcome["result"]["run"]).to_owned()
}

/// Waits until a run stands so, and yields what it says then.
fn until(peer: &Peer, run: &str, status: &str) -> Value {
    let watch = peer.start(&["runs", "show", run, "--watch", "--timeout", wait()]);
    watch.line_where(|line| line["status"] == status)
}

/// Asserts that nothing is kept of a run for this reason, and that saying so is no failure.
fn not_found(peer: &Peer, run: &str, reason: &str) {
    let status = peer.run(&["runs", "show", run, "--timeout", wait()]);
    assert_eq!(status["status"], "not_found", "{status}");
    assert_eq!(status["not_found_reason"], reason, "{status}");
    assert!(status["run"].is_null(), "{status}");
}

/// What a command says to a person.
fn said(peer: &Peer, args: &[&str]) -> String {
    let output = peer.command(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn sync_run_expires() {
    let server = Server::with(&["--keep-runs", "1s"]);
    write_calendar(&server.peer, &["Planning", "Review"]);
    let device = Peer::joined(&server, "Ada");
    let integration = integrate(&device, &["ical", "file:team.ics"]);
    let run = start_run(&device, &integration);

    // Every line until its end: it goes on, has ended and says until when that is kept, is no more.
    let watch = device.start(&["runs", "show", &run, "--watch"]);
    let last = watch.line_where(|line| {
        let kept = line["status"] == "succeeded";
        assert_eq!(
            kept,
            line["expires_at"].is_i64() && line["run"].is_object(),
            "{line}"
        );
        line["status"] == "not_found"
    });
    assert_eq!(last["not_found_reason"], "expired", "{last}");
    let ended = watch.end();
    assert!(ended.status.success(), "{ended:?}");
    not_found(&device, &run, "expired");
    let told = said(&device, &["runs", "show", &run]);
    assert!(told.starts_with("Sync info expired"), "{told}");
    assert_eq!(device.run(&["runs", "list"])["runs"], serde_json::json!([]));
    // Also where it was never seen, and once the server has forgotten it.
    let late = Peer::joined(&server, "Ada");
    not_found(&late, &run, "expired");
    not_found(&server.peer, &run, "expired");

    // What it made is there; another run makes it no second time, and takes over what changed.
    device.sync();
    let titles = |peer: &Peer| {
        let listed = peer.run(&["meeting", "list"]);
        let rows = listed["meetings"].as_array().unwrap().iter();
        let titles = rows.map(|row| text(&row["title"]).to_owned());
        titles.collect::<BTreeSet<_>>()
    };
    let named = |titles: &[&str]| titles.iter().map(|title| (*title).to_owned()).collect();
    assert_eq!(titles(&device), named(&["Planning", "Review"]));
    write_calendar(&server.peer, &["Planning", "Review, moved", "Lunch"]);
    let run = start_run(&device, &integration);
    until(&device, &run, "not_found");
    device.sync();
    assert_eq!(
        titles(&device),
        named(&["Planning", "Review, moved", "Lunch"])
    );
    assert_eq!(device.export(), server.export());
}

#[test]
fn sync_run_never_existed() {
    let mut server = Server::new();
    write_calendar(&server.peer, &["Planning"]);
    let device = Peer::joined(&server, "Ada");
    not_found(&device, NEVER, "never_existed");
    not_found(&server.peer, NEVER, "never_existed");
    let told = said(&device, &["runs", "show", NEVER]);
    assert!(told.starts_with("There never was"), "{told}");

    // One that is like one that was issued.
    let integration = integrate(&device, &["ical", "file:team.ics"]);
    let run = start_run(&device, &integration);
    until(&device, &run, "succeeded");
    let mut like = run.into_bytes();
    like[5] = if like[5] == b'0' { b'1' } else { b'0' };
    let like = String::from_utf8(like).unwrap();
    not_found(&device, &like, "never_existed");

    // Nobody guesses where the server cannot be asked.
    server.stop();
    let unknown = &NEVER.replace('1', "2");
    let status = device.run(&["runs", "show", unknown, "--timeout", "1s"]);
    assert_eq!(status["status"], "unknown", "{status}");
    assert!(status["not_found_reason"].is_null(), "{status}");
    // What was asked once is known for ever, and the question that was not answered waits.
    not_found(&device, &like, "never_existed");
    server.start();
    not_found(&device, unknown, "never_existed");

    let refused = device.run(&["runs", "cancel", NEVER, "--wait", wait()]);
    let outcome = &refused["command"]["outcome"];
    assert_eq!(outcome["state"], "refused", "{refused}");
    assert_eq!(outcome["code"], "run_never_existed", "{refused}");
    device.fails(&["runs", "show", "12"], 7, "bad_id");
}

#[test]
fn sync_run_status_survives_restart() {
    let receiver = Receiver::new();
    let mut server = Server::with(&["--keep-runs", "1h"]);
    write_calendar(&server.peer, &["Planning"]);
    let device = Peer::joined(&server, "Ada");
    let calendar = integrate(&device, &["ical", "file:team.ics"]);
    let run = start_run(&device, &calendar);
    let before = until(&device, &run, "succeeded");
    server.kill();
    server.start();
    for peer in [&server.peer, &device] {
        let after = peer.run(&["runs", "show", &run]);
        assert_eq!(after, before);
    }

    // One that is going on when the server dies goes on when it is back, with the same key.
    let webhook = hook(&device, &receiver);
    receiver.hold(true);
    let going = start_run(&device, &webhook);
    receiver.wait(1);
    let status = until(&device, &going, "running");
    assert!(status["expires_at"].is_null(), "{status}");
    server.kill();
    receiver.hold(false);
    server.start();
    let ended = until(&device, &going, "succeeded");
    assert_eq!(ended["run"]["items"], 1, "{ended}");
    let calls = receiver.calls();
    let keys: BTreeSet<_> = calls.iter().map(|call| call.key.clone()).collect();
    assert_eq!((calls.len(), keys.len()), (2, 1), "{calls:?}");
    assert_eq!(calls[0].body["run"], *going);

    // The whole store lost, but for the key: what it issued it still knows.
    server.stop();
    let data = server.peer.data();
    for name in ["sled", "journal"] {
        fs::remove_dir_all(data.join(name)).unwrap();
    }
    server.start();
    for run in [&run, &going] {
        not_found(&server.peer, run, "expired");
    }
    not_found(&server.peer, NEVER, "never_existed");
}

/// Waits for two lines, in whichever order they come: they are about different workspaces.
fn both(watch: &Process, one: impl Fn(&Value) -> bool, other: impl Fn(&Value) -> bool) {
    let (mut seen_one, mut seen_other) = (false, false);
    watch.line_where(|line| {
        seen_one |= one(line);
        seen_other |= other(line);
        seen_one && seen_other
    });
}

/// The open entries of whoever's device this is.
fn entries(peer: &Peer) -> Vec<Value> {
    let listed = peer.run(&["inbox", "list"]);
    listed["entries"].as_array().unwrap().clone()
}

#[test]
fn invalid_integration_surfaces() {
    let mut server = Server::with(&["--validate-every", "1s"]);
    let (laptop, phone) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ada"));
    let watch = laptop.start(&["sync", "--watch"]);
    watch.line_where(|line| line["event"] == "verified");
    let id = integrate(&laptop, &["ical", "file:team.ics"]);
    let is_about = |line: &Value, state: &str| {
        line["event"] == "integration_state" && line["integration"] == *id && line["state"] == state
    };
    let told = watch.line_where(|line| is_about(line, "invalid"));
    assert_eq!(told["code"], "not_found", "{told}");
    let shown = |peer: &Peer| {
        let listed = peer.run(&["integrations", "list"]);
        listed["integrations"][0].clone()
    };
    let known = shown(&laptop);
    assert_eq!(known["state"], "invalid", "{known}");
    assert_eq!(known["error"]["code"], "not_found", "{known}");
    assert!(known["validated_at"].is_i64(), "{known}");

    // On every device of whoever added it, and on nobody else's.
    phone.sync();
    for device in [&laptop, &phone] {
        let open = entries(device);
        assert_eq!(open.len(), 1, "{open:?}");
        assert_eq!(open[0]["code"], "not_found", "{open:?}");
        assert_eq!(open[0]["subject"]["id"], *id, "{open:?}");
        assert_eq!(open[0]["retryable"], true, "{open:?}");
    }
    let other = Peer::joined(&server, "Ben");
    other.sync();
    assert!(entries(&other).is_empty());
    assert!(said(&phone, &["inbox", "list"]).contains("not_found"));

    // It does not go by itself: not over a restart, not over further looks.
    server.kill();
    server.start();
    for _ in 0..2 {
        watch.line_where(|line| is_about(line, "invalid"));
    }
    assert_eq!(entries(&laptop).len(), 1);

    // With its cause it goes, and comes back with it: on demand and by itself.
    write_calendar(&server.peer, &["Planning"]);
    let is_closed = |line: &Value| line["event"] == "inbox_entry" && line["open"] == false;
    both(&watch, |line| is_about(line, "valid"), is_closed);
    assert!(entries(&laptop).is_empty());
    let all = laptop.run(&["inbox", "list", "--all"]);
    assert_eq!(all["entries"][0]["resolved"]["how"], "cause_gone", "{all}");
    assert!(shown(&laptop)["error"].is_null());
    fs::write(server.peer.data().join("calendars/team.ics"), "none").unwrap();
    let asked = laptop.run(&["integrations", "validate", &id, "--wait", wait()]);
    let result = &asked["command"]["outcome"]["result"];
    assert_eq!(result["invalid"], "1", "{asked}");
    watch.line_where(|line| line["event"] == "inbox_entry" && line["open"] == true);

    // What is discarded stays so while nothing changes; a change is looked at at once.
    let entry = text(&entries(&laptop)[0]["id"]).to_owned();
    laptop.run(&["inbox", "discard", &entry]);
    watch.line_where(is_closed);
    for _ in 0..3 {
        watch.line_where(|line| is_about(line, "invalid"));
    }
    assert!(entries(&laptop).is_empty());
    // A port that nobody listens on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    laptop.run(&["integrations", "edit", &id, "--place", &nobody]);
    let is_open = |line: &Value| line["event"] == "inbox_entry" && line["open"] == true;
    both(&watch, |line| is_about(line, "unreachable"), is_open);
    let ended = watch.stop();
    assert!(ended.status.success(), "{ended:?}");
    laptop.run(&["integrations", "remove", &id]);
    laptop.sync();
    assert_eq!(shown(&laptop), Value::Null);
}

#[test]
fn what_is_refused_is_worked_off_from_the_inbox() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let meeting = device.add("being recorded");
    device.run(&["meeting", "edit", &meeting, "--state", "recording"]);
    let other = device.add("not being recorded");

    // Offline it waits, can be seen and cancelled.
    let waiting = device.run(&["meeting", "stop", &other]);
    let waiting = text(&waiting["command"]["id"]).to_owned();
    let pending = device.run(&["commands", "list"]);
    assert_eq!(pending["commands"][0]["id"], *waiting, "{pending}");
    device.run(&["commands", "cancel", &waiting]);
    let ended = device.run(&["commands", "show", &waiting, "--wait", wait()]);
    assert_eq!(ended["command"]["outcome"]["state"], "cancelled", "{ended}");
    assert!(ended["command"]["accepted_at"].is_null(), "{ended}");

    let refused = device.run(&["meeting", "stop", &other, "--wait", wait()]);
    let outcome = &refused["command"]["outcome"];
    assert_eq!(outcome["code"], "not_recording", "{refused}");
    device.sync();
    let entry = entries(&device).remove(0);
    let entry = text(&entry["id"]);
    device.fails(&["inbox", "retry", entry], 7, "not_retryable");
    let argument = format!("meeting={meeting}");
    let amended = device.run(&[
        "inbox",
        "amend",
        entry,
        "--set",
        &argument,
        "--wait",
        wait(),
    ]);
    let command = &amended["command"];
    assert_eq!(
        command["outcome"]["result"]["state"], "stopping",
        "{amended}"
    );
    assert_eq!(command["replaces"], refused["command"]["id"], "{amended}");
    assert_eq!(amended["entry"]["resolved"]["how"], "amended", "{amended}");
    assert!(entries(&device).is_empty());
    // Whoever records sees that it is to stop.
    let recorder = Peer::joined(&server, "Ada");
    recorder.sync();
    let shown = recorder.run(&["meeting", "show", &meeting]);
    assert_eq!(shown["meeting"]["state"], "stopping", "{shown}");
}

#[test]
fn a_run_that_is_not_wanted_any_more_ends() {
    let receiver = Receiver::new();
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    device.add("one");
    device.sync();
    let webhook = hook(&device, &receiver);
    // It comes back again and again, and may come back once more.
    receiver.answer(Some("503 Busy"));
    receiver.hold(true);
    let run = start_run(&device, &webhook);
    receiver.wait(1);
    // Whoever asks meanwhile gets the same run.
    let joined = device.run(&["integrations", "sync", &webhook, "--wait", wait()]);
    assert_eq!(
        joined["command"]["outcome"]["result"]["run"], *run,
        "{joined}"
    );
    let cancelled = device.run(&["runs", "cancel", &run, "--wait", wait()]);
    assert_eq!(
        cancelled["command"]["outcome"]["state"], "done",
        "{cancelled}"
    );
    receiver.hold(false);
    let ended = until(&device, &run, "cancelled");
    assert!(ended["expires_at"].is_i64(), "{ended}");
}

/// Offsets of one direction at which the exchange is cut; there are two of each.
const OFFSETS: u64 = 8;
/// How often the exchange is measured. It is not always as long: what is told of the run may come before
/// or after the device has what it waits for.
const MEASURED: usize = 3;
/// Cases that must have been struck, of `2 * OFFSETS`: one may be shorter than the shortest measured.
const STRUCK_MIN: usize = 10;
/// The command, as its author named it.
const COMMAND: &str = "7b0e3c52-5f0f-4a55-9d1c-2f5f6c0a9b11";
/// How many meetings there are to tell of.
const MEETINGS: usize = 3;

/// What is killed with the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    Nobody,
    Server,
    Device,
}

/// A server, a device with a command in its outbox, and what they held before, to which each case goes
/// back.
struct Lane {
    proxy: Proxy,
    server: Server,
    device: Peer,
    receiver: Receiver,
    integration: String,
}

impl Lane {
    fn new() -> Self {
        let (proxy, receiver) = (Proxy::new().unwrap(), Receiver::new());
        let mut server = Server::behind(&proxy);
        let device = Peer::joined(&server, "Ada");
        for number in 0..MEETINGS {
            device.add(&format!("meeting {number}"));
        }
        let integration = hook(&device, &receiver);
        device.sync();
        server.stop();
        let command = [
            "integrations",
            "sync",
            &integration,
            "--command-id",
            COMMAND,
        ];
        device.run(&command);
        // Issued twice it is one.
        device.run(&command);
        for peer in [&device, &server.peer] {
            copy_dir(&peer.data(), &peer.files().join("before"));
        }
        Self {
            proxy,
            server,
            device,
            receiver,
            integration,
        }
    }

    fn serve(&mut self) {
        self.server.start();
        self.proxy.lead_to(text(&self.server.info["listening"][0]));
    }

    fn begin(&mut self) {
        for peer in [&self.device, &self.server.peer] {
            fs::remove_dir_all(peer.data()).unwrap();
            copy_dir(&peer.files().join("before"), &peer.data());
        }
        self.receiver.forget();
        self.serve();
    }

    /// The bytes of the exchange undisturbed.
    fn measure(&mut self) -> Passed {
        self.begin();
        drop(self.proxy.arm(None));
        self.device
            .run(&["commands", "show", COMMAND, "--wait", wait()]);
        let passed = self.proxy.passed();
        self.end("undisturbed");
        passed
    }

    /// The exchange with the link cut there, and maybe somebody killed with it; whether it was.
    fn cut(&mut self, way: Way, at: u64, kill: Kill) -> bool {
        self.begin();
        let mut strike = Strike::new(way, at, Fault::Cut);
        if kill == Kill::Server {
            strike.first = Box::new(self.server.killer());
        }
        let struck = self.proxy.arm(Some(strike));
        let show = ["commands", "show", COMMAND, "--wait", wait()];
        let mut asking = self.device.start(&show);
        let until = Instant::now() + deadline();
        let was_struck = loop {
            match struck.recv_timeout(Duration::from_millis(5)) {
                Ok(()) => break true,
                Err(RecvTimeoutError::Disconnected) => unreachable!("it waits in the proxy"),
                Err(RecvTimeoutError::Timeout) if asking.has_ended() => {
                    break struck.try_recv().is_ok();
                }
                Err(RecvTimeoutError::Timeout) => assert!(Instant::now() < until),
            }
        };
        if was_struck && kill == Kill::Server {
            self.server.kill();
            self.serve();
        }
        if was_struck && kill == Kill::Device {
            asking.kill();
            // Whoever does not know whether it was issued issues it again.
            let again = [
                "integrations",
                "sync",
                &self.integration,
                "--command-id",
                COMMAND,
            ];
            self.device.run(&again);
            asking = self.device.start(&show);
        }
        let what = format!("cut at {at} {way:?}, killed: {kill:?}");
        let answer = asking.end().json();
        assert_eq!(
            answer["command"]["outcome"]["state"], "done",
            "{what}: {answer}"
        );
        self.end(&what);
        was_struck
    }

    /// Whatever happened, it was done once here, and told outside under one key each.
    fn end(&mut self, what: &str) {
        drop(self.proxy.arm(None));
        let answer = self.server.peer.run(&["commands", "show", COMMAND]);
        let run = text(&answer["command"]["outcome"]["result"]["run"]).to_owned();
        let ended = until(&self.server.peer, &run, "succeeded");
        assert_eq!(ended["run"]["command"], *COMMAND, "{what}: {ended}");
        // A server that comes back has nothing left to do: a later command is carried out after those
        // that were there before it.
        self.server.kill();
        self.serve();
        let id = self.integration.as_str();
        let probe = ["integrations", "validate", id, "--wait", wait()];
        let probe = self.device.run(&probe);
        assert_eq!(
            probe["command"]["outcome"]["state"], "done",
            "{what}: {probe}"
        );
        self.device.sync();
        for peer in [&self.server.peer, &self.device] {
            let listed = peer.run(&["integrations", "list"]);
            let runs = listed["integrations"][0]["runs"].as_object().unwrap();
            let runs: Vec<_> = runs.keys().collect();
            assert_eq!(runs, [&run], "{what}");
            let all = peer.run(&["commands", "list", "--all"]);
            let all = all["commands"].as_array().unwrap();
            let ids: BTreeSet<_> = all.iter().map(|command| text(&command["id"])).collect();
            let expected = BTreeSet::from([COMMAND, text(&probe["command"]["id"])]);
            assert_eq!(ids, expected, "{what}");
            for command in all {
                assert_eq!(command["conflicts"], Value::Null, "{what}: {command}");
            }
        }
        assert!(entries(&self.device).is_empty(), "{what}");
        let keys: BTreeSet<_> = self
            .receiver
            .calls()
            .into_iter()
            .map(|call| call.key)
            .collect();
        assert_eq!(keys.len(), MEETINGS, "{what}: {keys:?}");
        assert!(
            keys.iter().all(|key| key.starts_with(COMMAND)),
            "{what}: {keys:?}"
        );
        self.server.stop();
    }

    /// The server killed while it tells the outside, which never learns whether that was taken.
    fn killed_outside(&mut self) {
        self.begin();
        drop(self.proxy.arm(None));
        self.receiver.hold(true);
        let asking = self
            .device
            .start(&["commands", "show", COMMAND, "--wait", wait()]);
        self.receiver.wait(1);
        self.server.kill();
        self.receiver.hold(false);
        self.serve();
        assert_eq!(asking.end().json()["command"]["outcome"]["state"], "done");
        self.end("killed while it told the outside");
        assert_eq!(
            self.receiver.calls().len(),
            MEETINGS + 1,
            "one was told twice"
        );
    }
}

#[test]
fn in_flight_command_once() {
    let mut lane = Lane::new();
    let measured = [(); MEASURED].map(|()| lane.measure());
    println!("{measured:?} undisturbed");
    let mut struck = 0;
    for way in [Way::Up, Way::Down] {
        for n in 0..OFFSETS {
            let passed = measured.iter().map(|passed| passed.of(way)).min();
            let at = passed.unwrap() * (2 * n + 1) / (2 * OFFSETS);
            let kill = [Kill::Nobody, Kill::Server, Kill::Device][n as usize % 3];
            let was_struck = lane.cut(way, at, kill);
            println!("{way:?} at {at}, killed {kill:?}: struck: {was_struck}");
            struck += usize::from(was_struck);
        }
    }
    lane.killed_outside();
    assert!(struck >= STRUCK_MIN, "only {struck} cases were struck");
}
