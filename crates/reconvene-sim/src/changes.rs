//! Real Automerge changes made without a document: one operation each, with an explicit actor.
//!
//! The engine reads headers only, so a document would cost time and prove nothing more.

use std::num::NonZeroU64;

use automerge::legacy::{Key as OperationKey, ObjectId, Op, OpType};
use automerge::{ActorId, Change, ExpandedChange, ScalarValue};
use bytes::Bytes;
use reconvene_core::ids::{ChangeHash, DocumentKind};

/// The kind of every simulated document, unless a test asks for another.
pub const KIND: DocumentKind = DocumentKind(1);

/// A second kind.
pub const OTHER_KIND: DocumentKind = DocumentKind(2);

/// One change, as its author would hand it over.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its name.
    pub hash: ChangeHash,
    /// Its chunk.
    pub body: Bytes,
}

/// What goes into a change.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Who makes it.
    pub actor: [u8; 16],
    /// Its place among the actor's changes.
    pub seq: u64,
    /// The counter of its only operation.
    pub start_op: u64,
    /// What it was made on top of.
    pub dependencies: Vec<ChangeHash>,
    /// What it writes.
    pub value: Vec<u8>,
}

/// Makes a change.
pub fn make(mut recipe: Recipe) -> Made {
    let value = ScalarValue::Bytes(std::mem::take(&mut recipe.value));
    let key = format!("{}", recipe.seq % 8);
    make_of(recipe, &key, value)
}

/// The change by which somebody with a later version says that a real document needs it to be edited.
pub fn make_later(
    actor: [u8; 16],
    start_op: u64,
    dependencies: impl IntoIterator<Item = ChangeHash>,
) -> Made {
    let recipe = Recipe {
        actor,
        seq: 1,
        start_op,
        dependencies: dependencies.into_iter().collect(),
        value: Vec::new(),
    };
    let later = reconvene_model::genesis::SCHEMA_VERSION + 1;
    make_of(recipe, "min_reader", ScalarValue::Uint(later))
}

fn make_of(recipe: Recipe, key: &str, value: ScalarValue) -> Made {
    let Recipe {
        actor,
        seq,
        start_op,
        mut dependencies,
        value: _,
    } = recipe;
    dependencies.sort_unstable();
    let operation = Op {
        action: OpType::Put(value),
        obj: ObjectId::Root,
        key: OperationKey::Map(key.into()),
        pred: automerge::legacy::SortedVec::new(),
        insert: false,
    };
    let change = Change::from(ExpandedChange {
        operations: vec![operation],
        actor_id: ActorId::from(actor),
        hash: None,
        seq,
        start_op: NonZeroU64::new(start_op).expect("operations are counted from 1"),
        time: 0,
        message: None,
        deps: dependencies
            .iter()
            .map(|hash| automerge::ChangeHash(*hash.as_bytes()))
            .collect(),
        extra_bytes: Vec::new(),
        author: None,
    });
    Made {
        hash: ChangeHash::from_bytes(change.hash().0),
        body: Bytes::copy_from_slice(change.raw_bytes()),
    }
}

/// The constant change every document of a kind begins with.
pub fn genesis(kind: DocumentKind) -> Made {
    make(Recipe {
        actor: [kind.0; 16],
        seq: 1,
        start_op: 1,
        dependencies: Vec::new(),
        value: vec![kind.0],
    })
}
