//! Meetings: adding, listing, showing, editing, importing.

use std::collections::{BTreeMap, BTreeSet};

use reconvene_core::engine::EditedDocument;
use reconvene_core::feed::{Digest, heads_digest};
use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::storage::{Direction, Scan, StoreRead as _};
use reconvene_model::export::export_missing_page;
use reconvene_model::import::{ImportContext, build_meeting};
use reconvene_model::index::{CommandRow, IndexRow, MeetingRow};
use reconvene_model::meeting::MeetingEditor;
use reconvene_model::transcript::TranscriptEditor;
use reconvene_model::{
    Ask, MEETING, Meeting, ModelError, ProjectId, Purpose, Resolution, State, TranscriptPage,
    resolve_project,
};
use reconvene_sled::SledReader;
use serde::Serialize;

use crate::clock::wall_now;
use crate::deletion::is_deleted;
use crate::delivery::{Holder, holders};
use crate::filter::Matcher;
use crate::freshness::{Freshness, freshness, freshness_of_active};
use crate::limits::{LIST_SCAN_ROWS_MAX, QUERY_BATCH_ROWS_MAX};
use crate::mutants::{self, Mutant};
use crate::replica::{EditMode, bodies, new_document_id, random};
use crate::{Error, ImportedMeeting, MeetingFilter, MeetingQuery, Replica};

/// Most meetings of one page of a list.
pub const LIST_LIMIT_MAX: usize = 1000;
/// Length of a page of a list where none is given.
pub const LIST_LIMIT_DEFAULT: usize = 50;

/// The meetings of the workspace that is current at each call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Meetings {
    pub(crate) replica: Replica,
}

/// A meeting to add.
#[derive(Clone, Debug, Default)]
pub struct NewMeeting {
    /// Its title.
    pub title: String,
    /// The project to file it under, by id or exact name; otherwise the member's active one or the
    /// workspace's default.
    pub project: Option<String>,
}

impl NewMeeting {
    /// A meeting with this title, filed under the active or default project.
    pub fn titled(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            project: None,
        }
    }
}

/// A meeting that was added, and how its project was chosen.
#[derive(Clone, Debug, Serialize)]
pub struct AddedMeeting {
    /// Its row.
    pub meeting: MeetingRow,
    /// The project it was filed under.
    pub resolved_project_id: Option<ProjectId>,
    /// The rule by which.
    pub resolution: Resolution,
}

/// Which part of a list.
#[derive(Clone, Debug)]
pub struct ListOptions {
    /// Most meetings to return; at most [`LIST_LIMIT_MAX`].
    pub limit: usize,
    /// Begin after this meeting, as given by [`MeetingPage::next`].
    pub after: Option<DocumentId>,
    /// Which meetings are wanted.
    pub filter: MeetingFilter,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            limit: LIST_LIMIT_DEFAULT,
            after: None,
            filter: MeetingFilter::default(),
        }
    }
}

/// A page of the list of meetings, the latest created first.
#[derive(Clone, Debug, Serialize)]
pub struct MeetingPage {
    /// The meetings.
    pub meetings: Vec<MeetingRow>,
    /// Where the next page begins; `None` if this was the last.
    pub next: Option<DocumentId>,
    /// How fresh the list is: the older of what is held and what is indexed.
    pub freshness: Freshness,
}

/// A meeting with its transcript.
#[derive(Clone, Debug, Serialize)]
pub struct MeetingView {
    /// The meeting's id.
    pub id: DocumentId,
    /// The meeting.
    pub meeting: Meeting,
    /// Its transcript pages in reading order.
    pub pages: Vec<PageView>,
    /// How fresh this is.
    pub freshness: Freshness,
    /// Who holds this version of the meeting.
    pub held_by: Vec<Holder>,
    /// What is shown here: another one after every change of the meeting or of a page. For
    /// [`Meetings::delete_seen`].
    pub version: String,
    /// The versions of the meeting and of the pages that are here.
    #[serde(skip)]
    pub(crate) versions: BTreeMap<DocumentId, Digest>,
}

/// One transcript page of a meeting.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum PageView {
    /// The page.
    Present {
        /// Its id.
        id: DocumentId,
        /// Its content.
        page: TranscriptPage,
    },
    /// The meeting lists a page that has not arrived.
    Missing(serde_json::Value),
}

impl Meetings {
    pub(crate) fn new(replica: Replica) -> Self {
        Self { replica }
    }

