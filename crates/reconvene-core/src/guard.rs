//! The guard: what the bytes of a change must satisfy before anyone expands, keeps or forwards them.
//!
//! It is pure, never panics, and never allocates beyond the caps in [`limits`](crate::limits),
//! whatever the bytes. It reads the chunk format of Automerge itself and never calls Automerge,
//! which may panic or allocate without bound on crafted input.
//!
//! This is the part that reads headers. **Not checked here yet**, so an accepted change may still
//! be one that Automerge refuses, expands without bound or panics on:
//!
//! - the contents of the columns: only their ids and lengths are read; no run length is summed and
//!   no value is looked at;
//! - that the columns are known ones, that an actor index points into the change's actors, and
//!   that every other actor is used;
//! - the bytes after the columns, where Automerge keeps the author;
//! - canonical form: whether encoding the change again would give the same inflated bytes. Two
//!   different compressed bodies may carry the same change (the hash is over the inflated one);
//! - everything that needs the document: a contiguous sequence, known actors, and a start operation
//!   exactly one past its dependencies'.

mod snapshot;

pub use snapshot::{SnapshotGuardError, check_snapshot};

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest, Sha256};

use crate::ids::ChangeHash;
use crate::limits::{
    ACTOR_BYTES_MAX, CHANGE_BYTES_MAX, CHANGE_INFLATE_RATIO_FLOOR, CHANGE_INFLATE_RATIO_MAX,
    CHANGE_INFLATED_BYTES_MAX, CHANGE_MESSAGE_BYTES_MAX, DEPENDENCIES_MAX, OTHER_ACTORS_MAX,
    TIME_MAX,
};

/// First bytes of every Automerge chunk.
const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// Chunk type of a change, and what the hash of a change of either type is computed with.
const CHUNK_CHANGE: u8 = 1;
/// Chunk type of a change whose data is deflated (raw, without a zlib header).
const CHUNK_COMPRESSED_CHANGE: u8 = 2;
/// The bit of a column's id that says its data is deflated; a change never has it.
const COLUMN_DEFLATED: u32 = 0b1000;

const _: () = assert!(CHANGE_INFLATE_RATIO_FLOOR <= CHANGE_INFLATED_BYTES_MAX);

/// What a change says about itself, as far as its header goes.
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
    /// Counter of its first operation; at least 1 and at most [`u32::MAX`].
    pub start_op: u64,
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

/// A part of a change, as an error names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangePart {
    /// Magic bytes, checksum, type and length of the chunk.
    ChunkHeader,
    /// The data of the chunk.
    ChunkData,
    /// The hashes it depends on.
    Dependencies,
    /// The actor that made it.
    Actor,
    /// Its sequence number.
    Seq,
    /// Counter of its first operation.
    StartOp,
    /// Its time.
    Time,
    /// Its message.
    Message,
    /// The other actors it names.
    OtherActors,
    /// Its columns of operations.
    Columns,
}

impl fmt::Display for ChangePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChunkHeader => "chunk header",
            Self::ChunkData => "chunk data",
            Self::Dependencies => "dependencies",
            Self::Actor => "actor",
            Self::Seq => "sequence number",
            Self::StartOp => "start operation",
            Self::Time => "time",
            Self::Message => "message",
            Self::OtherActors => "other actors",
            Self::Columns => "columns",
        })
    }
}

