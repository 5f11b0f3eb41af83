//! Whatever answers, an exchange ends, within its bounds.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::AdapterError;
use super::Http;
use crate::limits::READ_BYTES_MAX;

/// Reads from a server that answers so, and goes on with so many bytes.
async fn get(answer: &str, bytes: usize) -> Result<usize, AdapterError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a", listener.local_addr().unwrap());
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 4096];
        assert!(stream.read(&mut asked).await.unwrap() > 0);
        stream.write_all(answer.as_bytes()).await.unwrap();
        // It may hang up in the middle.
        drop(stream.write_all(&vec![b'a'; bytes]).await);
    };
    let http = Http::new(Vec::new());
    let (reply, ()) = tokio::join!(http.get(&url), serve);
    reply.map(|reply| reply.body.len())
}

#[tokio::test]
async fn answers_are_taken_whole_or_not_at_all() {
    let whole = get("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", 10).await;
    assert_eq!(whole.unwrap(), 10);
    let until_its_end = get("HTTP/1.1 200 OK\r\n\r\n", 10).await;
    assert_eq!(until_its_end.unwrap(), 10);
    let cut = get("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n", 10).await;
    assert!(matches!(cut, Err(AdapterError::Unreachable(_))), "{cut:?}");
    for head in [
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            READ_BYTES_MAX + 1
        ),
        "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
    ] {
        let large = get(&head, READ_BYTES_MAX + 1).await;
        let Err(AdapterError::Invalid(problem)) = large else {
            panic!("{large:?}");
        };
        assert_eq!(problem.code, "too_large");
    }
}
