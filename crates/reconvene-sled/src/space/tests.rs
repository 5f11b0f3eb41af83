//! Tests of the floor; a disk that is really full is met end to end.

use super::*;

#[test]
fn below_the_floor_is_refused_with_the_figures() {
    assert_eq!(check_free(FREE_BYTES_MIN), Ok(()));
    let refused = check_free(FREE_BYTES_MIN - 1).expect_err("below the floor");
    let text = refused.to_string();
    for part in ["67108863", "67108864", "free some space"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_is_free_is_known_here() {
    let dir = tempfile::tempdir().expect("a directory");
    assert!(free_bytes(dir.path()).expect("known") > 0);
    free_bytes(&dir.path().join("absent")).expect_err("there is no such directory");
}
