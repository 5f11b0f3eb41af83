//! Open documents: materialised on use, kept within a byte budget, brought up to date with remote
//! changes when they are used next, dropped when an edit of theirs fails.
//!
//! Every use holds the document's lock until what follows from it (an edit, an index row) is in the
//! engine's queue; so edits and rows of one document enter the store in the order of its versions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use reconvene_core::ids::{ChangeHash, DocumentId, DocumentKind, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::records::{ChangeRow, HeadRow};
use reconvene_core::storage::{StoreError, StoreRead as _};
use reconvene_core::stored;
use reconvene_model::{Document, MaterialiseCounter, Purpose, materialise};
use reconvene_sled::SledReader;
use serde::Serialize;
use tokio::sync::OwnedMutexGuard;

use crate::Error;
use crate::driver::Suspicions;
use crate::limits::{NOTED_CHANGES_MAX, OPEN_DOCUMENTS_MAX};
use crate::replica::random;

/// How remote changes came into open documents since the replica was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ApplyStats {
    /// Batches applied to an open document. What a document is built from when it is opened is none.
    pub batches: u64,
    /// Changes in all of them.
    pub changes: u64,
    /// Changes of the largest.
    pub changes_max: u64,
}

/// What is open at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OpenDocuments {
    /// How many documents.
    pub documents: usize,
    /// What they take in memory, about, in bytes.
    pub bytes: usize,
    /// The most they may take, but for those in use.
    pub bytes_max: usize,
}

/// Stands among noted changes for a whole version that came: no change has this hash, so it is not
/// found, and the document is read anew.
pub(crate) const REPLACED: ChangeHash = ChangeHash::from_bytes([0; 32]);

type Place = (WorkspaceId, DocumentId);

/// A document that may be open.
#[derive(Default)]
pub(crate) struct OpenDocument {
    document: Option<Document>,
    /// Changes that became durable since and are not applied yet.
    remote: Vec<ChangeHash>,
}

struct Entry {
    lock: Arc<tokio::sync::Mutex<OpenDocument>>,
    bytes: usize,
    used: u64,
    /// Remote changes noted while the document was locked or simply not in use.
    remote: Vec<ChangeHash>,
    /// More were noted than are kept: what is open is not worth bringing up to date.
    outdated: bool,
    /// Edits on their way into the store, which a reader may not see yet: whoever reads the document
    /// anew adds them.
    local: BTreeMap<u64, Vec<Bytes>>,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<Place, Entry>,
    bytes: usize,
    clock: u64,
    edits: u64,
    applied: ApplyStats,
}

/// All open documents of a replica.
pub(crate) struct Documents {
    reader: SledReader,
    counter: Arc<MaterialiseCounter>,
    /// Memory of open documents beyond which the least recently used are dropped, in bytes.
    bytes_max: usize,
    table: Mutex<Table>,
    /// Where damage that is met is told.
    suspicions: OnceLock<Suspicions>,
    incarnation: Mutex<Option<[u8; 16]>>,
}

/// A locked document. Dropping it gives the lock back.
pub(crate) struct Lease {
    place: Place,
    guard: OwnedMutexGuard<OpenDocument>,
}

impl Documents {
    pub(crate) fn new(reader: SledReader, bytes_max: usize) -> Self {
        Self {
            reader,
            counter: Arc::default(),
            bytes_max,
            table: Mutex::new(Table::default()),
            suspicions: OnceLock::new(),
            incarnation: Mutex::new(None),
        }
    }

    /// Says where damage that is met is told, from now on.
    pub(crate) fn tell_damage(&self, to: Suspicions) {
        if self.suspicions.set(to).is_err() {
            tracing::debug!("damage is told already");
        }
    }

    pub(crate) fn counter(&self) -> &MaterialiseCounter {
        &self.counter
    }

