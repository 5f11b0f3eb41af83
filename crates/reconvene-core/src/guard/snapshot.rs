//! What the bytes of a snapshot must satisfy before anyone loads them: one Automerge document chunk
//! with its checksum, lists within their caps, and columns that inflate to no more than theirs and whose
//! runs add up to no more entries than theirs.
//!
//! The layout is that of the Automerge binary format, "document chunk". Nothing is kept: this is
//! only about what loading may cost.

use std::io::Read as _;

use flate2::read::DeflateDecoder;
use sha2::{Digest as _, Sha256};

use crate::limits::{
    ACTOR_BYTES_MAX, ACTORS_PER_DOCUMENT_MAX, DEPENDENCIES_MAX, SNAPSHOT_BYTES_MAX,
    SNAPSHOT_ENTRIES_MAX, SNAPSHOT_INFLATED_BYTES_MAX,
};

const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const DOCUMENT_CHUNK: u8 = 0;
/// The bit of a column's id that says it is deflated.
const DEFLATED: u64 = 0b1000;
/// Most columns of either table: Automerge has nineteen kinds, and later versions may add some.
const COLUMNS_MAX: u64 = 64;

/// Why a snapshot is refused unloaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotGuardError {
    /// It is longer than [`SNAPSHOT_BYTES_MAX`].
    #[error("a snapshot of {bytes} bytes is larger than {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Its columns inflate to more than [`SNAPSHOT_INFLATED_BYTES_MAX`].
    #[error("a snapshot inflates to more than {max} bytes")]
    InflatedTooLarge {
        /// The limit.
        max: usize,
    },
    /// A column has more than [`SNAPSHOT_ENTRIES_MAX`] entries.
    #[error("a column of a snapshot has more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: u64,
    },
    /// It is no document chunk.
    #[error("not a whole Automerge document chunk")]
    NotADocument,
    /// It does not have the checksum it states.
    #[error("a snapshot does not have the checksum it states")]
    Checksum,
    /// It ends within a part, or a part has more than it may.
    #[error("the {part} of a snapshot are malformed")]
    Malformed {
        /// The part.
        part: &'static str,
    },
}

impl SnapshotGuardError {
    /// Whether no peer that keeps the protocol sends such a snapshot, as
    /// [`GuardError::is_offence`](super::GuardError::is_offence): what it holds may be of a later version, its
    /// envelope is not.
    /// [`check_snapshot_envelope`] finds all that is.
    pub fn is_offence(&self) -> bool {
        match self {
            Self::NotADocument | Self::Checksum => true,
            Self::TooLarge { .. }
            | Self::InflatedTooLarge { .. }
            | Self::TooManyEntries { .. }
            | Self::Malformed { .. } => false,
        }
    }
}

/// Checks a snapshot before it is loaded.
///
/// # Errors
/// Whatever is wrong with it, cheap checks first.
pub fn check_snapshot(body: &[u8]) -> Result<(), SnapshotGuardError> {
    check_parts(open_envelope(body)?)
}

/// Checks what is around a snapshot, and expands nothing.
///
/// # Errors
/// Its size, or what is wrong with its envelope.
pub fn check_snapshot_envelope(body: &[u8]) -> Result<(), SnapshotGuardError> {
    open_envelope(body).map(drop)
}

fn open_envelope(body: &[u8]) -> Result<Rest<'_>, SnapshotGuardError> {
    if body.len() > SNAPSHOT_BYTES_MAX {
        return Err(SnapshotGuardError::TooLarge {
            bytes: body.len(),
            max: SNAPSHOT_BYTES_MAX,
        });
    }
    let mut rest = Rest(body);
    let is_document = rest.take(4) == Some(&MAGIC[..]);
    let stated = rest.take(4).ok_or(SnapshotGuardError::NotADocument)?;
    let hashed = rest.0;
    if !is_document || rest.take(1) != Some(&[DOCUMENT_CHUNK]) {
        return Err(SnapshotGuardError::NotADocument);
    }
    let length = rest.number().ok_or(SnapshotGuardError::NotADocument)?;
    if length != rest.0.len() as u64 {
        return Err(SnapshotGuardError::NotADocument);
    }
    if Sha256::digest(hashed)[..4] != *stated {
        return Err(SnapshotGuardError::Checksum);
    }
    Ok(rest)
}

