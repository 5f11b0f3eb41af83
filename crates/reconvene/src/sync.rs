//! Syncing with servers and with other devices: one pass, or staying in touch.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use reconvene_core::engine::{Event, LinkStats};
use reconvene_core::ids::{FeedSeq, LinkId, PeerId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::records::FeedHeadRow;
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_libp2p::split_peer;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{timeout, timeout_at};

use crate::documents::decode;
use crate::driver::{Command, Notice};
use crate::profile::ProfileServer;
use crate::{Error, Replica};

/// Called with what a pass has moved so far; must not block.
pub type OnProgress = Arc<dyn Fn(SyncProgress) + Send + Sync>;

/// How to make a pass.
#[derive(Clone)]
pub struct SyncOptions {
    /// How long nothing may move before the pass fails.
    pub timeout: Duration,
    /// Told whenever something moved.
    pub progress: Option<OnProgress>,
}

impl Default for SyncOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            progress: None,
        }
    }
}

impl std::fmt::Debug for SyncOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncOptions")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// What a pass has moved so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SyncProgress {
    /// Documents of which changes were sent.
    pub documents_sent: u64,
    /// Documents of which changes were received.
    pub documents_received: u64,
}

/// What a pass did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SyncReport {
    /// Both sides durably hold what the other held when the pass began.
    pub verified: bool,
    /// Documents compared one by one, where no cursor could be trusted.
    pub documents_compared: u64,
    /// Documents of which changes were sent.
    pub documents_sent: u64,
    /// Documents of which changes were received.
    pub documents_received: u64,
    /// Documents materialised during the pass, for the index included.
    pub documents_materialised: u64,
    /// Bytes of our frames sent, with their length prefixes, from the hello on.
    pub bytes_sent: u64,
    /// Bytes of our frames received.
    pub bytes_received: u64,
    /// Bytes written to the socket, encryption and multiplexing included.
    pub socket_bytes_sent: u64,
    /// Bytes read from the socket.
    pub socket_bytes_received: u64,
    /// Times this side had sent something and waited for an answer.
    pub round_trips: u64,
    /// Time from the beginning until the index was up to date, in milliseconds.
    pub elapsed_ms: u64,
}

impl Replica {
    /// Makes one pass with every server joined: connects, exchanges both ways until both durably hold
    /// what the other held when the link came up, waits for the index, and disconnects unless
    /// [`Self::connect`] was called.
    ///
    /// Dropping this midway leaves what was received; the links are closed with the replica or by
    /// the next pass.
    ///
    /// # Errors
    /// If no server was joined, one refuses, or nothing moves for the time-out.
    pub async fn sync(&self, options: SyncOptions) -> Result<SyncReport, Error> {
        let servers = self.profile().servers.clone();
        if servers.is_empty() {
            return Err(Error::NoServer);
        }
        let began = Instant::now();
        self.pass_with_each(servers, true, &options, began).await
    }

    /// The same with other devices of a common workspace instead, at addresses that end in their ids:
    /// several of one device are tried in their order. No server is needed.
    ///
    /// # Errors
    /// If an address names no device, or one that shares no workspace with this one as far as this one
    /// was told; otherwise as for [`Self::sync`].
    pub async fn sync_with(
        &self,
        addresses: &[String],
        options: SyncOptions,
    ) -> Result<SyncReport, Error> {
        let peers = self.find_devices(addresses).await?;
        let began = Instant::now();
        self.pass_with_each(peers, false, &options, began).await
    }

    async fn pass_with_each(
        &self,
        peers: Vec<ProfileServer>,
        are_servers: bool,
        options: &SyncOptions,
        began: Instant,
    ) -> Result<SyncReport, Error> {
        let materialised_before = self.materialised();
        let mut report = SyncReport {
            verified: true,
            ..SyncReport::default()
        };
        for server in peers {
            let peer = server.peer;
            // A device that was to be kept in touch with before stays so.
            let live = self.shared.driver.live(None).await?;
            let is_kept = match are_servers {
                true => self.keeps_links(),
                false => live.addresses.contains_key(&peer),
            };
            let mut notices = self.shared.driver.notices();
            let passed = self.pass(server, are_servers, options, &mut notices).await;
            if are_servers {
                self.remember_addresses().await?;
            }
            let ends = !is_kept;
            if ends {
                // The link is not needed any more, however the pass ended.
                self.shared.driver.send(Command::Disconnect(peer)).await?;
            }
            let Passed { link, stats, wire } = passed?;
            // Our last frames may still be on their way to the socket: the whole is known at the end.
            let whole = if ends {
                link_ended(&mut notices, link).await
            } else {
                None
            };
            let wire = whole.unwrap_or(wire);
            report.documents_compared += stats.documents_compared;
            report.documents_sent += stats.documents_sent;
            report.documents_received += stats.documents_received;
            report.round_trips += stats.round_trips;
            report.bytes_sent += wire.frame_bytes_sent;
            report.bytes_received += wire.frame_bytes_received;
            report.socket_bytes_sent += wire.socket_bytes_sent;
            report.socket_bytes_received += wire.socket_bytes_received;
        }
        self.wait_for_index(options.timeout).await?;
        report.documents_materialised = self.materialised() - materialised_before;
        report.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(report)
    }

