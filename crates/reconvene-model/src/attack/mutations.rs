//! Altered histories: one change or several, altered as a parsed change or in its columns, with every
//! hash after it computed anew.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use automerge::legacy::{ElementId, Key, MarkData, ObjectId, Op, OpId, OpType};
use automerge::{ActorId, Change, ChangeHash, ExpandedChange, ObjType, ScalarValue};
use reconvene_core::guard::pieces::Pieces;
use reconvene_core::guard::{parse_change, seal};

use super::histories::{History, scalar};
use super::{Dice, quietly};

/// What is sent instead of a history.
pub(super) struct Attack {
    /// Which changes were altered, and how.
    pub(super) what: String,
    /// All of it, each after its dependencies where it has them.
    pub(super) bodies: Vec<Vec<u8>>,
    /// The places of those that were altered.
    pub(super) altered: Vec<usize>,
}

/// Alters a history.
pub(super) fn altered(history: &History, dice: &mut Dice) -> Attack {
    let changes = &history.changes;
    let at = dice.below(changes.len());
    // Some are sent beside the honest change, by someone else; most in its place.
    let is_beside = dice.below(3) == 0;
    let in_columns = dice.below(4) == 0;
    let known = Known::of(history);
    let mut what = format!("change {at}{}", if is_beside { " beside" } else { "" });
    let honest = &changes[at];
    let mut expanded = honest.decode();
    if is_beside {
        impersonate(&mut expanded, &ActorId::from([9; 16]));
    }
    let body = if in_columns {
        what += ", columns";
        let mut body = encoded(&expanded).unwrap_or_else(|| honest.raw_bytes().to_vec());
        let mut pieces = Pieces::cut(data_of(&body)).unwrap();
        for _ in 0..1 + dice.below(2) {
            pieces.mutate(&mut |bound| dice.below(bound));
        }
        body = seal(&pieces.data());
        body
    } else {
        let mut body = None;
        while body.is_none() {
            let mut attempt = expanded.clone();
            let mut steps = String::new();
            for _ in 0..1 + dice.below(3) {
                steps += ", ";
                steps += alter(&mut attempt, &known, dice);
            }
            if dice.below(3) > 0 {
                known.place_well(&mut attempt);
            }
            body = encoded(&attempt).inspect(|_| what += &steps);
        }
        body.unwrap_or_default()
    };
    let mut bodies: Vec<_> = changes[..at].iter().map(raw).collect();
    let mut altered = Vec::new();
    if is_beside {
        bodies.push(raw(honest));
    }
    altered.push(bodies.len());
    let new = hash_of(&body);
    bodies.push(body);
    // What followed follows the altered one now.
    let mut renamed = BTreeMap::from([(honest.hash(), new)]);
    for later in &changes[at + 1..] {
        let follows = later.deps().iter().any(|hash| renamed.contains_key(hash));
        if !follows || (is_beside && dice.below(2) == 0) {
            bodies.push(raw(later));
            continue;
        }
        let mut expanded = later.decode();
        for dependency in &mut expanded.deps {
            if let Some(new) = renamed.get(dependency) {
                *dependency = *new;
            }
        }
        expanded.deps.sort_unstable();
        if dice.below(6) == 0 {
            what += ", and later ";
            what += alter(&mut expanded, &known, dice);
            altered.push(bodies.len());
        }
        let body = encoded(&expanded).unwrap_or_else(|| raw(later));
        renamed.insert(later.hash(), hash_of(&body));
        bodies.push(body);
    }
    Attack {
        what,
        bodies,
        altered,
    }
}

fn raw(change: &Change) -> Vec<u8> {
    change.raw_bytes().to_vec()
}

/// What Automerge writes, if it does.
fn encoded(expanded: &ExpandedChange) -> Option<Vec<u8>> {
    let expanded = expanded.clone();
    quietly(|| Change::from(expanded).raw_bytes().to_vec()).ok()
}

