//! `demo`: the main job in one command, on real input.
//!
//! A server peer and two devices, each a replica on its own store, linked over loopback in this one
//! process: import, first sync, edits on both sides while apart, reconnect, live edits, converge. It
//! checks what it claims and ends with a failure if anything does not hold. It never touches the
//! store of whoever runs it: its own are in a temporary directory, or in a new one named with `--data`.

mod inputs;
mod peers;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use reconvene::{
    DocumentId, Events, MeetingView, NewMeeting, PageView, Replica, ReplicaEvent, State,
};
use serde_json::{Value, json};
use tokio::time::timeout;

pub(crate) use self::inputs::MEETINGS_MAX;
use self::peers::{PATIENCE, Peer, Peers};
use self::report::{Check, Delivery, Phase, Report};
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, to_value, write_line};

/// Most bytes of frames of a reconnect at which nothing changed.
const IDLE_RECONNECT_BYTES_MAX: u64 = 1024;
/// Edits made in each direction while both devices are connected.
const LIVE_EDITS: usize = 10;
/// The segment of the showcase meeting that A corrects, the one that B does, and the one both do.
const CORRECTED: [&str; 3] = ["000001", "000003", "000005"];

/// Runs the demo, below a directory if one is named, and yields the exit code.
pub(crate) async fn run(
    directory: Option<&Path>,
    meetings: Option<usize>,
    output: Output,
) -> Result<u8, Failure> {
    let place = Place::prepare(directory)?;
    let told = Told {
        output,
        phases: Vec::new(),
    };
    let ran = play(&place, meetings, told).await;
    let report = ran.map_err(|failure| Failure {
        message: format!("the demo could not go on: {}", failure.message),
        ..failure
    })?;
    if output.is_json() {
        output.answer(&to_value(&report)?, |_| String::new())?;
    }
    Ok(if report.ok { exit::OK } else { exit::FAILURE })
}

