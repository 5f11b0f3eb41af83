//! The one task that owns the swarm: begins dials, turns streams into links, sees connections out.
//!
//! It never waits for the receiver of events or for a link: what it has to report waits in a
//! bounded backlog, and while that is full it begins nothing new.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Ipv6Addr;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::connection_limits::ConnectionLimits;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Stream, Swarm, noise};
use reconvene_core::ids::{LinkId, PeerId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::address::{self, Address};
use crate::behaviour::{Behaviour, StreamEvent};
use crate::config::NetworkConfig;
use crate::event::{DialFailure, Direction, LinkDownReason, ListenFailure, NetworkEvent};
use crate::identity::Identity;
use crate::link::{Deadlines, How, Link, LinkEnded, LinkTask, Links};
use crate::socket::{Socket, Sockets};
use crate::transport;

/// Most own events waiting for room at the receiver. Beyond it no command is taken up; what can
/// still come is bounded by the dials and listeners there are.
const BACKLOG_MAX: usize = 64;

/// Most ends of links waiting to be taken note of. Beyond it the link tasks wait.
const LINKS_ENDED_MAX: usize = 64;

/// Addresses of one peer that are tried at the same time: in their order, without one that leads
/// nowhere holding up all that follow.
const ADDRESSES_AT_ONCE: NonZeroU8 = NonZeroU8::new(2).expect("two is not zero");

/// Connections without a use for longer than this are closed, should a stream end unnoticed.
const IDLE_CONNECTION_DEADLINE: Duration = Duration::from_secs(60);

/// What a handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Dial {
        peer: PeerId,
        addresses: Vec<Address>,
    },
    Listen {
        address: Address,
    },
}

/// What a driver is made of.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) config: NetworkConfig,
    pub(crate) protocol: &'static str,
    pub(crate) links: Arc<Links>,
    pub(crate) sockets: Sockets,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) shutdown: watch::Receiver<bool>,
    pub(crate) events: mpsc::Sender<NetworkEvent>,
}

pub(crate) struct Driver {
    swarm: Swarm<Behaviour>,
    connections: HashMap<ConnectionId, Connection>,
    /// Whom the dials under way are for.
    dials: HashMap<ConnectionId, PeerId>,
    listeners: HashMap<ListenerId, Address>,
    /// When to cut connections that are being closed, in order.
    cuts: VecDeque<(Instant, ConnectionId)>,
    tasks: JoinSet<()>,
    links_max: usize,
    last_link: LinkId,
    backlog: VecDeque<NetworkEvent>,
    deadlines: Deadlines,
    close_deadline: Duration,
    links: Arc<Links>,
    sockets: Sockets,
    events: mpsc::Sender<NetworkEvent>,
    ended: mpsc::Sender<LinkEnded>,
    ended_receiver: mpsc::Receiver<LinkEnded>,
    shutdown: watch::Receiver<bool>,
    /// When to stop waiting for connections to close; set once we are shutting down.
    stop_at: Option<Instant>,
    /// Dropped last: its end tells the handles that all is over.
    commands: mpsc::Receiver<Command>,
}

struct Connection {
    peer: PeerId,
    direction: Direction,
    address: String,
    socket: Arc<Socket>,
    stage: Stage,
}

