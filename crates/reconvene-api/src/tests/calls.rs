//! Single calls: what they do, what they refuse, and in which form.

use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Server, create, get, reason, run};
use crate::v1;

#[test]
fn a_meeting_is_made_changed_and_stopped_by_ordinary_changes() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let created = create(&mut client, "Planning").await;
        assert_eq!(created.resolved_project_id, None);
        assert_eq!(created.resolution(), v1::ProjectResolution::None);
        let id = created.meeting.unwrap().id;
        let project = server.replica.projects().add("Apollo").await.unwrap();
        let request = v1::UpdateMeetingRequest {
            meeting_id: id.clone(),
            notes: Some("Bring the figures.".to_owned()),
            add_tags: vec!["weekly".to_owned(), "draft".to_owned()],
            project: Some("Apollo".to_owned()),
            ..Default::default()
        };
        let updated = client.update_meeting(request).await.unwrap().into_inner();
        let updated = updated.meeting.unwrap();
        // What was not set is as it was.
        assert_eq!(updated.title, "Planning");
        assert_eq!(updated.notes, "Bring the figures.");
        assert_eq!(updated.tags, ["draft", "weekly"]);
        assert_eq!(updated.project_id, Some(project.id.to_string()));
        assert_eq!(updated.state(), v1::MeetingState::Created);
        let tags = vec!["weekly".to_owned(), "final".to_owned()];
        let request = v1::UpdateMeetingRequest {
            meeting_id: id.clone(),
            title: Some("Planning, done".to_owned()),
            notes: Some(String::new()),
            tags: Some(v1::Tags { tags }),
            project: Some(String::new()),
            ..Default::default()
        };
        let mut both = request.clone();
        both.add_tags = vec!["x".to_owned()];
        let refused = client.update_meeting(both).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let updated = client.update_meeting(request).await.unwrap().into_inner();
        let updated = updated.meeting.unwrap();
        assert_eq!(updated.title, "Planning, done");
        assert_eq!(updated.notes, "");
        assert_eq!(updated.tags, ["final", "weekly"]);
        assert_eq!(updated.project_id, None);
        let stop = v1::StopMeetingRequest {
            meeting_id: id.clone(),
            ..Default::default()
        };
        let once = client
            .stop_meeting(stop.clone())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            once.meeting.as_ref().unwrap().state(),
            v1::MeetingState::Stopped
        );
        let twice = client.stop_meeting(stop).await.unwrap().into_inner();
        assert_eq!(once, twice);
        // The replica holds what the calls answered, as changes like any other.
        let shown = server.replica.meetings().show(id.parse().unwrap()).await;
        let shown = shown.unwrap();
        assert_eq!(shown.meeting.title, "Planning, done");
        assert_eq!(shown.version, twice.meeting.unwrap().version);

        let request = v1::SetActiveProjectRequest {
            project: "Apollo".to_owned(),
            ..Default::default()
        };
        let active = client.set_active_project(request).await.unwrap();
        assert!(active.into_inner().project.unwrap().active);
        let created = create(&mut client, "Retrospective").await;
        assert_eq!(created.resolved_project_id, Some(project.id.to_string()));
        assert_eq!(created.resolution(), v1::ProjectResolution::Active);
        server.close().await;
    });
}

