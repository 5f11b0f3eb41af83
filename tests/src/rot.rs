//! Files of a closed store that lose a bit, or their end: whichever it is and wherever, what is shown is
//! right or it is told what is wrong, and a peer or the journal brings it back.
//!
//! Every case begins with the same two directories, of a server and of a device of it that holds edits
//! which the server has not, and damages one file of one of them.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use reconvene::{Error, InviteOptions, NewMeeting, OpenOptions, Replica, Role, SyncOptions, qmsum};
use reconvene_testkit::Proxy;
use tempfile::TempDir;

use crate::cuts::copy_dir;
use crate::harness::deadline;
use crate::power::place;
use crate::writer::{Chances, has_set_aside, in_runtime, times};

/// Bits that are flipped, unless `RECONVENE_FLIPS` says otherwise.
const FLIPS: u64 = 500;
/// Files that are cut short, unless `RECONVENE_TRUNCATIONS` says otherwise.
const TRUNCATIONS: u64 = 200;

/// Of the database, for one of every other file.
const FLIPS_OF_DATABASE: usize = 20;
const CUTS_OF_DATABASE: usize = 5;
/// Cases that are played beside each other.
const LANES: u64 = 4;

/// Edits that only the device holds; each has two entries in its journal.
const UNSYNCED: usize = 8;
/// Passes after which everything is back.
const PASSES_MAX: usize = 10;

/// Whose file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Device,
    Server,
}

impl Whose {
    const ALL: [Self; 2] = [Self::Device, Self::Server];

    fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Server => "server",
        }
    }

    fn role(self) -> Role {
        match self {
            Self::Device => Role::Device,
            Self::Server => Role::Server,
        }
    }
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// One bit of this byte is another one.
    Flip { at: usize, bit: u8 },
    /// What comes after this byte is gone.
    Cut { at: usize },
}

/// One file, and what is done to it.
#[derive(Clone, Debug)]
struct Case {
    whose: Whose,
    /// From the data directory on.
    file: String,
    harm: Harm,
}

impl Case {
    /// Does it to the file in a data directory.
    fn inflict(&self, data: &Path) {
        let path = data.join(&self.file);
        let mut bytes = fs::read(&path).unwrap();
        match self.harm {
            Harm::Flip { at, bit } => bytes[at] ^= 1 << bit,
            Harm::Cut { at } => bytes.truncate(at),
        }
        fs::write(path, bytes).unwrap();
    }
}

/// A server and a device as they are before each case, both closed.
struct Before {
    dir: TempDir,
    proxy: Proxy,
    /// What both hold in the end.
    whole: String,
    /// What the server holds without the device.
    server_has: String,
    /// What the device and the server are.
    are: [String; 2],
}

impl Before {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(place()).unwrap();
        let proxy = Proxy::new().unwrap();
        let at = |whose: Whose| dir.path().join(whose.name());
        let (whole, server_has, are) = in_runtime(async {
            let server = OpenOptions::new(at(Whose::Server)).role(Role::Server);
            let server = server.open().await.unwrap();
            server.ensure_shared_workspace().await.unwrap();
            server.set_announce(&[proxy.address()]).await.unwrap();
            lead(&proxy, &server).await;
            let options = InviteOptions {
                member: Some("Ada".to_owned()),
                expires_in: Duration::from_secs(3600),
            };
            let ticket = server.invite(options).await.unwrap().ticket;
            let device = Replica::open(at(Whose::Device)).await.unwrap();
            device.join(&ticket).await.unwrap();
            write(&device).await;
            sync(&device).await.unwrap();
            sync(&device).await.unwrap();
            let server_has = server.export(None).await.unwrap();
            let server_is = format!("{:?}", server.device());
            server.close().await.unwrap();
            // Opening writes down anew where everything is: what comes after it is read from the log.
            device.close().await.unwrap();
            let device = Replica::open(at(Whose::Device)).await.unwrap();
            let meetings = device.meetings();
            for n in 0..UNSYNCED {
                let title = NewMeeting::titled(format!("Not synced {n}"));
                let id = meetings.add(title).await.unwrap().meeting.id;
                let kept = meetings.edit(id, |meeting| meeting.append_note("kept"));
                kept.await.unwrap();
            }
            let whole = device.export(None).await.unwrap();
            let are = [format!("{:?}", device.device()), server_is];
            device.close().await.unwrap();
            (whole, server_has, are)
        });
        Self {
            dir,
            proxy,
            whole,
            server_has,
            are,
        }
    }

    fn at(&self, whose: Whose) -> PathBuf {
        self.dir.path().join(whose.name())
    }

    /// What a store shows that was not harmed.
    fn shown(&self, whose: Whose) -> &str {
        match whose {
            Whose::Device => &self.whole,
            Whose::Server => &self.server_has,
        }
    }

    /// Every file that is not empty, with its content.
    fn files(&self, whose: Whose) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let root = self.at(whose);
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let content = fs::read(&path).unwrap();
                let name = path.strip_prefix(&root).unwrap();
                if !content.is_empty() {
                    found.insert(name.to_str().unwrap().to_owned(), content);
                }
            }
        }
        found
    }
}

