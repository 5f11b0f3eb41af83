//! Frames as types, and their encoding (`schema/wire.proto`).
//!
//! A frame that decodes has identifiers of the right length and lists within their limits; whether
//! it makes sense is the engine's business. Encoding never yields a frame over
//! `limits::FRAME_BYTES_MAX`: a larger one is cut into [`Part`]s.

use bytes::Bytes;
use prost::Message as _;

use crate::feed::{Digest, FeedPoint};
use crate::guard::ActorId;
use crate::ids::{DocumentId, DocumentKind, FeedSeq, MemberId, PeerId, StoreEpoch, WorkspaceId};
use crate::limits;
use crate::records::RelayedRow;
use crate::refusal::RefusalCode;
use crate::schema::wire as proto;
use crate::schema::wire::frame::Body;
use crate::time::WallTime;

/// Oldest protocol version this crate speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// Newest protocol version this crate speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// What a peer is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A device of a member.
    Device,
    /// The always-on peer.
    Server,
}

/// Bytes that are no frame of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame: {what}")]
pub struct FrameError {
    what: String,
}

impl FrameError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

/// A frame of protocol version 1.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// First frame of an enrolled peer.
    Hello(Hello),
    /// First frame of a peer with a ticket.
    Join(Join),
    /// Answer to a join.
    Joined(Joined),
    /// The link will be closed, and why.
    Refused(Refused),
    /// Changes of several documents.
    Changes(Changes),
    /// Changes became durable.
    Ack(Ack),
    /// One message of set reconciliation.
    Reconcile(Reconcile),
    /// Documents whose changes are wanted.
    Want(Want),
    /// Everything up to a point was sent.
    Done(Done),
    /// The ends of quiet feeds.
    Heartbeat(Heartbeat),
    /// A piece of an oversized frame.
    Part(Part),
    /// The devices a workspace is shared with.
    Shares(Shares),
    /// A question whether the link is alive, or the answer.
    Probe(Probe),
    /// See [`Held`].
    Held(Held),
    /// The sender takes no part in a workspace any more.
    Leave(WorkspaceId),
    /// A frame of a later minor version; to be ignored.
    Unknown,
}

/// See `Hello` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// Oldest version the sender speaks.
    pub protocol_min: u32,
    /// Newest version the sender speaks.
    pub protocol_max: u32,
    /// What the sender is.
    pub role: Role,
    /// The sender's number for breaking state changes.
    pub state_version: u32,
    /// Where the sender is, per shared workspace.
    pub workspaces: Vec<WorkspaceHello>,
    /// Whether another hello follows.
    pub more: bool,
    /// Digest of the shares the sender learned from the receiver.
    pub shares: Option<Digest>,
}

/// Where the sender of a hello is in one workspace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkspaceHello {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The end of the sender's feed.
    pub head: FeedPoint,
    /// How far the sender holds the receiver's feed.
    pub held: Option<FeedPoint>,
    /// Whether the sender takes snapshots from the receiver, and not only changes.
    pub takes_snapshots: bool,
    /// Whether the sender knows of something durable that its feed does not end with yet.
    pub is_unsettled: bool,
}

/// See `Join` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// Oldest version the sender speaks.
    pub protocol_min: u32,
    /// Newest version the sender speaks.
    pub protocol_max: u32,
    /// The ticket's secret.
    pub secret: [u8; 32],
    /// What the device calls itself.
    pub device_name: String,
}

/// See `Joined` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// The workspace the ticket opened.
    pub workspace: WorkspaceId,
    /// Its name.
    pub workspace_name: String,
    /// Whose device this now is.
    pub member: MemberId,
    /// Their name.
    pub member_name: String,
    /// Their home workspace.
    pub home: WorkspaceId,
}

/// See `Refused` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Why.
    pub code: RefusalCode,
    /// The same for people.
    pub message: String,
    /// Versions the sender speaks.
    pub protocol: (u32, u32),
    /// With [`RefusalCode::Fault`]: what of the receiver's no peer sends that keeps the protocol.
    pub fault: Option<Fault>,
}

