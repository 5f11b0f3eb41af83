//! Actors: who wrote a change, as a function of device, document and incarnation.
//!
//! Deriving the actor means that a copied or restored directory, which gets a new incarnation at
//! its first write, can never write a second change under a sequence number that is already taken.
//! Nothing here draws an incarnation; the caller mints one at the first write after each open.

use reconvene_core::ids::{DocumentId, PeerId};
use sha2::{Digest, Sha256};

/// What separates this use of SHA-256 from every other one.
const DOMAIN: &[u8] = b"reconvene/actor/1";

/// Derives the actor id under which a device writes to a document during one incarnation: the first
/// 16 bytes of SHA-256 over the domain, the device's key, the document and the incarnation.
pub fn derive_actor(device: &PeerId, document: &DocumentId, incarnation: &[u8; 16]) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(device.as_bytes())
        .chain_update(document.as_bytes())
        .chain_update(incarnation)
        .finalize()
        .into();
    let mut actor = [0; 16];
    actor.copy_from_slice(&digest[..16]);
    actor
}

#[cfg(test)]
mod tests;
