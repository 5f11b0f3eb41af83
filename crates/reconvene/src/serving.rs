//! What a server's executor needs of its replica: the commands that are due, edits that become durable
//! together with an outcome, the inboxes of members, and ids of runs.
//!
//! It decides nothing about commands; it makes what an executor decides durable exactly once.

use std::collections::{BTreeSet, VecDeque};

use reconvene_core::feed::FeedPoint;
use reconvene_core::ids::{DocumentId, FeedSeq, MemberId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::{FeedHeadRow, FeedRow, WorkspaceRow};
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_model::entry::CAUSE_GONE;
use reconvene_model::index::{CommandRow, EntryRow, IndexRow, IntegrationRow};
use reconvene_model::integration::IntegrationEditor;
use reconvene_model::meeting::MeetingEditor;
use reconvene_model::{
    COMMAND, Command, ENTRY, EntryDraft, INTEGRATION, Integration, MEETING, Meeting, ModelError,
    Outcome, RunId,
};

use crate::clock::wall_now;
use crate::documents::decode;
use crate::limits::CHANGED_ENTRIES_MAX;
use crate::replica::{EditMode, Shared, known_workspaces};
use crate::rows;
use crate::subscriptions::{Interest, Marked, Registration, RowPlace};
use crate::together::Part;
use crate::{Error, Replica, Role};

/// A replica as its executor uses it. Only a server's has one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Serving {
    replica: Replica,
}

/// Something for an executor to look at.
#[derive(Clone, Debug)]
pub enum Due {
    /// A command without an outcome.
    Command(WorkspaceId, Box<CommandRow>),
    /// An integration that changed, or was there at the start; removed ones too.
    Integration(WorkspaceId, Box<IntegrationRow>),
}

/// What taking a command up came to.
#[derive(Clone, Debug)]
pub enum Taken {
    /// It is accepted, now or before a restart: it is to be carried out.
    Accepted(Box<Command>),
    /// It has ended, be it just now because it was cancelled in time.
    Ended,
}

impl Replica {
    /// What an executor needs of this replica.
    ///
    /// # Errors
    /// If this replica is no server's.
    pub fn serving(&self) -> Result<Serving, Error> {
        match self.shared.role {
            Role::Server => Ok(Serving {
                replica: self.clone(),
            }),
            Role::Device => Err(Error::BadInput(
                "only a server carries out commands".to_owned(),
            )),
        }
    }
}

impl Shared {
    /// Whether this server issued a run; `None` where no runs are issued.
    pub(crate) fn issued(&self, run: RunId) -> Option<bool> {
        self.run_key.as_ref().map(|key| key.issued(run))
    }
}

impl Serving {
    /// What is due: first everything there is, in every workspace, then what changes.
    ///
    /// # Errors
    /// If the replica is closed.
    pub fn due(&self) -> Result<DueFeed, Error> {
        let interest = Interest {
            workspace: None,
            kinds: &[COMMAND, INTEGRATION],
        };
        Ok(DueFeed {
            registration: self.replica.shared.subscriptions.register(interest)?,
            replica: self.replica.clone(),
            everything: true,
            marked: BTreeSet::new(),
            found: VecDeque::new(),
        })
    }

    /// Takes a command up: from then on it can no more be cancelled. One that was cancelled before gets
    /// its outcome instead. Resolves when that is durable.
    ///
    /// # Errors
    /// If there is no such command, or the store fails.
    pub async fn take(&self, workspace: WorkspaceId, id: DocumentId) -> Result<Taken, Error> {
        let taken = self
            .replica
            .edit_document(workspace, id, EditMode::default(), |editor| {
                let mut command = editor.command()?;
                if command.has_outcome()? {
                    return Ok(false);
                }
                if command.is_cancelled()? && !command.is_accepted()? {
                    command.finish(&Outcome::cancelled())?;
                    return Ok(false);
                }
                command.accept()?;
                Ok(true)
            })
            .await?;
        if !taken {
            return Ok(Taken::Ended);
        }
        let row: CommandRow = self.replica.read_row(workspace, id).await?;
        Ok(Taken::Accepted(Box::new(row.command)))
    }

