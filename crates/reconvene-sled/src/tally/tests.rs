//! Tests of the tally: what is lost of a database is counted, and nothing else is called lost.

use std::fs;

use reconvene_core::storage::{StoreRead as _, StoreWrite as _};

use super::NAME;
use crate::testing::{change_key, open, put, value};

/// Groups of batches, each behind a barrier.
const GROUPS: u64 = 200;

fn filled() -> tempfile::TempDir {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    for n in 0..GROUPS {
        put(&mut store, vec![(change_key(n), value(n, 300))]);
    }
    store.close().unwrap();
    temporary
}

#[test]
fn a_database_that_lost_its_end_is_found_out_once() {
    let temporary = filled();
    let database = temporary.path().join("sled").join("db");
    let mut bytes = fs::read(&database).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 2] ^= 1;
    fs::write(&database, bytes).unwrap();
    let opened = open(temporary.path());
    assert_eq!(opened.report.quarantined, None);
    let lost = opened.report.lost_groups;
    assert!((1..GROUPS).contains(&lost), "{lost}");
    let reader = opened.store.reader();
    let there = (0..GROUPS).filter(|n| reader.contains(&change_key(*n)).unwrap());
    // The group in the middle of which it ends may be there in part: its tally is not.
    let there = there.count() as u64;
    assert!(
        (GROUPS - lost..=GROUPS - lost + 1).contains(&there),
        "{there}, {lost}"
    );
    opened.store.close().unwrap();
    assert_eq!(open(temporary.path()).report.lost_groups, 0);
}

#[test]
fn a_database_that_is_gone_is_missed_and_one_of_before_is_found_out() {
    let temporary = filled();
    let earlier = temporary.path().join("earlier");
    fs::rename(temporary.path().join("sled"), &earlier).unwrap();
    let opened = open(temporary.path());
    assert!(opened.report.is_new);
    assert_eq!(opened.report.lost_groups, GROUPS);
    let mut store = opened.store;
    put(&mut store, vec![(change_key(1), value(1, 10))]);
    drop(store);
    fs::remove_dir_all(temporary.path().join("sled")).unwrap();
    fs::rename(&earlier, temporary.path().join("sled")).unwrap();
    assert_eq!(open(temporary.path()).report.lost_groups, 1);
}

#[test]
fn a_tally_that_is_damaged_or_gone_says_nothing() {
    let temporary = filled();
    let tally = temporary.path().join(NAME);
    let bytes = fs::read(&tally).unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(&tally, &flipped).unwrap();
        assert_eq!(open(temporary.path()).report.lost_groups, 0, "{at}");
        fs::write(&tally, &bytes[..at]).unwrap();
        assert_eq!(open(temporary.path()).report.lost_groups, 0, "{at}");
    }
    fs::remove_file(&tally).unwrap();
    let mut store = open(temporary.path()).store;
    put(&mut store, vec![(change_key(1), value(1, 10))]);
    store.close().unwrap();
    let mut later = (GROUPS + 1).to_be_bytes().to_vec();
    later.extend_from_slice(&crc32fast::hash(&later).to_be_bytes());
    assert_eq!(fs::read(&tally).unwrap(), later);
}

#[test]
fn whatever_was_not_behind_a_barrier_is_not_called_lost() {
    let temporary = filled();
    let copy = temporary.path().join("tally.earlier");
    fs::copy(temporary.path().join(NAME), &copy).unwrap();
    let mut store = open(temporary.path()).store;
    put(&mut store, vec![(change_key(1), value(1, 10))]);
    store.close().unwrap();
    // After a power cut the file may be an earlier one.
    fs::rename(&copy, temporary.path().join(NAME)).unwrap();
    assert_eq!(open(temporary.path()).report.lost_groups, 0);
}

#[test]
fn a_tally_that_cannot_be_kept_keeps_nobody_from_the_store() {
    let temporary = filled();
    let tally = temporary.path().join(NAME);
    fs::remove_file(&tally).unwrap();
    fs::create_dir(&tally).unwrap();
    let opened = open(temporary.path());
    assert_eq!(opened.report.lost_groups, 0);
    let mut store = opened.store;
    put(&mut store, vec![(change_key(1), value(1, 10))]);
    store.close().unwrap();
    fs::remove_dir(&tally).unwrap();
    assert_eq!(open(temporary.path()).report.lost_groups, 0);
}
