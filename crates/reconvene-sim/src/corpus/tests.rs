//! Plays what once failed, and a number of fresh histories.

use std::panic::catch_unwind;

use reconvene_core::mutants::Mutants;

use super::{classic_seeds, plans};
use crate::classic::run_seed;
use crate::plan::{Mode, Plan};
use crate::shrink::try_play;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("the number of seeds is a number"))
}

fn fresh(default: u64) -> std::ops::Range<u64> {
    let first = from_environment("RECONVENE_SIM_FROM").unwrap_or(1_000);
    let count = from_environment("RECONVENE_SIM_SEEDS").unwrap_or(default);
    first..first + count
}

#[test]
fn corpus_seeds_hold_and_give_the_same_trace_twice() {
    let seeds = classic_seeds();
    assert!(!seeds.is_empty(), "the corpus is not empty");
    for seed in &seeds {
        assert_eq!(run_seed(*seed), run_seed(*seed), "seed {seed}");
    }
}

#[test]
fn plans_of_the_corpus_hold() {
    let failed = plans().into_iter().filter_map(|(name, plan)| {
        let error = try_play(&plan, Mutants::NONE).err()?;
        Some(format!("{name}: {error}"))
    });
    let failed: Vec<_> = failed.collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn random_histories_hold() {
    let failed: Vec<_> = fresh(150)
        .filter(|seed| catch_unwind(|| run_seed(*seed)).is_err())
        .collect();
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}

#[test]
fn drawn_histories_hold_in_both_modes_and_give_the_same_trace_twice() {
    let mut failed = Vec::new();
    for seed in fresh(150).step_by(20) {
        for mode in [Mode::Safety, Mode::Liveness] {
            let plan = Plan::of(seed, mode);
            let first = try_play(&plan, Mutants::NONE);
            match first {
                Err(error) => failed.push(format!("{mode:?} {seed}: {error}")),
                Ok(first) if seed.is_multiple_of(40) => {
                    assert_eq!(Ok(first), try_play(&plan, Mutants::NONE))
                }
                Ok(_) => {}
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_plan_comes_back_from_its_text() {
    for mode in [Mode::Safety, Mode::Liveness] {
        for seed in 0..40 {
            let plan = Plan::of(seed, mode);
            assert!(plan.steps.len() >= 300);
            assert_eq!(Plan::from_text(&plan.to_text()), Ok(plan));
        }
    }
    assert!(Plan::from_text("").is_err());
    assert!(Plan::from_text("{}").is_err());
}
