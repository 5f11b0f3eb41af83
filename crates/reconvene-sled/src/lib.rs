//! The sled store: runs the engine's batches on a disk, and says honestly what is safe there.
//!
//! A [`DataDir`] is taken under a lock, [`open_store`] opens what is in it, and a [`Writer`] is the
//! one thread that writes. sled is treated as an index that may be lost: its own `flush` is
//! followed by a real barrier, its panics are contained, a directory it cannot open is set aside
//! whole, and local changes stand in a journal of ours until another peer holds them. No sled type
//! leaves this crate, and nothing here decides what is stored.
//!
//! ```
//! use reconvene_core::{ids::BatchId, keys::Key};
//! use reconvene_core::storage::{Batch, Durability, StoreRead, StoreWrite};
//! use reconvene_sled::{Completion, Writer, open_data_dir, open_store};
//!
//! # let temporary = tempfile::tempdir()?;
//! # let path = temporary.path().join("data");
//! let opened = open_store(&open_data_dir(&path)?)?;
//! let reader = opened.store.reader();
//!
//! let (sender, completions) = std::sync::mpsc::channel();
//! let writer = Writer::spawn(opened.store, move |completion| {
//!     sender.send(completion).expect("the receiver outlives the writer");
//! })?;
//! writer.submit(Batch {
//!     id: BatchId(1),
//!     after: None,
//!     puts: vec![(Key::meta(1), "hello".into())],
//!     deletes: vec![],
//!     journal: None,
//!     durability: Durability::Barrier,
//! })?;
//! assert_eq!(completions.recv()?, Completion::Stored(BatchId(1)));
//! assert_eq!(reader.read(&Key::meta(1))?.as_deref(), Some(&b"hello"[..]));
//!
//! writer.shutdown()?.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(all(panic = "abort", not(feature = "allow-panic-abort")))]
compile_error!(
    "reconvene-sled contains sled's panics, which `panic = \"abort\"` makes impossible: a damaged \
     store would end the process at every start. Build with `panic = \"unwind\"`, or turn on the \
     feature `allow-panic-abort` if that is acceptable."
);

mod data_dir;
mod open;
mod rebuild;
mod store;
mod writer;

mod reader;
mod record;

mod journal;
mod tally;

mod contain;
mod files;
mod space;

#[doc(hidden)]
pub mod mutants;

#[cfg(feature = "fuzz")]
pub mod fuzz;

#[cfg(test)]
#[path = "../../reconvene-core/src/golden.rs"]
mod golden;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use data_dir::{DataDir, DiskUse, OpenError, disk_bytes, open_data_dir};
pub use journal::{DamagedSegment, JournalCheck};
pub use open::{OpenReport, Opened, QuarantinedSled, open_store};
pub use reader::SledReader;
pub use rebuild::Rebuild;
pub use space::FREE_BYTES_MIN;
pub use store::SledStore;
pub use writer::{
    BARRIER_GROUPS_MAX, Completion, GROUP_BATCHES_MAX, GROUP_BYTES_MAX, QUEUE_BATCHES_MAX,
    QUEUE_BYTES_MAX, SubmitError, Writer,
};
