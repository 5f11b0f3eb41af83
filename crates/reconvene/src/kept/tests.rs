//! A small file that is damaged comes back from its copy, and a damaged copy from the file.

use std::fs;

use super::{load, replace};
use crate::profile::{is_sealed, seal};

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
