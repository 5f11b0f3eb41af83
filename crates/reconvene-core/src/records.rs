//! Stored records as types, and their encoding (`schema/storage.proto`).
//!
//! A record that decodes is well-formed; one that does not is damage and is reported as such,
//! never taken for absent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;

use crate::feed::{Digest, FeedPoint};
use crate::guard::ActorId;
use crate::ids::{
    ChangeHash, DocumentId, DocumentKind, FeedSeq, MemberId, PeerId, SnapshotHash, StoreEpoch,
    WorkspaceId,
};
use crate::limits;
use crate::refusal::RefusalCode;
use crate::schema::storage as proto;
use crate::time::WallTime;

mod offence;

pub use offence::{NotedOffence, Offence};

/// A stored record that does not have the shape its key promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {record}: {what}")]
pub struct RecordError {
    record: &'static str,
    what: String,
}

/// A type stored under a key of its own kind.
pub trait Record: Sized {
    /// What the record is called in errors.
    const NAME: &'static str;

    /// Encodes the record's payload.
    fn encode(&self) -> Bytes;

    /// Decodes a payload.
    ///
    /// # Errors
    /// If the bytes are not such a record.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError>;
}

fn fixed<const N: usize>(
    record: &'static str,
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], RecordError> {
    bytes.try_into().map_err(|_| RecordError {
        record,
        what: format!("{field} has {} bytes instead of {N}", bytes.len()),
    })
}

fn parse<M: prost::Message + Default>(
    record: &'static str,
    bytes: &[u8],
) -> Result<M, RecordError> {
    M::decode(bytes).map_err(|error| RecordError {
        record,
        what: error.to_string(),
    })
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// One change as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRow {
    /// The change's chunk.
    pub body: Bytes,
    /// The signed envelope; empty until envelopes exist.
    pub envelope: Bytes,
}

impl Record for ChangeRow {
    const NAME: &'static str = "change";

    fn encode(&self) -> Bytes {
        let row = proto::ChangeRow {
            body: self.body.clone(),
            envelope: self.envelope.clone(),
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::ChangeRow = parse(Self::NAME, bytes)?;
        Ok(Self {
            body: row.body,
            envelope: row.envelope,
        })
    }
}

/// One version of a document as a whole: an Automerge document chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// The chunk.
    pub body: Bytes,
}

impl Record for SnapshotRow {
    const NAME: &'static str = "snapshot";

    fn encode(&self) -> Bytes {
        let body = self.body.clone();
        proto::SnapshotRow { body }.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::SnapshotRow = parse(Self::NAME, bytes)?;
        Ok(Self { body: row.body })
    }
}

/// A stored snapshot, as other records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRef {
    /// Its name.
    pub hash: SnapshotHash,
    /// Size of its bytes.
    pub size: u32,
    /// Number of changes in it, without the genesis.
    pub changes: u64,
}

impl SnapshotRef {
    fn to_proto(self) -> proto::SnapshotRef {
        proto::SnapshotRef {
            hash: copy(self.hash.as_bytes()),
            size: self.size,
            changes: self.changes,
        }
    }

    fn from_proto(
        record: &'static str,
        snapshot: &proto::SnapshotRef,
    ) -> Result<Self, RecordError> {
        Ok(Self {
            hash: SnapshotHash::from_bytes(fixed(record, "a snapshot", &snapshot.hash)?),
            size: snapshot.size,
            changes: snapshot.changes,
        })
    }
}

/// Which changes of one actor are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActorProgress {
    /// Every change from 1 up to this is stored.
    pub last_seq: u64,
    /// Stored sequence numbers beyond a gap.
    pub beyond: BTreeSet<u64>,
}

impl ActorProgress {
    /// Whether the change with this sequence number is stored.
    pub fn holds(&self, seq: u64) -> bool {
        seq <= self.last_seq || self.beyond.contains(&seq)
    }

    /// Notes one more stored change.
    pub fn add(&mut self, seq: u64) {
        if self.holds(seq) {
            return;
        }
        self.beyond.insert(seq);
        while let Some(next) = self.last_seq.checked_add(1)
            && self.beyond.remove(&next)
        {
            self.last_seq = next;
        }
    }
}

