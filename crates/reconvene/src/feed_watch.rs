//! What changed since somebody last looked, whoever did it: the feed of a workspace, for readers that
//! are no peers. A cursor says how far they were told, and is good for a later run of the process, too.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use reconvene_core::feed::{Digest, FeedPoint};
use reconvene_core::ids::{DocumentId, DocumentKind, FeedSeq, StoreEpoch, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::FeedRow;
use reconvene_core::storage::{Direction, Scan, StoreRead as _};
use reconvene_model::{INTEGRATION, MEETING, Purpose, TRANSCRIPT, WORKSPACE};
use tokio::sync::watch;

use crate::documents::decode;
use crate::indexer::IndexProgress;
use crate::limits::{CHANGES_ENTRIES_MAX, PAGES_KNOWN_MAX};
use crate::replica::Shared;
use crate::status::{feed_head, indexed_to};
use crate::{Error, Replica};

/// First byte of a cursor's bytes.
const CURSOR_VERSION: u8 = 1;
/// Version, workspace, epoch, seq and digest.
const CURSOR_BYTES: usize = 1 + 16 + 16 + 8 + 16;

/// How far a reader of [`FeedWatch`] was told. Opaque as text; made to be kept and handed in again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedCursor {
    workspace: WorkspaceId,
    /// With a seq of 0: before everything, of whatever history.
    point: FeedPoint,
}

impl FeedCursor {
    /// Before everything there is in a workspace.
    pub const fn start_of(workspace: WorkspaceId) -> Self {
        Self {
            workspace,
            point: FeedPoint::start_of(StoreEpoch::from_bytes([0; 16])),
        }
    }

    /// The workspace it belongs to.
    pub const fn workspace(&self) -> WorkspaceId {
        self.workspace
    }
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workspace, point } = self;
        let seq = point.seq.0.to_be_bytes();
        let parts: [&[u8]; 5] = [
            &[CURSOR_VERSION],
            workspace.as_bytes(),
            point.epoch.as_bytes(),
            &seq,
            point.digest.as_bytes(),
        ];
        parts
            .concat()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for FeedCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadInput("this is no cursor of a watch".to_owned());
        if text.len() != 2 * CURSOR_BYTES || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; CURSOR_BYTES];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| bad())?;
        }
        let (version, rest) = bytes.split_at(1);
        let (workspace, rest) = rest.split_at(16);
        let (epoch, rest) = rest.split_at(16);
        let (seq, digest) = rest.split_at(8);
        let sixteen = |part: &[u8]| <[u8; 16]>::try_from(part).map_err(|_| bad());
        if version != [CURSOR_VERSION] {
            return Err(bad());
        }
        let seq = u64::from_be_bytes(seq.try_into().map_err(|_| bad())?);
        Ok(Self {
            workspace: WorkspaceId::from_bytes(sixteen(workspace)?),
            point: FeedPoint {
                epoch: StoreEpoch::from_bytes(sixteen(epoch)?),
                seq: FeedSeq(seq),
                digest: Digest::from_bytes(sixteen(digest)?),
            },
        })
    }
}

/// What kind of document changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangedKind {
    /// The workspace document: projects or settings.
    Workspace,
    /// A meeting.
    Meeting,
    /// A page of this meeting's transcript; `None` where the page does not say, or was purged.
    Transcript {
        /// The meeting.
        meeting: Option<DocumentId>,
    },
    /// An integration: what it is, whether it works, or one of its sync runs.
    Integration,
    /// Another kind.
    Other,
}

/// A document that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedDocument {
    /// Its id.
    pub id: DocumentId,
    /// What it is.
    pub kind: ChangedKind,
    /// Whether it was purged: nothing of it is kept.
    pub purged: bool,
}

/// What changed between two cursors, each document once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedDocuments {
    /// The documents, in the order of their ids. Their rows are in the index.
    pub documents: Vec<ChangedDocument>,
    /// How far this leads.
    pub cursor: FeedCursor,
}

