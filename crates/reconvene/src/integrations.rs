//! Integrations of a workspace: adding, changing, listing. The server says whether they work.

use reconvene_core::ids::DocumentId;
use reconvene_model::index::{CommandRow, IntegrationRow};
use reconvene_model::integration::IntegrationEditor;
use reconvene_model::{Ask, Author, INTEGRATION, IntegrationDraft, ModelError, Settings};
use serde::{Deserialize, Serialize};

use crate::commands::Commands;
use crate::query::Subscription;
use crate::replica::{EditMode, check_name, new_document_id};
use crate::rows::{Row as _, named};
use crate::{Error, Replica};

/// The integrations of the workspace that is current at each call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Integrations {
    replica: Replica,
}

/// An integration to add. `Debug` hides the secrets among its settings.
#[derive(Clone, Debug, Default)]
pub struct NewIntegration {
    /// What carries it out, such as `ical` or `webhook`.
    pub adapter: String,
    /// What it is elsewhere: an address or a file, as its adapter says.
    pub external_id: String,
    /// Under which account there.
    pub account: Option<String>,
    /// What else the adapter needs, by name.
    pub settings: Settings,
}

/// What to change of an integration, all in one edit.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationChanges {
    /// What it is elsewhere.
    pub external_id: Option<String>,
    /// Under which account there; `Some(None)` for none.
    pub account: Option<Option<String>>,
    /// Settings to write, or to remove with `None`.
    pub settings: Vec<(String, Option<String>)>,
}

impl Replica {
    /// The integrations of the current workspace.
    pub fn integrations(&self) -> Integrations {
        Integrations {
            replica: self.clone(),
        }
    }
}

impl Integrations {
    /// Adds an integration; resolves when it is durable. Whether it works the server says as soon as it
    /// has it.
    ///
    /// # Errors
    /// If what it says is empty or too long, or the edit fails.
    pub async fn add(&self, new: NewIntegration) -> Result<IntegrationRow, Error> {
        check_name(&new.adapter)?;
        let workspace = self.replica.current_workspace()?;
        let id = new_document_id();
        let device = self.replica.device();
        let draft = IntegrationDraft {
            adapter: new.adapter,
            external_id: new.external_id,
            account: new.account,
            settings: new.settings,
            added_by: Author {
                member: device.member,
                device: device.peer_id,
            },
        };
        let create =
            move |editor: &mut reconvene_model::Editor| editor.integration()?.create(&draft);
        self.replica
            .edit_document(workspace, id, EditMode::creating(INTEGRATION), create)
            .await?;
        self.replica.read_row(workspace, id).await
    }

    /// Changes an integration in one edit; resolves when it is durable. The server looks at it again.
    ///
    /// # Errors
    /// If there is no such integration, or the edit fails.
    pub async fn edit(
        &self,
        id: DocumentId,
        changes: IntegrationChanges,
    ) -> Result<IntegrationRow, Error> {
        self.change(id, move |integration| {
            if let Some(external_id) = &changes.external_id {
                integration.set_external_id(external_id)?;
            }
            if let Some(account) = &changes.account {
                integration.set_account(account.as_deref())?;
            }
            for (name, value) in &changes.settings {
                integration.set_setting(name, value.as_deref())?;
            }
            Ok(())
        })
        .await
    }

    /// Removes an integration; resolves when that is durable. What it made stays.
    ///
    /// # Errors
    /// If there is no such integration, or the edit fails.
    pub async fn remove(&self, id: DocumentId) -> Result<IntegrationRow, Error> {
        self.change(id, |integration| integration.remove(true))
            .await
    }

    async fn change(
        &self,
        id: DocumentId,
        change: impl FnOnce(&mut IntegrationEditor<'_>) -> Result<(), ModelError> + Send + 'static,
    ) -> Result<IntegrationRow, Error> {
        let workspace = self.replica.current_workspace()?;
        let changed = self
            .replica
            .edit_document(workspace, id, EditMode::default(), move |editor| {
                change(&mut editor.integration()?)
            })
            .await;
        changed.map_err(|error| named(IntegrationRow::WHAT, error))?;
        self.replica.read_row(workspace, id).await
    }

    /// Reads an integration.
    ///
    /// # Errors
    /// If there is no such integration, or it cannot be read.
    pub async fn show(&self, id: DocumentId) -> Result<IntegrationRow, Error> {
        let workspace = self.replica.current_workspace()?;
        self.replica.read_row(workspace, id).await
    }

    /// Lists the integrations that were not removed, the latest added first. Loads no document.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn list(&self) -> Result<Vec<IntegrationRow>, Error> {
        let workspace = self.replica.current_workspace()?;
        self.replica.rows(workspace, is_there).await
    }

    /// Subscribes to the integrations that were not removed: first those there are, then what changes,
    /// their state and their runs included.
    ///
    /// # Errors
    /// If the replica is closed.
    pub fn subscribe(&self) -> Result<Subscription<IntegrationRow>, Error> {
        let workspace = self.replica.current_workspace()?;
        self.replica.subscribe_rows(workspace, is_there)
    }

    /// Has the server look whether an integration works, or all of the workspace: a command.
    ///
    /// # Errors
    /// As for [`Commands::issue`].
    pub async fn validate(&self, integration: Option<DocumentId>) -> Result<CommandRow, Error> {
        let ask = Ask::ValidateIntegrations { integration };
        self.replica
            .commands()
            .issue(Commands::new_id(), &ask)
            .await
    }

    /// Has the server begin a sync run: a command, whose outcome names the run.
    ///
    /// # Errors
    /// As for [`Commands::issue`].
    pub async fn sync(&self, integration: DocumentId) -> Result<CommandRow, Error> {
        let ask = Ask::StartIntegrationSync {
            integration,
            trigger: "manual".to_owned(),
        };
        self.replica
            .commands()
            .issue(Commands::new_id(), &ask)
            .await
    }
}

fn is_there(row: &IntegrationRow) -> bool {
    row.integration.removed_at.is_none()
}
