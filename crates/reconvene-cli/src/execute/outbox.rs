//! Commands, the inbox, integrations and sync runs, carried out on an open replica.

use std::time::Duration;

use reconvene::{
    Ask, CommandRow, Commands, DocumentId, Error, NewIntegration, Replica, RunId, RunStanding,
    Settings,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use crate::failure::Failure;
use crate::output::to_value;
use crate::request::outbox::{
    CommandsRequest, InboxRequest, IntegrationsRequest, Issue, RunsRequest,
};

use super::{document_id, streams};

pub(super) async fn commands(
    replica: &Replica,
    request: CommandsRequest,
    items: &Sender<Value>,
) -> Result<Value, Failure> {
    let commands = replica.commands();
    match request {
        CommandsRequest::List { filter } => {
            Ok(json!({ "commands": to_value(&commands.list(filter).await?)? }))
        }
        CommandsRequest::Watch { filter } => {
            streams::rows("command", commands.subscribe(filter)?, items).await
        }
        CommandsRequest::Show { id, wait_ms } => {
            let row = commands.show(document_id(&id)?).await?;
            ended(replica, row, wait_ms).await
        }
        CommandsRequest::Cancel { id } => {
            let row = commands.cancel(document_id(&id)?).await?;
            Ok(json!({ "command": to_value(&row)? }))
        }
    }
}

pub(super) async fn inbox(
    replica: &Replica,
    request: InboxRequest,
    items: &Sender<Value>,
) -> Result<Value, Failure> {
    let inbox = replica.inbox();
    let (retried, wait_ms) = match request {
        InboxRequest::List { filter } => {
            return Ok(json!({ "entries": to_value(&inbox.list(filter).await?)? }));
        }
        InboxRequest::Watch { filter } => {
            return streams::rows("entry", inbox.subscribe(filter)?, items).await;
        }
        InboxRequest::Show { id } => {
            let id = document_id(&id)?;
            let (row, conflict) = (inbox.show(id).await?, inbox.conflict(id).await?);
            return Ok(json!({ "entry": to_value(&row)?, "conflict": to_value(&conflict)? }));
        }
        InboxRequest::Settle { id, choice } => {
            let row = inbox.settle(document_id(&id)?, choice).await?;
            return Ok(json!({ "entry": to_value(&row)? }));
        }
        InboxRequest::Discard { id } => {
            let row = inbox.discard(document_id(&id)?).await?;
            return Ok(json!({ "entry": to_value(&row)? }));
        }
        InboxRequest::Resolve { id } => {
            let row = inbox.resolve(document_id(&id)?).await?;
            return Ok(json!({ "entry": to_value(&row)? }));
        }
        InboxRequest::Retry { id, wait_ms } => (inbox.retry(document_id(&id)?).await?, wait_ms),
        InboxRequest::Amend {
            id,
            arguments,
            wait_ms,
        } => {
            let arguments = arguments.into_iter().collect();
            (inbox.amend(document_id(&id)?, arguments).await?, wait_ms)
        }
    };
    // The entry is in the home; the command is where what it is about is.
    let within = replica.in_workspace(&retried.workspace.to_string()).await?;
    let mut answer = ended(&within, retried.command, wait_ms).await?;
    answer["entry"] = to_value(&retried.entry)?;
    Ok(answer)
}

pub(super) async fn integrations(
    replica: &Replica,
    request: IntegrationsRequest,
    items: &Sender<Value>,
) -> Result<Value, Failure> {
    let integrations = replica.integrations();
    let row = match request {
        IntegrationsRequest::Add {
            adapter,
            external_id,
            account,
            settings,
        } => {
            let new = NewIntegration {
                adapter,
                external_id,
                account,
                settings: Settings::from_iter(settings),
            };
            integrations.add(new).await?
        }
        IntegrationsRequest::Edit { id, changes } => {
            integrations.edit(document_id(&id)?, changes).await?
        }
        IntegrationsRequest::Remove { id } => integrations.remove(document_id(&id)?).await?,
        IntegrationsRequest::List => {
            return Ok(json!({ "integrations": to_value(&integrations.list().await?)? }));
        }
        IntegrationsRequest::Watch => {
            return streams::rows("integration", integrations.subscribe()?, items).await;
        }
        IntegrationsRequest::Validate { id, issue } => {
            let integration = id.as_deref().map(document_id).transpose()?;
            return issued(replica, Ask::ValidateIntegrations { integration }, issue).await;
        }
        IntegrationsRequest::Sync { id, issue } => {
            let ask = Ask::StartIntegrationSync {
                integration: document_id(&id)?,
                trigger: "manual".to_owned(),
            };
            return issued(replica, ask, issue).await;
        }
    };
    Ok(json!({ "integration": to_value(&row)? }))
}

pub(super) async fn runs(
    replica: &Replica,
    request: RunsRequest,
    items: &Sender<Value>,
) -> Result<Value, Failure> {
    let runs = replica.runs();
    match request {
        RunsRequest::List => Ok(json!({ "runs": to_value(&runs.list().await?)? })),
        RunsRequest::Show { id, timeout_ms } => {
            let id = run_id(&id)?;
            let mut status = runs.status(id).await?;
            if status.status == RunStanding::Unknown {
                connect(replica).await?;
                status = runs.find(id, Duration::from_millis(timeout_ms)).await?;
            }
            to_value(&status)
        }
        RunsRequest::Watch { id, timeout_ms } => {
            let id = run_id(&id)?;
            let mut watch = runs.watch(id)?;
            loop {
                let status = tokio::select! {
                    status = watch.next() => status?,
                    () = items.closed() => return Ok(Value::Null),
                };
                if items.send(to_value(&status)?).await.is_err() {
                    return Ok(Value::Null);
                }
                match status.status {
                    // Nothing will ever change about it.
                    RunStanding::NotFound => return Ok(Value::Null),
                    RunStanding::Unknown => {
                        connect(replica).await?;
                        tokio::select! {
                            found = runs.find(id, Duration::from_millis(timeout_ms)) => drop(found?),
                            () = items.closed() => return Ok(Value::Null),
                        }
                    }
                    _ => {}
                }
            }
        }
        RunsRequest::Cancel { id, issue } => {
            let run = run_id(&id)?;
            issued(replica, Ask::CancelRun { run }, issue).await
        }
    }
}

/// Issues a command, and waits for its outcome if that is wanted.
pub(super) async fn issued(replica: &Replica, ask: Ask, issue: Issue) -> Result<Value, Failure> {
    let id = issue.id.as_deref().map(document_id).transpose()?;
    let id = id.unwrap_or_else(Commands::new_id);
    let row = replica.commands().issue(id, &ask).await?;
    ended(replica, row, issue.wait_ms).await
}

/// A command as it is, or once it has its outcome. That it has none in time is no failure: it stays in
/// the outbox.
async fn ended(replica: &Replica, row: CommandRow, wait_ms: Option<u64>) -> Result<Value, Failure> {
    let mut row = row;
    if let Some(wait_ms) = wait_ms.filter(|_| row.command.outcome.is_none()) {
        connect(replica).await?;
        let wait = Duration::from_millis(wait_ms);
        match replica.commands().ended(row.id, wait).await {
            Ok(ended) => row = ended,
            Err(Error::Timeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({ "command": to_value(&row)? }))
}

/// Keeps links to the servers for as long as the store is open; a store without one asks itself.
async fn connect(replica: &Replica) -> Result<(), Failure> {
    match replica.connect().await {
        Err(error) if error.code() == "no_server" => Ok(()),
        connected => Ok(connected?),
    }
}

fn run_id(text: &str) -> Result<RunId, Failure> {
    text.parse::<RunId>()
        .map_err(|error| Failure::new("bad_id", format!("`{text}` is {error}")))
}

/// Has the recording of a meeting stop, wherever it runs.
pub(super) async fn stop(replica: &Replica, id: &str, issue: Issue) -> Result<Value, Failure> {
    let meeting: DocumentId = document_id(id)?;
    issued(replica, Ask::StopRecording { meeting }, issue).await
}
