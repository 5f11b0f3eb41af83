//! Changes that passed the guard and do not fit their document: they name what is not there, which
//! shows only when they are loaded. Whoever sent them has one document less to write to, and nobody
//! else does: they, and what depends on them, stay out of the view, on every replica the same ones.

use std::collections::BTreeSet;

use automerge::Automerge;
use reconvene_core::guard::{ChangeHeader, parse_change};
use reconvene_core::ids::ChangeHash;

use super::{MaterialiseError, ingest};

/// What is left of changes that do not go into a document together.
pub(super) struct Salvaged {
    pub(super) automerge: Automerge,
    pub(super) inflated_bytes: usize,
    /// What was left out, in order.
    pub(super) aside: Vec<ChangeHash>,
}

/// Adds those changes that fit, in the one order that follows from what they are: so the same ones
/// are left out wherever the same are stored. Halves what fails until it is a single change.
///
/// # Errors
/// Only if one is no change at all.
pub(super) fn salvage(base: Automerge, changes: &[&[u8]]) -> Result<Salvaged, MaterialiseError> {
    let mut ordered: Vec<(ChangeHeader, &[u8])> = Vec::with_capacity(changes.len());
    for change in changes {
        // What the guard does not take was never stored.
        if let Ok(header) = parse_change(change) {
            ordered.push((header, change));
        }
    }
    // A change starts after all operations it depends on: this order puts it after them.
    ordered.sort_by_key(|(header, _)| (header.start_op, header.hash));
    let mut salvaged = Salvaged {
        automerge: base,
        inflated_bytes: 0,
        aside: Vec::new(),
    };
    let mut aside = BTreeSet::new();
    let mut waiting = vec![&ordered[..]];
    while let Some(part) = waiting.pop() {
        let mut fitting = Vec::with_capacity(part.len());
        for (header, body) in part {
            let follows = |hash: &ChangeHash| aside.contains(hash);
            if header.dependencies.iter().any(follows) {
                aside.insert(header.hash);
            } else if !aside.contains(&header.hash) {
                fitting.push(*body);
            }
        }
        let mut attempt = salvaged.automerge.clone();
        match ingest(&mut attempt, fitting) {
            Ok(bytes) => {
                salvaged.automerge = attempt;
                salvaged.inflated_bytes += bytes;
            }
            Err(error @ MaterialiseError::Chunk { .. }) => return Err(error),
            Err(_) if part.len() == 1 => aside.extend(part.iter().map(|(header, _)| header.hash)),
            Err(_) => {
                let (first, rest) = part.split_at(part.len() / 2);
                waiting.push(rest);
                waiting.push(first);
            }
        }
    }
    salvaged.aside.extend(aside);
    Ok(salvaged)
}
