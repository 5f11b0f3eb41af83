//! The replica: opening it, what it is, and what its parts share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reconvene_core::engine::{Config, Edit, EditedDocument, Engine, Event, Root, Write};
use reconvene_core::feed::{Digest, heads_digest};
use reconvene_core::ids::{DocumentId, DocumentKind, MemberId, PeerId, RequestId, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::records::{IndexStateRow, Record as _, ShareRow, Standing, WorkspaceRow};
use reconvene_core::storage::{StoreError, StoreRead as _, StoreWrite as _};
use reconvene_core::wire;
use reconvene_model::index::index_row;
use reconvene_model::{
    Document, EditError, Editor, EncodedChange, ModelError, Purpose, WORKSPACE, WORKSPACE_DOCUMENT,
    derive_actor, roots,
};
use reconvene_sled::{DataDir, OpenReport, SledReader};
use serde::Serialize;
use tokio::sync::{broadcast, oneshot, watch};

use crate::clock::{Clock, wall_now};
use crate::deletion::check_living;
use crate::documents::{Documents, Lease, LocalEdit};
use crate::driver::{self, Command, DriverHandle, Notice};
use crate::enrolled::{self, EnrolledFile};
use crate::findings::{self, Finder, Findings, Look};
use crate::indexer::{self, IndexProgress};
use crate::limits::EVENTS_MAX;
use crate::options::Files;
use crate::profile::{Profile, ProfileFile};
use crate::runs::key::RunKey;
use crate::subscriptions::Subscriptions;
use crate::{Error, Events, Meetings, OpenOptions, Projects, ReplicaEvent, Role};

/// Number for breaking changes of derived state; another one rebuilds the index.
pub(crate) const STATE_VERSION: u32 = 1;
/// How long opening waits for the rows of what came from the journal while none is written. Past it
/// the replica opens with lists that say they are behind.
const REPLAY_INDEX_WAIT: Duration = Duration::from_secs(10);

/// A device's replica: its store, its engine and its links. Cheap to clone; all clones are the same
/// replica.
#[derive(Clone)]
pub struct Replica {
    pub(crate) shared: Arc<Shared>,
    /// The workspace that handles of this value use instead of the current one.
    scope: Option<WorkspaceId>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("peer", &self.shared.peer)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Shared {
    /// `None` once the replica is closed: the directory is then anybody's.
    data_dir: Mutex<Option<DataDir>>,
    pub(crate) peer: PeerId,
    pub(crate) role: Role,
    /// By which a server knows the sync runs it issued.
    pub(crate) run_key: Option<RunKey>,
    pub(crate) driver: DriverHandle,
    pub(crate) reader: SledReader,
    pub(crate) documents: Arc<Documents>,
    pub(crate) index: watch::Receiver<IndexProgress>,
    /// The indexer's: they end with it.
    pub(crate) events: broadcast::WeakSender<ReplicaEvent>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) findings: Arc<Findings>,
    profile_file: ProfileFile,
    profile: Mutex<Profile>,
    /// Random, minted at the first write after an open and after every failed one.
    /// Turns of those who append to transcripts, by meeting.
    appending: [tokio::sync::Mutex<()>; 16],
    /// The indexer and the compactor.
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Whether links to the servers stay up between passes.
    pub(crate) keeps_links: AtomicBool,
    /// For how long what was verified counts as fresh.
    pub(crate) staleness_bound: Duration,
    /// What was found damaged or missing of the store.
    pub(crate) found_on_open: Vec<String>,
}

/// What this device is.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceInfo {
    /// The device's id.
    pub peer_id: PeerId,
    /// What it is called.
    pub name: String,
    /// Whose it is.
    pub member: MemberId,
    /// What they are called.
    pub member_name: String,
    /// Their home workspace.
    pub home: WorkspaceId,
    /// The workspace that is used where none is named.
    pub current: Option<WorkspaceId>,
    /// What it is to the others.
    pub role: Role,
}

