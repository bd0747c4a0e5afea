//! `salvage` and `handoff --salvage-only`: what a scrape was downloading when it was killed goes into the archive.
//! Nothing is lost: an archive never becomes smaller, and a leftover is removed only after the archive with all of its
//! messages is on the disk.

mod channel;
mod commit;
mod export;
mod leftovers;
mod merge;
mod message;
mod report;

use crate::cli::{self, Format};
use crate::config::targets::{ScrapeConfig, Target};
use crate::env::Env;
use crate::handoff::archive::Reads;
use crate::handoff::checks::SALVAGE;
use crate::handoff::facts::Facts;
use crate::handoff::plan::Selection;
use crate::handoff::report::Summary;
use crate::handoff::text::{failed, lines, opening};
use crate::lock::guard::{Guard, Refusal};
use crate::lock_run::refusal;
use crate::lock_status::report::{LockReport, Look};
use crate::lock_status::text::whole;
use crate::output::{self, with_progress};
use crate::sys::signals::Signals;
use crate::target::Resolved;
use crate::text::quoted;
use crate::verdict::Verdict;
use anyhow::{Context, anyhow, bail};
use channel::{Asked, Salvage};
use nix::sys::signal::Signal;
use report::Report;
use std::time::Duration;

/// How the rest of a handoff goes on.
const NEXT: &str = "  ./scripts/run-operator-validation.sh --salvage-before-scrape";

impl cli::Salvage {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let (target, channels) = (self.target.as_deref(), &self.channels[..]);
        let asked = Asked { target, channels, is_dry_run: self.dry_run, repairs: self.repair_archive };
        let salvaged = salvage(&resolved, &asked, env, |_, checks| {
            if !checks.ready {
                output::complain(&failed("Salvage failed", checks));
            }
            Ok(())
        })?;
        let Some(report) = salvaged.report else { return Ok(Verdict::No) };
        output::print(&match self.format.kind {
            Format::Text => report.text(),
            Format::Json => output::json(&report)?,
        })?;
        Ok(report.verdict())
    }
}

impl cli::Handoff {
    pub(crate) fn salvage(self, env: &Env) -> anyhow::Result<Verdict> {
        let resolved = Resolved::new(self.config.path.as_deref(), env)?;
        let (target, channels) = (self.target.as_deref(), &self.channels[..]);
        let asked = Asked { target, channels, is_dry_run: false, repairs: false };
        let salvaged = salvage(&resolved, &asked, env, |facts, checks| {
            let disk = if self.skip_df { None } else { Some(facts.disk()?) };
            let mut text = opening(&checks.config, &facts.selection, disk);
            text += &format!("Operator readiness checks\n=========================\n{}\n", lines(checks, |_| true));
            let lock = LockReport::gather(&resolved, Look::Quick);
            text += &format!("{}\n", whole(&lock, output::paint(env)));
            if !checks.ready {
                text += &failed("Handoff failed", checks);
            }
            output::print(&text)
        })?;
        let Some(report) = salvaged.report else { return Ok(Verdict::No) };
        let end = match report.verdict() {
            Verdict::Yes => format!("\nHandoff complete (salvage-only). Next:\n{NEXT}{}\n", salvaged.arguments),
            _ => "\nHandoff failed: not everything was salvaged\n".to_owned(),
        };
        output::print(&(report.text() + &end))?;
        Ok(report.verdict())
    }
}

struct Salvaged {
    /// None: a check has failed, or the lock is held.
    report: Option<Report>,
    /// What selects the same in the scraper.
    arguments: String,
}

/// Checks, takes the lock and salvages; `show` is told of the checks before.
fn salvage(
    resolved: &Resolved,
    asked: &Asked,
    env: &Env,
    show: impl FnOnce(&Facts, &Summary) -> anyhow::Result<()>,
) -> anyhow::Result<Salvaged> {
    let seconds = *env.stale_after_seconds.as_ref().map_err(|text| {
        anyhow!("DCE_STALE_TEMP_MIN_AGE_SECONDS is {}, not a number", quoted(text.as_encoded_bytes()))
    })?;
    let active_for = if env.salvage_active { None } else { Some(Duration::from_secs(seconds)) };
    // Beyond `ulimit -f`, a write must fail, not kill.
    let _xfsz = Signals::catch(&[Signal::SIGXFSZ]).context("cannot catch signals")?;
    let config = ScrapeConfig::new(&resolved.source, resolved.archive_root.as_ref());
    let selection = Selection::new(&config, asked.target, asked.channels)?;
    let arguments = selection.arguments();
    let report = with_progress(env, |progress| {
        let facts = Facts::new(resolved, selection, Reads::Names, env, progress)?;
        let checks = Summary::new(&facts, facts.check(|id| SALVAGE.contains(&id), &[])?);
        show(&facts, &checks)?;
        if !checks.ready {
            return Ok(None);
        }
        let Some(guard) = take(resolved, asked, env)? else { return Ok(None) };
        let salvage = Salvage { asked, active_for, cancel: &facts.watch.cancel, progress };
        let targets = facts.selection.targets().map(|target| salvage.target(target)).collect();
        if let Some(Err(why)) = guard.map(Guard::release) {
            output::complain(&format!("WARN: {why}; the next scrape replaces it\n"));
        }
        if facts.watch.cancel.is_caught() {
            bail!("interrupted\nhint: what is not in the archives yet is still in .dce-temp");
        }
        Ok(Some(Report::new(resolved, asked.is_dry_run, targets)))
    })?;
    Ok(Salvaged { report, arguments })
}

/// Takes the scrape lock; None if it is held. A dry run changes nothing, and scrapes with DCE_SKIP_SCRAPE_LOCK=1 take
/// none either: those only look.
fn take(resolved: &Resolved, asked: &Asked, env: &Env) -> anyhow::Result<Option<Option<Guard>>> {
    let held = || {
        output::complain(&format!("ERROR: {}\n", refusal(&LockReport::gather(resolved, Look::Quick))));
        Ok(None)
    };
    if env.skip_scrape_lock {
        return Ok(Some(None));
    }
    if asked.is_dry_run {
        return match LockReport::gather(resolved, Look::Quick).verdict() {
            Verdict::No => held(),
            _ => Ok(Some(None)),
        };
    }
    match Guard::acquire(&resolved.lock) {
        Ok(guard) => {
            guard.record("cargo xtask salvage").map_err(|why| anyhow!("{why}\nhint: nothing was salvaged"))?;
            Ok(Some(Some(guard)))
        }
        Err(Refusal::Held) => held(),
        Err(Refusal::Failed(why)) => bail!("{why}\nhint: nothing was salvaged"),
    }
}

impl Salvage<'_> {
    fn target(&self, target: &Target) -> report::Target {
        let channels = match &target.output_dir {
            Some(folder) => self.archive(folder),
            None => Err("it has no output_dir".to_owned()),
        };
        report::Target::new(target, channels)
    }
}
