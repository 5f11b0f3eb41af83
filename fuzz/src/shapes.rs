//! Documents of any shape: whatever somebody who takes part writes into one, with Automerge itself and
//! not with the model's editors, and concurrently. Reading it never panics; it is edited, compacted and
//! loaded as any other.

use automerge::transaction::{CommitOptions, Transactable as _};
use automerge::{ActorId, AutoCommit, ObjId, ObjType, ROOT, ReadDoc as _, ScalarValue};
use reconvene_core::guard::parse_change;
use reconvene_core::ids::{ChangeHash, DocumentId, DocumentKind};
use reconvene_core::time::WallTime;
use reconvene_model::export::{canonical_json, export_document};
use reconvene_model::index::{IndexRow, index_row};
use reconvene_model::markdown::{MarkdownMeeting, meeting as to_markdown};
use reconvene_model::snapshot::{inspect, snapshot};
use reconvene_model::{
    COMMAND, Document, ENTRY, EditError, Editor, EncodedChange, INTEGRATION, MEETING,
    MaterialiseCounter, ModelError, Outcome, ProjectId, Purpose, ReadError, RunId, Segment, State,
    TRANSCRIPT, WORKSPACE, genesis, materialise,
};

const KINDS: [DocumentKind; 6] = [MEETING, TRANSCRIPT, WORKSPACE, COMMAND, ENTRY, INTEGRATION];
const ID: DocumentId = DocumentId::from_bytes([7; 16]);
const NAMED: &str = "07070707-0707-0707-0707-070707070707";
const OTHER: &str = "11111111-1111-1111-1111-111111111111";
const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);
const STEPS_MAX: usize = 48;

/// What schema 1 calls things, and some that it does not.
const NAMES: [&str; 64] = [
    "kind",
    "min_reader",
    "schema_version",
    "integrations",
    "projects",
    "settings",
    "action_items",
    "notes",
    "pages",
    "participants",
    "states",
    "summary",
    "tags",
    "title",
    "segments",
    "arguments",
    "result",
    "details",
    "runs",
    "name",
    "active",
    "created_at",
    "archived",
    "deleted_at",
    "project",
    "source",
    "source_version",
    "starts_at",
    "ends_at",
    "created",
    "recording",
    "stopped",
    "error",
    "cause",
    "at",
    "deleted",
    "text",
    "done",
    "assignee",
    "recorder",
    "order",
    "meeting",
    "page",
    "timebase",
    "start",
    "end",
    "speaker",
    "issued_at",
    "member",
    "device",
    "cancel",
    "accepted_at",
    "outcome",
    "code",
    "message",
    "retryable",
    "subject",
    "topic",
    "resolved",
    "adapter",
    "external_id",
    "",
    NAMED,
    OTHER,
];

/// Writes what the bytes say, by two people, and looks at the document from all sides.
pub(super) fn shape(data: &[u8]) {
    let [kind, number, rest @ ..] = data else {
        return;
    };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let number = number % edits(kind);
    let changes = write(kind, Input(rest));
    let mut chunks: Vec<&[u8]> = Vec::new();
    let root = genesis(kind).expect("the kind is known").hash;
    let mut placed = vec![root];
    for (hash, bytes) in &changes {
        // What the guard refuses gets no further, nor what follows from it.
        if let Ok(header) = parse_change(bytes)
            && header.dependencies.iter().all(|hash| placed.contains(hash))
        {
            assert_eq!(header.hash, *hash);
            placed.push(*hash);
            chunks.push(bytes);
        }
    }
    let counter = MaterialiseCounter::new();
    let load = |chunks: &[&[u8]]| {
        let loaded = materialise(kind, chunks.iter().copied(), Purpose::Read, &counter);
        loaded.expect("what automerge wrote, it loads")
    };
    let mut document = load(&chunks);
    assert!(document.set_aside().is_empty() && document.missing().is_empty());
    let seen = look(&document);
    let reversed: Vec<_> = chunks.iter().rev().copied().collect();
    assert_eq!(look(&load(&reversed)), seen, "in another order");
    let mut all: Vec<Vec<u8>> = chunks.iter().map(|chunk| chunk.to_vec()).collect();
    let mut take = |edited: Result<((), Vec<EncodedChange>), EditError<ModelError>>| match edited {
        Ok(((), changes)) => all.extend(changes.into_iter().map(|change| {
            assert!(parse_change(&change.bytes).is_ok());
            change.bytes
        })),
        Err(EditError::Refused(_) | EditError::ReadOnly { .. }) => {}
        Err(error) => panic!("an edit: {error}"),
    };
    take(document.edit(&[9; 16], NOW, |editor| edit(editor, kind, number)));
    for conflict in document.conflicts().unwrap_or_else(unread).iter().take(2) {
        take(document.edit(&[9; 16], NOW, |editor| editor.settle(conflict, 0)));
    }
    let seen = look(&document);
    let chunks: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    compact(kind, &chunks, &seen, &counter);
}

