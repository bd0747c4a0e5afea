//! Processes that a smoke left behind. A child that called `setsid` is in no group of
//! ours and keeps no pipe of ours open; what it cannot shed is the environment it was
//! started with (proc(5), `/proc/PID/environ`).

use crate::child::wait_for;
use crate::lock::processes;
use crate::text::printable;
use nix::poll::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Marks every process of a smoke; the value is its stage's path.
const COOKIE: &str = "XTASK_SMOKE";

/// An environment is not longer, in bytes: a third of the usual stack of 8 MiB (execve(2)).
const LONGEST: u64 = 3 << 20;

/// How long a process may take to end after it has closed its output, as `cat` does first.
const LEAVING: Duration = Duration::from_secs(1);

/// The processes of one smoke. They are ended when this is dropped, at the latest.
pub(crate) struct Marked(String);

impl Marked {
    /// Marks a command, and so all that it starts, by its stage.
    pub(crate) fn mark(command: &mut Command, stage: &Path) -> Marked {
        command.env(COOKIE, stage);
        Marked(stage.to_string_lossy().into_owned())
    }

    /// The mark itself, for commands that others start.
    pub(crate) fn cookie(&self) -> (&'static str, &str) {
        (COOKIE, &self.0)
    }

    /// Ends all processes that do not leave by themselves, and tells of each.
    pub(crate) fn strays(&self) -> Vec<String> {
        let until = Instant::now() + LEAVING;
        let mut told = Vec::new();
        for (pid, process) in marked(&self.0) {
            let has_left = wait_for(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], until).unwrap_or(false);
            if !has_left {
                let command = crate::lock::command(pid.as_raw_nonzero().get()).unwrap_or_default();
                _ = pidfd_send_signal(&process, Signal::KILL);
                told.push(format!(
                    "it left process {pid} ({}) behind, which was killed",
                    printable(command.as_bytes())
                ));
            }
        }
        told
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        for (_, process) in marked(&self.0) {
            _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}

/// The processes with this cookie. A descriptor stays that process's, whoever gets its pid.
fn marked(cookie: &str) -> Vec<(Pid, OwnedFd)> {
    let entry = format!("{COOKIE}={cookie}");
    let marked = |pid: i32| {
        let pid = Pid::from_raw(pid)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        has(pid.as_raw_nonzero().get(), entry.as_bytes()).then_some((pid, process))
    };
    processes().into_iter().filter_map(marked).collect()
}

/// Whether the environment of a process has this entry. One that ends meanwhile, or is
/// another user's, has none.
fn has(pid: i32, entry: &[u8]) -> bool {
    let mut environment = Vec::new();
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else { return false };
    let is_read = file.take(LONGEST).read_to_end(&mut environment).is_ok();
    is_read && environment.split(|&byte| byte == 0).any(|found| found == entry)
}
