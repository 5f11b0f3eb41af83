//! Whatever a record of the store, a frame of the journal or a frame on a link holds comes back from
//! its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bytes::Bytes;
use proptest::prelude::{ProptestConfig, any, proptest};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use crate::feed::{Digest, FeedPoint};
use crate::guard::ActorId;
use crate::ids::{
    ChangeHash, DocumentId, DocumentKind, FeedSeq, MemberId, PeerId, SnapshotHash, StoreEpoch,
    WorkspaceId,
};
use crate::limits;
use crate::records::{
    ActorProgress, ChangeRow, DamageRow, FeedHeadRow, FeedRow, HeadRow, IndexStateRow, InviteRow,
    JournalDocument, JournalFrame, MemberRow, Offence, PeerRow, QuarantineRow, Record, RelayedRow,
    ShareRow, SnapshotRef, SnapshotRow, Standing, WorkspaceRow,
};
use crate::refusal::RefusalCode;
use crate::time::WallTime;
use crate::wire::{
    Ack, Assembler, Changes, DocumentChanges, Done, Fault, Frame, Heartbeat, Held, Hello, Join,
    Joined, KnownActor, Probe, Purged, Reconcile, Refused, Role, SharedDevice, Shares, Want,
    WantDocument, WorkspaceHello,
};

/// Draws what records and frames are made of.
struct Draw(ChaCha8Rng);

impl Draw {
    fn number(&mut self) -> u64 {
        // Numbers of every length, and zero.
        let bits = self.0.next_u32() % 65;
        self.0.next_u64().checked_shr(64 - bits).unwrap_or(0)
    }

    fn small(&mut self) -> u32 {
        self.number() as u32
    }

    fn flag(&mut self) -> bool {
        self.0.next_u32().is_multiple_of(2)
    }

