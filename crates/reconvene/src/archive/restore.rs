//! Reading an archive into a store: once to know whether it is whole, and once more to hand what is in
//! it to the engine, a batch at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use reconvene_core::archive::{
    About, ArchiveError, ArchivedDocument, ArchivedWorkspace, Body, Decoder, Found, Piece,
};
use reconvene_core::engine::{Restore, Restored, RestoredDocument};
use reconvene_core::guard::ChangeHeader;
use reconvene_core::ids::{DocumentId, DocumentKind, WorkspaceId};
use reconvene_core::keys::{Key, KeyKind};
use reconvene_core::limits::{
    ARCHIVE_PIECE_BYTES_MAX, BATCH_BYTES_MAX, NAME_BYTES_MAX, RESTORE_DOCUMENTS_MAX,
};
use reconvene_core::records::{Record as _, WorkspaceRow};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::StoreRead as _;
use reconvene_core::wire::Purged;
use reconvene_model::snapshot;
use tokio::sync::mpsc;

use super::device::FILES;
use super::file::ArchiveFile;
use super::{
    ArchiveProgress, IncompleteDocument, LostStretch, RefusedRestore, RestoreOptions, RestoreReport,
};
use crate::clock::wall_now;
use crate::limits::ARCHIVE_WORKSPACES_MAX;
use crate::profile::ProfileWorkspace;
use crate::replica::{Shared, request_id, workspace_rows};
use crate::verify::{DAMAGES_MAX, Damage};
use crate::{Error, Replica, Role};

/// Bytes of bodies that are restored with one barrier, about.
const RESTORED_BYTES: usize = 1024 * 1024;
/// What a change takes in memory besides its bytes, about.
const CHANGE_COST_BYTES: usize = 64;
/// Documents that are restored with one barrier.
const RESTORED_DOCUMENTS: usize = 256;
/// Batches that wait for the one that is being stored.
const WAITING_MAX: usize = 2;
/// Largest sum of the files that make a store a certain device.
const FILES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long it is waited for lists to show what was restored, while none of it comes to be shown.
const INDEX_WAIT: Duration = Duration::from_secs(10);

const _: () = assert!(RESTORED_BYTES + ARCHIVE_PIECE_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(RESTORED_DOCUMENTS < RESTORE_DOCUMENTS_MAX);

/// What an archive holds, apart from documents.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) about: Option<About>,
    /// The workspaces in it, as far as it still says what they are.
    pub(super) workspaces: BTreeMap<WorkspaceId, Option<ArchivedWorkspace>>,
    /// The files that make a store a certain device, if they were asked for.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    documents: u64,
    /// What is wrong with it.
    report: RestoreReport,
    is_partial: bool,
}

impl Contents {
    /// Reads a whole archive, and refuses one that is not whole, unless it is to be taken in part.
    pub(super) fn read(
        file: &mut ArchiveFile,
        partial: bool,
        with_files: bool,
    ) -> Result<Self, Error> {
        let mut contents = Self {
            is_partial: partial,
            ..Self::default()
        };
        let mut files_bytes = 0;
        let mut last = None;
        let mut too_large = None;
        let mut too_many = false;
        file.each(contents.decoder(), |found| {
            match found {
                Found::Piece { offset, piece } => match piece {
                    Piece::File(file) if with_files && FILES.contains(&&*file.name) => {
                        files_bytes += file.part.len();
                        if files_bytes > FILES_BYTES_MAX {
                            too_large = too_large.or(Some(offset));
                        } else {
                            contents
                                .files
                                .entry(file.name)
                                .or_default()
                                .extend(&file.part);
                        }
                    }
                    piece => {
                        contents.note(piece, &mut last);
                        if contents.workspaces.len() > ARCHIVE_WORKSPACES_MAX {
                            too_many = true;
                            contents.workspaces.clear();
                        }
                    }
                },
                Found::Lost(lost) => {
                    contents.report.losses += 1;
                    if contents.report.lost.len() < DAMAGES_MAX {
                        contents.report.lost.push(LostStretch {
                            offset: lost.offset,
                            bytes: lost.bytes,
                            pieces: lost.pieces,
                            what: lost.what,
                        });
                    }
                }
                Found::Incomplete(lacking) => {
                    if contents.report.incomplete.len() < DAMAGES_MAX {
                        contents.report.incomplete.push(IncompleteDocument {
                            workspace: lacking.workspace,
                            document: lacking.document,
                            snapshots: lacking.snapshots,
                            changes: lacking.changes,
                        });
                    }
                }
            }
            Ok(())
        })?;
        if too_many {
            let what = format!("the archive names more than {ARCHIVE_WORKSPACES_MAX} workspaces");
            return Err(Error::BadInput(what));
        }
        match too_large {
            Some(offset) => Err(file.refused(ArchiveError::Damaged {
                offset,
                piece: 0,
                what: "the files of its device are larger than they may be".to_owned(),
            })),
            None => Ok(contents),
        }
    }

