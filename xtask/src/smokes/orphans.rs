//! Processes that a smoke leaves behind. The smoke's own process is the subreaper of everything below it
//! (`PR_SET_CHILD_SUBREAPER`, prctl(2)), so neither `setsid` nor `env -i` gets away.

use crate::smokes::expect::shown;
use crate::sys::child::wait_for;
use crate::sys::procfs;
use crate::sys::signals::Signals;
use anyhow::Context;
use nix::sys::signal::Signal::SIGCHLD;
use rustix::process::{Pid, getpid, kill_process, set_child_subreaper, wait};
use rustix::process::{PidfdFlags, Signal, WaitOptions, pidfd_open};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a process may run on after it has closed its output or lost its standard input.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How long processes are killed that start others meanwhile.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of processes described.
const MAX_LEAKS_SHOWN: usize = 20;

/// Makes this process the parent of all orphans below it. It waits for them, which is impossible where SIGCHLD is
/// ignored (waitpid(2)), so that is caught as long as the result lives.
pub(crate) fn adopt() -> anyhow::Result<Signals> {
    set_child_subreaper(Some(getpid())).context("cannot become the parent of orphans")?;
    Signals::catch(&[SIGCHLD]).context("cannot catch signals")
}

/// Waits until this process has no other children than `known`, but not for long: then it kills the others, one
/// generation after the other, and describes each. Once `cancel` has caught a signal, it does not wait. Nobody else may
/// be waiting for a child.
pub(crate) fn settle(known: &[Pid], cancel: &Signals) -> Vec<String> {
    let ended_by = Instant::now() + if cancel.is_caught() { Duration::ZERO } else { END_TIMEOUT };
    let killed_by = ended_by + KILL_TIMEOUT;
    let mut leaks = HashMap::new();
    loop {
        reap(killed_by);
        let others: Vec<Pid> = children().into_iter().filter(|child| !known.contains(child)).collect();
        let now = Instant::now();
        if now >= ended_by {
            for child in &others {
                leaks.entry(*child).or_insert_with(|| described(*child));
                _ = kill_process(*child, Signal::KILL);
            }
        }
        // One that ended meanwhile may have left another, too late for the list.
        let is_settled = others.is_empty() && !reap(killed_by);
        if is_settled || now >= killed_by {
            let fate = |child: &Pid| if others.contains(child) { "could not be" } else { "was" };
            let shown = leaks.iter().take(MAX_LEAKS_SHOWN);
            let mut shown: Vec<String> =
                shown.map(|(child, what)| format!("it left {what}, which {} killed", fate(child))).collect();
            if let more @ 1.. = leaks.len().saturating_sub(MAX_LEAKS_SHOWN) {
                shown.push(format!("it left {more} more processes running"));
            }
            shown.extend(
                (!is_settled).then(|| format!("it left processes that were not all killed in {KILL_TIMEOUT:?}")),
            );
            return shown;
        }
        let ends = others.iter().filter_map(|child| pidfd_open(*child, PidfdFlags::empty()).ok());
        let ends: Vec<OwnedFd> = ends.collect();
        let ends: Vec<_> = ends.iter().map(AsFd::as_fd).collect();
        if !ends.is_empty() {
            _ = wait_for(&ends, Some(if now < ended_by { ended_by } else { killed_by }));
        }
    }
}

/// Waits for the children that have ended, but not beyond a time: there may always be more. Whether there were any.
fn reap(until: Instant) -> bool {
    let mut has_reaped = false;
    while Instant::now() < until && matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {
        has_reaped = true;
    }
    has_reaped
}

fn described(child: Pid) -> String {
    let pid = child.as_raw_nonzero();
    format!("process {pid} ({}) running", shown(procfs::command(pid.get()).unwrap_or_default().as_bytes()))
}

/// The children of this process that run.
pub(crate) fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().get();
    let is_child = |pid: &i32| procfs::lineage(*pid).nth(1) == Some(own) && procfs::is_running(*pid as u64);
    procfs::processes().unwrap_or_default().into_iter().filter(is_child).filter_map(Pid::from_raw).collect()
}
