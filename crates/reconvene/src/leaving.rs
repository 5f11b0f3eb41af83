//! Leaving a workspace: no edit is given up unasked, the server is told if it can be, and what is
//! removed is removed whole, whatever ends the process.

use std::collections::BTreeSet;
use std::time::Duration;

use reconvene_core::engine::{Event, Write};
use reconvene_core::ids::{DocumentId, FeedSeq, PeerId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits;
use reconvene_core::records::{FeedHeadRow, FeedRow};
use reconvene_core::storage::{Scan, StoreRead as _};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use crate::documents::decode;
use crate::driver::{Command, Live, Notice};
use crate::replica::{Shared, request_id};
use crate::status::peer_rows;
use crate::{Error, Replica};

/// How long a server that is not linked is tried, to tell it.
const TELL_DEADLINE: Duration = Duration::from_secs(5);
/// How long the index may take to notice that a workspace is gone.
const INDEX_DEADLINE: Duration = Duration::from_secs(10);
/// Records removed at a time.
const REMOVED_RECORDS: usize = 1024;
/// Feed entries looked at at a time.
const ENTRIES: usize = 4096;

/// How to leave.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeaveOptions {
    /// Leave although there are edits that no other peer holds.
    pub discard: bool,
    /// Remove the workspace's documents from this device; else they stay, as a workspace that is
    /// shared with nobody.
    pub remove: bool,
}

/// What leaving led to.
#[derive(Clone, Debug, Serialize)]
pub struct LeaveReport {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// What it was called.
    pub workspace_name: String,
    /// Whether a server was told, so that it ends the share, too.
    pub told_server: bool,
    /// Whether the documents were removed here.
    pub removed: bool,
    /// Changes of this device that no other peer is known to hold.
    pub not_held_elsewhere: u64,
}

impl Replica {
    /// Leaves a workspace, by id or exact name: it is synced with nobody any more. Its server ends the
    /// share if it is linked or answers within a few seconds.
    ///
    /// Dropping this midway may leave the workspace left or not; what was begun to be removed is
    /// removed with the next open.
    ///
    /// # Errors
    /// If there is no such workspace, it is the member's home, or it has edits that no other peer holds
    /// and [`LeaveOptions::discard`] is not set.
    pub async fn leave_workspace(
        &self,
        id_or_name: &str,
        options: LeaveOptions,
    ) -> Result<LeaveReport, Error> {
        let found = self.find_workspace(id_or_name).await?;
        let (id, server) = {
            let profile = self.profile();
            if found.id == profile.home || found.home {
                return Err(Error::BadInput("a member's home cannot be left".to_owned()));
            }
            let known = profile.workspace(&found.id);
            (found.id, known.and_then(|known| known.server))
        };
        let live = self.shared.driver.live(Some(id)).await?;
        let changes = self
            .blocking(move |shared| count_not_held(shared, id, &live))
            .await?;
        if changes > 0 && !options.discard {
            return Err(Error::NotHeldElsewhere { changes });
        }
        self.update_profile(|profile| {
            if options.remove {
                profile.drop_workspace(id);
                profile.removed.push(id);
            } else if let Some(known) = profile.workspaces.iter_mut().find(|known| known.id == id) {
                known.server = None;
            }
        })?;
        let told_server = self.tell_leaving(id, options.remove, server).await?;
        self.end_shares(id).await?;
        let mut idle = Vec::new();
        self.update_profile(|profile| idle = profile.drop_idle_servers())?;
        if !self.keeps_links() {
            idle.extend(server);
        }
        for peer in idle {
            self.shared.driver.send(Command::Disconnect(peer)).await?;
        }
        if options.remove {
            self.finish_removals().await?;
        }
        Ok(LeaveReport {
            workspace: id,
            workspace_name: found.name,
            told_server,
            removed: options.remove,
            not_held_elsewhere: changes,
        })
    }

    /// Has the engine leave; whether the server heard of it, over a link that is up or comes up soon.
    async fn tell_leaving(
        &self,
        workspace: WorkspaceId,
        removing: bool,
        server: Option<PeerId>,
    ) -> Result<bool, Error> {
        let mut notices = self.shared.driver.notices();
        let linked = self.shared.driver.live(None).await?;
        let leave = Command::Leave {
            workspace,
            removing,
        };
        self.shared.driver.send(leave).await?;
        let Some(server) = server else {
            return Ok(false);
        };
        if linked.is_linked(&server) {
            return Ok(true);
        }
        let known = self.profile().servers.clone();
        let Some(known) = known.into_iter().find(|known| known.peer == server) else {
            return Ok(false);
        };
        let connect = Command::Connect(server, known.addresses);
        self.shared.driver.send(connect).await?;
        let heard = tokio::time::timeout(TELL_DEADLINE, async {
            loop {
                match notices.recv().await {
                    Ok(Notice::Engine(event)) => match &*event {
                        Event::LinkReady { peer, .. } if *peer == server => return true,
                        Event::Unreachable { peer, .. } if *peer == server => return false,
                        _ => {}
                    },
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return false,
                }
            }
        });
        Ok(heard.await.unwrap_or(false))
    }