/// A document's exact stored version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadRow {
    /// The kind its genesis is registered under.
    pub kind: DocumentKind,
    /// Stored changes that no stored change depends on.
    pub heads: BTreeSet<ChangeHash>,
    /// The feed entry that made this version durable.
    pub feed_seq: FeedSeq,
    /// What is stored of each actor.
    pub actors: BTreeMap<ActorId, ActorProgress>,
    /// Dependencies of stored changes that are not stored.
    pub missing: BTreeSet<ChangeHash>,
    /// Number of changes that are stored singly.
    pub change_count: u64,
    /// Sum of their bodies' sizes.
    pub change_bytes: u64,
    /// The stored snapshots, by hash; together with the single changes they are the document.
    pub snapshots: Vec<SnapshotRef>,
    /// Counter of the last operation of each head, where it is known.
    pub head_max_ops: BTreeMap<ChangeHash, u64>,
    /// Largest counter of an operation of each actor, where it is known.
    pub actor_max_ops: BTreeMap<ActorId, u64>,
    /// Number of operations of the stored changes, as far as they were counted.
    pub operations: u64,
    /// When the document was purged. Then it has no heads, `actors` say what was known of it, and the
    /// changes and snapshots counted here are those that are not physically removed yet.
    pub purged_at: Option<WallTime>,
}

impl HeadRow {
    /// A document of which nothing is stored.
    pub fn empty(kind: DocumentKind) -> Self {
        Self {
            kind,
            heads: BTreeSet::new(),
            feed_seq: FeedSeq(0),
            actors: BTreeMap::new(),
            missing: BTreeSet::new(),
            change_count: 0,
            change_bytes: 0,
            snapshots: Vec::new(),
            head_max_ops: BTreeMap::new(),
            actor_max_ops: BTreeMap::new(),
            operations: 0,
            purged_at: None,
        }
    }

    /// What is left of the document once it is purged.
    pub fn purge(&mut self, at: WallTime) {
        self.heads.clear();
        self.missing.clear();
        self.head_max_ops.clear();
        self.actor_max_ops.clear();
        self.operations = 0;
        // Zero stands for a document that is not.
        self.purged_at = Some(WallTime::from_millis(match at.as_millis() {
            0 => 1,
            at => at,
        }));
    }

    /// Whether it is purged, and something of it is not physically removed yet.
    pub fn has_remains(&self) -> bool {
        self.purged_at.is_some() && (self.change_count > 0 || !self.snapshots.is_empty())
    }

    /// Sum of the sizes of its snapshots.
    pub fn snapshot_bytes(&self) -> u64 {
        let sizes = self.snapshots.iter();
        sizes.map(|snapshot| u64::from(snapshot.size)).sum()
    }

    /// Whether there are several snapshots, or single changes have come to so many since there were
    /// `before`, that compacting is due.
    pub fn compaction_due(&self, before: u64) -> bool {
        let step = limits::COMPACTION_DUE_CHANGES;
        self.snapshots.len() > 1
            || self.change_count / step > before / step
                && self.change_bytes >= limits::COMPACTION_DUE_RATIO * self.snapshot_bytes()
    }

    /// Sum of the sizes of its snapshots and of its single changes.
    pub fn bytes(&self) -> u64 {
        self.snapshot_bytes() + self.change_bytes
    }

    /// Largest counter of an operation of the stored changes; `None` if it is not known.
    pub fn max_op(&self) -> Option<u64> {
        let known = |head| self.head_max_ops.get(head).copied();
        self.heads
            .iter()
            .map(known)
            .try_fold(0, |max, max_op| Some(max.max(max_op?)))
    }
}

impl Record for HeadRow {
    const NAME: &'static str = "head row";

