//! One check's store, with the steps checks are made of. Every step panics with the check's name
//! when the store does not do as it should.

use std::fmt::Debug;

use bytes::Bytes;
use prost::Message;

use super::{Reopen, Reopened, StoreFactory};
use crate::ids::{BatchId, DocumentId, FeedSeq, StoreEpoch, WorkspaceId};
use crate::keys::{Key, KeyRange};
use crate::schema::storage::{JournalDocument, JournalFrame};
use crate::storage::{
    Batch, Direction, Durability, JournalEntry, JournalReleases, Rows, Scan, StoreError, StoreRead,
    StoreWrite,
};

/// A record as checks handle it.
pub(super) type Row = (Key, Bytes);

/// A store under test.
pub(super) struct Trial<F: StoreFactory> {
    name: String,
    factory: F,
    /// `None` only while it is being reopened.
    store: Option<F::Store>,
    next_batch: BatchId,
    last_applied: Option<BatchId>,
}

impl<F: StoreFactory> Trial<F> {
    pub(super) fn new(name: &str, mut factory: F) -> Self {
        let store = Some(factory.open());
        Self {
            name: name.to_owned(),
            factory,
            store,
            next_batch: BatchId(1),
            last_applied: None,
        }
    }

    /// Panics in the name of the check unless `holds`.
    #[track_caller]
    pub(super) fn ensure(&self, holds: bool, what: impl FnOnce() -> String) {
        assert!(holds, "check `{}`: {}", self.name, what());
    }

    #[track_caller]
    pub(super) fn ensure_eq<T: PartialEq + Debug>(&self, found: T, expected: T, what: &str) {
        self.ensure(found == expected, || {
            format!("{what}: found {found:?}, expected {expected:?}")
        });
    }

    #[track_caller]
    pub(super) fn ok<T>(&self, result: Result<T, StoreError>, what: &str) -> T {
        match result {
            Ok(value) => value,
            Err(error) => panic!("check `{}`: {what} failed: {error}", self.name),
        }
    }

    pub(super) fn store(&mut self) -> &mut F::Store {
        self.store
            .as_mut()
            .expect("a store is only taken while it is being reopened")
    }

    pub(super) fn reader(&self) -> <F::Store as StoreWrite>::Reader {
        self.store
            .as_ref()
            .expect("a store is only taken while it is being reopened")
            .reader()
    }

    /// A batch that follows the last one applied.
    pub(super) fn batch(&mut self, puts: &[Row], deletes: &[Key]) -> Batch {
        let id = self.next_batch;
        self.next_batch = id.next();
        Batch {
            id,
            after: self.last_applied,
            puts: puts.to_vec(),
            deletes: deletes.to_vec(),
            journal: None,
            durability: Durability::Barrier,
        }
    }

