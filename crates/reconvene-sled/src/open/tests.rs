//! Tests of the guarded open: leftovers, garbage, lost directories, and who may open.

use reconvene_core::storage::{StoreRead, StoreWrite};

use super::*;
use crate::open_data_dir;
use crate::testing::{change_key, entry, open, put, value};

/// A data directory whose sled holds `count` records and whose journal holds two entries.
fn filled(count: u64) -> tempfile::TempDir {
    let temporary = tempfile::tempdir().unwrap();
    let opened = open(temporary.path());
    assert!(opened.report.is_new && opened.journal.is_empty());
    let mut store = opened.store;
    store.journal(&[&entry(1, 100), &entry(2, 200)]).unwrap();
    for number in 0..count {
        put(&mut store, vec![(change_key(number), value(number, 500))]);
        if number == count / 2 {
            // sled writes a snapshot when it opens what is not new.
            store.close().unwrap();
            store = open(temporary.path()).store;
        }
    }
    store.close().unwrap();
    temporary
}

fn assert_journal(opened: &Opened) {
    assert_eq!(opened.journal, [entry(1, 100), entry(2, 200)]);
}

#[test]
fn an_uneventful_open_reports_nothing() {
    let temporary = filled(10);
    let opened = open(temporary.path());
    assert_eq!(opened.report, OpenReport::default());
    assert_journal(&opened);
}

#[test]
fn an_unfinished_snapshot_does_not_keep_the_store_shut() {
    let temporary = filled(100);
    let leftover = temporary
        .path()
        .join("sled/snap.00000000FFFFFFFF.generating");
    fs::write(&leftover, "half a snapshot").unwrap();
    let opened = open(temporary.path());
    assert_eq!(opened.report.leftovers_removed, 1);
    assert_eq!(opened.report.quarantined, None);
    assert!(!leftover.exists());
    let last = opened.store.reader().read(&change_key(99)).unwrap();
    assert_eq!(last, Some(value(99, 500)));
}

/// Checks that an open sets sled's directory aside, whole, and begins a new one that works.
fn check_set_aside(temporary: &Path, damage: impl FnOnce(&Path)) {
    let sled = temporary.join("sled");
    damage(&sled);
    let before = names_in(&sled).unwrap_or_default();
    let opened = open(temporary);
    let quarantined = opened.report.quarantined.as_ref().unwrap();
    assert!(opened.report.is_new);
    assert!(!quarantined.reason.is_empty());
    assert_eq!(
        quarantined.moved_to.parent(),
        Some(&*temporary.join("quarantine"))
    );
    let moved = names_in(&quarantined.moved_to).unwrap_or_default();
    assert!(before.iter().all(|name| moved.contains(name)));
    assert_journal(&opened);

    let mut store = opened.store;
    assert_eq!(store.reader().read(&change_key(1)).unwrap(), None);
    put(&mut store, vec![(change_key(1), value(1, 10))]);
    store.close().unwrap();
    let again = open(temporary);
    assert_eq!(again.report, OpenReport::default());
    assert!(again.store.reader().contains(&change_key(1)).unwrap());
}

#[test]
fn a_directory_of_garbage_is_set_aside() {
    let temporary = filled(300);
    check_set_aside(temporary.path(), |sled| {
        for name in names_in(sled).unwrap() {
            let path = sled.join(name);
            if path.is_file() {
                let length = fs::metadata(&path).unwrap().len() as usize;
                fs::write(&path, value(3, length)).unwrap();
            }
        }
    });
    // A second time gets a name of its own.
    check_set_aside(temporary.path(), |sled| {
        fs::write(sled.join("conf"), value(4, 64)).unwrap();
    });
    let names = names_in(&temporary.path().join("quarantine")).unwrap();
    assert_eq!(names, ["sled-1", "sled-2"]);
}

#[test]
fn a_file_in_the_place_of_sled_is_set_aside() {
    let temporary = filled(3);
    check_set_aside(temporary.path(), |sled| {
        fs::remove_dir_all(sled).unwrap();
        fs::write(sled, "not a directory").unwrap();
    });
}

#[test]
fn the_journal_survives_the_loss_of_sled() {
    let temporary = filled(10);
    fs::remove_dir_all(temporary.path().join("sled")).unwrap();
    let opened = open(temporary.path());
    assert!(opened.report.is_new);
    assert_eq!(opened.report.quarantined, None);
    assert_journal(&opened);
    assert_eq!(opened.store.reader().read(&change_key(1)).unwrap(), None);
}

#[test]
fn no_damage_to_sled_s_files_escapes_or_shows_a_wrong_value() {
    let temporary = filled(300);
    let source = temporary.path().join("sled");
    let files: Vec<_> = names_in(&source)
        .unwrap()
        .into_iter()
        .filter(|name| source.join(name).is_file())
        .map(|name| (fs::read(source.join(&name)).unwrap(), name))
        .collect();
    let mut outcomes = [0; 4];
    for (round, step) in (0..40).zip(1_usize..) {
        let damaged = tempfile::tempdir().unwrap();
        drop(open_data_dir(damaged.path()).unwrap());
        fs::create_dir_all(damaged.path().join("sled/blobs")).unwrap();
        for (content, name) in &files {
            let mut content = content.clone();
            if name == "db" {
                let at = (step * 7919 * 13) % content.len();
                if round % 4 == 0 {
                    content.truncate(at);
                } else {
                    content[at] ^= 1 << (step % 8);
                }
            } else if name.starts_with("snap") && round % 4 == 3 {
                let at = (step * 31) % content.len();
                content[at] ^= 1 << (step % 8);
            }
            fs::write(damaged.path().join("sled").join(name), content).unwrap();
        }
        let opened = open(damaged.path());
        if opened.report.quarantined.is_some() {
            outcomes[0] += 1;
            continue;
        }
        let reader = opened.store.reader();
        for number in 0..300 {
            match reader.read(&change_key(number)) {
                Ok(Some(found)) => {
                    assert_eq!(found, value(number, 500));
                    outcomes[1] += 1;
                }
                Ok(None) => outcomes[2] += 1,
                Err(_) => outcomes[3] += 1,
            }
        }
    }
    println!("set aside, read, missing, refused: {outcomes:?}");
    assert!(outcomes[0] > 0 && outcomes[1] > 0, "{outcomes:?}");
}

#[test]
fn a_store_is_opened_once_at_a_time() {
    let temporary = tempfile::tempdir().unwrap();
    let data_dir = open_data_dir(temporary.path()).unwrap();
    let opened = open_store(&data_dir).unwrap();
    let error = open_store(&data_dir).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    let reader = opened.store.reader();
    opened.store.close().unwrap();
    let again = open_store(&data_dir).unwrap();
    drop(again);
    drop(data_dir);
    open(temporary.path());
    drop(reader);
}

#[test]
fn only_errors_about_content_condemn_a_directory() {
    let condemns =
        |error: sled::Error| matches!(fault(Path::new("x"), error), SledFault::Damaged(_));
    let io = |kind: io::ErrorKind| sled::Error::Io(kind.into());
    assert!(condemns(sled::Error::ReportableBug("bug".to_owned())));
    assert!(condemns(sled::Error::Unsupported("version".to_owned())));
    assert!(condemns(io(io::ErrorKind::UnexpectedEof)));
    for kind in [
        io::ErrorKind::StorageFull,
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::Other,
        io::ErrorKind::NotFound,
    ] {
        assert!(!condemns(io(kind)), "{kind}");
    }
}
