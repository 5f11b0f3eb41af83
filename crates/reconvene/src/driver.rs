//! The one task that owns the engine, and everything it does on the engine's behalf: storing,
//! reading, dialling, sending, waking. It decides nothing.
//!
//! Others talk to it through [`DriverHandle`]: bounded messages in, oneshot answers and broadcast
//! events out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reconvene_core::engine::{
    CloseReason, CompactHold, EditError, Engine, Enrolment, Event, Input, Moment, Output,
    PurgeError, ReadQuery, ReadResult, RestoreError, Restored, SendStored, stored_frames,
};
use reconvene_core::examine;
use reconvene_core::ids::{
    BatchId, DocumentId, DocumentKind, LinkId, PeerId, ReadId, RequestId, WorkspaceId,
};
use reconvene_core::keys::Key;
use reconvene_core::records::PeerRow;
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Batch, StoreError, StoreRead as _};
use reconvene_core::stored;
use reconvene_libp2p::{Direction, Identity, Network, NetworkConfig, NetworkEvent, SendError};
use reconvene_model::{MaterialiseCounter, snapshot};
use reconvene_sled::{Completion, SledReader, SledStore, SubmitError, Writer};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

use crate::Error;
use crate::clock::Clock;
use crate::documents::Documents;
use crate::status::Traffic;
use crate::subscriptions::{RowPlace, Subscriptions};

mod handle;

pub(crate) use handle::{Command, DriverHandle, LinkInfo, Live, Notice, Suspicions};

/// Commands waiting for the driver; senders wait beyond it.
const COMMANDS_MAX: usize = 1024;
/// Engine events a slow listener may lag behind before it misses some.
const EVENTS_MAX: usize = 4096;
/// Documents and snapshots loaded for the engine at a time; further ones wait.
const LOADS_MAX: usize = 2;
/// Inputs taken from one source before the next source gets its turn.
const TURN_INPUTS_MAX: usize = 64;

/// How often a driver with links looks whether the machine slept.
const SLEEP_CHECK_EVERY: Duration = Duration::from_secs(2);

/// A finished piece of local work.
enum LocalDone {
    Store(Completion),
    Read(ReadId, Result<ReadResult, StoreError>),
    SendFailed(LinkId, WorkspaceId, Option<DocumentId>, StoreError),
}

/// What goes out on one link, in order.
enum Outgoing {
    Frame(Bytes),
    Stored(SendStored),
    Close { flush: bool },
}

/// Starts the driver on the current runtime.
pub(crate) fn start(
    engine: Engine,
    clock: Clock,
    store: SledStore,
    reader: SledReader,
    identity: Identity,
    documents: Arc<Documents>,
    subscriptions: Arc<Subscriptions>,
) -> Result<DriverHandle, Error> {
    let (commands, command_receiver) = mpsc::channel(COMMANDS_MAX);
    let (notices, _) = broadcast::channel(EVENTS_MAX);
    // Bounded by what the driver asked for: one answer per batch, read and stored frame in flight.
    let (done, done_receiver) = mpsc::unbounded_channel();
    let completions = done.clone();
    let writer = Writer::spawn(store, move |completion| {
        // The driver may have ended; nobody is left to be told then.
        if completions.send(LocalDone::Store(completion)).is_err() {
            tracing::debug!("a batch completed after the driver ended");
        }
    })
    .map_err(|source| Error::Io {
        what: "the store's writer could not be started".to_owned(),
        source,
    })?;
    let driver = Driver {
        engine,
        clock,
        slept: false,
        writer: Some(writer),
        reader,
        documents,
        loading: Arc::new(Semaphore::new(LOADS_MAX)),
        identity,
        network: None,
        commands: command_receiver,
        done,
        done_receiver,
        notices: notices.clone(),
        subscriptions,
        rows: BTreeMap::new(),
        edits: BTreeMap::new(),
        writes: BTreeMap::new(),
        compactions: BTreeMap::new(),
        purges: BTreeMap::new(),
        restores: BTreeMap::new(),
        joins: BTreeMap::new(),
        listens: BTreeMap::new(),
        links: HashMap::new(),
        failed_batches: Vec::new(),
        failed_dials: Vec::new(),
        traffic: Traffic::default(),
        store_failed: None,
    };
    tokio::spawn(driver.run());
    Ok(DriverHandle::new(commands, notices))
}