    /// Ends a command, together with what it changes in its workspace: all of it or nothing. Resolves
    /// when it is durable. Ending one that has ended changes nothing at all, the changes included.
    ///
    /// # Errors
    /// If a change is refused, or the store fails; then the command has not ended.
    pub async fn finish(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        outcome: Outcome,
        changes: Changes,
    ) -> Result<(), Error> {
        let row: CommandRow = self.replica.read_row(workspace, id).await?;
        if row.command.outcome.is_some() {
            return Ok(());
        }
        let mut parts = changes.0;
        parts.push(Part::new(id, EditMode::default(), move |editor| {
            editor.command()?.finish(&outcome)
        }));
        self.replica.edit_together(workspace, parts).await
    }

    /// Makes changes of a workspace's documents, all of them or none; resolves when they are durable.
    ///
    /// # Errors
    /// If one is refused, or the store fails.
    pub async fn write(&self, workspace: WorkspaceId, changes: Changes) -> Result<(), Error> {
        self.replica.edit_together(workspace, changes.0).await
    }

    /// An integration with its secrets.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub async fn integration(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
    ) -> Result<Integration, Error> {
        let row: IntegrationRow = self.replica.read_row(workspace, id).await?;
        Ok(row.integration)
    }

    /// The integrations of a workspace that were not removed, without their secrets.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn integrations(&self, workspace: WorkspaceId) -> Result<Vec<IntegrationRow>, Error> {
        let is_there = |row: &IntegrationRow| row.integration.removed_at.is_none();
        self.replica.rows(workspace, is_there).await
    }

    /// A meeting; `None` if there is none of this id.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn meeting(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
    ) -> Result<Option<Meeting>, Error> {
        let read = self.replica.read_meeting(workspace, id).await;
        match read {
            Ok(meeting) => Ok(Some(meeting)),
            Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Files an entry in a member's inbox, or opens it again; resolves when that is durable. Whether
    /// there was somewhere to file it: this server may not have the member's home.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn file(&self, member: MemberId, draft: EntryDraft) -> Result<bool, Error> {
        let Some(home) = self.home_of(member).await? else {
            return Ok(false);
        };
        let (id, mode) = (draft.id(), EditMode::creating(ENTRY));
        self.replica
            .edit_document(home, id, mode, move |editor| editor.entry()?.file(&draft))
            .await?;
        Ok(true)
    }

    /// An entry of a member's inbox; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn entry(&self, member: MemberId, id: DocumentId) -> Result<Option<EntryRow>, Error> {
        let Some(home) = self.home_of(member).await? else {
            return Ok(None);
        };
        match self.replica.read_row(home, id).await {
            Ok(row) => Ok(Some(row)),
            Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Resolves an entry of a member's inbox whose cause is gone. Nothing changes if there is none, or
    /// it is resolved.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn cause_gone(&self, member: MemberId, id: DocumentId) -> Result<(), Error> {
        let open = self.entry(member, id).await?;
        if open.is_none_or(|row| row.entry.resolved.is_some()) {
            return Ok(());
        }
        let Some(home) = self.home_of(member).await? else {
            return Ok(());
        };
        self.replica
            .edit_document(home, id, EditMode::default(), |editor| {
                editor.entry()?.resolve(CAUSE_GONE)
            })
            .await
    }

    async fn home_of(&self, member: MemberId) -> Result<Option<WorkspaceId>, Error> {
        self.replica
            .blocking(move |shared| {
                for workspace in known_workspaces(&shared.reader)? {
                    let key = Key::workspace(&workspace);
                    let Some(value) = shared.reader.read(&key)? else {
                        continue;
                    };
                    if decode::<WorkspaceRow>(&key, &value)?.home_of == Some(member) {
                        return Ok(Some(workspace));
                    }
                }
                Ok(None)
            })
            .await
    }

    /// Issues the id of a run.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn mint_run(&self) -> Result<RunId, Error> {
        match &self.replica.shared.run_key {
            Some(key) => key.mint(wall_now()),
            None => Err(Error::BadInput("only a server issues runs".to_owned())),
        }
    }

    /// Whether this server ever issued a run, also with another store.
    pub fn issued(&self, run: RunId) -> bool {
        self.replica.shared.issued(run).unwrap_or(false)
    }

    /// The meetings that changed after a position in the workspace's feed, in the order in which they
    /// did, and the position after them. A position that is unknown, or another store's, is the
    /// beginning. At most [`CHANGED_ENTRIES_MAX`] entries are looked at; if there are more, the position
    /// is where they were left.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn meetings_changed(
        &self,
        workspace: WorkspaceId,
        position: Option<String>,
    ) -> Result<ChangedMeetings, Error> {
        self.replica
            .blocking(move |shared| changed(shared, workspace, position.as_deref()))
            .await
    }
}

