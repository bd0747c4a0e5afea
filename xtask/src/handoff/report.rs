//! What `handoff` and `verify-ready` report: gathered, not yet rendered. Serialized, these are the JSON
//! reports: within a schema, fields are only added.

use crate::handoff::archives::Row;
use crate::handoff::check::Check;
use crate::handoff::disk::Disk;
use crate::handoff::facts::Facts;
use crate::handoff::plan::Asked;
use crate::lock_status::report::LockReport;
use crate::text;
use crate::verdict::Verdict;
use serde::Serialize;
use std::path::PathBuf;

const SCHEMA: u32 = 2;

/// The beginning of every report, and the whole of one with only some checks.
#[derive(Serialize)]
pub(crate) struct Summary {
    schema: u32,
    pub(crate) ready: bool,
    #[serde(serialize_with = "crate::text::lossy")]
    pub(crate) config: PathBuf,
    pub(crate) checks: Vec<Check>,
}

#[derive(Serialize)]
pub(crate) struct Readiness<'a> {
    #[serde(flatten)]
    pub(crate) summary: Summary,
    pub(crate) archive_root: Option<String>,
    pub(crate) disk: &'a Disk,
    /// The compose program that was found.
    compose: Option<&'a String>,
    /// Where a token was found.
    pub(crate) auth: Option<&'a String>,
    pub(crate) targets: &'a [Row<'a>],
}

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
}

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
    pub(crate) fn new(facts: &Facts, checks: Vec<Check>) -> Summary {
        let ready = !checks.iter().any(|check| check.finding.has_failed());
        Summary { schema: SCHEMA, ready, config: facts.resolved.source.path.clone(), checks }
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.finding.has_failed())
    }

    pub(crate) fn verdict(&self) -> Verdict {
        if self.ready { Verdict::Yes } else { Verdict::No }
    }

    /// Whether there is something to scrape, and nothing wrong with where it goes.
    pub(crate) fn has_ready_archives(&self) -> bool {
        !self.problems().any(|check| check.id.starts_with("archive.") || check.id.starts_with("config."))
    }
}

impl Conclusion {
    pub(crate) fn verdict(self, require_free: bool) -> Verdict {
        match self {
            Conclusion::Held if require_free => Verdict::No,
            Conclusion::Complete | Conclusion::Held => Verdict::Yes,
            Conclusion::LockUnknown => Verdict::Unknown,
            Conclusion::Failed => Verdict::No,
        }
    }
}

impl<'a> Readiness<'a> {
    pub(crate) fn gather(facts: &'a Facts<'a>, ignored: &[String]) -> anyhow::Result<Readiness<'a>> {
        let summary = Summary::new(facts, facts.check(|_| true, ignored)?);
        let root = facts.resolved.archive_root.as_ref();
        Ok(Readiness {
            summary,
            archive_root: root.map(|root| text::whole(&root.path.to_string_lossy())),
            disk: facts.disk()?,
            compose: facts.compose().program.as_ref(),
            auth: facts.auth().place.as_ref(),
            targets: facts.rows()?,
        })
    }
}

impl<'a> Handoff<'a> {
    pub(crate) fn new(facts: &'a Facts<'a>, ready: Readiness<'a>, mut lock: LockReport) -> Handoff<'a> {
        let conclusion = match lock.verdict() {
            _ if !ready.summary.ready => Conclusion::Failed,
            Verdict::Yes => Conclusion::Complete,
            Verdict::No => Conclusion::Held,
            Verdict::Unknown | Verdict::Code(_) => Conclusion::LockUnknown,
        };
        if conclusion == Conclusion::Failed && lock.verdict() == Verdict::Yes {
            lock.judgement.next = "correct what failed; the lock is free".to_owned();
        }
        let target = match facts.selection.asked {
            Asked::Named(target) => Some(text::whole(&target.name)),
            Asked::Enabled | Asked::Nothing => None,
        };
        Handoff {
            conclusion,
            safe_to_scrape: conclusion == Conclusion::Complete,
            target,
            channels: facts.selection.channels,
            ready,
            lock,
        }
    }
}
