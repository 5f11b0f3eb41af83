//! Where webhooks lead: a small HTTP server on loopback that takes every call, notes it, and answers when
//! the test lets it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::Value;

use crate::harness::deadline;

/// A call that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Its `idempotency-key`.
    pub(crate) key: String,
    /// Its body.
    pub(crate) body: Value,
}

/// The server; it takes calls until the test's process ends.
pub(crate) struct Receiver {
    shared: Arc<Shared>,
    address: String,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    /// Calls are noted and not answered.
    holds: bool,
    /// What each call about a meeting is answered with instead of 204.
    answer: Option<&'static str>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::<Shared>::default();
        let taking = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), taking) = (stream, Arc::clone(&taking)) else {
                    return;
                };
                thread::spawn(move || taking.take(stream));
            }
        });
        Self { shared, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Notes calls about meetings from now on without answering them, or answers again: also those that
    /// wait.
    pub(crate) fn hold(&self, holds: bool) {
        self.shared.lock().holds = holds;
        self.shared.changed.notify_all();
    }

    /// What calls about meetings are answered with from now on.
    pub(crate) fn answer(&self, line: Option<&'static str>) {
        self.shared.lock().answer = line;
    }

    /// The calls about meetings so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.lock().calls.clone()
    }

    /// Forgets the calls so far.
    pub(crate) fn forget(&self) {
        self.shared.lock().calls.clear();
    }

    /// Waits for so many calls about meetings.
    pub(crate) fn wait(&self, calls: usize) {
        let state = self.shared.lock();
        let too_few = |state: &mut State| state.calls.len() < calls;
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, deadline(), too_few);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(
            !timeout.timed_out(),
            "only {} calls came",
            state.calls.len()
        );
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, mut stream: TcpStream) {
        let Some(call) = read(&stream) else { return };
        let is_ping = call.body["event"] == "ping";
        let mut state = self.lock();
        if !is_ping {
            state.calls.push(call);
            self.changed.notify_all();
            let waited = self
                .changed
                .wait_timeout_while(state, deadline(), |state| state.holds);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let line = state
            .answer
            .filter(|_| !is_ping)
            .unwrap_or("204 No Content");
        drop(state);
        // Whoever called may have gone.
        drop(write!(
            stream,
            "HTTP/1.1 {line}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        ));
    }
}

fn read(stream: &TcpStream) -> Option<Call> {
    let mut reader = BufReader::new(stream);
    let (mut key, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ") {
            match name {
                "idempotency-key" => key = value.to_owned(),
                "content-length" => length = value.parse().ok()?,
                _ => {}
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).ok()?;
    Some(Call { key, body })
}
