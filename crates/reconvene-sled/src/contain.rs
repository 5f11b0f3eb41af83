//! Containment: turns sled's panics and errors into values of the core's [`StoreError`].
//!
//! It must never swallow one: every panic caught here comes back as an error.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use reconvene_core::storage::StoreError;

/// Runs `work` and returns a panic in it as `Err` with the panic's message.
///
/// What `work` touched must not be relied on after a panic; callers stop writing to it.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| panic_message(payload.as_ref()))
}

/// The text a panic carried.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// Maps an error of the operating system.
pub(crate) fn io_error(error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace,
        _ => StoreError::Io {
            what: error.to_string(),
        },
    }
}

/// Maps an error of sled met while it worked on `subject`.
pub(crate) fn sled_error(error: &sled::Error, subject: &str) -> StoreError {
    match error {
        sled::Error::Io(error) => io_error(error),
        sled::Error::Corruption { .. } => StoreError::Damaged {
            key: subject.to_owned(),
            what: error.to_string(),
        },
        other => StoreError::Io {
            what: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;
