//! Stored records: the bytes of version 1, and that no bytes make a decoder panic.

use std::fmt::Debug;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;
use crate::golden::{self, Vector};

type Expects = Box<dyn Fn(&[u8])>;

/// A record whose bytes are committed.
struct Case {
    vector: Vector,
    /// Decodes committed bytes and compares.
    expects: Expects,
    /// Decodes any bytes; what comes of it is encoded again.
    tries: fn(&[u8]) -> bool,
}

fn case<R: Record + PartialEq + Debug + 'static>(name: &str, record: R) -> Case {
    Case {
        vector: Vector {
            name: format!("{}, {name}", R::NAME),
            value: format!("{record:?}"),
            bytes: record.encode().to_vec(),
        },
        expects: Box::new(move |bytes| {
            let decoded = R::decode(bytes).unwrap();
            assert_eq!(decoded, record);
            assert_eq!(decoded.encode(), bytes, "{record:?}");
        }),
        tries: |bytes| {
            let decoded = R::decode(bytes);
            let is_ok = decoded.is_ok();
            if let Ok(record) = decoded {
                // What decodes is the same after another round.
                assert_eq!(R::decode(&record.encode()), Ok(record));
            }
            is_ok
        },
    }
}

fn workspace(byte: u8) -> WorkspaceId {
    WorkspaceId::from_bytes([byte; 16])
}

fn document(byte: u8) -> DocumentId {
    DocumentId::from_bytes([byte; 16])
}

fn member(byte: u8) -> MemberId {
    MemberId::from_bytes([byte; 16])
}

fn peer(byte: u8) -> PeerId {
    PeerId::from_bytes([byte; 32])
}

fn hash(byte: u8) -> ChangeHash {
    ChangeHash::from_bytes([byte; 32])
}

fn point(seq: u64) -> FeedPoint {
    FeedPoint {
        epoch: StoreEpoch::from_bytes([0xe0; 16]),
        seq: FeedSeq(seq),
        digest: Digest::from_bytes([0xd0; 16]),
    }
}

const TIME: WallTime = WallTime::from_millis(1_700_000_000_123);

