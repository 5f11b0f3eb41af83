//! Which project a new meeting goes to, and by which rule: no silent choice.

use serde::{Deserialize, Serialize};

use crate::workspace::{ActiveProject, DEFAULT_PROJECT_SETTING, Project, ProjectId, Workspace};

/// The rule by which a project was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Resolution {
    /// The caller named it.
    Explicit,
    /// It is the workspace's active project.
    Active,
    /// No project is active; it is the workspace's default.
    WorkspaceDefault,
    /// Several projects are active, chosen by people who had not seen each other's choice. None was
    /// taken.
    Ambiguous {
        /// The active projects, in the order of their ids.
        candidates: Vec<ProjectId>,
    },
    /// Nothing names a project.
    None,
}

/// Why a named project could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No project has that id or name.
    #[error("there is no project `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The only project of that id or name was deleted.
    #[error("project `{name}` was deleted; restore it first, or name another")]
    Deleted {
        /// What was asked for.
        name: String,
    },
    /// Several projects have that name; only an id says which.
    #[error("{} projects are called `{name}`", candidates.len())]
    AmbiguousName {
        /// What was asked for.
        name: String,
        /// The projects of that name, in the order of their ids.
        candidates: Vec<ProjectId>,
    },
}

/// Chooses the project of a new meeting: the one named by id or by exact name, else the active one,
/// else the workspace's default.
///
/// An archived project is found by its id, and by its name only where no other has that name. It is
/// never chosen without being named.
pub fn resolve_project(
    explicit: Option<&str>,
    workspace: &Workspace,
) -> Result<(Option<ProjectId>, Resolution), ResolveError> {
    if let Some(name) = explicit {
        return find_project(name, workspace).map(|id| (Some(id), Resolution::Explicit));
    }
    let in_use = |id: &ProjectId| {
        let project = workspace.projects.get(id);
        project.is_some_and(|project| !project.archived && project.deleted_at.is_none())
    };
    let mut active = match &workspace.active {
        ActiveProject::None => Vec::new(),
        ActiveProject::One { project } => vec![*project],
        ActiveProject::Ambiguous { candidates } => candidates.clone(),
    };
    active.retain(in_use);
    match active.as_slice() {
        [] => {}
        [project] => return Ok((Some(*project), Resolution::Active)),
        _ => return Ok((None, Resolution::Ambiguous { candidates: active })),
    }
    let default = workspace.settings.get(DEFAULT_PROJECT_SETTING);
    let default = default
        .and_then(|value| value.as_str()?.parse().ok())
        .filter(in_use);
    Ok(match default {
        Some(project) => (Some(project), Resolution::WorkspaceDefault),
        None => (None, Resolution::None),
    })
}

/// Finds a project by its id or its exact name, among those that were not deleted.
pub fn find_project(name: &str, workspace: &Workspace) -> Result<ProjectId, ResolveError> {
    let found = find(name, workspace, |project| project.deleted_at.is_none());
    match found {
        Err(ResolveError::Unknown { name })
            if find(&name, workspace, |project| project.deleted_at.is_some()).is_ok() =>
        {
            Err(ResolveError::Deleted { name })
        }
        found => found,
    }
}

/// Finds a deleted project by its id or its exact name.
pub fn find_deleted_project(name: &str, workspace: &Workspace) -> Result<ProjectId, ResolveError> {
    find(name, workspace, |project| project.deleted_at.is_some())
}

fn find(
    name: &str,
    workspace: &Workspace,
    wanted: impl Fn(&Project) -> bool,
) -> Result<ProjectId, ResolveError> {
    if let Ok(id) = name.parse::<ProjectId>()
        && workspace.projects.get(&id).is_some_and(&wanted)
    {
        return Ok(id);
    }
    let named = |archived: bool| {
        let projects = workspace.projects.iter();
        projects
            .filter(|(_, project)| {
                wanted(project) && project.name == name && project.archived == archived
            })
            .map(|(id, _)| *id)
            .collect::<Vec<_>>()
    };
    let mut candidates = named(false);
    if candidates.is_empty() {
        candidates = named(true);
    }
    match candidates.as_slice() {
        [] => Err(ResolveError::Unknown {
            name: name.to_owned(),
        }),
        [id] => Ok(*id),
        _ => Err(ResolveError::AmbiguousName {
            name: name.to_owned(),
            candidates,
        }),
    }
}

#[cfg(test)]
mod tests;
