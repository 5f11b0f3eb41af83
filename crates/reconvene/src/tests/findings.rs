//! What documents show that needs a person is in their inbox, once, until it is seen to.

use std::collections::BTreeSet;
use std::time::Duration;

use reconvene_core::ids::DocumentId;
use reconvene_core::keys::KeyRange;
use serde_json::json;

use super::healing::{damage, is_healed, keys, until};
use super::{Peer, Role, run};
use crate::limits::FINDINGS_OPEN_MAX;
use crate::{
    Choice, EntryFilter, EntryRow, ListOptions, MeetingEditor, NewMeeting, ProjectId, ReplicaEvent,
    Segment, ValueOrigin,
};

const DEADLINE: Duration = Duration::from_secs(60);

async fn add(peer: &Peer, title: &str) -> DocumentId {
    let added = peer.replica.meetings().add(NewMeeting::titled(title)).await;
    added.unwrap().meeting.id
}

fn project(byte: u8) -> ProjectId {
    ProjectId::from_bytes([byte; 16])
}

async fn edit(
    peer: &Peer,
    id: DocumentId,
    edit: impl FnOnce(&mut MeetingEditor<'_>) -> Result<(), crate::ModelError> + Send + 'static,
) {
    peer.replica.meetings().edit(id, edit).await.unwrap();
}

async fn inbox(peer: &Peer, filter: EntryFilter) -> Vec<EntryRow> {
    peer.replica.wait_for_index(DEADLINE).await.unwrap();
    peer.replica.inbox().list(filter).await.unwrap()
}

async fn open(peer: &Peer) -> Vec<EntryRow> {
    inbox(peer, EntryFilter::Open).await
}

async fn round(peers: &[&Peer]) {
    for _ in 0..2 {
        for peer in peers {
            peer.sync().await;
        }
    }
}

fn how(row: &EntryRow) -> &str {
    row.entry.resolved.as_ref().map_or("", |of| of.how.as_str())
}

/// Two members' devices and a meeting that each of them filed under a project of their own.
async fn filed_apart(server: &Peer) -> (Peer, Peer, DocumentId) {
    let a = Peer::device_of(server, "Ada").await;
    let b = Peer::device_of(server, "Ben").await;
    let id = add(&a, "Planning").await;
    round(&[&a, &b]).await;
    edit(&a, id, |meeting| meeting.set_project(Some(project(1)))).await;
    edit(&b, id, |meeting| meeting.set_project(Some(project(2)))).await;
    round(&[&a, &b]).await;
    (a, b, id)
}

#[test]
fn a_conflict_is_one_entry_on_all_devices_of_a_member_until_somebody_settles_it() {
    run(async {
        let server = Peer::server().await;
        let (a, b, id) = filed_apart(&server).await;
        let other = Peer::device_of(&server, "Ada").await;
        round(&[&other, &a, &other]).await;
        let mut found = Vec::new();
        for peer in [&a, &b, &other] {
            let mut entries = open(peer).await;
            assert_eq!(entries.len(), 1, "{entries:?}");
            found.extend(entries.pop());
        }
        // One document, also where two devices of a member found the same.
        assert!(found.iter().all(|row| row.id == found[0].id));
        let workspace = a.replica.current_workspace().unwrap();
        let entry = &found[0].entry;
        let subject = entry.subject.as_ref().unwrap();
        assert_eq!(
            (subject.kind.as_str(), &subject.id),
            ("document", &id.to_string())
        );
        assert_eq!((entry.code.as_str(), entry.retryable), ("conflict", false));
        assert_eq!(entry.details["workspace"], workspace.to_string());
        assert_eq!(
            (&*entry.details["path"], &*entry.details["title"]),
            ("project", "Planning")
        );
        // Nobody has an inbox on the server.
        let on_server = server.replica.inbox().list(EntryFilter::All).await.unwrap();
        assert_eq!(on_server, []);

        let entry = found[0].id;
        let shown = b.replica.inbox().conflict(entry).await.unwrap().unwrap();
        assert_eq!(
            (shown.path.as_str(), &shown.base),
            ("project", &Some(json!(null)))
        );
        let of = |byte: u8| {
            let values = shown.values.iter();
            let mut values = values.filter(|of| of.value == json!(project(byte).to_string()));
            values.next().unwrap().clone()
        };
        let server_id = server.replica.device().peer_id;
        assert_eq!(of(1).origin, Some(ValueOrigin::Peer { peer: server_id }));
        assert_eq!(of(2).origin, Some(ValueOrigin::Here));
        assert!(
            shown
                .values
                .iter()
                .all(|of| of.at.is_some() && of.change.is_some())
        );
        let meeting = b.replica.meetings().show(id).await.unwrap().meeting;
        let now = shown.values.iter().find(|of| of.shown).unwrap();
        assert_eq!(now.value, json!(meeting.project.unwrap().to_string()));

        // Ben settles it, and it is gone for everybody.
        let choice = shown.values.iter().position(|of| !of.shown).unwrap();
        let refused = b
            .replica
            .inbox()
            .settle(entry, Choice::Keep)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), "bad_input");
        let refused = b
            .replica
            .inbox()
            .settle(entry, Choice::Value(3))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), "edit_refused");
        let settled = b
            .replica
            .inbox()
            .settle(entry, Choice::Value(choice + 1))
            .await;
        assert!(["settled", "cause_gone"].contains(&how(&settled.unwrap())));
        round(&[&b, &a, &other]).await;
        for peer in [&a, &b, &other] {
            assert_eq!(open(peer).await, []);
            let meeting = peer.replica.meetings().show(id).await.unwrap().meeting;
            assert_eq!(
                json!(meeting.project.unwrap().to_string()),
                shown.values[choice].value
            );
            assert_eq!(meeting.conflicts, []);
        }
        let gone = inbox(&a, EntryFilter::All).await;
        assert_eq!(gone.iter().map(how).collect::<Vec<_>>(), ["cause_gone"]);
        let again = b
            .replica
            .inbox()
            .settle(entry, Choice::Value(1))
            .await
            .unwrap_err();
        assert_eq!(again.code(), "bad_input");
    });
}