/// Why a change is refused.
///
/// [`is_too_large`](Self::is_too_large) tells the two refusals an honest author may meet (`TooLarge`
/// to them) from all others (`Malformed`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The chunk is longer than [`CHANGE_BYTES_MAX`].
    #[error("a change of {bytes} bytes is larger than {bytes_max}")]
    ChunkTooLarge {
        /// Length of the chunk.
        bytes: usize,
        /// Longest chunk taken.
        bytes_max: usize,
    },
    /// The data inflates to more than [`CHANGE_INFLATED_BYTES_MAX`]; where it would end is unknown.
    #[error("a change inflates to more than {bytes_max} bytes")]
    InflatedTooLarge {
        /// Longest inflated data taken.
        bytes_max: usize,
    },
    /// The data inflates to more than its length allows; where it would end is unknown.
    #[error("{deflated_bytes} bytes of a change inflate to more than {bytes_max}")]
    InflateRatio {
        /// Length of the deflated data.
        deflated_bytes: usize,
        /// Longest inflated data taken for that length.
        bytes_max: usize,
    },
    /// The chunk does not begin as every Automerge chunk does.
    #[error("not an Automerge chunk")]
    Magic,
    /// The chunk is something else than one change.
    #[error("a chunk of type {chunk_type} is not a change")]
    ChunkType {
        /// The type it states.
        chunk_type: u8,
    },
    /// The data does not have the checksum the chunk states.
    #[error("a change has checksum {actual:02x?}, but states {stated:02x?}")]
    Checksum {
        /// First bytes of the hash, as stated.
        stated: [u8; 4],
        /// First bytes of the hash, as computed.
        actual: [u8; 4],
    },
    /// The deflated data is broken or ends early.
    #[error("the data of a change does not inflate")]
    Deflate,
    /// The bytes end within a part.
    #[error("a change ends within its {part}")]
    Truncated {
        /// The part.
        part: ChangePart,
    },
    /// There are bytes after the end of a part.
    #[error("{bytes} bytes follow the {part} of a change")]
    TrailingBytes {
        /// The part.
        part: ChangePart,
        /// How many follow.
        bytes: usize,
    },
    /// A number is not in its shortest form, or does not fit 64 bits.
    #[error("a number in the {part} of a change is not a minimal LEB128 of 64 bits")]
    Leb128 {
        /// The part that holds the number.
        part: ChangePart,
    },
    /// A number is outside what this part may hold.
    #[error("{value} is out of range for the {part} of a change")]
    OutOfRange {
        /// The part.
        part: ChangePart,
        /// The number.
        value: u64,
    },
    /// The time is further from zero than any clock gives.
    #[error("the time {time} of a change is out of range")]
    TimeOutOfRange {
        /// The time.
        time: i64,
    },
    /// A list has too many entries.
    #[error("a change has {count} {part}, more than {count_max}")]
    TooMany {
        /// The list.
        part: ChangePart,
        /// How many entries it states.
        count: u64,
        /// Most entries taken.
        count_max: usize,
    },
    /// A string of bytes is too long.
    #[error("the {part} of a change takes {bytes} bytes, more than {bytes_max}")]
    TooLong {
        /// The part that holds the string.
        part: ChangePart,
        /// Length it states.
        bytes: u64,
        /// Longest taken.
        bytes_max: usize,
    },
    /// An actor id is empty.
    #[error("an actor id among the {part} of a change is empty")]
    EmptyActor {
        /// The part that holds it.
        part: ChangePart,
    },
    /// A list is not strictly ascending.
    #[error("the {part} of a change are not strictly ascending")]
    NotAscending {
        /// The list.
        part: ChangePart,
    },
    /// The change names its own actor among the others.
    #[error("a change names its own actor among the other actors")]
    OwnActor,
    /// The message is not UTF-8.
    #[error("the message of a change is not UTF-8")]
    MessageNotUtf8,
    /// A column of a change is deflated, which only a document's may be.
    #[error("column {column} of a change is deflated")]
    DeflatedColumn {
        /// The column's id with its type, as stored.
        column: u32,
    },
}

impl GuardError {
    /// Whether the change is refused for its size alone, as an honest one can be.
    pub fn is_too_large(&self) -> bool {
        matches!(
            self,
            Self::ChunkTooLarge { .. } | Self::InflatedTooLarge { .. }
        )
    }
}

/// Reads the header of one change chunk that fills `body` exactly.
///
/// The module's documentation lists what an `Ok` does not promise.
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

/// The envelope of a change.
struct Chunk<'a> {
    checksum: [u8; 4],
    compressed: bool,
    data: &'a [u8],
}

impl<'a> Chunk<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, GuardError> {
        let mut reader = Reader::new(body);
        if reader.array::<4>(ChangePart::ChunkHeader)? != MAGIC {
            return Err(GuardError::Magic);
        }
        let checksum = reader.array::<4>(ChangePart::ChunkHeader)?;
        let [chunk_type] = reader.array::<1>(ChangePart::ChunkHeader)?;
        let compressed = match chunk_type {
            CHUNK_CHANGE => false,
            CHUNK_COMPRESSED_CHANGE => true,
            _ => return Err(GuardError::ChunkType { chunk_type }),
        };
        let data_bytes = reader.unsigned(ChangePart::ChunkHeader)?;
        let data = reader.bytes(data_bytes, ChangePart::ChunkData)?;
        if !reader.rest.is_empty() {
            return Err(GuardError::TrailingBytes {
                part: ChangePart::ChunkData,
                bytes: reader.rest.len(),
            });
        }
        Ok(Self {
            checksum,
            compressed,
            data,
        })
    }
}

