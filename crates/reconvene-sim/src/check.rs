//! What must hold, checked against what the world knows: at every frame, at every claim of the
//! engine, and between nodes that came to rest.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use reconvene_core::engine::Event;
use reconvene_core::feed::{FeedPoint, heads_digest};
use reconvene_core::guard::parse_change;
use reconvene_core::ids::{ChangeHash, DocumentId, LinkId, PeerId, StoreEpoch, WorkspaceId};
use reconvene_core::keys::{Key, KeyKind, KeyRange};
use reconvene_core::limits::STALENESS_BOUND;
use reconvene_core::records::{
    ActorProgress, ChangeRow, FeedHeadRow, FeedRow, HeadRow, PeerRow, Record as _, RelayedRow,
};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Batch, Scan, StoreRead as _, StoreWrite as _};
use reconvene_core::wire::Frame;

use crate::disk::{Fact, all_rows};
use crate::documents::Meanings;
use crate::executor::Commands;
use crate::wires::{Greeted, Side, WireId};
use crate::world::{NodeId, World};

mod calm;
mod purges;
mod told;

pub(crate) use told::Told as ToldHost;

/// What the world remembers in order to judge.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    /// Changes of edits whose author was told that they are safe.
    pub(crate) acknowledged: BTreeSet<Fact>,
    /// What each node's engine knew to be durable, from when on it had the store it then had.
    told: BTreeMap<(NodeId, u64), Told>,
    /// Up to where a cursor was found to be true.
    held: BTreeMap<(NodeId, NodeId, WorkspaceId, StoreEpoch), u64>,
    verified: BTreeMap<(NodeId, NodeId, WorkspaceId), (u64, usize)>,
    /// Documents that a node refused to take from another, at any time in its present life: while
    /// they are being healed no claim includes them.
    refused: BTreeSet<(NodeId, NodeId, WorkspaceId, DocumentId)>,
    /// Documents that some host wanted purged: what they were made of may be gone anywhere.
    pub(crate) purged: BTreeSet<(WorkspaceId, DocumentId)>,
    /// What whoever decided on a purge held of the document then, by when that was by its own clock.
    decided: BTreeMap<(WorkspaceId, DocumentId, i64), BTreeSet<ChangeHash>>,
    /// What edits of real documents meant.
    pub(crate) meanings: Meanings,
    pub(crate) commands: Commands,
}

/// What one node's engine came to know to be durable.
#[derive(Debug, Default)]
struct Told {
    facts: Vec<Fact>,
    /// How many of them it knew at the end of a moment.
    count: BTreeMap<u64, usize>,
}

impl Told {
    /// How many it knew before a moment began.
    fn before(&self, at: u64) -> usize {
        let last = self.count.range(..at).next_back();
        last.map_or(0, |(_, count)| *count)
    }
}

impl Knowledge {
    /// A node's store is another, or opened anew: this is what it holds.
    pub(crate) fn note_store(&mut self, node: NodeId, now: u64, facts: Vec<Fact>) {
        let count = BTreeMap::from([(now, facts.len())]);
        self.told.insert((node, now), Told { facts, count });
    }

    pub(crate) fn note_told(&mut self, node: NodeId, now: u64, facts: Vec<Fact>) {
        let mut stores = self.told.range_mut((node, 0)..=(node, now));
        if let Some((_, told)) = stores.next_back().filter(|_| !facts.is_empty()) {
            told.facts.extend(facts);
            told.count.insert(now, told.facts.len());
        }
    }

    /// A node starts anew: what it was found to hold is looked at again.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.held
            .retain(|(holder, other, ..), _| *holder != node && *other != node);
        self.verified.retain(|(holder, ..), _| *holder != node);
        self.refused.retain(|(holder, ..)| *holder != node);
    }
}

/// A document as the change rows alone show it.
#[derive(Debug, PartialEq, Eq)]
struct Recomputed {
    heads: BTreeSet<ChangeHash>,
    missing: BTreeSet<ChangeHash>,
    actors: BTreeMap<Vec<u8>, ActorProgress>,
    count: u64,
    bytes: u64,
    head_max_ops: BTreeMap<ChangeHash, u64>,
    actor_max_ops: BTreeMap<Vec<u8>, u64>,
    operations: u64,
}

impl World {
    pub(crate) fn fail(&self, what: impl std::fmt::Display) -> ! {
        panic!("seed {}, at {} ms: {what}", self.seed, self.now)
    }

