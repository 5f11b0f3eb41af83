//! What a reconnect costs: by what changed, never by what there is.

use serde_json::Value;

use crate::harness::{Peer, Server};
use crate::qmsum;

fn frames(report: &Value) -> u64 {
    report["bytes_sent"].as_u64().unwrap() + report["bytes_received"].as_u64().unwrap()
}

fn check_unchanged(device: &Peer) {
    let report = device.sync();
    assert!(frames(&report) < 1024, "{report}");
    // Both greetings are counted, however quickly the pass was over.
    for bytes in ["bytes_sent", "bytes_received"] {
        assert!(report[bytes].as_u64().unwrap() > 0, "{report}");
    }
    assert_eq!(report["round_trips"], 1, "{report}");
    for count in [
        "documents_sent",
        "documents_received",
        "documents_materialised",
    ] {
        assert_eq!(report[count], 0, "{report}");
    }
}

#[test]
fn reconnecting_with_nothing_changed_costs_the_same_for_few_and_many_meetings() {
    let server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    for (prefix, count) in [("few", 10), ("many", 290)] {
        a.import(&qmsum::made(a.files(), prefix, count, 8));
        a.sync();
        b.sync();
        for device in [&a, &b] {
            check_unchanged(device);
            check_unchanged(device);
        }
    }
    assert_eq!(a.export(), server.export());
}

#[test]
fn with_ten_of_many_meetings_changed_only_those_are_touched() {
    let server = Server::new();
    let (a, b) = (Peer::joined(&server, "Ada"), Peer::joined(&server, "Ben"));
    let ids = a.import(&qmsum::made(a.files(), "meeting", 500, 8));
    a.sync();
    b.sync();
    for id in ids.iter().step_by(50) {
        a.run(&["meeting", "edit", id, "--append-note", "changed"]);
    }
    let sent = a.sync();
    assert_eq!(sent["documents_sent"], 10, "{sent}");
    assert_eq!(sent["documents_received"], 0, "{sent}");
    let received = b.sync();
    assert_eq!(received["documents_received"], 10, "{received}");
    for report in [&sent, &received] {
        assert!(frames(report) < 32 * 1024, "{report}");
        assert!(
            report["documents_materialised"].as_u64().unwrap() <= 10,
            "{report}"
        );
    }
    assert_eq!(a.export(), b.export());
    assert_eq!(a.export(), server.export());
}
