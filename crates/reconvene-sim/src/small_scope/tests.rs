//! A part of it, each time; the program plays all.

use reconvene_model::{ENTRY, MEETING, TRANSCRIPT};

use super::{Base, Counts, Scope, exhaust, pairs, triples, two_each};
use crate::edits::ModelEdit;

fn all_of(scope: &Scope) -> Counts {
    let firsts = 0..scope.edits.len();
    firsts.fold(Counts::default(), |counts, first| {
        counts.and(exhaust(scope, first))
    })
}

#[test]
fn every_pair_of_operations_merges_alike_in_every_order() {
    // Of meetings those that meet; of pages and entries all.
    let meets = |edit: &ModelEdit| {
        use ModelEdit as E;
        matches!(
            edit,
            E::AppendNote(_)
                | E::SetProject(_)
                | E::ReachState(_)
                | E::Delete
                | E::Restore
                | E::Settle(_)
        ) || edit.kind() != Some(MEETING) && edit.kind().is_some()
    };
    let mut counts = Counts::default();
    for mut scope in pairs() {
        scope.edits.retain(meets);
        let kinds = [MEETING, TRANSCRIPT, ENTRY];
        if scope.base != Base::Nothing && kinds.contains(&scope.kind) {
            counts = counts.and(all_of(&scope));
        }
    }
    assert!(counts.histories > 500, "{counts:?}");
    assert!(counts.deletions_outlived > 30, "{counts:?}");
    assert!(counts.conflicts > 50, "{counts:?}");
}

#[test]
fn every_scope_is_of_operations_of_its_kind() {
    for scope in pairs().iter().chain(&triples()).chain(&two_each()) {
        assert!(scope.edits.len() > 1);
        for edit in &scope.edits {
            assert!(edit.kind().is_none_or(|kind| kind == scope.kind));
        }
    }
}
