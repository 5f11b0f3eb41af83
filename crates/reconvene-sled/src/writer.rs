//! The writer: the one thread that writes to a store, in groups that share their barriers.
//!
//! Each turn takes what has been submitted, up to a bound, and fails it if the disk has no room for
//! more; else: all journal entries in one write and one sync, then every batch in one write, then one barrier. While only journalled batches come, whose
//! authors need not wait for it, several groups share a barrier. Every batch submitted is answered
//! by completions in the order of submission, whatever fails; the thread never ends in silence. It
//! knows no sled: any [`StoreWrite`] will do.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::{fmt, io};

use reconvene_core::ids::BatchId;
use reconvene_core::storage::{
    Batch, Durability, JournalReleases, StoreError, StoreWrite, merge_release,
};

use crate::contain::contained;

/// Most batches that share a barrier; the next ones wait for the next turn.
pub const GROUP_BATCHES_MAX: usize = 64;

/// Bytes of batches after which a group takes no more; the next ones wait for the next turn.
pub const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most groups that wait for one barrier, if journal entries alone made all their batches safe and
/// more are waiting; the barrier then comes behind the last of them.
pub const BARRIER_GROUPS_MAX: usize = 16;

/// Most batches waiting for the writer; [`Writer::submit`] hands back a further one.
pub const QUEUE_BATCHES_MAX: usize = 4096;

/// Most bytes of batches waiting for the writer; [`Writer::submit`] hands back a further batch,
/// unless nothing else waits.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(GROUP_BATCHES_MAX <= QUEUE_BATCHES_MAX);
const _: () = assert!(GROUP_BYTES_MAX <= QUEUE_BYTES_MAX);

/// What became of a batch, or what was asked for.
///
/// A batch gets `Journaled` at most once and first, if it has a journal entry, and then exactly one
/// of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Completion {
    /// The batch's journal entry is durable and the batch is applied: the changes in it survive
    /// anything from here on, and readers see them.
    Journaled(BatchId),
    /// The batch is applied and durable.
    Stored(BatchId),
    /// The batch is not applied and never will be: its entry is not in the journal.
    Failed {
        /// The batch.
        id: BatchId,
        /// Why.
        error: StoreError,
    },
    /// The batch may be applied or not, durable or not, or it is not applied and the journal has its
    /// entry; opening the store again will tell.
    Unknown {
        /// The batch.
        id: BatchId,
        /// Why.
        error: StoreError,
    },
    /// Whether there is room for a batch, as of now; answers [`Writer::ask_room`].
    Room(Result<(), StoreError>),
}

/// A batch the writer did not take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Too much is waiting ([`QUEUE_BATCHES_MAX`], [`QUEUE_BYTES_MAX`]). The batch comes back; it
    /// must be submitted again before any that follows it, or those fail.
    #[error("too many batches wait for the store")]
    Full(Box<Batch>),
    /// The writer's thread has ended.
    #[error("the store's writer has ended")]
    Closed(Box<Batch>),
}

/// A handle of the writer thread.
///
/// Dropping it lets the thread finish what was submitted, without waiting for it; use
/// [`Writer::shutdown`].
pub struct Writer<S> {
    sender: Sender<Message>,
    queue: Arc<Queue>,
    thread: JoinHandle<Result<S, StoreError>>,
}

impl<S> fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("waiting", &self.queue.batches)
            .finish_non_exhaustive()
    }
}

enum Message {
    Batch(Box<Batch>),
    AskRoom,
    /// Releases wait in the queue.
    Release,
    Shutdown,
}

/// What waits for the writer besides its messages, and what it did.
#[derive(Default)]
struct Queue {
    batches: AtomicUsize,
    bytes: AtomicUsize,
    /// Merged, so that it is bounded by the number of workspaces.
    releases: Mutex<JournalReleases>,
    barriers: AtomicU64,
}

impl Queue {
    fn releases(&self) -> MutexGuard<'_, JournalReleases> {
        // Releases only grow and are merged entry by entry: no panic leaves them inconsistent.
        self.releases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a batch in; `false` if there is no room for it.
    fn enter(&self, bytes: usize) -> bool {
        let batches = self.batches.fetch_add(1, Ordering::AcqRel);
        let waiting = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits =
            batches < QUEUE_BATCHES_MAX && (batches == 0 || waiting + bytes <= QUEUE_BYTES_MAX);
        if !fits {
            self.leave(bytes);
        }
        fits
    }

