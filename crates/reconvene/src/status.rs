//! The truth about freshness and delivery: what is held, by whom, as of when. Read from the store, so
//! it survives restarts and is right while offline.

use std::collections::BTreeMap;

use reconvene_core::feed::FeedPoint;
use reconvene_core::ids::{DocumentId, PeerId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits;
use reconvene_core::records::{
    DamageRow, FeedHeadRow, IndexStateRow, Offence, PeerRow, ShareRow, Standing, WorkspaceRow,
};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::time::WallTime;
use serde::Serialize;

use crate::delivery::{Pending, pending};
use crate::documents::decode;
use crate::driver::Live;
use crate::freshness::{Freshness, freshness, freshness_of_peer};
use crate::replica::Shared;
use crate::{DeviceInfo, Error, Replica};

/// Most peers of a workspace that are looked at.
const PEERS_MAX: usize = 10_000;

/// Most damaged documents of a workspace that a status lists.
pub const DAMAGED_MAX: usize = 1_000;

/// The state of a replica.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// What this device is.
    pub device: DeviceInfo,
    /// Documents in all workspaces.
    pub documents: u64,
    /// Documents materialised since this replica was opened, by what for.
    pub documents_materialised_by: BTreeMap<&'static str, u64>,
    /// What is open now.
    pub open: crate::OpenDocuments,
    /// How remote changes came into open documents since this replica was opened.
    pub applied: crate::ApplyStats,
    /// What is still to be delivered to servers and to this member's other devices.
    pub pending: Pending,
    /// Every workspace.
    pub workspaces: Vec<WorkspaceStatus>,
    /// Every link that is up.
    pub links: Vec<LinkStatus>,
    /// Every peer that is wanted and whose last link or dial led to nothing.
    pub unreached: Vec<DialStatus>,
    /// What went over links since this replica was opened, those that ended included.
    pub traffic: Traffic,
    /// Bytes on disk.
    pub disk: DiskUse,
    /// Barriers of the store since this replica was opened.
    pub barriers: u64,
    /// Why the store takes no more writes until it is opened again; `None` if it does.
    pub store_failed: Option<String>,
    /// What was found damaged or missing of the store when this replica was opened, for people.
    pub found_on_open: Vec<String>,
    /// The number for breaking changes of state that this replica tells its peers.
    pub state_version: u32,
}

/// What went over links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Links that came up.
    pub links: u64,
    /// Frames sent.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Bytes of the frames sent, with their length prefixes.
    pub bytes_sent: u64,
    /// See `bytes_sent`.
    pub bytes_received: u64,
    /// Bytes on sockets, encryption and multiplexing included.
    pub socket_bytes_sent: u64,
    /// See `socket_bytes_sent`.
    pub socket_bytes_received: u64,
}

impl Traffic {
    /// Adds what one link carried.
    pub(crate) fn add(&mut self, link: &reconvene_libp2p::LinkStats) {
        self.links += 1;
        self.frames_sent += link.frames_sent;
        self.frames_received += link.frames_received;
        self.bytes_sent += link.frame_bytes_sent;
        self.bytes_received += link.frame_bytes_received;
        self.socket_bytes_sent += link.socket_bytes_sent;
        self.socket_bytes_received += link.socket_bytes_received;
    }
}

/// The state of one workspace.
#[derive(Clone, Debug, Serialize)]
pub struct WorkspaceStatus {
    /// The workspace.
    pub id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// Whether it is a member's home.
    pub home: bool,
    /// Whether it is the current one.
    pub current: bool,
    /// The end of its feed; `None` before the first document.
    pub feed: Option<FeedStatus>,
    /// Its documents.
    pub documents: u64,
    /// How far its index follows its feed.
    pub index: IndexStatus,
    /// How fresh it is.
    pub freshness: Freshness,
    /// What each peer holds.
    pub peers: Vec<PeerStatus>,
    /// Documents of which something was lost that no peer has brought back yet, at most
    /// [`DAMAGED_MAX`].
    pub damaged: Vec<DamagedDocument>,
}

