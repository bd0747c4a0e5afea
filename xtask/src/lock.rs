//! Looking at the scrape lock. A library by rule: no command line, no environment,
//! no printing.

pub(crate) mod guard;
mod holders;
mod identity;
mod kernel;
mod lost;
pub(crate) mod mounts;
pub(crate) mod path;
mod proc;
mod sidecar;
pub(crate) mod state;
mod table;

pub(crate) use holders::Holder;
pub(crate) use holders::processes;
pub(crate) use kernel::{KernelLock, ObservedVia};
pub(crate) use proc::{command, sees_every_process};

use kernel::Sighting;
use sidecar::{Found, RecordedPid, Sidecar};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A process that started this much later than the sidecar says is another one under
/// the same pid.
const STARTED_TOLERANCE: Duration = Duration::from_secs(2);

/// Everything that can be seen of a lock, before it is judged.
#[derive(Debug)]
pub(crate) struct LockFacts {
    pub(crate) kernel: KernelLock,
    pub(crate) via: ObservedVia,
    pub(crate) is_fcntl_lock: bool,
    pub(crate) waiters: usize,
    /// Who has the locked descriptor, by pid.
    pub(crate) holders: Vec<Holder>,
    /// Every process could be looked into for that.
    pub(crate) holders_complete: bool,
    pub(crate) claim: Claim,
    /// There is a file at the lock's path.
    pub(crate) has_file: bool,
    /// The folder of the lock exists.
    pub(crate) has_folder: bool,
    pub(crate) looked_at: SystemTime,
}

/// What the sidecar claims.
#[derive(Debug)]
pub(crate) enum Claim {
    /// There is no sidecar.
    None,
    /// Something else is in its place, and what.
    NotASidecar(String),
    /// What may be one could not be read, and why.
    Unreadable(String),
    /// It names no process; what stands behind `pid=`, if anything does.
    NoPid(Option<Vec<u8>>),
    Recorded(Recorded),
}

/// A sidecar with a usable pid. The texts are foreign.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) pid: u64,
    pub(crate) started: Option<Vec<u8>>,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) cmd: Option<Vec<u8>>,
    pub(crate) writer: Writer,
}

/// What has become of the process that wrote the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Writer {
    /// No process has its pid.
    Gone,
    /// Another process has its pid now.
    Recycled,
    /// It ran before this machine was started.
    EarlierBoot,
    /// It runs, or ran, on this other host; foreign text.
    Elsewhere(Vec<u8>),
    /// It is not seen from here, a container, where not all are.
    OutOfSight,
    Running(Descriptors),
}

/// What a look at the descriptors of a recorded process shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Descriptors {
    /// The kernel says who holds the lock: there was no need.
    NotLookedAt,
    /// It has no flock on this lock file, nor on what was there before.
    NoLock,
    /// They cannot be read, and why.
    Unreadable(String),
}

impl Recorded {
    /// Whether the process that wrote the sidecar runs; None when that cannot be told
    /// from here.
    pub(crate) fn is_running(&self) -> Option<bool> {
        match self.writer {
            Writer::Running(_) => Some(true),
            Writer::Gone | Writer::Recycled | Writer::EarlierBoot => Some(false),
            Writer::Elsewhere(_) | Writer::OutOfSight => None,
        }
    }
}

impl LockFacts {
    /// Whether the recorded process runs and yet is certainly none of the holders.
    pub(crate) fn denies(&self, recorded: &Recorded) -> bool {
        let is_holder = |holder: &Holder| u64::try_from(holder.pid) == Ok(recorded.pid);
        let has_others = self.holders_complete && !self.holders.is_empty() && !self.holders.iter().any(is_holder);
        recorded.is_running() == Some(true) && has_others
    }

    /// The sidecar's claim, when it names a process.
    pub(crate) fn recorded(&self) -> Option<&Recorded> {
        match &self.claim {
            Claim::Recorded(recorded) => Some(recorded),
            Claim::None | Claim::NotASidecar(_) | Claim::Unreadable(_) | Claim::NoPid(_) => None,
        }
    }
}

