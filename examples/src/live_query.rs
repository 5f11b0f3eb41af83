//! A live query to the terminal: what a list shows, and what two writers change about it meanwhile.
//! Ends when both have done their part.
//!
//!     cargo run -p reconvene-examples --bin live_query

use std::collections::BTreeMap;

use reconvene::{MeetingFilter, Meetings, NewMeeting, Replica, State};

/// Meetings that each writer makes.
const EACH: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let replica = Replica::open(directory.path().join("data")).await?;
    let meetings = replica.meetings();
    meetings.add(NewMeeting::titled("Planning, before")).await?;

    // Only an index is read; no document is loaded for this.
    let filter = MeetingFilter {
        text: Some("planning".to_owned()),
        ..MeetingFilter::default()
    };
    let mut live = meetings.query(filter).subscribe()?;

    let writers = ["Ada", "Ben"].map(|name| tokio::spawn(write(meetings.clone(), name)));

    // A view is a map: what is added or changed goes in, what is removed goes out.
    let mut shown = BTreeMap::new();
    let is_done = |shown: &BTreeMap<_, reconvene::MeetingRow>| {
        let completed = |row: &&reconvene::MeetingRow| row.state == Some(State::Completed);
        shown.values().filter(completed).count() == 2 * (EACH - 1) && shown.len() == 2 * EACH - 1
    };
    while !is_done(&shown) {
        let batch = live.next().await?;
        for row in batch.added {
            println!("+ {}", row.title);
            shown.insert(row.id, row);
        }
        for row in batch.changed {
            println!("~ {}, {:?}", row.title, row.state);
            shown.insert(row.id, row);
        }
        for id in batch.removed {
            let row = shown.remove(&id);
            println!("- {}", row.map(|row| row.title).unwrap_or_default());
        }
    }
    for writer in writers {
        writer.await??;
    }
    println!("{} meetings about planning", shown.len());
    replica.close().await?;
    Ok(())
}

/// Makes some meetings and completes all but one, which turns out to be about something else.
async fn write(meetings: Meetings, name: &'static str) -> Result<(), reconvene::Error> {
    for number in 1..=EACH {
        let title = format!("Planning {number} with {name}");
        let id = meetings.add(NewMeeting::titled(title)).await?.meeting.id;
        let edit = meetings.edit(id, move |meeting| match number {
            1 => meeting.set_title(&format!("Lunch with {name}")),
            _ => meeting.reach_state(State::Completed),
        });
        edit.await?;
    }
    Ok(())
}
