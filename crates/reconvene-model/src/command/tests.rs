//! A command is asked once, ends once, and no shape of it makes a reader panic or guess.

use automerge::transaction::Transactable;
use automerge::{ObjType, ROOT, ScalarValue};
use proptest::prelude::*;
use reconvene_core::ids::MemberId;

use super::{Ask, AskError, CommandDraft, Outcome, OutcomeState};
use crate::index::{IndexRow, index_row};
use crate::testing::{Replica, device, document_id, export};
use crate::{Author, COMMAND, Document, ENTRY, EditError, INTEGRATION, ModelError};

fn draft(argument: &str) -> CommandDraft {
    CommandDraft {
        name: "stop_recording".to_owned(),
        arguments: [("meeting".to_owned(), argument.to_owned())].into(),
        issued_by: Author {
            member: MemberId::from_bytes([9; 16]),
            device: device(1),
        },
        replaces: None,
    }
}

#[test]
fn a_command_is_asked_once_and_ends_once() {
    let mut one = Replica::new(COMMAND, 1);
    one.edit(|editor| editor.command()?.issue(&draft("a")));
    let changes = one.changes.len();
    one.edit(|editor| editor.command()?.issue(&draft("a")));
    assert_eq!(
        one.changes.len(),
        changes,
        "asking the same changes nothing"
    );
    let refused = one.document.edit(&[1; 16], crate::testing::NOW, |editor| {
        editor.command()?.issue(&draft("b"))
    });
    assert!(matches!(
        refused,
        Err(EditError::Refused(ModelError::Exists { .. }))
    ));

    one.edit(|editor| editor.command()?.accept());
    let accepted = one.document.command().unwrap().accepted_at;
    one.edit(|editor| editor.command()?.accept());
    assert_eq!(one.document.command().unwrap().accepted_at, accepted);
    let outcome = Outcome::failed("unreachable", "nobody there", true);
    one.edit(|editor| editor.command()?.finish(&outcome));
    let again = one.document.edit(&[1; 16], crate::testing::NOW, |editor| {
        editor.command()?.finish(&Outcome::done([]))
    });
    assert!(matches!(
        again,
        Err(EditError::Refused(ModelError::Exists { .. }))
    ));
    // What has ended is not cancelled any more.
    one.edit(|editor| editor.command()?.cancel());
    let command = one.document.command().unwrap();
    assert_eq!(command.issued_by, Some(draft("a").issued_by));
    assert!(!command.cancel);
    let found = command.outcome.unwrap();
    assert_eq!(found.state, OutcomeState::Failed);
    assert!(found.retryable && found.at.is_some());
    assert_eq!(found.code.as_deref(), Some("unreachable"));
}

#[test]
fn a_cancellation_and_an_acceptance_that_cross_are_both_seen() {
    let mut one = Replica::new(COMMAND, 1);
    let mut two = Replica::new(COMMAND, 2);
    one.edit(|editor| editor.command()?.issue(&draft("a")));
    one.sync(&mut two);
    one.edit(|editor| editor.command()?.cancel());
    two.edit(|editor| {
        editor.command()?.accept()?;
        editor
            .command()?
            .finish(&Outcome::done([("run", "r".to_owned())]))
    });
    one.sync(&mut two);
    let command = one.document.command().unwrap();
    assert!(command.cancel && command.accepted_at.is_some());
    assert_eq!(command.outcome.unwrap().result["run"], "r");
    assert_eq!(command.conflicts, vec![]);
}

#[test]
fn a_command_s_row_holds_all_of_it() {
    let mut one = Replica::new(COMMAND, 1);
    one.edit(|editor| {
        editor.command()?.issue(&draft("a"))?;
        editor.command()?.finish(&Outcome::cancelled())
    });
    let row = index_row(document_id(2), &one.document).unwrap().unwrap();
    assert_eq!(IndexRow::decode(&row.encode()).unwrap(), row);
    let IndexRow::Command(row) = row else {
        panic!("a command has a command's row");
    };
    assert_eq!(row.id, document_id(2));
    assert_eq!(row.command, one.document.command().unwrap());
}

