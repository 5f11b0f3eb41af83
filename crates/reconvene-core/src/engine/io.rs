//! What goes into the engine and what comes out: everything that happened, everything to do.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::ingest::{Restore, RestoreError, Restored};
use crate::examine::{Examined, FeedEnd, Found};
use crate::feed::FeedPoint;
use crate::guard::ChangeHeader;
use crate::ids::{
    BatchId, ChangeHash, DocumentId, DocumentKind, FeedSeq, LinkId, MemberId, PeerId, ReadId,
    RequestId, SnapshotHash, WorkspaceId,
};
use crate::keys::{Key, KeyRange};
use crate::records::{FeedRow, Offence, RelayedRow, SnapshotRef};
use crate::refusal::RefusalCode;
use crate::storage::{Batch, JournalEntry, JournalReleases, Rows, Scan, StoreError};
use crate::time::{Tick, WallTime};
use crate::wire::{Fault, KnownActor};

/// The two clocks at the moment of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// For deadlines.
    pub tick: Tick,
    /// For what is stored and shown, and for the expiry printed on a ticket.
    pub wall: WallTime,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A link to a peer is up; the peer's identity is proven.
    LinkUp {
        /// The new link.
        link: LinkId,
        /// Who is at the other end.
        peer: PeerId,
        /// Whether this side dialled.
        dialed: bool,
    },
    /// A link is gone. No frame of it follows.
    LinkDown {
        /// The link.
        link: LinkId,
        /// Why, for people.
        why: String,
    },
    /// A frame arrived, without its length prefix.
    FrameArrived {
        /// The link.
        link: LinkId,
        /// The frame's body.
        frame: Bytes,
    },
    /// A dial did not lead to a link.
    DialFailed {
        /// Who was dialled.
        peer: PeerId,
        /// Why, for people.
        why: String,
    },
    /// The bodies of an [`Output::SendStored`] could not be read: nothing of it was sent, and nothing
    /// that was to follow it over the link may be, since the peer would miss it.
    SendFailed {
        /// The link.
        link: LinkId,
        /// Their workspace.
        workspace: WorkspaceId,
        /// The document of the one that could not be read, where that is known.
        document: Option<DocumentId>,
        /// What the store said.
        error: StoreError,
    },
    /// A record did not read where the host read it: the engine looks, and sees to it.
    Suspect {
        /// Where.
        workspace: WorkspaceId,
        /// The document it is of; `None` if it is some head row, feed entry or index row.
        document: Option<DocumentId>,
    },
    /// A batch's journal entry is durable. A store's driver says so once readers see the batch too.
    Journaled(BatchId),
    /// This batch and all before it are durable in the store.
    Stored(BatchId),
    /// A batch was not applied and never will be: its entry is not in the journal either.
    BatchFailed {
        /// The batch.
        batch: BatchId,
        /// Why.
        error: StoreError,
    },
    /// Whether a batch was applied is not known, or it was not and its entry may be in the journal, which
    /// gives it back. What the store shows may then not be durable, so this engine stores, sends and believes nothing more: edits and writes fail, links are
    /// refused as `Unavailable`. Open the store again and make a new engine for it.
    BatchUnknown {
        /// The batch.
        batch: BatchId,
        /// Why.
        error: StoreError,
    },
    /// Answers [`Output::AskRoom`]: what `StoreWrite::room` says now.
    Room(Result<(), StoreError>),
    /// A read finished.
    ReadDone {
        /// The read.
        read: ReadId,
        /// What it found, in the shape that was asked for.
        result: Result<ReadResult, StoreError>,
    },
    /// The host edited documents.
    Edit(Edit),
    /// The host wants records of its own written.
    Write(Write),
    /// The host has put a snapshot of a document into the store, durably and proven to hold all that
    /// it is to replace; or asks for what is left of a purged document to be removed.
    Compact(Box<Compact>),
    /// The host has decided that documents are to be purged, for everyone.
    Purge(Purge),
    /// The host restores documents of an archive.
    Restore(Restore),
    /// All journal frames found at open, in their order. To be given before any edit or link:
    /// what the engine then releases may free any of them.
    Replay(Vec<JournalEntry>),
    /// Keep a link to this peer, from now on.
    Connect {
        /// The peer.
        peer: PeerId,
        /// Where it may be reached; opaque to the engine.
        addresses: Vec<String>,
    },
    /// Keep no link to this peer any more, and close those there are.
    Disconnect {
        /// The peer.
        peer: PeerId,
    },
    /// Redeem a ticket at this peer.
    Join(JoinRequest),
    /// The peer was dialled with success at this address: it is tried first from now on.
    Reached {
        /// The peer.
        peer: PeerId,
        /// The address, one of those it may be reached at.
        address: String,
    },
    /// The network is another one now: links prove themselves within `limits::PROOF_DEADLINE` or are
    /// closed, and whoever waits to be dialled is dialled now.
    NetworkChanged,
    /// The machine slept: the same.
    Resumed,
    /// The host wants to know how fresh a workspace is now: its peers are asked where their feeds end,
    /// and those that wait to be dialled are dialled.
    Refresh(WorkspaceId),
    /// The host leaves a workspace: its server is told, now or when it next greets, and nothing of it
    /// is sent or taken any more. The host then removes its shares.
    Leave {
        /// The workspace.
        workspace: WorkspaceId,
        /// Whether its records will be removed. Edits of it are refused until the record of its feed's
        /// end is gone, or else until its shares are.
        removing: bool,
    },
    /// The host is closing: keep no link, and write down what is known of the peers.
    Close,
    /// The moment asked for by `wake_at` came.
    Wake,
}

