//! Processes under test: commands that run to their end, and ones that run on beside the test.
//!
//! What a process prints is read by threads and waited for with a deadline; a process that is still
//! there when its handle goes is killed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use reconvene_testkit::{Proxy, patience};

/// How long anything may take; far more than it does, also on a busy machine.
pub(crate) fn deadline() -> Duration {
    2 * patience()
}

/// How long a command may wait for what is to happen, as its options have it: not quite as long.
pub(crate) fn wait() -> &'static str {
    static WAIT: LazyLock<String> =
        LazyLock::new(|| format!("{}ms", (deadline() * 5 / 6).as_millis()));
    &WAIT
}

/// A store of its own and whoever runs commands on it.
pub(crate) struct Peer {
    root: TempDir,
    data: PathBuf,
    /// Where its commands run, if not here.
    apart: Option<Apart>,
}

/// Another place in the tree of files: that of a process, and the data directory as seen there.
pub(crate) struct Apart {
    pub(crate) process: u32,
    pub(crate) data: PathBuf,
}

impl Peer {
    /// An empty place for a store.
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        Self::with(root, data, None)
    }

    /// A place for a store that is elsewhere, such as on a disk of its own.
    pub(crate) fn at(data: PathBuf, apart: Option<Apart>) -> Self {
        Self::with(tempfile::tempdir().unwrap(), data, apart)
    }

    fn with(root: TempDir, data: PathBuf, apart: Option<Apart>) -> Self {
        let mut private = fs::DirBuilder::new();
        private.mode(0o700).create(root.path().join("run")).unwrap();
        Self { root, data, apart }
    }

    /// A device that joined the server's current workspace as this member.
    pub(crate) fn joined(server: &Server, member: &str) -> Self {
        let device = Self::new();
        device.run(&["join", &server.ticket(member)]);
        device
    }

    /// The data directory; not there before the first command.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// A directory for other files of the test.
    pub(crate) fn files(&self) -> &Path {
        self.root.path()
    }

    /// The program with this peer's directories, to be added to.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        const PROGRAM: &str = env!("CARGO_BIN_EXE_reconvene-under-test");
        let (mut command, data) = match &self.apart {
            None => (Command::new(PROGRAM), &self.data),
            Some(apart) => {
                let mut command = Command::new("nsenter");
                let process = apart.process.to_string();
                command.args([
                    "--preserve-credentials",
                    "-U",
                    "-m",
                    "-t",
                    &process,
                    PROGRAM,
                ]);
                (command, &apart.data)
            }
        };
        command
            .args(args)
            .arg("--data")
            .arg(data)
            .env_remove("RECONVENE_DATA")
            .env_remove("RECONVENE_LOG")
            .env("XDG_RUNTIME_DIR", self.root.path().join("run"))
            .current_dir(self.root.path());
        command
    }

    /// Runs a command with `--json` to its end, whatever that is.
    pub(crate) fn end(&self, args: &[&str]) -> Ended {
        let mut command = self.command(args);
        command.arg("--json");
        Process::spawn(command).end()
    }

    /// Runs a command that must succeed, and reads its answer.
    pub(crate) fn run(&self, args: &[&str]) -> Value {
        let ended = self.end(args);
        assert!(ended.status.success(), "{args:?}: {ended:?}");
        ended.json()
    }

    /// Runs a command that must fail in this way, and yields the error.
    pub(crate) fn fails(&self, args: &[&str], exit: i32, code: &str) -> Value {
        self.end(args).failed(exit, code)
    }

    /// The current workspace, byte for byte.
    pub(crate) fn export(&self) -> String {
        let ended = self.end(&["export"]);
        assert!(ended.status.success(), "{ended:?}");
        ended.stdout
    }

    /// One pass with the server.
    pub(crate) fn sync(&self) -> Value {
        let report = self.run(&["sync"]);
        assert_eq!(report["verified"], true, "{report}");
        report
    }

    /// Imports files and yields the meetings' ids in the files' order.
    pub(crate) fn import(&self, files: &[PathBuf]) -> Vec<String> {
        let mut args = vec!["import", "qmsum"];
        args.extend(files.iter().map(|file| file.to_str().unwrap()));
        let answer = self.run(&args);
        assert_eq!(answer["imported"], files.len(), "{answer}");
        let ids = answer["meetings"].as_array().unwrap().iter();
        ids.map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// Adds a meeting and yields its id.
    pub(crate) fn add(&self, title: &str) -> String {
        let answer = self.run(&["meeting", "add", title]);
        answer["meeting"]["id"].as_str().unwrap().to_owned()
    }

    /// Starts a command that runs on, with `--json`.
    pub(crate) fn start(&self, args: &[&str]) -> Process {
        let mut command = self.command(args);
        command.arg("--json");
        Process::spawn(command)
    }
}

/// A serving peer.
pub(crate) struct Server {
    pub(crate) peer: Peer,
    /// Its process; `None` while it is down.
    process: Option<Process>,
    /// What its first line said.
    pub(crate) info: Value,
    /// What it is started with.
    args: Vec<String>,
}

impl Server {
    /// Serves from an empty directory.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// Serves from an empty directory, and is reached through a proxy.
    pub(crate) fn behind(proxy: &Proxy) -> Self {
        let server = Self::with(&["--announce", &proxy.address()]);
        proxy.lead_to(server.info["listening"][0].as_str().unwrap());
        server
    }

