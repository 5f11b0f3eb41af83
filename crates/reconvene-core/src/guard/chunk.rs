//! The envelope of a change: its chunk, its checksum, and inflating without ever holding more than
//! is allowed.

use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest, Sha256};

use super::error::{ChangePart, GuardError};
use super::leb::Reader;
use crate::ids::ChangeHash;
use crate::limits::{
    CHANGE_INFLATE_RATIO_FLOOR, CHANGE_INFLATE_RATIO_MAX, CHANGE_INFLATED_BYTES_MAX,
};

/// First bytes of every Automerge chunk.
pub(super) const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// Chunk type of a change, and what the hash of a change of either type is computed with.
pub(super) const CHUNK_CHANGE: u8 = 1;
/// Chunk type of a change whose data is deflated (raw, without a zlib header).
pub(super) const CHUNK_COMPRESSED_CHANGE: u8 = 2;

const _: () = assert!(CHANGE_INFLATE_RATIO_FLOOR <= CHANGE_INFLATED_BYTES_MAX);

/// The envelope of a change.
pub(super) struct Chunk<'a> {
    pub(super) checksum: [u8; 4],
    pub(super) compressed: bool,
    pub(super) data: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Reads a chunk that fills `body` exactly.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, GuardError> {
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
        reader.finish(ChangePart::ChunkData)?;
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
pub(super) fn inflate(deflated: &[u8]) -> Result<Vec<u8>, GuardError> {
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
            // What is merely large keeps the ratio as far as it goes; a bomb breaks it at once.
            let read = usize::try_from(inflater.total_in()).unwrap_or(deflated.len());
            let by_then = read.saturating_mul(CHANGE_INFLATE_RATIO_MAX);
            return Err(if by_ratio < CHANGE_INFLATED_BYTES_MAX {
                GuardError::InflateRatio {
                    deflated_bytes: deflated.len(),
                    bytes_max,
                }
            } else if by_then < bytes_max {
                GuardError::InflateRatio {
                    deflated_bytes: read,
                    bytes_max: by_then,
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

/// The hash of a change: over the type and length of its uncompressed chunk, then the data.
pub(super) fn hash_of(data: &[u8]) -> ChangeHash {
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

/// A chunk with the right checksum around any data, for attacks on the guard.
#[cfg(any(test, feature = "fuzz"))]
pub fn seal(data: &[u8]) -> Vec<u8> {
    wrap(CHUNK_CHANGE, hash_of(data), data)
}

/// A chunk around any deflated data, with the checksum that what is in it should have, for attacks on
/// the guard.
#[cfg(any(test, feature = "fuzz"))]
pub fn seal_deflated(deflated: &[u8]) -> Vec<u8> {
    let hash = hash_of(&inflate(deflated).unwrap_or_default());
    wrap(CHUNK_COMPRESSED_CHANGE, hash, deflated)
}

#[cfg(any(test, feature = "fuzz"))]
fn wrap(chunk_type: u8, hash: ChangeHash, data: &[u8]) -> Vec<u8> {
    let mut body = MAGIC.to_vec();
    body.extend_from_slice(&hash.as_bytes()[..4]);
    body.push(chunk_type);
    super::pieces::unsigned(&mut body, data.len() as u64);
    body.extend_from_slice(data);
    body
}
