//! Properties of keys that stores and scans rely on.

use super::{Key, KeyRange, prefix_successor};
use crate::ids::{ChangeHash, DocumentId, DocumentKind, FeedSeq, PeerId, WorkspaceId};

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
