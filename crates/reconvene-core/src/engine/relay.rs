//! What a member's devices hold of each other's changes, by the word of the server between them.
//!
//! The server stored what a device sent by some place in its own feed. A device that holds the
//! server's feed up to there holds all of it, other than what it refused. The server tells each device
//! how far the member's other ones are in that sense; a device keeps the last word.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Engine, Event, ReadQuery, Reading, WorkspaceState};
use crate::feed::FeedPoint;
use crate::ids::{DocumentId, FeedSeq, LinkId, PeerId, WorkspaceId};
use crate::keys::Key;
use crate::limits;
use crate::mutants::Mutant;
use crate::records::{PeerRow, Record as _, RelayedRow, Standing};
use crate::refusal::RefusalCode;
use crate::wire::{Frame, Held};

/// Places in our feed by which a peer's was stored here up to some point, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waypoints(VecDeque<(FeedSeq, FeedPoint)>);

impl Waypoints {
    /// Everything of the peer's feed up to `theirs` is in ours up to `ours`.
    fn note(&mut self, ours: FeedSeq, theirs: FeedPoint) {
        // What it was before tells nothing of another history, nor what it was further on.
        let is_past = |(_, point): &(FeedSeq, FeedPoint)| {
            point.epoch == theirs.epoch && point.seq <= theirs.seq
        };
        self.0.retain(is_past);
        match self.0.back_mut() {
            Some((_, point)) if *point == theirs => {}
            Some((seq, point)) if *seq == ours => *point = theirs,
            _ => self.0.push_back((ours, theirs)),
        }
        // Without the oldest a device far behind is not known to hold anything yet, no more.
        if self.0.len() > limits::WAYPOINTS_MAX {
            self.0.pop_front();
        }
    }

    /// How much of the peer's feed someone holds who has ours up to a place.
    fn held_with(&self, ours: FeedSeq) -> Option<FeedPoint> {
        let known = self.0.iter().rev();
        let mut within = known.filter(|(seq, _)| *seq <= ours);
        within.next().map(|(_, point)| *point)
    }
}

impl Engine {
    /// What a peer sent is stored: takes note of where.
    pub(super) fn note_waypoint(&mut self, workspace: WorkspaceId, peer: PeerId) {
        if self.roster.standing(&workspace, &peer) != Some(Standing::Device) {
            return;
        }
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        let ours = state.released.seq;
        if let Some(known) = state.peers.get_mut(&peer)
            && known.accepting == 0
            && let Some(theirs) = known.held_stored
        {
            known.waypoints.note(ours, theirs);
        }
    }

    /// Tells a device what its member's other devices hold of it, where that is something else than
    /// it was told on this link.
    pub(super) fn relay_to(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let device = state.peer;
        if !state.shares(&workspace) {
            return;
        }
        let mut frames = Vec::new();
        for sibling in self.roster.siblings_of(workspace, device) {
            let Some(row) = self.held_by(workspace, device, sibling) else {
                continue;
            };
            if state.relayed.get(&(workspace, sibling)) != Some(&row) {
                frames.push((sibling, row));
            }
        }
        for (peer, row) in frames.into_iter().take(limits::SIBLINGS_MAX) {
            let held = Held {
                workspace,
                peer,
                row: row.clone(),
            };
            self.send(link, &Frame::Held(held));
            if let Some(state) = self.links.get_mut(&link) {
                state.relayed.insert((workspace, peer), row);
            }
        }
    }

