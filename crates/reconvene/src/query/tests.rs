//! Live queries on real stores: what the batches add up to is always what the list says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use reconvene_core::engine::Write;
use reconvene_core::ids::DocumentId;
use reconvene_core::keys::Key;
use reconvene_model::MEETING;
use reconvene_model::index::MeetingRow;
use tempfile::TempDir;

use super::{MeetingSubscription, QueryBatch};
use crate::replica::request_id;
use crate::{Error, ListOptions, MeetingFilter, NewMeeting, Replica, State};

/// Far more than anything takes.
const DEADLINE: Duration = Duration::from_secs(60);

struct Store {
    replica: Replica,
    dir: TempDir,
}

impl Store {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let replica = Replica::open(dir.path().join("data")).await.unwrap();
        Self { replica, dir }
    }

    async fn add(&self, title: &str) -> DocumentId {
        let meeting = NewMeeting::titled(title);
        self.replica
            .meetings()
            .add(meeting)
            .await
            .unwrap()
            .meeting
            .id
    }

    async fn rename(&self, id: DocumentId, title: &str) {
        let title = title.to_owned();
        let edit = move |meeting: &mut crate::MeetingEditor<'_>| meeting.set_title(&title);
        self.replica.meetings().edit(id, edit).await.unwrap();
    }

    async fn reach(&self, id: DocumentId, state: State) {
        let edit = move |meeting: &mut crate::MeetingEditor<'_>| meeting.reach_state(state);
        self.replica.meetings().edit(id, edit).await.unwrap();
    }

    async fn list(&self, filter: &MeetingFilter) -> Vec<MeetingRow> {
        let options = ListOptions {
            limit: 1000,
            filter: filter.clone(),
            ..ListOptions::default()
        };
        self.replica
            .meetings()
            .list(options)
            .await
            .unwrap()
            .meetings
    }

    fn query(&self, filter: &MeetingFilter) -> Live {
        Live {
            subscription: self
                .replica
                .meetings()
                .query(filter.clone())
                .subscribe()
                .unwrap(),
            shown: BTreeMap::new(),
        }
    }
}

/// A reader that does with the batches what an app does.
struct Live {
    subscription: MeetingSubscription,
    shown: BTreeMap<DocumentId, MeetingRow>,
}

impl Live {
    async fn next(&mut self) -> QueryBatch {
        let next = tokio::time::timeout(DEADLINE, self.subscription.next());
        let batch = next.await.expect("a batch in time").unwrap();
        for rows in [&batch.added, &batch.changed] {
            assert!(rows.is_sorted_by(|one, next| one.id > next.id), "{rows:?}");
        }
        for row in &batch.added {
            assert!(self.shown.insert(row.id, row.clone()).is_none(), "{row:?}");
        }
        for row in &batch.changed {
            let before = self.shown.insert(row.id, row.clone());
            assert!(before.is_some_and(|before| before != *row), "{row:?}");
        }
        for id in &batch.removed {
            assert!(self.shown.remove(id).is_some(), "{id}");
        }
        batch
    }

    async fn complete(&mut self) -> QueryBatch {
        loop {
            let batch = self.next().await;
            if batch.complete {
                return batch;
            }
        }
    }

    /// The next batch that changes something. A row can be read a moment before it is marked; then
    /// one more batch only says that the result is complete.
    async fn change(&mut self) -> QueryBatch {
        loop {
            let batch = self.next().await;
            if !batch.is_empty() {
                return batch;
            }
        }
    }

    fn rows(&self) -> Vec<MeetingRow> {
        self.shown.values().rev().cloned().collect()
    }

    fn titles(&self) -> Vec<&str> {
        self.shown
            .values()
            .rev()
            .map(|row| row.title.as_str())
            .collect()
    }

    /// Takes batches until it shows these.
    async fn until(&mut self, titles: &[&str]) {
        while self.titles() != titles {
            self.next().await;
        }
    }
}

