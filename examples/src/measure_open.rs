//! Measures what a user waits for at the start of an app: opening a store of many documents and
//! listing the first page of them. It prints what it measured and what was promised, and fails only
//! if the promise is missed by far: machines differ.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use reconvene::{ListOptions, NewMeeting, Replica};
use tokio::task::JoinSet;

/// Documents in the store.
const DOCUMENTS: usize = 20_000;
/// Edits that wait for the disk at the same time, sharing its barriers.
const WRITERS: usize = 256;
/// How often the store is opened.
const OPENS: usize = 5;
/// What was promised.
const PROMISE: Duration = Duration::from_millis(500);
/// What no machine may need.
const LIMIT: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("data");
    let began = Instant::now();
    build(&path).await.context("building the store")?;
    println!(
        "a store of {DOCUMENTS} documents, built in {:.1} s",
        began.elapsed().as_secs_f64()
    );

    let mut slowest = Duration::ZERO;
    for turn in 1..=OPENS {
        let (open, list) = open_and_list(&path).await?;
        println!(
            "  {turn}: open {} + first page {} = {}",
            ms(open),
            ms(list),
            ms(open + list)
        );
        slowest = slowest.max(open + list);
    }
    let verdict = if slowest < PROMISE { "kept" } else { "MISSED" };
    println!(
        "promised: under {}; slowest: {}: {verdict}",
        ms(PROMISE),
        ms(slowest)
    );
    ensure!(
        slowest < LIMIT,
        "opening took {}, no machine may need {}",
        ms(slowest),
        ms(LIMIT)
    );
    Ok(())
}

/// Makes a store of [`DOCUMENTS`] documents and closes it.
async fn build(path: &Path) -> anyhow::Result<()> {
    let replica = Replica::open(path).await?;
    let held = replica.status().await?.documents;
    let missing = DOCUMENTS - usize::try_from(held)?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let meetings = replica.meetings();
        writers.spawn(async move {
            for number in (writer..missing).step_by(WRITERS) {
                meetings
                    .add(NewMeeting::titled(format!("Meeting {number}")))
                    .await?;
            }
            Ok::<_, reconvene::Error>(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    let held = replica.status().await?.documents;
    ensure!(held == DOCUMENTS as u64, "the store holds {held} documents");
    replica.close().await?;
    Ok(())
}

/// How long it takes to open the store, and then to list its first page.
async fn open_and_list(path: &Path) -> anyhow::Result<(Duration, Duration)> {
    let began = Instant::now();
    let replica = Replica::open(path).await?;
    let open = began.elapsed();
    let page = replica.meetings().list(ListOptions::default()).await?;
    let list = began.elapsed() - open;
    ensure!(
        page.meetings.len() > 1 && page.next.is_some(),
        "the first page is not a page"
    );
    let loaded: u64 = replica
        .status()
        .await?
        .documents_materialised_by
        .values()
        .sum();
    ensure!(loaded == 0, "{loaded} documents were loaded to list a page");
    replica.close().await?;
    Ok((open, list))
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
