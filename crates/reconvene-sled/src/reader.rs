//! The reading side: point reads and bounded scans, verified record by record.
//!
//! Readers share one state with the writer. A batch becomes visible under its exclusive lock and
//! every record is read under the shared one, so no reader sees half a batch within a record; a
//! scan gives the lock back every few records so that it never keeps the writer waiting for long.
//! Nothing here writes, and a damaged record is never reported as an absent one.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::storage::{Direction, JournalEntry, Rows, Scan, StoreError, StoreRead, Survey};
use sled::{IVec, Tree};

use crate::contain::{contained, io_error, sled_error};
use crate::journal;
use crate::record::{LAST_PART, SUFFIX_BYTES, announced_parts, decode, part_key, split_part_key};

/// Most records a scan reads before it lets the writer in.
const LOCKED_ROWS_MAX: usize = 64;

/// Bytes of values after which a scan lets the writer in.
const LOCKED_BYTES_MAX: usize = 256 * 1024;

/// A reader of a [`SledStore`](crate::SledStore); cheap to clone.
///
/// After the store is closed or dropped every read fails with [`StoreError::Closed`].
#[derive(Clone)]
pub struct SledReader {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for SledReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SledReader")
    }
}

/// What readers and the writer share; empty once the store is closed.
#[derive(Default)]
pub(crate) struct Shared {
    state: RwLock<Option<State>>,
}

/// An open sled tree.
pub(crate) struct State {
    pub(crate) tree: Tree,
    /// Where the journal is.
    journal: PathBuf,
    /// Records of a batch that failed midway. sled may show part of such a batch until it is
    /// opened again, so reading these fails instead.
    pub(crate) unsure: BTreeSet<Key>,
}

impl Shared {
    pub(crate) fn new(tree: Tree, journal: PathBuf) -> Self {
        Self {
            state: RwLock::new(Some(State {
                tree,
                journal,
                unsure: BTreeSet::new(),
            })),
        }
    }

    // A panic while the lock is held was contained before it could reach the guard, or is a bug
    // that has been reported already; the state itself is only ever replaced whole.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Option<State>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Option<State>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a read, containing its panics.
    fn look<T>(
        &self,
        subject: impl Fn() -> String,
        work: impl FnOnce(&State) -> Result<T, ReadError>,
    ) -> Result<T, StoreError> {
        let guard = self.read();
        let state = guard.as_ref().ok_or(StoreError::Closed)?;
        let error = match contained(|| work(state)) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(ReadError::Sled(error))) => sled_error(&error, &subject()),
            Ok(Err(ReadError::Store(error))) => error,
            Err(what) => StoreError::Damaged {
                key: subject(),
                what: format!("sled panicked: {what}"),
            },
        };
        tracing::error!(%error, "a stored record cannot be read");
        Err(error)
    }
}

/// Why a read failed, before it is put into the core's words.
enum ReadError {
    Sled(sled::Error),
    Store(StoreError),
}

impl From<sled::Error> for ReadError {
    fn from(error: sled::Error) -> Self {
        Self::Sled(error)
    }
}

impl State {
    fn assert_sure(&self, key: &Key) -> Result<(), ReadError> {
        if self.unsure.contains(key) {
            return Err(unsure());
        }
        Ok(())
    }

    fn assert_sure_within(&self, range: &KeyRange) -> Result<(), ReadError> {
        let within = |key: &Key| {
            let key = key.as_bytes();
            key >= range.start() && range.end().is_none_or(|end| key < end)
        };
        if self.unsure.iter().any(within) {
            return Err(unsure());
        }
        Ok(())
    }
}

fn unsure() -> ReadError {
    ReadError::Store(StoreError::ReadOnly {
        why: "a batch that failed midway touched this record; open the store again".to_owned(),
    })
}

fn damaged(key: &[u8], what: String) -> ReadError {
    ReadError::Store(StoreError::Damaged {
        key: format!("{:?}", Key::from_bytes(key.to_vec())),
        what,
    })
}

