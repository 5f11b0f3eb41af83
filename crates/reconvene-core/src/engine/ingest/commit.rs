//! Jobs whose turn has come: placed, entered in the feed, made into batches.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::offences::note_offences;
use super::place::{follow_cursor, place};
use super::{
    AckDue, Author, CursorMove, Job, JobDocument, PendingBatch, Placed, Redeemed, Work, enter,
};
use crate::engine::reconcile::Healing;
use crate::engine::relay::Waypoints;
use crate::engine::{CloseReason, EditError, Engine, Event};
use crate::ids::{DocumentId, LinkId, RequestId, WorkspaceId};
use crate::keys::{Key, KeyKind};
use crate::mutants::Mutant;
use crate::records::{JournalDocument, JournalFrame, Record as _};
use crate::refusal::RefusalCode;
use crate::storage::{JournalEntry, StoreError};

impl Engine {
    pub(super) fn carry_out(&mut self, job: Job) {
        match job.work {
            Work::Changes {
                workspace,
                documents,
                author,
                cursor,
            } => {
                self.carry_out_changes(workspace, documents, author, cursor);
            }
            Work::Write(write) => {
                let mut pending = PendingBatch::new();
                pending.write = Some(write.request);
                self.submit(pending, write.puts, write.deletes, None);
            }
            Work::Redeem {
                link,
                peer,
                secret_hash,
                mut invite,
                device_name,
            } => {
                invite.redeemed_by = Some(peer);
                let share = crate::records::ShareRow {
                    member: invite.member,
                    device_name: device_name.clone(),
                    since: self.now.wall,
                    standing: crate::records::Standing::Device,
                }
                .encode();
                let puts = vec![
                    (Key::invite(&secret_hash), invite.encode()),
                    (Key::share(&peer, &invite.workspace), share.clone()),
                    (Key::share(&peer, &invite.home), share),
                ];
                let mut pending = PendingBatch::new();
                pending.redeemed = Some(Redeemed {
                    link,
                    peer,
                    secret_hash,
                    invite,
                    device_name,
                });
                self.submit(pending, puts, Vec::new(), None);
            }
            Work::Learn(learned) => {
                if !self.roster.is_known() {
                    return; // The store failed meanwhile; the server tells again.
                }
                let (puts, deletes) = self.differing_shares(&learned);
                if puts.is_empty() && deletes.is_empty() {
                    return;
                }
                let mut pending = PendingBatch::new();
                pending.learned = Some(learned.workspace);
                self.submit(pending, puts, deletes, None);
            }
            Work::Left { workspace, peer } => {
                let state = self.ready(&workspace);
                let known = state.and_then(|state| state.peers.get(&peer));
                let offences = known.into_iter().flat_map(|known| &known.row.offences);
                let mut deletes: Vec<_> = offences
                    .filter(|offence| offence.is_kept)
                    .map(|offence| offence.key(&workspace, &peer))
                    .collect();
                deletes.extend([Key::share(&peer, &workspace), Key::peer(&workspace, &peer)]);
                self.submit(PendingBatch::new(), Vec::new(), deletes, None);
            }
            Work::FeedHead { workspace } => {
                let Some(state) = self.ready(&workspace) else {
                    return;
                };
                state.persisted = true;
                let put = (Key::feed_head(&workspace), Self::feed_head(state));
                self.submit(PendingBatch::new(), vec![put], Vec::new(), None);
            }
            Work::Heal(examination) => self.carry_out_heal(*examination),
            Work::SetAside(workspace, record) => self.carry_out_set_aside(workspace, &record),
            Work::Compact(compaction) => self.carry_out_compaction(*compaction),
            Work::Purge(purging) => self.carry_out_purge(*purging),
            Work::PeerRow { workspace, peer } => {
                let Some(state) = self.ready(&workspace) else {
                    return;
                };
                let Some(known) = state.peers.get_mut(&peer).filter(|known| known.dirty) else {
                    return;
                };
                known.dirty = false;
                let put = (Key::peer(&workspace, &peer), known.row.encode());
                self.submit(PendingBatch::new(), vec![put], Vec::new(), None);
            }
        }
    }

