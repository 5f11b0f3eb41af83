//! Every target takes noise, and altered forms of what this version writes.

use std::path::Path;

use proptest::prelude::{ProptestConfig, any, prop, proptest};

use super::{parts, segment};
use crate::golden::unhex;
use crate::record;

fn segments() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema/golden/v1");
    let text = std::fs::read_to_string(path.join("journal-frames.json")).unwrap();
    let content: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vectors = content["vectors"].as_array().unwrap().iter();
    vectors
        .flat_map(|vector| unhex(vector["bytes"].as_str().unwrap()))
        .collect()
}

fn record_parts() -> Vec<u8> {
    let value = vec![7; 9_000];
    record::encode(b"key", &value)
        .flat_map(|(_, part)| [&(part.len() as u16).to_be_bytes()[..], &part].concat())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_target_fails_on_noise(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        segment(&noise);
        parts(&noise);
    }

    #[test]
    fn no_target_fails_on_altered_corpora(
        steps in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u8>()), 0..5),
    ) {
        for (target, mut bytes) in [(segment as fn(&[u8]), segments()), (parts, record_parts())] {
            for (kind, place, byte) in &steps {
                let at = *place as usize % (bytes.len() + 1);
                match kind % 4 {
                    0 if at < bytes.len() => bytes[at] ^= byte,
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at, *byte),
                    _ => {
                        let start = at.saturating_sub(usize::from(*byte));
                        let again = bytes[start..at].to_vec();
                        bytes.extend_from_slice(&again);
                    }
                }
            }
            target(&bytes);
        }
    }
}

#[test]
fn the_fuzz_package_has_every_target() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(path.join("Cargo.toml")).unwrap();
    for (name, call) in [("journal_segment", "segment"), ("record_parts", "parts")] {
        let file = format!("fuzz_targets/{name}.rs");
        assert!(manifest.contains(&file), "{name}");
        let code = std::fs::read_to_string(path.join(file)).unwrap();
        assert!(code.contains(&format!("reconvene_sled::fuzz::{call}(data)")));
    }
}
