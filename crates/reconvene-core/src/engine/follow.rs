//! Following feeds: sending what a peer's cursor lacks, pushing what is new, acknowledging what
//! came, and knowing from that who holds what.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::ingest::{AckDue, CursorMove, Entry};
use super::links::Link;
use super::reconcile::{Exchange, Reconciliation};
use super::{
    Engine, Event, Moment, Output, Peer, ReadQuery, Reading, SendStored, StoredDocument, Verified,
    WorkspaceState,
};
use crate::feed::FeedPoint;
use crate::ids::{ChangeHash, DocumentId, FeedSeq, LinkId, PeerId, ReadId, WorkspaceId};
use crate::keys::KeyRange;
use crate::limits;
use crate::mutants::Mutant;
use crate::records::{FeedRow, PeerRow, Record as _, RecordError};
use crate::refusal::RefusalCode;
use crate::storage::{Rows, Scan};
use crate::wire::{self, Ack, Changes, DocumentChanges, Frame, Held};

/// What a feed follower is doing.
#[derive(Debug, Default, PartialEq)]
enum Walk {
    /// Nothing to read, as far as is known.
    #[default]
    Idle,
    /// A page of the feed is being read; the answer to an earlier read no longer counts.
    Reading(ReadId),
}

/// One workspace over one link.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The peer row as stored, until the greeting.
    pub(super) stored_row: Option<PeerRow>,
    /// What our greeting said: the end of our feed, and how far we hold theirs.
    pub(super) greeted: Option<(FeedPoint, Option<FeedPoint>)>,
    /// What a pass has to reach: the end of their feed and of ours when both greeted.
    pass: Option<(FeedPoint, FeedPoint)>,
    /// The end of their feed as last heard, and as of when, as far as that is known.
    their_head: Option<(FeedPoint, Option<Moment>)>,
    following: bool,
    pub(super) reconciling: Option<Reconciliation>,
    pub(super) exchange: Exchange,
    /// Our feed up to here was sent, or came from the peer.
    sent: Option<FeedPoint>,
    /// The peer was told that it holds our feed up to here.
    told: FeedSeq,
    walk: Walk,
    page: VecDeque<(FeedSeq, FeedRow)>,
    /// The cursor at which the peer's history has to be confirmed by the first entry read.
    confirm: Option<FeedPoint>,
    /// What a server said that others hold of our feed before that; taken when it is confirmed.
    pub(super) early_held: Vec<Held>,
    /// Whether we take snapshots from the peer, as our greeting said.
    pub(super) we_take_snapshots: bool,
    /// Whether the peer takes snapshots from us, as its greeting said.
    pub(super) they_take_snapshots: bool,
    /// Up to here the peer gets its own changes back, too: it may have lost what it sent us before
    /// this link, and its cursor with it.
    echo_through: FeedSeq,
    /// What the peer refused of ours before it greeted; it tells again what it still refuses.
    pub(super) refused_before: BTreeMap<DocumentId, RefusalCode>,
    /// Whether it has done so: it answered something that was sent to it after the greeting.
    pub(super) has_retold: bool,
}

impl Flow {
    /// Has the peer get its own changes back up to here.
    pub(super) fn echo(&mut self, through: FeedSeq) {
        self.echo_through = self.echo_through.max(through);
    }

    pub(super) fn begin(
        &mut self,
        their_head: FeedPoint,
        our_head: FeedPoint,
        as_of: Option<Moment>,
        following_from: Option<FeedPoint>,
    ) {
        self.pass = Some((their_head, our_head));
        self.their_head = Some((their_head, as_of));
        if let Some(point) = following_from {
            self.follow_from(point);
            self.confirm = (point.seq.0 > 0 && point.seq < our_head.seq).then_some(point);
        }
    }

    pub(super) fn follow_from(&mut self, point: FeedPoint) {
        self.following = true;
        self.sent = Some(point);
        self.told = point.seq;
        self.walk = Walk::Idle;
        self.page.clear();
        self.confirm = None;
    }

    pub(super) fn confirm_nothing(&mut self) {
        self.confirm = None;
    }

    /// All is compared instead. What the peer said was held and was not confirmed is not waited for: it
    /// is said again when both follow.
    pub(super) fn stop_following(&mut self) {
        self.following = false;
        self.walk = Walk::Idle;
        self.page.clear();
        self.confirm = None;
        self.early_held.clear();
    }

