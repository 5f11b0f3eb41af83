//! Purging: what was deleted long enough ago is let go for good, by whoever has the last word on its
//! workspace. That is its server; for a workspace that no server has, this device.

use std::sync::Weak;
use std::time::Duration;

use reconvene_core::engine::Purge;
use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_core::keys::KeyRange;
use reconvene_core::limits::PURGE_DOCUMENTS_MAX;
use reconvene_core::storage::{Direction, Scan, StoreRead as _};
use reconvene_core::time::WallTime;
use reconvene_model::MEETING;
use reconvene_model::index::{CommandRow, EntryRow, IntegrationRow};
use serde::Serialize;

use crate::clock::wall_now;
use crate::deletion::is_deleted;
use crate::limits::{DELETED_KEPT, ENDED_KEPT, PURGE_EVERY, PURGE_INDEX_WAIT};
use crate::meetings::meeting_row;
use crate::replica::{Shared, request_id};
use crate::rows;
use crate::{Error, Replica, Role};

/// Index rows looked at at a time.
const PAGE_ROWS: usize = 1024;

/// What a purge came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PurgeReport {
    /// Meetings that are gone for good.
    pub meetings: u64,
    /// Documents that went with them, they and their transcript pages.
    pub documents: u64,
}

impl Replica {
    /// Purges every meeting that was deleted at least so long ago, with its transcript pages, in the
    /// workspaces that this store has the last word on: all of a server's, and those of a device that no
    /// server has. Nothing of them is kept but that they were; other devices follow when they sync.
    ///
    /// What was deleted elsewhere counts from when this store holds it: the index is waited for first,
    /// [`PURGE_INDEX_WAIT`] at most.
    ///
    /// Cancel-safe: meetings purged until then are purged.
    ///
    /// # Errors
    /// If this value is used on a workspace that a server has the last word on, the index does not get
    /// to what is stored, or the store fails.
    pub async fn purge(&self, deleted_for: Duration) -> Result<PurgeReport, Error> {
        let workspaces: Vec<_> = match self.scope() {
            Some(workspace) if has_last_word(&self.shared, &workspace) => vec![workspace],
            Some(_) => {
                let what = "the server of the workspace purges it, and this device follows";
                return Err(Error::BadInput(what.to_owned()));
            }
            None => {
                let known = self.workspaces().await?.into_iter().map(|known| known.id);
                known.filter(|id| has_last_word(&self.shared, id)).collect()
            }
        };
        self.wait_for_index(PURGE_INDEX_WAIT).await?;
        let mut report = PurgeReport::default();
        for workspace in workspaces {
            purge_workspace(self, workspace, deleted_for, &mut report).await?;
            purge_ended(self, workspace, ENDED_KEPT).await?;
        }
        Ok(report)
    }
}

fn has_last_word(shared: &Shared, workspace: &WorkspaceId) -> bool {
    shared.role == Role::Server || !shared.has_server(workspace)
}

async fn purge_workspace(
    replica: &Replica,
    workspace: WorkspaceId,
    deleted_for: Duration,
    report: &mut PurgeReport,
) -> Result<(), Error> {
    let kept_ms = i64::try_from(deleted_for.as_millis()).unwrap_or(i64::MAX);
    let before = WallTime::from_millis(wall_now().as_millis().saturating_sub(kept_ms));
    let due = replica
        .blocking(move |shared| {
            shared.noting_damage(workspace, find_due(shared, workspace, before))
        })
        .await?;
    for documents in due {
        report.meetings += 1;
        for documents in documents.chunks(PURGE_DOCUMENTS_MAX) {
            let purge = Purge {
                request: request_id(),
                workspace,
                documents: documents.to_vec(),
            };
            report.documents += replica.shared.driver.purge(purge).await?;
        }
    }
    Ok(())
}

/// Purges the commands that ended, the inbox entries that were resolved and the integrations that were
/// removed at least so long ago. What is open stays, however old.
pub(crate) async fn purge_ended(
    replica: &Replica,
    workspace: WorkspaceId,
    ended_for: Duration,
) -> Result<(), Error> {
    let kept_ms = i64::try_from(ended_for.as_millis()).unwrap_or(i64::MAX);
    let before = WallTime::from_millis(wall_now().as_millis().saturating_sub(kept_ms));
    let is_old = move |at: Option<WallTime>| at.is_some_and(|at| at <= before);
    let due = replica.blocking(move |shared| {
        let reader = &shared.reader;
        let mut due = Vec::new();
        let ended = |row: &CommandRow| {
            let outcome = row.command.outcome.as_ref();
            outcome.is_some_and(|outcome| is_old(outcome.at))
        };
        let rows = rows::scan(reader, workspace, ended)?.into_iter();
        due.extend(rows.map(|row| row.id));
        let resolved = |row: &EntryRow| {
            let resolved = row.entry.resolved.as_ref();
            resolved.is_some_and(|resolved| is_old(resolved.at))
        };
        let rows = rows::scan(reader, workspace, resolved)?.into_iter();
        due.extend(rows.map(|row| row.id));
        let removed = |row: &IntegrationRow| is_old(row.integration.removed_at);
        let rows = rows::scan(reader, workspace, removed)?.into_iter();
        due.extend(rows.map(|row| row.id));
        Ok(due)
    });
    for documents in due.await?.chunks(PURGE_DOCUMENTS_MAX) {
        let purge = Purge {
            request: request_id(),
            workspace,
            documents: documents.to_vec(),
        };
        replica.shared.driver.purge(purge).await?;
    }
    Ok(())
}

/// The meetings that were deleted before a moment, each with its pages.
fn find_due(
    shared: &Shared,
    workspace: WorkspaceId,
    before: WallTime,
) -> Result<Vec<Vec<DocumentId>>, Error> {
    let mut due = Vec::new();
    let mut range = KeyRange::index(&workspace, MEETING);
    loop {
        let rows = shared.reader.scan(&Scan {
            range: range.clone(),
            direction: Direction::Ascending,
            rows_max: PAGE_ROWS,
            bytes_max: usize::MAX,
        })?;
        for (_, value) in &rows.rows {
            let Some(row) = meeting_row(value) else {
                continue;
            };
            let Some(deletion) = &row.deletion else {
                continue;
            };
            let is_old = deletion.at.is_some_and(|at| at <= before);
            if is_old && is_deleted(&shared.reader, workspace, &row)? {
                // The pages first: a meeting that is gone lists them no more.
                let pages = deletion.pages.keys().copied();
                due.push(pages.chain([row.id]).collect());
            }
        }
        match rows.rows.last().filter(|_| rows.more) {
            Some((last, _)) => range = range.after(last),
            None => return Ok(due),
        }
    }
}

/// Purges what is due now and then, for as long as the replica is open.
pub(crate) async fn run(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(PURGE_EVERY).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let replica = Replica::of(shared);
        match replica.purge(DELETED_KEPT).await {
            Ok(report) if report == PurgeReport::default() => {}
            Ok(report) => tracing::info!(meetings = report.meetings, "deleted meetings are purged"),
            Err(error) => tracing::warn!(%error, "deleted meetings were not purged"),
        }
    }
}
