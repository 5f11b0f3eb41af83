//! Real clients over loopback against services of a real replica.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reconvene::{NewMeeting, OpenOptions, Replica, Role};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_types::StatusExt as _;

use crate::v1::event::Happened;
use crate::v1::reconvene_client::ReconveneClient;
use crate::v1::{self, Segment};
use crate::{ApiOptions, Error, MonitorOptions, Services};

/// How long anything may take; far more than it does, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

type Guard = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;
type Client = ReconveneClient<InterceptedService<Channel, Guard>>;

/// A server's replica and its services.
struct Server {
    directory: TempDir,
    replica: Replica,
    services: Services,
    api: SocketAddr,
}

const LOOPBACK: &str = "127.0.0.1:0";

impl Server {
    async fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    async fn open(directory: TempDir) -> Self {
        let open = OpenOptions::new(directory.path().join("data"));
        let replica = open.role(Role::Server).open().await.unwrap();
        replica.ensure_shared_workspace().await.unwrap();
        let mut services = Services::new(&replica);
        let options = ApiOptions {
            address: LOOPBACK.parse().unwrap(),
            exposed: false,
            token_file: directory.path().join("api.token"),
        };
        let api = services.offer_api(&options).await.unwrap();
        Self {
            directory,
            replica,
            services,
            api,
        }
    }

    fn token_file(&self) -> PathBuf {
        self.directory.path().join("api.token")
    }

    fn token(&self) -> String {
        let text = std::fs::read_to_string(self.token_file()).unwrap();
        text.trim().to_owned()
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.api)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// A client that sends these headers.
    async fn client_with(&self, authorization: Vec<String>) -> Client {
        let guard: Guard = Box::new(move |mut request| {
            for value in &authorization {
                let value = MetadataValue::try_from(value).unwrap();
                request.metadata_mut().append("authorization", value);
            }
            Ok(request)
        });
        ReconveneClient::with_interceptor(self.channel().await, guard)
    }

    async fn client(&self) -> Client {
        let authorization = format!("Bearer {}", self.token());
        self.client_with(vec![authorization]).await
    }

