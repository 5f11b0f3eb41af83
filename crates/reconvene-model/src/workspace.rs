//! The workspace document: its projects, which of them is active, and its settings.
//!
//! It never holds meetings; those are documents of their own that name a project.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use automerge::{ROOT, ReadDoc, ScalarValue};
use reconvene_core::ids::MemberId;
use reconvene_core::time::WallTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::document::{Document, ReadError};
use crate::edit::{Editor, ModelError};
use crate::genesis::{INTEGRATIONS, PROJECTS, SETTINGS, WORKSPACE};
use crate::view::{Conflict, View};

/// The setting that names the project of meetings created without one, when no project is active.
pub const DEFAULT_PROJECT_SETTING: &str = "default_project";

/// Before the member's id in the register of their active project.
const ACTIVE_OF: &str = "active:";

/// A project of a workspace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectId([u8; 16]);

/// A text that is not a project id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a project id: expected a UUID")]
pub struct ParseProjectIdError;

impl ProjectId {
    /// Takes the 16 bytes of a UUID, most significant first.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, most significant first.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ProjectId {
    type Err = ParseProjectIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        uuid::Uuid::parse_str(text)
            .map(|uuid| Self(uuid.into_bytes()))
            .map_err(|_| ParseProjectIdError)
    }
}

impl Serialize for ProjectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ProjectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A workspace as people see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Workspace {
    /// Its name, if it was ever given one.
    pub name: Option<String>,
    /// Its projects, archived ones included.
    pub projects: BTreeMap<ProjectId, Project>,
    /// Which project is active for those who never chose: what versions wrote that knew one choice for
    /// all.
    pub active: ActiveProject,
    /// Which project is active for each member who chose, or chose none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub active_of: BTreeMap<MemberId, ActiveProject>,
    /// Its settings, by name. Reserved for scalars.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Ids of its integrations. Reserved: nothing writes them yet.
    pub integrations: Vec<String>,
    /// Registers that hold several values.
    pub conflicts: Vec<Conflict>,
    /// Paths whose value has a type this version does not expect; read as absent.
    pub malformed: Vec<String>,
}

/// A project of a workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Its name; empty if none is readable.
    pub name: String,
    /// When it was created.
    pub created_at: Option<WallTime>,
    /// Whether it is out of use.
    pub archived: bool,
    /// When it was deleted; a deleted project is as good as none, until it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<WallTime>,
}

impl Workspace {
    /// Which project is active for a member.
    pub fn active_for(&self, member: &MemberId) -> &ActiveProject {
        self.active_of.get(member).unwrap_or(&self.active)
    }
}

/// Which project is active in a workspace for a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum ActiveProject {
    /// None is.
    #[default]
    None,
    /// This one is.
    One {
        /// The active project.
        project: ProjectId,
    },
    /// Different ones were chosen, on devices that had not seen each other's choice; choosing again
    /// settles it.
    Ambiguous {
        /// The projects chosen, in the order of their ids.
        candidates: Vec<ProjectId>,
    },
}

impl ActiveProject {
    /// Whether it is this one, or may be.
    pub fn includes(&self, id: &ProjectId) -> bool {
        match self {
            Self::None => false,
            Self::One { project } => project == id,
            Self::Ambiguous { candidates } => candidates.contains(id),
        }
    }
}

impl Document {
    /// Reads a workspace document.
    pub fn workspace(&self) -> Result<Workspace, ReadError> {
        self.read(WORKSPACE, read)
    }
}

impl Editor {
    /// The operations on a workspace document.
    pub fn workspace(&mut self) -> Result<WorkspaceEditor<'_>, ModelError> {
        self.expect_kind(WORKSPACE)?;
        Ok(WorkspaceEditor { editor: self })
    }
}

/// The operations on a workspace document.
pub struct WorkspaceEditor<'a> {
    editor: &'a mut Editor,
}

