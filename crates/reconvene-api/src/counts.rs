//! What is counted from when the services start: calls by how they ended, refusals, passes. The keys
//! are names from the code, so there is a bound on how many.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use reconvene::{Events, ReplicaEvent};
use tonic::Code;

use crate::convert::refusal;

/// Counters that only grow.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    numbers: Mutex<Numbers>,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    /// By call and status code.
    pub(crate) calls: BTreeMap<(&'static str, &'static str), u64>,
    /// Documents refused, by side and code.
    pub(crate) documents_refused: BTreeMap<(&'static str, String), u64>,
    /// Links that peers refused, by code.
    pub(crate) links_refused: BTreeMap<String, u64>,
    /// Passes that were completed.
    pub(crate) passes: u64,
    /// Documents sent in them, and received.
    pub(crate) documents_sent: u64,
    /// See `documents_sent`.
    pub(crate) documents_received: u64,
    /// Stalls that were told.
    pub(crate) stalls: u64,
    /// Events that these counters missed.
    pub(crate) events_missed: u64,
}

impl Counts {
    /// Counts a call.
    pub(crate) fn call(&self, call: &'static str, code: Code) {
        *self
            .lock()
            .calls
            .entry((call, code_name(code)))
            .or_default() += 1;
    }

    /// The counters now.
    pub(crate) fn now(&self) -> Numbers {
        self.lock().clone()
    }

    /// Counts what happens on a replica, until it is closed.
    pub(crate) async fn follow(&self, mut events: Events) {
        while let Some(event) = events.next().await {
            self.note(&event);
        }
    }

    fn note(&self, event: &ReplicaEvent) {
        let mut numbers = self.lock();
        match event {
            ReplicaEvent::DocumentsRefused {
                here, documents, ..
            } => {
                let side = if *here { "here" } else { "there" };
                for (_, code) in documents {
                    let key = (side, refusal(*code));
                    *numbers.documents_refused.entry(key).or_default() += 1;
                }
            }
            ReplicaEvent::Refused { code, .. } => {
                *numbers.links_refused.entry(refusal(*code)).or_default() += 1;
            }
            ReplicaEvent::PassComplete {
                documents_sent,
                documents_received,
                ..
            } => {
                numbers.passes += 1;
                numbers.documents_sent += documents_sent;
                numbers.documents_received += documents_received;
            }
            ReplicaEvent::Stalled { .. } => numbers.stalls += 1,
            ReplicaEvent::Lagged { missed } => numbers.events_missed += missed,
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        // Counters are never left halfway.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A status code as gRPC spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
