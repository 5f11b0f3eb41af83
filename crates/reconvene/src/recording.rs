//! Appending to a transcript from outside: whoever records sends segments, and sends them again after
//! a cut; each is kept once.

use std::collections::BTreeMap;

use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_model::meeting::Meeting;
use reconvene_model::transcript::{PageHeader, SEGMENTS_PER_PAGE_MAX, Timebase};
use reconvene_model::{MEETING, Purpose, Segment, TRANSCRIPT, TranscriptPage};
use serde::Serialize;

use crate::deletion::check_living;
use crate::limits::APPEND_SEGMENTS_MAX;
use crate::meetings::not_a_meeting;
use crate::replica::{EditMode, new_document_id};
use crate::{Error, Meetings};

/// What became of segments that were appended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AppendReport {
    /// How many are new.
    pub added: usize,
    /// How many were there already, word for word or not.
    pub present: usize,
    /// Those of them that say something else than what was handed in; they were left as they are.
    pub differing: Vec<String>,
}

/// A page that this replica writes to.
struct OwnPage {
    id: DocumentId,
    /// Its number among this recorder's pages of the meeting.
    number: i64,
    room: usize,
    /// Listed, and its first segments never came to be stored.
    begun: bool,
}

impl Meetings {
    /// Appends segments to a meeting's transcript, in pages of which this replica is the recorder;
    /// resolves when they are durable. A segment whose id the meeting has already is not added again,
    /// so that what was cut off can simply be handed in again.
    ///
    /// Times are in milliseconds since the recording began. Dropping this midway lets it finish in the
    /// background: whoever hands in the same meanwhile waits for it.
    ///
    /// # Errors
    /// If there are more than [`APPEND_SEGMENTS_MAX`], there is no such meeting or it is deleted, a
    /// segment is not as it should be, or the store fails. Some of the segments may be stored then.
    pub async fn append_segments(
        &self,
        id: DocumentId,
        segments: Vec<Segment>,
    ) -> Result<AppendReport, Error> {
        if segments.len() > APPEND_SEGMENTS_MAX {
            return Err(Error::BadInput(format!(
                "at most {APPEND_SEGMENTS_MAX} segments are appended at a time, these are {}",
                segments.len()
            )));
        }
        let workspace = self.replica.current_workspace()?;
        let meetings = self.clone();
        let whole = async move { meetings.append_whole(workspace, id, segments).await };
        tokio::spawn(whole).await.map_err(|_| Error::Closed)?
    }

    async fn append_whole(
        &self,
        workspace: WorkspaceId,
        id: DocumentId,
        segments: Vec<Segment>,
    ) -> Result<AppendReport, Error> {
        // Two that bring the same segments at the same time would each find them missing.
        let _turn = self.replica.shared.appending(&id).lock().await;
        let meeting = self.living(workspace, id).await?;
        let me = self.replica.shared.peer.to_string();
        let mut known = BTreeMap::new();
        let mut own = None;
        let mut own_pages = 0;
        let mut order_next = 0;
        for page in meeting.pages_in_order() {
            let listed = &meeting.pages[&page];
            order_next = order_next.max(listed.order.saturating_add(1));
            let is_own = listed.recorder.as_deref() == Some(&me);
            own_pages += i64::from(is_own);
            let read = self.page(workspace, page).await?;
            let writable = match &read {
                Some(read) => read.timebase == Timebase::Ms,
                None => true,
            };
            if is_own && writable {
                own = Some(OwnPage {
                    id: page,
                    number: own_pages - 1,
                    room: SEGMENTS_PER_PAGE_MAX
                        .saturating_sub(read.as_ref().map_or(0, |read| read.segments.len())),
                    begun: read.is_some(),
                });
            }
            let there = read.into_iter().flat_map(|read| read.segments);
            known.extend(there.map(|segment| (segment.id.clone(), segment)));
        }
        let mut report = AppendReport::default();
        let mut new = Vec::new();
        for segment in segments {
            match known.get(&segment.id) {
                Some(there) => {
                    report.present += 1;
                    if *there != segment {
                        report.differing.push(segment.id);
                    }
                }
                None => {
                    known.insert(segment.id.clone(), segment.clone());
                    new.push(segment);
                }
            }
        }
        while !new.is_empty() {
            let page = match own.take().filter(|page| page.room > 0) {
                Some(page) => page,
                None => {
                    let page = self.list_page(workspace, id, &me, order_next).await?;
                    order_next = order_next.saturating_add(1);
                    own_pages += 1;
                    OwnPage {
                        id: page,
                        number: own_pages - 1,
                        room: SEGMENTS_PER_PAGE_MAX,
                        begun: false,
                    }
                }
            };
            let rest = new.split_off(new.len().min(page.room));
            report.added += new.len();
            self.write_page(workspace, id, &me, page, new).await?;
            new = rest;
        }
        Ok(report)
    }

    /// A meeting that is not deleted.
    async fn living(&self, workspace: WorkspaceId, id: DocumentId) -> Result<Meeting, Error> {
        let mut lease = self.replica.shared.documents.lease(workspace, id).await;
        self.replica
            .blocking(move |shared| {
                let loaded = shared.documents.load(&mut lease, Purpose::Edit);
                let meeting = loaded.and_then(|document| {
                    if document.kind() != MEETING {
                        return Err(not_a_meeting(id));
                    }
                    check_living(&shared.reader, workspace, id, document)?;
                    Ok(document.meeting()?)
                });
                shared.documents.give_back(lease);
                meeting.map_err(|error| match error {
                    Error::NotFound { .. } => not_a_meeting(id),
                    other => other,
                })
            })
            .await
    }

    /// A page as it is here; `None` if nothing of it is.
    async fn page(
        &self,
        workspace: WorkspaceId,
        page: DocumentId,
    ) -> Result<Option<TranscriptPage>, Error> {
        let mut lease = self.replica.shared.documents.lease(workspace, page).await;
        self.replica
            .blocking(move |shared| {
                let loaded = shared.documents.load(&mut lease, Purpose::Edit);
                let read = loaded.and_then(|document| Ok(document.transcript()?));
                shared.documents.give_back(lease);
                match read {
                    Ok(page) => Ok(Some(page)),
                    Err(Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// Lists a new page in the meeting. First this and then the page: if the process ends in between,
    /// the page is found missing and begun by whoever appends next.
    async fn list_page(
        &self,
        workspace: WorkspaceId,
        meeting: DocumentId,
        me: &str,
        order: i64,
    ) -> Result<DocumentId, Error> {
        let page = new_document_id();
        let me = me.to_owned();
        self.replica
            .edit_document(workspace, meeting, EditMode::default(), move |editor| {
                editor.meeting()?.add_page(page, &me, order)
            })
            .await?;
        Ok(page)
    }

    async fn write_page(
        &self,
        workspace: WorkspaceId,
        meeting: DocumentId,
        me: &str,
        page: OwnPage,
        segments: Vec<Segment>,
    ) -> Result<(), Error> {
        let me = me.to_owned();
        let mode = EditMode::creating(TRANSCRIPT);
        self.replica
            .edit_document(workspace, page.id, mode, move |editor| {
                let mut transcript = editor.transcript()?;
                if !page.begun {
                    transcript.create(&PageHeader {
                        meeting,
                        recorder: &me,
                        page: page.number,
                        timebase: Timebase::Ms,
                    })?;
                }
                for segment in &segments {
                    transcript.append_segment(segment)?;
                }
                Ok(())
            })
            .await
    }
}

#[cfg(test)]
mod tests;
