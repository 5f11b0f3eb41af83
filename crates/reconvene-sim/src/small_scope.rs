//! Everything that three replicas can do in a few operations: all programs, all ways in which they hear
//! of each other meanwhile, and all orders in which a reader gets the changes. No engine takes part;
//! changes are handed over directly.
//!
//! What must hold is worked out from who saw what, without a document: what is set apart is a conflict
//! with exactly the values that nobody wrote over; a state that was reached stays so; what was added
//! stays unless whoever removed it had seen it; a deletion has effect where its author had seen
//! everything, and otherwise keeps what it did not see, and is told.

use std::collections::{BTreeMap, BTreeSet};

use reconvene_core::ids::{ChangeHash, DocumentId, DocumentKind, MemberId, WorkspaceId};
use reconvene_core::time::WallTime;
use reconvene_model::entries;
use reconvene_model::export::{canonical_json, export_document};
use reconvene_model::index::{IndexRow, index_row};
use reconvene_model::meeting::{Meeting, State};
use reconvene_model::{
    COMMAND, Document, ENTRY, EncodedChange, EntryDraft, INTEGRATION, MEETING, MaterialiseCounter,
    Purpose, TRANSCRIPT, WORKSPACE, materialise, snapshot,
};

use crate::edits::{ModelEdit, STATES, make_all, name, project};

/// How many replicas there are.
const REPLICAS: usize = 3;

const DOCUMENT: DocumentId = DocumentId::from_bytes([9; 16]);

/// In whose inbox it is filed what needs somebody.
const MEMBER: MemberId = MemberId::from_bytes([7; 16]);

/// A set of the operations of a history, by their places in it.
type Places = u32;

/// What is exhausted.
#[derive(Clone, Debug)]
pub struct Scope {
    /// For people.
    pub name: &'static str,
    /// The kind of document.
    pub kind: DocumentKind,
    /// What everybody has seen before.
    pub base: Base,
    /// What they do.
    pub edits: Vec<ModelEdit>,
    /// Most operations of one replica.
    pub program_max: usize,
    /// Most operations of a history.
    pub operations_max: usize,
    /// Whether replicas hear of each other between their operations; otherwise only in the end.
    pub is_live: bool,
    /// Whether a reader also gets changes ahead of those they follow from.
    pub any_order: bool,
}

impl Scope {
    /// What its kind of document is called.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            MEETING => "meeting",
            WORKSPACE => "workspace",
            TRANSCRIPT => "transcript",
            COMMAND => "command",
            ENTRY => "entry",
            _ => "integration",
        }
    }
}

/// What everybody has seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing: each of them begins the document.
    Nothing,
    /// One thing of each kind that can be edited.
    Something,
    /// A register that two wrote apart.
    Conflict,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Histories: programs of all replicas, with who saw what when.
    pub histories: u64,
    /// Operations that the model refused, or that changed nothing: such a program is a shorter one.
    pub without_effect: u64,
    /// Orders in which a reader got all changes.
    pub orders: u64,
    /// Histories in which a deletion met what it had not seen.
    pub deletions_outlived: u64,
    /// Histories that end with a conflict.
    pub conflicts: u64,
}

impl Counts {
    /// These and those.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            histories: self.histories + other.histories,
            without_effect: self.without_effect + other.without_effect,
            orders: self.orders + other.orders,
            deletions_outlived: self.deletions_outlived + other.deletions_outlived,
            conflicts: self.conflicts + other.conflicts,
        }
    }
}

/// The kinds of documents, with what is done to them first.
const KINDS: [(DocumentKind, &[ModelEdit]); 6] = [
    (
        MEETING,
        &[
            ModelEdit::CreateMeeting(0),
            ModelEdit::SetNotes(0),
            ModelEdit::AddTag(0),
            ModelEdit::AddParticipant(0),
            ModelEdit::AddActionItem(0),
            ModelEdit::AddPage(0),
        ],
    ),
    (
        WORKSPACE,
        &[
            ModelEdit::SetName(0),
            ModelEdit::AddProject(0),
            ModelEdit::SetSetting(0, 2),
        ],
    ),
    (
        TRANSCRIPT,
        &[ModelEdit::CreatePage(0), ModelEdit::AppendSegment(0)],
    ),
    (COMMAND, &[ModelEdit::Issue(0)]),
    (ENTRY, &[ModelEdit::File(0)]),
    (
        INTEGRATION,
        &[ModelEdit::CreateIntegration(0), ModelEdit::StartRun(0)],
    ),
];

