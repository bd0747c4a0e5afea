//! From what was seen to what it means: the contract's table as a pure function.

use crate::lock::{Claim, Descriptors, KernelLock, LockFacts, ObservedVia, Recorded, Writer};
use crate::text::printable;
use std::fmt;

/// The state of the lock. It prints as operators' scripts know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LockState {
    /// No scrape runs; there is no lock file.
    FreeNoFile,
    /// No scrape runs; the lock file is there.
    FreeNotHeld,
    Held,
    /// No scrape runs; this recorded pid left its sidecar behind.
    Stale(u64),
    /// It cannot be told, and why.
    Unknown(String),
}

/// A state with what a reader needs beside it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) state: LockState,
    pub(crate) notes: Vec<String>,
    /// The one thing to do now.
    pub(crate) next: String,
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

/// What the facts mean. Whatever does not prove that nobody scrapes is not `free`.
pub(crate) fn judge(facts: &LockFacts) -> Judgement {
    let state = state(facts);
    let mut notes = Vec::new();
    notes.extend(kernel_note(facts));
    notes.extend(claim_note(facts));
    if !facts.holders_complete && facts.kernel == KernelLock::Held {
        notes.push("some processes cannot be inspected, so more may have it open (root sees all)".to_owned());
    }
    let next = next(facts, &state);
    Judgement { state, notes, next }
}

fn state(facts: &LockFacts) -> LockState {
    let free = match &facts.kernel {
        KernelLock::Held => return LockState::Held,
        KernelLock::Unknown(why) => return LockState::Unknown(why.clone()),
        KernelLock::NoFile => LockState::FreeNoFile,
        KernelLock::NotHeld => LockState::FreeNotHeld,
    };
    let Some(Recorded { pid, writer, .. }) = facts.recorded() else { return free };
    match writer {
        Writer::Running(Descriptors::LockOnThisPath) => LockState::Held,
        Writer::Running(Descriptors::NoLock) | Writer::Elsewhere(_) => free,
        Writer::Running(Descriptors::Unreadable(_) | Descriptors::NotLookedAt) => {
            LockState::Unknown(format!("pid {pid}, recorded as the holder, cannot be inspected"))
        }
        Writer::Gone | Writer::Recycled | Writer::EarlierBoot => match facts.kernel {
            KernelLock::NoFile => free,
            _ => LockState::Stale(*pid),
        },
    }
}

fn kernel_note(facts: &LockFacts) -> Option<String> {
    let note = match (&facts.kernel, facts.via) {
        (KernelLock::Held, _) if facts.is_fcntl_lock => {
            "this is an fcntl lock, as an NFS client's looks on its server; a scrape on this machine would not notice it"
        }
        (_, ObservedVia::Probe) => {
            "the kernel's lock table proves nothing here, so a shared lock was taken for a moment to find out"
        }
        (KernelLock::NoFile, _) if !facts.has_folder => "the folder of the lock does not exist, or is not mounted",
        _ => return None,
    };
    Some(note.to_owned())
}

fn claim_note(facts: &LockFacts) -> Option<String> {
    let is_held = facts.kernel == KernelLock::Held;
    match &facts.claim {
        Claim::None if is_held => {
            Some("there is no sidecar: it may just be written, or a scrape that ended removed it".to_owned())
        }
        Claim::None => None,
        Claim::Unreadable(why) => Some(format!("the sidecar cannot be read: {why}")),
        Claim::NoPid(None) => Some("the sidecar names no pid".to_owned()),
        Claim::NoPid(Some(text)) => Some(format!("the sidecar has no usable pid: `{}`", printable(text))),
        Claim::Recorded(recorded) => writer_note(recorded, is_held),
    }
}

