//! The guard against Automerge's own changes, against damage, and against bytes made to hurt.

use std::io::Write;

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{AutoCommit, Change, ObjType, ROOT, ReadDoc, ScalarValue};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use proptest::prelude::{ProptestConfig, any, prop, proptest};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::chunk::{CHUNK_COMPRESSED_CHANGE, MAGIC, hash_of, inflate, seal};
use super::leb::Reader;
use super::pieces::{signed, unsigned};
use super::{
    ActorId, ChangeHeader, ChangePart, GuardError, SnapshotGuardError, check_snapshot, parse_change,
};
use crate::limits::{
    ACTOR_BYTES_MAX, AUTHOR_BYTES_MAX, CHANGE_BYTES_MAX, CHANGE_INFLATE_RATIO_FLOOR,
    CHANGE_INFLATE_RATIO_MAX, CHANGE_INFLATED_BYTES_MAX, CHANGE_MESSAGE_BYTES_MAX,
    DEPENDENCIES_MAX, OPERATION_COUNTER_MAX, OTHER_ACTORS_MAX, TIME_MAX,
};
use sha2::{Digest as _, Sha256};

mod hostile;
mod offences;
mod operations;
mod reencoded;

fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    (rng.next_u64() % bound as u64) as usize
}

/// Changes of several actors who edit, fork and merge one document, in both their forms.
#[expect(
    clippy::disallowed_methods,
    reason = "the actor drawn by `new` is replaced before it writes; the model cannot be used here"
)]
fn real_changes(seed: u64) -> Vec<Change> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let actors = 2 + below(&mut rng, 5);
    let mut first = AutoCommit::new().with_actor(vec![0x80, seed as u8].into());
    let map = first.put_object(ROOT, "map", ObjType::Map).unwrap();
    let list = first.put_object(ROOT, "list", ObjType::List).unwrap();
    let text = first.put_object(ROOT, "text", ObjType::Text).unwrap();
    first.commit();
    let mut docs = vec![first];
    for index in 1..actors {
        let mut actor = vec![0; 1 + below(&mut rng, ACTOR_BYTES_MAX)];
        rng.fill_bytes(&mut actor);
        actor[0] = index as u8;
        let fork = docs[0].fork().with_actor(actor.into());
        docs.push(fork);
    }
    for step in 0..40 {
        let (at, from) = (below(&mut rng, actors), below(&mut rng, actors));
        if at != from && below(&mut rng, 3) == 0 {
            let mut other = docs[from].clone();
            docs[at].merge(&mut other).unwrap();
        }
        let doc = &mut docs[at];
        for _ in 0..1 + below(&mut rng, 12) {
            let key = format!("key {}", below(&mut rng, 9));
            let value = match below(&mut rng, 4) {
                0 => ScalarValue::Int(rng.next_u64() as i64),
                1 => ScalarValue::counter(1),
                2 => ScalarValue::Bytes(vec![step as u8; below(&mut rng, 600)]),
                _ => ScalarValue::Str(key.as_str().into()),
            };
            let length = doc.length(&list);
            let characters = doc.length(&text);
            let characters_at = |rng: &mut ChaCha8Rng| {
                let start = below(rng, characters);
                (start, start + 1 + below(rng, characters - start))
            };
            match below(&mut rng, 15) {
                0 => doc.put(&map, key, value).unwrap(),
                1 => doc.delete(&map, key).unwrap(),
                2 => doc
                    .insert(&list, below(&mut rng, length + 1), value)
                    .unwrap(),
                3 if length > 0 => doc.delete(&list, below(&mut rng, length)).unwrap(),
                4 if length > 0 => doc.put(&list, below(&mut rng, length), value).unwrap(),
                5 => {
                    let counters = doc.get_all(&map, &key).unwrap();
                    if counters.iter().any(|(value, _)| value.is_counter()) {
                        doc.increment(&map, key, rng.next_u64() as i64 >> 40)
                            .unwrap();
                    }
                }
                6 => {
                    let types = [ObjType::Map, ObjType::List, ObjType::Text];
                    let kind = types[below(&mut rng, 3)];
                    let object = doc.put_object(&map, key, kind).unwrap();
                    match kind {
                        ObjType::Text => doc.splice_text(&object, 0, 0, "nested").unwrap(),
                        ObjType::List => doc.insert(&object, 0, value).unwrap(),
                        _ => doc.put(&object, "", value).unwrap(),
                    }
                }
                7 => {
                    let at = below(&mut rng, length + 1);
                    let object = doc.insert_object(&list, at, ObjType::Map).unwrap();
                    doc.put(&object, "inside", value).unwrap();
                }
                8 if characters > 0 => {
                    let (start, end) = characters_at(&mut rng);
                    let expand = [ExpandMark::Before, ExpandMark::Both, ExpandMark::None];
                    let mark = Mark::new(key, value, start, end);
                    doc.mark(&text, mark, expand[below(&mut rng, 3)]).unwrap();
                }
                9 if characters > 0 => {
                    let (start, end) = characters_at(&mut rng);
                    doc.unmark(&text, &key, start, end, ExpandMark::After)
                        .unwrap();
                }
                10 => {
                    doc.split_block(&text, below(&mut rng, characters + 1))
                        .unwrap();
                }
                11 if step % 8 == 0 => {
                    let paste = "a paste, much longer than what is typed ".repeat(40);
                    doc.splice_text(&text, characters, 0, &paste).unwrap();
                }
                _ => {
                    let position = below(&mut rng, characters + 1);
                    let deleted = below(&mut rng, characters - position + 1).min(4) as isize;
                    doc.splice_text(&text, position, deleted, "some words, ü\n")
                        .unwrap();
                }
            }
        }
        let mut options =
            CommitOptions::default().with_time(rng.next_u64() as i64 >> (11 + step % 50));
        if step % 3 == 0 {
            options = options.with_message("why it was made – step".to_owned());
        }
        doc.commit_with(options);
    }
    let mut all = docs.remove(0);
    for mut doc in docs {
        all.merge(&mut doc).unwrap();
    }
    all.empty_change(CommitOptions::default().with_time(-1));
    all.get_changes(&[])
}