    fn encode(&self) -> Bytes {
        let row = proto::HeadRow {
            kind: u32::from(self.kind.0),
            heads: self
                .heads
                .iter()
                .map(|hash| copy(hash.as_bytes()))
                .collect(),
            feed_seq: self.feed_seq.0,
            actors: actor_rows(&self.actors, &self.actor_max_ops),
            missing: self
                .missing
                .iter()
                .map(|hash| copy(hash.as_bytes()))
                .collect(),
            change_count: self.change_count,
            change_bytes: self.change_bytes,
            snapshots: self.snapshots.iter().map(|each| each.to_proto()).collect(),
            head_max_ops: match self.head_max_ops.is_empty() {
                true => Vec::new(),
                false => self
                    .heads
                    .iter()
                    .map(|head| self.head_max_ops.get(head).copied().unwrap_or(0))
                    .collect(),
            },
            operations: self.operations,
            purged_at_ms: self.purged_at.map_or(0, WallTime::as_millis),
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::HeadRow = parse(Self::NAME, bytes)?;
        let hashes = |field, list: &[Bytes]| {
            list.iter()
                .map(|hash| fixed(Self::NAME, field, hash).map(ChangeHash::from_bytes))
                .collect::<Result<BTreeSet<_>, _>>()
        };
        Ok(Self {
            kind: kind(Self::NAME, row.kind)?,
            heads: hashes("a head", &row.heads)?,
            feed_seq: FeedSeq(row.feed_seq),
            actors: actors_from(Self::NAME, &row.actors)?,
            missing: hashes("a missing dependency", &row.missing)?,
            change_count: row.change_count,
            change_bytes: row.change_bytes,
            snapshots: row
                .snapshots
                .iter()
                .map(|snapshot| SnapshotRef::from_proto(Self::NAME, snapshot))
                .collect::<Result<_, RecordError>>()?,
            head_max_ops: row
                .heads
                .iter()
                .zip(&row.head_max_ops)
                .filter(|(_, max_op)| **max_op > 0)
                .map(|(head, max_op)| {
                    let head = fixed(Self::NAME, "a head", head)?;
                    Ok((ChangeHash::from_bytes(head), *max_op))
                })
                .collect::<Result<_, RecordError>>()?,
            actor_max_ops: row
                .actors
                .iter()
                .filter(|actor| actor.max_op > 0)
                .filter_map(|actor| Some((ActorId::from_bytes(&actor.actor)?, actor.max_op)))
                .collect(),
            operations: row.operations,
            purged_at: (row.purged_at_ms != 0).then(|| WallTime::from_millis(row.purged_at_ms)),
        })
    }
}

fn kind(record: &'static str, kind: u32) -> Result<DocumentKind, RecordError> {
    u8::try_from(kind)
        .map(DocumentKind)
        .map_err(|_| RecordError {
            record,
            what: format!("document kind {kind} is out of range"),
        })
}

fn point_to(point: &FeedPoint) -> proto::FeedPoint {
    proto::FeedPoint {
        epoch: copy(point.epoch.as_bytes()),
        seq: point.seq.0,
        digest: copy(point.digest.as_bytes()),
    }
}

fn point_from(record: &'static str, point: &proto::FeedPoint) -> Result<FeedPoint, RecordError> {
    Ok(FeedPoint {
        epoch: StoreEpoch::from_bytes(fixed(record, "epoch", &point.epoch)?),
        seq: FeedSeq(point.seq),
        digest: Digest::from_bytes(fixed(record, "digest", &point.digest)?),
    })
}

/// The end of a workspace's feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedHeadRow {
    /// Where the feed ends.
    pub point: FeedPoint,
    /// Number of documents of the workspace.
    pub documents: u64,
    /// Entries up to here may have been compacted away; a gap after it is damage.
    pub compacted: FeedSeq,
}

impl Record for FeedHeadRow {
    const NAME: &'static str = "feed head";

    fn encode(&self) -> Bytes {
        let row = proto::FeedHeadRow {
            epoch: copy(self.point.epoch.as_bytes()),
            seq: self.point.seq.0,
            digest: copy(self.point.digest.as_bytes()),
            documents: self.documents,
            compacted: self.compacted.0,
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::FeedHeadRow = parse(Self::NAME, bytes)?;
        Ok(Self {
            point: FeedPoint {
                epoch: StoreEpoch::from_bytes(fixed(Self::NAME, "epoch", &row.epoch)?),
                seq: FeedSeq(row.seq),
                digest: Digest::from_bytes(fixed(Self::NAME, "digest", &row.digest)?),
            },
            documents: row.documents,
            compacted: FeedSeq(row.compacted),
        })
    }
}

/// One entry of a feed: a document's new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedRow {
    /// The document.
    pub document: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// The changes that made the version, each after its dependencies, with their bodies' sizes.
    pub changes: Vec<(ChangeHash, u32)>,
    /// The peer they came from; `None` for this device's own.
    pub origin: Option<PeerId>,
    /// Running digest after this entry.
    pub digest: Digest,
    /// A snapshot ahead of the changes: received so, or put there by compaction in place of the
    /// changes of this entry and of the document's earlier ones.
    pub snapshot: Option<SnapshotRef>,
    /// The document's entry before this one; 0 if there is none.
    pub previous: FeedSeq,
    /// If the document was purged with this entry: size of the tombstone as it is sent, in bytes.
    pub purged: Option<u32>,
}