/// See `Fault` in the schema.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The documents, and what is wrong with what was sent of them, for people.
    pub documents: Vec<(DocumentId, String)>,
    /// Further documents.
    pub unlisted: u64,
}

impl Fault {
    /// Of these documents, of which those beyond the limit are only counted.
    pub fn of(workspace: WorkspaceId, mut documents: Vec<(DocumentId, String)>) -> Self {
        let unlisted = documents.len().saturating_sub(limits::FAULT_DOCUMENTS_MAX);
        documents.truncate(limits::FAULT_DOCUMENTS_MAX);
        Self {
            workspace,
            documents,
            unlisted: unlisted as u64,
        }
    }

    fn to_proto(&self) -> proto::Fault {
        let documents = self.documents.iter();
        proto::Fault {
            workspace: copy(self.workspace.as_bytes()),
            documents: documents
                .map(|(document, what)| proto::FaultyDocument {
                    document: copy(document.as_bytes()),
                    what: what.clone(),
                })
                .collect(),
            unlisted: self.unlisted,
        }
    }

    fn from_proto(fault: &proto::Fault) -> Result<Self, FrameError> {
        bounded(
            "documents of a fault",
            fault.documents.len(),
            limits::FAULT_DOCUMENTS_MAX,
        )?;
        let documents = fault.documents.iter().map(|faulty| {
            let document = fixed("a document", &faulty.document)?;
            let what = faulty.what.chars().take(limits::OFFENCE_TEXT_BYTES_MAX);
            Ok((DocumentId::from_bytes(document), what.collect()))
        });
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed("a workspace", &fault.workspace)?),
            documents: documents.collect::<Result<_, FrameError>>()?,
            unlisted: fault.unlisted,
        })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (document, what)) in self.documents.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}document {document}: {what}")?;
        }
        match self.unlisted {
            0 => Ok(()),
            unlisted => write!(f, "; and {unlisted} more documents"),
        }
    }
}

/// See `Changes` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The documents with their new changes.
    pub documents: Vec<DocumentChanges>,
    /// The part of the sender's feed this covers: after the first, up to the second.
    pub feed: Option<(FeedSeq, FeedPoint)>,
    /// Number of this frame among the sender's change frames on the link.
    pub number: u64,
    /// Whether this is an early copy.
    pub early: bool,
}

/// Changes of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentChanges {
    /// The document.
    pub document: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// A whole version of the document, ahead of the changes.
    pub snapshot: Option<Bytes>,
    /// Change chunks, each after its dependencies.
    pub changes: Vec<Bytes>,
    /// The document's tombstone.
    pub purged: Option<Purged>,
}

impl DocumentChanges {
    /// The sum of its bodies, the tombstone among them, in bytes.
    pub fn body_bytes(&self) -> usize {
        let bodies = self.snapshot.iter().chain(&self.changes);
        let tombstone = self.purged.as_ref().map_or(0, Purged::bytes);
        bodies.map(Bytes::len).sum::<usize>() + tombstone
    }
}

/// A document's tombstone.
#[derive(Clone, Debug, PartialEq)]
pub struct Purged {
    /// When the document was purged.
    pub at: WallTime,
    /// The changes that were known then.
    pub known: Vec<KnownActor>,
}

impl Purged {
    /// Its size in a frame.
    pub fn bytes(&self) -> usize {
        self.to_proto().encoded_len()
    }

    fn to_proto(&self) -> proto::Purged {
        proto::Purged {
            at_ms: self.at.as_millis(),
            known: self.known.iter().map(KnownActor::to_proto).collect(),
        }
    }

    fn from_proto(purged: &proto::Purged) -> Result<Self, FrameError> {
        Ok(Self {
            at: WallTime::from_millis(purged.at_ms),
            known: KnownActor::list_from_proto("a tombstone", &purged.known)?,
        })
    }
}

/// See `Ack` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Ack {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// How far the acknowledging side holds the receiver's feed.
    pub through: Option<FeedPoint>,
    /// The last of the receiver's change frames dealt with.
    pub number: u64,
    /// Documents refused among them.
    pub refused: Vec<(DocumentId, RefusalCode)>,
    /// Where the receiver's cursor may move, and from where.
    pub head: Option<(FeedSeq, FeedPoint)>,
    /// Documents refused before and accepted since.
    pub accepted: Vec<DocumentId>,
}

