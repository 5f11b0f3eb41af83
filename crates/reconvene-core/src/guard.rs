//! The guard: what the bytes of a change must satisfy before anyone expands, keeps or forwards them.
//!
//! It is pure, never panics, and never allocates beyond the caps in [`limits`](crate::limits),
//! whatever the bytes. It reads the chunk format of Automerge itself and never calls Automerge,
//! which may panic or allocate without bound on crafted input.
//!
//! A change that passes is in canonical form: Automerge, encoding it again, writes the same inflated
//! bytes. That is what keeps a document loadable, since Automerge keeps operations and not changes,
//! and knows a change by the hash of what it writes. (Deflating is not canonical: two compressed
//! bodies may carry the same change; the hash is over the inflated one.)
//!
//! **Not checked here**, because it takes the document:
//!
//! - a contiguous sequence, present dependencies, and a start operation exactly one past theirs: the
//!   engine checks these against the stored heads;
//! - that the objects, elements and predecessors an operation names exist and are of the right type,
//!   and in what order marks come to lie. Only loading shows it, and loading is contained
//!   (`reconvene_model::materialise`).

mod snapshot;

pub use snapshot::{SnapshotGuardError, check_snapshot, check_snapshot_envelope};

use std::fmt;

use crate::ids::ChangeHash;
use crate::limits::{ACTOR_BYTES_MAX, CHANGE_BYTES_MAX};

pub use columns::Column;
pub use error::{ChangePart, GuardError};

use chunk::{Chunk, inflate};
#[cfg(any(test, feature = "fuzz"))]
pub use chunk::{seal, seal_deflated};
use header::parse_data;

mod chunk;
mod columns;
mod error;
mod header;
mod leb;
mod operations;
#[cfg(any(test, feature = "fuzz"))]
pub mod pieces;
mod runs;

/// What a change says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeHeader {
    /// Name of the change, computed from its inflated bytes.
    pub hash: ChangeHash,
    /// The changes this one was made on top of, strictly ascending.
    pub dependencies: Vec<ChangeHash>,
    /// Who made it.
    pub actor: ActorId,
    /// Its place among the actor's changes; the first is 1.
    pub seq: u64,
    /// Counter of its first operation; at least 1 and at most
    /// [`OPERATION_COUNTER_MAX`](crate::limits::OPERATION_COUNTER_MAX).
    pub start_op: u64,
    /// How many operations it has; at most
    /// [`OPERATIONS_PER_CHANGE_MAX`](crate::limits::OPERATIONS_PER_CHANGE_MAX).
    pub operations: u64,
    /// When it was made, as its author says; no unit is enforced and nothing may depend on it.
    /// At most 2^53 - 1 either side of zero.
    pub time: i64,
    /// The other actors its operations refer to, strictly ascending and without `actor`.
    pub other_actors: Vec<ActorId>,
    /// Length of the chunk as received.
    pub body_bytes: usize,
    /// Length of the change's data once inflated, without the chunk's own header.
    pub inflated_bytes: usize,
}

impl ChangeHeader {
    /// Counter of its last operation; without operations, that of the last one before it.
    pub fn max_op(&self) -> u64 {
        self.start_op - 1 + self.operations
    }
}

/// One writer of one document: 1 to [`ACTOR_BYTES_MAX`] bytes, in Automerge's order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(Box<[u8]>);

impl ActorId {
    /// Takes the bytes of an actor id; `None` if there are none or too many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (1..=ACTOR_BYTES_MAX)
            .contains(&bytes.len())
            .then(|| Self(bytes.into()))
    }

    /// The bytes of the actor id.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Checks one change chunk that fills `body` exactly, and reads its header.
///
/// The module's documentation lists what an `Ok` does not promise. Takes time and memory in the
/// order of the inflated bytes and of the bounds on operations and predecessors.
///
/// # Errors
/// Whatever is wrong with it, cheap checks first; see [`GuardError`].
pub fn parse_change(body: &[u8]) -> Result<ChangeHeader, GuardError> {
    if body.len() > CHANGE_BYTES_MAX {
        return Err(GuardError::ChunkTooLarge {
            bytes: body.len(),
            bytes_max: CHANGE_BYTES_MAX,
        });
    }
    let chunk = Chunk::parse(body)?;
    if chunk.compressed {
        let inflated = inflate(chunk.data)?;
        parse_data(&inflated, chunk.checksum, body.len())
    } else {
        parse_data(chunk.data, chunk.checksum, body.len())
    }
}

#[cfg(test)]
mod tests;
