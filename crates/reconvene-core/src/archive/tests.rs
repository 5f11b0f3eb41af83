//! Archives: the bytes of version 1, that whole ones come back as they were, and that nothing else
//! is taken for whole.

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};

use super::*;
use crate::golden::{self, Vector};
use crate::guard::ActorId;
use crate::ids::{DocumentId, DocumentKind, MemberId, PeerId, WorkspaceId};
use crate::time::WallTime;
use crate::wire::{KnownActor, Purged};

const MARK: Mark = *b"\xd1marked\x07";

fn about() -> Piece {
    Piece::About(About {
        created_at: WallTime::from_millis(1_700_000_000_123),
        peer: PeerId::from_bytes([1; 32]),
        device_name: "laptop".to_owned(),
        is_server: false,
        member: MemberId::from_bytes([2; 16]),
        member_name: "Ada".to_owned(),
        home: WorkspaceId::from_bytes([3; 16]),
        current: Some(WorkspaceId::from_bytes([4; 16])),
        servers: vec![ArchivedServer {
            peer: PeerId::from_bytes([5; 32]),
            addresses: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
        }],
        only: None,
    })
}

fn document(number: u8, snapshots: u32, changes: u64) -> Piece {
    Piece::Document(ArchivedDocument {
        workspace: WorkspaceId::from_bytes([4; 16]),
        document: DocumentId::from_bytes([number; 16]),
        kind: DocumentKind(2),
        snapshots,
        changes,
        purged: None,
    })
}

fn body(number: u8, chunk: Vec<u8>) -> Body {
    Body {
        workspace: WorkspaceId::from_bytes([4; 16]),
        document: DocumentId::from_bytes([number; 16]),
        kind: DocumentKind(2),
        chunk: chunk.into(),
    }
}

/// One of each.
fn pieces() -> Vec<Piece> {
    let purged = Purged {
        at: WallTime::from_millis(1_600_000_000_000),
        known: vec![KnownActor {
            actor: ActorId::from_bytes(&[7; 16]).unwrap(),
            seq: 3,
            beyond: vec![5, 9],
        }],
    };
    let tombstone = ArchivedDocument {
        workspace: WorkspaceId::from_bytes([4; 16]),
        document: DocumentId::from_bytes([6; 16]),
        kind: DocumentKind(3),
        snapshots: 0,
        changes: 0,
        purged: Some(purged),
    };
    vec![
        about(),
        Piece::File(FilePart {
            name: "identity.key".to_owned(),
            part: vec![9; 5].into(),
        }),
        Piece::Workspace(ArchivedWorkspace {
            id: WorkspaceId::from_bytes([4; 16]),
            name: "research".to_owned(),
            created_at: WallTime::from_millis(1_500_000_000_000),
            home_of: None,
            server: Some(PeerId::from_bytes([5; 32])),
        }),
        document(1, 1, 2),
        Piece::Snapshot(body(1, vec![0x85; 40])),
        Piece::Change(body(1, vec![0x86; 20])),
        // What looks like an archive inside of one is none.
        Piece::Change(body(1, [&MAGIC[..], &[0; 40]].concat())),
        document(2, 0, 1),
        Piece::Change(body(2, Vec::new())),
        Piece::Document(tombstone),
        Piece::Damage(DamageNote {
            workspace: Some(WorkspaceId::from_bytes([4; 16])),
            document: None,
            record: "Head".to_owned(),
            what: "its checksum does not match".to_owned(),
        }),
    ]
}

fn encode(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::begin(MARK, &mut bytes);
    for piece in pieces {
        encoder.put(piece, &mut bytes).unwrap();
    }
    encoder.end(&mut bytes);
    bytes
}

/// Everything a decoder finds, fed in portions of this size.
fn decode(mut decoder: Decoder, bytes: &[u8], portion: usize) -> Result<Vec<Found>, ArchiveError> {
    let mut all = Vec::new();
    let mut portions = bytes.chunks(portion);
    loop {
        if let Some(found) = decoder.next_found()? {
            all.push(found);
        } else if let Some(portion) = portions.next() {
            decoder.feed(portion);
        } else if !decoder.is_complete() {
            decoder.finish();
        } else {
            return Ok(all);
        }
    }
}

/// The pieces that are found in salvage, without the last; and whether anything was told as lost.
fn salvage(bytes: &[u8]) -> Result<(Vec<Piece>, bool), ArchiveError> {
    let found = decode(Decoder::salvaging(), bytes, 64)?;
    let is_lost = |found: &Found| !matches!(found, Found::Piece { .. });
    let has_lost = found.iter().any(is_lost);
    let pieces = found.into_iter().filter_map(|found| match found {
        Found::Piece { piece, .. } => Some(piece),
        _ => None,
    });
    let pieces = pieces.filter(|piece| !matches!(piece, Piece::End(_)));
    Ok((pieces.collect(), has_lost))
}

/// Whether these are some of those, in their order.
fn is_part(some: &[Piece], of: &[Piece]) -> bool {
    let mut of = of.iter();
    some.iter().all(|piece| of.any(|other| other == piece))
}