/// See `Reconcile` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconcile {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The run, from 1.
    pub run: u32,
    /// The negentropy message; empty to ask the dialling side to begin.
    pub message: Bytes,
}

/// See `Want` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Want {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The run it belongs to.
    pub run: u32,
    /// The documents.
    pub documents: Vec<WantDocument>,
    /// Whether this was the last of the run.
    pub last: bool,
}

/// One wanted document.
#[derive(Clone, Debug, PartialEq)]
pub struct WantDocument {
    /// The document.
    pub document: DocumentId,
    /// What the sender has of it.
    pub known: Vec<KnownActor>,
    /// Whether the receiver should answer with a want of its own.
    pub mutual: bool,
}

/// What is held of one actor's changes.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownActor {
    /// The actor.
    pub actor: ActorId,
    /// Every change up to this sequence number.
    pub seq: u64,
    /// Further sequence numbers.
    pub beyond: Vec<u64>,
}

impl KnownActor {
    fn to_proto(&self) -> proto::KnownActor {
        proto::KnownActor {
            actor: copy(self.actor.as_bytes()),
            seq: self.seq,
            beyond: self.beyond.clone(),
        }
    }

    fn list_from_proto(of: &str, list: &[proto::KnownActor]) -> Result<Vec<Self>, FrameError> {
        let beyond = list.iter().map(|known| known.beyond.len());
        let actors = limits::ACTORS_PER_DOCUMENT_MAX;
        bounded(&format!("actors of {of}"), list.len(), actors)?;
        let numbers = limits::WANT_BEYOND_MAX;
        bounded(&format!("numbers of {of}"), beyond.sum(), numbers)?;
        let known = list.iter().map(|known| {
            Ok(Self {
                actor: ActorId::from_bytes(&known.actor)
                    .ok_or_else(|| FrameError::new("an actor id of a wrong length"))?,
                seq: known.seq,
                beyond: known.beyond.clone(),
            })
        });
        known.collect()
    }
}

/// See `Done` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The run that ends.
    pub run: u32,
    /// Where the receiver's cursor may be set.
    pub point: FeedPoint,
}

/// See `Part` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Place of this piece, from 0.
    pub index: u32,
    /// Number of pieces.
    pub count: u32,
    /// The bytes.
    pub piece: Bytes,
}

/// See `Shares` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The devices, or the next of them.
    pub devices: Vec<SharedDevice>,
    /// Whether further devices follow.
    pub more: bool,
}

/// A device that a workspace is shared with.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedDevice {
    /// The device.
    pub peer: PeerId,
    /// Whose it is.
    pub member: MemberId,
    /// What it is called.
    pub device_name: String,
}

/// See `Heartbeat` in the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Where the sender's feeds end.
    pub points: Vec<(WorkspaceId, FeedPoint)>,
    /// Which of the sender's heartbeats and questions this is.
    pub number: u64,
    /// The last of the receiver's that the sender had read.
    pub heard: u64,
}

/// See `Probe` in the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which question this is, or is the answer to.
    pub number: u64,
    /// Whether it is the answer.
    pub answer: bool,
}

/// See `Held` in the schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Where.
    pub workspace: WorkspaceId,
    /// The device.
    pub peer: PeerId,
    /// What it holds.
    pub row: RelayedRow,
}

impl Held {
    fn to_proto(&self) -> proto::Held {
        let refused = self.row.refused.iter();
        proto::Held {
            workspace: copy(self.workspace.as_bytes()),
            peer: copy(self.peer.as_bytes()),
            held: self.row.held.as_ref().map(point_to),
            refused: refused
                .map(|(document, code)| proto::Refusal {
                    document: copy(document.as_bytes()),
                    code: code_to(*code),
                })
                .collect(),
            refused_unlisted: self.row.refused_unlisted,
        }
    }

