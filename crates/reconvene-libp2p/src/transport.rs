//! The stack under a connection: TCP, counted and cuttable, then Noise, then Yamux.
//!
//! Host names are resolved only when one is dialed: IP addresses must work on a machine without a
//! resolver configuration, and one that roams must see the configuration of the moment.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::{TransportTimeout, TransportTimeoutError};
use libp2p::core::transport::{
    Boxed, DialOpts, ListenerId, OptionalTransport, TransportError, TransportEvent,
};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Transport, dns, noise, tcp, yamux};

use crate::socket::Sockets;

/// Most streams a peer may have open on one connection; more break the connection. We use one, and
/// refuse a second one before it does harm.
const STREAMS_PER_CONNECTION_MAX: usize = 8;

type Tcp = tcp::tokio::Transport;
type TcpStream = <Tcp as Transport>::Output;

/// Builds the stack; fails only if the key cannot sign the Noise handshake.
pub(crate) fn build(
    keypair: &Keypair,
    sockets: Sockets,
    dns: bool,
    deadline: Duration,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let names = if dns {
        OptionalTransport::some(NamesOnDemand)
    } else {
        OptionalTransport::none()
    };
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
    let transport = Tcp::new(tcp_config())
        .or_transport(names)
        .map_err(|error| SocketError(error.into_inner()))
        .map(move |stream, endpoint| sockets.wrap(stream, endpoint))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair)?)
        .multiplex(yamux)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let transport = TransportTimeout::new(transport, deadline).map_err(|error| match error {
        TransportTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
        error => io::Error::other(error),
    });
    Ok(transport.boxed())
}

/// What the system said of a socket. The layers above hide the error they hold and show only its
/// source, so the source must be the system's.
#[derive(Debug, thiserror::Error)]
#[error("the socket failed")]
struct SocketError(#[source] io::Error);

fn tcp_config() -> tcp::Config {
    tcp::Config::default().nodelay(true)
}

/// Dials host names, with a resolver made for each dial. It does not listen.
struct NamesOnDemand;

impl Transport for NamesOnDemand {
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = std::future::Pending<io::Result<TcpStream>>;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(
        &mut self,
        _: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        if !matches!(
            address.iter().next(),
            Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))
        ) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        // Nothing happens before the future is polled, so the configuration is read then.
        Ok(async move {
            let unresolved = |error| io::Error::new(io::ErrorKind::HostUnreachable, error);
            let mut resolver =
                dns::tokio::Transport::system(Tcp::new(tcp_config())).map_err(unresolved)?;
            let dial = resolver.dial(address, options).map_err(io::Error::other)?;
            dial.await
                .map_err(|error| unresolved(io::Error::other(error)))
        }
        .boxed())
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}
