//! The inbox entry: something that needs a person, in that member's home.
//!
//! An entry's id follows from what it is about, so that two who find out the same write the same
//! document. It is open until somebody says how it was resolved, and open again when the same is
//! found out anew.

use std::collections::BTreeMap;

use automerge::{ROOT, ReadDoc};
use reconvene_core::ids::DocumentId;
use reconvene_core::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::document::{Document, ReadError};
use crate::edit::{Editor, ModelError};
use crate::genesis::{DETAILS, ENTRY};
use crate::ids::derive_document_id;
use crate::view::{Conflict, View};

/// How an entry was resolved whose cause is gone.
pub const CAUSE_GONE: &str = "cause_gone";

/// An inbox entry as people see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is about; `None` if that is not readable.
    pub subject: Option<Subject>,
    /// Which question about the subject it is, such as `outcome` or `validation`.
    pub topic: String,
    /// A stable word for what is wrong.
    pub code: String,
    /// The same for people.
    pub message: String,
    /// Whether trying again may help.
    pub retryable: bool,
    /// When it was found out, last.
    pub filed_at: Option<WallTime>,
    /// How it was resolved; `None` while it is open.
    pub resolved: Option<Resolved>,
    /// What else is known, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// Registers that hold several values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// Paths whose value has a type this version does not expect; read as absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub malformed: Vec<String>,
}

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What kind of thing: `command`, `integration`, `document` or `workspace`.
    pub kind: String,
    /// Its id.
    pub id: String,
}

/// How an entry was resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// When.
    pub at: Option<WallTime>,
    /// A stable word: `retried`, `amended`, `settled`, `resolved`, `discarded` or
    /// `cause_gone`.
    pub how: String,
}

/// What a new entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryDraft {
    /// What it is about.
    pub subject: Subject,
    /// Which question about it.
    pub topic: String,
    /// A stable word for what is wrong.
    pub code: String,
    /// The same for people.
    pub message: String,
    /// Whether trying again may help.
    pub retryable: bool,
    /// What else is known.
    pub details: BTreeMap<String, String>,
}

impl EntryDraft {
    /// The entry's id.
    pub fn id(&self) -> DocumentId {
        entry_id(&self.subject, &self.topic)
    }
}

/// The id of the entry about a subject and topic.
pub fn entry_id(subject: &Subject, topic: &str) -> DocumentId {
    let parts = [&subject.kind, &subject.id, topic].map(str::as_bytes);
    derive_document_id("reconvene/entry/1", &parts)
}

impl Document {
    /// Reads an inbox entry.
    pub fn entry(&self) -> Result<Entry, ReadError> {
        self.read(ENTRY, read)
    }
}

impl Editor {
    /// The operations on an inbox entry.
    pub fn entry(&mut self) -> Result<EntryEditor<'_>, ModelError> {
        self.expect_kind(ENTRY)?;
        Ok(EntryEditor { editor: self })
    }
}

/// The operations on an inbox entry.
pub struct EntryEditor<'a> {
    editor: &'a mut Editor,
}

impl EntryEditor<'_> {
    /// Files what was found out, and opens the entry if it was resolved. If the entry is open and says
    /// the same, nothing changes.
    pub fn file(&mut self, draft: &EntryDraft) -> Result<(), ModelError> {
        Editor::check_name("code", &draft.code)?;
        Editor::check_string("message", &draft.message)?;
        let is_open = self.editor.reader().get(ROOT, "resolved")?.is_none();
        let says = |key| self.editor.string_at(&ROOT, key);
        if is_open
            && says("code")?.as_ref() == Some(&draft.code)
            && says("message")?.as_ref() == Some(&draft.message)
        {
            return Ok(());
        }
        let now = self.editor.now().as_millis();
        for (key, value) in [
            ("subject_kind", &draft.subject.kind),
            ("subject", &draft.subject.id),
            ("topic", &draft.topic),
            ("code", &draft.code),
            ("message", &draft.message),
        ] {
            Editor::check_string("subject", value)?;
            self.editor.put(&ROOT, key, value.as_str())?;
        }
        self.editor.put(&ROOT, "retryable", draft.retryable)?;
        self.editor.put(&ROOT, "filed_at", now)?;
        for (name, value) in &draft.details {
            Editor::check_name("detail", name)?;
            Editor::check_string("detail", value)?;
            self.editor.put(&DETAILS.id(), name, value.as_str())?;
        }
        self.editor.remove(&ROOT, "resolved")
    }

    /// Files what reading a document found. What somebody resolved stays so: the entry's id names this
    /// very finding, and they have seen it. One whose cause was gone and is back is open again.
    pub fn find(&mut self, draft: &EntryDraft) -> Result<(), ModelError> {
        if let Some((_, resolved)) = self.editor.reader().get(ROOT, "resolved")? {
            let how = self.editor.string_at(&resolved, "how")?;
            if how.as_deref() != Some(CAUSE_GONE) {
                return Ok(());
            }
        }
        self.file(draft)
    }

    /// Says how it was resolved, now. Nothing changes if it was.
    pub fn resolve(&mut self, how: &str) -> Result<(), ModelError> {
        Editor::check_name("how", how)?;
        if self.editor.reader().get(ROOT, "resolved")?.is_some() {
            return Ok(());
        }
        let at = self.editor.now().as_millis();
        let registers = [("at", Some(at.into())), ("how", Some(how.into()))];
        self.editor.put_record(&ROOT, "resolved", registers)
    }
}

fn read(view: &mut View<'_>) -> Entry {
    let mut root = view.root();
    let kind = view.string(&mut root, "subject_kind", "");
    let id = view.string(&mut root, "subject", "");
    let mut text = |view: &mut View<'_>, key| view.string(&mut root, key, "").unwrap_or_default();
    let mut entry = Entry {
        subject: kind.zip(id).map(|(kind, id)| Subject { kind, id }),
        topic: text(view, "topic"),
        code: text(view, "code"),
        message: text(view, "message"),
        details: view.strings(DETAILS),
        ..Entry::default()
    };
    entry.retryable = view.boolean(&mut root, "retryable", "").unwrap_or(false);
    entry.filed_at = view.time(&mut root, "filed_at", "");
    if let Some(mut fields) = view.fields_of(root.remove("resolved"), "resolved") {
        entry.resolved = Some(Resolved {
            at: view.time(&mut fields, "at", "resolved"),
            how: view
                .string(&mut fields, "how", "resolved")
                .unwrap_or_default(),
        });
    }
    (entry.conflicts, entry.malformed) = view.finish();
    entry
}

#[cfg(test)]
pub(crate) mod tests;
