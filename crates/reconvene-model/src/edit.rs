//! Editing: one closure, one Automerge transaction, one change; several only when it is too large.
//!
//! An edit that fails leaves the document as it was. Changes are cut before they could exceed what
//! the guard accepts: a change that this crate writes is never refused for its size.

use std::collections::BTreeMap;

use automerge::hydrate::{self, MapValue};
use automerge::transaction::{CommitOptions, OwnedTransaction, Transactable};
use automerge::{ActorId, Automerge, AutomergeError, ObjId, ObjType, ReadDoc, ScalarValue};
use reconvene_core::ids::DocumentKind;
use reconvene_core::limits::{
    CHANGE_BYTES_MAX, CHANGE_INFLATED_BYTES_MAX, KEY_BYTES_MAX, OPERATIONS_PER_CHANGE_MAX,
    OPERATIONS_PER_DOCUMENT_MAX, PREDECESSORS_PER_CHANGE_MAX, SCALAR_BYTES_MAX,
};
use reconvene_core::time::WallTime;

use crate::compose::content_bytes;
use crate::document::{Document, EncodedChange, core_hash};
use crate::genesis::{Container, SCHEMA_VERSION};
use crate::materialise::contain;

/// Most operations of one change: as many as the guard takes. An edit that needs more becomes
/// several changes.
pub const CHANGE_OPERATIONS_MAX: usize = OPERATIONS_PER_CHANGE_MAX;

/// Most operations of one edit. Beyond it the edit is refused ([`ModelError::TooLarge`]).
pub const EDIT_OPERATIONS_MAX: usize = 400_000;

/// Longest single string, key or value, in bytes. Beyond it the edit is refused
/// ([`ModelError::ValueTooLarge`]). Text has no such bound; it is cut into changes.
pub const STRING_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of content of one change, before compression and counting [`OPERATION_BYTES`] for each
/// operation. At the bound the edit goes on in another change.
const CHANGE_CONTENT_BYTES_MAX: usize = 208 * 1024;

/// What an operation's columns take at most, on average over a change, beside its content. Measured
/// at 3 to 6 for what this crate writes; the chunk's size is checked as well.
const OPERATION_BYTES: usize = 8;

const _: () = assert!(CHANGE_CONTENT_BYTES_MAX + STRING_BYTES_MAX / 2 < CHANGE_BYTES_MAX);
const _: () = assert!(CHANGE_OPERATIONS_MAX * (OPERATION_BYTES + 4) < CHANGE_CONTENT_BYTES_MAX);
const _: () = assert!(STRING_BYTES_MAX < CHANGE_CONTENT_BYTES_MAX);
const _: () = assert!(STRING_BYTES_MAX <= KEY_BYTES_MAX && STRING_BYTES_MAX <= SCALAR_BYTES_MAX);
const _: () = assert!((EDIT_OPERATIONS_MAX as u64) < OPERATIONS_PER_DOCUMENT_MAX);
// A deletion supersedes one operation, and as many more as there are conflicting values.
const _: () = assert!(CHANGE_OPERATIONS_MAX < PREDECESSORS_PER_CHANGE_MAX);

/// Why an edit was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError<E> {
    /// The closure said no, or what it did cannot be written. Nothing was changed, unless a part of
    /// the edit had become a change already: then the document is poisoned.
    #[error(transparent)]
    Refused(E),
    /// The document was written by a version whose documents this one must not edit.
    #[error("the document needs a version that knows schema {min_reader} to edit it")]
    ReadOnly {
        /// The oldest schema version that may edit it.
        min_reader: u64,
    },
    /// An earlier failure left nothing to edit.
    #[error("the document failed earlier and must be reloaded")]
    Poisoned,
    /// The closure or automerge panicked; the document is poisoned.
    #[error("editing the document panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

