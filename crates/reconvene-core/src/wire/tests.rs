//! Frames: the bytes of version 1, their bounds, and that no bytes make a decoder panic.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;
use crate::golden::{self, Vector};

const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([1; 16]);

/// Field 1000, a varint: what a later version may add.
const LATER_FIELD: [u8; 3] = [0xc0, 0x3e, 7];

fn document(byte: u8) -> DocumentId {
    DocumentId::from_bytes([byte; 16])
}

fn point(seq: u64) -> FeedPoint {
    FeedPoint {
        epoch: StoreEpoch::from_bytes([0xe0; 16]),
        seq: FeedSeq(seq),
        digest: Digest::from_bytes([0xd0; 16]),
    }
}

fn hello(role: Role, workspaces: Vec<WorkspaceHello>) -> Frame {
    Frame::Hello(Hello {
        protocol_min: 1,
        protocol_max: 3,
        role,
        state_version: 7,
        more: !workspaces.is_empty(),
        shares: None,
        workspaces,
    })
}

fn changes(documents: Vec<DocumentChanges>, feed: Option<(FeedSeq, FeedPoint)>) -> Frame {
    Frame::Changes(Changes {
        workspace: WORKSPACE,
        documents,
        early: feed.is_none(),
        feed,
        number: 300,
    })
}

