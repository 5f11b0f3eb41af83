//! Backends that call the API of a serving process, and operators that ask for its metrics: what a
//! call changes is on every device's screen without anybody asking for it.

use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;

use reconvene_api::v1::event::Happened;
use reconvene_api::v1::reconvene_client::ReconveneClient;
use reconvene_api::v1::{self, IntegrationState, NotFoundReason, Segment, SyncStatus};
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::harness::{Peer, Process, deadline};
use crate::outbox::write_calendar;

type Guard = Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>;
type Client = ReconveneClient<InterceptedService<Channel, Guard>>;

/// A serving process with an API and metrics.
struct Backend {
    peer: Peer,
    process: Process,
    info: Value,
}

impl Backend {
    fn new() -> Self {
        Self::with(&[])
    }

    /// Serves with these options, too.
    fn with(args: &[&str]) -> Self {
        let peer = Peer::new();
        let (process, info) = Self::serve(&peer, args);
        Self {
            peer,
            process,
            info,
        }
    }

    fn serve(peer: &Peer, args: &[&str]) -> (Process, Value) {
        let free = "127.0.0.1:0";
        let serve = ["serve", "--api", free, "--metrics", free];
        let process = peer.start(&[&serve, args].concat());
        let info = process.line();
        (process, info)
    }

    fn joined(&self, member: &str) -> Peer {
        let answer = self.peer.run(&["invite", "--member", member]);
        let device = Peer::new();
        device.run(&["join", answer["ticket"].as_str().unwrap()]);
        device
    }

    async fn client(&self) -> Client {
        let file = self.info["api_token_file"].as_str().unwrap();
        let token = fs::read_to_string(file).unwrap();
        let shown: MetadataValue<Ascii> = format!("Bearer {}", token.trim()).parse().unwrap();
        let address = format!("http://{}", self.info["api"].as_str().unwrap());
        let channel = Endpoint::from_shared(address).unwrap().connect().await;
        let guard: Guard = Box::new(move |mut request| {
            request
                .metadata_mut()
                .insert("authorization", shown.clone());
            Ok(request)
        });
        ReconveneClient::with_interceptor(channel.unwrap(), guard)
    }

    /// Asks the monitor, and yields the status line's number and the body.
    fn ask(&self, path: &str) -> (u16, String) {
        let address = self.info["metrics"].as_str().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(deadline())).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let number = head.split(' ').nth(1).unwrap().parse().unwrap();
        (number, body.to_owned())
    }
}

/// Where a test's calls run; its connections live as long as it does.
struct Caller(tokio::runtime::Runtime);

impl Caller {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        Self(runtime.unwrap())
    }

    /// Waits for something, with a deadline.
    fn run<T>(&self, call: impl Future<Output = T>) -> T {
        let call = async { tokio::time::timeout(deadline(), call).await };
        self.0.block_on(call).unwrap()
    }
}

fn update(id: &str) -> v1::UpdateMeetingRequest {
    v1::UpdateMeetingRequest {
        meeting_id: id.to_owned(),
        ..Default::default()
    }
}

/// What a change is told as, on the screen of a device that watches its list.
fn on_screen(watch: &Process, change: &str, id: &str, title: &str) {
    watch.line_where(|line| {
        line["change"] == change && line["meeting"]["id"] == id && line["meeting"]["title"] == title
    });
}

