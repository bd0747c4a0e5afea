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
        Ok(match (self.older_than, report.age) {
            (Some(limit), Some(age)) if age.duration() > limit => Verdict::Code(OLDER),
            (Some(_), None) if verdict == Verdict::No => {
                output::complain("ERROR: it is unknown how long the lock has been held\nhint: ask as root\n");
                Verdict::Unknown
            }
            _ => verdict,
        })
    }
}