struct Driver {
    engine: Engine,
    clock: Clock,
    /// The machine slept, and the engine does not know yet.
    slept: bool,
    writer: Option<Writer<SledStore>>,
    reader: SledReader,
    documents: Arc<Documents>,
    /// Turns for what loads documents for the engine.
    loading: Arc<Semaphore>,
    identity: Identity,
    /// Started when something is dialled or listened to for the first time.
    network: Option<(Network, mpsc::Receiver<NetworkEvent>)>,
    commands: mpsc::Receiver<Command>,
    done: mpsc::UnboundedSender<LocalDone>,
    done_receiver: mpsc::UnboundedReceiver<LocalDone>,
    notices: broadcast::Sender<Notice>,
    subscriptions: Arc<Subscriptions>,
    /// Index rows in batches that are on their way to the store.
    rows: BTreeMap<BatchId, Vec<RowPlace>>,
    edits: BTreeMap<RequestId, oneshot::Sender<Result<(), Error>>>,
    writes: BTreeMap<RequestId, oneshot::Sender<Result<(), Error>>>,
    compactions: BTreeMap<RequestId, oneshot::Sender<Result<(), CompactHold>>>,
    purges: BTreeMap<RequestId, oneshot::Sender<Result<u64, PurgeError>>>,
    restores: BTreeMap<RequestId, (WorkspaceId, oneshot::Sender<Result<Restored, RestoreError>>)>,
    joins: BTreeMap<RequestId, oneshot::Sender<Result<Enrolment, Error>>>,
    listens: BTreeMap<String, oneshot::Sender<Result<String, Error>>>,
    /// Only ever looked up by key, or summed over.
    links: HashMap<LinkId, mpsc::UnboundedSender<Outgoing>>,
    /// Batches the writer did not take and dials the network did not, to be told to the engine.
    failed_batches: Vec<(BatchId, StoreError)>,
    failed_dials: Vec<(PeerId, String)>,
    /// What links that ended carried.
    traffic: Traffic,
    store_failed: Option<String>,
}

/// One thing the loop woke up for.
enum Turn {
    Done(LocalDone),
    Wake,
    Command(Command),
    Network(NetworkEvent),
    Ended,
}

impl Driver {
    async fn run(mut self) {
        loop {
            let turn = self.next_turn().await;
            match turn {
                Turn::Done(done) => {
                    self.on_done(done);
                    for _ in 0..TURN_INPUTS_MAX {
                        let Ok(done) = self.done_receiver.try_recv() else {
                            break;
                        };
                        self.on_done(done);
                    }
                }
                Turn::Wake => self.on_timer(),
                Turn::Command(Command::Shutdown(answer)) => {
                    let outcome = self.shut_down().await;
                    if answer.send(outcome).is_err() {
                        tracing::debug!("nobody waited for the shutdown");
                    }
                    return;
                }
                Turn::Command(command) => self.on_command(command),
                Turn::Network(event) => self.on_network(event),
                Turn::Ended => {
                    // Every handle is gone without a close: still end in order.
                    if let Err(error) = self.shut_down().await {
                        tracing::warn!(%error, "the store did not close cleanly");
                    }
                    return;
                }
            }
        }
    }