fn bodies(seed: u64) -> Vec<Vec<u8>> {
    real_changes(seed)
        .into_iter()
        .map(|mut change| change.bytes().to_vec())
        .collect()
}

fn chunk(chunk_type: u8, checksum: &[u8], data: &[u8]) -> Vec<u8> {
    let mut body = MAGIC.to_vec();
    body.extend_from_slice(&checksum[..4]);
    body.push(chunk_type);
    unsigned(&mut body, data.len() as u64);
    body.extend_from_slice(data);
    body
}

fn seal_compressed(data: &[u8]) -> Vec<u8> {
    chunk(
        CHUNK_COMPRESSED_CHANGE,
        hash_of(data).as_bytes(),
        &deflate(data),
    )
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// The data of a chunk in its uncompressed form.
fn data_of(raw: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(&raw[9..]);
    let bytes = reader.unsigned(ChangePart::ChunkHeader).unwrap();
    reader.bytes(bytes, ChangePart::ChunkData).unwrap().to_vec()
}

/// The parts of a change's data, for building ones that Automerge would not.
#[derive(Clone)]
struct Parts {
    dependencies: Vec<[u8; 32]>,
    actor: Vec<u8>,
    seq: u64,
    start_op: u64,
    message: Vec<u8>,
    other_actors: Vec<Vec<u8>>,
    /// Id, length as stated if that is another than that of the data, data.
    columns: Vec<(u64, Option<u64>, Vec<u8>)>,
    tail: Vec<u8>,
}

impl Default for Parts {
    /// One operation, which writes a value to a key of the root and supersedes one operation of each
    /// other actor.
    fn default() -> Self {
        let mut parts = Self {
            dependencies: vec![[3; 32], [7; 32]],
            actor: vec![5; 16],
            seq: 1,
            start_op: 1000,
            message: b"why".to_vec(),
            other_actors: vec![vec![1], vec![6; 64]],
            columns: vec![
                (0x15, None, b"\x7f\x03key".to_vec()),
                (0x34, None, vec![1]),
                (0x42, None, vec![0x7f, 1]),
                (0x56, None, vec![0x7f, 0x27]),
                (0x57, None, vec![8, 9]),
                (0x70, None, Vec::new()),
                (0x71, None, Vec::new()),
                (0x73, None, Vec::new()),
            ],
            tail: Vec::new(),
        };
        parts.name_actors();
        parts
    }
}

impl Parts {
    /// Makes the operation name all other actors.
    fn name_actors(&mut self) {
        let count = self.other_actors.len();
        let mut counts = vec![0x7f];
        unsigned(&mut counts, count as u64);
        let mut actors = Vec::new();
        signed(&mut actors, -(count as i64));
        for index in 1..=count {
            unsigned(&mut actors, index as u64);
        }
        let mut counters = Vec::new();
        signed(&mut counters, if count == 1 { -1 } else { count as i64 });
        counters.push(1);
        *self.column(0x70) = counts;
        *self.column(0x71) = actors;
        *self.column(0x73) = counters;
    }

    fn column(&mut self, id: u64) -> &mut Vec<u8> {
        let column = self.columns.iter_mut().find(|(known, ..)| *known == id);
        &mut column.unwrap().2
    }

    /// Makes the operation's value a string of bytes.
    fn value(&mut self, value: Vec<u8>) {
        let mut metadata = vec![0x7f];
        unsigned(&mut metadata, (value.len() as u64) << 4 | 7);
        *self.column(0x56) = metadata;
        *self.column(0x57) = value;
    }

    fn data(&self) -> Vec<u8> {
        let mut out = Vec::new();
        unsigned(&mut out, self.dependencies.len() as u64);
        for dependency in &self.dependencies {
            out.extend_from_slice(dependency);
        }
        let string = |out: &mut Vec<u8>, bytes: &[u8]| {
            unsigned(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        };
        string(&mut out, &self.actor);
        unsigned(&mut out, self.seq);
        unsigned(&mut out, self.start_op);
        out.push(0);
        string(&mut out, &self.message);
        unsigned(&mut out, self.other_actors.len() as u64);
        for actor in &self.other_actors {
            string(&mut out, actor);
        }
        unsigned(&mut out, self.columns.len() as u64);
        for (column, stated, data) in &self.columns {
            unsigned(&mut out, *column);
            unsigned(&mut out, stated.unwrap_or(data.len() as u64));
        }
        for (_, _, data) in &self.columns {
            out.extend_from_slice(data);
        }
        out.extend_from_slice(&self.tail);
        out
    }
}

/// Parses the default parts after `change`, in both forms of a chunk, which must agree.
fn parse_with(change: impl FnOnce(&mut Parts)) -> Result<ChangeHeader, GuardError> {
    let mut parts = Parts::default();
    change(&mut parts);
    let data = parts.data();
    let plain = parse_change(&seal(&data));
    let compressed = parse_change(&seal_compressed(&data)).map(|mut header| {
        header.body_bytes = seal(&data).len();
        header
    });
    assert_eq!(plain, compressed);
    plain
}

#[test]
fn headers_of_real_changes_are_what_automerge_reads() {
    let (mut compressed, mut many_actors, mut changes) = (0, 0, 0);
    for seed in 0..16 {
        for mut change in real_changes(seed) {
            let raw = change.raw_bytes().to_vec();
            let stored = change.bytes().to_vec();
            let parsed = Change::try_from(&stored[..]).unwrap();
            let header = parse_change(&stored).unwrap();
            assert_eq!(header.hash.as_bytes(), &parsed.hash().0);
            let dependencies: Vec<_> = parsed.deps().iter().map(|hash| hash.0).collect();
            let ours: Vec<_> = header
                .dependencies
                .iter()
                .map(|hash| *hash.as_bytes())
                .collect();
            assert_eq!(ours, dependencies);
            assert_eq!(header.actor.as_bytes(), parsed.actor_id().to_bytes());
            assert_eq!(header.actor.to_string(), parsed.actor_id().to_hex_string());
            let others: Vec<_> = parsed
                .other_actor_ids()
                .iter()
                .map(|id| id.to_bytes())
                .collect();
            let ours: Vec<_> = header.other_actors.iter().map(ActorId::as_bytes).collect();
            assert_eq!(ours, others);
            assert_eq!(header.seq, parsed.seq());
            assert_eq!(header.start_op, parsed.start_op().get());
            assert_eq!(header.operations, parsed.len() as u64);
            assert_eq!(header.max_op(), parsed.max_op());
            assert_eq!(header.time, parsed.timestamp());
            assert_eq!(header.body_bytes, stored.len());
            assert_eq!(header.inflated_bytes, data_of(&raw).len());

            let plain = parse_change(&raw).unwrap();
            assert_eq!(plain.body_bytes, raw.len());
            assert_eq!(
                ChangeHeader {
                    body_bytes: header.body_bytes,
                    ..plain
                },
                header
            );
            compressed += usize::from(stored[8] == CHUNK_COMPRESSED_CHANGE);
            many_actors += usize::from(header.other_actors.len() > 1);
            changes += 1;
        }
    }
    assert!(changes > 300 && compressed > 50 && many_actors > 50);
}

#[test]
fn no_part_of_a_change_is_a_change() {
    for body in bodies(1).iter().take(12) {
        for length in 0..body.len() {
            parse_change(&body[..length]).unwrap_err();
        }
        let mut longer = body.clone();
        longer.push(0);
        assert!(matches!(
            parse_change(&longer),
            Err(GuardError::TrailingBytes { bytes: 1, .. })
        ));
    }
}

/// A flipped bit in deflated data may inflate to the same bytes, and then it is the same change.
#[test]
fn a_damaged_byte_never_makes_another_change() {
    for body in bodies(2).iter().take(20) {
        let whole = parse_change(body).unwrap();
        for position in 0..body.len() {
            let mut damaged = body.clone();
            for flip in [1, 0x80, 0xff] {
                damaged[position] = body[position] ^ flip;
                if let Ok(header) = parse_change(&damaged) {
                    assert_eq!(header, whole);
                    assert_eq!(body[8], CHUNK_COMPRESSED_CHANGE);
                }
            }
        }
    }
}

#[test]
fn mutated_inputs_give_an_error_or_a_header_that_keeps_the_rules() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let corpus: Vec<Vec<u8>> = (3..7)
        .flat_map(real_changes)
        .map(|change| data_of(change.raw_bytes()))
        .collect();
    let mut accepted = 0;
    for round in 0..20_000 {
        let mut data = corpus[below(&mut rng, corpus.len())].clone();
        // Aim at the front, which is not as dense as the columns.
        let front = data.len().min(120);
        for _ in 0..1 + below(&mut rng, 4) {
            let position = below(&mut rng, front.min(data.len()).max(1));
            match below(&mut rng, 4) {
                0 if !data.is_empty() => data[position.min(front - 1)] = rng.next_u32() as u8,
                1 => data.truncate(position),
                2 => data.insert(position.min(data.len()), 0xff),
                _ if position < data.len() => {
                    data.remove(position);
                }
                _ => {}
            }
        }
        let body = match round % 3 {
            0 => seal(&data),
            1 => seal_compressed(&data),
            _ => {
                let mut body = seal_compressed(&data);
                let position = below(&mut rng, body.len());
                body[position] = rng.next_u32() as u8;
                body
            }
        };
        if let Ok(header) = parse_change(&body) {
            check_rules(&header, &body);
            accepted += 1;
        }
    }
    assert!(accepted > 100, "only {accepted} were accepted");
}

fn check_rules(header: &ChangeHeader, body: &[u8]) {
    assert_eq!(header.body_bytes, body.len());
    assert!(header.body_bytes <= CHANGE_BYTES_MAX);
    assert!(header.inflated_bytes <= CHANGE_INFLATED_BYTES_MAX);
    assert!(header.dependencies.len() <= DEPENDENCIES_MAX);
    assert!(header.dependencies.is_sorted_by(|a, b| a < b));
    assert!(header.other_actors.len() <= OTHER_ACTORS_MAX);
    assert!(header.other_actors.is_sorted_by(|a, b| a < b));
    assert!(!header.other_actors.contains(&header.actor));
    assert!(header.seq >= 1 && header.start_op >= 1);
    assert!(header.max_op() <= OPERATION_COUNTER_MAX);
    assert_eq!(header.hash.as_bytes()[..4], body[4..8]);
}

#[test]
fn deflate_bombs_stop_at_their_cap() {
    let by_ratio = seal_compressed(&vec![0; 3 * 1024 * 1024]);
    assert!(by_ratio.len() < 8 * 1024);
    let refused = parse_change(&by_ratio).unwrap_err();
    assert!(matches!(refused, GuardError::InflateRatio { .. }));
    assert!(!refused.is_too_large());

    let mut noise = vec![0; 64 * 1024];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut noise);
    noise.resize(64 * 1024 * 1024, 0);
    let large = seal_compressed(&noise);
    assert!(large.len() < CHANGE_BYTES_MAX);
    let refused = parse_change(&large).unwrap_err();
    let bytes_max = CHANGE_INFLATED_BYTES_MAX;
    assert_eq!(refused, GuardError::InflatedTooLarge { bytes_max });
    assert!(refused.is_too_large());
}

