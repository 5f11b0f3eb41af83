//! A store in memory that models durability: what a barrier has not covered is lost in a crash,
//! what the journal took survives the loss of everything else.
//!
//! It is for tests and the simulator. Nothing here writes anywhere; faults happen exactly where
//! [`Faults`] says, never at random.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use crate::ids::BatchId;
use crate::keys::{Key, KeyRange};
use crate::storage::{
    Batch, Direction, JournalEntry, JournalEpochs, JournalReleases, Rows, Scan, StoreError,
    StoreRead, StoreWrite, Survey,
};

/// The writing side of a store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    /// What readers see.
    visible: MemoryReader,
    /// What the last barrier covered.
    durable: BTreeMap<Key, Bytes>,
    /// Records that are not on the disk as they were written, until they are written again.
    rotten: BTreeMap<Key, Spoilt>,
    /// Applied since the last barrier, oldest first.
    unbarriered: VecDeque<Writes>,
    journal: Vec<Journalled>,
    journal_epochs: JournalEpochs,
    last_applied: Option<BatchId>,
    /// The failure after which writes are refused.
    failure: Option<String>,
    faults: Faults,
    calls: Calls,
}

/// The reading side of a store in memory.
///
/// Once its store has crashed or closed it answers [`StoreError::Closed`].
#[derive(Clone, Debug)]
pub struct MemoryReader {
    shared: Arc<RwLock<Shared>>,
    /// Whether rotten records read as they were written.
    sees_through: bool,
}

/// Which calls of a [`MemoryStore`] fail; the first call of each kind after the faults were set is
/// call 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Calls of [`StoreWrite::journal`] that fail.
    pub journal: BTreeMap<u64, Fault>,
    /// Calls of [`StoreWrite::apply`] that fail; nothing of their batch is kept. One of a batch with a
    /// journal entry leaves the store read-only.
    pub apply: BTreeMap<u64, StoreError>,
    /// Calls of [`StoreWrite::barrier`] that fail.
    pub barrier: BTreeMap<u64, Fault>,
}

/// A failure whose outcome the caller cannot know.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What the caller is told.
    pub error: StoreError,
    /// Whether the disk did what was asked all the same, as it may.
    pub lands: bool,
}

#[derive(Clone, Debug, Default)]
struct Calls {
    journal: u64,
    apply: u64,
    barrier: u64,
}

/// What became of a record on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoilt {
    /// It reads as damaged.
    Rotten,
    /// It reads as if it had never been written.
    Lost,
}

#[derive(Debug, Default)]
struct Shared {
    rows: BTreeMap<Key, Bytes>,
    rotten: BTreeMap<Key, Spoilt>,
    closed: bool,
}

#[derive(Clone, Debug)]
struct Journalled {
    entry: JournalEntry,
    /// Whether a barrier came after it; only then may it be released.
    covered: bool,
}

#[derive(Clone, Debug)]
struct Writes {
    puts: Vec<(Key, Bytes)>,
    deletes: Vec<Key>,
}

impl Writes {
    fn apply_to(&self, rows: &mut BTreeMap<Key, Bytes>, rotten: &mut BTreeMap<Key, Spoilt>) {
        for (key, value) in &self.puts {
            rows.insert(key.clone(), value.clone());
            rotten.remove(key);
        }
        for key in &self.deletes {
            rows.remove(key);
            rotten.remove(key);
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::found(BTreeMap::new(), BTreeMap::new(), Vec::new())
    }

    /// A store as it is found when it is opened.
    fn found(
        durable: BTreeMap<Key, Bytes>,
        rotten: BTreeMap<Key, Spoilt>,
        journal: Vec<Journalled>,
    ) -> Self {
        Self {
            visible: MemoryReader {
                shared: Arc::new(RwLock::new(Shared {
                    rows: durable.clone(),
                    rotten: rotten.clone(),
                    closed: false,
                })),
                sees_through: false,
            },
            durable,
            rotten,
            unbarriered: VecDeque::new(),
            journal,
            journal_epochs: JournalEpochs::default(),
            last_applied: None,
            failure: None,
            faults: Faults::default(),
            calls: Calls::default(),
        }
    }

    /// The batch that was applied last since it was opened.
    pub fn last_applied(&self) -> Option<BatchId> {
        self.last_applied
    }

    /// Sets which of the coming calls fail, counted from this one; forgets earlier settings.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.calls = Calls::default();
    }

