//! The entries that there are: what each is about and what it says.
//!
//! Their ids follow from that, so whoever finds out the same files the same entry.

use std::collections::BTreeMap;

use reconvene_core::ids::{ChangeHash, DocumentId, MemberId, PeerId, WorkspaceId};
use reconvene_core::records::DamageRow;
use reconvene_core::time::WallTime;

use crate::document::{Document, ReadError};
use crate::entry::{Entry, EntryDraft, Subject, entry_id};
use crate::index::IndexRow;
use crate::meeting::Deletion;
use crate::{Conflict, Outcome, Problem, WORKSPACE_DOCUMENT};

/// What entries about a command's outcome are about.
pub const COMMAND: &str = "command";
/// What entries about an integration are about.
pub const INTEGRATION: &str = "integration";
/// How an integration's last sync run ended.
pub const LAST_RUN: &str = "run";
/// The detail that says which workspace the subject is in.
pub const IN_WORKSPACE: &str = "workspace";

/// What entries about a document are about.
pub const DOCUMENT: &str = "document";
/// What entries about a workspace's projects, settings or all of its documents are about.
pub const WORKSPACE: &str = "workspace";
/// Before the name of the very conflict, in the topic of its entry.
pub const CONFLICT: &str = "conflict/";
/// Before the time of a deletion that others' edits outlived.
pub const DELETION: &str = "deletion/";
/// Before the device on which a document is damaged, and since when.
pub const DAMAGE: &str = "damage/";
/// Before the device that left findings out, and since when.
pub const LEFT_OUT: &str = "left_out/";
/// The detail that says which register is in conflict.
pub const PATH: &str = "path";
/// The detail that names the changes in which it was found: who lacks one of them has not seen it.
const CHANGES: &str = "changes";

/// The topic of entries about how a command ended.
pub const OUTCOME: &str = "outcome";
const VALIDATION: &str = "validation";

/// Values of a conflict that its entry tells, and bytes of a text of it; all of it is in the document.
const VALUES_MAX: usize = 8;
const TEXT_BYTES_MAX: usize = 200;

/// What a document shows that needs a member, as its row sums it up: conflicts, and a deletion that
/// others' edits outlived. A meeting that is deleted needs nobody: that is for whoever asks to know.
///
/// # Errors
/// If the document does not read.
pub fn shown_by(
    (workspace, id): (WorkspaceId, DocumentId),
    document: &Document,
    row: &IndexRow,
    member: MemberId,
) -> Result<Vec<EntryDraft>, ReadError> {
    let (title, deletion) = match row {
        IndexRow::Meeting(row) if !row.has_conflicts && row.deletion.is_none() => {
            return Ok(Vec::new());
        }
        IndexRow::Meeting(row) => (row.title.as_str(), row.deletion.as_ref()),
        IndexRow::Workspace(_) => ("", None),
        _ => return Ok(Vec::new()),
    };
    let conflicts = document.conflicts()?;
    let asked = conflicts
        .iter()
        .filter(|conflict| is_asked(member, conflict));
    let asked = asked.map(|conflict| of_conflict(workspace, id, title, conflict));
    let outlived =
        deletion.map(|deletion| of_deletion(workspace, id, title, deletion, &document.heads()));
    Ok(asked.chain(outlived).collect())
}

/// Whether a member is asked about a conflict. Not when a thing was created: who imports the same does
/// so at two times, and nobody can say which is right. Nor what others chose for themselves.
fn is_asked(member: MemberId, conflict: &Conflict) -> bool {
    let is_others = |of: &str| of != member.to_string();
    let path = conflict.path.as_str();
    !path.ends_with("created_at") && !path.strip_prefix("active:").is_some_and(is_others)
}

/// That a command was refused or failed.
pub fn of_outcome(
    workspace: WorkspaceId,
    command: DocumentId,
    name: &str,
    outcome: &Outcome,
) -> EntryDraft {
    let problem = Problem {
        code: outcome
            .code
            .clone()
            .unwrap_or_else(|| outcome.state.to_string()),
        message: outcome.message.clone().unwrap_or_default(),
    };
    let subject = subject(COMMAND, command);
    let mut draft = draft(workspace, subject, OUTCOME, &problem, outcome.retryable);
    draft.details.insert("command".to_owned(), name.to_owned());
    draft
}

