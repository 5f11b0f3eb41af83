//! An entry is one document whoever files it, and stays open until somebody says otherwise.

use super::{EntryDraft, Subject};
use crate::ENTRY;
use crate::testing::Replica;

pub(crate) fn draft(code: &str) -> EntryDraft {
    EntryDraft {
        subject: Subject {
            kind: "integration".to_owned(),
            id: "i".to_owned(),
        },
        topic: "validation".to_owned(),
        code: code.to_owned(),
        message: format!("it is {code}"),
        retryable: true,
        details: [("at".to_owned(), "once".to_owned())].into(),
    }
}

#[test]
fn two_who_find_out_the_same_write_one_entry() {
    assert_eq!(
        draft("a").id(),
        draft("b").id(),
        "what changes is its content"
    );
    let other = EntryDraft {
        topic: "run".to_owned(),
        ..draft("a")
    };
    assert_ne!(draft("a").id(), other.id());
    let mut one = Replica::new(ENTRY, 1);
    let mut two = Replica::new(ENTRY, 2);
    one.edit(|editor| editor.entry()?.file(&draft("invalid")));
    two.edit(|editor| editor.entry()?.file(&draft("invalid")));
    one.sync(&mut two);
    let entry = one.document.entry().unwrap();
    assert_eq!(entry.subject, Some(draft("a").subject));
    assert_eq!((entry.code.as_str(), entry.retryable), ("invalid", true));
    assert_eq!(entry.resolved, None);
}

#[test]
fn an_entry_is_open_until_it_is_resolved_and_again_when_the_same_is_found_anew() {
    let mut one = Replica::new(ENTRY, 1);
    one.edit(|editor| editor.entry()?.file(&draft("invalid")));
    let changes = one.changes.len();
    one.edit(|editor| editor.entry()?.file(&draft("invalid")));
    assert_eq!(one.changes.len(), changes, "it says so already");
    one.edit(|editor| editor.entry()?.resolve("discarded"));
    one.edit(|editor| editor.entry()?.resolve("resolved"));
    let resolved = one.document.entry().unwrap().resolved.unwrap();
    assert_eq!(resolved.how, "discarded");
    one.edit(|editor| editor.entry()?.file(&draft("invalid")));
    assert_eq!(one.document.entry().unwrap().resolved, None);
}

#[test]
fn what_was_found_and_resolved_stays_so_unless_its_cause_was_gone() {
    let mut one = Replica::new(ENTRY, 1);
    let how = |one: &Replica| one.document.entry().unwrap().resolved.map(|of| of.how);
    one.edit(|editor| editor.entry()?.find(&draft("conflict")));
    assert_eq!(how(&one), None);
    one.edit(|editor| editor.entry()?.resolve(super::CAUSE_GONE));
    one.edit(|editor| editor.entry()?.find(&draft("conflict")));
    assert_eq!(how(&one), None, "it is back");
    for seen in ["discarded", "resolved"] {
        one.edit(|editor| editor.entry()?.file(&draft(seen)));
        one.edit(|editor| editor.entry()?.resolve(seen));
        one.edit(|editor| editor.entry()?.find(&draft("conflict")));
        assert_eq!(how(&one).as_deref(), Some(seen));
    }
}

#[test]
fn the_golden_entry_reads_the_same_for_ever() {
    crate::testing::check_golden_document(ENTRY, || {
        let mut one = Replica::new(ENTRY, 1);
        one.edit(|editor| editor.entry()?.file(&draft("invalid")));
        one.edit(|editor| editor.entry()?.resolve("retried"));
        one.changes
    });
    // Whoever files the same files it under the same id, in every version.
    let subject = Subject {
        kind: "integration".to_owned(),
        id: "00000000-0000-8000-8000-000000000001".to_owned(),
    };
    let id = super::entry_id(&subject, "validation");
    assert_eq!(id.to_string(), "ac63e1ce-aaab-8e6f-86f2-a6be79510a23");
}
