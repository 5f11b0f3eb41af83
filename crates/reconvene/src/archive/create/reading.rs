//! What was read of one document.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use reconvene_core::engine::snapshot_hash;
use reconvene_core::guard::{ActorId, ChangeHeader, parse_change};
use reconvene_core::ids::{ChangeHash, DocumentId, SnapshotHash};
use reconvene_core::keys::{Key, KeyKind};
use reconvene_core::records::{ChangeRow, HeadRow, SnapshotRow};
use reconvene_core::storage::StoreError;

use super::read_as;

/// The changes and snapshots of one document that read, and what does not.
#[derive(Default)]
pub(super) struct Reading {
    changes: BTreeMap<ChangeHash, Seen>,
    snapshots: BTreeMap<SnapshotHash, Bytes>,
    /// Records that do not read, and why.
    pub(super) damaged: Vec<(Key, String)>,
    /// The same, by their keys alone.
    keys: BTreeSet<Key>,
    /// Other documents that lie in between.
    pub(super) strays: BTreeSet<DocumentId>,
}

struct Seen {
    /// A change starts after all operations it depends on: in this order it comes after them.
    start_op: u64,
    actor: ActorId,
    seq: u64,
    body: Bytes,
}

impl Reading {
    /// Takes a record as it reads.
    pub(super) fn take(&mut self, key: Key, value: Result<Bytes, StoreError>) {
        let taken = match key.kind() {
            Some(KeyKind::Change) => self.take_change(&key, value),
            _ => self.take_snapshot(&key, value),
        };
        if let Err(what) = taken {
            self.keys.insert(key.clone());
            self.damaged.push((key, what));
        }
    }

    fn take_change(&mut self, key: &Key, value: Result<Bytes, StoreError>) -> Result<(), String> {
        let row: ChangeRow = read_as(value)?;
        let header = parse_change(&row.body).map_err(|error| error.to_string())?;
        if key.change_hash() != Some(header.hash) {
            return Err(format!("it holds change {}", header.hash));
        }
        self.recover(&header, row.body);
        Ok(())
    }

    fn take_snapshot(&mut self, key: &Key, value: Result<Bytes, StoreError>) -> Result<(), String> {
        let row: SnapshotRow = read_as(value)?;
        let hash = snapshot_hash(&row.body);
        if key.snapshot_hash() != Some(hash) {
            return Err(format!("it holds snapshot {hash}"));
        }
        self.snapshots.insert(hash, row.body);
        Ok(())
    }

    /// Takes a change that comes from elsewhere.
    pub(super) fn recover(&mut self, header: &ChangeHeader, body: Bytes) {
        let seen = Seen {
            start_op: header.start_op,
            actor: header.actor.clone(),
            seq: header.seq,
            body,
        };
        self.changes.insert(header.hash, seen);
    }

    /// Leaves out what came after a head row was written.
    pub(super) fn leave_out_after(&mut self, head: &HeadRow) {
        self.changes.retain(|_, seen| {
            let progress = head.actors.get(&seen.actor);
            progress.is_some_and(|progress| progress.holds(seen.seq))
        });
    }

    /// Whether something does not read, or is not as the head row says. Snapshots that it does not name
    /// were left behind by a compaction that was cut short, and go.
    pub(super) fn differs(&mut self, head: &HeadRow) -> bool {
        let bytes = self.changes.values().map(|seen| seen.body.len() as u64);
        let counted = (self.changes.len() as u64, bytes.sum::<u64>());
        let mut named = head.snapshots.iter();
        let differs = !self.damaged.is_empty()
            || counted != (head.change_count, head.change_bytes)
            || !named.all(|named| self.snapshots.contains_key(&named.hash));
        if !differs {
            let named: BTreeSet<_> = head.snapshots.iter().map(|named| named.hash).collect();
            self.snapshots.retain(|hash, _| named.contains(hash));
        }
        differs
    }

    pub(super) fn has(&self, hash: &ChangeHash) -> bool {
        self.changes.contains_key(hash)
    }

    pub(super) fn was_damaged(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }

    /// Lets go of a snapshot that does not load.
    pub(super) fn drop_snapshot(&mut self, key: &Key) {
        if let Some(hash) = key.snapshot_hash() {
            self.snapshots.remove(&hash);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.snapshots.is_empty()
    }

    /// Its snapshots and its changes, each after those it depends on.
    pub(super) fn into_chunks(self) -> (Vec<Bytes>, Vec<Bytes>) {
        let mut changes: Vec<_> = self.changes.into_iter().collect();
        changes.sort_by_key(|(hash, seen)| (seen.start_op, *hash));
        let changes = changes.into_iter().map(|(_, seen)| seen.body);
        (self.snapshots.into_values().collect(), changes.collect())
    }
}