impl Record for FeedRow {
    const NAME: &'static str = "feed entry";

    fn encode(&self) -> Bytes {
        let row = proto::FeedRow {
            document: copy(self.document.as_bytes()),
            changes: self
                .changes
                .iter()
                .map(|(hash, size)| proto::FeedChange {
                    hash: copy(hash.as_bytes()),
                    size: *size,
                })
                .collect(),
            origin: self
                .origin
                .map_or_else(Bytes::new, |peer| copy(peer.as_bytes())),
            digest: copy(self.digest.as_bytes()),
            kind: u32::from(self.kind.0),
            snapshot: self.snapshot.map(SnapshotRef::to_proto),
            previous: self.previous.0,
            purged: self.purged.unwrap_or(0),
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::FeedRow = parse(Self::NAME, bytes)?;
        let origin = if row.origin.is_empty() {
            None
        } else {
            Some(PeerId::from_bytes(fixed(
                Self::NAME,
                "origin",
                &row.origin,
            )?))
        };
        Ok(Self {
            document: DocumentId::from_bytes(fixed(Self::NAME, "document", &row.document)?),
            kind: kind(Self::NAME, row.kind)?,
            changes: row
                .changes
                .iter()
                .map(|change| {
                    let hash = fixed(Self::NAME, "a change", &change.hash)?;
                    Ok((ChangeHash::from_bytes(hash), change.size))
                })
                .collect::<Result<_, RecordError>>()?,
            origin,
            digest: Digest::from_bytes(fixed(Self::NAME, "digest", &row.digest)?),
            snapshot: row
                .snapshot
                .as_ref()
                .map(|snapshot| SnapshotRef::from_proto(Self::NAME, snapshot))
                .transpose()?,
            previous: FeedSeq(row.previous),
            purged: (row.purged != 0).then_some(row.purged),
        })
    }
}

/// What a peer and this store hold of each other in one workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerRow {
    /// Their feed, up to where it is durable here.
    pub held: Option<FeedPoint>,
    /// Our feed, up to where it is durable there.
    pub acknowledged: Option<FeedPoint>,
    /// Documents of theirs refused here.
    pub refused_here: BTreeMap<DocumentId, RefusalCode>,
    /// Documents of ours refused there.
    pub refused_there: BTreeMap<DocumentId, RefusalCode>,
    /// When nothing they held durably was missing here; `None` if that never was.
    pub verified_at: Option<WallTime>,
    /// Whether the peer, when it last greeted, took snapshots from us.
    pub takes_snapshots: bool,
    /// Documents of theirs refused here that the list has no room for.
    pub refused_here_unlisted: u64,
    /// Documents of ours refused there that the list has no room for.
    pub refused_there_unlisted: u64,
    /// Of a server: what it said last that the other devices of this device's member hold.
    pub relayed: BTreeMap<PeerId, RelayedRow>,
    /// What it sent that no peer sends that keeps the protocol, oldest first; at most
    /// `limits::OFFENCES_MAX`.
    pub offences: Vec<Offence>,
}

/// What a device holds of our feed, by its server's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayedRow {
    /// Our feed, up to where it is durable there; `None` if it is not known to hold any of it.
    pub held: Option<FeedPoint>,
    /// Documents of the workspace that it refused.
    pub refused: BTreeMap<DocumentId, RefusalCode>,
    /// Documents it refused that the list has no room for.
    pub refused_unlisted: u64,
}

impl PeerRow {
    /// Notes that a document of theirs was refused here; whether that is new.
    pub fn refuse_here(&mut self, document: DocumentId, code: RefusalCode) -> bool {
        refuse(
            &mut self.refused_here,
            &mut self.refused_here_unlisted,
            document,
            code,
        )
    }

    /// Notes that a document of ours was refused there; whether that is new.
    pub fn refuse_there(&mut self, document: DocumentId, code: RefusalCode) -> bool {
        refuse(
            &mut self.refused_there,
            &mut self.refused_there_unlisted,
            document,
            code,
        )
    }

    /// Notes that a document is purged here; whether that is new. What was refused of it may be unknown
    /// to whoever decided on that: it stays refused until the peer took the purge, too.
    pub fn purge_here(&mut self, document: &DocumentId) -> bool {
        let code = self.refused_here.get_mut(document);
        code.is_some_and(|code| {
            std::mem::replace(code, RefusalCode::DocumentDeleted) != RefusalCode::DocumentDeleted
        })
    }

