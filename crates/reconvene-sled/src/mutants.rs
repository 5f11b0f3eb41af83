//! Mutants of the store: each leaves out a sync that a barrier is made of, so that tests that cut the
//! power can show that they would notice.
//!
//! Without the feature `mutants`, which nothing that is shipped turns on, there are none. With it a
//! process carries those that `RECONVENE_MUTANTS` names, separated by commas.

/// One way of leaving out what makes something durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The journal is written and not synced.
    SyncsNoJournal,
    /// sled's file is written and not synced.
    SyncsNoSled,
}

/// Whether this process carries a mutant.
#[cfg(feature = "mutants")]
pub(crate) fn is(mutant: Mutant) -> bool {
    static NAMES: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("RECONVENE_MUTANTS").unwrap_or_default());
    let name = format!("{mutant:?}");
    NAMES.split(',').any(|named| named == name)
}

/// Whether this process carries a mutant: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn is(_mutant: Mutant) -> bool {
    false
}
