//! Who holds what was written here, and what is still to be delivered.
//!
//! A peer that holds our feed up to a place holds everything before it, other than what it refused; so
//! delivery is a comparison of places. Of a member's other devices the server tells, where there is no
//! link to them. What is not known is told as not known, never as nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reconvene_core::engine::Event;
use reconvene_core::feed::FeedPoint;
use reconvene_core::guard::parse_change;
use reconvene_core::ids::{ChangeHash, DocumentId, FeedSeq, PeerId, StoreEpoch, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits::ROSTER_MAX;
use reconvene_core::records::{ChangeRow, FeedRow, PeerRow, ShareRow, Standing};
use reconvene_core::refusal::RefusalCode;
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::time::WallTime;
use reconvene_model::Purpose;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::documents::{decode, head_row, not_found};
use crate::driver::{Command, Live, Notice};
use crate::limits::{PENDING_ENTRIES_MAX, PENDING_PACE};
use crate::mutants::{self, Mutant};
use crate::replica::Shared;
use crate::status::{feed_head, peer_rows};
use crate::{Error, Meetings, Replica};

/// A peer, and whether it durably holds a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The peer.
    pub peer: PeerId,
    /// Whether it holds the version; `None` where that is not known.
    pub holds: Option<bool>,
    /// Why it refused the document, if it did.
    pub refused: Option<RefusalCode>,
    /// The server on whose word this is known; `None` if it is the peer's own.
    pub by_word_of: Option<PeerId>,
}

/// Who is to hold what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBy {
    /// The workspace's server.
    Server,
    /// Every other device of this device's member that takes part in the workspace. Where no other is
    /// known, not before the server has said that there is none: until then it is not known to be held.
    AllMyDevices,
}

/// How far something written is to have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It survives a power cut here.
    Durable,
    /// It survives one there.
    HeldBy(HeldBy),
}

/// Something that was written here: what was there when this was made.
#[derive(Clone, Debug)]
pub struct Write {
    replica: Replica,
    workspace: WorkspaceId,
    /// The documents; empty for all of the workspace.
    documents: BTreeSet<DocumentId>,
    /// The place in this store's feed that it reaches; `None` if nothing was written.
    place: Option<(StoreEpoch, FeedSeq)>,
}

/// What this store has and peers are not known to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// Every workspace that is shared with anyone.
    pub workspaces: Vec<WorkspacePending>,
}

/// What the peers of a workspace are not known to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkspacePending {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its server, and this member's other devices.
    pub peers: Vec<PeerPending>,
}

/// What one peer is not known to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerPending {
    /// The peer.
    pub peer: PeerId,
    /// Whether it is the server.
    pub is_server: bool,
    /// Whether a link to it is up.
    pub linked: bool,
    /// What it is owed; `None` where that is not known.
    pub owed: Option<Debt>,
    /// Documents that it refused, which it does not hold as they are here.
    pub refused: u64,
}

/// An amount of what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Debt {
    /// Documents.
    pub documents: u64,
    /// Changes of them.
    pub changes: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// When the first of them was made, as its author's clock had it; `None` if there is none, or it is
    /// not kept singly any more.
    pub oldest: Option<WallTime>,
    /// Whether there is more: only so many entries of the feed are counted
    /// ([`PENDING_ENTRIES_MAX`]).
    pub at_least: bool,
}

impl Write {
    pub(crate) fn workspace(&self) -> WorkspaceId {
        self.workspace
    }

    /// Where in the feed it ends now: in another history it has another place.
    pub(crate) fn end(&self, shared: &Shared) -> Result<Option<(StoreEpoch, FeedSeq)>, Error> {
        let Some(head) = feed_head(shared, self.workspace)? else {
            return Ok(None);
        };
        match self.place {
            Some((epoch, _)) if epoch == head.point.epoch => Ok(self.place),
            None => Ok(None),
            Some(_) => place_of(shared, self.workspace, &self.documents),
        }
    }