    /// Adds a meeting; resolves when it is durable.
    ///
    /// # Errors
    /// If the project named does not exist, is archived, deleted or ambiguous, or the edit fails; nothing
    /// is stored.
    pub async fn add(&self, new: NewMeeting) -> Result<AddedMeeting, Error> {
        let workspace = self.replica.current_workspace()?;
        let known = self.replica.workspace_row(workspace).await?;
        let known = known.map(|row| row.to_workspace()).unwrap_or_default();
        let member = self.replica.profile().member;
        let (mut project, resolution) = resolve_project(new.project.as_deref(), &known, &member)?;
        if let Resolution::Ambiguous { candidates } = &resolution
            && mutants::is(Mutant::SettlesProjects)
        {
            project = candidates.first().copied();
        }
        if resolution == Resolution::None && mutants::is(Mutant::ChoosesProject) {
            project = known.projects.keys().next().copied();
        }
        let id = new_document_id();
        let title = new.title;
        self.replica
            .edit_document(workspace, id, EditMode::creating(MEETING), move |editor| {
                editor.meeting()?.create(&title, project)
            })
            .await?;
        let row = self.row(workspace, id).await?;
        Ok(AddedMeeting {
            meeting: row,
            resolved_project_id: project,
            resolution,
        })
    }

    async fn row(&self, workspace: WorkspaceId, id: DocumentId) -> Result<MeetingRow, Error> {
        self.replica
            .blocking(move |shared| {
                let mut row = None;
                if let Some(value) = shared.reader.read(&Key::index(&workspace, MEETING, &id))? {
                    row = meeting_row(&value);
                }
                match row {
                    Some(row) => Ok(row),
                    // The journal's barrier came before the store's: compute what will be there.
                    None => {
                        let document = shared.documents.read(workspace, id, Purpose::Read)?;
                        match reconvene_model::index::index_row(id, &document)? {
                            Some(IndexRow::Meeting(row)) => Ok(row),
                            _ => Err(not_a_meeting(id)),
                        }
                    }
                }
            })
            .await
    }

    /// Lists meetings from the index, the latest created first. Loads no document.
    ///
    /// With a filter a page may hold fewer meetings than the limit, even none, and still name a next
    /// one: it looks at [`LIST_SCAN_ROWS_MAX`] rows at most.
    ///
    /// # Errors
    /// If the limit is zero or over [`LIST_LIMIT_MAX`], the filter cannot be met or exceeds a bound,
    /// or the store fails.
    pub async fn list(&self, options: ListOptions) -> Result<MeetingPage, Error> {
        let ListOptions {
            limit,
            after,
            filter,
        } = options;
        if limit == 0 || limit > LIST_LIMIT_MAX {
            return Err(Error::BadInput(format!(
                "the limit must be 1 to {LIST_LIMIT_MAX}"
            )));
        }
        let matcher = Matcher::new(filter)?;
        let workspace = self.replica.current_workspace()?;
        let live = self.replica.shared.driver.live(Some(workspace)).await?;
        self.replica
            .blocking(move |shared| {
                // First: rows that come into the index meanwhile may not be among those read.
                let freshness = freshness(shared, workspace, &live, true)?;
                let listed = list_rows(&shared.reader, workspace, limit, after, &matcher);
                let (meetings, next) = shared.noting_damage(workspace, listed)?;
                Ok(MeetingPage {
                    meetings,
                    next,
                    freshness,
                })
            })
            .await
    }

    /// A query that can be subscribed to: the meetings a filter wants, and what changes about that.
    pub fn query(&self, filter: MeetingFilter) -> MeetingQuery {
        MeetingQuery::new(self.replica.clone(), filter)
    }

