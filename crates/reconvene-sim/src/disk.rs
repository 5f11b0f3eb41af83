//! A node's disk: batches in, completions out, each step a moment of its own so that a crash can
//! fall between any two.
//!
//! A group of batches is journalled in one call, applied one by one, and covered by one barrier,
//! as the writer thread of a real store does it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use reconvene_core::engine::{Input, ReadQuery, ReadResult, SendStored, StoredBodies};
use reconvene_core::examine;
use reconvene_core::ids::{BatchId, ChangeHash, DocumentId, WorkspaceId};
use reconvene_core::keys::{Key, KeyKind, KeyRange};
use reconvene_core::memory::{MemoryReader, MemoryStore};
use reconvene_core::records::{JournalFrame, Record as _, SnapshotRow};
use reconvene_core::storage::{
    Batch, Durability, JournalEntry, Scan, StoreError, StoreRead, StoreWrite as _,
};
use reconvene_core::stored::BodiesError;

use crate::snapshots;

/// One change of one document.
pub type Fact = (WorkspaceId, DocumentId, ChangeHash);

/// The disk of one node.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) store: MemoryStore,
    /// What was written, whatever has rotted since.
    pub(crate) reader: MemoryReader,
    /// What engine and host read.
    pub(crate) rotting: MemoryReader,
    /// Changes that were removed because they had rotted, in any of its node's lives. What was said to be held before that, or
    /// until they came back, does not hold of them.
    pub(crate) lost: BTreeSet<Fact>,
    queue: VecDeque<Batch>,
    group: Vec<Batch>,
    pub(crate) busy: bool,
    /// Changes that survive a power cut: journalled or behind a barrier.
    pub(crate) durable: BTreeSet<Fact>,
    /// What the store holds behind a barrier, in the order in which the engine was told.
    pub(crate) told: Vec<Fact>,
    facts_of: BTreeMap<BatchId, Vec<Fact>>,
    pub(crate) counts: DiskCounts,
    /// What the last barrier covered.
    covered: BTreeMap<Key, Bytes>,
    /// Whether the store failed in a way that needs it opened again.
    pub(crate) refuses_writes: bool,
    /// Whether it has too little room.
    pub(crate) low_space: bool,
}

/// What a disk was asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Batches handed over.
    pub batches: u64,
    /// Barriers made.
    pub barriers: u64,
    /// Reads of any kind.
    pub reads: u64,
    /// Change bodies read, by whatever means.
    pub bodies: u64,
    /// Documents and snapshots loaded for the engine.
    pub loads: u64,
    /// Searches for damaged records.
    pub searches: u64,
}

/// Everything a store holds, to be put back later.
#[derive(Clone, Debug)]
pub struct StoreCopy {
    rows: Vec<(Key, Bytes)>,
}

impl Disk {
    pub(crate) fn open(store: MemoryStore, lost: BTreeSet<Fact>) -> Self {
        let rotting = store.reader();
        let reader = rotting.seeing_through_rot();
        let mut durable: BTreeSet<Fact> = all_changes(&reader).into_iter().collect();
        for entry in store.journal_entries() {
            durable.extend(journal_facts(&entry));
        }
        let told = all_changes(&reader);
        let covered = all_rows(&reader).into_iter().collect();
        Self {
            store,
            reader,
            rotting,
            lost,
            queue: VecDeque::new(),
            group: Vec::new(),
            busy: false,
            durable,
            told,
            facts_of: BTreeMap::new(),
            counts: DiskCounts::default(),
            covered,
            refuses_writes: false,
            low_space: false,
        }
    }

    pub(crate) fn submit(&mut self, batch: Batch) {
        self.counts.batches += 1;
        let facts = batch
            .puts
            .iter()
            .flat_map(|(key, value)| facts_in(key, value))
            .collect();
        self.facts_of.insert(batch.id, facts);
        self.queue.push_back(batch);
    }