    fn materialised(&self) -> u64 {
        self.shared.documents.counter().snapshot().values().sum()
    }

    async fn pass(
        &self,
        server: ProfileServer,
        is_server: bool,
        options: &SyncOptions,
        notices: &mut Receiver<Notice>,
    ) -> Result<Passed, Error> {
        let peer = server.peer;
        // A link from before would have ended its pass already.
        self.shared.driver.send(Command::Disconnect(peer)).await?;
        self.shared
            .driver
            .send(Command::Connect(peer, server.addresses))
            .await?;
        let mut why = "the server did not answer".to_owned();
        let mut deadline = tokio::time::Instant::now() + options.timeout;
        loop {
            let notice = match timeout_at(deadline, notices.recv()).await {
                Ok(Ok(notice)) => notice,
                Ok(Err(RecvError::Lagged(_))) => continue,
                Ok(Err(RecvError::Closed)) => return Err(Error::Closed),
                Err(_) => return Err(stalled(options.timeout, why)),
            };
            match notice {
                Notice::PassComplete {
                    link,
                    peer: done,
                    stats,
                    wire,
                } if done == peer => {
                    return Ok(Passed { link, stats, wire });
                }
                Notice::PassComplete { .. } | Notice::LinkEnded { .. } => {}
                Notice::Engine(event) => {
                    if is_progress(&event, peer) {
                        deadline = tokio::time::Instant::now() + options.timeout;
                    }
                    // Devices may each be told of the other for only some workspaces yet.
                    let is_news =
                        |event: &Event| !is_server && matches!(event, Event::LinkReady { .. });
                    if is_news(&event) {
                        continue;
                    }
                    if let Some(outcome) = self.judge(&event, peer, options, &mut why) {
                        return Err(outcome);
                    }
                }
            }
        }
    }

    /// Whether an event ends the pass.
    fn judge(
        &self,
        event: &Event,
        server: PeerId,
        options: &SyncOptions,
        why: &mut String,
    ) -> Option<Error> {
        match event {
            Event::RefusedByPeer {
                peer,
                code,
                message,
                ..
            } if *peer == server => {
                // A server that cannot store now may be able to soon; what one link was closed for does
                // not close the next one.
                if matches!(code, RefusalCode::Unavailable | RefusalCode::Fault) {
                    why.clone_from(message);
                    return None;
                }
                Some(Error::Refused {
                    code: *code,
                    message: message.clone(),
                })
            }
            Event::LinkReady {
                peer, not_shared, ..
            } if *peer == server && !not_shared.is_empty() => {
                Some(Error::NotShared(not_shared.clone()))
            }
            Event::Unreachable {
                peer, why: reason, ..
            } if *peer == server => {
                why.clone_from(reason);
                None
            }
            Event::Progress { stats, .. } => {
                "the server stopped in the middle".clone_into(why);
                if let Some(progress) = &options.progress {
                    progress(SyncProgress {
                        documents_sent: stats.documents_sent,
                        documents_received: stats.documents_received,
                    });
                }
                None
            }
            Event::TooManyWorkspaces { peer } if *peer == server => {
                Some(Error::TooManyWorkspaces { peer: *peer })
            }
            Event::StoreFailed { error } | Event::LowSpace { error } => {
                Some(Error::Store(error.clone()))
            }
            _ => None,
        }
    }

