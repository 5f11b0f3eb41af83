//! What the pieces of an archive say, and their payloads (`schema/archive.proto`).

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use crate::guard::ActorId;
use crate::ids::{DocumentId, DocumentKind, MemberId, PeerId, WorkspaceId};
use crate::limits;
use crate::schema::archive as proto;
use crate::time::WallTime;
use crate::wire::{KnownActor, Purged};

/// One piece.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Whose archive it is: the first piece.
    About(About),
    /// A part of a file that makes a store a certain device.
    File(FilePart),
    /// A workspace, whose documents follow.
    Workspace(ArchivedWorkspace),
    /// A document, of which bodies follow.
    Document(ArchivedDocument),
    /// A snapshot, as it was stored.
    Snapshot(Body),
    /// A change, as it was received.
    Change(Body),
    /// Something that did not read when the archive was made.
    Damage(DamageNote),
    /// The last piece.
    End(End),
    /// Of a kind that this version does not know: passed over.
    Other(u8),
}

/// Whose archive it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// When it was made.
    pub created_at: WallTime,
    /// The device that made it.
    pub peer: PeerId,
    /// What it is called.
    pub device_name: String,
    /// Whether it is a server.
    pub is_server: bool,
    /// Its member.
    pub member: MemberId,
    /// What they are called.
    pub member_name: String,
    /// Their home workspace.
    pub home: WorkspaceId,
    /// The current workspace.
    pub current: Option<WorkspaceId>,
    /// The servers that workspaces are synced with.
    pub servers: Vec<ArchivedServer>,
    /// The one workspace that is in it; `None` for a whole store.
    pub only: Option<WorkspaceId>,
}

/// A server that workspaces are synced with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedServer {
    /// The server.
    pub peer: PeerId,
    /// Where it may be reached.
    pub addresses: Vec<String>,
}

/// A part of a file that makes a store a certain device.
#[derive(Clone, PartialEq, Eq)]
pub struct FilePart {
    /// The file's name.
    pub name: String,
    /// Its bytes, or the next of them.
    pub part: Bytes,
}

// It may be a private key.
impl std::fmt::Debug for FilePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FilePart")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedWorkspace {
    /// The workspace.
    pub id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: WallTime,
    /// The member whose home it is.
    pub home_of: Option<MemberId>,
    /// The server it is synced with.
    pub server: Option<PeerId>,
}

/// A document, of which so many bodies follow: snapshots first.
#[derive(Clone, Debug, PartialEq)]
pub struct ArchivedDocument {
    /// Where.
    pub workspace: WorkspaceId,
    /// The document.
    pub document: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// How many snapshots follow.
    pub snapshots: u32,
    /// How many changes follow.
    pub changes: u64,
    /// Its tombstone, if it was purged; then nothing follows.
    pub purged: Option<Purged>,
}

/// A change or a snapshot of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Where.
    pub workspace: WorkspaceId,
    /// The document.
    pub document: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// The chunk.
    pub chunk: Bytes,
}

/// Something that did not read when the archive was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamageNote {
    /// Where, if that was known.
    pub workspace: Option<WorkspaceId>,
    /// Of which document, if that was known.
    pub document: Option<DocumentId>,
    /// The record, for people.
    pub record: String,
    /// What was wrong with it, for people.
    pub what: String,
}

/// The last piece.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Pieces before it.
    pub pieces: u64,
    /// Those that are documents.
    pub documents: u64,
    /// Those that are snapshots.
    pub snapshots: u64,
    /// Those that are changes.
    pub changes: u64,
    /// Those that are damages.
    pub damages: u64,
    /// SHA-256 of everything before it.
    pub digest: [u8; 32],
}

impl End {
    /// Counts a piece.
    pub(super) fn count(&mut self, piece: &Piece) {
        self.pieces += 1;
        match piece {
            Piece::Document(_) => self.documents += 1,
            Piece::Snapshot(_) => self.snapshots += 1,
            Piece::Change(_) => self.changes += 1,
            Piece::Damage(_) => self.damages += 1,
            Piece::About(_)
            | Piece::File(_)
            | Piece::Workspace(_)
            | Piece::End(_)
            | Piece::Other(_) => {}
        }
    }
}

const ABOUT: u8 = 1;
const FILE: u8 = 2;
const WORKSPACE: u8 = 3;
const DOCUMENT: u8 = 4;
const SNAPSHOT: u8 = 5;
const CHANGE: u8 = 6;
const DAMAGE: u8 = 7;
const END: u8 = 0xff;

/// Workspace, document and kind, ahead of a chunk.
const PLACE_BYTES: usize = 33;

