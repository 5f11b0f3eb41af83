//! A change that passes is the one Automerge would write: nothing it writes is refused, and nothing
//! that passes is written otherwise.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::{ActorId, Automerge, Change, ReadDoc, TextEncoding};
use proptest::prelude::{ProptestConfig, any, proptest};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{below, data_of, real_changes, seal, signed, unsigned};
use crate::guard::leb::Reader;
use crate::guard::{ChangePart, parse_change};

/// The data of a change in pieces, so that columns can be altered and all lengths still be right.
#[derive(Clone)]
pub(super) struct Pieces {
    pub(super) front: Vec<u8>,
    pub(super) columns: Vec<(u64, Vec<u8>)>,
    pub(super) footer: Vec<u8>,
}

impl Pieces {
    pub(super) fn cut(data: &[u8]) -> Self {
        let part = ChangePart::ChunkData;
        let mut reader = Reader::new(data);
        let left = |reader: Reader<'_>| {
            let mut rest = reader;
            let mut bytes = 0;
            while rest.array::<1>(part).is_ok() {
                bytes += 1;
            }
            bytes
        };
        for _ in 0..reader.unsigned(part).unwrap() {
            reader.array::<32>(part).unwrap();
        }
        reader.string(part, usize::MAX).unwrap();
        reader.unsigned(part).unwrap();
        reader.unsigned(part).unwrap();
        reader.signed(part).unwrap();
        reader.string(part, usize::MAX).unwrap();
        for _ in 0..reader.unsigned(part).unwrap() {
            reader.string(part, usize::MAX).unwrap();
        }
        let front = data[..data.len() - left(reader)].to_vec();
        let ids: Vec<_> = (0..reader.unsigned(part).unwrap())
            .map(|_| {
                (
                    reader.unsigned(part).unwrap(),
                    reader.unsigned(part).unwrap(),
                )
            })
            .collect();
        let columns = ids
            .into_iter()
            .map(|(id, bytes)| (id, reader.bytes(bytes, part).unwrap().to_vec()))
            .collect();
        let footer = data[data.len() - left(reader)..].to_vec();
        Self {
            front,
            columns,
            footer,
        }
    }

    pub(super) fn data(&self) -> Vec<u8> {
        let mut data = self.front.clone();
        unsigned(&mut data, self.columns.len() as u64);
        for (id, column) in &self.columns {
            unsigned(&mut data, *id);
            unsigned(&mut data, column.len() as u64);
        }
        for (_, column) in &self.columns {
            data.extend_from_slice(column);
        }
        data.extend_from_slice(&self.footer);
        data
    }

    /// Alters a column, mostly in ways that leave it readable.
    fn mutate(&mut self, rng: &mut ChaCha8Rng) {
        const IDS: [u64; 16] = [
            0x01, 0x02, 0x11, 0x13, 0x15, 0x34, 0x42, 0x56, 0x57, 0x70, 0x71, 0x73, 0x94, 0xa5,
            0xb2, 0x85,
        ];
        if self.columns.is_empty() {
            return;
        }
        let at = below(rng, self.columns.len());
        let kinds = below(rng, 12);
        let (id, column) = &mut self.columns[at];
        let position = below(rng, column.len().max(1));
        match kinds {
            0..=2 if !column.is_empty() => column[position] ^= 1 << below(rng, 8),
            3 if !column.is_empty() => column[position] = column[position].wrapping_add(1),
            4 if !column.is_empty() => column[position] = column[position].wrapping_sub(1),
            5 => column.insert(position, rng.next_u32() as u8 & 0x83),
            6 if !column.is_empty() => {
                column.remove(position);
            }
            7 => split_a_run(rng, column),
            8 => {
                self.columns.remove(at);
            }
            9 => {
                let id = IDS[below(rng, IDS.len())];
                let mut run = Vec::new();
                signed(&mut run, 1 + below(rng, 3) as i64);
                run.push(rng.next_u32() as u8 & 3);
                self.columns.retain(|(known, _)| *known != id);
                self.columns.push((id, run));
                self.columns.sort();
            }
            10 => *id = IDS[below(rng, IDS.len())],
            _ => column.extend_from_slice(&[0x7f, rng.next_u32() as u8 & 3]),
        }
    }
}

