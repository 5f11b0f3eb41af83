//! Looking whether integrations work: at the start, when one changes, now and then, and on demand. Each
//! failure is in the integration, an event, and an entry in the inbox of whoever added it.

use reconvene::mutants::{self, Mutant};
use reconvene::{
    Author, Changes, DocumentId, Error, Integration, IntegrationState, Validation, entries,
};
use tokio::time::timeout;

use super::{Place, Tools};
use crate::adapters::{AdapterError, problem};
use crate::limits::VALIDATION_MAX;

impl Tools {
    /// Looks at an integration and writes down what was found.
    pub(super) async fn validate_now(&self, place: Place, asked: bool) -> Result<(), Error> {
        let (workspace, id) = place;
        let Some(found) = self.look_at(place, asked).await? else {
            return Ok(());
        };
        let changes = Changes::new().integration(id, move |it| it.validated(&found));
        self.serving.write(workspace, changes).await
    }

    /// Looks at an integration, and files or resolves the entry about it. `None` if it was removed, or
    /// nothing can be said because this server's own store failed.
    pub(super) async fn look_at(
        &self,
        (workspace, id): Place,
        asked: bool,
    ) -> Result<Option<Validation>, Error> {
        let integration = self.serving.integration(workspace, id).await?;
        if integration.removed_at.is_some() {
            return Ok(None);
        }
        // It is never closed.
        let _turn = self.outside.acquire().await.map_err(|_| Error::Closed)?;
        let looked = match self.options.adapters.find(&integration.adapter) {
            Ok(adapter) => match timeout(VALIDATION_MAX, adapter.validate(&integration)).await {
                Ok(looked) => looked,
                Err(_) => Err(AdapterError::unreachable("timed_out", "it took too long")),
            },
            Err(error) => Err(error),
        };
        let (state, error) = match looked {
            Ok(()) => (IntegrationState::Valid, None),
            Err(AdapterError::Invalid(problem)) => (IntegrationState::Invalid, Some(problem)),
            Err(AdapterError::Unreachable(problem)) => {
                (IntegrationState::Unreachable, Some(problem))
            }
            Err(AdapterError::Store(error)) => return Err(error),
            Err(AdapterError::Cancelled) => {
                let problem = problem("cancelled", "it was ended");
                (IntegrationState::Unreachable, Some(problem))
            }
        };
        let found = Validation {
            state,
            error,
            identity: integration.identity(),
        };
        self.tell(workspace, id, &integration, &found, asked)
            .await?;
        Ok(Some(found))
    }

    async fn tell(
        &self,
        workspace: reconvene::WorkspaceId,
        id: DocumentId,
        integration: &Integration,
        found: &Validation,
        asked: bool,
    ) -> Result<(), Error> {
        if mutants::is(Mutant::SwallowsFailures) {
            return Ok(());
        }
        let code = found.error.as_ref().map(|error| error.code.as_str());
        if code.is_some() {
            tracing::warn!(%workspace, integration = %id, state = %found.state, code, "an integration does not work");
        }
        let Some(Author { member, .. }) = integration.added_by else {
            tracing::warn!(integration = %id, "nobody is known to have added it");
            return Ok(());
        };
        let Some(problem) = &found.error else {
            return self
                .serving
                .cause_gone(member, entries::validation_id(id))
                .await;
        };
        let draft = entries::of_validation(workspace, id, problem);
        // What somebody has discarded does not come back by itself while nothing about it changes.
        let is_same = integration.validated.as_deref() == Some(&found.identity)
            && integration.error.as_ref() == Some(problem);
        if is_same && !asked {
            let known = self.serving.entry(member, draft.id()).await?;
            let resolved = known.and_then(|row| row.entry.resolved);
            if resolved.is_some_and(|resolved| resolved.how == "discarded") {
                return Ok(());
            }
        }
        if !self.serving.file(member, draft).await? {
            tracing::warn!(integration = %id, "the inbox of whoever added it is not on this server");
        }
        Ok(())
    }

    /// Resolves the entries about an integration that was removed.
    pub(super) async fn forget_entries(
        &self,
        integration: &Integration,
        id: DocumentId,
    ) -> Result<(), Error> {
        let Some(Author { member, .. }) = integration.added_by else {
            return Ok(());
        };
        self.serving
            .cause_gone(member, entries::validation_id(id))
            .await?;
        self.serving.cause_gone(member, entries::run_id(id)).await
    }
}
