//! Processes that a smoke leaves behind. The smoke's own process is the subreaper of everything below it
//! (`PR_SET_CHILD_SUBREAPER`, prctl(2)), so neither `setsid` nor `env -i` gets away.

use crate::sys::child::wait_for;
use crate::sys::procfs;
use crate::sys::signals::Signals;
use crate::text::printable;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a process may run on after it has closed its output or lost its standard input.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long processes are killed that start others meanwhile.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of processes described.
const MAX_LEAKS_SHOWN: usize = 20;

/// The processes below this one whose parents have ended.
pub(crate) struct Orphans {
    ended: Signals,
}

/// Makes this process the parent of all orphans below it.
pub(crate) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

impl Orphans {
    /// Makes this process their parent, and catches SIGCHLD.
    pub(crate) fn adopt() -> io::Result<Orphans> {
        adopt()?;
        Ok(Orphans { ended: Signals::catch(&[nix::sys::signal::Signal::SIGCHLD])? })
    }

    /// Waits until this process has no other children than these, but not for long: what a program has left behind may
    /// still write. Once `cancel` has caught a signal, it does not wait.
    pub(crate) fn settle(&mut self, known: &[Pid], cancel: &Signals) {
        let until = Instant::now() + if cancel.is_caught() { Duration::ZERO } else { END_TIMEOUT };
        let is_unsettled =
            |child: &Pid| !known.contains(child) && procfs::is_running(child.as_raw_nonzero().get() as u64);
        while children().iter().any(is_unsettled) && Instant::now() < until {
            _ = wait_for(&[self.ended.as_fd()], Some(until));
            self.ended.take();
        }
    }

    /// Waits for all children, kills those that do not end by themselves, and describes each of these. Nobody else may
    /// be waiting for a child.
    pub(crate) fn leaks(&mut self, cancel: &Signals) -> Vec<String> {
        self.settle(&[], cancel);
        kill_children()
    }
}

/// Kills everything below this process, one generation after the other, and describes each process. Nobody else may be
/// waiting for a child.
pub(crate) fn kill_children() -> Vec<String> {
    let (mut killed, mut leaks) = (HashSet::new(), Vec::new());
    let until = Instant::now() + KILL_TIMEOUT;
    while !has_no_children(until) {
        let children = children();
        // There may be some that cannot be seen, or too many.
        if children.is_empty() || Instant::now() >= until {
            leaks.push(format!("it left processes that could not all be killed in {KILL_TIMEOUT:?}"));
            break;
        }
        for child in children {
            if !killed.insert(child) {
                continue;
            }
            let pid = child.as_raw_nonzero();
            let command = printable(procfs::command(pid.get()).unwrap_or_default());
            if killed.len() <= MAX_LEAKS_SHOWN {
                leaks.push(format!("it left process {pid} ({command}) running, which was killed"));
            }
            _ = kill_process(child, Signal::KILL);
        }
        _ = wait(WaitOptions::empty());
    }
    if let more @ 1.. = killed.len().saturating_sub(MAX_LEAKS_SHOWN) {
        leaks.push(format!("it left {more} more processes running, which were killed"));
    }
    leaks
}

/// Reaps the children that have ended, until a time: there may always be more. Whether there are no others.
fn has_no_children(until: Instant) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) if Instant::now() < until => {}
            Ok(Some(_)) | Err(Errno::INTR) => return false,
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

pub(crate) fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().get();
    let is_child = |pid: &i32| procfs::lineage(*pid).nth(1) == Some(own);
    procfs::processes().unwrap_or_default().into_iter().filter(is_child).filter_map(Pid::from_raw).collect()
}
