//! Purging: of a document nothing is kept but a tombstone, which says what was known of it, so that a
//! change which comes too late is told apart from one that was purged with the rest.
//!
//! Whether a document is to be purged is the host's decision, and where something of it is held that
//! was not known then, it is not purged. What it was made of goes the way of what compaction removes.

use std::collections::BTreeMap;

use super::compact::Holders;
use super::ingest::{Author, Job, PendingBatch, Work};
use super::ingest::{Placed, PlacedDocument, enter};
use super::{Engine, Event, Purge, PurgeError};
use crate::guard::ActorId;
use crate::ids::{DocumentId, DocumentKind, WorkspaceId};
use crate::keys::Key;
use crate::limits;
use crate::mutants::{Mutant, Mutants};
use crate::records::{ActorProgress, HeadRow, Record as _};
use crate::refusal::RefusalCode;
use crate::time::WallTime;
use crate::wire::{KnownActor, Purged};

/// A purge on its way to its turn.
#[derive(Debug)]
pub(super) struct Purging {
    pub(super) purge: Purge,
    /// What the store says of each peer of the workspace; `None` until it was read.
    pub(super) holders: Option<Holders>,
}

/// A tombstone that a peer sent.
#[derive(Debug)]
pub(super) struct Tombstone {
    at: WallTime,
    known: BTreeMap<ActorId, ActorProgress>,
    /// Whether the peer's word is taken for whole versions of documents.
    is_trusted: bool,
    /// Changes of the document that the journal holds and the store has yet to take.
    owed: Vec<(ActorId, u64)>,
    mutants: Mutants,
}

/// What becomes of a tombstone that a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The document is purged here, too.
    Take,
    /// It was already.
    Settled,
    Refuse(RefusalCode),
}

impl Tombstone {
    pub(super) fn new(purged: Purged, is_trusted: bool, mutants: Mutants) -> Self {
        Self {
            at: purged.at,
            known: super::progress_of(purged.known),
            is_trusted,
            owed: Vec::new(),
            mutants,
        }
    }

    /// Where nothing of the document is held a tombstone only prevents that it comes back, whoever
    /// sent it. Otherwise it takes something away.
    pub(super) fn judge(&self, kind: DocumentKind, row: Option<&HeadRow>) -> Verdict {
        let knows = |actor: &ActorId, seq| {
            let known = self.known.get(actor);
            known.is_some_and(|known| known.holds(seq))
        };
        let owes_nothing = self.owed.iter().all(|(actor, seq)| knows(actor, *seq));
        let Some(row) = row else {
            return match owes_nothing {
                true => Verdict::Take,
                false => Verdict::Refuse(RefusalCode::DocumentDeleted),
            };
        };
        if row.purged_at.is_some() {
            return Verdict::Settled;
        }
        if !self.is_trusted {
            return Verdict::Refuse(RefusalCode::NotPermitted);
        }
        if row.kind != kind {
            return Verdict::Refuse(RefusalCode::Damaged);
        }
        let mut actors = row.actors.iter();
        let knows_all = actors.all(|(actor, held)| {
            let contiguous = self.known.get(actor).map_or(0, |known| known.last_seq);
            let spared = u64::from(self.mutants.has(Mutant::PurgesOneTooMany));
            let unknown = contiguous.saturating_add(1).saturating_add(spared);
            (unknown..=held.last_seq).all(|seq| knows(actor, seq))
                && held.beyond.iter().all(|seq| knows(actor, *seq))
        });
        match knows_all && owes_nothing {
            true => Verdict::Take,
            false => Verdict::Refuse(RefusalCode::DocumentDeleted),
        }
    }

    /// The document as it is stored once the tombstone is taken.
    pub(super) fn row(&self, kind: DocumentKind, stored: Option<&HeadRow>) -> HeadRow {
        let mut row = stored.cloned().unwrap_or_else(|| HeadRow::empty(kind));
        row.actors.clone_from(&self.known);
        row.purge(self.at);
        row
    }
}

/// The tombstone of a purged document; `None` for one that is not.
pub fn tombstone_of(row: &HeadRow) -> Option<Purged> {
    let beyond = row.actors.values().map(|progress| progress.beyond.len());
    let lists_gaps = beyond.sum::<usize>() <= limits::WANT_BEYOND_MAX;
    let known = row.actors.iter().map(|(actor, progress)| KnownActor {
        actor: actor.clone(),
        seq: progress.last_seq,
        beyond: match lists_gaps {
            true => progress.beyond.iter().copied().collect(),
            false => Vec::new(),
        },
    });
    Some(Purged {
        at: row.purged_at?,
        known: known.collect(),
    })
}