    /// A device may not have been able to take what it was told on this link: tells it again.
    pub(super) fn relay_again(&mut self, link: LinkId, workspace: WorkspaceId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.relayed.retain(|(of, _), _| *of != workspace);
        }
        self.relay_to(link, workspace);
    }

    /// Reads what is stored of a device's siblings that were not linked since this engine was made.
    pub(super) fn know_siblings(&mut self, workspace: WorkspaceId, device: PeerId) {
        let mut siblings = self.roster.siblings_of(workspace, device);
        siblings.truncate(limits::SIBLINGS_MAX);
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        siblings.retain(|sibling| !state.peers.contains_key(sibling));
        if !siblings.is_empty() {
            let keys = siblings.iter().map(|peer| Key::peer(&workspace, peer));
            let query = ReadQuery::Values(keys.collect());
            self.read(query, Reading::Siblings(workspace, siblings));
        }
    }

    pub(super) fn on_sibling_rows(
        &mut self,
        workspace: WorkspaceId,
        siblings: &[PeerId],
        values: &[Option<Bytes>],
    ) {
        for (sibling, value) in siblings.iter().zip(values) {
            // One that does not read is found when its device greets.
            let row = value.as_ref().map(|value| PeerRow::decode(value));
            let Some(Ok(row)) = row else {
                continue;
            };
            if let Some(state) = self.ready(&workspace) {
                state.peers.entry(*sibling).or_insert_with(|| super::Peer {
                    held_stored: row.held,
                    row,
                    ..super::Peer::default()
                });
            }
            self.relay_of(workspace, *sibling);
        }
    }

    /// A device holds more: tells the member's other devices.
    pub(super) fn relay_of(&mut self, workspace: WorkspaceId, device: PeerId) {
        for sibling in self.roster.siblings_of(workspace, device) {
            for link in self.links_to(sibling) {
                self.relay_to(link, workspace);
            }
        }
    }

    /// What a device holds of another's feed; `None` if nothing is known of it.
    fn held_by(
        &self,
        workspace: WorkspaceId,
        author: PeerId,
        holder: PeerId,
    ) -> Option<RelayedRow> {
        let Some(WorkspaceState::Ready(state)) = self.workspaces.get(&workspace) else {
            return None;
        };
        if self.is_to_retell(workspace, holder) {
            return None;
        }
        let row = &state.peers.get(&holder)?.row;
        let acknowledged = row.acknowledged;
        let acknowledged = acknowledged.filter(|point| point.epoch == state.released.epoch);
        // What was refused here nobody has from here.
        let known = state.peers.get(&author)?;
        let (waypoints, kept_out) = (&known.waypoints, &known.row);
        let mut refusals = self.refused_by(workspace, holder);
        refusals.extend(kept_out.refused_here.clone());
        let count = refusals.len();
        let listed = refusals.into_iter().take(limits::RELAYED_REFUSALS_MAX);
        let refused: BTreeMap<_, _> = listed.collect();
        let left_out = count - refused.len();
        Some(RelayedRow {
            held: match self.is(Mutant::RelaysTooMuch) {
                true => waypoints.held_with(FeedSeq(u64::MAX)),
                false => acknowledged.and_then(|point| waypoints.held_with(point.seq)),
            },
            refused,
            refused_unlisted: row.refused_there_unlisted
                + kept_out.refused_here_unlisted
                + left_out as u64,
        })
    }

    /// Whether a linked peer has yet to tell again what it refuses of ours: until then its cursor alone
    /// says too much, since what it refused before may not have been stored here.
    pub(super) fn is_to_retell(&self, workspace: WorkspaceId, peer: PeerId) -> bool {
        let mut links = self.links.values().filter(|link| link.peer == peer);
        let is_to_retell = links.any(|link| {
            let flow = link.flows.get(&workspace);
            flow.is_some_and(|flow| !flow.has_retold)
        });
        is_to_retell && !self.is(Mutant::ForgetsRefusals)
    }

    /// What a peer refused of ours, as far as that is listed. What it refused before it greeted counts
    /// until it has told again what it still does.
    pub(super) fn refused_by(
        &self,
        workspace: WorkspaceId,
        peer: PeerId,
    ) -> BTreeMap<DocumentId, RefusalCode> {
        let Some(WorkspaceState::Ready(state)) = self.workspaces.get(&workspace) else {
            return BTreeMap::new();
        };
        let known = state.peers.get(&peer);
        let mut refusals =
            known.map_or_else(BTreeMap::new, |known| known.row.refused_there.clone());
        let links = self.links.values().filter(|link| link.peer == peer);
        let flows = links.filter_map(|link| link.flows.get(&workspace));
        let before = flows.filter(|flow| !flow.has_retold);
        refusals.extend(before.flat_map(|flow| flow.refused_before.clone()));
        refusals
    }

    pub(super) fn on_held(&mut self, link: LinkId, told: Held) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let server = state.peer;
        let Held {
            workspace,
            peer,
            row,
        } = told;
        let is_server = self.roster.standing(&workspace, &server) == Some(Standing::Server);
        if !is_server || !state.shares(&workspace) {
            let what = "what devices hold of a workspace of which this peer is not the server";
            return self.fault(link, what.to_owned());
        }
        // It may speak of a history that is about to turn out to be lost.
        if let Some(flow) = self.flow(link, &workspace)
            && flow.is_unconfirmed()
        {
            flow.early_held.retain(|known| known.peer != peer);
            if flow.early_held.len() < limits::SIBLINGS_MAX {
                let told = Held {
                    workspace,
                    peer,
                    row,
                };
                flow.early_held.push(told);
            }
            return;
        }
        let me = self.config.me;
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        let released = state.released;
        let known = state.peers.entry(server).or_default();
        let relayed = &mut known.row.relayed;
        let has_room = relayed.len() < limits::SIBLINGS_MAX || relayed.contains_key(&peer);
        // Of what never left here nobody can hold anything.
        let is_possible = row
            .held
            .is_none_or(|held| held.epoch == released.epoch && held.seq <= released.seq);
        if peer == me || !has_room || !is_possible || relayed.get(&peer) == Some(&row) {
            return;
        }
        relayed.insert(peer, row.clone());
        known.dirty = true;
        self.emit(Event::Relayed {
            peer,
            workspace,
            row,
        });
    }

    /// Our history is the one that a server spoke of.
    pub(super) fn take_early_held(&mut self, link: LinkId, workspace: WorkspaceId) {
        let flow = self.flow(link, &workspace);
        for held in flow.map_or_else(Vec::new, |flow| std::mem::take(&mut flow.early_held)) {
            self.on_held(link, held);
        }
    }
}
