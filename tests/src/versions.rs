//! Peers that speak another protocol version: refused by name, in both directions.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use reconvene_core::refusal::RefusalCode;
use reconvene_core::wire::{Frame, Hello, Refused, Role};
use reconvene_libp2p::{Identity, NetworkEvent, load_or_create_identity};
use tokio::time::timeout;

use crate::harness::{Peer, Server, deadline};
use crate::raw::{Raw, run};

/// A version that nothing here speaks.
const LATER: u32 = 99;

fn later_hello() -> Bytes {
    let hello = Frame::Hello(Hello {
        protocol_min: LATER,
        protocol_max: LATER,
        role: Role::Device,
        state_version: 1,
        workspaces: Vec::new(),
        shares: None,
        more: false,
    });
    hello.encode().remove(0)
}

fn later_refusal() -> Bytes {
    let refused = Frame::Refused(Refused {
        code: RefusalCode::IncompatibleProtocol,
        message: "no common version".to_owned(),
        protocol: (LATER, LATER),
        fault: None,
    });
    refused.encode().remove(0)
}

/// Greets the server as this identity in a later version, and yields the refusal.
async fn greet(server: &Server, identity: Identity) -> Refused {
    let info = reconvene::Ticket::decode(&server.ticket("Ada")).unwrap();
    let mut raw = Raw::start(identity, Vec::new());
    raw.network.dial(info.peer, info.addresses).unwrap();
    let link = raw.link().await;
    raw.network.send(link, later_hello()).unwrap();
    let refused = loop {
        // An enrolled device is greeted before it is heard.
        if let Frame::Refused(refused) = raw.frame().await {
            break refused;
        }
    };
    raw.network.shutdown().await;
    refused
}

#[test]
fn a_server_refuses_devices_and_strangers_of_another_protocol_version() {
    let server = Server::new();
    let device = Peer::joined(&server, "Ada");
    let id = device.add("kept");
    device.sync();
    run(async {
        let stranger = tempfile::tempdir().unwrap();
        let strangers = load_or_create_identity(&stranger.path().join("identity.key")).unwrap();
        let enrolled = load_or_create_identity(&device.data().join("identity.key")).unwrap();
        for identity in [strangers, enrolled] {
            let refused = greet(&server, identity).await;
            assert_eq!(refused.code, RefusalCode::IncompatibleProtocol);
            assert!(refused.protocol.0 <= refused.protocol.1 && refused.protocol.1 < LATER);
        }
    });
    // It serves on as before.
    device.sync();
    assert!(server.export().contains(&id));
}

/// Answers one link as a server of a later version: greets, or refuses what it hears first.
async fn answer_as_later_server(raw: &mut Raw, greets: bool) {
    let link = raw.link().await;
    raw.network.admit(link);
    if greets {
        raw.network.send(link, later_hello()).unwrap();
        while !matches!(raw.frame().await, Frame::Refused(_)) {}
        return;
    }
    raw.frame().await;
    raw.network.send(link, later_refusal()).unwrap();
    raw.network.close(link, true);
}

#[test]
fn a_device_says_that_its_server_speaks_another_protocol_version() {
    let mut server = Server::new();
    let ticket = reconvene::Ticket::decode(&server.ticket("Ada")).unwrap();
    let unused = server.ticket("Ben");
    let device = Peer::joined(&server, "Ada");
    let id = device.add("made before the update");
    server.stop();

    let key = server.peer.data().join("identity.key");
    let copy = device.files().join("server.key");
    fs::copy(key, &copy).unwrap();
    let newcomer = Peer::new();
    std::thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (done, is_done) = tokio::sync::oneshot::channel::<()>();
        let listen = ticket.addresses.clone();
        let copy = &copy;
        scope.spawn(move || {
            run(async {
                let mut raw = Raw::start(load_or_create_identity(copy).unwrap(), listen);
                loop {
                    match raw.event().await {
                        NetworkEvent::Listening { .. } => break,
                        NetworkEvent::ListenFailed { why, .. } => panic!("{why}"),
                        _ => {}
                    }
                }
                ready.send(()).unwrap();
                for greets in [true, false, false] {
                    answer_as_later_server(&mut raw, greets).await;
                }
                is_done.await.unwrap();
                timeout(Duration::from_secs(30), raw.network.shutdown())
                    .await
                    .unwrap();
            });
        });
        is_ready.recv_timeout(deadline()).unwrap();
        for _ in 0..2 {
            let error = device.fails(&["sync"], 6, "incompatible_protocol");
            let hint = error["hint"].as_str().unwrap();
            assert!(hint.contains("update"), "{error}");
        }
        newcomer.fails(&["join", &unused], 6, "incompatible_protocol");
        done.send(()).unwrap();
    });
    // Nothing was lost, and with a server of its own version it goes on.
    server.start();
    device.sync();
    assert!(server.export().contains(&id));
    newcomer.run(&["join", &unused]);
    newcomer.sync();
    assert_eq!(newcomer.export(), device.export());
}
