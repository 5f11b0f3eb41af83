//! What a watch tells of integrations and their sync runs: what is other than it told last.

use std::collections::{BTreeMap, BTreeSet};

use reconvene::{DocumentId, Error, Replica, RunId};

use crate::convert;
use crate::limits::WATCH_REMEMBERED_MAX;
use crate::v1::{self, event::Happened};

/// What was told last.
#[derive(Default)]
pub(super) struct Told {
    integrations: BTreeMap<DocumentId, v1::IntegrationChanged>,
    runs: BTreeMap<(DocumentId, RunId), v1::GetSyncStatusResponse>,
}

impl Told {
    /// What there is to tell of an integration that changed, or was purged.
    pub(super) async fn news(
        &mut self,
        replica: &Replica,
        id: DocumentId,
        purged: bool,
    ) -> Result<Vec<Happened>, Error> {
        let row = match purged {
            true => None,
            false => match replica.integrations().show(id).await {
                Ok(row) => Some(row),
                // Purged since.
                Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        let kept = row.iter().flat_map(|row| row.integration.runs.keys());
        let kept: BTreeSet<RunId> = kept.copied().collect();
        let removed = row
            .as_ref()
            .is_none_or(|row| row.integration.removed_at.is_some());
        let integration = match row {
            Some(row) => convert::integration(row),
            None => v1::Integration {
                id: id.to_string(),
                ..Default::default()
            },
        };
        let now = v1::IntegrationChanged {
            integration: Some(integration),
            removed,
            run_ids: kept.iter().map(ToString::to_string).collect(),
        };
        // Those that were told and are not kept any more.
        let first = RunId::from_bytes([0; 16]);
        let last = RunId::from_bytes([u8::MAX; 16]);
        let told = self.runs.range((id, first)..=(id, last));
        let told = told.map(|((_, run), _)| *run);
        let runs: BTreeSet<_> = told.chain(kept.iter().copied()).collect();
        let mut news = Vec::new();
        if self.integrations.get(&id) != Some(&now) {
            news.push(Happened::Integration(now.clone()));
            self.integrations.insert(id, now);
        }
        for run in runs {
            let mut status = convert::run_status(replica.runs().status(run).await?);
            status.integration_id.get_or_insert(id.to_string());
            let told = match kept.contains(&run) {
                true => self.runs.insert((id, run), status.clone()),
                // Nothing will ever change about it.
                false => self.runs.remove(&(id, run)),
            };
            let is_gone =
                |status: &v1::GetSyncStatusResponse| status.status() == v1::SyncStatus::NotFound;
            if told.is_some_and(|told| told == status || is_gone(&told) && is_gone(&status)) {
                continue;
            }
            news.push(Happened::Run(v1::RunChanged {
                run_id: run.to_string(),
                status: Some(status),
            }));
        }
        if self.integrations.len() + self.runs.len() > WATCH_REMEMBERED_MAX {
            *self = Self::default();
        }
        Ok(news)
    }
}