enum Stage {
    /// Waiting for its stream.
    Opening,
    Linked(Arc<Link>),
    /// Nothing more is to be said of it.
    Closing,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Result<Self, noise::Error> {
        let config = parts.config;
        let keypair = parts.identity.keypair();
        let transport = transport::build(
            keypair,
            parts.sockets.clone(),
            config.dns,
            config.connect_deadline,
        )?;
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(config.pending_accepted_max))
            .with_max_pending_outgoing(Some(config.pending_dialed_max))
            .with_max_established_incoming(Some(config.links_accepted_max))
            .with_max_established_outgoing(Some(config.links_dialed_max))
            .with_max_established_per_peer(Some(config.links_per_peer_max));
        let behaviour = Behaviour::new(limits, parts.protocol, config.connect_deadline);
        let swarm_config = libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_CONNECTION_DEADLINE)
            .with_max_negotiating_inbound_streams(2);
        let local = keypair.public().to_peer_id();
        let (ended, ended_receiver) = mpsc::channel(LINKS_ENDED_MAX);
        Ok(Self {
            swarm: Swarm::new(transport, behaviour, local, swarm_config),
            connections: HashMap::new(),
            dials: HashMap::new(),
            listeners: HashMap::new(),
            cuts: VecDeque::new(),
            tasks: JoinSet::new(),
            // As many again as can be connected may wait for a slow receiver to take their end.
            links_max: 2 * (config.links_accepted_max as usize + config.links_dialed_max as usize),
            last_link: LinkId::default(),
            backlog: VecDeque::new(),
            deadlines: Deadlines::from(&config),
            close_deadline: config.close_deadline,
            links: parts.links,
            sockets: parts.sockets,
            events: parts.events,
            ended,
            ended_receiver,
            shutdown: parts.shutdown,
            stop_at: None,
            commands: parts.commands,
        })
    }

    pub(crate) async fn run(mut self) {
        let events = self.events.clone();
        while !self.is_done() {
            let next_cut = self.cuts.front().map(|(at, _)| *at);
            let next_cut = next_cut.into_iter().chain(self.stop_at).min();
            tokio::select! {
                biased;
                Some(ended) = self.ended_receiver.recv() => self.close(ended.connection),
                Some(task) = self.tasks.join_next() => {
                    // A link that panicked is a bug of ours; the network goes down with it. One
                    // that was cancelled went down with the runtime.
                    if let Some(panic) = task.err().and_then(|error| error.try_into_panic().ok()) {
                        std::panic::resume_unwind(panic);
                    }
                }
                permit = events.reserve(), if !self.backlog.is_empty() => match permit {
                    Ok(permit) => permit.send(
                        self.backlog.pop_front().expect("checked not to be empty"),
                    ),
                    Err(_) => self.backlog.clear(),
                },
                () = shutdown_asked(&mut self.shutdown, &events),
                    if self.stop_at.is_none() => self.shut_down(),
                () = sleep_until(next_cut.unwrap_or_else(Instant::now)),
                    if next_cut.is_some() => self.cut_overdue(),
                Some(command) = self.commands.recv(),
                    if self.stop_at.is_none() && self.backlog.len() < BACKLOG_MAX => {
                    match command {
                        Command::Dial { peer, addresses } => self.dial(peer, addresses),
                        Command::Listen { address } => self.listen(address),
                    }
                }
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
            }
        }
        for connection in self.connections.values() {
            connection.socket.cut();
        }
        for link in self.links.all() {
            link.stop(How::Now, LinkDownReason::ShutDown);
        }
        // They still have their last events to deliver.
        self.tasks.detach_all();
        tracing::debug!("network stopped");
    }

    pub(crate) fn listen(&mut self, address: Address) {
        let listener = refuse_shared_port(&address)
            .map_err(TransportError::Other)
            .and_then(|()| self.swarm.listen_on(address.clone().into_multiaddr()));
        match listener {
            Ok(listener) => {
                self.listeners.insert(listener, address);
            }
            Err(error) => {
                let why = match error {
                    TransportError::MultiaddrNotSupported(_) => ListenFailure::Unsupported,
                    TransportError::Other(error) => ListenFailure::Io(root_kind(&error)),
                };
                self.report(NetworkEvent::ListenFailed {
                    address: address.to_string(),
                    why,
                });
            }
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Address>) {
        let to = address::to_libp2p(peer);
        if to == *self.swarm.local_peer_id() {
            return self.report_dial_failed(peer, DialFailure::OwnIdentity);
        }
        let addresses: Vec<_> = addresses.into_iter().map(Address::into_multiaddr).collect();
        let options = DialOpts::peer_id(to)
            .condition(PeerCondition::NotDialing)
            .allocate_new_port()
            .addresses(addresses)
            .override_dial_concurrency_factor(ADDRESSES_AT_ONCE)
            .build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(connection, peer);
            }
            Err(error) => self.report_dial_failed(peer, dial_failure(error)),
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<StreamEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_stream(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let peer = address::to_core(&peer_id).expect("others are denied a connection");
                let direction = if endpoint.is_dialer() {
                    Direction::Dialed
                } else {
                    Direction::Accepted
                };
                let remote = endpoint.get_remote_address();
                // Each connection has a socket of its own there. A peer that manages to confuse
                // the two loses its count, not more.
                let socket = self.sockets.take(&endpoint).unwrap_or_default();
                self.dials.remove(&connection_id);
                self.connections.insert(
                    connection_id,
                    Connection {
                        peer,
                        direction,
                        address: address::bare(remote),
                        socket,
                        stage: Stage::Opening,
                    },
                );
                if self.stop_at.is_some() {
                    self.close(connection_id);
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => self.on_closed(connection_id),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                if let Some(peer) = self.dials.remove(&connection_id) {
                    self.report_dial_failed(peer, dial_failure(error));
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "dropped a connection that was being accepted");
            }
            SwarmEvent::NewListenAddr { address, .. } => self.report(NetworkEvent::Listening {
                address: address::bare(&address),
            }),
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.report(NetworkEvent::ListenFailed {
                    address: address::bare(&address),
                    why: ListenFailure::Gone,
                });
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } => self.on_listener_closed(listener_id, reason),
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "accepting a connection failed");
            }
            _ => {}
        }
    }

    fn on_stream(&mut self, event: StreamEvent) {
        let Some(connection) = self.connections.get(&event.connection) else {
            return;
        };
        if !matches!(connection.stage, Stage::Opening) {
            return;
        }
        match event.outcome {
            Ok(_) if self.tasks.len() >= self.links_max => {
                tracing::warn!("too many links wait for their end to be noticed");
                self.fail_opening(event.connection, DialFailure::LimitReached);
            }
            Ok(stream) => self.start_link(event.connection, stream),
            Err(why) => self.fail_opening(event.connection, why),
        }
    }

    fn start_link(&mut self, id: ConnectionId, stream: Stream) {
        let connection = self.connections.get_mut(&id).expect("found by the caller");
        self.last_link = self.last_link.next();
        let link = Arc::new(Link::new(
            self.last_link,
            connection.peer,
            connection.direction == Direction::Dialed,
            Arc::clone(&connection.socket),
        ));
        connection.stage = Stage::Linked(Arc::clone(&link));
        self.links.insert(Arc::clone(&link));
        let task = LinkTask {
            link,
            links: Arc::clone(&self.links),
            connection: id,
            direction: connection.direction,
            address: connection.address.clone(),
            deadlines: self.deadlines.clone(),
            events: self.events.clone(),
            ended: self.ended.clone(),
        };
        self.tasks.spawn(task.run(stream));
    }

    /// Gives up on a connection that has no link.
    fn fail_opening(&mut self, id: ConnectionId, why: DialFailure) {
        let connection = &self.connections[&id];
        if connection.direction == Direction::Dialed {
            self.report_dial_failed(connection.peer, why);
        } else {
            tracing::debug!(peer = %connection.peer, "an accepted connection came to nothing");
        }
        self.close(id);
    }

    fn on_closed(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        match connection.stage {
            Stage::Linked(link) => {
                let failure = connection.socket.failure();
                let why =
                    failure.map_or(LinkDownReason::ClosedByPeer, LinkDownReason::ConnectionLost);
                // A pending read is not woken by the close itself, so the link must be told.
                link.stop(How::Drain, why);
            }
            Stage::Opening if connection.direction == Direction::Dialed => {
                self.report_dial_failed(connection.peer, DialFailure::Refused);
            }
            Stage::Opening | Stage::Closing => {}
        }
    }

    fn on_listener_closed(&mut self, listener: ListenerId, reason: io::Result<()>) {
        if let Some(address) = self.listeners.remove(&listener) {
            let why = match reason {
                Ok(()) => ListenFailure::Gone,
                Err(error) => ListenFailure::Io(root_kind(&error)),
            };
            self.report(NetworkEvent::ListenFailed {
                address: address.to_string(),
                why,
            });
        }
    }

    /// Closes a connection in good order, and by force if that takes too long.
    fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if !matches!(connection.stage, Stage::Closing) {
            connection.stage = Stage::Closing;
            self.cuts
                .push_back((Instant::now() + self.close_deadline, id));
            self.swarm.close_connection(id);
        }
    }

    fn cut_overdue(&mut self) {
        let now = Instant::now();
        while let Some((_, id)) = self.cuts.pop_front_if(|(at, _)| *at <= now) {
            if let Some(connection) = self.connections.get(&id) {
                tracing::debug!(peer = %connection.peer, "cut a connection that would not close");
                connection.socket.cut();
            }
        }
    }

    fn shut_down(&mut self) {
        // Once to flush the links, once to close their connections.
        self.stop_at = Some(Instant::now() + 2 * self.close_deadline);
        for (listener, _) in self.listeners.drain() {
            self.swarm.remove_listener(listener);
        }
        let opening: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| matches!(connection.stage, Stage::Opening))
            .map(|(id, _)| *id)
            .collect();
        for id in opening {
            self.close(id);
        }
        for link in self.links.all() {
            link.stop(How::Flush, LinkDownReason::ShutDown);
        }
    }

    fn is_done(&self) -> bool {
        self.stop_at
            .is_some_and(|at| self.connections.is_empty() || at <= Instant::now())
    }

    fn report_dial_failed(&mut self, peer: PeerId, why: DialFailure) {
        tracing::debug!(%peer, %why, "dial failed");
        self.report(NetworkEvent::DialFailed { peer, why });
    }

    fn report(&mut self, event: NetworkEvent) {
        self.backlog.push_back(event);
    }
}

