//! What the kernel says about the lock, without taking it.
//!
//! A probe that takes the lock, even for microseconds, makes a scrape that starts at that moment fail,
//! and two status runs would see each other. So the kernel's table is read instead, and an absence from
//! it is believed only where it proves something.

use crate::lock::file::{self, LockFile};
use crate::lock::holders::{self, Search};
use crate::lock::table::{Entry, LockKey, LockType, entries_about};
use crate::sys::file::{plain, reopen};
use crate::sys::procfs;
use rustix::fs::{FlockOperation, PROC_SUPER_MAGIC, flock, fstatfs};
use rustix::io::Errno;
use serde::Serialize;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// A table of at most this size came in one piece: `read` gives whole lines up to a page of 4,096 bytes
/// (seq_read_iter in the kernel's fs/seq_file.c), and this leaves room for a line that did not fit because
/// many wait for its lock.
const ONE_PIECE_MAX_BYTES: usize = 2048;

/// Equal readings of a longer table that prove an absence.
const EQUAL_READINGS: usize = 3;

/// Readings of a table that keeps changing. They miss a held lock about once in 75 times when 200 other
/// locks come and go.
const MAX_READINGS: usize = 12;

/// Maximum size read of the table: about a million locks.
const TABLE_MAX_BYTES: usize = 64 << 20;

/// After a shared lock was seen it is looked at once more: it may be the probe of another status run.
const SHARED_LOCK_RECHECK: Duration = Duration::from_millis(50);

/// How often a lock that changes during a look is looked at afresh.
const MAX_LOOKS: usize = 3;

/// The kernel's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KernelLock {
    /// No file is at the path.
    NoFile,
    NotHeld,
    Held,
    /// A process has a flock on the file that was at the path before it was deleted, replaced or moved.
    HeldUnlinked,
    /// It is unknown, and why.
    Unknown(String),
}

/// How the answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ObservedVia {
    /// There is no lock file.
    Path,
    /// `/proc/locks`.
    ProcLocks,
    /// The lock lines of `/proc/PID/fdinfo`.
    Fdinfo,
    /// A shared lock, taken and released at once.
    Probe,
    /// Nothing gave an answer.
    Nothing,
}

/// The kernel's answer with its circumstances.
#[derive(Debug, Serialize)]
pub(crate) struct Sighting {
    #[serde(skip)]
    pub(crate) lock: KernelLock,
    /// Who has it, when it is held.
    #[serde(flatten)]
    pub(crate) search: Search,
    /// Number of processes that wait for it.
    pub(crate) waiters: usize,
    #[serde(rename = "observed_via")]
    pub(crate) via: ObservedVia,
    /// Held by fcntl(2), which does not exclude a flock on this machine.
    #[serde(skip)]
    pub(crate) is_fcntl_lock: bool,
}

/// Looks at the lock.
pub(crate) fn look(lock: &Path) -> Sighting {
    let mut last = Sighting::unknown("the lock file keeps being replaced");
    for _ in 0..MAX_LOOKS {
        let found = match file::find(lock) {
            Ok(Some(found)) => found,
            Ok(None) => return Sighting::new(KernelLock::NoFile, ObservedVia::Path),
            Err(error) => return Sighting::unknown(format!("cannot look at the lock file: {}", plain(&error))),
        };
        let sighting = look_at(&found);
        match sighting.lock {
            KernelLock::NotHeld if !file::still_names(lock, &found) => {}
            // It was released before its holder was found.
            KernelLock::Held if sighting.search.holders.is_empty() && sighting.search.is_complete => last = sighting,
            _ => return sighting,
        }
    }
    last
}

fn look_at(file: &LockFile) -> Sighting {
    let table = read_until_sure(file.key);
    if let Ok(entries) = &table
        && entries.iter().any(|entry| entry.keeps_out_scrapes())
    {
        return Sighting {
            is_fcntl_lock: !entries.iter().any(|entry| entry.lock_type == LockType::Flock && !entry.is_waiter),
            waiters: entries.iter().filter(|entry| entry.is_waiter).count(),
            search: holders::search(file),
            ..Sighting::new(KernelLock::Held, ObservedVia::ProcLocks)
        };
    }
    if let Some(kind) = file.irregular {
        return Sighting::unknown(format!("the lock path is {kind}, not a regular file"));
    }
    if table.is_ok() && file.is_local && procfs::sees_every_process() {
        return Sighting::new(KernelLock::NotHeld, ObservedVia::ProcLocks);
    }
    look_closer(file)
}