    fn decoder(&self) -> Decoder {
        match self.is_partial {
            true => Decoder::salvaging(),
            false => Decoder::strict(),
        }
    }

    /// Takes note of a piece; `last` is the document whose bodies came last.
    fn note(&mut self, piece: Piece, last: &mut Option<(WorkspaceId, DocumentId)>) {
        match piece {
            Piece::About(about) => self.about = Some(about),
            Piece::Workspace(workspace) => {
                self.workspaces.insert(workspace.id, Some(workspace));
            }
            Piece::Document(ArchivedDocument {
                workspace,
                document,
                ..
            })
            | Piece::Snapshot(Body {
                workspace,
                document,
                ..
            })
            | Piece::Change(Body {
                workspace,
                document,
                ..
            }) => {
                self.workspaces.entry(workspace).or_default();
                // What announced it may be lost.
                if last.replace((workspace, document)) != Some((workspace, document)) {
                    self.documents += 1;
                }
            }
            Piece::Damage(note) => {
                self.report.damages += 1;
                if self.report.damaged.len() < DAMAGES_MAX {
                    self.report.damaged.push(Damage {
                        workspace: note.workspace,
                        document: note.document,
                        record: note.record,
                        what: note.what,
                    });
                }
            }
            Piece::File(_) | Piece::End(_) | Piece::Other(_) => {}
        }
    }

    /// What a workspace is called.
    pub(super) fn name_of(&self, id: &WorkspaceId) -> String {
        let archived = self.workspaces.get(id).and_then(Option::as_ref);
        let name = archived.map(|archived| archived.name.clone());
        let name = name.filter(|name| !name.trim().is_empty());
        shortened(name.unwrap_or_else(|| format!("restored {id}")))
    }
}

fn shortened(mut name: String) -> String {
    while name.len() > NAME_BYTES_MAX {
        name.pop();
    }
    name
}

/// Restores what a file holds.
pub(super) async fn restore(
    replica: &Replica,
    mut file: ArchiveFile,
    contents: Contents,
    options: &RestoreOptions,
) -> Result<RestoreReport, Error> {
    let only = replica.scope();
    enter_workspaces(replica, &contents, only).await?;
    let mut report = contents.report.clone();
    report.archived_by = contents.about.as_ref().map(|about| about.peer);
    report.archived_at = contents.about.as_ref().map(|about| about.created_at);
    let is_wanted = |id: &&WorkspaceId| only.is_none_or(|only| only == **id);
    report.workspaces = contents
        .workspaces
        .keys()
        .filter(is_wanted)
        .copied()
        .collect();
    let (sender, mut batches) = mpsc::channel(WAITING_MAX);
    let decoder = contents.decoder();
    let reading = replica.blocking(move |shared| {
        let mut batcher = Batcher::new(shared, sender, only);
        match file.each(decoder, |found| batcher.take(found)) {
            Ok(()) => batcher.flush(),
            Err(error) => Err(error),
        }
    });
    let mut taking = Taking {
        replica,
        report,
        progress: ArchiveProgress {
            documents: 0,
            total: contents.documents,
        },
        restored: BTreeSet::new(),
        refused: BTreeSet::new(),
        last: None,
    };
    let storing = async {
        let mut stored = Ok(());
        while stored.is_ok()
            && let Some(batch) = batches.recv().await
        {
            stored = taking.store(batch, options).await;
        }
        // Whoever reads on has nobody to tell.
        batches.close();
        stored
    };
    let (read, stored) = tokio::join!(reading, storing);
    stored?;
    read?;
    let mut report = taking.report;
    report.complete = report.losses == 0 && report.damages == 0 && report.refusals == 0;
    match replica.wait_for_index(INDEX_WAIT).await {
        Err(Error::Timeout { .. }) => {
            tracing::warn!("lists are still behind what was restored");
        }
        waited => waited?,
    }
    Ok(report)
}

