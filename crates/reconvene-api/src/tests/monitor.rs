//! Metrics, health and readiness, and what a store that failed does to them.

use std::net::SocketAddr;

use reconvene::{Ask, Changes, Commands, NewIntegration, RunDraft};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{DEADLINE, LOOPBACK, Server, create, get, health, reason, run};
use crate::{MonitorOptions, v1};

/// Waits until the health service says that a service is not to be called.
async fn not_serving(server: &Server, service: &str) {
    let bad = async {
        while health(server, service).await != ServingStatus::NotServing {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, bad).await.unwrap();
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

async fn monitor_of(server: &mut Server) -> SocketAddr {
    let options = MonitorOptions {
        address: LOOPBACK.parse().unwrap(),
        exposed: false,
    };
    server.services.offer_monitor(&options).await.unwrap()
}

#[test]
fn metrics_health_and_readiness_are_told() {
    run(async {
        let mut server = Server::new().await;
        let monitor = monitor_of(&mut server).await;
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
        not_serving(&server, "").await;
        let refused = get(&mut client, "01890000-0000-7000-8000-000000000000").await;
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        server.services.close().await;
    });
}

#[test]
fn what_is_outstanding_is_told() {
    run(async {
        let mut server = Server::new().await;
        let monitor = monitor_of(&mut server).await;
        let new = NewIntegration {
            adapter: "ical".to_owned(),
            external_id: "file:none.ics".to_owned(),
            ..NewIntegration::default()
        };
        let integration = server.replica.integrations().add(new).await.unwrap().id;
        let wanted = Ask::ValidateIntegrations { integration: None };
        let commands = server.replica.commands();
        commands.issue(Commands::new_id(), &wanted).await.unwrap();
        let serving = server.replica.serving().unwrap();
        let workspace = server.replica.ensure_shared_workspace().await.unwrap().id;
        let draft = RunDraft {
            id: serving.mint_run().unwrap(),
            trigger: "test".to_owned(),
            command: None,
        };
        let begin = Changes::new().integration(integration, move |it| it.start_run(&draft));
        serving.write(workspace, begin).await.unwrap();
        let device = server.replica.device();
        let problem = reconvene::Problem {
            code: "missing".to_owned(),
            message: "there is no such file".to_owned(),
        };
        let entry = reconvene::entries::of_validation(workspace, integration, &problem);
        assert!(serving.file(device.member, entry).await.unwrap());

        let wanted = [
            format!("reconvene_outbox{{workspace=\"{workspace}\"}} 1"),
            format!("reconvene_inbox_open{{workspace=\"{}\"}} 1", device.home),
            "reconvene_runs{state=\"running\"} 1".to_owned(),
            "reconvene_runs{state=\"failed\"} 0".to_owned(),
        ];
        // As soon as lists show it.
        let told = async {
            loop {
                let (_, _, text) = ask(monitor, "/metrics").await;
                if wanted
                    .iter()
                    .all(|line| text.lines().any(|told| told == line))
                {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        let text = tokio::time::timeout(DEADLINE, told).await.unwrap();
        // An inbox is told of homes alone.
        let inboxes = text
            .lines()
            .filter(|line| line.starts_with("reconvene_inbox_open{"));
        assert_eq!(inboxes.count(), 1);
        server.close().await;
    });
}

#[test]
fn health_is_bad_once_the_store_has_failed() {
    run(async {
        let mut server = Server::new().await;
        let monitor = monitor_of(&mut server).await;
        let mut client = server.client().await;
        create(&mut client, "before").await;
        assert_eq!(ask(monitor, "/health").await.0, 200);
        // No barrier covers what lies there, so that the next one fails.
        let blobs = server.directory.path().join("data").join("sled/blobs");
        std::fs::write(blobs.join("1"), "x").unwrap();
        let request = v1::CreateMeetingRequest::default();
        client.create_meeting(request.clone()).await.ok();
        let failed = async {
            while ask(monitor, "/health").await.0 == 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, failed).await.unwrap();
        let (_, _, why) = ask(monitor, "/health").await;
        assert!(why.contains("outside its log"), "{why}");
        let (_, _, told) = ask(monitor, "/metrics").await;
        assert!(told.lines().any(|line| line == "reconvene_store_failed 1"));
        let refused = client.create_meeting(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal);
        assert_eq!(reason(&refused), "store_failed");
        not_serving(&server, "reconvene.api.v1.Reconvene").await;
        server.services.close().await;
    });
}
