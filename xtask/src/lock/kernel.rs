//! What the kernel says about the lock, without taking it.
//!
//! A probe that takes the lock, even for microseconds, makes a scrape that starts at that moment fail,
//! and two status runs would see each other. So the kernel's table is read, and an NFS server is asked; only
//! where neither proves anything is the lock taken, shared and for a moment.

use crate::lock::file::{LockFile, Locks};
use crate::lock::table::{Entry, LockKey, LockType, entries_with};
use crate::sys::mounts::{self, Mount};
use crate::sys::procfs;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, flock, fstatfs, openat, openat2};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A table of at most this size comes in one piece: `read` gives whole lines up to a page of 4,096 bytes
/// (seq_read_iter in the kernel's fs/seq_file.c), except for a lock that has many waiters.
const ONE_PIECE_MAX_BYTES: usize = 2048;

/// Sizes of the pieces in which a longer table is read, a size a reading: its lines shift between two pieces, and those
/// that fall through a gap are missed. The same lines five times, with the gaps at different places, are all lines.
const PIECE_BYTES: [usize; 5] = [4096, 3500, 2900, 2300, 1700];

/// Maximum number of readings while the table keeps changing.
const MAX_READINGS: usize = 1000;

/// After a shared lock was seen it is looked at once more: it may be the probe of another status run.
const SHARED_LOCK_RECHECK: Duration = Duration::from_millis(50);

/// How long a client's delegation may take to be recalled, and how often that is looked at.
const RECALL_TIMEOUT: Duration = Duration::from_secs(2);
const RECALL_INTERVAL: Duration = Duration::from_millis(10);

/// Which lines of the table are read.
pub(crate) struct Scope {
    /// The keys of the lock file, which may have several on an NFS client; none if there is no file.
    pub(crate) keys: Vec<LockKey>,
    /// The device whose other flocks are of interest too: one may be on a file that was the lock.
    pub(crate) device: Option<(u32, u32)>,
    /// The lock is this process's own: that it is there says nothing about others.
    pub(crate) is_own: bool,
}

/// What the table says.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// The locks of the lock file.
    pub(crate) entries: HashSet<Entry>,
    /// The other files with a flock on the device, if the scope has one.
    pub(crate) others: HashSet<LockKey>,
    /// Nothing was missed. That proves something only in the initial PID namespace.
    pub(crate) is_whole: bool,
}

impl Scope {
    fn columns(&self) -> Vec<String> {
        match self.device {
            Some((major, minor)) => vec![LockKey::start_of_column(major, minor)],
            None => self.keys.iter().map(|key| key.column()).collect(),
        }
    }
}

impl Table {
    /// Reads the table once. A line that is there is the truth; that one is not there takes more to prove.
    pub(crate) fn read(scope: &Scope, until: Instant) -> io::Result<Table> {
        Table::read_by(scope, &mut by_kernel(until))
    }

    /// Reads on until nothing can have been missed, or the lock is held.
    pub(crate) fn prove(self, scope: &Scope, until: Instant) -> io::Result<Table> {
        self.prove_by(scope, &mut by_kernel(until))
    }

    fn read_by(scope: &Scope, reader: Reader) -> io::Result<Table> {
        let is_shared = |entry: &Entry| entry.is_waiter || (entry.lock_type == LockType::Flock && !entry.is_exclusive);
        let table = Table::read_once(scope, reader)?;
        if table.entries.is_empty() || !table.entries.iter().all(is_shared) {
            return Ok(table);
        }
        pause(SHARED_LOCK_RECHECK);
        Table::read_once(scope, reader)
    }

    fn read_once(scope: &Scope, reader: Reader) -> io::Result<Table> {
        let mut table = Table::default();
        let reading = reader(PIECE_BYTES[0], &mut |lines| table.add(scope, lines))?;
        Ok(Table { is_whole: reading == Reading::Whole, ..table })
    }

