//! A device that writes for as long as it lives and says what was acknowledged: this test binary once
//! more, as a process of its own, which is ended without warning.
//!
//! Every edit carries a marker of its own, so that what was acknowledged can be told from what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use reconvene::{Delivery, HeldBy, ListOptions, NewMeeting, OpenOptions, Replica, Role};

use crate::harness::{Process, deadline};

/// Tells the process which directory it works in. Tests that only it runs return without.
const DIR: &str = "RECONVENE_TEST_WRITER_DIR";
/// What its markers begin with.
const RUN: &str = "RECONVENE_TEST_WRITER_RUN";
/// Whether it waits for its server to hold what it wrote.
const LINKED: &str = "RECONVENE_TEST_WRITER_LINKED";
/// How many edits each task makes before the process closes its store, if it lives that long.
const EDITS: &str = "RECONVENE_TEST_WRITER_EDITS";

/// Tasks that edit beside each other, so that edits share barriers.
const TASKS: usize = 3;
/// Edits of a task between two waits for the server.
const BURST: usize = 4;
/// Edits of a task after which it compacts.
const COMPACT_EVERY: u64 = 8;
/// Bytes of every seventh note: more than one part of a stored record.
const LONG_NOTE_BYTES: usize = 6_000;
/// Bytes appended, per edit, to a file that nobody syncs.
pub(crate) const UNSYNCED_BYTES: u64 = 4096;

/// How a writing process is to be.
#[derive(Clone, Debug)]
pub(crate) struct WriterOptions {
    pub(crate) data: PathBuf,
    /// Of which run its markers are: another one each time.
    pub(crate) run: String,
    /// Whether it waits for its server to hold what it wrote.
    pub(crate) linked: bool,
    /// After how many edits of each task it closes its store.
    pub(crate) edits: u64,
}

/// A writing process.
pub(crate) struct Writer {
    process: Process,
    pub(crate) heard: Heard,
}

/// What a writing process said.
#[derive(Clone, Default)]
pub(crate) struct Heard {
    /// Markers of edits that were acknowledged as durable there.
    pub(crate) acknowledged: BTreeSet<String>,
    /// Markers of edits that were acknowledged as held by the server.
    pub(crate) held: BTreeSet<String>,
    /// The word it said last.
    pub(crate) last: String,
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heard")
            .field("acknowledged", &self.acknowledged.len())
            .field("held", &self.held.len())
            .field("last", &self.last)
            .finish()
    }
}

impl Heard {
    fn note(&mut self, line: &str) {
        // What the test harness prints, and a line that was cut short, is no word of it.
        let Some(words) = line.strip_suffix(" !") else {
            assert!(!line.contains("panicked"), "{line}");
            return;
        };
        let (kind, marker) = words.split_once(' ').unwrap_or((words, ""));
        match kind {
            "acknowledged" => assert!(self.acknowledged.insert(marker.to_owned()), "{line}"),
            "held" => assert!(self.held.insert(marker.to_owned()), "{line}"),
            "failed" => panic!("the writer says: {line}"),
            _ => {}
        }
        kind.clone_into(&mut self.last);
    }
}