/// Why one operation of an edit was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The document is of another kind.
    #[error("the document is of kind {} and not {}", found.0, wanted.0)]
    WrongKind {
        /// The kind the operation is for.
        wanted: DocumentKind,
        /// The document's kind.
        found: DocumentKind,
    },
    /// A string is longer than [`STRING_BYTES_MAX`].
    #[error("`{what}` is too long: {bytes} bytes, at most {STRING_BYTES_MAX}")]
    ValueTooLarge {
        /// The field.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// A name or id that must not be empty is.
    #[error("`{what}` must not be empty")]
    Empty {
        /// The field.
        what: &'static str,
    },
    /// The thing to change is not in the document.
    #[error("there is no {what} `{id}`")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The thing to create is in the document already.
    #[error("there is already a {what} `{id}`")]
    Exists {
        /// What was to be created.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The transcript page holds as many segments as it may; the recorder opens another page.
    #[error(
        "the page is full: {} segments",
        crate::transcript::SEGMENTS_PER_PAGE_MAX
    )]
    PageFull,
    /// There are as many of them as there may be.
    #[error("too many {what}: at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// The edit has more than [`EDIT_OPERATIONS_MAX`] operations.
    #[error("the edit is too large: {ops} operations")]
    TooLarge {
        /// How many it would have.
        ops: usize,
    },
    /// A change came out larger than the guard accepts.
    #[error("a change came out too large: {bytes} bytes")]
    ChangeTooLarge {
        /// Its size as stored.
        bytes: usize,
    },
    /// Automerge refused the operation.
    #[error("the operation failed")]
    Automerge(#[from] AutomergeError),
}

/// The time a change says it was made: a whole second, in milliseconds. What is finer would take most
/// of a compacted document (see docs/decisions).
pub(crate) fn change_time(now: WallTime) -> i64 {
    now.as_millis().div_euclid(1_000) * 1_000
}

impl Document {
    /// Edits the document under an actor, as one transaction, and gives the closure's value and the
    /// new changes: none if nothing changed, several if one would be too large.
    ///
    /// `actor` comes from [`crate::derive_actor`]. `now`, to the second, becomes the changes' time. The changes are in
    /// the document when this returns; they must be made durable, or the document dropped.
    pub fn edit<T, E: From<ModelError>>(
        &mut self,
        actor: &[u8; 16],
        now: WallTime,
        edit: impl FnOnce(&mut Editor) -> Result<T, E>,
    ) -> Result<(T, Vec<EncodedChange>), EditError<E>> {
        if self.is_poisoned() {
            return Err(EditError::Poisoned);
        }
        let min_reader = self.schema().map_or(0, |schema| schema.min_reader);
        if min_reader > SCHEMA_VERSION {
            return Err(EditError::ReadOnly { min_reader });
        }
        let kind = self.kind();
        let automerge = self.take().ok_or(EditError::Poisoned)?;
        let actor = ActorId::from(actor);

        let edit = move || run(automerge, kind, actor, now, edit);
        let (edited, result) = contain(edit).map_err(|panicked| EditError::Panicked {
            message: panicked.0,
        })?;
        if let Some((automerge, inflated_bytes)) = edited {
            self.put_back(automerge, inflated_bytes);
        }
        result.map_err(EditError::Refused)
    }
}

/// A document that may be used on, and by how many bytes, when inflated, it grew.
type Edited = Option<(Automerge, usize)>;

fn run<T, E: From<ModelError>>(
    automerge: Automerge,
    kind: DocumentKind,
    actor: ActorId,
    now: WallTime,
    edit: impl FnOnce(&mut Editor) -> Result<T, E>,
) -> (Edited, Result<(T, Vec<EncodedChange>), E>) {
    let mut editor = match Editor::begin(automerge, kind, actor, now) {
        Ok(editor) => editor,
        Err(error) => return (None, Err(error.into())),
    };
    match edit(&mut editor) {
        Ok(value) => match editor.finish() {
            Ok((automerge, changes, bytes)) => (Some((automerge, bytes)), Ok((value, changes))),
            Err(error) => (None, Err(error.into())),
        },
        Err(error) => (editor.undo().map(|undone| (undone, 0)), Err(error)),
    }
}