/// What a report of opening says that a person should know.
fn found_in(report: &OpenReport) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(set_aside) = &report.quarantined {
        let moved_to = set_aside.moved_to.display();
        found.push(format!(
            "the database could not be opened ({}) and is now in {moved_to}; what this device alone \
             had is in the journal, and the rest comes back from peers",
            set_aside.reason
        ));
    } else if report.lost_groups > 0 {
        found.push(format!(
            "the database lost the last {} groups of writes that were durable in it; what this device \
             alone had is in the journal, and the rest comes back from peers",
            report.lost_groups
        ));
    }
    for segment in &report.damaged_segments {
        found.push(format!(
            "{} bytes of a journal segment could not be read; as it was found it is in {}",
            segment.bytes_lost,
            segment.moved_to.display()
        ));
    }
    found
}

impl Replica {
    /// Opens the replica in a directory, and makes one there if there is none.
    ///
    /// # Errors
    /// See [`OpenOptions::open`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        OpenOptions::new(path).open().await
    }

    pub(crate) async fn start(files: Files) -> Result<Self, Error> {
        let Files {
            data_dir,
            profile_file,
            profile,
            identity,
            opened,
            role,
            run_key,
            is_new,
            open_bytes_max,
            staleness_bound,
            state_version,
            workspace_documents_max,
            clock,
            is_restored,
        } = files;
        let peer = identity.peer_id();
        let found_on_open = found_in(&opened.report);
        let reader = opened.store.reader();
        let mut clock = Clock::new(clock);
        let config = Config {
            me: peer,
            role: match role {
                Role::Device => wire::Role::Device,
                Role::Server => wire::Role::Server,
            },
            state_version,
            staleness_bound,
            workspace_documents_max,
            mutants: crate::mutants::of_engine(),
            roots: roots()
                .iter()
                .map(|root| {
                    let kind = root.kind;
                    let max_op = root.max_op;
                    (root.hash, Root { kind, max_op })
                })
                .collect::<BTreeMap<_, _>>(),
        };
        let engine = Engine::new(config, random()?, clock.now().moment);
        let (forgotten, journal): (Vec<_>, Vec<_>) =
            opened.journal.into_iter().partition(|entry| {
                profile.removed.contains(&entry.workspace) || profile.past.contains(&entry.epoch)
            });
        let documents = Arc::new(Documents::new(reader.clone(), open_bytes_max));
        let subscriptions = Arc::<Subscriptions>::default();
        let driver = driver::start(
            engine,
            clock,
            opened.store,
            reader.clone(),
            identity,
            Arc::clone(&documents),
            Arc::clone(&subscriptions),
        )?;
        documents.tell_damage(driver.suspicions());
        let mut replayed = driver.notices();
        driver.send(Command::Replay(journal)).await?;
        let releases = forgotten
            .into_iter()
            .map(|entry| (entry.workspace, (entry.epoch, entry.through).into()));
        driver.send(Command::Release(releases.collect())).await?;
        let enrolled = (role == Role::Server).then(|| EnrolledFile::in_dir(data_dir.path()));
        // Before anything is written: what the store lost is entered whole or not at all.
        let known = enrolled.as_ref().map(EnrolledFile::load).transpose();
        let (known, unreadable) = match known {
            Ok(known) => (known.flatten(), None),
            Err(error @ Error::Open(_)) => return Err(error),
            Err(error) => (None, Some(error)),
        };
        let lost = enrolled::lost_rows(&reader, &profile, known)?;
        if let Some(error) = unreadable.filter(|_| lost.workspaces && !is_new) {
            return Err(error);
        }
        if lost.workspaces && !is_new && !is_restored {
            tracing::warn!("the store had lost workspaces; they were entered from the profile");
        }
        if !lost.rows.is_empty() {
            let write = Write {
                request: request_id(),
                puts: lost.rows,
                deletes: Vec::new(),
            };
            driver.write(write).await?;
        }
        if let Some(file) = &enrolled {
            file.follow(&reader)?;
        }
        let replayed = wait_for_replay(&mut replayed).await?;
        profile_file.save_if_changed(&profile)?;
        let (sender, _) = broadcast::channel(EVENTS_MAX);
        let events = sender.downgrade();
        let finder = (role == Role::Device).then_some(Finder {
            peer,
            member: profile.member,
            home: profile.home,
        });
        let findings = Arc::new(Findings::new(finder));
        let (index, index_task) = indexer::start(indexer::Parts {
            reader: reader.clone(),
            driver: driver.clone(),
            documents: Arc::clone(&documents),
            events: sender,
            subscriptions: Arc::clone(&subscriptions),
            findings: Arc::clone(&findings),
            workspaces: known_workspaces(&reader)?,
        });
        let shared = Shared {
            data_dir: Mutex::new(Some(data_dir)),
            peer,
            role,
            run_key,
            driver,
            reader,
            documents,
            index,
            events,
            subscriptions,
            findings,
            profile_file,
            profile: Mutex::new(profile),
            appending: Default::default(),
            tasks: Mutex::new(vec![index_task]),
            keeps_links: AtomicBool::new(false),
            staleness_bound,
            found_on_open,
        };
        let replica = Self {
            shared: Arc::new(shared),
            scope: None,
        };
        let filer = findings::filing::run(
            Arc::clone(&replica.shared.findings),
            Arc::downgrade(&replica.shared),
        );
        replica.tasks().push(tokio::spawn(filer));
        replica.finish_removals().await?;
        replica.finish_moves().await?;
        let compactor = crate::compaction::run(
            Arc::downgrade(&replica.shared),
            replica.shared.driver.notices(),
        );
        let purger = crate::purging::run(Arc::downgrade(&replica.shared));
        replica
            .tasks()
            .extend([tokio::spawn(compactor), tokio::spawn(purger)]);
        if let Some(file) = enrolled {
            let notices = replica.shared.driver.notices();
            let reader = replica.shared.reader.clone();
            let follower = enrolled::follow_enrolments(file, reader, notices);
            replica.tasks().push(tokio::spawn(follower));
        }
        if replayed > 0 {
            // What was acknowledged before the end must be in the first list, too.
            match replica.wait_for_index(REPLAY_INDEX_WAIT).await {
                Err(Error::Timeout { .. }) => {
                    tracing::warn!("lists are still behind what came from the journal");
                }
                waited => waited?,
            }
        }
        Ok(replica)
    }

    /// What this device is.
    pub fn device(&self) -> DeviceInfo {
        let profile = self.profile();
        DeviceInfo {
            peer_id: self.shared.peer,
            name: profile.name.clone(),
            member: profile.member,
            member_name: profile.member_name.clone(),
            home: profile.home,
            current: profile.current,
            role: self.shared.role,
        }
    }

    /// The meetings of the current workspace.
    pub fn meetings(&self) -> Meetings {
        Meetings::new(self.clone())
    }

    /// The projects of the current workspace.
    pub fn projects(&self) -> Projects {
        Projects::new(self.clone())
    }

    /// The same replica, used on another workspace than the current one: what its handles do, they do
    /// there.
    ///
    /// # Errors
    /// If no workspace has this id or exact name, or several have the name.
    pub async fn in_workspace(&self, id_or_name: &str) -> Result<Self, Error> {
        let workspace = self.find_workspace(id_or_name).await?;
        Ok(Self {
            shared: Arc::clone(&self.shared),
            scope: Some(workspace.id),
        })
    }

    /// The workspace that this value is used on instead of the current one.
    pub(crate) fn scope(&self) -> Option<WorkspaceId> {
        self.scope
    }

    /// Tells that the network is another one now, as far as the app knows: links prove themselves
    /// alive or are made anew, and whoever waits to be dialled is dialled at once.
    ///
    /// # Errors
    /// If the replica is closed.
    pub async fn network_changed(&self) -> Result<(), Error> {
        self.shared.driver.send(Command::NetworkChanged).await
    }

    /// Tells that the machine slept. The replica also finds out by itself, within about two seconds.
    ///
    /// # Errors
    /// If the replica is closed.
    pub async fn resumed(&self) -> Result<(), Error> {
        self.shared.driver.send(Command::Resumed).await
    }

    /// What happens from now on, until the replica is closed. A reader that is too far behind is told
    /// how much it missed.
    pub fn events(&self) -> Events {
        Events::new(
            self.shared
                .events
                .upgrade()
                .map(|events| events.subscribe()),
        )
    }

    /// Ends the replica in order: links are flushed and closed, everything is made durable, the
    /// directory is given back. Other clones are closed with it.
    ///
    /// Dropping this midway lets it finish in the background.
    ///
    /// # Errors
    /// If the last writes could not be made durable, or it was closed before.
    pub async fn close(self) -> Result<(), Error> {
        let tasks = std::mem::take(&mut *self.tasks());
        for task in tasks {
            task.abort();
            // Only its end is awaited; being aborted is how it ends.
            drop(task.await);
        }
        let shutdown = self.shared.driver.shutdown();
        match tokio::time::timeout(driver::CLOSE_DEADLINE, shutdown).await {
            Ok(outcome) => {
                // Also while clones of this are still held somewhere.
                self.shared.give_directory_back();
                outcome
            }
            Err(_) => Err(Error::Timeout {
                seconds: driver::CLOSE_DEADLINE.as_secs(),
                why: "the store did not close".to_owned(),
            }),
        }
    }

    /// A value of its own around what others share.
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            scope: None,
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<tokio::task::JoinHandle<()>>> {
        let tasks = self.shared.tasks.lock();
        tasks.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn profile(&self) -> MutexGuard<'_, Profile> {
        // The profile is replaced whole; a panic leaves the old or the new one.
        self.shared
            .profile
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the profile, on disk first.
    pub(crate) fn update_profile(&self, change: impl FnOnce(&mut Profile)) -> Result<(), Error> {
        let mut profile = self.profile();
        let mut changed = profile.clone();
        change(&mut changed);
        if changed != *profile {
            self.shared.profile_file.save(&changed)?;
            self.shared.findings.follow(changed.member, changed.home);
            *profile = changed;
        }
        Ok(())
    }

    pub(crate) fn current_workspace(&self) -> Result<WorkspaceId, Error> {
        if let Some(scope) = self.scope {
            return Ok(scope);
        }
        self.profile().current.ok_or_else(|| Error::NotFound {
            what: "current workspace",
            id: "(none is chosen; see `workspace use`)".to_owned(),
        })
    }

    /// Runs blocking work on the store off the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.map_err(|error| Error::EditPanicked(error.to_string()))?
    }

    pub(crate) async fn write(&self, puts: Vec<(Key, Bytes)>) -> Result<(), Error> {
        let write = Write {
            request: request_id(),
            puts,
            deletes: Vec::new(),
        };
        self.shared.driver.write(write).await
    }

    /// Edits one document: loads it if need be, runs the closure in one transaction, and hands the
    /// changes over. Resolves when they are durable, or at once if the mode says `buffered`.
    ///
    /// It runs in a task of its own: a dropped future does not stop it halfway, with a change in the
    /// open document that nobody stores.
    pub(crate) async fn edit_document<T: Send + 'static>(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        mode: EditMode,
        edit: impl FnOnce(&mut Editor) -> Result<T, ModelError> + Send + 'static,
    ) -> Result<T, Error> {
        let replica = self.clone();
        let whole = async move { replica.edit_whole(workspace, id, mode, edit).await };
        tokio::spawn(whole).await.map_err(|_| Error::Closed)?
    }

    async fn edit_whole<T: Send + 'static>(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        mode: EditMode,
        edit: impl FnOnce(&mut Editor) -> Result<T, ModelError> + Send + 'static,
    ) -> Result<T, Error> {
        let lease = self.shared.documents.lease(workspace, id).await;
        let incarnation = self.shared.documents.incarnation()?;
        let worked = self
            .blocking(move |shared| shared.edit_leased(lease, id, mode, incarnation, edit))
            .await;
        let Edited {
            lease,
            value,
            document,
            rows,
            news,
            look,
        } = match worked {
            Ok(edited) => edited,
            Err(error) => {
                // After a panic nobody knows what was written under the actor; a refusal wrote nothing.
                if matches!(error, Error::EditPanicked(_)) {
                    self.shared.documents.forget_incarnation();
                }
                return Err(error);
            }
        };
        let Some(document) = document else {
            self.shared.documents.give_back(lease);
            return Ok(value);
        };
        let edit = Edit {
            request: request_id(),
            workspace,
            documents: vec![document],
            rows,
        };
        let bodies = edit.documents[0].changes.clone();
        let durable = self.shared.driver.edit(edit).await?;
        let local = self.shared.documents.note_local(&lease, bodies);
        self.shared.documents.give_back(lease);
        let replica = self.clone();
        let confirm = async move {
            replica.confirm(workspace, &[(id, local)], durable).await?;
            replica.tell(news);
            replica.shared.findings.note(look);
            Ok::<_, Error>(())
        };
        if mode.buffered {
            tokio::spawn(confirm);
        } else {
            confirm.await?;
        }
        Ok(value)
    }

    /// Waits until an edit is durable; if it fails, its documents are loaded anew when they are used.
    pub(crate) async fn confirm(
        &self,
        workspace: WorkspaceId,
        edits: &[(DocumentId, LocalEdit)],
        durable: oneshot::Receiver<Result<(), Error>>,
    ) -> Result<(), Error> {
        let outcome = durable.await.map_err(|_| Error::Closed)?;
        for (_, edit) in edits {
            self.shared.documents.settle(*edit);
        }
        if let Err(error) = &outcome {
            tracing::warn!(%error, "an edit failed; its document is loaded anew");
            self.shared.documents.forget_incarnation();
            for (id, _) in edits {
                let mut lease = self.shared.documents.lease(workspace, *id).await;
                lease.forget();
                self.shared.documents.give_back(lease);
            }
        }
        outcome
    }

    /// Tells events of what was written here.
    pub(crate) fn tell(&self, news: impl IntoIterator<Item = ReplicaEvent>) {
        let Some(events) = self.shared.events.upgrade() else {
            return;
        };
        for event in news {
            if events.send(event).is_err() {
                tracing::trace!("nobody listens to the replica's events");
            }
        }
    }

    /// Stores new documents, whole or not at all; resolves when they are durable.
    pub(crate) async fn add_documents(
        &self,
        workspace: WorkspaceId,
        documents: Vec<EditedDocument>,
        rows: Vec<(Key, Bytes)>,
    ) -> Result<(), Error> {
        let edit = Edit {
            request: request_id(),
            workspace,
            documents,
            rows,
        };
        let durable = self.shared.driver.edit(edit).await?;
        durable.await.map_err(|_| Error::Closed)?
    }
}

