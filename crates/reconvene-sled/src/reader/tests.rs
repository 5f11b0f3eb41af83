//! Tests of reads and scans: order, bounds, and that damage is never taken for absence.

use std::collections::BTreeMap;

use reconvene_core::ids::{DocumentId, FeedSeq};
use reconvene_core::storage::StoreWrite;

use super::*;
use crate::SledStore;
use crate::testing::{WORKSPACE, batch, change_key, open, put, value};

fn changes() -> KeyRange {
    KeyRange::changes(&WORKSPACE, &DocumentId::from_bytes([1; 16]))
}

/// A store whose records have sizes around the border between one part and several.
fn filled(store: &mut SledStore, count: u64) -> BTreeMap<Key, Bytes> {
    let lengths = [10, 0, 4082, 4083, 4084, 9000, 300];
    let rows: BTreeMap<_, _> = (0..count)
        .map(|number| {
            let length = lengths[number as usize % lengths.len()];
            (change_key(number), value(number, length))
        })
        .collect();
    put(store, rows.clone().into_iter().collect());
    put(
        store,
        vec![
            (Key::feed(&WORKSPACE, FeedSeq(1)), value(1, 20)),
            (Key::feed_head(&WORKSPACE), value(2, 5000)),
        ],
    );
    rows
}

#[test]
fn a_scan_returns_records_in_either_order_and_nothing_else() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    // More than one locked stretch, both by rows and by bytes.
    let expected = filled(&mut store, 500);
    let mut scan = Scan::ascending(changes(), usize::MAX);
    let mut ascending: Vec<_> = expected.into_iter().collect();
    let found = store.reader().scan(&scan).unwrap();
    assert!(found.rows == ascending && !found.more);
    ascending.reverse();
    scan.direction = Direction::Descending;
    let found = store.reader().scan(&scan).unwrap();
    assert!(found.rows == ascending && !found.more);
}

#[test]
fn pages_of_any_size_join_into_the_whole() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let expected: Vec<_> = filled(&mut store, 150).into_iter().collect();
    let reader = store.reader();
    for rows_max in [1, 2, 7, 63, 64, 65, 75, 149, 150, 151] {
        for direction in [Direction::Ascending, Direction::Descending] {
            let mut range = changes();
            let mut joined = Vec::new();
            loop {
                let page = reader
                    .scan(&Scan {
                        range: range.clone(),
                        direction,
                        rows_max,
                        bytes_max: usize::MAX,
                    })
                    .unwrap();
                let left = expected.len() - joined.len();
                assert_eq!(page.rows.len(), rows_max.min(left));
                assert_eq!(page.more, left > rows_max);
                let (last, _) = page.rows.last().unwrap().clone();
                joined.extend(page.rows);
                if !page.more {
                    break;
                }
                range = match direction {
                    Direction::Ascending => range.after(&last),
                    Direction::Descending => range.before(&last),
                };
            }
            if direction == Direction::Descending {
                joined.reverse();
            }
            assert!(joined == expected, "{rows_max} {direction:?}");
        }
    }
}

#[test]
fn a_scan_stops_after_the_record_that_reaches_its_bytes() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let rows = (0..4).map(|number| (change_key(number), value(number, 100)));
    put(&mut store, rows.collect());
    let count = |rows_max, bytes_max| {
        let scan = Scan {
            range: changes(),
            direction: Direction::Ascending,
            rows_max,
            bytes_max,
        };
        let found = store.reader().scan(&scan).unwrap();
        (found.rows.len(), found.more)
    };
    assert_eq!(count(9, 0), (1, true));
    assert_eq!(count(9, 100), (1, true));
    assert_eq!(count(9, 101), (2, true));
    assert_eq!(count(9, 400), (4, false));
    assert_eq!(count(0, 400), (0, true));
}

