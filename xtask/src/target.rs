//! What a command is about: which checkout, which config, which archive, which lock. Every command
//! resolves its options and the environment here, once.

use crate::config::{ArchiveRoot, Source};
use crate::env::Env;
use crate::lock::path::lock_path;
use crate::sys::deadline::within;
use crate::text;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the file system of the config may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A file that every checkout of this repository has, and others have not.
const MARKER: &str = "scripts/scrape-lock-status.sh";

/// The resolved options and environment.
pub(crate) struct Resolved {
    /// The scraper's checkout.
    pub(crate) repo_root: PathBuf,
    pub(crate) source: Source,
    /// None when the config names none: the repository's own lock counts then.
    pub(crate) archive_root: Option<ArchiveRoot>,
    /// Absolute.
    pub(crate) lock: PathBuf,
    /// What is unusual about the choice of the lock.
    pub(crate) notes: Vec<String>,
}

impl Resolved {
    /// Reads the config that `--config`, `DCE_CONFIG_FILE` or the repository names, and finds its lock.
    ///
    /// # Errors
    /// The config cannot be read or parsed, or its `archive_root` cannot be resolved.
    pub(crate) fn new(config: Option<&Path>, env: &Env) -> anyhow::Result<Resolved> {
        let repo_root = repo_root(env);
        let (source, archive_root) = read_config(config.or(env.config_file.as_deref()), &repo_root, env)?;
        let named = lock_path(
            env.scrape_lock_file.as_deref(),
            archive_root.as_ref().map(|root| root.path.as_path()),
            &repo_root,
        );
        let lock = std::path::absolute(&named)
            .with_context(|| format!("cannot make the lock path `{}` absolute", text::path(&named)))?;
        let mut notes = Vec::new();
        if env.scrape_lock_file.is_none() {
            match &archive_root {
                Some(root) => notes.extend(root.note()),
                None => notes.push("the config names no archive_root, so this is the repository's lock".to_owned()),
            }
        }
        if env.skip_scrape_lock {
            notes.push("DCE_SKIP_SCRAPE_LOCK=1 is set: a scrape started from here takes no lock".to_owned());
        }
        Ok(Resolved { repo_root, source, archive_root, lock, notes })
    }
}

fn read_config(named: Option<&Path>, repo_root: &Path, env: &Env) -> anyhow::Result<(Source, Option<ArchiveRoot>)> {
    let mut hint = "name the config with --config PATH or DCE_CONFIG_FILE".to_owned();
    if named.is_none() {
        let demo = workspace(env).join("fixtures/demo/scrape-targets.json");
        hint += &format!("; to try it out: --config {}", text::shell_word(&demo.to_string_lossy()));
    }
    let config = named.map_or_else(|| repo_root.join("config/scrape-targets.json"), Path::to_path_buf);
    let path = config.clone();
    let read = move || {
        let source = Source::read(&path, &hint)?;
        let archive_root = source.archive_root()?;
        Ok((source, archive_root))
    };
    within(ANSWER_TIMEOUT, read)?.unwrap_or_else(|| {
        bail!("the file system of the scrape config `{}` does not answer", text::path(&config));
    })
}

/// The scraper's checkout: `DCE_REPO_ROOT`, else this one.
pub(crate) fn repo_root(env: &Env) -> PathBuf {
    env.repo_root.clone().unwrap_or_else(|| workspace(env))
}

/// The checkout that this run belongs to: the one whose script was called, or in which cargo runs
/// this package; else the one the program was built in. A target folder may be shared by several.
pub(crate) fn workspace(env: &Env) -> PathBuf {
    let parent = |package: &Path| package.parent().unwrap_or(package).to_path_buf();
    let cargos = || env.cargo_package.as_deref().map(parent).filter(|root| root.join(MARKER).is_file());
    let called = env.called_workspace.clone().or_else(cargos);
    called.unwrap_or_else(|| parent(Path::new(env!("CARGO_MANIFEST_DIR"))))
}
