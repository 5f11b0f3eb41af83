//! Hosts that keep real documents above their engines, as apps do: edits are made by the model's editor,
//! what peers sent is applied when a document is used next, the least recently used are let go, and an
//! edit that fails has its document read anew under another incarnation.
//!
//! What a reader sees is checked each time it looks: its own writes are there, nothing that it saw is
//! gone, and a meeting's state does not go back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand_chacha::rand_core::RngCore as _;
use reconvene_core::engine::{self, EditedDocument, Event, Input};
use reconvene_core::ids::{ChangeHash, DocumentId, DocumentKind, RequestId, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::records::{ChangeRow, Record as _};
use reconvene_core::storage::{StoreError, StoreRead as _};
use reconvene_core::stored::{chunks, head};
use reconvene_core::time::WallTime;
use reconvene_model::export::{canonical_json, export_document};
use reconvene_model::index::index_row;
use reconvene_model::meeting::State;
use reconvene_model::transcript::{PageHeader, Timebase};
use reconvene_model::{
    COMMAND, Document, ENTRY, EditError, Editor, EncodedChange, INTEGRATION, MEETING,
    MaterialiseCounter, ModelError, Outcome, Purpose, RunDraft, Segment, TRANSCRIPT, WORKSPACE,
    derive_actor, materialise,
};

use crate::changes::make_later;
use crate::disk::Fact;
use crate::edits::ModelEdit;
use crate::executor::{COMMANDS_FROM, INTEGRATION_NUMBER};
use crate::world::{NodeId, World};

/// Memory of open documents beyond which a host lets the least recently used go, in bytes: about ten
/// small ones.
pub(crate) const OPEN_BYTES_MAX: usize = 128 * 1024;

/// Longest text of a register that is written here, in bytes.
const TEXT_BYTES_MAX: usize = 60_000;

/// Longest text that is added to notes at once, in characters: each is an operation. Longer ones become
/// action items.
const NOTE_BYTES_MAX: usize = 60;

type Place = (WorkspaceId, DocumentId);

/// The real documents of one host, and what its reader saw; gone with its node.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    open: BTreeMap<Place, Open>,
    bytes: usize,
    clock: u64,
    incarnation: Option<[u8; 16]>,
    /// Edits that readers of the store may not see yet.
    local: BTreeMap<RequestId, Vec<(Place, Vec<EncodedChange>)>>,
    seen: BTreeMap<Place, Seen>,
}

#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) document: Document,
    /// Changes of peers that became durable since.
    noted: Vec<ChangeHash>,
    bytes: usize,
    used: u64,
}

/// What a reader saw of a document last.
#[derive(Debug)]
struct Seen {
    heads: Vec<ChangeHash>,
    state: Option<State>,
}

/// What the world knows of edits, whoever made them.
#[derive(Debug, Default)]
pub(crate) struct Meanings {
    /// Changes that delete a meeting and do nothing else.
    deletions: BTreeSet<ChangeHash>,
    /// States that meetings reached with edits of which it is not known yet that they are safe.
    reaching: BTreeMap<RequestId, Vec<(Place, State)>>,
    /// The furthest state that a meeting reached, with an edit that is safe.
    reached: BTreeMap<Place, State>,
}

impl Documents {
    fn forget(&mut self, place: &Place) {
        if let Some(open) = self.open.remove(place) {
            self.bytes -= open.bytes;
        }
    }

    /// The changes of an edit that may still fail.
    pub(crate) fn on_its_way(&self, request: &RequestId) -> Option<&[(Place, Vec<EncodedChange>)]> {
        self.local.get(request).map(Vec::as_slice)
    }

    /// Lets everything go that is open.
    pub(crate) fn close(&mut self) {
        self.open.clear();
        self.bytes = 0;
    }

    /// Closes the least recently used beyond the budget.
    pub(crate) fn give_back(&mut self, place: Place, mut open: Open) {
        self.clock += 1;
        open.used = self.clock;
        open.bytes = open.document.memory_bytes();
        self.bytes += open.bytes;
        self.open.insert(place, open);
        while self.bytes > OPEN_BYTES_MAX {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.used);
            let Some(oldest) = oldest.map(|(place, _)| *place) else {
                break;
            };
            self.forget(&oldest);
        }
    }
}

