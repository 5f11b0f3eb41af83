//! Compaction on real stores and links: what it saves, what it never touches, and who comes after.

use std::num::NonZeroU64;

use automerge::legacy::{Key as OperationKey, ObjectId, Op, OpId, OpType, SortedVec};
use automerge::{ActorId, Change, ExpandedChange};
use reconvene_core::engine::{Edit, EditedDocument};
use reconvene_core::ids::DocumentId;

use super::{Peer, run};
use crate::replica::request_id;
use crate::{NewMeeting, Role};

/// Types into a meeting's notes, one durable change per keystroke.
async fn type_notes(peer: &Peer, meeting: DocumentId, text: &str) {
    let meetings = peer.replica.meetings();
    let mut written = Vec::new();
    for letter in text.chars() {
        let letter = letter.to_string();
        written.push(meetings.edit(meeting, move |meeting| meeting.append_note(&letter)));
        // As many at once as share a barrier.
        if written.len() == 256 {
            for edit in written.drain(..) {
                edit.await.unwrap();
            }
        }
    }
    for edit in written {
        edit.await.unwrap();
    }
}

async fn meeting(peer: &Peer) -> DocumentId {
    let added = peer
        .replica
        .meetings()
        .add(NewMeeting::titled("Typed"))
        .await;
    added.unwrap().meeting.id
}

async fn compact(peer: &Peer) -> crate::CompactReport {
    peer.replica.compact(None).await.unwrap()
}

#[test]
fn twenty_thousand_keystrokes_compact_to_under_5_kb_everywhere_and_reach_a_fourth_device_whole() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let id = meeting(&a).await;
        let line = "The figures are to be sent by Friday, and Ada presents them. ";
        let text: String = line.chars().cycle().take(20_000).collect();
        type_notes(&a, id, &text).await;
        a.sync().await;
        b.sync().await;
        let before = a.replica.export(None).await.unwrap();
        assert_eq!(b.replica.export(None).await.unwrap(), before);
        for peer in [&a, &b, &server] {
            let report = compact(peer).await;
            assert!(
                report.kept.is_empty() && report.held.is_empty(),
                "{report:?}"
            );
            let uses = peer.replica.records(None, Some(id)).await.unwrap();
            assert!(uses.total.bytes < 5_000, "{uses:?}");
            assert_eq!(peer.replica.export(None).await.unwrap(), before);
        }
        let fourth = Peer::device_of(&server, "Cleo").await;
        let report = fourth.sync().await;
        assert!(report.bytes_received < 20_000, "{report:?}");
        assert_eq!(fourth.replica.export(None).await.unwrap(), before);
        let uses = fourth.replica.records(None, Some(id)).await.unwrap();
        assert!(uses.total.bytes < 5_000, "{uses:?}");
        // All of it survives closing, and everyone can go on.
        let fourth = fourth.reopen(Role::Device).await;
        type_notes(&fourth, id, "From the fourth. ").await;
        type_notes(&b, id, "From B. ").await;
        fourth.sync().await;
        b.sync().await;
        a.sync().await;
        fourth.sync().await;
        let after = server.replica.export(None).await.unwrap();
        assert!(after.contains("From the fourth. ") && after.contains("From B. "));
        for peer in [&a, &b, &fourth] {
            assert_eq!(peer.replica.export(None).await.unwrap(), after);
        }
    });
}

/// A change that passes the guard and can be applied, and that automerge cannot save again: it
/// deletes what never existed.
fn unsavable(dependencies: Vec<automerge::ChangeHash>, start_op: u64) -> Vec<u8> {
    let actor = ActorId::from([0xee; 16]);
    let mut change = Change::from(ExpandedChange {
        operations: vec![Op {
            action: OpType::Delete,
            obj: ObjectId::Root,
            key: OperationKey::Map("odd".into()),
            pred: SortedVec::from(vec![OpId(2, actor.clone())]),
            insert: false,
        }],
        actor_id: actor,
        hash: None,
        seq: 1,
        start_op: NonZeroU64::new(start_op).unwrap(),
        time: 0,
        message: None,
        deps: dependencies,
        extra_bytes: Vec::new(),
        author: None,
    });
    change.bytes().into_owned()
}

