//! Storage keys: fixed-width, ordered, leading with the kind and the workspace.
//!
//! Within one kind every key has the same length, so no key is a prefix of another; a store may
//! therefore append part numbers to them. `schema/storage-keys.md` is the reference.

use crate::ids::{
    ChangeHash, DocumentId, DocumentKind, FeedSeq, PeerId, SnapshotHash, WorkspaceId,
};

/// Encoded key of one stored record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

/// What a key's record is; the first byte of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// Store-wide facts, by a one-byte name.
    Meta = 0x01,
    /// A workspace shared with a peer.
    Share = 0x02,
    /// The other half of a ticket.
    Invite = 0x03,
    /// A member known to this server.
    Member = 0x04,
    /// A workspace held here.
    Workspace = 0x05,
    /// The end of a workspace's feed.
    FeedHead = 0x10,
    /// One feed entry.
    Feed = 0x11,
    /// A document's head row.
    Head = 0x12,
    /// One change.
    Change = 0x13,
    /// One version of a document as a whole.
    Snapshot = 0x14,
    /// What a peer and this store hold of each other.
    Peer = 0x15,
    /// A document of which something was lost.
    Damage = 0x16,
    /// The bytes of a damaged record.
    Quarantine = 0x17,
    /// A row of the derived index.
    Index = 0x18,
    /// How far the index follows the feed.
    IndexState = 0x19,
}

impl Key {
    fn new(kind: KeyKind, parts: &[&[u8]]) -> Self {
        let mut bytes = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
        bytes.push(kind as u8);
        for part in parts {
            bytes.extend_from_slice(part);
        }
        Self(bytes)
    }

    /// Takes the bytes of a key read from a store, unchecked.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The encoded key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A store-wide fact.
    pub fn meta(name: u8) -> Self {
        Self::new(KeyKind::Meta, &[&[name]])
    }

    /// A workspace shared with a peer.
    pub fn share(peer: &PeerId, workspace: &WorkspaceId) -> Self {
        Self::new(KeyKind::Share, &[peer.as_bytes(), workspace.as_bytes()])
    }

    /// An invitation, by the SHA-256 of its secret.
    pub fn invite(secret_hash: &[u8; 32]) -> Self {
        Self::new(KeyKind::Invite, &[secret_hash])
    }

    /// A member known to this server, by the SHA-256 of the name as it was given.
    pub fn member(name_hash: &[u8; 32]) -> Self {
        Self::new(KeyKind::Member, &[name_hash])
    }

    /// A workspace held here.
    pub fn workspace(workspace: &WorkspaceId) -> Self {
        Self::new(KeyKind::Workspace, &[workspace.as_bytes()])
    }

    /// The end of a workspace's feed.
    pub fn feed_head(workspace: &WorkspaceId) -> Self {
        Self::new(KeyKind::FeedHead, &[workspace.as_bytes()])
    }

    /// One feed entry.
    pub fn feed(workspace: &WorkspaceId, seq: FeedSeq) -> Self {
        Self::new(KeyKind::Feed, &[workspace.as_bytes(), &seq.0.to_be_bytes()])
    }

    /// A document's head row.
    pub fn head(workspace: &WorkspaceId, document: &DocumentId) -> Self {
        Self::new(KeyKind::Head, &[workspace.as_bytes(), document.as_bytes()])
    }

    /// One change of a document.
    pub fn change(workspace: &WorkspaceId, document: &DocumentId, hash: &ChangeHash) -> Self {
        Self::new(
            KeyKind::Change,
            &[workspace.as_bytes(), document.as_bytes(), hash.as_bytes()],
        )
    }

    /// One version of a document as a whole.
    pub fn snapshot(workspace: &WorkspaceId, document: &DocumentId, hash: &SnapshotHash) -> Self {
        Self::new(
            KeyKind::Snapshot,
            &[workspace.as_bytes(), document.as_bytes(), hash.as_bytes()],
        )
    }

    /// What a peer and this store hold of each other in a workspace.
    pub fn peer(workspace: &WorkspaceId, peer: &PeerId) -> Self {
        Self::new(KeyKind::Peer, &[workspace.as_bytes(), peer.as_bytes()])
    }

    /// What was lost of a document.
    pub fn damage(workspace: &WorkspaceId, document: &DocumentId) -> Self {
        Self::new(
            KeyKind::Damage,
            &[workspace.as_bytes(), document.as_bytes()],
        )
    }

    /// The bytes of a damaged record, by the SHA-256 of its key and bytes.
    pub fn quarantine(workspace: &WorkspaceId, hash: &[u8; 32]) -> Self {
        Self::new(KeyKind::Quarantine, &[workspace.as_bytes(), hash])
    }

    /// A row of the derived index.
    pub fn index(workspace: &WorkspaceId, kind: DocumentKind, document: &DocumentId) -> Self {
        Self::new(
            KeyKind::Index,
            &[workspace.as_bytes(), &[kind.0], document.as_bytes()],
        )
    }

