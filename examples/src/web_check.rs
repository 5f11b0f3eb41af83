//! Asks the app over a real connection, as a browser would, and fails if an answer is wrong.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Far more than anything takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Makes every request there is, and some that must fail.
pub(crate) async fn run(address: SocketAddr) -> anyhow::Result<()> {
    let all = async {
        let mut live = Live::open(address).await?;
        let first = live.batch().await?;
        ensure!(
            first["added"] == json!([]) && first["complete"] == true,
            "{first}"
        );

        let (status, added) =
            ask(address, "POST", "/meetings", &json!({"title": "Planning"})).await?;
        ensure!(
            status == 201 && added["resolution"]["rule"] == "none",
            "{status} {added}"
        );
        let id = added["meeting"]["id"].as_str().context("an id")?.to_owned();
        let batch = live.batch().await?;
        ensure!(batch["added"][0]["id"] == *id, "{batch}");

        let note = json!({"text": "Bring the figures.\n"});
        let (status, noted) = ask(address, "POST", &format!("/meetings/{id}/notes"), &note).await?;
        ensure!(
            status == 200 && noted["meeting"]["notes"] == note["text"],
            "{status} {noted}"
        );
        let batch = live.batch().await?;
        ensure!(batch["changed"][0]["id"] == *id, "{batch}");

        let (status, shown) = ask(address, "GET", &format!("/meetings/{id}"), &Value::Null).await?;
        ensure!(
            status == 200 && shown["meeting"]["title"] == "Planning",
            "{status} {shown}"
        );
        let (status, page) = ask(address, "GET", "/meetings", &Value::Null).await?;
        ensure!(
            status == 200 && page["meetings"][0]["id"] == *id,
            "{status} {page}"
        );
        ensure!(
            page["meetings"].as_array().map(Vec::len) == Some(1),
            "{page}"
        );

        for (path, expected, code) in [
            ("/meetings/no-id", 400, "bad_id"),
            (
                "/meetings/00000000-0000-0000-0000-000000000000",
                404,
                "not_found",
            ),
        ] {
            let (status, failure) = ask(address, "GET", path, &Value::Null).await?;
            ensure!(
                status == expected && failure["code"] == code,
                "{path}: {status} {failure}"
            );
        }
        Ok(())
    };
    timeout(DEADLINE, all)
        .await
        .context("an answer is missing")?
}

async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// One request and its whole answer: the status and the JSON.
async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &Value,
) -> anyhow::Result<(u16, Value)> {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let mut answer = String::new();
    let mut stream = request(address, method, path, &body).await?;
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((
        status,
        serde_json::from_str(body).with_context(|| answer.clone())?,
    ))
}

/// The stream of server-sent events.
struct Live(Lines<BufReader<TcpStream>>);

impl Live {
    async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = request(address, "GET", "/live", "").await?;
        Ok(Self(BufReader::new(stream).lines()))
    }

    /// The next batch, past whatever stands around it.
    async fn batch(&mut self) -> anyhow::Result<Value> {
        while let Some(line) = self.0.next_line().await? {
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(serde_json::from_str(data)?);
            }
        }
        anyhow::bail!("the stream of events ended")
    }
}
