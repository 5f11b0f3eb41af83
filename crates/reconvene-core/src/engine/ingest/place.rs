//! Placing changes in the graphs of their documents, and what was placed in the feed.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::offences::{Offending, contradicts_root};
use super::{Author, CheckedChange, CheckedSnapshot, Entry, JobDocument, counters};
use crate::engine::heal::note_returned;
use crate::engine::purge::{Verdict, tombstone_of};
use crate::engine::{Engine, Root, Workspace};
use crate::feed::FeedPoint;
use crate::guard::ChangeHeader;
use crate::ids::{ChangeHash, DocumentId, DocumentKind, FeedSeq, PeerId, WorkspaceId};
use crate::keys::Key;
use crate::limits;
use crate::records::{ChangeRow, FeedRow, HeadRow, Record as _, SnapshotRow};
use crate::refusal::RefusalCode;

/// What placing a job's changes in their graphs came to. Slots are already updated.
#[derive(Default)]
pub(in crate::engine) struct Placed {
    pub(in crate::engine) documents: Vec<(PlacedDocument, Vec<CheckedChange>)>,
    pub(super) refused: Vec<(DocumentId, RefusalCode)>,
    /// What of that no peer sends that keeps the protocol.
    pub(super) offences: Vec<(DocumentId, Offending)>,
    /// Documents that were purged before, and of which a tombstone came.
    settled: Vec<DocumentId>,
}

impl Placed {
    pub(super) fn change_count(&self) -> u64 {
        let counts = self.documents.iter().map(|(document, changes)| {
            let snapshot = document.snapshot.as_ref();
            snapshot.map_or(0, |snapshot| snapshot.changes.len()) + changes.len()
        });
        counts.sum::<usize>() as u64
    }

    fn offend(&mut self, document: DocumentId, offence: Option<Offending>) {
        let offence = offence.map(|offence| (document, offence));
        self.offences.extend(offence);
    }

    /// What the sender is told of. Of an early copy, which may have come ahead of what it depends on, that
    /// is only what is wrong with it wherever it comes.
    pub(super) fn told_refused(&self, early: bool) -> Vec<(DocumentId, RefusalCode)> {
        let offends = |document| self.offences.iter().any(|(of, _)| of == document);
        let refused = self.refused.iter();
        let told = refused.filter(|(document, _)| !early || offends(document));
        told.copied().collect()
    }

    /// The documents that are purged by now.
    pub(super) fn purged_documents(&self) -> Vec<DocumentId> {
        let placed = self.documents.iter().map(|(document, _)| document);
        let purged = placed.filter(|document| document.is_purged);
        let purged = purged.map(|document| document.document);
        purged.chain(self.settled.iter().copied()).collect()
    }
}

pub(in crate::engine) struct PlacedDocument {
    pub(in crate::engine) document: DocumentId,
    pub(in crate::engine) kind: DocumentKind,
    pub(in crate::engine) is_new: bool,
    pub(in crate::engine) snapshot: Option<CheckedSnapshot>,
    pub(in crate::engine) is_purged: bool,
}

impl std::ops::Deref for PlacedDocument {
    type Target = DocumentId;

    fn deref(&self) -> &DocumentId {
        &self.document
    }
}

