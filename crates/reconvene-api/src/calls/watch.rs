//! `WatchEvents`: the feed of a workspace as events. Nothing is queued: the next event is made when
//! the last one was taken.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use reconvene::{ChangedDocuments, ChangedKind, FeedCursor, FeedWatch};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use crate::calls::Calls;
use crate::failure::status;
use crate::services::Stop;
use crate::v1::{self, event::Happened};

/// A watch that goes on. Its place among the streams is given back when it is dropped.
struct Watch {
    changes: FeedWatch,
    stop: Stop,
    begun: bool,
    _place: OwnedSemaphorePermit,
}

impl Calls {
    pub(super) async fn watch(
        &self,
        request: v1::WatchEventsRequest,
    ) -> Result<BoxStream<'static, Result<v1::Event, Status>>, Status> {
        let place = self.stream()?;
        let replica = self.within(request.workspace.as_deref()).await?;
        let since = request.cursor.as_deref().map(str::parse::<FeedCursor>);
        let since = since.transpose().map_err(|error| status(&error))?;
        let changes = replica.watch_feed(since).await;
        let watch = Watch {
            changes: changes.map_err(|error| status(&error))?,
            stop: self.stop.clone(),
            begun: false,
            _place: place,
        };
        let events = stream::unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                // The last thing that is told.
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(events.boxed())
    }
}

impl Watch {
    async fn next(&mut self) -> Result<v1::Event, Status> {
        if !std::mem::replace(&mut self.begun, true) {
            return Ok(v1::Event {
                cursor: self.changes.cursor().to_string(),
                happened: Some(Happened::Begun(v1::Begun {})),
            });
        }
        let changed = tokio::select! {
            changed = self.changes.next() => changed,
            () = self.stop.asked() => return Err(Stop::status()),
        };
        Ok(event(&changed.map_err(|error| status(&error))?))
    }
}

fn event(changed: &ChangedDocuments) -> v1::Event {
    let mut meetings = BTreeSet::new();
    let mut projects = false;
    let mut purged = Vec::new();
    for document in &changed.documents {
        match document.kind {
            ChangedKind::Meeting | ChangedKind::Transcript { .. } if document.purged => {
                purged.push(document.id.to_string());
            }
            ChangedKind::Meeting => {
                meetings.insert(document.id);
            }
            ChangedKind::Transcript { meeting } => meetings.extend(meeting),
            ChangedKind::Workspace => projects = true,
            _ => {}
        }
    }
    v1::Event {
        cursor: changed.cursor.to_string(),
        happened: Some(Happened::Changed(v1::Changed {
            meeting_ids: meetings.iter().map(ToString::to_string).collect(),
            projects,
            purged_ids: purged,
        })),
    }
}
