//! Finding out what differs where no cursor can be trusted, and exchanging exactly that.
//!
//! A run: both sides freeze their catalogue (document and digest of its stored heads, 32 bytes
//! each); the dialling side drives range-based set reconciliation (negentropy, protocol version 1)
//! over it; each side asks for the documents it lacks something of, saying what it has; each answers
//! with exactly what is missing and ends with the point of its feed at which the catalogue was
//! frozen, which is then where the other's cursor stands. Runs repeat until one finds nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use negentropy::{Id, Negentropy, NegentropyStorageVector};

use super::ingest::CursorMove;
use super::purge::tombstone_of;
use super::{CloseReason, Engine, Event, ReadQuery, Reading, WorkspaceState};
use crate::feed::{FeedPoint, heads_digest};
use crate::guard::{ActorId, parse_change};
use crate::ids::{BatchId, DocumentId, DocumentKind, LinkId, ReadId, WorkspaceId};
use crate::keys::{Key, KeyRange};
use crate::limits;
use crate::mutants::Mutant;
use crate::records::{ActorProgress, ChangeRow, HeadRow, Record as _, RecordError, SnapshotRow};
use crate::storage::{Direction, Rows, Scan};
use crate::wire::{
    Changes, DocumentChanges, Done, Frame, KnownActor, Purged, Reconcile, Want, WantDocument,
};

/// One run as far as this side has come.
pub(super) struct Reconciliation {
    run: u32,
    /// Our feed when the catalogue was frozen, as far as the store was sure to show it.
    point: Option<FeedPoint>,
    /// The catalogue so far, and the read of its next page.
    building: Option<(NegentropyStorageVector, ReadId)>,
    session: Option<Negentropy<'static, NegentropyStorageVector>>,
    /// A message that came while the catalogue was being read.
    waiting: Option<Bytes>,
    rounds: u32,
    /// Catalogue items only one side has; the document is their first half.
    here: BTreeSet<DocumentId>,
    there: BTreeSet<DocumentId>,
    their_last_want: bool,
    our_last_want: bool,
    sent_done: bool,
    /// Where their feed ends as far as this run goes, once they ended it.
    got_done: Option<FeedPoint>,
}

impl std::fmt::Debug for Reconciliation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reconciliation")
            .field("run", &self.run)
            .field("point", &self.point)
            .field("rounds", &self.rounds)
            .finish_non_exhaustive()
    }
}

impl Reconciliation {
    /// Cursors are not trusted; the dialling side has yet to begin.
    pub(super) fn awaiting() -> Self {
        Self {
            run: 0,
            point: None,
            building: None,
            session: None,
            waiting: None,
            rounds: 0,
            here: BTreeSet::new(),
            there: BTreeSet::new(),
            their_last_want: false,
            our_last_want: false,
            sent_done: false,
            got_done: None,
        }
    }
}

/// Documents asked for and to be answered, on one link for one workspace.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Documents to ask for, and whether the peer should ask back.
    wants: VecDeque<(DocumentId, bool)>,
    asking: Option<Vec<(DocumentId, bool)>>,
    /// Documents the peer lacks something of, and what it has.
    answers: VecDeque<(DocumentId, Vec<KnownActor>)>,
    answering: Option<Answering>,
    /// Bodies ready to be sent.
    ready: VecDeque<Ready>,
    ready_bytes: usize,
    /// Documents asked for to be healed, until the answer ends.
    asked: BTreeMap<DocumentId, Asked>,
    /// The last batch that may have been visible when `ready` was read; nothing leaves before it.
    barrier: Option<BatchId>,
}

/// Times that an answer is read anew because compaction came in between.
const ANSWER_READS_MAX: u32 = 8;

/// A document being read to answer a want.
#[derive(Debug)]
struct Answering {
    document: DocumentId,
    /// Known once its head row was read.
    kind: Option<DocumentKind>,
    known: Vec<KnownActor>,
    /// How many changes its head row says are stored singly.
    singly: u64,
    /// How often something that its head row named was gone: compaction comes in between at most so
    /// often, then it is damage.
    read_again: u32,
}

/// A body to send.
#[derive(Debug)]
struct Ready {
    document: DocumentId,
    kind: DocumentKind,
    is_snapshot: bool,
    body: Bytes,
    /// The document's tombstone, which is sent alone.
    purged: Option<Purged>,
}

impl Ready {
    fn bytes(&self) -> usize {
        self.body.len() + self.purged.as_ref().map_or(0, Purged::bytes)
    }
}

