//! A new database that takes the place of a damaged one. The damaged one is moved to `quarantine/`
//! whole; the journal stays where it is.

use std::path::{Path, PathBuf};
use std::{fs, io};

use bytes::Bytes;
use reconvene_core::ids::BatchId;
use reconvene_core::keys::Key;
use reconvene_core::storage::{Batch, Durability, StoreError, StoreWrite as _};

use crate::contain::io_error;
use crate::data_dir::{DataDir, OpenError, open_data_dir};
use crate::files::{move_synced, unused_name};
use crate::open::open_store;
use crate::store::SledStore;
use crate::tally;

/// Where the new database is made. What an earlier attempt left there is removed.
const PLACE: &str = "rebuilt";

/// A database in the making.
#[derive(Debug)]
pub struct Rebuild {
    store: SledStore,
    place: PathBuf,
    batches: u64,
}

impl Rebuild {
    /// Begins an empty database beside the one in use.
    ///
    /// # Errors
    /// If the disk does not let it.
    pub fn begin(data_dir: &DataDir) -> Result<Self, OpenError> {
        let place = data_dir.path().join(PLACE);
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::io(&place, error));
            }
            _ => {}
        }
        let store = open_store(&open_data_dir(&place)?)?.store;
        Ok(Self {
            store,
            place,
            batches: 0,
        })
    }

    /// Adds records.
    ///
    /// # Errors
    /// If the disk is full or fails; the database in use is as it was.
    pub fn write(&mut self, puts: Vec<(Key, Bytes)>) -> Result<(), StoreError> {
        self.store.room()?;
        self.batches += 1;
        self.store.apply(&Batch {
            id: BatchId(self.batches),
            after: None,
            puts,
            deletes: Vec::new(),
            journal: None,
            durability: Durability::Barrier,
        })?;
        self.store.barrier()
    }

    /// Puts the new database in the place of the damaged one, and says where that is now.
    ///
    /// A crash in the middle leaves both, one of them without a name that is looked for.
    ///
    /// # Errors
    /// If the disk does not let it.
    pub fn replace(self, damaged: SledStore) -> Result<PathBuf, StoreError> {
        let data_dir = damaged.data_dir().clone();
        let Self { store, place, .. } = self;
        let rebuilt = store.data_dir().sled();
        store.close()?;
        // Nothing was written to it that a barrier has to cover.
        drop(damaged);
        let set_aside = unused_name(&data_dir.quarantine(), "sled-");
        // It counted the damaged one.
        let moved = remove_if_there(&data_dir.path().join(tally::NAME));
        let moved = moved
            .and_then(|()| move_synced(&data_dir.sled(), &set_aside))
            .and_then(|()| move_synced(&rebuilt, &data_dir.sled()))
            .and_then(|()| fs::remove_dir_all(&place));
        moved.map_err(|error| io_error(&error))?;
        Ok(set_aside)
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