/// Changes made by this device, to be stored whole or not at all.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Comes back in [`Event::EditDurable`] or [`Event::EditRefused`].
    pub request: RequestId,
    /// Where.
    pub workspace: WorkspaceId,
    /// The documents, each at most once.
    pub documents: Vec<EditedDocument>,
    /// Index rows that follow from the edit.
    pub rows: Vec<(Key, Bytes)>,
}

/// The new changes of one edited document.
#[derive(Clone, Debug)]
pub struct EditedDocument {
    /// The document.
    pub document: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// Change chunks, each after its dependencies.
    pub changes: Vec<Bytes>,
}

/// Records that are the host's business: workspaces, shares, members, invitations, index rows.
#[derive(Clone, Debug)]
pub struct Write {
    /// Comes back in [`Event::WriteDone`] or [`Event::WriteFailed`].
    pub request: RequestId,
    /// Records to write.
    pub puts: Vec<(Key, Bytes)>,
    /// Records to remove.
    pub deletes: Vec<Key>,
}

/// Documents to purge: nothing of them is kept but a tombstone, which says what was known of them, and
/// nothing more of them is taken.
#[derive(Clone, Debug)]
pub struct Purge {
    /// Comes back in [`Event::Purged`] or [`Event::PurgeRefused`].
    pub request: RequestId,
    /// Where.
    pub workspace: WorkspaceId,
    /// The documents, at most `limits::PURGE_DOCUMENTS_MAX`. Those that are not stored here, or that
    /// are purged already, stay as they are.
    pub documents: Vec<DocumentId>,
}

/// Why documents were not purged; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// More than one request may name.
    #[error("{documents} documents were to be purged at once, at most {max} may be; ask for fewer")]
    TooMany {
        /// How many were named.
        documents: usize,
        /// The limit.
        max: usize,
    },
    /// The journal holds changes of the document that the store has yet to take.
    #[error("changes of document {document} are waiting for the disk; try again later")]
    Owed {
        /// The document.
        document: DocumentId,
    },
    /// The workspace is being left.
    #[error("the workspace is being left")]
    Left,
    /// The store failed.
    #[error("the purge could not be stored")]
    Store(#[source] StoreError),
}

