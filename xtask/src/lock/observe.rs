//! Everything that can be seen of the lock, before it is judged.

use crate::lock::file::{self, LockFile, Locks};
use crate::lock::kernel::{self, Table};
use crate::lock::sidecar::{Claim, Recorded, Writer};
use crate::lock::table::LockKey;
use crate::lock::walk::{self, Walk};
use crate::lock::wanted::Wanted;
use crate::sys::deadline::within;
use crate::sys::file::plain;
use crate::sys::procfs::sees_every_process;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::{Serialize, Serializer};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long the lock's file system may take to answer.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the table and the processes may be looked at; what is not seen by then is not known.
pub(crate) const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// Why nothing is known of a lock whose file system does not answer in time.
pub(crate) const NO_ANSWER: &str = "the file system of the lock does not answer";

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
    let mut seen = Observation::new(Lock::Unknown(why), ObservedVia::Nothing, Claim::None, walk);
    (seen.has_file, seen.has_folder) = (true, true);
    seen
}

/// Whether somebody holds the lock, by the table alone: false says nothing.
pub(crate) fn is_still_held(lock: &Path) -> bool {
    let path = lock.to_path_buf();
    let look = move || {
        file::find(&path).ok().flatten().and_then(|file| Table::read(&[file.key], Instant::now() + LOOK_TIMEOUT).ok())
    };
    matches!(within(ANSWER_TIMEOUT, look), Ok(Some(Some(table))) if table.is_held())
}

fn look(lock: &Path) -> Observation {
    let mut last = None;
    for _ in 0..MAX_LOOKS {
        let file = match file::find(lock) {
            Ok(file) => file,
            Err(error) => {
                let why = format!("cannot look at the lock file: {}", plain(&error));
                return Observation::new(Lock::Unknown(why), ObservedVia::Nothing, Claim::read(lock), Walk::default());
            }
        };
        let mut seen = look_at(lock, file.as_ref());
        seen.has_file = file.is_some();
        let folder = lock.parent().unwrap_or(lock);
        seen.has_folder = seen.has_file || folder.is_dir();
        let needed = if seen.has_file { lock } else { folder };
        seen.may_open = accessat(CWD, needed, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS).is_ok();
        let is_fresh = match (&seen.lock, &file) {
            // Somebody else's lock may have come or gone during the walk.
            (Lock::NoFile, _) if seen.claim.has_sidecar() && !seen.walk.is_conclusive => false,
            (Lock::NoFile, _) => file::find(lock).is_ok_and(|now| now.is_none()),
            (Lock::NotHeld, Some(file)) => file.is_at(lock),
            // It may have been released before its holder was found.
            (Lock::Held, _) => {
                seen.via != ObservedVia::ProcLocks || !seen.walk.is_complete || !seen.walk.holders.is_empty()
            }
            _ => true,
        };
        if is_fresh {
            return seen;
        }
        last = Some(seen);
    }
    let is_answer = |seen: &Observation| matches!(seen.lock, Lock::Held | Lock::NoFile);
    last.filter(is_answer).unwrap_or_else(|| {
        let why = "the lock file keeps being replaced".to_owned();
        Observation::new(Lock::Unknown(why), ObservedVia::Nothing, Claim::read(lock), Walk::default())
    })
}

