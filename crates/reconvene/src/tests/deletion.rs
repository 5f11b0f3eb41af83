//! Deleting meetings and projects, apart and together.

use reconvene_core::ids::DocumentId;

use super::{MEETING, Peer, Role, run};
use crate::{Error, ListOptions, MeetingFilter, NewMeeting, PageView, Segment, qmsum};

async fn add(peer: &Peer, title: &str) -> DocumentId {
    let added = peer.replica.meetings().add(NewMeeting::titled(title)).await;
    added.unwrap().meeting.id
}

/// The ids that a list shows, of deleted meetings or of the others.
/// The meetings that are listed once the index holds all that is stored.
async fn listed(peer: &Peer, deleted: bool) -> Vec<DocumentId> {
    let patience = std::time::Duration::from_secs(30);
    peer.replica.wait_for_index(patience).await.unwrap();
    let options = ListOptions {
        filter: MeetingFilter {
            deleted,
            ..MeetingFilter::default()
        },
        ..ListOptions::default()
    };
    let page = peer.replica.meetings().list(options).await.unwrap();
    page.meetings.iter().map(|row| row.id).collect()
}

#[test]
fn a_deleted_meeting_is_hidden_everywhere_until_it_is_restored() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let (kept, gone) = (add(&a, "kept").await, add(&a, "gone").await);
        a.sync().await;
        b.sync().await;
        let meetings = b.replica.meetings();
        let mut query = meetings
            .query(MeetingFilter::default())
            .subscribe()
            .unwrap();
        while !query.next().await.unwrap().complete {}
        a.replica.meetings().delete(gone).await.unwrap();
        // Once more changes nothing.
        let before = a.replica.export(None).await.unwrap();
        a.replica.meetings().delete(gone).await.unwrap();
        assert_eq!(a.replica.export(None).await.unwrap(), before);
        a.sync().await;
        b.sync().await;
        assert_eq!(query.next().await.unwrap().removed, [gone]);
        for peer in [&a, &b, &server] {
            assert_eq!(listed(peer, false).await, [kept]);
            assert_eq!(listed(peer, true).await, [gone]);
        }
        let edit = meetings.edit(gone, |meeting| meeting.append_note("Too late."));
        let error = edit.await.unwrap_err();
        assert!(
            matches!(error, Error::MeetingDeleted { id } if id == gone),
            "{error}"
        );
        meetings.restore(gone).await.unwrap();
        assert_eq!(query.next().await.unwrap().added[0].id, gone);
        meetings
            .edit(gone, |meeting| meeting.append_note("Back again."))
            .await
            .unwrap();
        b.sync().await;
        a.sync().await;
        assert_eq!(listed(&a, false).await, [gone, kept]);
        let export = a.replica.export(None).await.unwrap();
        assert_eq!(export, b.replica.export(None).await.unwrap());
    });
}

#[test]
fn a_deletion_of_what_was_seen_fails_if_anything_is_other_than_that() {
    run(async {
        let a = Peer::new(Role::Device).await;
        let imported = qmsum::parse("ES2005a.json", MEETING).unwrap();
        let meetings = a.replica.meetings();
        let id = meetings.import(imported).await.unwrap();
        let seen = meetings.show(id).await.unwrap().version;
        assert_eq!(meetings.show(id).await.unwrap().version, seen);

        let note = meetings.edit(id, |meeting| meeting.append_note("One more thing."));
        note.await.unwrap();
        let error = meetings.delete_seen(id, &seen).await.unwrap_err();
        assert!(matches!(error, Error::MeetingChanged { id: of } if of == id));
        let seen = meetings.show(id).await.unwrap().version;
        let page = match &meetings.show(id).await.unwrap().pages[0] {
            PageView::Present { id, .. } => *id,
            PageView::Missing(missing) => panic!("{missing}"),
        };
        let said = meetings.edit_page(page, |transcript| {
            transcript.append_segment(&Segment {
                id: "live".to_owned(),
                start: 9_999_999,
                end: None,
                speaker: None,
                text: "And another.".to_owned(),
            })
        });
        said.await.unwrap();
        let error = meetings.delete_seen(id, &seen).await.unwrap_err();
        assert_eq!(error.code(), "meeting_changed");
        assert_eq!(listed(&a, false).await, [id]);

        let seen = meetings.show(id).await.unwrap().version;
        meetings.delete_seen(id, &seen).await.unwrap();
        assert_eq!(listed(&a, true).await, [id]);
    });
}

