//! What snapshots keep, what is never compacted, and what is never taken for a snapshot.

use std::num::NonZeroU64;

use automerge::legacy::{Key as OperationKey, ObjectId, Op, OpId, OpType, SortedVec};
use automerge::{ActorId as AutomergeActor, ExpandedChange, ScalarValue};

use super::*;
use crate::genesis::{MEETING, TRANSCRIPT, genesis};
use crate::testing::{Replica, export};

static COUNTER: MaterialiseCounter = MaterialiseCounter::new();

/// A meeting into whose notes somebody typed, one change per keystroke.
fn typed(keystrokes: usize) -> Replica {
    let mut replica = Replica::new(MEETING, 1);
    replica.edit(|editor| editor.meeting()?.create("Planning", None));
    let text = "The figures are to be sent by Friday, and Ada presents them. ";
    for letter in text.chars().cycle().take(keystrokes) {
        replica.edit(|editor| editor.meeting()?.append_note(&letter.to_string()));
    }
    replica
}

fn chunks(replica: &Replica) -> impl Iterator<Item = &[u8]> {
    replica.changes.iter().map(|change| change.bytes.as_slice())
}

fn hashes_of(replica: &Replica) -> Vec<ChangeHash> {
    replica.changes.iter().map(|change| change.hash).collect()
}

#[test]
fn a_snapshot_holds_every_change_and_reads_the_same() {
    let mut one = typed(300);
    let mut other = Replica::new(MEETING, 2);
    other.pull(&one);
    one.edit(|editor| editor.meeting()?.set_title("Planning, again"));
    other.edit(|editor| editor.meeting()?.set_title("Planning 2"));
    one.sync(&mut other);
    let made = snapshot(MEETING, chunks(&one), &hashes_of(&one), &COUNTER).unwrap();
    assert_eq!(made.changes, one.changes.len() as u64);
    let headers = inspect(MEETING, &made.bytes, &COUNTER).unwrap();
    let mut inside: Vec<_> = headers.iter().map(|header| header.hash).collect();
    let mut written = hashes_of(&one);
    inside.sort_unstable();
    written.sort_unstable();
    assert_eq!(inside, written);
    let alone = materialise(MEETING, [&made.bytes[..]], Purpose::Read, &COUNTER).unwrap();
    assert_eq!(export(&alone), export(&one.document));
    assert_eq!(alone.heads(), one.document.heads());
    // With what follows it, and with what it holds already.
    let before = one.changes.len();
    one.edit(|editor| editor.meeting()?.append_note("And this came later."));
    let later = [
        &made.bytes[..],
        &one.changes[before].bytes,
        &one.changes[3].bytes,
    ];
    let whole = materialise(MEETING, later, Purpose::Read, &COUNTER).unwrap();
    assert_eq!(export(&whole), export(&one.document));
}

#[test]
fn twenty_thousand_keystrokes_at_a_persons_pace_make_a_small_snapshot() {
    let mut replica = Replica::new(MEETING, 1);
    let text = "The figures are to be sent by Friday, and Ada presents them. ";
    let mut state = 1_u64;
    for letter in text.chars().cycle().take(20_000) {
        // Between 80 and 400 ms after the one before, as a hash has it.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        replica.wait(80 + i64::try_from(state >> 33).unwrap() % 320);
        replica.edit(|editor| editor.meeting()?.append_note(&letter.to_string()));
    }
    let made = snapshot(MEETING, chunks(&replica), &hashes_of(&replica), &COUNTER).unwrap();
    assert_eq!(made.changes, 20_000);
    assert!(made.bytes.len() < 3_000, "{} bytes", made.bytes.len());
}

#[test]
fn changes_come_out_of_a_snapshot_as_they_went_in() {
    let mut replica = typed(40);
    let made = snapshot(MEETING, chunks(&replica), [], &COUNTER).unwrap();
    replica.edit(|editor| editor.meeting()?.append_note("Later."));
    let stored = [&made.bytes[..], &replica.changes[41].bytes];
    let all = beyond(MEETING, stored, &[], &COUNTER).unwrap();
    let written: Vec<_> = replica.changes.iter().map(|change| &change.bytes).collect();
    assert_eq!(
        all.iter().collect::<Vec<_>>(),
        written,
        "byte for byte, in order"
    );
    let header = parse_change(&all[0]).unwrap();
    let known = KnownActor {
        actor: header.actor,
        seq: 30,
        beyond: vec![33],
    };
    let missing = beyond(MEETING, stored, &[known], &COUNTER).unwrap();
    let seqs: Vec<_> = missing
        .iter()
        .map(|body| parse_change(body).unwrap().seq)
        .collect();
    assert_eq!(seqs, [31, 32, 34, 35, 36, 37, 38, 39, 40, 41, 42]);
    let mut wanted = hashes_of(&replica);
    wanted.push(ChangeHash::from_bytes([9; 32]));
    let held = holds(MEETING, stored, &wanted, &COUNTER).unwrap();
    assert_eq!(held.iter().filter(|held| **held).count(), 42);
    assert!(!held[42]);
}