/// The kind of a document that histories edit.
pub(crate) fn kind_of(document: &DocumentId) -> DocumentKind {
    let [number, _] = document.as_bytes().as_chunks::<8>().0 else {
        panic!("a document id has 16 bytes");
    };
    match u64::from_be_bytes(*number) {
        number if number > 2 * COMMANDS_FROM => ENTRY,
        number if number >= COMMANDS_FROM => COMMAND,
        INTEGRATION_NUMBER => INTEGRATION,
        number if number.is_multiple_of(5) => TRANSCRIPT,
        number if number % 5 == 4 => WORKSPACE,
        _ => MEETING,
    }
}

impl World {
    /// Has a host edit documents, each by as many edits of about so many bytes.
    pub(crate) fn write_documents(
        &mut self,
        node: NodeId,
        workspace: WorkspaceId,
        documents: &[(DocumentId, usize)],
        bytes: usize,
    ) -> Option<RequestId> {
        let mut parts = Vec::with_capacity(documents.len());
        for (document, count) in documents {
            let writings = (0..*count).map(|_| self.writing(bytes)).collect();
            parts.push((*document, kind_of(document), Edits::Written(writings)));
        }
        self.edit_documents(node, workspace, parts)
    }

    fn writing(&mut self, bytes: usize) -> (String, String) {
        let id = format!("{:016x}", self.rng.next_u64());
        let mut text = vec![0; bytes.min(TEXT_BYTES_MAX)];
        self.rng.fill_bytes(&mut text);
        let text = text.iter().map(|byte| char::from(b'a' + byte % 26));
        (id, text.collect())
    }

    /// Has a host make one edit of a document; whether the model lets it, as the document is there.
    pub fn revise(
        &mut self,
        node: NodeId,
        workspace: WorkspaceId,
        document: DocumentId,
        edit: ModelEdit,
    ) -> bool {
        let is_of_kind = edit.kind().is_none_or(|kind| kind == kind_of(&document));
        if !self.real || !is_of_kind {
            return false;
        }
        let kind = kind_of(&document);
        self.edit_documents(node, workspace, vec![(document, kind, Edits::One(edit))]);
        true
    }

    /// Has a host store what somebody with a later version wrote: the document needs that version to be
    /// edited from then on. Whether there is something of it to write to.
    pub fn outdate(&mut self, node: NodeId, workspace: WorkspaceId, document: DocumentId) -> bool {
        let place = (workspace, document);
        let row = self.head_row(node, workspace, document);
        let row = row.filter(|row| self.real && row.purged_at.is_none() && row.missing.is_empty());
        let Some((row, open)) = row.and_then(|row| Some((row, self.bring_up(node, place, None)?)))
        else {
            return false;
        };
        let heads: BTreeSet<_> = open.document.heads().into_iter().collect();
        self.nodes[node].host.documents.give_back(place, open);
        let last = row.head_max_ops.values().max();
        let Some(last) = last.filter(|_| heads == row.heads) else {
            return false; // Something of it is on its way.
        };
        let mut actor = [0; 16];
        self.rng.fill_bytes(&mut actor);
        let made = make_later(actor, last + 1, heads);
        let request = self.request();
        let facts = vec![(workspace, document, made.hash)];
        let host = &mut self.nodes[node].host;
        host.requested.insert(request, facts);
        let kept = EncodedChange {
            hash: made.hash,
            bytes: made.body.to_vec(),
        };
        host.documents
            .local
            .insert(request, vec![(place, vec![kept])]);
        host.documents.forget(&place);
        let edited = EditedDocument {
            document,
            kind: row.kind,
            changes: vec![made.body],
        };
        let edit = engine::Edit {
            request,
            workspace,
            documents: vec![edited],
            rows: Vec::new(),
        };
        self.give(node, Input::Edit(edit));
        true
    }

    /// Has a reader look at a document; whether there is one, and it reads.
    pub fn look(&mut self, node: NodeId, workspace: WorkspaceId, document: DocumentId) -> bool {
        if !self.real {
            return false;
        }
        let place = (workspace, document);
        let Some(open) = self.bring_up(node, place, None) else {
            return false;
        };
        self.check_seen(node, place, &open.document);
        self.nodes[node].host.documents.give_back(place, open);
        self.check_memory(node);
        true
    }

