//! Integrations and sync runs: what is refused before anything is issued, that a repeated call is the
//! same command, and how a run is told from its beginning to its expiry.

use reconvene::{
    Changes, CommandFilter, CommandRow, Commands, DocumentId, NewIntegration, Outcome, Problem,
    RunDraft, RunEnd, RunId, RunState, WorkspaceId,
};
use tonic::Code;

use super::streams::{next, watch};
use super::{Client, DEADLINE, Server, reason, run};
use crate::v1;
use crate::v1::event::Happened;

const UNKNOWN: &str = "01890000-0000-7000-8000-000000000000";

async fn integrate(server: &Server) -> DocumentId {
    let new = NewIntegration {
        adapter: "ical".to_owned(),
        external_id: "file:none.ics".to_owned(),
        ..NewIntegration::default()
    };
    server.replica.integrations().add(new).await.unwrap().id
}

async fn shared(server: &Server) -> WorkspaceId {
    server.replica.ensure_shared_workspace().await.unwrap().id
}

async fn outbox(server: &Server) -> Vec<CommandRow> {
    let commands = server.replica.commands();
    commands.list(CommandFilter::Pending).await.unwrap()
}

/// Nobody carries commands out here: what is to be waited for is not.
fn start(integration: &str) -> v1::StartIntegrationSyncRequest {
    v1::StartIntegrationSyncRequest {
        integration_id: integration.to_owned(),
        wait_ms: Some(0),
        ..Default::default()
    }
}

async fn status(client: &mut Client, run: RunId) -> v1::GetSyncStatusResponse {
    let run_id = run.to_string();
    let asked = client.get_sync_status(v1::GetSyncStatusRequest { run_id });
    asked.await.unwrap().into_inner()
}

/// Changes an integration as a server does that carries out a run of it.
async fn carry_on(server: &Server, integration: DocumentId, step: Step) {
    let changes = Changes::new().integration(integration, move |it| match step {
        Step::Begin(draft) => it.start_run(&draft),
        Step::Progress(run) => it.progress(run, 2, Some(5), 1),
        Step::End(run, end) => it.end_run(run, &end),
        Step::Forget(run) => it.forget_run(run),
    });
    let serving = server.replica.serving().unwrap();
    serving.write(shared(server).await, changes).await.unwrap();
}

enum Step {
    Begin(RunDraft),
    Progress(RunId),
    End(RunId, RunEnd),
    Forget(RunId),
}

async fn begin(server: &Server, integration: DocumentId) -> RunId {
    let id = server.replica.serving().unwrap().mint_run().unwrap();
    let draft = RunDraft {
        id,
        trigger: "test".to_owned(),
        command: None,
    };
    carry_on(server, integration, Step::Begin(draft)).await;
    id
}

#[test]
fn a_run_that_is_not_kept_is_a_status_and_no_failure() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let never = status(&mut client, RunId::from_bytes([7; 16])).await;
        assert_eq!(never.status(), v1::SyncStatus::NotFound);
        assert_eq!(never.not_found_reason(), v1::NotFoundReason::NeverExisted);
        assert_eq!((never.run, never.expires_at), (None, None));
        // One that was issued and is nowhere, as after the loss of the store.
        let lost = server.replica.serving().unwrap().mint_run().unwrap();
        let lost = status(&mut client, lost).await;
        assert_eq!(lost.not_found_reason(), v1::NotFoundReason::Expired);
        let run_id = "12".to_owned();
        let asked = client.get_sync_status(v1::GetSyncStatusRequest { run_id });
        let refused = asked.await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(reason(&refused), "bad_id");
        server.close().await;
    });
}

