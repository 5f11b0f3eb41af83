//! The compactor: makes snapshots of documents that have grown many changes, proves them, stores
//! them, and has the engine let go of what they hold. Whether anybody still needs that is the
//! engine's decision; this decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use reconvene_core::engine::{CompactHold, Event, Write, needs_singly, snapshot_hash};
use reconvene_core::feed::FeedPoint;
use reconvene_core::ids::{DocumentId, PeerId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits;
use reconvene_core::records::{HeadRow, PeerRow, Record as _, SnapshotRef, SnapshotRow};
use reconvene_core::storage::{Scan, StoreError, StoreRead as _};
use reconvene_core::stored::{self, Replaceable};
use reconvene_model::snapshot::{SnapshotError, snapshot};
use serde::Serialize;
use tokio::sync::broadcast;

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
                .blocking(move |shared| candidates(shared, workspace))
                .await?;
            for document in candidates {
                let outcome = compact_document(&self.shared, workspace, document).await?;
                report.add(workspace, document, outcome);
            }
        }
        Ok(report)
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
            if row.change_count >= CHANGES_MIN || row.snapshots.len() > 1 {
                candidates.extend(key.document());
            }
        }
        match rows.rows.last().filter(|_| rows.more) {
            Some((last, _)) => range = range.after(last),
            None => return Ok(candidates),
        }
    }
}

/// A snapshot that is worth storing, and what it is to replace.
struct Made {
    replaces: Replaceable,
    snapshot: SnapshotRef,
    record: SnapshotRow,
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
    let before = replaces.bytes();
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
        snapshot,
        record,
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

/// Stores the snapshot, reads it back, and has the engine let go of what it holds.
async fn replace(
    shared: &Arc<Shared>,
    workspace: WorkspaceId,
    document: DocumentId,
    made: Made,
) -> Result<Outcome, Error> {
    let Made {
        replaces,
        snapshot,
        record,
        before,
    } = made;
    let key = Key::snapshot(&workspace, &document, &snapshot.hash);
    let is_new = replaces
        .snapshots()
        .iter()
        .all(|known| known.hash != snapshot.hash);
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
    let changes = replaces.changes().count() as u64;
    let compact = replaces.compact(request_id(), workspace, document, snapshot);
    match shared.driver.compact(compact).await? {
        Ok(()) => Ok(Outcome::Compacted {
            changes,
            before,
            after: u64::from(snapshot.size),
        }),
        Err(CompactHold::Store(error)) => Err(Error::Store(error)),
        Err(why) => {
            if is_new {
                let deletes = vec![key];
                let write = Write {
                    request: request_id(),
                    puts: Vec::new(),
                    deletes,
                };
                shared.driver.write(write).await?;
            }
            Ok(Outcome::Held(why.to_string()))
        }
    }
}

/// Compacts documents as they become due, for as long as the replica is open.
pub(crate) async fn run(shared: std::sync::Weak<Shared>, mut notices: broadcast::Receiver<Notice>) {
    let mut due: BTreeSet<(WorkspaceId, DocumentId)> = BTreeSet::new();
    // Tried, and waiting for a peer to come or to catch up.
    let mut held: BTreeSet<(WorkspaceId, DocumentId)> = BTreeSet::new();
    loop {
        let notice = if due.is_empty() {
            notices.recv().await
        } else {
            match tokio::time::timeout(QUIET, notices.recv()).await {
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
                }
                Event::Progress { .. } => due.append(&mut held),
                _ => {}
            },
            // Those that were missed are due again at their next changes.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
