//! What the kernel says about the lock, without taking it.
//!
//! A probe that takes the lock, even for microseconds, makes a scrape that starts at that moment fail,
//! and two status runs would see each other. So the kernel's table is read, and an NFS server is asked; only
//! where neither proves anything is the lock taken, shared and for a moment.

use crate::lock::file::LockFile;
use crate::lock::table::{Entry, LockKey, LockType, entries_with};
use crate::sys::mounts::{self, Mount};
use crate::sys::procfs;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, flock, fstatfs, openat, openat2};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A table of at most this size comes in one piece: `read` gives whole lines up to a page of 4,096 bytes
/// (seq_read_iter in the kernel's fs/seq_file.c), except for a lock that has many waiters.
const ONE_PIECE_MAX_BYTES: usize = 2048;

/// Sizes of the pieces in which a longer table is read, a size a reading: its lines shift between two pieces,
/// and one may fall through the gap, but not through five gaps at different places.
const PIECE_BYTES: [usize; 5] = [4096, 3500, 2900, 2300, 1700];

/// After a shared lock was seen it is looked at once more: it may be the probe of another status run.
const SHARED_LOCK_RECHECK: Duration = Duration::from_millis(50);

/// How long a client's delegation may take to be recalled, and how often that is looked at.
const RECALL_TIMEOUT: Duration = Duration::from_secs(2);
const RECALL_INTERVAL: Duration = Duration::from_millis(10);

/// What the table says about one file.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: Vec<Entry>,
    /// The file has no other entries. That proves something only in the initial PID namespace.
    pub(crate) is_whole: bool,
}

impl Table {
    /// Reads the locks of a file, which may have several keys. A line that is there is the truth; that one is not
    /// there takes more to prove.
    pub(crate) fn read(keys: &[LockKey], until: Instant) -> io::Result<Table> {
        let is_shared = |entry: &Entry| entry.is_waiter || (entry.lock_type == LockType::Flock && !entry.is_exclusive);
        let table = Table::default().read_more(&columns(keys), &PIECE_BYTES[..1], until)?;
        if table.entries.is_empty() || !table.entries.iter().all(is_shared) {
            return Ok(table);
        }
        pause(SHARED_LOCK_RECHECK);
        Table::default().read_more(&columns(keys), &PIECE_BYTES[..1], until)
    }

    /// Reads on until a lock of the file cannot have been missed.
    pub(crate) fn prove(self, keys: &[LockKey], until: Instant) -> io::Result<Table> {
        let is_proven = self.is_whole || !self.entries.is_empty();
        if is_proven {
            Ok(self)
        } else {
            Ok(Table { is_whole: true, ..self.read_more(&columns(keys), &PIECE_BYTES[1..], until)? })
        }
    }

    /// Reads the locks of all files of a device, until none can have been missed.
    pub(crate) fn read_device(major: u32, minor: u32, until: Instant) -> io::Result<Table> {
        let column = LockKey::start_of_column(major, minor);
        Ok(Table { is_whole: true, ..Table::default().read_more(&[column], &PIECE_BYTES, until)? })
    }

    /// Adds readings of `/proc/locks` in pieces of these sizes, until one was short: that came in one piece, and
    /// nothing can have been missed.
    fn read_more(self, columns: &[String], pieces_bytes: &[usize], until: Instant) -> io::Result<Table> {
        let mut known: HashSet<Entry> = self.entries.into_iter().collect();
        for &piece_bytes in pieces_bytes {
            if read_table(piece_bytes, until, |lines| {
                known.extend(columns.iter().flat_map(|column| entries_with(lines, column)))
            })? {
                return Ok(Table { entries: known.into_iter().collect(), is_whole: true });
            }
        }
        Ok(Table { entries: known.into_iter().collect(), is_whole: false })
    }

    /// Whether a lock keeps scrapes out.
    pub(crate) fn is_held(&self) -> bool {
        self.entries.iter().any(Entry::keeps_out_scrapes)
    }

    pub(crate) fn waiters(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_waiter).count()
    }

    /// Held only by fcntl(2), which does not exclude a flock on this machine.
    pub(crate) fn is_fcntl_lock(&self) -> bool {
        self.is_held() && !self.entries.iter().any(|entry| entry.lock_type == LockType::Flock && !entry.is_waiter)
    }

    /// A client of this NFS server may hold the lock, unseen.
    pub(crate) fn has_delegation(&self) -> bool {
        self.entries.iter().any(|entry| entry.lock_type == LockType::Delegation)
    }
}