impl SledReader {
    /// The journal's entries that read, oldest first, also while it is written.
    ///
    /// # Errors
    /// If the operating system does not let the journal be read, or the store is closed.
    pub fn journal_entries(&self) -> Result<Vec<JournalEntry>, StoreError> {
        let journal = match self.shared.read().as_ref() {
            Some(state) => state.journal.clone(),
            None => return Err(StoreError::Closed),
        };
        let found = journal::check(&journal).map_err(|error| io_error(&error))?;
        Ok(found.entries)
    }
}

impl StoreRead for SledReader {
    fn read(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.shared.look(
            || format!("{key:?}"),
            |state| {
                state.assert_sure(key)?;
                read_record(&state.tree, key.as_bytes())
            },
        )
    }

    fn contains(&self, key: &Key) -> Result<bool, StoreError> {
        self.shared.look(
            || format!("{key:?}"),
            |state| {
                state.assert_sure(key)?;
                Ok(state.tree.contains_key(part_key(key.as_bytes(), 0))?)
            },
        )
    }

    fn scan(&self, scan: &Scan) -> Result<Rows, StoreError> {
        let mut progress = Progress::new(scan);
        while !progress.done {
            self.shared.look(
                || {
                    format!(
                        "between {:?} and {:?}",
                        progress_start(scan),
                        scan.range.end()
                    )
                },
                |state| {
                    state.assert_sure_within(&scan.range)?;
                    progress.advance(&state.tree)
                },
            )?;
        }
        Ok(progress.rows)
    }

    fn survey(&self, range: &KeyRange) -> Result<Survey, StoreError> {
        let mut survey = Survey::default();
        let rows = &mut survey.rows;
        let looked = self.shared.look(
            || format!("from {:?}", Key::from_bytes(range.start().to_vec())),
            |state| {
                state.assert_sure_within(range)?;
                let bounds = stored_bounds(&state.tree, range)?;
                let mut records = Records::new(&state.tree, bounds, Direction::Ascending);
                let mut bytes = 0;
                while rows.len() < LOCKED_ROWS_MAX && bytes < LOCKED_BYTES_MAX {
                    let Some((key, parts)) = records.next()? else {
                        return Ok(false);
                    };
                    bytes += parts.iter().map(|(_, part)| part.len()).sum::<usize>();
                    let value = decode(&key, &parts).map_err(|what| StoreError::Damaged {
                        key: format!("{:?}", Key::from_bytes(key.clone())),
                        what,
                    });
                    rows.push((Key::from_bytes(key), value));
                }
                Ok(true)
            },
        );
        survey.more = match looked {
            Ok(more) => more,
            Err(error) if survey.rows.is_empty() => return Err(error),
            // It is met again by whoever reads on.
            Err(_) => true,
        };
        Ok(survey)
    }

    fn raw(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.shared.look(
            || format!("{key:?}"),
            |state| {
                let mut raw = Vec::new();
                let mut parts = parts_of(&state.tree, key.as_bytes(), 0).peekable();
                if parts.peek().is_none() {
                    return Ok(None);
                }
                for part in parts {
                    let (_, _, stored) = part?;
                    raw.extend_from_slice(&stored);
                }
                Ok(Some(raw.into()))
            },
        )
    }
}

fn progress_start(scan: &Scan) -> Key {
    Key::from_bytes(scan.range.start().to_vec())
}

fn read_record(tree: &Tree, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
    let verified = |parts: &[(u16, IVec)]| decode(key, parts).map_err(|what| damaged(key, what));
    // Nearly every record is a single part, and a look-up costs less than a range.
    if let Some(first) = tree.get(part_key(key, 0))?
        && announced_parts(key, &first) == Some(1)
    {
        return verified(&[(0, first)]).map(Some);
    }
    let parts = parts_of(tree, key, 0)
        .map(|row| row.map(|(part, _, stored)| (part, stored)))
        .collect::<Result<Vec<_>, sled::Error>>()?;
    if parts.is_empty() {
        return Ok(None);
    }
    verified(&parts).map(Some)
}