#[test]
fn inflating_is_exact_at_every_bound() {
    for bytes in [0, 1, 63, 64, 65, CHANGE_INFLATE_RATIO_FLOOR] {
        let inflated = inflate(&deflate(&vec![0; bytes])).unwrap();
        assert_eq!(inflated.len(), bytes);
        assert!(inflated.capacity() <= CHANGE_INFLATE_RATIO_FLOOR + 1);
    }
    let refused = inflate(&deflate(&vec![0; CHANGE_INFLATE_RATIO_FLOOR + 1]));
    assert!(matches!(refused, Err(GuardError::InflateRatio { .. })));

    let mut noise = vec![0; CHANGE_INFLATED_BYTES_MAX / CHANGE_INFLATE_RATIO_MAX + 1];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut noise);
    noise.resize(CHANGE_INFLATED_BYTES_MAX, 0);
    let inflated = inflate(&deflate(&noise)).unwrap();
    assert_eq!(inflated.len(), CHANGE_INFLATED_BYTES_MAX);
    assert!(inflated.capacity() <= CHANGE_INFLATED_BYTES_MAX + 1);
    noise.push(0);
    assert!(inflate(&deflate(&noise)).unwrap_err().is_too_large());

    assert_eq!(inflate(&[]), Err(GuardError::Deflate));
    let mut trailing = deflate(b"data");
    trailing.push(0);
    let part = ChangePart::ChunkData;
    assert_eq!(
        inflate(&trailing),
        Err(GuardError::TrailingBytes { part, bytes: 1 })
    );
}

