//! What an observation means: free, held, stale or unknown. Pure.

use crate::lock::observe::{Lock, Observation};
use crate::lock::sidecar::{Claim, Recorded, Writer};
use crate::lock::walk::Holder;
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
    if seen.lock == Lock::HeldUnlinked {
        let pids = pids(seen);
        notes.push(format!("the lock file was deleted, replaced or moved; the old one is still held by pid {pids}"));
    } else if !seen.has_folder {
        notes.push("the folder of the lock does not exist, or is not mounted".to_owned());
    } else if !seen.has_file && seen.claim.has_sidecar() {
        notes.push("there is a sidecar but no lock file, which no scrape deletes: somebody else did".to_owned());
    }
    notes.extend(seen.notes.iter().map(|note| (*note).to_owned()));
    if !seen.walk.is_complete && seen.lock == Lock::Held {
        notes.push("some processes cannot be inspected from here, so more may have it open".to_owned());
    }
    let next = next(seen, &state);
    Judgement { state, notes, next }
}

fn state(seen: &Observation) -> LockState {
    let free = match &seen.lock {
        Lock::Held | Lock::HeldUnlinked => return LockState::Held,
        Lock::Unknown(why) => return LockState::Unknown(why.clone()),
        Lock::NoFile => LockState::FreeNoFile,
        Lock::NotHeld => LockState::FreeNotHeld,
    };
    let recorded = seen.claim.recorded();
    if let Some(recorded) = recorded.filter(|recorded| recorded.writer == Writer::Running)
        && seen.walk.recorded_unreadable.is_some()
        && !seen.walk.is_conclusive
    {
        return LockState::Unknown(format!("pid {}, recorded as the holder, cannot be inspected", recorded.pid));
    }
    if seen.may_have_lost_its_file() {
        let why = "there is a sidecar but no lock file, and not every process can be inspected";
        return LockState::Unknown(why.to_owned());
    }
    match recorded {
        Some(recorded) if seen.lock == Lock::NotHeld && recorded.writer.is_running() == Some(false) => {
            LockState::Stale(recorded.pid)
        }
        _ => free,
    }
}

/// The holders' pids, separated by blanks.
fn pids(seen: &Observation) -> String {
    let pids: Vec<String> = seen.walk.holders.iter().map(|holder| holder.pid.to_string()).collect();
    pids.join(" ")
}

fn claim_note(seen: &Observation) -> Option<String> {
    let is_held = matches!(seen.lock, Lock::Held | Lock::HeldUnlinked);
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
        Claim::Recorded(recorded) => writer_note(recorded, is_held, seen),
    }
}

fn writer_note(recorded: &Recorded, is_held: bool, seen: &Observation) -> Option<String> {
    let pid = recorded.pid;
    let why = match (&recorded.writer, &seen.walk.recorded_unreadable) {
        (Writer::Running, _) if is_held || matches!(seen.lock, Lock::Unknown(_)) => return None,
        (Writer::Running, Some(why)) => return Some(format!("the descriptors of pid {pid}: {why}")),
        (Writer::Running, None) => {
            return Some(format!("pid {pid}, recorded as the holder, runs but does not hold this lock"));
        }
        (Writer::OtherHost(host), _) => {
            return Some(format!("the sidecar was written on host {host}; pid {pid} cannot be checked from here"));
        }
        (Writer::Hidden, _) => {
            return Some(format!("pid {pid}, recorded as the holder, cannot be checked from inside a container"));
        }
        (Writer::Gone, _) if !is_held => return None,
        (Writer::Gone, _) => format!("recorded pid {pid} is not running"),
        (Writer::Recycled, _) => format!("pid {pid} is now another process, started after the sidecar was written"),
        (Writer::EarlierBoot, _) => "the sidecar was written before this machine was last started".to_owned(),
    };
    Some(if is_held { format!("{why}; the lock is held by others all the same") } else { why })
}

/// What to do about a scrape that may be expected to end.
pub(crate) const WAIT: &str = "wait until the scrape ends";

