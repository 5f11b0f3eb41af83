//! Tests of batches and barriers on real files.

use bytes::Bytes;
use reconvene_core::ids::FeedSeq;
use reconvene_core::keys::{Key, KeyRange};
use reconvene_core::limits::VALUE_BYTES_MAX;
use reconvene_core::storage::{Scan, StoreRead};

use super::*;
use crate::disk_bytes;
use crate::record::{STORED_BYTES_MAX, part_key};
use crate::testing::{EPOCH, WORKSPACE, batch, change_key, entry, open, put, value};

const KIB: usize = 1024;

#[test]
fn values_of_every_size_survive_a_reopen() {
    let temporary = tempfile::tempdir().unwrap();
    let lengths = [0, 1, 4 * KIB, 5 * KIB, 64 * KIB, 256 * KIB, VALUE_BYTES_MAX];
    let rows: Vec<_> = (0..)
        .zip(lengths)
        .map(|(number, length)| (change_key(number), value(number, length)))
        .collect();
    let mut store = open(temporary.path()).store;
    put(&mut store, rows.clone());
    store.close().unwrap();
    let reader = open(temporary.path());
    assert!(!reader.report.is_new);
    let reader = reader.store;
    for (key, value) in rows {
        assert!(reader.reader().read(&key).unwrap() == Some(value));
        assert!(reader.reader().contains(&key).unwrap());
    }
}

#[test]
fn overwriting_and_deleting_leave_no_part_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let [first, second] = [1, 2].map(change_key);
    let neighbour = (change_key(3), value(3, 9000));
    put(&mut store, vec![neighbour.clone()]);
    let stored = |store: &SledStore| store.tree().len() - 3;
    let lengths = [100_000, 3_000, 50_000, 0, 12_000, 12_001];
    for (id, length) in (10..).zip(lengths) {
        let rows = vec![
            (first.clone(), value(id, length)),
            (second.clone(), value(id, length + 1)),
        ];
        put(&mut store, rows);
        let found = store.reader().read(&first).unwrap();
        assert_eq!(found, Some(value(id, length)));
        let expected = part_count(length) + part_count(length + 1);
        assert_eq!(stored(&store), expected, "{length}");
    }
    let mut delete = batch(99, Vec::new());
    delete.deletes = vec![first.clone(), change_key(1000)];
    store.apply(&delete).unwrap();
    assert_eq!(store.reader().read(&first).unwrap(), None);
    assert!(!store.reader().contains(&first).unwrap());
    assert_eq!(stored(&store), part_count(12_002));
    let kept = store.reader().read(&neighbour.0).unwrap();
    assert_eq!(kept, Some(neighbour.1));
}

#[test]
fn an_overwrite_repairs_a_damaged_record() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let key = change_key(1);
    put(&mut store, vec![(key.clone(), value(1, 20_000))]);
    let tree = store.tree();
    tree.remove(part_key(key.as_bytes(), 0)).unwrap();
    assert!(store.reader().read(&key).is_err());
    put(&mut store, vec![(key.clone(), value(2, 10))]);
    assert_eq!(store.reader().read(&key).unwrap(), Some(value(2, 10)));
    assert_eq!(tree.len(), 1);
}

#[test]
fn thousands_of_values_of_up_to_256_kib_make_no_blob_files() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let mut id = 0;
    let mut written = 0;
    // Mostly small, some at the size of a part, a few large; then all again in other sizes.
    for round in 0..2_u64 {
        for number in 0..3_000_u64 {
            let length = match (number + round) % 100 {
                0 => 256 * KIB,
                1..10 => 20 * KIB,
                10..60 => STORED_BYTES_MAX,
                _ => 700,
            };
            id += 1;
            written += length;
            store
                .apply(&batch(id, vec![(change_key(number), value(id, length))]))
                .unwrap();
            if id % 64 == 0 {
                store.barrier().unwrap();
            }
        }
    }
    store.barrier().unwrap();
    let blobs = temporary.path().join("sled/blobs");
    assert!(names_in(&blobs).unwrap().is_empty());
    let range = KeyRange::new(Vec::new(), None);
    let mut scan = Scan::ascending(range, usize::MAX);
    scan.bytes_max = usize::MAX;
    let rows = store.reader().scan(&scan).unwrap().rows;
    assert_eq!(rows.len(), 3_000);
    let use_now = disk_bytes(store.data_dir()).unwrap();
    assert!(use_now.sled > (written / 2) as u64);
    assert_eq!((use_now.journal, use_now.quarantine), (0, 0));
    store.close().unwrap();
    assert_eq!(open(temporary.path()).store.tree().len(), tree_rows(&rows));
}

