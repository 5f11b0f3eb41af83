//! Control sockets as named pipes.

use std::io;

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Stream as _;
use interprocess::local_socket::{GenericNamespaced, ToNsName as _};

use super::listener;
use crate::failure::Failure;

/// Where sockets may be: the one namespace of named pipes.
#[derive(Clone, Debug)]
pub(super) struct Places;

impl Places {
    pub(super) fn of_this_user() -> Self {
        Self
    }

    pub(super) fn listen(&self, name: &str) -> Result<Listener, Failure> {
        let bound = name.to_ns_name::<GenericNamespaced>().and_then(listener);
        bound.map_err(|error| not_bound(&error))
    }

    pub(super) async fn connect(&self, name: &str) -> Result<Option<Stream>, Failure> {
        let name = name.to_ns_name::<GenericNamespaced>();
        let name = name.map_err(|error| not_bound(&error))?;
        Ok(Stream::connect(name).await.ok())
    }

    #[cfg(test)]
    pub(super) fn for_test(_runtime: &std::path::Path) -> Self {
        Self
    }
}

fn not_bound(error: &io::Error) -> Failure {
    Failure::new(
        "runtime_dir",
        format!("the control socket cannot be made: {error}"),
    )
    .with_hint("end other reconvene processes on this store, then run the command again")
}
