//! Tests of the journal: what survives cuts, flips and interrupted repairs, and what is released.

use reconvene_core::ids::{DocumentKind, WorkspaceId};
use reconvene_core::records::{JournalDocument, JournalFrame, Record as _};
use reconvene_core::storage::JournalRelease;

use super::*;
use crate::golden::{self, Vector};
use crate::testing::{EPOCH, WORKSPACE, entry};

struct Dirs {
    _temporary: tempfile::TempDir,
    journal: PathBuf,
    quarantine: PathBuf,
}

impl Dirs {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let [journal, quarantine] = ["journal", "quarantine"].map(|name| {
            let path = temporary.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        Self {
            _temporary: temporary,
            journal,
            quarantine,
        }
    }

    fn open(&self) -> (Journal, Recovered) {
        Journal::open(&self.journal, &self.quarantine).unwrap()
    }

    fn segments(&self) -> Vec<String> {
        names_in(&self.journal).unwrap()
    }
}

fn append(journal: &mut Journal, entries: &[JournalEntry]) {
    journal.append(&entries.iter().collect::<Vec<_>>()).unwrap();
}

fn release(through: u64) -> JournalReleases {
    JournalReleases::from([(WORKSPACE, (EPOCH, FeedSeq(through)).into())])
}

#[test]
fn entries_come_back_in_order_over_several_opens() {
    let dirs = Dirs::new();
    let mut expected = Vec::new();
    for round in 0..5 {
        let (mut journal, recovered) = dirs.open();
        assert_eq!(recovered.entries, expected);
        assert_eq!((recovered.torn_bytes, recovered.damaged.len()), (0, 0));
        let new = [entry(round * 2 + 1, 0), entry(round * 2 + 2, 300)];
        append(&mut journal, &new);
        expected.extend(new);
    }
    assert_eq!(dirs.segments(), ["1.log"]);
}

#[test]
fn nothing_to_append_creates_nothing() {
    let dirs = Dirs::new();
    dirs.open().0.append(&[]).unwrap();
    assert!(dirs.segments().is_empty());
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off_and_written_over() {
    let dirs = Dirs::new();
    let path = dirs.journal.join("1.log");
    let kept = [entry(1, 50), entry(2, 10)];
    append(&mut dirs.open().0, &kept);
    let whole = fs::metadata(&path).unwrap().len();
    append(&mut dirs.open().0, &[entry(3, 100)]);
    let content = fs::read(&path).unwrap();
    for length in whole as usize..content.len() {
        fs::write(&path, &content[..length]).unwrap();
        let (mut journal, recovered) = dirs.open();
        assert_eq!(recovered.entries, kept, "cut to {length}");
        assert_eq!(recovered.torn_bytes, length as u64 - whole);
        assert!(recovered.damaged.is_empty());

        append(&mut journal, &[entry(4, 20)]);
        let (_, again) = dirs.open();
        assert_eq!(again.entries, [&kept[..], &[entry(4, 20)]].concat());
        assert_eq!(again.torn_bytes, 0);
    }
    assert!(names_in(&dirs.quarantine).unwrap().is_empty());
}

#[test]
fn a_tail_that_was_allocated_but_never_written_is_torn() {
    let dirs = Dirs::new();
    let path = dirs.journal.join("1.log");
    append(&mut dirs.open().0, &[entry(1, 50)]);
    let mut content = fs::read(&path).unwrap();
    content.resize(content.len() + 4096, 0);
    fs::write(&path, &content).unwrap();
    let (_, recovered) = dirs.open();
    assert_eq!(recovered.entries, [entry(1, 50)]);
    assert_eq!(recovered.torn_bytes, 4096);
    assert!(recovered.damaged.is_empty());
}

#[test]
fn any_flipped_byte_costs_one_entry_and_is_reported() {
    let dirs = Dirs::new();
    let path = dirs.journal.join("1.log");
    let entries = [entry(1, 30), entry(2, 40), entry(3, 50)];
    append(&mut dirs.open().0, &entries);
    let content = fs::read(&path).unwrap();
    let mut reports = 0;
    for at in 0..content.len() {
        let mut flipped = content.clone();
        flipped[at] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        let (_, recovered) = dirs.open();
        assert_eq!(recovered.entries.len(), 2, "byte {at}");
        assert!(recovered.entries.iter().all(|kept| entries.contains(kept)));
        if let [damaged] = &recovered.damaged[..] {
            reports += 1;
            assert_eq!(damaged.entries_kept, 2);
            assert_eq!(fs::read(&damaged.moved_to).unwrap(), flipped);
            assert!(damaged.bytes_lost > 0);
        } else {
            // A length that now points past the end looks like a write that was cut short.
            assert!(recovered.torn_bytes > 0, "byte {at} went unnoticed");
        }
        let (_, again) = dirs.open();
        assert_eq!(again.entries, recovered.entries);
        assert!(again.damaged.is_empty(), "reported once");
    }
    assert_eq!(names_in(&dirs.quarantine).unwrap().len(), reports);
    assert!(reports > content.len() - 8, "{reports}");
}

#[test]
fn a_segment_cut_short_is_damage_unless_it_is_the_last() {
    let dirs = Dirs::new();
    let (mut journal, _) = dirs.open();
    append(&mut journal, &[entry(1, 10), entry(2, 10)]);
    let first = fs::read(dirs.journal.join("1.log")).unwrap();
    fs::write(dirs.journal.join("2.log"), &first).unwrap();
    fs::write(dirs.journal.join("1.log"), &first[..first.len() - 1]).unwrap();

    let (_, recovered) = dirs.open();
    assert_eq!(
        recovered.entries,
        [entry(1, 10), entry(1, 10), entry(2, 10)]
    );
    let [damaged] = &recovered.damaged[..] else {
        panic!("{recovered:?}");
    };
    assert_eq!(damaged.entries_kept, 1);
    assert_eq!(fs::read(&damaged.moved_to).unwrap().len(), first.len() - 1);
}

#[test]
fn a_segment_of_garbage_is_set_aside() {
    let dirs = Dirs::new();
    append(&mut dirs.open().0, &[entry(1, 10)]);
    let garbage = crate::testing::value(9, 5000);
    fs::write(dirs.journal.join("2.log"), &garbage).unwrap();
    let (mut journal, recovered) = dirs.open();
    assert_eq!(recovered.entries, [entry(1, 10)]);
    assert_eq!(recovered.damaged.len(), 1);
    assert_eq!(recovered.damaged[0].bytes_lost, 5000);
    append(&mut journal, &[entry(2, 10)]);
    assert_eq!(dirs.open().1.entries, [entry(1, 10), entry(2, 10)]);
}

#[test]
fn an_interrupted_replacement_is_finished_or_undone() {
    let dirs = Dirs::new();
    append(&mut dirs.open().0, &[entry(1, 10)]);
    let original = dirs.journal.join("1.log");
    let replacement = dirs.journal.join("1.log.tmp");

    // Before the original is moved away, the replacement may be half written.
    fs::write(&replacement, "half").unwrap();
    assert_eq!(dirs.open().1.entries, [entry(1, 10)]);
    assert_eq!(dirs.segments(), ["1.log"]);

    fs::rename(&original, &replacement).unwrap();
    assert_eq!(dirs.open().1.entries, [entry(1, 10)]);
    assert_eq!(dirs.segments(), ["1.log"]);
}

#[test]
fn a_full_segment_is_followed_by_another() {
    let dirs = Dirs::new();
    let (mut journal, _) = dirs.open();
    let big = SEGMENT_BYTES_MAX as usize / 2;
    for through in 1..=5 {
        append(&mut journal, &[entry(through, big)]);
    }
    assert_eq!(dirs.segments(), ["1.log", "2.log", "3.log"]);
    let (_, recovered) = dirs.open();
    let order: Vec<_> = recovered.entries.iter().map(|e| e.through.0).collect();
    assert_eq!(order, [1, 2, 3, 4, 5]);
}

#[test]
fn only_released_and_covered_segments_are_deleted() {
    let dirs = Dirs::new();
    let (mut journal, _) = dirs.open();
    let big = SEGMENT_BYTES_MAX as usize;
    let other = JournalEntry {
        workspace: WorkspaceId::from_bytes([8; 16]),
        ..entry(9, 10)
    };
    append(&mut journal, &[entry(1, big)]);
    append(&mut journal, &[entry(2, big), other.clone()]);
    append(&mut journal, &[entry(3, big)]);

    journal.release(&release(3)).unwrap();
    assert_eq!(dirs.segments().len(), 3, "no barrier has covered them");
    journal.barrier_passed();
    journal.release(&JournalReleases::new()).unwrap();
    assert_eq!(dirs.segments(), ["2.log"], "another workspace's is left");

    append(&mut journal, &[entry(4, 10)]);
    let elsewhere = JournalReleases::from([(other.workspace, (EPOCH, FeedSeq(9)).into())]);
    journal.release(&elsewhere).unwrap();
    assert_eq!(dirs.segments(), ["4.log"]);
    assert_eq!(dirs.open().1.entries, [entry(4, 10)]);
}

#[test]
fn a_release_never_goes_back() {
    let dirs = Dirs::new();
    let (mut journal, _) = dirs.open();
    append(&mut journal, &[entry(5, SEGMENT_BYTES_MAX as usize)]);
    journal.release(&release(5)).unwrap();
    journal.release(&release(1)).unwrap();
    journal.barrier_passed();
    journal.release(&release(1)).unwrap();
    assert!(dirs.segments().is_empty());
}

#[test]
fn the_segment_in_use_goes_once_it_is_worth_it() {
    let dirs = Dirs::new();
    let (mut journal, _) = dirs.open();
    append(&mut journal, &[entry(1, 100)]);
    journal.barrier_passed();
    journal.release(&release(1)).unwrap();
    assert_eq!(dirs.segments(), ["1.log"], "small");

    append(&mut journal, &[entry(2, SEGMENT_BYTES_KEPT as usize)]);
    journal.barrier_passed();
    journal.release(&release(2)).unwrap();
    assert!(dirs.segments().is_empty());

    append(&mut journal, &[entry(3, 1)]);
    assert_eq!(dirs.segments(), ["2.log"]);
    assert_eq!(dirs.open().1.entries, [entry(3, 1)]);
}

/// An entry with a change of one document, of about so many bytes.
fn entry_of(through: u64, document: u8, bytes: usize) -> JournalEntry {
    let frame = JournalFrame {
        workspace: WORKSPACE,
        epoch: EPOCH,
        seq: FeedSeq(through),
        documents: vec![JournalDocument {
            document: DocumentId::from_bytes([document; 16]),
            kind: DocumentKind(1),
            changes: vec![vec![7; bytes].into()],
        }],
    };
    JournalEntry {
        frame: frame.encode(),
        ..entry(through, 0)
    }
}

#[test]
fn what_was_refused_is_kept_and_costs_no_more_than_twice_its_size() {
    let dirs = Dirs::new();
    let (mut journal, _) = dirs.open();
    let refused = DocumentId::from_bytes([1; 16]);
    let big = SEGMENT_BYTES_MAX as usize / 8;
    let release = |through, kept: &[DocumentId]| {
        let release = JournalRelease {
            kept: kept.iter().copied().collect(),
            ..(EPOCH, FeedSeq(through)).into()
        };
        JournalReleases::from([(WORKSPACE, release)])
    };
    let mut kept = Vec::new();
    for round in 0..40 {
        kept.push(entry_of(round * 10, 1, big / 10));
        append(&mut journal, &kept[kept.len() - 1..]);
        for place in 1..10 {
            append(&mut journal, &[entry_of(round * 10 + place, 2, big)]);
        }
        journal.barrier_passed();
        journal
            .release(&release(round * 10 + 9, &[refused]))
            .unwrap();
    }
    let kept_bytes: usize = kept.iter().map(|entry| entry.frame.len()).sum();
    let sizes = dirs.segments();
    let sizes = sizes
        .iter()
        .map(|name| fs::metadata(dirs.journal.join(name)).unwrap().len());
    let bytes: u64 = sizes.sum();
    let bound = 2 * kept_bytes as u64 + 2 * SEGMENT_BYTES_MAX;
    assert!(bytes <= bound, "{bytes} bytes for {kept_bytes}");
    drop(journal);
    let (mut journal, recovered) = dirs.open();
    for entry in &kept {
        assert!(recovered.entries.contains(entry), "{:?}", entry.through);
    }
    // Once it is held nothing is left.
    append(
        &mut journal,
        &[entry_of(400, 2, SEGMENT_BYTES_KEPT as usize)],
    );
    journal.barrier_passed();
    journal.release(&release(400, &[])).unwrap();
    assert!(dirs.segments().is_empty());
}

#[test]
fn entries_found_at_open_can_be_released_after_a_barrier() {
    let dirs = Dirs::new();
    append(&mut dirs.open().0, &[entry(1, SEGMENT_BYTES_MAX as usize)]);
    let (mut journal, _) = dirs.open();
    journal.release(&release(1)).unwrap();
    assert_eq!(dirs.segments(), ["1.log"]);
    journal.barrier_passed();
    journal.release(&release(1)).unwrap();
    assert!(dirs.segments().is_empty());
}

#[test]
fn a_frame_that_is_too_long_is_refused_whole() {
    let dirs = Dirs::new();
    let (mut journal, _) = dirs.open();
    let long = JournalEntry {
        frame: vec![0; FRAME_PAYLOAD_BYTES_MAX + 1].into(),
        ..entry(2, 0)
    };
    let error = journal.append(&[&entry(1, 10), &long]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(dirs.open().1.entries.is_empty());
}

#[test]
fn frames_are_those_of_version_1() {
    let entries = [entry(1, 0), entry(0x0102_0304_0506_0708, 40)];
    let vectors: Vec<_> = entries
        .iter()
        .map(|entry| {
            let mut bytes = Vec::new();
            encode_frame(entry, &mut bytes);
            Vector {
                name: format!("payload of {} bytes", entry.frame.len()),
                value: format!(
                    "workspace {}, epoch {}, through {}",
                    entry.workspace, entry.epoch, entry.through
                ),
                bytes,
            }
        })
        .collect();
    let about = "journal frames: \"rvj1\", length of the payload (u32), CRC-32 of all but itself and \
                 the magic, workspace, epoch, last feed entry (u64), payload; numbers big-endian";
    let committed = golden::check("journal-frames.json", about, &vectors);
    let parsed = parse_segment(&committed.concat().into());
    assert_eq!(parsed.entries, entries);
    assert_eq!((parsed.gap_bytes, parsed.tail), (0, Tail::Clean));
}
