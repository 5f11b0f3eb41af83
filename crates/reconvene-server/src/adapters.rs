//! Adapters: the code that knows how to talk to one kind of integration.
//!
//! An adapter is told what it is to do and answers with values; it decides nothing about commands, runs
//! or inboxes. Whatever it does outside may be done again under the same key.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use reconvene::{Changes, DocumentId, Integration, Problem, RunId, Serving, WorkspaceId};
use tokio::sync::watch;

use crate::adapters::http::Http;
use crate::limits::{PROBLEM_BYTES_MAX, PROGRESS_EVERY};

mod http;
mod ical;
mod webhook;

/// Knows how to talk to one kind of integration.
pub trait Adapter: Send + Sync {
    /// What integrations call it.
    fn name(&self) -> &'static str;

    /// Looks whether an integration works, and changes nothing.
    fn validate<'a>(
        &'a self,
        integration: &'a Integration,
    ) -> BoxFuture<'a, Result<(), AdapterError>>;

    /// Brings an integration and what it is elsewhere together. May be dropped midway, and is begun
    /// again after a restart, with the same [`RunContext::key`].
    fn run<'a>(&'a self, run: &'a mut RunContext) -> BoxFuture<'a, Result<(), AdapterError>>;
}

/// Why an adapter did not do what it was to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// What the integration says is wrong, and stays so until somebody changes something.
    #[error("{}", .0.message)]
    Invalid(Problem),
    /// It could not be reached; it may be right.
    #[error("{}", .0.message)]
    Unreachable(Problem),
    /// Somebody wants the run to end.
    #[error("the run was cancelled")]
    Cancelled,
    /// This server's store failed.
    #[error(transparent)]
    Store(#[from] reconvene::Error),
}

impl AdapterError {
    /// What the integration says is wrong.
    pub fn invalid(code: &str, message: impl Into<String>) -> Self {
        Self::Invalid(problem(code, message))
    }

    /// It could not be reached.
    pub fn unreachable(code: &str, message: impl Into<String>) -> Self {
        Self::Unreachable(problem(code, message))
    }
}

pub(crate) fn problem(code: &str, message: impl Into<String>) -> Problem {
    let mut message = message.into();
    // What it quotes may be long; what stands in a document may not.
    if message.len() > PROBLEM_BYTES_MAX {
        message.truncate(message.floor_char_boundary(PROBLEM_BYTES_MAX));
        message.push('…');
    }
    Problem {
        code: code.to_owned(),
        message,
    }
}

/// A run, as its adapter sees it.
pub struct RunContext {
    /// The store.
    pub serving: Serving,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The integration's id.
    pub id: DocumentId,
    /// The integration as it was when the run began, its secrets included.
    pub integration: Integration,
    /// The run.
    pub run: RunId,
    /// What makes an effect outside the same one when it is done again: the id of the command that asked
    /// for the run, or the run's own.
    pub key: String,
    /// How many items are done.
    pub done: u64,
    /// How many there are, where that is known.
    pub total: Option<u64>,
    /// How many items were made or changed.
    pub items: u64,
    pub(crate) cancelled: watch::Receiver<bool>,
    pub(crate) told_at: Option<Instant>,
}

impl RunContext {
    /// Writes down how far the run is, now and then.
    ///
    /// # Errors
    /// [`AdapterError::Cancelled`] if the run is to end; if the store fails.
    pub async fn progress(&mut self) -> Result<(), AdapterError> {
        if *self.cancelled.borrow() {
            return Err(AdapterError::Cancelled);
        }
        if self.told_at.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
            return Ok(());
        }
        self.told_at = Some(Instant::now());
        let (run, done, total, items) = (self.run, self.done, self.total, self.items);
        let told = Changes::new().integration(self.id, move |integration| {
            integration.progress(run, done, total, items)
        });
        Ok(self.serving.write(self.workspace, told).await?)
    }

    /// Resolves once somebody wants the run to end.
    pub async fn cancelled(&mut self) {
        if self
            .cancelled
            .wait_for(|cancelled| *cancelled)
            .await
            .is_err()
        {
            // Nobody is left who could want that.
            std::future::pending::<()>().await;
        }
    }
}

/// The adapters there are, by name.
#[derive(Clone)]
pub struct Adapters(Arc<BTreeMap<&'static str, Box<dyn Adapter>>>);

impl std::fmt::Debug for Adapters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Adapters {
    /// The given ones. Of two with the same name the later one counts.
    pub fn new(adapters: impl IntoIterator<Item = Box<dyn Adapter>>) -> Self {
        let named = adapters.into_iter();
        let named = named.map(|adapter| (adapter.name(), adapter));
        Self(Arc::new(named.collect()))
    }

    /// `ical` and `webhook`: calendars from files of one directory and over HTTP, and webhooks. HTTP
    /// goes to this machine and to the hosts that are named, and nowhere else.
    pub fn standard(calendars: Option<PathBuf>, hosts: Vec<String>) -> Self {
        let http = Http::new(hosts);
        Self::new([
            Box::new(ical::Ical::new(calendars, http.clone())) as Box<dyn Adapter>,
            Box::new(webhook::Webhook::new(http)),
        ])
    }

    /// The adapter of a name.
    pub fn find(&self, name: &str) -> Result<&dyn Adapter, AdapterError> {
        self.0.get(name).map(|adapter| &**adapter).ok_or_else(|| {
            let known: Vec<_> = self.0.keys().copied().collect();
            let known = known.join(", ");
            let message = format!("this server has no adapter `{name}`; it has {known}");
            AdapterError::invalid("unknown_adapter", message)
        })
    }
}
