//! Bytes become pieces: strictly, so that the first thing wrong ends it, or salvaging, so that every
//! whole piece is found and everything else told.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::order::{Incomplete, Order};
use super::pieces::{End, Piece};
use super::{ArchiveError, CHECKSUM_BYTES, HEAD_BYTES, HEADER_BYTES, MAGIC, Mark, VERSION};
use crate::limits::{ARCHIVE_PIECE_BYTES_MAX, ARCHIVE_PIECES_MAX};

/// Something that was found in an archive.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// A whole piece.
    Piece {
        /// Where it begins.
        offset: u64,
        /// The piece.
        piece: Piece,
    },
    /// Bytes that are no piece any more. Only when salvaging.
    Lost(Lost),
    /// A document of which pieces are lost. Only when salvaging.
    Incomplete(Incomplete),
}

/// A stretch of an archive that is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where it begins.
    pub offset: u64,
    /// How long it is; 0 if only something is missing there.
    pub bytes: u64,
    /// How many pieces are lost with it, as far as those after it tell.
    pub pieces: u64,
    /// What is wrong, for people.
    pub what: String,
}

/// Reads an archive from bytes that come in any portions. Holds no more than one piece and one
/// portion.
#[derive(Debug)]
pub struct Decoder {
    salvages: bool,
    buffer: BytesMut,
    /// Where in the archive the buffer begins.
    offset: u64,
    is_complete: bool,
    stage: Stage,
    mark: Mark,
    /// What was read so far; its pieces are the next one's number.
    tally: End,
    hasher: Sha256,
    order: Order,
    /// Since where nothing is a piece, and what was wrong there.
    skipping: Option<(u64, &'static str)>,
    has_lost: bool,
    /// Found, and not told yet.
    found: VecDeque<Found>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Pieces,
    /// After the last piece.
    Ended,
    Over,
}

/// What stands ahead of a payload.
#[derive(Clone, Copy, Debug)]
struct Head {
    number: u64,
    kind: u8,
    length: usize,
}

impl Decoder {
    /// A decoder for which the first thing wrong is an error.
    pub fn strict() -> Self {
        Self::new(false)
    }

    /// A decoder that goes on past what is damaged. Only what is no archive, or one of a later version,
    /// is an error.
    pub fn salvaging() -> Self {
        Self::new(true)
    }

    fn new(salvages: bool) -> Self {
        Self {
            salvages,
            buffer: BytesMut::new(),
            offset: 0,
            is_complete: false,
            stage: Stage::Header,
            mark: Mark::default(),
            tally: End::default(),
            hasher: Sha256::new(),
            order: Order::default(),
            skipping: None,
            has_lost: false,
            found: VecDeque::new(),
        }
    }

    /// Hands in the next bytes, once [`Self::next_found`] asks for more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Says that there are no more bytes.
    pub fn finish(&mut self) {
        self.is_complete = true;
    }

