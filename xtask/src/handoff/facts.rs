//! The facts behind the checks: each is found when a check first needs it, and only once.

use crate::env::Env;
use crate::handoff::archive::Reads;
use crate::handoff::archives::{self, Row};
use crate::handoff::auth::{Auth, EnvFile};
use crate::handoff::compose::Compose;
use crate::handoff::disk::{Disk, Folder};
use crate::handoff::plan::Selection;
use crate::handoff::watch::{ANSWER_TIMEOUT, Watch, silent};
use crate::output::Progress;
use crate::sys::deadline::within;
use crate::sys::signals::Signals;
use crate::target::Resolved;
use crate::text::quoted;
use anyhow::{Context, anyhow};
use std::cell::OnceCell;
use std::sync::Arc;

pub(crate) struct Facts<'a> {
    pub(crate) resolved: &'a Resolved,
    pub(crate) selection: Selection<'a>,
    pub(crate) env: &'a Env,
    reads: Reads,
    pub(crate) watch: Arc<Watch>,
    root_answers: OnceCell<bool>,
    disk: OnceCell<Disk>,
    compose: OnceCell<Compose>,
    env_file: OnceCell<EnvFile>,
    auth: OnceCell<Auth>,
    rows: OnceCell<Vec<Row<'a>>>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(
        resolved: &'a Resolved,
        selection: Selection<'a>,
        reads: Reads,
        env: &'a Env,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<Facts<'a>> {
        let cancel = Signals::catch_requests_to_end().context("cannot catch signals")?;
        Ok(Facts {
            resolved,
            selection,
            env,
            reads,
            watch: Arc::new(Watch::new(cancel, Arc::clone(progress))),
            root_answers: OnceCell::new(),
            disk: OnceCell::new(),
            compose: OnceCell::new(),
            env_file: OnceCell::new(),
            auth: OnceCell::new(),
            rows: OnceCell::new(),
        })
    }

    /// Refuses channels that the archive has no export of.
    pub(crate) fn check_channels(&self) -> anyhow::Result<()> {
        let only = self.selection.only_target();
        let row = self.rows()?.iter().find(|row| only.is_some_and(|only| std::ptr::eq(only, row.target)));
        self.selection.check_seeded(row.and_then(Row::ids))
    }

    /// Whether the file system of archive_root answers at all. Asked once, so that it is waited for once.
    pub(crate) fn root_answers(&self) -> anyhow::Result<bool> {
        let answers = get_or_try(&self.root_answers, || {
            self.watch.progress.now("looking at archive_root".to_owned());
            let Some(root) = self.resolved.archive_root.as_ref().map(|root| root.path.clone()) else { return Ok(true) };
            Ok(within(ANSWER_TIMEOUT, move || root.exists()).context("cannot look at archive_root")?.is_some())
        })?;
        Ok(*answers)
    }

    pub(crate) fn disk(&self) -> anyhow::Result<&Disk> {
        get_or_try(&self.disk, || {
            let min_free_mib = *self.env.min_free_mib.as_ref().map_err(|text| {
                let shown = quoted(text.as_encoded_bytes());
                anyhow!("DCE_MIN_FREE_MB is {shown}, not a number\nhint: give it in MiB; 0 means no check")
            })?;
            let answers = self.root_answers()?;
            self.watch.progress.now("looking at the file systems".to_owned());
            let repo_root = &self.resolved.repo_root;
            let root = self.resolved.archive_root.as_ref().map_or(repo_root, |root| &root.path);
            let dirs = self.selection.targets().filter_map(|target| target.output_dir.as_ref());
            let archives = [("archive_root", root)].into_iter().chain(dirs.map(|dir| ("output_dir", &dir.path)));
            let folders = archives.filter(|_| answers).chain([("repo_root", repo_root)]);
            let folders = folders.map(|(what, path)| Folder { what, path: path.clone() });
            let mut disk = Disk::look(folders.collect(), min_free_mib).context("cannot look at the file systems")?;
            disk.unreadable.extend((!answers).then(|| silent("archive_root")));
            Ok(disk)
        })
    }

    pub(crate) fn compose(&self) -> &Compose {
        self.compose.get_or_init(|| Compose::look(self.env, &self.watch))
    }

    pub(crate) fn env_file(&self) -> &EnvFile {
        self.env_file.get_or_init(|| EnvFile::read(self.env, &self.resolved.repo_root))
    }

    pub(crate) fn auth(&self) -> &Auth {
        let look = || Auth::look(self.env, self.env_file(), &self.resolved.repo_root, &self.watch);
        self.auth.get_or_init(look)
    }

    pub(crate) fn rows(&self) -> anyhow::Result<&[Row<'a>]> {
        let rows = get_or_try(&self.rows, || {
            let reads = self.root_answers()?.then_some(self.reads);
            archives::rows(&self.selection, reads, &self.watch).context("cannot look at the archives")
        })?;
        Ok(rows)
    }
}

fn get_or_try<T>(cell: &OnceCell<T>, find: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<&T> {
    if let Some(found) = cell.get() {
        return Ok(found);
    }
    let found = find()?;
    Ok(cell.get_or_init(|| found))
}