/// The changes of a workspace from a cursor on, as they come. Made by [`Replica::watch_feed`].
///
/// It keeps no queue: a slow reader is told each changed document once, however often it changed.
pub struct FeedWatch {
    replica: Replica,
    cursor: FeedCursor,
    index: watch::Receiver<IndexProgress>,
    /// Which meeting a page belongs to, where that is known.
    pages: BTreeMap<DocumentId, Option<DocumentId>>,
}

impl fmt::Debug for FeedWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedWatch")
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// What changes in the current workspace from a cursor on, or from now on: from where lists are
    /// now, so that what a list made after this does not show yet is told.
    ///
    /// # Errors
    /// [`Error::OtherHistory`] if the cursor is of a history that this store does not have, or cannot
    /// be told to be of this one because its entry was compacted away. If it is of another workspace, or
    /// the store fails.
    pub async fn watch_feed(&self, since: Option<FeedCursor>) -> Result<FeedWatch, Error> {
        let workspace = self.current_workspace()?;
        let index = self.shared.index.clone();
        let cursor = self
            .blocking(move |shared| match since {
                Some(cursor) => check(shared, workspace, &cursor).map(|()| cursor),
                None => shared.noting_damage(workspace, latest_indexed(shared, workspace)),
            })
            .await?;
        Ok(FeedWatch {
            replica: self.clone(),
            cursor,
            index,
            pages: BTreeMap::new(),
        })
    }
}

impl FeedWatch {
    /// How far was told.
    pub const fn cursor(&self) -> FeedCursor {
        self.cursor
    }

    /// Waits until something changed, at most [`CHANGES_ENTRIES_MAX`] entries of the feed at a time.
    /// Dropping this midway loses nothing.
    ///
    /// # Errors
    /// [`Error::Closed`] once the replica is closed, [`Error::OtherHistory`] once the store began
    /// another history, or if the store fails.
    pub async fn next(&mut self) -> Result<ChangedDocuments, Error> {
        loop {
            let workspace = self.cursor.workspace;
            let through = self.index.borrow_and_update().get(&workspace).copied();
            let since = self.cursor;
            let read = match through {
                Some(through) if through > since.point.seq => {
                    self.replica
                        .blocking(move |shared| {
                            let read = read_since(shared, &since, through);
                            shared.noting_damage(workspace, read)
                        })
                        .await?
                }
                _ => None,
            };
            let Some((found, cursor)) = read else {
                self.index.changed().await.map_err(|_| Error::Closed)?;
                continue;
            };
            let mut documents = Vec::with_capacity(found.len());
            for (id, (kind, purged)) in found {
                let kind = match kind {
                    WORKSPACE => ChangedKind::Workspace,
                    MEETING => ChangedKind::Meeting,
                    INTEGRATION => ChangedKind::Integration,
                    TRANSCRIPT if purged => ChangedKind::Transcript { meeting: None },
                    TRANSCRIPT => {
                        let meeting = self.meeting_of(id).await?;
                        ChangedKind::Transcript { meeting }
                    }
                    _ => ChangedKind::Other,
                };
                documents.push(ChangedDocument { id, kind, purged });
            }
            self.cursor = cursor;
            return Ok(ChangedDocuments { documents, cursor });
        }
    }

    /// The meeting of a page, from the page itself. Once: after that it is known.
    async fn meeting_of(&mut self, page: DocumentId) -> Result<Option<DocumentId>, Error> {
        if let Some(meeting) = self.pages.get(&page) {
            return Ok(*meeting);
        }
        let documents = &self.replica.shared.documents;
        let mut lease = documents.lease(self.cursor.workspace, page).await;
        let meeting = self
            .replica
            .blocking(move |shared| {
                let loaded = shared.documents.load(&mut lease, Purpose::Read);
                let meeting = loaded.and_then(|document| Ok(document.transcript_meeting()?));
                shared.documents.give_back(lease);
                match meeting {
                    Ok(meeting) => Ok(meeting),
                    Err(Error::Store(error)) => Err(Error::Store(error)),
                    // It was purged meanwhile, or cannot be read: that it changed is told all the same.
                    Err(error) => {
                        tracing::debug!(%page, %error, "it is not known which meeting a page belongs to");
                        Ok(None)
                    }
                }
            })
            .await?;
        if self.pages.len() >= PAGES_KNOWN_MAX {
            self.pages.clear();
        }
        self.pages.insert(page, meeting);
        Ok(meeting)
    }
}