/// A document of which something was lost. What is left of it can be read.
#[derive(Clone, Debug, Serialize)]
pub struct DamagedDocument {
    /// The document.
    pub document: DocumentId,
    /// When it was found.
    pub since: WallTime,
    /// What was damaged, for people.
    pub what: String,
    /// Changes that are known by name to be lost.
    pub lost: u64,
}

/// A place in a feed.
#[derive(Clone, Debug, Serialize)]
pub struct FeedStatus {
    /// The history.
    pub epoch: String,
    /// The last entry.
    pub seq: u64,
    /// Running digest there.
    pub digest: String,
}

impl From<FeedPoint> for FeedStatus {
    fn from(point: FeedPoint) -> Self {
        Self {
            epoch: point.epoch.to_string(),
            seq: point.seq.0,
            digest: point.digest.to_string(),
        }
    }
}

/// How far the index follows the feed.
#[derive(Clone, Debug, Serialize)]
pub struct IndexStatus {
    /// Every entry up to this is in the index.
    pub seq: u64,
    /// Whether that is all.
    pub current: bool,
}

/// What one peer and this replica hold of each other.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// The peer.
    pub peer: PeerId,
    /// Whether a link to it is up.
    pub linked: bool,
    /// Up to where it durably holds our feed.
    pub holds_ours: Option<FeedStatus>,
    /// Entries of our feed it is not known to hold; `None` where its cursor is of another history.
    pub owed: Option<u64>,
    /// Up to where we durably hold its feed.
    pub held_of_theirs: Option<FeedStatus>,
    /// As of when nothing it held was missing here, and whether that is fresh.
    pub freshness: Freshness,
    /// Documents of theirs refused here.
    pub refused_here: BTreeMap<DocumentId, RefusalCode>,
    /// Documents of ours refused there.
    pub refused_there: BTreeMap<DocumentId, RefusalCode>,
    /// Further documents refused here that are only counted.
    pub refused_here_unlisted: u64,
    /// Further documents refused there that are only counted.
    pub refused_there_unlisted: u64,
    /// What it sent that no peer sends that keeps the protocol: the last of it, oldest first.
    pub offences: Vec<OffenceStatus>,
    /// Whether something is missing on either side and nothing moves.
    pub stalled: Option<StallStatus>,
    /// What the peer is called, if it is a device.
    pub device_name: Option<String>,
}

/// Something that no peer sends that keeps the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OffenceStatus {
    /// The document for which it was sent.
    pub document: DocumentId,
    /// What was wrong with it, for people.
    pub what: String,
    /// How many bytes it had.
    pub bytes: u64,
    /// When it came.
    pub at: WallTime,
    /// Whether its bytes, or their beginning, are still in quarantine.
    pub kept: bool,
}

impl From<&Offence> for OffenceStatus {
    fn from(offence: &Offence) -> Self {
        Self {
            document: offence.document,
            what: offence.what.clone(),
            bytes: offence.size,
            at: offence.at,
            kept: offence.is_kept,
        }
    }
}

/// Nothing moves although something is missing.
#[derive(Clone, Debug, Serialize)]
pub struct StallStatus {
    /// Since when.
    pub since: WallTime,
    /// How often in a row the peers greeted anew for it.
    pub times: u32,
}

/// A peer that is wanted and not linked, or has led to nothing yet.
#[derive(Clone, Debug, Serialize)]
pub struct DialStatus {
    /// The peer.
    pub peer: PeerId,
    /// When it was last tried.
    pub at: WallTime,
    /// The peer's refusal, if that was it.
    pub refused: Option<RefusalCode>,
    /// Why, for people.
    pub why: String,
}

/// A link that is up.
#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    /// The peer.
    pub peer: PeerId,
    /// Documents sent and received over it.
    pub documents_sent: u64,
    /// See `documents_sent`.
    pub documents_received: u64,
    /// Bytes of our frames, with their length prefixes.
    pub bytes_sent: u64,
    /// See `bytes_sent`.
    pub bytes_received: u64,
    /// Bytes on the socket, encryption and multiplexing included.
    pub socket_bytes_sent: u64,
    /// See `socket_bytes_sent`.
    pub socket_bytes_received: u64,
}

