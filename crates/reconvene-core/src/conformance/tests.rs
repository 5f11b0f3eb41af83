//! The suite itself: stores that break one promise each must be caught, by name.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::{Reopen, Reopened, StoreFactory, check_store};
use crate::ids::FeedSeq;
use crate::keys::{Key, KeyRange};
use crate::memory::{MemoryReader, MemoryStore};
use crate::storage::{
    Batch, JournalEntry, JournalReleases, Rows, Scan, StoreError, StoreRead, StoreWrite, Survey,
};

/// The promise a store breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    KeepsDeleted,
    ShortensOverwritten,
    LosesEmptyValues,
    ContainsNoEmptyValues,
    WritesBesideTooLarge,
    IgnoresAfter,
    WritesWithoutPredecessor,
    NeverSaysMore,
    SaysMoreAtTheBound,
    CountsBytesLate,
    ScansToTheEndInclusively,
    ScansPastInvertedBounds,
    BarrierDoesNothing,
    CrashTearsABatch,
    CrashSkipsABatch,
    JournalLosesItsLast,
    JournalRepeatsItsLast,
    JournalTurnsAround,
    JournalForgetsAtBarrier,
    ReleasesOneTooMany,
    ReleasesEveryWorkspace,
    ReleasesEveryEpoch,
    GroupGoesOnPastAFailure,
    GroupForgetsDeletes,
}

const FLAWS: [Flaw; 24] = [
    Flaw::KeepsDeleted,
    Flaw::ShortensOverwritten,
    Flaw::LosesEmptyValues,
    Flaw::ContainsNoEmptyValues,
    Flaw::WritesBesideTooLarge,
    Flaw::IgnoresAfter,
    Flaw::WritesWithoutPredecessor,
    Flaw::NeverSaysMore,
    Flaw::SaysMoreAtTheBound,
    Flaw::CountsBytesLate,
    Flaw::ScansToTheEndInclusively,
    Flaw::ScansPastInvertedBounds,
    Flaw::BarrierDoesNothing,
    Flaw::CrashTearsABatch,
    Flaw::CrashSkipsABatch,
    Flaw::JournalLosesItsLast,
    Flaw::JournalRepeatsItsLast,
    Flaw::JournalTurnsAround,
    Flaw::JournalForgetsAtBarrier,
    Flaw::ReleasesOneTooMany,
    Flaw::ReleasesEveryWorkspace,
    Flaw::ReleasesEveryEpoch,
    Flaw::GroupGoesOnPastAFailure,
    Flaw::GroupForgetsDeletes,
];

struct Flawed {
    flaw: Option<Flaw>,
    inner: MemoryStore,
    unbarriered: Vec<Batch>,
    journal: Vec<JournalEntry>,
}

#[derive(Clone)]
struct FlawedReader {
    flaw: Option<Flaw>,
    inner: MemoryReader,
}

struct Factory(Option<Flaw>);

impl Flawed {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Writes as no batch of the suite does: outside the chain.
    fn write(&mut self, batch: &Batch) {
        let batch = Batch {
            after: None,
            ..batch.clone()
        };
        self.inner.apply(&batch).unwrap();
    }
}

impl StoreWrite for Flawed {
    type Reader = FlawedReader;

    fn reader(&self) -> FlawedReader {
        FlawedReader {
            flaw: self.flaw,
            inner: self.inner.reader(),
        }
    }

    fn journal(&mut self, entries: &[&JournalEntry]) -> Result<(), StoreError> {
        self.journal.extend(entries.iter().copied().cloned());
        Ok(())
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut batch = batch.clone();
        match self.flaw {
            Some(Flaw::KeepsDeleted) => batch.deletes.clear(),
            Some(Flaw::ShortensOverwritten) => {
                for (key, value) in &mut batch.puts {
                    let old = self.inner.reader().read(key)?.unwrap_or_default();
                    if old.len() > value.len() {
                        // The parts past the new value's end are still there.
                        let parts = [&value[..], &old[value.len()..]];
                        *value = Bytes::from(parts.concat());
                    }
                }
            }
            Some(Flaw::LosesEmptyValues) => batch.puts.retain(|(_, value)| !value.is_empty()),
            Some(Flaw::IgnoresAfter) => batch.after = None,
            _ => {}
        }
        let result = self.inner.apply(&batch);
        match &result {
            Ok(()) => self.unbarriered.push(batch),
            Err(StoreError::ValueTooLarge { bytes }) if self.has(Flaw::WritesBesideTooLarge) => {
                batch.puts.retain(|(_, value)| value.len() < *bytes);
                batch.deletes.clear();
                self.write(&batch);
            }
            Err(StoreError::PredecessorFailed) if self.has(Flaw::WritesWithoutPredecessor) => {
                self.write(&batch);
            }
            Err(_) => {}
        }
        result
    }

    fn apply_group(&mut self, batches: &[&Batch]) -> Vec<Result<(), StoreError>> {
        let mut batches: Vec<Batch> = batches.iter().map(|batch| (*batch).clone()).collect();
        for batch in &mut batches {
            match self.flaw {
                Some(Flaw::GroupGoesOnPastAFailure) => batch.after = None,
                Some(Flaw::GroupForgetsDeletes) => batch.deletes.clear(),
                _ => {}
            }
        }
        batches.iter().map(|batch| self.apply(batch)).collect()
    }

