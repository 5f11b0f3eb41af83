//! What a purge may take: nothing that whoever decided on it did not know.

use std::collections::BTreeSet;

use reconvene_core::ids::{ChangeHash, DocumentId, WorkspaceId};
use reconvene_core::time::WallTime;

use crate::host::read_changes;
use crate::world::{NodeId, World};

/// One document.
type Place = (WorkspaceId, DocumentId);

impl World {
    /// A node is about to store that a document is purged, which it was not there. The first that does
    /// so decided on it; from the others it takes nothing but what that one held.
    pub(crate) fn check_purge(&mut self, node: NodeId, place: Place, at: WallTime) {
        if self.liars || self.liar.is_some() {
            return; // Whoever lies may say that anything was known.
        }
        let (workspace, document) = place;
        let decision = (workspace, document, at.as_millis());
        let Some(known) = self.knowledge.decided.get(&decision) else {
            let known = self.disk(node).assigned(place);
            self.knowledge.decided.insert(decision, known);
            return;
        };
        let held = self.shown_or_acknowledged(node, place);
        if let Some(hash) = held.difference(known).next() {
            self.fail(format_args!(
                "the purge of {document} takes {hash:?} from node {node}, which nobody knew who \
                 decided on it"
            ));
        }
    }

    /// What a node's store shows of a document, and what only its journal has, the author having been
    /// told that it is safe.
    fn shown_or_acknowledged(&self, node: NodeId, place: Place) -> BTreeSet<ChangeHash> {
        let disk = self.disk(node);
        let shown = read_changes(&disk.reader, place).into_iter();
        let shown = shown.map(|header| header.hash);
        let journalled = disk.durable_of(place);
        let fact = |hash: &ChangeHash| (place.0, place.1, *hash);
        let safe = journalled.filter(|hash| self.knowledge.acknowledged.contains(&fact(hash)));
        let held = shown.chain(safe);
        held.filter(|hash| !disk.lost.contains(&fact(hash)))
            .collect()
    }

    /// Of purged documents, what was acknowledged and not known to whoever purged them is still
    /// somewhere.
    pub(crate) fn check_nothing_purged_unknown(
        &self,
        nodes: &[NodeId],
        workspace: WorkspaceId,
        purged: &BTreeSet<DocumentId>,
    ) {
        if self.liars || self.liar.is_some() {
            return;
        }
        for document in purged {
            let decisions = (workspace, *document, i64::MIN)..=(workspace, *document, i64::MAX);
            let known = self.knowledge.decided.range(decisions);
            let known: BTreeSet<_> = known.flat_map(|(_, known)| known).collect();
            let acknowledged = crate::disk::of_document((workspace, *document));
            let acknowledged = self.knowledge.acknowledged.range(acknowledged);
            for (_, _, hash) in acknowledged.filter(|fact| !known.contains(&fact.2)) {
                let fact = (workspace, *document, *hash);
                let mut disks = nodes.iter().map(|node| self.disk(*node));
                if !disks.any(|disk| disk.durable.contains(&fact) || disk.lost.contains(&fact)) {
                    self.fail(format_args!(
                        "acknowledged, purged though nobody knew it, and lost: {fact:?}"
                    ));
                }
            }
        }
    }
}
