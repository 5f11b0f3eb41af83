//! The power goes while a device or a server writes: what the disk had been given by then is all there is.
//!
//! The device writes to a file system of its own in an image. To cut the power the writing process is
//! stopped, and the image is copied as it is: pages that the kernel holds for that file system and was
//! not made to write are not in it. The copy is what the next machine starts from. On the second kind of
//! machine the disk has a cache of its own, which it loses as well: there the image lies in a file of
//! another file system in an image, and only what the first one flushed is in that.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::cuts::copy_dir;
use crate::disk::{run, say_not_run, unmount};
use crate::harness::{Peer, Process, Server, deadline};
use crate::writer::{
    Chances, Heard, Survivors, UNSYNCED_BYTES, Writer, WriterOptions, has_set_aside, times,
};
use reconvene::Role;
use reconvene_testkit::Proxy;

/// How often the power is cut, unless `RECONVENE_CUTS` says otherwise.
const CUTS: u64 = 40;
/// Cuts of one machine while one process writes; after the last the next machine starts from it.
const CUTS_PER_PROCESS: u64 = 4;
/// Processes that write on disks that follow from each other, before a new disk is begun.
const DEVICE_PROCESSES: u64 = 3;
/// The same of servers.
const SERVER_PROCESSES: u64 = 2;
/// Edits that are awaited between two cuts, at most.
const EDITS_BETWEEN: u64 = 24;
/// Edits of each task of a writer: more than there is time for.
const EDITS_MAX: u64 = 100_000;

/// Sizes of the disks: more than a store keeps free.
const DISK_MIB: u64 = 192;
const OUTER_DISK_MIB: u64 = 256;
/// What a place for images has to have free.
const PLACE_BYTES_MIN: u64 = 2 * 1024 * 1024 * 1024;

/// How often a file system writes its metadata by itself, in seconds: not while this runs.
const COMMIT: &str = "commit=300";

/// What a disk does with what it was given and not told to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    /// It is written.
    Kept,
    /// It is lost.
    Lost,
}

/// File systems in an image, mounted until this goes.
struct Machine {
    cache: Cache,
    /// Where they are mounted, the outermost first.
    mounted: Vec<PathBuf>,
    /// Where the image and the places to mount at are.
    dir: TempDir,
}

impl Machine {
    /// One with an empty disk.
    fn new(place: &Path, cache: Cache) -> Result<Self, String> {
        let dir = tempfile::tempdir_in(place).unwrap();
        let image = dir.path().join("image");
        match cache {
            Cache::Kept => make_file_system(&image, DISK_MIB)?,
            Cache::Lost => {
                make_file_system(&image, OUTER_DISK_MIB)?;
                let at = dir.path().join("outer");
                fs::create_dir(&at).unwrap();
                mount(&image, &at)?;
                let made = make_file_system(&at.join("image"), DISK_MIB);
                run("umount", &[&at])?;
                made?;
            }
        }
        Self::start(dir, cache)
    }

    /// Starts from the image in a directory.
    fn start(dir: TempDir, cache: Cache) -> Result<Self, String> {
        let mut machine = Self {
            cache,
            mounted: Vec::new(),
            dir,
        };
        let mut image = machine.dir.path().join("image");
        let names: &[&str] = match cache {
            Cache::Kept => &["disk"],
            Cache::Lost => &["outer", "disk"],
        };
        for name in names {
            let at = machine.dir.path().join(name);
            if !at.exists() {
                fs::create_dir(&at).unwrap();
            }
            mount(&image, &at)?;
            image = at.join("image");
            machine.mounted.push(at);
        }
        Ok(machine)
    }

    /// Where the device has its disk.
    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// The machine that starts after the power was cut now. The process that writes on this one is
    /// stopped.
    fn cut(&self, writing: &Process) -> Self {
        stop(writing);
        let dir = tempfile::tempdir_in(self.dir.path().parent().unwrap()).unwrap();
        let image = dir.path().join("image");
        run("cp", &[&self.dir.path().join("image"), &image]).unwrap();
        Self::start(dir, self.cache).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for at in self.mounted.iter().rev() {
            unmount(at);
        }
    }
}

