//! `handoff` and `verify-ready`: everything an operator checks before a scrape. Every section runs,
//! whatever fails, and every failure is reported.

mod archives;
mod auth;
mod check;
mod compose;
mod disk;
mod plan;
mod report;
mod text;

use crate::cli::{self, Format};
use crate::config::targets::ScrapeConfig;
use crate::env::Env;
use crate::lock_status::report::LockReport;
use crate::output;
use crate::target::Resolved;
use crate::verdict::Verdict;
use plan::Selection;
use report::{Conclusion, DiskOnly, Handoff, Readiness};
use text::DiskSummary;

impl cli::Handoff {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let config = ScrapeConfig::new(&resolved.source, resolved.archive_root.as_ref());
        let selection = Selection::new(self.target.as_deref(), &self.channels, &config)?;
        let ready = Readiness::gather(&resolved, &config, env)?;
        selection.check_seeded(&ready.targets)?;
        // Last, so that it is as fresh as possible.
        let handoff = Handoff::new(ready, selection, LockReport::gather(&resolved));
        let disk_summary = if self.skip_df { DiskSummary::Hidden } else { DiskSummary::Shown };
        output::print(&match self.format.kind {
            Format::Text => text::handoff(&handoff, disk_summary, output::paint(env)),
            Format::Json => output::json(&handoff)?,
        })?;
        Ok(match handoff.conclusion {
            Conclusion::Held if self.require_free => Verdict::No,
            Conclusion::Complete | Conclusion::Held => Verdict::Yes,
            Conclusion::LockUnknown => Verdict::Unknown,
            Conclusion::Failed => Verdict::No,
        })
    }
}

impl cli::VerifyReady {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let config = ScrapeConfig::new(&resolved.source, resolved.archive_root.as_ref());
        let (report, is_ready) = if self.disk_only {
            let disk_only = DiskOnly::gather(&resolved, &config, env)?;
            let report = match self.format.kind {
                Format::Text => text::disk_only(&disk_only),
                Format::Json => output::json(&disk_only)?,
            };
            (report, disk_only.ready)
        } else {
            let ready = Readiness::gather(&resolved, &config, env)?;
            let report = match self.format.kind {
                Format::Text => text::readiness(&ready) + &text::conclusion(&ready),
                Format::Json => output::json(&ready)?,
            };
            (report, ready.ready)
        };
        output::print(&report)?;
        Ok(if is_ready { Verdict::Yes } else { Verdict::No })
    }
}