/// Where the stores are.
enum Place {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Place {
    fn prepare(directory: Option<&Path>) -> Result<Self, Failure> {
        let io = |error: std::io::Error| {
            Failure::new("io", format!("no directory for the demo's stores: {error}"))
        };
        let Some(directory) = directory else {
            let made = tempfile::Builder::new().prefix("reconvene-demo-").tempdir();
            return made.map(Self::Temporary).map_err(io);
        };
        std::fs::create_dir_all(directory).map_err(io)?;
        if std::fs::read_dir(directory).map_err(io)?.next().is_some() {
            let message = format!("{} is not empty", directory.display());
            return Err(Failure::new("bad_input", message)
                .with_hint("name a new or empty directory with --data, or none at all"));
        }
        Ok(Self::Kept(directory.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Kept(directory) => directory,
        }
    }

    fn kept(&self) -> Option<String> {
        match self {
            Self::Temporary(_) => None,
            Self::Kept(directory) => Some(directory.display().to_string()),
        }
    }
}

/// The phases so far; with text, each is told when it ends.
struct Told {
    output: Output,
    phases: Vec<Phase>,
}

impl Told {
    fn phase(&mut self, phase: Phase) -> Result<(), Failure> {
        self.phases.push(phase);
        let (number, phase) = (self.phases.len(), &self.phases[self.phases.len() - 1]);
        self.say(&phase.text(number))
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        if !self.output.is_json() {
            write_line(text)?;
        }
        Ok(())
    }
}

/// What was done while apart, to be found again everywhere.
struct Apart {
    /// Edited on both sides.
    shared: DocumentId,
    /// Its first transcript page.
    page: DocumentId,
    /// Texts that every export must hold, and who wrote them.
    expected: Vec<(&'static str, &'static str)>,
}

async fn play(place: &Place, meetings: Option<usize>, mut told: Told) -> Result<Report, Failure> {
    let imported = inputs::meetings(meetings)?;
    let peers = Peers::start(place.path()).await?;
    told.say(&introduction(&peers, place))?;

    let (phase, ids) = import(&peers, imported).await?;
    told.phase(phase)?;
    told.phase(passes(&peers, "first_sync", "First sync: A, then B", "AB").await?)?;
    let (phase, apart) = edit_apart(&peers, &ids).await?;
    told.phase(phase)?;
    told.phase(passes(&peers, "reconnect", "Reconnect: A, B, and A again", "ABA").await?)?;
    told.phase(live(&peers, ids[ids.len() / 2]).await?)?;

    let began = Instant::now();
    let mut checks = converged(&peers, &apart).await?;
    let phase = Phase::new(
        "converge",
        "Compare the three replicas, all links cut",
        began.elapsed(),
    );
    told.phase(phase.count("checks", checks.len()))?;
    told.say(&report::checks(&checks))?;

    let phase = passes(
        &peers,
        "reconnect_unchanged",
        "Reconnect with nothing changed",
        "AB",
    );
    let phase = phase.await?;
    let unchanged = unchanged(&phase);
    told.phase(phase)?;
    told.say(&report::checks(&unchanged))?;
    checks.extend(unchanged);

    let view = peers.b.replica.meetings().show(apart.shared).await?;
    let merged = to_value(&view.meeting)?;
    let (lines, conflicts) = transcript(&view, apart.page)?;
    told.say(&report::merged(&merged, &lines, &conflicts))?;
    // Without what is only true of one replica.
    let merged = json!({ "id": view.id, "meeting": merged, "pages": to_value(&view.pages)? });
    peers.close().await?;
    let ok = checks.iter().all(|check| check.ok);
    told.say(&verdict(&checks, place))?;
    Ok(Report {
        ok,
        directory: place.kept(),
        phases: told.phases,
        merged,
        checks,
    })
}

fn introduction(peers: &Peers, place: &Place) -> String {
    format!(
        "A server peer and two devices on real stores, linked over loopback, in one process.\n\n     \
         server  {}\n     A       a device of Ada's\n     B       a device of Ben's\n     stores  {}\n",
        peers.address,
        place.path().display()
    )
}

fn verdict(checks: &[Check], place: &Place) -> String {
    let failed: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
    let mut out = String::from("\n");
    if failed.is_empty() {
        out.push_str("All three replicas hold the same, and both sides' edits.\n");
    }
    for check in failed {
        out.push_str(&format!("FAILED  {}: {}\n", check.check, check.found));
    }
    if let Some(directory) = place.kept() {
        out.push_str(&format!(
            "  next: look around with `reconvene --data {directory}/a meeting list`\n"
        ));
    }
    out
}

async fn import(
    peers: &Peers,
    imported: Vec<reconvene::ImportedMeeting>,
) -> Result<(Phase, Vec<DocumentId>), Failure> {
    peers.cut().await?;
    let segments: usize = imported.iter().map(|meeting| meeting.segments.len()).sum();
    let began = Instant::now();
    let mut ids = Vec::with_capacity(imported.len());
    for meeting in imported {
        ids.push(peers.a.replica.meetings().import(meeting).await?);
    }
    let took = began.elapsed();
    let documents = documents(&peers.a.replica).await?;
    let phase = Phase::new("import", "Import on A, which is offline", took)
        .count("meetings", ids.len())
        .count("documents", documents)
        .count("segments", segments)
        .note(format!(
            "{} QMSum meetings, {segments} transcript segments, {documents} documents, all durable",
            ids.len()
        ));
    Ok((phase, ids))
}

/// Documents of the current workspace.
async fn documents(replica: &Replica) -> Result<usize, Failure> {
    let status = replica.status().await?;
    let current = status.workspaces.iter().find(|workspace| workspace.current);
    Ok(current.map_or(0, |workspace| {
        usize::try_from(workspace.documents).unwrap_or(usize::MAX)
    }))
}

/// One pass of each device named, in order.
async fn passes(
    peers: &Peers,
    phase: &'static str,
    title: &'static str,
    devices: &str,
) -> Result<Phase, Failure> {
    let began = Instant::now();
    let mut reports = Vec::new();
    for device in devices.chars() {
        let peer = if device == 'A' { &peers.a } else { &peers.b };
        reports.push((peer.name, peer.sync().await?));
    }
    let mut phase = Phase::new(phase, title, began.elapsed());
    for (device, report) in reports {
        phase.pass(device, report);
    }
    Ok(phase)
}

async fn edit_apart(peers: &Peers, ids: &[DocumentId]) -> Result<(Phase, Apart), Failure> {
    peers.cut().await?;
    let shared = ids[0];
    let view = peers.a.replica.meetings().show(shared).await?;
    let pages = view.meeting.pages_in_order();
    let page = *pages
        .first()
        .ok_or_else(|| Failure::new("internal", "the first meeting has no transcript"))?;
    let title = view.meeting.title;
    let began = Instant::now();

    let a = peers.a.replica.meetings();
    let wanted = format!("{title}: kick-off");
    a.edit(shared, move |meeting| {
        meeting.set_title(&wanted)?;
        meeting.append_note("Ada: bring the cost figures.\n")?;
        meeting.reach_state(State::Recording)?;
        meeting.add_tag("remote-control")
    })
    .await?;
    a.edit_page(page, |page| {
        page.correct_segment(CORRECTED[0], "Corrected by Ada.")?;
        page.correct_segment(CORRECTED[2], "Ada heard this.")
    })
    .await?;
    // The last meetings are touched by one side each; with few meetings they are the same.
    let other = ids[ids.len() - 1];
    a.edit(other, |meeting| meeting.append_note("Ada: read again.\n"))
        .await?;
    peers.a.replica.projects().add("Apollo").await?;
    peers.a.replica.projects().activate("Apollo").await?;
    a.add(NewMeeting::titled("Ada's new meeting")).await?;

    let b = peers.b.replica.meetings();
    let wanted = format!("Design team, {title}");
    b.edit(shared, move |meeting| {
        meeting.set_title(&wanted)?;
        meeting.append_note("Ben: book the usability lab.\n")?;
        meeting.reach_state(State::Stopped)?;
        meeting.add_tag("design")
    })
    .await?;
    b.edit_page(page, |page| {
        page.correct_segment(CORRECTED[1], "Corrected by Ben.")?;
        page.correct_segment(CORRECTED[2], "Ben heard that.")
    })
    .await?;
    let other = ids[ids.len().saturating_sub(2)];
    b.edit(other, |meeting| {
        meeting.append_note("Ben: send this to the client.\n")
    })
    .await?;
    peers.b.replica.projects().add("Zephyr").await?;
    b.add(NewMeeting::titled("Ben's new meeting")).await?;

    let phase = Phase::new(
        "edit_apart",
        "No links; both edit, also the same meeting",
        began.elapsed(),
    )
    .count("edits", 12)
    .note("each: title, notes, state, tags and transcript of the same meeting,")
    .note("notes of another one, a project, a new meeting; every edit durable");
    let apart = Apart {
        shared,
        page,
        expected: vec![
            ("A", ": kick-off"),
            ("A", "Ada: bring the cost figures."),
            ("A", "Corrected by Ada."),
            ("A", "Ada heard this."),
            ("A", "Ada: read again."),
            ("A", "remote-control"),
            ("A", "Apollo"),
            ("A", "Ada's new meeting"),
            ("B", "Design team, "),
            ("B", "Ben: book the usability lab."),
            ("B", "Corrected by Ben."),
            ("B", "Ben heard that."),
            ("B", "Ben: send this to the client."),
            ("B", "\"design\""),
            ("B", "Zephyr"),
            ("B", "Ben's new meeting"),
        ],
    };
    Ok((phase, apart))
}

/// Both devices stay connected; how long until an edit here is read there.
async fn live(peers: &Peers, meeting: DocumentId) -> Result<Phase, Failure> {
    let began = Instant::now();
    let (a, b) = (&peers.a, &peers.b);
    let mut a_events = a.replica.events();
    let mut b_events = b.replica.events();
    for (peer, events) in [(a, &mut a_events), (b, &mut b_events)] {
        peer.replica.connect().await?;
        until(events, |event| {
            matches!(event, ReplicaEvent::Verified { .. })
        })
        .await?;
    }
    let deliveries = vec![
        deliver(a, b, &mut b_events, meeting).await?,
        deliver(b, a, &mut a_events, meeting).await?,
    ];
    let mut phase = Phase::new(
        "live",
        "Both connected; edits as they happen",
        began.elapsed(),
    )
    .count("edits", 2 * LIVE_EDITS);
    for device in [a, b] {
        for link in device.replica.status().await?.links {
            phase.bytes_frames += link.bytes_sent + link.bytes_received;
            phase.bytes_socket += link.socket_bytes_sent + link.socket_bytes_received;
        }
    }
    phase.deliveries = deliveries;
    Ok(phase)
}

async fn deliver(
    from: &Peer,
    to: &Peer,
    events: &mut Events,
    meeting: DocumentId,
) -> Result<Delivery, Failure> {
    let mut took = Vec::with_capacity(LIVE_EDITS);
    for n in 0..LIVE_EDITS {
        let line = format!("Live from {}, {n}.\n", from.name);
        let written = line.clone();
        let began = Instant::now();
        let meetings = from.replica.meetings();
        meetings
            .edit(meeting, move |meeting| meeting.append_note(&written))
            .await?;
        loop {
            until(events, |event| {
                matches!(event, ReplicaEvent::Changed { documents, .. } if documents.contains(&meeting))
            })
            .await?;
            let read = to.replica.meetings().show(meeting).await?;
            if read.meeting.notes.contains(&line) {
                break;
            }
        }
        took.push(began.elapsed());
    }
    Ok(Delivery::of(from.name, to.name, took))
}

/// Waits for an event.
async fn until(events: &mut Events, wanted: impl Fn(&ReplicaEvent) -> bool) -> Result<(), Failure> {
    let waited = timeout(PATIENCE, async {
        loop {
            match events.next().await {
                Some(event) if wanted(&event) => return Ok(()),
                Some(_) => {}
                None => return Err(Failure::new("closed", "a store was closed")),
            }
        }
    });
    let late = |_| {
        let seconds = PATIENCE.as_secs();
        Failure::new(
            "timeout",
            format!("an edit did not arrive within {seconds} s"),
        )
    };
    waited.await.map_err(late)?
}

async fn converged(peers: &Peers, apart: &Apart) -> Result<Vec<Check>, Failure> {
    peers.cut().await?;
    let mut exports = Vec::new();
    for peer in peers.all() {
        exports.push(peer.export().await?);
    }
    let mut checks = vec![same_heads(&exports)?, same_bytes(&exports)];
    checks.extend(both_sides(&exports, apart));
    checks.push(nothing_owed(peers).await?);
    Ok(checks)
}

fn same_heads(exports: &[String]) -> Result<Check, Failure> {
    let mut heads = Vec::new();
    for export in exports {
        let export: Value = serde_json::from_str(export)
            .map_err(|error| Failure::new("internal", format!("an export is no JSON: {error}")))?;
        let documents = export["documents"].as_array().cloned().unwrap_or_default();
        let of_each = documents.into_iter().map(|document| {
            let id = document["id"].as_str().unwrap_or_default().to_owned();
            (id, document["heads"].clone())
        });
        heads.push(of_each.collect::<BTreeMap<_, _>>());
    }
    let documents = heads.first().map_or(0, BTreeMap::len);
    let differing: BTreeSet<_> = heads
        .iter()
        .flat_map(BTreeMap::keys)
        .filter(|id| {
            heads
                .iter()
                .any(|known| known.get(*id) != heads[0].get(*id))
        })
        .collect();
    let found = if differing.is_empty() {
        format!("{documents} documents on A, B and the server")
    } else {
        format!("{} documents differ", differing.len())
    };
    Ok(Check {
        check: "identical heads".to_owned(),
        ok: differing.is_empty() && documents > 0,
        found,
    })
}

fn same_bytes(exports: &[String]) -> Check {
    let ok = exports.iter().all(|export| *export == exports[0]);
    let sizes: Vec<_> = exports
        .iter()
        .map(|export| export.len().to_string())
        .collect();
    Check {
        check: "identical exports".to_owned(),
        ok,
        found: if ok {
            format!("{} bytes each", sizes[0])
        } else {
            format!("they differ ({} bytes)", sizes.join(", "))
        },
    }
}

fn both_sides(exports: &[String], apart: &Apart) -> Vec<Check> {
    let side = |device| {
        let wanted = apart.expected.iter().filter(|(by, _)| *by == device);
        let texts: Vec<_> = wanted.map(|(_, text)| *text).collect();
        let lost = |text: &&&str| exports.iter().any(|export| !export.contains(**text));
        let lost: Vec<_> = texts.iter().filter(lost).copied().collect();
        Check {
            check: format!("edits of {device} everywhere"),
            ok: lost.is_empty(),
            found: if lost.is_empty() {
                format!("{} of {}", texts.len(), texts.len())
            } else {
                format!("missing somewhere: {}", lost.join("; "))
            },
        }
    };
    vec![side("A"), side("B")]
}

/// Whether each device knows that the server holds all it has, and has indexed all.
async fn nothing_owed(peers: &Peers) -> Result<Check, Failure> {
    let server = peers.server.replica.device().peer_id;
    let mut wrong = Vec::new();
    for device in [&peers.a, &peers.b] {
        for workspace in device.replica.status().await?.workspaces {
            let peer = workspace.peers.iter().find(|peer| peer.peer == server);
            let owed = peer.and_then(|peer| peer.owed);
            let refused = peer.map_or(0, |peer| peer.refused_here.len() + peer.refused_there.len());
            if owed != Some(0) || refused > 0 || !workspace.index.current {
                wrong.push(format!(
                    "{} in `{}`: {owed:?} owed, {refused} refused, indexed: {}",
                    device.name, workspace.name, workspace.index.current
                ));
            }
        }
    }
    Ok(Check {
        check: "status of every workspace".to_owned(),
        ok: wrong.is_empty(),
        found: if wrong.is_empty() {
            "nothing owed, nothing refused, all indexed".to_owned()
        } else {
            wrong.join("; ")
        },
    })
}

fn unchanged(phase: &Phase) -> Vec<Check> {
    let of = |pass: &report::Pass| {
        let report = &pass.report;
        let bytes = report.bytes_sent + report.bytes_received;
        let ok = report.verified
            && report.round_trips == 1
            && bytes < IDLE_RECONNECT_BYTES_MAX
            && report.documents_sent + report.documents_received == 0
            && report.documents_materialised == 0;
        Check {
            check: format!(
                "{}: one round trip, under 1 KiB, nothing touched",
                pass.device
            ),
            ok,
            found: format!(
                "{} round trip(s), {bytes} bytes, {} documents",
                report.round_trips, report.documents_materialised
            ),
        }
    };
    phase.passes.iter().map(of).collect()
}

/// The lines of a transcript page that were corrected, as they read now, and the page's conflicts
/// after those of the meeting.
fn transcript(view: &MeetingView, page: DocumentId) -> Result<(Vec<Value>, Vec<Value>), Failure> {
    let mut lines = Vec::new();
    let mut conflicts = Vec::new();
    for conflict in &view.meeting.conflicts {
        conflicts.push(to_value(conflict)?);
    }
    for shown in &view.pages {
        let PageView::Present { id, page: content } = shown else {
            continue;
        };
        if *id != page {
            continue;
        }
        for segment in &content.segments {
            if CORRECTED.contains(&segment.id.as_str()) {
                lines.push(to_value(segment)?);
            }
        }
        for conflict in &content.conflicts {
            conflicts.push(to_value(conflict)?);
        }
    }
    Ok((lines, conflicts))
}