    /// Has a host make edits of several documents, all of them or none; `None` if that changes nothing.
    pub(crate) fn edit_documents(
        &mut self,
        node: NodeId,
        workspace: WorkspaceId,
        parts: Vec<(DocumentId, DocumentKind, Edits)>,
    ) -> Option<RequestId> {
        let request = self.request();
        let now = self.moment(node).wall;
        let (mut edited, mut rows, mut local) = (Vec::new(), Vec::new(), Vec::new());
        for (document, kind, edits) in parts {
            let place = (workspace, document);
            let Some(mut open) = self.bring_up(node, place, Some(kind)) else {
                continue; // It is damaged, or was purged.
            };
            self.check_seen(node, place, &open.document);
            let actor = self.actor(node, &document);
            let made = edits.make(&mut open.document, &actor, now);
            if let Edits::One(ModelEdit::Delete) = edits {
                let hashes = made.iter().map(|change| change.hash);
                self.knowledge.meanings.deletions.extend(hashes);
            }
            self.check_seen(node, place, &open.document);
            if !made.is_empty() {
                if let Some(state) = state(&open.document) {
                    let reaching = &mut self.knowledge.meanings.reaching;
                    reaching.entry(request).or_default().push((place, state));
                }
                let row = index_row(document, &open.document);
                if let Some(row) = row.expect("an open document reads") {
                    let key = Key::index(&workspace, kind, &document);
                    rows.push((key, Bytes::from(row.encode())));
                }
                edited.push(EditedDocument {
                    document,
                    kind,
                    changes: made.iter().map(|made| made.bytes.clone().into()).collect(),
                });
                local.push((place, made));
            }
            self.nodes[node].host.documents.give_back(place, open);
            self.check_memory(node);
        }
        if edited.is_empty() {
            return None;
        }
        let facts = local.iter().flat_map(|((workspace, document), made)| {
            let made = made.iter();
            made.map(|change| (*workspace, *document, change.hash))
        });
        let facts: Vec<Fact> = facts.collect();
        let host = &mut self.nodes[node].host;
        host.requested.insert(request, facts);
        host.documents.local.insert(request, local);
        let edit = engine::Edit {
            request,
            workspace,
            documents: edited,
            rows,
        };
        self.give(node, Input::Edit(edit));
        Some(request)
    }

    /// The actor under which a node writes to a document in its present incarnation.
    fn actor(&mut self, node: NodeId, document: &DocumentId) -> [u8; 16] {
        let incarnation = match self.nodes[node].host.documents.incarnation {
            Some(incarnation) => incarnation,
            None => {
                let mut minted = [0; 16];
                self.rng.fill_bytes(&mut minted);
                self.nodes[node].host.documents.incarnation = Some(minted);
                minted
            }
        };
        derive_actor(&self.peer(node), document, &incarnation)
    }

    /// Takes a document out of those that are open, up to date, or reads it. `None` if it is not there
    /// and no kind says how to begin it, if it was purged, or if it does not read.
    pub(crate) fn bring_up(
        &mut self,
        node: NodeId,
        place: Place,
        begin: Option<DocumentKind>,
    ) -> Option<Open> {
        let documents = &mut self.nodes[node].host.documents;
        let open = documents.open.remove(&place);
        if let Some(mut open) = open {
            documents.bytes -= open.bytes;
            if self.apply_noted(node, place, &mut open) {
                return Some(open);
            }
        }
        match self.read_document(node, place, begin) {
            Ok(document) => document.map(|document| Open {
                document,
                noted: Vec::new(),
                bytes: 0,
                used: 0,
            }),
            Err(StoreError::Damaged { .. }) => {
                let (workspace, document) = place;
                let suspect = Input::Suspect {
                    workspace,
                    document: Some(document),
                };
                self.give(node, suspect);
                None
            }
            Err(error) => panic!("an open store reads: {error}"),
        }
    }

    /// Applies what peers sent meanwhile, in one batch; whether all of it was there.
    fn apply_noted(&self, node: NodeId, (workspace, id): Place, open: &mut Open) -> bool {
        let noted = std::mem::take(&mut open.noted);
        let lacking = noted
            .into_iter()
            .filter(|hash| !open.document.lacking([*hash]).is_empty());
        let reader = &self.disk(node).rotting;
        let mut bodies = Vec::new();
        for hash in lacking.collect::<BTreeSet<_>>() {
            let read = reader.read(&Key::change(&workspace, &id, &hash));
            let row = read.ok().flatten().map(|value| ChangeRow::decode(&value));
            match row {
                Some(Ok(row)) => bodies.push(row.body),
                // In a snapshot by now, purged, or damaged.
                _ => return false,
            }
        }
        bodies.is_empty()
            || open
                .document
                .apply(bodies.iter().map(|body| &body[..]))
                .is_ok()
    }