    async fn close(self) -> TempDir {
        self.services.close().await;
        self.replica.close().await.unwrap();
        self.directory
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// The stable code that a status carries.
fn reason(status: &Status) -> String {
    let details = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(details.domain, "reconvene");
    details.reason
}

async fn create(client: &mut Client, title: &str) -> v1::CreateMeetingResponse {
    let request = v1::CreateMeetingRequest {
        title: title.to_owned(),
        ..Default::default()
    };
    client.create_meeting(request).await.unwrap().into_inner()
}

async fn get(client: &mut Client, id: &str) -> Result<v1::GetMeetingResponse, Status> {
    let request = v1::GetMeetingRequest {
        meeting_id: id.to_owned(),
        with_transcript: true,
        ..Default::default()
    };
    Ok(client.get_meeting(request).await?.into_inner())
}

#[test]
fn only_who_shows_the_token_is_let_in_and_health_is_told_to_all() {
    run(async {
        let server = Server::new().await;
        let token = server.token();
        let mut wrong = token.clone();
        wrong.replace_range(63.., if token.ends_with('0') { "1" } else { "0" });
        let bearer = |token: &str| format!("Bearer {token}");
        for shown in [
            vec![],
            vec![String::new()],
            vec![token.clone()],
            vec![bearer("")],
            vec![bearer(&wrong)],
            vec![bearer(&token[..63])],
            vec![bearer(&format!("{token}0"))],
            vec![format!("Basic {token}")],
            vec![bearer(&token), bearer(&wrong)],
        ] {
            let mut client = server.client_with(shown.clone()).await;
            let request = v1::GetServerInfoRequest {};
            let refused = client.get_server_info(request).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{shown:?}");
            assert_eq!(reason(&refused), "unauthenticated");
        }
        let mut client = server.client().await;
        let info = client.get_server_info(v1::GetServerInfoRequest {}).await;
        let info = info.unwrap().into_inner();
        let status = server.replica.status().await.unwrap();
        assert_eq!(info.peer_id, status.device.peer_id.to_string());
        assert_eq!(info.state_version, i64::from(status.state_version));
        assert!(info.state_version > 0);
        assert_eq!(info.workspaces.len(), 1);
        assert!(info.workspaces[0].current);

        let mut health = HealthClient::new(server.channel().await);
        for service in ["", "reconvene.api.v1.Reconvene"] {
            let service = service.to_owned();
            let told = health.check(HealthCheckRequest { service }).await.unwrap();
            assert_eq!(told.into_inner().status(), ServingStatus::Serving);
        }
        let reflected = services(&server, None).await.unwrap_err();
        assert_eq!(reflected.code(), Code::Unauthenticated);
        let reflected = services(&server, Some(&token)).await.unwrap();
        let Some(MessageResponse::ListServicesResponse(listed)) = reflected.message_response else {
            panic!("{reflected:?}");
        };
        let names = listed.service.iter().map(|service| service.name.as_str());
        let names: Vec<_> = names.collect();
        assert!(names.contains(&"reconvene.api.v1.Reconvene"), "{names:?}");
        server.close().await;
    });
}

/// What reflection says there is.
async fn services(
    server: &Server,
    token: Option<&str>,
) -> Result<ServerReflectionResponse, Status> {
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut request = Request::new(futures::stream::iter([asked]));
    if let Some(token) = token {
        let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = ServerReflectionClient::new(server.channel().await);
    let mut answers = client.server_reflection_info(request).await?.into_inner();
    Ok(answers.message().await?.expect("an answer"))
}

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

fn message(meeting: &str, numbers: std::ops::Range<usize>) -> v1::AppendSegmentsRequest {
    let segments = numbers.map(|number| Segment {
        id: format!("segment {number}"),
        start_ms: number as i64,
        end_ms: Some(number as i64 + 1),
        speaker: None,
        text: format!("sentence {number}"),
    });
    v1::AppendSegmentsRequest {
        meeting_id: meeting.to_owned(),
        segments: segments.collect(),
        ..Default::default()
    }
}

#[test]
fn segments_that_are_sent_again_after_a_cut_are_kept_once() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let id = create(&mut client, "Recorded").await.meeting.unwrap().id;
        // The sender goes away in the middle: what it sent may be there or not.
        let (sender, receiver) = futures::channel::mpsc::channel(4);
        let mut cut = server.client().await;
        let call = tokio::spawn(async move { cut.append_segments(receiver).await });
        let mut sender = sender;
        use futures::SinkExt as _;
        sender.send(message(&id, 0..10)).await.unwrap();
        let stored = async {
            loop {
                let shown = get(&mut client, &id).await.unwrap();
                if shown.pages.iter().any(|page| page.segments.len() == 10) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, stored).await.unwrap();
        call.abort();
        drop(sender);
        let all = [
            message(&id, 0..10),
            message("", 10..25),
            message("", 25..30),
        ];
        let sent = client.append_segments(futures::stream::iter(all)).await;
        let sent = sent.unwrap().into_inner();
        assert_eq!((sent.added, sent.present), (20, 10));
        assert_eq!(sent.differing_ids, Vec::<String>::new());
        let mut other = message(&id, 7..8);
        other.segments[0].text = "something else".to_owned();
        let sent = client.append_segments(futures::stream::iter([other])).await;
        assert_eq!(sent.unwrap().into_inner().differing_ids, ["segment 7"]);
        let shown = get(&mut client, &id).await.unwrap();
        assert_eq!(shown.pages.len(), 1);
        assert_eq!(shown.pages[0].segments, message("", 0..30).segments);
        let mixed = [
            message(&id, 0..1),
            message("01890000-0000-7000-8000-000000000000", 1..2),
        ];
        let refused = client.append_segments(futures::stream::iter(mixed)).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        let none = client.append_segments(futures::stream::iter([])).await;
        assert_eq!(none.unwrap_err().code(), Code::InvalidArgument);
        server.close().await;
    });
}

async fn watch(
    client: &mut Client,
    cursor: Option<String>,
) -> Result<Streaming<v1::Event>, Status> {
    let request = v1::WatchEventsRequest {
        cursor,
        ..Default::default()
    };
    let mut events = client.watch_events(request).await?.into_inner();
    let begun = next(&mut events).await?;
    assert!(matches!(begun.happened, Some(Happened::Begun(_))));
    Ok(events)
}

async fn next(events: &mut Streaming<v1::Event>) -> Result<v1::Event, Status> {
    let next = tokio::time::timeout(DEADLINE, events.message()).await;
    next.expect("an event in time")
        .map(|event| event.expect("the watch goes on"))
}

/// Reads on until all these meetings changed, and yields where that leads.
async fn until(events: &mut Streaming<v1::Event>, ids: &[&str]) -> String {
    let mut waited_for: Vec<_> = ids.iter().map(ToString::to_string).collect();
    loop {
        let event = next(events).await.unwrap();
        let Some(Happened::Changed(changed)) = event.happened else {
            panic!("{event:?}");
        };
        waited_for.retain(|id| !changed.meeting_ids.contains(id));
        if waited_for.is_empty() {
            return event.cursor;
        }
    }
}

#[test]
fn a_watch_goes_on_from_its_cursor_across_a_reconnect_and_a_restart() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let mut events = watch(&mut client, None).await.unwrap();
        let first = create(&mut client, "first").await.meeting.unwrap().id;
        let cursor = until(&mut events, &[&first]).await;
        drop(events);
        let missed = create(&mut client, "missed").await.meeting.unwrap().id;
        let one = message(&first, 0..1);
        client
            .append_segments(futures::stream::iter([one]))
            .await
            .unwrap();
        let mut events = watch(&mut client, Some(cursor.clone())).await.unwrap();
        until(&mut events, &[&missed, &first]).await;
        drop(events);