/// That an integration does not work.
pub fn of_validation(
    workspace: WorkspaceId,
    integration: DocumentId,
    problem: &Problem,
) -> EntryDraft {
    let subject = subject(INTEGRATION, integration);
    draft(workspace, subject, VALIDATION, problem, true)
}

/// That an integration's last sync run failed.
pub fn of_run(workspace: WorkspaceId, integration: DocumentId, problem: &Problem) -> EntryDraft {
    let subject = subject(INTEGRATION, integration);
    draft(workspace, subject, LAST_RUN, problem, true)
}

/// That a register of a document holds several values, written by people who had not seen each other's.
pub fn of_conflict(
    workspace: WorkspaceId,
    document: DocumentId,
    title: &str,
    conflict: &Conflict,
) -> EntryDraft {
    let told = conflict.values.iter().take(VALUES_MAX);
    let told: Vec<_> = told
        .map(|value| {
            serde_json::json!({
                "value": fit(&value.value),
                "actor": value.actor,
                "change": value.change,
                "at": value.at,
            })
        })
        .collect();
    let texts: Vec<_> = told
        .iter()
        .map(|value| value["value"].to_string())
        .collect();
    let path = cut(&conflict.path);
    let problem = Problem {
        code: "conflict".to_owned(),
        message: format!(
            "`{path}` was set apart to {} values: {}",
            conflict.values.len(),
            texts.join(", ")
        ),
    };
    let subject = subject_of(workspace, document);
    let topic = format!("{CONFLICT}{}", conflict.id());
    let mut draft = draft(workspace, subject, &topic, &problem, false);
    let changes = conflict.values.iter().filter_map(|value| value.change);
    let details = [
        (PATH, path),
        ("values", serde_json::Value::from(told).to_string()),
        (CHANGES, names(changes)),
        ("title", cut(title)),
    ];
    add_details(&mut draft, details);
    draft
}

/// That a meeting was deleted and stays, since there is something of it that whoever deleted it had not
/// seen. `heads` are those of the meeting as it is found.
pub fn of_deletion(
    workspace: WorkspaceId,
    meeting: DocumentId,
    title: &str,
    deletion: &Deletion,
    heads: &[ChangeHash],
) -> EntryDraft {
    let problem = Problem {
        code: "deletion_without_effect".to_owned(),
        message: "it was deleted by somebody who had not seen all of it, and stays".to_owned(),
    };
    let at = deletion.at.map_or(0, WallTime::as_millis);
    let subject = subject_of(workspace, meeting);
    let mut draft = draft(
        workspace,
        subject,
        &format!("{DELETION}{at}"),
        &problem,
        false,
    );
    let details = [
        (CHANGES, names(heads.iter().copied())),
        ("title", cut(title)),
        ("deleted_at", at.to_string()),
    ];
    add_details(&mut draft, details);
    draft
}

/// That a document is damaged on a device.
pub fn of_damage(
    workspace: WorkspaceId,
    document: DocumentId,
    device: (&PeerId, &str),
    damage: &DamageRow,
) -> EntryDraft {
    let (peer, name) = device;
    let problem = Problem {
        code: "document_damaged".to_owned(),
        message: format!(
            "on {}: {}; it comes back once a device or server is met that has it whole",
            cut(name),
            cut(&damage.what)
        ),
    };
    let subject = subject_of(workspace, document);
    let topic = format!("{}{}", damage_on(peer), damage.since.as_millis());
    let mut draft = draft(workspace, subject, &topic, &problem, false);
    let details = [
        ("device", peer.to_string()),
        ("lost", damage.lost.len().to_string()),
    ];
    add_details(&mut draft, details);
    draft
}