    fn leave(&self, bytes: usize) {
        self.batches.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl<S: StoreWrite> Writer<S> {
    /// Starts the writer's thread, which owns the store until [`Writer::shutdown`].
    ///
    /// `on_completion` is called on that thread and must not block for long or panic.
    ///
    /// # Errors
    /// When the system gives no thread; the store is dropped then.
    pub fn spawn(
        store: S,
        on_completion: impl FnMut(Completion) + Send + 'static,
    ) -> io::Result<Self> {
        // Bounded by the queue's counts, which `submit` checks: a channel cannot count bytes.
        let (sender, receiver) = channel();
        let queue = Arc::new(Queue::default());
        let task = Task {
            store,
            on_completion,
            receiver,
            queue: queue.clone(),
            last: Last::Unknown,
            unanswered: Unanswered::default(),
            broken: None,
        };
        let thread = Builder::new()
            .name("reconvene-store".to_owned())
            .spawn(move || task.run())?;
        Ok(Self {
            sender,
            queue,
            thread,
        })
    }

    /// Hands a batch to the writer; never blocks.
    ///
    /// # Errors
    /// When there is no room or the writer has ended; the batch comes back.
    pub fn submit(&self, batch: Batch) -> Result<(), SubmitError> {
        let batch = Box::new(batch);
        let bytes = total_bytes(&batch);
        if !self.queue.enter(bytes) {
            return Err(SubmitError::Full(batch));
        }
        self.sender
            .send(Message::Batch(batch))
            .map_err(|refused| match refused.0 {
                Message::Batch(batch) => SubmitError::Closed(batch),
                Message::AskRoom | Message::Release | Message::Shutdown => {
                    unreachable!("a batch was sent")
                }
            })
    }

    /// How many barriers of the store there were since it was started.
    pub fn barriers(&self) -> u64 {
        self.queue.barriers.load(Ordering::Relaxed)
    }

    /// Asks whether the store has room; [`Completion::Room`] answers. `false` if the writer has ended.
    pub fn ask_room(&self) -> bool {
        self.sender.send(Message::AskRoom).is_ok()
    }

    /// Tells the writer what the journal may forget; cheap, and merged with what still waits.
    pub fn release(&self, releases: JournalReleases) {
        let mut waiting = self.queue.releases();
        let was_empty = waiting.is_empty();
        for (workspace, place) in releases {
            merge_release(&mut waiting, workspace, place);
        }
        if was_empty && !waiting.is_empty() && self.sender.send(Message::Release).is_err() {
            tracing::debug!("a release came after the writer's end");
        }
    }

    /// Finishes everything submitted, makes it durable, ends the thread and gives the store back.
    /// Blocks until then.
    ///
    /// # Errors
    /// When the last barrier failed or the thread panicked; the store is dropped then.
    pub fn shutdown(self) -> Result<S, StoreError> {
        // An error means that the thread has ended already, and why is what `join` says.
        if self.sender.send(Message::Shutdown).is_err() {
            tracing::debug!("the writer had ended before its shutdown");
        }
        self.thread.join().unwrap_or_else(|_| {
            Err(StoreError::Io {
                what: "the writer's thread panicked".to_owned(),
            })
        })
    }
}

/// What the thread owns.
struct Task<S, F> {
    store: S,
    on_completion: F,
    receiver: Receiver<Message>,
    queue: Arc<Queue>,
    last: Last,
    unanswered: Unanswered,
    /// Set once the store panicked: it is not touched again.
    broken: Option<String>,
}

/// The batch that was applied last, as far as this writer knows.
#[derive(Clone, Copy)]
enum Last {
    /// The store was written before the writer started, or nothing was written yet.
    Unknown,
    /// This one; `None` if the first one failed.
    Is(Option<BatchId>),
}

impl Last {
    fn admit(self, batch: &Batch) -> Result<(), StoreError> {
        match self {
            Self::Unknown => batch.admit(batch.after),
            Self::Is(last) => batch.admit(last),
        }
    }

    fn after_failure(self) -> Self {
        match self {
            Self::Unknown => Self::Is(None),
            known => known,
        }
    }
}

/// The batches of the groups since the last barrier, in order.
#[derive(Default)]
struct Unanswered {
    fates: Vec<(BatchId, Fate)>,
    groups: usize,
    bytes: usize,
}

/// What one turn has to do.
struct Turn {
    group: Vec<Batch>,
    ends: bool,
}

impl<S: StoreWrite, F: FnMut(Completion)> Task<S, F> {
    fn run(mut self) -> Result<S, StoreError> {
        loop {
            let turn = self.next_turn();
            self.write_group(&turn.group);
            self.release();
            if turn.ends {
                break;
            }
        }
        self.answer();
        self.call(|store| store.barrier())
            .map_err(Fault::into_error)?;
        Ok(self.store)
    }

    fn next_turn(&mut self) -> Turn {
        let mut turn = Turn {
            group: Vec::new(),
            ends: false,
        };
        let mut bytes = 0;
        let mut message = self.next_message();
        loop {
            match message {
                Message::Batch(batch) => {
                    let batch_bytes = total_bytes(&batch);
                    self.queue.leave(batch_bytes);
                    bytes += batch_bytes;
                    turn.group.push(*batch);
                }
                Message::Release => {}
                Message::AskRoom => {
                    let room = self.call(|store| store.room());
                    (self.on_completion)(Completion::Room(room.map_err(Fault::into_error)));
                }
                Message::Shutdown => {
                    turn.ends = true;
                    return turn;
                }
            }
            if turn.group.len() >= GROUP_BATCHES_MAX || bytes >= GROUP_BYTES_MAX {
                return turn;
            }
            message = match self.receiver.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Empty) => return turn,
                Err(TryRecvError::Disconnected) => Message::Shutdown,
            };
        }
    }

