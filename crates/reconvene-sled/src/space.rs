//! The floor of free space: while less is free on the store's disk, nothing is written.
//!
//! A disk that runs full in the middle of a write leaves sled in a state that only opening it again
//! makes known, and opening writes too. What is kept free is for that, for the barrier of what was
//! applied already, and for the end of the journal.

use std::io;
use std::path::Path;

use reconvene_core::storage::StoreError;

/// Free bytes on the data directory's file system below which no batch is written; they fail with
/// [`StoreError::LowSpace`] until more is free again. Covers the largest group of batches, in the
/// journal and in sled, and what sled writes as it opens.
pub const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;

const _: () = assert!(
    FREE_BYTES_MIN
        >= 4 * (crate::GROUP_BYTES_MAX as u64 + reconvene_core::limits::BATCH_BYTES_MAX as u64)
);

/// Fails if less than the floor is free where `path` is.
pub(crate) fn check(path: &Path) -> Result<(), StoreError> {
    match free_bytes(path) {
        Ok(free) => check_free(free),
        // Writing goes on as if there were room: if there is none, the write itself says so.
        Err(error) => {
            tracing::warn!(%error, "what is free on the store's disk is not known");
            Ok(())
        }
    }
}

fn check_free(free_bytes: u64) -> Result<(), StoreError> {
    if free_bytes < FREE_BYTES_MIN {
        let floor_bytes = FREE_BYTES_MIN;
        return Err(StoreError::LowSpace {
            free_bytes,
            floor_bytes,
        });
    }
    Ok(())
}

/// What this user may still write where `path` is. Quotas that the file system does not count in are
/// not seen.
#[cfg(unix)]
fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_path: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}

/// The error of an operation that failed with `reason` while too little was free.
pub(crate) fn full(error: &StoreError, reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, format!("{error} ({reason})"))
}

#[cfg(test)]
mod tests;