#[test]
fn an_envelope_is_checked_before_its_data() {
    let body = seal(&Parts::default().data());
    assert!(parse_change(&body).is_ok());
    let with = |position: usize, byte: u8| {
        let mut body = body.clone();
        body[position] = byte;
        parse_change(&body).unwrap_err()
    };
    assert_eq!(with(0, 0), GuardError::Magic);
    assert!(matches!(with(4, !body[4]), GuardError::Checksum { .. }));
    for chunk_type in [0, 3, 4, 255] {
        assert_eq!(with(8, chunk_type), GuardError::ChunkType { chunk_type });
    }
    let too_large = parse_change(&vec![0; CHANGE_BYTES_MAX + 1]).unwrap_err();
    assert!(too_large.is_too_large());
    assert_eq!(
        parse_change(&vec![0; CHANGE_BYTES_MAX]),
        Err(GuardError::Magic)
    );

    let sized = |bytes: usize| {
        let mut parts = Parts::default();
        parts.value(vec![1; bytes]);
        seal(&parts.data())
    };
    let around = sized(CHANGE_BYTES_MAX - 1000).len() - (CHANGE_BYTES_MAX - 1000);
    let largest = sized(CHANGE_BYTES_MAX - around);
    assert_eq!(largest.len(), CHANGE_BYTES_MAX);
    assert!(parse_change(&largest).is_ok());
}

