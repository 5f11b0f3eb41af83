//! Cuts the incoming bytes of a link into frames.
//!
//! It believes no announced length before it is checked, and has no deadline of its own.

use std::io;

use bytes::Bytes;
use futures::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use reconvene_core::limits;

use super::{Link, PREFIX_BYTES};
use crate::event::LinkDownReason;

/// Read at once from the stream; a longer frame is read past the buffer.
const READ_BUFFER_BYTES: usize = 8 * 1024;

pub(super) struct FrameReader<R> {
    stream: BufReader<R>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream: BufReader::with_capacity(READ_BUFFER_BYTES, stream),
        }
    }

    /// Reads one frame; what it may be depends on whether the link is admitted when its length is
    /// known. Dropping it midway loses the frame and the place in the stream.
    pub(super) async fn next(&mut self, link: &Link) -> Result<Bytes, LinkDownReason> {
        let lost = |error: io::Error| link.lost(&error);
        if self.stream.fill_buf().await.map_err(lost)?.is_empty() {
            // The stream's end does not say what ended it; the socket does if it broke.
            return Err(link
                .socket
                .failure()
                .map_or(LinkDownReason::ClosedByPeer, LinkDownReason::ConnectionLost));
        }
        let mut prefix = [0; PREFIX_BYTES];
        self.stream.read_exact(&mut prefix).await.map_err(lost)?;
        let length = check_length(u32::from_be_bytes(prefix), link.admitted())?;
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).await.map_err(lost)?;
        Ok(frame.into())
    }

    /// Reads and drops everything up to the end of the stream.
    pub(super) async fn discard(&mut self) {
        loop {
            match self.stream.fill_buf().await {
                Ok([]) | Err(_) => return,
                Ok(bytes) => {
                    let length = bytes.len();
                    self.stream.consume_unpin(length);
                }
            }
        }
    }
}

fn check_length(bytes: u32, admitted: bool) -> Result<usize, LinkDownReason> {
    let length = bytes as usize;
    if length == 0 {
        Err(LinkDownReason::FrameEmpty)
    } else if !admitted && length > limits::FIRST_FRAME_BYTES_MAX {
        Err(LinkDownReason::FirstFrameTooLong { bytes })
    } else if length > limits::FRAME_BYTES_MAX {
        Err(LinkDownReason::FrameTooLong { bytes })
    } else {
        Ok(length)
    }
}
