//! Everything that can be seen of the lock, before it is judged.

use crate::lock::file::{self, LockFile, Locks, has_local_locks, has_unique_keys};
use crate::lock::kernel::{self, Scope, Table};
use crate::lock::sidecar::{Claim, Recorded, Writer};
use crate::lock::walk::{self, Walk};
use crate::lock::wanted::Wanted;
use crate::sys::access;
use crate::sys::deadline::within;
use crate::sys::file::{followed, plain};
use crate::sys::mounts::Mount;
use crate::sys::procfs::sees_every_process;
use serde::{Serialize, Serializer};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long the lock's file system may take to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long all looks at the table and the processes may take together; what is not seen by then is not known.
pub(crate) const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// Why nothing is known of a lock whose file system does not answer in time.
pub(crate) const NO_ANSWER: &str = "the file system of the lock does not answer";

/// Why nothing is known of a lock on an NFS server that has just been restarted.
pub(crate) const IN_GRACE: &str = "the NFS server on this machine was restarted, and waits for its clients";

/// Why nothing is known of a lock that the table shows, on a file system where that may be another file's.
const UNEXPLAINED: &str =
    "somebody holds it, or another file with the same number, and no process is seen to have either";

/// How often a lock that changes during a look is looked at afresh.
const MAX_LOOKS: usize = 3;

/// What was seen of a lock and its sidecar.
#[derive(Debug, Serialize)]
pub(crate) struct Observation {
    #[serde(rename = "recorded", serialize_with = "recorded")]
    pub(crate) claim: Claim,
    #[serde(flatten)]
    pub(crate) walk: Walk,
    /// Number of processes that wait for the lock.
    pub(crate) waiters: usize,
    #[serde(rename = "observed_via")]
    pub(crate) via: ObservedVia,
    #[serde(skip)]
    pub(crate) lock: Lock,
    /// What to know about how it was seen.
    #[serde(skip)]
    pub(crate) notes: Vec<&'static str>,
    /// There is a file at the lock's path.
    #[serde(skip)]
    pub(crate) has_file: bool,
    /// The lock's folder exists.
    #[serde(skip)]
    pub(crate) has_folder: bool,
    /// This user may open the lock file, or create it.
    #[serde(skip)]
    pub(crate) may_open: bool,
    #[serde(skip)]
    pub(crate) looked_at: SystemTime,
}

/// The lock itself, whatever the sidecar says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lock {
    NoFile,
    NotHeld,
    Held,
    /// A process has a flock on the file that was at the path before it was deleted, replaced or moved.
    HeldUnlinked,
    /// Why it is unknown.
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
    /// The NFS server.
    Server,
    /// A shared lock, taken and released at once.
    Probe,
    /// Nothing gave an answer.
    Nothing,
}

fn recorded<S: Serializer>(claim: &Claim, serializer: S) -> Result<S::Ok, S::Error> {
    claim.recorded().serialize(serializer)
}

/// Looks at the lock at `lock`, an absolute path, and at its sidecar. Takes, creates, writes and signals
/// nothing, except for the probe where nothing else gives an answer.
pub(crate) fn observe(lock: &Path) -> Observation {
    let path = lock.to_path_buf();
    let (why, walk) = match within(ANSWER_TIMEOUT, move || look(&path)) {
        Ok(Some(seen)) => return seen,
        // What the kernel knows by itself.
        Ok(None) => (NO_ANSWER.to_owned(), Walk { holders: walk::open_at(lock), ..Walk::default() }),
        Err(error) => (format!("it cannot be looked at: {}", plain(&error)), Walk::default()),
    };
    Observation::unknown(why, Claim::None, walk)
}

/// Whether somebody holds the lock, by the table alone: false says nothing.
pub(crate) fn is_still_held(lock: &Path) -> bool {
    let path = lock.to_path_buf();
    let look = move || {
        let file = file::find(&path).ok()?.filter(|file| has_unique_keys(&file.mount))?;
        let scope = Scope { keys: vec![file.key], device: None, is_own: false };
        Table::read(&scope, Instant::now() + LOOK_TIMEOUT).ok()
    };
    matches!(within(ANSWER_TIMEOUT, look), Ok(Some(Some(table))) if table.is_held())
}

