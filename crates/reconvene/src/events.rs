//! What happens on a replica, as a stream that says when its reader missed some of it.

use futures::Stream;
use futures::stream::unfold;
use reconvene_core::ids::{DocumentId, PeerId, WorkspaceId};
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};

/// Something an app or a person watching may want to react to.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReplicaEvent {
    /// Documents changed by others are stored and in the index.
    Changed {
        /// The workspace.
        workspace: WorkspaceId,
        /// The documents, transcript pages among them.
        documents: Vec<DocumentId>,
        /// The meetings of which something changed, be it a page of their transcript.
        meetings: Vec<DocumentId>,
        /// Whether the workspace document changed: its projects or settings.
        projects: bool,
    },
    /// A pass with a peer is complete: both hold what the other held when the link came up.
    PassComplete {
        /// The peer.
        peer: PeerId,
        /// Documents of which changes were sent.
        documents_sent: u64,
        /// Documents of which changes were received.
        documents_received: u64,
    },
    /// Nothing the peer held is missing here.
    Verified {
        /// The workspace.
        workspace: WorkspaceId,
        /// The peer.
        peer: PeerId,
        /// As of when.
        as_of: reconvene_core::time::WallTime,
    },
    /// The workspace is fresh: its server, or where it has none a peer, was verified within the
    /// bound.
    Fresh {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// The workspace is not fresh any more.
    Stale {
        /// The workspace.
        workspace: WorkspaceId,
        /// As of when it was verified last.
        since: reconvene_core::time::WallTime,
    },
    /// The workspace's server has another state version than before: the index and what hangs on it
    /// are built anew from the documents. No edit is lost by it.
    StateVersionChanged {
        /// The workspace.
        workspace: WorkspaceId,
        /// The server.
        peer: PeerId,
        /// What it was.
        from: u32,
        /// What it is.
        to: u32,
    },
    /// What [`Self::StateVersionChanged`] began is done.
    Rebuilt {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// A server is back, nothing that it had is missing here, and lists show all of it. Live queries
    /// tell the same in one batch, unless it took longer than
    /// [`CATCH_UP_HOLD`](crate::limits::CATCH_UP_HOLD).
    CaughtUp {
        /// The workspace.
        workspace: WorkspaceId,
        /// The server.
        peer: PeerId,
        /// The meetings of which something changed meanwhile, by others than this device; at most
        /// [`CAUGHT_UP_MEETINGS_MAX`](crate::limits::CAUGHT_UP_MEETINGS_MAX).
        meetings: Vec<DocumentId>,
        /// How many meetings those are in all.
        changed: u64,
        /// How many of them show a conflict.
        conflicts: u64,
    },
    /// A link is up and both sides have greeted.
    LinkUp {
        /// The peer.
        peer: PeerId,
        /// The workspaces shared over it.
        workspaces: Vec<WorkspaceId>,
    },
    /// A peer is not reachable, or no longer.
    LinkDown {
        /// The peer.
        peer: PeerId,
        /// Why.
        why: String,
        /// Whether it will be tried again.
        retrying: bool,
    },
    /// A peer refused the link.
    Refused {
        /// The peer.
        peer: PeerId,
        /// The code.
        code: reconvene_core::refusal::RefusalCode,
        /// The same for people.
        message: String,
        /// With the code `fault`: what of this replica's it was.
        fault: Option<reconvene_core::wire::Fault>,
    },
    /// A peer sent what no peer sends that keeps the protocol. It was refused, and its bytes are in
    /// quarantine.
    Offended {
        /// The workspace.
        workspace: WorkspaceId,
        /// The peer.
        peer: PeerId,
        /// What it was, without what was known of the peer before.
        offences: Vec<crate::status::OffenceStatus>,
        /// Whether the link was closed for it.
        link_closed: bool,
    },
    /// Documents were refused, here or there.
    DocumentsRefused {
        /// The workspace.
        workspace: WorkspaceId,
        /// The peer.
        peer: PeerId,
        /// Whether this side refused them.
        here: bool,
        /// The documents and why.
        documents: Vec<(DocumentId, reconvene_core::refusal::RefusalCode)>,
    },
    /// A device was enrolled on this server.
    DeviceEnrolled {
        /// The device.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
        /// Its name.
        device_name: String,
    },
    /// A peer remembers more of this store than it holds: it was rolled back, and compares anew.
    RolledBack {
        /// The workspace.
        workspace: WorkspaceId,
        /// The peer.
        peer: PeerId,
    },
    /// A peer claims more of this store than there ever was; only that peer is compared anew.
    FalseClaim {
        /// The workspace.
        workspace: WorkspaceId,
        /// The peer.
        peer: PeerId,
    },
    /// Something is missing here or there, and nothing moves on the link; the two greet anew.
    Stalled {
        /// The workspace.
        workspace: WorkspaceId,
        /// The peer.
        peer: PeerId,
        /// Since when nothing moves.
        since: reconvene_core::time::WallTime,
    },
    /// Records of a document were damaged. They are kept in quarantine; what is left of the document
    /// can be read, and peers are asked for what was lost, until `DocumentHealed`.
    DocumentDamaged {
        /// The workspace.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
        /// What is damaged, for people.
        what: String,
        /// Changes that are known by name to be lost.
        lost: u64,
    },
    /// Everything is back that was lost of a damaged document.
    DocumentHealed {
        /// The workspace.
        workspace: WorkspaceId,
        /// The document.
        document: DocumentId,
    },
    /// The server told of other devices of the workspace than before.
    DevicesChanged {
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// A device took itself out of a workspace of this server.
    DeviceLeft {
        /// The device.
        peer: PeerId,
        /// The workspace.
        workspace: WorkspaceId,
    },
    /// More workspaces are shared with a peer than a link carries; the others are not synced.
    TooManyWorkspaces {
        /// The peer.
        peer: PeerId,
    },
    /// The store failed; edits fail until it is opened again.
    StoreFailed {
        /// Why.
        message: String,
    },
    /// The disk has too little room: edits are refused and nothing of peers is taken until it has.
    LowSpace {
        /// What is free, and what has to be.
        message: String,
    },
    /// The disk has room again.
    RoomAgain,
    /// An integration was found not to work, or to work again.
    IntegrationState {
        /// The workspace.
        workspace: WorkspaceId,
        /// The integration.
        integration: DocumentId,
        /// Whether it works.
        state: reconvene_model::IntegrationState,
        /// A stable word for what is wrong.
        code: Option<String>,
    },
    /// Something needs the member, or does so no more: an entry of their inbox.
    InboxEntry {
        /// The entry.
        entry: DocumentId,
        /// A stable word for what is wrong.
        code: String,
        /// Whether it is open.
        open: bool,
    },
    /// This reader was away for too long, and events were dropped for it. What is held and shown may
    /// have changed in any way.
    Lagged {
        /// How many.
        missed: u64,
    },
}

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
