//! What the tests of this crate share: values, batches, and re-running the test binary as a child.

use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use reconvene_core::ids::{BatchId, ChangeHash, DocumentId, FeedSeq, StoreEpoch, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::storage::{Batch, Durability, JournalEntry, StoreWrite};

use crate::{Opened, SledStore, open_data_dir, open_store};

/// Tells a child which directory it works in; tests that only a child runs return without it.
pub(crate) const CHILD_DIR: &str = "RECONVENE_SLED_TEST_CHILD_DIR";

pub(crate) const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([7; 16]);

pub(crate) const EPOCH: StoreEpoch = StoreEpoch::from_bytes([9; 16]);

pub(crate) fn open(path: &Path) -> Opened {
    open_store(&open_data_dir(path).unwrap()).unwrap()
}

pub(crate) fn change_key(number: u64) -> Key {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    let document = DocumentId::from_bytes([1; 16]);
    Key::change(&WORKSPACE, &document, &ChangeHash::from_bytes(hash))
}

/// Bytes that are the same for the same number, and do not repeat soon.
pub(crate) fn value(number: u64, length: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

pub(crate) fn batch(id: u64, puts: Vec<(Key, Bytes)>) -> Batch {
    Batch {
        id: BatchId(id),
        after: None,
        puts,
        deletes: Vec::new(),
        journal: None,
        durability: Durability::Barrier,
    }
}

pub(crate) fn entry(through: u64, length: usize) -> JournalEntry {
    JournalEntry {
        workspace: WORKSPACE,
        epoch: EPOCH,
        through: FeedSeq(through),
        frame: value(through, length),
    }
}

/// Applies puts as one batch and makes them durable.
pub(crate) fn put(store: &mut SledStore, puts: Vec<(Key, Bytes)>) {
    store.apply(&batch(1, puts)).unwrap();
    store.barrier().unwrap();
}

/// This test binary, set to run one test of it in `dir`.
pub(crate) fn child(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}
