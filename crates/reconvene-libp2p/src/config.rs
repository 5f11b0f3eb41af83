//! What an embedding node may set about its network, and the bounds it starts from.
//!
//! Each constant says what happens at the bound. Frame sizes are not here: they belong to the
//! protocol (`reconvene_core::limits`).

use std::time::Duration;

use reconvene_core::limits;

/// Longest wait for a frame on a link whose peer should at least be sending heartbeats. Past it the
/// link goes down as `Idle`.
pub const IDLE_READ_DEADLINE: Duration = Duration::from_secs(30);

/// Longest wait for a write to make any progress. Past it the link goes down as `WriteStalled`.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// Longest time for connecting, encrypting and agreeing on the protocol, each. Past it a dial fails
/// and an accepted connection is dropped.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Longest time a closing link may take to flush its queue, and then again its connection to
/// say goodbye. Past it the socket is cut.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Most bytes queued for sending on one link, prefixes included. Beyond it a send is refused
/// (`QueueFull`).
pub const SEND_QUEUE_BYTES_MAX: usize = 1024 * 1024;

/// Most events waiting for the embedding node. Beyond it links are not read until it catches up,
/// and no further dial is begun.
pub const EVENTS_MAX: usize = 256;

/// Most connections being accepted at once. A further one is dropped before it is encrypted.
pub const PENDING_ACCEPTED_MAX: u32 = 32;

/// Most dials at once. A further one fails (`LimitReached`).
pub const PENDING_DIALED_MAX: u32 = 16;

/// Most accepted connections. A further one is dropped.
pub const LINKS_ACCEPTED_MAX: u32 = 256;

/// Most dialed connections. A further one fails (`LimitReached`).
pub const LINKS_DIALED_MAX: u32 = 64;

/// Most connections with one peer, in both directions together: one, and one that takes its place.
/// A further one fails or is dropped.
pub const LINKS_PER_PEER_MAX: u32 = 2;

const _: () = assert!(SEND_QUEUE_BYTES_MAX >= 4 * (limits::FRAME_BYTES_MAX + 4));
const _: () = assert!(LINKS_PER_PEER_MAX <= LINKS_ACCEPTED_MAX);
const _: () = assert!(WRITE_DEADLINE.as_millis() < IDLE_READ_DEADLINE.as_millis());

/// The settings of a [`Network`](crate::Network); `NetworkConfig::default()` listens nowhere.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Where to listen from the start, as multiaddrs.
    pub listen: Vec<String>,
    /// Whether host names may be dialed; the resolver is set up only when one is.
    pub dns: bool,
    /// See [`FIRST_FRAME_DEADLINE`](limits::FIRST_FRAME_DEADLINE).
    pub first_frame_deadline: Duration,
    /// See [`IDLE_READ_DEADLINE`].
    pub idle_read_deadline: Duration,
    /// See [`WRITE_DEADLINE`].
    pub write_deadline: Duration,
    /// See [`CONNECT_DEADLINE`].
    pub connect_deadline: Duration,
    /// See [`CLOSE_DEADLINE`].
    pub close_deadline: Duration,
    /// See [`EVENTS_MAX`]; at least 1.
    pub events_max: usize,
    /// See [`PENDING_ACCEPTED_MAX`].
    pub pending_accepted_max: u32,
    /// See [`PENDING_DIALED_MAX`].
    pub pending_dialed_max: u32,
    /// See [`LINKS_ACCEPTED_MAX`].
    pub links_accepted_max: u32,
    /// See [`LINKS_DIALED_MAX`].
    pub links_dialed_max: u32,
    /// See [`LINKS_PER_PEER_MAX`].
    pub links_per_peer_max: u32,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            dns: true,
            first_frame_deadline: limits::FIRST_FRAME_DEADLINE,
            idle_read_deadline: IDLE_READ_DEADLINE,
            write_deadline: WRITE_DEADLINE,
            connect_deadline: CONNECT_DEADLINE,
            close_deadline: CLOSE_DEADLINE,
            events_max: EVENTS_MAX,
            pending_accepted_max: PENDING_ACCEPTED_MAX,
            pending_dialed_max: PENDING_DIALED_MAX,
            links_accepted_max: LINKS_ACCEPTED_MAX,
            links_dialed_max: LINKS_DIALED_MAX,
            links_per_peer_max: LINKS_PER_PEER_MAX,
        }
    }
}
