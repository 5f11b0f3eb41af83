//! Replicas on real stores and real loopback links, in one process.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::{
    Error, InviteOptions, ListOptions, NewMeeting, OpenOptions, Replica, ReplicaEvent, Role,
    SyncOptions, qmsum,
};

mod archive;
mod commands;
mod compaction;
mod deletion;
mod findings;
mod healing;
mod markdown;
mod verify;

const MEETING: &[u8] = include_bytes!("../../../examples/qmsum/ES2005a.json");

pub(crate) struct Peer {
    dir: TempDir,
    pub(crate) replica: Replica,
}

impl Peer {
    async fn new(role: Role) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let replica = OpenOptions::new(dir.path())
            .role(role)
            .open()
            .await
            .unwrap();
        Self { dir, replica }
    }

    pub(crate) async fn server() -> Self {
        let server = Self::new(Role::Server).await;
        server.replica.ensure_shared_workspace().await.unwrap();
        server.replica.listen(&[]).await.unwrap();
        server
    }

    pub(crate) async fn device_of(server: &Self, member: &str) -> Self {
        let device = Self::new(Role::Device).await;
        device
            .replica
            .join(&server.ticket(member).await)
            .await
            .unwrap();
        device
    }

    async fn ticket(&self, member: &str) -> String {
        let options = InviteOptions {
            member: Some(member.to_owned()),
            expires_in: Duration::from_secs(3600),
        };
        self.replica.invite(options).await.unwrap().ticket
    }

    async fn reopen(self, role: Role) -> Self {
        self.replica.close().await.unwrap();
        let replica = OpenOptions::new(self.dir.path())
            .role(role)
            .open()
            .await
            .unwrap();
        Self {
            dir: self.dir,
            replica,
        }
    }

    pub(crate) async fn sync(&self) -> crate::SyncReport {
        self.replica.sync(SyncOptions::default()).await.unwrap()
    }
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn meetings_edited_apart_merge_on_all_three() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;

        let imported = qmsum::parse("ES2005a.json", MEETING).unwrap();
        let id = a.replica.meetings().import(imported).await.unwrap();
        let first = a.sync().await;
        assert!(first.verified);
        assert_eq!(first.documents_sent, 2, "{first:?}");
        let received = b.sync().await;
        assert_eq!(received.documents_received, 3, "{received:?}");

        a.replica
            .meetings()
            .edit(id, |meeting| meeting.append_note("from A\n"))
            .await
            .unwrap();
        b.replica
            .meetings()
            .edit(id, |meeting| meeting.append_note("from B\n"))
            .await
            .unwrap();
        b.replica
            .meetings()
            .edit(id, |meeting| meeting.add_tag("b"))
            .await
            .unwrap();
        a.sync().await;
        b.sync().await;
        a.sync().await;

        let ours = a.replica.export(None).await.unwrap();
        assert!(ours.contains("from A") && ours.contains("from B"));
        assert_eq!(ours, b.replica.export(None).await.unwrap());
        assert_eq!(ours, server.replica.export(None).await.unwrap());
        let row = &a
            .replica
            .meetings()
            .list(ListOptions::default())
            .await
            .unwrap()
            .meetings[0];
        assert_eq!(row.tags, ["b"]);

        let again = a.sync().await;
        assert_eq!(again.round_trips, 1, "{again:?}");
        assert!(again.bytes_sent + again.bytes_received < 1024, "{again:?}");
        assert_eq!(again.documents_materialised, 0);
    });
}

#[test]
fn losing_the_store_loses_no_acknowledged_edit() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let imported = qmsum::parse("ES2005a.json", MEETING).unwrap();
        let id = a.replica.meetings().import(imported).await.unwrap();
        a.sync().await;
        a.replica
            .meetings()
            .edit(id, |meeting| meeting.append_note("kept"))
            .await
            .unwrap();
        let added = a
            .replica
            .meetings()
            .add(NewMeeting::titled("only here"))
            .await
            .unwrap();
        let before = a.replica.export(None).await.unwrap();

        a.replica.clone().close().await.unwrap();
        drop(a.replica);
        std::fs::remove_dir_all(a.dir.path().join("sled")).unwrap();
        let replica = Replica::open(a.dir.path()).await.unwrap();
        let a = Peer {
            dir: a.dir,
            replica,
        };
        let listed = a.replica.meetings().show(added.meeting.id).await.unwrap();
        assert_eq!(listed.meeting.title, "only here");
        let report = a.sync().await;
        assert!(report.verified);
        assert_eq!(a.replica.export(None).await.unwrap(), before);
        assert_eq!(server.replica.export(None).await.unwrap(), before);
        assert_eq!(
            a.replica
                .meetings()
                .list(ListOptions::default())
                .await
                .unwrap()
                .meetings
                .len(),
            2
        );
    });
}

