//! The vocabulary between the engine and a store, and the traits a store implements.
//!
//! A store is an asynchronous peer that may refuse. The engine emits [`Batch`]es and reads as
//! outputs; what became of them comes back as inputs. The traits here are what the driver of a
//! store (a writer thread, the simulator) calls; they block and know nothing of the engine.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::ids::{BatchId, DocumentId, FeedSeq, StoreEpoch, WorkspaceId};
use crate::keys::{Key, KeyRange};
use crate::limits;
use crate::records::{JournalFrame, Record as _};

/// When a batch's author is told that it is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the store's own barrier; with a journal frame, already after the journal's.
    Barrier,
    /// Whenever the next barrier happens; nothing waits for it.
    Buffered,
}

/// An atomic set of writes: all of it becomes visible and durable, or none.
///
/// A store applies batches in the order of their ids, and refuses one whose predecessor it did not
/// apply: see [`Batch::after`].
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Number of this batch.
    pub id: BatchId,
    /// The batch that must have been applied last for this one to apply. After a failure every
    /// batch already on its way therefore fails too, and the feed cannot get a gap. `None` only
    /// for the first batch of a run, or the first after the engine dealt with a failure.
    pub after: Option<BatchId>,
    /// Records to write.
    pub puts: Vec<(Key, Bytes)>,
    /// Records to remove. No key is both written and removed.
    pub deletes: Vec<Key>,
    /// An encoded `JournalFrame`: local changes that must survive the loss of the store itself.
    /// Durable in the journal before the batch is applied.
    pub journal: Option<JournalEntry>,
    /// When the author is told.
    pub durability: Durability,
}

impl Batch {
    /// The sum of keys and values, in bytes.
    pub fn bytes(&self) -> usize {
        let puts = self
            .puts
            .iter()
            .map(|(key, value)| key.as_bytes().len() + value.len());
        let deletes = self.deletes.iter().map(|key| key.as_bytes().len());
        puts.sum::<usize>() + deletes.sum::<usize>()
    }

    /// Whether it may be applied after `last`, as far as that and its own size decide.
    ///
    /// # Errors
    /// [`StoreError::PredecessorFailed`] if another one must have been applied last,
    /// [`StoreError::ValueTooLarge`] if a value is longer than `limits::VALUE_BYTES_MAX`.
    pub fn admit(&self, last: Option<BatchId>) -> Result<(), StoreError> {
        if self.after.is_some() && self.after != last {
            return Err(StoreError::PredecessorFailed);
        }
        let longest = self.puts.iter().map(|(_, value)| value.len()).max();
        match longest.filter(|bytes| *bytes > limits::VALUE_BYTES_MAX) {
            Some(bytes) => Err(StoreError::ValueTooLarge { bytes }),
            None => Ok(()),
        }
    }
}

/// One frame for the journal, with what decides when it may be released.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// Workspace of the changes.
    pub workspace: WorkspaceId,
    /// History of the feed the changes were entered in.
    pub epoch: StoreEpoch,
    /// The last feed entry the frame covers.
    pub through: FeedSeq,
    /// An encoded `reconvene.storage.v1.JournalFrame`.
    pub frame: Bytes,
}

impl JournalEntry {
    /// The documents that the frame has changes of; none if it does not decode.
    pub fn documents(&self) -> BTreeSet<DocumentId> {
        let frame = JournalFrame::decode(&self.frame).ok();
        let documents = frame.into_iter().flat_map(|frame| frame.documents);
        documents.map(|document| document.document).collect()
    }
}

/// How much of a workspace another peer durably holds of our changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRelease {
    /// The history of our feed that `through` is a place in.
    pub epoch: StoreEpoch,
    /// The place in our feed up to which the changes are held,
    pub through: FeedSeq,
    /// but for those of these documents, which were refused: no frame with changes of them is freed,
    /// of whatever epoch.
    pub kept: BTreeSet<DocumentId>,
}

impl From<(StoreEpoch, FeedSeq)> for JournalRelease {
    fn from((epoch, through): (StoreEpoch, FeedSeq)) -> Self {
        Self {
            epoch,
            through,
            kept: BTreeSet::new(),
        }
    }
}

