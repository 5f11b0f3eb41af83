//! Where the operations of a change may begin to count: one past the last operation of what the
//! change depends on, as Automerge counts.
//!
//! A change that begins lower makes its document unloadable, since two operations then have one name;
//! one that begins higher uses up the document's counters. What is known of a dependency is kept for
//! heads and for what was stored just now. Where a change depends on something older, what is left
//! are bounds: after its actor's own last operation, and no further than the whole document goes.

use std::collections::BTreeMap;

use crate::engine::Root;
use crate::guard::ChangeHeader;
use crate::ids::ChangeHash;
use crate::records::HeadRow;

/// Whether the change begins where it must, as far as can be told.
///
/// `max_op` knows the last operation of some changes. `is_whole` says that everything the change
/// depends on is stored.
pub(super) fn begins_rightly(
    header: &ChangeHeader,
    row: &HeadRow,
    roots: &BTreeMap<ChangeHash, Root>,
    max_op: &dyn Fn(&ChangeHash) -> Option<u64>,
    is_whole: bool,
) -> bool {
    let mut least = 0;
    let mut is_exact = true;
    for dependency in &header.dependencies {
        match roots
            .get(dependency)
            .map_or_else(|| max_op(dependency), |root| Some(root.max_op))
        {
            Some(max_op) => least = least.max(max_op),
            None => is_exact = false,
        }
    }
    let progress = row.actors.get(&header.actor);
    let follows = progress.is_some_and(|progress| {
        progress.beyond.is_empty() && progress.last_seq.checked_add(1) == Some(header.seq)
    });
    let own = row.actor_max_ops.get(&header.actor).filter(|_| follows);
    // Whatever it depends on, its author had what they made before.
    if own.is_some_and(|own| header.start_op <= *own) {
        return false;
    }
    if is_exact {
        return header.start_op == least + 1;
    }
    least = least.max(own.copied().unwrap_or_default());
    let most = row.max_op().filter(|_| is_whole);
    header.start_op > least && most.is_none_or(|most| header.start_op <= most + 1)
}

/// Notes the operations of a change; the row's heads are already those with it.
pub(super) fn count(row: &mut HeadRow, header: &ChangeHeader) {
    for dependency in &header.dependencies {
        row.head_max_ops.remove(dependency);
    }
    if row.heads.contains(&header.hash) {
        row.head_max_ops.insert(header.hash, header.max_op());
    }
    let own = row.actor_max_ops.entry(header.actor.clone()).or_default();
    *own = header.max_op().max(*own);
    row.operations += header.operations;
}
