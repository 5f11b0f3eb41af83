//! Attacks that were measured on Automerge 0.12, and what stops each: the guard, the engine, which
//! knows the document's heads, or only loading the document.

use std::num::NonZeroU64;

use automerge::legacy::{ElementId, Key, MarkData, ObjectId, Op, OpId, OpType};
use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, Change, ExpandedChange, ObjType, ROOT, ScalarValue};

use super::reencoded::{Fate, fate};
use super::{data_of, seal};
use crate::guard::pieces::{Pieces, signed, unsigned};
use crate::guard::{ChangePart, GuardError, parse_change};
use crate::limits::OPERATIONS_PER_CHANGE_MAX;

const AUTHOR: [u8; 2] = [0x80, 1];
const ATTACKER: [u8; 2] = [0x70, 1];

/// A change that makes a map with the key `old`, a list and a text `abc`, as operations 1 to 7.
#[expect(
    clippy::disallowed_methods,
    reason = "the actor drawn by `new` is replaced before it writes; the model cannot be used here"
)]
fn base() -> Change {
    let mut document = AutoCommit::new().with_actor(AUTHOR.to_vec().into());
    let map = document.put_object(ROOT, "map", ObjType::Map).unwrap();
    document.put(&map, "old", 1).unwrap();
    document.put_object(ROOT, "list", ObjType::List).unwrap();
    let text = document.put_object(ROOT, "text", ObjType::Text).unwrap();
    document.splice_text(&text, 0, 0, "abc").unwrap();
    document.commit();
    document.get_changes(&[]).remove(0)
}

fn id(counter: u64) -> OpId {
    OpId::new(counter, &ActorId::from(AUTHOR.to_vec()))
}

fn at(counter: u64) -> ObjectId {
    ObjectId::Id(id(counter))
}

fn op(obj: ObjectId, key: Key, action: OpType, pred: &[OpId]) -> Op {
    Op {
        action,
        obj,
        key,
        pred: pred.to_vec().into(),
        insert: false,
    }
}

fn inserted(obj: ObjectId, after: u64, action: OpType) -> Op {
    Op {
        insert: true,
        ..op(obj, Key::Seq(ElementId::Id(id(after))), action, &[])
    }
}

fn expanded(start_op: u64, operations: Vec<Op>) -> ExpandedChange {
    ExpandedChange {
        operations,
        actor_id: ActorId::from(ATTACKER.to_vec()),
        hash: None,
        seq: 1,
        start_op: NonZeroU64::new(start_op).unwrap(),
        time: 0,
        message: None,
        deps: vec![base().hash()],
        extra_bytes: Vec::new(),
        author: None,
    }
}

fn body(change: ExpandedChange) -> Vec<u8> {
    Change::from(change).raw_bytes().to_vec()
}

/// A change on top of [`base`], as Automerge encodes these operations.
fn made(operations: Vec<Op>) -> Vec<u8> {
    body(expanded(8, operations))
}

fn put(key: &str) -> Op {
    op(
        at(1),
        Key::Map(key.into()),
        OpType::Put(ScalarValue::Int(1)),
        &[],
    )
}

/// An honest change, altered in its pieces.
fn altered(alter: impl FnOnce(&mut Pieces)) -> Vec<u8> {
    let honest = made(vec![put("new"), put("newer")]);
    assert_eq!(fate(&[base()], &honest), Fate::Kept);
    parse_change(&honest).unwrap();
    let mut pieces = Pieces::cut(&data_of(&honest)).unwrap();
    alter(&mut pieces);
    seal(&pieces.data())
}

fn set(pieces: &mut Pieces, id: u64, data: &[u8]) {
    pieces.columns.retain(|(known, _)| *known != id);
    pieces.columns.push((id, data.to_vec()));
    pieces.columns.sort();
}

/// An attack that harms a document, and that the guard refuses.
#[track_caller]
fn stopped(body: &[u8], why: &str) {
    let refused = parse_change(body).unwrap_err().to_string();
    assert!(refused.contains(why), "{refused}");
    assert_ne!(fate(&[base()], body), Fate::Kept);
}

