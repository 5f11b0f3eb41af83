//! What the store holds, counted: records and bytes of keys and values by kind, of everything, one
//! workspace, or one document. Reads all of it, so it takes as long as the store is large.

use std::collections::BTreeMap;

use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_core::keys::{Key, KeyKind, KeyRange};
use reconvene_core::records::FeedRow;
use reconvene_core::storage::{Direction, Scan, StoreRead as _};
use serde::Serialize;

use crate::documents::{decode, head_row, not_found};
use crate::replica::Shared;
use crate::{Error, Replica};

/// Records read at a time.
const PAGE_ROWS: usize = 4096;
/// Bytes of values read at a time, about.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Records of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecordUse {
    /// How many.
    pub records: u64,
    /// Their keys and values, in bytes.
    pub bytes: u64,
}

/// Records by kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RecordUses {
    /// All of them.
    pub total: RecordUse,
    /// By the names in `schema/storage-keys.md`; `unknown` for kinds of a later version.
    pub by_kind: BTreeMap<String, RecordUse>,
}

impl RecordUses {
    fn add(&mut self, key: &Key, value: &[u8]) {
        let kind = key
            .kind()
            .map_or("unknown".to_owned(), |kind| format!("{kind:?}"));
        let bytes = (key.as_bytes().len() + value.len()) as u64;
        for entry in [&mut self.total, self.by_kind.entry(kind).or_default()] {
            entry.records += 1;
            entry.bytes += bytes;
        }
    }
}

impl Replica {
    /// Counts what the store holds: everything, or of one workspace, or of one document of the
    /// current workspace.
    ///
    /// Cancel-safe: nothing is changed.
    ///
    /// # Errors
    /// If the workspace or document is not known, or the store fails.
    pub async fn records(
        &self,
        workspace: Option<&str>,
        document: Option<DocumentId>,
    ) -> Result<RecordUses, Error> {
        let workspace = match workspace {
            Some(id_or_name) => Some(self.find_workspace(id_or_name).await?.id),
            None => self.scope(),
        };
        let current = self.current_workspace();
        self.blocking(move |shared| match (workspace, document) {
            (workspace, Some(document)) => {
                count_document(shared, workspace.map_or(current, Ok)?, document)
            }
            (Some(workspace), None) => count(shared, |key| belongs(key, &workspace)),
            (None, None) => count(shared, |_| true),
        })
        .await
    }
}

/// Whether a record is of a workspace: those kinds lead with it.
fn belongs(key: &Key, workspace: &WorkspaceId) -> bool {
    let leads = key
        .kind()
        .is_some_and(|kind| kind >= KeyKind::FeedHead || kind == KeyKind::Workspace);
    leads && key.as_bytes().get(1..17) == Some(workspace.as_bytes())
}

fn count(shared: &Shared, counts: impl Fn(&Key) -> bool) -> Result<RecordUses, Error> {
    let mut uses = RecordUses::default();
    for_each(shared, KeyRange::new(Vec::new(), None), |key, value| {
        if counts(key) {
            uses.add(key, value);
        }
        Ok(())
    })?;
    Ok(uses)
}

fn count_document(
    shared: &Shared,
    workspace: WorkspaceId,
    document: DocumentId,
) -> Result<RecordUses, Error> {
    let head = head_row(&shared.reader, workspace, document)?.ok_or_else(|| not_found(document))?;
    let mut uses = RecordUses::default();
    for key in [
        Key::head(&workspace, &document),
        Key::index(&workspace, head.kind, &document),
    ] {
        if let Some(value) = shared.reader.read(&key)? {
            uses.add(&key, &value);
        }
    }
    for range in [
        KeyRange::changes(&workspace, &document),
        KeyRange::snapshots(&workspace, &document),
    ] {
        for_each(shared, range, |key, value| {
            uses.add(key, value);
            Ok(())
        })?;
    }
    let feed = KeyRange::feed_after(&workspace, reconvene_core::ids::FeedSeq(0));
    for_each(shared, feed, |key, value| {
        if decode::<FeedRow>(key, value)?.document == document {
            uses.add(key, value);
        }
        Ok(())
    })?;
    Ok(uses)
}

fn for_each(
    shared: &Shared,
    mut range: KeyRange,
    mut visit: impl FnMut(&Key, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let rows = shared.reader.scan(&Scan {
            range: range.clone(),
            direction: Direction::Ascending,
            rows_max: PAGE_ROWS,
            bytes_max: PAGE_BYTES,
        })?;
        for (key, value) in &rows.rows {
            visit(key, value)?;
        }
        match rows.rows.last().filter(|_| rows.more) {
            Some((last, _)) => range = range.after(last),
            None => return Ok(()),
        }
    }
}
