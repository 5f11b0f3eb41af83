//! Carrying out one command: what each asks, what it changes, and how it ends.

use reconvene::{
    Ask, Author, Changes, Command, DocumentId, Error, IntegrationState, MeetingEditor, Outcome,
    OutcomeState, Run, RunDraft, RunId, State, Taken, WorkspaceId, entries,
};

use super::{Done, Executor, Tools, is_of_store};
use crate::adapters::AdapterError;

/// How a command ends, and what changes with that.
type Ending = (Outcome, Changes);

impl Executor {
    /// Carries a command out, or begins to.
    pub(super) async fn command(
        &mut self,
        workspace: WorkspaceId,
        id: DocumentId,
    ) -> Result<(), Error> {
        if self.commands.contains_key(&id) {
            return Ok(());
        }
        let Taken::Accepted(command) = self.tools.serving.take(workspace, id).await? else {
            return Ok(());
        };
        tracing::debug!(%workspace, command = %id, name = command.name, "accepted");
        let ask = match command.ask() {
            Ok(ask) => ask,
            Err(error) => {
                let outcome = Outcome::refused(error.code(), error.to_string());
                let ending = (outcome, Changes::new());
                return self.tools.end(workspace, id, &command, ending).await;
            }
        };
        let tools = self.tools.clone();
        if let Ask::ValidateIntegrations { integration } = ask {
            // It talks to the outside: others need not wait for it.
            let member = command.issued_by.as_ref().map(|author| author.member);
            let others = self.commands.values().filter(|of| **of == member).count();
            let max = self.tools.options.commands_per_member;
            if others >= max {
                let message = format!("{max} commands of the same member go on already");
                let outcome = Outcome {
                    retryable: true,
                    ..Outcome::refused("too_many_commands", message)
                };
                let ending = (outcome, Changes::new());
                return tools.end(workspace, id, &command, ending).await;
            }
            self.commands.insert(id, member);
            self.tasks.spawn(async move {
                let ended = async {
                    let ending = ending_of(tools.validate_all(workspace, integration).await)?;
                    tools.end(workspace, id, &command, ending).await
                };
                Done::Command(id, ended.await)
            });
            return Ok(());
        }
        let ending = match ask {
            Ask::StartIntegrationSync {
                integration,
                trigger,
            } => tools.start(workspace, id, integration, trigger).await,
            Ask::CancelRun { run } => tools.cancel(workspace, run).await,
            Ask::FindRun { run } => tools.find(workspace, run).await,
            Ask::StopRecording { meeting } => tools.stop(workspace, meeting).await,
            _ => {
                let message = format!("this server does not know `{}`", command.name);
                Ok((Outcome::refused("unknown_command", message), Changes::new()))
            }
        };
        let ending = ending_of(ending)?;
        tools.end(workspace, id, &command, ending).await
    }
}

/// What cannot be done because of what it is about, such as a damaged document, has failed; what the
/// store could not do now is done when it can.
fn ending_of(asked: Result<Ending, Error>) -> Result<Ending, Error> {
    match asked {
        Err(error) if !is_of_store(&error) => {
            let outcome = Outcome::failed(error.code(), error.to_string(), true);
            Ok((outcome, Changes::new()))
        }
        asked => asked,
    }
}

impl Tools {
    /// Ends a command; if what it would change is refused, as a failure.
    async fn end(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        command: &Command,
        ending: Ending,
    ) -> Result<(), Error> {
        match self.end_as(workspace, id, command, ending).await {
            Err(error) if !is_of_store(&error) => {
                let outcome = Outcome::failed(error.code(), error.to_string(), false);
                let ending = (outcome, Changes::new());
                self.end_as(workspace, id, command, ending).await
            }
            ended => ended,
        }
    }

    /// Ends a command in this way. The entry about a failure comes first: a crash in between leaves an entry that
    /// the next attempt files again or resolves, and never a failure that nobody hears of.
    async fn end_as(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        command: &Command,
        (outcome, changes): Ending,
    ) -> Result<(), Error> {
        let failed = matches!(outcome.state, OutcomeState::Refused | OutcomeState::Failed);
        let code = outcome.code.as_deref();
        tracing::info!(%workspace, command = %id, state = %outcome.state, code, "a command ended");
        if let Some(Author { member, .. }) = command.issued_by {
            if failed {
                let draft = entries::of_outcome(workspace, id, &command.name, &outcome);
                if !self.serving.file(member, draft).await? {
                    tracing::warn!(command = %id, "its author's inbox is not on this server");
                }
            } else {
                self.serving
                    .cause_gone(member, entries::outcome_id(id))
                    .await?;
            }
        }
        self.serving.finish(workspace, id, outcome, changes).await
    }

