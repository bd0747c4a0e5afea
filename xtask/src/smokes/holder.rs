//! Real holders of the lock, in processes of their own.
//!
//! A holder prints `READY PID` when it has the lock, and ends at the end of its standard input: a lifeline
//! that is cut even if this program is killed.

use crate::smokes::case::{HeldPlan, HolderKind};
use crate::smokes::leak::Marked;
use crate::smokes::smoke::{Setup, programs};
use crate::sys::child::{self, Group, wait_for};
use crate::sys::signals::Signals;
use anyhow::{Context, bail};
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a holder may take to get the lock.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a holder may take to end by itself.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// A live process that holds a lock until this is dropped.
pub(crate) struct LiveHolder {
    group: Group,
    lifeline: Option<ChildStdin>,
    /// Its standard output and error.
    output: PipeReader,
    /// The process that said `READY`.
    pub(crate) pid: u32,
    /// The process that was started: `flock(1)` forks.
    pub(crate) leader_pid: u32,
}

impl HolderKind {
    /// The programs that it needs besides `sh`.
    pub(crate) fn needs(self) -> &'static [&'static str] {
        match self {
            HolderKind::Flock => &["flock"],
            HolderKind::HostRunner => &["bash", "flock"],
            HolderKind::LockRun => &[],
        }
    }

    fn command(self, lock: &Path, programs: &Path, own: &Path) -> Command {
        match self {
            HolderKind::Flock => {
                let mut command = child::command("flock");
                command.arg("-n").arg(lock).arg(programs.join("flock.sh"));
                command
            }
            HolderKind::HostRunner => {
                let mut command = child::command("bash");
                command.arg(programs.join("host-runner.sh")).arg(lock);
                command
            }
            HolderKind::LockRun => {
                let mut command = child::command(own);
                // The lock's path comes from the environment, but a config is needed.
                command.args(["lock-run", "--config"]).arg(programs.join("empty.json")).arg("--");
                command.arg(programs.join("flock.sh"));
                command
            }
        }
    }
}

impl LiveHolder {
    /// Starts a holder and waits until it has the lock.
    pub(crate) fn start(plan: &HeldPlan, lock: &Path, setup: &Setup, marked: &Marked) -> anyhow::Result<LiveHolder> {
        let mut command = plan.by.command(lock, &programs(&setup.workspace), &setup.own);
        command.env_clear().env("DCE_SCRAPE_LOCK_FILE", lock);
        command.env("PATH", &setup.env.search_path).env("LC_ALL", "C").envs([marked.cookie()]);
        let (output, writer) = std::io::pipe().context("cannot create a pipe")?;
        command.stdin(Stdio::piped()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
        let mut group = Group::spawn(&mut command).context("cannot start the holder")?;
        // It has a copy of the pipe's other end, which would keep the pipe open.
        drop(command);
        let leader_pid = group.leader().id();
        let lifeline = group.leader().stdin.take();
        let mut holder = LiveHolder { group, lifeline, output, pid: 0, leader_pid };
        holder.pid = holder.read_ready(setup.cancel).context("the holder did not get the lock")?;
        if plan.orphaned {
            holder.group.orphan().context("cannot kill the holder's parent")?;
        }
        Ok(holder)
    }

    fn read_ready(&mut self, cancel: &Signals) -> anyhow::Result<u32> {
        let until = Instant::now() + READY_TIMEOUT;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            if !wait_for(&[self.output.as_fd(), cancel.as_fd()], Some(until))? || cancel.is_caught() {
                bail!("it was not ready within {READY_TIMEOUT:?}");
            }
            if self.output.read(&mut byte)? == 0 {
                bail!("it ended without saying READY");
            }
            line.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&line);
        let pid = line.trim_end().strip_prefix("READY ").and_then(|pid| pid.parse().ok());
        pid.with_context(|| format!("it said `{}` instead of READY", line.trim_end()))
    }

    /// Waits until its output is closed: then all its processes have ended.
    fn wait_until_all_ended(&mut self) -> bool {
        let until = Instant::now() + END_TIMEOUT;
        let mut piece = [0; 256];
        while wait_for(&[self.output.as_fd()], Some(until)).unwrap_or(false) {
            if !matches!(self.output.read(&mut piece), Ok(1..)) {
                return true;
            }
        }
        false
    }
}

impl Drop for LiveHolder {
    fn drop(&mut self) {
        self.lifeline = None;
        if !self.wait_until_all_ended() {
            self.group.kill();
            self.wait_until_all_ended();
        }
    }
}