/// Makes an ext4 file system in an image of this size.
pub(crate) fn make_file_system(image: &Path, mib: u64) -> Result<(), String> {
    let file = File::create(image).map_err(|error| error.to_string())?;
    file.set_len(mib * 1024 * 1024)
        .map_err(|error| error.to_string())?;
    // Nothing is left for the kernel to do by itself later on.
    let whole = "lazy_itable_init=0,lazy_journal_init=0";
    let words = ["-q", "-F", "-m", "0", "-E", whole].map(Path::new);
    run("mkfs.ext4", &[&words[..], &[image]].concat())?;
    file.sync_all().map_err(|error| error.to_string())
}

/// Mounts the file system in an image.
pub(crate) fn mount(image: &Path, at: &Path) -> Result<(), String> {
    let options = format!("loop,{COMMIT}");
    run("mount", &[Path::new("-o"), Path::new(&options), image, at])
}

/// Stops a process, and waits until nothing of it runs, in the kernel either.
fn stop(process: &Process) {
    kill_process(process.pid(), Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", process.pid().as_raw_nonzero());
    let until = Instant::now() + deadline();
    let is_running = |task: fs::DirEntry| {
        // A task that has just ended has no state.
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.starts_with(['T', 'Z', 'X']));
        state == Some(false)
    };
    while fs::read_dir(&tasks)
        .unwrap()
        .any(|task| is_running(task.unwrap()))
    {
        assert!(Instant::now() < until, "the process does not stop");
        thread::yield_now();
    }
}

/// Where images and the like are kept: in memory, where there is enough of that.
pub(crate) fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |disk| disk.f_bavail * disk.f_frsize);
    if free >= PLACE_BYTES_MIN {
        return memory.to_owned();
    }
    std::env::temp_dir()
}

/// What was cut, and what that took.
#[derive(Debug, Default)]
struct Cuts {
    done: u64,
    /// Those that took what nobody had made the kernel write.
    took: u64,
    /// Edits that had been acknowledged, by the device or by the server.
    acknowledged: usize,
}

/// A device writes on machines each of which starts from what a cut left of the one before.
fn cut_device(mut machine: Machine, chances: &mut Chances, cuts: &mut Cuts) {
    let mut before = BTreeSet::new();
    for n in 0..DEVICE_PROCESSES {
        let options = WriterOptions {
            data: machine.disk().join("data"),
            run: format!("p{n}"),
            linked: false,
            edits: EDITS_MAX,
        };
        let mut writer = Writer::spawn(&options);
        for cut in 1..=CUTS_PER_PROCESS {
            match (cut, chances.below(3)) {
                // While the store is opened, or made.
                (1, 0) => assert!(writer.hear_until(|heard| heard.last == "opening")),
                (1, 1) => assert!(writer.hear_until(|heard| heard.last == "opened")),
                _ => {
                    let known = writer.heard.acknowledged.len() as u64;
                    let wanted = known + 1 + chances.below(EDITS_BETWEEN);
                    let is_there = |heard: &Heard| heard.acknowledged.len() as u64 >= wanted;
                    assert!(writer.hear_until(is_there));
                }
            }
            // The cut comes after all that was said by now.
            writer.hear_now();
            let known = writer.heard.acknowledged.clone();
            let after = machine.cut(writer.process());
            cuts.done += 1;
            let unsynced = after.disk().join(format!("unsynced-p{n}"));
            let kept = fs::metadata(unsynced).map_or(0, |file| file.len() / UNSYNCED_BYTES);
            cuts.took += u64::from(kept < known.len() as u64);
            let acknowledged: BTreeSet<_> = before.union(&known).cloned().collect();
            check_device(&after, &acknowledged, cuts.done);
            if cut < CUTS_PER_PROCESS {
                kill_process(writer.process().pid(), Signal::CONT).unwrap();
                continue;
            }
            drop(writer.kill());
            before = acknowledged;
            machine = after;
            break;
        }
    }
    cuts.acknowledged += before.len();
}