    /// How far a workspace's index follows its feed.
    pub fn index_state(workspace: &WorkspaceId) -> Self {
        Self::new(KeyKind::IndexState, &[workspace.as_bytes()])
    }

    /// The document that a head, change, snapshot, damage or index key names.
    pub fn document(&self) -> Option<DocumentId> {
        let tail: [u8; 16] = match self.kind()? {
            KeyKind::Head | KeyKind::Damage if self.0.len() == 33 => {
                self.0[17..33].try_into().ok()?
            }
            KeyKind::Change | KeyKind::Snapshot if self.0.len() == 65 => {
                self.0[17..33].try_into().ok()?
            }
            KeyKind::Index if self.0.len() == 34 => self.0[18..34].try_into().ok()?,
            _ => return None,
        };
        Some(DocumentId::from_bytes(tail))
    }

    /// The hash at the end of a snapshot key.
    pub fn snapshot_hash(&self) -> Option<SnapshotHash> {
        if self.kind()? != KeyKind::Snapshot || self.0.len() != 65 {
            return None;
        }
        self.0[33..65].try_into().ok().map(SnapshotHash::from_bytes)
    }

    /// The workspace, kind and document of an index key.
    pub fn index_place(&self) -> Option<(WorkspaceId, DocumentKind, DocumentId)> {
        if self.kind()? != KeyKind::Index {
            return None;
        }
        let document = self.document()?;
        let workspace = self.0[1..17].try_into().ok()?;
        let kind = DocumentKind(self.0[17]);
        Some((WorkspaceId::from_bytes(workspace), kind, document))
    }

    /// The hash at the end of a change key.
    pub fn change_hash(&self) -> Option<ChangeHash> {
        if self.kind()? != KeyKind::Change || self.0.len() != 65 {
            return None;
        }
        self.0[33..65].try_into().ok().map(ChangeHash::from_bytes)
    }

    /// The place at the end of a feed key.
    pub fn feed_seq(&self) -> Option<FeedSeq> {
        if self.kind()? != KeyKind::Feed || self.0.len() != 25 {
            return None;
        }
        let bytes = self.0[17..25].try_into().ok()?;
        Some(FeedSeq(u64::from_be_bytes(bytes)))
    }

    /// The peer and the workspace of a share key.
    pub fn share_parts(&self) -> Option<(PeerId, WorkspaceId)> {
        if self.kind()? != KeyKind::Share || self.0.len() != 49 {
            return None;
        }
        let peer = self.0[1..33].try_into().ok().map(PeerId::from_bytes)?;
        Some((peer, self.workspace_id()?))
    }

    /// The workspace at the end of a share, workspace or feed head key.
    pub fn workspace_id(&self) -> Option<WorkspaceId> {
        let start = match (self.kind()?, self.0.len()) {
            (KeyKind::Share, 49) => 33,
            (KeyKind::Workspace | KeyKind::FeedHead, 17) => 1,
            _ => return None,
        };
        self.0[start..start + 16]
            .try_into()
            .ok()
            .map(WorkspaceId::from_bytes)
    }

    /// The peer at the end of a peer key.
    pub fn peer_id(&self) -> Option<PeerId> {
        if self.kind()? != KeyKind::Peer || self.0.len() != 49 {
            return None;
        }
        self.0[17..49].try_into().ok().map(PeerId::from_bytes)
    }

