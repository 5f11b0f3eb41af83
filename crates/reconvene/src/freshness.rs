//! How fresh a read is, and waiting until it is fresh enough.
//!
//! Freshness is judged by the engine's clock, which neither jumps nor sleeps. What was verified before
//! this replica was opened is only known by wall time, and counts as far as that can be believed.

use std::collections::BTreeSet;
use std::time::Duration;

use reconvene_core::engine::{Event, word_counts};
use reconvene_core::ids::{ChangeHash, DocumentId, PeerId, WorkspaceId};
use reconvene_core::limits::STALENESS_BOUND;
use reconvene_core::records::PeerRow;
use reconvene_core::time::{Tick, WallTime};
use reconvene_model::Purpose;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use crate::clock::wall_now;
use crate::delivery::Write;
use crate::driver::{Command, Live, Notice};
use crate::mutants::{self, Mutant};
use crate::replica::Shared;
use crate::status::{feed_end, indexed_to, peer_rows};
use crate::{Error, Replica};

/// How fresh what was read is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// Nothing that the server knew to be durable at this moment is missing here, or where the
    /// workspace has none the freshest peer; `None` if that never was. It is the moment of asking, not
    /// of the answer, and without a question that of the last heartbeat the server had read.
    pub as_of: Option<WallTime>,
    /// When that was made sure; `None` if not since this replica was opened.
    pub verified_at: Option<WallTime>,
    /// For how long what was verified counts as fresh, in milliseconds.
    pub bound_ms: u64,
    /// The verdict.
    pub state: FreshnessState,
}

/// Whether what was read is fresh, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FreshnessState {
    /// Verified within the bound.
    Verified,
    /// Verified, but longer ago than the bound, or never.
    Stale {
        /// As of when it was verified last; `None` if it never was.
        since: Option<WallTime>,
        /// Why.
        why: StaleReason,
    },
    /// Nobody else has this workspace: there is nothing to be stale against.
    Local,
}

/// Why a read is not fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StaleReason {
    /// The workspace was never synced here.
    NeverSynced,
    /// There is no link to whose word counts.
    Offline,
    /// There is a link, and what the peer has is on its way.
    CatchingUp,
    /// All is here, and lists do not show it yet.
    Indexing,
}

/// What a read is to be at least.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AtLeast {
    /// Nothing is missing that the server held this long ago; with zero, when this was asked: it is
    /// waited for the answer to a question that was asked no earlier.
    MaxStale(Duration),
    /// A document holds these changes, for instance those another device names as its heads.
    Heads(DocumentId, Vec<ChangeHash>),
    /// What was written is durable, and lists show it.
    AfterMyWrite(Write),
}

/// As of when a peer vouches for a workspace.
#[derive(Clone, Copy)]
pub(crate) struct Vouched {
    as_of: WallTime,
    verified_at: Option<WallTime>,
    /// How long ago that is; `None` where the clocks do not tell.
    age: Option<Duration>,
    /// By the engine's clock; `None` if it was before this replica was opened.
    tick: Option<Tick>,
}

/// As of when one peer vouches for a workspace.
pub(crate) fn vouched(
    workspace: WorkspaceId,
    peer: PeerId,
    row: &PeerRow,
    live: &Live,
) -> Option<Vouched> {
    if let Some(verified) = live.verified.get(&(workspace, peer)) {
        return Some(Vouched {
            as_of: verified.as_of.wall,
            verified_at: Some(verified.at.wall),
            age: Some(live.now.tick - verified.as_of.tick),
            tick: Some(verified.as_of.tick),
        });
    }
    let as_of = row.verified_at?;
    let age = live.now.wall.as_millis() - as_of.as_millis();
    Some(Vouched {
        as_of,
        verified_at: None,
        // A clock that was set back since makes no promise.
        age: u64::try_from(age).ok().map(Duration::from_millis),
        tick: None,
    })
}

