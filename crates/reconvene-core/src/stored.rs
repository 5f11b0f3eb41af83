//! Reading a document from a store: everything it is made of, and what a snapshot of it would
//! replace. Reads only; the engine decides what happens.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::engine::{Compact, SendStored, StoredBodies, StoredDocument, tombstone_of};
use crate::guard::ActorId;
use crate::ids::{ChangeHash, DocumentId, FeedSeq, PeerId, RequestId, SnapshotHash, WorkspaceId};
use crate::keys::{Key, KeyRange};
use crate::limits;
use crate::records::{
    ActorProgress, ChangeRow, FeedRow, HeadRow, Record, SnapshotRef, SnapshotRow,
};
use crate::storage::{Direction, Scan, StoreError, StoreRead};

/// The chunks a stored document is made of, snapshots first; empty if nothing of it is stored.
///
/// # Errors
/// If the store fails, or holds a record that cannot be read.
pub fn chunks(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    document: &DocumentId,
) -> Result<Vec<Bytes>, StoreError> {
    let everything = |range, rows_max| Scan {
        range,
        direction: Direction::Ascending,
        rows_max,
        bytes_max: usize::MAX,
    };
    let changes = KeyRange::changes(workspace, document);
    let changes = reader.scan(&everything(changes, limits::CHANGES_PER_DOCUMENT_MAX))?;
    // After the changes: what compaction took from them in between is in a snapshot by now.
    let snapshots = KeyRange::snapshots(workspace, document);
    let snapshots = reader.scan(&everything(snapshots, usize::MAX))?;
    let mut chunks = Vec::with_capacity(snapshots.rows.len() + changes.rows.len());
    for (key, value) in &snapshots.rows {
        chunks.push(decode::<SnapshotRow>(key, value)?.body);
    }
    for (key, value) in &changes.rows {
        chunks.push(decode::<ChangeRow>(key, value)?.body);
    }
    Ok(chunks)
}

/// A document's head row; `None` if nothing of it is stored.
///
/// # Errors
/// If the store fails, or the row cannot be read.
pub fn head(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    document: &DocumentId,
) -> Result<Option<HeadRow>, StoreError> {
    read(reader, &Key::head(workspace, document))
}

/// What a snapshot of a document would replace, read before the document is loaded for it.
#[derive(Clone, Debug)]
pub struct Replaceable {
    snapshots: Vec<SnapshotRef>,
    orphans: Vec<SnapshotHash>,
    last: (FeedSeq, FeedRow),
    last_by_others: FeedSeq,
    entries: Vec<FeedSeq>,
    previous: FeedSeq,
    changes: Vec<(ChangeHash, u32)>,
    /// What is stored of each actor: all of it has to be in the snapshot.
    actors: BTreeMap<ActorId, ActorProgress>,
    singly: u64,
    is_purged: bool,
}

impl Replaceable {
    /// Reads what the document's feed entries name, from the newest back, up to
    /// `limits::COMPACTED_RECORDS_MAX` records. `None` if nothing is stored, or a single snapshot is
    /// all there is, or a tombstone.
    ///
    /// # Errors
    /// If the store fails, or holds a record that cannot be read.
    pub fn read(
        reader: &impl StoreRead,
        workspace: &WorkspaceId,
        document: &DocumentId,
    ) -> Result<Option<Self>, StoreError> {
        // Before the head row: one that comes later is not taken for one that nobody names.
        let named = Scan::ascending(KeyRange::snapshots(workspace, document), usize::MAX);
        let present = reader.scan(&named)?.rows;
        let Some(head) = head(reader, workspace, document)? else {
            return Ok(None);
        };
        let Some(newest) = read::<FeedRow>(reader, &Key::feed(workspace, head.feed_seq))? else {
            return Ok(None); // It is not applied yet.
        };
        let mut changes = newest.changes.clone();
        let mut last_by_others = FeedSeq(0);
        let mut entries = Vec::new();
        let mut previous = newest.previous;
        while previous.0 > 0 {
            let Some(row) = read::<FeedRow>(reader, &Key::feed(workspace, previous))? else {
                break;
            };
            let records = changes.len() + row.changes.len() + entries.len();
            if row.document != *document || records > limits::COMPACTED_RECORDS_MAX {
                break;
            }
            changes.extend(&row.changes);
            if row.origin != newest.origin {
                last_by_others = last_by_others.max(previous);
            }
            entries.push(previous);
            previous = row.previous;
        }
        let mut orphans: Vec<_> = present
            .iter()
            .filter_map(|(key, _)| key.snapshot_hash())
            .collect();
        if let Some(lost) = head
            .snapshots
            .iter()
            .find(|known| head.purged_at.is_none() && !orphans.contains(&known.hash))
        {
            return Err(StoreError::Damaged {
                key: format!("{:?}", Key::snapshot(workspace, document, &lost.hash)),
                what: "it is missing".to_owned(),
            });
        }
        orphans.retain(|hash| head.snapshots.iter().all(|known| known.hash != *hash));
        let is_purged = head.purged_at.is_some();
        let is_done = match is_purged {
            true => head.snapshots.is_empty() && orphans.is_empty(),
            false => head.snapshots.len() < 2,
        };
        if changes.is_empty() && entries.is_empty() && is_done {
            return Ok(None);
        }
        // Older entries of a purged document may name them and go with them.
        let are_named = is_purged && previous.0 > 0;
        Ok(Some(Self {
            orphans,
            actors: head.actors,
            snapshots: if are_named {
                Vec::new()
            } else {
                head.snapshots
            },
            singly: head.change_count,
            is_purged,
            last: (head.feed_seq, newest),
            last_by_others,
            entries,
            previous,
            changes,
        }))
    }