/// Meetings that changed after a position.
#[derive(Clone, Debug)]
pub struct ChangedMeetings {
    /// Them, each once.
    pub meetings: Vec<DocumentId>,
    /// The position after them.
    pub position: String,
    /// Whether there may be more.
    pub more: bool,
}

fn changed(
    shared: &Shared,
    workspace: WorkspaceId,
    position: Option<&str>,
) -> Result<ChangedMeetings, Error> {
    let key = Key::feed_head(&workspace);
    let head = shared.reader.read(&key)?;
    let head = head.map(|value| decode::<FeedHeadRow>(&key, &value));
    let Some(FeedPoint {
        epoch, seq: end, ..
    }) = head.transpose()?.map(|head| head.point)
    else {
        return Ok(ChangedMeetings {
            meetings: Vec::new(),
            position: position.unwrap_or_default().to_owned(),
            more: false,
        });
    };
    let at = position.and_then(|position| position.split_once('/'));
    let at = at.filter(|(of, _)| *of == epoch.to_string());
    let at = at.and_then(|(_, seq)| seq.parse::<u64>().ok());
    let mut through = FeedSeq(at.filter(|seq| *seq <= end.0).unwrap_or(0));
    let range = KeyRange::feed_after(&workspace, through);
    let rows = shared
        .reader
        .scan(&Scan::ascending(range, CHANGED_ENTRIES_MAX))?;
    let mut meetings = Vec::new();
    for (key, value) in &rows.rows {
        let row: FeedRow = decode(key, value)?;
        through = key.feed_seq().unwrap_or(through);
        if row.kind == MEETING && row.purged.is_none() {
            meetings.retain(|known| *known != row.document);
            meetings.push(row.document);
        }
    }
    Ok(ChangedMeetings {
        meetings,
        position: format!("{epoch}/{}", through.0),
        more: rows.more,
    })
}

/// Changes of several documents of one workspace, each document named at most once.
#[derive(Default)]
pub struct Changes(Vec<Part>);

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Changes").field(&self.0.len()).finish()
    }
}