#[test]
fn a_home_made_before_joining_merges_into_the_members_home() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::new(Role::Device).await;
        let old = b
            .replica
            .meetings()
            .add(NewMeeting::titled("before joining"))
            .await
            .unwrap();
        let joined = b.replica.join(&server.ticket("Ada").await).await.unwrap();
        assert_eq!(joined.merged_documents, 1);
        assert_eq!(joined.home, a.replica.device().home);
        b.sync().await;
        a.sync().await;
        a.replica
            .use_workspace(&joined.home.to_string())
            .await
            .unwrap();
        let listed = a
            .replica
            .meetings()
            .list(ListOptions::default())
            .await
            .unwrap();
        assert_eq!(listed.meetings[0].id, old.meeting.id);
        b.replica
            .use_workspace(&joined.home.to_string())
            .await
            .unwrap();
        b.replica
            .wait_for_index(Duration::from_secs(30))
            .await
            .unwrap();
        let listed = b
            .replica
            .meetings()
            .list(ListOptions::default())
            .await
            .unwrap();
        assert_eq!(listed.meetings.len(), 1);
    });
}

#[test]
fn tickets_open_once_and_say_why_not() {
    run(async {
        let server = Peer::server().await;
        let ticket = server.ticket("Ada").await;
        let a = Peer::new(Role::Device).await;
        a.replica.join(&ticket).await.unwrap();
        a.replica.join(&ticket).await.unwrap();
        let b = Peer::new(Role::Device).await;
        let refused = b.replica.join(&ticket).await.unwrap_err();
        assert_eq!(refused.code(), "ticket_used");
        let mistyped = format!("{ticket}x");
        assert_eq!(
            b.replica.join(&mistyped).await.unwrap_err().code(),
            "bad_ticket"
        );
        assert_eq!(
            b.replica
                .sync(SyncOptions::default())
                .await
                .unwrap_err()
                .code(),
            "no_server"
        );
        server.replica.clone().close().await.unwrap();
        let options = SyncOptions {
            timeout: Duration::from_millis(200),
            progress: None,
        };
        assert_eq!(a.replica.sync(options).await.unwrap_err().code(), "timeout");
    });
}

#[test]
fn a_closed_replica_reopens_with_everything_and_a_locked_one_says_by_whom() {
    run(async {
        let a = Peer::new(Role::Device).await;
        a.replica.projects().add("Apollo").await.unwrap();
        a.replica.projects().activate("Apollo").await.unwrap();
        let added = a
            .replica
            .meetings()
            .add(NewMeeting::titled("Kick-off"))
            .await
            .unwrap();
        assert!(added.resolved_project_id.is_some());
        let locked = Replica::open(a.dir.path()).await.unwrap_err();
        assert_eq!(locked.code(), "store_locked");
        assert!(locked.to_string().contains(&std::process::id().to_string()));
        let before = a.replica.export(None).await.unwrap();
        let a = a.reopen(Role::Device).await;
        assert_eq!(a.replica.export(None).await.unwrap(), before);
        let status = a.replica.status().await.unwrap();
        assert_eq!(status.documents, 2);
        let missing = a
            .replica
            .meetings()
            .show(crate::DocumentId::from_bytes([9; 16]))
            .await;
        assert!(matches!(
            missing,
            Err(Error::NotFound {
                what: "meeting",
                ..
            })
        ));
    });
}