/// What became of a document since it was asked for to be healed.
#[derive(Debug, Default)]
struct Asked {
    /// Changes of it in the feed were refused after it was asked for, or something came that it builds
    /// on: it has to be asked for again once this answer has ended. Two answers at once could end in one
    /// frame, as one.
    is_due_again: bool,
    /// An answer was refused, too, perhaps one of a run: the peer lacks the same, unless more came since.
    is_hopeless: bool,
}

/// What the end of an answer means for a document that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Healing {
    /// Nothing of it is lacking any more.
    Done,
    /// More of it was refused since, or may be taken now: it has to be asked for again.
    AskAgain,
    /// It cannot be told yet, or the peer cannot help.
    Open,
}

impl super::follow::Flow {
    /// Says that an answer to whoever wants to heal a document is complete; runs have an end anyway.
    fn end_answer(&mut self, document: DocumentId, kind: Option<DocumentKind>) {
        if self.reconciling.is_none() {
            let kind = kind.unwrap_or(DocumentKind(0));
            let end = std::iter::once(Bytes::new());
            self.exchange.add_ready((document, kind), false, end);
        }
    }
}

impl Exchange {
    /// Changes of a document were refused for want of others.
    pub(super) fn note_refused(&mut self, document: &DocumentId, by_feed: bool) -> Healing {
        match self.asked.get_mut(document) {
            Some(asked) => {
                asked.is_due_again |= by_feed;
                asked.is_hopeless |= !by_feed;
                Healing::Open
            }
            // What the peer could not help with before it may help with now that it has more of it.
            None if by_feed => Healing::AskAgain,
            None => Healing::Open,
        }
    }

    /// Changes of a document were taken: what was refused may follow from them.
    pub(super) fn note_taken(&mut self, document: &DocumentId) {
        if let Some(asked) = self.asked.get_mut(document) {
            asked.is_due_again |= asked.is_hopeless;
        }
    }

    /// An answer ended.
    pub(super) fn note_answered(&mut self, document: &DocumentId) -> Healing {
        match self.asked.remove(document) {
            Some(Asked {
                is_due_again: true, ..
            }) => Healing::AskAgain,
            Some(Asked {
                is_hopeless: false, ..
            }) => Healing::Done,
            _ => Healing::Open,
        }
    }

    /// The documents whose head rows are being read to ask for them.
    pub(super) fn asking(&self) -> Vec<DocumentId> {
        let asking = self.asking.iter().flatten();
        asking.map(|(document, _)| *document).collect()
    }

    /// The document that is being read to answer a want.
    pub(super) fn answering(&self) -> Option<DocumentId> {
        Some(self.answering.as_ref()?.document)
    }

    /// Whether a document is being asked for, to be healed.
    pub(super) fn is_asked(&self, document: &DocumentId) -> bool {
        self.asked.contains_key(document)
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether nothing is asked for, answered or waiting.
    pub(super) fn is_quiet(&self) -> bool {
        self.wants.is_empty() && self.asking.is_none() && self.is_drained()
    }

    fn add_ready(
        &mut self,
        (document, kind): (DocumentId, DocumentKind),
        is_snapshot: bool,
        bodies: impl IntoIterator<Item = Bytes>,
    ) {
        for body in bodies {
            self.ready_bytes += body.len();
            self.ready.push_back(Ready {
                document,
                kind,
                is_snapshot,
                body,
                purged: None,
            });
        }
    }

    fn add_tombstone(&mut self, (document, kind): (DocumentId, DocumentKind), purged: Purged) {
        let ready = Ready {
            document,
            kind,
            is_snapshot: false,
            body: Bytes::new(),
            purged: Some(purged),
        };
        self.ready_bytes += ready.bytes();
        self.ready.push_back(ready);
    }

    /// The document that is being answered, with its kind.
    fn place(&self) -> Option<(DocumentId, DocumentKind)> {
        let answering = self.answering.as_ref()?;
        Some((answering.document, answering.kind?))
    }

    fn is_drained(&self) -> bool {
        self.answers.is_empty() && self.answering.is_none() && self.ready.is_empty()
    }
}

impl Engine {
    /// Begins a run: reads the catalogue, then says the first word.
    pub(super) fn start_reconcile(&mut self, link: LinkId, workspace: WorkspaceId, run: u32) {
        let Some(point) = self.ready(&workspace).map(|state| state.stored) else {
            return;
        };
        let range = KeyRange::heads(&workspace);
        let read = self.read_catalogue(link, workspace, range);
        if let Some(flow) = self.flow(link, &workspace) {
            flow.stop_following();
            flow.reconciling = Some(Reconciliation {
                run,
                point: Some(point),
                building: Some((NegentropyStorageVector::new(), read)),
                ..Reconciliation::awaiting()
            });
        }
    }

