//! The sandbox of the crash tests: a lock, programs under strace, commands that say when they are inside.

use super::inject::{self, Fault, Point};
use crate::sandbox::{Sandbox, Status, command};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// A run that takes longer hangs. Ordinary ones are over in 30 ms.
const RUN_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) const HANGS: &str = "it hangs";

/// A pid above any that there can be.
pub(super) const STALE_SIDECAR: &str =
    "pid=99999999\nstarted=2026-06-04T01:02:03Z\ncmd=bash ./run-documents-scrape.sh\n";

/// What the commands under the lock exit with; nothing else does.
pub(super) const COMMAND_EXIT: i32 = 7;

/// A command that says when it is inside, and stays there until its input ends. `$0` is the journal.
pub(super) const STAY: &str = r#"echo "in $$" >>"$0"; echo "READY $PPID"; read -r _; echo "out $$" >>"$0"; exit 7"#;

/// One that comes and goes.
pub(super) const PASS: &str = r#"echo "in $$" >>"$0"; echo "out $$" >>"$0"; exit 7"#;

/// A sandbox with what all its runs need. The lock has a name of its own, so that no other test's
/// deleted lock file can be taken for this one.
pub(super) struct Scene {
    /// With no link in it, as the kernel shows paths.
    pub(super) root: PathBuf,
    pub(super) lock: PathBuf,
    _sandbox: Sandbox,
}

/// What became of a traced run.
pub(super) struct Run {
    pub(super) trace: String,
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    /// Its command was inside.
    pub(super) has_entered: bool,
    /// It was gone while its command was still inside.
    pub(super) left_command: bool,
    pub(super) wrong: Vec<String>,
}

impl Scene {
    pub(super) fn new() -> Scene {
        let sandbox = Sandbox::new();
        let root = sandbox.at("").canonicalize().unwrap();
        let name = format!("archive/{}.lock", root.file_name().unwrap().display());
        Scene { lock: root.join(name), root, _sandbox: sandbox }
    }

    /// The lock's.
    pub(super) fn folder(&self) -> PathBuf {
        self.lock.parent().unwrap().to_owned()
    }

    pub(super) fn sidecar(&self) -> PathBuf {
        PathBuf::from(format!("{}.meta", self.lock.display()))
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(super) fn inode(&self) -> Option<u64> {
        Some(self.lock.metadata().ok()?.ino())
    }

    pub(super) fn write_sidecar(&self) {
        std::fs::write(self.sidecar(), STALE_SIDECAR).unwrap();
    }

    /// Not even the lock's folder is there.
    pub(super) fn set_nothing(&self) {
        _ = std::fs::remove_dir_all(self.folder());
        _ = std::fs::remove_file(self.journal());
    }

    /// A scrape was killed: the lock file and its sidecar are there.
    pub(super) fn set_stale(&self) {
        self.set_nothing();
        std::fs::create_dir(self.folder()).unwrap();
        std::fs::write(&self.lock, "").unwrap();
        self.write_sidecar();
    }

    /// The words of a `lock-run` with a shell script under it.
    pub(super) fn lock_run(&self, script: &str) -> Vec<String> {
        let journal = self.journal().display().to_string();
        self.words("lock-run", &["--", "/bin/sh", "-c", script, &journal])
    }

    pub(super) fn lock_status(&self, more: &[&str]) -> Vec<String> {
        self.words("lock-status", more)
    }

    fn words(&self, command: &str, more: &[&str]) -> Vec<String> {
        let [bin, config] = ["xtask", "scrape.json"].map(|name| self.root.join(name).display().to_string());
        [&[&bin, command, "--config", &config], more].concat().into_iter().map(str::to_owned).collect()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program);
        // cargo's makes the loader try hundreds of places.
        command.env("DCE_SCRAPE_LOCK_FILE", &self.lock).env("DCE_MIN_FREE_MB", "0").env_remove("LD_LIBRARY_PATH");
        command
    }

