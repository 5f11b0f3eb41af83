//! The digests every replica must compute alike.

use super::{Digest, FeedPoint, heads_digest};
use crate::golden::{self, Vector};
use crate::ids::{ChangeHash, DocumentId, FeedSeq, StoreEpoch};

fn document(byte: u8) -> DocumentId {
    DocumentId::from_bytes([byte; 16])
}

fn hash(byte: u8) -> ChangeHash {
    ChangeHash::from_bytes([byte; 32])
}

fn texts(hashes: &[ChangeHash]) -> String {
    let texts: Vec<_> = hashes.iter().map(ChangeHash::to_string).collect();
    format!("[{}]", texts.join(", "))
}

#[test]
fn digests_are_those_of_version_1() {
    let mut vectors = Vec::new();
    let mut point = FeedPoint::start_of(StoreEpoch::from_bytes([1; 16]));
    for (number, hashes) in [(2, vec![3]), (2, vec![4, 5]), (6, vec![])] {
        let changes: Vec<_> = hashes.into_iter().map(hash).collect();
        let before = point.digest;
        point = point.advance(&document(number), changes.iter().copied());
        vectors.push(Vector {
            name: format!("running digest after entry {}", point.seq),
            value: format!(
                "digest {before}, document {}, changes {}",
                document(number),
                texts(&changes),
            ),
            bytes: point.digest.as_bytes().to_vec(),
        });
    }
    assert_eq!(point.seq, FeedSeq(3));
    for heads in [vec![], vec![hash(1)], vec![hash(1), hash(0xff)]] {
        vectors.push(Vector {
            name: format!("digest of {} heads", heads.len()),
            value: texts(&heads),
            bytes: heads_digest(&heads).as_bytes().to_vec(),
        });
    }
    let about = "first 16 bytes of SHA-256; an entry's of \"reconvene/feed/1\" || digest before || \
                 document || changes, heads' of \"reconvene/heads/1\" || heads in ascending order";
    let committed = golden::check("digests.json", about, &vectors);
    assert_eq!(
        Digest::from_bytes(committed[2][..].try_into().unwrap()),
        point.digest
    );
}

#[test]
fn a_digest_depends_on_the_order_of_entries_and_changes() {
    let start = FeedPoint::start_of(StoreEpoch::from_bytes([1; 16]));
    let two = |first: u8, second: u8| {
        let point = start.advance(&document(first), [hash(1)]);
        point.advance(&document(second), [hash(1)]).digest
    };
    assert_ne!(two(1, 2), two(2, 1));
    let one = |hashes: [u8; 2]| start.advance(&document(1), hashes.map(hash)).digest;
    assert_ne!(one([1, 2]), one([2, 1]));
}