    fn read_catalogue(&mut self, link: LinkId, workspace: WorkspaceId, range: KeyRange) -> ReadId {
        let scan = Scan::ascending(range, limits::CATALOGUE_PAGE_ROWS);
        self.read(ReadQuery::Scan(scan), Reading::Catalogue(link, workspace))
    }

    pub(super) fn on_catalogue_page(
        &mut self,
        read: ReadId,
        link: LinkId,
        workspace: WorkspaceId,
        rows: &Rows,
    ) -> Result<(), RecordError> {
        let Some(dialed) = self.links.get(&link).map(|state| state.dialed) else {
            return Ok(());
        };
        let Some(flow) = self.flow(link, &workspace) else {
            return Ok(());
        };
        let Some(session) = flow.reconciling.as_mut() else {
            return Ok(());
        };
        let Some((catalogue, awaited)) = session.building.as_mut() else {
            return Ok(());
        };
        if *awaited != read {
            return Ok(()); // Asked for by a run that is over.
        }
        for (key, value) in &rows.rows {
            let Some(document) = key.document() else {
                continue;
            };
            let row = HeadRow::decode(value)?;
            let mut item = [0; 32];
            item[..16].copy_from_slice(document.as_bytes());
            // A document that lacks ancestors may have the heads of one that does not.
            let version = heads_digest(row.heads.iter().chain(&row.missing));
            item[16..].copy_from_slice(version.as_bytes());
            if catalogue.insert(0, Id::from_byte_array(item)).is_err() {
                panic!("an unsealed catalogue takes items");
            }
        }
        if let (true, Some((last, _))) = (rows.more, rows.rows.last()) {
            let range = KeyRange::heads(&workspace).after(last);
            let next = self.read_catalogue(link, workspace, range);
            if let Some(session) = self.session(link, &workspace)
                && let Some((_, awaited)) = session.building.as_mut()
            {
                *awaited = next;
            }
            return Ok(());
        }
        let Some((mut catalogue, _)) = session.building.take() else {
            return Ok(());
        };
        let limit = limits::RECONCILE_MESSAGE_BYTES_MAX as u64;
        let ready = catalogue
            .seal()
            .and_then(|()| Negentropy::owned(catalogue, limit));
        let mut negentropy = match ready {
            Ok(negentropy) => negentropy,
            Err(error) => panic!("a fresh catalogue can be sealed: {error}"),
        };
        let run = session.run;
        if dialed {
            let first = negentropy.initiate();
            session.session = Some(negentropy);
            match first {
                Ok(message) => self.send_reconcile(link, workspace, run, message),
                Err(error) => self.fault(link, format!("reconciliation cannot begin: {error}")),
            }
        } else {
            session.session = Some(negentropy);
            if let Some(message) = session.waiting.take() {
                self.answer_reconcile(link, workspace, &message);
            }
        }
        Ok(())
    }

    /// Asks the dialling side to begin.
    pub(super) fn ask_to_reconcile(&mut self, link: LinkId, workspace: WorkspaceId) {
        self.send_reconcile(link, workspace, 0, Vec::new());
    }

    fn send_reconcile(&mut self, link: LinkId, workspace: WorkspaceId, run: u32, message: Vec<u8>) {
        self.send(
            link,
            &Frame::Reconcile(Reconcile {
                workspace,
                run,
                message: message.into(),
            }),
        );
    }

    pub(super) fn on_reconcile(&mut self, link: LinkId, frame: &Reconcile) {
        let workspace = frame.workspace;
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let dialed = state.dialed;
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return self.fault(
                link,
                "reconciliation of a workspace that is not shared".to_owned(),
            );
        };
        if frame.message.len() > limits::RECONCILE_MESSAGE_BYTES_MAX {
            return self.fault(link, "a reconciliation message that is too long".to_owned());
        }
        if dialed {
            if frame.message.is_empty() {
                if flow
                    .reconciling
                    .as_ref()
                    .is_none_or(|session| session.run == 0)
                {
                    self.start_reconcile(link, workspace, 1);
                }
                return;
            }
            return self.continue_reconcile(link, workspace, frame);
        }
        let current = flow.reconciling.as_ref().map_or(0, |session| session.run);
        if frame.run > current || flow.reconciling.is_none() {
            if frame.run > limits::RECONCILE_RUNS_MAX {
                return self.fault(link, "too many runs of reconciliation".to_owned());
            }
            self.start_reconcile(link, workspace, frame.run);
            if let Some(session) = self.session(link, &workspace) {
                session.waiting = Some(frame.message.clone());
            }
            return;
        }
        let Some(session) = self.session(link, &workspace) else {
            return;
        };
        if frame.run != session.run {
            return self.fault(link, "a reconciliation message of another run".to_owned());
        }
        session.rounds += 1;
        if session.rounds > limits::RECONCILE_ROUNDS_MAX || session.waiting.is_some() {
            return self.fault(link, "too many rounds of reconciliation".to_owned());
        }
        if session.session.is_none() {
            session.waiting = Some(frame.message.clone());
            return;
        }
        self.answer_reconcile(link, workspace, &frame.message.clone());
    }

