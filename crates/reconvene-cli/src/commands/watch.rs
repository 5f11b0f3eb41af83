//! `sync --watch` and `events`: stay connected and tell what happens, one event to a line.

use std::path::Path;

use reconvene::{OpenOptions, Replica, ReplicaEvent};
use reconvene_server::ServerInfo;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::commands::hosting;
use crate::exit;
use crate::failure::Failure;
use crate::human;
use crate::output::{Output, Reader, to_value};
use crate::session;
use crate::signals::Signals;

/// Which command watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `sync --watch`: syncing is the point, so it needs a server, or other devices.
    Sync {
        /// Other devices to keep a link to.
        with: Vec<String>,
        /// Where to let other devices in.
        listen: Vec<String>,
    },
    /// `events`: also tells what happens on a store that has not joined a server.
    Events,
}

/// Watches until told to stop, or until nobody reads any more.
pub(super) async fn run(data: &Path, kind: Kind, output: Output) -> Result<u8, Failure> {
    let mut signals = Signals::take()?;
    let replica = session::open(&OpenOptions::new(data).create(false)).await?;
    let mut host = None;
    let watched = match hosting::bind(data) {
        Ok(bound) => {
            host = Some(hosting::host(bound, &replica));
            watch(&replica, kind, output, &mut signals).await
        }
        Err(failure) => Err(failure),
    };
    if let Some(host) = host {
        host.close().await;
    }
    session::close(replica).await;
    watched.map(|()| exit::OK)
}

async fn watch(
    replica: &Replica,
    kind: Kind,
    output: Output,
    signals: &mut Signals,
) -> Result<(), Failure> {
    // From before the first link, so that it is told.
    let mut events = replica.events();
    let (with, listen) = match &kind {
        Kind::Sync { with, listen } => (&with[..], &listen[..]),
        Kind::Events => (&[][..], &[][..]),
    };
    let peer_id = replica.device().peer_id;
    if !listen.is_empty() {
        let listening = replica.listen(listen).await?;
        let info = to_value(&ServerInfo { peer_id, listening })?;
        output.answer(&info, human::listening)?;
    }
    let needs_server = kind != Kind::Events && with.is_empty() && listen.is_empty();
    match replica.connect().await {
        Err(error) if !needs_server && error.code() == "no_server" => {}
        connected => connected?,
    }
    replica.connect_to(with).await?;
    let ready = json!({ "event": "watching", "peer_id": peer_id });
    let mut reader = output.answer(&ready, human::event)?;
    while reader == Reader::Present {
        let event = tokio::select! {
            () = signals.stop() => break,
            event = next(&mut events) => event?,
        };
        match event {
            Some(event) => reader = output.answer(&event, human::event)?,
            None => return Err(Failure::new("closed", "the store was closed")),
        }
    }
    Ok(())
}

/// The next event; `None` when there will be none.
async fn next(events: &mut Receiver<ReplicaEvent>) -> Result<Option<Value>, Failure> {
    match events.recv().await {
        Ok(event) => to_value(&event).map(Some),
        // Told rather than passed over: whoever follows events must know that it missed some.
        Err(RecvError::Lagged(missed)) => Ok(Some(json!({ "event": "missed", "events": missed }))),
        Err(RecvError::Closed) => Ok(None),
    }
}
