//! Who really has the locked descriptor.
//!
//! The pid in `/proc/locks` is that of whoever took the lock: for the host runner the
//! `flock` program, long gone. The lock belongs to the open file description, and the
//! processes that share it have a `lock:` line for it in `/proc/PID/fdinfo/FD`.

use crate::lock::identity::{LockFile, stat_id};
use crate::lock::proc;
use crate::lock::table::{Entry, LockType, fdinfo_entries};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat};
use std::io;
use std::time::SystemTime;

/// A process that has the locked descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    /// The program's name; foreign text.
    pub(crate) command: String,
    /// When it started, where that can be told.
    pub(crate) started: Option<SystemTime>,
}

impl Holder {
    pub(crate) fn of(pid: i32) -> Holder {
        let started = u64::try_from(pid).ok().and_then(proc::started_at);
        Holder { pid, command: proc::command(pid).unwrap_or_default(), started }
    }
}

/// What a look through all processes found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Search {
    /// By pid.
    pub(crate) holders: Vec<Holder>,
    /// Every process could be looked into.
    pub(crate) is_complete: bool,
}

/// Looks for `file`'s lock among the descriptors of every process.
pub(crate) fn search(file: &LockFile) -> Search {
    search_for(|pid| has_lock(pid, file))
}

/// Asks of every process whether it has what is looked for.
pub(crate) fn search_for(mut has_it: impl FnMut(i32) -> io::Result<bool>) -> Search {
    let pids = processes();
    // Pid 1 always runs: where it does not show, `/proc` is mounted with `hidepid` (proc(5)).
    let shows_all = proc::sees_every_process() && pids.contains(&1);
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

/// The pids of all processes that can be seen.
pub(crate) fn processes() -> Vec<i32> {
    numbers_in("/proc").map(|(_, pids)| pids).unwrap_or_default()
}

/// Whether an error means that the process ended while it was looked at.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH))
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

/// What the kernel tells about a descriptor.
pub(crate) fn fdinfo(pid: impl std::fmt::Display, fd: i32) -> Option<String> {
    proc::read(&format!("/proc/{pid}/fdinfo/{fd}")).ok()
}

/// A folder of `/proc`, and the numbers that are names in it.
pub(crate) fn numbers_in(path: &str) -> io::Result<(Dir, Vec<i32>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = Dir::new(openat(rustix::fs::CWD, path, flags, Mode::empty())?)?;
    let mut numbers = Vec::new();
    for entry in &mut folder {
        numbers.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok((folder, numbers))
}