fn cases() -> Vec<Case> {
    let actor = |byte: u8, length: usize| ActorId::from_bytes(&vec![byte; length]).unwrap();
    let progress = |last_seq, beyond: &[u64]| ActorProgress {
        last_seq,
        beyond: beyond.iter().copied().collect(),
    };
    let full = HeadRow {
        kind: DocumentKind(2),
        heads: BTreeSet::from([hash(1), hash(2)]),
        feed_seq: FeedSeq(300),
        actors: BTreeMap::from([
            (actor(0xa0, 16), progress(7, &[9, 1_000])),
            (actor(0xa1, 64), progress(u64::MAX, &[])),
        ]),
        missing: BTreeSet::from([hash(3)]),
        change_count: 9,
        change_bytes: 123_456,
        snapshots: Vec::new(),
        head_max_ops: BTreeMap::new(),
        actor_max_ops: BTreeMap::new(),
        operations: 0,
        purged_at: None,
    };
    let snapshot = |byte| SnapshotRef {
        hash: SnapshotHash::from_bytes([byte; 32]),
        size: 4_321,
        changes: 20_000,
    };
    let compacted = HeadRow {
        snapshots: vec![snapshot(7), snapshot(8)],
        ..full.clone()
    };
    let counted = HeadRow {
        head_max_ops: BTreeMap::from([(hash(2), 70_000)]),
        actor_max_ops: BTreeMap::from([(actor(0xa1, 64), 300)]),
        operations: 70_001,
        ..full.clone()
    };
    let mut purged = counted.clone();
    purged.purge(TIME);
    vec![
        case(
            "without an envelope",
            ChangeRow {
                body: Bytes::from_static(b"chunk"),
                envelope: Bytes::new(),
            },
        ),
        case(
            "with an envelope",
            ChangeRow {
                body: Bytes::from_static(b"chunk"),
                envelope: Bytes::from_static(b"envelope"),
            },
        ),
        case("full", full),
        case("with snapshots", compacted),
        case(
            "full",
            SnapshotRow {
                body: Bytes::from_static(b"a document chunk"),
            },
        ),
        case("empty", HeadRow::empty(DocumentKind(1))),
        case("purged", purged),
        case("counted", counted),
        case(
            "full",
            FeedHeadRow {
                point: point(300),
                documents: 12,
                compacted: FeedSeq(0),
            },
        ),
        case(
            "with gaps",
            FeedHeadRow {
                point: point(300),
                documents: 12,
                compacted: FeedSeq(280),
            },
        ),
        case(
            "compacted",
            FeedRow {
                document: document(1),
                kind: DocumentKind(2),
                changes: Vec::new(),
                origin: Some(peer(3)),
                digest: Digest::from_bytes([4; 16]),
                snapshot: Some(snapshot(9)),
                previous: FeedSeq(70),
                purged: None,
            },
        ),
        case(
            "of a purge",
            FeedRow {
                document: document(1),
                kind: DocumentKind(2),
                changes: Vec::new(),
                origin: None,
                digest: Digest::from_bytes([4; 16]),
                snapshot: None,
                previous: FeedSeq(70),
                purged: Some(300),
            },
        ),
        case(
            "from a peer",
            FeedRow {
                document: document(1),
                kind: DocumentKind(255),
                changes: vec![(hash(2), 200), (hash(1), u32::MAX)],
                origin: Some(peer(3)),
                digest: Digest::from_bytes([4; 16]),
                snapshot: None,
                previous: FeedSeq(0),
                purged: None,
            },
        ),
        case(
            "our own",
            FeedRow {
                document: document(1),
                kind: DocumentKind(0),
                changes: Vec::new(),
                origin: None,
                digest: Digest::default(),
                snapshot: None,
                previous: FeedSeq(0),
                purged: None,
            },
        ),
        case(
            "full",
            PeerRow {
                held: Some(point(1)),
                acknowledged: Some(point(u64::MAX)),
                refused_here: BTreeMap::from([
                    (document(1), RefusalCode::Damaged),
                    (document(2), RefusalCode::TooLarge),
                ]),
                refused_there: BTreeMap::from([(document(3), RefusalCode::Equivocation)]),
                verified_at: Some(TIME),
                ..PeerRow::default()
            },
        ),
        case(
            "of a peer that takes snapshots",
            PeerRow {
                takes_snapshots: true,
                ..PeerRow::default()
            },
        ),
        case("empty", PeerRow::default()),
        case(
            "of a server that relays",
            PeerRow {
                relayed: BTreeMap::from([
                    (peer(4), RelayedRow::default()),
                    (
                        peer(5),
                        RelayedRow {
                            held: Some(point(7)),
                            refused: BTreeMap::from([(document(1), RefusalCode::TooLarge)]),
                            refused_unlisted: 3,
                        },
                    ),
                ]),
                ..PeerRow::default()
            },
        ),
        case(
            "with more refusals than are listed",
            PeerRow {
                refused_here_unlisted: 300,
                refused_there_unlisted: 1,
                ..PeerRow::default()
            },
        ),
        case(
            "of a peer that offended",
            PeerRow {
                offences: vec![
                    Offence {
                        document: document(1),
                        hash: [7; 32],
                        size: 300_000,
                        what: "not an Automerge chunk".to_owned(),
                        at: TIME,
                        is_kept: false,
                    },
                    Offence::new(document(2), b"raw", "not an Automerge chunk", TIME),
                ],
                ..PeerRow::default()
            },
        ),
        case(
            "full",
            DamageRow {
                since: TIME,
                what: "a change has rotted".to_owned(),
                lost: BTreeSet::from([hash(1), hash(2)]),
                held: BTreeMap::from([(actor(0xa0, 16), progress(7, &[9, 1_000]))]),
                is_vague: false,
            },
        ),
        case(
            "vague",
            DamageRow {
                is_vague: true,
                ..DamageRow::default()
            },
        ),
        case(
            "a part",
            QuarantineRow {
                key: Bytes::from_static(b"key"),
                raw: Bytes::from_static(b"raw"),
                offset: 262_144,
                what: "it has rotted".to_owned(),
                at: TIME,
                peer: None,
            },
        ),
        case(
            "of an offence",
            QuarantineRow {
                key: Bytes::from_static(b"key"),
                raw: Bytes::from_static(b"raw"),
                offset: 0,
                what: "not an Automerge chunk".to_owned(),
                at: TIME,
                peer: Some(peer(4)),
            },
        ),
        case(
            "a member's home",
            WorkspaceRow {
                name: "Größe 会".to_owned(),
                created_at: TIME,
                home_of: Some(member(5)),
            },
        ),
        case(
            "shared",
            WorkspaceRow {
                name: String::new(),
                created_at: WallTime::from_millis(-1),
                home_of: None,
            },
        ),
        case(
            "full",
            ShareRow {
                member: member(5),
                device_name: "laptop".to_owned(),
                since: TIME,
                standing: Standing::Device,
            },
        ),
        case(
            "of a server",
            ShareRow {
                member: member(5),
                device_name: "laptop".to_owned(),
                since: TIME,
                standing: Standing::Server,
            },
        ),
        case(
            "learned",
            ShareRow {
                member: member(5),
                device_name: "laptop".to_owned(),
                since: TIME,
                standing: Standing::Learned(peer(9)),
            },
        ),
        case(
            "full",
            MemberRow {
                member: member(5),
                name: "Ada".to_owned(),
                home: workspace(6),
            },
        ),
        case("unused", invite(None)),
        case("used", invite(Some(peer(9)))),
        case(
            "full",
            IndexStateRow {
                seq: FeedSeq(300),
                state_version: 2,
                server_state_version: 0,
            },
        ),
        case(
            "with a server",
            IndexStateRow {
                seq: FeedSeq(300),
                state_version: 2,
                server_state_version: 7,
            },
        ),
        case(
            "of two documents",
            JournalFrame {
                workspace: workspace(1),
                epoch: StoreEpoch::from_bytes([2; 16]),
                seq: FeedSeq(300),
                documents: vec![
                    JournalDocument {
                        document: document(3),
                        kind: DocumentKind(1),
                        changes: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
                    },
                    JournalDocument {
                        document: document(4),
                        kind: DocumentKind(2),
                        changes: Vec::new(),
                    },
                ],
            },
        ),
    ]
}