/// What a stored snapshot is to replace: exactly what was read to make it. Or all that is left of a
/// purged document.
#[derive(Clone, Debug)]
pub struct Compact {
    /// Comes back in [`Event::Compacted`] or [`Event::CompactRefused`].
    pub request: RequestId,
    /// Where.
    pub workspace: WorkspaceId,
    /// The document.
    pub document: DocumentId,
    /// The snapshot; `None` for a purged document, of which nothing takes the place of what goes.
    pub snapshot: Option<SnapshotRef>,
    /// All snapshots of the document, whose changes are in this one; those of a purged document, if this
    /// removes its last entries.
    pub snapshots: Vec<SnapshotRef>,
    /// Snapshots that no head row names, left behind by a compaction that was cut short; their
    /// changes, too, are all in this one.
    pub orphans: Vec<SnapshotHash>,
    /// The document's last feed entry of those that go; it stays, with the snapshot in place of
    /// changes. Of a purged document the entry that purged it, which stays as it is.
    pub last: (FeedSeq, FeedRow),
    /// Of all these entries the last one that came from someone else than that one did; 0 if there is
    /// none.
    pub last_by_others: FeedSeq,
    /// The document's feed entries before that one, newest first.
    pub entries: Vec<FeedSeq>,
    /// The document's entry before all of these; 0 if there is none.
    pub previous: FeedSeq,
    /// How many changes of the document were stored singly.
    pub singly: u64,
    /// The changes of all these entries that are stored singly, with their bodies' sizes.
    pub changes: Vec<(ChangeHash, u32)>,
}

/// Why a document was not compacted now; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompactHold {
    /// A peer has yet to get what would go.
    #[error("{peer} has not acknowledged its changes yet")]
    Behind {
        /// The peer.
        peer: PeerId,
    },
    /// A link is exchanging documents of the workspace just now.
    #[error("the workspace is being exchanged with {peer}")]
    Exchanging {
        /// The peer.
        peer: PeerId,
    },
    /// It is not behind its barrier yet, or another feed entry of the document is not what was read.
    #[error("the document changed meanwhile")]
    Changed,
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] StoreError),
}

/// A ticket to redeem.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Comes back in [`Event::Joined`] or [`Event::JoinFailed`].
    pub request: RequestId,
    /// Who issued the ticket.
    pub peer: PeerId,
    /// Where to reach them.
    pub addresses: Vec<String>,
    /// The ticket's secret.
    pub secret: [u8; 32],
    /// What this device calls itself.
    pub device_name: String,
}

/// What a read is for.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadQuery {
    /// The values of these keys.
    Values(Vec<Key>),
    /// Whether these keys exist.
    Presence(Vec<Key>),
    /// Consecutive records.
    Scan(Scan),
    /// The changes of received snapshots: load each, from nothing else, within bounds.
    Inspect(Vec<(DocumentKind, Bytes)>),
    /// Whether these changes are in a stored document, its snapshots included: load it.
    Holds {
        /// Where.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
        /// The changes.
        hashes: Vec<ChangeHash>,
    },
    /// The changes of a stored document that someone lacks, its snapshots' included: load it.
    Beyond {
        /// Where.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
        /// What they hold of it.
        known: Vec<KnownActor>,
    },
    /// The damaged ones among these records, with their documents: `examine::search`.
    Search {
        /// Where.
        workspace: WorkspaceId,
        /// The records.
        ranges: Vec<KeyRange>,
    },
    /// The document of a feed entry that is not there: `examine::missing_entry`.
    Owner {
        /// Where.
        workspace: WorkspaceId,
        /// The entry.
        seq: FeedSeq,
    },
    /// Where a feed ends whose record does not read or is not there: `examine::feed_end`.
    FeedEnd(WorkspaceId),
    /// All that is left of a document, in the store and in the journal: `examine::examine`.
    Examine {
        /// Where.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
        /// The changes that documents begin with, and the kind of those.
        roots: BTreeMap<ChangeHash, DocumentKind>,
    },
}

