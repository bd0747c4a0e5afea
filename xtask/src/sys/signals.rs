//! The one way to catch signals: handlers that write to a pipe, so that a poll sees them.
//!
//! Signals are caught, not blocked: a blocked signal stays blocked in every child, a caught one has
//! its default action there again (execve(2)).

use crate::sys::procfs;
use nix::sys::signal::{SigSet, Signal};
use rustix::io::ioctl_fionbio;
use signal_hook::{flag, low_level::pipe};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Signals that are caught for as long as the process lives.
pub(crate) struct Signals {
    wake: PipeReader,
    /// Kept open: a pipe without writers is readable.
    writer: PipeWriter,
    caught: Vec<(Signal, Arc<AtomicBool>)>,
    is_requested: Arc<AtomicBool>,
}

/// Asks for the end as a signal does, also where the signals are ignored.
pub(crate) struct Requester {
    is_requested: Arc<AtomicBool>,
    writer: PipeWriter,
}

impl Requester {
    pub(crate) fn end(&self) {
        self.is_requested.store(true, Ordering::SeqCst);
        _ = (&self.writer).write(&[0]);
    }
}

impl Signals {
    /// Catches these signals, except for those that the caller has ignored, as `nohup` does: they stay
    /// ignored, here and in children. SIGCHLD is caught nevertheless, and unblocked: a process that ignores it
    /// cannot wait for its children (waitpid(2)).
    pub(crate) fn catch(signals: &[Signal]) -> io::Result<Signals> {
        let ignored = ignored()? & !(1 << (Signal::SIGCHLD as u32 - 1));
        if signals.contains(&Signal::SIGCHLD) {
            SigSet::from(Signal::SIGCHLD).thread_unblock()?;
        }
        let (wake, writer) = io::pipe()?;
        ioctl_fionbio(&wake, true)?;
        let mut caught = Vec::new();
        for &signal in signals.iter().filter(|&&signal| ignored >> (signal as u32 - 1) & 1 == 0) {
            let is_caught = Arc::new(AtomicBool::new(false));
            // Actions run in the order of their registration: whoever is woken finds the flag set.
            flag::register(signal as i32, Arc::clone(&is_caught))?;
            pipe::register(signal as i32, writer.try_clone()?)?;
            caught.push((signal, is_caught));
        }
        Ok(Signals { wake, writer, caught, is_requested: Arc::default() })
    }

    /// Catches the signals that ask a program to end.
    pub(crate) fn catch_requests_to_end() -> io::Result<Signals> {
        Signals::catch(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP])
    }

    /// Whether a signal was caught and not yet taken.
    pub(crate) fn is_caught(&self) -> bool {
        let is_requested = self.is_requested.load(Ordering::SeqCst);
        is_requested || self.caught.iter().any(|(_, is_caught)| is_caught.load(Ordering::SeqCst))
    }

    /// For another thread to ask for the end.
    pub(crate) fn requester(&self) -> io::Result<Requester> {
        Ok(Requester { is_requested: Arc::clone(&self.is_requested), writer: self.writer.try_clone()? })
    }

    /// The signals caught since the last call.
    pub(crate) fn take(&mut self) -> Vec<Signal> {
        // Emptied before the flags are read: a handler sets its flag before it writes.
        while self.wake.read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        let taken = self.caught.iter().filter(|(_, is_caught)| is_caught.swap(false, Ordering::SeqCst));
        taken.map(|(signal, _)| *signal).collect()
    }
}

/// Readable while a caught signal is not taken.
impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// The mask of ignored signals: bit N-1 for signal N (`SigIgn` in proc(5)).
fn ignored() -> io::Result<u64> {
    let status = procfs::read("/proc/self/status")?;
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.ok_or_else(|| io::Error::other("/proc/self/status does not say which signals are ignored"))
}
