//! Calendars that other programs write: bytes of the outside become events, or an error that says what
//! is wrong.
//!
//! It reads no file and calls nobody, and does not decide what becomes of an event.

use std::collections::BTreeMap;

use icalendar::parser::{read_calendar_simple, unfold};
use icalendar::{CalendarComponent, CalendarDateTime, Component as _, DatePerhapsTime};
use icalendar::{Event as IcalEvent, EventStatus};
use reconvene_core::time::WallTime;

use crate::limits::{CALENDAR_EVENT_BYTES_MAX, CALENDAR_EVENTS_MAX, CALENDAR_NESTING_MAX};

pub mod limits;

/// What is taken from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the calendar calls it, never empty.
    pub uid: String,
    /// Which occurrence of an event that recurs, as the calendar writes it.
    pub occurrence: Option<String>,
    /// Its title, never empty.
    pub title: String,
    /// What is written about it.
    pub notes: String,
    /// When it begins, where the calendar says a moment.
    pub starts_at: Option<WallTime>,
    /// When it ends, where the calendar says a moment.
    pub ends_at: Option<WallTime>,
    /// Address and name of each, in order.
    pub participants: Vec<(String, String)>,
    /// Whether it does not take place.
    pub is_cancelled: bool,
}

/// The events of a calendar, those without a UID left out; of two with the same the later one. What is
/// no event is not looked at, but for where it begins and ends.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse(text: &str) -> Result<Vec<Event>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with("BEGIN:VCALENDAR") {
        return Err("it does not begin with BEGIN:VCALENDAR".to_owned());
    }
    if !text.trim_end().ends_with("END:VCALENDAR") {
        return Err("it does not end with END:VCALENDAR".to_owned());
    }
    // A line may be folded anywhere.
    let text = without_attachments(&unfold(&text.replace("\r\n", "\n")));
    let mut events: Vec<Event> = Vec::new();
    let mut places = BTreeMap::new();
    for (line, event) in components(&text)? {
        let Some(event) = parse_event(event, line)? else {
            continue;
        };
        let name = (event.uid.clone(), event.occurrence.clone());
        match places.get(&name) {
            Some(place) => events[*place] = event,
            None if events.len() == CALENDAR_EVENTS_MAX => {
                return Err(format!("it has more than {CALENDAR_EVENTS_MAX} events"));
            }
            None => {
                places.insert(name, events.len());
                events.push(event);
            }
        }
    }
    Ok(events)
}

/// The same without long lines of which nothing is taken: files that are attached, pictures, and what
/// programs write for themselves. Another line stands for each.
fn without_attachments(text: &str) -> String {
    const LONG_BYTES: usize = 1024;
    let is_left_out = |line: &str| {
        let name = line.split([':', ';']).next().unwrap_or_default().trim();
        let is_own = name
            .get(..2)
            .is_some_and(|begin| begin.eq_ignore_ascii_case("X-"));
        is_own
            || ["ATTACH", "IMAGE"]
                .iter()
                .any(|of| name.eq_ignore_ascii_case(of))
    };
    let lines =
        text.split_inclusive('\n')
            .map(|line| match line.len() > LONG_BYTES && is_left_out(line) {
                true => "X-LEFT-OUT:1\n",
                false => line,
            });
    lines.collect()
}

/// Where the events of a calendar are: the line on which each begins, and its text. The parser is given
/// one at a time, since it takes sixty times the memory of what it reads, and a frame of its stack for
/// each component within another.
fn components(text: &str) -> Result<Vec<(usize, &str)>, String> {
    let mut found = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    let (mut at, mut event) = (0, None);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let from = at;
        at += line.len();
        let line = line.trim();
        if let Some(name) = after("BEGIN:", line) {
            open.push(name);
            if open.len() > CALENDAR_NESTING_MAX {
                return Err(format!(
                    "its components are nested more than {CALENDAR_NESTING_MAX} deep"
                ));
            }
            let is_event = open.len() == 2 && name.eq_ignore_ascii_case("VEVENT");
            if is_event && open[0].eq_ignore_ascii_case("VCALENDAR") {
                event = Some((number, from));
            }
        } else if let Some(name) = after("END:", line) {
            let begun = open.pop().unwrap_or_default();
            if !begun.eq_ignore_ascii_case(name) || begun.is_empty() {
                return Err(format!(
                    "something ends on line {number} that did not begin"
                ));
            }
            if open.len() == 1
                && let Some((number, from)) = event.take()
            {
                found.push((number, &text[from..at]));
            }
        } else if open.is_empty() && !line.is_empty() {
            return Err(format!("line {number} is of nothing that began"));
        }
        if let Some((number, from)) = event
            && at - from > CALENDAR_EVENT_BYTES_MAX
        {
            return Err(format!(
                "the event on line {number} has more than {CALENDAR_EVENT_BYTES_MAX} bytes"
            ));
        }
    }
    match open.last() {
        None => Ok(found),
        Some(name) => Err(format!("{} does not end", shortened(name))),
    }
}

/// What follows a word that a line begins with.
fn after<'a>(word: &str, line: &'a str) -> Option<&'a str> {
    let (begin, rest) = line.split_at_checked(word.len())?;
    begin.eq_ignore_ascii_case(word).then(|| rest.trim())
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Reads an event that begins on this line; `None` if it has no UID.
fn parse_event(text: &str, line: usize) -> Result<Option<Event>, String> {
    // Of each value it looks for this line end first, and were there none, it would go through all that
    // follows.
    let text = text.replace('\n', "\r\n");
    // Its words for what is wrong are not asked for: it panics over some.
    let parsed = read_calendar_simple(&text).map_err(|error| {
        let before = text.len() - error.input.len().min(text.len());
        let lines = text.as_bytes()[..before].iter();
        let line = line + lines.filter(|byte| **byte == b'\n').count();
        format!("line {line} cannot be read: {}", shortened(error.input))
    })?;
    let event = parsed.into_iter().next().map(CalendarComponent::from);
    Ok(match event {
        Some(CalendarComponent::Event(event)) => read(&event),
        _ => None,
    })
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

#[cfg(test)]
mod tests;