/// Looks where an absence from the table proves nothing: in a container, on a network file system,
/// without `/proc/locks`.
fn look_closer(file: &LockFile) -> Sighting {
    let search = holders::search(file);
    if !search.holders.is_empty() {
        return Sighting { search, ..Sighting::new(KernelLock::Held, ObservedVia::Fdinfo) };
    }
    match probe(file) {
        Ok(true) => Sighting { search, ..Sighting::new(KernelLock::Held, ObservedVia::Probe) },
        Ok(false) => Sighting::new(KernelLock::NotHeld, ObservedVia::Probe),
        Err(error) => Sighting::unknown(format!("the lock file cannot be probed: {}", plain(&error))),
    }
}

/// Whether somebody holds the lock exclusively, found out by taking it shared for a moment.
fn probe(file: &LockFile) -> io::Result<bool> {
    #[expect(clippy::disallowed_methods, reason = "the last resort, and only there")]
    match flock(reopen(&file.path_fd)?, FlockOperation::NonBlockingLockShared) {
        // Closing the descriptor released it.
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// The entries about `key`, after a probe's shared lock has had time to go.
fn read_until_sure(key: LockKey) -> io::Result<Vec<Entry>> {
    let entries = read_until_found(key)?;
    let is_probe = |entry: &Entry| entry.is_waiter || (entry.lock_type == LockType::Flock && !entry.is_exclusive);
    if entries.is_empty() || !entries.iter().all(is_probe) {
        return Ok(entries);
    }
    #[expect(clippy::disallowed_methods, reason = "nothing says when another process releases its lock")]
    std::thread::sleep(SHARED_LOCK_RECHECK);
    read_until_found(key)
}

/// The entries about `key` from the first reading that has any, or none after enough readings to believe
/// it: the table may shift between two `read`s of one reading, and a line fall through the gap.
fn read_until_found(key: LockKey) -> io::Result<Vec<Entry>> {
    let table = File::open("/proc/locks")?;
    // In a container something else, and empty, may be mounted over it.
    if fstatfs(&table)?.f_type != PROC_SUPER_MAGIC {
        return Err(io::Error::other("/proc/locks is not the kernel's"));
    }
    let mut previous = Vec::new();
    let mut equal_readings = 0;
    for _ in 0..MAX_READINGS {
        let reading = read_once(&table)?;
        let entries = entries_about(&String::from_utf8_lossy(&reading), key);
        equal_readings = if reading == previous { equal_readings + 1 } else { 1 };
        if !entries.is_empty() || reading.len() <= ONE_PIECE_MAX_BYTES || equal_readings == EQUAL_READINGS {
            return Ok(entries);
        }
        previous = reading;
    }
    Ok(Vec::new())
}

fn read_once(table: &File) -> io::Result<Vec<u8>> {
    let mut reading = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        match table.read_at(&mut piece, reading.len() as u64)? {
            0 => return Ok(reading),
            _ if reading.len() > TABLE_MAX_BYTES => return Err(io::Error::other("/proc/locks has no end")),
            length => reading.extend_from_slice(&piece[..length]),
        }
    }
}

impl Sighting {
    fn new(lock: KernelLock, via: ObservedVia) -> Sighting {
        let nobody =
            Search { holders: Vec::new(), is_complete: matches!(lock, KernelLock::NoFile | KernelLock::NotHeld) };
        Sighting { lock, via, is_fcntl_lock: false, waiters: 0, search: nobody }
    }

    /// Held on a file that is no longer at the path.
    pub(crate) fn unlinked(search: Search) -> Sighting {
        Sighting { search, ..Sighting::new(KernelLock::HeldUnlinked, ObservedVia::Fdinfo) }
    }

    fn unknown(why: impl Into<String>) -> Sighting {
        Sighting::new(KernelLock::Unknown(why.into()), ObservedVia::Nothing)
    }
}
