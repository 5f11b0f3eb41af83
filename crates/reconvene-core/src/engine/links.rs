//! Links: who may come in, the greeting, and heartbeats. `dialing` keeps wanted links up, `joining`
//! redeems tickets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::alive::{Proof, Said};
use super::follow::Flow;
use super::reconcile::Reconciliation;
use super::{
    CloseReason, Engine, Event, LinkStats, Moment, Output, ReadQuery, Reading, WakeReason,
    WorkspaceState,
};
use crate::feed::{Digest, FeedPoint};
use crate::ids::{DocumentId, LinkId, PeerId, RequestId, WorkspaceId};
use crate::keys::{Key, KeyRange};
use crate::limits;
use crate::mutants::Mutant;
use crate::records::{PeerRow, Record as _, RecordError, RelayedRow, Standing};
use crate::refusal::RefusalCode;
use crate::storage::{Rows, Scan, StoreError};
use crate::time::Tick;
use crate::wire::{
    self, Ack, Assembler, Frame, Hello, Join, Refused, SharedDevice, WorkspaceHello,
};

mod dialing;
mod joining;

pub(super) use dialing::Dialer;
pub use dialing::Trouble;

/// Where a link is in its life.
#[derive(Debug, PartialEq)]
enum Phase {
    /// Which workspaces are shared is being read.
    Arriving,
    /// The peer is a stranger: only a join is taken.
    Stranger,
    /// A join was sent.
    Joining(RequestId),
    /// A ticket is being looked at.
    Redeeming {
        secret_hash: [u8; 32],
        device_name: String,
    },
    /// Feed heads and cursors are being read.
    Loading,
    /// Our hello is sent, theirs awaited.
    Greeting,
    /// Both sides have greeted.
    Up,
}

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: PeerId,
    pub(super) dialed: bool,
    phase: Phase,
    pub(super) flows: BTreeMap<WorkspaceId, Flow>,
    /// Frames that came before we were ready for them: the peer's greeting.
    early_frames: VecDeque<Bytes>,
    pub(super) said: Said,
    /// The number of the last heartbeat or question of the peer that was read.
    pub(super) heard: u64,
    assembler: Assembler,
    /// Workspaces of their hellos so far.
    greeted: BTreeMap<WorkspaceId, WorkspaceHello>,
    /// When we last said where our feeds end.
    pub(super) last_stated: Tick,
    pub(super) last_number: u64,
    /// Change frames that are not acknowledged: number, what it counts against the window, and when it
    /// was composed.
    pub(super) in_flight: VecDeque<(u64, usize, Moment)>,
    pub(super) in_flight_bytes: usize,
    pub(super) ingest_bytes: usize,
    /// Set while snapshots of a frame are being loaded; what came after it waits.
    pub(super) inspection: Option<super::snapshots::Inspection>,
    pub(super) held_bytes: usize,
    pub(super) stats: LinkStats,
    awaiting_answer: bool,
    pub(super) sent_documents: BTreeSet<crate::ids::DocumentId>,
    pass_reported: bool,
    /// When it came up.
    since: Tick,
    pub(super) proof: Proof,
    /// When something of a workspace last moved, or nothing had to.
    pub(super) moved: BTreeMap<WorkspaceId, Moment>,
    /// Digest of the shares the peer knows from us.
    pub(super) shares_known: Option<Digest>,
    /// What the peer was told that its member's other devices hold.
    pub(super) relayed: BTreeMap<(WorkspaceId, PeerId), RelayedRow>,
    /// Shares of workspaces that are not told to their end yet.
    pub(super) learning: BTreeMap<WorkspaceId, Vec<SharedDevice>>,
}

