//! Reading a store into an archive, document by document, past whatever does not read.
//!
//! A document is read between two looks at its head row that agree: then what was read is one version
//! of it. What is damaged is looked for in the journal before it is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use reconvene_core::archive::{
    About, ArchivedDocument, ArchivedServer, ArchivedWorkspace, Body, DamageNote, FilePart, Piece,
};
use reconvene_core::engine::tombstone_of;
use reconvene_core::examine::{Examined, examine};
use reconvene_core::guard::{ChangeHeader, parse_change};
use reconvene_core::ids::{DocumentId, DocumentKind, WorkspaceId};
use reconvene_core::keys::{Key, KeyKind, KeyRange};
use reconvene_core::records::{
    DamageRow, FeedHeadRow, HeadRow, JournalFrame, Record, WorkspaceRow,
};
use reconvene_core::storage::{JournalEntry, StoreError, StoreRead as _};
use reconvene_model::snapshot;

use super::device::FILES;
use super::file::NewArchive;
use super::{ArchiveOptions, ArchiveProgress, ArchiveReport};
use crate::Error;
use crate::clock::wall_now;
use crate::profile::{Profile, Role};
use crate::repair::past;
use crate::replica::Shared;
use crate::verify::{DAMAGES_MAX, Damage, leading_workspace};

use reading::Reading;

mod reading;

/// How often a document is read again that changes while it is read.
const TRIES_MAX: usize = 8;
/// Bytes of a file in one piece.
const FILE_PART_BYTES: usize = 512 * 1024;

/// What is to be archived.
pub(super) struct Creation {
    pub(super) profile: Profile,
    pub(super) only: Option<WorkspaceId>,
    pub(super) options: ArchiveOptions,
    /// Set when nobody waits for it any more.
    pub(super) has_ended: Arc<AtomicBool>,
}

impl Creation {
    /// Writes the archive.
    pub(super) fn write(self, shared: &Shared, path: &Path) -> Result<ArchiveReport, Error> {
        let path = std::path::absolute(path)
            .map_err(|error| Error::BadInput(format!("{} is no path: {error}", path.display())))?;
        let mut writer = Writer {
            shared,
            has_ended: &self.has_ended,
            new: NewArchive::begin(&path, self.options.overwrite)?,
            report: ArchiveReport::default(),
            progress: ArchiveProgress {
                documents: 0,
                total: 0,
            },
            journal: None,
            unstored: BTreeMap::new(),
            named: BTreeSet::new(),
        };
        writer.look_at_journal(&self.profile, self.only)?;
        writer.put(Piece::About(self.about(shared)))?;
        if self.options.with_identity {
            writer.files()?;
        }
        let workspaces = writer.workspaces(&self.profile, self.only)?;
        writer.count(workspaces.keys())?;
        for (workspace, row) in &workspaces {
            let piece = archived(&self.profile, *workspace, row.as_ref());
            writer.put(Piece::Workspace(piece))?;
            writer.workspace(*workspace, &self.options)?;
        }
        let Writer {
            new, mut report, ..
        } = writer;
        let (end, bytes) = new.finish()?;
        report.file = path;
        report.bytes = bytes;
        report.complete = report.damages == 0;
        report.with_identity = self.options.with_identity;
        report.workspaces = workspaces.len() as u64;
        (report.changes, report.snapshots) = (end.changes, end.snapshots);
        Ok(report)
    }

    fn about(&self, shared: &Shared) -> About {
        let profile = &self.profile;
        let is_wanted = |id: &WorkspaceId| self.only.is_none_or(|only| only == *id);
        let used = profile
            .workspaces
            .iter()
            .filter(|known| is_wanted(&known.id));
        let used: BTreeSet<_> = used.filter_map(|known| known.server).collect();
        let servers = profile.servers.iter();
        let servers = servers.filter(|server| used.contains(&server.peer));
        About {
            created_at: wall_now(),
            peer: shared.peer,
            device_name: profile.name.clone(),
            is_server: shared.role == Role::Server,
            member: profile.member,
            member_name: profile.member_name.clone(),
            home: profile.home,
            current: profile.current.filter(is_wanted),
            servers: servers
                .map(|server| ArchivedServer {
                    peer: server.peer,
                    addresses: server.addresses.clone(),
                })
                .collect(),
            only: self.only,
        }
    }
}