/// An attack that harms a document, and that shows only there.
#[track_caller]
fn shows_only_when_loaded(body: &[u8]) {
    parse_change(body).unwrap();
    assert_ne!(fate(&[base()], body), Fate::Kept);
}

#[test]
fn few_bytes_never_stand_for_many_operations() {
    // Inserting so many nulls at the start of a list: 100 bytes, and 450 for each when applied.
    let nulls = |count: u64| {
        let run = |entry: &[u8]| {
            let mut run = Vec::new();
            signed(&mut run, count as i64);
            run.extend_from_slice(entry);
            run
        };
        altered(|pieces| {
            pieces.columns.clear();
            let mut flags = vec![0];
            unsigned(&mut flags, count);
            set(pieces, 0x01, &run(&[1]));
            set(pieces, 0x02, &run(&[3]));
            set(pieces, 0x13, &run(&[0]));
            set(pieces, 0x34, &flags);
            set(pieces, 0x42, &run(&[1]));
            set(pieces, 0x56, &run(&[0]));
            set(pieces, 0x70, &run(&[0]));
        })
    };
    for count in [1_000_000, 5_000_000, 1 << 40, i64::MAX as u64] {
        let attack = nulls(count);
        assert!(attack.len() < 160, "{}", attack.len());
        let count_max = OPERATIONS_PER_CHANGE_MAX;
        let part = ChangePart::Operations;
        assert_eq!(
            parse_change(&attack),
            Err(GuardError::TooMany {
                part,
                count,
                count_max
            })
        );
    }
    let most = nulls(OPERATIONS_PER_CHANGE_MAX as u64);
    parse_change(&most).unwrap();
    assert_eq!(fate(&[base()], &most), Fate::Kept);
}

#[test]
fn no_counter_comes_near_its_end() {
    for start_op in [
        u64::from(u32::MAX),
        u64::from(u32::MAX) - 1,
        1 << 31,
        1 << 24,
    ] {
        let attack = body(expanded(start_op, vec![put("new")]));
        let refused = parse_change(&attack).unwrap_err().to_string();
        assert!(refused.contains("start operation"), "{refused}");
    }
}

#[test]
fn what_automerge_would_write_otherwise_is_refused() {
    let cut_in_two = altered(|pieces| set(pieces, 0x42, &[0x7f, 1, 0x7f, 1]));
    stopped(&cut_in_two, "a value continues the run before it");
    let unknown = altered(|pieces| set(pieces, 0xb2, &[2, 1]));
    stopped(&unknown, "column 178 of a change is not known");
    let said_for_nothing = altered(|pieces| set(pieces, 0x94, &[2]));
    stopped(&said_for_nothing, "is not left out");
    let null_with_bytes = altered(|pieces| {
        set(pieces, 0x56, &[2, 0x10]);
        set(pieces, 0x57, &[7, 7]);
    });
    assert!(parse_change(&null_with_bytes).is_err());
    let longer = altered(|pieces| {
        set(pieces, 0x56, &[2, 0x24]);
        set(pieces, 0x57, &[0x81, 0, 0x81, 0]);
    });
    assert!(parse_change(&longer).is_err());
    // The list of other actors is the last of the front; one more that nobody names.
    let unused = altered(|pieces| {
        let other = [&[2][..], &AUTHOR].concat();
        let front = pieces.front.len() - 1 - other.len();
        assert_eq!(pieces.front[front..], [&[1][..], &other].concat());
        pieces.front.truncate(front);
        pieces.front.extend_from_slice(&[2, 1, 0x10]);
        pieces.front.extend_from_slice(&other);
        set(pieces, 0x01, &[2, 2]);
    });
    stopped(&unused, "lists actor 10 and never names it");
}