/// Every edit there is of a kind of document.
fn edits_of(kind: DocumentKind) -> Vec<ModelEdit> {
    let has_conflicts = matches!(kind, MEETING | WORKSPACE);
    let all = ModelEdit::ALL.iter().copied();
    all.filter(|edit| edit.kind().map_or(has_conflicts, |edited| edited == kind))
        .collect()
}

/// Two operations of a history, whoever does them, whichever they are: of every kind of document, from
/// every beginning.
pub fn pairs() -> Vec<Scope> {
    let bases = [Base::Nothing, Base::Something, Base::Conflict];
    let scopes = KINDS.into_iter().flat_map(|(kind, _)| {
        bases.into_iter().filter_map(move |base| {
            let has_conflicts = matches!(kind, MEETING | WORKSPACE);
            (base != Base::Conflict || has_conflicts).then(|| Scope {
                name: "pairs",
                kind,
                base,
                edits: edits_of(kind),
                program_max: 2,
                operations_max: 2,
                is_live: true,
                any_order: true,
            })
        })
    });
    scopes.collect()
}

/// Three operations of a history: of each kind of document those that meet.
pub fn triples() -> Vec<Scope> {
    use ModelEdit as E;
    let triple = |kind, base, edits: &[E]| Scope {
        name: "triples",
        kind,
        base,
        edits: edits.to_vec(),
        program_max: 2,
        operations_max: 3,
        is_live: true,
        any_order: true,
    };
    let lives = [
        E::AppendNote(1),
        E::ReachState(1),
        E::ReachState(4),
        E::AddTag(0),
        E::RemoveTag(0),
        E::Delete,
        E::Restore,
    ];
    let settles = [
        E::SetProject(1),
        E::SetProject(4),
        E::Settle(0),
        E::Settle(1),
    ];
    let projects = [
        E::RenameProject(0, 1),
        E::RenameProject(0, 2),
        E::DeleteProject(0, true),
        E::SetActiveProject(0),
    ];
    let segments = [
        E::AppendSegment(1),
        E::AppendSegment(2),
        E::CorrectSegment(0, 1),
        E::CorrectSegment(0, 2),
    ];
    let outcomes = [E::Cancel, E::Accept, E::Finish(0), E::Finish(1)];
    let entries = [E::File(2), E::Find(1), E::Resolve(0), E::Resolve(1)];
    let runs = [
        E::Progress(0, 1),
        E::CancelRun(0),
        E::EndRun(0),
        E::ForgetRun(0),
    ];
    vec![
        triple(MEETING, Base::Something, &lives),
        triple(MEETING, Base::Conflict, &settles),
        triple(WORKSPACE, Base::Something, &projects),
        triple(TRANSCRIPT, Base::Something, &segments),
        triple(COMMAND, Base::Something, &outcomes),
        triple(ENTRY, Base::Something, &entries),
        triple(INTEGRATION, Base::Something, &runs),
    ]
}

/// Two operations of each of the three, who hear of each other in the end.
pub fn two_each() -> Vec<Scope> {
    use ModelEdit as E;
    let each = |kind, edits: &[E]| Scope {
        name: "two each",
        kind,
        base: Base::Something,
        edits: edits.to_vec(),
        program_max: 2,
        operations_max: 6,
        is_live: false,
        any_order: false,
    };
    vec![
        each(MEETING, &[E::AppendNote(1), E::ReachState(4), E::Delete]),
        each(WORKSPACE, &[E::RenameProject(0, 1), E::RenameProject(0, 2)]),
        each(TRANSCRIPT, &[E::AppendSegment(1), E::CorrectSegment(0, 1)]),
    ]
}

/// Plays all histories of a scope whose first operation is this one of its edits.
///
/// # Panics
/// If anything that must hold does not; the message says what was done.
pub fn exhaust(scope: &Scope, first: usize) -> Counts {
    let base = base(scope);
    let mut search = Search {
        scope,
        first,
        torn: conflicts(&base).into_keys().collect(),
        replicas: std::array::from_fn(|_| Replica {
            document: base.clone(),
            seen: 0,
            program: 0,
        }),
        base,
        made: Vec::new(),
        counts: Counts::default(),
    };
    search.go();
    search.counts
}