    /// Serves from an empty directory, with these options.
    pub(crate) fn with(args: &[&str]) -> Self {
        Self::of(Peer::new(), args)
    }

    /// Serves from a peer's directory, with these options.
    pub(crate) fn of(peer: Peer, args: &[&str]) -> Self {
        let mut server = Self {
            peer,
            process: None,
            info: Value::Null,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        server.start();
        server
    }

    /// Begins to serve, in a process that is not waited for.
    pub(crate) fn begin(&self) -> Process {
        let mut command = self.peer.command(&["serve"]);
        command
            .args(&self.args)
            .arg("--json")
            .env("RECONVENE_LOG", "reconvene=debug")
            // Telling where a panic was that is contained takes tens of MiB of debug information.
            .env("RUST_BACKTRACE", "0");
        Process::spawn(command)
    }

    /// Serves again, on the same directory.
    pub(crate) fn start(&mut self) {
        let process = self.begin();
        self.info = process.line();
        assert!(self.info["listening"][0].is_string(), "{}", self.info);
        self.process = Some(process);
    }

    /// A ticket for a device of this member.
    pub(crate) fn ticket(&self, member: &str) -> String {
        let answer = self.peer.run(&["invite", "--member", member]);
        answer["ticket"].as_str().unwrap().to_owned()
    }

    /// Ends the process as a lost machine would.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// Ends the process in order.
    pub(crate) fn stop(&mut self) {
        let ended = self.process.take().unwrap().stop();
        assert!(ended.status.success(), "{ended:?}");
    }

    /// Does what [`Server::kill`] does, at the moment it is called; the server is to be started
    /// again after [`Server::kill`].
    pub(crate) fn killer(&self) -> impl FnOnce() + Send + 'static {
        let process = self.process.as_ref().unwrap();
        let pid = process.pid();
        move || kill_process(pid, Signal::KILL).unwrap()
    }

    /// What it logs.
    pub(crate) fn log(&self) -> &Receiver<String> {
        &self.process().errors
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Waits until it logs a word.
    pub(crate) fn wait_for_log(&self, word: &str) {
        let until = Instant::now() + deadline();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.log().recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("`{word}` was not logged: {error}"));
            if line.contains(word) {
                return;
            }
        }
    }

    /// The most memory that its process ever had resident, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let id = self.process.as_ref().unwrap().child.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Passes over what it has logged so far.
    pub(crate) fn forget_log(&self) {
        while self.log().try_recv().is_ok() {}
    }

    pub(crate) fn export(&self) -> String {
        self.peer.export()
    }
}

/// A process of the program, killed when this goes.
pub(crate) struct Process {
    child: Child,
    output: Receiver<String>,
    errors: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            output: lines(child.stdout.take().unwrap()),
            errors: lines(child.stderr.take().unwrap()),
            said: Vec::new(),
            child,
        }
    }

    /// The next line on stdout, which is JSON.
    pub(crate) fn line(&self) -> Value {
        let line = self.output.recv_timeout(deadline());
        let line = line.unwrap_or_else(|error| panic!("no line: {error}; {}", self.complaints()));
        serde_json::from_str(&line).unwrap()
    }

    /// The next line on stdout that is wanted.
    pub(crate) fn line_where(&self, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let until = Instant::now() + deadline();
        loop {
            let line = self.line();
            if wanted(&line) {
                return line;
            }
            assert!(Instant::now() < until, "not said in time; last was {line}");
        }
    }

    /// What it logs.
    pub(crate) fn log(&self) -> &Receiver<String> {
        &self.errors
    }

    /// What it says on stdout, line by line, other than what was taken already.
    pub(crate) fn said(&self) -> &Receiver<String> {
        &self.output
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end of the process.
    pub(crate) fn end(mut self) -> Ended {
        let until = Instant::now() + deadline();
        loop {
            match self
                .output
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(line) => self.said.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(_) => panic!("it does not end; {}", self.complaints()),
            }
        }
        // Nothing is said any more: the process is ending.
        let status = self.child.wait().unwrap();
        let mut stdout = std::mem::take(&mut self.said).join("\n");
        stdout.push('\n');
        Ended {
            status,
            stdout,
            stderr: self.errors.iter().collect::<Vec<_>>().join("\n"),
        }
    }

    /// Ends the process at once (SIGKILL).
    pub(crate) fn kill(self) {
        drop(self.kill_and_hear());
    }

    /// Ends the process at once (SIGKILL); what it had said by then and was not taken yet.
    pub(crate) fn kill_and_hear(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.output.iter().collect()
    }

    /// Lets it do nothing from here on (SIGSTOP).
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused process go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Tells the process to stop (SIGTERM) and waits for its end.
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.end()
    }

    fn complaints(&self) -> String {
        self.errors.try_iter().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How a process ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The one JSON document it said.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that it failed in this way, and yields the error.
    pub(crate) fn failed(&self, exit: i32, code: &str) -> Value {
        assert_eq!(self.status.code(), Some(exit), "{self:?}");
        let mut answer = self.json();
        assert_eq!(answer["error"]["code"], code, "{self:?}");
        assert!(answer["error"]["message"].is_string(), "{self:?}");
        answer["error"].take()
    }
}

/// The lines of a stream, read by a thread until it ends.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
