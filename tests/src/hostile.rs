//! A device that was let in and attacks: the changes that were measured to hurt Automerge, sent to a
//! real server process. Each is refused by name, or left out of its document; the bytes of what no honest
//! peer sends are kept, and its link is closed; what the server needs for it stays small; every other
//! document and device goes on.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use reconvene_core::feed::FeedPoint;
use reconvene_core::guard::pieces::Pieces;
use reconvene_core::guard::{parse_change, seal};
use reconvene_core::ids::{ChangeHash, DocumentId, LinkId, PeerId, StoreEpoch, WorkspaceId};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::time::WallTime;
use reconvene_core::wire::{
    Changes, DocumentChanges, Fault, Frame, Hello, PROTOCOL_MAX, PROTOCOL_MIN, Reconcile, Role,
    WorkspaceHello,
};
use reconvene_libp2p::{NetworkEvent, load_or_create_identity};
use reconvene_model::{Document, MEETING, ModelError, derive_actor, genesis};
use serde_json::Value;

use crate::harness::{Peer, Server};
use crate::raw::{Raw, run};

/// What a server may need beyond what it needs anyway.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// An enrolled device with nothing but the network, linked to the server and greeted.
struct Attacker {
    raw: Raw,
    server: PeerId,
    addresses: Vec<String>,
    link: LinkId,
    workspace: WorkspaceId,
    number: u64,
    /// Changes that the server sent, by document.
    seen: BTreeMap<DocumentId, Vec<Bytes>>,
}

impl Attacker {
    async fn greeted(server: &Server, device: &Peer) -> Self {
        let ticket = reconvene::Ticket::decode(&server.ticket("Mallory")).unwrap();
        let identity = load_or_create_identity(&device.data().join("identity.key")).unwrap();
        let status = device.run(&["status"]);
        let workspace = status["device"]["current"].as_str().unwrap();
        let workspace: WorkspaceId = workspace.parse().unwrap();
        let mut attacker = Self {
            raw: Raw::start(identity, Vec::new()),
            server: ticket.peer,
            addresses: ticket.addresses,
            link: LinkId(0),
            workspace,
            number: 0,
            seen: BTreeMap::new(),
        };
        attacker.greet().await;
        attacker
    }