    fn from_proto(held: &proto::Held) -> Result<Self, FrameError> {
        bounded(
            "refused documents",
            held.refused.len(),
            limits::RELAYED_REFUSALS_MAX,
        )?;
        let refused = held.refused.iter().map(|refusal| {
            let document = fixed("a refused document", &refusal.document)?;
            Ok((DocumentId::from_bytes(document), code_from(refusal.code)))
        });
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed("a workspace", &held.workspace)?),
            peer: PeerId::from_bytes(fixed("a device", &held.peer)?),
            row: RelayedRow {
                held: held
                    .held
                    .as_ref()
                    .map(|point| required_point(Some(point)))
                    .transpose()?,
                refused: refused.collect::<Result<_, FrameError>>()?,
                refused_unlisted: held.refused_unlisted,
            },
        })
    }
}

impl Frame {
    /// Encodes the frame as one body, or as several parts if it is too large for one.
    pub fn encode(&self) -> Vec<Bytes> {
        let encoded = self.encode_one();
        if encoded.len() <= limits::FRAME_BYTES_MAX {
            return vec![encoded];
        }
        let piece_bytes = limits::FRAME_BYTES_MAX - 64;
        let count = encoded.len().div_ceil(piece_bytes);
        let count = u32::try_from(count).expect("an encoded frame has far fewer than 2^32 pieces");
        assert!(
            count <= limits::FRAME_PARTS_MAX,
            "a frame of {} bytes was built past every limit",
            encoded.len()
        );
        (0..count)
            .map(|index| {
                let start = index as usize * piece_bytes;
                let end = (start + piece_bytes).min(encoded.len());
                let piece = encoded.slice(start..end);
                Self::Part(Part {
                    index,
                    count,
                    piece,
                })
                .encode_one()
            })
            .collect()
    }

    fn encode_one(&self) -> Bytes {
        let body = match self {
            Self::Hello(hello) => Body::Hello(hello.to_proto()),
            Self::Join(join) => Body::Join(proto::Join {
                protocol_min: join.protocol_min,
                protocol_max: join.protocol_max,
                secret: copy(&join.secret),
                device_name: join.device_name.clone(),
            }),
            Self::Joined(joined) => Body::Joined(proto::Joined {
                workspace: copy(joined.workspace.as_bytes()),
                workspace_name: joined.workspace_name.clone(),
                member: copy(joined.member.as_bytes()),
                member_name: joined.member_name.clone(),
                home: copy(joined.home.as_bytes()),
            }),
            Self::Refused(refused) => Body::Refused(proto::Refused {
                code: code_to(refused.code),
                message: refused.message.clone(),
                protocol_min: refused.protocol.0,
                protocol_max: refused.protocol.1,
                fault: refused.fault.as_ref().map(Fault::to_proto),
            }),
            Self::Changes(changes) => Body::Changes(changes.to_proto()),
            Self::Ack(ack) => Body::Ack(ack.to_proto()),
            Self::Reconcile(reconcile) => Body::Reconcile(proto::Reconcile {
                workspace: copy(reconcile.workspace.as_bytes()),
                run: reconcile.run,
                message: reconcile.message.clone(),
            }),
            Self::Want(want) => Body::Want(want.to_proto()),
            Self::Done(done) => Body::Done(proto::Done {
                workspace: copy(done.workspace.as_bytes()),
                run: done.run,
                point: Some(point_to(&done.point)),
            }),
            Self::Heartbeat(heartbeat) => Body::Heartbeat(proto::Heartbeat {
                points: heartbeat
                    .points
                    .iter()
                    .map(|(workspace, head)| proto::WorkspacePoint {
                        workspace: copy(workspace.as_bytes()),
                        head: Some(point_to(head)),
                    })
                    .collect(),
                number: heartbeat.number,
                heard: heartbeat.heard,
            }),
            Self::Part(part) => Body::Part(proto::Part {
                index: part.index,
                count: part.count,
                piece: part.piece.clone(),
            }),
            Self::Shares(shares) => Body::Shares(shares.to_proto()),
            Self::Held(held) => Body::Held(held.to_proto()),
            Self::Probe(probe) => Body::Probe(proto::Probe {
                number: probe.number,
                answer: probe.answer,
            }),
            Self::Leave(workspace) => Body::Leave(proto::Leave {
                workspace: copy(workspace.as_bytes()),
            }),
            Self::Unknown => return Bytes::new(),
        };
        proto::Frame { body: Some(body) }.encode_to_vec().into()
    }