#[test]
fn a_run_is_told_from_its_beginning_until_it_has_expired() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let integration = integrate(&server).await;
        let id = begin(&server, integration).await;
        carry_on(&server, integration, Step::Progress(id)).await;
        let told = status(&mut client, id).await;
        assert_eq!(told.status(), v1::SyncStatus::Running);
        assert_eq!(told.integration_id, Some(integration.to_string()));
        let workspace = shared(&server).await.to_string();
        assert_eq!(told.workspace_id, Some(workspace));
        assert_eq!(told.expires_at, None);
        let going = told.run.unwrap();
        assert_eq!(going.trigger, "test");
        assert_eq!((going.done, going.total, going.items), (2, Some(5), 1));
        assert!(going.started_at.is_some() && going.finished_at.is_none());

        // It is asked to end, by a command in the outbox that a repeated call finds there.
        let cancel = v1::CancelSyncRequest {
            run_id: id.to_string(),
            command_id: Some(Commands::new_id().to_string()),
            wait_ms: Some(0),
        };
        for _ in 0..2 {
            let asked = client.cancel_sync(cancel.clone()).await.unwrap();
            let asked = asked.into_inner();
            assert_eq!(asked.command_id, cancel.command_id);
            assert_eq!(asked.status.unwrap().status(), v1::SyncStatus::Running);
        }
        let waiting = outbox(&server).await;
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].command.name, "cancel_run");

        let problem = Problem {
            code: "unreachable".to_owned(),
            message: "nobody is there".to_owned(),
        };
        let end = |kept_ms| RunEnd {
            state: RunState::Failed,
            error: Some(problem.clone()),
            kept_ms,
        };
        carry_on(&server, integration, Step::End(id, end(3_600_000))).await;
        let told = status(&mut client, id).await;
        assert_eq!(told.status(), v1::SyncStatus::Failed);
        let ended = told.run.unwrap();
        let (finished, expires) = (ended.finished_at.unwrap(), told.expires_at.unwrap());
        assert_eq!(expires.seconds - finished.seconds, 3600);
        assert_eq!(ended.error.unwrap().code, "unreachable");
        // What has ended is asked for nothing more.
        let ended = client.cancel_sync(cancel).await.unwrap().into_inner();
        assert_eq!(ended.command_id, None);
        assert_eq!(outbox(&server).await.len(), 1);

        let next = begin(&server, integration).await;
        carry_on(&server, integration, Step::End(next, end(0))).await;
        let told = status(&mut client, next).await;
        assert_eq!(told.status(), v1::SyncStatus::NotFound);
        assert_eq!(told.not_found_reason(), v1::NotFoundReason::Expired);
        assert_eq!(told.run, None);
        let cancel = v1::CancelSyncRequest {
            run_id: next.to_string(),
            ..Default::default()
        };
        let refused = client.cancel_sync(cancel).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert_eq!(reason(&refused), "not_found");
        server.close().await;
    });
}

/// The next event that tells of an integration or a run.
async fn told(events: &mut tonic::Streaming<v1::Event>) -> (Happened, String) {
    loop {
        let event = next(events).await.unwrap();
        match event.happened.unwrap() {
            Happened::Changed(_) => {}
            happened => return (happened, event.cursor),
        }
    }
}

fn run_of(happened: &Happened) -> (&str, &v1::GetSyncStatusResponse) {
    match happened {
        Happened::Run(run) => (&run.run_id, run.status.as_ref().unwrap()),
        other => panic!("{other:?}"),
    }
}

fn integration_of(happened: &Happened) -> &v1::IntegrationChanged {
    match happened {
        Happened::Integration(changed) => changed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_watch_tells_of_integrations_and_runs_from_their_beginning_to_their_end() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let mut events = watch(&mut client, None).await.unwrap();
        let id = integrate(&server).await;
        let (happened, added_at) = told(&mut events).await;
        let added = integration_of(&happened);
        let of = added.integration.as_ref().unwrap();
        assert_eq!(
            (of.id.as_str(), of.adapter.as_str()),
            (&*id.to_string(), "ical")
        );
        assert_eq!(of.state(), v1::IntegrationState::Unspecified);
        assert!(!added.removed && added.run_ids.is_empty());

        let first = begin(&server, id).await;
        let (happened, _) = told(&mut events).await;
        assert_eq!(integration_of(&happened).run_ids, [first.to_string()]);
        let (happened, _) = told(&mut events).await;
        let (run, begun) = run_of(&happened);
        assert_eq!(
            (run, begun.status()),
            (&*first.to_string(), v1::SyncStatus::Running)
        );
        carry_on(&server, id, Step::Progress(first)).await;
        let (happened, _) = told(&mut events).await;
        let (_, going) = run_of(&happened);
        let done = going.run.as_ref().unwrap();
        assert_eq!((done.done, done.total, done.items), (2, Some(5), 1));
        let end = |kept_ms| RunEnd {
            state: RunState::Failed,
            error: Some(Problem {
                code: "gone".to_owned(),
                message: "gone".to_owned(),
            }),
            kept_ms,
        };
        carry_on(&server, id, Step::End(first, end(3_600_000))).await;
        let (happened, ended_at) = told(&mut events).await;
        let (_, ended) = run_of(&happened);
        assert_eq!(ended.status(), v1::SyncStatus::Failed);
        assert_eq!(
            ended.run.as_ref().unwrap().error.as_ref().unwrap().code,
            "gone"
        );
        assert!(ended.expires_at.is_some());

        // What was missed comes from the cursor on, as it is now, and what was told before does not.
        drop(events);
        let second = begin(&server, id).await;
        carry_on(&server, id, Step::End(second, end(0))).await;
        let mut events = watch(&mut client, Some(ended_at.clone())).await.unwrap();
        let (happened, cursor) = told(&mut events).await;
        let mut kept = [first.to_string(), second.to_string()];
        kept.sort();
        assert_eq!(integration_of(&happened).run_ids, kept);
        assert_eq!(cursor, ended_at, "the runs are still to be told");
        let mut statuses = std::collections::BTreeMap::new();
        for _ in 0..2 {
            let (happened, at) = told(&mut events).await;
            let (run, status) = run_of(&happened);
            statuses.insert(run.to_owned(), (status.status(), at));
        }
        assert_eq!(statuses[&first.to_string()].0, v1::SyncStatus::Failed);
        assert_eq!(statuses[&second.to_string()].0, v1::SyncStatus::NotFound);
        let cursors = statuses.values().filter(|(_, at)| *at == ended_at).count();
        assert_eq!(
            cursors, 1,
            "all but the last lead back before them: {statuses:?}"
        );
        // And when nothing is kept of it, once.
        for run in [second, first] {
            carry_on(&server, id, Step::Forget(run)).await;
            let (happened, _) = told(&mut events).await;
            assert!(!integration_of(&happened).run_ids.contains(&run.to_string()));
            if run == first {
                let (happened, _) = told(&mut events).await;
                let (run, status) = run_of(&happened);
                assert_eq!(run, first.to_string());
                assert_eq!(status.not_found_reason(), v1::NotFoundReason::Expired);
            }
        }
        drop(events);

        // From the start of it all, what is there is told once.
        let mut events = watch(&mut client, Some(added_at)).await.unwrap();
        let (happened, _) = told(&mut events).await;
        assert!(integration_of(&happened).run_ids.is_empty());
        server.replica.integrations().remove(id).await.unwrap();
        let mut removed = false;
        while !removed {
            let (happened, _) = told(&mut events).await;
            if let Happened::Integration(changed) = happened {
                removed = changed.removed;
            }
        }
        server.close().await;
    });
}

