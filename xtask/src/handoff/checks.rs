//! All checks, one line each.

use crate::handoff::archive::Archive;
use crate::handoff::archives::{Row, leftovers, linked, mapped, readable, seeded, shared, truncated, writable};
use crate::handoff::check::{Check, Finding, Outcome, edit, fail, note, ok};
use crate::handoff::facts::Facts;
use crate::handoff::plan::Asked;
use crate::handoff::trial::Trial;
use crate::handoff::watch::{ANSWER_TIMEOUT, silent};
use crate::lock::path::sidecar_path;
use crate::sys::access;
use crate::sys::deadline::within;
use crate::text::{self, path, printable, quoted, shell_word};
use anyhow::bail;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

/// The scripts that the report names at its end.
const SCRIPTS: [&str; 2] = ["scripts/run-documents-scrape.sh", "scripts/setup-cron.sh"];

/// A kind of check.
pub(crate) struct Kind {
    pub(crate) id: &'static str,
    /// What it makes sure of, or shows; for `--checks`.
    pub(crate) about: &'static str,
    look: fn(&Facts) -> anyhow::Result<Vec<Finding>>,
}

/// The check that reads the exports.
pub(crate) const TRUNCATED: &str = "archive.truncated";

/// In the order of the report.
pub(crate) const KINDS: [Kind; 25] = [
    kind("disk.free", "DCE_MIN_FREE_MB is free for archive_root, the repository and each output_dir", |f| {
        Ok(f.disk()?.free())
    }),
    kind("disk.inodes", "files can still be created there", |f| Ok(f.disk()?.inodes())),
    kind("tools", "there is jq, without which the scraper does nothing", |f| Ok(f.tools())),
    kind("compose", "a compose program works", |f| Ok(f.compose().findings.clone())),
    kind("auth.env-file", "the scraper can read every line of the env file", |f| Ok(f.env_file().check())),
    kind("auth.token", "there is a Discord token", |f| Ok(f.auth().check(f.env_file()))),
    kind("auth.exposed", "only its owner can read the token (a note)", |f| Ok(f.auth().exposed.clone())),
    kind("memory", "the container's memory limits (shown)", |f| Ok(f.memory())),
    kind("config.path", "the config's path (shown)", |f| {
        Ok(vec![ok(format!("config: {}", path(&f.resolved.source.path)))])
    }),
    kind("config.root", "the scraper accepts archive_root", |f| Ok(f.fails(&f.selection.config.root_problem))),
    kind("config.targets", "the scraper accepts every target: name, kind, output_dir under archive_root", |f| {
        Ok(f.fails(&f.selection.config.problems))
    }),
    kind("config.duplicates", "no two targets have the same name or output_dir", |f| {
        Ok(f.fails(&f.selection.config.duplicates))
    }),
    kind("config.enabled", "there is a target to scrape", |f| Ok(f.enabled())),
    kind("config.values", "the targets to scrape have no odd values", |f| {
        Ok(f.fails(f.selection.targets().flat_map(|target| &target.oddities)))
    }),
    kind("config.notes", "what is unusual about the config (notes)", |f| {
        Ok(f.selection.config.notes.iter().map(note).collect())
    }),
    kind("archive.seeded", "every enabled target has an archive with exports to add to", |f| f.of_rows(seeded)),
    kind("archive.readable", "the whole archive can be read", |f| f.of_rows(readable)),
    kind("archive.linked", "no output_dir is a symbolic link", |f| f.of_rows(linked)),
    kind("archive.shared", "no two output_dirs lead to one folder", |f| Ok(shared(f.rows()?))),
    kind("archive.map", "the channel map keeps every channel inside its target", |f| f.of_archives(mapped)),
    kind(TRUNCATED, "the exports are of the right channel, and not cut off", |f| f.of_archives(truncated)),
    kind("archive.writable", "the scrape can write in the lock's folder and in the archives", |f| f.writable()),
    kind("archive.leftovers", "leftovers of interrupted scrapes (a note)", |f| {
        f.of_archives(|row, archive| leftovers(row, archive, &f.resolved.source.path))
    }),
    kind("scripts", "the scripts named at the end are in the repository and can run", |f| Ok(f.scripts())),
    kind("scripts.config", "they use the same config (a note)", |f| Ok(f.scripts_config())),
];

