//! Two devices and a server in one process: both edit the same meeting while apart, and hold the same
//! afterwards. Fails if they do not.
//!
//!     cargo run -p reconvene-examples --bin two_replicas

use std::path::Path;
use std::time::Duration;

use reconvene::{InviteOptions, NewMeeting, OpenOptions, Replica, Role, SyncOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;

    // A server is a replica that listens, here on a free port of this machine.
    let server = OpenOptions::new(directory.path().join("server")).role(Role::Server);
    let server = server.open().await?;
    server.ensure_shared_workspace().await?;
    server.listen(&[]).await?;

    let ada = join(&server, &directory.path().join("ada"), "Ada").await?;
    let ben = join(&server, &directory.path().join("ben"), "Ben").await?;

    let added = ada.meetings().add(NewMeeting::titled("Planning")).await?;
    let meeting = added.meeting.id;
    sync(&ada).await?;
    sync(&ben).await?;

    // No link is up now: each edits its own copy.
    let meetings = ada.meetings();
    let edit = meetings.edit(meeting, |meeting| {
        meeting.append_note("Ada: bring the figures.\n")?;
        meeting.add_tag("budget")
    });
    edit.await?;
    let meetings = ben.meetings();
    let edit = meetings.edit(meeting, |meeting| {
        meeting.append_note("Ben: book a room.\n")?;
        meeting.set_title("Planning for spring")
    });
    edit.await?;

    // Ada's goes up, Ben's goes up and Ada's comes down, Ben's comes down.
    for device in [&ada, &ben, &ada] {
        sync(device).await?;
    }
    let merged = ada.meetings().show(meeting).await?.meeting;
    println!(
        "{}, tagged {:?}\n{}",
        merged.title, merged.tags, merged.notes
    );

    // An export is the same bytes wherever the same is held.
    let exports = [
        ada.export(None).await?,
        ben.export(None).await?,
        server.export(None).await?,
    ];
    let equal = exports.iter().all(|export| *export == exports[0]);
    println!("exports of Ada, Ben and the server are equal: {equal}");
    anyhow::ensure!(equal, "the replicas hold different things");
    for replica in [ada, ben, server] {
        replica.close().await?;
    }
    Ok(())
}

async fn join(server: &Replica, directory: &Path, member: &str) -> anyhow::Result<Replica> {
    let invitation = server.invite(InviteOptions {
        member: Some(member.to_owned()),
        expires_in: Duration::from_secs(3600),
    });
    let device = Replica::open(directory).await?;
    device.join(&invitation.await?.ticket).await?;
    Ok(device)
}

async fn sync(device: &Replica) -> anyhow::Result<()> {
    let report = device.sync(SyncOptions::default()).await?;
    anyhow::ensure!(report.verified, "the pass was not verified");
    Ok(())
}
