//! How much waits in an engine: what its named limits bound.

use super::ingest::{Author, Work};
use super::{Engine, WorkspaceState};

/// What waits in an engine. Of links it is the most that any has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Batches that the store has yet to answer.
    pub pending_batches: usize,
    /// Edits of the host that no batch has yet.
    pub queued_edits: usize,
    /// Documents that are remembered though nothing is done to them.
    pub idle_documents: usize,
    /// Bytes received on a link that are not stored.
    pub received_bytes: usize,
    /// Bytes received on a link that wait for a snapshot to be looked at.
    pub held_bytes: usize,
    /// Bytes sent on a link that are not answered.
    pub unanswered_bytes: usize,
}

impl Engine {
    /// What waits now.
    pub fn load(&self) -> Load {
        let is_edit = |work: &Work| {
            let author = match work {
                Work::Changes { author, .. } => author,
                _ => return false,
            };
            matches!(author, Author::Host { .. })
        };
        let idle = self.workspaces.values().map(|state| match state {
            WorkspaceState::Loading => 0,
            WorkspaceState::Ready(known) => known.slots.idle(),
        });
        let mut load = Load {
            pending_batches: self.pending.len(),
            queued_edits: self.jobs.iter().filter(|job| is_edit(&job.work)).count(),
            idle_documents: idle.max().unwrap_or_default(),
            ..Load::default()
        };
        for link in self.links.values() {
            load.received_bytes = load.received_bytes.max(link.ingest_bytes);
            load.held_bytes = load.held_bytes.max(link.held_bytes);
            load.unanswered_bytes = load.unanswered_bytes.max(link.in_flight_bytes);
        }
        load
    }
}
