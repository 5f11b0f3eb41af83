//! Serving from an empty directory to an orderly end, and again at the same place; what was begun is
//! gone on with.

use reconvene::{
    Ask, Commands, EntryFilter, InviteOptions, NewIntegration, OpenOptions, OutcomeState, Replica,
    Role, Taken,
};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Error, ExecutorOptions, ServeOptions, ServerInfo, serve};

async fn serve_once(directory: &TempDir, options: ServeOptions) -> Result<ServerInfo, Error> {
    let open = OpenOptions::new(directory.path()).role(Role::Server).open();
    let replica = open.await.expect("opens");
    let (ready, shutdown) = oneshot::channel();
    let mut info = None;
    let served = serve(&replica, options, shutdown, |ready_info| {
        info = Some(ready_info.clone());
        ready.send(()).expect("it is being served");
    });
    served.await?;
    Ok(info.expect("it was ready"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_listens_where_it_last_did() {
    let directory = TempDir::new().expect("a directory");
    let first = serve_once(&directory, ServeOptions::default())
        .await
        .expect("serves");
    let suffix = format!("/p2p/{}", first.peer_id);
    assert_eq!(first.listening.len(), 1);
    assert!(
        first.listening[0].starts_with("/ip4/127.0.0.1/tcp/"),
        "{first:?}"
    );
    assert!(first.listening[0].ends_with(&suffix), "{first:?}");

    let again = serve_once(&directory, ServeOptions::default())
        .await
        .expect("serves again");
    assert_eq!(again, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_store_can_invite_afterwards() {
    let directory = TempDir::new().expect("a directory");
    let announce = vec!["/ip4/192.0.2.7/tcp/4001".to_owned()];
    let options = ServeOptions {
        announce: announce.clone(),
        ..ServeOptions::default()
    };
    serve_once(&directory, options).await.expect("serves");

    let replica = OpenOptions::new(directory.path())
        .create(false)
        .open()
        .await
        .expect("opens");
    let expires_in = Duration::from_secs(60);
    let invited = replica
        .invite(InviteOptions {
            member: None,
            expires_in,
        })
        .await;
    let ticket = reconvene::Ticket::decode(&invited.expect("invites").ticket).expect("a ticket");
    assert_eq!(ticket.addresses, announce);
    replica.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_address_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let listen = vec!["localhost:4001".to_owned()];
    let options = ServeOptions {
        listen,
        ..ServeOptions::default()
    };
    let refused = serve_once(&directory, options).await;
    match refused {
        Err(Error::Replica(error)) => assert_eq!(error.code(), "bad_address"),
        other => panic!("{other:?}"),
    }
}

/// Serves until a wait of the test is over.
async fn serve_while<T>(replica: &Replica, wait: impl Future<Output = T>) -> T {
    serve_with(replica, ServeOptions::default(), wait).await
}

async fn serve_with<T>(
    replica: &Replica,
    options: ServeOptions,
    wait: impl Future<Output = T>,
) -> T {
    let (ready, started) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let serving = serve(replica, options, stopped, |_| {
        ready.send(()).expect("it is waited for");
    });
    let waited = async {
        started.await.expect("it serves");
        let waited = wait.await;
        stop.send(()).expect("it is being served");
        waited
    };
    let (served, waited) = tokio::join!(serving, waited);
    served.expect("serves");
    waited
}

async fn open(directory: &TempDir) -> Replica {
    let open = OpenOptions::new(directory.path()).role(Role::Server).open();
    let replica = open.await.expect("opens");
    replica.ensure_shared_workspace().await.expect("has one");
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_before_a_crash_is_carried_out_once_after_it() {
    let deadline = Duration::from_secs(60);
    let directory = TempDir::new().expect("a directory");
    let replica = open(&directory).await;
    let calendars = directory.path().join("calendars");
    std::fs::create_dir(&calendars).expect("a directory");
    let new = NewIntegration {
        adapter: "ical".to_owned(),
        external_id: "file:none.ics".to_owned(),
        ..NewIntegration::default()
    };
    let integration = replica.integrations().add(new).await.expect("is added").id;
    let ask = Ask::StartIntegrationSync {
        integration,
        trigger: "manual".to_owned(),
    };
    let id = Commands::new_id();
    replica.commands().issue(id, &ask).await.expect("is issued");
    // As far as it came: taken up, and nothing done.
    let workspace = replica.ensure_shared_workspace().await.expect("has one").id;
    let serving = replica.serving().expect("is a server's");
    let taken = serving.take(workspace, id).await.expect("is taken");
    assert!(matches!(taken, Taken::Accepted(_)), "{taken:?}");
    // Whatever is wanted by now.
    replica.commands().cancel(id).await.expect("is a wish");
    replica.close().await.expect("closes");

    let mut runs = Vec::new();
    for _ in 0..3 {
        let replica = open(&directory).await;
        let commands = replica.commands();
        let ended = serve_while(&replica, commands.ended(id, deadline)).await;
        let outcome = ended.expect("ends").command.outcome.expect("has ended");
        assert_eq!(outcome.state, OutcomeState::Done, "{outcome:?}");
        runs.push(outcome.result["run"].clone());
        // `serve` closed it; what it did is on disk.
        let replica = open(&directory).await;
        let integration = replica.integrations().show(integration).await;
        let known = integration.expect("is there").integration.runs;
        assert_eq!(known.len(), 1, "{known:?}");
        replica.close().await.expect("closes");
    }
    runs.dedup();
    assert_eq!(runs.len(), 1, "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_commands_of_a_member_go_on_than_there_is_a_bound_for() {
    let deadline = Duration::from_secs(60);
    let directory = TempDir::new().expect("a directory");
    let replica = open(&directory).await;
    // It takes connections and says nothing, so that whoever asks there waits.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("listens");
    let port = silent.local_addr().expect("has an address").port();
    let new = NewIntegration {
        adapter: "ical".to_owned(),
        external_id: format!("http://127.0.0.1:{port}/team.ics"),
        ..NewIntegration::default()
    };
    let integration = replica.integrations().add(new).await.expect("is added").id;
    let ask = Ask::ValidateIntegrations {
        integration: Some(integration),
    };
    let ids = [Commands::new_id(), Commands::new_id()];
    let commands = replica.commands();
    for id in ids {
        commands.issue(id, &ask).await.expect("is issued");
    }
    let options = ServeOptions {
        executor: ExecutorOptions {
            commands_per_member: 1,
            ..ExecutorOptions::default()
        },
        ..ServeOptions::default()
    };
    let wait = async {
        let (first, second) = tokio::join!(
            commands.ended(ids[0], deadline),
            commands.ended(ids[1], deadline)
        );
        let entries = replica.inbox().list(EntryFilter::Open).await;
        (first, second, entries.expect("is listed"))
    };
    let (first, second, entries) = serve_with(&replica, options, wait).await;
    let mut ends = Vec::new();
    for ended in [first, second] {
        let outcome = ended.expect("ends").command.outcome.expect("has ended");
        ends.push((outcome.state, outcome.code, outcome.retryable));
    }
    let refused = (
        OutcomeState::Refused,
        Some("too_many_commands".to_owned()),
        true,
    );
    let is_refused = |end: &&(_, _, _)| **end == refused;
    assert_eq!(ends.iter().filter(is_refused).count(), 1, "{ends:?}");
    let entry = entries
        .iter()
        .find(|row| row.entry.code == "too_many_commands");
    assert!(entry.is_some_and(|row| row.entry.retryable), "{entries:?}");
}