#[test]
fn a_list_loads_no_document_and_what_is_not_known_is_not_zero() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        for title in ["one", "two", "three"] {
            let meetings = a.replica.meetings();
            meetings.add(NewMeeting::titled(title)).await.unwrap();
        }
        let a = a.reopen(Role::Device).await;
        let page = a.replica.meetings().list(ListOptions::default()).await;
        assert_eq!(page.unwrap().meetings.len(), 3);
        let status = a.replica.status().await.unwrap();
        let materialised = &status.documents_materialised_by;
        assert!(materialised.values().all(|count| *count == 0), "{status:?}");
        // Joined, and never synced since.
        let page = a.replica.meetings().list(ListOptions::default()).await;
        let freshness = page.unwrap().freshness;
        assert_eq!(freshness.as_of, None);
        let never = crate::FreshnessState::Stale {
            since: None,
            why: crate::StaleReason::NeverSynced,
        };
        assert_eq!(freshness.state, never);
        // Who holds an edit is known once they said so.
        let page = a.replica.meetings().list(ListOptions::default()).await;
        let id = page.unwrap().meetings[0].id;
        let held = async || {
            let view = a.replica.meetings().show(id).await.unwrap();
            view.held_by.iter().any(|holder| holder.holds == Some(true))
        };
        assert!(!held().await);
        a.sync().await;
        assert!(held().await);
    });
}

#[test]
fn live_edits_reach_the_other_device_through_the_server() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        a.sync().await;
        b.sync().await;
        let mut events = b.replica.events();
        b.replica.connect().await.unwrap();
        a.replica.connect().await.unwrap();
        let added = a
            .replica
            .meetings()
            .add(NewMeeting::titled("Live"))
            .await
            .unwrap();
        loop {
            let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
            if let crate::ReplicaEvent::Changed { meetings, .. } = event.unwrap().unwrap()
                && meetings.contains(&added.meeting.id)
            {
                break;
            }
        }
        let shown = b.replica.meetings().show(added.meeting.id).await.unwrap();
        assert_eq!(shown.meeting.title, "Live");
        let replica = Arc::new(a.replica);
        let edits = (0..20).map(|n| {
            let replica = Arc::clone(&replica);
            tokio::spawn(async move {
                let id = added.meeting.id;
                replica
                    .meetings()
                    .edit(id, move |m| m.append_note(&format!("{n};")))
                    .await
            })
        });
        for edit in edits.collect::<Vec<_>>() {
            edit.await.unwrap().unwrap();
        }
        loop {
            let shown = b.replica.meetings().show(added.meeting.id).await.unwrap();
            if (0..20).all(|n| shown.meeting.notes.contains(&format!("{n};"))) {
                break;
            }
            let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
            event.unwrap().unwrap();
        }
    });
}

#[test]
fn a_joins_link_ends_at_once_on_both_sides() {
    run(async {
        let server = Peer::server().await;
        let mut events = server.replica.events();
        let device = Peer::device_of(&server, "Ada").await;
        // Far below what the device would wait for the server's end.
        let ended = tokio::time::timeout(Duration::from_secs(3), async {
            while !matches!(events.next().await.unwrap(), ReplicaEvent::LinkDown { .. }) {}
        });
        ended.await.expect("the server closes the link of a join");
        device.replica.close().await.unwrap();
        server.replica.close().await.unwrap();
    });
}

#[test]
fn a_pass_leaves_the_links_of_a_connected_replica_up() {
    run(async {
        let server = Peer::server().await;
        let device = Peer::device_of(&server, "Ada").await;
        device.sync().await;
        assert!(device.replica.status().await.unwrap().links.is_empty());
        device.replica.connect().await.unwrap();
        device.sync().await;
        assert_eq!(device.replica.status().await.unwrap().links.len(), 1);
        device.replica.disconnect().await.unwrap();
        device.sync().await;
        assert!(device.replica.status().await.unwrap().links.is_empty());
        device.replica.close().await.unwrap();
        server.replica.close().await.unwrap();
    });
}

#[test]
fn a_store_is_opened_as_what_it_was_made() {
    run(async {
        let server = Peer::new(Role::Server).await;
        server.replica.close().await.unwrap();
        let again = Replica::open(server.dir.path()).await.unwrap();
        assert_eq!(again.device().role, Role::Server);
        again.close().await.unwrap();
    });
}