/// Per workspace, the place in its feed up to which another peer durably holds our changes.
///
/// Journal frames of that epoch at or below it are no longer needed. Neither are the frames of
/// other epochs, whatever their numbers: an epoch is released only up to places that cover what
/// those hold (after the store was lost and the frames replayed, their changes stand in the feed
/// under new numbers). A release that is overtaken by a new epoch must not free that epoch's
/// frames, so frames of other epochs go only while the workspace's last frame appended since the
/// store was opened, if any, is of the epoch released.
pub type JournalReleases = BTreeMap<WorkspaceId, JournalRelease>;

/// Adds a later release: within an epoch the greater place counts, of two epochs the later one, and of
/// two of the same place what the later one keeps.
pub fn merge_release(
    releases: &mut JournalReleases,
    workspace: WorkspaceId,
    release: JournalRelease,
) {
    let known = releases.get(&workspace);
    let is_overtaken =
        known.is_some_and(|known| known.epoch == release.epoch && known.through > release.through);
    if !is_overtaken {
        releases.insert(workspace, release);
    }
}

/// The epochs of a journal, as far as releases depend on them.
#[derive(Clone, Debug, Default)]
pub struct JournalEpochs {
    /// Per workspace, the epoch of the last frame appended since the store was opened.
    appended: BTreeMap<WorkspaceId, StoreEpoch>,
}

impl JournalEpochs {
    /// Notes a frame that was appended.
    pub fn note(&mut self, entry: &JournalEntry) {
        self.appended.insert(entry.workspace, entry.epoch);
    }

    /// Whether a release frees a frame of this workspace, epoch and last feed entry, unless it has
    /// changes of a document that the release keeps.
    pub fn frees(
        &self,
        releases: &JournalReleases,
        workspace: &WorkspaceId,
        (epoch, through): (StoreEpoch, FeedSeq),
    ) -> bool {
        let Some(released) = releases.get(workspace) else {
            return false;
        };
        if epoch == released.epoch {
            return through <= released.through;
        }
        let appended = self.appended.get(workspace);
        appended.is_none_or(|appended| *appended == released.epoch)
    }

    /// Whether a release frees a frame, whatever is in it.
    pub fn frees_entry(&self, releases: &JournalReleases, entry: &JournalEntry) -> bool {
        let place = (entry.epoch, entry.through);
        let kept = releases.get(&entry.workspace).map(|release| &release.kept);
        self.frees(releases, &entry.workspace, place)
            && kept.is_none_or(|kept| kept.is_empty() || kept.is_disjoint(&entry.documents()))
    }
}

/// A failed storage operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full; reading goes on.
    #[error("no space is left on the store's disk")]
    NoSpace,
    /// The disk is nearly full: what is left is kept for closing and opening the store. Nothing was
    /// written; reading goes on, and writing once space is freed.
    #[error(
        "only {free_bytes} bytes are free on the store's disk, and {floor_bytes} are kept free: \
         free some space; until then the store is read but not written"
    )]
    LowSpace {
        /// What is free.
        free_bytes: u64,
        /// What is kept free.
        floor_bytes: u64,
    },
    /// The operating system failed the operation.
    #[error("the store's disk failed: {what}")]
    Io {
        /// What the operating system said.
        what: String,
    },
    /// A record does not have the length, version or checksum it was written with.
    #[error("a stored record is damaged: {key}: {what}")]
    Damaged {
        /// The record, as `Key`'s debug form.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// The batch's predecessor was not applied, so this one is not.
    #[error("a batch before this one was not applied")]
    PredecessorFailed,
    /// An earlier failure left the store read-only until it is opened again.
    #[error("the store refuses writes after an earlier failure: {why}")]
    ReadOnly {
        /// The earlier failure.
        why: String,
    },
    /// A value is longer than `limits::VALUE_BYTES_MAX`.
    #[error("a record of {bytes} bytes is larger than a store takes")]
    ValueTooLarge {
        /// Length of the value.
        bytes: usize,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Order in which a range is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Ascending,
    /// Greatest key first.
    Descending,
}

/// A bounded read of consecutive records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The keys to read.
    pub range: KeyRange,
    /// Which end to start at.
    pub direction: Direction,
    /// Most records to return.
    pub rows_max: usize,
    /// Stop after the record that brings the sum of values to at least this many bytes.
    pub bytes_max: usize,
}

