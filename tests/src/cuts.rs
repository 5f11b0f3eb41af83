//! Links that fail somewhere in an exchange: wherever that is, everyone ends with the same.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Peer, Server, deadline};
use crate::qmsum;
use reconvene_testkit::{Fault, Passed, Proxy, Strike, Way};

/// Offsets of one direction of one exchange; there are two of each.
const OFFSETS: u64 = 12;
/// Cases that must have been struck, of `4 * OFFSETS`: an exchange may take a few bytes less than
/// the one that was measured.
const STRUCK_MIN: usize = 40;

/// What is exchanged.
#[derive(Clone, Copy, Debug)]
enum Exchange {
    /// A device that joined and has meetings of its own, with a server that has others.
    First,
    /// A device and a server that hold the same but for edits on both sides.
    Reconnect,
}

/// A server, two devices and what they held before the exchange, to which each case goes back.
struct Lane {
    proxy: Proxy,
    server: Server,
    a: Peer,
    b: Peer,
    expected: Vec<String>,
}

impl Lane {
    fn new(exchange: Exchange) -> Self {
        let proxy = Proxy::new().unwrap();
        let mut server = Server::behind(&proxy);
        let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
        let mut expected = b.import(&qmsum::made(b.files(), "ben", 8, 60));
        b.sync();
        let own = a.import(&qmsum::made(a.files(), "ada", 8, 60));
        if matches!(exchange, Exchange::Reconnect) {
            a.sync();
            b.sync();
            let shared: Vec<_> = expected.iter().chain(&own).cloned().collect();
            for (device, note) in [(&a, "of A, apart"), (&b, "of B, apart")] {
                for id in shared.iter().step_by(3) {
                    device.run(&["meeting", "edit", id, "--append-note", note]);
                }
                let files = qmsum::made(device.files(), &note[3..4], 2, 60);
                expected.extend(device.import(&files));
            }
            b.sync();
        }
        expected.extend(own);
        // B is apart as well while the link of A fails.
        expected.push(b.add("made by B meanwhile"));
        server.stop();
        for peer in [&a, &b, &server.peer] {
            copy_dir(&peer.data(), &peer.files().join("before"));
        }
        Self {
            proxy,
            server,
            a,
            b,
            expected,
        }
    }

    /// Brings back what was, and serves.
    fn begin(&mut self) {
        for peer in [&self.a, &self.b, &self.server.peer] {
            fs::remove_dir_all(peer.data()).unwrap();
            copy_dir(&peer.files().join("before"), &peer.data());
        }
        self.serve();
    }

    fn serve(&mut self) {
        self.server.start();
        let listening = &self.server.info["listening"][0];
        self.proxy.lead_to(listening.as_str().unwrap());
    }

    /// The bytes of the exchange undisturbed.
    fn measure(&mut self) -> Passed {
        self.begin();
        drop(self.proxy.arm(None));
        self.a.sync();
        let passed = self.proxy.passed();
        self.end("undisturbed");
        passed
    }

    /// The exchange with the link cut there, and maybe the server killed with it; whether it was.
    fn cut(&mut self, way: Way, at: u64, kills: bool) -> bool {
        self.begin();
        let mut strike = Strike::new(way, at, Fault::Cut);
        if kills {
            strike.first = Box::new(self.server.killer());
        }
        let struck = self.proxy.arm(Some(strike));
        let mut sync = self.a.start(&["sync", "--timeout", "20s"]);
        let until = Instant::now() + deadline();
        let was_struck = loop {
            match struck.recv_timeout(Duration::from_millis(5)) {
                Ok(()) => break true,
                Err(RecvTimeoutError::Disconnected) => unreachable!("it waits in the proxy"),
                Err(RecvTimeoutError::Timeout) if sync.has_ended() => {
                    break struck.try_recv().is_ok();
                }
                Err(RecvTimeoutError::Timeout) => assert!(Instant::now() < until),
            }
        };
        if was_struck && kills {
            self.server.kill();
            self.serve();
        }
        let ended = sync.end();
        // It redials by itself, and may well find a server that came back.
        assert!(
            matches!(ended.status.code(), Some(0 | 5)),
            "{way:?} {at} {kills}: {ended:?}"
        );
        self.end(&format!("cut at {at} {way:?}, killed: {kills}"));
        was_struck
    }

    /// Plain syncs, after which all three are to hold the same and everything.
    fn end(&mut self, what: &str) {
        drop(self.proxy.arm(None));
        for device in [&self.a, &self.b, &self.a] {
            device.sync();
        }
        let export = self.a.export();
        assert_eq!(export, self.b.export(), "{what}");
        assert_eq!(export, self.server.export(), "{what}");
        for id in &self.expected {
            assert!(export.contains(id.as_str()), "{what}: {id} is lost");
        }
        self.server.stop();
    }
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn wherever_a_link_is_cut_and_the_server_killed_all_three_end_equal() {
    let struck = Mutex::new(0);
    thread::scope(|scope| {
        for exchange in [Exchange::First, Exchange::Reconnect] {
            let struck = &struck;
            scope.spawn(move || {
                let mut lane = Lane::new(exchange);
                let passed = lane.measure();
                println!("{exchange:?}: {passed:?} undisturbed");
                for way in [Way::Up, Way::Down] {
                    for n in 0..OFFSETS {
                        let at = passed.of(way) * (2 * n + 1) / (2 * OFFSETS);
                        let was_struck = lane.cut(way, at, n % 2 == 1);
                        println!("{exchange:?} {way:?} at {at}: struck: {was_struck}");
                        *struck.lock().unwrap() += usize::from(was_struck);
                    }
                }
            });
        }
    });
    let struck = struck.into_inner().unwrap();
    assert!(struck >= STRUCK_MIN, "only {struck} cases were struck");
}

/// A device with meetings to send and a server with others, and a sync through a link that suffers
/// this somewhere in the middle; how many connections it took.
fn sync_through(way: Way, fault: Fault) -> usize {
    let proxy = Proxy::new().unwrap();
    let server = Server::behind(&proxy);
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    b.import(&qmsum::made(b.files(), "ben", 20, 40));
    b.sync();
    a.import(&qmsum::made(a.files(), "ada", 20, 40));
    let before = proxy.connections();
    let struck = proxy.arm(Some(Strike::new(way, 20_000, fault)));
    let report = a.run(&["sync", "--timeout", "90s"]);
    assert_eq!(report["verified"], true, "{report}");
    assert_eq!(struck.try_recv(), Ok(()), "{fault:?} {:?}", proxy.passed());
    let connections = proxy.connections() - before;
    b.sync();
    let export = a.export();
    assert_eq!(export, b.export());
    assert_eq!(export, server.export());
    connections
}

#[test]
fn a_link_that_stalls_or_goes_one_way_is_found_out_and_redone() {
    thread::scope(|scope| {
        for (way, fault) in [
            (Way::Up, Fault::Stall),
            (Way::Up, Fault::OneWay),
            (Way::Down, Fault::OneWay),
        ] {
            scope.spawn(move || {
                let connections = sync_through(way, fault);
                assert!(connections >= 2, "{way:?} {fault:?}: {connections}");
            });
        }
    });
}

#[test]
fn a_slow_link_is_no_broken_one() {
    let connections = sync_through(Way::Down, Fault::Delay(Duration::from_millis(100)));
    assert_eq!(connections, 1);
}
