//! `handoff` and `verify-ready`: everything an operator checks before a scrape. Every
//! section runs, whatever fails; every failure is told.

pub(crate) mod archives;
mod auth;
mod compose;
mod disk;
mod json;
mod plan;
mod text;

use crate::child::Cancel;
use crate::config::Source;
use crate::config::targets::ScrapeConfig;
use crate::env::Env;
use crate::flags::{self, Format};
use crate::lock_status::LockReport;
use crate::{Verdict, output};
use anyhow::{anyhow, bail};
use archives::{Progress, Row};
use auth::Auth;
use compose::Compose;
use disk::Disk;
use plan::Selection;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// How long a walk may take before a person is told how far it is, and how often then.
const PATIENCE: Duration = Duration::from_millis(500);
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The readiness part.
pub(crate) struct Readiness<'a> {
    config_path: PathBuf,
    config: &'a ScrapeConfig,
    disk: Disk,
    compose: Compose,
    compose_notes: Vec<String>,
    auth: Auth,
    rows: Vec<Row<'a>>,
}

/// The whole report.
struct Handoff<'a> {
    ready: Readiness<'a>,
    selection: Selection<'a>,
    skip_df: bool,
    lock: LockReport,
}

/// What a handoff comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    /// All is ready, but a scrape runs.
    Held,
    /// All is ready, but whether a scrape runs cannot be told.
    LockUnknown,
    /// Something is not ready.
    Failed,
}

impl flags::Handoff {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let source = Source::read(self.config.as_deref(), env)?;
        let config = ScrapeConfig::read(&source)?;
        let selection = Selection::of(self.target.as_deref(), &self.channels, &config)?;
        let ready = Readiness::gather(&source, &config, env)?;
        selection.check_seeded(&ready.rows)?;
        // Last, so that it is as fresh as can be.
        let lock = LockReport::gather(&source.path, config.archive_root.as_ref(), env)?;
        let handoff = Handoff { ready, selection, skip_df: self.skip_df, lock };
        output::print(&match self.format {
            Format::Text => handoff.text(output::wants_colour(env)),
            Format::Json => output::json(&handoff.json())?,
        })?;
        Ok(match handoff.end() {
            End::Complete => Verdict::Yes,
            End::Held if self.require_free => Verdict::No,
            End::Held => Verdict::Yes,
            End::LockUnknown => Verdict::Unknown,
            End::Failed => Verdict::No,
        })
    }
}

impl flags::VerifyReady {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let source = Source::read(self.config.as_deref(), env)?;
        let config = ScrapeConfig::read(&source)?;
        let (report, is_ready) = if self.disk_only {
            let disk = look_at_disk(&config, env)?;
            let problems: Vec<String> = config.problems.iter().cloned().chain(disk.problems()).collect();
            let report = match self.format {
                Format::Text => text::disk_only(&source.path, &disk, &problems),
                Format::Json => output::json(&json::disk_only(&source.path, &disk, &problems))?,
            };
            (report, problems.is_empty())
        } else {
            let ready = Readiness::gather(&source, &config, env)?;
            let report = match self.format {
                Format::Text => ready.text() + &ready.conclusion(),
                Format::Json => output::json(&ready.json())?,
            };
            (report, ready.problems().is_empty())
        };
        output::print(&report)?;
        Ok(if is_ready { Verdict::Yes } else { Verdict::No })
    }
}

impl<'a> Readiness<'a> {
    fn gather(source: &Source, config: &'a ScrapeConfig, env: &Env) -> anyhow::Result<Readiness<'a>> {
        let disk = look_at_disk(config, env)?;
        let cancel = Cancel::on_signals()?;
        let compose = Compose::look(env, &cancel);
        let ready = Readiness {
            config_path: source.path.clone(),
            config,
            disk,
            compose_notes: compose.notes(env),
            compose,
            auth: Auth::look(env, &cancel),
            rows: look_at_archives(config, env, &cancel),
        };
        if cancel.is_cancelled() {
            bail!("interrupted");
        }
        Ok(ready)
    }

    /// What keeps a scrape from starting, in the report's order.
    fn problems(&self) -> Vec<String> {
        let checks = self.disk.problems().into_iter().chain(self.compose.problem()).chain(self.auth.problem());
        let rows = self.rows.iter().flat_map(Row::problems);
        checks.chain(self.config.problems.iter().cloned()).chain(rows).collect()
    }
}

impl Handoff<'_> {
    fn end(&self) -> End {
        if !self.ready.problems().is_empty() {
            return End::Failed;
        }
        match self.lock.verdict() {
            Verdict::Yes => End::Complete,
            Verdict::No => End::Held,
            Verdict::Unknown => End::LockUnknown,
        }
    }
}

fn look_at_disk(config: &ScrapeConfig, env: &Env) -> anyhow::Result<Disk> {
    let need_mib = env.min_free_mib.as_ref().map_err(|text| {
        let shown = crate::text::printable(text.as_encoded_bytes());
        anyhow!("DCE_MIN_FREE_MB is `{shown}`, not a number\nhint: give it in MiB; 0 means no check")
    })?;
    let archive_root = config.archive_root.as_ref().map(|root| &*root.path);
    Ok(Disk::look(archive_root, &env.repo_root, *need_mib))
}

/// Walks the archives; on a terminal, says how far it is when that takes long.
fn look_at_archives<'a>(config: &'a ScrapeConfig, env: &Env, cancel: &Cancel) -> Vec<Row<'a>> {
    let progress = Progress::default();
    let (done, is_done) = mpsc::channel::<()>();
    let shown = &progress;
    std::thread::scope(|scope| {
        if output::is_watched(env) {
            scope.spawn(move || {
                let mut wait = PATIENCE;
                while is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                    output::show_progress(Some(&shown.text()));
                    wait = PROGRESS_EVERY;
                }
                if wait == PROGRESS_EVERY {
                    output::show_progress(None);
                }
            });
        }
        let rows = archives::look(config, shown, cancel);
        drop(done);
        rows
    })
}