    /// The store as it is found after a power cut: what barriers covered and what was journalled.
    #[must_use]
    pub fn crash(self) -> Self {
        self.crash_keeping(0)
    }

    /// Like [`crash`](Self::crash), but the first `batches` batches since the last barrier had
    /// reached the disk by themselves, as they may.
    #[must_use]
    pub fn crash_keeping(mut self, batches: usize) -> Self {
        let kept = batches.min(self.unbarriered.len());
        self.settle(kept);
        self.close_readers();
        Self::found(self.durable, self.rotten, self.journal)
    }

    /// The store as it is found after it was closed and opened again.
    #[must_use]
    pub fn reopen(self) -> Self {
        let all = self.unbarriered.len();
        self.crash_keeping(all)
    }

    /// The store as it is found after everything but the journal was lost.
    #[must_use]
    pub fn wipe(self) -> Self {
        self.close_readers();
        Self::found(BTreeMap::new(), BTreeMap::new(), self.journal)
    }

    /// Lets a record rot on the disk: it reads as damaged until it is written again. Nothing happens
    /// if there is none.
    pub fn rot(&mut self, key: &Key) {
        self.spoil(key, Spoilt::Rotten);
    }

    /// Lets a record get lost on the disk: it reads as absent until it is written again. Nothing happens
    /// if there is none.
    pub fn lose(&mut self, key: &Key) {
        self.spoil(key, Spoilt::Lost);
    }

    fn spoil(&mut self, key: &Key, how: Spoilt) {
        if self.durable.contains_key(key) {
            self.rotten.insert(key.clone(), how);
        }
        let mut shared = self.visible.write();
        if shared.rows.contains_key(key) {
            shared.rotten.insert(key.clone(), how);
        }
    }

    /// The journal's entries, oldest first: after a crash, those that survived it.
    pub fn journal_entries(&self) -> Vec<JournalEntry> {
        self.journal
            .iter()
            .map(|journalled| journalled.entry.clone())
            .collect()
    }

    /// How many batches were applied since the last barrier.
    pub fn unbarriered(&self) -> usize {
        self.unbarriered.len()
    }

    /// Makes the oldest `batches` batches since the last barrier durable.
    fn settle(&mut self, batches: usize) {
        for writes in self.unbarriered.drain(..batches) {
            writes.apply_to(&mut self.durable, &mut self.rotten);
        }
    }

    fn close_readers(&self) {
        let mut shared = self.visible.write();
        shared.closed = true;
        shared.rows.clear();
        shared.rotten.clear();
    }

