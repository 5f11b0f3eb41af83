//! Live queries: the meetings that a filter wants, or other rows, and from then on what changes about
//! that.
//!
//! They are driven by index rows and load no document. A query registers before it reads; a row that
//! becomes visible after that is marked and read again, so nothing falls between the first result and
//! what follows. What it keeps per row shown is an id and a fingerprint.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::ops::Bound;
use std::sync::Arc;

use futures::Stream;
use futures::stream::unfold;
use reconvene_core::ids::{DocumentId, DocumentKind, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::storage::{Direction, Scan, StoreError, StoreRead as _};
use reconvene_model::MEETING;
use reconvene_model::index::MeetingRow;
use reconvene_sled::SledReader;
use serde::Serialize;

use crate::deletion::is_deleted;
use crate::driver::Suspicions;
use crate::filter::Matcher;
use crate::limits::QUERY_BATCH_ROWS_MAX;
use crate::meetings::meeting_row;
use crate::subscriptions::{Interest, Marked, Registration};
use crate::{Error, MeetingFilter, Replica};

/// A query that can be subscribed to. Made by [`Meetings::query`](crate::Meetings::query).
#[derive(Clone, Debug)]
pub struct MeetingQuery {
    replica: Replica,
    filter: MeetingFilter,
}

/// What changed about the result of a query since the batch before.
///
/// In each list the latest created come first, as in [`Meetings::list`](crate::Meetings::list): by id,
/// descending. A row is in one list at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryBatch<R = MeetingRow> {
    /// Rows that are wanted and were not shown.
    pub added: Vec<R>,
    /// Rows that were shown, are still wanted, and are others now.
    pub changed: Vec<R>,
    /// Documents that were shown and are not wanted any more, or not there.
    pub removed: Vec<DocumentId>,
    /// Whether the batches so far are the whole result, as of when this one was made. If not, another
    /// batch follows at once.
    pub complete: bool,
}

impl<R> Default for QueryBatch<R> {
    fn default() -> Self {
        Self {
            added: Vec::new(),
            changed: Vec::new(),
            removed: Vec::new(),
            complete: false,
        }
    }
}

impl<R> QueryBatch<R> {
    /// Whether it changes nothing; it may still say that the result is complete.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl MeetingQuery {
    pub(crate) fn new(replica: Replica, filter: MeetingFilter) -> Self {
        Self { replica, filter }
    }

    /// Subscribes to the query in the workspace that is current now. The first batches are the
    /// current result, the last of them [`complete`](QueryBatch::complete); it may be empty.
    ///
    /// # Errors
    /// If the filter cannot be met or exceeds a bound, or the replica is closed.
    pub fn subscribe(self) -> Result<MeetingSubscription, Error> {
        let matcher = Matcher::new(self.filter)?;
        let workspace = self.replica.current_workspace()?;
        let pick = move |reader: &SledReader, workspace, value: &[u8]| {
            let Some(row) = meeting_row(value) else {
                return Ok(None);
            };
            let deleted = is_deleted(reader, workspace, &row)?;
            Ok(matcher.matches(&row, deleted).then_some(row))
        };
        Subscription::new(&self.replica, workspace, &[MEETING], Arc::new(pick))
    }
}

/// A live query of meetings.
pub type MeetingSubscription = Subscription<MeetingRow>;

/// The row in a stored value if it is wanted; none if it is not, or is of another version and is being
/// rebuilt.
pub(crate) type Pick<R> =
    Arc<dyn Fn(&SledReader, WorkspaceId, &[u8]) -> Result<Option<R>, Error> + Send + Sync>;

