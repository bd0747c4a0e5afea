//! The mount table, `/proc/self/mountinfo` (proc(5)).

use crate::sys::procfs;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its number in this mount namespace.
    pub(crate) id: u64,
    /// The super block's device, as the lock table names it.
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// What is mounted: a device's path, a server's, or just a name.
    pub(crate) source: OsString,
    /// The type of the file system, such as `ext4`.
    pub(crate) fs_type: String,
    /// The options of the file system, separated by commas.
    pub(crate) options: String,
}

/// A file as the kernel's own tables name it.
pub(crate) struct MountedFile {
    pub(crate) mount: Mount,
    /// None before Linux 5.14, which does not show it.
    pub(crate) inode: Option<u64>,
}

/// Finds the mount of an open file, perhaps an `O_PATH` one.
pub(crate) fn find(file: impl AsFd) -> io::Result<MountedFile> {
    let fdinfo = procfs::read(&format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd()))?;
    let unknown_mount = || io::Error::other("its mount is not in /proc/self/mountinfo");
    let id = fdinfo_number(&fdinfo, "mnt_id:").ok_or_else(unknown_mount)?;
    let mountinfo = procfs::read("/proc/self/mountinfo")?;
    let mount = mountinfo.lines().filter_map(parse).find(|mount| mount.id == id).ok_or_else(unknown_mount)?;
    Ok(MountedFile { mount, inode: fdinfo_number(&fdinfo, "ino:") })
}

/// All mounts that can be seen from here.
pub(crate) fn all() -> io::Result<Vec<Mount>> {
    Ok(procfs::read("/proc/self/mountinfo")?.lines().filter_map(parse).collect())
}

fn fdinfo_number(fdinfo: &str, key: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

/// Parses a line: id, parent, `major:minor` in decimal, root, mount point, mount options, any number of tags,
/// `-`, type, source, options of the file system.
fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let id = fields.next()?.parse().ok()?;
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let point = fields.nth(1)?;
    let mut fields = fields.skip_while(|&field| field != "-").skip(1);
    let (fs_type, source) = (fields.next()?.to_owned(), fields.next().unwrap_or_default());
    let options = fields.next().unwrap_or_default().to_owned();
    Some(Mount {
        id,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        point: unescaped(point).into(),
        source: unescaped(source),
        fs_type,
        options,
    })
}

/// Decodes blank, tab, newline and backslash, which are written as `\` and three octal digits.
fn unescaped(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        let code = digits.map(|digits| digits.iter().fold(0, |code: u32, digit| code * 8 + u32::from(digit - b'0')));
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOUNTINFO: &str = "\
        27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        270 27 0:58 / /mnt/with\\040blank\\134 rw - overlay overlay rw,lowerdir=/l\n\
        28 27 0:25 /snap /b rw,relatime - btrfs /dev/loop0 rw,subvol=/snap\n";

    fn mount(id: u64) -> Option<Mount> {
        MOUNTINFO.lines().filter_map(parse).find(|mount| mount.id == id)
    }

    #[test]
    fn the_device_is_that_of_the_very_mount() {
        let device = |id| mount(id).map(|mount| (mount.major, mount.minor));
        assert_eq!(device(27), Some((254, 0)));
        assert_eq!(device(270), Some((0, 58)));
        assert_eq!(device(28), Some((0, 25)));
        assert_eq!(device(2), None);
    }

    #[test]
    fn mount_points_and_sources_are_as_the_user_knows_them() {
        let names = |id| mount(id).map(|mount| (mount.point, mount.source, mount.fs_type)).unwrap();
        assert_eq!(names(27), (PathBuf::from("/"), OsString::from("/dev/vda"), "ext4".to_owned()));
        assert_eq!(names(270), (PathBuf::from("/mnt/with blank\\"), OsString::from("overlay"), "overlay".to_owned()));
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
        fn any_mountinfo_is_read_without_panic(text: String) {
            parse(&text);
            unescaped(&text);
        }
    }
}