/// Writes the first run of a column as two, which hold the same entries; knows entries of one byte.
fn split_a_run(rng: &mut ChaCha8Rng, column: &mut Vec<u8>) {
    let mut reader = Reader::new(column);
    let Ok(length) = reader.signed(ChangePart::ChunkData) else {
        return;
    };
    let mut header = Vec::new();
    signed(&mut header, length);
    let Some((entry, rest)) = column[header.len()..].split_first() else {
        return;
    };
    let first = match length {
        2.. => 1 + below(rng, length as usize - 1) as i64,
        ..-1 => -1,
        _ => return,
    };
    let mut out = Vec::new();
    signed(&mut out, first);
    out.push(*entry);
    signed(&mut out, length - first);
    if length > 0 {
        out.push(*entry);
    }
    out.extend_from_slice(rest);
    *column = out;
}

/// What Automerge writes for a change when given only its operations.
fn encoded_again(body: &[u8]) -> Vec<u8> {
    #[expect(clippy::disallowed_methods, reason = "the change passed the guard")]
    let change = Change::from_bytes(body.to_vec()).unwrap();
    Change::from(change.decode()).raw_bytes().to_vec()
}

#[test]
fn what_automerge_writes_passes_and_is_written_alike() {
    for seed in 100..108 {
        let mut max_ops = BTreeMap::new();
        for change in real_changes(seed) {
            let header = parse_change(change.raw_bytes()).unwrap();
            // What the engine asks of it.
            let least = header.dependencies.iter().map(|hash| max_ops[hash]).max();
            assert_eq!(header.start_op, least.unwrap_or(0) + 1);
            max_ops.insert(header.hash, header.max_op());
            assert_eq!(encoded_again(change.raw_bytes()), change.raw_bytes());
            let data = data_of(change.raw_bytes());
            assert_eq!(Pieces::cut(&data).data(), data);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_of_automerge_pass(seed in any::<u64>()) {
        for mut change in real_changes(seed) {
            parse_change(change.bytes().as_ref()).unwrap();
        }
    }
}

/// What becomes of a change in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// The document keeps it, saves, loads, and writes the same bytes.
    Kept,
    /// Automerge refused or panicked when it was applied.
    NotApplied,
    /// The document does not save, or not in a way that loads.
    NotLoaded,
    /// The document has another change in its place.
    Other,
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is about what becomes of changes in documents; the model cannot be used here"
)]
pub(super) fn fate(ancestors: &[Change], body: &[u8]) -> Fate {
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let mut document = Automerge::new_with_encoding(TextEncoding::Utf16CodeUnit)
            .with_actor(ActorId::from([0xff; 16]));
        document.apply_changes(ancestors.iter().cloned()).unwrap();
        let change = Change::from_bytes(body.to_vec()).unwrap();
        let hash = change.hash();
        if document.apply_changes([change]).is_err() || !document.get_heads().contains(&hash) {
            return Fate::NotApplied;
        }
        let saved = catch_unwind(AssertUnwindSafe(|| {
            let again = document.get_change_by_hash(&hash).unwrap();
            (
                again.raw_bytes().to_vec(),
                Automerge::load(&document.save()).ok(),
            )
        }));
        match saved {
            Ok((_, Some(loaded))) if loaded.get_heads() != document.get_heads() => Fate::Other,
            Ok((again, Some(_))) if again == body => Fate::Kept,
            Ok((_, Some(_))) => Fate::Other,
            Ok((_, None)) | Err(_) => Fate::NotLoaded,
        }
    }));
    attempt.unwrap_or(Fate::NotApplied)
}

#[test]
fn altered_changes_are_refused_or_are_written_as_they_stand() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut fates: BTreeMap<Fate, u32> = BTreeMap::new();
    let mut refused = 0;
    for seed in 200..206 {
        let changes = real_changes(seed);
        for round in 0..2_000 {
            let at = below(&mut rng, changes.len());
            let mut pieces = Pieces::cut(&data_of(changes[at].raw_bytes()));
            for _ in 0..1 + round % 2 {
                pieces.mutate(&mut rng);
            }
            let body = seal(&pieces.data());
            if body == changes[at].raw_bytes() {
                continue;
            }
            if parse_change(&body).is_err() {
                refused += 1;
                continue;
            }
            assert_eq!(encoded_again(&body), body);
            // Everything listed before is an ancestor or concurrent.
            let fate = fate(&changes[..at], &body);
            *fates.entry(fate).or_default() += 1;
        }
    }
    // What does not load names operations that are not there: nobody sees it without the document.
    assert!(!fates.contains_key(&Fate::Other), "{fates:?}");
    assert!(
        fates[&Fate::Kept] > 200 && refused > 5_000,
        "{refused}, {fates:?}"
    );
}
