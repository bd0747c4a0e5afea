//! One pass through all processes: which of them have the locked descriptor, here or of a lock file that is
//! no longer at its path.
//!
//! The pid in `/proc/locks` is that of the process that took the lock: for the host runner the `flock`
//! program, long gone. The lock belongs to the open file description, and every process that shares it
//! has a `lock:` line in `/proc/PID/fdinfo/FD`.

use crate::lock::file::has_local_locks;
use crate::lock::kernel::Table;
use crate::lock::table::{Entry, LockKey, LockType};
use crate::lock::wanted::{Found, Met, Wanted};
use crate::sys::file::plain;
use crate::sys::procfs::{self, kernel_threads, numbers, open_folder};
use crate::text::Foreign;
use rustix::fs::readlinkat;
use rustix::io::Errno;
use serde::Serialize;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Instant, SystemTime};

/// A process that has the locked descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    /// The program's name.
    pub(crate) command: Foreign,
    /// When it started, if known.
    #[serde(skip)]
    pub(crate) started: Option<SystemTime>,
}

/// The result of a walk.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Walk {
    /// The processes that have the locked descriptor, by pid.
    pub(crate) holders: Vec<Holder>,
    /// Every descriptor of every process was looked at.
    #[serde(rename = "holders_complete")]
    pub(crate) is_complete: bool,
    /// Nobody else can hold a file that was at the lock's path: the walk was complete, or every flock on the
    /// device was met.
    #[serde(skip)]
    pub(crate) is_conclusive: bool,
    /// The holders hold a file that is no longer at the lock's path.
    #[serde(skip)]
    pub(crate) is_unlinked: bool,
    /// Why not all descriptors of the recorded process were looked at.
    #[serde(skip)]
    pub(crate) recorded_unreadable: Option<String>,
}

impl Walk {
    /// Whether this process is a holder.
    pub(crate) fn has(&self, pid: u64) -> bool {
        self.holders.iter().any(|holder| u64::try_from(holder.pid) == Ok(pid))
    }
}

/// Looks through all processes; what is left when the time is up is not looked at.
pub(crate) fn walk(wanted: &Wanted, until: Instant) -> Walk {
    let recorded = wanted.claim.running_writer();
    let (mut here, mut unlinked) = (Vec::new(), Vec::new());
    let pids = match procfs::processes() {
        Ok(pids) => pids,
        Err(error) => return Walk { recorded_unreadable: Some(plain(&error)), ..Walk::default() },
    };
    // Pid 1 always runs: if it is missing, `/proc` is mounted with `hidepid` (proc(5)).
    let mut is_complete = procfs::sees_every_process() && pids.contains(&1);
    let mut recorded_unreadable = recorded.map(|_| "it is hidden".to_owned());
    let mut met = Vec::new();
    let mut skipped = kernel_threads();
    // This process either has no lock or, in `lock-run`, today's.
    skipped.extend(i32::try_from(std::process::id()));
    for pid in pids.into_iter().filter(|pid| !skipped.contains(pid)) {
        let mut found = Vec::new();
        let looked = look_at(wanted, pid, until, &mut found, &mut met);
        if recorded == Some(pid) {
            recorded_unreadable = looked.as_ref().err().map(plain);
        }
        is_complete &= looked.is_ok();
        here.extend(found.contains(&Found::Here).then(|| Holder::new(pid)));
        unlinked.extend(found.contains(&Found::Unlinked).then(|| Holder::new(pid)));
    }
    let is_unlinked = here.is_empty() && !unlinked.is_empty();
    let mut holders = if is_unlinked { unlinked } else { here };
    holders.sort_by_key(|holder| holder.pid);
    // A process that was not met may have ended since the sidecar was read.
    let still_runs = || recorded.is_some_and(|pid| u64::try_from(pid).is_ok_and(procfs::is_running));
    let recorded_unreadable = recorded_unreadable.filter(|_| still_runs());
    let is_conclusive = is_complete || (wanted.has_sign && has_met_all(wanted, met, until));
    Walk { holders, is_complete, is_conclusive, is_unlinked, recorded_unreadable }
}

