//! Rows say what their documents say, and survive storage.

use super::{IndexRow, RowError, index_row, is_indexed};
use crate::testing::{NOW, Replica, document_id};
use crate::{MEETING, ProjectId, State, TRANSCRIPT, WORKSPACE};
use reconvene_core::ids::MemberId;

#[test]
fn a_meeting_has_a_row() {
    let mut one = Replica::new(MEETING, 1);
    let project = ProjectId::from_bytes([5; 16]);
    one.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.create("Planning", Some(project))?;
        meeting.add_tag("b")?;
        meeting.add_tag("a")?;
        meeting.add_participant("ada", "Ada")?;
        meeting.add_page(document_id(1), "recorder", 0)
    });
    one.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.reach_state(State::Stopped)?;
        meeting.set_error("cause")
    });
    let row = index_row(document_id(2), &one.document).unwrap().unwrap();
    let bytes = row.encode();
    assert!(bytes.len() < 512, "{} bytes", bytes.len());
    assert_eq!(IndexRow::decode(&bytes).unwrap(), row);
    let IndexRow::Meeting(row) = row else {
        panic!("a meeting has a meeting's row");
    };
    assert_eq!((row.id, row.title.as_str()), (document_id(2), "Planning"));
    assert_eq!(
        (row.state, row.project),
        (Some(State::Stopped), Some(project))
    );
    assert_eq!(row.tags, ["a", "b"]);
    assert_eq!(
        (row.participants, row.segment_pages, row.has_error),
        (1, 1, true)
    );
    assert_eq!(row.created_at.unwrap().as_millis(), NOW.as_millis() + 1_000);
    assert_eq!(row.updated_at.unwrap().as_millis(), NOW.as_millis() + 2_000);
}

const ADA: MemberId = MemberId::from_bytes([0xa; 16]);

#[test]
fn a_workspace_has_one_row_with_its_projects() {
    let mut one = Replica::new(WORKSPACE, 1);
    let project = ProjectId::from_bytes([5; 16]);
    one.edit(|editor| {
        let mut workspace = editor.workspace()?;
        workspace.add_project(project, "Alpha")?;
        workspace.add_project(ProjectId::from_bytes([6; 16]), "Beta")?;
        workspace.set_active_project(&ADA, Some(project))
    });
    let row = index_row(crate::WORKSPACE_DOCUMENT, &one.document)
        .unwrap()
        .unwrap();
    assert_eq!(IndexRow::decode(&row.encode()).unwrap(), row);
    let IndexRow::Workspace(row) = row else {
        panic!("a workspace has a workspace's row");
    };
    assert_eq!(row.to_workspace(), one.document.workspace().unwrap());
    let projects = |member| {
        let rows = row.projects_for(&member).into_iter();
        rows.map(|row| (row.name, row.active)).collect::<Vec<_>>()
    };
    let [alpha, beta] = ["Alpha", "Beta"].map(str::to_owned);
    let all = |active| [(alpha.clone(), active), (beta.clone(), false)];
    assert_eq!(projects(ADA), all(true));
    assert_eq!(projects(MemberId::from_bytes([0xb; 16])), all(false));
}

#[test]
fn other_bytes_are_to_be_rebuilt() {
    assert!(is_indexed(MEETING) && is_indexed(WORKSPACE) && !is_indexed(TRANSCRIPT));
    let page = Replica::new(TRANSCRIPT, 1);
    assert_eq!(index_row(document_id(1), &page.document).unwrap(), None);
    assert!(matches!(IndexRow::decode(&[]), Err(RowError::Version)));
    assert!(matches!(
        IndexRow::decode(b"\x02{}"),
        Err(RowError::Version)
    ));
    assert!(matches!(
        IndexRow::decode(b"\x01{}"),
        Err(RowError::Damaged(_))
    ));
}
