//! What an observation means: free, held, stale or unknown. Pure.

use crate::lock::holders::Holder;
use crate::lock::kernel::{KernelLock, ObservedVia};
use crate::lock::observe::Observation;
use crate::lock::sidecar::{Claim, Descriptors, Recorded, Writer};
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// By this age a scrape has written its sidecar.
const SIDECAR_WRITTEN_AFTER: Duration = Duration::from_secs(10);

/// The state of the lock. Its `Display` is what operators' scripts look for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LockState {
    /// No scrape runs; there is no lock file.
    FreeNoFile,
    /// No scrape runs; the lock file is there.
    FreeNotHeld,
    Held,
    /// No scrape runs; the one with this pid left its sidecar.
    Stale(u64),
    /// Why it is unknown.
    Unknown(String),
}

/// A state, and what to know and do about it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Judgement {
    #[serde(serialize_with = "word")]
    pub(crate) state: LockState,
    pub(crate) notes: Vec<String>,
    /// The one thing to do now.
    pub(crate) next: String,
}

/// The state as a program wants it.
fn word<S: Serializer>(state: &LockState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match state {
        LockState::FreeNoFile | LockState::FreeNotHeld => "free",
        LockState::Held => "held",
        LockState::Stale(_) => "stale",
        LockState::Unknown(_) => "unknown",
    })
}

impl fmt::Display for LockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockState::FreeNoFile => write!(f, "free (no lock file)"),
            LockState::FreeNotHeld => write!(f, "free (lock file present but not held)"),
            LockState::Held => write!(f, "held (active scrape)"),
            LockState::Stale(pid) => write!(f, "stale (reclaimable; holder pid {pid} is not running)"),
            LockState::Unknown(why) => write!(f, "unknown ({why})"),
        }
    }
}

/// Judges an observation. Unless it proves that nobody scrapes, the lock is not free.
pub(crate) fn judge(seen: &Observation) -> Judgement {
    let state = state(seen);
    let mut notes = Vec::new();
    notes.extend(claim_note(seen));
    notes.extend(kernel_note(seen));
    if !seen.sighting.search.is_complete && seen.sighting.lock == KernelLock::Held {
        notes.push("some processes cannot be inspected from here, so more may have it open".to_owned());
    }
    let next = next(seen, &state);
    Judgement { state, notes, next }
}

fn state(seen: &Observation) -> LockState {
    let free = match &seen.sighting.lock {
        KernelLock::Held | KernelLock::HeldUnlinked => return LockState::Held,
        KernelLock::Unknown(why) => return LockState::Unknown(why.clone()),
        KernelLock::NoFile => LockState::FreeNoFile,
        KernelLock::NotHeld => LockState::FreeNotHeld,
    };
    let has_file = seen.sighting.lock != KernelLock::NoFile;
    let writer = seen.claim.recorded().map(|recorded| (recorded.pid, &recorded.writer));
    if let Some((pid, Writer::Running(Descriptors::Unreadable(_) | Descriptors::NotLookedAt))) = writer {
        return LockState::Unknown(format!("pid {pid}, recorded as the holder, cannot be inspected"));
    }
    if !has_file && !seen.sighting.search.is_complete && seen.claim.has_sidecar() {
        // Its lock file was deleted, and whoever cannot be inspected may hold it.
        return LockState::Unknown(
            "there is a sidecar but no lock file, and not every process can be inspected".into(),
        );
    }
    let Some((pid, writer)) = writer else { return free };
    match writer {
        Writer::Running(_) | Writer::OtherHost(_) | Writer::Hidden => free,
        Writer::Gone | Writer::Recycled | Writer::EarlierBoot if has_file => LockState::Stale(pid),
        Writer::Gone | Writer::Recycled | Writer::EarlierBoot => free,
    }
}

fn kernel_note(seen: &Observation) -> Option<String> {
    let note = match (&seen.sighting.lock, seen.sighting.via) {
        (KernelLock::HeldUnlinked, _) => {
            return Some(format!(
                "the lock file was deleted, replaced or moved aside; the old one is still held by pid {}",
                pids(seen)
            ));
        }
        (KernelLock::Held, _) if seen.sighting.is_fcntl_lock => {
            "this is an fcntl lock, as an NFS client's looks on its server; a scrape on this machine would not notice it"
        }
        (_, ObservedVia::Probe) => {
            "the kernel's lock table proves nothing here, so a shared lock was taken for a moment to find out"
        }
        (KernelLock::NoFile, _) if !seen.has_folder => "the folder of the lock does not exist, or is not mounted",
        (KernelLock::NoFile, _) if seen.claim.has_sidecar() => {
            "there is a sidecar but no lock file, which no scrape deletes: somebody else did"
        }
        _ => return None,
    };
    Some(note.to_owned())
}

/// The holders' pids, separated by blanks.
fn pids(seen: &Observation) -> String {
    let pids: Vec<String> = seen.sighting.search.holders.iter().map(|holder| holder.pid.to_string()).collect();
    pids.join(" ")
}

