//! One link: what its reader, its writer and the handles outside share.
//!
//! Reader and writer are tasks of their own, so that a link is always read while it is written:
//! two peers that both only wrote would wait for each other for ever.

mod reader;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures::AsyncReadExt;
use libp2p::Stream;
use libp2p::swarm::ConnectionId;
use reconvene_core::ids::{LinkId, PeerId};
use reconvene_core::limits;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tracing::Instrument;

use crate::config::{NetworkConfig, SEND_QUEUE_BYTES_MAX};
use crate::event::{Direction, LinkDownReason, LinkStats, NetworkEvent};
use crate::network::SendError;
use crate::socket::Socket;
use reader::FrameReader;

/// Bytes of the length before every frame.
const PREFIX_BYTES: usize = 4;

/// About how much the writer hands to the stream at once: enough to keep small frames cheap.
const WRITE_BATCH_BYTES: usize = 64 * 1024;

/// The links that are up, for whoever holds a handle.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<std::collections::BTreeMap<LinkId, Arc<Link>>>);

impl Links {
    pub(crate) fn get(&self, link: LinkId) -> Option<Arc<Link>> {
        self.locked().get(&link).map(Arc::clone)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Link>> {
        self.locked().values().map(Arc::clone).collect()
    }

    pub(crate) fn insert(&self, link: Arc<Link>) {
        self.locked().insert(link.id, link);
    }

    fn remove(&self, link: LinkId) {
        self.locked().remove(&link);
    }

    fn locked(&self) -> MutexGuard<'_, std::collections::BTreeMap<LinkId, Arc<Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shared half of a link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: PeerId,
    control: watch::Sender<Control>,
    queue: Mutex<Queue>,
    /// Wakes the writer; holds one permit, so no wake is lost.
    queued: Notify,
    counters: Counters,
    socket: Arc<Socket>,
}

#[derive(Debug)]
struct Control {
    admitted: bool,
    stop: Option<Stop>,
}

/// That the link is to end. The first reason stays, the urgency only grows.
#[derive(Clone, Debug)]
struct Stop {
    how: How,
    why: LinkDownReason,
}

/// How urgently a link ends, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// The connection is gone; what has already been received is still read.
    Drain,
    /// Nothing more is taken in; what is queued still goes out.
    Flush,
    /// Everything stops.
    Now,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// Bytes queued or being written, prefixes included.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Counters {
    frames_sent: AtomicU64,
    frames_received: AtomicU64,
    frame_bytes_sent: AtomicU64,
    frame_bytes_received: AtomicU64,
}

/// Some frames with their prefixes, as one run of bytes.
struct Batch {
    frames: u64,
    bytes: Vec<u8>,
}

impl Link {
    pub(crate) fn new(id: LinkId, peer: PeerId, admitted: bool, socket: Arc<Socket>) -> Self {
        let control = Control {
            admitted,
            stop: None,
        };
        Self {
            id,
            peer,
            control: watch::Sender::new(control),
            queue: Mutex::default(),
            queued: Notify::new(),
            counters: Counters::default(),
            socket,
        }
    }

    pub(crate) fn send(&self, frame: Bytes) -> Result<(), SendError> {
        if frame.is_empty() || frame.len() > limits::FRAME_BYTES_MAX {
            return Err(SendError::FrameSize { bytes: frame.len() });
        }
        let mut queue = self.queue();
        // Asked under the queue's lock: a flush that has begun must see all that was accepted.
        if self.control.borrow().stop.is_some() {
            return Err(SendError::Closed);
        }
        let bytes = queue.bytes + PREFIX_BYTES + frame.len();
        if bytes > SEND_QUEUE_BYTES_MAX {
            return Err(SendError::QueueFull);
        }
        queue.bytes = bytes;
        queue.frames.push_back(frame);
        drop(queue);
        self.queued.notify_one();
        Ok(())
    }

    pub(crate) fn admit(&self) {
        self.control
            .send_if_modified(|control| !std::mem::replace(&mut control.admitted, true));
    }

    pub(crate) fn stop(&self, how: How, why: LinkDownReason) {
        let queue = self.queue();
        self.control
            .send_if_modified(|control| match &mut control.stop {
                None => {
                    control.stop = Some(Stop { how, why });
                    true
                }
                Some(stop) if stop.how < how => {
                    stop.how = how;
                    true
                }
                Some(_) => false,
            });
        drop(queue);
        self.queued.notify_one();
    }

