//! Waiting for the lock: pauses between looks. The looking is the caller's.

use crate::cli::Wait;
use crate::env::Env;
use crate::lock::walk::Holder;
use crate::output;
use crate::sys::child::{is_ready, wait_for};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long to wait for a holder's end before another look: somebody else may have released the lock.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The same where a look costs a walk through all processes, or a server's answer.
pub(crate) const COSTLY_LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How many holders' ends are waited for: each takes a descriptor, and they mostly end together.
const MAX_WATCHED: usize = 16;

/// A wait with a deadline, shown on a terminal.
pub(crate) struct Waiting {
    until: Option<Instant>,
    shows_progress: bool,
    /// Readable when a holder has ended.
    ends: Vec<OwnedFd>,
}

impl Waiting {
    pub(crate) fn new(wait: Wait, env: &Env) -> Waiting {
        let until = wait.0.and_then(|limit| Instant::now().checked_add(limit));
        Waiting { until, shows_progress: output::is_watched(env), ends: Vec::new() }
    }

    /// Waits for the end of these processes too; anybody may watch anybody's.
    pub(crate) fn watch(&mut self, holders: &[Holder]) {
        let end_of = |holder: &Holder| pidfd_open(Pid::from_raw(holder.pid)?, PidfdFlags::empty()).ok();
        self.ends = holders.iter().take(MAX_WATCHED).filter_map(end_of).collect();
    }

    /// Pauses until a holder ends, `other` is readable, or it is time for another look; false, without a pause, when
    /// the time is up. `line` is shown meanwhile.
    pub(crate) fn pause(&mut self, interval: Duration, other: Option<BorrowedFd>, line: &str) -> anyhow::Result<bool> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(false);
        }
        if self.shows_progress {
            output::show_progress(Some(line));
        }
        let next = Instant::now() + interval;
        let fds: Vec<BorrowedFd> = self.ends.iter().map(AsFd::as_fd).chain(other).collect();
        wait_for(&fds, Some(self.until.map_or(next, |until| until.min(next))))?;
        self.ends.retain(|end| !is_ready(end.as_fd()).unwrap_or(true));
        Ok(true)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.shows_progress {
            output::show_progress(None);
        }
    }
}
