//! One pass through all processes: which of them have the locked descriptor, here or of a lock file that is
//! no longer at its path.
//!
//! The pid in `/proc/locks` is that of the process that took the lock: for the host runner the `flock`
//! program, long gone. The lock belongs to the open file description, and every process that shares it
//! has a `lock:` line in `/proc/PID/fdinfo/FD`.

use crate::lock::table::{Entry, LockKey, fdinfo_entries};
use crate::lock::wanted::{Found, Wanted};
use crate::sys::file::{StatId, plain, stat_id};
use crate::sys::procfs::{self, kernel_threads, numbers, open_folder};
use crate::text::Foreign;
use rustix::fs::{AtFlags, readlinkat};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::HashSet;
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
    /// Its user: the name, or else the number.
    pub(crate) user: Option<Foreign>,
    /// The systemd unit or the container that it runs in, as its cgroup names it.
    pub(crate) unit: Option<Foreign>,
    pub(crate) container: Option<Foreign>,
    /// When it started, if known.
    #[serde(skip)]
    pub(crate) started: Option<SystemTime>,
}

/// The result of a walk.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Walk {
    /// The processes that have the locked descriptor, by pid.
    pub(crate) holders: Vec<Holder>,
    /// The descriptors of every process were looked at; of its threads, only where they may differ.
    #[serde(rename = "holders_complete")]
    pub(crate) is_complete: bool,
    /// Nobody else can hold a file that was at the lock's path.
    #[serde(skip)]
    pub(crate) is_conclusive: bool,
    /// The flocks that were looked at.
    #[serde(skip)]
    pub(crate) met: HashSet<LockKey>,
    /// The holders hold a file that is no longer at the lock's path.
    #[serde(skip)]
    pub(crate) is_unlinked: bool,
    /// The table shows a lock that none of those who were met has.
    #[serde(skip)]
    pub(crate) is_unexplained: bool,
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
    let mut met = HashSet::new();
    let mut skipped = kernel_threads();
    // This process holds nothing or, as `lock-run`, only the current lock.
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
    let (is_conclusive, is_unexplained) = (is_complete, false);
    Walk { holders, is_complete, is_conclusive, is_unlinked, is_unexplained, recorded_unreadable, met }
}

/// How many files other than `current` are locked under its key, which is that of several files on btrfs and overlayfs.
pub(crate) fn twins(key: LockKey, current: StatId, until: Instant) -> usize {
    let mut twins = HashSet::new();
    for pid in procfs::processes().unwrap_or_default() {
        let Ok(folder) = open_folder(&format!("/proc/{pid}/fd")) else { continue };
        for fd in numbers(&folder).unwrap_or_default() {
            let has_key = |entry: &Entry| entry.key == Some(key) && entry.keeps_out_scrapes();
            let is_locked = |info: String| fdinfo_entries(&info).any(|entry| has_key(&entry));
            if check_time(until).is_ok()
                && procfs::read(&format!("/proc/{pid}/fdinfo/{fd}")).is_ok_and(is_locked)
                && let Ok(id) = stat_id(&folder, fd.to_string(), AtFlags::empty())
            {
                twins.insert(id);
            }
        }
    }
    twins.remove(&current);
    twins.len()
}

