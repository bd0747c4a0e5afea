//! Reading files that others wrote: regular files only, at most so many bytes.
//!
//! Archive folders are shared. A FIFO in a file's place would hang a plain read
//! for ever, a device might act on being opened, and a large file would fill the
//! memory. So the path is first opened `O_PATH`, which only looks it up (open(2)),
//! and opened for reading only when it is a regular file.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// There is no such file.
    Missing,
    /// It is not a regular file but this ("a FIFO").
    NotAFile(&'static str),
    /// It holds more than this many bytes.
    TooLarge(u64),
    /// The kernel refused.
    Io(io::Error),
}

/// Whether a symbolic link in the last place of a path is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Missing => write!(f, "no such file"),
            ReadError::NotAFile(kind) => write!(f, "it is {kind}, not a regular file"),
            ReadError::TooLarge(limit) => write!(f, "it is larger than {limit} bytes"),
            ReadError::Io(error) => write!(f, "{}", plain(error)),
        }
    }
}

impl std::error::Error for ReadError {}

/// The whole of a regular file that holds at most `limit` bytes.
pub(crate) fn read(path: &Path, links: Links, limit: u64) -> Result<Vec<u8>, ReadError> {
    let (bytes, cut) = start_of(open_regular(path, links)?, limit, |size| size > limit)?;
    if cut { Err(ReadError::TooLarge(limit)) } else { Ok(bytes) }
}

/// At most the first `limit` bytes of a regular file, and whether there was more.
pub(crate) fn read_start(path: &Path, links: Links, limit: u64) -> Result<(Vec<u8>, bool), ReadError> {
    start_of(open_regular(path, links)?, limit, |_| false)
}

fn start_of(file: File, limit: u64, refuses: impl Fn(u64) -> bool) -> Result<(Vec<u8>, bool), ReadError> {
    // Not even begun: most of it would be read for nothing.
    if refuses(file.metadata().map_err(ReadError::Io)?.len()) {
        return Err(ReadError::TooLarge(limit));
    }
    let mut bytes = Vec::new();
    (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    let cut = bytes.len() as u64 > limit;
    bytes.truncate(limit as usize);
    Ok((bytes, cut))
}

fn open_regular(path: &Path, links: Links) -> Result<File, ReadError> {
    let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    if links == Links::Refuse {
        flags |= OFlag::O_NOFOLLOW;
    }
    let found = match open(path, flags, Mode::empty()) {
        Ok(found) => found,
        Err(nix::errno::Errno::ENOENT) => return Err(ReadError::Missing),
        Err(errno) => return Err(ReadError::Io(errno.into())),
    };
    match irregular(&found).map_err(ReadError::Io)? {
        Some(kind) => Err(ReadError::NotAFile(kind)),
        None => reopen(&found).map_err(ReadError::Io),
    }
}

/// What an open file is if it is not a regular file.
pub(crate) fn irregular(file: impl AsFd) -> io::Result<Option<&'static str>> {
    Ok(kind_of(fstat(file)?.st_mode))
}

/// What the file type in a mode says, unless it is a regular file.
pub(crate) fn kind_of(mode: nix::libc::mode_t) -> Option<&'static str> {
    match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => None,
        SFlag::S_IFDIR => Some("a folder"),
        SFlag::S_IFLNK => Some("a symbolic link"),
        SFlag::S_IFIFO => Some("a FIFO"),
        SFlag::S_IFSOCK => Some("a socket"),
        SFlag::S_IFCHR | SFlag::S_IFBLK => Some("a device"),
        _ => Some("something else"),
    }
}

/// The same file, opened for reading: through `/proc/self/fd`, so that nobody can
/// put another in its place between the look and the open.
pub(crate) fn reopen(found: &OwnedFd) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    match open(format!("/proc/self/fd/{}", found.as_raw_fd()).as_str(), flags, Mode::empty()) {
        Ok(opened) => Ok(opened.into()),
        Err(nix::errno::Errno::ENOENT) => {
            Err(io::Error::other("it cannot be opened without /proc, which is not mounted"))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// An I/O error without Rust's `(os error N)`.
pub(crate) fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::mkfifo;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        let said = |name: &str, links, limit| match read(&at(name), links, limit) {
            Ok(bytes) => String::from_utf8(bytes).unwrap(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said("file", Links::Refuse, 5), "12345");
        assert_eq!(said("file", Links::Refuse, 4), "it is larger than 4 bytes");
        assert_eq!(said("link", Links::Follow, 9), "12345");
        assert_eq!(said("link", Links::Refuse, 9), "it is a symbolic link, not a regular file");
        assert_eq!(said("fifo", Links::Follow, 9), "it is a FIFO, not a regular file");
        assert_eq!(said(".", Links::Follow, 9), "it is a folder, not a regular file");
        assert_eq!(said("none", Links::Follow, 9), "no such file");
        assert_eq!(said("file/x", Links::Follow, 9), "not a directory");
        assert_eq!(read_start(&at("file"), Links::Follow, 2).unwrap(), (b"12".to_vec(), true));
    }
}
