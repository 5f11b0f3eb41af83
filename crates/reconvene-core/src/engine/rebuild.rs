//! The head row of a document whose own was lost, or no longer agrees with what is stored of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::guard::ChangeHeader;
use crate::ids::{ChangeHash, DocumentKind};
use crate::records::{HeadRow, SnapshotRef};

/// What is left of a document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remains {
    /// Its snapshots, with the changes in them.
    pub snapshots: Vec<(SnapshotRef, Vec<ChangeHeader>)>,
    /// The changes that are stored singly.
    pub changes: Vec<ChangeHeader>,
}

impl Remains {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.changes.is_empty()
    }
}

/// The head row that agrees with what is left of a document: what other changes depend on and is not
/// there is missing, and so is asked for. `roots` are the changes that every document of the kind
/// begins with. The feed entry is the caller's to set.
pub fn rebuilt_row(kind: DocumentKind, remains: &Remains, roots: &[ChangeHash]) -> HeadRow {
    let mut row = HeadRow::empty(kind);
    let in_snapshots = remains.snapshots.iter().flat_map(|(_, changes)| changes);
    let mut held = BTreeSet::new();
    let mut named = BTreeSet::new();
    let mut max_ops = BTreeMap::new();
    for header in in_snapshots.chain(&remains.changes) {
        if held.insert(header.hash) {
            named.extend(&header.dependencies);
            let progress = row.actors.entry(header.actor.clone()).or_default();
            progress.add(header.seq);
            let own = row.actor_max_ops.entry(header.actor.clone()).or_default();
            *own = header.max_op().max(*own);
            row.operations += header.operations;
            max_ops.insert(header.hash, header.max_op());
        }
    }
    row.heads = held.difference(&named).copied().collect();
    max_ops.retain(|hash, _| row.heads.contains(hash));
    row.head_max_ops = max_ops;
    row.missing = named
        .difference(&held)
        .filter(|hash| !roots.contains(*hash))
        .copied()
        .collect();
    row.change_count = remains.changes.len() as u64;
    let bytes = remains
        .changes
        .iter()
        .map(|header| header.body_bytes as u64);
    row.change_bytes = bytes.sum();
    row.snapshots = remains.snapshots.iter().map(|(named, _)| *named).collect();
    row
}
