//! Addresses as text: multiaddrs of a TCP endpoint, with or without the peer expected there.
//!
//! Checked here once; the rest of the crate never meets an address it could not dial.

use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use reconvene_core::ids::PeerId;

/// A text that is not an address we can dial or listen at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not a multiaddr at all.
    #[error("`{text}` is not a multiaddr such as /ip4/192.0.2.1/tcp/4001")]
    Malformed {
        /// The text, shortened.
        text: String,
    },
    /// A multiaddr, but not of the form host, then TCP port, then at most a peer.
    #[error("`{text}` is not of the form /ip4|ip6|dns|dns4|dns6/../tcp/../[p2p/..]")]
    Unsupported {
        /// The text, shortened.
        text: String,
    },
    /// The peer it names has no Ed25519 key.
    #[error("`{text}` names a peer without an Ed25519 key")]
    ForeignPeer {
        /// The text, shortened.
        text: String,
    },
    /// It names another peer than the one it was given for.
    #[error("the address names {found}, not {expected}")]
    OtherPeer {
        /// The peer it was given for.
        expected: PeerId,
        /// The peer it names.
        found: PeerId,
    },
}

/// Checks an address and returns it in its one canonical spelling.
///
/// Understood are `/ip4`, `/ip6`, `/dns`, `/dns4` and `/dns6` hosts, followed by `/tcp/<port>` and
/// optionally `/p2p/<peer>`.
pub fn parse_address(text: &str) -> Result<String, AddressError> {
    let (address, peer) = Address::parse(text)?;
    Ok(match peer {
        Some(peer) => address.with_peer(peer).to_string(),
        None => address.to_string(),
    })
}

/// Appends `/p2p/<peer>` to an address that names no peer, or already this one.
pub fn with_peer(text: &str, peer: PeerId) -> Result<String, AddressError> {
    let address = Address::parse_for(text, peer)?;
    Ok(address.with_peer(peer).to_string())
}

/// Splits an address into where it points and whom it expects there.
pub fn split_peer(text: &str) -> Result<(String, Option<PeerId>), AddressError> {
    let (address, peer) = Address::parse(text)?;
    Ok((address.to_string(), peer))
}

/// A checked address, without a peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address(Multiaddr);

impl Address {
    pub(crate) fn parse(text: &str) -> Result<(Self, Option<PeerId>), AddressError> {
        let shortened = || text.chars().take(120).collect::<String>();
        let mut address: Multiaddr = text
            .parse()
            .map_err(|_| AddressError::Malformed { text: shortened() })?;
        let mut peer = None;
        if let Some(Protocol::P2p(named)) = address.iter().last() {
            peer = Some(
                to_core(&named).ok_or_else(|| AddressError::ForeignPeer { text: shortened() })?,
            );
            address.pop();
        }
        let mut parts = address.iter();
        let host = matches!(
            parts.next(),
            Some(
                Protocol::Ip4(_)
                    | Protocol::Ip6(_)
                    | Protocol::Dns(_)
                    | Protocol::Dns4(_)
                    | Protocol::Dns6(_)
            )
        );
        let port = matches!(parts.next(), Some(Protocol::Tcp(_)));
        if host && port && parts.next().is_none() {
            Ok((Self(address), peer))
        } else {
            Err(AddressError::Unsupported { text: shortened() })
        }
    }

    /// Parses an address meant for `expected`, which may or may not say so.
    pub(crate) fn parse_for(text: &str, expected: PeerId) -> Result<Self, AddressError> {
        match Self::parse(text)? {
            (_, Some(found)) if found != expected => {
                Err(AddressError::OtherPeer { expected, found })
            }
            (address, _) => Ok(address),
        }
    }

    /// The endpoint, if it is given by number.
    pub(crate) fn socket_addr(&self) -> Option<SocketAddr> {
        let mut parts = self.0.iter();
        let ip = match parts.next()? {
            Protocol::Ip4(ip) => IpAddr::from(ip),
            Protocol::Ip6(ip) => IpAddr::from(ip),
            _ => return None,
        };
        match parts.next()? {
            Protocol::Tcp(port) => Some((ip, port).into()),
            _ => None,
        }
    }

    pub(crate) fn into_multiaddr(self) -> Multiaddr {
        self.0
    }

    fn with_peer(self, peer: PeerId) -> Multiaddr {
        self.0.with(Protocol::P2p(to_libp2p(peer)))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The text of an address libp2p gave us, without the peer it may name.
pub(crate) fn bare(address: &Multiaddr) -> String {
    let mut address = address.clone();
    if let Some(Protocol::P2p(_)) = address.iter().last() {
        address.pop();
    }
    address.to_string()
}

pub(crate) fn to_core(peer: &libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_multihash(&peer.to_bytes())
}

pub(crate) fn to_libp2p(peer: PeerId) -> libp2p::PeerId {
    libp2p::PeerId::from_bytes(&peer.to_multihash())
        .expect("an identity multihash of 36 bytes is a libp2p peer id")
}
