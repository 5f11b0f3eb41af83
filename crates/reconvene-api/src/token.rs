//! The token that lets a backend in: 256 random bits in one file that only its owner may read.
//!
//! It is never logged, and compared in a time that does not depend on how much of it is right.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq as _;
use tonic::metadata::MetadataMap;

use crate::limits::TOKEN_FILE_BYTES_MAX;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// What a caller must show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// In hexadecimal digits, as it stands in the file and in the calls.
    text: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file could not be read.
    #[error("cannot read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write the token file {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may read or write the file, so the token may be known to them.
    #[error(
        "the token file {} has mode {mode:04o}; only its owner may have access (0600)",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no token. It is left as it is.
    #[error(
        "the token file {} is damaged: it should hold {} hexadecimal digits; remove it to have a new one made",
        path.display(),
        2 * TOKEN_BYTES
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Token {
    /// Loads the token kept in this file, or makes one and keeps it there, whole or not at all. Blocks
    /// on the disk.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, TokenError> {
        if let Some(token) = Self::load(path)? {
            return Ok(token);
        }
        let failed = |source| TokenError::Write {
            path: path.to_owned(),
            source,
        };
        let token = Self::generate().map_err(failed)?;
        if token.create(path).map_err(failed)? {
            return Ok(token);
        }
        Self::load(path)?.ok_or_else(|| TokenError::Read {
            path: path.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    fn generate() -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self {
            text: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    fn load(path: &Path) -> Result<Option<Self>, TokenError> {
        let failed = |source| TokenError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        refuse_exposed(path, &file)?;
        let mut text = String::new();
        match file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => text.clear(),
            Err(error) => return Err(failed(error)),
        }
        let text = text.trim_ascii().to_ascii_lowercase();
        if text.len() != 2 * TOKEN_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenError::Damaged {
                path: path.to_owned(),
            });
        }
        Ok(Some(Self { text }))
    }

    /// Writes the file unless it exists by now; says whether it did.
    fn create(&self, path: &Path) -> io::Result<bool> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Temporary files are made with mode 0600, so the token is never readable by others.
        let mut file = tempfile::Builder::new()
            .prefix(".api-token")
            .tempfile_in(directory)?;
        writeln!(file, "{}", self.text)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(error.error),
        }
        if cfg!(unix) {
            fs::File::open(directory)?.sync_all()?;
        }
        Ok(true)
    }

    /// Whether a call shows it: `authorization: Bearer TOKEN`, once.
    pub(crate) fn is_shown(&self, metadata: &MetadataMap) -> bool {
        let mut shown = metadata.get_all("authorization").iter();
        let (Some(shown), None) = (shown.next(), shown.next()) else {
            return false;
        };
        let Ok(shown) = shown.to_str() else {
            return false;
        };
        let Some((scheme, token)) = shown.split_once(' ') else {
            return false;
        };
        let token = token.trim_ascii().to_ascii_lowercase();
        scheme.eq_ignore_ascii_case("bearer")
            && bool::from(self.text.as_bytes().ct_eq(token.as_bytes()))
    }
}

/// Asks the open file rather than the path, so that it cannot be exchanged in between.
#[cfg(unix)]
fn refuse_exposed(path: &Path, file: &File) -> Result<(), TokenError> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = file.metadata().map_err(|source| TokenError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(TokenError::Exposed {
            path: path.to_owned(),
            mode,
        })
    }
}

#[cfg(not(unix))]
fn refuse_exposed(_path: &Path, _file: &File) -> Result<(), TokenError> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests;
