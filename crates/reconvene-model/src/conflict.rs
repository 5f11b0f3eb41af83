//! Conflicts as people are asked about them: what a register held before, and settling it by a choice.
//!
//! A conflict is found by reading ([`crate::view`]); settling it is an ordinary edit, which supersedes
//! exactly the values that were shown.

use std::collections::{BTreeMap, BTreeSet};

use automerge::{Automerge, ChangeHash, ObjId, ROOT, ReadDoc, ScalarValue};
use reconvene_core::ids::{DocumentId, DocumentKind};

use crate::document::{Document, ReadError};
use crate::edit::{Editor, ModelError};
use crate::genesis::{MEETING, WORKSPACE, containers};
use crate::ids::derive_document_id;
use crate::view::{Conflict, ConflictValue, value_to_json};

impl Conflict {
    /// What names this very conflict: the register, and who wrote what. The same wherever it is read,
    /// another one once a value comes or goes.
    pub fn id(&self) -> DocumentId {
        let values = self.values.iter().map(|value| {
            let change = value
                .change
                .map(|hash| *hash.as_bytes())
                .unwrap_or_default();
            let text = value.value.to_string();
            [&change[..], value.actor.as_bytes(), text.as_bytes()].concat()
        });
        // Sorted: which value is shown is no part of what is asked.
        let values: BTreeSet<Vec<u8>> = values.collect();
        let parts = std::iter::once(self.path.as_bytes()).chain(values.iter().map(Vec::as_slice));
        derive_document_id("reconvene/conflict/1", &parts.collect::<Vec<_>>())
    }
}

impl Document {
    /// The conflicts of a meeting or of a workspace's projects and settings; none of other kinds.
    ///
    /// # Errors
    /// If the document cannot be read.
    pub fn conflicts(&self) -> Result<Vec<Conflict>, ReadError> {
        Ok(match self.kind() {
            MEETING => self.meeting()?.conflicts,
            WORKSPACE => self.workspace()?.conflicts,
            _ => Vec::new(),
        })
    }

    /// What a register held before the values of a conflict were written: null if nothing, `None` if
    /// that is not known or was a conflict itself.
    ///
    /// # Errors
    /// If the document cannot be read.
    pub fn base_of(&self, conflict: &Conflict) -> Result<Option<serde_json::Value>, ReadError> {
        let kind = self.kind();
        self.read(kind, |view| base_of(view.automerge(), kind, conflict))
    }
}

impl Editor {
    /// Settles a conflict by one of its values, counted from 0.
    pub fn settle(&mut self, conflict: &Conflict, choice: usize) -> Result<(), ModelError> {
        let changed = || ModelError::NotFound {
            what: "conflict as it was shown of",
            id: conflict.path.clone(),
        };
        let chosen = conflict.values.get(choice);
        let chosen = chosen.ok_or_else(|| ModelError::NotFound {
            what: "value of this number; count them from 1 to",
            id: conflict.values.len().to_string(),
        })?;
        let place = locate(self.reader(), self.kind(), &conflict.path);
        let (object, key) = place.ok_or_else(changed)?;
        let held = self.reader().get_all(&object, &*key)?;
        let held: Vec<(ScalarValue, String)> = held
            .into_iter()
            .filter_map(|(value, id)| Some((value.as_scalar()?.clone(), actor_of(&id))))
            .collect();
        let is_shown = |(value, actor): &(ScalarValue, String), shown: &ConflictValue| {
            *actor == shown.actor && value_to_json(value) == shown.value
        };
        // A value that came since was not chosen against, and is not to go unseen.
        let all_shown = held.len() == conflict.values.len()
            && held
                .iter()
                .all(|held| conflict.values.iter().any(|shown| is_shown(held, shown)));
        let value = held.into_iter().find(|held| is_shown(held, chosen));
        let (value, _) = value.filter(|_| all_shown).ok_or_else(changed)?;
        self.put(&object, &key, value)
    }
}

fn actor_of(id: &ObjId) -> String {
    match id {
        ObjId::Id(_, actor, _) => actor.to_hex_string(),
        ObjId::Root => String::new(),
    }
}

/// The register of a path: of the root, of a container, or of an entry of a container. Keys may hold a
/// `/` themselves.
fn locate(document: &impl ReadDoc, kind: DocumentKind, path: &str) -> Option<(ObjId, String)> {
    let is_register = |object: &ObjId, key: &str| {
        let values = document.get_all(object, key).unwrap_or_default();
        !values.is_empty() && values.iter().all(|(value, _)| value.is_scalar())
    };
    for container in containers(kind) {
        let rest = path.strip_prefix(container.key);
        let Some(rest) = rest.and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        if is_register(&container.id(), rest) {
            return Some((container.id(), rest.to_owned()));
        }
        for (at, _) in rest.match_indices('/') {
            let (key, field) = (&rest[..at], &rest[at + 1..]);
            if let Ok(Some((value, entry))) = document.get(container.id(), key)
                && value.is_object()
                && is_register(&entry, field)
            {
                return Some((entry, field.to_owned()));
            }
        }
    }
    is_register(&ROOT, path).then(|| (ROOT, path.to_owned()))
}

fn base_of(
    automerge: &Automerge,
    kind: DocumentKind,
    conflict: &Conflict,
) -> Option<serde_json::Value> {
    let (object, key) = locate(automerge, kind, &conflict.path)?;
    let writers: Option<Vec<_>> = conflict
        .values
        .iter()
        .map(|value| value.change.map(|hash| ChangeHash(*hash.as_bytes())))
        .collect();
    let writers = writers?;
    let metas = automerge.get_changes_meta(&[]);
    let deps: BTreeMap<ChangeHash, Vec<ChangeHash>> = metas
        .into_iter()
        .map(|meta| (meta.hash, meta.deps))
        .collect();
    let mut common: Option<BTreeSet<ChangeHash>> = None;
    for writer in &writers {
        let before = ancestors(&deps, writer)?;
        common = Some(match common {
            Some(common) => common.intersection(&before).copied().collect(),
            None => before,
        });
    }
    let common = common?;
    let inner: BTreeSet<_> = common
        .iter()
        .filter_map(|hash| deps.get(hash))
        .flatten()
        .collect();
    let frontier: Vec<_> = common
        .iter()
        .filter(|hash| !inner.contains(hash))
        .copied()
        .collect();
    let held = automerge.get_all_at(&object, &*key, &frontier).ok()?;
    match held.as_slice() {
        [] => Some(serde_json::Value::Null),
        [(value, _)] => value.as_scalar().map(value_to_json),
        _ => None,
    }
}

/// What a change depends on, and that on, and so on; `None` if the change is not here.
fn ancestors(
    deps: &BTreeMap<ChangeHash, Vec<ChangeHash>>,
    of: &ChangeHash,
) -> Option<BTreeSet<ChangeHash>> {
    let mut found = BTreeSet::new();
    let mut next: Vec<_> = deps.get(of)?.clone();
    while let Some(hash) = next.pop() {
        if found.insert(hash) {
            next.extend(deps.get(&hash)?);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests;