fn invite(redeemed_by: Option<PeerId>) -> InviteRow {
    InviteRow {
        workspace: workspace(1),
        workspace_name: "team".to_owned(),
        member: member(2),
        member_name: "Ada".to_owned(),
        home: workspace(3),
        expires_at: TIME,
        redeemed_by,
    }
}

#[test]
fn records_are_those_of_version_1() {
    let cases = cases();
    let expects: Vec<_> = cases.iter().map(|case| &case.expects).collect();
    let about = "payloads of stored records, messages of schema/storage.proto; the values are in the \
                 notation of the core's types, hashes by their first four bytes";
    let vectors: Vec<_> = cases
        .iter()
        .map(|case| Vector {
            name: case.vector.name.clone(),
            value: case.vector.value.clone(),
            bytes: case.vector.bytes.clone(),
        })
        .collect();
    let committed = golden::check("records.json", about, &vectors);
    for (expects, bytes) in expects.into_iter().zip(committed) {
        expects(&bytes);
    }
}

#[test]
fn cut_and_mutated_records_are_errors_or_records() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut decoded, mut refused) = (0, 0);
    for case in cases() {
        let whole = &case.vector.bytes;
        let mut try_bytes = |bytes: &[u8]| {
            if (case.tries)(bytes) {
                decoded += 1;
            } else {
                refused += 1;
            }
        };
        for length in 0..whole.len() {
            try_bytes(&whole[..length]);
        }
        for _ in 0..300 {
            let mut mutated = whole.clone();
            for _ in 0..1 + rng.next_u32() % 3 {
                if !mutated.is_empty() {
                    let at = rng.next_u64() as usize % mutated.len();
                    mutated[at] = rng.next_u32() as u8;
                }
            }
            try_bytes(&mutated);
        }
    }
    assert!(decoded > 500 && refused > 500, "{decoded}, {refused}");
}

