//! What `lock-status` reports: gathered and judged, not yet rendered. Serialized, it is the JSON report:
//! within a schema, fields are only added.

use crate::lock::judge::{Judgement, LockState, WAIT, judge};
use crate::lock::observe::{Observation, ObservedVia, observe};
use crate::lock_status::activity::Activity;
use crate::target::Resolved;
use crate::verdict::Verdict;
use crate::wait::{COSTLY_LOOK_INTERVAL, LOOK_INTERVAL};
use serde::{Serialize, Serializer};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

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
    /// What a held lock's holders do; None if it is not held, or was not asked for.
    pub(crate) activity: Option<Activity>,
    #[serde(rename = "age_seconds", serialize_with = "age_seconds")]
    pub(crate) age: Option<Age>,
}

/// How long the lock has been held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// By its holder's own account.
    Exactly(Duration),
    /// Since the oldest holder has started, which need not be when it took the lock.
    AtLeast(Duration),
}

impl Age {
    fn of(seen: &Observation) -> Option<Age> {
        let since = |start: SystemTime| seen.looked_at.duration_since(start).ok();
        let recorded = seen.claim.recorded().filter(|recorded| recorded.writer.is_running() == Some(true));
        let recorded = recorded.filter(|recorded| !seen.denies(recorded));
        let exactly = recorded.and_then(|recorded| since(recorded.started_at?)).map(Age::Exactly);
        let oldest = || seen.walk.holders.iter().filter_map(|holder| holder.started).min();
        exactly.or_else(|| since(oldest()?).map(Age::AtLeast))
    }

    /// What is known of it.
    pub(crate) fn duration(self) -> Duration {
        let (Age::Exactly(age) | Age::AtLeast(age)) = self;
        age
    }
}

/// How much is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything, which takes a second.
    Whole,
    /// Not what the holders do.
    Quick,
}

impl LockReport {
    /// Looks at the lock.
    pub(crate) fn gather(resolved: &Resolved, look: Look) -> LockReport {
        let seen = observe(&resolved.lock);
        let mut judgement = judge(&seen);
        judgement.notes.extend(resolved.notes.iter().cloned());
        let root = resolved.archive_root.as_ref().map(|root| root.path.as_path());
        let is_wanted = look == Look::Whole && judgement.state == LockState::Held;
        let activity = is_wanted.then(|| Activity::gather(root, &seen.walk.holders));
        let age = if judgement.state == LockState::Held { Age::of(&seen) } else { None };
        let silence = || activity.as_ref()?.next(age?.duration());
        if judgement.next == WAIT
            && let Some(next) = silence()
        {
            judgement.next = next;
        }
        LockReport {
            schema: 1,
            summary: judgement.state.to_string(),
            safe_to_scrape: verdict(&judgement.state) == Verdict::Yes,
            config: resolved.source.path.clone(),
            lock: resolved.lock.clone(),
            judgement,
            seen,
            activity,
            age,
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
}

fn age_seconds<S: Serializer>(age: &Option<Age>, serializer: S) -> Result<S::Ok, S::Error> {
    age.map(|age| age.duration().as_secs()).serialize(serializer)
}

fn verdict(state: &LockState) -> Verdict {
    match state {
        LockState::FreeNoFile | LockState::FreeNotHeld | LockState::Stale(_) => Verdict::Yes,
        LockState::Held => Verdict::No,
        LockState::Unknown(_) => Verdict::Unknown,
    }
}