fn tree_rows(rows: &[(Key, Bytes)]) -> usize {
    rows.iter().map(|(_, value)| part_count(value.len())).sum()
}

#[test]
fn a_blob_file_fails_the_barrier_and_the_next_open() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    put(&mut store, vec![(change_key(1), value(1, 9))]);
    let blob = temporary.path().join("sled/blobs/77");
    std::fs::write(&blob, "x").unwrap();
    let second = batch(2, vec![(change_key(2), value(2, 9))]);
    store.apply(&second).unwrap();
    let error = store.barrier().unwrap_err();
    assert!(error.to_string().contains("outside its log"), "{error}");
    let refused = store.apply(&second).unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }));
    let refused = store.journal(&[&entry(1, 1)]).unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }));
    assert!(store.reader().read(&change_key(1)).unwrap().is_some());
    assert!(store.close().is_err());

    let data_dir = crate::open_data_dir(temporary.path()).unwrap();
    let error = crate::open_store(&data_dir).unwrap_err();
    let crate::OpenError::BlobFiles { count: 1, .. } = error else {
        panic!("unexpected {error:?}");
    };
    std::fs::remove_file(blob).unwrap();
    crate::open_store(&data_dir).unwrap();
}

#[test]
fn a_batch_needs_its_predecessor() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    let mut apply = |id, after: Option<u64>, length| {
        let mut batch = batch(id, vec![(change_key(id), value(id, length))]);
        batch.after = after.map(BatchId);
        store.apply(&batch)
    };
    let gap = Err(StoreError::PredecessorFailed);
    assert_eq!(apply(2, Some(1), 1), gap);
    assert_eq!(apply(3, None, 1), Ok(()));
    assert_eq!(apply(4, Some(3), 1), Ok(()));
    let bytes = VALUE_BYTES_MAX + 1;
    let too_large = Err(StoreError::ValueTooLarge { bytes });
    assert_eq!(apply(5, Some(4), bytes), too_large);
    assert_eq!(apply(6, Some(5), 1), gap);
    assert_eq!(apply(7, Some(6), 1), gap);
    assert_eq!(apply(8, None, 1), Ok(()));
    assert_eq!(apply(9, Some(8), 1), Ok(()));
    let found = (2..=9).map(|id| store.reader().contains(&change_key(id)).unwrap());
    let expected = [false, true, true, false, false, false, true, true];
    assert!(found.eq(expected));
}

#[test]
fn a_journal_failure_leaves_the_store_read_only() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    put(&mut store, vec![(change_key(1), value(1, 9))]);
    std::fs::remove_dir(temporary.path().join("journal")).unwrap();
    let error = store.journal(&[&entry(1, 1)]).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    let refused = store.apply(&batch(2, Vec::new())).unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }));
    assert!(store.barrier().is_err());
    assert!(store.reader().contains(&change_key(1)).unwrap());
    drop(store);
    let mut store = open(temporary.path()).store;
    store.journal(&[&entry(1, 1)]).unwrap();
    put(&mut store, vec![(change_key(2), value(2, 9))]);
}

#[test]
fn the_journal_is_shortened_only_behind_a_barrier() {
    let temporary = tempfile::tempdir().unwrap();
    let mut store = open(temporary.path()).store;
    store.journal(&[&entry(1, 5 * KIB * KIB)]).unwrap();
    store.apply(&batch(1, Vec::new())).unwrap();
    let releases = JournalReleases::from([(WORKSPACE, (EPOCH, FeedSeq(1)).into())]);
    store.release_journal(&releases).unwrap();
    assert!(disk_bytes(store.data_dir()).unwrap().journal > 0);
    store.barrier().unwrap();
    store.release_journal(&releases).unwrap();
    assert_eq!(disk_bytes(store.data_dir()).unwrap().journal, 0);
}