#[test]
fn lists_agree_with_documents_after_a_sync_of_many_entries_that_change_the_same_ones() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        a.sync().await;
        b.sync().await;
        let mut ids = Vec::new();
        for number in 0..40 {
            let meeting = NewMeeting::titled(format!("first {number}"));
            ids.push(a.replica.meetings().add(meeting).await.unwrap().meeting.id);
        }
        for round in 0..16 {
            for id in &ids {
                let tag = format!("round-{round}");
                let edit = move |meeting: &mut crate::MeetingEditor<'_>| meeting.add_tag(&tag);
                a.replica.meetings().edit(*id, edit).await.unwrap();
            }
        }
        a.sync().await;
        b.sync().await;
        let listed = b
            .replica
            .meetings()
            .list(ListOptions::default())
            .await
            .unwrap();
        assert_eq!(listed.meetings.len(), ids.len());
        for row in listed.meetings {
            assert_eq!(row.tags.len(), 16, "{}", row.title);
            let shown = b.replica.meetings().show(row.id).await.unwrap();
            assert_eq!(shown.meeting.tags.into_iter().collect::<Vec<_>>(), row.tags);
        }
    });
}

#[test]
fn a_workspace_that_a_server_removed_does_not_come_back_with_whom_it_enrolled() {
    run(async {
        let server = Peer::server().await;
        let kept = server.replica.device().current;
        let gone = server.replica.add_workspace("Apollo").await.unwrap().id;
        // By now the file beside the store names it.
        let server = server.reopen(Role::Server).await;
        let options = crate::LeaveOptions {
            discard: true,
            remove: true,
        };
        let left = server.replica.leave_workspace("Apollo", options).await;
        assert!(left.unwrap().removed);
        let server = server.reopen(Role::Server).await;
        let workspaces = server.replica.workspaces().await.unwrap();
        let ids: Vec<_> = workspaces.iter().map(|known| known.id).collect();
        assert!(!ids.contains(&gone), "{ids:?}");
        assert!(ids.contains(&kept.unwrap()), "{ids:?}");
    });
}

#[test]
fn a_buffered_edit_taken_before_the_close_is_there_after_it() {
    run(async {
        let a = Peer::new(Role::Device).await;
        let added = a
            .replica
            .meetings()
            .add(NewMeeting::titled("Notes"))
            .await
            .unwrap();
        let a = a.reopen(Role::Device).await;
        let id = added.meeting.id;
        let edit = |meeting: &mut crate::MeetingEditor<'_>| meeting.append_note("last words");
        a.replica.meetings().edit_buffered(id, edit).await.unwrap();
        let a = a.reopen(Role::Device).await;
        let shown = a.replica.meetings().show(id).await.unwrap();
        assert!(shown.meeting.notes.contains("last words"));
    });
}

#[test]
fn an_edit_whose_future_is_dropped_is_stored_whole_or_not_at_all() {
    run(async {
        let a = Peer::new(Role::Device).await;
        let added = a
            .replica
            .meetings()
            .add(NewMeeting::titled("Notes"))
            .await
            .unwrap();
        let id = added.meeting.id;
        for number in 0..20 {
            let edit = move |meeting: &mut crate::MeetingEditor<'_>| {
                meeting.append_note(&format!("{number};"))
            };
            let meetings = a.replica.meetings();
            tokio::select! {
                biased;
                _ = meetings.edit(id, edit) => {}
                () = tokio::task::yield_now() => {}
            }
        }
        // Those that were dropped may still be on their way; closing takes them along.
        let a = a.reopen(Role::Device).await;
        let settled = a.replica.export(None).await.unwrap();
        let shown = a.replica.meetings().show(id).await.unwrap();
        let mut pieces: Vec<_> = shown.meeting.notes.split_terminator(';').collect();
        let is_whole = |piece: &&str| piece.parse().is_ok_and(|number: u32| number < 20);
        assert!(pieces.iter().all(is_whole), "{pieces:?}");
        let count = pieces.len();
        pieces.sort_unstable();
        pieces.dedup();
        assert_eq!(pieces.len(), count, "nothing is there twice");
        let edit = |meeting: &mut crate::MeetingEditor<'_>| meeting.append_note("end");
        a.replica.meetings().edit(id, edit).await.unwrap();
        let a = a.reopen(Role::Device).await;
        let export = a.replica.export(None).await.unwrap();
        assert_ne!(export, settled);
        assert!(export.contains("end"));
    });
}

