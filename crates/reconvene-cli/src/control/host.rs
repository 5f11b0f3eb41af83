//! The host's side: listens, reads calls, has them carried out, sends the answers.
//!
//! It accepts no more callers at once than [`CALLERS_MAX`], and none can keep it waiting: every read
//! and write has a deadline.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Listener as _;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::endpoint::Endpoint;
use super::frames::{
    ALIVE_EVERY, CALL_BYTES_MAX, CALL_DEADLINE, LineError, LineReader, ReceivedCall, Reply,
    STREAM_WRITE_DEADLINE, VERSION, WRITE_DEADLINE, encode, parts, write_bytes, write_line,
};
use crate::failure::Failure;
use crate::request::{ITEMS_MAX, Progress, ProgressSink, Request, Sinks};

/// Most callers at once. Further ones wait in the socket's own queue.
pub(crate) const CALLERS_MAX: usize = 16;
/// Most of these that may be reading streams, so that there is always room for commands. A further
/// one is refused.
pub(crate) const STREAMS_MAX: usize = 8;
const _: () = assert!(STREAMS_MAX < CALLERS_MAX);
/// Progress that waits to be sent; more is dropped, the next says more anyway.
const PROGRESS_MAX: usize = 16;
/// How long a closing host waits for commands that are being carried out.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// Pause after a failed accept, such as without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Carries out requests.
pub(crate) type Executor = Arc<dyn Fn(Request, Sinks) -> Execution + Send + Sync>;
/// A request that is being carried out.
pub(crate) type Execution = Pin<Box<dyn Future<Output = Result<Value, Failure>> + Send>>;

/// A bound control socket. Callers may connect; they are answered once it is hosted.
pub(crate) struct Bound(Listener);