    /// The documents refused since they are purged, of which a peer that acknowledged our feed to its end
    /// refused nothing: it took the tombstone, and has nothing of them any more.
    pub fn purged_there(&self) -> Vec<DocumentId> {
        let purged = self.refused_here.iter().filter(|(document, code)| {
            **code == RefusalCode::DocumentDeleted && !self.refused_there.contains_key(document)
        });
        let is_known = self.refused_there_unlisted == 0;
        let purged = purged.filter(|_| is_known);
        purged.map(|(document, _)| *document).collect()
    }

    /// Whether changes of a document were refused here because they depend on others.
    pub fn lacks_dependencies_of(&self, document: &DocumentId) -> bool {
        self.refused_here.get(document) == Some(&RefusalCode::MissingDependencies)
    }
}

fn refuse(
    listed: &mut BTreeMap<DocumentId, RefusalCode>,
    unlisted: &mut u64,
    document: DocumentId,
    code: RefusalCode,
) -> bool {
    if listed.len() >= limits::REFUSALS_MAX && !listed.contains_key(&document) {
        *unlisted = unlisted.saturating_add(1);
        return true;
    }
    listed.insert(document, code) != Some(code)
}

impl Record for PeerRow {
    const NAME: &'static str = "peer row";

    fn encode(&self) -> Bytes {
        let refusals = |map: &BTreeMap<DocumentId, RefusalCode>| {
            map.iter()
                .map(|(document, code)| proto::Refusal {
                    document: copy(document.as_bytes()),
                    code: code.number(),
                })
                .collect()
        };
        let row = proto::PeerRow {
            held: self.held.as_ref().map(point_to),
            acknowledged: self.acknowledged.as_ref().map(point_to),
            refused_here: refusals(&self.refused_here),
            refused_there: refusals(&self.refused_there),
            verified_at_ms: self.verified_at.map_or(0, WallTime::as_millis),
            takes_snapshots: self.takes_snapshots,
            refused_here_unlisted: self.refused_here_unlisted,
            refused_there_unlisted: self.refused_there_unlisted,
            relayed: self
                .relayed
                .iter()
                .map(|(peer, row)| proto::Relayed {
                    peer: copy(peer.as_bytes()),
                    held: row.held.as_ref().map(point_to),
                    refused: refusals(&row.refused),
                    refused_unlisted: row.refused_unlisted,
                })
                .collect(),
            offences: self.offences.iter().map(Offence::to_proto).collect(),
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::PeerRow = parse(Self::NAME, bytes)?;
        let refusals = |list: &[proto::Refusal]| {
            list.iter()
                .map(|refusal| {
                    let document = fixed(Self::NAME, "a refused document", &refusal.document)?;
                    let code = RefusalCode::from_number(refusal.code);
                    Ok((DocumentId::from_bytes(document), code))
                })
                .collect::<Result<BTreeMap<_, _>, RecordError>>()
        };
        let point = |point: &Option<proto::FeedPoint>| {
            point
                .as_ref()
                .map(|point| point_from(Self::NAME, point))
                .transpose()
        };
        Ok(Self {
            held: point(&row.held)?,
            acknowledged: point(&row.acknowledged)?,
            refused_here: refusals(&row.refused_here)?,
            refused_there: refusals(&row.refused_there)?,
            verified_at: (row.verified_at_ms != 0)
                .then(|| WallTime::from_millis(row.verified_at_ms)),
            takes_snapshots: row.takes_snapshots,
            refused_here_unlisted: row.refused_here_unlisted,
            refused_there_unlisted: row.refused_there_unlisted,
            relayed: row
                .relayed
                .iter()
                .map(|relayed| {
                    let peer = fixed(Self::NAME, "a device", &relayed.peer)?;
                    let row = RelayedRow {
                        held: point(&relayed.held)?,
                        refused: refusals(&relayed.refused)?,
                        refused_unlisted: relayed.refused_unlisted,
                    };
                    Ok((PeerId::from_bytes(peer), row))
                })
                .collect::<Result<_, RecordError>>()?,
            offences: row
                .offences
                .iter()
                .map(|offence| Offence::from_proto(Self::NAME, offence))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// What was lost of a document through damage to its records, and is not back yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DamageRow {
    /// When it was found.
    pub since: WallTime,
    /// What was found damaged, for people.
    pub what: String,
    /// Changes that are known by name to be lost.
    pub lost: BTreeSet<ChangeHash>,
    /// What the head row said was stored.
    pub held: BTreeMap<ActorId, ActorProgress>,
    /// Whether something was lost that neither of them says: then any version of which all ancestors
    /// are here is taken for whole.
    pub is_vague: bool,
}

impl DamageRow {
    /// Whether a document with this head row has all back.
    pub fn is_over(&self, row: &HeadRow) -> bool {
        let holds_all = |(actor, held): (&ActorId, &ActorProgress)| {
            let now = row.actors.get(actor);
            now.is_some_and(|now| {
                now.last_seq >= held.last_seq && held.beyond.iter().all(|seq| now.holds(*seq))
            })
        };
        let is_whole = row.missing.is_empty() && !row.heads.is_empty();
        row.purged_at.is_some()
            || (self.lost.is_empty()
                && self.held.iter().all(holds_all)
                && (is_whole || !self.is_vague))
    }

    /// Adds what was found later.
    pub fn merge(&mut self, later: Self) {
        self.lost.extend(later.lost);
        for (actor, held) in later.held {
            let known = self.held.entry(actor).or_default();
            known.last_seq = known.last_seq.max(held.last_seq);
            known.beyond.extend(held.beyond);
            let last = known.last_seq;
            known.beyond.retain(|seq| *seq > last);
        }
        self.is_vague |= later.is_vague;
        self.what = later.what;
    }
}

fn actor_rows(
    actors: &BTreeMap<ActorId, ActorProgress>,
    max_ops: &BTreeMap<ActorId, u64>,
) -> Vec<proto::ActorRow> {
    let rows = actors.iter().map(|(actor, progress)| proto::ActorRow {
        actor: copy(actor.as_bytes()),
        last_seq: progress.last_seq,
        beyond: progress.beyond.iter().copied().collect(),
        max_op: max_ops.get(actor).copied().unwrap_or(0),
    });
    rows.collect()
}

fn actors_from(
    record: &'static str,
    rows: &[proto::ActorRow],
) -> Result<BTreeMap<ActorId, ActorProgress>, RecordError> {
    let actors = rows.iter().map(|actor| {
        let progress = ActorProgress {
            last_seq: actor.last_seq,
            beyond: actor.beyond.iter().copied().collect(),
        };
        let id = ActorId::from_bytes(&actor.actor).ok_or_else(|| RecordError {
            record,
            what: format!("an actor id of {} bytes", actor.actor.len()),
        })?;
        Ok((id, progress))
    });
    actors.collect()
}

impl Record for DamageRow {
    const NAME: &'static str = "damage row";

    fn encode(&self) -> Bytes {
        let row = proto::DamageRow {
            since_ms: self.since.as_millis(),
            what: self.what.clone(),
            lost: self.lost.iter().map(|hash| copy(hash.as_bytes())).collect(),
            held: actor_rows(&self.held, &BTreeMap::new()),
            is_vague: self.is_vague,
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::DamageRow = parse(Self::NAME, bytes)?;
        let lost = row.lost.iter();
        let lost = lost.map(|hash| fixed(Self::NAME, "a change", hash).map(ChangeHash::from_bytes));
        Ok(Self {
            since: WallTime::from_millis(row.since_ms),
            what: row.what,
            lost: lost.collect::<Result<_, _>>()?,
            held: actors_from(Self::NAME, &row.held)?,
            is_vague: row.is_vague,
        })
    }
}

/// The bytes of a damaged record, or a part of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineRow {
    /// The record's key, encoded.
    pub key: Bytes,
    /// What the store kept under it.
    pub raw: Bytes,
    /// Where in the record's bytes these begin.
    pub offset: u64,
    /// What was wrong with it, for people.
    pub what: String,
    /// When it was set aside.
    pub at: WallTime,
    /// Who sent the bytes, if they are those of an offence; the key is then that of the head row of the
    /// document they were sent for.
    pub peer: Option<PeerId>,
}

impl Record for QuarantineRow {
    const NAME: &'static str = "quarantine row";

    fn encode(&self) -> Bytes {
        let row = proto::QuarantineRow {
            key: self.key.clone(),
            raw: self.raw.clone(),
            offset: self.offset,
            what: self.what.clone(),
            at_ms: self.at.as_millis(),
            peer: self
                .peer
                .map_or_else(Bytes::new, |peer| copy(peer.as_bytes())),
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::QuarantineRow = parse(Self::NAME, bytes)?;
        let peer = match row.peer.is_empty() {
            true => None,
            false => Some(PeerId::from_bytes(fixed(Self::NAME, "a peer", &row.peer)?)),
        };
        Ok(Self {
            peer,
            key: row.key,
            raw: row.raw,
            offset: row.offset,
            what: row.what,
            at: WallTime::from_millis(row.at_ms),
        })
    }
}

/// A workspace held by this store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceRow {
    /// What people call it.
    pub name: String,
    /// When this store first held it.
    pub created_at: WallTime,
    /// The member whose home it is; `None` for a shared workspace.
    pub home_of: Option<MemberId>,
}

impl Record for WorkspaceRow {
    const NAME: &'static str = "workspace row";

    fn encode(&self) -> Bytes {
        let row = proto::WorkspaceRow {
            name: self.name.clone(),
            created_at_ms: self.created_at.as_millis(),
            home_of: self
                .home_of
                .map_or_else(Bytes::new, |member| copy(member.as_bytes())),
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::WorkspaceRow = parse(Self::NAME, bytes)?;
        let home_of = if row.home_of.is_empty() {
            None
        } else {
            Some(MemberId::from_bytes(fixed(
                Self::NAME,
                "member",
                &row.home_of,
            )?))
        };
        Ok(Self {
            name: row.name,
            created_at: WallTime::from_millis(row.created_at_ms),
            home_of,
        })
    }
}

/// What a peer is to this store in a workspace that both share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// A device that was enrolled here.
    #[default]
    Device,
    /// The server this store joined; it alone may tell of others.
    Server,
    /// A device that this server told of.
    Learned(PeerId),
}

/// That a workspace is shared with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareRow {
    /// Whose device the peer is; for a server, the member of this store.
    pub member: MemberId,
    /// What the peer called itself when it joined; for a server, what this store calls itself.
    pub device_name: String,
    /// Since when.
    pub since: WallTime,
    /// What the peer is here.
    pub standing: Standing,
}

impl Record for ShareRow {
    const NAME: &'static str = "share row";

    fn encode(&self) -> Bytes {
        let row = proto::ShareRow {
            member: copy(self.member.as_bytes()),
            device_name: self.device_name.clone(),
            since_ms: self.since.as_millis(),
            standing: match self.standing {
                Standing::Device => 0,
                Standing::Server => 1,
                Standing::Learned(_) => 2,
            },
            learned_from: match &self.standing {
                Standing::Learned(server) => copy(server.as_bytes()),
                Standing::Device | Standing::Server => Bytes::new(),
            },
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::ShareRow = parse(Self::NAME, bytes)?;
        Ok(Self {
            member: MemberId::from_bytes(fixed(Self::NAME, "member", &row.member)?),
            device_name: row.device_name,
            since: WallTime::from_millis(row.since_ms),
            standing: match row.standing {
                0 => Standing::Device,
                1 => Standing::Server,
                2 => {
                    let server = fixed(Self::NAME, "a server", &row.learned_from)?;
                    Standing::Learned(PeerId::from_bytes(server))
                }
                other => {
                    return Err(RecordError {
                        record: Self::NAME,
                        what: format!("standing {other} is none"),
                    });
                }
            },
        })
    }
}

/// A member known to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// The member.
    pub member: MemberId,
    /// The name as it was given.
    pub name: String,
    /// Their home workspace.
    pub home: WorkspaceId,
}

impl Record for MemberRow {
    const NAME: &'static str = "member row";

    fn encode(&self) -> Bytes {
        let row = proto::MemberRow {
            member: copy(self.member.as_bytes()),
            name: self.name.clone(),
            home: copy(self.home.as_bytes()),
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::MemberRow = parse(Self::NAME, bytes)?;
        Ok(Self {
            member: MemberId::from_bytes(fixed(Self::NAME, "member", &row.member)?),
            name: row.name,
            home: WorkspaceId::from_bytes(fixed(Self::NAME, "home", &row.home)?),
        })
    }
}

/// A ticket's other half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteRow {
    /// The workspace the ticket opens.
    pub workspace: WorkspaceId,
    /// Its name, told to the joining device.
    pub workspace_name: String,
    /// Whose device will join.
    pub member: MemberId,
    /// That member's name.
    pub member_name: String,
    /// That member's home workspace.
    pub home: WorkspaceId,
    /// When the ticket ends.
    pub expires_at: WallTime,
    /// The peer that redeemed it.
    pub redeemed_by: Option<PeerId>,
}

impl Record for InviteRow {
    const NAME: &'static str = "invite row";

    fn encode(&self) -> Bytes {
        let row = proto::InviteRow {
            workspace: copy(self.workspace.as_bytes()),
            member: copy(self.member.as_bytes()),
            home: copy(self.home.as_bytes()),
            member_name: self.member_name.clone(),
            expires_at_ms: self.expires_at.as_millis(),
            redeemed_by: self
                .redeemed_by
                .map_or_else(Bytes::new, |peer| copy(peer.as_bytes())),
            workspace_name: self.workspace_name.clone(),
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::InviteRow = parse(Self::NAME, bytes)?;
        let redeemed_by = if row.redeemed_by.is_empty() {
            None
        } else {
            Some(PeerId::from_bytes(fixed(
                Self::NAME,
                "redeemer",
                &row.redeemed_by,
            )?))
        };
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed(Self::NAME, "workspace", &row.workspace)?),
            workspace_name: row.workspace_name,
            member: MemberId::from_bytes(fixed(Self::NAME, "member", &row.member)?),
            member_name: row.member_name,
            home: WorkspaceId::from_bytes(fixed(Self::NAME, "home", &row.home)?),
            expires_at: WallTime::from_millis(row.expires_at_ms),
            redeemed_by,
        })
    }
}

/// How far a workspace's index follows its feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStateRow {
    /// Every entry up to this is in the index.
    pub seq: FeedSeq,
    /// The state version the rows were written under.
    pub state_version: u32,
    /// The state version of the workspace's server as it was then; 0 if none was heard.
    pub server_state_version: u32,
}