#[test]
fn open_documents_keep_to_their_budget_and_are_read_again_when_used() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let options = crate::OpenOptions::new(directory.path().join("data"));
            options.open_bytes_max(400_000)
        };
        let replica = open().open().await.unwrap();
        let meetings = replica.meetings();
        let mut ids = Vec::new();
        for number in 0..20 {
            let added = meetings.add(NewMeeting::titled(format!("{number}"))).await;
            let id = added.unwrap().meeting.id;
            let text = format!("{number};").repeat(2_000);
            let edit = meetings.edit(id, move |meeting| meeting.append_note(&text));
            edit.await.unwrap();
            ids.push(id);
            let open = replica.status().await.unwrap().open;
            assert!(open.bytes <= open.bytes_max, "{open:?}");
        }
        let status = replica.status().await.unwrap();
        assert!(
            (1..20).contains(&status.open.documents),
            "{:?}",
            status.open
        );
        let before = status.documents_materialised_by["read"];
        for (number, id) in ids.iter().enumerate() {
            let shown = meetings.show(*id).await.unwrap();
            assert!(shown.meeting.notes.starts_with(&format!("{number};")));
        }
        let read = replica.status().await.unwrap().documents_materialised_by["read"] - before;
        assert!(read >= 15, "{read} were closed and read again");
        // One in use stays, however large.
        replica.close().await.unwrap();
        let replica = open().open_bytes_max(1).open().await.unwrap();
        let meetings = replica.meetings();
        let edit = meetings.edit(ids[0], |meeting| meeting.append_note("once more"));
        edit.await.unwrap();
        assert_eq!(replica.status().await.unwrap().open.documents, 0);
        let shown = meetings.show(ids[0]).await.unwrap();
        assert!(shown.meeting.notes.ends_with("once more"));
    });
}

#[test]
fn a_second_ticket_for_another_member_does_not_give_the_home_away() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let home = a.replica.device().home;
        let other = Peer::server().await;
        let joined = a.replica.join(&other.ticket("Eve").await).await.unwrap();
        assert_eq!(joined.home, home);
        assert_eq!(joined.merged_documents, 0);
        assert_eq!(a.replica.device().home, home);
        assert!(a.sync().await.verified);
    });
}

#[test]
fn a_dead_server_ends_a_pass_when_the_time_is_over_however_often_it_is_dialled() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        server.replica.close().await.unwrap();
        let began = std::time::Instant::now();
        let options = SyncOptions {
            timeout: Duration::from_secs(3),
            progress: None,
        };
        assert_eq!(a.replica.sync(options).await.unwrap_err().code(), "timeout");
        // Several redials fall into this time; each used to begin it anew.
        assert!(began.elapsed() < Duration::from_secs(20));
    });
}

/// Connects both, and yields the events of the second from when both have all the other had.
async fn connected(server: &Peer, a: &Peer, b: &Peer) -> crate::Events {
    for peer in [a, b, a] {
        peer.sync().await;
    }
    let mut events = b.replica.events();
    b.replica.connect().await.unwrap();
    a.replica.connect().await.unwrap();
    assert_eq!(server.replica.device().role, Role::Server);
    next_where(&mut events, |event| {
        matches!(event, ReplicaEvent::PassComplete { .. })
    })
    .await;
    events
}

async fn next_where(
    events: &mut crate::Events,
    wanted: impl Fn(&ReplicaEvent) -> bool,
) -> ReplicaEvent {
    let found = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let event = events.next().await.expect("the replica is open");
            if wanted(&event) {
                return event;
            }
        }
    });
    found.await.expect("it happens in time")
}

#[test]
fn what_others_say_in_a_transcript_is_told_as_a_change_of_the_meeting() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let imported = qmsum::parse("ES2005a.json", MEETING).unwrap();
        let id = a.replica.meetings().import(imported).await.unwrap();
        let mut events = connected(&server, &a, &b).await;
        let shown = a.replica.meetings().show(id).await.unwrap();
        let crate::PageView::Present { id: page, .. } = shown.pages[0] else {
            panic!("the page is there");
        };
        for text in ["said later", "and more"] {
            let segment = crate::Segment {
                id: format!("live {text}"),
                start: 9_999_999,
                end: None,
                speaker: None,
                text: text.to_owned(),
            };
            let meetings = a.replica.meetings();
            let edit = meetings.edit_page(page, move |page| page.append_segment(&segment));
            edit.await.unwrap();
            let event = next_where(&mut events, |event| {
                matches!(event, ReplicaEvent::Changed { documents, .. } if documents.contains(&page))
            })
            .await;
            let ReplicaEvent::Changed {
                meetings, projects, ..
            } = event
            else {
                unreachable!("it was looked for");
            };
            assert_eq!((meetings, projects), (vec![id], false));
        }
        // A page is read for that once at most.
        let shown = b.replica.meetings().show(id).await.unwrap();
        let text = serde_json::to_string(&shown.pages).unwrap();
        assert!(text.contains("said later") && text.contains("and more"));
    });
}

