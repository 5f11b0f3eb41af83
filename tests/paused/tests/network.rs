//! What the network crate promises of hours and days, and its deadlines as they are shipped.
//!
//! Time stands still while anything is to be done, and leaps to the next timer when nothing is; the
//! sockets are real ones on loopback. So a day takes seconds, and a deadline is met to the
//! millisecond, however busy the machine is.

use std::time::Duration;

use bytes::Bytes;
use reconvene_core::ids::{LinkId, PeerId};
use reconvene_core::limits::{FIRST_FRAME_DEADLINE, FRAME_BYTES_MAX};
use reconvene_libp2p::{
    CLOSE_DEADLINE, CONNECT_DEADLINE, DialFailure, IDLE_READ_DEADLINE, LinkDownReason, Network,
    NetworkConfig, NetworkEvent, WRITE_DEADLINE, load_or_create_identity,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How much later than its deadline something may be noticed: timers count whole milliseconds, and
/// one may lead to another.
const SLACK: Duration = Duration::from_millis(20);

struct Node {
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
    address: String,
}

impl Node {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = load_or_create_identity(&directory.path().join("identity.key")).unwrap();
        let config = NetworkConfig {
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            ..NetworkConfig::default()
        };
        let (network, mut events) = Network::start(identity, config).unwrap();
        let Some(NetworkEvent::Listening { address }) = events.recv().await else {
            panic!("it does not listen");
        };
        Self {
            network,
            events,
            address,
        }
    }

    fn peer(&self) -> PeerId {
        self.network.peer_id()
    }

    fn dial(&self, other: PeerId, address: &str) {
        self.network.dial(other, vec![address.to_owned()]).unwrap();
    }

    async fn link_up(&mut self) -> LinkId {
        match self.events.recv().await {
            Some(NetworkEvent::LinkUp { link, .. }) => link,
            other => panic!("expected LinkUp, not {other:?}"),
        }
    }

    /// The end of a link, whatever comes before it.
    async fn link_down(&mut self) -> LinkDownReason {
        loop {
            match self.events.recv().await {
                Some(NetworkEvent::LinkDown { why, .. }) => return why,
                Some(NetworkEvent::FrameArrived { .. }) => {}
                other => panic!("expected LinkDown, not {other:?}"),
            }
        }
    }

    async fn frame(&mut self) -> Bytes {
        match self.events.recv().await {
            Some(NetworkEvent::FrameArrived { frame, .. }) => frame,
            other => panic!("expected a frame, not {other:?}"),
        }
    }
}

/// Two nodes and a link between them that both let in.
async fn linked() -> (Node, LinkId, Node, LinkId) {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    a.dial(b.peer(), &b.address);
    let (of_a, of_b) = (a.link_up().await, b.link_up().await);
    a.network.admit(of_a);
    b.network.admit(of_b);
    (a, of_a, b, of_b)
}

