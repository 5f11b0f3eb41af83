//! The store in memory against the suite, and the faults and losses only it can be told to have.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Fault, Faults, MemoryStore};
use crate::conformance::{Reopen, Reopened, StoreFactory, check_store};
use crate::ids::{BatchId, DocumentId, FeedSeq, StoreEpoch, WorkspaceId};
use crate::keys::Key;
use crate::storage::{Batch, Durability, JournalEntry, StoreError, StoreRead, StoreWrite};

const EPOCH: StoreEpoch = StoreEpoch::from_bytes([3; 16]);

/// Opens stores that lose in a crash all, none or some of what no barrier covered.
struct Memory {
    kept_in_crash: usize,
}

impl StoreFactory for Memory {
    type Store = MemoryStore;

    fn open(&mut self) -> MemoryStore {
        MemoryStore::new()
    }

    fn reopen(&mut self, store: MemoryStore, how: Reopen) -> Reopened<MemoryStore> {
        let store = match how {
            Reopen::Clean => store.reopen(),
            Reopen::Crash => store.crash_keeping(self.kept_in_crash),
        };
        let journal = store.journal_entries();
        Reopened { store, journal }
    }
}

#[test]
fn the_store_in_memory_conforms() {
    for kept_in_crash in [0, 2, usize::MAX] {
        check_store(|| Memory { kept_in_crash });
    }
}

fn key(number: u8) -> Key {
    Key::head(
        &WorkspaceId::from_bytes([1; 16]),
        &DocumentId::from_bytes([number; 16]),
    )
}

fn batch(id: u64, after: Option<u64>) -> Batch {
    Batch {
        id: BatchId(id),
        after: after.map(BatchId),
        puts: vec![(key(id as u8), Bytes::from_static(b"value"))],
        deletes: Vec::new(),
        journal: None,
        durability: Durability::Barrier,
    }
}

fn entry(through: u64) -> JournalEntry {
    JournalEntry {
        workspace: WorkspaceId::from_bytes([1; 16]),
        epoch: EPOCH,
        through: FeedSeq(through),
        frame: Bytes::from_static(b"frame"),
    }
}

fn io() -> StoreError {
    StoreError::Io {
        what: "unplugged".to_owned(),
    }
}

fn holds(store: &MemoryStore, number: u8) -> bool {
    store.reader().contains(&key(number)).unwrap()
}

#[test]
fn a_crash_loses_what_no_barrier_covered() {
    let mut store = MemoryStore::new();
    store.apply(&batch(1, None)).unwrap();
    store.barrier().unwrap();
    store.journal(&[&entry(7)]).unwrap();
    store.apply(&batch(2, Some(1))).unwrap();
    store.apply(&batch(3, Some(2))).unwrap();
    assert_eq!(store.unbarriered(), 2);
    let old_reader = store.reader();

    let store = store.crash_keeping(1).crash();
    assert_eq!(old_reader.read(&key(1)), Err(StoreError::Closed));
    assert_eq!([1, 2, 3].map(|n| holds(&store, n)), [true, true, false]);
    assert_eq!(store.journal_entries(), [entry(7)]);
}

#[test]
fn losing_everything_but_the_journal_keeps_the_journal() {
    let mut store = MemoryStore::new();
    store.journal(&[&entry(1), &entry(2)]).unwrap();
    store.apply(&batch(1, None)).unwrap();
    store.barrier().unwrap();
    let store = store.wipe();
    assert!(!holds(&store, 1));
    assert_eq!(store.journal_entries(), [entry(1), entry(2)]);
}

#[test]
fn a_released_entry_stays_until_a_barrier_covers_it() {
    let mut store = MemoryStore::new();
    let releases = BTreeMap::from([(entry(1).workspace, (EPOCH, FeedSeq(9)).into())]);
    store.journal(&[&entry(1)]).unwrap();
    store.release_journal(&releases).unwrap();
    assert_eq!(store.journal_entries(), [entry(1)]);
    store.barrier().unwrap();
    store.release_journal(&releases).unwrap();
    assert_eq!(store.journal_entries(), []);
}

#[test]
fn a_release_of_a_new_epoch_frees_what_was_journalled_before_it() {
    let later = |through| JournalEntry {
        epoch: StoreEpoch::from_bytes([4; 16]),
        ..entry(through)
    };
    let release =
        |epoch, through| BTreeMap::from([(entry(1).workspace, (epoch, FeedSeq(through)).into())]);
    let mut store = MemoryStore::new();
    store.journal(&[&entry(7), &entry(9)]).unwrap();
    store.barrier().unwrap();
    let mut store = store.wipe();
    store.journal(&[&later(1), &later(2)]).unwrap();
    store.barrier().unwrap();

    // Overtaken by the new epoch: frees its own frames only.
    store.release_journal(&release(EPOCH, 7)).unwrap();
    assert_eq!(store.journal_entries(), [entry(9), later(1), later(2)]);
    store.release_journal(&release(later(1).epoch, 1)).unwrap();
    assert_eq!(store.journal_entries(), [later(2)]);
}

#[test]
fn a_failed_apply_fails_its_successors_until_the_chain_starts_anew() {
    let mut store = MemoryStore::new();
    store.apply(&batch(1, None)).unwrap();
    store.set_faults(Faults {
        apply: BTreeMap::from([(1, StoreError::NoSpace)]),
        ..Faults::default()
    });
    store.apply(&batch(2, Some(1))).unwrap();
    assert_eq!(store.apply(&batch(3, Some(2))), Err(StoreError::NoSpace));
    assert_eq!(
        store.apply(&batch(4, Some(3))),
        Err(StoreError::PredecessorFailed)
    );
    store.apply(&batch(5, None)).unwrap();
    let store = store.reopen();
    assert_eq!(
        [1, 2, 3, 4, 5].map(|n| holds(&store, n)),
        [true, true, false, false, true]
    );
}

#[test]
fn after_a_failed_journal_or_barrier_only_reads_go_on() {
    for lands in [false, true] {
        let fault = BTreeMap::from([(0, Fault { error: io(), lands })]);
        let mut store = MemoryStore::new();
        store.apply(&batch(1, None)).unwrap();
        store.set_faults(Faults {
            barrier: fault.clone(),
            ..Faults::default()
        });
        assert_eq!(store.barrier(), Err(io()));
        assert_refuses_writes(&mut store);
        assert!(holds(&store, 1));
        assert_eq!(holds(&store.crash(), 1), lands);

        let mut store = MemoryStore::new();
        store.set_faults(Faults {
            journal: fault,
            ..Faults::default()
        });
        assert_eq!(store.journal(&[&entry(1)]), Err(io()));
        assert_refuses_writes(&mut store);
        let mut store = store.crash();
        assert_eq!(store.journal_entries().len(), usize::from(lands));
        store.apply(&batch(1, None)).unwrap();
        store.barrier().unwrap();
    }
}

fn assert_refuses_writes(store: &mut MemoryStore) {
    let refused = Err(StoreError::ReadOnly {
        why: io().to_string(),
    });
    assert_eq!(store.journal(&[]), refused);
    assert_eq!(store.apply(&batch(9, None)), refused);
    assert_eq!(store.barrier(), refused);
    assert_eq!(store.release_journal(&BTreeMap::new()), refused);
}