    pub(crate) fn counter_handle(&self) -> Arc<MaterialiseCounter> {
        Arc::clone(&self.counter)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // The table is only bookkeeping; a panic in between loses at most an eviction.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks a document without loading it. Cancel-safe: nothing is lost if this is dropped.
    pub(crate) async fn lease(&self, workspace: WorkspaceId, document: DocumentId) -> Lease {
        let place = (workspace, document);
        let lock = {
            let mut table = self.table();
            table.clock += 1;
            let used = table.clock;
            let entry = table.entries.entry(place).or_insert_with(|| Entry {
                lock: Arc::default(),
                bytes: 0,
                used,
                remote: Vec::new(),
                outdated: false,
                local: BTreeMap::new(),
            });
            entry.used = used;
            Arc::clone(&entry.lock)
        };
        let mut guard = lock.lock_owned().await;
        if let Some(entry) = self.table().entries.get_mut(&place) {
            guard.remote.append(&mut entry.remote);
            if std::mem::take(&mut entry.outdated) {
                guard.document = None;
            }
        }
        Lease { place, guard }
    }

    /// Notes an edit of a leased document that was handed to the engine. Until it is settled whoever
    /// reads the document anew adds it to what the store shows.
    pub(crate) fn note_local(&self, lease: &Lease, changes: Vec<Bytes>) -> LocalEdit {
        let mut table = self.table();
        table.edits += 1;
        let number = table.edits;
        if let Some(entry) = table.entries.get_mut(&lease.place) {
            entry.local.insert(number, changes);
        }
        let place = lease.place;
        LocalEdit { place, number }
    }

    /// An edit is in the store, for readers too, or failed.
    pub(crate) fn settle(&self, edit: LocalEdit) {
        let mut table = self.table();
        if let Some(entry) = table.entries.get_mut(&edit.place) {
            entry.local.remove(&edit.number);
        }
        self.evict(&mut table);
    }

    /// A document lost changes: what is open of it is not what is stored, and the numbers of what was
    /// lost must not be given to others.
    pub(crate) fn note_damaged(&self, workspace: WorkspaceId, document: DocumentId) {
        self.forget_incarnation();
        self.note_replaced(workspace, document);
    }

    /// Drops what is open of a document, once nobody uses it: it is loaded again when used next.
    pub(crate) fn note_replaced(&self, workspace: WorkspaceId, document: DocumentId) {
        self.note_remote(workspace, document, &[REPLACED]);
    }

    /// Notes changes that became durable; an open document applies them when it is used next.
    pub(crate) fn note_remote(
        &self,
        workspace: WorkspaceId,
        document: DocumentId,
        changes: &[ChangeHash],
    ) {
        if let Some(entry) = self.table().entries.get_mut(&(workspace, document)) {
            entry.remote.extend_from_slice(changes);
            if entry.remote.len() > NOTED_CHANGES_MAX {
                entry.remote = Vec::new();
                entry.outdated = true;
            }
        }
    }

    /// What is open now.
    pub(crate) fn open(&self) -> OpenDocuments {
        let table = self.table();
        let open = table.entries.values().filter(|entry| entry.bytes > 0);
        OpenDocuments {
            documents: open.count(),
            bytes: table.bytes,
            bytes_max: self.bytes_max,
        }
    }

    /// How remote changes came into open documents so far.
    pub(crate) fn apply_stats(&self) -> ApplyStats {
        self.table().applied
    }

    /// Drops everything that is open, after a failure of the store.
    pub(crate) fn forget_all(&self) {
        let mut table = self.table();
        // Who holds a lock goes on holding it: two at once would each take the document for theirs.
        table
            .entries
            .retain(|_, entry| Arc::strong_count(&entry.lock) > 1);
        for entry in table.entries.values_mut() {
            entry.remote = vec![REPLACED];
            entry.local.clear();
        }
        table.bytes = table.entries.values().map(|entry| entry.bytes).sum();
    }

    /// Gives a lease back, keeping the document open if the budget allows.
    pub(crate) fn give_back(&self, mut lease: Lease) {
        let bytes = lease
            .guard
            .document
            .as_ref()
            .map_or(0, Document::memory_bytes);
        let mut table = self.table();
        let Some(entry) = table.entries.get_mut(&lease.place) else {
            lease.guard.document = None;
            return;
        };
        let before = std::mem::replace(&mut entry.bytes, bytes);
        table.bytes = table.bytes - before + bytes;
        drop(lease);
        self.evict(&mut table);
    }

    /// Closes the least recently used documents beyond the budget.
    fn evict(&self, table: &mut Table) {
        while table.bytes > self.bytes_max || table.entries.len() > OPEN_DOCUMENTS_MAX {
            // A locked document is in use and stays, and one whose edits are on their way.
            let free = table
                .entries
                .iter()
                .filter(|(_, entry)| Arc::strong_count(&entry.lock) == 1 && entry.local.is_empty());
            let Some(place) = free
                .min_by_key(|(_, entry)| entry.used)
                .map(|(place, _)| *place)
            else {
                break;
            };
            if let Some(entry) = table.entries.remove(&place) {
                table.bytes -= entry.bytes;
            }
        }
    }

    /// Loads a leased document if it is not open, and brings it up to date. Blocks on the disk.
    pub(crate) fn load<'a>(
        &self,
        lease: &'a mut Lease,
        purpose: Purpose,
    ) -> Result<&'a mut Document, Error> {
        let place = lease.place;
        let loaded = self.bring_up(lease, purpose);
        self.note_damage(place, &loaded);
        loaded
    }

    /// Materialises a document from its stored changes, without opening it. Blocks on the disk.
    pub(crate) fn read(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        purpose: Purpose,
    ) -> Result<Document, Error> {
        let read = read_document(&self.reader, &self.counter, workspace, id, purpose);
        self.note_damage((workspace, id), &read);
        read
    }

    /// Has the engine look at a document if a read of it met damage.
    pub(crate) fn note_damage<T>(&self, (workspace, id): Place, read: &Result<T, Error>) {
        if let Err(Error::Store(StoreError::Damaged { .. })) = read
            && let Some(suspicions) = self.suspicions.get()
        {
            suspicions.tell(workspace, Some(id));
        }
    }

    /// The incarnation of this open, minted at its first write.
    pub(crate) fn incarnation(&self) -> Result<[u8; 16], Error> {
        let mut incarnation = self.lock_incarnation();
        if let Some(incarnation) = *incarnation {
            return Ok(incarnation);
        }
        let minted = random()?;
        *incarnation = Some(minted);
        Ok(minted)
    }

    /// Nobody knows any more which numbers were used under this incarnation: the next write mints
    /// another one.
    pub(crate) fn forget_incarnation(&self) {
        *self.lock_incarnation() = None;
    }

    fn lock_incarnation(&self) -> std::sync::MutexGuard<'_, Option<[u8; 16]>> {
        self.incarnation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn bring_up<'a>(
        &self,
        lease: &'a mut Lease,
        purpose: Purpose,
    ) -> Result<&'a mut Document, Error> {
        let (workspace, id) = lease.place;
        let open = &mut *lease.guard;
        let reusable = open
            .document
            .as_ref()
            .is_some_and(|document| !document.is_poisoned());
        if !reusable {
            open.remote.clear();
            open.document = Some(self.read_with_local(workspace, id, purpose)?);
        }
        let Some(document) = open.document.as_mut() else {
            return Err(not_found(id));
        };
        let mut is_current = true;
        // Some are noted twice, and some came in with an index row that did not wait for the note.
        let mut seen = BTreeSet::new();
        open.remote
            .retain(|hash| seen.insert(*hash) && !document.lacking([*hash]).is_empty());
        if !open.remote.is_empty() && !document.set_aside().is_empty() {
            // What was set aside may fit by what came since.
            open.remote.clear();
            is_current = false;
        }
        if !open.remote.is_empty() {
            let bodies = read_changes(&self.reader, workspace, id, &open.remote)?;
            open.remote.clear();
            // One that is gone was compacted away meanwhile, so that a snapshot holds it, or purged.
            is_current = bodies.is_some_and(|bodies| self.apply(document, &bodies));
        }
        if !is_current {
            // Built anew from the durable bytes, it says what is wrong, if anything is; and what can
            // not be built anew is not shown as it was.
            open.document = None;
            open.document = Some(self.read_with_local(workspace, id, purpose)?);
        }
        open.document.as_mut().ok_or_else(|| not_found(id))
    }

    /// Materialises a document from its stored changes and from what is on its way there.
    fn read_with_local(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        purpose: Purpose,
    ) -> Result<Document, Error> {
        // First these: what is in the store by now is seen there.
        let local: Vec<_> = match self.table().entries.get(&(workspace, id)) {
            Some(entry) => entry.local.values().flatten().cloned().collect(),
            None => Vec::new(),
        };
        let read = || read_document(&self.reader, &self.counter, workspace, id, purpose);
        let mut document = read()?;
        if local.is_empty() || document.apply(local.iter().map(|body| &body[..])).is_ok() {
            return Ok(document);
        }
        // They do not follow from what is stored: the engine refuses them.
        read()
    }

    /// Applies remote changes, all in one batch; whether they could be applied.
    fn apply(&self, document: &mut Document, bodies: &[Bytes]) -> bool {
        let applied = document.apply(bodies.iter().map(|body| &body[..])).is_ok();
        let changes = bodies.len() as u64;
        let stats = &mut self.table().applied;
        stats.batches += 1;
        stats.changes += changes;
        stats.changes_max = stats.changes_max.max(changes);
        applied
    }
}

