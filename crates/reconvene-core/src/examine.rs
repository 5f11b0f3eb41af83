//! Examining a store for damage: which records of a stretch do not read, and what is left of one
//! document. Reads only, past whatever is damaged; the engine decides what happens.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::engine::{Remains, snapshot_hash};
use crate::feed::Digest;
use crate::guard::{ChangeHeader, parse_change};
use crate::ids::{
    ChangeHash, DocumentId, DocumentKind, FeedSeq, PeerId, SnapshotHash, WorkspaceId,
};
use crate::keys::{Key, KeyKind, KeyRange};
use crate::limits;
use crate::records::{
    ChangeRow, FeedHeadRow, FeedRow, HeadRow, JournalFrame, PeerRow, Record, ShareRow, SnapshotRef,
    SnapshotRow,
};
use crate::storage::{JournalEntry, StoreError, StoreRead};
use crate::stored::decode;

/// A record that is not what it was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedRecord {
    /// Its key.
    pub key: Key,
    /// What lies under it; `None` if nothing does, though another record names it.
    pub raw: Option<Bytes>,
    /// What is wrong, for people.
    pub what: String,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The damaged record.
    pub record: DamagedRecord,
    /// The document it belongs to. That of a feed entry is found by those that name the entry.
    pub document: Option<DocumentId>,
}

/// What is left of a document, and what is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examined {
    /// Its kind, if anything that reads says it.
    pub kind: Option<DocumentKind>,
    /// Its head row, if that reads.
    pub head: Option<HeadRow>,
    /// Whether its feed says that it was purged.
    pub is_purged: bool,
    /// Where its head row does not say whether it is one of them: how many others are not purged. One
    /// whose head row does not read either is taken for one, until it is examined itself.
    pub others: Option<u64>,
    /// The changes and snapshots that read.
    pub remains: Remains,
    /// Lost changes that the journal has, each with its body.
    pub recovered: Vec<(ChangeHeader, Bytes)>,
    /// The records that do not read.
    pub damaged: Vec<DamagedRecord>,
    /// Changes that are known by name and are nowhere to be found.
    pub lost: BTreeSet<ChangeHash>,
    /// Its feed entries, damaged ones among them.
    pub entries: BTreeSet<FeedSeq>,
    /// The peers of the workspace, as far as their rows read.
    pub peers: BTreeMap<PeerId, PeerRow>,
}

impl Examined {
    /// Whether anything is wrong.
    pub fn is_damaged(&self) -> bool {
        !self.damaged.is_empty() || !self.lost.is_empty() || !self.recovered.is_empty()
    }
}

/// Where the feed of a workspace ends, as its record says or, without that, as everything else does.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedEnd {
    /// There is neither a record of it, nor a feed, nor a document.
    Unused,
    /// The record reads.
    Read,
    /// The record does not read, or is missing.
    Lost(Box<LostEnd>),
}

/// What is known of the end of a feed without its record.
#[derive(Clone, Debug, PartialEq)]
pub struct LostEnd {
    /// The record.
    pub record: DamagedRecord,
    /// The place of the feed's last entry, whether or not that reads; 0 if there is none.
    pub last: FeedSeq,
    /// The feed's digest there, if that entry reads.
    pub digest: Option<Digest>,
    /// Documents that are not purged. One whose head row does not read is taken for one.
    pub documents: u64,
    /// Head rows and feed entries that do not read either, at most `limits::DAMAGES_FOUND_MAX`.
    pub damaged: Vec<Found>,
}

