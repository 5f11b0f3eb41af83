//! Watching a feed from a cursor: nothing is missed across readers, and no other history is taken for
//! this one.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::tests::{Peer, run};
use crate::{ChangedDocuments, ChangedKind, Error, FeedCursor, FeedWatch, NewMeeting, Segment};

async fn next(changes: &mut FeedWatch) -> ChangedDocuments {
    let next = tokio::time::timeout(Duration::from_secs(60), changes.next());
    next.await.expect("something changed").unwrap()
}

fn ids(changed: &ChangedDocuments) -> BTreeSet<crate::DocumentId> {
    changed
        .documents
        .iter()
        .map(|document| document.id)
        .collect()
}

#[test]
fn what_a_reader_missed_is_told_from_its_cursor_on() {
    run(async {
        let server = Peer::server().await;
        let meetings = server.replica.meetings();
        let first = meetings.add(NewMeeting::titled("first")).await.unwrap();
        let first = first.meeting.id;
        server
            .replica
            .wait_for_index(Duration::from_secs(60))
            .await
            .unwrap();
        let mut changes = server.replica.watch_feed(None).await.unwrap();
        let begun = changes.cursor();
        let second = meetings.add(NewMeeting::titled("second")).await.unwrap();
        let second = second.meeting.id;
        let told = next(&mut changes).await;
        assert_eq!(ids(&told), [second].into());
        assert_eq!(told.documents[0].kind, ChangedKind::Meeting);
        drop(changes);

        // While nobody reads: the first meeting, by a page of its transcript, and a project.
        let segment = Segment {
            id: "1".to_owned(),
            start: 0,
            end: None,
            speaker: None,
            text: "hello".to_owned(),
        };
        meetings
            .append_segments(first, vec![segment])
            .await
            .unwrap();
        server.replica.projects().add("Apollo").await.unwrap();
        let kept: FeedCursor = told.cursor.to_string().parse().unwrap();
        assert_eq!(kept, told.cursor);
        let mut again = server.replica.watch_feed(Some(kept)).await.unwrap();
        let mut kinds = Vec::new();
        while kinds.len() < 3 {
            let told = next(&mut again).await;
            kinds.extend(told.documents.iter().map(|document| document.kind));
        }
        let page = ChangedKind::Transcript {
            meeting: Some(first),
        };
        for kind in [page, ChangedKind::Meeting, ChangedKind::Workspace] {
            assert!(kinds.contains(&kind), "{kind:?} of {kinds:?}");
        }
        // And who was told less is told more.
        let mut older = server.replica.watch_feed(Some(begun)).await.unwrap();
        let all = next(&mut older).await;
        assert!(ids(&all).is_superset(&[first, second].into()), "{all:?}");
        // Everything is in what lists show by then.
        assert_eq!(
            meetings
                .list(crate::ListOptions::default())
                .await
                .unwrap()
                .meetings
                .len(),
            2
        );
        server.replica.close().await.unwrap();
        assert!(matches!(older.next().await, Err(Error::Closed)));
    });
}

#[test]
fn a_cursor_of_another_history_or_workspace_is_refused() {
    run(async {
        let one = Peer::server().await;
        let other = Peer::server().await;
        let of_one = one.replica.watch_feed(None).await.unwrap().cursor();
        // The same place of the same workspace, in a store that was made anew.
        let text = of_one.to_string();
        let mut forged = text.clone();
        forged.replace_range(40..42, if &text[40..42] == "00" { "01" } else { "00" });
        let mut past = text.clone();
        past.replace_range(66..82, "00000000000000ff");
        let mut digest = text.clone();
        digest.replace_range(112..114, if text.ends_with("00") { "01" } else { "00" });
        for text in [forged, past, digest] {
            let cursor: FeedCursor = text.parse().unwrap();
            let refused = one.replica.watch_feed(Some(cursor)).await.unwrap_err();
            assert_eq!(refused.code(), "other_history", "{text}");
        }
        let refused = other.replica.watch_feed(Some(of_one)).await.unwrap_err();
        assert_eq!(refused.code(), "bad_input");
        for text in [
            "",
            "00",
            &text[2..],
            &format!("02{}", &text[2..]),
            "ü".repeat(57).as_str(),
        ] {
            assert_eq!(text.parse::<FeedCursor>().unwrap_err().code(), "bad_input");
        }
    });
}

#[test]
fn what_was_purged_or_compacted_meanwhile_is_told_or_the_cursor_is_refused() {
    run(async {
        let server = Peer::server().await;
        let meetings = server.replica.meetings();
        let gone = meetings.add(NewMeeting::titled("to go")).await.unwrap();
        let gone = gone.meeting.id;
        let typed = meetings.add(NewMeeting::titled("typed")).await.unwrap();
        let typed = typed.meeting.id;
        let first = meetings.add(NewMeeting::titled("first")).await.unwrap();
        let indexed = server.replica.wait_for_index(Duration::from_secs(60));
        indexed.await.unwrap();
        let before = server.replica.watch_feed(None).await.unwrap().cursor();
        let mut within = before;
        for _ in 0..100 {
            let edit = meetings.edit(typed, |meeting| meeting.append_note("x"));
            edit.await.unwrap();
            if within == before {
                let mut changes = server.replica.watch_feed(Some(before)).await.unwrap();
                let told = next(&mut changes).await;
                assert_eq!(ids(&told), [typed].into());
                within = told.cursor;
            }
        }
        let report = server.replica.compact(None).await.unwrap();
        assert_eq!(report.compacted, 1, "{report:?}");
        meetings.delete(gone).await.unwrap();
        let report = server.replica.purge(Duration::ZERO).await.unwrap();
        assert_eq!(report.meetings, 1, "{report:?}");

        // Its entry is there: of what was compacted after it the last entry is, too.
        let mut changes = server.replica.watch_feed(Some(before)).await.unwrap();
        let mut told = BTreeSet::new();
        let mut purged = BTreeSet::new();
        while !told.contains(&typed) || purged.is_empty() {
            let changed = next(&mut changes).await;
            told.append(&mut ids(&changed));
            let documents = changed.documents.iter();
            purged.extend(documents.filter(|one| one.purged).map(|one| one.id));
        }
        assert_eq!(told, [typed, gone].into());
        assert_eq!(purged, [gone].into());
        assert!(!told.contains(&first.meeting.id));
        // And this one's is gone: it may be of another history, and is not taken for one of this.
        let refused = server.replica.watch_feed(Some(within)).await.unwrap_err();
        assert_eq!(refused.code(), "other_history");
    });
}
