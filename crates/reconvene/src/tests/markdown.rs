//! Meetings as Markdown: the same bytes on every replica, nothing that is deleted.

use reconvene_core::ids::DocumentId;

use super::{Peer, run};
use crate::{Error, NewMeeting, captions};

const VTT: &[u8] = include_bytes!("../../../../examples/captions/kickoff.vtt");

#[test]
fn meetings_are_written_alike_wherever_the_same_is_held_and_not_once_they_are_deleted() {
    run(async {
        let server = Peer::server().await;
        let a = Peer::device_of(&server, "Ada").await;
        let b = Peer::device_of(&server, "Ben").await;
        let (on_a, on_b) = (a.replica.meetings(), b.replica.meetings());
        assert_eq!(
            on_a.export_markdown(None).await.unwrap(),
            "*No meetings.*\n"
        );

        let project = a.replica.projects().add("Apollo").await.unwrap();
        a.replica.projects().activate("Apollo").await.unwrap();
        let imported = captions::parse_vtt("kickoff.vtt", VTT).unwrap();
        let kickoff = on_a.import(imported).await.unwrap();
        let added = on_a.add(NewMeeting::titled("# Next")).await.unwrap();
        let next = added.meeting.id;
        a.sync().await;
        b.sync().await;

        let all = on_a.export_markdown(None).await.unwrap();
        assert_eq!(on_b.export_markdown(None).await.unwrap(), all);
        let one = on_b.export_markdown(Some(kickoff)).await.unwrap();
        for line in [
            "# kickoff\n",
            "- project: Apollo\n",
            "- participants: Ada Byron, Charles Babbage, R\\&D \\<remote\\>\n",
            "`00:00:02` **Charles Babbage:** Yes, with the 2 \\< 3 question.\n",
            "`123:00:00` **Ada Byron:** Still here.\n",
        ] {
            assert!(one.contains(line), "{line} in {one}");
        }
        let second = on_a.export_markdown(Some(next)).await.unwrap();
        assert!(second.starts_with("# \\# Next\n"), "{second}");
        assert_eq!(all, format!("{one}\n* * *\n\n{second}"));

        on_b.delete(kickoff).await.unwrap();
        b.sync().await;
        a.sync().await;
        assert_eq!(on_a.export_markdown(None).await.unwrap(), second);
        assert_eq!(on_b.export_markdown(None).await.unwrap(), second);
        let error = on_a.export_markdown(Some(kickoff)).await.unwrap_err();
        assert!(
            matches!(error, Error::MeetingDeleted { id } if id == kickoff),
            "{error}"
        );
        // Neither what is not there, nor what is no meeting.
        let exported = a.replica.export(None).await.unwrap();
        let exported: serde_json::Value = serde_json::from_str(&exported).unwrap();
        let documents = exported["documents"].as_array().unwrap().iter();
        let other = documents.filter(|document| document["kind"] != "meeting");
        let mut others: Vec<DocumentId> = other
            .map(|document| document["id"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(others.len() >= 2, "{exported}");
        others.push(DocumentId::from_bytes([9; 16]));
        for id in others {
            let error = on_a.export_markdown(Some(id)).await.unwrap_err();
            assert_eq!(error.code(), "not_found", "{id}: {error}");
        }
        a.replica
            .projects()
            .rename("Apollo", "Soyuz")
            .await
            .unwrap();
        let renamed = on_a.export_markdown(Some(next)).await.unwrap();
        assert!(
            renamed.contains("- project: Soyuz\n"),
            "{project:?}: {renamed}"
        );
    });
}