    pub(crate) fn stats(&self) -> LinkStats {
        let socket = self.socket.bytes();
        LinkStats {
            frames_sent: self.counters.frames_sent.load(Ordering::Relaxed),
            frames_received: self.counters.frames_received.load(Ordering::Relaxed),
            frame_bytes_sent: self.counters.frame_bytes_sent.load(Ordering::Relaxed),
            frame_bytes_received: self.counters.frame_bytes_received.load(Ordering::Relaxed),
            socket_bytes_sent: socket.sent,
            socket_bytes_received: socket.received,
        }
    }

    fn admitted(&self) -> bool {
        self.control.borrow().admitted
    }

    fn how(&self) -> Option<How> {
        self.control.borrow().stop.as_ref().map(|stop| stop.how)
    }

    /// Resolves once the link is to end in one of these ways. Dropping it loses nothing.
    async fn stopped(&self, is_meant: impl Fn(How) -> bool) -> LinkDownReason {
        let mut control = self.control.subscribe();
        let control = control
            .wait_for(|control| control.stop.as_ref().is_some_and(|stop| is_meant(stop.how)))
            .await
            .expect("the sender lives as long as the link");
        let stop = control.stop.as_ref().expect("just waited for");
        stop.why.clone()
    }

    /// Resolves once the link is admitted. Dropping it loses nothing.
    async fn admission(&self) {
        let mut control = self.control.subscribe();
        control
            .wait_for(|control| control.admitted)
            .await
            .expect("the sender lives as long as the link");
    }

    fn count_received(&self, frame: &Bytes) {
        self.counters
            .frames_received
            .fetch_add(1, Ordering::Relaxed);
        self.counters
            .frame_bytes_received
            .fetch_add((PREFIX_BYTES + frame.len()) as u64, Ordering::Relaxed);
    }

    /// Takes the next frames off the queue; their bytes count as queued until they are written.
    fn take_batch(&self) -> Option<Batch> {
        let mut queue = self.queue();
        let mut batch = Batch {
            frames: 0,
            bytes: Vec::new(),
        };
        while let Some(frame) = queue.frames.front() {
            let bytes = batch.bytes.len() + PREFIX_BYTES + frame.len();
            if batch.frames > 0 && bytes > WRITE_BATCH_BYTES {
                break;
            }
            let length = u32::try_from(frame.len()).expect("checked when it was queued");
            batch.bytes.put_u32(length);
            batch.bytes.extend_from_slice(frame);
            batch.frames += 1;
            queue.frames.pop_front();
        }
        (batch.frames > 0).then_some(batch)
    }

    fn count_sent(&self, batch: &Batch) {
        self.queue().bytes -= batch.bytes.len();
        self.counters
            .frames_sent
            .fetch_add(batch.frames, Ordering::Relaxed);
        self.counters
            .frame_bytes_sent
            .fetch_add(batch.bytes.len() as u64, Ordering::Relaxed);
    }

