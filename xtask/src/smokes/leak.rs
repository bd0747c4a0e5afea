//! Processes that a smoke leaves behind. A child that called `setsid` is not in our group and keeps none of
//! our pipes open, but it still has the environment it was started with (`/proc/PID/environ`, proc(5)).

use crate::sys::child::wait_for;
use crate::sys::file::read_special;
use crate::sys::procfs::{self, processes};
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

/// How long a process may take to end after it has closed its output.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The processes of one smoke, killed on drop.
pub(crate) struct Marked(String);

impl Marked {
    /// Marks a command, and so everything that it starts.
    pub(crate) fn mark(command: &mut Command, stage: &Path) -> Marked {
        command.env(COOKIE, stage);
        Marked(stage.to_string_lossy().into_owned())
    }

    /// The mark itself, for commands that others start.
    pub(crate) fn cookie(&self) -> (&'static str, &str) {
        (COOKIE, &self.0)
    }

    /// Kills all processes that do not end by themselves; gives a sentence for each.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let until = Instant::now() + END_TIMEOUT;
        let mut leaks = Vec::new();
        for (pid, process) in marked(&self.0) {
            if !wait_for(&[process.as_fd()], Some(until)).unwrap_or(false) {
                let command = procfs::command(pid.as_raw_nonzero().get()).unwrap_or_default();
                _ = pidfd_send_signal(&process, Signal::KILL);
                leaks.push(format!(
                    "it left process {pid} ({}) running, which was killed",
                    printable(command.as_bytes())
                ));
            }
        }
        leaks
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        for (_, process) in marked(&self.0) {
            _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}

/// The processes with this cookie, by descriptors, which nobody else's pid can replace.
fn marked(cookie: &str) -> Vec<(Pid, OwnedFd)> {
    let entry = format!("{COOKIE}={cookie}");
    let marked = |pid: i32| {
        let pid = Pid::from_raw(pid)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        has(pid.as_raw_nonzero().get(), entry.as_bytes()).then_some((pid, process))
    };
    processes().into_iter().filter_map(marked).collect()
}

/// Whether the environment of a process has this entry. One that has ended, or is another user's, has not.
fn has(pid: i32, entry: &[u8]) -> bool {
    read_special(&format!("/proc/{pid}/environ"), ENVIRONMENT_MAX_BYTES)
        .is_ok_and(|environment| environment.split(|&byte| byte == 0).any(|found| found == entry))
}
