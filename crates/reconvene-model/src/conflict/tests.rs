//! What was before a conflict is told, and a choice settles it everywhere.

use serde_json::json;

use crate::testing::Replica;
use crate::{Conflict, MEETING, ModelError, ProjectId, WORKSPACE};

fn project(byte: u8) -> ProjectId {
    ProjectId::from_bytes([byte; 16])
}

/// Two meetings that were filed under different projects, and one of the conflicts.
fn filed_apart(before: Option<ProjectId>) -> (Replica, Replica, Conflict) {
    let mut one = Replica::new(MEETING, 1);
    let mut two = Replica::new(MEETING, 2);
    one.edit(|editor| editor.meeting()?.create("m", before));
    one.edit(|editor| editor.meeting()?.append_note("seen by both"));
    one.sync(&mut two);
    one.edit(|editor| editor.meeting()?.set_project(Some(project(1))));
    two.edit(|editor| editor.meeting()?.append_note("nothing to do with it"));
    two.edit(|editor| editor.meeting()?.set_project(Some(project(2))));
    one.sync(&mut two);
    let conflict = one.document.conflicts().unwrap().remove(0);
    assert_eq!(two.document.conflicts().unwrap()[0].id(), conflict.id());
    (one, two, conflict)
}

#[test]
fn what_was_before_a_conflict_is_told_and_never_guessed() {
    for before in [None, Some(project(3))] {
        let (one, two, conflict) = filed_apart(before);
        let expected = before.map_or(json!(null), |project| json!(project.to_string()));
        for replica in [&one, &two] {
            let base = replica.document.base_of(&conflict).unwrap();
            assert_eq!(base.as_ref(), Some(&expected));
            let base = replica.reloaded().base_of(&conflict).unwrap();
            assert_eq!(base.as_ref(), Some(&expected));
        }
        let mut unknown = conflict.clone();
        unknown.values[0].change = None;
        assert_eq!(one.document.base_of(&unknown).unwrap(), None);
    }
    // Nothing of a document of its own kind is asked.
    let (one, _, mut elsewhere) = filed_apart(None);
    elsewhere.path = "nowhere".to_owned();
    assert_eq!(one.document.base_of(&elsewhere).unwrap(), None);
}

#[test]
fn a_choice_settles_a_conflict_as_it_was_shown_and_no_other() {
    let (mut one, mut two, conflict) = filed_apart(None);
    for (choice, value) in conflict.values.clone().into_iter().enumerate() {
        let (mut one, mut two) = (one.clone(), two.clone());
        one.edit(|editor| editor.settle(&conflict, choice));
        one.sync(&mut two);
        let settled = two.document.meeting().unwrap();
        assert_eq!(settled.conflicts, []);
        assert_eq!(json!(settled.project.unwrap().to_string()), value.value);
        let again = one.document.edit(&[1; 16], crate::testing::NOW, |editor| {
            editor.settle(&conflict, choice)
        });
        assert!(again.is_err(), "it is settled");
    }
    // A third value that nobody was shown stays.
    let mut three = one.clone();
    three.edit(|editor| editor.meeting()?.set_project(None));
    two.edit(|editor| editor.meeting()?.set_project(Some(project(4))));
    one.sync(&mut two);
    one.sync(&mut three);
    let refused = one.document.edit(&[1; 16], crate::testing::NOW, |editor| {
        editor.settle(&conflict, 0)
    });
    assert!(
        matches!(
            &refused,
            Err(crate::EditError::Refused(ModelError::NotFound { .. }))
        ),
        "{refused:?}"
    );
    let now = one.document.conflicts().unwrap().remove(0);
    assert_ne!(now.id(), conflict.id());
    let many = one.document.edit(&[1; 16], crate::testing::NOW, |editor| {
        editor.settle(&now, now.values.len())
    });
    assert!(many.is_err(), "there is no such value");
}

#[test]
fn registers_of_entries_and_containers_are_settled_too() {
    let mut one = Replica::new(WORKSPACE, 1);
    let mut two = Replica::new(WORKSPACE, 2);
    one.edit(|editor| editor.workspace()?.add_project(project(1), "before"));
    one.sync(&mut two);
    for (replica, name) in [(&mut one, "one"), (&mut two, "two")] {
        replica.edit(|editor| {
            let mut workspace = editor.workspace()?;
            workspace.set_name(name)?;
            workspace.set_setting("a/b", Some(name))?;
            workspace.rename_project(project(1), name)
        });
    }
    one.sync(&mut two);
    let conflicts = one.document.conflicts().unwrap();
    let paths: Vec<_> = conflicts.iter().map(|of| of.path.as_str()).collect();
    let renamed = format!("projects/{}/name", project(1));
    assert_eq!(paths, ["name", renamed.as_str(), "settings/a/b"]);
    let bases = conflicts.iter().map(|of| one.document.base_of(of).unwrap());
    let bases: Vec<_> = bases.collect();
    assert_eq!(
        bases,
        [Some(json!(null)), Some(json!("before")), Some(json!(null))]
    );
    for conflict in &conflicts {
        one.edit(|editor| editor.settle(conflict, 1));
    }
    one.sync(&mut two);
    assert_eq!(two.document.conflicts().unwrap(), []);
    let shown = two.document.workspace().unwrap();
    assert_eq!(json!(shown.name), conflicts[0].values[1].value);
    assert_eq!(shown.settings["a/b"], conflicts[2].values[1].value);
    assert_eq!(
        json!(shown.projects[&project(1)].name),
        conflicts[1].values[1].value
    );
}

#[test]
fn a_choice_that_meets_another_is_a_conflict_with_it_whichever_value_was_shown() {
    let (one, two, conflict) = filed_apart(None);
    for choice in 0..conflict.values.len() {
        let (mut one, mut two) = (one.clone(), two.clone());
        one.edit(|editor| editor.settle(&conflict, choice));
        two.edit(|editor| editor.meeting()?.set_project(Some(project(9))));
        one.sync(&mut two);
        let conflicts = one.document.conflicts().unwrap();
        let values = conflicts[0].values.iter().map(|value| &value.value);
        let mut values: Vec<_> = values.map(|value| value.as_str().unwrap()).collect();
        values.sort_unstable();
        let chosen = conflict.values[choice].value.as_str().unwrap();
        assert_eq!(values, [chosen, &project(9).to_string()]);
    }
}
