//! As of when everything a peer had is here, and whether that is recent enough.
//!
//! A workspace is fresh while its server vouches for it within the bound; where it has no server, any
//! peer does. The host is told when that begins and when it ends.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Engine, Event, Moment, WakeReason, WorkspaceState};
use crate::feed::FeedPoint;
use crate::ids::{PeerId, WorkspaceId};
use crate::limits;
use crate::time::Tick;

/// What was verified of a peer in a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Nothing that the peer knew then to be durable is missing here, other than what is refused: when
    /// we said the last of what it had read when it said where its feed ends. It said so later.
    pub as_of: Moment,
    /// When all of that was durable here.
    pub at: Moment,
}

/// A workspace that the host was told to be fresh.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fresh {
    /// As of when it is.
    pub(super) as_of: Moment,
    /// When its peers were last asked where their feeds end.
    asked: Tick,
}

/// Whether a workspace is fresh by the word of this peer: of its server, or where it has none of any.
pub fn word_counts(servers: &BTreeSet<PeerId>, peer: &PeerId) -> bool {
    servers.is_empty() || servers.contains(peer)
}

impl Engine {
    /// What was verified last of each peer, in this engine's life.
    pub fn verified(&self) -> impl Iterator<Item = (WorkspaceId, PeerId, Verified)> + '_ {
        self.workspaces.iter().flat_map(|(workspace, state)| {
            let peers = match state {
                WorkspaceState::Ready(state) => Some(state.peers.iter()),
                WorkspaceState::Loading => None,
            };
            let peers = peers.into_iter().flatten();
            peers.filter_map(|(peer, known)| Some((*workspace, *peer, known.verified?)))
        })
    }

    /// The end of the feed as far as it is behind its barrier, of each workspace in use.
    pub fn released(&self) -> impl Iterator<Item = (WorkspaceId, FeedPoint)> + '_ {
        self.workspaces
            .iter()
            .filter_map(|(workspace, state)| match state {
                WorkspaceState::Ready(state) => Some((*workspace, state.released)),
                WorkspaceState::Loading => None,
            })
    }

    /// As of when the peers whose word counts vouch for a workspace.
    fn vouched(&self, workspace: WorkspaceId) -> Option<Moment> {
        let Some(WorkspaceState::Ready(state)) = self.workspaces.get(&workspace) else {
            return None;
        };
        let servers = self.roster.servers_of(workspace);
        let peers = state.peers.iter();
        let peers = peers.filter(|(peer, _)| word_counts(&servers, peer));
        let moments = peers.filter_map(|(_, known)| Some(known.verified?.as_of));
        moments.max_by_key(|moment| moment.tick)
    }

    /// When each workspace that is fresh will not be any more, if nothing is verified until then.
    pub(super) fn stale_due(&self) -> impl Iterator<Item = (Tick, WakeReason)> + '_ {
        let bound = self.config.staleness_bound + Duration::from_millis(1);
        let fresh = self.fresh.iter();
        fresh.map(move |(of, fresh)| (fresh.as_of.tick + bound, WakeReason::Stale(*of)))
    }

    /// When the peers of each fresh workspace are to be asked, where heartbeats come too seldom for
    /// the bound.
    pub(super) fn ask_due(&self) -> impl Iterator<Item = (Tick, WakeReason)> + '_ {
        let bound = self.config.staleness_bound;
        let fresh = self.fresh.iter();
        let fresh = fresh.filter(move |_| bound < limits::HEARTBEAT_EVERY * 3);
        fresh.map(move |(of, fresh)| {
            let last = fresh.as_of.tick.max(fresh.asked);
            (last + bound / 3, WakeReason::Ask(*of))
        })
    }

    pub(super) fn ask_peers(&mut self) {
        let now = self.now.tick;
        let due: Vec<_> = self.ask_due().filter(|(at, _)| *at <= now).collect();
        for (_, why) in due {
            if let WakeReason::Ask(workspace) = why {
                if let Some(fresh) = self.fresh.get_mut(&workspace) {
                    fresh.asked = now;
                }
                for link in self.links_sharing(&workspace) {
                    self.probe(link);
                }
            }
        }
    }

    /// Something was verified: the workspace may be fresh, or stay so for longer.
    pub(super) fn note_verified(&mut self, workspace: WorkspaceId) {
        let Some(as_of) = self.vouched(workspace) else {
            return;
        };
        if self.now.tick - as_of.tick > self.config.staleness_bound {
            return;
        }
        let asked = self.fresh.get(&workspace).map(|fresh| fresh.asked);
        let fresh = Fresh {
            as_of,
            asked: asked.unwrap_or(as_of.tick),
        };
        if self.fresh.insert(workspace, fresh).is_none() {
            self.emit(Event::Fresh { workspace });
        }
    }

    /// Tells the host of what is not fresh any more.
    pub(super) fn tell_stale(&mut self) {
        let now = self.now.tick;
        let due = self.stale_due().filter(|(at, _)| *at <= now);
        let due: Vec<_> = due
            .filter_map(|(_, why)| match why {
                WakeReason::Stale(workspace) => Some(workspace),
                _ => None,
            })
            .collect();
        for workspace in due {
            if let Some(fresh) = self.fresh.remove(&workspace) {
                let since = fresh.as_of.wall;
                self.emit(Event::Stale { workspace, since });
            }
        }
    }

    /// Asks the peers of a workspace where their feeds end, and dials those that wait to be.
    pub(super) fn on_refresh(&mut self, workspace: WorkspaceId) {
        for link in self.links.values_mut().filter(|link| !link.is_up()) {
            link.proof.is_put_off = true;
        }
        for link in self.links_sharing(&workspace) {
            self.probe(link);
        }
        let peers: Vec<_> = self.dialers.keys().copied().collect();
        for peer in peers {
            self.dial_if_needed(peer);
        }
    }
}