impl Scan {
    /// The first records of a range, smallest key first, at most `rows_max` of them.
    pub fn ascending(range: KeyRange, rows_max: usize) -> Self {
        Self {
            range,
            direction: Direction::Ascending,
            rows_max,
            bytes_max: usize::MAX,
        }
    }
}

/// What a [`Scan`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The records, in the scan's order.
    pub rows: Vec<(Key, Bytes)>,
    /// Whether the range holds records beyond the last one returned.
    pub more: bool,
}

/// Consecutive records as each of them reads.
#[derive(Debug, Default)]
pub struct Survey {
    /// Smallest key first; a damaged record is an error in its place.
    pub rows: Vec<(Key, Result<Bytes, StoreError>)>,
    /// Whether the range may hold more.
    pub more: bool,
}

/// Reading side of a store; many may read at once, also while a batch is applied.
///
/// A reader sees each batch whole or not at all within one record; it may see a batch before its
/// barrier. A damaged record is [`StoreError::Damaged`], never an absent one.
pub trait StoreRead: Send + Sync + 'static {
    /// Reads one record.
    fn read(&self, key: &Key) -> Result<Option<Bytes>, StoreError>;

    /// Whether a record exists, without reading its value.
    fn contains(&self, key: &Key) -> Result<bool, StoreError>;

    /// Reads consecutive records.
    fn scan(&self, scan: &Scan) -> Result<Rows, StoreError>;

    /// Reads the next records of a range, a bounded number of them, and goes on past damaged ones.
    ///
    /// # Errors
    /// If what lies in the range from its start on cannot be told.
    fn survey(&self, range: &KeyRange) -> Result<Survey, StoreError>;

    /// What lies under a key, as the store keeps it: unverified, so that what is damaged can be kept.
    fn raw(&self, key: &Key) -> Result<Option<Bytes>, StoreError>;
}

/// Writing side of a store; exactly one exists.
///
/// The caller's order for each group of batches: ask for [`room`](Self::room),
/// [`journal`](Self::journal) every entry of the group, [`apply_group`](Self::apply_group) its batches
/// (or [`apply`](Self::apply) each), then one [`barrier`](Self::barrier).
pub trait StoreWrite: Send + 'static {
    /// The readers of this store.
    type Reader: StoreRead + Clone;

    /// A reader of this store.
    fn reader(&self) -> Self::Reader;

    /// Says whether a group may be written now. Cheap: asked once for each group.
    ///
    /// # Errors
    /// [`StoreError::LowSpace`] if the group is to fail before anything of it is written; a later
    /// group may be written all the same.
    fn room(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Appends entries to the journal; all are durable when it returns.
    ///
    /// # Errors
    /// On any error none of the entries may be reported durable, and the store refuses writes from
    /// then on.
    fn journal(&mut self, entries: &[&JournalEntry]) -> Result<(), StoreError>;

    /// Applies a batch: visible to readers when it returns, durable after the next barrier.
    ///
    /// # Errors
    /// On any error nothing of the batch is visible, now or after a reopen, unless it was
    /// journalled: then the journal gives it back when the store is opened again, so what became of
    /// it is not known before. What [`Batch::admit`] refuses fails so.
    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Applies batches in their order, in one write if the store can; returns the outcome of each.
    ///
    /// The outcomes are those of [`apply`](Self::apply) one after the other, except that a failure
    /// of the shared write fails every batch that was in it: nothing of any of them is visible.
    fn apply_group(&mut self, batches: &[&Batch]) -> Vec<Result<(), StoreError>> {
        batches.iter().map(|batch| self.apply(batch)).collect()
    }

    /// Makes every applied batch survive a power cut.
    ///
    /// # Errors
    /// On any error the outcome of the batches since the last barrier is unknown, and the store
    /// refuses writes from then on.
    fn barrier(&mut self) -> Result<(), StoreError>;

    /// Forgets journal entries that another peer holds and that a barrier has covered. Those that a
    /// release keeps may stand behind later ones from then on, and twice after a crash.
    fn release_journal(&mut self, releases: &JournalReleases) -> Result<(), StoreError>;
}
