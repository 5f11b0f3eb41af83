//! Making a history that fails shorter, as long as it fails.

use std::panic::{AssertUnwindSafe, catch_unwind};

use reconvene_core::mutants::Mutants;

use crate::action::Action;
use crate::history::Outcome;
use crate::plan::Plan;

/// Plays a plan; what went wrong, if anything did.
///
/// # Errors
/// The message of what did not hold.
pub fn try_play(plan: &Plan, mutants: Mutants) -> Result<Outcome, String> {
    catch(|| plan.play(mutants, None))
}

/// Does something that panics where something does not hold.
///
/// # Errors
/// The message of what did not hold.
pub fn catch<T>(play: impl FnOnce() -> T) -> Result<T, String> {
    // A world that panicked is dropped as a whole.
    catch_unwind(AssertUnwindSafe(play)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "it panicked".to_owned())
    })
}

/// The shortest plan that is found to fail, by leaving out steps, ever fewer at once; `None` if the plan
/// does not fail. It need not fail in the same way. `progress` is told how many steps are left.
pub fn shrink(plan: &Plan, mutants: Mutants, mut progress: impl FnMut(usize)) -> Option<Plan> {
    try_play(plan, mutants).err()?;
    let mut plan = plan.clone();
    let mut size = plan.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < plan.steps.len() {
            let end = (at + size).min(plan.steps.len());
            let mut shorter = plan.clone();
            let gone: Vec<_> = shorter.steps.drain(at..end).collect();
            // Time passes all the same: what comes after happens when it did.
            let passed: u64 = gone.iter().map(|step| step.after).sum();
            if let Some(next) = shorter.steps.get_mut(at) {
                next.after += passed;
            }
            if try_play(&shorter, mutants).is_err() {
                plan = shorter;
                progress(plan.steps.len());
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    simplify(&mut plan, mutants);
    Some(plan)
}

/// Makes what is left plainer: shorter pauses, smaller edits.
fn simplify(plan: &mut Plan, mutants: Mutants) {
    for place in 0..plan.steps.len() {
        let step = plan.steps[place];
        let mut plainer = step;
        plainer.after = 0;
        if let Action::Edit { bytes, .. } | Action::EditMany { bytes, .. } = &mut plainer.action {
            *bytes = (*bytes).min(10);
        }
        if plainer == step {
            continue;
        }
        plan.steps[place] = plainer;
        if try_play(plan, mutants).is_ok() {
            plan.steps[place] = step;
        }
    }
}