/// A workspace as its row says it, or else the profile.
fn archived(profile: &Profile, id: WorkspaceId, row: Option<&WorkspaceRow>) -> ArchivedWorkspace {
    let known = profile.workspace(&id);
    let home_of = known.is_some_and(|known| known.home);
    match row {
        Some(row) => ArchivedWorkspace {
            id,
            name: row.name.clone(),
            created_at: row.created_at,
            home_of: row.home_of,
            server: known.and_then(|known| known.server),
        },
        None => ArchivedWorkspace {
            id,
            name: known.map_or_else(String::new, |known| known.name.clone()),
            created_at: wall_now(),
            home_of: home_of.then_some(profile.member),
            server: known.and_then(|known| known.server),
        },
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    has_ended: &'a AtomicBool,
    new: NewArchive,
    report: ArchiveReport,
    progress: ArchiveProgress,
    /// All frames of the journal, once something damaged is looked for in it.
    journal: Option<Vec<JournalEntry>>,
    /// What the journal has and the store had not when the archive was begun.
    unstored: BTreeMap<(WorkspaceId, DocumentId), Unstored>,
    /// The documents of which something was lost, as far as that was noted.
    named: BTreeSet<(WorkspaceId, DocumentId)>,
}

/// Changes of one document that only the journal has.
struct Unstored {
    kind: DocumentKind,
    changes: Vec<(ChangeHeader, Bytes)>,
}

type Place = (Option<WorkspaceId>, Option<DocumentId>);

impl Writer<'_> {
    fn put(&mut self, piece: Piece) -> Result<(), Error> {
        if self.has_ended.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        self.new.put(&piece)
    }

    /// Notes that something did not read.
    fn lose(
        &mut self,
        (workspace, document): Place,
        record: String,
        what: String,
    ) -> Result<(), Error> {
        tracing::warn!(record, what, "not archived, since it does not read");
        self.put(Piece::Damage(DamageNote {
            workspace,
            document,
            record: record.clone(),
            what: what.clone(),
        }))?;
        self.report.damages += 1;
        self.named.extend(workspace.zip(document));
        if self.report.damaged.len() < DAMAGES_MAX {
            self.report.damaged.push(Damage {
                workspace,
                document,
                record,
                what,
            });
        }
        Ok(())
    }

    /// The files that make a store this device.
    fn files(&mut self) -> Result<(), Error> {
        let directory = self.shared.data_dir()?;
        for name in FILES {
            let path = directory.path().join(name);
            let bytes = match fs::read(&path) {
                Ok(bytes) => Bytes::from(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(Error::Io {
                        what: format!("{} could not be read", path.display()),
                        source,
                    });
                }
            };
            let mut rest = bytes;
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(FILE_PART_BYTES));
                let name = name.to_owned();
                self.put(Piece::File(FilePart { name, part }))?;
            }
        }
        Ok(())
    }

    /// Every workspace there is, with its row if that reads: those with a row, with a feed, and those
    /// of the profile.
    fn workspaces(
        &mut self,
        profile: &Profile,
        only: Option<WorkspaceId>,
    ) -> Result<BTreeMap<WorkspaceId, Option<WorkspaceRow>>, Error> {
        let mut found = BTreeMap::new();
        let is_wanted =
            |id: &WorkspaceId| only.is_none_or(|only| only == *id) && !profile.removed.contains(id);
        let known = profile.workspaces.iter().map(|known| known.id);
        found.extend(known.filter(is_wanted).map(|id| (id, None)));
        self.each(all_of(KeyKind::FeedHead), (None, None), |_, key, value| {
            let id = leading_workspace(&key).filter(is_wanted);
            if let Some(id) = id {
                found.entry(id).or_default();
            }
            // A feed is no part of an archive.
            drop(value);
            Ok(())
        })?;
        self.each(KeyRange::workspaces(), (None, None), |this, key, value| {
            let Some(id) = key.workspace_id().filter(is_wanted) else {
                return Ok(());
            };
            let row = match read_as::<WorkspaceRow>(value) {
                Ok(row) => Some(row),
                Err(what) => {
                    this.lose((Some(id), None), format!("{key:?}"), what)?;
                    None
                }
            };
            found.insert(id, row);
            Ok(())
        })?;
        Ok(found)
    }

    /// Counts what there is to do.
    fn count<'b>(
        &mut self,
        workspaces: impl Iterator<Item = &'b WorkspaceId>,
    ) -> Result<(), Error> {
        for workspace in workspaces {
            let key = Key::feed_head(workspace);
            let row = match self.shared.reader.read(&key) {
                Ok(value) => value.and_then(|value| FeedHeadRow::decode(&value).ok()),
                Err(StoreError::Closed) => return Err(Error::Closed),
                Err(_) => None,
            };
            self.progress.total += row.map_or(0, |row| row.documents);
        }
        Ok(())
    }

    /// Visits what a range holds, past damaged records, and past where sled does not read on.
    fn each(
        &mut self,
        mut range: KeyRange,
        place: Place,
        mut visit: impl FnMut(&mut Self, Key, Result<Bytes, StoreError>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let survey = match self.shared.reader.survey(&range) {
                Ok(survey) => survey,
                Err(StoreError::Closed) => return Err(Error::Closed),
                Err(error) => {
                    let from = Key::from_bytes(range.start().to_vec());
                    let what = format!("nothing from here on can be read: {error}");
                    self.lose(place, format!("{from:?}"), what)?;
                    match past(&self.shared.reader, &range) {
                        Some(rest) => range = rest,
                        None => return Ok(()),
                    }
                    continue;
                }
            };
            let last = survey.rows.last().map(|(key, _)| key.clone());
            for (key, value) in survey.rows {
                visit(self, key, value)?;
            }
            match last.filter(|_| survey.more) {
                Some(last) => range = range.after(&last),
                None => return Ok(()),
            }
        }
    }

    fn workspace(&mut self, workspace: WorkspaceId, options: &ArchiveOptions) -> Result<(), Error> {
        let place = (Some(workspace), None);
        self.lost_before(workspace)?;
        // Ids alone, 16 bytes each.
        let mut documents = Vec::new();
        self.each(KeyRange::heads(&workspace), place, |_, key, _| {
            documents.extend(key.document());
            Ok(())
        })?;
        let mut from = DocumentId::from_bytes([0; 16]);
        let mut rest = documents.iter().copied().peekable();
        loop {
            let document = rest.next();
            let until = rest.peek().copied().filter(|_| document.is_some());
            let stretch = Stretch {
                workspace,
                from,
                document,
                until,
            };
            let is_known =
                document.is_some_and(|document| self.named.contains(&(workspace, document)));
            let strays = self.document(stretch, is_known)?;
            for stray in strays {
                self.stray(workspace, stray)?;
            }
            self.progress.documents += u64::from(document.is_some());
            if let Some(progress) = &options.progress {
                progress(self.progress);
            }
            match until {
                Some(until) => from = until,
                None => break,
            }
        }
        self.unstored(workspace)?;
        // What was found and set aside meanwhile did not read as damaged here any more.
        self.lost_before(workspace)
    }

    /// Notes the documents of which something is known to be lost and that were not named yet.
    fn lost_before(&mut self, workspace: WorkspaceId) -> Result<(), Error> {
        let range = KeyRange::damages(&workspace);
        self.each(range, (Some(workspace), None), |this, key, value| {
            let document = key.document();
            if document.is_some_and(|document| this.named.contains(&(workspace, document))) {
                return Ok(());
            }
            let what = match read_as::<DamageRow>(value) {
                Ok(row) => format!("something of it was lost: {}", row.what),
                Err(what) => what,
            };
            this.lose((Some(workspace), document), format!("{key:?}"), what)
        })
    }

    /// Archives a document that has a head row; yields what lies between it and the next that has none.
    fn document(
        &mut self,
        stretch: Stretch,
        is_known_lost: bool,
    ) -> Result<BTreeSet<DocumentId>, Error> {
        let workspace = stretch.workspace;
        let Some(document) = stretch.document else {
            return Ok(self.read_stretch(&stretch, None)?.strays);
        };
        let place = (Some(workspace), Some(document));
        let mut tries = 0;
        let (head, mut reading) = loop {
            tries += 1;
            let head = self.head(workspace, document)?;
            let mut reading = self.read_stretch(&stretch, Some(document))?;
            let again = self.head(workspace, document)?;
            if head == again {
                break (head, reading);
            }
            if tries == TRIES_MAX {
                // It changes all the time: what came while it was read is left out.
                if let Ok(Some(head)) = &head {
                    reading.leave_out_after(head);
                }
                break (head, reading);
            }
        };
        let strays = reading.strays.clone();
        let Ok(Some(head)) = head else {
            let what = match head {
                Err(what) => what,
                Ok(_) => "it is missing".to_owned(),
            };
            let key = Key::head(&workspace, &document);
            self.lose(place, format!("{key:?}"), what)?;
            self.examined(workspace, document, reading)?;
            return Ok(strays);
        };
        if let Some(purged) = tombstone_of(&head) {
            self.unstored.remove(&(workspace, document));
            self.report.purged += 1;
            self.put(Piece::Document(ArchivedDocument {
                workspace,
                document,
                kind: head.kind,
                snapshots: 0,
                changes: 0,
                purged: Some(purged),
            }))?;
            return Ok(strays);
        }
        if reading.differs(&head) {
            self.examined(workspace, document, reading)?;
        } else {
            if !head.missing.is_empty() && !is_known_lost {
                let lacking = head.missing.len();
                let what = format!("{lacking} changes that others depend on are not here");
                let key = Key::head(&workspace, &document);
                self.lose(place, format!("{key:?}"), what)?;
            }
            self.put_document(workspace, document, head.kind, reading)?;
        }
        Ok(strays)
    }

    /// Archives a document of which there is no head row.
    fn stray(&mut self, workspace: WorkspaceId, document: DocumentId) -> Result<(), Error> {
        let place = (Some(workspace), Some(document));
        // It may have been made just now.
        if let Ok(Some(_)) = self.head(workspace, document)? {
            let stretch = Stretch::of(workspace, document);
            return self.document(stretch, false).map(drop);
        }
        let key = Key::head(&workspace, &document);
        self.lose(place, format!("{key:?}"), "it is missing".to_owned())?;
        let reading = self.read_stretch(&Stretch::of(workspace, document), Some(document))?;
        self.examined(workspace, document, reading)
    }

    /// Archives what is left of a document of which something does not read.
    fn examined(
        &mut self,
        workspace: WorkspaceId,
        document: DocumentId,
        mut reading: Reading,
    ) -> Result<(), Error> {
        let place = (Some(workspace), Some(document));
        let examined = match self.examine(workspace, document) {
            Ok(examined) => examined,
            Err(StoreError::Closed) => return Err(Error::Closed),
            Err(error) => {
                let key = Key::head(&workspace, &document);
                let what = format!("it could not be examined: {error}");
                self.lose(place, format!("{key:?}"), what)?;
                return Ok(());
            }
        };
        for (header, body) in examined.recovered {
            reading.recover(&header, body);
        }
        for (key, what) in std::mem::take(&mut reading.damaged) {
            let is_back = key.change_hash().is_some_and(|hash| reading.has(&hash));
            if !is_back {
                self.lose(place, format!("{key:?}"), what)?;
            }
        }
        let named = examined.lost.iter().filter(|hash| !reading.has(hash));
        let lost: Vec<_> = named.copied().collect();
        for hash in lost {
            let key = Key::change(&workspace, &document, &hash);
            if !reading.was_damaged(&key) {
                self.lose(place, format!("{key:?}"), "it is missing".to_owned())?;
            }
        }
        for record in examined.damaged {
            let is_snapshot = record.key.kind() == Some(KeyKind::Snapshot);
            if is_snapshot && !reading.was_damaged(&record.key) {
                reading.drop_snapshot(&record.key);
                self.lose(place, format!("{:?}", record.key), record.what)?;
            }
        }
        if examined.is_purged {
            self.unstored.remove(&(workspace, document));
            return Ok(());
        }
        if reading.is_empty() {
            return Ok(());
        }
        match examined.kind {
            Some(kind) => self.put_document(workspace, document, kind, reading),
            None => {
                let key = Key::head(&workspace, &document);
                let what = "nothing that reads says what kind of document it is".to_owned();
                self.lose(place, format!("{key:?}"), what)
            }
        }
    }

    fn examine(
        &mut self,
        workspace: WorkspaceId,
        document: DocumentId,
    ) -> Result<Examined, StoreError> {
        if self.journal.is_none() {
            let directory = self.shared.data_dir().map_err(|_| StoreError::Closed)?;
            let found = directory.check_journal();
            self.journal = Some(found.map(|found| found.entries).unwrap_or_default());
        }
        let journal = self.journal.as_deref().unwrap_or_default();
        let counter = self.shared.documents.counter();
        let inspect =
            |kind: DocumentKind, body: &Bytes| snapshot::inspect(kind, body, counter).ok();
        let reader = &self.shared.reader;
        let roots = reconvene_model::roots().iter();
        let roots = roots.map(|root| (root.hash, root.kind)).collect();
        examine(reader, journal, (&workspace, &document), &roots, &inspect)
    }

    fn put_document(
        &mut self,
        workspace: WorkspaceId,
        document: DocumentId,
        kind: DocumentKind,
        mut reading: Reading,
    ) -> Result<(), Error> {
        if let Some(unstored) = self.unstored.remove(&(workspace, document)) {
            for (header, body) in unstored.changes {
                reading.recover(&header, body);
            }
        }
        self.report.documents += 1;
        let (snapshots, changes) = reading.into_chunks();
        self.put(Piece::Document(ArchivedDocument {
            workspace,
            document,
            kind,
            snapshots: u32::try_from(snapshots.len()).expect("a document has few snapshots"),
            changes: changes.len() as u64,
            purged: None,
        }))?;
        let body = |chunk| Body {
            workspace,
            document,
            kind,
            chunk,
        };
        for chunk in snapshots {
            self.put(Piece::Snapshot(body(chunk)))?;
        }
        for chunk in changes {
            self.put(Piece::Change(body(chunk)))?;
        }
        Ok(())
    }

    /// A head row; what is wrong with it otherwise.
    fn head(
        &self,
        workspace: WorkspaceId,
        document: DocumentId,
    ) -> Result<Result<Option<HeadRow>, String>, Error> {
        let value = self.shared.reader.read(&Key::head(&workspace, &document));
        match value.transpose() {
            None => Ok(Ok(None)),
            Some(Err(StoreError::Closed)) => Err(Error::Closed),
            Some(value) => Ok(read_as::<HeadRow>(value).map(Some)),
        }
    }

    /// Reads what is stored of a document, and which others are there without a head row.
    fn read_stretch(
        &mut self,
        stretch: &Stretch,
        document: Option<DocumentId>,
    ) -> Result<Reading, Error> {
        let mut reading = Reading::default();
        let place = (Some(stretch.workspace), document);
        // Snapshots after changes: what compaction took from these meanwhile is in those.
        for kind in [KeyKind::Change, KeyKind::Snapshot] {
            self.each(stretch.range(kind), place, |_, key, value| {
                match key.document() {
                    Some(of) if Some(of) != document => drop(reading.strays.insert(of)),
                    _ => reading.take(key, value),
                }
                Ok(())
            })?;
        }
        Ok(reading)
    }

    /// Finds what only the journal has, since the store refused it, and notes what of the journal does
    /// not read: it may have been nowhere else.
    fn look_at_journal(
        &mut self,
        profile: &Profile,
        only: Option<WorkspaceId>,
    ) -> Result<(), Error> {
        let found = match self.shared.data_dir()?.check_journal() {
            Ok(found) => found,
            Err(error) => {
                return self.lose((None, None), "journal".to_owned(), error.to_string());
            }
        };
        for (segment, bytes) in found.damaged {
            let what = format!("{bytes} bytes of it cannot be read");
            self.lose((None, None), format!("journal/{segment}"), what)?;
        }
        let used = found.entries.into_iter();
        let is_wanted = |entry: &JournalEntry| {
            !profile.past.contains(&entry.epoch) && only.is_none_or(|only| only == entry.workspace)
        };
        for entry in used.filter(is_wanted) {
            let frame = match JournalFrame::decode(&entry.frame) {
                Ok(frame) => frame,
                Err(error) => {
                    let place = (Some(entry.workspace), None);
                    self.lose(place, "journal".to_owned(), error.to_string())?;
                    continue;
                }
            };
            for journalled in frame.documents {
                let place = (entry.workspace, journalled.document);
                let head = self.head(place.0, place.1)?.ok().flatten();
                let is_held = |header: &ChangeHeader| {
                    head.as_ref().is_some_and(|head| {
                        let progress = head.actors.get(&header.actor);
                        progress.is_some_and(|progress| progress.holds(header.seq))
                    })
                };
                let changes = journalled.changes.into_iter();
                let changes = changes.filter_map(|body| Some((parse_change(&body).ok()?, body)));
                let changes: Vec<_> = changes.filter(|(header, _)| !is_held(header)).collect();
                if !changes.is_empty() {
                    let kind = journalled.kind;
                    let known = self.unstored.entry(place).or_insert(Unstored {
                        kind,
                        changes: Vec::new(),
                    });
                    known.changes.extend(changes);
                }
            }
        }
        Ok(())
    }

    /// Archives the documents of a workspace that only the journal has.
    fn unstored(&mut self, workspace: WorkspaceId) -> Result<(), Error> {
        let first = (workspace, DocumentId::from_bytes([0; 16]));
        let last = (workspace, DocumentId::from_bytes([0xff; 16]));
        let places: Vec<_> = self
            .unstored
            .range(first..=last)
            .map(|(of, _)| *of)
            .collect();
        for (_, document) in places {
            let kind = self.unstored.get(&(workspace, document)).map(|of| of.kind);
            if let Some(kind) = kind {
                self.put_document(workspace, document, kind, Reading::default())?;
            }
        }
        Ok(())
    }
}