    /// Whether nothing up to an entry of our feed is on its way to the peer, or may yet be: what is
    /// ahead of it will be read anew.
    pub(super) fn is_past(&self, seq: FeedSeq, released: FeedPoint) -> bool {
        let quiet = self.walk == Walk::Idle && self.page.is_empty() && self.confirm.is_none();
        let sent = self.sent.map_or(released.seq, |sent| sent.seq);
        quiet
            && self.following
            && self.reconciling.is_none()
            && self.exchange.is_quiet()
            && sent >= seq
    }

    pub(super) fn is_caught_up(&self, released: FeedPoint) -> bool {
        self.following && self.told == released.seq
    }

    /// Takes note of where their feed ended at some time after a moment. Only what says so counts: a frame of
    /// changes or the end of a run may be well behind the end of the feed when it leaves.
    pub(super) fn learn_head(&mut self, head: FeedPoint, as_of: Option<Moment>) {
        let newer = self
            .their_head
            .is_none_or(|(known, _)| known.epoch != head.epoch || head.seq >= known.seq);
        if newer {
            self.their_head = Some((head, as_of));
        }
    }

    /// Whether what this link says of the peer's feed may be relied on: the peer has not yet shown
    /// that ours was rolled back, and can not do so any more.
    fn is_sound(&self) -> bool {
        self.following && self.confirm.is_none()
    }

    /// Whether the peer's cursor may still turn out to be of a history that was lost.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.confirm.is_some()
    }

    /// Whether one side is known to lack something of the other's feed.
    pub(super) fn is_behind(&self, peer: &Peer, released: FeedPoint) -> bool {
        let theirs = self.their_head.map(|(head, _)| head);
        self.reconciling.is_some()
            || !self.following
            || theirs.is_some_and(|head| !reached(peer.held_stored, head))
            || !reached(peer.row.acknowledged, released)
    }

    pub(super) fn pass_complete(&self, peer: &Peer) -> bool {
        // What was refused and is taken now may not be stored yet.
        self.is_sound()
            && peer.accepting == 0
            && self.pass.is_some_and(|(theirs, ours)| {
                reached(peer.held_stored, theirs) && reached(peer.row.acknowledged, ours)
            })
    }
}

fn reached(cursor: Option<FeedPoint>, target: FeedPoint) -> bool {
    cursor.is_some_and(|cursor| cursor.epoch == target.epoch && cursor.seq >= target.seq)
}

impl Engine {
    /// Sends as much of our feed as the window allows to a link that follows it.
    pub(super) fn walk(&mut self, link: LinkId, workspace: WorkspaceId) {
        loop {
            let Some(WorkspaceState::Ready(known)) = self.workspaces.get(&workspace) else {
                return;
            };
            let released = known.released;
            let Some(state) = self.links.get_mut(&link) else {
                return;
            };
            let window_open = state.in_flight_bytes < limits::WINDOW_BYTES;
            let Some(flow) = state.flows.get_mut(&workspace) else {
                return;
            };
            let Some(sent) = flow.sent.filter(|_| flow.following) else {
                return;
            };
            if flow.walk != Walk::Idle || !window_open {
                if !window_open && self.config.mutants.has(Mutant::DropsUnderPressure) {
                    flow.page.clear();
                    flow.sent = Some(released);
                }
                return;
            }
            if flow.page.is_empty() {
                if sent.seq >= released.seq {
                    return self.tell_skipped(link, workspace);
                }
                // The entry at the cursor itself is read too if it has to confirm the cursor.
                let after = match flow.confirm {
                    Some(point) => FeedSeq(point.seq.0 - 1),
                    None => sent.seq,
                };
                if self.is_letting_go(&workspace) {
                    return; // What is read now may name what is gone when it is sent.
                }
                let range = KeyRange::feed_after(&workspace, after);
                let scan = Scan::ascending(range, limits::FEED_PAGE_ROWS);
                let read = self.read(ReadQuery::Scan(scan), Reading::FeedPage(link, workspace));
                if let Some(flow) = self.flow(link, &workspace) {
                    flow.walk = Walk::Reading(read);
                }
                return;
            }
            if !self.send_page_part(link, workspace, released) {
                return;
            }
        }
    }

