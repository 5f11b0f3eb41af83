//! The journal: local changes that must survive the loss of the store, until another peer has them.
//!
//! Append-only segment files `journal/<n>.log` of [frames](frame). One `append` is one write and
//! one sync. A segment is deleted when a barrier of the store has covered it and every entry in it
//! was released. What was refused by whoever holds the rest stays: it is written on to the segment in
//! use where at least half of its own can go, so that the journal takes at most twice what is needed
//! of it and a segment. What cannot be read is set aside, reported and counted, never dropped silently;
//! what the entries mean is not known here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use reconvene_core::ids::{DocumentId, FeedSeq, StoreEpoch, WorkspaceId};
use reconvene_core::storage::{JournalEntry, JournalEpochs, JournalReleases, merge_release};

use crate::files::{move_synced, names_in, sync_dir, unused_name, with_suffix, write_synced};
use crate::mutants::{self, Mutant};

use frame::{FRAME_PAYLOAD_BYTES_MAX, Tail, encode_frame, parse_segment};

/// A segment at least this long gets no more entries.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The segment in use is kept, although all of it is released, up to this length: deleting costs
/// more than reading it at the next open.
pub(crate) const SEGMENT_BYTES_KEPT: u64 = 64 * 1024;

/// A journal segment of which a part could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSegment {
    /// Where the whole segment was moved, as it was found.
    pub moved_to: PathBuf,
    /// How many of its entries could be read and were kept.
    pub entries_kept: usize,
    /// How many of its bytes could not be read.
    pub bytes_lost: u64,
}

/// What a journal holds on disk, and what of it cannot be read.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct JournalCheck {
    /// The entries that can be read, oldest first.
    pub entries: Vec<JournalEntry>,
    /// Segment files with bytes that cannot, and how many those are.
    pub damaged: Vec<(String, u64)>,
}

/// Reads a journal without touching it, also while it is written: what is being written at the end of
/// the last segment is no damage.
pub(crate) fn check(dir: &Path) -> io::Result<JournalCheck> {
    let mut numbers: Vec<u64> = names_in(dir)?
        .iter()
        .filter_map(|name| name.strip_suffix(".log")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let mut found = JournalCheck::default();
    for (index, number) in numbers.iter().enumerate() {
        let name = format!("{number}.log");
        let content = match fs::read(dir.join(&name)) {
            Ok(content) => Bytes::from(content),
            // Released since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let parsed = parse_segment(&content);
        let lost = match parsed.tail {
            Tail::Clean => 0,
            Tail::Torn { .. } if index + 1 == numbers.len() => 0,
            Tail::Torn { start } | Tail::Damaged { start } => content.len() as u64 - start,
        };
        let lost = lost + parsed.gap_bytes;
        if lost > 0 {
            found.damaged.push((name, lost));
        }
        found.entries.extend(parsed.entries);
    }
    Ok(found)
}

/// What was found when the journal was opened.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) entries: Vec<JournalEntry>,
    pub(crate) torn_bytes: u64,
    pub(crate) damaged: Vec<DamagedSegment>,
}

#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    /// Oldest first.
    segments: Vec<Segment>,
    /// The last segment, if it takes more entries.
    active: Option<File>,
    next_number: u64,
    released: JournalReleases,
    epochs: JournalEpochs,
}

/// One segment file, with what decides when it may go.
#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    /// The last feed entry of each workspace and epoch in it.
    through: BTreeMap<(WorkspaceId, StoreEpoch), FeedSeq>,
    /// The bytes of frames with changes of each document.
    documents: BTreeMap<(WorkspaceId, DocumentId), u64>,
    /// Whether a barrier of the store came after its last entry.
    covered: bool,
}

impl Segment {
    fn new(number: u64) -> Self {
        Self {
            number,
            bytes: 0,
            through: BTreeMap::new(),
            documents: BTreeMap::new(),
            covered: true,
        }
    }

    fn note(&mut self, entry: &JournalEntry) {
        let key = (entry.workspace, entry.epoch);
        let through = self.through.entry(key).or_default();
        *through = (*through).max(entry.through);
        for document in entry.documents() {
            let bytes = self.documents.entry((entry.workspace, document));
            *bytes.or_default() += entry.frame.len() as u64;
        }
        self.covered = false;
    }
}

impl Journal {
    /// Reads every segment in `dir`, repairs what can be, and sets aside what cannot.
    pub(crate) fn open(dir: &Path, quarantine: &Path) -> io::Result<(Self, Recovered)> {
        let mut journal = Self {
            dir: dir.to_owned(),
            segments: Vec::new(),
            active: None,
            next_number: 1,
            released: JournalReleases::new(),
            epochs: JournalEpochs::default(),
        };
        let mut recovered = Recovered::default();
        let numbers = journal.settle_names()?;
        for (index, number) in numbers.iter().enumerate() {
            let is_last = index + 1 == numbers.len();
            journal.recover_segment(*number, is_last, quarantine, &mut recovered)?;
        }
        if let Some(last) = journal.segments.last() {
            journal.next_number = last.number + 1;
            if last.bytes < SEGMENT_BYTES_MAX {
                let path = journal.path(last.number);
                journal.active = Some(File::options().append(true).open(path)?);
            }
        }
        Ok((journal, recovered))
    }

