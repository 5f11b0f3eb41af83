//! Checks of single batches and their order, without a reopen in view.

use bytes::Bytes;

use super::trial::{Row, Trial, head, value};
use super::{Reopen, StoreFactory};
use crate::ids::BatchId;
use crate::keys::{Key, KeyRange};
use crate::limits::VALUE_BYTES_MAX;
use crate::storage::StoreError;

/// Sizes at which stores are likely to change how they keep a value, and the bounds.
const SIZES: [usize; 14] = [
    0,
    1,
    255,
    256,
    4_095,
    4_096,
    4_097,
    8_191,
    8_192,
    8_193,
    65_536,
    65_537,
    VALUE_BYTES_MAX - 1,
    VALUE_BYTES_MAX,
];

pub(super) fn new_store_is_empty<F: StoreFactory>(trial: &mut Trial<F>) {
    trial.expect_row(&head(1, 1), None);
    trial.expect_range(&KeyRange::new(Vec::new(), None), &[]);
    trial.barrier();
    let journal = trial.reopen(Reopen::Clean);
    trial.ensure_eq(journal, Vec::new(), "the journal of a new store");
    trial.expect_range(&KeyRange::new(Vec::new(), None), &[]);
}

pub(super) fn batch_puts_and_deletes<F: StoreFactory>(trial: &mut Trial<F>) {
    let rows: Vec<Row> = (1..=4).map(|n| (head(1, n), value(n as u64, 40))).collect();
    trial.apply(&rows[..2], &[]);
    trial.apply(&rows[2..], &[head(1, 1), head(1, 9)]);
    trial.expect_row(&head(1, 1), None);
    trial.expect_row(&head(1, 9), None);
    for (key, value) in &rows[1..] {
        trial.expect_row(key, Some(value));
    }
    trial.expect_same(&trial.everything(), &rows[1..], "after both batches");

    trial.apply(&[], &[]);
    trial.expect_same(&trial.everything(), &rows[1..], "after an empty batch");
    let deletes: Vec<_> = rows.iter().map(|(key, _)| key.clone()).collect();
    trial.apply(&[], &deletes);
    trial.expect_same(&trial.everything(), &[], "after deleting everything");
    trial.apply(&rows[..1], &[]);
    trial.expect_same(&trial.everything(), &rows[..1], "after writing once more");
}

pub(super) fn values_of_every_size<F: StoreFactory>(trial: &mut Trial<F>) {
    let rows: Vec<Row> = SIZES
        .iter()
        .zip(1_u64..)
        .map(|(bytes, n)| (head(1, u128::from(n)), value(n, *bytes)))
        .collect();
    trial.apply(&rows, &[]);
    for (key, value) in &rows {
        trial.expect_row(key, Some(value));
    }
    trial.expect_range(&KeyRange::new(Vec::new(), None), &rows);
    trial.barrier();
    trial.reopen(Reopen::Clean);
    trial.expect_range(&KeyRange::new(Vec::new(), None), &rows);
}

/// Every size over every other: a record kept in parts must lose all of its old parts.
pub(super) fn overwrites_leave_no_trace<F: StoreFactory>(trial: &mut Trial<F>) {
    let before = (head(1, 1), value(1, 10));
    let after = (head(1, 3), value(3, 10));
    trial.apply(&[before.clone(), after.clone()], &[]);
    let sizes = [0, 1, 4_096, 4_097, 12_289, 70_000, VALUE_BYTES_MAX];
    let mut tag = 10;
    for first in sizes {
        for second in sizes {
            for bytes in [first, second] {
                tag += 1;
                let row = (head(1, 2), value(tag, bytes));
                trial.apply(std::slice::from_ref(&row), &[]);
                trial.expect_row(&row.0, Some(&row.1));
                let rows = [before.clone(), row, after.clone()];
                trial.expect_same(&trial.everything(), &rows, "after an overwrite");
            }
        }
        trial.apply(&[], &[head(1, 2)]);
        let rows = [before.clone(), after.clone()];
        trial.expect_same(&trial.everything(), &rows, "after a delete");
    }
}

pub(super) fn value_too_large_writes_nothing<F: StoreFactory>(trial: &mut Trial<F>) {
    let kept = (head(1, 1), value(1, 10));
    trial.apply(std::slice::from_ref(&kept), &[]);
    let bytes = VALUE_BYTES_MAX + 1;
    let puts = [(head(1, 2), value(2, 10)), (head(1, 3), value(3, bytes))];
    let batch = trial.batch(&puts, &[head(1, 1)]);
    let result = trial.submit(&batch);
    let refused = Err(StoreError::ValueTooLarge { bytes });
    trial.ensure_eq(result, refused, "a value of one byte too many");
    let rows = [kept];
    trial.expect_same(&trial.everything(), &rows, "after the refusal");
    trial.apply(&[], &[]);
    trial.barrier();
    trial.reopen(Reopen::Clean);
    trial.expect_same(&trial.everything(), &rows, "after a reopen");
}