/// The answer to a [`ReadQuery`], in its shape and order.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadResult {
    /// Answers [`ReadQuery::Values`].
    Values(Vec<Option<Bytes>>),
    /// Answers [`ReadQuery::Presence`].
    Presence(Vec<bool>),
    /// Answers [`ReadQuery::Scan`].
    Rows(Rows),
    /// Answers [`ReadQuery::Inspect`]: per snapshot, its changes without the genesis, each after its
    /// dependencies; or why it is refused.
    Inspected(Vec<Result<Vec<ChangeHeader>, RefusalCode>>),
    /// Answers [`ReadQuery::Beyond`]: change chunks, each after its dependencies.
    Changes(Vec<Bytes>),
    /// Answers [`ReadQuery::Search`], and [`ReadQuery::Owner`] with that one entry.
    Found(Vec<Found>),
    /// Answers [`ReadQuery::FeedEnd`].
    FeedEnd(FeedEnd),
    /// Answers [`ReadQuery::Examine`].
    Examined(Box<Examined>),
}

/// Something to do. Frames of one link keep their order, stored or not; otherwise outputs may be
/// carried out in any order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Hand this batch to the store, in the order of ids.
    StoreBatch(Batch),
    /// Ask the store whether it has room for a batch again; the answer is [`Input::Room`].
    AskRoom,
    /// Read from the store.
    Read {
        /// Comes back in [`Input::ReadDone`].
        read: ReadId,
        /// What to read.
        query: ReadQuery,
    },
    /// These journal entries are no longer needed.
    ReleaseJournal(JournalReleases),
    /// Send a frame.
    SendFrame {
        /// The link.
        link: LinkId,
        /// The frame's body.
        frame: Bytes,
    },
    /// Read the bodies of these changes, put them into a change frame and send it.
    SendStored(SendStored),
    /// The peer of this link is one of ours: lift the limits for strangers.
    AdmitLink {
        /// The link.
        link: LinkId,
    },
    /// Close a link; no frame may follow.
    CloseLink {
        /// The link.
        link: LinkId,
        /// Why.
        why: CloseReason,
    },
    /// Dial a peer; a link or a failure must follow.
    Dial {
        /// The peer.
        peer: PeerId,
        /// Where it may be reached.
        addresses: Vec<String>,
    },
    /// Tell the host.
    Event(Event),
}

/// A change frame whose bodies never pass through the engine. See `wire::Changes` for the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct SendStored {
    /// The link.
    pub link: LinkId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The documents, in order.
    pub documents: Vec<StoredDocument>,
    /// The part of the feed covered.
    pub feed: Option<(FeedSeq, FeedPoint)>,
    /// The frame's number.
    pub number: u64,
}

/// What to read and send of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDocument {
    /// The document.
    pub document: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// A snapshot that goes ahead of the changes.
    pub snapshot: Option<SnapshotHash>,
    /// The changes, in order.
    pub changes: Vec<ChangeHash>,
    /// Whether its tombstone is sent, and nothing else.
    pub purged: bool,
}

/// Why the engine closes a link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer was refused; the refusal was sent and should be flushed.
    Refused(RefusalCode),
    /// The peer refused us.
    RefusedByPeer(RefusalCode),
    /// The peer broke the protocol.
    Fault(String),
    /// A newer link to the same peer is up.
    Replaced,
    /// The host asked for it, or its purpose is fulfilled.
    Finished,
    /// The store refuses writes.
    StoreFailed,
    /// The peer showed that this store was rolled back; cursors start anew.
    RolledBack,
    /// A record that the link needed is damaged, or was: what is left is compared anew.
    Healing,
    /// Another set of workspaces is shared with the peer; the two greet anew.
    SharesChanged,
    /// It did not answer a probe in time.
    Unproven,
    /// One side lacks something, and nothing moved; the two greet anew.
    Stalled,
}

