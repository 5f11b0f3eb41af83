//! Projects created apart all stay; two active ones are said to be two.

use reconvene_core::ids::MemberId;

use crate::testing::{NOW, Replica};
use crate::workspace::ActiveProject;
use crate::{EditError, ModelError, ProjectId, WORKSPACE};

const ADA: MemberId = MemberId::from_bytes([0xa; 16]);
const BEN: MemberId = MemberId::from_bytes([0xb; 16]);
const ONE: ProjectId = ProjectId::from_bytes([1; 16]);
const TWO: ProjectId = ProjectId::from_bytes([2; 16]);

#[test]
fn projects_and_the_active_one_merge() {
    let mut one = Replica::new(WORKSPACE, 1);
    let mut two = Replica::new(WORKSPACE, 2);
    one.edit(|editor| {
        let mut workspace = editor.workspace()?;
        workspace.set_name("Home")?;
        workspace.add_project(ONE, "One")?;
        workspace.set_active_project(&ADA, Some(ONE))
    });
    two.edit(|editor| {
        let mut workspace = editor.workspace()?;
        workspace.add_project(TWO, "Two")?;
        workspace.set_setting("theme", Some("dark"))?;
        workspace.set_active_project(&ADA, Some(TWO))
    });
    one.sync(&mut two);
    let read = one.document.workspace().unwrap();
    assert_eq!(read.name.as_deref(), Some("Home"));
    assert_eq!(read.projects.len(), 2);
    assert_eq!(read.settings["theme"], "dark");
    let candidates = vec![ONE, TWO];
    assert_eq!(
        *read.active_for(&ADA),
        ActiveProject::Ambiguous { candidates }
    );
    assert_eq!(read.conflicts[0].path, format!("active:{ADA}"));
    assert_eq!(*read.active_for(&BEN), ActiveProject::None);

    two.edit(|editor| {
        let mut workspace = editor.workspace()?;
        workspace.set_active_project(&ADA, Some(TWO))?;
        workspace.rename_project(ONE, "The first")?;
        workspace.set_setting("theme", None)?;
        workspace.archive_project(ONE, true)
    });
    one.sync(&mut two);
    let read = one.document.workspace().unwrap();
    assert_eq!(*read.active_for(&ADA), ActiveProject::One { project: TWO });
    assert_eq!(read.projects[&ONE].name, "The first");
    assert!(read.projects[&ONE].archived);
    assert!(read.settings.is_empty());
    assert_eq!(read.conflicts, vec![]);
}

#[test]
fn a_project_must_exist_to_be_active() {
    let mut one = Replica::new(WORKSPACE, 1);
    let refused = one.document.edit(&[1; 16], NOW, |editor| {
        editor.workspace()?.set_active_project(&ADA, Some(ONE))
    });
    assert!(matches!(
        refused,
        Err(EditError::Refused(ModelError::NotFound { .. }))
    ));
    let refused = one
        .document
        .edit(&[1; 16], NOW, |editor| editor.meeting()?.set_title("no"));
    assert!(matches!(
        refused,
        Err(EditError::Refused(ModelError::WrongKind { .. }))
    ));
}