    /// Waits until what was written has come so far.
    ///
    /// Cancel-safe: it goes its way, whether anyone waits or not.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it did not come so far in time. [`Error::Refused`] if a peer refused one of
    /// the documents. [`Error::NoServer`] if the workspace has no server. If the replica is closed or
    /// the store fails.
    pub async fn wait(&self, delivery: Delivery, patience: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        let driver = &self.replica.shared.driver;
        let mut notices = driver.notices();
        let mut has_asked = false;
        loop {
            let lacking = self.lacking(delivery).await?;
            if lacking.is_empty() {
                return Ok(());
            }
            if delivery == Delivery::HeldBy(HeldBy::AllMyDevices)
                && !std::mem::replace(&mut has_asked, true)
            {
                // Whoever has not said which devices there are says so then.
                driver.send(Command::Refresh(self.workspace)).await?;
            }
            let moved = timeout_at(deadline, delivery_moves(&mut notices)).await;
            match moved {
                Ok(moved) => moved?,
                Err(_) => {
                    let names: Vec<_> = lacking.iter().map(ToString::to_string).collect();
                    return Err(Error::Timeout {
                        seconds: patience.as_secs(),
                        why: format!("it is not known to be held by {}", names.join(", ")),
                    });
                }
            }
        }
    }

    /// Those who are to hold it and are not known to.
    async fn lacking(&self, delivery: Delivery) -> Result<Vec<PeerId>, Error> {
        if mutants::is(Mutant::CallsItHeld) {
            return Ok(Vec::new());
        }
        let live = self
            .replica
            .shared
            .driver
            .live(Some(self.workspace))
            .await?;
        let write = self.clone();
        let work = move |shared: &Shared| {
            let Some((epoch, seq)) = write.end(shared)? else {
                return Ok(Vec::new());
            };
            let known = Known::read(shared, write.workspace, &live)?;
            let wanted = match (delivery, known.server) {
                (Delivery::Durable, _) => {
                    let released = live.released.get(&write.workspace);
                    let is_durable = released.is_some_and(|point| is_past(*point, epoch, seq));
                    return Ok(if is_durable {
                        Vec::new()
                    } else {
                        vec![shared.peer]
                    });
                }
                (Delivery::HeldBy(HeldBy::Server), Some(server)) => vec![server],
                // Without a server nobody says which devices there are.
                (Delivery::HeldBy(_), None) => return Err(Error::NoServer),
                (Delivery::HeldBy(HeldBy::AllMyDevices), Some(server)) => {
                    if known.siblings.is_empty() && !live.shares_told.contains(&write.workspace) {
                        return Ok(vec![server]); // It has yet to say whether there are any.
                    }
                    known.siblings.iter().copied().collect()
                }
            };
            let mut lacking = Vec::new();
            for peer in wanted {
                let held = known.held(&peer);
                if let Some((document, code)) = held.refused_of(&write.documents) {
                    return Err(Error::Refused {
                        code,
                        message: format!("{peer} refused document {document}: {code}"),
                    });
                }
                let reaches = held.point.is_some_and(|point| is_past(point, epoch, seq));
                if held.unlisted > 0 || !reaches {
                    lacking.push(peer);
                }
            }
            Ok(lacking)
        };
        self.replica.blocking(work).await
    }
}

fn is_past(point: FeedPoint, epoch: StoreEpoch, seq: FeedSeq) -> bool {
    point.epoch == epoch && point.seq >= seq
}

/// Where the latest version of documents, or of all, is in this store's feed.
fn place_of(
    shared: &Shared,
    workspace: WorkspaceId,
    documents: &BTreeSet<DocumentId>,
) -> Result<Option<(StoreEpoch, FeedSeq)>, Error> {
    let Some(head) = feed_head(shared, workspace)? else {
        return Ok(None);
    };
    if documents.is_empty() {
        return Ok(Some((head.point.epoch, head.point.seq)));
    }
    let mut last = None;
    for document in documents {
        let row = head_row(&shared.reader, workspace, *document)?;
        last = last.max(row.map(|row| row.feed_seq));
    }
    Ok(last.map(|seq| (head.point.epoch, seq)))
}