/// Bytes on disk by kind.
#[derive(Clone, Debug, Serialize)]
pub struct DiskUse {
    /// The store.
    pub store_bytes: u64,
    /// The journal.
    pub journal_bytes: u64,
    /// What was set aside as damaged.
    pub quarantine_bytes: u64,
    /// Why nothing is written at present: what is free, and what has to be. `None` if nothing was
    /// refused for want of room, or there is room again.
    pub low_space: Option<String>,
}

impl Replica {
    /// The state of this replica, from its store and its links.
    ///
    /// # Errors
    /// If the store fails or the replica is closed.
    pub async fn status(&self) -> Result<Status, Error> {
        let live = self.shared.driver.live(None).await?;
        let device = self.device();
        self.blocking(move |shared| collect(shared, device, &live))
            .await
    }
}

fn collect(shared: &Shared, device: DeviceInfo, live: &Live) -> Result<Status, Error> {
    let mut workspaces = Vec::new();
    let scan = Scan::ascending(KeyRange::workspaces(), limits::LINK_WORKSPACES_MAX * 16);
    for (key, value) in shared.reader.scan(&scan)?.rows {
        let Some(id) = key.workspace_id() else {
            continue;
        };
        let row: WorkspaceRow = decode(&key, &value)?;
        workspaces.push(workspace_status(shared, id, row, &device, live)?);
    }
    let disk = reconvene_sled::disk_bytes(&shared.data_dir()?).map_err(|source| Error::Io {
        what: "the disk use could not be read".to_owned(),
        source,
    })?;
    Ok(Status {
        documents: workspaces.iter().map(|workspace| workspace.documents).sum(),
        documents_materialised_by: shared.documents.counter().snapshot(),
        open: shared.documents.open(),
        applied: shared.documents.apply_stats(),
        pending: pending(shared, live)?,
        workspaces,
        links: live
            .links
            .iter()
            .map(|link| LinkStatus {
                peer: link.peer,
                documents_sent: link.stats.documents_sent,
                documents_received: link.stats.documents_received,
                bytes_sent: link.wire.frame_bytes_sent,
                bytes_received: link.wire.frame_bytes_received,
                socket_bytes_sent: link.wire.socket_bytes_sent,
                socket_bytes_received: link.wire.socket_bytes_received,
            })
            .collect(),
        unreached: live
            .troubles
            .iter()
            .map(|(peer, trouble)| DialStatus {
                peer: *peer,
                at: trouble.at,
                refused: trouble.code,
                why: trouble.why.clone(),
            })
            .collect(),
        disk: DiskUse {
            store_bytes: disk.sled,
            journal_bytes: disk.journal,
            quarantine_bytes: disk.quarantine,
            low_space: live.low_space.as_ref().map(ToString::to_string),
        },
        traffic: live.traffic,
        barriers: live.barriers,
        store_failed: live.store_failed.clone(),
        found_on_open: shared.found_on_open.clone(),
        state_version: live.state_version,
        device,
    })
}

fn workspace_status(
    shared: &Shared,
    id: WorkspaceId,
    row: WorkspaceRow,
    device: &DeviceInfo,
    live: &Live,
) -> Result<WorkspaceStatus, Error> {
    let head = feed_head(shared, id)?;
    let indexed = indexed_to(shared, id)?;
    let end = head.as_ref().map_or(0, |head| head.point.seq.0);
    let names = device_names(shared, id)?;
    let peers = peer_rows(shared, id, live)?
        .into_iter()
        .map(|(peer, row)| {
            let owed = match (&head, row.acknowledged) {
                (None, _) => Some(0),
                (Some(head), Some(held)) if held.epoch == head.point.epoch => {
                    Some(head.point.seq.0.saturating_sub(held.seq.0))
                }
                _ => None,
            };
            PeerStatus {
                peer,
                linked: live.is_linked(&peer),
                holds_ours: row.acknowledged.map(FeedStatus::from),
                owed,
                held_of_theirs: row.held.map(FeedStatus::from),
                freshness: freshness_of_peer(shared, id, peer, &row, live),
                refused_here: row.refused_here,
                refused_there: row.refused_there,
                refused_here_unlisted: row.refused_here_unlisted,
                refused_there_unlisted: row.refused_there_unlisted,
                offences: row.offences.iter().map(OffenceStatus::from).collect(),
                stalled: live.stalls.get(&(peer, id)).map(|stall| StallStatus {
                    since: stall.since,
                    times: stall.times,
                }),
                device_name: names.get(&peer).cloned(),
            }
        })
        .collect();
    Ok(WorkspaceStatus {
        id,
        name: row.name,
        home: row.home_of.is_some(),
        current: device.current == Some(id),
        feed: head.as_ref().map(|head| FeedStatus::from(head.point)),
        documents: head.map_or(0, |head| head.documents),
        index: IndexStatus {
            seq: indexed,
            current: indexed >= end,
        },
        freshness: freshness(shared, id, live, true)?,
        peers,
        damaged: damaged(shared, id)?,
    })
}

