//! The indexer: follows this store's own feed and refreshes the rows of what others changed.
//!
//! It runs off the sync path. The author of a local edit wrote its row in the same batch, so only
//! entries with an origin are looked at; each changed document is materialised once per round. How
//! far it came is stored with the rows, so a crash costs at most a repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use reconvene_core::engine::{Event, Write};
use reconvene_core::ids::{ChangeHash, DocumentId, DocumentKind, FeedSeq, PeerId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::{FeedHeadRow, FeedRow, IndexStateRow, Record as _};
use reconvene_core::storage::{Scan, StoreError, StoreRead as _};
use reconvene_model::index::{INDEXED, index_row, is_indexed};
use reconvene_model::{MEETING, Purpose, TRANSCRIPT, WORKSPACE_DOCUMENT};
use reconvene_sled::SledReader;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};

use crate::documents::{Documents, decode};
use crate::driver::{DriverHandle, Notice};
use crate::findings::Findings;
use crate::limits::{APPLY_DOCUMENTS_MAX, FINDINGS_WAIT, PAGES_KNOWN_MAX};
use crate::meetings::meeting_row;
use crate::mutants::{self, Mutant};
use crate::news::news_of;
use crate::pace::Pace;
use crate::replica::{STATE_VERSION, request_id};
use crate::status::OffenceStatus;
use crate::subscriptions::{RowPlace, Subscriptions};
use crate::{Error, ReplicaEvent};

use catching::CatchingUp;

mod catching;

/// Feed entries looked at per round.
const ROUND_ENTRIES: usize = 512;
/// Entries without work after which the index's place is written down all the same.
const SAVE_EVERY_ENTRIES: u64 = 4096;
/// When a failed refresh is tried again.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(2);

/// How far the index of each workspace is.
pub(crate) type IndexProgress = BTreeMap<WorkspaceId, FeedSeq>;

pub(crate) struct Parts {
    pub(crate) reader: SledReader,
    pub(crate) driver: DriverHandle,
    pub(crate) documents: Arc<Documents>,
    pub(crate) events: broadcast::Sender<ReplicaEvent>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) findings: Arc<Findings>,
    pub(crate) workspaces: BTreeSet<WorkspaceId>,
}

struct Indexer {
    parts: Parts,
    progress: watch::Sender<IndexProgress>,
    pace: Pace,
    /// When the last batch was applied; `None` before the first.
    applied_at: Option<Instant>,
    /// Documents that peers changed since; as many as matter to the pace.
    waiting: BTreeSet<(WorkspaceId, DocumentId)>,
    /// Documents whose rows are damaged, and are written anew or else removed.
    lost: BTreeSet<(WorkspaceId, DocumentId)>,
    /// Which meeting a transcript page belongs to, where that is known.
    meetings: BTreeMap<DocumentId, DocumentId>,
    /// The state version of each workspace's server, as it last said.
    heard: BTreeMap<WorkspaceId, (PeerId, u32)>,
    catching: CatchingUp,
}

/// Starts the indexer on the current runtime.
pub(crate) fn start(parts: Parts) -> (watch::Receiver<IndexProgress>, tokio::task::JoinHandle<()>) {
    let notices = parts.driver.notices();
    let (indexer, receiver) = Indexer::new(parts);
    (receiver, tokio::spawn(indexer.run(notices)))
}

impl Indexer {
    fn new(parts: Parts) -> (Self, watch::Receiver<IndexProgress>) {
        let (progress, receiver) = watch::channel(IndexProgress::new());
        let indexer = Self {
            parts,
            progress,
            pace: Pace::new(),
            applied_at: None,
            waiting: BTreeSet::new(),
            lost: BTreeSet::new(),
            meetings: BTreeMap::new(),
            heard: BTreeMap::new(),
            catching: CatchingUp::default(),
        };
        (indexer, receiver)
    }