    /// Changes of one document that survive a power cut.
    pub(crate) fn durable_of(
        &self,
        place: (WorkspaceId, DocumentId),
    ) -> impl Iterator<Item = ChangeHash> + '_ {
        let facts = self.durable.range(of_document(place));
        facts.map(|(_, _, hash)| *hash)
    }

    /// The same, and what is on its way to the store.
    pub(crate) fn assigned(&self, place: (WorkspaceId, DocumentId)) -> BTreeSet<ChangeHash> {
        let pending = self.facts_of.values().flatten();
        let pending = pending.filter(|(of, document, _)| (*of, *document) == place);
        let pending = pending.map(|(_, _, hash)| *hash);
        self.durable_of(place).chain(pending).collect()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn room(&self) -> Result<(), StoreError> {
        if self.low_space {
            return Err(StoreError::LowSpace {
                free_bytes: 1,
                floor_bytes: 2,
            });
        }
        Ok(())
    }

    /// Takes a group and journals it.
    pub(crate) fn journal(&mut self) -> Vec<Input> {
        const GROUP_BATCHES_MAX: usize = 16;
        let count = self.queue.len().min(GROUP_BATCHES_MAX);
        self.group = self.queue.drain(..count).collect();
        if let Err(error) = self.room() {
            let group = std::mem::take(&mut self.group);
            let failed = group.iter().map(|batch| Input::BatchFailed {
                batch: batch.id,
                error: error.clone(),
            });
            return failed.collect();
        }
        let mut answers = self.refuse_hopeless();
        let entries: Vec<_> = self
            .group
            .iter()
            .filter_map(|batch| batch.journal.as_ref())
            .collect();
        if entries.is_empty() {
            return answers;
        }
        match self.store.journal(&entries) {
            Ok(()) => {
                for entry in &entries {
                    self.durable.extend(journal_facts(entry));
                }
                answers
            }
            Err(error) => {
                self.refuses_writes = true;
                let group = std::mem::take(&mut self.group);
                let outcome = group.into_iter().map(|batch| {
                    let error = error.clone();
                    let batch_id = batch.id;
                    // Only a batch with an entry may come back after a restart.
                    if batch.journal.is_some() {
                        Input::BatchUnknown {
                            batch: batch_id,
                            error,
                        }
                    } else {
                        Input::BatchFailed {
                            batch: batch_id,
                            error,
                        }
                    }
                });
                answers.extend(outcome);
                answers
            }
        }
    }

    /// Takes out of the group what could not be applied, so that it is not journalled.
    fn refuse_hopeless(&mut self) -> Vec<Input> {
        let mut last = self.store.last_applied();
        let mut refused = Vec::new();
        self.group.retain(|batch| match batch.admit(last) {
            Ok(()) => {
                last = Some(batch.id);
                true
            }
            Err(error) => {
                refused.push(Input::BatchFailed {
                    batch: batch.id,
                    error,
                });
                false
            }
        });
        refused
    }

    /// Applies the group; only now, when readers see it, it is told what the journal has.
    pub(crate) fn apply(&mut self) -> Vec<Input> {
        let mut failed = Vec::new();
        for batch in std::mem::take(&mut self.group) {
            match self.store.apply(&batch) {
                Ok(()) => self.group.push(batch),
                Err(error) if batch.journal.is_some() => {
                    self.refuses_writes = true;
                    failed.push(Input::BatchUnknown {
                        batch: batch.id,
                        error,
                    });
                }
                Err(error) => failed.push(Input::BatchFailed {
                    batch: batch.id,
                    error,
                }),
            }
        }
        let journaled = self.group.iter().filter(|batch| batch.journal.is_some());
        let journaled = journaled.map(|batch| Input::Journaled(batch.id));
        journaled.chain(failed).collect()
    }

    pub(crate) fn barrier(&mut self) -> Vec<Input> {
        let group = std::mem::take(&mut self.group);
        self.busy = false;
        let Some(last) = group.last() else {
            return Vec::new();
        };
        self.counts.barriers += 1;
        match self.store.barrier() {
            Ok(()) => {
                for batch in &group {
                    let puts = batch.puts.iter();
                    self.durable
                        .extend(puts.flat_map(|(key, value)| facts_in(key, value)));
                    self.covered.extend(batch.puts.iter().cloned());
                    for key in &batch.deletes {
                        self.covered.remove(key);
                    }
                }
                self.note_lost(&group);
                vec![Input::Stored(last.id)]
            }
            Err(error) => {
                self.refuses_writes = true;
                let unknown = group.iter().map(|batch| Input::BatchUnknown {
                    batch: batch.id,
                    error: error.clone(),
                });
                unknown.collect()
            }
        }
    }

    /// Takes note of what is nowhere any more after a batch that set something damaged aside.
    fn note_lost(&mut self, group: &[Batch]) {
        let is_aside =
            |key: &Key| matches!(key.kind(), Some(KeyKind::Quarantine | KeyKind::Damage));
        for batch in group {
            if !batch.puts.iter().any(|(key, _)| is_aside(key)) {
                continue;
            }
            let covered = self.covered.iter();
            let mut left: BTreeSet<_> = covered
                .flat_map(|(key, value)| facts_in(key, value))
                .collect();
            for entry in self.store.journal_entries() {
                left.extend(journal_facts(&entry));
            }
            self.lost.extend(self.durable.difference(&left).copied());
            self.durable.retain(|fact| left.contains(fact));
        }
    }

    /// Notes what the engine learns from a completion; yields what it now knows to be durable.
    pub(crate) fn note_told(&mut self, input: &Input) -> Vec<Fact> {
        match input {
            Input::BatchFailed { batch, .. } | Input::BatchUnknown { batch, .. } => {
                self.facts_of.remove(batch);
                Vec::new()
            }
            Input::Journaled(batch) => self.facts_of.get(batch).cloned().unwrap_or_default(),
            Input::Stored(batch) => {
                let later = self.facts_of.split_off(&batch.next());
                let stored = std::mem::replace(&mut self.facts_of, later);
                let facts: Vec<_> = stored.into_values().flatten().collect();
                self.told.extend(facts.iter().copied());
                facts
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn read(&mut self, query: &ReadQuery) -> Result<ReadResult, StoreError> {
        self.counts.reads += 1;
        let reader = &self.rotting;
        let result = match query {
            ReadQuery::Values(keys) => ReadResult::Values(
                keys.iter()
                    .map(|key| reader.read(key))
                    .collect::<Result<_, _>>()?,
            ),
            ReadQuery::Presence(keys) => ReadResult::Presence(
                keys.iter()
                    .map(|key| reader.contains(key))
                    .collect::<Result<_, _>>()?,
            ),
            ReadQuery::Scan(scan) => {
                let rows = reader.scan(scan)?;
                let bodies = rows.rows.iter().filter(|(key, _)| fact_of(key).is_some());
                self.counts.bodies += bodies.count() as u64;
                ReadResult::Rows(rows)
            }
            ReadQuery::Inspect(received) => {
                self.counts.loads += received.len() as u64;
                let loaded = received.iter().map(|(_, body)| snapshots::inspect(body));
                ReadResult::Inspected(loaded.collect())
            }
            ReadQuery::Holds {
                workspace,
                document,
                hashes,
            } => {
                self.counts.loads += 1;
                ReadResult::Presence(snapshots::holds(reader, (workspace, document), hashes)?)
            }
            ReadQuery::Beyond {
                workspace,
                document,
                known,
            } => {
                self.counts.loads += 1;
                ReadResult::Changes(snapshots::beyond(reader, (workspace, document), known)?)
            }
            ReadQuery::Search { workspace, ranges } => {
                self.counts.searches += 1;
                ReadResult::Found(examine::search(reader, workspace, ranges)?)
            }
            ReadQuery::Owner { workspace, seq } => {
                self.counts.searches += 1;
                ReadResult::Found(vec![examine::missing_entry(reader, workspace, *seq)?])
            }
            ReadQuery::FeedEnd(workspace) => {
                self.counts.searches += 1;
                ReadResult::FeedEnd(examine::feed_end(reader, workspace)?)
            }
            ReadQuery::Examine {
                workspace,
                document,
                roots,
            } => {
                self.counts.loads += 1;
                let journal = self.store.journal_entries();
                let place = (workspace, document);
                let inspect = |_, body: &Bytes| snapshots::inspect(body).ok();
                let examined = examine::examine(reader, &journal, place, roots, &inspect)?;
                ReadResult::Examined(Box::new(examined))
            }
        };
        Ok(result)
    }

    pub(crate) fn read_bodies(
        &mut self,
        stored: &SendStored,
    ) -> Result<Vec<StoredBodies>, BodiesError> {
        let changes = stored.documents.iter().map(|asked| asked.changes.len());
        self.counts.bodies += changes.sum::<usize>() as u64;
        reconvene_core::stored::bodies(&self.rotting, stored)
    }

    /// What would be found after a power cut.
    pub(crate) fn copy_durable(&self) -> StoreCopy {
        let rows = self.covered.iter();
        StoreCopy {
            rows: rows
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }
    }
}

impl StoreCopy {
    /// A store that holds this and, of `store`, nothing but its journal.
    pub(crate) fn restore_into(&self, store: MemoryStore) -> MemoryStore {
        let mut store = store.wipe();
        store
            .apply(&Batch {
                id: BatchId(u64::MAX),
                after: None,
                puts: self.rows.clone(),
                deletes: Vec::new(),
                journal: None,
                durability: Durability::Barrier,
            })
            .and_then(|()| store.barrier())
            .expect("a fresh store without faults takes rows");
        store.reopen()
    }
}

/// All that can be changes of one document.
pub(crate) fn of_document(
    (workspace, document): (WorkspaceId, DocumentId),
) -> std::ops::RangeInclusive<Fact> {
    let hash = |byte| ChangeHash::from_bytes([byte; 32]);
    (workspace, document, hash(0))..=(workspace, document, hash(u8::MAX))
}

pub(crate) fn all_rows(reader: &MemoryReader) -> Vec<(Key, Bytes)> {
    let everything = KeyRange::new(Vec::new(), None);
    let scan = Scan::ascending(everything, usize::MAX);
    reader.scan(&scan).expect("an open store reads").rows
}

pub(crate) fn all_changes(reader: &MemoryReader) -> Vec<Fact> {
    let rows = all_rows(reader);
    let facts = rows.iter().flat_map(|(key, value)| facts_in(key, value));
    facts.collect()
}

/// The changes a record holds: one, those of a snapshot, or none.
pub(crate) fn facts_in(key: &Key, value: &[u8]) -> Vec<Fact> {
    let bytes = key.as_bytes();
    if key.snapshot_hash().is_none() {
        return fact_of(key).into_iter().collect();
    }
    let row = SnapshotRow::decode(value).expect("a stored snapshot decodes");
    let headers = snapshots::inspect(&row.body).expect("a stored snapshot is readable");
    let place = |range: std::ops::Range<usize>| bytes[range].try_into().expect("it has 16 bytes");
    let workspace = WorkspaceId::from_bytes(place(1..17));
    let document = DocumentId::from_bytes(place(17..33));
    headers
        .iter()
        .map(|header| (workspace, document, header.hash))
        .collect()
}

pub(crate) fn fact_of(key: &Key) -> Option<Fact> {
    let hash = key.change_hash()?;
    let bytes = key.as_bytes();
    let workspace = bytes[1..17].try_into().ok()?;
    let document = bytes[17..33].try_into().ok()?;
    Some((
        WorkspaceId::from_bytes(workspace),
        DocumentId::from_bytes(document),
        hash,
    ))
}

pub(crate) fn journal_facts(entry: &JournalEntry) -> Vec<Fact> {
    let frame = JournalFrame::decode(&entry.frame).expect("the engine writes valid frames");
    let mut facts = Vec::new();
    for document in &frame.documents {
        for body in &document.changes {
            let header = reconvene_core::guard::parse_change(body)
                .expect("only guarded changes are journalled");
            facts.push((frame.workspace, document.document, header.hash));
        }
    }
    facts
}
