//! The integration document: what a workspace is joined with elsewhere, whether that works, and the
//! recent runs of bringing both together.
//!
//! Devices write what it is; the server writes what it found. A secret among its settings reaches
//! whoever holds the document, and never an answer, a log or an export.

use std::collections::BTreeMap;
use std::fmt;

use automerge::{ROOT, ReadDoc, ScalarValue};
use reconvene_core::time::WallTime;
use serde::{Deserialize, Serialize, Serializer};

use crate::document::{Document, ReadError};
use crate::edit::{Editor, ModelError};
use crate::genesis::{INTEGRATION, INTEGRATION_SETTINGS, RUNS};
use crate::ids::Author;
use crate::view::{Conflict, View};

mod run;

pub use run::{ParseRunIdError, Run, RunDraft, RunEnd, RunId, RunState};

/// Most runs that an integration remembers. A further one takes the place of the oldest that ended.
pub const RUNS_MAX: usize = 20;

/// Most settings of an integration. More are refused.
pub const SETTINGS_MAX: usize = 64;

/// What stands for a secret wherever settings are shown.
pub const SECRET: &str = "(secret)";

/// An integration as people see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Integration {
    /// What carries it out, such as `ical` or `webhook`; empty if none is readable.
    pub adapter: String,
    /// What it is elsewhere: an address, a file, an id.
    pub external_id: String,
    /// Under which account there, where there are any.
    pub account: Option<String>,
    /// What else the adapter needs, by name.
    pub settings: Settings,
    /// When it was added.
    pub created_at: Option<WallTime>,
    /// By whom.
    pub added_by: Option<Author>,
    /// When it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<WallTime>,
    /// Whether it works, as far as the server knows.
    pub state: IntegrationState,
    /// When the server looked last.
    pub validated_at: Option<WallTime>,
    /// Which version of what it is the server looked at; see [`Integration::identity`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validated: Option<String>,
    /// What is wrong.
    pub error: Option<Problem>,
    /// Up to where the adapter told what changed here, in the adapter's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// Its recent runs.
    pub runs: BTreeMap<RunId, Run>,
    /// Registers that hold several values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Conflict>,
    /// Paths whose value has a type this version does not expect; read as absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub malformed: Vec<String>,
}

impl Integration {
    /// What it is, as a text that is another one whenever that changes: 32 hexadecimal digits.
    pub fn identity(&self) -> String {
        let mut parts = vec![
            self.adapter.as_bytes(),
            self.external_id.as_bytes(),
            self.account.as_deref().unwrap_or_default().as_bytes(),
        ];
        for (name, value) in self.settings.iter() {
            parts.extend([name.as_bytes(), value.as_bytes()]);
        }
        let digest = crate::ids::derive_document_id("reconvene/integration/1", &parts);
        format!("{:032x}", u128::from_be_bytes(*digest.as_bytes()))
    }
}

/// Whether an integration works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntegrationState {
    /// Nobody has looked yet.
    #[default]
    Unchecked,
    /// It works.
    Valid,
    /// What it says is wrong, and stays so until somebody changes it, here or elsewhere.
    Invalid,
    /// It could not be reached; it may be right.
    Unreachable,
}

impl IntegrationState {
    /// The state's name in documents and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Valid => "valid",
            Self::Invalid => "invalid",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for IntegrationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for IntegrationState {
    type Err = crate::command::ParseStateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [
            Self::Unchecked,
            Self::Valid,
            Self::Invalid,
            Self::Unreachable,
        ];
        let found = all.into_iter().find(|state| state.as_str() == text);
        found.ok_or(crate::command::ParseStateError)
    }
}

/// What is wrong with an integration or a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A stable word.
    pub code: String,
    /// The same for people.
    pub message: String,
}

/// What an adapter needs to know, by name. Shown and written without its secrets, which are the ones
/// called `secret`, or something that ends in `_secret`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// A setting's value, a secret one's too.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All of them, the secret ones too, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter();
        all.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What may be shown of them.
    pub fn shown(&self) -> BTreeMap<&str, &str> {
        let all = self.iter();
        all.map(|(name, value)| (name, if is_secret(name) { SECRET } else { value }))
            .collect()
    }
}

impl FromIterator<(String, String)> for Settings {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(settings: T) -> Self {
        Self(settings.into_iter().collect())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown().fmt(f)
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shown().serialize(serializer)
    }
}

/// Whether a setting of this name is a secret.
pub fn is_secret(name: &str) -> bool {
    name == "secret" || name.ends_with("_secret")
}

/// What a new integration says.
#[derive(Clone, Debug)]
pub struct IntegrationDraft {
    /// What carries it out.
    pub adapter: String,
    /// What it is elsewhere.
    pub external_id: String,
    /// Under which account.
    pub account: Option<String>,
    /// What else the adapter needs.
    pub settings: Settings,
    /// Who adds it.
    pub added_by: Author,
}

/// What is found out about an integration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// Whether it works.
    pub state: IntegrationState,
    /// What is wrong, unless it works.
    pub error: Option<Problem>,
    /// What was looked at: its [`Integration::identity`] then.
    pub identity: String,
}

impl Document {
    /// Reads an integration.
    pub fn integration(&self) -> Result<Integration, ReadError> {
        self.read(INTEGRATION, read)
    }
}

impl Editor {
    /// The operations on an integration.
    pub fn integration(&mut self) -> Result<IntegrationEditor<'_>, ModelError> {
        self.expect_kind(INTEGRATION)?;
        Ok(IntegrationEditor { editor: self })
    }
}

