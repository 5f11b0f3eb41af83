//! The profile: what this device is and what it is part of, in a small file beside the store.
//!
//! It is not in the store so that losing the store loses no membership: with the profile, the
//! identity and the journal a device refills an empty store from its server.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use reconvene_core::ids::{MemberId, PeerId, WorkspaceId};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Version of the profile's format.
const VERSION: u32 = 1;

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
        }
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
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error(error.to_string())),
        };
        let profile: Profile = serde_json::from_slice(&bytes).map_err(|error| {
            self.error(format!("it is damaged ({error}); restore it from a backup"))
        })?;
        if profile.version > VERSION {
            return Err(Error::Open(reconvene_sled::OpenError::NewerVersion {
                found: profile.version,
                supported: VERSION,
            }));
        }
        Ok(Some(profile))
    }

    /// Replaces the profile; after a crash either the old or the new one is there, whole.
    pub(crate) fn save(&self, profile: &Profile) -> Result<(), Error> {
        let bytes =
            serde_json::to_vec_pretty(profile).map_err(|error| self.error(error.to_string()))?;
        let temporary = self.path.with_extension("json.tmp");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            #[cfg(unix)]
            if let Some(dir) = self.path.parent() {
                File::open(dir)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|error| self.error(error.to_string()))
    }

    /// Writes the profile if the file does not say the same already.
    pub(crate) fn save_if_changed(&self, profile: &Profile) -> Result<(), Error> {
        if self.load()?.as_ref() == Some(profile) {
            return Ok(());
        }
        self.save(profile)
    }

    fn error(&self, what: String) -> Error {
        Error::Profile {
            path: self.path.clone(),
            what,
        }
    }
}