impl Piece {
    /// The byte that stands for what it is.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::About(_) => ABOUT,
            Self::File(_) => FILE,
            Self::Workspace(_) => WORKSPACE,
            Self::Document(_) => DOCUMENT,
            Self::Snapshot(_) => SNAPSHOT,
            Self::Change(_) => CHANGE,
            Self::Damage(_) => DAMAGE,
            Self::End(_) => END,
            Self::Other(kind) => *kind,
        }
    }

    pub(super) fn payload(&self) -> Bytes {
        match self {
            Self::About(about) => about.payload(),
            Self::File(file) => {
                let message = proto::File {
                    name: file.name.clone(),
                    part: file.part.clone(),
                };
                message.encode_to_vec().into()
            }
            Self::Workspace(workspace) => {
                let message = proto::Workspace {
                    id: copy(workspace.id.as_bytes()),
                    name: workspace.name.clone(),
                    created_at_ms: workspace.created_at.as_millis(),
                    home_of: optional(workspace.home_of.as_ref().map(|id| &id.as_bytes()[..])),
                    server: optional(workspace.server.as_ref().map(|id| &id.as_bytes()[..])),
                };
                message.encode_to_vec().into()
            }
            Self::Document(document) => document.payload(),
            Self::Snapshot(body) | Self::Change(body) => body.payload(),
            Self::Damage(note) => {
                let message = proto::Damage {
                    workspace: optional(note.workspace.as_ref().map(|id| &id.as_bytes()[..])),
                    document: optional(note.document.as_ref().map(|id| &id.as_bytes()[..])),
                    record: note.record.clone(),
                    what: note.what.clone(),
                };
                message.encode_to_vec().into()
            }
            Self::End(end) => {
                let message = proto::End {
                    pieces: end.pieces,
                    documents: end.documents,
                    snapshots: end.snapshots,
                    changes: end.changes,
                    damages: end.damages,
                    digest: copy(&end.digest),
                };
                message.encode_to_vec().into()
            }
            Self::Other(_) => Bytes::new(),
        }
    }

    /// Reads a payload; what is wrong with it otherwise.
    pub(super) fn read(kind: u8, payload: Bytes) -> Result<Self, String> {
        Ok(match kind {
            ABOUT => Self::About(About::read(parse(&payload)?)?),
            FILE => {
                let proto::File { name, part } = parse(&payload)?;
                Self::File(FilePart { name, part })
            }
            WORKSPACE => {
                let message: proto::Workspace = parse(&payload)?;
                Self::Workspace(ArchivedWorkspace {
                    id: WorkspaceId::from_bytes(fixed("a workspace", &message.id)?),
                    name: message.name,
                    created_at: WallTime::from_millis(message.created_at_ms),
                    home_of: maybe("a member", &message.home_of)?.map(MemberId::from_bytes),
                    server: maybe("a server", &message.server)?.map(PeerId::from_bytes),
                })
            }
            DOCUMENT => Self::Document(ArchivedDocument::read(parse(&payload)?)?),
            SNAPSHOT => Self::Snapshot(Body::read(&payload)?),
            CHANGE => Self::Change(Body::read(&payload)?),
            DAMAGE => {
                let message: proto::Damage = parse(&payload)?;
                let workspace = maybe("a workspace", &message.workspace)?;
                let document = maybe("a document", &message.document)?;
                Self::Damage(DamageNote {
                    workspace: workspace.map(WorkspaceId::from_bytes),
                    document: document.map(DocumentId::from_bytes),
                    record: message.record,
                    what: message.what,
                })
            }
            END => {
                let message: proto::End = parse(&payload)?;
                Self::End(End {
                    pieces: message.pieces,
                    documents: message.documents,
                    snapshots: message.snapshots,
                    changes: message.changes,
                    damages: message.damages,
                    digest: fixed("the digest", &message.digest)?,
                })
            }
            other => Self::Other(other),
        })
    }
}

impl About {
    fn payload(&self) -> Bytes {
        let servers = self.servers.iter().map(|server| proto::Server {
            peer: copy(server.peer.as_bytes()),
            addresses: server.addresses.clone(),
        });
        let message = proto::About {
            created_at_ms: self.created_at.as_millis(),
            peer: copy(self.peer.as_bytes()),
            device_name: self.device_name.clone(),
            is_server: self.is_server,
            member: copy(self.member.as_bytes()),
            member_name: self.member_name.clone(),
            home: copy(self.home.as_bytes()),
            current: optional(self.current.as_ref().map(|id| &id.as_bytes()[..])),
            servers: servers.collect(),
            only: optional(self.only.as_ref().map(|id| &id.as_bytes()[..])),
        };
        message.encode_to_vec().into()
    }