/// Adds the workspaces that are not here. First to the profile: the next open enters in the store what
/// it says.
async fn enter_workspaces(
    replica: &Replica,
    contents: &Contents,
    only: Option<WorkspaceId>,
) -> Result<(), Error> {
    for (id, archived) in &contents.workspaces {
        let id = *id;
        let key = Key::workspace(&id);
        let is_here = replica.blocking(move |shared| Ok(shared.reader.contains(&key)?));
        if only.is_some_and(|only| only != id) || is_here.await? {
            continue;
        }
        let home_of = archived.as_ref().and_then(|archived| archived.home_of);
        let about = contents.about.as_ref();
        let name = match (home_of, about.filter(|about| about.home == id)) {
            (Some(_), Some(about)) => shortened(format!("home of {}", about.member_name)),
            _ => contents.name_of(&id),
        };
        // A server has homes of members, and its profile none but its own.
        if home_of.is_none() || replica.shared.role == Role::Device {
            let name = name.clone();
            replica.update_profile(|profile| {
                profile.put_workspace(ProfileWorkspace {
                    id,
                    name,
                    home: false,
                    server: None,
                });
            })?;
        }
        let row = WorkspaceRow {
            name: name.clone(),
            created_at: match archived {
                Some(archived) => archived.created_at,
                None => wall_now(),
            },
            home_of,
        };
        let mut rows = workspace_rows(id, &name, home_of);
        rows.retain(|(key, _)| key.kind() != Some(KeyKind::Workspace));
        rows.push((Key::workspace(&id), row.encode()));
        replica.write(rows).await?;
    }
    Ok(())
}

/// Documents of one workspace that are restored with one barrier.
struct Batch {
    workspace: WorkspaceId,
    documents: Vec<RestoredDocument>,
    bytes: usize,
    /// Documents with a snapshot that does not load.
    unloadable: Vec<DocumentId>,
}

/// Makes batches of pieces.
struct Batcher<'a> {
    shared: &'a Shared,
    batches: mpsc::Sender<Batch>,
    only: Option<WorkspaceId>,
    next: Option<Batch>,
}

impl<'a> Batcher<'a> {
    fn new(shared: &'a Shared, batches: mpsc::Sender<Batch>, only: Option<WorkspaceId>) -> Self {
        Self {
            shared,
            batches,
            only,
            next: None,
        }
    }

    fn take(&mut self, found: Found) -> Result<(), Error> {
        let Found::Piece { piece, .. } = found else {
            return Ok(());
        };
        match piece {
            Piece::Document(document) => {
                let place = (document.workspace, document.document, document.kind);
                self.add(place, Added::Document(document.purged))
            }
            Piece::Snapshot(body) => self.snapshot(body),
            Piece::Change(body) => {
                let place = (body.workspace, body.document, body.kind);
                self.add(place, Added::Change(body.chunk))
            }
            _ => Ok(()),
        }
    }

    fn snapshot(&mut self, body: Body) -> Result<(), Error> {
        let place = (body.workspace, body.document, body.kind);
        if self.only.is_some_and(|only| only != body.workspace) {
            return Ok(());
        }
        let counter = self.shared.documents.counter();
        match snapshot::inspect(body.kind, &body.chunk, counter) {
            Ok(headers) => self.add(place, Added::Snapshot(body.chunk, headers)),
            Err(error) => {
                tracing::warn!(document = %body.document, %error, "a snapshot does not load");
                self.add(place, Added::Document(None))?;
                let batch = self.next.as_mut();
                let batch = batch.expect("a document was just added to the batch");
                batch.unloadable.push(body.document);
                Ok(())
            }
        }
    }

    fn add(
        &mut self,
        (workspace, document, kind): (WorkspaceId, DocumentId, DocumentKind),
        added: Added,
    ) -> Result<(), Error> {
        if self.only.is_some_and(|only| only != workspace) {
            return Ok(());
        }
        let fits = self.next.as_ref().is_none_or(|batch| {
            let last = batch.documents.last();
            let goes_on = last.filter(|last| last.document == document);
            // A snapshot stands ahead of changes, and alone.
            let takes = goes_on.is_none_or(|last| match &added {
                Added::Snapshot(..) => last.snapshot.is_none() && last.changes.is_empty(),
                Added::Document(purged) => purged.is_none(),
                Added::Change(_) => true,
            });
            let is_elsewhere = || {
                batch
                    .documents
                    .iter()
                    .any(|known| known.document == document)
            };
            batch.workspace == workspace
                && takes
                && batch.bytes < RESTORED_BYTES
                && (goes_on.is_some()
                    || (batch.documents.len() < RESTORED_DOCUMENTS && !is_elsewhere()))
        });
        if !fits {
            self.flush()?;
        }
        let batch = self.next.get_or_insert_with(|| Batch {
            workspace,
            documents: Vec::new(),
            bytes: 0,
            unloadable: Vec::new(),
        });
        if batch
            .documents
            .last()
            .is_none_or(|last| last.document != document)
        {
            batch.documents.push(RestoredDocument {
                document,
                kind,
                snapshot: None,
                changes: Vec::new(),
                tombstone: None,
            });
        }
        let last = batch.documents.last_mut();
        let last = last.expect("a document was just added to the batch");
        match added {
            Added::Document(purged) => {
                batch.bytes += purged.as_ref().map_or(0, Purged::bytes);
                last.tombstone = purged.or(last.tombstone.take());
            }
            Added::Snapshot(chunk, headers) => {
                batch.bytes += chunk.len();
                last.snapshot = Some((chunk, headers));
            }
            Added::Change(chunk) => {
                batch.bytes += chunk.len() + CHANGE_COST_BYTES;
                last.changes.push(chunk);
            }
        }
        Ok(())
    }

