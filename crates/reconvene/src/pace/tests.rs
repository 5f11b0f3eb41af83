//! Decisions about pace, from made-up costs.

use std::time::Duration;

use super::Pace;
use crate::limits::{APPLY_COST_TARGET, APPLY_DOCUMENTS_MAX, APPLY_DOCUMENTS_MIN, GATHER_MAX};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

fn after(batches: &[(usize, Duration)]) -> Pace {
    let mut pace = Pace::new();
    for (documents, cost) in batches {
        pace.note(*documents, *cost);
    }
    pace
}

#[test]
fn what_comes_after_a_pause_is_applied_at_once() {
    assert_eq!(Pace::new().gather(Duration::ZERO, 1), Duration::ZERO);
    assert_eq!(after(&[(1, LONG)]).gather(LONG, 1), Duration::ZERO);
}

#[test]
fn gathering_takes_as_long_as_the_last_batch_and_has_a_bound() {
    let pace = after(&[(1, 20 * MS)]);
    assert_eq!(pace.gather(Duration::ZERO, 1), 20 * MS);
    assert_eq!(pace.gather(15 * MS, 1), 5 * MS);
    assert_eq!(pace.gather(25 * MS, 1), Duration::ZERO);
    assert_eq!(after(&[(1, LONG)]).gather(Duration::ZERO, 1), GATHER_MAX);
    // What was cheap last time is not waited for, whatever came before.
    let pace = after(&[(1, LONG), (1, MS)]);
    assert_eq!(pace.gather(Duration::ZERO, 1), MS);
}

#[test]
fn nothing_is_gathered_for_nothing_nor_when_a_batch_is_full() {
    let pace = after(&[(64, 64 * MS)]);
    assert_eq!(pace.gather(Duration::ZERO, 0), Duration::ZERO);
    assert_eq!(
        pace.gather(Duration::ZERO, pace.documents()),
        Duration::ZERO
    );
    assert!(pace.gather(Duration::ZERO, pace.documents() - 1) > Duration::ZERO);
}

#[test]
fn batches_are_cut_to_what_the_last_one_cost() {
    // 2 ms each: as many as fit the target.
    let pace = after(&[(64, 128 * MS)]);
    assert_eq!(pace.documents() as u128, APPLY_COST_TARGET.as_millis() / 2);
    // Very slow documents still come in batches, very cheap ones in bounded ones.
    assert_eq!(after(&[(1, LONG)]).documents(), APPLY_DOCUMENTS_MIN);
    let cheap = [(64, Duration::ZERO); 10];
    assert_eq!(after(&cheap).documents(), APPLY_DOCUMENTS_MAX);
    // Growing takes several cheap batches, shrinking one dear one.
    let before = after(&[(1, LONG)]).documents();
    assert_eq!(after(&[(1, LONG), (8, MS)]).documents(), before * 2);
    let shrunk = after(&[(64, Duration::ZERO), (64, LONG)]);
    assert_eq!(shrunk.documents(), APPLY_DOCUMENTS_MIN);
    // A round that had nothing to apply says nothing.
    let mut idle = after(&[(64, 128 * MS)]);
    idle.note(0, LONG);
    assert_eq!(idle, after(&[(64, 128 * MS)]));
}
