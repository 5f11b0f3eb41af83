//! Archives: a whole store or one workspace in one file that depends on no storage engine, and back.
//! It is the way out of a damaged store, and of the engine it was kept in.
//!
//! `create` reads a store into a file, `file` is that file on the disk, `restore` reads it into a
//! store, `device` makes a store where there is none. What is in it byte by byte stands in
//! `schema/archive.md`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reconvene_core::engine::Write;
use reconvene_core::ids::{DocumentId, PeerId, WorkspaceId};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::time::WallTime;
use serde::Serialize;

use crate::replica::request_id;
use crate::verify::Damage;
use crate::{Error, OpenOptions, Replica};

use create::Creation;
use file::ArchiveFile;
use restore::Contents;

mod create;
mod device;
mod file;
mod restore;

/// How far an archive or a restore has come.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ArchiveProgress {
    /// Documents written or restored.
    pub documents: u64,
    /// Documents there are; 0 while that is not known.
    pub total: u64,
}

/// Called with how far it has come; must not block.
pub type OnArchiveProgress = Arc<dyn Fn(ArchiveProgress) + Send + Sync>;

/// How to make an archive.
#[derive(Clone, Default)]
pub struct ArchiveOptions {
    /// Whether it also holds what makes the store this very device: its private key, its profile, whom
    /// it enrolled and by which key it knows its sync runs. Whoever has such a file can pass for this
    /// device. Only of a whole store.
    pub with_identity: bool,
    /// Whether a file of this name may be replaced.
    pub overwrite: bool,
    /// Told of how far it has come.
    pub progress: Option<OnArchiveProgress>,
}

/// An archive that was made.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ArchiveReport {
    /// Where it is.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whether all of the store is in it that should be: nothing was damaged or missing.
    pub complete: bool,
    /// Whether it holds the device's identity.
    pub with_identity: bool,
    /// Workspaces in it.
    pub workspaces: u64,
    /// Documents in it, without those that were purged.
    pub documents: u64,
    /// Changes in it that are no part of a snapshot.
    pub changes: u64,
    /// Snapshots in it.
    pub snapshots: u64,
    /// Tombstones of purged documents in it.
    pub purged: u64,
    /// Number of records that did not read, or were missing.
    pub damages: u64,
    /// The first [`DAMAGES_MAX`](crate::DAMAGES_MAX) of them; the archive names all.
    pub damaged: Vec<Damage>,
}

/// How to restore an archive.
#[derive(Clone, Default)]
pub struct RestoreOptions {
    /// Whether a damaged archive is restored as far as it reads, and the rest reported. Without, the
    /// least damage refuses it, and nothing of it is taken.
    pub partial: bool,
    /// Whether a store that is made becomes the device that the archive is of. Only where there is no
    /// store yet, from an archive that holds an identity, and only if that device is no more: two
    /// devices of one identity are not told apart.
    pub with_identity: bool,
    /// Told of how far it has come.
    pub progress: Option<OnArchiveProgress>,
}

/// What was restored of an archive.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Everything that was in the store of which the archive was made is here now, or was deleted here:
    /// nothing was lost, and nothing refused.
    pub complete: bool,
    /// The device that made the archive, if the archive still says so.
    pub archived_by: Option<PeerId>,
    /// When it was made.
    pub archived_at: Option<WallTime>,
    /// The workspaces in it.
    pub workspaces: Vec<WorkspaceId>,
    /// Documents in it, those that were purged included.
    pub documents: u64,
    /// Of those, the ones of which something was new here.
    pub restored: u64,
    /// Changes that were new here, those in snapshots included.
    pub changes: u64,
    /// Documents that are purged now because the archive says so.
    pub purged: u64,
    /// Documents that were purged here, and of which the archive has something that was not known then.
    /// They stay purged.
    pub stayed_deleted: u64,
    /// Documents that the archive says were purged, and that stay: something here was not known then,
    /// or the server of the workspace has the last word.
    pub stayed: u64,
    /// Number of documents of which something was refused as it would be from a peer.
    pub refusals: u64,
    /// The first [`DAMAGES_MAX`](crate::DAMAGES_MAX) of them.
    pub refused: Vec<RefusedRestore>,
    /// Number of stretches of the file that are damaged. Only with [`RestoreOptions::partial`].
    pub losses: u64,
    /// The first [`DAMAGES_MAX`](crate::DAMAGES_MAX) of them.
    pub lost: Vec<LostStretch>,
    /// The documents of which the file lacks pieces; the first [`DAMAGES_MAX`](crate::DAMAGES_MAX).
    pub incomplete: Vec<IncompleteDocument>,
    /// Number of records that were not in the archive to begin with, since they did not read then.
    pub damages: u64,
    /// The first [`DAMAGES_MAX`](crate::DAMAGES_MAX) of them.
    pub damaged: Vec<Damage>,
}

/// A document of which something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedRestore {
    /// Where.
    pub workspace: WorkspaceId,
    /// The document.
    pub document: DocumentId,
    /// Why.
    pub code: RefusalCode,
}

/// A stretch of an archive that is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostStretch {
    /// Where it begins, in bytes from the start.
    pub offset: u64,
    /// How many bytes it has; 0 if something is missing there.
    pub bytes: u64,
    /// How many pieces are lost with it, as far as what follows tells.
    pub pieces: u64,
    /// What is wrong with it.
    pub what: String,
}

