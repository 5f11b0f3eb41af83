//! What an entry about a conflict is about, as the document has it now, and settling it.

use reconvene_core::ids::{ChangeHash, DocumentId, FeedSeq, PeerId, WorkspaceId};
use reconvene_core::keys::Key;
use reconvene_core::records::FeedRow;
use reconvene_core::storage::StoreRead as _;
use reconvene_core::time::WallTime;
use reconvene_model::index::EntryRow;
use reconvene_model::{Conflict, Purpose};
use serde::{Deserialize, Serialize};

use super::{Inbox, entries};
use crate::documents::{decode, head_row};
use crate::replica::{EditMode, Shared};
use crate::{Error, Replica};

/// Entries of the feed that are looked at for where a value came from.
const ORIGIN_ENTRIES_MAX: usize = 256;

/// A conflict as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownConflict {
    /// The register, with the parts of its path separated by `/`.
    pub path: String,
    /// What it held before: null if nothing. `None`, and left out, if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<serde_json::Value>,
    /// The values to choose from.
    pub values: Vec<ShownValue>,
}

/// One of the values of a conflict.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownValue {
    /// The value.
    pub value: serde_json::Value,
    /// The actor that wrote it, in hexadecimal digits.
    pub actor: String,
    /// The change that wrote it.
    pub change: Option<ChangeHash>,
    /// When that change says it was made.
    pub at: Option<WallTime>,
    /// Where this device has it from; `None` if that is not known any more.
    pub origin: Option<ValueOrigin>,
    /// Whether it is the one that is shown until somebody settles the conflict.
    pub shown: bool,
}

/// Where a device has a value from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "from")]
pub enum ValueOrigin {
    /// It was written on this device.
    Here,
    /// It came from a peer, which need not be its author: a server passes on what others wrote.
    Peer {
        /// The peer.
        peer: PeerId,
    },
}

/// How a finding is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// By the value of this number, counted from 1 in the order of [`ShownConflict::values`].
    Value(usize),
    /// The meeting stays.
    Keep,
    /// The meeting is deleted, as it is now.
    Delete,
}

impl Inbox {
    /// The conflict that an entry is about, as the document has it now. `None` if the entry is about
    /// something else, or the conflict is another by now, or none.
    ///
    /// # Errors
    /// If there is no such entry, or the document cannot be read.
    pub async fn conflict(&self, id: DocumentId) -> Result<Option<ShownConflict>, Error> {
        let row = self.show(id).await?;
        match self.find(&row).await? {
            Some((_, _, conflict, base)) => {
                let place = entries::document_of(&row.entry);
                let shown = move |shared: &Shared| show(shared, place, conflict, base);
                Ok(Some(self.replica.blocking(shown).await?))
            }
            None => Ok(None),
        }
    }

    /// Settles what an entry is about by a choice, as an ordinary change of the document, and resolves
    /// the entry. A value that nobody was shown is not overwritten: then this is refused.
    ///
    /// # Errors
    /// If there is no such entry, it is resolved, it is about something else than the choice, or what it
    /// is about is another by now; [`Error::Model`] if there is no value of this number.
    pub async fn settle(&self, id: DocumentId, choice: Choice) -> Result<EntryRow, Error> {
        let row = self.open_entry(id).await?;
        let not_now = || {
            Error::BadInput(format!(
                "what entry {id} is about is another by now, or nothing to choose; list the inbox again"
            ))
        };
        let (workspace, document) = entries::document_of(&row.entry).ok_or_else(not_now)?;
        let topic = row.entry.topic.as_str();
        match choice {
            Choice::Value(number) => {
                let found = self.find(&row).await?;
                let (_, _, conflict, _) = found.ok_or_else(not_now)?;
                let place = number.checked_sub(1).unwrap_or(usize::MAX);
                self.replica
                    .edit_document(workspace, document, EditMode::default(), move |editor| {
                        editor.settle(&conflict, place)
                    })
                    .await?;
            }
            Choice::Keep | Choice::Delete if topic.starts_with(entries::DELETION) => {
                let of: Replica = self.replica.in_workspace(&workspace.to_string()).await?;
                match choice {
                    Choice::Delete => of.meetings().delete(document).await?,
                    _ => of.meetings().restore(document).await?,
                }
            }
            Choice::Keep | Choice::Delete => {
                return Err(Error::BadInput(
                    "only a deletion is kept or deleted; choose the number of a value".to_owned(),
                ));
            }
        }
        self.end(id, "settled").await
    }

    /// The very conflict that an entry is about, where it is, and what was before.
    async fn find(&self, row: &EntryRow) -> Result<Option<FoundConflict>, Error> {
        let Some(named) = row.entry.topic.strip_prefix(entries::CONFLICT) else {
            return Ok(None);
        };
        let Some((workspace, document)) = entries::document_of(&row.entry) else {
            return Ok(None);
        };
        let named = named.to_owned();
        let mut lease = self
            .replica
            .shared
            .documents
            .lease(workspace, document)
            .await;
        let found = self.replica.blocking(move |shared| {
            let loaded = shared.documents.load(&mut lease, Purpose::Read);
            let found = loaded.and_then(|loaded| {
                let mut conflicts = loaded.conflicts()?.into_iter();
                let Some(of) = conflicts.find(|of| of.id().to_string() == named) else {
                    return Ok(None);
                };
                let base = loaded.base_of(&of)?;
                Ok(Some((workspace, document, of, base)))
            });
            shared.documents.give_back(lease);
            found
        });
        match found.await {
            // It was purged, or another device's: it is not here.
            Err(Error::NotFound { .. } | Error::DocumentDeleted { .. }) => Ok(None),
            found => found,
        }
    }
}

type FoundConflict = (WorkspaceId, DocumentId, Conflict, Option<serde_json::Value>);

fn show(
    shared: &Shared,
    place: Option<(WorkspaceId, DocumentId)>,
    conflict: Conflict,
    base: Option<serde_json::Value>,
) -> Result<ShownConflict, Error> {
    let last = conflict.values.len().saturating_sub(1);
    let mut values = Vec::with_capacity(conflict.values.len());
    for (number, value) in conflict.values.into_iter().enumerate() {
        let origin = match (place, value.change) {
            (Some(place), Some(change)) => origin_of(shared, place, change)?,
            _ => None,
        };
        values.push(ShownValue {
            value: value.value,
            actor: value.actor,
            change: value.change,
            at: value.at,
            origin,
            shown: number == last,
        });
    }
    Ok(ShownConflict {
        path: conflict.path,
        base,
        values,
    })
}

/// Where a change came from, by the document's entries in the feed; compaction takes the older ones away.
fn origin_of(
    shared: &Shared,
    (workspace, document): (WorkspaceId, DocumentId),
    change: ChangeHash,
) -> Result<Option<ValueOrigin>, Error> {
    let head = head_row(&shared.reader, workspace, document)?;
    let mut at = head.map_or(FeedSeq(0), |head| head.feed_seq);
    for _ in 0..ORIGIN_ENTRIES_MAX {
        let key = Key::feed(&workspace, at);
        let Some(value) = shared.reader.read(&key)? else {
            break;
        };
        let row: FeedRow = decode(&key, &value)?;
        if row.changes.iter().any(|(hash, _)| *hash == change) {
            return Ok(Some(match row.origin {
                None => ValueOrigin::Here,
                // What a healing entered anew, this device may have had from anybody.
                Some(peer) if peer == shared.peer => return Ok(None),
                Some(peer) => ValueOrigin::Peer { peer },
            }));
        }
        at = row.previous;
    }
    Ok(None)
}
