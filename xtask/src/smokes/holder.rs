//! Real holders of the lock, in processes of their own.
//!
//! A holder prints `READY PID` when it has the lock and ends when its standard input
//! does: that is its lifeline, cut also when this program is killed.

use crate::child::{self, Cancel, Group, wait_for};
use crate::smokes::case::{HeldPlan, HolderKind};
use crate::smokes::run::Setup;
use crate::smokes::stage::programs;
use crate::smokes::stray::Marked;
use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags};
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a holder may take to get the lock.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long it may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(1);

/// Someone who holds a lock, until this is dropped.
pub(crate) struct Holder {
    group: Group,
    lifeline: Option<ChildStdin>,
    /// What it says, errors too.
    output: PipeReader,
    /// Who said `READY`.
    pub(crate) pid: u32,
    /// Who was started: of `flock(1)`, which forks, another.
    pub(crate) leader_pid: u32,
}

impl HolderKind {
    /// The programs it needs besides `sh`.
    pub(crate) fn needs(self) -> &'static [&'static str] {
        match self {
            HolderKind::Flock => &["flock"],
            HolderKind::HostRunner => &["bash", "flock"],
            HolderKind::LockRun => &[],
        }
    }

    fn command(self, lock: &Path, bin: &Path) -> Command {
        match self {
            HolderKind::Flock => {
                let mut command = child::command("flock");
                command.arg("-n").arg(lock).arg(programs().join("flock.sh"));
                command
            }
            HolderKind::HostRunner => {
                let mut command = child::command("bash");
                command.arg(programs().join("host-runner.sh")).arg(lock);
                command
            }
            HolderKind::LockRun => {
                let mut command = child::command(bin);
                // The lock comes from the environment; a config there must be.
                command.args(["lock-run", "--config"]).arg(programs().join("empty.json")).arg("--");
                command.arg(programs().join("flock.sh"));
                command
            }
        }
    }
}

impl Holder {
    /// Starts a holder and waits until it has the lock.
    pub(crate) fn start(plan: &HeldPlan, lock: &Path, setup: &Setup, marked: &Marked) -> anyhow::Result<Holder> {
        let mut command = plan.by.command(lock, &setup.own);
        command.env_clear().env("DCE_SCRAPE_LOCK_FILE", lock);
        command.env("PATH", &setup.env.search_path).env("LC_ALL", "C").envs([marked.cookie()]);
        let (output, writer) = std::io::pipe().context("cannot make a pipe")?;
        command.stdin(Stdio::piped()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
        let mut group = Group::spawn(&mut command).context("cannot start the holder")?;
        // The command has the pipe's other end: while that is open here, nobody's end is seen.
        drop(command);
        let leader_pid = group.leader().id();
        let lifeline = group.leader().stdin.take();
        let mut holder = Holder { group, lifeline, output, pid: 0, leader_pid };
        holder.pid = holder.read_ready(setup.cancel).context("the holder did not get the lock")?;
        if plan.orphaned {
            holder.group.orphan().context("cannot kill the holder's parent")?;
        }
        Ok(holder)
    }

    fn read_ready(&mut self, cancel: &Cancel) -> anyhow::Result<u32> {
        let until = Instant::now() + READY_WITHIN;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            if !cancel.wait_for(self.output.as_fd(), until)? {
                bail!("it was not ready within {READY_WITHIN:?}");
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

    fn can_read(&self, until: Instant) -> std::io::Result<bool> {
        wait_for(&mut [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)], until)
    }

    /// Waits until nobody has the holder's output any more: then all of it has ended.
    fn wait_until_all_ended(&mut self) -> bool {
        let until = Instant::now() + END_WITHIN;
        let mut piece = [0; 256];
        while self.can_read(until).unwrap_or(false) {
            if !matches!(self.output.read(&mut piece), Ok(1..)) {
                return true;
            }
        }
        false
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.lifeline = None;
        if !self.wait_until_all_ended() {
            self.group.kill();
            self.wait_until_all_ended();
        }
    }
}
