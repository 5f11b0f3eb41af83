//! The suite that every store passes, on real files.
//!
//! A crash is emulated by copying the files while the store is open and opening the copy: what a
//! killed process leaves, everything handed to the system and nothing that was still in sled's
//! buffers. It proves that batches stay whole and in order and that a barrier hands everything over;
//! it cannot prove that the barrier's sync reaches the disk.

use std::fs;
use std::path::{Path, PathBuf};

use reconvene_core::conformance::{Reopen, Reopened, StoreFactory, check_store};

use crate::files::names_in;
use crate::testing::open;
use crate::{OpenReport, SledStore};

struct Sled {
    temporary: tempfile::TempDir,
    /// Counts the directories the store has been in.
    generation: u32,
}

impl Sled {
    fn path(&self) -> PathBuf {
        self.temporary.path().join(self.generation.to_string())
    }
}

impl StoreFactory for Sled {
    type Store = SledStore;

    fn open(&mut self) -> SledStore {
        open(&self.path()).store
    }

    fn reopen(&mut self, store: SledStore, how: Reopen) -> Reopened<SledStore> {
        match how {
            Reopen::Clean => store.close().unwrap(),
            Reopen::Crash => {
                let crashed = self.path();
                self.generation += 1;
                copy_dir(&crashed, &self.path());
                drop(store);
                fs::remove_dir_all(crashed).unwrap();
            }
        }
        let opened = open(&self.path());
        assert_eq!(opened.report, OpenReport::default());
        Reopened {
            store: opened.store,
            journal: opened.journal,
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in names_in(from).unwrap() {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_dir(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn the_store_on_sled_conforms() {
    check_store(|| Sled {
        temporary: tempfile::tempdir().unwrap(),
        generation: 0,
    });
}
