//! The executor: carries out the commands that reach this server in documents, validates integrations
//! and carries on their sync runs.
//!
//! It keeps nothing of its own that a restart would lose: what is to be done follows from documents, and
//! what was done is in them. Commands are carried out one after another; what talks to the outside goes
//! on beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use reconvene::{DocumentId, Due, Error, MemberId, RunId, Serving, WallTime, WorkspaceId};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::adapters::Adapters;
use crate::limits::{
    COMMANDS_PER_MEMBER_DEFAULT, OUTSIDE_AT_ONCE, RETRY_AFTER, RUN_KEPT_DEFAULT,
    VALIDATE_EVERY_DEFAULT,
};

mod commands;
mod runs;
mod validation;

/// How commands are carried out.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// The adapters there are.
    pub adapters: Adapters,
    /// How long the result of a sync run is kept after its end.
    pub run_kept: Duration,
    /// How often integrations are looked at by themselves.
    pub validate_every: Duration,
    /// How many commands of one member go on at a time that talk to the outside; further ones are
    /// refused.
    pub commands_per_member: usize,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        Self {
            adapters: Adapters::standard(None, Vec::new()),
            run_kept: RUN_KEPT_DEFAULT,
            validate_every: VALIDATE_EVERY_DEFAULT,
            commands_per_member: COMMANDS_PER_MEMBER_DEFAULT,
        }
    }
}

/// What those beside the executor need of it.
#[derive(Clone)]
struct Tools {
    serving: Serving,
    options: ExecutorOptions,
    /// Turns for what talks to the outside.
    outside: Arc<Semaphore>,
}

/// Something that went on beside the executor and has ended.
enum Done {
    Command(DocumentId, Result<(), Error>),
    Validated(Place, Result<(), Error>),
    Run(RunId, Result<(), Error>),
}

/// An integration.
type Place = (WorkspaceId, DocumentId);

struct Executor {
    tools: Tools,
    tasks: JoinSet<Done>,
    /// Commands that are being carried out beside it, each with whose it is.
    commands: BTreeMap<DocumentId, Option<MemberId>>,
    /// Runs that go on, with the way to end each.
    runs: BTreeMap<RunId, watch::Sender<bool>>,
    /// When the result of a run is to be forgotten.
    expiries: BTreeMap<(WallTime, RunId), Place>,
    /// Integrations that are being looked at.
    validating: BTreeSet<Place>,
    /// When integrations are to be looked at.
    validations: BTreeMap<Place, Instant>,
    /// When everything is to be looked at again, because something failed.
    again_at: Option<Instant>,
}

/// Carries out what is due until the replica is closed. Dropping this midway loses nothing: the next one
/// goes on where it was.
pub(crate) async fn run(serving: Serving, options: ExecutorOptions) -> Result<(), Error> {
    let mut due = serving.due()?;
    let mut executor = Executor {
        tools: Tools {
            serving,
            options,
            outside: Arc::new(Semaphore::new(OUTSIDE_AT_ONCE)),
        },
        tasks: JoinSet::new(),
        commands: BTreeMap::new(),
        runs: BTreeMap::new(),
        expiries: BTreeMap::new(),
        validating: BTreeSet::new(),
        validations: BTreeMap::new(),
        again_at: None,
    };
    loop {
        let wake = executor.wake_at();
        let timer = async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            biased;
            Some(done) = executor.tasks.join_next() => executor.on_done(done),
            next = due.next() => match next {
                Ok(next) => executor.look(next).await,
                Err(Error::Closed) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "what is due could not be read");
                    sleep(RETRY_AFTER).await;
                    Ok(())
                }
            },
            () = timer => executor.on_timer(&mut due).await,
        };
        match outcome {
            Ok(()) => {}
            Err(Error::Closed) => return Ok(()),
            Err(error) if is_of_store(&error) => {
                // It has too little room, say. What is due stays due.
                tracing::warn!(%error, code = error.code(), "what is due could not be done yet");
                executor.again_at = Some(Instant::now() + RETRY_AFTER);
            }
            // One document that cannot be used holds up no other.
            Err(error) => {
                tracing::error!(%error, code = error.code(), "something that is due cannot be done");
            }
        }
    }
}

