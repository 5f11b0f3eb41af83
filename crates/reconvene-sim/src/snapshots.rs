//! Snapshots in the simulated world: what a host does to make one, and what loading one shows.
//!
//! The engine never looks into a snapshot, so where documents are not real ones it is simply the changes
//! it holds, one after the other, each behind its length, deflated. Real documents have real ones, made
//! with the product's proof and taken apart by its code.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::rc::Rc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use reconvene_core::engine::{Input, progress_of, snapshot_hash};
use reconvene_core::guard::{ChangeHeader, parse_change};
use reconvene_core::ids::{ChangeHash, DocumentId, RequestId, SnapshotHash, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::limits::SNAPSHOT_BYTES_MAX;
use reconvene_core::records::{Record as _, SnapshotRef, SnapshotRow};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{StoreError, StoreRead};
use reconvene_core::stored::{Replaceable, chunks, head};
use reconvene_core::wire::KnownActor;
use reconvene_model::MaterialiseCounter;
use reconvene_model::snapshot::{self, SnapshotError};

use crate::changes::{KIND, OTHER_KIND, genesis};
use crate::world::{NodeId, World};

/// What a chunk begins with if it is a snapshot; a change begins with another byte.
const MARK: u8 = b'S';

/// A compaction a host has begun.
#[derive(Debug)]
pub(crate) struct Compacting {
    place: (WorkspaceId, DocumentId),
    snapshot: SnapshotRef,
    /// Taken when the engine is asked.
    replaces: Option<Replaceable>,
}

/// The changes of a snapshot, each after its dependencies.
type Changes = Rc<[(ChangeHeader, Bytes)]>;

thread_local! {
    /// What is in snapshots, by their hashes: it follows from their bytes alone, and taking one apart
    /// takes long.
    static TAKEN_APART: RefCell<BTreeMap<SnapshotHash, Changes>> =
        const { RefCell::new(BTreeMap::new()) };
}

/// How many are remembered.
const TAKEN_APART_MAX: usize = 4_096;

/// The changes of a snapshot, each after its dependencies.
fn changes_of_snapshot(chunk: &Bytes) -> Option<Changes> {
    let hash = snapshot_hash(chunk);
    let known = TAKEN_APART.with_borrow(|known| known.get(&hash).cloned());
    if known.is_some() {
        return known;
    }
    let changes = match is_real(chunk) {
        true => take_apart_real(chunk)?,
        false => take_apart(chunk)?,
    };
    TAKEN_APART.with_borrow_mut(|known| {
        if known.len() >= TAKEN_APART_MAX {
            known.clear();
        }
        known.insert(hash, Rc::clone(&changes));
    });
    Some(changes)
}

fn take_apart_real(chunk: &Bytes) -> Option<Changes> {
    let kinds = reconvene_model::roots().iter().map(|root| root.kind);
    let counter = MaterialiseCounter::new();
    let mut found =
        kinds.filter_map(|kind| snapshot::beyond(kind, [&chunk[..]], &[], &counter).ok());
    let bodies = found.next()?.into_iter().map(Bytes::from);
    let changes = bodies.map(|body| Some((parse_change(&body).ok()?, body)));
    Some(changes.collect::<Option<Vec<_>>>()?.into())
}

fn take_apart(chunk: &Bytes) -> Option<Changes> {
    let mut inflated = Vec::new();
    let mut inflater = DeflateDecoder::new(&chunk[1..]);
    inflater.read_to_end(&mut inflated).ok()?;
    let mut rest = Bytes::from(inflated);
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let length = rest.get(..4)?.try_into().ok()?;
        let length = u32::from_be_bytes(length) as usize;
        rest = rest.slice(4..);
        if length > rest.len() {
            return None;
        }
        let body = rest.split_to(length);
        changes.push((parse_change(&body).ok()?, body));
    }
    Some(changes.into())
}

