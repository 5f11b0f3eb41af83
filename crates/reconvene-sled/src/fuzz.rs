//! What is done with bytes of the disk before anyone believes them, as functions that take any bytes
//! and panic when something is wrong. The package `fuzz/` feeds them.

use bytes::Bytes;

use crate::{journal, record};

/// A segment of the journal: what is readable in it is a run of its bytes.
pub fn segment(data: &[u8]) {
    journal::check_segment(&Bytes::copy_from_slice(data));
}

/// A segment of entries with their checksums, each behind what befalls it and its length in two bytes:
/// whatever is whole is read, in order.
pub fn frames(data: &[u8]) {
    journal::check_frames(data);
}

/// The parts of one stored record, each behind its length in two bytes.
pub fn parts(data: &[u8]) {
    let parts = cut(data).enumerate();
    let parts: Vec<_> = parts
        .map(|(number, part)| (numbered(number), part.to_vec()))
        .collect();
    check_parts(&parts);
}

/// The same, under the checksums that they should have.
pub fn sealed_parts(data: &[u8]) {
    let parts = cut(data).enumerate();
    let parts: Vec<_> = parts
        .map(|(number, body)| {
            let number = numbered(number);
            (number, record::seal(KEY, number, body))
        })
        .collect();
    check_parts(&parts);
}

const KEY: &[u8] = b"key";

fn check_parts(parts: &[(u16, Vec<u8>)]) {
    if let Some((_, first)) = parts.first()
        && let Some(announced) = record::announced_parts(KEY, first)
        && let Ok(value) = record::decode(KEY, parts)
    {
        assert_eq!(announced, parts.len());
        assert_eq!(record::part_count(value.len()), parts.len());
    }
}

fn numbered(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Pieces, each behind its length in two bytes.
fn cut(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let [high, low, rest @ ..] = data else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (piece, after) = rest.split_at(length);
        data = after;
        Some(piece)
    })
}