impl Executor {
    async fn look(&mut self, due: Due) -> Result<(), Error> {
        match due {
            Due::Command(workspace, row) => self.command(workspace, row.id).await,
            Due::Integration(workspace, row) => self.integration(workspace, row.id).await,
        }
    }

    /// What an integration's document asks for.
    async fn integration(&mut self, workspace: WorkspaceId, id: DocumentId) -> Result<(), Error> {
        let place = (workspace, id);
        // Read anew, with its secrets: what changed may be one.
        let integration = match self.tools.serving.integration(workspace, id).await {
            Ok(integration) => integration,
            // Purged meanwhile.
            Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        for (run, record) in &integration.runs {
            match record.expires_at {
                Some(at) => drop(self.expiries.insert((at, *run), place)),
                None if record.has_ended() => {}
                None => {
                    let cancel = record.cancel || integration.removed_at.is_some();
                    self.carry_on(place, *run, record.command, cancel);
                }
            }
        }
        if integration.removed_at.is_some() {
            self.validations.remove(&place);
            return self.tools.forget_entries(&integration, id).await;
        }
        let is_other = integration.validated.as_deref() != Some(&integration.identity());
        if is_other || !self.validations.contains_key(&place) {
            self.validate(place);
        }
        Ok(())
    }

    fn validate(&mut self, place: Place) {
        self.validations
            .insert(place, Instant::now() + self.tools.options.validate_every);
        if !self.validating.insert(place) {
            // What is being looked at is looked at again when that is done, if it is another by then.
            return;
        }
        let tools = self.tools.clone();
        self.tasks.spawn(async move {
            let validated = tools.validate_now(place, false).await;
            Done::Validated(place, validated)
        });
    }

    fn on_done(&mut self, done: Result<Done, tokio::task::JoinError>) -> Result<(), Error> {
        match done {
            Ok(Done::Command(id, outcome)) => {
                self.commands.remove(&id);
                outcome
            }
            Ok(Done::Validated(place, outcome)) => {
                self.validating.remove(&place);
                outcome
            }
            Ok(Done::Run(run, outcome)) => {
                self.runs.remove(&run);
                outcome
            }
            Err(error) => {
                // It is not known what that was: nothing is taken for being under way any more.
                tracing::error!(%error, "something beside the executor broke");
                self.commands.clear();
                self.runs.clear();
                self.validating.clear();
                self.again_at = Some(Instant::now() + RETRY_AFTER);
                Ok(())
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let expiry = self.expiries.keys().next().map(|(at, _)| {
            let left = at.as_millis().saturating_sub(wall_now().as_millis());
            Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0))
        });
        let validation = self.validations.values().min().copied();
        let all = [expiry, validation, self.again_at];
        all.into_iter().flatten().min()
    }

    async fn on_timer(&mut self, due: &mut reconvene::DueFeed) -> Result<(), Error> {
        let now = Instant::now();
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            due.look_again();
        }
        let validations = self.validations.iter();
        let validations = validations.filter(|(_, at)| **at <= now);
        let validations: Vec<_> = validations.map(|(place, _)| *place).collect();
        for place in validations {
            self.validate(place);
        }
        self.forget_expired().await
    }
}

/// Whether an error is one of this server's store, and not of what was to be written.
fn is_of_store(error: &Error) -> bool {
    let codes = ["closed", "no_space", "store_failed", "busy", "io"];
    codes.contains(&error.code())
}

/// The time of day, which results expire by.
fn wall_now() -> WallTime {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let millis = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    WallTime::from_millis(millis)
}