    /// Whether [`Self::finish`] was called.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What was found next. `None` asks for more bytes, or says that this was all once
    /// [`Self::finish`] was called.
    ///
    /// # Errors
    /// If it is no archive, one of a later version, or, for a strict decoder, not a whole one. After
    /// that there is nothing more.
    pub fn next_found(&mut self) -> Result<Option<Found>, ArchiveError> {
        loop {
            if let Some(found) = self.found.pop_front() {
                return Ok(Some(found));
            }
            let read = match self.stage {
                Stage::Header => self.read_header(),
                Stage::Pieces => self.read_piece(),
                Stage::Ended => self.read_past_end(),
                Stage::Over => return Ok(None),
            };
            match read {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    self.stage = Stage::Over;
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
    }

    /// Takes bytes off the front of the buffer.
    fn take(&mut self, bytes: usize) -> Bytes {
        let taken = self.buffer.split_to(bytes).freeze();
        self.hasher.update(&taken);
        self.offset += bytes as u64;
        taken
    }

    /// Takes note of what is lost, or ends there.
    fn lose(&mut self, lost: Lost) -> Result<(), ArchiveError> {
        if !self.salvages {
            return Err(ArchiveError::Damaged {
                offset: lost.offset,
                piece: self.tally.pieces,
                what: lost.what,
            });
        }
        self.has_lost = true;
        self.found.push_back(Found::Lost(lost));
        Ok(())
    }

    /// Reads the header; false if more bytes are wanted first.
    fn read_header(&mut self) -> Result<bool, ArchiveError> {
        let wanted = match self.salvages {
            // The first piece says the mark once more.
            true => HEADER_BYTES + HEAD_BYTES,
            false => HEADER_BYTES,
        };
        if self.buffer.len() < wanted && !self.is_complete {
            return Ok(false);
        }
        match check_header(&self.buffer) {
            Ok(mark) => self.mark = mark,
            Err(error @ ArchiveError::TooNew { .. }) => return Err(error),
            Err(error) if !self.salvages || self.buffer.len() < wanted => return Err(error),
            Err(_) => {
                let first: Mark = part(&self.buffer, HEADER_BYTES);
                let is_named = read_head(&self.buffer[HEADER_BYTES..], first).is_some();
                if !is_named && self.buffer[..MAGIC.len()] != MAGIC {
                    return Err(ArchiveError::NotAnArchive);
                }
                self.mark = match is_named {
                    true => first,
                    false => part(&self.buffer, MAGIC.len() + 4),
                };
                self.lose(Lost {
                    offset: 0,
                    bytes: HEADER_BYTES as u64,
                    pieces: 0,
                    what: "the header is damaged".to_owned(),
                })?;
            }
        }
        self.take(HEADER_BYTES);
        self.stage = Stage::Pieces;
        Ok(true)
    }

    /// Reads the next piece or what is lost ahead of it; false if more bytes are wanted first.
    fn read_piece(&mut self) -> Result<bool, ArchiveError> {
        if self.buffer.len() < HEAD_BYTES {
            return match self.is_complete {
                true => self.run_out().map(|()| true),
                false => Ok(false),
            };
        }
        let head = read_head(&self.buffer, self.mark);
        let head = head.filter(|head| head.number < ARCHIVE_PIECES_MAX);
        let head = head.filter(|head| match self.salvages {
            true => head.number >= self.tally.pieces,
            false => head.number == self.tally.pieces,
        });
        let Some(head) = head else {
            return self.skip("its head is damaged").map(|()| true);
        };
        let whole = HEAD_BYTES + head.length + CHECKSUM_BYTES;
        if self.buffer.len() < whole {
            return match (self.is_complete, self.salvages) {
                (false, _) => Ok(false),
                (true, false) => self.run_out().map(|()| true),
                (true, true) => self.skip("it is cut off").map(|()| true),
            };
        }
        self.end_skip(head.number)?;
        let offset = self.offset;
        let before = self.hasher.clone();
        let taken = self.take(whole);
        let (payload, checksum) = taken[HEAD_BYTES..].split_at(head.length);
        let read = match crc32fast::hash(payload).to_be_bytes() == *checksum {
            true => Piece::read(head.kind, taken.slice_ref(payload)),
            false => Err("its checksum does not match".to_owned()),
        };
        match read.and_then(|piece| self.check(piece, before)) {
            Ok(piece) => {
                if matches!(piece, Piece::End(_)) {
                    self.stage = Stage::Ended;
                }
                self.found.push_back(Found::Piece { offset, piece });
            }
            Err(what) => {
                self.lose(Lost {
                    offset,
                    bytes: whole as u64,
                    pieces: 1,
                    what,
                })?;
                self.tally.pieces = head.number + 1;
            }
        }
        Ok(true)
    }

    /// Whether a piece fits what was read before it.
    fn check(&mut self, piece: Piece, before: Sha256) -> Result<Piece, String> {
        if let Piece::End(end) = &piece {
            let expected = End {
                digest: before.finalize().into(),
                ..self.tally
            };
            if *end != expected && !self.has_lost {
                return Err("it does not fit what is before it".to_owned());
            }
        }
        match (self.order.take(&piece), self.salvages) {
            (Ok(None), _) => {}
            (Ok(Some(lacking)), true) => self.found.push_back(Found::Incomplete(lacking)),
            (Ok(Some(lacking)), false) => {
                return Err(format!(
                    "before it, {} snapshots and {} changes of document {} are missing",
                    lacking.snapshots, lacking.changes, lacking.document
                ));
            }
            // What announced it may be lost: that is told by itself.
            (Err(_), true) if self.has_lost => {}
            (Err(wrong), _) => return Err(wrong),
        }
        self.tally.count(&piece);
        Ok(piece)
    }

    /// There is nothing more, and the last piece was not there.
    fn run_out(&mut self) -> Result<(), ArchiveError> {
        let bytes = self.offset + self.buffer.len() as u64;
        if !self.salvages {
            let piece = self.tally.pieces;
            return Err(ArchiveError::Truncated { bytes, piece });
        }
        let rest = self.buffer.len();
        if rest > 0 && self.skipping.is_none() {
            self.skipping = Some((self.offset, "it is cut off"));
        }
        self.take(rest);
        self.end_skip(self.tally.pieces)?;
        self.lose(Lost {
            offset: bytes,
            bytes: 0,
            pieces: 1,
            what: "it ends before its last piece".to_owned(),
        })?;
        let lacking = self.order.end();
        self.found.extend(lacking.map(Found::Incomplete));
        self.stage = Stage::Over;
        Ok(())
    }

    fn read_past_end(&mut self) -> Result<bool, ArchiveError> {
        if self.buffer.is_empty() {
            if self.is_complete {
                self.end_skip(self.tally.pieces)?;
                self.stage = Stage::Over;
            }
            return Ok(self.is_complete);
        }
        if !self.salvages {
            self.lose(Lost {
                offset: self.offset,
                bytes: 0,
                pieces: 0,
                what: "something follows its last piece".to_owned(),
            })?;
        }
        self.skipping
            .get_or_insert((self.offset, "something follows its last piece"));
        self.take(self.buffer.len());
        Ok(true)
    }

    /// Goes on to the next place where a piece may begin.
    fn skip(&mut self, what: &'static str) -> Result<(), ArchiveError> {
        if !self.salvages {
            let (offset, bytes, pieces) = (self.offset, 0, 0);
            let what = what.to_owned();
            return self.lose(Lost {
                offset,
                bytes,
                pieces,
                what,
            });
        }
        self.skipping.get_or_insert((self.offset, what));
        let rest = self.buffer[1..].iter();
        let next = rest.copied().position(|byte| byte == self.mark[0]);
        let bytes = next.map_or(self.buffer.len(), |next| next + 1);
        self.take(bytes);
        Ok(())
    }

    /// What was skipped ends here, with the piece of this number; pieces may be missing without a
    /// trace, too.
    fn end_skip(&mut self, number: u64) -> Result<(), ArchiveError> {
        let pieces = number - self.tally.pieces;
        let (from, what) = match self.skipping.take() {
            Some(skipping) => skipping,
            None if pieces > 0 => (self.offset, "pieces are missing"),
            None => return Ok(()),
        };
        self.tally.pieces = number;
        self.lose(Lost {
            offset: from,
            bytes: self.offset - from,
            pieces,
            what: what.to_owned(),
        })
    }
}

/// The mark of an archive that begins like this.
fn check_header(bytes: &[u8]) -> Result<Mark, ArchiveError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] || bytes.is_empty() {
        return Err(ArchiveError::NotAnArchive);
    }
    if bytes.len() < HEADER_BYTES {
        let bytes = bytes.len() as u64;
        return Err(ArchiveError::Truncated { bytes, piece: 0 });
    }
    let (said, checksum) = bytes[..HEADER_BYTES].split_at(HEADER_BYTES - CHECKSUM_BYTES);
    let damaged = |what: &str| ArchiveError::Damaged {
        offset: 0,
        piece: 0,
        what: what.to_owned(),
    };
    if crc32fast::hash(said).to_be_bytes() != *checksum {
        return Err(damaged("the header's checksum does not match"));
    }
    match u32::from_be_bytes(part(said, MAGIC.len())) {
        VERSION => Ok(part(said, MAGIC.len() + 4)),
        0 => Err(damaged("the header names no version")),
        found => Err(ArchiveError::TooNew {
            found,
            supported: VERSION,
        }),
    }
}

/// What stands at the front of a piece, if it is one under this mark.
fn read_head(bytes: &[u8], mark: Mark) -> Option<Head> {
    let (said, checksum) = bytes
        .get(..HEAD_BYTES)?
        .split_at(HEAD_BYTES - CHECKSUM_BYTES);
    if said[..mark.len()] != mark || crc32fast::hash(said).to_be_bytes() != *checksum {
        return None;
    }
    let length = usize::try_from(u32::from_be_bytes(part(said, 17))).ok()?;
    (length <= ARCHIVE_PIECE_BYTES_MAX).then(|| Head {
        number: u64::from_be_bytes(part(said, 8)),
        kind: said[16],
        length,
    })
}

/// The bytes at a place where there are that many.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let part = bytes[at..at + N].try_into();
    part.expect("a slice of N bytes is an array of N")
}