    /// Waits until the index holds everything that is in the feeds now.
    pub(crate) async fn wait_for_index(&self, patience: Duration) -> Result<(), Error> {
        let ends = self
            .blocking(|shared| {
                let mut ends = Vec::new();
                for workspace in crate::replica::known_workspaces(&shared.reader)? {
                    let key = Key::feed_head(&workspace);
                    if let Some(value) = shared.reader.read(&key)? {
                        let row: FeedHeadRow = decode(&key, &value)?;
                        ends.push((workspace, row.point.seq));
                    }
                }
                Ok(ends)
            })
            .await?;
        let mut index = self.shared.index.clone();
        loop {
            let behind = {
                let progress = index.borrow_and_update();
                ends.iter().any(|(workspace, end)| {
                    progress.get(workspace).copied().unwrap_or(FeedSeq(0)) < *end
                })
            };
            if !behind {
                return Ok(());
            }
            match timeout(patience, index.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Error::Closed),
                Err(_) => return Err(stalled(patience, "the index was not refreshed".to_owned())),
            }
        }
    }

    /// Keeps a link to every server joined, from now until [`Self::close`]; changes go both ways as
    /// they happen. Resolves at once; [`Self::events`] and [`Self::status`] tell how it goes.
    ///
    /// # Errors
    /// If no server was joined.
    pub async fn connect(&self) -> Result<(), Error> {
        let servers = self.profile().servers.clone();
        if servers.is_empty() {
            return Err(Error::NoServer);
        }
        self.shared.keeps_links.store(true, Ordering::SeqCst);
        for server in servers {
            self.shared
                .driver
                .send(Command::Connect(server.peer, server.addresses))
                .await?;
        }
        Ok(())
    }

    /// Keeps a link also to other devices of a common workspace, at addresses that end in their ids,
    /// from now on until [`Self::close`]. Resolves at once.
    ///
    /// # Errors
    /// As for [`Self::sync_with`].
    pub async fn connect_to(&self, addresses: &[String]) -> Result<(), Error> {
        for device in self.find_devices(addresses).await? {
            let connect = Command::Connect(device.peer, device.addresses);
            self.shared.driver.send(connect).await?;
        }
        Ok(())
    }

    /// Whom the addresses name, each with all of theirs; all of them share a workspace with us.
    async fn find_devices(&self, addresses: &[String]) -> Result<Vec<ProfileServer>, Error> {
        let mut devices: Vec<ProfileServer> = Vec::new();
        for text in addresses {
            let (address, peer) = split_peer(text)?;
            let Some(peer) = peer else {
                return Err(Error::BadInput(format!(
                    "`{text}` does not say which device is meant: it has to end in /p2p/ and the device's id"
                )));
            };
            match devices.iter_mut().find(|device| device.peer == peer) {
                Some(device) => device.addresses.push(address),
                None => devices.push(ProfileServer {
                    peer,
                    addresses: vec![address],
                }),
            }
        }
        let peers: Vec<_> = devices.iter().map(|device| device.peer).collect();
        self.blocking(move |shared| {
            for peer in peers {
                let scan = Scan::ascending(KeyRange::shares_of(&peer), 1);
                if shared.reader.scan(&scan)?.rows.is_empty() {
                    return Err(Error::Stranger(peer));
                }
            }
            Ok(())
        })
        .await?;
        Ok(devices)
    }

    pub(crate) fn keeps_links(&self) -> bool {
        self.shared.keeps_links.load(Ordering::SeqCst)
    }

    /// Writes down in which order the servers' addresses are tried: those that worked last first.
    pub(crate) async fn remember_addresses(&self) -> Result<(), Error> {
        let live = self.shared.driver.live(None).await?;
        self.update_profile(|profile| {
            for server in &mut profile.servers {
                if let Some(tried) = live.addresses.get(&server.peer) {
                    server.addresses.clone_from(tried);
                }
            }
        })
    }

    /// Closes the links to the servers; local work goes on.
    ///
    /// # Errors
    /// If the replica is closed.
    pub async fn disconnect(&self) -> Result<(), Error> {
        self.shared.keeps_links.store(false, Ordering::SeqCst);
        self.remember_addresses().await?;
        let servers = self.profile().servers.clone();
        for server in servers {
            self.shared
                .driver
                .send(Command::Disconnect(server.peer))
                .await?;
        }
        Ok(())
    }
}

/// A pass that is complete, and what its link had carried then.
struct Passed {
    link: LinkId,
    stats: LinkStats,
    wire: reconvene_libp2p::LinkStats,
}

/// All that a closing link carried; `None` if its end is not seen in time.
async fn link_ended(
    notices: &mut Receiver<Notice>,
    wanted: LinkId,
) -> Option<reconvene_libp2p::LinkStats> {
    let ended = timeout(reconvene_libp2p::CLOSE_DEADLINE, async {
        loop {
            match notices.recv().await {
                Ok(Notice::LinkEnded { link, wire }) if link == wanted => return Some(wire),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    ended.await.ok().flatten()
}

/// Whether something moved with this server: being refused or told that it is alive does not count.
fn is_progress(event: &Event, server: PeerId) -> bool {
    match event {
        Event::Progress { peer, .. } | Event::LinkReady { peer, .. } => *peer == server,
        _ => false,
    }
}

fn stalled(patience: Duration, why: String) -> Error {
    Error::Timeout {
        seconds: patience.as_secs(),
        why,
    }
}