    fn read_document(
        &mut self,
        node: NodeId,
        place: Place,
        begin: Option<DocumentKind>,
    ) -> Result<Option<Document>, StoreError> {
        let (workspace, id) = place;
        let reader = self.disk(node).rotting.clone();
        let (kind, chunks) = match head(&reader, &workspace, &id)? {
            Some(row) if row.purged_at.is_some() => return Ok(None),
            Some(row) => (row.kind, chunks(&reader, &workspace, &id)?),
            None => {
                // It may be on its way, and nothing else.
                let local = self.nodes[node].host.documents.local.values().flatten();
                let begun = local.into_iter().any(|(of, _)| *of == place);
                match begin.or_else(|| begun.then(|| kind_of(&id))) {
                    Some(kind) => (kind, Vec::new()),
                    None => return Ok(None),
                }
            }
        };
        let bodies = chunks.iter().map(|chunk| &chunk[..]);
        let read = materialise(kind, bodies, Purpose::Edit, &self.counter);
        let mut document = match read {
            Ok(document) => document,
            Err(error) => self.fail(format_args!("{id} of node {node} does not load: {error}")),
        };
        // What is on its way, too; what does not follow from what is stored waits outside the view.
        let local = self.nodes[node].host.documents.local.values().flatten();
        let local = local.filter(|(of, _)| *of == place);
        let local: Vec<_> = local.flat_map(|(_, made)| made).collect();
        let applied = document.apply(local.iter().map(|made| made.bytes.as_slice()));
        if let Err(error) = applied {
            self.fail(format_args!("{id} of node {node} refuses its own: {error}"));
        }
        Ok(Some(document))
    }

    /// A reader looks: what it saw before is still there.
    fn check_seen(&mut self, node: NodeId, place: Place, document: &Document) {
        let state = state(document);
        let seen = self.nodes[node].host.documents.seen.get(&place);
        // What rots, or is lost with a store, is seen to go.
        if let Some(seen) = seen.filter(|_| !self.rewritten(node)) {
            let gone = document.lacking(seen.heads.iter().copied());
            if !gone.is_empty() {
                let id = place.1;
                self.fail(format_args!(
                    "node {node} saw more of {id}: {gone:?} is gone"
                ));
            }
            if state < seen.state {
                let (id, before) = (place.1, seen.state);
                self.fail(format_args!(
                    "node {node} sees {id} go back from {before:?} to {state:?}"
                ));
            }
        }
        let heads = document.heads();
        let documents = &mut self.nodes[node].host.documents;
        documents.seen.insert(place, Seen { heads, state });
    }

    /// Memory of the documents that a host has open, in bytes.
    pub(crate) fn open_bytes(&self, node: NodeId) -> usize {
        let open = self.nodes[node].host.documents.open.values();
        open.map(|open| open.document.memory_bytes()).sum()
    }

    fn check_memory(&self, node: NodeId) {
        let bytes = self.open_bytes(node);
        if bytes > OPEN_BYTES_MAX || bytes != self.nodes[node].host.documents.bytes {
            self.fail(format_args!(
                "node {node} has {bytes} bytes of documents open"
            ));
        }
    }

