//! Waiting for the lock: `lock-status --wait` without ever taking it, `lock-run --wait` to
//! take it then.

use crate::child::wait_for;
use crate::env::Env;
use crate::flags::Wait;
use crate::lock::state::LockState;
use crate::lock_status::LockReport;
use crate::output;
use nix::poll::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How often the kernel is asked, at most, while nothing tells that a holder has ended.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks until the lock is not held, or time is up; gives the last look.
pub(crate) fn until_free(
    wait: Wait,
    env: &Env,
    look: impl Fn() -> anyhow::Result<LockReport>,
) -> anyhow::Result<LockReport> {
    let waiting = Waiting::new(wait, env);
    loop {
        let report = look()?;
        if report.judgement.state != LockState::Held || !waiting.goes_on_beside(&report)? {
            waiting.ends();
            return Ok(report);
        }
    }
}

/// A wait, with a deadline and somebody who may watch it.
pub(crate) struct Waiting {
    until: Option<Instant>,
    is_watched: bool,
}

impl Waiting {
    pub(crate) fn new(wait: Wait, env: &Env) -> Waiting {
        let until = wait.limit.and_then(|limit| Instant::now().checked_add(limit));
        Waiting { until, is_watched: output::is_watched(env) }
    }

    /// Waits until a holder ends or it is time for another look; false when time is up.
    pub(crate) fn goes_on_beside(&self, report: &LockReport) -> anyhow::Result<bool> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(false);
        }
        if self.is_watched {
            output::show_progress(Some(&report.waiting_for()));
        }
        let next = Instant::now() + LOOK_EVERY;
        until_one_ends(&holders(report), self.until.map_or(next, |until| until.min(next)))?;
        Ok(true)
    }

    pub(crate) fn ends(&self) {
        if self.is_watched {
            output::show_progress(None);
        }
    }
}

/// Descriptors that tell when a holder ends; anybody may watch anybody's process.
fn holders(report: &LockReport) -> Vec<OwnedFd> {
    let watch = |pid: i32| pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok();
    report.facts.holders.iter().filter_map(|holder| watch(holder.pid)).collect()
}

fn until_one_ends(processes: &[OwnedFd], until: Instant) -> std::io::Result<()> {
    let mut fds: Vec<PollFd> = processes.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    wait_for(&mut fds, until).map(drop)
}