impl Writer {
    pub(crate) fn spawn(options: &WriterOptions) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "writer::child_writes_until_it_is_ended"])
            .args(["--nocapture", "--test-threads=1"])
            .env(DIR, &options.data)
            .env(RUN, &options.run)
            .env(EDITS, options.edits.to_string())
            .env_remove("RECONVENE_LOG");
        if options.linked {
            command.env(LINKED, "1");
        }
        Self {
            process: Process::spawn(command),
            heard: Heard::default(),
        }
    }

    /// Hears what it says until something about that is so; false if it ended before.
    pub(crate) fn hear_until(&mut self, wanted: impl Fn(&Heard) -> bool) -> bool {
        self.hear(Instant::now() + deadline(), wanted)
            .unwrap_or_else(|| panic!("nothing more in time: {:?}", self.heard))
    }

    /// Hears what it says for some time.
    pub(crate) fn hear_for(&mut self, time: Duration) {
        let _is_over = self.hear(Instant::now() + time, |_| false);
    }

    /// Whether it came to what is wanted, or ended; neither, if the time was over.
    fn hear(&mut self, until: Instant, wanted: impl Fn(&Heard) -> bool) -> Option<bool> {
        while !wanted(&self.heard) {
            let left = until.saturating_duration_since(Instant::now());
            match self.process.said().recv_timeout(left) {
                Ok(line) => self.heard.note(&line),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => {
                    // It ends on its own only when it has closed its store.
                    let complaints: Vec<_> = self.process.log().iter().collect();
                    assert_eq!(self.heard.last, "closed", "{complaints:?}");
                    return Some(false);
                }
            }
        }
        Some(true)
    }

    /// Hears what it has said by now.
    pub(crate) fn hear_now(&mut self) {
        for line in self.process.said().try_iter() {
            self.heard.note(&line);
        }
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it at once (SIGKILL), and yields everything it said.
    pub(crate) fn kill(self) -> Heard {
        let mut heard = self.heard;
        for line in self.process.kill_and_hear() {
            heard.note(&line);
        }
        heard
    }
}

/// What a store that was ended without warning shows when it is opened again.
pub(crate) struct Survivors {
    /// How often each marker is shown.
    markers: BTreeMap<String, usize>,
    /// What was found to be damaged or missing.
    pub(crate) told: Vec<String>,
}

impl Survivors {
    /// Opens a store, without a step by hand, and closes it again.
    pub(crate) fn of(data: &Path, role: Role) -> Self {
        let (export, told) = in_runtime(async {
            let replica = OpenOptions::new(data).role(role).open().await.unwrap();
            let export = replica.export(None).await.unwrap();
            let report = replica.verify(None).await.unwrap();
            assert!(report.intact, "{report:?}");
            let told = replica.status().await.unwrap().found_on_open;
            replica.close().await.unwrap();
            (export, told)
        });
        let mut markers = BTreeMap::new();
        for piece in export.split('<').skip(1) {
            let (marker, _) = piece.split_once('>').unwrap();
            *markers.entry(marker.to_owned()).or_default() += 1;
        }
        Self { markers, told }
    }

    /// Checks that what was acknowledged is there, nothing is there twice, and nothing is missed.
    pub(crate) fn check(&self, acknowledged: &BTreeSet<String>, what: &str) {
        self.check_markers(acknowledged, what);
        assert!(self.told.is_empty(), "{what}: {:?}", self.told);
    }

    /// The same of a store that has lost its database, and may say so.
    pub(crate) fn check_markers(&self, acknowledged: &BTreeSet<String>, what: &str) {
        let lost = |marker: &&String| !self.markers.contains_key(*marker);
        let few: Vec<_> = acknowledged.iter().filter(lost).take(5).collect();
        let (count, all) = (acknowledged.iter().filter(lost).count(), acknowledged.len());
        assert!(
            few.is_empty(),
            "{what}: {count} of {all} acknowledged edits are lost, such as {few:?}"
        );
        let doubled = self.markers.iter().find(|(_, times)| **times > 1);
        assert_eq!(doubled, None, "{what}: there more than once");
    }
}

/// Whether sled's directory was ever set aside.
pub(crate) fn has_set_aside(data: &Path) -> bool {
    let found = std::fs::read_dir(data.join("quarantine"));
    found.is_ok_and(|mut found| found.next().is_some())
}

pub(crate) fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// Numbers for choices that are to be others each time: xorshift.
#[derive(Debug)]
pub(crate) struct Chances(u64);

impl Chances {
    /// Begins with the seed that this variable names, or another one each time, and prints it.
    pub(crate) fn named(variable: &str) -> Self {
        let named = std::env::var(variable).ok();
        let seed = named.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
            u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20)
        });
        println!("{variable}={seed}");
        Self::seeded(seed)
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// How often something is done: as often as this variable says.
pub(crate) fn times(variable: &str, otherwise: u64) -> u64 {
    let named = std::env::var(variable).ok();
    named.map_or(otherwise, |times| times.parse().unwrap())
}

