//! What a walk looks for: descriptors of the lock file, and of what was the lock file before it was deleted,
//! replaced or moved under its holder. The kernel says nothing about those at the path, and yet a scrape runs.

use crate::lock::file::LockFile;
use crate::lock::path::sidecar_path;
use crate::lock::sidecar::Claim;
use crate::lock::table::{Entry, LockKey, LockType, fdinfo_entries};
use crate::sys::file::{StatId, stat_id};
use crate::sys::mounts::{self, Mount};
use crate::sys::procfs;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How the kernel marks the path of a deleted file (`d_path` in the kernel's fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// Maximum number of symbolic links followed.
const MAX_LINKS: usize = 8;

/// What is looked for.
pub(crate) struct Wanted<'a> {
    pub(crate) claim: &'a Claim,
    /// The file that is at the lock's path now.
    pub(crate) today: Option<StatId>,
    /// The lock's path without links, as `/proc/PID/fd` shows paths.
    folder: PathBuf,
    name: OsString,
    folder_id: Option<StatId>,
    /// The device of the files that may be the lock.
    device: Option<(u32, u32)>,
    /// The mount of the folder.
    pub(crate) mount: Option<Mount>,
    /// On btrfs, all mounts of the file system: `stat` reports another device for each of its subvolumes.
    mount_ids: Vec<u64>,
    /// The lock that this process has.
    pub(crate) own: Option<Met>,
    /// There is, or was, no lock file, or a sidecar beside it: another one may have been there.
    pub(crate) has_sign: bool,
}

/// What a descriptor with a flock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Here,
    Unlinked,
    /// Another file.
    Other,
}

/// A flock that was met: its file as the table names it, and as `stat` does.
pub(crate) type Met = (LockKey, StatId);

