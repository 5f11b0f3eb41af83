//! Properties of keys that stores and scans rely on.

use super::{Key, KeyRange, prefix_successor};
use crate::golden::{self, Vector};
use crate::ids::{
    ChangeHash, DocumentId, DocumentKind, FeedSeq, PeerId, SnapshotHash, WorkspaceId,
};

#[test]
fn a_prefix_of_0xff_bytes_still_covers_its_keys() {
    let workspace = WorkspaceId::from_bytes([0xff; 16]);
    let key = Key::head(&workspace, &DocumentId::from_bytes([0xff; 16]));
    let range = KeyRange::heads(&workspace);
    assert!(range.start() <= key.as_bytes());
    assert!(range.end().is_some_and(|end| key.as_bytes() < end));
    assert_eq!(prefix_successor(&[0xff, 0xff]), None);
    assert_eq!(prefix_successor(&[1, 0xff]), Some(vec![2]));
}

#[test]
fn parts_of_a_key_read_back() {
    let workspace = WorkspaceId::from_bytes([7; 16]);
    let document = DocumentId::from_bytes([8; 16]);
    let hash = ChangeHash::from_bytes([9; 32]);
    let peer = PeerId::from_bytes([3; 32]);
    assert_eq!(Key::head(&workspace, &document).document(), Some(document));
    assert_eq!(
        Key::index(&workspace, DocumentKind(2), &document).document(),
        Some(document)
    );
    assert_eq!(
        Key::change(&workspace, &document, &hash).change_hash(),
        Some(hash)
    );
    assert_eq!(
        Key::index(&workspace, DocumentKind(2), &document).index_place(),
        Some((workspace, DocumentKind(2), document))
    );
    assert_eq!(Key::head(&workspace, &document).index_place(), None);
    assert_eq!(Key::index_state(&workspace).index_place(), None);
    assert_eq!(
        Key::feed(&workspace, FeedSeq(258)).feed_seq(),
        Some(FeedSeq(258))
    );
    assert_eq!(
        Key::share(&peer, &workspace).workspace_id(),
        Some(workspace)
    );
    assert_eq!(Key::workspace(&workspace).workspace_id(), Some(workspace));
    assert_eq!(Key::workspace(&workspace).document(), None);
}

#[test]
fn feed_keys_order_by_seq() {
    let workspace = WorkspaceId::from_bytes([7; 16]);
    assert!(Key::feed(&workspace, FeedSeq(255)) < Key::feed(&workspace, FeedSeq(256)));
    let range = KeyRange::feed_after(&workspace, FeedSeq(255));
    assert_eq!(
        range.start(),
        Key::feed(&workspace, FeedSeq(256)).as_bytes()
    );
}

/// Bytes that count up from `first`.
fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|at| first.wrapping_add(at as u8))
}

#[test]
fn keys_are_those_of_version_1() {
    let workspace = WorkspaceId::from_bytes(counting(0x10));
    let document = DocumentId::from_bytes(counting(0x30));
    let hash = ChangeHash::from_bytes(counting(0x50));
    let snapshot = SnapshotHash::from_bytes(counting(0x60));
    let peer = PeerId::from_bytes(counting(0x80));
    let bytes = counting(0xa0);
    let seq = FeedSeq(0x0102_0304_0506_0708);
    let ids = format!("workspace {workspace}");
    let keys = [
        (Key::meta(1), "name 1".to_owned()),
        (Key::share(&peer, &workspace), format!("peer {peer}, {ids}")),
        (Key::invite(&bytes), "hash a0a1..bf".to_owned()),
        (Key::member(&bytes), "hash a0a1..bf".to_owned()),
        (Key::workspace(&workspace), ids.clone()),
        (Key::feed_head(&workspace), ids.clone()),
        (Key::feed(&workspace, seq), format!("{ids}, entry {seq}")),
        (
            Key::head(&workspace, &document),
            format!("{ids}, document {document}"),
        ),
        (
            Key::change(&workspace, &document, &hash),
            format!("{ids}, document {document}, change {hash}"),
        ),
        (
            Key::snapshot(&workspace, &document, &snapshot),
            format!("{ids}, document {document}, snapshot {snapshot}"),
        ),
        (Key::peer(&workspace, &peer), format!("{ids}, peer {peer}")),
        (
            Key::damage(&workspace, &document),
            format!("{ids}, document {document}"),
        ),
        (
            Key::quarantine(&workspace, &bytes),
            format!("{ids}, hash a0a1..bf"),
        ),
        (
            Key::index(&workspace, DocumentKind(2), &document),
            format!("{ids}, kind 2, document {document}"),
        ),
        (Key::index_state(&workspace), ids.clone()),
    ];
    let vectors: Vec<_> = keys
        .iter()
        .map(|(key, value)| Vector {
            name: format!("{:?}", key.kind().unwrap()),
            value: value.clone(),
            bytes: key.as_bytes().to_vec(),
        })
        .collect();
    let about = "one key of each kind: the kind's byte, then the named parts; numbers big-endian";
    let committed = golden::check("keys.json", about, &vectors);
    for ((key, _), bytes) in keys.iter().zip(&committed) {
        assert_eq!(Key::from_bytes(bytes.clone()), *key);
    }
    // No kind is left out, and no key is a prefix of another.
    let mut kinds: Vec<_> = committed.iter().map(|key| key[0]).collect();
    kinds.dedup();
    let known = (0..=u8::MAX).filter(|kind| Key::from_bytes(vec![*kind]).kind().is_some());
    assert!(known.eq(kinds));
}
