//! Bounds of the node's queues, batches and paces. What happens at a bound stands with it.

use std::time::Duration;

/// Events that a reader of [`Events`](crate::Events) may be behind. Past it the oldest are dropped for
/// that reader, which is told how many ([`ReplicaEvent::Lagged`](crate::ReplicaEvent::Lagged)).
pub const EVENTS_MAX: usize = 1024;

/// Most rows of one batch of a live query. A larger result comes in several batches, of which the
/// last is [`complete`](crate::QueryBatch::complete).
pub const QUERY_BATCH_ROWS_MAX: usize = 1000;

/// Most rows that a live query keeps marked as changed for a reader that does not come. Past it the
/// marks give way to one: the reader's next batches come from comparing the whole index.
pub const QUERY_MARKS_MAX: usize = 4096;

/// Most entries of the feed that [`FeedWatch::next`](crate::FeedWatch::next) looks at; the rest comes with the
/// next call.
pub const CHANGES_ENTRIES_MAX: usize = 512;

/// Most segments that [`Meetings::append_segments`](crate::Meetings::append_segments) takes at a time.
/// More are refused.
pub const APPEND_SEGMENTS_MAX: usize = 500;

/// Most workspaces of an archive. One that names more is refused.
pub const ARCHIVE_WORKSPACES_MAX: usize = 10_000;

/// How long a deleted meeting can be restored before it is purged by itself.
pub const DELETED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often it is looked for deleted meetings to be purged.
pub const PURGE_EVERY: Duration = Duration::from_secs(3600);

/// How long a purge waits for the index to move on while that is behind what is stored. Then the purge
/// fails and has purged nothing.
pub const PURGE_INDEX_WAIT: Duration = Duration::from_secs(30);

/// Longest text of a filter, in bytes. A longer one is refused.
pub const FILTER_TEXT_BYTES_MAX: usize = 1024;

/// Most tags of a filter. More are refused.
pub const FILTER_TAGS_MAX: usize = 64;

/// Most rows that one page of a filtered list looks at. Then the page ends, with fewer meetings than
/// asked for, and says where the next one begins.
pub const LIST_SCAN_ROWS_MAX: usize = 20_000;

/// What bringing one batch of remote changes into open documents and rows should take: the next
/// batch is cut to what the last one says fits.
pub const APPLY_COST_TARGET: Duration = Duration::from_millis(100);

/// Fewest and most documents of such a batch.
pub const APPLY_DOCUMENTS_MIN: usize = 8;
/// See [`APPLY_DOCUMENTS_MIN`].
pub const APPLY_DOCUMENTS_MAX: usize = 256;

/// Longest time that remote changes are gathered after a batch, however much that one cost. They are
/// applied then, so what others type is shown at most this much later than it could be.
pub const GATHER_MAX: Duration = Duration::from_millis(250);

/// Memory that open documents take, about, beyond which the least recently used are closed, in bytes.
/// Those in use stay. Another bound can be set with
/// [`OpenOptions::open_bytes_max`](crate::OpenOptions::open_bytes_max).
pub const OPEN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most documents that are kept open, however small.
pub const OPEN_DOCUMENTS_MAX: usize = 4096;

/// Most remote changes that are noted for one open document while nobody uses it. Past it the
/// document is closed, and read anew when it is used.
pub const NOTED_CHANGES_MAX: usize = 4096;

/// Most transcript pages whose meeting the indexer remembers. Past it all are forgotten and learned
/// again.
pub const PAGES_KNOWN_MAX: usize = 4096;

/// How long lists of commands, inbox entries, integrations and runs wait for the index while that is
/// behind what is stored and does not move. Then they show what it has.
pub const ROWS_INDEX_WAIT: Duration = Duration::from_secs(5);

/// How long live queries wait, at most, while a workspace catches up with a server that is back, so that
/// they can tell what changed meanwhile in one batch.
pub const CATCH_UP_HOLD: Duration = Duration::from_millis(500);

/// Most meetings that [`ReplicaEvent::CaughtUp`](crate::ReplicaEvent::CaughtUp) names; it counts all.
pub const CAUGHT_UP_MEETINGS_MAX: usize = 1000;

/// Most entries of a feed that are counted of what a peer is owed. Where there are more, the count
/// says that it is a least one.
pub const PENDING_ENTRIES_MAX: usize = 20_000;

/// Shortest time between two items of a [`PendingWatch`](crate::PendingWatch).
pub const PENDING_PACE: Duration = Duration::from_millis(250);

/// How soon a followed sync run is looked at again without a push, and how long that grows at most.
pub const RUN_POLL_MIN: Duration = Duration::from_millis(500);
/// See [`RUN_POLL_MIN`].
pub const RUN_POLL_MAX: Duration = Duration::from_secs(30);

/// Most feed entries that are looked at at a time for meetings that changed. Past it the rest comes
/// with the next look.
pub const CHANGED_ENTRIES_MAX: usize = 1024;

/// Most commands of one member that wait for their outcome in one workspace, as far as they are known
/// here. A further one is not issued ([`Error::TooManyCommands`](crate::Error::TooManyCommands)).
pub const COMMANDS_WAITING_MAX: usize = 256;

pub use reconvene_core::limits::WORKSPACE_DOCUMENTS_DEFAULT;

/// How long commands are kept after their outcome, and resolved inbox entries and removed integrations
/// after that. Then the server purges them.
pub const ENDED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Most open inbox entries about what documents show: conflicts, deletions without effect, damage. What
/// else is found is counted in one entry per workspace, and filed as others are resolved.
pub const FINDINGS_OPEN_MAX: usize = 256;

/// Most documents that wait to be filed. Past it a document is left out until there is room.
pub const FINDINGS_WAITING_MAX: usize = 1024;

/// Most documents of a workspace that are remembered as left out. Past it the count says that it is a
/// least one.
pub const FINDINGS_LEFT_OUT_MAX: usize = 10_000;

/// Most inbox entries that are written in one batch.
pub const FINDINGS_TOGETHER_MAX: usize = 32;

/// Shortest time between two counts of what is left out.
pub const FINDINGS_COUNT_PACE: Duration = Duration::from_secs(5);

/// How long an index that was rebuilt waits for what was found on the way to be filed, before it is
/// said to be whole.
pub const FINDINGS_WAIT: Duration = Duration::from_secs(5);

const _: () = assert!(FINDINGS_TOGETHER_MAX <= FINDINGS_OPEN_MAX);
const _: () = assert!(RUN_POLL_MIN.as_millis() <= RUN_POLL_MAX.as_millis());
const _: () = assert!(APPLY_DOCUMENTS_MIN <= APPLY_DOCUMENTS_MAX);
const _: () = assert!(QUERY_BATCH_ROWS_MAX <= QUERY_MARKS_MAX);
const _: () = assert!(QUERY_BATCH_ROWS_MAX <= LIST_SCAN_ROWS_MAX);
