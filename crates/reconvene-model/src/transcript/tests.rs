//! Segments of two recorders neither swap nor overwrite each other; pages stay bounded.

use crate::testing::{NOW, Replica, document_id};
use crate::transcript::{PageHeader, Timebase};
use crate::{EditError, ModelError, SEGMENTS_PER_PAGE_MAX, Segment, TRANSCRIPT};

fn segment(id: &str, start: i64) -> Segment {
    Segment {
        id: id.to_owned(),
        start,
        end: Some(start + 10),
        speaker: Some("Ada".to_owned()),
        text: format!("said {id}"),
    }
}

const HEADER: PageHeader<'static> = PageHeader {
    meeting: reconvene_core::ids::DocumentId::from_bytes([9; 16]),
    recorder: "recorder",
    page: 3,
    timebase: Timebase::Ms,
};

fn pair() -> (Replica, Replica) {
    let mut one = Replica::new(TRANSCRIPT, 1);
    let mut two = Replica::new(TRANSCRIPT, 2);
    one.edit(|editor| {
        let mut page = editor.transcript()?;
        page.create(&HEADER)?;
        page.append_segment(&segment("b", 20))?;
        page.append_segment(&segment("a", 20))
    });
    one.sync(&mut two);
    (one, two)
}

#[test]
fn concurrent_segments_all_stay_in_order() {
    let (mut one, mut two) = pair();
    one.edit(|editor| editor.transcript()?.append_segment(&segment("d", 40)));
    two.edit(|editor| editor.transcript()?.append_segment(&segment("c", 30)));
    two.edit(|editor| editor.transcript()?.append_segment(&segment("e", 10)));
    one.sync(&mut two);
    let page = one.document.transcript().unwrap();
    let order: Vec<_> = page.segments.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(order, ["e", "a", "b", "c", "d"]);
    assert_eq!(page.segments[1], segment("a", 20));
    assert_eq!((page.page, page.timebase), (3, Timebase::Ms));
    assert_eq!(page.meeting, Some(document_id(9)));
    assert_eq!(page.conflicts, vec![]);
}

#[test]
fn two_corrections_are_a_conflict_until_corrected_again() {
    let (mut one, mut two) = pair();
    one.edit(|editor| editor.transcript()?.correct_segment("a", "said one"));
    two.edit(|editor| editor.transcript()?.correct_segment("a", "said two"));
    two.edit(|editor| editor.transcript()?.set_speaker("a", None));
    one.sync(&mut two);
    let page = one.document.transcript().unwrap();
    assert_eq!(page.conflicts.len(), 1);
    assert_eq!(page.conflicts[0].path, "segments/a/text");
    assert_eq!(page.conflicts[0].values.len(), 2);
    assert_eq!(page.segments[0].speaker, None);
    one.edit(|editor| editor.transcript()?.correct_segment("a", "settled"));
    one.sync(&mut two);
    let page = two.document.transcript().unwrap();
    assert_eq!(page.conflicts, vec![]);
    assert_eq!(page.segments[0].text, "settled");
}

#[test]
fn a_full_page_takes_no_more() {
    let mut one = Replica::new(TRANSCRIPT, 1);
    one.edit(|editor| {
        let mut page = editor.transcript()?;
        for number in 0..SEGMENTS_PER_PAGE_MAX {
            assert_eq!(page.room(), SEGMENTS_PER_PAGE_MAX - number);
            page.append_segment(&segment(&format!("{number:04}"), 0))?;
        }
        Ok(())
    });
    let heads = one.document.heads();
    let refused = one.document.edit(&[1; 16], NOW, |editor| {
        editor.transcript()?.append_segment(&segment("more", 0))
    });
    assert!(matches!(
        refused,
        Err(EditError::Refused(ModelError::PageFull))
    ));
    let refused = one.document.edit(&[1; 16], NOW, |editor| {
        editor.transcript()?.append_segment(&segment("0001", 0))
    });
    assert!(matches!(
        refused,
        Err(EditError::Refused(ModelError::Exists { .. }))
    ));
    assert_eq!(one.document.heads(), heads);
    assert!(!one.document.is_poisoned());
}

