//! Which meeting an event is, and which calendars are read.

use reconvene::{DocumentId, Integration};

use super::super::http::Http;
use super::{Adapter as _, AdapterError, Ical, meeting_of, parse, version_of};

const TEAM: &str = "BEGIN:VCALENDAR\r\n\
VERSION:2.0\r\n\
PRODID:-//Example Corp.//Calendar 1.0//EN\r\n\
BEGIN:VEVENT\r\n\
UID:plan-1@example.com\r\n\
DTSTAMP:20260105T090000Z\r\n\
DTSTART;TZID=Europe/Berlin:20260706T100000\r\n\
DTEND;TZID=Europe/Berlin:20260706T110000\r\n\
SUMMARY:Planning\r\n\
END:VEVENT\r\n\
END:VCALENDAR\r\n";

#[test]
fn the_same_event_is_the_same_meeting_and_another_version_when_it_moves() {
    let integration = DocumentId::from_bytes([1; 16]);
    let first = &parse(TEAM).unwrap()[0];
    let moved = TEAM.replace("T110000", "T113000");
    let moved = &parse(&moved).unwrap()[0];
    assert_eq!(
        meeting_of(first, integration),
        meeting_of(moved, integration)
    );
    assert_ne!(version_of(first), version_of(moved));
    let elsewhere = DocumentId::from_bytes([2; 16]);
    assert_ne!(meeting_of(first, integration), meeting_of(first, elsewhere));
    // An occurrence that was moved on its own.
    let apart = TEAM.replace(
        "UID:plan-1@example.com",
        "UID:plan-1@example.com\r\nRECURRENCE-ID:20260706T080000Z",
    );
    let apart = &parse(&apart).unwrap()[0];
    assert_ne!(
        meeting_of(first, integration),
        meeting_of(apart, integration)
    );
}

async fn look(ical: &Ical, place: &str) -> Result<(), AdapterError> {
    let integration = Integration {
        external_id: place.to_owned(),
        ..Integration::default()
    };
    ical.validate(&integration).await
}

#[tokio::test]
async fn only_files_of_the_directory_of_calendars_are_read() {
    let root = tempfile::TempDir::new().unwrap();
    let calendars = root.path().join("calendars");
    std::fs::create_dir(&calendars).unwrap();
    std::fs::write(calendars.join("team.ics"), TEAM).unwrap();
    std::fs::write(root.path().join("secret.ics"), TEAM).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(root.path().join("secret.ics"), calendars.join("link.ics")).unwrap();
    let http = Http::new(Vec::new());
    let ical = Ical::new(Some(calendars), http.clone());
    look(&ical, "file:team.ics").await.unwrap();
    let absolute = format!("file:{}", root.path().join("secret.ics").display());
    for (place, code) in [
        ("file:../secret.ics", "bad_address"),
        (absolute.as_str(), "bad_address"),
        #[cfg(unix)]
        ("file:link.ics", "bad_address"),
        ("file:", "bad_address"),
        ("file:none.ics", "not_found"),
        ("https://127.0.0.1/", "bad_address"),
        ("http://192.0.2.1/", "host_not_allowed"),
    ] {
        let looked = look(&ical, place).await;
        let Err(AdapterError::Invalid(problem)) = looked else {
            panic!("{place}: {looked:?}");
        };
        assert_eq!(problem.code, code, "{place}");
    }
    let none = look(&Ical::new(None, http), "file:team.ics").await;
    assert!(matches!(none, Err(AdapterError::Invalid(problem)) if problem.code == "no_calendars"));
}