/// What is proven and stored in its place shows the same.
fn compact(kind: DocumentKind, chunks: &[&[u8]], seen: &str, counter: &MaterialiseCounter) {
    let made = snapshot(kind, chunks.iter().copied(), [], counter);
    let made = made.expect("what automerge wrote is compacted");
    let inspected = inspect(kind, &made.bytes, counter).expect("a peer takes it");
    assert_eq!(inspected.len(), chunks.len());
    let loaded = materialise(kind, [made.bytes.as_slice()], Purpose::Read, counter);
    assert_eq!(look(&loaded.expect("it was proven")), seen, "compacted");
}

fn unread<T>(error: ReadError) -> T {
    panic!("it is not read: {error}")
}

/// Everything that is shown of a document, as text.
fn look(document: &Document) -> String {
    let exported = export_document(ID, document).unwrap_or_else(unread);
    let mut text = canonical_json(&exported);
    if let Some(row) = index_row(ID, document).unwrap_or_else(unread) {
        let stored = row.encode();
        let again = IndexRow::decode(&stored).expect("a row that was stored reads");
        assert_eq!(again.encode(), stored);
        text.push_str(&String::from_utf8_lossy(&stored));
    }
    if document.kind() == MEETING {
        let meeting = document.meeting().unwrap_or_else(unread);
        let pages = vec![None; meeting.pages_in_order().len()];
        text.push_str(&to_markdown(&MarkdownMeeting {
            id: ID,
            meeting: &meeting,
            project: None,
            pages: &pages,
        }));
        document.meeting_deletion().unwrap_or_else(unread);
    }
    if document.kind() == TRANSCRIPT {
        let page = document.transcript().unwrap_or_else(unread);
        text.push_str(&to_markdown(&MarkdownMeeting {
            id: ID,
            meeting: &reconvene_model::Meeting::default(),
            project: Some("project"),
            pages: &[Some(page), None],
        }));
        document.transcript_meeting().unwrap_or_else(unread);
    }
    for conflict in document.conflicts().unwrap_or_else(unread) {
        let base = document.base_of(&conflict).unwrap_or_else(unread);
        text.push_str(&format!("{} {base:?}", conflict.id()));
    }
    document.schema().unwrap_or_else(unread);
    text.push_str(&format!("{:?}", document.updated_at()));
    text
}

/// How many edits [`edit`] knows of a kind.
fn edits(kind: DocumentKind) -> u8 {
    match kind {
        MEETING => 12,
        INTEGRATION => 6,
        WORKSPACE => 5,
        TRANSCRIPT => 4,
        COMMAND => 3,
        _ => 1,
    }
}