/// How to edit a document.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EditMode {
    /// What to make if there is no such document.
    create: Option<DocumentKind>,
    /// Whether to resolve when the edit is taken and not yet durable.
    buffered: bool,
    /// Whether a deleted meeting may be edited, too.
    deleted_too: bool,
    /// The version that the document must have: that of its view heads.
    only_if: Option<Digest>,
}

impl EditMode {
    pub(crate) fn creating(kind: DocumentKind) -> Self {
        Self {
            create: Some(kind),
            ..Self::default()
        }
    }

    pub(crate) fn buffered(buffered: bool) -> Self {
        Self {
            buffered,
            ..Self::default()
        }
    }

    pub(crate) fn deleted_too() -> Self {
        Self {
            deleted_too: true,
            ..Self::default()
        }
    }

    pub(crate) fn only_if(self, version: Digest) -> Self {
        Self {
            only_if: Some(version),
            ..self
        }
    }
}

pub(crate) struct Edited<T> {
    pub(crate) lease: Lease,
    value: T,
    pub(crate) document: Option<EditedDocument>,
    pub(crate) rows: Vec<(Key, Bytes)>,
    pub(crate) news: Option<ReplicaEvent>,
    pub(crate) look: Option<Look>,
}

impl Shared {
    /// Has the engine look for a damaged record of the feed or the index, if a read met one.
    pub(crate) fn noting_damage<T>(
        &self,
        workspace: WorkspaceId,
        read: Result<T, Error>,
    ) -> Result<T, Error> {
        if let Err(Error::Store(StoreError::Damaged { .. })) = &read {
            self.driver.suspect(workspace, None);
        }
        read
    }

