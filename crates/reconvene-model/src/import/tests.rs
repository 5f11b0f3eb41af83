//! Imported meetings read back as the files tell them, within the limits, the same every time.

use reconvene_core::ids::DocumentId;
use reconvene_core::limits::CHANGE_BYTES_MAX;

use super::{BuiltDocument, ImportContext, ImportError, ImportedMeeting, build_meeting};
use crate::index::IndexRow;
use crate::testing::{NOW, check_guard, device, document_id, load, repository};
use crate::transcript::Timebase;
use crate::{MEETING, SEGMENTS_PER_PAGE_MAX, Segment, State, TRANSCRIPT};

fn build(
    imported: &ImportedMeeting,
    pages: &[DocumentId],
) -> Result<Vec<BuiltDocument>, ImportError> {
    build_meeting(
        imported,
        &ImportContext {
            device: &device(1),
            incarnation: &[2; 16],
            meeting: document_id(100),
            pages,
            project: None,
            now: NOW,
        },
    )
}

fn check(imported: &ImportedMeeting) {
    let pages: Vec<_> = (1..=50).map(document_id).collect();
    let built = build(imported, &pages).unwrap();
    assert_eq!(
        built.len(),
        1 + imported.segments.len().div_ceil(SEGMENTS_PER_PAGE_MAX)
    );
    for document in &built {
        for change in &document.changes {
            assert!(change.bytes.len() < CHANGE_BYTES_MAX);
            check_guard(change);
        }
    }
    assert_eq!((built[0].kind, built[0].id), (MEETING, document_id(100)));
    let meeting = load(MEETING, &built[0].changes).meeting().unwrap();
    assert_eq!(meeting.title, imported.title);
    assert_eq!(meeting.source.as_ref(), Some(&imported.source));
    assert_eq!(
        meeting.summary,
        imported.summary.clone().unwrap_or_default()
    );
    assert_eq!(meeting.state, Some(State::Completed));
    assert_eq!(meeting.participants.len(), imported.participants.len());
    assert_eq!(meeting.pages_in_order(), pages[..built.len() - 1]);
    let Some(IndexRow::Meeting(row)) = &built[0].row else {
        panic!("a meeting has a row");
    };
    assert_eq!(
        (row.segment_pages, row.participants),
        (built.len() - 1, imported.participants.len())
    );

    let mut segments = Vec::new();
    for (number, document) in (0..).zip(&built[1..]) {
        assert_eq!(document.kind, TRANSCRIPT);
        let page = load(TRANSCRIPT, &document.changes).transcript().unwrap();
        assert_eq!((page.page, page.timebase), (number, Timebase::Order));
        assert_eq!(page.recorder, Some(device(1).to_string()));
        assert_eq!(page.malformed, Vec::<String>::new());
        segments.extend(page.segments);
    }
    assert_eq!(segments, imported.segments);

    let again = build(imported, &pages).unwrap();
    for (one, other) in built.iter().zip(&again) {
        assert_eq!(one.changes, other.changes);
    }
}

#[test]
fn the_example_meetings_are_built_as_told() {
    for name in ["ES2002a", "ES2005a", "IS1000a", "Bro007", "education_3"] {
        let path = repository().join(format!("examples/qmsum/{name}.json"));
        let bytes = std::fs::read(&path).unwrap();
        check(&crate::qmsum::parse(name, &bytes).unwrap());
    }
}

#[test]
fn long_meetings_take_several_pages_and_long_pages_several_changes() {
    let segment = |number: usize| Segment {
        id: format!("{number:06}"),
        start: i64::try_from(number).unwrap(),
        end: None,
        speaker: Some(format!("Speaker {}", number % 7)),
        text: format!("{number} ").repeat(120),
    };
    let mut imported = ImportedMeeting {
        title: "Long".to_owned(),
        source: "test:long".to_owned(),
        participants: vec!["Speaker 0".to_owned()],
        timebase: Timebase::Order,
        segments: (0..1_832).map(segment).collect(),
        summary: None,
    };
    check(&imported);
    let pages = [document_id(1)];
    let refused = build(&imported, &pages);
    assert!(matches!(
        refused,
        Err(ImportError::TooFewPageIds {
            needed: 4,
            given: 1
        })
    ));
    imported.segments[1].id = "000000".to_owned();
    let pages: Vec<_> = (1..=4).map(document_id).collect();
    assert!(matches!(
        build(&imported, &pages),
        Err(ImportError::Edit(_))
    ));
}
