//! How one record lies in sled: in parts of at most 4 KiB, each with its own version and checksum.
//!
//! sled moves leaves above 128 KiB to files it never syncs; small parts keep leaves below that.
//! A part's key is the record's key and the part's number, two bytes big-endian, so parts of one
//! record are neighbours and records keep their order (no key of the core is a prefix of another).
//! This module is pure: it turns records into parts and parts into records, and never guesses.

use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;
use reconvene_core::limits::VALUE_BYTES_MAX;

/// Largest value handed to sled; larger records are split.
pub(crate) const STORED_BYTES_MAX: usize = 4 * 1024;

/// Longest suffix this module adds to a key.
pub(crate) const SUFFIX_BYTES: usize = 2;

/// The version every part begins with.
const PART_VERSION: u8 = 1;

/// Version, checksum, and the checksum of the whole value.
const HEADER_BYTES: usize = 1 + 4 + 4;

/// In part 0 the length of the whole value follows the header.
const LENGTH_BYTES: usize = 4;

/// Most bytes of the value in one part; the same in each, so that the length gives their number.
const PAYLOAD_BYTES_MAX: usize = STORED_BYTES_MAX - HEADER_BYTES - LENGTH_BYTES;

/// The greatest number a part can have.
pub(crate) const LAST_PART: u16 = (VALUE_BYTES_MAX.div_ceil(PAYLOAD_BYTES_MAX) - 1) as u16;

const _: () = assert!(VALUE_BYTES_MAX.div_ceil(PAYLOAD_BYTES_MAX) < u16::MAX as usize);
const _: () = assert!(VALUE_BYTES_MAX < u32::MAX as usize);

/// The key of one part of a record.
pub(crate) fn part_key(key: &[u8], part: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + SUFFIX_BYTES);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&part.to_be_bytes());
    bytes
}

/// Splits a part's key; `None` if it is too short to be one.
pub(crate) fn split_part_key(stored: &[u8]) -> Option<(&[u8], u16)> {
    let (key, part) = stored.split_last_chunk::<SUFFIX_BYTES>()?;
    Some((key, u16::from_be_bytes(*part)))
}

/// Number of parts of a value of this length.
pub(crate) fn part_count(value_bytes: usize) -> usize {
    value_bytes.div_ceil(PAYLOAD_BYTES_MAX).max(1)
}

/// The parts of a record, in order: stored key and stored value of each.
pub(crate) fn encode<'a>(
    key: &'a [u8],
    value: &'a [u8],
) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + 'a {
    assert!(
        value.len() <= VALUE_BYTES_MAX,
        "a value's length is checked before it is split"
    );
    let stamp = crc32fast::hash(value);
    (0..part_count(value.len())).map(move |part| {
        let start = part * PAYLOAD_BYTES_MAX;
        let payload = &value[start..value.len().min(start + PAYLOAD_BYTES_MAX)];
        let stored_key = part_key(key, part as u16);
        let mut stored = Vec::with_capacity(HEADER_BYTES + LENGTH_BYTES + payload.len());
        stored.push(PART_VERSION);
        stored.extend_from_slice(&[0; 4]);
        stored.extend_from_slice(&stamp.to_be_bytes());
        if part == 0 {
            stored.extend_from_slice(&(value.len() as u32).to_be_bytes());
        }
        stored.extend_from_slice(payload);
        let checksum = checksum(&stored_key, &stored[5..]);
        stored[1..5].copy_from_slice(&checksum.to_be_bytes());
        (stored_key, stored)
    })
}

/// Puts a record together from its parts in order, part 0 first.
///
/// # Errors
/// What is wrong: a part has another version, length or checksum than it was written with, belongs
/// to another value of the record, is missing or too many.
pub(crate) fn decode<V: AsRef<[u8]>>(key: &[u8], parts: &[(u16, V)]) -> Result<Bytes, String> {
    let Some((0, first)) = parts.first() else {
        return Err("its first part is missing".to_owned());
    };
    let (stamp, rest) = check_part(key, 0, first.as_ref())?;
    let (length, payload) = rest
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or("its first part is too short")?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > VALUE_BYTES_MAX {
        return Err(format!("it says it has {length} bytes"));
    }
    let count = part_count(length);
    if parts.len() != count {
        return Err(format!("it has {} parts instead of {count}", parts.len()));
    }
    let mut value = BytesMut::with_capacity(length);
    value.extend_from_slice(payload);
    for (expected, (part, stored)) in parts.iter().enumerate().skip(1) {
        if usize::from(*part) != expected {
            return Err(format!("its part {expected} is missing"));
        }
        let (part_stamp, payload) = check_part(key, *part, stored.as_ref())?;
        if part_stamp != stamp {
            return Err(format!("its part {part} belongs to another value"));
        }
        value.extend_from_slice(payload);
    }
    if value.len() != length {
        return Err(format!("it has {} bytes instead of {length}", value.len()));
    }
    Ok(value.freeze())
}

/// Number of parts that part 0 announces; `None` if it is damaged.
pub(crate) fn announced_parts(key: &[u8], first: &[u8]) -> Option<usize> {
    let (_, rest) = check_part(key, 0, first).ok()?;
    let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
    (length <= VALUE_BYTES_MAX).then(|| part_count(length))
}

/// Verifies one part and returns its stamp and what follows the header.
fn check_part<'a>(key: &[u8], part: u16, stored: &'a [u8]) -> Result<(u32, &'a [u8]), String> {
    let version = stored.first().copied();
    if version != Some(PART_VERSION) {
        return Err(format!("its part {part} has version {version:?}"));
    }
    let (expected, body) = stored[1..]
        .split_first_chunk::<4>()
        .ok_or_else(|| format!("its part {part} is too short"))?;
    if checksum(&part_key(key, part), body) != u32::from_be_bytes(*expected) {
        return Err(format!("its part {part} does not match its checksum"));
    }
    let (stamp, rest) = body
        .split_first_chunk::<4>()
        .ok_or_else(|| format!("its part {part} is too short"))?;
    Ok((u32::from_be_bytes(*stamp), rest))
}

/// A part with its version and the right checksum around any bytes, for attacks on who reads it.
#[cfg(feature = "fuzz")]
pub(crate) fn seal(key: &[u8], part: u16, body: &[u8]) -> Vec<u8> {
    let checksum = checksum(&part_key(key, part), body).to_be_bytes();
    [&[PART_VERSION][..], &checksum, body].concat()
}

fn checksum(stored_key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(stored_key);
    hasher.update(&[PART_VERSION]);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
