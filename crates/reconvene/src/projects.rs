//! Projects of a workspace.

use reconvene_model::index::{IndexRow, ProjectRow, index_row};
use reconvene_model::resolve::{
    ResolveError, find_deleted_project, find_project, find_usable_project,
};
use reconvene_model::workspace::WorkspaceEditor;
use reconvene_model::{ModelError, ProjectId, Purpose, WORKSPACE, WORKSPACE_DOCUMENT};

use crate::replica::{EditMode, check_name};
use crate::{Error, LIST_LIMIT_MAX, ListOptions, MeetingFilter, Replica};

/// The projects of the workspace that is current at each call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Projects {
    replica: Replica,
}

impl Projects {
    pub(crate) fn new(replica: Replica) -> Self {
        Self { replica }
    }

    /// Adds a project; resolves when it is durable. Two projects may have the same name.
    ///
    /// # Errors
    /// If the name is empty or too long, or the edit fails.
    pub async fn add(&self, name: &str) -> Result<ProjectRow, Error> {
        check_name(name)?;
        let workspace = self.replica.current_workspace()?;
        let id = ProjectId::from_bytes(*uuid::Uuid::now_v7().as_bytes());
        let owned = name.to_owned();
        let created_at = self
            .replica
            .edit_document(
                workspace,
                WORKSPACE_DOCUMENT,
                EditMode::creating(WORKSPACE),
                move |editor| {
                    let now = editor.now();
                    editor.workspace()?.add_project(id, &owned)?;
                    Ok(now)
                },
            )
            .await?;
        Ok(ProjectRow {
            id,
            name: name.to_owned(),
            created_at: Some(created_at),
            archived: false,
            deleted_at: None,
            active: false,
        })
    }

