//! Concurrent edits of a meeting merge into what people meant, and its frozen form stays readable.

use std::collections::BTreeMap;

use proptest::prelude::*;
use reconvene_core::ids::ChangeHash;
use reconvene_core::time::WallTime;
use serde_json::{Value, json};

use crate::testing::{NOW, Replica, check_golden_document, document_id, export, load};
use crate::{Document, EncodedChange, MEETING, Meeting, ModelError, ProjectId, State};

fn pair() -> (Replica, Replica) {
    let mut one = Replica::new(MEETING, 1);
    let mut two = Replica::new(MEETING, 2);
    one.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.create("Weekly planning", None)?;
        meeting.append_note("First line.\nSecond line.\n")?;
        meeting.add_tag("planning")?;
        meeting.add_participant("ada", "Ada")?;
        meeting.add_action_item("a1", "Book a room", None)
    });
    one.sync(&mut two);
    (one, two)
}

fn read(replica: &Replica) -> Meeting {
    replica.document.meeting().unwrap()
}

#[test]
fn devices_that_never_met_create_one_document() {
    let mut one = Replica::new(MEETING, 1);
    let mut two = Replica::new(MEETING, 2);
    one.edit(|editor| editor.meeting()?.append_note("from one\n"));
    two.edit(|editor| editor.meeting()?.append_note("from two\n"));
    two.edit(|editor| editor.meeting()?.add_tag("kept"));
    one.sync(&mut two);
    let meeting = read(&one);
    assert!(meeting.notes.contains("from one\n") && meeting.notes.contains("from two\n"));
    assert!(meeting.tags.contains("kept"));
    assert_eq!(meeting.malformed, Vec::<String>::new());
}

#[test]
fn both_edits_of_a_title_survive() {
    let (mut one, mut two) = pair();
    one.edit(|editor| editor.meeting()?.set_title("Monthly planning"));
    two.edit(|editor| editor.meeting()?.set_title("Weekly planning, moved"));
    one.sync(&mut two);
    assert_eq!(read(&one).title, "Monthly planning, moved");
    assert_eq!(read(&one).conflicts, vec![]);
}

#[test]
fn notes_merge_by_line_and_count_utf16() {
    let (mut one, mut two) = pair();
    one.edit(|editor| {
        editor
            .meeting()?
            .set_notes("First 😀 line.\nSecond line.\n")
    });
    two.edit(|editor| editor.meeting()?.append_note("Third line.\n"));
    one.sync(&mut two);
    let notes = read(&one).notes;
    assert_eq!(notes, "First 😀 line.\nSecond line.\nThird line.\n");
    // The emoji is two units, as in a webview.
    one.edit(|editor| editor.meeting()?.splice_notes(6, 3, ""));
    assert_eq!(read(&one).notes, "First line.\nSecond line.\nThird line.\n");
    let end = read(&one).notes.encode_utf16().count();
    let (actor, at) = ([9; 16], NOW);
    let result = one.document.edit(&actor, at, |editor| {
        editor.meeting()?.splice_notes(end, 1, "")
    });
    assert!(matches!(
        result,
        Err(crate::EditError::Refused(ModelError::Automerge(_)))
    ));
    assert!(!one.document.is_poisoned());
}

#[test]
fn an_added_tag_survives_a_removal_that_did_not_see_it() {
    let (mut one, mut two) = pair();
    one.edit(|editor| editor.meeting()?.remove_tag("planning"));
    two.edit(|editor| editor.meeting()?.add_tag("planning"));
    one.sync(&mut two);
    assert!(read(&one).tags.contains("planning"));
    one.edit(|editor| editor.meeting()?.remove_tag("planning"));
    one.sync(&mut two);
    assert!(read(&two).tags.is_empty());
    // The same for who took part; and two who add the same person add one.
    one.edit(|editor| editor.meeting()?.remove_participant("ada"));
    two.edit(|editor| editor.meeting()?.add_participant("ada", "Ada L."));
    one.sync(&mut two);
    assert_eq!(read(&one).participants["ada"].name, "Ada L.");
    one.edit(|editor| editor.meeting()?.add_participant("bob", "Bob"));
    two.edit(|editor| editor.meeting()?.add_participant("bob", "Bob"));
    one.sync(&mut two);
    assert_eq!(read(&one).participants.len(), 2);
    assert_eq!(read(&one).conflicts, vec![]);
}

