//! Checks of what a reopen finds, after an orderly close and after a crash.

use std::collections::BTreeMap;

use super::trial::{EPOCH, Row, Trial, entry, entry_of, head, value, workspace};
use super::{Reopen, StoreFactory};
use crate::ids::{FeedSeq, StoreEpoch};
use crate::keys::Key;
use crate::storage::{JournalEntry, JournalReleases};

pub(super) fn clean_reopen<F: StoreFactory>(trial: &mut Trial<F>) {
    let mut rows: Vec<Row> = (1..=20)
        .map(|n| (head(1, n), value(n as u64, n as usize * 700)))
        .collect();
    trial.apply(&rows, &[]);
    trial.barrier();
    for round in 0..3 {
        trial.reopen(Reopen::Clean);
        trial.expect_same(&trial.everything(), &rows, "after a reopen");
        let (deleted, _) = rows.remove(3);
        rows[round].1 = value(100 + round as u64, 2_000);
        let put = rows[round].clone();
        trial.apply(&[put], &[deleted]);
        trial.barrier();
    }
    trial.reopen(Reopen::Clean);
    trial.reopen(Reopen::Clean);
    trial.expect_same(&trial.everything(), &rows, "after two reopens");
}

/// Batches of several records after the last barrier: each is found whole or not at all, and none
/// without those before it.
pub(super) fn crash<F: StoreFactory>(trial: &mut Trial<F>) {
    let mut durable: Vec<Row> = Vec::new();
    for round in 0..6_u64 {
        let base = u128::from(round) * 100;
        let barriered: Vec<Row> = (0..5)
            .map(|n| (head(1, base + n), value(round, 100 + n as usize * 3_000)))
            .collect();
        trial.apply(&barriered, &[]);
        trial.barrier();
        durable.extend(barriered);

        let mut states = vec![durable.clone()];
        for n in 0..4_u64 {
            let number = base + 50 + u128::from(n);
            let puts: Vec<Row> = [1, 2, 3]
                .map(|part| (head(part, number), value(n, 5_000)))
                .to_vec();
            let deleted = durable[n as usize].0.clone();
            trial.apply(&puts, std::slice::from_ref(&deleted));
            let mut state = states.last().cloned().unwrap_or_default();
            state.retain(|(key, _)| *key != deleted);
            state.extend(puts);
            states.push(state);
        }
        trial.reopen(Reopen::Crash);
        durable = expect_one_of(trial, states);
    }
}

/// The same with one record overwritten again and again, by values kept in differing parts.
pub(super) fn crash_in_overwrite<F: StoreFactory>(trial: &mut Trial<F>) {
    let key = head(1, 1);
    let sizes = [30_000, 10, 9_000, 0, 60_000, 4_097];
    for (round, bytes) in (0_u64..).zip(sizes) {
        let put = |tag: u64, bytes: usize| vec![(key.clone(), value(tag, bytes))];
        trial.apply(&put(round, bytes), &[]);
        trial.barrier();
        let mut states = vec![put(round, bytes)];
        for (tag, bytes) in (round + 100..).zip(sizes) {
            trial.apply(&put(tag, bytes), &[]);
            states.push(put(tag, bytes));
        }
        trial.apply(&[], std::slice::from_ref(&key));
        states.push(Vec::new());
        trial.reopen(Reopen::Crash);
        expect_one_of(trial, states);
    }
}

/// Checks that the store is in one of the states between its batches, and returns which.
pub(super) fn expect_one_of<F: StoreFactory>(trial: &Trial<F>, states: Vec<Vec<Row>>) -> Vec<Row> {
    let found = trial.everything();
    let count = states.len();
    for mut state in states {
        state.sort();
        if state == found {
            return found;
        }
    }
    let keys: Vec<&Key> = found.iter().map(|(key, _)| key).collect();
    trial.ensure(false, || {
        format!(
            "what a reopen found is none of the {count} states from the last barrier on: {keys:?}"
        )
    });
    found
}

pub(super) fn journal<F: StoreFactory>(trial: &mut Trial<F>) {
    trial.journal(&[]);
    let entries = [
        entry(1, 1, 1),
        entry(1, 4, 3),
        entry(2, 1, 1),
        entry(1, 5, 1),
    ];
    trial.journal(&[&entries[0]]);
    trial.journal(&[&entries[1], &entries[2]]);
    trial.journal(&[]);
    // Journalled, but its batch never applied: the crash comes in between.
    trial.journal(&[&entries[3]]);
    let all = |_: &JournalEntry| true;
    let found = trial.reopen(Reopen::Crash);
    expect_journal(trial, &found, &entries, all);

    // What was found stays until it is released, also through the next reopens.
    let more = entry(2, 9, 2);
    trial.journal(&[&more]);
    let mut batch = trial.batch(&[(head(2, 9), value(9, 30))], &[]);
    batch.journal = Some(more.clone());
    let applied = trial.submit(&batch);
    trial.ok(applied, "applying a journalled batch");
    trial.barrier();
    let entries: Vec<_> = entries.into_iter().chain([more]).collect();
    for how in [Reopen::Clean, Reopen::Crash, Reopen::Crash] {
        let found = trial.reopen(how);
        expect_journal(trial, &found, &entries, all);
        trial.expect_row(&head(2, 9), Some(&value(9, 30)));
    }
}

