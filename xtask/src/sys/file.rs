//! Reads files that somebody else wrote: only regular files, only a bounded number of bytes.
//!
//! Archive folders are shared. A FIFO in place of a file would hang a plain read for ever, opening a
//! device may have an effect, and a large file would fill the memory. So a path is first opened with
//! `O_PATH`, which only looks it up (open(2)), and opened for reading only if it is a regular file.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long a lease or an NFS client's delegation may take to be given back (fcntl(2), "Leases").
const LEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of symbolic links followed.
const MAX_LINKS: usize = 8;

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Missing,
    /// It is not a regular file but this ("a FIFO").
    NotAFile(&'static str),
    /// It is larger than this, in bytes.
    TooLarge(u64),
    Io(io::Error),
}

/// Whether a symbolic link at the end of a path is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

impl Links {
    fn flags(self) -> OFlags {
        if self == Links::Refuse { OFlags::NOFOLLOW } else { OFlags::empty() }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Missing => write!(f, "no such file"),
            ReadError::NotAFile(kind) => write!(f, "it is {kind}, not a regular file"),
            ReadError::TooLarge(limit) => write!(f, "it is larger than {limit} bytes"),
            ReadError::Io(error) => f.write_str(&plain(error)),
        }
    }
}

impl std::error::Error for ReadError {}

impl ReadError {
    fn of(errno: Errno) -> ReadError {
        if errno == Errno::NOENT { ReadError::Missing } else { ReadError::Io(errno.into()) }
    }
}

/// The whole of a regular file that holds at most `max_bytes`.
pub(crate) fn read(path: &Path, links: Links, max_bytes: u64) -> Result<Vec<u8>, ReadError> {
    let file = open_regular(path, links)?;
    // A file that is too large is not even begun.
    let is_larger = file.metadata().map_err(ReadError::Io)?.len() > max_bytes;
    let (bytes, is_cut) = if is_larger { (Vec::new(), true) } else { read_up_to(&file, max_bytes)? };
    if is_cut { Err(ReadError::TooLarge(max_bytes)) } else { Ok(bytes) }
}

/// At most the first `max_bytes` of a regular file.
pub(crate) fn read_start(path: &Path, links: Links, max_bytes: u64) -> Result<Vec<u8>, ReadError> {
    Ok(read_up_to(&open_regular(path, links)?, max_bytes)?.0)
}

/// The two ends of a file.
pub(crate) struct Ends {
    pub(crate) start: Vec<u8>,
    /// None if the start is the whole file.
    pub(crate) end: Option<Vec<u8>>,
}

/// The first and the last `piece` bytes of a file, or the whole of one that is no longer than both.
pub(crate) fn ends(file: &File, piece: usize) -> io::Result<Ends> {
    let length = file.metadata()?.len();
    if length <= 2 * piece as u64 {
        return Ok(Ends { start: read_at(file, 0, 2 * piece)?, end: None });
    }
    Ok(Ends { start: read_at(file, 0, piece)?, end: Some(read_at(file, length - piece as u64, piece)?) })
}

/// At most `max_bytes` of a file, from `offset` on.
pub(crate) fn read_at(file: &File, offset: u64, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    append_at(file, offset, max_bytes, &mut bytes)?;
    Ok(bytes)
}

/// Appends them to what has been read; gives how many they are.
pub(crate) fn append_at(file: &File, offset: u64, max_bytes: usize, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let (start, mut length) = (bytes.len(), 0);
    bytes.resize(start + max_bytes, 0);
    while let more @ 1.. = file.read_at(&mut bytes[start + length..], offset + length as u64)? {
        length += more;
    }
    bytes.truncate(start + length);
    Ok(length)
}

/// Opens a file in an open folder; what is no regular file by then is refused, as is a link.
pub(crate) fn open_in(folder: impl AsFd, name: &CStr) -> Result<File, ReadError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(folder, name, flags, Mode::empty()).map_err(ReadError::of)?;
    match irregular(&file).map_err(ReadError::Io)? {
        Some(kind) => Err(ReadError::NotAFile(kind)),
        None => Ok(file.into()),
    }
}