    /// The kind of record this key names; `None` for a kind this version does not know.
    pub fn kind(&self) -> Option<KeyKind> {
        const KINDS: [KeyKind; 15] = [
            KeyKind::Meta,
            KeyKind::Share,
            KeyKind::Invite,
            KeyKind::Member,
            KeyKind::Workspace,
            KeyKind::FeedHead,
            KeyKind::Feed,
            KeyKind::Head,
            KeyKind::Change,
            KeyKind::Snapshot,
            KeyKind::Peer,
            KeyKind::Damage,
            KeyKind::Quarantine,
            KeyKind::Index,
            KeyKind::IndexState,
        ];
        let first = *self.0.first()?;
        KINDS.into_iter().find(|kind| *kind as u8 == first)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind() {
            Some(kind) => write!(f, "{kind:?}/")?,
            None => write!(f, "{:02x}/", self.0.first().copied().unwrap_or_default())?,
        }
        self.0
            .iter()
            .skip(1)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A half-open range of keys, `start <= key < end`, in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key that begins with `prefix`.
    fn prefix(prefix: Key) -> Self {
        let end = prefix_successor(&prefix.0);
        Self {
            start: prefix.0,
            end,
        }
    }

    /// The keys from `start` up to, not including, `end`; up to the last key without one.
    pub fn new(start: Vec<u8>, end: Option<Vec<u8>>) -> Self {
        Self { start, end }
    }

    /// The feed entries of a workspace after `seq`.
    pub fn feed_after(workspace: &WorkspaceId, seq: FeedSeq) -> Self {
        let mut range = Self::prefix(Key::new(KeyKind::Feed, &[workspace.as_bytes()]));
        range.start = Key::feed(workspace, seq.next()).0;
        range
    }

    /// The head rows of a workspace, by document id.
    pub fn heads(workspace: &WorkspaceId) -> Self {
        Self::prefix(Key::new(KeyKind::Head, &[workspace.as_bytes()]))
    }

    /// The documents of a workspace of which something was lost, by id.
    pub fn damages(workspace: &WorkspaceId) -> Self {
        Self::prefix(Key::new(KeyKind::Damage, &[workspace.as_bytes()]))
    }

    /// The quarantined bytes of a workspace.
    pub fn quarantined(workspace: &WorkspaceId) -> Self {
        Self::prefix(Key::new(KeyKind::Quarantine, &[workspace.as_bytes()]))
    }

    /// A single key.
    pub fn one(key: &Key) -> Self {
        let start = key.0.clone();
        let mut end = start.clone();
        end.push(0);
        Self {
            start,
            end: Some(end),
        }
    }

    /// The whole feed of a workspace.
    pub fn feed(workspace: &WorkspaceId) -> Self {
        Self::prefix(Key::new(KeyKind::Feed, &[workspace.as_bytes()]))
    }

    /// The changes of a document, by hash.
    pub fn changes(workspace: &WorkspaceId, document: &DocumentId) -> Self {
        Self::prefix(Key::new(
            KeyKind::Change,
            &[workspace.as_bytes(), document.as_bytes()],
        ))
    }

    /// The snapshots of a document, by hash.
    pub fn snapshots(workspace: &WorkspaceId, document: &DocumentId) -> Self {
        Self::prefix(Key::new(
            KeyKind::Snapshot,
            &[workspace.as_bytes(), document.as_bytes()],
        ))
    }

    /// Every index row of a workspace.
    pub fn index_rows(workspace: &WorkspaceId) -> Self {
        Self::prefix(Key::new(KeyKind::Index, &[workspace.as_bytes()]))
    }

    /// The index rows of one kind of document, by document id.
    pub fn index(workspace: &WorkspaceId, kind: DocumentKind) -> Self {
        Self::prefix(Key::new(KeyKind::Index, &[workspace.as_bytes(), &[kind.0]]))
    }

    /// The workspaces shared with a peer.
    pub fn shares_of(peer: &PeerId) -> Self {
        Self::prefix(Key::new(KeyKind::Share, &[peer.as_bytes()]))
    }

    /// Every member that a server knows.
    pub fn members() -> Self {
        Self::prefix(Key::new(KeyKind::Member, &[]))
    }

    /// Every share, by peer and workspace.
    pub fn shares() -> Self {
        Self::prefix(Key::new(KeyKind::Share, &[]))
    }

    /// All that is stored of one workspace's documents, and of what peers hold of them: everything
    /// under the workspace but its own record and its shares.
    pub fn contents_of(workspace: &WorkspaceId) -> Vec<Self> {
        const KINDS: [KeyKind; 10] = [
            KeyKind::Index,
            KeyKind::IndexState,
            KeyKind::Quarantine,
            KeyKind::Damage,
            KeyKind::Peer,
            KeyKind::Change,
            KeyKind::Snapshot,
            KeyKind::Head,
            KeyKind::Feed,
            // Last: while it is there, the rest is known to be unfinished business.
            KeyKind::FeedHead,
        ];
        KINDS
            .into_iter()
            .map(|kind| Self::prefix(Key::new(kind, &[workspace.as_bytes()])))
            .collect()
    }

    /// Every workspace held here.
    pub fn workspaces() -> Self {
        Self::prefix(Key::new(KeyKind::Workspace, &[]))
    }

    /// What each peer holds in a workspace.
    pub fn peers(workspace: &WorkspaceId) -> Self {
        Self::prefix(Key::new(KeyKind::Peer, &[workspace.as_bytes()]))
    }

    /// The part of this range after `key`.
    #[must_use]
    pub fn after(&self, key: &Key) -> Self {
        let mut start = key.0.clone();
        start.push(0);
        Self {
            start: start.max(self.start.clone()),
            end: self.end.clone(),
        }
    }

    /// The part of this range before `key`.
    #[must_use]
    pub fn before(&self, key: &Key) -> Self {
        let end = match &self.end {
            Some(end) if *end <= key.0 => end.clone(),
            _ => key.0.clone(),
        };
        Self {
            start: self.start.clone(),
            end: Some(end),
        }
    }

    /// First key of the range, if it exists.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// First key past the range; `None` if the range has no end.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }
}

/// The smallest byte string greater than every string that begins with `prefix`; `None` if there
/// is none (a prefix of 0xFF bytes only).
fn prefix_successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut successor = prefix[..=last].to_vec();
    successor[last] += 1;
    Some(successor)
}

#[cfg(test)]
mod tests;