fn writer_note(recorded: &Recorded, is_held: bool) -> Option<String> {
    let pid = recorded.pid;
    let why = match &recorded.writer {
        Writer::Running(Descriptors::LockOnThisPath) => {
            return Some(format!(
                "the lock file was deleted or replaced under pid {pid}, which still holds the lock on the old one"
            ));
        }
        Writer::Running(Descriptors::NoLock) => {
            return Some(format!("pid {pid}, recorded as the holder, runs but does not hold this lock"));
        }
        Writer::Elsewhere(host) => {
            return Some(format!(
                "the sidecar was written on host {}; pid {pid} cannot be checked from here",
                printable(host)
            ));
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

fn next(facts: &LockFacts, state: &LockState) -> String {
    match state {
        LockState::FreeNoFile | LockState::FreeNotHeld => "a scrape can start".to_owned(),
        LockState::Stale(_) => "a scrape can start; it replaces the stale sidecar".to_owned(),
        LockState::Unknown(_) => {
            "do not start a scrape; ask again as root, on the host that runs the scrapes".to_owned()
        }
        LockState::Held if facts.kernel != KernelLock::Held => {
            "wait until that process ends; a scrape started now would run beside it".to_owned()
        }
        LockState::Held => match facts.recorded().and_then(Recorded::is_running) {
            Some(false) if !facts.holders.is_empty() => {
                let pids: Vec<String> = facts.holders.iter().map(|holder| holder.pid.to_string()).collect();
                format!("wait; or, if that scrape was killed and these are its remains: kill {}", pids.join(" "))
            }
            _ => "wait until the scrape ends".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Holder;

    fn facts(kernel: KernelLock, claim: Claim) -> LockFacts {
        LockFacts {
            kernel,
            via: ObservedVia::ProcLocks,
            is_fcntl_lock: false,
            waiters: 0,
            holders: Vec::new(),
            holders_complete: true,
            claim,
            has_folder: true,
        }
    }

    fn recorded(writer: Writer) -> Claim {
        Claim::Recorded(Recorded { pid: 7, started: None, started_at: None, cmd: None, writer })
    }

    fn state_of(kernel: KernelLock, claim: Claim) -> (String, Vec<String>) {
        let judgement = judge(&facts(kernel, claim));
        (judgement.state.to_string(), judgement.notes)
    }

    fn every_claim() -> Vec<Claim> {
        let unreadable = Descriptors::Unreadable("why".into());
        vec![
            Claim::None,
            Claim::Unreadable("why".into()),
            Claim::NoPid(None),
            Claim::NoPid(Some(b"12x".into())),
            recorded(Writer::Gone),
            recorded(Writer::Recycled),
            recorded(Writer::EarlierBoot),
            recorded(Writer::Elsewhere(b"other".into())),
            recorded(Writer::Running(Descriptors::NoLock)),
            recorded(Writer::Running(Descriptors::LockOnThisPath)),
            recorded(Writer::Running(unreadable)),
        ]
    }

    #[test]
    fn row_1_held_whatever_the_sidecar_says() {
        for claim in every_claim() {
            assert_eq!(state_of(KernelLock::Held, claim).0, "held (active scrape)");
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
        let (state, notes) = state_of(KernelLock::NotHeld, recorded(Writer::Elsewhere(b"nas".into())));
        assert_eq!(state, "free (lock file present but not held)");
        assert_eq!(notes, ["the sidecar was written on host nas; pid 7 cannot be checked from here"]);
    }

    #[test]
    fn rows_6_to_8_a_live_writer_decides_by_its_descriptors() {
        for kernel in [KernelLock::NotHeld, KernelLock::NoFile] {
            let with = |descriptors| state_of(kernel.clone(), recorded(Writer::Running(descriptors)));
            let (held, notes) = with(Descriptors::LockOnThisPath);
            assert_eq!(held, "held (active scrape)");
            assert!(notes[0].contains("deleted or replaced under pid 7"), "{notes:?}");
            let (free, notes) = with(Descriptors::NoLock);
            assert!(free.starts_with("free ("), "{free}");
            assert!(notes[0].contains("pid 7, recorded as the holder, runs but does not hold"), "{notes:?}");
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
    fn remains_of_a_killed_scrape_are_named_and_no_file_is_to_be_deleted() {
        let mut facts = facts(KernelLock::Held, recorded(Writer::Gone));
        facts.holders = vec![Holder { pid: 12, command: "tee".into() }, Holder { pid: 13, command: "cat".into() }];
        let next = judge(&facts).next;
        assert!(next.ends_with("kill 12 13"), "{next}");
        for claim in every_claim() {
            let next = judge(&self::facts(KernelLock::Held, claim)).next;
            assert!(!next.contains("delete") && !next.contains("remove") && !next.contains("rm "), "{next}");
        }
    }
}