    fn barrier(&mut self) -> Result<(), StoreError> {
        if self.has(Flaw::JournalForgetsAtBarrier) {
            self.journal.clear();
        }
        if self.has(Flaw::BarrierDoesNothing) {
            return Ok(());
        }
        self.unbarriered.clear();
        self.inner.barrier()
    }

    fn release_journal(&mut self, releases: &JournalReleases) -> Result<(), StoreError> {
        let greatest = releases.values().map(|release| release.through).max();
        let greatest = greatest.unwrap_or_default();
        let (one_more, any, mixes) = (
            self.has(Flaw::ReleasesOneTooMany),
            self.has(Flaw::ReleasesEveryWorkspace),
            self.has(Flaw::ReleasesEveryEpoch),
        );
        self.journal.retain(|entry| {
            let through = match releases.get(&entry.workspace) {
                _ if any => greatest,
                Some(release) if one_more => release.through.next(),
                Some(release) if release.epoch != entry.epoch && !mixes => FeedSeq(0),
                Some(release) => release.through,
                None => FeedSeq(0),
            };
            entry.through > through
        });
        Ok(())
    }
}

impl StoreRead for FlawedReader {
    fn read(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.inner.read(key)
    }

    fn contains(&self, key: &Key) -> Result<bool, StoreError> {
        if self.flaw == Some(Flaw::ContainsNoEmptyValues) {
            return Ok(self.inner.read(key)?.is_some_and(|value| !value.is_empty()));
        }
        self.inner.contains(key)
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, StoreError> {
        let mut scan = scan.clone();
        match (self.flaw, scan.range.end()) {
            (Some(Flaw::ScansToTheEndInclusively), Some(end)) => {
                let mut end = end.to_vec();
                end.push(0);
                scan.range = KeyRange::new(scan.range.start().to_vec(), Some(end));
            }
            (Some(Flaw::ScansPastInvertedBounds), Some(end)) if end < scan.range.start() => {
                let start = scan.range.start().to_vec();
                scan.range = KeyRange::new(end.to_vec(), Some(start));
            }
            (Some(Flaw::CountsBytesLate), _) => {
                scan.bytes_max = scan.bytes_max.saturating_add(1);
            }
            _ => {}
        }
        let mut rows = self.inner.scan(&scan)?;
        match self.flaw {
            Some(Flaw::NeverSaysMore) => rows.more = false,
            Some(Flaw::SaysMoreAtTheBound) => rows.more |= rows.rows.len() == scan.rows_max,
            _ => {}
        }
        Ok(rows)
    }

    fn survey(&self, range: &KeyRange) -> Result<Survey, StoreError> {
        self.inner.survey(range)
    }

    fn raw(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.inner.raw(key)
    }
}

impl StoreFactory for Factory {
    type Store = Flawed;

    fn open(&mut self) -> Flawed {
        Flawed {
            flaw: self.0,
            inner: MemoryStore::new(),
            unbarriered: Vec::new(),
            journal: Vec::new(),
        }
    }

    fn reopen(&mut self, store: Flawed, how: Reopen) -> Reopened<Flawed> {
        let mut found = Flawed {
            flaw: self.0,
            inner: match how {
                Reopen::Clean => store.inner.reopen(),
                Reopen::Crash => store.inner.crash(),
            },
            unbarriered: Vec::new(),
            journal: store.journal,
        };
        let last = found.journal.last().cloned();
        match self.0 {
            Some(Flaw::JournalLosesItsLast) => drop(found.journal.pop()),
            Some(Flaw::JournalRepeatsItsLast) => found.journal.extend(last),
            Some(Flaw::JournalTurnsAround) => found.journal.reverse(),
            Some(Flaw::CrashTearsABatch) if how == Reopen::Crash => {
                if let Some(mut first) = store.unbarriered.into_iter().next() {
                    first.deletes.clear();
                    found.write(&first);
                }
            }
            Some(Flaw::CrashSkipsABatch) if how == Reopen::Crash => {
                if let Some(second) = store.unbarriered.get(1) {
                    found.write(second);
                }
            }
            _ => {}
        }
        // What the flaw left is on disk, and the chain begins anew.
        found.inner = found.inner.reopen();
        let journal = found.journal.clone();
        Reopened {
            store: found,
            journal,
        }
    }
}

#[test]
fn a_store_without_a_flaw_passes() {
    check_store(|| Factory(None));
}

#[test]
fn every_flaw_is_caught_by_name() {
    let mut missed = Vec::new();
    let mut caught: BTreeMap<String, u32> = BTreeMap::new();
    for flaw in FLAWS {
        match catch_unwind(AssertUnwindSafe(|| check_store(|| Factory(Some(flaw))))) {
            Ok(()) => missed.push(flaw),
            Err(panic) => {
                let message = panic.downcast_ref::<String>().expect("formatted panics");
                let name = message.split('`').nth(1).expect("a check's name");
                assert!(message.starts_with("check `"), "{flaw:?}: {message}");
                *caught.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
    assert!(caught.len() > 5, "few checks do all the work: {caught:?}");
}
