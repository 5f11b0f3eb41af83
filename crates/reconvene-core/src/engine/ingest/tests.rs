//! Two engines with stores in memory, run by hand: what becomes of the journal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;

use automerge::legacy::{Key as OperationKey, ObjectId, Op, OpType};
use automerge::{ActorId, Change, ExpandedChange, ScalarValue};
use bytes::Bytes;

use crate::engine::{
    Config, Edit, EditError, EditedDocument, Engine, Event, Input, Moment, Output, ReadQuery,
    ReadResult, Root, stored_frames,
};
use crate::ids::{
    BatchId, ChangeHash, DocumentId, DocumentKind, LinkId, MemberId, PeerId, RequestId, StoreEpoch,
    WorkspaceId,
};
use crate::keys::Key;
use crate::memory::MemoryStore;
use crate::records::{HeadRow, Record, ShareRow, Standing};
use crate::refusal::RefusalCode;
use crate::storage::{Batch, Durability, JournalReleases, StoreRead, StoreWrite};
use crate::time::{Tick, WallTime};
use crate::wire::Role;

const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([7; 16]);
const KIND: DocumentKind = DocumentKind(1);
const ROOT: Root = Root {
    kind: KIND,
    max_op: 1,
};
const LINK: LinkId = LinkId(1);
const DEVICE: PeerId = PeerId::from_bytes([1; 32]);
const SERVER: PeerId = PeerId::from_bytes([2; 32]);
const NOW: Moment = Moment {
    tick: Tick::from_millis(1),
    wall: WallTime::from_millis(1),
};

/// One change of an actor, on top of `dependency` or of nothing.
fn change(actor: u8, dependency: Option<ChangeHash>) -> (ChangeHash, Bytes) {
    let start_op = if dependency.is_some() { 2 } else { 1 };
    let dependencies = dependency.as_slice();
    change_at(actor, 1, start_op, dependencies, 1)
}

/// A change of one operation.
fn change_at(
    actor: u8,
    seq: u64,
    start_op: u64,
    dependencies: &[ChangeHash],
    value: i64,
) -> (ChangeHash, Bytes) {
    let operation = Op {
        action: OpType::Put(ScalarValue::Int(value)),
        obj: ObjectId::Root,
        key: OperationKey::Map("key".into()),
        pred: automerge::legacy::SortedVec::new(),
        insert: false,
    };
    let change = Change::from(ExpandedChange {
        operations: vec![operation],
        actor_id: ActorId::from([actor; 16]),
        hash: None,
        seq,
        start_op: NonZeroU64::new(start_op).unwrap(),
        time: 0,
        message: None,
        deps: dependencies
            .iter()
            .map(|hash| automerge::ChangeHash(*hash.as_bytes()))
            .collect(),
        extra_bytes: Vec::new(),
        author: None,
    });
    (
        ChangeHash::from_bytes(change.hash().0),
        Bytes::copy_from_slice(change.raw_bytes()),
    )
}

fn genesis() -> ChangeHash {
    change(0, None).0
}

fn document(number: u8) -> DocumentId {
    DocumentId::from_bytes([number; 16])
}

/// A replica of which the test is the driver.
struct Side {
    engine: Engine,
    store: MemoryStore,
    outputs: VecDeque<Output>,
    events: Vec<Event>,
    releases: Vec<JournalReleases>,
}

impl Side {
    fn new(me: PeerId, other: PeerId, seed: u8, mut store: MemoryStore) -> Self {
        let share = ShareRow {
            member: MemberId::from_bytes([3; 16]),
            device_name: String::new(),
            since: NOW.wall,
            standing: if me == SERVER {
                Standing::Device
            } else {
                Standing::Server
            },
        };
        let shared = Batch {
            id: BatchId(0),
            after: None,
            puts: vec![(Key::share(&other, &WORKSPACE), share.encode())],
            deletes: Vec::new(),
            journal: None,
            durability: Durability::Barrier,
        };
        store.apply(&shared).unwrap();
        let config = Config {
            me,
            role: if me == SERVER {
                Role::Server
            } else {
                Role::Device
            },
            state_version: 1,
            staleness_bound: crate::limits::STALENESS_BOUND,
            workspace_documents_max: u64::MAX,
            roots: BTreeMap::from([(genesis(), ROOT)]),
            mutants: crate::mutants::Mutants::NONE,
        };
        let journal = store.journal_entries();
        let mut side = Self {
            engine: Engine::new(config, [seed; 32], NOW),
            store,
            outputs: VecDeque::new(),
            events: Vec::new(),
            releases: Vec::new(),
        };
        side.input(Input::Replay(journal));
        side
    }