    /// Decodes one body.
    ///
    /// # Errors
    /// If the bytes are not a frame, or one outside the limits.
    pub fn decode(body: &Bytes) -> Result<Self, FrameError> {
        let frame = proto::Frame::decode(body.clone())
            .map_err(|error| FrameError::new(error.to_string()))?;
        let Some(body) = frame.body else {
            return Ok(Self::Unknown);
        };
        Ok(match body {
            Body::Hello(hello) => Self::Hello(Hello::from_proto(&hello)?),
            Body::Join(join) => Self::Join(Join {
                protocol_min: join.protocol_min,
                protocol_max: join.protocol_max,
                secret: fixed("a secret", &join.secret)?,
                device_name: name(join.device_name)?,
            }),
            Body::Joined(joined) => Self::Joined(Joined {
                workspace: WorkspaceId::from_bytes(fixed("a workspace", &joined.workspace)?),
                workspace_name: name(joined.workspace_name)?,
                member: MemberId::from_bytes(fixed("a member", &joined.member)?),
                member_name: name(joined.member_name)?,
                home: WorkspaceId::from_bytes(fixed("a home", &joined.home)?),
            }),
            Body::Refused(refused) => Self::Refused(Refused {
                code: code_from(refused.code),
                message: refused.message.chars().take(500).collect(),
                protocol: (refused.protocol_min, refused.protocol_max),
                fault: refused.fault.as_ref().map(Fault::from_proto).transpose()?,
            }),
            Body::Changes(changes) => Self::Changes(Changes::from_proto(changes)?),
            Body::Ack(ack) => Self::Ack(Ack::from_proto(&ack)?),
            Body::Reconcile(reconcile) => Self::Reconcile(Reconcile {
                workspace: WorkspaceId::from_bytes(fixed("a workspace", &reconcile.workspace)?),
                run: reconcile.run,
                message: reconcile.message,
            }),
            Body::Want(want) => Self::Want(Want::from_proto(&want)?),
            Body::Done(done) => Self::Done(Done {
                workspace: WorkspaceId::from_bytes(fixed("a workspace", &done.workspace)?),
                run: done.run,
                point: required_point(done.point.as_ref())?,
            }),
            Body::Heartbeat(heartbeat) => {
                bounded(
                    "heartbeat points",
                    heartbeat.points.len(),
                    limits::LINK_WORKSPACES_MAX,
                )?;
                let points = heartbeat.points.iter().map(|point| {
                    let workspace = fixed("a workspace", &point.workspace)?;
                    let head = required_point(point.head.as_ref())?;
                    Ok((WorkspaceId::from_bytes(workspace), head))
                });
                Self::Heartbeat(Heartbeat {
                    points: points.collect::<Result<_, FrameError>>()?,
                    number: heartbeat.number,
                    heard: heartbeat.heard,
                })
            }
            Body::Part(part) => Self::Part(Part {
                index: part.index,
                count: part.count,
                piece: part.piece,
            }),
            Body::Shares(shares) => Self::Shares(Shares::from_proto(shares)?),
            Body::Held(held) => Self::Held(Held::from_proto(&held)?),
            Body::Probe(probe) => Self::Probe(Probe {
                number: probe.number,
                answer: probe.answer,
            }),
            Body::Leave(leave) => Self::Leave(WorkspaceId::from_bytes(fixed(
                "a workspace",
                &leave.workspace,
            )?)),
        })
    }
}

impl Frame {
    /// What the frame is called in faults.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Join(_) => "join",
            Self::Joined(_) => "joined",
            Self::Refused(_) => "refused",
            Self::Changes(_) => "changes",
            Self::Ack(_) => "ack",
            Self::Reconcile(_) => "reconcile",
            Self::Want(_) => "want",
            Self::Done(_) => "done",
            Self::Heartbeat(_) => "heartbeat",
            Self::Part(_) => "part",
            Self::Shares(_) => "shares",
            Self::Held(_) => "held",
            Self::Probe(_) => "probe",
            Self::Leave(_) => "leave",
            Self::Unknown => "unknown frame",
        }
    }
}

