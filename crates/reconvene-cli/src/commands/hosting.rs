//! Hosting the control socket beside a command that keeps the store open.

use std::path::Path;
use std::sync::Arc;

use reconvene::Replica;

use crate::control::endpoint::Endpoint;
use crate::control::host::{self, Bound, Host};
use crate::execute::execute;
use crate::failure::Failure;

/// Binds the control socket of a store that this process has open.
pub(super) fn bind(data: &Path) -> Result<Bound, Failure> {
    host::bind(&Endpoint::of(data)?)
}

/// Answers callers from now on.
pub(super) fn host(bound: Bound, replica: &Replica) -> Host {
    let replica = replica.clone();
    bound.host(Arc::new(move |request, sinks| {
        let replica = replica.clone();
        Box::pin(async move { execute(&replica, request, &sinks).await })
    }))
}