/// Whether a chunk is a whole document as automerge saves it, and not a change: the byte after magic and
/// checksum.
fn is_real(chunk: &[u8]) -> bool {
    chunk.first() != Some(&MARK) && chunk.get(8) == Some(&0)
}

fn is_snapshot(chunk: &[u8]) -> bool {
    is_real(chunk) || chunk.first() == Some(&MARK)
}

/// The changes of a chunk: one, or those of a snapshot. `None` if it is neither.
pub(crate) fn changes_in(chunk: &Bytes) -> Option<Vec<(ChangeHeader, Bytes)>> {
    if is_snapshot(chunk) {
        return changes_of_snapshot(chunk).map(|changes| changes.to_vec());
    }
    Some(vec![(parse_change(chunk).ok()?, chunk.clone())])
}

fn changes_of(chunks: &[Bytes]) -> Vec<(ChangeHeader, Bytes)> {
    let mut changes: Vec<_> = chunks
        .iter()
        .flat_map(|chunk| changes_in(chunk).expect("a stored chunk is readable"))
        .collect();
    // A change starts after all operations it depends on.
    changes.sort_by_key(|(header, _)| (header.start_op, header.hash));
    changes.dedup_by_key(|(header, _)| header.hash);
    changes
}

pub(crate) fn inspect(snapshot: &Bytes) -> Result<Vec<ChangeHeader>, RefusalCode> {
    let changes = is_snapshot(snapshot).then(|| changes_of_snapshot(snapshot));
    let changes = changes.flatten().ok_or(RefusalCode::Damaged)?;
    Ok(changes.iter().map(|(header, _)| header.clone()).collect())
}

pub(crate) fn holds(
    reader: &impl StoreRead,
    (workspace, document): (&WorkspaceId, &DocumentId),
    hashes: &[ChangeHash],
) -> Result<Vec<bool>, StoreError> {
    let changes = changes_of(&chunks(reader, workspace, document)?);
    let found = |hash: &ChangeHash| changes.iter().any(|(header, _)| header.hash == *hash);
    Ok(hashes.iter().map(found).collect())
}

pub(crate) fn beyond(
    reader: &impl StoreRead,
    (workspace, document): (&WorkspaceId, &DocumentId),
    known: &[KnownActor],
) -> Result<Vec<Bytes>, StoreError> {
    let known = progress_of(known.to_vec());
    let mut changes = changes_of(&chunks(reader, workspace, document)?);
    changes.retain(|(header, _)| {
        let progress = known.get(&header.actor);
        !progress.is_some_and(|progress| progress.holds(header.seq))
    });
    Ok(changes.into_iter().map(|(_, body)| body).collect())
}

