//! Who really has the locked descriptor.
//!
//! The pid in `/proc/locks` is that of whoever took the lock: for the host runner the
//! `flock` program, long gone. The lock belongs to the open file description, and the
//! processes that share it have a `lock:` line for it in `/proc/PID/fdinfo/FD`.

use crate::lock::identity::{LockFile, stat_id};
use crate::lock::proc;
use crate::lock::table::{Entry, LockType, fdinfo_entries};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, readlinkat};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A process that has the locked descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    /// The program's name; foreign text.
    pub(crate) command: String,
}

/// What a look through all processes found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Search {
    /// By pid.
    pub(crate) holders: Vec<Holder>,
    /// Every process could be looked into.
    pub(crate) is_complete: bool,
}

/// Looks for `file`'s lock among the descriptors of every process.
pub(crate) fn search(file: &LockFile) -> Search {
    let Ok((_, pids)) = numbers_in("/proc") else { return Search::default() };
    // Pid 1 always runs: where it does not show, `/proc` is mounted with `hidepid` (proc(5)).
    let shows_all = proc::sees_every_process() && pids.contains(&1);
    let mut search = Search { holders: Vec::new(), is_complete: shows_all };
    for pid in pids {
        match has_lock(pid, file) {
            Ok(true) => search.holders.push(Holder { pid, command: proc::command(pid).unwrap_or_default() }),
            Ok(false) => {}
            Err(error) if is_gone(&error) => {}
            Err(_) => search.is_complete = false,
        }
    }
    search.holders.sort_by_key(|holder| holder.pid);
    // It was searched for because it is held: somebody has it.
    search.is_complete &= !search.holders.is_empty();
    search
}

/// Whether `pid` has a flock on the file that is, or was before it was deleted or
/// replaced, at `lock`.
pub(crate) fn has_flock_at(pid: u64, lock: &Path) -> io::Result<bool> {
    let lock = resolved(lock);
    let mut unlinked = lock.as_os_str().to_owned();
    unlinked.push(" (deleted)");
    let (folder, fds) = numbers_in(&format!("/proc/{pid}/fd"))?;
    for fd in fds {
        let Ok(target) = readlinkat(folder.fd()?, fd.to_string(), Vec::new()) else { continue };
        let is_ours = target.as_bytes() == lock.as_os_str().as_bytes() || target.as_bytes() == unlinked.as_bytes();
        if is_ours && fdinfo(pid, fd).is_some_and(|info| fdinfo_entries(&info).any(|e| e.lock_type == LockType::Flock))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an error means that the process ended while it was looked at.
pub(crate) fn is_gone(error: &io::Error) -> bool {
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

fn fdinfo(pid: impl std::fmt::Display, fd: i32) -> Option<String> {
    proc::read(&format!("/proc/{pid}/fdinfo/{fd}")).ok()
}

/// A folder of `/proc`, and the numbers that are names in it.
fn numbers_in(path: &str) -> io::Result<(Dir, Vec<i32>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = Dir::new(openat(rustix::fs::CWD, path, flags, Mode::empty())?)?;
    let mut numbers = Vec::new();
    for entry in &mut folder {
        numbers.extend(entry?.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok((folder, numbers))
}

/// The path as the kernel shows it in `/proc/PID/fd`: with no links in it.
fn resolved(lock: &Path) -> PathBuf {
    let in_folder = || Some(lock.parent()?.canonicalize().ok()?.join(lock.file_name()?));
    lock.canonicalize().ok().or_else(in_folder).unwrap_or_else(|| lock.to_path_buf())
}
