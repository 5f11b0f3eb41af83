//! Hosts: what an app does with its engine. A host opens documents, edits on top of what it sees,
//! drops an open document when an edit of it fails, and never uses an actor again after that.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand_chacha::rand_core::RngCore as _;
use reconvene_core::engine::{Edit, EditedDocument, Event, Input, Purge};
use reconvene_core::guard::{ChangeHeader, parse_change};
use reconvene_core::ids::{ChangeHash, DocumentId, MemberId, PeerId, RequestId, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::memory::MemoryReader;
use reconvene_core::records::{ChangeRow, HeadRow, InviteRow, Record as _, ShareRow, Standing};
use reconvene_core::storage::StoreRead as _;
use reconvene_core::stored::chunks;
use reconvene_core::time::WallTime;
use reconvene_core::wire::Role;
use sha2::{Digest as _, Sha256};

use crate::changes::{KIND, Recipe, genesis, make};
use crate::check::ToldHost;
use crate::disk::Fact;
use crate::documents::Documents;
use crate::executor::Executor;
use crate::snapshots::{Compacting, changes_in};
use crate::world::{NodeId, World};

/// What a host keeps in memory; gone with its node.
#[derive(Debug, Default)]
pub(crate) struct Host {
    open: BTreeMap<(WorkspaceId, DocumentId), Open>,
    pub(crate) documents: Documents,
    pub(crate) executor: Executor,
    pub(crate) requested: BTreeMap<RequestId, Vec<Fact>>,
    pub(crate) compacting: BTreeMap<RequestId, Compacting>,
    /// What it was told of others' changes.
    pub(crate) told: ToldHost,
}

/// An open document: what of it the host sees, and its own incarnation.
#[derive(Debug)]
struct Open {
    seen: BTreeSet<ChangeHash>,
    heads: BTreeSet<ChangeHash>,
    op_max: u64,
    actor: [u8; 16],
    seq: u64,
}

impl Open {
    fn load(reader: &MemoryReader, place: (WorkspaceId, DocumentId), actor: [u8; 16]) -> Self {
        let root = genesis(KIND).hash;
        let mut open = Self {
            seen: BTreeSet::from([root]),
            heads: BTreeSet::from([root]),
            op_max: 1,
            actor,
            seq: 0,
        };
        let mut waiting = read_changes(reader, place);
        loop {
            let before = waiting.len();
            waiting.retain(|header| !open.see(header));
            if waiting.len() == before {
                return open; // What is left has no ancestors here and is not seen.
            }
        }
    }

    /// Takes in a change if everything it depends on is seen.
    fn see(&mut self, header: &ChangeHeader) -> bool {
        if !header
            .dependencies
            .iter()
            .all(|hash| self.seen.contains(hash))
        {
            return false;
        }
        if self.seen.insert(header.hash) {
            for dependency in &header.dependencies {
                self.heads.remove(dependency);
            }
            self.heads.insert(header.hash);
            self.op_max = self.op_max.max(header.start_op);
        }
        true
    }
}

pub(crate) fn read_changes(
    reader: &MemoryReader,
    (workspace, document): (WorkspaceId, DocumentId),
) -> Vec<ChangeHeader> {
    let chunks = chunks(reader, &workspace, &document).expect("an open store reads");
    let headers = chunks.iter().flat_map(|chunk| {
        let changes = changes_in(chunk).expect("a stored chunk is readable");
        changes.into_iter().map(|(header, _)| (header.hash, header))
    });
    let once: BTreeMap<_, _> = headers.collect();
    once.into_values().collect()
}

/// A document id made from a number.
pub fn document(number: u64) -> DocumentId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    DocumentId::from_bytes(bytes)
}

/// A workspace id made from a number.
pub fn workspace(number: u8) -> WorkspaceId {
    WorkspaceId::from_bytes([number; 16])
}

