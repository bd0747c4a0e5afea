//! Waiting for the lock. Nothing is looked at here: the caller looks again after each wait.

use crate::cli::Wait;
use crate::env::Env;
use crate::lock::holders::Holder;
use crate::output;
use crate::sys::child::wait_for;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long to wait for a holder's end before another look: somebody else may have released the lock.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A wait with a deadline, shown on a terminal.
pub(crate) struct Waiting {
    until: Option<Instant>,
    is_watched: bool,
}

impl Waiting {
    pub(crate) fn new(wait: Wait, env: &Env) -> Waiting {
        let until = wait.0.and_then(|limit| Instant::now().checked_add(limit));
        Waiting { until, is_watched: output::is_watched(env) }
    }

    /// Waits until a holder ends or it is time for another look; false when the time is up. `line` says what
    /// is waited for.
    pub(crate) fn goes_on(&self, holders: &[Holder], line: &str) -> anyhow::Result<bool> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(false);
        }
        if self.is_watched {
            output::show_progress(Some(line));
        }
        let next = Instant::now() + LOOK_INTERVAL;
        // Anybody may watch anybody's process.
        let end_of = |holder: &Holder| pidfd_open(Pid::from_raw(holder.pid)?, PidfdFlags::empty()).ok();
        let ends: Vec<OwnedFd> = holders.iter().filter_map(end_of).collect();
        let ends: Vec<_> = ends.iter().map(AsFd::as_fd).collect();
        wait_for(&ends, Some(self.until.map_or(next, |until| until.min(next))))?;
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
