//! Batches on their way into the store: handed over in order, let out behind their barrier, undone
//! when the store fails; and what the journal may let go of.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Author, Entry, Job, JobDocument, PendingBatch, Redeemed, RestoreError, Work};
use crate::engine::shares::Roster;
use crate::engine::{CompactHold, EditError, Engine, Event, Output, PurgeError, WorkspaceState};
use crate::feed::FeedPoint;
use crate::ids::{BatchId, DocumentId, FeedSeq, LinkId, PeerId, RequestId, WorkspaceId};
use crate::keys::{Key, KeyKind};
use crate::limits;
use crate::mutants::Mutant;
use crate::refusal::RefusalCode;
use crate::storage::{
    Batch, Durability, JournalEntry, JournalRelease, JournalReleases, StoreError,
};

impl Engine {
    pub(in crate::engine) fn submit(
        &mut self,
        mut pending: PendingBatch,
        puts: Vec<(Key, Bytes)>,
        deletes: Vec<Key>,
        journal: Option<JournalEntry>,
    ) {
        let id = self.next_batch;
        self.next_batch = id.next();
        pending.id = id;
        pending.reaches = pending
            .entries
            .last()
            .map(|entry| (entry.workspace, entry.point));
        pending.journal.clone_from(&journal);
        for (key, value) in &puts {
            self.roster.note_write(key, Some(value));
            pending.shares.extend(share_of(key));
        }
        for key in &deletes {
            self.roster.note_write(key, None);
            pending.shares.extend(share_of(key));
            if key.kind() == Some(KeyKind::FeedHead) {
                pending.removed.extend(key.workspace_id());
            }
        }
        let batch = Batch {
            id,
            after: self.last_batch.replace(id),
            puts,
            deletes,
            journal,
            durability: Durability::Barrier,
        };
        self.pending.push_back(pending);
        self.outputs.push_back(Output::StoreBatch(batch));
        if self.is(Mutant::SendsEarly) {
            self.release();
        }
    }

    pub(in crate::engine) fn on_journaled(&mut self, id: BatchId) {
        let Some(batch) = self.pending.iter_mut().find(|batch| batch.id == id) else {
            return;
        };
        batch.journaled = true;
        let at = batch.reaches.map(|(_, point)| point);
        let edit = batch.edit.take();
        if let Some(request) = edit {
            self.emit(Event::EditDurable { request, at });
        }
        self.release();
    }

    pub(in crate::engine) fn on_stored(&mut self, id: BatchId) {
        let mut edits = Vec::new();
        for batch in self.pending.iter_mut().take_while(|batch| batch.id <= id) {
            batch.stored = true;
            let at = batch.reaches.map(|(_, point)| point);
            edits.extend(batch.edit.take().map(|request| (request, at)));
        }
        for (request, at) in edits {
            self.emit(Event::EditDurable { request, at });
        }
        self.release();
        while self.pending.front().is_some_and(|batch| batch.stored) {
            let Some(batch) = self.pending.pop_front() else {
                break;
            };
            if let Some((workspace, point)) = batch.reaches
                && let Some(state) = self.ready(&workspace)
            {
                let epoch = state.stored.epoch;
                state.stored = FeedPoint { epoch, ..point };
            }
            for (workspace, document) in batch.pinned {
                self.unpin(&workspace, &[document]);
            }
            for workspace in batch.removed {
                self.forget_workspace(workspace);
            }
            if batch.heals {
                if !self.links.is_empty() {
                    self.ensure_roster();
                }
                self.greet_waiting_links();
            }
        }
        self.walk_all();
        self.finish_recovery();
    }

    /// A workspace's records are gone: so is what was known of it, and what the journal has of it.
    pub(super) fn forget_workspace(&mut self, workspace: WorkspaceId) {
        if let Some(state) = self.ready(&workspace) {
            let end = (state.point.epoch, FeedSeq(u64::MAX));
            let releases = JournalReleases::from([(workspace, end.into())]);
            self.outputs.push_back(Output::ReleaseJournal(releases));
        }
        self.workspaces.remove(&workspace);
        self.replays.remove(&workspace);
        self.leaving.remove(&workspace);
        self.stalls.retain(|(_, of), _| *of != workspace);
        self.fresh.remove(&workspace);
        self.shares_told.remove(&workspace);
        for job in &mut self.jobs {
            if job.work.documents().is_some_and(|(of, _)| of == workspace) {
                job.pinned = false;
                job.looking_up = 0;
            }
        }
    }

