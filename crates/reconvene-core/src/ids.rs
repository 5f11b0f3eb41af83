//! Identifiers: one newtype per thing that can be named, so that no two can be confused.
//!
//! Nothing here mints a random identifier; those come from outside as values.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the identifier it was given as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected {expected}")]
pub struct ParseIdError {
    kind: &'static str,
    expected: &'static str,
    text: String,
}

impl ParseIdError {
    fn new(kind: &'static str, expected: &'static str, text: &str) -> Self {
        let text = text.chars().take(80).collect();
        Self {
            kind,
            expected,
            text,
        }
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes the 16 bytes of a UUID, most significant first.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes, most significant first; their order is the order of the ids.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                uuid::Uuid::parse_str(text)
                    .map(|uuid| Self(uuid.into_bytes()))
                    .map_err(|_| ParseIdError::new($kind, "a UUID", text))
            }
        }

        text_serde!($name);
    };
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// A workspace: the unit of sharing and of access control.
    WorkspaceId,
    "workspace id"
);
uuid_id!(
    /// A document within a workspace. New ids are version 7 UUIDs, so their order is the order of
    /// creation; the id never contains the workspace's.
    DocumentId,
    "document id"
);
uuid_id!(
    /// One history of a store: a new one when the store is created, restored or found rolled back.
    StoreEpoch,
    "store epoch"
);
uuid_id!(
    /// A member: a person in a workspace, with one or more devices.
    MemberId,
    "member id"
);
uuid_id!(
    /// One request of the embedding node to its engine; the answer carries the same id.
    RequestId,
    "request id"
);

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes the 32 bytes of the hash.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4]
                    .iter()
                    .try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let error = || ParseIdError::new($kind, "64 hexadecimal digits", text);
                if text.len() != 64 || !text.is_ascii() {
                    return Err(error());
                }
                let mut bytes = [0; 32];
                for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
                    let digits = std::str::from_utf8(digits).map_err(|_| error())?;
                    *byte = u8::from_str_radix(digits, 16).map_err(|_| error())?;
                }
                Ok(Self(bytes))
            }
        }

        text_serde!($name);
    };
}

hash_id!(
    /// The hash that names a change: SHA-256 over its chunk, as Automerge defines it.
    ChangeHash,
    "change hash"
);
hash_id!(
    /// The hash that names a snapshot: SHA-256 over its bytes.
    SnapshotHash,
    "snapshot hash"
);

/// A device or server, named by its Ed25519 public key.
///
/// Written and read as the libp2p peer id of that key (base58 of an identity multihash, see the
/// libp2p peer-id specification), so `12D3KooW…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// What precedes the key in the binary form of a libp2p peer id: identity multihash of 36
    /// bytes, then the protobuf of an Ed25519 public key.
    const MULTIHASH_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

    /// Takes the 32 bytes of an Ed25519 public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the Ed25519 public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The binary form of the libp2p peer id: 38 bytes.
    pub fn to_multihash(&self) -> [u8; 38] {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&Self::MULTIHASH_PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        bytes
    }

    /// Reads the binary form of a libp2p peer id; `None` if it does not name an Ed25519 key.
    pub fn from_multihash(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(&Self::MULTIHASH_PREFIX)?;
        key.try_into().ok().map(Self)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_multihash()).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        bs58::decode(text)
            .into_vec()
            .ok()
            .and_then(|bytes| Self::from_multihash(&bytes))
            .ok_or_else(|| {
                ParseIdError::new("peer id", "an Ed25519 libp2p peer id (12D3KooW…)", text)
            })
    }
}

text_serde!(PeerId);

macro_rules! counter_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter_id!(
    /// A link, numbered by whoever made it; never reused within one run.
    LinkId
);
counter_id!(
    /// A store batch, numbered by the engine in the order of submission.
    BatchId
);
counter_id!(
    /// A read the engine asked for.
    ReadId
);
counter_id!(
    /// A place in a workspace's feed. The first entry is 1; 0 is the empty feed.
    FeedSeq
);

/// What kind of document this is, as the number its genesis is registered under.
///
/// The core never interprets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DocumentKind(pub u8);