#[test]
fn what_is_discarded_stays_so_until_the_conflict_is_another() {
    run(async {
        let server = Peer::server().await;
        let (a, b, id) = filed_apart(&server).await;
        let first = open(&a).await[0].id;
        a.replica.inbox().discard(first).await.unwrap();
        // It is looked at again, here and after a restart, and says the same.
        edit(&b, id, |meeting| {
            meeting.append_note("about something else")
        })
        .await;
        round(&[&b, &a]).await;
        assert_eq!(open(&a).await, []);
        let a = a.reopen(Role::Device).await;
        edit(&b, id, |meeting| meeting.append_note("and again")).await;
        round(&[&b, &a]).await;
        assert_eq!(open(&a).await, []);
        // A third value makes another conflict of it.
        let c = Peer::device_of(&server, "Cyd").await;
        c.sync().await;
        edit(&b, id, |meeting| meeting.set_project(Some(project(3)))).await;
        edit(&c, id, |meeting| meeting.set_project(Some(project(4)))).await;
        round(&[&b, &c, &a]).await;
        let entries = open(&a).await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_ne!(entries[0].id, first);
        // What Ben chose settled what he had seen.
        let of_b = inbox(&b, EntryFilter::All).await;
        let old = of_b.iter().find(|row| row.id == first).unwrap();
        assert_eq!(how(old), "cause_gone");
        // Meanwhile somebody's edit makes nothing of the conflict, and nothing was to be told twice.
        edit(&c, id, |meeting| meeting.set_project(Some(project(5)))).await;
        round(&[&c, &a, &b]).await;
        for peer in [&a, &b, &c] {
            assert_eq!(open(peer).await, []);
        }
    });
}

#[test]
fn projects_and_a_members_active_one_are_told_of_and_not_those_of_others() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let other = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        for name in ["Apollo", "Zephyr"] {
            a.replica.projects().add(name).await.unwrap();
        }
        round(&[&a, &b, &other]).await;
        a.replica.projects().activate("Apollo").await.unwrap();
        other.replica.projects().activate("Zephyr").await.unwrap();
        round(&[&a, &other, &b]).await;
        let workspace = a.replica.current_workspace().unwrap();
        for peer in [&a, &other] {
            let entries = open(peer).await;
            assert_eq!(entries.len(), 1, "{entries:?}");
            let subject = entries[0].entry.subject.as_ref().unwrap();
            assert_eq!(
                (&*subject.kind, &subject.id),
                ("workspace", &workspace.to_string())
            );
        }
        assert_eq!(open(&b).await, [], "it is Ada's choice alone");
        // A choice as it is made every day settles it, too.
        other.replica.projects().activate("Apollo").await.unwrap();
        round(&[&other, &a]).await;
        assert_eq!(open(&a).await, []);

        a.replica.projects().rename("Zephyr", "Zeus").await.unwrap();
        b.replica.projects().rename("Zephyr", "Zara").await.unwrap();
        round(&[&a, &b]).await;
        for peer in [&a, &b] {
            let entries = open(peer).await;
            assert_eq!(entries.len(), 1, "{entries:?}");
            let path = &entries[0].entry.details["path"];
            assert!(
                path.starts_with("projects/") && path.ends_with("/name"),
                "{path}"
            );
            let shown = peer.replica.inbox().conflict(entries[0].id).await;
            assert_eq!(shown.unwrap().unwrap().base, Some(json!("Zephyr")));
        }
    });
}