    /// The next message. Nobody is kept waiting for a barrier while nothing else is to be done.
    fn next_message(&mut self) -> Message {
        if let Ok(message) = self.receiver.try_recv() {
            return message;
        }
        self.answer();
        // A writer that was dropped is shut down.
        self.receiver.recv().unwrap_or(Message::Shutdown)
    }

    fn write_group(&mut self, group: &[Batch]) {
        if group.is_empty() {
            return;
        }
        let (mut fates, journaled) = match self.call(|store| store.room()) {
            Ok(()) => self.journal(group),
            Err(fault) => {
                let refused = || Fate::of(Err(fault.clone()));
                (group.iter().map(|_| refused()).collect(), Vec::new())
            }
        };
        self.apply(group, &mut fates);
        journal_decides(group, &mut fates, &journaled);
        // Told only now, so that whoever hears it reads what was written.
        for (batch, fate) in group.iter().zip(&fates) {
            if matches!(fate, Fate::Applied) && journaled.contains(&batch.id) {
                (self.on_completion)(Completion::Journaled(batch.id));
            }
        }
        for (batch, fate) in group.iter().zip(&fates) {
            self.last = match fate {
                Fate::Applied => Last::Is(Some(batch.id)),
                _ => self.last.after_failure(),
            };
        }
        let waits =
            |batch: &Batch| batch.journal.is_none() && batch.durability == Durability::Barrier;
        let is_due =
            group.iter().any(waits) || fates.iter().any(|fate| !matches!(fate, Fate::Applied));
        let ids = group.iter().map(|batch| batch.id);
        self.unanswered.fates.extend(ids.zip(fates));
        self.unanswered.groups += 1;
        self.unanswered.bytes += group.iter().map(total_bytes).sum::<usize>();
        if is_due
            || self.unanswered.groups >= BARRIER_GROUPS_MAX
            || self.unanswered.bytes >= GROUP_BYTES_MAX
        {
            self.answer();
        }
    }

    /// Makes what was applied durable, and answers for every batch since the last barrier.
    fn answer(&mut self) {
        let mut fates = std::mem::take(&mut self.unanswered).fates;
        if fates.iter().any(|(_, fate)| matches!(fate, Fate::Applied)) {
            let barrier = self.call(|store| store.barrier());
            self.queue.barriers.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = barrier.map_err(Fault::into_error) {
                let applied = fates
                    .iter_mut()
                    .filter(|(_, fate)| matches!(fate, Fate::Applied));
                applied.for_each(|(_, fate)| *fate = Fate::Unknown(error.clone()));
            }
        }
        for (id, fate) in fates {
            (self.on_completion)(fate.into_completion(id));
        }
    }

    /// Journals the entries of a group; which batches' entries are durable is the second value.
    ///
    /// A batch that could not be applied is not journalled.
    fn journal(&mut self, group: &[Batch]) -> (Vec<Fate>, Vec<BatchId>) {
        let mut fates = Vec::with_capacity(group.len());
        let mut last = self.last;
        for batch in group {
            fates.push(match last.admit(batch) {
                Ok(()) => {
                    last = Last::Is(Some(batch.id));
                    Fate::Pending
                }
                Err(error) => Fate::Failed(error),
            });
        }
        let pending = || {
            let pairs = group.iter().zip(&fates);
            pairs
                .filter(|(_, fate)| matches!(fate, Fate::Pending))
                .filter_map(|(batch, _)| Some((batch.id, batch.journal.as_ref()?)))
        };
        let (ids, entries): (Vec<_>, Vec<_>) = pending().unzip();
        if entries.is_empty() {
            return (fates, ids);
        }
        match self.call(|store| store.journal(&entries)) {
            Ok(()) => (fates, ids),
            Err(fault) => {
                let unjournalled = group.iter().zip(&mut fates).filter(|(batch, fate)| {
                    batch.journal.is_some() && matches!(fate, Fate::Pending)
                });
                // They may have reached the disk all the same.
                for (_, fate) in unjournalled {
                    *fate = Fate::Unknown(fault.clone().into_error());
                }
                (fates, Vec::new())
            }
        }
    }

