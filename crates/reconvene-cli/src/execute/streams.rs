//! Requests that go on: each yields items until nobody takes them or the store is closed.

use reconvene::{Error, Events, Replica, ReplicaEvent, Subscription};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use crate::failure::Failure;
use crate::output::to_value;

/// Tells events as they happen, after a first item that says whose they are.
pub(super) async fn events(
    replica: &Replica,
    mut events: Events,
    items: &Sender<Value>,
) -> Result<Value, Failure> {
    let mut item = json!({ "event": "watching", "peer_id": replica.device().peer_id });
    loop {
        if items.send(item).await.is_err() {
            return Ok(Value::Null);
        }
        let event = tokio::select! {
            event = events.next() => event,
            () = items.closed() => return Ok(Value::Null),
        };
        item = to_value(&event.ok_or_else(|| Failure::from(Error::Closed))?)?;
    }
}

/// Tells the state of a replica now, and again whenever links, freshness or what is to be delivered
/// change.
pub(super) async fn status(replica: &Replica, items: &Sender<Value>) -> Result<Value, Failure> {
    // Both from before the first status, so that no change is missed.
    let mut pending = replica.watch_pending();
    let mut events = replica.events();
    // What is pending now is in the first status.
    pending.next().await?;
    loop {
        if items
            .send(to_value(&replica.status().await?)?)
            .await
            .is_err()
        {
            return Ok(Value::Null);
        }
        loop {
            tokio::select! {
                pending = pending.next() => {
                    pending?;
                    break;
                }
                event = events.next() => {
                    let event = event.ok_or_else(|| Failure::from(Error::Closed))?;
                    // A heartbeat changes only as of when things are fresh.
                    if !matches!(event, ReplicaEvent::Verified { .. }) {
                        break;
                    }
                }
                () = items.closed() => return Ok(Value::Null),
            }
        }
    }
}

/// Tells what a live query shows and what changes about it, a document to an item.
pub(super) async fn rows<R: Serialize + Send + 'static>(
    what: &'static str,
    mut subscription: Subscription<R>,
    items: &Sender<Value>,
) -> Result<Value, Failure> {
    loop {
        let batch = tokio::select! {
            batch = subscription.next() => batch?,
            () = items.closed() => return Ok(Value::Null),
        };
        let rows = |change: &'static str, rows: Vec<R>| {
            rows.into_iter()
                .map(move |row| json!({ "change": change, what: row }))
        };
        let gone = batch.removed.into_iter();
        let told = rows("added", batch.added)
            .chain(rows("changed", batch.changed))
            .chain(gone.map(|id| json!({ "change": "removed", "id": id })))
            .chain(batch.complete.then(|| json!({ "change": "complete" })));
        for item in told {
            if items.send(item).await.is_err() {
                return Ok(Value::Null);
            }
        }
    }
}
