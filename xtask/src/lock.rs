//! Looking at the scrape lock. A library by rule: no command line, no environment,
//! no printing.

mod holders;
mod identity;
mod kernel;
pub(crate) mod mounts;
pub(crate) mod path;
mod proc;
mod sidecar;
pub(crate) mod state;
mod table;

pub(crate) use holders::Holder;
pub(crate) use kernel::{KernelLock, ObservedVia};

use crate::bounded::plain;
use holders::Search;
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
    /// The folder of the lock exists.
    pub(crate) has_folder: bool,
}

/// What the sidecar claims.
#[derive(Debug)]
pub(crate) enum Claim {
    /// There is no sidecar.
    None,
    /// Something is in its place that was not read, and why.
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
    Running(Descriptors),
}

/// What a look at the descriptors of a recorded process shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Descriptors {
    /// The kernel says who holds the lock: there was no need.
    NotLookedAt,
    /// It has a flock on this path, or on what was there before.
    LockOnThisPath,
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
            Writer::Elsewhere(_) => None,
        }
    }
}

impl LockFacts {
    /// The sidecar's claim, when it names a process.
    pub(crate) fn recorded(&self) -> Option<&Recorded> {
        match &self.claim {
            Claim::Recorded(recorded) => Some(recorded),
            Claim::None | Claim::Unreadable(_) | Claim::NoPid(_) => None,
        }
    }
}

/// Looks at the lock at `lock`, an absolute path, and at its sidecar. Takes, creates,
/// writes and signals nothing.
pub(crate) fn observe(lock: &Path) -> LockFacts {
    let mut sighting = kernel::look(lock);
    let claim = match sidecar::read(lock) {
        Found::Nothing => Claim::None,
        Found::Unreadable(why) => Claim::Unreadable(why),
        Found::Sidecar(sidecar) => claim(sidecar, lock, &sighting.lock),
    };
    if let Claim::Recorded(Recorded { pid, writer: Writer::Running(Descriptors::LockOnThisPath), .. }) = claim
        && let Ok(pid) = i32::try_from(pid)
    {
        let command = proc::command(pid).unwrap_or_default();
        sighting.search = Search { holders: vec![Holder { pid, command }], is_complete: false };
        sighting.via = ObservedVia::Fdinfo;
    }
    LockFacts {
        has_folder: sighting.lock != KernelLock::NoFile || lock.parent().is_none_or(Path::is_dir),
        kernel: sighting.lock,
        via: sighting.via,
        is_fcntl_lock: sighting.is_fcntl_lock,
        waiters: sighting.waiters,
        holders: sighting.search.holders,
        holders_complete: sighting.search.is_complete,
        claim,
    }
}

fn claim(sidecar: Sidecar, lock: &Path, kernel: &KernelLock) -> Claim {
    let started_at = sidecar.started_at();
    match sidecar.pid {
        Some(RecordedPid::Usable(pid)) => {
            let writer = writer(pid, started_at, &sidecar, lock, kernel);
            Claim::Recorded(Recorded { pid, started_at, writer, started: sidecar.started, cmd: sidecar.cmd })
        }
        Some(RecordedPid::Unusable(text)) => Claim::NoPid(Some(text)),
        None => Claim::NoPid(None),
    }
}

fn writer(pid: u64, started_at: Option<SystemTime>, sidecar: &Sidecar, lock: &Path, kernel: &KernelLock) -> Writer {
    let differs = |recorded: &Option<Vec<u8>>, here: Option<String>| match (recorded, here) {
        (Some(recorded), Some(here)) => recorded.trim_ascii() != here.as_bytes(),
        _ => false,
    };
    if differs(&sidecar.host, proc::host()) {
        return Writer::Elsewhere(sidecar.host.clone().unwrap_or_default());
    }
    if differs(&sidecar.boot_id, proc::boot_id()) {
        return Writer::EarlierBoot;
    }
    if !proc::is_running(pid) {
        return Writer::Gone;
    }
    let descriptors = match kernel {
        KernelLock::Held | KernelLock::Unknown(_) => Descriptors::NotLookedAt,
        KernelLock::NotHeld | KernelLock::NoFile => match holders::has_flock_at(pid, lock) {
            Ok(true) => Descriptors::LockOnThisPath,
            Ok(false) => Descriptors::NoLock,
            Err(error) if holders::is_gone(&error) && !proc::is_running(pid) => return Writer::Gone,
            Err(error) => Descriptors::Unreadable(plain(&error)),
        },
    };
    // Its descriptors are looked at first: a clock that was set since must not hide a lock.
    let is_later = |recorded: SystemTime| proc::started_at(pid).is_some_and(|now| now > recorded + STARTED_TOLERANCE);
    if descriptors != Descriptors::LockOnThisPath && started_at.is_some_and(is_later) {
        return Writer::Recycled;
    }
    Writer::Running(descriptors)
}
