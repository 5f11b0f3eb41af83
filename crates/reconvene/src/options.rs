//! How a replica is opened: what its host may choose, and the files that are opened for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reconvene_core::ids::MemberId;
use reconvene_core::limits::{STALENESS_BOUND, STALENESS_BOUND_MIN, WORKSPACE_DOCUMENTS_DEFAULT};
use reconvene_libp2p::{Identity, load_or_create_identity};
use reconvene_sled::{DataDir, open_data_dir, open_store};

use crate::clock::ManualClock;
use crate::limits::OPEN_BYTES_MAX;
use crate::profile::{Profile, ProfileFile};
use crate::replica::{STATE_VERSION, check_name, new_workspace_id};
use crate::runs::key::RunKey;
use crate::{Error, Replica, Role};

/// How to open a replica.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    path: PathBuf,
    create: bool,
    create_new: bool,
    name: Option<String>,
    role: Option<Role>,
    open_bytes_max: usize,
    staleness_bound: Duration,
    state_version: u32,
    workspace_documents_max: u64,
    clock: Option<ManualClock>,
    is_restored: bool,
}

impl OpenOptions {
    /// Opens the replica in this directory, made if it is not there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            create: true,
            create_new: false,
            name: None,
            role: None,
            open_bytes_max: OPEN_BYTES_MAX,
            staleness_bound: STALENESS_BOUND,
            state_version: STATE_VERSION,
            workspace_documents_max: WORKSPACE_DOCUMENTS_DEFAULT,
            clock: None,
            is_restored: false,
        }
    }

    /// Whether a replica may be made; without, an empty directory is [`Error::NotInitialised`].
    #[must_use]
    pub fn create(self, create: bool) -> Self {
        Self { create, ..self }
    }

    /// Whether a replica must be made; then an existing one is [`Error::AlreadyInitialised`].
    #[must_use]
    pub fn create_new(self, create_new: bool) -> Self {
        Self { create_new, ..self }
    }

    /// What a new replica's device and member are called.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..self
        }
    }

    /// What the replica is to others while it is open; without, what it was made as.
    #[must_use]
    pub fn role(self, role: Role) -> Self {
        Self {
            role: Some(role),
            ..self
        }
    }

    /// The memory that open documents may take, about, in bytes; beyond it the least recently used
    /// are closed, and read again when they are used. Those in use stay open whatever they take.
    #[must_use]
    pub fn open_bytes_max(self, bytes: usize) -> Self {
        Self {
            open_bytes_max: bytes,
            ..self
        }
    }

    /// For how long what was verified counts as fresh; [`STALENESS_BOUND`] where nothing is said. A
    /// smaller bound asks peers more often; meetings that are being recorded are never shown as fresh
    /// for longer than [`STALENESS_BOUND`].
    #[must_use]
    pub fn staleness_bound(self, bound: Duration) -> Self {
        Self {
            staleness_bound: bound,
            ..self
        }
    }

    /// How many documents of one workspace a server takes from its devices;
    /// [`WORKSPACE_DOCUMENTS_DEFAULT`] where nothing is said. Further new ones are refused as
    /// [`RefusalCode::WorkspaceFull`](crate::RefusalCode::WorkspaceFull), stay with their authors, and are
    /// taken once there is room. Devices take whatever their server has.
    #[must_use]
    pub fn workspace_documents_max(self, documents: u64) -> Self {
        Self {
            workspace_documents_max: documents,
            ..self
        }
    }

    /// What a server tells its devices as its number for breaking changes of state: another one than
    /// they knew has them build everything anew that follows from documents.
    #[must_use]
    pub fn state_version(self, number: u32) -> Self {
        Self {
            state_version: number,
            ..self
        }
    }

    /// For tests: a clock that the test puts forward.
    #[must_use]
    pub fn clock(self, clock: ManualClock) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// That the store was just made for an archive: of what its profile names nothing was lost.
    pub(crate) fn restored(self) -> Self {
        Self {
            is_restored: true,
            ..self
        }
    }

    /// Opens the replica on the current tokio runtime.
    ///
    /// Costs time with the journal and the store's own recovery, not with the number of documents.
    /// Dropping this midway may leave a new directory half made; opening again completes it.
    ///
    /// # Errors
    /// See [`Error`]; nothing is lost by a failed open.
    pub async fn open(self) -> Result<Replica, Error> {
        let opened = tokio::task::spawn_blocking(move || self.open_files());
        let files = opened.await.map_err(|_| Error::Closed)??;
        Replica::start(files).await
    }

    /// The directory, if a store was made in it.
    pub(crate) fn existing_path(self) -> Result<PathBuf, Error> {
        match self.path.join("profile.json").try_exists() {
            Ok(false) => Err(Error::NotInitialised(self.path)),
            _ => Ok(self.path),
        }
    }

    /// The directory, and what a new replica is called and is, where that was said.
    pub(crate) fn to_be_made(&self) -> (&Path, Option<&str>, Option<Role>) {
        (&self.path, self.name.as_deref(), self.role)
    }

    fn open_files(self) -> Result<Files, Error> {
        if self.staleness_bound < STALENESS_BOUND_MIN {
            return Err(Error::BadInput(format!(
                "the bound on staleness is below {} s",
                STALENESS_BOUND_MIN.as_secs()
            )));
        }
        if self.state_version == 0 {
            let what = "the state version begins at 1; 0 stands for none";
            return Err(Error::BadInput(what.to_owned()));
        }
        // Where it cannot be told, opening the directory says why.
        if !self.create
            && self
                .path
                .join("profile.json")
                .try_exists()
                .is_ok_and(|found| !found)
        {
            return Err(Error::NotInitialised(self.path));
        }
        let data_dir = open_data_dir(&self.path)?;
        let profile_file = ProfileFile::in_dir(&self.path);
        let identity = load_or_create_identity(&self.path.join("identity.key"))?;
        let stored = profile_file.load()?;
        let is_new = stored.is_none();
        let profile = match stored {
            Some(_) if self.create_new => return Err(Error::AlreadyInitialised(self.path)),
            Some(profile) => profile,
            None => {
                let role = self.role.unwrap_or(Role::Device);
                let name = self.name.unwrap_or_else(|| match role {
                    Role::Device => "device".to_owned(),
                    Role::Server => "server".to_owned(),
                });
                check_name(&name)?;
                let member = MemberId::from_bytes(*uuid::Uuid::new_v4().as_bytes());
                let profile = Profile::new(name, role, member, new_workspace_id());
                profile_file.save(&profile)?;
                profile
            }
        };
        let opened = open_store(&data_dir)?;
        let role = self.role.unwrap_or(profile.role);
        let run_key = match role {
            Role::Server => Some(RunKey::load_or_create(&self.path)?),
            Role::Device => None,
        };
        Ok(Files {
            data_dir,
            profile_file,
            profile,
            identity,
            opened,
            role,
            run_key,
            is_new,
            open_bytes_max: self.open_bytes_max,
            staleness_bound: self.staleness_bound,
            state_version: self.state_version,
            workspace_documents_max: match role {
                Role::Server => self.workspace_documents_max,
                Role::Device => u64::MAX,
            },
            clock: self.clock,
            is_restored: self.is_restored,
        })
    }
}

/// What is open when a replica starts.
pub(crate) struct Files {
    pub(crate) data_dir: DataDir,
    pub(crate) profile_file: ProfileFile,
    pub(crate) profile: Profile,
    pub(crate) identity: Identity,
    pub(crate) opened: reconvene_sled::Opened,
    pub(crate) role: Role,
    pub(crate) run_key: Option<RunKey>,
    pub(crate) is_new: bool,
    pub(crate) open_bytes_max: usize,
    pub(crate) staleness_bound: Duration,
    pub(crate) state_version: u32,
    pub(crate) workspace_documents_max: u64,
    pub(crate) clock: Option<ManualClock>,
    pub(crate) is_restored: bool,
}