fn base(scope: &Scope) -> Document {
    let mut base = Document::create(scope.kind).expect("its kind is known");
    let edits = KINDS.iter().find(|(kind, _)| *kind == scope.kind);
    let edits = edits.map_or(&[][..], |(_, edits)| edits);
    if scope.base == Base::Nothing {
        return base;
    }
    make_all(edits, &mut base, &[0xb0; 16], moment(0)).expect("the base can be made");
    if scope.base == Base::Conflict {
        let apart = match scope.kind {
            MEETING => [ModelEdit::SetProject(3), ModelEdit::SetProject(4)],
            _ => [ModelEdit::SetName(3), ModelEdit::SetName(4)],
        };
        let mut copies = [base.clone(), base.clone()];
        for (number, edit) in (0xb1..).zip(apart) {
            let copy = &mut copies[usize::from(number - 0xb1_u8)];
            let made = edit.make(copy, &[number; 16], moment(0));
            let made = made.expect("a register can be written");
            apply(&mut base, &made);
        }
    }
    base
}

/// What somebody did.
#[derive(Clone, Debug)]
struct Made {
    by: usize,
    edit: ModelEdit,
    /// What they had seen of the rest, and done themselves.
    after: Places,
    changes: Vec<EncodedChange>,
    writes: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
struct Replica {
    document: Document,
    seen: Places,
    program: usize,
}

struct Search<'a> {
    scope: &'a Scope,
    first: usize,
    base: Document,
    /// Registers that are in conflict in the beginning.
    torn: BTreeSet<String>,
    replicas: [Replica; REPLICAS],
    made: Vec<Made>,
    counts: Counts,
}