/// One frame of each kind at least, with every field in use in one of them.
fn frames() -> Vec<(&'static str, Frame)> {
    let greeting = |held| WorkspaceHello {
        workspace: WORKSPACE,
        head: point(300),
        held,
        takes_snapshots: false,
        is_unsettled: false,
    };
    let two = vec![
        DocumentChanges {
            document: document(2),
            kind: DocumentKind(1),
            snapshot: None,
            changes: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
            purged: None,
        },
        DocumentChanges {
            document: document(3),
            kind: DocumentKind(255),
            snapshot: None,
            changes: Vec::new(),
            purged: None,
        },
    ];
    let actor = |byte: u8, length: usize| ActorId::from_bytes(&vec![byte; length]).unwrap();
    vec![
        (
            "hello of a device",
            hello(Role::Device, vec![greeting(None), greeting(Some(point(7)))]),
        ),
        ("hello of a server", hello(Role::Server, Vec::new())),
        (
            "join",
            Frame::Join(Join {
                protocol_min: 1,
                protocol_max: 1,
                secret: [5; 32],
                device_name: "laptop".to_owned(),
            }),
        ),
        (
            "joined",
            Frame::Joined(Joined {
                workspace: WORKSPACE,
                workspace_name: "team".to_owned(),
                member: MemberId::from_bytes([6; 16]),
                member_name: "Ada".to_owned(),
                home: WorkspaceId::from_bytes([7; 16]),
            }),
        ),
        (
            "refused",
            Frame::Refused(Refused {
                code: RefusalCode::TicketExpired,
                message: "the ticket has expired".to_owned(),
                protocol: (1, 1),
                fault: None,
            }),
        ),
        (
            "refused for a fault",
            Frame::Refused(Refused {
                code: RefusalCode::Fault,
                message: "not an Automerge chunk".to_owned(),
                protocol: (1, 1),
                fault: Some(Fault {
                    workspace: WORKSPACE,
                    documents: vec![(document(1), "not an Automerge chunk".to_owned())],
                    unlisted: 2,
                }),
            }),
        ),
        (
            "changes of a feed",
            changes(two.clone(), Some((FeedSeq(298), point(300)))),
        ),
        ("early changes", changes(two, None)),
        (
            "changes with a snapshot",
            changes(
                vec![DocumentChanges {
                    document: document(4),
                    kind: DocumentKind(2),
                    snapshot: Some(Bytes::from_static(b"whole")),
                    changes: vec![Bytes::from_static(b"and what follows")],
                    purged: None,
                }],
                Some((FeedSeq(298), point(300))),
            ),
        ),
        (
            "changes with a tombstone",
            changes(
                vec![DocumentChanges {
                    document: document(4),
                    kind: DocumentKind(2),
                    snapshot: None,
                    changes: Vec::new(),
                    purged: Some(Purged {
                        at: WallTime::from_millis(1_700_000_000_123),
                        known: vec![KnownActor {
                            actor: actor(8, 16),
                            seq: 300,
                            beyond: vec![302, 310],
                        }],
                    }),
                }],
                Some((FeedSeq(298), point(300))),
            ),
        ),
        (
            "hello of a device that takes snapshots",
            hello(
                Role::Device,
                vec![WorkspaceHello {
                    takes_snapshots: true,
                    is_unsettled: false,
                    ..greeting(None)
                }],
            ),
        ),
        (
            "ack",
            Frame::Ack(Ack {
                workspace: WORKSPACE,
                through: Some(point(300)),
                number: 12,
                refused: vec![
                    (document(2), RefusalCode::Damaged),
                    (document(3), RefusalCode::Equivocation),
                ],
                head: Some((FeedSeq(8), point(9))),
                accepted: Vec::new(),
            }),
        ),
        (
            "ack of a number only",
            Frame::Ack(Ack {
                workspace: WORKSPACE,
                through: None,
                number: 1,
                refused: Vec::new(),
                head: None,
                accepted: Vec::new(),
            }),
        ),
        (
            "reconcile",
            Frame::Reconcile(Reconcile {
                workspace: WORKSPACE,
                run: 2,
                message: Bytes::from_static(b"negentropy"),
            }),
        ),
        (
            "want",
            Frame::Want(Want {
                workspace: WORKSPACE,
                run: 2,
                documents: vec![WantDocument {
                    document: document(2),
                    known: vec![
                        KnownActor {
                            actor: actor(0xa0, 16),
                            seq: 7,
                            beyond: vec![9, 1_000],
                        },
                        KnownActor {
                            actor: actor(0xa1, 64),
                            seq: u64::MAX,
                            beyond: Vec::new(),
                        },
                    ],
                    mutual: true,
                }],
                last: true,
            }),
        ),
        (
            "done",
            Frame::Done(Done {
                workspace: WORKSPACE,
                run: 2,
                point: point(300),
            }),
        ),
        (
            "heartbeat",
            Frame::Heartbeat(Heartbeat {
                points: vec![(WORKSPACE, point(300))],
                number: 0,
                heard: 0,
            }),
        ),
        (
            "heartbeat that is numbered",
            Frame::Heartbeat(Heartbeat {
                points: vec![(WORKSPACE, point(300))],
                number: 300,
                heard: 7,
            }),
        ),
        (
            "part",
            Frame::Part(Part {
                index: 1,
                count: 3,
                piece: Bytes::from_static(b"piece"),
            }),
        ),
        (
            "hello of a device that knows others",
            Frame::Hello(Hello {
                protocol_min: 1,
                protocol_max: 1,
                role: Role::Device,
                state_version: 1,
                workspaces: Vec::new(),
                more: false,
                shares: Some(Digest::from_bytes([0xd1; 16])),
            }),
        ),
        (
            "ack of accepted documents",
            Frame::Ack(Ack {
                workspace: WORKSPACE,
                through: None,
                number: 2,
                refused: Vec::new(),
                head: None,
                accepted: vec![document(4)],
            }),
        ),
        (
            "shares",
            Frame::Shares(Shares {
                workspace: WORKSPACE,
                devices: vec![SharedDevice {
                    peer: PeerId::from_bytes([0xb0; 32]),
                    member: MemberId::from_bytes([6; 16]),
                    device_name: "laptop".to_owned(),
                }],
                more: true,
            }),
        ),
        (
            "held",
            Frame::Held(Held {
                workspace: WORKSPACE,
                peer: PeerId::from_bytes([0xb0; 32]),
                row: RelayedRow {
                    held: Some(point(7)),
                    refused: [(document(1), RefusalCode::TooLarge)].into(),
                    refused_unlisted: 3,
                },
            }),
        ),
        (
            "held, unknown",
            Frame::Held(Held {
                workspace: WORKSPACE,
                peer: PeerId::from_bytes([0xb0; 32]),
                row: RelayedRow::default(),
            }),
        ),
        (
            "probe",
            Frame::Probe(Probe {
                number: 300,
                answer: true,
            }),
        ),
        ("leave", Frame::Leave(WORKSPACE)),
    ]
}

