//! The figures that a debug build cannot give, against the limits that the project holds itself to.
//!
//! In one process, on real stores and loopback: a reconnect at which nothing changed and one at which
//! 10 of 5,000 meetings changed, typing into a long note, then opening a store of 20,000 documents and
//! listing its first page.
//! Prints a line per figure and fails if one is over its limit.

mod typing;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use reconvene::{
    DocumentId, ImportedMeeting, InviteOptions, ListOptions, OpenOptions, Replica, Role,
    SyncOptions, SyncReport, qmsum,
};

/// Meetings that are synced; each has a transcript page, so documents are twice as many.
const MEETINGS: usize = 5_000;
/// Of these, those that change.
const CHANGED: usize = 10;
/// Documents of the store that is opened.
const DOCUMENTS: usize = 20_000;
/// Segments of each meeting.
const SEGMENTS: usize = 50;
/// Times the store is opened; the median counts.
const OPENS: usize = 5;

/// How long a pass may stand still.
const PATIENCE: Duration = Duration::from_secs(60);
/// Imports that are under way at once, so that they share barriers.
const IMPORTS_AT_ONCE: usize = 64;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure())
}

/// Figures and whether all were within their limits.
#[derive(Default)]
struct Verdicts {
    over: usize,
}

impl Verdicts {
    fn figure(&mut self, what: &str, figure: f64, unit: &str, limit: f64) {
        let within = figure <= limit;
        self.over += usize::from(!within);
        let verdict = if within { "ok  " } else { "OVER" };
        println!("{verdict}  {what:<58} {figure:>10.1} {unit:<12} limit {limit}");
    }

    /// Something without a limit of its own.
    fn note(&self, what: &str, figure: f64, unit: &str) {
        println!("      {what:<58} {figure:>10.1} {unit}");
    }
}

async fn measure() -> anyhow::Result<bool> {
    let mut verdicts = Verdicts::default();
    let root = tempfile::tempdir()?;
    let server = open(&root.path().join("server"), Role::Server).await?;
    server.ensure_shared_workspace().await?;
    server.listen(&[]).await?;
    let a = join(&server, &root.path().join("a"), "Ada").await?;
    let b = join(&server, &root.path().join("b"), "Ben").await?;

    println!("{MEETINGS} meetings of {SEGMENTS} segments on a server and two devices");
    let began = Instant::now();
    let ids = import(&a, 0..MEETINGS).await?;
    verdicts.note(
        "import",
        ids.len() as f64 / began.elapsed().as_secs_f64(),
        "meetings/s",
    );
    for (device, name) in [(&a, "first sync up"), (&b, "first sync down")] {
        let report = sync(device).await?;
        let documents = report.documents_sent + report.documents_received;
        let seconds = report.elapsed_ms as f64 / 1000.0;
        verdicts.note(name, documents as f64 / seconds, "documents/s");
        let each = frames(&report) / documents as f64;
        verdicts.note(&format!("{name}: frames for each"), each, "bytes");
    }
    for (device, name) in [(&a, "A"), (&b, "B")] {
        let report = sync(device).await?;
        unchanged(&mut verdicts, name, &report);
    }
    for id in ids.iter().step_by(MEETINGS / CHANGED) {
        let edit = |meeting: &mut reconvene::MeetingEditor<'_>| meeting.append_note("changed\n");
        a.meetings().edit(*id, edit).await?;
    }
    for (device, name) in [(&a, "A sends"), (&b, "B receives")] {
        let report = sync(device).await?;
        changed(&mut verdicts, name, &report);
    }
    let exports = [
        a.export(None).await?,
        b.export(None).await?,
        server.export(None).await?,
    ];
    let differing = exports
        .iter()
        .filter(|export| **export != exports[0])
        .count();
    verdicts.figure("exports that differ", differing as f64, "", 0.0);
    typing::measure(&mut verdicts, &a, &b).await?;
    a.disconnect().await?;
    for replica in [b, server] {
        replica.close().await?;
    }

    println!("\na store of {DOCUMENTS} documents, closed in order");
    // What is there already, and as many again as it takes.
    let more = DOCUMENTS.saturating_sub(2 * MEETINGS).div_ceil(2);
    import(&a, MEETINGS..MEETINGS + more).await?;
    let documents = a.status().await?.documents;
    a.close().await?;
    verdicts.note("documents", documents as f64, "");
    open_and_list(&mut verdicts, &root.path().join("a")).await?;
    println!();
    match verdicts.over {
        0 => println!("all within their limits"),
        over => println!("{over} figure(s) over their limit"),
    }
    Ok(verdicts.over == 0)
}

fn frames(report: &SyncReport) -> f64 {
    (report.bytes_sent + report.bytes_received) as f64
}