    fn input(&mut self, input: Input) {
        self.engine.handle(NOW, input);
        while let Some(output) = self.engine.poll() {
            self.outputs.push_back(output);
        }
    }

    fn edit(&mut self, number: u8) {
        self.input(Input::Edit(Edit {
            request: RequestId::from_bytes([number; 16]),
            workspace: WORKSPACE,
            documents: vec![EditedDocument {
                document: document(number),
                kind: KIND,
                changes: vec![change(number, Some(genesis())).1],
            }],
            rows: Vec::new(),
        }));
    }

    /// Edits a document by these changes; gives what was said against it.
    fn offer(&mut self, number: u8, changes: &[&(ChangeHash, Bytes)]) -> Result<(), EditError> {
        let request = RequestId::from_bytes([0xee; 16]);
        self.events.clear();
        self.input(Input::Edit(Edit {
            request,
            workspace: WORKSPACE,
            documents: vec![EditedDocument {
                document: document(number),
                kind: KIND,
                changes: changes.iter().map(|(_, body)| body.clone()).collect(),
            }],
            rows: Vec::new(),
        }));
        self.run();
        let refused = self.events.iter().find_map(|event| match event {
            Event::EditRefused { error, .. } => Some(error.clone()),
            _ => None,
        });
        refused.map_or(Ok(()), Err)
    }

    fn row(&self, number: u8) -> HeadRow {
        let head = Key::head(&WORKSPACE, &document(number));
        let row = self.store.reader().read(&head).unwrap();
        HeadRow::decode(&row.unwrap()).unwrap()
    }

    /// Carries out the next output; returns frames for the other side.
    fn step(&mut self) -> Option<Vec<Bytes>> {
        let reader = self.store.reader();
        match self.outputs.pop_front()? {
            Output::StoreBatch(batch) => {
                let entries: Vec<_> = batch.journal.iter().collect();
                self.store.journal(&entries).unwrap();
                self.store.apply(&batch).unwrap();
                self.store.barrier().unwrap();
                if batch.journal.is_some() {
                    self.input(Input::Journaled(batch.id));
                }
                self.input(Input::Stored(batch.id));
            }
            Output::AskRoom => self.input(Input::Room(Ok(()))),
            Output::Read { read, query } => {
                let result = match query {
                    ReadQuery::Inspect(_) | ReadQuery::Holds { .. } | ReadQuery::Beyond { .. } => {
                        panic!("nothing here has a snapshot: {query:?}")
                    }
                    ReadQuery::Search { .. }
                    | ReadQuery::Owner { .. }
                    | ReadQuery::Examine { .. } => {
                        panic!("nothing here is damaged: {query:?}")
                    }
                    ReadQuery::FeedEnd(workspace) => {
                        let end = crate::examine::feed_end(&reader, &workspace).unwrap();
                        ReadResult::FeedEnd(end)
                    }
                    ReadQuery::Values(keys) => {
                        let values = keys.iter().map(|key| reader.read(key).unwrap());
                        ReadResult::Values(values.collect())
                    }
                    ReadQuery::Presence(keys) => {
                        let found = keys.iter().map(|key| reader.contains(key).unwrap());
                        ReadResult::Presence(found.collect())
                    }
                    ReadQuery::Scan(scan) => ReadResult::Rows(reader.scan(&scan).unwrap()),
                };
                self.input(Input::ReadDone {
                    read,
                    result: Ok(result),
                });
            }
            Output::ReleaseJournal(releases) => {
                self.store.release_journal(&releases).unwrap();
                self.releases.push(releases);
            }
            Output::SendFrame { frame, .. } => return Some(vec![frame]),
            Output::SendStored(send) => {
                let bodies = crate::stored::bodies(&reader, &send).unwrap();
                return Some(stored_frames(&send, bodies));
            }
            Output::CloseLink { why, .. } => panic!("the link is closed: {why:?}"),
            Output::Event(event) => self.events.push(event),
            Output::AdmitLink { .. } | Output::Dial { .. } => {}
        }
        Some(Vec::new())
    }

    fn run(&mut self) {
        while let Some(frames) = self.step() {
            assert!(frames.is_empty(), "there is no link");
        }
    }

    /// The epochs of the journal's frames, in order.
    fn epochs(&self) -> Vec<StoreEpoch> {
        let entries = self.store.journal_entries();
        entries.iter().map(|entry| entry.epoch).collect()
    }
}

fn link_and_run(device: &mut Side, server: &mut Side) {
    device.input(Input::LinkUp {
        link: LINK,
        peer: SERVER,
        dialed: true,
    });
    server.input(Input::LinkUp {
        link: LINK,
        peer: DEVICE,
        dialed: false,
    });
    loop {
        let (out, back) = (device.step(), server.step());
        if out.is_none() && back.is_none() {
            return;
        }
        for frame in out.into_iter().flatten() {
            server.input(Input::FrameArrived { link: LINK, frame });
        }
        for frame in back.into_iter().flatten() {
            device.input(Input::FrameArrived { link: LINK, frame });
        }
    }
}

