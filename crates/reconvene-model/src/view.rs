//! Reading a document of any shape: registers, containers, conflicts, and what is not as it should be.
//!
//! A merged document may hold anything. What has the wrong type reads as absent and is listed in
//! `malformed`; what has several values reads as Automerge's choice and is listed in `conflicts`.
//! Nothing here panics on a shape and nothing here writes.

use std::collections::BTreeMap;

use automerge::{Automerge, ObjId, ObjType, ROOT, ReadDoc, ScalarValue, Value};
use reconvene_core::ids::{ChangeHash, DocumentKind};
use reconvene_core::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::document::core_hash;
use crate::genesis::{self, Container};
use crate::ids::Author;

/// One register that holds several values, because people wrote them without having seen each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// Where, with the parts of the path separated by `/`.
    pub path: String,
    /// The values; the last one is what the view shows.
    pub values: Vec<ConflictValue>,
}

/// One of the values of a conflict: what, by whom, when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConflictValue {
    /// The value.
    pub value: serde_json::Value,
    /// The actor that wrote it, in hexadecimal digits.
    pub actor: String,
    /// The change that wrote it.
    pub change: Option<ChangeHash>,
    /// When that change says it was made.
    pub at: Option<WallTime>,
}

/// The readable keys of one map.
pub(crate) type Fields = BTreeMap<String, Field>;

/// One value of a map.
#[derive(Clone, Debug)]
pub(crate) enum Field {
    Object(ObjType, ObjId),
    Scalar(ScalarValue),
}

/// A document being read, and what was found amiss on the way.
pub(crate) struct View<'a> {
    automerge: &'a Automerge,
    kind: DocumentKind,
    pub(crate) conflicts: Vec<Conflict>,
    pub(crate) malformed: Vec<String>,
}

impl<'a> View<'a> {
    pub(crate) fn new(automerge: &'a Automerge, kind: DocumentKind) -> Self {
        Self {
            automerge,
            kind,
            conflicts: Vec::new(),
            malformed: Vec::new(),
        }
    }

    /// The document itself, for what no view shows.
    pub(crate) fn automerge(&self) -> &Automerge {
        self.automerge
    }

    /// The root's registers. Containers that something was written over are listed as malformed; they
    /// stay readable.
    pub(crate) fn root(&mut self) -> Fields {
        let mut fields = self.fields(&ROOT, "");
        for container in genesis::containers(self.kind) {
            match fields.remove(container.key) {
                Some(Field::Object(_, id)) if id == container.id() => {}
                _ => self.malformed.push(container.key.to_owned()),
            }
        }
        fields
    }

    /// The greatest of the values at a key of the root; versions only ever rise.
    pub(crate) fn greatest_root(&self, key: &str) -> u64 {
        let values = self.automerge.get_all(ROOT, key).unwrap_or_default();
        values
            .iter()
            .filter_map(|(value, _)| value.as_u64())
            .max()
            .unwrap_or(0)
    }

    pub(crate) fn text(&mut self, container: Container) -> String {
        match self.automerge.text(container.id()) {
            Ok(text) => text,
            Err(_) => {
                self.malformed.push(container.key.to_owned());
                String::new()
            }
        }
    }

    /// The keys of a container; empty keys cannot be written by this crate and are listed.
    pub(crate) fn keys(&mut self, container: Container) -> Vec<String> {
        let keys: Vec<_> = self.automerge.keys(container.id()).collect();
        keys.into_iter()
            .filter(|key| {
                if key.is_empty() {
                    self.malformed.push(format!("{}/", container.key));
                }
                !key.is_empty()
            })
            .collect()
    }

    /// The values of a container's keys, without the fields of those that are objects.
    pub(crate) fn values(&mut self, container: Container) -> Fields {
        self.fields(&container.id(), container.key)
    }

    /// The entries of a container that holds one map per key. Two devices that created the same key
    /// are no conflict in themselves: the entry shown is Automerge's choice.
    pub(crate) fn entries(&mut self, container: Container) -> Vec<(String, Fields)> {
        let mut entries = Vec::new();
        let mut maps = Vec::new();
        for item in self.automerge.map_range(container.id(), ..) {
            match item.value {
                _ if item.key.is_empty() => self.malformed.push(format!("{}/", container.key)),
                automerge::ValueRef::Object(ObjType::Map) => {
                    maps.push((item.key.to_string(), item.id()));
                }
                _ => self
                    .malformed
                    .push(format!("{}/{}", container.key, item.key)),
            }
        }
        for (key, id) in maps {
            let fields = self.fields(&id, &format!("{}/{key}", container.key));
            entries.push((key, fields));
        }
        entries
    }

