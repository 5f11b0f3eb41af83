//! Deleting meetings and bringing them back.
//!
//! A deletion is a change of the meeting that says which versions of its transcript pages were seen.
//! It has effect as long as there is nothing that whoever deleted it had not seen: what somebody wrote
//! meanwhile, in the meeting or in a page, keeps the meeting, and the deletion is shown beside it.

use std::collections::BTreeMap;

use reconvene_core::feed::heads_digest;
use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_core::storage::StoreRead;
use reconvene_core::stored;
use reconvene_model::index::MeetingRow;
use reconvene_model::meeting::Deletion;
use reconvene_model::{Document, MEETING};

use crate::replica::{EditMode, Shared};
use crate::{Error, MeetingView, Meetings};

/// How often a meeting is looked at again that others change while it is being deleted.
const DELETE_ATTEMPTS: u32 = 8;

impl Meetings {
    /// Deletes a meeting as far as it is here: it is listed no more, and nobody edits it until it is
    /// restored. Resolves when that is durable. Deleting a deleted meeting changes nothing.
    ///
    /// # Errors
    /// If there is no such meeting, the edit fails, or others change the meeting faster than it can be
    /// looked at.
    pub async fn delete(&self, id: DocumentId) -> Result<(), Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let view = self.show(id).await?;
            match self.delete_shown(&view).await {
                Err(Error::MeetingChanged { .. }) if attempts < DELETE_ATTEMPTS => {}
                outcome => return outcome,
            }
        }
    }

    /// Deletes a meeting if it still is what somebody saw: `version` is that of the
    /// [`MeetingView`] that was shown to them. Otherwise like [`Self::delete`].
    ///
    /// # Errors
    /// If the meeting or one of its pages changed since; then nothing is deleted. If there is no such
    /// meeting, or the edit fails.
    pub async fn delete_seen(&self, id: DocumentId, version: &str) -> Result<(), Error> {
        let view = self.show(id).await?;
        if view.version != version {
            return Err(Error::MeetingChanged { id });
        }
        self.delete_shown(&view).await
    }

    /// Deletes what a view shows: what came since, in the meeting or in a page, keeps the meeting.
    async fn delete_shown(&self, view: &MeetingView) -> Result<(), Error> {
        let workspace = self.replica.current_workspace()?;
        if let Some(deletion) = view.meeting.deletion.clone() {
            let read = move |shared: &Shared| has_effect(&shared.reader, workspace, &deletion);
            if self.replica.blocking(read).await? {
                return Ok(());
            }
        }
        // A page that has not arrived was not seen, in no version.
        let version = |page: &DocumentId| view.versions.get(page).map(ToString::to_string);
        let pages = view.meeting.pages.keys();
        let pages: BTreeMap<_, _> = pages
            .map(|page| (*page, version(page).unwrap_or_default()))
            .collect();
        let mut mode = EditMode::deleted_too();
        if let Some(shown) = view.versions.get(&view.id) {
            mode = mode.only_if(*shown);
        }
        self.replica
            .edit_document(workspace, view.id, mode, move |editor| {
                editor.meeting()?.delete(&pages)
            })
            .await
    }

    /// Brings a deleted meeting back; resolves when that is durable. Of a meeting that is not deleted
    /// it settles what somebody's deletion without effect left behind.
    ///
    /// # Errors
    /// If there is no such meeting, or the edit fails.
    pub async fn restore(&self, id: DocumentId) -> Result<(), Error> {
        let workspace = self.replica.current_workspace()?;
        self.replica
            .edit_document(workspace, id, EditMode::deleted_too(), |editor| {
                editor.meeting()?.restore()
            })
            .await
    }
}

/// Whether a meeting is deleted, by its row.
pub(crate) fn is_deleted(
    reader: &impl StoreRead,
    workspace: WorkspaceId,
    row: &MeetingRow,
) -> Result<bool, Error> {
    match &row.deletion {
        Some(deletion) => has_effect(reader, workspace, deletion),
        None => Ok(false),
    }
}

/// Fails for a meeting that is deleted.
pub(crate) fn check_living(
    reader: &impl StoreRead,
    workspace: WorkspaceId,
    id: DocumentId,
    document: &Document,
) -> Result<(), Error> {
    if document.kind() != MEETING {
        return Ok(());
    }
    match document.meeting_deletion()? {
        Some(deletion) if has_effect(reader, workspace, &deletion)? => {
            Err(Error::MeetingDeleted { id })
        }
        _ => Ok(()),
    }
}

fn has_effect(
    reader: &impl StoreRead,
    workspace: WorkspaceId,
    deletion: &Deletion,
) -> Result<bool, Error> {
    if !deletion.saw_all {
        return Ok(false);
    }
    for (page, seen) in &deletion.pages {
        // A page that is not here cannot tell more than was seen.
        let stored = version_of(reader, workspace, *page)?;
        if stored.is_some_and(|stored| stored != *seen) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The version of a document as its stored heads have it; `None` if nothing of it is stored.
fn version_of(
    reader: &impl StoreRead,
    workspace: WorkspaceId,
    document: DocumentId,
) -> Result<Option<String>, Error> {
    let head = stored::head(reader, &workspace, &document)?;
    Ok(head.map(|row| heads_digest(&row.heads).to_string()))
}
