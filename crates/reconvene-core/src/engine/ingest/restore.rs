//! Documents of an archive on their way into the store: judged as what a peer sends, since a file is
//! worth no more, and entered in the feed as this store's own.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    Author, CheckedSnapshot, JobDocument, PendingBatch, Placed, Work, check_changes, enter,
};
use crate::engine::purge::Tombstone;
use crate::engine::{Engine, Event, snapshot_hash};
use crate::guard::ChangeHeader;
use crate::ids::{DocumentId, DocumentKind, RequestId, WorkspaceId};
use crate::limits;
use crate::mutants::Mutants;
use crate::records::SnapshotRef;
use crate::refusal::RefusalCode;
use crate::storage::StoreError;
use crate::wire::Purged;

/// Documents of an archive, to be taken as far as they fit what is stored.
#[derive(Clone, Debug)]
pub struct Restore {
    /// Comes back in [`Event::Restored`] or [`Event::RestoreRefused`].
    pub request: RequestId,
    /// Where.
    pub workspace: WorkspaceId,
    /// Whether a tombstone may take away what is stored, if it knows all of it: where this store has
    /// the last word on what is purged.
    pub may_purge: bool,
    /// The documents, each at most once, at most `limits::RESTORE_DOCUMENTS_MAX`; of at most
    /// `limits::BATCH_BYTES_MAX`, all bodies together.
    pub documents: Vec<RestoredDocument>,
}

/// What an archive has of one document, or a part of it.
#[derive(Clone, Debug)]
pub struct RestoredDocument {
    /// The document.
    pub document: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// A snapshot, and what loading it showed to be in it.
    pub snapshot: Option<(Bytes, Vec<ChangeHeader>)>,
    /// Change chunks, each after its dependencies.
    pub changes: Vec<Bytes>,
    /// Its tombstone, if it was purged.
    pub tombstone: Option<Purged>,
}

impl RestoredDocument {
    fn bytes(&self) -> usize {
        let snapshot = self.snapshot.as_ref().map_or(0, |(body, _)| body.len());
        let tombstone = self.tombstone.as_ref().map_or(0, Purged::bytes);
        self.changes.iter().map(Bytes::len).sum::<usize>() + snapshot + tombstone
    }
}

/// What was taken of a [`Restore`]; durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Documents of which something was new, in their order.
    pub documents: Vec<DocumentId>,
    /// Changes that were new, those in snapshots included.
    pub changes: u64,
    /// Documents that are purged with it.
    pub purged: u64,
    /// Documents of which something was not taken, and why. What comes after it of the same document
    /// was not taken either.
    pub refused: Vec<(DocumentId, RefusalCode)>,
}

/// Why nothing of a [`Restore`] was taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// It is more than one may be.
    #[error("{documents} documents of {bytes} bytes are more than one restore takes")]
    TooLarge {
        /// How many documents.
        documents: usize,
        /// Their size.
        bytes: usize,
    },
    /// A document stands in it twice.
    #[error("document {document} stands in it twice")]
    Twice {
        /// The document.
        document: DocumentId,
    },
    /// The workspace is being left.
    #[error("the workspace is being left")]
    Left,
    /// The store failed.
    #[error("what was restored could not be stored")]
    Store(#[source] StoreError),
}

impl Engine {
    pub(in crate::engine) fn on_restore(&mut self, restore: Restore) {
        let Restore {
            request,
            workspace,
            may_purge,
            documents,
        } = restore;
        let checked = match &self.failed {
            Some(error) => Err(RestoreError::Store(error.clone())),
            None if self.leaving.contains_key(&workspace) => Err(RestoreError::Left),
            None => check(documents, may_purge),
        };
        match checked {
            Ok(documents) => self.enqueue(Work::Changes {
                workspace,
                documents,
                author: Author::Archive { request },
                cursor: None,
            }),
            Err(error) => self.emit(Event::RestoreRefused { request, error }),
        }
    }

    pub(super) fn commit_restored(
        &mut self,
        workspace: WorkspaceId,
        placed: Placed,
        pinned: Vec<DocumentId>,
        request: RequestId,
    ) {
        let ids = placed.documents.iter().map(|(of, _)| of.document);
        let documents: Vec<_> = ids.collect();
        let purged = placed.documents.iter().filter(|(of, _)| of.is_purged);
        let restored = Restored {
            purged: purged.count() as u64,
            changes: placed.change_count(),
            refused: placed.refused.clone(),
            documents: documents.clone(),
        };
        let over = placed.purged_documents();
        let mut pending = PendingBatch::new();
        // Its entries name this device as their origin, so that whoever follows the feed for the index
        // sees them.
        let me = self.config.me;
        let Some(state) = self.ready(&workspace) else {
            panic!("a prepared job's workspace is loaded");
        };
        let mut puts = Vec::new();
        let entries = &mut pending.entries;
        let deletes = enter(state, workspace, placed, Some(me), &mut puts, entries);
        let mut lacking = BTreeSet::new();
        for (peer, known) in &mut state.peers {
            for document in &over {
                known.dirty |= known.row.purge_here(document);
            }
            // What a peer sent and was refused for want of others may follow from what came now.
            let lacks = documents.iter().copied();
            let lacks = lacks.filter(|document| known.row.lacks_dependencies_of(document));
            lacking.extend(lacks.map(|document| (*peer, document)));
        }
        if puts.is_empty() {
            // What was there already may be on its way to its barrier.
            self.unpin(&workspace, &pinned);
            match self.pending.back_mut().filter(|batch| !batch.released) {
                Some(last) => last.restores.push((request, restored)),
                None => self.emit(Event::Restored { request, restored }),
            }
            return;
        }
        let places = pinned.into_iter().map(|document| (workspace, document));
        pending.pinned = places.collect();
        pending.restores.push((request, restored));
        self.submit(pending, puts, deletes, None);
        for (peer, document) in lacking {
            for link in self.links_sharing(&workspace) {
                if self.links.get(&link).is_some_and(|link| link.peer == peer) {
                    self.want_documents(link, workspace, vec![document]);
                }
            }
        }
    }
}

fn check(
    restored: Vec<RestoredDocument>,
    may_purge: bool,
) -> Result<Vec<JobDocument>, RestoreError> {
    let bytes = restored.iter().map(RestoredDocument::bytes).sum();
    let documents = restored.len();
    if documents > limits::RESTORE_DOCUMENTS_MAX || bytes > limits::BATCH_BYTES_MAX {
        return Err(RestoreError::TooLarge { documents, bytes });
    }
    let mut seen = BTreeSet::new();
    let checked = restored.into_iter().map(|document| {
        // Two entries for one document would each be placed on what was there before.
        if !seen.insert(document.document) {
            let document = document.document;
            return Err(RestoreError::Twice { document });
        }
        let snapshot = document.snapshot.map(|(body, changes)| CheckedSnapshot {
            snapshot: SnapshotRef {
                hash: snapshot_hash(&body),
                size: u32::try_from(body.len()).expect("a batch is far below 4 GiB"),
                changes: changes.len() as u64,
            },
            body,
            changes,
        });
        let (changes, refused) = check_changes(document.changes);
        let tombstone = document.tombstone;
        Ok(JobDocument {
            document: document.document,
            kind: document.kind,
            snapshot,
            changes,
            refused,
            tombstone: tombstone.map(|purged| Tombstone::new(purged, may_purge, Mutants::NONE)),
        })
    });
    checked.collect()
}