#[test]
fn a_document_that_automerge_cannot_save_is_kept_reported_and_still_syncs() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let id = meeting(&a).await;
        type_notes(&a, id, "Before. ").await;
        let workspace = a.replica.current_workspace().unwrap();
        let genesis = reconvene_model::genesis(reconvene_model::MEETING).unwrap();
        let odd = unsavable(
            vec![automerge::ChangeHash(*genesis.hash.as_bytes())],
            genesis.max_op + 1,
        );
        let edit = Edit {
            request: request_id(),
            workspace,
            documents: vec![EditedDocument {
                document: id,
                kind: reconvene_model::MEETING,
                changes: vec![odd.into()],
            }],
            rows: Vec::new(),
        };
        let stored = a.replica.shared.driver.edit(edit).await.unwrap();
        stored.await.unwrap().unwrap();
        a.sync().await;
        b.sync().await;
        let before = a.replica.records(None, Some(id)).await.unwrap();
        for peer in [&a, &b, &server] {
            let report = compact(peer).await;
            assert_eq!(report.kept.len(), 1, "{report:?}");
            assert_eq!(report.kept[0].document, id);
            assert!(
                report.kept[0].why.contains("cannot load again"),
                "{report:?}"
            );
        }
        let after = a.replica.records(None, Some(id)).await.unwrap();
        assert_eq!(after.by_kind["Change"], before.by_kind["Change"]);
        assert!(!after.by_kind.contains_key("Snapshot"), "{after:?}");
        // It is edited, syncs, and reaches a newcomer, change by change.
        type_notes(&b, id, "After. ").await;
        b.sync().await;
        a.sync().await;
        let newcomer = Peer::device_of(&server, "Cleo").await;
        newcomer.sync().await;
        let all = server.replica.export(None).await.unwrap();
        assert!(
            all.contains("Before. After. ") || all.contains("After. Before. "),
            "{all}"
        );
        for peer in [&a, &b, &newcomer] {
            assert_eq!(peer.replica.export(None).await.unwrap(), all);
        }
    });
}

#[test]
fn a_document_compacts_by_itself_once_it_has_grown_and_the_server_holds_it() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let id = meeting(&a).await;
        let text: String = "again and again ".chars().cycle().take(600).collect();
        type_notes(&a, id, &text).await;
        // Nobody else holds it: it stays as it is.
        a.sync().await;
        let compacted = async {
            loop {
                let uses = a.replica.records(None, Some(id)).await.unwrap();
                let left = uses.by_kind.get("Change").map_or(0, |left| left.records);
                if uses.by_kind.contains_key("Snapshot") && left < 256 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), compacted)
            .await
            .expect("it is compacted within a minute");
        let export = a.replica.export(None).await.unwrap();
        assert_eq!(export, server.replica.export(None).await.unwrap());
    });
}

#[test]
fn a_home_with_snapshots_merges_into_the_one_a_ticket_brings() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::new(Role::Device).await;
        let id = meeting(&a).await;
        type_notes(&a, id, "Offline, before anybody joined. ").await;
        let report = compact(&a).await;
        assert_eq!(
            report.compacted, 1,
            "nobody follows, nobody waits: {report:?}"
        );
        let before = a.replica.export(None).await.unwrap();
        a.replica.join(&server.ticket("Ada").await).await.unwrap();
        a.sync().await;
        assert!(before.contains("Offline, before anybody joined."));
        let home = a.replica.device().home.to_string();
        let now = a.replica.export(Some(&home)).await;
        let server_home = server.replica.export(Some(&home)).await;
        assert_eq!(now.unwrap(), server_home.unwrap());
    });
}

#[test]
fn a_purged_meeting_is_gone_everywhere_but_where_a_late_edit_of_it_waits() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let late = Peer::device_of(&server, "Cleo").await;
        let id = meeting(&a).await;
        let kept = meeting(&a).await;
        type_notes(&a, id, "To be deleted.").await;
        for device in [&a, &b, &late] {
            device.sync().await;
            // Open there, and shown.
            device.replica.meetings().show(id).await.unwrap();
        }
        type_notes(&late, id, " Not yet!").await;
        let workspace = server.replica.current_workspace().unwrap().to_string();
        let purge = |documents| server.replica.purge_documents(&workspace, documents);
        assert_eq!(purge(vec![id]).await.unwrap(), 1);
        assert_eq!(purge(vec![id]).await.unwrap(), 0, "it is already");
        let own = purge(vec![reconvene_model::WORKSPACE_DOCUMENT]).await;
        assert_eq!(own.unwrap_err().code(), "bad_input");
        for device in [&a, &b, &late] {
            device.sync().await;
        }
        for peer in [&a, &b, &server] {
            let meetings = peer.replica.meetings();
            assert_eq!(
                meetings.show(id).await.unwrap_err().code(),
                "document_deleted"
            );
            let edited = meetings.edit(id, |meeting| meeting.append_note("more"));
            assert_eq!(edited.await.unwrap_err().code(), "document_deleted");
            let listed = meetings.list(crate::ListOptions::default()).await.unwrap();
            let listed: Vec<_> = listed.meetings.iter().map(|row| row.id).collect();
            assert_eq!(listed, [kept]);
            let exported = peer.replica.export(None).await.unwrap();
            assert!(!exported.contains(&id.to_string()));
            let report = compact(peer).await;
            assert!(report.held.is_empty(), "{report:?}");
            let again = compact(peer).await;
            assert_eq!(again.compacted, 0, "nothing is left: {again:?}");
        }
        let shown = late.replica.meetings().show(id).await.unwrap();
        let text = serde_json::to_string(&shown).unwrap();
        assert!(text.contains("Not yet!"), "it waits with its author");
        let b = b.reopen(Role::Device).await;
        let gone = b.replica.meetings().show(id).await.unwrap_err();
        assert_eq!(gone.code(), "document_deleted");
    });
}