    /// Lets out, in order, whatever is behind its barrier.
    pub(super) fn release(&mut self) {
        let mut entries = Vec::new();
        let mut acks = Vec::new();
        let mut events = Vec::new();
        let mut redeemed = Vec::new();
        let mut replayed = Vec::new();
        let mut shares = BTreeSet::new();
        let is_early = self.is(Mutant::SendsEarly);
        for batch in &mut self.pending {
            if batch.released {
                continue;
            }
            let is_journaled = batch.journal.is_some() && batch.journaled;
            let behind_barrier = batch.stored || is_journaled || is_early;
            if !behind_barrier {
                break;
            }
            batch.released = true;
            entries.append(&mut batch.entries);
            acks.append(&mut batch.acks);
            if let Some(request) = batch.write.take() {
                events.push(Event::WriteDone { request });
            }
            events.append(&mut batch.told);
            let compacted = batch.compact.take();
            events.extend(compacted.map(|request| Event::Compacted { request }));
            let restored = batch.restores.drain(..);
            events
                .extend(restored.map(|(request, restored)| Event::Restored { request, restored }));
            let purged = batch.purge.take();
            events.extend(purged.map(|(request, documents)| Event::Purged { request, documents }));
            if let Some(changes) = batch.replayed.take() {
                replayed.push((
                    changes,
                    batch.pinned.first().map(|(workspace, _)| *workspace),
                ));
            }
            redeemed.extend(batch.redeemed.take());
            shares.append(&mut batch.shares);
            if let Some(workspace) = batch.learned.take() {
                self.shares_told.insert(workspace);
                events.push(Event::SharesLearned { workspace });
            }
        }
        for event in events {
            self.emit(event);
        }
        for entry in entries.iter().filter(|entry| entry.compaction_due) {
            self.emit(Event::CompactionDue {
                workspace: entry.workspace,
                document: entry.document,
            });
        }
        self.push_entries(entries);
        self.acknowledge(acks);
        for (changes, workspace) in replayed {
            self.note_replayed(changes);
            if let Some(workspace) = workspace
                && let Some(state) = self.ready(&workspace)
            {
                let through = state.released.seq;
                self.on_replayed(workspace, through);
            }
        }
        for redeemed in redeemed {
            // It stays among those being redeemed: an invitation read before may still be on its
            // way to us as unused.
            let Redeemed {
                link,
                peer,
                invite,
                device_name,
                ..
            } = redeemed;
            self.emit(Event::DeviceEnrolled {
                peer,
                workspace: invite.workspace,
                member: invite.member,
                device_name,
            });
            self.answer_join(link, &invite);
        }
        if !shares.is_empty() {
            self.on_shares_stored(&shares);
        }
    }

    pub(in crate::engine) fn on_batch_failed(&mut self, id: BatchId, error: &StoreError) {
        let Some(place) = self.pending.iter().position(|batch| batch.id == id) else {
            return;
        };
        let Some(batch) = self.pending.remove(place) else {
            return;
        };
        self.fail_batch(batch, error);
        self.note_low_space(error);
        if !self.recovering {
            self.fail_store(error);
        }
        self.finish_recovery();
    }

    pub(super) fn fail_batch(&mut self, batch: PendingBatch, error: &StoreError) {
        if let Some(request) = batch.edit {
            let error = match self.failed {
                Some(_) => EditError::Unknown(error.clone()),
                None => EditError::Store(error.clone()),
            };
            self.emit(Event::EditRefused { request, error });
        }
        if let Some(request) = batch.write {
            self.emit(Event::WriteFailed {
                request,
                error: error.clone(),
            });
        }
        if let Some(request) = batch.compact {
            let why = CompactHold::Store(error.clone());
            self.emit(Event::CompactRefused { request, why });
        }
        for (request, _) in batch.restores {
            let error = RestoreError::Store(error.clone());
            self.emit(Event::RestoreRefused { request, error });
        }
        if let Some((request, _)) = batch.purge {
            let error = PurgeError::Store(error.clone());
            self.emit(Event::PurgeRefused { request, error });
        }
        if let Some(redeemed) = batch.redeemed {
            self.redeeming.remove(&redeemed.secret_hash);
        }
        let Some(entry) = batch.journal.filter(|_| batch.replayed.is_some()) else {
            return;
        };
        // It stands in the journal where it was, and its place in the feed may go to something else: with
        // the same history the journal would give back only what was further on, and not what that builds
        // on.
        self.forked.insert(entry.workspace);
        if let Some(work) = self.read_journal(&entry) {
            self.owed.push(Job::new(work));
        }
    }