fn all() -> MeetingFilter {
    MeetingFilter::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_result_is_the_list_and_changes_follow() {
    let store = Store::new().await;
    let mut empty = store.query(&all());
    let first = empty.next().await;
    assert!(first.is_empty() && first.complete, "{first:?}");

    let id = store.add("a").await;
    store.add("b").await;
    empty.until(&["b", "a"]).await;
    let mut live = store.query(&all());
    let first = live.next().await;
    assert_eq!(first.added, store.list(&all()).await);

    store.rename(id, "c").await;
    let changed = live.change().await;
    assert_eq!(changed.changed.len(), 1, "{changed:?}");
    assert_eq!(changed.changed[0].title, "c");
    store.add("d").await;
    assert_eq!(live.change().await.added[0].title, "d");
    assert_eq!(live.rows(), store.list(&all()).await);
    store.replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_meets_or_leaves_the_filter_adds_or_removes() {
    let store = Store::new().await;
    let filter = MeetingFilter {
        states: BTreeSet::from([State::Recording]),
        text: Some("PLAN".to_owned()),
        ..all()
    };
    let mut live = store.query(&filter);
    live.complete().await;
    let id = store.add("planning").await;
    store.reach(id, State::Recording).await;
    let batch = live.change().await;
    assert_eq!(
        (batch.added.len(), batch.changed.len()),
        (1, 0),
        "{batch:?}"
    );
    assert_eq!(live.rows(), store.list(&filter).await);
    store.rename(id, "Plan B").await;
    assert_eq!(live.change().await.changed[0].title, "Plan B");
    store.rename(id, "something else").await;
    assert_eq!(live.change().await.removed, [id]);
    store.rename(id, "Plan C").await;
    assert_eq!(live.change().await.added[0].title, "Plan C");
    store.reach(id, State::Stopped).await;
    assert_eq!(live.change().await.removed, [id]);
    assert!(live.rows().is_empty() && store.list(&filter).await.is_empty());

    // Also where the row itself goes, whoever removes it.
    let mut everything = store.query(&all());
    everything.complete().await;
    let workspace = store.replica.current_workspace().unwrap();
    let removal = Write {
        request: request_id(),
        puts: Vec::new(),
        deletes: vec![Key::index(&workspace, MEETING, &id)],
    };
    store.replica.shared.driver.write(removal).await.unwrap();
    assert_eq!(everything.change().await.removed, [id]);
    store.replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_between_the_parts_of_the_first_result() {
    let store = Store::new().await;
    let mut ids = Vec::new();
    for title in ["a", "b", "c", "d", "e"] {
        ids.push(store.add(title).await);
    }
    let mut seen = store.query(&all());
    seen.until(&["e", "d", "c", "b", "a"]).await;
    let mut live = store.query(&all());
    live.subscription.set_batch_rows(2);
    // Between registering and the first look, too.
    store.rename(ids[4], "e2").await;
    seen.until(&["e2", "d", "c", "b", "a"]).await;
    let first = live.next().await;
    assert!(!first.complete);
    assert_eq!(live.titles(), ["e2", "d"]);
    // One that was told, one that was not, and a new one.
    store.rename(ids[3], "d2").await;
    store.rename(ids[0], "a2").await;
    store.add("f").await;
    seen.until(&["f", "e2", "d2", "c", "b", "a2"]).await;
    live.until(&["f", "e2", "d2", "c", "b", "a2"]).await;
    assert_eq!(live.rows(), store.list(&all()).await);
    store.replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_begun_at_any_moment_of_much_writing_end_up_with_the_list() {
    let store = Store::new().await;
    let filter = MeetingFilter {
        text: Some("even".to_owned()),
        ..all()
    };
    let replica = store.replica.clone();
    let writer = tokio::spawn(async move {
        let mut ids = Vec::new();
        for number in 0..60 {
            let meeting = NewMeeting::titled(format!("even {number}"));
            ids.push(replica.meetings().add(meeting).await.unwrap().meeting.id);
            // An earlier one leaves or comes back, so that rows change in both directions.
            let id = ids[number * 7 % ids.len()];
            let word = if number % 3 == 0 { "odd" } else { "even" };
            let edit = move |meeting: &mut crate::MeetingEditor<'_>| {
                meeting.set_title(&format!("{word} {number} again"))
            };
            replica.meetings().edit(id, edit).await.unwrap();
        }
    });
    let mut queries = Vec::new();
    while !writer.is_finished() && queries.len() < 40 {
        let mut live = store.query(&filter);
        live.subscription.set_batch_rows(3);
        live.next().await;
        queries.push(live);
    }
    writer.await.unwrap();
    // A row is visible once its batch is stored: the last one says that all are.
    let mut last = store.query(&filter);
    last.complete().await;
    store.add("even: the last").await;
    while last.titles().first() != Some(&"even: the last") {
        last.next().await;
    }
    let listed = store.list(&filter).await;
    for live in &mut queries {
        // An update that was lost would be waited for in vain.
        while live.rows() != listed {
            live.next().await;
        }
    }
    assert!(queries.len() > 1, "writing took long enough for several");
    store.replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_was_away_is_told_each_latest_row_once() {
    let store = Store::new().await;
    let id = store.add("0").await;
    let mut away = store.query(&all());
    away.until(&["0"]).await;
    // What it shows can be read by the other one as well.
    let mut watching = store.query(&all());
    watching.complete().await;
    for number in 1..=40 {
        store.rename(id, &number.to_string()).await;
    }
    watching.until(&["40"]).await;
    let batch = away.change().await;
    assert_eq!(batch.changed.len(), 1, "{batch:?}");
    assert_eq!(batch.changed[0].title, "40");
    store.replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_marks_than_are_kept_lead_to_comparing_everything() {
    let store = Store::new().await;
    let (one, two) = (store.add("one").await, store.add("two").await);
    let mut live = store.query(&all());
    live.until(&["two", "one"]).await;
    let workspace = store.replica.current_workspace().unwrap();
    store.rename(one, "1").await;
    let removal = Write {
        request: request_id(),
        puts: Vec::new(),
        deletes: vec![Key::index(&workspace, MEETING, &two)],
    };
    store.replica.shared.driver.write(removal).await.unwrap();
    // More changed than is kept apart; all but two of them are not there.
    let many: Vec<_> = (0..=crate::limits::QUERY_MARKS_MAX)
        .map(|_| crate::subscriptions::RowPlace {
            workspace,
            kind: MEETING,
            document: crate::replica::new_document_id(),
        })
        .collect();
    store.replica.shared.subscriptions.mark(&many);
    live.subscription.set_batch_rows(1);
    live.until(&["1"]).await;
    assert_eq!(live.rows(), store.list(&all()).await);
    store.replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_replica_and_one_of_the_reopened_store_begins_anew() {
    let store = Store::new().await;
    store.add("a").await;
    let mut old = store.query(&all());
    old.until(&["a"]).await;
    let mut stream = std::pin::pin!(store.query(&all()).subscription.into_stream());
    assert!(stream.next().await.unwrap().is_ok());
    let dropped = store.query(&all());
    assert_eq!(store.replica.shared.subscriptions.count(), 3);
    drop(dropped);
    assert_eq!(store.replica.shared.subscriptions.count(), 2);
    let mut events = store.replica.events();
    let waiting = tokio::spawn(async move {
        let ended = loop {
            match old.subscription.next().await {
                Ok(batch) => assert!(batch.is_empty(), "{batch:?}"),
                Err(error) => break error,
            }
        };
        (ended, old)
    });
    let kept = store.replica.clone();
    store.replica.close().await.unwrap();

    let (ended, mut old) = tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(ended, Error::Closed), "{ended:?}");
    let last = loop {
        match stream.next().await {
            Some(Ok(batch)) => assert!(batch.is_empty(), "{batch:?}"),
            last => break last,
        }
    };
    assert!(matches!(last, Some(Err(Error::Closed))), "{last:?}");
    assert!(stream.next().await.is_none());
    while tokio::time::timeout(DEADLINE, events.next())
        .await
        .unwrap()
        .is_some()
    {}
    assert!(kept.events().next().await.is_none());
    let refused = kept.meetings().query(all()).subscribe();
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");

    let replica = Replica::open(store.dir.path().join("data")).await.unwrap();
    let again = Store {
        replica,
        dir: store.dir,
    };
    let mut new = again.query(&all());
    new.until(&["a"]).await;
    again.add("b").await;
    new.until(&["b", "a"]).await;
    assert!(matches!(old.subscription.next().await, Err(Error::Closed)));
    again.replica.close().await.unwrap();
}
