//! The one place where stored or received changes become an Automerge document.
//!
//! Everything that builds a document from bytes goes through [`materialise`], which counts itself,
//! so that tests can prove how often and why documents were loaded. The bytes must have passed the
//! guard before; what only loading can show (a panic inside automerge among it) is contained here.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use automerge::{ActorId, Automerge, AutomergeError, Change, LoadOptions, TextEncoding};
use reconvene_core::ids::DocumentKind;

use crate::document::Document;
use crate::genesis::{self, Genesis};

mod aside;

/// Why a document is materialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Placing or re-encoding changes for a peer.
    Sync,
    /// Refreshing the row of a changed document.
    Index,
    /// Editing.
    Edit,
    /// Showing it to someone.
    Read,
    /// Exporting a workspace.
    Export,
    /// Making a snapshot.
    Compact,
}

impl Purpose {
    const ALL: [Self; 6] = [
        Self::Sync,
        Self::Index,
        Self::Edit,
        Self::Read,
        Self::Export,
        Self::Compact,
    ];

    /// The purpose's name in counters and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Index => "index",
            Self::Edit => "edit",
            Self::Read => "read",
            Self::Export => "export",
            Self::Compact => "compact",
        }
    }
}

/// How many documents were materialised, by purpose.
#[derive(Debug, Default)]
pub struct MaterialiseCounter([AtomicU64; Purpose::ALL.len()]);

impl MaterialiseCounter {
    /// A counter at zero.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Purpose::ALL.len()])
    }

    /// The counts so far; every purpose has an entry.
    pub fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        Purpose::ALL
            .iter()
            .map(|&purpose| (purpose.as_str(), self.count(purpose)))
            .collect()
    }

    /// How many documents were materialised for one purpose.
    pub fn count(&self, purpose: Purpose) -> u64 {
        self.0[purpose as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, purpose: Purpose) {
        self.0[purpose as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a document could not be built from its changes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaterialiseError {
    /// This build has no genesis for the kind.
    #[error("documents of kind {} are not known to this version", .0.0)]
    UnknownKind(DocumentKind),
    /// One of the chunks is not a change; `index` counts from 0 in the order given.
    #[error("chunk {index} is not a change")]
    Chunk {
        /// The chunk's place among those given.
        index: usize,
        /// What automerge says is wrong with it.
        source: automerge::LoadChangeError,
    },
    /// A chunk is no snapshot of such a document.
    #[error("a snapshot cannot be loaded: {what}")]
    Snapshot {
        /// What automerge says is wrong with it, or that another document it is of.
        what: String,
    },
    /// Automerge refuses the changes, for instance two changes of one actor at one sequence number.
    #[error("the changes do not make a document")]
    Refused(#[source] AutomergeError),
    /// Automerge panicked on the changes.
    #[error("building the document panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

/// Builds a document from its genesis and the given chunks, snapshots and changes in any order, each
/// in the form in which it is stored.
///
/// Changes whose dependencies are not among them stay out of the view and are reported by
/// [`Document::missing`], those that do not fit the document, with what depends on them, by
/// [`Document::set_aside`]. The materialisation is counted before it is tried.
pub fn materialise<'a>(
    kind: DocumentKind,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    purpose: Purpose,
    counter: &MaterialiseCounter,
) -> Result<Document, MaterialiseError> {
    counter.add(purpose);
    let (snapshots, changes): (Vec<_>, Vec<_>) =
        chunks.into_iter().partition(|chunk| is_snapshot(chunk));
    let (mut automerge, inflated_bytes) = snapshotted(kind, &snapshots)?;
    match ingest(&mut automerge, changes.iter().copied()) {
        Ok(bytes) => Ok(Document::new(kind, automerge, inflated_bytes + bytes)),
        Err(MaterialiseError::Refused(_) | MaterialiseError::Panicked { .. }) => {
            let (base, _) = snapshotted(kind, &snapshots)?;
            let salvaged = aside::salvage(base, &changes)?;
            let inflated_bytes = inflated_bytes + salvaged.inflated_bytes;
            let document = Document::new(kind, salvaged.automerge, inflated_bytes);
            Ok(document.without(salvaged.aside))
        }
        Err(error) => Err(error),
    }
}

/// A document as its snapshots have it, and about how large it is.
fn snapshotted(
    kind: DocumentKind,
    snapshots: &[&[u8]],
) -> Result<(Automerge, usize), MaterialiseError> {
    let mut automerge = seed(kind).ok_or(MaterialiseError::UnknownKind(kind))?;
    let mut inflated_bytes = 0;
    for (place, snapshot) in snapshots.iter().enumerate() {
        let loaded = load_snapshot(kind, snapshot)?;
        inflated_bytes += snapshot.len() * SNAPSHOT_INFLATION;
        if place == 0 {
            automerge = loaded;
        } else {
            add_all(&mut automerge, &loaded)?;
        }
    }
    Ok((automerge, inflated_bytes))
}

/// About how much larger the content of a snapshot is than the snapshot; for a cache's budget.
const SNAPSHOT_INFLATION: usize = 4;

/// Whether a chunk is a whole document and not a change: the byte after magic and checksum.
pub(crate) fn is_snapshot(chunk: &[u8]) -> bool {
    const DOCUMENT_CHUNK: u8 = 0;
    chunk.get(8) == Some(&DOCUMENT_CHUNK)
}

/// Loads a snapshot by itself. Automerge compares the heads it states with those of the changes it
/// holds; that it is of such a document shows its genesis.
#[expect(
    clippy::disallowed_methods,
    reason = "snapshots are loaded here and by callers that count; the guard has bounded them"
)]
pub(crate) fn load_snapshot(
    kind: DocumentKind,
    snapshot: &[u8],
) -> Result<Automerge, MaterialiseError> {
    let what = |what: String| MaterialiseError::Snapshot { what };
    let root = genesis::roots().iter().find(|root| root.kind == kind);
    let root = root.ok_or(MaterialiseError::UnknownKind(kind))?;
    reconvene_core::guard::check_snapshot(snapshot).map_err(|error| what(error.to_string()))?;
    let options = LoadOptions::new().text_encoding(TextEncoding::Utf16CodeUnit);
    let loaded = contain(move || Automerge::load_with_options(snapshot, options));
    let loaded = loaded.map_err(|Panicked(message)| MaterialiseError::Panicked { message })?;
    // automerge draws a random actor here, as in `plant`.
    let mut automerge = loaded.map_err(|error| what(error.to_string()))?;
    automerge.set_actor(ActorId::from([0; 16]));
    let genesis = automerge::ChangeHash(*root.hash.as_bytes());
    if automerge.get_change_meta_by_hash(&genesis).is_none() {
        return Err(what("it is of another kind of document".to_owned()));
    }
    Ok(automerge)
}

/// Adds what another version of the same document holds.
#[expect(
    clippy::disallowed_methods,
    reason = "as in `ingest`; the changes come out of a document that was loaded"
)]
fn add_all(automerge: &mut Automerge, other: &Automerge) -> Result<(), MaterialiseError> {
    contain(|| automerge.apply_changes(other.get_changes(&[])))
        .map_err(|Panicked(message)| MaterialiseError::Panicked { message })?
        .map_err(MaterialiseError::Refused)
}

