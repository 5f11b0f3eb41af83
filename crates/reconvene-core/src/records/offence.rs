//! What a peer sent that no peer sends that keeps the protocol, as its row remembers it.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{PeerRow, QuarantineRow, Record as _, RecordError, copy, fixed};
use crate::ids::{DocumentId, PeerId, WorkspaceId};
use crate::keys::Key;
use crate::limits;
use crate::schema::storage as proto;
use crate::time::WallTime;

/// One offence of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offence {
    /// The document for which the bytes were sent.
    pub document: DocumentId,
    /// SHA-256 of the bytes.
    pub hash: [u8; 32],
    /// How many bytes; at most `limits::QUARANTINE_BYTES_MAX` of them are kept.
    pub size: u64,
    /// What was wrong with them, for people; at most `limits::OFFENCE_TEXT_BYTES_MAX` bytes of UTF-8.
    pub what: String,
    /// When they came.
    pub at: WallTime,
    /// Whether they are still in quarantine.
    pub is_kept: bool,
}

impl Offence {
    /// Of bytes that came just now.
    pub fn new(document: DocumentId, raw: &[u8], what: &str, at: WallTime) -> Self {
        let length = what.floor_char_boundary(limits::OFFENCE_TEXT_BYTES_MAX);
        Self {
            document,
            hash: Sha256::digest(raw).into(),
            size: raw.len() as u64,
            what: what[..length].to_owned(),
            at,
            is_kept: true,
        }
    }

    /// Where the bytes are kept.
    pub fn key(&self, workspace: &WorkspaceId, peer: &PeerId) -> Key {
        let mut hasher = Sha256::new();
        hasher.update(peer.as_bytes());
        hasher.update(self.document.as_bytes());
        hasher.update(self.hash);
        Key::quarantine(workspace, &hasher.finalize().into())
    }

    /// How many bytes are kept.
    pub fn kept_bytes(&self) -> u64 {
        match self.is_kept {
            true => self.size.min(limits::QUARANTINE_BYTES_MAX as u64),
            false => 0,
        }
    }

    /// What keeps the bytes.
    pub fn row(&self, workspace: &WorkspaceId, peer: PeerId, raw: &Bytes) -> Bytes {
        let head = Key::head(workspace, &self.document);
        let row = QuarantineRow {
            key: Bytes::copy_from_slice(head.as_bytes()),
            raw: raw.slice(..raw.len().min(limits::QUARANTINE_BYTES_MAX)),
            offset: 0,
            what: self.what.clone(),
            at: self.at,
            peer: Some(peer),
        };
        row.encode()
    }

    pub(super) fn to_proto(&self) -> proto::Offence {
        proto::Offence {
            document: copy(self.document.as_bytes()),
            hash: copy(&self.hash),
            size: self.size,
            what: self.what.clone(),
            at_ms: self.at.as_millis(),
            kept: self.is_kept,
        }
    }

    pub(super) fn from_proto(
        record: &'static str,
        offence: &proto::Offence,
    ) -> Result<Self, RecordError> {
        let document = fixed(record, "an offence's document", &offence.document)?;
        Ok(Self {
            document: DocumentId::from_bytes(document),
            hash: fixed(record, "an offence's hash", &offence.hash)?,
            size: offence.size,
            what: offence.what.clone(),
            at: WallTime::from_millis(offence.at_ms),
            is_kept: offence.kept,
        })
    }
}

/// What is to be done about an offence that was just noted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NotedOffence {
    /// Whether its bytes were not known as its peer's already: they are to be kept.
    pub is_new: bool,
    /// Whether a link has to be closed for it.
    pub closes: bool,
    /// Those of which the bytes are not to be kept any more.
    pub dropped: Vec<Offence>,
}

impl PeerRow {
    /// Remembers an offence, unless its bytes are remembered already.
    ///
    /// A link is closed once for the same bytes, and not for more than `limits::OFFENCES_MAX` within
    /// `limits::OFFENCES_REMEMBERED_FOR`: whoever is broken and not hostile goes on with what is sound.
    pub fn offend(&mut self, offence: Offence) -> NotedOffence {
        let is_same =
            |known: &Offence| known.document == offence.document && known.hash == offence.hash;
        if self.offences.iter().any(is_same) {
            return NotedOffence::default();
        }
        let age = |known: &Offence| offence.at.as_millis().saturating_sub(known.at.as_millis());
        let remembered_ms = i64::try_from(limits::OFFENCES_REMEMBERED_FOR.as_millis());
        let is_recent = |known: &&Offence| age(known) < remembered_ms.unwrap_or(i64::MAX);
        let recent = self.offences.iter().filter(is_recent).count();
        self.offences.push(offence);
        let mut dropped = Vec::new();
        if self.offences.len() > limits::OFFENCES_MAX {
            let oldest = self.offences.remove(0);
            dropped.extend(oldest.is_kept.then_some(oldest));
        }
        let mut bytes: u64 = self.offences.iter().map(Offence::kept_bytes).sum();
        for known in &mut self.offences {
            if bytes <= limits::OFFENCES_BYTES_MAX {
                break;
            }
            bytes -= known.kept_bytes();
            if std::mem::replace(&mut known.is_kept, false) {
                dropped.push(known.clone());
            }
        }
        NotedOffence {
            is_new: true,
            closes: recent < limits::OFFENCES_MAX,
            dropped,
        }
    }
}