impl Hello {
    fn to_proto(&self) -> proto::Hello {
        proto::Hello {
            protocol_min: self.protocol_min,
            protocol_max: self.protocol_max,
            role: match self.role {
                Role::Device => proto::Role::Device.into(),
                Role::Server => proto::Role::Server.into(),
            },
            state_version: self.state_version,
            workspaces: self
                .workspaces
                .iter()
                .map(|hello| proto::WorkspaceHello {
                    workspace: copy(hello.workspace.as_bytes()),
                    head: Some(point_to(&hello.head)),
                    held: hello.held.as_ref().map(point_to),
                    takes_snapshots: hello.takes_snapshots,
                })
                .collect(),
            more: self.more,
            shares: self
                .shares
                .map_or_else(Bytes::new, |digest| copy(digest.as_bytes())),
            unsettled: self
                .workspaces
                .iter()
                .rev()
                .fold(0, |bits, hello| bits << 1 | u32::from(hello.is_unsettled)),
        }
    }

    fn from_proto(hello: &proto::Hello) -> Result<Self, FrameError> {
        bounded(
            "workspaces of a hello",
            hello.workspaces.len(),
            limits::HELLO_WORKSPACES_MAX,
        )?;
        Ok(Self {
            protocol_min: hello.protocol_min,
            protocol_max: hello.protocol_max,
            role: match hello.role() {
                proto::Role::Server => Role::Server,
                proto::Role::Device | proto::Role::Unspecified => Role::Device,
            },
            state_version: hello.state_version,
            workspaces: hello
                .workspaces
                .iter()
                .enumerate()
                .map(|(place, greeting)| {
                    let is_unsettled = hello.unsettled >> place & 1 == 1;
                    Ok(WorkspaceHello {
                        workspace: WorkspaceId::from_bytes(fixed(
                            "a workspace",
                            &greeting.workspace,
                        )?),
                        head: required_point(greeting.head.as_ref())?,
                        held: greeting.held.as_ref().map(point_from).transpose()?,
                        takes_snapshots: greeting.takes_snapshots,
                        is_unsettled,
                    })
                })
                .collect::<Result<_, FrameError>>()?,
            more: hello.more,
            shares: match hello.shares.is_empty() {
                true => None,
                false => Some(Digest::from_bytes(fixed("a digest", &hello.shares)?)),
            },
        })
    }
}

impl Changes {
    /// The sum of the bodies, in bytes: what the window counts.
    pub fn body_bytes(&self) -> usize {
        let documents = self.documents.iter();
        documents.map(DocumentChanges::body_bytes).sum()
    }

    /// What the frame counts for against the window: its bodies and a fixed cost, so that frames
    /// without bodies are not free.
    pub fn window_bytes(&self) -> usize {
        self.body_bytes() + limits::CHANGE_FRAME_COST_BYTES
    }

    fn to_proto(&self) -> proto::Changes {
        proto::Changes {
            workspace: copy(self.workspace.as_bytes()),
            documents: self
                .documents
                .iter()
                .map(|document| proto::DocumentChanges {
                    document: copy(document.document.as_bytes()),
                    kind: u32::from(document.kind.0),
                    changes: document.changes.clone(),
                    snapshot: document.snapshot.clone().unwrap_or_default(),
                    purged: document.purged.as_ref().map(Purged::to_proto),
                })
                .collect(),
            through: self.feed.as_ref().map(|(_, through)| point_to(through)),
            from_seq: self.feed.as_ref().map_or(0, |(from, _)| from.0),
            number: self.number,
            early: self.early,
        }
    }

