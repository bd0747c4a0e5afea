//! A lock status for programs.

use crate::Verdict;
use crate::lock::ObservedVia;
use crate::lock::state::LockState;
use crate::lock_status::LockReport;
use serde::Serialize;

/// `"schema": 1`. Within a schema fields are only added.
#[derive(Serialize)]
pub(crate) struct Json {
    schema: u32,
    state: &'static str,
    /// The state as the text report has it.
    summary: String,
    safe_to_scrape: bool,
    config: String,
    lock: String,
    recorded: Option<RecordedJson>,
    holders: Vec<HolderJson>,
    holders_complete: bool,
    waiters: usize,
    observed_via: &'static str,
    notes: Vec<String>,
    next: String,
}

/// What the sidecar claims.
#[derive(Serialize)]
struct RecordedJson {
    pid: u64,
    started: Option<String>,
    cmd: Option<String>,
    /// Null when it cannot be told from here.
    running: Option<bool>,
}

#[derive(Serialize)]
struct HolderJson {
    pid: i32,
    command: String,
}

impl LockReport {
    pub(crate) fn json(&self) -> Json {
        let text = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(crate::text::printable);
        let recorded = self.facts.recorded().map(|recorded| RecordedJson {
            pid: recorded.pid,
            started: text(&recorded.started),
            cmd: text(&recorded.cmd),
            running: recorded.is_running(),
        });
        let holders = self.facts.holders.iter();
        Json {
            schema: 1,
            state: match self.judgement.state {
                LockState::FreeNoFile | LockState::FreeNotHeld => "free",
                LockState::Held => "held",
                LockState::Stale(_) => "stale",
                LockState::Unknown(_) => "unknown",
            },
            summary: self.judgement.state.to_string(),
            safe_to_scrape: self.verdict() == Verdict::Yes,
            config: self.config.to_string_lossy().into_owned(),
            lock: self.lock.to_string_lossy().into_owned(),
            recorded,
            holders: holders.map(|holder| HolderJson { pid: holder.pid, command: holder.command.clone() }).collect(),
            holders_complete: self.facts.holders_complete,
            waiters: self.facts.waiters,
            observed_via: match self.facts.via {
                ObservedVia::Path => "path",
                ObservedVia::ProcLocks => "proc-locks",
                ObservedVia::Fdinfo => "fdinfo",
                ObservedVia::Probe => "probe",
                ObservedVia::Nothing => "nothing",
            },
            notes: self.judgement.notes.clone(),
            next: self.judgement.next.clone(),
        }
    }
}
