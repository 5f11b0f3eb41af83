//! Attacks that did harm once, as the bytes that were sent.

use reconvene_core::guard::parse_change;

use super::trial::graph_of;
use crate::snapshot::{SnapshotError, snapshot};
use crate::{MEETING, MaterialiseCounter, Purpose, TRANSCRIPT, WORKSPACE, materialise};

/// What an engine takes of these changes.
fn taken(hex: &str) -> (reconvene_core::ids::DocumentKind, Vec<Vec<u8>>) {
    let bodies = hex.lines().map(|line| {
        let digits = line.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.map(|pair| byte(pair).unwrap()).collect::<Vec<_>>()
    });
    let bodies: Vec<_> = bodies.collect();
    let of = |kind| {
        let mut graph = graph_of(kind);
        let mut taken = bodies.clone();
        taken.retain(|body| match parse_change(body) {
            Ok(header) => graph.take(&header) == Ok(true),
            Err(_) => false,
        });
        (kind, taken)
    };
    let kinds = [MEETING, TRANSCRIPT, WORKSPACE];
    kinds
        .map(of)
        .into_iter()
        .max_by_key(|(_, taken)| taken.len())
        .unwrap()
}

#[test]
fn what_would_show_something_else_is_not_compacted() {
    let (kind, taken) = taken(include_str!("shown_otherwise_once_compacted.hex"));
    assert!(taken.len() > 8);
    let chunks = || taken.iter().map(|body| &body[..]);
    let counter = MaterialiseCounter::new();
    let loaded = materialise(kind, chunks(), Purpose::Read, &counter).unwrap();
    assert_eq!(loaded.set_aside(), []);
    let made = snapshot(kind, chunks(), [], &counter);
    match made {
        Err(SnapshotError::Unsavable { what }) => assert!(what.contains("shows something else")),
        other => panic!("{other:?}"),
    }
}