pub(super) fn batches_apply_in_order<F: StoreFactory>(trial: &mut Trial<F>) {
    let keys = [head(1, 1), head(1, 2), head(1, 3)];
    for n in 0..60_u64 {
        let key = keys[(n % 3) as usize].clone();
        let deleted = keys[((n + 1) % 3) as usize].clone();
        trial.apply(&[(key.clone(), value(n, 20))], &[deleted]);
        trial.expect_row(&key, Some(&value(n, 20)));
        if n % 7 == 0 {
            trial.barrier();
        }
    }
    let expected = [
        (keys[1].clone(), value(58, 20)),
        (keys[2].clone(), value(59, 20)),
    ];
    trial.expect_same(&trial.everything(), &expected, "the last writes");
}

pub(super) fn failed_predecessor<F: StoreFactory>(trial: &mut Trial<F>) {
    let refuse = |trial: &mut Trial<F>, after: BatchId, what: &str| {
        let mut batch = trial.batch(&[(head(1, 9), Bytes::from_static(b"no"))], &[head(1, 1)]);
        batch.after = Some(after);
        let result = trial.submit(&batch);
        trial.ensure_eq(result, Err(StoreError::PredecessorFailed), what);
        batch.id
    };
    let unknown = refuse(trial, BatchId(77), "a predecessor nobody saw");
    refuse(trial, unknown, "a predecessor that was itself refused");

    let kept = (head(1, 1), value(1, 30));
    let first = trial.apply(std::slice::from_ref(&kept), &[]);
    let second = trial.apply(&[], &[]);
    refuse(trial, first, "a predecessor that is not the last applied");
    refuse(trial, BatchId(second.0 + 1), "the refused one before it");
    trial.expect_same(&trial.everything(), std::slice::from_ref(&kept), "after it");

    // The chain is where it was: a batch after the last one applied still applies.
    let third = trial.apply(&[(head(1, 2), value(2, 30))], &[]);
    trial.barrier();
    trial.reopen(Reopen::Clean);
    let rows = [kept, (head(1, 2), value(2, 30))];
    trial.expect_same(&trial.everything(), &rows, "after a reopen");
    refuse(trial, third, "a predecessor from before the reopen");
    trial.expect_same(&trial.everything(), &rows, "after the last refusal");
}

/// Batches applied together: each has the outcome it would have alone, and the last write counts.
pub(super) fn groups_apply_in_order<F: StoreFactory>(trial: &mut Trial<F>) {
    let [key, other, gone] = [head(1, 1), head(1, 2), head(1, 3)];
    trial.apply(
        &[(key.clone(), value(1, 9_000)), (gone.clone(), value(1, 20))],
        &[],
    );
    let mut after = trial.batch(&[], &[]).after;
    let mut next = |trial: &mut Trial<F>, puts: &[Row], deletes: &[Key]| {
        let mut batch = trial.batch(puts, deletes);
        batch.after = after.replace(batch.id);
        batch
    };
    let long = next(
        trial,
        &[
            (key.clone(), value(2, 30_000)),
            (other.clone(), value(2, 9_000)),
        ],
        &[],
    );
    let deleting = next(
        trial,
        &[(gone.clone(), value(3, 5_000))],
        std::slice::from_ref(&other),
    );
    let mut unlinked = trial.batch(&[(other.clone(), value(4, 10))], std::slice::from_ref(&key));
    unlinked.after = Some(BatchId(99_999));
    let short = next(
        trial,
        &[(key.clone(), value(5, 100)), (other.clone(), value(5, 0))],
        std::slice::from_ref(&gone),
    );
    let bytes = VALUE_BYTES_MAX + 1;
    let large = next(
        trial,
        &[(other.clone(), value(6, bytes))],
        std::slice::from_ref(&key),
    );
    let behind = next(trial, &[(gone, value(7, 10))], &[]);
    let group = [&long, &deleting, &unlinked, &short, &large, &behind];
    let outcomes = trial.submit_group(&group);
    let expected = [
        Ok(()),
        Ok(()),
        Err(StoreError::PredecessorFailed),
        Ok(()),
        Err(StoreError::ValueTooLarge { bytes }),
        Err(StoreError::PredecessorFailed),
    ];
    trial.ensure_eq(&outcomes[..], &expected[..], "the outcomes of a group");
    let rows = [(key, value(5, 100)), (other, value(5, 0))];
    trial.expect_same(&trial.everything(), &rows, "after a group");
    let refused = trial.submit_group(&[&behind]);
    trial.ensure_eq(
        refused,
        vec![Err(StoreError::PredecessorFailed)],
        "a group of one",
    );
    let none = trial.submit_group(&[]);
    trial.ensure_eq(none, Vec::new(), "the outcomes of no batches");
    trial.barrier();
    trial.reopen(Reopen::Crash);
    trial.expect_same(&trial.everything(), &rows, "after a reopen");
}

pub(super) fn readers_see_applied<F: StoreFactory>(trial: &mut Trial<F>) {
    use crate::storage::StoreRead;

    let early = trial.reader();
    let clone = early.clone();
    let (key, first) = (head(1, 1), value(1, 5_000));
    trial.apply(&[(key.clone(), first.clone())], &[]);
    for reader in [&early, &clone] {
        let found = trial.ok(reader.read(&key), "a read");
        trial.ensure(found.as_ref() == Some(&first), || {
            "a reader from before a batch does not see it before its barrier".to_owned()
        });
    }
    trial.barrier();
    trial.apply(&[], std::slice::from_ref(&key));
    let found = trial.ok(early.contains(&key), "asking for a record");
    trial.ensure_eq(found, false, "contains after an unbarriered delete");
}