    /// Removes the records of a workspace's shares, and of what peers hold of it.
    async fn end_shares(&self, workspace: WorkspaceId) -> Result<(), Error> {
        let deletes = self
            .blocking(move |shared| {
                let shares = Scan::ascending(KeyRange::shares(), limits::ROSTER_MAX);
                let peers = Scan::ascending(KeyRange::peers(&workspace), limits::ROSTER_MAX);
                let mut keys: Vec<_> = shared
                    .reader
                    .scan(&shares)?
                    .rows
                    .into_iter()
                    .map(|(key, _)| key)
                    .filter(|key| key.workspace_id() == Some(workspace))
                    .collect();
                keys.extend(
                    shared
                        .reader
                        .scan(&peers)?
                        .rows
                        .into_iter()
                        .map(|(key, _)| key),
                );
                Ok(keys)
            })
            .await?;
        self.delete(deletes).await
    }

    /// Removes what is left of workspaces whose removal was begun.
    pub(crate) async fn finish_removals(&self) -> Result<(), Error> {
        let removed = self.profile().removed.clone();
        for workspace in removed {
            self.remove_records(workspace).await?;
        }
        Ok(())
    }

    async fn remove_records(&self, workspace: WorkspaceId) -> Result<(), Error> {
        let (is_there, epoch) = self
            .blocking(move |shared| {
                let key = Key::feed_head(&workspace);
                let head = shared.reader.read(&key)?;
                let head = head.map(|value| decode::<FeedHeadRow>(&key, &value));
                let epoch = head.transpose()?.map(|head| head.point.epoch);
                let is_known = shared.reader.contains(&Key::workspace(&workspace))?;
                Ok((is_known || epoch.is_some(), epoch))
            })
            .await?;
        if !is_there {
            return Ok(());
        }
        self.update_profile(|profile| {
            let known = profile.past.clone();
            profile
                .past
                .extend(epoch.filter(|epoch| !known.contains(epoch)));
        })?;
        for range in KeyRange::contents_of(&workspace) {
            loop {
                let scan = Scan::ascending(range.clone(), REMOVED_RECORDS);
                let keys: Vec<_> = self
                    .blocking(move |shared| {
                        let rows = shared.reader.scan(&scan)?.rows;
                        // The end of the feed goes last, by itself: with it the engine forgets the rest.
                        let keys = rows.into_iter().map(|(key, _)| key);
                        let head = Key::feed_head(&workspace);
                        Ok(keys.filter(|key| *key != head).collect())
                    })
                    .await?;
                if keys.is_empty() {
                    break;
                }
                self.delete(keys).await?;
            }
        }
        self.delete(vec![Key::workspace(&workspace), Key::feed_head(&workspace)])
            .await?;
        self.shared.documents.forget_all();
        self.wait_until_unindexed(workspace).await
    }

    async fn delete(&self, deletes: Vec<Key>) -> Result<(), Error> {
        let write = Write {
            request: request_id(),
            puts: Vec::new(),
            deletes,
        };
        self.shared.driver.write(write).await
    }

    /// A workspace that comes back has a feed of its own: its index must not go on from the old one.
    async fn wait_until_unindexed(&self, workspace: WorkspaceId) -> Result<(), Error> {
        self.shared.driver.look_again(workspace);
        let mut index = self.shared.index.clone();
        let noticed = index.wait_for(|progress| {
            progress.get(&workspace).copied().unwrap_or(FeedSeq(0)) == FeedSeq(0)
        });
        match tokio::time::timeout(INDEX_DEADLINE, noticed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::Timeout {
                seconds: INDEX_DEADLINE.as_secs(),
                why: "the index did not notice that the workspace is gone".to_owned(),
            }),
        }
    }
}

/// This device's own changes that no other peer is known to hold.
fn count_not_held(shared: &Shared, workspace: WorkspaceId, live: &Live) -> Result<u64, Error> {
    let key = Key::feed_head(&workspace);
    let Some(value) = shared.reader.read(&key)? else {
        return Ok(0);
    };
    let epoch = decode::<FeedHeadRow>(&key, &value)?.point.epoch;
    let peers = peer_rows(shared, workspace, live)?;
    let holders = peers.values().filter_map(|row| {
        let point = row.acknowledged.filter(|point| point.epoch == epoch)?;
        Some((point.seq, row))
    });
    let holders: Vec<_> = holders.collect();
    let held = holders.iter().map(|(seq, _)| *seq).max();
    let held = held.unwrap_or(FeedSeq(0));
    // What every holder refused is held by none of them.
    let refused: BTreeSet<DocumentId> = match holders.split_first() {
        Some(((_, first), rest)) => {
            let by_first = first.refused_there.keys().copied();
            let by_all = |document: &DocumentId| {
                rest.iter()
                    .all(|(_, row)| row.refused_there.contains_key(document))
            };
            by_first.filter(by_all).collect()
        }
        None => BTreeSet::new(),
    };
    let mut range = match refused.is_empty() {
        true => KeyRange::feed_after(&workspace, held),
        false => KeyRange::feed_after(&workspace, FeedSeq(0)),
    };
    let mut changes = 0;
    loop {
        let rows = shared
            .reader
            .scan(&Scan::ascending(range.clone(), ENTRIES))?;
        for (key, value) in &rows.rows {
            let row: FeedRow = decode(key, value)?;
            let is_own = row.origin.is_none_or(|origin| origin == shared.peer);
            let is_beyond = key.feed_seq().is_some_and(|seq| seq > held);
            if is_own && (is_beyond || refused.contains(&row.document)) {
                changes += row.changes.len() as u64;
            }
        }
        match rows.rows.last().filter(|_| rows.more) {
            Some((last, _)) => range = range.after(last),
            None => return Ok(changes),
        }
    }
}