    pub(super) fn on_feed_page(
        &mut self,
        read: ReadId,
        link: LinkId,
        workspace: WorkspaceId,
        rows: Rows,
    ) -> Result<(), RecordError> {
        let Some(peer) = self.links.get(&link).map(|state| state.peer) else {
            return Ok(());
        };
        let waiting = self.first_unstored().is_some();
        let compacted = self.ready(&workspace).map(|state| state.compacted);
        let compacted = compacted.unwrap_or_default();
        let takes_any = self.is(Mutant::TakesLateAnswers);
        let Some(flow) = self.flow(link, &workspace) else {
            return Ok(());
        };
        if flow.walk != Walk::Reading(read) && !takes_any {
            return Ok(());
        }
        flow.walk = Walk::Idle;
        let mut page = VecDeque::with_capacity(rows.rows.len());
        for (key, value) in rows.rows {
            if let Some(seq) = key.feed_seq() {
                page.push_back((seq, FeedRow::decode(&value)?));
            }
        }
        let confirmed_at = flow.confirm;
        if let Some(point) = flow.confirm.take() {
            // The entry may be journalled and not applied yet; the next barrier comes back here.
            if page.is_empty() && waiting {
                flow.confirm = Some(point);
                return Ok(());
            }
            let first = page.front();
            let is_there = first.is_some_and(|(seq, _)| *seq == point.seq);
            if !is_there && point.seq <= compacted {
                // It was compacted away: whether the cursor is of this history can not be said.
                self.compare_instead(link, workspace);
                return Ok(());
            }
            let confirmed = page
                .pop_front()
                .is_some_and(|(seq, row)| seq == point.seq && row.digest == point.digest);
            if !confirmed {
                if !self.begins_history_for(workspace, peer) {
                    self.compare_anew(link, workspace);
                }
                return Ok(());
            }
        }
        flow.page = page;
        if let Some(point) = confirmed_at {
            self.set_acknowledged(workspace, peer, Some(point));
            self.release_journal(workspace);
            self.take_early_held(link, workspace);
        }
        self.note_held(link, workspace);
        let Some(flow) = self.flow(link, &workspace) else {
            return Ok(());
        };
        // What is not applied yet is read after the next barrier.
        if !flow.page.is_empty() {
            self.walk(link, workspace);
        }
        Ok(())
    }

    pub(super) fn set_acknowledged(
        &mut self,
        workspace: WorkspaceId,
        peer: PeerId,
        point: Option<FeedPoint>,
    ) {
        let known = self.ready(&workspace);
        if let Some(record) = known.and_then(|known| known.peers.get_mut(&peer))
            && record.row.acknowledged != point
        {
            record.row.acknowledged = point;
            record.dirty = true;
            self.relay_of(workspace, peer);
        }
    }

