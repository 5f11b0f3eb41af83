//! Which workspaces are shared with whom: kept in memory as the batches assigned so far will have it,
//! told by a server to the devices it enrolled, learned by those from their server alone.
//!
//! A device thereby knows the other devices of its workspaces before it ever meets one, and may link
//! to them while the server is away. It never tells others of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::ingest::Learned;
use super::{CloseReason, Engine, Event, ReadQuery, Reading};
use crate::feed::Digest;
use crate::ids::{LinkId, PeerId, ReadId, WorkspaceId};
use crate::keys::{Key, KeyKind, KeyRange};
use crate::limits;
use crate::records::{Record as _, RecordError, ShareRow, Standing};
use crate::storage::{Rows, Scan};
use crate::wire::{Frame, SharedDevice, Shares};

/// Every share of this store.
#[derive(Debug, Default)]
pub(super) struct Roster {
    shares: BTreeMap<(WorkspaceId, PeerId), ShareRow>,
    state: State,
    /// What was written before the shares were read: newer than whatever the read finds.
    written: Vec<(Key, Option<Bytes>)>,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    #[default]
    Unread,
    Reading(ReadId),
    Known,
}

impl Roster {
    pub(super) fn is_known(&self) -> bool {
        self.state == State::Known
    }

    /// What was read does not count: it is asked for again.
    pub(super) fn read_again(&mut self) {
        self.state = State::Unread;
    }

    /// What a peer is here in a workspace.
    pub(super) fn standing(&self, workspace: &WorkspaceId, peer: &PeerId) -> Option<Standing> {
        let row = self.shares.get(&(*workspace, *peer))?;
        Some(row.standing)
    }

    /// Whether a peer's word is taken for a whole version of a document: that of the server this store
    /// joined, and of the same member's other devices.
    pub(super) fn takes_snapshots_of(&self, workspace: &WorkspaceId, peer: &PeerId) -> bool {
        let row = |peer: &PeerId| self.shares.get(&(*workspace, *peer));
        row(peer).is_some_and(|known| match known.standing {
            Standing::Server => true,
            // What this store is to its server is whose device it is.
            Standing::Learned(server) => {
                row(&server).is_some_and(|server| server.member == known.member)
            }
            Standing::Device => false,
        })
    }

    /// The servers from which this store has a workspace.
    pub(super) fn servers_of(&self, workspace: WorkspaceId) -> BTreeSet<PeerId> {
        let rows = self.of_workspace(workspace);
        let servers = rows.filter(|(_, row)| row.standing == Standing::Server);
        servers.map(|(peer, _)| peer).collect()
    }

    /// The other devices of a device's member, of those enrolled here in a workspace.
    pub(super) fn siblings_of(&self, workspace: WorkspaceId, device: PeerId) -> Vec<PeerId> {
        let enrolled = |row: &&ShareRow| row.standing == Standing::Device;
        let Some(own) = self.shares.get(&(workspace, device)).filter(enrolled) else {
            return Vec::new();
        };
        let rows = self.of_workspace(workspace);
        let siblings =
            rows.filter(|(peer, row)| enrolled(row) && row.member == own.member && *peer != device);
        siblings.map(|(peer, _)| peer).collect()
    }

    /// How many workspaces are shared with a peer, other than these.
    pub(super) fn count_besides(&self, peer: &PeerId, others: &[WorkspaceId]) -> usize {
        let of_peer = self
            .shares
            .keys()
            .filter(|(workspace, of)| of == peer && !others.contains(workspace));
        of_peer.count()
    }

    fn of_workspace(&self, workspace: WorkspaceId) -> impl Iterator<Item = (PeerId, &ShareRow)> {
        let first = (workspace, PeerId::from_bytes([0; 32]));
        let last = (workspace, PeerId::from_bytes([0xff; 32]));
        let rows = self.shares.range(first..=last);
        rows.map(|((_, peer), row)| (*peer, row))
    }

    /// The devices of a workspace that another is told of.
    fn told_to(&self, peer: PeerId, workspace: WorkspaceId) -> Vec<SharedDevice> {
        let enrolled = self
            .of_workspace(workspace)
            .filter(|(device, row)| row.standing == Standing::Device && *device != peer);
        let devices = enrolled.map(|(device, row)| SharedDevice {
            peer: device,
            member: row.member,
            device_name: row.device_name.clone(),
        });
        devices.take(limits::SHARES_MAX).collect()
    }

    fn workspaces_of(&self, peer: PeerId, standing: Standing) -> Vec<WorkspaceId> {
        let rows = self
            .shares
            .iter()
            .filter(|((_, of), row)| *of == peer && row.standing == standing);
        rows.map(|((workspace, _), _)| *workspace).collect()
    }

