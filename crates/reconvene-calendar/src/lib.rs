//! Calendars that other programs write: bytes of the outside become events, or an error that says what
//! is wrong.
//!
//! It reads no file and calls nobody, and does not decide what becomes of an event.

use icalendar::{Calendar, CalendarDateTime, Component as _, DatePerhapsTime};
use icalendar::{Event as IcalEvent, EventStatus};
use reconvene_core::time::WallTime;

use crate::limits::{CALENDAR_EVENTS_MAX, CALENDAR_NESTING_MAX};

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

/// The events of a calendar, those without a UID left out; of two with the same the later one.
///
/// # Errors
/// What is wrong with it, for people.
///
/// # Panics
/// What parses the text may panic over it, although no text is known over which it does.
pub fn parse(text: &str) -> Result<Vec<Event>, String> {
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
