//! Verifying a store: reads everything in it, and says exactly what is damaged.
//!
//! Every record has to have its checksum and the shape its key promises; every head row has to agree
//! with the changes and snapshots of its document, every feed entry with what it names; the journal
//! has to read. Nothing is written, and edits go on meanwhile: what changed while it was read is read
//! again before it is called damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use reconvene_core::feed::FeedPoint;
use reconvene_core::ids::{DocumentId, FeedSeq, WorkspaceId};
use reconvene_core::keys::{Key, KeyKind, KeyRange};
use reconvene_core::records::{
    DamageRow, FeedHeadRow, FeedRow, HeadRow, IndexStateRow, InviteRow, JournalFrame, MemberRow,
    PeerRow, QuarantineRow, Record, ShareRow, WorkspaceRow,
};
use reconvene_core::storage::{StoreError, StoreRead as _};
use reconvene_model::index::IndexRow;
use serde::Serialize;

use crate::replica::{Shared, known_workspaces};
use crate::{Error, Replica};

use document::{Held, Names};

/// Most damages that a report lists; further ones are counted.
pub const DAMAGES_MAX: usize = 1_000;

/// How often a document is read again that is compacted while it is read.
const TRIES_MAX: usize = 8;

/// What is wrong with one record, or with a part of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The workspace it belongs to, where that is known.
    pub workspace: Option<WorkspaceId>,
    /// The document it belongs to, where that is known.
    pub document: Option<DocumentId>,
    /// The record: its kind and key in hex, or the journal's file.
    pub record: String,
    /// What is wrong with it.
    pub what: String,
}

/// What was read of a store and what is damaged.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Nothing is damaged.
    pub intact: bool,
    /// Records read.
    pub records: u64,
    /// Documents whose head row was compared with its changes and snapshots.
    pub documents: u64,
    /// Changes read, within snapshots as well.
    pub changes: u64,
    /// Feed entries compared with what they name.
    pub feed_entries: u64,
    /// Journal entries read.
    pub journal_entries: u64,
    /// Number of damages, those not listed included.
    pub damages: u64,
    /// The first [`DAMAGES_MAX`] of them.
    pub damaged: Vec<Damage>,
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct VerifyProgress {
    /// Documents read.
    pub documents: u64,
    /// Documents there are.
    pub total: u64,
}

/// Called with how far a verification has come; must not block.
pub type OnVerifyProgress = Arc<dyn Fn(VerifyProgress) + Send + Sync>;

impl Replica {
    /// Reads everything in the store and says what is damaged. Takes as long as the store is large;
    /// changes nothing, and edits and syncs go on.
    ///
    /// Cancel-safe: nothing is changed. The reading itself ends with the store's.
    ///
    /// # Errors
    /// If the store was closed. Damage is not an error: it is in the report.
    pub async fn verify(&self, progress: Option<OnVerifyProgress>) -> Result<VerifyReport, Error> {
        self.blocking(move |shared| {
            let mut verifier = Verifier {
                shared,
                progress,
                report: VerifyReport::default(),
            };
            verifier.run()?;
            verifier.report.intact = verifier.report.damages == 0;
            Ok(verifier.report)
        })
        .await
    }
}

struct Verifier<'a> {
    shared: &'a Shared,
    progress: Option<OnVerifyProgress>,
    report: VerifyReport,
}

/// Whose records are read.
#[derive(Clone, Copy, Default)]
struct Place {
    workspace: Option<WorkspaceId>,
    document: Option<DocumentId>,
}

/// A document with a head row, and what lies around it up to the next: nothing, if all is well.
#[derive(Clone, Copy)]
struct Stretch {
    workspace: WorkspaceId,
    /// The document itself, but for the workspace's first one.
    from: DocumentId,
    document: DocumentId,
    until: Option<DocumentId>,
}

impl Stretch {
    fn range(&self, kind: KeyKind) -> KeyRange {
        let whole = |document: &DocumentId| match kind {
            KeyKind::Change => KeyRange::changes(&self.workspace, document),
            _ => KeyRange::snapshots(&self.workspace, document),
        };
        let start = whole(&self.from).start().to_vec();
        let end = match self.until {
            Some(next) => Some(whole(&next).start().to_vec()),
            // Past all of the workspace.
            None => whole(&DocumentId::from_bytes([0xff; 16]))
                .end()
                .map(<[u8]>::to_vec),
        };
        KeyRange::new(start, end)
    }
}