#[test]
fn frames_are_those_of_version_1() {
    let frames = frames();
    let vectors: Vec<_> = frames
        .iter()
        .map(|(name, frame)| {
            let [bytes] = &frame.encode()[..] else {
                panic!("{name} is small");
            };
            Vector {
                name: (*name).to_owned(),
                value: format!("{frame:?}"),
                bytes: bytes.to_vec(),
            }
        })
        .collect();
    let about = "frame bodies without their length prefix, message Frame of schema/wire.proto; the \
                 values are in the notation of the core's types, hashes by their first four bytes";
    let committed = golden::check("frames.json", about, &vectors);
    for ((name, frame), bytes) in frames.iter().zip(committed) {
        let bytes = Bytes::from(bytes);
        let decoded = Frame::decode(&bytes).unwrap();
        assert_eq!(decoded, *frame, "{name}");
        assert_eq!(decoded.encode(), [bytes], "{name}");
    }
    // A new kind of frame needs a vector.
    let names: std::collections::BTreeSet<_> =
        frames.iter().map(|(_, frame)| frame.name()).collect();
    assert_eq!(names.len(), 15);
}

#[test]
fn refusal_codes_keep_their_numbers() {
    let codes = (0..100).map(|number| (number, RefusalCode::from_number(number)));
    let known = codes.filter(|(_, code)| *code != RefusalCode::Unknown);
    let vectors: Vec<_> = known
        .map(|(number, code)| Vector {
            name: format!("{code:?}"),
            value: code.to_string(),
            bytes: vec![number as u8],
        })
        .collect();
    let about = "refusal codes, stored and sent as these numbers";
    for (vector, committed) in vectors
        .iter()
        .zip(golden::check("refusals.json", about, &vectors))
    {
        let code = RefusalCode::from_number(u32::from(committed[0]));
        assert_eq!(format!("{code:?}"), vector.name);
        assert_eq!(code.number(), u32::from(committed[0]));
    }
}

#[test]
fn cut_and_mutated_frames_are_errors_or_frames() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut decoded, mut refused) = (0, 0);
    let mut assembler = Assembler::default();
    let mut try_bytes = |bytes: Vec<u8>| {
        let bytes = Bytes::from(bytes);
        match Frame::decode(&bytes) {
            Ok(frame) => {
                decoded += 1;
                // What decodes is the same after another round.
                if let [again] = &frame.encode()[..] {
                    assert_eq!(Frame::decode(again), Ok(frame));
                }
            }
            Err(_) => refused += 1,
        }
        if assembler.accept(&bytes).is_err() {
            assembler = Assembler::default();
        }
    };
    for (_, frame) in frames() {
        let whole = frame.encode().remove(0);
        for length in 0..whole.len() {
            try_bytes(whole[..length].to_vec());
        }
        for _ in 0..500 {
            let mut mutated = whole.to_vec();
            for _ in 0..1 + rng.next_u32() % 3 {
                let at = rng.next_u64() as usize % mutated.len();
                mutated[at] = rng.next_u32() as u8;
            }
            if rng.next_u32().is_multiple_of(4) {
                let at = rng.next_u64() as usize % mutated.len();
                mutated.insert(at, rng.next_u32() as u8);
            }
            try_bytes(mutated);
        }
    }
    for _ in 0..2_000 {
        let mut noise = vec![0; rng.next_u32() as usize % 60];
        rng.fill_bytes(&mut noise);
        try_bytes(noise);
    }
    assert!(decoded > 500 && refused > 500, "{decoded}, {refused}");
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    for (name, frame) in frames() {
        let bytes = frame.encode().remove(0);
        // A frame is one field: its tag, its length, its message.
        let tag_bytes = if bytes[0] < 0x80 { 1 } else { 2 };
        let (tag, rest) = (bytes.slice(..tag_bytes), bytes.slice(tag_bytes..));
        let (length, prefix) = (0..rest.len())
            .map(|at| (rest.len() - at, at))
            .find(|(length, prefix)| {
                let mut encoded = Vec::new();
                prost::encoding::encode_varint(*length as u64, &mut encoded);
                encoded == rest[..*prefix]
            })
            .unwrap();
        let mut later = tag.to_vec();
        let added = length + LATER_FIELD.len();
        prost::encoding::encode_varint(added as u64, &mut later);
        later.extend_from_slice(&rest[prefix..]);
        later.extend_from_slice(&LATER_FIELD);
        later.extend_from_slice(&LATER_FIELD);
        assert_eq!(Frame::decode(&later.into()), Ok(frame), "{name}");
    }
    let unknown_frame = Bytes::from_static(&LATER_FIELD);
    assert_eq!(Frame::decode(&unknown_frame), Ok(Frame::Unknown));
    assert_eq!(Frame::decode(&Bytes::new()), Ok(Frame::Unknown));
}

