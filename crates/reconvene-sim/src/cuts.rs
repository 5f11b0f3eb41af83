//! Links that are lost at moments which chance seldom hits: while something that came over them is on
//! its way to the disk.

use bytes::Bytes;
use reconvene_core::keys::Key;
use reconvene_core::records::{PeerRow, Record as _};
use reconvene_core::storage::{Batch, StoreRead as _};

use crate::world::{Arrival, Happening, NodeId, World};

impl World {
    /// Cuts a node off from a peer as soon as something of that peer is on its way to its disk; it hears
    /// of the cut before that is stored. If `retaken`, only something that it had refused before counts.
    pub fn cut_while_taking(&mut self, node: NodeId, retaken: bool) {
        self.cuts_due.insert(node, retaken);
    }

    /// From whom a node is to be cut off now that this batch is on its way.
    pub(crate) fn due_to_be_cut(&mut self, node: NodeId, batch: &Batch) -> Option<NodeId> {
        let retaken = *self.cuts_due.get(&node)?;
        let refused = |row: &Bytes| {
            let row = PeerRow::decode(row).expect("a stored peer row decodes");
            row.refused_here
        };
        let is_due = |key: &Key, new: &Bytes| {
            let old = self.disk(node).reader.read(key);
            let old = old.expect("an open store reads");
            let new = refused(new);
            let is_retaken = |old| refused(&old).keys().any(|of| !new.contains_key(of));
            !retaken || old.is_some_and(is_retaken)
        };
        let of_peers = batch.puts.iter().filter_map(|(key, new)| {
            let other = key.peer_id()?;
            is_due(key, new).then(|| self.node_of(&other))?
        });
        let other = of_peers.into_iter().next()?;
        self.cuts_due.remove(&node);
        Some(other)
    }

    /// Cuts the wires between two nodes, the first of which notices before anything else happens.
    pub(crate) fn cut_at_once(&mut self, node: NodeId, other: NodeId) {
        self.observe(
            node,
            &format_args!("is cut from node {other} while it takes something"),
        );
        for id in self.wires_between(node, other) {
            let side = usize::from(self.wires[&id].ends[1].node == node);
            let why = "the connection was reset";
            self.cut(id, why);
            let down = Arrival::Down(why.to_owned());
            self.schedule(self.now, Happening::Arrive(id, side, down));
        }
    }
}
