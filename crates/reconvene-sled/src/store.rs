//! The writing side: batches, barriers and the journal, by exactly one owner.
//!
//! A group of batches is one atomic write of one sled tree. The barrier is sled's flush, which on Linux ends
//! in `sync_file_range`, followed by a real sync of sled's file. Any failure that may have reached
//! the disk leaves the store read-only until it is opened again: it never retries and then
//! pretends. What a batch means is not known here.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use reconvene_core::ids::BatchId;
use reconvene_core::keys::Key;
use reconvene_core::storage::{Batch, JournalEntry, JournalReleases, StoreError, StoreWrite};
use sled::Tree;

use crate::contain::{contained, io_error, sled_error};
use crate::data_dir::{DataDir, Reservation};
use crate::files::names_in;
use crate::journal::Journal;
use crate::mutants::{self, Mutant};
use crate::reader::{Shared, SledReader, parts_of};
use crate::record::{encode, part_count, part_key};
use crate::space;
use crate::tally::Tally;

/// A store on sled; the only writer of its data directory.
///
/// Dropping it closes it without a barrier: what was applied since the last one may be lost. Use
/// [`SledStore::close`].
pub struct SledStore {
    shared: Arc<Shared>,
    /// A second handle of sled's file, for the sync that sled leaves out.
    file: File,
    blobs: PathBuf,
    journal: Journal,
    /// `None` only while this is dropped.
    tally: Option<Tally>,
    last_applied: Option<BatchId>,
    /// Whether something was applied since the last barrier.
    unsynced: bool,
    /// The failure that made the store read-only.
    refused: Option<String>,
    data_dir: DataDir,
    _reservation: Reservation,
}

/// The parts a [`SledStore`] is made of, as [`open_store`](crate::open_store) found them.
pub(crate) struct OpenParts {
    pub(crate) tree: Tree,
    pub(crate) file: File,
    pub(crate) journal: Journal,
    pub(crate) tally: Tally,
    pub(crate) data_dir: DataDir,
    pub(crate) reservation: Reservation,
}