    /// Digest of what a device is told, in the order of workspaces and peers; `None` if it is nothing.
    fn digest_told_to(&self, peer: PeerId) -> Option<Digest> {
        let workspaces = self.workspaces_of(peer, Standing::Device);
        digest(workspaces.into_iter().flat_map(|workspace| {
            let devices = self.told_to(peer, workspace).into_iter();
            devices.map(move |device| (workspace, device))
        }))
    }

    /// The same of what was learned from a server.
    pub(super) fn digest_learned_from(&self, server: PeerId) -> Option<Digest> {
        let learned = self
            .shares
            .iter()
            .filter(|(_, row)| row.standing == Standing::Learned(server));
        digest(learned.map(|((workspace, peer), row)| {
            let device = SharedDevice {
                peer: *peer,
                member: row.member,
                device_name: row.device_name.clone(),
            };
            (*workspace, device)
        }))
    }

    /// Takes note of a record that is being written or removed.
    pub(super) fn note_write(&mut self, key: &Key, value: Option<&Bytes>) {
        if key.kind() != Some(KeyKind::Share) {
            return;
        }
        if !self.is_known() {
            self.written.push((key.clone(), value.cloned()));
            return;
        }
        self.set(key, value);
    }

    fn set(&mut self, key: &Key, value: Option<&Bytes>) {
        let Some((peer, workspace)) = key.share_parts() else {
            return;
        };
        // What the host writes is its own business; one that does not decode is found when read.
        match value.map(|value| ShareRow::decode(value)) {
            Some(Ok(row)) => self.shares.insert((workspace, peer), row),
            Some(Err(_)) | None => self.shares.remove(&(workspace, peer)),
        };
    }
}

fn digest(devices: impl Iterator<Item = (WorkspaceId, SharedDevice)>) -> Option<Digest> {
    let mut hasher = Sha256::new();
    let mut any = false;
    for (workspace, device) in devices {
        any = true;
        hasher.update(workspace.as_bytes());
        hasher.update(device.peer.as_bytes());
        hasher.update(device.member.as_bytes());
        hasher.update((device.device_name.len() as u64).to_be_bytes());
        hasher.update(device.device_name.as_bytes());
    }
    any.then(|| Digest::finish(hasher))
}

impl Engine {
    /// Asks for all shares, unless that was done before.
    pub(super) fn ensure_roster(&mut self) {
        if self.roster.state == State::Unread {
            let scan = Scan::ascending(KeyRange::shares(), limits::ROSTER_MAX);
            let read = self.read(ReadQuery::Scan(scan), Reading::Roster);
            self.roster.state = State::Reading(read);
        }
    }

    pub(super) fn on_roster(&mut self, read: ReadId, rows: &Rows) -> Result<(), RecordError> {
        if self.roster.state != State::Reading(read) {
            return Ok(());
        }
        for (key, value) in &rows.rows {
            if let Some((peer, workspace)) = key.share_parts() {
                let row = ShareRow::decode(value)?;
                self.roster.shares.insert((workspace, peer), row);
            }
        }
        for (key, value) in std::mem::take(&mut self.roster.written) {
            self.roster.set(&key, value.as_ref());
        }
        self.roster.state = State::Known;
        self.greet_waiting_links();
        Ok(())
    }

    /// Shares that were written are behind their barrier: tells those who may know, and greets anew
    /// where a link was greeted on other grounds.
    pub(super) fn on_shares_stored(&mut self, changed: &BTreeSet<(WorkspaceId, PeerId)>) {
        if !self.roster.is_known() {
            return;
        }
        for (workspace, _) in changed {
            let mut left = self.roster.of_workspace(*workspace);
            if left.next().is_none() && self.leaving.get(workspace) == Some(&false) {
                self.leaving.remove(workspace);
            }
        }
        for (workspace, peer) in changed {
            let shared = self.roster.standing(workspace, peer).is_some();
            for link in self.links_to(*peer) {
                let is_up = self.links.get(&link).is_some_and(|link| link.is_up());
                let has_flow = self.flow(link, workspace).is_some();
                if is_up && shared != has_flow {
                    self.close_link(link, CloseReason::SharesChanged);
                    self.dial_if_needed(*peer);
                }
            }
        }
        let links: Vec<_> = self.links.keys().copied().collect();
        for link in links {
            self.tell_shares(link);
        }
    }