impl Changes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a change of an integration.
    #[must_use]
    pub fn integration(
        mut self,
        id: DocumentId,
        change: impl FnOnce(&mut IntegrationEditor<'_>) -> Result<(), ModelError> + Send + 'static,
    ) -> Self {
        let edit = move |editor: &mut reconvene_model::Editor| change(&mut editor.integration()?);
        self.0.push(Part::new(id, EditMode::default(), edit));
        self
    }

    /// With a change of a meeting.
    #[must_use]
    pub fn meeting(
        self,
        id: DocumentId,
        change: impl FnOnce(&mut MeetingEditor<'_>) -> Result<(), ModelError> + Send + 'static,
    ) -> Self {
        self.put(id, EditMode::default(), change)
    }

    /// With a change of a meeting that is made if it is not there.
    #[must_use]
    pub fn put_meeting(
        self,
        id: DocumentId,
        change: impl FnOnce(&mut MeetingEditor<'_>) -> Result<(), ModelError> + Send + 'static,
    ) -> Self {
        self.put(id, EditMode::creating(MEETING), change)
    }

    fn put(
        mut self,
        id: DocumentId,
        mode: EditMode,
        change: impl FnOnce(&mut MeetingEditor<'_>) -> Result<(), ModelError> + Send + 'static,
    ) -> Self {
        let edit = move |editor: &mut reconvene_model::Editor| change(&mut editor.meeting()?);
        self.0.push(Part::new(id, mode, edit));
        self
    }
}

/// What is due, as it comes.
pub struct DueFeed {
    registration: Registration,
    replica: Replica,
    /// Whether all rows have to be looked at.
    everything: bool,
    /// Taken from the marks and not read yet. Kept here so that a dropped [`Self::next`] loses none.
    marked: BTreeSet<RowPlace>,
    found: VecDeque<Due>,
}

impl std::fmt::Debug for DueFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DueFeed").finish_non_exhaustive()
    }
}

impl DueFeed {
    /// Waits for the next thing to look at. The same may come again. Dropping this midway loses nothing.
    ///
    /// # Errors
    /// [`Error::Closed`] is the end. After any other error the next call tries again.
    pub async fn next(&mut self) -> Result<Due, Error> {
        loop {
            if self.registration.is_closed() {
                return Err(Error::Closed);
            }
            if let Some(due) = self.found.pop_front() {
                return Ok(due);
            }
            match self.registration.take() {
                Marked::Everything => self.everything = true,
                Marked::Rows(rows) => self.marked.extend(rows),
            }
            if self.everything {
                let found = self.replica.blocking(read_everything).await?;
                self.everything = false;
                self.found.extend(found);
            } else if self.marked.is_empty() {
                self.registration.changed().await;
            } else {
                let marked = self.marked.clone();
                let found = self.replica.blocking(move |shared| read(shared, &marked));
                let found = found.await?;
                self.marked.clear();
                self.found.extend(found);
            }
        }
    }

    /// Has everything looked at again, say because something could not be carried out.
    pub fn look_again(&mut self) {
        self.everything = true;
    }
}

fn read_everything(shared: &Shared) -> Result<Vec<Due>, Error> {
    let mut found = Vec::new();
    for workspace in known_workspaces(&shared.reader)? {
        let all = rows::scan(&shared.reader, workspace, |_| true);
        let all: Vec<IntegrationRow> = shared.noting_damage(workspace, all)?;
        let all = all.into_iter();
        found.extend(all.map(|row| Due::Integration(workspace, Box::new(row))));
        let pending = |row: &CommandRow| row.command.outcome.is_none();
        let pending = rows::scan(&shared.reader, workspace, pending);
        let mut pending: Vec<CommandRow> = shared.noting_damage(workspace, pending)?;
        pending.sort_by_key(|row| (row.command.issued_at, row.id));
        let pending = pending.into_iter();
        found.extend(pending.map(|row| Due::Command(workspace, Box::new(row))));
    }
    Ok(found)
}

fn read(shared: &Shared, marked: &BTreeSet<RowPlace>) -> Result<Vec<Due>, Error> {
    let mut found = Vec::new();
    for place in marked {
        let key = Key::index(&place.workspace, place.kind, &place.document);
        let Some(value) = shared.reader.read(&key)? else {
            continue;
        };
        match IndexRow::decode(&value) {
            Ok(IndexRow::Command(row)) if row.command.outcome.is_none() => {
                found.push(Due::Command(place.workspace, row));
            }
            Ok(IndexRow::Integration(row)) => {
                found.push(Due::Integration(place.workspace, row));
            }
            // Ended, or being rebuilt.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(found)
}
