//! Materialising and applying: missing ancestors, damaged bytes, equivocation, counting.

use crate::testing::{NOW, Replica, document_id, export};
use crate::{
    ApplyError, Document, EditError, MEETING, MaterialiseCounter, MaterialiseError, ModelError,
    Purpose, ReadError, TRANSCRIPT, materialise,
};

fn three_changes() -> Replica {
    let mut one = Replica::new(MEETING, 1);
    for text in ["a", "b", "c"] {
        one.edit(|editor| editor.meeting()?.append_note(text));
    }
    one
}

fn chunks(replica: &Replica) -> Vec<&[u8]> {
    let changes = replica.changes.iter();
    changes.map(|change| change.bytes.as_slice()).collect()
}

#[test]
fn what_lacks_ancestors_waits_outside_the_view() {
    let one = three_changes();
    let counter = MaterialiseCounter::new();
    let all = chunks(&one);
    let mut document = materialise(MEETING, [all[0], all[2]], Purpose::Sync, &counter).unwrap();
    assert_eq!(document.missing(), vec![one.changes[1].hash]);
    assert_eq!(document.heads(), vec![one.changes[0].hash]);
    assert_eq!(document.meeting().unwrap().notes, "a");
    // Who asks for what is shown is not told of what others wait for.
    let hash = |n: usize| one.changes[n].hash;
    assert_eq!(document.lacking([hash(2), hash(0)]), vec![hash(2)]);
    assert_eq!(document.lacking([hash(0)]), vec![]);
    document.apply([all[1]]).unwrap();
    assert_eq!(document.missing(), vec![]);
    assert_eq!(document.lacking([hash(0), hash(2)]), vec![]);
    let none = Document::create(MEETING).unwrap();
    assert_eq!(none.lacking([hash(2)]), vec![hash(2)]);
    assert_eq!(document.meeting().unwrap().notes, "abc");
    document.apply(all).unwrap();
    assert_eq!(export(&document), export(&one.document));
    assert!(document.memory_bytes() > 4_096);
}

#[test]
fn every_materialisation_is_counted_by_purpose() {
    let counter = MaterialiseCounter::new();
    let one = three_changes();
    for purpose in [Purpose::Index, Purpose::Index, Purpose::Export] {
        materialise(MEETING, chunks(&one), purpose, &counter).unwrap();
    }
    let snapshot = counter.snapshot();
    let counts: Vec<_> = snapshot.into_iter().collect();
    assert_eq!(
        counts,
        [
            ("compact", 0),
            ("edit", 0),
            ("export", 1),
            ("index", 2),
            ("read", 0),
            ("sync", 0)
        ]
    );
}

#[test]
fn damaged_bytes_are_refused_by_place() {
    let one = three_changes();
    let counter = MaterialiseCounter::new();
    let all = chunks(&one);
    for broken in [
        &all[1][..20],
        b"".as_slice(),
        b"not a change at all".as_slice(),
    ] {
        let result = materialise(MEETING, [all[0], broken], Purpose::Sync, &counter);
        assert!(matches!(
            result,
            Err(MaterialiseError::Chunk { index: 1, .. })
        ));
    }
    let mut document = materialise(MEETING, [all[0]], Purpose::Sync, &counter).unwrap();
    let result = document.apply([all[1], b"x"]);
    assert!(matches!(result, Err(ApplyError::Failed(_))));
    assert_eq!(document.heads(), vec![one.changes[0].hash]);
    let unknown = materialise(
        reconvene_core::ids::DocumentKind(77),
        [],
        Purpose::Sync,
        &counter,
    );
    assert!(matches!(unknown, Err(MaterialiseError::UnknownKind(_))));
}

#[test]
fn equivocation_is_refused() {
    let mut one = Replica::new(MEETING, 1);
    let mut copy = one.clone();
    one.edit(|editor| editor.meeting()?.set_title("one"));
    copy.edit(|editor| editor.meeting()?.set_title("copy"));
    let both = [chunks(&one)[0], chunks(&copy)[0]];
    // No engine stores both; where both are, the same one stays whichever came first.
    for both in [both, [both[1], both[0]]] {
        let counter = MaterialiseCounter::new();
        let document = materialise(MEETING, both, Purpose::Sync, &counter).unwrap();
        let aside = one.changes[0].hash.max(copy.changes[0].hash);
        assert_eq!(document.set_aside(), [aside]);
    }
    let mut document = one.document;
    assert!(document.apply(chunks(&copy)).is_err());
    assert!(document.is_poisoned());
    assert!(matches!(
        document.apply(chunks(&copy)),
        Err(ApplyError::Poisoned)
    ));
    assert!(matches!(document.meeting(), Err(ReadError::Poisoned)));
    let edited = document.edit(&[1; 16], NOW, |editor| editor.meeting()?.set_title("x"));
    assert!(matches!(edited, Err(EditError::Poisoned)));
    assert_eq!(document.heads(), vec![]);
}

#[test]
fn changes_of_another_kind_stay_malformed_and_harmless() {
    let one = three_changes();
    let counter = MaterialiseCounter::new();
    let document = materialise(TRANSCRIPT, chunks(&one), Purpose::Read, &counter).unwrap();
    assert!(!document.missing().is_empty());
    assert_eq!(document.transcript().unwrap().segments, vec![]);
    let wrong = document.meeting();
    assert!(matches!(wrong, Err(ReadError::WrongKind { .. })));
}

#[test]
fn a_panic_in_an_edit_poisons_the_document_only() {
    let mut document = Document::create(MEETING).unwrap();
    let result = document.edit(&[1; 16], NOW, |editor| -> Result<(), ModelError> {
        editor.meeting()?.set_title("half")?;
        panic!("in the middle");
    });
    let Err(EditError::Panicked { message }) = result else {
        panic!("the panic is reported");
    };
    assert_eq!(message, "in the middle");
    assert!(document.is_poisoned());
    let row = crate::index::index_row(document_id(1), &document);
    assert!(matches!(row, Err(ReadError::Poisoned)));
}
