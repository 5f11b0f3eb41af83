//! What goes over the control socket: bounded lines of JSON, each read with a deadline.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::request::{Progress, Request};

/// The protocol's version. Host and caller must have the same: both come from one program, and a
/// host of an earlier release is restarted rather than spoken to.
pub(crate) const VERSION: u32 = 3;

/// Longest line of a call. Beyond it the host answers with a failure and hangs up.
pub(crate) const CALL_BYTES_MAX: usize = 1024 * 1024;
/// Longest line of a reply. Beyond it the caller gives up.
pub(crate) const REPLY_BYTES_MAX: usize = 512 * 1024;
/// Most bytes of an answer that one line carries; JSON may write each in up to six.
pub(crate) const PART_BYTES_MAX: usize = 64 * 1024;
/// Largest answer that a caller takes.
pub(crate) const ANSWER_BYTES_MAX: usize = 1024 * 1024 * 1024;
const _: () = assert!(PART_BYTES_MAX * 6 + 64 <= REPLY_BYTES_MAX);

/// How long the host waits for a whole call.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How often the host shows that it is still at work.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// How long the caller waits for the next line. The command itself may take any time.
pub(crate) const REPLY_DEADLINE: Duration = Duration::from_secs(20);
const _: () = assert!(ALIVE_EVERY.as_secs() * 5 <= REPLY_DEADLINE.as_secs());
/// How long either side waits until the other takes a line.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// How long the host waits until the reader of a stream takes a line: a person may have stopped the
/// terminal for a while. Past it the stream ends.
pub(crate) const STREAM_WRITE_DEADLINE: Duration = Duration::from_secs(120);

/// What a caller sends.
#[derive(Serialize)]
pub(crate) struct Call<'a> {
    pub(crate) version: u32,
    pub(crate) request: &'a Request,
}

/// A call as it arrives: its request is read only if its version fits.
#[derive(Deserialize)]
pub(crate) struct ReceivedCall {
    pub(crate) version: u32,
    pub(crate) request: Value,
}

/// One line of a host's reply.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// The request was understood and is being carried out.
    Alive,
    /// How far it has come.
    Progress(Progress),
    /// The next part of the answer's JSON text, or of an item's.
    Part(String),
    /// The parts since the last were an item of a stream; more may follow.
    Item,
    /// The answer is complete.
    Done,
    /// The request failed.
    Failed(Failure),
}

/// Why no line was read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The other side hung up.
    #[error("the connection ended")]
    Ended,
    /// The line is too long.
    #[error("a line is longer than {max} bytes")]
    TooLong {
        /// How long it may be.
        max: usize,
    },
    /// The other side was too slow.
    #[error("nothing came in time")]
    Late,
    /// The line is not what it should be.
    #[error("a line is not readable")]
    Unreadable(#[from] serde_json::Error),
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// Reads lines of a bounded length, each within a deadline.
pub(crate) struct LineReader<R> {
    source: BufReader<R>,
    max: usize,
    deadline: Duration,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(crate) fn new(source: R, max: usize, deadline: Duration) -> Self {
        Self {
            source: BufReader::new(source),
            max,
            deadline,
        }
    }

    /// Reads one line. After an error, and after being dropped midway, there is nothing more to read
    /// that makes sense: the connection is to be closed.
    pub(crate) async fn read<T: for<'de> Deserialize<'de>>(&mut self) -> Result<T, LineError> {
        let mut line = Vec::new();
        // One more than allowed, so that a line of exactly the allowed length is told from a longer.
        let limit = u64::try_from(self.max + 1).expect("the bounds of this file are small");
        let mut bounded = (&mut self.source).take(limit);
        match timeout(self.deadline, bounded.read_until(b'\n', &mut line)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(LineError::Late),
        }
        match line.pop() {
            Some(b'\n') => Ok(serde_json::from_slice(&line)?),
            _ if line.len() >= self.max => Err(LineError::TooLong { max: self.max }),
            _ => Err(LineError::Ended),
        }
    }
}

/// Writes one line.
pub(crate) async fn write_line(
    sink: &mut (impl AsyncWrite + Unpin),
    line: &impl Serialize,
) -> Result<(), LineError> {
    write_bytes(sink, encode(line)?, WRITE_DEADLINE).await
}

/// A line's bytes, without its end.
pub(crate) fn encode(line: &impl Serialize) -> Result<Vec<u8>, LineError> {
    Ok(serde_json::to_vec(line)?)
}

/// Writes one line that was encoded before.
pub(crate) async fn write_bytes(
    sink: &mut (impl AsyncWrite + Unpin),
    mut line: Vec<u8>,
    deadline: Duration,
) -> Result<(), LineError> {
    line.push(b'\n');
    let written = async {
        sink.write_all(&line).await?;
        sink.flush().await
    };
    match timeout(deadline, written).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(LineError::Late),
    }
}

/// Cuts an answer's text into parts that fit a line each, never inside a character.
pub(crate) fn parts(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let end = text.floor_char_boundary(PART_BYTES_MAX);
        let (part, rest) = text.split_at(end);
        text = rest;
        Some(part)
    })
}
