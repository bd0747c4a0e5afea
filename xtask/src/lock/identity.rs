//! From a path to the inode as the kernel's lock table names it.
//!
//! `stat` cannot tell: on btrfs and overlayfs its device is not the super block's,
//! which is what `/proc/locks` prints. The mount's device in `/proc/self/mountinfo` is.

use crate::bounded;
use crate::lock::proc;
use crate::lock::table::LockKey;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
    let fdinfo = proc::read(&format!("/proc/self/fdinfo/{}", path_fd.as_raw_fd()))?;
    let unknown_mount = || io::Error::other("its mount is not in /proc/self/mountinfo");
    let mount_id = fdinfo_number(&fdinfo, "mnt_id:").ok_or_else(unknown_mount)?;
    let (major, minor) = mount_device(&proc::read("/proc/self/mountinfo")?, mount_id).ok_or_else(unknown_mount)?;
    // Kernels before 5.14 do not print `ino:`.
    let inode = fdinfo_number(&fdinfo, "ino:").unwrap_or(stat_id.2);
    let file_system = fstatfs(&path_fd)?.filesystem_type().0;
    let is_local = LOCAL_FILE_SYSTEMS.iter().any(|&local| i128::from(local) == i128::from(file_system));
    Ok(Some(LockFile { key: LockKey { major, minor, inode }, path_fd, is_local, irregular, stat_id }))
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

fn fdinfo_number(fdinfo: &str, key: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// `major:minor`, in decimal, of the mount with this id: fields 3 and 1 (proc(5)).
fn mount_device(mountinfo: &str, mount_id: u64) -> Option<(u32, u32)> {
    let device = mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next()?.parse() == Ok(mount_id)).then(|| fields.nth(1))?
    })?;
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOUNTINFO: &str = "\
        27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        270 27 0:58 / /mnt/with\\040blank rw - overlay overlay rw,lowerdir=/l\n\
        28 27 0:25 /snap /b rw,relatime - btrfs /dev/loop0 rw,subvol=/snap\n";

    #[test]
    fn the_device_is_that_of_the_very_mount() {
        assert_eq!(mount_device(MOUNTINFO, 27), Some((254, 0)));
        assert_eq!(mount_device(MOUNTINFO, 270), Some((0, 58)));
        assert_eq!(mount_device(MOUNTINFO, 28), Some((0, 25)));
        assert_eq!(mount_device(MOUNTINFO, 2), None);
    }

    #[test]
    fn fdinfo_numbers_are_read() {
        let fdinfo = "pos:\t0\nflags:\t012000000\nmnt_id:\t27\nino:\t10010645\n";
        assert_eq!(fdinfo_number(fdinfo, "mnt_id:"), Some(27));
        assert_eq!(fdinfo_number(fdinfo, "ino:"), Some(10010645));
        assert_eq!(fdinfo_number("pos:\t0\n", "ino:"), None);
    }

    proptest! {
        #[test]
        fn any_mountinfo_is_read_without_panic(text: String, id: u64) {
            mount_device(&text, id);
        }
    }
}