fn look(lock: &Path) -> Observation {
    let until = Instant::now() + LOOK_TIMEOUT;
    let mut last = None;
    for _ in 0..MAX_LOOKS {
        let file = match file::find(lock) {
            Ok(file) => file,
            Err(error) => {
                let why = format!("cannot look at the lock file: {}", plain(&error));
                return Observation::unknown(why, Claim::read(lock), Walk::default());
            }
        };
        let mut seen = look_at(lock, file.as_ref(), until);
        seen.has_file = file.is_some();
        let at = followed(lock);
        let folder = at.parent().unwrap_or(&at);
        seen.has_folder = seen.has_file || folder.is_dir();
        seen.may_open = access::may_open(if seen.has_file { lock } else { folder });
        if seen.is_fresh(file.as_ref(), lock) {
            return seen;
        }
        last = Some(seen);
        if Instant::now() >= until {
            break;
        }
    }
    last.filter(Observation::is_no_comfort).unwrap_or_else(|| {
        let why = "the lock file keeps being replaced".to_owned();
        Observation::unknown(why, Claim::read(lock), Walk::default())
    })
}

fn look_at(lock: &Path, file: Option<&LockFile>, until: Instant) -> Observation {
    let mut claim = Claim::read(lock);
    let (table, mut walk) = survey(Wanted::new(lock, file, &claim), file, false, until);
    claim.confirm_writer(|pid| walk.has(pid));
    let is_held_here = !walk.holders.is_empty() && !walk.is_unlinked;
    // A flock's key may be another file's, if a complete walk met nobody who has this one; an NFS server's locks for
    // its clients belong to no process.
    let is_trusted = is_held_here || !walk.is_complete || file.is_none_or(|file| has_unique_keys(&file.mount));
    if let (Ok(table), Some(file), false) = (&table, file, is_trusted) {
        walk.is_unexplained = table.is_held() && table.locks() > walk::twins(file.key, file.stat_id, until);
    }
    let (lock, via) = match (&table, file) {
        (Ok(table), _) if table.is_held() && (is_trusted || table.has_fcntl_lock()) => {
            (Lock::Held, ObservedVia::ProcLocks)
        }
        _ if is_held_here => (Lock::Held, ObservedVia::Fdinfo),
        _ if walk.is_unlinked => (Lock::HeldUnlinked, ObservedVia::Fdinfo),
        (_, None) => (Lock::NoFile, ObservedVia::Path),
        (table, Some(file)) => {
            // An absence proves nothing elsewhere: there are locks that are not in this table.
            let is_whole = sees_every_process() && table.as_ref().is_ok_and(|table| table.is_whole);
            let silent =
                if is_whole { Some(ObservedVia::ProcLocks) } else { walk.is_complete.then_some(ObservedVia::Fdinfo) };
            let has_delegation = table.as_ref().is_ok_and(Table::has_delegation);
            match file.irregular {
                Some(kind) => unknown(format!("the lock path is {kind}, not a regular file")),
                None if walk.is_unexplained => unknown(UNEXPLAINED),
                None if has_delegation => behind_delegation(file),
                None => unheld(file, silent),
            }
        }
    };
    let mut seen = Observation::new(lock, via, claim, walk);
    if let Ok(table) = &table {
        seen.waiters = table.waiters();
        seen.note_fcntl_lock(table);
    }
    if let Some(file) = file {
        seen.note_remote_locks(file);
    }
    seen
}

/// Reads the table and looks through the processes. `is_own`: this process has the lock.
pub(crate) fn survey(
    mut wanted: Wanted,
    file: Option<&LockFile>,
    is_own: bool,
    until: Instant,
) -> (io::Result<Table>, Walk) {
    // The flocks of a device can be accounted for where a key stands for one file and the table shows everybody's.
    let is_clear = |mount: &&Mount| has_local_locks(mount) && has_unique_keys(mount) && sees_every_process();
    let mount = wanted.mount.as_ref().filter(|_| wanted.may_have_predecessor).filter(is_clear);
    let device = mount.map(|mount| (mount.major, mount.minor));
    let scope = file.map_or(Ok(Vec::new()), kernel::keys_of).map(|keys| Scope { keys, device, is_own });
    let table = scope.and_then(|scope| Ok((Table::read(&scope, until)?, scope)));
    let is_certain = !is_own && file.is_some_and(|file| has_unique_keys(&file.mount));
    wanted.is_held = is_certain && matches!(&table, Ok((table, _)) if table.is_held());
    let mut walk = walk::walk(&wanted, until);
    let table = table.and_then(|(table, scope)| if walk.is_complete { Ok(table) } else { table.prove(&scope, until) });
    if let (Ok(table), Some(_)) = (&table, device) {
        // A complete walk too may miss a lock that is just being handed over.
        walk.is_conclusive = (walk.is_complete || table.is_whole) && table.others.is_subset(&walk.met);
    }
    (table, walk)
}

