//! `WatchEvents`: the feed of a workspace as events. Nothing is queued: the next event is made when
//! the last one was taken.

use std::collections::{BTreeSet, VecDeque};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use reconvene::{ChangedDocuments, ChangedKind, FeedCursor, FeedWatch, Replica};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use crate::calls::Calls;
use crate::calls::integrations::Told;
use crate::failure::status;
use crate::services::Stop;
use crate::v1::{self, event::Happened};

/// A watch that goes on. Its place among the streams is given back when it is dropped.
struct Watch {
    changes: FeedWatch,
    replica: Replica,
    /// What follows from changes that were taken already, in the order in which it is told.
    waiting: VecDeque<v1::Event>,
    told: Told,
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
            replica,
            waiting: VecDeque::new(),
            told: Told::default(),
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
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            let before = self.changes.cursor();
            let changed = tokio::select! {
                changed = self.changes.next() => changed,
                () = self.stop.asked() => return Err(Stop::status()),
            };
            let changed = changed.map_err(|error| status(&error))?;
            let news = self.news(&changed).await;
            let news = news.map_err(|error| status(&error))?;
            self.waiting = news
                .into_iter()
                .map(|happened| v1::Event {
                    cursor: before.to_string(),
                    happened: Some(happened),
                })
                .collect();
            // Whoever goes on from before the last of them is told all of them again.
            if let Some(last) = self.waiting.back_mut() {
                last.cursor = changed.cursor.to_string();
            }
        }
    }

    /// What is to be told of changes; never nothing, so that the cursor moves on.
    async fn news(
        &mut self,
        changed: &ChangedDocuments,
    ) -> Result<Vec<Happened>, reconvene::Error> {
        let mut news = Vec::new();
        for document in &changed.documents {
            if document.kind == ChangedKind::Integration {
                let (id, purged) = (document.id, document.purged);
                news.extend(self.told.news(&self.replica, id, purged).await?);
            }
        }
        let documents = documents(changed);
        let is_empty = documents == v1::Changed::default();
        if !is_empty || news.is_empty() {
            news.push(Happened::Changed(documents));
        }
        Ok(news)
    }
}

fn documents(changed: &ChangedDocuments) -> v1::Changed {
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
    v1::Changed {
        meeting_ids: meetings.iter().map(ToString::to_string).collect(),
        projects,
        purged_ids: purged,
    }
}
