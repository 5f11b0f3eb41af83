//! What the model parses: files that people import, index rows, and snapshots of peers.

use std::collections::BTreeSet;
use std::panic::catch_unwind;

use reconvene_core::ids::{DocumentId, PeerId};
use reconvene_core::time::WallTime;
use reconvene_model::import::{ImportContext, ImportedMeeting, build_meeting};
use reconvene_model::index::IndexRow;
use reconvene_model::{MEETING, MaterialiseCounter, captions, snapshot as snapshots};

/// A meeting of the QMSum collection.
pub(super) fn qmsum(data: &[u8]) {
    imported(reconvene_model::qmsum::parse("file.json", data).ok());
}

/// A WebVTT file.
pub(super) fn vtt(data: &[u8]) {
    imported(captions::parse_vtt("file.vtt", data).ok());
}

/// A SubRip file.
pub(super) fn srt(data: &[u8]) {
    imported(captions::parse_srt("file.srt", data).ok());
}

/// A calendar that another program wrote.
pub(super) fn calendar(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(events) = reconvene_calendar::parse(text) {
        assert!(events.len() <= reconvene_calendar::limits::CALENDAR_EVENTS_MAX);
        let names = events.iter().map(|event| (&event.uid, &event.occurrence));
        let names: BTreeSet<_> = names.collect();
        assert_eq!(names.len(), events.len());
        for event in &events {
            assert!(!event.uid.is_empty() && !event.title.is_empty());
            assert!(event.participants.is_sorted());
        }
    }
}

/// What parses becomes documents, or an error; and the changes pass the guard.
fn imported(meeting: Option<ImportedMeeting>) {
    let Some(meeting) = meeting else {
        return;
    };
    let ids: Vec<_> = (0..meeting.pages())
        .map(|page| DocumentId::from_bytes([page as u8; 16]))
        .collect();
    let context = ImportContext {
        device: &PeerId::from_bytes([1; 32]),
        incarnation: &[2; 16],
        meeting: DocumentId::from_bytes([0xff; 16]),
        pages: &ids,
        project: None,
        now: WallTime::from_millis(1_700_000_000_000),
    };
    let Ok(built) = build_meeting(&meeting, &context) else {
        return;
    };
    for change in built.iter().flat_map(|document| &document.changes) {
        let header = reconvene_core::guard::parse_change(&change.bytes);
        let header = header.expect("what is imported passes the guard");
        assert_eq!(header.hash, change.hash);
    }
}

/// An index row as it is stored.
pub(super) fn row(data: &[u8]) {
    if let Ok(row) = IndexRow::decode(data) {
        assert_eq!(IndexRow::decode(&row.encode()).ok(), Some(row));
    }
}

/// A snapshot, under the checksum it should have: what loads is taken apart, and every change of it
/// passes the guard.
pub(super) fn snapshot(data: &[u8]) {
    let chunk = reconvene_core::fuzz::seal_snapshot(data);
    let counter = MaterialiseCounter::new();
    let inspected = catch_unwind(|| snapshots::inspect(MEETING, &chunk, &counter));
    let inspected = inspected.expect("what automerge panics on is contained");
    if let Ok(headers) = inspected {
        let known: BTreeSet<_> = headers.iter().map(|one| one.hash).collect();
        assert_eq!(known.len(), headers.len());
    }
}