/// What a lock is that neither the table nor the walk shows. `silent` is what proves that nobody on this host holds it.
fn unheld(file: &LockFile, silent: Option<ObservedVia>) -> (Lock, ObservedVia) {
    match (file.locks(), silent) {
        (Locks::Local, _) if kernel::is_in_grace() => unknown(IN_GRACE),
        (Locks::Local, Some(via)) => (Lock::NotHeld, via),
        (Locks::Nfs, Some(_)) => ask_server(file),
        (Locks::Local | Locks::Nfs, None) if sees_every_process() => unknown(
            "the lock table cannot be read or does not come to rest, and not all processes can be looked through",
        ),
        _ => match kernel::probe(file) {
            Ok(held) => (if held { Lock::Held } else { Lock::NotHeld }, ObservedVia::Probe),
            Err(error) => unknown(format!("the lock file cannot be probed: {}", plain(&error))),
        },
    }
}

/// What a lock is that a client of this NFS server may hold under its delegation.
fn behind_delegation(file: &LockFile) -> (Lock, ObservedVia) {
    match kernel::recall(file) {
        Ok(true) => ask_server(file),
        Ok(false) => unknown("an NFS client does not give back its delegation"),
        Err(error) => unknown(format!("an NFS client's delegation cannot be recalled: {}", plain(&error))),
    }
}

fn ask_server(file: &LockFile) -> (Lock, ObservedVia) {
    match kernel::would_be_refused(file) {
        Ok(held) => (if held { Lock::Held } else { Lock::NotHeld }, ObservedVia::Server),
        Err(error) => unknown(format!("the NFS server cannot be asked: {}", plain(&error))),
    }
}

fn unknown(why: impl Into<String>) -> (Lock, ObservedVia) {
    (Lock::Unknown(why.into()), ObservedVia::Nothing)
}

impl Observation {
    pub(crate) fn new(lock: Lock, via: ObservedVia, claim: Claim, walk: Walk) -> Observation {
        let has_file = lock != Lock::NoFile;
        let (notes, looked_at) = (Vec::new(), SystemTime::now());
        Observation { claim, walk, waiters: 0, via, lock, notes, has_file, has_folder: true, may_open: true, looked_at }
    }

    fn unknown(why: String, claim: Claim, walk: Walk) -> Observation {
        Observation::new(Lock::Unknown(why), ObservedVia::Nothing, claim, walk)
    }

    /// There is a sidecar but no lock file: it was deleted, and a process that was not inspected may hold it.
    pub(crate) fn may_have_lost_its_file(&self) -> bool {
        self.lock == Lock::NoFile && self.claim.has_sidecar() && !self.walk.is_conclusive
    }

    /// Whether nothing that matters has changed during the look.
    fn is_fresh(&self, file: Option<&LockFile>, lock: &Path) -> bool {
        let Walk { is_complete, is_unexplained, holders, .. } = &self.walk;
        match (&self.lock, file) {
            // Somebody else's lock may have come or gone during the walk.
            (Lock::NoFile, _) => !self.may_have_lost_its_file() && file::find(lock).is_ok_and(|now| now.is_none()),
            (Lock::NotHeld, Some(file)) => file.is_at(lock),
            (Lock::Unknown(_), _) => !is_unexplained,
            // It may have been released before its holder was found.
            (Lock::Held, _) => self.via != ObservedVia::ProcLocks || !is_complete || !holders.is_empty(),
            _ => true,
        }
    }

    /// Of a lock that keeps changing only this may be said.
    fn is_no_comfort(&self) -> bool {
        matches!(self.lock, Lock::Held | Lock::Unknown(_)) || self.may_have_lost_its_file()
    }