    async fn start(
        &self,
        workspace: WorkspaceId,
        command: DocumentId,
        id: DocumentId,
        trigger: String,
    ) -> Result<Ending, Error> {
        let integration = match self.serving.integration(workspace, id).await {
            Ok(found) if found.removed_at.is_none() => found,
            Ok(_) => {
                return Ok(refused(
                    "integration_removed",
                    format!("integration {id} was removed"),
                ));
            }
            Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => {
                return Ok(unknown_integration(id));
            }
            Err(error) => return Err(error),
        };
        let adapter = self.options.adapters.find(&integration.adapter);
        if let Err(AdapterError::Invalid(problem)) = adapter {
            return Ok(refused(&problem.code, problem.message));
        }
        let going = integration.runs.iter().find(|(_, run)| !run.has_ended());
        if let Some((run, _)) = going {
            // One at a time; whoever asks meanwhile gets that one.
            let outcome = Outcome::done([("run", run.to_string()), ("joined", "true".to_owned())]);
            return Ok((outcome, Changes::new()));
        }
        let draft = RunDraft {
            id: self.serving.mint_run()?,
            trigger,
            command: Some(command),
        };
        let outcome = Outcome::done([("run", draft.id.to_string())]);
        let changes = Changes::new().integration(id, move |it| it.start_run(&draft));
        Ok((outcome, changes))
    }

    async fn cancel(&self, workspace: WorkspaceId, run: RunId) -> Result<Ending, Error> {
        let Some((integration, record)) = self.run_in(workspace, run).await? else {
            return Ok(match self.serving.issued(run) {
                true => refused(
                    "run_expired",
                    format!("nothing is kept of run {run} any more"),
                ),
                false => refused("run_never_existed", format!("there never was a run {run}")),
            });
        };
        if record.has_ended() {
            let state = record.state.as_str().to_owned();
            return Ok((Outcome::done([("state", state)]), Changes::new()));
        }
        let changes = Changes::new().integration(integration, move |it| it.cancel_run(run));
        let outcome = Outcome::done([("state", "cancelling".to_owned())]);
        Ok((outcome, changes))
    }

    async fn find(&self, workspace: WorkspaceId, run: RunId) -> Result<Ending, Error> {
        let found = self.run_in(workspace, run).await?;
        let outcome = match found {
            Some((integration, _)) => Outcome::done([
                ("status", "found".to_owned()),
                ("integration", integration.to_string()),
            ]),
            None if self.serving.issued(run) => Outcome::done([("status", "expired".to_owned())]),
            None => Outcome::done([("status", "never_existed".to_owned())]),
        };
        Ok((outcome, Changes::new()))
    }

    async fn run_in(
        &self,
        workspace: WorkspaceId,
        run: RunId,
    ) -> Result<Option<(DocumentId, Run)>, Error> {
        for row in self.serving.integrations(workspace).await? {
            // The row may be a moment behind the document.
            let mut integration = self.serving.integration(workspace, row.id).await?;
            if let Some(record) = integration.runs.remove(&run) {
                return Ok(Some((row.id, record)));
            }
        }
        Ok(None)
    }

    async fn stop(&self, workspace: WorkspaceId, id: DocumentId) -> Result<Ending, Error> {
        let Some(meeting) = self.serving.meeting(workspace, id).await? else {
            return Ok(refused(
                "unknown_meeting",
                format!("there is no meeting {id} here"),
            ));
        };
        Ok(match meeting.state {
            Some(State::Recording) => {
                let stop = |meeting: &mut MeetingEditor<'_>| meeting.reach_state(State::Stopping);
                let changes = Changes::new().meeting(id, stop);
                (Outcome::done([("state", "stopping".to_owned())]), changes)
            }
            Some(state @ (State::Stopping | State::Stopped | State::Completed)) => {
                let state = state.as_str().to_owned();
                (Outcome::done([("state", state)]), Changes::new())
            }
            _ => refused(
                "not_recording",
                format!("meeting {id} is not being recorded"),
            ),
        })
    }

    async fn validate_all(
        &self,
        workspace: WorkspaceId,
        wanted: Option<DocumentId>,
    ) -> Result<Ending, Error> {
        let rows = self.serving.integrations(workspace).await?;
        let mut ids: Vec<_> = rows.into_iter().map(|row| row.id).collect();
        if let Some(wanted) = wanted {
            match self.serving.integration(workspace, wanted).await {
                Ok(found) if found.removed_at.is_none() => ids = vec![wanted],
                Ok(_) | Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => {
                    return Ok(unknown_integration(wanted));
                }
                Err(error) => return Err(error),
            }
        }
        let (mut valid, mut invalid, mut unreachable) = (0, 0, 0);
        let mut changes = Changes::new();
        for id in ids {
            let Some(found) = self.look_at((workspace, id), true).await? else {
                continue;
            };
            match found.state {
                IntegrationState::Valid => valid += 1,
                IntegrationState::Invalid => invalid += 1,
                _ => unreachable += 1,
            }
            changes = changes.integration(id, move |it| it.validated(&found));
        }
        let outcome = Outcome::done([
            ("valid", valid.to_string()),
            ("invalid", invalid.to_string()),
            ("unreachable", unreachable.to_string()),
        ]);
        Ok((outcome, changes))
    }
}

fn refused(code: &str, message: String) -> Ending {
    (Outcome::refused(code, message), Changes::new())
}

fn unknown_integration(id: DocumentId) -> Ending {
    refused(
        "unknown_integration",
        format!("there is no integration {id} here"),
    )
}
