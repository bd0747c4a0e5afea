//! From a path to the inode as the kernel's lock table names it.
//!
//! `stat` cannot tell: on btrfs and overlayfs its device is not the super block's,
//! which is what `/proc/locks` prints. The mount's device in `/proc/self/mountinfo` is.

use crate::bounded;
use crate::lock::mounts::{self, Place};
use crate::lock::table::LockKey;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// File systems on which every lock of every program is this kernel's, so that its
/// table is the whole truth: their `f_type` (statfs(2)). Any other is taken for
/// remote, which costs a closer look and never a wrong answer.
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

/// The lock file, found and not opened: `O_PATH` needs no permission to read it, has
/// no effect on it, and does not wait for a FIFO's other end (open(2)).
pub(crate) struct LockFile {
    pub(crate) path_fd: OwnedFd,
    pub(crate) key: LockKey,
    /// Its locks are all in this kernel's table.
    pub(crate) is_local: bool,
    /// What it is, if it is not a regular file.
    pub(crate) irregular: Option<&'static str>,
    /// Device and inode as `stat` tells them: good only for comparing with others of `stat`.
    pub(crate) stat_id: StatId,
}

/// `stx_dev_major`, `stx_dev_minor`, `stx_ino` of statx(2).
pub(crate) type StatId = (u32, u32, u64);

/// Finds the lock file; None when there is none.
pub(crate) fn find(lock: &Path) -> io::Result<Option<LockFile>> {
    let path_fd = match open(lock, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(path_fd) => path_fd,
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let irregular = bounded::irregular(&path_fd)?;
    let stat_id = stat_id(&path_fd, "", AtFlags::EMPTY_PATH)?;
    let Place { mount, inode } = mounts::place(&path_fd)?;
    let key = LockKey { major: mount.major, minor: mount.minor, inode: inode.unwrap_or(stat_id.2) };
    let file_system = fstatfs(&path_fd)?.filesystem_type().0;
    let is_local = LOCAL_FILE_SYSTEMS.iter().any(|&local| i128::from(local) == i128::from(file_system));
    Ok(Some(LockFile { key, path_fd, is_local, irregular, stat_id }))
}

/// Whether `lock` still names the file that was found there.
pub(crate) fn still_names(lock: &Path, file: &LockFile) -> bool {
    stat_id(rustix::fs::CWD, lock, AtFlags::empty()).is_ok_and(|now| now == file.stat_id)
}

/// Identifies a file without asking a server: a mount that hangs must not hang us.
pub(crate) fn stat_id(folder: impl AsFd, name: impl rustix::path::Arg, flags: AtFlags) -> io::Result<StatId> {
    let stat = statx(folder, name, flags | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}
