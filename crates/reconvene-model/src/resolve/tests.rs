//! Every rule by which a project is chosen, and every reason why none is.

use super::{Resolution, ResolveError, resolve_project};
use crate::workspace::{ActiveProject, DEFAULT_PROJECT_SETTING};
use crate::{Project, ProjectId, Workspace};
use reconvene_core::ids::MemberId;

const ADA: MemberId = MemberId::from_bytes([0xa; 16]);
const BEN: MemberId = MemberId::from_bytes([0xb; 16]);

fn id(byte: u8) -> ProjectId {
    ProjectId::from_bytes([byte; 16])
}

fn workspace() -> Workspace {
    let names = [
        (1, "Alpha", false),
        (2, "Beta", false),
        (3, "Beta", false),
        (4, "Old", true),
    ];
    let projects = names.into_iter().map(|(byte, name, archived)| {
        let name = name.to_owned();
        let created_at = None;
        (
            id(byte),
            Project {
                name,
                created_at,
                archived,
                deleted_at: None,
            },
        )
    });
    Workspace {
        projects: projects.collect(),
        ..Workspace::default()
    }
}

#[test]
fn a_named_project_is_found_by_id_or_exact_name() {
    let workspace = workspace();
    let explicit = |byte| Ok((Some(id(byte)), Resolution::Explicit));
    assert_eq!(
        resolve_project(Some("Alpha"), &workspace, &ADA),
        explicit(1)
    );
    assert_eq!(
        resolve_project(Some(&id(3).to_string()), &workspace, &ADA),
        explicit(3)
    );
    let archived = ResolveError::Archived {
        name: "Old".to_owned(),
    };
    let old = resolve_project(Some("Old"), &workspace, &ADA);
    assert_eq!(old, Err(archived));
    let unknown = |name: &str| {
        Err(ResolveError::Unknown {
            name: name.to_owned(),
        })
    };
    assert_eq!(
        resolve_project(Some("alpha"), &workspace, &ADA),
        unknown("alpha")
    );
    let stranger = id(9).to_string();
    assert_eq!(
        resolve_project(Some(&stranger), &workspace, &ADA),
        unknown(&stranger)
    );
    let ambiguous = ResolveError::AmbiguousName {
        name: "Beta".to_owned(),
        candidates: vec![id(2), id(3)],
    };
    assert_eq!(
        resolve_project(Some("Beta"), &workspace, &ADA),
        Err(ambiguous)
    );
}

#[test]
fn else_the_active_one_else_the_default() {
    let mut workspace = workspace();
    let nothing = Ok((None, Resolution::None));
    assert_eq!(resolve_project(None, &workspace, &ADA), nothing);

    let default = id(2).to_string().into();
    workspace
        .settings
        .insert(DEFAULT_PROJECT_SETTING.to_owned(), default);
    let by_default = Ok((Some(id(2)), Resolution::WorkspaceDefault));
    assert_eq!(resolve_project(None, &workspace, &ADA), by_default);

    workspace.active = ActiveProject::One { project: id(1) };
    let active = Ok((Some(id(1)), Resolution::Active));
    assert_eq!(resolve_project(None, &workspace, &ADA), active);
    // An archived or unknown project is not chosen unasked.
    workspace.active = ActiveProject::One { project: id(4) };
    assert_eq!(resolve_project(None, &workspace, &ADA), by_default);
    workspace.active = ActiveProject::One { project: id(9) };
    assert_eq!(resolve_project(None, &workspace, &ADA), by_default);

    // Whoever chose is asked first, also who chose none.
    workspace.active = ActiveProject::One { project: id(1) };
    let chosen = ActiveProject::One { project: id(3) };
    workspace.active_of.insert(ADA, chosen);
    workspace.active_of.insert(BEN, ActiveProject::None);
    let chosen = Ok((Some(id(3)), Resolution::Active));
    assert_eq!(resolve_project(None, &workspace, &ADA), chosen);
    assert_eq!(resolve_project(None, &workspace, &BEN), by_default);
    workspace.active_of.clear();

    let candidates = vec![id(1), id(3)];
    workspace.active = ActiveProject::Ambiguous {
        candidates: candidates.clone(),
    };
    let ambiguous = Ok((None, Resolution::Ambiguous { candidates }));
    assert_eq!(resolve_project(None, &workspace, &ADA), ambiguous);
    let candidates = vec![id(1), id(4)];
    workspace.active = ActiveProject::Ambiguous { candidates };
    assert_eq!(resolve_project(None, &workspace, &ADA), active);
}
