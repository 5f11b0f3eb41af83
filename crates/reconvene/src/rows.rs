//! Lists and live queries of the kinds whose rows say all of the document: commands, inbox entries,
//! integrations.

use std::sync::Arc;

use reconvene_core::ids::{DocumentId, DocumentKind, WorkspaceId};
use reconvene_core::keys::KeyRange;
use reconvene_core::storage::{Direction, Scan, StoreRead};
use reconvene_model::index::{CommandRow, EntryRow, IndexRow, IntegrationRow};
use reconvene_model::{COMMAND, Document, ENTRY, INTEGRATION, Purpose, ReadError};

use crate::limits::LIST_SCAN_ROWS_MAX;
use crate::query::Subscription;
use crate::{Error, Replica};

/// A row that says all of its document.
pub(crate) trait Row: Sized + Send + 'static {
    /// The kind, as what a subscription is interested in.
    const KIND: &'static [DocumentKind; 1];
    /// What it is called in errors.
    const WHAT: &'static str;

    fn of(row: IndexRow) -> Option<Self>;

    fn read(id: DocumentId, document: &Document) -> Result<Self, ReadError>;
}

impl Row for CommandRow {
    const KIND: &'static [DocumentKind; 1] = &[COMMAND];
    const WHAT: &'static str = "command";

    fn of(row: IndexRow) -> Option<Self> {
        match row {
            IndexRow::Command(row) => Some(*row),
            _ => None,
        }
    }

    fn read(id: DocumentId, document: &Document) -> Result<Self, ReadError> {
        let command = document.command()?;
        Ok(Self { id, command })
    }
}

impl Row for EntryRow {
    const KIND: &'static [DocumentKind; 1] = &[ENTRY];
    const WHAT: &'static str = "inbox entry";

    fn of(row: IndexRow) -> Option<Self> {
        match row {
            IndexRow::Entry(row) => Some(*row),
            _ => None,
        }
    }

    fn read(id: DocumentId, document: &Document) -> Result<Self, ReadError> {
        let entry = document.entry()?;
        Ok(Self { id, entry })
    }
}

impl Row for IntegrationRow {
    const KIND: &'static [DocumentKind; 1] = &[INTEGRATION];
    const WHAT: &'static str = "integration";

    fn of(row: IndexRow) -> Option<Self> {
        match row {
            IndexRow::Integration(row) => Some(*row),
            _ => None,
        }
    }

    fn read(id: DocumentId, document: &Document) -> Result<Self, ReadError> {
        let integration = document.integration()?;
        Ok(Self { id, integration })
    }
}

/// The rows of a workspace that are wanted, of the latest [`LIST_SCAN_ROWS_MAX`].
pub(crate) fn scan<R: Row>(
    reader: &impl StoreRead,
    workspace: WorkspaceId,
    wanted: impl Fn(&R) -> bool,
) -> Result<Vec<R>, Error> {
    let rows = reader.scan(&Scan {
        range: KeyRange::index(&workspace, R::KIND[0]),
        direction: Direction::Descending,
        rows_max: LIST_SCAN_ROWS_MAX,
        bytes_max: usize::MAX,
    })?;
    // A row of another version is being rebuilt; it is left out until then.
    let rows = rows.rows.iter();
    let rows = rows.filter_map(|(_, value)| R::of(IndexRow::decode(value).ok()?));
    Ok(rows.filter(wanted).collect())
}

impl Replica {
    /// The rows of a workspace that are wanted. Loads no document.
    pub(crate) async fn rows<R: Row>(
        &self,
        workspace: WorkspaceId,
        wanted: impl Fn(&R) -> bool + Send + 'static,
    ) -> Result<Vec<R>, Error> {
        self.blocking(move |shared| {
            let rows = scan(&shared.reader, workspace, wanted);
            shared.noting_damage(workspace, rows)
        })
        .await
    }

    /// Subscribes to the rows of a workspace that are wanted.
    pub(crate) fn subscribe_rows<R: Row>(
        &self,
        workspace: WorkspaceId,
        wanted: impl Fn(&R) -> bool + Send + Sync + 'static,
    ) -> Result<Subscription<R>, Error> {
        let pick = move |_: &_, _, value: &[u8]| {
            let row = IndexRow::decode(value).ok().and_then(R::of);
            Ok(row.filter(&wanted))
        };
        Subscription::new(self, workspace, R::KIND, Arc::new(pick))
    }

    /// What a document says now, as a row: also what was written a moment ago and is not in lists yet.
    pub(crate) async fn read_row<R: Row>(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
    ) -> Result<R, Error> {
        let mut lease = self.shared.documents.lease(workspace, id).await;
        let read = self.blocking(move |shared| {
            let loaded = shared.documents.load(&mut lease, Purpose::Read);
            let row = loaded.and_then(|document| match document.kind() == R::KIND[0] {
                true => Ok(R::read(id, document)?),
                false => Err(crate::documents::not_found(id)),
            });
            shared.documents.give_back(lease);
            row
        });
        read.await.map_err(|error| named(R::WHAT, error))
    }
}

/// Names what was not found.
pub(crate) fn named(what: &'static str, error: Error) -> Error {
    match error {
        Error::NotFound { id, .. } => Error::NotFound { what, id },
        other => other,
    }
}
