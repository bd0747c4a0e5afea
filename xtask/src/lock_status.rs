//! `lock-status`: gather, judge, render.

pub(crate) mod json;
mod reclaim;
mod text;
pub(crate) mod wait;

use crate::config::{ArchiveRoot, LockConfig, Source};
use crate::env::Env;
use crate::flags::{self, Format};
use crate::lock::path::lock_path;
use crate::lock::state::{Judgement, LockState, judge};
use crate::lock::{self, LockFacts};
use crate::{Verdict, output};
use anyhow::Context;
use std::path::{Path, PathBuf};

/// Everything that a lock status says.
pub(crate) struct LockReport {
    pub(crate) config: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) facts: LockFacts,
    pub(crate) judgement: Judgement,
}

impl flags::LockStatus {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let source = Source::read(self.config.as_deref(), env)?;
        let root = source.parse::<LockConfig>()?.archive_root(&source)?;
        let look = || LockReport::gather(&source.path, root.as_ref(), env);
        let report = match self.wait {
            Some(wait) => wait::until_free(wait, env, look)?,
            None => look()?,
        };
        if self.reclaim_stale {
            let (text, verdict) = report.reclaim(output::wants_colour(env))?;
            output::print(&text)?;
            return Ok(verdict);
        }
        output::print(&match self.format {
            Format::Text => report.text(output::wants_colour(env)),
            Format::Json => output::json(&report.json())?,
        })?;
        Ok(report.verdict())
    }
}

/// The lock that the config and the environment name, absolute.
pub(crate) fn lock_of(root: Option<&ArchiveRoot>, env: &Env) -> anyhow::Result<PathBuf> {
    let named = lock_path(env.scrape_lock_file.as_deref(), root.map(|root| &*root.path), &env.repo_root);
    std::path::absolute(&named)
        .with_context(|| format!("cannot make the lock path `{}` absolute", crate::text::path(&named)))
}

impl LockReport {
    /// Looks at the lock that the config and the environment name.
    pub(crate) fn gather(config: &Path, root: Option<&ArchiveRoot>, env: &Env) -> anyhow::Result<LockReport> {
        let lock = lock_of(root, env)?;
        let facts = lock::observe(&lock);
        let mut judgement = judge(&facts);
        if env.scrape_lock_file.is_none() && root.is_some_and(|root| root.has_literal_tilde) {
            judgement
                .notes
                .push("archive_root starts with `~`, which is not expanded: it names a folder called `~`".to_owned());
        }
        if env.scrape_lock_file.is_none() && root.is_none() {
            judgement.notes.push("the config names no archive_root, so this is the repository's lock".to_owned());
        }
        if env.skip_scrape_lock {
            judgement.notes.push("DCE_SKIP_SCRAPE_LOCK=1 is set: a scrape started from here takes no lock".to_owned());
        }
        Ok(LockReport { config: config.to_path_buf(), lock, facts, judgement })
    }

    /// Whether a scrape may start.
    pub(crate) fn verdict(&self) -> Verdict {
        match self.judgement.state {
            LockState::FreeNoFile | LockState::FreeNotHeld | LockState::Stale(_) => Verdict::Yes,
            LockState::Held => Verdict::No,
            LockState::Unknown(_) => Verdict::Unknown,
        }
    }
}