/// A document and what lies around it up to the next one with a head row.
#[derive(Clone, Copy)]
struct Stretch {
    workspace: WorkspaceId,
    /// The document itself, but for the first one of a workspace.
    from: DocumentId,
    /// `None` where there is no document with a head row at all.
    document: Option<DocumentId>,
    /// `None` for the rest of the workspace.
    until: Option<DocumentId>,
}

impl Stretch {
    /// A document alone, and what follows it.
    fn of(workspace: WorkspaceId, document: DocumentId) -> Self {
        let next = u128::from_be_bytes(*document.as_bytes()).checked_add(1);
        Self {
            workspace,
            from: document,
            document: Some(document),
            until: next.map(|next| DocumentId::from_bytes(next.to_be_bytes())),
        }
    }

    fn range(&self, kind: KeyKind) -> KeyRange {
        let of = |document: &DocumentId| match kind {
            KeyKind::Change => KeyRange::changes(&self.workspace, document),
            _ => KeyRange::snapshots(&self.workspace, document),
        };
        let last = DocumentId::from_bytes([0xff; 16]);
        let end = match self.until {
            Some(until) => Some(of(&until).start().to_vec()),
            None => of(&last).end().map(<[u8]>::to_vec),
        };
        KeyRange::new(of(&self.from).start().to_vec(), end)
    }
}

fn all_of(kind: KeyKind) -> KeyRange {
    KeyRange::new(vec![kind as u8], Some(vec![kind as u8 + 1]))
}

/// A record; what is wrong with it otherwise.
fn read_as<R: Record>(value: Result<Bytes, StoreError>) -> Result<R, String> {
    match value {
        Ok(value) => R::decode(&value).map_err(|error| error.to_string()),
        Err(StoreError::Damaged { what, .. }) => Err(what),
        Err(error) => Err(error.to_string()),
    }
}