    /// What a host of real documents does when it is told something.
    pub(crate) fn on_document_event(&mut self, node: NodeId, event: &Event) {
        let reader = self.disk(node).rotting.clone();
        let documents = &mut self.nodes[node].host.documents;
        match event {
            Event::EditDurable { request, .. } => {
                // It may be in the journal only; it goes once whoever reads sees it.
                let is_there = |(place, made): &(Place, Vec<EncodedChange>)| {
                    let mut made = made.iter();
                    made.all(|change| {
                        let key = Key::change(&place.0, &place.1, &change.hash);
                        reader.contains(&key).unwrap_or(true)
                    })
                };
                let safe = &documents.local;
                let safe = safe.get(request).is_some_and(|of| of.iter().all(is_there));
                if safe {
                    documents.local.remove(request);
                }
                let meanings = &mut self.knowledge.meanings;
                for (place, state) in meanings.reaching.remove(request).unwrap_or_default() {
                    let reached = meanings.reached.entry(place).or_insert(state);
                    *reached = state.max(*reached);
                }
            }
            Event::EditRefused { request, .. } => {
                for (place, _) in documents.local.remove(request).unwrap_or_default() {
                    documents.forget(&place);
                    documents.seen.remove(&place);
                }
                documents.incarnation = None;
                self.knowledge.meanings.reaching.remove(request);
            }
            Event::DocumentChanged {
                workspace,
                document,
                changes,
                snapshot,
                ..
            } => {
                let place = (*workspace, *document);
                if *snapshot {
                    documents.forget(&place);
                } else if let Some(open) = documents.open.get_mut(&place) {
                    open.noted.extend(changes);
                }
            }
            Event::DocumentPurged {
                workspace,
                document,
                ..
            } => {
                documents.forget(&(*workspace, *document));
                documents.seen.remove(&(*workspace, *document));
            }
            Event::DocumentDamaged {
                workspace,
                document,
                ..
            } => {
                documents.forget(&(*workspace, *document));
                documents.seen.remove(&(*workspace, *document));
                documents.incarnation = None;
            }
            Event::Restored { restored, .. } => {
                let workspace = crate::world::workspace(1);
                for document in &restored.documents {
                    documents.forget(&(workspace, *document));
                }
            }
            // The product's host opens none before: what the journal brought back is in none of them.
            Event::ReplayDone { .. } => documents.close(),
            Event::StoreFailed { .. } => {
                documents.close();
                documents.seen.clear();
                documents.incarnation = None;
            }
            _ => {}
        }
    }

    /// Checks that nodes that hold the same read the same, to the byte; that no meeting is behind what
    /// was said to be reached; and that a deletion has effect exactly if nothing was unseen.
    pub fn check_documents(&self, nodes: &[NodeId], workspace: WorkspaceId) {
        if !self.real {
            return;
        }
        let mut known: BTreeMap<DocumentId, (NodeId, String)> = BTreeMap::new();
        // What is made of the same chunks in the same order is the same.
        let mut read_already = BTreeSet::new();
        for node in nodes {
            for (document, kind, chunks) in self.all_chunks(*node, workspace) {
                let place = (workspace, document);
                if self.knowledge.purged.contains(&place)
                    || !read_already.insert((document, chunks.clone()))
                {
                    continue;
                }
                let read = self.read_chunks(*node, document, kind, &chunks);
                let export = export_document(document, &read);
                let export = canonical_json(&export.expect("a loaded document reads"));
                match known.get(&document) {
                    Some((other, theirs)) if *theirs != export => {
                        self.fail(format_args!(
                            "nodes {other} and {node} read {document} otherwise: {theirs} and {export}"
                        ));
                    }
                    Some(_) => continue,
                    None => {}
                }
                if read.kind() == MEETING {
                    self.check_meeting(place, &read);
                }
                known.insert(document, (*node, export));
            }
        }
        self.check_commands(nodes, workspace);
    }

    pub(crate) fn all_documents(
        &self,
        node: NodeId,
        workspace: WorkspaceId,
    ) -> Vec<(DocumentId, Document)> {
        let all = self.all_chunks(node, workspace).into_iter();
        all.map(|(id, kind, chunks)| (id, self.read_chunks(node, id, kind, &chunks)))
            .collect()
    }

    /// What a node has of every document of which it has changes.
    fn all_chunks(
        &self,
        node: NodeId,
        workspace: WorkspaceId,
    ) -> Vec<(DocumentId, DocumentKind, Vec<Bytes>)> {
        let reader = &self.disk(node).reader;
        let ids: BTreeSet<_> = self.held(node, workspace).into_iter().collect();
        let ids: BTreeSet<_> = ids.into_iter().map(|(_, document, _)| document).collect();
        let all = ids.into_iter().filter_map(|id| {
            let row = head(reader, &workspace, &id).expect("an open store reads")?;
            let chunks = chunks(reader, &workspace, &id).expect("an open store reads");
            Some((id, row.kind, chunks))
        });
        all.collect()
    }

    fn read_chunks(
        &self,
        node: NodeId,
        id: DocumentId,
        kind: DocumentKind,
        chunks: &[Bytes],
    ) -> Document {
        let bodies = chunks.iter().map(|chunk| &chunk[..]);
        match materialise(kind, bodies, Purpose::Read, &MaterialiseCounter::new()) {
            Ok(document) => document,
            Err(error) => self.fail(format_args!("{id} of node {node} does not load: {error}")),
        }
    }

