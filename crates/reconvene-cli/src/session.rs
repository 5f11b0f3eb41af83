//! Getting a request carried out: on the store itself, or by the process that has it open.

use std::path::Path;
use std::time::Duration;

use reconvene::{OpenOptions, Replica};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::control::caller::call;
use crate::control::endpoint::Endpoint;
use crate::execute::execute;
use crate::failure::Failure;
use crate::request::{Request, Sinks};

/// The error code that says that another process has the store open.
pub(crate) const LOCKED: &str = "store_locked";
/// How long a locked store is waited for: about as long as a command before this one may take to
/// end, or a host to be there.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often a locked store is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Carries out a request on the store, or has it carried out by the process that hosts it.
pub(crate) async fn perform(
    data: &Path,
    options: &OpenOptions,
    request: Request,
    sinks: &Sinks,
) -> Result<Value, Failure> {
    match open_or_call(data, options, &request, sinks).await? {
        Reached::Host(answer) => Ok(answer),
        Reached::Store(replica) => {
            let answer = execute(&replica, request, sinks).await;
            close(replica).await;
            answer
        }
    }
}

/// What a command found.
pub(crate) enum Reached {
    /// The store was free and is open now.
    Store(Replica),
    /// The process that has it open carried the request out.
    Host(Value),
}

/// Opens the store, or has a request carried out by the process that has it open.
pub(crate) async fn open_or_call(
    data: &Path,
    options: &OpenOptions,
    request: &Request,
    sinks: &Sinks,
) -> Result<Reached, Failure> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        let locked = match options.clone().open().await {
            Ok(replica) => return Ok(Reached::Store(replica)),
            Err(error) if error.code() == LOCKED => Failure::from(error),
            Err(error) => return Err(error.into()),
        };
        if let Some(answer) = call(&Endpoint::of(data)?, request, sinks).await? {
            return Ok(Reached::Host(answer));
        }
        if Instant::now() >= until {
            return Err(locked);
        }
        sleep(LOCK_POLL).await;
    }
}

/// Opens the store for a command that keeps it open, and waits a little for a process that is about
/// to end.
pub(crate) async fn open(options: &OpenOptions) -> Result<Replica, Failure> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match options.clone().open().await {
            Err(error) if error.code() == LOCKED && Instant::now() < until => {
                sleep(LOCK_POLL).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// Closes a store whose command has ended. What the command promised is durable already.
pub(crate) async fn close(replica: Replica) {
    if let Err(error) = replica.close().await {
        tracing::warn!(%error, "the store did not close in order");
    }
}