#[test]
fn the_bytes_of_an_archive_are_the_same_for_ever() {
    let pieces = pieces();
    let vector = Vector {
        name: "one of each piece".to_owned(),
        value: format!("{pieces:?}"),
        bytes: encode(&pieces),
    };
    let about = "an archive of version 1, under a mark of its own";
    for bytes in golden::check("archive.json", about, &[vector]) {
        let (found, has_lost) = salvage(&bytes).unwrap();
        assert_eq!((found, has_lost), (pieces.clone(), false));
    }
}

#[test]
fn pieces_come_back_in_whatever_portions_the_bytes_come() {
    let bytes = encode(&pieces());
    for portion in [1, 2, 7, 100, bytes.len()] {
        let found = decode(Decoder::strict(), &bytes, portion).unwrap();
        assert_eq!(found.len(), pieces().len() + 1);
        for (found, expected) in found.iter().zip(pieces()) {
            assert!(matches!(found, Found::Piece { piece, .. } if *piece == expected));
        }
        let Some(Found::Piece {
            piece: Piece::End(end),
            ..
        }) = found.last()
        else {
            panic!("the last piece ends it");
        };
        assert_eq!(end.pieces, pieces().len() as u64);
        assert_eq!((end.documents, end.snapshots, end.changes), (3, 1, 3));
        assert_eq!(
            found,
            decode(Decoder::salvaging(), &bytes, portion).unwrap()
        );
    }
}