/// A document being edited. The typed operations are on what [`Editor::meeting`]
/// and its like for the other kinds give.
pub struct Editor {
    kind: DocumentKind,
    actor: ActorId,
    now: WallTime,
    /// Always there between calls; taken only while one change ends and the next begins.
    transaction: Option<OwnedTransaction>,
    content_bytes: usize,
    committed_ops: usize,
    inflated_bytes: usize,
    changes: Vec<EncodedChange>,
}

impl Editor {
    /// The time of the edit.
    pub fn now(&self) -> WallTime {
        self.now
    }

    /// The kind of the document.
    pub(crate) fn kind(&self) -> DocumentKind {
        self.kind
    }

    pub(crate) fn expect_kind(&self, wanted: DocumentKind) -> Result<(), ModelError> {
        if self.kind == wanted {
            return Ok(());
        }
        Err(ModelError::WrongKind {
            wanted,
            found: self.kind,
        })
    }

    /// The document as edited so far.
    pub(crate) fn reader(&self) -> &impl ReadDoc {
        self.transaction.as_ref().expect(OPEN)
    }

    /// Writes a register. Writing what it already holds, without a conflict, changes nothing.
    pub(crate) fn put(
        &mut self,
        object: &ObjId,
        key: &str,
        value: impl Into<ScalarValue>,
    ) -> Result<(), ModelError> {
        let value = value.into();
        let bytes = content_bytes(&value);
        let held = self.reader().get_all(object, key)?;
        let is_held = held
            .iter()
            .any(|(held, _)| held.as_scalar() == Some(&value));
        if is_held && held.len() == 1 {
            return Ok(());
        }
        let transaction = self.reserve(1 + usize::from(is_held), 2 * key.len() + bytes)?;
        if is_held {
            // Of a value that is shown already automerge would only delete the others; whoever writes
            // the register meanwhile would write over it, and this choice would be gone without a
            // word. Written anew it stands beside theirs.
            transaction.delete(object, key)?;
        }
        Ok(transaction.put(object, key, value)?)
    }

    /// Creates a map under a key, always a new one: its operation is what a concurrent removal has
    /// not seen.
    pub(crate) fn put_map(&mut self, object: &ObjId, key: &str) -> Result<ObjId, ModelError> {
        let transaction = self.reserve(1, key.len())?;
        Ok(transaction.put_object(object, key, ObjType::Map)?)
    }

    /// Creates a map of registers under a key in one step.
    pub(crate) fn put_record<'r>(
        &mut self,
        object: &ObjId,
        key: &str,
        registers: impl IntoIterator<Item = (&'r str, Option<ScalarValue>)>,
    ) -> Result<(), ModelError> {
        let mut bytes = key.len();
        let mut map = hydrate::Map::default();
        for (key, value) in registers {
            let Some(value) = value else { continue };
            bytes += key.len() + content_bytes(&value);
            let value = MapValue {
                value: hydrate::Value::Scalar(value),
                conflict: false,
            };
            map.insert(key.to_owned(), value);
        }
        let transaction = self.reserve(1 + map.len(), bytes)?;
        transaction.batch_create_object(object, key, &map.into(), false)?;
        Ok(())
    }

    /// Removes a key, if it is there.
    pub(crate) fn remove(&mut self, object: &ObjId, key: &str) -> Result<(), ModelError> {
        if self.reader().get(object, key)?.is_none() {
            return Ok(());
        }
        let transaction = self.reserve(1, key.len())?;
        Ok(transaction.delete(object, key)?)
    }

    /// The map under a container's key.
    pub(crate) fn record(
        &self,
        container: Container,
        what: &'static str,
        key: &str,
    ) -> Result<ObjId, ModelError> {
        match self.reader().get(container.id(), key)? {
            Some((value, id)) if value.is_object() => Ok(id),
            _ => Err(ModelError::NotFound {
                what,
                id: key.to_owned(),
            }),
        }
    }

    /// The string at a key, if it is one.
    pub(crate) fn string_at(
        &self,
        object: &ObjId,
        key: &str,
    ) -> Result<Option<String>, ModelError> {
        let found = self.reader().get(object, key)?;
        let text = found.and_then(|(value, _)| value.into_string().ok());
        Ok(text)
    }