#[test]
fn a_deletion_that_others_edits_outlived_is_told_and_settled() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let ids = [
            add(&a, "edited").await,
            add(&a, "recorded").await,
            add(&a, "gone").await,
        ];
        a.sync().await;
        b.sync().await;
        let said = |id: &str| Segment {
            id: id.to_owned(),
            start: 0,
            end: None,
            speaker: None,
            text: "Hello".to_owned(),
        };
        let meetings = b.replica.meetings();
        meetings
            .append_segments(ids[1], vec![said("seen")])
            .await
            .unwrap();
        round(&[&b, &a]).await;
        for id in ids {
            a.replica.meetings().delete(id).await.unwrap();
        }
        edit(&b, ids[0], |meeting| meeting.append_note("still needed")).await;
        // Of this one only a page changes, which is a document of its own.
        meetings
            .append_segments(ids[1], vec![said("unseen")])
            .await
            .unwrap();
        round(&[&a, &b]).await;
        let mut entries = open(&a).await;
        let about = |rows: &[EntryRow]| -> BTreeSet<String> {
            let subjects = rows.iter().filter_map(|row| row.entry.subject.clone());
            subjects.map(|subject| subject.id).collect()
        };
        let outlived = ids[..2].iter().map(ToString::to_string).collect();
        assert_eq!(about(&entries), outlived);
        assert_eq!(about(&open(&b).await), outlived);
        assert!(
            entries
                .iter()
                .all(|row| row.entry.code == "deletion_without_effect")
        );

        entries.sort_by_key(|row| row.entry.details["title"].clone());
        let inbox = a.replica.inbox();
        assert_eq!(inbox.conflict(entries[0].id).await.unwrap(), None);
        let refused = inbox
            .settle(entries[0].id, Choice::Value(1))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), "bad_input");
        inbox.settle(entries[0].id, Choice::Keep).await.unwrap();
        inbox.settle(entries[1].id, Choice::Delete).await.unwrap();
        round(&[&a, &b]).await;
        for peer in [&a, &b] {
            assert_eq!(open(peer).await, []);
            let page = peer
                .replica
                .meetings()
                .list(ListOptions::default())
                .await
                .unwrap();
            let listed: Vec<_> = page.meetings.iter().map(|row| row.id).collect();
            assert_eq!(listed, [ids[0]]);
            assert_eq!(page.meetings[0].deletion, None);
        }
    });
}

#[test]
fn a_storm_of_conflicts_is_bounded_and_the_rest_is_counted_and_comes_as_there_is_room() {
    run(async {
        const MORE: usize = 40;
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let mut ids = Vec::new();
        for n in 0..FINDINGS_OPEN_MAX + MORE {
            ids.push(add(&a, &format!("m{n}")).await);
        }
        round(&[&a, &b]).await;
        for id in &ids {
            edit(&a, *id, |meeting| meeting.set_project(Some(project(1)))).await;
            edit(&b, *id, |meeting| meeting.set_project(Some(project(2)))).await;
        }
        round(&[&a, &b]).await;
        let left_out = |rows: &[EntryRow]| {
            let told = rows.iter().find(|row| row.entry.code == "more_findings");
            told.map(|row| row.entry.details["left_out"].clone())
        };
        let conflicts = |rows: &[EntryRow]| {
            rows.iter()
                .filter(|row| row.entry.code == "conflict")
                .count()
        };
        let mut events = a.replica.events();
        // Every change of the inbox is an event.
        let mut rows = open(&a).await;
        while left_out(&rows) != Some(MORE.to_string()) {
            until(&mut events, |event| {
                matches!(event, ReplicaEvent::InboxEntry { .. })
            })
            .await;
            rows = open(&a).await;
        }
        assert_eq!(conflicts(&rows), FINDINGS_OPEN_MAX);

        // After a restart, too, there is room for as many as are seen to.
        let a = a.reopen(Role::Device).await;
        let mut events = a.replica.events();
        let first: Vec<_> = rows
            .iter()
            .filter(|row| row.entry.code == "conflict")
            .collect();
        for row in &first[..10] {
            a.replica.inbox().discard(row.id).await.unwrap();
        }
        let mut rows = open(&a).await;
        while left_out(&rows) != Some((MORE - 10).to_string()) {
            until(&mut events, |event| {
                matches!(event, ReplicaEvent::InboxEntry { .. })
            })
            .await;
            rows = open(&a).await;
        }
        assert_eq!(conflicts(&rows), FINDINGS_OPEN_MAX);
        assert!(
            first[..10]
                .iter()
                .all(|old| rows.iter().all(|row| row.id != old.id))
        );

        // Once all are settled, wherever that was, nothing is left of it.
        for id in &ids {
            edit(&b, *id, |meeting| meeting.set_project(Some(project(3)))).await;
        }
        round(&[&b, &a]).await;
        let mut rows = open(&a).await;
        while !rows.is_empty() {
            until(&mut events, |event| {
                matches!(event, ReplicaEvent::InboxEntry { .. })
            })
            .await;
            rows = open(&a).await;
        }
    });
}