    /// Reads a meeting with its transcript pages.
    ///
    /// # Errors
    /// If there is no such meeting, or it cannot be read.
    pub async fn show(&self, id: DocumentId) -> Result<MeetingView, Error> {
        let workspace = self.replica.current_workspace()?;
        let live = self.replica.shared.driver.live(Some(workspace)).await?;
        let mut lease = self.replica.shared.documents.lease(workspace, id).await;
        self.replica
            .blocking(move |shared| {
                let meeting =
                    shared
                        .documents
                        .load(&mut lease, Purpose::Read)
                        .and_then(|document| {
                            if document.kind() == MEETING {
                                Ok((document.meeting()?, document.heads()))
                            } else {
                                Err(not_a_meeting(id))
                            }
                        });
                shared.documents.give_back(lease);
                let (meeting, heads) = meeting.map_err(|error| match error {
                    Error::NotFound { id, .. } => Error::NotFound {
                        what: "meeting",
                        id,
                    },
                    other => other,
                })?;
                let mut versions = BTreeMap::from([(id, heads_digest(&heads))]);
                let mut shown: BTreeSet<_> = heads.into_iter().collect();
                let mut pages = Vec::new();
                for page in meeting.pages_in_order() {
                    let read = shared.documents.read(workspace, page, Purpose::Read);
                    pages.push(match read {
                        Ok(document) => {
                            let heads = document.heads();
                            versions.insert(page, heads_digest(&heads));
                            shown.extend(heads);
                            PageView::Present {
                                id: page,
                                page: document.transcript()?,
                            }
                        }
                        Err(Error::NotFound { .. }) => {
                            PageView::Missing(export_missing_page(page, id))
                        }
                        Err(error) => return Err(error),
                    });
                }
                let freshness = match meeting.state {
                    Some(State::Recording | State::Stopping) => {
                        freshness_of_active(shared, workspace, &live)?
                    }
                    _ => freshness(shared, workspace, &live, false)?,
                };
                let held_by = holders(shared, workspace, id, &live)?;
                Ok(MeetingView {
                    id,
                    meeting,
                    pages,
                    freshness,
                    held_by,
                    version: heads_digest(&shown).to_string(),
                    versions,
                })
            })
            .await
    }

    /// Edits a meeting in one transaction; resolves when the edit is durable.
    ///
    /// If the future is dropped after the closure ran, the edit may still be stored.
    ///
    /// # Errors
    /// If there is no such meeting, the closure refuses, or the store does; then nothing is stored.
    pub async fn edit<T: Send + 'static>(
        &self,
        id: DocumentId,
        edit: impl FnOnce(&mut MeetingEditor<'_>) -> Result<T, ModelError> + Send + 'static,
    ) -> Result<T, Error> {
        self.edit_with(id, false, edit).await
    }

    /// Edits a meeting like [`Self::edit`], but resolves when the edit is taken and not yet durable:
    /// for keystrokes, where losing the last moment is acceptable.
    ///
    /// # Errors
    /// As [`Self::edit`], save that a failing store shows in the next durable operation.
    pub async fn edit_buffered<T: Send + 'static>(
        &self,
        id: DocumentId,
        edit: impl FnOnce(&mut MeetingEditor<'_>) -> Result<T, ModelError> + Send + 'static,
    ) -> Result<T, Error> {
        self.edit_with(id, true, edit).await
    }

    async fn edit_with<T: Send + 'static>(
        &self,
        id: DocumentId,
        buffered: bool,
        edit: impl FnOnce(&mut MeetingEditor<'_>) -> Result<T, ModelError> + Send + 'static,
    ) -> Result<T, Error> {
        let workspace = self.replica.current_workspace()?;
        let edited = self.replica.edit_document(
            workspace,
            id,
            EditMode::buffered(buffered),
            move |editor| edit(&mut editor.meeting()?),
        );
        edited.await.map_err(|error| match error {
            Error::NotFound { id, .. } => Error::NotFound {
                what: "meeting",
                id,
            },
            other => other,
        })
    }

    /// Asks the server to have the recording of a meeting stop, on whatever device it runs: a command.
    /// The device that records sees the meeting in state `stopping`.
    ///
    /// # Errors
    /// As for [`Commands::issue`](crate::Commands::issue).
    pub async fn stop(&self, id: DocumentId) -> Result<CommandRow, Error> {
        let ask = Ask::StopRecording { meeting: id };
        let commands = self.replica.commands();
        commands.issue(crate::Commands::new_id(), &ask).await
    }

    /// Edits a transcript page in one transaction; resolves when the edit is durable.
    ///
    /// # Errors
    /// As [`Self::edit`].
    pub async fn edit_page<T: Send + 'static>(
        &self,
        page: DocumentId,
        edit: impl FnOnce(&mut TranscriptEditor<'_>) -> Result<T, ModelError> + Send + 'static,
    ) -> Result<T, Error> {
        let workspace = self.replica.current_workspace()?;
        let edited =
            self.replica
                .edit_document(workspace, page, EditMode::default(), move |editor| {
                    edit(&mut editor.transcript()?)
                });
        edited.await.map_err(|error| match error {
            Error::NotFound { id, .. } => Error::NotFound {
                what: "transcript page",
                id,
            },
            other => other,
        })
    }