#[test]
fn frames_replayed_into_an_emptied_store_are_freed_with_their_new_ones() {
    let mut device = Side::new(DEVICE, SERVER, 1, MemoryStore::new());
    device.run();
    (1..=3).for_each(|number| device.edit(number));
    device.run();
    let [lost, _, _] = device.epochs()[..] else {
        panic!("three edits make three frames");
    };

    let mut device = Side::new(DEVICE, SERVER, 2, device.store.wipe());
    device.run();
    let replayed = |event: &&Event| matches!(event, Event::ReplayDone { changes: 3 });
    assert_eq!(device.events.iter().filter(replayed).count(), 1);
    device.edit(4);
    device.run();
    let epochs = device.epochs();
    assert_eq!(epochs[..3], [lost; 3]);
    assert_eq!(epochs.len(), 7);
    assert!(epochs[3..].iter().all(|epoch| *epoch != lost));

    let mut server = Side::new(SERVER, DEVICE, 3, MemoryStore::new());
    server.run();
    link_and_run(&mut device, &mut server);
    assert_eq!(device.store.journal_entries(), []);
    for number in 1..=4 {
        let head = Key::head(&WORKSPACE, &document(number));
        assert!(server.store.reader().contains(&head).unwrap());
    }
}

#[test]
fn nothing_is_released_before_the_peer_holds_all_that_was_replayed() {
    let mut device = Side::new(DEVICE, SERVER, 1, MemoryStore::new());
    device.run();
    (1..=3).for_each(|number| device.edit(number));
    device.run();

    // The link comes up while the replay waits for its first read.
    let mut device = Side::new(DEVICE, SERVER, 2, device.store.wipe());
    let mut server = Side::new(SERVER, DEVICE, 3, MemoryStore::new());
    server.run();
    link_and_run(&mut device, &mut server);
    assert_eq!(device.store.journal_entries(), []);
    for releases in &device.releases {
        let through = releases[&WORKSPACE].through;
        assert!(through.0 >= 3, "{through}");
    }
}

#[test]
fn a_frame_that_cannot_be_read_keeps_the_journal() {
    let mut device = Side::new(DEVICE, SERVER, 1, MemoryStore::new());
    device.run();
    device.edit(1);
    device.run();
    let mut strange = device.store.journal_entries().remove(0);
    strange.frame = Bytes::from_static(b"strange");
    device.store.journal(&[&strange]).unwrap();

    let mut device = Side::new(DEVICE, SERVER, 2, device.store.wipe());
    let mut server = Side::new(SERVER, DEVICE, 3, MemoryStore::new());
    server.run();
    link_and_run(&mut device, &mut server);
    assert!(device.store.journal_entries().contains(&strange));
    assert_eq!(device.releases, []);
}

/// A device that has begun.
fn device() -> Side {
    let mut device = Side::new(DEVICE, SERVER, 1, MemoryStore::new());
    device.run();
    device
}

const DAMAGED: Result<(), EditError> = Err(EditError::Stale {
    code: RefusalCode::Damaged,
});
const EQUIVOCATION: Result<(), EditError> = Err(EditError::Stale {
    code: RefusalCode::Equivocation,
});

#[test]
fn operations_count_on_from_what_a_change_depends_on() {
    let mut device = device();
    let root = genesis();
    let first = change_at(1, 1, 2, &[root], 1);
    let second = change_at(1, 2, 3, &[first.0], 1);
    for start_op in [1, 3, 1_000_000] {
        let wrong = change_at(1, 1, start_op, &[root], 1);
        assert_eq!(device.offer(1, &[&wrong]), DAMAGED);
    }
    // Within one edit the dependency is not stored yet.
    let wrong = change_at(1, 2, 4, &[first.0], 1);
    assert_eq!(device.offer(1, &[&first, &wrong]), DAMAGED);
    assert_eq!(device.offer(1, &[&first, &second]), Ok(()));
    let row = device.row(1);
    assert_eq!(row.head_max_ops, BTreeMap::from([(second.0, 3)]));
    assert_eq!((row.max_op(), row.operations), (Some(3), 2));

    // On top of a head and of something that another change followed: the head decides if it is
    // the later one.
    let branch = change_at(2, 1, 3, &[first.0], 1);
    assert_eq!(device.offer(1, &[&branch]), Ok(()));
    for (start_op, expected) in [(3, DAMAGED), (5, DAMAGED), (4, Ok(()))] {
        let mut heads = [second.0, branch.0];
        heads.sort();
        let merged = change_at(2, 2, start_op, &heads, 1);
        assert_eq!(device.offer(1, &[&merged]), expected, "{start_op}");
    }

    // What `first` ended with is forgotten after a restart; bounds are left.
    let mut device = Side::new(DEVICE, SERVER, 2, MemoryStore::reopen(device.store));
    device.run();
    for (actor, seq, start_op, expected) in [
        (3, 1, 6, DAMAGED),
        (3, 1, 1_000_000, DAMAGED),
        (1, 3, 3, DAMAGED),
        (3, 1, 3, Ok(())),
    ] {
        let late = change_at(actor, seq, start_op, &[first.0], 1);
        let offered = device.offer(1, &[&late]);
        assert_eq!(offered, expected, "{actor} {seq} {start_op}");
    }
    assert_eq!(device.row(1).operations, 5);
}

