//! Runs what may hang: a server that does not answer, or a stopped daemon, blocks every call on its files.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::Builder;
use std::time::Duration;

/// Runs `work` in a thread of its own and gives its result; None if there is none within `timeout`. The thread
/// is then left behind: it ends with the process.
pub(crate) fn within<T: Send + 'static>(
    timeout: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, result) = mpsc::channel();
    Builder::new().spawn(move || _ = done.send(work()))?;
    match result.recv_timeout(timeout) {
        Ok(result) => Ok(Some(result)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("a thread panicked")),
    }
}