/// Every stored part of a record from number `from` on, whatever part 0 says.
pub(crate) fn parts_of(
    tree: &Tree,
    key: &[u8],
    from: u16,
) -> impl Iterator<Item = sled::Result<(u16, IVec, IVec)>> {
    let stored_bytes = key.len() + SUFFIX_BYTES;
    tree.range(part_key(key, from)..=part_key(key, LAST_PART))
        .filter_map(move |row| {
            row.map(|(stored_key, stored)| {
                // Records of the core's kinds never lie among the parts of another. Should keys of
                // other lengths come along, no record may be taken for a part of another.
                let (_, part) = split_part_key(&stored_key)?;
                (stored_key.len() == stored_bytes).then_some((part, stored_key, stored))
            })
            .transpose()
        })
}

/// A range of stored keys, as sled takes it.
type StoredRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// A scan that is under way.
struct Progress<'a> {
    scan: &'a Scan,
    rows: Rows,
    bytes: usize,
    done: bool,
    /// What is left to read, in stored keys; unset before the first step.
    left: Option<StoredRange>,
}

impl<'a> Progress<'a> {
    fn new(scan: &'a Scan) -> Self {
        let empty = scan
            .range
            .end()
            .is_some_and(|end| end <= scan.range.start());
        Self {
            scan,
            rows: Rows::default(),
            bytes: 0,
            done: empty,
            left: None,
        }
    }

    /// Reads on until the scan is done or the writer deserves its turn.
    fn advance(&mut self, tree: &Tree) -> Result<(), ReadError> {
        let bounds = match self.left.take() {
            Some(bounds) => bounds,
            None => stored_bounds(tree, &self.scan.range)?,
        };
        let mut records = Records::new(tree, bounds.clone(), self.scan.direction);
        let bytes_before = self.bytes;
        let rows_before = self.rows.rows.len();
        loop {
            let full = self.rows.rows.len() >= self.scan.rows_max
                || (!self.rows.rows.is_empty() && self.bytes >= self.scan.bytes_max);
            if full {
                self.rows.more = records.any_left()?;
                self.done = true;
                return Ok(());
            }
            let pause = self.rows.rows.len() - rows_before >= LOCKED_ROWS_MAX
                || self.bytes - bytes_before >= LOCKED_BYTES_MAX;
            if pause && let Some((last, _)) = self.rows.rows.last() {
                self.left = Some(self.bounds_beyond(last.as_bytes(), bounds));
                return Ok(());
            }
            let Some((key, parts)) = records.next()? else {
                self.done = true;
                return Ok(());
            };
            let value = decode(&key, &parts).map_err(|what| damaged(&key, what))?;
            self.bytes = self.bytes.saturating_add(value.len());
            self.rows.rows.push((Key::from_bytes(key), value));
        }
    }

    fn bounds_beyond(&self, last: &[u8], (start, end): StoredRange) -> StoredRange {
        match self.scan.direction {
            Direction::Ascending => (Bound::Excluded(part_key(last, u16::MAX)), end),
            Direction::Descending => (start, Bound::Excluded(part_key(last, 0))),
        }
    }
}

/// Most parts that are looked at again in ascending order when sled cannot go back.
const BEHIND_PARTS_MAX: usize = 1024;

/// Neighbouring parts grouped into records.
struct Records<'a> {
    tree: &'a Tree,
    bounds: StoredRange,
    iter: sled::Iter,
    direction: Direction,
    /// The last parts before the end of what is left, ascending; empty while sled can go back.
    behind: VecDeque<(IVec, IVec)>,
    /// A part already taken from the iterator that belongs to the next record.
    ahead: Option<(IVec, IVec)>,
}

/// A record's key and its parts, part 0 first.
type Parts = (Vec<u8>, Vec<(u16, IVec)>);