    async fn run(mut self, mut notices: broadcast::Receiver<Notice>) {
        let mut due = self.parts.workspaces.clone();
        let mut failed = BTreeSet::new();
        loop {
            if !due.is_empty() && !self.gather(&mut notices, &mut due).await {
                return;
            }
            while let Some(workspace) = due.pop_first() {
                self.waiting.clear();
                self.catching.release_overdue(&self.parts.subscriptions);
                match self.round(workspace).await {
                    Ok(true) => {
                        due.insert(workspace);
                    }
                    Ok(false) => self.caught_up(workspace).await,
                    Err(error) => {
                        // The rows stay as they are and say how old they are until it is tried again.
                        tracing::warn!(%workspace, %error, "the index could not be refreshed");
                        failed.insert(workspace);
                    }
                }
            }
            self.catching.release_overdue(&self.parts.subscriptions);
            let retry = (!failed.is_empty()).then_some(RETRY_AFTER);
            let patience = retry.into_iter().chain(self.catching.patience()).min();
            let notice = match patience {
                None => notices.recv().await,
                Some(patience) => match timeout(patience, notices.recv()).await {
                    Ok(notice) => notice,
                    Err(_) => {
                        self.catching.release_overdue(&self.parts.subscriptions);
                        due.append(&mut failed);
                        continue;
                    }
                },
            };
            if !self.take(notice, &mut due) {
                return;
            }
            while let Ok(notice) = notices.try_recv() {
                self.note(notice, &mut due);
            }
        }
    }

    /// Lets changes come together for as long as the pace says; whether to go on after that.
    async fn gather(
        &mut self,
        notices: &mut broadcast::Receiver<Notice>,
        due: &mut BTreeSet<WorkspaceId>,
    ) -> bool {
        while let Some(applied_at) = self.applied_at {
            let wait = self.pace.gather(applied_at.elapsed(), self.waiting.len());
            if wait.is_zero() {
                break;
            }
            match timeout(wait, notices.recv()).await {
                Ok(notice) => {
                    if !self.take(notice, due) {
                        return false;
                    }
                }
                Err(_) => break,
            }
        }
        true
    }

    /// Takes what the driver said; whether it will say more.
    fn take(
        &mut self,
        notice: Result<Notice, broadcast::error::RecvError>,
        due: &mut BTreeSet<WorkspaceId>,
    ) -> bool {
        match notice {
            Ok(notice) => self.note(notice, due),
            Err(broadcast::error::RecvError::Lagged(_)) => self.look_everywhere(due),
            Err(broadcast::error::RecvError::Closed) => return false,
        }
        true
    }

    fn look_everywhere(&self, due: &mut BTreeSet<WorkspaceId>) {
        match crate::replica::known_workspaces(&self.parts.reader) {
            Ok(workspaces) => due.extend(workspaces),
            Err(error) => tracing::warn!(%error, "the list of workspaces could not be read"),
        }
    }

    fn note(&mut self, notice: Notice, due: &mut BTreeSet<WorkspaceId>) {
        let event = match notice {
            Notice::Engine(event) => event,
            Notice::PassComplete { peer, stats, .. } => {
                return self.tell(ReplicaEvent::PassComplete {
                    peer,
                    documents_sent: stats.documents_sent,
                    documents_received: stats.documents_received,
                });
            }
            Notice::LinkEnded { .. } => return,
        };
        match &*event {
            Event::DocumentChanged {
                workspace,
                document,
                ..
            } => {
                if self.waiting.len() < APPLY_DOCUMENTS_MAX {
                    self.waiting.insert((*workspace, *document));
                }
            }
            Event::ServerState {
                peer,
                workspace,
                state_version,
            } => {
                if !mutants::is(Mutant::IgnoresStateVersion) {
                    self.heard.insert(*workspace, (*peer, *state_version));
                }
                let queries = &self.parts.subscriptions;
                self.catching.begin(*workspace, *peer, queries);
                due.insert(*workspace);
            }
            Event::Verified {
                peer, workspace, ..
            } => {
                if self.catching.note_verified(*workspace, *peer) {
                    due.insert(*workspace);
                }
                self.tell_outward(&event);
            }
            Event::Unreachable { peer, .. } => {
                self.catching.end_with(*peer, &self.parts.subscriptions);
                self.tell_outward(&event);
            }
            Event::FeedAdvanced { workspace, .. } => {
                due.insert(*workspace);
            }
            Event::DocumentDamaged {
                workspace,
                document,
                ..
            }
            | Event::DocumentHealed {
                workspace,
                document,
            } => {
                self.parts.findings.note_damage((*workspace, *document));
                self.tell_outward(&event);
            }
            Event::IndexRowLost {
                workspace,
                document,
            } => {
                self.lost.insert((*workspace, *document));
                due.insert(*workspace);
            }
            Event::StoreFailed { error } => {
                let message = error.to_string();
                self.tell(match error {
                    StoreError::LowSpace { .. } => ReplicaEvent::LowSpace { message },
                    _ => ReplicaEvent::StoreFailed { message },
                });
            }
            event => self.tell_outward(event),
        }
    }

