//! Only a directory of this user that nobody else can enter holds a control socket.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::{PATH_BYTES_MAX, Places};
use crate::failure::Failure;

fn places(directory: &Path) -> Places {
    Places(vec![directory.to_owned()])
}

fn refusal(directory: &Path) -> Failure {
    let failure = places(directory)
        .listen("socket")
        .expect_err("must be refused");
    assert_eq!(failure.code, "runtime_dir");
    assert!(failure.hint.is_some());
    failure
}

#[tokio::test]
async fn the_directory_is_made_private() {
    let root = TempDir::new().expect("a directory");
    let directory = root.path().join("reconvene");
    let listener = places(&directory).listen("socket").expect("binds");
    let mode = fs::metadata(&directory)
        .expect("is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    drop(listener);
    assert!(
        !directory.join("socket").exists(),
        "a socket is left behind"
    );
}

#[tokio::test]
async fn a_directory_that_others_can_enter_is_refused() {
    let root = TempDir::new().expect("a directory");
    let directory = root.path().join("reconvene");
    fs::create_dir(&directory).expect("made");
    for mode in [0o755, 0o770, 0o701] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).expect("set");
        let failure = refusal(&directory);
        assert!(
            failure.message.contains("entered by other users"),
            "{}",
            failure.message
        );
        fs::write(directory.join("socket"), "").expect("written");
        let failure = places(&directory)
            .connect("socket")
            .await
            .expect_err("must be refused");
        assert_eq!(failure.code, "runtime_dir");
    }
}

#[tokio::test]
async fn links_and_files_are_no_directories() {
    let root = TempDir::new().expect("a directory");
    let (target, link) = (root.path().join("target"), root.path().join("link"));
    fs::create_dir(&target).expect("made");
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).expect("set");
    symlink(&target, &link).expect("linked");
    assert!(refusal(&link).message.contains("is not a directory"));
    let file = root.path().join("file");
    fs::write(&file, "").expect("written");
    assert!(refusal(&file).message.contains("is not a directory"));
}

#[tokio::test]
async fn a_place_that_does_not_serve_is_passed_over() {
    let root = TempDir::new().expect("a directory");
    let absent = root.path().join("absent/reconvene");
    let long = root.path().join("x".repeat(PATH_BYTES_MAX));
    let good = root.path().join("reconvene");
    let places = Places(vec![absent.clone(), long.clone(), good]);
    let _listener = places.listen("socket").expect("binds in the last place");
    assert!(places.connect("socket").await.expect("looks").is_some());

    let failure = Places(vec![absent, long])
        .listen("socket")
        .expect_err("nowhere to go");
    assert!(
        failure.message.contains("is not there"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.contains("too long a path"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn a_stale_socket_is_no_obstacle() {
    let root = TempDir::new().expect("a directory");
    let directory = root.path().join("reconvene");
    let listener = places(&directory).listen("socket").expect("binds");
    // As after a kill: the file stays, nobody listens.
    let abandoned = directory.join("abandoned");
    fs::hard_link(directory.join("socket"), &abandoned).expect("linked");
    drop(listener);
    fs::rename(&abandoned, directory.join("socket")).expect("renamed");

    assert!(
        places(&directory)
            .connect("socket")
            .await
            .expect("looks")
            .is_none()
    );
    let _listener = places(&directory).listen("socket").expect("binds again");
    assert!(
        places(&directory)
            .connect("socket")
            .await
            .expect("looks")
            .is_some()
    );
}