    /// Sends one frame's worth of the page; false if nothing could be sent.
    fn send_page_part(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        released: FeedPoint,
    ) -> bool {
        let now = self.now;
        let compacted = self.ready(&workspace).map(|state| state.compacted);
        let compacted = compacted.unwrap_or_default();
        let Some(state) = self.links.get_mut(&link) else {
            return false;
        };
        let peer = state.peer;
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return false;
        };
        let Some(mut sent) = flow.sent else {
            return false;
        };
        let mutants = self.config.mutants;
        let from = flow.told;
        let mut documents: Vec<StoredDocument> = Vec::new();
        let mut bytes = 0;
        let mut split = false;
        let mut unwalkable = false;
        while let Some((seq, row)) = flow.page.front_mut() {
            if *seq > released.seq {
                flow.page.clear(); // Visible, but not behind its barrier yet.
                break;
            }
            if *seq != sent.seq.next() && sent.seq >= compacted {
                self.on_entry_missing(link, workspace, sent.seq.next());
                return false;
            }
            let is_kept = row.origin.is_some() && mutants.has(Mutant::PassesNothingOn);
            let is_echoed = *seq <= flow.echo_through && !mutants.has(Mutant::NeverEchoes);
            if (row.origin != Some(peer) && !is_kept) || is_echoed {
                if row.snapshot.is_some() && !flow.they_take_snapshots {
                    // What came before in this frame goes out first; the rest of the feed is left.
                    unwalkable = true;
                    break;
                }
                let snapshot_bytes = row.snapshot.map_or(0, |snapshot| snapshot.size as usize)
                    + row.purged.map_or(0, |tombstone| tombstone as usize);
                if bytes > 0 && bytes + snapshot_bytes > limits::FRAME_BODY_BYTES_TARGET {
                    break;
                }
                // A snapshot goes ahead of all else of its document in a frame.
                let is_named = || documents.iter().any(|sent| sent.document == row.document);
                if row.snapshot.is_some() && is_named() {
                    break;
                }
                let snapshot = row.snapshot.take().map(|snapshot| snapshot.hash);
                let (mut changes, taken) = take_changes(&mut row.changes, bytes + snapshot_bytes);
                let is_of_several = row.changes.is_empty() && changes.len() > 1;
                if is_of_several && mutants.has(Mutant::SkipsLastOfEntry) {
                    changes.pop();
                }
                let purged = row.purged.is_some();
                if snapshot.is_some() || purged || !changes.is_empty() {
                    bytes += snapshot_bytes + taken;
                    documents.push(StoredDocument {
                        document: row.document,
                        kind: row.kind,
                        snapshot,
                        changes,
                        purged,
                    });
                }
                if !row.changes.is_empty() {
                    split = true;
                    break;
                }
            }
            sent = FeedPoint {
                epoch: sent.epoch,
                seq: *seq,
                digest: row.digest,
            };
            flow.page.pop_front();
            if bytes >= limits::FRAME_BODY_BYTES_TARGET
                || documents.len() >= limits::FRAME_DOCUMENTS_MAX
            {
                break;
            }
        }
        flow.sent = Some(sent);
        if unwalkable && documents.is_empty() {
            self.compare_instead(link, workspace);
            return false;
        }
        if documents.is_empty() {
            // Only the peer's own changes so far; they are told about with whatever comes next.
            return true;
        }
        // A frame may end within an entry: then it covers the entries before, if any.
        let feed = (!split || sent.seq > from).then_some((from, sent));
        flow.told = sent.seq;
        let number = state.number_frame(bytes, now);
        for sent in &documents {
            state.sent_documents.insert(sent.document);
            state.stats.changes_sent += sent.changes.len() as u64;
            state.stats.snapshots_sent += u64::from(sent.snapshot.is_some());
        }
        let stored = SendStored {
            link,
            workspace,
            documents,
            feed,
            number,
        };
        self.outputs.push_back(Output::SendStored(stored));
        self.note_sent(link);
        true
    }

    /// The rest of our feed can not be followed: what differs is found document by document.
    fn compare_instead(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let dialed = state.dialed;
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return;
        };
        flow.stop_following();
        flow.reconciling = Some(Reconciliation::awaiting());
        if dialed {
            self.start_reconcile(link, workspace, 1);
        } else {
            self.ask_to_reconcile(link, workspace);
        }
    }

    /// When the rest of our feed came from the peer itself, it only has to be told so.
    fn tell_skipped(&mut self, link: LinkId, workspace: WorkspaceId) {
        let now = self.now;
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return;
        };
        let Some(sent) = flow.sent.filter(|sent| sent.seq > flow.told) else {
            return;
        };
        let feed = Some((flow.told, sent));
        flow.told = sent.seq;
        let number = state.number_frame(0, now);
        let documents = Vec::new();
        let frame = Changes {
            workspace,
            documents,
            feed,
            number,
            early: false,
        };
        self.send(link, &Frame::Changes(frame));
    }

    /// Pushes newly released entries to every link that is caught up, and advances the others' goal.
    pub(super) fn push_entries(&mut self, entries: Vec<Entry>) {
        let mut workspaces: Vec<WorkspaceId> = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            if let Some(state) = self.ready(&entry.workspace) {
                // An epoch begun since then keeps the numbers.
                let epoch = state.released.epoch;
                state.released = FeedPoint {
                    epoch,
                    ..entry.point
                };
            }
            if !workspaces.contains(&entry.workspace) {
                workspaces.push(entry.workspace);
            }
            if entry.is_healed {
                self.emit(Event::DocumentHealed {
                    workspace: entry.workspace,
                    document: entry.document,
                });
            }
            if entry.is_purged {
                self.emit(Event::DocumentPurged {
                    workspace: entry.workspace,
                    document: entry.document,
                    kind: entry.kind,
                });
            } else if entry.origin.is_some_and(|origin| origin != self.config.me)
                && (place == 0 || !self.is(Mutant::TellsOfFirst))
            {
                self.emit(Event::DocumentChanged {
                    workspace: entry.workspace,
                    document: entry.document,
                    kind: entry.kind,
                    changes: entry.changes.iter().map(|(hash, _)| *hash).collect(),
                    snapshot: entry.has_snapshot,
                });
            }
        }
        for workspace in workspaces {
            let new: Vec<_> = entries
                .iter()
                .filter(|entry| entry.workspace == workspace)
                .collect();
            for link in self.links_sharing(&workspace) {
                self.push_to_link(link, workspace, &new);
            }
            if let Some(last) = new.last() {
                self.emit(Event::FeedAdvanced {
                    workspace,
                    seq: last.point.seq,
                });
            }
        }
    }

    fn push_to_link(&mut self, link: LinkId, workspace: WorkspaceId, entries: &[&Entry]) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let room = state.may_push();
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return;
        };
        let before = entries
            .first()
            .map_or(FeedSeq(0), |entry| FeedSeq(entry.point.seq.0 - 1));
        let caught_up = flow.following
            && flow.walk == Walk::Idle
            && flow.page.is_empty()
            && flow.confirm.is_none()
            && flow.sent.is_some_and(|sent| sent.seq == before);
        if caught_up && room {
            return self.push_in_order(link, workspace, entries);
        }
        if room && !caught_up {
            // Live edits go ahead of bulk, as copies the feed will bring again.
            let own: Vec<_> = entries
                .iter()
                .filter(|entry| entry.origin.is_none() && !entry.is_purged)
                .collect();
            let changes = own.iter().flat_map(|entry| &entry.changes);
            let bytes = changes.map(|(_, body)| body.len()).sum();
            if !own.is_empty() && bytes <= limits::FRAME_BODY_BYTES_TARGET {
                let documents = own.iter().map(|entry| entry.to_frame()).collect();
                let number = self.number_frame(link, bytes);
                let frame = Changes {
                    workspace,
                    documents,
                    feed: None,
                    number,
                    early: true,
                };
                self.send(link, &Frame::Changes(frame));
            }
        }
        self.walk(link, workspace);
    }

    /// A peer's changes got their places in our feed after it came over another link than they did: it
    /// may have lost them since it sent them, and is told of them.
    pub(super) fn echo_to_later(
        &mut self,
        link: LinkId,
        peer: PeerId,
        workspace: WorkspaceId,
        through: FeedSeq,
    ) {
        let others = self.links.iter_mut().filter(|(id, _)| **id != link);
        for (_, other) in others.filter(|(_, other)| other.peer == peer) {
            if let Some(flow) = other.flows.get_mut(&workspace) {
                flow.echo(through);
            }
        }
    }

    fn push_in_order(&mut self, link: LinkId, workspace: WorkspaceId, entries: &[&Entry]) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let peer = state.peer;
        let mutants = self.config.mutants;
        let keeps_all = mutants.has(Mutant::PassesNothingOn);
        let echo = state.flows.get(&workspace).map(|flow| flow.echo_through);
        let echo = echo.filter(|_| !mutants.has(Mutant::NeverEchoes));
        let is_for = |entry: &Entry| {
            let is_others = entry.origin != Some(peer) && (entry.origin.is_none() || !keeps_all);
            is_others || echo.is_some_and(|through| entry.point.seq <= through)
        };
        let mut frame_documents: Vec<DocumentChanges> = Vec::new();
        let mut bytes = 0;
        for (place, entry) in entries.iter().enumerate() {
            let entry_bytes: usize = entry.changes.iter().map(|(_, body)| body.len()).sum();
            let in_memory = entry_bytes <= limits::FRAME_BODY_BYTES_TARGET
                && !entry.has_snapshot
                && !entry.is_purged;
            if is_for(entry) && !in_memory {
                // Not in memory, or too large to send from there in one frame: it is read back.
                self.send_pushed(link, workspace, std::mem::take(&mut frame_documents), bytes);
                return self.walk(link, workspace);
            }
            if is_for(entry) {
                if bytes + entry_bytes > limits::FRAME_BODY_BYTES_TARGET
                    || frame_documents.len() >= limits::FRAME_DOCUMENTS_MAX
                {
                    self.send_pushed(link, workspace, std::mem::take(&mut frame_documents), bytes);
                    bytes = 0;
                    let is_open = self.links.get(&link).is_some_and(Link::may_push);
                    if !is_open && !self.is(Mutant::PushesPastWindow) {
                        return self.walk(link, workspace); // The rest is read back as it is answered.
                    }
                }
                frame_documents.push(entry.to_frame());
                bytes += entry_bytes;
            }
            if let Some(flow) = self.flow(link, &workspace) {
                let epoch = flow.sent.map_or(entry.point.epoch, |sent| sent.epoch);
                flow.sent = Some(FeedPoint {
                    epoch,
                    ..entry.point
                });
            }
            if place + 1 == entries.len() {
                self.send_pushed(link, workspace, std::mem::take(&mut frame_documents), bytes);
            }
        }
    }

    fn send_pushed(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        documents: Vec<DocumentChanges>,
        bytes: usize,
    ) {
        if documents.is_empty() {
            return;
        }
        let now = self.now;
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let number = state.number_frame(bytes, now);
        for document in &documents {
            state.sent_documents.insert(document.document);
            state.stats.changes_sent += document.changes.len() as u64;
        }
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return;
        };
        let Some(sent) = flow.sent else {
            return;
        };
        let feed = Some((flow.told, sent));
        flow.told = sent.seq;
        let frame = Changes {
            workspace,
            documents,
            feed,
            number,
            early: false,
        };
        self.send(link, &Frame::Changes(frame));
    }

    pub(super) fn number_frame(&mut self, link: LinkId, bytes: usize) -> u64 {
        let now = self.now;
        self.links
            .get_mut(&link)
            .map_or(0, |state| state.number_frame(bytes, now))
    }

    pub(super) fn on_changes(&mut self, link: LinkId, changes: Changes) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let peer = state.peer;
        let bytes = changes.window_bytes();
        state.ingest_bytes += bytes;
        if state.ingest_bytes > limits::LINK_INGEST_BYTES_MAX {
            return self.fault(link, "more changes than the window allows".to_owned());
        }
        if !state.flows.contains_key(&changes.workspace) {
            return self.fault(link, "changes of a workspace that is not shared".to_owned());
        }
        let snapshots = changes.documents.iter();
        if snapshots
            .filter(|document| document.snapshot.is_some())
            .count()
            > 0
        {
            return self.inspect(link, changes);
        }
        self.enqueue_received(link, peer, changes, Vec::new());
    }

    pub(super) fn count_received(&mut self, link: LinkId, documents: u64, changes: u64) {
        if documents == 0 {
            return;
        }
        if let Some(state) = self.links.get_mut(&link) {
            state.stats.documents_received += documents;
            state.stats.changes_received += changes;
            let (peer, stats) = (state.peer, state.stats());
            self.emit(Event::Progress { link, peer, stats });
        }
    }

    /// Sends the acknowledgements of stored batches, one frame per link and workspace.
    pub(super) fn acknowledge(&mut self, acks: Vec<AckDue>) {
        let mut settled = BTreeSet::new();
        for ack in acks.iter().filter(|ack| !ack.accepted.is_empty()) {
            if self.is(Mutant::WaitsForGoneLinks) && !self.links.contains_key(&ack.link) {
                continue;
            }
            let state = self.ready(&ack.workspace);
            if let Some(known) = state.and_then(|state| state.peers.get_mut(&ack.peer)) {
                known.accepting = known.accepting.saturating_sub(1);
                if known.accepting == 0 {
                    settled.insert((ack.peer, ack.workspace));
                }
            }
        }
        let mut merged: Vec<AckDue> = Vec::new();
        for ack in acks {
            let same = merged
                .iter_mut()
                .find(|other| other.link == ack.link && other.workspace == ack.workspace);
            match same {
                Some(other) => {
                    other.number = other.number.max(ack.number);
                    other.bytes += ack.bytes;
                    other.held = ack.held;
                    other.brings_changes |= ack.brings_changes;
                    other.refused.extend(ack.refused);
                    other.refused.sort_unstable();
                    other.refused.dedup();
                    other.faults.extend(ack.faults);
                    other.accepted.extend(ack.accepted);
                    // What was refused again after that stays refused.
                    let refused = &other.refused;
                    other
                        .accepted
                        .retain(|of| refused.iter().all(|(known, _)| known != of));
                }
                None => merged.push(ack),
            }
        }
        let mut offenders = Vec::new();
        for mut ack in merged {
            let faults = std::mem::take(&mut ack.faults);
            if !faults.is_empty() {
                offenders.push((ack.link, ack.workspace, faults));
            }
            self.acknowledge_one(ack);
        }
        for (link, workspace, faults) in offenders {
            self.close_offender(link, workspace, faults);
        }
        // Whoever waited for that may be linked anew by now.
        for (peer, workspace) in &settled {
            for link in self.links_to(*peer) {
                self.note_held(link, *workspace);
            }
        }
        if !settled.is_empty() {
            self.greet_waiting_links();
        }
    }

    fn acknowledge_one(&mut self, due: AckDue) {
        let AckDue {
            link,
            peer,
            workspace,
            number,
            bytes,
            held,
            refused,
            accepted,
            healing: _,
            brings_changes,
            faults: _,
        } = due;
        if let Some(state) = self.ready(&workspace)
            && let Some(known) = state.peers.get_mut(&peer)
            && known.agreed_on == Some(link)
        {
            known.held_stored = held;
        }
        self.note_waypoint(workspace, peer);
        let is_settled = self.is_settled(&workspace);
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.ingest_bytes = state.ingest_bytes.saturating_sub(bytes);
        let Some(WorkspaceState::Ready(known)) = self.workspaces.get(&workspace) else {
            return;
        };
        let released = known.released;
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return;
        };
        // Most of what a device sends comes back as nothing but a moved cursor.
        let mut head = None;
        let caught_up =
            is_settled && flow.following && flow.walk == Walk::Idle && flow.page.is_empty();
        let skipped = flow
            .sent
            .filter(|sent| sent.seq > flow.told && sent.seq == released.seq);
        if let Some(sent) = skipped.filter(|_| caught_up) {
            head = Some((flow.told, sent));
            flow.told = sent.seq;
        }
        let through = held.filter(|_| flow.following || flow.reconciling.is_some());
        self.send(
            link,
            &Frame::Ack(Ack {
                workspace,
                through,
                number,
                refused,
                head,
                accepted,
            }),
        );
        if brings_changes {
            self.note_progress(peer);
        }
        self.relay_to(link, workspace);
        self.note_held(link, workspace);
        self.settle(link, workspace);
    }

    /// After our stored cursor moved, or the end of their feed became known: is it all here?
    pub(super) fn note_held(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let peer = state.peer;
        let Some(flow) = state.flows.get(&workspace) else {
            return;
        };
        let (their_head, is_sound) = (flow.their_head, flow.is_sound());
        let now = self.now;
        let is_unseen = self.is(Mutant::VerifiesUnseen);
        if let Some((head, Some(as_of))) = their_head
            && is_sound
            && let Some(known) = self.ready(&workspace)
            && let Some(record) = known.peers.get_mut(&peer)
            && record.accepting == 0
            && record
                .held_stored
                .is_some_and(|held| held.epoch == head.epoch && (is_unseen || held.seq >= head.seq))
            && record
                .verified
                .is_none_or(|verified| verified.as_of.tick < as_of.tick)
        {
            record.verified = Some(Verified { as_of, at: now });
            record.row.verified_at = Some(as_of.wall);
            record.dirty = true;
            self.emit(Event::Verified {
                peer,
                workspace,
                as_of: as_of.wall,
            });
            self.note_verified(workspace);
        }
        self.report_pass(link);
    }

    pub(super) fn on_ack(&mut self, link: LinkId, ack: Ack) {
        let frees_nothing = self.is(Mutant::NeverFreesWindow);
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        if ack.number > state.last_number {
            return self.fault(link, "an acknowledgement of what was never sent".to_owned());
        }
        let peer = state.peer;
        while state
            .in_flight
            .front()
            .is_some_and(|(number, ..)| *number <= ack.number)
        {
            if let Some((_, bytes, composed)) = state.in_flight.pop_front() {
                state.in_flight_bytes -= if frees_nothing { 0 } else { bytes };
                state.said.is_read(composed);
            }
        }
        if !state.flows.contains_key(&ack.workspace) {
            return self.fault(
                link,
                "an acknowledgement for a workspace that is not shared".to_owned(),
            );
        }
        let workspace = ack.workspace;
        let stats = state.stats();
        let (mut moved, mut refused_other) = (false, false);
        let mut purged = Vec::new();
        let flow = state.flows.get(&workspace);
        let is_unconfirmed = flow.is_some_and(|flow| flow.is_unconfirmed());
        if let Some(known) = self.ready(&workspace) {
            let (released, end) = (known.released, known.point);
            let record = known.peers.entry(peer).or_default();
            // More than ever left here nobody can hold.
            if let Some(through) = ack
                .through
                .filter(|through| through.epoch == released.epoch && through.seq <= released.seq)
                .filter(|_| !is_unconfirmed)
                && record.row.acknowledged != Some(through)
            {
                record.row.acknowledged = Some(through);
                record.dirty = true;
                moved = true;
            }
            for document in &ack.accepted {
                refused_other |= record.row.refused_there.remove(document).is_some();
            }
            for (document, code) in &ack.refused {
                refused_other |= record.row.refuse_there(*document, *code);
            }
            record.dirty |= refused_other;
            // With nothing on its way that it may refuse yet.
            if moved && record.row.acknowledged == Some(end) {
                purged = record.row.purged_there();
                for document in &purged {
                    record.row.refused_here.remove(document);
                }
                record.dirty |= !purged.is_empty();
            }
        }
        if moved {
            self.note_progress(peer);
        }
        if !purged.is_empty() {
            self.tell_refusals(link, workspace, Vec::new(), purged);
        }
        let has_retold = self.flow(link, &workspace).is_some_and(|flow| {
            let is_new = ack.number > 0 && !flow.has_retold;
            flow.has_retold |= is_new;
            is_new
        });
        if moved || refused_other || has_retold {
            self.relay_of(workspace, peer);
        }
        let mut refused = ack.refused;
        if let Some(flow) = self.flow(link, &workspace) {
            refused.retain(|(document, code)| flow.refused_before.get(document) != Some(code));
        }
        if !refused.is_empty() {
            self.emit(Event::DocumentsRefused {
                peer,
                workspace,
                here: false,
                documents: refused,
            });
        }
        self.emit(Event::Progress { link, peer, stats });
        if let Some((from, head)) = ack.head {
            let as_of = self.links.get(&link).and_then(|state| state.said.as_of());
            if let Some(flow) = self.flow(link, &workspace) {
                flow.learn_head(head, as_of);
            }
            self.enqueue_cursor(link, peer, workspace, CursorMove::Follow(from, head));
        }
        self.release_journal(workspace);
        self.report_pass(link);
        self.settle(link, workspace);
        let workspaces: Vec<_> = match self.links.get(&link) {
            Some(state) => state.flows.keys().copied().collect(),
            None => return,
        };
        // The window is the link's: whoever waited for it may go on.
        for workspace in workspaces {
            self.send_exchange(link, workspace);
            self.walk(link, workspace);
        }
    }

    /// A barrier passed: what was read too early may be complete, or leave, now.
    pub(super) fn walk_all(&mut self) {
        let mut behind = Vec::new();
        let mut ready = Vec::new();
        for (link, state) in self.links.iter().filter(|(_, state)| state.is_up()) {
            for (workspace, flow) in &state.flows {
                let Some(WorkspaceState::Ready(known)) = self.workspaces.get(workspace) else {
                    continue;
                };
                let unsent = flow.sent.is_some_and(|sent| sent.seq < known.released.seq);
                if flow.following && flow.walk == Walk::Idle && unsent {
                    behind.push((*link, *workspace));
                }
                if flow.exchange.has_ready() {
                    ready.push((*link, *workspace));
                }
            }
        }
        for (link, workspace) in ready {
            self.send_exchange(link, workspace);
        }
        for (link, workspace) in behind {
            self.walk(link, workspace);
        }
    }
}

