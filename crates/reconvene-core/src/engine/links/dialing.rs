//! Whom links are wanted with, and when each is dialled again.

use rand_chacha::rand_core::RngCore as _;

use crate::engine::{CloseReason, Engine, Event, JoinRequest, Output};
use crate::ids::PeerId;
use crate::limits;
use crate::mutants::Mutant;
use crate::refusal::RefusalCode;
use crate::time::{Tick, WallTime};

/// A peer to keep a link to.
#[derive(Debug)]
pub(in crate::engine) struct Dialer {
    pub(super) addresses: Vec<String>,
    /// Whether a link is wanted for good, or only for a join.
    pub(super) keep: bool,
    pub(super) dialing: bool,
    pub(super) attempts: u32,
    pub(in crate::engine) redial_at: Option<Tick>,
    pub(super) join: Option<JoinRequest>,
    pub(super) trouble: Option<Trouble>,
}

/// Why a wanted peer is not linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When that was found.
    pub at: WallTime,
    /// The peer's refusal, if that was it.
    pub code: Option<RefusalCode>,
    /// The same for people.
    pub why: String,
}

impl Engine {
    pub(in crate::engine) fn on_connect(&mut self, peer: PeerId, addresses: Vec<String>) {
        let dialer = self.dialers.entry(peer).or_insert_with(Dialer::idle);
        dialer.set_addresses(addresses);
        dialer.keep = true;
        self.dial_if_needed(peer);
    }

    pub(in crate::engine) fn on_disconnect(&mut self, peer: PeerId) {
        self.dialers.remove(&peer);
        for link in self.links_to(peer) {
            self.close_link(link, CloseReason::Finished);
        }
    }

    pub(in crate::engine) fn on_reached(&mut self, peer: PeerId, address: &str) {
        if let Some(dialer) = self.dialers.get_mut(&peer) {
            dialer.prefer(address);
        }
    }

    pub(in crate::engine) fn dial_if_needed(&mut self, peer: PeerId) {
        let linked = self.links.values().any(|link| link.peer == peer);
        let Some(dialer) = self.dialers.get_mut(&peer) else {
            return;
        };
        dialer.redial_at = None;
        if linked || dialer.dialing {
            return;
        }
        dialer.dialing = true;
        let addresses = dialer.addresses.clone();
        self.outputs.push_back(Output::Dial { peer, addresses });
    }

    pub(in crate::engine) fn on_dial_failed(&mut self, peer: PeerId, why: &str) {
        let dials_once = self.is(Mutant::DialsOnce);
        let Some(dialer) = self.dialers.get_mut(&peer) else {
            return;
        };
        dialer.dialing = dials_once;
        if let Some(join) = dialer.join.take() {
            let why = why.to_owned();
            self.emit(Event::JoinFailed {
                request: join.request,
                code: None,
                why,
            });
        }
        // The peer may have dialled us meanwhile.
        if self.links_to(peer).is_empty() {
            self.schedule_redial(peer, None, why);
        }
    }

    /// Backoff with full jitter: a uniform delay up to a bound that doubles with each attempt.
    pub(super) fn schedule_redial(&mut self, peer: PeerId, code: Option<RefusalCode>, why: &str) {
        let mut retry_at = None;
        if let Some(dialer) = self.dialers.get_mut(&peer) {
            dialer.trouble = Some(Trouble {
                at: self.now.wall,
                code,
                why: why.to_owned(),
            });
            if dialer.keep {
                let bound = limits::BACKOFF_FIRST
                    .saturating_mul(1 << dialer.attempts.min(16))
                    .min(limits::BACKOFF_MAX);
                let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX).max(1);
                let delay = std::time::Duration::from_millis(self.rng.next_u64() % bound_ms);
                dialer.attempts = dialer.attempts.saturating_add(1);
                dialer.redial_at = Some(self.now.tick + delay);
                retry_at = dialer.redial_at;
            } else if !dialer.dialing {
                self.dialers.remove(&peer);
            }
        }
        self.emit(Event::Unreachable {
            peer,
            why: why.to_owned(),
            retry_at,
        });
    }
}

impl Dialer {
    pub(super) fn idle() -> Self {
        Self {
            addresses: Vec::new(),
            keep: false,
            dialing: false,
            attempts: 0,
            redial_at: None,
            join: None,
            trouble: None,
        }
    }

    pub(in crate::engine) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    pub(in crate::engine) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Backoff starts over: not with a link, which may lead to nothing, but with what it led to.
    pub(in crate::engine) fn note_progress(&mut self) {
        self.attempts = 0;
        self.trouble = None;
    }

    pub(super) fn set_addresses(&mut self, addresses: Vec<String>) {
        let mut known: Vec<String> = Vec::with_capacity(addresses.len());
        for address in addresses {
            if known.len() < limits::PEER_ADDRESSES_MAX && !known.contains(&address) {
                known.push(address);
            }
        }
        self.addresses = known;
    }

    /// Tries an address first from now on.
    pub(super) fn prefer(&mut self, address: &str) {
        let place = self.addresses.iter().position(|known| known == address);
        if let Some(place) = place {
            self.addresses[..=place].rotate_right(1);
        }
    }
}
