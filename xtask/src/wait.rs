//! Waiting for the lock. Nothing is looked at here: the caller looks again after each wait.

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

/// A wait with a deadline, shown on a terminal.
pub(crate) struct Waiting {
    until: Option<Instant>,
    is_watched: bool,
    /// Readable when a holder has ended.
    ends: Vec<OwnedFd>,
}

impl Waiting {
    pub(crate) fn new(wait: Wait, env: &Env) -> Waiting {
        let until = wait.0.and_then(|limit| Instant::now().checked_add(limit));
        Waiting { until, is_watched: output::is_watched(env), ends: Vec::new() }
    }

    /// Waits for the end of these processes too; anybody may watch anybody's.
    pub(crate) fn watch(&mut self, holders: &[Holder]) {
        let end_of = |holder: &Holder| pidfd_open(Pid::from_raw(holder.pid)?, PidfdFlags::empty()).ok();
        self.ends = holders.iter().filter_map(end_of).collect();
    }

    /// Waits until a holder ends, `other` can be read, or it is time for another look; false when the time is
    /// up. `line` says what is waited for.
    pub(crate) fn goes_on(
        &mut self,
        interval: Duration,
        other: Option<BorrowedFd>,
        line: &str,
    ) -> anyhow::Result<bool> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(false);
        }
        if self.is_watched {
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
        if self.is_watched {
            output::show_progress(None);
        }
    }
}
