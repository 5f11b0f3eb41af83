//! Pieces become bytes.

use sha2::{Digest as _, Sha256};

use super::pieces::{End, Piece};
use super::{ArchiveError, CHECKSUM_BYTES, HEAD_BYTES, HEADER_BYTES, MAGIC, Mark, VERSION};
use crate::limits::ARCHIVE_PIECE_BYTES_MAX;

/// Writes an archive, piece by piece: whoever has it hands the bytes on.
#[derive(Debug)]
pub struct Encoder {
    mark: Mark,
    tally: End,
    hasher: Sha256,
}

impl Encoder {
    /// Begins an archive under a mark that was drawn for it, and adds its header to `out`.
    pub fn begin(mark: Mark, out: &mut Vec<u8>) -> Self {
        let from = out.len();
        out.reserve(HEADER_BYTES);
        out.extend(MAGIC);
        out.extend(VERSION.to_be_bytes());
        out.extend(mark);
        let checksum = crc32fast::hash(&out[from..]);
        out.extend(checksum.to_be_bytes());
        let mut hasher = Sha256::new();
        hasher.update(&out[from..]);
        Self {
            mark,
            tally: End::default(),
            hasher,
        }
    }

    /// Adds a piece to `out`.
    ///
    /// # Errors
    /// If it is larger than `limits::ARCHIVE_PIECE_BYTES_MAX`; nothing was added then.
    pub fn put(&mut self, piece: &Piece, out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let payload = piece.payload();
        if payload.len() > ARCHIVE_PIECE_BYTES_MAX {
            return Err(ArchiveError::TooLarge {
                bytes: payload.len(),
                max: ARCHIVE_PIECE_BYTES_MAX,
            });
        }
        self.add(piece.kind(), &payload, out);
        self.tally.count(piece);
        Ok(())
    }

    /// Adds a piece of any kind and payload to `out`, for attacks on who reads it.
    #[cfg(feature = "fuzz")]
    pub(crate) fn forge(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) {
        self.add(kind, payload, out);
        match Piece::read(kind, bytes::Bytes::copy_from_slice(payload)) {
            Ok(piece) => self.tally.count(&piece),
            Err(_) => self.tally.pieces += 1,
        }
    }

    /// Adds a head, a payload and their checksums to `out`.
    fn add(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        let length = u32::try_from(payload.len()).expect("a piece is far below 4 GiB");
        out.reserve(HEAD_BYTES + payload.len() + CHECKSUM_BYTES);
        out.extend(self.mark);
        out.extend(self.tally.pieces.to_be_bytes());
        out.push(kind);
        out.extend(length.to_be_bytes());
        let checksum = crc32fast::hash(&out[from..]);
        out.extend(checksum.to_be_bytes());
        out.extend_from_slice(payload);
        out.extend(crc32fast::hash(payload).to_be_bytes());
        self.hasher.update(&out[from..]);
    }

    /// What was put so far.
    pub fn tally(&self) -> &End {
        &self.tally
    }

    /// Ends the archive.
    pub fn end(mut self, out: &mut Vec<u8>) -> End {
        let end = End {
            digest: self.hasher.clone().finalize().into(),
            ..self.tally
        };
        let put = self.put(&Piece::End(end), out);
        put.expect("the last piece is far smaller than one may be");
        end
    }
}
