//! The bytes of a journal segment.
//!
//! A segment is a run of frames: magic (4), payload length (u32), CRC-32 over length, header and
//! payload (u32), header (workspace 16, store epoch 16, last feed entry u64), payload; numbers are big-endian. The
//! magic lets a reader find its way again behind a damaged frame. This module is pure, and
//! tolerates any bytes.

use bytes::Bytes;
use crc32fast::Hasher;
use reconvene_core::ids::{FeedSeq, StoreEpoch, WorkspaceId};
use reconvene_core::limits::BATCH_BYTES_MAX;
use reconvene_core::storage::JournalEntry;

/// Longest payload of a frame. A longer one fails its write; the frame of the largest batch of
/// local edits stays far below.
pub(crate) const FRAME_PAYLOAD_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;

const MAGIC: [u8; 4] = *b"rvj1";
const LENGTH_AT: usize = 4;
const CHECKSUM_AT: usize = 8;
const WORKSPACE_AT: usize = 12;
const EPOCH_AT: usize = 28;
const THROUGH_AT: usize = 44;
const PAYLOAD_AT: usize = 52;

const _: () = assert!(FRAME_PAYLOAD_BYTES_MAX < u32::MAX as usize);

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) entries: Vec<JournalEntry>,
    /// Unreadable bytes that are followed by a readable frame.
    pub(super) gap_bytes: u64,
    pub(super) tail: Tail,
}

/// What follows the last readable frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Nothing.
    Clean,
    /// The beginning of a frame that was never finished: a crash while it was written.
    Torn { start: u64 },
    /// Something else.
    Damaged { start: u64 },
}

/// Appends one entry's frame.
pub(super) fn encode_frame(entry: &JournalEntry, out: &mut Vec<u8>) {
    let length = u32::try_from(entry.frame.len()).expect("a frame's length is checked before");
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(entry.workspace.as_bytes());
    out.extend_from_slice(entry.epoch.as_bytes());
    out.extend_from_slice(&entry.through.0.to_be_bytes());
    out.extend_from_slice(&entry.frame);
    let checksum = checksum(&out[start..]);
    out[start + CHECKSUM_AT..start + WORKSPACE_AT].copy_from_slice(&checksum.to_be_bytes());
}

/// Reads every intact frame of a segment.
pub(super) fn parse_segment(content: &Bytes) -> Parsed {
    let mut parsed = Parsed {
        entries: Vec::new(),
        gap_bytes: 0,
        tail: Tail::Clean,
    };
    let mut at = 0;
    while at < content.len() {
        if let Some((entry, next)) = frame_at(content, at) {
            parsed.entries.push(entry);
            at = next;
            continue;
        }
        let Some(intact) = next_frame(content, at + 1) else {
            parsed.tail = tail(&content[at..], at as u64);
            break;
        };
        parsed.gap_bytes += (intact - at) as u64;
        at = intact;
    }
    parsed
}

/// The intact frame at an offset and where it ends.
fn frame_at(content: &Bytes, at: usize) -> Option<(JournalEntry, usize)> {
    let rest = &content[at..];
    let frame = rest.get(..frame_bytes(rest)?)?;
    if read_u32(frame, CHECKSUM_AT) != checksum(frame) {
        return None;
    }
    let workspace: [u8; 16] = frame[WORKSPACE_AT..EPOCH_AT].try_into().ok()?;
    let epoch: [u8; 16] = frame[EPOCH_AT..THROUGH_AT].try_into().ok()?;
    let through: [u8; 8] = frame[THROUGH_AT..PAYLOAD_AT].try_into().ok()?;
    let entry = JournalEntry {
        workspace: WorkspaceId::from_bytes(workspace),
        epoch: StoreEpoch::from_bytes(epoch),
        through: FeedSeq(u64::from_be_bytes(through)),
        frame: content.slice(at + PAYLOAD_AT..at + frame.len()),
    };
    Some((entry, at + frame.len()))
}

/// The length of the frame that begins `rest`, if it has a header that can be true.
fn frame_bytes(rest: &[u8]) -> Option<usize> {
    if rest.len() < PAYLOAD_AT || !rest.starts_with(&MAGIC) {
        return None;
    }
    let payload = read_u32(rest, LENGTH_AT) as usize;
    (payload <= FRAME_PAYLOAD_BYTES_MAX).then_some(PAYLOAD_AT + payload)
}

fn next_frame(content: &Bytes, from: usize) -> Option<usize> {
    (from..content.len().saturating_sub(PAYLOAD_AT - 1))
        .find(|at| content[*at..].starts_with(&MAGIC) && frame_at(content, *at).is_some())
}

/// Tells a write that a crash cut short from damage. `rest` is not empty and has no intact frame.
fn tail(rest: &[u8], start: u64) -> Tail {
    let is_cut_header = rest.len() < PAYLOAD_AT
        && rest[..rest.len().min(MAGIC.len())] == MAGIC[..rest.len().min(MAGIC.len())];
    let is_cut_payload = frame_bytes(rest).is_some_and(|bytes| bytes > rest.len());
    let is_unwritten = rest.iter().all(|byte| *byte == 0);
    if is_cut_header || is_cut_payload || is_unwritten {
        Tail::Torn { start }
    } else {
        Tail::Damaged { start }
    }
}

/// CRC-32 over a whole frame's length, header and payload.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&frame[LENGTH_AT..CHECKSUM_AT]);
    hasher.update(&frame[WORKSPACE_AT..]);
    hasher.finalize()
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes[at..at + 4].try_into();
    u32::from_be_bytes(word.expect("four bytes were sliced"))
}
