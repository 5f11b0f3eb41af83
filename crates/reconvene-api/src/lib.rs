//! What a server offers to programs that are no peers: a gRPC API for backends, and metrics, health
//! and readiness over HTTP for operators.
//!
//! All of it stands on the public API of [`reconvene::Replica`]: a call's change is an ordinary change
//! by the server's own actor, durable when the call returns. Nothing in here decides about documents,
//! and nothing is encrypted: it listens on loopback unless it is told that it may be exposed.

mod services;

mod calls;
mod convert;
mod failure;
mod token;

mod counts;
mod metrics;
mod monitor;

pub mod limits;
pub mod v1;

pub use services::{ApiOptions, Error, MonitorOptions, Services};
pub use token::TokenError;

#[cfg(test)]
mod tests;