    /// The strings of a container by key.
    pub(crate) fn strings_at(
        &self,
        container: Container,
    ) -> Result<BTreeMap<String, String>, ModelError> {
        let keys: Vec<_> = self.reader().keys(container.id()).collect();
        let mut strings = BTreeMap::new();
        for key in keys {
            if let Some(text) = self.string_at(&container.id(), &key)? {
                strings.insert(key, text);
            }
        }
        Ok(strings)
    }

    /// Makes a text read as given, touching only what differs, so that concurrent edits of other
    /// parts survive.
    pub(crate) fn set_text(&mut self, container: Container, text: &str) -> Result<(), ModelError> {
        let id = container.id();
        let old = self.reader().text(&id)?;
        if old == text {
            return Ok(());
        }
        let same_start = common_prefix(&old, text);
        let same_end = common_suffix(&old[same_start..], &text[same_start..]);
        if old.is_empty() {
            return self.splice(&id, 0, 0, text);
        }
        let removed = utf16_len(&old[same_start..old.len() - same_end]);
        let inserted = &text[same_start..text.len() - same_end];
        if removed + utf16_len(inserted) <= CHANGE_OPERATIONS_MAX {
            let transaction = self.reserve(removed + utf16_len(inserted), inserted.len())?;
            return Ok(transaction.update_text(&id, text)?);
        }
        self.splice(&id, utf16_len(&old[..same_start]), removed, inserted)
    }

    /// Adds to the end of a text.
    pub(crate) fn append_text(
        &mut self,
        container: Container,
        text: &str,
    ) -> Result<(), ModelError> {
        let id = container.id();
        let end = self.reader().length(&id);
        self.splice(&id, end, 0, text)
    }

    /// Replaces a part of a text; places count UTF-16 code units.
    pub(crate) fn splice_text(
        &mut self,
        container: Container,
        at: usize,
        removed: usize,
        inserted: &str,
    ) -> Result<(), ModelError> {
        let id = container.id();
        let length = self.reader().length(&id);
        if at > length || removed > length - at {
            return Err(AutomergeError::InvalidIndex(at.saturating_add(removed)).into());
        }
        self.splice(&id, at, removed, inserted)
    }

    /// Refuses strings that are too long, and empty ones where they name something.
    pub(crate) fn check_name(what: &'static str, text: &str) -> Result<(), ModelError> {
        if text.is_empty() {
            return Err(ModelError::Empty { what });
        }
        Self::check_string(what, text)
    }

    /// Refuses strings that are too long.
    pub(crate) fn check_string(what: &'static str, text: &str) -> Result<(), ModelError> {
        if text.len() > STRING_BYTES_MAX {
            return Err(ModelError::ValueTooLarge {
                what,
                bytes: text.len(),
            });
        }
        Ok(())
    }

    fn begin(
        automerge: Automerge,
        kind: DocumentKind,
        actor: ActorId,
        now: WallTime,
    ) -> Result<Self, ModelError> {
        let mut editor = Self {
            kind,
            actor,
            now,
            transaction: None,
            content_bytes: 0,
            committed_ops: 0,
            inflated_bytes: 0,
            changes: Vec::new(),
        };
        editor.open(automerge)?;
        Ok(editor)
    }

    fn open(&mut self, mut automerge: Automerge) -> Result<(), ModelError> {
        automerge.set_actor(self.actor.clone());
        let transaction = automerge
            .into_transaction(None, None)
            .map_err(AutomergeError::PatchLogMismatch)?;
        self.transaction = Some(transaction);
        self.content_bytes = 0;
        Ok(())
    }

    /// Makes room for operations, ending the current change if they would not fit into it.
    fn reserve(&mut self, ops: usize, bytes: usize) -> Result<&mut OwnedTransaction, ModelError> {
        let pending = self.transaction.as_ref().expect(OPEN).pending_ops();
        let total = self.committed_ops + pending + ops;
        if total > EDIT_OPERATIONS_MAX {
            return Err(ModelError::TooLarge { ops: total });
        }
        if pending > 0 && exceeds_change(pending + ops, self.content_bytes + bytes) {
            let automerge = self.commit()?;
            self.open(automerge)?;
        }
        self.content_bytes += bytes;
        Ok(self.transaction.as_mut().expect(OPEN))
    }

