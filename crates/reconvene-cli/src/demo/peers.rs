//! The three peers of the demo: real replicas on real stores, linked over loopback.

use std::path::Path;
use std::time::Duration;

use reconvene::{InviteOptions, OpenOptions, Replica, Role, SyncOptions, SyncReport};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;

/// How long anything may take that takes no time on loopback.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How often a state is looked at that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// One peer.
pub(super) struct Peer {
    /// What the demo calls it.
    pub(super) name: &'static str,
    /// Its replica.
    pub(super) replica: Replica,
}

/// The server and the devices of two members.
pub(super) struct Peers {
    /// The server.
    pub(super) server: Peer,
    /// Ada's device.
    pub(super) a: Peer,
    /// Ben's device.
    pub(super) b: Peer,
    /// Where the server listens.
    pub(super) address: String,
}

impl Peers {
    /// Makes the stores below a directory, has the server listen, and both devices join.
    pub(super) async fn start(directory: &Path) -> Result<Self, Failure> {
        let server = Peer::open(directory, "server", Role::Server).await?;
        server.replica.ensure_shared_workspace().await?;
        let address = server.replica.listen(&[]).await?;
        let a = Peer::open(directory, "A", Role::Device).await?;
        let b = Peer::open(directory, "B", Role::Device).await?;
        for (device, member) in [(&a, "Ada"), (&b, "Ben")] {
            let options = InviteOptions {
                member: Some(member.to_owned()),
                expires_in: Duration::from_secs(600),
            };
            let invitation = server.replica.invite(options).await?;
            device.replica.join(&invitation.ticket).await?;
        }
        Ok(Self {
            server,
            a,
            b,
            address: address.join(", "),
        })
    }

    /// The three, the server last.
    pub(super) fn all(&self) -> [&Peer; 3] {
        [&self.a, &self.b, &self.server]
    }

    /// Cuts every link and waits until no peer has one.
    pub(super) async fn cut(&self) -> Result<(), Failure> {
        self.a.replica.disconnect().await?;
        self.b.replica.disconnect().await?;
        let until = Instant::now() + PATIENCE;
        for peer in self.all() {
            while !peer.replica.status().await?.links.is_empty() {
                if Instant::now() >= until {
                    let message = format!("{} still has a link", peer.name);
                    return Err(Failure::new("timeout", message));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Closes all stores.
    pub(super) async fn close(self) -> Result<(), Failure> {
        for peer in [self.a, self.b, self.server] {
            peer.replica.close().await?;
        }
        Ok(())
    }
}

impl Peer {
    async fn open(directory: &Path, name: &'static str, role: Role) -> Result<Self, Failure> {
        let directory = directory.join(name.to_lowercase());
        let open = OpenOptions::new(directory)
            .create_new(true)
            .role(role)
            .name(name)
            .open();
        let replica = open.await?;
        Ok(Self { name, replica })
    }

    /// One pass with the server.
    pub(super) async fn sync(&self) -> Result<SyncReport, Failure> {
        let options = SyncOptions {
            timeout: PATIENCE,
            ..SyncOptions::default()
        };
        Ok(self.replica.sync(options).await?)
    }

    /// The shared workspace as canonical JSON.
    pub(super) async fn export(&self) -> Result<String, Failure> {
        Ok(self.replica.export(None).await?)
    }
}