    fn tell_outward(&self, event: &Event) {
        if let Some(event) = outward(event) {
            self.tell(event);
        }
    }

    fn tell(&self, event: ReplicaEvent) {
        if self.parts.events.send(event).is_err() {
            tracing::trace!("nobody listens to the replica's events");
        }
    }

    /// Lists show all that is stored of a workspace: tells what changed since its server was back, if
    /// that is all that the server had.
    async fn caught_up(&mut self, workspace: WorkspaceId) {
        let Some(caught_up) = self.catching.end(workspace, &self.parts.subscriptions) else {
            return;
        };
        let reader = self.parts.reader.clone();
        let event = tokio::task::spawn_blocking(move || caught_up.event(&reader)).await;
        match event {
            Ok(Ok(event)) => self.tell(event),
            Ok(Err(error)) => tracing::warn!(%workspace, %error, "what changed is not told"),
            Err(_) => {}
        }
    }

    /// Indexes the next part of a workspace's feed; whether there may be more.
    async fn round(&mut self, workspace: WorkspaceId) -> Result<bool, Error> {
        let from = Start {
            known: self.progress.borrow().get(&workspace).copied(),
            heard: self.heard.get(&workspace).map(|(_, version)| *version),
        };
        let lost = self.lost.iter().filter(|(of, _)| *of == workspace);
        let lost: Vec<_> = lost.map(|(_, document)| *document).collect();
        if !lost.is_empty() {
            self.refresh(workspace, &lost, None).await?;
            self.lost.retain(|(of, _)| *of != workspace);
        }
        let mut rebuilt_to = None;
        loop {
            let reader = self.parts.reader.clone();
            let read =
                tokio::task::spawn_blocking(move || plan(&reader, workspace, from, rebuilt_to));
            let plan = read.await.map_err(|_| Error::Closed)?;
            if let Err(Error::Store(StoreError::Damaged { .. })) = &plan {
                self.parts.driver.suspect(workspace, None);
            }
            let plan = plan?;
            if rebuilt_to.is_none()
                && let Some(before) = plan.other_server_state
            {
                self.begin_anew(workspace, before);
            }
            // What is open gets what the feed names, whether or not it was noted yet: a row is written
            // once for good and must hold everything up to the end of this round.
            for (document, (_, changes)) in &plan.documents {
                self.parts
                    .documents
                    .note_remote(workspace, *document, changes);
            }
            let meetings = plan.documents.iter();
            let meetings = meetings.filter(|(_, (kind, _))| *kind == MEETING);
            let meetings: BTreeSet<_> = meetings.map(|(document, _)| *document).collect();
            let documents: Vec<_> = plan.documents.into_keys().collect();
            let mut rest = &documents[..];
            while !rest.is_empty() {
                let (batch, more) = rest.split_at(rest.len().min(self.pace.documents()));
                let began = Instant::now();
                self.refresh(workspace, batch, None).await?;
                self.pace.note(batch.len(), began.elapsed());
                self.applied_at = Some(Instant::now());
                rest = more;
            }
            if plan.rebuild && plan.more {
                // Only the whole feed makes a rebuilt index; until then nothing is claimed.
                rebuilt_to = Some(plan.through);
                continue;
            }
            // Most entries are local edits and need nothing: how far they reach is read again after
            // a restart rather than written down each time.
            let unsaved = plan.through.0 - plan.saved.0;
            let is_due = plan.rebuild || plan.is_heard_first || unsaved >= SAVE_EVERY_ENTRIES;
            let mut changed = None;
            if !documents.is_empty() || !plan.pages.is_empty() {
                let (documents, pages) = (documents.clone(), plan.pages);
                changed = Some(self.changed(workspace, documents, meetings, pages).await?);
            }
            // Nor is anything said to be indexed of which a finding is not filed: after a crash it is
            // looked at again.
            let findings = &self.parts.findings;
            let is_filed =
                findings.is_filed() || plan.rebuild && findings.filed(FINDINGS_WAIT).await;
            if (is_filed || plan.rebuild) && (!documents.is_empty() || is_due) {
                let state = IndexStateRow {
                    seq: plan.through,
                    state_version: STATE_VERSION,
                    server_state_version: plan.server_state,
                };
                self.refresh(workspace, &[], Some(state)).await?;
            }
            self.report(workspace, plan.through);
            if plan.other_server_state.is_some() {
                self.tell(ReplicaEvent::Rebuilt { workspace });
            }
            if let Some(event) = changed {
                if let ReplicaEvent::Changed { meetings, .. } = &event {
                    self.catching.note_changed(workspace, meetings);
                }
                self.tell(event);
            }
            return Ok(plan.more);
        }
    }