/// Visits every record of a range as it reads.
fn each(
    reader: &impl StoreRead,
    mut range: KeyRange,
    mut visit: impl FnMut(Key, Result<Bytes, StoreError>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    loop {
        let survey = reader.survey(&range)?;
        let last = survey.rows.last().map(|(key, _)| key.clone());
        for (key, value) in survey.rows {
            visit(key, value)?;
        }
        match last.filter(|_| survey.more) {
            Some(last) => range = range.after(&last),
            None => return Ok(()),
        }
    }
}

/// A record, or what is wrong with it. Other failures of the store are errors.
fn read_as<R: Record>(
    reader: &impl StoreRead,
    key: &Key,
    value: Result<Bytes, StoreError>,
) -> Result<Result<R, DamagedRecord>, StoreError> {
    let read = value.and_then(|value| decode::<R>(key, &value));
    match read {
        Ok(record) => Ok(Ok(record)),
        Err(StoreError::Damaged { what, .. }) => Ok(Err(damaged(reader, key, what)?)),
        Err(error) => Err(error),
    }
}

fn damaged(reader: &impl StoreRead, key: &Key, what: String) -> Result<DamagedRecord, StoreError> {
    Ok(DamagedRecord {
        key: key.clone(),
        raw: reader.raw(key)?,
        what,
    })
}

/// A record that another names and that is not there.
fn missing(key: Key) -> DamagedRecord {
    DamagedRecord {
        key,
        raw: None,
        what: "it is missing".to_owned(),
    }
}

/// The damaged records among some, at most `limits::DAMAGES_FOUND_MAX`, with the documents they belong
/// to.
///
/// # Errors
/// If the store fails otherwise.
pub fn search(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    ranges: &[KeyRange],
) -> Result<Vec<Found>, StoreError> {
    let mut found: Vec<DamagedRecord> = Vec::new();
    for range in ranges {
        each(reader, range.clone(), |key, value| {
            let read = match key.kind() {
                Some(KeyKind::Head) => read_as::<HeadRow>(reader, &key, value)?.map(drop),
                Some(KeyKind::Feed) => read_as::<FeedRow>(reader, &key, value)?.map(drop),
                Some(KeyKind::Peer) => read_as::<PeerRow>(reader, &key, value)?.map(drop),
                Some(KeyKind::Share) => read_as::<ShareRow>(reader, &key, value)?.map(drop),
                Some(KeyKind::FeedHead) => read_as::<FeedHeadRow>(reader, &key, value)?.map(drop),
                _ => match value {
                    Ok(_) => Ok(()),
                    Err(StoreError::Damaged { what, .. }) => Err(damaged(reader, &key, what)?),
                    Err(error) => return Err(error),
                },
            };
            if let Err(record) = read
                && found.len() < limits::DAMAGES_FOUND_MAX
            {
                found.push(record);
            }
            Ok(())
        })?;
    }
    with_owners(reader, workspace, found)
}

fn with_owners(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    damaged: Vec<DamagedRecord>,
) -> Result<Vec<Found>, StoreError> {
    let with_owner = damaged.into_iter().map(|record| {
        let document = match record.key.feed_seq() {
            Some(seq) => owner_of(reader, workspace, seq)?,
            None => record.key.document(),
        };
        Ok(Found { record, document })
    });
    with_owner.collect()
}

/// Where a workspace's feed ends, whatever of it does not read.
///
/// # Errors
/// If the store fails otherwise.
pub fn feed_end(reader: &impl StoreRead, workspace: &WorkspaceId) -> Result<FeedEnd, StoreError> {
    let key = Key::feed_head(workspace);
    let record = match reader.read(&key).transpose() {
        None => None,
        Some(value) => match read_as::<FeedHeadRow>(reader, &key, value)? {
            Ok(_) => return Ok(FeedEnd::Read),
            Err(record) => Some(record),
        },
    };
    let (mut last, mut digest) = (FeedSeq(0), None);
    let mut damaged = Vec::new();
    let mut note = |record: DamagedRecord| {
        if damaged.len() < limits::DAMAGES_FOUND_MAX {
            damaged.push(record);
        }
    };
    each(reader, KeyRange::feed(workspace), |key, value| {
        last = key.feed_seq().unwrap_or(last);
        digest = match read_as::<FeedRow>(reader, &key, value)? {
            Ok(row) => Some(row.digest),
            Err(record) => {
                note(record);
                None
            }
        };
        Ok(())
    })?;
    let documents = count_documents(reader, workspace, |_| true, note)?;
    let is_unused = record.is_none() && last.0 == 0 && documents == 0;
    if is_unused && damaged.is_empty() {
        return Ok(FeedEnd::Unused);
    }
    Ok(FeedEnd::Lost(Box::new(LostEnd {
        record: record.unwrap_or_else(|| missing(key)),
        last,
        digest,
        documents,
        damaged: with_owners(reader, workspace, damaged)?,
    })))
}

/// Counts the documents that are not purged, of some; those whose head rows do not read, too, which are
/// told.
fn count_documents(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    of: impl Fn(&Key) -> bool,
    mut unread: impl FnMut(DamagedRecord),
) -> Result<u64, StoreError> {
    let mut documents = 0;
    each(reader, KeyRange::heads(workspace), |key, value| {
        if !of(&key) {
            return Ok(());
        }
        match read_as::<HeadRow>(reader, &key, value)? {
            Ok(row) => documents += u64::from(row.purged_at.is_none()),
            Err(record) => {
                documents += 1;
                unread(record);
            }
        }
        Ok(())
    })?;
    Ok(documents)
}

/// A feed entry that is not there, with its document as far as that can be told.
///
/// # Errors
/// If the store fails.
pub fn missing_entry(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    seq: FeedSeq,
) -> Result<Found, StoreError> {
    let record = missing(Key::feed(workspace, seq));
    let document = owner_of(reader, workspace, seq)?;
    Ok(Found { record, document })
}

/// The document of a feed entry that does not read: its next entry names it, or its head row. Where
/// none does it is one whose head row does not read either.
///
/// # Errors
/// If the store fails.
fn owner_of(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    seq: FeedSeq,
) -> Result<Option<DocumentId>, StoreError> {
    let mut owner = None;
    each(
        reader,
        KeyRange::feed_after(workspace, seq),
        |key, value| {
            if let Ok(row) = read_as::<FeedRow>(reader, &key, value)?
                && row.previous == seq
            {
                owner = Some(row.document);
            }
            Ok(())
        },
    )?;
    if owner.is_some() {
        return Ok(owner);
    }
    let mut unread = None;
    each(reader, KeyRange::heads(workspace), |key, value| {
        match read_as::<HeadRow>(reader, &key, value)? {
            Ok(row) if row.feed_seq == seq => owner = key.document(),
            Ok(_) => {}
            Err(_) => unread = unread.or(key.document()),
        }
        Ok(())
    })?;
    Ok(owner.or(unread))
}

/// What loading a snapshot shows to be in it, without the genesis; `None` if it cannot be loaded.
pub type Inspect<'a> = &'a dyn Fn(DocumentKind, &Bytes) -> Option<Vec<ChangeHeader>>;

/// Reads everything that is left of a document. Snapshots are loaded by `inspect`; `roots` are the
/// changes that documents begin with, by which a change that depends on one shows the kind.
///
/// Where nothing says of what kind a document is, nobody can read what is left of it, and all of that
/// is among the damaged records. Nothing that only this device has is lost by it: of that the
/// journal, too, says the kind.
///
/// # Errors
/// If the store fails otherwise than by damage to single records.
pub fn examine(
    reader: &impl StoreRead,
    journal: &[JournalEntry],
    (workspace, document): (&WorkspaceId, &DocumentId),
    roots: &BTreeMap<ChangeHash, DocumentKind>,
    inspect: Inspect<'_>,
) -> Result<Examined, StoreError> {
    let mut examined = Examined::default();
    let head = Key::head(workspace, document);
    match reader.read(&head).transpose() {
        None => {}
        Some(value) => match read_as::<HeadRow>(reader, &head, value)? {
            Ok(row) => examined.head = Some(row),
            Err(record) => examined.damaged.push(record),
        },
    }
    if examined.head.is_none() {
        let others = count_documents(reader, workspace, |key| *key != head, drop)?;
        examined.others = Some(others);
    }
    each(reader, KeyRange::peers(workspace), |key, value| {
        match (read_as::<PeerRow>(reader, &key, value)?, key.peer_id()) {
            (Ok(row), Some(peer)) => {
                examined.peers.insert(peer, row);
            }
            (Err(_), Some(peer)) => {
                examined.peers.insert(peer, PeerRow::default());
            }
            (_, None) => {}
        }
        Ok(())
    })?;
    if let Some(row) = &examined.head
        && row.purged_at.is_some()
    {
        // What is left of it is only to be removed.
        let entry = Key::feed(workspace, row.feed_seq);
        let value = reader.read(&entry).transpose();
        let is_whole = match value {
            Some(value) => read_as::<FeedRow>(reader, &entry, value)?.is_ok(),
            None => false,
        };
        if is_whole {
            examined.kind = Some(row.kind);
            examined.is_purged = true;
            read_purged(reader, (workspace, document), &mut examined)?;
            return Ok(examined);
        }
    }
    let mut named = BTreeMap::new();
    let mut whole_snapshots = BTreeSet::new();
    if !read_chain(reader, (workspace, document), &mut examined, &mut named)? {
        read_all_entries(reader, (workspace, document), &mut examined, &mut named)?;
    }
    let entries = std::mem::take(&mut named);
    let mut wanted: BTreeSet<ChangeHash> = BTreeSet::new();
    for row in entries.values() {
        examined.kind = Some(row.kind);
        examined.is_purged |= row.purged.is_some();
        wanted.extend(row.changes.iter().map(|(hash, _)| *hash));
        whole_snapshots.extend(row.snapshot.map(|snapshot| snapshot.hash));
    }
    if let Some(row) = &examined.head {
        examined.kind = Some(row.kind);
        examined.is_purged |= row.purged_at.is_some();
        wanted.extend(&row.heads);
        whole_snapshots.extend(row.snapshots.iter().map(|snapshot| snapshot.hash));
    }
    let mut held = BTreeSet::new();
    each(
        reader,
        KeyRange::changes(workspace, document),
        |key, value| {
            let Some(hash) = key.change_hash() else {
                return Ok(());
            };
            match read_as::<ChangeRow>(reader, &key, value)? {
                Ok(row) => match parse_change(&row.body) {
                    Ok(header) if header.hash == hash => {
                        held.insert(hash);
                        examined.remains.changes.push(header);
                    }
                    _ => {
                        let what = "it holds something else than that change".to_owned();
                        examined.damaged.push(damaged(reader, &key, what)?);
                        wanted.insert(hash);
                    }
                },
                Err(record) => {
                    examined.damaged.push(record);
                    wanted.insert(hash);
                }
            }
            Ok(())
        },
    )?;
    let recovered = from_journal(journal, (workspace, document), &mut examined.kind);
    examined.kind = examined
        .kind
        .or_else(|| kind_of_row(reader, workspace, document))
        .or_else(|| kind_by_root(roots, &examined.remains.changes));
    if examined.kind.is_none() {
        examined.kind = kind_by_snapshot(reader, (workspace, document), roots, inspect)?;
    }
    if examined.kind.is_none() {
        let what = "nothing says what kind of document it is of";
        for header in std::mem::take(&mut examined.remains.changes) {
            let key = Key::change(workspace, document, &header.hash);
            examined
                .damaged
                .push(damaged(reader, &key, what.to_owned())?);
            held.remove(&header.hash);
            wanted.insert(header.hash);
        }
    }
    read_snapshots(
        reader,
        (workspace, document),
        inspect,
        &whole_snapshots,
        (&mut examined, &mut held),
    )?;
    // Nothing else names what a snapshot held that is lost.
    let read = &examined.remains.snapshots;
    let is_there = |hash: &SnapshotHash| read.iter().any(|(named, _)| named.hash == *hash);
    if !whole_snapshots.iter().all(is_there) {
        wanted.extend(recovered.keys());
    }
    wanted.retain(|hash| !held.contains(hash));
    for hash in wanted {
        match recovered.get(&hash) {
            Some(found) => examined.recovered.push(found.clone()),
            None => {
                examined.lost.insert(hash);
            }
        }
    }
    Ok(examined)
}

type Entries = BTreeMap<FeedSeq, FeedRow>;

/// Finds what is damaged of a purged document, whose tombstone and its entry read. Of the rest has to be
/// there what its entries name, as long as those are: whoever follows the feed is sent it.
fn read_purged(
    reader: &impl StoreRead,
    (workspace, document): (&WorkspaceId, &DocumentId),
    examined: &mut Examined,
) -> Result<(), StoreError> {
    each(
        reader,
        KeyRange::changes(workspace, document),
        |key, value| {
            let parsed = |row: ChangeRow| parse_change(&row.body).ok();
            match read_as::<ChangeRow>(reader, &key, value)?.map(parsed) {
                Ok(Some(header)) => examined.remains.changes.push(header),
                Ok(None) => {
                    let what = "it holds something else than that change".to_owned();
                    examined.damaged.push(damaged(reader, &key, what)?);
                }
                Err(record) => examined.damaged.push(record),
            }
            Ok(())
        },
    )?;
    each(
        reader,
        KeyRange::snapshots(workspace, document),
        |key, value| {
            match (
                read_as::<SnapshotRow>(reader, &key, value)?,
                key.snapshot_hash(),
            ) {
                (Ok(_), Some(hash)) => {
                    let (size, changes) = (0, 0);
                    let named = SnapshotRef {
                        hash,
                        size,
                        changes,
                    };
                    examined.remains.snapshots.push((named, Vec::new()));
                }
                (Ok(_), None) => {}
                (Err(record), _) => examined.damaged.push(record),
            }
            Ok(())
        },
    )?;
    let mut next = examined
        .head
        .as_ref()
        .map_or(FeedSeq(0), |row| row.feed_seq);
    let mut is_whole = true;
    let mut named = BTreeSet::new();
    while next.0 > 0 {
        let key = Key::feed(workspace, next);
        let Some(value) = reader.read(&key).transpose() else {
            is_whole = false;
            examined.damaged.push(missing(key));
            break;
        };
        next = match read_as::<FeedRow>(reader, &key, value)? {
            Ok(row) if row.document == *document && row.previous < next => {
                let changes = row.changes.iter();
                named.extend(changes.map(|(hash, _)| Key::change(workspace, document, hash)));
                let snapshot = row.snapshot.as_ref();
                named.extend(snapshot.map(|of| Key::snapshot(workspace, document, &of.hash)));
                row.previous
            }
            Ok(_) => break,
            Err(_) => {
                is_whole = false;
                break;
            }
        };
    }
    for key in named {
        if !reader.contains(&key)? {
            examined.damaged.push(missing(key));
        }
    }
    if !is_whole || !examined.damaged.is_empty() {
        read_all_entries(
            reader,
            (workspace, document),
            examined,
            &mut BTreeMap::new(),
        )?;
    }
    Ok(())
}

/// Follows a document's entries back from the one its head row names; false if that does not lead to
/// the first.
fn read_chain(
    reader: &impl StoreRead,
    (workspace, document): (&WorkspaceId, &DocumentId),
    examined: &mut Examined,
    named: &mut Entries,
) -> Result<bool, StoreError> {
    let Some(head) = &examined.head else {
        return Ok(false);
    };
    let mut next = head.feed_seq;
    while next.0 > 0 {
        let key = Key::feed(workspace, next);
        let Some(value) = reader.read(&key).transpose() else {
            examined.damaged.push(missing(key));
            return Ok(false);
        };
        match read_as::<FeedRow>(reader, &key, value)? {
            Ok(row) if row.document == *document => {
                examined.entries.insert(next);
                let previous = row.previous;
                named.insert(next, row);
                if previous >= next {
                    return Ok(false);
                }
                next = previous;
            }
            Ok(_) => return Ok(false),
            Err(record) => {
                examined.entries.insert(next);
                examined.damaged.push(record);
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Reads the whole feed for a document's entries.
fn read_all_entries(
    reader: &impl StoreRead,
    (workspace, document): (&WorkspaceId, &DocumentId),
    examined: &mut Examined,
    named: &mut Entries,
) -> Result<(), StoreError> {
    let mut rotten = BTreeMap::new();
    each(reader, KeyRange::feed(workspace), |key, value| {
        let Some(seq) = key.feed_seq() else {
            return Ok(());
        };
        match read_as::<FeedRow>(reader, &key, value)? {
            Ok(row) if row.document == *document => {
                examined.entries.insert(seq);
                named.insert(seq, row);
            }
            Ok(_) => {}
            Err(record) => {
                rotten.insert(seq, record);
            }
        }
        Ok(())
    })?;
    // Of those that do not read, its own are the ones that its others name as the entry before; and
    // without a head row also those that nothing of another document names.
    let named_before: BTreeSet<_> = named.values().map(|row| row.previous).collect();
    if examined.head.is_some() {
        rotten.retain(|seq, _| named_before.contains(seq));
    } else if !rotten.is_empty() {
        each(reader, KeyRange::feed(workspace), |key, value| {
            if let Ok(row) = read_as::<FeedRow>(reader, &key, value)?
                && row.document != *document
            {
                rotten.remove(&row.previous);
            }
            Ok(())
        })?;
        each(reader, KeyRange::heads(workspace), |key, value| {
            if let Ok(row) = read_as::<HeadRow>(reader, &key, value)? {
                rotten.remove(&row.feed_seq);
            }
            Ok(())
        })?;
    }
    for (seq, record) in rotten {
        examined.entries.insert(seq);
        if !examined.damaged.iter().any(|known| known.key == record.key) {
            examined.damaged.push(record);
        }
    }
    Ok(())
}

/// The journal's changes of a document.
fn from_journal(
    journal: &[JournalEntry],
    (workspace, document): (&WorkspaceId, &DocumentId),
    kind: &mut Option<DocumentKind>,
) -> BTreeMap<ChangeHash, (ChangeHeader, Bytes)> {
    let mut found = BTreeMap::new();
    for entry in journal.iter().filter(|entry| entry.workspace == *workspace) {
        let Ok(frame) = JournalFrame::decode(&entry.frame) else {
            continue;
        };
        let own = frame.documents.into_iter();
        for own in own.filter(|own| own.document == *document) {
            kind.get_or_insert(own.kind);
            for body in own.changes {
                if let Ok(header) = parse_change(&body) {
                    found.insert(header.hash, (header, body));
                }
            }
        }
    }
    found
}

/// Loads a document's snapshots: those that are named, and others that hold what is nowhere else.
fn read_snapshots(
    reader: &impl StoreRead,
    (workspace, document): (&WorkspaceId, &DocumentId),
    inspect: Inspect<'_>,
    named: &BTreeSet<crate::ids::SnapshotHash>,
    (examined, held): (&mut Examined, &mut BTreeSet<ChangeHash>),
) -> Result<(), StoreError> {
    let mut read: Vec<(SnapshotRef, Vec<ChangeHeader>)> = Vec::new();
    let mut present = BTreeSet::new();
    let range = KeyRange::snapshots(workspace, document);
    each(reader, range, |key, value| {
        let Some(hash) = key.snapshot_hash() else {
            return Ok(());
        };
        present.insert(hash);
        let what = match read_as::<SnapshotRow>(reader, &key, value)? {
            Err(record) => record.what,
            Ok(row) if snapshot_hash(&row.body) != hash => {
                "it holds something else than that snapshot".to_owned()
            }
            Ok(row) => {
                let loaded = examined.kind.and_then(|kind| inspect(kind, &row.body));
                match (loaded, u32::try_from(row.body.len())) {
                    (Some(headers), Ok(size)) => {
                        let snapshot = SnapshotRef {
                            hash,
                            size,
                            changes: headers.len() as u64,
                        };
                        read.push((snapshot, headers));
                        return Ok(());
                    }
                    _ => "it cannot be loaded".to_owned(),
                }
            }
        };
        examined.damaged.push(damaged(reader, &key, what)?);
        Ok(())
    })?;
    for hash in named.difference(&present).filter(|_| !examined.is_purged) {
        examined
            .damaged
            .push(missing(Key::snapshot(workspace, document, hash)));
    }
    // Those that are named first, then the largest: what nobody names may be left of a compaction.
    read.sort_by_key(|(snapshot, _)| {
        (!named.contains(&snapshot.hash), u64::MAX - snapshot.changes)
    });
    for (snapshot, headers) in read {
        let adds = headers.iter().any(|header| !held.contains(&header.hash));
        if adds || named.contains(&snapshot.hash) {
            held.extend(headers.iter().map(|header| header.hash));
            examined.remains.snapshots.push((snapshot, headers));
        }
    }
    Ok(())
}

/// The kind of a document, from a snapshot of it that loads as one of that kind and no other.
fn kind_by_snapshot(
    reader: &impl StoreRead,
    (workspace, document): (&WorkspaceId, &DocumentId),
    roots: &BTreeMap<ChangeHash, DocumentKind>,
    inspect: Inspect<'_>,
) -> Result<Option<DocumentKind>, StoreError> {
    let kinds: BTreeSet<_> = roots.values().copied().collect();
    let mut found = None;
    let range = KeyRange::snapshots(workspace, document);
    each(reader, range, |key, value| {
        if found.is_none()
            && let Ok(row) = read_as::<SnapshotRow>(reader, &key, value)?
        {
            let fitting = kinds
                .iter()
                .filter(|kind| inspect(**kind, &row.body).is_some());
            let fitting: Vec<_> = fitting.collect();
            found = (fitting.len() == 1).then(|| *fitting[0]);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The kind of a document, from the root that a change of it depends on.
fn kind_by_root(
    roots: &BTreeMap<ChangeHash, DocumentKind>,
    changes: &[ChangeHeader],
) -> Option<DocumentKind> {
    let mut dependencies = changes.iter().flat_map(|of| &of.dependencies);
    dependencies.find_map(|hash| roots.get(hash).copied())
}

/// The kind that a document's index row is filed under.
fn kind_of_row(
    reader: &impl StoreRead,
    workspace: &WorkspaceId,
    document: &DocumentId,
) -> Option<DocumentKind> {
    let kinds = (0..=u8::MAX).map(DocumentKind);
    let mut kinds = kinds.filter(|kind| {
        let key = Key::index(workspace, *kind, document);
        reader.contains(&key).unwrap_or(false)
    });
    kinds.next()
}
