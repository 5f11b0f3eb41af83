//! The data of a change: what stands before and after its columns.

use super::chunk::hash_of;
use super::columns::Columns;
use super::error::{ChangePart, GuardError};
use super::leb::Reader;
use super::operations::{Walk, count_operations};
use super::{ActorId, ChangeHeader};
use crate::ids::ChangeHash;
use crate::limits::{
    ACTOR_BYTES_MAX, AUTHOR_BYTES_MAX, CHANGE_MESSAGE_BYTES_MAX, DEPENDENCIES_MAX,
    OPERATION_COUNTER_MAX, OTHER_ACTORS_MAX, TIME_MAX,
};

/// What the bytes after the columns begin with when they hold an author; Automerge puts nothing else
/// there.
const FOOTER_AUTHOR: u64 = 1;

/// Checks and reads the inflated data of a chunk of `body_bytes` bytes.
pub(super) fn parse_data(
    data: &[u8],
    checksum: [u8; 4],
    body_bytes: usize,
) -> Result<ChangeHeader, GuardError> {
    let hash = hash_of(data);
    let [a, b, c, d, ..] = *hash.as_bytes();
    if checksum != [a, b, c, d] {
        return Err(GuardError::Checksum {
            stated: checksum,
            actual: [a, b, c, d],
        });
    }

    let mut reader = Reader::new(data);
    let dependencies = read_dependencies(&mut reader)?;
    let actor = read_actor(&mut reader, ChangePart::Actor)?;
    let seq = reader.unsigned(ChangePart::Seq)?;
    if seq == 0 {
        return Err(GuardError::OutOfRange {
            part: ChangePart::Seq,
            value: seq,
        });
    }
    let start_op = reader.unsigned(ChangePart::StartOp)?;
    if start_op == 0 || start_op > OPERATION_COUNTER_MAX {
        return Err(GuardError::OutOfRange {
            part: ChangePart::StartOp,
            value: start_op,
        });
    }
    let time = reader.signed(ChangePart::Time)?;
    if !(-TIME_MAX..=TIME_MAX).contains(&time) {
        return Err(GuardError::TimeOutOfRange { time });
    }
    reader.text(ChangePart::Message, CHANGE_MESSAGE_BYTES_MAX)?;
    let other_actors = read_other_actors(&mut reader, &actor)?;
    let columns = Columns::read(&mut reader)?;
    read_footer(reader, seq)?;

    let operations = count_operations(&columns)?;
    if start_op - 1 + operations > OPERATION_COUNTER_MAX {
        return Err(GuardError::OutOfRange {
            part: ChangePart::StartOp,
            value: start_op,
        });
    }
    if operations == 0
        && let Some(column) = columns.first()
    {
        let part = ChangePart::Column(column);
        return Err(GuardError::EntryTooMany { part });
    }
    Walk::new(&columns, operations, &actor, &other_actors).run(operations, start_op)?;
    Ok(ChangeHeader {
        hash,
        dependencies,
        actor,
        seq,
        start_op,
        operations,
        time,
        other_actors,
        body_bytes,
        inflated_bytes: data.len(),
    })
}

fn read_dependencies(reader: &mut Reader<'_>) -> Result<Vec<ChangeHash>, GuardError> {
    let part = ChangePart::Dependencies;
    let count = reader.count(part, DEPENDENCIES_MAX)?;
    let mut dependencies = Vec::with_capacity(count);
    for _ in 0..count {
        dependencies.push(ChangeHash::from_bytes(reader.array::<32>(part)?));
    }
    ascending(&dependencies, part)?;
    Ok(dependencies)
}

fn read_actor(reader: &mut Reader<'_>, part: ChangePart) -> Result<ActorId, GuardError> {
    let bytes = reader.string(part, ACTOR_BYTES_MAX)?;
    ActorId::from_bytes(bytes).ok_or(GuardError::EmptyActor { part })
}

fn read_other_actors(reader: &mut Reader<'_>, actor: &ActorId) -> Result<Vec<ActorId>, GuardError> {
    let part = ChangePart::OtherActors;
    let count = reader.count(part, OTHER_ACTORS_MAX)?;
    let mut actors = Vec::with_capacity(count);
    for _ in 0..count {
        actors.push(read_actor(reader, part)?);
    }
    // Automerge reads them in any order, but writes them sorted; the index of an actor in this list
    // is what operations refer to.
    ascending(&actors, part)?;
    match actors.binary_search(actor) {
        Ok(_) => Err(GuardError::OwnActor),
        Err(_) => Ok(actors),
    }
}

/// Reads what follows the columns: nothing, or who wrote the actor's changes, in its first one.
/// Automerge refuses to apply a second author of one actor.
fn read_footer(mut reader: Reader<'_>, seq: u64) -> Result<(), GuardError> {
    let part = ChangePart::Author;
    if reader.is_empty() {
        return Ok(());
    }
    let kind = reader.unsigned(part)?;
    if kind != FOOTER_AUTHOR {
        return Err(GuardError::OutOfRange { part, value: kind });
    }
    if seq != 1 {
        return Err(GuardError::LateAuthor { seq });
    }
    reader.string(part, AUTHOR_BYTES_MAX)?;
    reader.finish(part)
}

fn ascending<T: Ord>(list: &[T], part: ChangePart) -> Result<(), GuardError> {
    if list.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(GuardError::NotAscending { part })
    }
}