/// One of the edits that the model has for a kind.
fn edit(editor: &mut Editor, kind: DocumentKind, number: u8) -> Result<(), ModelError> {
    let project = ProjectId::from_bytes([7; 16]);
    match (kind, number) {
        (MEETING, 0) => editor.meeting()?.set_title("edited"),
        (MEETING, 1) => editor.meeting()?.append_note("and more"),
        (MEETING, 2) => editor.meeting()?.splice_notes(0, 1, "more"),
        (MEETING, 3) => editor.meeting()?.set_summary("in short"),
        (MEETING, 4) => editor.meeting()?.reach_state(State::Stopped),
        (MEETING, 5) => editor.meeting()?.set_error("no"),
        (MEETING, 6) => editor.meeting()?.remove_tag("title"),
        (MEETING, 7) => editor.meeting()?.complete_action_item(NAMED, true),
        (MEETING, 8) => editor.meeting()?.add_page(ID, "recorder", 1),
        (MEETING, 9) => editor.meeting()?.set_project(Some(project)),
        (MEETING, 10) => editor.meeting()?.delete([]),
        (MEETING, 11) => editor.meeting()?.restore(),
        (TRANSCRIPT, 0 | 1) => editor.transcript()?.append_segment(&Segment {
            id: ["edited", NAMED][usize::from(number)].to_owned(),
            start: 0,
            end: None,
            speaker: None,
            text: "said".to_owned(),
        }),
        (TRANSCRIPT, 2) => editor.transcript()?.correct_segment(NAMED, "heard"),
        (TRANSCRIPT, 3) => editor.transcript()?.set_speaker(NAMED, Some("Ada")),
        (WORKSPACE, 0) => editor.workspace()?.set_name("edited"),
        (WORKSPACE, 1) => editor.workspace()?.add_project(project, "edited"),
        (WORKSPACE, 2) => editor.workspace()?.rename_project(project, "again"),
        (WORKSPACE, 3) => editor.workspace()?.delete_project(project, true),
        (WORKSPACE, 4) => editor.workspace()?.set_setting("name", Some("value")),
        (COMMAND, 0) => editor.command()?.accept(),
        (COMMAND, 1) => editor.command()?.cancel(),
        (COMMAND, 2) => editor
            .command()?
            .finish(&Outcome::failed("code", "why", true)),
        (ENTRY, 0) => editor.entry()?.resolve("done"),
        (INTEGRATION, 0) => editor.integration()?.set_setting("name", Some("value")),
        (INTEGRATION, 1) => editor.integration()?.remove(true),
        (INTEGRATION, 2) => editor.integration()?.set_position("place"),
        (INTEGRATION, 3) => editor.integration()?.cancel_run(RunId::from_bytes([7; 16])),
        (INTEGRATION, 4) => {
            let run = RunId::from_bytes([7; 16]);
            editor.integration()?.progress(run, 1, Some(2), 3)
        }
        (INTEGRATION, 5) => editor
            .integration()?
            .forget_run(RunId::from_bytes([0x11; 16])),
        _ => Ok(()),
    }
}

/// Bytes that are read as choices.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn index(&mut self, below: usize) -> Option<usize> {
        Some(usize::from(self.byte()?) % below)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.byte()?).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(taken)
    }

    fn text(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes()?).into_owned())
    }

    fn number(&mut self) -> Option<i64> {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().rev().zip(self.bytes()?) {
            *to = *from;
        }
        Some(i64::from_be_bytes(bytes))
    }

    fn name(&mut self) -> Option<String> {
        match self.byte()? {
            known @ 0..64 => Some(NAMES[usize::from(known)].to_owned()),
            64..80 => Some(format!("active:{NAMED}")),
            _ => self.text(),
        }
    }

    fn scalar(&mut self) -> Option<ScalarValue> {
        Some(match self.byte()? % 12 {
            0 => ScalarValue::Null,
            1 => ScalarValue::Boolean(self.byte()? % 2 == 1),
            2 | 3 => ScalarValue::Int(self.number()?),
            4 => ScalarValue::Uint(self.number()?.cast_unsigned()),
            5 => ScalarValue::F64(f64::from_bits(self.number()?.cast_unsigned())),
            6 => ScalarValue::Timestamp(self.number()?),
            7 => ScalarValue::counter(self.number()?),
            8 => ScalarValue::Bytes(self.bytes()?.to_vec()),
            9 => self.name()?.into(),
            _ => self.text()?.into(),
        })
    }
}

/// One of the two who write, and what they may write into.
struct Writer {
    automerge: AutoCommit,
    objects: Vec<(ObjId, ObjType)>,
}

impl Writer {
    fn new(kind: DocumentKind, actor: u8) -> Self {
        let mut automerge = AutoCommit::new_with_encoding(automerge::TextEncoding::Utf16CodeUnit);
        automerge.set_actor(ActorId::from([actor; 16]));
        let genesis = genesis(kind).expect("the kind is known");
        let loaded = automerge.load_incremental(genesis.bytes);
        assert!(loaded.is_ok());
        let mut writer = Self {
            automerge,
            objects: Vec::new(),
        };
        writer.find_objects();
        writer
    }