#[test]
fn the_furthest_state_counts_and_errors_stand_apart() {
    let (mut one, mut two) = pair();
    one.edit(|editor| editor.meeting()?.reach_state(State::Recording));
    two.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.reach_state(State::Recording)?;
        meeting.reach_state(State::Completed)?;
        meeting.set_error("the microphone went away")
    });
    one.edit(|editor| editor.meeting()?.reach_state(State::Stopped));
    one.sync(&mut two);
    let meeting = read(&one);
    assert_eq!(meeting.state, Some(State::Completed));
    assert_eq!(meeting.conflicts, vec![]);
    assert_eq!(meeting.error.unwrap().cause, "the microphone went away");
    // An error set meanwhile survives clearing the one before.
    one.edit(|editor| editor.meeting()?.clear_error());
    two.edit(|editor| editor.meeting()?.set_error("again"));
    one.sync(&mut two);
    assert_eq!(read(&one).error.unwrap().cause, "again");
    one.edit(|editor| editor.meeting()?.clear_error());
    one.sync(&mut two);
    assert_eq!(read(&two).error, None);
}

#[test]
fn two_projects_are_a_conflict_until_someone_chooses() {
    let (mut one, mut two) = pair();
    let (first, second) = (
        ProjectId::from_bytes([1; 16]),
        ProjectId::from_bytes([2; 16]),
    );
    one.edit(|editor| editor.meeting()?.set_project(Some(first)));
    two.edit(|editor| editor.meeting()?.set_project(Some(second)));
    one.sync(&mut two);
    let meeting = read(&one);
    assert_eq!(meeting.conflicts.len(), 1);
    let conflict = &meeting.conflicts[0];
    assert_eq!(conflict.path, "project");
    let values: Vec<_> = conflict.values.iter().map(|value| &value.value).collect();
    let shown = meeting.project.unwrap().to_string();
    assert_eq!(values.last().unwrap().as_str(), Some(shown.as_str()));
    for value in &conflict.values {
        let change = value.change.unwrap();
        assert!(one.changes.iter().any(|known| known.hash == change));
        assert!(value.at.unwrap() > NOW);
    }
    // Choosing what is shown already still settles it.
    one.edit(|editor| editor.meeting()?.set_project(meeting.project));
    one.sync(&mut two);
    assert_eq!(read(&two).conflicts, vec![]);
    // The same choice made twice is none.
    one.edit(|editor| editor.meeting()?.set_project(None));
    two.edit(|editor| editor.meeting()?.set_project(None));
    one.sync(&mut two);
    assert_eq!(read(&one).conflicts, vec![]);
    assert_eq!(read(&one).project, None);
}

#[test]
fn action_items_keep_every_field_someone_touched() {
    let (mut one, mut two) = pair();
    one.edit(|editor| editor.meeting()?.complete_action_item("a1", true));
    two.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.assign_action_item("a1", Some("ada"))?;
        meeting.set_action_item_text("a1", "Book the large room")
    });
    one.sync(&mut two);
    let item = &read(&one).action_items["a1"];
    assert!(item.done);
    assert_eq!(item.assignee.as_deref(), Some("ada"));
    assert_eq!(item.text, "Book the large room");
}

#[test]
fn nothing_changed_is_no_change() {
    let (mut one, _) = pair();
    let before = (one.changes.len(), one.document.heads());
    one.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.set_title("Weekly planning")?;
        meeting.set_notes("First line.\nSecond line.\n")?;
        meeting.reach_state(State::Created)?;
        meeting.complete_action_item("a1", false)?;
        meeting.remove_tag("never there")?;
        meeting.clear_error()
    });
    assert_eq!((one.changes.len(), one.document.heads()), before);
}

