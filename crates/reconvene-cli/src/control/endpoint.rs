//! Where the control socket of a store is, and that only its user gets there.
//!
//! The name is a hash of the store's canonical directory, so both sides find it without a file in
//! the store. On Unix it lies in a directory of this user with mode 0700: another user can neither
//! connect nor pretend to be the host. On Windows it is a named pipe, which only its creator's
//! account may write to and no remote machine may open.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::{ListenerOptions, Name};
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// Bytes of the hash that stand in the name: collisions are out of reach, the path stays short.
const HASH_BYTES: usize = 12;

/// The control socket of one store.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    name: String,
    places: Places,
}

impl Endpoint {
    /// The control socket of the store in a directory that exists.
    pub(crate) fn of(data: &Path) -> Result<Self, Failure> {
        Self::among(data, Places::of_this_user())
    }

    fn among(data: &Path, places: Places) -> Result<Self, Failure> {
        let canonical = fs::canonicalize(data).map_err(|error| {
            Failure::new("io", format!("{} cannot be found: {error}", data.display()))
        })?;
        let digest = Sha256::digest(canonical.as_os_str().as_encoded_bytes());
        let mut name = String::from("reconvene-");
        for byte in &digest[..HASH_BYTES] {
            write!(name, "{byte:02x}").expect("a string takes every write");
        }
        Ok(Self { name, places })
    }

    /// Binds the socket; a socket file that an ended host left behind is removed.
    pub(crate) fn listen(&self) -> Result<Listener, Failure> {
        self.places.listen(&self.name)
    }

    /// Connects to the host; `None` if there is none.
    pub(crate) async fn connect(&self) -> Result<Option<Stream>, Failure> {
        self.places.connect(&self.name).await
    }
}

fn listener(name: Name<'_>) -> std::io::Result<Listener> {
    ListenerOptions::new().name(name).create_tokio()
}

#[cfg(unix)]
use unix::Places;
#[cfg(windows)]
use windows::Places;

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(test)]
impl Endpoint {
    /// The control socket that a test has to itself, below a directory.
    pub(crate) fn for_test(data: &Path, runtime: &Path) -> Self {
        Self::among(data, Places::for_test(runtime)).expect("the test's directory exists")
    }
}
