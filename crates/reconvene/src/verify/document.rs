//! What is stored of one document, read record by record, and how its head row differs from that.

use std::collections::{BTreeMap, BTreeSet};

use reconvene_core::engine::snapshot_hash;
use reconvene_core::guard::{ActorId, ChangeHeader, parse_change};
use reconvene_core::ids::{ChangeHash, DocumentKind, SnapshotHash};
use reconvene_core::keys::{Key, KeyKind};
use reconvene_core::records::{
    ActorProgress, ChangeRow, FeedRow, HeadRow, Record as _, SnapshotRow,
};
use reconvene_model::{MaterialiseCounter, snapshot};

/// The changes and snapshots of one document that read.
#[derive(Default)]
pub(super) struct Held {
    changes: BTreeMap<ChangeHash, Seen>,
    /// With their sizes and numbers of changes.
    snapshots: BTreeMap<SnapshotHash, (usize, u64)>,
}

struct Seen {
    dependencies: Vec<ChangeHash>,
    actor: ActorId,
    seq: u64,
    /// Size of its body, if it is stored singly.
    single: Option<u64>,
}

impl Held {
    /// Takes in a change or snapshot of a document; what is wrong with it, if something is.
    pub(super) fn add(
        &mut self,
        key: &Key,
        value: &[u8],
        kind: Option<DocumentKind>,
    ) -> Result<(), String> {
        if key.kind() == Some(KeyKind::Change) {
            let row = ChangeRow::decode(value).map_err(|error| error.to_string())?;
            let header = parse_change(&row.body).map_err(|error| error.to_string())?;
            if key.change_hash() != Some(header.hash) {
                return Err(format!("it holds change {}", header.hash));
            }
            self.see(header, Some(row.body.len() as u64));
            return Ok(());
        }
        let row = SnapshotRow::decode(value).map_err(|error| error.to_string())?;
        let hash = snapshot_hash(&row.body);
        if key.snapshot_hash() != Some(hash) {
            return Err(format!("it holds snapshot {hash}"));
        }
        // Without its head row nobody knows what kind of document it is of.
        let Some(kind) = kind else { return Ok(()) };
        let counter = MaterialiseCounter::default();
        let headers =
            snapshot::inspect(kind, &row.body, &counter).map_err(|error| error.to_string())?;
        let seen = (row.body.len(), headers.len() as u64);
        self.snapshots.insert(hash, seen);
        headers
            .into_iter()
            .for_each(|header| self.see(header, None));
        Ok(())
    }

    fn see(&mut self, header: ChangeHeader, single: Option<u64>) {
        let ChangeHeader {
            hash,
            dependencies,
            actor,
            seq,
            ..
        } = header;
        let seen = Seen {
            dependencies,
            actor,
            seq,
            single,
        };
        let known = self.changes.entry(hash).or_insert(seen);
        known.single = known.single.or(single);
    }

    /// How many different changes there are.
    pub(super) fn len(&self) -> u64 {
        self.changes.len() as u64
    }

    /// Leaves out what came after a head row was written: a row that moved on while the changes were
    /// read tells which those are.
    pub(super) fn leave_out_after(&mut self, head: &HeadRow) {
        self.changes.retain(|_, seen| {
            let progress = head.actors.get(&seen.actor);
            progress.is_some_and(|progress| progress.holds(seen.seq))
        });
    }

    /// What a head row says otherwise.
    pub(super) fn differences(
        &self,
        head: &HeadRow,
        is_root: &dyn Fn(&ChangeHash) -> bool,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let named: BTreeSet<_> = self
            .changes
            .values()
            .flat_map(|seen| seen.dependencies.iter().copied())
            .collect();
        let heads = self.changes.keys().copied();
        let heads: BTreeSet<_> = heads.filter(|hash| !named.contains(hash)).collect();
        let absent = |hash: &ChangeHash| !self.changes.contains_key(hash) && !is_root(hash);
        let missing: BTreeSet<_> = named.into_iter().filter(absent).collect();
        differ(&mut found, "head", &head.heads, &heads);
        differ(&mut found, "missing change", &head.missing, &missing);

        let mut actors = BTreeMap::<_, ActorProgress>::new();
        for seen in self.changes.values() {
            actors.entry(&seen.actor).or_default().add(seen.seq);
        }
        let same = actors.len() == head.actors.len()
            && actors
                .iter()
                .all(|(actor, progress)| head.actors.get(actor) == Some(progress));
        if !same {
            found.push("it counts its authors' changes differently".to_owned());
        }
        let single = self.changes.values().filter_map(|seen| seen.single);
        let (changes, bytes) = single.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        if (head.change_count, head.change_bytes) != (changes, bytes) {
            found.push(format!(
                "it names {} single changes of {} bytes, {changes} of {bytes} bytes are stored",
                head.change_count, head.change_bytes
            ));
        }
        for snapshot in &head.snapshots {
            let stated = (snapshot.size as usize, snapshot.changes);
            match self.snapshots.get(&snapshot.hash) {
                Some(stored) if *stored == stated => {}
                Some(_) => found.push(format!("it counts snapshot {} differently", snapshot.hash)),
                None => found.push(format!("snapshot {} is not there", snapshot.hash)),
            }
        }
        found
    }

    /// What feed entries are compared with.
    pub(super) fn into_names(self) -> Names {
        Names {
            changes: self.changes.into_keys().collect(),
            has_snapshot: !self.snapshots.is_empty(),
        }
    }
}

/// The names of what is stored of a document.
pub(super) struct Names {
    changes: BTreeSet<ChangeHash>,
    has_snapshot: bool,
}

impl Names {
    /// What a feed entry names and is not here.
    pub(super) fn lacks(&self, row: &FeedRow) -> Vec<String> {
        let absent = |hash: &ChangeHash| !self.changes.contains(hash);
        let hashes = row.changes.iter().map(|(hash, _)| hash);
        let changes = hashes.filter(|hash| absent(hash));
        let mut found: Vec<_> = changes
            .map(|hash| format!("it names change {hash}, which is not there"))
            .collect();
        // A later snapshot may stand in its place.
        if let Some(snapshot) = row.snapshot.filter(|_| !self.has_snapshot) {
            let hash = snapshot.hash;
            found.push(format!("it names snapshot {hash}, which is not there"));
        }
        found
    }
}

/// How many of each kind of hash one side has and the other has not.
fn differ(
    found: &mut Vec<String>,
    what: &str,
    stated: &BTreeSet<ChangeHash>,
    stored: &BTreeSet<ChangeHash>,
) {
    for hash in stated.difference(stored) {
        found.push(format!("it names {hash} as a {what}, which it is not"));
    }
    for hash in stored.difference(stated) {
        found.push(format!("it does not name {hash} as a {what}"));
    }
}
