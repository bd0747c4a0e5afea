//! Real holders of the lock, in processes of their own.
//!
//! A holder prints `READY PID` when it has the lock, and ends at the end of its standard input: a lifeline
//! that is cut even if this program is killed.

use crate::smokes::case::{HeldPlan, HolderKind};
use crate::smokes::smoke::Setup;
use crate::smokes::stage::Stage;
use crate::sys::child::{Group, wait_for};
use crate::sys::signals::Signals;
use anyhow::{Context, bail, ensure};
use std::ffi::OsStr;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a holder may take to get the lock.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A live process that holds a lock. On drop its lifeline is cut, which also ends orphans, and its group is killed.
pub(crate) struct LiveHolder {
    _lifeline: Option<ChildStdin>,
    group: Group,
}

impl HolderKind {
    /// The programs that it needs. The first is started, or else this very program.
    pub(crate) fn needs(self) -> &'static [&'static str] {
        match self {
            HolderKind::Flock => &["flock"],
            HolderKind::HostRunner => &["bash", "flock"],
            HolderKind::Nobody => &["sh"],
            HolderKind::LockRun => &[],
        }
    }

    fn command(self, lock: &Path, stage: &Stage, setup: &Setup) -> Command {
        let program = self.needs().first().map_or(setup.own.as_os_str(), OsStr::new);
        let mut command = stage.command(program, Some(setup));
        let file = |name| setup.programs.join(name);
        match self {
            HolderKind::Flock => command.arg("-n").arg(lock).arg(file("flock.sh")),
            HolderKind::HostRunner => command.arg(file("host-runner.sh")).arg(lock),
            HolderKind::Nobody => command.arg(file("flock.sh")),
            // The lock's path comes from the environment, but a config is needed.
            HolderKind::LockRun => {
                command.args(["lock-run", "--config"]).arg(file("empty.json")).arg("--").arg(file("flock.sh"))
            }
        };
        command.env("DCE_SCRAPE_LOCK_FILE", lock);
        command
    }
}

impl LiveHolder {
    /// Starts a holder, waits until it has the lock, and does to the lock what is planned.
    pub(crate) fn start(plan: &HeldPlan, stage: &mut Stage, setup: &Setup) -> anyhow::Result<LiveHolder> {
        let at = &plan.at;
        // It follows links, where creating this file does not.
        stage.write(at, "")?;
        let sidecar = format!("{at}.meta");
        ensure!(!stage.root.join(&sidecar).is_symlink(), "a holder would follow the link {sidecar}");
        let mut command = plan.by.command(&stage.root.join(at), stage, setup);
        let (output, writer) = std::io::pipe().context("cannot create a pipe")?;
        command.stdin(Stdio::piped()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
        let mut group = Group::spawn(&mut command).context("cannot start the holder")?;
        // It has a copy of the pipe's other end, which would keep the pipe open.
        drop(command);
        let lifeline = group.leader().stdin.take();
        stage.names.set("HOLDER_PID", read_ready(output, setup.cancel).context("the holder did not get the lock")?);
        // `flock(1)` forks, so the leader may be another process.
        stage.names.set("LEADER_PID", group.leader().id());
        if plan.orphaned {
            group.orphan().context("cannot kill the holder's parent")?;
        }
        if let Some(text) = &plan.sidecar {
            stage.write(&sidecar, text)?;
        }
        if let Some(how) = plan.unlinked {
            stage.unlink(at, how)?;
        }
        Ok(LiveHolder { _lifeline: lifeline, group })
    }

    /// Whether any of its processes still runs.
    pub(crate) fn is_running(&self) -> bool {
        self.group.is_running()
    }
}

/// Waits until a holder says `READY PID`.
fn read_ready(mut output: PipeReader, cancel: &Signals) -> anyhow::Result<u32> {
    let until = Instant::now() + READY_TIMEOUT;
    let (mut said, mut piece) = (Vec::new(), [0; 256]);
    while !said.contains(&b'\n') {
        if !wait_for(&[output.as_fd(), cancel.as_fd()], Some(until))? || cancel.is_caught() {
            bail!("it was not ready within {READY_TIMEOUT:?}");
        }
        match output.read(&mut piece)? {
            0 => bail!("it ended without saying READY"),
            length => said.extend_from_slice(&piece[..length]),
        }
    }
    let said = String::from_utf8_lossy(&said);
    let pid = said.strip_prefix("READY ").and_then(|pid| pid.trim_end().parse().ok());
    pid.with_context(|| format!("it said `{}` instead of READY", said.trim_end()))
}