#[test]
fn lists_and_strings_are_taken_up_to_their_bound() {
    let hashes = |count: usize| -> Vec<[u8; 32]> {
        (0..count)
            .map(|index| {
                let mut hash = [0; 32];
                hash[..2].copy_from_slice(&(index as u16).to_be_bytes());
                hash
            })
            .collect()
    };
    assert!(parse_with(|parts| parts.dependencies = hashes(DEPENDENCIES_MAX)).is_ok());
    assert!(matches!(
        parse_with(|parts| parts.dependencies = hashes(DEPENDENCIES_MAX + 1)),
        Err(GuardError::TooMany { count: 257, .. })
    ));
    let actors = |count: usize| -> Vec<Vec<u8>> {
        hashes(count)
            .into_iter()
            .map(|hash| hash[..8].to_vec())
            .collect()
    };
    let with_actors = |count: usize| {
        parse_with(|parts| {
            parts.other_actors = actors(count);
            parts.name_actors();
        })
    };
    assert!(with_actors(1).is_ok());
    assert!(with_actors(OTHER_ACTORS_MAX).is_ok());
    assert!(matches!(
        with_actors(OTHER_ACTORS_MAX + 1),
        Err(GuardError::TooMany { count: 257, .. })
    ));
    assert!(parse_with(|parts| parts.actor = vec![1; ACTOR_BYTES_MAX]).is_ok());
    let part = ChangePart::Actor;
    assert_eq!(
        parse_with(|parts| parts.actor = vec![1; ACTOR_BYTES_MAX + 1]),
        Err(GuardError::TooLong {
            part,
            bytes: 65,
            bytes_max: ACTOR_BYTES_MAX
        })
    );
    assert_eq!(
        parse_with(|parts| parts.actor.clear()),
        Err(GuardError::EmptyActor { part })
    );
    assert!(parse_with(|parts| parts.message = vec![b'a'; CHANGE_MESSAGE_BYTES_MAX]).is_ok());
    assert!(parse_with(|parts| parts.message = vec![b'a'; CHANGE_MESSAGE_BYTES_MAX + 1]).is_err());
    assert_eq!(
        parse_with(|parts| parts.message = vec![0xff]),
        Err(GuardError::NotUtf8 {
            part: ChangePart::Message
        })
    );
}

