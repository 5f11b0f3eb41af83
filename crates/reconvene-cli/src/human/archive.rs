//! Answers of `archive` as text for people.

use serde_json::Value;

use super::{is, items, put, text};

/// Answer of `archive create`.
pub(crate) fn created(answer: &Value) -> String {
    let mut out = format!(
        "Archived {} documents of {} workspaces in {}: {} snapshots and {} changes, {} bytes.\n",
        text(&answer["documents"]),
        text(&answer["workspaces"]),
        text(&answer["file"]),
        text(&answer["snapshots"]),
        text(&answer["changes"]),
        text(&answer["bytes"]),
    );
    if is(&answer["with_identity"]) {
        out.push_str(
            "It holds this device's private key: keep it where nobody else can read it.\n",
        );
    }
    if is(&answer["complete"]) {
        out.push_str("  next: copy it to another disk\n");
    } else {
        let damages = text(&answer["damages"]);
        put(
            &mut out,
            format_args!("It is not complete: {damages} records did not read.\n"),
        );
        put_damaged(&mut out, answer);
    }
    out
}

/// Answer of `archive restore`.
pub(crate) fn restored(answer: &Value) -> String {
    let mut out = format!(
        "Read {} documents: {} had something new, {} changes in all.\n",
        text(&answer["documents"]),
        text(&answer["restored"]),
        text(&answer["changes"]),
    );
    for (count, what) in [
        ("purged", "were deleted for good, as the archive says"),
        (
            "stayed_deleted",
            "are deleted here for good, though the archive has more of them",
        ),
        ("stayed", "are deleted in the archive and stay here"),
        ("refusals", "were refused, in whole or in part"),
        ("losses", "stretches of the file are damaged"),
        ("damages", "records were not in it to begin with"),
    ] {
        if answer[count].as_u64().is_some_and(|count| count > 0) {
            put(
                &mut out,
                format_args!("  {} {what}\n", text(&answer[count])),
            );
        }
    }
    for refused in items(&answer["refused"]) {
        put(
            &mut out,
            format_args!(
                "  document {} was refused: {}\n",
                text(&refused["document"]),
                text(&refused["code"]),
            ),
        );
    }
    for lost in items(&answer["lost"]) {
        put(
            &mut out,
            format_args!(
                "  {} bytes from byte {} on are lost: {}\n",
                text(&lost["bytes"]),
                text(&lost["offset"]),
                text(&lost["what"]),
            ),
        );
    }
    for lacking in items(&answer["incomplete"]) {
        put(
            &mut out,
            format_args!(
                "  document {} lacks {} changes and {} snapshots\n",
                text(&lacking["document"]),
                text(&lacking["changes"]),
                text(&lacking["snapshots"]),
            ),
        );
    }
    put_damaged(&mut out, answer);
    out.push_str(
        "  next: keep the archive until `reconvene sync` has brought it to another peer\n",
    );
    out
}

fn put_damaged(out: &mut String, answer: &Value) {
    for damage in items(&answer["damaged"]) {
        put(
            out,
            format_args!(
                "  document {}: {}: {}\n",
                text(&damage["document"]),
                text(&damage["record"]),
                text(&damage["what"]),
            ),
        );
    }
}
