//! Disks that fail: a device on one that cannot sync, and one on a disk that is read-only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use reconvene::{DocumentId, Error, NewMeeting, Replica};
use tempfile::TempDir;

use crate::disk::{run, say_not_run, unmount};
use crate::harness::Peer;
use crate::power::{make_file_system, mount, place};
use crate::writer::in_runtime;

/// Size of the disk, and of the one that it lies on.
const DISK_MIB: u64 = 192;
const UNDER_MIB: u64 = 256;
/// What there is of memory for a disk that fails for want of room.
const MEMORY_MIB: u64 = 64;

/// Edits of which one at least has to be written where nothing is yet.
const EDITS_MAX: usize = 200;
/// Length of what each of them writes: more than a block.
const NOTE_BYTES: usize = 8_000;

/// Has a file system answer everything with an error from now on.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys\n\
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Every write and sync fails.
    Broken,
    /// What it lies on has no room for what was never written, which the file system on it can not know.
    NoRoomBelow,
}

/// A file system on a disk that can be made to fail: on a file of another file system.
struct FailingDisk {
    failure: Failure,
    dir: TempDir,
    mounted: Vec<PathBuf>,
}

impl FailingDisk {
    fn new(failure: Failure) -> Result<Self, String> {
        let mut disk = Self {
            failure,
            dir: tempfile::tempdir_in(place()).unwrap(),
            mounted: Vec::new(),
        };
        let under = disk.under();
        fs::create_dir(&under).unwrap();
        fs::create_dir(disk.at()).unwrap();
        if failure == Failure::Broken {
            make_file_system(&disk.dir.path().join("image"), UNDER_MIB)?;
        }
        disk.mount_under()?;
        make_file_system(&under.join("image"), DISK_MIB)?;
        disk.mount_disk()?;
        Ok(disk)
    }

    fn mount_under(&mut self) -> Result<(), String> {
        let under = self.under();
        match self.failure {
            Failure::Broken => mount(&self.dir.path().join("image"), &under)?,
            Failure::NoRoomBelow => {
                let size = format!("size={MEMORY_MIB}m");
                let words = ["-t", "tmpfs", "-o", &size, "none"].map(Path::new);
                run("mount", &[&words[..], &[&under]].concat())?;
            }
        }
        self.mounted.push(under);
        Ok(())
    }

    fn mount_disk(&mut self) -> Result<(), String> {
        mount(&self.under().join("image"), &self.at())?;
        self.mounted.push(self.at());
        Ok(())
    }