fn columns(keys: &[LockKey]) -> Vec<String> {
    keys.iter().map(|key| key.column()).collect()
}

/// Reads the table in pieces of this size and gives whole lines to `take`. The result is whether it came in one
/// piece: beyond the end the kernel has to go through all lines at once, and would give those that were missed.
fn read_table(piece_bytes: usize, until: Instant, mut take: impl FnMut(&str)) -> io::Result<bool> {
    let file = open()?;
    let mut piece = vec![0; piece_bytes];
    let (mut lines, mut length) = (Vec::new(), 0);
    while let read @ 1.. = file.read_at(&mut piece, length as u64)? {
        length += read;
        lines.extend_from_slice(&piece[..read]);
        // A piece may end within the line of a lock with many waiters.
        let whole_lines = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        take(&String::from_utf8_lossy(&lines[..whole_lines]));
        lines.drain(..whole_lines);
        if Instant::now() > until {
            return Err(io::Error::other("/proc/locks is too long to be read in time"));
        }
    }
    let is_short = length <= ONE_PIECE_MAX_BYTES;
    Ok(is_short && file.read_at(&mut piece, length as u64 + 1)? == 0 && file.read_at(&mut piece, 0)? == length)
}

/// Opens the table itself: in a container something else may be mounted over it.
fn open() -> io::Result<File> {
    let proc = openat(CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if fstatfs(&proc)?.f_type != PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc is something else"));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat2(proc, "locks", flags, Mode::empty(), ResolveFlags::NO_XDEV)?.into())
}

/// Whether somebody holds the lock exclusively, found out by taking it shared for a moment. An SMB server
/// says EACCES instead of EWOULDBLOCK.
pub(crate) fn probe(file: &LockFile) -> io::Result<bool> {
    #[expect(clippy::disallowed_methods, reason = "the last resort, and only there")]
    match flock(reopen(file)?, FlockOperation::NonBlockingLockShared) {
        // Closing the descriptor released it.
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK | Errno::ACCESS) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Asks whether a write lock of the whole file, which is what a client's flock is on an NFS server, would be
/// refused. Takes nothing. `l_pid` of the answer is worthless.
pub(crate) fn would_be_refused(file: &LockFile) -> io::Result<bool> {
    let mut wanted = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    #[expect(clippy::disallowed_methods, reason = "F_OFD_GETLK takes no lock")]
    fcntl(reopen(file)?, FcntlArg::F_OFD_GETLK(&mut wanted))?;
    Ok(wanted.l_type != libc::F_UNLCK as libc::c_short)
}

/// Opens the file for reading, without the delegation that an NFS server would give: if this host died then,
/// the next scrape elsewhere would have to wait for it.
fn reopen(file: &LockFile) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.path_fd.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match openat(CWD, &path, flags | OFlags::DIRECT, Mode::empty()) {
        Err(Errno::INVAL) => Ok(openat(CWD, &path, flags, Mode::empty())?),
        opened => Ok(opened?),
    }
}

/// Recalls the delegations of this NFS server's clients, which may hide a client's lock: to open the file does that.
/// False if a client does not give it back.
pub(crate) fn recall(file: &LockFile) -> io::Result<bool> {
    let until = Instant::now() + RECALL_TIMEOUT;
    loop {
        match reopen(file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => pause(RECALL_INTERVAL),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            opened => return opened.map(|_| true),
        }
    }
}

/// Whether an NFS server on this machine waits for its clients to tell their locks again, after a restart.
pub(crate) fn is_in_grace() -> bool {
    procfs::read("/proc/fs/nfsd/v4_end_grace").is_ok_and(|ended| ended.trim() == "N")
}

/// The keys of a file on all mounts of its NFS server: one export may be mounted twice, as different devices.
pub(crate) fn keys_on_server(file: &LockFile) -> io::Result<Vec<LockKey>> {
    let server = |mount: &Mount| mount.source.to_string_lossy().split(":/").next().map(str::to_owned);
    let is_twin = |mount: &Mount| mount.fs_type.starts_with("nfs") && server(mount) == server(&file.mount);
    let twins = mounts::all()?.into_iter().filter(is_twin);
    let mut keys = vec![file.key];
    for key in twins.map(|mount| LockKey { major: mount.major, minor: mount.minor, ..file.key }) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

fn pause(duration: Duration) {
    #[expect(clippy::disallowed_methods, reason = "nothing says when another process or host releases a lock")]
    std::thread::sleep(duration);
}
