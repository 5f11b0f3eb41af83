//! Text for people says what must be said, and is safe to print.

use serde_json::{Value, json};

use super::{change, event, imported, meeting_added, meetings, not_imported, table, text};

#[test]
fn control_characters_of_others_do_not_reach_the_terminal() {
    let title = json!("a\u{1b}[2Jb\u{202e}c\nd");
    assert_eq!(text(&title), "a [2Jb c d");
}

#[test]
fn adding_a_meeting_always_says_which_project_and_why() {
    let added = |resolution: Value, project: Value| {
        meeting_added(&json!({
            "meeting": { "id": "m", "title": "t" },
            "resolved_project_id": project,
            "resolved_project_name": if project.is_null() { Value::Null } else { json!("Apollo") },
            "resolution": resolution,
        }))
    };
    for (rule, says) in [
        ("explicit", "filed under Apollo (p), as you said"),
        (
            "active",
            "filed under Apollo (p): that is the active project",
        ),
        (
            "workspace_default",
            "filed under Apollo (p): no project is active, and that is the default",
        ),
        (
            "a_new_rule",
            "filed under Apollo (p) (rule: {\"rule\":\"a_new_rule\"})",
        ),
    ] {
        let answer = added(json!({ "rule": rule }), json!("p"));
        assert!(answer.contains(says), "{rule}: {answer}");
    }
    let none = added(json!({ "rule": "none" }), Value::Null);
    assert!(
        none.contains("filed under no project: none is active"),
        "{none}"
    );
    let several = json!({ "rule": "ambiguous", "candidates": ["p", "q"] });
    let several = added(several, Value::Null);
    assert!(
        several.contains("filed under no project: several are active (p, q)"),
        "{several}"
    );
}

#[test]
fn a_list_says_how_to_go_on() {
    let page = json!({ "meetings": [{ "id": "m", "title": "t", "tags": [] }], "next": "m" });
    assert!(meetings(&page).contains("reconvene meeting list --after m"));
    assert_eq!(
        meetings(&json!({ "meetings": [], "next": null })),
        "No meetings.\n"
    );
}

#[test]
fn a_file_that_was_not_imported_is_named_with_the_place() {
    let answer = json!({ "failed": [
        { "file": "a.json", "place": "line 3", "message": "not JSON" },
        { "file": "b", "place": "", "message": "it is not a file" },
    ] });
    assert_eq!(
        not_imported(&answer),
        "a.json: line 3: not JSON\nb: it is not a file\n"
    );
}

#[test]
fn a_file_that_was_imported_is_named_with_its_meeting() {
    let answer = json!({
        "imported": 1,
        "meetings": ["m"],
        "taken": [{ "file": "a.vtt", "meeting": "m" }],
        "failed": [{ "file": "b", "place": "", "message": "it is not a file" }],
    });
    assert_eq!(imported(&answer), "Imported 1 of 2 files.\n  m  a.vtt\n");
}

#[test]
fn an_event_is_one_line() {
    let up = json!({ "event": "link_up", "peer": "P", "workspaces": ["w", "v"] });
    assert_eq!(event(&up), "link up, peer P, 2 workspaces\n");
}

#[test]
fn columns_are_in_line() {
    let rows = [["a", "", "x"], ["bbb", "", "y"]];
    let rows = rows
        .iter()
        .map(|row| row.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(table(rows, "none"), "a    x\nbbb  y\n");
}

#[test]
fn changes_are_one_line_each_with_their_sign() {
    let row = json!({ "id": "m", "title": "a\u{1b}b", "state": "stopped", "tags": ["x", "y"] });
    for (item, line) in [
        (
            json!({ "change": "added", "meeting": row }),
            "+ m  stopped  a b  x y\n",
        ),
        (
            json!({ "change": "changed", "meeting": row }),
            "~ m  stopped  a b  x y\n",
        ),
        (json!({ "change": "removed", "id": "m" }), "- m\n"),
        (json!({ "change": "complete" }), ""),
    ] {
        assert_eq!(change(&item), line);
    }
}