        // The server stops in order: the watch is told to come again, and does.
        let mut events = watch(&mut client, None).await.unwrap();
        let closed = tokio::spawn(server.close());
        let ended = next(&mut events).await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
        let server = Server::open(closed.await.unwrap()).await;
        let mut client = server.client().await;
        let added = NewMeeting::titled("by the replica");
        let added = server.replica.meetings().add(added).await.unwrap();
        let mut events = watch(&mut client, Some(cursor.clone())).await.unwrap();
        until(&mut events, &[&added.meeting.id.to_string()]).await;
        drop(events);

        // Another history of the same workspace: the epoch is another one.
        let mut other = cursor.clone();
        other.replace_range(34..36, if &cursor[34..36] == "00" { "01" } else { "00" });
        let refused = watch(&mut client, Some(other)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason(&refused), "other_history");
        let details = refused.get_details_error_info().unwrap();
        assert!(
            details.metadata["hint"].contains("list anew"),
            "{details:?}"
        );
        let refused = watch(&mut client, Some("nothing".to_owned())).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
        server.close().await;
    });
}

#[test]
fn no_more_streams_are_open_than_there_is_a_bound_for() {
    run(async {
        let server = Server::new().await;
        let mut held = Vec::new();
        // As many connections as it takes: one carries fewer than that.
        while held.len() < crate::limits::STREAMS_MAX {
            let mut client = server.client().await;
            for _ in 0..64 {
                held.push(watch(&mut client, None).await.unwrap());
            }
        }
        let mut client = server.client().await;
        let refused = watch(&mut client, None).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(reason(&refused), "too_many_streams");
        // Other calls go on, and a place becomes free when a watch is dropped.
        create(&mut client, "still").await;
        drop(held);
        let freed = async {
            while watch(&mut client, None).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, freed).await.unwrap();
        server.close().await;
    });
}

