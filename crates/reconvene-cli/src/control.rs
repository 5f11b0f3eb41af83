//! The control socket: how commands reach a store that another process has open.
//!
//! `serve` and `sync --watch` host it, on a local socket that only the same user can reach. The
//! protocol is JSON Lines: the caller sends one call, the host replies with signs of life, progress,
//! and then the answer in parts or a failure. Nothing here knows what a request does, and nothing
//! here touches the store.

pub(crate) mod caller;
pub(crate) mod endpoint;
pub(crate) mod frames;
pub(crate) mod host;

#[cfg(test)]
mod tests;
