//! `lock-status`: gather, judge, render.

mod activity;
pub(crate) mod reclaim;
pub(crate) mod report;
pub(crate) mod text;

use crate::cli::{self, Format};
use crate::env::Env;
use crate::lock::judge::LockState;
use crate::lock::observe::is_still_held;
use crate::output;
use crate::target::Resolved;
use crate::verdict::Verdict;
use crate::wait::Waiting;
use report::{LockReport, Look};
use std::time::Duration;

/// The exit code when the lock has been held for longer than asked.
const OLDER: u8 = 3;

impl cli::LockStatus {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let look = if self.quick { Look::Quick } else { Look::Whole };
        let first = if self.wait.is_some() { Look::Quick } else { look };
        let mut report = LockReport::gather(&resolved, first);
        if let Some(wait) = self.wait {
            let mut waiting = Waiting::new(wait, env);
            waiting.watch(&report.seen.walk.holders);
            while report.judgement.state == LockState::Held
                && waiting.pause(report.look_interval(), None, &text::waiting_for(&report))?
            {
                if !is_still_held(&resolved.lock) {
                    report = LockReport::gather(&resolved, Look::Quick);
                    waiting.watch(&report.seen.walk.holders);
                }
            }
            // It may be as old as the wait.
            if report.judgement.state == LockState::Held {
                report = LockReport::gather(&resolved, look);
            }
        }
        let paint = output::paint(env);
        let (text, verdict) = match self.format.kind {
            _ if self.reclaim_stale => reclaim::reclaim(&report, paint)?,
            Format::Text => (text::whole(&report, paint), report.verdict()),
            Format::Json => (output::json(&report)?, report.verdict()),
        };
        output::print(&text)?;
        let is_older = |limit: Duration| report.age().is_some_and(|age| age.duration() > limit);
        let is_too_old = self.older_than.and_then(|limit| limit.0).is_some_and(is_older);
        Ok(if is_too_old { Verdict::Code(OLDER) } else { verdict })
    }
}
