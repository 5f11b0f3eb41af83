//! Integrations and sync runs. What only the server can do is asked for by commands of its own member,
//! the same as devices issue.

use std::time::Duration;

use reconvene::{
    Ask, CommandRow, Commands, DocumentId, Error, Outcome, OutcomeState, Replica, RunId,
    RunStanding, RunStatus,
};
use tonic::{Code, Status};

use crate::calls::{Calls, document_id};
use crate::failure::{bad_input, detailed, status};
use crate::limits::{COMMAND_WAIT_DEFAULT, COMMAND_WAIT_MAX};
use crate::services::Stop;
use crate::{convert, v1};

impl Calls {
    pub(super) async fn start_sync(
        &self,
        request: v1::StartIntegrationSyncRequest,
    ) -> Result<v1::StartIntegrationSyncResponse, Status> {
        let wait = wait(request.wait_ms)?;
        let replica = self.within(request.workspace.as_deref()).await?;
        let integration = document_id(&request.integration_id)?;
        let command = command_id(request.command_id.as_deref())?;
        check_there(&replica, integration, command).await?;
        let trigger = request.trigger.unwrap_or_else(|| "api".to_owned());
        let ask = Ask::StartIntegrationSync {
            integration,
            trigger,
        };
        let (id, outcome) = self.carry_out(&replica, command, &ask, wait).await?;
        let said = |name: &str| Some(outcome.as_ref()?.result.get(name)?.clone());
        Ok(v1::StartIntegrationSyncResponse {
            command_id: id.to_string(),
            run_id: said("run"),
            joined: said("joined").is_some(),
        })
    }

    pub(super) async fn sync_status(
        &self,
        request: v1::GetSyncStatusRequest,
    ) -> Result<v1::GetSyncStatusResponse, Status> {
        let (_, found) = self.find_run(&request.run_id).await?;
        Ok(convert::run_status(found))
    }

    pub(super) async fn end_sync(
        &self,
        request: v1::CancelSyncRequest,
    ) -> Result<v1::CancelSyncResponse, Status> {
        let wait = wait(request.wait_ms)?;
        let command = command_id(request.command_id.as_deref())?;
        let (replica, found) = self.find_run(&request.run_id).await?;
        let run = found.id;
        if found.status == RunStanding::NotFound {
            return Err(detailed(
                Code::NotFound,
                "not_found",
                format!("nothing is kept of run {run}"),
                Some("GetSyncStatus says why"),
            ));
        }
        if found.has_ended() {
            return Ok(v1::CancelSyncResponse {
                command_id: None,
                status: Some(convert::run_status(found)),
            });
        }
        let ask = Ask::CancelRun { run };
        let (id, _) = self.carry_out(&replica, command, &ask, wait).await?;
        let (_, found) = self.find_run(&request.run_id).await?;
        Ok(v1::CancelSyncResponse {
            command_id: Some(id.to_string()),
            status: Some(convert::run_status(found)),
        })
    }

    pub(super) async fn validate(
        &self,
        request: v1::ValidateIntegrationsRequest,
    ) -> Result<v1::ValidateIntegrationsResponse, Status> {
        let wait = wait(request.wait_ms)?;
        let replica = self.within(request.workspace.as_deref()).await?;
        let command = command_id(request.command_id.as_deref())?;
        let integration = match &request.integration_id {
            Some(id) => Some(document_id(id)?),
            None => None,
        };
        if let Some(integration) = integration {
            check_there(&replica, integration, command).await?;
        }
        let ask = Ask::ValidateIntegrations { integration };
        let (id, outcome) = self.carry_out(&replica, command, &ask, wait).await?;
        let mut response = v1::ValidateIntegrationsResponse {
            command_id: id.to_string(),
            done: outcome.is_some(),
            integrations: Vec::new(),
        };
        if response.done {
            let integrations = replica.integrations();
            let rows = match integration {
                Some(id) => integrations.show(id).await.map(|row| vec![row]),
                None => integrations.list().await,
            };
            let rows = rows.map_err(|error| status(&error))?;
            response.integrations = rows.into_iter().map(convert::integration).collect();
        }
        Ok(response)
    }

