//! A reader is told what it missed, and of the end.

use futures::StreamExt as _;
use tokio::sync::broadcast;

use super::Events;
use crate::ReplicaEvent;

fn failed(number: usize) -> ReplicaEvent {
    ReplicaEvent::StoreFailed {
        message: number.to_string(),
    }
}

fn told(event: &ReplicaEvent) -> String {
    serde_json::to_string(event).unwrap()
}

#[tokio::test]
async fn a_reader_that_lagged_is_told_how_much_it_missed_and_goes_on() {
    let (sender, receiver) = broadcast::channel(2);
    let events = Events::new(Some(receiver));
    for number in 0..5 {
        sender.send(failed(number)).unwrap();
    }
    drop(sender);
    let all: Vec<_> = events.into_stream().collect().await;
    assert_eq!(
        all.iter().map(told).collect::<Vec<_>>(),
        [
            r#"{"event":"lagged","missed":3}"#.to_owned(),
            told(&failed(3)),
            told(&failed(4)),
        ]
    );
}

#[tokio::test]
async fn a_closed_replica_has_no_events() {
    assert!(Events::new(None).next().await.is_none());
}