    fn session(&mut self, link: LinkId, workspace: &WorkspaceId) -> Option<&mut Reconciliation> {
        self.flow(link, workspace)?.reconciling.as_mut()
    }

    fn answer_reconcile(&mut self, link: LinkId, workspace: WorkspaceId, message: &Bytes) {
        let Some(session) = self.session(link, &workspace) else {
            return;
        };
        let run = session.run;
        let Some(negentropy) = session.session.as_mut() else {
            return;
        };
        match negentropy.reconcile(message) {
            Ok(answer) => self.send_reconcile(link, workspace, run, answer),
            Err(error) => self.fault(link, format!("a malformed reconciliation message: {error}")),
        }
    }

    fn continue_reconcile(&mut self, link: LinkId, workspace: WorkspaceId, frame: &Reconcile) {
        let Some(session) = self.session(link, &workspace) else {
            return self.fault(link, "a reconciliation message out of turn".to_owned());
        };
        let run = session.run;
        session.rounds += 1;
        if frame.run != run || session.rounds > limits::RECONCILE_ROUNDS_MAX {
            return self.fault(link, "a reconciliation message out of turn".to_owned());
        }
        let Some(negentropy) = session.session.as_mut() else {
            return self.fault(link, "a reconciliation message out of turn".to_owned());
        };
        let (mut have, mut need) = (Vec::new(), Vec::new());
        match negentropy.reconcile_with_ids(&frame.message, &mut have, &mut need) {
            Ok(next) => {
                session.here.extend(have.iter().map(document_of));
                session.there.extend(need.iter().map(document_of));
                match next {
                    Some(message) => self.send_reconcile(link, workspace, run, message),
                    None => self.exchange_differences(link, workspace),
                }
            }
            Err(error) => self.fault(link, format!("a malformed reconciliation message: {error}")),
        }
    }