/// That a device found more in a workspace than an inbox has room for. `count` is how many documents
/// are left out; where `is_least`, at least so many.
pub fn of_left_out(
    workspace: WorkspaceId,
    peer: &PeerId,
    since: WallTime,
    count: usize,
    is_least: bool,
) -> EntryDraft {
    let least = if is_least { "at least " } else { "" };
    let problem = Problem {
        code: "more_findings".to_owned(),
        message: format!(
            "{least}{count} more documents need somebody; they are filed as others are seen to"
        ),
    };
    let subject = Subject {
        kind: WORKSPACE.to_owned(),
        id: workspace.to_string(),
    };
    let topic = format!("{}{}", left_out_by(peer), since.as_millis());
    let mut draft = draft(workspace, subject, &topic, &problem, false);
    add_details(&mut draft, [("left_out", count.to_string())]);
    draft
}

/// How the topic of entries about damage on a device begins.
pub fn damage_on(peer: &PeerId) -> String {
    format!("{DAMAGE}{peer}/")
}

/// How the topic of the entry about what a device left out begins.
pub fn left_out_by(peer: &PeerId) -> String {
    format!("{LEFT_OUT}{peer}/")
}

/// The document that an entry is about and its workspace; `None` if it is about none.
pub fn document_of(entry: &Entry) -> Option<(WorkspaceId, DocumentId)> {
    let workspace = entry.details.get(IN_WORKSPACE)?.parse().ok()?;
    let subject = entry.subject.as_ref()?;
    match subject.kind.as_str() {
        DOCUMENT => Some((workspace, subject.id.parse().ok()?)),
        WORKSPACE => Some((workspace, WORKSPACE_DOCUMENT)),
        _ => None,
    }
}

/// The changes in which what an entry says was found.
pub fn changes_of(entry: &Entry) -> Vec<ChangeHash> {
    let names = entry.details.get(CHANGES).map_or("", String::as_str);
    let names = names.split_whitespace();
    names.filter_map(|name| name.parse().ok()).collect()
}

/// The entry about a command's outcome.
pub fn outcome_id(command: DocumentId) -> DocumentId {
    entry_id(&subject(COMMAND, command), OUTCOME)
}

/// The entry about whether an integration works.
pub fn validation_id(integration: DocumentId) -> DocumentId {
    entry_id(&subject(INTEGRATION, integration), VALIDATION)
}

/// The entry about an integration's last sync run.
pub fn run_id(integration: DocumentId) -> DocumentId {
    entry_id(&subject(INTEGRATION, integration), LAST_RUN)
}

/// The workspace document has the same id everywhere: what is about it is about its workspace.
fn subject_of(workspace: WorkspaceId, document: DocumentId) -> Subject {
    match document {
        WORKSPACE_DOCUMENT => Subject {
            kind: WORKSPACE.to_owned(),
            id: workspace.to_string(),
        },
        document => subject(DOCUMENT, document),
    }
}

fn names(changes: impl Iterator<Item = ChangeHash>) -> String {
    let names = changes.take(VALUES_MAX).map(|change| change.to_string());
    names.collect::<Vec<_>>().join(" ")
}

/// A text as far as an entry tells it.
fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=TEXT_BYTES_MAX)
        .rev()
        .find(|end| text.is_char_boundary(*end));
    format!("{}…", &text[..end.unwrap_or(0)])
}

fn fit(value: &serde_json::Value) -> serde_json::Value {
    match value.as_str() {
        Some(text) => cut(text).into(),
        None => value.clone(),
    }
}

fn add_details<const N: usize>(draft: &mut EntryDraft, details: [(&str, String); N]) {
    let details = details.into_iter().filter(|(_, value)| !value.is_empty());
    let details = details.map(|(name, value)| (name.to_owned(), value));
    draft.details.extend(details);
}

fn subject(kind: &str, id: DocumentId) -> Subject {
    Subject {
        kind: kind.to_owned(),
        id: id.to_string(),
    }
}

fn draft(
    workspace: WorkspaceId,
    subject: Subject,
    topic: &str,
    problem: &Problem,
    retryable: bool,
) -> EntryDraft {
    EntryDraft {
        subject,
        topic: topic.to_owned(),
        code: problem.code.clone(),
        message: problem.message.clone(),
        retryable,
        details: BTreeMap::from([(IN_WORKSPACE.to_owned(), workspace.to_string())]),
    }
}