#[test]
fn what_cannot_be_is_refused_before_a_command_is_issued() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let integration = integrate(&server).await;
        let wanted = start(UNKNOWN);
        let refused = client.start_integration_sync(wanted).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert_eq!(reason(&refused), "not_found");
        assert!(refused.message().contains(UNKNOWN), "{refused:?}");
        let wanted = v1::ValidateIntegrationsRequest {
            integration_id: Some(UNKNOWN.to_owned()),
            ..Default::default()
        };
        let refused = client.validate_integrations(wanted).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let refused = client.start_integration_sync(start("12")).await;
        assert_eq!(reason(&refused.unwrap_err()), "bad_id");
        let wanted = v1::StartIntegrationSyncRequest {
            wait_ms: Some(30_001),
            ..start(&integration.to_string())
        };
        let refused = client.start_integration_sync(wanted).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("30000"), "{refused:?}");
        let removed = server.replica.integrations().remove(integration).await;
        removed.unwrap();
        let wanted = start(&integration.to_string());
        let refused = client.start_integration_sync(wanted).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(reason(&refused), "integration_removed");
        assert_eq!(outbox(&server).await, []);
        server.close().await;
    });
}

#[test]
fn a_repeated_call_is_the_same_command_and_answers_with_its_outcome() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let integration = integrate(&server).await;
        let command = Commands::new_id();
        let mut wanted = start(&integration.to_string());
        wanted.command_id = Some(command.to_string());
        for _ in 0..2 {
            let answer = client.start_integration_sync(wanted.clone()).await;
            let answer = answer.unwrap().into_inner();
            assert_eq!(answer.command_id, command.to_string());
            assert_eq!(answer.run_id, None);
        }
        let waiting = outbox(&server).await;
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].command.arguments["trigger"], "api");
        let author = waiting[0].command.issued_by.unwrap();
        assert_eq!(author.member, server.replica.device().member);

        // Its outcome comes while the call waits.
        let id = begin(&server, integration).await;
        wanted.wait_ms = Some(30_000);
        let mut other = server.client().await;
        let waits = wanted.clone();
        let waiting = tokio::spawn(async move { other.start_integration_sync(waits).await });
        let serving = server.replica.serving().unwrap();
        let outcome = Outcome::done([("run", id.to_string())]);
        let workspace = shared(&server).await;
        let finished = serving.finish(workspace, command, outcome, Changes::new());
        finished.await.unwrap();
        let answer = tokio::time::timeout(DEADLINE, waiting).await.unwrap();
        let answer = answer.unwrap().unwrap().into_inner();
        assert_eq!(answer.run_id, Some(id.to_string()));
        // It stands, also once the integration is there no more; another command is refused.
        let removed = server.replica.integrations().remove(integration).await;
        removed.unwrap();
        let again = client.start_integration_sync(wanted.clone()).await;
        assert_eq!(again.unwrap().into_inner(), answer);
        assert_eq!(outbox(&server).await, []);
        let mut differing = wanted;
        differing.trigger = Some("other".to_owned());
        let refused = client.start_integration_sync(differing).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(reason(&refused), "edit_refused");
        server.close().await;
    });
}