/// The golden meeting, as it was first written; two devices and a conflict among it.
fn write_golden() -> Vec<EncodedChange> {
    let (mut one, mut two) = pair();
    one.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.set_project(Some(ProjectId::from_bytes([1; 16])))?;
        meeting.reach_state(State::Recording)?;
        meeting.add_page(document_id(0x21), "12D3KooW-one", 0)?;
        meeting.set_summary("Rooms were discussed. 😀")
    });
    two.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.set_project(Some(ProjectId::from_bytes([2; 16])))?;
        meeting.set_source("qmsum:ES2002a")?;
        meeting.add_page(document_id(0x22), "12D3KooW-two", 1)?;
        meeting.add_action_item("a2", "Send the minutes", Some("bob"))?;
        meeting.set_error("the microphone went away")
    });
    one.sync(&mut two);
    two.edit(|editor| {
        let mut meeting = editor.meeting()?;
        meeting.complete_action_item("a1", true)?;
        meeting.reach_state(State::Completed)
    });
    two.changes
}

#[test]
fn the_golden_meeting_reads_the_same_for_ever() {
    check_golden_document(MEETING, write_golden);
}

#[test]
fn views_survive_serde() {
    let changes = write_golden();
    let meeting = load(MEETING, &changes).meeting().unwrap();
    let text = serde_json::to_string(&meeting).unwrap();
    assert_eq!(serde_json::from_str::<Meeting>(&text).unwrap(), meeting);
    let pages = vec![document_id(0x21), document_id(0x22)];
    assert_eq!(meeting.pages_in_order(), pages);
}

