//! What a filter lets through, condition by condition.

use std::collections::BTreeSet;

use reconvene_core::ids::DocumentId;
use reconvene_core::time::WallTime;
use reconvene_model::index::MeetingRow;
use reconvene_model::{ProjectId, State};

use super::{Matcher, MeetingFilter};
use crate::Error;
use crate::limits::{FILTER_TAGS_MAX, FILTER_TEXT_BYTES_MAX};

const PROJECT: ProjectId = ProjectId::from_bytes([1; 16]);

fn row() -> MeetingRow {
    MeetingRow {
        id: DocumentId::from_bytes([7; 16]),
        title: "Weekly Planning".to_owned(),
        state: Some(State::Stopped),
        project: Some(PROJECT),
        created_at: Some(WallTime::from_millis(1_000)),
        updated_at: None,
        version: "0".repeat(32),
        tags: vec!["a".to_owned(), "b".to_owned()],
        participants: 0,
        segment_pages: 0,
        has_error: false,
        has_conflicts: false,
        deletion: None,
    }
}

fn wants(filter: MeetingFilter, row: &MeetingRow) -> bool {
    Matcher::new(filter).unwrap().matches(row, false)
}

fn all() -> MeetingFilter {
    MeetingFilter::default()
}

fn tags(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn each_condition_has_to_be_met() {
    let row = row();
    let at = |ms| Some(WallTime::from_millis(ms));
    let states = |states: &[State]| states.iter().copied().collect::<BTreeSet<_>>();
    let project = |byte| Some(ProjectId::from_bytes([byte; 16]));
    #[rustfmt::skip]
    let cases = [
        (all(), true),
        (MeetingFilter { project: project(1), ..all() }, true),
        (MeetingFilter { project: project(2), ..all() }, false),
        (MeetingFilter { states: states(&[State::Created, State::Stopped]), ..all() }, true),
        (MeetingFilter { states: states(&[State::Completed]), ..all() }, false),
        // From the first moment on, up to but not with the second.
        (MeetingFilter { since: at(1_000), ..all() }, true),
        (MeetingFilter { since: at(1_001), ..all() }, false),
        (MeetingFilter { until: at(1_001), ..all() }, true),
        (MeetingFilter { until: at(1_000), ..all() }, false),
        (MeetingFilter { tags: tags(&["a", "b"]), ..all() }, true),
        (MeetingFilter { tags: tags(&["a", "c"]), ..all() }, false),
        (MeetingFilter { text: Some("PLAN".to_owned()), ..all() }, true),
        (MeetingFilter { text: Some("monthly".to_owned()), ..all() }, false),
        (MeetingFilter { text: Some("plan".to_owned()), project: project(2), ..all() }, false),
    ];
    for (filter, wanted) in cases {
        assert_eq!(wants(filter.clone(), &row), wanted, "{filter:?}");
    }
}

#[test]
fn what_is_not_known_of_a_meeting_meets_no_condition() {
    let row = MeetingRow {
        state: None,
        project: None,
        created_at: None,
        ..row()
    };
    let long_ago = Some(WallTime::from_millis(i64::MIN));
    let far_off = Some(WallTime::from_millis(i64::MAX));
    #[rustfmt::skip]
    let filters = [
        MeetingFilter { since: long_ago, ..all() },
        MeetingFilter { until: far_off, ..all() },
        MeetingFilter { project: Some(PROJECT), ..all() },
        MeetingFilter { states: BTreeSet::from([State::Created]), ..all() },
    ];
    for filter in filters {
        assert!(!wants(filter.clone(), &row), "{filter:?}");
    }
    assert!(wants(all(), &row));
}

#[test]
fn text_is_found_in_any_case_and_unicode_form() {
    for (title, text) in [
        ("Straßenfest", "STRASSE"),
        ("STRASSENFEST", "straße"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("σίσυφος", "ΣΊΣΥΦΟΣ"),
        // Composed here, decomposed there, and the other way round.
        ("Caf\u{e9}", "CAFE\u{301}"),
        ("Cafe\u{301}", "caf\u{e9}"),
        ("ПЛАН недели", "план Недели"),
        ("会議の計画", "計画"),
        ("ｐｌａｎ", "Plan"),
        ("anything", ""),
    ] {
        let row = MeetingRow {
            title: title.to_owned(),
            ..row()
        };
        let filter = MeetingFilter {
            text: Some(text.to_owned()),
            ..all()
        };
        assert!(wants(filter, &row), "{text} in {title}");
    }
}

#[test]
fn a_filter_that_cannot_be_right_is_refused() {
    let at = |ms| Some(WallTime::from_millis(ms));
    let many: Vec<_> = (0..=FILTER_TAGS_MAX).map(|n| n.to_string()).collect();
    #[rustfmt::skip]
    let filters = [
        MeetingFilter { since: at(2), until: at(2), ..all() },
        MeetingFilter { text: Some("x".repeat(FILTER_TEXT_BYTES_MAX + 1)), ..all() },
        MeetingFilter { tags: many.into_iter().collect(), ..all() },
    ];
    for filter in filters {
        assert!(matches!(Matcher::new(filter), Err(Error::BadInput(_))));
    }
}

#[test]
fn a_filter_crosses_processes_unchanged() {
    let filter = MeetingFilter {
        project: Some(PROJECT),
        states: BTreeSet::from([State::Stopped]),
        since: Some(WallTime::from_millis(5)),
        until: None,
        text: Some("x".to_owned()),
        deleted: false,
        tags: tags(&["a"]),
    };
    let text = serde_json::to_string(&filter).unwrap();
    assert_eq!(
        serde_json::from_str::<MeetingFilter>(&text).unwrap(),
        filter
    );
    assert_eq!(serde_json::from_str::<MeetingFilter>("{}").unwrap(), all());
}
