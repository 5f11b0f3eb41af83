//! Exports: what people see of a workspace as JSON, the same bytes on every replica with the same view.
//!
//! Nothing that differs between replicas belongs here: no local paths, no clocks, no order of arrival.

use std::collections::BTreeMap;
use std::fmt::Write;

use reconvene_core::ids::DocumentId;
use serde_json::{Value, json};

use crate::document::{Document, ReadError};
use crate::genesis::{COMMAND, ENTRY, INTEGRATION, MEETING, TRANSCRIPT, WORKSPACE, kind_name};

/// The name and version of the format, in every export.
pub const FORMAT: &str = "reconvene/export/1";

/// One document: its id, kind, exact version, and view with conflicts and all.
///
/// A transcript page that a meeting lists is a document of its own; [`export_workspace`] says of each
/// whether it has arrived.
pub fn export_document(id: DocumentId, document: &Document) -> Result<Value, ReadError> {
    let view = match document.kind() {
        WORKSPACE => serde_json::to_value(document.workspace()?),
        MEETING => serde_json::to_value(document.meeting()?),
        TRANSCRIPT => serde_json::to_value(document.transcript()?),
        COMMAND => serde_json::to_value(document.command()?),
        ENTRY => serde_json::to_value(document.entry()?),
        INTEGRATION => serde_json::to_value(document.integration()?),
        _ => Ok(Value::Null),
    };
    let view = view.expect("views have string keys only");
    let mut exported = json!({
        "id": id,
        "kind": kind_name(document.kind()),
        "heads": document.heads(),
        "waiting_for": document.missing(),
        "view": view,
    });
    if !document.set_aside().is_empty() {
        exported["set_aside"] = json!(document.set_aside());
    }
    Ok(exported)
}

/// What stands for a page that a meeting lists and that has not arrived.
pub fn export_missing_page(page: DocumentId, meeting: DocumentId) -> Value {
    json!({
        "id": page,
        "kind": kind_name(TRANSCRIPT),
        "meeting": meeting,
        "missing": true,
    })
}

/// All documents of a workspace, in the order of their ids, with a placeholder for every listed page
/// that is not among them. A document that cannot be read is there with its error.
///
/// Each document is dropped before the next is taken, so an iterator that materialises lazily holds
/// one document at a time.
pub fn export_workspace(documents: impl IntoIterator<Item = (DocumentId, Document)>) -> Value {
    let mut exported = BTreeMap::new();
    let mut listed: BTreeMap<DocumentId, DocumentId> = BTreeMap::new();
    for (id, document) in documents {
        if document.kind() == MEETING
            && let Ok(meeting) = document.meeting()
        {
            for page in meeting.pages.into_keys() {
                // Whatever the order of documents, the lowest meeting names a page.
                let meeting = listed.entry(page).or_insert(id);
                *meeting = id.min(*meeting);
            }
        }
        let value = export_document(id, &document).unwrap_or_else(|error| {
            json!({
                "id": id,
                "kind": kind_name(document.kind()),
                "unreadable": error.to_string(),
            })
        });
        exported.insert(id, value);
    }
    for (page, meeting) in listed {
        exported
            .entry(page)
            .or_insert_with(|| export_missing_page(page, meeting));
    }
    let documents: Vec<_> = exported.into_values().collect();
    json!({ "format": FORMAT, "documents": documents })
}

/// Writes JSON so that equal values are equal bytes: keys sorted, two spaces of indentation, a line
/// feed at the end.
///
/// `serde_json` sorts keys by itself only while no crate of the build turns its `preserve_order`
/// feature on, so sorting is done here.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, 0);
    text.push('\n');
    text
}

fn write_value(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let mut separator = '[';
            for item in items {
                text.push(separator);
                indent(text, depth + 1);
                write_value(text, item, depth + 1);
                separator = ',';
            }
            indent(text, depth);
            text.push(']');
        }
        Value::Object(map) if !map.is_empty() => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let mut separator = '{';
            for (key, value) in sorted {
                text.push(separator);
                indent(text, depth + 1);
                write_scalar(text, &Value::from(key.as_str()));
                text.push_str(": ");
                write_value(text, value, depth + 1);
                separator = ',';
            }
            indent(text, depth);
            text.push('}');
        }
        other => write_scalar(text, other),
    }
}

fn write_scalar(text: &mut String, value: &Value) {
    write!(text, "{value}").expect("a string takes every write");
}

fn indent(text: &mut String, depth: usize) {
    text.push('\n');
    for _ in 0..depth {
        text.push_str("  ");
    }
}

#[cfg(test)]
mod tests;
