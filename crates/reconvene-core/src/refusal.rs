//! Why something was refused: stable codes that are sent, stored and shown.

use serde::{Deserialize, Serialize};

/// A stable code; its number is that of `RefusalCode` in `schema/wire.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RefusalCode {
    /// A code of a later version.
    Unknown,
    /// The peer is not enrolled here.
    NotEnrolled,
    /// No protocol version is spoken by both sides.
    IncompatibleProtocol,
    /// No such ticket was issued, or it was withdrawn.
    TicketUnknown,
    /// The ticket's time is over.
    TicketExpired,
    /// Another device redeemed the ticket.
    TicketUsed,
    /// This side cannot serve now (its store refuses writes).
    Unavailable,
    /// More workspaces would be shared with the device than one link carries.
    TooManyWorkspaces,
    /// The peer sent what no peer sends that keeps the protocol.
    Fault,
    /// A change is malformed or does not match its hash.
    Damaged,
    /// A change or a document is larger than the limits allow.
    TooLarge,
    /// The sender may not write there.
    NotPermitted,
    /// A change depends on changes that are not stored.
    MissingDependencies,
    /// Another change with the same actor and sequence number is stored.
    Equivocation,
    /// The document was purged there, and this change was not known then; or, of a tombstone, changes
    /// are here that were not known when the document was purged.
    DocumentDeleted,
    /// The workspace has as many documents there as it may; this one is new there.
    WorkspaceFull,
}

impl RefusalCode {
    const NUMBERS: [(Self, u32); 15] = [
        (Self::NotEnrolled, 1),
        (Self::IncompatibleProtocol, 2),
        (Self::TicketUnknown, 3),
        (Self::TicketExpired, 4),
        (Self::TicketUsed, 5),
        (Self::Unavailable, 6),
        (Self::Damaged, 20),
        (Self::TooLarge, 21),
        (Self::NotPermitted, 22),
        (Self::MissingDependencies, 23),
        (Self::Equivocation, 24),
        (Self::DocumentDeleted, 25),
        (Self::WorkspaceFull, 26),
        (Self::TooManyWorkspaces, 40),
        (Self::Fault, 41),
    ];

    /// The stable number.
    pub fn number(self) -> u32 {
        let entry = Self::NUMBERS.iter().find(|(code, _)| *code == self);
        entry.map_or(0, |(_, number)| *number)
    }

    /// Whether it is for a reason of the refusing side's own that may pass, so that the same can be taken
    /// later.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Unavailable | Self::WorkspaceFull)
    }

    /// The code of a number; [`Self::Unknown`] for one of a later version.
    pub fn from_number(number: u32) -> Self {
        let entry = Self::NUMBERS.iter().find(|(_, known)| *known == number);
        entry.map_or(Self::Unknown, |(code, _)| *code)
    }
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "refused for a reason of a later version",
            Self::NotEnrolled => "this device is not enrolled there",
            Self::IncompatibleProtocol => "no protocol version is spoken by both sides",
            Self::TicketUnknown => "no such ticket was issued there",
            Self::TicketExpired => "the ticket has expired",
            Self::TicketUsed => "the ticket was already used by another device",
            Self::Unavailable => "the other side cannot store anything now",
            Self::TooManyWorkspaces => "too many workspaces are shared with this device",
            Self::Fault => "something was sent that no peer sends that keeps the protocol",
            Self::Damaged => "a change is damaged",
            Self::TooLarge => "a change or document is too large",
            Self::NotPermitted => "not permitted",
            Self::MissingDependencies => "a change depends on changes that never arrived",
            Self::DocumentDeleted => "the document was deleted before this change was known",
            Self::WorkspaceFull => "the workspace has as many documents there as it may",
            Self::Equivocation => "two different changes carry the same actor and sequence number",
        })
    }
}
