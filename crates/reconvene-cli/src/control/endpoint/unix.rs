//! Control sockets as files in a directory that only this user can enter.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Stream as _;
use interprocess::local_socket::{GenericFilePath, ToFsName as _};

use super::listener;
use crate::failure::Failure;

/// Longest path of a socket. Systems allow 104 to 108 bytes.
pub(super) const PATH_BYTES_MAX: usize = 99;

/// The directories a socket may be in, the preferred one first.
#[derive(Clone, Debug)]
pub(super) struct Places(Vec<PathBuf>);

impl Places {
    /// Below XDG_RUNTIME_DIR, which may be set for one process and not for another, and below the
    /// directory for temporary files.
    pub(super) fn of_this_user() -> Self {
        let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
        let runtime = runtime.map(|directory| PathBuf::from(directory).join("reconvene"));
        let user = rustix::process::geteuid().as_raw();
        let temporary = env::temp_dir().join(format!("reconvene-{user}"));
        Self(runtime.into_iter().chain([temporary]).collect())
    }

    /// Binds the socket in the first place that exists and is short enough.
    pub(super) fn listen(&self, name: &str) -> Result<Listener, Failure> {
        let mut unusable = Vec::new();
        for directory in &self.0 {
            let path = directory.join(name);
            if path.as_os_str().len() > PATH_BYTES_MAX {
                unusable.push(format!("{} is too long a path", directory.display()));
                continue;
            }
            match make_private(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    unusable.push(format!("{} is not there", directory.display()));
                    continue;
                }
                Err(error) => return Err(not_made(directory, &error)),
            }
            check_private(directory)?;
            return bind(&path).map_err(|error| not_made(&path, &error));
        }
        let message = format!(
            "there is no directory for the control socket: {}",
            unusable.join("; ")
        );
        Err(Failure::new("runtime_dir", message))
    }

    /// Connects to the host, wherever it is; `None` if it is nowhere.
    pub(super) async fn connect(&self, name: &str) -> Result<Option<Stream>, Failure> {
        let mut unsafe_place = None;
        for directory in &self.0 {
            let path = directory.join(name);
            if !path.exists() || path.as_os_str().len() > PATH_BYTES_MAX {
                continue;
            }
            // A socket where others can write may be anyone's: it is not spoken to.
            if let Err(failure) = check_private(directory) {
                unsafe_place = Some(failure);
                continue;
            }
            let connected = match path.as_os_str().to_fs_name::<GenericFilePath>() {
                Ok(name) => Stream::connect(name).await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) => tracing::debug!(%error, "no host at this socket"),
            }
        }
        unsafe_place.map_or(Ok(None), Err)
    }

    #[cfg(test)]
    pub(super) fn for_test(runtime: &Path) -> Self {
        Self(vec![runtime.join("reconvene")])
    }
}

/// Makes the directory unless it is there; its parent must be.
fn make_private(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Refuses a directory that is not this user's, or that others may enter. It is not repaired: what
/// lies in it may be theirs.
fn check_private(directory: &Path) -> Result<(), Failure> {
    // Not the target of a link: whoever owns the link could turn it elsewhere.
    let found = fs::symlink_metadata(directory).map_err(|error| not_made(directory, &error))?;
    let owner = rustix::process::geteuid().as_raw();
    let why = if !found.is_dir() {
        "is not a directory"
    } else if found.uid() != owner {
        "belongs to another user"
    } else if found.mode() & 0o077 != 0 {
        "can be entered by other users"
    } else {
        return Ok(());
    };
    let message = format!(
        "the directory for the control socket {} {why}",
        directory.display()
    );
    let hint = format!(
        "remove it or `chmod 700` it if it is yours, else set XDG_RUNTIME_DIR to a directory that \
         only you can enter ({} is refused as it is)",
        directory.display()
    );
    Err(Failure::new("runtime_dir", message).with_hint(hint))
}

fn bind(path: &Path) -> io::Result<Listener> {
    match fs::remove_file(path) {
        Ok(()) => tracing::debug!("an ended process left its control socket behind"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    listener(path.as_os_str().to_fs_name::<GenericFilePath>()?)
}

fn not_made(path: &Path, error: &io::Error) -> Failure {
    let message = format!(
        "the control socket {} cannot be made: {error}",
        path.display()
    );
    Failure::new("runtime_dir", message)
}

#[cfg(test)]
mod tests;
