//! What happens on a replica, as a stream that says when its reader missed some of it.

use futures::Stream;
use futures::stream::unfold;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::ReplicaEvent;

/// The events of a replica from when this was made, in the order in which they happened. Made by
/// [`Replica::events`](crate::Replica::events).
///
/// A reader that stays away keeps nothing from happening: past
/// [`EVENTS_MAX`](crate::limits::EVENTS_MAX) it misses the oldest and is told how many.
#[derive(Debug)]
pub struct Events {
    /// `None` where the replica was closed already.
    receiver: Option<broadcast::Receiver<ReplicaEvent>>,
}

impl Events {
    pub(crate) fn new(receiver: Option<broadcast::Receiver<ReplicaEvent>>) -> Self {
        Self { receiver }
    }

    /// The next event; `None` once the replica is closed. Dropping this midway loses no event.
    pub async fn next(&mut self) -> Option<ReplicaEvent> {
        match self.receiver.as_mut()?.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(ReplicaEvent::Lagged { missed }),
            Err(RecvError::Closed) => None,
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = ReplicaEvent> + Send {
        unfold(self, async |mut events| {
            let event = events.next().await?;
            Some((event, events))
        })
    }
}

#[cfg(test)]
mod tests;