    fn writable(&self) -> Result<(), StoreError> {
        match &self.failure {
            Some(why) => Err(StoreError::ReadOnly { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses writes from now on.
    fn fail(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.failure = Some(error.to_string());
        Err(error)
    }
}

impl StoreWrite for MemoryStore {
    type Reader = MemoryReader;

    fn reader(&self) -> MemoryReader {
        self.visible.clone()
    }

    fn journal(&mut self, entries: &[&JournalEntry]) -> Result<(), StoreError> {
        self.writable()?;
        let fault = self.faults.journal.remove(&self.calls.journal);
        self.calls.journal += 1;
        if fault.as_ref().is_none_or(|fault| fault.lands) {
            for entry in entries {
                self.journal_epochs.note(entry);
                self.journal.push(Journalled {
                    entry: (*entry).clone(),
                    covered: false,
                });
            }
        }
        match fault {
            Some(fault) => self.fail(fault.error),
            None => Ok(()),
        }
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.writable()?;
        let fault = self.faults.apply.remove(&self.calls.apply);
        self.calls.apply += 1;
        let admitted = batch.admit(self.last_applied);
        match admitted.and(fault.map_or(Ok(()), Err)) {
            // What is in the journal comes back only when the store is opened again.
            Err(error) if batch.journal.is_some() => return self.fail(error),
            outcome => outcome?,
        }
        let writes = Writes {
            puts: batch.puts.clone(),
            deletes: batch.deletes.clone(),
        };
        let mut shared = self.visible.write();
        let Shared { rows, rotten, .. } = &mut *shared;
        writes.apply_to(rows, rotten);
        drop(shared);
        self.unbarriered.push_back(writes);
        self.last_applied = Some(batch.id);
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), StoreError> {
        self.writable()?;
        let fault = self.faults.barrier.remove(&self.calls.barrier);
        self.calls.barrier += 1;
        if fault.as_ref().is_none_or(|fault| fault.lands) {
            self.settle(self.unbarriered.len());
            for journalled in &mut self.journal {
                journalled.covered = true;
            }
        }
        match fault {
            Some(fault) => self.fail(fault.error),
            None => Ok(()),
        }
    }

    fn release_journal(&mut self, releases: &JournalReleases) -> Result<(), StoreError> {
        self.writable()?;
        self.journal.retain(|Journalled { entry, covered }| {
            !(*covered && self.journal_epochs.frees_entry(releases, entry))
        });
        Ok(())
    }
}

impl MemoryReader {
    /// The same reader, to whom rotten records read as they were written: for whoever judges.
    #[must_use]
    pub fn seeing_through_rot(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            sees_through: true,
        }
    }

    fn read_lock(&self) -> Result<RwLockReadGuard<'_, Shared>, StoreError> {
        let shared = self
            .shared
            .read()
            .expect("nothing panics holding this lock");
        if shared.closed {
            Err(StoreError::Closed)
        } else {
            Ok(shared)
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared
            .write()
            .expect("nothing panics holding this lock")
    }

    fn is_lost(&self, shared: &Shared, key: &Key) -> bool {
        !self.sees_through && shared.rotten.get(key) == Some(&Spoilt::Lost)
    }

    fn assert_sound(&self, shared: &Shared, key: &Key) -> Result<(), StoreError> {
        if self.sees_through || shared.rotten.get(key) != Some(&Spoilt::Rotten) {
            return Ok(());
        }
        Err(StoreError::Damaged {
            key: format!("{key:?}"),
            what: "it has rotted".to_owned(),
        })
    }

    /// The records of a scan, whether they have rotted or not.
    fn found(&self, shared: &Shared, scan: &Scan) -> Rows {
        let start = scan.range.start();
        let end = scan.range.end();
        // A map refuses to be asked for a range that ends before it begins.
        if end.is_some_and(|end| end <= start) {
            return Rows::default();
        }
        let from = Key::from_bytes(start.to_vec());
        let rows = match end {
            Some(end) => shared.rows.range(from..Key::from_bytes(end.to_vec())),
            None => shared.rows.range(from..),
        };
        let rows = rows.filter(|(key, _)| !self.is_lost(shared, key));
        match scan.direction {
            Direction::Ascending => collect(rows, scan),
            Direction::Descending => collect(rows.rev(), scan),
        }
    }
}

impl StoreRead for MemoryReader {
    fn read(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let shared = self.read_lock()?;
        self.assert_sound(&shared, key)?;
        let value = shared.rows.get(key).cloned();
        Ok(value.filter(|_| !self.is_lost(&shared, key)))
    }

    fn contains(&self, key: &Key) -> Result<bool, StoreError> {
        let shared = self.read_lock()?;
        Ok(shared.rows.contains_key(key) && !self.is_lost(&shared, key))
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, StoreError> {
        let shared = self.read_lock()?;
        let found = self.found(&shared, scan);
        for (key, _) in &found.rows {
            self.assert_sound(&shared, key)?;
        }
        Ok(found)
    }

    fn survey(&self, range: &KeyRange) -> Result<Survey, StoreError> {
        const ROWS: usize = 64;
        let shared = self.read_lock()?;
        let found = self.found(&shared, &Scan::ascending(range.clone(), ROWS));
        let rows = found.rows.into_iter().map(|(key, value)| {
            let value = self.assert_sound(&shared, &key).map(|()| value);
            (key, value)
        });
        Ok(Survey {
            rows: rows.collect(),
            more: found.more,
        })
    }

    fn raw(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let shared = self.read_lock()?;
        let raw = shared.rows.get(key).cloned();
        Ok(raw.filter(|_| !self.is_lost(&shared, key)))
    }
}

/// Takes records up to the scan's bounds.
fn collect<'a>(rows: impl Iterator<Item = (&'a Key, &'a Bytes)>, scan: &Scan) -> Rows {
    let mut found = Rows::default();
    let mut bytes = 0_usize;
    for (key, value) in rows {
        if found.rows.len() >= scan.rows_max || (!found.rows.is_empty() && bytes >= scan.bytes_max)
        {
            found.more = true;
            break;
        }
        bytes = bytes.saturating_add(value.len());
        found.rows.push((key.clone(), value.clone()));
    }
    found
}

#[cfg(test)]
mod tests;