#[test]
fn failures_carry_their_code_and_what_to_do() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let unknown = "01890000-0000-7000-8000-000000000000";
        let refused = get(&mut client, unknown).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let details = refused.get_details_error_info().unwrap();
        assert_eq!(details.reason, "not_found");
        assert!(details.metadata["hint"].contains("list"), "{details:?}");
        assert!(refused.message().contains(unknown), "{refused:?}");
        let refused = get(&mut client, "no id").await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(reason(&refused), "bad_id");
        let request = v1::CreateMeetingRequest {
            project: Some("Gemini".to_owned()),
            ..Default::default()
        };
        let refused = client.create_meeting(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert_eq!(reason(&refused), "unknown_project");
        // Homes are for their members alone; other names are unknown.
        let home = server.replica.device().home.to_string();
        for (workspace, code) in [(home.as_str(), "bad_input"), ("nowhere", "not_found")] {
            let request = v1::CreateMeetingRequest {
                workspace: Some(workspace.to_owned()),
                ..Default::default()
            };
            let refused = client.create_meeting(request).await.unwrap_err();
            assert_eq!(reason(&refused), code);
        }
        let created = create(&mut client, "To go").await.meeting.unwrap();
        let meetings = server.replica.meetings();
        meetings.delete(created.id.parse().unwrap()).await.unwrap();
        let request = v1::StopMeetingRequest {
            meeting_id: created.id,
            ..Default::default()
        };
        let refused = client.stop_meeting(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason(&refused), "meeting_deleted");
        server.close().await;
    });
}

#[test]
fn lists_come_in_pages_and_filtered() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let mut made = Vec::new();
        for number in 0..7 {
            let title = format!("number {number}");
            made.push(create(&mut client, &title).await.meeting.unwrap().id);
        }
        made.reverse();
        let mut request = v1::ListMeetingsRequest {
            page_size: 3,
            ..Default::default()
        };
        let mut listed = Vec::new();
        let mut sizes = Vec::new();
        loop {
            let page = client.list_meetings(request.clone()).await.unwrap();
            let page = page.into_inner();
            sizes.push(page.meetings.len());
            listed.extend(page.meetings.into_iter().map(|meeting| meeting.id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert_eq!(sizes, [3, 3, 1]);
        assert_eq!(listed, made);
        let request = v1::ListMeetingsRequest {
            text: Some("NUMBER 4".to_owned()),
            states: vec![v1::MeetingState::Created.into()],
            ..Default::default()
        };
        let page = client.list_meetings(request).await.unwrap().into_inner();
        assert_eq!(page.meetings.len(), 1);
        assert_eq!(page.meetings[0].title, "number 4");
        assert_eq!(page.freshness.unwrap().state(), v1::freshness::State::Local);
        for request in [
            v1::ListMeetingsRequest {
                page_size: 1001,
                ..Default::default()
            },
            v1::ListMeetingsRequest {
                page_token: "x".to_owned(),
                ..Default::default()
            },
            v1::ListMeetingsRequest {
                states: vec![99],
                ..Default::default()
            },
        ] {
            let refused = client.list_meetings(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        server.close().await;
    });
}

#[test]
fn a_message_over_the_limit_is_refused_and_the_connection_goes_on() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let request = v1::CreateMeetingRequest {
            title: "x".repeat(crate::limits::REQUEST_BYTES_MAX + 1),
            ..Default::default()
        };
        let refused = client.create_meeting(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        create(&mut client, "small enough").await;
        server.close().await;
    });
}

#[test]
fn numbers_of_fields_that_clients_rely_on_stay() {
    use prost::Message as _;

    let info = v1::GetServerInfoResponse {
        state_version: 1,
        ..Default::default()
    };
    // Field 10, a varint.
    assert_eq!(info.encode_to_vec(), [10 << 3, 1]);
    let created = v1::CreateMeetingResponse {
        meeting: Some(v1::Meeting::default()),
        resolved_project_id: Some("p".to_owned()),
        ..Default::default()
    };
    // Fields 1 and 2, each with a length.
    assert_eq!(
        created.encode_to_vec(),
        [1 << 3 | 2, 0, 2 << 3 | 2, 1, b'p']
    );
    let status = v1::GetSyncStatusResponse {
        status: v1::SyncStatus::NotFound.into(),
        expires_at: Some(prost_types::Timestamp::default()),
        not_found_reason: v1::NotFoundReason::NeverExisted.into(),
        ..Default::default()
    };
    // Fields 1 and 11, varints, and 10, with a length.
    assert_eq!(
        status.encode_to_vec(),
        [1 << 3, 5, 10 << 3 | 2, 0, 11 << 3, 2]
    );
}