impl Search<'_> {
    /// Looks at the history as it is, and at all that go on from it.
    fn go(&mut self) {
        if self.is_one_of_its_kind() {
            self.look();
        }
        if self.made.len() == self.scope.operations_max {
            return;
        }
        for by in 0..REPLICAS {
            if self.replicas[by].program == self.scope.program_max {
                continue;
            }
            for after in self.views(by) {
                if !self.is_first_of_its_like(by, after) {
                    continue;
                }
                let before = self.replicas[by].clone();
                self.hear(by, after);
                let heard = self.replicas[by].clone();
                for (place, edit) in self.scope.edits.iter().enumerate() {
                    if self.made.is_empty() && place != self.first {
                        continue;
                    }
                    if self.act(by, *edit) {
                        self.go();
                        self.made.pop();
                        self.replicas[by] = heard.clone();
                    }
                }
                self.replicas[by] = before;
            }
        }
    }

    /// What a replica may have seen by now: all sets that hold what what is in them follows from.
    fn views(&self, by: usize) -> Vec<Places> {
        let seen = self.replicas[by].seen;
        if !self.scope.is_live {
            return vec![seen];
        }
        let all = (1 << self.made.len()) - 1;
        let is_whole = |view: &Places| {
            let mut held = self.made.iter().enumerate();
            held.all(|(place, made)| view & (1 << place) == 0 || made.after & !view == 0)
        };
        (0..=all)
            .filter(|view| view & seen == seen)
            .filter(is_whole)
            .collect()
    }

    /// Of histories that differ only in the order of what nobody saw of each other one is enough: the one
    /// in which whoever comes first does it first.
    fn is_first_of_its_like(&self, by: usize, after: Places) -> bool {
        let last = (Places::BITS - after.leading_zeros()) as usize;
        self.made[last..].iter().all(|made| made.by < by)
    }

    /// Whether those who did something are the first of the replicas. With others in their places, in
    /// the same order, it is the same history: nothing but that order tells replicas apart.
    fn is_one_of_its_kind(&self) -> bool {
        let did = |replica| self.made.iter().any(|made| made.by == replica);
        did(0) && (did(1) || !did(2))
    }

    fn hear(&mut self, by: usize, after: Places) {
        let replica = &mut self.replicas[by];
        for (place, made) in self.made.iter().enumerate() {
            if after & !replica.seen & (1 << place) != 0 {
                apply(&mut replica.document, &made.changes);
            }
        }
        replica.seen = after;
    }

    /// Has a replica do something; whether that changed anything.
    fn act(&mut self, by: usize, edit: ModelEdit) -> bool {
        let now = moment(self.made.len() + 1);
        let place = self.made.len();
        let replica = &mut self.replicas[by];
        let writes = writes(&replica.document, edit, now);
        let state = state(&replica.document);
        let actor = [u8::try_from(by).expect("they are few") + 1; 16];
        let changes = edit.make(&mut replica.document, &actor, now);
        let Some(changes) = changes.filter(|changes| !changes.is_empty()) else {
            self.counts.without_effect += 1;
            return false;
        };
        let after = replica.seen;
        replica.seen |= 1 << place;
        replica.program += 1;
        let is_behind = self::state(&replica.document) < state;
        self.made.push(Made {
            by,
            edit,
            after,
            changes,
            writes,
        });
        if is_behind {
            self.fail("the state goes back with an edit");
        }
        true
    }

    fn look(&mut self) {
        self.counts.histories += 1;
        let all: Places = (1 << self.made.len()) - 1;
        let mut document = self.base.clone();
        for made in &self.made {
            apply(&mut document, &made.changes);
        }
        let expected = export(&document);
        for replica in &self.replicas {
            let mut replica = replica.clone();
            for (place, made) in self.made.iter().enumerate() {
                if replica.seen & (1 << place) == 0 {
                    apply(&mut replica.document, &made.changes);
                }
            }
            if export(&replica.document) != expected {
                self.fail("one of them reads it otherwise");
            }
        }
        let base = self.base.clone();
        self.deliver(&base, 0, all, &expected);
        if self.made.len() <= 2 {
            self.save(&expected);
        }
        self.check(&document, all);
    }

    /// Hands a reader what is missing, in every order.
    fn deliver(&mut self, document: &Document, held: Places, all: Places, expected: &str) {
        if held == all {
            self.counts.orders += 1;
            if export(document) != expected {
                self.fail("it depends on the order of delivery");
            }
            return;
        }
        let before = state(document);
        for place in 0..self.made.len() {
            let made = &self.made[place];
            let is_next = held & (1 << place) == 0;
            if !is_next || (!self.scope.any_order && made.after & !held != 0) {
                continue;
            }
            let mut document = document.clone();
            apply(&mut document, &made.changes);
            if state(&document) < before {
                self.fail("the state goes back with a delivery");
            }
            self.deliver(&document, held | (1 << place), all, expected);
        }
    }

    /// Saves it as compaction does, with proof, and reads it again.
    fn save(&self, expected: &str) {
        if self.scope.base != Base::Nothing {
            return; // The changes of the base are not kept.
        }
        let counter = MaterialiseCounter::new();
        let changes = || self.made.iter().flat_map(|made| &made.changes);
        let chunks = changes().map(|change| change.bytes.as_slice());
        let hashes: Vec<_> = changes().map(|change| change.hash).collect();
        let saved = match snapshot::snapshot(self.scope.kind, chunks, &hashes, &counter) {
            Ok(saved) => saved.bytes,
            Err(error) => self.fail(&format!("it cannot be saved: {error}")),
        };
        let read = materialise(self.scope.kind, [saved.as_slice()], Purpose::Read, &counter);
        match read {
            Ok(document) if export(&document) == expected => {}
            Ok(_) => self.fail("saved and loaded it reads otherwise"),
            Err(error) => self.fail(&format!("what was saved does not load: {error}")),
        }
    }

    fn check(&mut self, document: &Document, all: Places) {
        let conflicts = conflicts(document);
        self.check_registers(&conflicts);
        self.check_filed(document, &conflicts);
        self.counts.conflicts += u64::from(!conflicts.is_empty());
        match self.scope.kind {
            MEETING => self.check_meeting(document, all, !conflicts.is_empty()),
            TRANSCRIPT => {
                let page = document.transcript().expect("it reads");
                for made in &self.made {
                    if let ModelEdit::AppendSegment(number) = made.edit {
                        let id = name("segment", number);
                        if !page.segments.iter().any(|segment| segment.id == id) {
                            self.fail("a segment is lost");
                        }
                    }
                }
            }
            WORKSPACE => {
                let workspace = document.workspace().expect("it reads");
                for made in &self.made {
                    if let ModelEdit::AddProject(number) = made.edit
                        && !workspace.projects.contains_key(&project(number))
                    {
                        self.fail("a project is lost");
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether somebody who had seen this did one of those.
    fn is_followed(&self, place: usize, by: impl Fn(ModelEdit) -> bool) -> bool {
        let mut made = self.made.iter();
        made.any(|made| made.after & (1 << place) != 0 && by(made.edit))
    }

    /// A register that was written has a conflict with exactly the values that nobody wrote over, if
    /// they differ; one that was not is as it was.
    fn check_registers(&self, conflicts: &BTreeMap<String, BTreeSet<String>>) {
        let mut written: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (place, made) in self.made.iter().enumerate() {
            for (path, value) in &made.writes {
                let values = written.entry(path).or_default();
                let mut later = self.made.iter();
                let is_over = later.any(|later| {
                    let mut writes = later.writes.iter();
                    later.after & (1 << place) != 0 && writes.any(|(of, _)| of == path)
                });
                if !is_over {
                    values.insert(value);
                }
            }
        }
        for (path, values) in &written {
            let shown = conflicts.get(*path);
            let shown: BTreeSet<_> = shown.into_iter().flatten().map(String::as_str).collect();
            let expected = match values.len() {
                1 => BTreeSet::new(),
                _ => values.clone(),
            };
            if shown != expected {
                self.fail(&format!("{path} shows {shown:?} and not {expected:?}"));
            }
        }
        for path in &self.torn {
            if !written.contains_key(path.as_str()) && !conflicts.contains_key(path) {
                self.fail(&format!("the conflict of {path} is gone"));
            }
        }
    }

    /// What needs somebody is filed in an inbox: every conflict but those about when something was made,
    /// and a deletion that did not see everything.
    fn check_filed(&self, document: &Document, conflicts: &BTreeMap<String, BTreeSet<String>>) {
        let (kind, workspace) = (self.scope.kind, WorkspaceId::from_bytes([1; 16]));
        if !matches!(kind, MEETING | WORKSPACE) {
            return;
        }
        let row = index_row(DOCUMENT, document).expect("it reads");
        let drafts = row.map_or(Vec::new(), |row| {
            let shown = entries::shown_by((workspace, DOCUMENT), document, &row, MEMBER);
            shown.expect("it reads")
        });
        let (deletions, others): (Vec<_>, Vec<_>) = drafts
            .iter()
            .partition(|draft| draft.topic.starts_with(entries::DELETION));
        let paths: BTreeSet<_> = others
            .iter()
            .filter_map(|draft| draft.details.get(entries::PATH))
            .collect();
        let asked = conflicts
            .keys()
            .filter(|path| !path.ends_with("created_at"));
        if others.len() != paths.len() || paths != asked.collect() {
            self.fail(&format!("of {conflicts:?} it is filed {paths:?}"));
        }
        let outlived = (kind == MEETING)
            .then(|| document.meeting().expect("it reads").deletion)
            .flatten()
            .is_some_and(|deletion| !deletion.saw_all);
        match deletions[..] {
            [draft] if outlived => self.check_entry(draft),
            [] if outlived => self.fail("that a deletion was outlived is not filed"),
            _ => {}
        }
    }

    /// Two devices that file the same make one entry, which is open and has no conflict.
    fn check_entry(&self, draft: &EntryDraft) {
        let file = |actor: u8| {
            let mut entry = Document::create(ENTRY).expect("its kind is known");
            let made = entry.edit(&[actor; 16], moment(1), |editor| {
                editor.entry()?.find(draft)
            });
            let ((), made) = made.expect("it is filed");
            (entry, made)
        };
        let [(mut one, ones), (mut other, others)] = [file(0xe1), file(0xe2)];
        apply(&mut one, &others);
        apply(&mut other, &ones);
        let filed = one.entry().expect("it reads");
        let is_about_it = filed.subject.as_ref().is_some_and(|subject| {
            subject.kind == entries::DOCUMENT && subject.id == DOCUMENT.to_string()
        });
        let is_open = filed.resolved.is_none() && filed.conflicts.is_empty();
        if !is_about_it || !is_open || filed.code != "deletion_without_effect" {
            self.fail(&format!("it is filed as {filed:?}"));
        }
        if export(&one) != export(&other) {
            self.fail("two devices read another entry");
        }
    }

    fn check_meeting(&mut self, document: &Document, all: Places, has_conflicts: bool) {
        let meeting = document.meeting().expect("it reads");
        let reached = self.made.iter().filter_map(|made| match made.edit {
            ModelEdit::ReachState(number) => Some(STATES[usize::from(number) % STATES.len()]),
            ModelEdit::CreateMeeting(_) => Some(State::Created),
            _ => None,
        });
        let before = state(&self.base);
        if meeting.state != reached.max().max(before) {
            self.fail(&format!("the state is {:?}", meeting.state));
        }
        self.check_added(&meeting);
        self.check_deletion(document, &meeting, all);
        let row = index_row(DOCUMENT, document).expect("it reads");
        let Some(IndexRow::Meeting(row)) = row else {
            self.fail("a meeting has a row");
        };
        let is_told = row.deletion == meeting.deletion && row.state == meeting.state;
        if !is_told || row.has_conflicts != has_conflicts {
            self.fail(&format!("its row is {row:?}"));
        }
    }

    /// What was added is there unless somebody who had seen it removed it.
    fn check_added(&self, meeting: &Meeting) {
        type Is = fn(ModelEdit) -> bool;
        let sets: [(Is, Is, bool, bool); 2] = [
            (
                |edit| matches!(edit, ModelEdit::AddTag(0)),
                |edit| matches!(edit, ModelEdit::RemoveTag(0)),
                self.scope.base != Base::Nothing,
                meeting.tags.contains(&name("tag", 0)),
            ),
            (
                |edit| matches!(edit, ModelEdit::AddParticipant(0)),
                |edit| matches!(edit, ModelEdit::RemoveParticipant(0)),
                self.scope.base != Base::Nothing,
                meeting.participants.contains_key(&name("who", 0)),
            ),
        ];
        for (adds, removes, was_there, is_there) in sets {
            let mut added = self.made.iter().enumerate();
            let stays =
                added.any(|(place, made)| adds(made.edit) && !self.is_followed(place, removes));
            let is_removed = self.made.iter().any(|made| removes(made.edit));
            if is_there != (stays || (was_there && !is_removed)) {
                self.fail("what was added is not there, or what was removed is");
            }
        }
    }

    /// A deletion has effect if whoever deleted had seen everything; else what they had not seen is kept
    /// as if nobody had deleted, and the deletion is told.
    fn check_deletion(&mut self, document: &Document, meeting: &Meeting, all: Places) {
        let ends = |edit| matches!(edit, ModelEdit::Delete | ModelEdit::Restore);
        let made = || self.made.iter().enumerate();
        let deletions: Vec<_> = made()
            .filter(|(_, made)| made.edit == ModelEdit::Delete)
            .filter(|(place, _)| !self.is_followed(*place, ends))
            .map(|(place, _)| place)
            .collect();
        let mut heads = made().filter(|(place, _)| !self.is_followed(*place, |_| true));
        let saw_all = heads.all(|(place, _)| deletions.contains(&place));
        match &meeting.deletion {
            None if deletions.is_empty() => return,
            Some(deletion) if !deletions.is_empty() && deletion.saw_all == saw_all => {}
            found => self.fail(&format!(
                "it was deleted by {deletions:?}, of all {saw_all}, and says {found:?}"
            )),
        }
        self.counts.deletions_outlived += u64::from(!saw_all);
        // What the others wrote is as it would be without those deletions that nothing follows from.
        let is_last = |place: &&usize| !self.is_followed(**place, |_| true);
        let left_out = deletions.iter().filter(is_last);
        let left_out = left_out.fold(0, |places, place| places | (1 << place));
        let mut without = self.base.clone();
        for (place, made) in self.made.iter().enumerate() {
            if all & !left_out & (1 << place) != 0 {
                apply(&mut without, &made.changes);
            }
        }
        let strip = |document: &Document| Meeting {
            deletion: None,
            ..document.meeting().expect("it reads")
        };
        if strip(&without) != strip(document) {
            self.fail("a deletion took something with it");
        }
    }

    fn fail(&self, what: &str) -> ! {
        let done: Vec<_> = self
            .made
            .iter()
            .map(|made| (made.by, made.edit, format!("after {:b}", made.after)))
            .collect();
        panic!("{what}: {:?} after {done:?}", self.scope.base);
    }
}

/// The registers that an edit writes, with what, as exports show it.
fn writes(document: &Document, edit: ModelEdit, now: WallTime) -> Vec<(String, String)> {
    let text = |what: &str, number: u8| serde_json::Value::from(name(what, number)).to_string();
    let none = || serde_json::Value::Null.to_string();
    let id = |number: u8| serde_json::Value::from(project(number).to_string()).to_string();
    let of = |container: &str, entry: &str, field: &str| format!("{container}/{entry}/{field}");
    let at = now.as_millis().to_string();
    let one = |path: String, value: String| vec![(path, value)];
    match edit {
        ModelEdit::CreateMeeting(_) => one("created_at".to_owned(), at),
        ModelEdit::SetProject(0) => one("project".to_owned(), none()),
        ModelEdit::SetProject(number) => one("project".to_owned(), id(number)),
        ModelEdit::SetSource(number) => one("source".to_owned(), text("source", number)),
        ModelEdit::SetSourceVersion(number) => {
            one("source_version".to_owned(), text("version", number))
        }
        ModelEdit::CompleteActionItem(0, done) => {
            one(of("action_items", "item 0", "done"), done.to_string())
        }
        ModelEdit::SetActionItemText(0, to) => {
            one(of("action_items", "item 0", "text"), text("do", to))
        }
        ModelEdit::AssignActionItem(0, who) if who > 0 => {
            one(of("action_items", "item 0", "assignee"), text("who", who))
        }
        ModelEdit::SetName(number) => one("name".to_owned(), text("workspace", number)),
        ModelEdit::RenameProject(0, to) => {
            let path = of("projects", &project(0).to_string(), "name");
            one(path, text("other", to))
        }
        ModelEdit::ArchiveProject(0, archived) => {
            let path = of("projects", &project(0).to_string(), "archived");
            one(path, archived.to_string())
        }
        ModelEdit::DeleteProject(0, deleted) => {
            let path = of("projects", &project(0).to_string(), "deleted_at");
            one(path, if deleted { at } else { none() })
        }
        ModelEdit::CorrectSegment(0, to) => {
            one(of("segments", "segment 0", "text"), text("meant", to))
        }
        ModelEdit::SetSpeaker(0, who) => {
            let value = if who > 0 { text("who", who) } else { none() };
            one(of("segments", "segment 0", "speaker"), value)
        }
        ModelEdit::Settle(choice) => {
            let conflicts = document.conflicts().expect("it reads");
            let Some(conflict) = conflicts.first() else {
                return Vec::new();
            };
            let chosen = &conflict.values[usize::from(choice) % conflict.values.len()];
            one(conflict.path.clone(), chosen.value.to_string())
        }
        _ => Vec::new(),
    }
}

/// The conflicts of a document: each register with its values.
fn conflicts(document: &Document) -> BTreeMap<String, BTreeSet<String>> {
    let conflicts = match document.kind() {
        TRANSCRIPT => document.transcript().expect("it reads").conflicts,
        _ => document.conflicts().expect("it reads"),
    };
    let values = conflicts.into_iter().map(|conflict| {
        let values = conflict.values.iter();
        let values = values.map(|value| value.value.to_string());
        (conflict.path.clone(), values.collect())
    });
    values.collect()
}

fn state(document: &Document) -> Option<State> {
    match document.kind() {
        MEETING => document.meeting().expect("it reads").state,
        _ => None,
    }
}

fn apply(document: &mut Document, changes: &[EncodedChange]) {
    let applied = document.apply(changes.iter().map(|change| change.bytes.as_slice()));
    applied.expect("changes that were made can be applied");
}

fn export(document: &Document) -> String {
    let missing: Vec<ChangeHash> = document.missing();
    assert!(missing.is_empty(), "all that was delivered is in it");
    canonical_json(&export_document(DOCUMENT, document).expect("it reads"))
}

fn moment(number: usize) -> WallTime {
    let seconds = i64::try_from(number).expect("it is small");
    WallTime::from_millis(1_700_000_000_000 + seconds * 1_000)
}

#[cfg(test)]
mod tests;
