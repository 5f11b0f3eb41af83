//! What is done with bytes of the disk before anyone believes them, as functions that take any bytes
//! and panic when something is wrong. The package `fuzz/` feeds them.

use bytes::Bytes;

use crate::{journal, record};

/// A segment of the journal: what is readable in it is a run of its bytes.
pub fn segment(data: &[u8]) {
    journal::check_segment(&Bytes::copy_from_slice(data));
}

/// The parts of one stored record, each behind its length in two bytes.
pub fn parts(mut data: &[u8]) {
    let key = b"key";
    let mut parts = Vec::new();
    while let [high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (part, after) = rest.split_at(length);
        let number = u16::try_from(parts.len()).unwrap_or(u16::MAX);
        parts.push((number, part));
        data = after;
    }
    if let Some((_, first)) = parts.first()
        && let Some(announced) = record::announced_parts(key, first)
        && let Ok(value) = record::decode(key, &parts)
    {
        assert_eq!(announced, parts.len());
        assert_eq!(record::part_count(value.len()), parts.len());
    }
}