impl Link {
    /// Whether what was just stored may be sent ahead of what the peer has yet to answer.
    fn may_push(&self) -> bool {
        self.in_flight_bytes < 2 * limits::WINDOW_BYTES
    }

    /// Numbers a change frame and counts it against the window.
    fn number_frame(&mut self, bytes: usize, now: Moment) -> u64 {
        let bytes = bytes + limits::CHANGE_FRAME_COST_BYTES;
        self.last_number += 1;
        self.in_flight.push_back((self.last_number, bytes, now));
        self.in_flight_bytes += bytes;
        self.last_number
    }
}

impl Entry {
    fn to_frame(&self) -> DocumentChanges {
        DocumentChanges {
            document: self.document,
            kind: self.kind,
            snapshot: None,
            changes: self.changes.iter().map(|(_, body)| body.clone()).collect(),
            purged: None,
        }
    }
}

/// Takes changes from the front until a frame is full; at least one if the frame is empty.
fn take_changes(changes: &mut Vec<(ChangeHash, u32)>, used: usize) -> (Vec<ChangeHash>, usize) {
    let mut bytes = 0;
    let mut count = 0;
    for (_, size) in changes.iter() {
        let size = *size as usize;
        if used + bytes + size > limits::FRAME_BODY_BYTES_TARGET && used + bytes > 0 {
            break;
        }
        bytes += size;
        count += 1;
    }
    (
        changes.drain(..count).map(|(hash, _)| hash).collect(),
        bytes,
    )
}

/// The bodies of one document of a [`SendStored`], as they were read.
#[derive(Clone, Debug, Default)]
pub struct StoredBodies {
    /// The snapshot that was asked for.
    pub snapshot: Option<Bytes>,
    /// The changes, in the order asked for.
    pub changes: Vec<Bytes>,
    /// The tombstone, if it was asked for.
    pub purged: Option<wire::Purged>,
}

/// The frame a [`SendStored`] asks for, from the bodies that were read in its order; as one or
/// several frame bodies.
pub fn stored_frames(stored: &SendStored, bodies: Vec<StoredBodies>) -> Vec<Bytes> {
    let documents = stored
        .documents
        .iter()
        .zip(bodies)
        .map(|(asked, bodies)| DocumentChanges {
            document: asked.document,
            kind: asked.kind,
            snapshot: bodies.snapshot,
            changes: bodies.changes,
            purged: bodies.purged,
        })
        .collect();
    wire::Frame::Changes(Changes {
        workspace: stored.workspace,
        documents,
        feed: stored.feed,
        number: stored.number,
        early: false,
    })
    .encode()
}