/// Whether the walk has met every flock on the lock's device: what it could not look at has none then.
fn has_met_all(wanted: &Wanted, mut met: Vec<Met>, until: Instant) -> bool {
    let Some(mount) = wanted.mount.as_ref().filter(|mount| has_local_locks(mount)) else { return false };
    let Ok(table) = Table::read_device(mount.major, mount.minor, until) else { return false };
    met.extend(wanted.own);
    met.sort_unstable();
    met.dedup();
    // On btrfs several files have the same key.
    let mut unmet: HashMap<LockKey, isize> = HashMap::new();
    let is_flock = |entry: &&Entry| entry.lock_type == LockType::Flock && !entry.is_waiter;
    for key in table.entries.iter().filter(is_flock).filter_map(|entry| entry.key) {
        *unmet.entry(key).or_default() += 1;
    }
    for (key, _) in met {
        unmet.entry(key).and_modify(|unmet| *unmet -= 1);
    }
    procfs::sees_every_process() && table.is_whole && unmet.into_values().all(|unmet| unmet <= 0)
}

/// Looks at all descriptors of a process; what was not looked at is an error.
fn look_at(wanted: &Wanted, pid: i32, until: Instant, found: &mut Vec<Found>, met: &mut Vec<Met>) -> io::Result<()> {
    let mut threads = vec![format!("/proc/{pid}")];
    let mut result = Ok(());
    while let Some(thread) = threads.pop() {
        let folder = match open_folder(&format!("{thread}/fd")) {
            Err(error) if has_gone(&error) => continue,
            folder => folder?,
        };
        let fds = numbers(&folder).or_else(none_if_gone)?;
        if fds.is_empty() && !thread.contains("task") {
            // Its main thread may have ended: others keep its descriptors.
            let tasks = open_folder(&format!("/proc/{pid}/task")).and_then(numbers).or_else(none_if_gone)?;
            threads
                .extend(tasks.into_iter().filter(|&task| task != pid).map(|task| format!("/proc/{pid}/task/{task}")));
        }
        for (index, fd) in fds.into_iter().enumerate() {
            if index % 256 == 0 && Instant::now() >= until {
                return Err(io::Error::other("there was no time left"));
            }
            match wanted.classify(folder.as_fd(), pid, &thread, fd) {
                Ok(Some((what, flock))) => {
                    found.push(what);
                    met.push(flock);
                }
                Ok(None) => {}
                Err(error) if has_gone(&error) => {}
                // So are its other descriptors.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                Err(error) => result = Err(error),
            }
        }
    }
    result
}

impl Holder {
    fn new(pid: i32) -> Holder {
        let started = u64::try_from(pid).ok().and_then(procfs::started_at);
        Holder { pid, command: Foreign(procfs::command(pid).unwrap_or_default().into()), started }
    }
}

/// The processes that have a file open at `lock`, by what the kernel shows: it asks no server.
pub(crate) fn open_at(lock: &Path) -> Vec<Holder> {
    let has_it = |pid: &i32| {
        let Ok(folder) = open_folder(&format!("/proc/{pid}/fd")) else { return false };
        let shown = |fd: i32| readlinkat(&folder, fd.to_string(), Vec::new()).ok();
        let mut all = numbers(&folder).unwrap_or_default().into_iter().filter_map(shown);
        all.any(|shown| shown.as_bytes() == lock.as_os_str().as_bytes())
    };
    procfs::processes().unwrap_or_default().into_iter().filter(has_it).map(Holder::new).collect()
}

/// Whether an error means that the process, or its descriptor, is gone.
fn has_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

fn none_if_gone(error: io::Error) -> io::Result<Vec<i32>> {
    if has_gone(&error) { Ok(Vec::new()) } else { Err(error) }
}
