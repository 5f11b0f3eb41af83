//! Whom a server enrolled, in a small file beside its store.
//!
//! The store may be lost, and everything in it comes back from the devices; but only if they are let
//! in. So what decides that is kept outside: members, their workspaces, and the devices enrolled in
//! each. The file follows the store, and is read only where the store lost its workspaces.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use reconvene_core::engine::Event;
use reconvene_core::ids::{MemberId, PeerId, WorkspaceId};
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits::ROSTER_MAX;
use reconvene_core::records::{MemberRow, Record as _, ShareRow, Standing, WorkspaceRow};
use reconvene_core::storage::{Scan, StoreRead as _};
use reconvene_core::time::WallTime;
use reconvene_sled::SledReader;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::broadcast;

use crate::Error;
use crate::documents::decode;
use crate::driver::Notice;
use crate::mutants::{self, Mutant};
use crate::profile::{Profile, read_file, replace_file};
use crate::replica::{share_rows, workspace_rows};

/// Version of the file's format.
const VERSION: u32 = 1;

/// What a server needs to know to let its devices in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Enrolled {
    version: u32,
    members: BTreeMap<MemberId, Member>,
    workspaces: BTreeMap<WorkspaceId, Workspace>,
    devices: Vec<Device>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Member {
    name: String,
    home: WorkspaceId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Workspace {
    name: String,
    created_at: WallTime,
    home_of: Option<MemberId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Device {
    peer: PeerId,
    workspace: WorkspaceId,
    member: MemberId,
    name: String,
    since: WallTime,
}

impl Enrolled {
    /// What the store says.
    pub(crate) fn read(reader: &SledReader) -> Result<Self, Error> {
        let mut enrolled = Self {
            version: VERSION,
            ..Self::default()
        };
        for (key, value) in all(reader, KeyRange::members())? {
            let row: MemberRow = decode(&key, &value)?;
            let MemberRow { member, name, home } = row;
            enrolled.members.insert(member, Member { name, home });
        }
        for (key, value) in all(reader, KeyRange::workspaces())? {
            let row: WorkspaceRow = decode(&key, &value)?;
            if let Some(id) = key.workspace_id() {
                let workspace = Workspace {
                    name: row.name,
                    created_at: row.created_at,
                    home_of: row.home_of,
                };
                enrolled.workspaces.insert(id, workspace);
            }
        }
        for (key, value) in all(reader, KeyRange::shares())? {
            let row: ShareRow = decode(&key, &value)?;
            let parts = key.share_parts();
            if let Some((peer, workspace)) = parts.filter(|_| row.standing == Standing::Device) {
                enrolled.devices.push(Device {
                    peer,
                    workspace,
                    member: row.member,
                    name: row.device_name,
                    since: row.since,
                });
            }
        }
        Ok(enrolled)
    }

    /// The rows that say the same in a store.
    pub(crate) fn rows(self) -> Vec<(Key, Bytes)> {
        let mut rows = Vec::new();
        for (member, Member { name, home }) in self.members {
            let key = Key::member(&Sha256::digest(&name).into());
            rows.push((key, MemberRow { member, name, home }.encode()));
        }
        for (id, workspace) in self.workspaces {
            let row = WorkspaceRow {
                name: workspace.name,
                created_at: workspace.created_at,
                home_of: workspace.home_of,
            };
            rows.push((Key::workspace(&id), row.encode()));
        }
        for device in self.devices {
            let row = ShareRow {
                member: device.member,
                device_name: device.name,
                since: device.since,
                standing: Standing::Device,
            };
            rows.push((Key::share(&device.peer, &device.workspace), row.encode()));
        }
        rows
    }
}

fn all(reader: &SledReader, range: KeyRange) -> Result<Vec<(Key, Bytes)>, Error> {
    Ok(reader.scan(&Scan::ascending(range, ROSTER_MAX))?.rows)
}

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct EnrolledFile {
    path: PathBuf,
}

impl EnrolledFile {
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self {
            path: dir.join("enrolled.json"),
        }
    }

    /// What the file says; `None` if there is none.
    pub(crate) fn load(&self) -> Result<Option<Enrolled>, Error> {
        if mutants::is(Mutant::ForgetsEnrolments) {
            return Ok(None);
        }
        let enrolled: Option<Enrolled> = read_file(&self.path)?;
        if let Some(newer) = enrolled.as_ref().filter(|known| known.version > VERSION) {
            return Err(Error::Open(reconvene_sled::OpenError::NewerVersion {
                found: newer.version,
                supported: VERSION,
            }));
        }
        Ok(enrolled)
    }

    /// Has the file say what the store does, if it does not already.
    pub(crate) fn follow(&self, reader: &SledReader) -> Result<(), Error> {
        let enrolled = Enrolled::read(reader)?;
        match self.load() {
            Ok(Some(known)) if known == enrolled => Ok(()),
            // Whatever it said, the store knows better.
            _ => replace_file(&self.path, &enrolled),
        }
    }
}

/// What a store does not have that stands beside it.
pub(crate) struct Lost {
    pub(crate) rows: Vec<(Key, Bytes)>,
    /// Whether workspaces of the profile are among it: the store is new, or lost its past.
    pub(crate) workspaces: bool,
}

/// What the profile and the file of enrolments say and a store that lost it, or never had it, does not.
pub(crate) fn lost_rows(
    reader: &SledReader,
    profile: &Profile,
    enrolled: Option<Enrolled>,
) -> Result<Lost, Error> {
    let mut rows = BTreeMap::new();
    for (key, value) in enrolled.map(Enrolled::rows).unwrap_or_default() {
        if !reader.contains(&key)? {
            rows.insert(key, value);
        }
    }
    let mut workspaces = false;
    for workspace in &profile.workspaces {
        if let Some(server) = &workspace.server {
            // Also where it was written before shares said what a peer is.
            let key = Key::share(server, &workspace.id);
            let known = reader.read(&key)?;
            let known = known.map(|value| crate::documents::decode::<ShareRow>(&key, &value));
            let standing = known.transpose()?.map(|row| row.standing);
            if standing != Some(Standing::Server) {
                rows.extend([share_rows(server, &workspace.id, profile)]);
            }
        }
        if reader.contains(&Key::workspace(&workspace.id))? {
            continue;
        }
        workspaces = true;
        let home_of = workspace.home.then_some(profile.member);
        rows.extend(workspace_rows(workspace.id, &workspace.name, home_of));
    }
    Ok(Lost {
        rows: rows.into_iter().collect(),
        workspaces,
    })
}

/// Keeps the file of enrolments as the store is, for as long as the replica is open.
pub(crate) async fn follow_enrolments(
    file: EnrolledFile,
    reader: SledReader,
    mut notices: broadcast::Receiver<Notice>,
) {
    loop {
        match notices.recv().await {
            Ok(Notice::Engine(event)) => match &*event {
                Event::DeviceEnrolled { .. } | Event::DeviceLeft { .. } => {}
                _ => continue,
            },
            Ok(_) => continue,
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
        let (file, reader) = (file.clone(), reader.clone());
        let followed = tokio::task::spawn_blocking(move || file.follow(&reader)).await;
        if let Ok(Err(error)) = followed {
            tracing::error!(%error, "who was enrolled could not be written down");
        }
    }
}