fn unchanged(verdicts: &mut Verdicts, name: &str, report: &SyncReport) {
    let what = |figure: &str| format!("{name}, nothing changed: {figure}");
    verdicts.figure(&what("frames"), frames(report), "bytes", 1023.0);
    verdicts.figure(&what("round trips"), report.round_trips as f64, "", 1.0);
    let materialised = report.documents_materialised as f64;
    verdicts.figure(&what("documents materialised"), materialised, "", 0.0);
    verdicts.note(&what("time"), report.elapsed_ms as f64, "ms");
}

fn changed(verdicts: &mut Verdicts, name: &str, report: &SyncReport) {
    let what = |figure: &str| format!("{name}, {CHANGED} of {MEETINGS} changed: {figure}");
    verdicts.figure(&what("frames"), frames(report), "bytes", 32_767.0);
    let moved = (report.documents_sent + report.documents_received) as f64;
    verdicts.figure(&what("documents moved"), moved, "", CHANGED as f64);
    let materialised = report.documents_materialised as f64;
    verdicts.figure(&what("materialised"), materialised, "", CHANGED as f64);
    verdicts.note(&what("round trips"), report.round_trips as f64, "");
    verdicts.note(&what("time"), report.elapsed_ms as f64, "ms");
}

async fn open_and_list(verdicts: &mut Verdicts, directory: &Path) -> anyhow::Result<()> {
    let mut took = Vec::with_capacity(OPENS);
    for _ in 0..OPENS {
        let began = Instant::now();
        let replica = Replica::open(directory).await?;
        let page = replica.meetings().list(ListOptions::default()).await?;
        took.push(began.elapsed().as_secs_f64() * 1000.0);
        anyhow::ensure!(
            page.meetings.len() == ListOptions::default().limit,
            "a short page"
        );
        replica.close().await?;
    }
    took.sort_by(f64::total_cmp);
    verdicts.figure(
        "open and list the first page, median",
        took[OPENS / 2],
        "ms",
        500.0,
    );
    verdicts.note("the slowest of them", took[OPENS - 1], "ms");
    Ok(())
}

async fn open(directory: &Path, role: Role) -> anyhow::Result<Replica> {
    let opened = OpenOptions::new(directory).role(role).open().await;
    opened.with_context(|| directory.display().to_string())
}

async fn join(server: &Replica, directory: &Path, member: &str) -> anyhow::Result<Replica> {
    let options = InviteOptions {
        member: Some(member.to_owned()),
        expires_in: Duration::from_secs(3600),
    };
    let invitation = server.invite(options).await?;
    let device = open(directory, Role::Device).await?;
    device.join(&invitation.ticket).await?;
    Ok(device)
}

async fn sync(device: &Replica) -> anyhow::Result<SyncReport> {
    let options = SyncOptions {
        timeout: PATIENCE,
        progress: None,
    };
    let report = device.sync(options).await?;
    anyhow::ensure!(report.verified, "a pass was not verified");
    Ok(report)
}

async fn import(
    device: &Replica,
    numbers: std::ops::Range<usize>,
) -> anyhow::Result<Vec<DocumentId>> {
    let mut ids = Vec::with_capacity(numbers.len());
    let mut under_way = std::collections::VecDeque::new();
    for number in numbers {
        if under_way.len() == IMPORTS_AT_ONCE
            && let Some(import) = under_way.pop_front()
        {
            ids.push(finish(import).await?);
        }
        let (meetings, meeting) = (device.meetings(), meeting(number)?);
        under_way.push_back(tokio::spawn(async move { meetings.import(meeting).await }));
    }
    for import in under_way {
        ids.push(finish(import).await?);
    }
    Ok(ids)
}

async fn finish(
    import: tokio::task::JoinHandle<Result<DocumentId, reconvene::Error>>,
) -> anyhow::Result<DocumentId> {
    Ok(import.await??)
}

/// A small meeting: the words differ, so that nothing is compressed away that would not be.
fn meeting(number: usize) -> anyhow::Result<ImportedMeeting> {
    const WORDS: [&str; 16] = [
        "remote", "control", "budget", "design", "market", "button", "speech", "battery", "user",
        "price", "screen", "shape", "colour", "project", "figure", "meeting",
    ];
    let mut state = number as u64 + 1;
    let mut word = || {
        // Knuth's generator; what matters is only that it is the same in every run.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        WORDS[(state >> 60) as usize]
    };
    let mut text = String::from(r#"{"general_query_list":[],"meeting_transcripts":["#);
    for segment in 0..SEGMENTS {
        let comma = if segment == 0 { "" } else { "," };
        let words: Vec<_> = (0..8).map(|_| word()).collect();
        let (speaker, said) = (segment % 4, words.join(" "));
        text.push_str(&format!(
            r#"{comma}{{"speaker":"Speaker {speaker}","content":"{said}"}}"#
        ));
    }
    text.push_str("]}");
    Ok(qmsum::parse(
        &format!("meeting-{number}.json"),
        text.as_bytes(),
    )?)
}
