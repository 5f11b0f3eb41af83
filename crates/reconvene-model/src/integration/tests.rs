//! An integration tells what it is without its secrets, and keeps a bounded number of runs.

use reconvene_core::ids::MemberId;

use super::{
    IntegrationDraft, IntegrationState, Problem, RUNS_MAX, RunDraft, RunEnd, RunId, RunState,
    SECRET, Settings, Validation,
};
use crate::testing::{NOW, Replica, device, document_id, export};
use crate::{Author, EditError, INTEGRATION, ModelError};

pub(crate) fn found(state: &str) -> Validation {
    let problem = Problem {
        code: "not_a_calendar".to_owned(),
        message: "it is none".to_owned(),
    };
    let state = state.parse().unwrap();
    Validation {
        state,
        error: (state != IntegrationState::Valid).then_some(problem),
        identity: "as it was".to_owned(),
    }
}

fn created() -> Replica {
    let mut one = Replica::new(INTEGRATION, 1);
    let settings = [("secret", "hunter2"), ("timeout", "5s")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let draft = IntegrationDraft {
        adapter: "webhook".to_owned(),
        external_id: "http://127.0.0.1:1/".to_owned(),
        account: None,
        settings: Settings::from_iter(settings),
        added_by: Author {
            member: MemberId::from_bytes([9; 16]),
            device: device(1),
        },
    };
    one.edit(|editor| editor.integration()?.create(&draft));
    one
}

fn run(number: u128) -> RunId {
    RunId::from_bytes(number.to_be_bytes())
}

fn start(one: &mut Replica, number: u128) {
    let draft = RunDraft {
        id: run(number),
        trigger: "manual".to_owned(),
        command: Some(document_id(4)),
    };
    one.edit(|editor| editor.integration()?.start_run(&draft));
}

fn end(one: &mut Replica, number: u128, state: RunState) {
    let end = RunEnd {
        state,
        error: None,
        kept_ms: 60_000,
    };
    one.edit(|editor| editor.integration()?.end_run(run(number), &end));
}

#[test]
fn a_secret_is_read_and_never_shown() {
    let one = created();
    let integration = one.document.integration().unwrap();
    assert_eq!(integration.settings.get("secret"), Some("hunter2"));
    let row = crate::index::index_row(document_id(1), &one.document)
        .unwrap()
        .unwrap();
    let row = String::from_utf8(row.encode()).unwrap();
    for shown in [export(&one.document), format!("{integration:?}"), row] {
        assert!(
            !shown.contains("hunter2") && shown.contains(SECRET),
            "{shown}"
        );
    }
}

#[test]
fn secrets_that_were_set_apart_are_a_conflict_and_not_shown() {
    let mut one = created();
    let mut two = Replica::new(INTEGRATION, 2);
    one.sync(&mut two);
    for (replica, secret) in [(&mut one, "swordfish"), (&mut two, "tuna-melt")] {
        replica.edit(|editor| editor.integration()?.set_setting("secret", Some(secret)));
    }
    one.sync(&mut two);
    let integration = one.document.integration().unwrap();
    assert_eq!(integration.conflicts.len(), 1, "{integration:?}");
    let row = crate::index::index_row(document_id(1), &one.document)
        .unwrap()
        .unwrap();
    let row = String::from_utf8(row.encode()).unwrap();
    for shown in [export(&one.document), format!("{integration:?}"), row] {
        for secret in ["swordfish", "tuna-melt"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[test]
fn what_it_is_changes_its_identity_and_what_is_found_does_not() {
    let mut one = created();
    let before = one.document.integration().unwrap().identity();
    one.edit(|editor| editor.integration()?.validated(&found("invalid")));
    let invalid = one.document.integration().unwrap();
    assert_eq!(invalid.identity(), before);
    assert_eq!(invalid.state, IntegrationState::Invalid);
    assert_eq!(invalid.error, found("invalid").error);
    one.edit(|editor| {
        let mut integration = editor.integration()?;
        integration.validated(&found("valid"))?;
        integration.set_setting("timeout", Some("6s"))
    });
    let valid = one.document.integration().unwrap();
    assert_ne!(valid.identity(), before);
    assert_eq!((valid.state, valid.error), (IntegrationState::Valid, None));
}

#[test]
fn one_run_goes_on_at_a_time_and_the_oldest_make_room() {
    let mut one = created();
    start(&mut one, 1);
    let second = RunDraft {
        id: run(2),
        trigger: "schedule".to_owned(),
        command: None,
    };
    let refused = one.document.edit(&[1; 16], NOW, |editor| {
        editor.integration()?.start_run(&second)
    });
    assert!(matches!(
        refused,
        Err(EditError::Refused(ModelError::Exists { .. }))
    ));
    one.edit(|editor| editor.integration()?.progress(run(1), 3, Some(7), 2));
    one.edit(|editor| editor.integration()?.cancel_run(run(1)));
    let going = one.document.integration().unwrap().runs[&run(1)].clone();
    assert_eq!((going.done, going.total, going.items), (3, Some(7), 2));
    assert!(going.cancel && !going.has_ended());
    end(&mut one, 1, RunState::Cancelled);
    end(&mut one, 1, RunState::Succeeded);
    let ended = one.document.integration().unwrap().runs[&run(1)].clone();
    assert_eq!(ended.state, RunState::Cancelled, "it ends once");
    let kept = ended.expires_at.unwrap().as_millis() - ended.finished_at.unwrap().as_millis();
    assert_eq!(kept, 60_000);

    for number in 2..30 {
        start(&mut one, number);
        end(&mut one, number, RunState::Succeeded);
    }
    let runs = one.document.integration().unwrap().runs;
    assert_eq!(runs.len(), RUNS_MAX);
    assert_eq!(runs.keys().next(), Some(&run(10)));
    one.edit(|editor| editor.integration()?.forget_run(run(10)));
    assert_eq!(one.document.integration().unwrap().runs.len(), RUNS_MAX - 1);
}

#[test]
fn ids_of_runs_are_32_digits() {
    let id = run(0x1234);
    assert_eq!(id.to_string().parse(), Ok(id));
    for text in [
        "",
        "12",
        "+0000000000000000000000000000012",
        "g",
        &"0".repeat(33),
    ] {
        assert!(text.parse::<RunId>().is_err(), "{text}");
    }
}

#[test]
fn the_golden_integration_reads_the_same_for_ever() {
    crate::testing::check_golden_document(INTEGRATION, || {
        let mut one = created();
        one.edit(|editor| editor.integration()?.set_account(Some("ada")));
        one.edit(|editor| editor.integration()?.validated(&found("invalid")));
        start(&mut one, 1);
        end(&mut one, 1, RunState::Succeeded);
        start(&mut one, 2);
        one.edit(|editor| {
            let mut integration = editor.integration()?;
            integration.progress(run(2), 3, Some(7), 2)?;
            integration.cancel_run(run(2))?;
            integration.set_position("12")
        });
        one.changes
    });
}
