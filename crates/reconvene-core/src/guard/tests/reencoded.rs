//! A change that passes is the one Automerge would write: nothing it writes is refused, and nothing
//! that passes is written otherwise.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::{ActorId, Automerge, Change, ReadDoc, TextEncoding};
use proptest::prelude::{ProptestConfig, any, proptest};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{below, data_of, real_changes, seal};
use crate::guard::parse_change;
use crate::guard::pieces::Pieces;

/// What Automerge writes for a change when given only its operations.
fn encoded_again(body: &[u8]) -> Vec<u8> {
    #[expect(clippy::disallowed_methods, reason = "the change passed the guard")]
    let change = Change::from_bytes(body.to_vec()).unwrap();
    Change::from(change.decode()).raw_bytes().to_vec()
}

#[test]
fn what_automerge_writes_passes_and_is_written_alike() {
    for seed in 100..108 {
        let mut max_ops = BTreeMap::new();
        for change in real_changes(seed) {
            let header = parse_change(change.raw_bytes()).unwrap();
            // What the engine asks of it.
            let least = header.dependencies.iter().map(|hash| max_ops[hash]).max();
            assert_eq!(header.start_op, least.unwrap_or(0) + 1);
            max_ops.insert(header.hash, header.max_op());
            assert_eq!(encoded_again(change.raw_bytes()), change.raw_bytes());
            let data = data_of(change.raw_bytes());
            assert_eq!(Pieces::cut(&data).unwrap().data(), data);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_of_automerge_pass(seed in any::<u64>()) {
        for mut change in real_changes(seed) {
            parse_change(change.bytes().as_ref()).unwrap();
        }
    }
}

/// What becomes of a change in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// The document keeps it, saves, loads, and writes the same bytes.
    Kept,
    /// Automerge refused or panicked when it was applied.
    NotApplied,
    /// The document does not save, or not in a way that loads.
    NotLoaded,
    /// The document has another change in its place.
    Other,
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is about what becomes of changes in documents; the model cannot be used here"
)]
pub(super) fn fate(ancestors: &[Change], body: &[u8]) -> Fate {
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let mut document = Automerge::new_with_encoding(TextEncoding::Utf16CodeUnit)
            .with_actor(ActorId::from([0xff; 16]));
        document.apply_changes(ancestors.iter().cloned()).unwrap();
        let change = Change::from_bytes(body.to_vec()).unwrap();
        let hash = change.hash();
        if document.apply_changes([change]).is_err() || !document.get_heads().contains(&hash) {
            return Fate::NotApplied;
        }
        let saved = catch_unwind(AssertUnwindSafe(|| {
            let again = document.get_change_by_hash(&hash).unwrap();
            (
                again.raw_bytes().to_vec(),
                Automerge::load(&document.save()).ok(),
            )
        }));
        match saved {
            Ok((_, Some(loaded))) if loaded.get_heads() != document.get_heads() => Fate::Other,
            Ok((again, Some(_))) if again == body => Fate::Kept,
            Ok((_, Some(_))) => Fate::Other,
            Ok((_, None)) | Err(_) => Fate::NotLoaded,
        }
    }));
    attempt.unwrap_or(Fate::NotApplied)
}

#[test]
fn altered_changes_are_refused_or_are_written_as_they_stand() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let mut fates: BTreeMap<Fate, u32> = BTreeMap::new();
    let mut refused = 0;
    for seed in 200..206 {
        let changes = real_changes(seed);
        for round in 0..2_000 {
            let at = below(&mut rng, changes.len());
            let mut pieces = Pieces::cut(&data_of(changes[at].raw_bytes())).unwrap();
            for _ in 0..1 + round % 2 {
                pieces.mutate(&mut |bound| below(&mut rng, bound));
            }
            let body = seal(&pieces.data());
            if body == changes[at].raw_bytes() {
                continue;
            }
            if parse_change(&body).is_err() {
                refused += 1;
                continue;
            }
            assert_eq!(encoded_again(&body), body);
            // Everything listed before is an ancestor or concurrent.
            let fate = fate(&changes[..at], &body);
            *fates.entry(fate).or_default() += 1;
        }
    }
    // What does not load names operations that are not there: nobody sees it without the document.
    assert!(!fates.contains_key(&Fate::Other), "{fates:?}");
    assert!(
        fates[&Fate::Kept] > 200 && refused > 5_000,
        "{refused}, {fates:?}"
    );
}