    /// Hands the batch over; waits while others are being stored.
    fn flush(&mut self) -> Result<(), Error> {
        match self.next.take() {
            Some(batch) => self.batches.blocking_send(batch).map_err(|_| Error::Closed),
            None => Ok(()),
        }
    }
}

/// What is added to a document of a batch.
enum Added {
    /// Nothing but that it is there; its tombstone, if it was purged.
    Document(Option<Purged>),
    Snapshot(Bytes, Vec<ChangeHeader>),
    Change(Bytes),
}

/// Has batches stored, and counts what came of it.
struct Taking<'a> {
    replica: &'a Replica,
    report: RestoreReport,
    progress: ArchiveProgress,
    /// Documents of the last batches of which something was new, or was refused: one may be in several.
    restored: BTreeSet<DocumentId>,
    refused: BTreeSet<DocumentId>,
    /// The last document of the batch before.
    last: Option<(WorkspaceId, DocumentId)>,
}

impl Taking<'_> {
    async fn store(&mut self, batch: Batch, options: &RestoreOptions) -> Result<(), Error> {
        let Batch {
            workspace,
            documents,
            unloadable,
            ..
        } = batch;
        let shared = &self.replica.shared;
        let may_purge = shared.role == Role::Server || !shared.has_server(&workspace);
        let ids: Vec<_> = documents
            .iter()
            .map(|of| (workspace, of.document))
            .collect();
        let with_tombstone = documents.iter().filter(|of| of.tombstone.is_some());
        let with_tombstone: BTreeSet<_> = with_tombstone.map(|of| of.document).collect();
        let restore = Restore {
            request: request_id(),
            workspace,
            may_purge,
            documents,
        };
        let restored = shared.driver.restore(restore).await?;
        tracing::debug!(documents = ids.len(), "a batch of an archive is restored");
        self.count(workspace, restored, &unloadable, &with_tombstone);
        // Only the last one may go on with the next batch.
        let goes_on = ids.first().is_some_and(|first| Some(*first) == self.last);
        let new = ids.len() - usize::from(goes_on);
        self.last = ids.last().copied().or(self.last);
        let last = self.last.map(|(_, document)| document);
        self.restored.retain(|document| Some(*document) == last);
        self.refused.retain(|document| Some(*document) == last);
        self.report.documents += new as u64;
        self.progress.documents += new as u64;
        if let Some(progress) = &options.progress {
            progress(self.progress);
        }
        Ok(())
    }

    fn count(
        &mut self,
        workspace: WorkspaceId,
        restored: Restored,
        unloadable: &[DocumentId],
        with_tombstone: &BTreeSet<DocumentId>,
    ) {
        let report = &mut self.report;
        let gone = restored.purged;
        let new = restored.documents.into_iter();
        let new = new.filter(|document| self.restored.insert(*document));
        report.restored += (new.count() as u64).saturating_sub(gone);
        report.purged += gone;
        report.changes += restored.changes;
        let unloadable = unloadable.iter().map(|of| (*of, RefusalCode::Damaged));
        for (document, code) in restored.refused.into_iter().chain(unloadable) {
            if !self.refused.insert(document) {
                continue;
            }
            match code {
                RefusalCode::DocumentDeleted | RefusalCode::NotPermitted
                    if with_tombstone.contains(&document) =>
                {
                    report.stayed += 1;
                }
                RefusalCode::DocumentDeleted => report.stayed_deleted += 1,
                code => {
                    report.refusals += 1;
                    if report.refused.len() < DAMAGES_MAX {
                        report.refused.push(RefusedRestore {
                            workspace,
                            document,
                            code,
                        });
                    }
                }
            }
        }
    }
}
