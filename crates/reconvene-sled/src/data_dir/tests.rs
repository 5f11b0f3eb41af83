//! Tests of the directory, its lock and its format.

use std::process::id;

use super::*;
use crate::testing::{CHILD_DIR, child};

#[test]
fn a_new_directory_is_private_and_marked() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("deep/er/data");
    let data_dir = open_data_dir(&path).unwrap();
    assert_eq!(data_dir.path(), path);
    let format = fs::read_to_string(path.join("format")).unwrap();
    assert_eq!(format, "reconvene 1\nreconvene 1\nreconvene 1\n");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}

#[test]
fn a_second_hold_in_this_process_names_the_first() {
    let temporary = tempfile::tempdir().unwrap();
    let first = open_data_dir(temporary.path()).unwrap();
    let clone = first.clone();
    drop(first);
    let error = open_data_dir(temporary.path()).unwrap_err();
    let OpenError::Locked { pid, ref path } = error else {
        panic!("unexpected {error:?}");
    };
    assert_eq!((pid, path.as_path()), (Some(id()), temporary.path()));
    assert!(error.to_string().ends_with(&format!("by process {}", id())));
    drop(clone);
    open_data_dir(temporary.path()).unwrap();
}

#[test]
fn another_process_is_told_who_holds_the_directory() {
    let temporary = tempfile::tempdir().unwrap();
    let held = open_data_dir(temporary.path()).unwrap();
    let run = || {
        let output = child("data_dir::tests::child_opens", temporary.path()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let locked = run();
    assert!(
        locked.contains(&format!("locked by {}\n", id())),
        "{locked}"
    );
    drop(held);
    let free = run();
    assert!(free.contains("opened\n"), "{free}");
}

/// Run by the test above in a process of its own.
#[test]
fn child_opens() {
    let Ok(dir) = std::env::var(CHILD_DIR) else {
        return;
    };
    match open_data_dir(dir) {
        Ok(_) => println!("\nopened"),
        Err(OpenError::Locked { pid: Some(pid), .. }) => println!("\nlocked by {pid}"),
        Err(error) => println!("\nunexpected {error:?}"),
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let format = temporary.path().join("format");
    fs::write(&format, "reconvene 7\n").unwrap();
    let error = open_data_dir(temporary.path()).unwrap_err();
    let OpenError::NewerVersion { found, supported } = error else {
        panic!("unexpected {error:?}");
    };
    assert_eq!((found, supported), (7, 1));
    assert_eq!(fs::read_to_string(&format).unwrap(), "reconvene 7\n");
    assert!(!temporary.path().join("journal").exists());
}

#[test]
fn a_format_that_lost_a_bit_or_its_end_is_made_whole_or_called_damaged() {
    let temporary = tempfile::tempdir().unwrap();
    drop(open_data_dir(temporary.path()).unwrap());
    let path = temporary.path().join("format");
    let whole = fs::read(&path).unwrap();
    for bit in 0..8 * whole.len() {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, flipped).unwrap();
        drop(open_data_dir(temporary.path()).unwrap());
        assert_eq!(fs::read(&path).unwrap(), whole, "bit {bit}");
    }
    let copy = temporary.path().join("format.copy");
    for length in 0..whole.len() {
        for damaged in [&path, &copy] {
            fs::write(damaged, &whole[..length]).unwrap();
            drop(open_data_dir(temporary.path()).unwrap());
            assert_eq!(fs::read(damaged).unwrap(), whole, "{length}");
        }
    }
    fs::write(&path, "recon").unwrap();
    fs::write(&copy, "").unwrap();
    let error = open_data_dir(temporary.path()).unwrap_err();
    assert!(matches!(error, OpenError::Format { .. }), "{error:?}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    // As it was written once.
    fs::write(&path, "reconvene 1\n").unwrap();
    drop(open_data_dir(temporary.path()).unwrap());
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn foreign_places_are_not_touched() {
    let temporary = tempfile::tempdir().unwrap();
    let is_foreign = |path: &Path| {
        let error = open_data_dir(path).unwrap_err();
        assert!(matches!(error, OpenError::NotAStore { .. }), "{error:?}");
    };

    let photos = temporary.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("holiday.jpg"), "..").unwrap();
    is_foreign(&photos);
    assert_eq!(names_in(&photos).unwrap(), ["holiday.jpg"]);

    is_foreign(&photos.join("holiday.jpg"));

    let other_format = temporary.path().join("other");
    fs::create_dir(&other_format).unwrap();
    for text in [&b"something else"[..], b"", b"reconvene -1\n", b"\xff\xfe"] {
        fs::write(other_format.join("format"), text).unwrap();
        is_foreign(&other_format);
    }
}

#[test]
fn neighbours_that_came_first_do_not_make_a_directory_foreign() {
    let temporary = tempfile::tempdir().unwrap();
    fs::write(temporary.path().join("identity.key"), "k").unwrap();
    fs::write(temporary.path().join("notes.txt"), "n").unwrap();
    open_data_dir(temporary.path()).unwrap();
    open_data_dir(temporary.path()).unwrap();
}

#[test]
fn an_interrupted_first_open_is_finished() {
    let temporary = tempfile::tempdir().unwrap();
    fs::write(temporary.path().join("lock"), "").unwrap();
    fs::write(temporary.path().join("format.tmp"), "recon").unwrap();
    open_data_dir(temporary.path()).unwrap();
    let format = fs::read_to_string(temporary.path().join("format")).unwrap();
    assert_eq!(format, "reconvene 1\nreconvene 1\nreconvene 1\n");
}

#[test]
fn what_the_system_refuses_is_told_apart() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open_data_dir(file.join("data")).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");

    let map = |kind: io::ErrorKind| OpenError::io(&file, kind.into());
    let denied = map(io::ErrorKind::PermissionDenied);
    assert!(matches!(denied, OpenError::Permission { .. }));
    let read_only = map(io::ErrorKind::ReadOnlyFilesystem);
    assert!(matches!(read_only, OpenError::Permission { .. }));
    let full = map(io::ErrorKind::StorageFull);
    assert!(matches!(full, OpenError::NoSpace { .. }));
    let other = map(io::ErrorKind::TimedOut);
    assert!(matches!(other, OpenError::Io { .. }));
    assert!(std::error::Error::source(&other).is_some());
}

#[test]
fn disk_use_is_told_by_kind() {
    let temporary = tempfile::tempdir().unwrap();
    let data_dir = open_data_dir(temporary.path()).unwrap();
    assert_eq!(disk_bytes(&data_dir).unwrap(), DiskUse::default());
    fs::create_dir_all(temporary.path().join("sled/blobs")).unwrap();
    fs::write(temporary.path().join("sled/blobs/1"), [0; 10]).unwrap();
    fs::write(temporary.path().join("sled/db"), [0; 5]).unwrap();
    fs::write(temporary.path().join("journal/1.log"), [0; 3]).unwrap();
    fs::write(temporary.path().join("quarantine/x"), [0; 2]).unwrap();
    let expected = DiskUse {
        sled: 15,
        journal: 3,
        quarantine: 2,
    };
    assert_eq!(disk_bytes(&data_dir).unwrap(), expected);
}
