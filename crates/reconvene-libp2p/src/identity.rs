//! The device's key pair: made once, kept in one file that only its owner may read.
//!
//! The secret never leaves this module except as keys derived from it, and is never logged.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use libp2p::identity::{KeyType, Keypair};
use reconvene_core::ids::PeerId;

use crate::address::to_core;

/// Longest identity file we read; an encoded key has 68 bytes. A longer one is damaged.
const FILE_BYTES_MAX: u64 = 4096;

/// The key pair a device or server is known by.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    peer_id: PeerId,
}

impl Identity {
    fn new(keypair: Keypair) -> Option<Self> {
        let peer_id = to_core(&keypair.public().to_peer_id())?;
        Some(Self { keypair, peer_id })
    }

    fn generate() -> Self {
        Self::new(Keypair::generate_ed25519()).expect("a generated key is an Ed25519 key")
    }

    /// The name of this identity: its public key.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// A secret of its own for one purpose, derived from the device key (HKDF-SHA-256).
    ///
    /// The same domain always gives the same secret; nothing leads from it back to the key or to
    /// another domain's secret.
    pub fn derive_secret(&self, domain: &[u8]) -> [u8; 32] {
        self.keypair
            .derive_secret(domain)
            .expect("a secret can be derived from every Ed25519 key")
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("peer_id", &self.peer_id)
            .finish_non_exhaustive()
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file could not be read.
    #[error("cannot read the identity file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write the identity file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may read or write the file, so the key may be known to them.
    #[error(
        "the identity file {} has mode {mode:04o}; only its owner may have access (0600)",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no Ed25519 key. It is left as it is.
    #[error("the identity file {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Loads the identity kept in this file, or makes one and keeps it there.
///
/// The file appears whole or not at all. If another process makes one at the same time, both get
/// the one that came first. Blocks on the disk.
pub fn load_or_create_identity(path: &Path) -> Result<Identity, IdentityError> {
    if let Some(identity) = load(path)? {
        return Ok(identity);
    }
    let identity = Identity::generate();
    let created = create(path, &identity).map_err(|source| IdentityError::Write {
        path: path.to_owned(),
        source,
    })?;
    if created {
        tracing::info!(peer = %identity.peer_id(), "made a new identity");
        return Ok(identity);
    }
    load(path)?.ok_or_else(|| IdentityError::Read {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })
}

fn load(path: &Path) -> Result<Option<Identity>, IdentityError> {
    let read_failed = |source| IdentityError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read_failed(error)),
    };
    refuse_exposed(path, &file)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(read_failed)?;
    let identity = Keypair::from_protobuf_encoding(&bytes)
        .ok()
        .filter(|keypair| keypair.key_type() == KeyType::Ed25519)
        .and_then(Identity::new);
    bytes.fill(0);
    identity.map(Some).ok_or_else(|| IdentityError::Damaged {
        path: path.to_owned(),
    })
}

/// Asks the open file rather than the path, so that it cannot be exchanged in between.
#[cfg(unix)]
fn refuse_exposed(path: &Path, file: &File) -> Result<(), IdentityError> {
    use std::os::unix::fs::MetadataExt;

    let mode = file
        .metadata()
        .map_err(|source| IdentityError::Read {
            path: path.to_owned(),
            source,
        })?
        .mode()
        & 0o7777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(IdentityError::Exposed {
            path: path.to_owned(),
            mode,
        })
    }
}

#[cfg(not(unix))]
fn refuse_exposed(_path: &Path, _file: &File) -> Result<(), IdentityError> {
    Ok(())
}

/// Writes the identity unless the file exists by now; says whether it did.
fn create(path: &Path, identity: &Identity) -> io::Result<bool> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut bytes = identity
        .keypair
        .to_protobuf_encoding()
        .map_err(io::Error::other)?;
    // Temporary files are made with mode 0600, so the key is never readable by others.
    let mut file = tempfile::Builder::new()
        .prefix(".identity")
        .tempfile_in(directory)?;
    file.write_all(&bytes)?;
    bytes.fill(0);
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error.error),
    }
    sync_directory(directory)?;
    Ok(true)
}

/// Makes the new name itself durable; only Unix lets a directory be opened for that.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        fs::File::open(directory)?.sync_all()
    } else {
        Ok(())
    }
}