impl Record for IndexStateRow {
    const NAME: &'static str = "index state";

    fn encode(&self) -> Bytes {
        let row = proto::IndexStateRow {
            seq: self.seq.0,
            state_version: self.state_version,
            server_state_version: self.server_state_version,
        };
        row.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let row: proto::IndexStateRow = parse(Self::NAME, bytes)?;
        Ok(Self {
            seq: FeedSeq(row.seq),
            state_version: row.state_version,
            server_state_version: row.server_state_version,
        })
    }
}

/// One document of a journal frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalDocument {
    /// The document.
    pub document: DocumentId,
    /// Its kind.
    pub kind: DocumentKind,
    /// Local changes, in order.
    pub changes: Vec<Bytes>,
}

/// The body of one journal frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalFrame {
    /// Workspace of the changes.
    pub workspace: WorkspaceId,
    /// History of the feed they were entered in.
    pub epoch: StoreEpoch,
    /// Feed entry of the first document; the others follow.
    pub seq: FeedSeq,
    /// The documents, one feed entry each.
    pub documents: Vec<JournalDocument>,
}

impl Record for JournalFrame {
    const NAME: &'static str = "journal frame";

    fn encode(&self) -> Bytes {
        let frame = proto::JournalFrame {
            workspace: copy(self.workspace.as_bytes()),
            epoch: copy(self.epoch.as_bytes()),
            seq: self.seq.0,
            documents: self
                .documents
                .iter()
                .map(|document| proto::JournalDocument {
                    document: copy(document.document.as_bytes()),
                    kind: u32::from(document.kind.0),
                    changes: document.changes.clone(),
                })
                .collect(),
        };
        frame.encode_to_vec().into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let frame: proto::JournalFrame = parse(Self::NAME, bytes)?;
        Ok(Self {
            workspace: WorkspaceId::from_bytes(fixed(Self::NAME, "workspace", &frame.workspace)?),
            epoch: StoreEpoch::from_bytes(fixed(Self::NAME, "epoch", &frame.epoch)?),
            seq: FeedSeq(frame.seq),
            documents: frame
                .documents
                .into_iter()
                .map(|document| {
                    let id = fixed(Self::NAME, "a document", &document.document)?;
                    Ok(JournalDocument {
                        document: DocumentId::from_bytes(id),
                        kind: kind(Self::NAME, document.kind)?,
                        changes: document.changes,
                    })
                })
                .collect::<Result<_, RecordError>>()?,
        })
    }
}

#[cfg(test)]
mod tests;