impl World {
    /// Has a host change one document by a change of about `bytes` bytes.
    pub fn edit(
        &mut self,
        node: NodeId,
        workspace: WorkspaceId,
        document: DocumentId,
        bytes: usize,
    ) -> RequestId {
        self.edit_many(node, workspace, &[(document, 1)], bytes)
    }

    /// Has a host make several changes to each of several documents, in one edit.
    pub fn edit_many(
        &mut self,
        node: NodeId,
        workspace: WorkspaceId,
        documents: &[(DocumentId, usize)],
        bytes: usize,
    ) -> RequestId {
        if self.real {
            let request = self.write_documents(node, workspace, documents, bytes);
            return request.unwrap_or_else(|| self.request());
        }
        let request = self.request();
        let mut edited = Vec::with_capacity(documents.len());
        let mut facts = Vec::new();
        for (document, count) in documents {
            let mut bodies = Vec::with_capacity(*count);
            for _ in 0..*count {
                let (hash, body) = self.write_change(node, (workspace, *document), bytes);
                facts.push((workspace, *document, hash));
                bodies.push(body);
            }
            edited.push(EditedDocument {
                document: *document,
                kind: KIND,
                changes: bodies,
            });
        }
        self.nodes[node].host.requested.insert(request, facts);
        self.give(
            node,
            Input::Edit(Edit {
                request,
                workspace,
                documents: edited,
                rows: Vec::new(),
            }),
        );
        request
    }

    /// Has a host purge documents, as it does when they have been deleted for long enough.
    pub fn purge(
        &mut self,
        node: NodeId,
        workspace: WorkspaceId,
        documents: &[DocumentId],
    ) -> RequestId {
        let request = self.request();
        let places = documents.iter().map(|document| (workspace, *document));
        self.knowledge.purged.extend(places);
        let documents = documents.to_vec();
        self.give(
            node,
            Input::Purge(Purge {
                request,
                workspace,
                documents,
            }),
        );
        request
    }

    /// Has a host let go of the documents it has open.
    pub fn evict(&mut self, node: NodeId) {
        self.nodes[node].host.open.clear();
        self.nodes[node].host.documents.close();
    }

    fn write_change(
        &mut self,
        node: NodeId,
        place: (WorkspaceId, DocumentId),
        bytes: usize,
    ) -> (ChangeHash, Bytes) {
        let mut value = vec![0; bytes];
        self.rng.fill_bytes(&mut value);
        if !self.nodes[node].host.open.contains_key(&place) {
            let mut actor = [0; 16];
            actor[0] = 0xa0;
            actor[8..].copy_from_slice(&self.next_actor.to_be_bytes());
            self.next_actor += 1;
            let open = Open::load(&self.disk(node).reader, place, actor);
            self.nodes[node].host.open.insert(place, open);
        }
        let Some(open) = self.nodes[node].host.open.get_mut(&place) else {
            panic!("a document just opened is open");
        };
        open.seq += 1;
        open.op_max += 1;
        let made = make(Recipe {
            actor: open.actor,
            seq: open.seq,
            start_op: open.op_max,
            dependencies: open.heads.iter().copied().collect(),
            value,
        });
        open.seen.insert(made.hash);
        open.heads = BTreeSet::from([made.hash]);
        (made.hash, made.body)
    }