#[test]
fn remote_typing_comes_into_an_open_document_in_batches_and_loads_it_once() {
    const KEYSTROKES: u64 = 400;
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let added = a.replica.meetings().add(NewMeeting::titled("Typed")).await;
        let id = added.unwrap().meeting.id;
        let edit =
            |meeting: &mut crate::MeetingEditor<'_>| meeting.append_note(&"x".repeat(10_000));
        a.replica.meetings().edit(id, edit).await.unwrap();
        let mut events = connected(&server, &a, &b).await;
        b.replica.meetings().show(id).await.unwrap();
        let before = b.replica.status().await.unwrap();
        for _ in 0..KEYSTROKES {
            let meetings = a.replica.meetings();
            let typed = meetings.edit_buffered(id, |meeting| meeting.append_note("y"));
            typed.await.unwrap();
        }
        loop {
            let shown = b.replica.meetings().show(id).await.unwrap();
            if shown
                .meeting
                .notes
                .ends_with(&"y".repeat(KEYSTROKES as usize))
            {
                break;
            }
            next_where(&mut events, |event| {
                matches!(event, ReplicaEvent::Changed { meetings, .. } if meetings.contains(&id))
            })
            .await;
        }
        let after = b.replica.status().await.unwrap();
        let changes = after.applied.changes - before.applied.changes;
        let batches = after.applied.batches - before.applied.batches;
        assert_eq!(changes, KEYSTROKES, "{:?}", after.applied);
        assert!(batches < changes / 2, "{:?}", after.applied);
        assert!(after.applied.changes_max > 1, "{:?}", after.applied);
        assert_eq!(
            after.documents_materialised_by,
            before.documents_materialised_by
        );
    });
}

#[tokio::test]
async fn a_live_link_outlasts_what_the_app_tells_of_sleep_and_network() {
    let server = Peer::server().await;
    let device = Peer::device_of(&server, "Ada").await;
    let mut events = device.replica.events();
    device.replica.connect().await.unwrap();
    let verified = |event: &ReplicaEvent| matches!(event, ReplicaEvent::Verified { .. });
    next_where(&mut events, verified).await;
    device.replica.resumed().await.unwrap();
    device.replica.network_changed().await.unwrap();
    // Past the deadline for the proof, the same link still says where the feed ends.
    let until = tokio::time::Instant::now() + reconvene_core::limits::PROOF_DEADLINE;
    while tokio::time::Instant::now() < until {
        next_where(&mut events, |event| {
            assert!(!matches!(event, ReplicaEvent::LinkDown { .. }), "{event:?}");
            verified(event)
        })
        .await;
    }
    assert_eq!(device.replica.status().await.unwrap().links.len(), 1);
}

#[tokio::test]
async fn what_a_left_and_removed_workspace_had_in_the_journal_stays_gone() {
    let server = Peer::server().await;
    let device = Peer::device_of(&server, "Ada").await;
    let joined = device.replica.device().current.unwrap().to_string();
    let meetings = device.replica.meetings();
    meetings
        .add(NewMeeting::titled("never synced"))
        .await
        .unwrap();
    let leave = |discard| crate::LeaveOptions {
        discard,
        remove: true,
    };
    let refused = device.replica.leave_workspace(&joined, leave(false)).await;
    assert!(
        matches!(refused, Err(Error::NotHeldElsewhere { changes: 1 })),
        "{refused:?}"
    );
    let left = device
        .replica
        .leave_workspace(&joined, leave(true))
        .await
        .unwrap();
    assert!(left.removed && left.told_server);
    drop(meetings);
    let device = device.reopen(Role::Device).await;
    let status = device.replica.status().await.unwrap();
    assert_eq!(status.documents, 0);
    assert_eq!(status.workspaces.len(), 1, "only the home is left");
    // Back again, it starts from what the server has, which never saw the meeting.
    let ticket = server.ticket("Ada").await;
    device.replica.join(&ticket).await.unwrap();
    device.replica.sync(SyncOptions::default()).await.unwrap();
    let device = device.reopen(Role::Device).await;
    let page = device
        .replica
        .meetings()
        .list(ListOptions::default())
        .await
        .unwrap();
    assert!(page.meetings.is_empty(), "{page:?}");
}

