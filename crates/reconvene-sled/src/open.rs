//! Opening the store: guarded, because opening is where sled breaks.
//!
//! sled runs on a thread of its own, so that a panic ends that thread only. A directory it cannot
//! open is moved to `quarantine/` whole and a new one is begun: the journal holds what no other
//! peer has, the rest is fetched again. Nothing is ever deleted but the one file that a crash while
//! opening leaves behind, without which sled opens.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use reconvene_core::storage::JournalEntry;

use crate::contain::panic_message;
use crate::data_dir::{DataDir, OpenError};
use crate::files::{create_private_dir, move_synced, names_in, sync_dir, unused_name};
use crate::journal::{DamagedSegment, Journal};
use crate::space;
use crate::store::{OpenParts, SledStore};
use crate::tally::Tally;

/// sled's page cache, in bytes.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// How often a lock of sled's own is tried again. The directory is ours alone by then, so what is
/// locked can only be an earlier store of this process whose background work has not ended.
const LOCK_TRIES_MAX: u32 = 400;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// An open store and what was found on the way.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The store.
    pub store: SledStore,
    /// The journal's surviving entries, oldest first. The caller writes again what the store
    /// lacks of them; they stay in the journal until they are released.
    pub journal: Vec<JournalEntry>,
    /// What a person or the engine should know.
    pub report: OpenReport,
}

/// What was unusual about an open; the default is an uneventful open of an existing store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// The store is new and empty, because there was none or because it was set aside.
    pub is_new: bool,
    /// The sled directory that could not be opened.
    pub quarantined: Option<QuarantinedSled>,
    /// Number of leftover files of an interrupted open, removed.
    pub leftovers_removed: usize,
    /// Journal segments of which a part could not be read.
    pub damaged_segments: Vec<DamagedSegment>,
    /// Bytes of a journal write that a crash cut short; nothing in it was acknowledged.
    pub torn_bytes: u64,
    /// Groups of batches that were durable in the database and are not in it any more, about: it is as it
    /// was before them, or gone. What only this store had of them is in the journal.
    pub lost_groups: u64,
}

/// A sled directory that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinedSled {
    /// Where it is now.
    pub moved_to: PathBuf,
    /// Why sled could not open it.
    pub reason: String,
}

/// Opens the store in a data directory, or begins a new one. Costs time with the journal and with
/// sled's own recovery, not with the number of documents.
///
/// # Errors
/// See [`OpenError`]. Damage is not an error: it is set aside and reported.
pub fn open_store(data_dir: &DataDir) -> Result<Opened, OpenError> {
    let reservation = data_dir.reserve()?;
    let journal_dir = data_dir.journal();
    let (journal, recovered) = Journal::open(&journal_dir, &data_dir.quarantine())
        .map_err(|error| OpenError::io(&journal_dir, error))?;
    let mut report = OpenReport {
        damaged_segments: recovered.damaged,
        torn_bytes: recovered.torn_bytes,
        ..OpenReport::default()
    };
    let (db, file) = open_or_replace(data_dir, &mut report)?;
    let (tally, lost_groups) = Tally::open(&db, data_dir.path());
    if lost_groups > 0 {
        tracing::error!(
            lost_groups,
            "the database lost the end of what was durable in it"
        );
        report.lost_groups = lost_groups;
    }
    if report != OpenReport::default() {
        tracing::info!(?report, "the store was opened with something to tell");
    }
    let store = SledStore::new(OpenParts {
        tree: sled::Tree::clone(&db),
        file,
        journal,
        tally,
        data_dir: data_dir.clone(),
        reservation,
    });
    Ok(Opened {
        store,
        journal: recovered.entries,
        report,
    })
}