/// Looks at all descriptors of a process; what was not looked at is an error.
fn look_at(
    wanted: &Wanted,
    pid: i32,
    until: Instant,
    found: &mut Vec<Found>,
    met: &mut HashSet<LockKey>,
) -> io::Result<()> {
    let is_recorded = wanted.claim.recorded().is_some_and(|recorded| u64::try_from(pid) == Ok(recorded.pid));
    let mut threads = vec![format!("/proc/{pid}")];
    let mut result = Ok(());
    while let Some(thread) = threads.pop() {
        check_time(until)?;
        let folder = match open_folder(&format!("{thread}/fd")) {
            Err(error) if has_gone(&error) => continue,
            folder => folder?,
        };
        let fds = numbers(&folder).or_else(none_if_gone)?;
        if (fds.is_empty() || is_recorded) && !thread.contains("task") {
            // The main thread may have ended; and the recorded process may have threads with descriptors of their own
            // (unshare(2)).
            let tasks = open_folder(&format!("/proc/{pid}/task")).and_then(numbers).or_else(none_if_gone)?;
            threads
                .extend(tasks.into_iter().filter(|&task| task != pid).map(|task| format!("/proc/{pid}/task/{task}")));
        }
        for (index, fd) in fds.into_iter().enumerate() {
            if index % 256 == 255 {
                check_time(until)?;
            }
            match wanted.classify(folder.as_fd(), pid, &thread, fd) {
                Ok(Some((what, flock))) => {
                    found.push(what);
                    met.insert(flock);
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

fn check_time(until: Instant) -> io::Result<()> {
    if Instant::now() < until { Ok(()) } else { Err(io::Error::other("there was no time left")) }
}

impl Holder {
    fn new(pid: i32) -> Holder {
        let started = u64::try_from(pid).ok().and_then(procfs::started_at);
        let text = |text: String| Foreign(text.into_bytes());
        let cgroup = procfs::cgroup(pid).unwrap_or_default();
        Holder {
            pid,
            command: text(procfs::command(pid).unwrap_or_default()),
            user: procfs::user(pid).map(text),
            unit: procfs::unit_in(&cgroup).map(text),
            container: procfs::container_in(&cgroup).map(text),
            started,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::sidecar::Claim;
    use std::time::Duration;

    fn error(errno: Errno) -> io::Error {
        errno.into()
    }

    #[test]
    fn only_a_process_that_has_ended_is_gone() {
        assert!(has_gone(&error(Errno::NOENT)) && has_gone(&error(Errno::SRCH)));
        for errno in [Errno::ACCESS, Errno::PERM, Errno::IO, Errno::MFILE, Errno::NOMEM] {
            assert!(!has_gone(&error(errno)) && none_if_gone(error(errno)).is_err(), "{errno}");
        }
        assert_eq!(none_if_gone(error(Errno::SRCH)).unwrap(), [0; 0]);
    }

    #[test]
    fn what_is_not_looked_at_is_an_error_and_what_has_gone_is_not() {
        let (claim, soon) = (Claim::None, Instant::now() + Duration::from_secs(60));
        let wanted = Wanted::new(Path::new("/nonexistent/lock"), None, &claim);
        let own = i32::try_from(std::process::id()).unwrap();
        let look = |pid: i32, until: Instant| look_at(&wanted, pid, until, &mut Vec::new(), &mut HashSet::new());
        assert!(look(99_999_999, soon).is_ok() && look(own, soon).is_ok());
        let past = Instant::now() - Duration::from_secs(1);
        assert!(look(own, past).is_err() && !walk(&wanted, past).is_complete);
    }

    #[test]
    fn the_recorded_process_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        std::fs::write(folder.path().join("lock.meta"), format!("pid={}\n", std::os::unix::process::parent_id()))
            .unwrap();
        let claim = Claim::read(&lock);
        let unreadable = |until: Instant| walk(&Wanted::new(&lock, None, &claim), until).recorded_unreadable;
        assert_eq!(unreadable(Instant::now() + Duration::from_secs(60)), None);
        let why = unreadable(Instant::now() - Duration::from_secs(1));
        assert_eq!(why.as_deref(), Some("there was no time left"));
    }

    #[test]
    fn who_has_a_file_open_is_found_without_asking_the_file_system() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        let holders =
            |path: &Path| open_at(path).into_iter().map(|holder| holder.pid.cast_unsigned()).collect::<Vec<_>>();
        assert!(holders(&path).contains(&std::process::id()));
        assert_eq!(holders(&path.with_extension("other")), [0; 0]);
    }
}