/// The checks of `verify-ready --disk-only`: the gate before every scrape, of whichever target.
pub(crate) const DISK_ONLY: [&str; 6] =
    ["disk.free", "disk.inodes", "config.root", "config.targets", "config.duplicates", "archive.writable"];

/// The checks before a salvage, which needs neither a token nor a container.
pub(crate) const SALVAGE: [&str; 7] = [
    "disk.free",
    "disk.inodes",
    "config.root",
    "config.targets",
    "config.duplicates",
    "config.enabled",
    "archive.writable",
];

const fn kind(id: &'static str, about: &'static str, look: fn(&Facts) -> anyhow::Result<Vec<Finding>>) -> Kind {
    Kind { id, about, look }
}

impl Facts<'_> {
    /// Runs the checks that are wanted; a failure of one that is ignored is a note.
    pub(crate) fn check(&self, is_wanted: impl Fn(&str) -> bool, ignored: &[String]) -> anyhow::Result<Vec<Check>> {
        let mut checks = Vec::new();
        for Kind { id, look, .. } in KINDS.into_iter().filter(|kind| is_wanted(kind.id)) {
            let is_ignored = ignored.iter().any(|ignored| ignored == id);
            for mut finding in look(self)? {
                if is_ignored && finding.has_failed() {
                    finding.outcome = Outcome::Note;
                }
                checks.push(Check { id, finding });
            }
            if self.watch.cancel.is_caught() {
                bail!("interrupted");
            }
        }
        Ok(checks)
    }

    fn of_rows(&self, look: fn(&Row) -> Vec<Finding>) -> anyhow::Result<Vec<Finding>> {
        Ok(self.rows()?.iter().flat_map(look).collect())
    }

    fn of_archives(&self, look: impl Fn(&Row, &Archive) -> Vec<Finding>) -> anyhow::Result<Vec<Finding>> {
        let found = self.rows()?.iter().filter_map(|row| Some((row, row.archive()?)));
        Ok(found.flat_map(|(row, archive)| look(row, archive)).collect())
    }

    /// Failures that are corrected in the config.
    fn fails<'p>(&self, problems: impl IntoIterator<Item = &'p String>) -> Vec<Finding> {
        let hint = edit(&self.resolved.source.path);
        problems.into_iter().map(|problem| fail(problem, &hint)).collect()
    }

    /// The limit for all targets, or else the targets' own: those count only for a scrape of that target alone.
    fn memory(&self) -> Vec<Finding> {
        let from_env = || Some(printable(self.env.container_memory.as_ref()?.as_bytes()));
        let set = self.env_file().container_memory.clone().or_else(from_env).filter(|limit| limit != "0");
        let for_all = set.or_else(|| self.selection.config.container_memory.as_ref().map(printable));
        if let Some(limit) = for_all {
            return vec![ok(format!("container memory: {limit} (compose mem_limit)"))];
        }
        let own = self.selection.targets().filter_map(|target| {
            let (name, limit) = (printable(&target.name), printable(target.container_memory.as_ref()?));
            Some(ok(format!("target memory: {name} → {limit} (single --target scrape)")))
        });
        own.collect()
    }

    fn enabled(&self) -> Vec<Finding> {
        let config = self.selection.config;
        match self.selection.asked {
            Asked::Enabled if config.enabled().next().is_none() && !config.targets.is_empty() => {
                self.fails([&"config has no enabled target".to_owned()])
            }
            Asked::Named(target) if !target.is_enabled => {
                let why = target.disabled_reason.as_ref().map(|why| format!(": {}", printable(why)));
                let (name, why) = (quoted(&target.name), why.unwrap_or_default());
                vec![note(format!("target {name} is disabled{why}; it runs because it is named"))]
            }
            _ => Vec::new(),
        }
    }

    /// The lock's folder and files, then the archives.
    fn writable(&self) -> anyhow::Result<Vec<Finding>> {
        let shown = path(self.resolved.lock.parent().unwrap_or(&self.resolved.lock));
        let lock = (!self.env.skip_scrape_lock).then(|| self.resolved.lock.clone());
        let root = self.resolved.archive_root.as_ref().map(|root| root.path.clone());
        let look = move || {
            let folders = lock.iter().filter_map(|lock| lock.parent()).chain(root.as_deref());
            let files = lock.iter().flat_map(|lock| {
                [access::file_obstacle(lock), access::regular_file_obstacle(&sidecar_path(lock))].into_iter().flatten()
            });
            folders.filter_map(access::nearest_obstacle).chain(files).collect::<Vec<String>>()
        };
        let found = if self.root_answers()? { within(ANSWER_TIMEOUT, look)? } else { None };
        let mut obstacles = found.unwrap_or_else(|| vec![silent(&shown)]);
        // Said once: the lock's folder is usually the archive root itself.
        obstacles.dedup();
        let hint = format!("ls -ld {}; id", shell_word(&shown));
        let mut findings: Vec<Finding> = obstacles.into_iter().map(|why| fail(why, &hint)).collect();
        findings.extend(self.rows()?.iter().flat_map(writable));
        Ok(findings)
    }

    fn tools(&self) -> Vec<Finding> {
        let jq = Trial::start(&["jq", "--version"], None, self.env);
        let why = jq.obstacle(Instant::now() + ANSWER_TIMEOUT, &self.watch);
        why.map(|why| fail(why, "sudo apt-get install jq")).into_iter().collect()
    }

    fn scripts(&self) -> Vec<Finding> {
        let repo_root = &self.resolved.repo_root;
        let missing: Vec<&str> = SCRIPTS.into_iter().filter(|script| !repo_root.join(script).exists()).collect();
        if missing.is_empty() {
            let (script, compose) = (repo_root.join(SCRIPTS[0]), repo_root.join("docker-compose.yml"));
            let cannot_run = self.env.program(&script.to_string_lossy()).is_none();
            let cannot_run = cannot_run.then(|| {
                fail(format!("{} is not executable", path(&script)), format!("chmod +x {}", text::shell_path(&script)))
            });
            let has_runner = repo_root.join("scripts/run-discord-scrape-host.sh").exists();
            let no_compose = (has_runner && self.env.compose_file.is_none() && !compose.exists()).then(|| {
                fail(
                    format!("{} does not exist", path(&compose)),
                    format!("git -C {} status", text::shell_path(repo_root)),
                )
            });
            return cannot_run.into_iter().chain(no_compose).collect();
        }
        let (missing, repo_root) = (missing.join(" and "), path(repo_root));
        vec![note(format!("{repo_root} has no {missing}: set DCE_REPO_ROOT to the scraper's checkout"))]
    }

    /// The container has the repository's own config, whichever was checked here.
    fn scripts_config(&self) -> Vec<Finding> {
        let theirs = self.resolved.repo_root.join("config/scrape-targets.json");
        let own = std::path::absolute(&self.resolved.source.path).unwrap_or_default();
        if matches!((own.canonicalize(), theirs.canonicalize()), (Ok(own), Ok(theirs)) if own == theirs) {
            return Vec::new();
        }
        let (own, theirs) = (path(&own), path(&theirs));
        vec![note(format!("the scripts use {theirs}, not {own}: what is said here is about the latter"))]
    }
}

/// The ids and what they make sure of, for `--checks`.
pub(crate) fn list() -> String {
    text::table(&KINDS.map(|kind| [kind.id.to_owned(), kind.about.to_owned()]), [0, 0], 0..0)
}
