//! The compactor: makes snapshots of documents that have grown many changes, proves them, stores
//! them, and has the engine let go of what they hold, and of what is left of purged documents. Whether anybody still needs that is the
//! engine's decision; this decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use reconvene_core::engine::{CompactHold, Event, Purge, Write, needs_singly, snapshot_hash};
use reconvene_core::feed::FeedPoint;
use reconvene_core::ids::{DocumentId, PeerId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits;
use reconvene_core::records::{HeadRow, PeerRow, Record as _, SnapshotRef, SnapshotRow};
use reconvene_core::storage::{Scan, StoreError, StoreRead as _};
use reconvene_core::stored::{self, Replaceable};
use reconvene_model::WORKSPACE_DOCUMENT;
use reconvene_model::snapshot::{SnapshotError, snapshot};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::documents::decode;
use crate::driver::Notice;
use crate::replica::{Shared, request_id};
use crate::status::{feed_head, peer_rows};
use crate::{Error, Replica};

/// Single changes below which a document is not worth a snapshot when a person asks for compaction.
const CHANGES_MIN: u64 = 4;
/// Documents whose compaction is due by themselves and not done yet; further ones are noted again at
/// their next changes.
const DUE_MAX: usize = 4096;
/// How long nothing must have become due before due documents are compacted.
const QUIET: Duration = Duration::from_secs(2);

/// How long what waits for a peer is left alone before it is tried again.
const HELD_RETRY: Duration = Duration::from_secs(5);

/// What a compaction came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CompactReport {
    /// Documents that had enough single changes to be looked at.
    pub considered: u64,
    /// Documents compacted.
    pub compacted: u64,
    /// Changes that are in snapshots now and no longer stored singly.
    pub changes: u64,
    /// Bytes of the changes and snapshots that went.
    pub bytes_before: u64,
    /// Bytes of the snapshots that took their place.
    pub bytes_after: u64,
    /// Documents left as they are for now, and why; the next compaction tries again.
    pub held: Vec<HeldDocument>,
    /// Documents that keep all their changes because no snapshot of them can be proven, and why.
    pub kept: Vec<HeldDocument>,
}

/// A document that was not compacted.
#[derive(Clone, Debug, Serialize)]
pub struct HeldDocument {
    /// Where.
    pub workspace: WorkspaceId,
    /// The document.
    pub document: DocumentId,
    /// Why, for people.
    pub why: String,
}

/// What became of one document.
enum Outcome {
    Compacted {
        changes: u64,
        before: u64,
        after: u64,
    },
    /// Not now.
    Held(String),
    /// Not as it is.
    Kept(String),
    /// There is nothing to gain.
    Small,
}

impl Replica {
    /// Compacts every document that has single changes worth it, in one workspace, or in the one this
    /// value is used on, or in all: replaces
    /// them by a proven snapshot, where no peer needs them singly any more.
    ///
    /// Cancel-safe between documents: what was done stays done, and a document is replaced whole or
    /// not at all.
    ///
    /// # Errors
    /// If a workspace is not known, or the store fails, or the replica is closed. Documents that
    /// could not be compacted are no error; the report names them.
    pub async fn compact(&self, workspace: Option<&str>) -> Result<CompactReport, Error> {
        let workspaces: Vec<_> = match (workspace, self.scope()) {
            (Some(id_or_name), _) => vec![self.find_workspace(id_or_name).await?.id],
            (None, Some(workspace)) => vec![workspace],
            (None, None) => self
                .workspaces()
                .await?
                .iter()
                .map(|each| each.id)
                .collect(),
        };
        let mut report = CompactReport::default();
        for workspace in workspaces {
            let candidates = self
                .blocking(move |shared| {
                    shared.noting_damage(workspace, candidates(shared, workspace))
                })
                .await?;
            for document in candidates {
                let outcome = compact_document(&self.shared, workspace, document).await;
                let documents = &self.shared.documents;
                documents.note_damage((workspace, document), &outcome);
                let outcome = match outcome {
                    Err(Error::Store(error @ StoreError::Damaged { .. })) => {
                        Outcome::Held(error.to_string())
                    }
                    outcome => outcome?,
                };
                report.add(workspace, document, outcome);
            }
        }
        Ok(report)
    }
}