    /// What to tell of documents that changed, their rows being written.
    async fn changed(
        &mut self,
        workspace: WorkspaceId,
        mut documents: Vec<DocumentId>,
        mut meetings: BTreeSet<DocumentId>,
        pages: BTreeSet<DocumentId>,
    ) -> Result<ReplicaEvent, Error> {
        let projects = documents.contains(&WORKSPACE_DOCUMENT);
        for page in &pages {
            let meeting = match self.meetings.get(page) {
                Some(meeting) => Some(*meeting),
                None => self.meeting_of(workspace, *page).await?,
            };
            if let Some(meeting) = meeting {
                // Its row is as it was; but a page that nobody saw brings a deleted meeting back.
                let place = RowPlace {
                    workspace,
                    kind: MEETING,
                    document: meeting,
                };
                self.parts.subscriptions.mark(&[place]);
                if self.may_come_back(&place)? {
                    self.refresh(workspace, &[meeting], None).await?;
                }
                meetings.insert(meeting);
            }
        }
        documents.extend(pages);
        Ok(ReplicaEvent::Changed {
            workspace,
            documents,
            meetings: meetings.into_iter().collect(),
            projects,
        })
    }

    /// Whether a meeting was deleted, so that a page may have something to say about it.
    fn may_come_back(&self, place: &RowPlace) -> Result<bool, Error> {
        let key = Key::index(&place.workspace, place.kind, &place.document);
        let row = self.parts.reader.read(&key)?;
        let row = row.and_then(|value| meeting_row(&value));
        Ok(row.is_some_and(|row| row.deletion.is_some()))
    }

    /// The meeting of a page, from the page itself. Once: after that it is known.
    async fn meeting_of(
        &mut self,
        workspace: WorkspaceId,
        page: DocumentId,
    ) -> Result<Option<DocumentId>, Error> {
        let mut lease = self.parts.documents.lease(workspace, page).await;
        let open = Arc::clone(&self.parts.documents);
        let work = tokio::task::spawn_blocking(move || {
            let loaded = open.load(&mut lease, Purpose::Index);
            let meeting = loaded.and_then(|document| Ok(document.transcript_meeting()?));
            open.give_back(lease);
            meeting
        });
        match work.await.map_err(|_| Error::Closed)? {
            Ok(meeting) => {
                self.know(meeting.map(|meeting| (page, meeting)));
                Ok(meeting)
            }
            Err(Error::Store(error)) => Err(Error::Store(error)),
            Err(error) => {
                tracing::warn!(%page, %error, "it is not known which meeting a page belongs to");
                Ok(None)
            }
        }
    }