fn open_or_replace(
    data_dir: &DataDir,
    report: &mut OpenReport,
) -> Result<(sled::Db, File), OpenError> {
    let dir = data_dir.sled();
    let io = |error| OpenError::io(&dir, error);
    let reason = match open_existing(&dir, report) {
        Ok(opened) => return Ok(opened),
        Err(SledFault::Refused(error)) => return Err(error),
        Err(SledFault::Damaged(reason)) => reason,
    };
    // On a full disk a sound directory fails like a damaged one, and there is no room for another.
    space::check(&dir).map_err(|error| OpenError::io(&dir, space::full(&error, &reason)))?;
    let moved_to = unused_name(&data_dir.quarantine(), "sled-");
    tracing::error!(reason, moved_to = %moved_to.display(), "sled's directory is set aside");
    move_synced(&dir, &moved_to).map_err(io)?;
    report.quarantined = Some(QuarantinedSled { moved_to, reason });
    open_existing(&dir, report).map_err(|fault| match fault {
        SledFault::Refused(error) => error,
        SledFault::Damaged(what) => OpenError::Sled {
            path: dir.clone(),
            what,
        },
    })
}

/// Why sled's directory could not be opened.
enum SledFault {
    /// Not the directory's fault.
    Refused(OpenError),
    /// The directory is of no use.
    Damaged(String),
}

fn open_existing(dir: &Path, report: &mut OpenReport) -> Result<(sled::Db, File), SledFault> {
    let io = |error| SledFault::Refused(OpenError::io(dir, error));
    if fs::symlink_metadata(dir).is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(SledFault::Damaged("it is not a directory".to_owned()));
    }
    create_private_dir(dir).map_err(io)?;
    report.is_new = names_in(dir).map_err(io)?.is_empty();
    report.leftovers_removed += remove_leftovers(dir).map_err(io)?;
    let db = open_sled(dir)?;
    let file = settle(dir).map_err(io)?;
    let blobs = dir.join("blobs");
    let count = names_in(&blobs).map_err(io)?.len();
    if count > 0 {
        let path = blobs;
        return Err(SledFault::Refused(OpenError::BlobFiles { path, count }));
    }
    Ok((db, file))
}

/// Removes the snapshots a crash left unfinished: sled takes one for the latest and fails for ever.
/// The snapshot before it is still there, with all it needs.
fn remove_leftovers(dir: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for name in names_in(dir)? {
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(dir.join(name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn open_sled(dir: &Path) -> Result<sled::Db, SledFault> {
    for attempt in 0.. {
        let error = match open_sled_once(dir)? {
            Ok(db) => return Ok(db),
            Err(error) => error,
        };
        if !error.to_string().contains("could not acquire lock") {
            return Err(fault(dir, error));
        }
        if attempt == LOCK_TRIES_MAX {
            return Err(SledFault::Refused(OpenError::Locked {
                pid: None,
                path: dir.to_owned(),
            }));
        }
        thread::sleep(LOCK_PAUSE);
    }
    unreachable!("the loop over all numbers ends by a return")
}

fn open_sled_once(dir: &Path) -> Result<sled::Result<sled::Db>, SledFault> {
    let config = sled::Config::new()
        .path(dir)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    // Joining the thread is what contains a panic; it also keeps sled's thread-local state of a
    // failed open away from the caller's thread.
    thread::Builder::new()
        .name("reconvene-open".to_owned())
        .spawn(move || config.open())
        .map_err(|error| SledFault::Refused(OpenError::io(dir, error)))?
        .join()
        .map_err(|payload| {
            let what = panic_message(payload.as_ref());
            SledFault::Damaged(format!("sled panicked: {what}"))
        })
}

fn fault(dir: &Path, error: sled::Error) -> SledFault {
    match error {
        sled::Error::Io(error) if !is_damage(&error) => {
            SledFault::Refused(OpenError::io(dir, error))
        }
        error => SledFault::Damaged(error.to_string()),
    }
}

/// Whether an error of the operating system is about what the files hold.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
    )
}

/// Syncs what sled created but did not, and returns the handle that barriers sync through.
fn settle(dir: &Path) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(dir.join("db"))?;
    file.sync_all()?;
    File::open(dir.join("conf"))?.sync_all()?;
    sync_dir(&dir.join("blobs"))?;
    sync_dir(dir)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
