//! `ical`: meetings from the events of an iCalendar (RFC 5545), from a file of the server's directory of
//! calendars (`file:NAME`) or over HTTP.
//!
//! An event's meeting has an id that follows from the integration and the event's UID: the same event is
//! the same meeting however often it is read. What people write in the meeting stays; title and times
//! follow the calendar when the event changes there. An event that recurs is one meeting, at its first
//! time, and one more for each occurrence that the calendar tells apart.

use std::io::Read as _;
use std::path::{Component as PathPart, Path, PathBuf};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reconvene::{
    Changes, DocumentId, Integration, MeetingEditor, ModelError, WallTime, derive_document_id,
};
use reconvene_calendar::{Event, parse};
use sha2::{Digest as _, Sha256};

use super::http::{self, Http};
use super::{Adapter, AdapterError, RunContext};
use crate::limits::{EVENTS_PER_BATCH, READ_BYTES_MAX};

/// See the module's documentation.
pub(super) struct Ical {
    calendars: Option<PathBuf>,
    http: Http,
}

impl Ical {
    pub(super) fn new(calendars: Option<PathBuf>, http: Http) -> Self {
        Self { calendars, http }
    }

    async fn read(&self, integration: &Integration) -> Result<Vec<Event>, AdapterError> {
        let place = integration.external_id.as_str();
        let bytes = match place.strip_prefix("file:") {
            Some(name) => {
                let path = self.path(name)?;
                let read = tokio::task::spawn_blocking(move || read_file(&path));
                read.await
                    .map_err(|_| AdapterError::unreachable("io", "the file could not be read"))??
            }
            None => {
                let reply = self.http.get(place).await?;
                http::check(place, &reply)?;
                reply.body.to_vec()
            }
        };
        let text = String::from_utf8(bytes).map_err(|_| {
            AdapterError::invalid("not_a_calendar", format!("{place} is not UTF-8 text"))
        })?;
        // On a thread of its own: a parser that panics over foreign text harms nobody there.
        let parsed = tokio::task::spawn_blocking(move || parse(&text));
        let parsed = parsed
            .await
            .unwrap_or_else(|_| Err("it cannot be read".to_owned()));
        parsed.map_err(|what| {
            AdapterError::invalid("not_a_calendar", format!("{place} is no calendar: {what}"))
        })
    }

    /// A file of the directory of calendars, and of no other.
    fn path(&self, name: &str) -> Result<PathBuf, AdapterError> {
        let Some(calendars) = &self.calendars else {
            let message = "this server reads no calendar files";
            return Err(AdapterError::invalid("no_calendars", message));
        };
        let parts = Path::new(name).components();
        let is_plain = !name.is_empty()
            && parts
                .into_iter()
                .all(|part| matches!(part, PathPart::Normal(_)));
        if !is_plain {
            let message = format!(
                "`file:{name}` does not name a file below the server's directory of calendars"
            );
            return Err(AdapterError::invalid("bad_address", message));
        }
        let found = calendars.join(name).canonicalize();
        let found = found.map_err(|error| file_error(name, &error))?;
        let root = calendars.canonicalize();
        let root = root.map_err(|error| file_error(name, &error))?;
        // A link may lead out of the directory.
        if !found.starts_with(root) {
            let message = format!("`file:{name}` is not in the server's directory of calendars");
            return Err(AdapterError::invalid("bad_address", message));
        }
        Ok(found)
    }
}