    fn know(&mut self, pages: impl IntoIterator<Item = (DocumentId, DocumentId)>) {
        for (page, meeting) in pages {
            if self.meetings.len() >= PAGES_KNOWN_MAX {
                self.meetings.clear();
            }
            self.meetings.insert(page, meeting);
        }
    }

    /// The workspace's server came back with another state version: whatever follows from documents is
    /// made anew.
    fn begin_anew(&self, workspace: WorkspaceId, before: u32) {
        let Some((peer, now)) = self.heard.get(&workspace) else {
            return;
        };
        tracing::info!(%workspace, before, now, "the server's state version is another");
        // Lists are behind until the end.
        self.report(workspace, FeedSeq(0));
        self.parts.documents.forget_all();
        self.parts.subscriptions.mark_all(workspace);
        self.tell(ReplicaEvent::StateVersionChanged {
            workspace,
            peer: *peer,
            from: before,
            to: *now,
        });
    }

    fn report(&self, workspace: WorkspaceId, seq: FeedSeq) {
        self.progress
            .send_if_modified(|progress| progress.insert(workspace, seq) != Some(seq));
    }

    /// Materialises documents and writes their rows; the documents stay locked until the rows are in
    /// the engine's queue, so that no older row can follow a newer one.
    async fn refresh(
        &mut self,
        workspace: WorkspaceId,
        documents: &[DocumentId],
        state: Option<IndexStateRow>,
    ) -> Result<(), Error> {
        let mut leases = Vec::with_capacity(documents.len());
        for document in documents {
            leases.push((
                *document,
                self.parts.documents.lease(workspace, *document).await,
            ));
        }
        let open = Arc::clone(&self.parts.documents);
        let reader = self.parts.reader.clone();
        let findings = Arc::clone(&self.parts.findings);
        let is_lost = |document: &DocumentId| self.lost.contains(&(workspace, *document));
        let lost: BTreeSet<_> = documents.iter().copied().filter(is_lost).collect();
        let work = tokio::task::spawn_blocking(move || {
            let mut puts = Vec::with_capacity(leases.len() + 1);
            let mut deletes = Vec::new();
            let mut pages = Vec::new();
            let mut news = Vec::new();
            let mut looks = Vec::new();
            for (document, lease) in &mut leases {
                let made = puts.len();
                match open.load(lease, Purpose::Index).and_then(|loaded| {
                    let row = index_row(*document, loaded)?;
                    if loaded.kind() == MEETING {
                        let listed = loaded.meeting_pages()?.into_iter();
                        pages.extend(listed.map(|page| (page, *document)));
                    }
                    let place = (workspace, *document);
                    let look = |row| findings.look(&reader, place, loaded, row);
                    looks.extend(row.as_ref().map(look).transpose()?.flatten());
                    Ok(row.map(|row| (Key::index(&workspace, loaded.kind(), document), row)))
                }) {
                    Ok(Some((key, row))) => {
                        news.extend(news_of(&reader, workspace, &key, &row)?);
                        puts.push((key, row.encode().into()));
                    }
                    Ok(None) => {}
                    // A row that was made before may have been written after the purge.
                    Err(Error::DocumentDeleted { .. }) => {
                        deletes.extend(INDEXED.map(|kind| Key::index(&workspace, kind, document)));
                        looks.extend(findings.look_at_purged((workspace, *document)));
                    }
                    // The engine was told, and enters in the feed what is left of it.
                    Err(Error::Store(error @ StoreError::Damaged { .. })) => {
                        tracing::warn!(%document, %error, "a document is damaged");
                    }
                    // The disk may answer next time: nothing is claimed to be indexed until then.
                    Err(Error::Store(error)) => return Err(Error::Store(error)),
                    // One unreadable document must not hold up the others' rows.
                    Err(error) => tracing::warn!(%document, %error, "a document has no row"),
                }
                // A damaged row would hold up the lists; there is one again once one can be made.
                if puts.len() == made && lost.contains(document) {
                    deletes.extend(INDEXED.map(|kind| Key::index(&workspace, kind, document)));
                }
            }
            Ok::<_, Error>((puts, deletes, leases, pages, news, looks))
        });
        let (mut puts, deletes, leases, pages, news, looks) =
            work.await.map_err(|_| Error::Closed)??;
        self.know(pages);
        if let Some(state) = state {
            puts.push((Key::index_state(&workspace), state.encode()));
        }
        let mut written = None;
        if !puts.is_empty() || !deletes.is_empty() {
            let write = Write {
                request: request_id(),
                puts,
                deletes,
            };
            written = Some(self.parts.driver.begin_write(write).await?);
        }
        for (_, lease) in leases {
            self.parts.documents.give_back(lease);
        }
        if let Some(written) = written {
            written.await.map_err(|_| Error::Closed)??;
        }
        self.parts.findings.note(looks);
        for event in news {
            self.tell(event);
        }
        Ok(())
    }
}