/// Checks what a cut left, with the database and without: that is what the journal alone has.
fn check_device(after: &Machine, acknowledged: &BTreeSet<String>, cut: u64) {
    let data = after.disk().join("data");
    if !data.exists() {
        assert!(acknowledged.is_empty(), "the directory is gone");
        return;
    }
    for loses_database in [false, true] {
        let cache = after.cache;
        let what = format!("cut {cut}, cache {cache:?}, database lost: {loses_database}");
        let copy = tempfile::tempdir_in(after.dir.path()).unwrap();
        let copy = copy.path().join("data");
        copy_dir(&data, &copy);
        let database = copy.join("sled");
        if loses_database && database.exists() {
            fs::remove_dir_all(database).unwrap();
        }
        let found = Survivors::of(&copy, Role::Device);
        match loses_database {
            true => found.check_markers(acknowledged, &what),
            false => found.check(acknowledged, &what),
        }
        assert!(!has_set_aside(&copy), "{what}");
    }
}

/// A server, whose journal holds nothing of what devices send it, is cut while a device writes.
fn cut_server(mut machine: Machine, chances: &mut Chances, cuts: &mut Cuts) {
    let proxy = Proxy::new().unwrap();
    let announce = ["--announce", &proxy.address()];
    let mut server = Server::of(Peer::at(machine.disk().join("data"), None), &announce);
    lead(&proxy, &server);
    let device = Peer::joined(&server, "Ada");
    let mut writer = Writer::spawn(&WriterOptions {
        data: device.data(),
        run: "p0".to_owned(),
        linked: true,
        edits: EDITS_MAX,
    });
    for cut in 1..=SERVER_PROCESSES * CUTS_PER_PROCESS {
        let known = writer.heard.held.len() as u64;
        let wanted = known + 1 + chances.below(EDITS_BETWEEN);
        assert!(writer.hear_until(|heard| heard.held.len() as u64 >= wanted));
        writer.hear_now();
        let known = writer.heard.held.clone();
        let after = machine.cut(server.process());
        cuts.done += 1;
        let copy = tempfile::tempdir_in(after.dir.path()).unwrap();
        let copy = copy.path().join("data");
        copy_dir(&after.disk().join("data"), &copy);
        let what = format!("cut {} of a server, cache {:?}", cuts.done, after.cache);
        Survivors::of(&copy, Role::Server).check(&known, &what);
        assert!(!has_set_aside(&copy), "{what}");
        if cut % CUTS_PER_PROCESS > 0 {
            kill_process(server.process().pid(), Signal::CONT).unwrap();
            continue;
        }
        // What it acknowledged since then is lost with its machine, and comes back from the device.
        server.kill();
        server = Server::of(Peer::at(after.disk().join("data"), None), &announce);
        lead(&proxy, &server);
        machine = after;
    }
    let heard = writer.kill();
    cuts.acknowledged += heard.held.len();
    server.kill();
}

fn lead(proxy: &Proxy, server: &Server) {
    proxy.lead_to(server.info["listening"][0].as_str().unwrap());
}

/// The test that cuts, by its full name.
pub(crate) const CUTS_TEST: &str =
    "power::a_power_cut_loses_nothing_acknowledged_with_the_database_or_without";

/// Whether this machine lets the power be cut of a disk in it; if not, that is said loudly.
pub(crate) fn can_be_cut(test: &str) -> bool {
    let made = Machine::new(&place(), Cache::Lost);
    if let Err(why) = &made {
        say_not_run(test, &format!("mounts no image ({why})"));
    }
    made.is_ok()
}

#[test]
fn a_power_cut_loses_nothing_acknowledged_with_the_database_or_without() {
    if !can_be_cut(CUTS_TEST) {
        return;
    }
    let wanted = times("RECONVENE_CUTS", CUTS);
    let mut chances = Chances::named("RECONVENE_CUTS_SEED");
    let mut cuts = Cuts::default();
    while cuts.done < wanted {
        for cache in [Cache::Kept, Cache::Lost] {
            let machine = || Machine::new(&place(), cache).unwrap();
            cut_device(machine(), &mut chances, &mut cuts);
            cut_server(machine(), &mut chances, &mut cuts);
        }
    }
    println!("{cuts:?}");
    assert!(cuts.took > 0, "no cut took anything: it was none");
}