/// The data of an uncompressed chunk.
fn data_of(raw: &[u8]) -> &[u8] {
    let length_bytes = raw[9..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    &raw[9 + length_bytes..]
}

fn hash_of(raw: &[u8]) -> ChangeHash {
    match parse_change(raw) {
        Ok(header) => ChangeHash(*header.hash.as_bytes()),
        Err(_) => ChangeHash([0xee; 32]),
    }
}

/// Makes a change the first of another actor.
fn impersonate(change: &mut ExpandedChange, actor: &ActorId) {
    let own = change.actor_id.clone();
    let start = change.start_op.get();
    let end = start + change.operations.len() as u64;
    let rename = |id: &mut OpId| {
        if id.actor() == &own && (start..end).contains(&id.counter()) {
            *id = OpId::new(id.counter(), actor);
        }
    };
    for op in &mut change.operations {
        if let ObjectId::Id(id) = &mut op.obj {
            rename(id);
        }
        if let Key::Seq(ElementId::Id(id)) = &mut op.key {
            rename(id);
        }
        let mut pred: Vec<_> = op.pred.iter().cloned().collect();
        pred.iter_mut().for_each(rename);
        op.pred = pred.into();
    }
    change.actor_id = actor.clone();
    change.seq = 1;
}

/// What there is in a history to name.
struct Known {
    operations: Vec<OpId>,
    objects: Vec<ObjectId>,
    keys: Vec<Key>,
    ops: Vec<Op>,
    actors: Vec<ActorId>,
    max_ops: BTreeMap<ChangeHash, u64>,
}

impl Known {
    fn of(history: &History) -> Self {
        let mut known = Self {
            operations: Vec::new(),
            objects: vec![ObjectId::Root],
            keys: vec![Key::Map("new".into()), Key::Seq(ElementId::Head)],
            ops: Vec::new(),
            actors: vec![
                ActorId::from([0x77; 16]),
                ActorId::from(b"reconvenegenesis"),
            ],
            max_ops: BTreeMap::new(),
        };
        let genesis = crate::genesis(history.kind).unwrap();
        known
            .max_ops
            .insert(ChangeHash(*genesis.hash.as_bytes()), genesis.max_op);
        for counter in 1..=genesis.max_op {
            let id = OpId::new(counter, &ActorId::from(genesis.actor));
            known.objects.push(ObjectId::Id(id.clone()));
            known.operations.push(id);
        }
        for change in &history.changes {
            let actor = change.actor_id();
            known.actors.push(actor.clone());
            known.max_ops.insert(change.hash(), change.max_op());
            for (counter, op) in (change.start_op().get()..).zip(change.decode().operations) {
                let id = OpId::new(counter, actor);
                if matches!(op.action, OpType::Make(_)) {
                    known.objects.push(ObjectId::Id(id.clone()));
                }
                known.keys.push(op.key.clone());
                if op.insert {
                    known.keys.push(Key::Seq(ElementId::Id(id.clone())));
                }
                known.operations.push(id);
                known.ops.push(op);
            }
        }
        known
    }

    /// Gives a change the start that follows from its dependencies.
    fn place_well(&self, change: &mut ExpandedChange) {
        change.deps.sort_unstable();
        change.deps.dedup();
        let ends = change.deps.iter().filter_map(|hash| self.max_ops.get(hash));
        let start = ends.max().copied().unwrap_or(0) + 1;
        change.start_op = NonZeroU64::new(start).unwrap();
    }
}

/// Alters one thing, and says what.
fn alter(change: &mut ExpandedChange, known: &Known, dice: &mut Dice) -> &'static str {
    let place = dice.below(change.operations.len());
    let own = OpId::new(
        change.start_op.get() + dice.below(change.operations.len() + 1) as u64,
        &change.actor_id,
    );
    let any = match dice.below(5) {
        0 => own,
        _ => dice.one_of(&known.operations).unwrap().clone(),
    };
    let kind = dice.below(24);
    if let 0..=13 = kind {
        let Some(op) = change.operations.get_mut(place) else {
            change.operations.extend(dice.one_of(&known.ops).cloned());
            return "an operation where there was none";
        };
        match kind {
            0 | 1 => {
                op.action = action(dice);
                return "another action";
            }
            2 => {
                op.obj = dice.one_of(&known.objects).unwrap().clone();
                return "another object";
            }
            3 => {
                op.obj = ObjectId::Id(any);
                return "an object that is none";
            }
            4 | 5 => {
                op.key = dice.one_of(&known.keys).unwrap().clone();
                return "another key";
            }
            6 => {
                op.key = Key::Seq(ElementId::Id(any));
                return "another element";
            }
            7 => {
                op.pred = vec![].into();
                return "no predecessors";
            }
            8 | 9 => {
                let mut pred: Vec<_> = op.pred.iter().cloned().collect();
                pred.push(any);
                op.pred = pred.into();
                return "one more predecessor";
            }
            10 => {
                op.pred = vec![any].into();
                return "another predecessor";
            }
            11 => {
                op.insert = !op.insert;
                return "inserted or not";
            }
            12 => {
                op.action = OpType::Put(scalar(dice));
                return "another value";
            }
            _ => {
                let again = op.clone();
                change.operations.insert(place, again);
                return "an operation twice";
            }
        }
    }
    match kind {
        14 if !change.operations.is_empty() => {
            change.operations.remove(place);
            "an operation left out"
        }
        15 if !change.operations.is_empty() => {
            let other = dice.below(change.operations.len());
            change.operations.swap(place, other);
            "two operations swapped"
        }
        16 => {
            let ops = (0..1 + dice.below(3)).filter_map(|_| dice.one_of(&known.ops));
            change.operations.extend(ops.cloned());
            "operations of elsewhere"
        }
        17 => {
            change.actor_id = dice.one_of(&known.actors).unwrap().clone();
            "another actor"
        }
        18 => {
            change.seq = change
                .seq
                .wrapping_add_signed([1, -1, 2, 1 << 40][dice.below(4)])
                .max(1);
            "another number"
        }
        19 => {
            let start = change
                .start_op
                .get()
                .wrapping_add_signed([1, -1, 7, -7, 1 << 20][dice.below(5)]);
            change.start_op = NonZeroU64::new(start & 0xffff_ffff).unwrap_or(NonZeroU64::MIN);
            "another start"
        }
        20 => {
            let all: Vec<_> = known.max_ops.keys().copied().collect();
            match dice.below(3) {
                0 => change.deps.extend(dice.one_of(&all)),
                1 => drop(change.deps.pop()),
                _ => change.deps = vec![*dice.one_of(&all).unwrap()],
            }
            change.deps.sort_unstable();
            "other dependencies"
        }
        21 => {
            change.time = [i64::MIN, i64::MAX, (1 << 53) - 1, 1 - (1 << 53), 0][dice.below(5)];
            "another time"
        }
        22 => {
            let message = ["", "why", "ü🙂"][dice.below(3)];
            change.message = Some(message.to_owned());
            "another message"
        }
        _ => {
            let extra: [&[u8]; 5] = [
                b"\x01\x03why",
                b"\x01\x00",
                b"\x02\x01x",
                b"\x01\x03wh",
                b"x",
            ];
            change.extra_bytes = extra[dice.below(5)].to_vec();
            "extra bytes"
        }
    }
}

fn action(dice: &mut Dice) -> OpType {
    let mark = |value: ScalarValue| MarkData {
        name: "bold".into(),
        value,
        expand: true,
    };
    match dice.below(9) {
        0 => OpType::Make(ObjType::Map),
        1 => OpType::Make(ObjType::List),
        2 => OpType::Make(ObjType::Text),
        3 => OpType::Make(ObjType::Table),
        4 => OpType::Delete,
        5 => OpType::Increment(dice.number() as i64),
        6 => OpType::MarkBegin(mark(scalar(dice))),
        7 => OpType::MarkEnd(dice.below(2) == 0),
        _ => OpType::Put(scalar(dice)),
    }
}