#[test]
fn fields_of_later_versions_are_ignored() {
    for case in cases() {
        let mut later = case.vector.bytes.clone();
        // Field 1000, a varint.
        later.extend_from_slice(&[0xc0, 0x3e, 7]);
        assert!((case.tries)(&later), "{}", case.vector.name);
    }
}

#[test]
fn progress_may_have_come_to_the_last_number_there_is() {
    let mut progress = ActorProgress {
        last_seq: u64::MAX - 2,
        beyond: BTreeSet::from([u64::MAX]),
    };
    progress.add(u64::MAX - 1);
    assert_eq!(progress.last_seq, u64::MAX);
    assert!(progress.beyond.is_empty());
    progress.add(u64::MAX);
    assert!(progress.holds(u64::MAX));
}

fn offence(number: u64, bytes: usize, at: i64) -> Offence {
    let raw = vec![u8::try_from(number % 251).unwrap(); bytes];
    Offence::new(document(1), &raw, "what", WallTime::from_millis(at))
}

#[test]
fn offences_are_kept_up_to_a_number_and_a_size_and_close_a_link_once() {
    let mut row = PeerRow::default();
    let hour = i64::try_from(limits::OFFENCES_REMEMBERED_FOR.as_millis()).unwrap();
    let first = row.offend(offence(0, 10, 0));
    assert_eq!((first.is_new, first.closes), (true, true));
    assert_eq!(row.offend(offence(0, 10, 5)), NotedOffence::default());
    // The same bytes for another document are another offence.
    let mut elsewhere = offence(0, 10, 5);
    elsewhere.document = document(2);
    assert!(row.offend(elsewhere).closes);
    let max = limits::OFFENCES_MAX;
    for number in 2..max {
        assert!(row.offend(offence(number as u64, 10, 6)).closes, "{number}");
    }
    let beyond = row.offend(offence(200, 10, 7));
    assert_eq!((beyond.is_new, beyond.closes), (true, false));
    assert_eq!(beyond.dropped, [offence(0, 10, 0)]);
    assert_eq!(row.offences.len(), max);
    assert!(!row.offend(offence(201, 10, hour + 4)).closes);
    // Those that go are from before, one by one.
    assert!(row.offend(offence(202, 10, hour + 7)).closes);

    // Of large ones the bytes go ahead of what is remembered, the oldest first.
    let mut row = PeerRow::default();
    let large = limits::QUARANTINE_BYTES_MAX + 10;
    let fit = limits::OFFENCES_BYTES_MAX / limits::QUARANTINE_BYTES_MAX as u64;
    for number in 0..fit {
        assert_eq!(row.offend(offence(number, large, 0)).dropped, []);
    }
    let noted = row.offend(offence(fit, large, 0));
    let dropped = Offence {
        is_kept: false,
        ..offence(0, large, 0)
    };
    assert_eq!((noted.closes, &noted.dropped[..]), (true, &[dropped][..]));
    assert_eq!(row.offend(offence(0, large, 9)), NotedOffence::default());
    assert_eq!(row.offences.len() as u64, fit + 1);
    let row = offence(1, large, 0).row(&workspace(1), peer(1), &Bytes::from(vec![1; large]));
    let row = QuarantineRow::decode(&row).unwrap();
    assert_eq!(row.raw.len(), limits::QUARANTINE_BYTES_MAX);
    let long = Offence::new(document(1), b"", &"ü".repeat(200), TIME);
    assert_eq!(long.what.len(), limits::OFFENCE_TEXT_BYTES_MAX);
}
