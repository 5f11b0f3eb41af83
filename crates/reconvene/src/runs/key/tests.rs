//! A run is known again under its key, and the key is kept.

use super::{FILE, RunKey};
use reconvene_core::time::WallTime;
use reconvene_model::RunId;

#[test]
fn ids_of_runs_are_coded_the_same_for_ever() {
    // HMAC-SHA256 as others compute it.
    let run: RunId = "018bcfe5680001020304d3366bad39d5".parse().unwrap();
    assert!(RunKey([7; 32]).issued(run));
}

#[test]
fn a_run_is_known_again_under_its_key_and_no_other_is() {
    let dir = tempfile::tempdir().unwrap();
    let key = RunKey::load_or_create(dir.path()).unwrap();
    let now = WallTime::from_millis(1_700_000_000_000);
    let run = key.mint(now).unwrap();
    let again = RunKey::load_or_create(dir.path()).unwrap();
    assert!(again.issued(run));
    for place in 0..16 {
        let mut bytes = *run.as_bytes();
        bytes[place] ^= 1;
        assert!(!again.issued(RunId::from_bytes(bytes)), "{place}");
    }
    assert_ne!(key.mint(now).unwrap(), run);
    let other = tempfile::tempdir().unwrap();
    assert!(!RunKey::load_or_create(other.path()).unwrap().issued(run));
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let file = std::fs::metadata(dir.path().join(FILE)).unwrap();
        assert_eq!(file.mode() & 0o777, 0o600);
    }
    let path = dir.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    for bit in 0..8 * whole.len() {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, flipped).unwrap();
        assert!(RunKey::load_or_create(dir.path()).unwrap().issued(run));
        assert_eq!(std::fs::read(&path).unwrap(), whole, "{bit}");
    }
    // As it was written once.
    std::fs::write(&path, &whole[..32]).unwrap();
    assert!(RunKey::load_or_create(dir.path()).unwrap().issued(run));
    std::fs::write(&path, b"short").unwrap();
    std::fs::remove_file(dir.path().join(format!("{FILE}.copy"))).unwrap();
    assert!(RunKey::load_or_create(dir.path()).is_err());
}
