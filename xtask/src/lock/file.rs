//! From the lock's path to its inode, as the kernel's lock table names it.
//!
//! The table shows the device of the super block, which `stat` does not report on btrfs and overlayfs.
//! The mount's device in `/proc/self/mountinfo` is the right one.

use crate::lock::table::LockKey;
use crate::sys::file::{StatId, irregular, stat_id};
use crate::sys::mounts::{self, MountedFile};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstatfs, openat};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// File systems whose locks are all in this kernel's table: their `f_type` (statfs(2)). Any other counts
/// as remote, which costs a closer look but never a wrong answer.
const LOCAL_FILE_SYSTEMS: [i64; 20] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0x794C_7630, // overlayfs
    0xF2F5_2010, // f2fs
    0x2FC1_2FC1, // zfs
    0xCA45_1A4E, // bcachefs
    0x4D44,      // vfat
    0x2011_BAB0, // exfat
    0x7366_746E, // ntfs3
    0x8584_58F6, // ramfs
    0x5265_4973, // reiserfs
    0x3153_464A, // jfs
    0x482B,      // hfsplus
    0x3434,      // nilfs2
    0x9660,      // iso9660
    0x7371_7368, // squashfs
    0xE0F5_E1E2, // erofs
    0xF15F,      // ecryptfs
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
    let is_local = LOCAL_FILE_SYSTEMS.contains(&fstatfs(&path_fd)?.f_type);
    Ok(Some(LockFile { path_fd, key, is_local, irregular, stat_id }))
}

/// Whether `lock` still names the file that was found there.
pub(crate) fn still_names(lock: &Path, file: &LockFile) -> bool {
    stat_id(CWD, lock, AtFlags::empty()).is_ok_and(|now| now == file.stat_id)
}
