//! Histories to attack: what people write through the model, and everything else that Automerge can
//! write, by three actors who fork and merge.

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, Automerge, Change, ObjId, ObjType, ROOT, ReadDoc, ScalarValue};
use reconvene_core::ids::DocumentKind;

use super::Dice;
use crate::genesis::{MEETING, TRANSCRIPT, WORKSPACE};
use crate::materialise::seed;
use crate::testing::Replica;
use crate::{ProjectId, Segment, State};

/// The changes of one document, each after its dependencies.
pub(super) struct History {
    pub(super) kind: DocumentKind,
    pub(super) changes: Vec<Change>,
}

impl History {
    #[expect(
        clippy::disallowed_methods,
        reason = "a history that the model alone does not write; its bytes go through the guard"
    )]
    pub(super) fn drawn(seed_number: u64) -> Self {
        let mut dice = Dice(seed_number ^ 0x5eed);
        let kind = [MEETING, MEETING, TRANSCRIPT, WORKSPACE][dice.below(4)];
        let mut people: Vec<_> = [1, 2].map(|device| Replica::new(kind, device)).into();
        for _ in 0..3 {
            for person in &mut people {
                write(person, kind, &mut dice);
            }
        }
        let (one, other) = people.split_at_mut(1);
        one[0].sync(&mut other[0]);
        let mut base = seed(kind).unwrap();
        let bodies = one[0].changes.iter().map(|change| change.bytes.clone());
        let changes = bodies.map(|body| Change::from_bytes(body).unwrap());
        base.apply_changes(changes).unwrap();
        let mut apart: Vec<_> = [3_u8, 4]
            .map(|actor| {
                let mut document = base.clone();
                document.set_actor(ActorId::from([actor; 16]));
                (document, Vec::new())
            })
            .into();
        for _ in 0..2 {
            for (document, lists) in &mut apart {
                for _ in 0..1 + dice.below(2) {
                    scribble(document, lists, &mut dice);
                }
            }
            let other = apart[1].0.clone();
            let changes = other.get_changes(&apart[0].0.get_heads());
            apart[0].0.apply_changes(changes).unwrap();
        }
        let genesis = seed(kind).unwrap().get_heads();
        let changes = apart[0].0.get_changes(&genesis);
        Self { kind, changes }
    }
}

fn write(person: &mut Replica, kind: DocumentKind, dice: &mut Dice) {
    let word = ["planning", "ü🙂", "a longer remark about nothing", "-"][dice.below(4)];
    let number = dice.below(4);
    let id = format!("{}-{}", dice.below(3), person.changes.len());
    person.edit(|editor| match kind {
        MEETING => {
            let mut meeting = editor.meeting()?;
            match number {
                0 => meeting.create(word, None)?,
                1 => meeting.append_note(word)?,
                2 => meeting.reach_state(State::Recording)?,
                _ => meeting.add_tag("tag")?,
            }
            meeting.set_title(&format!("{word} {id}"))
        }
        TRANSCRIPT => editor.transcript()?.append_segment(&Segment {
            id,
            start: number as i64,
            end: None,
            speaker: Some("A".to_owned()),
            text: word.to_owned(),
        }),
        _ => {
            let project = ProjectId::from_bytes([number as u8; 16]);
            let mut workspace = editor.workspace()?;
            workspace.set_name(word)?;
            match workspace.add_project(project, "project") {
                Ok(()) => Ok(()),
                Err(_) => workspace.rename_project(project, &id),
            }
        }
    });
}

/// One change of everything that Automerge knows.
fn scribble(document: &mut Automerge, objects: &mut Vec<(ObjId, ObjType)>, dice: &mut Dice) {
    let mut transaction = document.transaction();
    for (key, kind) in [
        ("l", ObjType::List),
        ("t", ObjType::Text),
        ("m", ObjType::Map),
    ] {
        if objects.len() < 3 {
            let made = transaction.put_object(ROOT, key, kind).unwrap();
            objects.push((made, kind));
        }
    }
    for _ in 0..3 + dice.below(5) {
        let (object, kind) = dice.one_of(objects).unwrap().clone();
        let length = transaction.length(&object);
        let value = scalar(dice);
        let key = format!("k{}", dice.below(3));
        match (kind, dice.below(5)) {
            (ObjType::Map, 0) => {
                let kind = [ObjType::Map, ObjType::List, ObjType::Text][dice.below(3)];
                let made = transaction.put_object(&object, &key, kind).unwrap();
                objects.push((made, kind));
            }
            (ObjType::Map, 1) => transaction.delete(&object, &key).unwrap(),
            (ObjType::Map, 2) => {
                transaction
                    .put(&object, "count", ScalarValue::counter(1))
                    .unwrap();
                transaction.increment(&object, "count", 3).unwrap();
            }
            (ObjType::Map, _) => transaction.put(&object, &key, value).unwrap(),
            (ObjType::Text, 0) if length > 1 => {
                let mark = Mark::new("bold".to_owned(), value, 0, length);
                transaction.mark(&object, mark, ExpandMark::Both).unwrap();
            }
            (ObjType::Text, 1) => {
                transaction
                    .split_block(&object, dice.below(length + 1))
                    .unwrap();
            }
            (ObjType::Text, _) => {
                let at = dice.below(length + 1);
                let gone = dice.below(length - at + 1).min(2) as isize;
                transaction.splice_text(&object, at, gone, "word").unwrap();
            }
            (_, 0) if length > 0 => transaction.delete(&object, dice.below(length)).unwrap(),
            (_, 1) if length > 0 => {
                transaction.put(&object, dice.below(length), value).unwrap();
            }
            (_, 2) => {
                let at = dice.below(length + 1);
                let made = transaction
                    .insert_object(&object, at, ObjType::Map)
                    .unwrap();
                objects.push((made, ObjType::Map));
            }
            _ => {
                let at = dice.below(length + 1);
                transaction.insert(&object, at, value).unwrap();
            }
        }
    }
    transaction.commit_with(CommitOptions::default().with_time(1_700_000_000_000));
}

pub(super) fn scalar(dice: &mut Dice) -> ScalarValue {
    match dice.below(14) {
        0 => ScalarValue::Null,
        1 => ScalarValue::Boolean(dice.below(2) == 0),
        2 => ScalarValue::Int(i64::MIN),
        3 => ScalarValue::Int(dice.number() as i64),
        4 => ScalarValue::Uint(u64::MAX),
        5 => ScalarValue::F64(f64::NAN),
        6 => ScalarValue::counter(i64::MAX),
        7 => ScalarValue::counter(1),
        8 => ScalarValue::Timestamp(i64::MIN),
        9 => ScalarValue::Bytes(vec![7; dice.below(40)]),
        10 => ScalarValue::Str("".into()),
        11 => ScalarValue::Str("ü🙂\u{fffc}".into()),
        12 => ScalarValue::Unknown {
            type_code: 10 + dice.below(6) as u8,
            bytes: vec![1; dice.below(9)],
        },
        _ => ScalarValue::Str("text".into()),
    }
}