/// Resolves when the network is asked to stop or nobody is left to want it. Dropping it loses
/// nothing.
async fn shutdown_asked(shutdown: &mut watch::Receiver<bool>, events: &mpsc::Sender<NetworkEvent>) {
    tokio::select! {
        // An error says that the last handle is gone.
        _ = shutdown.wait_for(|asked| *asked) => {}
        () = events.closed() => {}
    }
}

/// Fails if someone listens at this address already.
///
/// libp2p always shares its ports (`SO_REUSEPORT`): two servers started by mistake would each get
/// some of the connections, and neither would know. Whatever else is wrong with the address is for
/// libp2p to say.
fn refuse_shared_port(address: &Address) -> io::Result<()> {
    let mut address = match address.socket_addr() {
        Some(address) if address.port() != 0 => address,
        _ => return Ok(()),
    };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Unlike libp2p's, this socket would take in IPv4 as well, where we may listen ourselves.
        address.set_ip(Ipv6Addr::LOCALHOST.into());
    }
    match std::net::TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        _ => Ok(()),
    }
}

fn dial_failure(error: DialError) -> DialFailure {
    match error {
        DialError::LocalPeerId { .. } => DialFailure::OwnIdentity,
        DialError::NoAddresses => DialFailure::NoAddress,
        DialError::DialPeerConditionFalse(_) => DialFailure::AlreadyDialing,
        // Only a network that is being dropped aborts a dial.
        DialError::Aborted => DialFailure::TimedOut,
        DialError::WrongPeerId { obtained, .. } => DialFailure::WrongPeer {
            found: address::to_core(&obtained),
        },
        DialError::Denied { .. } => DialFailure::LimitReached,
        DialError::Transport(attempts) => DialFailure::Unreachable {
            attempts: attempts
                .into_iter()
                .map(|(address, error)| {
                    let kind = match error {
                        TransportError::MultiaddrNotSupported(_) => io::ErrorKind::Unsupported,
                        TransportError::Other(error) => root_kind(&error),
                    };
                    (address::bare(&address), kind)
                })
                .collect(),
        },
    }
}

/// The kind of the innermost I/O error: libp2p wraps them, and the wrapping says only `Other`.
fn root_kind(error: &io::Error) -> io::ErrorKind {
    let mut kind = error.kind();
    let mut inner = error
        .get_ref()
        .map(|error| error as &(dyn std::error::Error + 'static));
    while let Some(error) = inner {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() != io::ErrorKind::Other
        {
            kind = error.kind();
        }
        inner = error.source();
    }
    kind
}
