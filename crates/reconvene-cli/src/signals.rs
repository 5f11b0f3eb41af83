//! Being told to stop: SIGINT and SIGTERM, or Ctrl-C where there are no signals.

use std::io;

use crate::failure::Failure;

/// Listens for being told to stop, from when it is made.
#[derive(Debug)]
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes the signals from now on: they no longer end the process by themselves.
    #[cfg(unix)]
    pub(crate) fn take() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let take = |kind| signal(kind).map_err(|error| not_taken(&error));
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
        })
    }

    /// Resolves when the process is told to stop.
    #[cfg(unix)]
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        tracing::info!("told to stop");
    }

    /// Takes the signals from now on: they no longer end the process by themselves.
    #[cfg(not(unix))]
    pub(crate) fn take() -> Result<Self, Failure> {
        Ok(Self {})
    }

    /// Resolves when the process is told to stop.
    #[cfg(not(unix))]
    pub(crate) async fn stop(&mut self) {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(error = %not_taken(&error).message);
            std::future::pending::<()>().await;
        }
        tracing::info!("told to stop");
    }
}

fn not_taken(error: &io::Error) -> Failure {
    Failure::new(
        "io",
        format!("the process cannot listen for signals: {error}"),
    )
}
