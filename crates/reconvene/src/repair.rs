//! Repairing a damaged store: what still reads goes into a new database, and what does not is asked
//! for again.
//!
//! Documents keep every change and snapshot that reads; their head rows are rebuilt from those, and
//! name as missing what others depend on. The feeds begin a new epoch and no cursor is kept, so that
//! the next sync compares the catalogues and fetches what is missing, from whoever has it. The damaged
//! database is set aside whole, and the journal is read again as at every open. The index is rebuilt.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use reconvene_core::engine::{Remains, rebuilt_row, snapshot_hash, tombstone_of};
use reconvene_core::feed::FeedPoint;
use reconvene_core::guard::{ChangeHeader, parse_change};
use reconvene_core::ids::{
    ChangeHash, DocumentId, DocumentKind, FeedSeq, PeerId, StoreEpoch, WorkspaceId,
};
use reconvene_core::keys::{Key, KeyKind, KeyRange};
use reconvene_core::records::{
    ChangeRow, FeedHeadRow, FeedRow, HeadRow, InviteRow, MemberRow, PeerRow, Record, RecordError,
    ShareRow, SnapshotRef, SnapshotRow, WorkspaceRow,
};
use reconvene_core::storage::{StoreError, StoreRead as _, StoreWrite as _};
use reconvene_libp2p::load_or_create_identity;
use reconvene_model::{MaterialiseCounter, snapshot};
use reconvene_sled::{Rebuild, SledReader, open_data_dir, open_store};
use serde::Serialize;

use crate::verify::{DAMAGES_MAX, Damage, leading_workspace};
use crate::{Error, OpenOptions};

/// Bytes of records written to the new database at a time, about.
const WRITE_BYTES: usize = 1024 * 1024;
/// Most changes that one feed entry names.
const ENTRY_CHANGES_MAX: usize = 4096;
/// Steps at each place of a key that are tried to get past what sled cannot read.
const STEPS_MAX: usize = 64;

/// What a repair kept and what was lost here.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// Documents of which something was kept.
    pub documents: u64,
    /// Changes kept, within snapshots as well.
    pub changes: u64,
    /// Documents that now lack changes others depend on; they are asked for at the next sync.
    pub incomplete: Vec<DocumentId>,
    /// Number of records and stretches that did not read.
    pub damages: u64,
    /// The first [`DAMAGES_MAX`] of them.
    pub damaged: Vec<Damage>,
    /// Where the damaged database is now.
    pub set_aside: PathBuf,
}

impl OpenOptions {
    /// Repairs the store without opening it as a replica. What was damaged comes back from peers with
    /// the next sync; the damaged database is kept in `quarantine/`.
    ///
    /// Must not be dropped midway: the repair goes on by itself until it has ended.
    ///
    /// # Errors
    /// If there is no store, another process has it open, or the disk has no room for a second
    /// database. The store is then as it was.
    pub async fn repair(self) -> Result<RepairReport, Error> {
        let repaired = tokio::task::spawn_blocking(move || repair(self));
        repaired.await.map_err(|_| Error::Closed)?
    }
}

fn repair(options: OpenOptions) -> Result<RepairReport, Error> {
    let path = options.existing_path()?;
    let data_dir = open_data_dir(&path)?;
    let me = load_or_create_identity(&path.join("identity.key"))?.peer_id();
    let store = open_store(&data_dir)?.store;
    let mut repair = Repair {
        reader: store.reader(),
        rebuild: Rebuild::begin(&data_dir)?,
        me,
        report: RepairReport::default(),
        puts: Vec::new(),
        bytes: 0,
        tombstones: BTreeMap::new(),
    };
    repair.copy_facts()?;
    for (workspace, documents) in repair.documents()? {
        repair.rebuild_workspace(workspace, documents)?;
    }
    repair.write()?;
    let Repair {
        rebuild,
        mut report,
        reader,
        ..
    } = repair;
    drop(reader);
    report.set_aside = rebuild.replace(store)?;
    Ok(report)
}

