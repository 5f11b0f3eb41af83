//! A byte stream that counts what passes through it and can be cut from outside.
//!
//! Cutting is the last resort for a connection whose goodbye the other side does not take: a
//! graceful close of the multiplexer has no deadline of its own.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};
use futures::task::AtomicWaker;
use libp2p::core::ConnectedPoint;

use crate::event::SocketBytes;

/// What is known of one socket outside of the task that drives it.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    sent: AtomicU64,
    received: AtomicU64,
    failure: OnceLock<io::ErrorKind>,
    cut: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    totals: Arc<Totals>,
}

#[derive(Debug, Default)]
struct Totals {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Socket {
    pub(crate) fn bytes(&self) -> SocketBytes {
        SocketBytes {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// What the system reported when the socket broke. Set before anything above it can notice.
    pub(crate) fn failure(&self) -> Option<io::ErrorKind> {
        self.failure.get().copied()
    }

    /// Makes every further read and write fail.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    fn read(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.totals
            .received
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn wrote(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.totals.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Applies a possible cut to the result of one poll and remembers a failure.
    fn watch<T>(
        &self,
        waker: &AtomicWaker,
        cx: &Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Ok(value)) => Poll::Ready(Ok(value)),
            Poll::Ready(Err(error)) => {
                // Only the first failure counts; later ones are its consequences.
                self.failure.get_or_init(|| error.kind());
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                waker.register(cx.waker());
                if self.is_cut() {
                    let kind = io::ErrorKind::ConnectionAborted;
                    self.failure.get_or_init(|| kind);
                    return Poll::Ready(Err(kind.into()));
                }
                Poll::Pending
            }
        }
    }
}

/// The sockets of a network that have no connection to belong to yet, and the totals of all.
///
/// The transport makes a socket before the swarm knows the connection by its id; they meet by the
/// endpoint they share. Live accepted connections differ in it, and there is at most one dial to a
/// peer at a time; one that failed may still be closing, so the latest is the one meant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    waiting: Arc<Mutex<Waiting>>,
    totals: Arc<Totals>,
}

type Waiting = HashMap<ConnectedPoint, Vec<Arc<Socket>>>;

impl Sockets {
    pub(crate) fn bytes(&self) -> SocketBytes {
        SocketBytes {
            sent: self.totals.sent.load(Ordering::Relaxed),
            received: self.totals.received.load(Ordering::Relaxed),
        }
    }

    /// Wraps a stream as the transport makes it.
    pub(crate) fn wrap<S>(&self, stream: S, endpoint: ConnectedPoint) -> SocketStream<S> {
        let socket = Arc::new(Socket {
            totals: Arc::clone(&self.totals),
            ..Socket::default()
        });
        let mut waiting = self.waiting();
        let sockets = waiting.entry(endpoint.clone()).or_default();
        sockets.push(Arc::clone(&socket));
        drop(waiting);
        let place = Place {
            sockets: self.clone(),
            endpoint,
            socket: Arc::clone(&socket),
        };
        SocketStream {
            stream,
            socket,
            _place: place,
        }
    }

    /// Takes the socket of a connection that has come about.
    pub(crate) fn take(&self, endpoint: &ConnectedPoint) -> Option<Arc<Socket>> {
        let mut waiting = self.waiting();
        let sockets = waiting.get_mut(endpoint)?;
        let socket = sockets.pop();
        if sockets.is_empty() {
            waiting.remove(endpoint);
        }
        socket
    }

    #[cfg(test)]
    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting().len()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket's place among those waiting; given up with the stream, whatever became of it.
struct Place {
    sockets: Sockets,
    endpoint: ConnectedPoint,
    socket: Arc<Socket>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.sockets.waiting();
        if let Some(sockets) = waiting.get_mut(&self.endpoint) {
            sockets.retain(|socket| !Arc::ptr_eq(socket, &self.socket));
            if sockets.is_empty() {
                waiting.remove(&self.endpoint);
            }
        }
    }
}

/// The stream itself, as the encryption above it sees it.
pub(crate) struct SocketStream<S> {
    stream: S,
    socket: Arc<Socket>,
    _place: Place,
}

impl<S: AsyncRead + Unpin> AsyncRead for SocketStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let result = this.socket.watch(&this.socket.reader, cx, result);
        if let Poll::Ready(Ok(bytes)) = result {
            this.socket.read(bytes);
        }
        result
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_read_vectored(cx, buffers);
        let result = this.socket.watch(&this.socket.reader, cx, result);
        if let Poll::Ready(Ok(bytes)) = result {
            this.socket.read(bytes);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SocketStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        let result = this.socket.watch(&this.socket.writer, cx, result);
        if let Poll::Ready(Ok(bytes)) = result {
            this.socket.wrote(bytes);
        }
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        let result = this.socket.watch(&this.socket.writer, cx, result);
        if let Poll::Ready(Ok(bytes)) = result {
            this.socket.wrote(bytes);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        this.socket.watch(&this.socket.writer, cx, result)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.stream).poll_close(cx);
        this.socket.watch(&this.socket.writer, cx, result)
    }
}