    /// Links to the server and greets it.
    async fn greet(&mut self) {
        let addresses = self.addresses.clone();
        self.raw.network.dial(self.server, addresses).unwrap();
        self.link = self.raw.link().await;
        self.number = 0;
        let hello = Frame::Hello(Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            role: Role::Device,
            state_version: 1,
            workspaces: vec![WorkspaceHello {
                workspace: self.workspace,
                head: FeedPoint::start_of(StoreEpoch::from_bytes([0x66; 16])),
                held: None,
                takes_snapshots: false,
                is_unsettled: false,
            }],
            more: false,
            shares: None,
        });
        let hello = hello.encode().remove(0);
        self.raw.network.send(self.link, hello).unwrap();
        self.raw.network.admit(self.link);
        while !matches!(self.frame().await, Frame::Hello(_)) {}
    }

    async fn frame(&mut self) -> Frame {
        let frame = self.raw.frame().await;
        if let Frame::Changes(changes) = &frame {
            for document in &changes.documents {
                let seen = self.seen.entry(document.document).or_default();
                seen.extend(document.changes.iter().cloned());
            }
        }
        frame
    }

    fn post(&mut self, documents: Vec<(DocumentId, Vec<Bytes>)>) {
        self.number += 1;
        let documents = documents.into_iter();
        let documents = documents.map(|(document, changes)| DocumentChanges {
            document,
            kind: MEETING,
            snapshot: None,
            changes,
            purged: None,
        });
        let frame = Frame::Changes(Changes {
            workspace: self.workspace,
            documents: documents.collect(),
            feed: None,
            number: self.number,
            early: false,
        });
        for part in frame.encode() {
            self.raw.network.send(self.link, part).unwrap();
        }
    }

    /// Sends changes of documents in one frame, and yields what was refused of them, once all of it
    /// was dealt with and is stored. The link stays.
    async fn send(
        &mut self,
        documents: Vec<(DocumentId, Vec<Bytes>)>,
    ) -> BTreeMap<DocumentId, RefusalCode> {
        self.post(documents);
        let mut refused = BTreeMap::new();
        loop {
            match self.frame().await {
                Frame::Ack(ack) => {
                    refused.extend(ack.refused);
                    if ack.number >= self.number {
                        return refused;
                    }
                }
                Frame::Refused(fault) => panic!("{fault:?}"),
                _ => {}
            }
        }
    }

    /// Sends what closes the link, and yields what was refused ahead of the fault that says so. Links
    /// anew.
    async fn offend(
        &mut self,
        documents: Vec<(DocumentId, Vec<Bytes>)>,
    ) -> (BTreeMap<DocumentId, RefusalCode>, Fault) {
        self.post(documents);
        let mut refused = BTreeMap::new();
        let fault = loop {
            match self.frame().await {
                Frame::Ack(ack) => refused.extend(ack.refused),
                Frame::Refused(refused) => {
                    assert_eq!(refused.code, RefusalCode::Fault);
                    break refused.fault.unwrap();
                }
                _ => {}
            }
        };
        while !matches!(self.raw.event().await, NetworkEvent::LinkDown { .. }) {}
        self.greet().await;
        (refused, fault)
    }

    /// Sends one change of a document that closes the link, and yields why it was refused.
    async fn offend_with(&mut self, document: DocumentId, change: Bytes) -> RefusalCode {
        let (refused, fault) = self.offend(vec![(document, vec![change])]).await;
        let named: Vec<_> = fault.documents.iter().map(|(of, _)| *of).collect();
        assert_eq!((named, fault.unlisted), (vec![document], 0));
        refused[&document]
    }

    /// Sends one change of a document, and yields why it was refused.
    async fn try_one(&mut self, document: DocumentId, change: Bytes) -> Option<RefusalCode> {
        let mut refused = self.send(vec![(document, vec![change])]).await;
        refused.remove(&document)
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn document(byte: u8) -> DocumentId {
    DocumentId::from_bytes([byte; 16])
}

/// An honest first change of a meeting: one operation that makes a map for a tag.
fn honest(actor: u8) -> (ChangeHash, Vec<u8>) {
    let mut meeting = Document::create(MEETING).unwrap();
    let actor = derive_actor(&PeerId::from_bytes([actor; 32]), &document(1), &[actor; 16]);
    let now = WallTime::from_millis(1_700_000_000_000);
    let edited = meeting.edit(&actor, now, |editor| {
        editor.meeting()?.add_tag("tag")?;
        Ok::<_, ModelError>(())
    });
    let (_, mut changes) = edited.unwrap();
    let change = changes.remove(0);
    (change.hash, change.bytes)
}

/// An honest change, altered in its pieces.
fn altered(actor: u8, alter: impl FnOnce(&mut Pieces)) -> Bytes {
    let (_, body) = honest(actor);
    let length = body[9..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let mut pieces = Pieces::cut(&body[9 + length..]).unwrap();
    alter(&mut pieces);
    seal(&pieces.data()).into()
}

fn set(pieces: &mut Pieces, id: u64, data: &[u8]) {
    pieces.columns.retain(|(known, _)| *known != id);
    pieces.columns.push((id, data.to_vec()));
    pieces.columns.sort();
}

/// A change under its own checksum that inflates to this many zeros.
fn inflate_bomb(mebibytes: usize) -> Bytes {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..mebibytes {
        encoder.write_all(&zeros).unwrap();
    }
    let deflated = encoder.finish().unwrap();
    let mut chunk = seal(&deflated);
    chunk[8] = 2;
    chunk.into()
}

/// Inserting five million nulls at the start of a list, in some hundred bytes.
fn run_length_bomb() -> Bytes {
    let count = 5_000_000_u64;
    let number = |mut value: u64, is_signed: bool| {
        let mut out = Vec::new();
        while value >= 0x80 || (is_signed && value >= 0x40) {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    };
    let run = |entry: u8| [number(count, true), vec![entry]].concat();
    altered(3, |pieces| {
        pieces.columns.clear();
        for (column, entry) in [
            (0x01, 1),
            (0x02, 3),
            (0x13, 0),
            (0x42, 1),
            (0x56, 0),
            (0x70, 0),
        ] {
            set(pieces, column, &run(entry));
        }
        set(pieces, 0x34, &[vec![0], number(count, false)].concat());
    })
}

#[test]
fn what_hurts_automerge_is_refused_by_name_or_left_out_and_costs_little() {
    let server = Server::new();
    let ada = Peer::joined(&server, "Ada");
    let kept = ada.add("kept");
    ada.sync();
    let mallory = Peer::joined(&server, "Mallory");
    let peak_before = server.peak_bytes();

    // Somebody else's link is up all the while.
    let watching = ada.start(&["sync", "--watch"]);
    watching.line_where(|line| line["event"] == "verified");
    let target = document(0x44);
    run(async {
        let mut attacker = Attacker::greeted(&server, &mallory).await;
        let damaged = RefusalCode::Damaged;
        let bombs = [inflate_bomb(16), inflate_bomb(200)];
        assert!(bombs.iter().all(|bomb| bomb.len() < 256 * 1024));
        for bomb in bombs {
            assert_eq!(attacker.offend_with(document(0x41), bomb).await, damaged);
        }
        let refused = attacker
            .offend_with(document(0x42), run_length_bomb())
            .await;
        assert_eq!(refused, RefusalCode::TooLarge);
        let no_such_index = altered(4, |pieces| set(pieces, 0x01, &[0x7f, 9]));
        let bad = document(0x43);
        assert_eq!(
            attacker.offend_with(bad, no_such_index.clone()).await,
            damaged
        );
        // Told once: then it is refused, and that is all.
        let again = attacker.try_one(bad, no_such_index.clone()).await;
        assert_eq!(again, Some(damaged));
        // What else is in its frame is taken.
        let rotten = altered(2, |pieces| pieces.front[50] = 0);
        let good: Bytes = honest(6).1.into();
        let frame = [(bad, rotten), (target, good)];
        let frame = frame.map(|(document, change)| (document, vec![change]));
        let (refused, _) = attacker.offend(frame.to_vec()).await;
        assert_eq!(refused, BTreeMap::from([(bad, damaged)]));
        let damaged = Some(damaged);

        // The second change of someone of whom there is no first.
        let second = altered(5, |pieces| {
            // A count, a dependency, the actor with its length; then its number.
            assert_eq!(pieces.front[50], 1);
            pieces.front[50] = 2;
        });
        assert_eq!(attacker.try_one(target, second).await, damaged);
        // Some of what is named shows only in the document: there the honest changes go in, and what
        // names someone unknown, or an object that is none, is left out.
        let unknown_actor = altered(7, |pieces| {
            let genesis = genesis(MEETING).unwrap().actor;
            let at = pieces.front.len() - genesis.len();
            assert_eq!(pieces.front[at..], genesis);
            pieces.front[at..].copy_from_slice(&[0x10; 16]);
        });
        let unknown_object = altered(8, |pieces| set(pieces, 0x02, &[0x7f, 1]));
        for change in [unknown_actor, unknown_object] {
            parse_change(&change).unwrap();
            assert_eq!(attacker.try_one(target, change).await, None);
        }

        // Orphans wait nowhere: each is refused, and nothing of it is kept.
        for batch in 0..40_u16 {
            let orphans = (0..50_u16).map(|number| {
                let change = altered(9, |pieces| {
                    let hash = &mut pieces.front[1..33];
                    hash[..2].copy_from_slice(&(batch * 50 + number).to_be_bytes());
                });
                let mut id = [0x45; 16];
                id[..2].copy_from_slice(&(batch * 50 + number).to_be_bytes());
                (DocumentId::from_bytes(id), vec![change])
            });
            let refused = attacker.send(orphans.collect()).await;
            assert_eq!(refused.len(), 50);
            let lacking = |code: &RefusalCode| *code == RefusalCode::MissingDependencies;
            assert!(refused.values().all(lacking), "{refused:?}");
        }

        // Reconciliation that is none ends the link.
        let noise = Frame::Reconcile(Reconcile {
            workspace: attacker.workspace,
            run: 1,
            message: Bytes::from_static(b"\x61\x00\x00\x09noise"),
        });
        for part in noise.encode() {
            attacker.raw.network.send(attacker.link, part).unwrap();
        }
        while !matches!(attacker.raw.event().await, NetworkEvent::LinkDown { .. }) {}
        attacker.raw.network.shutdown().await;
    });

    // Its bytes are kept, and it is said whose they are and what is wrong with them.
    let status = server.peer.run(&["status", "--records"]);
    let offenders: Vec<&Value> = array(&status["workspaces"])
        .flat_map(|workspace| array(&workspace["peers"]))
        .filter(|peer| array(&peer["offences"]).count() > 0)
        .collect();
    let [offender] = offenders[..] else {
        panic!("one does not keep the protocol: {status}");
    };
    let offences: Vec<&Value> = array(&offender["offences"]).collect();
    let of: Vec<_> = offences.iter().map(|of| of["document"].clone()).collect();
    let expected = [0x41, 0x41, 0x42, 0x43, 0x43].map(|byte| document(byte).to_string());
    assert_eq!(of, expected, "{offender}");
    assert!(offences.iter().all(|of| of["kept"] == true), "{offender}");
    assert_eq!(
        offences[3]["what"],
        "9 is out of range for the object actor column of a change"
    );
    let rows = &status["records"]["by_kind"]["Quarantine"]["records"];
    assert_eq!(rows, 5, "{status}");

    let peak = server.peak_bytes();
    println!("the server had {peak_before} bytes resident at most, then {peak}");
    assert!(peak < peak_before + BYTES_MAX, "{peak_before}, then {peak}");
    // Whoever else there is goes on, and sees of the document what fits it.
    let ben = Peer::joined(&server, "Ben");
    let of_ben = ben.add("and more");
    ben.sync();
    watching.line_where(|line| {
        assert_ne!(line["event"], "refused", "{line}");
        line["event"] == "changed" && line.to_string().contains(&of_ben)
    });
    watching.stop();
    ada.sync();
    let exported = ada.export();
    assert_eq!(exported, server.export());
    assert_eq!(exported, ben.export());
    assert!(exported.contains(&kept) && exported.contains("and more"));
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let documents = exported["documents"].as_array().unwrap();
    let hurt = |document: &&Value| document["id"] == target.to_string();
    let hurt = documents.iter().find(hurt).unwrap();
    assert_eq!(hurt["set_aside"].as_array().unwrap().len(), 2, "{hurt}");
    assert_eq!(hurt["view"]["tags"][0], "tag", "{hurt}");
}

#[test]
fn a_change_under_someone_else_s_next_number_costs_them_nothing() {
    let server = Server::new();
    let ada = Peer::joined(&server, "Ada");
    let id = ada.add("planned");
    ada.sync();
    let mallory = Peer::joined(&server, "Mallory");
    let meeting: DocumentId = id.parse().unwrap();
    run(async {
        let mut attacker = Attacker::greeted(&server, &mallory).await;
        while !attacker.seen.contains_key(&meeting) {
            attacker.frame().await;
        }
        let body = attacker.seen[&meeting].last().unwrap().clone();
        let theirs = parse_change(&body).unwrap();
        let forged = altered(1, |pieces| {
            pieces.front[1..33].copy_from_slice(theirs.hash.as_bytes());
            pieces.front[34..50].copy_from_slice(theirs.actor.as_bytes());
            pieces.front[50] = theirs.seq as u8 + 1;
            assert_eq!(pieces.front[51], 12);
            pieces.front[51] = u8::try_from(theirs.max_op()).unwrap() + 1;
        });
        let header = parse_change(&forged).unwrap();
        assert_eq!((&header.actor, header.seq), (&theirs.actor, theirs.seq + 1));
        assert_eq!(attacker.try_one(meeting, forged).await, None);
        attacker.raw.network.shutdown().await;
    });
    // Whoever writes next writes under a number of their own, whether they have seen it or not.
    ada.run(&["meeting", "edit", &id, "--title", "planned anew"]);
    ada.sync();
    ada.run(&["meeting", "edit", &id, "--title", "and once more"]);
    ada.sync();
    let ben = Peer::joined(&server, "Ben");
    ben.sync();
    assert_eq!(ben.export(), ada.export());
    assert_eq!(ben.export(), server.export());
    assert!(ben.export().contains("and once more"));
    let entries = ada.run(&["inbox", "list"])["entries"].take();
    assert_eq!(entries.as_array().map(Vec::len), Some(0), "{entries}");
}