/// Inflates raw deflate data that must end exactly where `deflated` does.
///
/// The buffer never holds more than one byte beyond what is allowed for that length.
fn inflate(deflated: &[u8]) -> Result<Vec<u8>, GuardError> {
    let by_ratio = deflated
        .len()
        .saturating_mul(CHANGE_INFLATE_RATIO_MAX)
        .max(CHANGE_INFLATE_RATIO_FLOOR);
    let bytes_max = by_ratio.min(CHANGE_INFLATED_BYTES_MAX);

    let mut inflater = Decompress::new(false);
    let mut inflated = Vec::with_capacity(deflated.len().saturating_mul(4).clamp(64, bytes_max));
    loop {
        let consumed = usize::try_from(inflater.total_in()).map_err(|_| GuardError::Deflate)?;
        let before = (consumed, inflated.len());
        let input = deflated.get(consumed..).ok_or(GuardError::Deflate)?;
        let status = inflater
            .decompress_vec(input, &mut inflated, FlushDecompress::None)
            .map_err(|_| GuardError::Deflate)?;
        if inflated.len() > bytes_max {
            return Err(if by_ratio < CHANGE_INFLATED_BYTES_MAX {
                GuardError::InflateRatio {
                    deflated_bytes: deflated.len(),
                    bytes_max,
                }
            } else {
                GuardError::InflatedTooLarge { bytes_max }
            });
        }
        let consumed = usize::try_from(inflater.total_in()).map_err(|_| GuardError::Deflate)?;
        if status == Status::StreamEnd {
            return match deflated.len() - consumed {
                0 => Ok(inflated),
                bytes => Err(GuardError::TrailingBytes {
                    part: ChangePart::ChunkData,
                    bytes,
                }),
            };
        }
        if inflated.len() == inflated.capacity() {
            // One byte more than is allowed: filling it is the proof that there is too much.
            let capacity = (inflated.capacity() * 2).min(bytes_max + 1);
            inflated.reserve_exact(capacity - inflated.len());
        } else if before == (consumed, inflated.len()) {
            // Room left, nothing read and nothing written: the data ends before its stream does.
            return Err(GuardError::Deflate);
        }
    }
}

/// Checks and reads the inflated data of a chunk of `body_bytes` bytes.
fn parse_data(
    data: &[u8],
    checksum: [u8; 4],
    body_bytes: usize,
) -> Result<ChangeHeader, GuardError> {
    let hash = hash_of(data);
    let [a, b, c, d, ..] = *hash.as_bytes();
    if checksum != [a, b, c, d] {
        return Err(GuardError::Checksum {
            stated: checksum,
            actual: [a, b, c, d],
        });
    }

    let mut reader = Reader::new(data);
    let dependencies = reader.dependencies()?;
    let actor = reader.actor(ChangePart::Actor)?;
    let seq = reader.unsigned(ChangePart::Seq)?;
    if seq == 0 {
        return Err(GuardError::OutOfRange {
            part: ChangePart::Seq,
            value: seq,
        });
    }
    let start_op = reader.unsigned(ChangePart::StartOp)?;
    // Automerge counts operations in 32 bits and refuses anything above.
    if start_op == 0 || start_op > u64::from(u32::MAX) {
        return Err(GuardError::OutOfRange {
            part: ChangePart::StartOp,
            value: start_op,
        });
    }
    let time = reader.signed(ChangePart::Time)?;
    if !(-TIME_MAX..=TIME_MAX).contains(&time) {
        return Err(GuardError::TimeOutOfRange { time });
    }
    reader.message()?;
    let other_actors = reader.other_actors(&actor)?;
    reader.columns()?;
    Ok(ChangeHeader {
        hash,
        dependencies,
        actor,
        seq,
        start_op,
        time,
        other_actors,
        body_bytes,
        inflated_bytes: data.len(),
    })
}

/// The hash of a change: over the type and length of its uncompressed chunk, then the data.
fn hash_of(data: &[u8]) -> ChangeHash {
    let mut hasher = Sha256::new();
    hasher.update([CHUNK_CHANGE]);
    let mut length = data.len();
    while length >= 0x80 {
        hasher.update([(length & 0x7f) as u8 | 0x80]);
        length >>= 7;
    }
    hasher.update([length as u8]);
    hasher.update(data);
    ChangeHash::from_bytes(hasher.finalize().into())
}