#[test]
fn first_frames_fit_at_their_largest() {
    let greeting = WorkspaceHello {
        workspace: WORKSPACE,
        head: point(u64::MAX),
        held: Some(point(u64::MAX)),
        takes_snapshots: true,
        is_unsettled: true,
    };
    let name = "n".repeat(limits::NAME_BYTES_MAX);
    let frames = [
        Frame::Hello(Hello {
            protocol_min: u32::MAX,
            protocol_max: u32::MAX,
            role: Role::Server,
            state_version: u32::MAX,
            workspaces: vec![greeting; limits::HELLO_WORKSPACES_MAX],
            more: true,
            shares: Some(Digest::from_bytes([0xd1; 16])),
        }),
        Frame::Join(Join {
            protocol_min: u32::MAX,
            protocol_max: u32::MAX,
            secret: [0xff; 32],
            device_name: name.clone(),
        }),
        Frame::Joined(Joined {
            workspace: WORKSPACE,
            workspace_name: name.clone(),
            member: MemberId::from_bytes([6; 16]),
            member_name: name,
            home: WORKSPACE,
        }),
    ];
    for frame in frames {
        let [bytes] = &frame.encode()[..] else {
            panic!("{} takes several parts", frame.name());
        };
        let fits = bytes.len() <= limits::FIRST_FRAME_BYTES_MAX;
        assert!(fits, "{} has {} bytes", frame.name(), bytes.len());
        assert_eq!(Frame::decode(bytes), Ok(frame));
    }
}

/// A change frame with one body of this many bytes.
fn large(bytes: usize) -> Frame {
    let body: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let documents = vec![DocumentChanges {
        document: document(2),
        kind: DocumentKind(1),
        snapshot: None,
        changes: vec![body.into()],
        purged: None,
    }];
    changes(documents, Some((FeedSeq(u64::MAX - 1), point(u64::MAX))))
}

#[test]
fn the_largest_change_fits_in_parts_that_come_together_again() {
    let frame = large(limits::CHANGE_BYTES_MAX);
    let parts = frame.encode();
    assert!(parts.len() > 1 && parts.len() <= limits::FRAME_PARTS_MAX as usize);
    assert!(
        parts
            .iter()
            .all(|part| part.len() <= limits::FRAME_BYTES_MAX)
    );
    let mut assembler = Assembler::default();
    for _ in 0..2 {
        let (last, others) = parts.split_last().unwrap();
        for part in others {
            assert_eq!(assembler.accept(part), Ok(None));
        }
        assert_eq!(assembler.accept(last), Ok(Some(frame.clone())));
    }

    // At the border between one frame and several.
    let mut counts = std::collections::BTreeSet::new();
    for bytes in limits::FRAME_BYTES_MAX - 150..limits::FRAME_BYTES_MAX {
        let frame = large(bytes);
        let parts = frame.encode();
        assert!(
            parts
                .iter()
                .all(|part| part.len() <= limits::FRAME_BYTES_MAX)
        );
        let mut assembler = Assembler::default();
        let whole = parts.iter().map(|part| assembler.accept(part).unwrap());
        assert_eq!(whole.last(), Some(Some(frame)));
        counts.insert(parts.len());
    }
    assert!(counts.into_iter().eq([1, 2]));
}