struct Repair {
    reader: SledReader,
    rebuild: Rebuild,
    me: PeerId,
    report: RepairReport,
    puts: Vec<(Key, Bytes)>,
    bytes: usize,
    /// Documents that were purged, each with its head row if that reads.
    tombstones: BTreeMap<(WorkspaceId, DocumentId), Option<HeadRow>>,
}

impl Repair {
    fn put(&mut self, key: Key, value: Bytes) -> Result<(), Error> {
        self.bytes += value.len();
        self.puts.push((key, value));
        if self.bytes < WRITE_BYTES {
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), Error> {
        self.bytes = 0;
        let puts = std::mem::take(&mut self.puts);
        Ok(self.rebuild.write(puts)?)
    }

    fn lose(&mut self, key: &Key, what: String) {
        self.report.damages += 1;
        if self.report.damaged.len() < DAMAGES_MAX {
            self.report.damaged.push(Damage {
                workspace: leading_workspace(key),
                document: key.document(),
                record: format!("{key:?}"),
                what,
            });
        }
    }

    /// Reads what can be read of a range.
    fn each(
        &mut self,
        mut range: KeyRange,
        mut visit: impl FnMut(&mut Self, Key, Bytes) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let survey = match self.reader.survey(&range) {
                Ok(survey) => survey,
                Err(StoreError::Closed) => return Err(Error::Closed),
                Err(error) => {
                    let from = Key::from_bytes(range.start().to_vec());
                    self.lose(&from, format!("nothing from here on can be read: {error}"));
                    match past(&self.reader, &range) {
                        Some(rest) => range = rest,
                        None => return Ok(()),
                    }
                    continue;
                }
            };
            let last = survey.rows.last().map(|(key, _)| key.clone());
            for (key, value) in survey.rows {
                match value {
                    Ok(value) => visit(self, key, value)?,
                    Err(error) => self.lose(&key, error.to_string()),
                }
            }
            match last.filter(|_| survey.more) {
                Some(last) => range = range.after(&last),
                None => return Ok(()),
            }
        }
    }

    /// Keeps what is not of documents. Cursors go: nobody knows any more what they stood for.
    fn copy_facts(&mut self) -> Result<(), Error> {
        let kinds = [
            KeyKind::Meta,
            KeyKind::Share,
            KeyKind::Invite,
            KeyKind::Member,
            KeyKind::Workspace,
            KeyKind::Peer,
            KeyKind::Damage,
            KeyKind::Quarantine,
        ];
        for kind in kinds {
            self.each(all_of(kind), |this, key, value| {
                let read = match kind {
                    KeyKind::Share => ShareRow::decode(&value).map(|row| row.encode()),
                    KeyKind::Invite => InviteRow::decode(&value).map(|row| row.encode()),
                    KeyKind::Member => MemberRow::decode(&value).map(|row| row.encode()),
                    KeyKind::Workspace => WorkspaceRow::decode(&value).map(|row| row.encode()),
                    KeyKind::Peer => PeerRow::decode(&value).map(|row| {
                        let row = PeerRow {
                            held: None,
                            acknowledged: None,
                            ..row
                        };
                        row.encode()
                    }),
                    _ => Ok(value),
                };
                this.keep(key, read)
            })?;
        }
        Ok(())
    }

    fn keep(&mut self, key: Key, read: Result<Bytes, RecordError>) -> Result<(), Error> {
        match read {
            Ok(value) => self.put(key, value),
            Err(error) => {
                self.lose(&key, error.to_string());
                Ok(())
            }
        }
    }

