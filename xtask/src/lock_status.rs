//! `lock-status`: gather, judge, render.

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
use report::LockReport;

impl cli::LockStatus {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let mut report = LockReport::gather(&resolved);
        if let Some(wait) = self.wait {
            let mut waiting = Waiting::new(wait, env);
            waiting.watch(&report.seen.walk.holders);
            while report.judgement.state == LockState::Held
                && waiting.pause(report.look_interval(), None, &text::waiting_for(&report))?
            {
                if !is_still_held(&resolved.lock) {
                    report = LockReport::gather(&resolved);
                    waiting.watch(&report.seen.walk.holders);
                }
            }
            // It may be as old as the wait.
            if report.judgement.state == LockState::Held {
                report = LockReport::gather(&resolved);
            }
        }
        let paint = output::paint(env);
        let (text, verdict) = match self.format.kind {
            _ if self.reclaim_stale => reclaim::reclaim(&report, paint)?,
            Format::Text => (text::whole(&report, paint), report.verdict()),
            Format::Json => (output::json(&report)?, report.verdict()),
        };
        output::print(&text)?;
        Ok(verdict)
    }
}
