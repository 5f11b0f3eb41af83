//! What goes out is signed, and what comes back is told apart.

use reconvene::{Integration, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::http::Http;
use super::{Adapter as _, AdapterError, Webhook, sign};

#[test]
fn signatures_are_those_that_others_compute() {
    // `printf '1700000000.{}' | openssl dgst -sha256 -hmac key`
    assert_eq!(
        sign("key", 1_700_000_000, b"{}"),
        "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    );
}

/// Takes one call, answers it so, and yields what was called.
async fn taken(listener: TcpListener, answer: &'static str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut said = Vec::new();
    let mut part = [0; 4096];
    while !String::from_utf8_lossy(&said).ends_with("{\"event\":\"ping\"}") {
        let read = stream.read(&mut part).await.unwrap();
        assert!(read > 0, "it ended early");
        said.extend_from_slice(&part[..read]);
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(said).unwrap()
}

async fn ping(answer: &'static str) -> (Result<(), AdapterError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = [("secret".to_owned(), "key".to_owned())];
    let integration = Integration {
        external_id: format!("http://{}/hook?a=b", listener.local_addr().unwrap()),
        settings: Settings::from_iter(settings),
        ..Integration::default()
    };
    let webhook = Webhook::new(Http::new(Vec::new()));
    let (pinged, said) = tokio::join!(webhook.validate(&integration), taken(listener, answer));
    (pinged, said)
}

#[tokio::test]
async fn calls_are_signed_and_answers_told_apart() {
    let (pinged, said) = ping("HTTP/1.1 204 No Content\r\n\r\n").await;
    pinged.unwrap();
    assert!(said.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{said}");
    let header = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{name} in {said}"))[name.len() + 2..].to_owned()
    };
    assert_eq!(header("idempotency-key"), "ping");
    let signature = header("reconvene-signature");
    let (seconds, code) = signature.split_once(",v1=").unwrap();
    let seconds = seconds.strip_prefix("t=").unwrap().parse().unwrap();
    assert_eq!(code, sign("key", seconds, b"{\"event\":\"ping\"}"));

    let (pinged, _) = ping("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
    assert!(matches!(pinged, Err(AdapterError::Invalid(problem)) if problem.code == "rejected"));
    let (pinged, _) = ping("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
    assert!(
        matches!(pinged, Err(AdapterError::Unreachable(problem)) if problem.code == "server_error")
    );
    let (pinged, _) =
        ping("HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n")
            .await;
    assert!(matches!(pinged, Err(AdapterError::Invalid(problem)) if problem.code == "redirected"));
    let (pinged, _) = ping("garbage\r\n\r\n").await;
    assert!(
        matches!(pinged, Err(AdapterError::Unreachable(_))),
        "{pinged:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_called_is_told_apart_too() {
    let webhook = Webhook::new(Http::new(Vec::new()));
    let mut integration = Integration {
        external_id: "http://127.0.0.1:9/".to_owned(),
        ..Integration::default()
    };
    let unsigned = webhook.validate(&integration).await;
    assert!(matches!(unsigned, Err(AdapterError::Invalid(problem)) if problem.code == "no_secret"));
    integration.settings = Settings::from_iter([("secret".to_owned(), "key".to_owned())]);
    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    integration.external_id = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let nobody = webhook.validate(&integration).await;
    assert!(
        matches!(nobody, Err(AdapterError::Unreachable(_))),
        "{nobody:?}"
    );
}
