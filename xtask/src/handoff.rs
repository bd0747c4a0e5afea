//! `handoff` and `verify-ready`: everything an operator checks before a scrape. Every section runs,
//! whatever fails, and every failure is reported. A new check is a `look` in a file of its own, called from
//! `Readiness::gather`.

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
use report::{Conclusion, Handoff, Readiness, Summary};
use serde::Serialize;

impl cli::Handoff {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let config = ScrapeConfig::new(&resolved.source, resolved.archive_root.as_ref());
        let selection = Selection::new(&self, &config)?;
        let ready = Readiness::gather(&resolved, &config, env)?;
        selection.check_seeded(&ready.targets)?;
        // Last, so that it is as fresh as possible.
        let handoff = Handoff::new(ready, selection, LockReport::gather(&resolved));
        let disk_table = (!self.skip_df).then(|| handoff.ready.summary.disk.table());
        print(self.format.kind, text::handoff(&handoff, disk_table, output::paint(env)), &handoff)?;
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
        let is_ready = if self.disk_only {
            let summary = Summary::disk_only(&resolved, &config, env)?;
            print(self.format.kind, text::disk_only(&summary), &summary)?;
            summary.ready
        } else {
            let ready = Readiness::gather(&resolved, &config, env)?;
            print(self.format.kind, text::readiness(&ready) + &text::conclusion(&ready.summary), &ready)?;
            ready.summary.ready
        };
        Ok(if is_ready { Verdict::Yes } else { Verdict::No })
    }
}

fn print(format: Format, text: String, report: &impl Serialize) -> anyhow::Result<()> {
    output::print(&match format {
        Format::Text => text,
        Format::Json => output::json(report)?,
    })
}
