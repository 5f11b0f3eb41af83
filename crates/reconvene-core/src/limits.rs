//! Every bound of the engine, its frames and its records, with the relations between them.
//!
//! Each constant says what happens at the bound. Changing one changes the protocol only where the
//! text says so.

use std::time::Duration;

/// Largest frame body, without its length prefix. A longer one closes the link as a fault.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Largest first frame of a peer that is not admitted yet. A longer one closes the link.
pub const FIRST_FRAME_BYTES_MAX: usize = 1024;

/// Time a peer that is not admitted has to say who it is. Past it the link is closed.
pub const FIRST_FRAME_DEADLINE: Duration = Duration::from_secs(5);

/// Largest change as stored and sent. A larger one is refused (`TooLarge`), local ones before they
/// are committed.
pub const CHANGE_BYTES_MAX: usize = 256 * 1024;

/// Largest inflated change. Inflation stops there and the change is refused (`TooLarge`).
pub const CHANGE_INFLATED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Inflated sizes up to this are never refused for their ratio.
pub const CHANGE_INFLATE_RATIO_FLOOR: usize = 64 * 1024;

/// Largest ratio of inflated to stored size above [`CHANGE_INFLATE_RATIO_FLOOR`]; beyond it the
/// change is refused (`Damaged`).
pub const CHANGE_INFLATE_RATIO_MAX: usize = 200;

/// Most dependencies of one change, and most heads of one document. Beyond it the change is
/// refused (`Damaged`).
pub const DEPENDENCIES_MAX: usize = 256;

/// Most other actors one change may name. Beyond it the change is refused (`Damaged`).
pub const OTHER_ACTORS_MAX: usize = 256;

/// Longest actor id. Beyond it the change is refused (`Damaged`).
pub const ACTOR_BYTES_MAX: usize = 64;

/// Longest message of a change. Beyond it the change is refused (`Damaged`).
pub const CHANGE_MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// Most operations of one change; Automerge takes some 450 bytes for each while it applies the
/// change, and 16 stored bytes can stand for any number. The model cuts longer edits. Beyond it the
/// change is refused (`TooLarge`).
pub const OPERATIONS_PER_CHANGE_MAX: usize = 10_000;

/// Most operations that those of one change supersede, together: one each, and room for conflicts.
/// Beyond it the change is refused (`TooLarge`).
pub const PREDECESSORS_PER_CHANGE_MAX: usize = 4 * OPERATIONS_PER_CHANGE_MAX;

/// Most operations of one document. Loading holds them all at once. A change beyond it is refused
/// (`TooLarge`).
pub const OPERATIONS_PER_DOCUMENT_MAX: u64 = 1_000_000;

/// Largest counter of an operation. Automerge counts in 32 bits, and a counter near their end makes
/// every later edit of the document panic. Far more than a document may have operations, which
/// counters follow; beyond it the change is refused (`Damaged`).
pub const OPERATION_COUNTER_MAX: u64 = (1 << 24) - 1;

/// Largest single value, in bytes. Beyond it the change is refused (`TooLarge`).
pub const SCALAR_BYTES_MAX: usize = 1024 * 1024;

/// Longest key or mark name, in bytes. Beyond it the change is refused (`TooLarge`).
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// Largest sum of the keys and mark names of one change, each counted for every operation that has
/// it: a run stores it once, and whoever reads the change has a copy for each. Beyond it the change
/// is refused (`TooLarge`).
pub const CHANGE_NAMES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest author of a change. Beyond it the change is refused (`Damaged`).
pub const AUTHOR_BYTES_MAX: usize = 256;

/// Largest time of a change, either side of zero: what a double holds exactly, and far beyond any
/// honest clock in milliseconds. Automerge keeps differences of times; ones near the ends of 64 bits
/// overflow there, which panics where arithmetic is checked. Beyond it the change is refused
/// (`Damaged`).
pub const TIME_MAX: i64 = (1 << 53) - 1;