/// Where a round begins.
#[derive(Clone, Copy)]
struct Start {
    /// How far the index is, if that is known in memory.
    known: Option<FeedSeq>,
    /// The state version of the workspace's server, if it was heard.
    heard: Option<u32>,
}

struct Plan {
    /// Where the index ends in the store.
    saved: FeedSeq,
    /// The end of what was looked at.
    through: FeedSeq,
    more: bool,
    /// Whether there is no index of this state version yet, or the server's is another.
    rebuild: bool,
    /// The state version of the server that rows are written under now; 0 if none was heard.
    server_state: u32,
    /// The server's state version the rows are of, where it says another now.
    other_server_state: Option<u32>,
    /// Whether the server's state version was never heard before.
    is_heard_first: bool,
    /// What has a row to be written, with its kind and the changes that peers made.
    documents: BTreeMap<DocumentId, (DocumentKind, Vec<ChangeHash>)>,
    /// Transcript pages that peers changed. They have no rows; their meetings look different.
    pages: BTreeSet<DocumentId>,
}

fn plan(
    reader: &SledReader,
    workspace: WorkspaceId,
    start: Start,
    rebuilt_to: Option<FeedSeq>,
) -> Result<Plan, Error> {
    let key = Key::index_state(&workspace);
    let state = match reader.read(&key) {
        // How far a derived index came: where that cannot be read, the index is built anew.
        Err(StoreError::Damaged { .. }) => None,
        read => read?.and_then(|value| IndexStateRow::decode(&value).ok()),
    };
    // Rows of another state version, or none at all, are built from the start.
    let current = state.filter(|state| state.state_version == STATE_VERSION);
    let before = current.map_or(0, |state| state.server_state_version);
    let server_state = start.heard.unwrap_or(before);
    // What was never heard is no other than what is heard now.
    let other_server_state = (before != 0 && server_state != before).then_some(before);
    let is_heard_first = before == 0 && server_state != 0;
    let current = current.filter(|_| other_server_state.is_none());
    let rebuild = current.is_none();
    let saved = current.map_or(FeedSeq(0), |state| state.seq);
    // A workspace that was removed and came back has a feed of its own.
    let end = reader
        .read(&Key::feed_head(&workspace))?
        .map(|value| decode::<FeedHeadRow>(&Key::feed_head(&workspace), &value))
        .transpose()?
        .map_or(FeedSeq(0), |head| head.point.seq);
    let known = start.known.filter(|known| *known <= end);
    let saved = saved.min(end);
    let from = match known {
        Some(known) if !rebuild => known.max(saved),
        _ => rebuilt_to.unwrap_or(saved),
    };
    let scan = Scan::ascending(KeyRange::feed_after(&workspace, from), ROUND_ENTRIES);
    let rows = reader.scan(&scan)?;
    let mut through = from;
    let mut documents = BTreeMap::<_, (DocumentKind, Vec<ChangeHash>)>::new();
    let mut pages = BTreeSet::new();
    for (key, value) in &rows.rows {
        let row: FeedRow = decode(key, value)?;
        through = key.feed_seq().unwrap_or(through);
        let is_purge = row.purged.is_some();
        if is_indexed(row.kind) && (rebuild || row.origin.is_some() || is_purge) {
            let entry = documents.entry(row.document);
            let (_, changes) = entry.or_insert_with(|| (row.kind, Vec::new()));
            if row.origin.is_some() {
                changes.extend(row.changes.iter().map(|(hash, _)| *hash));
                // What a snapshot holds is not named: the document is read anew.
                changes.extend(row.snapshot.map(|_| crate::documents::REPLACED));
            }
            changes.extend(is_purge.then_some(crate::documents::REPLACED));
        }
        if row.kind == TRANSCRIPT && row.origin.is_some() && !rebuild {
            pages.insert(row.document);
        }
    }
    Ok(Plan {
        saved,
        through,
        more: rows.more,
        rebuild,
        server_state,
        other_server_state,
        is_heard_first,
        documents,
        pages,
    })
}

