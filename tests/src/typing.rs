//! Part of the measurement: someone types into a long note, and how far behind the other device is.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use reconvene::{ApplyStats, DocumentId, NewMeeting, Replica, ReplicaEvent};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::Verdicts;

/// Characters that stand in the note before.
const NOTE: usize = 10_000;
/// Keystrokes that come evenly, and how far apart: faster than anyone types.
const EVEN: usize = 500;
const APART: Duration = Duration::from_millis(20);
/// Keystrokes that come as fast as they are taken.
const BURST: usize = 3_000;
/// How long the rest may take at the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures two devices that are connected to a server.
pub(crate) async fn measure(
    verdicts: &mut Verdicts,
    a: &Replica,
    b: &Replica,
) -> anyhow::Result<()> {
    println!("\na note of {NOTE} characters, typed into on A and shown on B");
    let added = a.meetings().add(NewMeeting::titled("Typed")).await?;
    let id = added.meeting.id;
    let text = "The quick brown fox jumps over the lazy dog. "
        .chars()
        .cycle();
    let text: String = text.take(NOTE).collect();
    let meetings = a.meetings();
    let edit = meetings.edit(id, move |meeting| meeting.append_note(&text));
    edit.await?;
    let mut reader = Reader {
        events: b.events(),
        b: b.clone(),
        id,
        before: 0,
    };
    for replica in [a, b] {
        replica.connect().await?;
    }
    // From when B has what stands there.
    timeout(PATIENCE, reader.until(NOTE))
        .await
        .context("the note")??;

    for (name, keystrokes, apart) in [("even", EVEN, Some(APART)), ("burst", BURST, None)] {
        let before = b.status().await?.applied;
        let typist = tokio::spawn(type_into(a.clone(), id, keystrokes, apart));
        let seen = timeout(PATIENCE, reader.until(keystrokes)).await;
        let typed = typist.await??;
        let seen = match seen {
            Ok(seen) => seen?,
            Err(_) => Vec::new(),
        };
        let missing = keystrokes.saturating_sub(seen.len());
        verdicts.figure(
            &format!("{name}: keystrokes not shown"),
            missing as f64,
            "",
            0.0,
        );
        let mut late: Vec<_> = typed
            .iter()
            .zip(&seen)
            .map(|(typed, seen)| seen.saturating_duration_since(*typed).as_secs_f64() * 1000.0)
            .collect();
        if let (Some(first), Some(last)) = (typed.first(), typed.last()) {
            let rate = keystrokes as f64 / (*last - *first).as_secs_f64();
            verdicts.note(&format!("{name}: typed"), rate, "changes/s");
        }
        let behind = late.last().copied().unwrap_or_default();
        late.sort_by(f64::total_cmp);
        let at = |share: f64| late.get((late.len() as f64 * share) as usize).copied();
        for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
            let figure = at(share).unwrap_or_default();
            verdicts.note(
                &format!("{name}: from typed to shown, {what}"),
                figure,
                "ms",
            );
        }
        verdicts.note(&format!("{name}: the last one"), behind, "ms");
        applied(verdicts, name, before, b.status().await?.applied);
    }
    Ok(())
}

fn applied(verdicts: &mut Verdicts, name: &str, before: ApplyStats, after: ApplyStats) {
    let batches = after.batches - before.batches;
    let changes = after.changes - before.changes;
    verdicts.note(&format!("{name}: batches applied"), batches as f64, "");
    let each = changes as f64 / batches.max(1) as f64;
    verdicts.note(&format!("{name}: applied changes per batch"), each, "");
}

/// Types, and yields when each keystroke was taken.
async fn type_into(
    a: Replica,
    id: DocumentId,
    keystrokes: usize,
    apart: Option<Duration>,
) -> anyhow::Result<Vec<Instant>> {
    let mut typed = Vec::with_capacity(keystrokes);
    let mut pace = apart.map(interval);
    if let Some(pace) = &mut pace {
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let meetings = a.meetings();
    for _ in 0..keystrokes {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        typed.push(Instant::now());
        meetings
            .edit_buffered(id, |meeting| meeting.append_note("x"))
            .await?;
    }
    Ok(typed)
}

/// What B shows.
struct Reader {
    events: reconvene::Events,
    b: Replica,
    id: DocumentId,
    /// Characters that stood in the note before.
    before: usize,
}

impl Reader {
    /// Shows the note again whenever it changed, until it has so many characters more; when each of
    /// them was shown.
    async fn until(&mut self, more: usize) -> anyhow::Result<Vec<Instant>> {
        let mut shown = Vec::with_capacity(more);
        loop {
            match self.b.meetings().show(self.id).await {
                Ok(view) => {
                    let new = view.meeting.notes.len().saturating_sub(self.before);
                    shown.resize(new.max(shown.len()), Instant::now());
                }
                // It has not arrived.
                Err(error) if error.code() == "not_found" => {}
                Err(error) => return Err(error.into()),
            }
            if shown.len() >= more {
                self.before += more;
                return Ok(shown);
            }
            let is_wanted = |event: &ReplicaEvent| matches!(event, ReplicaEvent::Changed { meetings, .. } if meetings.contains(&self.id));
            while !is_wanted(&self.events.next().await.context("B was closed")?) {}
        }
    }
}
