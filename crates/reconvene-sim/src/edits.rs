//! What can be edited in a document, as values: one for each operation of the model's editors, so that
//! an edit can be drawn, written down, and tried in every order.
//!
//! A test compares this list with the model's sources: an operation that is added there is missing here
//! until it is one of these.

use std::collections::BTreeMap;

use reconvene_core::ids::{DocumentId, DocumentKind, MemberId, PeerId};
use reconvene_core::time::WallTime;
use reconvene_model::integration::SETTINGS_MAX;
use reconvene_model::meeting::State;
use reconvene_model::transcript::{PageHeader, Timebase};
use reconvene_model::{
    Author, COMMAND, CommandDraft, Document, ENTRY, EditError, Editor, EncodedChange, EntryDraft,
    INTEGRATION, IntegrationDraft, IntegrationState, MEETING, ModelError, Outcome, Problem,
    ProjectId, RunDraft, RunEnd, RunId, RunState, Segment, Settings, Subject, TRANSCRIPT,
    Validation, WORKSPACE,
};
use serde::{Deserialize, Serialize};

/// The states of a meeting, in their order.
pub const STATES: [State; 5] = [
    State::Created,
    State::Recording,
    State::Stopping,
    State::Stopped,
    State::Completed,
];

/// Pages of a meeting that deletions say to have seen.
const PAGES_SEEN: u8 = 8;

/// One operation on a document. Numbers stand for names and texts, 0 for none where there may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is called as the operation it stands for")]
pub enum ModelEdit {
    // Of a meeting.
    CreateMeeting(u8),
    SetTitle(u8),
    SetNotes(u8),
    AppendNote(u8),
    SpliceNotes(u8),
    SetSummary(u8),
    SetProject(u8),
    SetSource(u8),
    SetSourceVersion(u8),
    Schedule(u8),
    ReachState(u8),
    SetError(u8),
    ClearError,
    AddTag(u8),
    RemoveTag(u8),
    AddParticipant(u8),
    RemoveParticipant(u8),
    Delete,
    Restore,
    AddPage(u8),
    AddActionItem(u8),
    CompleteActionItem(u8, bool),
    SetActionItemText(u8, u8),
    AssignActionItem(u8, u8),
    // Of a workspace.
    SetName(u8),
    AddProject(u8),
    RenameProject(u8, u8),
    ArchiveProject(u8, bool),
    DeleteProject(u8, bool),
    SetActiveProject(u8),
    SetSetting(u8, u8),
    // Of a transcript page.
    CreatePage(u8),
    AppendSegment(u8),
    CorrectSegment(u8, u8),
    SetSpeaker(u8, u8),
    // Of a command.
    Issue(u8),
    Cancel,
    Accept,
    Finish(u8),
    // Of an entry of an inbox.
    File(u8),
    Find(u8),
    Resolve(u8),
    // Of an integration.
    CreateIntegration(u8),
    SetExternalId(u8),
    SetAccount(u8),
    SetIntegrationSetting(u8, u8),
    RemoveIntegration(bool),
    Validated(u8),
    SetPosition(u8),
    StartRun(u8),
    Progress(u8, u8),
    CancelRun(u8),
    EndRun(u8),
    ForgetRun(u8),
    /// Of a document that has a conflict: the first of them, by one of its values.
    Settle(u8),
}

