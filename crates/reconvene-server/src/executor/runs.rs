//! Sync runs: carrying them on, to their end and until what became of them is forgotten.

use reconvene::mutants::{self, Mutant};
use reconvene::{Author, Changes, DocumentId, Error, Run, RunEnd, RunId, RunState, entries};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Done, Executor, Place, Tools, is_of_store, wall_now};
use crate::adapters::{AdapterError, RunContext, problem};
use crate::limits::RUN_MAX;

impl Executor {
    /// Carries a run on that is not, and lets one know that somebody wants it to end.
    pub(super) fn carry_on(
        &mut self,
        place: Place,
        run: RunId,
        command: Option<DocumentId>,
        cancel: bool,
    ) {
        if let Some(known) = self.runs.get(&run) {
            known.send_if_modified(|cancelled| {
                let is_new = cancel && !*cancelled;
                *cancelled |= cancel;
                is_new
            });
            return;
        }
        let (sender, cancelled) = watch::channel(cancel);
        self.runs.insert(run, sender);
        let tools = self.tools.clone();
        let mut key = command.map_or_else(|| run.to_string(), |command| command.to_string());
        if mutants::is(Mutant::KeysEachTry) {
            key = format!("{key}-{}", std::process::id());
        }
        self.tasks.spawn(async move {
            let ended = tools.carry_out(place, run, key, cancelled).await;
            Done::Run(run, ended)
        });
    }

    /// Removes the results that have been kept for long enough.
    pub(super) async fn forget_expired(&mut self) -> Result<(), Error> {
        if mutants::is(Mutant::KeepsRuns) {
            return Ok(());
        }
        let now = wall_now();
        while let Some(((at, run), (workspace, id))) = self.expiries.pop_first() {
            if at > now {
                self.expiries.insert((at, run), (workspace, id));
                return Ok(());
            }
            let forget = Changes::new().integration(id, move |it| it.forget_run(run));
            match self.tools.serving.write(workspace, forget).await {
                // Gone together with its integration.
                Ok(()) | Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => {}
                // It is entered again when everything is looked at again.
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Tools {
    async fn carry_out(
        &self,
        (workspace, id): Place,
        run: RunId,
        key: String,
        cancelled: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        // It is never closed.
        let _turn = self.outside.acquire().await.map_err(|_| Error::Closed)?;
        let integration = self.serving.integration(workspace, id).await?;
        if integration.runs.get(&run).is_none_or(Run::has_ended) {
            return Ok(());
        }
        let mut context = RunContext {
            serving: self.serving.clone(),
            workspace,
            id,
            integration,
            run,
            key,
            done: 0,
            total: None,
            items: 0,
            cancelled,
            told_at: None,
        };
        tracing::info!(%workspace, integration = %id, %run, "a sync run goes on");
        let adapter = self.options.adapters.find(&context.integration.adapter);
        let ran = match adapter {
            _ if *context.cancelled.borrow() => Err(AdapterError::Cancelled),
            Ok(adapter) => match timeout(RUN_MAX, adapter.run(&mut context)).await {
                Ok(ran) => ran,
                Err(_) => Err(AdapterError::unreachable(
                    "timed_out",
                    "the run took too long",
                )),
            },
            Err(error) => Err(error),
        };
        let (state, error) = match ran {
            Ok(()) => (RunState::Succeeded, None),
            Err(AdapterError::Cancelled) => (RunState::Cancelled, None),
            Err(AdapterError::Invalid(problem) | AdapterError::Unreachable(problem)) => {
                (RunState::Failed, Some(problem))
            }
            // Not the integration's fault; it goes on once the store does.
            Err(AdapterError::Store(error)) if is_of_store(&error) => return Err(error),
            Err(AdapterError::Store(error)) => (
                RunState::Failed,
                Some(problem(error.code(), error.to_string())),
            ),
        };
        let code = error.as_ref().map(|error| error.code.as_str());
        tracing::info!(%workspace, integration = %id, %run, state = state.as_str(), code, "a sync run ended");
        if let Some(Author { member, .. }) = context.integration.added_by {
            match (&error, state) {
                (Some(problem), _) => {
                    let draft = entries::of_run(workspace, id, problem);
                    if !self.serving.file(member, draft).await? {
                        tracing::warn!(integration = %id, "the inbox of whoever added it is not on this server");
                    }
                }
                (None, RunState::Succeeded) => {
                    self.serving.cause_gone(member, entries::run_id(id)).await?;
                }
                (None, _) => {}
            }
        }
        let kept_ms = i64::try_from(self.options.run_kept.as_millis()).unwrap_or(i64::MAX);
        let end = RunEnd {
            state,
            error,
            kept_ms,
        };
        let (done, total, items) = (context.done, context.total, context.items);
        let changes = Changes::new().integration(id, move |it| {
            it.progress(run, done, total, items)?;
            it.end_run(run, &end)
        });
        self.serving.write(workspace, changes).await
    }
}
