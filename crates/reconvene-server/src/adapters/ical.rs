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
use icalendar::{Calendar, CalendarDateTime, Component as _, DatePerhapsTime};
use icalendar::{Event as IcalEvent, EventStatus};
use reconvene::{
    Changes, DocumentId, Integration, MeetingEditor, ModelError, WallTime, derive_document_id,
};
use sha2::{Digest as _, Sha256};

use super::http::{self, Http};
use super::{Adapter, AdapterError, RunContext};
use crate::limits::{CALENDAR_EVENTS_MAX, CALENDAR_NESTING_MAX, EVENTS_PER_BATCH, READ_BYTES_MAX};

/// See the module's documentation.
pub(super) struct Ical {
    calendars: Option<PathBuf>,
    http: Http,
}

/// What is taken from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    uid: String,
    /// Which occurrence of an event that recurs, as the calendar writes it.
    occurrence: Option<String>,
    title: String,
    notes: String,
    starts_at: Option<WallTime>,
    ends_at: Option<WallTime>,
    participants: Vec<(String, String)>,
    is_cancelled: bool,
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

/// Refuses components within components beyond what calendars have: the parser would take a frame of
/// its stack for each.
fn check_nesting(text: &str) -> Result<(), String> {
    // As the parser reads them: a line may be folded anywhere.
    let unfolded = text
        .replace("\r\n", "\n")
        .replace("\n ", "")
        .replace("\n\t", "");
    let mut depth = 0_usize;
    for line in unfolded.lines() {
        let name = line.trim_start();
        let begins = |word: &str| {
            name.get(..word.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(word))
        };
        if begins("BEGIN:") {
            depth += 1;
        } else if begins("END:") {
            depth = depth.saturating_sub(1);
        }
        if depth > CALENDAR_NESTING_MAX {
            return Err(format!(
                "its components are nested more than {CALENDAR_NESTING_MAX} deep"
            ));
        }
    }
    Ok(())
}

/// The events of a calendar, those without a UID left out; of two with the same the later one.
pub(super) fn parse(text: &str) -> Result<Vec<Event>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with("BEGIN:VCALENDAR") {
        return Err("it does not begin with BEGIN:VCALENDAR".to_owned());
    }
    if !text.trim_end().ends_with("END:VCALENDAR") {
        return Err("it does not end with END:VCALENDAR".to_owned());
    }
    check_nesting(text)?;
    let calendar: Calendar = text.parse()?;
    let mut events: Vec<Event> = Vec::new();
    let mut places = std::collections::BTreeMap::new();
    for event in calendar.events().filter_map(read) {
        let name = (event.uid.clone(), event.occurrence.clone());
        match places.get(&name) {
            Some(place) => events[*place] = event,
            None => {
                places.insert(name, events.len());
                events.push(event);
            }
        }
    }
    if events.len() > CALENDAR_EVENTS_MAX {
        let found = events.len();
        return Err(format!(
            "it has {found} events, at most {CALENDAR_EVENTS_MAX} are taken"
        ));
    }
    Ok(events)
}

fn read(event: &IcalEvent) -> Option<Event> {
    let uid = event.property_value("UID").filter(|uid| !uid.is_empty())?;
    let text = |value: Option<&str>| value.unwrap_or_default().trim().to_owned();
    let title = text(event.get_summary());
    let mut participants: Vec<_> = event
        .get_attendees()
        .iter()
        .filter_map(participant)
        .collect();
    participants.sort();
    Some(Event {
        uid: uid.to_owned(),
        occurrence: event.property_value("RECURRENCE-ID").map(str::to_owned),
        title: match title.is_empty() {
            true => "(no title)".to_owned(),
            false => title,
        },
        notes: text(event.get_description()),
        starts_at: event.get_start().and_then(moment),
        ends_at: event.get_end().and_then(moment),
        participants,
        is_cancelled: event.get_status() == Some(EventStatus::Cancelled),
    })
}

fn participant(attendee: &icalendar::Attendee) -> Option<(String, String)> {
    let address = attendee.cal_address.as_str();
    let address = address.strip_prefix("mailto:").unwrap_or(address);
    let name = attendee.cn.clone().unwrap_or_else(|| address.to_owned());
    (!address.is_empty()).then(|| (address.to_owned(), name))
}

/// The moment of a time that says which it is. One without a time zone, or in one that nobody knows, is
/// not guessed at; a day is its first moment in UTC.
fn moment(time: DatePerhapsTime) -> Option<WallTime> {
    let time = match time {
        DatePerhapsTime::Date(day) => day.and_hms_opt(0, 0, 0)?.and_utc(),
        DatePerhapsTime::DateTime(CalendarDateTime::Floating(_)) => return None,
        DatePerhapsTime::DateTime(time) => time.try_into_utc()?,
    };
    Some(WallTime::from_millis(time.timestamp_millis()))
}

impl Event {
    /// The meeting that this event is.
    fn meeting(&self, integration: DocumentId) -> DocumentId {
        let occurrence = self.occurrence.as_deref().unwrap_or_default();
        let parts = [
            integration.as_bytes(),
            self.uid.as_bytes(),
            occurrence.as_bytes(),
        ];
        derive_document_id("reconvene/ical/1", &parts)
    }

    /// Another text whenever what follows the calendar is another.
    fn version(&self) -> String {
        let mut hash = Sha256::new();
        let millis = |at: Option<WallTime>| at.map_or(i64::MIN, WallTime::as_millis).to_be_bytes();
        hash.update((self.title.len() as u64).to_be_bytes());
        hash.update(&self.title);
        hash.update(millis(self.starts_at));
        hash.update(millis(self.ends_at));
        let digest = hash.finalize();
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn write(&self, meeting: &mut MeetingEditor<'_>) -> Result<(), ModelError> {
        if meeting.is_created()? {
            if meeting.source_version()?.as_ref() == Some(&self.version()) {
                return Ok(());
            }
            meeting.set_title(&self.title)?;
        } else {
            meeting.create(&self.title, None)?;
            meeting.set_source(&format!("ical:{}", self.uid))?;
            if !self.notes.is_empty() {
                meeting.append_note(&format!("{}\n", self.notes))?;
            }
            for (id, name) in &self.participants {
                meeting.add_participant(id, name)?;
            }
        }
        meeting.schedule(self.starts_at, self.ends_at)?;
        meeting.set_source_version(&self.version())
    }
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
    let id = event.meeting(run.id);
    let known = run.serving.meeting(run.workspace, id).await?;
    Ok(match known.filter(|known| known.created_at.is_some()) {
        Some(known) => !event.is_cancelled && known.source_version != Some(event.version()),
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
            let id = event.meeting(run.id);
            changes.put_meeting(id, move |meeting| event.write(meeting))
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
