//! The always-on peer: a replica that listens, for many devices and workspaces.
//!
//! It is the same engine and store as on a device; what makes a server is that it listens, issues
//! tickets, carries out commands, talks to what integrations are joined with, and stays. This crate runs
//! that from start to orderly end. It admits nobody by itself: the engine lets in only enrolled devices,
//! and the API who shows its token.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use reconvene::{Events, PeerId, Replica, ReplicaEvent};
use reconvene_api::Services;
pub use reconvene_api::{ApiOptions, MonitorOptions};
use serde::Serialize;
use tokio::time::timeout;

mod adapters;
mod executor;

pub mod limits;

pub use adapters::{Adapter, AdapterError, Adapters, RunContext};
pub use executor::ExecutorOptions;

/// How long closing may take. Beyond it the process ends as if killed, which loses nothing that was
/// acknowledged.
pub const CLOSE_DEADLINE: Duration = Duration::from_secs(15);

/// How to serve.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Multiaddresses to listen on; none: those it last listened on, and the first time a free port
    /// of 127.0.0.1.
    pub listen: Vec<String>,
    /// Multiaddresses that tickets carry instead; none: as they were.
    pub announce: Vec<String>,
    /// Where the API for backends listens; none: there is none.
    pub api: Option<ApiOptions>,
    /// Where metrics and health are told; none: nowhere.
    pub monitor: Option<MonitorOptions>,
    /// How commands are carried out.
    pub executor: ExecutorOptions,
}

/// Who serves, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerInfo {
    /// The server's id.
    pub peer_id: PeerId,
    /// Where it listens, each address with the server's id at its end.
    pub listening: Vec<String>,
    /// Where the API listens, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<SocketAddr>,
    /// The file with the token that calls of the API show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_token_file: Option<PathBuf>,
    /// Where metrics and health are told, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
}