    /// The store refused or lost something: forget everything it was assumed to hold, close every
    /// link, and start again from what it says once all outcomes are in.
    pub(in crate::engine) fn fail_store(&mut self, error: &StoreError) {
        let first = !std::mem::replace(&mut self.recovering, true);
        for job in std::mem::take(&mut self.jobs) {
            self.refuse_job(job, error);
        }
        self.close_all_links(error);
        // A history that was begun anew and is not stored has to be begun anew again.
        let refounded = self
            .workspaces
            .iter()
            .filter_map(|(id, state)| match state {
                WorkspaceState::Ready(known) => known.is_refounded.then_some(*id),
                WorkspaceState::Loading => None,
            });
        self.forked.extend(refounded);
        if !self.is(Mutant::LeavesGaps) {
            self.workspaces.clear();
        }
        self.roster = Roster::default();
        self.shares_told.clear();
        self.reads.clear();
        for batch in &mut self.pending {
            // Their slots are gone, and the feed is read anew.
            batch.pinned.clear();
            batch.reaches = None;
        }
        // Until what only the journal has is in the feed, its place there may go to something else. A
        // history that began for that may be what was not stored.
        let owed = self.owed.iter().filter_map(Job::journaled_through);
        self.forked.extend(owed.map(|(workspace, ..)| workspace));
        if first {
            self.emit(Event::StoreFailed {
                error: error.clone(),
            });
        }
        self.finish_recovery();
    }

    /// Tells whoever asked for a job that it is not done; what only the journal has stays owed.
    fn refuse_job(&mut self, job: Job, error: &StoreError) {
        match job.work {
            work @ Work::Changes {
                author: Author::Journal { .. },
                ..
            } => self.owed.push(Job::new(work)),
            Work::Changes {
                author: Author::Host { request, .. },
                ..
            } => {
                let error = EditError::Store(error.clone());
                self.emit(Event::EditRefused { request, error });
            }
            Work::Changes {
                author: Author::Archive { request },
                ..
            } => {
                let error = RestoreError::Store(error.clone());
                self.emit(Event::RestoreRefused { request, error });
            }
            Work::Write(write) => {
                let error = error.clone();
                self.emit(Event::WriteFailed {
                    request: write.request,
                    error,
                });
            }
            Work::Redeem {
                secret_hash, link, ..
            } => {
                self.redeeming.remove(&secret_hash);
                self.refuse(link, RefusalCode::Unavailable);
            }
            Work::Compact(compaction) => {
                let request = compaction.compact.request;
                let why = CompactHold::Store(error.clone());
                self.emit(Event::CompactRefused { request, why });
            }
            Work::Purge(purging) => {
                let request = purging.purge.request;
                let error = PurgeError::Store(error.clone());
                self.emit(Event::PurgeRefused { request, error });
            }
            Work::Changes { .. }
            | Work::PeerRow { .. }
            | Work::FeedHead { .. }
            | Work::Learn(_)
            | Work::Left { .. }
            | Work::Heal(_)
            | Work::SetAside(..) => {}
        }
    }

    /// Takes jobs out of the queue without doing them.
    pub(in crate::engine) fn refuse_jobs(
        &mut self,
        error: &StoreError,
        which: impl Fn(&Job) -> bool,
    ) {
        for job in std::mem::take(&mut self.jobs) {
            if !which(&job) {
                self.jobs.push_back(job);
                continue;
            }
            if let Some((workspace, documents)) = job.work.documents().filter(|_| job.pinned) {
                self.unpin(&workspace, &documents);
            }
            self.refuse_job(job, error);
        }
    }