    pub(super) fn output(&self, words: &[String]) -> Output {
        self.command(&words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap()
    }

    pub(super) fn ask(&self) -> Status {
        let output = self.output(&self.lock_status(&["--format", "json"]));
        let status = serde_json::from_slice(&output.stdout).unwrap();
        Status { exit: output.status.code().unwrap(), ..status }
    }

    /// Holds the lock until its input ends.
    pub(super) fn holder(&self) -> Child {
        let mut flock = self.command("flock");
        flock.arg("--no-fork").arg(&self.lock).args(["sh", "-c", "echo READY; read -r _ || :"]);
        let mut holder = flock.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(output_of(&mut holder, true).as_deref(), Some("READY\n"));
        holder
    }

    /// Runs a program under strace. When it has a command, that is let go after a look at the lock.
    pub(super) fn run(&self, fault: Option<(&Point, Fault)>, words: &[String]) -> Run {
        let trace = self.root.join("trace");
        let strace = self.command("strace");
        let mut strace = match fault {
            None => inject::recording(strace, &trace),
            Some((point, fault)) => inject::injecting(strace, &trace, point, fault),
        };
        let errors = std::fs::File::create(self.root.join("stderr")).unwrap();
        strace.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let mut child = strace.spawn().unwrap();
        let mut wrong = Vec::new();
        let mut left_command = false;
        let mut stdout = output_of(&mut child, true);
        let entered = stdout.as_deref().and_then(|said| said.strip_prefix("READY "));
        let has_entered = entered.is_some();
        if let Some(parent) = entered {
            left_command = self.has_settled_as_gone(parent.trim_end(), &mut wrong);
            self.check_inside(&mut wrong);
        }
        drop(child.stdin.take());
        if let Some(said) = &mut stdout {
            match output_of(&mut child, false) {
                Some(more) => *said += &more,
                None => stdout = None,
            }
        }
        if stdout.is_none() {
            wrong.push(HANGS.to_owned());
            killpg(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
        }
        let status = child.wait().unwrap();
        let trace = std::fs::read_to_string(trace).unwrap_or_default();
        Run { trace, status, stdout: stdout.unwrap_or_default(), has_entered, left_command, wrong }
    }

    /// Waits until the `lock-run` of a command that is inside sleeps, or is gone; whether it is gone.
    fn has_settled_as_gone(&self, pid: &str, wrong: &mut Vec<String>) -> bool {
        let until = Instant::now() + RUN_TIMEOUT;
        let ours = self.root.join("xtask");
        loop {
            // An orphan's parent is another program, and a zombie has none.
            let program = std::fs::read_link(format!("/proc/{pid}/exe"));
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            match state.rsplit(") ").next().and_then(|fields| fields.chars().next()) {
                _ if program.ok().as_ref() != Some(&ours) => return true,
                Some('S') => return false,
                _ if Instant::now() > until => {
                    wrong.push("it neither waits for its command nor ends".to_owned());
                    return false;
                }
                // Stopped by strace, or running.
                _ => std::thread::yield_now(),
            }
        }
    }

    /// While a command is inside, the lock is held, and nobody else gets in.
    fn check_inside(&self, wrong: &mut Vec<String>) {
        let status = self.ask();
        if (&status.state[..], status.exit) != ("held", 1) {
            wrong.push(format!("the command is inside, and lock-status says {status:?}"));
        }
        let second = self.output(&self.lock_run(PASS)).status;
        if second.code() != Some(1) {
            wrong.push(format!("the command is inside, and a second lock-run: {second}"));
        }
        let flock = self.command("flock").arg("-n").arg(&self.lock).arg("true").status().unwrap();
        if flock.code() != Some(1) {
            wrong.push(format!("the command is inside, and flock -n: {flock}"));
        }
    }
}

/// What a child writes, to the end of its first line or to the end; None when that takes too long.
fn output_of(child: &mut Child, is_line: bool) -> Option<String> {
    let until = Instant::now() + RUN_TIMEOUT;
    let stdout = child.stdout.as_mut().unwrap();
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    while !(is_line && said.contains(&b'\n')) {
        let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now())).unwrap();
        if poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], left).unwrap() == 0 {
            return None;
        }
        match stdout.read(&mut piece).unwrap() {
            0 => break,
            length => said.extend_from_slice(&piece[..length]),
        }
    }
    Some(String::from_utf8_lossy(&said).into_owned())
}
