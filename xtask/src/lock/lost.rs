//! Locks on a lock file that is no longer at its path: deleted, replaced or moved aside
//! under its holder. The kernel says nothing of them at the path, and a scrape still runs.

use crate::bounded::plain;
use crate::lock::holders::{Holder, fdinfo, numbers_in, search_for};
use crate::lock::identity::{StatId, stat_id};
use crate::lock::path::sidecar_path;
use crate::lock::proc;
use crate::lock::sidecar;
use crate::lock::table::{LockType, fdinfo_entries};
use crate::lock::{Claim, Recorded, Writer, claim};
use rustix::fs::{AtFlags, CWD, readlinkat};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How the kernel marks the path of a file that has none any more (`d_path` in the
/// kernel's fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// So many links in a row are followed to where the lock file was.
const MOST_LINKS: usize = 8;

/// What people put behind the name of a file that they move aside.
const ASIDE: [&str; 10] = ["old", "bak", "backup", "orig", "save", "saved", "stale", "moved", "dead", "disabled"];

/// What a look through all processes found.
#[derive(Debug)]
pub(crate) struct LostSearch {
    /// Who has a flock on the lost file, by pid.
    pub(crate) holders: Vec<Holder>,
    /// Every process could be looked into.
    pub(crate) is_complete: bool,
    /// Somebody has a flock on the file that is at the path: it was taken meanwhile.
    pub(crate) is_taken: bool,
    /// Why the recorded process could not be looked into.
    pub(crate) recorded_unreadable: Option<String>,
}

/// A lock file's place, with no links in it, as `/proc/PID/fd` shows paths.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    folder: PathBuf,
    name: OsString,
}

/// What a descriptor with a flock is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trace {
    /// Surely the lost file.
    Lost,
    /// The lost file if it is the recorded process's, and no other archive's lock.
    Perhaps,
    /// The path of today's file.
    Here,
}

/// Who holds what was at `lock`, as far as can be seen.
pub(crate) fn holders(lock: &Path) -> Vec<Holder> {
    search(lock, recorded_writer(&claim(sidecar::read(lock)))).holders
}

/// The process that a sidecar names, when it runs and plausibly wrote it.
pub(crate) fn recorded_writer(claim: &Claim) -> Option<i32> {
    match claim {
        Claim::Recorded(Recorded { pid, writer: Writer::Running(_), .. }) => i32::try_from(*pid).ok(),
        _ => None,
    }
}

/// Looks for flocks on what was at `lock`. `recorded` is the process that the sidecar
/// names, when it plausibly wrote it.
pub(crate) fn search(lock: &Path, recorded: Option<i32>) -> LostSearch {
    let place = Place::of(lock);
    let today = stat_id(CWD, lock, AtFlags::empty()).ok();
    let mut is_taken = false;
    let mut looked_at_recorded = None;
    let search = search_for(|pid| {
        let found = place.flock_of(pid, recorded == Some(pid), today);
        if recorded == Some(pid) {
            looked_at_recorded = Some(found.as_ref().err().map(plain));
        }
        is_taken |= matches!(found, Ok(Some(Trace::Here)));
        Ok(found? == Some(Trace::Lost))
    });
    // It is hidden, or has ended since it was seen to run.
    let still_runs = || recorded.is_some_and(|pid| u64::try_from(pid).is_ok_and(proc::is_running));
    let recorded_unreadable =
        looked_at_recorded.unwrap_or_else(|| Some("it is hidden".to_owned())).filter(|_| still_runs());
    LostSearch { holders: search.holders, is_complete: search.is_complete, is_taken, recorded_unreadable }
}

impl Place {
    /// Where `lock` leads or led to, also when a link on the way dangles now.
    fn of(lock: &Path) -> Place {
        let mut at = lock.to_path_buf();
        for _ in 0..MOST_LINKS {
            let Ok(target) = std::fs::read_link(&at) else { break };
            at = at.parent().unwrap_or(Path::new("/")).join(target);
        }
        let folder = at.parent().unwrap_or(Path::new("/"));
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        Place { folder, name: at.file_name().unwrap_or_default().to_owned() }
    }

    /// The first flock of a process on the lost file, or on the one there `today`.
    fn flock_of(&self, pid: i32, is_recorded: bool, today: Option<StatId>) -> io::Result<Option<Trace>> {
        let is_flock = |info: String| fdinfo_entries(&info).any(|entry| entry.lock_type == LockType::Flock);
        let (folder, fds) = numbers_in(&format!("/proc/{pid}/fd"))?;
        for fd in fds {
            let Ok(target) = readlinkat(folder.fd()?, fd.to_string(), Vec::new()) else { continue };
            let Some(trace) = self.trace(target.as_bytes()) else { continue };
            let is_today = today.is_some() && stat_id(folder.fd()?, fd.to_string(), AtFlags::empty()).ok() == today;
            let has_own_sidecar = || sidecar_path(Path::new(OsStr::from_bytes(target.as_bytes()))).exists();
            let counts = match trace {
                _ if is_today => true,
                Trace::Lost | Trace::Here => true,
                Trace::Perhaps => is_recorded && !has_own_sidecar(),
            };
            if counts && fdinfo(pid, fd).is_some_and(is_flock) {
                return Ok(Some(if is_today { Trace::Here } else { Trace::Lost }));
            }
        }
        Ok(None)
    }

    /// What a descriptor that the kernel shows as `shown` may be of.
    fn trace(&self, shown: &[u8]) -> Option<Trace> {
        let deleted = shown.strip_suffix(DELETED);
        let path = Path::new(OsStr::from_bytes(deleted.unwrap_or(shown)));
        let name = path.file_name()?;
        let is_here = path.parent() == Some(&self.folder);
        let added = name.as_bytes().strip_prefix(self.name.as_bytes());
        match (added?, deleted.is_some()) {
            ([], true) if is_here => Some(Trace::Lost),
            ([], false) if is_here => Some(Trace::Here),
            (added, false) if is_here && is_aside(added) => Some(Trace::Lost),
            // Moved to another name or folder; or deleted and seen through another mount.
            (_, false) if is_here => Some(Trace::Perhaps),
            ([], _) => Some(Trace::Perhaps),
            _ => None,
        }
    }
}

/// Whether a name was made by adding this to the name of a file that is out of use.
fn is_aside(added: &[u8]) -> bool {
    let text = String::from_utf8_lossy(added);
    let word = text.trim_start_matches(['.', '-', '_']);
    text == "~" || (word != text && (ASIDE.contains(&word) || word.parse::<u64>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_and_moved_files_are_known_again() {
        let place = Place { folder: "/data".into(), name: ".dce-scrape.lock".into() };
        let trace = |shown: &str| place.trace(shown.as_bytes());
        for shown in ["/data/.dce-scrape.lock (deleted)", "/data/.dce-scrape.lock.old", "/data/.dce-scrape.lock.2"] {
            assert_eq!(trace(shown), Some(Trace::Lost), "{shown}");
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
    fn links_are_followed_also_when_they_dangle() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("t")).unwrap();
        std::os::unix::fs::symlink("t/real", real.join("link")).unwrap();
        let expected = Place { folder: real.join("t"), name: "real".into() };
        assert_eq!(Place::of(&real.join("link")), expected);
    }
}