/// Looks at the lock at `lock`, an absolute path, and at its sidecar. Takes, creates,
/// writes and signals nothing.
pub(crate) fn observe(lock: &Path) -> LockFacts {
    let mut sighting = kernel::look(lock);
    let has_file = sighting.lock != KernelLock::NoFile;
    let mut claim = claim(sidecar::read(lock));
    let has_sidecar = !matches!(claim, Claim::None | Claim::NotASidecar(_));
    // The runner leaves its lock file where it is: without one it may have been deleted.
    if sighting.lock == KernelLock::NoFile || (sighting.lock == KernelLock::NotHeld && has_sidecar) {
        look_for_lost(lock, &mut sighting, &mut claim);
    }
    LockFacts {
        has_file: has_file || sighting.lock == KernelLock::Held,
        has_folder: has_file || lock.parent().is_none_or(Path::is_dir),
        looked_at: SystemTime::now(),
        claim,
        kernel: sighting.lock,
        via: sighting.via,
        is_fcntl_lock: sighting.is_fcntl_lock,
        waiters: sighting.waiters,
        holders: sighting.search.holders,
        holders_complete: sighting.search.is_complete,
    }
}

/// Looks for a lock on a file that is not at the path any more.
fn look_for_lost(lock: &Path, sighting: &mut Sighting, claim: &mut Claim) {
    let recorded = lost::recorded_writer(claim);
    let found = lost::search(lock, recorded);
    if found.is_taken || !found.holders.is_empty() {
        let again = kernel::look(lock);
        if again.lock == KernelLock::Held {
            *sighting = again;
            return;
        }
    }
    if !found.holders.is_empty() {
        *sighting = Sighting::lost(found.holders, found.is_complete);
        return;
    }
    sighting.search.is_complete = found.is_complete;
    if let Claim::Recorded(Recorded { writer: Writer::Running(descriptors), .. }) = claim {
        *descriptors = found.recorded_unreadable.map_or(Descriptors::NoLock, Descriptors::Unreadable);
    }
}

fn claim(found: Found) -> Claim {
    let sidecar = match found {
        Found::Nothing => return Claim::None,
        Found::NotASidecar(what) => return Claim::NotASidecar(what),
        Found::Unreadable(why) => return Claim::Unreadable(why),
        Found::Sidecar(sidecar) => sidecar,
    };
    match sidecar.pid {
        Some(RecordedPid::Usable(pid)) => {
            let started_at = sidecar.started_at();
            let writer = writer(pid, started_at, &sidecar);
            Claim::Recorded(Recorded { pid, started_at, writer, started: sidecar.started, cmd: sidecar.cmd })
        }
        Some(RecordedPid::Unusable(text)) => Claim::NoPid(Some(text)),
        None => Claim::NoPid(None),
    }
}

/// What has become of the writer; its descriptors are not looked at yet.
fn writer(pid: u64, started_at: Option<SystemTime>, sidecar: &Sidecar) -> Writer {
    let differs = |recorded: Option<&[u8]>, here: Option<String>| match (recorded, here) {
        (Some(recorded), Some(here)) => recorded != here.as_bytes(),
        _ => false,
    };
    if differs(sidecar.host(), proc::host()) {
        return Writer::Elsewhere(sidecar.host.clone().unwrap_or_default());
    }
    if differs(sidecar.boot_id(), proc::boot_id()) {
        return Writer::EarlierBoot;
    }
    let is_later = |recorded: SystemTime| proc::started_at(pid).is_some_and(|now| now > recorded + STARTED_TOLERANCE);
    match proc::is_running(pid) {
        true if !started_at.is_some_and(is_later) => Writer::Running(Descriptors::NotLookedAt),
        _ if proc::may_be_out_of_sight(pid) => Writer::OutOfSight,
        true => Writer::Recycled,
        false => Writer::Gone,
    }
}