    /// An edit was reported durable: it must be.
    pub(crate) fn check_durable(&mut self, node: NodeId, facts: Vec<Fact>) {
        for fact in facts {
            if !self.disk(node).durable.contains(&fact) {
                self.fail(format_args!("node {node} acknowledged {fact:?} too early"));
            }
            self.knowledge.acknowledged.insert(fact);
        }
    }

    /// Notes what a node held when it greeted.
    pub(crate) fn check_statement(&mut self, node: NodeId, link: LinkId, frame: &Bytes) {
        let Some((id, side)) = self.find_end(node, link) else {
            return;
        };
        if self.wires[&id].ends[side].greeted.is_some() {
            return;
        }
        if let Ok(Frame::Hello(_)) = Frame::decode(frame) {
            let peer = self.wires[&id].ends[1 - side].node;
            let greeted = Greeted {
                held: self.disk(node).told.len(),
                workspaces: self.shared(node, peer),
            };
            if let Some(wire) = self.wires.get_mut(&id) {
                wire.ends[side].greeted = Some(greeted);
            }
        }
    }

    /// A frame leaves: everything in it must be behind its barrier, and every cursor in it true.
    pub(crate) fn check_frame(&mut self, id: WireId, side: Side, frame: &Bytes) {
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        let node = wire.ends[side].node;
        let peer = wire.ends[1 - side].node;
        let accepted = wire.ends[side].overheard.accept(frame);
        let frame = match accepted {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => self.fail(format_args!("node {node} sent a bad frame: {error}")),
        };
        match frame {
            Frame::Changes(changes) => {
                if let Some(wire) = self.wires.get_mut(&id) {
                    let end = &mut wire.ends[side];
                    end.unacknowledged
                        .push((changes.number, changes.body_bytes()));
                    let open = end.unacknowledged.iter().map(|(_, bytes)| bytes).sum();
                    end.traffic.unacknowledged_max = end.traffic.unacknowledged_max.max(open);
                }
                for document in &changes.documents {
                    for body in &document.changes {
                        let Ok(header) = parse_change(body) else {
                            self.fail(format_args!("node {node} sent a change that is none"));
                        };
                        let fact = (changes.workspace, document.document, header.hash);
                        if let Some(crossings) = self.crossings.as_mut().filter(|_| !changes.early)
                        {
                            *crossings.entry((id, side, fact)).or_default() += 1;
                        }
                        if !self.disk(node).durable.contains(&fact) {
                            self.fail(format_args!("node {node} sent {fact:?} before its barrier"));
                        }
                    }
                }
            }
            Frame::Ack(ack) => {
                if let Some(wire) = self.wires.get_mut(&id) {
                    let end = &mut wire.ends[1 - side];
                    end.unacknowledged
                        .retain(|(number, _)| *number > ack.number);
                }
                if let Some(through) = ack.through {
                    self.check_held(node, peer, ack.workspace, through);
                }
            }
            Frame::Hello(hello) => {
                for known in hello.workspaces {
                    if let Some(held) = known.held {
                        self.check_held(node, peer, known.workspace, held);
                    }
                }
            }
            _ => {}
        }
    }

    /// A node claims to hold another's feed up to a point: it must hold, durably, every change of
    /// every entry, other than of documents it refused.
    fn check_held(&mut self, node: NodeId, peer: NodeId, workspace: WorkspaceId, point: FeedPoint) {
        if self.lies(peer) || self.lies(node) {
            return;
        }
        let key = (node, peer, workspace, point.epoch);
        let checked = self.knowledge.held.get(&key).copied().unwrap_or(0);
        if checked >= point.seq.0 {
            return;
        }
        let reader = self.disk(peer).reader.clone();
        let head = reader
            .read(&Key::feed_head(&workspace))
            .expect("an open store reads");
        let Some(head) = head else {
            return;
        };
        let head = FeedHeadRow::decode(&head).expect("a stored feed head decodes");
        if head.point.epoch != point.epoch {
            return; // A cursor into a history that is over says nothing.
        }
        let feed = read_feed(&reader, &workspace, checked);
        let feed: Vec<_> = feed
            .into_iter()
            .filter(|(seq, _)| *seq <= point.seq.0)
            .collect();
        if feed
            .last()
            .is_none_or(|(seq, row)| *seq != point.seq.0 || row.digest != point.digest)
        {
            return; // The peer was rolled back; it will find out from this very claim.
        }
        let refused = self.refused_by(node, peer, &workspace);
        for (seq, row) in feed {
            if self.knowledge.purged.contains(&(workspace, row.document)) {
                continue;
            }
            for (hash, _) in &row.changes {
                let fact = (workspace, row.document, *hash);
                if !self.disk(node).durable.contains(&fact) && !refused.contains(&row.document) {
                    self.fail(format_args!(
                        "node {node} claims to hold node {peer}'s feed up to {} but lacks {fact:?} \
                         of entry {seq}",
                        point.seq
                    ));
                }
            }
        }
        self.knowledge.held.insert(key, point.seq.0);
    }

