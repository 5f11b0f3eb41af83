//! Tests of the whole: a process that is killed while it writes, again and again.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use bytes::Bytes;
use reconvene_core::ids::{BatchId, FeedSeq};
use reconvene_core::keys::Key;
use reconvene_core::storage::{Batch, JournalReleases, StoreRead, StoreWrite};

use crate::testing::{CHILD_DIR, EPOCH, WORKSPACE, batch, change_key, child, entry, open, value};
use crate::{Completion, Opened, SubmitError, Writer};

const KILLS: u64 = 24;

/// The number of the child's first batch.
const FIRST: &str = "RECONVENE_SLED_TEST_FIRST";

/// Entries this far behind the last stored batch are released.
const RELEASED_BEHIND: u64 = 500;

/// The three records of batch `id`: one with several parts, and one that every batch overwrites
/// with another length.
fn records(id: u64) -> Vec<(Key, Bytes)> {
    vec![
        (change_key(2 * id), value(id, 200)),
        (change_key(2 * id + 1), value(id + 1, 9_000)),
        (Key::meta(1), meta(id)),
    ]
}

fn meta(id: u64) -> Bytes {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&value(id, (id % 3) as usize * 5_000));
    bytes.into()
}

fn killed_batch(id: u64, is_first: bool) -> Batch {
    let mut batch = batch(id, records(id));
    batch.after = (!is_first).then(|| BatchId(id - 1));
    batch.journal = id.is_multiple_of(2).then(|| entry(id, 300));
    // Every tenth batch removes what an earlier one wrote.
    if id.is_multiple_of(10) && id > 5 {
        batch.deletes = vec![change_key(2 * (id - 5) + 1)];
    }
    batch
}

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let temporary = tempfile::tempdir().unwrap();
    let mut journaled = BTreeSet::new();
    let mut stored = BTreeSet::new();
    let mut first = 1;
    for kill in 0..KILLS {
        let mut child = child("tests::child_writes_until_it_is_killed", temporary.path())
            .env(FIRST, first.to_string())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // At a different moment each time, now and then during the open.
        for _ in 0..kill * 17 {
            note(&lines.next().unwrap().unwrap(), &mut journaled, &mut stored);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // A line that the kill cut short was not an acknowledgement.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        for line in &rest {
            note(line, &mut journaled, &mut stored);
        }
        first = check_survivors(temporary.path(), &journaled, &stored) + 1;
    }
    assert!(stored.len() as u64 > KILLS * KILLS, "{}", stored.len());
    assert!(!journaled.is_empty());
}

fn note(line: &str, journaled: &mut BTreeSet<u64>, stored: &mut BTreeSet<u64>) {
    let mut words = line.split(' ');
    let (kind, id, end) = (words.next(), words.next(), words.next());
    let id = id.and_then(|id| id.parse().ok());
    match (kind, id, end) {
        (Some("journaled"), Some(id), Some("!")) => assert!(journaled.insert(id), "{line}"),
        (Some("stored"), Some(id), Some("!")) => assert!(stored.insert(id), "{line}"),
        (Some("failed"), ..) => panic!("the child says: {line}"),
        // What the test harness prints.
        _ => {}
    }
}

/// Opens the store, checks what was acknowledged, and returns the last batch found in it.
fn check_survivors(path: &Path, journaled: &BTreeSet<u64>, stored: &BTreeSet<u64>) -> u64 {
    let Opened {
        mut store,
        journal,
        report,
        ..
    } = open(path);
    assert_eq!(report.quarantined, None);
    assert_eq!(report.damaged_segments, []);
    let reader = store.reader();
    let last = match reader.read(&Key::meta(1)).unwrap() {
        Some(found) => {
            let id = u64::from_be_bytes(*found.first_chunk().unwrap());
            assert_eq!(found, meta(id));
            id
        }
        None => 0,
    };
    assert!(stored.last().is_none_or(|id| *id <= last), "{last}");
    // Batches follow each other without a gap, each whole.
    for id in 1..=last {
        let [first, second, _] = <[_; 3]>::try_from(records(id)).unwrap();
        assert_eq!(reader.read(&first.0).unwrap(), Some(first.1), "batch {id}");
        let removed = (id + 5).is_multiple_of(10) && id + 5 <= last && id > 0;
        let found = reader.read(&second.0).unwrap();
        assert_eq!(found, (!removed).then_some(second.1), "batch {id}");
    }
    for id in [last + 1, last + 2] {
        assert!(!reader.contains(&change_key(2 * id)).unwrap());
        assert!(!reader.contains(&change_key(2 * id + 1)).unwrap());
    }
    let kept: BTreeSet<_> = journal.iter().map(|entry| entry.through.0).collect();
    for id in journaled {
        let is_released = *id + RELEASED_BEHIND <= last;
        assert!(kept.contains(id) || is_released, "journal entry {id}");
    }
    for found in &journal {
        assert_eq!(*found, entry(found.through.0, 300));
    }
    // Write again what only the journal holds, as the engine would.
    let through = kept.last().copied().unwrap_or(last).max(last);
    for id in last + 1..=through {
        store.apply(&killed_batch(id, id == last + 1)).unwrap();
    }
    store.close().unwrap();
    through
}

/// Run by the test above in a process of its own; prints what was acknowledged, until it is killed.
#[test]
fn child_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var(CHILD_DIR) else {
        return;
    };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let (sender, completions) = std::sync::mpsc::channel();
    let writer = Writer::spawn(open(dir.as_ref()).store, move |completion| {
        let line = match &completion {
            Completion::Journaled(id) => format!("journaled {id} !\n"),
            Completion::Stored(id) => format!("stored {id} !\n"),
            other => format!("failed {other:?}\n"),
        };
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(line.as_bytes()).unwrap();
        stdout.flush().unwrap();
        sender.send(completion).unwrap();
    })
    .unwrap();
    // As many on their way as three groups hold.
    let mut waiting = 0;
    for id in first.. {
        let submitted = writer.submit(killed_batch(id, id == first));
        assert!(!matches!(submitted, Err(SubmitError::Full(_))));
        submitted.unwrap();
        waiting += 1;
        while waiting > 200 {
            if let Completion::Stored(stored) = completions.recv().unwrap() {
                waiting -= 1;
                let through = stored.0.saturating_sub(RELEASED_BEHIND);
                writer.release(JournalReleases::from([(
                    WORKSPACE,
                    (EPOCH, FeedSeq(through)).into(),
                )]));
            }
        }
    }
}