#[derive(Clone, Debug)]
enum Action {
    Title(String),
    Notes(String),
    Append(String),
    Summary(String),
    Tag(u8, bool),
    Participant(u8, bool),
    Project(u8),
    State(u8),
    Error(bool),
    Item(u8, u8),
    Page(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let text = || "[a-c \u{1f600}\u{e9}]{0,12}";
    prop_oneof![
        text().prop_map(Action::Title),
        text().prop_map(Action::Notes),
        text().prop_map(Action::Append),
        text().prop_map(Action::Summary),
        (0..3_u8, any::<bool>()).prop_map(|(tag, add)| Action::Tag(tag, add)),
        (0..3_u8, any::<bool>()).prop_map(|(who, add)| Action::Participant(who, add)),
        (0..3_u8).prop_map(Action::Project),
        (0..5_u8).prop_map(Action::State),
        any::<bool>().prop_map(Action::Error),
        (0..3_u8, 0..4_u8).prop_map(|(item, what)| Action::Item(item, what)),
        (0..3_u8).prop_map(Action::Page),
    ]
}

fn act(replica: &mut Replica, action: &Action) {
    replica.edit(|editor| {
        let mut meeting = editor.meeting()?;
        let result = match action {
            Action::Title(text) => meeting.set_title(text),
            Action::Notes(text) => meeting.set_notes(text),
            Action::Append(text) => meeting.append_note(text),
            Action::Summary(text) => meeting.set_summary(text),
            Action::Tag(tag, true) => meeting.add_tag(&format!("t{tag}")),
            Action::Tag(tag, false) => meeting.remove_tag(&format!("t{tag}")),
            Action::Participant(who, true) => meeting.add_participant(&format!("p{who}"), "name"),
            Action::Participant(who, false) => meeting.remove_participant(&format!("p{who}")),
            Action::Project(0) => meeting.set_project(None),
            Action::Project(id) => meeting.set_project(Some(ProjectId::from_bytes([*id; 16]))),
            Action::State(state) => meeting.reach_state(State::ALL[usize::from(*state)]),
            Action::Error(true) => meeting.set_error("cause"),
            Action::Error(false) => meeting.clear_error(),
            Action::Item(item, 0) => meeting.add_action_item(&format!("i{item}"), "do", None),
            Action::Item(item, 1) => meeting.complete_action_item(&format!("i{item}"), true),
            Action::Item(item, what) => {
                meeting.set_action_item_text(&format!("i{item}"), &format!("do {what}"))
            }
            Action::Page(page) => meeting.add_page(document_id(*page), "recorder", 0),
        };
        match result {
            Err(ModelError::Exists { .. } | ModelError::NotFound { .. }) => Ok(()),
            other => other,
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn replicas_converge_whatever_they_do_and_in_whatever_order_they_exchange(
        steps in prop::collection::vec((0..3_usize, action(), 0..9_usize), 1..40),
    ) {
        let mut replicas: Vec<_> = (1..=3).map(|device| Replica::new(MEETING, device)).collect();
        for (who, action, exchange) in steps {
            act(&mut replicas[who], &action);
            // Most steps exchange nothing; the others one way, between any two.
            let (to, from) = (exchange / 3, exchange % 3);
            if to != from && exchange % 2 == 1 {
                let source = replicas[from].clone();
                replicas[to].pull(&source);
            }
        }
        for (to, from) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
            let source = replicas[from].clone();
            replicas[to].pull(&source);
        }
        let expected = export(&replicas[0].document);
        for replica in &replicas {
            prop_assert_eq!(&export(&replica.document), &expected);
            prop_assert_eq!(&export(&replica.reloaded()), &expected);
            prop_assert_eq!(replica.document.missing(), Vec::<ChangeHash>::new());
        }
    }
}

#[test]
fn hostile_shapes_read_as_absent_and_are_named() {
    use automerge::transaction::Transactable;
    use automerge::{ObjType, ROOT, ReadDoc};
    let document = Document::create(MEETING).unwrap();
    let mut automerge = document.clone().take().unwrap();
    automerge.set_actor([66; 16].into());
    let mut transaction = automerge.transaction();
    // Over every container something else, and into the containers what does not belong there.
    for container in crate::genesis::containers(MEETING) {
        if !container.is_text {
            let id = container.id();
            transaction.put(&id, "scalar", 1.5).unwrap();
            transaction.put_object(&id, "list", ObjType::List).unwrap();
            let map = transaction.put_object(&id, "map", ObjType::Map).unwrap();
            for key in ["name", "text", "done", "assignee", "recorder", "order"] {
                transaction.put(&map, key, vec![1_u8, 2]).unwrap();
            }
        }
        if container.is_text {
            transaction
                .splice_text(container.id(), 0, 0, "still here")
                .unwrap();
            transaction.split_block(container.id(), 3).unwrap();
        }
        transaction.put(ROOT, container.key, "gone").unwrap();
    }
    transaction
        .put(crate::genesis::STATES.id(), "recording", "yes")
        .unwrap();
    transaction.put(ROOT, "project", "not an id").unwrap();
    transaction.put(ROOT, "created_at", u64::MAX).unwrap();
    transaction
        .put_object(ROOT, "source", ObjType::Text)
        .unwrap();
    transaction.put(ROOT, "error", 7).unwrap();
    transaction.put(ROOT, "from_the_future", 7).unwrap();
    transaction.commit();
    let hash = automerge.get_heads()[0];
    let bytes = automerge
        .get_change_by_hash(&hash)
        .unwrap()
        .raw_bytes()
        .to_vec();

    let counter = crate::MaterialiseCounter::new();
    let purpose = crate::Purpose::Sync;
    let document = crate::materialise(MEETING, [bytes.as_slice()], purpose, &counter).unwrap();
    let meeting = document.meeting().unwrap();
    assert!(meeting.title.contains("here"));
    assert_eq!((meeting.project, meeting.created_at), (None, None));
    assert_eq!((meeting.source, meeting.error), (None, None));
    assert_eq!(meeting.state, None);
    assert_eq!(meeting.participants["map"].name, "");
    for path in [
        "title",
        "tags",
        "project",
        "created_at",
        "source",
        "error",
        "states/recording",
        "participants/map/name",
        "participants/scalar",
        "pages/list",
        "action_items/map/done",
    ] {
        assert!(
            meeting.malformed.iter().any(|known| known == path),
            "{path}"
        );
    }
    let row = crate::index::index_row(document_id(1), &document).unwrap();
    assert!(row.is_some());
    // It can still be edited.
    let mut document = document;
    let edited = document.edit(&[67; 16], NOW, |editor| {
        editor.meeting()?.set_title("Mended")
    });
    edited.unwrap();
    assert_eq!(document.meeting().unwrap().title, "Mended");
}

#[test]
fn later_versions_are_preserved_or_read_only() {
    use automerge::transaction::Transactable;
    use automerge::{ROOT, ReadDoc};
    for (key, version) in [("schema_version", 2_u64), ("min_reader", 2)] {
        let mut document = Document::create(MEETING).unwrap();
        let mut automerge = document.clone().take().unwrap();
        automerge.set_actor([66; 16].into());
        let mut transaction = automerge.transaction();
        transaction.put(ROOT, key, version).unwrap();
        transaction.put(ROOT, "mood", "good").unwrap();
        transaction.commit();
        let hash = automerge.get_heads()[0];
        let change = automerge.get_change_by_hash(&hash).unwrap();
        document.apply([change.raw_bytes()]).unwrap();
        let edited = document.edit(&[67; 16], NOW, |editor| editor.meeting()?.set_title("x"));
        if key == "min_reader" {
            let refused = matches!(edited, Err(crate::EditError::ReadOnly { min_reader: 2 }));
            assert!(refused);
        } else {
            assert_eq!(document.schema().unwrap().version, 2);
            edited.unwrap();
        }
        assert_eq!(document.meeting().unwrap().malformed, Vec::<String>::new());
    }
}

#[test]
fn times_in_exports_are_numbers() {
    let (one, _) = pair();
    let value = serde_json::from_str::<Value>(&export(&one.document)).unwrap();
    let created: WallTime = serde_json::from_value(value["view"]["created_at"].clone()).unwrap();
    assert_eq!(created.as_millis(), NOW.as_millis() + 1_000);
    assert_eq!(value["view"]["state"], json!("created"));
}

#[test]
fn a_deletion_takes_effect_only_over_what_was_seen() {
    let mut one = Replica::new(MEETING, 1);
    one.edit(|editor| editor.meeting()?.create("Planning", None));
    let mut other = Replica::new(MEETING, 2);
    other.pull(&one);
    let deletion = |replica: &Replica| replica.document.meeting().unwrap().deletion;
    let page = document_id(9);
    let pages = BTreeMap::from([(page, "a version".to_owned())]);
    one.edit(|editor| editor.meeting()?.delete(&pages));
    let found = deletion(&one).unwrap();
    assert!(found.saw_all && found.at.is_some());
    assert_eq!(found.pages, pages);
    // Written meanwhile, it keeps the meeting on both sides.
    other.edit(|editor| editor.meeting()?.append_note("Not so fast."));
    one.sync(&mut other);
    assert!(!deletion(&one).unwrap().saw_all);
    // Who has seen that may delete it all the same.
    other.edit(|editor| editor.meeting()?.delete(&BTreeMap::new()));
    one.sync(&mut other);
    assert!(deletion(&one).unwrap().saw_all);
    // Restoring takes all of it away; what is deleted twice apart is deleted.
    one.edit(|editor| editor.meeting()?.restore());
    one.sync(&mut other);
    assert_eq!(deletion(&other), None);
    one.edit(|editor| editor.meeting()?.delete(&BTreeMap::new()));
    other.edit(|editor| editor.meeting()?.delete(&BTreeMap::new()));
    one.sync(&mut other);
    assert!(deletion(&one).unwrap().saw_all);
    assert!(one.document.meeting().unwrap().conflicts.is_empty());
}