    /// Whether a register of any entry of a container holds several values that differ.
    pub(crate) fn has_conflicting_entries(&mut self, container: Container) -> bool {
        let automerge = self.automerge;
        for item in automerge.map_range(container.id(), ..) {
            if matches!(item.value, automerge::ValueRef::Object(ObjType::Map)) {
                let entry = item.id();
                let mut conflicting = automerge.map_range(&entry, ..);
                if conflicting.any(|register| register.conflict) {
                    self.fields(&entry, container.key);
                }
            }
        }
        !self.conflicts.is_empty()
    }

    /// The number of keys of a container, without reading their values.
    pub(crate) fn count(&self, container: Container) -> usize {
        self.automerge.length(container.id())
    }

    /// All values at a key of a container, for what merges by a rule of its own.
    pub(crate) fn all(&self, container: Container, key: &str) -> Vec<Field> {
        let values = self.automerge.get_all(container.id(), key);
        let values = values.unwrap_or_default().into_iter();
        values.map(|(value, id)| Field::new(value, id)).collect()
    }

    /// All values at a key of the root.
    pub(crate) fn all_root(&self, key: &str) -> Vec<Field> {
        let values = self.automerge.get_all(ROOT, key).unwrap_or_default();
        let values = values.into_iter();
        values.map(|(value, id)| Field::new(value, id)).collect()
    }

    /// The maps at a key of the root, each with the change that made it.
    pub(crate) fn maps_at_root(&mut self, key: &str) -> Vec<(Option<ChangeHash>, Fields)> {
        let mut maps = Vec::new();
        for field in self.all_root(key) {
            match field {
                Field::Object(ObjType::Map, id) => {
                    let change = self.automerge.hash_for_opid(&id).map(core_hash);
                    let fields = self.fields(&id, key);
                    maps.push((change, fields));
                }
                Field::Scalar(ScalarValue::Null) => {}
                _ => self.malformed.push(key.to_owned()),
            }
        }
        maps
    }

    /// Whether every head of the document is one of these changes.
    pub(crate) fn heads_are_among(
        &self,
        changes: impl Iterator<Item = Option<ChangeHash>>,
    ) -> bool {
        let changes: Vec<_> = changes.flatten().collect();
        let heads = self.automerge.get_heads();
        heads
            .into_iter()
            .all(|head| changes.contains(&core_hash(head)))
    }

    pub(crate) fn fields_of(&mut self, field: Option<Field>, path: &str) -> Option<Fields> {
        match field? {
            Field::Object(ObjType::Map, id) => Some(self.fields(&id, path)),
            Field::Scalar(ScalarValue::Null) => None,
            _ => {
                self.malformed.push(path.to_owned());
                None
            }
        }
    }

    pub(crate) fn string(&mut self, fields: &mut Fields, key: &str, path: &str) -> Option<String> {
        match fields.remove(key)? {
            Field::Scalar(ScalarValue::Str(text)) => Some(text.to_string()),
            Field::Scalar(ScalarValue::Null) => None,
            _ => self.wrong_type(key, path),
        }
    }

    pub(crate) fn integer(&mut self, fields: &mut Fields, key: &str, path: &str) -> Option<i64> {
        match fields.remove(key)? {
            Field::Scalar(ScalarValue::Int(value) | ScalarValue::Timestamp(value)) => Some(value),
            Field::Scalar(ScalarValue::Uint(value)) => match i64::try_from(value) {
                Ok(value) => Some(value),
                Err(_) => self.wrong_type(key, path),
            },
            Field::Scalar(ScalarValue::Null) => None,
            _ => self.wrong_type(key, path),
        }
    }

    pub(crate) fn boolean(&mut self, fields: &mut Fields, key: &str, path: &str) -> Option<bool> {
        match fields.remove(key)? {
            Field::Scalar(ScalarValue::Boolean(value)) => Some(value),
            Field::Scalar(ScalarValue::Null) => None,
            _ => self.wrong_type(key, path),
        }
    }

    pub(crate) fn time(&mut self, fields: &mut Fields, key: &str, path: &str) -> Option<WallTime> {
        self.integer(fields, key, path).map(WallTime::from_millis)
    }

