//! Tests of the split into parts.

use super::*;
use crate::golden::{self, Vector};

const KEY: &[u8] = b"a key";

fn parts(value: &[u8]) -> Vec<(u16, Vec<u8>)> {
    encode(KEY, value)
        .map(|(stored_key, stored)| (split_part_key(&stored_key).unwrap().1, stored))
        .collect()
}

#[test]
fn every_length_comes_back_in_small_parts() {
    let borders = [0, 1, 2, 10].map(|count| count * PAYLOAD_BYTES_MAX);
    let lengths = borders
        .into_iter()
        .flat_map(|border| [border.saturating_sub(1), border, border + 1])
        .chain([VALUE_BYTES_MAX]);
    for length in lengths {
        let value: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let parts = parts(&value);
        assert_eq!(parts.len(), part_count(length));
        assert!(parts.iter().all(|(_, part)| part.len() <= STORED_BYTES_MAX));
        assert_eq!(announced_parts(KEY, &parts[0].1), Some(parts.len()));
        assert_eq!(decode(KEY, &parts).unwrap(), value);
    }
}

#[test]
fn any_flipped_bit_is_found() {
    let value = [5; 5000];
    let intact = parts(&value);
    for part in 0..intact.len() {
        for at in 0..intact[part].1.len() {
            let mut flipped = intact.clone();
            flipped[part].1[at] ^= 1 << (at % 8);
            assert!(decode(KEY, &flipped).is_err(), "part {part}, byte {at}");
        }
    }
}

#[test]
fn missing_cut_foreign_and_surplus_parts_are_found() {
    let first = parts(&[1; 9000]);
    let second = parts(&[2; 9000]);
    let error = |parts: &[(u16, Vec<u8>)]| decode(KEY, parts).unwrap_err();

    assert_eq!(error(&[]), "its first part is missing");
    assert_eq!(error(&first[1..]), "its first part is missing");
    assert_eq!(error(&first[..2]), "it has 2 parts instead of 3");
    let gap = [first[0].clone(), first[2].clone(), first[2].clone()];
    assert_eq!(error(&gap), "its part 1 is missing");
    let mixed = [first[0].clone(), second[1].clone(), first[2].clone()];
    assert_eq!(error(&mixed), "its part 1 belongs to another value");
    let mut surplus = first.clone();
    surplus.push((3, first[2].1.clone()));
    assert_eq!(error(&surplus), "it has 4 parts instead of 3");
    assert!(decode(b"other", &first).is_err(), "moved to another key");

    for length in 0..first[0].1.len() {
        let mut cut = first.clone();
        cut[0].1.truncate(length);
        assert!(decode(KEY, &cut).is_err(), "cut to {length}");
    }
}

#[test]
fn parts_are_those_of_version_1() {
    let values = [
        Vec::new(),
        b"value".to_vec(),
        vec![7; PAYLOAD_BYTES_MAX + 5],
    ];
    let mut vectors = Vec::new();
    for value in &values {
        for (stored_key, stored) in encode(KEY, value) {
            let part = split_part_key(&stored_key).unwrap().1;
            vectors.push(Vector {
                name: format!("{} bytes, part {part}", value.len()),
                value: format!("key {KEY:?}, stored under {stored_key:?}"),
                bytes: stored,
            });
        }
    }
    let about = "stored values: version, CRC-32 of stored key, version and what follows, CRC-32 of \
                 the whole value, in part 0 its length, then the part's bytes; numbers big-endian";
    let committed = golden::check("sled-parts.json", about, &vectors);
    let [empty, short, first, second] = &committed[..] else {
        panic!("{} vectors", committed.len());
    };
    assert_eq!(decode(KEY, &[(0, empty)]).unwrap(), values[0]);
    assert_eq!(decode(KEY, &[(0, short)]).unwrap(), values[1]);
    assert_eq!(decode(KEY, &[(0, first), (1, second)]).unwrap(), values[2]);
}