    /// Whether a snapshot that holds this of each actor holds all that was stored when this was read.
    pub fn is_covered_by(&self, held: &BTreeMap<ActorId, ActorProgress>) -> bool {
        self.actors.iter().all(|(actor, stored)| {
            held.get(actor).is_some_and(|held| {
                held.last_seq >= stored.last_seq && stored.beyond.iter().all(|seq| held.holds(*seq))
            })
        })
    }

    /// Whether the document is purged: then nothing takes the place of what goes.
    pub fn is_purged(&self) -> bool {
        self.is_purged
    }

    /// The changes that would go.
    pub fn changes(&self) -> impl Iterator<Item = &ChangeHash> {
        self.changes.iter().map(|(hash, _)| hash)
    }

    /// The last feed entry of those that would go that a peer did not bring itself: what it brought
    /// it has.
    pub fn last_for(&self, peer: &PeerId) -> FeedSeq {
        last_for(&self.last, self.last_by_others, peer)
    }

    /// Sum of the sizes of the changes and snapshots that would go.
    pub fn bytes(&self) -> u64 {
        let changes = self.changes.iter().map(|(_, size)| u64::from(*size));
        let snapshots = self.snapshots.iter().map(|each| u64::from(each.size));
        changes.sum::<u64>() + snapshots.sum::<u64>()
    }

    /// The same with the keys and the feed entries that would go, about.
    pub fn stored_bytes(&self) -> u64 {
        /// A feed entry's key and fields beside its changes.
        const ENTRY_BYTES: u64 = 100;
        /// A change's key, and its place in a feed entry.
        const CHANGE_BYTES: u64 = 105;
        self.bytes()
            + self.entries.len() as u64 * ENTRY_BYTES
            + self.changes.len() as u64 * CHANGE_BYTES
    }

    /// The snapshots that would go.
    pub fn snapshots(&self) -> &[SnapshotRef] {
        &self.snapshots
    }

    /// The request to the engine: once the snapshot is stored, or, for a purged document, without one.
    pub fn compact(
        self,
        request: RequestId,
        workspace: WorkspaceId,
        document: DocumentId,
        snapshot: Option<SnapshotRef>,
    ) -> Compact {
        Compact {
            request,
            workspace,
            document,
            snapshot,
            snapshots: self.snapshots,
            orphans: self.orphans,
            last: self.last,
            last_by_others: self.last_by_others,
            entries: self.entries,
            previous: self.previous,
            singly: self.singly,
            changes: self.changes,
        }
    }
}

/// Of entries that end with `last`, the last one that a peer did not bring itself.
pub(crate) fn last_for(
    (seq, row): &(FeedSeq, FeedRow),
    last_by_others: FeedSeq,
    peer: &PeerId,
) -> FeedSeq {
    if row.origin == Some(*peer) {
        last_by_others
    } else {
        *seq
    }
}

fn read<R: Record>(reader: &impl StoreRead, key: &Key) -> Result<Option<R>, StoreError> {
    let value = reader.read(key)?;
    value.map(|value| decode(key, &value)).transpose()
}

/// Decodes a record that was read under a key; damage names the key.
///
/// # Errors
/// If the bytes are not such a record.
pub fn decode<R: Record>(key: &Key, value: &[u8]) -> Result<R, StoreError> {
    R::decode(value).map_err(|error| StoreError::Damaged {
        key: format!("{key:?}"),
        what: error.to_string(),
    })
}

/// Bodies that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("a body of document {document} cannot be read")]
pub struct BodiesError {
    /// The first document of which one could not be.
    pub document: DocumentId,
    /// Why.
    #[source]
    pub error: StoreError,
}

/// Reads the bodies a [`SendStored`] names, by document, and the tombstones.
///
/// # Errors
/// If the store fails, or lacks one of them, or holds a record that cannot be read.
pub fn bodies(
    reader: &impl StoreRead,
    stored: &SendStored,
) -> Result<Vec<StoredBodies>, BodiesError> {
    let read = stored.documents.iter().map(|asked| {
        let document = asked.document;
        let bodies = bodies_of(reader, &stored.workspace, asked);
        bodies.map_err(|error| BodiesError { document, error })
    });
    read.collect()
}

fn bodies_of(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    asked: &StoredDocument,
) -> Result<StoredBodies, StoreError> {
    let required = |key: Key| -> Result<(Key, Bytes), StoreError> {
        match reader.read(&key)? {
            Some(value) => Ok((key, value)),
            None => Err(StoreError::Damaged {
                key: format!("{key:?}"),
                what: "it is missing".to_owned(),
            }),
        }
    };
    let mut bodies = StoredBodies::default();
    if asked.purged {
        let (key, value) = required(Key::head(workspace, &asked.document))?;
        bodies.purged = tombstone_of(&decode(&key, &value)?);
        if bodies.purged.is_none() {
            return Err(StoreError::Damaged {
                key: format!("{key:?}"),
                what: "the feed says that it is purged".to_owned(),
            });
        }
    }
    if let Some(hash) = &asked.snapshot {
        let (key, value) = required(Key::snapshot(workspace, &asked.document, hash))?;
        bodies.snapshot = Some(decode::<SnapshotRow>(&key, &value)?.body);
    }
    for hash in &asked.changes {
        let (key, value) = required(Key::change(workspace, &asked.document, hash))?;
        bodies.changes.push(decode::<ChangeRow>(&key, &value)?.body);
    }
    Ok(bodies)
}
