//! A case's stage: a fresh folder with everything that the case asks for, removed afterwards.

use crate::smokes::case::{LockPlan, StagePlan, stays_on_stage};
use crate::smokes::names::Names;
use anyhow::{Context, bail};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::TempDir;

/// Maximum size of a file whose content a snapshot compares.
const COMPARED_MAX_BYTES: u64 = 1 << 20;

/// The mode of files that a case does not give another.
const FILE_MODE: u32 = 0o600;

pub(crate) struct Stage {
    folder: TempDir,
    /// Without links, as programs print it.
    pub(crate) root: PathBuf,
    pub(crate) names: Names,
}

/// Everything below a folder, to see whether it changed.
#[derive(PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<PathBuf, FileState>);

#[derive(PartialEq, Eq)]
struct FileState {
    inode: u64,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    content: Option<Vec<u8>>,
}

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
        Ok(Stage { folder, root, names })
    }

    /// Creates everything on the plan, except for a lock that is held.
    pub(crate) fn set(&self, plan: &StagePlan) -> anyhow::Result<()> {
        let usual = ["archive", "bin", "home", "tmp"].into_iter();
        for name in usual.chain(plan.folders.iter().map(|name| &name.get_ref()[..])) {
            self.create(name, |path| fs::create_dir_all(path))?;
        }
        for (name, text) in &plan.files {
            self.write(name.get_ref(), text.get_ref())?;
        }
        for (name, target) in &plan.links {
            let target = self.names.fill(target.get_ref())?;
            self.create(name.get_ref(), |path| symlink(&target, path))?;
        }
        for name in &plan.fifos {
            self.create(name.get_ref(), |path| Ok(mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0)?))?;
        }
        for (name, size) in &plan.holes {
            self.create(name.get_ref(), |path| fs::File::create(path)?.set_len(*size))?;
        }
        if let Some(LockPlan::Unheld(unheld)) = &plan.lock {
            let at = unheld.at.get_ref();
            self.write(at, "")?;
            if let Some(sidecar) = &unheld.sidecar {
                self.write(&format!("{at}.meta"), sidecar.get_ref())?;
            }
        }
        for (name, mode) in &plan.modes {
            self.create(name.get_ref(), |path| fs::set_permissions(path, fs::Permissions::from_mode(*mode)))?;
        }
        Ok(())
    }

    /// A path on the stage.
    pub(crate) fn path(&self, name: &str) -> anyhow::Result<PathBuf> {
        if !stays_on_stage(name) {
            bail!("`{name}` does not stay on the stage");
        }
        Ok(self.root.join(name))
    }

    /// Creates something on the stage, and its folder if needed.
    pub(crate) fn create(&self, name: &str, create: impl FnOnce(&Path) -> io::Result<()>) -> anyhow::Result<()> {
        let path = self.path(name)?;
        let folder = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)
            .and_then(|()| create(&path))
            .with_context(|| format!("cannot create {}", path.display()))
    }

    /// Writes a file, its placeholders filled in.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let text = self.names.fill(text)?;
        let mut options = fs::File::options();
        options.write(true).create(true).truncate(true).mode(FILE_MODE);
        self.create(name, |path| options.open(path)?.write_all(text.as_bytes()))
    }

    /// What is on the stage now.
    pub(crate) fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let mut snapshot = Snapshot(BTreeMap::new());
        snapshot.add(&self.root).with_context(|| format!("cannot read the stage {}", self.root.display()))?;
        Ok(snapshot)
    }

    /// Leaves the stage's folder in place.
    pub(crate) fn keep(self) -> PathBuf {
        self.folder.keep()
    }

    /// Removes the stage.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        self.folder.close().context("cannot remove the stage")
    }
}

impl Snapshot {
    /// The differences in `after`, a line each.
    pub(crate) fn changes(&self, after: &Snapshot) -> Vec<String> {
        let mut changes = Vec::new();
        for (path, before) in &self.0 {
            match after.0.get(path) {
                None => changes.push(format!("removed {}", path.display())),
                Some(now) if now != before => changes.push(format!("changed {}", path.display())),
                Some(_) => {}
            }
        }
        changes.extend(
            after.0.keys().filter(|path| !self.0.contains_key(*path)).map(|path| format!("created {}", path.display())),
        );
        changes
    }

    fn add(&mut self, path: &Path) -> io::Result<()> {
        let stat = fs::symlink_metadata(path)?;
        #[expect(clippy::disallowed_methods, reason = "the stage is ours, and this is a regular file of bounded size")]
        let content = if stat.is_file() && stat.len() <= COMPARED_MAX_BYTES { Some(fs::read(path)?) } else { None };
        let modified = (stat.mtime(), stat.mtime_nsec());
        self.0.insert(
            path.to_path_buf(),
            FileState { inode: stat.ino(), mode: stat.mode(), size: stat.len(), modified, content },
        );
        if stat.is_dir() {
            for entry in fs::read_dir(path)? {
                self.add(&entry?.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_on_the_stage_is_seen() {
        let stage = Stage::new(Path::new("/")).unwrap();
        let before = stage.snapshot().unwrap();
        assert_eq!(before.changes(&stage.snapshot().unwrap()), [""; 0]);
        stage.write("archive/new", "x").unwrap();
        let changes = before.changes(&stage.snapshot().unwrap());
        assert_eq!(changes.len(), 3, "the file, its folder, and the root's time: {changes:?}");
        let before = stage.snapshot().unwrap();
        stage.write("archive/new", "y").unwrap();
        assert_eq!(before.changes(&stage.snapshot().unwrap()).len(), 1);
    }
}