    /// Notes that a lock is another kind than the scrapes', if the table shows it.
    fn note_fcntl_lock(&mut self, table: &Table) {
        if table.has_fcntl_lock() && !table.has_flock() {
            self.notes.push(
                "this is an fcntl lock, as an NFS client's looks on its server; a scrape on this machine would not notice it",
            );
        }
    }

    /// Notes what another host, or nobody, may see.
    pub(crate) fn note_remote_locks(&mut self, file: &LockFile) {
        match self.via {
            ObservedVia::Server if self.lock == Lock::Held => self.notes.push("the lock is held by another host"),
            ObservedVia::Probe => self.notes.push(
                "the kernel's lock table proves nothing here, so a shared lock was taken for a moment to find out",
            ),
            _ => {}
        }
        let is_local_only = |option: &str| matches!(option, "local_lock=flock" | "local_lock=all" | "nolock");
        if file.locks() == Locks::Nfs && file.mount.options.split(',').any(is_local_only) {
            self.notes.push("this NFS mount keeps its locks to this host: hosts do not exclude each other");
            let is_ours = match self.claim.recorded() {
                Some(recorded) => recorded.is_from_this_host,
                None => !self.claim.has_sidecar(),
            };
            if self.lock == Lock::NotHeld && !is_ours {
                self.lock = Lock::Unknown("another host may hold it, which this NFS mount does not show".to_owned());
            }
        }
    }

    /// Whether the recorded process runs and yet is certainly not one of the holders.
    pub(crate) fn denies(&self, recorded: &Recorded) -> bool {
        let has_others = self.walk.is_complete && !self.walk.holders.is_empty() && !self.walk.has(recorded.pid);
        recorded.writer == Writer::Running && has_others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes, and what the lock is after them, of a lock that was seen like this on such a file system.
    fn noted(lock: Lock, via: ObservedVia, sidecar: Option<&str>, options: &str) -> (Vec<&'static str>, Lock) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::write(&path, "").unwrap();
        if let Some(text) = sidecar {
            std::fs::write(folder.path().join("lock.meta"), text).unwrap();
        }
        let mut file = file::find(&path).unwrap().unwrap();
        if !options.is_empty() {
            (file.mount.fs_type, file.mount.options) = ("nfs4".to_owned(), options.to_owned());
        }
        let mut seen = Observation::new(lock, via, Claim::read(&path), Walk::default());
        seen.note_remote_locks(&file);
        (seen.notes, seen.lock)
    }

    #[test]
    fn how_it_was_seen_is_noted() {
        let notes = |lock: Lock, via| noted(lock, via, None, "").0;
        assert_eq!(notes(Lock::Held, ObservedVia::Server), ["the lock is held by another host"]);
        assert_eq!(notes(Lock::NotHeld, ObservedVia::Server), [""; 0]);
        assert_eq!(notes(Lock::Held, ObservedVia::ProcLocks), [""; 0]);
        assert!(notes(Lock::NotHeld, ObservedVia::Probe)[0].contains("a shared lock was taken for a moment"));
    }

    #[test]
    fn a_mount_that_keeps_locks_to_this_host_proves_nothing_about_others() {
        let mine = format!("pid=99999999\nhost={}\n", crate::sys::procfs::host().unwrap());
        let others = "pid=99999999\nhost=elsewhere\n";
        for option in ["rw,local_lock=flock", "local_lock=all,rw", "rw,nolock,vers=3"] {
            let lock = |lock: Lock, sidecar| {
                let (notes, lock) = noted(lock, ObservedVia::ProcLocks, sidecar, option);
                assert_eq!(notes, ["this NFS mount keeps its locks to this host: hosts do not exclude each other"]);
                lock
            };
            assert_eq!(lock(Lock::NotHeld, None), Lock::NotHeld, "no scrape is recorded");
            assert_eq!(lock(Lock::NotHeld, Some(&mine)), Lock::NotHeld);
            assert!(matches!(lock(Lock::NotHeld, Some(others)), Lock::Unknown(_)));
            assert!(matches!(lock(Lock::NotHeld, Some("pid=x\n")), Lock::Unknown(_)), "anybody's");
            assert_eq!(lock(Lock::Held, Some(others)), Lock::Held);
        }
        let excludes = noted(Lock::NotHeld, ObservedVia::ProcLocks, Some(others), "rw,local_lock=none");
        assert_eq!(excludes, (Vec::new(), Lock::NotHeld));
    }

    #[test]
    fn only_a_file_that_may_be_lost_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let may_be_lost = |lock: Lock, is_conclusive| {
            let walk = Walk { is_conclusive, ..Walk::default() };
            Observation::new(lock, ObservedVia::Path, Claim::read(&path), walk).may_have_lost_its_file()
        };
        assert!(!may_be_lost(Lock::NoFile, false), "there is no sidecar");
        std::fs::write(folder.path().join("lock.meta"), "pid=99999999\n").unwrap();
        assert!(may_be_lost(Lock::NoFile, false));
        assert!(!may_be_lost(Lock::NoFile, true) && !may_be_lost(Lock::NotHeld, false));
    }

