//! Processes that a smoke leaves behind. A child that called `setsid` is not in our group and keeps none of
//! our pipes open, but it still has the environment it was started with (`/proc/PID/environ`, proc(5)).

use crate::sys::child::wait_for;
use crate::sys::file::read_special;
use crate::sys::procfs;
use crate::text::printable;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Marks every process of a smoke; the value is its stage's path.
const COOKIE: &str = "XTASK_SMOKE";

/// Maximum size of an environment: a third of the usual stack of 8 MiB (execve(2)).
const ENVIRONMENT_MAX_BYTES: u64 = 3 << 20;

/// How long a process may take to end after it has closed its output, or lost its standard input.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The processes of one smoke, killed on drop.
pub(crate) struct Marked(String);

impl Marked {
    pub(crate) fn new(stage: &Path) -> Marked {
        Marked(stage.to_string_lossy().into_owned())
    }

    /// Marks a command, and so everything that it starts.
    pub(crate) fn mark(&self, command: &mut Command) {
        command.env(COOKIE, &self.0);
    }

    /// Kills all processes that do not end by themselves; gives a sentence for each.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let until = Instant::now() + END_TIMEOUT;
        let has_ended = |process: &OwnedFd| wait_for(&[process.as_fd()], Some(until)).unwrap_or(false);
        let kill = |(pid, process)| {
            let command = printable(procfs::command(pid).unwrap_or_default().as_bytes());
            _ = pidfd_send_signal(&process, Signal::KILL);
            format!("it left process {pid} ({command}) running, which was killed")
        };
        self.processes().into_iter().filter(|(_, process)| !has_ended(process)).map(kill).collect()
    }

    /// The processes that are left, by descriptors, which nobody else's pid can replace.
    fn processes(&self) -> Vec<(i32, OwnedFd)> {
        let entry = format!("{COOKIE}={}", self.0);
        // That of a process that has ended, or is another user's, cannot be read.
        let is_marked = |pid: i32| {
            read_special(&format!("/proc/{pid}/environ"), ENVIRONMENT_MAX_BYTES)
                .is_ok_and(|environment| environment.split(|&byte| byte == 0).any(|found| found == entry.as_bytes()))
        };
        let opened = |pid: i32| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?));
        procfs::processes()
            .unwrap_or_default()
            .into_iter()
            .filter_map(opened)
            .filter(|(pid, _)| is_marked(*pid))
            .collect()
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        for (_, process) in self.processes() {
            _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}
