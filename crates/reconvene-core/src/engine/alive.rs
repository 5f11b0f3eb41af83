//! Whether links are worth keeping: they are probed after the network changed or the machine slept,
//! and greeted anew when one side lacks something of the other's and nothing moves.

use super::{CloseReason, Engine, Event, WakeReason, WorkspaceState};
use crate::ids::{LinkId, PeerId, WorkspaceId};
use crate::limits;
use crate::time::{Tick, WallTime};
use crate::wire::{Frame, Probe};

/// A stall that was not followed by anything moving yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Since when nothing moves.
    pub since: WallTime,
    /// How often in a row the peers greeted anew for it.
    pub times: u32,
}

/// A question on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Proof {
    number: u64,
    /// Until when the answer has to be here; `None` if nothing was asked.
    due: Option<Tick>,
}

impl Proof {
    pub(super) fn is_given(&mut self) {
        self.due = None;
    }
}

impl Engine {
    /// The network changed or the machine slept: links prove themselves, and whoever waits to be
    /// dialled is dialled now.
    pub(super) fn on_disturbed(&mut self) {
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.probe(link);
        }
        let peers: Vec<_> = self.dialers.keys().copied().collect();
        for peer in peers {
            self.dial_if_needed(peer);
        }
    }

    pub(super) fn probe(&mut self, link: LinkId) {
        let due = self.now.tick + limits::PROOF_DEADLINE;
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.proof.number += 1;
        state.proof.due = Some(due);
        let number = state.proof.number;
        // A link that is not up yet proves itself by coming up.
        if state.is_up() {
            let answer = false;
            self.send(link, &Frame::Probe(Probe { number, answer }));
        }
    }

    pub(super) fn on_probe(&mut self, link: LinkId, probe: Probe) {
        if !probe.answer {
            // Who asks may want to know how fresh it is.
            self.send_heartbeat(link);
            let answer = Probe {
                answer: true,
                ..probe
            };
            return self.send(link, &Frame::Probe(answer));
        }
        if let Some(state) = self.links.get_mut(&link)
            && state.proof.number == probe.number
        {
            state.proof.is_given();
        }
    }

    pub(super) fn proofs_due(&self) -> impl Iterator<Item = (Tick, WakeReason)> + '_ {
        let asked = self.links.iter();
        asked.filter_map(|(id, link)| Some((link.proof.due?, WakeReason::Proof(*id))))
    }

    pub(super) fn close_unproven(&mut self) {
        let now = self.now.tick;
        let due = self.proofs_due().filter(|(at, _)| *at <= now);
        let due: Vec<_> = due
            .filter_map(|(_, why)| match why {
                WakeReason::Proof(link) => Some(link),
                _ => None,
            })
            .collect();
        for link in due {
            let Some(peer) = self.links.get(&link).map(|state| state.peer) else {
                continue;
            };
            self.close_link(link, CloseReason::Unproven);
            self.dial_if_needed(peer);
        }
    }

    /// Something of a workspace moved on a link.
    pub(super) fn note_moved(&mut self, link: LinkId, workspace: WorkspaceId) {
        let now = self.now;
        if let Some(state) = self.links.get_mut(&link) {
            state.moved.insert(workspace, now);
        }
    }

    /// A pass ended, or changes arrived: whatever was wrong with the peer is over.
    pub(super) fn note_progress(&mut self, peer: PeerId) {
        if let Some(dialer) = self.dialers.get_mut(&peer) {
            dialer.note_progress();
        }
        self.stalls.retain(|(of, _), _| *of != peer);
    }

    /// Greets a peer anew if one side lacks something and nothing has moved for too long.
    pub(super) fn look_for_stalls(&mut self, link: LinkId) {
        let now = self.now;
        // While our own store is busy it is not the link that holds things up.
        let is_busy = !self.is_idle();
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let peer = state.peer;
        let mut stalled = Vec::new();
        for (workspace, flow) in &state.flows {
            let Some(WorkspaceState::Ready(known)) = self.workspaces.get(workspace) else {
                continue;
            };
            let record = known.peers.get(&peer);
            let owes = record.is_some_and(|record| flow.is_behind(record, known.released));
            let moved = state.moved.entry(*workspace).or_insert(now);
            if is_busy || !owes {
                *moved = now;
                continue;
            }
            let before = self.stalls.get(&(peer, *workspace));
            let times = before.map_or(0, |stall| stall.times);
            let patience = limits::STALL_AFTER * (1 << times.min(limits::STALL_DOUBLINGS_MAX));
            if now.tick - moved.tick >= patience {
                let since = before.map_or(moved.wall, |stall| stall.since);
                let times = times + 1;
                stalled.push((*workspace, Stall { since, times }));
            }
        }
        if stalled.is_empty() {
            return;
        }
        for (workspace, stall) in stalled {
            self.stalls.insert((peer, workspace), stall);
            let since = stall.since;
            self.emit(Event::Stalled {
                peer,
                workspace,
                since,
            });
        }
        self.close_link(link, CloseReason::Stalled);
    }
}