    fn some<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn all<T, C: FromIterator<T>>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> C {
        (0..self.0.next_u32() % 4).map(|_| make(self)).collect()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    fn bytes(&mut self) -> Bytes {
        let mut bytes = vec![0; self.0.next_u32() as usize % 200];
        self.0.fill_bytes(&mut bytes);
        bytes.into()
    }

    fn text(&mut self) -> String {
        let words = ["", "laptop", "ü🙂", "a name that is longer"];
        words[self.0.next_u32() as usize % words.len()].to_owned()
    }

    fn time(&mut self) -> WallTime {
        // Zero stands for no time in some records.
        WallTime::from_millis((self.number() as i64).max(1))
    }

    fn hash(&mut self) -> ChangeHash {
        ChangeHash::from_bytes(self.array())
    }

    fn document(&mut self) -> DocumentId {
        DocumentId::from_bytes(self.array())
    }

    fn kind(&mut self) -> DocumentKind {
        DocumentKind(1 + self.0.next_u32() as u8 % 6)
    }

    fn workspace(&mut self) -> WorkspaceId {
        WorkspaceId::from_bytes(self.array())
    }

    fn peer(&mut self) -> PeerId {
        PeerId::from_bytes(self.array())
    }

    fn member(&mut self) -> MemberId {
        MemberId::from_bytes(self.array())
    }

    fn actor(&mut self) -> ActorId {
        let length = 1 + self.0.next_u32() as usize % limits::ACTOR_BYTES_MAX;
        ActorId::from_bytes(&self.array::<{ limits::ACTOR_BYTES_MAX }>()[..length]).unwrap()
    }

    fn seq(&mut self) -> FeedSeq {
        FeedSeq(self.number())
    }

    fn point(&mut self) -> FeedPoint {
        FeedPoint {
            epoch: StoreEpoch::from_bytes(self.array()),
            seq: self.seq(),
            digest: Digest::from_bytes(self.array()),
        }
    }

    fn progress(&mut self) -> ActorProgress {
        let last_seq = self.number() % 1_000;
        ActorProgress {
            last_seq,
            beyond: self.all(|draw| last_seq + 2 + draw.number() % 1_000),
        }
    }

    fn code(&mut self) -> RefusalCode {
        let codes = [
            RefusalCode::Unavailable,
            RefusalCode::Damaged,
            RefusalCode::TooLarge,
            RefusalCode::NotPermitted,
            RefusalCode::MissingDependencies,
            RefusalCode::Equivocation,
            RefusalCode::DocumentDeleted,
            RefusalCode::WorkspaceFull,
        ];
        codes[self.0.next_u32() as usize % codes.len()]
    }

    fn refused<C: FromIterator<(DocumentId, RefusalCode)>>(&mut self) -> C {
        self.all(|draw| (draw.document(), draw.code()))
    }

    fn relayed(&mut self) -> RelayedRow {
        RelayedRow {
            held: self.some(Self::point),
            refused: self.refused(),
            refused_unlisted: self.number(),
        }
    }

    fn offence(&mut self) -> Offence {
        Offence {
            document: self.document(),
            hash: self.array(),
            size: self.number(),
            what: self.text(),
            at: self.time(),
            is_kept: self.flag(),
        }
    }

    fn fault(&mut self) -> Fault {
        Fault {
            workspace: self.workspace(),
            documents: self.all(|draw| (draw.document(), draw.text())),
            unlisted: self.number(),
        }
    }

    fn snapshot(&mut self) -> SnapshotRef {
        SnapshotRef {
            hash: SnapshotHash::from_bytes(self.array()),
            size: self.small(),
            changes: self.number(),
        }
    }

    fn known(&mut self) -> KnownActor {
        let progress = self.progress();
        KnownActor {
            actor: self.actor(),
            seq: progress.last_seq,
            beyond: progress.beyond.into_iter().collect(),
        }
    }

    fn purged(&mut self) -> Purged {
        Purged {
            at: self.time(),
            known: self.all(Self::known),
        }
    }

    fn head_row(&mut self) -> HeadRow {
        let heads: BTreeSet<_> = self.all(Self::hash);
        let actors: BTreeMap<_, _> = self.all(|draw| (draw.actor(), draw.progress()));
        HeadRow {
            kind: self.kind(),
            feed_seq: self.seq(),
            missing: self.all(Self::hash),
            change_count: self.number(),
            change_bytes: self.number(),
            snapshots: self.all(Self::snapshot),
            head_max_ops: heads
                .iter()
                .map(|head| (*head, 1 + self.number() % 100))
                .collect(),
            actor_max_ops: actors
                .keys()
                .map(|of| (of.clone(), 1 + self.number() % 100))
                .collect(),
            operations: self.number(),
            purged_at: self.some(Self::time),
            heads,
            actors,
        }
    }

    fn standing(&mut self) -> Standing {
        match self.0.next_u32() % 3 {
            0 => Standing::Device,
            1 => Standing::Server,
            _ => Standing::Learned(self.peer()),
        }
    }

    fn changes(&mut self) -> Changes {
        let documents = self.all(|draw| DocumentChanges {
            document: draw.document(),
            kind: draw.kind(),
            snapshot: draw.some(Self::bytes).filter(|body| !body.is_empty()),
            changes: draw.all(Self::bytes),
            purged: draw.some(Self::purged),
        });
        Changes {
            workspace: self.workspace(),
            documents,
            feed: self.some(|draw| (draw.seq(), draw.point())),
            number: self.number(),
            early: self.flag(),
        }
    }

    fn frames(&mut self) -> Vec<Frame> {
        vec![
            Frame::Hello(Hello {
                protocol_min: self.small(),
                protocol_max: self.small(),
                role: if self.flag() {
                    Role::Device
                } else {
                    Role::Server
                },
                state_version: self.small(),
                workspaces: self.all(|draw| WorkspaceHello {
                    workspace: draw.workspace(),
                    head: draw.point(),
                    held: draw.some(Self::point),
                    takes_snapshots: draw.flag(),
                    is_unsettled: draw.flag(),
                }),
                more: self.flag(),
                shares: self.some(|draw| Digest::from_bytes(draw.array())),
            }),
            Frame::Join(Join {
                protocol_min: self.small(),
                protocol_max: self.small(),
                secret: self.array(),
                device_name: self.text(),
            }),
            Frame::Joined(Joined {
                workspace: self.workspace(),
                workspace_name: self.text(),
                member: self.member(),
                member_name: self.text(),
                home: self.workspace(),
            }),
            Frame::Refused(Refused {
                code: self.code(),
                message: self.text(),
                protocol: (self.small(), self.small()),
                fault: self.some(Self::fault),
            }),
            Frame::Changes(self.changes()),
            Frame::Ack(Ack {
                workspace: self.workspace(),
                through: self.some(Self::point),
                number: self.number(),
                refused: self.refused(),
                head: self.some(|draw| (draw.seq(), draw.point())),
                accepted: self.all(Self::document),
            }),
            Frame::Reconcile(Reconcile {
                workspace: self.workspace(),
                run: self.small(),
                message: self.bytes(),
            }),
            Frame::Want(Want {
                workspace: self.workspace(),
                run: self.small(),
                documents: self.all(|draw| WantDocument {
                    document: draw.document(),
                    known: draw.all(Self::known),
                    mutual: draw.flag(),
                }),
                last: self.flag(),
            }),
            Frame::Done(Done {
                workspace: self.workspace(),
                run: self.small(),
                point: self.point(),
            }),
            Frame::Heartbeat(Heartbeat {
                points: self.all(|draw| (draw.workspace(), draw.point())),
                number: self.number(),
                heard: self.number(),
            }),
            Frame::Shares(Shares {
                workspace: self.workspace(),
                devices: self.all(|draw| SharedDevice {
                    peer: draw.peer(),
                    member: draw.member(),
                    device_name: draw.text(),
                }),
                more: self.flag(),
            }),
            Frame::Probe(Probe {
                number: self.number(),
                answer: self.flag(),
            }),
            Frame::Held(Held {
                workspace: self.workspace(),
                peer: self.peer(),
                row: self.relayed(),
            }),
            Frame::Leave(self.workspace()),
        ]
    }
}

fn comes_back<R: Record + PartialEq + Debug>(record: R) {
    assert_eq!(R::decode(&record.encode()), Ok(record));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_record_comes_back_from_its_bytes(seed in any::<u64>()) {
        let draw = &mut Draw(ChaCha8Rng::seed_from_u64(seed));
        comes_back(ChangeRow { body: draw.bytes(), envelope: draw.bytes() });
        comes_back(SnapshotRow { body: draw.bytes() });
        comes_back(draw.head_row());
        comes_back(FeedHeadRow {
            point: draw.point(),
            documents: draw.number(),
            compacted: draw.seq(),
        });
        comes_back(FeedRow {
            document: draw.document(),
            kind: draw.kind(),
            changes: draw.all(|draw| (draw.hash(), draw.small())),
            origin: draw.some(Draw::peer),
            digest: Digest::from_bytes(draw.array()),
            snapshot: draw.some(Draw::snapshot),
            previous: draw.seq(),
            // No tombstone is empty.
            purged: draw.some(|draw| draw.small().max(1)),
        });
        comes_back(PeerRow {
            held: draw.some(Draw::point),
            acknowledged: draw.some(Draw::point),
            refused_here: draw.refused(),
            refused_there: draw.refused(),
            verified_at: draw.some(Draw::time),
            takes_snapshots: draw.flag(),
            refused_here_unlisted: draw.number(),
            refused_there_unlisted: draw.number(),
            relayed: draw.all(|draw| (draw.peer(), draw.relayed())),
            offences: draw.all(Draw::offence),
        });
        comes_back(DamageRow {
            since: draw.time(),
            what: draw.text(),
            lost: draw.all(Draw::hash),
            held: draw.all(|draw| (draw.actor(), draw.progress())),
            is_vague: draw.flag(),
        });
        comes_back(QuarantineRow {
            key: draw.bytes(),
            raw: draw.bytes(),
            offset: draw.number(),
            what: draw.text(),
            at: draw.time(),
            peer: draw.some(Draw::peer),
        });
        comes_back(WorkspaceRow {
            name: draw.text(),
            created_at: draw.time(),
            home_of: draw.some(Draw::member),
        });
        comes_back(ShareRow {
            member: draw.member(),
            device_name: draw.text(),
            since: draw.time(),
            standing: draw.standing(),
        });
        comes_back(MemberRow {
            member: draw.member(),
            name: draw.text(),
            home: draw.workspace(),
        });
        comes_back(InviteRow {
            workspace: draw.workspace(),
            workspace_name: draw.text(),
            member: draw.member(),
            member_name: draw.text(),
            home: draw.workspace(),
            expires_at: draw.time(),
            redeemed_by: draw.some(Draw::peer),
        });
        comes_back(IndexStateRow {
            seq: draw.seq(),
            state_version: draw.small(),
            server_state_version: draw.small(),
        });
        comes_back(JournalFrame {
            workspace: draw.workspace(),
            epoch: StoreEpoch::from_bytes(draw.array()),
            seq: draw.seq(),
            documents: draw.all(|draw| JournalDocument {
                document: draw.document(),
                kind: draw.kind(),
                changes: draw.all(Draw::bytes),
            }),
        });
    }

    #[test]
    fn every_frame_comes_back_from_its_bytes(seed in any::<u64>()) {
        let draw = &mut Draw(ChaCha8Rng::seed_from_u64(seed));
        for frame in draw.frames() {
            let mut assembler = Assembler::default();
            let mut whole = Vec::new();
            for part in frame.encode() {
                assert!(part.len() <= limits::FRAME_BYTES_MAX);
                whole.extend(assembler.accept(&part).unwrap());
            }
            assert_eq!(whole, [frame]);
        }
    }
}