    /// Lists the projects that are not deleted in the order of their creation. Loads no document.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self) -> Result<Vec<ProjectRow>, Error> {
        let all = self.list_all().await?.into_iter();
        Ok(all.filter(|row| row.deleted_at.is_none()).collect())
    }

    /// The same with deleted ones.
    ///
    /// # Errors
    /// As for [`Self::list`].
    pub async fn list_all(&self) -> Result<Vec<ProjectRow>, Error> {
        let workspace = self.replica.current_workspace()?;
        let row = self.replica.workspace_row(workspace).await?;
        let member = self.replica.profile().member;
        Ok(row.map(|row| row.projects_for(&member)).unwrap_or_default())
    }

    /// The project with this id or exact name.
    ///
    /// # Errors
    /// If there is none, or several have the name.
    pub async fn find(&self, id_or_name: &str) -> Result<ProjectId, Error> {
        self.find_with(id_or_name, find_project).await
    }

    /// Renames a project; resolves when that is durable.
    ///
    /// # Errors
    /// If no project has this id or exact name, or several have the name, or the new name is empty or
    /// too long.
    pub async fn rename(&self, id_or_name: &str, name: &str) -> Result<ProjectRow, Error> {
        check_name(name)?;
        let id = self.find(id_or_name).await?;
        let owned = name.to_owned();
        self.edit(id, move |workspace| workspace.rename_project(id, &owned))
            .await
    }

    /// Takes a project out of use, or back into it; resolves when that is durable. Its meetings stay
    /// filed under it; no meeting goes to it that does not name it.
    ///
    /// # Errors
    /// If no project has this id or exact name, or several have the name.
    pub async fn archive(&self, id_or_name: &str, archived: bool) -> Result<ProjectRow, Error> {
        let id = self.find(id_or_name).await?;
        self.edit(id, move |workspace| workspace.archive_project(id, archived))
            .await
    }

    /// Deletes a project that holds no meetings; resolves when that is durable. What somebody files
    /// under it meanwhile keeps its meeting: that names a deleted project then.
    ///
    /// # Errors
    /// If no project has this id or exact name, several have the name, or meetings that are not deleted
    /// are filed under it.
    pub async fn delete(&self, id_or_name: &str) -> Result<ProjectRow, Error> {
        let id = self.find(id_or_name).await?;
        let meetings = self.count_meetings(id).await?;
        if meetings > 0 {
            return Err(Error::ProjectInUse { meetings });
        }
        self.edit(id, move |workspace| workspace.delete_project(id, true))
            .await
    }

    /// Brings a deleted project back; resolves when that is durable.
    ///
    /// # Errors
    /// If no deleted project has this id or exact name, or several have the name.
    pub async fn restore(&self, id_or_name: &str) -> Result<ProjectRow, Error> {
        let id = self.find_with(id_or_name, find_deleted_project).await?;
        self.edit(id, move |workspace| workspace.delete_project(id, false))
            .await
    }

    /// Makes a project the one that this member's new meetings are filed under, on all of the member's
    /// devices; resolves when that is durable. Where another was chosen on a device that had not seen
    /// this, both are active and none is taken, until one is chosen again.
    ///
    /// # Errors
    /// If no project has this id or exact name, several have the name, or it is archived or deleted.
    pub async fn activate(&self, id_or_name: &str) -> Result<ProjectRow, Error> {
        let id = self.find_with(id_or_name, find_usable_project).await?;
        let member = self.replica.profile().member;
        self.edit(id, move |workspace| {
            workspace.set_active_project(&member, Some(id))
        })
        .await
    }

    async fn find_with(
        &self,
        id_or_name: &str,
        find: fn(&str, &reconvene_model::Workspace) -> Result<ProjectId, ResolveError>,
    ) -> Result<ProjectId, Error> {
        let workspace = self.replica.current_workspace()?;
        let row = self.replica.workspace_row(workspace).await?;
        let known = row.unwrap_or_else(empty_row).to_workspace();
        Ok(find(id_or_name, &known)?)
    }

    /// Edits the workspace document and yields the project as it is then.
    async fn edit(
        &self,
        id: ProjectId,
        edit: impl FnOnce(&mut WorkspaceEditor<'_>) -> Result<(), ModelError> + Send + 'static,
    ) -> Result<ProjectRow, Error> {
        let workspace = self.replica.current_workspace()?;
        let mode = EditMode::creating(WORKSPACE);
        self.replica
            .edit_document(workspace, WORKSPACE_DOCUMENT, mode, move |editor| {
                edit(&mut editor.workspace()?)
            })
            .await?;
        // From the document: the row may not be readable yet.
        let mut lease = {
            let documents = &self.replica.shared.documents;
            documents.lease(workspace, WORKSPACE_DOCUMENT).await
        };
        self.replica
            .blocking(move |shared| {
                let row = shared
                    .documents
                    .load(&mut lease, Purpose::Read)
                    .and_then(|document| Ok(index_row(WORKSPACE_DOCUMENT, document)?));
                shared.documents.give_back(lease);
                let Some(IndexRow::Workspace(row)) = row? else {
                    return Err(no_project(id));
                };
                let member = shared.member();
                let mut projects = row.projects_for(&member).into_iter();
                let found = projects.find(|project| project.id == id);
                found.ok_or_else(|| no_project(id))
            })
            .await
    }

    /// How many meetings that are not deleted are filed under a project.
    async fn count_meetings(&self, id: ProjectId) -> Result<usize, Error> {
        let meetings = self.replica.meetings();
        let mut count = 0;
        let mut after = None;
        loop {
            let page = meetings.list(ListOptions {
                limit: LIST_LIMIT_MAX,
                after,
                filter: MeetingFilter {
                    project: Some(id),
                    ..MeetingFilter::default()
                },
            });
            let page = page.await?;
            count += page.meetings.len();
            after = page.next;
            if after.is_none() {
                return Ok(count);
            }
        }
    }
}

fn no_project(id: ProjectId) -> Error {
    Error::NotFound {
        what: "project",
        id: id.to_string(),
    }
}

fn empty_row() -> reconvene_model::index::WorkspaceRow {
    reconvene_model::index::WorkspaceRow {
        name: None,
        projects: Vec::new(),
        active: reconvene_model::workspace::ActiveProject::None,
        active_of: std::collections::BTreeMap::new(),
        settings: std::collections::BTreeMap::new(),
    }
}
