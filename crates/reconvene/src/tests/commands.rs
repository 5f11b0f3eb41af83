//! Commands, inbox entries, integrations and runs on one store: a server's, which plays both sides.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::COMMANDS_WAITING_MAX;
use crate::replica::EditMode;
use crate::{
    Ask, Changes, CommandFilter, Commands, DocumentId, Due, EntryFilter, Error, IntegrationState,
    NewIntegration, NewMeeting, NotFoundReason, OpenOptions, Outcome, OutcomeState, Problem,
    Replica, ReplicaEvent, Role, RunDraft, RunEnd, RunId, RunStanding, RunState, State, Taken,
    Validation, entries,
};

/// Far more than anything takes.
const DEADLINE: Duration = Duration::from_secs(60);

async fn server(dir: &tempfile::TempDir) -> Replica {
    let options = OpenOptions::new(dir.path().join("data")).role(Role::Server);
    let replica = options.open().await.unwrap();
    replica.ensure_shared_workspace().await.unwrap();
    replica
}

fn stop(meeting: DocumentId) -> Ask {
    Ask::StopRecording { meeting }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_carried_out_once_with_what_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let replica = server(&dir).await;
    let serving = replica.serving().unwrap();
    let workspace = replica.current_workspace().unwrap();
    let meeting = replica
        .meetings()
        .add(NewMeeting::titled("m"))
        .await
        .unwrap();
    let meeting = meeting.meeting.id;

    let id = Commands::new_id();
    let commands = replica.commands();
    let mut pending = commands.subscribe(CommandFilter::Pending).unwrap();
    let issued = commands.issue(id, &stop(meeting)).await.unwrap();
    assert_eq!(commands.issue(id, &stop(meeting)).await.unwrap(), issued);
    let other = commands.issue(id, &stop(id)).await.unwrap_err();
    assert_eq!(other.code(), "edit_refused");
    let foreign = commands.issue(meeting, &stop(meeting)).await.unwrap_err();
    assert_eq!(foreign.code(), "edit_refused");

    let mut due = serving.due().unwrap();
    let Due::Command(of, row) = due.next().await.unwrap() else {
        panic!("there is no integration");
    };
    assert_eq!((of, row.id), (workspace, id));
    let Taken::Accepted(command) = serving.take(workspace, id).await.unwrap() else {
        panic!("it was not cancelled");
    };
    assert_eq!(command.ask(), Ok(stop(meeting)));
    // Too late to be cancelled: it is a wish now.
    commands.cancel(id).await.unwrap();
    assert!(matches!(
        serving.take(workspace, id).await.unwrap(),
        Taken::Accepted(_)
    ));

    // A change that is refused keeps all of it from being stored.
    let changes =
        || Changes::new().meeting(meeting, |meeting| meeting.reach_state(State::Stopping));
    let refused = changes().integration(DocumentId::from_bytes([1; 16]), |_| Ok(()));
    let outcome = Outcome::done([("state", "stopping".to_owned())]);
    let failed = serving
        .finish(workspace, id, outcome.clone(), refused)
        .await;
    assert!(matches!(failed, Err(Error::NotFound { .. })), "{failed:?}");
    assert_eq!(commands.show(id).await.unwrap().command.outcome, None);
    let state = replica
        .meetings()
        .show(meeting)
        .await
        .unwrap()
        .meeting
        .state;
    assert_eq!(state, Some(State::Created));

    serving
        .finish(workspace, id, outcome, changes())
        .await
        .unwrap();
    let ended = commands.ended(id, DEADLINE).await.unwrap().command;
    let outcome = ended.outcome.unwrap();
    assert_eq!(outcome.state, OutcomeState::Done);
    assert_eq!(outcome.result["state"], "stopping");
    // Whoever comes late changes nothing.
    let late = Outcome::failed("late", "late", true);
    let undone = Changes::new().meeting(meeting, |meeting| meeting.set_title("late"));
    serving.finish(workspace, id, late, undone).await.unwrap();
    assert!(matches!(
        serving.take(workspace, id).await.unwrap(),
        Taken::Ended
    ));
    let shown = replica.meetings().show(meeting).await.unwrap().meeting;
    assert_eq!(
        (shown.title.as_str(), shown.state),
        ("m", Some(State::Stopping))
    );

    let mut shown = std::collections::BTreeSet::new();
    let mut seen = false;
    while !(seen && shown.is_empty()) {
        let batch = tokio::time::timeout(DEADLINE, pending.next())
            .await
            .unwrap();
        let batch = batch.unwrap();
        shown.extend(batch.added.iter().map(|row| row.id));
        seen |= !shown.is_empty();
        batch.removed.iter().for_each(|id| {
            shown.remove(id);
        });
        seen |= commands
            .list(CommandFilter::Pending)
            .await
            .unwrap()
            .is_empty();
    }
    assert_eq!(commands.list(CommandFilter::All).await.unwrap().len(), 1);
    replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_commands_wait_than_there_is_a_bound_for() {
    let dir = tempfile::tempdir().unwrap();
    let replica = server(&dir).await;
    let commands = replica.commands();
    let first = Commands::new_id();
    commands.issue(first, &stop(first)).await.unwrap();
    for _ in 1..COMMANDS_WAITING_MAX {
        let id = Commands::new_id();
        commands.issue(id, &stop(id)).await.unwrap();
    }
    let further = Commands::new_id();
    let refused = commands.issue(further, &stop(further)).await.unwrap_err();
    assert_eq!(refused.code(), "too_many_commands");
    assert!(
        commands.show(further).await.is_err(),
        "nothing is stored of it"
    );
    // The same again is no further one, and room is made by an outcome.
    commands.issue(first, &stop(first)).await.unwrap();
    let (serving, workspace) = (
        replica.serving().unwrap(),
        replica.current_workspace().unwrap(),
    );
    let outcome = Outcome::refused("no", "no");
    serving
        .finish(workspace, first, outcome, Changes::new())
        .await
        .unwrap();
    commands.issue(further, &stop(further)).await.unwrap();
    replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cancelled_before_it_was_taken_up_is_not_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let replica = server(&dir).await;
    let serving = replica.serving().unwrap();
    let workspace = replica.current_workspace().unwrap();
    let id = Commands::new_id();
    let commands = replica.commands();
    commands.issue(id, &stop(id)).await.unwrap();
    commands.cancel(id).await.unwrap();
    assert!(matches!(
        serving.take(workspace, id).await.unwrap(),
        Taken::Ended
    ));
    let command = commands.show(id).await.unwrap().command;
    assert_eq!(command.outcome.unwrap().state, OutcomeState::Cancelled);
    assert_eq!(command.accepted_at, None);
    let none = commands.cancel(Commands::new_id()).await;
    assert!(matches!(
        none,
        Err(Error::NotFound {
            what: "command",
            ..
        })
    ));
    replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_retried_once_amended_or_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let replica = server(&dir).await;
    let serving = replica.serving().unwrap();
    let workspace = replica.current_workspace().unwrap();
    let (commands, inbox) = (replica.commands(), replica.inbox());
    let mut events = replica.events();
    let id = Commands::new_id();
    commands.issue(id, &stop(id)).await.unwrap();
    let outcome = Outcome::failed("unreachable", "nobody there", true);
    let member = replica.device().member;
    let draft = entries::of_outcome(workspace, id, "stop_recording", &outcome);
    assert!(serving.file(member, draft.clone()).await.unwrap());
    assert!(serving.file(member, draft.clone()).await.unwrap());
    serving
        .finish(workspace, id, outcome, Changes::new())
        .await
        .unwrap();
    let told = tokio::time::timeout(DEADLINE, events.next()).await.unwrap();
    let Some(ReplicaEvent::InboxEntry { entry, code, open }) = told else {
        panic!("{told:?}");
    };
    assert_eq!(
        (entry, code.as_str(), open),
        (draft.id(), "unreachable", true)
    );
    let filed = inbox.show(entry).await.unwrap().entry;
    assert!(filed.retryable && filed.resolved.is_none());
    assert_eq!(filed.message, "nobody there");

    let retried = inbox.retry(entry).await.unwrap();
    assert_eq!(retried.command.command.replaces, Some(id));
    assert_eq!(retried.command.command.ask(), Ok(stop(id)));
    assert_eq!(retried.entry.entry.resolved.unwrap().how, "retried");
    let again = inbox.retry(entry).await.unwrap_err();
    assert_eq!(again.code(), "bad_input");
    // As on another device that did not know: the same command.
    serving.file(member, draft).await.unwrap();
    let twice = inbox.retry(entry).await.unwrap();
    assert_eq!(twice.command.id, retried.command.id);

    let refused = Outcome::refused("unknown_meeting", "there is none");
    let draft = entries::of_outcome(workspace, id, "stop_recording", &refused);
    serving.file(member, draft).await.unwrap();
    let no = inbox.retry(entry).await.unwrap_err();
    assert_eq!(no.code(), "not_retryable");
    let bad = BTreeMap::from([("meeting".to_owned(), "x".to_owned())]);
    assert_eq!(
        inbox.amend(entry, bad).await.unwrap_err().code(),
        "bad_input"
    );
    let better = BTreeMap::from([("meeting".to_owned(), entry.to_string())]);
    let amended = inbox.amend(entry, better).await.unwrap();
    assert_eq!(amended.command.command.ask(), Ok(stop(entry)));
    assert_eq!(amended.entry.entry.resolved.unwrap().how, "amended");

    let problem = Problem {
        code: "not_found".to_owned(),
        message: "no such file".to_owned(),
    };
    let draft = entries::of_validation(workspace, id, &problem);
    serving.file(member, draft.clone()).await.unwrap();
    let discarded = inbox.discard(draft.id()).await.unwrap();
    assert_eq!(discarded.entry.resolved.unwrap().how, "discarded");
    serving.cause_gone(member, draft.id()).await.unwrap();
    let stays = inbox.show(draft.id()).await.unwrap().entry.resolved;
    assert_eq!(stays.unwrap().how, "discarded");
    assert!(inbox.retry(Commands::new_id()).await.is_err());
    assert_eq!(inbox.list(EntryFilter::Open).await.unwrap(), vec![]);
    replica.close().await.unwrap();
}

async fn add_integration(replica: &Replica) -> DocumentId {
    let new = NewIntegration {
        adapter: "ical".to_owned(),
        external_id: "file:team.ics".to_owned(),
        ..NewIntegration::default()
    };
    replica.integrations().add(new).await.unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_there_until_it_expires_and_then_said_to_have_expired_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let replica = server(&dir).await;
    let serving = replica.serving().unwrap();
    let workspace = replica.current_workspace().unwrap();
    let integration = add_integration(&replica).await;
    let run = serving.mint_run().unwrap();
    let draft = RunDraft {
        id: run,
        trigger: "manual".to_owned(),
        command: None,
    };
    let start = Changes::new().integration(integration, move |it| it.start_run(&draft));
    serving.write(workspace, start).await.unwrap();
    let mut watch = replica.runs().watch(run).unwrap();
    assert_eq!(watch.next().await.unwrap().status, RunStanding::Running);
    let end = |kept_ms| {
        let end = RunEnd {
            state: RunState::Succeeded,
            error: None,
            kept_ms,
        };
        Changes::new().integration(integration, move |it| it.end_run(run, &end))
    };
    serving.write(workspace, end(300)).await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&RunStanding::NotFound) {
        let status = tokio::time::timeout(DEADLINE, watch.next()).await.unwrap();
        let status = status.unwrap();
        seen.push(status.status);
        if status.status == RunStanding::NotFound {
            assert_eq!(status.not_found_reason, Some(NotFoundReason::Expired));
            assert!(status.expires_at.is_some() && status.run.is_none());
        }
    }
    assert!(seen.len() <= 2, "{seen:?}");
    // Also once it is forgotten, after a restart, and with another store under the same key.
    let forget = Changes::new().integration(integration, move |it| it.forget_run(run));
    serving.write(workspace, forget).await.unwrap();
    let reason = |replica: Replica, run| async move {
        let status = replica.runs().status(run).await.unwrap();
        assert_eq!(status.status, RunStanding::NotFound);
        status.not_found_reason.unwrap()
    };
    assert_eq!(reason(replica.clone(), run).await, NotFoundReason::Expired);
    let never = RunId::from_bytes([7; 16]);
    replica.close().await.unwrap();
    let data = dir.path().join("data");
    std::fs::remove_dir_all(data.join("sled")).unwrap();
    std::fs::remove_dir_all(data.join("journal")).unwrap();
    let replica = server(&dir).await;
    assert_eq!(reason(replica.clone(), run).await, NotFoundReason::Expired);
    assert_eq!(
        reason(replica.clone(), never).await,
        NotFoundReason::NeverExisted
    );
    replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_does_not_guess_about_a_run_it_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::open(dir.path()).await.unwrap();
    let run = RunId::from_bytes([7; 16]);
    let runs = replica.runs();
    assert_eq!(runs.status(run).await.unwrap().status, RunStanding::Unknown);
    let asked = runs.find(run, Duration::from_millis(50)).await.unwrap();
    assert_eq!(asked.status, RunStanding::Unknown);
    runs.find(run, Duration::from_millis(50)).await.unwrap();
    let pending = replica
        .commands()
        .list(CommandFilter::Pending)
        .await
        .unwrap();
    assert_eq!(pending.len(), 1, "the same question is one command");
    // The server's answer.
    let outcome = Outcome::done([("status", "expired".to_owned())]);
    let workspace = replica.current_workspace().unwrap();
    let answer = move |editor: &mut reconvene_model::Editor| editor.command()?.finish(&outcome);
    replica
        .edit_document(workspace, pending[0].id, EditMode::default(), answer)
        .await
        .unwrap();
    let status = runs.find(run, DEADLINE).await.unwrap();
    assert_eq!(status.not_found_reason, Some(NotFoundReason::Expired));
    replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failed_validation_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let replica = server(&dir).await;
    let serving = replica.serving().unwrap();
    let workspace = replica.current_workspace().unwrap();
    let id = add_integration(&replica).await;
    let mut events = replica.events();
    let mut found = Validation {
        state: IntegrationState::Invalid,
        error: Some(Problem {
            code: "not_found".to_owned(),
            message: "no such file".to_owned(),
        }),
        identity: "as it was".to_owned(),
    };
    for expected in [
        IntegrationState::Invalid,
        IntegrationState::Invalid,
        IntegrationState::Valid,
    ] {
        found.state = expected;
        let validated = found.clone();
        let change = Changes::new().integration(id, move |it| it.validated(&validated));
        // The time it was looked at is to the millisecond.
        let before = crate::clock::wall_now();
        while crate::clock::wall_now() == before {
            tokio::task::yield_now().await;
        }
        serving.write(workspace, change).await.unwrap();
        let told = tokio::time::timeout(DEADLINE, events.next()).await.unwrap();
        let Some(ReplicaEvent::IntegrationState {
            state, integration, ..
        }) = told
        else {
            panic!("{told:?}");
        };
        assert_eq!((state, integration), (expected, id));
    }
    replica.integrations().remove(id).await.unwrap();
    assert_eq!(replica.integrations().list().await.unwrap(), vec![]);
    replica.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_purged_after_a_while_and_what_is_open_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let replica = server(&dir).await;
    let serving = replica.serving().unwrap();
    let workspace = replica.current_workspace().unwrap();
    let commands = replica.commands();
    let (ended, pending) = (Commands::new_id(), Commands::new_id());
    for id in [ended, pending] {
        commands.issue(id, &stop(id)).await.unwrap();
    }
    let outcome = Outcome::done([]);
    serving
        .finish(workspace, ended, outcome, Changes::new())
        .await
        .unwrap();
    let is_it = move |row: &crate::CommandRow| row.id == ended && row.command.outcome.is_some();
    let mut listed = replica.subscribe_rows(workspace, is_it).unwrap();
    while listed.next().await.unwrap().added.is_empty() {}
    let hour = Duration::from_secs(3600);
    crate::purging::purge_ended(&replica, workspace, hour)
        .await
        .unwrap();
    assert!(commands.show(ended).await.is_ok(), "it is not old enough");
    crate::purging::purge_ended(&replica, workspace, Duration::ZERO)
        .await
        .unwrap();
    while listed.next().await.unwrap().removed.is_empty() {}
    // What was open is closed a moment later.
    let gone = tokio::time::timeout(DEADLINE, async {
        loop {
            match commands.show(ended).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    });
    assert_eq!(gone.await.unwrap().code(), "document_deleted");
    assert!(commands.show(pending).await.is_ok());
    replica.close().await.unwrap();
}