fn look_at(lock: &Path, file: Option<&LockFile>) -> Observation {
    let mut claim = Claim::read(lock);
    let until = Instant::now() + LOOK_TIMEOUT;
    let mut table = file.map_or_else(|| Ok(Table::default()), |file| Table::read(&keys_of(file)?, until));
    let walk = walk::walk(&Wanted::new(lock, file, &claim), until);
    if let Some(file) = file.filter(|_| !walk.is_complete) {
        table = table.and_then(|table| table.prove(&keys_of(file)?, until));
    }
    claim.confirm_writer(|pid| walk.has(pid));
    let is_held_here = !walk.holders.is_empty() && !walk.is_unlinked;
    let is_trusted = is_held_here || file.is_none_or(|file| file.has_unique_key() || !walk.is_conclusive);
    let (lock, via) = match (&table, file) {
        (Ok(table), _) if table.is_held() && is_trusted => (Lock::Held, ObservedVia::ProcLocks),
        _ if is_held_here => (Lock::Held, ObservedVia::Fdinfo),
        _ if walk.is_unlinked => (Lock::HeldUnlinked, ObservedVia::Fdinfo),
        (_, None) => (Lock::NoFile, ObservedVia::Path),
        (table, Some(file)) => {
            // An absence proves nothing elsewhere: there are locks that are not in this table.
            let is_silent =
                walk.is_complete || (sees_every_process() && table.as_ref().is_ok_and(|table| table.is_whole));
            let has_delegation = table.as_ref().is_ok_and(Table::has_delegation);
            match file.irregular {
                Some(kind) => unknown(format!("the lock path is {kind}, not a regular file")),
                None if has_delegation => behind_delegation(file),
                None => unheld(file, is_silent),
            }
        }
    };
    let mut seen = Observation::new(lock, via, claim, walk);
    seen.waiters = table.as_ref().map_or(0, Table::waiters);
    if via == ObservedVia::ProcLocks && table.is_ok_and(|table| table.is_fcntl_lock()) {
        seen.notes.push(
            "this is an fcntl lock, as an NFS client's looks on its server; a scrape on this machine would not notice it",
        );
    }
    if let Some(file) = file {
        seen.note_remote_locks(file);
    }
    seen
}

fn keys_of(file: &LockFile) -> io::Result<Vec<LockKey>> {
    if file.locks() == Locks::Nfs { kernel::keys_on_server(file) } else { Ok(vec![file.key]) }
}

/// What a lock is that neither the table nor the walk shows. `is_silent`: on this host nobody holds it.
fn unheld(file: &LockFile, is_silent: bool) -> (Lock, ObservedVia) {
    match file.locks() {
        Locks::Local if kernel::is_in_grace() => {
            unknown("the NFS server on this machine was restarted, and waits for its clients".to_owned())
        }
        Locks::Local if is_silent => (Lock::NotHeld, ObservedVia::ProcLocks),
        Locks::Nfs if is_silent => ask_server(file),
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
        Ok(false) => unknown("an NFS client does not give back its delegation".to_owned()),
        Err(error) => unknown(format!("an NFS client's delegation cannot be recalled: {}", plain(&error))),
    }
}

fn ask_server(file: &LockFile) -> (Lock, ObservedVia) {
    match kernel::would_be_refused(file) {
        Ok(held) => (if held { Lock::Held } else { Lock::NotHeld }, ObservedVia::Server),
        Err(error) => unknown(format!("the NFS server cannot be asked: {}", plain(&error))),
    }
}

fn unknown(why: String) -> (Lock, ObservedVia) {
    (Lock::Unknown(why), ObservedVia::Nothing)
}

impl Observation {
    pub(crate) fn new(lock: Lock, via: ObservedVia, claim: Claim, walk: Walk) -> Observation {
        let has_file = lock != Lock::NoFile;
        let (notes, looked_at) = (Vec::new(), SystemTime::now());
        Observation { claim, walk, waiters: 0, via, lock, notes, has_file, has_folder: true, may_open: true, looked_at }
    }

    /// Notes what another host, or nobody, may see.
    fn note_remote_locks(&mut self, file: &LockFile) {
        match self.via {
            ObservedVia::Server if self.lock == Lock::Held => self.notes.push("the lock is held by another host"),
            ObservedVia::Probe => self.notes.push(
                "the kernel's lock table proves nothing here, so a shared lock was taken for a moment to find out",
            ),
            _ => {}
        }
        let is_lone = |option: &str| matches!(option, "local_lock=flock" | "local_lock=all" | "nolock");
        if file.locks() == Locks::Nfs && file.mount.options.split(',').any(is_lone) {
            self.notes.push("this NFS mount keeps its locks to this host: hosts do not exclude each other");
            let is_ours = self.claim.recorded().is_none_or(|recorded| recorded.is_from_this_host);
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