fn next(seen: &Observation, state: &LockState) -> String {
    let next = match state {
        LockState::FreeNoFile if !seen.has_folder => {
            "check that the archive is mounted, or create the folder of the lock"
        }
        LockState::FreeNoFile | LockState::FreeNotHeld | LockState::Stale(_) if !seen.may_open => {
            "no scrape runs, but this user cannot start one: check the owner and the mode of the lock file and its folder"
        }
        LockState::FreeNoFile | LockState::FreeNotHeld => "a scrape can start",
        LockState::Stale(_) => "a scrape can start; it replaces the stale sidecar",
        LockState::Unknown(_) => "do not start a scrape; ask again as root, on the host that runs the scrapes",
        LockState::Held if seen.lock == Lock::HeldUnlinked => {
            "wait until that process ends; a scrape started now would run beside it"
        }
        LockState::Held if are_remains(seen) => {
            return format!("wait; or, if that scrape was killed and these are its remains: kill {}", pids(seen));
        }
        LockState::Held => WAIT,
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
        && !seen.walk.holders.is_empty()
        && seen.walk.holders.iter().all(is_settled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::observe::ObservedVia;
    use crate::lock::walk::Walk;
    use crate::text::Foreign;
    use std::time::SystemTime;

    fn seen(lock: Lock, claim: Claim) -> Observation {
        let walk = Walk { is_complete: true, is_conclusive: true, ..Walk::default() };
        Observation::new(lock, ObservedVia::ProcLocks, claim, walk)
    }

    /// The same, where not every process can be inspected.
    fn seen_partly(lock: Lock, claim: Claim) -> Observation {
        Observation { walk: Walk::default(), ..seen(lock, claim) }
    }

    fn recorded(writer: Writer) -> Claim {
        let (pid, is_from_this_host) = (7, false);
        Claim::Recorded(Recorded { pid, started: None, started_at: None, cmd: None, writer, is_from_this_host })
    }

    fn state_of(seen: &Observation) -> String {
        judge(seen).state.to_string()
    }

    fn claims_without_pid() -> Vec<Claim> {
        vec![
            Claim::None,
            Claim::NotASidecar("why".into()),
            Claim::Unreadable("why".into()),
            Claim::NoPid(None),
            Claim::NoPid(Some(Foreign(b"12x".into()))),
        ]
    }

    fn gone() -> [Claim; 3] {
        [Writer::Gone, Writer::Recycled, Writer::EarlierBoot].map(recorded)
    }

    fn every_claim() -> Vec<Claim> {
        let others = [Writer::OtherHost(Foreign(b"nas".into())), Writer::Hidden, Writer::Running].map(recorded);
        claims_without_pid().into_iter().chain(gone()).chain(others).collect()
    }

    #[test]
    fn held_whatever_the_sidecar_says() {
        for claim in every_claim() {
            assert_eq!(state_of(&seen(Lock::Held, claim)), "held (active scrape)");
        }
    }

    #[test]
    fn a_flock_on_what_was_the_lock_file_is_held_and_noted() {
        for claim in every_claim() {
            let judgement = judge(&seen(Lock::HeldUnlinked, claim));
            assert_eq!(judgement.state, LockState::Held);
            assert!(judgement.notes.iter().any(|note| note.contains("deleted, replaced or moved")), "{judgement:?}");
        }
    }

    #[test]
    fn no_file_and_no_sidecar_is_free() {
        for seen in [seen(Lock::NoFile, Claim::None), seen_partly(Lock::NoFile, Claim::None)] {
            assert_eq!(state_of(&seen), "free (no lock file)");
        }
    }

    #[test]
    fn no_file_and_a_sidecar_whose_writer_is_gone_is_free_after_a_complete_walk() {
        for claim in gone() {
            assert_eq!(state_of(&seen(Lock::NoFile, claim)), "free (no lock file)");
        }
    }

    #[test]
    fn no_file_and_a_sidecar_is_unknown_after_an_incomplete_walk() {
        for claim in every_claim().into_iter().filter(Claim::has_sidecar) {
            let state = state_of(&seen_partly(Lock::NoFile, claim));
            assert!(state.starts_with("unknown (there is a sidecar but no lock file"), "{state}");
        }
    }

    #[test]
    fn not_held_without_a_usable_pid_is_free() {
        for claim in claims_without_pid() {
            assert_eq!(state_of(&seen(Lock::NotHeld, claim)), "free (lock file present but not held)");
        }
    }

    #[test]
    fn not_held_and_a_writer_that_is_gone_is_stale() {
        for claim in gone() {
            assert_eq!(state_of(&seen(Lock::NotHeld, claim)), "stale (reclaimable; holder pid 7 is not running)");
        }
    }

    #[test]
    fn not_held_and_written_on_another_host_is_free_with_a_note() {
        let judgement = judge(&seen(Lock::NotHeld, recorded(Writer::OtherHost(Foreign(b"nas".into())))));
        assert_eq!(judgement.state, LockState::FreeNotHeld);
        assert_eq!(judgement.notes, ["the sidecar was written on host nas; pid 7 cannot be checked from here"]);
    }

    #[test]
    fn a_running_writer_whose_descriptors_were_all_seen_is_free_with_a_note() {
        for lock in [Lock::NotHeld, Lock::NoFile] {
            let judgement = judge(&seen(lock, recorded(Writer::Running)));
            assert!(judgement.state.to_string().starts_with("free ("), "{judgement:?}");
            assert_eq!(judgement.notes[0], "pid 7, recorded as the holder, runs but does not hold this lock");
        }
    }

    #[test]
    fn a_running_writer_that_cannot_be_inspected_is_unknown() {
        for lock in [Lock::NotHeld, Lock::NoFile] {
            let mut seen = seen_partly(lock, recorded(Writer::Running));
            seen.walk.recorded_unreadable = Some("permission denied".into());
            assert_eq!(state_of(&seen), "unknown (pid 7, recorded as the holder, cannot be inspected)");
            seen.walk.is_conclusive = true;
            assert!(state_of(&seen).starts_with("free ("), "every flock on the device was met");
        }
    }

    #[test]
    fn what_is_unknown_is_unknown_whatever_the_sidecar_says() {
        for claim in every_claim() {
            assert_eq!(state_of(&seen(Lock::Unknown("why".into()), claim)), "unknown (why)");
        }
    }

    fn holder(pid: i32, age_s: u64) -> Holder {
        let started = SystemTime::now().checked_sub(Duration::from_secs(age_s));
        Holder { pid, command: Foreign(b"tee".into()), user: None, unit: None, container: None, started }
    }

    #[test]
    fn a_recorded_pid_that_runs_and_does_not_hold_the_lock_is_noted() {
        let mut seen = seen(Lock::Held, recorded(Writer::Running));
        seen.walk.holders = vec![holder(12, 60)];
        assert!(judge(&seen).notes[0].contains("pid 7, recorded as the holder, runs but does not hold"));
        seen.walk.holders = vec![holder(7, 60)];
        assert_eq!(judge(&seen).notes, [""; 0]);
        seen.walk.holders = vec![holder(12, 60)];
        seen.walk.is_complete = false;
        assert!(!judge(&seen).notes[0].contains("does not hold"), "it may be one that cannot be inspected");
    }

    #[test]
    fn remains_of_a_killed_scrape_are_named_and_a_new_scrape_is_not() {
        let mut seen = seen(Lock::Held, recorded(Writer::Gone));
        seen.walk.holders = vec![holder(12, 60), holder(13, 60)];
        let next = judge(&seen).next;
        assert!(next.ends_with("kill 12 13"), "{next}");
        seen.walk.holders.push(holder(14, 1));
        assert_eq!(judge(&seen).next, "wait until the scrape ends");
    }

    #[test]
    fn a_scrape_as_old_as_its_sidecar_may_be_is_not_remains() {
        let mut seen = seen(Lock::Held, recorded(Writer::Gone));
        let started = seen.looked_at.checked_sub(SIDECAR_WRITTEN_AFTER);
        seen.walk.holders = vec![Holder { started, ..holder(12, 0) }];
        assert_eq!(judge(&seen).next, WAIT);
    }

    #[test]
    fn a_dead_pid_is_noted_only_beside_another_holder() {
        assert_eq!(judge(&seen(Lock::NotHeld, recorded(Writer::Gone))).notes, [""; 0]);
        let notes = judge(&seen(Lock::Held, recorded(Writer::Gone))).notes;
        assert!(notes[0].starts_with("recorded pid 7 is not running; the lock is held by others"), "{notes:?}");
    }

    #[test]
    fn a_user_who_may_not_open_the_lock_is_told_so() {
        for (lock, claim) in
            [(Lock::NoFile, Claim::None), (Lock::NotHeld, Claim::None), (Lock::NotHeld, recorded(Writer::Gone))]
        {
            let mut seen = seen(lock, claim);
            assert!(judge(&seen).next.starts_with("a scrape can start"));
            seen.may_open = false;
            assert!(judge(&seen).next.starts_with("no scrape runs, but this user cannot start one"));
        }
    }

    #[test]
    fn no_file_is_ever_to_be_deleted() {
        for claim in every_claim() {
            let next = judge(&seen(Lock::Held, claim)).next;
            assert!(!next.contains("delete") && !next.contains("remove") && !next.contains("rm "), "{next}");
        }
    }
}
