//! The pure engine of reconvene: it decides what to store, send, trust and believe, and does none
//! of it. No clock, socket, disk, entropy source, task or unordered iteration lives here; the same
//! inputs in the same order always give the same outputs.
//!
//! The way in is `Engine::handle`, the way out `Engine::poll`; storage and network are
//! peers that answer with inputs and may refuse. This crate knows documents only as sets of
//! changes: it never names a meeting.

pub mod ids;
pub mod limits;
pub mod time;

pub mod archive;
pub mod feed;
pub mod guard;
pub mod keys;
pub mod records;
pub mod refusal;
pub mod storage;
pub mod ticket;
pub mod wire;

pub mod conformance;
pub mod engine;
pub mod examine;
pub mod memory;
pub mod mutants;
pub mod stored;

#[cfg(test)]
mod codecs;
#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(test)]
mod golden;

/// The messages generated from `schema/`.
///
/// Shapes only; every decode goes through [`records`] or the frame codec, which check what
/// protobuf cannot.
#[expect(
    missing_docs,
    reason = "generated; the .proto files carry the documentation"
)]
pub mod schema {
    /// Pieces of archives (`schema/archive.proto`).
    pub mod archive {
        include!(concat!(env!("OUT_DIR"), "/reconvene.archive.v1.rs"));
    }
    /// Stored records (`schema/storage.proto`).
    pub mod storage {
        include!(concat!(env!("OUT_DIR"), "/reconvene.storage.v1.rs"));
    }
    /// Frames (`schema/wire.proto`).
    pub mod wire {
        include!(concat!(env!("OUT_DIR"), "/reconvene.wire.v1.rs"));
    }
}
