//! The indexer: follows this store's own feed and refreshes the rows of what others changed.
//!
//! It runs off the sync path. The author of a local edit wrote its row in the same batch, so only
//! entries with an origin are looked at; each changed document is materialised once per round. How
//! far it came is stored with the rows, so a crash costs at most a repeat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use reconvene_core::engine::{Event, Write};
use reconvene_core::ids::{ChangeHash, DocumentId, FeedSeq, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::{FeedHeadRow, FeedRow, IndexStateRow, Record as _};
use reconvene_core::storage::{Scan, StoreError, StoreRead as _};
use reconvene_model::index::{index_row, is_indexed};
use reconvene_model::{MEETING, Purpose, TRANSCRIPT, WORKSPACE, WORKSPACE_DOCUMENT};
use reconvene_sled::SledReader;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout};

use crate::Error;
use crate::documents::{Documents, decode};
use crate::driver::{DriverHandle, Notice};
use crate::limits::{APPLY_DOCUMENTS_MAX, PAGES_KNOWN_MAX};
use crate::pace::Pace;
use crate::replica::{ReplicaEvent, STATE_VERSION, request_id};
use crate::subscriptions::Subscriptions;

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
                match self.round(workspace).await {
                    Ok(true) => {
                        due.insert(workspace);
                    }
                    Ok(false) => {}
                    Err(error) => {
                        // The rows stay as they are and say how old they are until it is tried again.
                        tracing::warn!(%workspace, %error, "the index could not be refreshed");
                        failed.insert(workspace);
                    }
                }
            }
            let notice = if failed.is_empty() {
                notices.recv().await
            } else {
                match tokio::time::timeout(RETRY_AFTER, notices.recv()).await {
                    Ok(notice) => notice,
                    Err(_) => {
                        due.append(&mut failed);
                        continue;
                    }
                }
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
        // Remote changes may have been missed too: what is open is read again when used.
        self.parts.documents.forget_all();
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
                changes,
                snapshot,
                ..
            } => {
                let documents = &self.parts.documents;
                if *snapshot {
                    documents.note_replaced(*workspace, *document);
                } else {
                    documents.note_remote(*workspace, *document, changes);
                }
                if self.waiting.len() < APPLY_DOCUMENTS_MAX {
                    self.waiting.insert((*workspace, *document));
                }
            }
            Event::DocumentPurged {
                workspace,
                document,
                ..
            } => {
                let documents = &self.parts.documents;
                documents.note_replaced(*workspace, *document);
            }
            Event::FeedAdvanced { workspace, .. } => {
                due.insert(*workspace);
            }
            Event::IndexRowLost {
                workspace,
                document,
            } => {
                self.lost.insert((*workspace, *document));
                due.insert(*workspace);
            }
            Event::DocumentDamaged {
                workspace,
                document,
                ..
            } => {
                self.parts.documents.note_damaged(*workspace, *document);
                self.tell_outward(&event);
            }
            Event::StoreFailed { error } => {
                self.parts.documents.forget_all();
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

    /// Indexes the next part of a workspace's feed; whether there may be more.
    async fn round(&mut self, workspace: WorkspaceId) -> Result<bool, Error> {
        let known = self.progress.borrow().get(&workspace).copied();
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
                tokio::task::spawn_blocking(move || plan(&reader, workspace, known, rebuilt_to));
            let plan = read.await.map_err(|_| Error::Closed)?;
            if let Err(Error::Store(StoreError::Damaged { .. })) = &plan {
                self.parts.driver.suspect(workspace, None);
            }
            let plan = plan?;
            // What is open gets what the feed names, whether or not it was noted yet: a row is written
            // once for good and must hold everything up to the end of this round.
            for (document, changes) in &plan.documents {
                self.parts
                    .documents
                    .note_remote(workspace, *document, changes);
            }
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
            if !documents.is_empty() || plan.rebuild || unsaved >= SAVE_EVERY_ENTRIES {
                self.refresh(workspace, &[], Some(plan.through)).await?;
            }
            self.report(workspace, plan.through);
            if !documents.is_empty() || !plan.pages.is_empty() {
                let event = self.changed(workspace, documents, plan.pages).await?;
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
        pages: BTreeSet<DocumentId>,
    ) -> Result<ReplicaEvent, Error> {
        let projects = documents.contains(&WORKSPACE_DOCUMENT);
        let indexed = documents.iter().filter(|id| **id != WORKSPACE_DOCUMENT);
        let mut meetings: BTreeSet<_> = indexed.copied().collect();
        for page in &pages {
            let meeting = match self.meetings.get(page) {
                Some(meeting) => Some(*meeting),
                None => self.meeting_of(workspace, *page).await?,
            };
            if let Some(meeting) = meeting {
                // Its row is as it was; but a page that nobody saw brings a deleted meeting back.
                self.parts.subscriptions.mark(&[(workspace, meeting)]);
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
        through: Option<FeedSeq>,
    ) -> Result<(), Error> {
        let mut leases = Vec::with_capacity(documents.len());
        for document in documents {
            leases.push((
                *document,
                self.parts.documents.lease(workspace, *document).await,
            ));
        }
        let open = Arc::clone(&self.parts.documents);
        let is_lost = |document: &DocumentId| self.lost.contains(&(workspace, *document));
        let lost: BTreeSet<_> = documents.iter().copied().filter(is_lost).collect();
        let work = tokio::task::spawn_blocking(move || {
            let mut puts = Vec::with_capacity(leases.len() + 1);
            let mut deletes = Vec::new();
            let mut pages = Vec::new();
            for (document, lease) in &mut leases {
                let made = puts.len();
                match open.load(lease, Purpose::Index).and_then(|loaded| {
                    let row = index_row(*document, loaded)?;
                    if loaded.kind() == MEETING {
                        let listed = loaded.meeting_pages()?.into_iter();
                        pages.extend(listed.map(|page| (page, *document)));
                    }
                    Ok(row.map(|row| (Key::index(&workspace, loaded.kind(), document), row)))
                }) {
                    Ok(Some((key, row))) => puts.push((key, row.encode().into())),
                    Ok(None) => {}
                    // A row that was made before may have been written after the purge.
                    Err(Error::DocumentDeleted { .. }) => {
                        let kinds = [MEETING, WORKSPACE];
                        deletes.extend(kinds.map(|kind| Key::index(&workspace, kind, document)));
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
                    let kinds = [MEETING, WORKSPACE];
                    deletes.extend(kinds.map(|kind| Key::index(&workspace, kind, document)));
                }
            }
            Ok::<_, Error>((puts, deletes, leases, pages))
        });
        let (mut puts, deletes, leases, pages) = work.await.map_err(|_| Error::Closed)??;
        self.know(pages);
        if let Some(seq) = through {
            let state = IndexStateRow {
                seq,
                state_version: STATE_VERSION,
            };
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
        match written {
            Some(written) => written.await.map_err(|_| Error::Closed)?,
            None => Ok(()),
        }
    }
}

struct Plan {
    /// Where the index ends in the store.
    saved: FeedSeq,
    /// The end of what was looked at.
    through: FeedSeq,
    more: bool,
    /// Whether there is no index of this state version yet.
    rebuild: bool,
    /// What has a row to be written, with the changes that peers made.
    documents: BTreeMap<DocumentId, Vec<ChangeHash>>,
    /// Transcript pages that peers changed. They have no rows; their meetings look different.
    pages: BTreeSet<DocumentId>,
}

fn plan(
    reader: &SledReader,
    workspace: WorkspaceId,
    known: Option<FeedSeq>,
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
    let rebuild = current.is_none();
    let saved = current.map_or(FeedSeq(0), |state| state.seq);
    // A workspace that was removed and came back has a feed of its own.
    let end = reader
        .read(&Key::feed_head(&workspace))?
        .map(|value| decode::<FeedHeadRow>(&Key::feed_head(&workspace), &value))
        .transpose()?
        .map_or(FeedSeq(0), |head| head.point.seq);
    let known = known.filter(|known| *known <= end);
    let saved = saved.min(end);
    let from = match known {
        Some(known) if !rebuild => known.max(saved),
        _ => rebuilt_to.unwrap_or(saved),
    };
    let scan = Scan::ascending(KeyRange::feed_after(&workspace, from), ROUND_ENTRIES);
    let rows = reader.scan(&scan)?;
    let mut through = from;
    let mut documents = BTreeMap::<_, Vec<ChangeHash>>::new();
    let mut pages = BTreeSet::new();
    for (key, value) in &rows.rows {
        let row: FeedRow = decode(key, value)?;
        through = key.feed_seq().unwrap_or(through);
        let is_purge = row.purged.is_some();
        if is_indexed(row.kind) && (rebuild || row.origin.is_some() || is_purge) {
            let changes = documents.entry(row.document).or_default();
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
        } => ReplicaEvent::Refused {
            peer: *peer,
            code: *code,
            message: message.clone(),
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