    /// Where a run stands, and the replica as used on its workspace. Those of a home are its member's
    /// alone.
    async fn find_run(&self, run: &str) -> Result<(Replica, RunStatus), Status> {
        let run: RunId = run.parse().map_err(|error| {
            let hint = Some("copy the id from the answer of StartIntegrationSync");
            let message = format!("`{run}` is {error}");
            detailed(Code::InvalidArgument, "bad_id", message, hint)
        })?;
        let found = self.replica.runs().status(run).await;
        let found = found.map_err(|error| status(&error))?;
        let place = found.workspace.map(|workspace| workspace.to_string());
        Ok((self.within(place.as_deref()).await?, found))
    }

    /// Issues a command, and waits so long for its outcome: `None` if there is none by then. The command
    /// is durable before the wait begins.
    async fn carry_out(
        &self,
        replica: &Replica,
        id: Option<DocumentId>,
        ask: &Ask,
        wait: Duration,
    ) -> Result<(DocumentId, Option<Outcome>), Status> {
        let commands = replica.commands();
        let id = id.unwrap_or_else(Commands::new_id);
        let issued = commands.issue(id, ask).await;
        issued.map_err(|error| status(&error))?;
        let ended = tokio::select! {
            ended = commands.ended(id, wait) => ended,
            () = self.stop.asked() => return Err(Stop::status()),
        };
        match ended {
            Ok(row) => Ok((id, done(row)?)),
            Err(Error::Timeout { .. }) => Ok((id, None)),
            Err(error) => Err(status(&error)),
        }
    }
}

/// What a command that has ended yielded, or what its end means for the call.
fn done(row: CommandRow) -> Result<Option<Outcome>, Status> {
    let Some(outcome) = row.command.outcome else {
        return Ok(None);
    };
    let code = match outcome.state {
        OutcomeState::Done => return Ok(Some(outcome)),
        OutcomeState::Refused => Code::FailedPrecondition,
        OutcomeState::Failed if outcome.retryable => Code::Unavailable,
        OutcomeState::Failed => Code::FailedPrecondition,
        OutcomeState::Cancelled => Code::Aborted,
    };
    let reason = outcome.code.as_deref().unwrap_or(outcome.state.as_str());
    let message = outcome.message.clone();
    let message = message.unwrap_or_else(|| format!("command {} was {}", row.id, outcome.state));
    let hint = (code == Code::Unavailable).then_some("try again under another command id");
    Err(detailed(code, reason, message, hint))
}

/// Asks for nothing that cannot be: an integration that is not there, unless the command is known, whose
/// outcome stands.
async fn check_there(
    replica: &Replica,
    integration: DocumentId,
    command: Option<DocumentId>,
) -> Result<(), Status> {
    if let Some(command) = command
        && replica.commands().show(command).await.is_ok()
    {
        return Ok(());
    }
    let row = replica.integrations().show(integration).await;
    let row = row.map_err(|error| status(&error))?;
    match row.integration.removed_at {
        None => Ok(()),
        Some(_) => Err(detailed(
            Code::FailedPrecondition,
            "integration_removed",
            format!("integration {integration} was removed"),
            None,
        )),
    }
}

fn command_id(given: Option<&str>) -> Result<Option<DocumentId>, Status> {
    given.map(document_id).transpose()
}

fn wait(given: Option<u32>) -> Result<Duration, Status> {
    let wait = given.map_or(COMMAND_WAIT_DEFAULT, |ms| Duration::from_millis(ms.into()));
    if wait > COMMAND_WAIT_MAX {
        let max = COMMAND_WAIT_MAX.as_millis();
        return Err(bad_input(format!("`wait_ms` is at most {max}")));
    }
    Ok(wait)
}