    /// The data directory, held.
    pub(crate) fn data_dir(&self) -> Result<DataDir, Error> {
        let held = self.data_dir.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone().ok_or(Error::Closed)
    }

    fn give_directory_back(&self) {
        let mut held = self.data_dir.lock().unwrap_or_else(PoisonError::into_inner);
        *held = None;
    }

    /// The turn of whoever appends to a meeting's transcript; some meetings share one.
    pub(crate) fn appending(&self, meeting: &DocumentId) -> &tokio::sync::Mutex<()> {
        let [.., last] = *meeting.as_bytes();
        &self.appending[usize::from(last) % self.appending.len()]
    }

    /// Whether a workspace is synced with a server.
    pub(crate) fn has_server(&self, workspace: &WorkspaceId) -> bool {
        self.server_of(workspace).is_some()
    }

    /// Whose device this is.
    pub(crate) fn member(&self) -> MemberId {
        let profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner);
        profile.member
    }

    /// The server that a workspace is synced with.
    pub(crate) fn server_of(&self, workspace: &WorkspaceId) -> Option<PeerId> {
        let profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner);
        profile.workspace(workspace)?.server
    }

    pub(crate) fn edit_leased<T>(
        &self,
        mut lease: Lease,
        id: DocumentId,
        mode: EditMode,
        incarnation: [u8; 16],
        edit: impl FnOnce(&mut Editor) -> Result<T, ModelError>,
    ) -> Result<Edited<T>, Error> {
        let workspace = lease.workspace();
        let create = mode.create;
        let mut is_new = false;
        match self.documents.load(&mut lease, Purpose::Edit) {
            Ok(_) => {}
            Err(Error::NotFound { .. }) if create.is_some() => {
                is_new = true;
                lease.put(
                    create
                        .and_then(Document::create)
                        .ok_or_else(|| crate::documents::not_found(id))?,
                );
            }
            Err(error) => return Err(error),
        }
        let document = self.documents.load(&mut lease, Purpose::Edit)?;
        if !mode.deleted_too
            && let Err(error) = check_living(&self.reader, workspace, id, document)
        {
            self.documents.give_back(lease);
            return Err(error);
        }
        if mode
            .only_if
            .is_some_and(|version| version != heads_digest(&document.heads()))
        {
            self.documents.give_back(lease);
            return Err(Error::MeetingChanged { id });
        }
        let actor = derive_actor(&self.peer, &id, &incarnation);
        let edited = document.edit(&actor, wall_now(), edit);
        let (value, changes) = match edited {
            Ok(edited) => edited,
            Err(error) => {
                // A refused closure leaves the document as it was; anything else poisons it. One that
                // was to be made is not there.
                if is_new {
                    lease.forget();
                }
                self.documents.give_back(lease);
                return Err(match error {
                    EditError::Refused(error) => Error::Model(error),
                    EditError::ReadOnly { min_reader } => Error::DocumentTooNew { min_reader },
                    EditError::Panicked { message } => Error::EditPanicked(message),
                    other => Error::EditPanicked(other.to_string()),
                });
            }
        };
        if changes.is_empty() {
            if is_new {
                lease.forget();
            }
            return Ok(Edited {
                lease,
                value,
                document: None,
                rows: Vec::new(),
                news: None,
                look: None,
            });
        }
        let kind = document.kind();
        let key = Key::index(&workspace, kind, &id);
        let made = index_row(id, document).map_err(Error::from);
        let made = made.and_then(|row| {
            let Some(row) = row else {
                return Ok((Vec::new(), None, None));
            };
            let news = crate::news::news_of(&self.reader, workspace, &key, &row)?;
            let place = (workspace, id);
            let look = self.findings.look(&self.reader, place, document, &row)?;
            Ok((vec![(key, row.encode().into())], news, look))
        });
        let (rows, news, look) = match made {
            Ok(made) => made,
            Err(error) => {
                // The change is in the open document and will not be stored.
                lease.forget();
                self.documents.give_back(lease);
                return Err(error);
            }
        };
        let document = EditedDocument {
            document: id,
            kind,
            changes: bodies(changes),
        };
        Ok(Edited {
            lease,
            value,
            document: Some(document),
            rows,
            news,
            look,
        })
    }
}

