//! Projects of a workspace.

use reconvene_model::index::ProjectRow;
use reconvene_model::resolve::find_project;
use reconvene_model::{ProjectId, WORKSPACE, WORKSPACE_DOCUMENT};

use crate::replica::check_name;
use crate::{Error, Replica};

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
                Some(WORKSPACE),
                false,
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

    /// Lists projects in the order of their creation. Loads no document.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self) -> Result<Vec<ProjectRow>, Error> {
        let workspace = self.replica.current_workspace()?;
        let row = self.replica.workspace_row(workspace).await?;
        Ok(row.map(|row| row.projects).unwrap_or_default())
    }

    /// The project with this id or exact name.
    ///
    /// # Errors
    /// If there is none, or several have the name.
    pub async fn find(&self, id_or_name: &str) -> Result<ProjectId, Error> {
        let workspace = self.replica.current_workspace()?;
        let row = self.replica.workspace_row(workspace).await?;
        let row = row.unwrap_or_else(empty_row);
        Ok(find_project(id_or_name, &row.to_workspace())?)
    }

    /// Makes a project the one new meetings are filed under; resolves when that is durable.
    ///
    /// # Errors
    /// If no project has this id or exact name, or several have the name.
    pub async fn activate(&self, id_or_name: &str) -> Result<ProjectRow, Error> {
        let workspace = self.replica.current_workspace()?;
        let row = self
            .replica
            .workspace_row(workspace)
            .await?
            .unwrap_or_else(empty_row);
        let id = find_project(id_or_name, &row.to_workspace())?;
        self.replica
            .edit_document(
                workspace,
                WORKSPACE_DOCUMENT,
                Some(WORKSPACE),
                false,
                move |editor| editor.workspace()?.set_active_project(Some(id)),
            )
            .await?;
        let project = row.projects.into_iter().find(|project| project.id == id);
        project
            .map(|project| ProjectRow {
                active: true,
                ..project
            })
            .ok_or_else(|| Error::NotFound {
                what: "project",
                id: id.to_string(),
            })
    }
}

fn empty_row() -> reconvene_model::index::WorkspaceRow {
    reconvene_model::index::WorkspaceRow {
        name: None,
        projects: Vec::new(),
        active: reconvene_model::workspace::ActiveProject::None,
        settings: std::collections::BTreeMap::new(),
    }
}