    #[test]
    fn what_changed_during_the_look_is_not_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let text = || crate::text::Foreign(Vec::new());
        let holder = walk::Holder { pid: 1, command: text(), user: None, unit: None, container: None, started: None };
        let walk = |is_complete| Walk { is_complete, is_conclusive: true, ..Walk::default() };
        let is_fresh = |lock: Lock, via, walk, file: Option<&LockFile>| {
            Observation::new(lock, via, Claim::read(&path), walk).is_fresh(file, &path)
        };
        assert!(is_fresh(Lock::NoFile, ObservedVia::Path, walk(true), None));
        std::fs::write(&path, "").unwrap();
        assert!(!is_fresh(Lock::NoFile, ObservedVia::Path, walk(true), None), "now there is a file");
        let file = file::find(&path).unwrap();
        assert!(is_fresh(Lock::NotHeld, ObservedVia::ProcLocks, walk(true), file.as_ref()));
        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        assert!(!is_fresh(Lock::NotHeld, ObservedVia::ProcLocks, walk(true), file.as_ref()), "the file has gone");
        std::fs::write(folder.path().join("lock.meta"), "pid=99999999\n").unwrap();
        let lost = Walk { is_conclusive: false, ..walk(true) };
        assert!(!is_fresh(Lock::NoFile, ObservedVia::Path, lost, None), "it may have been lost");
        // In the table, but nobody was met who has it.
        let held = |via, walk| is_fresh(Lock::Held, via, walk, file.as_ref());
        assert!(!held(ObservedVia::ProcLocks, walk(true)) && held(ObservedVia::ProcLocks, walk(false)));
        assert!(held(ObservedVia::Fdinfo, walk(true)));
        assert!(held(ObservedVia::ProcLocks, Walk { holders: vec![holder], ..walk(true) }));
        assert!(is_fresh(Lock::Unknown(String::new()), ObservedVia::Nothing, walk(true), file.as_ref()));
    }

    #[test]
    fn of_a_changing_lock_only_bad_news_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let seen = |lock: Lock| Observation::new(lock, ObservedVia::Path, Claim::read(&path), Walk::default());
        assert!(seen(Lock::Held).is_no_comfort());
        assert!(!seen(Lock::NotHeld).is_no_comfort() && !seen(Lock::NoFile).is_no_comfort());
        std::fs::write(folder.path().join("lock.meta"), "pid=99999999\n").unwrap();
        assert!(seen(Lock::NoFile).is_no_comfort());
    }

    #[test]
    fn only_an_fcntl_lock_alone_is_noted() {
        use crate::lock::table::parse_line;
        let notes = |lines: &[&str]| {
            let entries = lines.iter().filter_map(|line| parse_line(line)).collect();
            let mut seen = Observation::unknown(String::new(), Claim::None, Walk::default());
            seen.note_fcntl_lock(&Table { entries, ..Table::default() });
            seen.notes.len()
        };
        let [flock, fcntl] = ["1: FLOCK ADVISORY WRITE 7 fe:00:10 0 EOF", "2: POSIX ADVISORY WRITE 9 fe:00:10 0 EOF"];
        assert_eq!([notes(&[]), notes(&[flock]), notes(&[fcntl]), notes(&[flock, fcntl])], [0, 0, 1, 0]);
    }
}
