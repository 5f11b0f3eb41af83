//! Bounds of the API and of the metrics. What happens at a bound stands with it.

use std::time::Duration;

/// Longest message that is taken, in bytes. A longer one is refused as `OUT_OF_RANGE` by the gRPC layer
/// before it is read.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest message that is sent, in bytes. A longer answer is refused as `OUT_OF_RANGE`; ask for the
/// meeting without its transcript, or for smaller pages.
pub const RESPONSE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Calls in flight on one connection; further ones wait in the client.
pub const CONNECTION_CALLS_MAX: u32 = 128;

/// Calls in flight, streams aside, over all connections, unless set otherwise. Further ones are refused
/// as `RESOURCE_EXHAUSTED`.
pub const CALLS_DEFAULT: usize = 1024;

/// Streams of events and of segments that are open at a time, over all connections. Further ones are
/// refused as `RESOURCE_EXHAUSTED`.
pub const STREAMS_MAX: usize = 256;

/// Most integrations and sync runs of which a watch remembers what it told last. Past it all are
/// forgotten: what is kept of an integration is then told again when it changes, and of a run that
/// expires only that its integration does not name it any more.
pub const WATCH_REMEMBERED_MAX: usize = 4096;

/// Most ids of differing segments that an answer names; further ones are only counted as present.
pub const DIFFERING_IDS_MAX: usize = 1000;

/// How long a call that issues a command waits for its outcome, unless the request says otherwise.
/// Then it answers with the command's id alone.
pub const COMMAND_WAIT_DEFAULT: Duration = Duration::from_secs(5);

/// Longest such wait that a request may ask for. A longer one is refused.
pub const COMMAND_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a connection may be silent before it is asked whether it is alive.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

/// How long it may take to answer that, before it is closed.
pub const KEEPALIVE_WAIT: Duration = Duration::from_secs(20);

/// How long calls in flight may take to end when the server stops; then they are cut.
pub const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Longest file that is read for a token, in bytes.
pub const TOKEN_FILE_BYTES_MAX: u64 = 1024;

/// Most series of one metric that is told per workspace or per peer. Further ones are left out, and
/// `reconvene_series_omitted` counts them.
pub const SERIES_MAX: usize = 1000;

/// Feed entries by which an index may be behind for the server to count as ready.
pub const READY_ENTRIES_BEHIND_MAX: u64 = 512;

/// How long collecting the state for an answer over HTTP may take. Then the answer is 503.
pub const COLLECT_DEADLINE: Duration = Duration::from_secs(5);

const _: () = assert!(reconvene::LIST_LIMIT_MAX <= u32::MAX as usize);
