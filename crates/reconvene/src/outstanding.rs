//! What is outstanding: commands without an outcome, open inbox entries, sync runs that are kept. Counted
//! for operators, of every workspace at once.

use std::collections::BTreeMap;

use reconvene_core::ids::WorkspaceId;
use reconvene_model::index::{CommandRow, EntryRow, IntegrationRow};
use serde::Serialize;

use crate::clock::wall_now;
use crate::replica::Shared;
use crate::rows::scan;
use crate::{Error, Replica, WorkspaceInfo};

/// What is outstanding in one workspace, as far as its index shows it. Of each kind the latest
/// [`LIST_SCAN_ROWS_MAX`](crate::limits::LIST_SCAN_ROWS_MAX) documents are looked at: where there are
/// more, a number is a least one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outstanding {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Whether it is a member's home: only there is an inbox.
    pub home: bool,
    /// Commands without an outcome: the outbox.
    pub commands: u64,
    /// Inbox entries that are open.
    pub entries: u64,
    /// Sync runs that go on, and those whose result is kept, by the name of their state. A state that
    /// none is in is left out.
    pub runs: BTreeMap<&'static str, u64>,
}

impl Replica {
    /// What is outstanding in every workspace that is stored here. Loads no document and waits for
    /// nothing: what the index does not show yet is not counted.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn outstanding(&self) -> Result<Vec<Outstanding>, Error> {
        let workspaces = self.workspaces().await?;
        self.blocking(move |shared| {
            let all = workspaces.iter();
            all.map(|one| shared.noting_damage(one.id, count(shared, one)))
                .collect()
        })
        .await
    }
}

fn count(shared: &Shared, workspace: &WorkspaceInfo) -> Result<Outstanding, Error> {
    let (id, reader) = (workspace.id, &shared.reader);
    let pending = |row: &CommandRow| row.command.outcome.is_none();
    let open = |row: &EntryRow| row.entry.resolved.is_none();
    let now = wall_now();
    let mut runs = BTreeMap::new();
    for row in scan::<IntegrationRow>(reader, id, |_| true)? {
        let kept = row.integration.runs.values();
        for run in kept.filter(|run| run.expires_at.is_none_or(|at| at > now)) {
            *runs.entry(run.state.as_str()).or_default() += 1;
        }
    }
    Ok(Outstanding {
        workspace: id,
        home: workspace.home,
        commands: scan(reader, id, pending)?.len() as u64,
        entries: scan(reader, id, open)?.len() as u64,
        runs,
    })
}