/// The bytes of new changes, in order.
pub(crate) fn bodies(changes: Vec<EncodedChange>) -> Vec<Bytes> {
    changes
        .into_iter()
        .map(|change| change.bytes.into())
        .collect()
}

/// Entropy from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Io {
        what: "the system gave no randomness".to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

pub(crate) fn request_id() -> RequestId {
    RequestId::from_bytes(*uuid::Uuid::new_v4().as_bytes())
}

pub(crate) fn new_workspace_id() -> WorkspaceId {
    WorkspaceId::from_bytes(*uuid::Uuid::new_v4().as_bytes())
}

/// New document ids are in the order of their creation.
pub(crate) fn new_document_id() -> DocumentId {
    DocumentId::from_bytes(*uuid::Uuid::now_v7().as_bytes())
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let max = reconvene_core::limits::NAME_BYTES_MAX;
    if name.trim().is_empty() {
        return Err(Error::BadInput("a name must not be empty".to_owned()));
    }
    if name.len() > max {
        return Err(Error::BadInput(format!(
            "a name has at most {max} bytes, this one {}",
            name.len()
        )));
    }
    Ok(())
}

/// The rows every workspace has from the start.
pub(crate) fn workspace_rows(
    workspace: WorkspaceId,
    name: &str,
    home_of: Option<MemberId>,
) -> Vec<(Key, Bytes)> {
    let row = WorkspaceRow {
        name: name.to_owned(),
        created_at: wall_now(),
        home_of,
    };
    let index = IndexStateRow {
        seq: Default::default(),
        state_version: STATE_VERSION,
        server_state_version: 0,
    };
    vec![
        (Key::workspace(&workspace), row.encode()),
        (Key::index_state(&workspace), index.encode()),
    ]
}

