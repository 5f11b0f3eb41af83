//! Snapshots: a whole version of a document as one Automerge document chunk, made with proof and
//! taken apart again.
//!
//! Automerge accepts changes whose document it cannot save again; so nothing here is believed that
//! was not loaded back and compared. Everything is contained: what panics inside automerge is an
//! error of the document it happened in.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Automerge, Change};
use reconvene_core::engine::progress_of;
use reconvene_core::guard::{ActorId, ChangeHeader, GuardError, parse_change};
use reconvene_core::ids::{ChangeHash, DocumentId, DocumentKind};
use reconvene_core::limits::SNAPSHOT_BYTES_MAX;
use reconvene_core::records::ActorProgress;
use reconvene_core::refusal::RefusalCode;
use reconvene_core::wire::KnownActor;

use crate::document::{Document, core_hash};
use crate::export::export_document;
use crate::genesis;
use crate::materialise::{
    MaterialiseCounter, MaterialiseError, Panicked, Purpose, contain, is_snapshot, load_snapshot,
    materialise,
};

/// A snapshot that was loaded back and found equal.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The document chunk.
    pub bytes: Vec<u8>,
    /// Number of changes in it, without the genesis.
    pub changes: u64,
    /// Which they are, by actor.
    pub actors: BTreeMap<ActorId, ActorProgress>,
}

/// Why a document has no snapshot, or a snapshot no document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The document could not be built.
    #[error("the document cannot be built")]
    Materialise(#[from] MaterialiseError),
    /// Changes that others depend on are not here; a snapshot would lose those others.
    #[error("the document lacks {missing} changes that others depend on")]
    Incomplete {
        /// How many.
        missing: usize,
    },
    /// Changes do not fit the document; a snapshot would lose them.
    #[error("{changes} changes of the document do not fit it and are set aside")]
    SetAside {
        /// How many.
        changes: usize,
    },
    /// Automerge cannot load again what it saves of this document.
    #[error("automerge cannot load again what it saves: {what}")]
    Unsavable {
        /// What automerge said, or what differed.
        what: String,
    },
    /// The snapshot is over `limits::SNAPSHOT_BYTES_MAX`.
    #[error("the snapshot has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It holds a change that the guard does not let pass.
    #[error("the snapshot holds a change that is not acceptable")]
    Guard(#[from] GuardError),
}

impl SnapshotError {
    /// The code to refuse a peer's snapshot with.
    pub fn refusal(&self) -> RefusalCode {
        match self {
            Self::TooLarge { .. } => RefusalCode::TooLarge,
            Self::Guard(error) if error.is_too_large() => RefusalCode::TooLarge,
            _ => RefusalCode::Damaged,
        }
    }
}

impl From<Panicked> for SnapshotError {
    fn from(panicked: Panicked) -> Self {
        Self::Materialise(MaterialiseError::Panicked {
            message: panicked.0,
        })
    }
}

/// Makes a snapshot of everything these chunks hold and proves it: saves, loads what was saved, and
/// compares heads and all hashes; `must_hold` are changes that have to be in it.
///
/// # Errors
/// If the document cannot be built or is incomplete, or the proof fails, or the result is too large:
/// then the chunks have to stay as they are.
pub fn snapshot<'a>(
    kind: DocumentKind,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    must_hold: impl IntoIterator<Item = &'a ChangeHash>,
    counter: &MaterialiseCounter,
) -> Result<Snapshot, SnapshotError> {
    let mut document = materialise(kind, chunks, Purpose::Compact, counter)?;
    let missing = document.missing().len();
    if missing > 0 {
        return Err(SnapshotError::Incomplete { missing });
    }
    let changes = document.set_aside().len();
    if changes > 0 {
        return Err(SnapshotError::SetAside { changes });
    }
    let Some(automerge) = document.take() else {
        panic!("a document that was just built is whole");
    };
    let unsavable = |what: String| SnapshotError::Unsavable { what };
    let saved = contain(|| automerge.save_and_verify());
    let bytes = match saved {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(unsavable(error.to_string())),
        Err(panicked) => return Err(unsavable(panicked.0)),
    };
    if bytes.len() > SNAPSHOT_BYTES_MAX {
        return Err(SnapshotError::TooLarge {
            bytes: bytes.len(),
            max: SNAPSHOT_BYTES_MAX,
        });
    }
    let again = load_snapshot(kind, &bytes).map_err(|error| unsavable(error.to_string()))?;
    let before = contain(|| (automerge.get_heads(), hashes(&automerge)))?;
    let after = contain(|| (again.get_heads(), hashes(&again)))
        .map_err(|panicked| unsavable(panicked.0))?;
    if before != after {
        return Err(unsavable("what was loaded again differs".to_owned()));
    }
    let lost = must_hold.into_iter().find(|hash| !after.1.contains(*hash));
    if let Some(hash) = lost {
        return Err(unsavable(format!("change {hash} is not in it")));
    }
    // As a peer would take it: every change of it has to pass the guard again.
    let headers = headers(kind, &again)?;
    // The same changes may still show something else, if some of them name what they must not.
    let [before, after] = [automerge, again].map(|automerge| {
        let document = Document::new(kind, automerge, 0);
        export_document(DocumentId::from_bytes([0; 16]), &document)
    });
    match (before, after) {
        (Ok(before), Ok(after)) if before == after => {}
        _ => {
            return Err(unsavable(
                "what was loaded again shows something else".to_owned(),
            ));
        }
    }
    let changes = headers.len() as u64;
    let mut actors: BTreeMap<ActorId, ActorProgress> = BTreeMap::new();
    for header in headers {
        actors.entry(header.actor).or_default().add(header.seq);
    }
    Ok(Snapshot {
        bytes,
        changes,
        actors,
    })
}

