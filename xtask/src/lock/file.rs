//! From the lock's path to its inode, as the kernel's lock table names it.
//!
//! The table shows the device of the super block, which `stat` does not report on btrfs and overlayfs.
//! The mount's device in `/proc/self/mountinfo` is the right one.

use crate::lock::table::LockKey;
use crate::sys::file::{StatId, irregular, stat_id};
use crate::sys::mounts::{self, MountedFile};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
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
    /// Its locks are all in this kernel's table.
    pub(crate) is_local: bool,
    /// What it is, unless it is a regular file.
    pub(crate) irregular: Option<&'static str>,
    pub(crate) stat_id: StatId,
}

/// Finds the lock file; None when there is none.
pub(crate) fn find(lock: &Path) -> io::Result<Option<LockFile>> {
    let path_fd = match openat(CWD, lock, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let irregular = irregular(&path_fd)?;
    let stat_id = stat_id(&path_fd, "", AtFlags::EMPTY_PATH)?;
    let MountedFile { mount, inode } = mounts::find(&path_fd)?;
    let key = LockKey { major: mount.major, minor: mount.minor, inode: inode.unwrap_or(stat_id.2) };
    let is_local = LOCAL_FILE_SYSTEMS.contains(&&mount.fs_type[..]);
    Ok(Some(LockFile { path_fd, key, is_local, irregular, stat_id }))
}

/// Whether `lock` still names the file that was found there.
pub(crate) fn still_names(lock: &Path, file: &LockFile) -> bool {
    stat_id(CWD, lock, AtFlags::empty()).is_ok_and(|now| now == file.stat_id)
}