fn say(words: &str) {
    // In one write, which a kill does not cut in two.
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{words} !\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

/// Run by others in a process of its own.
#[test]
fn child_writes_until_it_is_ended() {
    let Ok(dir) = std::env::var(DIR) else {
        return;
    };
    let run = std::env::var(RUN).unwrap();
    let edits = times(EDITS, 0);
    let is_linked = std::env::var(LINKED).is_ok();
    let unsynced = Path::new(&dir).with_file_name(format!("unsynced-{run}"));
    let unsynced = (!is_linked).then(|| Arc::new(Mutex::new(File::create(unsynced).unwrap())));
    // The test harness began a line.
    println!();
    in_runtime(async {
        say("opening");
        let replica = Replica::open(&dir).await.unwrap();
        say("opened");
        if is_linked {
            replica.connect().await.unwrap();
        }
        let listed = replica.meetings().list(ListOptions::default()).await;
        let known: Vec<_> = listed.unwrap().meetings.iter().map(|row| row.id).collect();
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let writing = Writing {
                    replica: replica.clone(),
                    name: format!("{run}.{task}"),
                    meeting: known.get(task).copied(),
                    is_linked,
                    unsynced: unsynced.clone(),
                    unheld: Vec::new(),
                };
                tokio::spawn(writing.run(edits))
            })
            .collect();
        for task in tasks {
            if let Err(error) = task.await.unwrap() {
                say(&format!("failed {}: {error}", error.code()));
                return;
            }
        }
        say("closing");
        replica.close().await.unwrap();
        say("closed");
    });
}

/// One task of the writing process.
struct Writing {
    replica: Replica,
    name: String,
    meeting: Option<reconvene::DocumentId>,
    is_linked: bool,
    unsynced: Option<Arc<Mutex<File>>>,
    /// What was acknowledged and is not known to be held.
    unheld: Vec<String>,
}

impl Writing {
    async fn run(mut self, edits: u64) -> Result<(), reconvene::Error> {
        for n in 0..edits {
            let marker = format!("{}.{n}", self.name);
            if let Some(file) = &self.unsynced {
                let mut file = file.lock().unwrap();
                file.write_all(&[b'u'; UNSYNCED_BYTES as usize]).unwrap();
            }
            self.edit(n, &format!("<{marker}>")).await?;
            say(&format!("acknowledged {marker}"));
            self.unheld.push(marker);
            if self.is_linked && self.unheld.len() >= BURST {
                self.wait_until_held().await?;
            }
            if n % COMPACT_EVERY == COMPACT_EVERY - 1 {
                self.replica.compact(None).await?;
            }
        }
        Ok(())
    }

    async fn edit(&mut self, n: u64, marker: &str) -> Result<(), reconvene::Error> {
        let meetings = self.replica.meetings();
        match self.meeting.filter(|_| n % 10 != 9) {
            Some(id) => {
                let long = if n % 7 == 6 { LONG_NOTE_BYTES } else { 0 };
                let note = format!("{marker}{}", "x".repeat(long));
                let edit = meetings.edit(id, move |meeting| meeting.append_note(&note));
                edit.await
            }
            None => {
                let added = meetings.add(NewMeeting::titled(marker)).await?;
                self.meeting = Some(added.meeting.id);
                Ok(())
            }
        }
    }

    async fn wait_until_held(&mut self) -> Result<(), reconvene::Error> {
        let until = Instant::now() + deadline();
        let written = self.replica.written().await?;
        let held = Delivery::HeldBy(HeldBy::Server);
        loop {
            match written.wait(held, Duration::from_millis(200)).await {
                Ok(()) => break,
                // The server may be back by now.
                Err(reconvene::Error::Timeout { .. }) if Instant::now() < until => {
                    self.replica.network_changed().await?;
                }
                Err(error) => return Err(error),
            }
        }
        for marker in self.unheld.drain(..) {
            say(&format!("held {marker}"));
        }
        Ok(())
    }
}