/// The best that those vouch for whose word counts: the workspace's server, else any peer.
fn best(
    shared: &Shared,
    workspace: WorkspaceId,
    live: &Live,
) -> Result<(Option<Vouched>, Standing), Error> {
    let mut peers = peer_rows(shared, workspace, live)?;
    let servers = BTreeSet::from_iter(shared.server_of(&workspace));
    peers.retain(|peer, _| word_counts(&servers, peer));
    let linked = peers.keys().any(|peer| live.is_linked(peer));
    let standing = match (peers.is_empty(), servers.is_empty()) {
        (true, true) => Standing::Nobody,
        _ if linked => Standing::Linked,
        _ => Standing::Apart,
    };
    let vouched = peers
        .iter()
        .filter_map(|(peer, row)| vouched(workspace, *peer, row, live));
    // What was verified in this life is newer than whatever was before, whatever the wall clock says.
    let best = vouched.max_by_key(|vouched| (vouched.tick, vouched.as_of));
    Ok((best, standing))
}

/// Whether there is anyone to vouch.
enum Standing {
    Nobody,
    Linked,
    Apart,
}

/// How fresh a read of a workspace is: what its server vouches for, or where it has none any peer; for
/// lists no fresher than the index.
pub(crate) fn freshness(
    shared: &Shared,
    workspace: WorkspaceId,
    live: &Live,
    list: bool,
) -> Result<Freshness, Error> {
    freshness_within(shared, workspace, live, list, shared.staleness_bound)
}

/// The same for something that is going on: never fresh for longer than the default bound.
pub(crate) fn freshness_of_active(
    shared: &Shared,
    workspace: WorkspaceId,
    live: &Live,
) -> Result<Freshness, Error> {
    let bound = shared.staleness_bound.min(STALENESS_BOUND);
    freshness_within(shared, workspace, live, false, bound)
}

fn freshness_within(
    shared: &Shared,
    workspace: WorkspaceId,
    live: &Live,
    list: bool,
    bound: Duration,
) -> Result<Freshness, Error> {
    let (best, standing) = best(shared, workspace, live)?;
    let since = best.map(|vouched| vouched.as_of);
    let stale = |why| FreshnessState::Stale { since, why };
    let is_recent = best.is_some_and(|vouched| vouched.age.is_some_and(|age| age <= bound));
    let state = match standing {
        Standing::Nobody => FreshnessState::Local,
        _ if mutants::is(Mutant::CallsItFresh) => FreshnessState::Verified,
        _ if list && indexed_to(shared, workspace)? < feed_end(shared, workspace)? => {
            stale(StaleReason::Indexing)
        }
        _ if is_recent => FreshnessState::Verified,
        Standing::Linked => stale(StaleReason::CatchingUp),
        Standing::Apart if best.is_none() => stale(StaleReason::NeverSynced),
        Standing::Apart => stale(StaleReason::Offline),
    };
    Ok(Freshness {
        as_of: since,
        verified_at: best.and_then(|vouched| vouched.verified_at),
        bound_ms: millis(bound),
        state,
    })
}

