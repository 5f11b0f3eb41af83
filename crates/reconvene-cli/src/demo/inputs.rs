//! The meetings of the demo: those of `examples/qmsum`, inside the program so that it needs no files.

use reconvene::{ImportedMeeting, qmsum};

use crate::failure::Failure;

/// Most meetings of one run; a bigger run belongs to the benchmarks.
pub(crate) const MEETINGS_MAX: u64 = 5_000;

/// The meeting that both devices edit comes first.
const FILES: [(&str, &[u8]); 5] = [
    (
        "ES2002a.json",
        include_bytes!("../../../../examples/qmsum/ES2002a.json"),
    ),
    (
        "IS1000a.json",
        include_bytes!("../../../../examples/qmsum/IS1000a.json"),
    ),
    (
        "Bro007.json",
        include_bytes!("../../../../examples/qmsum/Bro007.json"),
    ),
    (
        "ES2005a.json",
        include_bytes!("../../../../examples/qmsum/ES2005a.json"),
    ),
    (
        "education_3.json",
        include_bytes!("../../../../examples/qmsum/education_3.json"),
    ),
];

/// This many meetings, the given ones again and again; each once without a number.
pub(super) fn meetings(wanted: Option<usize>) -> Result<Vec<ImportedMeeting>, Failure> {
    let mut known = Vec::with_capacity(FILES.len());
    for (name, bytes) in FILES {
        let meeting = qmsum::parse(name, bytes);
        known.push(meeting.map_err(|error| Failure::new("internal", error.to_string()))?);
    }
    let wanted = wanted.unwrap_or(known.len());
    let copies = (0..wanted).map(|n| {
        let mut meeting = known[n % known.len()].clone();
        if let round @ 1.. = n / known.len() {
            meeting.title = format!("{} ({})", meeting.title, round + 1);
        }
        meeting
    });
    Ok(copies.collect())
}
