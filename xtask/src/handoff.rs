//! `handoff` and `verify-ready`: everything an operator checks before a scrape. Every section runs,
//! whatever fails, and every failure is reported. A new check is a function, and a line in `checks.rs`.

pub(crate) mod archive;
mod archives;
mod auth;
pub(crate) mod check;
pub(crate) mod checks;
mod compose;
mod disk;
mod export;
pub(crate) mod facts;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod text;
mod trial;
mod watch;

use crate::cli::{self, CheckOptions, Format};
use crate::config::targets::ScrapeConfig;
use crate::env::Env;
use crate::lock_status::report::{LockReport, Look};
use crate::output::{self, with_progress};
use crate::target::Resolved;
use crate::verdict::Verdict;
use anyhow::bail;
use archive::Reads;
use checks::{DISK_ONLY, KINDS, TRUNCATED};
use facts::Facts;
use plan::{Asked, Selection};
use report::{Handoff, Readiness, Summary};
use serde::Serialize;

impl cli::Handoff {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        if self.checks.list {
            return list();
        }
        let reads = reads(&self.checks, true)?;
        let (printed, verdict) = with_progress(env, |progress| {
            let resolved = Resolved::new(self.config.path.as_deref(), env)?;
            let config = ScrapeConfig::new(&resolved.source, resolved.archive_root.as_ref());
            let selection = Selection::new(&config, self.target.as_deref(), &self.channels)?;
            let facts = Facts::new(&resolved, selection, reads, env, progress)?;
            if !self.checks.only.is_empty() {
                return only(&facts, &self.checks, self.format.kind);
            }
            let ready = Readiness::gather(&facts, &self.checks.ignore)?;
            facts.check_channels()?;
            progress.now("looking at the lock".to_owned());
            // Last, so that it is as fresh as possible.
            let report = Handoff::new(&facts, ready, LockReport::gather(&resolved, Look::Whole));
            let text = || text::handoff(&report, &facts.selection, !self.skip_df, output::paint(env));
            Ok((rendered(self.format.kind, &report, text)?, report.conclusion.verdict(self.require_free)))
        })?;
        output::print(&printed)?;
        Ok(verdict)
    }
}

impl cli::VerifyReady {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        if self.checks.list {
            return list();
        }
        let reads = reads(&self.checks, !self.disk_only)?;
        let (printed, verdict) = with_progress(env, |progress| {
            let resolved = Resolved::new(self.config.path.as_deref(), env)?;
            let config = ScrapeConfig::new(&resolved.source, resolved.archive_root.as_ref());
            let asked = if self.disk_only { Asked::Nothing } else { Asked::Enabled };
            let selection = Selection { config: &config, asked, channels: &[] };
            let facts = Facts::new(&resolved, selection, reads, env, progress)?;
            let (kind, ignored) = (self.format.kind, &self.checks.ignore);
            if !self.checks.only.is_empty() {
                return only(&facts, &self.checks, kind);
            }
            if self.disk_only {
                let report = Summary::new(&facts, facts.check(|id| DISK_ONLY.contains(&id), ignored)?);
                return Ok((rendered(kind, &report, || text::disk_only(&report))?, report.verdict()));
            }
            let report = Readiness::gather(&facts, ignored)?;
            Ok((rendered(kind, &report, || text::verify_ready(&report))?, report.summary.verdict()))
        })?;
        output::print(&printed)?;
        Ok(verdict)
    }
}

fn list() -> anyhow::Result<Verdict> {
    output::print(&checks::list())?;
    Ok(Verdict::Yes)
}

/// Runs only the checks that `--only` selects.
fn only(facts: &Facts, options: &CheckOptions, kind: Format) -> anyhow::Result<(String, Verdict)> {
    let is_wanted = |id: &str| options.only.iter().any(|prefix| id.starts_with(prefix));
    let report = Summary::new(facts, facts.check(is_wanted, &options.ignore)?);
    Ok((rendered(kind, &report, || text::only(&report))?, report.verdict()))
}

/// How much of each export the selected checks read.
///
/// # Errors
/// There is no check of that name.
fn reads(options: &CheckOptions, reads_exports: bool) -> anyhow::Result<Reads> {
    let unknown_id = options.ignore.iter().find(|id| !KINDS.iter().any(|kind| kind.id == **id));
    let unknown_prefix = options.only.iter().find(|prefix| !KINDS.iter().any(|kind| kind.id.starts_with(&***prefix)));
    if let Some(unknown) = unknown_id.or(unknown_prefix) {
        let shown = crate::text::printable(unknown);
        bail!("no check is called `{shown}`\nhint: cargo xtask handoff --checks");
    }
    let is_wanted = options.only.is_empty() || options.only.iter().any(|only| TRUNCATED.starts_with(&**only));
    Ok(match (reads_exports && is_wanted, options.deep) {
        (false, _) => Reads::Names,
        (true, false) => Reads::Ends,
        (true, true) => Reads::Whole,
    })
}

fn rendered(kind: Format, report: &impl Serialize, text: impl Fn() -> String) -> anyhow::Result<String> {
    match kind {
        Format::Text => Ok(text()),
        Format::Json => output::json(report),
    }
}