#[test]
fn a_server_takes_no_more_documents_of_a_workspace_than_it_may_until_there_is_room() {
    run(async {
        // One of them is the workspace's own.
        const ROOM: u64 = 4;
        const MEETINGS: u64 = ROOM - 1;
        let limited = |dir: &TempDir, documents| {
            let options = OpenOptions::new(dir.path()).role(Role::Server);
            options.workspace_documents_max(documents).open()
        };
        let dir = tempfile::tempdir().unwrap();
        let replica = limited(&dir, ROOM).await.unwrap();
        replica.ensure_shared_workspace().await.unwrap();
        replica.listen(&[]).await.unwrap();
        let server = Peer { dir, replica };
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let mut ids = Vec::new();
        for n in 0..MEETINGS + 2 {
            let new = NewMeeting::titled(format!("m{n}"));
            ids.push(a.replica.meetings().add(new).await.unwrap().meeting.id);
        }
        let mut events = a.replica.events();
        a.sync().await;
        let mut refused = Vec::new();
        while refused.len() < 2 {
            if let ReplicaEvent::DocumentsRefused {
                here: false,
                documents,
                ..
            } = events.next().await.unwrap()
            {
                refused.extend(documents);
            }
        }
        let codes: Vec<_> = refused.iter().map(|(_, code)| *code).collect();
        assert_eq!(codes, [crate::RefusalCode::WorkspaceFull; 2]);
        let held = async |peer: &Peer| {
            peer.replica
                .wait_for_index(Duration::from_secs(30))
                .await
                .unwrap();
            let page = peer.replica.meetings().list(ListOptions::default()).await;
            page.unwrap().meetings.len() as u64
        };
        b.sync().await;
        assert_eq!((held(&server).await, held(&b).await), (MEETINGS, MEETINGS));
        // What is there already is edited on, and what was refused stays refused, whatever is done to it.
        for id in &ids {
            let meetings = a.replica.meetings();
            let edit = meetings.edit(*id, |meeting| meeting.append_note("more"));
            edit.await.unwrap();
        }
        a.sync().await;
        assert_eq!(held(&server).await, MEETINGS);
        let is_kept =
            |id: &&reconvene_core::ids::DocumentId| refused.iter().all(|(of, _)| of != *id);
        let kept: Vec<_> = ids.iter().filter(is_kept).collect();
        assert_eq!(kept.len() as u64, MEETINGS);
        for id in kept {
            let shown = server.replica.meetings().show(*id).await.unwrap();
            assert_eq!(shown.meeting.notes, "more");
        }

        server.replica.close().await.unwrap();
        let replica = limited(&server.dir, ROOM + 2).await.unwrap();
        replica.listen(&[]).await.unwrap();
        let server = Peer {
            dir: server.dir,
            replica,
        };
        a.sync().await;
        b.sync().await;
        assert_eq!(
            (held(&server).await, held(&b).await),
            (MEETINGS + 2, MEETINGS + 2)
        );
    });
}

#[test]
fn a_document_that_is_read_anew_keeps_the_edits_that_are_on_their_way() {
    run(async {
        let device = Peer::new(Role::Device).await;
        let meetings = device.replica.meetings();
        let id = meetings.add(NewMeeting::titled("read anew")).await;
        let id = id.unwrap().meeting.id;
        let workspace = device.replica.current_workspace().unwrap();
        let documents = &device.replica.shared.documents;
        let mut notes = String::new();
        for n in 0..200 {
            let note = format!("{n}\n");
            notes.push_str(&note);
            let edit = meetings.edit_buffered(id, move |meeting| meeting.append_note(&note));
            edit.await.unwrap();
            // As when a whole version of it came, or its compaction is read after a restart.
            documents.note_replaced(workspace, id);
            let shown = meetings.show(id).await.unwrap();
            assert_eq!(shown.meeting.notes, notes);
        }
        let device = device.reopen(Role::Device).await;
        let shown = device.replica.meetings().show(id).await.unwrap();
        assert_eq!(shown.meeting.notes, notes);
    });
}
