//! Links as they are far from home: long, lossy, gone without a word; servers that come and go; and a
//! peer that is stuck beside others that are not.

use std::thread;
use std::time::Duration;

use reconvene_testkit::{Fault, Proxy, Strike, Way, Weather};

use crate::harness::{Peer, Process, Server};
use crate::qmsum;

/// How often the server is killed.
const RESTARTS: u64 = 12;

/// Starts to sync and goes on, once it is verified.
fn watching(device: &Peer) -> Process {
    let watch = device.start(&["sync", "--watch"]);
    watch.line_where(|event| event["event"] == "verified");
    watch
}

/// The next event that tells of a change of this meeting.
fn shows(watch: &Process, meeting: &str) {
    watch.line_where(|event| {
        event["event"] == "changed" && event["meetings"].to_string().contains(meeting)
    });
}

#[test]
fn a_long_and_lossy_path_carries_everything_over_one_link() {
    let far = |latency, lost_per_mille| Weather {
        latency: Duration::from_millis(latency),
        lost_per_mille,
    };
    let weathers = [far(150, 0), far(1, 50), far(150, 50)];
    thread::scope(|scope| {
        for weather in weathers {
            scope.spawn(move || {
                let proxy = Proxy::new().unwrap();
                let server = Server::behind(&proxy);
                let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
                proxy.set_weather(weather);
                let mut ids = b.import(&qmsum::made(b.files(), "ben", 12, 40));
                ids.extend(a.import(&qmsum::made(a.files(), "ada", 12, 40)));
                let before = proxy.connections();
                // The first exchange, then one of what changed.
                for device in [&b, &a, &b] {
                    device.sync();
                }
                a.run(&["meeting", "edit", &ids[0], "--append-note", "from afar"]);
                b.run(&["meeting", "edit", &ids[0], "--append-note", "from as far"]);
                for device in [&a, &b, &a] {
                    device.sync();
                }
                // Not one was given up.
                assert_eq!(proxy.connections() - before, 6, "{weather:?}");
                let export = a.export();
                assert_eq!(export, b.export(), "{weather:?}");
                assert_eq!(export, server.export(), "{weather:?}");
                for word in ids
                    .iter()
                    .map(String::as_str)
                    .chain(["from afar", "from as far"])
                {
                    assert!(export.contains(word), "{weather:?}: {word} is lost");
                }
            });
        }
    });
}

#[test]
fn edits_go_both_ways_as_they_happen_also_on_a_lossy_path() {
    let proxy = Proxy::new().unwrap();
    let server = Server::behind(&proxy);
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    proxy.set_weather(Weather {
        latency: Duration::from_millis(50),
        lost_per_mille: 50,
    });
    let id = a.add("far apart");
    let (on_a, on_b) = (watching(&a), watching(&b));
    // One of the two verified before the other had anything.
    b.sync();
    for n in 0..10 {
        let note = format!("note {n}");
        let (author, reader) = match n % 2 {
            0 => (&a, &on_b),
            _ => (&b, &on_a),
        };
        author.run(&["meeting", "edit", &id, "--append-note", &note]);
        shows(reader, &id);
    }
    for device in [&a, &b] {
        device.sync();
    }
    assert_eq!(a.export(), b.export());
    assert_eq!(a.export().matches("note ").count(), 10);
}

#[test]
fn a_server_that_goes_without_a_word_and_comes_back_elsewhere_is_found() {
    let proxy = Proxy::new().unwrap();
    let mut server = Server::behind(&proxy);
    let device = Peer::joined(&server, "Ada");
    let on_device = watching(&device);
    // From here on nothing of the old connection passes, not even the word that it ended.
    let struck = proxy.arm(Some(Strike::new(Way::Up, 1, Fault::Stall)));
    let first = device.add("made as the link went dead");
    struck.recv_timeout(crate::harness::deadline()).unwrap();
    server.kill();
    let connections = proxy.connections();
    server.start();
    proxy.lead_to(server.info["listening"][0].as_str().unwrap());
    let second = server.peer.add("made where it is now");
    // It finds out by itself, and says so.
    shows(&on_device, &second);
    assert!(proxy.connections() > connections);
    device.sync();
    let export = device.export();
    assert_eq!(export, server.export());
    for id in [first, second] {
        assert!(export.contains(&id), "{id} is lost");
    }
}

#[test]
fn a_server_in_a_storm_of_restarts_loses_nothing_and_doubles_nothing() {
    let proxy = Proxy::new().unwrap();
    let mut server = Server::behind(&proxy);
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let (_on_a, _on_b) = (watching(&a), watching(&b));
    let mut ids = Vec::new();
    for n in 0..RESTARTS {
        // At another place of the exchange each time, if it comes to that.
        let mut strike = Strike::new([Way::Up, Way::Down][n as usize % 2], 150 * n, Fault::Cut);
        strike.first = Box::new(server.killer());
        let struck = proxy.arm(Some(strike));
        for (device, name) in [(&a, "A"), (&b, "B")] {
            ids.push(device.add(&format!("{n} of {name}")));
        }
        // If so many bytes do not pass, it is killed in between.
        struck.recv_timeout(Duration::from_secs(2)).ok();
        server.kill();
        server.start();
        proxy.lead_to(server.info["listening"][0].as_str().unwrap());
    }
    drop(proxy.arm(None));
    for device in [&a, &b, &a] {
        device.sync();
    }
    let export = a.export();
    assert_eq!(export, b.export());
    assert_eq!(export, server.export());
    for id in &ids {
        assert!(export.contains(id.as_str()), "{id} is lost");
    }
    let listed = a.run(&["meeting", "list", "--limit", "1000"]);
    assert_eq!(listed["meetings"].as_array().unwrap().len(), ids.len());
}

#[test]
fn a_peer_that_is_stuck_slows_nobody_else() {
    let server = Server::new();
    let [a, b, c] = ["Ada", "Ben", "Cyd"].map(|member| Peer::joined(&server, member));
    let [_on_a, on_b, on_c] = [&a, &b, &c].map(watching);
    // Its kernel keeps the connection, and takes what comes until its buffers are full.
    on_c.pause();
    let ids = a.import(&qmsum::made(a.files(), "ada", 150, 120));
    shows(&on_b, ids.last().unwrap());
    let note = a.run(&["meeting", "edit", &ids[0], "--append-note", "and now"]);
    assert_eq!(note["meeting"]["id"], ids[0].as_str());
    shows(&on_b, &ids[0]);
    b.sync();
    assert_eq!(a.export(), b.export());
    on_c.go_on();
    shows(&on_c, ids.last().unwrap());
    c.sync();
    assert_eq!(c.export(), a.export());
}