impl Verifier<'_> {
    fn run(&mut self) -> Result<(), Error> {
        self.small_records()?;
        let mut workspaces = BTreeMap::new();
        for workspace in self.workspaces()? {
            // Before the documents: what is written after it is not theirs to answer for.
            let end = self.feed_end(workspace)?;
            workspaces.insert(workspace, (end, self.heads(workspace)?));
        }
        let total = workspaces.values().map(|(_, heads)| heads.len() as u64);
        let total = total.sum();
        for (workspace, (end, heads)) in workspaces {
            let mut held = BTreeMap::new();
            let mut from = DocumentId::from_bytes([0; 16]);
            let mut rest = heads.iter().copied().peekable();
            while let Some(document) = rest.next() {
                let until = rest.peek().copied();
                let stretch = Stretch {
                    workspace,
                    from,
                    document,
                    until,
                };
                held.insert(document, self.document(stretch)?);
                if let Some(next) = until {
                    from = next;
                }
                self.report.documents += 1;
                if let Some(progress) = &self.progress {
                    let documents = self.report.documents;
                    progress(VerifyProgress { documents, total });
                }
            }
            if let Some(end) = end {
                self.feed(workspace, end, &held)?;
            }
        }
        self.journal()?;
        Ok(())
    }

    fn note(&mut self, place: Place, record: String, what: String) {
        tracing::warn!(record, what, "damage in the store");
        self.report.damages += 1;
        if self.report.damaged.len() < DAMAGES_MAX {
            self.report.damaged.push(Damage {
                workspace: place.workspace,
                document: place.document,
                record,
                what,
            });
        }
    }

    /// Reads a range to its end, past what is damaged.
    fn survey(
        &mut self,
        mut range: KeyRange,
        place: Place,
        mut visit: impl FnMut(&mut Self, &Key, Bytes),
    ) -> Result<(), Error> {
        loop {
            let survey = match self.shared.reader.survey(&range) {
                Ok(survey) => survey,
                Err(StoreError::Closed) => return Err(Error::Closed),
                Err(error) => {
                    let from = Key::from_bytes(range.start().to_vec());
                    let what = format!("nothing from here on can be read: {error}");
                    self.note(place, format!("{from:?}"), what);
                    return Ok(());
                }
            };
            let last = survey.rows.last().map(|(key, _)| key.clone());
            for (key, value) in survey.rows {
                self.report.records += 1;
                let place = Place {
                    document: key.document().or(place.document),
                    ..place
                };
                match value {
                    Ok(value) => visit(self, &key, value),
                    Err(StoreError::Damaged { what, .. }) => {
                        self.note(place, format!("{key:?}"), what);
                    }
                    Err(error) => self.note(place, format!("{key:?}"), error.to_string()),
                }
            }
            match last.filter(|_| survey.more) {
                Some(last) => range = range.after(&last),
                None => return Ok(()),
            }
        }
    }

    fn expect<T: Record>(&mut self, place: Place, key: &Key, value: &[u8]) -> Option<T> {
        match T::decode(value) {
            Ok(row) => Some(row),
            Err(error) => {
                self.note(place, format!("{key:?}"), error.to_string());
                None
            }
        }
    }

    /// The kinds of which there are few, or whose rows stand for themselves.
    fn small_records(&mut self) -> Result<(), Error> {
        let kinds = [
            KeyKind::Meta,
            KeyKind::Share,
            KeyKind::Invite,
            KeyKind::Member,
            KeyKind::Workspace,
            KeyKind::FeedHead,
            KeyKind::Peer,
            KeyKind::Damage,
            KeyKind::Quarantine,
            KeyKind::Index,
            KeyKind::IndexState,
        ];
        for kind in kinds {
            let range = KeyRange::new(vec![kind as u8], Some(vec![kind as u8 + 1]));
            self.survey(range, Place::default(), |this, key, value| {
                let place = Place {
                    workspace: leading_workspace(key),
                    document: key.document(),
                };
                match kind {
                    KeyKind::Share => drop(this.expect::<ShareRow>(place, key, &value)),
                    KeyKind::Invite => drop(this.expect::<InviteRow>(place, key, &value)),
                    KeyKind::Member => drop(this.expect::<MemberRow>(place, key, &value)),
                    KeyKind::Workspace => drop(this.expect::<WorkspaceRow>(place, key, &value)),
                    KeyKind::FeedHead => drop(this.expect::<FeedHeadRow>(place, key, &value)),
                    KeyKind::Peer => drop(this.expect::<PeerRow>(place, key, &value)),
                    KeyKind::Quarantine => drop(this.expect::<QuarantineRow>(place, key, &value)),
                    KeyKind::Damage => {
                        if let Some(row) = this.expect::<DamageRow>(place, key, &value) {
                            let what = format!("something of it was lost: {}", row.what);
                            this.note(place, format!("{key:?}"), what);
                        }
                    }
                    KeyKind::IndexState => drop(this.expect::<IndexStateRow>(place, key, &value)),
                    KeyKind::Index => {
                        if let Err(error) = IndexRow::decode(&value) {
                            this.note(place, format!("{key:?}"), error.to_string());
                        }
                    }
                    _ => {}
                }
            })?;
        }
        Ok(())
    }

    /// The workspaces known, and those that only have a feed.
    fn workspaces(&mut self) -> Result<BTreeSet<WorkspaceId>, Error> {
        let mut workspaces = BTreeSet::new();
        match known_workspaces(&self.shared.reader) {
            Ok(known) => workspaces.extend(known),
            // It was noted where it was read one by one.
            Err(error) => tracing::debug!(%error, "the list of workspaces does not read"),
        }
        let kind = KeyKind::FeedHead as u8;
        let range = KeyRange::new(vec![kind], Some(vec![kind + 1]));
        let before = self.report.clone();
        self.survey(range, Place::default(), |_, key, _| {
            workspaces.extend(leading_workspace(key));
        })?;
        // They were read and counted before.
        self.report = before;
        Ok(workspaces)
    }

    /// The documents of a workspace: those with a head row, also a damaged one.
    fn heads(&mut self, workspace: WorkspaceId) -> Result<BTreeSet<DocumentId>, Error> {
        let place = Place {
            workspace: Some(workspace),
            document: None,
        };
        let mut documents = BTreeSet::new();
        let before = self.report.damaged.len();
        self.survey(KeyRange::heads(&workspace), place, |_, key, _| {
            documents.extend(key.document());
        })?;
        let damaged = &self.report.damaged[before..];
        documents.extend(damaged.iter().filter_map(|damage| damage.document));
        Ok(documents)
    }

    /// Compares a document's head row with what is stored of it, and reads whatever lies between it
    /// and the next document; what is held of it, if that is known.
    fn document(&mut self, stretch: Stretch) -> Result<Option<Names>, Error> {
        let Stretch {
            workspace,
            document,
            ..
        } = stretch;
        let place = Place {
            workspace: Some(workspace),
            document: Some(document),
        };
        for tries in 1.. {
            let before = self.report.clone();
            let head = self.head(workspace, document)?;
            let mut held = Held::default();
            for kind in [KeyKind::Change, KeyKind::Snapshot] {
                self.survey(stretch.range(kind), place, |this, key, value| {
                    let of = key.document().unwrap_or(document);
                    let place = Place {
                        document: Some(of),
                        ..place
                    };
                    let read = if of == document {
                        held.add(key, &value, head.as_ref().map(|head| head.kind))
                    } else if let Ok(None) = this.head(workspace, of) {
                        Err("its document has no head row".to_owned())
                    } else {
                        // It was made since.
                        Ok(())
                    };
                    if let Err(what) = read {
                        this.note(place, format!("{key:?}"), what);
                    }
                })?;
            }
            let again = self.head(workspace, document)?;
            let snapshots =
                |head: &Option<HeadRow>| head.as_ref().map(|head| head.snapshots.clone());
            if snapshots(&again) != snapshots(&head) && tries < TRIES_MAX {
                // It was compacted, and its changes may have been read in both places or in neither.
                self.report = before;
                continue;
            }
            self.report.changes += held.len();
            let key = format!("{:?}", Key::head(&workspace, &document));
            let Some(head) = head else {
                return Ok(None);
            };
            if again.as_ref() != Some(&head) {
                held.leave_out_after(&head);
            }
            let is_root = |hash: &_| {
                let roots = reconvene_model::roots();
                roots.iter().any(|root| root.hash == *hash)
            };
            // Of a purged document only what is yet to be removed is left.
            if head.purged_at.is_some() {
                return Ok(Some(held.into_names()));
            }
            for what in held.differences(&head, &is_root) {
                self.note(place, key.clone(), what);
            }
            return Ok(Some(held.into_names()));
        }
        unreachable!("the loop over all numbers ends by a return")
    }

    /// A head row that reads. One that does not was noted where the heads were read.
    fn head(&self, workspace: WorkspaceId, document: DocumentId) -> Result<Option<HeadRow>, Error> {
        match self.shared.reader.read(&Key::head(&workspace, &document)) {
            Ok(value) => Ok(value.and_then(|value| HeadRow::decode(&value).ok())),
            Err(StoreError::Closed) => Err(Error::Closed),
            Err(_) => Ok(None),
        }
    }

    /// The end of a feed, if its row reads. One that does not was noted.
    fn feed_end(&self, workspace: WorkspaceId) -> Result<Option<FeedPoint>, Error> {
        let row = match self.shared.reader.read(&Key::feed_head(&workspace)) {
            Ok(value) => value.and_then(|value| FeedHeadRow::decode(&value).ok()),
            Err(StoreError::Closed) => return Err(Error::Closed),
            Err(_) => None,
        };
        Ok(row.map(|row| row.point))
    }

    fn feed(
        &mut self,
        workspace: WorkspaceId,
        end: FeedPoint,
        held: &BTreeMap<DocumentId, Option<Names>>,
    ) -> Result<(), Error> {
        let place = Place {
            workspace: Some(workspace),
            document: None,
        };
        let mut last: Option<FeedPoint> = None;
        let range = KeyRange::feed_after(&workspace, FeedSeq(0));
        self.survey(range, place, |this, key, value| {
            let Some(seq) = key.feed_seq() else {
                return this.note(place, format!("{key:?}"), "its key is malformed".to_owned());
            };
            if seq > end.seq {
                return;
            }
            this.report.feed_entries += 1;
            let Some(row) = this.expect::<FeedRow>(place, key, &value) else {
                return;
            };
            let place = Place {
                document: Some(row.document),
                ..place
            };
            let follows = last.filter(|last| last.seq.next() == seq && row.snapshot.is_none());
            let hashes = || row.changes.iter().map(|(hash, _)| *hash);
            let mut wrong = Vec::new();
            if follows
                .is_some_and(|last| last.advance(&row.document, hashes()).digest != row.digest)
            {
                wrong.push("its digest does not follow from the entry before".to_owned());
            }
            match held.get(&row.document) {
                Some(Some(held)) => wrong.extend(held.lacks(&row)),
                // The head row was noted.
                Some(None) => {}
                // It keeps the place of entries of a document of which nothing was left.
                None if row.changes.is_empty() && row.snapshot.is_none() => {}
                None => wrong.push("the document it names has no head row".to_owned()),
            }
            if seq == end.seq && row.digest != end.digest {
                wrong.push("its digest is not that of the feed's end".to_owned());
            }
            if !wrong.is_empty() && this.is_unchanged(key, &value) {
                for what in wrong {
                    this.note(place, format!("{key:?}"), what);
                }
            }
            last = Some(FeedPoint {
                epoch: end.epoch,
                seq,
                digest: row.digest,
            });
        })
    }

    /// Whether a record still reads as it did: compaction may have replaced it since.
    fn is_unchanged(&self, key: &Key, value: &Bytes) -> bool {
        !matches!(self.shared.reader.read(key), Ok(now) if now.as_ref() != Some(value))
    }

    fn journal(&mut self) -> Result<(), Error> {
        let found = match self.shared.data_dir()?.check_journal() {
            Ok(found) => found,
            Err(error) => {
                self.note(Place::default(), "journal".to_owned(), error.to_string());
                return Ok(());
            }
        };
        for (segment, bytes) in found.damaged {
            let what = format!("{bytes} bytes of it cannot be read");
            self.note(Place::default(), format!("journal/{segment}"), what);
        }
        for entry in found.entries {
            self.report.journal_entries += 1;
            if let Err(error) = JournalFrame::decode(&entry.frame) {
                let place = Place {
                    workspace: Some(entry.workspace),
                    document: None,
                };
                let record = format!("journal entry through {}", entry.through);
                self.note(place, record, error.to_string());
            }
        }
        Ok(())
    }
}

/// The workspace that a record belongs to, where its key says it.
pub(crate) fn leading_workspace(key: &Key) -> Option<WorkspaceId> {
    let leads = key
        .kind()
        .is_some_and(|kind| kind >= KeyKind::FeedHead || kind == KeyKind::Workspace);
    let bytes: [u8; 16] = key.as_bytes().get(1..17)?.try_into().ok()?;
    leads.then(|| WorkspaceId::from_bytes(bytes))
}

mod document;