    /// Writes entries and makes them durable.
    ///
    /// After an error the journal must not be written until it is opened again; the entries are
    /// taken back as far as the disk still lets us, but may be found at the next open.
    pub(crate) fn append(&mut self, entries: &[&JournalEntry]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            if entry.frame.len() > FRAME_PAYLOAD_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("a journal frame of {} bytes is too long", entry.frame.len()),
                ));
            }
        }
        self.write(entries)?;
        for entry in entries {
            self.epochs.note(entry);
        }
        Ok(())
    }

    fn write(&mut self, entries: &[&JournalEntry]) -> io::Result<()> {
        let mut frames = Vec::new();
        for entry in entries {
            encode_frame(entry, &mut frames);
        }
        self.make_room()?;
        let file = self.active.as_mut().expect("room was made in a segment");
        let segment = self.segments.last_mut().expect("an open segment is listed");
        if let Err(error) = write_durably(file, &frames) {
            if let Err(again) = file.set_len(segment.bytes).and_then(|()| file.sync_all()) {
                tracing::warn!(error = %again, "a failed journal write could not be taken back");
            }
            return Err(error);
        }
        segment.bytes += frames.len() as u64;
        for entry in entries {
            segment.note(entry);
        }
        Ok(())
    }

    /// Notes that every entry so far is durable in the store itself, too.
    pub(crate) fn barrier_passed(&mut self) {
        for segment in &mut self.segments {
            segment.covered = true;
        }
    }

    /// Forgets entries another peer holds; deletes the segments that hold no other. A deleted
    /// segment may come back after a power cut, which does no harm.
    pub(crate) fn release(&mut self, releases: &JournalReleases) -> io::Result<()> {
        for (workspace, release) in releases {
            merge_release(&mut self.released, *workspace, release.clone());
        }
        let mut index = 0;
        while let Some(segment) = self.segments.get(index) {
            let is_active = self.active.is_some() && index + 1 == self.segments.len();
            let is_kept = is_active && segment.bytes <= SEGMENT_BYTES_KEPT;
            let kept_bytes = self.kept_bytes(segment);
            // Half of it at least is to go: so what is kept never takes more than twice its size.
            let is_carried = !is_active && 0 < kept_bytes && kept_bytes <= segment.bytes / 2;
            let goes = is_carried || (kept_bytes == 0 && !is_kept);
            let number = segment.number;
            if !goes || !self.is_released(segment) || (is_carried && !self.carry_on(number)?) {
                index += 1;
                continue;
            }
            if is_active {
                self.active = None;
            }
            match fs::remove_file(self.path(number)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.segments.remove(index);
        }
        Ok(())
    }

    /// Whether nothing in a segment is needed but for documents that were refused.
    fn is_released(&self, segment: &Segment) -> bool {
        let frees = |((workspace, epoch), through): (&(_, _), &_)| {
            self.epochs
                .frees(&self.released, workspace, (*epoch, *through))
        };
        segment.covered && segment.through.iter().all(frees)
    }

    /// The bytes of frames in a segment that are kept because they were refused where the others are
    /// held; a frame of several such documents counts for each.
    fn kept_bytes(&self, segment: &Segment) -> u64 {
        let documents = segment.documents.iter();
        let kept = documents.filter(|((workspace, document), _)| {
            let release = self.released.get(workspace);
            release.is_some_and(|release| release.kept.contains(document))
        });
        kept.map(|(_, bytes)| bytes).sum()
    }

    /// Writes what is kept of a segment to the one in use, durably; false if the segment does not read
    /// whole, which the next open sees to.
    fn carry_on(&mut self, number: u64) -> io::Result<bool> {
        let content = Bytes::from(fs::read(self.path(number))?);
        let parsed = parse_segment(&content);
        if parsed.gap_bytes > 0 || !matches!(parsed.tail, Tail::Clean) {
            return Ok(false);
        }
        let entries = parsed.entries.iter();
        let kept = entries.filter(|entry| !self.epochs.frees_entry(&self.released, entry));
        let kept: Vec<_> = kept.collect();
        let is_covered = match (&self.active, self.segments.last()) {
            (Some(_), Some(last)) if last.bytes < SEGMENT_BYTES_MAX => last.covered,
            _ => true,
        };
        self.write(&kept)?;
        if let Some(last) = self.segments.last_mut() {
            last.covered = is_covered; // What is carried on was covered before.
        }
        Ok(true)
    }

    /// Makes sure that the last segment is open and not full.
    fn make_room(&mut self) -> io::Result<()> {
        let is_full = |segment: &Segment| segment.bytes >= SEGMENT_BYTES_MAX;
        if self.active.is_some() && !self.segments.last().is_some_and(is_full) {
            return Ok(());
        }
        let number = self.next_number;
        let file = File::options()
            .append(true)
            .create_new(true)
            .open(self.path(number))?;
        sync_dir(&self.dir)?;
        self.active = Some(file);
        self.segments.push(Segment::new(number));
        self.next_number += 1;
        Ok(())
    }

    /// Finishes replacements of segments that a crash interrupted, and lists the segments.
    fn settle_names(&self) -> io::Result<Vec<u64>> {
        let names = names_in(&self.dir)?;
        for name in &names {
            let Some(replaced) = name.strip_suffix(".tmp") else {
                continue;
            };
            // The replacement was whole before the original was moved away.
            if names.iter().any(|name| name == replaced) {
                fs::remove_file(self.dir.join(name))?;
            } else {
                move_synced(&self.dir.join(name), &self.dir.join(replaced))?;
            }
        }
        let mut numbers: Vec<u64> = names_in(&self.dir)?
            .iter()
            .filter_map(|name| name.strip_suffix(".log")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn recover_segment(
        &mut self,
        number: u64,
        is_last: bool,
        quarantine: &Path,
        recovered: &mut Recovered,
    ) -> io::Result<()> {
        let path = self.path(number);
        let content = Bytes::from(fs::read(&path)?);
        let length = content.len() as u64;
        let parsed = parse_segment(&content);
        let mut segment = Segment::new(number);
        segment.bytes = length;
        for entry in &parsed.entries {
            segment.note(entry);
        }
        let mut lost = parsed.gap_bytes;
        match parsed.tail {
            Tail::Clean => {}
            Tail::Torn { start } if is_last && lost == 0 => {
                let file = File::options().write(true).open(&path)?;
                file.set_len(start)?;
                file.sync_all()?;
                segment.bytes = start;
                recovered.torn_bytes += length - start;
            }
            Tail::Torn { start } | Tail::Damaged { start } => lost += length - start,
        }
        if lost > 0 {
            let moved_to = unused_name(quarantine, &format!("journal-{number}-"));
            segment.bytes = self.replace_segment(number, &parsed.entries, &moved_to)?;
            recovered.damaged.push(DamagedSegment {
                moved_to,
                entries_kept: parsed.entries.len(),
                bytes_lost: lost,
            });
        }
        recovered.entries.extend(parsed.entries);
        self.segments.push(segment);
        Ok(())
    }

    /// Moves a segment away and puts one with only `entries` in its place; returns its length.
    fn replace_segment(
        &self,
        number: u64,
        entries: &[JournalEntry],
        moved_to: &Path,
    ) -> io::Result<u64> {
        let mut frames = Vec::new();
        for entry in entries {
            encode_frame(entry, &mut frames);
        }
        let path = self.path(number);
        let replacement = with_suffix(&path, ".tmp");
        write_synced(&replacement, &frames)?;
        sync_dir(&self.dir)?;
        move_synced(&path, moved_to)?;
        move_synced(&replacement, &path)?;
        Ok(frames.len() as u64)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number}.log"))
    }
}

fn write_durably(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    if mutants::is(Mutant::SyncsNoJournal) {
        return Ok(());
    }
    file.sync_data()
}

mod frame;

/// Reads a segment, and checks that every byte of it was read, counted as lost, or is its tail.
#[cfg(feature = "fuzz")]
pub(crate) fn check_segment(content: &Bytes) {
    let parsed = parse_segment(content);
    let mut kept = Vec::new();
    for entry in &parsed.entries {
        encode_frame(entry, &mut kept);
    }
    let bytes = content.len() as u64;
    let tail = match parsed.tail {
        Tail::Clean => 0,
        Tail::Torn { start } | Tail::Damaged { start } => bytes - start,
    };
    assert_eq!(kept.len() as u64 + parsed.gap_bytes + tail, bytes);
}

/// Makes a segment of entries to which one thing or another happened, and checks that those are read to
/// which nothing did.
#[cfg(feature = "fuzz")]
pub(crate) fn check_frames(mut data: &[u8]) {
    let mut content = Vec::new();
    let mut whole = Vec::new();
    while let [befalls, high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (payload, after) = rest.split_at(length);
        data = after;
        let from = content.len();
        let entry = JournalEntry {
            workspace: WorkspaceId::from_bytes([*befalls; 16]),
            epoch: StoreEpoch::from_bytes([*high; 16]),
            through: FeedSeq(whole.len() as u64),
            frame: Bytes::copy_from_slice(payload),
        };
        encode_frame(&entry, &mut content);
        let at = usize::from(*befalls) * 7 % (content.len() - from);
        match befalls % 8 {
            // A bit of it rots, it ends too early, or something else stands in its place.
            5 => content[from + at] ^= 1 << (high % 8),
            6 => content.truncate(from + at),
            7 => {
                content.truncate(from);
                content.extend_from_slice(payload);
            }
            _ => whole.push(entry),
        }
    }
    let content = Bytes::from(content);
    check_segment(&content);
    let mut read = parse_segment(&content).entries.into_iter();
    // What stands in an entry's place may itself be one, and be as long as it likes.
    let is_forged = |entry: &JournalEntry| !whole.contains(entry);
    if !read.clone().any(|entry| is_forged(&entry)) {
        assert!(whole.iter().all(|entry| read.any(|found| found == *entry)));
    }
}

#[cfg(test)]
mod tests;
