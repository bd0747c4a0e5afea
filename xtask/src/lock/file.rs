//! From the lock's path to its inode, as the kernel's lock table names it.
//!
//! The table shows the device of the super block, which `stat` does not report on btrfs and overlayfs.
//! The mount's device in `/proc/self/mountinfo` is the right one.

use crate::lock::table::LockKey;
use crate::sys::file::{StatId, irregular, stat_id};
use crate::sys::mounts::{self, Mount, MountedFile};
use rustix::fs::{AtFlags, CWD, Mode, NFS_SUPER_MAGIC, OFlags, fstatfs, openat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// File systems whose locks are all in this kernel's table. Any other counts as remote, which costs a
/// closer look but never a wrong answer.
const LOCAL_FILE_SYSTEMS: [&str; 22] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "f2fs", "zfs", "bcachefs", "vfat", "exfat", "ntfs3",
    "ramfs", "reiserfs", "jfs", "hfsplus", "nilfs2", "iso9660", "squashfs", "erofs", "ecryptfs",
];

/// The lock file, found but not opened: `O_PATH` needs no permission to read it, has no effect on it and
/// does not wait for the other end of a FIFO (open(2)).
pub(crate) struct LockFile {
    pub(crate) path_fd: OwnedFd,
    pub(crate) key: LockKey,
    /// What it is, unless it is a regular file.
    pub(crate) irregular: Option<&'static str>,
    pub(crate) stat_id: StatId,
    pub(crate) mount: Mount,
}

/// Where the locks of a file are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locks {
    /// In this kernel's table.
    Local,
    /// On an NFS server.
    Nfs,
    /// On an SMB server.
    Smb,
    /// Unknown: FUSE, 9p, Ceph and others.
    Elsewhere,
}

/// Finds the lock file; None when there is none.
pub(crate) fn find(lock: &Path) -> io::Result<Option<LockFile>> {
    let path_fd = match open(lock, OFlags::PATH) {
        Err(Errno::NOENT) => {
            refresh_names(lock);
            open(lock, OFlags::PATH)
        }
        Ok(file) if irregular(&file)?.is_none() && is_nfs(&file) => {
            // Only an open for reading asks the server whether the name is another file's now.
            _ = open(lock, OFlags::RDONLY | OFlags::DIRECT | OFlags::NONBLOCK | OFlags::NOCTTY);
            open(lock, OFlags::PATH)
        }
        opened => opened,
    };
    let path_fd = match path_fd {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let irregular = irregular(&path_fd)?;
    let stat_id = stat_id(&path_fd, "", AtFlags::EMPTY_PATH)?;
    let MountedFile { mount, inode } = mounts::find(&path_fd)?;
    let key = LockKey { major: mount.major, minor: mount.minor, inode: inode.unwrap_or(stat_id.2) };
    Ok(Some(LockFile { path_fd, key, irregular, stat_id, mount }))
}

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}

fn is_nfs(file: impl AsFd) -> bool {
    fstatfs(file).is_ok_and(|stat| stat.f_type == NFS_SUPER_MAGIC)
}

/// An NFS client remembers that a name did not exist, for half a minute or longer: only to list the folder makes it
/// ask the server (measured with Linux 6.12 and 7.3).
fn refresh_names(lock: &Path) {
    if let Some(folder) = lock.parent().filter(|folder| open(folder, OFlags::PATH).is_ok_and(is_nfs)) {
        _ = std::fs::read_dir(folder).map(Iterator::count);
    }
}

/// Whether all locks of a file system are in this kernel's table.
pub(crate) fn has_local_locks(mount: &Mount) -> bool {
    LOCAL_FILE_SYSTEMS.contains(&&mount.fs_type[..])
}

/// Whether no two files of a file system have the same key: a btrfs snapshot's have, and so may those of overlayfs.
pub(crate) fn has_unique_keys(mount: &Mount) -> bool {
    !matches!(&mount.fs_type[..], "btrfs" | "overlay")
}

impl LockFile {
    /// Whether `lock` still names this file.
    pub(crate) fn is_at(&self, lock: &Path) -> bool {
        stat_id(CWD, lock, AtFlags::empty()).is_ok_and(|now| now == self.stat_id)
    }

    pub(crate) fn locks(&self) -> Locks {
        match &self.mount.fs_type[..] {
            "nfs" | "nfs4" => Locks::Nfs,
            "cifs" | "smb3" => Locks::Smb,
            _ if has_local_locks(&self.mount) => Locks::Local,
            _ => Locks::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty file, as if it were on such a file system.
    fn file_on(fs_type: &str) -> LockFile {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lock"), "").unwrap();
        let mut file = find(&folder.path().join("lock")).unwrap().unwrap();
        file.mount.fs_type = fs_type.to_owned();
        file
    }

    #[test]
    fn the_file_system_says_where_the_locks_are() {
        for (fs_type, locks, is_unique) in [
            ("ext4", Locks::Local, true),
            ("btrfs", Locks::Local, false),
            ("overlay", Locks::Local, false),
            ("nfs", Locks::Nfs, true),
            ("nfs4", Locks::Nfs, true),
            ("cifs", Locks::Smb, true),
            ("smb3", Locks::Smb, true),
            ("fuse.sshfs", Locks::Elsewhere, true),
        ] {
            let file = file_on(fs_type);
            assert_eq!((file.locks(), has_unique_keys(&file.mount)), (locks, is_unique), "{fs_type}");
            assert_eq!(has_local_locks(&file.mount), locks == Locks::Local, "{fs_type}");
            assert!(!is_nfs(&file.path_fd), "wherever this runs");
        }
    }

    #[test]
    fn a_file_that_is_replaced_is_no_longer_there() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        assert!(find(&lock).unwrap().is_none());
        std::fs::write(&lock, "").unwrap();
        let file = find(&lock).unwrap().unwrap();
        assert!(file.is_at(&lock) && file.irregular.is_none());
        std::fs::rename(&lock, folder.path().join("aside")).unwrap();
        assert!(!file.is_at(&lock));
        std::fs::write(&lock, "").unwrap();
        assert!(!file.is_at(&lock));
        assert!(find(folder.path()).unwrap().unwrap().irregular.is_some());
    }
}
