//! That engines stay within their named limits, looked at after every step.

use reconvene_core::limits;

use crate::world::{NodeId, World};

impl World {
    /// Fails if more waits in a node's engine than may.
    pub(crate) fn check_load(&self, node: NodeId) {
        let Some(load) = self.engine(node).map(reconvene_core::engine::Engine::load) else {
            return;
        };
        let bounds = [
            ("batches", load.pending_batches, limits::PENDING_BATCHES_MAX),
            ("edits", load.queued_edits, limits::LOCAL_EDITS_QUEUED_MAX),
            (
                "idle documents",
                load.idle_documents,
                limits::IDLE_DOCUMENTS_MAX,
            ),
            (
                "bytes received",
                load.received_bytes,
                limits::LINK_INGEST_BYTES_MAX,
            ),
            (
                "bytes held back",
                load.held_bytes,
                limits::LINK_INGEST_BYTES_MAX,
            ),
            // What the other side takes at once.
            (
                "bytes unanswered",
                load.unanswered_bytes,
                limits::LINK_INGEST_BYTES_MAX,
            ),
        ];
        for (what, found, most) in bounds {
            if found > most {
                self.fail(format_args!("node {node} has {found} {what}, above {most}"));
            }
        }
    }
}
