//! Tests of the mapping of panics and errors.

use super::*;

#[test]
fn a_panic_comes_back_as_its_message() {
    assert_eq!(contained(|| 3), Ok(3));
    let literal = contained(|| -> () { panic!("a literal") });
    assert_eq!(literal, Err("a literal".to_owned()));
    let formatted = contained(|| -> () { panic!("number {}", 4) });
    assert_eq!(formatted, Err("number 4".to_owned()));
}

#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
        assert_eq!(io_error(&kind.into()), StoreError::NoSpace);
        let nested = sled::Error::Io(io::Error::new(kind, "as sled clones it"));
        assert_eq!(sled_error(&nested, "x"), StoreError::NoSpace);
    }
    let other = io::Error::other("cable");
    let expected = StoreError::Io {
        what: "cable".to_owned(),
    };
    assert_eq!(io_error(&other), expected);
    let bug = sled::Error::ReportableBug("b".to_owned());
    assert!(matches!(sled_error(&bug, "x"), StoreError::Io { .. }));
}

#[cfg(unix)]
#[test]
fn the_system_s_numbers_are_mapped() {
    const ENOSPC: i32 = 28;
    let error = io::Error::from_raw_os_error(ENOSPC);
    assert_eq!(io_error(&error), StoreError::NoSpace);
}
