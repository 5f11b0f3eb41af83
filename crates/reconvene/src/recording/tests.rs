//! Segments that are handed in again and again are kept once, in pages of bounded size.

use crate::tests::{Peer, run};
use crate::{AppendReport, NewMeeting, PageView, Segment, limits};

fn segment(number: usize) -> Segment {
    Segment {
        id: format!("segment {number}"),
        start: i64::try_from(number).unwrap() * 1000,
        end: None,
        speaker: Some("Ada".to_owned()),
        text: format!("sentence {number}"),
    }
}

fn segments(numbers: std::ops::Range<usize>) -> Vec<Segment> {
    numbers.map(segment).collect()
}

/// What is in each page, in reading order.
async fn pages(peer: &Peer, id: crate::DocumentId) -> Vec<Vec<Segment>> {
    let shown = peer.replica.meetings().show(id).await.unwrap();
    let pages = shown.pages.into_iter().map(|page| match page {
        PageView::Present { page, .. } => page.segments,
        PageView::Missing(missing) => panic!("{missing}"),
    });
    pages.collect()
}

#[test]
fn segments_are_kept_once_however_often_they_are_handed_in_and_pages_stay_bounded() {
    run(async {
        let server = Peer::server().await;
        let meetings = server.replica.meetings();
        let id = meetings.add(NewMeeting::titled("Recorded")).await.unwrap();
        let id = id.meeting.id;
        let first = meetings.append_segments(id, segments(0..400)).await;
        assert_eq!(first.unwrap().added, 400);
        // Cut off and sent again, further than before, by two at once.
        let (one, other) = tokio::join!(
            meetings.append_segments(id, segments(300..700)),
            meetings.append_segments(id, segments(300..700)),
        );
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one.added + other.added, 300);
        assert_eq!(one.present + other.present, 500);
        let pages = pages(&server, id).await;
        let sizes: Vec<_> = pages.iter().map(Vec::len).collect();
        assert_eq!(sizes, [500, 200]);
        assert_eq!(pages.concat(), segments(0..700));
        // What is there is not overwritten, and that is said.
        let mut other = segment(3);
        other.text = "something else".to_owned();
        let report = meetings.append_segments(id, vec![other, segment(4)]).await;
        let expected = AppendReport {
            added: 0,
            present: 2,
            differing: vec!["segment 3".to_owned()],
        };
        assert_eq!(report.unwrap(), expected);
        let too_many = segments(0..limits::APPEND_SEGMENTS_MAX + 1);
        let refused = meetings.append_segments(id, too_many).await.unwrap_err();
        assert_eq!(refused.code(), "bad_input");
    });
}

#[test]
fn a_page_that_was_listed_and_never_begun_is_begun_and_a_deleted_meeting_takes_nothing() {
    run(async {
        let server = Peer::server().await;
        let meetings = server.replica.meetings();
        let id = meetings.add(NewMeeting::titled("Recorded")).await.unwrap();
        let id = id.meeting.id;
        // As if the process had ended between the two steps.
        let workspace = server.replica.current_workspace().unwrap();
        let me = server.replica.device().peer_id.to_string();
        let listed = meetings.list_page(workspace, id, &me, 0).await.unwrap();
        meetings.append_segments(id, segments(0..2)).await.unwrap();
        let shown = meetings.show(id).await.unwrap();
        assert_eq!(shown.pages.len(), 1);
        let PageView::Present { id: begun, page } = &shown.pages[0] else {
            panic!("{:?}", shown.pages);
        };
        assert_eq!((*begun, page.meeting), (listed, Some(id)));
        assert_eq!(page.segments, segments(0..2));
        meetings.delete(id).await.unwrap();
        let refused = meetings.append_segments(id, segments(2..3)).await;
        assert_eq!(refused.unwrap_err().code(), "meeting_deleted");
    });
}