    fn under(&self) -> PathBuf {
        self.dir.path().join("under")
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn data(&self) -> PathBuf {
        self.at().join("data")
    }

    /// Lets it fail from now on.
    fn begin_to_fail(&self) {
        // What is written so far stays.
        for at in [self.at(), self.under()] {
            run("sync", &[Path::new("-f"), &at]).unwrap();
        }
        match self.failure {
            Failure::Broken => {
                let words = ["-c", SHUT_DOWN].map(Path::new);
                run("python3", &[&words[..], &[&self.under()]].concat()).unwrap();
            }
            Failure::NoRoomBelow => {
                let ballast = File::create(self.under().join("ballast")).unwrap();
                let flags = rustix::fs::FallocateFlags::empty();
                let mut taken = 0;
                for step in [1024 * 1024, 4096] {
                    while rustix::fs::fallocate(&ballast, flags, taken, step).is_ok() {
                        taken += step;
                    }
                }
            }
        }
    }

    /// Lets it work again, where that can be done while it is used.
    fn mend(&self) {
        if self.failure == Failure::NoRoomBelow {
            fs::remove_file(self.under().join("ballast")).unwrap();
        }
    }

    /// Begins anew with what is on it, as after a restart of the machine.
    fn restart(&mut self) {
        if self.failure == Failure::NoRoomBelow {
            run("umount", &[&self.mounted.pop().unwrap()]).unwrap();
            self.mount_disk().unwrap();
            return;
        }
        while let Some(at) = self.mounted.pop() {
            run("umount", &[&at]).unwrap();
        }
        self.mount_under().unwrap();
        self.mount_disk().unwrap();
    }

    fn remount(&self, how: &str) {
        let how = format!("remount,{how}");
        run("mount", &[Path::new("-o"), Path::new(&how), &self.at()]).unwrap();
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        for at in self.mounted.iter().rev() {
            unmount(at);
        }
    }
}

fn failing_disk(test: &str, failure: Failure) -> Option<FailingDisk> {
    match FailingDisk::new(failure) {
        Ok(disk) => Some(disk),
        Err(why) => {
            say_not_run(
                test,
                &format!("mounts no disk that can be made to fail ({why})"),
            );
            None
        }
    }
}

/// Appends a note with a marker; whether that was acknowledged.
async fn append(replica: &Replica, id: DocumentId, marker: &str) -> Result<(), Error> {
    let note = format!("<{marker}>{}", "x".repeat(NOTE_BYTES));
    let meetings = replica.meetings();
    let edit = meetings.edit(id, move |meeting| meeting.append_note(&note));
    edit.await
}

#[test]
fn a_disk_that_cannot_sync_makes_the_store_read_only_until_it_is_opened_again() {
    let test = "a_disk_that_cannot_sync_makes_the_store_read_only_until_it_is_opened_again";
    for failure in [Failure::Broken, Failure::NoRoomBelow] {
        let Some(disk) = failing_disk(test, failure) else {
            return;
        };
        check_cannot_sync(disk);
    }
}

fn check_cannot_sync(mut disk: FailingDisk) {
    let failed_codes = match disk.failure {
        Failure::Broken => ["store_failed"; 2],
        Failure::NoRoomBelow => ["no_space", "store_failed"],
    };
    let acknowledged = in_runtime(async {
        let replica = Replica::open(disk.data()).await.unwrap();
        let added = replica.meetings().add(NewMeeting::titled("Before")).await;
        let id = added.unwrap().meeting.id;
        append(&replica, id, "before").await.unwrap();
        let mut acknowledged = vec!["before".to_owned()];
        assert_eq!(replica.status().await.unwrap().store_failed, None);

        disk.begin_to_fail();
        let mut failed = None;
        for n in 0..EDITS_MAX {
            let marker = format!("failing {n}");
            match append(&replica, id, &marker).await {
                Ok(()) => acknowledged.push(marker),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let failed = failed.expect("the disk takes no new blocks");
        assert!(failed_codes.contains(&failed.code()), "{failed}");
        // It says so, and goes on saying it, also when the disk works again: nobody knows what of its
        // writes the kernel has dropped.
        let told = replica.status().await.unwrap().store_failed;
        assert!(told.is_some(), "nothing is told");
        disk.mend();
        for n in 0..3 {
            let refused = append(&replica, id, &format!("mended {n}")).await;
            let refused = refused.unwrap_err();
            assert!(failed_codes.contains(&refused.code()), "{refused}");
            let refused = replica.meetings().add(NewMeeting::titled("No")).await;
            let refused = refused.unwrap_err();
            assert!(failed_codes.contains(&refused.code()), "{refused}");
        }
        assert!(replica.status().await.unwrap().store_failed.is_some());
        // What was acknowledged can be read meanwhile.
        let shown = replica.export(None).await.unwrap();
        for marker in &acknowledged {
            assert!(shown.contains(&format!("<{marker}>")), "{marker}");
        }
        assert!(!shown.contains("mended"), "an edit that failed is shown");
        assert!(
            replica.close().await.is_err(),
            "it says that all is durable"
        );
        acknowledged
    });
    disk.restart();
    in_runtime(async {
        let replica = Replica::open(disk.data()).await.unwrap();
        let after = replica.export(None).await.unwrap();
        for marker in &acknowledged {
            assert!(after.contains(&format!("<{marker}>")), "{marker} is lost");
        }
        assert!(!after.contains("mended"), "an edit that failed came back");
        replica
            .meetings()
            .add(NewMeeting::titled("After"))
            .await
            .unwrap();
        assert_eq!(replica.status().await.unwrap().store_failed, None);
        let report = replica.verify(None).await.unwrap();
        assert!(report.intact, "{report:?}");
        replica.close().await.unwrap();
    });
}

#[test]
fn a_read_only_disk_is_told_with_its_path_and_nothing_is_changed() {
    let test = "a_read_only_disk_is_told_with_its_path_and_nothing_is_changed";
    let Some(disk) = failing_disk(test, Failure::NoRoomBelow) else {
        return;
    };
    let device = Peer::at(disk.data(), None);
    let new = Peer::at(disk.at().join("new"), None);
    device.run(&["init"]);
    let id = device.add("before");
    disk.remount("ro");
    for args in [
        &["status"][..],
        &["meeting", "list"],
        &["meeting", "add", "refused"],
        &["verify"],
    ] {
        let error = device.fails(args, 9, "permission");
        let said = error["message"].as_str().unwrap();
        assert!(said.contains(disk.data().to_str().unwrap()), "{error}");
        let hint = error["hint"].as_str().unwrap();
        assert!(
            hint.contains("read-only") && hint.contains("--data"),
            "{error}"
        );
    }
    let error = new.fails(&["init"], 9, "permission");
    assert!(
        error["message"].as_str().unwrap().contains("new"),
        "{error}"
    );
    disk.remount("rw");
    let listed = device.run(&["meeting", "list"]);
    assert_eq!(listed["meetings"][0]["id"], id.as_str());
    assert_eq!(listed["meetings"].as_array().unwrap().len(), 1);
    device.add("after");
    new.run(&["init"]);
}
