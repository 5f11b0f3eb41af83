//! The constant first change of every document, per kind.
//!
//! It creates the document's containers, so that devices which create the same document without
//! having met merge into one. Its bytes are frozen in `schema/golden/v1` and never change: a later
//! schema adds another constant, it does not edit this one. A genesis is implicitly present in every
//! document of its kind and is neither stored nor sent per document.

use automerge::{ActorId, ObjId};
use reconvene_core::ids::{ChangeHash, DocumentId, DocumentKind};

/// Projects, integrations and settings of a workspace; one per workspace, [`WORKSPACE_DOCUMENT`].
pub const WORKSPACE: DocumentKind = DocumentKind(1);
/// One meeting.
pub const MEETING: DocumentKind = DocumentKind(2);
/// One recorder's bounded page of segments of one meeting.
pub const TRANSCRIPT: DocumentKind = DocumentKind(3);
/// One command: what a device asks of the server, and what became of it.
pub const COMMAND: DocumentKind = DocumentKind(4);
/// One entry of a member's inbox, in their home.
pub const ENTRY: DocumentKind = DocumentKind(5);
/// One integration of a workspace, with its recent runs.
pub const INTEGRATION: DocumentKind = DocumentKind(6);

/// The document that holds a workspace's projects; the same id in every workspace.
pub const WORKSPACE_DOCUMENT: DocumentId = DocumentId::from_bytes([
    0x8b, 0x24, 0xa1, 0x5d, 0x94, 0x24, 0x8e, 0xd0, 0xb0, 0x0a, 0x63, 0x70, 0xe8, 0xbd, 0xc8, 0xae,
]);

/// The newest schema version this build writes, and the newest `min_reader` it may edit.
pub const SCHEMA_VERSION: u64 = 1;

/// The actor of every genesis change.
pub const GENESIS_ACTOR: [u8; 16] = *b"reconvenegenesis";

/// The constant first change of one kind of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The kind of document that starts with this change.
    pub kind: DocumentKind,
    /// The change's hash.
    pub hash: ChangeHash,
    /// The change's chunk.
    pub bytes: &'static [u8],
    /// The actor that wrote it, at sequence number 1.
    pub actor: [u8; 16],
    /// The counter of its last operation; a document's first own operation is one past it.
    pub max_op: u64,
}

static ROOTS: [Genesis; 6] = [
    Genesis {
        kind: WORKSPACE,
        hash: hash("d56c1827ad539ab55a62125fffb2729f9eb542cd37bd456250af392fd436ed15"),
        bytes: include_bytes!("../../../schema/golden/v1/genesis-workspace.bin"),
        actor: GENESIS_ACTOR,
        max_op: 6,
    },
    Genesis {
        kind: MEETING,
        hash: hash("47ad4b0a1dc1764fa0de897274cc3f7e4ec0c7e7a3a6fed7154df0a6c2c76381"),
        bytes: include_bytes!("../../../schema/golden/v1/genesis-meeting.bin"),
        actor: GENESIS_ACTOR,
        max_op: 11,
    },
    Genesis {
        kind: TRANSCRIPT,
        hash: hash("95e9df56b917974eb610673f3956c745c4413786f8059a987a4d0de89f24ff34"),
        bytes: include_bytes!("../../../schema/golden/v1/genesis-transcript.bin"),
        actor: GENESIS_ACTOR,
        max_op: 4,
    },
    Genesis {
        kind: COMMAND,
        hash: hash("8a5a044d9c48c6be930e40963a0e656f4d529578b77dc811509e0d986a367eb2"),
        bytes: include_bytes!("../../../schema/golden/v1/genesis-command.bin"),
        actor: GENESIS_ACTOR,
        max_op: 5,
    },
    Genesis {
        kind: ENTRY,
        hash: hash("95b1cbcd9a55fa13bd5b5bebbc534cedddaaa470f6ab12710e64ef78479d7319"),
        bytes: include_bytes!("../../../schema/golden/v1/genesis-entry.bin"),
        actor: GENESIS_ACTOR,
        max_op: 4,
    },
    Genesis {
        kind: INTEGRATION,
        hash: hash("e285441d0f6df9c8a8cc1d6249b52372c8937acbccceadc008be82bbdf2e4e50"),
        bytes: include_bytes!("../../../schema/golden/v1/genesis-integration.bin"),
        actor: GENESIS_ACTOR,
        max_op: 5,
    },
];