    pub(super) fn finish_recovery(&mut self) {
        if self.recovering && self.pending.is_empty() && self.failed.is_none() {
            self.recovering = false;
            self.last_batch = None;
            if !self.owed.is_empty() {
                self.replay_at = Some(self.now.tick + limits::REPLAY_AFTER);
            }
        }
    }

    /// Tries again what the store owes to the journal.
    pub(in crate::engine) fn replay_owed(&mut self) {
        self.replay_at = None;
        self.jobs.extend(std::mem::take(&mut self.owed));
    }

    /// Has what only the journal has go first where an edit may stand on it.
    pub(super) fn replay_beneath(&mut self, workspace: &WorkspaceId, edited: &[JobDocument]) {
        let is_beneath = |job: &Job| {
            let (of, documents) = job.work.documents()?;
            let edits = |document| edited.iter().any(|edited| edited.document == document);
            (of == *workspace).then(|| documents.into_iter().any(edits))
        };
        let stands_on = self.owed.iter().any(|job| is_beneath(job) == Some(true));
        if stands_on && !self.recovering {
            self.replay_owed();
        }
    }

    /// Whether what a server said of who takes part is still to be stored.
    pub(in crate::engine) fn is_learning(&self, workspace: &WorkspaceId) -> bool {
        let is_of = |work: &Work| matches!(work, Work::Learn(told) if told.workspace == *workspace);
        let mut written = self.pending.iter();
        self.jobs.iter().any(|job| is_of(&job.work))
            || written.any(|batch| batch.learned.as_ref() == Some(workspace))
    }

    /// Whether something that is in the journal is not in the store yet, nor in the journal again
    /// under its new place in the feed.
    pub(super) fn owes_replay(&self) -> bool {
        let queued = self
            .jobs
            .iter()
            .any(|job| job.journaled_through().is_some());
        let written = self
            .pending
            .iter()
            .any(|batch| batch.replayed.is_some() && !batch.journaled && !batch.stored);
        queued || written || !self.owed.is_empty()
    }

    /// Whether the feed of a workspace ends with all that is known to be durable here: an edit in the
    /// journal may wait for what comes before it in the feed, or to be replayed.
    pub(in crate::engine) fn is_settled(&self, workspace: &WorkspaceId) -> bool {
        if self.is(Mutant::SpeaksUnsettled) {
            return true;
        }
        let mut waiting = self.jobs.iter().chain(&self.owed);
        let is_of = |of: Option<WorkspaceId>| of.as_ref() == Some(workspace);
        let is_queued =
            waiting.any(|job| is_of(job.journaled_through().map(|(workspace, ..)| workspace)));
        let mut written = self.pending.iter().filter(|batch| !batch.released);
        !is_queued
            && !written.any(|batch| {
                let is_safe = batch.journaled || batch.replayed.is_some();
                is_safe && is_of(batch.reaches.map(|(workspace, _)| workspace))
            })
    }

    /// A journal frame's changes are in the feed, at `through` at the latest.
    pub(super) fn on_replayed(&mut self, workspace: WorkspaceId, through: FeedSeq) {
        let replay = self.replays.entry(workspace).or_default();
        replay.through = replay.through.max(through);
        self.release_journal(workspace);
    }

    /// Tells the journal what other peers hold by now.
    ///
    /// A release also frees the frames of earlier epochs, so it waits until what those hold is in
    /// the feed and held by the peer.
    pub(in crate::engine) fn release_journal(&mut self, workspace: WorkspaceId) {
        if self.owes_replay() {
            return;
        }
        let earlier = match self.replays.get(&workspace) {
            Some(replay) if replay.is_held => return,
            Some(replay) => replay.through.0,
            None => 0,
        };
        let Some(release) = self.held_by_any(workspace) else {
            return;
        };
        let Some(state) = self.ready(&workspace) else {
            return;
        };
        let known = &state.journal_released;
        let known = known.as_ref().filter(|known| known.epoch == release.epoch);
        let is_new = known.is_none_or(|known| {
            known.through < release.through
                || (known.through == release.through && known.kept != release.kept)
        });
        if is_new && release.through.0 >= earlier {
            state.journal_released = Some(release.clone());
            let releases = JournalReleases::from([(workspace, release)]);
            self.outputs.push_back(Output::ReleaseJournal(releases));
        }
    }