/// The engine's events that concern the app.
fn outward(event: &Event) -> Option<ReplicaEvent> {
    Some(match event {
        Event::RoomAgain => ReplicaEvent::RoomAgain,
        Event::Verified {
            peer,
            workspace,
            as_of,
        } => ReplicaEvent::Verified {
            workspace: *workspace,
            peer: *peer,
            as_of: *as_of,
        },
        Event::LinkReady {
            peer, workspaces, ..
        } => ReplicaEvent::LinkUp {
            peer: *peer,
            workspaces: workspaces.clone(),
        },
        Event::Fresh { workspace } => ReplicaEvent::Fresh {
            workspace: *workspace,
        },
        Event::Stale { workspace, since } => ReplicaEvent::Stale {
            workspace: *workspace,
            since: *since,
        },
        Event::Unreachable {
            peer,
            why,
            retry_at,
        } => ReplicaEvent::LinkDown {
            peer: *peer,
            why: why.clone(),
            retrying: retry_at.is_some(),
        },
        Event::RefusedByPeer {
            peer,
            code,
            message,
            fault,
        } => ReplicaEvent::Refused {
            peer: *peer,
            code: *code,
            message: message.clone(),
            fault: fault.clone(),
        },
        Event::Offended {
            peer,
            workspace,
            offences,
            closes,
            ..
        } => ReplicaEvent::Offended {
            workspace: *workspace,
            peer: *peer,
            offences: offences.iter().map(OffenceStatus::from).collect(),
            link_closed: *closes,
        },
        Event::DocumentsRefused {
            peer,
            workspace,
            here,
            documents,
        } => ReplicaEvent::DocumentsRefused {
            workspace: *workspace,
            peer: *peer,
            here: *here,
            documents: documents.clone(),
        },
        Event::DeviceEnrolled {
            peer,
            workspace,
            device_name,
            ..
        } => ReplicaEvent::DeviceEnrolled {
            peer: *peer,
            workspace: *workspace,
            device_name: device_name.clone(),
        },
        Event::RolledBack { workspace, peer } => ReplicaEvent::RolledBack {
            workspace: *workspace,
            peer: *peer,
        },
        Event::FalseClaim { workspace, peer } => ReplicaEvent::FalseClaim {
            workspace: *workspace,
            peer: *peer,
        },
        Event::Stalled {
            peer,
            workspace,
            since,
        } => ReplicaEvent::Stalled {
            workspace: *workspace,
            peer: *peer,
            since: *since,
        },
        Event::DocumentDamaged {
            workspace,
            document,
            what,
            lost,
        } => ReplicaEvent::DocumentDamaged {
            workspace: *workspace,
            document: *document,
            what: what.clone(),
            lost: *lost,
        },
        Event::DocumentHealed {
            workspace,
            document,
        } => ReplicaEvent::DocumentHealed {
            workspace: *workspace,
            document: *document,
        },
        Event::SharesLearned { workspace } => ReplicaEvent::DevicesChanged {
            workspace: *workspace,
        },
        Event::DeviceLeft { peer, workspace } => ReplicaEvent::DeviceLeft {
            peer: *peer,
            workspace: *workspace,
        },
        Event::TooManyWorkspaces { peer } => ReplicaEvent::TooManyWorkspaces { peer: *peer },
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
