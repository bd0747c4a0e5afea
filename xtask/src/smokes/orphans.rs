//! Processes that a smoke leaves behind. Each smoke runs in a process of its own, which the kernel makes the parent of
//! everything below it that loses its own (`PR_SET_CHILD_SUBREAPER`, prctl(2)): no `setsid` and no `env -i` gets away.

use crate::sys::child::wait_for;
use crate::sys::procfs;
use crate::sys::signals::Signals;
use crate::text::printable;
use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long a process may take to end after it has closed its output, or lost its standard input.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything below this process whose parent has ended.
pub(crate) struct Orphans {
    ended: Signals,
}

/// Makes this process the parent of all orphans below it.
pub(crate) fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

impl Orphans {
    /// Makes this process their parent.
    pub(crate) fn adopt() -> io::Result<Orphans> {
        adopt()?;
        Ok(Orphans { ended: Signals::catch(&[Signal::SIGCHLD])? })
    }

    /// Waits for all children, and kills those that do not end by themselves; gives a sentence for each. Only for when
    /// nobody else waits for a child. Once `cancel` has caught a signal, nothing is waited for.
    pub(crate) fn leaks(&mut self, cancel: &Signals) -> Vec<String> {
        let until = Instant::now() + if cancel.is_caught() { Duration::ZERO } else { END_TIMEOUT };
        while !has_no_children() && Instant::now() < until {
            _ = wait_for(&[self.ended.as_fd()], Some(until));
            self.ended.take();
        }
        let mut leaks = Vec::new();
        kill_children(|child| {
            let pid = child.as_raw_nonzero();
            let command = printable(procfs::command(pid.get()).unwrap_or_default().as_bytes());
            leaks.push(format!("it left process {pid} ({command}) running, which was killed"));
        });
        leaks
    }
}

/// Kills everything below this process, one generation after the other, and tells of each. Only for when nobody else
/// waits for a child.
pub(crate) fn kill_children(mut tell: impl FnMut(Pid)) {
    let mut killed = HashSet::new();
    while !has_no_children() {
        let children = children();
        if children.is_empty() {
            // None that can be seen.
            return;
        }
        for child in children.into_iter().filter(|child| killed.insert(*child)) {
            tell(child);
            _ = kill_process(child, rustix::process::Signal::KILL);
        }
        _ = wait(WaitOptions::empty());
    }
}

/// Waits for those that have ended; whether there are no others.
fn has_no_children() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().get();
    let is_child = |pid: &i32| procfs::lineage(*pid).nth(1) == Some(own);
    procfs::processes().unwrap_or_default().into_iter().filter(is_child).filter_map(Pid::from_raw).collect()
}