    pub(super) fn carry_out_changes(
        &mut self,
        workspace: WorkspaceId,
        mut documents: Vec<JobDocument>,
        author: Author,
        cursor: Option<CursorMove>,
    ) {
        self.note_owed(&workspace, &mut documents);
        if self.is(Mutant::ForgetsTombstones)
            && let Some(state) = self.ready(&workspace)
        {
            let ids = documents.iter().map(|document| &document.document);
            state.slots.forget_purged(ids);
        }
        let roots = std::mem::take(&mut self.config.roots);
        let documents_max = self.config.workspace_documents_max;
        let mut placed = match self.ready(&workspace) {
            Some(state) => place(state, &roots, documents_max, &documents, &author),
            None => panic!("a prepared job's workspace is loaded"),
        };
        self.config.roots = roots;
        if self.is(Mutant::BlamesRelays) {
            placed.blame();
        }
        let ids: Vec<_> = documents.iter().map(|document| document.document).collect();
        match author {
            Author::Host { request, rows } => {
                if let Some((document, code)) = placed.refused.first() {
                    let error = match code {
                        RefusalCode::Unavailable => EditError::Store(StoreError::Damaged {
                            key: format!("the head row of {document}"),
                            what: "it cannot be read".to_owned(),
                        }),
                        code => EditError::Stale { code: *code },
                    };
                    self.unpin(&workspace, &ids);
                    self.emit(Event::EditRefused { request, error });
                    return;
                }
                self.commit_local(workspace, placed, ids, Some(request), rows, None);
            }
            Author::Archive { request } => {
                self.commit_restored(workspace, placed, ids, request);
            }
            Author::Journal { epoch, .. } => {
                self.note_purged_since(workspace, &placed);
                let replayed = placed.change_count();
                // Entered here, it takes a number that this history gave to something else, which
                // the journal may still have to bring back.
                let is_foreign = self
                    .ready(&workspace)
                    .is_some_and(|state| state.point.epoch != epoch && !state.is_refounded);
                if replayed > 0 && is_foreign {
                    self.begin_history(workspace, CloseReason::RolledBack);
                }
                self.commit_local(workspace, placed, ids, None, Vec::new(), Some(replayed));
            }
            Author::Peer {
                link,
                peer,
                number,
                bytes,
                early,
                answered,
            } => {
                let follows = cursor.is_some();
                let healing = if early {
                    Vec::new()
                } else {
                    self.note_answers(workspace, link, &placed, &answered, follows)
                };
                let due = AckDue {
                    link,
                    peer,
                    workspace,
                    number,
                    bytes,
                    held: None,
                    refused: placed.told_refused(early),
                    accepted: Vec::new(),
                    healing,
                    brings_changes: !placed.documents.is_empty(),
                    faults: Vec::new(),
                };
                self.commit_received(workspace, placed, ids, due, cursor, early);
            }
        }
    }

    /// Changes that only the journal has, of documents that this store purged without knowing them,
    /// stay there.
    pub(super) fn note_purged_since(&mut self, workspace: WorkspaceId, placed: &Placed) {
        let refused = placed.refused.iter();
        let documents: Vec<_> = refused
            .filter(|(_, code)| {
                matches!(
                    code,
                    RefusalCode::DocumentDeleted | RefusalCode::Unavailable
                )
            })
            .map(|(document, _)| *document)
            .collect();
        if !documents.is_empty() {
            self.replays.entry(workspace).or_default().is_held = true;
            self.emit(Event::JournalRefused {
                workspace,
                documents,
            });
        }
    }

    pub(super) fn commit_local(
        &mut self,
        workspace: WorkspaceId,
        placed: Placed,
        pinned: Vec<DocumentId>,
        request: Option<RequestId>,
        rows: Vec<(Key, Bytes)>,
        replayed: Option<u64>,
    ) {
        let mut pending = PendingBatch::new();
        pending.edit = request;
        pending.replayed = replayed;
        pending.pinned = pinned
            .into_iter()
            .map(|document| (workspace, document))
            .collect();
        // What the journal brought back has no index row: its entries name this device as their
        // origin, so that whoever follows the feed for the index sees them.
        let origin = replayed.map(|_| self.config.me);
        let Some(state) = self.ready(&workspace) else {
            panic!("a prepared job's workspace is loaded");
        };
        let first = state.point;
        let mut puts = rows;
        let nothing = placed.documents.is_empty() && puts.is_empty();
        if let Some(changes) = replayed.filter(|_| nothing) {
            let documents: Vec<_> = pending
                .pinned
                .iter()
                .map(|(_, document)| *document)
                .collect();
            self.unpin(&workspace, &documents);
            let through = first.seq;
            self.note_replayed(changes);
            return self.on_replayed(workspace, through);
        }
        let deletes = enter(
            state,
            workspace,
            placed,
            origin,
            &mut puts,
            &mut pending.entries,
        );
        let journal = (!pending.entries.is_empty()).then(|| {
            let frame = JournalFrame {
                workspace,
                epoch: first.epoch,
                seq: first.seq.next(),
                documents: pending
                    .entries
                    .iter()
                    .map(|entry| JournalDocument {
                        document: entry.document,
                        kind: entry.kind,
                        changes: entry.changes.iter().map(|(_, body)| body.clone()).collect(),
                    })
                    .collect(),
            };
            JournalEntry {
                workspace,
                epoch: first.epoch,
                through: state.point.seq,
                frame: frame.encode(),
            }
        });
        self.submit(pending, puts, deletes, journal);
    }