#[test]
fn every_truncation_is_refused_and_salvaged_as_far_as_it_goes() {
    let bytes = encode(&pieces());
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        let refused = decode(Decoder::strict(), cut, 64).unwrap_err();
        match length {
            0 => assert_eq!(refused, ArchiveError::NotAnArchive),
            _ => assert!(
                matches!(refused, ArchiveError::Truncated { bytes, .. } if bytes == length as u64),
                "{length}: {refused:?}"
            ),
        }
        match salvage(cut) {
            Ok((found, has_lost)) => {
                assert!(has_lost, "{length}");
                let whole = found.len();
                assert_eq!(found, pieces()[..whole], "{length}");
            }
            Err(_) => assert!(length < HEADER_BYTES + HEAD_BYTES, "{length}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_and_costs_no_more_than_its_piece() {
    let bytes = encode(&pieces());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let refused = decode(Decoder::strict(), &flipped, 64).unwrap_err();
            match refused {
                ArchiveError::NotAnArchive => assert!(at < MAGIC.len()),
                ArchiveError::Damaged { offset, .. } => {
                    assert!(offset <= at as u64, "{at}: {offset}");
                }
                other => panic!("byte {at}, bit {bit}: {other}"),
            }
            let (found, has_lost) = salvage(&flipped).unwrap();
            assert!(has_lost, "byte {at}, bit {bit}");
            assert!(is_part(&found, &pieces()), "byte {at}, bit {bit}");
            assert!(found.len() + 1 >= pieces().len(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn what_is_lost_is_told_with_its_place_and_its_documents() {
    let whole = pieces();
    let mut begun = Vec::new();
    let mut encoder = Encoder::begin(MARK, &mut begun);
    let mut offsets = vec![begun.len()];
    for piece in &whole {
        encoder.put(piece, &mut begun).unwrap();
        offsets.push(begun.len());
    }
    let mut bytes = encode(&whole);
    // The first change of document 1, and the piece that announces document 2.
    bytes[offsets[5] + 40] ^= 1;
    bytes[offsets[7] + 3] ^= 1;
    let found = decode(Decoder::salvaging(), &bytes, 50).unwrap();
    let lost: Vec<_> = found
        .iter()
        .filter_map(|found| match found {
            Found::Lost(lost) => Some((lost.offset, lost.bytes, lost.pieces)),
            _ => None,
        })
        .collect();
    let stretch = |from: usize| {
        (
            offsets[from] as u64,
            (offsets[from + 1] - offsets[from]) as u64,
        )
    };
    let expected = [5, 7].map(|piece| {
        let (offset, bytes) = stretch(piece);
        (offset, bytes, 1)
    });
    assert_eq!(lost, expected);
    let incomplete: Vec<_> = found
        .iter()
        .filter_map(|found| match found {
            Found::Incomplete(lacking) => Some((lacking.document, lacking.changes)),
            _ => None,
        })
        .collect();
    // That the second one is gone whole is told by what announced it.
    assert_eq!(incomplete, [(DocumentId::from_bytes([1; 16]), 1)]);
}

#[test]
fn a_number_that_no_piece_can_have_is_damage() {
    let whole = pieces();
    let mut begun = Vec::new();
    let mut encoder = Encoder::begin(MARK, &mut begun);
    encoder.put(&whole[0], &mut begun).unwrap();
    let second = begun.len();
    let mut bytes = encode(&whole);
    for number in [u64::MAX, crate::limits::ARCHIVE_PIECES_MAX] {
        bytes[second + 8..second + 16].copy_from_slice(&number.to_be_bytes());
        let checksum = crc32fast::hash(&bytes[second..second + 21]).to_be_bytes();
        bytes[second + 21..second + 25].copy_from_slice(&checksum);
        let refused = decode(Decoder::strict(), &bytes, 64).unwrap_err();
        assert!(
            matches!(refused, ArchiveError::Damaged { piece: 1, .. }),
            "{refused}"
        );
        // All others are found.
        let (found, has_lost) = salvage(&bytes).unwrap();
        assert_eq!((found.len(), has_lost), (whole.len() - 1, true));
    }
}

#[test]
fn a_later_version_is_refused_also_in_salvage() {
    let mut bytes = encode(&pieces());
    bytes[8..12].copy_from_slice(&2_u32.to_be_bytes());
    let checksum = crc32fast::hash(&bytes[..20]);
    bytes[20..24].copy_from_slice(&checksum.to_be_bytes());
    let too_new = ArchiveError::TooNew {
        found: 2,
        supported: 1,
    };
    for decoder in [Decoder::strict(), Decoder::salvaging()] {
        assert_eq!(decode(decoder, &bytes, 64), Err(too_new.clone()));
    }
    for none in [
        &b"PK\x03\x04 something else that is long enough to be looked at"[..],
        b"\n",
    ] {
        for decoder in [Decoder::strict(), Decoder::salvaging()] {
            assert_eq!(decode(decoder, none, 64), Err(ArchiveError::NotAnArchive));
        }
    }
}

#[test]
fn what_does_not_fit_together_is_refused_though_its_checksums_do() {
    let whole = pieces();
    let without = |place: usize| {
        let mut pieces = whole.clone();
        pieces.remove(place);
        decode(Decoder::strict(), &encode(&pieces), 64)
    };
    // The first piece, one that announces, one that was announced.
    for place in [0, 3, 5] {
        let refused = without(place);
        assert!(
            matches!(refused, Err(ArchiveError::Damaged { .. })),
            "{place}: {refused:?}"
        );
    }
    let twice = [vec![about()], whole].concat();
    let refused = decode(Decoder::strict(), &encode(&twice), 64);
    assert!(matches!(refused, Err(ArchiveError::Damaged { .. })));
    let mut followed = encode(&pieces());
    followed.push(0);
    let refused = decode(Decoder::strict(), &followed, 64);
    assert!(matches!(refused, Err(ArchiveError::Damaged { .. })));
    assert!(salvage(&followed).unwrap().1);
}

#[test]
fn a_piece_of_a_kind_that_is_not_known_is_passed_over() {
    let mut whole = pieces();
    whole.insert(3, Piece::Other(77));
    let bytes = encode(&whole);
    assert_eq!(salvage(&bytes), Ok((whole, false)));
    assert!(decode(Decoder::strict(), &bytes, 64).is_ok());
}

#[test]
fn no_piece_is_larger_than_one_may_be() {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::begin(MARK, &mut bytes);
    let before = bytes.len();
    let chunk = vec![0; crate::limits::ARCHIVE_PIECE_BYTES_MAX];
    let refused = encoder.put(&Piece::Change(body(1, chunk)), &mut bytes);
    assert!(matches!(refused, Err(ArchiveError::TooLarge { .. })));
    assert_eq!(bytes.len(), before);
}

/// A document and its bodies.
fn group() -> impl Strategy<Value = Vec<Piece>> {
    let chunk = || prop::collection::vec(any::<u8>(), 0..60);
    let chunks = move || prop::collection::vec(chunk(), 0..4);
    let whole = (any::<u8>(), chunks(), chunks()).prop_map(|(number, snapshots, changes)| {
        let announced = document(number, snapshots.len() as u32, changes.len() as u64);
        let snapshots = snapshots.into_iter();
        let snapshots = snapshots.map(move |chunk| Piece::Snapshot(body(number, chunk)));
        let changes = changes.into_iter();
        let changes = changes.map(move |chunk| Piece::Change(body(number, chunk)));
        [announced]
            .into_iter()
            .chain(snapshots)
            .chain(changes)
            .collect()
    });
    prop_oneof![4 => whole, 1 => Just(pieces()[1..3].to_vec()), 1 => Just(vec![pieces()[10].clone()])]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_archived_comes_back_and_loses_only_where_it_was_altered(
        groups in prop::collection::vec(group(), 0..8),
        portion in 1_usize..300,
        altered in prop::collection::vec((any::<u32>(), any::<u8>()), 1..4),
    ) {
        let pieces: Vec<_> = [about()].into_iter().chain(groups.concat()).collect();
        let mut bytes = encode(&pieces);
        let found = decode(Decoder::strict(), &bytes, portion).unwrap();
        let found: Vec<_> = found.into_iter().filter_map(|found| match found {
            Found::Piece { piece, .. } => Some(piece),
            _ => None,
        }).collect();
        assert_eq!(&found[..found.len() - 1], &pieces[..]);
        let before = bytes.clone();
        for (at, byte) in altered {
            let at = at as usize % bytes.len();
            bytes[at] = byte;
        }
        if bytes != before {
            assert!(decode(Decoder::strict(), &bytes, portion).is_err());
            if let Ok((found, has_lost)) = salvage(&bytes) {
                assert!(has_lost && is_part(&found, &pieces));
            }
        }
    }
}
