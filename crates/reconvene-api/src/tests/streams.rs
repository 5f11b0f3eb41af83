//! Streams: segments that are sent again, watches that go on, and their number.

use futures::SinkExt as _;
use reconvene::NewMeeting;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::{Client, DEADLINE, Server, create, get, reason, run};
use crate::v1::event::Happened;
use crate::v1::{self, Segment};

fn message(meeting: &str, numbers: std::ops::Range<usize>) -> v1::AppendSegmentsRequest {
    let segments = numbers.map(|number| Segment {
        id: format!("segment {number}"),
        start_ms: number as i64,
        end_ms: Some(number as i64 + 1),
        speaker: None,
        text: format!("sentence {number}"),
    });
    v1::AppendSegmentsRequest {
        meeting_id: meeting.to_owned(),
        segments: segments.collect(),
        ..Default::default()
    }
}

#[test]
fn segments_that_are_sent_again_after_a_cut_are_kept_once() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let id = create(&mut client, "Recorded").await.meeting.unwrap().id;
        // The sender goes away in the middle: what it sent may be there or not.
        let (mut sender, receiver) = futures::channel::mpsc::channel(4);
        let mut cut = server.client().await;
        let call = tokio::spawn(async move { cut.append_segments(receiver).await });
        sender.send(message(&id, 0..10)).await.unwrap();
        let stored = async {
            loop {
                let shown = get(&mut client, &id).await.unwrap();
                if shown.pages.iter().any(|page| page.segments.len() == 10) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, stored).await.unwrap();
        call.abort();
        drop(sender);
        let all = [
            message(&id, 0..10),
            message("", 10..25),
            message("", 25..30),
        ];
        let sent = client.append_segments(futures::stream::iter(all)).await;
        let sent = sent.unwrap().into_inner();
        assert_eq!((sent.added, sent.present), (20, 10));
        assert_eq!(sent.differing_ids, Vec::<String>::new());
        let mut other = message(&id, 7..8);
        other.segments[0].text = "something else".to_owned();
        let sent = client.append_segments(futures::stream::iter([other])).await;
        assert_eq!(sent.unwrap().into_inner().differing_ids, ["segment 7"]);
        let shown = get(&mut client, &id).await.unwrap();
        assert_eq!(shown.pages.len(), 1);
        assert_eq!(shown.pages[0].segments, message("", 0..30).segments);
        let mixed = [
            message(&id, 0..1),
            message("01890000-0000-7000-8000-000000000000", 1..2),
        ];
        let refused = client.append_segments(futures::stream::iter(mixed)).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        let none = client.append_segments(futures::stream::iter([])).await;
        assert_eq!(none.unwrap_err().code(), Code::InvalidArgument);
        server.close().await;
    });
}

pub(super) async fn watch(
    client: &mut Client,
    cursor: Option<String>,
) -> Result<Streaming<v1::Event>, Status> {
    let request = v1::WatchEventsRequest {
        cursor,
        ..Default::default()
    };
    let mut events = client.watch_events(request).await?.into_inner();
    let begun = next(&mut events).await?;
    assert!(matches!(begun.happened, Some(Happened::Begun(_))));
    Ok(events)
}

pub(super) async fn next(events: &mut Streaming<v1::Event>) -> Result<v1::Event, Status> {
    let next = tokio::time::timeout(DEADLINE, events.message()).await;
    next.expect("an event in time")
        .map(|event| event.expect("the watch goes on"))
}

/// Reads on until all these meetings changed, and yields where that leads.
async fn until(events: &mut Streaming<v1::Event>, ids: &[&str]) -> String {
    let mut waited_for: Vec<_> = ids.iter().map(ToString::to_string).collect();
    loop {
        let event = next(events).await.unwrap();
        let Some(Happened::Changed(changed)) = event.happened else {
            panic!("{event:?}");
        };
        waited_for.retain(|id| !changed.meeting_ids.contains(id));
        if waited_for.is_empty() {
            return event.cursor;
        }
    }
}

#[test]
fn a_watch_goes_on_from_its_cursor_across_a_reconnect_and_a_restart() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let mut events = watch(&mut client, None).await.unwrap();
        let first = create(&mut client, "first").await.meeting.unwrap().id;
        let cursor = until(&mut events, &[&first]).await;
        drop(events);
        let missed = create(&mut client, "missed").await.meeting.unwrap().id;
        let one = message(&first, 0..1);
        client
            .append_segments(futures::stream::iter([one]))
            .await
            .unwrap();
        let mut events = watch(&mut client, Some(cursor.clone())).await.unwrap();
        until(&mut events, &[&missed, &first]).await;
        drop(events);

        // The server stops in order: the watch is told to come again, and does.
        let mut events = watch(&mut client, None).await.unwrap();
        let closed = tokio::spawn(server.close());
        let ended = next(&mut events).await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
        let server = Server::open(closed.await.unwrap()).await;
        let mut client = server.client().await;
        let added = NewMeeting::titled("by the replica");
        let added = server.replica.meetings().add(added).await.unwrap();
        let mut events = watch(&mut client, Some(cursor.clone())).await.unwrap();
        until(&mut events, &[&added.meeting.id.to_string()]).await;
        drop(events);

        let refused = watch(&mut client, Some("nothing".to_owned())).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        // The same workspace in a store that began anew.
        let directory = server.close().await;
        for lost in ["sled", "journal"] {
            std::fs::remove_dir_all(directory.path().join("data").join(lost)).unwrap();
        }
        let server = Server::open(directory).await;
        let mut client = server.client().await;
        create(&mut client, "another history").await;
        let refused = watch(&mut client, Some(cursor)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason(&refused), "other_history");
        let details = refused.get_details_error_info().unwrap();
        assert!(
            details.metadata["hint"].contains("list anew"),
            "{details:?}"
        );
        watch(&mut client, None).await.unwrap();
        server.close().await;
    });
}

#[test]
fn no_more_streams_are_open_than_there_is_a_bound_for() {
    run(async {
        let server = Server::new().await;
        let mut held = Vec::new();
        // As many connections as it takes: one carries fewer than that.
        while held.len() < crate::limits::STREAMS_MAX {
            let mut client = server.client().await;
            for _ in 0..64 {
                held.push(watch(&mut client, None).await.unwrap());
            }
        }
        let mut client = server.client().await;
        let refused = watch(&mut client, None).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(reason(&refused), "too_many_streams");
        // Other calls go on, and a place becomes free when a watch is dropped.
        create(&mut client, "still").await;
        drop(held);
        let freed = async {
            while watch(&mut client, None).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, freed).await.unwrap();
        server.close().await;
    });
}
