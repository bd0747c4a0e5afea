//! `lock-status --wait`: until the lock is free, without ever taking it.

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
    let until = wait.limit.and_then(|limit| Instant::now().checked_add(limit));
    let is_watched = output::is_watched(env);
    loop {
        let report = look()?;
        if report.judgement.state != LockState::Held || until.is_some_and(|until| Instant::now() >= until) {
            if is_watched {
                output::show_progress(None);
            }
            return Ok(report);
        }
        if is_watched {
            output::show_progress(Some(&report.waiting_for()));
        }
        let next = Instant::now() + LOOK_EVERY;
        until_one_ends(&holders(&report), until.map_or(next, |until| until.min(next)))?;
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