    fn from_proto(changes: proto::Changes) -> Result<Self, FrameError> {
        bounded(
            "documents of a frame",
            changes.documents.len(),
            limits::FRAME_DOCUMENTS_MAX,
        )?;
        let through = changes.through.as_ref().map(point_from).transpose()?;
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed("a workspace", &changes.workspace)?),
            documents: changes
                .documents
                .into_iter()
                .map(|document| {
                    Ok(DocumentChanges {
                        document: DocumentId::from_bytes(fixed("a document", &document.document)?),
                        kind: u8::try_from(document.kind)
                            .map(DocumentKind)
                            .map_err(|_| FrameError::new("a document kind is out of range"))?,
                        snapshot: (!document.snapshot.is_empty()).then_some(document.snapshot),
                        changes: document.changes,
                        purged: document
                            .purged
                            .as_ref()
                            .map(Purged::from_proto)
                            .transpose()?,
                    })
                })
                .collect::<Result<_, FrameError>>()?,
            feed: through.map(|through| (FeedSeq(changes.from_seq), through)),
            number: changes.number,
            early: changes.early,
        })
    }
}

impl Ack {
    fn to_proto(&self) -> proto::Ack {
        proto::Ack {
            workspace: copy(self.workspace.as_bytes()),
            through: self.through.as_ref().map(point_to),
            number: self.number,
            refused: self
                .refused
                .iter()
                .map(|(document, code)| proto::Refusal {
                    document: copy(document.as_bytes()),
                    code: code_to(*code),
                })
                .collect(),
            head: self.head.as_ref().map(|(_, head)| point_to(head)),
            from_seq: self.head.as_ref().map_or(0, |(from, _)| from.0),
            accepted: self
                .accepted
                .iter()
                .map(|document| copy(document.as_bytes()))
                .collect(),
        }
    }

    fn from_proto(ack: &proto::Ack) -> Result<Self, FrameError> {
        bounded(
            "refusals of an ack",
            ack.refused.len(),
            limits::FRAME_DOCUMENTS_MAX,
        )?;
        bounded(
            "acceptances of an ack",
            ack.accepted.len(),
            limits::FRAME_DOCUMENTS_MAX,
        )?;
        let head = ack.head.as_ref().map(point_from).transpose()?;
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed("a workspace", &ack.workspace)?),
            through: ack.through.as_ref().map(point_from).transpose()?,
            number: ack.number,
            refused: ack
                .refused
                .iter()
                .map(|refusal| {
                    let document = fixed("a document", &refusal.document)?;
                    Ok((DocumentId::from_bytes(document), code_from(refusal.code)))
                })
                .collect::<Result<_, FrameError>>()?,
            head: head.map(|head| (FeedSeq(ack.from_seq), head)),
            accepted: ack
                .accepted
                .iter()
                .map(|document| Ok(DocumentId::from_bytes(fixed("a document", document)?)))
                .collect::<Result<_, FrameError>>()?,
        })
    }
}

impl Want {
    fn to_proto(&self) -> proto::Want {
        proto::Want {
            workspace: copy(self.workspace.as_bytes()),
            run: self.run,
            documents: self
                .documents
                .iter()
                .map(|document| proto::WantDocument {
                    document: copy(document.document.as_bytes()),
                    known: document.known.iter().map(KnownActor::to_proto).collect(),
                    mutual: document.mutual,
                })
                .collect(),
            last: self.last,
        }
    }

    fn from_proto(want: &proto::Want) -> Result<Self, FrameError> {
        bounded(
            "documents of a want",
            want.documents.len(),
            limits::FRAME_DOCUMENTS_MAX,
        )?;
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed("a workspace", &want.workspace)?),
            run: want.run,
            documents: want
                .documents
                .iter()
                .map(|document| {
                    Ok(WantDocument {
                        document: DocumentId::from_bytes(fixed("a document", &document.document)?),
                        known: KnownActor::list_from_proto("a want", &document.known)?,
                        mutual: document.mutual,
                    })
                })
                .collect::<Result<_, FrameError>>()?,
            last: want.last,
        })
    }
}

impl Shares {
    fn to_proto(&self) -> proto::Shares {
        proto::Shares {
            workspace: copy(self.workspace.as_bytes()),
            devices: self
                .devices
                .iter()
                .map(|device| proto::SharedDevice {
                    peer: copy(device.peer.as_bytes()),
                    member: copy(device.member.as_bytes()),
                    device_name: device.device_name.clone(),
                })
                .collect(),
            more: self.more,
        }
    }

