//! A device whose link a test controls.

use std::time::Duration;

use reconvene::{
    AtLeast, Delivery, HeldBy, ManualClock, OpenOptions, Replica, Role, SyncOptions, Ticket,
};
use tempfile::TempDir;

use crate::{Error, Proxy, patience};

/// How a client runs.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// For how long what was verified counts as fresh; `None`: as where nothing is said.
    pub staleness_bound: Option<Duration>,
    /// A clock that the test puts forward; `None`: the machine's.
    pub clock: Option<ManualClock>,
}

/// A device in this process that keeps its link to the server up whenever it is let through. Its
/// directory goes with it.
#[derive(Debug)]
pub struct TestClient {
    dir: TempDir,
    replica: Replica,
    proxy: Proxy,
    options: ClientOptions,
}

impl TestClient {
    pub(crate) async fn join(
        ticket: &str,
        proxy: Proxy,
        options: ClientOptions,
    ) -> Result<Self, Error> {
        let dir = tempfile::tempdir()?;
        let replica = open(&dir, &options).await?;
        // Its way to the server is the proxy.
        let mut ticket = Ticket::decode(ticket).map_err(reconvene::Error::from)?;
        ticket.addresses = vec![format!("{}/p2p/{}", proxy.address(), ticket.peer)];
        replica.join(&ticket.encode()).await?;
        let client = Self {
            dir,
            replica,
            proxy,
            options,
        };
        client.replica.sync(SyncOptions::default()).await?;
        client.replica.connect().await?;
        Ok(client)
    }

    /// The device's replica.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// What is between the device and the server.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Ends the link, and lets none come up.
    pub fn cut_off(&self) {
        self.proxy.close();
    }

    /// Lets links come up again: at the device's next try, which [`Self::settle`] brings about at once.
    pub fn let_through(&self) {
        self.proxy.open();
    }

    /// Closes the replica and opens it again. It links to the server as before.
    ///
    /// # Errors
    /// If the store cannot be closed or opened.
    pub async fn restart(self) -> Result<Self, Error> {
        let Self {
            dir,
            replica,
            proxy,
            options,
        } = self;
        replica.close().await?;
        let replica = open(&dir, &options).await?;
        replica.connect().await?;
        Ok(Self {
            dir,
            replica,
            proxy,
            options,
        })
    }

    /// Waits until the server holds what is here, and everything that the server held when this was
    /// called is here.
    ///
    /// # Errors
    /// If it does not come to that in [`patience`].
    pub async fn settle(&self) -> Result<(), Error> {
        self.replica.network_changed().await?;
        // First this: what the server said before it may have lost since.
        let now = AtLeast::MaxStale(Duration::ZERO);
        self.replica.read_at_least(now, patience()).await?;
        let written = self.replica.written().await?;
        let held = Delivery::HeldBy(HeldBy::Server);
        written.wait(held, patience()).await?;
        Ok(())
    }
}

async fn open(dir: &TempDir, options: &ClientOptions) -> Result<Replica, Error> {
    let mut open = OpenOptions::new(dir.path()).role(Role::Device);
    if let Some(bound) = options.staleness_bound {
        open = open.staleness_bound(bound);
    }
    if let Some(clock) = &options.clock {
        open = open.clock(clock.clone());
    }
    Ok(open.open().await?)
}