impl Replica {
    /// Purges documents of a workspace, for everyone: of each only a tombstone is kept, and what comes
    /// of it later is refused as `DocumentDeleted`. Only what is purged on a server is purged on its
    /// devices; a server refuses what a device purged of its documents. How many were not purged
    /// before; at most `limits::PURGE_DOCUMENTS_MAX` of the core may be named. Whether the time for it
    /// has come is the caller's to decide.
    ///
    /// All or none. If this is dropped midway, they may be purged or not.
    ///
    /// # Errors
    /// If the workspace is not known, or its own document is named, or it is being left, or too many documents are named, or changes
    /// of one are waiting for the disk, or the store fails, or the replica is closed.
    pub async fn purge_documents(
        &self,
        workspace: &str,
        documents: Vec<DocumentId>,
    ) -> Result<u64, Error> {
        let workspace = self.find_workspace(workspace).await?.id;
        if documents.contains(&WORKSPACE_DOCUMENT) {
            let what = "a workspace's own document cannot be purged; leave the workspace instead";
            return Err(Error::BadInput(what.to_owned()));
        }
        let purge = Purge {
            request: request_id(),
            workspace,
            documents,
        };
        self.shared.driver.purge(purge).await
    }
}

impl CompactReport {
    fn add(&mut self, workspace: WorkspaceId, document: DocumentId, outcome: Outcome) {
        let held = |why| HeldDocument {
            workspace,
            document,
            why,
        };
        self.considered += 1;
        match outcome {
            Outcome::Compacted {
                changes,
                before,
                after,
            } => {
                self.compacted += 1;
                self.changes += changes;
                self.bytes_before += before;
                self.bytes_after += after;
            }
            Outcome::Held(why) => self.held.push(held(why)),
            Outcome::Kept(why) => self.kept.push(held(why)),
            Outcome::Small => {}
        }
    }
}

fn candidates(shared: &Shared, workspace: WorkspaceId) -> Result<Vec<DocumentId>, Error> {
    let mut candidates = Vec::new();
    let mut range = KeyRange::heads(&workspace);
    loop {
        let page = Scan::ascending(range.clone(), limits::CATALOGUE_PAGE_ROWS);
        let rows = shared.reader.scan(&page)?;
        for (key, value) in &rows.rows {
            let row: HeadRow = decode(key, value)?;
            let is_worth_it = match row.purged_at {
                Some(_) => row.has_remains(),
                None => row.change_count >= CHANGES_MIN || row.snapshots.len() > 1,
            };
            if is_worth_it {
                candidates.extend(key.document());
            }
        }
        match rows.rows.last().filter(|_| rows.more) {
            Some((last, _)) => range = range.after(last),
            None => return Ok(candidates),
        }
    }
}

/// A snapshot that is worth storing, and what it is to replace. A purged document has none.
struct Made {
    replaces: Replaceable,
    snapshot: Option<(SnapshotRef, SnapshotRow)>,
    before: u64,
}

async fn compact_document(
    shared: &Arc<Shared>,
    workspace: WorkspaceId,
    document: DocumentId,
) -> Result<Outcome, Error> {
    // Nobody edits or indexes it meanwhile; what peers send is stored beside it.
    let lease = shared.documents.lease(workspace, document).await;
    let live = shared.driver.live(Some(workspace)).await?;
    let work = Arc::clone(shared);
    let made = tokio::task::spawn_blocking(move || {
        let end = feed_head(&work, workspace)?.map(|head| head.point);
        let peers = peer_rows(&work, workspace, &live)?;
        make(&work, workspace, document, end, &peers)
    });
    let made = match made.await.map_err(|_| Error::Closed)?? {
        Ok(made) => made,
        Err(outcome) => {
            shared.documents.give_back(lease);
            return Ok(outcome);
        }
    };
    let outcome = replace(shared, workspace, document, made).await;
    shared.documents.give_back(lease);
    outcome
}

