//! The metrics are what their documentation says, and their number has a bound.

use std::collections::BTreeSet;

use reconvene::{OpenOptions, Status};

use super::text;
use crate::counts::Numbers;
use crate::limits::SERIES_MAX;

fn status() -> Status {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let replica = OpenOptions::new(directory.path()).open().await.unwrap();
        let status = replica.status().await.unwrap();
        replica.close().await.unwrap();
        status
    })
}

#[test]
fn the_documentation_lists_what_is_told() {
    let told = text(status(), Vec::new(), Numbers::default()).unwrap();
    let told: BTreeSet<_> = told
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .collect();
    let documented = include_str!("../../../../schema/metrics.md");
    let documented: BTreeSet<_> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `reconvene_"))
        .filter_map(|line| line.split_once(" | "))
        .filter_map(|(name, rest)| Some((name.trim_end_matches('`'), rest.split_once(" |")?.0)))
        .collect();
    let told: BTreeSet<_> = told
        .into_iter()
        .map(|(name, kind)| (name.trim_start_matches("reconvene_"), kind))
        .collect();
    assert_eq!(told, documented);
}

#[test]
fn a_metric_has_no_more_series_than_its_bound_and_says_how_many_are_missing() {
    let mut status = status();
    let one = status.workspaces[0].clone();
    status.workspaces = vec![one; SERIES_MAX + 3];
    let told = text(status, Vec::new(), Numbers::default()).unwrap();
    let count = |name: &str| told.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(count("reconvene_documents{"), SERIES_MAX);
    // Of `documents`; a workspace without a feed has no other series.
    assert_eq!(count("reconvene_feed_head{"), 0);
    assert!(
        told.lines()
            .any(|line| line == "reconvene_series_omitted 3"),
        "{told}"
    );
}