    /// Applies the batches that are still to be tried, together.
    fn apply(&mut self, group: &[Batch], fates: &mut [Fate]) {
        let (batches, mut fates): (Vec<_>, Vec<_>) = group
            .iter()
            .zip(fates)
            .filter(|(_, fate)| matches!(fate, Fate::Pending))
            .unzip();
        let mut outcomes = Vec::new();
        let called = self.call(|store| {
            outcomes = store.apply_group(&batches);
            Ok(())
        });
        match called {
            Ok(()) => {
                assert_eq!(
                    outcomes.len(),
                    batches.len(),
                    "a store answers for every batch of a group"
                );
                for (fate, outcome) in fates.into_iter().zip(outcomes) {
                    *fate = Fate::of(outcome.map_err(Fault::Error));
                }
            }
            Err(fault) => fates
                .iter_mut()
                .for_each(|fate| **fate = Fate::of(Err(fault.clone()))),
        }
    }

    fn release(&mut self) {
        let releases = std::mem::take(&mut *self.queue.releases());
        if releases.is_empty() {
            return;
        }
        if let Err(fault) = self.call(|store| store.release_journal(&releases)) {
            // The entries are merely kept for longer; the next release tries again.
            let error = fault.into_error();
            tracing::warn!(%error, "the journal could not be shortened");
        }
    }

    /// Calls the store, unless it panicked before.
    fn call(&mut self, work: impl FnOnce(&mut S) -> Result<(), StoreError>) -> Result<(), Fault> {
        if let Some(why) = &self.broken {
            return Err(Fault::Error(StoreError::ReadOnly { why: why.clone() }));
        }
        contained(|| work(&mut self.store))
            .map_err(|what| {
                let what = format!("the store panicked: {what}");
                tracing::error!(what, "the store is not used any more");
                self.broken = Some(what.clone());
                Fault::Panic(StoreError::Io { what })
            })?
            .map_err(Fault::Error)
    }
}

/// How a call of the store failed.
#[derive(Clone)]
enum Fault {
    /// It said so.
    Error(StoreError),
    /// It panicked, and what it did is not known.
    Panic(StoreError),
}

impl Fault {
    fn into_error(self) -> StoreError {
        match self {
            Self::Error(error) | Self::Panic(error) => error,
        }
    }
}

/// How far a batch of the group came.
enum Fate {
    Pending,
    Applied,
    Failed(StoreError),
    Unknown(StoreError),
}

impl Fate {
    fn of(outcome: Result<(), Fault>) -> Self {
        match outcome {
            Ok(()) => Self::Applied,
            Err(Fault::Error(error)) => Self::Failed(error),
            Err(Fault::Panic(error)) => Self::Unknown(error),
        }
    }

    fn into_completion(self, id: BatchId) -> Completion {
        match self {
            Self::Applied => Completion::Stored(id),
            Self::Failed(error) => Completion::Failed { id, error },
            Self::Unknown(error) => Completion::Unknown { id, error },
            Self::Pending => unreachable!("every batch of a group is tried"),
        }
    }
}

/// What is in the journal and was not applied comes back when the store is opened again.
fn journal_decides(group: &[Batch], fates: &mut [Fate], journaled: &[BatchId]) {
    let mut first = None;
    for (batch, fate) in group.iter().zip(fates) {
        let Fate::Failed(error) = fate else {
            continue;
        };
        // Of what depends on one that failed the reason is that of the other.
        let why = first.get_or_insert_with(|| error.clone()).clone();
        if journaled.contains(&batch.id) {
            *fate = Fate::Unknown(why);
        }
    }
}

/// What a batch counts in the queue and the group.
fn total_bytes(batch: &Batch) -> usize {
    let journal = batch.journal.as_ref().map_or(0, |entry| entry.frame.len());
    batch.bytes() + journal
}

#[cfg(test)]
mod tests;