fn make(
    shared: &Shared,
    workspace: WorkspaceId,
    document: DocumentId,
    end: Option<FeedPoint>,
    peers: &BTreeMap<PeerId, PeerRow>,
) -> Result<Result<Made, Outcome>, Error> {
    let reader = &shared.reader;
    let (Some(end), Some(replaces), Some(head)) = (
        end,
        Replaceable::read(reader, &workspace, &document)?,
        stored::head(reader, &workspace, &document)?,
    ) else {
        return Ok(Err(Outcome::Small));
    };
    // The engine judges; this only saves the work where the answer is known.
    let waiting = peers
        .iter()
        .find(|(peer, row)| needs_singly(row, end, replaces.last_for(peer)));
    if let Some((peer, _)) = waiting {
        let why = CompactHold::Behind { peer: *peer };
        return Ok(Err(Outcome::Held(why.to_string())));
    }
    let before = replaces.bytes();
    if replaces.is_purged() {
        return Ok(Ok(Made {
            replaces,
            snapshot: None,
            before,
        }));
    }
    let chunks = stored::chunks(reader, &workspace, &document)?;
    let made = snapshot(
        head.kind,
        chunks.iter().map(|chunk| &chunk[..]),
        replaces.changes(),
        shared.documents.counter(),
    );
    let made = match made {
        Ok(made) => made,
        // What it lacks may still come.
        Err(error @ SnapshotError::Incomplete { .. }) => {
            return Ok(Err(Outcome::Held(error.to_string())));
        }
        Err(error) => return Ok(Err(Outcome::Kept(describe(&error)))),
    };
    if !replaces.is_covered_by(&made.actors) {
        let why = "its snapshot lacks changes that are stored".to_owned();
        return Ok(Err(Outcome::Kept(why)));
    }
    if made.bytes.len() as u64 >= replaces.stored_bytes() {
        return Ok(Err(Outcome::Small));
    }
    let snapshot = SnapshotRef {
        hash: snapshot_hash(&made.bytes),
        size: u32::try_from(made.bytes.len()).expect("a snapshot is far below 4 GiB"),
        changes: made.changes,
    };
    let record = SnapshotRow {
        body: made.bytes.into(),
    };
    Ok(Ok(Made {
        replaces,
        snapshot: Some((snapshot, record)),
        before,
    }))
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Stores the snapshot, if there is one, reads it back, and has the engine let go of what it holds.
async fn replace(
    shared: &Arc<Shared>,
    workspace: WorkspaceId,
    document: DocumentId,
    made: Made,
) -> Result<Outcome, Error> {
    let Made {
        replaces,
        snapshot,
        before,
    } = made;
    let changes = replaces.changes().count() as u64;
    let Some((snapshot, record)) = snapshot else {
        let compact = replaces.compact(request_id(), workspace, document, None);
        return match shared.driver.compact(compact).await? {
            Ok(()) => Ok(Outcome::Compacted {
                changes,
                before,
                after: 0,
            }),
            Err(CompactHold::Store(error)) => Err(Error::Store(error)),
            Err(why) => Ok(Outcome::Held(why.to_string())),
        };
    };
    let key = Key::snapshot(&workspace, &document, &snapshot.hash);
    let encoded = record.encode();
    shared
        .driver
        .write(Write {
            request: request_id(),
            puts: vec![(key.clone(), encoded.clone())],
            deletes: Vec::new(),
        })
        .await?;
    let read = {
        let (shared, key) = (Arc::clone(shared), key.clone());
        tokio::task::spawn_blocking(move || shared.reader.read(&key))
    };
    if read.await.map_err(|_| Error::Closed)??.as_ref() != Some(&encoded) {
        return Err(Error::Store(StoreError::Damaged {
            key: format!("{key:?}"),
            what: "the store does not give back what it was given".to_owned(),
        }));
    }
    let compact = replaces.compact(request_id(), workspace, document, Some(snapshot));
    match shared.driver.compact(compact).await? {
        Ok(()) => Ok(Outcome::Compacted {
            changes,
            before,
            after: u64::from(snapshot.size),
        }),
        Err(CompactHold::Store(error)) => Err(Error::Store(error)),
        // The snapshot stays where it is: another may have come to name it meanwhile. One that nobody
        // names goes with the next compaction.
        Err(why) => Ok(Outcome::Held(why.to_string())),
    }
}

/// Compacts documents as they become due, for as long as the replica is open.
pub(crate) async fn run(shared: std::sync::Weak<Shared>, mut notices: broadcast::Receiver<Notice>) {
    let mut due: BTreeSet<(WorkspaceId, DocumentId)> = BTreeSet::new();
    // Tried, and waiting for a peer to come or to catch up.
    let mut held: BTreeSet<(WorkspaceId, DocumentId)> = BTreeSet::new();
    // When something last became due, and when what was held was last tried.
    let mut due_at = Instant::now();
    let mut tried_at = Instant::now();
    loop {
        let notice = if due.is_empty() {
            notices.recv().await
        } else {
            match tokio::time::timeout_at(due_at + QUIET, notices.recv()).await {
                Ok(notice) => notice,
                Err(_) => {
                    let Some(shared) = shared.upgrade() else {
                        return;
                    };
                    for (workspace, document) in std::mem::take(&mut due) {
                        match compact_document(&shared, workspace, document).await {
                            Ok(Outcome::Held(_)) => {
                                held.insert((workspace, document));
                            }
                            Ok(Outcome::Kept(why)) => {
                                tracing::warn!(%document, %why, "a document keeps all its changes");
                            }
                            Ok(Outcome::Compacted { .. } | Outcome::Small) => {}
                            Err(error) => {
                                tracing::warn!(%document, %error, "a document was not compacted");
                            }
                        }
                    }
                    continue;
                }
            }
        };
        match notice {
            Ok(Notice::Engine(event)) => match &*event {
                Event::CompactionDue {
                    workspace,
                    document,
                } if due.len() + held.len() < DUE_MAX => {
                    due.insert((*workspace, *document));
                    due_at = Instant::now();
                }
                Event::Progress { .. } if !held.is_empty() && tried_at.elapsed() > HELD_RETRY => {
                    due.append(&mut held);
                    (due_at, tried_at) = (Instant::now(), Instant::now());
                }
                _ => {}
            },
            // Those that were missed are due again at their next changes.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