/// A hosted control socket.
pub(crate) struct Host {
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

/// Binds the socket of a store. Only whoever has the store open may: what is left of an earlier
/// host is removed.
pub(crate) fn bind(endpoint: &Endpoint) -> Result<Bound, Failure> {
    endpoint.listen().map(Bound)
}

impl Bound {
    /// Answers callers from now on, until closed or dropped.
    pub(crate) fn host(self, executor: Executor) -> Host {
        let (stop, stopped) = mpsc::channel(1);
        let task = tokio::spawn(accept(self.0, executor, stopped));
        Host { stop, task }
    }
}

impl Host {
    /// Stops listening, ends streams, lets running commands end within a deadline, and leaves no
    /// socket behind. To be called before the store is closed: then the next host cannot be there yet.
    pub(crate) async fn close(self) {
        drop(self.stop);
        let abort = self.task.abort_handle();
        if timeout(CLOSE_DEADLINE, self.task).await.is_err() {
            tracing::warn!("a command over the control socket was cut off");
            abort.abort();
        }
    }
}

/// What all callers of a host share.
#[derive(Clone)]
struct Shared {
    executor: Executor,
    streams: Arc<Semaphore>,
    /// Its sender goes when the host closes.
    closing: watch::Receiver<()>,
}

async fn accept(listener: Listener, executor: Executor, mut stopped: mpsc::Receiver<()>) {
    let (open, closing) = watch::channel(());
    let shared = Shared {
        executor,
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        closing,
    };
    let mut callers = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stopped.recv() => break,
            Some(ended) = callers.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a command over the control socket broke off");
                }
            }
            connection = listener.accept(), if callers.len() < CALLERS_MAX => match connection {
                Ok(stream) => {
                    callers.spawn(attend(stream, shared.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a caller could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((listener, open));
    while callers.join_next().await.is_some() {}
}

async fn attend(stream: Stream, shared: Shared) {
    let mut sink = &stream;
    let mut lines = LineReader::new(&stream, CALL_BYTES_MAX, CALL_DEADLINE);
    let request = match lines.read::<ReceivedCall>().await {
        Ok(call) => read_request(call),
        // Someone only looked whether there is a host.
        Err(LineError::Ended) => return,
        Err(error) => Err(Failure::new("control_failed", format!("bad call: {error}"))),
    };
    let answer = match request {
        Ok(request) => {
            tracing::debug!(request = request.name(), "over the control socket");
            match carry_out(request, &shared, &mut sink).await {
                Some(answer) => answer,
                None => return,
            }
        }
        Err(failure) => Err(failure),
    };
    if let Err(error) = send_answer(answer, &mut sink).await {
        tracing::debug!(%error, "a caller did not take its answer");
    }
}

fn read_request(call: ReceivedCall) -> Result<Request, Failure> {
    if call.version != VERSION {
        let message = format!(
            "the process that has the store open is of another release (it speaks control version \
             {VERSION}, not {})",
            call.version
        );
        return Err(Failure::new("control_failed", message));
    }
    serde_json::from_value(call.request)
        .map_err(|error| Failure::new("control_failed", format!("bad call: {error}")))
}

/// Carries out a request while showing the caller that something happens. A caller that hangs up does
/// not stop a command that changes something, but nobody waits for its answer: `None`.
async fn carry_out(
    request: Request,
    shared: &Shared,
    sink: &mut &Stream,
) -> Option<Result<Value, Failure>> {
    let ends_with_caller = request.ends_with_caller();
    let is_stream = request.is_stream();
    let _place = match is_stream.then(|| shared.streams.try_acquire()) {
        Some(Err(_)) => return Some(Err(too_many())),
        taken => taken,
    };
    let deadline = match is_stream {
        true => STREAM_WRITE_DEADLINE,
        false => WRITE_DEADLINE,
    };
    let (progress_in, mut progress_out) = mpsc::channel::<Progress>(PROGRESS_MAX);
    let progress: ProgressSink = Arc::new(move |progress| {
        // A full queue means that the caller reads slowly; it misses this one.
        drop(progress_in.try_send(progress));
    });
    let (items, mut told) = mpsc::channel(ITEMS_MAX);
    let mut answer = pin!((shared.executor)(request, Sinks { progress, items }));
    let mut closing = shared.closing.clone();
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // The first tick is at once, and first: a caller that reads nothing at all may be sure that
        // nothing was done. What is told comes before the answer that ends it.
        let written = tokio::select! {
            biased;
            _ = alive.tick() => write_line(sink, &Reply::Alive).await,
            Some(item) = told.recv() => send_item(&item, sink, deadline).await,
            answer = &mut answer => {
                while let Ok(item) = told.try_recv() {
                    if let Err(error) = send_item(&item, sink, deadline).await {
                        tracing::debug!(%error, "a caller hung up");
                        return None;
                    }
                }
                return Some(answer);
            }
            Some(progress) = progress_out.recv() => {
                write_line(sink, &Reply::Progress(progress)).await
            }
            // Nothing is ever sent: it fails when the sender is gone.
            _ = closing.changed(), if is_stream => return Some(Err(ending())),
        };
        if let Err(error) = written {
            tracing::debug!(%error, "a caller hung up");
            if ends_with_caller {
                return None;
            }
            // Nobody reads what it may still tell.
            drop((told, progress_out));
            if let Err(failure) = answer.await {
                tracing::warn!(failure.code, "a command failed after its caller hung up");
            }
            return None;
        }
    }
}

fn too_many() -> Failure {
    let message = format!("{STREAMS_MAX} others watch this store already");
    Failure::new("busy", message)
}

fn ending() -> Failure {
    Failure::new("closed", "the process that had the store open has ended")
        .with_hint("run the command again; it goes on by itself or with the next process")
}

async fn send_answer(answer: Result<Value, Failure>, sink: &mut &Stream) -> Result<(), LineError> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => return write_line(sink, &Reply::Failed(failure)).await,
    };
    send_text(&answer, sink, WRITE_DEADLINE).await?;
    write_line(sink, &Reply::Done).await
}

async fn send_item(item: &Value, sink: &mut &Stream, deadline: Duration) -> Result<(), LineError> {
    send_text(item, sink, deadline).await?;
    write_bytes(sink, encode(&Reply::Item)?, deadline).await
}

async fn send_text(value: &Value, sink: &mut &Stream, deadline: Duration) -> Result<(), LineError> {
    let text = serde_json::to_string(value)?;
    for part in parts(&text) {
        write_bytes(sink, encode(&Reply::Part(part.to_owned()))?, deadline).await?;
    }
    Ok(())
}