pub(super) fn journal_releases<F: StoreFactory>(trial: &mut Trial<F>) {
    let mut entries = Vec::new();
    let mut releases = JournalReleases::new();
    for seq in 1..=30 {
        for number in [1, 2] {
            let entry = entry(number, seq, 1);
            trial.journal(&[&entry]);
            let row = (head(number, u128::from(seq)), value(seq, 50));
            let mut batch = trial.batch(&[row], &[]);
            batch.journal = Some(entry.clone());
            let applied = trial.submit(&batch);
            trial.ok(applied, "applying a journalled batch");
            entries.push(entry);
        }
        trial.barrier();
        match seq {
            8 => releases.insert(workspace(1), (EPOCH, FeedSeq(5)).into()),
            12 => releases.insert(workspace(2), (EPOCH, FeedSeq(12)).into()),
            20 => releases.insert(workspace(1), (EPOCH, FeedSeq(19)).into()),
            _ => continue,
        };
        trial.release(&releases);
    }
    trial.release(&BTreeMap::new());
    // Of a workspace that has no entries.
    trial.release(&BTreeMap::from([(
        workspace(3),
        (EPOCH, FeedSeq(99)).into(),
    )]));
    for how in [Reopen::Crash, Reopen::Clean] {
        let found = trial.reopen(how);
        expect_journal(trial, &found, &entries, |entry| !released(entry, &releases));
    }
    trial.ensure_eq(trial.everything().len(), 60, "records beside the journal");
}

/// Frames of an epoch are freed by releases of that epoch, or of one that began after them.
pub(super) fn journal_epochs<F: StoreFactory>(trial: &mut Trial<F>) {
    let next = StoreEpoch::from_bytes([0xe1; 16]);
    let release =
        |epoch, through| BTreeMap::from([(workspace(1), (epoch, FeedSeq(through)).into())]);
    let mut entries = vec![entry(1, 4, 1), entry(1, 8, 1)];
    trial.journal(&[&entries[0], &entries[1]]);
    trial.barrier();
    trial.reopen(Reopen::Crash);
    for seq in 1..=3 {
        let entry = entry_of(next, 1, seq, 1);
        trial.journal(&[&entry]);
        entries.push(entry);
    }
    trial.barrier();

    // A release that the new epoch has overtaken says nothing about its frames.
    trial.release(&release(EPOCH, 4));
    trial.barrier();
    trial.release(&BTreeMap::new());
    let found = trial.reopen(Reopen::Crash);
    expect_journal(trial, &found, &entries, |needed| *needed != entries[0]);

    trial.barrier();
    trial.release(&release(next, 2));
    for how in [Reopen::Crash, Reopen::Clean] {
        let found = trial.reopen(how);
        expect_journal(trial, &found, &entries, |needed| *needed == entries[4]);
    }
}

pub(super) fn released(entry: &JournalEntry, releases: &JournalReleases) -> bool {
    releases
        .get(&entry.workspace)
        .is_some_and(|release| entry.epoch == release.epoch && entry.through <= release.through)
}

/// Checks a found journal: a selection of what was journalled, in order, each at most once, with
/// everything in it that `needed` says.
pub(super) fn expect_journal<F: StoreFactory>(
    trial: &Trial<F>,
    found: &[JournalEntry],
    journalled: &[JournalEntry],
    needed: impl Fn(&JournalEntry) -> bool,
) {
    let name = |entry: &JournalEntry| format!("{} through {}", entry.workspace, entry.through);
    let mut found = found.iter().peekable();
    for entry in journalled {
        if found.peek() == Some(&entry) {
            found.next();
        } else {
            trial.ensure(!needed(entry), || {
                let next = found.peek().map_or("its end".to_owned(), |next| name(next));
                let missing = name(entry);
                format!("the journal lost {missing}, or changed it: where it should be is {next}")
            });
        }
    }
    trial.ensure(found.peek().is_none(), || {
        let extra: Vec<_> = found.map(name).collect();
        format!("the journal has entries out of order or never journalled: {extra:?}")
    });
}