    fn refused_by(
        &self,
        node: NodeId,
        peer: NodeId,
        workspace: &WorkspaceId,
    ) -> BTreeSet<DocumentId> {
        let status = self
            .engine(node)
            .and_then(|engine| engine.workspace_status(workspace));
        let peer = self.peer(peer);
        let row = status.and_then(|status| status.peers.get(&peer).cloned());
        let mut refused: BTreeSet<_> = row
            .map(|row| row.refused_here.into_keys().collect())
            .unwrap_or_default();
        let from = self.node_of(&peer).unwrap_or(usize::MAX);
        let earlier = self
            .knowledge
            .refused
            .iter()
            .filter(|(at, of, within, _)| (*at, *of) == (node, from) && within == workspace);
        refused.extend(earlier.map(|(.., document)| *document));
        refused
    }

    /// Notes what a node refused.
    pub(crate) fn note_refused(
        &mut self,
        node: NodeId,
        peer: &PeerId,
        workspace: WorkspaceId,
        documents: &[(DocumentId, RefusalCode)],
    ) {
        let Some(from) = self.node_of(peer) else {
            return;
        };
        for (document, _) in documents {
            let place = (node, from, workspace, *document);
            self.knowledge.refused.insert(place);
        }
    }

    /// `Verified` must mean that nothing is missing that the peer knew to be durable as of then, by the
    /// world's clock.
    pub(crate) fn check_verified(&mut self, node: NodeId, peer: PeerId, workspace: WorkspaceId) {
        let from = self.node_of(&peer).filter(|from| !self.lies(*from));
        let Some(from) = from.filter(|_| !self.lies(node)) else {
            return;
        };
        let verified = self.engine(node).and_then(|engine| {
            let mut verified = engine.verified();
            verified.find(|(of, with, _)| (*of, *with) == (workspace, peer))
        });
        let Some((_, _, verified)) = verified else {
            return; // It was withdrawn in the same moment.
        };
        let as_of = verified.as_of.tick.as_millis();
        let mut stores = self.knowledge.told.range((from, 0)..(from, as_of));
        let Some(((_, since), told)) = stores.next_back() else {
            return;
        };
        let key = (node, from, workspace);
        let checked = self.knowledge.verified.get(&key);
        let checked = checked.filter(|(of, _)| of == since);
        let checked = checked.map_or(0, |(_, checked)| *checked);
        let (since, held) = (*since, told.before(as_of));
        if checked >= held {
            return;
        }
        let lacking = self.lacking(node, from, &told.facts[checked..held], &[workspace]);
        if let Some(fact) = lacking {
            self.fail(format_args!(
                "node {node} says it is verified with node {from} as of {as_of} ms but lacks {fact:?}"
            ));
        }
        self.knowledge.verified.insert(key, (since, held));
    }

    /// What a server says that another device holds of a node's feed must be durable there.
    pub(crate) fn check_relayed(
        &self,
        node: NodeId,
        peer: PeerId,
        workspace: WorkspaceId,
        row: &RelayedRow,
    ) {
        let holder = self.node_of(&peer).filter(|holder| !self.lies(*holder));
        let Some(holder) = holder.filter(|holder| !self.rewritten(*holder)) else {
            return;
        };
        let Some(held) = row.held.filter(|_| row.refused_unlisted == 0) else {
            return;
        };
        let durable = &self.disk(holder).durable;
        for (seq, entry) in read_feed(&self.disk(node).reader, &workspace, 0) {
            let purged = self.knowledge.purged.contains(&(workspace, entry.document));
            if seq > held.seq.0 || purged || row.refused.contains_key(&entry.document) {
                continue;
            }
            let facts = entry.changes.iter();
            let mut facts = facts.map(|(hash, _)| (workspace, entry.document, *hash));
            if let Some(fact) = facts.find(|fact| !durable.contains(fact)) {
                self.fail(format_args!(
                    "node {node} is told that node {holder} holds it up to {seq}, which lacks {fact:?}"
                ));
            }
        }
    }

