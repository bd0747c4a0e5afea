//! What `handoff` and `verify-ready` report: gathered, not yet rendered. Serialized, these are the JSON
//! reports: within a schema, fields are only added.

use crate::config::targets::ScrapeConfig;
use crate::env::Env;
use crate::handoff::archives::{self, Row};
use crate::handoff::check::{self, Check};
use crate::handoff::disk::Disk;
use crate::handoff::plan::Selection;
use crate::handoff::{auth, compose};
use crate::lock_status::report::LockReport;
use crate::sys::signals::Signals;
use crate::target::Resolved;
use crate::text::printable;
use crate::verdict::Verdict;
use anyhow::{Context, bail};
use serde::Serialize;
use std::path::PathBuf;

const SCHEMA: u32 = 1;

/// The beginning of every report, and the whole of `verify-ready --disk-only`.
#[derive(Serialize)]
pub(crate) struct Summary {
    schema: u32,
    pub(crate) ready: bool,
    #[serde(serialize_with = "crate::text::lossy")]
    pub(crate) config: PathBuf,
    pub(crate) problems: Vec<String>,
    pub(crate) disk: Disk,
    /// The checks before the table of targets.
    #[serde(skip)]
    pub(crate) checks: Vec<Check>,
}

/// The readiness checks.
#[derive(Serialize)]
pub(crate) struct Readiness<'a> {
    #[serde(flatten)]
    pub(crate) summary: Summary,
    pub(crate) archive_root: Option<String>,
    notes: Vec<String>,
    /// The compose program that was found.
    compose: Option<String>,
    /// Where a token was found.
    auth: Option<String>,
    pub(crate) targets: Vec<Row<'a>>,
    #[serde(skip)]
    pub(crate) scrape_config: &'a ScrapeConfig,
}

/// The whole handoff.
#[derive(Serialize)]
pub(crate) struct Handoff<'a> {
    #[serde(rename = "verdict")]
    pub(crate) conclusion: Conclusion,
    safe_to_scrape: bool,
    /// The target that was asked for.
    target: Option<String>,
    channels: &'a [String],
    #[serde(flatten)]
    pub(crate) ready: Readiness<'a>,
    pub(crate) lock: LockReport,
    #[serde(skip)]
    pub(crate) selection: Selection<'a>,
}

/// What a handoff comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Conclusion {
    Complete,
    /// Everything is ready, but a scrape runs.
    Held,
    /// Everything is ready, but whether a scrape runs is unknown.
    LockUnknown,
    /// Something is not ready.
    Failed,
}

impl Summary {
    pub(crate) fn disk_only(resolved: &Resolved, config: &ScrapeConfig, env: &Env) -> anyhow::Result<Summary> {
        let disk = Disk::look(resolved, env)?;
        let mut checks = disk.checks();
        checks.extend(config.problems.iter().cloned().map(Check::Fail));
        Ok(Summary::new(resolved, disk, checks, &[]))
    }

    fn new(resolved: &Resolved, disk: Disk, checks: Vec<Check>, targets: &[Row]) -> Summary {
        let mut problems = check::problems(&checks);
        problems.extend(targets.iter().flat_map(|row| row.problems.iter().cloned()));
        let config = resolved.source.path.clone();
        Summary { schema: SCHEMA, ready: problems.is_empty(), config, problems, disk, checks }
    }
}

impl<'a> Readiness<'a> {
    pub(crate) fn gather(resolved: &Resolved, config: &'a ScrapeConfig, env: &Env) -> anyhow::Result<Readiness<'a>> {
        let disk = Disk::look(resolved, env)?;
        let cancel = Signals::catch_requests_to_end().context("cannot catch signals")?;
        let mut checks = disk.checks();
        let compose = compose::look(env, &cancel, &mut checks);
        let auth = auth::look(env, &resolved.repo_root, &cancel, &mut checks);
        checks.push(Check::Ok(format!("config: {}", crate::text::path(&resolved.source.path))));
        checks.extend(config.problems.iter().cloned().map(Check::Fail));
        checks.extend(config.notes.iter().cloned().map(Check::Note));
        let targets = archives::look(config, env, &cancel);
        if cancel.is_caught() {
            bail!("interrupted");
        }
        Ok(Readiness {
            archive_root: resolved.archive_root.as_ref().map(|root| root.path.to_string_lossy().into_owned()),
            notes: check::notes(&checks),
            summary: Summary::new(resolved, disk, checks, &targets),
            compose,
            auth,
            targets,
            scrape_config: config,
        })
    }

    /// Whether there is something to scrape, and nothing wrong with where it goes.
    pub(crate) fn are_archives_ready(&self) -> bool {
        self.scrape_config.problems.is_empty() && self.targets.iter().all(|row| row.problems.is_empty())
    }
}

impl<'a> Handoff<'a> {
    pub(crate) fn new(ready: Readiness<'a>, selection: Selection<'a>, lock: LockReport) -> Handoff<'a> {
        let conclusion = match lock.verdict() {
            _ if !ready.summary.ready => Conclusion::Failed,
            Verdict::Yes => Conclusion::Complete,
            Verdict::No => Conclusion::Held,
            Verdict::Unknown | Verdict::Code(_) => Conclusion::LockUnknown,
        };
        Handoff {
            conclusion,
            safe_to_scrape: conclusion == Conclusion::Complete,
            target: selection.target.map(|target| printable(target.name.as_bytes())),
            channels: selection.channels,
            ready,
            lock,
            selection,
        }
    }
}
