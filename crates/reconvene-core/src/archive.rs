//! Archives: one file of a store or of one workspace, which depends on no storage engine.
//!
//! A header, then pieces, each with its place in the order, its length and its checksums; the last one
//! holds a digest of everything before it. `schema/archive.md` describes it byte by byte. Here bytes
//! become pieces and pieces bytes, in a stream and within bounds; files are the host's business, and
//! what a restored piece is worth is decided where every foreign change is.

mod decode;
mod encode;
mod order;
mod pieces;

pub use decode::{Decoder, Found, Lost};
pub use encode::Encoder;
pub use order::Incomplete;
pub use pieces::{
    About, ArchivedDocument, ArchivedServer, ArchivedWorkspace, Body, DamageNote, End, FilePart,
    Piece,
};

/// What every archive begins with: no text, and altered by whoever alters line ends.
pub const MAGIC: [u8; 8] = *b"\x89RCVA\r\n\x1a";
/// The version that is written.
pub const VERSION: u32 = 1;
/// Size of the header: magic, version, mark, checksum. The same in every version.
pub const HEADER_BYTES: usize = 24;
/// Size of what stands ahead of a piece's payload: mark, number, kind, length, checksum.
pub const HEAD_BYTES: usize = 25;
/// Size of the checksum after a payload.
pub const CHECKSUM_BYTES: usize = 4;

/// Eight random bytes that begin every piece of one archive, so that a reader finds the next piece
/// behind damage, and takes nothing inside a document for one.
pub type Mark = [u8; 8];

/// Why bytes are no archive, or not a whole one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It does not begin as archives do.
    #[error("it is not an archive, or its first bytes are damaged")]
    NotAnArchive,
    /// A later version wrote it.
    #[error("it is an archive of version {found}, and this program reads up to {supported}")]
    TooNew {
        /// Its version.
        found: u32,
        /// The latest that is read here.
        supported: u32,
    },
    /// A piece is not what was written.
    #[error("it is damaged at byte {offset}, piece {piece}: {what}")]
    Damaged {
        /// Where the piece begins, in bytes from the start.
        offset: u64,
        /// The piece's number.
        piece: u64,
        /// What is wrong, for people.
        what: String,
    },
    /// It ends before its last piece.
    #[error("it ends at byte {bytes}, in piece {piece}, before its last piece")]
    Truncated {
        /// Its length.
        bytes: u64,
        /// The piece in which it ends.
        piece: u64,
    },
    /// A piece would be larger than one may be.
    #[error("a piece of {bytes} bytes is larger than one may be, {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

#[cfg(test)]
mod tests;