    fn from_proto(shares: proto::Shares) -> Result<Self, FrameError> {
        bounded(
            "devices of a frame",
            shares.devices.len(),
            limits::SHARES_PER_FRAME,
        )?;
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed("a workspace", &shares.workspace)?),
            devices: shares
                .devices
                .into_iter()
                .map(|device| {
                    Ok(SharedDevice {
                        peer: PeerId::from_bytes(fixed("a peer", &device.peer)?),
                        member: MemberId::from_bytes(fixed("a member", &device.member)?),
                        device_name: name(device.device_name)?,
                    })
                })
                .collect::<Result<_, FrameError>>()?,
            more: shares.more,
        })
    }
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn fixed<const N: usize>(what: &str, bytes: &[u8]) -> Result<[u8; N], FrameError> {
    bytes
        .try_into()
        .map_err(|_| FrameError::new(format!("{what} has {} bytes instead of {N}", bytes.len())))
}

fn bounded(what: &str, count: usize, max: usize) -> Result<(), FrameError> {
    if count > max {
        return Err(FrameError::new(format!(
            "{count} {what}, at most {max} are allowed"
        )));
    }
    Ok(())
}

fn name(text: String) -> Result<String, FrameError> {
    bounded("bytes of a name", text.len(), limits::NAME_BYTES_MAX)?;
    Ok(text)
}

fn point_to(point: &FeedPoint) -> proto::FeedPoint {
    proto::FeedPoint {
        epoch: copy(point.epoch.as_bytes()),
        seq: point.seq.0,
        digest: copy(point.digest.as_bytes()),
    }
}

fn point_from(point: &proto::FeedPoint) -> Result<FeedPoint, FrameError> {
    Ok(FeedPoint {
        epoch: StoreEpoch::from_bytes(fixed("an epoch", &point.epoch)?),
        seq: FeedSeq(point.seq),
        digest: Digest::from_bytes(fixed("a digest", &point.digest)?),
    })
}

fn required_point(point: Option<&proto::FeedPoint>) -> Result<FeedPoint, FrameError> {
    point_from(point.ok_or_else(|| FrameError::new("a feed point is absent"))?)
}

fn code_to(code: RefusalCode) -> i32 {
    i32::try_from(code.number()).unwrap_or(0)
}

fn code_from(code: i32) -> RefusalCode {
    RefusalCode::from_number(u32::try_from(code).unwrap_or(0))
}

/// Puts oversized frames together again, within `limits::ASSEMBLED_FRAME_BYTES_MAX`.
#[derive(Debug, Default)]
pub struct Assembler {
    pieces: Vec<Bytes>,
    count: u32,
}

impl Assembler {
    /// Takes the next frame of a link; yields it, or the whole frame its last part completes.
    ///
    /// # Errors
    /// If parts do not follow each other, or add up to too much, or to no frame.
    pub fn accept(&mut self, body: &Bytes) -> Result<Option<Frame>, FrameError> {
        let frame = Frame::decode(body)?;
        let Frame::Part(part) = frame else {
            if !self.pieces.is_empty() {
                return Err(FrameError::new("a frame between the parts of another"));
            }
            return Ok(Some(frame));
        };
        if self.pieces.is_empty() {
            self.count = part.count;
        }
        let expected = u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
        if part.index != expected
            || part.count != self.count
            || part.index >= part.count
            || part.count > limits::FRAME_PARTS_MAX
        {
            return Err(FrameError::new(format!(
                "part {} of {} where part {expected} of {} was due",
                part.index, part.count, self.count
            )));
        }
        self.pieces.push(part.piece);
        if self.pieces.len() < self.count as usize {
            return Ok(None);
        }
        let whole: Bytes = std::mem::take(&mut self.pieces).concat().into();
        match Frame::decode(&whole)? {
            Frame::Part(_) => Err(FrameError::new("a part within parts")),
            frame => Ok(Some(frame)),
        }
    }
}

#[cfg(test)]
mod tests;
