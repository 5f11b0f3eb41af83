//! Feed points, the running digest, and the digest of a document's heads.
//!
//! Constants here are frozen by `schema/golden/v1/digests.json`.

use sha2::{Digest as _, Sha256};

use crate::ids::{ChangeHash, DocumentId, FeedSeq, StoreEpoch};

/// Sixteen bytes of SHA-256 over something this crate defines.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// Takes the 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) fn finish(hasher: Sha256) -> Self {
        let full: [u8; 32] = hasher.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&full[..16]);
        Self(bytes)
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A place in a workspace's feed: which history, how far, and the running digest there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedPoint {
    /// The history of the store whose feed this is.
    pub epoch: StoreEpoch,
    /// The last entry up to here; 0 before the first.
    pub seq: FeedSeq,
    /// Running digest after that entry; zeros before the first.
    pub digest: Digest,
}

impl FeedPoint {
    /// The beginning of a history.
    pub const fn start_of(epoch: StoreEpoch) -> Self {
        Self {
            epoch,
            seq: FeedSeq(0),
            digest: Digest([0; 16]),
        }
    }

    /// The place after one more entry.
    #[must_use]
    pub fn advance(
        &self,
        document: &DocumentId,
        changes: impl IntoIterator<Item = ChangeHash>,
    ) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"reconvene/feed/1");
        hasher.update(self.digest.0);
        hasher.update(document.as_bytes());
        for hash in changes {
            hasher.update(hash.as_bytes());
        }
        Self {
            epoch: self.epoch,
            seq: self.seq.next(),
            digest: Digest::finish(hasher),
        }
    }
}

/// The digest of a document's exact version, from its heads in ascending order.
pub fn heads_digest<'a>(heads: impl IntoIterator<Item = &'a ChangeHash>) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(b"reconvene/heads/1");
    for hash in heads {
        hasher.update(hash.as_bytes());
    }
    Digest::finish(hasher)
}

#[cfg(test)]
mod tests;