impl Replica {
    /// Everything in the current workspace that is here by now, as one thing to wait for.
    ///
    /// # Errors
    /// If no workspace is current, or the store fails.
    pub async fn written(&self) -> Result<Write, Error> {
        self.write_of(BTreeSet::new()).await
    }

    async fn write_of(&self, documents: BTreeSet<DocumentId>) -> Result<Write, Error> {
        let workspace = self.current_workspace()?;
        let of = documents.clone();
        let place = self
            .blocking(move |shared| place_of(shared, workspace, &of))
            .await?;
        Ok(Write {
            replica: self.clone(),
            workspace,
            documents,
            place,
        })
    }

    /// What is still to be delivered, of every workspace and peer. Right while offline and after a
    /// restart: it is read from the store and from what peers said they hold.
    ///
    /// # Errors
    /// If the store fails or the replica is closed.
    pub async fn pending(&self) -> Result<Pending, Error> {
        let live = self.shared.driver.live(None).await?;
        self.blocking(move |shared| pending(shared, &live)).await
    }

    /// [`Self::pending`] now, and whenever it changes.
    pub fn watch_pending(&self) -> PendingWatch {
        PendingWatch {
            notices: self.shared.driver.notices(),
            replica: self.clone(),
            last: None,
        }
    }
}

impl Meetings {
    /// The latest version of a meeting and its transcript that is here, as one thing to wait
    /// for.
    ///
    /// # Errors
    /// If there is no such meeting, or it cannot be read.
    pub async fn written(&self, id: DocumentId) -> Result<Write, Error> {
        let workspace = self.replica.current_workspace()?;
        let mut lease = self.replica.shared.documents.lease(workspace, id).await;
        let work = move |shared: &Shared| {
            let loaded = shared.documents.load(&mut lease, Purpose::Read);
            let pages = loaded.and_then(|document| Ok(document.meeting()?.pages_in_order()));
            shared.documents.give_back(lease);
            pages
        };
        let pages = self.replica.blocking(work).await?;
        self.replica
            .write_of(pages.into_iter().chain([id]).collect())
            .await
    }
}

/// What is still to be delivered, again and again.
#[derive(Debug)]
pub struct PendingWatch {
    replica: Replica,
    notices: broadcast::Receiver<Notice>,
    last: Option<(Instant, Pending)>,
}

impl PendingWatch {
    /// What is pending: at first at once, then when it is something else than was told last, at most
    /// every [`PENDING_PACE`].
    ///
    /// Cancel-safe: a change is not lost if this is dropped.
    ///
    /// # Errors
    /// If the replica is closed or the store fails.
    pub async fn next(&mut self) -> Result<Pending, Error> {
        loop {
            if let Some((at, _)) = &self.last {
                sleep_until(*at + PENDING_PACE).await;
            }
            let pending = self.replica.pending().await?;
            let now = Instant::now();
            match &self.last {
                Some((_, last)) if *last == pending => delivery_moves(&mut self.notices).await?,
                _ => {
                    self.last = Some((now, pending.clone()));
                    return Ok(pending);
                }
            }
        }
    }
}

/// Waits for something that may change what is delivered.
async fn delivery_moves(notices: &mut broadcast::Receiver<Notice>) -> Result<(), Error> {
    loop {
        match notices.recv().await {
            Ok(Notice::Engine(event)) => match &*event {
                Event::Progress { .. }
                | Event::Relayed { .. }
                | Event::DocumentsRefused { .. }
                | Event::FeedAdvanced { .. }
                | Event::SharesLearned { .. }
                | Event::SharesKnown { .. }
                | Event::LinkReady { .. }
                | Event::Unreachable { .. } => return Ok(()),
                _ => {}
            },
            Ok(_) | Err(RecvError::Lagged(_)) => return Ok(()),
            Err(RecvError::Closed) => return Err(Error::Closed),
        }
    }
}

/// What is known of the peers of a workspace.
struct Known {
    workspace: WorkspaceId,
    server: Option<PeerId>,
    /// This member's other devices.
    siblings: BTreeSet<PeerId>,
    rows: BTreeMap<PeerId, PeerRow>,
    /// The history of this store's feed; `None` before the first entry.
    epoch: Option<StoreEpoch>,
}