/// An edit that is on its way into the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalEdit {
    place: Place,
    number: u64,
}

impl Lease {
    pub(crate) fn workspace(&self) -> WorkspaceId {
        self.place.0
    }

    /// Puts a document that was made, not loaded.
    pub(crate) fn put(&mut self, document: Document) {
        self.guard.document = Some(document);
    }

    /// Drops what is open, so that the next use loads it again.
    pub(crate) fn forget(&mut self) {
        self.guard.document = None;
        self.guard.remote.clear();
    }
}

pub(crate) fn not_found(id: DocumentId) -> Error {
    Error::NotFound {
        what: "document",
        id: id.to_string(),
    }
}

/// The head row of a document; `None` if nothing of it is stored.
pub(crate) fn head_row(
    reader: &SledReader,
    workspace: WorkspaceId,
    document: DocumentId,
) -> Result<Option<HeadRow>, Error> {
    Ok(stored::head(reader, &workspace, &document)?)
}

/// Decodes a record that was read under a key; damage names the key.
pub(crate) fn decode<R: reconvene_core::records::Record>(
    key: &Key,
    value: &[u8],
) -> Result<R, Error> {
    Ok(stored::decode(key, value)?)
}

/// Materialises a document from its stored changes, without opening it. Blocks on the disk. One that
/// was purged is [`Error::DocumentDeleted`], also while something of it is left.
fn read_document(
    reader: &SledReader,
    counter: &MaterialiseCounter,
    workspace: WorkspaceId,
    id: DocumentId,
    purpose: Purpose,
) -> Result<Document, Error> {
    let Some(row) = head_row(reader, workspace, id)? else {
        let key = Key::damage(&workspace, &id);
        return Err(match reader.contains(&key)? {
            false => not_found(id),
            true => Error::Store(StoreError::Damaged {
                key: format!("{:?}", Key::head(&workspace, &id)),
                what: "nothing of the document was left; peers are asked for it".to_owned(),
            }),
        });
    };
    if let Some(at) = row.purged_at {
        return Err(Error::DocumentDeleted { id, at });
    }
    read_document_of_kind(reader, counter, workspace, id, row.kind, purpose)
}

