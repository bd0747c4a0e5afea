//! `salvage` and `handoff --salvage-only`: what a scrape was downloading when it was killed goes into the archive.
//! Nothing is lost: an archive never becomes smaller, and a leftover is removed only after the archive with all of its
//! messages is on the disk.

mod channel;
mod commit;
mod destinations;
mod export;
mod leftovers;
mod merge;
mod message;
mod reader;
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
use channel::Salvage;
use nix::sys::signal::Signal;
use report::Report;
use std::time::Duration;

/// How the rest of a handoff goes on.
const NEXT: &str = "  ./scripts/run-operator-validation.sh --salvage-before-scrape";

impl cli::Salvage {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let salvaged = salvage(&self, env, |_, checks| {
            if !checks.ready {
                output::complain(&failed("Salvage failed", checks));
            }
            Ok(())
        })?;
        let Some((report, _)) = salvaged else { return Ok(Verdict::No) };
        output::print(&match self.format.kind {
            Format::Text => report.text(),
            Format::Json => output::json(&report)?,
        })?;
        Ok(report.verdict())
    }
}

impl cli::Handoff {
    pub(crate) fn salvage(self, env: &Env) -> anyhow::Result<Verdict> {
        let cli::Handoff { config, target, channels, format, skip_df, .. } = self;
        let options = cli::Salvage { config, target, channels, dry_run: false, repair_archive: false, format };
        let salvaged = salvage(&options, env, |facts, checks| {
            let disk = if skip_df { None } else { Some(facts.disk()?) };
            let mut text = opening(&checks.config, &facts.selection, disk);
            text += &format!("Operator readiness checks\n=========================\n{}\n", lines(checks, |_| true));
            let lock = LockReport::gather(facts.resolved, Look::Quick);
            text += &format!("{}\n", whole(&lock, output::paint(env)));
            if !checks.ready {
                text += &failed("Handoff failed", checks);
            }
            output::print(&text)
        })?;
        let Some((report, arguments)) = salvaged else { return Ok(Verdict::No) };
        let end = match report.verdict() {
            Verdict::Yes => format!("\nHandoff complete (salvage-only). Next:\n{NEXT}{arguments}\n"),
            _ => "\nHandoff failed: not everything was salvaged\n".to_owned(),
        };
        output::print(&(report.text() + &end))?;
        Ok(report.verdict())
    }
}

/// Checks, takes the lock and salvages; `show` is told of the checks before. Gives what was done, and the arguments that
/// select the same in the scraper; None if a check has failed or the lock is held.
fn salvage(
    options: &cli::Salvage,
    env: &Env,
    show: impl FnOnce(&Facts, &Summary) -> anyhow::Result<()>,
) -> anyhow::Result<Option<(Report, String)>> {
    let resolved = Resolved::new(options.config.path.as_deref(), env)?;
    let seconds = *env.stale_after_seconds.as_ref().map_err(|text| {
        anyhow!("DCE_STALE_TEMP_MIN_AGE_SECONDS is {}, not a number", quoted(text.as_encoded_bytes()))
    })?;
    let active_for = if env.salvage_active { None } else { Some(Duration::from_secs(seconds)) };
    // Beyond `ulimit -f`, a write must fail, not kill.
    let _xfsz = Signals::catch(&[Signal::SIGXFSZ]).context("cannot catch signals")?;
    let config = ScrapeConfig::new(&resolved.source, resolved.archive_root.as_ref());
    let selection = Selection::new(&config, options.target.as_deref(), &options.channels)?;
    let arguments = selection.arguments();
    with_progress(env, |progress| {
        let facts = Facts::new(&resolved, selection, Reads::Names, env, progress)?;
        let checks = Summary::new(&facts, facts.check(|id| SALVAGE.contains(&id), &[])?);
        show(&facts, &checks)?;
        if !checks.ready {
            return Ok(None);
        }
        let guard = match take(&resolved, options.dry_run)? {
            Ok(guard) => guard,
            Err(held) => {
                output::complain(&format!("ERROR: {}\n", refusal(&held)));
                return Ok(None);
            }
        };
        let salvage = Salvage { options, active_for, cancel: &facts.watch.cancel, progress };
        let target = |target: &Target| {
            let folder = target.output_dir.as_ref();
            Some(report::Target::new(&target.name, folder?, salvage.archive(folder?)))
        };
        let targets = facts.selection.targets().filter_map(target).collect();
        if let Some(Err(why)) = guard.map(Guard::release) {
            output::complain(&format!("WARN: {why}; the next scrape replaces it\n"));
        }
        if facts.watch.cancel.is_caught() {
            bail!("interrupted\nhint: what is not in the archives yet is still in .dce-temp");
        }
        Ok(Some((Report::new(&resolved, options.dry_run, targets), arguments)))
    })
}

/// Takes the scrape lock, whatever DCE_SKIP_SCRAPE_LOCK says: nobody holds it for a salvage. A dry run only looks. The
/// error is the lock that is held.
fn take(resolved: &Resolved, is_dry_run: bool) -> anyhow::Result<Result<Option<Guard>, LockReport>> {
    let look = || LockReport::gather(resolved, Look::Quick);
    if is_dry_run {
        let lock = look();
        return Ok(if lock.verdict() == Verdict::No { Err(lock) } else { Ok(None) });
    }
    match Guard::acquire(&resolved.lock) {
        Ok(guard) => {
            guard.record("cargo xtask salvage").map_err(|why| anyhow!("{why}\nhint: nothing was salvaged"))?;
            Ok(Ok(Some(guard)))
        }
        Err(Refusal::Held) => Ok(Err(look())),
        Err(Refusal::Failed(why)) => bail!("{why}\nhint: nothing was salvaged"),
    }
}