#[test]
fn meeting_modified_by_server() {
    let caller = Caller::new();
    let backend = Backend::new();
    let device = backend.joined("Ada");
    let offline = backend.joined("Ben");
    let id = device.add("Planning");
    device.sync();
    offline.sync();
    // From here on nobody refreshes anything: the device keeps its link, and its list is on screen.
    let watch = device.start(&["meeting", "list", "--watch"]);
    on_screen(&watch, "added", &id, "Planning");
    let mut client = caller.run(backend.client());

    let request = v1::UpdateMeetingRequest {
        title: Some("Planning, moved".to_owned()),
        notes: Some("Room 3 instead.".to_owned()),
        ..update(&id)
    };
    caller.run(client.update_meeting(request)).unwrap();
    on_screen(&watch, "changed", &id, "Planning, moved");
    let shown = device.run(&["meeting", "show", &id]);
    assert_eq!(shown["meeting"]["notes"], "Room 3 instead.", "{shown}");

    let request = v1::CreateMeetingRequest {
        title: "From the calendar".to_owned(),
        ..Default::default()
    };
    let created = caller
        .run(client.create_meeting(request))
        .unwrap()
        .into_inner();
    let calendar = created.meeting.unwrap().id;
    on_screen(&watch, "added", &calendar, "From the calendar");
    let said = v1::AppendSegmentsRequest {
        meeting_id: calendar.clone(),
        segments: vec![Segment {
            id: "1".to_owned(),
            start_ms: 0,
            text: "Good morning.".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let said = caller.run(client.append_segments(futures::stream::iter([said])));
    assert_eq!(said.unwrap().into_inner().added, 1);
    watch.line_where(|line| {
        line["meeting"]["id"] == *calendar && line["meeting"]["segment_pages"] == 1
    });
    let request = v1::StopMeetingRequest {
        meeting_id: calendar.clone(),
        ..Default::default()
    };
    caller.run(client.stop_meeting(request)).unwrap();
    watch.line_where(|line| {
        line["meeting"]["id"] == *calendar && line["meeting"]["state"] == "stopped"
    });

    // And the other way: what the device does is told to who watches over the API.
    let mut events = caller
        .run(client.watch_events(v1::WatchEventsRequest::default()))
        .unwrap()
        .into_inner();
    caller.run(events.message()).unwrap().unwrap();
    device.run(&["meeting", "edit", &id, "--title", "Planning, at last"]);
    let told = caller.run(async {
        loop {
            let event = events.message().await.unwrap().unwrap();
            if let Some(Happened::Changed(changed)) = event.happened
                && changed.meeting_ids.contains(&id)
            {
                break event.cursor;
            }
        }
    });
    assert!(!told.is_empty());

    // Who was away has all of it after the next sync.
    offline.sync();
    assert_eq!(offline.export(), backend.peer.export());
    let shown = offline.run(&["meeting", "show", &calendar]);
    assert_eq!(shown["meeting"]["state"], "stopped", "{shown}");
    assert!(shown.to_string().contains("Good morning."), "{shown}");
    let listed = offline.run(&["meeting", "list", "--text", "at last"]);
    assert_eq!(listed["meetings"][0]["id"], *id);
    let ended = watch.stop();
    assert!(ended.status.success(), "{ended:?}");
    let ended = backend.process.stop();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn the_api_and_the_metrics_are_offered_where_that_is_asked_for() {
    let caller = Caller::new();
    let mut backend = Backend::new();
    let file = backend.peer.data().join("api.token");
    assert_eq!(backend.info["api_token_file"], file.to_str().unwrap());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    let device = backend.joined("Ada");
    device.sync();
    let watch = device.start(&["sync", "--watch"]);
    watch.line_where(|event| event["event"] == "verified");
    assert_eq!(backend.ask("/health"), (200, "ok\n".to_owned()));
    assert_eq!(backend.ask("/ready"), (200, "ok\n".to_owned()));
    let (_, told) = backend.ask("/metrics");
    assert!(
        told.lines().any(|line| line == "reconvene_links 1"),
        "{told}"
    );
    let sent = "reconvene_frame_bytes_total{way=\"sent\"} ";
    let sent = told.lines().find_map(|line| line.strip_prefix(sent));
    assert!(sent.unwrap().parse::<u64>().unwrap() > 0, "{told}");
    let peer = device.run(&["status"])["device"]["peer_id"].clone();
    let owed = format!("peer=\"{}\"}} 0", peer.as_str().unwrap());
    let owed = told
        .lines()
        .filter(|line| line.starts_with("reconvene_feed_owed") && line.ends_with(&owed));
    assert!(owed.count() > 0, "{told}");
    watch.stop();
    // What a link carried is still counted when it has ended.
    let before: u64 = sent.unwrap().parse().unwrap();
    let after = loop {
        let (_, told) = backend.ask("/metrics");
        if told.lines().any(|line| line == "reconvene_links 0") {
            let sent = "reconvene_frame_bytes_total{way=\"sent\"} ";
            let sent = told.lines().find_map(|line| line.strip_prefix(sent));
            break sent.unwrap().parse::<u64>().unwrap();
        }
        std::thread::yield_now();
    };
    assert!(after >= before, "{after} after {before}");

    // The token stays the same across a restart, and another one lets nobody in.
    let token = fs::read_to_string(&file).unwrap();
    let ended = backend.process.stop();
    assert!(ended.status.success(), "{ended:?}");
    (backend.process, backend.info) = Backend::serve(&backend.peer, &[]);
    assert_eq!(fs::read_to_string(&file).unwrap(), token);
    let info = caller.run(async {
        let mut client = backend.client().await;
        let info = client.get_server_info(v1::GetServerInfoRequest {}).await;
        info.unwrap().into_inner()
    });
    assert_eq!(info.peer_id, backend.info["peer_id"].as_str().unwrap());
    assert!(info.state_version > 0);
    let refused = caller.run(async {
        let address = format!("http://{}", backend.info["api"].as_str().unwrap());
        let channel = Endpoint::from_shared(address).unwrap().connect().await;
        let mut client = ReconveneClient::new(channel.unwrap());
        let refused = client.get_server_info(v1::GetServerInfoRequest {}).await;
        refused.unwrap_err()
    });
    assert_eq!(refused.code(), Code::Unauthenticated);
    let ended = backend.process.stop();
    assert!(ended.status.success(), "{ended:?}");

    // Nothing of it unless it is asked for, and not where everybody reaches it.
    let plain = backend.peer.start(&["serve"]);
    let info = plain.line();
    assert_eq!(info["api"], Value::Null);
    assert_eq!(info["metrics"], Value::Null);
    plain.stop();
    for flag in ["--api", "--metrics"] {
        let refused = backend
            .peer
            .fails(&["serve", flag, "0.0.0.0:0"], 7, "bad_input");
        assert!(refused["hint"].as_str().unwrap().contains("--exposed"));
    }
    fs::write(&file, "not a token").unwrap();
    let args = ["serve", "--api", "127.0.0.1:0"];
    backend.peer.fails(&args, 7, "bad_input");
}

#[test]
fn a_backend_has_an_integration_synced_and_follows_the_run_until_it_expires() {
    let caller = Caller::new();
    // Long enough for the end to be seen on a machine that is busy.
    let backend = Backend::with(&["--keep-runs", "3s"]);
    write_calendar(&backend.peer, &["Planning", "Review"]);
    let add = |file: &str| {
        let added = backend.peer.run(&["integrations", "add", "ical", file]);
        added["integration"]["id"].as_str().unwrap().to_owned()
    };
    let integration = add("file:team.ics");
    let mut client = caller.run(backend.client());

    let command = reconvene::Commands::new_id().to_string();
    let request = v1::StartIntegrationSyncRequest {
        integration_id: integration.clone(),
        command_id: Some(command.clone()),
        wait_ms: Some(30_000),
        ..Default::default()
    };
    let watched = caller.run(client.watch_events(v1::WatchEventsRequest::default()));
    let mut watched = watched.unwrap().into_inner();
    let started = caller.run(client.start_integration_sync(request.clone()));
    let started = started.unwrap().into_inner();
    assert_eq!(started.command_id, command);
    assert!(!started.joined, "{started:?}");
    let run_id = started.run_id.clone().unwrap();

    let mut told: Vec<v1::GetSyncStatusResponse> = Vec::new();
    let client = &mut client;
    let expired = caller.run(async {
        loop {
            let run_id = run_id.clone();
            let asked = client.get_sync_status(v1::GetSyncStatusRequest { run_id });
            let status = asked.await.unwrap().into_inner();
            if status.status() == SyncStatus::NotFound {
                break status;
            }
            if told.last() != Some(&status) {
                told.push(status);
            }
        }
    });
    let ended = told.last().unwrap();
    assert_eq!(ended.status(), SyncStatus::Succeeded, "{told:?}");
    assert_eq!(ended.integration_id, Some(integration.clone()));
    let (run, expires) = (ended.run.as_ref().unwrap(), ended.expires_at.unwrap());
    assert_eq!((run.trigger.as_str(), run.items), ("api", 2), "{run:?}");
    assert_eq!(run.error, None);
    assert_eq!(expires.seconds - run.finished_at.unwrap().seconds, 3);
    assert!(run.started_at.is_some());
    for before in &told[..told.len() - 1] {
        assert_eq!(before.status(), SyncStatus::Running, "{told:?}");
        assert_eq!(before.expires_at, None);
    }
    // A watch was told the same, without asking.
    let mut standings = Vec::new();
    while standings.last() != Some(&SyncStatus::NotFound) {
        let event = caller.run(watched.message()).unwrap().unwrap();
        if let Some(Happened::Run(run)) = event.happened {
            assert_eq!(run.run_id, run_id);
            standings.push(run.status.unwrap().status());
        }
    }
    standings.dedup();
    let whole = [
        SyncStatus::Running,
        SyncStatus::Succeeded,
        SyncStatus::NotFound,
    ];
    assert!(whole.ends_with(&standings), "{standings:?}");
    assert!(standings.len() > 1, "{standings:?}");
    drop(watched);
    assert_eq!(expired.not_found_reason(), NotFoundReason::Expired);
    assert_eq!(expired.run, None);
    let listed = caller.run(client.list_meetings(v1::ListMeetingsRequest::default()));
    assert_eq!(listed.unwrap().into_inner().meetings.len(), 2);
    // Whoever asks again because an answer got lost begins no second run.
    let again = caller.run(client.start_integration_sync(request));
    assert_eq!(again.unwrap().into_inner(), started);

    // What works and what does not, and why.
    let missing = add("file:none.ics");
    let request = v1::ValidateIntegrationsRequest {
        wait_ms: Some(30_000),
        ..Default::default()
    };
    let looked = caller.run(client.validate_integrations(request));
    let looked = looked.unwrap().into_inner();
    assert!(looked.done, "{looked:?}");
    let found = |id: &str| looked.integrations.iter().find(|one| one.id == id).unwrap();
    assert_eq!(looked.integrations.len(), 2, "{looked:?}");
    assert_eq!(found(&integration).state(), IntegrationState::Valid);
    assert_eq!(found(&missing).state(), IntegrationState::Invalid);
    assert!(found(&missing).validated_at.is_some());
    let error = found(&missing).error.clone().unwrap();
    assert!(!error.code.is_empty() && !error.message.is_empty());
    // The entry about it is counted; nothing is left in the outbox, and no run is kept.
    caller.run(async {
        loop {
            let (_, told) = backend.ask("/metrics");
            let value = |start: &str| {
                let lines = told.lines().filter(|line| line.starts_with(start));
                let values = lines.map(|line| line.rsplit(' ').next().unwrap());
                values
                    .map(|value| value.parse::<u64>().unwrap())
                    .sum::<u64>()
            };
            let counted = ["inbox_open{", "outbox{", "runs{"];
            let counted = counted.map(|name| value(&format!("reconvene_{name}")));
            if counted == [1, 0, 0] {
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    let ended = backend.process.stop();
    assert!(ended.status.success(), "{ended:?}");
}
