//! What operators ask over HTTP: `/metrics`, `/health` and `/ready`.
//!
//! Nobody is asked for a token, so nothing in here names a document, a title or a person: peers and
//! workspaces by their ids, the rest by numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use reconvene::{Error, Replica, Status};
use tokio::time::timeout;

use crate::counts::Counts;
use crate::limits::{COLLECT_DEADLINE, READY_ENTRIES_BEHIND_MAX};
use crate::metrics;

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) replica: Replica,
    pub(crate) counts: Arc<Counts>,
    /// Whether devices can connect.
    pub(crate) listening: Arc<AtomicBool>,
}

pub(crate) fn router(source: Source) -> Router {
    Router::new()
        .route("/metrics", get(tell_metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .with_state(source)
}

/// The state of the replica, or why there is none: then the process is as good as dead.
async fn collect(source: &Source) -> Result<Status, String> {
    in_time(source.replica.status()).await
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match timeout(COLLECT_DEADLINE, asked).await {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(error)) => Err(error.full_message()),
        Err(_) => Err(format!("no answer within {} s", COLLECT_DEADLINE.as_secs())),
    }
}

async fn tell_metrics(State(source): State<Source>) -> Response {
    let replica = &source.replica;
    let told = async { Ok((replica.status().await?, replica.outstanding().await?)) };
    let (status, outstanding) = match in_time(told).await {
        Ok(told) => told,
        Err(why) => return refuse(&[why]),
    };
    match metrics::text(status, outstanding, source.counts.now()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => refuse(&[error.to_string()]),
    }
}

/// Whether the process is alive and its store takes writes. A disk without room is none of its faults:
/// it goes on by itself once there is.
async fn health(State(source): State<Source>) -> Response {
    match collect(&source).await {
        Ok(status) => answer(status.store_failed.into_iter().collect()),
        Err(why) => refuse(&[why]),
    }
}

/// Whether devices can connect and lists show what is stored.
async fn ready(State(source): State<Source>) -> Response {
    let status = match collect(&source).await {
        Ok(status) => status,
        Err(why) => return refuse(&[why]),
    };
    let mut missing = Vec::new();
    if !source.listening.load(Ordering::Acquire) {
        missing.push("not listening".to_owned());
    }
    missing.extend(status.store_failed);
    for workspace in &status.workspaces {
        let end = workspace.feed.as_ref().map_or(0, |feed| feed.seq);
        let behind = end.saturating_sub(workspace.index.seq);
        if behind > READY_ENTRIES_BEHIND_MAX {
            missing.push(format!(
                "the index of {} is {behind} entries behind",
                workspace.id
            ));
        }
    }
    answer(missing)
}

fn answer(missing: Vec<String>) -> Response {
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    refuse(&missing)
}

fn refuse(missing: &[String]) -> Response {
    let text = format!("{}\n", missing.join("\n"));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
