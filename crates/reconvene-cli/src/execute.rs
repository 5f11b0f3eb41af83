//! Carries out a request on an open replica: the one executor behind this process's own commands and
//! those that reach it over the control socket.
//!
//! Answers are JSON in the shapes that the README documents. Nothing is printed here.

use std::time::Duration;

use reconvene::{
    ArchiveOptions, DocumentId, InviteOptions, JoinOptions, LeaveOptions, ListOptions,
    MeetingEditor, MeetingFilter, ModelError, NewMeeting, ProjectId, Replica, RestoreOptions,
    SyncOptions,
};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::import;
use crate::output::to_value;
use crate::progress;
use crate::request::{MeetingChanges, Request, Sinks, TagEdit, Wanted};
use crate::time::rfc3339;

mod outbox;
mod streams;

/// Carries out a request. Dropping this midway leaves each edit either done or not done. A stream ends
/// when nobody takes its items any more.
pub(crate) async fn execute(
    replica: &Replica,
    request: Request,
    sinks: &Sinks,
) -> Result<Value, Failure> {
    let Sinks { progress, items } = sinks;
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
        Request::WorkspaceLeave {
            workspace,
            discard,
            remove,
        } => {
            let options = LeaveOptions { discard, remove };
            to_value(&replica.leave_workspace(&workspace, options).await?)
        }
        Request::In { workspace, request } => {
            let scoped = replica.in_workspace(&workspace).await?;
            Box::pin(execute(&scoped, *request, sinks)).await
        }
        Request::Invite { member, expires_ms } => {
            invite(replica, member, Duration::from_millis(expires_ms)).await
        }
        Request::Join { ticket, adopt } => {
            to_value(&replica.join_with(&ticket, JoinOptions { adopt }).await?)
        }
        Request::ProjectAdd { name } => {
            let project = replica.projects().add(&name).await?;
            Ok(json!({ "project": to_value(&project)? }))
        }
        Request::ProjectList { all } => {
            let projects = replica.projects();
            let projects = match all {
                true => projects.list_all().await?,
                false => projects.list().await?,
            };
            Ok(json!({ "projects": to_value(&projects)? }))
        }
        Request::ProjectRename { project, name } => {
            let project = replica.projects().rename(&project, &name).await?;
            Ok(json!({ "project": to_value(&project)? }))
        }
        Request::ProjectArchive { project, archived } => {
            let project = replica.projects().archive(&project, archived).await?;
            Ok(json!({ "project": to_value(&project)? }))
        }
        Request::ProjectDelete { project } => {
            let project = replica.projects().delete(&project).await?;
            Ok(json!({ "project": to_value(&project)? }))
        }
        Request::ProjectRestore { project } => {
            let project = replica.projects().restore(&project).await?;
            Ok(json!({ "project": to_value(&project)? }))
        }
        Request::ProjectActivate { project } => {
            let project = replica.projects().activate(&project).await?;
            Ok(json!({ "project": to_value(&project)? }))
        }
        Request::MeetingAdd { title, project } => add_meeting(replica, title, project).await,
        Request::MeetingList {
            limit,
            after,
            wanted,
        } => {
            let options = ListOptions {
                limit,
                after: after.as_deref().map(document_id).transpose()?,
                filter: filter(replica, wanted).await?,
            };
            to_value(&replica.meetings().list(options).await?)
        }
        Request::MeetingWatch { wanted } => {
            let query = replica.meetings().query(filter(replica, wanted).await?);
            streams::rows("meeting", query.subscribe()?, items).await
        }
        Request::MeetingShow { id } => show(replica, document_id(&id)?).await,
        Request::MeetingEdit { id, changes } => {
            let id = document_id(&id)?;
            let edit = move |meeting: &mut MeetingEditor<'_>| apply(changes, meeting);
            replica.meetings().edit(id, edit).await?;
            show(replica, id).await
        }
        Request::MeetingDelete { id, seen } => {
            let id = document_id(&id)?;
            match seen {
                Some(version) => replica.meetings().delete_seen(id, &version).await?,
                None => replica.meetings().delete(id).await?,
            }
            Ok(json!({ "id": id, "deleted": true }))
        }
        Request::MeetingRestore { id } => {
            let id = document_id(&id)?;
            replica.meetings().restore(id).await?;
            show(replica, id).await
        }
        Request::MeetingStop { id, issue } => outbox::stop(replica, &id, issue).await,
        Request::Commands(request) => outbox::commands(replica, request, items).await,
        Request::Inbox(request) => outbox::inbox(replica, request, items).await,
        Request::Integrations(request) => outbox::integrations(replica, request, items).await,
        Request::Runs(request) => outbox::runs(replica, request, items).await,
        Request::Import { format, files } => import::files(replica, format, files, progress).await,
        Request::Sync { timeout_ms, with } => {
            let options = SyncOptions {
                timeout: Duration::from_millis(timeout_ms),
                progress: Some(progress::of_sync(progress)),
            };
            to_value(&match with.is_empty() {
                true => replica.sync(options).await?,
                false => replica.sync_with(&with, options).await?,
            })
        }
        Request::SyncWatch { with, listen } => {
            // From before the first link, so that it is told.
            let events = replica.events();
            if !listen.is_empty() {
                let peer_id = replica.device().peer_id;
                let listening = replica.listen(&listen).await?;
                let info = json!({ "peer_id": peer_id, "listening": listening });
                if items.send(info).await.is_err() {
                    return Ok(Value::Null);
                }
            }
            let needs_server = with.is_empty() && listen.is_empty();
            match replica.connect().await {
                Err(error) if !needs_server && error.code() == "no_server" => {}
                connected => connected?,
            }
            replica.connect_to(&with).await?;
            streams::events(replica, events, items).await
        }
        Request::Events => streams::events(replica, replica.events(), items).await,
        Request::Purge { deleted_for_ms } => {
            let deleted_for = Duration::from_millis(deleted_for_ms);
            to_value(&replica.purge(deleted_for).await?)
        }
        Request::Compact => to_value(&replica.compact(None).await?),
        Request::Status { records, document } => {
            let mut status = to_value(&replica.status().await?)?;
            if records || document.is_some() {
                let document = document.as_deref().map(document_id).transpose()?;
                status["records"] = to_value(&replica.records(None, document).await?)?;
            }
            Ok(status)
        }
        Request::StatusWatch => streams::status(replica, items).await,
        Request::ArchiveCreate {
            file,
            with_identity,
            overwrite,
        } => {
            let options = ArchiveOptions {
                with_identity,
                overwrite,
                progress: Some(progress::of_archive("archiving", progress)),
            };
            to_value(&replica.archive(file, options).await?)
        }
        Request::ArchiveRestore { file, partial } => {
            let options = RestoreOptions {
                partial,
                with_identity: false,
                progress: Some(progress::of_archive("restoring", progress)),
            };
            to_value(&replica.restore(file, options).await?)
        }
        Request::Verify => {
            let told = progress::of_verify(progress);
            to_value(&replica.verify(Some(told)).await?)
        }
        Request::Export { workspace } => {
            // As text: its bytes are the promise, and must not be written anew.
            Ok(Value::String(replica.export(workspace.as_deref()).await?))
        }
        Request::ExportMarkdown { meeting } => {
            let only = meeting.as_deref().map(document_id).transpose()?;
            let markdown = replica.meetings().export_markdown(only).await?;
            Ok(json!({ "markdown": markdown }))
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

/// The filter that is meant, its project looked up.
async fn filter(replica: &Replica, wanted: Wanted) -> Result<MeetingFilter, Failure> {
    let mut filter = wanted.filter;
    if let Some(project) = wanted.project {
        filter.project = Some(replica.projects().find(&project).await?);
    }
    Ok(filter)
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

fn document_id(text: &str) -> Result<DocumentId, Failure> {
    Ok(text.parse::<DocumentId>().map_err(reconvene::Error::from)?)
}

#[cfg(test)]
mod tests;
