//! The profile: what this device is and what it is part of, in a small file beside the store.
//!
//! It is not in the store so that losing the store loses no membership: with the profile, the
//! identity and the journal a device refills an empty store from its server.

use std::path::{Path, PathBuf};

use reconvene_core::ids::{MemberId, PeerId, StoreEpoch, WorkspaceId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, kept};

/// Version of the profile's format.
const VERSION: u32 = 1;
/// The field of a file with a value's checksum: the first bytes of SHA-256 over the value without it, as
/// compact JSON, in hexadecimal digits.
const CHECKSUM: &str = "checksum";
const CHECKSUM_BYTES: usize = 8;

/// What a replica is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A device of a member.
    Device,
    /// The always-on peer.
    Server,
}

/// A workspace this device takes part in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProfileWorkspace {
    pub(crate) id: WorkspaceId,
    pub(crate) name: String,
    /// Whether it is this device's member's home.
    pub(crate) home: bool,
    /// The server it is synced with, if any.
    pub(crate) server: Option<PeerId>,
}

/// A server this device joined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProfileServer {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<String>,
}

/// A workspace whose documents are on their way into another. It goes on with the next open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProfileMove {
    pub(crate) from: WorkspaceId,
    pub(crate) to: WorkspaceId,
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Profile {
    pub(crate) version: u32,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) member: MemberId,
    pub(crate) member_name: String,
    pub(crate) home: WorkspaceId,
    pub(crate) current: Option<WorkspaceId>,
    pub(crate) workspaces: Vec<ProfileWorkspace>,
    pub(crate) servers: Vec<ProfileServer>,
    /// Addresses last bound.
    #[serde(default)]
    pub(crate) listen: Vec<String>,
    /// Addresses that tickets carry instead of those bound.
    #[serde(default)]
    pub(crate) announce: Vec<String>,
    /// What was begun and is to be finished, whatever ends the process.
    #[serde(default)]
    pub(crate) moves: Vec<ProfileMove>,
    /// Workspaces whose records are removed here: what is left of them, in the store or the journal,
    /// counts for nothing.
    #[serde(default)]
    pub(crate) removed: Vec<WorkspaceId>,
    /// Histories of feeds that were removed: what the journal still has of them counts for nothing,
    /// also where the workspace came back.
    #[serde(default)]
    pub(crate) past: Vec<StoreEpoch>,
}

impl Profile {
    pub(crate) fn new(name: String, role: Role, member: MemberId, home: WorkspaceId) -> Self {
        let workspace = ProfileWorkspace {
            id: home,
            name: "home".to_owned(),
            home: true,
            server: None,
        };
        Self {
            version: VERSION,
            member_name: name.clone(),
            name,
            role,
            member,
            home,
            current: (role == Role::Device).then_some(home),
            workspaces: vec![workspace],
            servers: Vec::new(),
            listen: Vec::new(),
            announce: Vec::new(),
            moves: Vec::new(),
            removed: Vec::new(),
            past: Vec::new(),
        }
    }

    /// Enters or replaces a workspace.
    pub(crate) fn put_workspace(&mut self, workspace: ProfileWorkspace) {
        self.workspaces.retain(|known| known.id != workspace.id);
        self.removed.retain(|removed| *removed != workspace.id);
        self.workspaces.push(workspace);
    }

    /// Takes a workspace out; the home is used where it was the current one.
    pub(crate) fn drop_workspace(&mut self, workspace: WorkspaceId) {
        self.workspaces.retain(|known| known.id != workspace);
        if self.current == Some(workspace) {
            self.current = (self.role == Role::Device).then_some(self.home);
        }
    }

