//! Real networks on loopback: everything the crate promises of links, seen through its events.
//!
//! Every wait is for an event, under one generous timeout; nothing sleeps.

use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::poll_fn;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::muxing::{StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::{Endpoint, Transport};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm};
use reconvene_core::ids::{LinkId, PeerId};
use reconvene_core::limits;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::behaviour::SYNC_PROTOCOL;
use crate::identity::{Identity, IdentityError, load_or_create_identity};
use crate::socket::Sockets;
use crate::{
    AddressError, CommandError, DialFailure, Direction, LinkDownReason, LinkStats, ListenFailure,
    Network, NetworkConfig, NetworkEvent, SEND_QUEUE_BYTES_MAX, SendError, parse_address,
    split_peer, transport, with_peer,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn identity() -> Identity {
    let directory = tempfile::tempdir().unwrap();
    load_or_create_identity(&directory.path().join("identity.key")).unwrap()
}

fn config() -> NetworkConfig {
    NetworkConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        ..NetworkConfig::default()
    }
}

/// A network with its receiver and the address it listens at.
struct Node {
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
    address: String,
}

impl Node {
    async fn start(config: NetworkConfig) -> Self {
        Self::start_as(identity(), config).await
    }

    async fn start_as(identity: Identity, config: NetworkConfig) -> Self {
        let (network, events) = Network::start(identity, config).unwrap();
        Self::listening(network, events).await
    }