    /// Every document that any record names, with its kind where one says it.
    fn documents(&mut self) -> Result<BTreeMap<WorkspaceId, Documents>, Error> {
        let mut found = BTreeMap::<WorkspaceId, Documents>::new();
        let kinds = [
            KeyKind::Feed,
            KeyKind::Head,
            KeyKind::Change,
            KeyKind::Snapshot,
            KeyKind::Index,
        ];
        for kind in kinds {
            self.each(all_of(kind), |this, key, value| {
                let Some(workspace) = leading_workspace(&key) else {
                    return Ok(());
                };
                let named = match (kind, key.document()) {
                    (KeyKind::Feed, _) => FeedRow::decode(&value).map(|row| {
                        if row.purged.is_some() {
                            let place = (workspace, row.document);
                            this.tombstones.entry(place).or_default();
                        }
                        (row.document, Some(row.kind))
                    }),
                    (KeyKind::Head, Some(document)) => HeadRow::decode(&value).map(|row| {
                        let kind = row.kind;
                        if row.purged_at.is_some() {
                            this.tombstones.insert((workspace, document), Some(row));
                        }
                        (document, Some(kind))
                    }),
                    (_, Some(document)) => {
                        let indexed = key.as_bytes().get(17).filter(|_| kind == KeyKind::Index);
                        Ok((document, indexed.copied().map(DocumentKind)))
                    }
                    (_, None) => return Ok(()),
                };
                match named {
                    Ok((document, kind)) => {
                        let known = found.entry(workspace).or_default();
                        let known = known.entry(document).or_default();
                        *known = known.or(kind);
                    }
                    Err(error) => this.lose(&key, error.to_string()),
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    fn rebuild_workspace(
        &mut self,
        workspace: WorkspaceId,
        documents: Documents,
    ) -> Result<(), Error> {
        let mut epoch = [0; 16];
        getrandom::fill(&mut epoch).map_err(|error| Error::Io {
            what: "no randomness for a new epoch".to_owned(),
            source: std::io::Error::other(error.to_string()),
        })?;
        let mut point = FeedPoint::start_of(StoreEpoch::from_bytes(epoch));
        let mut kept = 0;
        for (document, kind) in documents {
            let Some(kind) = kind else {
                let key = Key::head(&workspace, &document);
                self.lose(
                    &key,
                    "nothing that reads says what kind of document it is".to_owned(),
                );
                continue;
            };
            match self.tombstones.remove(&(workspace, document)) {
                Some(tombstone) => {
                    self.rebuild_tombstone(workspace, document, tombstone, &mut point)?;
                }
                None => {
                    let document = (document, kind);
                    kept += u64::from(self.rebuild_document(workspace, document, &mut point)?);
                }
            }
        }
        self.report.documents += kept;
        let row = FeedHeadRow {
            point,
            documents: kept,
            compacted: FeedSeq(0),
        };
        self.put(Key::feed_head(&workspace), row.encode())
    }

    /// Keeps that a document was purged, and nothing else of it. Without what was known of it, it is
    /// told anew by whoever has its tombstone.
    fn rebuild_tombstone(
        &mut self,
        workspace: WorkspaceId,
        document: DocumentId,
        tombstone: Option<HeadRow>,
        point: &mut FeedPoint,
    ) -> Result<(), Error> {
        let Some(mut head) = tombstone else {
            return Ok(());
        };
        *point = point.advance(&document, []);
        head.feed_seq = point.seq;
        head.snapshots.clear();
        (head.change_count, head.change_bytes) = (0, 0);
        let row = FeedRow {
            document,
            kind: head.kind,
            changes: Vec::new(),
            origin: Some(self.me),
            digest: point.digest,
            snapshot: None,
            previous: FeedSeq(0),
            purged: tombstone_of(&head).and_then(|purged| u32::try_from(purged.bytes()).ok()),
        };
        self.put(Key::feed(&workspace, point.seq), row.encode())?;
        self.put(Key::head(&workspace, &document), head.encode())
    }

    /// Keeps what reads of a document; whether there is anything.
    fn rebuild_document(
        &mut self,
        workspace: WorkspaceId,
        (document, kind): (DocumentId, DocumentKind),
        point: &mut FeedPoint,
    ) -> Result<bool, Error> {
        let mut remains = Remains::default();
        self.each(
            KeyRange::changes(&workspace, &document),
            |this, key, value| match read_change(&key, &value) {
                Ok(header) => {
                    remains.changes.push(header);
                    this.put(key, value)
                }
                Err(what) => {
                    this.lose(&key, what);
                    Ok(())
                }
            },
        )?;
        self.each(
            KeyRange::snapshots(&workspace, &document),
            |this, key, value| match read_snapshot(&key, &value, kind) {
                Ok(read) => {
                    remains.snapshots.push(read);
                    this.put(key, value)
                }
                Err(what) => {
                    this.lose(&key, what);
                    Ok(())
                }
            },
        )?;
        if remains.is_empty() {
            return Ok(false);
        }
        // A change starts after all operations it depends on: in this order it comes after them.
        remains
            .changes
            .sort_by_key(|header| (header.start_op, header.hash));
        let roots: Vec<_> = reconvene_model::roots()
            .iter()
            .map(|root| root.hash)
            .collect();
        let mut head = rebuilt_row(kind, &remains, &roots);
        let snapshots = remains
            .snapshots
            .iter()
            .map(|(named, _)| (Some(*named), &[][..]));
        let changes = remains.changes.chunks(ENTRY_CHANGES_MAX);
        let changes = changes.map(|changes| (None::<SnapshotRef>, changes));
        for (named, changes) in snapshots.chain(changes) {
            let previous = head.feed_seq;
            // In the digest a snapshot stands for what it holds.
            let standing = named.map(|named| ChangeHash::from_bytes(*named.hash.as_bytes()));
            let hashes = changes.iter().map(|header| header.hash);
            *point = point.advance(&document, standing.into_iter().chain(hashes));
            let sizes = changes.iter().map(|header| {
                let size = u32::try_from(header.body_bytes);
                (
                    header.hash,
                    size.expect("a checked change is far smaller than 4 GiB"),
                )
            });
            let row = FeedRow {
                document,
                kind,
                changes: sizes.collect(),
                origin: Some(self.me),
                digest: point.digest,
                snapshot: named,
                previous,
                purged: None,
            };
            head.feed_seq = point.seq;
            self.put(Key::feed(&workspace, point.seq), row.encode())?;
        }
        if !head.missing.is_empty() {
            self.report.incomplete.push(document);
        }
        let within = remains.snapshots.iter().map(|(named, _)| named.changes);
        self.report.changes += within.sum::<u64>() + head.change_count;
        self.put(Key::head(&workspace, &document), head.encode())?;
        Ok(true)
    }
}

type Documents = BTreeMap<DocumentId, Option<DocumentKind>>;

/// The rest of a range past a place where sled does not read on, as near as it is found: keys are
/// counted up at ever earlier bytes until something reads.
pub(crate) fn past(reader: &SledReader, range: &KeyRange) -> Option<KeyRange> {
    let start = range.start();
    for at in (1..start.len().min(41)).rev() {
        let mut from = start[..=at].to_vec();
        for _ in 0..STEPS_MAX {
            let Some(next) = from[at].checked_add(1) else {
                break;
            };
            from[at] = next;
            if range.end().is_some_and(|end| from.as_slice() >= end) {
                return None;
            }
            let rest = KeyRange::new(from.clone(), range.end().map(<[u8]>::to_vec));
            if reader.survey(&rest).is_ok() {
                return Some(rest);
            }
        }
    }
    None
}

fn all_of(kind: KeyKind) -> KeyRange {
    KeyRange::new(vec![kind as u8], Some(vec![kind as u8 + 1]))
}

fn read_change(key: &Key, value: &[u8]) -> Result<ChangeHeader, String> {
    let row = ChangeRow::decode(value).map_err(|error| error.to_string())?;
    let header = parse_change(&row.body).map_err(|error| error.to_string())?;
    if key.change_hash() != Some(header.hash) {
        return Err(format!("it holds change {}", header.hash));
    }
    Ok(header)
}

fn read_snapshot(
    key: &Key,
    value: &[u8],
    kind: DocumentKind,
) -> Result<(SnapshotRef, Vec<ChangeHeader>), String> {
    let row = SnapshotRow::decode(value).map_err(|error| error.to_string())?;
    let hash = snapshot_hash(&row.body);
    if key.snapshot_hash() != Some(hash) {
        return Err(format!("it holds snapshot {hash}"));
    }
    let counter = MaterialiseCounter::default();
    let headers =
        snapshot::inspect(kind, &row.body, &counter).map_err(|error| error.to_string())?;
    let named = SnapshotRef {
        hash,
        size: u32::try_from(row.body.len()).map_err(|_| "it is too long".to_owned())?,
        changes: headers.len() as u64,
    };
    Ok((named, headers))
}