#[test]
fn an_address_that_others_reach_is_refused_unless_it_is_said() {
    run(async {
        let server = Server::new().await;
        let mut services = Services::new(&server.replica);
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let address = address.parse().unwrap();
            let options = ApiOptions {
                address,
                exposed: false,
                token_file: server.token_file(),
            };
            let refused = services.offer_api(&options).await.unwrap_err();
            assert!(matches!(refused, Error::Exposed { .. }), "{refused}");
            assert!(refused.hint().is_some());
            let options = MonitorOptions {
                address,
                exposed: false,
            };
            let refused = services.offer_monitor(&options).await.unwrap_err();
            assert!(matches!(refused, Error::Exposed { .. }), "{refused}");
        }
        let options = MonitorOptions {
            address: "0.0.0.0:0".parse().unwrap(),
            exposed: true,
        };
        services.offer_monitor(&options).await.unwrap();
        services.close().await;
        server.close().await;
    });
}

/// Asks over HTTP, and yields the status line's number, the head and the body.
async fn ask(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let number = head.split(' ').nth(1).unwrap().parse().unwrap();
    (number, head.to_owned(), body.to_owned())
}

#[test]
fn metrics_health_and_readiness_are_told() {
    run(async {
        let mut server = Server::new().await;
        let options = MonitorOptions {
            address: LOOPBACK.parse().unwrap(),
            exposed: false,
        };
        let monitor = server.services.offer_monitor(&options).await.unwrap();
        assert_eq!(ask(monitor, "/health").await.0, 200);
        let (number, _, why) = ask(monitor, "/ready").await;
        assert_eq!((number, why.trim()), (503, "not listening"));
        server.replica.listen(&[]).await.unwrap();
        server.services.set_listening();
        assert_eq!(ask(monitor, "/ready").await.0, 200);

        let mut client = server.client().await;
        create(&mut client, "a title that is nobody's business").await;
        get(&mut client, "no id").await.unwrap_err();
        let (number, head, text) = ask(monitor, "/metrics").await;
        assert_eq!(number, 200);
        assert!(
            head.to_ascii_lowercase().contains("openmetrics-text"),
            "{head}"
        );
        assert!(!text.contains("business"), "{text}");
        let workspace = server.replica.status().await.unwrap().workspaces;
        let shared = workspace.iter().find(|workspace| !workspace.home).unwrap();
        let head = shared.feed.as_ref().unwrap().seq;
        for line in [
            format!("reconvene_feed_head{{workspace=\"{}\"}} {head}", shared.id),
            format!("reconvene_documents{{workspace=\"{}\"}} 2", shared.id),
            "reconvene_links 0".to_owned(),
            "reconvene_low_space 0".to_owned(),
            "reconvene_series_omitted 0".to_owned(),
            "reconvene_api_calls_total{call=\"CreateMeeting\",code=\"OK\"} 1".to_owned(),
            "reconvene_api_calls_total{call=\"GetMeeting\",code=\"INVALID_ARGUMENT\"} 1".to_owned(),
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in {text}");
        }
        let barriers = text
            .lines()
            .find_map(|line| line.strip_prefix("reconvene_barriers_total "));
        assert!(barriers.unwrap().parse::<u64>().unwrap() > 0);

        // Without its replica the process is as good as dead.
        server.replica.clone().close().await.unwrap();
        assert_eq!(ask(monitor, "/health").await.0, 503);
        assert_eq!(ask(monitor, "/ready").await.0, 503);
        assert_eq!(ask(monitor, "/metrics").await.0, 503);
        let mut health = HealthClient::new(server.channel().await);
        let dead = async {
            loop {
                let service = String::new();
                let told = health.check(HealthCheckRequest { service }).await.unwrap();
                if told.into_inner().status() == ServingStatus::NotServing {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, dead).await.unwrap();
        let refused = get(&mut client, "01890000-0000-7000-8000-000000000000").await;
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        server.services.close().await;
    });
}