fn check_parts(mut rest: Rest<'_>) -> Result<(), SnapshotGuardError> {
    let malformed = |part| move || SnapshotGuardError::Malformed { part };
    let in_actors = malformed("actors");
    let actors = rest.count(ACTORS_PER_DOCUMENT_MAX as u64 + 1);
    for _ in 0..actors.ok_or_else(in_actors)? {
        let length = rest.count(ACTOR_BYTES_MAX as u64).ok_or_else(in_actors)?;
        rest.take(length).ok_or_else(in_actors)?;
    }
    let in_heads = malformed("heads");
    let heads = rest.count(DEPENDENCIES_MAX as u64).ok_or_else(in_heads)?;
    rest.take(heads * 32).ok_or_else(in_heads)?;
    let change_columns = rest.columns().ok_or_else(malformed("change columns"))?;
    let operation_columns = rest.columns().ok_or_else(malformed("operation columns"))?;
    let mut budget = SNAPSHOT_INFLATED_BYTES_MAX;
    for (id, length) in change_columns.into_iter().chain(operation_columns) {
        let column = rest.take(length).ok_or_else(malformed("columns"))?;
        let inflated;
        let column = if id & DEFLATED == 0 {
            column
        } else {
            inflated = inflate(column, budget)?;
            &inflated
        };
        budget = budget
            .checked_sub(column.len())
            .ok_or(SnapshotGuardError::InflatedTooLarge {
                max: SNAPSHOT_INFLATED_BYTES_MAX,
            })?;
        let entries = Rest(column).entries(id).ok_or_else(malformed("columns"))?;
        if entries > SNAPSHOT_ENTRIES_MAX {
            return Err(SnapshotGuardError::TooManyEntries {
                max: SNAPSHOT_ENTRIES_MAX,
            });
        }
    }
    // What is left, the places of the heads, Automerge reads as far as it needs.
    Ok(())
}

/// A deflated column, if it is within the budget.
fn inflate(column: &[u8], budget: usize) -> Result<Vec<u8>, SnapshotGuardError> {
    let mut inflated = Vec::new();
    let mut inflater = DeflateDecoder::new(column).take(budget as u64 + 1);
    inflater
        .read_to_end(&mut inflated)
        .map_err(|_| SnapshotGuardError::Malformed { part: "columns" })?;
    if inflated.len() > budget {
        return Err(SnapshotGuardError::InflatedTooLarge {
            max: SNAPSHOT_INFLATED_BYTES_MAX,
        });
    }
    Ok(inflated)
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// An unsigned LEB128 of at most 64 bits.
    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A number up to a limit that fits memory.
    fn count(&mut self, max: u64) -> Option<usize> {
        let count = self.number().filter(|count| *count <= max)?;
        usize::try_from(count).ok()
    }

    /// How many entries a column has, summing its runs without expanding them; 0 for one of raw bytes.
    fn entries(mut self, id: u64) -> Option<u64> {
        const BOOLEANS: u64 = 4;
        const STRINGS: u64 = 5;
        const RAW: u64 = 7;
        let kind = id & 0b111;
        let mut entries = 0_u64;
        if kind == RAW {
            return Some(entries);
        }
        while !self.0.is_empty() {
            if kind == BOOLEANS {
                entries = entries.saturating_add(self.number()?);
                continue;
            }
            let length = self.signed()?;
            let values = match length {
                0 => {
                    entries = entries.saturating_add(self.number()?);
                    continue;
                }
                1.. => 1,
                _ => length.unsigned_abs(),
            };
            entries = entries.saturating_add(length.unsigned_abs());
            for _ in 0..values {
                match kind {
                    STRINGS => {
                        let bytes = usize::try_from(self.number()?).ok()?;
                        self.take(bytes)?;
                    }
                    // Signed or not, a number ends at the same byte.
                    _ => self.skip_number()?,
                }
            }
        }
        Some(entries)
    }

    /// A signed LEB128 of at most 64 bits.
    fn signed(&mut self) -> Option<i64> {
        let mut value = 0_i64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = i64::from(byte & 0x7f);
            value |= bits.checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                if shift + 7 < 64 && byte & 0x40 != 0 {
                    value |= -1_i64 << (shift + 7);
                }
                return Some(value);
            }
        }
        None
    }

    fn skip_number(&mut self) -> Option<()> {
        for _ in 0..10 {
            if self.take(1)?[0] & 0x80 == 0 {
                return Some(());
            }
        }
        None
    }

    /// The ids and lengths of a table of columns.
    fn columns(&mut self) -> Option<Vec<(u64, usize)>> {
        let count = self.count(COLUMNS_MAX)?;
        let mut columns = Vec::with_capacity(count);
        for _ in 0..count {
            let id = self.number()?;
            columns.push((id, self.count(SNAPSHOT_BYTES_MAX as u64)?));
        }
        Some(columns)
    }
}