impl Link {
    fn new(peer: PeerId, dialed: bool, now: Moment) -> Self {
        Self {
            peer,
            dialed,
            phase: Phase::Arriving,
            flows: BTreeMap::new(),
            early_frames: VecDeque::new(),
            said: Said::default(),
            heard: 0,
            assembler: Assembler::default(),
            greeted: BTreeMap::new(),
            last_stated: now.tick,
            last_number: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            ingest_bytes: 0,
            inspection: None,
            held_bytes: 0,
            stats: LinkStats::default(),
            awaiting_answer: false,
            sent_documents: BTreeSet::new(),
            pass_reported: false,
            since: now.tick,
            proof: Proof::default(),
            moved: BTreeMap::new(),
            shares_known: None,
            relayed: BTreeMap::new(),
            learning: BTreeMap::new(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    pub(super) fn stats(&self) -> LinkStats {
        LinkStats {
            documents_sent: self.sent_documents.len() as u64,
            ..self.stats
        }
    }

    pub(super) fn shares(&self, workspace: &WorkspaceId) -> bool {
        self.is_up() && self.flows.contains_key(workspace)
    }
}

impl Engine {
    pub(super) fn on_close(&mut self) {
        self.dialers.clear();
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.close_link(link, CloseReason::Finished);
        }
        self.give_up_waiting();
    }

    pub(super) fn links_to(&self, peer: PeerId) -> Vec<LinkId> {
        let links = self.links.iter().filter(|(_, link)| link.peer == peer);
        links.map(|(id, _)| *id).collect()
    }

    pub(super) fn on_link_up(&mut self, link: LinkId, peer: PeerId, dialed: bool) {
        if let Some(dialer) = self.dialers.get_mut(&peer) {
            // A link from the other side leaves our own dial, and the join it is for, on its way.
            dialer.dialing &= !dialed;
            dialer.redial_at = None;
        }
        let others = self.links_to(peer);
        if others
            .iter()
            .any(|other| self.outlives(*other, peer, dialed))
        {
            let why = CloseReason::Replaced;
            return self.outputs.push_back(Output::CloseLink { link, why });
        }
        for other in others {
            self.close_link(other, CloseReason::Replaced);
        }
        self.links.insert(link, Link::new(peer, dialed, self.now));
        if self.recovering {
            return self.refuse(link, RefusalCode::Unavailable);
        }
        let join = self
            .dialers
            .get_mut(&peer)
            .filter(|_| dialed)
            .and_then(|dialer| dialer.join.take());
        if let Some(join) = join {
            self.set_phase(link, Phase::Joining(join.request));
            self.send(
                link,
                &Frame::Join(Join {
                    protocol_min: wire::PROTOCOL_MIN,
                    protocol_max: wire::PROTOCOL_MAX,
                    secret: join.secret,
                    device_name: join.device_name,
                }),
            );
            return;
        }
        self.ensure_roster();
        let scan = Scan::ascending(KeyRange::shares_of(&peer), limits::LINK_WORKSPACES_MAX);
        self.read(ReadQuery::Scan(scan), Reading::Shares(link));
    }

    /// Whether a link stays although a new one to the same peer came up: two that crossed on their
    /// way, each dialled by one side, are told apart the same way on both.
    fn outlives(&self, old: LinkId, peer: PeerId, new_is_dialed: bool) -> bool {
        let Some(old) = self.links.get(&old) else {
            return false;
        };
        let joins = self
            .dialers
            .get(&peer)
            .is_some_and(|dialer| new_is_dialed && dialer.join.is_some());
        // Whoever dials has no link, so a second one by the same side takes the place of a dead one.
        let crossed = old.dialed != new_is_dialed
            && self.now.tick - old.since < limits::CROSSING_WINDOW
            && !joins;
        let mine_stays = self.config.me < peer;
        crossed && old.dialed == mine_stays
    }

    fn set_phase(&mut self, link: LinkId, phase: Phase) {
        if let Some(link) = self.links.get_mut(&link) {
            link.phase = phase;
        }
    }

    pub(super) fn on_link_down(&mut self, link: LinkId, why: &str) {
        let Some(gone) = self.links.get(&link) else {
            return;
        };
        let peer = gone.peer;
        if let Phase::Joining(request) = gone.phase {
            let why = why.to_owned();
            self.emit(Event::JoinFailed {
                request,
                code: None,
                why,
            });
        }
        self.forget_link(link);
        if self.links_to(peer).is_empty() {
            self.schedule_redial(peer, None, why);
        }
    }

    /// Drops a link's state; what is known of the peer and not stored yet goes to the store.
    fn forget_link(&mut self, link: LinkId) {
        let Some(gone) = self.links.remove(&link) else {
            return;
        };
        if self.recovering {
            return; // What was known is no longer.
        }
        let is_low = self.low_space.is_some();
        for (workspace, flow) in &gone.flows {
            let state = self.ready(workspace);
            let mut known = state.and_then(|state| state.peers.get_mut(&gone.peer));
            if let Some(known) = known.as_mut().filter(|_| !flow.has_retold) {
                // It went before it could tell again what it refuses.
                for (document, code) in &flow.refused_before {
                    known.dirty |= known.row.refuse_there(*document, *code);
                }
            }
            if known.is_some_and(|known| known.dirty) && !is_low {
                self.enqueue_peer_row(*workspace, gone.peer);
            }
        }
        if is_low {
            self.drop_waiting(link);
        }
    }

    pub(super) fn close_link(&mut self, link: LinkId, why: CloseReason) {
        let Some(closing) = self.links.get(&link) else {
            return;
        };
        let peer = closing.peer;
        if let Phase::Joining(request) = closing.phase {
            self.emit(Event::JoinFailed {
                request,
                code: None,
                why: format!("{why:?}"),
            });
        }
        self.forget_link(link);
        let text = format!("closed here: {why:?}");
        let replaced = why == CloseReason::Replaced;
        let code = match &why {
            CloseReason::RefusedByPeer(code) => Some(*code),
            _ => None,
        };
        self.outputs.push_back(Output::CloseLink { link, why });
        if !replaced {
            self.schedule_redial(peer, code, &text);
        }
    }

    pub(super) fn close_all_links(&mut self, _error: &StoreError) {
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.close_link(link, CloseReason::StoreFailed);
        }
    }

    pub(super) fn fault(&mut self, link: LinkId, what: String) {
        self.close_link(link, CloseReason::Fault(what));
    }

    /// Tells a peer that nothing comes of this link, and why, and closes it.
    pub(super) fn refuse(&mut self, link: LinkId, code: RefusalCode) {
        self.send(
            link,
            &Frame::Refused(Refused {
                code,
                message: code.to_string(),
                protocol: (wire::PROTOCOL_MIN, wire::PROTOCOL_MAX),
                fault: None,
            }),
        );
        self.close_link(link, CloseReason::Refused(code));
    }

    pub(super) fn send(&mut self, link: LinkId, frame: &Frame) {
        for frame in frame.encode() {
            self.outputs.push_back(Output::SendFrame { link, frame });
        }
        self.note_sent(link);
    }

    pub(super) fn note_sent(&mut self, link: LinkId) {
        if let Some(link) = self.links.get_mut(&link) {
            link.awaiting_answer = true;
        }
    }

    pub(super) fn on_shares(&mut self, link: LinkId, rows: &Rows) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let peer = state.peer;
        if rows.more {
            self.outputs
                .push_back(Output::Event(Event::TooManyWorkspaces { peer }));
        }
        let workspaces: Vec<_> = rows
            .rows
            .iter()
            .filter_map(|(key, _)| key.workspace_id())
            .collect();
        if workspaces.is_empty() {
            state.phase = Phase::Stranger;
            if state.dialed {
                // We share nothing with a peer we dialled ourselves: there is nothing to say.
                return self.close_link(link, CloseReason::Finished);
            }
            return self.take_early_frames(link);
        }
        state.phase = Phase::Loading;
        for workspace in &workspaces {
            state.flows.insert(*workspace, Flow::default());
        }
        self.outputs.push_back(Output::AdmitLink { link });
        let keys = workspaces
            .iter()
            .map(|workspace| Key::peer(workspace, &peer))
            .collect();
        for workspace in &workspaces {
            self.ensure_workspace(*workspace);
        }
        self.read(ReadQuery::Values(keys), Reading::Peers(link, workspaces));
    }

