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
