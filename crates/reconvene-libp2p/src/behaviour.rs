//! Our part inside libp2p: one stream per connection, opened by the dialer, handed out once.
//!
//! It holds no link and reads no byte; it only says that the stream is there, or why not.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Future;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, StreamUpgradeError, SubstreamProtocol, THandlerInEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol, connection_limits};

use crate::address;
use crate::event::{DialFailure, Direction};

/// The protocol a link speaks; its version is that of the framing.
pub(crate) const SYNC_PROTOCOL: &str = "/reconvene/sync/1";

/// Everything a connection passes before it exists: the limits first, then us.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "StreamEvent")]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    streams: Streams,
}

impl Behaviour {
    pub(crate) fn new(
        limits: connection_limits::ConnectionLimits,
        protocol: &'static str,
        deadline: Duration,
    ) -> Self {
        Self {
            limits: connection_limits::Behaviour::new(limits),
            streams: Streams {
                protocol: StreamProtocol::new(protocol),
                deadline,
                events: VecDeque::new(),
            },
        }
    }
}

/// What became of the stream of a connection; one per connection.
#[derive(Debug)]
pub(crate) struct StreamEvent {
    pub(crate) connection: ConnectionId,
    pub(crate) outcome: Outcome,
}

impl From<Infallible> for StreamEvent {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The stream, or why a dial led to none. An accepted connection without one says `TimedOut`.
pub(crate) type Outcome = Result<Stream, DialFailure>;

/// Gives every connection its handler and passes on what the handlers report.
pub(crate) struct Streams {
    protocol: StreamProtocol,
    deadline: Duration,
    events: VecDeque<StreamEvent>,
}

impl Streams {
    fn handler(&self, peer: &PeerId, direction: Direction) -> Result<Handler, ConnectionDenied> {
        // Noise lets only Ed25519 keys through as we build it; this keeps the fact in one place.
        if address::to_core(peer).is_none() {
            return Err(ConnectionDenied::new("not an Ed25519 identity"));
        }
        Ok(Handler::new(
            self.protocol.clone(),
            direction,
            self.deadline,
        ))
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = StreamEvent;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(&peer, Direction::Accepted)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.handler(&peer, Direction::Dialed)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        connection: ConnectionId,
        outcome: Outcome,
    ) {
        self.events.push_back(StreamEvent {
            connection,
            outcome,
        });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<StreamEvent, THandlerInEvent<Self>>> {
        // The swarm polls again after every handler event, so no waker is needed.
        self.events.pop_front().map_or(Poll::Pending, |event| {
            Poll::Ready(ToSwarm::GenerateEvent(event))
        })
    }
}

/// Opens or awaits the one stream of a connection.
pub(crate) struct Handler {
    protocol: StreamProtocol,
    direction: Direction,
    deadline: Duration,
    progress: Progress,
}

enum Progress {
    /// A dialer that has not asked for the stream yet.
    ToOpen,
    /// The stream is being agreed on, until the deadline.
    Opening(Pin<Box<tokio::time::Sleep>>),
    /// The outcome is known and must be reported.
    Known(Box<Outcome>),
    /// The outcome was reported; every further stream is refused.
    Reported,
}

impl Handler {
    fn new(protocol: StreamProtocol, direction: Direction, deadline: Duration) -> Self {
        let progress = match direction {
            Direction::Dialed => Progress::ToOpen,
            Direction::Accepted => Progress::Opening(Box::pin(tokio::time::sleep(deadline))),
        };
        Self {
            protocol,
            direction,
            deadline,
            progress,
        }
    }

    /// Takes the first outcome; what comes later is dropped, which resets a stream.
    fn conclude(&mut self, outcome: Outcome) {
        if matches!(self.progress, Progress::ToOpen | Progress::Opening(_)) {
            self.progress = Progress::Known(Box::new(outcome));
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Outcome;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
            .with_timeout(self.deadline)
    }

    /// Until the outcome is known the deadline here decides; after that the open stream keeps the
    /// connection alive.
    fn connection_keep_alive(&self) -> bool {
        !matches!(self.progress, Progress::Reported)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Outcome>> {
        if let Progress::ToOpen = self.progress {
            self.progress = Progress::Opening(Box::pin(tokio::time::sleep(self.deadline)));
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: self.listen_protocol(),
            });
        }
        if let Progress::Opening(deadline) = &mut self.progress
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.conclude(Err(DialFailure::TimedOut));
        }
        if !matches!(self.progress, Progress::Known(_)) {
            return Poll::Pending;
        }
        match std::mem::replace(&mut self.progress, Progress::Reported) {
            Progress::Known(outcome) => {
                Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(*outcome))
            }
            _ => unreachable!("checked just above"),
        }
    }

    fn on_behaviour_event(&mut self, never: Infallible) {
        match never {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match (event, self.direction) {
            (
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                    protocol: stream,
                    ..
                }),
                Direction::Accepted,
            )
            | (
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                    protocol: stream,
                    ..
                }),
                Direction::Dialed,
            ) => self.conclude(Ok(stream)),
            (ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }), _) => {
                self.conclude(Err(match error {
                    StreamUpgradeError::NegotiationFailed => DialFailure::ProtocolUnsupported,
                    StreamUpgradeError::Timeout => DialFailure::TimedOut,
                    StreamUpgradeError::Io(_) => DialFailure::Refused,
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            // A stream opened by the side that accepted the connection is dropped here: refused.
            _ => {}
        }
    }
}