/// What a peer holds of this store's feed.
#[derive(Default)]
struct Held<'a> {
    point: Option<FeedPoint>,
    refused: Option<&'a BTreeMap<DocumentId, RefusalCode>>,
    unlisted: u64,
    by_word_of: Option<PeerId>,
}

impl Held<'_> {
    /// A refused one of these documents; of any, if none is named.
    fn refused_of(&self, documents: &BTreeSet<DocumentId>) -> Option<(DocumentId, RefusalCode)> {
        let mut refused = self.refused?.iter();
        let found = refused.find(|(id, _)| documents.is_empty() || documents.contains(*id));
        found.map(|(id, code)| (*id, *code))
    }
}

impl Known {
    fn read(shared: &Shared, workspace: WorkspaceId, live: &Live) -> Result<Self, Error> {
        let shares = shares_of(shared, workspace)?;
        let server = shared.server_of(&workspace);
        let member = server
            .and_then(|server| shares.get(&server))
            .map(|row| row.member);
        let is_sibling = |row: &ShareRow| {
            matches!(row.standing, Standing::Learned(_)) && Some(row.member) == member
        };
        let siblings = shares.iter().filter(|(_, row)| is_sibling(row));
        Ok(Self {
            workspace,
            server,
            siblings: siblings.map(|(peer, _)| *peer).collect(),
            rows: peer_rows(shared, workspace, live)?,
            epoch: feed_head(shared, workspace)?.map(|head| head.point.epoch),
        })
    }

    /// What a peer holds: by its own word or the server's, whichever reaches further.
    fn held(&self, peer: &PeerId) -> Held<'_> {
        let own = self.rows.get(peer).map(|row| Held {
            point: row.acknowledged,
            refused: Some(&row.refused_there),
            unlisted: row.refused_there_unlisted,
            by_word_of: None,
        });
        let relayed = self.server.and_then(|server| {
            let row = self.rows.get(&server)?.relayed.get(peer)?;
            Some(Held {
                point: row.held,
                refused: Some(&row.refused),
                unlisted: row.refused_unlisted,
                by_word_of: Some(server),
            })
        });
        // A word about another history says nothing of this one.
        let current = |point: &FeedPoint| Some(point.epoch) == self.epoch;
        let reach = |held: &Held<'_>| held.point.filter(current).map(|point| point.seq);
        match (own, relayed) {
            (Some(own), Some(relayed)) if reach(&relayed) > reach(&own) => relayed,
            (Some(own), _) => own,
            (None, relayed) => relayed.unwrap_or_default(),
        }
    }

    fn pending(&self, shared: &Shared, live: &Live) -> Result<Vec<PeerPending>, Error> {
        let epoch = self.epoch;
        let peers = self.server.iter().chain(&self.siblings);
        let mut pending = Vec::new();
        for peer in peers {
            let held = self.held(peer);
            let is_server = Some(*peer) == self.server;
            let owed = match (epoch, held.point) {
                // Nothing was ever written here.
                (None, _) => Some(Debt::default()),
                (Some(epoch), Some(point)) if point.epoch == epoch => {
                    Some(self.debt(shared, peer, Some(point.seq))?)
                }
                // A server that never said anything is owed everything, also what came from it: it may
                // have lost it. Of what a device holds nothing is known until someone tells.
                (Some(_), None) if is_server => Some(self.debt(shared, peer, None)?),
                _ => None,
            };
            pending.push(PeerPending {
                peer: *peer,
                is_server,
                linked: live.is_linked(peer),
                owed,
                refused: held.refused.map_or(0, |refused| refused.len() as u64) + held.unlisted,
            });
        }
        Ok(pending)
    }

    /// What a peer that holds our feed up to a place does not hold: what others brought, too, other than
    /// the peer itself or the server, from which it has it.
    fn debt(&self, shared: &Shared, peer: &PeerId, held: Option<FeedSeq>) -> Result<Debt, Error> {
        if mutants::is(Mutant::CountsNothing) {
            return Ok(Debt::default());
        }
        let after = KeyRange::feed_after(&self.workspace, held.unwrap_or(FeedSeq(0)));
        let rows = shared
            .reader
            .scan(&Scan::ascending(after, PENDING_ENTRIES_MAX))?;
        let mut debt = Debt {
            at_least: rows.more,
            ..Debt::default()
        };
        let mut documents = BTreeSet::new();
        let mut first = None;
        for (key, value) in &rows.rows {
            let row: FeedRow = decode(key, value)?;
            let origin = row.origin;
            let is_theirs = |origin| origin == *peer || Some(origin) == self.server;
            if held.is_some() && origin.is_some_and(is_theirs) {
                continue;
            }
            debt.changes += row.changes.len() as u64;
            debt.bytes += row
                .changes
                .iter()
                .map(|(_, size)| u64::from(*size))
                .sum::<u64>();
            if let Some((hash, _)) = row.changes.first() {
                first.get_or_insert((row.document, *hash));
            }
            documents.insert(row.document);
        }
        debt.documents = documents.len() as u64;
        if let Some((document, hash)) = first {
            debt.oldest = made_at(shared, self.workspace, document, hash)?;
        }
        Ok(debt)
    }
}