    /// What a host does when it is told something.
    pub(crate) fn on_event(&mut self, node: NodeId, event: &Event) {
        self.check_blame(node, event);
        self.note_told(node, event);
        if self.real {
            self.on_executor_event(node, event);
            self.on_document_event(node, event);
        }
        match event {
            Event::EditDurable { request, .. } => {
                let facts = self.nodes[node].host.requested.remove(request);
                self.check_durable(node, facts.unwrap_or_default());
            }
            Event::EditRefused { request, .. } => {
                let facts = self.nodes[node].host.requested.remove(request);
                for (workspace, document, _) in facts.unwrap_or_default() {
                    self.nodes[node].host.open.remove(&(workspace, document));
                }
            }
            Event::DocumentChanged {
                workspace,
                document,
                changes,
                snapshot,
                ..
            } => {
                if *snapshot {
                    let open = &mut self.nodes[node].host.open;
                    open.remove(&(*workspace, *document));
                }
                self.on_document_changed(node, (*workspace, *document), changes);
            }
            Event::DocumentPurged {
                workspace,
                document,
                ..
            } => {
                let open = &mut self.nodes[node].host.open;
                open.remove(&(*workspace, *document));
            }
            Event::WriteDone { request } => self.on_snapshot_stored(node, *request),
            Event::Compacted { request } | Event::CompactRefused { request, .. } => {
                self.on_compaction_over(node, *request);
            }
            Event::Verified {
                peer, workspace, ..
            } => self.check_verified(node, *peer, *workspace),
            Event::Relayed {
                peer,
                workspace,
                row,
            } => self.check_relayed(node, *peer, *workspace, row),
            Event::DocumentsRefused {
                peer,
                workspace,
                here: true,
                documents,
            } => self.note_refused(node, peer, *workspace, documents),
            Event::PassComplete { link, .. } => self.check_pass(node, *link),
            Event::Offended {
                link, peer, closes, ..
            } => self.check_offended(node, *link, peer, *closes),
            _ => {}
        }
    }

    fn on_document_changed(
        &mut self,
        node: NodeId,
        place: (WorkspaceId, DocumentId),
        changes: &[ChangeHash],
    ) {
        let reader = self.disk(node).reader.clone();
        let Some(open) = self.nodes[node].host.open.get_mut(&place) else {
            return;
        };
        let mut whole = true;
        for hash in changes {
            let key = Key::change(&place.0, &place.1, hash);
            let value = reader.read(&key).expect("an open store reads");
            let Some(value) = value else {
                whole = false; // A snapshot holds it by now.
                continue;
            };
            let row = ChangeRow::decode(&value).expect("a stored change decodes");
            let header = parse_change(&row.body).expect("a stored change passes the guard");
            whole &= open.see(&header);
        }
        if !whole {
            // Something came without its ancestors, or brought some: look again at the next edit.
            self.nodes[node].host.open.remove(&place);
        }
    }

    /// A document's head row as a node's store has it.
    pub(crate) fn head_row(
        &self,
        node: NodeId,
        workspace: WorkspaceId,
        document: DocumentId,
    ) -> Option<HeadRow> {
        let row = reconvene_core::stored::head(&self.disk(node).reader, &workspace, &document);
        row.expect("an open store reads")
    }

    /// The heads of a document as a node's store has them.
    #[cfg(test)]
    pub(crate) fn heads(
        &self,
        node: NodeId,
        workspace: WorkspaceId,
        document: DocumentId,
    ) -> BTreeSet<ChangeHash> {
        let row = self.head_row(node, workspace, document);
        row.expect("it is there").heads
    }

