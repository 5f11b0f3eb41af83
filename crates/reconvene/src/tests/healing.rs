//! Damaged records of real stores, met while they are used.

use std::time::Duration;

use reconvene_core::ids::{DocumentId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::storage::{Scan, StoreRead as _, StoreWrite as _};
use reconvene_model::MEETING as MEETING_KIND;
use reconvene_sled::{SledReader, open_data_dir, open_store};
use tokio::time::timeout;

use super::{Peer, run};
use crate::{Events, NewMeeting, ReplicaEvent, Role};

const DEADLINE: Duration = Duration::from_secs(60);

/// Closes a peer's store, lets records of it rot, and opens it again.
pub(super) async fn damage(
    peer: Peer,
    role: Role,
    keys: impl FnOnce(&SledReader) -> Vec<Key>,
) -> Peer {
    peer.replica.close().await.unwrap();
    let mut store = open_store(&open_data_dir(peer.dir.path()).unwrap())
        .unwrap()
        .store;
    let keys = keys(&store.reader());
    assert!(!keys.is_empty());
    for key in keys {
        assert!(store.rot(&key).unwrap(), "{key:?}");
    }
    store.close().unwrap();
    let options = crate::OpenOptions::new(peer.dir.path()).role(role);
    let replica = options.open().await.unwrap();
    let dir = peer.dir;
    Peer { dir, replica }
}

pub(super) fn keys(reader: &SledReader, range: KeyRange) -> Vec<Key> {
    let rows = reader.scan(&Scan::ascending(range, 10_000)).unwrap().rows;
    rows.into_iter().map(|(key, _)| key).collect()
}

pub(super) async fn until(events: &mut Events, wanted: impl Fn(&ReplicaEvent) -> bool) {
    let waited = timeout(DEADLINE, async {
        while !wanted(&events.next().await.unwrap()) {}
    });
    waited.await.unwrap();
}

fn is_damaged(event: &ReplicaEvent, id: DocumentId) -> bool {
    matches!(event, ReplicaEvent::DocumentDamaged { document, .. } if *document == id)
}

pub(super) fn is_healed(event: &ReplicaEvent, id: DocumentId) -> bool {
    matches!(event, ReplicaEvent::DocumentHealed { document, .. } if *document == id)
}

/// Meetings with some notes each.
async fn meetings(peer: &Peer) -> Vec<DocumentId> {
    let meetings = peer.replica.meetings();
    let mut ids = Vec::new();
    for n in 0..6 {
        let title = format!("Meeting {n}");
        let id = meetings.add(NewMeeting::titled(&title)).await;
        let id = id.unwrap().meeting.id;
        for note in ["one", "two", "three"] {
            let edit = meetings.edit(id, move |meeting| meeting.append_note(note));
            edit.await.unwrap();
        }
        ids.push(id);
    }
    ids
}

async fn damaged_documents(peer: &Peer, workspace: WorkspaceId) -> Vec<DocumentId> {
    let status = peer.replica.status().await.unwrap();
    let mut workspaces = status.workspaces.iter();
    let workspace = workspaces.find(|of| of.id == workspace).unwrap();
    workspace.damaged.iter().map(|of| of.document).collect()
}

#[test]
fn a_running_server_syncs_past_one_damaged_document_and_heals_it_from_a_device() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let workspace = a.replica.device().current.unwrap();
        let ids = meetings(&a).await;
        let hit = ids[2];
        a.sync().await;
        let server = damage(server, Role::Server, |reader| {
            let changes = keys(reader, KeyRange::changes(&workspace, &hit));
            assert!(changes.len() > 3);
            changes[1..3].to_vec()
        })
        .await;
        let mut events = server.replica.events();
        server.replica.listen(&[]).await.unwrap();

        // Nobody has the rest of it just now. Everything else comes.
        b.sync().await;
        until(&mut events, |event| is_damaged(event, hit)).await;
        b.sync().await;
        for id in ids.iter().filter(|id| **id != hit) {
            let there = b.replica.meetings().show(*id).await.unwrap();
            let here = a.replica.meetings().show(*id).await.unwrap();
            assert_eq!(there.meeting, here.meeting);
        }
        assert_eq!(damaged_documents(&server, workspace).await, [hit]);
        let report = server.replica.verify(None).await.unwrap();
        let mut damaged = report.damaged.iter();
        assert!(
            damaged
                .any(|damage| damage.document == Some(hit) && damage.record.starts_with("Damage/")),
            "{report:?}"
        );

        a.sync().await;
        until(&mut events, |event| is_healed(event, hit)).await;
        let whole = a.replica.export(None).await.unwrap();
        assert_eq!(server.replica.export(None).await.unwrap(), whole);
        // What was refused for want of the rest is asked for again while a link is up.
        let mut news = b.replica.events();
        b.replica.connect().await.unwrap();
        let caught_up = timeout(DEADLINE, async {
            while b.replica.export(None).await.unwrap() != whole {
                news.next().await.unwrap();
            }
        });
        caught_up.await.unwrap();
        assert!(damaged_documents(&server, workspace).await.is_empty());
        let report = server.replica.verify(None).await.unwrap();
        assert!(report.intact, "{report:?}");
        assert!(
            !keys(
                &server.replica.shared.reader,
                KeyRange::quarantined(&workspace)
            )
            .is_empty(),
            "the damaged bytes are kept"
        );
    });
}

#[test]
fn a_device_heals_the_meetings_it_meets_damaged_and_makes_index_rows_anew() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let workspace = a.replica.device().current.unwrap();
        let ids = meetings(&a).await;
        a.sync().await;
        let whole = a.replica.export(None).await.unwrap();
        let a = damage(a, Role::Device, |reader| {
            let changes = keys(reader, KeyRange::changes(&workspace, &ids[0]));
            let index = Key::index(&workspace, MEETING_KIND, &ids[3]);
            let feed = keys(reader, KeyRange::feed(&workspace));
            let mut damaged = changes[..2].to_vec();
            damaged.push(Key::head(&workspace, &ids[1]));
            damaged.push(index);
            damaged.push(feed[feed.len() / 2].clone());
            damaged
        })
        .await;
        let mut events = a.replica.events();
        // A list meets the index row, and then is whole again; opening meets the others.
        let meetings = a.replica.meetings();
        let listed = timeout(DEADLINE, async {
            loop {
                if let Ok(page) = meetings.list(crate::ListOptions::default()).await
                    && page.meetings.len() == ids.len()
                {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        listed.await.unwrap();
        assert!(meetings.show(ids[0]).await.is_err());
        // Whoever looked for the index row may have met this one already.
        drop(meetings.show(ids[1]).await);
        drop(meetings);
        until(&mut events, |event| is_healed(event, ids[1])).await;
        a.sync().await;
        a.sync().await;
        assert_eq!(a.replica.export(None).await.unwrap(), whole);
        assert!(damaged_documents(&a, workspace).await.is_empty());
        let report = a.replica.verify(None).await.unwrap();
        assert!(report.intact, "{report:?}");
    });
}