#[test]
fn a_range_may_begin_or_end_just_after_a_record() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    filled(&mut store, 10);
    let just_after = |number| {
        let mut bytes = change_key(number).as_bytes().to_vec();
        bytes.push(0);
        bytes
    };
    // Record 5 has several parts.
    for (start, end, expected) in [(5, 8, 6..=8), (2, 5, 3..=5)] {
        let range = KeyRange::new(just_after(start), Some(just_after(end)));
        for direction in [Direction::Ascending, Direction::Descending] {
            let scan = Scan {
                direction,
                ..Scan::ascending(range.clone(), usize::MAX)
            };
            let found = store.reader().scan(&scan).unwrap();
            let mut keys: Vec<_> = found.rows.into_iter().map(|(key, _)| key).collect();
            keys.sort_unstable();
            let expected: Vec<_> = expected.clone().map(change_key).collect();
            assert_eq!(keys, expected);
        }
    }
    let empty = KeyRange::new(vec![9], Some(vec![3]));
    let found = store.reader().scan(&Scan::ascending(empty, 5)).unwrap();
    assert_eq!(found, Rows::default());
    let everything = KeyRange::new(Vec::new(), None);
    let found = store.reader().scan(&Scan::ascending(everything, 50));
    assert_eq!(found.unwrap().rows.len(), 12);
}

#[test]
fn every_flipped_byte_is_damage_to_reads_and_scans() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let key = change_key(1);
    put(&mut store, vec![(key.clone(), value(1, 9000))]);
    let reader = store.reader();
    let tree = store.tree();
    for part in 0..3 {
        let stored_key = part_key(key.as_bytes(), part);
        let intact = tree.get(&stored_key).unwrap().unwrap();
        for at in (0..intact.len()).step_by(7) {
            let mut flipped = intact.to_vec();
            flipped[at] ^= 1;
            tree.insert(&stored_key, flipped).unwrap();
            assert_damaged(&reader, &key);
        }
        tree.insert(&stored_key, &intact).unwrap();
        assert!(reader.read(&key).unwrap().is_some());

        tree.remove(&stored_key).unwrap();
        assert_damaged(&reader, &key);
        tree.insert(&stored_key, intact).unwrap();
    }
    assert_eq!(reader.read(&key).unwrap(), Some(value(1, 9000)));
    assert!(reader.contains(&key).unwrap());
    assert!(!reader.contains(&change_key(2)).unwrap());
    assert_eq!(reader.read(&change_key(2)).unwrap(), None);
}

#[test]
fn a_survey_goes_on_past_damaged_records() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let count = 150;
    let records = (1..=count).map(|n| (change_key(n), value(n, 100)));
    put(&mut store, records.collect());
    let tree = store.tree();
    for n in [1, 70, count] {
        let stored_key = part_key(change_key(n).as_bytes(), 0);
        let mut stored = tree.get(&stored_key).unwrap().unwrap().to_vec();
        *stored.last_mut().unwrap() ^= 1;
        tree.insert(&stored_key, stored).unwrap();
    }
    let reader = store.reader();
    let mut range = changes();
    let mut read = Vec::new();
    loop {
        let survey = reader.survey(&range).unwrap();
        let last = survey.rows.last().map(|(key, _)| key.clone());
        read.extend(survey.rows);
        match last.filter(|_| survey.more) {
            Some(last) => range = range.after(&last),
            None => break,
        }
    }
    assert_eq!(read.len() as u64, count);
    for (n, (key, read)) in (1..).zip(read) {
        assert_eq!(key, change_key(n));
        match n {
            1 | 70 | 150 => assert!(matches!(read, Err(StoreError::Damaged { .. })), "{n}"),
            _ => assert_eq!(read, Ok(value(n, 100))),
        }
    }
}

fn assert_damaged(reader: &SledReader, key: &Key) {
    let is_damage = |error: StoreError| {
        let StoreError::Damaged { key: named, .. } = error else {
            panic!("unexpected {error:?}");
        };
        assert_eq!(named, format!("{key:?}"));
    };
    is_damage(reader.read(key).unwrap_err());
    let scan = Scan::ascending(changes(), 10);
    is_damage(reader.scan(&scan).unwrap_err());
}

