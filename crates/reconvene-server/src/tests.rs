//! Serving from an empty directory to an orderly end, and again at the same place.

use reconvene::{InviteOptions, OpenOptions, Role};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Error, ServeOptions, ServerInfo, serve};

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
