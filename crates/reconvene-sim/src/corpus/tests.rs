//! Plays the corpus and a number of fresh seeds.

use std::panic::catch_unwind;

use super::run_seed;

/// Seeds that once failed, and what they showed.
const CORPUS: &str = include_str!("../../corpus.txt");

fn corpus() -> Vec<u64> {
    CORPUS
        .lines()
        .filter_map(|line| line.split('#').next())
        .filter_map(|seed| seed.trim().parse().ok())
        .collect()
}

fn check(seeds: impl Iterator<Item = u64>) {
    let failed: Vec<_> = seeds
        .filter(|seed| catch_unwind(|| run_seed(*seed)).is_err())
        .collect();
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("the number of seeds is a number"))
}

#[test]
fn corpus_seeds_hold_and_give_the_same_trace_twice() {
    let seeds = corpus();
    assert!(!seeds.is_empty(), "the corpus is not empty");
    for seed in &seeds {
        assert_eq!(run_seed(*seed), run_seed(*seed), "seed {seed}");
    }
}

#[test]
fn random_histories_hold() {
    let first = from_environment("RECONVENE_SIM_FROM").unwrap_or(1_000);
    let count = from_environment("RECONVENE_SIM_SEEDS").unwrap_or(150);
    check(first..first + count);
}
