//! Writing a new document's changes without a document.
//!
//! An import writes thousands of registers that nobody has written before. Through a transaction each
//! costs a search in the document's columns; composed directly they cost ten times less, and come out
//! as the same bytes, which a test compares. Only for documents that hold nothing but their genesis,
//! and only for keys that are written once: no operation here replaces another.

use std::num::NonZeroU64;

use automerge::legacy::{Key, ObjectId, Op, OpId, OpType, SortedVec};
use automerge::{ActorId, Change, ChangeHash, ExpandedChange, ObjType, ScalarValue};
use reconvene_core::limits::{CHANGE_BYTES_MAX, CHANGE_INFLATED_BYTES_MAX};
use reconvene_core::time::WallTime;

use crate::document::{EncodedChange, core_hash};
use crate::edit::{ModelError, change_time, exceeds_change};
use crate::genesis::{Container, GENESIS_ACTOR, Genesis};

/// The changes of one new document, being written.
pub(crate) struct Composer {
    actor: ActorId,
    now: WallTime,
    /// The counter of the current change's first operation.
    start_op: u64,
    dependency: ChangeHash,
    operations: Vec<Op>,
    content_bytes: usize,
    changes: Vec<EncodedChange>,
}

impl Composer {
    pub(crate) fn new(genesis: &Genesis, actor: &[u8; 16], now: WallTime) -> Self {
        Self {
            actor: ActorId::from(actor),
            now,
            start_op: genesis.max_op + 1,
            dependency: ChangeHash(*genesis.hash.as_bytes()),
            operations: Vec::new(),
            content_bytes: 0,
            changes: Vec::new(),
        }
    }

    /// Writes a register of the root.
    pub(crate) fn put_root(
        &mut self,
        key: &str,
        value: impl Into<ScalarValue>,
    ) -> Result<(), ModelError> {
        let value = value.into();
        self.reserve(1, key.len() + content_bytes(&value))?;
        self.push(ObjectId::Root, key, OpType::Put(value));
        Ok(())
    }

    /// Creates a map of registers under a container's key. The registers come in the order of their
    /// keys, as everywhere.
    pub(crate) fn put_record<const N: usize>(
        &mut self,
        container: Container,
        key: &str,
        registers: [(&str, Option<ScalarValue>); N],
    ) -> Result<(), ModelError> {
        let mut registers: Vec<_> = registers
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        registers.sort_unstable_by_key(|(key, _)| *key);
        let bytes = registers
            .iter()
            .map(|(key, value)| key.len() + content_bytes(value))
            .sum::<usize>();
        self.reserve(1 + registers.len(), key.len() + bytes)?;

        let parent = OpId(container.op(), ActorId::from(GENESIS_ACTOR));
        let record = OpId(self.next_op(), self.actor.clone());
        self.push(ObjectId::Id(parent), key, OpType::Make(ObjType::Map));
        for (key, value) in registers {
            self.push(ObjectId::Id(record.clone()), key, OpType::Put(value));
        }
        Ok(())
    }

    /// The changes, in the order in which they depend on each other.
    pub(crate) fn finish(mut self) -> Result<Vec<EncodedChange>, ModelError> {
        self.commit()?;
        Ok(self.changes)
    }

    fn reserve(&mut self, ops: usize, bytes: usize) -> Result<(), ModelError> {
        let pending = self.operations.len();
        if pending > 0 && exceeds_change(pending + ops, self.content_bytes + bytes) {
            self.commit()?;
        }
        self.content_bytes += bytes;
        Ok(())
    }

    fn next_op(&self) -> u64 {
        self.start_op + self.operations.len() as u64
    }

    fn push(&mut self, obj: ObjectId, key: &str, action: OpType) {
        self.operations.push(Op {
            action,
            obj,
            key: Key::Map(key.into()),
            pred: SortedVec::new(),
            insert: false,
        });
    }

    fn commit(&mut self) -> Result<(), ModelError> {
        if self.operations.is_empty() {
            return Ok(());
        }
        let next = self.next_op();
        let mut change = Change::from(ExpandedChange {
            operations: std::mem::take(&mut self.operations),
            actor_id: self.actor.clone(),
            hash: None,
            seq: self.changes.len() as u64 + 1,
            start_op: NonZeroU64::new(self.start_op).expect("it is one past a counter"),
            time: change_time(self.now),
            message: None,
            deps: vec![self.dependency],
            extra_bytes: Vec::new(),
            author: None,
        });
        let inflated_bytes = change.raw_bytes().len();
        let bytes = change.bytes().into_owned();
        if bytes.len() > CHANGE_BYTES_MAX || inflated_bytes > CHANGE_INFLATED_BYTES_MAX {
            return Err(ModelError::ChangeTooLarge { bytes: bytes.len() });
        }
        self.start_op = next;
        self.dependency = change.hash();
        self.content_bytes = 0;
        let hash = core_hash(change.hash());
        self.changes.push(EncodedChange { hash, bytes });
        Ok(())
    }
}

/// What a value counts towards the size of its change.
pub(crate) fn content_bytes(value: &ScalarValue) -> usize {
    match value {
        ScalarValue::Str(text) => text.len(),
        _ => 8,
    }
}