/// The rows that make a workspace shared with a server.
pub(crate) fn share_rows(
    peer: &PeerId,
    workspace: &WorkspaceId,
    profile: &Profile,
) -> (Key, Bytes) {
    let row = ShareRow {
        member: profile.member,
        device_name: profile.name.clone(),
        since: wall_now(),
        standing: Standing::Server,
    };
    (Key::share(peer, workspace), row.encode())
}

/// Waits until the journal is in the store, and yields how many changes came from it.
async fn wait_for_replay(notices: &mut broadcast::Receiver<Notice>) -> Result<u64, Error> {
    loop {
        match notices.recv().await {
            Ok(Notice::Engine(event)) => match &*event {
                Event::ReplayDone { changes: 0 } => return Ok(0),
                Event::ReplayDone { changes } => {
                    tracing::warn!(
                        changes,
                        "changes that the store had lost came from the journal"
                    );
                    return Ok(*changes);
                }
                Event::StoreFailed { error } => return Err(Error::Store(error.clone())),
                _ => {}
            },
            Ok(Notice::PassComplete { .. } | Notice::LinkEnded { .. })
            | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return Err(Error::Closed),
        }
    }
}

/// The workspaces in the store.
pub(crate) fn known_workspaces(reader: &SledReader) -> Result<BTreeSet<WorkspaceId>, Error> {
    use reconvene_core::keys::KeyRange;
    use reconvene_core::storage::Scan;
    let rows = reader.scan(&Scan::ascending(KeyRange::workspaces(), 100_000))?;
    Ok(rows
        .rows
        .iter()
        .filter_map(|(key, _)| key.workspace_id())
        .collect())
}

impl Replica {
    /// The row of the workspace document, from the index.
    pub(crate) async fn workspace_row(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<reconvene_model::index::WorkspaceRow>, Error> {
        self.blocking(move |shared| {
            let key = Key::index(&workspace, WORKSPACE, &WORKSPACE_DOCUMENT);
            let Some(value) = shared.reader.read(&key)? else {
                return Ok(None);
            };
            match reconvene_model::index::IndexRow::decode(&value) {
                Ok(reconvene_model::index::IndexRow::Workspace(row)) => Ok(Some(row)),
                _ => Ok(None),
            }
        })
        .await
    }
}
