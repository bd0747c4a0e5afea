//! Locks on a lock file that is no longer at its path: deleted, replaced or moved under its holder. The
//! kernel says nothing about them at the path, and yet a scrape runs.

use crate::lock::holders::{Search, fdinfo, search_for};
use crate::lock::path::sidecar_path;
use crate::lock::sidecar::Claim;
use crate::lock::table::{LockType, fdinfo_entries};
use crate::sys::file::{StatId, plain, stat_id};
use crate::sys::procfs::{self, numbers_in};
use rustix::fs::{AtFlags, CWD, readlinkat};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How the kernel marks the path of a deleted file (`d_path` in the kernel's fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// Maximum number of symbolic links followed.
const MAX_LINKS: usize = 8;

/// What people append to the name of a file that they move out of the way.
const ASIDE_SUFFIXES: [&str; 10] =
    ["old", "bak", "backup", "orig", "save", "saved", "stale", "moved", "dead", "disabled"];

/// The result of a walk through all processes.
#[derive(Debug)]
pub(crate) struct UnlinkedSearch {
    /// Who has a flock on the unlinked file.
    pub(crate) search: Search,
    /// Somebody has a flock on the file that is at the path now.
    pub(crate) is_taken: bool,
    /// Why the recorded process could not be inspected.
    pub(crate) recorded_unreadable: Option<String>,
}

/// The path of a lock file without links, as `/proc/PID/fd` shows paths.
#[derive(Debug, PartialEq, Eq)]
struct RealPath {
    folder: PathBuf,
    name: OsString,
}

/// What the path of a locked descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trace {
    /// It is the unlinked file.
    Unlinked,
    /// It is the unlinked file if the recorded process has it, and it is not another archive's lock.
    Perhaps,
    /// It is at the lock's path.
    Here,
}

/// Looks for flocks on what was at `lock`.
pub(crate) fn search(lock: &Path, claim: &Claim) -> UnlinkedSearch {
    let recorded = claim.running_writer();
    let real_path = RealPath::of(lock);
    let today = stat_id(CWD, lock, AtFlags::empty()).ok();
    let mut is_taken = false;
    let mut looked_at_recorded = None;
    let search = search_for(|pid| {
        let found = real_path.flock_of(pid, recorded, today);
        if recorded == Some(pid) {
            looked_at_recorded = Some(found.as_ref().err().map(plain));
        }
        is_taken |= matches!(found, Ok(Some(Trace::Here)));
        Ok(found? == Some(Trace::Unlinked))
    });
    // A process that was not met is hidden, or has ended since.
    let still_runs = || recorded.is_some_and(|pid| u64::try_from(pid).is_ok_and(procfs::is_running));
    let recorded_unreadable =
        looked_at_recorded.unwrap_or_else(|| Some("it is hidden".to_owned())).filter(|_| still_runs());
    UnlinkedSearch { search, is_taken, recorded_unreadable }
}

impl RealPath {
    /// Where `lock` leads, even if a link on the way is dangling.
    fn of(lock: &Path) -> RealPath {
        let mut at = lock.to_path_buf();
        for _ in 0..MAX_LINKS {
            let Ok(target) = std::fs::read_link(&at) else { break };
            at = at.parent().unwrap_or(Path::new("/")).join(target);
        }
        let folder = at.parent().unwrap_or(Path::new("/"));
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        RealPath { folder, name: at.file_name().unwrap_or_default().to_owned() }
    }

    /// The first flock of a process on the unlinked file, or on `today`'s.
    fn flock_of(&self, pid: i32, recorded: Option<i32>, today: Option<StatId>) -> io::Result<Option<Trace>> {
        let is_flock = |info: String| fdinfo_entries(&info).any(|entry| entry.lock_type == LockType::Flock);
        let (folder, fds) = numbers_in(&format!("/proc/{pid}/fd"))?;
        for fd in fds {
            let Ok(target) = readlinkat(folder.fd()?, fd.to_string(), Vec::new()) else { continue };
            let Some(trace) = self.trace(target.as_bytes()) else { continue };
            let is_today = today.is_some() && stat_id(folder.fd()?, fd.to_string(), AtFlags::empty()).ok() == today;
            let has_own_sidecar = || sidecar_path(Path::new(OsStr::from_bytes(target.as_bytes()))).exists();
            let counts = match trace {
                _ if is_today => true,
                Trace::Unlinked | Trace::Here => true,
                Trace::Perhaps => recorded == Some(pid) && !has_own_sidecar(),
            };
            if counts && fdinfo(pid, fd).is_some_and(is_flock) {
                return Ok(Some(if is_today { Trace::Here } else { Trace::Unlinked }));
            }
        }
        Ok(None)
    }

    /// What a descriptor may refer to that the kernel shows as `shown`.
    fn trace(&self, shown: &[u8]) -> Option<Trace> {
        let deleted = shown.strip_suffix(DELETED);
        let path = Path::new(OsStr::from_bytes(deleted.unwrap_or(shown)));
        let name = path.file_name()?;
        let is_here = path.parent() == Some(&self.folder);
        let added = name.as_bytes().strip_prefix(self.name.as_bytes());
        match (added?, deleted.is_some()) {
            ([], true) if is_here => Some(Trace::Unlinked),
            ([], false) if is_here => Some(Trace::Here),
            (added, false) if is_here && is_aside(added) => Some(Trace::Unlinked),
            // Moved to another name or folder, or deleted and seen through another mount.
            (_, false) if is_here => Some(Trace::Perhaps),
            ([], _) => Some(Trace::Perhaps),
            _ => None,
        }
    }
}

/// Whether people append this to the name of a file to move it out of the way.
fn is_aside(added: &[u8]) -> bool {
    let text = String::from_utf8_lossy(added);
    let word = text.trim_start_matches(['.', '-', '_']);
    text == "~" || (word != text && (ASIDE_SUFFIXES.contains(&word) || word.parse::<u64>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_and_moved_files_are_recognized() {
        let real_path = RealPath { folder: "/data".into(), name: ".dce-scrape.lock".into() };
        let trace = |shown: &str| real_path.trace(shown.as_bytes());
        for shown in ["/data/.dce-scrape.lock (deleted)", "/data/.dce-scrape.lock.old", "/data/.dce-scrape.lock.2"] {
            assert_eq!(trace(shown), Some(Trace::Unlinked), "{shown}");
        }
        assert_eq!(trace("/data/.dce-scrape.lock"), Some(Trace::Here));
        for shown in ["/mnt/.dce-scrape.lock (deleted)", "/other/.dce-scrape.lock", "/data/.dce-scrape.lock.cron"] {
            assert_eq!(trace(shown), Some(Trace::Perhaps), "{shown}");
        }
        for shown in
            ["/data/cron.lock", "/data/cron.lock (deleted)", "/other/.dce-scrape.lock.old", "pipe:[1]", "/", ""]
        {
            assert_eq!(trace(shown), None, "{shown}");
        }
    }

    #[test]
    fn links_are_followed_even_if_dangling() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("t")).unwrap();
        std::os::unix::fs::symlink("t/real", real.join("link")).unwrap();
        let expected = RealPath { folder: real.join("t"), name: "real".into() };
        assert_eq!(RealPath::of(&real.join("link")), expected);
    }
}