    /// Finished local work first, timers next, new work last.
    async fn next_turn(&mut self) -> Turn {
        let now = self.now().tick;
        let wait = self.engine.wake_at().map(|wake| wake.at - now);
        // Timers stand still while the machine sleeps: only looking tells that it did.
        let wait = match wait {
            _ if self.slept => Some(Duration::ZERO),
            Some(wait) if self.engine.is_networked() => Some(wait.min(SLEEP_CHECK_EVERY)),
            None if self.engine.is_networked() => Some(SLEEP_CHECK_EVERY),
            wait => wait,
        };
        let network = async {
            match &mut self.network {
                Some((_, events)) => match events.recv().await {
                    Some(event) => event,
                    None => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        let timer = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let moved = self.clock.moved();
        tokio::select! {
            biased;
            Some(done) = self.done_receiver.recv() => Turn::Done(done),
            () = timer => Turn::Wake,
            () = moved => Turn::Wake,
            command = self.commands.recv() => command.map_or(Turn::Ended, Turn::Command),
            event = network => Turn::Network(event),
        }
    }

    fn on_timer(&mut self) {
        let now = self.now().tick;
        if std::mem::take(&mut self.slept) {
            tracing::info!("the machine slept; links are looked at");
            self.input(Input::Resumed);
        }
        if self.engine.wake_at().is_some_and(|wake| wake.at <= now) {
            self.input(Input::Wake);
        }
    }

    /// The moment; takes note if the machine slept since the last one.
    fn now(&mut self) -> Moment {
        let reading = self.clock.now();
        self.slept |= reading.slept;
        reading.moment
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        self.engine.handle(now, input);
        self.drain();
        // What could not even be begun is told to the engine as what happened.
        while !self.failed_batches.is_empty() || !self.failed_dials.is_empty() {
            let now = self.now();
            if let Some((batch, error)) = self.failed_batches.pop() {
                self.rows.remove(&batch);
                self.engine.handle(now, Input::BatchFailed { batch, error });
            } else if let Some((peer, why)) = self.failed_dials.pop() {
                self.engine.handle(now, Input::DialFailed { peer, why });
            }
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::StoreBatch(batch) => {
                let Some(writer) = &self.writer else {
                    return self.failed_batches.push((batch.id, StoreError::Closed));
                };
                let rows = index_rows(&batch);
                if !rows.is_empty() {
                    self.rows.insert(batch.id, rows);
                }
                match writer.submit(batch) {
                    Ok(()) => {}
                    Err(SubmitError::Full(batch)) => {
                        let what = "too many batches wait for the disk".to_owned();
                        self.failed_batches
                            .push((batch.id, StoreError::Io { what }));
                    }
                    Err(SubmitError::Closed(batch)) => {
                        self.failed_batches.push((batch.id, StoreError::Closed));
                    }
                    Err(other) => unreachable!("an unknown refusal of the writer: {other}"),
                }
            }
            Output::AskRoom => {
                let asked = self.writer.as_ref().is_some_and(Writer::ask_room);
                if !asked
                    && self
                        .done
                        .send(LocalDone::Store(Completion::Room(Err(StoreError::Closed))))
                        .is_err()
                {
                    tracing::debug!("the store was asked for room after the driver ended");
                }
            }
            Output::Read { read, query } => {
                let reader = self.reader.clone();
                let done = self.done.clone();
                let counter = self.documents.counter_handle();
                let loads = matches!(
                    query,
                    ReadQuery::Inspect(_)
                        | ReadQuery::Holds { .. }
                        | ReadQuery::Beyond { .. }
                        | ReadQuery::Search { .. }
                        | ReadQuery::Owner { .. }
                        | ReadQuery::FeedEnd(_)
                        | ReadQuery::Examine { .. }
                );
                let work = move || {
                    let result = run_query(&reader, query, &counter);
                    if done.send(LocalDone::Read(read, result)).is_err() {
                        tracing::debug!("a read finished after the driver ended");
                    }
                };
                if loads {
                    let turn = Arc::clone(&self.loading).acquire_owned();
                    let done = self.done.clone();
                    tokio::spawn(async move {
                        let _turn = turn.await; // Given back when the load is done.
                        if let Err(error) = tokio::task::spawn_blocking(work).await {
                            // The engine waits for every read it asked for.
                            let what = format!("a load did not end: {error}");
                            let failed = LocalDone::Read(read, Err(StoreError::Io { what }));
                            if done.send(failed).is_err() {
                                tracing::debug!("a load failed after the driver ended");
                            }
                        }
                    });
                } else {
                    tokio::task::spawn_blocking(work);
                }
            }
            Output::ReleaseJournal(releases) => {
                if let Some(writer) = &self.writer {
                    writer.release(releases);
                }
            }
            Output::SendFrame { link, frame } => self.send(link, Outgoing::Frame(frame)),
            Output::SendStored(stored) => self.send(stored.link, Outgoing::Stored(stored)),
            Output::AdmitLink { link } => {
                if let Some((network, _)) = &self.network {
                    network.admit(link);
                }
            }
            Output::CloseLink { link, why } => {
                tracing::debug!(%link, ?why, "link closed here");
                let flush = matches!(why, CloseReason::Refused(_) | CloseReason::Finished);
                self.send(link, Outgoing::Close { flush });
                self.links.remove(&link);
            }
            Output::Dial { peer, addresses } => {
                let dialed = match self.network() {
                    Ok(network) => network
                        .dial(peer, addresses)
                        .map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(why) = dialed {
                    self.failed_dials.push((peer, why));
                }
            }
            Output::Event(event) => self.on_event(event),
        }
    }

    fn send(&mut self, link: LinkId, outgoing: Outgoing) {
        if let Some(sender) = self.links.get(&link)
            && sender.send(outgoing).is_err()
        {
            tracing::debug!(%link, "the link went down before this could be sent");
        }
    }

    fn network(&mut self) -> Result<&Network, Error> {
        if self.network.is_none() {
            let started = Network::start(self.identity.clone(), NetworkConfig::default())?;
            self.network = Some(started);
        }
        match &self.network {
            Some((network, _)) => Ok(network),
            None => Err(Error::Closed),
        }
    }

    fn on_done(&mut self, done: LocalDone) {
        match done {
            LocalDone::Store(Completion::Journaled(id)) => self.input(Input::Journaled(id)),
            LocalDone::Store(Completion::Stored(id)) => {
                self.mark_rows(id);
                self.input(Input::Stored(id));
            }
            LocalDone::Store(Completion::Failed { id, error }) => {
                self.rows.remove(&id);
                self.input(Input::BatchFailed { batch: id, error });
            }
            LocalDone::Store(Completion::Unknown { id, error }) => {
                // They may be there: whoever is interested looks.
                self.mark_rows(id);
                self.input(Input::BatchUnknown { batch: id, error });
            }
            LocalDone::Store(Completion::Room(room)) => self.input(Input::Room(room)),
            LocalDone::Store(other) => tracing::error!(?other, "an unknown completion"),
            LocalDone::Read(read, result) => self.input(Input::ReadDone { read, result }),
            LocalDone::SendFailed(link, workspace, document, error) => {
                self.input(Input::SendFailed {
                    link,
                    workspace,
                    document,
                    error,
                });
            }
        }
    }

    /// Tells live queries of the rows that a batch made visible.
    fn mark_rows(&mut self, batch: BatchId) {
        if let Some(rows) = self.rows.remove(&batch) {
            self.subscriptions.mark(&rows);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Edit(edit, answer) => {
                self.edits.insert(edit.request, answer);
                self.input(Input::Edit(edit));
            }
            Command::Write(write, answer) => {
                self.writes.insert(write.request, answer);
                self.input(Input::Write(write));
            }
            Command::Suspect(workspace, document) => self.input(Input::Suspect {
                workspace,
                document,
            }),
            Command::Compact(compact, answer) => {
                self.compactions.insert(compact.request, answer);
                self.input(Input::Compact(compact));
            }
            Command::Purge(purge, answer) => {
                self.purges.insert(purge.request, answer);
                self.input(Input::Purge(purge));
            }
            Command::Restore(restore, answer) => {
                let waiting = (restore.workspace, answer);
                self.restores.insert(restore.request, waiting);
                self.input(Input::Restore(restore));
            }
            Command::Replay(entries) => self.input(Input::Replay(entries)),
            Command::Connect(peer, addresses) => self.input(Input::Connect { peer, addresses }),
            Command::Disconnect(peer) => self.input(Input::Disconnect { peer }),
            Command::NetworkChanged => self.input(Input::NetworkChanged),
            Command::Resumed => self.input(Input::Resumed),
            Command::Refresh(workspace) => self.input(Input::Refresh(workspace)),
            Command::Leave {
                workspace,
                removing,
            } => self.input(Input::Leave {
                workspace,
                removing,
            }),
            Command::Release(releases) => {
                if let Some(writer) = self.writer.as_ref().filter(|_| !releases.is_empty()) {
                    writer.release(releases);
                }
            }
            Command::Join(request, answer) => {
                self.joins.insert(request.request, answer);
                self.input(Input::Join(request));
            }
            Command::Listen(address, answer) => self.listen(address, answer),
            Command::Live(workspace, answer) => {
                let live = self.live(workspace);
                reply(answer, live);
            }
            Command::Shutdown(_) => unreachable!("the loop handles the shutdown"),
        }
    }

    fn live(&mut self, workspace: Option<WorkspaceId>) -> Live {
        let now = self.now();
        let links = self.engine.links().map(|(link, peer, stats)| LinkInfo {
            peer,
            stats,
            wire: self.wire_stats(link),
        });
        let peers = self.engine.peers(workspace).map(|(workspace, peers)| {
            (
                workspace,
                peers.map(|(peer, row)| (peer, row.clone())).collect(),
            )
        });
        let mut peers: BTreeMap<_, BTreeMap<PeerId, PeerRow>> = peers.collect();
        for (workspace, peer, document, code) in self.engine.refused_before() {
            let known = peers.get_mut(&workspace);
            if let Some(row) = known.and_then(|known| known.get_mut(&peer)) {
                row.refused_there.entry(document).or_insert(code);
            }
        }
        Live {
            links: links.collect(),
            peers,
            verified: self
                .engine
                .verified()
                .map(|(workspace, peer, verified)| ((workspace, peer), verified))
                .collect(),
            released: self.engine.released().collect(),
            shares_told: self.engine.shares_told().collect(),
            now,
            stalls: self
                .engine
                .stalls()
                .map(|(peer, workspace, stall)| ((peer, workspace), stall))
                .collect(),
            troubles: self
                .engine
                .troubles()
                .map(|(peer, trouble)| (peer, trouble.clone()))
                .collect(),
            addresses: self
                .engine
                .addresses()
                .map(|(peer, addresses)| (peer, addresses.to_vec()))
                .collect(),
            low_space: self.engine.low_space().cloned(),
            traffic: self.links.keys().fold(self.traffic, |mut sum, link| {
                sum.add(&self.wire_stats(*link));
                sum
            }),
            barriers: self.writer.as_ref().map_or(0, Writer::barriers),
            store_failed: self.store_failed.clone(),
            state_version: self.engine.state_version(),
        }
    }

    fn listen(&mut self, address: String, answer: oneshot::Sender<Result<String, Error>>) {
        let listening = match self.network() {
            Ok(network) => network.listen(&address).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match listening {
            Ok(()) => {
                self.listens.insert(address, answer);
            }
            Err(why) => reply(answer, Err(Error::Listen { address, why })),
        }
    }

    fn wire_stats(&self, link: LinkId) -> reconvene_libp2p::LinkStats {
        let network = self.network.as_ref().map(|(network, _)| network);
        network
            .and_then(|network| network.link_stats(link))
            .unwrap_or_default()
    }

    fn on_network(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Listening { address } => {
                // One listen is asked for at a time.
                if let Some((_, answer)) = self.listens.pop_first() {
                    reply(answer, Ok(address));
                }
            }
            NetworkEvent::ListenFailed { address, why } => {
                if let Some((_, answer)) = self.listens.pop_first() {
                    reply(
                        answer,
                        Err(Error::Listen {
                            address,
                            why: why.to_string(),
                        }),
                    );
                }
            }
            NetworkEvent::LinkUp {
                link,
                peer,
                direction,
                address,
            } => {
                tracing::debug!(%link, %peer, ?direction, "link up");
                if let Some((network, _)) = &self.network {
                    // Bounded by the engine: bulk by the link's window, the rest answers frames that
                    // came; a peer that takes nothing is cut off by the write deadline.
                    let (sender, receiver) = mpsc::unbounded_channel();
                    self.links.insert(link, sender);
                    tokio::spawn(send_in_order(
                        link,
                        receiver,
                        network.clone(),
                        self.reader.clone(),
                        self.done.clone(),
                    ));
                }
                let dialed = direction == Direction::Dialed;
                self.input(Input::LinkUp { link, peer, dialed });
                if dialed {
                    self.input(Input::Reached { peer, address });
                }
            }
            NetworkEvent::FrameArrived { link, frame } => {
                self.input(Input::FrameArrived { link, frame });
            }
            NetworkEvent::LinkDown { link, why, stats } => {
                tracing::debug!(%link, %why, "link down");
                self.links.remove(&link);
                self.traffic.add(&stats);
                self.notify(Notice::LinkEnded { link, wire: stats });
                self.input(Input::LinkDown {
                    link,
                    why: why.to_string(),
                });
            }
            NetworkEvent::DialFailed { peer, why } => {
                self.input(Input::DialFailed {
                    peer,
                    why: dial_failure(&why),
                });
            }
            other => tracing::error!(?other, "an unknown network event"),
        }
    }

    fn on_event(&mut self, event: Event) {
        match &event {
            Event::EditDurable { request, .. } => {
                if let Some(answer) = self.edits.remove(request) {
                    reply(answer, Ok(()));
                }
                return;
            }
            Event::EditRefused { request, error } => {
                if let Some(answer) = self.edits.remove(request) {
                    reply(answer, Err(edit_error(error.clone())));
                }
                return;
            }
            Event::WriteDone { request } => {
                if let Some(answer) = self.writes.remove(request) {
                    reply(answer, Ok(()));
                }
                return;
            }
            Event::WriteFailed { request, error } => {
                if let Some(answer) = self.writes.remove(request) {
                    reply(answer, Err(Error::Store(error.clone())));
                }
                return;
            }
            Event::Compacted { request } => {
                if let Some(answer) = self.compactions.remove(request) {
                    reply(answer, Ok(()));
                }
                return;
            }
            Event::CompactRefused { request, why } => {
                if let Some(answer) = self.compactions.remove(request) {
                    reply(answer, Err(why.clone()));
                }
                return;
            }
            Event::Purged { request, documents } => {
                if let Some(answer) = self.purges.remove(request) {
                    reply(answer, Ok(*documents));
                }
                return;
            }
            Event::PurgeRefused { request, error } => {
                if let Some(answer) = self.purges.remove(request) {
                    reply(answer, Err(error.clone()));
                }
                return;
            }
            Event::Restored { request, restored } => {
                if let Some((workspace, answer)) = self.restores.remove(request) {
                    // Open ones have to be read anew.
                    for document in &restored.documents {
                        self.documents.note_replaced(workspace, *document);
                    }
                    reply(answer, Ok(restored.clone()));
                }
                return;
            }
            Event::RestoreRefused { request, error } => {
                if let Some((_, answer)) = self.restores.remove(request) {
                    reply(answer, Err(error.clone()));
                }
                return;
            }
            Event::Joined { request, enrolment } => {
                if let Some(answer) = self.joins.remove(request) {
                    reply(answer, Ok(enrolment.clone()));
                }
            }
            Event::JoinFailed { request, code, why } => {
                if let Some(answer) = self.joins.remove(request) {
                    reply(answer, Err(join_error(*code, why.clone())));
                }
            }
            Event::PassComplete { link, peer, stats } => {
                let wire = self.wire_stats(*link);
                self.notify(Notice::PassComplete {
                    link: *link,
                    peer: *peer,
                    stats: *stats,
                    wire,
                });
            }
            Event::DocumentDamaged {
                workspace,
                document,
                what,
                lost,
            } => {
                tracing::error!(%document, what, lost, "a document is damaged");
                self.documents.note_damaged(*workspace, *document);
            }
            // Noted before anyone hears what is verified now: an open document never shows less.
            Event::DocumentChanged {
                workspace,
                document,
                changes,
                snapshot,
                ..
            } => {
                if *snapshot {
                    self.documents.note_replaced(*workspace, *document);
                } else {
                    self.documents.note_remote(*workspace, *document, changes);
                }
            }
            Event::DocumentPurged {
                workspace,
                document,
                ..
            } => self.documents.note_replaced(*workspace, *document),
            Event::StoreFailed { error } => {
                tracing::error!(%error, "the store failed");
                if !matches!(error, StoreError::LowSpace { .. }) {
                    self.store_failed = Some(error.to_string());
                }
                self.documents.forget_all();
            }
            Event::RoomAgain => tracing::info!("the disk has room again"),
            Event::JournalUnreadable { workspace, through } => {
                tracing::error!(%workspace, %through, "a journal frame is unreadable and is kept");
            }
            _ => tracing::trace!(?event, "engine"),
        }
        self.notify(Notice::Engine(Arc::new(event)));
    }

    fn notify(&self, notice: Notice) {
        // Without listeners there is nobody to tell.
        if self.notices.send(notice).is_err() {
            tracing::trace!("an event without listeners");
        }
    }

    async fn shut_down(&mut self) -> Result<(), Error> {
        self.commands.close();
        self.subscriptions.close();
        self.input(Input::Close);
        if let Some((network, mut events)) = self.network.take() {
            let drain = async { while events.recv().await.is_some() {} };
            tokio::select! {
                () = network.shutdown() => {}
                () = drain => {}
            }
        }
        // What was taken is carried through, also where it first waited for a read.
        let settle = async {
            while !self.engine.is_idle() {
                match self.done_receiver.recv().await {
                    Some(done) => self.on_done(done),
                    None => break,
                }
            }
        };
        if tokio::time::timeout(SETTLE_DEADLINE, settle).await.is_err() {
            tracing::error!("edits were still waiting for the store when it was closed");
        }
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let closed = tokio::task::spawn_blocking(move || writer.shutdown()?.close()).await;
        // Edits that became durable on the way out are still told.
        while let Ok(done) = self.done_receiver.try_recv() {
            if matches!(done, LocalDone::Store(_)) {
                self.on_done(done);
            }
        }
        closed.map_err(|_| Error::Closed)?.map_err(Error::Store)
    }
}

/// The index rows that a batch writes or removes, whoever made it.
fn index_rows(batch: &Batch) -> Vec<RowPlace> {
    let keys = batch.puts.iter().map(|(key, _)| key);
    let places = keys.chain(&batch.deletes).filter_map(Key::index_place);
    places
        .map(|(workspace, kind, document)| RowPlace {
            workspace,
            kind,
            document,
        })
        .collect()
}

fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    if answer.send(value).is_err() {
        tracing::trace!("the one who asked went away");
    }
}

fn edit_error(error: EditError) -> Error {
    Error::Edit(error)
}

fn join_error(code: Option<RefusalCode>, why: String) -> Error {
    match code {
        Some(code) => Error::Refused { code, message: why },
        None => Error::Unreachable(why),
    }
}

fn dial_failure(why: &reconvene_libp2p::DialFailure) -> String {
    match why {
        reconvene_libp2p::DialFailure::Unreachable { attempts } => {
            let attempts: Vec<_> = attempts
                .iter()
                .map(|(address, kind)| format!("{address}: {kind}"))
                .collect();
            attempts.join("; ")
        }
        other => other.to_string(),
    }
}

fn run_query(
    reader: &SledReader,
    query: ReadQuery,
    counter: &MaterialiseCounter,
) -> Result<ReadResult, StoreError> {
    Ok(match query {
        ReadQuery::Values(keys) => {
            let values = keys.iter().map(|key| reader.read(key));
            ReadResult::Values(values.collect::<Result<_, _>>()?)
        }
        ReadQuery::Presence(keys) => {
            let present = keys.iter().map(|key| reader.contains(key));
            ReadResult::Presence(present.collect::<Result<_, _>>()?)
        }
        ReadQuery::Scan(scan) => ReadResult::Rows(reader.scan(&scan)?),
        ReadQuery::Inspect(received) => {
            let inspected = received.iter().map(|(kind, body)| {
                snapshot::inspect(*kind, body, counter).map_err(|error| {
                    tracing::warn!(%error, "a snapshot is refused");
                    error.refusal()
                })
            });
            ReadResult::Inspected(inspected.collect())
        }
        ReadQuery::Holds {
            workspace,
            document,
            hashes,
        } => {
            let (kind, chunks) = stored_document(reader, workspace, document)?;
            let chunks = chunks.iter().map(|chunk| &chunk[..]);
            let held = snapshot::holds(kind, chunks, &hashes, counter);
            ReadResult::Presence(held.map_err(|error| unloadable(document, &error))?)
        }
        ReadQuery::Beyond {
            workspace,
            document,
            known,
        } => {
            let (kind, chunks) = stored_document(reader, workspace, document)?;
            let chunks = chunks.iter().map(|chunk| &chunk[..]);
            let changes = snapshot::beyond(kind, chunks, &known, counter);
            let changes = changes.map_err(|error| unloadable(document, &error))?;
            ReadResult::Changes(changes.into_iter().map(Bytes::from).collect())
        }
        ReadQuery::Search { workspace, ranges } => {
            ReadResult::Found(examine::search(reader, &workspace, &ranges)?)
        }
        ReadQuery::Owner { workspace, seq } => {
            ReadResult::Found(vec![examine::missing_entry(reader, &workspace, seq)?])
        }
        ReadQuery::FeedEnd(workspace) => {
            ReadResult::FeedEnd(examine::feed_end(reader, &workspace)?)
        }
        ReadQuery::Examine {
            workspace,
            document,
            roots,
        } => {
            let journal = reader.journal_entries()?;
            let place = (&workspace, &document);
            let inspect = |kind, body: &Bytes| snapshot::inspect(kind, body, counter).ok();
            let examined = examine::examine(reader, &journal, place, &roots, &inspect)?;
            ReadResult::Examined(Box::new(examined))
        }
    })
}

fn stored_document(
    reader: &SledReader,
    workspace: WorkspaceId,
    document: DocumentId,
) -> Result<(DocumentKind, Vec<Bytes>), StoreError> {
    let head = stored::head(reader, &workspace, &document)?;
    let head = head.ok_or_else(|| StoreError::Damaged {
        key: format!("the head row of {document}"),
        what: "it is missing".to_owned(),
    })?;
    Ok((head.kind, stored::chunks(reader, &workspace, &document)?))
}

fn unloadable(document: DocumentId, error: &snapshot::SnapshotError) -> StoreError {
    StoreError::Damaged {
        key: format!("a snapshot of {document}"),
        what: error.to_string(),
    }
}

/// Sends what is queued for one link, in order; bodies of stored changes are read on the way.
async fn send_in_order(
    link: LinkId,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    network: Network,
    reader: SledReader,
    done: mpsc::UnboundedSender<LocalDone>,
) {
    while let Some(next) = outgoing.recv().await {
        let frames = match next {
            Outgoing::Frame(frame) => vec![frame],
            Outgoing::Stored(stored) => {
                let reader = reader.clone();
                let workspace = stored.workspace;
                let read = tokio::task::spawn_blocking(move || {
                    stored::bodies(&reader, &stored).map(|bodies| stored_frames(&stored, bodies))
                });
                let (document, read) = match read.await {
                    Ok(Ok(frames)) => (None, Ok(frames)),
                    Ok(Err(failed)) => (Some(failed.document), Err(failed.error)),
                    Err(_) => {
                        let what = "reading stored changes panicked".to_owned();
                        (None, Err(StoreError::Io { what }))
                    }
                };
                match read {
                    Ok(frames) => frames,
                    Err(error) => {
                        report(
                            &done,
                            LocalDone::SendFailed(link, workspace, document, error),
                        );
                        // Nothing that comes after it can be sent, and nobody is left to close the link.
                        return network.close(link, false);
                    }
                }
            }
            Outgoing::Close { flush } => return network.close(link, flush),
        };
        for frame in frames {
            match network.send(link, frame) {
                Ok(()) => {}
                Err(SendError::Closed) => return,
                Err(error) => {
                    // The peer does not take what the window allows: nothing can be skipped.
                    tracing::warn!(%link, %error, "the link is closed");
                    return network.close(link, false);
                }
            }
        }
    }
}

fn report(done: &mpsc::UnboundedSender<LocalDone>, failed: LocalDone) {
    if done.send(failed).is_err() {
        tracing::debug!("a send failed after the driver ended");
    }
}

/// How long what was taken may take to be stored at the end.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a graceful end may take before the rest is cut.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(15);
