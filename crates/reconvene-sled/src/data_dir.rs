//! The data directory: one process's exclusive hold on a place on the disk.
//!
//! Everything a node keeps lies in one directory: the store's own files (`lock`, `format`, `sled/`,
//! `journal/`, `quarantine/`) and small ones of the crates above. This module takes the directory,
//! checks that it is ours and of a version we know, and keeps others out. It never deletes
//! anything and never opens the store.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::files::{bytes_under, create_private_dir, names_in, write_atomically};
use crate::journal::{self, JournalCheck};

/// The version of the directory's layout, in the `format` file.
const FORMAT_VERSION: u32 = 1;

/// How often that file says it.
const FORMAT_LINES: usize = 3;

/// Names that make a directory without a `format` file ours: what a crash can leave behind before
/// the file is written, and what the crates above may put there first.
const OUR_NAMES: [&str; 13] = [
    "lock",
    "format",
    "format.tmp",
    "sled",
    "journal",
    "quarantine",
    "tally",
    "identity.key",
    "profile.json",
    "enrolled.json",
    "config.toml",
    "control.sock",
    "log",
];

/// A data directory that could not be taken or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another part of this one, holds the directory.
    #[error("{} is in use{}", .path.display(), holder(.pid))]
    Locked {
        /// The holder, if it could be read.
        pid: Option<u32>,
        /// The directory.
        path: PathBuf,
    },
    /// A later version wrote the directory.
    #[error("the store has format {found}, this version knows up to {supported}")]
    NewerVersion {
        /// The format found.
        found: u32,
        /// The highest format this version reads.
        supported: u32,
    },
    /// The file that says which format a store has says nothing that can be read.
    #[error(
        "{} is damaged; if the version of reconvene that wrote the store is this one, write into it: {}",
        .path.display(), .line.trim_end()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What each of its lines should be.
        line: String,
    },
    /// The path holds something that is not a store.
    #[error("{} holds something that is not a store", .path.display())]
    NotAStore {
        /// The path.
        path: PathBuf,
    },
    /// The operating system does not let this user do what is needed.
    #[error("no permission for {}", .path.display())]
    Permission {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The disk is full.
    #[error("no space is left for {}", .path.display())]
    NoSpace {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system failed the operation.
    #[error("cannot open {}", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// sled wrote files that its barrier does not cover; nothing stored with them is safe.
    #[error("sled keeps {count} values outside its log in {}", .path.display())]
    BlobFiles {
        /// Where the files are.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// sled failed although its directory was new.
    #[error("sled cannot open a new store in {}: {what}", .path.display())]
    Sled {
        /// sled's directory.
        path: PathBuf,
        /// What sled said.
        what: String,
    },
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { path, source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { path, source }
            }
            _ => Self::Io { path, source },
        }
    }
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}"))
        .unwrap_or_default()
}

/// A data directory this process holds; others are kept out until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct DataDir {
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    path: PathBuf,
    store_open: AtomicBool,
    lock: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing would do, were it not for a process that is being started just now and holds a
        // copy of the handle until it runs its own program.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the data directory could not be unlocked");
        }
    }
}

/// Takes a data directory, creating it if it does not exist.
///
/// # Errors
/// See [`OpenError`]; nothing is changed in a directory that is not ours.
pub fn open_data_dir(path: impl AsRef<Path>) -> Result<DataDir, OpenError> {
    let path = path.as_ref();
    create_or_recognise(path)?;
    let lock = take_lock(path)?;
    check_format(path)?;
    for name in ["journal", "quarantine"] {
        let path = path.join(name);
        create_private_dir(&path).map_err(|error| OpenError::io(&path, error))?;
    }
    Ok(DataDir {
        held: Arc::new(Held {
            path: path.to_owned(),
            store_open: AtomicBool::new(false),
            lock,
        }),
    })
}

