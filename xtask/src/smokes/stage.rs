//! A case's stage: a fresh folder with everything the case asked for, gone afterwards.

use crate::smokes::case::{LockPlan, StagePlan};
use anyhow::{Context, anyhow, bail};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;
use tempfile::TempDir;

/// The config that is there when a case brings none.
const USUAL_CONFIG: (&str, &str) =
    ("scrape-targets.json", "{ \"archive_root\": \"[ROOT]/archive\", \"targets\": [] }\n");

/// Contents up to this many bytes are compared by a snapshot.
const COMPARED: u64 = 1 << 20;

pub(crate) struct Stage {
    folder: TempDir,
    /// With no links in it, as programs print it.
    pub(crate) root: PathBuf,
    pub(crate) names: Names,
}

/// What stands for what in a case's texts: `[ROOT]` for the stage's path, and so on.
#[derive(Default)]
pub(crate) struct Names(BTreeMap<&'static str, String>);

/// Everything under a folder, for seeing whether it changed.
#[derive(PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<PathBuf, Entry>);

#[derive(PartialEq, Eq)]
struct Entry {
    inode: u64,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    content: Option<Vec<u8>>,
}

impl Stage {
    /// Sets the stage, all but a lock that is held.
    pub(crate) fn set(plan: &StagePlan) -> anyhow::Result<Stage> {
        let folder =
            tempfile::Builder::new().prefix("xtask-smoke-").tempdir().context("cannot make a folder for the stage")?;
        let root = folder.path().canonicalize().context("cannot find the stage's folder")?;
        let mut names = Names::default();
        names.set("ROOT", root.display());
        names.set("PROGRAMS", programs().display());
        names.set("SMOKES_PID", std::process::id());
        names.set("NOW", humantime::format_rfc3339_seconds(SystemTime::now()));
        let stage = Stage { folder, root, names };
        for name in
            ["archive", "bin", "home", "tmp"].into_iter().chain(plan.folders.iter().map(|name| &name.get_ref()[..]))
        {
            let path = stage.path(name)?;
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let (config, text) = USUAL_CONFIG;
        if !plan.files.keys().any(|name| name.get_ref() == config) {
            stage.write(config, text)?;
        }
        for (name, text) in &plan.files {
            stage.write(name.get_ref(), text.get_ref())?;
        }
        for (name, target) in &plan.links {
            let path = stage.path_in_folder(name.get_ref())?;
            symlink(stage.names.fill(target.get_ref())?, &path)
                .with_context(|| format!("cannot link {}", path.display()))?;
        }
        for name in &plan.fifos {
            let path = stage.path_in_folder(name.get_ref())?;
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        for (name, size) in &plan.holes {
            let path = stage.path_in_folder(name.get_ref())?;
            let file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
            file.set_len(*size).with_context(|| format!("cannot stretch {}", path.display()))?;
        }
        if let Some(LockPlan::Unheld(unheld)) = &plan.lock {
            let at = unheld.at.get_ref();
            stage.write(at, "")?;
            if let Some(sidecar) = &unheld.sidecar {
                stage.write(&format!("{at}.meta"), sidecar.get_ref())?;
            }
        }
        for (name, mode) in &plan.modes {
            let path = stage.path(name.get_ref())?;
            let permissions = fs::Permissions::from_mode(*mode);
            fs::set_permissions(&path, permissions).with_context(|| format!("cannot chmod {}", path.display()))?;
        }
        Ok(stage)
    }

    /// A path on the stage, and nowhere else.
    pub(crate) fn path(&self, name: &str) -> anyhow::Result<PathBuf> {
        if !stays_on_stage(name) {
            bail!("`{name}` does not stay on the stage");
        }
        Ok(self.root.join(name))
    }

    /// Writes a file, its placeholders filled in.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path_in_folder(name)?;
        fs::write(&path, self.names.fill(text)?).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What is on the stage now.
    pub(crate) fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let mut snapshot = Snapshot(BTreeMap::new());
        snapshot.add(&self.root).with_context(|| format!("cannot read the stage {}", self.root.display()))?;
        Ok(snapshot)
    }

    /// Leaves the stage where it is, for a person to look at.
    pub(crate) fn keep(self) -> PathBuf {
        self.folder.keep()
    }

    /// Takes the stage down.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        self.folder.close().context("cannot remove the stage")
    }

    /// A path on the stage whose folder is made if it is not there.
    pub(crate) fn path_in_folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.path(name)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(path)
    }
}