    fn prove_by(mut self, scope: &Scope, reader: Reader) -> io::Result<Table> {
        let (mut last, mut equal) = (None, 0);
        for piece_bytes in PIECE_BYTES.into_iter().cycle().take(MAX_READINGS) {
            if self.is_whole || (self.is_held() && !scope.is_own) {
                break;
            }
            let reading = reader(piece_bytes, &mut |lines| self.add(scope, lines))?;
            equal = if last == Some(reading) { equal + 1 } else { 1 };
            last = Some(reading);
            self.is_whole = reading == Reading::Whole || equal == PIECE_BYTES.len();
        }
        Ok(self)
    }

    /// Adds the lines that are in scope.
    fn add(&mut self, scope: &Scope, lines: &str) {
        for entry in scope.columns().iter().flat_map(|column| entries_with(lines, column)) {
            match entry.key {
                Some(key) if scope.keys.contains(&key) => _ = self.entries.insert(entry),
                Some(key) if entry.lock_type == LockType::Flock && !entry.is_waiter => _ = self.others.insert(key),
                _ => {}
            }
        }
    }

    /// Whether a lock keeps scrapes out.
    pub(crate) fn is_held(&self) -> bool {
        self.locks() > 0
    }

    /// How many locks keep scrapes out; several files may have one key.
    pub(crate) fn locks(&self) -> usize {
        self.entries.iter().filter(|entry| entry.keeps_out_scrapes()).count()
    }

    pub(crate) fn waiters(&self) -> usize {
        self.entries.iter().filter(|entry| entry.is_waiter).count()
    }

    /// Somebody holds it by fcntl(2), which a flock on this machine does not notice.
    pub(crate) fn has_fcntl_lock(&self) -> bool {
        self.entries.iter().any(|entry| entry.lock_type == LockType::Posix && entry.keeps_out_scrapes())
    }

    pub(crate) fn has_flock(&self) -> bool {
        self.entries.iter().any(|entry| entry.lock_type == LockType::Flock && entry.keeps_out_scrapes())
    }

    /// A client of this NFS server may hold the lock, unseen.
    pub(crate) fn has_delegation(&self) -> bool {
        self.entries.iter().any(|entry| entry.lock_type == LockType::Delegation)
    }
}

/// What is done with lines of the table.
type Take<'a> = &'a mut dyn FnMut(&str);

/// What a reading of the table shows besides its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It came in one piece, so nothing can have been missed.
    Whole,
    /// It came in several. The hash of all lines.
    Pieces(u64),
}

/// Reads the table in pieces of a size.
type Reader<'a> = &'a mut dyn FnMut(usize, Take) -> io::Result<Reading>;

/// Reads the kernel's own table.
fn by_kernel(until: Instant) -> impl FnMut(usize, Take) -> io::Result<Reading> {
    move |piece_bytes, take| read_table(&open()?, piece_bytes, until, take)
}

/// Reads a table in pieces of this size and gives whole lines to `take`.
fn read_table(
    file: &impl FileExt,
    piece_bytes: usize,
    until: Instant,
    mut take: impl FnMut(&str),
) -> io::Result<Reading> {
    let mut piece = vec![0; piece_bytes];
    let (mut lines, mut length, mut hasher) = (Vec::new(), 0, DefaultHasher::new());
    while let read @ 1.. = file.read_at(&mut piece, length as u64)? {
        length += read;
        lines.extend_from_slice(&piece[..read]);
        // A piece may end within the line of a lock with many waiters.
        let whole_lines = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        lines[..whole_lines].split_inclusive(|&byte| byte == b'\n').for_each(|line| line.hash(&mut hasher));
        take(&String::from_utf8_lossy(&lines[..whole_lines]));
        lines.drain(..whole_lines);
        if Instant::now() > until {
            return Err(io::Error::other("/proc/locks is too long to be read in time"));
        }
    }
    // Beyond the end the kernel has to go through all lines at once, and would give those that were missed.
    let is_whole = length <= ONE_PIECE_MAX_BYTES
        && file.read_at(&mut piece, length as u64 + 1)? == 0
        && file.read_at(&mut piece, 0)? == length;
    Ok(if is_whole { Reading::Whole } else { Reading::Pieces(hasher.finish()) })
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
    recalled(|| reopen(file), Instant::now() + RECALL_TIMEOUT)
}

