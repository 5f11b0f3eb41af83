//! Changes that pass the guard and do not fit their document.

use std::num::NonZeroU64;

use automerge::legacy::{Key, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, Change, ChangeHash, ExpandedChange, ScalarValue};

use crate::testing::{DOC, NOW, Replica, check_guard, device, export};
use crate::{
    EncodedChange, MEETING, MaterialiseCounter, ModelError, Purpose, derive_actor, genesis,
    materialise,
};

/// A change of one operation, on top of others.
fn forged(obj: ObjectId, start_op: u64, deps: Vec<ChangeHash>) -> EncodedChange {
    let change = Change::from(ExpandedChange {
        operations: vec![Op {
            action: OpType::Put(ScalarValue::Int(1)),
            obj,
            key: Key::Map("key".into()),
            pred: vec![].into(),
            insert: false,
        }],
        actor_id: ActorId::from([start_op as u8; 16]),
        hash: None,
        seq: 1,
        start_op: NonZeroU64::new(start_op).unwrap(),
        time: 0,
        message: None,
        deps,
        extra_bytes: Vec::new(),
        author: None,
    });
    let change = EncodedChange {
        hash: crate::document::core_hash(change.hash()),
        bytes: change.raw_bytes().to_vec(),
    };
    check_guard(&change);
    change
}

#[test]
fn a_change_that_names_what_is_not_there_is_set_aside_and_nothing_else() {
    let mut person = Replica::new(MEETING, 1);
    person.edit(|editor| editor.meeting()?.create("planned", None));
    let root = genesis(MEETING).unwrap();
    let nowhere = ObjectId::Id(OpId::new(1, &ActorId::from([0x66; 16])));
    let genesis_hash = ChangeHash(*root.hash.as_bytes());
    let bad = forged(nowhere, root.max_op + 1, vec![genesis_hash]);
    let bad_hash = ChangeHash(*bad.hash.as_bytes());
    let after = forged(ObjectId::Root, root.max_op + 2, vec![bad_hash]);

    let mut all = person.changes.clone();
    all.extend([bad.clone(), after.clone()]);
    let counter = MaterialiseCounter::new();
    let load = |changes: &[EncodedChange]| {
        let chunks = changes.iter().map(|change| &change.bytes[..]);
        materialise(MEETING, chunks, Purpose::Read, &counter).unwrap()
    };
    let mut document = load(&all);
    let mut aside = [bad.hash, after.hash];
    aside.sort_unstable();
    assert_eq!(document.set_aside(), aside);
    assert_eq!(document.heads(), person.document.heads());
    assert_eq!(document.lacking(aside), []);
    assert_eq!(document.missing(), []);
    assert_eq!(
        document.meeting().unwrap(),
        person.document.meeting().unwrap()
    );
    all.reverse();
    assert_eq!(export(&load(&all)), export(&document));
    assert!(export(&document).contains("set_aside"));
    // An open document is poisoned by it, and loaded anew.
    assert!(person.document.apply([&bad.bytes[..]]).is_err());
    assert!(person.document.is_poisoned());

    // It takes edits, and keeps what does not fit: no snapshot may stand for its changes.
    let actor = derive_actor(&device(2), &DOC, &[2; 16]);
    let edited = document.edit(&actor, NOW, |editor| {
        editor.meeting()?.set_title("planned anew")?;
        Ok::<_, ModelError>(())
    });
    all.extend(edited.unwrap().1);
    let again = load(&all);
    assert_eq!(export(&again), export(&document));
    assert_eq!(again.meeting().unwrap().title, "planned anew");
    let chunks = all.iter().map(|change| &change.bytes[..]);
    let made = crate::snapshot::snapshot(MEETING, chunks, [], &counter);
    assert!(matches!(
        made,
        Err(crate::snapshot::SnapshotError::SetAside { changes: 2 })
    ));
}
