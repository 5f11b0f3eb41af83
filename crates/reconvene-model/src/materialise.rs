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

use automerge::{ActorId, Automerge, AutomergeError, Change, TextEncoding};
use reconvene_core::ids::DocumentKind;

use crate::document::Document;
use crate::genesis::{self, Genesis};

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
}

impl Purpose {
    const ALL: [Self; 5] = [
        Self::Sync,
        Self::Index,
        Self::Edit,
        Self::Read,
        Self::Export,
    ];

    /// The purpose's name in counters and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Index => "index",
            Self::Edit => "edit",
            Self::Read => "read",
            Self::Export => "export",
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

    fn add(&self, purpose: Purpose) {
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

/// Builds a document from its genesis and the given changes, in any order, each in the form in
/// which it is stored.
///
/// Changes whose dependencies are not among them stay out of the view and are reported by
/// [`Document::missing`]. The materialisation is counted before it is tried.
pub fn materialise<'a>(
    kind: DocumentKind,
    changes: impl IntoIterator<Item = &'a [u8]>,
    purpose: Purpose,
    counter: &MaterialiseCounter,
) -> Result<Document, MaterialiseError> {
    counter.add(purpose);
    let mut automerge = seed(kind).ok_or(MaterialiseError::UnknownKind(kind))?;
    let inflated_bytes = ingest(&mut automerge, changes)?;
    Ok(Document::new(kind, automerge, inflated_bytes))
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