    fn read(message: proto::About) -> Result<Self, String> {
        let servers = message.servers.into_iter().map(|server| {
            Ok::<_, String>(ArchivedServer {
                peer: PeerId::from_bytes(fixed("a server", &server.peer)?),
                addresses: server.addresses,
            })
        });
        Ok(Self {
            created_at: WallTime::from_millis(message.created_at_ms),
            peer: PeerId::from_bytes(fixed("the device", &message.peer)?),
            device_name: message.device_name,
            is_server: message.is_server,
            member: MemberId::from_bytes(fixed("the member", &message.member)?),
            member_name: message.member_name,
            home: WorkspaceId::from_bytes(fixed("the home", &message.home)?),
            current: maybe("a workspace", &message.current)?.map(WorkspaceId::from_bytes),
            servers: servers.collect::<Result<_, _>>()?,
            only: maybe("a workspace", &message.only)?.map(WorkspaceId::from_bytes),
        })
    }
}

impl ArchivedDocument {
    fn payload(&self) -> Bytes {
        let purged = self.purged.as_ref().map(|purged| proto::Tombstone {
            at_ms: purged.at.as_millis(),
            known: purged.known.iter().map(known_to).collect(),
        });
        let message = proto::Document {
            workspace: copy(self.workspace.as_bytes()),
            document: copy(self.document.as_bytes()),
            kind: u32::from(self.kind.0),
            snapshots: self.snapshots,
            changes: self.changes,
            purged,
        };
        message.encode_to_vec().into()
    }

    fn read(message: proto::Document) -> Result<Self, String> {
        let kind = u8::try_from(message.kind);
        let kind = kind.map_err(|_| format!("{} is no kind of document", message.kind))?;
        let purged = message.purged.map(tombstone_from).transpose()?;
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed("a workspace", &message.workspace)?),
            document: DocumentId::from_bytes(fixed("a document", &message.document)?),
            kind: DocumentKind(kind),
            snapshots: message.snapshots,
            changes: message.changes,
            purged,
        })
    }
}

impl Body {
    fn payload(&self) -> Bytes {
        let mut payload = BytesMut::with_capacity(PLACE_BYTES + self.chunk.len());
        payload.put_slice(self.workspace.as_bytes());
        payload.put_slice(self.document.as_bytes());
        payload.put_u8(self.kind.0);
        payload.put_slice(&self.chunk);
        payload.freeze()
    }

    fn read(payload: &Bytes) -> Result<Self, String> {
        let Some((place, chunk)) = payload.split_at_checked(PLACE_BYTES) else {
            return Err(format!("{} bytes name no document", payload.len()));
        };
        let (workspace, rest) = place.split_at(16);
        let (document, kind) = rest.split_at(16);
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed("a workspace", workspace)?),
            document: DocumentId::from_bytes(fixed("a document", document)?),
            kind: DocumentKind(kind[0]),
            chunk: payload.slice_ref(chunk),
        })
    }
}

fn known_to(known: &KnownActor) -> proto::Known {
    proto::Known {
        actor: copy(known.actor.as_bytes()),
        last_seq: known.seq,
        beyond: known.beyond.clone(),
    }
}

fn tombstone_from(message: proto::Tombstone) -> Result<Purged, String> {
    let beyond = message.known.iter().map(|known| known.beyond.len());
    if message.known.len() > limits::ACTORS_PER_DOCUMENT_MAX
        || beyond.sum::<usize>() > limits::WANT_BEYOND_MAX
    {
        return Err("its tombstone knows more than one may".to_owned());
    }
    let known = message.known.into_iter().map(|known| {
        let actor = ActorId::from_bytes(&known.actor);
        Ok::<_, String>(KnownActor {
            actor: actor.ok_or_else(|| "an actor id of a wrong length".to_owned())?,
            seq: known.last_seq,
            beyond: known.beyond,
        })
    });
    Ok(Purged {
        at: WallTime::from_millis(message.at_ms),
        known: known.collect::<Result<_, _>>()?,
    })
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn optional(bytes: Option<&[u8]>) -> Bytes {
    bytes.map(copy).unwrap_or_default()
}

fn parse<M: prost::Message + Default>(payload: &Bytes) -> Result<M, String> {
    M::decode(payload.clone()).map_err(|error| error.to_string())
}

fn fixed<const N: usize>(what: &str, bytes: &[u8]) -> Result<[u8; N], String> {
    let given = bytes.len();
    bytes
        .try_into()
        .map_err(|_| format!("{what} has {given} bytes instead of {N}"))
}

fn maybe<const N: usize>(what: &str, bytes: &[u8]) -> Result<Option<[u8; N]>, String> {
    match bytes.is_empty() {
        true => Ok(None),
        false => fixed(what, bytes).map(Some),
    }
}
