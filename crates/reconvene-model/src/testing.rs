//! What the tests of this crate share: ids, replicas, golden files. Compiled for tests only.

use std::path::PathBuf;

use reconvene_core::ids::{DocumentId, DocumentKind, PeerId};
use reconvene_core::time::WallTime;

use crate::{
    Document, Editor, EncodedChange, MaterialiseCounter, ModelError, Purpose, derive_actor,
    materialise,
};

pub(crate) const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);
pub(crate) const DOC: DocumentId = DocumentId::from_bytes([7; 16]);

pub(crate) fn document_id(byte: u8) -> DocumentId {
    DocumentId::from_bytes([byte; 16])
}

pub(crate) fn device(byte: u8) -> PeerId {
    PeerId::from_bytes([byte; 32])
}

/// One device's copy of a document, with every change it wrote or received.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) document: Document,
    pub(crate) changes: Vec<EncodedChange>,
    actor: [u8; 16],
    now: WallTime,
}

impl Replica {
    pub(crate) fn new(kind: DocumentKind, device_byte: u8) -> Self {
        Self {
            document: Document::create(kind).unwrap(),
            changes: Vec::new(),
            actor: derive_actor(&device(device_byte), &DOC, &[device_byte; 16]),
            now: NOW,
        }
    }

    pub(crate) fn wait(&mut self, millis: i64) {
        self.now = WallTime::from_millis(self.now.as_millis() + millis);
    }

    pub(crate) fn edit<T>(&mut self, edit: impl FnOnce(&mut Editor) -> Result<T, ModelError>) -> T {
        self.wait(1_000);
        let (value, changes) = self.document.edit(&self.actor, self.now, edit).unwrap();
        changes.iter().for_each(check_guard);
        self.changes.extend(changes);
        value
    }

    pub(crate) fn pull(&mut self, other: &Self) {
        let new: Vec<_> = other
            .changes
            .iter()
            .filter(|change| !self.changes.contains(change))
            .cloned()
            .collect();
        self.document
            .apply(new.iter().map(|change| change.bytes.as_slice()))
            .unwrap();
        self.changes.extend(new);
    }

    /// Exchanges everything with another replica and checks that both read the same.
    pub(crate) fn sync(&mut self, other: &mut Self) {
        self.pull(other);
        other.pull(self);
        assert_eq!(self.document.heads(), other.document.heads());
        assert_eq!(export(&self.document), export(&other.document));
        assert_eq!(export(&self.reloaded()), export(&self.document));
    }

    /// The document materialised anew, from its changes in reverse order.
    pub(crate) fn reloaded(&self) -> Document {
        load(self.document.kind(), self.changes.iter().rev())
    }
}

/// Checks that the guard takes a change that this crate has written.
pub(crate) fn check_guard(change: &EncodedChange) {
    let header = reconvene_core::guard::parse_change(&change.bytes).unwrap();
    assert_eq!(header.hash, change.hash);
}

pub(crate) fn load<'a>(
    kind: DocumentKind,
    changes: impl IntoIterator<Item = &'a EncodedChange>,
) -> Document {
    let chunks = changes.into_iter().map(|change| {
        check_guard(change);
        change.bytes.as_slice()
    });
    materialise(kind, chunks, Purpose::Read, &MaterialiseCounter::new()).unwrap()
}

pub(crate) fn export(document: &Document) -> String {
    crate::export::canonical_json(&crate::export::export_document(DOC, document).unwrap())
}

/// Compares bytes with a frozen file, or writes it if `RECONVENE_WRITE_GOLDEN` is set: only ever for
/// a file of a new version.
pub(crate) fn check_golden(name: &str, bytes: &[u8]) {
    let path = repository().join("schema/golden/v1").join(name);
    if std::env::var_os("RECONVENE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let frozen = std::fs::read(&path).unwrap();
    assert_eq!(frozen, bytes, "{name} differs from what was frozen");
}

/// Checks that a kind's golden document reads as it was frozen, from its changes in any order; `write`
/// gives the changes where it is to be written.
pub(crate) fn check_golden_document(
    kind: DocumentKind,
    write: impl FnOnce() -> Vec<EncodedChange>,
) {
    let name = crate::genesis::kind_name(kind);
    let file = format!("{name}.bin");
    if std::env::var_os("RECONVENE_WRITE_GOLDEN").is_some() {
        let mut bytes = Vec::new();
        for change in write() {
            bytes.extend(u32::try_from(change.bytes.len()).unwrap().to_be_bytes());
            bytes.extend(&change.bytes);
        }
        check_golden(&file, &bytes);
    }
    // Only reading is frozen: a later version may well write the same edits differently.
    let bytes = std::fs::read(repository().join("schema/golden/v1").join(&file)).unwrap();
    let mut chunks = split(&bytes);
    for change in &chunks {
        reconvene_core::guard::parse_change(change).unwrap();
    }
    let counter = MaterialiseCounter::new();
    for _ in 0..2 {
        let document = materialise(kind, chunks.iter().copied(), Purpose::Read, &counter).unwrap();
        check_golden(&format!("{name}.json"), export(&document).as_bytes());
        chunks.reverse();
    }
    assert_eq!(counter.snapshot()["read"], 2);
}

/// Chunks, each behind its length in 4 bytes, big-endian.
fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (chunk, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        chunks.push(chunk);
        bytes = rest;
    }
    chunks
}

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}