    /// How much of our feed the peer that is furthest durably holds; `None` if nobody holds any. What
    /// it refused stays, unless another that is as far did not.
    fn held_by_any(&self, workspace: WorkspaceId) -> Option<JournalRelease> {
        let Some(WorkspaceState::Ready(state)) = self.workspaces.get(&workspace) else {
            return None;
        };
        let epoch = state.point.epoch;
        // Of whom it is not known what it refused nothing is taken to be held.
        let held = state.peers.iter().filter_map(|(peer, known)| {
            let row = &known.row;
            let point = row.acknowledged.filter(|point| point.epoch == epoch)?;
            let is_known = row.refused_there_unlisted == 0 && !self.is_to_retell(workspace, *peer);
            is_known.then_some((*peer, point.seq))
        });
        let held: Vec<_> = held.collect();
        let sent = Some(state.released.seq).filter(|_| self.is(Mutant::ReleasesOnSend));
        let through = held.iter().map(|(_, seq)| *seq).chain(sent).max()?;
        let furthest = held.iter().filter(|(_, seq)| *seq == through);
        let refused = furthest.map(|(peer, _)| self.refused_by(workspace, *peer));
        let refused = refused.map(|refused| refused.into_keys().collect::<BTreeSet<_>>());
        let kept = refused.reduce(|one, other| &one & &other);
        (through.0 > 0).then(|| JournalRelease {
            epoch,
            through,
            kept: kept.unwrap_or_default(),
        })
    }

    /// The oldest batch whose barrier has not passed.
    pub(in crate::engine) fn first_unstored(&self) -> Option<BatchId> {
        self.pending
            .iter()
            .find(|batch| !batch.stored)
            .map(|batch| batch.id)
    }

    pub(in crate::engine) fn links_sharing(&self, workspace: &WorkspaceId) -> Vec<LinkId> {
        let links = self.links.iter().filter(|(_, link)| link.shares(workspace));
        links.map(|(id, _)| *id).collect()
    }
}

pub(super) fn share_of(key: &Key) -> Option<(WorkspaceId, PeerId)> {
    let (peer, workspace) = key.share_parts()?;
    Some((workspace, peer))
}

impl PendingBatch {
    pub(in crate::engine) fn of_compaction(
        request: RequestId,
        place: (WorkspaceId, DocumentId),
    ) -> Self {
        let mut pending = Self::new();
        pending.compact = Some(request);
        pending.pinned.push(place);
        pending
    }

    /// Whether it compacts a document of this workspace.
    pub(in crate::engine) fn lets_go_of(&self, workspace: &WorkspaceId) -> bool {
        self.compact.is_some() && self.pinned.iter().any(|(of, _)| of == workspace)
    }

    pub(in crate::engine) fn of_purge(request: RequestId, documents: u64) -> Self {
        let mut pending = Self::new();
        pending.purge = Some((request, documents));
        pending
    }

    pub(in crate::engine) fn heals(&self) -> bool {
        self.heals
    }

    pub(in crate::engine) fn of_healing(
        place: (WorkspaceId, DocumentId),
        entries: Vec<Entry>,
    ) -> Self {
        let mut pending = Self::of_healing_nothing();
        pending.pinned.push(place);
        pending.entries = entries;
        pending
    }

    pub(in crate::engine) fn of_healing_nothing() -> Self {
        Self {
            heals: true,
            ..Self::new()
        }
    }

    pub(super) fn new() -> Self {
        Self {
            id: BatchId(0),
            journaled: false,
            stored: false,
            released: false,
            reaches: None,
            journal: None,
            entries: Vec::new(),
            acks: Vec::new(),
            edit: None,
            write: None,
            compact: None,
            restores: Vec::new(),
            purge: None,
            replayed: None,
            heals: false,
            told: Vec::new(),
            redeemed: None,
            shares: BTreeSet::new(),
            learned: None,
            removed: Vec::new(),
            pinned: Vec::new(),
        }
    }
}