/// When a change was made, as its author says.
fn made_at(
    shared: &Shared,
    workspace: WorkspaceId,
    document: DocumentId,
    hash: ChangeHash,
) -> Result<Option<WallTime>, Error> {
    let key = Key::change(&workspace, &document, &hash);
    let Some(value) = shared.reader.read(&key)? else {
        return Ok(None);
    };
    let row: ChangeRow = decode(&key, &value)?;
    let header = parse_change(&row.body).ok();
    let made = header.map(|header| WallTime::from_millis(header.time.saturating_mul(1000)));
    // Without a time of its own it says 1970.
    Ok(made.filter(|at| at.as_millis() > 0))
}

/// The shares of a workspace.
fn shares_of(shared: &Shared, workspace: WorkspaceId) -> Result<BTreeMap<PeerId, ShareRow>, Error> {
    let scan = Scan::ascending(KeyRange::shares(), ROSTER_MAX);
    let mut shares = BTreeMap::new();
    for (key, value) in shared.reader.scan(&scan)?.rows {
        if let Some((peer, _)) = key.share_parts().filter(|(_, of)| *of == workspace) {
            shares.insert(peer, decode(&key, &value)?);
        }
    }
    Ok(shares)
}

/// What is still to be delivered.
pub(crate) fn pending(shared: &Shared, live: &Live) -> Result<Pending, Error> {
    let mut workspaces = Vec::new();
    for workspace in crate::replica::known_workspaces(&shared.reader)? {
        let known = Known::read(shared, workspace, live)?;
        let peers = known.pending(shared, live)?;
        if !peers.is_empty() {
            workspaces.push(WorkspacePending { workspace, peers });
        }
    }
    Ok(Pending { workspaces })
}

/// Who holds the stored version of a document.
pub(crate) fn holders(
    shared: &Shared,
    workspace: WorkspaceId,
    document: DocumentId,
    live: &Live,
) -> Result<Vec<Holder>, Error> {
    let row = head_row(&shared.reader, workspace, document)?.ok_or_else(|| not_found(document))?;
    let known = Known::read(shared, workspace, live)?;
    let epoch = known.epoch;
    let peers: BTreeSet<_> = known.rows.keys().chain(&known.siblings).copied().collect();
    let holder = |peer| {
        let held = known.held(&peer);
        let refused = held
            .refused
            .and_then(|refused| refused.get(&document))
            .copied();
        let point = held.point.filter(|point| Some(point.epoch) == epoch);
        // One that is only counted may be this one.
        let is_held = point.map(|point| refused.is_none() && point.seq >= row.feed_seq);
        Holder {
            peer,
            holds: is_held.filter(|holds| !holds || held.unlisted == 0),
            refused,
            by_word_of: held.by_word_of,
        }
    };
    Ok(peers.into_iter().map(holder).collect())
}