#[test]
fn no_author_counts_back_whatever_a_change_depends_on() {
    let mut device = device();
    let root = genesis();
    let first = change_at(1, 1, 2, &[root], 1);
    assert_eq!(device.offer(1, &[&first]), Ok(()));
    // What it depends on alone would have it start there; its author was past that.
    let again = change_at(1, 2, 2, &[root], 1);
    assert_eq!(device.offer(1, &[&again]), DAMAGED);
    let other = change_at(2, 1, 2, &[root], 1);
    assert_eq!(device.offer(1, &[&other]), Ok(()));
}

#[test]
fn a_row_without_counters_takes_changes_and_learns_them() {
    let mut device = device();
    let first = change_at(1, 1, 2, &[genesis()], 1);
    assert_eq!(device.offer(1, &[&first]), Ok(()));
    // As an earlier version wrote it.
    let mut row = device.row(1);
    row.head_max_ops.clear();
    row.actor_max_ops.clear();
    row.operations = 0;
    let old = Batch {
        id: BatchId(0),
        after: None,
        puts: vec![(Key::head(&WORKSPACE, &document(1)), row.encode())],
        deletes: Vec::new(),
        journal: None,
        durability: Durability::Barrier,
    };
    let mut store = MemoryStore::reopen(device.store);
    store.apply(&old).unwrap();
    let mut device = Side::new(DEVICE, SERVER, 2, store);
    device.run();
    let second = change_at(1, 2, 3, &[first.0], 1);
    assert_eq!(device.offer(1, &[&second]), Ok(()));
    let row = device.row(1);
    assert_eq!(row.head_max_ops, BTreeMap::from([(second.0, 3)]));
    let wrong = change_at(1, 3, 5, &[second.0], 1);
    assert_eq!(device.offer(1, &[&wrong]), DAMAGED);
}

#[test]
fn of_two_changes_under_one_number_the_first_stored_stays() {
    let mut device = device();
    let one = change_at(1, 1, 2, &[genesis()], 1);
    let other = change_at(1, 1, 2, &[genesis()], 2);
    // In one edit, nothing is stored; in two, the first.
    assert_eq!(device.offer(1, &[&one, &other]), EQUIVOCATION);
    assert_eq!(device.offer(1, &[&one, &one]), Ok(()));
    assert_eq!(device.offer(1, &[&other]), EQUIVOCATION);
    assert_eq!(device.row(1).heads, BTreeSet::from([one.0]));

    // Two stores journalled one each; a third has both frames and nothing else.
    let mut copy = Side::new(DEVICE, SERVER, 9, MemoryStore::new());
    copy.run();
    assert_eq!(copy.offer(1, &[&other]), Ok(()));
    let frames = [
        device.store.journal_entries().remove(0),
        copy.store.journal_entries().remove(0),
    ];
    for (order, kept) in [([0, 1], one.0), ([1, 0], other.0)] {
        let mut store = MemoryStore::new();
        let entries = order.map(|index: usize| &frames[index]);
        store.journal(&entries).unwrap();
        let mut device = Side::new(DEVICE, SERVER, 3, store);
        device.run();
        assert_eq!(device.row(1).heads, BTreeSet::from([kept]));
        let replayed = |event: &&Event| matches!(event, Event::ReplayDone { changes: 1 });
        assert_eq!(device.events.iter().filter(replayed).count(), 1);
    }
}

#[test]
fn a_refused_edit_names_the_change_and_what_is_wrong() {
    let mut device = device();
    let (hash, body) = change_at(1, 1, 1 << 24, &[genesis()], 1);
    let error = device.offer(1, &[&(hash, body)]).unwrap_err().to_string();
    let named = format!("change 1 of document {}", document(1));
    assert!(error.contains(&named), "{error}");
    assert!(error.contains("start operation"), "{error}");
}
