//! What `lock-status` reports: gathered and judged, not yet rendered. Serialized, it is the JSON report:
//! within a schema, fields are only added.

use crate::lock::judge::{Judgement, LockState, judge};
use crate::lock::observe::{Observation, ObservedVia, observe};
use crate::target::Resolved;
use crate::verdict::Verdict;
use crate::wait::{COSTLY_LOOK_INTERVAL, LOOK_INTERVAL};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Serialize)]
pub(crate) struct LockReport {
    schema: u32,
    /// The state as the text report has it.
    summary: String,
    safe_to_scrape: bool,
    #[serde(serialize_with = "crate::text::lossy")]
    pub(crate) config: PathBuf,
    #[serde(serialize_with = "crate::text::lossy")]
    pub(crate) lock: PathBuf,
    #[serde(flatten)]
    pub(crate) judgement: Judgement,
    #[serde(flatten)]
    pub(crate) seen: Observation,
}

impl LockReport {
    /// Looks at the lock.
    pub(crate) fn gather(resolved: &Resolved) -> LockReport {
        let seen = observe(&resolved.lock);
        let mut judgement = judge(&seen);
        judgement.notes.extend(resolved.notes.iter().cloned());
        LockReport {
            schema: 1,
            summary: judgement.state.to_string(),
            safe_to_scrape: verdict(&judgement.state) == Verdict::Yes,
            config: resolved.source.path.clone(),
            lock: resolved.lock.clone(),
            judgement,
            seen,
        }
    }

    /// Whether a scrape may start.
    pub(crate) fn verdict(&self) -> Verdict {
        verdict(&self.judgement.state)
    }

    /// How soon a held lock may be looked at again.
    pub(crate) fn look_interval(&self) -> Duration {
        if self.seen.via == ObservedVia::ProcLocks { LOOK_INTERVAL } else { COSTLY_LOOK_INTERVAL }
    }

    /// How long the lock has been held, by its holder's own account.
    pub(crate) fn age(&self) -> Option<Duration> {
        let recorded = self.seen.claim.recorded().filter(|recorded| recorded.writer.is_running() == Some(true))?;
        let is_holders = self.judgement.state == LockState::Held && !self.seen.denies(recorded);
        self.seen.looked_at.duration_since(recorded.started_at.filter(|_| is_holders)?).ok()
    }
}

fn verdict(state: &LockState) -> Verdict {
    match state {
        LockState::FreeNoFile | LockState::FreeNotHeld | LockState::Stale(_) => Verdict::Yes,
        LockState::Held => Verdict::No,
        LockState::Unknown(_) => Verdict::Unknown,
    }
}
