//! Taking snapshots in: whole versions of documents, from peers whose word is taken for them.
//!
//! A snapshot shows what it holds only when it is loaded, which the host does, within bounds, outside
//! the engine. Until then what follows on the link waits, so that no cursor moves past it.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};

use super::ingest::{CheckedSnapshot, Unfit};
use super::{Engine, ReadQuery, Reading};
use crate::guard::ChangeHeader;
use crate::ids::{LinkId, ReadId, SnapshotHash};
use crate::limits;
use crate::records::SnapshotRef;
use crate::refusal::RefusalCode;
use crate::wire::{Changes, Frame};

/// A frame whose snapshots are being loaded, and what came after it.
#[derive(Debug)]
pub(super) struct Inspection {
    read: ReadId,
    changes: Changes,
    held: VecDeque<Frame>,
}

impl Engine {
    /// Has the snapshots of a frame loaded.
    pub(super) fn inspect(&mut self, link: LinkId, changes: Changes) {
        let flow = self.flow(link, &changes.workspace);
        if flow.is_none_or(|flow| !flow.we_take_snapshots) {
            return self.fault(link, "a snapshot, where none is taken".to_owned());
        }
        let snapshots: Vec<_> = changes
            .documents
            .iter()
            .filter_map(|document| Some((document.kind, document.snapshot.clone()?)))
            .collect();
        if let Some((_, body)) = snapshots
            .iter()
            .find(|(_, body)| body.len() > limits::SNAPSHOT_BYTES_MAX)
        {
            return self.fault(link, format!("a snapshot of {} bytes", body.len()));
        }
        let read = self.read(ReadQuery::Inspect(snapshots), Reading::Inspect(link));
        if let Some(state) = self.links.get_mut(&link) {
            let held = VecDeque::new();
            state.inspection = Some(Inspection {
                read,
                changes,
                held,
            });
        }
    }

    /// Keeps a frame back while a snapshot ahead of it is being loaded; hands it back otherwise.
    pub(super) fn hold_back(&mut self, link: LinkId, frame: Frame) -> Option<Frame> {
        let state = self.links.get_mut(&link)?;
        if matches!(frame, Frame::Probe(_)) {
            return Some(frame); // Whether a link is alive has no order with what it carries.
        }
        let Some(inspection) = state.inspection.as_mut() else {
            return Some(frame);
        };
        if let Frame::Changes(changes) = &frame {
            state.held_bytes += changes.window_bytes();
        }
        inspection.held.push_back(frame);
        let too_many = inspection.held.len() > limits::HELD_FRAMES_MAX
            || state.held_bytes > limits::LINK_INGEST_BYTES_MAX;
        if too_many {
            self.fault(link, "too much behind a snapshot".to_owned());
        }
        None
    }

    pub(super) fn on_inspected(
        &mut self,
        read: ReadId,
        link: LinkId,
        inspected: Vec<Result<Vec<ChangeHeader>, RefusalCode>>,
    ) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        if state
            .inspection
            .as_ref()
            .is_none_or(|inspection| inspection.read != read)
        {
            return;
        }
        let Some(inspection) = state.inspection.take() else {
            return;
        };
        state.held_bytes = 0;
        let (peer, changes) = (state.peer, inspection.changes);
        let bodies = changes.documents.iter();
        let bodies = bodies.filter_map(|document| document.snapshot.clone());
        let snapshots = bodies
            .zip(inspected)
            .map(|(body, inspected)| match inspected {
                Ok(headers) => Ok(CheckedSnapshot {
                    snapshot: SnapshotRef {
                        hash: snapshot_hash(&body),
                        size: u32::try_from(body.len()).expect("a snapshot is far below 4 GiB"),
                        changes: headers.len() as u64,
                    },
                    body,
                    changes: headers,
                }),
                Err(code) => Err(Unfit::of_snapshot(&body, code)),
            });
        let snapshots = snapshots.collect();
        self.enqueue_received(link, peer, changes, snapshots);
        for frame in inspection.held {
            // One of them may have snapshots of its own; then the rest waits for that.
            self.on_whole_frame(link, frame);
        }
    }
}

/// The name of a snapshot.
pub fn snapshot_hash(body: &[u8]) -> SnapshotHash {
    SnapshotHash::from_bytes(Sha256::digest(body).into())
}
