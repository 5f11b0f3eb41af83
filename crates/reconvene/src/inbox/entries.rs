//! The entries that there are: what each is about and what it says.
//!
//! Their ids follow from that, so whoever finds out the same files the same entry.

use std::collections::BTreeMap;

use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_model::entry::entry_id;
use reconvene_model::{EntryDraft, Outcome, Problem, Subject};

/// What entries about a command's outcome are about.
pub(super) const COMMAND: &str = "command";
/// What entries about an integration are about.
pub(super) const INTEGRATION: &str = "integration";
/// How an integration's last sync run ended.
pub(super) const LAST_RUN: &str = "run";
/// The detail that says which workspace the subject is in.
pub(super) const IN_WORKSPACE: &str = "workspace";

const OUTCOME: &str = "outcome";
const VALIDATION: &str = "validation";

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
