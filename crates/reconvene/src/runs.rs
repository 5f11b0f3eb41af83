//! Sync runs: what became of bringing an integration and what it is elsewhere together.
//!
//! A run is a record of its integration's document, so a device is pushed to like for anything else. A
//! result is kept for a while after the end; then a status says `not_found` and why, truthfully for
//! ever: the server knows the ids it issued. That is a value of the status and no error.

use std::time::Duration;

use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_core::time::WallTime;
use reconvene_model::index::{CommandRow, IntegrationRow};
use reconvene_model::{Ask, Run, RunId, RunState, derive_document_id};
use serde::Serialize;
use tokio::time::Instant;

use crate::clock::wall_now;
use crate::commands::Commands;
use crate::limits::{RUN_POLL_MAX, RUN_POLL_MIN};
use crate::mutants::{self, Mutant};
use crate::query::Subscription;
use crate::{Error, Replica};

pub(crate) mod key;

/// The sync runs of this store's workspaces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runs {
    replica: Replica,
}

/// Where a run stands, as far as is known here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunStatus {
    /// The run.
    pub id: RunId,
    /// Where it stands.
    pub status: RunStanding,
    /// Why nothing is known of it; with [`RunStanding::NotFound`] and no other.
    pub not_found_reason: Option<NotFoundReason>,
    /// The workspace of its integration.
    pub workspace: Option<WorkspaceId>,
    /// Its integration.
    pub integration: Option<DocumentId>,
    /// Until when its result is kept; `None` while it goes on.
    pub expires_at: Option<WallTime>,
    /// What else it says, while it is kept.
    pub run: Option<Run>,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStanding {
    /// It goes on, or goes on as soon as the server is up.
    Running,
    /// It ended well.
    Succeeded,
    /// It ended, and something went wrong.
    Failed,
    /// It was ended because somebody wanted that.
    Cancelled,
    /// Nothing is kept of it; [`RunStatus::not_found_reason`] says why.
    NotFound,
    /// It is not here, and only the server can tell why; it has not answered.
    Unknown,
}

/// Why nothing is known of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotFoundReason {
    /// There was one, and what became of it is not kept any more.
    Expired,
    /// The server never issued this id.
    NeverExisted,
}

impl RunStatus {
    fn of(run: RunId, found: Option<(WorkspaceId, DocumentId, Run)>, now: WallTime) -> Self {
        let unknown = Self {
            id: run,
            status: RunStanding::Unknown,
            not_found_reason: None,
            workspace: None,
            integration: None,
            expires_at: None,
            run: None,
        };
        let Some((workspace, integration, found)) = found else {
            return unknown;
        };
        let known = Self {
            workspace: Some(workspace),
            integration: Some(integration),
            expires_at: found.expires_at,
            ..unknown
        };
        // What has expired is no more, also where the server has not been able to say so.
        let is_over = found.expires_at.is_some_and(|at| at <= now);
        if is_over && !mutants::is(Mutant::KeepsRuns) {
            return known.not_found(NotFoundReason::Expired);
        }
        Self {
            status: match found.state {
                RunState::Running => RunStanding::Running,
                RunState::Succeeded => RunStanding::Succeeded,
                RunState::Failed => RunStanding::Failed,
                RunState::Cancelled => RunStanding::Cancelled,
            },
            run: Some(found),
            ..known
        }
    }

    fn not_found(self, reason: NotFoundReason) -> Self {
        Self {
            status: RunStanding::NotFound,
            not_found_reason: Some(reason),
            run: None,
            ..self
        }
    }

    /// Whether nothing about it will change any more but that it expires.
    pub fn has_ended(&self) -> bool {
        !matches!(self.status, RunStanding::Running | RunStanding::Unknown)
    }
}

impl Replica {
    /// The sync runs of this store's workspaces.
    pub fn runs(&self) -> Runs {
        Runs {
            replica: self.clone(),
        }
    }
}