/// Why serving ended other than by being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The replica failed.
    #[error(transparent)]
    Replica(#[from] reconvene::Error),
    /// The API or the metrics could not be offered.
    #[error(transparent)]
    Services(#[from] reconvene_api::Error),
    /// The replica did not close in time. What was acknowledged is durable all the same.
    #[error("the store did not close within {} s", CLOSE_DEADLINE.as_secs())]
    CloseTimedOut,
}

/// Serves until `shutdown` resolves or the replica is closed by another, then closes the replica.
///
/// A shared workspace is made if there is none. `on_ready` is called once, when devices can connect.
/// Dropping this midway leaves the replica open and listening.
///
/// # Errors
/// If the workspace cannot be made, an address cannot be listened on, the API has no token, or the
/// replica does not close in order; the replica is closed then, too.
pub async fn serve(
    replica: &Replica,
    options: ServeOptions,
    shutdown: impl Future,
    on_ready: impl FnOnce(&ServerInfo),
) -> Result<(), Error> {
    let mut services = Services::new(replica);
    let served = run(replica, &mut services, options, shutdown, on_ready).await;
    // Before the store is given back: what is in flight ends in order.
    services.close().await;
    let closed = match timeout(CLOSE_DEADLINE, replica.clone().close()).await {
        Ok(closed) => closed.map_err(Error::from),
        Err(_) => Err(Error::CloseTimedOut),
    };
    tracing::info!("stopped serving");
    served.and(closed)
}

async fn run(
    replica: &Replica,
    services: &mut Services,
    options: ServeOptions,
    shutdown: impl Future,
    on_ready: impl FnOnce(&ServerInfo),
) -> Result<(), Error> {
    // From before the first link, so that it is logged.
    let mut events = replica.events();
    let workspace = replica.ensure_shared_workspace().await?;
    if !options.announce.is_empty() {
        replica.set_announce(&options.announce).await?;
    }
    let metrics = match &options.monitor {
        Some(monitor) => Some(services.offer_monitor(monitor).await?),
        None => None,
    };
    let api = match &options.api {
        Some(api) => Some(services.offer_api(api).await?),
        None => None,
    };
    let listening = replica.listen(&options.listen).await?;
    services.set_listening();
    let peer_id = replica.device().peer_id;
    let info = ServerInfo {
        peer_id,
        listening,
        api,
        api_token_file: options.api.map(|api| api.token_file),
        metrics,
    };
    tracing::info!(peer = %peer_id, workspace = %workspace.id, "serving");
    let executing = executor::run(replica.serving()?, options.executor);
    on_ready(&info);
    tokio::select! {
        _ = pin!(shutdown) => Ok(()),
        () = log(&mut events) => Ok(()),
        executed = executing => Ok(executed?),
    }
}

/// Logs what an operator would notice, until the replica is closed. Ids only: names and contents are
/// the members' own.
async fn log(events: &mut Events) {
    while let Some(event) = events.next().await {
        log_event(&event);
    }
}

fn log_event(event: &ReplicaEvent) {
    match event {
        ReplicaEvent::LinkUp { peer, workspaces } => {
            tracing::info!(%peer, workspaces = workspaces.len(), "link up");
        }
        ReplicaEvent::LinkDown { peer, why, .. } => tracing::info!(%peer, why, "link down"),
        ReplicaEvent::Refused { peer, code, .. } => tracing::warn!(%peer, ?code, "refused by peer"),
        ReplicaEvent::Offended {
            workspace,
            peer,
            offences,
            link_closed,
        } => {
            for offence in offences {
                let (document, what) = (&offence.document, &offence.what);
                tracing::warn!(%workspace, %peer, %document, what, link_closed, "a peer does not keep the protocol");
            }
        }
        ReplicaEvent::DocumentsRefused {
            workspace,
            peer,
            here,
            documents,
        } => {
            let documents = documents.len();
            tracing::warn!(%workspace, %peer, here, documents, "documents refused");
        }
        ReplicaEvent::DeviceEnrolled {
            peer, workspace, ..
        } => {
            tracing::info!(%peer, %workspace, "device enrolled");
        }
        ReplicaEvent::RolledBack { workspace, peer } => {
            tracing::warn!(%workspace, %peer, "this store was rolled back; comparing anew");
        }
        ReplicaEvent::FalseClaim { workspace, peer } => {
            tracing::warn!(%workspace, %peer, "a peer claims more of this store than there ever was");
        }
        ReplicaEvent::Stalled {
            workspace, peer, ..
        } => tracing::warn!(%workspace, %peer, "nothing moves; greeting anew"),
        ReplicaEvent::DocumentDamaged {
            workspace,
            document,
            what,
            lost,
        } => {
            tracing::error!(%workspace, %document, what, lost, "a document is damaged; asking peers");
        }
        ReplicaEvent::DocumentHealed {
            workspace,
            document,
        } => {
            tracing::info!(%workspace, %document, "a damaged document is whole again");
        }
        ReplicaEvent::DeviceLeft { peer, workspace } => {
            tracing::info!(%peer, %workspace, "device left");
        }
        ReplicaEvent::StoreFailed { message } => tracing::error!(message, "the store failed"),
        ReplicaEvent::LowSpace { message } => tracing::error!(message, "nothing is written"),
        ReplicaEvent::RoomAgain => tracing::info!("the disk has room again"),
        ReplicaEvent::IntegrationState {
            workspace,
            integration,
            state,
            code,
        } => {
            tracing::info!(%workspace, %integration, %state, code, "an integration was looked at");
        }
        ReplicaEvent::Verified {
            workspace, peer, ..
        } => {
            tracing::debug!(%workspace, %peer, "verified");
        }
        ReplicaEvent::Changed {
            workspace,
            documents,
            ..
        } => {
            tracing::debug!(%workspace, documents = documents.len(), "changed");
        }
        ReplicaEvent::Lagged { missed } => {
            tracing::warn!(missed, "events were missed in this log");
        }
        other => tracing::debug!(event = ?std::mem::discriminant(other), "happened"),
    }
}

#[cfg(test)]
mod tests;
