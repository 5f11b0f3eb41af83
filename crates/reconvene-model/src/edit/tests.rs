//! Edits are atomic while they fit into a change, and are cut where they do not.

use reconvene_core::limits::{CHANGE_BYTES_MAX, CHANGE_INFLATED_BYTES_MAX};

use super::{CHANGE_OPERATIONS_MAX, EDIT_OPERATIONS_MAX, STRING_BYTES_MAX, common_prefix, pieces};
use crate::testing::{NOW, Replica, export};
use crate::{EditError, MEETING, ModelError, Segment, TRANSCRIPT};

/// Text that deflate cannot shorten much, from a fixed sequence.
fn noise(bytes: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b' ' + u8::try_from(state % 95).unwrap())
    };
    (0..bytes).map(|_| next()).collect()
}

/// Checks every change against the limits.
fn check(replica: &Replica) {
    for change in &replica.changes {
        assert!(change.bytes.len() <= CHANGE_BYTES_MAX);
        #[expect(
            clippy::disallowed_methods,
            reason = "looks into a change it has written"
        )]
        let parsed = automerge::Change::from_bytes(change.bytes.clone()).unwrap();
        assert!(parsed.len() <= CHANGE_OPERATIONS_MAX);
        assert!(parsed.raw_bytes().len() <= CHANGE_INFLATED_BYTES_MAX);
        assert_eq!(parsed.hash().0, *change.hash.as_bytes());
        assert_eq!(parsed.timestamp(), parsed.timestamp().max(NOW.as_millis()));
    }
}

#[test]
fn a_refused_edit_leaves_nothing_behind() {
    let mut one = Replica::new(MEETING, 1);
    one.edit(|editor| editor.meeting()?.set_title("before"));
    let before = (export(&one.document), one.document.heads());
    let refused = one.document.edit(&[1; 16], NOW, |editor| {
        editor.meeting()?.set_title("after")?;
        editor.meeting()?.add_tag("")
    });
    let empty = matches!(
        refused,
        Err(EditError::Refused(ModelError::Empty { what: "tag" }))
    );
    assert!(empty);
    assert_eq!((export(&one.document), one.document.heads()), before);
    one.edit(|editor| editor.meeting()?.set_title("after all"));
    check(&one);
    assert_eq!(export(&one.reloaded()), export(&one.document));
}

#[test]
fn a_large_paste_becomes_several_changes() {
    let mut one = Replica::new(MEETING, 1);
    one.edit(|editor| editor.meeting()?.set_notes("start end"));
    let pasted = format!("start {}end", noise(60_000));
    one.edit(|editor| editor.meeting()?.set_notes(&pasted));
    assert!(one.changes.len() > 6, "{} changes", one.changes.len());
    assert_eq!(one.document.meeting().unwrap().notes, pasted);
    let emoji = "😀".repeat(9_000);
    one.edit(|editor| editor.meeting()?.set_notes(&emoji));
    assert_eq!(one.document.meeting().unwrap().notes, emoji);
    check(&one);
    assert_eq!(export(&one.reloaded()), export(&one.document));
}

#[test]
fn long_strings_are_cut_between_changes_and_refused_past_the_bound() {
    let mut one = Replica::new(TRANSCRIPT, 1);
    let text = noise(STRING_BYTES_MAX);
    let segment = |number: usize, text: &str| Segment {
        id: format!("{number:03}"),
        start: 0,
        end: None,
        speaker: None,
        text: text.to_owned(),
    };
    one.edit(|editor| {
        let mut page = editor.transcript()?;
        (0..12).try_for_each(|number| page.append_segment(&segment(number, &text)))
    });
    assert_eq!(one.changes.len(), 4);
    check(&one);
    let long = format!("{text}x");
    let refused = one.document.edit(&[1; 16], NOW, |editor| {
        editor.transcript()?.append_segment(&segment(99, &long))
    });
    assert!(matches!(
        refused,
        Err(EditError::Refused(ModelError::ValueTooLarge { .. }))
    ));
}

#[test]
fn an_edit_past_all_bounds_is_refused_and_poisons_what_was_begun() {
    let mut one = Replica::new(MEETING, 1);
    let text = "x".repeat(EDIT_OPERATIONS_MAX + 1);
    let refused = one
        .document
        .edit(&[1; 16], NOW, |editor| editor.meeting()?.append_note(&text));
    assert!(matches!(
        refused,
        Err(EditError::Refused(ModelError::TooLarge { .. }))
    ));
    assert!(one.document.is_poisoned());
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(pieces("a😀b", 2).collect::<Vec<_>>(), ["a", "😀", "b"]);
    assert_eq!(pieces("", 2).count(), 0);
    assert_eq!(common_prefix("é1", "è1"), 0);
    assert_eq!(common_prefix("éa", "éb"), 2);
}
