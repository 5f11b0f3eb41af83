//! The way to the driver: what it can be asked, what it answers, and what it tells everyone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use reconvene_core::engine::{
    Compact, CompactHold, Edit, Enrolment, Event, JoinRequest, LinkStats, Moment, Purge,
    PurgeError, Restore, RestoreError, Restored, Stall, Trouble, Verified, Write,
};
use reconvene_core::feed::FeedPoint;
use reconvene_core::ids::{DocumentId, FeedSeq, LinkId, PeerId, WorkspaceId};
use reconvene_core::records::PeerRow;
use reconvene_core::storage::{JournalEntry, JournalReleases, StoreError};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::Error;
use crate::status::Traffic;

/// Something the driver is asked to do.
pub(crate) enum Command {
    Edit(Edit, oneshot::Sender<Result<(), Error>>),
    Write(Write, oneshot::Sender<Result<(), Error>>),
    /// A record of a document did not read; or some head row, feed entry or index row.
    Suspect(WorkspaceId, Option<DocumentId>),
    Compact(Box<Compact>, oneshot::Sender<Result<(), CompactHold>>),
    Purge(Purge, oneshot::Sender<Result<u64, PurgeError>>),
    Restore(Restore, oneshot::Sender<Result<Restored, RestoreError>>),
    Replay(Vec<JournalEntry>),
    Connect(PeerId, Vec<String>),
    Disconnect(PeerId),
    NetworkChanged,
    Resumed,
    Refresh(WorkspaceId),
    Leave {
        workspace: WorkspaceId,
        removing: bool,
    },
    Release(JournalReleases),
    Join(JoinRequest, oneshot::Sender<Result<Enrolment, Error>>),
    Listen(String, oneshot::Sender<Result<String, Error>>),
    Live(Option<WorkspaceId>, oneshot::Sender<Live>),
    Shutdown(oneshot::Sender<Result<(), Error>>),
}

/// A greeted link, as the status shows it.
#[derive(Clone, Debug)]
pub(crate) struct LinkInfo {
    pub(crate) peer: PeerId,
    pub(crate) stats: LinkStats,
    pub(crate) wire: reconvene_libp2p::LinkStats,
}

/// What the engine knows now and the store may not have been told yet.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) links: Vec<LinkInfo>,
    /// What each peer holds, of the workspaces in use that were asked for.
    pub(crate) peers: BTreeMap<WorkspaceId, BTreeMap<PeerId, PeerRow>>,
    /// What was verified of each peer since this replica was opened, of all workspaces.
    pub(crate) verified: BTreeMap<(WorkspaceId, PeerId), Verified>,
    /// The end of what is durable here, of the workspaces in use.
    pub(crate) released: BTreeMap<WorkspaceId, FeedPoint>,
    /// Workspaces whose servers have said which devices there are, since this replica was opened.
    pub(crate) shares_told: BTreeSet<WorkspaceId>,
    /// When this was taken.
    pub(crate) now: Moment,
    /// Where nothing moves although one side lacks something.
    pub(crate) stalls: BTreeMap<(PeerId, WorkspaceId), Stall>,
    /// Wanted peers that are not linked, and why.
    pub(crate) troubles: BTreeMap<PeerId, Trouble>,
    /// The addresses of wanted peers, those that worked last first.
    pub(crate) addresses: BTreeMap<PeerId, Vec<String>>,
    /// Why nothing is written at present, where the disk has too little room.
    pub(crate) low_space: Option<StoreError>,
    /// What all links carried, those that ended included.
    pub(crate) traffic: Traffic,
    pub(crate) barriers: u64,
    /// Why the store takes no more writes.
    pub(crate) store_failed: Option<String>,
    /// What peers are told.
    pub(crate) state_version: u32,
}

impl Live {
    pub(crate) fn is_linked(&self, peer: &PeerId) -> bool {
        self.links.iter().any(|link| link.peer == *peer)
    }
}

/// What the rest of the node hears from the driver.
#[derive(Clone, Debug)]
pub(crate) enum Notice {
    /// An event of the engine.
    Engine(Arc<Event>),
    /// A pass ended; the bytes are those of its link so far.
    PassComplete {
        link: LinkId,
        peer: PeerId,
        stats: LinkStats,
        wire: reconvene_libp2p::LinkStats,
    },
    /// A link is gone, and this is all it carried.
    LinkEnded {
        link: LinkId,
        wire: reconvene_libp2p::LinkStats,
    },
}