/// Why a local edit was refused. Nothing of it is stored, but for [`EditError::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// A change does not pass the guard that every peer applies.
    #[error("the edit makes a change no peer would accept: {what}")]
    Guard {
        /// What is wrong.
        what: String,
    },
    /// The edit's changes do not follow from what is stored; the document must be loaded again.
    #[error("the edit does not follow from the stored document: {code}")]
    Stale {
        /// What does not follow.
        code: RefusalCode,
    },
    /// The edit is larger than one batch.
    #[error("the edit has {bytes} bytes, at most {max} fit in one; split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The workspace is being left.
    #[error("the workspace is being left")]
    Left,
    /// Too many edits wait for the store.
    #[error("too many edits are waiting for the disk; try again later")]
    Busy,
    /// The store failed.
    #[error("the edit could not be stored")]
    Store(#[source] StoreError),
    /// The store failed while it stored the edit, which is there or not once it is opened again: whoever
    /// makes the edit anew looks then.
    #[error("whether the edit is stored shows once the store is opened again")]
    Unknown(#[source] StoreError),
}

/// What one link moved, from hello on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Documents whose versions were compared one by one after reconciliation.
    pub documents_compared: u64,
    /// Documents of which changes were sent.
    pub documents_sent: u64,
    /// Documents of which new changes were received.
    pub documents_received: u64,
    /// Changes sent singly.
    pub changes_sent: u64,
    /// Snapshots sent.
    pub snapshots_sent: u64,
    /// New changes received.
    pub changes_received: u64,
    /// Times this side had sent and then waited for an answer.
    pub round_trips: u64,
}