/// The documents of which something was lost.
fn damaged(shared: &Shared, workspace: WorkspaceId) -> Result<Vec<DamagedDocument>, Error> {
    let scan = Scan::ascending(KeyRange::damages(&workspace), DAMAGED_MAX);
    let rows = shared.reader.scan(&scan)?.rows;
    let damaged = rows.iter().filter_map(|(key, value)| {
        let document = key.document()?;
        let row = decode::<DamageRow>(key, value);
        Some(row.map(|row| DamagedDocument {
            document,
            since: row.since,
            what: row.what,
            lost: row.lost.len() as u64,
        }))
    });
    damaged.collect()
}

/// What the devices are called that a workspace is shared with.
fn device_names(
    shared: &Shared,
    workspace: WorkspaceId,
) -> Result<BTreeMap<PeerId, String>, Error> {
    let scan = Scan::ascending(KeyRange::shares(), limits::ROSTER_MAX);
    let mut names = BTreeMap::new();
    for (key, value) in shared.reader.scan(&scan)?.rows {
        if let Some((peer, of)) = key.share_parts().filter(|(_, of)| *of == workspace) {
            let row: ShareRow = decode(&key, &value)?;
            if row.standing != Standing::Server && of == workspace {
                names.insert(peer, row.device_name);
            }
        }
    }
    Ok(names)
}

pub(crate) fn feed_head(
    shared: &Shared,
    workspace: WorkspaceId,
) -> Result<Option<FeedHeadRow>, Error> {
    let key = Key::feed_head(&workspace);
    shared
        .reader
        .read(&key)?
        .map(|value| decode(&key, &value))
        .transpose()
}

/// The end of a workspace's feed.
pub(crate) fn feed_end(shared: &Shared, workspace: WorkspaceId) -> Result<u64, Error> {
    Ok(feed_head(shared, workspace)?.map_or(0, |head| head.point.seq.0))
}

pub(crate) fn indexed_to(shared: &Shared, workspace: WorkspaceId) -> Result<u64, Error> {
    let live = shared.index.borrow().get(&workspace).map(|seq| seq.0);
    if let Some(live) = live {
        return Ok(live);
    }
    let key = Key::index_state(&workspace);
    let state = shared.reader.read(&key)?;
    let state = state
        .map(|value| decode::<IndexStateRow>(&key, &value))
        .transpose()?;
    Ok(state.map_or(0, |state| state.seq.0))
}

/// What each peer holds: as the engine knows it where it does, else as it was stored.
pub(crate) fn peer_rows(
    shared: &Shared,
    workspace: WorkspaceId,
    live: &Live,
) -> Result<BTreeMap<PeerId, PeerRow>, Error> {
    let scan = Scan::ascending(KeyRange::peers(&workspace), PEERS_MAX);
    let mut peers = BTreeMap::new();
    for (key, value) in shared.reader.scan(&scan)?.rows {
        if let Some(peer) = key.peer_id() {
            peers.insert(peer, decode(&key, &value)?);
        }
    }
    if let Some(known) = live.peers.get(&workspace) {
        peers.extend(known.iter().map(|(peer, row)| (*peer, row.clone())));
    }
    Ok(peers)
}