    /// The dialling side knows every document that differs: asks for what it may lack, and answers
    /// unasked where the other side has nothing.
    fn exchange_differences(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return;
        };
        let Some(session) = flow.reconciling.as_mut() else {
            return;
        };
        session.session = None;
        for document in &session.there {
            let mutual = session.here.contains(document);
            state.stats.documents_compared += u64::from(mutual);
            flow.exchange.wants.push_back((*document, mutual));
        }
        let left_out = usize::from(self.config.mutants.has(Mutant::ComparesInPart));
        for document in session.here.difference(&session.there).skip(left_out) {
            flow.exchange.answers.push_back((*document, Vec::new()));
        }
        self.send_wants(link, workspace);
        self.send_exchange(link, workspace);
    }

    /// Compares a workspace with a peer whose cursor is found out to mean nothing while it is followed.
    pub(super) fn compare_anew(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let (peer, dialed) = (state.peer, state.dialed);
        if let Some(flow) = state.flows.get_mut(&workspace) {
            flow.stop_following();
            flow.reconciling = Some(Reconciliation::awaiting());
        }
        if let Some(record) = self
            .ready(&workspace)
            .and_then(|known| known.peers.get_mut(&peer))
        {
            record.dirty |= record.row.acknowledged.take().is_some();
        }
        if dialed {
            self.start_reconcile(link, workspace, 1);
        } else {
            // An empty message asks the dialling side to begin.
            self.send_reconcile(link, workspace, 0, Vec::new());
        }
    }

    /// Asks again for what was refused for want of its dependencies: they may have come since.
    pub(super) fn want_refused(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(peer) = self.links.get(&link).map(|state| state.peer) else {
            return;
        };
        let Some(known) = self
            .ready(&workspace)
            .and_then(|state| state.peers.get(&peer))
        else {
            return;
        };
        let refused = known.row.refused_here.keys();
        let lacking: Vec<_> = refused
            .filter(|document| known.row.lacks_dependencies_of(document))
            .copied()
            .collect();
        if !lacking.is_empty() {
            self.want_documents(link, workspace, lacking);
        }
    }

    /// Asks for documents whose changes arrived without what they depend on.
    pub(super) fn want_documents(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        documents: Vec<DocumentId>,
    ) {
        if let Some(flow) = self.flow(link, &workspace) {
            let Exchange { asked, wants, .. } = &mut flow.exchange;
            for document in documents {
                match asked.get_mut(&document) {
                    Some(asked) => asked.is_due_again = true,
                    None => {
                        asked.insert(document, Asked::default());
                        wants.push_back((document, false));
                    }
                }
            }
            self.send_wants(link, workspace);
        }
    }

    fn send_wants(&mut self, link: LinkId, workspace: WorkspaceId) {
        const WANTS_PER_READ: usize = 256;
        let Some(flow) = self.flow(link, &workspace) else {
            return;
        };
        if flow.exchange.asking.is_some() {
            return;
        }
        let count = flow.exchange.wants.len().min(WANTS_PER_READ);
        if count == 0 {
            return self.finish_wants(link, workspace);
        }
        let batch: Vec<_> = flow.exchange.wants.drain(..count).collect();
        let keys = batch
            .iter()
            .map(|(document, _)| Key::head(&workspace, document))
            .collect();
        flow.exchange.asking = Some(batch);
        self.read(ReadQuery::Values(keys), Reading::WantRows(link, workspace));
    }

    pub(super) fn on_want_rows(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        values: &[Option<Bytes>],
    ) -> Result<(), RecordError> {
        const KNOWN_PER_FRAME: usize = 1024;
        let Some(flow) = self.flow(link, &workspace) else {
            return Ok(());
        };
        let Some(batch) = flow.exchange.asking.take() else {
            return Ok(());
        };
        let run = flow.reconciling.as_ref().map_or(0, |session| session.run);
        let mut frames = Vec::new();
        let mut documents = Vec::new();
        let mut known_count = 0;
        for ((document, mutual), value) in batch.into_iter().zip(values) {
            let row = value
                .as_ref()
                .map(|value| HeadRow::decode(value))
                .transpose()?;
            let known = row.map_or_else(Vec::new, |row| known_of(&row.actors));
            if known_count + known.len() >= KNOWN_PER_FRAME && !documents.is_empty() {
                frames.push(std::mem::take(&mut documents));
                known_count = 0;
            }
            known_count += known.len() + 1;
            documents.push(WantDocument {
                document,
                known,
                mutual,
            });
        }
        if !documents.is_empty() {
            frames.push(documents);
        }
        for documents in frames {
            self.send(
                link,
                &Frame::Want(Want {
                    workspace,
                    run,
                    documents,
                    last: false,
                }),
            );
        }
        self.send_wants(link, workspace);
        Ok(())
    }

    /// All our wants of the run are out: say so, once the other side cannot cause more.
    fn finish_wants(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let dialed = state.dialed;
        let Some(session) = self.session(link, &workspace) else {
            return;
        };
        let (run, decided) = (
            session.run,
            if dialed {
                true
            } else {
                session.their_last_want
            },
        );
        let looking = session.building.is_some() || session.session.is_some();
        if session.our_last_want {
            // Wants that came up since, to heal a document, are out now, too.
            return self.finish_run(link, workspace);
        }
        if !decided || run == 0 || (looking && dialed) {
            return;
        }
        session.our_last_want = true;
        let documents = Vec::new();
        self.send(
            link,
            &Frame::Want(Want {
                workspace,
                run,
                documents,
                last: true,
            }),
        );
        self.finish_run(link, workspace);
    }

    pub(super) fn on_want(&mut self, link: LinkId, want: Want) {
        let workspace = want.workspace;
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return self.fault(link, "wants of a workspace that is not shared".to_owned());
        };
        if flow.exchange.answers.len() + want.documents.len() > limits::WANTS_QUEUED_MAX {
            return self.fault(link, "too many documents are wanted at once".to_owned());
        }
        for document in want.documents {
            if document.mutual {
                flow.exchange.wants.push_back((document.document, false));
                state.stats.documents_compared += 1;
            }
            flow.exchange
                .answers
                .push_back((document.document, document.known));
        }
        if want.last {
            match flow
                .reconciling
                .as_mut()
                .filter(|session| session.run == want.run)
            {
                Some(session) => session.their_last_want = true,
                None => return self.fault(link, "the last want of another run".to_owned()),
            }
        }
        self.send_wants(link, workspace);
        self.send_exchange(link, workspace);
    }

    /// Reads the next document to answer with, and sends bodies as the window allows.
    pub(super) fn send_exchange(&mut self, link: LinkId, workspace: WorkspaceId) {
        while self.send_exchange_frame(link, workspace) {}
        let Some(flow) = self.flow(link, &workspace) else {
            return;
        };
        let exchange = &mut flow.exchange;
        let may_read = exchange.answering.is_none() && exchange.ready_bytes < limits::WINDOW_BYTES;
        let next = if may_read {
            exchange.answers.pop_front()
        } else {
            None
        };
        let Some((document, known)) = next else {
            return self.finish_run(link, workspace);
        };
        exchange.answering = Some(Answering {
            document,
            kind: None,
            known,
            singly: 0,
            read_again: 0,
        });
        let query = ReadQuery::Values(vec![Key::head(&workspace, &document)]);
        self.read(query, Reading::ExchangeHead(link, workspace));
    }

    /// How a document is answered with: its single changes are read and sorted out; its snapshots go
    /// as they are to a peer that takes them and lacks much; for any other they have to be loaded.
    pub(super) fn on_exchange_head(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        values: &[Option<Bytes>],
    ) -> Result<(), RecordError> {
        let barrier = self.last_batch;
        let Some(flow) = self.flow(link, &workspace) else {
            return Ok(());
        };
        let takes_snapshots = flow.they_take_snapshots;
        flow.exchange.barrier = barrier;
        let Some(mut answering) = flow.exchange.answering.take() else {
            return Ok(());
        };
        let Some(Some(value)) = values.first() else {
            flow.end_answer(answering.document, None); // We have nothing of it either.
            self.send_exchange(link, workspace);
            return Ok(());
        };
        let row = HeadRow::decode(value)?;
        answering.kind = Some(row.kind);
        answering.singly = row.change_count;
        let document = answering.document;
        if let Some(purged) = tombstone_of(&row) {
            flow.exchange.add_tombstone((document, row.kind), purged);
            flow.end_answer(document, Some(row.kind));
            self.send_exchange(link, workspace);
            return Ok(());
        }
        let lacking = lacking(&row, &answering.known);
        let worth = row.snapshot_bytes() <= lacking.saturating_mul(limits::LACKING_CHANGE_BYTES);
        let (query, reading) = if row.snapshots.is_empty() {
            (
                changes_of(&workspace, &document),
                Reading::Exchange(link, workspace),
            )
        } else if takes_snapshots && worth {
            let keys = row.snapshots.iter();
            let keys = keys.map(|snapshot| Key::snapshot(&workspace, &document, &snapshot.hash));
            (
                ReadQuery::Values(keys.collect()),
                Reading::ExchangeSnapshots(link, workspace),
            )
        } else {
            let query = ReadQuery::Beyond {
                workspace,
                document,
                known: answering.known.clone(),
            };
            (query, Reading::ExchangeBeyond(link, workspace))
        };
        if let Some(flow) = self.flow(link, &workspace) {
            flow.exchange.answering = Some(answering);
        }
        self.read(query, reading);
        Ok(())
    }

    pub(super) fn on_exchange_snapshots(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        values: &[Option<Bytes>],
    ) -> Result<(), RecordError> {
        let Some(flow) = self.flow(link, &workspace) else {
            return Ok(());
        };
        let Some(place) = flow.exchange.place() else {
            return Ok(());
        };
        if values.iter().any(Option::is_none) {
            return self.read_answer_again(link, workspace);
        }
        let mut bodies = Vec::with_capacity(values.len());
        for value in values.iter().flatten() {
            bodies.push(SnapshotRow::decode(value)?.body);
        }
        flow.exchange.add_ready(place, true, bodies);
        let query = changes_of(&workspace, &place.0);
        self.read(query, Reading::Exchange(link, workspace));
        Ok(())
    }

    /// What was compacted away meanwhile is in a snapshot, which the head row names now.
    fn read_answer_again(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
    ) -> Result<(), RecordError> {
        let Some(flow) = self.flow(link, &workspace) else {
            return Ok(());
        };
        let Some(answering) = flow.exchange.answering.as_mut() else {
            return Ok(());
        };
        let document = answering.document;
        answering.read_again += 1;
        if answering.read_again > ANSWER_READS_MAX {
            self.suspect(workspace, document);
            self.close_link(link, CloseReason::Healing);
            return Ok(());
        }
        let query = ReadQuery::Values(vec![Key::head(&workspace, &document)]);
        self.read(query, Reading::ExchangeHead(link, workspace));
        Ok(())
    }

    pub(super) fn on_exchange_beyond(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        bodies: Vec<Bytes>,
    ) {
        let Some(flow) = self.flow(link, &workspace) else {
            return;
        };
        if let Some(place) = flow.exchange.place() {
            flow.exchange.answering = None;
            flow.exchange.add_ready(place, false, bodies);
            flow.end_answer(place.0, Some(place.1));
        }
        self.send_exchange(link, workspace);
    }

    pub(super) fn on_exchange_rows(
        &mut self,
        link: LinkId,
        workspace: WorkspaceId,
        rows: &Rows,
    ) -> Result<(), RecordError> {
        let barrier = self.last_batch;
        let Some(flow) = self.flow(link, &workspace) else {
            return Ok(());
        };
        flow.exchange.barrier = barrier;
        let singly = flow.exchange.answering.as_ref();
        if singly.is_some_and(|answering| (rows.rows.len() as u64) < answering.singly) {
            // Compaction came in between: what is gone is in a snapshot that was not named then.
            return self.read_answer_again(link, workspace);
        }
        let Some(place) = flow.exchange.place() else {
            return Ok(());
        };
        let Some(answering) = flow.exchange.answering.take() else {
            return Ok(());
        };
        let known = progress_of(answering.known);
        let mut missing = Vec::new();
        for (_, value) in &rows.rows {
            let row = ChangeRow::decode(value)?;
            // Stored bytes passed the guard once and their record's checksum now.
            let Ok(header) = parse_change(&row.body) else {
                continue;
            };
            let held = known
                .get(&header.actor)
                .is_some_and(|progress| progress.holds(header.seq));
            if !held {
                missing.push((header.start_op, header.hash, row.body));
            }
        }
        // A change starts after all operations it depends on: this order puts it after them.
        missing.sort_by_key(|(start_op, hash, _)| (*start_op, *hash));
        let bodies = missing.into_iter().map(|(_, _, body)| body);
        flow.exchange.add_ready(place, false, bodies);
        flow.end_answer(place.0, Some(place.1));
        self.send_exchange(link, workspace);
        Ok(())
    }

    /// Sends one frame of ready bodies; false if there are none or the window is full.
    fn send_exchange_frame(&mut self, link: LinkId, workspace: WorkspaceId) -> bool {
        let mut unstored = self.first_unstored();
        if self.is(Mutant::AnswersOneEarly) {
            unstored = unstored.map(BatchId::next);
        }
        let Some(state) = self.links.get_mut(&link) else {
            return false;
        };
        if state.in_flight_bytes >= limits::WINDOW_BYTES {
            return false;
        }
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return false;
        };
        let exchange = &mut flow.exchange;
        if exchange
            .barrier
            .zip(unstored)
            .is_some_and(|(barrier, unstored)| unstored <= barrier)
        {
            return false;
        }
        // A full frame, unless nothing more is coming to fill it.
        let more_coming = exchange.answering.is_some() || !exchange.answers.is_empty();
        if exchange.ready.is_empty()
            || (more_coming && exchange.ready_bytes < limits::FRAME_BODY_BYTES_TARGET)
        {
            return false;
        }
        let mut documents: Vec<DocumentChanges> = Vec::new();
        let mut bytes = 0;
        let mut count = 0;
        let mut snapshots = 0;
        while let Some(next) = exchange.ready.front() {
            if bytes > 0 && bytes + next.bytes() > limits::FRAME_BODY_BYTES_TARGET {
                break;
            }
            let last = documents.last();
            let continues = last.is_some_and(|last| last.document == next.document);
            let is_named = documents.iter().any(|sent| sent.document == next.document);
            if is_named && next.is_snapshot {
                break; // It goes ahead of a document's changes, and one per frame.
            }
            // The end of an answer is an entry of its own.
            if !continues || next.body.is_empty() {
                if documents.len() >= limits::FRAME_DOCUMENTS_MAX {
                    break;
                }
                documents.push(DocumentChanges {
                    document: next.document,
                    kind: next.kind,
                    snapshot: None,
                    changes: Vec::new(),
                    purged: None,
                });
            }
            let Some(next) = exchange.ready.pop_front() else {
                break;
            };
            bytes += next.bytes();
            exchange.ready_bytes -= next.bytes();
            if let Some(last) = documents.last_mut() {
                if next.purged.is_some() {
                    last.purged = next.purged;
                } else if next.is_snapshot {
                    last.snapshot = Some(next.body);
                    snapshots += 1;
                } else if !next.body.is_empty() {
                    last.changes.push(next.body);
                    count += 1;
                }
            }
        }
        for document in documents.iter().filter(|sent| sent.body_bytes() > 0) {
            state.sent_documents.insert(document.document);
        }
        state.stats.snapshots_sent += snapshots;
        state.stats.changes_sent += count;
        let number = self.number_frame(link, bytes);
        let frame = Changes {
            workspace,
            documents,
            feed: None,
            number,
            early: false,
        };
        self.send(link, &Frame::Changes(frame));
        true
    }

    /// When nothing of the run is left to ask or send on this side, says so.
    fn finish_run(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(flow) = self.flow(link, &workspace) else {
            return;
        };
        let drained = flow.exchange.is_drained()
            && flow.exchange.wants.is_empty()
            && flow.exchange.asking.is_none();
        let Some(session) = flow.reconciling.as_mut() else {
            return;
        };
        if !drained || session.sent_done || !session.their_last_want || !session.our_last_want {
            return;
        }
        let Some(point) = session.point else {
            return;
        };
        session.sent_done = true;
        let run = session.run;
        self.send(
            link,
            &Frame::Done(Done {
                workspace,
                run,
                point,
            }),
        );
        self.settle(link, workspace);
    }

    pub(super) fn on_done(&mut self, link: LinkId, done: &Done) {
        let workspace = done.workspace;
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let peer = state.peer;
        let Some(session) = self
            .session(link, &workspace)
            .filter(|session| session.run == done.run)
        else {
            return self.fault(link, "the end of another run".to_owned());
        };
        session.got_done = Some(done.point);
        self.enqueue_cursor(link, peer, workspace, CursorMove::Set(done.point));
        self.settle(link, workspace);
    }

    /// Both sides have ended the run: follow the feeds from there, and look once more if this run
    /// found something.
    pub(super) fn settle(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let (dialed, peer) = (state.dialed, state.peer);
        let Some(flow) = state.flows.get_mut(&workspace) else {
            return;
        };
        let Some(session) = flow
            .reconciling
            .as_ref()
            .filter(|session| session.sent_done)
        else {
            return;
        };
        let (Some(point), Some(theirs)) = (session.point, session.got_done) else {
            return;
        };
        let differed = session.here.union(&session.there).count();
        let runs_max = match self.config.mutants.has(Mutant::ComparesInPart) {
            true => 1,
            false => limits::RECONCILE_RUNS_MAX,
        };
        if dialed && differed > 0 && session.run < runs_max {
            // What this run exchanged has to be stored on both sides, or the next finds it again.
            let run = session.run + 1;
            let reached = |cursor: Option<FeedPoint>, target: FeedPoint| {
                cursor.is_some_and(|at| at.epoch == target.epoch && at.seq >= target.seq)
            };
            let stored = self
                .ready(&workspace)
                .and_then(|state| state.peers.get(&peer))
                .is_some_and(|known| {
                    reached(known.held_stored, theirs) && reached(known.row.acknowledged, point)
                });
            if stored {
                self.start_reconcile(link, workspace, run);
            }
            return;
        }
        flow.reconciling = None;
        // Answers within a run have no end that is told: what is still lacking is asked for anew.
        flow.exchange.asked.clear();
        flow.follow_from(point);
        if dialed && differed > 0 {
            self.emit(Event::ReconcileUnsettled {
                peer,
                workspace,
                documents: differed,
            });
        }
        if let Some(WorkspaceState::Ready(_)) = self.workspaces.get(&workspace) {
            self.note_held(link, workspace);
            self.want_refused(link, workspace);
            self.relay_again(link, workspace);
            self.walk(link, workspace);
        }
    }
}

