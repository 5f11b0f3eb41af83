//! Random operations against a plain map, with reopens and crashes in between.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::durability::{expect_journal, expect_one_of, released};
use super::trial::{EPOCH, Row, Trial, document, entry, head, value, workspace};
use super::{Reopen, StoreFactory};
use crate::ids::{ChangeHash, FeedSeq};
use crate::keys::{Key, KeyRange};
use crate::storage::{Direction, JournalEntry, JournalReleases, Scan, merge_release};

/// The seeds every store runs under; a seed that once failed is added here.
pub(super) const SEEDS: &[u64] = &[1, 2, 3, 5, 8, 13];

const STEPS: usize = 400;

/// What the store must hold.
struct Model {
    rng: ChaCha8Rng,
    /// The content after each batch since the last barrier, the content at it first.
    states: Vec<BTreeMap<Key, Bytes>>,
    journalled: Vec<JournalEntry>,
    releases: JournalReleases,
    /// Per workspace, the last feed entry journalled, and the last one a barrier covered.
    journalled_through: BTreeMap<u128, u64>,
    covered_through: BTreeMap<u128, u64>,
    tag: u64,
}

pub(super) fn random_operations<F: StoreFactory>(trial: &mut Trial<F>, seed: u64) {
    let mut model = Model {
        rng: ChaCha8Rng::seed_from_u64(seed),
        states: vec![BTreeMap::new()],
        journalled: Vec::new(),
        releases: JournalReleases::new(),
        journalled_through: BTreeMap::new(),
        covered_through: BTreeMap::new(),
        tag: 0,
    };
    for _ in 0..STEPS {
        match model.below(100) {
            0..40 => model.batch(trial),
            40..50 => model.barrier(trial),
            50..55 => model.release(trial),
            55..75 => model.read(trial),
            75..96 => model.scan(trial),
            96..98 => model.reopen(trial, Reopen::Clean),
            _ => model.reopen(trial, Reopen::Crash),
        }
    }
    model.barrier(trial);
    model.reopen(trial, Reopen::Crash);
}

impl Model {
    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    fn now(&self) -> &BTreeMap<Key, Bytes> {
        self.states.last().expect("the list never becomes empty")
    }

    /// A key out of few enough that most have been written before.
    fn key(&mut self) -> Key {
        let number = [1, 2, u128::MAX][self.below(3) as usize];
        let id = workspace(number);
        let place = self.below(12);
        match self.below(4) {
            0 => Key::feed(&id, FeedSeq(place)),
            1 => {
                let hash = ChangeHash::from_bytes([place as u8 * 23; 32]);
                Key::change(&id, &document(u128::from(place % 2)), &hash)
            }
            2 => Key::workspace(&id),
            _ => head(number, u128::from(place)),
        }
    }

    fn value(&mut self) -> Bytes {
        self.tag += 1;
        let bytes = match self.below(10) {
            0 => 0,
            1..7 => self.below(300),
            7 | 8 => self.below(20_000),
            _ => self.below(100_000),
        };
        value(self.tag, bytes as usize)
    }

    fn batch<F: StoreFactory>(&mut self, trial: &mut Trial<F>) {
        let mut puts = BTreeMap::new();
        for _ in 0..self.below(6) {
            puts.insert(self.key(), self.value());
        }
        let mut deletes: Vec<Key> = (0..self.below(4)).map(|_| self.key()).collect();
        deletes.sort();
        deletes.dedup();
        deletes.retain(|key| !puts.contains_key(key));

        let mut state = self.now().clone();
        state.extend(puts.clone());
        state.retain(|key, _| !deletes.contains(key));

        let puts: Vec<Row> = puts.into_iter().collect();
        let mut batch = trial.batch(&puts, &deletes);
        if self.below(3) == 0 {
            let number = u128::from(1 + self.below(2));
            let documents = 1 + self.below(3);
            let through = self.journalled_through.entry(number).or_default();
            *through += documents;
            let entry = entry(number, *through, documents);
            trial.journal(&[&entry]);
            self.journalled.push(entry.clone());
            batch.journal = Some(entry);
        }
        let applied = trial.submit(&batch);
        trial.ok(applied, "applying a batch");
        self.states.push(state);
    }

    fn barrier<F: StoreFactory>(&mut self, trial: &mut Trial<F>) {
        trial.barrier();
        self.states.drain(..self.states.len() - 1);
        self.covered_through = self.journalled_through.clone();
    }

    fn release<F: StoreFactory>(&mut self, trial: &mut Trial<F>) {
        for (number, covered) in self.covered_through.clone() {
            let through = FeedSeq(self.below(covered + 1));
            merge_release(
                &mut self.releases,
                workspace(number),
                (EPOCH, through).into(),
            );
        }
        trial.release(&self.releases);
    }

    fn read<F: StoreFactory>(&mut self, trial: &mut Trial<F>) {
        let key = self.key();
        trial.expect_row(&key, self.now().get(&key));
    }

    fn scan<F: StoreFactory>(&mut self, trial: &mut Trial<F>) {
        let (a, b) = (self.key(), self.key());
        let range = match self.below(5) {
            0 => KeyRange::new(a.as_bytes().to_vec(), None),
            1 => KeyRange::heads(&workspace(1)).after(&a),
            2 => KeyRange::heads(&workspace(u128::MAX)).before(&a),
            3 => KeyRange::changes(&workspace(2), &document(1)),
            // May end before it begins.
            _ => KeyRange::new(a.as_bytes().to_vec(), Some(b.as_bytes().to_vec())),
        };
        let direction = match self.below(2) {
            0 => Direction::Ascending,
            _ => Direction::Descending,
        };
        let rows_max = self.below(20) as usize;
        let bytes_max = match self.below(3) {
            0 => usize::MAX,
            _ => self.below(30_000) as usize,
        };
        let mut inside: Vec<(&Key, &Bytes)> = self
            .now()
            .iter()
            .filter(|(key, _)| {
                range.start() <= key.as_bytes()
                    && range.end().is_none_or(|end| key.as_bytes() < end)
            })
            .collect();
        if direction == Direction::Descending {
            inside.reverse();
        }
        let mut expected: Vec<Row> = Vec::new();
        let mut bytes = 0;
        for (key, value) in &inside {
            if expected.len() == rows_max || (!expected.is_empty() && bytes >= bytes_max) {
                break;
            }
            bytes += value.len();
            expected.push(((*key).clone(), (*value).clone()));
        }
        let scan = Scan {
            range,
            direction,
            rows_max,
            bytes_max,
        };
        let found = trial.scan(&scan);
        trial.expect_same(&found.rows, &expected, &format!("{scan:?}"));
        let more = expected.len() < inside.len();
        trial.ensure_eq(found.more, more, &format!("more of {scan:?}"));
    }

    fn reopen<F: StoreFactory>(&mut self, trial: &mut Trial<F>, how: Reopen) {
        let journal = trial.reopen(how);
        let releases = &self.releases;
        expect_journal(trial, &journal, &self.journalled, |entry| {
            !released(entry, releases)
        });
        // What a store had already forgotten stays forgotten.
        self.journalled = journal;
        let states = self
            .states
            .iter()
            .map(|state| {
                let rows = state.iter();
                rows.map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            })
            .collect();
        let found = expect_one_of(trial, states);
        self.states = vec![found.into_iter().collect()];
    }
}