/// Something the host may want to know.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// An edit survives the loss of the store.
    EditDurable {
        /// The edit.
        request: RequestId,
        /// Where it is in our feed; `None` if it changed no document.
        at: Option<FeedPoint>,
    },
    /// An edit was refused or failed.
    EditRefused {
        /// The edit.
        request: RequestId,
        /// Why.
        error: EditError,
    },
    /// A write is durable.
    WriteDone {
        /// The write.
        request: RequestId,
    },
    /// A write failed.
    WriteFailed {
        /// The write.
        request: RequestId,
        /// Why.
        error: StoreError,
    },
    /// Documents are purged, durably.
    Purged {
        /// The request.
        request: RequestId,
        /// How many were not purged before.
        documents: u64,
    },
    /// Documents were not purged.
    PurgeRefused {
        /// The request.
        request: RequestId,
        /// Why.
        error: PurgeError,
    },
    /// Documents of an archive are durable here, as far as they were taken.
    Restored {
        /// The request.
        request: RequestId,
        /// What was taken.
        restored: Restored,
    },
    /// Nothing of a restore was taken, or it is not known what was.
    RestoreRefused {
        /// The request.
        request: RequestId,
        /// Why.
        error: RestoreError,
    },
    /// A document was purged, durably, here or by a peer: nothing of it is to be shown any more.
    DocumentPurged {
        /// Where.
        workspace: WorkspaceId,
        /// What.
        document: DocumentId,
        /// Its kind.
        kind: DocumentKind,
    },
    /// Records of a document were damaged. They are quarantined, what is left of it can be read, and
    /// peers are asked for what was lost, until [`Event::DocumentHealed`]. If nothing could be done
    /// about it, it is left as it was and nothing of it is taken.
    DocumentDamaged {
        /// Where.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
        /// What is damaged, for people.
        what: String,
        /// Changes that are known by name to be lost.
        lost: u64,
    },
    /// A document's index row is damaged. Its bytes are quarantined; the host has to write it anew, or
    /// to remove it where it cannot be made.
    IndexRowLost {
        /// Where.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
    },
    /// Everything is back that was lost of a damaged document.
    DocumentHealed {
        /// Where.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
    },
    /// A document has so many single changes beside its snapshot that compacting it is worth the work,
    /// or was purged and has something left to be removed.
    CompactionDue {
        /// Where.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
    },
    /// A document was compacted; what its snapshot replaced is gone.
    Compacted {
        /// The request.
        request: RequestId,
    },
    /// A document was not compacted.
    CompactRefused {
        /// The request.
        request: RequestId,
        /// Why.
        why: CompactHold,
    },
    /// A journal frame is whole but says nothing this version understands. It stays in the journal.
    JournalUnreadable {
        /// The frame's workspace.
        workspace: WorkspaceId,
        /// The last feed entry it covers.
        through: FeedSeq,
    },
    /// A journal frame has changes of documents that were purged in this store before it knew them.
    /// The frame stays in the journal, which lets go of nothing of the workspace in this run.
    JournalRefused {
        /// The workspace.
        workspace: WorkspaceId,
        /// The documents.
        documents: Vec<DocumentId>,
    },
    /// All frames of an [`Input::Replay`] are in the store.
    ReplayDone {
        /// Changes the store had lost.
        changes: u64,
    },
    /// Changes of a peer are durable here.
    DocumentChanged {
        /// Where.
        workspace: WorkspaceId,
        /// What.
        document: DocumentId,
        /// Its kind.
        kind: DocumentKind,
        /// The new changes, in order; without those that came in a snapshot.
        changes: Vec<ChangeHash>,
        /// Whether a snapshot came, with changes that were not here.
        snapshot: bool,
    },
    /// A workspace's feed has new durable entries.
    FeedAdvanced {
        /// The workspace.
        workspace: WorkspaceId,
        /// The end of the feed.
        seq: FeedSeq,
    },
    /// Both sides of a link have greeted each other.
    LinkReady {
        /// The link.
        link: LinkId,
        /// The peer.
        peer: PeerId,
        /// Workspaces both sides share.
        workspaces: Vec<WorkspaceId>,
        /// Workspaces we share with the peer and the peer does not share with us.
        not_shared: Vec<WorkspaceId>,
    },
    /// Each side durably holds what the other held when the link came up, in every workspace.
    PassComplete {
        /// The link.
        link: LinkId,
        /// The peer.
        peer: PeerId,
        /// What it took.
        stats: LinkStats,
    },
    /// Nothing the peer held is missing here.
    Verified {
        /// The peer.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// As of when: when the peer's word of where its feed ends came here.
        as_of: WallTime,
    },
    /// A workspace is fresh: what was verified last is within the bound.
    Fresh {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// A workspace is not fresh any more.
    Stale {
        /// The workspace.
        workspace: WorkspaceId,
        /// As of when what was verified last is.
        since: WallTime,
    },
    /// By the word of the server another device of the same member holds more of our feed.
    Relayed {
        /// The device.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// What.
        row: RelayedRow,
    },
    /// Something moved on a link: for progress and time-outs.
    Progress {
        /// The link.
        link: LinkId,
        /// The peer.
        peer: PeerId,
        /// What it moved so far.
        stats: LinkStats,
    },
    /// Documents of a peer were refused here, or ours there.
    DocumentsRefused {
        /// The peer.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// Whether the refusal was ours.
        here: bool,
        /// The documents and why.
        documents: Vec<(DocumentId, RefusalCode)>,
    },
    /// A peer sent what no peer sends that keeps the protocol. It was refused, as
    /// [`Event::DocumentsRefused`] says, and its bytes are in quarantine; told once they are stored.
    Offended {
        /// The link it came on.
        link: LinkId,
        /// The peer.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// What it was, without what was known of the peer before; not empty.
        offences: Vec<Offence>,
        /// Whether the link is closed for it.
        closes: bool,
    },
    /// Reconciliation ended with differences left over.
    ReconcileUnsettled {
        /// The peer.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// How many documents still differed.
        documents: usize,
    },
    /// This store was found rolled back: a peer remembers more than it holds.
    RolledBack {
        /// The workspace.
        workspace: WorkspaceId,
        /// The peer that remembers.
        peer: PeerId,
    },
    /// A peer claims to remember more of our feed than was ever told to anyone since its history
    /// began, which was in this engine's life. Only that peer is compared anew.
    FalseClaim {
        /// The workspace.
        workspace: WorkspaceId,
        /// The peer.
        peer: PeerId,
    },
    /// One side of a link lacks something of the other's, and nothing moved for
    /// `limits::STALL_AFTER`. The two greet anew.
    Stalled {
        /// The peer.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// Since when nothing moves.
        since: WallTime,
    },
    /// More workspaces are shared with a peer than `limits::LINK_WORKSPACES_MAX`: the others are not
    /// synced with it.
    TooManyWorkspaces {
        /// The peer.
        peer: PeerId,
    },
    /// The server of a workspace greeted, and this is its number for breaking changes of state.
    ServerState {
        /// The server.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// The number.
        state_version: u32,
    },
    /// The server told which devices share a workspace, and they are others than before.
    SharesLearned {
        /// Where.
        workspace: WorkspaceId,
    },
    /// It is known by now who takes part in a workspace, which may be nobody else: its server said what
    /// it only says after that, for the first time in this engine's life.
    SharesKnown {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// A device ended its own share of a workspace.
    DeviceLeft {
        /// The device.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// The other side refused the link, for good until something changes; or a peer that was dialed
    /// speaks no protocol version that is spoken here.
    RefusedByPeer {
        /// The peer.
        peer: PeerId,
        /// Why.
        code: RefusalCode,
        /// The same for people.
        message: String,
        /// With [`RefusalCode::Fault`]: what of ours it was.
        fault: Option<Fault>,
    },
    /// A link is gone or could not be made.
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// Why, for people.
        why: String,
        /// When it will be dialled again, if it will.
        retry_at: Option<Tick>,
    },
    /// A ticket was redeemed.
    Joined {
        /// The request.
        request: RequestId,
        /// What it opened.
        enrolment: Enrolment,
    },
    /// A ticket was not redeemed.
    JoinFailed {
        /// The request.
        request: RequestId,
        /// The issuer's code, or `None` if it could not be reached.
        code: Option<RefusalCode>,
        /// Why, for people.
        why: String,
    },
    /// A device was enrolled here.
    DeviceEnrolled {
        /// The device.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// Its member.
        member: MemberId,
        /// Its name.
        device_name: String,
    },
    /// The disk still has too little room: what waits for it was asked for again in vain. What people
    /// asked for is refused; what peers sent waits, and the links stay.
    LowSpace {
        /// What the store said.
        error: StoreError,
    },
    /// The disk has room again: what waited is stored.
    RoomAgain,
    /// The store failed. After [`Input::BatchUnknown`] edits and links fail until it is opened
    /// again; otherwise links are made anew and edits go on.
    StoreFailed {
        /// Why.
        error: StoreError,
    },
}

/// What a redeemed ticket opens.
#[derive(Clone, Debug, PartialEq)]
pub struct Enrolment {
    /// Who issued it.
    pub peer: PeerId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its name.
    pub workspace_name: String,
    /// Whose device this is.
    pub member: MemberId,
    /// Their name.
    pub member_name: String,
    /// Their home workspace.
    pub home: WorkspaceId,
}

/// What the engine knows of one workspace, for the host's status.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkspaceStatus {
    /// The end of the feed as assigned, durable or not.
    pub head: FeedPoint,
    /// The end of the durable feed.
    pub durable: FeedPoint,
    /// Number of documents.
    pub documents: u64,
    /// What each known peer holds.
    pub peers: BTreeMap<PeerId, crate::records::PeerRow>,
}
