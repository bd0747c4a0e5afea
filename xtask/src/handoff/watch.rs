//! What everything that may take long shares: when to give up, what a terminal shows, how far the walks are.

use crate::output::Progress;
use crate::sys::signals::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How long a file system or a program may take to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Watch {
    pub(crate) cancel: Signals,
    pub(crate) progress: Arc<Progress>,
    /// Number of folder entries that the walks have met.
    pub(crate) entries: AtomicUsize,
    /// Nobody waits for the walks any longer.
    pub(crate) is_over: AtomicBool,
}

impl Watch {
    pub(crate) fn new(cancel: Signals, progress: Arc<Progress>) -> Watch {
        Watch { cancel, progress, entries: AtomicUsize::new(0), is_over: AtomicBool::new(false) }
    }

    /// Whether a walk should end.
    pub(crate) fn is_over(&self) -> bool {
        self.cancel.is_caught() || self.is_over.load(Ordering::Relaxed)
    }
}

pub(crate) fn silent(what: &str) -> String {
    format!("the file system of {what} does not answer within {} s", ANSWER_TIMEOUT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, raise};

    #[test]
    fn a_walk_ends_when_it_is_interrupted_or_no_longer_waited_for() {
        let watch = || Watch::new(Signals::catch(&[Signal::SIGURG]).unwrap(), Arc::default());
        let (no_longer_waited_for, interrupted) = (watch(), watch());
        assert!(!no_longer_waited_for.is_over() && !interrupted.is_over());
        no_longer_waited_for.is_over.store(true, Ordering::Relaxed);
        assert!(no_longer_waited_for.is_over() && !interrupted.is_over());
        raise(Signal::SIGURG).unwrap();
        assert!(interrupted.is_over());
    }
}