/// Most actors of one document. A change by one more is refused (`TooLarge`).
pub const ACTORS_PER_DOCUMENT_MAX: usize = 4096;

/// Largest stored value; anything longer is a fault of ours.
pub const VALUE_BYTES_MAX: usize = 512 * 1024;

/// Largest sum of keys and values of one batch of local edits. A larger edit fails with
/// `EditTooLarge` and nothing is stored.
pub const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(FIRST_FRAME_BYTES_MAX <= FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX < CHANGE_BYTES_MAX);
const _: () = assert!(CHANGE_BYTES_MAX < VALUE_BYTES_MAX);
const _: () = assert!(CHANGE_BYTES_MAX <= CHANGE_INFLATED_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(SCALAR_BYTES_MAX <= CHANGE_INFLATED_BYTES_MAX);
const _: () = assert!(KEY_BYTES_MAX <= CHANGE_NAMES_BYTES_MAX);
const _: () = assert!(OPERATIONS_PER_DOCUMENT_MAX < OPERATION_COUNTER_MAX);
const _: () = assert!(OPERATION_COUNTER_MAX + (OPERATIONS_PER_CHANGE_MAX as u64) < u32::MAX as u64);

/// Most pieces one oversized frame is cut into. More is a fault.
pub const FRAME_PARTS_MAX: u32 = 8;

/// Largest frame put together from pieces. Longer is a fault.
pub const ASSEMBLED_FRAME_BYTES_MAX: usize = FRAME_PARTS_MAX as usize * FRAME_BYTES_MAX;

/// Bytes of a frame kept free for its fields other than bodies.
pub const FRAME_HEADROOM_BYTES: usize = 4 * 1024;

/// Bodies packed into one change frame; a single larger change makes an oversized frame.
pub const FRAME_BODY_BYTES_TARGET: usize = FRAME_BYTES_MAX - FRAME_HEADROOM_BYTES;

/// Most documents in one frame, of changes or of wants. More is a fault.
pub const FRAME_DOCUMENTS_MAX: usize = 1024;

/// Unacknowledged change bytes per link past which no further stored changes are sent. Live edits
/// go out until twice this; past that the link falls back to following the feed.
pub const WINDOW_BYTES: usize = 256 * 1024;

/// What a change frame counts for against the window besides its bodies.
pub const CHANGE_FRAME_COST_BYTES: usize = 256;

/// Batches on their way to the store; work waits beyond it, and local edits fail with `Busy` when it
/// and [`LOCAL_EDITS_QUEUED_MAX`] are reached.
pub const PENDING_BATCHES_MAX: usize = 1024;

/// Largest snapshot as stored and sent. A document whose snapshot would be larger is not compacted
/// and stays a list of changes, which compaction reports.
pub const SNAPSHOT_BYTES_MAX: usize = 448 * 1024;

/// Largest sum of a snapshot's columns once inflated. Beyond it the snapshot is refused (`TooLarge`).
pub const SNAPSHOT_INFLATED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most entries of one column of a snapshot, however few bytes its runs take: as many operations as a
/// document may have, with what they supersede. Beyond it the snapshot is refused (`Damaged`).
pub const SNAPSHOT_ENTRIES_MAX: u64 = 4 * OPERATIONS_PER_DOCUMENT_MAX;

/// Most snapshots of one document. A further one is refused (`TooLarge`) until compaction has merged
/// them.
pub const SNAPSHOTS_PER_DOCUMENT_MAX: usize = 16;

/// A peer that takes snapshots and is further behind than this many feed entries does not keep
/// compaction from removing what it lacks: it gets the snapshot instead.
pub const BEHIND_ENTRIES_MAX: u64 = 4096;

/// What one change counts for when a document's snapshot is weighed against the changes a peer lacks:
/// a peer that lacks more gets the snapshot, if it takes any.
pub const LACKING_CHANGE_BYTES: u64 = 128;

/// Frames of a link that wait for a snapshot ahead of them to be verified. One more is a fault.
pub const HELD_FRAMES_MAX: usize = 1024;

/// Most feed entries and changes that one compaction of a document removes, newest first; what is
/// older goes with the next one.
pub const COMPACTED_RECORDS_MAX: usize = 40_000;

/// Single changes of a document from which on compacting it is due by itself, every so many further
/// ones, if they take [`COMPACTION_DUE_RATIO`] times what its snapshots take.
pub const COMPACTION_DUE_CHANGES: u64 = 256;

/// See [`COMPACTION_DUE_CHANGES`].
pub const COMPACTION_DUE_RATIO: u64 = 4;

/// Damaged records that one search for them yields; further ones are found by the next.
pub const DAMAGES_FOUND_MAX: usize = 256;

/// Bytes of a damaged record that are kept in one quarantine row; a longer one is kept in several.
pub const QUARANTINE_BYTES_MAX: usize = 256 * 1024;

/// How many times a bound has to be exceeded before that is an offence: another version may set it
/// otherwise, but not so. What exceeds one by less is refused, and its link stays.
pub const OFFENCE_FACTOR: u64 = 16;

/// Inflated bytes from which on a change that keeps no ratio is taken for a bomb, and is an offence.
pub const BOMB_BYTES_MIN: usize = 256 * 1024;

/// Offences of one peer in one workspace that are remembered, with the bytes of each in quarantine. Of
/// more the oldest is forgotten, with its bytes. As many within [`OFFENCES_REMEMBERED_FOR`] close no
/// further link: what is sent is refused as ever.
pub const OFFENCES_MAX: usize = 64;

/// Bytes of the offences of one peer in one workspace that are kept in quarantine, together; beyond it
/// those of the oldest are deleted. Of one offence at most [`QUARANTINE_BYTES_MAX`] are kept: its beginning.
pub const OFFENCES_BYTES_MAX: u64 = 1024 * 1024;

/// See [`OFFENCES_MAX`].
pub const OFFENCES_REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// Documents of which a fault says what was wrong; further ones are counted.
pub const FAULT_DOCUMENTS_MAX: usize = 16;

/// Longest text of what was wrong with an offence, in bytes of UTF-8; a longer one is cut.
pub const OFFENCE_TEXT_BYTES_MAX: usize = 256;

/// Documents purged with one request. A request for more is refused.
pub const PURGE_DOCUMENTS_MAX: usize = 256;

/// Peers of one workspace whose cursors are looked at before a compaction.
pub const PEERS_PER_WORKSPACE_MAX: usize = 100_000;

/// Most documents of a workspace that a server takes from peers, unless set otherwise. A further new one
/// is refused (`WorkspaceFull`).
pub const WORKSPACE_DOCUMENTS_DEFAULT: u64 = 1_000_000;

/// Largest sum of one document's change bodies. A change beyond it is refused (`TooLarge`).
pub const DOCUMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Change bytes of one link waiting to be stored. A peer beyond it ignores the window: fault.
pub const LINK_INGEST_BYTES_MAX: usize = 4 * WINDOW_BYTES;

/// Workspaces in one hello, so that it fits in a first frame.
pub const HELLO_WORKSPACES_MAX: usize = 8;

/// Workspaces shared over one link. A ticket for a further one is refused (`TooManyWorkspaces`); if
/// there are more all the same, they are not offered and `Event::TooManyWorkspaces` says so.
pub const LINK_WORKSPACES_MAX: usize = 256;

/// Frames of a peer that are kept while we are not ready to greet it: as many hellos as all shared
/// workspaces take. One more is a fault.
pub const EARLY_FRAMES_MAX: usize = LINK_WORKSPACES_MAX / HELLO_WORKSPACES_MAX;

/// Feed entries read at a time when following the feed.
pub const FEED_PAGE_ROWS: usize = 512;

/// Head rows read at a time when building a catalogue.
pub const CATALOGUE_PAGE_ROWS: usize = 8192;

/// Runs of reconciliation per link and workspace before the outcome is reported as unsettled.
pub const RECONCILE_RUNS_MAX: u32 = 4;

/// Rounds within one run of reconciliation. More is a fault.
pub const RECONCILE_ROUNDS_MAX: u32 = 64;

/// Largest reconciliation message.
pub const RECONCILE_MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX - FRAME_HEADROOM_BYTES;

/// Documents refused per peer and workspace that are listed. Beyond it they are only counted, and
/// the next greeting compares the whole workspace again. Until then the journal keeps everything of which
/// only that peer could say that it holds it.
pub const REFUSALS_MAX: usize = 256;

/// Documents whose head row is kept in memory after their last change.
pub const IDLE_DOCUMENTS_MAX: usize = 1024;

/// Documents a peer may have asked for that are not answered yet. More is a fault.
pub const WANTS_QUEUED_MAX: usize = 1024 * 1024;

/// Sequence numbers beyond gaps that a want lists of one document. A document with more is asked for
/// whole; a tombstone with more says nothing of what was known beyond gaps.
pub const WANT_BEYOND_MAX: usize = 16 * 1024;

/// Most changes of one document that are handled when answering a want. A document with more is
/// refused (`TooLarge`).
pub const CHANGES_PER_DOCUMENT_MAX: usize = 1_000_000;

/// Time between heartbeats, however much else is sent: only they say where a busy feed ends.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

/// Heartbeats and questions on a link of which it is kept when they were said until the peer is known
/// to have read them. Of more the oldest is forgotten: what the peer says then counts as older.
pub const UNREAD_STATEMENTS_MAX: usize = 64;

/// Bound on staleness while a link is up and idle, where the host names no other: three heartbeats.
/// What a heartbeat says is as of our last one that the peer had read: one heartbeat and a round trip
/// before it came, and it stands for another.
pub const STALENESS_BOUND: Duration = Duration::from_secs(30);

/// Smallest bound on staleness. Below three heartbeats peers are asked, three times within the bound.
pub const STALENESS_BOUND_MIN: Duration = Duration::from_secs(3);

/// First and longest delay of the redial backoff (full jitter between zero and the delay).
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// See [`BACKOFF_FIRST`].
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Devices of one workspace that are told to another. Further ones, by peer id, are not told; more
/// from a server are a fault.
pub const SHARES_MAX: usize = 1024;

/// Devices in one frame of shares. More is a fault.
pub const SHARES_PER_FRAME: usize = 128;

/// Shares of all workspaces with all peers that are kept in memory. Further ones are not told.
pub const ROSTER_MAX: usize = 65_536;

/// Addresses kept of one peer, in the order in which they are tried. Further ones are dropped.
pub const PEER_ADDRESSES_MAX: usize = 16;

/// Age up to which a link is taken for one of two that crossed on their way: then both sides keep the
/// one that the peer with the smaller id dialled. An older link gives way to a new one.
pub const CROSSING_WINDOW: Duration = Duration::from_secs(5);

/// Time a link has to answer a probe after the network changed or the machine slept. Past it the link
/// is closed and its peer dialled at once.
pub const PROOF_DEADLINE: Duration = Duration::from_secs(5);

/// Time in which something has to move on a link on which one side lacks something of the other's.
/// Past it the host is told with `Event::Stalled`, and the peers greet anew. It doubles with each
/// time in a row, up to [`STALL_DOUBLINGS_MAX`] times. Looked at with each heartbeat.
pub const STALL_AFTER: Duration = Duration::from_secs(120);
/// See [`STALL_AFTER`].
pub const STALL_DOUBLINGS_MAX: u32 = 3;

/// Time until edits that are in the journal and that the store refused are tried again.
pub const REPLAY_AFTER: Duration = Duration::from_secs(5);

/// Time until a store that had too little room is asked again, if nobody waits for the answer.
pub const ROOM_ASKED_EVERY: Duration = Duration::from_secs(2);

/// Most other devices of a member that a server tells a device of what they hold, per workspace. What
/// is told of further ones is not kept.
pub const SIBLINGS_MAX: usize = 64;

/// Most documents a device refused that are told with what it holds; further ones are counted.
pub const RELAYED_REFUSALS_MAX: usize = 64;

/// Most places in a feed that are remembered to know what a device far behind holds of another. A
/// device further behind is told of later.
pub const WAYPOINTS_MAX: usize = 1024;

/// Largest payload of one piece of an archive. A longer one is not written, and read as damage.
pub const ARCHIVE_PIECE_BYTES_MAX: usize = 1024 * 1024;

/// Most pieces of an archive. A higher number is read as damage.
pub const ARCHIVE_PIECES_MAX: u64 = 1 << 48;

/// Most documents that one restore names. One with more is refused.
pub const RESTORE_DOCUMENTS_MAX: usize = 1024;

/// Longest device, member or workspace name, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 200;

/// Edits waiting for the store. A further one fails with `Busy`.
pub const LOCAL_EDITS_QUEUED_MAX: usize = 4096;

const _: () = assert!(CHANGES_PER_DOCUMENT_MAX as u64 <= OPERATIONS_PER_DOCUMENT_MAX);
const _: () = assert!(FRAME_BODY_BYTES_TARGET < WINDOW_BYTES);
const _: () = assert!(CHANGE_BYTES_MAX + FRAME_HEADROOM_BYTES <= ASSEMBLED_FRAME_BYTES_MAX);
const _: () = assert!(RECONCILE_MESSAGE_BYTES_MAX >= 4096);
const _: () = assert!(SNAPSHOT_BYTES_MAX + FRAME_HEADROOM_BYTES <= ASSEMBLED_FRAME_BYTES_MAX);
const _: () = assert!(SNAPSHOT_BYTES_MAX < VALUE_BYTES_MAX);
/// The largest tombstone: of each actor its id, two numbers and four short prefixes.
const TOMBSTONE_BYTES_MAX: usize =
    ACTORS_PER_DOCUMENT_MAX * (ACTOR_BYTES_MAX + 21) + WANT_BEYOND_MAX * 10;
const _: () = assert!(TOMBSTONE_BYTES_MAX + FRAME_HEADROOM_BYTES <= ASSEMBLED_FRAME_BYTES_MAX);
const _: () = assert!(TOMBSTONE_BYTES_MAX + FRAME_HEADROOM_BYTES <= ARCHIVE_PIECE_BYTES_MAX);
const _: () = assert!(VALUE_BYTES_MAX + FRAME_HEADROOM_BYTES <= ARCHIVE_PIECE_BYTES_MAX);
const _: () = assert!(WINDOW_BYTES * 2 + TOMBSTONE_BYTES_MAX <= LINK_INGEST_BYTES_MAX);
const _: () = assert!(WINDOW_BYTES * 2 + CHANGE_BYTES_MAX <= LINK_INGEST_BYTES_MAX);
const _: () = assert!(WINDOW_BYTES * 2 + SNAPSHOT_BYTES_MAX <= LINK_INGEST_BYTES_MAX);
const _: () = assert!(SHARES_PER_FRAME * (NAME_BYTES_MAX + 64) < FRAME_BYTES_MAX);
const _: () = assert!(HELLO_WORKSPACES_MAX <= 32);
const _: () =
    assert!(FAULT_DOCUMENTS_MAX * (OFFENCE_TEXT_BYTES_MAX + 64) < FRAME_BODY_BYTES_TARGET);
const _: () = assert!(QUARANTINE_BYTES_MAX as u64 <= OFFENCES_BYTES_MAX);
const _: () = assert!(CHANGE_BYTES_MAX <= QUARANTINE_BYTES_MAX);
const _: () = assert!(STALL_AFTER.as_millis() > STALENESS_BOUND.as_millis());
const _: () = assert!(HEARTBEAT_EVERY.as_millis() * 3 <= STALENESS_BOUND.as_millis());
