//! Tests of the writer's order and of what it says when the store fails, at every call.

use std::sync::mpsc;

use bytes::Bytes;
use reconvene_core::ids::FeedSeq;
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits::VALUE_BYTES_MAX;
use reconvene_core::storage::{JournalEntry, Rows, Scan, StoreRead, Survey};

use super::*;
use crate::testing::{EPOCH, WORKSPACE, batch, change_key, entry, open, value};

/// What a [`TestStore`] does at the call it was told to fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Failure {
    Error,
    Panic,
}

#[derive(Clone, Debug, PartialEq)]
enum Call {
    Journal(Vec<u64>),
    Apply(u64),
    Barrier,
    Release(JournalReleases),
}

/// A store that notes its calls, and fails from the given one on.
struct TestStore {
    calls: Arc<Mutex<Vec<Call>>>,
    fails_at: Option<(usize, Failure)>,
    gate: Option<Gate>,
}

/// Holds the writer at its first call, so that a test can fill its queue.
struct Gate {
    reached: mpsc::Sender<()>,
    opened: mpsc::Receiver<()>,
}

/// The test's end of a [`Gate`].
struct GateKeeper {
    reached: mpsc::Receiver<()>,
    opened: mpsc::Sender<()>,
}

impl Gate {
    fn new() -> (Self, GateKeeper) {
        let (reached, is_reached) = mpsc::channel();
        let (open, opened) = mpsc::channel();
        let keeper = GateKeeper {
            reached: is_reached,
            opened: open,
        };
        (Self { reached, opened }, keeper)
    }
}

#[derive(Clone)]
struct NoReader;

impl StoreRead for NoReader {
    fn read(&self, _key: &Key) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    fn contains(&self, _key: &Key) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn scan(&self, _scan: &Scan) -> Result<Rows, StoreError> {
        Ok(Rows::default())
    }

    fn survey(&self, _range: &KeyRange) -> Result<Survey, StoreError> {
        Ok(Survey::default())
    }

    fn raw(&self, _key: &Key) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }
}

