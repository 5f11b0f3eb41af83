//! The inbox: what needs a person, in their home, the same on all of their devices.
//!
//! An entry is open until somebody retries, amends, settles, resolves or discards it, or its cause is gone. It
//! never goes by itself otherwise.

use std::collections::BTreeMap;

use reconvene_core::ids::{DocumentId, WorkspaceId};
pub use reconvene_model::entries;
use reconvene_model::index::{CommandRow, EntryRow};
use reconvene_model::{Ask, Command, Subject, derive_document_id};
use serde::{Deserialize, Serialize};

use crate::limits::ROWS_INDEX_WAIT;
use crate::query::Subscription;
use crate::replica::EditMode;
use crate::rows::{Row as _, named};
use crate::{Error, Replica};

pub(crate) mod conflicts;

/// The member's inbox. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbox {
    replica: Replica,
}

/// Which entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryFilter {
    /// Those that are open.
    #[default]
    Open,
    /// Every one that is still kept.
    All,
}

impl EntryFilter {
    fn wants(self, row: &EntryRow) -> bool {
        self == Self::All || row.entry.resolved.is_none()
    }
}

/// An entry that led to a command.
#[derive(Clone, Debug, Serialize)]
pub struct Retried {
    /// The entry, resolved.
    pub entry: EntryRow,
    /// The command that was issued.
    pub command: CommandRow,
    /// The workspace it was issued in.
    pub workspace: WorkspaceId,
}

impl Replica {
    /// The inbox of this device's member.
    pub fn inbox(&self) -> Inbox {
        Inbox {
            replica: self.clone(),
        }
    }
}

impl Inbox {
    fn home(&self) -> WorkspaceId {
        self.replica.profile().home
    }