#[test]
fn an_entry_that_was_purged_takes_no_room_from_others() {
    run(async {
        let server = Peer::server().await;
        let (a, b, id) = filed_apart(&server).await;
        let first = open(&a).await[0].id;
        a.replica.inbox().discard(first).await.unwrap();
        round(&[&a]).await;
        let home = a.replica.device().home;
        crate::purging::purge_ended(&server.replica, home, Duration::ZERO)
            .await
            .unwrap();
        round(&[&a]).await;
        assert_eq!(inbox(&a, EntryFilter::All).await, []);
        // Now nothing says that it was seen to.
        let a = a.reopen(Role::Device).await;
        assert_eq!(open(&a).await, []);
        a.replica.shared.findings.leave_room(1);
        edit(&a, id, |meeting| meeting.set_source("here")).await;
        edit(&b, id, |meeting| meeting.set_source("there")).await;
        round(&[&b, &a]).await;
        a.replica.wait_for_index(DEADLINE).await.unwrap();
        let filed = a.replica.shared.findings.filed(DEADLINE).await;
        assert!(filed, "it tries for ever");
        let entries = open(&a).await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(entries[0].entry.details["path"], "source");
    });
}

#[test]
fn a_damaged_document_is_told_until_it_is_healed() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        // Another's: what a device wrote itself, its journal may still have.
        let id = add(&b, "Planning").await;
        for note in ["one", "two", "three"] {
            edit(&b, id, move |meeting| meeting.append_note(note)).await;
        }
        let workspace = a.replica.current_workspace().unwrap();
        round(&[&b, &a]).await;
        let a = damage(a, Role::Device, |reader| {
            keys(reader, KeyRange::changes(&workspace, &id))[1..2].to_vec()
        })
        .await;
        let mut events = a.replica.events();
        drop(a.replica.meetings().show(id).await);
        until(&mut events, |event| {
            matches!(event, ReplicaEvent::InboxEntry { open: true, code, .. } if code == "document_damaged")
        })
        .await;
        let entries = open(&a).await;
        assert_eq!(entries.len(), 1, "{entries:?}");
        let subject = entries[0].entry.subject.as_ref().unwrap();
        assert_eq!((&*subject.kind, &subject.id), ("document", &id.to_string()));
        let device = a.replica.device().peer_id;
        assert_eq!(entries[0].entry.details["device"], device.to_string());
        // It is one entry after a restart, and nobody else's.
        let a = a.reopen(Role::Device).await;
        assert_eq!(open(&a).await.len(), 1);
        assert_eq!(open(&b).await, []);
        let mut events = a.replica.events();
        a.sync().await;
        until(&mut events, |event| is_healed(event, id)).await;
        assert_eq!(open(&a).await, []);
        let all = inbox(&a, EntryFilter::All).await;
        assert_eq!(all.iter().map(how).collect::<Vec<_>>(), ["cause_gone"]);
    });
}

#[test]
fn where_there_is_no_conflict_nothing_is_loaded_or_written_for_it() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        for n in 0..20 {
            add(&a, &format!("m{n}")).await;
        }
        a.sync().await;
        let before = b.replica.status().await.unwrap();
        let received = b.sync().await.documents_received;
        assert!(received >= 20, "{received}");
        assert_eq!(inbox(&b, EntryFilter::All).await, []);
        let after = b.replica.status().await.unwrap();
        let loaded = |of: &crate::Status| of.documents_materialised_by.values().sum::<u64>();
        assert_eq!(loaded(&after) - loaded(&before), received);
        let home = b.replica.device().home.to_string();
        let records = b.replica.records(Some(&home), None).await.unwrap();
        assert!(!records.by_kind.contains_key("Change"), "{records:?}");
    });
}