impl ModelEdit {
    /// At least one of each, with the arguments by which they meet most: of a register two values, of
    /// what can be there and gone the same name for both.
    pub const ALL: &'static [Self] = &[
        Self::CreateMeeting(1),
        Self::SetTitle(1),
        Self::SetNotes(1),
        Self::AppendNote(1),
        Self::SpliceNotes(1),
        Self::SetSummary(1),
        Self::SetProject(1),
        Self::SetProject(2),
        Self::SetSource(1),
        Self::SetSource(2),
        Self::SetSourceVersion(1),
        Self::SetSourceVersion(2),
        Self::Schedule(1),
        Self::Schedule(0),
        Self::ReachState(1),
        Self::ReachState(2),
        Self::ReachState(4),
        Self::SetError(1),
        Self::ClearError,
        Self::AddTag(0),
        Self::RemoveTag(0),
        Self::AddParticipant(0),
        Self::RemoveParticipant(0),
        Self::Delete,
        Self::Restore,
        Self::AddPage(1),
        Self::AddActionItem(1),
        Self::CompleteActionItem(0, true),
        Self::SetActionItemText(0, 1),
        Self::SetActionItemText(0, 2),
        Self::AssignActionItem(0, 1),
        Self::AssignActionItem(0, 2),
        Self::SetName(1),
        Self::SetName(2),
        Self::AddProject(1),
        Self::RenameProject(0, 1),
        Self::RenameProject(0, 2),
        Self::ArchiveProject(0, true),
        Self::DeleteProject(0, true),
        Self::DeleteProject(0, false),
        Self::SetActiveProject(0),
        Self::SetActiveProject(1),
        Self::SetSetting(0, 1),
        Self::SetSetting(0, 0),
        Self::CreatePage(1),
        Self::AppendSegment(1),
        Self::AppendSegment(2),
        Self::CorrectSegment(0, 1),
        Self::CorrectSegment(0, 2),
        Self::SetSpeaker(0, 1),
        Self::SetSpeaker(0, 0),
        Self::Issue(1),
        Self::Cancel,
        Self::Accept,
        Self::Finish(0),
        Self::Finish(1),
        Self::File(1),
        Self::File(2),
        Self::Find(1),
        Self::Resolve(0),
        Self::Resolve(1),
        Self::CreateIntegration(1),
        Self::SetExternalId(1),
        Self::SetAccount(1),
        Self::SetIntegrationSetting(0, 1),
        Self::SetIntegrationSetting(0, 0),
        Self::RemoveIntegration(true),
        Self::RemoveIntegration(false),
        Self::Validated(0),
        Self::Validated(1),
        Self::SetPosition(1),
        Self::StartRun(1),
        Self::Progress(0, 1),
        Self::CancelRun(0),
        Self::EndRun(0),
        Self::ForgetRun(0),
        Self::Settle(0),
        Self::Settle(1),
    ];

    /// The kind of document it is an operation on; `None` for one that is on several.
    pub fn kind(&self) -> Option<DocumentKind> {
        match self.method().0 {
            "MeetingEditor" => Some(MEETING),
            "WorkspaceEditor" => Some(WORKSPACE),
            "TranscriptEditor" => Some(TRANSCRIPT),
            "CommandEditor" => Some(COMMAND),
            "EntryEditor" => Some(ENTRY),
            "IntegrationEditor" => Some(INTEGRATION),
            _ => None,
        }
    }

    /// The operation it stands for: its editor and its name.
    pub fn method(&self) -> (&'static str, &'static str) {
        match self {
            Self::CreateMeeting(_) => ("MeetingEditor", "create"),
            Self::SetTitle(_) => ("MeetingEditor", "set_title"),
            Self::SetNotes(_) => ("MeetingEditor", "set_notes"),
            Self::AppendNote(_) => ("MeetingEditor", "append_note"),
            Self::SpliceNotes(_) => ("MeetingEditor", "splice_notes"),
            Self::SetSummary(_) => ("MeetingEditor", "set_summary"),
            Self::SetProject(_) => ("MeetingEditor", "set_project"),
            Self::SetSource(_) => ("MeetingEditor", "set_source"),
            Self::SetSourceVersion(_) => ("MeetingEditor", "set_source_version"),
            Self::Schedule(_) => ("MeetingEditor", "schedule"),
            Self::ReachState(_) => ("MeetingEditor", "reach_state"),
            Self::SetError(_) => ("MeetingEditor", "set_error"),
            Self::ClearError => ("MeetingEditor", "clear_error"),
            Self::AddTag(_) => ("MeetingEditor", "add_tag"),
            Self::RemoveTag(_) => ("MeetingEditor", "remove_tag"),
            Self::AddParticipant(_) => ("MeetingEditor", "add_participant"),
            Self::RemoveParticipant(_) => ("MeetingEditor", "remove_participant"),
            Self::Delete => ("MeetingEditor", "delete"),
            Self::Restore => ("MeetingEditor", "restore"),
            Self::AddPage(_) => ("MeetingEditor", "add_page"),
            Self::AddActionItem(_) => ("MeetingEditor", "add_action_item"),
            Self::CompleteActionItem(..) => ("MeetingEditor", "complete_action_item"),
            Self::SetActionItemText(..) => ("MeetingEditor", "set_action_item_text"),
            Self::AssignActionItem(..) => ("MeetingEditor", "assign_action_item"),
            Self::SetName(_) => ("WorkspaceEditor", "set_name"),
            Self::AddProject(_) => ("WorkspaceEditor", "add_project"),
            Self::RenameProject(..) => ("WorkspaceEditor", "rename_project"),
            Self::ArchiveProject(..) => ("WorkspaceEditor", "archive_project"),
            Self::DeleteProject(..) => ("WorkspaceEditor", "delete_project"),
            Self::SetActiveProject(_) => ("WorkspaceEditor", "set_active_project"),
            Self::SetSetting(..) => ("WorkspaceEditor", "set_setting"),
            Self::CreatePage(_) => ("TranscriptEditor", "create"),
            Self::AppendSegment(_) => ("TranscriptEditor", "append_segment"),
            Self::CorrectSegment(..) => ("TranscriptEditor", "correct_segment"),
            Self::SetSpeaker(..) => ("TranscriptEditor", "set_speaker"),
            Self::Issue(_) => ("CommandEditor", "issue"),
            Self::Cancel => ("CommandEditor", "cancel"),
            Self::Accept => ("CommandEditor", "accept"),
            Self::Finish(_) => ("CommandEditor", "finish"),
            Self::File(_) => ("EntryEditor", "file"),
            Self::Find(_) => ("EntryEditor", "find"),
            Self::Resolve(_) => ("EntryEditor", "resolve"),
            Self::CreateIntegration(_) => ("IntegrationEditor", "create"),
            Self::SetExternalId(_) => ("IntegrationEditor", "set_external_id"),
            Self::SetAccount(_) => ("IntegrationEditor", "set_account"),
            Self::SetIntegrationSetting(..) => ("IntegrationEditor", "set_setting"),
            Self::RemoveIntegration(_) => ("IntegrationEditor", "remove"),
            Self::Validated(_) => ("IntegrationEditor", "validated"),
            Self::SetPosition(_) => ("IntegrationEditor", "set_position"),
            Self::StartRun(_) => ("IntegrationEditor", "start_run"),
            Self::Progress(..) => ("IntegrationEditor", "progress"),
            Self::CancelRun(_) => ("IntegrationEditor", "cancel_run"),
            Self::EndRun(_) => ("IntegrationEditor", "end_run"),
            Self::ForgetRun(_) => ("IntegrationEditor", "forget_run"),
            Self::Settle(_) => ("Editor", "settle"),
        }
    }

    /// Edits a document; `None` if the model refuses that as the document is, which changes nothing.
    ///
    /// # Panics
    /// If the model does anything else than edit or refuse.
    pub fn make(
        &self,
        document: &mut Document,
        actor: &[u8; 16],
        now: WallTime,
    ) -> Option<Vec<EncodedChange>> {
        make_all(std::slice::from_ref(self), document, actor, now)
    }

    fn apply(&self, editor: &mut Editor) -> Result<(), ModelError> {
        match self.kind() {
            Some(MEETING) => self.apply_to_meeting(editor),
            Some(WORKSPACE) => self.apply_to_workspace(editor),
            Some(TRANSCRIPT) => self.apply_to_page(editor),
            Some(COMMAND) => self.apply_to_command(editor),
            Some(ENTRY) => self.apply_to_entry(editor),
            _ => self.apply_to_integration(editor),
        }
    }

    fn apply_to_meeting(&self, editor: &mut Editor) -> Result<(), ModelError> {
        let mut meeting = editor.meeting()?;
        match *self {
            Self::CreateMeeting(n) => meeting.create(&name("meeting", n), None),
            Self::SetTitle(n) => meeting.set_title(&name("title", n)),
            Self::SetNotes(n) => meeting.set_notes(&name("notes", n)),
            Self::AppendNote(n) => meeting.append_note(&name(" note", n)),
            Self::SpliceNotes(n) => {
                let removed = usize::from(n > 0);
                let inserted = name("put in", n);
                match meeting.splice_notes(0, removed, &inserted) {
                    // There is nothing to replace yet.
                    Err(_) => meeting.splice_notes(0, 0, &inserted),
                    spliced => spliced,
                }
            }
            Self::SetSummary(n) => meeting.set_summary(&name("summary", n)),
            Self::SetProject(n) => meeting.set_project((n > 0).then(|| project(n))),
            Self::SetSource(n) => meeting.set_source(&name("source", n)),
            Self::SetSourceVersion(n) => meeting.set_source_version(&name("version", n)),
            Self::Schedule(n) => {
                let at = (n > 0).then(|| WallTime::from_millis(i64::from(n) * 1_000));
                meeting.schedule(at, at)
            }
            Self::ReachState(n) => meeting.reach_state(STATES[usize::from(n) % STATES.len()]),
            Self::SetError(n) => meeting.set_error(&name("cause", n)),
            Self::ClearError => meeting.clear_error(),
            Self::AddTag(n) => meeting.add_tag(&name("tag", n)),
            Self::RemoveTag(n) => meeting.remove_tag(&name("tag", n)),
            Self::AddParticipant(n) => meeting.add_participant(&name("who", n), "name"),
            Self::RemoveParticipant(n) => meeting.remove_participant(&name("who", n)),
            Self::Delete => {
                let pages = (0..PAGES_SEEN).map(|n| (page(n), "seen".to_owned()));
                let pages: BTreeMap<_, _> = pages.collect();
                meeting.delete(&pages)
            }
            Self::Restore => meeting.restore(),
            Self::AddPage(n) => meeting.add_page(page(n), "recorder", i64::from(n)),
            Self::AddActionItem(n) => meeting.add_action_item(&name("item", n), "do", None),
            Self::CompleteActionItem(n, done) => {
                meeting.complete_action_item(&name("item", n), done)
            }
            Self::SetActionItemText(n, text) => {
                meeting.set_action_item_text(&name("item", n), &name("do", text))
            }
            Self::AssignActionItem(n, who) => {
                let who = (who > 0).then(|| name("who", who));
                meeting.assign_action_item(&name("item", n), who.as_deref())
            }
            _ => Ok(()),
        }
    }

    fn apply_to_workspace(&self, editor: &mut Editor) -> Result<(), ModelError> {
        let mut workspace = editor.workspace()?;
        match *self {
            Self::SetName(n) => workspace.set_name(&name("workspace", n)),
            Self::AddProject(n) => workspace.add_project(project(n), &name("project", n)),
            Self::RenameProject(n, to) => workspace.rename_project(project(n), &name("other", to)),
            Self::ArchiveProject(n, archived) => workspace.archive_project(project(n), archived),
            Self::DeleteProject(n, deleted) => workspace.delete_project(project(n), deleted),
            Self::SetActiveProject(n) => workspace.set_active_project(&member(), Some(project(n))),
            Self::SetSetting(n, value) => {
                let value = (value > 0).then(|| name("value", value));
                workspace.set_setting(&name("setting", n), value.as_deref())
            }
            _ => Ok(()),
        }
    }

    fn apply_to_page(&self, editor: &mut Editor) -> Result<(), ModelError> {
        let mut page = editor.transcript()?;
        match *self {
            Self::CreatePage(n) => page.create(&PageHeader {
                meeting: DocumentId::from_bytes([n; 16]),
                recorder: &name("recorder", n),
                page: 0,
                timebase: Timebase::Ms,
            }),
            Self::AppendSegment(n) => page.append_segment(&Segment {
                id: name("segment", n),
                start: i64::from(n) * 1_000,
                end: None,
                speaker: None,
                text: name("said", n),
            }),
            Self::CorrectSegment(n, to) => {
                page.correct_segment(&name("segment", n), &name("meant", to))
            }
            Self::SetSpeaker(n, who) => {
                let who = (who > 0).then(|| name("who", who));
                page.set_speaker(&name("segment", n), who.as_deref())
            }
            _ => Ok(()),
        }
    }

    fn apply_to_command(&self, editor: &mut Editor) -> Result<(), ModelError> {
        let mut command = editor.command()?;
        match *self {
            Self::Issue(n) => command.issue(&CommandDraft {
                name: name("command", n),
                arguments: BTreeMap::from([(name("argument", n), name("value", n))]),
                issued_by: author(),
                replaces: None,
            }),
            Self::Cancel => command.cancel(),
            Self::Accept => command.accept(),
            Self::Finish(0) => command.finish(&Outcome::done([("result", "it".to_owned())])),
            Self::Finish(n) => command.finish(&Outcome::refused(&name("code", n), "no")),
            _ => Ok(()),
        }
    }

    fn apply_to_entry(&self, editor: &mut Editor) -> Result<(), ModelError> {
        let mut entry = editor.entry()?;
        let draft = |n| EntryDraft {
            subject: Subject {
                kind: "document".to_owned(),
                id: "the subject".to_owned(),
            },
            topic: "topic".to_owned(),
            code: name("code", n),
            message: name("message", n),
            retryable: false,
            details: BTreeMap::from([(name("detail", n), name("value", n))]),
        };
        match *self {
            Self::File(n) => entry.file(&draft(n)),
            Self::Find(n) => entry.find(&draft(n)),
            Self::Resolve(0) => entry.resolve(reconvene_model::entry::CAUSE_GONE),
            Self::Resolve(n) => entry.resolve(&name("how", n)),
            _ => Ok(()),
        }
    }

    fn apply_to_integration(&self, editor: &mut Editor) -> Result<(), ModelError> {
        let mut integration = editor.integration()?;
        match *self {
            Self::CreateIntegration(n) => integration.create(&IntegrationDraft {
                adapter: name("adapter", n),
                external_id: name("external", n),
                account: None,
                settings: [(name("setting", n), name("value", n))]
                    .into_iter()
                    .collect::<Settings>(),
                added_by: author(),
            }),
            Self::SetExternalId(n) => integration.set_external_id(&name("external", n)),
            Self::SetAccount(n) => {
                let account = (n > 0).then(|| name("account", n));
                integration.set_account(account.as_deref())
            }
            Self::SetIntegrationSetting(n, value) => {
                let number = usize::from(n) % SETTINGS_MAX;
                let value = (value > 0).then(|| name("value", value));
                integration.set_setting(&format!("setting {number}"), value.as_deref())
            }
            Self::RemoveIntegration(removed) => integration.remove(removed),
            Self::Validated(n) => integration.validated(&Validation {
                state: match n {
                    0 => IntegrationState::Valid,
                    _ => IntegrationState::Invalid,
                },
                error: (n > 0).then(|| Problem {
                    code: name("code", n),
                    message: "it does not work".to_owned(),
                }),
                identity: name("identity", n),
            }),
            Self::SetPosition(n) => integration.set_position(&name("position", n)),
            Self::StartRun(n) => integration.start_run(&RunDraft {
                id: run(n),
                trigger: "manual".to_owned(),
                command: None,
            }),
            Self::Progress(n, done) => {
                integration.progress(run(n), u64::from(done), None, u64::from(done))
            }
            Self::CancelRun(n) => integration.cancel_run(run(n)),
            Self::EndRun(n) => integration.end_run(
                run(n),
                &RunEnd {
                    state: RunState::Succeeded,
                    error: None,
                    kept_ms: 1_000,
                },
            ),
            Self::ForgetRun(n) => integration.forget_run(run(n)),
            _ => Ok(()),
        }
    }
}

