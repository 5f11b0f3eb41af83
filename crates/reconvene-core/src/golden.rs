//! Golden vectors: what version 1 wrote, committed under `schema/golden/v1` as readable JSON.
//!
//! Tests compare what this version writes with the committed bytes and decode those. Nothing is
//! written unless `RECONVENE_WRITE_GOLDEN` is set, which is for the one time when vectors are added:
//! a committed vector of a released version never changes. `reconvene-sled` compiles this file, too.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

/// One value and its bytes.
pub(crate) struct Vector {
    /// What it is.
    pub(crate) name: String,
    /// The value, for people; compared as text.
    pub(crate) value: String,
    /// What this version writes.
    pub(crate) bytes: Vec<u8>,
}

/// Compares vectors with the committed file, and returns the committed bytes in their order.
pub(crate) fn check(file: &str, about: &str, vectors: &[Vector]) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../schema/golden/v1")
        .join(file);
    if std::env::var_os("RECONVENE_WRITE_GOLDEN").is_some() {
        let list: Vec<Value> = vectors
            .iter()
            .map(|vector| {
                json!({
                    "name": vector.name,
                    "value": vector.value,
                    "bytes": hex(&vector.bytes),
                })
            })
            .collect();
        let content = json!({ "about": about, "vectors": list });
        let text = serde_json::to_string_pretty(&content).unwrap() + "\n";
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let content: Value = serde_json::from_str(&text).unwrap();
    let committed = content["vectors"].as_array().unwrap();
    let names = |name: &Value| name["name"].as_str().unwrap().to_owned();
    let expected: Vec<_> = vectors.iter().map(|vector| vector.name.clone()).collect();
    assert_eq!(
        committed.iter().map(names).collect::<Vec<_>>(),
        expected,
        "the vectors in {file}"
    );
    for (vector, committed) in vectors.iter().zip(committed) {
        let name = &vector.name;
        assert_eq!(committed["value"], vector.value, "value of {name}, {file}");
        let written = hex(&vector.bytes);
        assert_eq!(committed["bytes"], written, "bytes of {name}, {file}");
    }
    let bytes = |vector: &Value| unhex(vector["bytes"].as_str().unwrap());
    committed.iter().map(bytes).collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "hex digits come in pairs");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
