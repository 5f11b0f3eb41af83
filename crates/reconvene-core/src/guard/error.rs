//! Why a change is refused, and which part of it is to blame.

use std::fmt;

use super::ActorId;
use super::columns::Column;
use crate::limits::{BOMB_BYTES_MIN, OFFENCE_FACTOR, OPERATION_COUNTER_MAX};
#[cfg(doc)]
use crate::limits::{CHANGE_BYTES_MAX, CHANGE_INFLATED_BYTES_MAX};

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
    /// Its list of columns.
    Columns,
    /// One of its columns.
    Column(Column),
    /// Its operations.
    Operations,
    /// The operations that its own supersede.
    Predecessors,
    /// The keys and mark names of its operations, counted for each operation.
    Names,
    /// Who wrote it.
    Author,
}

impl fmt::Display for ChangePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Column(column) => return write!(f, "{column} column"),
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
            Self::Operations => "operations",
            Self::Predecessors => "predecessors",
            Self::Names => "keys and mark names",
            Self::Author => "author",
        })
    }
}

/// Why a change is refused.
///
/// [`is_too_large`](Self::is_too_large) tells the refusals an honest author may meet (`TooLarge` to
/// them) from all others (`Damaged`).
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
    /// The change lists an actor that none of its operations names.
    #[error("a change lists actor {actor} and never names it")]
    UnusedActor {
        /// The actor.
        actor: ActorId,
    },
    /// A string is not UTF-8.
    #[error("the {part} of a change is not UTF-8")]
    NotUtf8 {
        /// The part that holds the string.
        part: ChangePart,
    },
    /// A column is none that Automerge has; it would lose it.
    #[error("column {column} of a change is not known")]
    UnknownColumn {
        /// The column's id with its type, as stored.
        column: u32,
    },
    /// A column ends before the last operation or predecessor, or has none where one must be.
    #[error("the {part} of a change lacks an entry")]
    EntryMissing {
        /// The column.
        part: ChangePart,
    },
    /// A column goes on after the last operation or predecessor.
    #[error("the {part} of a change has more entries than there are operations")]
    EntryTooMany {
        /// The column.
        part: ChangePart,
    },
    /// The same could be, and by Automerge is, written in another way, under another hash.
    #[error("the {part} of a change is not written as it must be: {what}")]
    NotCanonical {
        /// The part.
        part: ChangePart,
        /// What is wrong.
        what: &'static str,
    },
    /// An operation is one that Automerge never writes.
    #[error("operation {index} of a change {what}")]
    Operation {
        /// Its place in the change, from 0.
        index: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An operation does what Automerge does not know.
    #[error("operation {index} of a change does what is not known: {action}")]
    UnknownAction {
        /// Its place in the change, from 0.
        index: u64,
        /// What it does, as stored.
        action: u64,
    },
    /// A change names its author and is not its actor's first.
    #[error("change {seq} of an actor names an author, which only the first may")]
    LateAuthor {
        /// Its sequence number.
        seq: u64,
    },
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
        match self {
            Self::ChunkTooLarge { .. } | Self::InflatedTooLarge { .. } => true,
            Self::TooMany { part, .. } | Self::TooLong { part, .. } => matches!(
                part,
                ChangePart::Operations
                    | ChangePart::Predecessors
                    | ChangePart::Names
                    | ChangePart::Column(_)
            ),
            _ => false,
        }
    }

    /// Whether no peer that keeps the protocol sends such a change, whoever wrote it: every version
    /// refuses it, in whatever state, so that it is neither written nor passed on.
    ///
    /// Bounds may be set otherwise by another version, and columns and actions may come with one: these
    /// are no offence, unless a bound is exceeded [`OFFENCE_FACTOR`] times. A rule that is added or made
    /// stricter in a later version is none either: stores have from before it what it refuses.
    pub fn is_offence(&self) -> bool {
        let is_far_beyond = |value: u64, bound: usize| {
            let bound = u64::try_from(bound).unwrap_or(u64::MAX);
            value > bound.saturating_mul(OFFENCE_FACTOR)
        };
        match self {
            Self::TooMany {
                count, count_max, ..
            } => is_far_beyond(*count, *count_max),
            Self::TooLong {
                bytes, bytes_max, ..
            } => is_far_beyond(*bytes, *bytes_max),
            Self::OutOfRange {
                part: ChangePart::StartOp,
                value,
            } => *value == 0 || *value > OPERATION_COUNTER_MAX.saturating_mul(OFFENCE_FACTOR),
            // What follows the columns is where a later version says more.
            Self::OutOfRange { part, .. } | Self::TrailingBytes { part, .. } => {
                *part != ChangePart::Author
            }
            // The ratio is a bound of this version, like the size: a bomb goes far beyond both.
            Self::InflateRatio { bytes_max, .. } => *bytes_max >= BOMB_BYTES_MIN,
            Self::Magic
            | Self::Checksum { .. }
            | Self::Deflate
            | Self::Truncated { .. }
            | Self::Leb128 { .. }
            | Self::EmptyActor { .. }
            | Self::NotAscending { .. }
            | Self::OwnActor
            | Self::UnusedActor { .. }
            | Self::NotUtf8 { .. }
            | Self::EntryMissing { .. }
            | Self::EntryTooMany { .. }
            | Self::NotCanonical { .. }
            | Self::Operation { .. }
            | Self::DeflatedColumn { .. } => true,
            Self::ChunkTooLarge { .. }
            | Self::InflatedTooLarge { .. }
            | Self::ChunkType { .. }
            | Self::TimeOutOfRange { .. }
            | Self::UnknownColumn { .. }
            | Self::UnknownAction { .. }
            | Self::LateAuthor { .. } => false,
        }
    }
}
