//! What rows of integrations and inbox entries have to tell when they change, whoever changed them.

use reconvene_core::ids::WorkspaceId;
use reconvene_core::keys::Key;
use reconvene_core::storage::StoreRead as _;
use reconvene_model::IntegrationState;
use reconvene_model::index::{EntryRow, IndexRow, IntegrationRow};
use reconvene_sled::SledReader;

use crate::{Error, ReplicaEvent};

/// The event that a row's new value is, against what is stored under its key.
pub(crate) fn news_of(
    reader: &SledReader,
    workspace: WorkspaceId,
    key: &Key,
    row: &IndexRow,
) -> Result<Option<ReplicaEvent>, Error> {
    if !matches!(row, IndexRow::Entry(_) | IndexRow::Integration(_)) {
        return Ok(None);
    }
    let before = reader.read(key)?;
    // One of another version tells nothing of what was.
    let before = before.and_then(|value| IndexRow::decode(&value).ok());
    Ok(match (before, row) {
        (Some(IndexRow::Entry(before)), IndexRow::Entry(now)) => entry(Some(&before), now),
        (_, IndexRow::Entry(now)) => entry(None, now),
        (Some(IndexRow::Integration(before)), IndexRow::Integration(now)) => {
            integration(workspace, Some(&before), now)
        }
        (_, IndexRow::Integration(now)) => integration(workspace, None, now),
        _ => None,
    })
}

fn entry(before: Option<&EntryRow>, now: &EntryRow) -> Option<ReplicaEvent> {
    let told = |row: &EntryRow| (row.entry.resolved.is_none(), row.entry.filed_at);
    let is_news = before.is_none_or(|before| told(before) != told(now));
    is_news.then(|| ReplicaEvent::InboxEntry {
        entry: now.id,
        code: now.entry.code.clone(),
        open: now.entry.resolved.is_none(),
    })
}

fn integration(
    workspace: WorkspaceId,
    before: Option<&IntegrationRow>,
    now: &IntegrationRow,
) -> Option<ReplicaEvent> {
    let known = &now.integration;
    let (state, looked) = before.map_or((IntegrationState::Unchecked, None), |row| {
        (row.integration.state, row.integration.validated_at)
    });
    let fails = matches!(
        known.state,
        IntegrationState::Invalid | IntegrationState::Unreachable
    );
    // Every time it is found not to work, and when it works again.
    let is_news = known.state != state || fails && known.validated_at != looked;
    is_news.then(|| ReplicaEvent::IntegrationState {
        workspace,
        integration: now.id,
        state: known.state,
        code: known.error.as_ref().map(|error| error.code.clone()),
    })
}
