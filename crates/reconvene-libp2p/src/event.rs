//! What the network reports: plain values, no handle into it.

use std::io;

use bytes::Bytes;
use reconvene_core::ids::{LinkId, PeerId};

/// Something that happened on the network.
///
/// Of one link, `LinkUp` comes first, then its frames in order, then `LinkDown` exactly once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// We accept connections at this address, a multiaddr without a peer id.
    Listening {
        /// The address with the port that was actually bound.
        address: String,
    },
    /// We do not, or no longer, accept connections at this address.
    ListenFailed {
        /// The address, as it was asked for or last reported.
        address: String,
        /// What went wrong.
        why: ListenFailure,
    },
    /// A link is ready to carry frames.
    LinkUp {
        /// Names the link from here on; never reused by this network.
        link: LinkId,
        /// The authenticated peer at the other end.
        peer: PeerId,
        /// Who opened it. Dialed links are admitted from the start.
        direction: Direction,
        /// The peer's address as seen from here, a multiaddr without a peer id.
        address: String,
    },
    /// A whole frame arrived.
    FrameArrived {
        /// The link it came on.
        link: LinkId,
        /// Its body, without the length prefix; never empty.
        frame: Bytes,
    },
    /// A link is gone. Frames that were still queued for it may or may not have arrived.
    LinkDown {
        /// The link.
        link: LinkId,
        /// Why it ended.
        why: LinkDownReason,
        /// What it carried in its life.
        stats: LinkStats,
    },
    /// A dial did not lead to a link.
    DialFailed {
        /// The peer that was to be reached.
        peer: PeerId,
        /// Why it was not.
        why: DialFailure,
    },
}

/// Which side opened a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// We dialed.
    Dialed,
    /// The peer dialed.
    Accepted,
}

/// Why a link went down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkDownReason {
    /// `Network::close` was called.
    #[error("closed here")]
    ClosedHere,
    /// `Network::shutdown` was called, or its last handle or its event receiver was dropped.
    #[error("the network was shut down")]
    ShutDown,
    /// The peer ended the stream or the connection between two frames.
    #[error("closed by the peer")]
    ClosedByPeer,
    /// The connection broke.
    #[error("connection lost: {0}")]
    ConnectionLost(io::ErrorKind),
    /// No frame arrived within the idle deadline.
    #[error("nothing heard from the peer")]
    Idle,
    /// A write made no progress within its deadline.
    #[error("the peer does not read")]
    WriteStalled,
    /// A peer that is not admitted did not send its first frame in time.
    #[error("no first frame in time")]
    FirstFrameLate,
    /// A peer that is not admitted announced a first frame over the limit.
    #[error("first frame of {bytes} bytes from a peer that is not admitted")]
    FirstFrameTooLong {
        /// The announced length.
        bytes: u32,
    },
    /// The link was neither admitted nor closed in time after its first frame.
    #[error("not admitted in time")]
    NotAdmitted,
    /// The peer announced a frame over the limit.
    #[error("frame of {bytes} bytes")]
    FrameTooLong {
        /// The announced length.
        bytes: u32,
    },
    /// The peer announced a frame of no bytes.
    #[error("empty frame")]
    FrameEmpty,
}

/// Why a dial did not lead to a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialFailure {
    /// No usable address was given; our own listening addresses are not.
    #[error("no address to dial")]
    NoAddress,
    /// A dial to this peer is under way.
    #[error("already dialing")]
    AlreadyDialing,
    /// The peer to dial is ourselves.
    #[error("that is ourselves")]
    OwnIdentity,
    /// Someone else answered at the address.
    #[error("another peer answered")]
    WrongPeer {
        /// Who it was, if it has an identity of our kind.
        found: Option<PeerId>,
    },
    /// No address could be reached.
    #[error("unreachable at {} address(es)", attempts.len())]
    Unreachable {
        /// Each address tried, with what went wrong there.
        attempts: Vec<(String, io::ErrorKind)>,
    },
    /// A limit on our own connections is reached.
    #[error("our limit on connections is reached")]
    LimitReached,
    /// The peer was reached but does not speak our protocol.
    #[error("the peer does not speak our protocol")]
    ProtocolUnsupported,
    /// The peer was reached but closed the connection before there was a link; so it does when a
    /// limit of its own is reached.
    #[error("the peer closed the connection at once")]
    Refused,
    /// The peer was reached but did not agree on a protocol in time.
    #[error("the peer did not answer in time")]
    TimedOut,
}

/// Why we are not listening at an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListenFailure {
    /// One cannot listen at addresses of this kind, such as host names.
    #[error("not an address to listen at")]
    Unsupported,
    /// The system refused.
    #[error("cannot listen: {0}")]
    Io(io::ErrorKind),
    /// The listener or its network interface went away.
    #[error("no longer listening")]
    Gone,
}

/// What a link has carried so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Frames handed to the stream.
    pub frames_sent: u64,
    /// Whole frames read.
    pub frames_received: u64,
    /// Bytes of the frames sent, with their 4-byte prefixes.
    pub frame_bytes_sent: u64,
    /// Bytes of the frames received, with their 4-byte prefixes.
    pub frame_bytes_received: u64,
    /// Bytes written to the connection's socket since it was opened.
    pub socket_bytes_sent: u64,
    /// Bytes read from the connection's socket since it was opened.
    pub socket_bytes_received: u64,
}

/// Bytes on all sockets of a network together, failed connections included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketBytes {
    /// Bytes written.
    pub sent: u64,
    /// Bytes read.
    pub received: u64,
}
