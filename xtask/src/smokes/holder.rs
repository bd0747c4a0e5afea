//! Real holders of the lock, in processes of their own.
//!
//! A holder prints `READY PID` when it has the lock. It ends with its standard input, a lifeline that is cut even if this
//! program is killed; at a line of it, it says `BYE` first: so it is known to have lived until then.

use crate::smokes::case::{HeldPlan, HolderKind};
use crate::smokes::expect::shown;
use crate::smokes::smoke::Setup;
use crate::smokes::stage::Stage;
use crate::sys::child::{self, wait_for};
use crate::sys::procfs;
use crate::sys::signals::Signals;
use anyhow::{Context, bail, ensure};
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, Instant};

/// How long a holder may take to get the lock, and to say a word.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A live process that holds a lock.
pub(crate) struct Holder {
    /// As it calls itself.
    pid: u32,
    lifeline: ChildStdin,
    output: PipeReader,
}

impl HolderKind {
    /// Its program, which gets the path of the lock, and what that needs on `PATH`.
    fn program(self) -> (&'static str, &'static [&'static str]) {
        match self {
            HolderKind::Flock => ("hold-flock.sh", &["flock"]),
            HolderKind::HostRunner => ("host-runner.sh", &["bash", "flock"]),
            HolderKind::LockRun => ("hold-lock-run.sh", &[]),
            HolderKind::Nobody => ("flock.sh", &[]),
        }
    }

    pub(crate) fn needs(self) -> &'static [&'static str] {
        self.program().1
    }
}

/// Starts a holder, waits until it has the lock, and does to the lock what is planned.
pub(crate) fn start(plan: &HeldPlan, stage: &mut Stage, setup: &Setup) -> anyhow::Result<Holder> {
    let (at, sidecar) = (&plan.at, format!("{}.meta", plan.at));
    // A holder would follow a link, where creating this file does not.
    stage.write(at, "")?;
    ensure!(!stage.root.join(&sidecar).is_symlink(), "a holder would follow the link {sidecar}");
    let mut command = stage.command(setup.programs.join(plan.by.program().0), Some(setup));
    command.arg(stage.root.join(at)).env("DCE_SCRAPE_LOCK_FILE", stage.root.join(at));
    let (mut output, writer) = std::io::pipe().context("cannot create a pipe")?;
    command.stdin(Stdio::piped()).stdout(writer.try_clone().context("cannot copy a pipe")?).stderr(writer);
    let mut leader = child::spawn(&mut command).context("cannot start the holder")?;
    // It has a copy of the pipe's other end, which would keep the pipe open.
    drop(command);
    let lifeline = leader.stdin.take().context("the holder has no lifeline")?;
    let pid = read_ready(&mut output, setup.cancel).context("the holder did not get the lock")?;
    stage.names.set("HOLDER_PID", pid);
    // `flock(1)` forks, so the leader may be another process.
    stage.names.set("LEADER_PID", leader.id());
    if plan.orphaned {
        leader.kill().and_then(|()| leader.wait()).context("cannot kill the holder's parent")?;
    }
    if let Some(text) = &plan.sidecar {
        stage.write(&sidecar, text)?;
    }
    if let Some(how) = plan.unlinked {
        stage.unlink(at, how)?;
    }
    Ok(Holder { pid, lifeline, output })
}

impl Holder {
    /// Ends it. Whether it held the lock until now; one that is an orphan has lost the process that it names.
    pub(crate) fn end(mut self, is_orphan: bool, cancel: &Signals) -> bool {
        let is_running = is_orphan || procfs::is_running(self.pid.into());
        let has_lived = self.lifeline.write_all(b"\n").is_ok()
            && read_line(&mut self.output, cancel).is_ok_and(|said| said == b"BYE\n");
        is_running && has_lived
    }
}

/// Waits until a holder says `READY PID`.
fn read_ready(output: &mut PipeReader, cancel: &Signals) -> anyhow::Result<u32> {
    let said = read_line(output, cancel)?;
    let pid = str::from_utf8(&said).ok().and_then(|said| said.strip_prefix("READY ")?.trim_end().parse().ok());
    pid.with_context(|| format!("it said `{}` instead of READY", shown(&said)))
}

/// Waits until a holder has said something.
fn read_line(output: &mut PipeReader, cancel: &Signals) -> anyhow::Result<Vec<u8>> {
    let until = Instant::now() + READY_TIMEOUT;
    let (mut said, mut piece) = (Vec::new(), [0; 256]);
    while !said.contains(&b'\n') {
        if !wait_for(&[output.as_fd(), cancel.as_fd()], Some(until))? || cancel.is_caught() {
            bail!("it said nothing within {READY_TIMEOUT:?}");
        }
        match output.read(&mut piece)? {
            0 => bail!("it ended without a word"),
            length => said.extend_from_slice(&piece[..length]),
        }
    }
    Ok(said)
}
