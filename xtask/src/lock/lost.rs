//! Locks on a lock file that is no longer at its path: deleted, replaced or moved aside
//! under its holder. The kernel says nothing of them at the path, and a scrape still runs.

use crate::lock::holders::{Holder, fdinfo, numbers_in, processes};
use crate::lock::table::{LockType, fdinfo_entries};
use rustix::fs::readlinkat;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How the kernel marks the path of a file that has none any more (`d_path` in the
/// kernel's fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// So many links in a row are followed to where the lock file was.
const MOST_LINKS: usize = 8;

/// Where a lock file is or was, with no links in it, as `/proc/PID/fd` shows paths.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LostFile {
    folder: PathBuf,
    name: OsString,
}

/// Whose descriptors are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The process's that the sidecar names.
    Recorded,
    Anybody,
}

impl LostFile {
    /// The file that `lock` leads or led to, also when a link on the way dangles now.
    pub(crate) fn of(lock: &Path) -> LostFile {
        let mut at = lock.to_path_buf();
        for _ in 0..MOST_LINKS {
            let Ok(target) = std::fs::read_link(&at) else { break };
            at = at.parent().unwrap_or(Path::new("/")).join(target);
        }
        let folder = at.parent().unwrap_or(Path::new("/"));
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        LostFile { folder, name: at.file_name().unwrap_or_default().to_owned() }
    }

    /// Whether the process that wrote the sidecar has a flock on it.
    pub(crate) fn is_locked_by(&self, pid: u64) -> io::Result<bool> {
        self.has_flock(pid, Whose::Recorded)
    }

    fn has_flock(&self, pid: u64, whose: Whose) -> io::Result<bool> {
        let is_flock = |info: String| fdinfo_entries(&info).any(|entry| entry.lock_type == LockType::Flock);
        let (folder, fds) = numbers_in(&format!("/proc/{pid}/fd"))?;
        for fd in fds {
            let Ok(target) = readlinkat(folder.fd()?, fd.to_string(), Vec::new()) else { continue };
            if self.is_at(target.as_bytes(), whose) && fdinfo(pid, fd).is_some_and(is_flock) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All processes that can be seen to have a flock on it, by pid.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let has_it =
            |pid: &i32| u64::try_from(*pid).is_ok_and(|pid| self.has_flock(pid, Whose::Anybody).unwrap_or(false));
        let mut holders: Vec<Holder> = processes().into_iter().filter(has_it).map(Holder::of).collect();
        holders.sort_by_key(|holder| holder.pid);
        holders
    }

    /// Whether a descriptor that the kernel shows as `shown` may be of this file.
    fn is_at(&self, shown: &[u8], whose: Whose) -> bool {
        let deleted = shown.strip_suffix(DELETED);
        let path = Path::new(OsStr::from_bytes(deleted.unwrap_or(shown)));
        let Some(name) = path.file_name() else { return false };
        let is_here = path.parent() == Some(&self.folder);
        // Through another mount or link it has another folder. But the lock of another
        // archive has the same name too: only the sidecar's own process is believed there.
        let is_elsewhere = whose == Whose::Recorded && deleted.is_some() && name == self.name;
        // `lock.old` beside it, or what an NFS client makes of an open file that is deleted.
        let is_moved = name.as_bytes().starts_with(self.name.as_bytes()) || name.as_bytes().starts_with(b".nfs");
        is_elsewhere || (is_here && is_moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_moved_and_remounted_files_are_known_again() {
        let file = LostFile { folder: "/data".into(), name: ".dce-scrape.lock".into() };
        for shown in [
            "/data/.dce-scrape.lock",
            "/data/.dce-scrape.lock (deleted)",
            "/data/.dce-scrape.lock.old",
            "/data/.nfs000000000001",
            "/mnt/elsewhere/.dce-scrape.lock (deleted)",
        ] {
            assert!(file.is_at(shown.as_bytes(), Whose::Recorded), "{shown}");
            assert_eq!(file.is_at(shown.as_bytes(), Whose::Anybody), shown.starts_with("/data"), "{shown}");
        }
        for shown in ["/other/.dce-scrape.lock", "/data/cron.lock", "/data/cron.lock (deleted)", "pipe:[1]", "/", ""] {
            assert!(!file.is_at(shown.as_bytes(), Whose::Recorded), "{shown}");
        }
    }

    #[test]
    fn links_are_followed_also_when_they_dangle() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("t")).unwrap();
        std::os::unix::fs::symlink("t/real", real.join("link")).unwrap();
        let expected = LostFile { folder: real.join("t"), name: "real".into() };
        assert_eq!(LostFile::of(&real.join("link")), expected);
    }
}