/// How fresh what one peer had is.
pub(crate) fn freshness_of_peer(
    shared: &Shared,
    workspace: WorkspaceId,
    peer: PeerId,
    row: &PeerRow,
    live: &Live,
) -> Freshness {
    let vouched = vouched(workspace, peer, row, live);
    let bound = shared.staleness_bound;
    let since = vouched.map(|vouched| vouched.as_of);
    let is_recent = vouched.is_some_and(|vouched| vouched.age.is_some_and(|age| age <= bound));
    let state = if is_recent {
        FreshnessState::Verified
    } else {
        let why = match (live.is_linked(&peer), since) {
            (true, _) => StaleReason::CatchingUp,
            (false, None) => StaleReason::NeverSynced,
            (false, Some(_)) => StaleReason::Offline,
        };
        FreshnessState::Stale { since, why }
    };
    Freshness {
        as_of: since,
        verified_at: vouched.and_then(|vouched| vouched.verified_at),
        bound_ms: millis(bound),
        state,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Replica {
    /// Waits until a read of the current workspace is at least this, and says how fresh it is then. A
    /// read after that is no less. Peers are asked at once; nothing is waited for that is there already.
    ///
    /// Cancel-safe: nothing is lost if this is dropped.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it is not so in time, which says what is known instead; what is here stays
    /// readable. If the replica is closed or the store fails.
    pub async fn read_at_least(
        &self,
        demand: AtLeast,
        patience: Duration,
    ) -> Result<Freshness, Error> {
        let workspace = match &demand {
            AtLeast::AfterMyWrite(write) => write.workspace(),
            _ => self.current_workspace()?,
        };
        let deadline = Instant::now() + patience;
        let mut notices = self.shared.driver.notices();
        let mut index = self.shared.index.clone();
        let asked = self.shared.driver.live(Some(workspace)).await?.now.tick;
        if matches!(demand, AtLeast::MaxStale(_))
            && !self.is_met(workspace, &demand, asked).await?.0
        {
            let refresh = Command::Refresh(workspace);
            self.shared.driver.send(refresh).await?;
        }
        loop {
            let (is_met, freshness) = self.is_met(workspace, &demand, asked).await?;
            if is_met {
                return Ok(freshness);
            }
            let waited = timeout_at(deadline, async {
                loop {
                    tokio::select! {
                        notice = notices.recv() => match notice {
                            Ok(Notice::Engine(event)) if !matters(&event, workspace) => {}
                            Err(RecvError::Closed) => return Err(Error::Closed),
                            _ => return Ok(()),
                        },
                        changed = index.changed() => {
                            return changed.map_err(|_| Error::Closed);
                        }
                    }
                }
            });
            match waited.await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(too_late(patience, &freshness)),
            }
        }
    }

    async fn is_met(
        &self,
        workspace: WorkspaceId,
        demand: &AtLeast,
        asked: Tick,
    ) -> Result<(bool, Freshness), Error> {
        let live = self.shared.driver.live(Some(workspace)).await?;
        match demand.clone() {
            AtLeast::MaxStale(age) => {
                let work = move |shared: &Shared| {
                    let freshness = freshness(shared, workspace, &live, true)?;
                    let (best, standing) = best(shared, workspace, &live)?;
                    let is_indexed = indexed_to(shared, workspace)? >= feed_end(shared, workspace)?;
                    let is_recent = best.is_some_and(|vouched| {
                        // What wall clocks say of the time before this life is no promise.
                        vouched.tick.is_some_and(|tick| tick >= asked)
                            || vouched.tick.and(vouched.age).is_some_and(|old| old <= age)
                    });
                    let is_alone = matches!(standing, Standing::Nobody);
                    Ok((is_indexed && (is_recent || is_alone), freshness))
                };
                self.blocking(work).await
            }
            AtLeast::Heads(document, heads) => {
                let mut lease = self.shared.documents.lease(workspace, document).await;
                let work = move |shared: &Shared| {
                    let loaded = shared.documents.load(&mut lease, Purpose::Read);
                    let is_met = match loaded {
                        Ok(document) => Ok(document.lacking(heads).is_empty()),
                        // It may still come.
                        Err(Error::NotFound { .. }) => Ok(false),
                        Err(error) => Err(error),
                    };
                    shared.documents.give_back(lease);
                    Ok((is_met?, freshness(shared, workspace, &live, false)?))
                };
                self.blocking(work).await
            }
            AtLeast::AfterMyWrite(write) => {
                let work = move |shared: &Shared| {
                    let freshness = freshness(shared, workspace, &live, true)?;
                    let end = write.end(shared)?.map_or(0, |(_, seq)| seq.0);
                    Ok((indexed_to(shared, workspace)? >= end, freshness))
                };
                self.blocking(work).await
            }
        }
    }
}

/// Whether an event may bring a read closer to what is demanded.
fn matters(event: &Event, workspace: WorkspaceId) -> bool {
    match event {
        Event::Verified { workspace: of, .. }
        | Event::DocumentChanged { workspace: of, .. }
        | Event::FeedAdvanced { workspace: of, .. } => *of == workspace,
        Event::LinkReady { .. } => true,
        _ => false,
    }
}

fn too_late(patience: Duration, freshness: &Freshness) -> Error {
    let why = match &freshness.state {
        FreshnessState::Stale { why, .. } => match why {
            StaleReason::NeverSynced => "this workspace never was synced",
            StaleReason::Offline => "there is no link",
            StaleReason::CatchingUp => "the server has more than is here",
            StaleReason::Indexing => "lists are behind",
        },
        _ => "what is demanded did not come",
    };
    let as_of = freshness.as_of.map(|as_of| {
        let age = wall_now().as_millis().saturating_sub(as_of.as_millis());
        format!("; what is here was verified {} s ago", age / 1000)
    });
    Error::Timeout {
        seconds: patience.as_secs(),
        why: format!("{why}{}", as_of.unwrap_or_default()),
    }
}