/// Places changes: duplicates fall out, the rest updates heads and sequences, or is refused. An
/// edit of the host is placed whole or, on the first refusal, not at all.
pub(super) fn place(
    state: &mut Workspace,
    roots: &BTreeMap<ChangeHash, Root>,
    documents_max: u64,
    documents: &[JobDocument],
    author: &Author,
) -> Placed {
    let mut placed = Placed::default();
    let mut room = match author {
        Author::Peer { .. } => documents_max.saturating_sub(state.documents),
        // What this side writes, wrote or has restored is its host's business.
        Author::Host { .. } | Author::Journal { .. } | Author::Archive { .. } => u64::MAX,
    };
    let mut staged = Vec::new();
    for document in documents {
        let Some(slot) = state.slots.slots.get(&document.document) else {
            panic!("a pinned document has no slot");
        };
        let unfit = document.refused.as_ref();
        let offence = unfit.and_then(|unfit| unfit.offence.clone());
        let offends = offence.is_some();
        placed.offend(document.document, offence);
        if slot.unreadable {
            let refused = (document.document, RefusalCode::Unavailable);
            placed.refused.push(refused);
            continue;
        }
        let is_new = slot.row.is_none();
        let mut refused = None;
        if let Some(tombstone) = &document.tombstone {
            match tombstone.judge(document.kind, slot.row.as_ref()) {
                Verdict::Take => {
                    let row = tombstone.row(document.kind, slot.row.as_ref());
                    staged.push((document, row, BTreeMap::new(), is_new, None, Vec::new()));
                    continue;
                }
                Verdict::Settled => {
                    placed.settled.push(document.document);
                    continue;
                }
                // What came ahead of it is taken all the same.
                Verdict::Refuse(code) => refused = Some(code),
            }
        }
        if is_new && room == 0 {
            let refused = (document.document, RefusalCode::WorkspaceFull);
            placed.refused.push(refused);
            continue;
        }
        let tombstone_refused = refused;
        let mut row = slot
            .row
            .clone()
            .unwrap_or_else(|| HeadRow::empty(document.kind));
        if document.snapshot.is_some() && row.snapshots.len() >= limits::SNAPSHOTS_PER_DOCUMENT_MAX
        {
            placed
                .refused
                .push((document.document, RefusalCode::TooLarge));
            continue;
        }
        let mut added = Vec::new();
        let mut hashes = BTreeMap::new();
        let is_own = matches!(author, Author::Host { .. });
        let orphans = matches!(author, Author::Journal { .. });
        let from_snapshot = document.snapshot.iter();
        let from_snapshot = from_snapshot.flat_map(|snapshot| &snapshot.changes);
        let from_snapshot = from_snapshot.map(|header| (header, None));
        let singly = document.changes.iter();
        let singly = singly.map(|change| (&change.header, Some(change)));
        let mut snapshot_adds = false;
        for (header, change) in from_snapshot.chain(singly) {
            let present = |hash: &ChangeHash| {
                hashes.contains_key(hash)
                    || slot.fresh.contains_key(hash)
                    // What was a head before is stored, also once something was put on top of it.
                    || slot.row.as_ref().is_some_and(|row| row.heads.contains(hash))
                    || (!row.missing.contains(hash)
                        && (row.heads.contains(hash)
                            || slot.looked_up.get(hash).copied().unwrap_or(false)))
            };
            let max_op = |hash: &ChangeHash| {
                let stored = slot.row.as_ref().and_then(|row| row.head_max_ops.get(hash));
                let new = hashes.get(hash).or_else(|| slot.fresh.get(hash));
                new.or(stored).copied()
            };
            let known = Known {
                roots,
                present: &present,
                max_op: &max_op,
                orphans,
            };
            match judge(header, &row, document.kind, &known) {
                Judgement::Duplicate => {}
                Judgement::Add if is_own && was_used(state, document.document, header) => {
                    refused = Some(RefusalCode::Equivocation);
                    break;
                }
                Judgement::Refuse(code) => {
                    refused = Some(code);
                    if let Some(change) = change.filter(|_| !offends) {
                        let wrong = contradicts_root(header, document.kind, roots);
                        let raw = change.body.clone();
                        let offence = wrong.map(|what| Offending::new(raw, what));
                        placed.offend(document.document, offence);
                    }
                    if change.is_none() {
                        // A snapshot is taken whole or not at all.
                        snapshot_adds = false;
                        hashes.clear();
                        row = slot
                            .row
                            .clone()
                            .unwrap_or_else(|| HeadRow::empty(document.kind));
                    }
                    break;
                }
                Judgement::Add => {
                    let absent: Vec<_> = header
                        .dependencies
                        .iter()
                        .filter(|hash| !roots.contains_key(*hash) && !present(hash))
                        .copied()
                        .collect();
                    add(&mut row, header, absent);
                    hashes.insert(header.hash, header.max_op());
                    match change {
                        Some(change) => {
                            row.change_count += 1;
                            row.change_bytes += change.body.len() as u64;
                            added.push(change.clone());
                        }
                        None => snapshot_adds = true,
                    }
                }
            }
        }
        // Whatever else is lacking, what offends is not asked for again.
        let offended = unfit.filter(|unfit| unfit.offence.is_some());
        let offended = offended.map(|unfit| unfit.code);
        let unfit = unfit.map(|unfit| unfit.code);
        if let Some(code) = offended.or(tombstone_refused).or(refused).or(unfit) {
            placed.refused.push((document.document, code));
        }
        let snapshot = document.snapshot.as_ref().filter(|_| snapshot_adds);
        row.snapshots
            .extend(snapshot.map(|checked| checked.snapshot));
        if !added.is_empty() || snapshot.is_some() {
            room = room.saturating_sub(u64::from(is_new));
            staged.push((document, row, hashes, is_new, snapshot, added));
        }
    }
    if matches!(author, Author::Host { .. }) && !placed.refused.is_empty() {
        return placed;
    }
    for (document, row, hashes, is_new, snapshot, added) in staged {
        if let Some(slot) = state.slots.slots.get_mut(&document.document) {
            let kind = row.kind;
            let is_purged = row.purged_at.is_some();
            slot.row = Some(row);
            slot.fresh.extend(hashes);
            let document = PlacedDocument {
                document: document.document,
                kind,
                is_new,
                snapshot: snapshot.cloned(),
                is_purged,
            };
            placed.documents.push((document, added));
        }
    }
    placed
}