fn file_error(name: &str, error: &std::io::Error) -> AdapterError {
    let message = format!("file:{name} could not be read: {}", error.kind());
    match error.kind() {
        std::io::ErrorKind::NotFound => AdapterError::invalid("not_found", message),
        _ => AdapterError::unreachable("io", message),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, AdapterError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let failed = |error: std::io::Error| file_error(&name, &error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > READ_BYTES_MAX {
        let message = format!("file:{name} has more than {READ_BYTES_MAX} bytes");
        return Err(AdapterError::invalid("too_large", message));
    }
    Ok(bytes)
}

/// The meeting that an event is.
fn meeting_of(event: &Event, integration: DocumentId) -> DocumentId {
    let occurrence = event.occurrence.as_deref().unwrap_or_default();
    let parts = [
        integration.as_bytes(),
        event.uid.as_bytes(),
        occurrence.as_bytes(),
    ];
    derive_document_id("reconvene/ical/1", &parts)
}

/// Another text whenever what follows the calendar is another.
fn version_of(event: &Event) -> String {
    let mut hash = Sha256::new();
    let millis = |at: Option<WallTime>| at.map_or(i64::MIN, WallTime::as_millis).to_be_bytes();
    hash.update((event.title.len() as u64).to_be_bytes());
    hash.update(&event.title);
    hash.update(millis(event.starts_at));
    hash.update(millis(event.ends_at));
    let digest = hash.finalize();
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn write(event: &Event, meeting: &mut MeetingEditor<'_>) -> Result<(), ModelError> {
    let version = version_of(event);
    if meeting.is_created()? {
        if meeting.source_version()?.as_ref() == Some(&version) {
            return Ok(());
        }
        meeting.set_title(&event.title)?;
    } else {
        meeting.create(&event.title, None)?;
        meeting.set_source(&format!("ical:{}", event.uid))?;
        if !event.notes.is_empty() {
            meeting.append_note(&format!("{}\n", event.notes))?;
        }
        for (id, name) in &event.participants {
            meeting.add_participant(id, name)?;
        }
    }
    meeting.schedule(event.starts_at, event.ends_at)?;
    meeting.set_source_version(&version)
}

impl Adapter for Ical {
    fn name(&self) -> &'static str {
        "ical"
    }

    fn validate<'a>(
        &'a self,
        integration: &'a Integration,
    ) -> BoxFuture<'a, Result<(), AdapterError>> {
        async { self.read(integration).await.map(drop) }.boxed()
    }

    fn run<'a>(&'a self, run: &'a mut RunContext) -> BoxFuture<'a, Result<(), AdapterError>> {
        async {
            let events = self.read(&run.integration).await?;
            run.total = Some(events.len() as u64);
            for batch in events.chunks(EVENTS_PER_BATCH) {
                run.progress().await?;
                let mut new = Vec::new();
                for event in batch {
                    if is_news(run, event).await? {
                        new.push(event);
                    }
                }
                run.items += put(run, &new).await?;
                run.done += batch.len() as u64;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Whether an event has something to say that its meeting does not.
async fn is_news(run: &RunContext, event: &Event) -> Result<bool, AdapterError> {
    let id = meeting_of(event, run.id);
    let known = run.serving.meeting(run.workspace, id).await?;
    Ok(match known.filter(|known| known.created_at.is_some()) {
        Some(known) => !event.is_cancelled && known.source_version != Some(version_of(event)),
        None => !event.is_cancelled,
    })
}

/// Writes the meetings of events; how many.
async fn put(run: &RunContext, events: &[&Event]) -> Result<u64, AdapterError> {
    if events.is_empty() {
        return Ok(0);
    }
    let of = |events: &[&Event]| {
        events.iter().fold(Changes::new(), |changes, event| {
            let event = (*event).clone();
            let id = meeting_of(&event, run.id);
            changes.put_meeting(id, move |meeting| write(&event, meeting))
        })
    };
    match run.serving.write(run.workspace, of(events)).await {
        Ok(()) => return Ok(events.len() as u64),
        Err(error) if is_of_one(&error) => {}
        Err(error) => return Err(error.into()),
    }
    // One of them is not to be written; the others are.
    let mut written = 0;
    for event in events {
        match run.serving.write(run.workspace, of(&[*event])).await {
            Ok(()) => written += 1,
            Err(error) if is_of_one(&error) => {
                tracing::debug!(code = error.code(), "an event is left out");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}

/// Whether an error is about one meeting: somebody deleted it, or what the event says cannot be written.
fn is_of_one(error: &reconvene::Error) -> bool {
    let codes = [
        "meeting_deleted",
        "document_deleted",
        "edit_refused",
        "document_damaged",
        "document_too_new",
    ];
    codes.contains(&error.code())
}

#[cfg(test)]
mod tests;
