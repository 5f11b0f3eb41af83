//! The key by which a server knows the runs it issued: in a file outside the store, so that what it
//! says of a run stays true when the store is gone.

use std::io;
use std::path::Path;

use hmac::{Hmac, KeyInit as _, Mac as _};
use reconvene_core::time::WallTime;
use reconvene_model::RunId;
use sha2::{Digest as _, Sha256};

use crate::mutants::{self, Mutant};
use crate::replica::random;
use crate::{Error, kept};

/// The file's name in the data directory.
pub(crate) const FILE: &str = "run.key";
/// How much of a run id the code is made over.
const CODED_BYTES: usize = 10;
const KEY_BYTES: usize = 32;
const SEALED_BYTES: usize = KEY_BYTES + 4;

/// The key.
pub(crate) struct RunKey([u8; KEY_BYTES]);

impl RunKey {
    /// Reads the key of a data directory; makes one where there is none, readable by its owner alone.
    pub(crate) fn load_or_create(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let known = load(&path)?;
        if let Some(key) = known.filter(|_| !mutants::is(Mutant::MintsKeyAnew)) {
            return Ok(key);
        }
        let key = Self(random()?);
        kept::replace(&path, &key.sealed()).map_err(|source| Error::Io {
            what: format!("{} could not be written", path.display()),
            source,
        })?;
        Ok(key)
    }

    /// The key as it stands in its file: a checksum follows it.
    fn sealed(&self) -> [u8; SEALED_BYTES] {
        let mut bytes = [0; SEALED_BYTES];
        bytes[..KEY_BYTES].copy_from_slice(&self.0);
        bytes[KEY_BYTES..].copy_from_slice(&Sha256::digest(self.0)[..SEALED_BYTES - KEY_BYTES]);
        bytes
    }

    /// Issues a run.
    pub(crate) fn mint(&self, now: WallTime) -> Result<RunId, Error> {
        let mut id = [0; 16];
        let millis = u64::try_from(now.as_millis()).unwrap_or(0).to_be_bytes();
        id[..6].copy_from_slice(&millis[2..]);
        id[6..CODED_BYTES].copy_from_slice(&random::<4>()?);
        let code = self.code(&id);
        id[CODED_BYTES..].copy_from_slice(&code);
        Ok(RunId::from_bytes(id))
    }

    /// Whether a run was issued under this key.
    pub(crate) fn issued(&self, run: RunId) -> bool {
        let is_coded = run.as_bytes()[CODED_BYTES..] == self.code(run.as_bytes());
        is_coded || mutants::is(Mutant::TakesAnyRun)
    }

    fn code(&self, id: &[u8; 16]) -> [u8; 6] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length is taken");
        mac.update(&id[..CODED_BYTES]);
        let digest = mac.finalize().into_bytes();
        let mut code = [0; 6];
        code.copy_from_slice(&digest[..6]);
        code
    }
}

fn load(path: &Path) -> Result<Option<RunKey>, Error> {
    let loaded = kept::load(path, |bytes| read(bytes).is_some());
    let loaded = loaded.map_err(|source| Error::Io {
        what: format!("{} could not be read", path.display()),
        source,
    })?;
    let Some(bytes) = loaded else {
        return Ok(None);
    };
    let damaged = || Error::Io {
        what: format!(
            "{} is damaged: restore it from a backup, or remove it and every earlier sync run \
             will be said never to have existed",
            path.display()
        ),
        source: io::ErrorKind::InvalidData.into(),
    };
    let key = read(&bytes).ok_or_else(damaged)?;
    if bytes.len() == KEY_BYTES {
        // Of before there were checksums: it is protected from now on.
        if let Err(error) = kept::replace(path, &key.sealed()) {
            tracing::warn!(%error, "the key of sync runs could not be given its checksum");
        }
    }
    Ok(Some(key))
}

/// The key that bytes are; those of before there were checksums are the key alone.
fn read(bytes: &[u8]) -> Option<RunKey> {
    let key = RunKey(*bytes.first_chunk()?);
    (bytes.len() == KEY_BYTES || bytes == key.sealed()).then_some(key)
}

#[cfg(test)]
mod tests;
