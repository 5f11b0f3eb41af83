//! Commands: what only the server can do, asked for here.
//!
//! A command is a document: durable once [`Commands::issue`] resolves, sent when there is a link,
//! carried out once. The outbox is the list of those that have no outcome yet.

use std::time::Duration;

use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_core::storage::StoreError;
use reconvene_model::index::CommandRow;
use reconvene_model::{Ask, Author, COMMAND, CommandDraft};
use serde::{Deserialize, Serialize};

use crate::documents::head_row;
use crate::limits::COMMANDS_WAITING_MAX;
use crate::query::Subscription;
use crate::replica::{EditMode, new_document_id};
use crate::rows::{self, Row as _, named};
use crate::{Error, Replica};

/// The commands of the workspace that is current at each call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands {
    replica: Replica,
}

/// Which commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandFilter {
    /// Those without an outcome: the outbox.
    #[default]
    Pending,
    /// Every one that is still kept.
    All,
}

impl CommandFilter {
    fn wants(self, row: &CommandRow) -> bool {
        self == Self::All || row.command.outcome.is_none()
    }
}

impl Replica {
    /// The commands of the current workspace.
    pub fn commands(&self) -> Commands {
        Commands {
            replica: self.clone(),
        }
    }
}

impl Commands {
    /// An id for a command to come. Whoever may have to repeat the issuing of a command, say after a
    /// crash, keeps its id first: issued twice it is one command.
    pub fn new_id() -> DocumentId {
        new_document_id()
    }

    /// Issues a command under an id of the caller's (a UUID); resolves when it is durable here. Issuing
    /// the same again changes nothing and yields the command as it stands.
    ///
    /// Cancel-safe: the command is either issued whole or not at all.
    ///
    /// # Errors
    /// [`Error::TooManyCommands`] if [`COMMANDS_WAITING_MAX`] of this
    /// member's wait already. If the id is another command's or another document's, or the store fails.
    pub async fn issue(&self, id: DocumentId, ask: &Ask) -> Result<CommandRow, Error> {
        let workspace = self.replica.current_workspace()?;
        self.issue_in(workspace, id, ask, None).await
    }

    /// The same in a workspace, as another attempt at a command.
    pub(crate) async fn issue_in(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        ask: &Ask,
        replaces: Option<DocumentId>,
    ) -> Result<CommandRow, Error> {
        self.check_room(workspace, id).await?;
        let device = self.replica.device();
        let draft = CommandDraft {
            name: ask.name().to_owned(),
            arguments: ask.arguments(),
            issued_by: Author {
                member: device.member,
                device: device.peer_id,
            },
            replaces,
        };
        let issue = move |editor: &mut reconvene_model::Editor| editor.command()?.issue(&draft);
        self.replica
            .edit_document(workspace, id, EditMode::creating(COMMAND), issue)
            .await?;
        self.replica.read_row(workspace, id).await
    }

    /// Fails if as many commands of this member wait as may. What was issued before can be issued again.
    async fn check_room(&self, workspace: WorkspaceId, id: DocumentId) -> Result<(), Error> {
        let is_full = self.replica.blocking(move |shared| {
            let member = shared.member();
            let is_waiting = |row: &CommandRow| {
                let author = row.command.issued_by.as_ref();
                row.command.outcome.is_none() && author.is_some_and(|of| of.member == member)
            };
            let waiting = rows::scan(&shared.reader, workspace, is_waiting);
            let waiting = shared.noting_damage(workspace, waiting)?;
            Ok(waiting.len() >= COMMANDS_WAITING_MAX
                && head_row(&shared.reader, workspace, id)?.is_none())
        });
        match is_full.await? {
            false => Ok(()),
            true => Err(Error::TooManyCommands {
                max: COMMANDS_WAITING_MAX,
            }),
        }
    }

    /// Says that a command is wanted no more; resolves when that is durable here. If the server had
    /// not taken it up by then nothing is done and its outcome is `cancelled`; otherwise it goes on. A
    /// command that has ended stays as it is.
    ///
    /// # Errors
    /// If there is no such command, or the store fails.
    pub async fn cancel(&self, id: DocumentId) -> Result<CommandRow, Error> {
        let workspace = self.replica.current_workspace()?;
        let cancelled = self
            .replica
            .edit_document(workspace, id, EditMode::default(), |editor| {
                editor.command()?.cancel()
            })
            .await;
        cancelled.map_err(|error| named(CommandRow::WHAT, error))?;
        self.replica.read_row(workspace, id).await
    }

    /// Reads a command as it stands here.
    ///
    /// # Errors
    /// If there is no such command, or it cannot be read.
    pub async fn show(&self, id: DocumentId) -> Result<CommandRow, Error> {
        let workspace = self.replica.current_workspace()?;
        self.replica.read_row(workspace, id).await
    }

    /// Lists commands, the latest issued first; at most
    /// [`LIST_SCAN_ROWS_MAX`](crate::limits::LIST_SCAN_ROWS_MAX). Loads no document.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self, filter: CommandFilter) -> Result<Vec<CommandRow>, Error> {
        let workspace = self.replica.current_workspace()?;
        let rows = self.replica.rows(workspace, move |row| filter.wants(row));
        let mut rows: Vec<CommandRow> = rows.await?;
        rows.sort_by_key(|row| std::cmp::Reverse((row.command.issued_at, row.id)));
        Ok(rows)
    }

    /// Subscribes to commands: first those there are, then what changes. With
    /// [`CommandFilter::Pending`] one that gets its outcome is removed.
    ///
    /// # Errors
    /// If the replica is closed.
    pub fn subscribe(&self, filter: CommandFilter) -> Result<Subscription<CommandRow>, Error> {
        let workspace = self.replica.current_workspace()?;
        let wants = move |row: &CommandRow| filter.wants(row);
        self.replica.subscribe_rows(workspace, wants)
    }

    /// Waits until a command has an outcome here, and yields it. The links are the caller's business:
    /// without one nothing comes. Dropping this midway loses nothing.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it has none in time: it stays in the outbox. If there is no such command.
    pub async fn ended(&self, id: DocumentId, timeout: Duration) -> Result<CommandRow, Error> {
        let workspace = self.replica.current_workspace()?;
        let is_it = move |row: &CommandRow| row.id == id && row.command.outcome.is_some();
        let mut ended = self.replica.subscribe_rows(workspace, is_it)?;
        let row: CommandRow = self.replica.read_row(workspace, id).await?;
        if row.command.outcome.is_some() {
            return Ok(row);
        }
        let waited = tokio::time::timeout(timeout, async {
            loop {
                let batch = ended.next().await?;
                if let Some(row) = batch.added.into_iter().next() {
                    return Ok(row);
                }
            }
        });
        match waited.await {
            Ok(Err(Error::Store(StoreError::Closed))) => Err(Error::Closed),
            Ok(ended) => ended,
            Err(_) => Err(Error::Timeout {
                seconds: timeout.as_secs(),
                why: format!("the server has not said what became of command {id}"),
            }),
        }
    }
}