    fn check_meeting(&self, place: Place, document: &Document) {
        let meeting = document.meeting().expect("a loaded document reads");
        let meanings = &self.knowledge.meanings;
        let reached = meanings.reached.get(&place);
        if reached.is_some_and(|reached| meeting.state < Some(*reached)) {
            let (id, state) = (place.1, meeting.state);
            self.fail(format_args!("{id} went back from {reached:?} to {state:?}"));
        }
        if let Some(deletion) = meeting.deletion {
            let mut heads = document.heads().into_iter();
            let saw_all = heads.all(|head| meanings.deletions.contains(&head));
            if deletion.saw_all != saw_all {
                let id = place.1;
                self.fail(format_args!(
                    "the deletion of {id} has seen all: {saw_all}, it says {deletion:?}"
                ));
            }
        }
    }
}

/// What is done to one document in an edit.
pub(crate) enum Edits {
    One(ModelEdit),
    /// Something is written, under an id of its own.
    Written(Vec<(String, String)>),
    /// A command ends.
    End(Outcome),
    /// A run begins.
    Start(RunDraft),
    /// Whatever this does.
    By(Edit),
}

type Edit = Box<dyn Fn(&mut Editor) -> Result<(), ModelError>>;

impl Edits {
    pub(crate) fn by(edit: impl Fn(&mut Editor) -> Result<(), ModelError> + 'static) -> Self {
        Self::By(Box::new(edit))
    }

    /// The changes, none where the model refuses.
    fn make(&self, document: &mut Document, actor: &[u8; 16], now: WallTime) -> Vec<EncodedChange> {
        match self {
            Self::One(edit) => edit.make(document, actor, now).unwrap_or_default(),
            Self::End(outcome) => {
                let end = |editor: &mut Editor| editor.command()?.finish(outcome);
                edit_by(&end, document, actor, now)
            }
            Self::Start(draft) => {
                let start = |editor: &mut Editor| editor.integration()?.start_run(draft);
                edit_by(&start, document, actor, now)
            }
            Self::By(edit) => edit_by(edit, document, actor, now),
            Self::Written(all) => {
                let mut changes = Vec::new();
                for (id, text) in all {
                    let made = document.edit(actor, now, |editor| write(editor, id, text));
                    match made {
                        Ok(((), made)) => changes.extend(made),
                        Err(
                            EditError::Refused(ModelError::PageFull) | EditError::ReadOnly { .. },
                        ) => {}
                        Err(error) => panic!("a document is not written to: {error}"),
                    }
                }
                changes
            }
        }
    }
}

/// The changes of an edit, none where the model refuses.
fn edit_by(
    edit: &dyn Fn(&mut Editor) -> Result<(), ModelError>,
    document: &mut Document,
    actor: &[u8; 16],
    now: WallTime,
) -> Vec<EncodedChange> {
    match document.edit(actor, now, |editor| edit(editor)) {
        Ok(((), changes)) => changes,
        Err(EditError::Refused(_) | EditError::ReadOnly { .. }) => Vec::new(),
        Err(error) => panic!("a document is not written to: {error}"),
    }
}

/// Begins a document if nobody has, and adds something to it.
fn write(editor: &mut Editor, id: &str, text: &str) -> Result<(), ModelError> {
    if let Ok(mut meeting) = editor.meeting() {
        if !meeting.is_created()? {
            meeting.create("A meeting", None)?;
        }
        return match text.len() <= NOTE_BYTES_MAX {
            true => meeting.append_note(text),
            false => meeting.add_action_item(id, text, None),
        };
    }
    if let Ok(mut page) = editor.transcript() {
        page.create(&PageHeader {
            meeting: DocumentId::from_bytes([1; 16]),
            recorder: "recorder",
            page: 0,
            timebase: Timebase::Ms,
        })?;
        return page.append_segment(&Segment {
            id: id.to_owned(),
            start: 0,
            end: None,
            speaker: None,
            text: text.to_owned(),
        });
    }
    editor.workspace()?.set_setting(id, Some(text))
}

fn state(document: &Document) -> Option<State> {
    match document.kind() {
        MEETING => document.meeting().expect("an open document reads").state,
        _ => None,
    }
}
