//! Tickets: what a person carries from a server to a device that is to join a workspace.
//!
//! As text: `rcv1-`, then base58 of the protobuf message and four bytes of its SHA-256, so that a
//! mistyped ticket is told apart from a wrong one.

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::ids::{MemberId, PeerId, WorkspaceId};
use crate::schema::wire as proto;
use crate::time::WallTime;

const PREFIX: &str = "rcv1-";
const CHECK_BYTES: usize = 4;

/// Longest ticket, as text. A longer one is not looked at.
pub const TICKET_CHARS_MAX: usize = 4096;

/// Everything a device needs to join.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Where the issuer listens.
    pub addresses: Vec<String>,
    /// Who the issuer is.
    pub peer: PeerId,
    /// The workspace it opens.
    pub workspace: WorkspaceId,
    /// Its name.
    pub workspace_name: String,
    /// Whose device will join.
    pub member: MemberId,
    /// Their name.
    pub member_name: String,
    /// Their home workspace.
    pub home: WorkspaceId,
    /// Proof that the issuer made it.
    pub secret: [u8; 32],
    /// When it ends.
    pub expires_at: WallTime,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("peer", &self.peer)
            .field("workspace", &self.workspace)
            .field("member", &self.member)
            .field("secret", &"…")
            .finish_non_exhaustive()
    }
}

/// A text that is not a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It does not begin like one.
    #[error("a ticket begins with `{PREFIX}`")]
    Prefix,
    /// It is longer than any ticket.
    #[error("a ticket has at most {TICKET_CHARS_MAX} characters")]
    TooLong,
    /// Characters are missing, added or changed.
    #[error("the ticket is incomplete or mistyped")]
    Mistyped,
    /// It is whole but does not say what a ticket must.
    #[error("the ticket was made by another version: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

impl Ticket {
    /// The ticket as text.
    pub fn encode(&self) -> String {
        let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let message = proto::Ticket {
            addresses: self.addresses.clone(),
            peer: copy(self.peer.as_bytes()),
            workspace: copy(self.workspace.as_bytes()),
            member: copy(self.member.as_bytes()),
            home: copy(self.home.as_bytes()),
            secret: copy(&self.secret),
            expires_at_ms: self.expires_at.as_millis(),
            workspace_name: self.workspace_name.clone(),
            member_name: self.member_name.clone(),
        };
        let mut bytes = message.encode_to_vec();
        let check = Sha256::digest(&bytes);
        bytes.extend_from_slice(&check[..CHECK_BYTES]);
        format!("{PREFIX}{}", bs58::encode(bytes).into_string())
    }

    /// Reads a ticket from text, with surrounding white space ignored.
    ///
    /// # Errors
    /// If it is not one; see [`TicketError`]. Whether it expired is for the issuer to say.
    pub fn decode(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        if text.len() > TICKET_CHARS_MAX {
            return Err(TicketError::TooLong);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        let bytes = bs58::decode(encoded)
            .into_vec()
            .map_err(|_| TicketError::Mistyped)?;
        let body_len = bytes
            .len()
            .checked_sub(CHECK_BYTES)
            .ok_or(TicketError::Mistyped)?;
        let (body, check) = bytes.split_at(body_len);
        if Sha256::digest(body)[..CHECK_BYTES] != *check {
            return Err(TicketError::Mistyped);
        }
        let malformed = |what| TicketError::Malformed { what };
        let message = proto::Ticket::decode(body).map_err(|_| malformed("not a ticket message"))?;
        Ok(Self {
            addresses: message.addresses,
            peer: PeerId::from_bytes(fixed(&message.peer).ok_or(malformed("no peer"))?),
            workspace: WorkspaceId::from_bytes(
                fixed(&message.workspace).ok_or(malformed("no workspace"))?,
            ),
            workspace_name: message.workspace_name,
            member: MemberId::from_bytes(fixed(&message.member).ok_or(malformed("no member"))?),
            member_name: message.member_name,
            home: WorkspaceId::from_bytes(fixed(&message.home).ok_or(malformed("no home"))?),
            secret: fixed(&message.secret).ok_or(malformed("no secret"))?,
            expires_at: WallTime::from_millis(message.expires_at_ms),
        })
    }

    /// What the issuer keeps instead of the secret.
    pub fn secret_hash(secret: &[u8; 32]) -> [u8; 32] {
        Sha256::digest(secret).into()
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests;
