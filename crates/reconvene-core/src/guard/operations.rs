//! The operations of a change, walked row by row over their columns.
//!
//! What holds for every operation that Automerge writes is asked of each, so that encoding the
//! change again gives the same bytes and nothing in it is lost on the way through a document. What
//! depends on the document stays open: whether objects, elements and predecessors exist and are of
//! the right type, and in what order marks come to lie.

use super::ActorId;
use super::columns::{Column, Columns};
use super::error::{ChangePart, GuardError};
use super::leb::Reader;
use super::runs::{Deltas, Flags, Runs};
use crate::limits::{
    CHANGE_NAMES_BYTES_MAX, OPERATIONS_PER_CHANGE_MAX, PREDECESSORS_PER_CHANGE_MAX,
    SCALAR_BYTES_MAX,
};

const MAKE_MAP: u64 = 0;
const PUT: u64 = 1;
const MAKE_LIST: u64 = 2;
const DELETE: u64 = 3;
const MAKE_TEXT: u64 = 4;
const INCREMENT: u64 = 5;
const MAKE_TABLE: u64 = 6;
const MARK: u64 = 7;

/// How many operations a change has, from one column and without looking at the others.
pub(super) fn count_operations(columns: &Columns<'_>) -> Result<u64, GuardError> {
    let data = columns.get(Column::Action);
    let max = OPERATIONS_PER_CHANGE_MAX as u64;
    Runs::<u64>::new(ChangePart::Operations, data, max).count()
}

/// Walks the operations of a change.
pub(super) struct Walk<'a> {
    other_actors: &'a [ActorId],
    /// Which of the other actors an operation has named.
    used: Vec<bool>,
    /// Where the change's own actor would stand among the others.
    own_rank: u64,
    object_actor: Runs<'a, u64>,
    object_counter: Runs<'a, u64>,
    key_actor: Runs<'a, u64>,
    key_counter: Deltas<'a>,
    key_string: Runs<'a, &'a str>,
    insert: Flags<'a>,
    action: Runs<'a, u64>,
    value_metadata: Runs<'a, u64>,
    value: Reader<'a>,
    predecessor_count: Runs<'a, u64>,
    predecessor_actor: Runs<'a, u64>,
    predecessor_counter: Deltas<'a>,
    expand: Flags<'a>,
    mark_name: Runs<'a, &'a str>,
    predecessors: u64,
    names_bytes: usize,
}

/// An operation named by another: the index of its actor in the change, and its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OperationId {
    actor: u64,
    counter: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Map,
    Head,
    Element(OperationId),
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Null,
    Integer,
    Other,
}