    fn lost(&self, error: &io::Error) -> LinkDownReason {
        LinkDownReason::ConnectionLost(self.socket.failure().unwrap_or(error.kind()))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a link's stream has ended and its connection should go too.
#[derive(Debug)]
pub(crate) struct LinkEnded {
    pub(crate) connection: ConnectionId,
}

/// The deadlines a link runs under.
#[derive(Clone, Debug)]
pub(crate) struct Deadlines {
    first_frame: Duration,
    idle_read: Duration,
    write: Duration,
    close: Duration,
}

impl From<&NetworkConfig> for Deadlines {
    fn from(config: &NetworkConfig) -> Self {
        Self {
            first_frame: config.first_frame_deadline,
            idle_read: config.idle_read_deadline,
            write: config.write_deadline,
            close: config.close_deadline,
        }
    }
}

/// The running half of a link: owns its stream, reports all its events.
pub(crate) struct LinkTask {
    pub(crate) link: Arc<Link>,
    pub(crate) links: Arc<Links>,
    pub(crate) connection: ConnectionId,
    pub(crate) direction: Direction,
    pub(crate) address: String,
    pub(crate) deadlines: Deadlines,
    pub(crate) events: mpsc::Sender<NetworkEvent>,
    pub(crate) ended: mpsc::Sender<LinkEnded>,
}

impl LinkTask {
    /// Runs the link from its first event to its last.
    ///
    /// The connection is given up before the last events are delivered: a slow receiver must not
    /// hold it open.
    pub(crate) async fn run(self, stream: Stream) {
        let (read_half, write_half) = stream.split();
        let writer = writer::run(Arc::clone(&self.link), write_half, self.deadlines.write);
        let mut writer = tokio::spawn(writer.in_current_span());
        let mut reader = FrameReader::new(read_half);

        let mut undelivered = None;
        let why = self.read(&mut reader, &mut undelivered).await;
        self.links.remove(self.link.id);
        let mut written = None;
        if self.link.how() == Some(How::Flush) {
            // Waiting for the peer's own end makes sure that it has taken the last frame: closing
            // a socket over unread bytes would discard what it has not read yet.
            let write = async { written = Some((&mut writer).await) };
            let flushed = async { tokio::join!(reader.discard(), write) };
            if timeout(self.deadlines.close, flushed).await.is_err() {
                tracing::debug!(link = %self.link.id, "gave up flushing");
            }
        }
        self.link.stop(How::Now, why.clone());
        let written = match written {
            Some(written) => written,
            None => writer.await,
        };
        // A writer that panicked is a bug of ours; one that was cancelled went with the runtime.
        if let Some(panic) = written.err().and_then(|error| error.try_into_panic().ok()) {
            std::panic::resume_unwind(panic);
        }
        drop(reader);
        let ended = LinkEnded {
            connection: self.connection,
        };
        if self.ended.send(ended).await.is_err() {
            tracing::trace!(link = %self.link.id, "the connection is gone with the network");
        }

        tracing::debug!(link = %self.link.id, peer = %self.link.peer, %why, "link down");
        let down = NetworkEvent::LinkDown {
            link: self.link.id,
            why,
            stats: self.link.stats(),
        };
        for event in undelivered.into_iter().chain([down]) {
            if self.events.send(event).await.is_err() {
                tracing::trace!(link = %self.link.id, "nobody listens any more");
            }
        }
    }

    /// Delivers the link's coming up and its frames until it is to end; says why it is.
    async fn read<R: futures::AsyncRead + Unpin>(
        &self,
        reader: &mut FrameReader<R>,
        undelivered: &mut Option<NetworkEvent>,
    ) -> LinkDownReason {
        let link = self.link.id;
        tracing::debug!(%link, peer = %self.link.peer, direction = ?self.direction, "link up");
        let up = NetworkEvent::LinkUp {
            link,
            peer: self.link.peer,
            direction: self.direction,
            address: self.address.clone(),
        };
        if let Err(why) = self.deliver(up, undelivered).await {
            return why;
        }
        let mut is_first = true;
        loop {
            let frame = match self.next_frame(reader, is_first).await {
                Ok(frame) => frame,
                Err(why) => return why,
            };
            is_first = false;
            self.link.count_received(&frame);
            let arrived = NetworkEvent::FrameArrived { link, frame };
            if let Err(why) = self.deliver(arrived, undelivered).await {
                return why;
            }
        }
    }

    async fn next_frame<R: futures::AsyncRead + Unpin>(
        &self,
        reader: &mut FrameReader<R>,
        is_first: bool,
    ) -> Result<Bytes, LinkDownReason> {
        let link = &*self.link;
        if !is_first && !link.admitted() {
            // Not read until admitted: what the peer sends on meanwhile is held back at its side.
            tokio::select! {
                biased;
                why = link.stopped(|_| true) => return Err(why),
                () = link.admission() => {}
                () = tokio::time::sleep(self.deadlines.idle_read) => {
                    return Err(LinkDownReason::NotAdmitted);
                }
            }
        }
        tokio::select! {
            biased;
            // A local close comes first, a lost connection only after what was received.
            why = link.stopped(|how| how >= How::Flush) => Err(why),
            frame = reader.next(link) => frame,
            why = link.stopped(|how| how == How::Drain) => Err(why),
            why = self.deadline(is_first) => Err(why),
        }
    }

    /// Resolves when the next frame is overdue. Dropping it loses nothing.
    async fn deadline(&self, is_first: bool) -> LinkDownReason {
        let began = tokio::time::Instant::now();
        if is_first {
            let admission = self.link.admission();
            if timeout(self.deadlines.first_frame, admission)
                .await
                .is_err()
            {
                return LinkDownReason::FirstFrameLate;
            }
        }
        tokio::time::sleep_until(began + self.deadlines.idle_read).await;
        LinkDownReason::Idle
    }

    /// Waits for room for an event, unless the link is closed here meanwhile.
    async fn deliver(
        &self,
        event: NetworkEvent,
        undelivered: &mut Option<NetworkEvent>,
    ) -> Result<(), LinkDownReason> {
        tokio::select! {
            biased;
            permit = self.events.reserve() => match permit {
                Ok(permit) => {
                    permit.send(event);
                    Ok(())
                }
                Err(_) => Err(LinkDownReason::ShutDown),
            },
            why = self.link.stopped(|how| how >= How::Flush) => {
                *undelivered = Some(event);
                Err(why)
            }
        }
    }
}