/// Whether a change of this actor and number was here before it was lost. Others may hold it, so that a
/// new one must not be given its number.
fn was_used(state: &Workspace, document: DocumentId, header: &ChangeHeader) -> bool {
    let damage = state.damaged.get(&document);
    let held = damage.and_then(|damage| damage.held.get(&header.actor));
    held.is_some_and(|held| held.holds(header.seq))
}

pub(super) enum Judgement {
    Add,
    Duplicate,
    Refuse(RefusalCode),
}

/// What is known of other changes when one is judged.
pub(super) struct Known<'a> {
    pub(super) roots: &'a BTreeMap<ChangeHash, Root>,
    pub(super) present: &'a dyn Fn(&ChangeHash) -> bool,
    /// The counter of the last operation of some changes that are present.
    pub(super) max_op: &'a dyn Fn(&ChangeHash) -> Option<u64>,
    /// Whether a change is taken though what it depends on is absent.
    pub(super) orphans: bool,
}

pub(super) fn judge(
    header: &ChangeHeader,
    row: &HeadRow,
    kind: DocumentKind,
    known: &Known<'_>,
) -> Judgement {
    let Known {
        roots,
        present,
        max_op,
        orphans,
    } = *known;
    if row.purged_at.is_some() {
        let progress = row.actors.get(&header.actor);
        return match progress.is_some_and(|progress| progress.holds(header.seq)) {
            true => Judgement::Duplicate,
            false => Judgement::Refuse(RefusalCode::DocumentDeleted),
        };
    }
    if present(&header.hash) {
        return Judgement::Duplicate;
    }
    if row.kind != kind || header.dependencies.is_empty() {
        return Judgement::Refuse(RefusalCode::Damaged);
    }
    for dependency in &header.dependencies {
        match roots.get(dependency) {
            Some(root) if root.kind != row.kind => return Judgement::Refuse(RefusalCode::Damaged),
            Some(_) => {}
            None if present(dependency) || orphans => {}
            None => return Judgement::Refuse(RefusalCode::MissingDependencies),
        }
    }
    let progress = row.actors.get(&header.actor);
    if progress.is_some_and(|progress| progress.holds(header.seq)) {
        return Judgement::Refuse(RefusalCode::Equivocation);
    }
    let last_seq = progress.map_or(0, |progress| progress.last_seq);
    let gaps = orphans || progress.is_some_and(|progress| !progress.beyond.is_empty());
    if header.seq != last_seq + 1 && !gaps {
        // A change follows its actor's last one, so with its dependencies here the last one is too.
        return Judgement::Refuse(RefusalCode::Damaged);
    }
    if !counters::begins_rightly(header, row, roots, max_op, !orphans) {
        return Judgement::Refuse(RefusalCode::Damaged);
    }
    if row.operations + header.operations > limits::OPERATIONS_PER_DOCUMENT_MAX {
        return Judgement::Refuse(RefusalCode::TooLarge);
    }
    if row.bytes() >= limits::DOCUMENT_BYTES_MAX
        || row.change_count >= limits::CHANGES_PER_DOCUMENT_MAX as u64
    {
        return Judgement::Refuse(RefusalCode::TooLarge);
    }
    if progress.is_none() && row.actors.len() >= limits::ACTORS_PER_DOCUMENT_MAX {
        return Judgement::Refuse(RefusalCode::TooLarge);
    }
    Judgement::Add
}

pub(super) fn add(row: &mut HeadRow, header: &ChangeHeader, absent_dependencies: Vec<ChangeHash>) {
    for dependency in &header.dependencies {
        row.heads.remove(dependency);
    }
    row.missing.extend(absent_dependencies);
    if !row.missing.remove(&header.hash) {
        row.heads.insert(header.hash);
    }
    row.actors
        .entry(header.actor.clone())
        .or_default()
        .add(header.seq);
    counters::count(row, header);
}