/// Tries again until then while a client still has the delegation.
fn recalled<T>(mut open: impl FnMut() -> io::Result<T>, until: Instant) -> io::Result<bool> {
    loop {
        match open() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() < until => pause(RECALL_INTERVAL),
            Err(_) => return Ok(false),
            Ok(_) => return Ok(true),
        }
    }
}

/// Whether an NFS server on this machine waits for its clients to tell their locks again, after a restart.
pub(crate) fn is_in_grace() -> bool {
    procfs::read("/proc/fs/nfsd/v4_end_grace").is_ok_and(|ended| ended.trim() == "N")
}

/// The keys of a file, on NFS on all mounts of its server: one export may be mounted twice, as different devices.
pub(crate) fn keys_of(file: &LockFile) -> io::Result<Vec<LockKey>> {
    let is_on_nfs = file.locks() == Locks::Nfs;
    if is_on_nfs { Ok(keys_on(&file.mount, file.key, mounts::all()?)) } else { Ok(vec![file.key]) }
}

/// The keys of a file with this mount and key, where these are all mounts.
fn keys_on(mount: &Mount, key: LockKey, mounts: Vec<Mount>) -> Vec<LockKey> {
    let server = |mount: &Mount| mount.source.to_string_lossy().split(":/").next().map(str::to_owned);
    let is_twin = |other: &Mount| other.fs_type.starts_with("nfs") && server(other) == server(mount);
    let mut keys = vec![key];
    for Mount { major, minor, .. } in mounts.into_iter().filter(is_twin) {
        let key = LockKey { major, minor, ..key };
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

fn pause(duration: Duration) {
    #[expect(clippy::disallowed_methods, reason = "nothing says when another process or host releases a lock")]
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: &str = "1: FLOCK  ADVISORY  WRITE 7 fe:00:10 0 EOF\n";
    const SHARED: &str = "1: FLOCK  ADVISORY  READ 7 fe:00:10 0 EOF\n";
    const WAITER: &str = "1: -> FLOCK  ADVISORY  WRITE 8 fe:00:10 0 EOF\n";
    const FCNTL: &str = "2: POSIX  ADVISORY  WRITE 9 fe:00:10 0 EOF\n";
    const FCNTL_WAITER: &str = "2: -> POSIX  ADVISORY  WRITE 9 fe:00:10 0 EOF\n";
    const DELEGATION: &str = "3: DELEG  ACTIVE    READ 0 fe:00:10 0 EOF\n";
    const OTHER: &str = "4: FLOCK  ADVISORY  WRITE 7 fe:00:11 0 EOF\n";
    const OTHERS_WAITER: &str = "4: -> FLOCK  ADVISORY  WRITE 8 fe:00:12 0 EOF\n";
    const OTHERS_FCNTL: &str = "5: POSIX  ADVISORY  WRITE 9 fe:00:13 0 EOF\n";
    const ELSEWHERE: &str = "6: FLOCK  ADVISORY  WRITE 7 08:01:10 0 EOF\n";
    const ALL: [&str; 10] =
        [HELD, SHARED, WAITER, FCNTL, FCNTL_WAITER, DELEGATION, OTHER, OTHERS_WAITER, OTHERS_FCNTL, ELSEWHERE];

    fn key(inode: u64) -> LockKey {
        LockKey { major: 0xfe, minor: 0, inode }
    }

    fn table(lines: &[&str], device: Option<(u32, u32)>) -> Table {
        let mut table = Table::default();
        table.add(&Scope { keys: vec![key(10)], device, is_own: false }, &lines.concat());
        table
    }

    #[test]
    fn only_what_is_in_scope_is_kept() {
        let narrow = table(&ALL, None);
        assert_eq!((narrow.entries.len(), narrow.others.len()), (6, 0));
        let wide = table(&ALL, Some((0xfe, 0)));
        assert_eq!((wide.entries.len(), wide.others), (6, HashSet::from([key(11)])));
    }

    #[test]
    fn what_a_table_says() {
        let says = |lines: &[&str]| {
            let table = table(lines, None);
            (table.is_held(), table.has_flock(), table.has_fcntl_lock(), table.has_delegation(), table.waiters())
        };
        assert_eq!(says(&[OTHER, ELSEWHERE]), (false, false, false, false, 0));
        assert_eq!(says(&[HELD, WAITER]), (true, true, false, false, 1));
        assert_eq!(says(&[WAITER, FCNTL_WAITER]), (false, false, false, false, 2));
        assert_eq!(says(&[FCNTL]), (true, false, true, false, 0));
        assert_eq!(says(&[FCNTL, DELEGATION]), (true, false, true, true, 0));
        assert_eq!(says(&[DELEGATION, FCNTL_WAITER]), (false, false, false, true, 1));
    }

    /// Tables that are read one after the other; the second value: it was whole.
    fn tables(tables: &[(&[&str], bool)]) -> std::vec::IntoIter<(String, bool)> {
        let tables: Vec<(String, bool)> = tables.iter().map(|(lines, is_whole)| (lines.concat(), *is_whole)).collect();
        tables.into_iter()
    }

    fn reader(tables: &mut impl Iterator<Item = (String, bool)>) -> impl FnMut(usize, Take) -> io::Result<Reading> {
        move |_, take| {
            let (lines, is_whole) = tables.next().unwrap();
            take(&lines);
            Ok(if is_whole { Reading::Whole } else { Reading::Pieces(lines.len() as u64) })
        }
    }

    fn scope(is_own: bool) -> Scope {
        Scope { keys: vec![key(10)], device: None, is_own }
    }

    #[test]
    fn a_shared_lock_is_looked_at_twice() {
        let is_held = |read: &[(&[&str], bool)]| {
            let mut tables = tables(read);
            let table = Table::read_by(&scope(false), &mut reader(&mut tables)).unwrap();
            assert_eq!(tables.len(), 0, "all are read");
            table.is_held()
        };
        let started = Instant::now();
        assert!(!is_held(&[(&[SHARED], true), (&[], true)]), "it was a status run's probe");
        assert!(started.elapsed() >= SHARED_LOCK_RECHECK);
        assert!(is_held(&[(&[SHARED, WAITER], true), (&[SHARED], true)]));
        for once in [&[HELD][..], &[HELD, WAITER], &[SHARED, FCNTL]] {
            assert!(is_held(&[(once, true)]), "{once:?}");
        }
        assert!(!is_held(&[(&[OTHER], true)]) && !is_held(&[(&[DELEGATION], true)]));
    }

    #[test]
    fn an_absence_is_proved_by_a_whole_table_or_equal_readings() {
        let proved = |start: &[&str], is_own: bool, read: &[(&[&str], bool)]| {
            let mut start = table(start, None);
            start.is_whole = read.is_empty() && !start.is_held();
            let mut tables = tables(read);
            let proved = start.prove_by(&scope(is_own), &mut reader(&mut tables)).unwrap();
            assert_eq!(tables.len(), 0, "all are read");
            (proved.is_held(), proved.is_whole)
        };
        assert_eq!(proved(&[], false, &[]), (false, true), "it was whole already");
        assert_eq!(proved(&[HELD], false, &[]), (true, false), "it is held, and nothing else matters");
        assert_eq!(proved(&[], false, &[(&[], true)]), (false, true));
        assert_eq!(proved(&[HELD], true, &[(&[], false), (&[], true)]), (true, true));
        let (none, other) = ((&[][..], false), (&[OTHER][..], false));
        assert_eq!(proved(&[], false, &[none; 5]), (false, true));
        assert_eq!(proved(&[], false, &[none, none, other, none, none, none, none, none]), (false, true));
        assert_eq!(proved(&[], false, &[none, none, none, (&[HELD], false)]), (true, false), "found at last");
        assert_eq!(proved(&[], false, &[none, other].repeat(MAX_READINGS / 2)), (false, false), "it keeps changing");
    }

    /// A reading of a file as the table: whether it is whole, and what was taken, piece by piece.
    fn reading(text: &str, piece_bytes: usize) -> (Reading, Vec<String>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let mut taken = Vec::new();
        let take = |lines: &str| taken.push(lines.to_owned());
        (read_table(file.as_file(), piece_bytes, until, take).unwrap(), taken)
    }

    #[test]
    fn a_table_that_comes_in_one_piece_is_whole() {
        let line = "x".repeat(63) + "\n";
        let [short, longer] = [32, 33].map(|lines| line.repeat(lines));
        assert_eq!(short.len(), ONE_PIECE_MAX_BYTES);
        assert_eq!(reading("", 4096), (Reading::Whole, Vec::new()));
        assert_eq!(reading(&short, 4096), (Reading::Whole, vec![short.clone()]));
        assert_ne!(reading(&longer, 4096).0, Reading::Whole, "it may have come in several");
        assert_ne!(reading(&short, 1000).0, Reading::Whole, "it did");
        assert_eq!(reading(&longer, 1000).0, reading(&longer, 999).0, "the lines count, not the pieces");
        assert_ne!(reading(&longer, 1000).0, reading(&longer.replacen('x', "y", 1), 1000).0);
    }

    #[test]
    fn lines_are_never_split() {
        let text = "1: a\n2: bcdefgh\n3: i\n";
        for piece_bytes in 1..30 {
            let (_, taken) = reading(text, piece_bytes);
            assert_eq!(taken.concat(), text, "{piece_bytes}");
            assert!(taken.iter().all(|lines| lines.is_empty() || lines.ends_with('\n')), "{taken:?}");
        }
    }

    #[test]
    fn a_table_that_takes_too_long_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), HELD).unwrap();
        let past = Instant::now() - Duration::from_secs(1);
        assert!(read_table(file.as_file(), 4096, past, &mut |_: &str| {}).is_err());
    }

    #[test]
    fn a_server_is_asked_by_the_key_of_each_of_its_mounts() {
        let mount = |source: &str, fs_type: &str, minor: u32| Mount {
            id: minor.into(),
            major: 0,
            minor,
            point: "/mnt".into(),
            source: source.into(),
            fs_type: fs_type.to_owned(),
            options: String::new(),
        };
        let own = mount("nas:/a", "nfs4", 40);
        let key = LockKey { major: 0, minor: 40, inode: 7 };
        let mounts = vec![
            own.clone(),
            mount("nas:/a", "nfs4", 41),
            mount("nas:/b", "nfs", 42),
            mount("other:/a", "nfs4", 43),
            mount("nas:/c", "fuse.sshfs", 44),
        ];
        let minors: Vec<u32> = keys_on(&own, key, mounts).iter().map(|key| key.minor).collect();
        assert_eq!(minors, [40, 41, 42]);
        let elsewhere = LockKey { major: 9, ..key };
        assert_eq!(keys_on(&own, elsewhere, vec![own.clone()]), [elsewhere, key]);
    }

    #[test]
    fn a_delegation_is_waited_for() {
        let blocked = || Err::<(), _>(io::Error::from(io::ErrorKind::WouldBlock));
        let (soon, past) = (Instant::now() + Duration::from_secs(60), Instant::now() - Duration::from_secs(1));
        assert!(recalled(|| Ok(()), past).unwrap());
        let mut tries = 0;
        let given_back_at_last = || {
            tries += 1;
            if tries < 3 { blocked() } else { Ok(()) }
        };
        assert!(recalled(given_back_at_last, soon).unwrap());
        assert_eq!(tries, 3);
        assert!(!recalled(blocked, past).unwrap());
        assert!(recalled(|| Err::<(), _>(Errno::IO.into()), soon).is_err());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "somebody must hold the lock")]
    fn locks_of_others_are_found_by_asking_and_by_probing() {
        let temporary = tempfile::NamedTempFile::new().unwrap();
        let file = crate::lock::file::find(temporary.path()).unwrap().unwrap();
        assert!(!probe(&file).unwrap() && !would_be_refused(&file).unwrap());
        let whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(temporary.as_file(), FcntlArg::F_OFD_SETLK(&whole)).unwrap();
        assert!(would_be_refused(&file).unwrap() && !probe(&file).unwrap());
        flock(temporary.as_file(), FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(probe(&file).unwrap());
    }
}
