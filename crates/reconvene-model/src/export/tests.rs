//! Exports are equal where views are equal, and say what has not arrived.

use serde_json::json;

use super::{canonical_json, export_workspace};
use crate::testing::{Replica, document_id};
use crate::{MEETING, TRANSCRIPT, WORKSPACE, WORKSPACE_DOCUMENT};

#[test]
fn keys_are_sorted_and_the_text_is_json() {
    let value = json!({ "b": [1, "x\n\u{1f600}", [], {}], "a": { "d": null, "c": true } });
    let text = canonical_json(&value);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&text).unwrap(),
        value
    );
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..4],
        ["{", "  \"a\": {", "    \"c\": true,", "    \"d\": null"]
    );
    assert!(text.ends_with("}\n"));
}

#[test]
fn documents_come_by_id_with_placeholders_for_absent_pages() {
    let mut meeting = Replica::new(MEETING, 1);
    meeting.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.create("Planning", None)?;
        meeting.add_page(document_id(1), "here", 0)?;
        meeting.add_page(document_id(3), "absent", 1)
    });
    let documents = vec![
        (document_id(2), meeting.document),
        (document_id(1), Replica::new(TRANSCRIPT, 1).document),
        (WORKSPACE_DOCUMENT, Replica::new(WORKSPACE, 1).document),
    ];
    let mut reversed = documents.clone();
    reversed.reverse();
    let export = export_workspace(documents);
    assert_eq!(
        canonical_json(&export),
        canonical_json(&export_workspace(reversed))
    );
    let exported = export["documents"].as_array().unwrap();
    assert_eq!(exported.len(), 4);
    assert_eq!(exported[0]["kind"], "transcript");
    assert_eq!(exported[0].get("missing"), None);
    let placeholder = json!({
        "id": document_id(3), "kind": "transcript", "meeting": document_id(2), "missing": true,
    });
    assert_eq!(exported[2], placeholder);
    assert_eq!(exported[3]["id"], json!(WORKSPACE_DOCUMENT));
}