#[test]
fn lists_must_ascend_and_numbers_be_in_range() {
    let part = ChangePart::Dependencies;
    for dependencies in [[[7; 32], [3; 32]], [[3; 32], [3; 32]]] {
        assert_eq!(
            parse_with(|parts| parts.dependencies = dependencies.to_vec()),
            Err(GuardError::NotAscending { part })
        );
    }
    let part = ChangePart::OtherActors;
    assert_eq!(
        parse_with(|parts| parts.other_actors.reverse()),
        Err(GuardError::NotAscending { part })
    );
    assert_eq!(
        parse_with(|parts| parts.actor = vec![1]),
        Err(GuardError::OwnActor)
    );
    let part = ChangePart::Seq;
    assert_eq!(
        parse_with(|parts| parts.seq = 0),
        Err(GuardError::OutOfRange { part, value: 0 })
    );
    assert!(parse_with(|parts| parts.seq = u64::MAX).is_ok());
    assert!(parse_with(|parts| parts.start_op = 0).is_err());
    assert!(parse_with(|parts| parts.start_op = OPERATION_COUNTER_MAX).is_ok());
    let part = ChangePart::StartOp;
    for value in [OPERATION_COUNTER_MAX + 1, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(
            parse_with(|parts| parts.start_op = value),
            Err(GuardError::OutOfRange { part, value })
        );
    }
}