/// A document that holds its genesis and nothing else; `None` for an unknown kind.
pub(crate) fn seed(kind: DocumentKind) -> Option<Automerge> {
    // Parsing a genesis costs more than copying the few columns it makes, and it is in every
    // document.
    static SEEDS: OnceLock<Vec<(DocumentKind, Automerge)>> = OnceLock::new();
    SEEDS
        .get_or_init(|| {
            genesis::roots()
                .iter()
                .map(|genesis| (genesis.kind, plant(genesis)))
                .collect()
        })
        .iter()
        .find(|(known, _)| *known == kind)
        .map(|(_, automerge)| automerge.clone())
}

/// Adds changes to a document, all in one batch, and says how many bytes they have when inflated.
///
/// After an error other than [`MaterialiseError::Chunk`] the document may be half changed and must be
/// dropped.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that gives automerge bytes; materialise counts, the guard has bounded them"
)]
pub(crate) fn ingest<'a>(
    automerge: &mut Automerge,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Result<usize, MaterialiseError> {
    contain(move || {
        let mut inflated_bytes = 0;
        let mut changes = Vec::new();
        for (index, chunk) in chunks.into_iter().enumerate() {
            let change = Change::from_bytes(chunk.to_vec())
                .map_err(|source| MaterialiseError::Chunk { index, source })?;
            inflated_bytes += change.raw_bytes().len();
            changes.push(change);
        }
        automerge
            .apply_changes(changes)
            .map_err(MaterialiseError::Refused)?;
        Ok(inflated_bytes)
    })
    .unwrap_or_else(|Panicked(message)| Err(MaterialiseError::Panicked { message }))
}

/// The message of a panic that was caught.
#[derive(Debug)]
pub(crate) struct Panicked(pub(crate) String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs what may panic inside automerge. Whatever it could have left half changed must be owned by
/// the closure or dropped by the caller when this returns an error.
pub(crate) fn contain<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Panicked(message.unwrap_or_else(|| "no message".to_owned()))
    })
}

fn plant(genesis: &Genesis) -> Automerge {
    // automerge draws a random actor here; it is replaced before it can matter, by one that is never
    // written under because every edit sets its own.
    let mut automerge = Automerge::new_with_encoding(TextEncoding::Utf16CodeUnit);
    automerge.set_actor(ActorId::from([0; 16]));
    ingest(&mut automerge, [genesis.bytes])
        .expect("a genesis is a constant that a test loads and regenerates");
    automerge
}

#[cfg(test)]
mod tests;
