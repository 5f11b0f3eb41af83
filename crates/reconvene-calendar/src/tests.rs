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

#[test]
fn a_long_line_that_cannot_be_read_is_refused_and_harms_nobody() {
    for line in ["x".repeat(70_000), ";".repeat(70_000), "\r".repeat(70_000)] {
        let calendar =
            format!("BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:1\n{line}\nEND:VEVENT\nEND:VCALENDAR\n");
        if let Err(refused) = parse(&calendar) {
            assert!(refused.len() < 200, "{refused}");
        }
    }
}

#[test]
fn an_event_that_would_take_a_lot_of_memory_is_refused() {
    let attendees = "ATTENDEE;CN=a:mailto:b\r\n".repeat(20_000);
    let calendar = format!(
        "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:1\r\n{attendees}END:VEVENT\r\nEND:VCALENDAR\r\n"
    );
    let refused = parse(&calendar).unwrap_err();
    assert_eq!(refused, "the event on line 2 has more than 262144 bytes");
}

#[test]
fn what_is_no_event_keeps_no_event_from_being_read() {
    let broken = "BEGIN:VTODO\r\n;;no property\r\nEND:VTODO\r\nBEGIN:VEVENT";
    let calendar = TEAM.replacen("BEGIN:VEVENT", broken, 1);
    assert_eq!(parse(&calendar), parse(TEAM));
    let twice = format!("{TEAM}{}", TEAM.replace("UID:", "UID:of another "));
    assert_eq!(parse(&twice).unwrap().len(), 2 * parse(TEAM).unwrap().len());
}

#[test]
fn whichever_ends_lines_have_the_same_is_read() {
    let read = parse(TEAM);
    assert_eq!(parse(&TEAM.replace("\r\n", "\n")), read);
    // The parser would take all up to the next line that ends otherwise for one value.
    let (begin, end) = TEAM.split_at(TEAM.len() / 2);
    assert_eq!(parse(&(begin.replace("\r\n", "\n") + end)), read);
    // And it would look for such a line again with every value, for longer than anybody waits.
    let lines = "A:b\n".repeat(20_000);
    let long = TEAM
        .replace("\r\n", "\n")
        .replace("DTSTAMP", &format!("{lines}DTSTAMP"));
    assert_eq!(parse(&long), read);
}

#[test]
fn what_is_attached_to_an_event_is_left_out_and_the_event_is_read() {
    let bytes = "QUJD".repeat(80_000);
    let folded: Vec<_> = bytes.as_bytes().chunks(74).collect();
    let folded: Vec<_> = folded
        .into_iter()
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    for name in [
        "ATTACH;ENCODING=BASE64;VALUE=BINARY",
        "X-ALT-DESC;FMTTYPE=text/html",
    ] {
        let attached = format!("{name}:{}\r\nSUMMARY:Planning", folded.join("\r\n "));
        let text = TEAM.replace("SUMMARY:Planning", &attached);
        assert!(text.len() > 300_000);
        assert_eq!(parse(&text), parse(TEAM));
    }
}
