//! What the demo tells: its phases, checks and the merged meeting, as JSON and as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use reconvene::SyncReport;
use serde::Serialize;
use serde_json::Value;

/// One phase: what was done, how long it took, what went over the wire.
#[derive(Debug, Serialize)]
pub(super) struct Phase {
    /// A stable word.
    pub(super) phase: &'static str,
    /// The same for people.
    pub(super) title: &'static str,
    /// Time it took.
    pub(super) elapsed_ms: f64,
    /// What was counted, by stable words.
    pub(super) counts: BTreeMap<&'static str, u64>,
    /// Passes with the server, in order.
    pub(super) passes: Vec<Pass>,
    /// Times from an edit here until a reader there sees it, by direction.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) deliveries: Vec<Delivery>,
    /// Our frames, both ways, as the devices count them.
    pub(super) bytes_frames: u64,
    /// The same on the sockets.
    pub(super) bytes_socket: u64,
    /// Times a device waited for an answer; `None` where both sides only push.
    pub(super) round_trips: Option<u64>,
    /// What is said of it besides.
    #[serde(skip)]
    pub(super) notes: Vec<String>,
}

/// A pass of one device.
#[derive(Debug, Serialize)]
pub(super) struct Pass {
    /// Whose.
    pub(super) device: &'static str,
    /// What it did.
    #[serde(flatten)]
    pub(super) report: SyncReport,
}

/// Live edits in one direction.
#[derive(Debug, Serialize)]
pub(super) struct Delivery {
    /// Where the edits were made.
    pub(super) from: &'static str,
    /// Where they were waited for.
    pub(super) to: &'static str,
    /// How many.
    pub(super) edits: usize,
    /// The median.
    pub(super) p50_ms: f64,
    /// The slowest.
    pub(super) max_ms: f64,
}

impl Delivery {
    /// Sums up the times that edits took.
    pub(super) fn of(from: &'static str, to: &'static str, mut took: Vec<Duration>) -> Self {
        took.sort();
        let at = |index: usize| took.get(index).copied().map_or(0.0, millis);
        Self {
            from,
            to,
            edits: took.len(),
            p50_ms: at(took.len() / 2),
            max_ms: at(took.len().saturating_sub(1)),
        }
    }
}

/// Something that must hold.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What.
    pub(super) check: String,
    /// Whether it does.
    pub(super) ok: bool,
    /// What was found.
    pub(super) found: String,
}

/// Everything, as one JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether every check holds.
    pub(super) ok: bool,
    /// Where the stores are, if they stay.
    pub(super) directory: Option<String>,
    /// The phases in order.
    pub(super) phases: Vec<Phase>,
    /// The meeting that both devices edited while apart, as both see it now.
    pub(super) merged: Value,
    /// What was checked.
    pub(super) checks: Vec<Check>,
}

impl Phase {
    /// A phase that took this long and sent nothing yet.
    pub(super) fn new(phase: &'static str, title: &'static str, took: Duration) -> Self {
        Self {
            phase,
            title,
            elapsed_ms: millis(took),
            counts: BTreeMap::new(),
            passes: Vec::new(),
            deliveries: Vec::new(),
            bytes_frames: 0,
            bytes_socket: 0,
            round_trips: None,
            notes: Vec::new(),
        }
    }

    /// Enters a count.
    #[must_use]
    pub(super) fn count(mut self, what: &'static str, count: usize) -> Self {
        self.counts.insert(what, count as u64);
        self
    }

    /// Says something besides.
    #[must_use]
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Enters a pass.
    pub(super) fn pass(&mut self, device: &'static str, report: SyncReport) {
        self.bytes_frames += report.bytes_sent + report.bytes_received;
        self.bytes_socket += report.socket_bytes_sent + report.socket_bytes_received;
        *self.round_trips.get_or_insert(0) += report.round_trips;
        self.passes.push(Pass { device, report });
    }