#[test]
fn what_is_asked_reads_as_it_was_written() {
    let run = crate::RunId::from_bytes([3; 16]);
    for ask in [
        Ask::StartIntegrationSync {
            integration: document_id(1),
            trigger: "manual".to_owned(),
        },
        Ask::CancelRun { run },
        Ask::FindRun { run },
        Ask::ValidateIntegrations { integration: None },
        Ask::ValidateIntegrations {
            integration: Some(document_id(1)),
        },
        Ask::StopRecording {
            meeting: document_id(2),
        },
    ] {
        assert_eq!(Ask::parse(ask.name(), &ask.arguments()), Ok(ask));
    }
    let none = Default::default();
    assert_eq!(
        Ask::parse("stop_recording", &none),
        Err(AskError::Missing("meeting"))
    );
    let bad = [("run".to_owned(), "12".to_owned())].into();
    assert_eq!(
        Ask::parse("find_run", &bad).unwrap_err().code(),
        "bad_argument"
    );
    assert_eq!(
        Ask::parse("launch", &none).unwrap_err().code(),
        "unknown_command"
    );
}

/// One write that no version of this crate makes.
type Hostile = (usize, usize, usize);

const KEYS: [&str; 20] = [
    "name",
    "member",
    "device",
    "issued_at",
    "replaces",
    "cancel",
    "accepted_at",
    "outcome",
    "state",
    "resolved",
    "subject",
    "subject_kind",
    "filed_at",
    "adapter",
    "error",
    "validated_at",
    "runs",
    "removed_at",
    "00000000000000000000000000000001",
    "from the future",
];

fn value(number: usize) -> ScalarValue {
    match number {
        0 => "running".into(),
        1 => ScalarValue::Null,
        2 => 1.5.into(),
        3 => u64::MAX.into(),
        4 => (-1).into(),
        5 => true.into(),
        6 => vec![1_u8, 2].into(),
        _ => ScalarValue::counter(7),
    }
}

fn damage(replica: &mut Replica, writes: &[Hostile], actor: u8) {
    let kind = replica.document.kind();
    let mut automerge = replica.document.clone().take().unwrap();
    automerge.set_actor([actor; 16].into());
    let mut transaction = automerge.transaction();
    let containers = crate::genesis::containers(kind);
    for (place, key, what) in writes {
        let object = match containers.get(*place) {
            Some(container) => container.id(),
            None => ROOT,
        };
        let key = KEYS[*key];
        match what {
            0..=7 => transaction.put(&object, key, value(*what)).unwrap(),
            8 => drop(transaction.put_object(&object, key, ObjType::List).unwrap()),
            9 => drop(transaction.put_object(&object, key, ObjType::Text).unwrap()),
            _ => {
                let map = transaction.put_object(&object, key, ObjType::Map).unwrap();
                for (number, inner) in KEYS.iter().enumerate() {
                    transaction.put(&map, *inner, value(number % 8)).unwrap();
                }
            }
        }
    }
    transaction.commit();
    let new = automerge.get_changes(&[]).last().cloned();
    let mut change = new.expect("it has a change");
    let bytes = change.bytes().into_owned();
    let hash = crate::document::core_hash(change.hash());
    replica.document.apply([&bytes[..]]).unwrap();
    replica.changes.push(crate::EncodedChange { hash, bytes });
}

fn reads(document: &Document) {
    let row = index_row(document_id(2), document).unwrap().unwrap();
    assert_eq!(
        IndexRow::decode(&row.encode()).unwrap().encode(),
        row.encode()
    );
    assert!(export(document).contains("\"view\""));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn hostile_commands_entries_and_integrations_read_as_absent(
        kind in prop::sample::select(vec![COMMAND, ENTRY, INTEGRATION]),
        one in prop::collection::vec((0..3_usize, 0..KEYS.len(), 0..11_usize), 1..24),
        two in prop::collection::vec((0..3_usize, 0..KEYS.len(), 0..11_usize), 1..24),
    ) {
        let mut here = Replica::new(kind, 1);
        let mut there = Replica::new(kind, 2);
        damage(&mut here, &one, 66);
        damage(&mut there, &two, 67);
        here.sync(&mut there);
        reads(&here.document);
        // It can still be written, and then says what was written.
        match kind {
            COMMAND => {
                let told = here.document.edit(&[1; 16], crate::testing::NOW, |editor| {
                    editor.command()?.finish(&Outcome::done([]))
                });
                let command = here.document.command().unwrap();
                prop_assert!(told.is_err() || command.outcome.is_some());
            }
            ENTRY => {
                here.edit(|editor| editor.entry()?.file(&super::super::entry::tests::draft("new")));
                let entry = here.document.entry().unwrap();
                prop_assert_eq!((entry.code.as_str(), entry.resolved), ("new", None));
            }
            _ => {
                let found = crate::integration::tests::found("invalid");
                here.edit(|editor| editor.integration()?.validated(&found));
                let integration = here.document.integration().unwrap();
                prop_assert_eq!(integration.state, found.state);
                prop_assert_eq!(integration.error, found.error);
            }
        }
        reads(&here.document);
    }
}
