//! Serving, joining and workspaces.

use serde_json::Value;

use crate::harness::{Peer, Server};

#[test]
fn a_server_without_listen_comes_back_at_its_address() {
    let mut server = Server::new();
    let first = server.info.clone();
    let peer = first["peer_id"].as_str().unwrap();
    let address = first["listening"][0].as_str().unwrap();
    assert!(address.starts_with("/ip4/127.0.0.1/tcp/"), "{address}");
    assert!(address.ends_with(&format!("/p2p/{peer}")), "{address}");
    let ticket = server.ticket("Ada");
    server.stop();
    server.start();
    assert_eq!(server.info, first);
    server.kill();
    server.start();
    assert_eq!(server.info, first);
    // So a ticket from before still leads there.
    let device = Peer::new();
    device.run(&["join", &ticket]);
    device.sync();
}

#[test]
fn joining_works_on_a_fresh_directory_and_after_init() {
    let server = Server::new();
    let fresh = Peer::new();
    let joined = fresh.run(&["join", &server.ticket("Ada")]);
    let workspace = joined["workspace"].as_str().unwrap();
    assert_eq!(joined["member_name"], "Ada");

    let made = Peer::new();
    made.run(&["init", "--name", "laptop"]);
    let ticket = server.ticket("Ben");
    assert_eq!(made.run(&["join", &ticket])["workspace"], workspace);
    // The same device may use its ticket again.
    assert_eq!(made.run(&["join", &ticket])["workspace"], workspace);
    for device in [&fresh, &made] {
        let status = device.run(&["status"]);
        assert_eq!(status["device"]["current"], workspace);
        device.sync();
    }
    made.fails(&["init"], 3, "already_initialised");
}

#[test]
fn an_invited_member_without_a_name_is_a_new_one_each_time() {
    let server = Server::new();
    let members = [(); 2].map(|()| {
        let answer = server.peer.run(&["invite"]);
        answer["member"].as_str().unwrap().to_owned()
    });
    assert_ne!(members[0], members[1]);
    let again = [(); 2].map(|()| {
        let answer = server.peer.run(&["invite", "--member", "Ada"]);
        answer["member"].as_str().unwrap().to_owned()
    });
    assert_eq!(again[0], again[1]);
}

#[test]
fn each_shared_workspace_has_its_own_members_and_meetings() {
    let server = Server::new();
    let host = &server.peer;
    let a = Peer::joined(&server, "Ada");
    a.add("in the first workspace");
    let added = host.run(&["workspace", "add", "second"]);
    let second = added["workspace"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        host.run(&["workspace", "use", "second"])["workspace"]["id"],
        *second
    );
    let b = Peer::joined(&server, "Ben");
    b.add("in the second workspace");
    a.sync();
    b.sync();

    let names = |answer: Value| {
        let all = answer["workspaces"].as_array().unwrap().clone();
        let shared = all
            .into_iter()
            .filter(|workspace| workspace["home"] == false);
        shared
            .map(|workspace| workspace["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(host.run(&["workspace", "list"])),
        ["shared", "second"]
    );
    assert_eq!(names(a.run(&["workspace", "list"])), ["shared"]);
    assert_eq!(names(b.run(&["workspace", "list"])), ["second"]);
    assert!(a.export().contains("in the first workspace"));
    assert!(!a.export().contains("in the second workspace"));
    assert_eq!(b.export(), server.export());
    // A joins the second one as well, and goes back and forth.
    a.run(&["join", &server.ticket("Ada")]);
    a.sync();
    assert_eq!(a.export(), b.export());
    a.run(&["workspace", "use", "shared"]);
    assert!(a.export().contains("in the first workspace"));
    let exported = a.end(&["export", "--workspace", &second]).stdout;
    assert_eq!(exported, b.export());
}

#[test]
fn what_a_server_announces_is_what_tickets_carry() {
    let server = Server::new();
    let peer = Peer::new();
    let announce = "/dns4/meetings.example.org/tcp/4001";
    let process = peer.start(&["serve", "--announce", announce]);
    process.line();
    let ticket = peer.run(&["invite"])["ticket"].as_str().unwrap().to_owned();
    let ticket = reconvene::Ticket::decode(&ticket).unwrap();
    assert_eq!(ticket.addresses, [announce]);
    let own = reconvene::Ticket::decode(&server.ticket("Ada")).unwrap();
    assert!(
        server.info["listening"][0]
            .as_str()
            .unwrap()
            .starts_with(&own.addresses[0])
    );
}