/// A live query. Dropping it ends it; it keeps neither the replica open nor anything waiting.
///
/// While its reader is away changes are not queued: the next batch tells each document's latest row
/// once, however often it changed.
pub struct Subscription<R> {
    registration: Registration,
    reader: SledReader,
    suspicions: Suspicions,
    workspace: WorkspaceId,
    kind: DocumentKind,
    pick: Pick<R>,
    batch_rows: usize,
    /// What the reader was told, with a fingerprint of each row.
    shown: BTreeMap<DocumentId, u64>,
    /// Taken from the marks and not read yet. Kept here so that a dropped [`Self::next`] loses none.
    pending: BTreeSet<DocumentId>,
    /// While the whole index is compared: the last document that was. `None` when it is done.
    comparing: Option<Option<DocumentId>>,
    told_complete: bool,
}

impl<R> std::fmt::Debug for Subscription<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("workspace", &self.workspace)
            .field("kind", &self.kind)
            .field("shown", &self.shown.len())
            .finish_non_exhaustive()
    }
}

/// A row that is wanted and the fingerprint of its stored value.
type Found<R> = Option<(R, u64)>;

/// A part of the index, latest created first.
struct Page<R> {
    rows: Vec<(DocumentId, Found<R>)>,
    more: bool,
}

impl<R: Send + 'static> Subscription<R> {
    /// Subscribes to the rows of one kind that are picked.
    pub(crate) fn new(
        replica: &Replica,
        workspace: WorkspaceId,
        kinds: &'static [DocumentKind; 1],
        pick: Pick<R>,
    ) -> Result<Self, Error> {
        let shared = &replica.shared;
        let interest = Interest {
            workspace: Some(workspace),
            kinds,
        };
        Ok(Self {
            registration: shared.subscriptions.register(interest)?,
            reader: shared.reader.clone(),
            suspicions: shared.driver.suspicions(),
            workspace,
            kind: kinds[0],
            pick,
            batch_rows: QUERY_BATCH_ROWS_MAX,
            shown: BTreeMap::new(),
            pending: BTreeSet::new(),
            comparing: Some(None),
            told_complete: false,
        })
    }

    /// Waits for the next batch. Dropping this midway loses nothing.
    ///
    /// # Errors
    /// [`Error::Closed`] is the end: the replica was closed, and so will be every further call. After
    /// any other error the next call tries again.
    pub async fn next(&mut self) -> Result<QueryBatch<R>, Error> {
        loop {
            if self.registration.is_closed() {
                return Err(Error::Closed);
            }
            let batch = match self.comparing {
                Some(after) => self.compare(after).await?,
                None => match self.registration.take() {
                    Marked::Everything => {
                        self.pending.clear();
                        self.comparing = Some(None);
                        continue;
                    }
                    Marked::Rows(rows) => {
                        self.pending.extend(rows.iter().map(|place| place.document));
                        if self.pending.is_empty() {
                            self.registration.changed().await;
                            continue;
                        }
                        self.look().await?
                    }
                },
            };
            if !batch.is_empty() || batch.complete && !self.told_complete {
                self.told_complete = batch.complete;
                return Ok(batch);
            }
        }
    }

    /// The batches as a stream. It ends after [`Error::Closed`].
    pub fn into_stream(self) -> impl Stream<Item = Result<QueryBatch<R>, Error>> + Send {
        unfold(Some(self), async |subscription| {
            let mut subscription = subscription?;
            match subscription.next().await {
                Err(Error::Closed) => Some((Err(Error::Closed), None)),
                next => Some((next, Some(subscription))),
            }
        })
    }

    /// Compares the next part of the index with what is shown.
    async fn compare(&mut self, after: Option<DocumentId>) -> Result<QueryBatch<R>, Error> {
        let (place, limit) = ((self.workspace, self.kind), self.batch_rows);
        let pick = Arc::clone(&self.pick);
        let page = self
            .read(move |reader| read_page(reader, place, after, limit, &pick))
            .await?;
        // From here on nothing is awaited: a batch is made whole or not at all.
        let last = page.rows.last().map(|(id, _)| *id);
        let mut truth: BTreeMap<DocumentId, Found<R>> = page.rows.into_iter().collect();
        let from = match last.filter(|_| page.more) {
            Some(last) => Bound::Included(last),
            None => Bound::Unbounded,
        };
        let to = after.map_or(Bound::Unbounded, Bound::Excluded);
        for id in self.shown.range((from, to)).map(|(id, _)| *id) {
            truth.entry(id).or_insert(None);
        }
        self.comparing = last.filter(|_| page.more).map(Some);
        Ok(self.settle(truth.into_iter().rev()))
    }

    /// Reads the rows that are marked, or as many as fit a batch.
    async fn look(&mut self) -> Result<QueryBatch<R>, Error> {
        let ids: Vec<_> = self
            .pending
            .iter()
            .rev()
            .take(self.batch_rows)
            .copied()
            .collect();
        let (workspace, kind) = (self.workspace, self.kind);
        let pick = Arc::clone(&self.pick);
        let found = self
            .read(move |reader| {
                let found = ids.into_iter().map(|id| {
                    let value = reader.read(&Key::index(&workspace, kind, &id))?;
                    let found = value.map(|value| found(reader, workspace, &value, &pick));
                    Ok((id, found.transpose()?.flatten()))
                });
                found.collect::<Result<Vec<_>, Error>>()
            })
            .await?;
        for (id, _) in &found {
            self.pending.remove(id);
        }
        Ok(self.settle(found.into_iter()))
    }

    /// What the truth about some documents changes for the reader.
    fn settle(&mut self, truth: impl Iterator<Item = (DocumentId, Found<R>)>) -> QueryBatch<R> {
        let mut batch = QueryBatch::default();
        for (id, found) in truth {
            let Some((row, fingerprint)) = found else {
                if self.shown.remove(&id).is_some() {
                    batch.removed.push(id);
                }
                continue;
            };
            match self.shown.insert(id, fingerprint) {
                None => batch.added.push(row),
                Some(before) if before != fingerprint => batch.changed.push(row),
                Some(_) => {}
            }
        }
        batch.complete =
            self.comparing.is_none() && self.pending.is_empty() && !self.registration.is_marked();
        batch
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&SledReader) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let reader = self.reader.clone();
        let done = tokio::task::spawn_blocking(move || read(&reader)).await;
        match done {
            Ok(Err(Error::Store(StoreError::Closed))) | Err(_) => Err(Error::Closed),
            Ok(read) => {
                if let Err(Error::Store(StoreError::Damaged { .. })) = &read {
                    self.suspicions.tell(self.workspace, None);
                }
                read
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn set_batch_rows(&mut self, rows: usize) {
        self.batch_rows = rows;
    }
}

fn read_page<R>(
    reader: &SledReader,
    (workspace, kind): (WorkspaceId, DocumentKind),
    after: Option<DocumentId>,
    limit: usize,
    pick: &Pick<R>,
) -> Result<Page<R>, Error> {
    let mut range = KeyRange::index(&workspace, kind);
    if let Some(after) = after {
        range = range.before(&Key::index(&workspace, kind, &after));
    }
    let scan = Scan {
        range,
        direction: Direction::Descending,
        rows_max: limit,
        bytes_max: usize::MAX,
    };
    let rows = reader.scan(&scan)?;
    let mut named = Vec::with_capacity(rows.rows.len());
    for (key, value) in &rows.rows {
        if let Some(document) = key.document() {
            named.push((document, found(reader, workspace, value, pick)?));
        }
    }
    Ok(Page {
        rows: named,
        more: rows.more,
    })
}

fn found<R>(
    reader: &SledReader,
    workspace: WorkspaceId,
    value: &[u8],
    pick: &Pick<R>,
) -> Result<Found<R>, Error> {
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    let picked = pick(reader, workspace, value)?;
    Ok(picked.map(|row| (row, hasher.finish())))
}

#[cfg(test)]
mod tests;