/// The changes of a received snapshot without the genesis, each after its dependencies. Every one is
/// encoded again and passes the guard, and so is proven by its hash.
///
/// # Errors
/// If it is no snapshot of such a document, or holds what no peer may send.
pub fn inspect(
    kind: DocumentKind,
    snapshot: &[u8],
    counter: &MaterialiseCounter,
) -> Result<Vec<ChangeHeader>, SnapshotError> {
    counter.add(Purpose::Sync);
    if snapshot.len() > SNAPSHOT_BYTES_MAX {
        return Err(SnapshotError::TooLarge {
            bytes: snapshot.len(),
            max: SNAPSHOT_BYTES_MAX,
        });
    }
    let automerge = load_snapshot(kind, snapshot)?;
    headers(kind, &automerge)
}

/// Whether these changes are in a stored document. Its snapshots are loaded by themselves, so that a
/// change that spoils the document does not hide what they hold.
///
/// # Errors
/// If a snapshot cannot be loaded.
pub fn holds<'a>(
    kind: DocumentKind,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    wanted: &[ChangeHash],
    counter: &MaterialiseCounter,
) -> Result<Vec<bool>, SnapshotError> {
    counter.add(Purpose::Sync);
    let mut held = BTreeSet::new();
    for chunk in chunks {
        if is_snapshot(chunk) {
            let automerge = load_snapshot(kind, chunk)?;
            held.append(&mut contain(|| hashes(&automerge))?);
        } else if let Ok(header) = parse_change(chunk) {
            held.insert(header.hash);
        }
    }
    Ok(wanted.iter().map(|hash| held.contains(hash)).collect())
}

/// The changes of a stored document that someone lacks who holds `known` of it, without the genesis,
/// each after its dependencies, in the form in which changes are stored. As with [`holds`], snapshots
/// are loaded by themselves.
///
/// # Errors
/// If a snapshot cannot be loaded.
pub fn beyond<'a>(
    kind: DocumentKind,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    known: &[KnownActor],
    counter: &MaterialiseCounter,
) -> Result<Vec<Vec<u8>>, SnapshotError> {
    counter.add(Purpose::Sync);
    let known: BTreeMap<ActorId, _> = progress_of(known.to_vec());
    let lacks = |header: &ChangeHeader| {
        let progress = known.get(&header.actor);
        !progress.is_some_and(|progress| progress.holds(header.seq))
    };
    let root = genesis_hash(kind);
    // A change starts after all operations it depends on: in this order it comes after them.
    let mut missing = BTreeMap::new();
    let mut add = |body: &[u8]| -> Result<(), SnapshotError> {
        let header = parse_change(body)?;
        if lacks(&header) {
            missing.insert((header.start_op, header.hash), body.to_vec());
        }
        Ok(())
    };
    for chunk in chunks {
        if !is_snapshot(chunk) {
            add(chunk)?;
            continue;
        }
        let automerge = load_snapshot(kind, chunk)?;
        for mut change in contain(|| automerge.get_changes(&[]))? {
            if Some(core_hash(change.hash())) != root {
                add(&change.bytes())?;
            }
        }
    }
    Ok(missing.into_values().collect())
}

fn headers(kind: DocumentKind, automerge: &Automerge) -> Result<Vec<ChangeHeader>, SnapshotError> {
    let root = genesis_hash(kind);
    let changes: Vec<Change> = contain(|| automerge.get_changes(&[]))?;
    let mut headers = Vec::with_capacity(changes.len());
    for mut change in changes {
        if Some(core_hash(change.hash())) != root {
            headers.push(parse_change(&change.bytes())?);
        }
    }
    Ok(headers)
}

fn hashes(automerge: &Automerge) -> BTreeSet<ChangeHash> {
    let changes = automerge.get_changes_meta(&[]);
    changes
        .iter()
        .map(|change| core_hash(change.hash))
        .collect()
}

fn genesis_hash(kind: DocumentKind) -> Option<ChangeHash> {
    let mut roots = genesis::roots().iter();
    roots.find(|root| root.kind == kind).map(|root| root.hash)
}

#[cfg(test)]
mod tests;