    /// The phase as text.
    pub(super) fn text(&self, number: usize) -> String {
        let mut out = format!(
            "\n{number}  {:<58} {:>9}\n",
            self.title,
            elapsed(self.elapsed_ms)
        );
        for note in &self.notes {
            writeln!(out, "     {note}").expect(INFALLIBLE);
        }
        if !self.passes.is_empty() {
            let head = format!(
                "     {:<6} {:>6} {:>9} {:>8} {:>11} {:>11} {:>6} {:>9}",
                "pass", "sent", "received", "indexed", "frames", "socket", "trips", "time"
            );
            writeln!(out, "{head}").expect(INFALLIBLE);
        }
        for Pass { device, report } in &self.passes {
            let row = format!(
                "     {device:<6} {:>6} {:>9} {:>8} {:>11} {:>11} {:>6} {:>9}",
                report.documents_sent,
                report.documents_received,
                report.documents_materialised,
                bytes(report.bytes_sent + report.bytes_received),
                bytes(report.socket_bytes_sent + report.socket_bytes_received),
                report.round_trips,
                format!("{} ms", report.elapsed_ms),
            );
            writeln!(out, "{row}").expect(INFALLIBLE);
        }
        for delivery in &self.deliveries {
            let line = format!(
                "     {} to {}: {} edits, each read there after {:.1} ms (median), {:.1} ms at most",
                delivery.from, delivery.to, delivery.edits, delivery.p50_ms, delivery.max_ms
            );
            writeln!(out, "{line}").expect(INFALLIBLE);
        }
        if !self.deliveries.is_empty() {
            let (frames, socket) = (bytes(self.bytes_frames), bytes(self.bytes_socket));
            writeln!(out, "     {frames} in frames, {socket} on the sockets").expect(INFALLIBLE);
        }
        out
    }
}

/// The checks as text.
pub(super) fn checks(checks: &[Check]) -> String {
    let mut out = String::new();
    for Check { check, ok, found } in checks {
        let verdict = if *ok { "ok  " } else { "FAIL" };
        writeln!(out, "     {verdict}  {check}: {found}").expect(INFALLIBLE);
    }
    out
}

/// The merged meeting as text, with the lines of its transcript that are worth showing.
pub(super) fn merged(meeting: &Value, segments: &[Value], conflicts: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names = |value: &Value| {
        let names = value.as_array().into_iter().flatten().map(text);
        names.collect::<Vec<_>>().join(", ")
    };
    let mut out = String::from(
        "\n   The meeting that both edited while apart, as each of them reads it now\n",
    );
    let mut line = |label: &str, value: String| {
        let mut label = label;
        for part in value.lines() {
            writeln!(out, "     {label:<11} {part}").expect(INFALLIBLE);
            label = "";
        }
    };
    line("title", text(&meeting["title"]));
    let reached = STATES
        .into_iter()
        .filter(|state| !meeting["reached"][state].is_null());
    let reached: Vec<_> = reached.collect();
    let state = text(&meeting["state"]);
    line(
        "state",
        format!("{state} (reached: {})", reached.join(", ")),
    );
    line("tags", names(&meeting["tags"]));
    line("notes", text(&meeting["notes"]));
    for segment in segments {
        let (speaker, said) = (text(&segment["speaker"]), text(&segment["text"]));
        line(
            "transcript",
            format!("{} {speaker}: {said}", text(&segment["id"])),
        );
    }
    for conflict in conflicts {
        let values = conflict["values"].as_array().into_iter().flatten();
        let values: Vec<_> = values.map(|value| value["value"].to_string()).collect();
        let values = values.join(" or ");
        let path = text(&conflict["path"]);
        line(
            "conflict",
            format!("{path}: {values} (the last one is shown)"),
        );
    }
    out
}

/// A duration in milliseconds, with the fractions that a live edit needs.
pub(super) fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

fn elapsed(ms: f64) -> String {
    if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.2} s", ms / 1000.0)
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// In the order in which they are reached.
const STATES: [&str; 5] = ["created", "recording", "stopping", "stopped", "completed"];
const INFALLIBLE: &str = "a string takes every write";
