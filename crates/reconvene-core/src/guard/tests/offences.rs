//! Which refusals only a sender that does not keep the protocol causes.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Parts, bodies, document_chunk, parse_with, seal, seal_compressed};
use crate::guard::{GuardError, SnapshotGuardError, check_snapshot, parse_change};
use crate::limits::{
    CHANGE_BYTES_MAX, CHANGE_MESSAGE_BYTES_MAX, DEPENDENCIES_MAX, OFFENCE_FACTOR,
    OPERATION_COUNTER_MAX, OPERATIONS_PER_CHANGE_MAX,
};

fn with(change: impl FnOnce(&mut Parts)) -> GuardError {
    parse_with(change).unwrap_err()
}

/// So many operations that do nothing, by a column of actions alone.
fn operations(count: u64) -> GuardError {
    with(|parts| {
        let mut run = Vec::new();
        super::signed(&mut run, i64::try_from(count).unwrap());
        run.push(1);
        *parts.column(0x42) = run;
    })
}

fn wrong_in_any_version() -> Vec<GuardError> {
    let body = seal(&Parts::default().data());
    let mut rotten = body.clone();
    *rotten.last_mut().unwrap() ^= 1;
    let most = OPERATIONS_PER_CHANGE_MAX as u64;
    let parsed = |body: &[u8]| parse_change(body).unwrap_err();
    vec![
        parsed(&rotten),
        parsed(&body[..body.len() - 1]),
        parsed(b"no change at all"),
        parsed(&[&body[..], &[0]].concat()),
        parsed(&seal_compressed(&vec![0; 3 * 1024 * 1024])),
        parsed(&seal_compressed(&vec![0; 64 * 1024 * 1024])),
        operations(most * OFFENCE_FACTOR + 1),
        operations(1 << 40),
        with(|parts| parts.seq = 0),
        with(|parts| parts.start_op = 0),
        with(|parts| parts.start_op = u64::from(u32::MAX)),
        with(|parts| parts.dependencies.reverse()),
        with(|parts| parts.message = vec![0xff]),
        with(|parts| parts.other_actors[1] = vec![5; 16]),
        with(|parts| *parts.column(0x71) = vec![0x7e, 1, 9]),
        with(|parts| parts.column(0x34).push(1)),
        with(|parts| *parts.column(0x42) = vec![0x7f, 6]),
    ]
}

fn taken_perhaps_by_another_version() -> Vec<GuardError> {
    let most = OPERATIONS_PER_CHANGE_MAX as u64;
    let parsed = |body: &[u8]| parse_change(body).unwrap_err();
    let mut noise = vec![0; 64 * 1024];
    ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut noise);
    // Repeated with a period that deflating sees.
    let large: Vec<u8> = noise[..16 * 1024].repeat(300);
    let mut bundle = seal(&Parts::default().data());
    bundle[8] = 3;
    vec![
        parsed(&vec![0; CHANGE_BYTES_MAX + 1]),
        parsed(&seal_compressed(&large)),
        parsed(&bundle),
        operations(most + 1),
        operations(most * OFFENCE_FACTOR),
        with(|parts| parts.dependencies = vec![[1; 32]; DEPENDENCIES_MAX + 1]),
        with(|parts| parts.message = vec![b'm'; CHANGE_MESSAGE_BYTES_MAX + 1]),
        with(|parts| parts.start_op = OPERATION_COUNTER_MAX + 1),
        with(|parts| {
            parts.tail = vec![0, 1, b'a'];
            parts.seq = 2;
        }),
        with(|parts| *parts.column(0x42) = vec![0x7f, 8]),
        with(|parts| parts.columns.insert(5, (0x66, None, vec![0x7f, 1]))),
    ]
}

#[test]
fn what_every_version_refuses_is_an_offence_and_what_another_may_take_is_none() {
    for error in wrong_in_any_version() {
        assert!(error.is_offence(), "{error}");
    }
    for error in taken_perhaps_by_another_version() {
        assert!(!error.is_offence(), "{error}");
    }
    let mut snapshot = document_chunk(&[0, 0, 0]);
    assert!(!check_snapshot(&snapshot).unwrap_err().is_offence());
    *snapshot.last_mut().unwrap() ^= 1;
    let rotten = check_snapshot(&snapshot).unwrap_err();
    assert_eq!(rotten, SnapshotGuardError::Checksum);
    assert!(rotten.is_offence());
}

#[test]
fn a_change_that_rotted_on_its_way_is_an_offence() {
    for body in bodies(3) {
        for place in 0..body.len() {
            let mut rotten = body.clone();
            rotten[place] ^= 4;
            let hash = |body: &[u8]| parse_change(body).map(|header| header.hash);
            let Err(refused) = hash(&rotten) else {
                // What deflating leaves over at the end says nothing.
                assert_eq!(hash(&rotten), hash(&body));
                continue;
            };
            // The type is of another chunk then, perhaps of a later version.
            assert_eq!(refused.is_offence(), place != 8, "{place}: {refused}");
        }
    }
}