    async fn listening(network: Network, mut events: mpsc::Receiver<NetworkEvent>) -> Self {
        let address = match within(events.recv()).await {
            Some(NetworkEvent::Listening { address }) => address,
            other => panic!("expected Listening, not {other:?}"),
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

    fn dial(&self, other: &Self) {
        self.network
            .dial(other.peer(), vec![other.address.clone()])
            .unwrap();
    }

    async fn event(&mut self) -> NetworkEvent {
        within(self.events.recv()).await.expect("the network runs")
    }

    async fn link_up(&mut self) -> (LinkId, PeerId, Direction) {
        match self.event().await {
            NetworkEvent::LinkUp {
                link,
                peer,
                direction,
                ..
            } => (link, peer, direction),
            other => panic!("expected LinkUp, not {other:?}"),
        }
    }

    async fn frame(&mut self, on: LinkId) -> Bytes {
        match self.event().await {
            NetworkEvent::FrameArrived { link, frame } if link == on => frame,
            other => panic!("expected a frame on {on}, not {other:?}"),
        }
    }

    async fn link_down(&mut self, on: LinkId) -> (LinkDownReason, LinkStats) {
        match self.event().await {
            NetworkEvent::LinkDown { link, why, stats } if link == on => (why, stats),
            other => panic!("expected LinkDown of {on}, not {other:?}"),
        }
    }

    async fn dial_failed(&mut self) -> DialFailure {
        match self.event().await {
            NetworkEvent::DialFailed { why, .. } => why,
            other => panic!("expected DialFailed, not {other:?}"),
        }
    }

    /// Shuts the network down; whatever was not looked at must hold no end of a link twice.
    async fn stop(mut self) -> Vec<NetworkEvent> {
        within(self.network.shutdown()).await;
        drop(self.network);
        let mut rest = Vec::new();
        while let Some(event) = within(self.events.recv()).await {
            rest.push(event);
        }
        rest
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("this takes no time on loopback")
}

/// Links `dialer` to `listener`, which admits it.
async fn connect(dialer: &mut Node, listener: &mut Node) -> (LinkId, LinkId) {
    let links = connect_unadmitted(dialer, listener).await;
    listener.network.admit(links.1);
    links
}

async fn connect_unadmitted(dialer: &mut Node, listener: &mut Node) -> (LinkId, LinkId) {
    dialer.dial(listener);
    let (here, peer, direction) = dialer.link_up().await;
    assert_eq!((peer, direction), (listener.peer(), Direction::Dialed));
    let (there, peer, direction) = listener.link_up().await;
    assert_eq!((peer, direction), (dialer.peer(), Direction::Accepted));
    (here, there)
}

/// Two linked networks; the second accepted the link and admitted the first.
async fn linked() -> (Node, LinkId, Node, LinkId) {
    linked_with(config(), config()).await
}

async fn linked_with(a: NetworkConfig, b: NetworkConfig) -> (Node, LinkId, Node, LinkId) {
    let mut a = Node::start(a).await;
    let mut b = Node::start(b).await;
    let (in_a, in_b) = connect(&mut a, &mut b).await;
    (a, in_a, b, in_b)
}

fn numbered(number: u32, bytes: usize) -> Bytes {
    let mut frame = vec![0; bytes];
    frame[..4].copy_from_slice(&number.to_be_bytes());
    frame.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_pass_both_ways_and_are_counted() {
    let (mut a, in_a, mut b, in_b) = linked().await;
    let hello = Bytes::from_static(b"hello");
    let largest = Bytes::from(vec![7; limits::FRAME_BYTES_MAX]);
    a.network.send(in_a, hello.clone()).unwrap();
    a.network.send(in_a, largest.clone()).unwrap();
    b.network.send(in_b, largest.clone()).unwrap();
    assert_eq!(b.frame(in_b).await, hello);
    assert_eq!(b.frame(in_b).await, largest);
    assert_eq!(a.frame(in_a).await, largest);

    a.network.close(in_a, true);
    let (why, in_a) = a.link_down(in_a).await;
    assert_eq!(why, LinkDownReason::ClosedHere);
    let (why, in_b) = b.link_down(in_b).await;
    assert_eq!(why, LinkDownReason::ClosedByPeer);
    let large = largest.len() as u64 + 4;
    assert_eq!((in_a.frames_sent, in_a.frame_bytes_sent), (2, large + 9));
    assert_eq!(
        (in_a.frames_received, in_a.frame_bytes_received),
        (1, large)
    );
    assert_eq!(
        (in_b.frames_received, in_b.frame_bytes_received),
        (2, large + 9)
    );
    assert_eq!((in_b.frames_sent, in_b.frame_bytes_sent), (1, large));
    assert!(in_a.socket_bytes_sent > in_a.frame_bytes_sent);
    assert!(in_b.socket_bytes_received > in_b.frame_bytes_received);
    assert!(a.network.socket_bytes().received >= in_a.socket_bytes_received);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_frames_keep_their_order() {
    const FRAMES: u32 = 20_000;
    let (a, in_a, mut b, in_b) = linked().await;
    for number in 0..FRAMES {
        let frame = numbered(number, 4 + number as usize % 40);
        while a.network.send(in_a, frame.clone()) == Err(SendError::QueueFull) {
            tokio::task::yield_now().await;
        }
    }
    for number in 0..FRAMES {
        assert_eq!(
            b.frame(in_b).await,
            numbered(number, 4 + number as usize % 40)
        );
    }
    let stats = b.network.link_stats(in_b).unwrap();
    assert_eq!(stats.frames_received, u64::from(FRAMES));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_pushing_at_once_do_not_block_each_other() {
    const FRAMES: u32 = 20 * 1024 * 1024 / limits::FRAME_BYTES_MAX as u32;

    async fn push_and_take(mut node: Node, link: LinkId) -> Node {
        let network = node.network.clone();
        let push = async {
            for number in 0..FRAMES {
                let frame = numbered(number, limits::FRAME_BYTES_MAX);
                while network.send(link, frame.clone()) == Err(SendError::QueueFull) {
                    tokio::task::yield_now().await;
                }
            }
        };
        let take = async {
            for number in 0..FRAMES {
                assert_eq!(node.frame(link).await[..4], number.to_be_bytes());
            }
        };
        tokio::join!(push, take);
        node
    }

    let (a, in_a, b, in_b) = linked().await;
    let a = tokio::spawn(push_and_take(a, in_a));
    let b = tokio::spawn(push_and_take(b, in_b));
    let (a, b) = (within(a).await.unwrap(), within(b).await.unwrap());
    assert!(a.network.link_stats(in_a).unwrap().frame_bytes_received > 20 * 1024 * 1024);
    assert!(b.network.link_stats(in_b).unwrap().frame_bytes_received > 20 * 1024 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_close_ends_the_link_once_on_both_sides() {
    for after_flush in [true, false] {
        for closed_by_dialer in [true, false] {
            let (mut a, in_a, mut b, in_b) = linked().await;
            let (here, there) = match closed_by_dialer {
                true => (&a, in_a),
                false => (&b, in_b),
            };
            here.network.close(there, after_flush);
            here.network.close(there, true);
            let (in_a_ended, in_b_ended) = (a.link_down(in_a).await.0, b.link_down(in_b).await.0);
            let (closer, other) = match closed_by_dialer {
                true => (in_a_ended, in_b_ended),
                false => (in_b_ended, in_a_ended),
            };
            assert_eq!(closer, LinkDownReason::ClosedHere);
            assert_eq!(other, LinkDownReason::ClosedByPeer);
            let frame = Bytes::from_static(b"late");
            assert_eq!(a.network.send(in_a, frame), Err(SendError::Closed));
            assert_eq!(a.network.link_stats(in_a), None);
            assert_eq!((a.stop().await, b.stop().await), (vec![], vec![]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_link_can_be_dialed_again() {
    let (mut a, first, mut b, in_b) = linked().await;
    b.network.close(in_b, false);
    a.link_down(first).await;
    b.link_down(in_b).await;
    let (second, in_b) = connect(&mut a, &mut b).await;
    assert!(second > first);
    a.network
        .send(second, Bytes::from_static(b"again"))
        .unwrap();
    assert_eq!(b.frame(in_b).await, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_close_delivers_everything_queued() {
    let (a, in_a, mut b, in_b) = linked().await;
    for number in 0..15 {
        let frame = numbered(number, limits::FRAME_BYTES_MAX);
        a.network.send(in_a, frame).unwrap();
    }
    a.network.close(in_a, true);
    assert_eq!(
        a.network.send(in_a, Bytes::from_static(b"late")),
        Err(SendError::Closed)
    );
    for number in 0..15_u32 {
        assert_eq!(b.frame(in_b).await[..4], number.to_be_bytes());
    }
    assert_eq!(b.link_down(in_b).await.0, LinkDownReason::ClosedByPeer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_peer_that_is_not_admitted() {
    let mut a = Node::start(config()).await;
    let mut b = Node::start(config()).await;
    let (in_a, in_b) = connect_unadmitted(&mut a, &mut b).await;
    a.network.send(in_a, Bytes::from_static(b"hello")).unwrap();
    for _ in 0..10 {
        let more = Bytes::from(vec![1; limits::FRAME_BYTES_MAX]);
        a.network.send(in_a, more).unwrap();
    }
    assert_eq!(b.frame(in_b).await, "hello");
    b.network.send(in_b, Bytes::from_static(b"no")).unwrap();
    b.network.close(in_b, true);
    assert_eq!(a.frame(in_a).await, "no");
    a.link_down(in_a).await;
    assert_eq!(b.link_down(in_b).await.0, LinkDownReason::ClosedHere);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_held_back_until_it_is_admitted() {
    let mut a = Node::start(config()).await;
    let mut b = Node::start(config()).await;
    let (in_a, in_b) = connect_unadmitted(&mut a, &mut b).await;
    let first = Bytes::from(vec![1; limits::FIRST_FRAME_BYTES_MAX]);
    let second = Bytes::from(vec![2; limits::FRAME_BYTES_MAX]);
    a.network.send(in_a, first.clone()).unwrap();
    a.network.send(in_a, second.clone()).unwrap();
    assert_eq!(b.frame(in_b).await, first);
    assert_eq!(b.network.link_stats(in_b).unwrap().frames_received, 1);
    b.network.admit(in_b);
    assert_eq!(b.frame(in_b).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlong_first_frame_closes_the_link() {
    let mut a = Node::start(config()).await;
    let mut b = Node::start(config()).await;
    let (in_a, in_b) = connect_unadmitted(&mut a, &mut b).await;
    let bytes = limits::FIRST_FRAME_BYTES_MAX + 1;
    a.network.send(in_a, Bytes::from(vec![0; bytes])).unwrap();
    let why = b.link_down(in_b).await.0;
    let bytes = u32::try_from(bytes).unwrap();
    assert_eq!(why, LinkDownReason::FirstFrameTooLong { bytes });
    a.link_down(in_a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_links_that_stay_silent_or_unanswered() {
    let short = Duration::from_millis(200);
    let mut a = Node::start(config()).await;

    let mut impatient = Node::start(NetworkConfig {
        first_frame_deadline: short,
        ..config()
    })
    .await;
    let (in_a, there) = connect_unadmitted(&mut a, &mut impatient).await;
    let (why, _) = impatient.link_down(there).await;
    assert_eq!(why, LinkDownReason::FirstFrameLate);
    a.link_down(in_a).await;

    let mut undecided = Node::start(NetworkConfig {
        idle_read_deadline: short,
        ..config()
    })
    .await;
    let (in_a, there) = connect_unadmitted(&mut a, &mut undecided).await;
    a.network.send(in_a, Bytes::from_static(b"hello")).unwrap();
    assert_eq!(undecided.frame(there).await, "hello");
    let (why, _) = undecided.link_down(there).await;
    assert_eq!(why, LinkDownReason::NotAdmitted);
    a.link_down(in_a).await;

    // Once admitted, the first frame has as long as any other.
    let (in_a, there) = connect(&mut a, &mut undecided).await;
    let (why, _) = undecided.link_down(there).await;
    assert_eq!(why, LinkDownReason::Idle);
    a.link_down(in_a).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_fills_the_queue_and_then_stalls() {
    let mut a = Node::start(NetworkConfig {
        write_deadline: Duration::from_secs(1),
        ..config()
    })
    .await;
    let mut b = Node::start(NetworkConfig {
        events_max: 1,
        ..config()
    })
    .await;
    let (in_a, in_b) = connect(&mut a, &mut b).await;
    let frame = Bytes::from(vec![0; limits::FRAME_BYTES_MAX]);
    let mut accepted = 0;
    // Far more than the queue, the windows and the socket buffers hold together.
    while a.network.send(in_a, frame.clone()).is_ok() {
        accepted += 1;
        assert!(accepted < 100_000);
        tokio::task::yield_now().await;
    }
    assert_eq!(
        a.network.send(in_a, frame.clone()),
        Err(SendError::QueueFull)
    );
    assert!(accepted >= SEND_QUEUE_BYTES_MAX / (frame.len() + 4));

    // Commands and other links go on meanwhile.
    let mut c = Node::start(config()).await;
    let (in_c, c_in_a) = connect(&mut c, &mut a).await;
    c.network.send(in_c, Bytes::from_static(b"hi")).unwrap();
    assert_eq!(a.frame(c_in_a).await, "hi");

    let (why, stats) = a.link_down(in_a).await;
    assert_eq!(why, LinkDownReason::WriteStalled);
    assert!(stats.frames_sent < accepted as u64);
    // What b has received by then is still delivered, and its end after it.
    let mut frames = 0;
    loop {
        match b.event().await {
            NetworkEvent::FrameArrived { frame: found, .. } => {
                assert_eq!(found, frame);
                frames += 1;
            }
            NetworkEvent::LinkDown { link, stats, .. } => {
                assert_eq!((link, stats.frames_received), (in_b, frames));
                break;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_impossible_size_are_refused_here() {
    let (a, in_a, _b, _) = linked().await;
    let bytes = limits::FRAME_BYTES_MAX + 1;
    assert_eq!(
        a.network.send(in_a, Bytes::from(vec![0; bytes])),
        Err(SendError::FrameSize { bytes })
    );
    assert_eq!(
        a.network.send(in_a, Bytes::new()),
        Err(SendError::FrameSize { bytes: 0 })
    );
    assert_eq!(
        a.network.send(LinkId(99), Bytes::from_static(b"x")),
        Err(SendError::Closed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_peer_at_the_address_is_a_typed_failure() {
    let mut a = Node::start(config()).await;
    let b = Node::start(config()).await;
    let expected = identity().peer_id();
    a.network.dial(expected, vec![b.address.clone()]).unwrap();
    assert_eq!(
        a.dial_failed().await,
        DialFailure::WrongPeer {
            found: Some(b.peer())
        }
    );
    assert_eq!(b.stop().await, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failed_dial_says_why() {
    let mut a = Node::start(config()).await;
    let b = Node::start(config()).await;
    let gone = Node::start(config()).await;
    let (peer, address) = (gone.peer(), gone.address.clone());
    gone.stop().await;

    a.network.dial(peer, vec![address.clone()]).unwrap();
    let why = DialFailure::Unreachable {
        attempts: vec![(address.clone(), io::ErrorKind::ConnectionRefused)],
    };
    assert_eq!(a.dial_failed().await, why);

    a.network.dial(peer, vec![]).unwrap();
    assert_eq!(a.dial_failed().await, DialFailure::NoAddress);

    a.network.dial(a.peer(), vec![address.clone()]).unwrap();
    assert_eq!(a.dial_failed().await, DialFailure::OwnIdentity);

    // Connected by the system, but nobody answers the handshake until it is dropped.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let unanswered = vec![format!("/ip4/127.0.0.1/tcp/{port}")];
    a.network.dial(b.peer(), unanswered.clone()).unwrap();
    a.network.dial(b.peer(), unanswered).unwrap();
    assert_eq!(a.dial_failed().await, DialFailure::AlreadyDialing);
    drop(silent);
    let why = a.dial_failed().await;
    assert!(matches!(why, DialFailure::Unreachable { .. }), "{why}");

    let named = with_peer(&address, peer).unwrap();
    assert_eq!(
        a.network.dial(b.peer(), vec![named]),
        Err(CommandError::Address(AddressError::OtherPeer {
            expected: b.peer(),
            found: peer
        }))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_good_address_among_bad_ones_suffices() {
    let mut a = Node::start(config()).await;
    let mut b = Node::start(config()).await;
    let gone = Node::start(config()).await;
    let dead = gone.address.clone();
    gone.stop().await;
    let good = with_peer(&b.address, b.peer()).unwrap();
    a.network.dial(b.peer(), vec![dead, good]).unwrap();
    match a.event().await {
        NetworkEvent::LinkUp { address, .. } => assert_eq!(address, b.address),
        other => panic!("expected LinkUp, not {other:?}"),
    }
    b.link_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_without_a_resolver_is_a_failure_of_that_dial_only() {
    let mut a = Node::start(NetworkConfig {
        dns: false,
        ..config()
    })
    .await;
    let b = Node::start(config()).await;
    let name = "/dns4/peer.invalid/tcp/4001".to_owned();
    a.network.dial(b.peer(), vec![name.clone()]).unwrap();
    let why = DialFailure::Unreachable {
        attempts: vec![(name.clone(), io::ErrorKind::Unsupported)],
    };
    assert_eq!(a.dial_failed().await, why);
    a.network
        .dial(b.peer(), vec![name, b.address.clone()])
        .unwrap();
    assert_eq!(a.link_up().await.1, b.peer());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_protocol_is_a_typed_failure() {
    let (network, events) =
        Network::start_speaking(identity(), config(), "/reconvene/sync/999").unwrap();
    let mut stranger = Node::listening(network, events).await;
    let mut a = Node::start(config()).await;
    a.dial(&stranger);
    assert_eq!(a.dial_failed().await, DialFailure::ProtocolUnsupported);
    stranger.dial(&a);
    assert_eq!(
        stranger.dial_failed().await,
        DialFailure::ProtocolUnsupported
    );
    assert_eq!((a.stop().await, stranger.stop().await), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_disturbs_nobody() {
    let (a, in_a, mut b, in_b) = linked().await;
    let port = b.address.rsplit('/').next().unwrap().to_owned();
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut garbage = TcpStream::connect(format!("127.0.0.1:{port}"))
            .await
            .unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut garbage, &[0xff; 4096])
            .await
            .unwrap();
        // The other end hangs up on it, however it says so.
        let mut reply = Vec::new();
        if let Err(error) = within(tokio::io::AsyncReadExt::read_to_end(
            &mut garbage,
            &mut reply,
        ))
        .await
        {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        silent.push(
            TcpStream::connect(format!("127.0.0.1:{port}"))
                .await
                .unwrap(),
        );
    }
    a.network.send(in_a, Bytes::from_static(b"still")).unwrap();
    assert_eq!(b.frame(in_b).await, "still");
    let mut c = Node::start(config()).await;
    connect(&mut c, &mut b).await;
}

/// A peer that speaks libp2p down to the frames, and from there on whatever it likes.
struct Hostile {
    streams: Vec<SubstreamBox>,
}

impl Hostile {
    /// Connects and opens this many streams of our protocol.
    async fn connect(node: &Node, streams: usize) -> Self {
        let address: Multiaddr = node.address.parse().unwrap();
        let options = DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let identity = identity();
        let sockets = Sockets::default();
        let mut transport = transport::build(identity.keypair(), sockets, false, PATIENCE).unwrap();
        let dial = transport.dial(address, options).unwrap();
        let (peer, mut muxer) = within(dial).await.unwrap();
        assert_eq!(peer.to_string(), node.peer().to_string());
        let mut opened = Vec::new();
        for _ in 0..streams {
            let stream = within(poll_fn(|cx| muxer.poll_outbound_unpin(cx))).await;
            opened.push(stream.unwrap());
        }
        tokio::spawn(poll_fn(move |cx| {
            while let Poll::Ready(event) = muxer.poll_unpin(cx) {
                if event.is_err() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        }));
        let mut negotiated = Vec::new();
        for stream in opened {
            negotiated.push(negotiate(stream).await);
        }
        Self {
            streams: negotiated,
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        let stream = &mut self.streams[0];
        within(stream.write_all(bytes)).await.unwrap();
        within(stream.flush()).await.unwrap();
    }

    /// Waits for the end of a stream, however it comes.
    async fn hears_the_end(&mut self, stream: usize) {
        let mut rest = Vec::new();
        let read = AsyncReadExt::read_to_end(&mut self.streams[stream], &mut rest);
        if let Err(error) = within(read).await {
            panic!("an orderly end or a reset, not {error}");
        }
        assert_eq!(rest, []);
    }
}

/// Agrees on our protocol as a dialer does (multistream-select, by hand).
async fn negotiate(mut stream: SubstreamBox) -> SubstreamBox {
    let mut hello = Vec::new();
    for line in ["/multistream/1.0.0", SYNC_PROTOCOL] {
        hello.push(u8::try_from(line.len() + 1).unwrap());
        hello.extend_from_slice(line.as_bytes());
        hello.push(b'\n');
    }
    within(stream.write_all(&hello)).await.unwrap();
    within(stream.flush()).await.unwrap();
    let mut answer = vec![0; hello.len()];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, hello);
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_lengths_close_the_link() {
    let mut node = Node::start(config()).await;
    let over = u32::try_from(limits::FRAME_BYTES_MAX + 1).unwrap();
    let first_over = u32::try_from(limits::FIRST_FRAME_BYTES_MAX + 1).unwrap();
    for (admitted, bytes, why) in [
        (true, 0, LinkDownReason::FrameEmpty),
        (true, over, LinkDownReason::FrameTooLong { bytes: over }),
        (
            true,
            u32::MAX,
            LinkDownReason::FrameTooLong { bytes: u32::MAX },
        ),
        (false, 0, LinkDownReason::FrameEmpty),
        (
            false,
            first_over,
            LinkDownReason::FirstFrameTooLong { bytes: first_over },
        ),
        (
            false,
            u32::MAX,
            LinkDownReason::FirstFrameTooLong { bytes: u32::MAX },
        ),
    ] {
        let mut hostile = Hostile::connect(&node, 1).await;
        let (link, _, _) = node.link_up().await;
        if admitted {
            node.network.admit(link);
        }
        hostile.write(&bytes.to_be_bytes()).await;
        assert_eq!(node.link_down(link).await.0, why);
        hostile.hears_the_end(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_drips_in_is_overdue_like_none_at_all() {
    let mut node = Node::start(NetworkConfig {
        first_frame_deadline: Duration::from_millis(200),
        ..config()
    })
    .await;
    let mut hostile = Hostile::connect(&node, 1).await;
    let (link, _, _) = node.link_up().await;
    hostile.write(&[0, 0, 0, 9, 1, 2, 3]).await;
    assert_eq!(node.link_down(link).await.0, LinkDownReason::FirstFrameLate);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_first_stream_becomes_a_link() {
    let mut node = Node::start(config()).await;
    let mut hostile = Hostile::connect(&node, 2).await;
    let (link, _, _) = node.link_up().await;
    // One of the two is refused; the other goes on.
    let refused = {
        let [first, second] = &mut hostile.streams[..] else {
            unreachable!("two were opened")
        };
        let (mut one, mut two) = ([0; 1], [0; 1]);
        let first = AsyncReadExt::read(first, &mut one).map(|read| (0, read));
        let second = AsyncReadExt::read(second, &mut two).map(|read| (1, read));
        let (ended, _) = within(futures::future::select(first, second))
            .await
            .factor_first();
        assert_eq!(ended.1.unwrap(), 0);
        ended.0
    };
    hostile.streams.remove(refused);
    hostile.write(&[0, 0, 0, 2, b'h', b'i']).await;
    assert_eq!(node.frame(link).await, "hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_stream_is_not_kept() {
    let node = Node::start(NetworkConfig {
        connect_deadline: Duration::from_millis(300),
        ..config()
    })
    .await;
    let identity = identity();
    let transport =
        transport::build(identity.keypair(), Sockets::default(), false, PATIENCE).unwrap();
    let mut idler = Swarm::new(
        transport,
        libp2p::swarm::dummy::Behaviour,
        identity.keypair().public().to_peer_id(),
        libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(PATIENCE),
    );
    idler
        .dial(node.address.parse::<Multiaddr>().unwrap())
        .unwrap();
    loop {
        if let SwarmEvent::ConnectionClosed { .. } = within(idler.select_next_some()).await {
            break;
        }
    }
    assert_eq!(node.stop().await, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_frozen_is_cut_off() {
    let mut b = Node::start(config()).await;
    let mut a = Node::start(NetworkConfig {
        links_per_peer_max: 1,
        close_deadline: Duration::from_millis(300),
        ..config()
    })
    .await;
    // A relay that takes nothing more after the handshake, as a machine that sleeps does.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = relay.local_addr().unwrap().port();
    let (freeze, frozen) = tokio::sync::oneshot::channel::<()>();
    let target = b.address.rsplit('/').next().unwrap().parse().unwrap();
    let relay = tokio::spawn(async move {
        let (mut from, _) = relay.accept().await.unwrap();
        let mut to = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut from, &mut to) => panic!("{copied:?}"),
            _ = frozen => (from, to),
        }
    });
    let address = format!("/ip4/127.0.0.1/tcp/{port}");
    a.network.dial(b.peer(), vec![address]).unwrap();
    let (link, _, _) = a.link_up().await;
    b.link_up().await;
    freeze.send(()).unwrap();
    let sockets = within(relay).await.unwrap();
    let frame = Bytes::from(vec![0; limits::FRAME_BYTES_MAX]);
    while a.network.send(link, frame.clone()).is_ok() {
        tokio::task::yield_now().await;
    }
    a.network.close(link, true);
    assert_eq!(a.link_down(link).await.0, LinkDownReason::ClosedHere);
    // Its place is free again although it never said goodbye.
    loop {
        a.dial(&b);
        match a.event().await {
            NetworkEvent::LinkUp { .. } => break,
            NetworkEvent::DialFailed { why, .. } => assert_eq!(why, DialFailure::LimitReached),
            other => panic!("unexpected {other:?}"),
        }
    }
    drop(sockets);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_connections_leave_nothing_behind() {
    let (network, events) = Network::start(identity(), config()).unwrap();
    let mut a = Node::listening(network, events).await;
    let mut b = Node::start(config()).await;
    let nobody = identity().peer_id();
    for _ in 0..3 {
        a.network.dial(nobody, vec![b.address.clone()]).unwrap();
        let why = a.dial_failed().await;
        assert!(matches!(why, DialFailure::WrongPeer { .. }));
        let port = b.address.rsplit('/').next().unwrap();
        let mut garbage = TcpStream::connect(format!("127.0.0.1:{port}"))
            .await
            .unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut garbage, &[0xff; 64])
            .await
            .unwrap();
    }
    connect(&mut a, &mut b).await;
    // The last ones may still be saying goodbye.
    within(async {
        while a.network.sockets_waiting() + b.network.sockets_waiting() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_gets_as_many_links_as_the_limit_says() {
    let mut a = Node::start(NetworkConfig {
        links_per_peer_max: 8,
        ..config()
    })
    .await;
    let mut b = Node::start(config()).await;
    let (first, _) = connect(&mut a, &mut b).await;
    connect(&mut a, &mut b).await;
    // b's limit is reached: it hangs up.
    a.dial(&b);
    assert_eq!(a.dial_failed().await, DialFailure::Refused);
    // So it is when b dials itself, and then it knows.
    b.dial(&a);
    assert_eq!(b.dial_failed().await, DialFailure::LimitReached);
    // The links there are live on, and an end makes room.
    a.network.close(first, true);
    a.link_down(first).await;
    match b.event().await {
        NetworkEvent::LinkDown { .. } => {}
        other => panic!("expected LinkDown, not {other:?}"),
    }
    loop {
        a.dial(&b);
        match a.event().await {
            NetworkEvent::LinkUp { .. } => break,
            // The old connection may take a moment to go.
            NetworkEvent::DialFailed { why, .. } => assert_eq!(why, DialFailure::Refused),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_while_busy_ends_every_link_once() {
    let mut hub = Node::start(config()).await;
    let mut spokes = Vec::new();
    for _ in 0..3 {
        let mut spoke = Node::start(config()).await;
        let (here, there) = connect(&mut spoke, &mut hub).await;
        spokes.push((spoke, here, there));
    }
    let frame = Bytes::from(vec![5; 10_000]);
    for (spoke, here, there) in &spokes {
        for _ in 0..50 {
            spoke.network.send(*here, frame.clone()).unwrap();
            hub.network.send(*there, frame.clone()).unwrap();
        }
    }
    let network = hub.network.clone();
    let events = hub.stop().await;
    for (_, _, there) in &spokes {
        let ends: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                NetworkEvent::LinkDown { link, why, .. } if link == there => Some(why),
                _ => None,
            })
            .collect();
        assert_eq!(ends, [&LinkDownReason::ShutDown]);
    }
    // What the hub had queued was flushed.
    for (mut spoke, here, _) in spokes {
        for _ in 0..50 {
            assert_eq!(spoke.frame(here).await, frame);
        }
        assert_eq!(spoke.link_down(here).await.0, LinkDownReason::ClosedByPeer);
    }
    within(network.shutdown()).await;
    assert_eq!(
        network.dial(network.peer_id(), vec![]),
        Err(CommandError::Stopped)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_the_receiver_of_events() {
    let (a, in_a, b, _) = linked_with(
        config(),
        NetworkConfig {
            events_max: 1,
            close_deadline: Duration::from_millis(500),
            ..config()
        },
    )
    .await;
    for number in 0..16 {
        if a.network.send(in_a, numbered(number, 60_000)).is_err() {
            break;
        }
    }
    let events = b.stop().await;
    let ends = events
        .iter()
        .filter(|event| matches!(event, NetworkEvent::LinkDown { .. }));
    assert_eq!(ends.count(), 1);
    assert!(matches!(
        events.last(),
        Some(NetworkEvent::LinkDown {
            why: LinkDownReason::ShutDown,
            ..
        })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_handles_or_the_receiver_shuts_down() {
    let (a, _, mut b, in_b) = linked().await;
    let Node {
        network, events, ..
    } = a;
    drop(network);
    b.link_down(in_b).await;
    drop(events);

    let (a, _, mut b, in_b) = linked().await;
    drop(a.events);
    b.link_down(in_b).await;
    within(a.network.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_reported() {
    let mut a = Node::start(config()).await;
    let b = Node::start(config()).await;
    a.network.listen(&b.address).unwrap();
    match a.event().await {
        NetworkEvent::ListenFailed { address, why } => {
            assert_eq!(address, b.address);
            assert_eq!(why, ListenFailure::Io(io::ErrorKind::AddrInUse));
        }
        other => panic!("expected ListenFailed, not {other:?}"),
    }
    a.network.listen("/ip4/127.0.0.1/tcp/0").unwrap();
    assert!(matches!(a.event().await, NetworkEvent::Listening { .. }));
}

#[test]
fn addresses_have_one_spelling() {
    let peer = identity().peer_id();
    for good in [
        "/ip4/192.0.2.1/tcp/4001",
        "/ip6/2001:db8::1/tcp/4001",
        "/dns4/peer.example/tcp/1",
        "/dns/peer.example/tcp/1",
    ] {
        assert_eq!(parse_address(good).unwrap(), good);
        let named = with_peer(good, peer).unwrap();
        assert_eq!(named, format!("{good}/p2p/{peer}"));
        assert_eq!(with_peer(&named, peer).unwrap(), named);
        assert_eq!(parse_address(&named).unwrap(), named);
        assert_eq!(split_peer(&named).unwrap(), (good.to_owned(), Some(peer)));
        assert_eq!(split_peer(good).unwrap(), (good.to_owned(), None));
    }
    for malformed in ["", "192.0.2.1:4001", "/ip4/300.0.0.1/tcp/1", "/nonsense"] {
        let error = parse_address(malformed).unwrap_err();
        assert!(
            matches!(
                error,
                AddressError::Malformed { .. } | AddressError::Unsupported { .. }
            ),
            "{malformed}: {error}"
        );
    }
    for unsupported in ["/ip4/192.0.2.1", "/ip4/192.0.2.1/udp/1/quic-v1", "/tcp/1"] {
        let error = parse_address(unsupported).unwrap_err();
        assert!(
            matches!(error, AddressError::Unsupported { .. }),
            "{unsupported}: {error}"
        );
    }
    let foreign = "/ip4/192.0.2.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
    assert!(matches!(
        parse_address(foreign),
        Err(AddressError::ForeignPeer { .. })
    ));
}

#[test]
fn an_identity_is_made_once_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.key");
    let made = load_or_create_identity(&path).unwrap();
    let loaded = load_or_create_identity(&path).unwrap();
    assert_eq!(made.peer_id(), loaded.peer_id());
    assert_eq!(made.derive_secret(b"a"), loaded.derive_secret(b"a"));
    assert_ne!(made.derive_secret(b"a"), made.derive_secret(b"b"));
    assert_ne!(made.derive_secret(b"a"), identity().derive_secret(b"a"));
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(files, 1, "no temporary file stays behind");
    assert_eq!(
        format!("{made:?}"),
        format!("Identity {{ peer_id: {}, .. }}", made.peer_id())
    );

    let theirs = made.keypair().public().to_peer_id();
    assert_eq!(made.peer_id().to_string(), theirs.to_string());
    assert_eq!(made.peer_id().to_multihash()[..], theirs.to_bytes());
}

#[test]
fn identities_made_at_the_same_time_are_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.key");
    let made: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| load_or_create_identity(&path).unwrap().peer_id()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(made.iter().all(|peer| *peer == made[0]));
}

#[test]
fn a_damaged_identity_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.key");
    load_or_create_identity(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for damaged in [&whole[..whole.len() - 1], &[], &[0; 5000]] {
        std::fs::write(&path, damaged).unwrap();
        assert!(matches!(
            load_or_create_identity(&path),
            Err(IdentityError::Damaged { .. })
        ));
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
    assert!(matches!(
        load_or_create_identity(&directory.path().join("no/identity.key")),
        Err(IdentityError::Write { .. })
    ));
}

#[cfg(unix)]
#[test]
fn only_its_owner_may_read_the_identity() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity.key");
    let made = load_or_create_identity(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    for exposed in [0o644, 0o640, 0o602] {
        std::fs::set_permissions(&path, Permissions::from_mode(exposed)).unwrap();
        assert!(matches!(
            load_or_create_identity(&path),
            Err(IdentityError::Exposed { mode, .. }) if mode == exposed
        ));
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    let loaded = load_or_create_identity(&path).unwrap();
    assert_eq!(loaded.peer_id(), made.peer_id());
}
