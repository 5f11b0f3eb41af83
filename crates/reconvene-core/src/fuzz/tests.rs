//! Every target takes noise, and altered forms of what this version writes.

use std::path::Path;

use proptest::prelude::{ProptestConfig, any, prop, proptest};
use serde_json::Value;

use super::{TARGETS, Target, change_data};
use crate::golden::unhex;
use crate::guard::seeds;

/// The committed bytes of a golden file.
fn golden(file: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema/golden/v1");
    let text = std::fs::read_to_string(path.join(file)).unwrap();
    let content: Value = serde_json::from_str(&text).unwrap();
    let vectors = content["vectors"].as_array().unwrap().iter();
    vectors
        .map(|vector| unhex(vector["bytes"].as_str().unwrap()))
        .collect()
}

/// What a target is fed with before it is altered.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let prefixed = |prefixes: std::ops::Range<u8>, seeds: Vec<Vec<u8>>| {
        let with = |seed: &Vec<u8>| {
            prefixes
                .clone()
                .map(|prefix| [&[prefix], &seed[..]].concat())
                .collect::<Vec<_>>()
        };
        seeds.iter().flat_map(with).collect()
    };
    match target {
        "archive" => golden("archive.json"),
        "change" => seeds(1).into_iter().map(|(body, _)| body).collect(),
        "change_data" => seeds(2).into_iter().map(|(_, data)| data).collect(),
        "frame" => golden("frames.json"),
        "parts" => {
            let length = |body: &[u8]| (body.len() as u16).to_be_bytes();
            let frames = golden("frames.json");
            let one = |body: &Vec<u8>| [&length(body), &body[..]].concat();
            let all: Vec<_> = frames.iter().map(one).collect();
            vec![all.concat()]
        }
        "record" => prefixed(0..13, golden("records.json")),
        "ticket" => golden("ticket.json"),
        _ => panic!("{target} has no corpus"),
    }
}

/// Flips, cuts, repeats, inserts and splices, as numbers say.
fn alter(mut bytes: Vec<u8>, steps: &[(u8, u32, u8)]) -> Vec<u8> {
    for (kind, place, byte) in steps {
        let at = *place as usize % (bytes.len() + 1);
        match kind % 6 {
            0 if at < bytes.len() => bytes[at] = *byte,
            1 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
            2 => bytes.insert(at, *byte),
            3 if at < bytes.len() => {
                bytes.remove(at);
            }
            4 => bytes.truncate(at),
            5 => {
                let end = bytes.len().min(at + usize::from(*byte % 16));
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {}
        }
    }
    bytes
}

#[test]
fn every_target_takes_what_this_version_writes() {
    for target in TARGETS {
        let corpus = corpus(target.name);
        assert!(!corpus.is_empty());
        corpus.iter().for_each(|seed| (target.run)(seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn no_target_fails_on_noise(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        for target in TARGETS {
            (target.run)(&noise);
        }
    }
}

#[test]
fn no_target_fails_on_altered_corpora() {
    for Target { name, run } in TARGETS {
        let corpus = corpus(name);
        let step = (any::<u8>(), any::<u32>(), any::<u8>());
        let altered = (
            prop::sample::select(corpus),
            prop::collection::vec(step, 1..6),
        );
        let config = ProptestConfig {
            failure_persistence: None,
            cases: 3_000,
            ..ProptestConfig::default()
        };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let result = runner.run(&altered, |(seed, steps)| {
            run(&alter(seed, &steps));
            Ok(())
        });
        assert!(result.is_ok(), "{name}: {result:?}");
    }
    change_data(&[]);
}

#[test]
fn the_fuzz_package_has_every_target() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(path.join("Cargo.toml")).unwrap();
    for Target { name, .. } in TARGETS {
        let file = format!("fuzz_targets/{name}.rs");
        assert!(manifest.contains(&file), "{name}");
        let code = std::fs::read_to_string(path.join(file)).unwrap();
        assert!(code.contains(&format!("reconvene_core::fuzz::{name}(data)")));
    }
}
