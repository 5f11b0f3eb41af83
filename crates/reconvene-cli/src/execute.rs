//! Carries out a request on an open replica: the one executor behind this process's own commands and
//! those that reach it over the control socket.
//!
//! Answers are JSON in the shapes that the README documents. Nothing is printed here.

use std::time::Duration;

use reconvene::{
    DocumentId, InviteOptions, ListOptions, MeetingEditor, ModelError, NewMeeting, ProjectId,
    Replica, SyncOptions,
};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::import;
use crate::output::to_value;
use crate::progress;
use crate::request::{MeetingChanges, ProgressSink, Request, TagEdit};
use crate::time::rfc3339;

/// Carries out a request. Dropping this midway leaves each edit either done or not done.
pub(crate) async fn execute(
    replica: &Replica,
    request: Request,
    progress: &ProgressSink,
) -> Result<Value, Failure> {
    match request {
        Request::WorkspaceAdd { name } => {
            let workspace = replica.add_workspace(&name).await?;
            Ok(json!({ "workspace": to_value(&workspace)? }))
        }
        Request::WorkspaceList => {
            let workspaces = replica.workspaces().await?;
            Ok(json!({ "workspaces": to_value(&workspaces)? }))
        }
        Request::WorkspaceUse { workspace } => {
            let workspace = replica.use_workspace(&workspace).await?;
            Ok(json!({ "workspace": to_value(&workspace)? }))
        }
        Request::Invite { member, expires_ms } => {
            invite(replica, member, Duration::from_millis(expires_ms)).await
        }
        Request::Join { ticket } => to_value(&replica.join(&ticket).await?),
        Request::ProjectAdd { name } => {
            let project = replica.projects().add(&name).await?;
            Ok(json!({ "project": to_value(&project)? }))
        }
        Request::ProjectList => {
            let projects = replica.projects().list().await?;
            Ok(json!({ "projects": to_value(&projects)? }))
        }
        Request::ProjectActivate { project } => {
            let project = replica.projects().activate(&project).await?;
            Ok(json!({ "project": to_value(&project)? }))
        }
        Request::MeetingAdd { title, project } => add_meeting(replica, title, project).await,
        Request::MeetingList { limit, after } => {
            let after = after.as_deref().map(meeting_id).transpose()?;
            to_value(
                &replica
                    .meetings()
                    .list(ListOptions { limit, after })
                    .await?,
            )
        }
        Request::MeetingShow { id } => show(replica, meeting_id(&id)?).await,
        Request::MeetingEdit { id, changes } => {
            let id = meeting_id(&id)?;
            let edit = move |meeting: &mut MeetingEditor<'_>| apply(changes, meeting);
            replica.meetings().edit(id, edit).await?;
            show(replica, id).await
        }
        Request::ImportQmsum { files } => import::qmsum(replica, files, progress).await,
        Request::Sync { timeout_ms } => {
            let options = SyncOptions {
                timeout: Duration::from_millis(timeout_ms),
                progress: Some(progress::of_sync(progress)),
            };
            to_value(&replica.sync(options).await?)
        }
        Request::Status => to_value(&replica.status().await?),
        Request::Verify => {
            let told = progress::of_verify(progress);
            to_value(&replica.verify(Some(told)).await?)
        }
        Request::Export { workspace } => {
            // As text: its bytes are the promise, and must not be written anew.
            Ok(Value::String(replica.export(workspace.as_deref()).await?))
        }
    }
}

async fn invite(
    replica: &Replica,
    member: Option<String>,
    expires_in: Duration,
) -> Result<Value, Failure> {
    replica.ensure_shared_workspace().await?;
    let invitation = replica.invite(InviteOptions { member, expires_in }).await?;
    let mut answer = to_value(&invitation)?;
    answer["expires_at"] = json!(rfc3339(invitation.expires_at));
    answer["expires_at_ms"] = json!(invitation.expires_at.as_millis());
    Ok(answer)
}

async fn add_meeting(
    replica: &Replica,
    title: String,
    project: Option<String>,
) -> Result<Value, Failure> {
    let added = replica
        .meetings()
        .add(NewMeeting { title, project })
        .await?;
    let mut answer = to_value(&added)?;
    // For people, who know projects by name.
    answer["resolved_project_name"] = match added.resolved_project_id {
        Some(id) => json!(project_name(replica, id).await?),
        None => Value::Null,
    };
    Ok(answer)
}

async fn project_name(replica: &Replica, id: ProjectId) -> Result<Option<String>, Failure> {
    let projects = replica.projects().list().await?;
    let found = projects.into_iter().find(|project| project.id == id);
    Ok(found.map(|project| project.name))
}

async fn show(replica: &Replica, id: DocumentId) -> Result<Value, Failure> {
    let view = replica.meetings().show(id).await?;
    let mut answer = to_value(&view)?;
    // Wherever a meeting is written, its id stands in it.
    answer["meeting"]["id"] = json!(id);
    Ok(answer)
}

fn apply(changes: MeetingChanges, meeting: &mut MeetingEditor<'_>) -> Result<(), ModelError> {
    if let Some(title) = &changes.title {
        meeting.set_title(title)?;
    }
    if let Some(mut note) = changes.append_note {
        // A line of its own, also beside one that is added elsewhere at the same time.
        if !note.ends_with('\n') {
            note.push('\n');
        }
        meeting.append_note(&note)?;
    }
    if let Some(state) = changes.state {
        meeting.reach_state(state)?;
    }
    for tag in &changes.tags {
        match tag {
            TagEdit::Add(tag) => meeting.add_tag(tag)?,
            TagEdit::Remove(tag) => meeting.remove_tag(tag)?,
        }
    }
    Ok(())
}

fn meeting_id(text: &str) -> Result<DocumentId, Failure> {
    Ok(text.parse::<DocumentId>().map_err(reconvene::Error::from)?)
}

#[cfg(test)]
mod tests;