/// Whether so much time has passed, and hardly more.
fn assert_took(began: Instant, expected: Duration) {
    let took = began.elapsed();
    assert!(
        took >= expected && took <= expected + SLACK,
        "it took {took:?}, not {expected:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_on_which_heartbeats_pass_lives_for_a_week() {
    const BEAT: Duration = Duration::from_secs(20);
    let (mut a, of_a, mut b, of_b) = linked().await;
    let began = Instant::now();
    let mut beat_at = tokio::time::interval(BEAT);
    let mut beats = 0_u32;
    while began.elapsed() < Duration::from_secs(7 * 24 * 60 * 60) {
        let beat = Bytes::from(beats.to_be_bytes().to_vec());
        a.network.send(of_a, beat.clone()).unwrap();
        assert_eq!(b.frame().await, beat);
        b.network.send(of_b, beat.clone()).unwrap();
        assert_eq!(a.frame().await, beat);
        beat_at.tick().await;
        beats += 1;
    }
    assert!(beats > 30_000, "{beats}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_link_ends_at_its_deadline_on_both_sides() {
    let (mut a, _, mut b, _) = linked().await;
    let began = Instant::now();
    let ended = [a.link_down().await, b.link_down().await];
    assert!(ended.contains(&LinkDownReason::Idle), "{ended:?}");
    assert_took(began, IDLE_READ_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_let_in_and_says_nothing_is_closed_out() {
    let (a, mut b) = (Node::start().await, Node::start().await);
    a.dial(b.peer(), &b.address);
    b.link_up().await;
    let began = Instant::now();
    assert_eq!(b.link_down().await, LinkDownReason::FirstFrameLate);
    assert_took(began, FIRST_FRAME_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_dial_to_someone_who_says_nothing_fails_at_its_deadline() {
    let mut a = Node::start().await;
    let other = Node::start().await.peer();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", mute.local_addr().unwrap().port());
    let began = Instant::now();
    a.dial(other, &address);
    let (_socket, _) = mute.accept().await.unwrap();
    match a.events.recv().await {
        Some(NetworkEvent::DialFailed { why, .. }) => {
            let attempts = vec![(address, std::io::ErrorKind::TimedOut)];
            assert_eq!(why, DialFailure::Unreachable { attempts });
        }
        other => panic!("expected DialFailed, not {other:?}"),
    }
    assert_took(began, CONNECT_DEADLINE);
}

/// A link through a relay that carries nothing more once it is told so.
async fn through_a_relay() -> (Node, LinkId, Node, tokio::sync::oneshot::Sender<()>) {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", relay.local_addr().unwrap().port());
    let target: u16 = b.address.rsplit('/').next().unwrap().parse().unwrap();
    let (freeze, frozen) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (from, _) = relay.accept().await.unwrap();
        let to = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
        tokio::select! {
            () = carry(&from, &to) => {}
            () = carry(&to, &from) => {}
            _ = frozen => std::future::pending().await,
        }
    });
    a.dial(b.peer(), &address);
    let (of_a, of_b) = (a.link_up().await, b.link_up().await);
    a.network.admit(of_a);
    b.network.admit(of_b);
    (a, of_a, b, freeze)
}

/// Carries bytes one way until one side ends.
async fn carry(from: &TcpStream, to: &TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if from.readable().await.is_err() {
            return;
        }
        let mut rest = match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => &buffer[..read],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        while !rest.is_empty() {
            if to.writable().await.is_err() {
                return;
            }
            match to.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_more_is_found_out_at_the_deadline_for_writing() {
    let (mut a, of_a, _b, freeze) = through_a_relay().await;
    freeze.send(()).unwrap();
    let frame = Bytes::from(vec![0; FRAME_BYTES_MAX]);
    let began = Instant::now();
    while a.network.send(of_a, frame.clone()).is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(a.link_down().await, LinkDownReason::WriteStalled);
    assert_took(began, WRITE_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn closing_a_link_to_someone_frozen_takes_no_longer_than_it_may() {
    let (mut a, of_a, _b, freeze) = through_a_relay().await;
    freeze.send(()).unwrap();
    let frame = Bytes::from(vec![0; FRAME_BYTES_MAX]);
    while a.network.send(of_a, frame.clone()).is_ok() {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    a.network.close(of_a, true);
    assert_eq!(a.link_down().await, LinkDownReason::ClosedHere);
    let took = began.elapsed();
    assert!(took <= 2 * CLOSE_DEADLINE + SLACK, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn many_links_that_came_and_went_leave_room_for_the_next() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    for round in 0..300 {
        a.dial(b.peer(), &b.address);
        let (of_a, of_b) = (a.link_up().await, b.link_up().await);
        let (node, link, other) = match round % 2 {
            0 => (&mut a, of_a, &mut b),
            _ => (&mut b, of_b, &mut a),
        };
        node.network.close(link, true);
        node.link_down().await;
        other.link_down().await;
    }
}
