//! Turns libp2p peers and streams into links and frames.
//!
//! A *link* is one authenticated connection with one long-lived stream of length-delimited frames.
//! [`Network`] dials, listens, sends and closes; [`NetworkEvent`]s say what happened. Whom to dial,
//! whom to admit and what a frame means is decided elsewhere: this crate never looks into a frame,
//! never redials, and lets no libp2p type out.

mod address;
mod config;
mod event;
mod identity;

mod network;

mod behaviour;
mod driver;
mod link;
mod socket;
mod transport;

#[cfg(test)]
mod tests;

pub use address::{AddressError, parse_address, split_peer, with_peer};
pub use config::{
    CLOSE_DEADLINE, CONNECT_DEADLINE, EVENTS_MAX, IDLE_READ_DEADLINE, LINKS_ACCEPTED_MAX,
    LINKS_DIALED_MAX, LINKS_PER_PEER_MAX, NetworkConfig, PENDING_ACCEPTED_MAX, PENDING_DIALED_MAX,
    SEND_QUEUE_BYTES_MAX, WRITE_DEADLINE,
};
pub use event::{
    DialFailure, Direction, LinkDownReason, LinkStats, ListenFailure, NetworkEvent, SocketBytes,
};
pub use identity::{Identity, IdentityError, load_or_create_identity};
pub use network::{CommandError, Network, NetworkError, SendError};