/// Whether a path from the stage's root leads nowhere else.
pub(crate) fn stays_on_stage(name: &str) -> bool {
    Path::new(name).components().all(|component| matches!(component, Component::Normal(_)))
}

/// The folder of the programs that cases use.
pub(crate) fn programs() -> PathBuf {
    super::folder().join("programs")
}

impl Names {
    /// What is known on every stage, and besides where a live child holds the lock.
    pub(crate) const EVERYWHERE: [&str; 4] = ["ROOT", "PROGRAMS", "SMOKES_PID", "NOW"];
    pub(crate) const HELD: [&str; 2] = ["HOLDER_PID", "LEADER_PID"];

    /// Lets `[name]` stand for a value.
    pub(crate) fn set(&mut self, name: &'static str, value: impl ToString) {
        self.0.insert(name, value.to_string());
    }

    /// `text` with every `[NAME]` replaced.
    pub(crate) fn fill(&self, text: &str) -> anyhow::Result<String> {
        let mut filled = text.to_owned();
        for name in Names::used_in(text) {
            let value = self.0.get(name).ok_or_else(|| anyhow!("nothing is known as `[{name}]` here"))?;
            filled = filled.replace(&format!("[{name}]"), value);
        }
        Ok(filled)
    }

    /// `text` with the stage's own values replaced by their names: what `fill` undoes.
    pub(crate) fn unfill(&self, text: &str) -> String {
        let mut values: Vec<(&&str, &String)> = self.0.iter().collect();
        // Where one value is part of another, the longer one is meant.
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(*value, &format!("[{name}]")))
    }

    /// The placeholders in a text. A name is capital letters and `_`.
    pub(crate) fn used_in(text: &str) -> impl Iterator<Item = &str> {
        let is_name = |name: &&str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        text.split('[').skip(1).filter_map(|from| Some(from.split_once(']')?.0)).filter(is_name)
    }
}

impl Snapshot {
    /// What differs in `after`, a line each.
    pub(crate) fn changes(&self, after: &Snapshot) -> Vec<String> {
        let mut changes = Vec::new();
        for (path, entry) in &self.0 {
            match after.0.get(path) {
                None => changes.push(format!("removed {}", path.display())),
                Some(now) if now != entry => changes.push(format!("changed {}", path.display())),
                Some(_) => {}
            }
        }
        changes.extend(
            after.0.keys().filter(|path| !self.0.contains_key(*path)).map(|path| format!("created {}", path.display())),
        );
        changes
    }

    fn add(&mut self, path: &Path) -> std::io::Result<()> {
        let stat = fs::symlink_metadata(path)?;
        #[expect(clippy::disallowed_methods, reason = "the stage is ours, and this is a regular file of bounded size")]
        let content = if stat.is_file() && stat.len() <= COMPARED { Some(fs::read(path)?) } else { None };
        let modified = (stat.mtime(), stat.mtime_nsec());
        self.0.insert(
            path.to_path_buf(),
            Entry { inode: stat.ino(), mode: stat.mode(), size: stat.len(), modified, content },
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
    fn names_are_filled_in_and_unknown_ones_refused() {
        let mut names = Names::default();
        names.set("ROOT", "/r");
        assert_eq!(names.fill("[ROOT]/a [..] [] [x] [ROOT][").unwrap(), "/r/a [..] [] [x] /r[");
        assert!(names.fill("[NOBODY]").is_err());
        names.set("PROGRAMS", "/r/p");
        assert_eq!(names.unfill("/r/p/x /r/y"), "[PROGRAMS]/x [ROOT]/y");
    }

    #[test]
    fn every_change_on_the_stage_is_seen() {
        let stage = Stage::set(&StagePlan::default()).unwrap();
        let before = stage.snapshot().unwrap();
        assert_eq!(before.changes(&stage.snapshot().unwrap()), [""; 0]);
        stage.write("archive/new", "x").unwrap();
        let changes = before.changes(&stage.snapshot().unwrap());
        assert_eq!(changes.len(), 2, "the file, and its folder's time: {changes:?}");
        let before = stage.snapshot().unwrap();
        stage.write("archive/new", "y").unwrap();
        assert_eq!(before.changes(&stage.snapshot().unwrap()).len(), 1);
    }

    #[test]
    fn paths_stay_on_the_stage() {
        let stage = Stage::set(&StagePlan::default()).unwrap();
        for name in ["/etc/passwd", "../x", "a/../../x"] {
            assert!(stage.path(name).is_err(), "{name}");
        }
    }
}