    /// Enters a server, or adds to its addresses: new ones are tried before those known.
    pub(crate) fn put_server(&mut self, server: ProfileServer) {
        let known = self
            .servers
            .iter()
            .position(|known| known.peer == server.peer);
        let mut addresses = server.addresses;
        if let Some(place) = known {
            for address in self.servers.remove(place).addresses {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses.truncate(reconvene_core::limits::PEER_ADDRESSES_MAX);
        let peer = server.peer;
        self.servers.push(ProfileServer { peer, addresses });
    }

    /// Takes out the servers with which nothing is synced any more, and yields them.
    pub(crate) fn drop_idle_servers(&mut self) -> Vec<PeerId> {
        let used: Vec<_> = self
            .workspaces
            .iter()
            .filter_map(|known| known.server)
            .collect();
        let idle = |server: &&ProfileServer| !used.contains(&server.peer);
        let dropped = self
            .servers
            .iter()
            .filter(idle)
            .map(|server| server.peer)
            .collect();
        self.servers.retain(|server| used.contains(&server.peer));
        dropped
    }

    pub(crate) fn workspace(&self, id: &WorkspaceId) -> Option<&ProfileWorkspace> {
        self.workspaces.iter().find(|workspace| workspace.id == *id)
    }
}

/// The profile's file.
#[derive(Clone, Debug)]
pub(crate) struct ProfileFile {
    path: PathBuf,
}

impl ProfileFile {
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self {
            path: dir.join("profile.json"),
        }
    }

    /// Reads the profile; `None` if there is no file.
    pub(crate) fn load(&self) -> Result<Option<Profile>, Error> {
        let profile: Option<Profile> = read_file(&self.path)?;
        profile.map(of_known_version).transpose()
    }

    /// Replaces the profile; after a crash either the old or the new one is there, whole.
    pub(crate) fn save(&self, profile: &Profile) -> Result<(), Error> {
        replace_file(&self.path, profile)
    }

    /// Writes the profile if the file does not say the same already.
    pub(crate) fn save_if_changed(&self, profile: &Profile) -> Result<(), Error> {
        if self.load()?.as_ref() == Some(profile) {
            return Ok(());
        }
        self.save(profile)
    }
}

fn of_known_version(profile: Profile) -> Result<Profile, Error> {
    if profile.version > VERSION {
        return Err(Error::Open(reconvene_sled::OpenError::NewerVersion {
            found: profile.version,
            supported: VERSION,
        }));
    }
    Ok(profile)
}

/// A profile as it stands in its file.
pub(crate) fn parse_profile(bytes: &[u8]) -> Result<Profile, Error> {
    let parsed = serde_json::from_slice(bytes);
    let parsed = parsed.map_err(|error| Error::BadInput(format!("it is no profile: {error}")));
    of_known_version(parsed?)
}

/// Reads a value from a file, or its copy; `None` if there is no file.
pub(crate) fn read_file<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = kept::load(path, is_sealed).map_err(|error| bad_file(path, error.to_string()))?;
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    let damaged = |what: &str| {
        let what = format!("it is damaged ({what}), and so is its copy; restore it from a backup");
        bad_file(path, what)
    };
    if !is_sealed(&bytes) {
        return Err(damaged("its checksum does not fit"));
    }
    seal_old(path, &bytes);
    let read = serde_json::from_slice(&bytes);
    Ok(Some(read.map_err(|error| damaged(&error.to_string()))?))
}

/// Seals a file of before there were checksums, so that it is protected from now on.
fn seal_old(path: &Path, bytes: &[u8]) {
    let value: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let Some(value) = value.filter(|value| value.get(CHECKSUM).is_none()) else {
        return;
    };
    if let Err(error) = replace_file(path, &value) {
        tracing::warn!(%error, "a file could not be given its checksum");
    }
}

/// Replaces what a file says; after a crash it says either the old or the new, whole.
pub(crate) fn replace_file(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let bytes = seal(value).map_err(|error| bad_file(path, error.to_string()))?;
    kept::replace(path, &bytes).map_err(|error| bad_file(path, error.to_string()))
}

/// A value as it stands in a file: with a checksum over what it says.
pub(crate) fn seal(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut value = serde_json::to_value(value)?;
    let checksum = checksum(&value)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert(CHECKSUM.to_owned(), checksum.into());
    }
    serde_json::to_vec_pretty(&value)
}

/// Whether bytes are a value that its checksum fits; one of before there were checksums has none.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return false;
    };
    let sealed = value.as_object_mut().map(|fields| fields.remove(CHECKSUM));
    match sealed {
        Some(Some(sealed)) => checksum(&value).is_ok_and(|checksum| sealed == checksum),
        Some(None) => true,
        None => false,
    }
}

/// Compact JSON with the fields of objects in order, whatever order the map of this build keeps.
fn sorted(value: &serde_json::Value, text: &mut String) -> Result<(), serde_json::Error> {
    match value {
        serde_json::Value::Object(fields) => {
            text.push('{');
            let fields: std::collections::BTreeMap<_, _> = fields.iter().collect();
            for (place, (name, value)) in fields.into_iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                text.push_str(&serde_json::to_string(name)?);
                text.push(':');
                sorted(value, text)?;
            }
            text.push('}');
        }
        serde_json::Value::Array(values) => {
            text.push('[');
            for (place, value) in values.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                sorted(value, text)?;
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
    Ok(())
}

fn checksum(value: &serde_json::Value) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    sorted(value, &mut text)?;
    let digest = Sha256::digest(text);
    let digits = digest.iter().take(CHECKSUM_BYTES);
    Ok(digits.map(|byte| format!("{byte:02x}")).collect())
}

fn bad_file(path: &Path, what: String) -> Error {
    Error::Profile {
        path: path.to_owned(),
        what,
    }
}