impl Engine {
    pub(super) fn on_purge(&mut self, mut purge: Purge) {
        purge.documents.sort_unstable();
        purge.documents.dedup();
        let documents = purge.documents.len();
        let max = limits::PURGE_DOCUMENTS_MAX;
        let refused = match &self.failed {
            Some(error) => Some(PurgeError::Store(error.clone())),
            None if self.leaving.contains_key(&purge.workspace) => Some(PurgeError::Left),
            None if documents > max => Some(PurgeError::TooMany { documents, max }),
            None => None,
        };
        if let Some(error) = refused {
            let request = purge.request;
            return self.emit(Event::PurgeRefused { request, error });
        }
        let holders = None;
        self.enqueue(Work::Purge(Box::new(Purging { purge, holders })));
    }

    pub(super) fn carry_out_purge(&mut self, purging: Purging) {
        let Purging { purge, holders } = purging;
        let Purge {
            request,
            workspace,
            documents,
        } = purge;
        let owed = documents
            .iter()
            .find(|document| !self.owed_of(&workspace, document).is_empty());
        if let Some(document) = owed.copied() {
            self.unpin(&workspace, &documents);
            let error = PurgeError::Owed { document };
            return self.emit(Event::PurgeRefused { request, error });
        }
        let at = self.now.wall;
        let Some(state) = self.ready(&workspace) else {
            panic!("a prepared job's workspace is loaded");
        };
        let mut placed = Placed::default();
        for document in &documents {
            let row = state.slots.row_mut(document);
            if let Some(row) = row.filter(|row| row.purged_at.is_none()) {
                row.purge(at);
                let document = PlacedDocument {
                    document: *document,
                    kind: row.kind,
                    is_new: false,
                    snapshot: None,
                    is_purged: true,
                };
                placed.documents.push((document, Vec::new()));
            }
        }
        if placed.documents.is_empty() {
            self.unpin(&workspace, &documents);
            return self.emit(Event::Purged {
                request,
                documents: 0,
            });
        }
        let mut pending = PendingBatch::of_purge(request, placed.documents.len() as u64);
        pending.pinned = documents.iter().map(|of| (workspace, *of)).collect();
        let mut puts = Vec::new();
        let deletes = enter(
            state,
            workspace,
            placed,
            None,
            &mut puts,
            &mut pending.entries,
        );
        // What this engine knows is newer than what was read.
        let mut rows = holders.unwrap_or_default();
        let live = state.peers.iter();
        rows.extend(live.map(|(peer, known)| (*peer, known.row.clone())));
        for (peer, mut row) in rows {
            let mut is_new = false;
            for document in &documents {
                is_new |= row.purge_here(document);
            }
            if is_new {
                puts.push((Key::peer(&workspace, &peer), row.encode()));
                if let Some(known) = state.peers.get_mut(&peer) {
                    known.row = row;
                    known.dirty = false;
                }
            }
        }
        self.submit(pending, puts, deletes, None);
    }

    /// The changes of a document that are in the journal, told to be safe, and not in the store yet.
    pub(super) fn owed_of(
        &self,
        workspace: &WorkspaceId,
        document: &DocumentId,
    ) -> Vec<(ActorId, u64)> {
        let jobs = self.owed.iter().chain(&self.jobs);
        let owed = jobs.filter_map(|job: &Job| match &job.work {
            Work::Changes {
                workspace: of,
                documents,
                author: Author::Journal { .. },
                ..
            } if of == workspace => Some(documents),
            _ => None,
        });
        let owed = owed.flatten().filter(|of| of.document == *document);
        let headers = owed.flat_map(super::ingest::JobDocument::headers);
        headers
            .map(|header| (header.actor.clone(), header.seq))
            .collect()
    }

    /// Tells every tombstone of a frame what the store has yet to take.
    pub(super) fn note_owed(
        &self,
        workspace: &WorkspaceId,
        documents: &mut [super::ingest::JobDocument],
    ) {
        for document in documents {
            if let Some(tombstone) = &mut document.tombstone {
                tombstone.owed = self.owed_of(workspace, &document.document);
            }
        }
    }
}
