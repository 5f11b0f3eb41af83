//! A server that a test controls.

use std::fs;
use std::path::Path;
use std::time::Duration;

use reconvene::{InviteOptions, OpenOptions, Replica, Role};
use tempfile::TempDir;

use crate::{ClientOptions, Error, Proxy, TestClient};

/// What lies in a data directory that a server may lose: everything but what it is and whom it knows.
const STORE: [&str; 2] = ["sled", "journal"];

/// A server in this process, on loopback. Its directory goes with it.
#[derive(Debug)]
pub struct TestServer {
    dir: TempDir,
    replica: Option<Replica>,
    address: String,
    state_version: u32,
    /// The links of its clients.
    proxies: Vec<Proxy>,
}

/// What a server's store was at some moment.
#[derive(Debug)]
pub struct Backup(TempDir);

impl TestServer {
    /// Starts a server with one shared workspace.
    ///
    /// # Errors
    /// If a directory cannot be made or a socket not be bound.
    pub async fn start() -> Result<Self, Error> {
        let mut server = Self {
            dir: tempfile::tempdir()?,
            replica: None,
            address: String::new(),
            state_version: 1,
            proxies: Vec::new(),
        };
        server.begin().await?;
        Ok(server)
    }

    /// The server's replica.
    ///
    /// # Panics
    /// If the server is stopped.
    pub fn replica(&self) -> &Replica {
        self.replica.as_ref().expect("the server is not stopped")
    }

    /// A device that joined as this member, linked to the server and in step with it.
    ///
    /// # Errors
    /// If it cannot be made or cannot join.
    pub async fn client(&mut self, member: &str) -> Result<TestClient, Error> {
        self.client_with(member, ClientOptions::default()).await
    }

    /// The same with options of its own.
    ///
    /// # Errors
    /// See [`Self::client`].
    pub async fn client_with(
        &mut self,
        member: &str,
        options: ClientOptions,
    ) -> Result<TestClient, Error> {
        let replica = self.replica.as_ref().ok_or(Error::Stopped)?;
        let options_of_ticket = InviteOptions {
            member: Some(member.to_owned()),
            expires_in: Duration::from_secs(3600),
        };
        let ticket = replica.invite(options_of_ticket).await?.ticket;
        let proxy = Proxy::new()?;
        proxy.lead_to(&self.address);
        self.proxies.push(proxy.clone());
        TestClient::join(&ticket, proxy, options).await
    }

    /// Stops in order. Its clients go on without it.
    ///
    /// # Errors
    /// If it did not close in order; it is stopped all the same.
    pub async fn stop(&mut self) -> Result<(), Error> {
        match self.replica.take() {
            Some(replica) => Ok(replica.close().await?),
            None => Ok(()),
        }
    }

    /// Starts again after [`Self::stop`], where it stopped.
    ///
    /// # Errors
    /// If the store cannot be opened or a socket not be bound.
    pub async fn begin(&mut self) -> Result<(), Error> {
        let options = OpenOptions::new(self.dir.path())
            .role(Role::Server)
            .state_version(self.state_version);
        let replica = options.open().await?;
        replica.ensure_shared_workspace().await?;
        // A port of its own each time: the old one may still be held by what is ending.
        let free = ["/ip4/127.0.0.1/tcp/0".to_owned()];
        let bound = replica.listen(&free).await?;
        self.address = bound.into_iter().next().ok_or(Error::Stopped)?;
        for proxy in &self.proxies {
            proxy.lead_to(&self.address);
        }
        self.replica = Some(replica);
        Ok(())
    }

    /// Stops and starts.
    ///
    /// # Errors
    /// See [`Self::stop`] and [`Self::begin`].
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.stop().await?;
        self.begin().await
    }

    /// Comes back with another number for breaking changes of state.
    ///
    /// # Errors
    /// See [`Self::restart`].
    pub async fn set_state_version(&mut self, number: u32) -> Result<(), Error> {
        self.state_version = number;
        self.restart().await
    }

    /// Loses everything in its store and comes back.
    ///
    /// # Errors
    /// See [`Self::restart`]; if the files cannot be removed.
    pub async fn wipe(&mut self) -> Result<(), Error> {
        self.stop().await?;
        self.remove_store()?;
        self.begin().await
    }

    /// What its store is now. It is stopped for that and started again.
    ///
    /// # Errors
    /// See [`Self::restart`]; if the files cannot be copied.
    pub async fn back_up(&mut self) -> Result<Backup, Error> {
        self.stop().await?;
        let backup = tempfile::tempdir()?;
        for name in STORE {
            copy_all(&self.dir.path().join(name), &backup.path().join(name))?;
        }
        self.begin().await?;
        Ok(Backup(backup))
    }

    /// Comes back with its store as it was.
    ///
    /// # Errors
    /// See [`Self::restart`]; if the files cannot be copied.
    pub async fn restore(&mut self, backup: &Backup) -> Result<(), Error> {
        self.stop().await?;
        self.remove_store()?;
        for name in STORE {
            copy_all(&backup.0.path().join(name), &self.dir.path().join(name))?;
        }
        self.begin().await
    }

    fn remove_store(&self) -> Result<(), Error> {
        for name in STORE {
            fs::remove_dir_all(self.dir.path().join(name))?;
        }
        Ok(())
    }
}

fn copy_all(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}