    fn splice(
        &mut self,
        text: &ObjId,
        at: usize,
        removed: usize,
        inserted: &str,
    ) -> Result<(), ModelError> {
        // Small enough that what is left of a change is used, large enough to be rare.
        const PIECE_OPS: usize = 2_000;
        let mut left = removed;
        while left > 0 {
            let count = left.min(PIECE_OPS);
            let delete = isize::try_from(count).expect("a piece is small");
            self.reserve(count, 0)?.splice_text(text, at, delete, "")?;
            left -= count;
        }
        let mut at = at;
        for piece in pieces(inserted, PIECE_OPS) {
            let count = utf16_len(piece);
            self.reserve(count, piece.len())?
                .splice_text(text, at, 0, piece)?;
            at += count;
        }
        Ok(())
    }

    /// Ends the current change and keeps its bytes.
    fn commit(&mut self) -> Result<Automerge, ModelError> {
        let transaction = self.transaction.take().expect(OPEN);
        self.committed_ops += transaction.pending_ops();
        let options = CommitOptions::default().with_time(change_time(self.now));
        let (automerge, hash, _) = transaction.commit_with(options);
        let Some(hash) = hash else {
            return Ok(automerge);
        };
        let mut change = automerge
            .get_change_by_hash(&hash)
            .expect("the change that was just committed is in the document");
        let inflated_bytes = change.raw_bytes().len();
        let bytes = change.bytes().into_owned();
        if bytes.len() > CHANGE_BYTES_MAX || inflated_bytes > CHANGE_INFLATED_BYTES_MAX {
            return Err(ModelError::ChangeTooLarge { bytes: bytes.len() });
        }
        self.inflated_bytes += inflated_bytes;
        let hash = core_hash(hash);
        self.changes.push(EncodedChange { hash, bytes });
        Ok(automerge)
    }

    /// The edited document, its new changes, and how many bytes these have when inflated.
    fn finish(mut self) -> Result<(Automerge, Vec<EncodedChange>, usize), ModelError> {
        let automerge = self.commit()?;
        Ok((automerge, self.changes, self.inflated_bytes))
    }

    /// The document as it was, unless a part of the edit has become a change already: that cannot be
    /// taken back, so the document is given up.
    fn undo(mut self) -> Option<Automerge> {
        let transaction = self.transaction.take()?;
        let (automerge, _) = transaction.rollback();
        self.changes.is_empty().then_some(automerge)
    }
}

/// Whether a change of so many operations and so much content must not be written as one.
pub(crate) fn exceeds_change(ops: usize, content_bytes: usize) -> bool {
    ops > CHANGE_OPERATIONS_MAX || content_bytes + ops * OPERATION_BYTES > CHANGE_CONTENT_BYTES_MAX
}

/// The invariant of [`Editor::transaction`].
const OPEN: &str = "a transaction is open between calls";

fn utf16_len(text: &str) -> usize {
    text.encode_utf16().count()
}

fn common_prefix(one: &str, other: &str) -> usize {
    let pairs = one.chars().zip(other.chars());
    let same = pairs.take_while(|(one, other)| one == other);
    same.map(|(char, _)| char.len_utf8()).sum()
}

fn common_suffix(one: &str, other: &str) -> usize {
    let pairs = one.chars().rev().zip(other.chars().rev());
    let same = pairs.take_while(|(one, other)| one == other);
    same.map(|(char, _)| char.len_utf8()).sum()
}

/// Cuts a text between characters into pieces of at most `units_max` UTF-16 code units.
fn pieces(text: &str, units_max: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut units = 0;
        let end = rest
            .char_indices()
            .find(|(_, char)| {
                units += char.len_utf16();
                units > units_max
            })
            .map_or(rest.len(), |(at, _)| at);
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    })
}

#[cfg(test)]
mod tests;