async fn lead(proxy: &Proxy, server: &Replica) {
    let free = ["/ip4/127.0.0.1/tcp/0".to_owned()];
    let bound = server.listen(&free).await.unwrap();
    proxy.lead_to(&bound[0]);
}

async fn write(device: &Replica) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/qmsum");
    for name in ["ES2005a.json", "IS1000a.json"] {
        let bytes = fs::read(examples.join(name)).unwrap();
        let imported = qmsum::parse(name, &bytes).unwrap();
        device.meetings().import(imported).await.unwrap();
    }
    device.projects().add("Apollo").await.unwrap();
    device.projects().activate("Apollo").await.unwrap();
    let meetings = device.meetings();
    for n in 0..6 {
        let title = NewMeeting::titled(format!("Synced {n}"));
        let id = meetings.add(title).await.unwrap().meeting.id;
        for note in ["one", "two", "three"] {
            let edit = meetings.edit(id, move |meeting| meeting.append_note(note));
            edit.await.unwrap();
        }
    }
}

async fn sync(device: &Replica) -> Result<(), Error> {
    let options = SyncOptions {
        timeout: deadline(),
        progress: None,
    };
    device.sync(options).await.map(drop)
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// All is as it was, and nothing is said to be wrong.
    Whole,
    /// It does not open, and says why.
    Refused(String),
    /// It opens and says what is wrong; then everything came back.
    Healed,
    /// It should not have come to this.
    Wrong(String),
}

fn play(before: &Before, case: &Case) -> Outcome {
    let dir = tempfile::tempdir_in(before.dir.path()).unwrap();
    for whose in Whose::ALL {
        copy_dir(&before.at(whose), &dir.path().join(whose.name()));
    }
    let data = dir.path().join(case.whose.name());
    case.inflict(&data);
    let played = catch_unwind(AssertUnwindSafe(|| {
        in_runtime(async {
            match open(&data, case.whose).await {
                Ok(replica) => play_on(before, case.whose, dir.path(), replica).await,
                Err(error) => Outcome::Refused(error.code().to_owned()),
            }
        })
    }));
    played.unwrap_or_else(|_| Outcome::Wrong("it panicked".to_owned()))
}

async fn open(data: &Path, whose: Whose) -> Result<Replica, Error> {
    OpenOptions::new(data).role(whose.role()).open().await
}

/// Looks at an opened store, and has the other peer bring back what is missing.
async fn play_on(before: &Before, whose: Whose, dir: &Path, replica: Replica) -> Outcome {
    let data = dir.join(whose.name());
    if format!("{:?}", replica.device()) != before.are[whose as usize] {
        return Outcome::Wrong("it is another one".to_owned());
    }
    let found = replica.status().await.unwrap().found_on_open;
    let is_told = |verified: bool| !verified || !found.is_empty() || has_set_aside(&data);
    let shown = replica.export(None).await;
    let verified = replica.verify(None).await.unwrap().intact;
    match &shown {
        Ok(shown) if shown == before.shown(whose) => {
            if verified {
                replica.close().await.unwrap();
                return Outcome::Whole;
            }
        }
        Ok(_) if !is_told(verified) => {
            return Outcome::Wrong("something is missing and nothing said".to_owned());
        }
        Ok(_) | Err(_) => {}
    }
    let other = match whose {
        Whose::Device => Whose::Server,
        Whose::Server => Whose::Device,
    };
    let other = open(&dir.join(other.name()), other).await.unwrap();
    let (server, device) = match whose {
        Whose::Device => (&other, &replica),
        Whose::Server => (&replica, &other),
    };
    lead(&before.proxy, server).await;
    let mut last = String::new();
    for _ in 0..PASSES_MAX {
        if let Err(error) = sync(device).await {
            last = format!("no pass: {}: {error}", error.code());
            continue;
        }
        let (ours, theirs) = (device.export(None).await, server.export(None).await);
        let report = replica.verify(None).await.unwrap();
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) if ours == before.whole && theirs == ours => {
                if report.intact {
                    other.close().await.unwrap();
                    replica.close().await.unwrap();
                    return Outcome::Healed;
                }
                last = format!("damaged still: {:?}", report.damaged);
            }
            (Ok(ours), Ok(theirs)) => {
                last = format!(
                    "device whole: {}, server whole: {}, intact: {}",
                    ours == before.whole,
                    theirs == before.whole,
                    report.intact
                );
            }
            (ours, theirs) => last = format!("{:?} {:?}", ours.err(), theirs.err()),
        }
    }
    Outcome::Wrong(format!("it does not come back: {last}"))
}