#[test]
fn parts_must_follow_each_other_and_stay_within_their_number() {
    let part = |index, count, piece: &Bytes| {
        let piece = piece.clone();
        Frame::Part(Part {
            index,
            count,
            piece,
        })
        .encode()
        .remove(0)
    };
    let frame = hello(Role::Device, Vec::new()).encode().remove(0);
    let [head, tail] = [frame.slice(..3), frame.slice(3..)];
    let refuses = |parts: &[Bytes]| {
        let mut assembler = Assembler::default();
        let (last, others) = parts.split_last().unwrap();
        for part in others {
            assert_eq!(assembler.accept(part), Ok(None));
        }
        assembler.accept(last).unwrap_err()
    };
    let max = limits::FRAME_PARTS_MAX;
    refuses(&[part(0, 0, &head)]);
    refuses(&[part(1, 2, &head)]);
    refuses(&[part(2, 2, &head)]);
    refuses(&[part(0, max + 1, &head)]);
    refuses(&[part(0, u32::MAX, &head)]);
    refuses(&[part(0, 2, &head), part(0, 2, &head)]);
    refuses(&[part(0, 3, &head), part(2, 3, &tail)]);
    refuses(&[part(0, 2, &head), part(1, 3, &tail)]);
    refuses(&[part(0, 2, &head), frame.clone()]);
    refuses(&[part(0, 1, &part(0, 1, &frame))]);
    refuses(&[part(0, 1, &Bytes::from_static(b"\x0a\xff"))]);

    let mut assembler = Assembler::default();
    let (first, second) = (part(0, 2, &head), part(1, 2, &tail));
    assert_eq!(assembler.accept(&first), Ok(None));
    assert_eq!(
        assembler.accept(&second),
        Ok(Some(hello(Role::Device, Vec::new())))
    );
    let one = part(0, 1, &frame);
    assert_eq!(
        assembler.accept(&one),
        Ok(Some(hello(Role::Device, Vec::new())))
    );
}

#[test]
fn lists_longer_than_their_limits_are_refused() {
    let greeting = WorkspaceHello {
        workspace: WORKSPACE,
        head: point(1),
        held: None,
        takes_snapshots: false,
        is_unsettled: false,
    };
    let empty = |byte: usize| DocumentChanges {
        document: document(byte as u8),
        kind: DocumentKind(1),
        snapshot: None,
        changes: Vec::new(),
        purged: None,
    };
    let want = |byte: usize| WantDocument {
        document: document(byte as u8),
        known: Vec::new(),
        mutual: false,
    };
    let refusal = |byte: usize| (document(byte as u8), RefusalCode::Damaged);
    let (hellos, beats) = (limits::HELLO_WORKSPACES_MAX, limits::LINK_WORKSPACES_MAX);
    let documents = limits::FRAME_DOCUMENTS_MAX;
    for more in [0, 1] {
        let frames = [
            hello(Role::Device, vec![greeting; hellos + more]),
            Frame::Heartbeat(Heartbeat {
                points: vec![(WORKSPACE, point(1)); beats + more],
                number: 1,
                heard: 0,
            }),
            changes((0..documents + more).map(empty).collect(), None),
            Frame::Ack(Ack {
                workspace: WORKSPACE,
                through: None,
                number: 1,
                refused: (0..documents + more).map(refusal).collect(),
                head: None,
                accepted: Vec::new(),
            }),
            Frame::Want(Want {
                workspace: WORKSPACE,
                run: 1,
                documents: (0..documents + more).map(want).collect(),
                last: false,
            }),
            Frame::Join(Join {
                protocol_min: 1,
                protocol_max: 1,
                secret: [1; 32],
                device_name: "n".repeat(limits::NAME_BYTES_MAX + more),
            }),
        ];
        for frame in frames {
            let decoded = Frame::decode(&frame.encode().remove(0));
            assert_eq!(
                decoded.is_ok(),
                more == 0,
                "{}: {more} too many",
                frame.name()
            );
        }
    }
}