/// A document of which an archive lacks pieces that it announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncompleteDocument {
    /// Where.
    pub workspace: WorkspaceId,
    /// The document.
    pub document: DocumentId,
    /// How many snapshots are lost.
    pub snapshots: u64,
    /// How many changes are lost.
    pub changes: u64,
}

impl Replica {
    /// Writes everything in this store into one file; with a value from [`Self::in_workspace`],
    /// everything in that workspace. Edits and syncs go on meanwhile: each document is in the archive
    /// as it was at some moment. What does not read is passed over, and named in the report and in the
    /// archive.
    ///
    /// The file appears under its name whole and durable, or not at all, and only its owner may read
    /// it. It is taken from the store one document at a time.
    ///
    /// Dropping this ends the writing, and nothing is left of it.
    ///
    /// # Errors
    /// If there is such a file already, it cannot be written, or the store was closed. Damage is not an
    /// error: it is in the report.
    pub async fn archive(
        &self,
        file: impl Into<PathBuf>,
        options: ArchiveOptions,
    ) -> Result<ArchiveReport, Error> {
        let only = self.scope();
        if only.is_some() && options.with_identity {
            let what = "an identity goes with a whole store, not with one workspace";
            return Err(Error::BadInput(what.to_owned()));
        }
        let path = file.into();
        let profile = self.profile().clone();
        let ends = Ends::default();
        let watched = Arc::clone(&ends.0);
        let creation = Creation {
            profile,
            only,
            options,
            has_ended: watched,
        };
        // What was edited before is then in the store, or else the journal is asked for it.
        let settled = self.shared.driver.write(Write {
            request: request_id(),
            puts: Vec::new(),
            deletes: Vec::new(),
        });
        match settled.await {
            Err(Error::Closed) => return Err(Error::Closed),
            Err(error) => {
                tracing::debug!(%error, "an archive is made of a store that takes nothing")
            }
            Ok(()) => {}
        }
        self.blocking(move |shared| creation.write(shared, &path))
            .await
    }

    /// Takes in what an archive has and this store has not. What is here stays, and what was purged
    /// here stays purged. Nothing is trusted for coming from a file: every change is checked as one from
    /// a peer. The whole file is read first, and the least damage refuses it, unless
    /// [`RestoreOptions::partial`] says otherwise.
    ///
    /// Resolves when everything taken is durable. Workspaces that are not here are added, as this
    /// device's own; those that were joined are to be joined first. With a value from
    /// [`Self::in_workspace`] only that workspace is restored. What was restored is not in the journal:
    /// the archive is to be kept until another peer has what is in it.
    ///
    /// Dropping this midway leaves what was taken so far; restoring again goes on.
    ///
    /// # Errors
    /// If the file cannot be read, is no archive, of a later version or damaged; if the store fails.
    pub async fn restore(
        &self,
        file: impl Into<PathBuf>,
        options: RestoreOptions,
    ) -> Result<RestoreReport, Error> {
        if options.with_identity {
            let what = "a store that is there is the device that it is; an identity is restored only \
                        into a directory without a store";
            return Err(Error::BadInput(what.to_owned()));
        }
        let path = file.into();
        let partial = options.partial;
        let read = self.blocking(move |_| {
            let mut file = ArchiveFile::open(path)?;
            let contents = Contents::read(&mut file, partial, false)?;
            Ok((file, contents))
        });
        let (file, contents) = read.await?;
        restore::restore(self, file, contents, &options).await
    }
}

impl OpenOptions {
    /// Opens the replica and restores an archive into it: see [`Replica::restore`]. Where there is no
    /// store one is made, for the member that the archive is of, with their home and with the servers
    /// that workspaces were synced with. It is a device of its own, which those servers let in with a
    /// ticket; with [`RestoreOptions::with_identity`] it is the device that the archive is of. Whether a
    /// store may be or must be made is not asked.
    ///
    /// Dropping this midway may leave a store with a part of it, into which it can be restored again.
    ///
    /// # Errors
    /// As for [`Self::open`] and [`Replica::restore`]; with an identity also if there is a store, or the
    /// archive holds none. If the archive is refused no store is made.
    pub async fn restore(
        self,
        file: impl Into<PathBuf>,
        options: RestoreOptions,
    ) -> Result<(Replica, RestoreReport), Error> {
        let path = file.into();
        let (partial, with_identity) = (options.partial, options.with_identity);
        let prepared = tokio::task::spawn_blocking(move || {
            let mut file = ArchiveFile::open(path)?;
            let mut contents = Contents::read(&mut file, partial, with_identity)?;
            let open = match device::prepare(&self, &mut contents, with_identity)? {
                true => self.create_new(false).restored(),
                false => self.create_new(false),
            };
            Ok::<_, Error>((open, file, contents))
        });
        let (open, file, contents) = prepared.await.map_err(|_| Error::Closed)??;
        let replica = open.open().await?;
        match restore::restore(&replica, file, contents, &options).await {
            Ok(report) => Ok((replica, report)),
            Err(error) => {
                if let Err(error) = replica.close().await {
                    tracing::warn!(%error, "the store did not close in order");
                }
                Err(error)
            }
        }
    }
}

/// Says that whoever waited has gone.
#[derive(Default)]
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