    /// A string that must be readable as something else, such as an id.
    pub(crate) fn parsed<T: std::str::FromStr>(
        &mut self,
        fields: &mut Fields,
        key: &str,
        path: &str,
    ) -> Option<T> {
        let text = self.string(fields, key, path)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(_) => self.wrong_type(key, path),
        }
    }

    /// The strings of a container by key; what is none reads as absent.
    pub(crate) fn strings(&mut self, container: Container) -> BTreeMap<String, String> {
        let mut strings = BTreeMap::new();
        for (key, field) in self.values(container) {
            match field.as_str() {
                Some(text) if !key.is_empty() => drop(strings.insert(key, text.to_owned())),
                _ => self.malformed.push(join(container.key, &key)),
            }
        }
        strings
    }

    /// A member and their device; none unless both are readable.
    pub(crate) fn author(
        &mut self,
        fields: &mut Fields,
        member: &str,
        device: &str,
    ) -> Option<Author> {
        let member = self.parsed(fields, member, "");
        let device = self.parsed(fields, device, "");
        let author = member.zip(device);
        author.map(|(member, device)| Author { member, device })
    }

    /// What was found amiss, in the order of paths.
    pub(crate) fn finish(&mut self) -> (Vec<Conflict>, Vec<String>) {
        let mut conflicts = std::mem::take(&mut self.conflicts);
        conflicts.sort_by(|one, other| one.path.cmp(&other.path));
        let mut malformed = std::mem::take(&mut self.malformed);
        malformed.sort_unstable();
        malformed.dedup();
        (conflicts, malformed)
    }

    fn wrong_type<T>(&mut self, key: &str, path: &str) -> Option<T> {
        self.malformed.push(join(path, key));
        None
    }

    fn fields(&mut self, object: &ObjId, path: &str) -> Fields {
        let mut fields = Fields::new();
        let mut conflicting = Vec::new();
        for item in self.automerge.map_range(object, ..) {
            if item.conflict {
                conflicting.push(item.key.to_string());
            }
            let id = item.id();
            fields.insert(
                item.key.to_string(),
                Field::new(item.value.into_value(), id),
            );
        }
        for key in conflicting {
            self.add_conflict(object, &key, path);
        }
        fields
    }

    /// Lists a register's values, unless all are the same scalar.
    fn add_conflict(&mut self, object: &ObjId, key: &str, path: &str) {
        let all = self.automerge.get_all(object, key).unwrap_or_default();
        let scalars: Vec<_> = all
            .iter()
            .filter_map(|(value, _)| value.as_scalar())
            .collect();
        // Concurrent objects under one key are how add-wins sets look; they are not a question to
        // anyone. A scalar beside an object is malformed, and reads as such.
        if scalars.len() < all.len() || scalars.windows(2).all(|pair| pair[0] == pair[1]) {
            return;
        }
        let values = all
            .iter()
            .map(|(value, id)| {
                let change = self.automerge.hash_for_opid(id);
                let at = change
                    .and_then(|hash| self.automerge.get_change_meta_by_hash(&hash))
                    .map(|meta| WallTime::from_millis(meta.timestamp));
                ConflictValue {
                    value: to_json(value),
                    actor: match id {
                        ObjId::Id(_, actor, _) => actor.to_hex_string(),
                        ObjId::Root => String::new(),
                    },
                    change: change.map(core_hash),
                    at,
                }
            })
            .collect();
        let path = join(path, key);
        self.conflicts.push(Conflict { path, values });
    }
}

impl Field {
    fn new(value: Value<'_>, id: ObjId) -> Self {
        match value {
            Value::Object(kind) => Self::Object(kind, id),
            Value::Scalar(scalar) => Self::Scalar(scalar.into_owned()),
        }
    }

    pub(crate) fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Scalar(ScalarValue::Int(value) | ScalarValue::Timestamp(value)) => Some(*value),
            Self::Scalar(ScalarValue::Uint(value)) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Scalar(ScalarValue::Str(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Scalar(scalar) => value_to_json(scalar),
            Self::Object(kind, _) => serde_json::json!({ "object": kind.to_string() }),
        }
    }
}

fn to_json(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Scalar(scalar) => value_to_json(scalar),
        Value::Object(kind) => serde_json::json!({ "object": kind.to_string() }),
    }
}

pub(crate) fn value_to_json(scalar: &ScalarValue) -> serde_json::Value {
    match scalar {
        ScalarValue::Str(text) => text.to_string().into(),
        ScalarValue::Int(value) | ScalarValue::Timestamp(value) => (*value).into(),
        ScalarValue::Uint(value) => (*value).into(),
        ScalarValue::Boolean(value) => (*value).into(),
        ScalarValue::Null => serde_json::Value::Null,
        // Never written by this crate; named rather than shown, so that exports stay stable.
        ScalarValue::F64(_) => serde_json::json!({ "scalar": "float" }),
        ScalarValue::Counter(_) => serde_json::json!({ "scalar": "counter" }),
        ScalarValue::Bytes(bytes) => serde_json::json!({ "bytes": bytes.len() }),
        ScalarValue::Unknown { type_code, .. } => serde_json::json!({ "scalar": type_code }),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}/{key}")
    }
}
