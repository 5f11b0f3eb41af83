//! Who is said to have sent what no peer sends that keeps the protocol: only who lies, and its link is
//! closed.

use reconvene_core::ids::{LinkId, PeerId};

use crate::world::{NodeId, World};

impl World {
    /// Whoever is blamed has to be a liar: what an honest peer passes on closes no link, whoever wrote it
    /// and whatever is wrong with it. A link that is said to be closed is.
    pub(crate) fn check_offended(&self, node: NodeId, link: LinkId, peer: &PeerId, closes: bool) {
        if let Some(from) = self.node_of(peer).filter(|from| !self.lies(*from)) {
            self.fail(format_args!(
                "node {node} blames node {from}, which keeps the protocol"
            ));
        }
        let links = self.engine(node).into_iter().flat_map(|of| of.links());
        if closes && links.map(|(id, ..)| id).any(|id| id == link) {
            self.fail(format_args!("node {node} keeps the link of an offender"));
        }
    }
}