fn claim_note(seen: &Observation) -> Option<String> {
    let is_held = matches!(seen.sighting.lock, KernelLock::Held | KernelLock::HeldUnlinked);
    match &seen.claim {
        Claim::None if is_held => {
            Some("there is no sidecar: it may just be written, or a scrape that ended removed it".to_owned())
        }
        Claim::None => None,
        Claim::NotASidecar(why) | Claim::Unreadable(why) => Some(format!("the sidecar cannot be read: {why}")),
        Claim::NoPid(None) => Some("the sidecar names no pid".to_owned()),
        Claim::NoPid(Some(text)) => Some(format!("the sidecar has no usable pid: `{text}`")),
        Claim::Recorded(recorded) if is_held && seen.denies(recorded) => {
            Some(format!("pid {}, recorded as the holder, runs but does not hold this lock; others do", recorded.pid))
        }
        Claim::Recorded(recorded) => writer_note(recorded, is_held),
    }
}

fn writer_note(recorded: &Recorded, is_held: bool) -> Option<String> {
    let pid = recorded.pid;
    let why = match &recorded.writer {
        Writer::Running(Descriptors::NoLock) => {
            return Some(format!("pid {pid}, recorded as the holder, runs but does not hold this lock"));
        }
        Writer::OtherHost(host) => {
            return Some(format!("the sidecar was written on host {host}; pid {pid} cannot be checked from here"));
        }
        Writer::Hidden => {
            return Some(format!("pid {pid}, recorded as the holder, cannot be checked from inside a container"));
        }
        Writer::Running(Descriptors::Unreadable(why)) => return Some(format!("the descriptors of pid {pid}: {why}")),
        Writer::Running(Descriptors::NotLookedAt) => return None,
        Writer::Gone if !is_held => return None,
        Writer::Gone => format!("recorded pid {pid} is not running"),
        Writer::Recycled => format!("pid {pid} is now another process, started after the sidecar was written"),
        Writer::EarlierBoot => "the sidecar was written before this machine was last started".to_owned(),
    };
    Some(if is_held { format!("{why}; the lock is held by others all the same") } else { why })
}

fn next(seen: &Observation, state: &LockState) -> String {
    let next = match state {
        LockState::FreeNoFile | LockState::FreeNotHeld => "a scrape can start",
        LockState::Stale(_) => "a scrape can start; it replaces the stale sidecar",
        LockState::Unknown(_) => "do not start a scrape; ask again as root, on the host that runs the scrapes",
        LockState::Held if seen.sighting.lock == KernelLock::HeldUnlinked => {
            "wait until that process ends; a scrape started now would run beside it"
        }
        LockState::Held if are_remains(seen) => {
            return format!("wait; or, if that scrape was killed and these are its remains: kill {}", pids(seen));
        }
        LockState::Held => "wait until the scrape ends",
    };
    next.to_owned()
}