impl World {
    /// Has a host compact a document; nothing happens if there is nothing to compact.
    pub fn compact(&mut self, node: NodeId, workspace: WorkspaceId, document: DocumentId) {
        if !self.is_up(node) {
            return;
        }
        let reader = self.disk(node).rotting.clone();
        let read = Replaceable::read(&reader, &workspace, &document)
            .and_then(|replaces| Ok((replaces, chunks(&reader, &workspace, &document)?)));
        let (replaces, chunks) = match read {
            Ok((Some(replaces), chunks)) => (replaces, chunks),
            Ok((None, _)) => return,
            Err(StoreError::Damaged { .. }) => {
                let suspect = Input::Suspect {
                    workspace,
                    document: Some(document),
                };
                return self.give(node, suspect);
            }
            Err(error) => panic!("an open store reads: {error}"),
        };
        if replaces.is_purged() {
            let request = self.request();
            let compact = replaces.compact(request, workspace, document, None);
            return self.give(node, Input::Compact(Box::new(compact)));
        }
        if self.real {
            return self.compact_really(node, (workspace, document), replaces, &chunks);
        }
        let changes = changes_of(&chunks);
        let known: BTreeSet<_> = changes.iter().map(|(header, _)| header.hash).collect();
        let mut needed = changes.iter().flat_map(|(header, _)| &header.dependencies);
        let is_root = |hash: &ChangeHash| {
            [KIND, OTHER_KIND]
                .iter()
                .any(|kind| genesis(*kind).hash == *hash)
        };
        if needed.any(|hash| !known.contains(hash) && !is_root(hash)) {
            return; // A snapshot of it would lose those that build on what is not here.
        }
        let mut deflater = DeflateEncoder::new(vec![MARK], Compression::fast());
        for (_, change) in &changes {
            let length = u32::try_from(change.len()).expect("a change is far below 4 GiB");
            let written = deflater.write_all(&length.to_be_bytes());
            let written = written.and_then(|()| deflater.write_all(change));
            written.expect("a buffer takes what is written");
        }
        let body = deflater.finish().expect("a buffer takes what is written");
        let body = Bytes::from(body);
        if body.len() > SNAPSHOT_BYTES_MAX {
            return; // It stays a list of changes.
        }
        let snapshot = SnapshotRef {
            hash: snapshot_hash(&body),
            size: u32::try_from(body.len()).expect("a snapshot is far below 4 GiB"),
            changes: changes.len() as u64,
        };
        let key = Key::snapshot(&workspace, &document, &snapshot.hash);
        let request = self.write(node, vec![(key, SnapshotRow { body }.encode())]);
        let compacting = Compacting {
            place: (workspace, document),
            snapshot,
            replaces: Some(replaces),
        };
        self.nodes[node].host.compacting.insert(request, compacting);
    }

    /// The same with a real document: a snapshot that is proven as the product proves it.
    fn compact_really(
        &mut self,
        node: NodeId,
        place: (WorkspaceId, DocumentId),
        replaces: Replaceable,
        chunks: &[Bytes],
    ) {
        let (workspace, document) = place;
        let row = head(&self.disk(node).reader, &workspace, &document);
        let Some(row) = row.expect("an open store reads") else {
            return;
        };
        let bodies = chunks.iter().map(|chunk| &chunk[..]);
        let made = snapshot::snapshot(row.kind, bodies, replaces.changes(), &self.counter);
        let made = match made {
            Ok(made) => made,
            // What it lacks may still come.
            Err(SnapshotError::Incomplete { .. } | SnapshotError::TooLarge { .. }) => return,
            Err(error) => self.fail(format_args!("{document} cannot be compacted: {error:?}")),
        };
        if !replaces.is_covered_by(&made.actors) {
            self.fail(format_args!("the snapshot of {document} lacks changes"));
        }
        let snapshot = SnapshotRef {
            hash: snapshot_hash(&made.bytes),
            size: u32::try_from(made.bytes.len()).expect("a snapshot is far below 4 GiB"),
            changes: made.changes,
        };
        let key = Key::snapshot(&workspace, &document, &snapshot.hash);
        let body = Bytes::from(made.bytes);
        let request = self.write(node, vec![(key, SnapshotRow { body }.encode())]);
        let compacting = Compacting {
            place,
            snapshot,
            replaces: Some(replaces),
        };
        self.nodes[node].host.compacting.insert(request, compacting);
    }

    /// The snapshot is durable: asks the engine to let go of what it holds.
    pub(crate) fn on_snapshot_stored(&mut self, node: NodeId, request: RequestId) {
        let compacting = self.nodes[node].host.compacting.get_mut(&request);
        let Some(compacting) = compacting else {
            return;
        };
        let (workspace, document) = compacting.place;
        if let Some(replaces) = compacting.replaces.take() {
            let compact = replaces.compact(request, workspace, document, Some(compacting.snapshot));
            self.later(node, Input::Compact(Box::new(compact)));
        }
    }

    /// The engine let go of what the snapshot holds, or did not: then it is in nobody's way, and the
    /// next compaction of the document takes it in.
    pub(crate) fn on_compaction_over(&mut self, node: NodeId, request: RequestId) {
        self.nodes[node].host.compacting.remove(&request);
    }
}
