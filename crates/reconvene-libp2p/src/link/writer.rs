//! Writes the queued frames of a link, in order.
//!
//! It never waits longer than its deadline for progress, and stops at once when the link does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{How, Link};
use crate::event::LinkDownReason;

/// Writes until the link ends. Tells the link why if that is the writer's doing.
pub(super) async fn run<W: AsyncWrite + Unpin>(link: Arc<Link>, mut stream: W, deadline: Duration) {
    loop {
        let written = tokio::select! {
            biased;
            _ = link.stopped(|how| how != How::Flush) => return,
            written = write_next(&link, &mut stream, deadline) => written,
        };
        match written {
            Ok(true) => {}
            Ok(false) => return,
            // It may have said why before it went: what was received is still read.
            Err(error) if error.kind() != io::ErrorKind::TimedOut => {
                return link.stop(How::Drain, link.lost(&error));
            }
            Err(_) => return link.stop(How::Now, LinkDownReason::WriteStalled),
        }
    }
}

/// Writes the next batch, or waits for one. Says `false` when all is written and our side of the
/// stream is closed.
async fn write_next<W: AsyncWrite + Unpin>(
    link: &Link,
    stream: &mut W,
    deadline: Duration,
) -> io::Result<bool> {
    // Asked before the queue is: nothing is accepted once the link is to end, so a queue found
    // empty after this stays empty.
    let flushing = link.how() == Some(How::Flush);
    if let Some(batch) = link.take_batch() {
        let mut rest = &batch.bytes[..];
        while !rest.is_empty() {
            let written = timeout(deadline, stream.write(rest)).await??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[written..];
        }
        timeout(deadline, stream.flush()).await??;
        link.count_sent(&batch);
        return Ok(true);
    }
    if flushing {
        timeout(deadline, stream.close()).await??;
        return Ok(false);
    }
    link.queued.notified().await;
    Ok(true)
}
