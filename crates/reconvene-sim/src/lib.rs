//! The simulated world the engine is tested in: a virtual clock, links that can be cut, disks that
//! lose what no barrier covered, hosts that edit, and checkers that know the truth.
//!
//! Everything follows from a seed: the same seed gives the same trace. Nothing here waits, and
//! nothing here touches a disk, a socket or a clock.

pub mod changes;
pub mod world;

pub mod action;
pub mod archives;
pub mod classic;
pub mod history;
pub mod plan;
pub mod shrink;

mod check;
mod cuts;
mod disk;
mod documents;
mod executor;
mod host;
mod lies;
mod loads;
mod offenders;
mod snapshots;
mod wires;

pub mod corpus;
pub mod edits;
pub mod fuzz;
pub mod small_scope;

#[cfg(test)]
mod scenarios;
