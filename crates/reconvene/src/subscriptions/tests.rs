//! Marks are coalesced, bounded, and end with their reader or with the replica.

use std::collections::BTreeSet;
use std::sync::Arc;

use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_model::{COMMAND, MEETING};

use super::{Interest, Marked, RowPlace, Subscriptions};
use crate::Error;
use crate::limits::QUERY_MARKS_MAX;

const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([1; 16]);
const OTHER: WorkspaceId = WorkspaceId::from_bytes([2; 16]);

const INTEREST: Interest = Interest {
    workspace: Some(WORKSPACE),
    kinds: &[MEETING],
};

fn row(number: usize) -> RowPlace {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
    RowPlace {
        workspace: WORKSPACE,
        kind: MEETING,
        document: DocumentId::from_bytes(bytes),
    }
}

#[test]
fn marks_of_a_reader_that_does_not_come_are_told_once_and_do_not_grow_for_ever() {
    let subscriptions = Arc::<Subscriptions>::default();
    let elsewhere = RowPlace {
        workspace: OTHER,
        ..row(3)
    };
    let of_another_kind = RowPlace {
        kind: COMMAND,
        ..row(4)
    };
    let slow = subscriptions.register(INTEREST).unwrap();
    for _ in 0..3 {
        subscriptions.mark(&[row(1), row(2), elsewhere, of_another_kind]);
    }
    assert_eq!(slow.take(), Marked::Rows(BTreeSet::from([row(1), row(2)])));
    assert!(!slow.is_marked());
    for number in 0..QUERY_MARKS_MAX {
        subscriptions.mark(&[row(number)]);
    }
    let Marked::Rows(rows) = slow.take() else {
        panic!("they are as many as are kept");
    };
    assert_eq!(rows.len(), QUERY_MARKS_MAX);
    for number in 0..=2 * QUERY_MARKS_MAX {
        subscriptions.mark(&[row(number)]);
    }
    assert_eq!(slow.take(), Marked::Everything);
    subscriptions.mark(&[row(1)]);
    assert_eq!(slow.take(), Marked::Rows(BTreeSet::from([row(1)])));
}

#[tokio::test]
async fn a_reader_wakes_for_marks_and_for_the_end_and_is_forgotten_when_it_goes() {
    let subscriptions = Arc::<Subscriptions>::default();
    let reader = subscriptions.register(INTEREST).unwrap();
    let gone = subscriptions.register(INTEREST).unwrap();
    assert_eq!(subscriptions.count(), 2);
    drop(gone);
    assert_eq!(subscriptions.count(), 1);

    // Marked before it waits, and while it does.
    subscriptions.mark(&[row(1)]);
    reader.changed().await;
    reader.take();
    let waiting = tokio::spawn(async move {
        reader.changed().await;
        reader
    });
    tokio::task::yield_now().await;
    subscriptions.mark(&[row(2)]);
    let reader = waiting.await.unwrap();
    assert!(reader.is_marked() && !reader.is_closed());
    reader.take();

    let waiting = tokio::spawn(async move {
        reader.changed().await;
        reader
    });
    tokio::task::yield_now().await;
    subscriptions.close();
    let reader = waiting.await.unwrap();
    assert!(reader.is_closed());
    assert_eq!(subscriptions.count(), 0);
    assert!(matches!(
        subscriptions.register(INTEREST),
        Err(Error::Closed)
    ));
}