impl WorkspaceEditor<'_> {
    /// Names the workspace.
    pub fn set_name(&mut self, name: &str) -> Result<(), ModelError> {
        Editor::check_name("name", name)?;
        self.editor.put(&ROOT, "name", name)
    }

    /// Adds a project.
    pub fn add_project(&mut self, project: ProjectId, name: &str) -> Result<(), ModelError> {
        Editor::check_name("project name", name)?;
        let key = project.to_string();
        if self.editor.reader().get(PROJECTS.id(), &key)?.is_some() {
            return Err(ModelError::Exists {
                what: "project",
                id: key,
            });
        }
        let created_at = self.editor.now().as_millis();
        self.editor.put_record(
            &PROJECTS.id(),
            &key,
            [
                ("name", Some(name.into())),
                ("created_at", Some(created_at.into())),
                ("archived", Some(false.into())),
            ],
        )
    }

    /// Renames a project.
    pub fn rename_project(&mut self, project: ProjectId, name: &str) -> Result<(), ModelError> {
        Editor::check_name("project name", name)?;
        let record = self
            .editor
            .record(PROJECTS, "project", &project.to_string())?;
        self.editor.put(&record, "name", name)
    }

    /// Takes a project out of use, or back into it.
    pub fn archive_project(
        &mut self,
        project: ProjectId,
        archived: bool,
    ) -> Result<(), ModelError> {
        let record = self
            .editor
            .record(PROJECTS, "project", &project.to_string())?;
        self.editor.put(&record, "archived", archived)
    }

    /// Deletes a project, or restores it. Meetings filed under it stay as they are.
    pub fn delete_project(&mut self, project: ProjectId, deleted: bool) -> Result<(), ModelError> {
        let record = self
            .editor
            .record(PROJECTS, "project", &project.to_string())?;
        let now = self.editor.now().as_millis();
        let value = if deleted {
            now.into()
        } else {
            ScalarValue::Null
        };
        self.editor.put(&record, "deleted_at", value)
    }

    /// Chooses a member's active project, or none. Settles what was ambiguous.
    pub fn set_active_project(
        &mut self,
        member: &MemberId,
        project: Option<ProjectId>,
    ) -> Result<(), ModelError> {
        if let Some(project) = project {
            self.editor
                .record(PROJECTS, "project", &project.to_string())?;
        }
        let value = project.map_or(ScalarValue::Null, |id| id.to_string().into());
        let key = format!("{ACTIVE_OF}{member}");
        self.editor.put(&ROOT, &key, value)
    }

    /// Writes a setting, or removes it.
    pub fn set_setting(&mut self, name: &str, value: Option<&str>) -> Result<(), ModelError> {
        Editor::check_name("setting", name)?;
        match value {
            Some(value) => {
                Editor::check_string("setting", value)?;
                self.editor.put(&SETTINGS.id(), name, value)
            }
            None => self.editor.remove(&SETTINGS.id(), name),
        }
    }
}

fn read(view: &mut View<'_>) -> Workspace {
    let mut root = view.root();
    let mut workspace = Workspace {
        name: view.string(&mut root, "name", ""),
        active: active(view, "active"),
        ..Workspace::default()
    };
    for key in root.keys().filter(|key| key.starts_with(ACTIVE_OF)) {
        match key[ACTIVE_OF.len()..].parse::<MemberId>() {
            Ok(member) => {
                let active = active(view, key);
                workspace.active_of.insert(member, active);
            }
            Err(_) => view.malformed.push(key.clone()),
        }
    }
    for (key, mut fields) in view.entries(PROJECTS) {
        let path = format!("{}/{key}", PROJECTS.key);
        let Ok(id) = key.parse::<ProjectId>() else {
            view.malformed.push(path);
            continue;
        };
        let project = Project {
            name: view.string(&mut fields, "name", &path).unwrap_or_default(),
            created_at: view.time(&mut fields, "created_at", &path),
            archived: view
                .boolean(&mut fields, "archived", &path)
                .unwrap_or(false),
            deleted_at: view.time(&mut fields, "deleted_at", &path),
        };
        workspace.projects.insert(id, project);
    }
    let settings = view.values(SETTINGS).into_iter();
    workspace.settings = settings
        .map(|(name, field)| (name, field.to_json()))
        .collect();
    workspace.integrations = view.keys(INTEGRATIONS);
    (workspace.conflicts, workspace.malformed) = view.finish();
    workspace
}

fn active(view: &mut View<'_>, key: &str) -> ActiveProject {
    let mut candidates = Vec::new();
    for field in view.all_root(key) {
        match field.as_str().map(str::parse) {
            Some(Ok(project)) => candidates.push(project),
            _ if field.to_json().is_null() => {}
            _ => view.malformed.push(key.to_owned()),
        }
    }
    candidates.sort_unstable();
    candidates.dedup();
    match candidates.as_slice() {
        [] => ActiveProject::None,
        [project] => ActiveProject::One { project: *project },
        _ => ActiveProject::Ambiguous { candidates },
    }
}

#[cfg(test)]
mod tests;
