//! What an app needs to test how it gets on with Reconvene when things go wrong: real replicas on real
//! stores and loopback sockets, in one process, and the means to break what is between them.
//!
//! A [`TestServer`] can be stopped and started, lose its store, be set back to a backup, or come back
//! with another state version. Each [`TestClient`] of it has a link of its own that can be cut, slowed
//! down, stalled or made to lose one direction ([`Proxy`]), and may run by a clock that the test puts
//! forward.
//!
//! ```
//! # async fn example() -> Result<(), reconvene_testkit::Error> {
//! use reconvene::NewMeeting;
//! use reconvene_testkit::TestServer;
//!
//! let mut server = TestServer::start().await?;
//! let (ada, ben) = (server.client("Ada").await?, server.client("Ben").await?);
//! ada.cut_off();
//! ada.replica().meetings().add(NewMeeting::titled("Made offline")).await?;
//! ada.let_through();
//! ada.settle().await?;
//! ben.settle().await?;
//! assert_eq!(ada.replica().export(None).await?, ben.replica().export(None).await?);
//! server.restart().await?;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod client;
mod proxy;
mod server;

pub use client::{ClientOptions, TestClient};
pub use proxy::{Fault, Passed, Proxy, Strike, Way, Weather};
pub use server::{Backup, TestServer};

/// How long [`TestClient::settle`] waits for the slowest thing: a minute, which is far more than it
/// takes, or as many seconds as `RECONVENE_TEST_PATIENCE` says.
pub fn patience() -> std::time::Duration {
    let seconds = std::env::var("RECONVENE_TEST_PATIENCE").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    std::time::Duration::from_secs(seconds.unwrap_or(60))
}

/// What can go wrong with the kit itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A replica failed.
    #[error(transparent)]
    Replica(#[from] reconvene::Error),
    /// A temporary directory or a socket on loopback failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The server is stopped.
    #[error("the server is stopped")]
    Stopped,
}