/// The way to the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct DriverHandle {
    commands: mpsc::Sender<Command>,
    notices: broadcast::Sender<Notice>,
}

impl DriverHandle {
    pub(super) fn new(commands: mpsc::Sender<Command>, notices: broadcast::Sender<Notice>) -> Self {
        Self { commands, notices }
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Closed)
    }

    /// Hands an edit over. When this returns, the engine will take it in this order; the receiver
    /// says when it is durable.
    pub(crate) async fn edit(
        &self,
        edit: Edit,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Edit(edit, sender)).await?;
        Ok(receiver)
    }

    pub(crate) async fn write(&self, write: Write) -> Result<(), Error> {
        let receiver = self.begin_write(write).await?;
        receiver.await.map_err(|_| Error::Closed)?
    }

    /// Has the engine replace what a stored snapshot holds, or say why not now.
    pub(crate) async fn compact(&self, compact: Compact) -> Result<Result<(), CompactHold>, Error> {
        let (sender, receiver) = oneshot::channel();
        let compact = Box::new(compact);
        self.send(Command::Compact(compact, sender)).await?;
        receiver.await.map_err(|_| Error::Closed)
    }

    /// Has the engine purge documents; how many were not purged before.
    pub(crate) async fn purge(&self, purge: Purge) -> Result<u64, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Purge(purge, sender)).await?;
        Ok(receiver.await.map_err(|_| Error::Closed)??)
    }

    /// Has the engine take in documents of an archive; what was taken is durable.
    pub(crate) async fn restore(&self, restore: Restore) -> Result<Restored, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Restore(restore, sender)).await?;
        Ok(receiver.await.map_err(|_| Error::Closed)??)
    }

    pub(crate) async fn begin_write(
        &self,
        write: Write,
    ) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Write(write, sender)).await?;
        Ok(receiver)
    }

    pub(crate) async fn join(&self, request: JoinRequest) -> Result<Enrolment, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Join(request, sender)).await?;
        receiver.await.map_err(|_| Error::Closed)?
    }

    pub(crate) async fn listen(&self, address: String) -> Result<String, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Listen(address, sender)).await?;
        receiver.await.map_err(|_| Error::Closed)?
    }

    /// What is known now of the links, and of the peers of one workspace or of all.
    pub(crate) async fn live(&self, workspace: Option<WorkspaceId>) -> Result<Live, Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Live(workspace, sender)).await?;
        receiver.await.map_err(|_| Error::Closed)
    }

    pub(crate) async fn shutdown(&self) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Command::Shutdown(sender)).await?;
        receiver.await.map_err(|_| Error::Closed)?
    }

    /// Has the engine look at what could not be read. Nothing waits for it: where there is no room for
    /// the question it is asked again when the damage is met again.
    pub(crate) fn suspect(&self, workspace: WorkspaceId, document: Option<DocumentId>) {
        self.suspicions().tell(workspace, document);
    }

    /// The same for who must not keep the driver running.
    pub(crate) fn suspicions(&self) -> Suspicions {
        Suspicions(self.commands.downgrade())
    }

    /// Has the indexer look at a workspace again.
    pub(crate) fn look_again(&self, workspace: WorkspaceId) {
        let event = Event::FeedAdvanced {
            workspace,
            seq: FeedSeq(0),
        };
        if self.notices.send(Notice::Engine(Arc::new(event))).is_err() {
            tracing::trace!("no indexer runs");
        }
    }

    pub(crate) fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }
}

/// A way to have the engine look at what could not be read.
#[derive(Clone, Debug)]
pub(crate) struct Suspicions(mpsc::WeakSender<Command>);

impl Suspicions {
    pub(crate) fn tell(&self, workspace: WorkspaceId, document: Option<DocumentId>) {
        let command = Command::Suspect(workspace, document);
        let sender = self.0.upgrade();
        if sender.is_none_or(|sender| sender.try_send(command).is_err()) {
            tracing::debug!(%workspace, "no room to ask about a damaged record");
        }
    }
}