#[test]
fn two_snapshots_and_changes_that_wait_are_one_document() {
    let mut one = typed(5);
    let mut other = Replica::new(MEETING, 2);
    other.pull(&one);
    one.edit(|editor| editor.meeting()?.append_note("One."));
    other.edit(|editor| editor.meeting()?.append_note("Other."));
    let of_one = snapshot(MEETING, chunks(&one), [], &COUNTER).unwrap();
    let of_other = snapshot(MEETING, chunks(&other), [], &COUNTER).unwrap();
    let both = [&of_one.bytes[..], &of_other.bytes];
    one.sync(&mut other);
    let merged = materialise(MEETING, both, Purpose::Read, &COUNTER).unwrap();
    assert_eq!(export(&merged), export(&one.document));
    // A document that lacks ancestors is not compacted: what waits would be lost.
    let orphan = [chunks(&other).next().unwrap(), &one.changes[4].bytes];
    let error = snapshot(MEETING, orphan, [], &COUNTER).unwrap_err();
    assert!(
        matches!(error, SnapshotError::Incomplete { missing: 1 }),
        "{error:?}"
    );
    let error = snapshot(
        MEETING,
        chunks(&one),
        &[ChangeHash::from_bytes([9; 32])],
        &COUNTER,
    );
    assert!(
        matches!(error, Err(SnapshotError::Unsavable { .. })),
        "{error:?}"
    );
}

/// A change that passes the guard and can be applied, with operations nobody would write.
fn odd(operations: Vec<Op>) -> Vec<u8> {
    let root = genesis(MEETING).unwrap();
    let mut change = automerge::Change::from(ExpandedChange {
        operations,
        actor_id: AutomergeActor::from([0xee; 16]),
        hash: None,
        seq: 1,
        start_op: NonZeroU64::new(root.max_op + 1).unwrap(),
        time: 0,
        message: None,
        deps: vec![automerge::ChangeHash(*root.hash.as_bytes())],
        extra_bytes: Vec::new(),
        author: None,
    });
    change.bytes().into_owned()
}

fn put(pred: Vec<OpId>) -> Op {
    Op {
        action: OpType::Put(ScalarValue::Str("odd".into())),
        obj: ObjectId::Root,
        key: OperationKey::Map("odd".into()),
        pred: SortedVec::from(pred),
        insert: false,
    }
}

#[test]
fn what_automerge_cannot_save_again_keeps_its_changes() {
    let own = AutomergeActor::from([0xee; 16]);
    let root = genesis(MEETING).unwrap();
    let never = |counter| vec![OpId(counter, own.clone())];
    let deletion = |pred| Op {
        action: OpType::Delete,
        ..put(pred)
    };
    let cases = [
        ("a predecessor of the future", put(never(root.max_op + 9))),
        ("a predecessor that never existed", put(never(3))),
        ("a deletion of what never existed", deletion(never(2))),
        ("a deletion of nothing", deletion(Vec::new())),
        (
            "an increment of what never existed",
            Op {
                action: OpType::Increment(3),
                ..put(never(2))
            },
        ),
    ];
    let mut refused = 0;
    for (name, operation) in cases {
        let body = odd(vec![operation]);
        if parse_change(&body).is_err() {
            refused += 1; // Nobody stores it in the first place.
            continue;
        }
        let mut replica = typed(3);
        let mut chunks: Vec<_> = chunks(&replica).map(<[u8]>::to_vec).collect();
        chunks.push(body.clone());
        replica.document.apply([&body[..]]).unwrap();
        let all = || chunks.iter().map(Vec::as_slice);
        let error = snapshot(MEETING, all(), [], &COUNTER).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Unsavable { .. }),
            "{name}: {error:?}"
        );
        // It still reads, and what it is made of can still be handed on.
        let whole = materialise(MEETING, all(), Purpose::Read, &COUNTER).unwrap();
        assert_eq!(export(&whole), export(&replica.document), "{name}");
    }
    assert!(
        refused < 5,
        "at least one of them is for here and not for the guard"
    );
}

#[test]
fn broken_snapshots_are_errors() {
    let made = snapshot(MEETING, chunks(&typed(20)), [], &COUNTER).unwrap();
    for place in 0..made.bytes.len() {
        let mut broken = made.bytes.clone();
        broken[place] ^= 1 << (place % 8);
        assert!(inspect(MEETING, &broken, &COUNTER).is_err(), "byte {place}");
        assert!(
            inspect(MEETING, &made.bytes[..place], &COUNTER).is_err(),
            "{place} bytes"
        );
    }
    let error = inspect(TRANSCRIPT, &made.bytes, &COUNTER).unwrap_err();
    assert_eq!(error.refusal(), RefusalCode::Damaged, "of another kind");
    let large = vec![0; SNAPSHOT_BYTES_MAX + 1];
    let error = inspect(MEETING, &large, &COUNTER).unwrap_err();
    assert_eq!(error.refusal(), RefusalCode::TooLarge);
    let change = typed(1).changes.remove(0);
    assert!(
        inspect(MEETING, &change.bytes, &COUNTER).is_err(),
        "a change is none"
    );
}