    pub(super) fn on_peer_rows(
        &mut self,
        link: LinkId,
        workspaces: &[WorkspaceId],
        values: &[Option<Bytes>],
    ) -> Result<(), RecordError> {
        let Some(state) = self.links.get_mut(&link) else {
            return Ok(());
        };
        for (workspace, value) in workspaces.iter().zip(values) {
            let row = value
                .as_ref()
                .map(|value| PeerRow::decode(value))
                .transpose()?;
            if let Some(flow) = state.flows.get_mut(workspace) {
                flow.stored_row = Some(row.unwrap_or_default());
            }
        }
        self.greet_waiting_links();
        Ok(())
    }

    /// Sends hellos on links for which everything was read.
    pub(super) fn greet_waiting_links(&mut self) {
        let loading = self
            .links
            .iter()
            .filter(|(_, link)| link.phase == Phase::Loading);
        let loading: Vec<_> = loading.map(|(id, _)| *id).collect();
        for link in loading {
            self.greet_if_loaded(link);
        }
    }

    fn greet_if_loaded(&mut self, link: LinkId) {
        // A feed whose entries are just being entered anew has no end to speak of.
        if self.is_healing() {
            return;
        }
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let peer = state.peer;
        let mut hellos = Vec::with_capacity(state.flows.len());
        let loaded = state.flows.iter().all(|(workspace, flow)| {
            flow.stored_row.is_some()
                && matches!(
                    self.workspaces.get(workspace),
                    Some(WorkspaceState::Ready(_))
                )
        });
        // The dialling side greets first, so that it knows the answer to be later.
        let has_been_greeted = state.dialed || !state.early_frames.is_empty();
        if !loaded || !self.roster.is_known() || !has_been_greeted {
            return;
        }
        // What was refused of the peer, and is taken by what is not stored yet, cannot be told truly.
        let is_accepting = state.flows.keys().any(|of| match self.workspaces.get(of) {
            Some(WorkspaceState::Ready(known)) => {
                let known = known.peers.get(&peer);
                known.is_some_and(|known| known.accepting > 0)
            }
            Some(WorkspaceState::Loading) | None => false,
        });
        if is_accepting {
            return;
        }
        let workspaces = state.flows.keys().copied();
        let unsettled = workspaces.filter(|workspace| !self.is_settled(workspace));
        let unsettled: BTreeSet<_> = unsettled.collect();
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let shares = self.roster.digest_learned_from(peer);
        for (workspace, flow) in &mut state.flows {
            let Some(WorkspaceState::Ready(known)) = self.workspaces.get_mut(workspace) else {
                continue;
            };
            let row = flow.stored_row.take().unwrap_or_default();
            // What this engine learned since is newer than what was read.
            let record = known.peers.entry(peer).or_insert_with(|| super::Peer {
                held_stored: row.held,
                row,
                ..super::Peer::default()
            });
            let has_room = known.documents < self.config.workspace_documents_max;
            let is_over = |code: &RefusalCode| match code {
                RefusalCode::WorkspaceFull => has_room,
                code => code.may_pass(),
            };
            let is_any_over = record.row.refused_here.values().any(is_over);
            if record.row.refused_here_unlisted > 0 || is_any_over {
                // Some of what was refused is not listed, or was for a reason of our own: only
                // comparing everything finds it again.
                let refused = &mut record.row.refused_here;
                refused.retain(|_, code| !is_over(code));
                record.row.refused_here_unlisted = 0;
                record.row.held = None;
                record.held_stored = None;
                record.dirty = true;
            }
            flow.greeted = Some((known.released, record.held_stored));
            flow.we_take_snapshots = self.roster.takes_snapshots_of(workspace, &peer);
            let takes_snapshots = flow.we_take_snapshots;
            hellos.push(WorkspaceHello {
                workspace: *workspace,
                head: known.released,
                held: record.held_stored,
                takes_snapshots,
                is_unsettled: unsettled.contains(workspace),
            });
        }
        state.phase = Phase::Greeting;
        state.said.greeting = Some(self.now);
        let role = self.config.role;
        let state_version = self.config.state_version;
        let chunks: Vec<_> = hellos
            .chunks(limits::HELLO_WORKSPACES_MAX)
            .map(<[_]>::to_vec)
            .collect();
        let last = chunks.len() - 1;
        for (place, workspaces) in chunks.into_iter().enumerate() {
            self.send(
                link,
                &Frame::Hello(Hello {
                    protocol_min: wire::PROTOCOL_MIN,
                    protocol_max: wire::PROTOCOL_MAX,
                    role,
                    state_version,
                    workspaces,
                    more: place < last,
                    shares: shares.filter(|_| place == last),
                }),
            );
        }
        self.take_early_frames(link);
    }