/// Plays cases in several lanes beside each other, which mostly wait for their peers, and says what came
/// of them.
fn play_all(wanted: u64, cases: impl Fn(&Before, u64, Chances) -> Vec<Case> + Sync) {
    let mut chances = Chances::named("RECONVENE_ROT_SEED");
    let played: Vec<(Case, Outcome)> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                let chances = Chances::seeded(chances.below(u64::MAX));
                let cases = &cases;
                scope.spawn(move || {
                    let before = Before::new();
                    let cases = cases(&before, wanted.div_ceil(LANES), chances);
                    let played = cases.into_iter().map(|case| {
                        let outcome = play(&before, &case);
                        (case, outcome)
                    });
                    played.collect::<Vec<_>>()
                })
            })
            .collect();
        lanes
            .into_iter()
            .flat_map(|lane| lane.join().unwrap())
            .collect()
    });
    let mut counts = BTreeMap::<_, u64>::new();
    for (case, outcome) in &played {
        *counts.entry((case.whose, &case.file, outcome)).or_default() += 1;
    }
    for ((whose, file, outcome), count) in counts {
        println!("{count:4} {whose:?} {file}: {outcome:?}");
    }
    let is_wrong = |(case, outcome): &&(Case, Outcome)| match outcome {
        Outcome::Whole | Outcome::Healed => false,
        // Nobody else has the key of a device.
        Outcome::Refused(code) => {
            (case.file.as_str(), code.as_str()) != ("identity.key", "identity")
        }
        Outcome::Wrong(_) => true,
    };
    let wrong: Vec<_> = played.iter().filter(is_wrong).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_flipped_bit_of_any_file_is_told_and_healed_or_changes_nothing() {
    play_all(
        times("RECONVENE_FLIPS", FLIPS),
        |before, wanted, mut chances| {
            let mut cases = Vec::new();
            for whose in Whose::ALL.into_iter().cycle() {
                for (file, bytes) in before.files(whose) {
                    // What was written of a database, and not the zeros behind it.
                    let last = bytes.iter().rposition(|byte| *byte != 0);
                    let written = last.map_or(1, |last| last + 1) as u64;
                    let times = if file == "sled/db" {
                        FLIPS_OF_DATABASE
                    } else {
                        1
                    };
                    for _ in 0..times {
                        let at = usize::try_from(chances.below(written)).unwrap();
                        let bit = u8::try_from(chances.below(8)).unwrap();
                        let file = file.clone();
                        let harm = Harm::Flip { at, bit };
                        cases.push(Case { whose, file, harm });
                    }
                }
                if cases.len() as u64 >= wanted {
                    break;
                }
            }
            cases
        },
    );
}

/// Where the entries of a journal's segment end.
fn entry_ends(segment: &[u8]) -> Vec<usize> {
    const HEADER_BYTES: usize = 52;
    let mut ends = Vec::new();
    let mut at = 0;
    while at < segment.len() {
        assert_eq!(&segment[at..at + 4], b"rvj1");
        let length = u32::from_be_bytes(segment[at + 4..at + 8].try_into().unwrap());
        at += HEADER_BYTES + usize::try_from(length).unwrap();
        ends.push(at);
    }
    ends
}

/// Every end of an entry of a journal, and a byte before and behind.
fn around_entries(before: &Before, whose: Whose) -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, bytes) in before.files(whose) {
        if !file.starts_with("journal/") {
            continue;
        }
        let around = entry_ends(&bytes).into_iter();
        let around = around.flat_map(|end| [end - 1, end, end + 1]);
        let places = [0, 1].into_iter().chain(around);
        cases.extend(places.filter(|at| *at < bytes.len()).map(|at| Case {
            whose,
            file: file.clone(),
            harm: Harm::Cut { at },
        }));
    }
    cases
}

#[test]
fn a_file_that_lost_its_end_is_told_and_healed_or_changes_nothing() {
    let has_journal_cases = AtomicBool::new(false);
    let wanted = times("RECONVENE_TRUNCATIONS", TRUNCATIONS);
    play_all(wanted, |before, wanted, mut chances| {
        // The journals are cut at all places by one of the lanes.
        let mut cases = Vec::new();
        if !has_journal_cases.swap(true, Ordering::Relaxed) {
            cases.extend(
                Whose::ALL
                    .into_iter()
                    .flat_map(|whose| around_entries(before, whose)),
            );
        }
        for whose in Whose::ALL.into_iter().cycle() {
            if cases.len() as u64 >= wanted {
                break;
            }
            for (file, bytes) in before.files(whose) {
                let times = if file == "sled/db" {
                    CUTS_OF_DATABASE
                } else {
                    1
                };
                for _ in 0..times {
                    let at = usize::try_from(chances.below(bytes.len() as u64)).unwrap();
                    let file = file.clone();
                    let harm = Harm::Cut { at };
                    cases.push(Case { whose, file, harm });
                }
            }
        }
        cases
    });
}
