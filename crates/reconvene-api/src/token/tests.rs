//! The token's file: made once, kept private, never guessed at.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::{Token, TokenError};

#[test]
fn a_token_is_made_once_and_only_for_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.token");
    let made = Token::load_or_create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), made.text);
    assert_eq!(made.text.len(), 64);
    assert!(Token::load_or_create(&path).unwrap() == made);
    let other = Token::load_or_create(&directory.path().join("other.token"));
    assert!(other.unwrap() != made);
    // Nothing else is left beside it, and it is not shown by accident.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    assert!(!format!("{made:?}").contains(&made.text));
}

#[test]
fn a_token_that_others_may_read_or_that_is_none_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.token");
    Token::load_or_create(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = Token::load_or_create(&path);
    assert!(matches!(
        refused,
        Err(TokenError::Exposed { mode: 0o640, .. })
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let long = "0".repeat(5000);
    for damaged in ["", "secret", &"g".repeat(64), &long] {
        fs::write(&path, damaged).unwrap();
        let refused = Token::load_or_create(&path);
        assert!(matches!(refused, Err(TokenError::Damaged { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    }
    fs::write(&path, [0xff; 64]).unwrap();
    let refused = Token::load_or_create(&path);
    assert!(matches!(refused, Err(TokenError::Damaged { .. })));
    let nowhere = directory.path().join("none").join("api.token");
    let refused = Token::load_or_create(&nowhere);
    assert!(matches!(refused, Err(TokenError::Write { .. })));
}
