//! The one thing that libp2p uses of the crate of this name, on the timers of tokio.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until as ready_at};

/// Ready after a while.
pub struct Delay(Pin<Box<Sleep>>);

impl Delay {
    /// Ready after so long.
    pub fn new(after: Duration) -> Self {
        Self(Box::pin(ready_at(Instant::now() + after)))
    }

    /// Ready so long from now, instead.
    pub fn reset(&mut self, after: Duration) {
        self.0.as_mut().reset(Instant::now() + after);
    }
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delay").finish_non_exhaustive()
    }
}