/// What is remembered of the operation before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// The start of a mark on this object.
    MarkOn(Option<OperationId>),
    Other,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        columns: &Columns<'a>,
        operations: u64,
        actor: &ActorId,
        other_actors: &'a [ActorId],
    ) -> Self {
        let part = ChangePart::Column;
        let at = |column| (part(column), columns.get(column));
        let runs = |column| {
            let (part, data) = at(column);
            Runs::new(part, data, operations)
        };
        let names = |column| {
            let (part, data) = at(column);
            Runs::new(part, data, operations)
        };
        let deltas = |column, max| {
            let (part, data) = at(column);
            Deltas::new(part, data, max)
        };
        let flags = |column, is_optional| {
            let (part, data) = at(column);
            Flags::new(part, data, operations, is_optional)
        };
        let predecessors_max = PREDECESSORS_PER_CHANGE_MAX as u64;
        let own_rank = other_actors.partition_point(|other| other < actor) as u64;
        Self {
            other_actors,
            used: vec![false; other_actors.len()],
            own_rank,
            object_actor: runs(Column::ObjectActor),
            object_counter: runs(Column::ObjectCounter),
            key_actor: runs(Column::KeyActor),
            key_counter: deltas(Column::KeyCounter, operations),
            key_string: names(Column::KeyString),
            insert: flags(Column::Insert, false),
            action: runs(Column::Action),
            value_metadata: runs(Column::ValueMetadata),
            value: Reader::new(columns.get(Column::Value).unwrap_or_default()),
            predecessor_count: runs(Column::PredecessorCount),
            predecessor_actor: Runs::new(
                part(Column::PredecessorActor),
                columns.get(Column::PredecessorActor),
                predecessors_max,
            ),
            predecessor_counter: deltas(Column::PredecessorCounter, predecessors_max),
            expand: flags(Column::Expand, true),
            mark_name: names(Column::MarkName),
            predecessors: 0,
            names_bytes: 0,
        }
    }

    /// Walks all operations and checks that every column ends with the last of them.
    pub(super) fn run(mut self, operations: u64, start_op: u64) -> Result<(), GuardError> {
        let mut before = Before::Other;
        for index in 0..operations {
            before = self.operation(index, start_op + index, before)?;
        }
        self.object_actor.finish()?;
        self.object_counter.finish()?;
        self.key_actor.finish()?;
        self.key_counter.finish()?;
        self.key_string.finish()?;
        self.insert.finish()?;
        self.action.finish()?;
        self.value_metadata.finish()?;
        self.value.finish(ChangePart::Column(Column::Value))?;
        self.predecessor_count.finish()?;
        self.predecessor_actor.finish()?;
        self.predecessor_counter.finish()?;
        self.expand.finish()?;
        self.mark_name.finish()?;
        let unused = self.used.iter().position(|used| !used);
        match unused.and_then(|index| self.other_actors.get(index)) {
            Some(actor) => Err(GuardError::UnusedActor {
                actor: actor.clone(),
            }),
            None => Ok(()),
        }
    }

    fn operation(&mut self, index: u64, id: u64, before: Before) -> Result<Before, GuardError> {
        let wrong = |what| Err(GuardError::Operation { index, what });
        let object = self.object(index, id)?;
        let key = self.key(index, id)?;
        let insert = self.insert.next()?;
        let action = self.action.next_value()?;
        let value = self.value()?;
        let predecessors = self.predecessors(index, id, key)?;
        let expand = self.expand.next()?;
        let mark_name = self.mark_name.next()?;
        self.count_names(mark_name.map_or(0, str::len))?;

        if object.is_none() && key != Key::Map {
            return wrong("names an element of the root, which is a map");
        }
        if insert && key == Key::Map {
            return wrong("inserts into a map");
        }
        if insert && predecessors > 0 {
            return wrong("inserts an element that supersedes others");
        }
        if !insert && key == Key::Head {
            return wrong("writes to the start of a list without inserting");
        }
        if action == MARK {
            if !insert {
                return wrong("marks without inserting");
            }
            return match (mark_name, before) {
                (Some(_), _) => Ok(Before::MarkOn(object)),
                (None, _) if value != Value::Null => wrong("ends a mark with a value"),
                (None, Before::MarkOn(marked)) if marked == object => Ok(Before::Other),
                (None, _) => wrong("ends a mark that the operation before did not begin"),
            };
        }
        if expand || mark_name.is_some() {
            return wrong("has what only a mark has");
        }
        match action {
            PUT => {}
            MAKE_MAP | MAKE_LIST | MAKE_TEXT if value != Value::Null => {
                return wrong("creates an object with a value");
            }
            MAKE_MAP | MAKE_LIST | MAKE_TEXT => {}
            // Automerge writes it when asked to, and panics on what is then written into it.
            MAKE_TABLE => return wrong("creates a table"),
            DELETE if value != Value::Null => return wrong("deletes with a value"),
            INCREMENT if value != Value::Integer => return wrong("adds what is not an integer"),
            DELETE | INCREMENT if insert => return wrong("inserts nothing"),
            // Nothing of such an operation would be left in the document.
            DELETE | INCREMENT if predecessors == 0 => return wrong("changes nothing"),
            DELETE | INCREMENT => {}
            _ => return Err(GuardError::UnknownAction { index, action }),
        }
        Ok(Before::Other)
    }

    fn object(&mut self, index: u64, id: u64) -> Result<Option<OperationId>, GuardError> {
        match (self.object_actor.next()?, self.object_counter.next()?) {
            (None, None) => Ok(None),
            (Some(actor), Some(counter)) => {
                let columns = (Column::ObjectActor, Column::ObjectCounter);
                self.earlier(actor, counter, id, columns).map(Some)
            }
            _ => Err(GuardError::Operation {
                index,
                what: "names half an object",
            }),
        }
    }

    fn key(&mut self, index: u64, id: u64) -> Result<Key, GuardError> {
        let actor = self.key_actor.next()?;
        let counter = self.key_counter.next()?;
        let string = self.key_string.next()?;
        match (actor, counter, string) {
            (None, None, Some(key)) => {
                self.count_names(key.len())?;
                Ok(Key::Map)
            }
            (None, Some(0), None) => Ok(Key::Head),
            (Some(actor), Some(counter), None) => {
                let columns = (Column::KeyActor, Column::KeyCounter);
                self.earlier(actor, counter, id, columns).map(Key::Element)
            }
            _ => Err(GuardError::Operation {
                index,
                what: "has no key or more than one",
            }),
        }
    }

    /// Checks the value and that it is written in the one way there is.
    fn value(&mut self) -> Result<Value, GuardError> {
        let part = ChangePart::Column(Column::Value);
        let metadata = self.value_metadata.next_value()?;
        let (kind, bytes) = (metadata & 0xf, metadata >> 4);
        if bytes > SCALAR_BYTES_MAX as u64 {
            return Err(GuardError::TooLong {
                part,
                bytes,
                bytes_max: SCALAR_BYTES_MAX,
            });
        }
        let data = self.value.bytes(bytes, part)?;
        let mut reader = Reader::new(data);
        match kind {
            // Null, false and true.
            0..=2 => reader.finish(part)?,
            3 => {
                reader.unsigned(part)?;
                reader.finish(part)?;
            }
            // An integer, a counter, a time.
            4 | 8 | 9 => {
                reader.signed(part)?;
                reader.finish(part)?;
            }
            5 => {
                reader.array::<8>(part)?;
                reader.finish(part)?;
            }
            6 if std::str::from_utf8(data).is_err() => return Err(GuardError::NotUtf8 { part }),
            // Strings, bytes, and types of later versions, which Automerge keeps as they are.
            _ => {}
        }
        Ok(match kind {
            0 => Value::Null,
            4 => Value::Integer,
            _ => Value::Other,
        })
    }

    /// Checks what an operation supersedes, and gives how many that are.
    fn predecessors(&mut self, index: u64, id: u64, key: Key) -> Result<u64, GuardError> {
        let count = self.predecessor_count.next_value()?;
        let all = self.predecessors.saturating_add(count);
        if all > PREDECESSORS_PER_CHANGE_MAX as u64 {
            return Err(GuardError::TooMany {
                part: ChangePart::Predecessors,
                count: all,
                count_max: PREDECESSORS_PER_CHANGE_MAX,
            });
        }
        self.predecessors = all;
        // What writes to an element comes after what inserted it, or is that.
        let mut least = match key {
            Key::Element(element) => Some((element.counter, self.rank(element.actor))),
            Key::Map | Key::Head => None,
        };
        let mut is_first = true;
        for _ in 0..count {
            let actor = self.predecessor_actor.next_value()?;
            let counter = self.predecessor_counter.next_value()?;
            let columns = (Column::PredecessorActor, Column::PredecessorCounter);
            self.earlier(actor, counter, id, columns)?;
            let place = Some((counter, self.rank(actor)));
            if place < least || (place == least && !is_first) {
                return Err(GuardError::Operation {
                    index,
                    what: "supersedes others that are not strictly ascending",
                });
            }
            (least, is_first) = (place, false);
        }
        Ok(count)
    }

    /// Checks that an operation another one names can be there: its actor is listed and its counter
    /// below that of the operation that names it.
    fn earlier(
        &mut self,
        actor: u64,
        counter: u64,
        id: u64,
        columns: (Column, Column),
    ) -> Result<OperationId, GuardError> {
        if actor > 0 {
            let place = usize::try_from(actor - 1).ok();
            let used = place.and_then(|place| self.used.get_mut(place));
            *used.ok_or(GuardError::OutOfRange {
                part: ChangePart::Column(columns.0),
                value: actor,
            })? = true;
        }
        if counter == 0 || counter >= id {
            return Err(GuardError::OutOfRange {
                part: ChangePart::Column(columns.1),
                value: counter,
            });
        }
        Ok(OperationId { actor, counter })
    }

    /// Where an actor of this change stands among all of them in Automerge's order.
    fn rank(&self, actor: u64) -> u64 {
        match actor.checked_sub(1) {
            None => self.own_rank,
            Some(other) if other < self.own_rank => other,
            Some(other) => other + 1,
        }
    }

    /// Keys and names are stored once per run; whoever reads the change has one for each operation.
    fn count_names(&mut self, bytes: usize) -> Result<(), GuardError> {
        self.names_bytes += bytes;
        if self.names_bytes > CHANGE_NAMES_BYTES_MAX {
            return Err(GuardError::TooLong {
                part: ChangePart::Names,
                bytes: self.names_bytes as u64,
                bytes_max: CHANGE_NAMES_BYTES_MAX,
            });
        }
        Ok(())
    }
}