/// Whether the holders are the remains of a scrape whose recorded process has ended. A new scrape has a
/// dead pid in its sidecar too, until it has written its own.
fn are_remains(seen: &Observation) -> bool {
    let is_settled = |holder: &Holder| {
        let age = holder.started.and_then(|started| seen.looked_at.duration_since(started).ok());
        age.is_some_and(|age| age > SIDECAR_WRITTEN_AFTER)
    };
    seen.claim.recorded().and_then(|recorded| recorded.writer.is_running()) == Some(false)
        && !seen.sighting.search.holders.is_empty()
        && seen.sighting.search.holders.iter().all(is_settled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::holders::Search;
    use crate::lock::kernel::Sighting;
    use crate::text::Foreign;
    use std::time::SystemTime;

    fn seen(kernel: KernelLock, claim: Claim) -> Observation {
        Observation {
            sighting: Sighting {
                lock: kernel,
                search: Search { holders: Vec::new(), is_complete: true },
                waiters: 0,
                via: ObservedVia::ProcLocks,
                is_fcntl_lock: false,
            },
            claim,
            has_file: true,
            has_folder: true,
            looked_at: SystemTime::now(),
        }
    }

    fn recorded(writer: Writer) -> Claim {
        Claim::Recorded(Recorded { pid: 7, started: None, started_at: None, cmd: None, writer })
    }

    fn state_of(kernel: KernelLock, claim: Claim) -> (String, Vec<String>) {
        let judgement = judge(&seen(kernel, claim));
        (judgement.state.to_string(), judgement.notes)
    }

    fn every_claim() -> Vec<Claim> {
        let unreadable = Descriptors::Unreadable("why".into());
        vec![
            Claim::None,
            Claim::NotASidecar("why".into()),
            Claim::NoPid(None),
            Claim::NoPid(Some(Foreign(b"12x".into()))),
            recorded(Writer::Gone),
            recorded(Writer::Recycled),
            recorded(Writer::EarlierBoot),
            recorded(Writer::OtherHost(Foreign(b"other".into()))),
            recorded(Writer::Running(Descriptors::NoLock)),
            recorded(Writer::Hidden),
            recorded(Writer::Running(unreadable)),
            Claim::Unreadable("why".into()),
        ]
    }

    #[test]
    fn row_1_held_whatever_the_sidecar_says() {
        for claim in every_claim() {
            assert_eq!(state_of(KernelLock::Held, claim).0, "held (active scrape)");
        }
        for claim in every_claim() {
            assert_eq!(state_of(KernelLock::HeldUnlinked, claim).0, "held (active scrape)");
        }
    }

    #[test]
    fn rows_2_and_3_free_without_a_live_claim() {
        for claim in every_claim().into_iter().take(4) {
            assert_eq!(state_of(KernelLock::NotHeld, claim).0, "free (lock file present but not held)");
        }
        for claim in every_claim().into_iter().take(8) {
            assert_eq!(state_of(KernelLock::NoFile, claim).0, "free (no lock file)");
        }
    }

    #[test]
    fn row_4_stale_when_the_writer_is_gone() {
        for writer in [Writer::Gone, Writer::Recycled, Writer::EarlierBoot] {
            let (state, _) = state_of(KernelLock::NotHeld, recorded(writer));
            assert_eq!(state, "stale (reclaimable; holder pid 7 is not running)");
        }
    }

    #[test]
    fn row_5_free_with_a_note_when_written_on_another_host() {
        let (state, notes) = state_of(KernelLock::NotHeld, recorded(Writer::OtherHost(Foreign(b"nas".into()))));
        assert_eq!(state, "free (lock file present but not held)");
        assert_eq!(notes, ["the sidecar was written on host nas; pid 7 cannot be checked from here"]);
    }

    #[test]
    fn rows_6_to_8_a_live_writer_decides_by_its_descriptors() {
        for kernel in [KernelLock::NotHeld, KernelLock::NoFile] {
            let with = |descriptors| state_of(kernel.clone(), recorded(Writer::Running(descriptors)));
            let (free, notes) = with(Descriptors::NoLock);
            assert!(free.starts_with("free ("), "{free}");
            let is_noted =
                notes.iter().any(|note| note.contains("pid 7, recorded as the holder, runs but does not hold"));
            assert!(is_noted, "{notes:?}");
            let (unknown, _) = with(Descriptors::Unreadable("why".into()));
            assert_eq!(unknown, "unknown (pid 7, recorded as the holder, cannot be inspected)");
        }
    }

    #[test]
    fn row_9_unknown_whatever_the_sidecar_says() {
        for claim in every_claim() {
            assert_eq!(state_of(KernelLock::Unknown("why".into()), claim).0, "unknown (why)");
        }
    }

    #[test]
    fn without_a_lock_file_whoever_cannot_be_inspected_may_hold_it() {
        for claim in every_claim().into_iter().skip(2) {
            let mut seen = seen(KernelLock::NoFile, claim);
            seen.sighting.search.is_complete = false;
            assert!(matches!(judge(&seen).state, LockState::Unknown(_)), "{:?}", seen.claim);
        }
        for claim in [Claim::Unreadable("why".into()), recorded(Writer::Hidden)] {
            assert_eq!(state_of(KernelLock::NotHeld, claim).0, "free (lock file present but not held)");
        }
    }

    #[test]
    fn a_recorded_pid_that_runs_and_does_not_hold_the_lock_is_noted() {
        let mut seen = seen(KernelLock::Held, recorded(Writer::Running(Descriptors::NotLookedAt)));
        seen.sighting.search.holders = vec![holder(12, 60)];
        assert!(judge(&seen).notes[0].contains("pid 7, recorded as the holder, runs but does not hold"));
        seen.sighting.search.holders = vec![holder(7, 60)];
        assert_eq!(judge(&seen).notes, [""; 0]);
        seen.sighting.search.holders = vec![holder(12, 60)];
        seen.sighting.search.is_complete = false;
        assert!(!judge(&seen).notes[0].contains("does not hold"), "it may be one that cannot be inspected");
    }

    fn holder(pid: i32, age_s: u64) -> Holder {
        let started = SystemTime::now().checked_sub(Duration::from_secs(age_s));
        Holder { pid, command: Foreign(b"tee".into()), started }
    }

    #[test]
    fn remains_of_a_killed_scrape_are_named_and_a_new_scrape_is_not() {
        let mut seen = seen(KernelLock::Held, recorded(Writer::Gone));
        seen.sighting.search.holders = vec![holder(12, 60), holder(13, 60)];
        let next = judge(&seen).next;
        assert!(next.ends_with("kill 12 13"), "{next}");
        seen.sighting.search.holders.push(holder(14, 1));
        assert_eq!(judge(&seen).next, "wait until the scrape ends");
    }

    #[test]
    fn no_file_is_ever_to_be_deleted() {
        for claim in every_claim() {
            let next = judge(&seen(KernelLock::Held, claim)).next;
            assert!(!next.contains("delete") && !next.contains("remove") && !next.contains("rm "), "{next}");
        }
    }
}
