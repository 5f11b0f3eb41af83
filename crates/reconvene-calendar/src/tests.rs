//! Calendars as other programs write them, and what is none.

use reconvene_core::time::WallTime;

use super::parse;

const TEAM: &str = "BEGIN:VCALENDAR\r\n\
VERSION:2.0\r\n\
PRODID:-//Example Corp.//Calendar 1.0//EN\r\n\
BEGIN:VEVENT\r\n\
UID:plan-1@example.com\r\n\
DTSTAMP:20260105T090000Z\r\n\
DTSTART;TZID=Europe/Berlin:20260706T100000\r\n\
DTEND;TZID=Europe/Berlin:20260706T110000\r\n\
SUMMARY:Planning\\, the long\r\n one\r\n\
DESCRIPTION:Bring figures.\\nAnd cake.\r\n\
ATTENDEE;CN=Ada Lovelace:mailto:ada@example.com\r\n\
END:VEVENT\r\n\
BEGIN:VEVENT\r\n\
UID:day@example.com\r\n\
DTSTAMP:20260105T090000Z\r\n\
DTSTART;VALUE=DATE:20260707\r\n\
SUMMARY:A day\r\n\
END:VEVENT\r\n\
BEGIN:VEVENT\r\n\
UID:utc@example.com\r\n\
DTSTAMP:20260105T090000Z\r\n\
DTSTART:20260708T080000Z\r\n\
DTEND:20260708T083000Z\r\n\
STATUS:CANCELLED\r\n\
SUMMARY:Gone\r\n\
END:VEVENT\r\n\
BEGIN:VEVENT\r\n\
UID:floating@example.com\r\n\
DTSTAMP:20260105T090000Z\r\n\
DTSTART:20260708T080000\r\n\
END:VEVENT\r\n\
END:VCALENDAR\r\n";

fn at(ms: i64) -> Option<WallTime> {
    Some(WallTime::from_millis(ms))
}

#[test]
fn events_are_read_with_their_times_and_people() {
    let events = parse(TEAM).unwrap();
    let titles: Vec<_> = events.iter().map(|event| event.title.as_str()).collect();
    assert_eq!(
        titles,
        ["Planning, the longone", "A day", "Gone", "(no title)"]
    );
    let plan = &events[0];
    // 10:00 in Berlin, in summer.
    assert_eq!(plan.starts_at, at(1_783_324_800_000));
    assert_eq!(plan.ends_at, at(1_783_328_400_000));
    assert_eq!(plan.notes, "Bring figures.\nAnd cake.");
    let ada = ("ada@example.com".to_owned(), "Ada Lovelace".to_owned());
    assert_eq!(plan.participants, [ada]);
    assert_eq!(events[1].starts_at, at(1_783_382_400_000));
    assert!(events[2].is_cancelled && !plan.is_cancelled);
    assert_eq!(events[3].starts_at, None, "nobody knows where that is");
}

#[test]
fn what_is_no_calendar_is_said_to_be_none() {
    for text in [
        "",
        "<html></html>",
        "BEGIN:VCALENDAR\r\n",
        "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nEND:VCALENDAR",
        "BEGIN:VEVENT\r\nEND:VEVENT\r\n",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
    // Whatever is cut out of one: an error or fewer events, and no panic.
    for cut in (0..TEAM.len()).step_by(7) {
        let text = format!("{}{}", &TEAM[..cut], &TEAM[TEAM.len().min(cut + 11)..]);
        if let Ok(events) = parse(&text) {
            assert!(events.len() <= 4, "{cut}");
        }
    }
}

#[test]
fn components_nested_without_end_are_refused_before_they_are_parsed() {
    for begin in [
        "BEGIN:A\n",
        "begin:A\r\n",
        "BE\n GIN:A\n",
        "BEGIN\r\n\t:A\r\n",
    ] {
        let calendar = format!("BEGIN:VCALENDAR\n{}END:VCALENDAR", begin.repeat(400_000));
        let refused = parse(&calendar).unwrap_err();
        assert!(refused.contains("nested"), "{refused}");
    }
    assert!(parse(TEAM).is_ok());
}