/// Whether a cursor is of the history that is here.
fn check(shared: &Shared, workspace: WorkspaceId, cursor: &FeedCursor) -> Result<(), Error> {
    if cursor.workspace != workspace {
        return Err(Error::BadInput(format!(
            "the cursor is of workspace {}, not of {workspace}",
            cursor.workspace
        )));
    }
    if cursor.point.seq.0 == 0 {
        return Ok(());
    }
    let head = feed_head(shared, workspace)?;
    if head.is_none_or(|head| head.point.epoch != cursor.point.epoch) {
        return Err(Error::OtherHistory);
    }
    let key = Key::feed(&workspace, cursor.point.seq);
    let row = shared.reader.read(&key)?;
    let row = row
        .map(|value| decode::<FeedRow>(&key, &value))
        .transpose()?;
    match row {
        Some(row) if row.digest == cursor.point.digest => Ok(()),
        // Never written here, or compacted away since: then whether it was this very one is not known.
        _ => Err(Error::OtherHistory),
    }
}

/// The last entry that lists show.
fn latest_indexed(shared: &Shared, workspace: WorkspaceId) -> Result<FeedCursor, Error> {
    let start = FeedCursor::start_of(workspace);
    let indexed = FeedSeq(indexed_to(shared, workspace)?);
    let Some(head) = feed_head(shared, workspace)? else {
        return Ok(start);
    };
    let scan = Scan {
        range: KeyRange::feed_after(&workspace, FeedSeq(0))
            .before(&Key::feed(&workspace, indexed.next())),
        direction: Direction::Descending,
        rows_max: 1,
        bytes_max: usize::MAX,
    };
    let rows = shared.reader.scan(&scan)?;
    let Some((key, value)) = rows.rows.first() else {
        return Ok(start);
    };
    let row: FeedRow = decode(key, value)?;
    let point = FeedPoint {
        epoch: head.point.epoch,
        seq: key.feed_seq().unwrap_or(FeedSeq(0)),
        digest: row.digest,
    };
    Ok(FeedCursor { workspace, point })
}

type Found = BTreeMap<DocumentId, (DocumentKind, bool)>;

/// The documents of the next entries up to one, and the place that leads to; none if there are none.
fn read_since(
    shared: &Shared,
    since: &FeedCursor,
    through: FeedSeq,
) -> Result<Option<(Found, FeedCursor)>, Error> {
    let FeedCursor { workspace, point } = *since;
    let range =
        KeyRange::feed_after(&workspace, point.seq).before(&Key::feed(&workspace, through.next()));
    let rows = shared
        .reader
        .scan(&Scan::ascending(range, CHANGES_ENTRIES_MAX))?;
    // After the entries: a history that began in between is not taken for theirs.
    let Some(head) = feed_head(shared, workspace)? else {
        return Ok(None);
    };
    let epoch = head.point.epoch;
    if point.seq.0 > 0 && point.epoch != epoch {
        return Err(Error::OtherHistory);
    }
    let mut found = Found::new();
    let mut last = None;
    for (key, value) in &rows.rows {
        let row: FeedRow = decode(key, value)?;
        found.insert(row.document, (row.kind, row.purged.is_some()));
        last = key.feed_seq().map(|seq| FeedPoint {
            epoch,
            seq,
            digest: row.digest,
        });
    }
    Ok(last.map(|point| (found, FeedCursor { workspace, point })))
}

#[cfg(test)]
mod tests;
