//! Rows of the derived index: what lists show, without loading a document.
//!
//! A row follows from its document alone and can be rebuilt at any time; a row of an unknown version
//! is therefore not an error to anyone but a row to be rebuilt.

use std::collections::BTreeMap;

use reconvene_core::feed::heads_digest;
use reconvene_core::ids::{DocumentId, DocumentKind, MemberId};
use reconvene_core::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::document::{Document, ReadError};
use crate::entry::Entry;
use crate::genesis::{COMMAND, ENTRY, INTEGRATION, MEETING, WORKSPACE};
use crate::integration::Integration;
use crate::meeting::{Deletion, State, headline};
use crate::workspace::{ActiveProject, Project, ProjectId, Workspace};

/// The version byte that leads an encoded row.
pub const ROW_VERSION: u8 = 1;

/// The row of one document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum IndexRow {
    /// A meeting's.
    Meeting(MeetingRow),
    /// The workspace document's: its projects.
    Workspace(WorkspaceRow),
    /// A command's.
    Command(Box<CommandRow>),
    /// An inbox entry's.
    Entry(Box<EntryRow>),
    /// An integration's.
    Integration(Box<IntegrationRow>),
}

/// What lists show of a command: all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandRow {
    /// The command.
    pub id: DocumentId,
    /// What it says.
    #[serde(flatten)]
    pub command: Command,
}

/// What lists show of an inbox entry: all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryRow {
    /// The entry.
    pub id: DocumentId,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
}

/// What lists show of an integration: all of it but its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntegrationRow {
    /// The integration.
    pub id: DocumentId,
    /// What it says.
    #[serde(flatten)]
    pub integration: Integration,
}

/// What lists show of a meeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeetingRow {
    /// The meeting.
    pub id: DocumentId,
    /// Its title.
    pub title: String,
    /// The furthest state it has reached.
    pub state: Option<State>,
    /// The project it is filed under.
    pub project: Option<ProjectId>,
    /// When it was created.
    pub created_at: Option<WallTime>,
    /// When its latest change says it was made, to the second.
    pub updated_at: Option<WallTime>,
    /// Which version this is of: 32 hexadecimal digits that are others after every change.
    #[serde(default)]
    pub version: String,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// How many took part.
    pub participants: usize,
    /// How many transcript pages it lists.
    pub segment_pages: usize,
    /// Whether something went wrong with it.
    pub has_error: bool,
    /// Whether a register of it holds several values.
    pub has_conflicts: bool,
    /// That somebody deleted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
}

/// What lists show of a workspace document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRow {
    /// The workspace's name, if it was given one.
    pub name: Option<String>,
    /// Its projects, in the order of their ids.
    pub projects: Vec<ProjectRow>,
    /// Which of them is active for those who never chose.
    pub active: ActiveProject,
    /// Which of them is active for each member who chose.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub active_of: BTreeMap<MemberId, ActiveProject>,
    /// The settings that are strings, among them what [`crate::resolve_project`] needs.
    pub settings: BTreeMap<String, String>,
}

/// What lists show of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRow {
    /// The project.
    pub id: ProjectId,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created_at: Option<WallTime>,
    /// Whether it is out of use.
    pub archived: bool,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<WallTime>,
    /// Whether it is active, alone or among several; in an index row, for those who never chose.
    pub active: bool,
}

/// Bytes that are not a row of this version; the row is to be rebuilt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The row is empty or of another version.
    #[error("the row is of another version than {ROW_VERSION}")]
    Version,
    /// The row is damaged.
    #[error("the row is not readable")]
    Damaged(#[from] serde_json::Error),
}

/// The kinds whose documents have a row.
pub const INDEXED: [DocumentKind; 5] = [WORKSPACE, MEETING, COMMAND, ENTRY, INTEGRATION];

/// Whether documents of a kind have a row.
pub fn is_indexed(kind: DocumentKind) -> bool {
    INDEXED.contains(&kind)
}

/// The row of a document; `None` for a kind without rows.
pub fn index_row(id: DocumentId, document: &Document) -> Result<Option<IndexRow>, ReadError> {
    match document.kind() {
        MEETING => meeting_row(id, document).map(|row| Some(IndexRow::Meeting(row))),
        WORKSPACE => workspace_row(document).map(|row| Some(IndexRow::Workspace(row))),
        COMMAND => {
            let command = document.command()?;
            Ok(Some(IndexRow::Command(Box::new(CommandRow {
                id,
                command,
            }))))
        }
        ENTRY => {
            let entry = document.entry()?;
            Ok(Some(IndexRow::Entry(Box::new(EntryRow { id, entry }))))
        }
        INTEGRATION => {
            let integration = document.integration()?;
            let row = Box::new(IntegrationRow { id, integration });
            Ok(Some(IndexRow::Integration(row)))
        }
        _ => Ok(None),
    }
}

impl IndexRow {
    /// The row as it is stored: a version byte, then JSON.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![ROW_VERSION];
        serde_json::to_writer(&mut bytes, self)
            .expect("a row has string keys only and a vector takes every write");
        bytes
    }

    /// Reads a stored row.
    pub fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        match bytes.split_first() {
            Some((&ROW_VERSION, body)) => Ok(serde_json::from_slice(body)?),
            _ => Err(RowError::Version),
        }
    }
}

impl WorkspaceRow {
    /// Its projects as a member sees them: those are active that this member chose.
    pub fn projects_for(&self, member: &MemberId) -> Vec<ProjectRow> {
        let active = self.active_of.get(member).unwrap_or(&self.active);
        let projects = self.projects.iter().map(|row| ProjectRow {
            active: active.includes(&row.id),
            ..row.clone()
        });
        projects.collect()
    }

    /// The workspace as far as its row tells it: enough for [`crate::resolve_project`].
    pub fn to_workspace(&self) -> Workspace {
        let projects = self.projects.iter().map(|row| {
            let project = Project {
                name: row.name.clone(),
                created_at: row.created_at,
                archived: row.archived,
                deleted_at: row.deleted_at,
            };
            (row.id, project)
        });
        let settings = self.settings.iter();
        Workspace {
            name: self.name.clone(),
            projects: projects.collect(),
            active: self.active.clone(),
            active_of: self.active_of.clone(),
            settings: settings
                .map(|(name, value)| (name.clone(), value.as_str().into()))
                .collect(),
            ..Workspace::default()
        }
    }
}

fn meeting_row(id: DocumentId, document: &Document) -> Result<MeetingRow, ReadError> {
    let headline = document.read(MEETING, headline)?;
    Ok(MeetingRow {
        id,
        title: headline.title,
        state: headline.state,
        project: headline.project,
        created_at: headline.created_at,
        updated_at: document.updated_at(),
        version: heads_digest(&document.heads()).to_string(),
        tags: headline.tags,
        participants: headline.participants,
        segment_pages: headline.pages,
        has_error: headline.has_error,
        has_conflicts: headline.has_conflicts,
        deletion: headline.deletion,
    })
}

fn workspace_row(document: &Document) -> Result<WorkspaceRow, ReadError> {
    let workspace = document.workspace()?;
    let projects = workspace.projects.iter().map(|(id, project)| ProjectRow {
        id: *id,
        name: project.name.clone(),
        created_at: project.created_at,
        archived: project.archived,
        deleted_at: project.deleted_at,
        active: workspace.active.includes(id),
    });
    let settings = workspace.settings.iter();
    Ok(WorkspaceRow {
        name: workspace.name.clone(),
        projects: projects.collect(),
        active: workspace.active.clone(),
        active_of: workspace.active_of.clone(),
        settings: settings
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

#[cfg(test)]
mod tests;