#[test]
fn odd_segments_are_named_and_not_shown() {
    use automerge::transaction::Transactable;
    use automerge::{ObjType, ROOT, ReadDoc};
    let (one, _) = pair();
    let mut automerge = one.document.clone().take().unwrap();
    automerge.set_actor([66; 16].into());
    let mut transaction = automerge.transaction();
    let segments = crate::genesis::SEGMENTS.id();
    transaction.put(&segments, "scalar", 1).unwrap();
    let empty = transaction
        .put_object(&segments, "empty", ObjType::Map)
        .unwrap();
    transaction.put(&empty, "start", "soon").unwrap();
    transaction.put(ROOT, "timebase", "furlongs").unwrap();
    transaction.commit();
    let hash = automerge.get_heads()[0];
    let change = automerge.get_change_by_hash(&hash).unwrap();
    let mut document = one.document.clone();
    document.apply([change.raw_bytes()]).unwrap();
    let page = document.transcript().unwrap();
    assert_eq!(page.segments.len(), 2);
    let malformed = [
        "segments/empty",
        "segments/empty/start",
        "segments/scalar",
        "timebase",
    ];
    assert_eq!(page.malformed, malformed);
}

#[test]
fn composed_pages_are_the_bytes_that_editing_writes() {
    let text = "öne\u{1f600} ".repeat(100);
    let mut segments: Vec<_> = (0..SEGMENTS_PER_PAGE_MAX)
        .map(|number| Segment {
            text: format!("{number} {text}"),
            ..segment(&format!("{number:04}"), 0)
        })
        .collect();
    segments[7].end = None;
    segments[8].speaker = None;
    segments[9].text = String::new();

    let mut edited = crate::Document::create(TRANSCRIPT).unwrap();
    let ((), expected) = edited
        .edit::<_, ModelError>(&[5; 16], NOW, |editor| {
            let mut page = editor.transcript()?;
            page.create(&HEADER)?;
            segments.iter().try_for_each(|one| page.append_segment(one))
        })
        .unwrap();
    assert!(expected.len() > 1);

    let genesis = crate::genesis(TRANSCRIPT).unwrap();
    let mut composer = crate::compose::Composer::new(genesis, &[5; 16], NOW);
    super::compose(&mut composer, &HEADER, &segments).unwrap();
    assert_eq!(composer.finish().unwrap(), expected);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, cases: 64, ..Default::default()
    })]

    #[test]
    fn pages_converge_whatever_is_appended_and_corrected(
        steps in proptest::collection::vec((0..3_usize, 0..4_u8, 0..6_u8, 0..9_usize), 1..30),
    ) {
        let mut replicas: Vec<_> = (1..=3).map(|device| Replica::new(TRANSCRIPT, device)).collect();
        for (number, (who, what, id, exchange)) in steps.into_iter().enumerate() {
            let id = id.to_string();
            replicas[who].edit(|editor| {
                let mut page = editor.transcript()?;
                let result = match what {
                    0 | 1 => page.append_segment(&segment(&id, i64::from(what))),
                    2 => page.correct_segment(&id, &format!("corrected {number}")),
                    _ => page.set_speaker(&id, Some(&format!("speaker {number}"))),
                };
                match result {
                    Err(ModelError::Exists { .. } | ModelError::NotFound { .. }) => Ok(()),
                    other => other,
                }
            });
            let (to, from) = (exchange / 3, exchange % 3);
            let source = replicas[from].clone();
            replicas[to].pull(&source);
        }
        let [one, two, three] = &mut replicas[..] else { unreachable!("there are three") };
        one.pull(three);
        one.sync(two);
        one.sync(three);
    }
}