#[test]
fn what_others_wrote_unseen_keeps_a_deleted_meeting_and_the_deletion_is_shown() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let noted = add(&a, "noted").await;
        let imported = qmsum::parse("ES2005a.json", MEETING).unwrap();
        let said = a.replica.meetings().import(imported).await.unwrap();
        a.sync().await;
        b.sync().await;
        // One goes on in the notes, the other in the transcript, while both are deleted elsewhere.
        b.replica
            .meetings()
            .edit(noted, |meeting| meeting.append_note("Unseen."))
            .await
            .unwrap();
        let shown = b.replica.meetings().show(said).await.unwrap();
        let PageView::Present { id: page, .. } = shown.pages[0] else {
            panic!("the page is there");
        };
        b.replica
            .meetings()
            .edit_page(page, |transcript| {
                transcript.append_segment(&Segment {
                    id: "live".to_owned(),
                    start: 9_999_999,
                    end: None,
                    speaker: None,
                    text: "Unheard.".to_owned(),
                })
            })
            .await
            .unwrap();
        for id in [noted, said] {
            a.replica.meetings().delete(id).await.unwrap();
        }
        assert_eq!(listed(&a, false).await, []);
        for peer in [&b, &a, &b] {
            peer.sync().await;
        }
        for peer in [&a, &b, &server] {
            assert_eq!(listed(peer, false).await, [said, noted]);
            assert_eq!(listed(peer, true).await, []);
            let shown = peer.replica.meetings().show(noted).await.unwrap();
            let deletion = shown.meeting.deletion.expect("it is told");
            assert!(!deletion.saw_all && deletion.at.is_some());
        }
        // Deleted with all that is seen now, it goes.
        b.replica.meetings().delete(said).await.unwrap();
        assert_eq!(listed(&b, false).await, [noted]);
        a.replica.meetings().restore(noted).await.unwrap();
        let shown = a.replica.meetings().show(noted).await.unwrap();
        assert_eq!(shown.meeting.deletion, None);
    });
}

#[test]
fn a_server_purges_what_was_deleted_long_enough_ago_and_devices_follow() {
    use std::time::Duration;
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let imported = qmsum::parse("ES2005a.json", MEETING).unwrap();
        let gone = a.replica.meetings().import(imported).await.unwrap();
        let kept = add(&a, "kept").await;
        a.sync().await;
        b.sync().await;
        a.replica.meetings().delete(gone).await.unwrap();
        a.sync().await;
        let long = Duration::from_secs(3600);
        let report = server.replica.purge(long).await.unwrap();
        assert_eq!((report.meetings, report.documents), (0, 0), "not yet");
        // Only the server decides for a workspace that it has.
        let report = a.replica.purge(Duration::ZERO).await.unwrap();
        assert_eq!((report.meetings, report.documents), (0, 0));
        let of_server = server.replica.device().current.unwrap().to_string();
        let scoped = a.replica.in_workspace(&of_server).await.unwrap();
        assert!(matches!(
            scoped.purge(Duration::ZERO).await,
            Err(Error::BadInput(_))
        ));
        let report = server.replica.purge(Duration::ZERO).await.unwrap();
        assert_eq!((report.meetings, report.documents), (1, 2));
        a.sync().await;
        b.sync().await;
        for peer in [&a, &b, &server] {
            assert_eq!(listed(peer, false).await, [kept]);
            assert_eq!(listed(peer, true).await, []);
            let error = peer.replica.meetings().show(gone).await.unwrap_err();
            assert_eq!(error.code(), "document_deleted");
            let error = peer.replica.meetings().restore(gone).await.unwrap_err();
            assert_eq!(error.code(), "document_deleted");
            assert!(peer.replica.verify(None).await.unwrap().intact);
        }
        let export = server.replica.export(None).await.unwrap();
        assert_eq!(export, a.replica.export(None).await.unwrap());
        assert_eq!(export, b.replica.export(None).await.unwrap());
    });
}

#[test]
fn a_project_is_deleted_when_nothing_is_filed_under_it_and_comes_back() {
    run(async {
        let a = Peer::new(crate::Role::Device).await;
        let (projects, meetings) = (a.replica.projects(), a.replica.meetings());
        projects.add("Apollo").await.unwrap();
        let new = NewMeeting {
            title: "Landing".to_owned(),
            project: Some("Apollo".to_owned()),
        };
        let id = meetings.add(new.clone()).await.unwrap().meeting.id;
        let mut query = meetings
            .query(MeetingFilter::default())
            .subscribe()
            .unwrap();
        query.next().await.unwrap();
        let error = projects.delete("Apollo").await.unwrap_err();
        assert!(
            matches!(error, Error::ProjectInUse { meetings: 1 }),
            "{error}"
        );
        meetings.delete(id).await.unwrap();
        query.next().await.unwrap();
        let gone = projects.delete("Apollo").await.unwrap();
        assert!(gone.deleted_at.is_some());
        let error = meetings.add(new.clone()).await.unwrap_err();
        assert_eq!(error.code(), "project_deleted");
        assert_eq!(projects.list().await.unwrap(), []);
        assert_eq!(projects.list_all().await.unwrap().len(), 1);
        projects.restore("Apollo").await.unwrap();
        let archived = projects.archive("Apollo", true).await.unwrap();
        assert!(archived.archived && archived.deleted_at.is_none());
        let renamed = projects.rename("Apollo", "Gemini").await.unwrap();
        assert_eq!(renamed.name, "Gemini");
    });
}