    /// Handles what came while the link was not ready.
    fn take_early_frames(&mut self, link: LinkId) {
        while let Some(state) = self.links.get_mut(&link)
            && let Some(frame) = state.early_frames.pop_front()
        {
            self.on_ready_frame(link, &frame);
        }
    }

    pub(super) fn on_frame(&mut self, link: LinkId, frame: &Bytes) {
        let Some(state) = self.links.get_mut(&link) else {
            return; // Closed here; what was on its way no longer counts.
        };
        if !matches!(state.phase, Phase::Arriving | Phase::Loading) {
            return self.on_ready_frame(link, frame);
        }
        // A refusal is followed by the end of the link, not by our greeting.
        if let Ok(Frame::Refused(refused)) = Frame::decode(frame) {
            return self.on_refused(link, refused);
        }
        state.early_frames.push_back(frame.clone());
        if state.early_frames.len() > limits::EARLY_FRAMES_MAX {
            let what = "more frames than a greeting takes before it was answered";
            return self.fault(link, what.to_owned());
        }
        if state.phase == Phase::Loading {
            self.greet_if_loaded(link);
        }
    }

    fn on_ready_frame(&mut self, link: LinkId, frame: &Bytes) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        if frame.len() > limits::FRAME_BYTES_MAX {
            return self.fault(link, format!("a frame of {} bytes", frame.len()));
        }
        if std::mem::take(&mut state.awaiting_answer) {
            state.stats.round_trips += 1;
        }
        match state.assembler.accept(frame) {
            Ok(Some(frame)) => self.on_whole_frame(link, frame),
            Ok(None) => {
                // Part of a large change: whichever workspace it is of, something moves.
                for moved in state.moved.values_mut() {
                    *moved = self.now;
                }
            }
            Err(error) => self.fault(link, error.to_string()),
        }
    }

    pub(super) fn on_whole_frame(&mut self, link: LinkId, frame: Frame) {
        let Some(frame) = self.hold_back(link, frame) else {
            return;
        };
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        if state.is_up() && frame != Frame::Unknown {
            state.said.greeting_is_read();
        }
        let moving = match &frame {
            Frame::Changes(changes) => Some(changes.workspace),
            Frame::Ack(ack) => Some(ack.workspace),
            Frame::Reconcile(message) => Some(message.workspace),
            Frame::Want(want) => Some(want.workspace),
            Frame::Done(done) => Some(done.workspace),
            _ => None,
        };
        match (&state.phase, frame) {
            (_, Frame::Unknown) => {}
            (_, Frame::Refused(refused)) => self.on_refused(link, refused),
            (Phase::Stranger, Frame::Join(join)) => self.on_join(link, join),
            (Phase::Stranger, Frame::Hello(hello))
                if !speaks(hello.protocol_min, hello.protocol_max) =>
            {
                self.refuse(link, RefusalCode::IncompatibleProtocol);
            }
            (Phase::Stranger, _) => self.refuse(link, RefusalCode::NotEnrolled),
            // A device that joined before may lose the answer and ask again.
            (Phase::Greeting, Frame::Join(join)) => self.on_join(link, join),
            (Phase::Joining(request), Frame::Joined(joined)) => {
                let request = *request;
                self.on_joined(link, request, joined);
            }
            // It greets us as a device it knows, before it has read the join.
            (Phase::Joining(_), Frame::Hello(_)) => {}
            (Phase::Greeting, Frame::Hello(hello)) => self.on_hello(link, hello),
            (Phase::Up, Frame::Changes(changes)) => self.on_changes(link, changes),
            (Phase::Up, Frame::Ack(ack)) => self.on_ack(link, ack),
            (Phase::Up, Frame::Reconcile(message)) => self.on_reconcile(link, &message),
            (Phase::Up, Frame::Want(want)) => self.on_want(link, want),
            (Phase::Up, Frame::Done(done)) => self.on_done(link, &done),
            (Phase::Up, Frame::Heartbeat(heartbeat)) => self.on_heartbeat(link, &heartbeat),
            (Phase::Up, Frame::Shares(shares)) => self.on_shares_told(link, shares),
            (Phase::Up, Frame::Probe(probe)) => self.on_probe(link, probe),
            (Phase::Up, Frame::Held(held)) => self.on_held(link, held),
            (Phase::Up, Frame::Leave(workspace)) => self.on_left(link, workspace),
            (phase, frame) => {
                let what = format!("an unexpected {} while {phase:?}", frame.name());
                self.fault(link, what);
            }
        }
        if let Some(workspace) = moving {
            self.note_moved(link, workspace);
        }
    }

    fn on_refused(&mut self, link: LinkId, refused: Refused) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let peer = state.peer;
        let code = refused.code;
        if let Phase::Joining(request) = state.phase {
            state.phase = Phase::Stranger;
            let why = refused.message.clone();
            self.emit(Event::JoinFailed {
                request,
                code: Some(code),
                why,
            });
        }
        self.emit(Event::RefusedByPeer {
            peer,
            code,
            message: refused.message,
            fault: refused.fault,
        });
        self.close_link(link, CloseReason::RefusedByPeer(code));
    }

    fn on_hello(&mut self, link: LinkId, hello: Hello) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        if !speaks(hello.protocol_min, hello.protocol_max) {
            let (peer, dialed) = (state.peer, state.dialed);
            let code = RefusalCode::IncompatibleProtocol;
            if dialed {
                // Whoever dialed is told, also where its own greeting is refused too late to be heard.
                self.emit(Event::RefusedByPeer {
                    peer,
                    code,
                    message: code.to_string(),
                    fault: None,
                });
            }
            return self.refuse(link, code);
        }
        state.shares_known = hello.shares;
        for workspace in hello.workspaces {
            state.greeted.insert(workspace.workspace, workspace);
        }
        if state.greeted.len() > limits::LINK_WORKSPACES_MAX {
            return self.fault(link, "too many workspaces in a greeting".to_owned());
        }
        if hello.more {
            return;
        }
        state.phase = Phase::Up;
        state.proof.is_given();
        let asks_again = std::mem::take(&mut state.proof.is_put_off);
        if state.dialed {
            state.said.greeting_is_read();
        }
        let peer = state.peer;
        let state_version = hello.state_version;
        let greeted = std::mem::take(&mut state.greeted);
        let ours: Vec<_> = state.flows.keys().copied().collect();
        let (shared, not_shared): (Vec<_>, Vec<_>) = ours
            .into_iter()
            .partition(|workspace| greeted.contains_key(workspace));
        for workspace in &not_shared {
            state.flows.remove(workspace);
        }
        if shared.is_empty() {
            return self.refuse(link, RefusalCode::NotEnrolled);
        }
        self.emit(Event::LinkReady {
            link,
            peer,
            workspaces: shared.clone(),
            not_shared,
        });
        for workspace in shared {
            if self.roster.standing(&workspace, &peer) == Some(Standing::Server) {
                self.emit(Event::ServerState {
                    peer,
                    workspace,
                    state_version,
                });
            }
            if self.leaving.contains_key(&workspace) {
                if let Some(state) = self.links.get_mut(&link) {
                    state.flows.remove(&workspace);
                }
                self.send(link, &Frame::Leave(workspace));
            } else if let Some(theirs) = greeted.get(&workspace) {
                self.note_moved(link, workspace);
                self.begin_flow(link, workspace, theirs);
                self.restate_refusals(link, workspace);
                self.know_siblings(workspace, peer);
                self.relay_to(link, workspace);
                self.relay_of(workspace, peer);
            }
        }
        self.tell_shares(link);
        self.report_pass(link);
        if self.links.get(&link).is_some_and(|state| state.dialed) {
            // Whoever was dialled greeted last, and cannot know how old what it was greeted with is.
            self.send_heartbeat(link);
        }
        if asks_again {
            self.probe(link);
        }
    }

    /// Says once more what of the peer's is still refused here, so that its list is no longer than ours.
    fn restate_refusals(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(peer) = self.links.get(&link).map(|state| state.peer) else {
            return;
        };
        let known = self
            .ready(&workspace)
            .and_then(|known| known.peers.get(&peer));
        let refused: Vec<_> = known.map_or_else(Vec::new, |known| {
            let refused = known.row.refused_here.iter();
            refused.map(|(document, code)| (*document, *code)).collect()
        });
        if !refused.is_empty() {
            self.tell_refusals(link, workspace, refused, Vec::new());
        }
    }

    /// Tells a peer what of its is refused here, and what no longer is.
    pub(super) fn tell_refusals(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        refused: Vec<(DocumentId, RefusalCode)>,
        accepted: Vec<DocumentId>,
    ) {
        self.send(
            link,
            &Frame::Ack(Ack {
                workspace,
                through: None,
                number: 0,
                refused,
                head: None,
                accepted,
            }),
        );
    }

    /// Decides, from both greetings, whether each side's cursor can be trusted.
    fn begin_flow(&mut self, link: LinkId, workspace: WorkspaceId, theirs: &WorkspaceHello) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let (peer, dialed) = (state.peer, state.dialed);
        let as_of = state.said.as_of().filter(|_| !theirs.is_unsettled);
        // Both sides have to judge the same two greetings, whatever was stored since.
        let greeted = state.flows.get(&workspace).and_then(|flow| flow.greeted);
        let Some((greeted_head, mine)) = greeted else {
            return;
        };
        let mutants = self.config.mutants;
        let Some(known) = self.ready(&workspace) else {
            return;
        };
        let record = known.peers.entry(peer).or_default();
        let either_empty = greeted_head.seq.0 == 0 || theirs.head.seq.0 == 0;
        let (mut mine, mut held_by_them) = (mine, theirs.held);
        if mutants.has(Mutant::TrustsOldCursors) {
            let of = |epoch| move |at| FeedPoint { epoch, ..at };
            mine = mine.map(of(theirs.head.epoch));
            held_by_them = held_by_them.map(of(greeted_head.epoch));
        }
        if mutants.has(Mutant::IgnoresForks) {
            let ends_alike = |head: FeedPoint| {
                move |at: FeedPoint| match at.seq == head.seq && at.epoch == head.epoch {
                    true => head,
                    false => at,
                }
            };
            mine = mine.map(ends_alike(theirs.head));
            held_by_them = held_by_them.map(ends_alike(greeted_head));
        }
        let our_cursor = trust(mine, theirs.head, either_empty);
        let their_cursor = trust(held_by_them, greeted_head, either_empty);
        let rolled_back = matches!(their_cursor, Trust::Ahead);
        let following = match (our_cursor, their_cursor) {
            (Trust::At(_), Trust::At(point)) => Some(point),
            _ => None,
        };
        // Cursors that cannot be trusted are forgotten on both sides: the peer may have lost what it
        // once held, and we what we did. That goes for both as soon as it goes for one: only following
        // shows that the other is of a history that is still there.
        let held = our_cursor.point().filter(|_| following.is_some());
        record.dirty |= record.row.held != held;
        record.dirty |= record.row.takes_snapshots != theirs.takes_snapshots;
        record.row.takes_snapshots = theirs.takes_snapshots;
        record.row.held = held;
        record.held_stored = held;
        record.agreed_on = Some(link);
        if following.is_none() {
            record.waypoints = super::relay::Waypoints::default();
        }
        if record.row.acknowledged != following {
            record.row.acknowledged = following;
            record.dirty = true;
        }
        // It tells anew what it still refuses.
        let refused_before = std::mem::take(&mut record.row.refused_there);
        record.dirty |= !refused_before.is_empty();
        record.row.refused_there_unlisted = 0;
        if let Some(flow) = self.flow(link, &workspace)
            && !mutants.has(Mutant::ForgetsRefusals)
        {
            flow.refused_before = refused_before;
        }
        if rolled_back && self.begins_history_for(workspace, peer) {
            return;
        }
        // Also what is on its way into our feed.
        let assigned = self.ready(&workspace).map(|known| known.point.seq);
        if let Some(flow) = self.flow(link, &workspace) {
            flow.they_take_snapshots = theirs.takes_snapshots;
            flow.begin(theirs.head, greeted_head, as_of, following);
            flow.echo(assigned.unwrap_or(greeted_head.seq));
            if mutants.has(Mutant::ConfirmsNothing) {
                flow.confirm_nothing();
            }
            if following.is_some() && mutants.has(Mutant::ForgetsWhoWasAway) {
                flow.follow_from(greeted_head);
            }
            if flow.is_unconfirmed() {
                // Until then it may be of a history that was lost, and frees nothing.
                self.set_acknowledged(workspace, peer, None);
            }
        }
        if following.is_some() {
            self.note_waypoint(workspace, peer);
            self.release_journal(workspace);
            self.note_held(link, workspace);
            self.want_refused(link, workspace);
            self.walk(link, workspace);
        } else {
            if let Some(flow) = self.flow(link, &workspace) {
                flow.reconciling = Some(Reconciliation::awaiting());
            }
            if dialed {
                self.start_reconcile(link, workspace, 1);
            }
        }
    }

    /// A peer claims entries of our feed that we do not hold. Whether a new history begins for it:
    /// one that began in this engine's life holds what was released since, and nobody can have more,
    /// so such a claim is false and concerns only who made it.
    pub(super) fn begins_history_for(&mut self, workspace: WorkspaceId, peer: PeerId) -> bool {
        let is_false = self
            .ready(&workspace)
            .is_some_and(|state| state.is_refounded);
        if is_false || self.is(Mutant::KeepsItsHistory) {
            self.emit(Event::FalseClaim { workspace, peer });
            return false;
        }
        self.emit(Event::RolledBack { workspace, peer });
        self.begin_history(workspace, CloseReason::RolledBack);
        true
    }

    /// Begins a new history of a workspace's feed, and every cursor with it.
    pub(super) fn begin_history(&mut self, workspace: WorkspaceId, why: CloseReason) {
        let epoch = self.fresh_epoch();
        if let Some(state) = self.ready(&workspace) {
            state.point.epoch = epoch;
            state.released.epoch = epoch;
            state.stored.epoch = epoch;
            state.persisted = false;
            state.is_refounded = true;
            state.journal_released = None;
            // The journal's frames so far are of the old epoch.
            let through = state.point.seq;
            self.replays.entry(workspace).or_default().through = through;
        }
        self.enqueue_feed_head(workspace);
        // Also those that were greeted with the old history and have not greeted back.
        let greeted = self.links.iter().filter(|(_, link)| {
            link.flows
                .get(&workspace)
                .is_some_and(|flow| flow.greeted.is_some())
        });
        let greeted: Vec<_> = greeted.map(|(id, _)| *id).collect();
        for link in greeted {
            self.close_link(link, why.clone());
        }
    }

    pub(super) fn flow(&mut self, link: LinkId, workspace: &WorkspaceId) -> Option<&mut Flow> {
        self.links.get_mut(&link)?.flows.get_mut(workspace)
    }

    /// Reports a finished pass once.
    pub(super) fn report_pass(&mut self, link: LinkId) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let peer = state.peer;
        if !state.is_up() || state.pass_reported {
            return;
        }
        let complete = state.flows.iter().all(|(workspace, flow)| {
            let Some(WorkspaceState::Ready(known)) = self.workspaces.get(workspace) else {
                return false;
            };
            known
                .peers
                .get(&peer)
                .is_some_and(|record| flow.pass_complete(record))
        });
        if !complete {
            return;
        }
        if let Some(state) = self.links.get_mut(&link) {
            state.pass_reported = true;
            let stats = state.stats();
            self.emit(Event::PassComplete { link, peer, stats });
            self.note_progress(peer);
        }
    }

    pub(super) fn heartbeats_due(&self) -> impl Iterator<Item = (Tick, WakeReason)> + '_ {
        let up = self.links.iter().filter(|(_, link)| link.is_up());
        up.map(|(id, link)| {
            (
                link.last_stated + limits::HEARTBEAT_EVERY,
                WakeReason::Heartbeat(*id),
            )
        })
    }

    pub(super) fn on_wake(&mut self) {
        let now = self.now.tick;
        let due = self.heartbeats_due().filter(|(at, _)| *at <= now);
        let due: Vec<_> = due
            .filter_map(|(_, why)| match why {
                WakeReason::Heartbeat(link) => Some(link),
                WakeReason::Redial(_)
                | WakeReason::Proof(_)
                | WakeReason::Replay
                | WakeReason::Room
                | WakeReason::Stale(_)
                | WakeReason::Ask(_) => None,
            })
            .collect();
        for link in due {
            self.send_heartbeat(link);
            self.look_for_stalls(link);
        }
        self.close_unproven();
        let redials = self
            .dialers
            .iter()
            .filter(|(_, dialer)| dialer.redial_at.is_some_and(|at| at <= now));
        let redials: Vec<_> = redials.map(|(peer, _)| *peer).collect();
        for peer in redials {
            self.dial_if_needed(peer);
        }
        if self.replay_at.is_some_and(|at| at <= now) {
            self.replay_owed();
        }
        if self.room_due().is_some_and(|at| at <= now) {
            self.ask_room();
        }
        self.ask_peers();
        self.tell_stale();
    }
}

