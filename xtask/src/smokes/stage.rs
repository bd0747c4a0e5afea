//! A case's stage: a fresh folder with everything that the case asks for, removed afterwards.

use crate::smokes::case::{LockPlan, StagePlan};
use crate::smokes::leak::Marked;
use crate::smokes::names::Names;
use crate::smokes::smoke::Setup;
use crate::sys::child;
use crate::sys::file::{self, Links};
use anyhow::Context;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use tempfile::TempDir;

/// Maximum size of a file whose content a snapshot compares.
const COMPARED_MAX_BYTES: u64 = 1 << 20;

pub(crate) struct Stage {
    /// Its processes: first, so that they are ended before the folder is removed.
    pub(crate) marked: Marked,
    pub(crate) folder: TempDir,
    /// Without links, as programs print it.
    pub(crate) root: PathBuf,
    pub(crate) names: Names,
}

/// Everything on a stage, to see whether it changed: inode, mode, size, time of the last change, content.
pub(crate) type Snapshot = BTreeMap<PathBuf, (u64, u32, u64, (i64, i64), Option<Vec<u8>>)>;

impl Stage {
    /// An empty stage.
    pub(crate) fn new(programs: &Path) -> anyhow::Result<Stage> {
        let folder = tempfile::Builder::new()
            .prefix("xtask-smoke-")
            .tempdir()
            .context("cannot create a folder for the stage")?;
        let root = folder.path().canonicalize().context("cannot find the stage's folder")?;
        let mut names = Names::default();
        names.set("ROOT", root.display());
        names.set("PROGRAMS", programs.display());
        names.set("SMOKES_PID", std::process::id());
        names.set("NOW", humantime::format_rfc3339_seconds(SystemTime::now()));
        Ok(Stage { marked: Marked::new(&root), folder, root, names })
    }

    /// Creates everything on the plan, except for a lock that is held.
    pub(crate) fn set(&self, plan: &StagePlan) -> anyhow::Result<()> {
        let usual = ["archive", "bin", "home", "tmp"].into_iter();
        for name in usual.chain(plan.folders.iter().map(|name| &name.get_ref()[..])) {
            self.create(name, |path| fs::create_dir_all(path))?;
        }
        for (name, text) in &plan.files {
            self.write(name.get_ref(), text)?;
        }
        for (name, target) in &plan.links {
            let target = self.names.fill(target)?;
            self.create(name.get_ref(), |path| symlink(&target, path))?;
        }
        for name in &plan.fifos {
            self.create(name.get_ref(), |path| Ok(mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0)?))?;
        }
        for (name, size) in &plan.holes {
            self.create(name.get_ref(), |path| fs::File::create(path)?.set_len(*size))?;
        }
        if let Some(LockPlan::Unheld { at, sidecar }) = &plan.lock {
            self.write(at.get_ref(), "")?;
            if let Some(sidecar) = sidecar {
                self.write(&format!("{}.meta", at.get_ref()), sidecar)?;
            }
        }
        for (name, mode) in &plan.modes {
            self.create(name.get_ref(), |path| fs::set_permissions(path, fs::Permissions::from_mode(*mode)))?;
        }
        Ok(())
    }

    /// Creates something on the stage, and its folder if needed.
    pub(crate) fn create(&self, name: &str, create: impl FnOnce(&Path) -> io::Result<()>) -> anyhow::Result<()> {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)
            .and_then(|()| create(&path))
            .with_context(|| format!("cannot create {}", path.display()))
    }

    /// Writes a file, its placeholders filled in.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let text = self.names.fill(text)?;
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        self.create(name, |path| options.open(path)?.write_all(text.as_bytes()))
    }

    /// A marked command in a clean environment: nothing of the caller's may change what comes out. With a `setup`
    /// it finds the caller's programs too, and scripts find this one.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, setup: Option<&Setup>) -> Command {
        let mut search_path = self.root.join("bin").into_os_string();
        let mut command = child::command(program);
        command.current_dir(&self.root).env_clear();
        if let Some(setup) = setup {
            search_path.push(":");
            search_path.push(&setup.env.search_path);
            // A build would replace the program under other smokes.
            command.env("XTASK_BIN", &setup.own);
        }
        command.env("PATH", search_path);
        command.env("HOME", self.root.join("home")).env("TMPDIR", self.root.join("tmp"));
        command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("RUST_BACKTRACE", "0"), ("COLUMNS", "100")]);
        self.marked.mark(&mut command);
        command
    }

    /// What is on the stage now.
    pub(crate) fn snapshot(&self) -> io::Result<Snapshot> {
        let (mut snapshot, mut left) = (Snapshot::new(), vec![self.root.clone()]);
        while let Some(path) = left.pop() {
            let stat = fs::symlink_metadata(&path)?;
            if stat.is_dir() {
                for entry in fs::read_dir(&path)? {
                    left.push(entry?.path());
                }
            }
            // None if it is too large, or not a regular file.
            let content = file::read(&path, Links::Refuse, COMPARED_MAX_BYTES).ok();
            let modified = (stat.mtime(), stat.mtime_nsec());
            snapshot.insert(path, (stat.ino(), stat.mode(), stat.len(), modified, content));
        }
        Ok(snapshot)
    }
}

/// The differences between two snapshots, a line each.
pub(crate) fn changes(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    let change = |path: &PathBuf| match (before.get(path), after.get(path)) {
        (Some(_), None) => Some(format!("removed {}", path.display())),
        (None, _) => Some(format!("created {}", path.display())),
        (before, now) => (before != now).then(|| format!("changed {}", path.display())),
    };
    paths.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_on_the_stage_is_seen() {
        let stage = Stage::new(Path::new("/")).unwrap();
        let before = stage.snapshot().unwrap();
        assert_eq!(changes(&before, &stage.snapshot().unwrap()), [""; 0]);
        stage.write("archive/new", "x").unwrap();
        let found = changes(&before, &stage.snapshot().unwrap());
        assert_eq!(found.len(), 3, "the file, its folder, and the root's time: {found:?}");
        let before = stage.snapshot().unwrap();
        stage.write("archive/new", "y").unwrap();
        assert_eq!(changes(&before, &stage.snapshot().unwrap()).len(), 1);
    }
}