#[test]
fn columns_are_known_ascending_and_fit_what_follows_them() {
    let part = ChangePart::Columns;
    assert_eq!(
        parse_with(|parts| parts.columns[7].1 = Some(3)),
        Err(GuardError::Truncated { part })
    );
    for bytes in [u64::MAX, u64::MAX - 3] {
        assert_eq!(
            parse_with(|parts| parts.columns[1].1 = Some(bytes)),
            Err(GuardError::Truncated { part })
        );
    }
    for second in [0x15, 0x13] {
        assert_eq!(
            parse_with(|parts| parts.columns[1].0 = second),
            Err(GuardError::NotAscending { part })
        );
    }
    assert_eq!(
        parse_with(|parts| parts.columns[0].0 = 0x1d),
        Err(GuardError::DeflatedColumn { column: 0x1d })
    );
    let value = u64::from(u32::MAX) + 1;
    assert_eq!(
        parse_with(|parts| parts.columns[2].0 = value),
        Err(GuardError::OutOfRange { part, value })
    );
    for column in [0x00, 0x16, 0x35, 0xa6] {
        assert_eq!(
            parse_with(|parts| {
                parts.columns.push((column.into(), None, vec![1]));
                parts.columns.sort();
            }),
            Err(GuardError::UnknownColumn { column })
        );
    }
    assert!(matches!(
        parse_with(|parts| parts.columns.insert(0, (0x01, None, Vec::new()))),
        Err(GuardError::NotCanonical { .. })
    ));
    assert!(matches!(
        parse_with(|parts| parts.columns = vec![(0x15, None, vec![1]); 15]),
        Err(GuardError::TooMany { count: 15, .. })
    ));
    let empty = parse_with(|parts| {
        parts.columns.clear();
        parts.other_actors.clear();
    });
    let empty = empty.unwrap();
    assert_eq!((empty.operations, empty.max_op()), (0, 999));
}

#[test]
fn only_an_actor_s_first_change_names_its_author() {
    let part = ChangePart::Author;
    let footer = |bytes: usize| {
        let mut footer = vec![1];
        unsigned(&mut footer, bytes as u64);
        footer.resize(footer.len() + bytes, 7);
        footer
    };
    for bytes in [0, 1, AUTHOR_BYTES_MAX] {
        assert!(parse_with(|parts| parts.tail = footer(bytes)).is_ok());
    }
    let bytes_max = AUTHOR_BYTES_MAX;
    assert_eq!(
        parse_with(|parts| parts.tail = footer(bytes_max + 1)),
        Err(GuardError::TooLong {
            part,
            bytes: bytes_max as u64 + 1,
            bytes_max
        })
    );
    let late = |parts: &mut Parts| {
        parts.tail = footer(4);
        parts.seq = 2;
    };
    assert_eq!(parse_with(late), Err(GuardError::LateAuthor { seq: 2 }));
    let longer = |parts: &mut Parts| {
        parts.tail = footer(4);
        parts.tail.push(0);
    };
    assert_eq!(
        parse_with(longer),
        Err(GuardError::TrailingBytes { part, bytes: 1 })
    );
    assert_eq!(
        parse_with(|parts| parts.tail = vec![2, 0]),
        Err(GuardError::OutOfRange { part, value: 2 })
    );
}

