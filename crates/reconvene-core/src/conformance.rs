//! The suite that every store passes: the one in memory, the one on sled, and any later one.
//!
//! A backend's tests call [`check_store`] with a [`StoreFactory`]. Each check begins with an empty
//! place of its own and panics, naming itself, at the first promise of [`storage`](crate::storage)
//! that the store breaks. The checks are deterministic; a randomised one compares the store with a
//! plain map under a fixed list of seeds. Disk faults are not provoked here: how to cause them is
//! the backend's knowledge, and so are their tests.

use crate::storage::{JournalEntry, StoreWrite};

mod batches;
mod durability;
mod model;
mod scans;
mod trial;

use trial::Trial;

/// How a store is closed before it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopen {
    /// It is shut down in order.
    Clean,
    /// Its process or the power goes away without warning. The harder the factory makes this, the
    /// more the suite proves.
    Crash,
}

/// A store as it is found when it is opened again.
pub struct Reopened<S> {
    /// The store.
    pub store: S,
    /// What its journal held, oldest first.
    pub journal: Vec<JournalEntry>,
}

/// Makes stores for the suite, all of them in one place, at most one at a time.
pub trait StoreFactory {
    /// The store under test.
    type Store: StoreWrite;

    /// Opens the place for the first time: the store is empty.
    fn open(&mut self) -> Self::Store;

    /// Closes `store` and opens the same place again. Readers of it may still exist, but are not
    /// used any more.
    fn reopen(&mut self, store: Self::Store, how: Reopen) -> Reopened<Self::Store>;
}

type Check<F> = fn(&mut Trial<F>);

/// Runs the whole suite; `make_factory` gives a fresh, empty place for each check.
///
/// # Panics
/// At the first broken promise, with the name of the check and what was expected.
pub fn check_store<F: StoreFactory>(mut make_factory: impl FnMut() -> F) {
    let checks: &[(&str, Check<F>)] = &[
        ("a new store is empty", batches::new_store_is_empty),
        ("a batch puts and deletes", batches::batch_puts_and_deletes),
        ("values of every size", batches::values_of_every_size),
        ("overwrites", batches::overwrites_leave_no_trace),
        ("a value too large", batches::value_too_large_writes_nothing),
        ("batches in order", batches::batches_apply_in_order),
        ("a failed predecessor", batches::failed_predecessor),
        ("groups", batches::groups_apply_in_order),
        ("readers before the barrier", batches::readers_see_applied),
        ("scans in both directions", scans::both_directions),
        ("scan bounds", scans::bounds_and_more),
        ("range bounds", scans::range_bounds),
        ("neighbouring workspaces", scans::neighbouring_workspaces),
        ("kinds of key", scans::kinds_do_not_mix),
        ("many small rows", scans::many_small_rows),
        ("a clean reopen", durability::clean_reopen),
        ("a crash", durability::crash),
        ("a crash in an overwrite", durability::crash_in_overwrite),
        ("the journal", durability::journal),
        ("journal releases", durability::journal_releases),
        ("journal epochs", durability::journal_epochs),
    ];
    for (name, check) in checks {
        check(&mut Trial::new(name, make_factory()));
    }
    for seed in model::SEEDS {
        let name = format!("random operations, seed {seed}");
        model::random_operations(&mut Trial::new(&name, make_factory()), *seed);
    }
}

#[cfg(test)]
mod tests;