/// Whether a cursor still means what it says.
#[derive(Clone, Copy, Debug)]
enum Trust {
    /// Yes: everything up to here is held.
    At(FeedPoint),
    /// It is further than the feed it points into: that feed was rolled back.
    Ahead,
    /// It belongs to another history, or there is none.
    No,
}

impl Trust {
    fn point(self) -> Option<FeedPoint> {
        match self {
            Self::At(point) => Some(point),
            Self::Ahead | Self::No => None,
        }
    }
}

/// Judges the cursor a holder keeps of a feed that ends at `head`.
fn trust(cursor: Option<FeedPoint>, head: FeedPoint, either_empty: bool) -> Trust {
    match cursor {
        Some(cursor) if cursor.epoch == head.epoch => {
            let forked = cursor.seq == head.seq && cursor.digest != head.digest;
            if cursor.seq > head.seq || forked {
                Trust::Ahead
            } else {
                Trust::At(cursor)
            }
        }
        // Where one side has nothing, the beginning is exact: all of the other's feed is missing.
        _ if either_empty => Trust::At(FeedPoint::start_of(head.epoch)),
        _ => Trust::No,
    }
}

fn speaks(min: u32, max: u32) -> bool {
    min <= wire::PROTOCOL_MAX && max >= wire::PROTOCOL_MIN
}
