//! Rows are true whatever was noted when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use reconvene_core::engine::Write;
use reconvene_core::keys::Key;
use reconvene_core::records::{IndexStateRow, Record as _};
use reconvene_core::storage::StoreRead as _;
use reconvene_model::{MEETING, Purpose};
use tokio::sync::broadcast;

use super::{Indexer, Parts};
use crate::documents::Documents;
use crate::findings::{Finder, Findings};
use crate::meetings::meeting_row;
use crate::replica::{STATE_VERSION, request_id};
use crate::tests::{Peer, run};
use crate::{NewMeeting, ReplicaEvent};

#[test]
fn nothing_is_said_to_be_indexed_whose_finding_is_not_filed() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let added = a.replica.meetings().add(NewMeeting::titled("before")).await;
        let id = added.unwrap().meeting.id;
        for peer in [&a, &b] {
            peer.sync().await;
        }
        let shared = &b.replica.shared;
        let workspace = b.replica.current_workspace().unwrap();
        let wait = b.replica.wait_for_index(Duration::from_secs(60));
        wait.await.unwrap();
        let indexed = shared.index.borrow().get(&workspace).copied().unwrap();
        for (peer, byte) in [(&a, 1), (&b, 2)] {
            let project = reconvene_model::ProjectId::from_bytes([byte; 16]);
            let edit =
                move |meeting: &mut crate::MeetingEditor<'_>| meeting.set_project(Some(project));
            peer.replica.meetings().edit(id, edit).await.unwrap();
        }
        for peer in [&a, &b] {
            peer.sync().await;
        }
        // As after a crash before anything was filed: the row is written and the place is the old one.
        let saved = || {
            let value = shared.reader.read(&Key::index_state(&workspace)).unwrap();
            IndexStateRow::decode(&value.unwrap()).unwrap()
        };
        let before = IndexStateRow {
            seq: indexed,
            ..saved()
        };
        let puts = vec![(Key::index_state(&workspace), before.encode())];
        b.replica.write(puts).await.unwrap();
        let finder = Finder {
            peer: shared.peer,
            member: b.replica.device().member,
            // An inbox that is empty, and where nobody files.
            home: reconvene_core::ids::WorkspaceId::from_bytes([7; 16]),
        };
        let findings = Arc::new(Findings::new(Some(finder)));
        for is_filed in [false, true] {
            let (events, _told) = broadcast::channel(16);
            let findings = match is_filed {
                false => Arc::clone(&findings),
                // Nobody looks for anything.
                true => Arc::new(Findings::new(None)),
            };
            let (mut indexer, _) = Indexer::new(Parts {
                subscriptions: Arc::default(),
                findings,
                reader: shared.reader.clone(),
                driver: shared.driver.clone(),
                documents: Arc::clone(&shared.documents),
                events,
                workspaces: BTreeSet::new(),
            });
            while indexer.round(workspace).await.unwrap() {}
            assert_eq!(saved().seq > indexed, is_filed);
        }
        assert!(!findings.is_filed());
    });
}

#[test]
fn a_row_holds_what_the_feed_names_though_nobody_noted_it_for_the_open_document() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let added = a.replica.meetings().add(NewMeeting::titled("before")).await;
        let id = added.unwrap().meeting.id;
        for peer in [&a, &b] {
            peer.sync().await;
        }
        // Documents of which nobody tells this indexer's: as if every note came too late.
        let shared = &b.replica.shared;
        let workspace = b.replica.current_workspace().unwrap();
        let documents = Arc::new(Documents::new(
            shared.reader.clone(),
            crate::limits::OPEN_BYTES_MAX,
        ));
        let mut lease = documents.lease(workspace, id).await;
        documents.load(&mut lease, Purpose::Edit).unwrap();
        documents.give_back(lease);
        let (events, mut told) = broadcast::channel(16);
        let (mut indexer, _) = Indexer::new(Parts {
            subscriptions: Arc::default(),
            findings: Arc::new(Findings::new(None)),
            reader: shared.reader.clone(),
            driver: shared.driver.clone(),
            documents: Arc::clone(&documents),
            events,
            workspaces: BTreeSet::new(),
        });
        let indexed = shared.index.borrow().get(&workspace).copied().unwrap();
        indexer.report(workspace, indexed);

        for tag in ["one", "two", "three"] {
            let edit = move |meeting: &mut crate::MeetingEditor<'_>| {
                meeting.set_title("after")?;
                meeting.add_tag(tag)
            };
            a.replica.meetings().edit(id, edit).await.unwrap();
        }
        for peer in [&a, &b] {
            peer.sync().await;
        }
        // Another indexer has written the row, and is done; it is this one's turn.
        b.replica
            .wait_for_index(Duration::from_secs(60))
            .await
            .unwrap();
        let key = Key::index(&workspace, MEETING, &id);
        let state = IndexStateRow {
            seq: indexed,
            state_version: STATE_VERSION,
            server_state_version: 0,
        };
        let removal = Write {
            request: request_id(),
            puts: vec![(Key::index_state(&workspace), state.encode())],
            deletes: vec![key.clone()],
        };
        shared.driver.write(removal).await.unwrap();
        let before = documents.counter().snapshot();
        while indexer.round(workspace).await.unwrap() {}
        let row = meeting_row(&shared.reader.read(&key).unwrap().unwrap()).unwrap();
        assert_eq!(row.title, "after");
        assert_eq!(row.tags, ["one", "three", "two"]);
        assert_eq!(documents.counter().snapshot(), before);
        assert_eq!(documents.apply_stats().batches, 1);
        let event = told.try_recv().unwrap();
        assert!(
            matches!(&event, ReplicaEvent::Changed { meetings, .. } if *meetings == [id]),
            "{event:?}"
        );
    });
}
