//! A small file that is damaged comes back from its copy, and a damaged copy from the file.

use std::fs;

use sha2::{Digest as _, Sha256};

use super::{load, replace};
use crate::profile::{is_sealed, read_file, seal};

#[test]
fn whichever_bit_of_a_file_or_its_copy_is_flipped_it_reads_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("quarantine")).unwrap();
    let path = dir.path().join("file.json");
    assert_eq!(load(&path, is_sealed).unwrap(), None);
    let said = serde_json::json!({ "name": "Ada", "listen": ["/ip4/127.0.0.1"], "version": 1 });
    let whole = seal(&said).unwrap();
    replace(&path, &whole).unwrap();
    let copy = dir.path().join("file.json.copy");
    for damaged in [&path, &copy] {
        for bit in 0..8 * whole.len() {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(damaged, &flipped).unwrap();
            let read = load(&path, is_sealed).unwrap().unwrap();
            // Space between its parts may be another, and a checksum that no more is called so is
            // as if there were none.
            let mut value: serde_json::Value = serde_json::from_slice(&read).unwrap();
            value
                .as_object_mut()
                .unwrap()
                .retain(|name, _| said.get(name).is_some());
            assert_eq!(value, said, "bit {bit} of {}", damaged.display());
            replace(&path, &whole).unwrap();
        }
    }
    // Of both nothing is made up.
    fs::write(&path, "{").unwrap();
    fs::write(&copy, "{").unwrap();
    assert_eq!(load(&path, is_sealed).unwrap().unwrap(), b"{");
}

#[test]
fn a_file_of_before_there_were_checksums_is_given_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.json");
    let said = serde_json::json!({ "name": "Ada", "version": 1 });
    fs::write(&path, serde_json::to_vec_pretty(&said).unwrap()).unwrap();
    let read: serde_json::Value = read_file(&path).unwrap().unwrap();
    assert_eq!(read, said);
    let sealed = seal(&said).unwrap();
    assert_eq!(fs::read(&path).unwrap(), sealed);
    assert_eq!(fs::read(dir.path().join("file.json.copy")).unwrap(), sealed);
    // It is of what is said, in order, and of nothing that depends on the build.
    let sealed: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
    let digest = Sha256::digest(r#"{"name":"Ada","version":1}"#);
    let expected: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(sealed["checksum"], expected);
}

#[test]
fn what_a_damaged_file_held_is_kept_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.json");
    let whole = seal(&serde_json::json!({ "name": "Ada" })).unwrap();
    replace(&path, &whole).unwrap();
    for damaged in ["first", "second"] {
        fs::write(&path, damaged).unwrap();
        assert_eq!(load(&path, is_sealed).unwrap().unwrap(), whole);
    }
    for (number, held) in ["first", "second"].iter().enumerate() {
        let kept = dir.path().join(format!("quarantine/file.json.{number}"));
        assert_eq!(fs::read_to_string(kept).unwrap(), *held);
    }
}
