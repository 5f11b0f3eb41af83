//! Meetings as Markdown, for people. What programs need is in [`Replica::export`](crate::Replica::export).

use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_model::markdown::{MarkdownMeeting, join, meeting};
use reconvene_model::{Document, MEETING, Purpose, WORKSPACE, WORKSPACE_DOCUMENT, Workspace};

use crate::deletion::check_living;
use crate::meetings::not_a_meeting;
use crate::replica::Shared;
use crate::workspaces::stored_documents;
use crate::{Error, Meetings};

impl Meetings {
    /// Writes one meeting as Markdown, or with `None` all of the workspace in the order in which they
    /// were made, without deleted ones: the same bytes on any two replicas that hold the same view.
    /// What people wrote is escaped and cannot be taken for markup of the page.
    ///
    /// # Errors
    /// If there is no such meeting or it is deleted, or a document cannot be loaded.
    pub async fn export_markdown(&self, only: Option<DocumentId>) -> Result<String, Error> {
        let workspace = self.replica.current_workspace()?;
        self.replica
            .blocking(move |shared| match only {
                Some(id) => one(shared, workspace, id),
                None => all(shared, workspace),
            })
            .await
    }
}

fn one(shared: &Shared, workspace: WorkspaceId, id: DocumentId) -> Result<String, Error> {
    let document = read(shared, workspace, id).map_err(|error| match error {
        Error::NotFound { .. } => not_a_meeting(id),
        other => other,
    })?;
    if document.kind() != MEETING {
        return Err(not_a_meeting(id));
    }
    check_living(&shared.reader, workspace, id, &document)?;
    let known = projects_of(shared, workspace)?;
    write(shared, workspace, &known, id, &document)
}

fn all(shared: &Shared, workspace: WorkspaceId) -> Result<String, Error> {
    let known = projects_of(shared, workspace)?;
    let mut written = Vec::new();
    for (id, kind) in stored_documents(shared, workspace)? {
        if kind != MEETING {
            continue;
        }
        // One at a time: no more is loaded than is being written.
        let living = read(shared, workspace, id).and_then(|document| {
            check_living(&shared.reader, workspace, id, &document)?;
            Ok(document)
        });
        match living {
            Ok(document) => written.push(write(shared, workspace, &known, id, &document)?),
            // Deleted, or purged since it was looked for.
            Err(Error::MeetingDeleted { .. } | Error::DocumentDeleted { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(join(&written))
}

fn write(
    shared: &Shared,
    workspace: WorkspaceId,
    known: &Workspace,
    id: DocumentId,
    document: &Document,
) -> Result<String, Error> {
    let shown = document.meeting()?;
    let mut pages = Vec::new();
    for page in shown.pages_in_order() {
        pages.push(match read(shared, workspace, page) {
            Ok(document) => Some(document.transcript()?),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        });
    }
    let project = shown.project.and_then(|id| known.projects.get(&id));
    Ok(meeting(&MarkdownMeeting {
        id,
        meeting: &shown,
        project: project.map(|project| project.name.as_str()),
        pages: &pages,
    }))
}

/// From the document and not from its index row, which may be behind.
fn projects_of(shared: &Shared, workspace: WorkspaceId) -> Result<Workspace, Error> {
    match read(shared, workspace, WORKSPACE_DOCUMENT) {
        Ok(document) if document.kind() == WORKSPACE => Ok(document.workspace()?),
        Ok(_) | Err(Error::NotFound { .. }) => Ok(Workspace::default()),
        Err(error) => Err(error),
    }
}

fn read(shared: &Shared, workspace: WorkspaceId, id: DocumentId) -> Result<Document, Error> {
    shared.documents.read(workspace, id, Purpose::Export)
}
