//! Which project a new meeting goes to, and by which rule: no silent choice.

use reconvene_core::ids::MemberId;
use serde::{Deserialize, Serialize};

use crate::workspace::{ActiveProject, DEFAULT_PROJECT_SETTING, Project, ProjectId, Workspace};

/// The rule by which a project was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Resolution {
    /// The caller named it.
    Explicit,
    /// It is the member's active project.
    Active,
    /// No project is active; it is the workspace's default.
    WorkspaceDefault,
    /// Several projects are active, chosen on devices that had not seen each other's choice. None was
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
    /// The project is out of use.
    #[error("project `{name}` is archived; take it back into use first, or name another")]
    Archived {
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

/// Chooses the project of a member's new meeting: the one named by id or by exact name, else the
/// member's active one, else the workspace's default. An archived or deleted one is never chosen.
pub fn resolve_project(
    explicit: Option<&str>,
    workspace: &Workspace,
    member: &MemberId,
) -> Result<(Option<ProjectId>, Resolution), ResolveError> {
    if let Some(name) = explicit {
        let id = find_usable_project(name, workspace)?;
        return Ok((Some(id), Resolution::Explicit));
    }
    let in_use = |id: &ProjectId| {
        let project = workspace.projects.get(id);
        project.is_some_and(|project| !project.archived && project.deleted_at.is_none())
    };
    let mut active = match workspace.active_for(member) {
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

/// Finds a project by its id or its exact name, among those in use: not archived, not deleted.
pub fn find_usable_project(name: &str, workspace: &Workspace) -> Result<ProjectId, ResolveError> {
    let id = find_project(name, workspace)?;
    let found = workspace.projects.get(&id);
    if found.is_some_and(|project| project.archived) {
        let name = name.to_owned();
        return Err(ResolveError::Archived { name });
    }
    Ok(id)
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
