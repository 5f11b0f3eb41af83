//! Histories that once failed: drawn as they were then, by their seeds, or kept as plans.

use crate::plan::Plan;

/// Seeds of [`crate::classic`], each with what it showed.
const CLASSIC: &str = include_str!("../corpus/classic.txt");

/// Plans by name.
const PLANS: &[(&str, &str)] = &[
    (
        "came-over-an-earlier-link",
        include_str!("../corpus/came-over-an-earlier-link.plan"),
    ),
    (
        "compaction-ahead-of-what-it-waits-for",
        include_str!("../corpus/compaction-ahead-of-what-it-waits-for.plan"),
    ),
    (
        "half-of-what-was-refused-comes-back",
        include_str!("../corpus/half-of-what-was-refused-comes-back.plan"),
    ),
    (
        "compared-before-it-was-confirmed",
        include_str!("../corpus/compared-before-it-was-confirmed.plan"),
    ),
    (
        "history-that-had-to-be-begun-twice",
        include_str!("../corpus/history-that-had-to-be-begun-twice.plan"),
    ),
    (
        "not-verified-in-time",
        include_str!("../corpus/not-verified-in-time.plan"),
    ),
    (
        "nothing-says-what-kind",
        include_str!("../corpus/nothing-says-what-kind.plan"),
    ),
    (
        "pass-ahead-of-the-disk",
        include_str!("../corpus/pass-ahead-of-the-disk.plan"),
    ),
    (
        "refused-since-it-was-asked-for-again",
        include_str!("../corpus/refused-since-it-was-asked-for-again.plan"),
    ),
    (
        "rotten-snapshot-of-what-only-the-journal-has",
        include_str!("../corpus/rotten-snapshot-of-what-only-the-journal-has.plan"),
    ),
    (
        "saw-more-than-there-is",
        include_str!("../corpus/saw-more-than-there-is.plan"),
    ),
    (
        "sent-past-what-could-not-be-read",
        include_str!("../corpus/sent-past-what-could-not-be-read.plan"),
    ),
    (
        "taken-and-not-stored-yet",
        include_str!("../corpus/taken-and-not-stored-yet.plan"),
    ),
    (
        "taken-since-it-was-refused",
        include_str!("../corpus/taken-since-it-was-refused.plan"),
    ),
];

/// The seeds of [`crate::classic`] that once failed.
pub fn classic_seeds() -> Vec<u64> {
    CLASSIC
        .lines()
        .filter_map(|line| line.split('#').next())
        .filter_map(|seed| seed.trim().parse().ok())
        .collect()
}

/// The plans that once failed, with their names.
///
/// # Panics
/// If one does not read.
pub fn plans() -> Vec<(&'static str, Plan)> {
    let read = |(name, text): &(&'static str, &str)| match Plan::from_text(text) {
        Ok(plan) => (*name, plan),
        Err(error) => panic!("the plan {name} does not read: {error}"),
    };
    PLANS.iter().map(read).collect()
}

#[cfg(test)]
mod tests;