impl std::fmt::Debug for SledStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledStore")
            .field("path", &self.data_dir.path())
            .field("last_applied", &self.last_applied)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl SledStore {
    pub(crate) fn new(parts: OpenParts) -> Self {
        Self {
            shared: Arc::new(Shared::new(parts.tree, parts.data_dir.journal())),
            file: parts.file,
            blobs: parts.data_dir.sled().join("blobs"),
            journal: parts.journal,
            tally: Some(parts.tally),
            last_applied: None,
            unsynced: false,
            refused: None,
            data_dir: parts.data_dir,
            _reservation: parts.reservation,
        }
    }

    /// The directory this store is in.
    pub fn data_dir(&self) -> &DataDir {
        &self.data_dir
    }

    /// Makes everything applied durable and closes the store; readers fail from then on.
    ///
    /// The data directory's lock ends with the last clone of its [`DataDir`], of which the store
    /// holds one.
    ///
    /// # Errors
    /// When the last barrier fails, or an earlier failure forbids one; the store is closed anyway.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.barrier()
    }

    /// Leaves the store read-only after `error`, which is returned.
    fn refuse(&mut self, error: StoreError) -> StoreError {
        tracing::error!(%error, "the store is read-only until it is opened again");
        self.refused.get_or_insert_with(|| error.to_string());
        error
    }

    fn assert_writable(&self) -> Result<(), StoreError> {
        match &self.refused {
            Some(why) => Err(StoreError::ReadOnly { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Whether a batch may be applied after `last`.
    fn admit(&self, batch: &Batch, last: Option<BatchId>) -> Result<(), StoreError> {
        self.assert_writable()?;
        batch.admit(last)
    }

    /// Flips a bit of a stored record behind its checksum, as a disk may; whether there is such a record.
    ///
    /// # Errors
    /// If sled fails.
    #[cfg(feature = "rot")]
    pub fn rot(&mut self, key: &reconvene_core::keys::Key) -> Result<bool, StoreError> {
        let tree = self.tree();
        let stored_key = crate::record::part_key(key.as_bytes(), 0);
        let subject = format!("{key:?}");
        let failed = |error: sled::Error| crate::contain::sled_error(&error, &subject);
        let Some(found) = tree.get(&stored_key).map_err(failed)? else {
            return Ok(false);
        };
        let mut flipped = found.to_vec();
        if let Some(last) = flipped.last_mut() {
            *last ^= 1;
        }
        tree.insert(&stored_key, flipped).map_err(failed)?;
        tree.flush().map_err(failed)?;
        Ok(true)
    }

    /// The store's tree; its only other owner, the readers' state, loses it when this is dropped.
    pub(crate) fn tree(&self) -> Tree {
        let guard = self.shared.read();
        let state = guard
            .as_ref()
            .expect("the state is taken only when the store is dropped");
        state.tree.clone()
    }

    /// Writes batches in one atomic write of sled. Each such write costs sled two flushes of its
    /// buffers, whatever is in it.
    fn write(&self, batches: &[&Batch]) -> Result<(), StoreError> {
        let subject = || {
            let ids: Vec<_> = batches.iter().map(|batch| batch.id.to_string()).collect();
            format!("batches {}", ids.join(", "))
        };
        let tree = self.tree();
        let writes = merge(batches);
        // Made before the exclusive lock is taken: nobody else writes meanwhile.
        let sled_batch = contained(|| to_sled(&tree, &writes))
            .map_err(|what| panicked(&what))?
            .map_err(|error| sled_error(&error, &subject()))?;
        let mut guard = self.shared.write();
        let state = guard
            .as_mut()
            .expect("the state is taken only when the store is dropped");
        let error = match contained(|| tree.apply_batch(sled_batch)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => sled_error(&error, &subject()),
            Err(what) => panicked(&what),
        };
        state.unsure = writes.into_keys().cloned().collect();
        Err(error)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let tree = self.tree();
        contained(|| tree.flush())
            .map_err(|what| panicked(&what))?
            .map_err(|error| sled_error(&error, "the barrier"))?;
        let blobs = names_in(&self.blobs).map_err(|error| io_error(&error))?;
        if !blobs.is_empty() {
            return Err(StoreError::Io {
                what: format!(
                    "sled keeps {} values outside its log, which no barrier covers",
                    blobs.len()
                ),
            });
        }
        if mutants::is(Mutant::SyncsNoSled) {
            return Ok(());
        }
        self.file.sync_data().map_err(|error| io_error(&error))
    }
}

impl StoreWrite for SledStore {
    type Reader = SledReader;

    fn reader(&self) -> SledReader {
        SledReader {
            shared: self.shared.clone(),
        }
    }

    fn room(&mut self) -> Result<(), StoreError> {
        space::check(self.data_dir.path())
    }

    fn journal(&mut self, entries: &[&JournalEntry]) -> Result<(), StoreError> {
        self.assert_writable()?;
        self.journal
            .append(entries)
            .map_err(|error| self.refuse(io_error(&error)))
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let outcome = self.apply_group(&[batch]).pop();
        outcome.expect("every batch has an outcome")
    }

    fn apply_group(&mut self, batches: &[&Batch]) -> Vec<Result<(), StoreError>> {
        let mut last = self.last_applied;
        let mut outcomes: Vec<_> = batches
            .iter()
            .map(|batch| {
                self.admit(batch, last)?;
                last = Some(batch.id);
                Ok(())
            })
            .collect();
        let pairs = batches.iter().zip(&outcomes);
        let admitted: Vec<&Batch> = pairs
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(batch, _)| *batch)
            .collect();
        if admitted.is_empty() {
            return outcomes;
        }
        self.unsynced = true;
        match self.write(&admitted).map_err(|error| self.refuse(error)) {
            Ok(()) => {
                self.last_applied = last;
                if let Some(tally) = &mut self.tally {
                    tally.count();
                }
            }
            Err(error) => {
                let written = outcomes.iter_mut().filter(|outcome| outcome.is_ok());
                written.for_each(|outcome| *outcome = Err(error.clone()));
            }
        }
        outcomes
    }

    fn barrier(&mut self) -> Result<(), StoreError> {
        self.assert_writable()?;
        if self.unsynced {
            self.sync().map_err(|error| self.refuse(error))?;
            self.unsynced = false;
            if let Some(tally) = &mut self.tally {
                tally.barrier_passed();
            }
        }
        self.journal.barrier_passed();
        Ok(())
    }

    fn release_journal(&mut self, releases: &JournalReleases) -> Result<(), StoreError> {
        self.journal
            .release(releases)
            .map_err(|error| io_error(&error))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let state = self.shared.write().take();
        let tally = self.tally.take();
        // sled flushes as the last of it is dropped, and panics if it cannot.
        if let Err(what) = contained(|| drop((state, tally))) {
            tracing::error!(what, "sled panicked while it was closed");
        }
    }
}

/// What is left to write of batches in their order: the last write of each key, a value or nothing.
fn merge<'a>(batches: &[&'a Batch]) -> BTreeMap<&'a Key, Option<&'a Bytes>> {
    let mut writes = BTreeMap::new();
    for batch in batches {
        writes.extend(batch.puts.iter().map(|(key, value)| (key, Some(value))));
        writes.extend(batch.deletes.iter().map(|key| (key, None)));
    }
    writes
}

/// Writes in sled's terms, with the parts that longer old values leave over removed.
fn to_sled(tree: &Tree, writes: &BTreeMap<&Key, Option<&Bytes>>) -> sled::Result<sled::Batch> {
    let mut sled_batch = sled::Batch::default();
    for (key, value) in writes {
        let key = key.as_bytes();
        let Some(value) = value else {
            remove_parts(tree, key, 0, &mut sled_batch)?;
            continue;
        };
        remove_parts(tree, key, part_count(value.len()), &mut sled_batch)?;
        for (stored_key, stored) in encode(key, value) {
            sled_batch.insert(stored_key, stored);
        }
    }
    Ok(sled_batch)
}

/// Removes the stored parts of a record from number `from` on, whatever its part 0 says. Parts beyond
/// a gap, which only damage can make, stay: reading the record then reports it.
fn remove_parts(
    tree: &Tree,
    key: &[u8],
    from: usize,
    sled_batch: &mut sled::Batch,
) -> sled::Result<()> {
    let from = u16::try_from(from).expect("a value has at most 2^16 parts");
    // Nearly every record keeps its number of parts, and a look-up costs less than a range.
    if from > 0 && !tree.contains_key(part_key(key, from))? {
        return Ok(());
    }
    for row in parts_of(tree, key, from) {
        let (_, stored_key, _) = row?;
        sled_batch.remove(stored_key);
    }
    Ok(())
}

fn panicked(what: &str) -> StoreError {
    StoreError::Io {
        what: format!("sled panicked: {what}"),
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
