//! Embedding: a store on disk, a meeting in it, an edit that is safe once awaited, a list that loads
//! nothing. The README shows this program; the gate runs it.

use reconvene::{ListOptions, NewMeeting, Replica, State};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let replica = Replica::open(directory.path().join("data")).await?;

    let meetings = replica.meetings();

    // Local and durable: this resolves, online or not, when the meeting would survive a power cut.
    let added = meetings.add(NewMeeting::titled("Weekly planning")).await?;
    let edit = meetings.edit(added.meeting.id, |meeting| {
        meeting.reach_state(State::Recording)?;
        meeting.append_note("Bring the figures.")
    });
    edit.await?;

    // Lists come from an index; no document is loaded.
    for row in meetings.list(ListOptions::default()).await?.meetings {
        println!("{}  {}  {:?}", row.id, row.title, row.state);
    }

    // With a ticket that `reconvene invite` printed on a server, this is all it takes to share:
    //     replica.join(&ticket).await?;
    //     replica.connect().await?;
    replica.close().await?;
    Ok(())
}