#[test]
fn readers_never_see_half_a_batch_within_a_record() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let key = change_key(1);
    put(&mut store, vec![(key.clone(), value(0, 20_000))]);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (reader, key, stop) = (store.reader(), key.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut reads = 0_u64;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    reader.read(&key).unwrap().unwrap();
                    let scan = Scan::ascending(changes(), 10);
                    assert_eq!(reader.scan(&scan).unwrap().rows.len(), 1);
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for id in 1..400 {
        let length = if id % 2 == 0 { 20_000 } else { 6_000 };
        store
            .apply(&batch(id, vec![(key.clone(), value(id, length))]))
            .unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for thread in threads {
        assert!(thread.join().unwrap() > 0);
    }
}

#[test]
fn a_batch_that_failed_midway_is_not_shown() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let [touched, other] = [1, 2].map(change_key);
    put(
        &mut store,
        vec![(touched.clone(), value(1, 9)), (other.clone(), value(2, 9))],
    );
    let reader = store.reader();
    let mut guard = reader.shared.write();
    guard.as_mut().unwrap().unsure = BTreeSet::from([touched.clone()]);
    drop(guard);

    let refused = |error| assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    refused(reader.read(&touched).unwrap_err());
    refused(reader.contains(&touched).unwrap_err());
    refused(reader.scan(&Scan::ascending(changes(), 1)).unwrap_err());
    assert!(reader.read(&other).unwrap().is_some());
    let after = Scan::ascending(changes().after(&touched), 9);
    assert_eq!(reader.scan(&after).unwrap().rows.len(), 1);
}

#[test]
fn a_panic_of_sled_is_damage() {
    let temporary = tempfile::tempdir().unwrap();
    let store = open(temporary.path()).store;
    let reader = store.reader();
    let looked: Result<(), _> = reader
        .shared
        .look(|| "here".to_owned(), |_| panic!("sled broke"));
    let expected = StoreError::Damaged {
        key: "here".to_owned(),
        what: "sled panicked: sled broke".to_owned(),
    };
    assert_eq!(looked, Err(expected));
    assert_eq!(reader.read(&change_key(1)), Ok(None));
}

#[test]
fn readers_of_a_closed_store_say_so() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    store
        .apply(&batch(1, vec![(change_key(1), value(1, 9))]))
        .unwrap();
    let reader = store.reader();
    store.close().unwrap();
    assert_eq!(reader.read(&change_key(1)), Err(StoreError::Closed));
    assert_eq!(reader.contains(&change_key(1)), Err(StoreError::Closed));
    let scan = Scan::ascending(changes(), 1);
    assert_eq!(reader.scan(&scan), Err(StoreError::Closed));

    // The old reader does not keep the store from being opened again.
    let again = open(temporary.path()).store;
    let found = again.reader().read(&change_key(1));
    assert_eq!(found, Ok(Some(value(1, 9))));
}

/// sled looks for the leaf before one that begins at `x` among the keys up to `x - 1, ff, ff, ff,
/// ff`. If that leaf holds greater ones only, it never finds it and panics.
#[test]
fn a_descending_scan_finds_its_way_where_sled_does_not() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let key = |kind: u8, number: u16| {
        let mut bytes = vec![kind, 0xff, 0xff, 0xff, 0xff, 0xff];
        bytes.extend_from_slice(&number.to_be_bytes());
        Key::from_bytes(bytes)
    };
    // One by one, so that the first leaf is split where the kinds meet.
    let row = |kind, number| (key(kind, number), value(1, 9));
    for (kind, numbers) in [(0x12, 0..9), (0x13, 0..8), (0x12, 9..1_000)] {
        for number in numbers {
            store.apply(&batch(1, vec![row(kind, number)])).unwrap();
        }
    }
    let mut rows: Vec<_> = (0..1_000).map(|number| row(0x12, number)).collect();
    rows.extend((0..8).map(|number| row(0x13, number)));

    let range = KeyRange::new(vec![0x12], None);
    for rows_max in [usize::MAX, 500, 1] {
        let scan = Scan {
            range: range.clone(),
            direction: Direction::Descending,
            rows_max,
            bytes_max: usize::MAX,
        };
        let found = store.reader().scan(&scan).unwrap();
        assert!(found.rows.iter().eq(rows.iter().rev().take(rows_max)));
        assert_eq!(found.more, rows_max < rows.len());
    }
}