    /// Something of what one node held that another neither holds durably nor refused.
    fn lacking(
        &self,
        node: NodeId,
        of: NodeId,
        told: &[Fact],
        workspaces: &[WorkspaceId],
    ) -> Option<Fact> {
        let held = &self.disk(node).durable;
        let lacking = told.iter().filter(|fact| {
            workspaces.contains(&fact.0)
                && !self.disk(of).lost.contains(fact)
                && !self.knowledge.purged.contains(&(fact.0, fact.1))
                && !held.contains(fact)
                && !self.refused_by(node, of, &fact.0).contains(&fact.1)
        });
        lacking.copied().next()
    }

    /// Whether a node knows that a peer refused a document of its: also if that takes it just now.
    fn knows_refused(&self, node: NodeId, by: NodeId, fact: &Fact) -> bool {
        let status = self
            .engine(node)
            .and_then(|engine| engine.workspace_status(&fact.0));
        let row = status.and_then(|status| status.peers.get(&self.peer(by)).cloned());
        row.is_some_and(|row| row.refused_there.contains_key(&fact.1))
    }

    /// `PassComplete` must mean that each side holds what the other held when it greeted.
    pub(crate) fn check_pass(&mut self, node: NodeId, link: LinkId) {
        let Some((id, side)) = self.find_end(node, link) else {
            self.fail("a pass over a link that never was");
        };
        let wire = &self.wires[&id];
        let peer = wire.ends[1 - side].node;
        if !wire.is_up() || self.lies(node) || self.lies(peer) {
            return; // What the other side held then is not known, nor whether it greeted itself.
        }
        let (Some(own), Some(theirs)) = (&wire.ends[side].greeted, &wire.ends[1 - side].greeted)
        else {
            self.fail("a pass over a link on which nobody greeted");
        };
        let both: Vec<_> = own
            .workspaces
            .iter()
            .filter(|workspace| theirs.workspaces.contains(workspace))
            .copied()
            .collect();
        let held = |node: NodeId, held: usize| self.disk(node).told.get(..held);
        let here = held(peer, theirs.held).unwrap_or_default();
        let here = self.lacking(node, peer, here, &both);
        let there = held(node, own.held).unwrap_or_default();
        let there: Vec<_> = there
            .iter()
            .filter(|fact| !self.knows_refused(node, peer, fact))
            .copied()
            .collect();
        let there = self.lacking(peer, node, &there, &both);
        if let Some(fact) = here.or(there) {
            self.fail(format_args!(
                "the pass of node {node} with node {peer} is complete without {fact:?}"
            ));
        }
    }

