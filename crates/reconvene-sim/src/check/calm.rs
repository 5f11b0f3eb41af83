//! What must hold whenever nothing is on its way between nodes or to a disk, in the midst of a history:
//! what is missing then is not being waited for. And what nobody may be accused of at any time.

use std::collections::BTreeSet;

use reconvene_core::engine::{CloseReason, Engine, Event};
use reconvene_core::ids::{DocumentId, LinkId, PeerId, WorkspaceId};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::wire::Role;

use crate::host::read_changes;
use crate::wires::Side;
use crate::world::{NodeId, World};

impl World {
    /// Looks whether it is calm, and what must hold then.
    pub(crate) fn check_calm(&self) {
        if self.has_due() {
            return;
        }
        self.check_fresh_as_told();
        if !self.is_quiet() {
            return;
        }
        for wire in self.wires.values().filter(|wire| wire.is_up()) {
            let nodes = [wire.ends[0].node, wire.ends[1].node];
            let [one, other] = nodes;
            let may_hear = self.may_reach(one, other) && self.speaks.is_empty();
            if !may_hear || !nodes.iter().all(|node| self.is_well(*node)) {
                continue;
            }
            for side in [0, 1] {
                let end = &wire.ends[side];
                let is_greeted = self.engine(end.node).is_some_and(|engine| {
                    let mut links = engine.links();
                    links.any(|(link, ..)| link == end.link)
                });
                if !is_greeted {
                    self.fail(format_args!(
                        "the link of node {} with node {} is up, quiet and not greeted",
                        end.node,
                        nodes[1 - side]
                    ));
                }
                self.check_asked(nodes, side);
            }
        }
    }

    /// Whether nothing keeps a node from taking what comes, and nobody may be misled by it.
    fn is_well(&self, node: NodeId) -> bool {
        let disk = self.disk(node);
        let is_idle = self.engine(node).is_some_and(Engine::is_idle);
        is_idle && !disk.low_space && !disk.refuses_writes && !self.lies(node)
    }

    /// Nothing that one node refused of another for want of what it depends on stays refused once that
    /// is here.
    fn check_asked(&self, nodes: [NodeId; 2], side: Side) {
        let (node, from) = (nodes[side], nodes[1 - side]);
        let peer = self.peer(from);
        let Some(engine) = self.engine(node) else {
            return;
        };
        for (workspace, mut peers) in engine.peers(None) {
            let Some((_, row)) = peers.find(|(of, _)| *of == peer) else {
                continue;
            };
            let lacking = row.refused_here.iter();
            let lacking = lacking.filter(|(_, code)| **code == RefusalCode::MissingDependencies);
            for (document, _) in lacking {
                if self.could_take(node, from, (workspace, *document)) {
                    self.fail(format_args!(
                        "node {node} refuses {document} of node {from} for want of what is there, \
                         and does not ask for it"
                    ));
                }
            }
        }
    }

    /// Whether a node holds all that another's changes of a document depend on, but for these.
    fn could_take(&self, node: NodeId, from: NodeId, place: (WorkspaceId, DocumentId)) -> bool {
        if self.knowledge.purged.contains(&place) {
            return false;
        }
        let theirs = read_changes(&self.disk(from).reader, place);
        let ours = read_changes(&self.disk(node).reader, place);
        let roots = self.roots();
        let all = ours.iter().chain(&theirs).map(|header| header.hash);
        let all: BTreeSet<_> = all.collect();
        let mut needed = theirs.iter().flat_map(|header| &header.dependencies);
        needed.all(|hash| all.contains(hash) || roots.contains_key(hash))
    }

    /// What a host was told to be fresh was verified within the bound, by those whose word counts.
    fn check_fresh_as_told(&self) {
        let now = self.now;
        let bound = self.staleness_bound.as_millis();
        for node in (0..self.count()).filter(|node| self.is_awake(*node)) {
            let Some(engine) = self.engine(node) else {
                continue;
            };
            for workspace in &self.nodes[node].host.told.fresh {
                let verified = engine.verified().filter(|(of, peer, _)| {
                    let is_server = |from: NodeId| self.nodes[from].role == Role::Server;
                    let counts = self.nodes[node].role == Role::Server
                        || self.node_of(peer).is_some_and(is_server);
                    of == workspace && counts
                });
                let last = verified.map(|(.., verified)| verified.as_of.tick.as_millis());
                let Some(last) = last.max() else {
                    continue; // What the engine knew it has given up with its store.
                };
                if u128::from(now - last.min(now)) > bound + 1 {
                    self.fail(format_args!(
                        "node {node} calls fresh what was verified at {last} ms last"
                    ));
                }
            }
        }
    }

    /// A node closes a link: it blames nobody who did not lie, and nothing that did not rot.
    pub(crate) fn check_close(&self, node: NodeId, link: LinkId, why: &CloseReason) {
        let Some((id, side)) = self.find_end(node, link) else {
            return;
        };
        let peer = self.wires[&id].ends[1 - side].node;
        match why {
            CloseReason::Fault(what) if !self.lies(peer) && !self.lies(node) => {
                self.fail(format_args!("node {node} blames node {peer}: {what}"));
            }
            CloseReason::Healing if !self.nodes[node].spoilt => {
                self.fail(format_args!(
                    "node {node} closes a link for damage, and nothing rotted there"
                ));
            }
            _ => {}
        }
    }

    /// The same of what a host is told.
    pub(crate) fn check_blame(&self, node: NodeId, event: &Event) {
        let lies = |peer: &PeerId| self.node_of(peer).is_none_or(|peer| self.lies(peer));
        match event {
            Event::DocumentDamaged { document, what, .. } if !self.nodes[node].spoilt => {
                self.fail(format_args!(
                    "node {node} calls {document} damaged, and nothing rotted there: {what}"
                ));
            }
            Event::FalseClaim { peer, .. } if !lies(peer) && !self.lies(node) => {
                self.fail(format_args!("node {node} says that {peer} claims too much"));
            }
            // What the journal gave back was told already, and may be told anew after a greeting.
            Event::RolledBack { peer, .. }
                if !lies(peer)
                    && !self.lies(node)
                    && !self.rewritten(node)
                    && !self.nodes[node].host.told.replays =>
            {
                self.fail(format_args!(
                    "node {node} takes itself for rolled back by the word of {peer}, and was not"
                ));
            }
            _ => {}
        }
    }
}
