//! Which processes have the locked descriptor.
//!
//! The pid in `/proc/locks` is that of the process that took the lock: for the host runner the `flock`
//! program, long gone. The lock belongs to the open file description, and every process that shares it
//! has a `lock:` line in `/proc/PID/fdinfo/FD`.

use crate::lock::file::LockFile;
use crate::lock::table::{Entry, LockType, fdinfo_entries};
use crate::sys::file::stat_id;
use crate::sys::procfs::{self, numbers_in, processes};
use crate::text::Foreign;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use serde::Serialize;
use std::io;
use std::time::SystemTime;

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

impl Holder {
    pub(crate) fn of(pid: i32) -> Holder {
        let started = u64::try_from(pid).ok().and_then(procfs::started_at);
        Holder { pid, command: Foreign(procfs::command(pid).unwrap_or_default().into()), started }
    }
}

/// The result of a walk through all processes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Search {
    /// By pid.
    pub(crate) holders: Vec<Holder>,
    /// Every process could be inspected.
    #[serde(rename = "holders_complete")]
    pub(crate) is_complete: bool,
}

/// Looks for `file`'s lock among the descriptors of every process.
pub(crate) fn search(file: &LockFile) -> Search {
    search_for(|pid| has_lock(pid, file))
}

/// Collects the processes for which `has_it` is true.
pub(crate) fn search_for(mut has_it: impl FnMut(i32) -> io::Result<bool>) -> Search {
    let pids = processes();
    // Pid 1 always runs: if it is missing, `/proc` is mounted with `hidepid` (proc(5)).
    let shows_all = procfs::sees_every_process() && pids.contains(&1);
    let mut search = Search { holders: Vec::new(), is_complete: shows_all };
    for pid in pids {
        match has_it(pid) {
            Ok(true) => search.holders.push(Holder::of(pid)),
            Ok(false) => {}
            Err(error) if is_gone(&error) => {}
            Err(_) => search.is_complete = false,
        }
    }
    search.holders.sort_by_key(|holder| holder.pid);
    search
}

/// Whether an error means that the process ended while it was looked at.
fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

fn has_lock(pid: i32, file: &LockFile) -> io::Result<bool> {
    let is_the_lock = |entry: Entry| entry.key == Some(file.key) && entry.lock_type != LockType::Other;
    let (folder, fds) = numbers_in(&format!("/proc/{pid}/fd"))?;
    for fd in fds {
        // A process may have thousands of descriptors: this costs a fifth of reading an fdinfo.
        let is_same = stat_id(folder.fd()?, fd.to_string(), AtFlags::empty()).is_ok_and(|id| id == file.stat_id);
        if is_same && fdinfo(pid, fd).is_some_and(|info| fdinfo_entries(&info).any(is_the_lock)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The kernel's description of a descriptor.
pub(crate) fn fdinfo(pid: impl std::fmt::Display, fd: i32) -> Option<String> {
    procfs::read(&format!("/proc/{pid}/fdinfo/{fd}")).ok()
}