    /// A node lost power: whatever others have from it must have survived there.
    pub(crate) fn check_what_left(&self, node: NodeId) {
        if self.lies(node) {
            return;
        }
        let me = self.peer(node);
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            for (key, value) in all_rows(&self.disk(other).reader) {
                if key.kind() != Some(KeyKind::Feed) {
                    continue;
                }
                let row = FeedRow::decode(&value).expect("a stored feed entry decodes");
                if row.origin != Some(me) || self.rewritten(node) {
                    continue;
                }
                let bytes = key.as_bytes()[1..17].try_into();
                let workspace = WorkspaceId::from_bytes(bytes.expect("a key's workspace"));
                if self.knowledge.purged.contains(&(workspace, row.document)) {
                    continue;
                }
                for (hash, _) in row.changes {
                    let fact = (workspace, row.document, hash);
                    if !self.disk(node).durable.contains(&fact) {
                        self.fail(format_args!(
                            "node {other} has {fact:?} from node {node}, which lost it"
                        ));
                    }
                }
            }
        }
    }

    /// Checks that nodes that came to rest agree on a workspace, that each one's rows agree with
    /// each other, and that nothing acknowledged is lost.
    pub fn check_converged(&self, nodes: &[NodeId], workspace: WorkspaceId) {
        let purged = self.check_purged(nodes, workspace);
        self.check_nothing_purged_unknown(nodes, workspace, &purged);
        let mut first: Option<(NodeId, BTreeSet<Fact>)> = None;
        for node in nodes {
            let mut facts = self.check_rows(*node, workspace);
            facts.retain(|fact| !purged.contains(&fact.1));
            match &first {
                None => first = Some((*node, facts)),
                Some((other, theirs)) => {
                    let differing = facts.symmetric_difference(theirs).next();
                    if let Some(fact) = differing {
                        let holder = if facts.contains(fact) { node } else { other };
                        self.fail(format_args!(
                            "of nodes {other} and {node}, only {holder} holds {fact:?}"
                        ));
                    }
                }
            }
        }
        let Some((node, facts)) = first else {
            return;
        };
        let lost = self
            .knowledge
            .acknowledged
            .iter()
            .filter(|fact| !purged.contains(&fact.1))
            .find(|fact| fact.0 == workspace && !facts.contains(fact));
        if let Some(fact) = lost {
            self.fail(format_args!(
                "acknowledged, and lost at node {node}: {fact:?}"
            ));
        }
        for node in nodes {
            self.check_cursors(*node, nodes, workspace);
        }
        self.check_documents(nodes, workspace);
    }

    /// Checks that a document that one of these nodes has purged is gone from all, but for nodes that
    /// hold changes of it which were not known then, and say so; yields those documents.
    fn check_purged(&self, nodes: &[NodeId], workspace: WorkspaceId) -> BTreeSet<DocumentId> {
        let wanted = self.knowledge.purged.iter();
        let wanted = wanted.filter(|(of, _)| *of == workspace);
        let mut purged = BTreeSet::new();
        for (_, document) in wanted {
            let rows = nodes
                .iter()
                .map(|node| (*node, self.head_row(*node, workspace, *document)));
            let rows: Vec<_> = rows.collect();
            let tombstones: Vec<_> = rows
                .iter()
                .filter_map(|(node, row)| Some((*node, row.as_ref()?)))
                .filter(|(_, row)| row.purged_at.is_some())
                .collect();
            if tombstones.is_empty() {
                continue;
            }
            purged.insert(*document);
            for (node, row) in &rows {
                let Some(row) = row else {
                    self.fail(format_args!("node {node} has no tombstone of {document}"));
                };
                if row.purged_at.is_some() {
                    continue;
                }
                let says_so = tombstones.iter().any(|(other, tombstone)| {
                    let late = row.actors.iter().any(|(actor, progress)| {
                        let known = tombstone.actors.get(actor);
                        known.is_none_or(|known| progress.last_seq > known.last_seq)
                            || !progress.beyond.is_empty()
                    });
                    let code = self.refusal(*node, *other, workspace, *document);
                    late && code == Some(RefusalCode::DocumentDeleted)
                });
                if !says_so {
                    self.fail(format_args!("{document} is back at node {node}"));
                }
            }
        }
        purged
    }

    /// Why a node refuses a document of another.
    pub(crate) fn refusal(
        &self,
        node: NodeId,
        of: NodeId,
        workspace: WorkspaceId,
        document: DocumentId,
    ) -> Option<RefusalCode> {
        let status = self.engine(node)?.workspace_status(&workspace)?;
        let row = status.peers.get(&self.peer(of))?;
        row.refused_here.get(&document).copied()
    }

    /// A node is about to store something: what it has purged must stay so, and what it purges now must
    /// be known to whoever decided on that.
    pub(crate) fn check_stays_purged(&mut self, node: NodeId, batch: &Batch) {
        for (key, value) in &batch.puts {
            if key.kind() != Some(KeyKind::Head) {
                continue;
            }
            let new = HeadRow::decode(value).expect("a stored head row decodes");
            let old = self.disk(node).reader.read(key);
            let old = old.expect("an open store reads");
            let old = old.map(|old| HeadRow::decode(&old).expect("a stored head row decodes"));
            let was_purged = old.filter(|old| old.purged_at.is_some());
            match (was_purged, new.purged_at) {
                (Some(old), None) if self.can_tell(node, key, &old) => {
                    self.fail(format_args!("node {node} brings back {key:?}"));
                }
                (None, Some(at)) => {
                    let workspace = key.as_bytes()[1..17].try_into();
                    let workspace = WorkspaceId::from_bytes(workspace.expect("a key's workspace"));
                    let document = key.document().expect("a head key names its document");
                    self.check_purge(node, (workspace, document), at);
                }
                _ => {}
            }
        }
    }

    /// Whether a node can tell that a document was purged: its tombstone and the entry of that did not
    /// both rot. Who cannot is told again by others, which is looked at in the end.
    fn can_tell(&self, node: NodeId, key: &Key, tombstone: &HeadRow) -> bool {
        let reader = self.disk(node).store.reader();
        let entry = key
            .workspace_id()
            .map(|of| Key::feed(&of, tombstone.feed_seq));
        let reads = |key: &Key| matches!(reader.read(key), Ok(Some(_)));
        reads(key) || entry.is_some_and(|entry| reads(&entry))
    }

    /// Checks the rows of one workspace in one store against each other; yields its changes.
    pub fn check_rows(&self, node: NodeId, workspace: WorkspaceId) -> BTreeSet<Fact> {
        let reader = &self.disk(node).reader;
        let roots = self.roots();
        let mut facts = BTreeSet::new();
        let mut documents = 0;
        let mut last_entries: BTreeMap<DocumentId, u64> = BTreeMap::new();
        let mut entered: BTreeSet<Fact> = BTreeSet::new();
        let mut singly: BTreeSet<Fact> = BTreeSet::new();
        let head = reader
            .read(&Key::feed_head(&workspace))
            .expect("an open store reads")
            .map(|value| FeedHeadRow::decode(&value).expect("a stored feed head decodes"));
        let mut point = head
            .as_ref()
            .map(|head| FeedPoint::start_of(head.point.epoch));
        for (seq, row) in read_feed(reader, &workspace, 0) {
            let Some(before) = point else {
                self.fail(format_args!("node {node} has a feed without a head"));
            };
            let next = before.advance(&row.document, row.changes.iter().map(|(hash, _)| *hash));
            let gapless = next.seq.0 == seq;
            let compacted = head.as_ref().map_or(0, |head| head.compacted.0);
            // Compaction leaves gaps, and entries whose digest is of what they named before.
            let may_differ = row.snapshot.is_some() || before.seq.0 < compacted;
            let breaks = !gapless && before.seq.0 >= compacted;
            if breaks || (gapless && next.digest != row.digest && !may_differ) {
                self.fail(format_args!("node {node}'s feed breaks at {seq}"));
            }
            point = Some(FeedPoint {
                epoch: next.epoch,
                seq: reconvene_core::ids::FeedSeq(seq),
                digest: row.digest,
            });
            if let Some(snapshot) = &row.snapshot {
                let key = Key::snapshot(&workspace, &row.document, &snapshot.hash);
                let value = reader.read(&key).expect("an open store reads");
                match value {
                    Some(value) => entered.extend(crate::disk::facts_in(&key, &value)),
                    None => self.fail(format_args!("node {node} has no snapshot for entry {seq}")),
                }
            }
            last_entries.insert(row.document, seq);
            for (hash, size) in &row.changes {
                if !singly.insert((workspace, row.document, *hash)) {
                    self.fail(format_args!("node {node} entered {hash:?} twice"));
                }
                entered.insert((workspace, row.document, *hash));
                let key = Key::change(&workspace, &row.document, hash);
                let value = reader.read(&key).expect("an open store reads");
                let body = value.map(|value| ChangeRow::decode(&value).map(|row| row.body.len()));
                if body != Some(Ok(*size as usize)) {
                    self.fail(format_args!(
                        "node {node} entered {hash:?} without its body"
                    ));
                }
            }
        }
        if point != head.as_ref().map(|head| head.point) {
            self.fail(format_args!(
                "node {node}'s feed ends at {point:?}, its head says {head:?}"
            ));
        }
        let scan = Scan::ascending(KeyRange::heads(&workspace), usize::MAX);
        for (key, value) in reader.scan(&scan).expect("an open store reads").rows {
            let document = key.document().expect("a head key names its document");
            let row = HeadRow::decode(&value).expect("a stored head row decodes");
            if row.purged_at.is_some() {
                self.check_tombstone(node, (workspace, document), &row);
                entered.retain(|fact| fact.1 != document);
                if last_entries.get(&document) != Some(&row.feed_seq.0) {
                    self.fail(format_args!(
                        "node {node}'s tombstone of {document} is not its last entry"
                    ));
                }
                continue;
            }
            let changes = crate::host::read_changes(reader, (workspace, document));
            let range = KeyRange::changes(&workspace, &document);
            let single = reader.scan(&Scan::ascending(range, usize::MAX));
            let single = single.expect("an open store reads").rows;
            let single_bytes = single.iter().map(|(_, value)| {
                let row = ChangeRow::decode(value).expect("a stored change decodes");
                row.body.len() as u64
            });
            for snapshot in &row.snapshots {
                let key = Key::snapshot(&workspace, &document, &snapshot.hash);
                if !reader.contains(&key).expect("an open store reads") {
                    self.fail(format_args!("node {node} lacks a snapshot of {document}"));
                }
            }
            let stated = Recomputed {
                heads: row.heads.clone(),
                missing: row.missing.clone(),
                actors: row
                    .actors
                    .iter()
                    .map(|(actor, progress)| (actor.as_bytes().to_vec(), progress.clone()))
                    .collect(),
                count: row.change_count,
                bytes: row.change_bytes,
                head_max_ops: row.head_max_ops.clone(),
                actor_max_ops: row
                    .actor_max_ops
                    .iter()
                    .map(|(actor, max_op)| (actor.as_bytes().to_vec(), *max_op))
                    .collect(),
                operations: row.operations,
            };
            let mut actual = Recomputed {
                heads: BTreeSet::new(),
                missing: BTreeSet::new(),
                actors: BTreeMap::new(),
                count: single.len() as u64,
                bytes: single_bytes.sum(),
                head_max_ops: BTreeMap::new(),
                actor_max_ops: BTreeMap::new(),
                operations: changes.iter().map(|header| header.operations).sum(),
            };
            let hashes: BTreeSet<_> = changes.iter().map(|header| header.hash).collect();
            let needed: BTreeSet<_> = changes
                .iter()
                .flat_map(|header| &header.dependencies)
                .filter(|hash| !roots.contains_key(*hash))
                .copied()
                .collect();
            actual.heads.extend(hashes.difference(&needed));
            actual.missing.extend(needed.difference(&hashes));
            for header in &changes {
                let actor = header.actor.as_bytes().to_vec();
                let max_op = actual.actor_max_ops.entry(actor.clone()).or_default();
                *max_op = header.max_op().max(*max_op);
                if actual.heads.contains(&header.hash) {
                    actual.head_max_ops.insert(header.hash, header.max_op());
                }
                actual.actors.entry(actor).or_default().add(header.seq);
                facts.insert((workspace, document, header.hash));
            }
            if stated != actual {
                self.fail(format_args!(
                    "node {node}'s head row of {document} says {stated:?}, its changes {actual:?}"
                ));
            }
            if heads_digest(&row.heads) != heads_digest(&actual.heads) {
                self.fail("equal heads have different digests");
            }
            if last_entries.get(&document) != Some(&row.feed_seq.0) {
                self.fail(format_args!(
                    "node {node}'s head row of {document} names entry {}",
                    row.feed_seq
                ));
            }
            documents += 1;
        }
        if head
            .as_ref()
            .is_some_and(|head| head.documents != documents)
        {
            self.fail(format_args!(
                "node {node} counts {head:?} documents, there are {documents}"
            ));
        }
        if entered != facts {
            self.fail(format_args!("node {node}'s feed and changes differ"));
        }
        facts
    }

    /// Checks what is left of a purged document.
    fn check_tombstone(&self, node: NodeId, place: (WorkspaceId, DocumentId), row: &HeadRow) {
        let (workspace, document) = place;
        let reader = &self.disk(node).reader;
        let entry = reader.read(&Key::feed(&workspace, row.feed_seq));
        let entry = entry.expect("an open store reads");
        let entry = entry.map(|entry| FeedRow::decode(&entry).expect("a feed entry decodes"));
        if !entry.is_some_and(|entry| entry.purged.is_some() && entry.changes.is_empty()) {
            self.fail(format_args!(
                "node {node}'s feed has no purge of {document}"
            ));
        }
        let range = KeyRange::changes(&workspace, &document);
        let single = reader.scan(&Scan::ascending(range, usize::MAX));
        let single = single.expect("an open store reads").rows.len() as u64;
        let is_indexed = reader
            .contains(&Key::index(&workspace, row.kind, &document))
            .expect("an open store reads");
        if !row.heads.is_empty()
            || !row.missing.is_empty()
            || row.change_count != single
            || is_indexed
        {
            self.fail(format_args!(
                "node {node} has {single} changes beside its tombstone {row:?}"
            ));
        }
        for snapshot in &row.snapshots {
            let key = Key::snapshot(&workspace, &document, &snapshot.hash);
            if !reader.contains(&key).expect("an open store reads") {
                self.fail(format_args!("node {node} lacks a snapshot of {document}"));
            }
        }
    }

    /// Checks that no stored cursor of a node is ahead of what it holds.
    fn check_cursors(&self, node: NodeId, nodes: &[NodeId], workspace: WorkspaceId) {
        let reader = &self.disk(node).reader;
        for peer in nodes.iter().filter(|peer| **peer != node) {
            let key = Key::peer(&workspace, &self.peer(*peer));
            let Some(value) = reader.read(&key).expect("an open store reads") else {
                continue;
            };
            let row = PeerRow::decode(&value).expect("a stored peer row decodes");
            let Some(held) = row.held else {
                continue;
            };
            let theirs = &self.disk(*peer).reader;
            let head = theirs.read(&Key::feed_head(&workspace));
            let Some(head) = head.expect("an open store reads") else {
                continue;
            };
            let head = FeedHeadRow::decode(&head).expect("a stored feed head decodes");
            let ours: BTreeSet<_> = crate::disk::all_changes(reader).into_iter().collect();
            if head.point.epoch != held.epoch {
                continue;
            }
            for (seq, entry) in read_feed(theirs, &workspace, 0) {
                let place = (workspace, entry.document);
                if self.knowledge.purged.contains(&place) {
                    continue;
                }
                let refused = row.refused_here.contains_key(&entry.document);
                let whole = entry.snapshot.iter().flat_map(|snapshot| {
                    let key = Key::snapshot(&workspace, &entry.document, &snapshot.hash);
                    let value = theirs.read(&key).expect("an open store reads");
                    crate::disk::facts_in(&key, &value.expect("an entry's snapshot is there"))
                });
                let singly = entry.changes.iter();
                let singly = singly.map(|(hash, _)| (workspace, entry.document, *hash));
                for fact in singly.chain(whole) {
                    let present = ours.contains(&fact);
                    if seq <= held.seq.0 && !present && !refused {
                        self.fail(format_args!(
                            "node {node}'s cursor into node {peer}'s feed is ahead at {seq}"
                        ));
                    }
                }
            }
        }
    }

    /// Checks that a node that is linked to another knows that it is fresh, within the bound.
    pub fn check_fresh(&self, node: NodeId, with: NodeId, workspace: WorkspaceId) {
        let peer = self.peer(with);
        let verified = self.nodes[node]
            .events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Verified {
                    peer: with,
                    workspace: of,
                    as_of,
                } if *with == peer && *of == workspace => Some(as_of.as_millis()),
                _ => None,
            });
        let now = self.moment(node).wall.as_millis();
        let bound = i64::try_from(STALENESS_BOUND.as_millis()).expect("a bound is short");
        let last = verified.max();
        if last.is_none_or(|last| now - last > bound) {
            self.fail(format_args!(
                "node {node} was verified with node {with} last at {last:?}, it is {now}"
            ));
        }
    }

    /// Every change a node holds of a workspace, but of documents that were to be purged.
    pub fn held(&self, node: NodeId, workspace: WorkspaceId) -> BTreeSet<Fact> {
        let rows = all_rows(&self.disk(node).reader);
        rows.iter()
            .flat_map(|(key, value)| crate::disk::facts_in(key, value))
            .filter(|fact| fact.0 == workspace)
            .filter(|fact| !self.knowledge.purged.contains(&(fact.0, fact.1)))
            .collect()
    }

    /// Every document that some host wanted purged.
    pub fn purged(&self) -> impl Iterator<Item = &(WorkspaceId, DocumentId)> {
        self.knowledge.purged.iter()
    }

    /// Every change whose author was told that it is safe.
    pub fn acknowledged(&self) -> &BTreeSet<Fact> {
        &self.knowledge.acknowledged
    }
}

fn read_feed(
    reader: &impl reconvene_core::storage::StoreRead,
    workspace: &WorkspaceId,
    after: u64,
) -> Vec<(u64, FeedRow)> {
    let range = KeyRange::feed_after(workspace, reconvene_core::ids::FeedSeq(after));
    let rows = reader
        .scan(&Scan::ascending(range, usize::MAX))
        .expect("an open store reads")
        .rows;
    rows.into_iter()
        .filter_map(|(key, value)| {
            let row = FeedRow::decode(&value).expect("a stored feed entry decodes");
            Some((key.feed_seq()?.0, row))
        })
        .collect()
}
