//! Mutants of what is above the engine: each leaves out one thing that this crate or the server
//! promises, so that the tests can show that they would notice. See [`reconvene_core::mutants`] for
//! those of the engine.
//!
//! Without the feature `mutants`, which nothing that is shipped turns on, there are none. With it a
//! process carries those that `RECONVENE_MUTANTS` names, separated by commas.

use reconvene_core::mutants::Mutants;

/// One way of leaving out what is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Live queries hear of no row that is written.
    TellsNoQuery,
    /// Whatever is written is held by everybody.
    CallsItHeld,
    /// Whatever is read is fresh.
    CallsItFresh,
    /// Nothing is to be delivered.
    CountsNothing,
    /// Sync runs never expire.
    KeepsRuns,
    /// Every id of a sync run was issued.
    TakesAnyRun,
    /// A server that starts issues sync runs under a new key.
    MintsKeyAnew,
    /// Where no project is known for a meeting, the first there is.
    ChoosesProject,
    /// Of several active projects, the first.
    SettlesProjects,
    /// The state version of a server means nothing.
    IgnoresStateVersion,
    /// Who was enrolled is known to the store alone.
    ForgetsEnrolments,
    /// An integration that does not work is nobody's business.
    SwallowsFailures,
    /// Each time something is told to the outside it is another thing.
    KeysEachTry,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::TellsNoQuery,
        Self::CallsItHeld,
        Self::CallsItFresh,
        Self::CountsNothing,
        Self::KeepsRuns,
        Self::TakesAnyRun,
        Self::MintsKeyAnew,
        Self::ChoosesProject,
        Self::SettlesProjects,
        Self::IgnoresStateVersion,
        Self::ForgetsEnrolments,
        Self::SwallowsFailures,
        Self::KeysEachTry,
    ];
}

/// Whether this process carries a mutant.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    names().contains(&format!("{mutant:?}"))
}

/// Whether this process carries a mutant: never, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
pub const fn is(_mutant: Mutant) -> bool {
    false
}

/// The engine's mutants that this process carries.
#[cfg(feature = "mutants")]
pub(crate) fn of_engine() -> Mutants {
    use reconvene_core::mutants::Mutant;
    if !names().is_empty() {
        tracing::error!(mutants = ?names(), "this build is for tests, and wrong on purpose");
    }
    let known = names().iter().filter_map(|name| Mutant::named(name));
    known.fold(Mutants::NONE, Mutants::and)
}

/// The engine's mutants that this process carries: none, without the feature `mutants`.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn of_engine() -> Mutants {
    Mutants::NONE
}

#[cfg(feature = "mutants")]
fn names() -> &'static [String] {
    static NAMES: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        let named = std::env::var("RECONVENE_MUTANTS").unwrap_or_default();
        let names = named.split(',').filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    });
    &NAMES
}