/// Enters placed documents in the feed and writes their rows; yields what is to be removed.
pub(in crate::engine) fn enter(
    state: &mut Workspace,
    workspace: WorkspaceId,
    placed: Placed,
    origin: Option<PeerId>,
    puts: &mut Vec<(Key, Bytes)>,
    entries: &mut Vec<Entry>,
) -> Vec<Key> {
    let mut deletes = Vec::new();
    for (document, changes) in placed.documents {
        let PlacedDocument {
            document,
            kind,
            is_new,
            snapshot,
            is_purged,
        } = document;
        let named = snapshot.iter().map(|snapshot| {
            // In the digest a snapshot stands for what it holds.
            ChangeHash::from_bytes(*snapshot.snapshot.hash.as_bytes())
        });
        let named = named.chain(changes.iter().map(|change| change.header.hash));
        state.point = state.point.advance(&document, named);
        match (is_new, is_purged) {
            (true, false) => state.documents += 1,
            (false, true) => state.documents = state.documents.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        if is_purged {
            deletes.push(Key::index(&workspace, kind, &document));
        }
        let head = state.slots.slots.get_mut(&document);
        let mut head = head.and_then(|slot| slot.row.as_mut());
        let previous = head.as_ref().map_or(FeedSeq(0), |row| row.feed_seq);
        let row = FeedRow {
            document,
            kind,
            changes: changes
                .iter()
                .map(|change| {
                    let size = u32::try_from(change.body.len())
                        .expect("a checked change is far smaller than 4 GiB");
                    (change.header.hash, size)
                })
                .collect(),
            origin,
            digest: state.point.digest,
            snapshot: snapshot.as_ref().map(|snapshot| snapshot.snapshot),
            previous,
            purged: head
                .as_ref()
                .and_then(|row| tombstone_of(row))
                .map(|purged| {
                    u32::try_from(purged.bytes()).expect("a tombstone is far below 4 GiB")
                }),
        };
        puts.push((Key::feed(&workspace, state.point.seq), row.encode()));
        let before = head.as_ref().map_or(0, |row| {
            row.change_count.saturating_sub(changes.len() as u64)
        });
        let compaction_due = head
            .as_ref()
            .is_some_and(|row| row.has_remains() || row.compaction_due(before));
        if let Some(row) = &mut head {
            row.feed_seq = state.point.seq;
            puts.push((Key::head(&workspace, &document), row.encode()));
        }
        let whole = snapshot.iter().flat_map(|snapshot| &snapshot.changes);
        let returned = whole.chain(changes.iter().map(|change| &change.header));
        let returned = returned.map(|header| header.hash);
        let rows = (&mut *puts, &mut deletes);
        let is_healed = note_returned(state, &workspace, &document, returned, rows);
        if let Some(snapshot) = &snapshot {
            let body = snapshot.body.clone();
            puts.push((
                Key::snapshot(&workspace, &document, &snapshot.snapshot.hash),
                SnapshotRow { body }.encode(),
            ));
        }
        for change in &changes {
            let row = ChangeRow {
                body: change.body.clone(),
                envelope: Bytes::new(),
            };
            puts.push((
                Key::change(&workspace, &document, &change.header.hash),
                row.encode(),
            ));
        }
        entries.push(Entry {
            workspace,
            document,
            kind,
            changes: changes
                .into_iter()
                .map(|change| (change.header.hash, change.body))
                .collect(),
            has_snapshot: snapshot.is_some(),
            is_purged,
            compaction_due,
            is_healed,
            origin,
            point: state.point,
        });
    }
    if !entries.is_empty() || (!puts.is_empty() && !state.persisted) {
        state.persisted = true;
        puts.push((Key::feed_head(&workspace), Engine::feed_head(state)));
    }
    deletes
}

/// Moves a cursor along a feed; whether it moved, or why that cannot be.
pub(super) fn follow_cursor(
    held: &mut Option<FeedPoint>,
    from: FeedSeq,
    through: FeedPoint,
) -> Result<bool, String> {
    let Some(point) = held else {
        return Err("changes in feed order before any cursor was agreed".to_owned());
    };
    if point.epoch != through.epoch {
        return Err("the feed changed its epoch while it was followed".to_owned());
    }
    if from > point.seq {
        return Err(format!(
            "the feed was held up to {} and continued after {from}",
            point.seq
        ));
    }
    if through.seq <= point.seq {
        return Ok(false);
    }
    *held = Some(through);
    Ok(true)
}