impl<'a> Records<'a> {
    fn new(tree: &'a Tree, bounds: StoredRange, direction: Direction) -> Self {
        Self {
            tree,
            iter: tree.range::<Vec<u8>, _>(bounds.clone()),
            bounds,
            direction,
            behind: VecDeque::new(),
            ahead: None,
        }
    }

    fn next(&mut self) -> Result<Option<Parts>, ReadError> {
        let Some((stored_key, stored)) = self.next_part()? else {
            return Ok(None);
        };
        let (key, part) = split(&stored_key)?;
        let key = key.to_vec();
        let mut parts = vec![(part, stored)];
        while let Some((stored_key, stored)) = self.next_part()? {
            let (next_key, part) = split(&stored_key)?;
            if next_key != key {
                self.ahead = Some((stored_key, stored));
                break;
            }
            parts.push((part, stored));
        }
        if self.direction == Direction::Descending {
            parts.reverse();
        }
        Ok(Some((key, parts)))
    }

    fn any_left(&mut self) -> Result<bool, ReadError> {
        self.ahead = self.next_part()?;
        Ok(self.ahead.is_some())
    }

    fn next_part(&mut self) -> Result<Option<(IVec, IVec)>, ReadError> {
        if let Some(part) = self.ahead.take() {
            return Ok(Some(part));
        }
        match self.direction {
            Direction::Ascending => Ok(self.iter.next().transpose()?),
            Direction::Descending => self.previous_part(),
        }
    }

    /// The part before the last one taken.
    ///
    /// sled looks for the leaf before one that begins at `x` from the key `x - 1, ff, ff, ff, ff`.
    /// If there are leaves of greater keys in between it does not find any, and panics after a
    /// million tries. That takes keys with four bytes ff in a certain place; then the range is
    /// walked from its start.
    fn previous_part(&mut self) -> Result<Option<(IVec, IVec)>, ReadError> {
        if self.behind.is_empty() {
            match contained(|| self.iter.next_back()) {
                Ok(previous) => {
                    let previous = previous.transpose()?;
                    if let Some((key, _)) = &previous {
                        self.bounds.1 = Bound::Excluded(key.to_vec());
                    }
                    return Ok(previous);
                }
                Err(what) => tracing::debug!(what, "sled does not find the way back"),
            }
            for row in self.tree.range::<Vec<u8>, _>(self.bounds.clone()) {
                self.behind.push_back(row?);
                if self.behind.len() > BEHIND_PARTS_MAX {
                    self.behind.pop_front();
                }
            }
            if let Some((first, _)) = self.behind.front() {
                self.bounds.1 = Bound::Excluded(first.to_vec());
                self.iter = self.tree.range::<Vec<u8>, _>(self.bounds.clone());
            }
        }
        Ok(self.behind.pop_back())
    }
}

fn split(stored_key: &[u8]) -> Result<(&[u8], u16), ReadError> {
    split_part_key(stored_key).ok_or_else(|| damaged(stored_key, "its key is too short".to_owned()))
}

fn stored_bounds(tree: &Tree, range: &KeyRange) -> Result<StoredRange, ReadError> {
    let start = Bound::Included(stored_bound(tree, range.start())?);
    let end = match range.end() {
        Some(end) => Bound::Excluded(stored_bound(tree, end)?),
        None => Bound::Unbounded,
    };
    Ok((start, end))
}

/// Where the records before `bound` end among the stored keys.
///
/// That is `bound` itself, unless there is a record whose key is a proper prefix of it (as in a
/// range that starts just after a record): the record is before the bound, while its parts, with
/// their numbers, may lie beyond.
fn stored_bound(tree: &Tree, bound: &[u8]) -> Result<Vec<u8>, sled::Error> {
    for length in 1..bound.len() {
        // The numbers of parts begin with a zero byte, so only such a prefix can be concerned.
        if bound[length] == 0 && tree.contains_key(part_key(&bound[..length], 0))? {
            let mut past = part_key(&bound[..length], u16::MAX);
            past.push(0);
            return Ok(past);
        }
    }
    Ok(bound.to_vec())
}

#[cfg(test)]
mod tests;