/// Reads parts off the front of a slice.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn dependencies(&mut self) -> Result<Vec<ChangeHash>, GuardError> {
        let part = ChangePart::Dependencies;
        let count = self.count(part, DEPENDENCIES_MAX)?;
        let mut dependencies = Vec::with_capacity(count);
        for _ in 0..count {
            dependencies.push(ChangeHash::from_bytes(self.array::<32>(part)?));
        }
        ascending(&dependencies, part)?;
        Ok(dependencies)
    }

    fn actor(&mut self, part: ChangePart) -> Result<ActorId, GuardError> {
        let bytes = self.string(part, ACTOR_BYTES_MAX)?;
        ActorId::from_bytes(bytes).ok_or(GuardError::EmptyActor { part })
    }

    fn message(&mut self) -> Result<(), GuardError> {
        let bytes = self.string(ChangePart::Message, CHANGE_MESSAGE_BYTES_MAX)?;
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(_) => Err(GuardError::MessageNotUtf8),
        }
    }

    fn other_actors(&mut self, actor: &ActorId) -> Result<Vec<ActorId>, GuardError> {
        let part = ChangePart::OtherActors;
        let count = self.count(part, OTHER_ACTORS_MAX)?;
        let mut actors = Vec::with_capacity(count);
        for _ in 0..count {
            actors.push(self.actor(part)?);
        }
        // Automerge reads them in any order, but writes them sorted; the index of an actor in
        // this list is what operations refer to.
        ascending(&actors, part)?;
        match actors.binary_search(actor) {
            Ok(_) => Err(GuardError::OwnActor),
            Err(_) => Ok(actors),
        }
    }

    /// Reads the ids and lengths of the columns and checks that their data is there.
    ///
    /// The count needs no bound of its own: every column takes two bytes here, and nothing is kept.
    fn columns(&mut self) -> Result<(), GuardError> {
        let part = ChangePart::Columns;
        let count = self.unsigned(part)?;
        let mut data_bytes = 0_u64;
        let mut previous = None;
        for _ in 0..count {
            let value = self.unsigned(part)?;
            let column =
                u32::try_from(value).map_err(|_| GuardError::OutOfRange { part, value })?;
            if column & COLUMN_DEFLATED != 0 {
                return Err(GuardError::DeflatedColumn { column });
            }
            if previous.is_some_and(|previous| previous >= column) {
                return Err(GuardError::NotAscending { part });
            }
            previous = Some(column);
            data_bytes = data_bytes
                .checked_add(self.unsigned(part)?)
                .ok_or(GuardError::Truncated { part })?;
        }
        self.bytes(data_bytes, part)?;
        Ok(())
    }

    fn count(&mut self, part: ChangePart, count_max: usize) -> Result<usize, GuardError> {
        let count = self.unsigned(part)?;
        match usize::try_from(count) {
            Ok(small) if small <= count_max => Ok(small),
            _ => Err(GuardError::TooMany {
                part,
                count,
                count_max,
            }),
        }
    }

    fn string(&mut self, part: ChangePart, bytes_max: usize) -> Result<&'a [u8], GuardError> {
        let bytes = self.unsigned(part)?;
        if bytes > bytes_max as u64 {
            return Err(GuardError::TooLong {
                part,
                bytes,
                bytes_max,
            });
        }
        self.bytes(bytes, part)
    }

    /// Reads an unsigned LEB128 number: at most ten bytes, the last not zero unless it is the only
    /// one, and nothing beyond bit 63.
    fn unsigned(&mut self, part: ChangePart) -> Result<u64, GuardError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>(part)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if shift > 0 && byte == 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(GuardError::Leb128 { part })
    }

    /// Reads a signed LEB128 number: at most ten bytes, the last not a mere extension of the sign
    /// already there, and the tenth nothing but sign.
    fn signed(&mut self, part: ChangePart) -> Result<i64, GuardError> {
        let mut value = 0_i64;
        let mut sign_so_far = None;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array::<1>(part)?;
            let bits = i64::from(byte & 0x7f);
            if shift == 63 && bits != 0 && bits != 0x7f {
                break;
            }
            value |= bits << shift;
            let negative = byte & 0x40 != 0;
            if byte & 0x80 == 0 {
                let extension = if negative { 0x7f } else { 0 };
                if sign_so_far == Some(negative) && byte == extension {
                    break;
                }
                if negative && shift < 57 {
                    value |= -1 << (shift + 7);
                }
                return Ok(value);
            }
            sign_so_far = Some(negative);
        }
        Err(GuardError::Leb128 { part })
    }

    fn array<const N: usize>(&mut self, part: ChangePart) -> Result<[u8; N], GuardError> {
        let (array, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(GuardError::Truncated { part })?;
        self.rest = rest;
        Ok(*array)
    }

    fn bytes(&mut self, bytes: u64, part: ChangePart) -> Result<&'a [u8], GuardError> {
        let (taken, rest) = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| self.rest.split_at_checked(bytes))
            .ok_or(GuardError::Truncated { part })?;
        self.rest = rest;
        Ok(taken)
    }
}

fn ascending<T: Ord>(list: &[T], part: ChangePart) -> Result<(), GuardError> {
    if list.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(GuardError::NotAscending { part })
    }
}

#[cfg(test)]
mod tests;