    /// Lists entries, the latest filed first. Loads no document. What documents show is looked at first,
    /// [`ROWS_INDEX_WAIT`] at most.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, filter: EntryFilter) -> Result<Vec<EntryRow>, Error> {
        let everything = self.replica.wait_for_index(ROWS_INDEX_WAIT).await;
        if everything.is_ok() && !self.replica.shared.findings.filed(ROWS_INDEX_WAIT).await {
            tracing::warn!("what documents show is not in the inbox yet");
        }
        let rows = self.replica.rows(self.home(), move |row| filter.wants(row));
        let mut rows: Vec<EntryRow> = rows.await?;
        rows.sort_by_key(|row| std::cmp::Reverse((row.entry.filed_at, row.id)));
        Ok(rows)
    }

    /// Subscribes to entries: first those there are, then what changes. With [`EntryFilter::Open`] one
    /// that is resolved is removed.
    ///
    /// # Errors
    /// If the replica is closed.
    pub fn subscribe(&self, filter: EntryFilter) -> Result<Subscription<EntryRow>, Error> {
        let wants = move |row: &EntryRow| filter.wants(row);
        self.replica.subscribe_rows(self.home(), wants)
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// If there is no such entry, or it cannot be read.
    pub async fn show(&self, id: DocumentId) -> Result<EntryRow, Error> {
        self.replica.read_row(self.home(), id).await
    }

    /// Tries again what an entry is about, as a new command that names the old one, and resolves the
    /// entry. Two devices that retry the same entry make one command; retrying again after a crash
    /// midway makes no second one.
    ///
    /// # Errors
    /// [`Error::NotRetryable`] if trying the same again cannot help. If there is no such entry, or it is
    /// resolved, or what it is about is not here.
    pub async fn retry(&self, id: DocumentId) -> Result<Retried, Error> {
        let row = self.open_entry(id).await?;
        if !row.entry.retryable {
            return Err(Error::NotRetryable { id });
        }
        let (workspace, subject) = place_of(&row)?;
        let at = row.entry.filed_at.map_or(0, |at| at.as_millis());
        if subject.kind == entries::COMMAND {
            let (old, command) = self.command_of(workspace, &subject).await?;
            let ask = command.ask().map_err(bad_ask)?;
            let new = attempt_id(old, &ask);
            return self
                .act(row, workspace, new, ask, Some(old), "retried")
                .await;
        }
        let integration = subject.id.parse::<DocumentId>()?;
        let ask = match row.entry.topic.as_str() {
            entries::LAST_RUN => Ask::StartIntegrationSync {
                integration,
                trigger: "retry".to_owned(),
            },
            _ => Ask::ValidateIntegrations {
                integration: Some(integration),
            },
        };
        // The same entry may be filed again later: that is another attempt.
        let parts = [&id.as_bytes()[..], &at.to_be_bytes()[..]];
        let new = derive_document_id("reconvene/retry/1", &parts);
        self.act(row, workspace, new, ask, None, "retried").await
    }

    /// Issues the command that an entry is about with other arguments, and resolves the entry.
    ///
    /// # Errors
    /// If the entry is not about a command, an argument is not what it should be, there is no such
    /// entry, or it is resolved.
    pub async fn amend(
        &self,
        id: DocumentId,
        arguments: BTreeMap<String, String>,
    ) -> Result<Retried, Error> {
        let row = self.open_entry(id).await?;
        let (workspace, subject) = place_of(&row)?;
        if subject.kind != entries::COMMAND {
            return Err(Error::BadInput(format!(
                "this entry is about an {}, which is amended by editing it",
                subject.kind
            )));
        }
        let (old, command) = self.command_of(workspace, &subject).await?;
        let mut amended = command.arguments;
        amended.extend(arguments);
        let ask = Ask::parse(&command.name, &amended).map_err(bad_ask)?;
        let new = attempt_id(old, &ask);
        self.act(row, workspace, new, ask, Some(old), "amended")
            .await
    }

    /// Resolves an entry because nobody wants to do anything about it. The same cause does not open it
    /// again until something about it changes or somebody asks.
    ///
    /// # Errors
    /// If there is no such entry, or the store fails.
    pub async fn discard(&self, id: DocumentId) -> Result<EntryRow, Error> {
        self.end(id, "discarded").await
    }

    /// Resolves an entry because somebody saw to it.
    ///
    /// # Errors
    /// As for [`Self::discard`].
    pub async fn resolve(&self, id: DocumentId) -> Result<EntryRow, Error> {
        self.end(id, "resolved").await
    }

    async fn end(&self, id: DocumentId, how: &'static str) -> Result<EntryRow, Error> {
        let ended = self
            .replica
            .edit_document(self.home(), id, EditMode::default(), move |editor| {
                editor.entry()?.resolve(how)
            })
            .await;
        ended.map_err(|error| named(EntryRow::WHAT, error))?;
        self.show(id).await
    }

    async fn open_entry(&self, id: DocumentId) -> Result<EntryRow, Error> {
        let row = self.show(id).await?;
        match &row.entry.resolved {
            Some(resolved) => Err(Error::BadInput(format!(
                "entry {id} was {} already",
                resolved.how
            ))),
            None => Ok(row),
        }
    }

    async fn command_of(
        &self,
        workspace: WorkspaceId,
        subject: &Subject,
    ) -> Result<(DocumentId, Command), Error> {
        let id = subject.id.parse::<DocumentId>()?;
        let row: CommandRow = self.replica.read_row(workspace, id).await?;
        Ok((id, row.command))
    }

    /// The command first: a crash in between leaves the entry open, and the next attempt finds it.
    async fn act(
        &self,
        row: EntryRow,
        workspace: WorkspaceId,
        id: DocumentId,
        ask: Ask,
        replaces: Option<DocumentId>,
        how: &'static str,
    ) -> Result<Retried, Error> {
        let commands = self.replica.commands();
        let command = commands.issue_in(workspace, id, &ask, replaces).await?;
        let entry = self.end(row.id, how).await?;
        Ok(Retried {
            entry,
            command,
            workspace,
        })
    }
}

/// The command that is the next attempt at another: whoever retries the same makes the same.
fn attempt_id(old: DocumentId, ask: &Ask) -> DocumentId {
    let arguments = ask.arguments();
    let mut parts = vec![&old.as_bytes()[..]];
    for (name, value) in &arguments {
        parts.extend([name.as_bytes(), value.as_bytes()]);
    }
    derive_document_id("reconvene/attempt/1", &parts)
}

fn place_of(row: &EntryRow) -> Result<(WorkspaceId, Subject), Error> {
    let subject = row.entry.subject.clone();
    let subject = subject.filter(|subject| {
        [entries::COMMAND, entries::INTEGRATION].contains(&subject.kind.as_str())
    });
    let workspace = row.entry.details.get(entries::IN_WORKSPACE);
    match (subject, workspace) {
        (Some(subject), Some(workspace)) => Ok((workspace.parse()?, subject)),
        _ => Err(Error::BadInput(
            "nothing can be tried again about this entry; settle, resolve or discard it".to_owned(),
        )),
    }
}

fn bad_ask(error: reconvene_model::AskError) -> Error {
    Error::BadInput(error.to_string())
}