/// Every genesis this build knows.
pub fn roots() -> &'static [Genesis] {
    &ROOTS
}

/// The genesis of a kind; `None` for a kind this build does not know.
pub fn genesis(kind: DocumentKind) -> Option<&'static Genesis> {
    ROOTS.iter().find(|genesis| genesis.kind == kind)
}

/// A container that a genesis creates.
///
/// It is addressed by the operation that created it and not by its key, so that nothing written to
/// the root later can hide it from readers or writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) key: &'static str,
    /// The counter of the creating operation; the actor is [`GENESIS_ACTOR`].
    op: u64,
    pub(crate) is_text: bool,
}

impl Container {
    const fn map(key: &'static str, op: u64) -> Self {
        Self {
            key,
            op,
            is_text: false,
        }
    }

    const fn text(key: &'static str, op: u64) -> Self {
        Self {
            key,
            op,
            is_text: true,
        }
    }

    /// The counter of the creating operation.
    pub(crate) const fn op(self) -> u64 {
        self.op
    }

    pub(crate) fn id(self) -> ObjId {
        // The last field is automerge's hint where to find the actor; it verifies it.
        ObjId::Id(self.op, ActorId::from(GENESIS_ACTOR), 0)
    }
}

pub(crate) const INTEGRATIONS: Container = Container::map("integrations", 4);
pub(crate) const PROJECTS: Container = Container::map("projects", 5);
pub(crate) const SETTINGS: Container = Container::map("settings", 6);

pub(crate) const ACTION_ITEMS: Container = Container::map("action_items", 4);
pub(crate) const NOTES: Container = Container::text("notes", 5);
pub(crate) const PAGES: Container = Container::map("pages", 6);
pub(crate) const PARTICIPANTS: Container = Container::map("participants", 7);
pub(crate) const STATES: Container = Container::map("states", 8);
pub(crate) const SUMMARY: Container = Container::text("summary", 9);
pub(crate) const TAGS: Container = Container::map("tags", 10);
pub(crate) const TITLE: Container = Container::text("title", 11);

pub(crate) const SEGMENTS: Container = Container::map("segments", 4);

pub(crate) const ARGUMENTS: Container = Container::map("arguments", 4);
pub(crate) const RESULT: Container = Container::map("result", 5);

pub(crate) const DETAILS: Container = Container::map("details", 4);

pub(crate) const RUNS: Container = Container::map("runs", 4);
pub(crate) const INTEGRATION_SETTINGS: Container = Container::map("settings", 5);

/// The containers of a kind, in the order in which its genesis creates them.
pub(crate) fn containers(kind: DocumentKind) -> &'static [Container] {
    match kind {
        WORKSPACE => &[INTEGRATIONS, PROJECTS, SETTINGS],
        MEETING => &[
            ACTION_ITEMS,
            NOTES,
            PAGES,
            PARTICIPANTS,
            STATES,
            SUMMARY,
            TAGS,
            TITLE,
        ],
        TRANSCRIPT => &[SEGMENTS],
        COMMAND => &[ARGUMENTS, RESULT],
        ENTRY => &[DETAILS],
        INTEGRATION => &[RUNS, INTEGRATION_SETTINGS],
        _ => &[],
    }
}

/// The kind's name in documents and exports.
pub fn kind_name(kind: DocumentKind) -> &'static str {
    match kind {
        WORKSPACE => "workspace",
        MEETING => "meeting",
        TRANSCRIPT => "transcript",
        COMMAND => "command",
        ENTRY => "entry",
        INTEGRATION => "integration",
        _ => "unknown",
    }
}

/// Reads 64 hexadecimal digits at compile time.
const fn hash(digits: &str) -> ChangeHash {
    const fn digit(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => panic!("a change hash is written in lower-case hexadecimal digits"),
        }
    }
    let digits = digits.as_bytes();
    assert!(digits.len() == 64, "a change hash has 64 digits");
    let mut bytes = [0; 32];
    let mut place = 0;
    while place < 32 {
        bytes[place] = digit(digits[2 * place]) * 16 + digit(digits[2 * place + 1]);
        place += 1;
    }
    ChangeHash::from_bytes(bytes)
}

#[cfg(test)]
mod tests;