/// Edits a document in one edit; `None` if the model refuses one of these as the document is, which
/// changes nothing.
///
/// # Panics
/// If the model does anything else than edit or refuse.
pub fn make_all(
    edits: &[ModelEdit],
    document: &mut Document,
    actor: &[u8; 16],
    now: WallTime,
) -> Option<Vec<EncodedChange>> {
    let conflicts = match edits
        .iter()
        .any(|edit| matches!(edit, ModelEdit::Settle(_)))
    {
        true => document.conflicts().expect("a document that is open reads"),
        false => Vec::new(),
    };
    let made = document.edit(actor, now, |editor| {
        edits.iter().try_for_each(|edit| match *edit {
            ModelEdit::Settle(choice) => match conflicts.first() {
                Some(conflict) => {
                    editor.settle(conflict, usize::from(choice) % conflict.values.len())
                }
                None => Ok(()),
            },
            edit => edit.apply(editor),
        })
    });
    match made {
        Ok(((), changes)) => Some(changes),
        Err(EditError::Refused(_) | EditError::ReadOnly { .. }) => None,
        Err(error) => panic!("{edits:?} cannot be made: {error}"),
    }
}

pub(crate) fn name(what: &str, number: u8) -> String {
    format!("{what} {number}")
}

pub(crate) fn project(number: u8) -> ProjectId {
    ProjectId::from_bytes([number; 16])
}

pub(crate) fn page(number: u8) -> DocumentId {
    DocumentId::from_bytes([0xb0 | number; 16])
}

fn run(number: u8) -> RunId {
    RunId::from_bytes([number; 16])
}

fn member() -> MemberId {
    MemberId::from_bytes([7; 16])
}

fn author() -> Author {
    Author {
        member: member(),
        device: PeerId::from_bytes([7; 32]),
    }
}

#[cfg(test)]
mod tests;