    pub(super) fn submit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let result = self.store().apply(batch);
        if result.is_ok() {
            self.last_applied = Some(batch.id);
        }
        result
    }

    #[track_caller]
    pub(super) fn apply(&mut self, puts: &[Row], deletes: &[Key]) -> BatchId {
        let batch = self.batch(puts, deletes);
        let result = self.submit(&batch);
        self.ok(result, "applying a batch");
        batch.id
    }

    /// Applies batches together; the suite's chain follows those that applied.
    pub(super) fn submit_group(&mut self, batches: &[&Batch]) -> Vec<Result<(), StoreError>> {
        let outcomes = self.store().apply_group(batches);
        self.ensure_eq(outcomes.len(), batches.len(), "outcomes of a group");
        for (batch, outcome) in batches.iter().zip(&outcomes) {
            if outcome.is_ok() {
                self.last_applied = Some(batch.id);
            }
        }
        outcomes
    }

    #[track_caller]
    pub(super) fn barrier(&mut self) {
        let result = self.store().barrier();
        self.ok(result, "a barrier");
    }

    #[track_caller]
    pub(super) fn journal(&mut self, entries: &[&JournalEntry]) {
        let result = self.store().journal(entries);
        self.ok(result, "appending to the journal");
    }

    #[track_caller]
    pub(super) fn release(&mut self, releases: &JournalReleases) {
        let result = self.store().release_journal(releases);
        self.ok(result, "releasing journal entries");
    }

    pub(super) fn reopen(&mut self, how: Reopen) -> Vec<JournalEntry> {
        let store = self
            .store
            .take()
            .expect("a store is only taken while it is being reopened");
        let Reopened { store, journal } = self.factory.reopen(store, how);
        self.store = Some(store);
        self.last_applied = None;
        journal
    }

    #[track_caller]
    pub(super) fn scan(&self, scan: &Scan) -> Rows {
        let result = self.reader().scan(scan);
        self.ok(result, "a scan")
    }

    /// Every record of the store.
    #[track_caller]
    pub(super) fn everything(&self) -> Vec<Row> {
        self.scan(&Scan::ascending(
            KeyRange::new(Vec::new(), None),
            usize::MAX,
        ))
        .rows
    }

    /// Checks that a record is there, or that none is, in every way of asking.
    #[track_caller]
    pub(super) fn expect_row(&self, key: &Key, expected: Option<&Bytes>) {
        let reader = self.reader();
        let found = self.ok(reader.read(key), "a read");
        self.ensure(found.as_ref() == expected, || {
            format!(
                "reading {key:?} gave {}, expected {}",
                describe(found.as_ref()),
                describe(expected)
            )
        });
        let contained = self.ok(reader.contains(key), "asking for a record");
        self.ensure_eq(contained, expected.is_some(), "contains");
    }

    /// Checks a range in both directions without bounds: exactly these records, ascending.
    #[track_caller]
    pub(super) fn expect_range(&self, range: &KeyRange, expected: &[Row]) {
        for direction in [Direction::Ascending, Direction::Descending] {
            let found = self.scan(&Scan {
                range: range.clone(),
                direction,
                rows_max: usize::MAX,
                bytes_max: usize::MAX,
            });
            let mut expected = expected.to_vec();
            if direction == Direction::Descending {
                expected.reverse();
            }
            self.expect_same(&found.rows, &expected, &format!("{range:?}, {direction:?}"));
            self.ensure(!found.more, || {
                format!("{range:?}, {direction:?}: claims more records than it has")
            });
        }
    }

    /// Checks that two lists of records are the same, without printing the values.
    #[track_caller]
    pub(super) fn expect_same(&self, found: &[Row], expected: &[Row], what: &str) {
        self.ensure(found == expected, || {
            let list = |rows: &[Row]| -> Vec<String> {
                rows.iter()
                    .map(|(key, value)| format!("{key:?} = {}", describe(Some(value))))
                    .collect()
            };
            format!(
                "{what}: found {:#?}, expected {:#?}",
                list(found),
                list(expected)
            )
        });
    }
}

/// A value as a message names it: short, even if the value is not.
fn describe(value: Option<&Bytes>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(value) => {
            let front = &value[..value.len().min(8)];
            format!("{} bytes {front:02x?}", value.len())
        }
    }
}

/// A workspace by its number; neighbours have neighbouring ids.
pub(super) fn workspace(number: u128) -> WorkspaceId {
    WorkspaceId::from_bytes(number.to_be_bytes())
}

/// A document by its number, likewise.
pub(super) fn document(number: u128) -> DocumentId {
    DocumentId::from_bytes(number.to_be_bytes())
}

/// The key of a document's head row: the plainest kind of key.
pub(super) fn head(workspace_number: u128, document_number: u128) -> Key {
    Key::head(&workspace(workspace_number), &document(document_number))
}

/// A value that shows where it came from: no two parts of it, nor two tags, look the same.
pub(super) fn value(tag: u64, bytes: usize) -> Bytes {
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        // xorshift64: any sequence without short periods will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_be_bytes());
    }
    out.truncate(bytes);
    Bytes::from(out)
}

/// The epoch of [`entry`]'s feed.
pub(super) const EPOCH: StoreEpoch = StoreEpoch::from_bytes([0xe0; 16]);

/// A journal entry of `documents` feed entries, the last of them `through`.
pub(super) fn entry(workspace_number: u128, through: u64, documents: u64) -> JournalEntry {
    entry_of(EPOCH, workspace_number, through, documents)
}

/// Likewise, of another epoch's feed.
pub(super) fn entry_of(
    epoch: StoreEpoch,
    workspace_number: u128,
    through: u64,
    documents: u64,
) -> JournalEntry {
    let id = workspace(workspace_number);
    let first = through + 1 - documents;
    let frame = JournalFrame {
        workspace: Bytes::copy_from_slice(id.as_bytes()),
        epoch: Bytes::copy_from_slice(epoch.as_bytes()),
        seq: first,
        documents: (first..=through)
            .map(|seq| JournalDocument {
                document: Bytes::copy_from_slice(document(u128::from(seq)).as_bytes()),
                kind: 1,
                changes: vec![value(seq, 100)],
            })
            .collect(),
    };
    JournalEntry {
        workspace: id,
        epoch,
        through: FeedSeq(through),
        frame: Bytes::from(frame.encode_to_vec()),
    }
}
