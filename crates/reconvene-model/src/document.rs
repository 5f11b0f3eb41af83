//! An open document: an Automerge value with its kind, and the few things that may be done to it.
//!
//! It never decides when to be loaded, stored or dropped, and it never hands out the Automerge value
//! for writing: changes come in through [`Document::apply`] and [`Document::edit`] only.

use std::collections::BTreeSet;

use automerge::{Automerge, ReadDoc};
use reconvene_core::ids::{ChangeHash, DocumentKind};
use reconvene_core::time::WallTime;

use crate::genesis::GENESIS_ACTOR;
use crate::materialise::{MaterialiseError, contain, ingest, seed};
use crate::view::View;

/// One change as it is stored and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChange {
    /// The change's hash.
    pub hash: ChangeHash,
    /// The change's chunk, in the compressed form.
    pub bytes: Vec<u8>,
}

/// An open document.
///
/// When something panicked inside automerge, or changes contradict each other, or an edit failed after a part of it had already become
/// a change, the document is *poisoned*: every further use fails, and the caller drops it and
/// materialises it anew from durable bytes, under a new incarnation.
#[derive(Clone, Debug)]
pub struct Document {
    kind: DocumentKind,
    /// `None` once poisoned.
    automerge: Option<Automerge>,
    inflated_bytes: usize,
    /// Ascending.
    set_aside: Vec<ChangeHash>,
}

/// The versions a document was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The newest schema version anyone wrote to it with.
    pub version: u64,
    /// The oldest schema version that may edit it. Older builds open it read-only.
    pub min_reader: u64,
}

/// Why changes could not be added to an open document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// An earlier failure left nothing to apply to.
    #[error("the document failed earlier and must be reloaded")]
    Poisoned,
    /// The changes are not acceptable. A chunk that is no change leaves the document as it was; all
    /// else poisons it.
    #[error("the changes could not be applied")]
    Failed(#[source] MaterialiseError),
}

/// Why a document could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// An earlier failure left nothing to read.
    #[error("the document failed earlier and must be reloaded")]
    Poisoned,
    /// The document is of another kind than the view.
    #[error("the document is of kind {} and not {}", found.0, wanted.0)]
    WrongKind {
        /// The kind the view is for.
        wanted: DocumentKind,
        /// The document's kind.
        found: DocumentKind,
    },
    /// Automerge panicked.
    #[error("reading the document panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

impl Document {
    pub(crate) fn new(kind: DocumentKind, automerge: Automerge, inflated_bytes: usize) -> Self {
        Self {
            kind,
            automerge: Some(automerge),
            inflated_bytes,
            set_aside: Vec::new(),
        }
    }

    /// The same, of which changes were left out.
    pub(crate) fn without(self, set_aside: Vec<ChangeHash>) -> Self {
        Self { set_aside, ..self }
    }

    /// A new document, holding its genesis only. Nothing is loaded, so nothing is counted. `None`
    /// for a kind this build does not know.
    pub fn create(kind: DocumentKind) -> Option<Self> {
        seed(kind).map(|automerge| Self::new(kind, automerge, 0))
    }

    /// The document's kind.
    pub fn kind(&self) -> DocumentKind {
        self.kind
    }

    /// Whether an earlier failure requires the document to be reloaded.
    pub fn is_poisoned(&self) -> bool {
        self.automerge.is_none()
    }