#[test]
fn numbers_must_be_minimal_and_fit() {
    let part = ChangePart::Time;
    let unsigned = |bytes: &[u8]| Reader::new(bytes).unsigned(part);
    let signed = |bytes: &[u8]| Reader::new(bytes).signed(part);
    let wrong = GuardError::Leb128 { part };
    let tens = |last: u8, fill: u8| {
        let mut bytes = vec![fill; 9];
        bytes.push(last);
        bytes
    };

    assert_eq!(unsigned(&tens(1, 0xff)), Ok(u64::MAX));
    assert_eq!(unsigned(&tens(2, 0xff)), Err(wrong.clone()));
    assert_eq!(unsigned(&tens(0, 0xff)), Err(wrong.clone()));
    assert_eq!(unsigned(&tens(0x81, 0xff)), Err(wrong.clone()));
    assert_eq!(unsigned(&[0x80, 0]), Err(wrong.clone()));
    assert_eq!(unsigned(&[0x80]), Err(GuardError::Truncated { part }));
    assert_eq!(unsigned(&[0x80, 1]), Ok(128));

    assert_eq!(signed(&tens(0, 0xff)), Ok(i64::MAX));
    assert_eq!(signed(&tens(0x7f, 0x80)), Ok(i64::MIN));
    assert_eq!(signed(&tens(1, 0x80)), Err(wrong.clone()));
    assert_eq!(signed(&tens(0x7f, 0xff)), Err(wrong.clone()));
    assert_eq!(signed(&tens(0x80, 0xff)), Err(wrong.clone()));
    assert_eq!(signed(&[0xff, 0]), Ok(127));
    assert_eq!(signed(&[0xbf, 0]), Err(wrong.clone()));
    assert_eq!(signed(&[0xff, 0x7f]), Err(wrong));
    assert_eq!(signed(&[0x7f]), Ok(-1));
    assert_eq!(signed(&[0x80, 0x7f]), Ok(-128));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let parsed = [
            parse_change(&body),
            parse_change(&seal(&body)),
            parse_change(&seal_compressed(&body)),
            parse_change(&chunk(CHUNK_COMPRESSED_CHANGE, &[0; 4], &body)),
        ];
        for header in parsed.into_iter().flatten() {
            assert!(header.seq >= 1);
        }
    }

    #[test]
    fn signed_numbers_are_read_as_written(value in any::<i64>(), shift in 0_u32..64) {
        let value = value >> shift;
        let parts = Parts::default().data();
        // The time is the one zero byte after dependencies, actor, seq and start operation.
        let at = 1 + 64 + 17 + 3;
        let mut data = parts[..at].to_vec();
        signed(&mut data, value);
        data.extend_from_slice(&parts[at + 1..]);
        let parsed = parse_change(&seal(&data)).map(|header| header.time);
        if value.unsigned_abs() <= TIME_MAX as u64 {
            assert_eq!(parsed, Ok(value));
        } else {
            assert_eq!(parsed, Err(GuardError::TimeOutOfRange { time: value }));
        }
    }
}

/// A document chunk around these parts, with its checksum.
fn document_chunk(parts: &[u8]) -> Vec<u8> {
    let mut hashed = vec![0];
    let mut length = parts.len();
    while length >= 0x80 {
        hashed.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    hashed.push(u8::try_from(length).unwrap());
    hashed.extend_from_slice(parts);
    let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83];
    chunk.extend_from_slice(&Sha256::digest(&hashed)[..4]);
    chunk.extend(hashed);
    chunk
}

#[test]
fn a_snapshot_whose_runs_promise_more_than_a_document_may_have_is_not_loaded() {
    use crate::limits::SNAPSHOT_ENTRIES_MAX;
    // No actors, no heads, no columns of changes, one column of operations: the action, 0x42.
    let column = |data: &[u8]| {
        let mut parts = vec![0, 0, 0, 1, 0x42, u8::try_from(data.len()).unwrap()];
        parts.extend_from_slice(data);
        document_chunk(&parts)
    };
    assert_eq!(check_snapshot(&column(&[3, 1])), Ok(()));
    // Nearly 2^62 times the same, in eleven bytes.
    let bomb = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 1];
    assert_eq!(
        check_snapshot(&column(&bomb)),
        Err(SnapshotGuardError::TooManyEntries {
            max: SNAPSHOT_ENTRIES_MAX
        })
    );
    // As many absent ones, and a literal that ends early.
    let absent = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(check_snapshot(&column(&absent)).is_err());
    assert!(check_snapshot(&column(&[0x7d, 1, 2])).is_err());
    assert!(check_snapshot(&document_chunk(&[0, 0, 0])).is_err());
}