    /// Takes note of refusals and of answers that end, of what is being healed.
    pub(super) fn note_answers(
        &mut self,
        workspace: WorkspaceId,
        link: LinkId,
        placed: &Placed,
        answered: &[DocumentId],
        follows: bool,
    ) -> Vec<(DocumentId, Healing)> {
        let Some(flow) = self.flow(link, &workspace) else {
            return Vec::new();
        };
        let lacking = |code: &RefusalCode| *code == RefusalCode::MissingDependencies;
        let mut healing = Vec::new();
        for (document, _) in placed.refused.iter().filter(|(_, code)| lacking(code)) {
            let refused = flow.exchange.note_refused(document, follows);
            healing.push((*document, refused));
        }
        for (taken, _) in &placed.documents {
            flow.exchange.note_taken(&taken.document);
        }
        for document in answered {
            healing.push((*document, flow.exchange.note_answered(document)));
        }
        healing
    }

    pub(super) fn commit_received(
        &mut self,
        workspace: WorkspaceId,
        mut placed: Placed,
        pinned: Vec<DocumentId>,
        mut due: AckDue,
        cursor: Option<CursorMove>,
        early: bool,
    ) {
        let peer = due.peer;
        let now = self.now.wall;
        let offences = std::mem::take(&mut placed.offences);
        let mut pending = PendingBatch::new();
        pending.pinned = pinned
            .into_iter()
            .map(|document| (workspace, document))
            .collect();
        let refused = due.refused.clone();
        let healed: Vec<_> = placed
            .documents
            .iter()
            .map(|(document, _)| document.document)
            .collect();
        let missing: Vec<_> = placed
            .refused
            .iter()
            .filter(|(_, code)| !early && *code == RefusalCode::MissingDependencies)
            .map(|(document, _)| *document)
            .collect();
        let received = (healed.len() as u64, placed.change_count());
        let over = placed.purged_documents();
        // Who is being asked for already, or said now that this was all.
        let mut asked: BTreeSet<_> = due.healing.iter().map(|(asked, _)| *asked).collect();
        if let Some(flow) = self.flow(due.link, &workspace) {
            let open = healed.iter().filter(|one| flow.exchange.is_asked(one));
            asked.extend(open.copied());
        }
        let Some(state) = self.ready(&workspace) else {
            panic!("a prepared job's workspace is loaded");
        };
        let mut puts = Vec::new();
        let mut deletes = enter(
            state,
            workspace,
            placed,
            Some(peer),
            &mut puts,
            &mut pending.entries,
        );
        // Who purged a document has nothing of it that could be refused; others may.
        for (other, known) in &mut state.peers {
            for document in &over {
                if *other != peer {
                    known.dirty |= known.row.purge_here(document);
                } else if known.row.refused_here.remove(document).is_some() {
                    known.dirty = true;
                    due.accepted.push(*document);
                }
            }
        }
        // What someone else refused to build on may follow from what came now.
        let mut others_lacking = Vec::new();
        for (other, row) in state.peers.iter().filter(|(other, _)| **other != peer) {
            let documents = healed
                .iter()
                .filter(|document| row.row.lacks_dependencies_of(document));
            others_lacking.extend(documents.map(|document| (*other, *document)));
        }
        let known = state.peers.entry(peer).or_default();
        let moved = match cursor.filter(|_| known.agreed_on == Some(due.link)) {
            Some(CursorMove::Set(point)) => {
                known.row.held = Some(point);
                Ok(true)
            }
            Some(CursorMove::Follow(from, through)) => {
                follow_cursor(&mut known.row.held, from, through)
            }
            None => Ok(false),
        };
        let mut fresh_wants: Vec<_> = missing
            .into_iter()
            .filter(|document| !known.row.refused_here.contains_key(document))
            .collect();
        for (document, code) in &refused {
            known.dirty |= known.row.refuse_here(*document, *code);
        }
        let place = (workspace, peer);
        let writes = (&mut puts, &mut deletes);
        let (faults, news) = note_offences(&mut known.row, place, offences, now, writes);
        for document in &healed {
            if refused.iter().any(|(other, _)| other == document) {
                continue;
            }
            if known.row.lacks_dependencies_of(document) {
                // This may not be all that was refused, which the peer is told when it says so.
                if !asked.contains(document) {
                    fresh_wants.push(*document);
                }
                continue;
            }
            if known.row.refused_here.remove(document).is_some() {
                known.dirty = true;
                due.accepted.push(*document);
            }
        }
        for (document, healing) in std::mem::take(&mut due.healing) {
            if !known.row.lacks_dependencies_of(&document) {
                continue;
            }
            match healing {
                Healing::Done => {
                    known.row.refused_here.remove(&document);
                    known.dirty = true;
                    due.accepted.push(document);
                }
                Healing::AskAgain => fresh_wants.push(document),
                Healing::Open => {}
            }
        }
        if !due.accepted.is_empty() {
            known.waypoints = Waypoints::default();
            known.accepting += 1;
        }
        if moved == Ok(true)
            || (known.dirty && !pending.entries.is_empty())
            || !refused.is_empty()
            || !due.accepted.is_empty()
        {
            known.dirty = false;
            puts.push((Key::peer(&workspace, &peer), known.row.encode()));
        }
        due.held = known.row.held;
        if let Err(why) = moved {
            // What came is stored all the same; the cursor is not moved and the link starts anew.
            self.fault(due.link, why);
        }
        let is_early = self.is(Mutant::MovesCursorEarly) && !pending.entries.is_empty();
        let cursor = puts.pop_if(|(key, _)| is_early && key.kind() == Some(KeyKind::Peer));
        if let Some(cursor) = cursor {
            self.submit(PendingBatch::new(), vec![cursor], Vec::new(), None);
        }
        let link = due.link;
        if let Some(last) = pending.entries.last() {
            self.echo_to_later(link, peer, workspace, last.point.seq);
        }
        let told = self.tell_offences((link, peer, workspace), !faults.is_empty(), news);
        pending.told.extend(told);
        due.faults = faults;
        self.count_received(link, received.0, received.1);
        if !refused.is_empty() {
            self.emit(Event::DocumentsRefused {
                peer,
                workspace,
                here: true,
                documents: refused,
            });
        }
        if self.is(Mutant::AcknowledgesEarly) {
            self.acknowledge(vec![due]);
        } else {
            pending.acks.push(due);
        }
        if puts.is_empty() {
            // Nothing to store; what was received is covered by the batches before this.
            let pinned = std::mem::take(&mut pending.pinned);
            let documents: Vec<_> = pinned.into_iter().map(|(_, document)| document).collect();
            self.unpin(&workspace, &documents);
            match self.pending.back_mut().filter(|batch| !batch.released) {
                Some(last) => last.acks.append(&mut pending.acks),
                None => self.acknowledge(pending.acks),
            }
        } else {
            self.submit(pending, puts, deletes, None);
        }
        fresh_wants.sort_unstable();
        fresh_wants.dedup();
        if !fresh_wants.is_empty() {
            self.want_documents(link, workspace, fresh_wants);
        }
        if self.is(Mutant::AsksNobodyElse) {
            others_lacking.clear();
        }
        for (other, document) in others_lacking {
            for link in self.links_sharing(&workspace) {
                if self.links.get(&link).is_some_and(|link| link.peer == other) {
                    self.want_documents(link, workspace, vec![document]);
                }
            }
        }
    }

    pub(in crate::engine) fn unpin(&mut self, workspace: &WorkspaceId, documents: &[DocumentId]) {
        if let Some(state) = self.ready(workspace) {
            for document in documents {
                state.slots.unpin(document);
            }
        }
    }
}