    /// Adds remote changes, best many at once: the cost of one batch grows with the document, hardly
    /// with the batch. Changes already present are ignored; changes whose dependencies are missing
    /// wait outside the view.
    pub fn apply<'a>(
        &mut self,
        changes: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), ApplyError> {
        // Taken out, so that a failure in between leaves a poisoned document behind.
        let mut automerge = self.automerge.take().ok_or(ApplyError::Poisoned)?;
        let outcome = ingest(&mut automerge, changes);
        // Chunks are parsed before the first is applied.
        if matches!(outcome, Ok(_) | Err(MaterialiseError::Chunk { .. })) {
            self.automerge = Some(automerge);
        }
        self.inflated_bytes += outcome.map_err(ApplyError::Failed)?;
        Ok(())
    }

    /// The view heads, sorted: the changes that nothing else in the view depends on. The genesis
    /// alone for a new document, nothing for a poisoned one.
    pub fn heads(&self) -> Vec<ChangeHash> {
        let heads = self.automerge.as_ref().map(Automerge::get_heads);
        from_automerge(heads.unwrap_or_default())
    }

    /// The hashes that changes waiting outside the view depend on and that are not here, sorted.
    pub fn missing(&self) -> Vec<ChangeHash> {
        let missing = self
            .automerge
            .as_ref()
            .map(|automerge| automerge.get_missing_deps(&[]));
        from_automerge(missing.unwrap_or_default())
    }

    /// The changes that are stored and do not fit the document, because they name what is not in it,
    /// and those that depend on them, sorted: no part of the view. Which these are follows from all
    /// that is stored. One more that does not fit poisons an open document; materialised anew, it
    /// lists that one, too.
    pub fn set_aside(&self) -> &[ChangeHash] {
        &self.set_aside
    }

    /// Which of these changes a reader does not see, sorted: they are not here, or wait for what is not.
    /// Empty if the document shows them all, or has set them aside.
    pub fn lacking(&self, changes: impl IntoIterator<Item = ChangeHash>) -> Vec<ChangeHash> {
        let shows = |hash: &ChangeHash| {
            let hash = automerge::ChangeHash(*hash.as_bytes());
            let automerge = self.automerge.as_ref();
            automerge.is_some_and(|it| it.get_change_meta_by_hash(&hash).is_some())
        };
        let lacking: BTreeSet<_> = changes
            .into_iter()
            .filter(|hash| self.set_aside.binary_search(hash).is_err() && !shows(hash))
            .collect();
        lacking.into_iter().collect()
    }

    /// The latest time any of the heads says it was written; `None` for a new document.
    pub fn updated_at(&self) -> Option<WallTime> {
        let automerge = self.automerge.as_ref()?;
        let written_at = |head: &automerge::ChangeHash| {
            let meta = automerge.get_change_meta_by_hash(head)?;
            let is_genesis = meta.actor.to_bytes() == GENESIS_ACTOR;
            (!is_genesis).then(|| WallTime::from_millis(meta.timestamp))
        };
        let latest = || automerge.get_heads().iter().filter_map(written_at).max();
        // A display value: where automerge cannot say, neither can this.
        contain(latest).unwrap_or(None)
    }

    /// The versions the document was written with.
    pub fn schema(&self) -> Result<Schema, ReadError> {
        self.read(self.kind, |view| Schema {
            version: view.greatest_root("schema_version"),
            min_reader: view.greatest_root("min_reader"),
        })
    }

    /// About how much memory the document holds, in bytes; for a cache's budget, not for accounts.
    pub fn memory_bytes(&self) -> usize {
        // Fitted to the resident size of meetings and transcript pages: a floor for the columns' first
        // slabs, then per operation, then the content. At worst three times too much, for pages
        // received as hundreds of small changes.
        const FLOOR: usize = 8 * 1024;
        const PER_OPERATION: usize = 16;
        let Some(automerge) = &self.automerge else {
            return 0;
        };
        let operations = usize::try_from(automerge.stats().num_ops).unwrap_or(usize::MAX);
        FLOOR
            .saturating_add(operations.saturating_mul(PER_OPERATION))
            .saturating_add(self.inflated_bytes)
    }

    /// Reads through a view, containing panics: a document that cannot be read says so.
    pub(crate) fn read<T>(
        &self,
        wanted: DocumentKind,
        reader: impl FnOnce(&mut View<'_>) -> T,
    ) -> Result<T, ReadError> {
        let automerge = self.automerge.as_ref().ok_or(ReadError::Poisoned)?;
        if wanted != self.kind {
            return Err(ReadError::WrongKind {
                wanted,
                found: self.kind,
            });
        }
        contain(|| reader(&mut View::new(automerge, self.kind))).map_err(|panicked| {
            ReadError::Panicked {
                message: panicked.0,
            }
        })
    }

    pub(crate) fn take(&mut self) -> Option<Automerge> {
        self.automerge.take()
    }

    pub(crate) fn put_back(&mut self, automerge: Automerge, inflated_bytes: usize) {
        self.automerge = Some(automerge);
        self.inflated_bytes += inflated_bytes;
    }
}

pub(crate) fn core_hash(hash: automerge::ChangeHash) -> ChangeHash {
    ChangeHash::from_bytes(hash.0)
}

fn from_automerge(hashes: Vec<automerge::ChangeHash>) -> Vec<ChangeHash> {
    let mut hashes: Vec<_> = hashes.into_iter().map(core_hash).collect();
    hashes.sort_unstable();
    hashes
}

#[cfg(test)]
mod tests;