fn document_of(id: &Id) -> DocumentId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&id.as_bytes()[..16]);
    DocumentId::from_bytes(bytes)
}

fn changes_of(workspace: &WorkspaceId, document: &DocumentId) -> ReadQuery {
    ReadQuery::Scan(Scan {
        range: KeyRange::changes(workspace, document),
        direction: Direction::Ascending,
        rows_max: limits::CHANGES_PER_DOCUMENT_MAX,
        bytes_max: usize::MAX,
    })
}

/// What a want says is held, by actor.
pub fn progress_of(known: Vec<KnownActor>) -> BTreeMap<ActorId, ActorProgress> {
    let progress = known.into_iter().map(|known| {
        let progress = ActorProgress {
            last_seq: known.seq,
            beyond: known.beyond.into_iter().collect(),
        };
        (known.actor, progress)
    });
    progress.collect()
}

/// How many changes of a document someone lacks, by what they hold of each actor; at most what is
/// stored here.
fn lacking(row: &HeadRow, known: &[KnownActor]) -> u64 {
    let held: BTreeMap<_, _> = known
        .iter()
        .map(|known| (&known.actor, known.seq))
        .collect();
    let actors = row.actors.iter();
    let lacking = actors.map(|(actor, progress)| {
        let held = held.get(actor).copied().unwrap_or(0);
        progress.last_seq.saturating_sub(held)
    });
    lacking.sum()
}

fn known_of(actors: &BTreeMap<ActorId, ActorProgress>) -> Vec<KnownActor> {
    let beyond = actors.values().map(|progress| progress.beyond.len());
    if beyond.sum::<usize>() > limits::WANT_BEYOND_MAX {
        return Vec::new();
    }
    actors
        .iter()
        .map(|(actor, progress)| KnownActor {
            actor: actor.clone(),
            seq: progress.last_seq,
            beyond: progress.beyond.iter().copied().collect(),
        })
        .collect()
}
