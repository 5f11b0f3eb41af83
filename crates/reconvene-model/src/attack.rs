//! An attack on what lets changes in: real histories with changes altered in their parts, given to
//! the guard and to an engine's graph, and what passes both to real documents.
//!
//! A change may be refused, or not fit its document in a way that is contained: an error, never a
//! panic, never another document on the next loading. Whatever a document takes, it can be saved,
//! loaded, edited, saved and loaded again, and what is written into it passes the guard.
//!
//! `RECONVENE_ATTACKS` says how many altered histories are tried, `RECONVENE_ATTACK_SEED` with which
//! they begin. One that harms a document is printed as bytes.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use histories::History;
use trial::Outcome;

mod histories;
mod kept;
mod mutations;
mod trial;

/// Numbers that follow from a seed (splitmix64).
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

fn parameter(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
        Err(_) => otherwise,
    }
}

/// Runs what may panic without a word about it on the terminal.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::thread_local!(static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    done.map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        text.or_else(|| {
            payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
        })
        .unwrap_or_default()
    })
}

#[test]
fn no_altered_change_harms_a_document_uncontained() {
    let attacks = parameter("RECONVENE_ATTACKS", 1_200);
    let first = parameter("RECONVENE_ATTACK_SEED", 1);
    let mut outcomes: BTreeMap<Outcome, u64> = BTreeMap::new();
    let mut escapes = Vec::new();
    let mut history = History::drawn(first);
    for number in first..first + attacks {
        if number % 100 == 0 {
            history = History::drawn(number);
        }
        let mut dice = Dice(number);
        let attack = mutations::altered(&history, &mut dice);
        let tried = quietly(|| trial::run(&history, &attack));
        let outcome = match tried {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(escape)) | Err(escape) => {
                let bodies = attack.bodies.iter().map(|body| hex(body));
                let bodies = bodies.collect::<Vec<_>>().join("\n  ");
                escapes.push(format!("{number}, {}: {escape}\n  {bodies}", attack.what));
                Outcome::Escaped
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{attacks} altered histories from seed {first}: {outcomes:?}");
    assert!(escapes.is_empty(), "{}", escapes.join("\n"));
    // Otherwise nothing was attacked, or more gets through than is known to.
    let of = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
    assert!(of(Outcome::Taken) > attacks / 20, "{outcomes:?}");
    assert!(of(Outcome::RefusedByGuard) > attacks / 20, "{outcomes:?}");
    assert!(of(Outcome::RefusedByGraph) > attacks / 50, "{outcomes:?}");
    assert!(of(Outcome::SetAside) > attacks / 50, "{outcomes:?}");
    assert!(of(Outcome::Unsettled) <= 1 + attacks / 50, "{outcomes:?}");
    assert!(of(Outcome::Crowded) <= 1 + attacks / 1_000, "{outcomes:?}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
