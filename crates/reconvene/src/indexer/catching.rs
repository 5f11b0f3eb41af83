//! What changed while a workspace's server was away, gathered from the moment it is back until lists
//! show all of it: then it is told, once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reconvene_core::ids::{DocumentId, PeerId, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::storage::StoreRead as _;
use reconvene_model::MEETING;
use reconvene_sled::SledReader;
use tokio::time::Instant;

use crate::limits::{CATCH_UP_HOLD, CAUGHT_UP_MEETINGS_MAX};
use crate::meetings::meeting_row;
use crate::subscriptions::Subscriptions;
use crate::{Error, ReplicaEvent};

/// A workspace that catches up with its server.
struct Catching {
    server: PeerId,
    began: Instant,
    /// Whether live queries wait for the end, to tell all of it in one batch.
    holds: bool,
    /// Whether nothing that the server had is missing here; lists may still be behind.
    is_verified: bool,
    meetings: BTreeSet<DocumentId>,
}

/// Every workspace that catches up.
#[derive(Default)]
pub(super) struct CatchingUp {
    workspaces: BTreeMap<WorkspaceId, Catching>,
}

impl CatchingUp {
    /// The server is back.
    pub(super) fn begin(&mut self, of: WorkspaceId, server: PeerId, queries: &Subscriptions) {
        queries.hold(of, true);
        let catching = Catching {
            server,
            began: Instant::now(),
            holds: true,
            is_verified: false,
            meetings: BTreeSet::new(),
        };
        self.workspaces.insert(of, catching);
    }

    /// What a peer had is here; whether that is what is waited for.
    pub(super) fn note_verified(&mut self, of: WorkspaceId, peer: PeerId) -> bool {
        let catching = self.workspaces.get_mut(&of);
        let catching = catching.filter(|catching| catching.server == peer);
        catching.is_some_and(|catching| !std::mem::replace(&mut catching.is_verified, true))
    }

    /// Meetings changed.
    pub(super) fn note_changed(&mut self, of: WorkspaceId, meetings: &[DocumentId]) {
        if let Some(catching) = self.workspaces.get_mut(&of) {
            catching.meetings.extend(meetings);
        }
    }

    /// A peer is gone: what changed so far was told as it came.
    pub(super) fn end_with(&mut self, peer: PeerId, queries: &Subscriptions) {
        self.workspaces.retain(|of, catching| {
            let stays = catching.server != peer;
            if !stays {
                queries.hold(*of, false);
            }
            stays
        });
    }

    /// How long until live queries have waited long enough.
    pub(super) fn patience(&self) -> Option<Duration> {
        let holding = self.workspaces.values().filter(|catching| catching.holds);
        let left = holding.map(|catching| CATCH_UP_HOLD.saturating_sub(catching.began.elapsed()));
        left.min()
    }

    /// Lets live queries go on that have waited long enough: a first sync is shown as it comes.
    pub(super) fn release_overdue(&mut self, queries: &Subscriptions) {
        for (of, catching) in &mut self.workspaces {
            if catching.holds && catching.began.elapsed() >= CATCH_UP_HOLD {
                catching.holds = false;
                queries.hold(*of, false);
            }
        }
    }

    /// Lists show everything: what changed, if this is the end of catching up.
    pub(super) fn end(&mut self, of: WorkspaceId, queries: &Subscriptions) -> Option<CaughtUp> {
        self.workspaces.get(&of).filter(|known| known.is_verified)?;
        let catching = self.workspaces.remove(&of)?;
        queries.hold(of, false);
        Some(CaughtUp {
            workspace: of,
            server: catching.server,
            meetings: catching.meetings,
        })
    }
}

/// What changed while a server was away.
pub(super) struct CaughtUp {
    workspace: WorkspaceId,
    server: PeerId,
    meetings: BTreeSet<DocumentId>,
}

impl CaughtUp {
    /// As the app is told.
    pub(super) fn event(self, reader: &SledReader) -> Result<ReplicaEvent, Error> {
        let mut conflicts = 0;
        for id in &self.meetings {
            let key = Key::index(&self.workspace, MEETING, id);
            let row = reader.read(&key)?;
            let row = row.and_then(|value| meeting_row(&value));
            conflicts += u64::from(row.is_some_and(|row| row.has_conflicts));
        }
        let changed = self.meetings.len() as u64;
        let listed = self.meetings.into_iter().take(CAUGHT_UP_MEETINGS_MAX);
        Ok(ReplicaEvent::CaughtUp {
            workspace: self.workspace,
            peer: self.server,
            meetings: listed.collect(),
            changed,
            conflicts,
        })
    }
}
