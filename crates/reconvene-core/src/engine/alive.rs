//! Whether links are worth keeping: they are probed after the network changed or the machine slept,
//! and greeted anew when one side lacks something of the other's and nothing moves. What a peer says is
//! as of the last of our words that it had read by then: no clock but ours is asked.

use std::collections::VecDeque;

use super::{CloseReason, Engine, Event, Moment, WakeReason, WorkspaceState};
use crate::ids::{LinkId, PeerId, WorkspaceId};
use crate::limits;
use crate::mutants::Mutant;
use crate::time::{Tick, WallTime};
use crate::wire::{Frame, Heartbeat, Probe};

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
    /// Whether it was to be asked when the link was not up yet.
    pub(super) is_put_off: bool,
}

/// What we said on a link, and how much of it the peer is known to have read: whatever it says after
/// that it says later than we said that.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// When we greeted.
    pub(super) greeting: Option<Moment>,
    /// The number of our last heartbeat or question.
    number: u64,
    /// Those that are not known to be read, oldest first.
    unread: VecDeque<(u64, Moment)>,
    /// When the last of all that is known to be read was said.
    last_read: Option<Moment>,
}

impl Said {
    fn say(&mut self, now: Moment) -> u64 {
        self.number += 1;
        // Without the oldest what is read is taken for older than it is, no more.
        if self.unread.len() >= limits::UNREAD_STATEMENTS_MAX {
            self.unread.pop_front();
        }
        self.unread.push_back((self.number, now));
        self.number
    }

    /// Something that was said at a moment is read.
    pub(super) fn is_read(&mut self, said: Moment) {
        if self.last_read.is_none_or(|last| last.tick < said.tick) {
            self.last_read = Some(said);
        }
    }

    /// Only who has read our greeting says anything but its own.
    pub(super) fn greeting_is_read(&mut self) {
        if self.last_read.is_none() {
            self.last_read = self.greeting;
        }
    }

    /// Everything up to a number is read; false if that was never said.
    fn is_read_to(&mut self, number: u64) -> bool {
        while let Some((said, at)) = self.unread.front().copied()
            && said <= number
        {
            self.unread.pop_front();
            self.is_read(at);
        }
        number <= self.number
    }

    /// As of when the peer says what it says now; `None` if that cannot be known.
    pub(super) fn as_of(&self) -> Option<Moment> {
        self.last_read
    }
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
        let now = self.now;
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.proof.due = Some(now.tick + limits::PROOF_DEADLINE);
        // A link that is not up yet proves itself by coming up. What it greeted with may be older than
        // the question.
        if !state.is_up() {
            state.proof.is_put_off = true;
            return;
        }
        let number = state.said.say(now);
        state.proof.number = number;
        let answer = false;
        self.send(link, &Frame::Probe(Probe { number, answer }));
    }

    pub(super) fn on_probe(&mut self, link: LinkId, probe: Probe) {
        if !probe.answer {
            if let Some(state) = self.links.get_mut(&link) {
                state.heard = state.heard.max(probe.number);
            }
            // Who asks may want to know how fresh it is.
            if !self.send_heartbeat(link) {
                self.owing.insert(link);
            }
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

    /// Says where our feeds end; whether that could be said of all.
    pub(super) fn send_heartbeat(&mut self, link: LinkId) -> bool {
        let now = self.now;
        let flows = self.links.get(&link).map(|state| state.flows.keys());
        let workspaces: Vec<_> = flows.into_iter().flatten().copied().collect();
        for workspace in workspaces {
            // What was not told of while it was not settled.
            self.walk(link, workspace);
        }
        let Some(state) = self.links.get(&link) else {
            return true;
        };
        let points = state.flows.iter().filter_map(|(workspace, flow)| {
            let Some(WorkspaceState::Ready(known)) = self.workspaces.get(workspace) else {
                return None;
            };
            let may_say = flow.is_caught_up(known.released) && self.is_settled(workspace);
            may_say.then_some((*workspace, known.released))
        });
        let points: Vec<_> = points.collect();
        let is_whole = points.len() == state.flows.len();
        let Some(state) = self.links.get_mut(&link) else {
            return true;
        };
        state.last_stated = now.tick;
        let number = state.said.say(now);
        let heard = state.heard;
        let heartbeat = Heartbeat {
            points,
            number,
            heard,
        };
        self.send(link, &Frame::Heartbeat(heartbeat));
        is_whole
    }

    /// Answers who asked where our feeds end when that could not be said yet.
    pub(super) fn state_owed(&mut self) {
        for link in std::mem::take(&mut self.owing) {
            let Some(state) = self.links.get(&link).filter(|link| link.is_up()) else {
                continue;
            };
            let may_say = state.flows.iter().all(|(workspace, flow)| {
                let known = self.workspaces.get(workspace);
                let is_caught_up = match known {
                    Some(WorkspaceState::Ready(known)) => flow.is_caught_up(known.released),
                    Some(WorkspaceState::Loading) | None => false,
                };
                is_caught_up && self.is_settled(workspace)
            });
            if may_say {
                self.send_heartbeat(link);
            } else {
                self.owing.insert(link);
            }
        }
    }

    pub(super) fn on_heartbeat(&mut self, link: LinkId, heartbeat: &Heartbeat) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.heard = state.heard.max(heartbeat.number);
        if !state.said.is_read_to(heartbeat.heard) {
            return self.fault(link, "an answer to what was never asked".to_owned());
        }
        let as_of = state.said.as_of();
        let as_of = as_of.map(|as_of| match self.is(Mutant::VouchesByArrival) {
            true => self.now,
            false => as_of,
        });
        self.note_shares_told(link);
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        // Whatever the peer still refuses it told again right behind its greeting.
        let peer = state.peer;
        let flows = state.flows.iter_mut().filter(|(_, flow)| !flow.has_retold);
        let retold = flows.map(|(workspace, flow)| {
            flow.has_retold = true;
            *workspace
        });
        for workspace in retold.collect::<Vec<_>>() {
            self.relay_of(workspace, peer);
            self.release_journal(workspace);
        }
        for (workspace, head) in &heartbeat.points {
            if let Some(flow) = self.flow(link, workspace) {
                flow.learn_head(*head, as_of);
                self.note_held(link, *workspace);
            }
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
