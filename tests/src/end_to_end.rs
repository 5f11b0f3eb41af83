//! End to end: separate `reconvene` processes, real sockets on loopback, real stores in temporary
//! directories. One binary; every wait has a deadline, nothing sleeps.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod disk;
mod harness;
mod qmsum;
mod raw;
mod receiver;
mod writer;

mod devices;
mod merging;
mod moving;
mod mutants;

mod archive;
mod cost;
mod cuts;
mod damage;
mod failing;
mod far;
mod kills;
mod outbox;
mod power;
mod rot;
mod space;

mod backend;
mod beside;
mod formats;
mod serving;
mod watching;

mod hostile;
mod refusals;
mod versions;

mod truth;

mod facts;
