//! Where the store is (`--data`, else RECONVENE_DATA, else the platform's data directory) and what the
//! machine is called.

use std::env;
use std::path::{Path, PathBuf};

use directories::ProjectDirs;

use crate::failure::Failure;

/// The environment variable that names the store's directory.
pub(crate) const DATA_VARIABLE: &str = "RECONVENE_DATA";

/// The store's directory. It need not exist.
pub(crate) fn data_directory(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(directory) = given {
        return Ok(directory.to_owned());
    }
    // An empty variable is how shells say "not set".
    if let Some(directory) = env::var_os(DATA_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(directory.into());
    }
    let platform = ProjectDirs::from("", "", "reconvene").ok_or_else(|| {
        let message = "this account has no home directory to keep a store in";
        Failure::new("not_initialised", message).with_hint("name a directory with --data")
    })?;
    // Not the roaming one where a platform tells them apart: a store belongs to one device.
    Ok(platform.data_local_dir().to_owned())
}

/// What the machine is called; devices are named after it where nothing else is said.
#[cfg(unix)]
pub(crate) fn machine_name() -> Option<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// What the machine is called; devices are named after it where nothing else is said.
#[cfg(not(unix))]
pub(crate) fn machine_name() -> Option<String> {
    env::var("COMPUTERNAME")
        .ok()
        .filter(|name| !name.is_empty())
}