    fn find_objects(&mut self) {
        let mut objects = vec![(ROOT, ObjType::Map)];
        let mut at = 0;
        while let Some((object, _)) = objects.get(at).cloned() {
            at += 1;
            if objects.len() > 64 {
                break;
            }
            let found: Vec<_> = match self.automerge.object_type(&object) {
                Ok(ObjType::Map | ObjType::Table) => {
                    let keys: Vec<String> = self.automerge.keys(&object).collect();
                    let all = keys.into_iter().flat_map(|key| {
                        let values = self.automerge.get_all(&object, key);
                        values.unwrap_or_default()
                    });
                    all.collect()
                }
                Ok(ObjType::List) => (0..self.automerge.length(&object).min(8))
                    .flat_map(|at| self.automerge.get_all(&object, at).unwrap_or_default())
                    .collect(),
                _ => Vec::new(),
            };
            for (value, id) in found {
                if let automerge::Value::Object(object_type) = value {
                    objects.push((id, object_type));
                }
            }
        }
        self.objects = objects;
    }

    /// Does one thing; `None` if there are no bytes left to say what. What Automerge refuses does not
    /// happen.
    fn step(&mut self, what: u8, input: &mut Input<'_>) -> Option<()> {
        let (object, object_type) = self.objects[input.index(self.objects.len())?].clone();
        let length = self.automerge.length(&object);
        let made = match (object_type, what % 8) {
            (ObjType::Text, _) => {
                let at = input.index(length + 1)?;
                let removed = input.index(length - at + 1)?;
                let text = input.text()?;
                let removed = isize::try_from(removed).unwrap_or(0);
                self.automerge.splice_text(&object, at, removed, &text)
            }
            (ObjType::List, 0..4) => {
                let at = input.index(length + 1)?;
                self.automerge.insert(&object, at, input.scalar()?)
            }
            (ObjType::List, _) => {
                let at = input.index(length.max(1))?;
                self.automerge.delete(&object, at)
            }
            (_, 0..4) => self.automerge.put(&object, input.name()?, input.scalar()?),
            (_, 4 | 5) => {
                let name = input.name()?;
                let object_type =
                    [ObjType::Map, ObjType::Map, ObjType::Text, ObjType::List][input.index(4)?];
                let made = self.automerge.put_object(&object, name, object_type);
                made.map(|id| self.objects.push((id, object_type)))
            }
            (_, 6) => self.automerge.delete(&object, input.name()?),
            _ => {
                let (name, by) = (input.name()?, input.number()?);
                self.automerge.increment(&object, name, by)
            }
        };
        drop(made.err());
        Some(())
    }

    fn commit(&mut self, time: i64) {
        self.automerge
            .commit_with(CommitOptions::default().with_time(time));
    }
}

/// The changes that two people make, as the bytes say, in an order in which each follows what it depends
/// on.
fn write(kind: DocumentKind, mut input: Input<'_>) -> Vec<(ChangeHash, Vec<u8>)> {
    let mut writers = [Writer::new(kind, 1), Writer::new(kind, 2)];
    let mut who = 0;
    for _ in 0..STEPS_MAX {
        let Some(what) = input.byte() else {
            break;
        };
        match what % 16 {
            13 => writers[who].commit(input.number().unwrap_or(0)),
            14 => who = 1 - who,
            15 => merge(&mut writers, who),
            _ => {
                if writers[who].step(what, &mut input).is_none() {
                    break;
                }
            }
        }
    }
    merge(&mut writers, 0);
    let root = genesis(kind).expect("the kind is known").hash;
    let changes = writers[0].automerge.get_changes(&[]).into_iter();
    let changes = changes.map(|mut change| {
        let hash = ChangeHash::from_bytes(change.hash().0);
        (hash, change.bytes().into_owned())
    });
    changes.filter(|(hash, _)| *hash != root).collect()
}

/// One of them hears of everything that the other did.
fn merge(writers: &mut [Writer; 2], into: usize) {
    let (left, right) = writers.split_at_mut(1);
    let (to, from) = match into {
        0 => (&mut left[0], &mut right[0]),
        _ => (&mut right[0], &mut left[0]),
    };
    to.commit(0);
    from.commit(0);
    let merged = to.automerge.merge(&mut from.automerge);
    assert!(merged.is_ok());
    to.find_objects();
}
