//! A disk of its own, small enough to be filled: an ext4 image, or memory, whichever this machine and
//! this user may mount.
//!
//! Where none can be mounted the tests that need one do not run. They say so, and leave a file in
//! the build's directory for temporary files, which `.ci/run` prints at its end.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Apart, Peer};

/// Size of the disk: a few times what a store keeps free.
const DISK_MIB: u64 = 256;

/// A mounted disk; unmounted when this goes. Whoever uses it has to go before.
pub(crate) struct Disk {
    path: PathBuf,
    mounted: Mounted,
    root: TempDir,
}

enum Mounted {
    /// Where everyone sees it.
    Here,
    /// Where this process and those who look through it see it.
    Apart(Child),
}

impl Disk {
    /// A new empty disk, or a loud word that there is none.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().join("disk");
        fs::create_dir(&at).unwrap();
        let mut tried = Vec::new();
        let mounted = mount_image(root.path(), &at)
            .or_else(|why| {
                tried.push(why);
                mount_memory(&at)
            })
            .map(|()| (at.clone(), Mounted::Here))
            .or_else(|why| {
                tried.push(why);
                mount_apart(&at)
            });
        match mounted {
            Ok((path, mounted)) => Some(Self {
                path,
                mounted,
                root,
            }),
            Err(why) => {
                tried.push(why);
                say_not_run(
                    test,
                    &format!("mounts no small disk ({})", tried.join("; ")),
                );
                None
            }
        }
    }

    /// A peer whose store is on this disk.
    pub(crate) fn peer(&self) -> Peer {
        let apart = match &self.mounted {
            Mounted::Here => None,
            Mounted::Apart(holder) => Some(Apart {
                process: holder.id(),
                data: self.root.path().join("disk").join("data"),
            }),
        };
        Peer::at(self.path.join("data"), apart)
    }

    /// A file on this disk: as this process sees it, and as the peer does.
    pub(crate) fn file(&self, name: &str) -> (PathBuf, PathBuf) {
        let seen = self.path.join(name);
        match &self.mounted {
            Mounted::Here => (seen.clone(), seen),
            Mounted::Apart(_) => (seen, self.root.path().join("disk").join(name)),
        }
    }

    /// Takes up space until no more than this is free.
    pub(crate) fn fill(&self, leave: u64) {
        self.free();
        let file = File::create(self.ballast()).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        let mut taken = 0;
        // The file system needs some for itself, how much is not known beforehand.
        for step in [1024 * 1024, 4096] {
            while self.free_bytes() >= leave + step {
                match rustix::fs::fallocate(&file, flags, taken, step) {
                    Ok(()) => taken += step,
                    Err(rustix::io::Errno::NOSPC) => break,
                    Err(error) => panic!("the disk cannot be filled: {error}"),
                }
            }
        }
    }

    fn free_bytes(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.path).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Frees what [`Disk::fill`] took.
    pub(crate) fn free(&self) {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        match &mut self.mounted {
            Mounted::Here => {
                unmount(&self.path);
            }
            Mounted::Apart(holder) => {
                // The mount goes with the last who sees it.
                drop(holder.kill());
                drop(holder.wait());
            }
        }
    }
}

fn mount_image(root: &Path, at: &Path) -> Result<(), String> {
    let image = root.join("image");
    let file = File::create(&image).map_err(|error| error.to_string())?;
    file.set_len(DISK_MIB * 1024 * 1024)
        .map_err(|error| error.to_string())?;
    let words = ["-q", "-F", "-m", "0"].map(Path::new);
    run("mkfs.ext4", &[&words[..], &[&image]].concat())?;
    run("mount", &[Path::new("-o"), Path::new("loop"), &image, at])
}

fn mount_memory(at: &Path) -> Result<(), String> {
    let size = format!("size={DISK_MIB}m");
    let words = ["-t", "tmpfs", "-o", &size, "none"].map(Path::new);
    run("mount", &[&words[..], &[at]].concat())
}

/// Mounts in a namespace that a process holds open, through which others reach it.
fn mount_apart(at: &Path) -> Result<(PathBuf, Mounted), String> {
    let script =
        format!("mount -t tmpfs -o size={DISK_MIB}m none \"$0\" && echo mounted && exec cat");
    let mut holder = Command::new("unshare")
        .args(["-Urm", "sh", "-c", &script])
        .arg(at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("unshare: {error}"))?;
    let mut line = String::new();
    let output = holder.stdout.take().unwrap();
    let told = BufReader::new(output).read_line(&mut line);
    let seen = PathBuf::from(format!("/proc/{}/root{}", holder.id(), at.display()));
    if told.is_err() || line != "mounted\n" || fs::read_dir(&seen).is_err() {
        drop(holder.kill());
        drop(holder.wait());
        return Err("unshare: no mount in a namespace".to_owned());
    }
    Ok((seen, Mounted::Apart(holder)))
}

/// Runs a program to its end; what it complained about, if it failed.
pub(crate) fn run(program: &str, args: &[&Path]) -> Result<(), String> {
    let ended = Command::new(program).args(args).output();
    match ended {
        Ok(ended) if ended.status.success() => Ok(()),
        Ok(ended) => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&ended.stderr).trim()
        )),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

/// Unmounts, also where something of a test that failed is left there.
pub(crate) fn unmount(at: &Path) {
    let unmounted = run("umount", &[at]).or_else(|_| run("umount", &[Path::new("-l"), at]));
    if let Err(why) = unmounted {
        eprintln!("{} stays mounted: {why}", at.display());
    }
}

/// Says that this machine does not let a test run: it `why`.
pub(crate) fn say_not_run(test: &str, why: &str) {
    let text = format!("NOT RUN: {test}: this machine {why}\n");
    // Past the capture of the test harness.
    let mut loud: Box<dyn std::io::Write> = Box::new(std::io::stderr());
    loud.write_all(text.as_bytes()).unwrap();
    let told = Path::new(env!("CARGO_TARGET_TMPDIR")).join("not-run");
    fs::create_dir_all(&told).unwrap();
    fs::write(told.join(test), text).unwrap();
}
