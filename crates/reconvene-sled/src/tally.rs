//! The tally: how many groups of batches the database was given. It stands in the database, in a tree of
//! its own, and in a file beside it.
//!
//! sled ends its log at the first message that does not read, and says nothing: what came after is gone,
//! and the database is what it was earlier. A tally in it that is behind the file's tells. The file is
//! written behind each barrier and not synced, so it is never ahead of what is durable; after a power cut
//! it may be behind, and then it tells less. It decides nothing: what is lost is for the engine to find.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::contain::contained;

/// The file's name in the data directory, and the tree's in the database.
pub(crate) const NAME: &str = "tally";
const KEY: &[u8] = b"groups";
const COUNT_BYTES: usize = 8;
const FILE_BYTES: usize = COUNT_BYTES + 4;

/// The tally of an open database.
pub(crate) struct Tally {
    /// `None` where the database does not let itself be counted any more.
    tree: Option<sled::Tree>,
    /// `None` where the file does not let itself be opened or read.
    file: Option<File>,
    groups: u64,
}

impl Tally {
    /// Compares a database with the file beside it; also how many groups it had made durable and has
    /// no more.
    pub(crate) fn open(db: &sled::Db, data_dir: &Path) -> (Self, u64) {
        let (file, noted) = match open(&data_dir.join(NAME)) {
            Ok((file, noted)) => (Some(file), noted.unwrap_or(0)),
            Err(error) => {
                tracing::warn!(%error, "the tally can not be read, and is not kept");
                (None, 0)
            }
        };
        let counted = contained(|| {
            let tree = db.open_tree(NAME)?;
            let found = tree.get(KEY)?;
            sled::Result::Ok((tree, found))
        });
        let (tree, counted) = match counted {
            Ok(Ok((tree, found))) => (Some(tree), found.map_or(0, |found| number(&found))),
            // What cannot be counted is not called lost.
            Ok(Err(error)) => (not_counted(&error.to_string()), noted),
            Err(what) => (not_counted(&what), noted),
        };
        let mut tally = Self {
            tree,
            file,
            groups: counted.max(noted),
        };
        if counted < noted {
            // Told once: from here on the database is what it is.
            tally.set();
        }
        (tally, noted.saturating_sub(counted))
    }

    /// Counts a group that was just written.
    pub(crate) fn count(&mut self) {
        if self.tree.is_some() {
            self.groups += 1;
            self.set();
        }
    }

    fn set(&mut self) {
        let Some(tree) = &self.tree else { return };
        let groups = self.groups.to_be_bytes();
        let failed = match contained(|| tree.insert(KEY, &groups)) {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(what) => what,
        };
        self.tree = not_counted(&failed);
    }

    /// Notes beside the database that everything counted so far is durable in it.
    pub(crate) fn barrier_passed(&mut self) {
        // What is not in the database must not be beside it.
        let (Some(_), Some(file)) = (&self.tree, &mut self.file) else {
            return;
        };
        let mut bytes = self.groups.to_be_bytes().to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        let rewound = file.seek(SeekFrom::Start(0));
        let written = rewound.and_then(|_| file.write_all(&bytes));
        if let Err(error) = written {
            // It is behind then, and never wrong.
            tracing::warn!(%error, "the tally could not be noted");
        }
    }
}

fn not_counted(what: &str) -> Option<sled::Tree> {
    tracing::warn!(what, "the database can not be counted any more");
    None
}

/// The file, and what it says.
fn open(path: &Path) -> io::Result<(File, Option<u64>)> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(path)?;
    let noted = read(&mut file)?;
    Ok((file, noted))
}

/// What the file says; `None` if it is new, or damaged.
fn read(file: &mut File) -> io::Result<Option<u64>> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() != FILE_BYTES {
        return Ok(None);
    }
    let (groups, checksum) = bytes.split_at(COUNT_BYTES);
    let is_whole = crc32fast::hash(groups).to_be_bytes() == checksum;
    Ok(is_whole.then(|| number(groups)))
}

fn number(bytes: &[u8]) -> u64 {
    let bytes = bytes.try_into().unwrap_or([0; COUNT_BYTES]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