pub(crate) fn read_document_of_kind(
    reader: &SledReader,
    counter: &MaterialiseCounter,
    workspace: WorkspaceId,
    id: DocumentId,
    kind: DocumentKind,
    purpose: Purpose,
) -> Result<Document, Error> {
    let bodies = all_chunks(reader, workspace, id)?;
    let chunks = bodies.iter().map(|body| &body[..]);
    let document =
        materialise(kind, chunks, purpose, counter).map_err(|source| Error::Document {
            id,
            source: Box::new(source),
        })?;
    let aside = document.set_aside();
    if !aside.is_empty() {
        tracing::warn!(document = %id, changes = ?aside, "changes that do not fit are set aside");
    }
    Ok(document)
}

fn all_chunks(
    reader: &SledReader,
    workspace: WorkspaceId,
    id: DocumentId,
) -> Result<Vec<Bytes>, Error> {
    Ok(stored::chunks(reader, &workspace, &id)?)
}

/// The bodies of changes; `None` if one of them is not stored singly.
fn read_changes(
    reader: &SledReader,
    workspace: WorkspaceId,
    id: DocumentId,
    hashes: &[ChangeHash],
) -> Result<Option<Vec<Bytes>>, Error> {
    let mut bodies = Vec::with_capacity(hashes.len());
    for hash in hashes {
        let key = Key::change(&workspace, &id, hash);
        let Some(value) = reader.read(&key)? else {
            return Ok(None);
        };
        bodies.push(decode::<ChangeRow>(&key, &value)?.body);
    }
    Ok(Some(bodies))
}