/// The operations on an integration.
pub struct IntegrationEditor<'a> {
    editor: &'a mut Editor,
}

impl IntegrationEditor<'_> {
    /// Says what it is; to be called once, by whoever adds it.
    pub fn create(&mut self, draft: &IntegrationDraft) -> Result<(), ModelError> {
        Editor::check_name("adapter", &draft.adapter)?;
        let now = self.editor.now().as_millis();
        self.editor.put(&ROOT, "adapter", draft.adapter.as_str())?;
        self.editor.put(&ROOT, "created_at", now)?;
        let Author { member, device } = draft.added_by;
        self.editor.put(&ROOT, "member", member.to_string())?;
        self.editor.put(&ROOT, "device", device.to_string())?;
        self.set_external_id(&draft.external_id)?;
        if draft.account.is_some() {
            self.set_account(draft.account.as_deref())?;
        }
        let mut settings = draft.settings.iter();
        settings.try_for_each(|(name, value)| self.set_setting(name, Some(value)))
    }

    /// Says what it is elsewhere.
    pub fn set_external_id(&mut self, id: &str) -> Result<(), ModelError> {
        Editor::check_name("external id", id)?;
        self.editor.put(&ROOT, "external_id", id)
    }

    /// Says under which account.
    pub fn set_account(&mut self, account: Option<&str>) -> Result<(), ModelError> {
        Editor::check_string("account", account.unwrap_or_default())?;
        let value = account.map_or(ScalarValue::Null, ScalarValue::from);
        self.editor.put(&ROOT, "account", value)
    }

    /// Writes a setting, or removes it.
    pub fn set_setting(&mut self, name: &str, value: Option<&str>) -> Result<(), ModelError> {
        Editor::check_name("setting", name)?;
        let Some(value) = value else {
            return self.editor.remove(&INTEGRATION_SETTINGS.id(), name);
        };
        Editor::check_string("setting", value)?;
        let settings = INTEGRATION_SETTINGS.id();
        let known = self.editor.reader().length(&settings);
        if known >= SETTINGS_MAX && self.editor.reader().get(&settings, name)?.is_none() {
            return Err(ModelError::TooMany {
                what: "settings",
                max: SETTINGS_MAX,
            });
        }
        self.editor.put(&settings, name, value)
    }

    /// Removes it, or brings it back.
    pub fn remove(&mut self, removed: bool) -> Result<(), ModelError> {
        if !removed {
            return self.editor.remove(&ROOT, "removed_at");
        }
        let now = self.editor.now().as_millis();
        self.editor.put(&ROOT, "removed_at", now)
    }

    /// Says what the server found, now.
    pub fn validated(&mut self, found: &Validation) -> Result<(), ModelError> {
        let now = self.editor.now().as_millis();
        self.editor.put(&ROOT, "state", found.state.as_str())?;
        self.editor.put(&ROOT, "validated_at", now)?;
        self.editor
            .put(&ROOT, "validated", found.identity.as_str())?;
        match &found.error {
            Some(Problem { code, message }) => {
                Editor::check_string("code", code)?;
                Editor::check_string("message", message)?;
                let registers = [
                    ("code", Some(code.as_str().into())),
                    ("message", Some(message.as_str().into())),
                ];
                self.editor.put_record(&ROOT, "error", registers)
            }
            None => self.editor.remove(&ROOT, "error"),
        }
    }

    /// Notes up to where the adapter told what changed here.
    pub fn set_position(&mut self, position: &str) -> Result<(), ModelError> {
        Editor::check_string("position", position)?;
        self.editor.put(&ROOT, "position", position)
    }
}

fn read(view: &mut View<'_>) -> Integration {
    let mut root = view.root();
    let mut integration = Integration {
        adapter: view.string(&mut root, "adapter", "").unwrap_or_default(),
        external_id: view
            .string(&mut root, "external_id", "")
            .unwrap_or_default(),
        account: view.string(&mut root, "account", ""),
        settings: Settings(view.strings(INTEGRATION_SETTINGS)),
        created_at: view.time(&mut root, "created_at", ""),
        added_by: view.author(&mut root, "member", "device"),
        removed_at: view.time(&mut root, "removed_at", ""),
        state: view.parsed(&mut root, "state", "").unwrap_or_default(),
        validated_at: view.time(&mut root, "validated_at", ""),
        validated: view.string(&mut root, "validated", ""),
        position: view.string(&mut root, "position", ""),
        ..Integration::default()
    };
    if let Some(mut fields) = view.fields_of(root.remove("error"), "error") {
        let mut text = |view: &mut View<'_>, key| view.string(&mut fields, key, "error");
        integration.error = Some(Problem {
            code: text(view, "code").unwrap_or_default(),
            message: text(view, "message").unwrap_or_default(),
        });
    }
    for (key, fields) in view.entries(RUNS) {
        let path = format!("{}/{key}", RUNS.key);
        let read = key.parse().ok().zip(run::read(view, fields, &path));
        match read {
            Some((id, run)) => drop(integration.runs.insert(id, run)),
            // Without an id or a state it says nothing.
            None => view.malformed.push(path),
        }
    }
    (integration.conflicts, integration.malformed) = view.finish();
    for conflict in &mut integration.conflicts {
        let name = conflict.path.strip_prefix(INTEGRATION_SETTINGS.key);
        let name = name.and_then(|rest| rest.strip_prefix('/'));
        if name.is_some_and(is_secret) {
            for known in &mut conflict.values {
                known.value = SECRET.into();
            }
        }
    }
    integration
}

#[cfg(test)]
pub(crate) mod tests;