impl DataDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.held.path
    }

    /// Reads the journal without touching it, also while it is written.
    ///
    /// # Errors
    /// If the operating system does not let it be read.
    pub fn check_journal(&self) -> io::Result<JournalCheck> {
        journal::check(&self.journal())
    }

    pub(crate) fn sled(&self) -> PathBuf {
        self.path().join("sled")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path().join("journal")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.path().join("quarantine")
    }

    /// Reserves the right to open the store in this directory, which only one may have at a time.
    pub(crate) fn reserve(&self) -> Result<Reservation, OpenError> {
        if self.held.store_open.swap(true, Ordering::AcqRel) {
            return Err(OpenError::Locked {
                pid: Some(std::process::id()),
                path: self.path().to_owned(),
            });
        }
        Ok(Reservation(self.clone()))
    }
}

/// The right to have the store of a directory open; ends when dropped.
#[derive(Debug)]
pub(crate) struct Reservation(DataDir);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.held.store_open.store(false, Ordering::Release);
    }
}

/// How many bytes a data directory takes, by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// sled's files.
    pub sled: u64,
    /// The journal.
    pub journal: u64,
    /// What was set aside as damaged.
    pub quarantine: u64,
}

/// Measures how many bytes a data directory takes; may be called while its store is open.
///
/// # Errors
/// When a directory cannot be listed.
pub fn disk_bytes(data_dir: &DataDir) -> Result<DiskUse, io::Error> {
    Ok(DiskUse {
        sled: bytes_under(&data_dir.sled())?,
        journal: bytes_under(&data_dir.journal())?,
        quarantine: bytes_under(&data_dir.quarantine())?,
    })
}

fn create_or_recognise(path: &Path) -> Result<(), OpenError> {
    let io = |error| OpenError::io(path, error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(OpenError::NotAStore {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_private_dir(path).map_err(io)?;
        }
        Err(error) => return Err(io(error)),
    }
    let names = names_in(path).map_err(io)?;
    let foreign = !names.is_empty() && !names.iter().any(|name| OUR_NAMES.contains(&name.as_str()));
    if foreign {
        return Err(OpenError::NotAStore {
            path: path.to_owned(),
        });
    }
    Ok(())
}

fn take_lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = path.join("lock");
    let io = |error| OpenError::io(&lock_path, error);
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(io)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // Where locks are mandatory the file cannot be read; between its lock and its write
            // the holder's number is missing. The pid is help for a person, nothing more.
            let pid = fs::read_to_string(&lock_path)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            return Err(OpenError::Locked {
                pid,
                path: path.to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    lock.set_len(0).map_err(io)?;
    writeln!(lock, "{}", std::process::id()).map_err(io)?;
    Ok(lock)
}

fn check_format(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join("format");
    let copy = dir.join("format.copy");
    let line = format!("reconvene {FORMAT_VERSION}\n");
    let whole = line.repeat(FORMAT_LINES);
    let read = |path: &Path| match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io(path, error)),
    };
    let texts = [read(&path)?, read(&copy)?];
    match version_of(texts.iter().flatten()) {
        Some(FORMAT_VERSION) => {}
        Some(found) if found > FORMAT_VERSION => {
            let supported = FORMAT_VERSION;
            return Err(OpenError::NewerVersion { found, supported });
        }
        None if texts == [None, None] => {}
        _ if dir.join("sled").exists() || dir.join("journal").exists() => {
            return Err(OpenError::Format { path, line });
        }
        _ => {
            return Err(OpenError::NotAStore {
                path: dir.to_owned(),
            });
        }
    }
    for (path, text) in [&path, &copy].into_iter().zip(texts) {
        if text.as_deref() != Some(whole.as_bytes()) {
            write_atomically(path, whole.as_bytes()).map_err(|error| OpenError::io(path, error))?;
        }
    }
    Ok(())
}

/// The version that most of the lines name which can be read; several in two files say the same, so that
/// what is damaged of them does no harm.
fn version_of<'a>(texts: impl Iterator<Item = &'a Vec<u8>>) -> Option<u32> {
    let mut named = BTreeMap::<u32, usize>::new();
    for line in texts.flat_map(|text| text.split(|byte| *byte == b'\n')) {
        let line = std::str::from_utf8(line).ok();
        let version = line.and_then(|line| line.strip_prefix("reconvene ")?.parse().ok());
        if let Some(version) = version {
            *named.entry(version).or_default() += 1;
        }
    }
    named
        .into_iter()
        .max_by_key(|(_, times)| *times)
        .map(|(version, _)| version)
}

#[cfg(test)]
mod tests;
