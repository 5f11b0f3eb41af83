//! Ids that follow from what they are about, and who wrote something.

use reconvene_core::ids::{DocumentId, MemberId, PeerId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Who asked for something or added it: a member, at a device of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The member.
    pub member: MemberId,
    /// Their device.
    pub device: PeerId,
}

/// The document id (a UUID of version 8) that follows from a domain and the parts of a name: whoever
/// derives it from the same gets the same.
pub fn derive_document_id(domain: &str, parts: &[&[u8]]) -> DocumentId {
    let mut hash = Sha256::new().chain_update(domain);
    for part in parts {
        // With lengths, so that no two lists of parts are the same bytes.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = 0x80 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    DocumentId::from_bytes(bytes)
}