/// Opens a folder, to list it.
pub(crate) fn open_folder(path: &Path, links: Links) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | links.flags();
    Ok(Dir::new(openat(CWD, path, flags, Mode::empty())?)?)
}

/// When a file was last written, to the second; None where no clock reaches. That can be set forward, but the time of
/// the last change of the inode cannot, and is no earlier than the last write.
pub(crate) fn written_at(stat: &Stat) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(stat.st_mtime.min(stat.st_ctime).max(0) as u64))
}

/// At most `max_bytes` of a file that neither blocks nor tells its size, as in `/proc`.
pub(crate) fn read_special(path: &str, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    #[expect(clippy::disallowed_methods, reason = "bounded by `take`")]
    File::open(path)?.take(max_bytes).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bytes, and whether there were more.
fn read_up_to(file: &File, max_bytes: u64) -> Result<(Vec<u8>, bool), ReadError> {
    let mut bytes = Vec::new();
    #[expect(clippy::disallowed_methods, reason = "bounded by `take`")]
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    let is_cut = bytes.len() as u64 > max_bytes;
    bytes.truncate(max_bytes as usize);
    Ok((bytes, is_cut))
}

/// Opens a regular file for reading.
pub(crate) fn open_regular(path: &Path, links: Links) -> Result<File, ReadError> {
    let found = openat(CWD, path, links.flags() | OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let found = found.map_err(ReadError::of)?;
    match irregular(&found).map_err(ReadError::Io)? {
        Some(kind) => Err(ReadError::NotAFile(kind)),
        None => reopen(&found).map_err(ReadError::Io),
    }
}

/// What an open file is, unless it is a regular file.
pub(crate) fn irregular(file: impl AsFd) -> io::Result<Option<&'static str>> {
    Ok(match FileType::from_raw_mode(fstat(file)?.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a folder"),
        FileType::Symlink => Some("a symbolic link"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        FileType::Unknown => Some("something unknown"),
    })
}

/// Opens for reading what an `O_PATH` descriptor refers to. It goes through `/proc/self/fd`, so that
/// nobody can put another file in its place in between.
fn reopen(found: &OwnedFd) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let until = Instant::now() + LEASE_TIMEOUT;
    loop {
        match openat(CWD, format!("/proc/self/fd/{}", found.as_raw_fd()), flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                return Err(io::Error::other("it cannot be opened without /proc, which is not mounted"));
            }
            Err(Errno::AGAIN) if Instant::now() < until => std::thread::yield_now(),
            opened => return Ok(opened?.into()),
        }
    }
}

/// Device and inode as statx(2) reports them (`stx_dev_major`, `stx_dev_minor`, `stx_ino`). Good only for
/// comparing with others from statx.
pub(crate) type StatId = (u32, u32, u64);

/// Identifies a file without asking a server: a mount that hangs must not hang us.
pub(crate) fn stat_id(folder: impl AsFd, name: impl rustix::path::Arg, flags: AtFlags) -> io::Result<StatId> {
    use rustix::fs::{StatxFlags, statx};
    let stat = statx(folder, name, flags | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

/// Where the links at a path lead, whether or not there is anything.
pub(crate) fn followed(path: &Path) -> PathBuf {
    let mut at = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(target) = std::fs::read_link(&at) else { break };
        at = at.parent().unwrap_or(Path::new("/")).join(target);
    }
    at
}

/// Removes a file, or does nothing if there is none.
pub(crate) fn remove_if_present(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An I/O error as a lowercase fragment, without Rust's `(os error N)`.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error ").map_or(text.clone(), |(text, _)| text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mknodat;

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
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
        assert_eq!(read_start(&at("file"), Links::Follow, 2).unwrap(), b"12");
    }
}