#[test]
fn what_a_document_would_lose_is_refused() {
    let old = || Key::Map("old".into());
    let nothing = made(vec![op(at(1), old(), OpType::Delete, &[])]);
    stopped(&nothing, "operation 0 of a change changes nothing");
    let with_value = altered(|pieces| {
        set(pieces, 0x42, &[0x7e, 3, 1]);
        set(pieces, 0x15, b"\x7e\x03old\x03new");
        set(pieces, 0x70, &[0x7e, 1, 0]);
        set(pieces, 0x71, &[0x7f, 1]);
        set(pieces, 0x73, &[0x7f, 2]);
    });
    stopped(&with_value, "operation 0 of a change deletes with a value");
}

#[test]
fn what_makes_automerge_panic_or_fail_is_refused() {
    let no_such_actor = altered(|pieces| set(pieces, 0x01, &[2, 9]));
    let refused = parse_change(&no_such_actor).unwrap_err().to_string();
    assert!(refused.contains("9 is out of range"), "{refused}");

    let table = OpType::Make(ObjType::Table);
    let tables = made(vec![
        op(at(1), Key::Map("table".into()), table, &[]),
        op(
            ObjectId::Id(OpId::new(8, &ActorId::from(ATTACKER.to_vec()))),
            Key::Map("row".into()),
            OpType::Put(ScalarValue::Int(1)),
            &[],
        ),
    ]);
    stopped(&tables, "operation 0 of a change creates a table");
}

#[test]
fn what_names_the_wrong_operations_shows_only_when_loaded() {
    let new = || Key::Map("new".into());
    let one = || OpType::Put(ScalarValue::Int(1));
    // A predecessor that never existed, one of another key, an object that is none, one that never
    // existed.
    shows_only_when_loaded(&made(vec![op(at(1), new(), one(), &[id(6), id(7)])]));
    shows_only_when_loaded(&made(vec![op(at(1), new(), OpType::Delete, &[id(2)])]));
    shows_only_when_loaded(&made(vec![op(at(2), new(), one(), &[])]));
    let elsewhere = ObjectId::Id(OpId::new(3, &ActorId::from(ATTACKER.to_vec())));
    shows_only_when_loaded(&made(vec![op(elsewhere, new(), one(), &[])]));
    // A mark that lies before its beginning.
    let mark = MarkData {
        name: "bold".into(),
        value: true.into(),
        expand: false,
    };
    shows_only_when_loaded(&made(vec![
        inserted(at(4), 7, OpType::MarkBegin(mark)),
        inserted(at(4), 5, OpType::MarkEnd(false)),
    ]));
}

#[test]
fn a_second_author_of_one_actor_is_refused() {
    let first = expanded(8, vec![put("new")]);
    let author = |mut change: ExpandedChange| {
        change.extra_bytes = b"\x01\x03why".to_vec();
        body(change)
    };
    let mut second = expanded(9, vec![put("newer")]);
    second.seq = 2;
    let first = author(first);
    parse_change(&first).unwrap();
    #[expect(clippy::disallowed_methods, reason = "the change passed the guard")]
    let first = Change::from_bytes(first).unwrap();
    second.deps = vec![first.hash()];
    let second = author(second);
    assert_eq!(
        parse_change(&second),
        Err(GuardError::LateAuthor { seq: 2 })
    );
    assert_eq!(fate(&[base(), first], &second), Fate::NotApplied);
}

#[test]
fn a_start_that_is_not_one_past_the_dependencies_is_for_the_engine() {
    let starting = |start_op: u64| {
        let key = Key::Map("new".into());
        let value = OpType::Put(ScalarValue::Int(1));
        let attack = body(expanded(
            start_op,
            vec![op(ObjectId::Root, key, value, &[])],
        ));
        assert_eq!(parse_change(&attack).unwrap().start_op, start_op);
        fate(&[base()], &attack)
    };
    // One too low makes the document unloadable; one too high wastes its counters.
    assert_eq!(starting(1), Fate::NotLoaded);
    assert_eq!(starting(7), Fate::NotLoaded);
    assert_eq!(starting(8), Fate::Kept);
    assert_eq!(starting(1000), Fate::Kept);
}