#[test]
fn a_command_that_does_not_succeed_fails_the_call_with_its_code() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        integrate(&server).await;
        let serving = server.replica.serving().unwrap();
        let workspace = shared(&server).await;
        let ends = [
            (
                Outcome::refused("unknown_adapter", "there is none"),
                Code::FailedPrecondition,
                "unknown_adapter",
            ),
            (
                Outcome::failed("full", "no room", true),
                Code::Unavailable,
                "full",
            ),
            (Outcome::cancelled(), Code::Aborted, "cancelled"),
        ];
        for (outcome, code, why) in ends {
            let command = Commands::new_id();
            let wanted = v1::ValidateIntegrationsRequest {
                command_id: Some(command.to_string()),
                wait_ms: Some(0),
                ..Default::default()
            };
            let answer = client.validate_integrations(wanted.clone()).await;
            let answer = answer.unwrap().into_inner();
            assert!(!answer.done && answer.integrations.is_empty(), "{answer:?}");
            let finished = serving.finish(workspace, command, outcome, Changes::new());
            finished.await.unwrap();
            let refused = client.validate_integrations(wanted).await.unwrap_err();
            assert_eq!(refused.code(), code);
            assert_eq!(reason(&refused), why);
        }
        server.close().await;
    });
}

#[test]
fn a_run_of_a_home_is_its_members_alone() {
    run(async {
        let server = Server::new().await;
        let mut client = server.client().await;
        let home = server.replica.device().home;
        let at_home = server.replica.in_workspace(&home.to_string()).await;
        let new = NewIntegration {
            adapter: "ical".to_owned(),
            external_id: "file:private.ics".to_owned(),
            ..NewIntegration::default()
        };
        let added = at_home.unwrap().integrations().add(new).await;
        let integration = added.unwrap().id;
        let serving = server.replica.serving().unwrap();
        let draft = RunDraft {
            id: serving.mint_run().unwrap(),
            trigger: "test".to_owned(),
            command: None,
        };
        let run_id = draft.id.to_string();
        let begin = Changes::new().integration(integration, move |it| it.start_run(&draft));
        serving.write(home, begin).await.unwrap();
        let asked = client.get_sync_status(v1::GetSyncStatusRequest { run_id });
        let refused = asked.await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("home"), "{refused:?}");
        server.close().await;
    });
}

#[test]
fn no_more_calls_are_in_flight_than_there_is_a_bound_for() {
    run(async {
        const CALLS: usize = 2;
        let server = Server::with_calls(tempfile::tempdir().unwrap(), CALLS).await;
        let integration = integrate(&server).await.to_string();
        let wanted = v1::StartIntegrationSyncRequest {
            wait_ms: Some(30_000),
            ..start(&integration)
        };
        // On connections of their own: it is not for one of them alone.
        let mut waiting = Vec::new();
        for _ in 0..CALLS {
            let (mut client, wanted) = (server.client().await, wanted.clone());
            waiting.push(tokio::spawn(async move {
                client.start_integration_sync(wanted).await
            }));
        }
        let issued = async {
            while outbox(&server).await.len() < CALLS {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, issued).await.unwrap();
        let mut client = server.client().await;
        let info = v1::GetServerInfoRequest {};
        let refused = client.get_server_info(info).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(reason(&refused), "too_many_calls");
        // A stream is none of them, and a call that ends makes room.
        watch(&mut client, None).await.unwrap();
        let serving = server.replica.serving().unwrap();
        let (workspace, first) = (shared(&server).await, outbox(&server).await[0].id);
        let outcome = Outcome::done([]);
        let ended = serving.finish(workspace, first, outcome, Changes::new());
        ended.await.unwrap();
        let freed = async {
            while client.get_server_info(info).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, freed).await.unwrap();
        server.close().await;
        let mut ends = Vec::new();
        for call in waiting {
            ends.push(call.await.unwrap().is_ok());
        }
        ends.sort_unstable();
        assert_eq!(ends, [false, true]);
    });
}

#[test]
fn a_call_that_waits_when_the_server_stops_is_told_and_its_command_stays() {
    run(async {
        let server = Server::new().await;
        let integration = integrate(&server).await;
        let mut client = server.client().await;
        let mut wanted = start(&integration.to_string());
        wanted.wait_ms = Some(30_000);
        let waiting = tokio::spawn(async move { client.start_integration_sync(wanted).await });
        let issued = async {
            while outbox(&server).await.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, issued).await.unwrap();
        let directory = server.close().await;
        let told = tokio::time::timeout(DEADLINE, waiting).await.unwrap();
        let told = told.unwrap().unwrap_err();
        assert_eq!(told.code(), Code::Unavailable);
        assert_eq!(reason(&told), "closed");
        let server = Server::open(directory).await;
        assert_eq!(outbox(&server).await.len(), 1);
        server.close().await;
    });
}