    /// Adds an imported meeting with its transcript pages, all or nothing; resolves when it is
    /// durable. Importing the same again makes a new meeting.
    ///
    /// # Errors
    /// If it cannot be written or stored.
    pub async fn import(&self, imported: ImportedMeeting) -> Result<DocumentId, Error> {
        let workspace = self.replica.current_workspace()?;
        let known = self.replica.workspace_row(workspace).await?;
        let known = known.map(|row| row.to_workspace()).unwrap_or_default();
        let member = self.replica.profile().member;
        let (project, _) = resolve_project(None, &known, &member)?;
        let id = new_document_id();
        // New documents have no history: an incarnation of their own is as good as this open's.
        let incarnation: [u8; 16] = random()?;
        let (documents, rows) = self
            .replica
            .blocking(move |shared| {
                let pages: Vec<_> = (0..imported.pages()).map(|_| new_document_id()).collect();
                let context = ImportContext {
                    device: &shared.peer,
                    incarnation: &incarnation,
                    meeting: id,
                    pages: &pages,
                    project,
                    now: wall_now(),
                };
                let built = build_meeting(&imported, &context)
                    .map_err(|error| Error::BadInput(format!("{}: {error}", imported.source)))?;
                let mut documents = Vec::with_capacity(built.len());
                let mut rows = Vec::new();
                for document in built {
                    if let Some(row) = document.row {
                        let key = Key::index(&workspace, document.kind, &document.id);
                        rows.push((key, row.encode().into()));
                    }
                    documents.push(EditedDocument {
                        document: document.id,
                        kind: document.kind,
                        changes: bodies(document.changes),
                    });
                }
                Ok((documents, rows))
            })
            .await?;
        self.replica
            .add_documents(workspace, documents, rows)
            .await?;
        Ok(id)
    }

    /// Who holds the current version of a meeting or transcript page.
    ///
    /// # Errors
    /// If there is no such document or the store fails.
    pub async fn held_by(&self, id: DocumentId) -> Result<Vec<Holder>, Error> {
        let workspace = self.replica.current_workspace()?;
        let live = self.replica.shared.driver.live(Some(workspace)).await?;
        self.replica
            .blocking(move |shared| holders(shared, workspace, id, &live))
            .await
    }
}

impl Replica {
    /// A meeting as it stands here, without its pages.
    pub(crate) async fn read_meeting(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
    ) -> Result<Meeting, Error> {
        let mut lease = self.shared.documents.lease(workspace, id).await;
        self.blocking(move |shared| {
            let loaded = shared.documents.load(&mut lease, Purpose::Read);
            let meeting = loaded.and_then(|document| match document.kind() {
                MEETING => Ok(document.meeting()?),
                _ => Err(not_a_meeting(id)),
            });
            shared.documents.give_back(lease);
            meeting
        })
        .await
    }
}

pub(crate) fn not_a_meeting(id: DocumentId) -> Error {
    Error::NotFound {
        what: "meeting",
        id: id.to_string(),
    }
}

/// The rows of one page that are wanted, and the last one looked at if there are more.
fn list_rows(
    reader: &SledReader,
    workspace: WorkspaceId,
    limit: usize,
    mut after: Option<DocumentId>,
    matcher: &Matcher,
) -> Result<(Vec<MeetingRow>, Option<DocumentId>), Error> {
    let mut meetings = Vec::new();
    let mut looked = 0;
    loop {
        let mut range = KeyRange::index(&workspace, MEETING);
        if let Some(after) = after {
            range = range.before(&Key::index(&workspace, MEETING, &after));
        }
        let scan = Scan {
            range,
            direction: Direction::Descending,
            rows_max: match matcher.is_all() {
                true => limit - meetings.len(),
                false => QUERY_BATCH_ROWS_MAX,
            },
            bytes_max: usize::MAX,
        };
        let rows = reader.scan(&scan)?;
        for (at, (key, value)) in rows.rows.iter().enumerate() {
            after = key.document().or(after);
            // A row of another version is being rebuilt; it is left out until then.
            if let Some(row) = meeting_row(value)
                && matcher.matches(&row, is_deleted(reader, workspace, &row)?)
            {
                meetings.push(row);
            }
            if meetings.len() == limit && (rows.more || at + 1 < rows.rows.len()) {
                return Ok((meetings, after));
            }
        }
        looked += rows.rows.len();
        if !rows.more {
            return Ok((meetings, None));
        }
        if looked >= LIST_SCAN_ROWS_MAX {
            return Ok((meetings, after));
        }
    }
}

/// The row in a stored value; none if it is of another version.
pub(crate) fn meeting_row(value: &[u8]) -> Option<MeetingRow> {
    match IndexRow::decode(value) {
        Ok(IndexRow::Meeting(row)) => Some(row),
        _ => None,
    }
}

const _: () = assert!(LIST_LIMIT_DEFAULT <= LIST_LIMIT_MAX);
