//! Every parser of foreign bytes as a fuzz target: given its corpus, noise, and altered forms of its
//! corpus as tests, and whatever leads on when fuzzed by coverage.
//!
//! What is checked of the bytes stands beside what parses them (`reconvene_core::fuzz`,
//! `reconvene_sled::fuzz`) and in `importers` here. The corpus of a target lies in
//! `__fuzz__/NAME/corpus`; a file added there is tried from then on.

use std::path::{Path, PathBuf};

use proptest::prelude::{any, prop};
use proptest::test_runner::{Config, TestRunner};

mod importers;
mod shapes;

/// Names and functions of all targets, and a test of each.
macro_rules! targets {
    ($($name:ident: $run:path;)*) => {
        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $run)),*];

        $(
            #[test]
            fn $name() {
                bolero::check!()
                    .with_iterations(600 / cost(stringify!($name)))
                    .with_max_len(BYTES_MAX)
                    .for_each(|data: &[u8]| $run(data));
            }
        )*
    };
}

targets! {
    archive: reconvene_core::fuzz::archive;
    archive_pieces: reconvene_core::fuzz::archive_pieces;
    calendar: importers::calendar;
    change: reconvene_core::fuzz::change;
    change_data: reconvene_core::fuzz::change_data;
    change_deflated: reconvene_core::fuzz::change_deflated;
    frame: reconvene_core::fuzz::frame;
    journal_frames: reconvene_sled::fuzz::frames;
    journal_segment: reconvene_sled::fuzz::segment;
    key: reconvene_core::fuzz::key;
    liar: reconvene_sim::fuzz::liar;
    parts: reconvene_core::fuzz::parts;
    qmsum: importers::qmsum;
    reconcile: reconvene_core::fuzz::reconcile;
    record: reconvene_core::fuzz::record;
    record_parts: reconvene_sled::fuzz::parts;
    record_sealed: reconvene_sled::fuzz::sealed_parts;
    row: importers::row;
    shape: shapes::shape;
    snapshot: importers::snapshot;
    srt: importers::srt;
    ticket: reconvene_core::fuzz::ticket;
    ticket_message: reconvene_core::fuzz::ticket_message;
    vtt: importers::vtt;
}

/// Longest input of a target. A fuzzer may be given larger ones than are drawn as tests.
const BYTES_MAX: usize = match option_env!("BOLERO_FUZZER") {
    Some(_) => 1 << 20,
    None => 4096,
};

/// How many altered forms of its corpus each target is given; `RECONVENE_FUZZ_CASES` says another
/// number.
const CASES: u32 = 1_500;

/// How many times as long as others a target takes, for which it is given as many fewer inputs as tests.
fn cost(name: &str) -> usize {
    match name {
        "liar" | "shape" => 30,
        _ => 1,
    }
}

#[test]
fn no_target_fails_on_altered_corpora() {
    let cases = match std::env::var("RECONVENE_FUZZ_CASES") {
        Ok(cases) => cases.parse().expect("RECONVENE_FUZZ_CASES is a number"),
        Err(_) => CASES,
    };
    for (name, run) in TARGETS {
        let step = (any::<u8>(), any::<u32>(), any::<u8>());
        let corpus = corpus(name);
        let altered = (
            prop::sample::select(corpus),
            prop::collection::vec(step, 1..6),
        );
        let config = Config {
            failure_persistence: None,
            cases: cases / cost(name) as u32,
            ..Config::default()
        };
        let result = TestRunner::new(config).run(&altered, |(seed, steps)| {
            run(&alter(seed, &steps));
            Ok(())
        });
        assert!(result.is_ok(), "{name}: {result:?}");
    }
}

#[test]
fn every_corpus_is_of_a_target_and_small() {
    let mut bytes = 0;
    for (name, _) in TARGETS {
        let files = corpus(name);
        assert!(!files.is_empty(), "{name}");
        bytes += files.iter().map(Vec::len).sum::<usize>();
    }
    assert!(bytes < 300_000, "{bytes}");
    for directory in std::fs::read_dir(directory()).expect("the corpora are there") {
        let name = directory.expect("a corpus reads").file_name();
        let name = name.to_str().expect("targets have plain names");
        assert!(TARGETS.iter().any(|(known, _)| *known == name), "{name}");
    }
}

/// The files of a target's corpus, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(directory().join(name).join("corpus"));
    let files = files.expect("every target has a corpus");
    let paths = files.map(|file| file.expect("a corpus reads").path());
    let mut paths: Vec<PathBuf> = paths.collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).expect("a corpus reads"))
        .collect()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/__fuzz__")
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