impl Runs {
    /// Lists the runs that are kept, of the current workspace, the latest first. Loads no document.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self) -> Result<Vec<RunStatus>, Error> {
        let workspace = self.replica.current_workspace()?;
        let rows: Vec<IntegrationRow> = self.replica.rows(workspace, |_| true).await?;
        let now = wall_now();
        let mut runs = Vec::new();
        for row in rows {
            for (id, run) in row.integration.runs {
                runs.push(RunStatus::of(id, Some((workspace, row.id, run)), now));
            }
        }
        runs.retain(|run| run.status != RunStanding::NotFound);
        runs.sort_by_key(|run| std::cmp::Reverse(run.id));
        Ok(runs)
    }

    /// Where a run stands as far as is known here, at once. On a device a run that is not here is
    /// [`RunStanding::Unknown`] unless the server was asked before: [`Self::find`] asks.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn status(&self, run: RunId) -> Result<RunStatus, Error> {
        for known in self.replica.workspaces().await? {
            let found = self.find_in(known.id, run).await?;
            if found.is_some() {
                return Ok(RunStatus::of(run, found, wall_now()));
            }
        }
        let unknown = RunStatus::of(run, None, wall_now());
        if let Some(issued) = self.replica.shared.issued(run) {
            return Ok(unknown.not_found(reason(issued)));
        }
        // What the server said once of a run that it does not have stays so.
        let workspace = self.replica.current_workspace()?;
        let asked = self.replica.read_row(workspace, question(run)).await;
        match asked {
            Ok(row) => Ok(answered(unknown, &row)),
            Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => Ok(unknown),
            Err(error) => Err(error),
        }
    }

    /// Where a run stands; what is not here the server is asked for, by a command, for so long. If it
    /// does not answer in time the status is [`RunStanding::Unknown`]; the question stays in the outbox.
    /// The links are the caller's business.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn find(&self, run: RunId, timeout: Duration) -> Result<RunStatus, Error> {
        let status = self.status(run).await?;
        if status.status != RunStanding::Unknown {
            return Ok(status);
        }
        let commands = self.replica.commands();
        let ask = Ask::FindRun { run };
        let mut row = commands.issue(question(run), &ask).await?;
        if row.command.outcome.is_some() {
            // It was found then, and is not here now: that is another question.
            row = commands.issue(Commands::new_id(), &ask).await?;
        }
        let asked = Instant::now();
        let row = match commands.ended(row.id, timeout).await {
            Ok(row) => row,
            Err(Error::Timeout { .. }) => return Ok(status),
            Err(error) => return Err(error),
        };
        let answer = answered(status, &row);
        if answer.status != RunStanding::Unknown {
            return Ok(answer);
        }
        // It is there: what it says comes with its integration.
        let mut watch = self.watch(run)?;
        let rest = timeout.saturating_sub(asked.elapsed());
        let found = async {
            loop {
                let status = watch.next().await?;
                if status.status != RunStanding::Unknown {
                    return Ok(status);
                }
            }
        };
        match tokio::time::timeout(rest, found).await {
            Ok(found) => found,
            Err(_) => self.status(run).await,
        }
    }

    /// Follows a run: its status now, and again whenever that changes, the last time when it has
    /// expired. It is pushed to, and looks now and then all the same.
    ///
    /// # Errors
    /// If the replica is closed.
    pub fn watch(&self, run: RunId) -> Result<RunWatch, Error> {
        let workspace = self.replica.current_workspace()?;
        let has_it = move |row: &IntegrationRow| row.integration.runs.contains_key(&run);
        Ok(RunWatch {
            runs: self.clone(),
            run,
            pushed: self.replica.subscribe_rows(workspace, has_it)?,
            told: None,
            wait: RUN_POLL_MIN,
        })
    }

    async fn find_in(
        &self,
        workspace: WorkspaceId,
        run: RunId,
    ) -> Result<Option<(WorkspaceId, DocumentId, Run)>, Error> {
        let rows = self.replica.rows(workspace, move |row: &IntegrationRow| {
            row.integration.runs.contains_key(&run)
        });
        let row = rows.await?.pop();
        Ok(row.and_then(|mut row| {
            let found = row.integration.runs.remove(&run)?;
            Some((workspace, row.id, found))
        }))
    }
}

/// A run that is followed. Dropping it ends that.
#[derive(Debug)]
pub struct RunWatch {
    runs: Runs,
    run: RunId,
    pushed: Subscription<IntegrationRow>,
    told: Option<RunStatus>,
    /// How long to wait for a push before looking.
    wait: Duration,
}

impl RunWatch {
    /// The run's status, once it is another than was told last. Dropping this midway loses nothing.
    ///
    /// # Errors
    /// [`Error::Closed`] is the end. After any other error the next call tries again.
    pub async fn next(&mut self) -> Result<RunStatus, Error> {
        loop {
            let status = self.runs.status(self.run).await?;
            if self.told.as_ref() != Some(&status) {
                self.told = Some(status.clone());
                self.wait = RUN_POLL_MIN;
                return Ok(status);
            }
            // At its end a result is gone without anybody's doing.
            let left = status.expires_at.map_or(RUN_POLL_MAX, |at| {
                let left = at.as_millis().saturating_sub(wall_now().as_millis());
                Duration::from_millis(u64::try_from(left).unwrap_or(0).saturating_add(1))
            });
            let left = match status.status {
                RunStanding::NotFound => RUN_POLL_MAX,
                _ => left,
            };
            match tokio::time::timeout(self.wait.min(left), self.pushed.next()).await {
                Ok(Err(error)) => return Err(error),
                Ok(Ok(_)) => self.wait = RUN_POLL_MIN,
                Err(_) => self.wait = (self.wait * 2).min(RUN_POLL_MAX),
            }
        }
    }
}

/// What the server's answer to the question about a run makes of its status.
fn answered(status: RunStatus, row: &CommandRow) -> RunStatus {
    let outcome = row.command.outcome.as_ref();
    let said = outcome.and_then(|outcome| outcome.result.get("status"));
    match said.map(String::as_str) {
        Some("expired") => status.not_found(NotFoundReason::Expired),
        Some("never_existed") => status.not_found(NotFoundReason::NeverExisted),
        _ => status,
    }
}

fn reason(issued: bool) -> NotFoundReason {
    match issued {
        true => NotFoundReason::Expired,
        false => NotFoundReason::NeverExisted,
    }
}

/// The command that asks about a run: the same from every device.
fn question(run: RunId) -> DocumentId {
    derive_document_id("reconvene/find-run/1", &[run.as_bytes()])
}