impl TestStore {
    fn call(&mut self, call: Call) -> Result<(), StoreError> {
        if let Some(gate) = self.gate.take() {
            gate.reached.send(()).unwrap();
            gate.opened.recv().unwrap();
        }
        let mut calls = self.calls.lock().unwrap();
        calls.push(call);
        let number = calls.len();
        drop(calls);
        match self.fails_at {
            Some((at, Failure::Panic)) if number == at => panic!("told to panic"),
            Some((at, _)) if number == at => Err(StoreError::NoSpace),
            Some((at, _)) if number > at => Err(StoreError::ReadOnly {
                why: "failed before".to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

impl StoreWrite for TestStore {
    type Reader = NoReader;

    fn reader(&self) -> NoReader {
        NoReader
    }

    fn journal(&mut self, entries: &[&JournalEntry]) -> Result<(), StoreError> {
        let through = entries.iter().map(|entry| entry.through.0).collect();
        self.call(Call::Journal(through))
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.call(Call::Apply(batch.id.0))
    }

    fn barrier(&mut self) -> Result<(), StoreError> {
        self.call(Call::Barrier)
    }

    fn release_journal(&mut self, releases: &JournalReleases) -> Result<(), StoreError> {
        self.call(Call::Release(releases.clone()))
    }
}

/// Batch `id`, following the one before; `journalled` ones have an entry through their id.
fn linked(id: u64, journalled: bool) -> Batch {
    let mut batch = batch(id, vec![(change_key(id), value(id, 10))]);
    batch.after = (id > 1).then(|| BatchId(id - 1));
    batch.journal = journalled.then(|| entry(id, 10));
    batch
}

/// A store whose disk has room only when told so.
struct CrampedStore {
    inner: TestStore,
    has_room: Arc<std::sync::atomic::AtomicBool>,
}

const LOW: StoreError = StoreError::LowSpace {
    free_bytes: 1,
    floor_bytes: 2,
};

impl StoreWrite for CrampedStore {
    type Reader = NoReader;

    fn reader(&self) -> NoReader {
        NoReader
    }

    fn room(&mut self) -> Result<(), StoreError> {
        match self.has_room.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(LOW),
        }
    }

    fn journal(&mut self, entries: &[&JournalEntry]) -> Result<(), StoreError> {
        self.inner.journal(entries)
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.inner.apply(batch)
    }

    fn barrier(&mut self) -> Result<(), StoreError> {
        self.inner.barrier()
    }

    fn release_journal(&mut self, releases: &JournalReleases) -> Result<(), StoreError> {
        self.inner.release_journal(releases)
    }
}

struct Run {
    calls: Vec<Call>,
    completions: Vec<Completion>,
    ended_well: bool,
}

/// Submits batches while the writer is held at its first call, so that the first is a group of its
/// own and the others are grouped up to the bounds.
fn run(batches: Vec<Batch>, fails_at: Option<(usize, Failure)>) -> Run {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (gate, keeper) = Gate::new();
    let store = TestStore {
        calls: calls.clone(),
        fails_at,
        gate: Some(gate),
    };
    let (sender, completions) = mpsc::channel();
    let writer = Writer::spawn(store, move |completion| sender.send(completion).unwrap()).unwrap();
    let mut batches = batches.into_iter();
    writer.submit(batches.next().unwrap()).unwrap();
    keeper.reached.recv().unwrap();
    for batch in batches {
        writer.submit(batch).unwrap();
    }
    keeper.opened.send(()).unwrap();
    let ended_well = writer.shutdown().is_ok();
    let calls = calls.lock().unwrap().clone();
    Run {
        calls,
        completions: completions.iter().collect(),
        ended_well,
    }
}

fn stored(id: u64) -> Completion {
    Completion::Stored(BatchId(id))
}

fn journaled(id: u64) -> Completion {
    Completion::Journaled(BatchId(id))
}

#[test]
fn a_group_shares_its_journal_write_and_its_barrier() {
    let batches = [(1, false), (2, false), (3, true), (4, true)];
    let run = run(batches.map(|(id, has)| linked(id, has)).into(), None);
    let expected = [
        Call::Apply(1),
        Call::Barrier,
        Call::Journal(vec![3, 4]),
        Call::Apply(2),
        Call::Apply(3),
        Call::Apply(4),
        Call::Barrier,
        Call::Barrier,
    ];
    assert_eq!(run.calls, expected);
    let expected = [
        stored(1),
        journaled(3),
        journaled(4),
        stored(2),
        stored(3),
        stored(4),
    ];
    assert_eq!(run.completions, expected);
    assert!(run.ended_well);
}

#[test]
fn groups_whose_authors_need_no_barrier_share_one() {
    let groups = BARRIER_GROUPS_MAX as u64 + 2;
    let last = 1 + groups * GROUP_BATCHES_MAX as u64;
    // The first batch is a group of its own, and all but the last batch are journalled.
    let run = run((1..=last).map(|id| linked(id, id < last)).collect(), None);
    let shared = Call::Apply(1 + (BARRIER_GROUPS_MAX as u64 - 1) * GROUP_BATCHES_MAX as u64);
    let barriers = (0..run.calls.len()).filter(|at| run.calls[*at] == Call::Barrier);
    let barriers: Vec<_> = barriers.map(|at| run.calls[at - 1].clone()).collect();
    assert_eq!(barriers, [shared, Call::Apply(last), Call::Barrier]);
    let is_stored = |completion: &&Completion| matches!(completion, Completion::Stored(_));
    let answers = run.completions.iter().filter(is_stored);
    assert!(answers.cloned().eq((1..=last).map(stored)));
}

#[test]
fn groups_are_bounded_in_batches_and_bytes() {
    let many = (1..=1 + GROUP_BATCHES_MAX as u64 + 1).map(|id| linked(id, false));
    let barriers = |run: &Run| {
        run.calls
            .iter()
            .filter(|call| **call == Call::Barrier)
            .count()
    };
    // The first alone, a full group, the last alone, and the end.
    assert_eq!(barriers(&run(many.collect(), None)), 4);

    let big = (1..=5).map(|id| {
        let mut batch = linked(id, false);
        let value = Bytes::from(vec![0; VALUE_BYTES_MAX]);
        let rows = 0..(GROUP_BYTES_MAX / 2).div_ceil(VALUE_BYTES_MAX) as u64;
        batch.puts = rows.map(|row| (change_key(row), value.clone())).collect();
        batch
    });
    assert_eq!(barriers(&run(big.collect(), None)), 4);
}

#[test]
fn every_failure_at_every_call_is_answered_truthfully() {
    let batches = || (1..=5).map(|id| linked(id, id % 2 == 1)).collect();
    let whole = run(batches(), None);
    for failure in [Failure::Error, Failure::Panic] {
        for at in 1..=whole.calls.len() {
            let failed = run(batches(), Some((at, failure)));
            check_answers(&failed, at, failure);
        }
    }
}

/// Checks that each batch has one final answer, in order, and that none claims more than happened.
fn check_answers(run: &Run, at: usize, failure: Failure) {
    let context = format!("{failure:?} at {at}: {:?} {:?}", run.calls, run.completions);
    let intact = &run.calls[..at - 1];
    let barrier = intact.iter().rposition(|call| *call == Call::Barrier);
    let durable = &intact[..barrier.unwrap_or(0)];
    let mut answered = Vec::new();
    for completion in &run.completions {
        match completion {
            Completion::Journaled(id) => {
                assert!(!answered.contains(&id.0), "{context}");
                let is_entry =
                    |call: &Call| matches!(call, Call::Journal(ids) if ids.contains(&id.0));
                assert!(intact.iter().any(is_entry), "{context}");
            }
            Completion::Stored(id) => {
                answered.push(id.0);
                assert!(durable.contains(&Call::Apply(id.0)), "{context}");
            }
            Completion::Failed { id, .. } => {
                answered.push(id.0);
                assert!(!intact.contains(&Call::Apply(id.0)), "{context}");
                let mut until = run.calls[..at].iter();
                let is_entry =
                    |call: &Call| matches!(call, Call::Journal(ids) if ids.contains(&id.0));
                assert!(!until.any(is_entry), "it may come back: {context}");
                let panicked_in =
                    run.calls.get(at - 1) == Some(&Call::Apply(id.0)) && failure == Failure::Panic;
                assert!(!panicked_in, "{context}");
            }
            Completion::Room(_) => panic!("nobody asked: {context}"),
            Completion::Unknown { id, .. } => {
                answered.push(id.0);
                assert!(!durable.contains(&Call::Apply(id.0)), "{context}");
            }
        }
    }
    assert_eq!(answered, [1, 2, 3, 4, 5], "{context}");
    assert!(!run.ended_well, "{context}");
    if failure == Failure::Panic {
        assert_eq!(
            run.calls.len(),
            at,
            "a store that panicked is called again: {context}"
        );
    }
}

#[test]
fn a_failed_barrier_leaves_the_outcome_unknown() {
    let run = run(
        (1..=3).map(|id| linked(id, false)).collect(),
        Some((5, Failure::Error)),
    );
    let unknown = |id| Completion::Unknown {
        id: BatchId(id),
        error: StoreError::NoSpace,
    };
    assert_eq!(run.calls[4], Call::Barrier);
    assert_eq!(run.completions, [stored(1), unknown(2), unknown(3)]);
}

#[test]
fn a_group_without_room_fails_whole_and_a_later_one_is_written() {
    let has_room = Arc::<std::sync::atomic::AtomicBool>::default();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let store = CrampedStore {
        inner: TestStore {
            calls: calls.clone(),
            fails_at: None,
            gate: None,
        },
        has_room: has_room.clone(),
    };
    let (sender, completions) = mpsc::channel();
    let writer = Writer::spawn(store, move |completion| sender.send(completion).unwrap()).unwrap();
    writer.submit(linked(1, true)).unwrap();
    let refused = Completion::Failed {
        id: BatchId(1),
        error: LOW,
    };
    assert_eq!(completions.recv().unwrap(), refused);
    assert_eq!(*calls.lock().unwrap(), [], "nothing of it is written");

    has_room.store(true, Ordering::SeqCst);
    // What counted on the refused one fails, and the feed gets no gap.
    writer.submit(linked(2, true)).unwrap();
    let hopeless = Completion::Failed {
        id: BatchId(2),
        error: StoreError::PredecessorFailed,
    };
    assert_eq!(completions.recv().unwrap(), hopeless);
    let mut fresh = linked(3, true);
    fresh.after = None;
    writer.submit(fresh).unwrap();
    assert_eq!(completions.recv().unwrap(), journaled(3));
    assert_eq!(completions.recv().unwrap(), stored(3));
    writer.shutdown().unwrap();
}

#[test]
fn what_follows_a_failed_batch_is_not_journalled() {
    let temporary = tempfile::tempdir().unwrap();
    let (sender, completions) = mpsc::channel();
    let store = open(temporary.path()).store;
    let writer = Writer::spawn(store, move |completion| sender.send(completion).unwrap()).unwrap();
    let bytes = VALUE_BYTES_MAX + 1;
    let mut first = linked(1, false);
    first.puts[0].1 = value(1, bytes);
    writer.submit(first).unwrap();
    let failed = |id, error| Completion::Failed {
        id: BatchId(id),
        error,
    };
    let too_large = failed(1, StoreError::ValueTooLarge { bytes });
    assert_eq!(completions.recv().unwrap(), too_large);

    // Known to be hopeless by now, and still so once one behind it has failed as well.
    for id in [2, 3] {
        writer.submit(linked(id, true)).unwrap();
        let expected = failed(id, StoreError::PredecessorFailed);
        assert_eq!(completions.recv().unwrap(), expected);
    }
    let mut fresh = linked(4, true);
    fresh.after = None;
    writer.submit(fresh).unwrap();
    assert_eq!(completions.recv().unwrap(), journaled(4));
    assert_eq!(completions.recv().unwrap(), stored(4));
    writer.submit(linked(5, false)).unwrap();
    assert_eq!(completions.recv().unwrap(), stored(5));
    writer.shutdown().unwrap().close().unwrap();
    assert_eq!(open(temporary.path()).journal, [entry(4, 10)]);
}

#[test]
fn a_writer_goes_on_from_a_store_that_was_written_before() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    store.apply(&linked(1, false)).unwrap();
    let (sender, completions) = mpsc::channel();
    let writer = Writer::spawn(store, move |completion| sender.send(completion).unwrap()).unwrap();
    writer.submit(linked(2, false)).unwrap();
    let store = writer.shutdown().unwrap();
    assert!(completions.iter().eq([stored(2)]));
    assert!(store.reader().contains(&change_key(2)).unwrap());
}

#[test]
fn releases_are_merged_and_never_wait_for_room() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (gate, keeper) = Gate::new();
    let store = TestStore {
        calls: calls.clone(),
        fails_at: None,
        gate: Some(gate),
    };
    let writer = Writer::spawn(store, |_| {}).unwrap();
    writer.submit(linked(1, false)).unwrap();
    keeper.reached.recv().unwrap();
    for through in [3, 9, 4] {
        writer.release(JournalReleases::from([(
            WORKSPACE,
            (EPOCH, FeedSeq(through)).into(),
        )]));
    }
    keeper.opened.send(()).unwrap();
    writer.shutdown().unwrap();
    let expected = Call::Release(JournalReleases::from([(
        WORKSPACE,
        (EPOCH, FeedSeq(9)).into(),
    )]));
    let calls = calls.lock().unwrap();
    let releases: Vec<_> = calls
        .iter()
        .filter(|call| matches!(call, Call::Release(_)))
        .collect();
    assert_eq!(releases, [&expected]);
}

#[test]
fn a_full_queue_hands_the_batch_back() {
    let (gate, keeper) = Gate::new();
    let store = TestStore {
        calls: Arc::default(),
        fails_at: None,
        gate: Some(gate),
    };
    let writer = Writer::spawn(store, |_| {}).unwrap();
    writer.submit(linked(1, false)).unwrap();
    keeper.reached.recv().unwrap();
    let huge = |id| {
        let mut batch = linked(id, false);
        batch.puts[0].1 = Bytes::from(vec![0; QUEUE_BYTES_MAX]);
        batch
    };
    writer.submit(huge(2)).unwrap();
    let refused = writer.submit(linked(3, false)).unwrap_err();
    let SubmitError::Full(batch) = refused else {
        panic!("unexpected {refused:?}");
    };
    assert_eq!(*batch, linked(3, false));
    keeper.opened.send(()).unwrap();
    writer.shutdown().unwrap();

    let queue = Queue::default();
    assert!((0..QUEUE_BATCHES_MAX).all(|_| queue.enter(1)));
    assert!(!queue.enter(1));
    queue.leave(1);
    assert!(queue.enter(1));
}

#[test]
fn a_dropped_writer_finishes_what_was_submitted() {
    let temporary = tempfile::tempdir().unwrap();
    let (sender, completions) = mpsc::channel();
    let store = open(temporary.path()).store;
    let writer = Writer::spawn(store, move |completion| sender.send(completion).unwrap()).unwrap();
    for id in 1..=10 {
        writer.submit(linked(id, false)).unwrap();
    }
    drop(writer);
    assert!(completions.iter().eq((1..=10).map(stored)));
}