    /// Tells a device that was enrolled here of the others, unless it knows.
    pub(super) fn tell_shares(&mut self, link: LinkId) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let peer = state.peer;
        let digest = self.roster.digest_told_to(peer);
        if !state.is_up() || state.shares_known == digest {
            return;
        }
        state.shares_known = digest;
        let shared: Vec<_> = state.flows.keys().copied().collect();
        for workspace in shared {
            if self.roster.standing(&workspace, &peer) != Some(Standing::Device) {
                continue;
            }
            let devices = self.roster.told_to(peer, workspace);
            let frames = devices.len().div_ceil(limits::SHARES_PER_FRAME).max(1);
            let mut rest = devices.into_iter();
            for place in 1..=frames {
                let devices = rest.by_ref().take(limits::SHARES_PER_FRAME).collect();
                let more = place < frames;
                let shares = Shares {
                    workspace,
                    devices,
                    more,
                };
                self.send(link, &Frame::Shares(shares));
            }
        }
    }

    pub(super) fn on_shares_told(&mut self, link: LinkId, shares: Shares) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let peer = state.peer;
        let workspace = shares.workspace;
        let is_server = self.roster.standing(&workspace, &peer) == Some(Standing::Server);
        if !is_server || !state.flows.contains_key(&workspace) {
            let what = "shares of a workspace of which this peer is not the server";
            return self.fault(link, what.to_owned());
        }
        let told = state.learning.entry(workspace).or_default();
        told.extend(shares.devices);
        if told.len() > limits::SHARES_MAX {
            return self.fault(link, "more shares than a workspace may have".to_owned());
        }
        if shares.more {
            return;
        }
        let devices = state.learning.remove(&workspace).unwrap_or_default();
        self.enqueue_learned(Learned {
            workspace,
            server: peer,
            devices,
        });
    }

    /// Workspaces of which it is known who takes part, by the word of their servers in this engine's
    /// life: of the others nobody said that there are no more devices than are known.
    pub fn shares_told(&self) -> impl Iterator<Item = WorkspaceId> + '_ {
        self.shares_told.iter().copied()
    }

    /// A server said something that it only says after it has told who takes part, if that was others
    /// than are known here.
    pub(super) fn note_shares_told(&mut self, link: LinkId) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let peer = state.peer;
        let workspaces = state.flows.keys().filter(|workspace| {
            self.roster.standing(workspace, &peer) == Some(Standing::Server)
                && !state.learning.contains_key(*workspace)
                && !self.shares_told.contains(*workspace)
                && !self.is_learning(workspace)
        });
        for workspace in workspaces.copied().collect::<Vec<_>>() {
            self.shares_told.insert(workspace);
            self.emit(Event::SharesKnown { workspace });
        }
    }

    /// What has to be written and removed so that the shares learned are those told.
    pub(super) fn differing_shares(&self, learned: &Learned) -> (Vec<(Key, Bytes)>, Vec<Key>) {
        let Learned {
            workspace,
            server,
            devices,
        } = learned;
        let mut puts = BTreeMap::new();
        let mut told = BTreeSet::new();
        for device in devices {
            let known = self.roster.shares.get(&(*workspace, device.peer));
            // What this store knows at first hand stays.
            let is_own = known.is_some_and(|row| !matches!(row.standing, Standing::Learned(_)));
            if is_own || device.peer == self.config.me || device.peer == *server {
                continue;
            }
            told.insert(device.peer);
            let row = ShareRow {
                member: device.member,
                device_name: device.device_name.clone(),
                since: known.map_or(self.now.wall, |row| row.since),
                standing: Standing::Learned(*server),
            };
            if known != Some(&row) {
                puts.insert(Key::share(&device.peer, workspace), row.encode());
            }
        }
        let known = self.roster.of_workspace(*workspace);
        let gone = known.filter(|(peer, row)| {
            matches!(row.standing, Standing::Learned(_)) && !told.contains(peer)
        });
        let deletes = gone.map(|(peer, _)| Key::share(&peer, workspace)).collect();
        (puts.into_iter().collect(), deletes)
    }

    /// The host leaves a workspace: its server is told, and links that carried it greet anew.
    pub(super) fn on_leave(&mut self, workspace: WorkspaceId, removing: bool) {
        self.leaving.insert(workspace, removing);
        let links: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.flows.contains_key(&workspace))
            .map(|(id, link)| (*id, link.peer))
            .collect();
        for (link, peer) in links {
            let is_server = self.roster.standing(&workspace, &peer) == Some(Standing::Server);
            if is_server && self.links.get(&link).is_some_and(|link| link.is_up()) {
                self.send(link, &Frame::Leave(workspace));
            }
            self.close_link(link, CloseReason::Finished);
        }
    }

    /// A device takes no part in a workspace any more: its share ends.
    pub(super) fn on_left(&mut self, link: LinkId, workspace: WorkspaceId) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let peer = state.peer;
        if self.roster.standing(&workspace, &peer) != Some(Standing::Device) {
            return; // It said so before.
        }
        if let Some(state) = self.links.get_mut(&link) {
            state.flows.remove(&workspace);
        }
        if let Some(known) = self.ready(&workspace) {
            known.peers.remove(&peer);
        }
        self.enqueue_left(workspace, peer);
        self.emit(Event::DeviceLeft { peer, workspace });
        self.close_link(link, CloseReason::Finished);
    }
}