    /// The heads of a document as Automerge computes them from a node's stored changes.
    #[cfg(test)]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place in the simulation where Automerge is asked for the truth"
    )]
    pub(crate) fn heads_by_automerge(
        &self,
        node: NodeId,
        workspace: WorkspaceId,
        document: DocumentId,
    ) -> BTreeSet<ChangeHash> {
        let mut bodies = vec![genesis(KIND).body];
        let stored = chunks(&self.disk(node).reader, &workspace, &document);
        for chunk in stored.expect("an open store reads") {
            let changes = changes_in(&chunk).expect("a stored chunk is readable");
            bodies.extend(changes.into_iter().map(|(_, body)| body));
        }
        let changes = bodies.iter().map(|body| {
            automerge::Change::from_bytes(body.to_vec()).expect("a guarded change is one")
        });
        let encoding = automerge::TextEncoding::Utf16CodeUnit;
        let mut automerge = automerge::Automerge::new_with_encoding(encoding)
            .with_actor(automerge::ActorId::from([1; 16]));
        automerge
            .apply_changes(changes.collect::<Vec<_>>())
            .expect("the changes apply");
        let heads = automerge.get_heads();
        heads
            .into_iter()
            .map(|hash| ChangeHash::from_bytes(hash.0))
            .collect()
    }

    /// The body of a document's only head.
    #[cfg(test)]
    pub(crate) fn last_change(
        &self,
        node: NodeId,
        workspace: WorkspaceId,
        document: DocumentId,
    ) -> Bytes {
        let heads = self.heads(node, workspace, document);
        let head = heads.first().expect("a document has a head");
        let key = Key::change(&workspace, &document, head);
        let row = self.disk(node).reader.read(&key);
        let row = row.expect("an open store reads").expect("it is there");
        ChangeRow::decode(&row)
            .expect("a stored change decodes")
            .body
    }

    /// Shares workspaces between two nodes: between a server and a device as a redeemed ticket would,
    /// between two devices as if a server that is not there had told them.
    pub fn share(&mut self, one: NodeId, other: NodeId, workspaces: &[WorkspaceId]) {
        for (node, peer) in [(one, other), (other, one)] {
            let standing = match (self.nodes[node].role, self.nodes[peer].role) {
                (Role::Server, _) => Standing::Device,
                (Role::Device, Role::Server) => Standing::Server,
                (Role::Device, Role::Device) => Standing::Learned(PeerId::from_bytes([0; 32])),
            };
            let row = ShareRow {
                member: MemberId::from_bytes([7; 16]),
                device_name: format!("node {peer}"),
                since: WallTime::from_millis(0),
                standing,
            }
            .encode();
            let peer = self.peer(peer);
            let puts: Vec<_> = workspaces
                .iter()
                .map(|workspace| (Key::share(&peer, workspace), row.clone()))
                .collect();
            self.nodes[node].shares.extend(puts.iter().cloned());
            self.write(node, puts);
        }
    }

    /// Makes a node believe that another is the server it has a workspace from.
    #[cfg(test)]
    pub(crate) fn believe_in(&mut self, node: NodeId, server: NodeId, workspace: WorkspaceId) {
        let row = ShareRow {
            member: MemberId::from_bytes([1; 16]),
            device_name: format!("node {node}"),
            since: WallTime::from_millis(0),
            standing: Standing::Server,
        };
        let key = Key::share(&self.peer(server), &workspace);
        self.write(node, vec![(key, row.encode())]);
        self.run_until_quiet();
    }

    /// What a node has stored of sharing a workspace with another.
    #[cfg(test)]
    pub(crate) fn share_row(
        &self,
        node: NodeId,
        workspace: &WorkspaceId,
        with: NodeId,
    ) -> Option<ShareRow> {
        let key = Key::share(&self.peer(with), workspace);
        let row = self.disk(node).reader.read(&key);
        let row = row.expect("an open store reads")?;
        Some(ShareRow::decode(&row).expect("a stored share decodes"))
    }

    /// Issues a ticket at a node: its secret.
    pub fn issue_ticket(
        &mut self,
        node: NodeId,
        workspaces: (WorkspaceId, WorkspaceId),
        expires_in_ms: i64,
    ) -> [u8; 32] {
        let mut secret = [0; 32];
        self.rng.fill_bytes(&mut secret);
        let hash: [u8; 32] = Sha256::digest(secret).into();
        let now = self.moment(node).wall.as_millis();
        let row = InviteRow {
            workspace: workspaces.0,
            workspace_name: "Team".to_owned(),
            member: MemberId::from_bytes([9; 16]),
            member_name: "Ada".to_owned(),
            home: workspaces.1,
            expires_at: WallTime::from_millis(now + expires_in_ms),
            redeemed_by: None,
        };
        self.write(node, vec![(Key::invite(&hash), row.encode())]);
        secret
    }
}