impl<'a> Wanted<'a> {
    pub(crate) fn new(lock: &Path, file: Option<&LockFile>, claim: &'a Claim) -> Wanted<'a> {
        let mut at = lock.to_path_buf();
        for _ in 0..MAX_LINKS {
            let Ok(target) = std::fs::read_link(&at) else { break };
            at = at.parent().unwrap_or(Path::new("/")).join(target);
        }
        let folder = at.parent().unwrap_or(Path::new("/"));
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let folder_id = stat_id(CWD, &folder, AtFlags::empty()).ok();
        let today = file.map(|file| file.stat_id);
        let folders_mount = || {
            let folder = openat(CWD, &folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
            Some(mounts::find(folder).ok()?.mount)
        };
        let mount = file.map(|file| file.mount.clone()).or_else(folders_mount);
        let subvolumes = match &mount {
            Some(mount) if mount.fs_type == "btrfs" => mounts::all().unwrap_or_default(),
            _ => Vec::new(),
        };
        let is_same = |other: &&Mount| mount.as_ref().is_some_and(|mount| mount.has_device_of(other));
        let mount_ids: Vec<u64> = subvolumes.iter().filter(is_same).map(|mount| mount.id).collect();
        Wanted {
            claim,
            today,
            device: today.or(folder_id).map(|(major, minor, _)| (major, minor)),
            name: at.file_name().unwrap_or_default().to_owned(),
            has_sign: today.is_none() || claim.has_sidecar() || !mount_ids.is_empty(),
            mount,
            mount_ids,
            folder,
            folder_id,
            own: None,
        }
    }

    /// What a descriptor is, if it has a flock on a file that may be or have been the lock; `thread` is its folder in
    /// `/proc`.
    pub(crate) fn classify(
        &self,
        folder: BorrowedFd,
        pid: i32,
        thread: &str,
        fd: i32,
    ) -> io::Result<Option<(Found, Met)>> {
        let name = fd.to_string();
        // A process may have thousands of descriptors: this costs a fifth of reading an fdinfo.
        let id = stat_id(folder, &name, AtFlags::empty())?;
        if self.device != Some((id.0, id.1)) && !self.is_in_subvolume(folder, &name)? {
            return Ok(None);
        }
        let is_here = self.today == Some(id);
        if !is_here && !self.may_be_unlinked(folder, &name)? {
            return Ok(None);
        }
        let info = procfs::read(&format!("{thread}/fdinfo/{fd}"))?;
        let counts = |entry: &Entry| {
            if is_here { entry.keeps_out_scrapes() } else { entry.lock_type == LockType::Flock }
        };
        let Some(key) = fdinfo_entries(&info).find(counts).and_then(|entry| entry.key) else { return Ok(None) };
        let found = if is_here {
            Found::Here
        } else if self.device == Some((id.0, id.1))
            && self.is_unlinked(readlinkat(folder, &name, Vec::new())?.as_bytes(), id, pid)
        {
            Found::Unlinked
        } else {
            Found::Other
        };
        Ok(Some((found, (key, id))))
    }

    /// Whether a file is on another subvolume of the lock's btrfs.
    fn is_in_subvolume(&self, folder: BorrowedFd, fd: &str) -> io::Result<bool> {
        if self.mount_ids.is_empty() {
            return Ok(false);
        }
        let stat = statx(folder, fd, AtFlags::STATX_DONT_SYNC, StatxFlags::INO | StatxFlags::MNT_ID)?;
        Ok(self.mount_ids.contains(&stat.stx_mnt_id))
    }

    /// Whether a file on the lock's device may be a lock file that is no longer at its path.
    fn may_be_unlinked(&self, folder: BorrowedFd, fd: &str) -> io::Result<bool> {
        let wanted = StatxFlags::INO | StatxFlags::NLINK | StatxFlags::TYPE;
        let stat = statx(folder, fd, AtFlags::STATX_DONT_SYNC, wanted)?;
        let is_regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        Ok(is_regular && (stat.stx_nlink == 0 || self.has_sign))
    }

    /// Whether a locked file, whose descriptor the kernel shows as `shown`, was at the lock's path.
    fn is_unlinked(&self, shown: &[u8], id: StatId, pid: i32) -> bool {
        let deleted = shown.strip_suffix(DELETED);
        let path = Path::new(OsStr::from_bytes(deleted.unwrap_or(shown)));
        let folder = path.parent().unwrap_or(path);
        // The paths are on the lock's own device. One may belong to another mount namespace: only the file
        // itself proves that it is there.
        let found = |path: &Path| stat_id(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok();
        let was_here = match deleted {
            Some(_) if path.file_name() != Some(&self.name) => false,
            // It may have been deleted through another mount, or its folder moved.
            Some(_) => folder == self.folder || found(folder).is_none_or(|other| Some(other) == self.folder_id),
            None => folder == self.folder && found(path) == Some(id),
        };
        let is_writers = || {
            let writer = self.claim.running_writer();
            writer.is_some_and(|writer| procfs::is_same_or_descendant(pid, writer))
        };
        (was_here || is_writers()) && !(deleted.is_none() && self.is_anothers(path))
    }

    /// Whether a file has a sidecar of its own that names somebody else: it is another archive's lock.
    fn is_anothers(&self, path: &Path) -> bool {
        let pid = |claim: &Claim| claim.recorded().map(|recorded| recorded.pid);
        sidecar_path(path).symlink_metadata().is_ok()
            && pid(&Claim::read(path)).is_some_and(|named| pid(self.claim) != Some(named))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(lock: &Path, claim: &'a Claim) -> Wanted<'a> {
        Wanted::new(lock, None, claim)
    }

    #[test]
    fn deleted_and_moved_files_are_recognized() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::write(real.join("aside"), "").unwrap();
        let id = stat_id(CWD, real.join("aside"), AtFlags::empty()).unwrap();
        let wanted = wanted(&real.join(".dce-scrape.lock"), &Claim::None);
        let is_unlinked = |shown: &str| wanted.is_unlinked(shown.as_bytes(), id, 1);
        let shown = |name: &str| format!("{}/{name}", real.display());
        assert!(is_unlinked(&shown(".dce-scrape.lock (deleted)")));
        assert!(is_unlinked("/nonexistent/.dce-scrape.lock (deleted)"), "its folder was moved");
        assert!(!is_unlinked("/usr/.dce-scrape.lock (deleted)"), "another archive's");
        assert!(is_unlinked(&shown("aside")));
        assert!(!is_unlinked(&shown("other")), "no such file is there");
        assert!(!is_unlinked("/elsewhere/aside"));
        assert!(!is_unlinked(&shown("aside (deleted)")));
        std::fs::write(real.join("aside.meta"), "pid=1\n").unwrap();
        assert!(!is_unlinked(&shown("aside")), "it has a sidecar of its own");
    }

    #[test]
    fn links_are_followed_even_if_dangling() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("t")).unwrap();
        std::os::unix::fs::symlink("t/real", real.join("link")).unwrap();
        let wanted = wanted(&real.join("link"), &Claim::None);
        assert_eq!((wanted.folder.clone(), &wanted.name[..]), (real.join("t"), OsStr::new("real")));
    }
}
