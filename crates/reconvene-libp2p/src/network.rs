//! The handle: what an embedding node asks of the network.
//!
//! Nothing here waits for the network; what comes of a request arrives as an event.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use libp2p::noise;
use reconvene_core::ids::{LinkId, PeerId};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::address::{Address, AddressError};
use crate::behaviour::SYNC_PROTOCOL;
use crate::config::NetworkConfig;
use crate::driver::{Command, Driver};
use crate::event::{LinkDownReason, LinkStats, NetworkEvent, SocketBytes};
use crate::identity::Identity;
use crate::link::{How, Links};
use crate::socket::Sockets;

/// Most dials and listens waiting to be begun. Beyond it they are refused (`Busy`).
const COMMANDS_MAX: usize = 256;

/// A handle to a running network; clones are handles to the same one.
///
/// When the last one is dropped the network shuts down.
#[derive(Clone, Debug)]
pub struct Network {
    peer_id: PeerId,
    links: Arc<Links>,
    sockets: Sockets,
    commands: mpsc::Sender<Command>,
    shutdown: watch::Sender<bool>,
}

/// Why a network did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// An address to listen at cannot be one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It was not started within a Tokio runtime.
    #[error("a network starts only within a Tokio runtime")]
    NoRuntime,
    /// The identity cannot authenticate connections.
    #[error("the identity cannot sign a handshake")]
    Handshake {
        /// What the handshake said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a dial or listen was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// An address is not one.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Too many are waiting already.
    #[error("too many requests to the network are waiting")]
    Busy,
    /// The network has been shut down.
    #[error("the network has been shut down")]
    Stopped,
}

/// Why a frame was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The link's queue has no room for it; the peer reads too slowly.
    #[error("the link's queue is full")]
    QueueFull,
    /// The link is closing or gone.
    #[error("the link is closed")]
    Closed,
    /// No peer would accept a frame of this size.
    #[error("a frame of {bytes} bytes cannot be sent")]
    FrameSize {
        /// Its size without the prefix.
        bytes: usize,
    },
}

impl Network {
    /// Starts a network of this identity; its events come out of the receiver.
    ///
    /// The receiver must be drained: links are not read while it is full, and the network shuts
    /// down when it is dropped.
    pub fn start(
        identity: Identity,
        config: NetworkConfig,
    ) -> Result<(Self, mpsc::Receiver<NetworkEvent>), NetworkError> {
        Self::start_speaking(identity, config, SYNC_PROTOCOL)
    }

    pub(crate) fn start_speaking(
        identity: Identity,
        config: NetworkConfig,
        protocol: &'static str,
    ) -> Result<(Self, mpsc::Receiver<NetworkEvent>), NetworkError> {
        let runtime = Handle::try_current().map_err(|_| NetworkError::NoRuntime)?;
        let listen = config
            .listen
            .iter()
            .map(|address| Ok(Address::parse_for(address, identity.peer_id())?))
            .collect::<Result<VecDeque<_>, NetworkError>>()?;
        let links = Arc::<Links>::default();
        let sockets = Sockets::default();
        let (commands, command_receiver) = mpsc::channel(COMMANDS_MAX);
        let (shutdown, shutdown_receiver) = watch::channel(false);
        let (events, event_receiver) = mpsc::channel(config.events_max.max(1));
        let peer_id = identity.peer_id();
        let mut driver = Driver::new(crate::driver::Parts {
            identity,
            config,
            protocol,
            links: Arc::clone(&links),
            sockets: sockets.clone(),
            commands: command_receiver,
            shutdown: shutdown_receiver,
            events,
        })
        .map_err(|error: noise::Error| NetworkError::Handshake {
            source: Box::new(error),
        })?;
        for address in listen {
            driver.listen(address);
        }
        runtime.spawn(driver.run());
        let network = Self {
            peer_id,
            links,
            sockets,
            commands,
            shutdown,
        };
        Ok((network, event_receiver))
    }

    /// The identity peers see.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Dials a peer at these addresses and accepts nobody else there.
    ///
    /// Answered by one `LinkUp` or one `DialFailed`, unless the network is shut down before.
    pub fn dial(&self, peer: PeerId, addresses: Vec<String>) -> Result<(), CommandError> {
        let addresses = addresses
            .iter()
            .map(|address| Address::parse_for(address, peer))
            .collect::<Result<Vec<_>, _>>()?;
        self.command(Command::Dial { peer, addresses })
    }

    /// Accepts connections at this address, answered by `Listening` for each address that this
    /// comes to, or by `ListenFailed`.
    pub fn listen(&self, address: &str) -> Result<(), CommandError> {
        let address = Address::parse_for(address, self.peer_id)?;
        self.command(Command::Listen { address })
    }

    /// Queues a frame on a link.
    ///
    /// Frames of a link arrive in the order of their sending. That one was queued does not say
    /// that it arrives.
    pub fn send(&self, link: LinkId, frame: Bytes) -> Result<(), SendError> {
        let link = self.links.get(link).ok_or(SendError::Closed)?;
        link.send(frame)
    }

    /// Lets the peer of an accepted link send frames of full size, and more than one.
    ///
    /// Until then only one frame of `FIRST_FRAME_BYTES_MAX` bytes is taken, and a longer one closes
    /// the link. Does nothing if the link is gone.
    pub fn admit(&self, link: LinkId) {
        if let Some(link) = self.links.get(link) {
            link.admit();
        }
    }

    /// Closes a link: at once, or after what is queued has been written and taken by the peer,
    /// which may take until the close deadline.
    ///
    /// From here on nothing more can be sent on it and no frame that is read later is delivered.
    /// Answered by `LinkDown`. Does nothing if the link is gone.
    pub fn close(&self, link: LinkId, after_flush: bool) {
        let how = if after_flush { How::Flush } else { How::Now };
        if let Some(link) = self.links.get(link) {
            link.stop(how, LinkDownReason::ClosedHere);
        }
    }

    /// What a link has carried so far; `None` once it is down, when `LinkDown` says it.
    pub fn link_stats(&self, link: LinkId) -> Option<LinkStats> {
        self.links.get(link).map(|link| link.stats())
    }

    /// What all sockets together have carried so far.
    pub fn socket_bytes(&self) -> SocketBytes {
        self.sockets.bytes()
    }

    /// Closes all links after their queues are flushed, stops listening, and resolves when all
    /// connections are gone, at the latest after twice the close deadline.
    ///
    /// Events that are due stay in the receiver, a `LinkDown` for every link among them. Dropping
    /// this midway loses nothing: the shutdown goes on, and another call waits for the same one.
    pub async fn shutdown(&self) {
        self.shutdown.send_replace(true);
        self.commands.closed().await;
    }

    #[cfg(test)]
    pub(crate) fn sockets_waiting(&self) -> usize {
        self.sockets.waiting_count()
    }

    fn command(&self, command: Command) -> Result<(), CommandError> {
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => CommandError::Busy,
                mpsc::error::TrySendError::Closed(_) => CommandError::Stopped,
            })
    }
}
