//! A case's stage: a new folder with everything that the case asks for. Nothing is created outside: every path is
//! opened beneath it, and a link in a path is an error.

use crate::smokes::case::{StagePlan, Unlinked};
use crate::smokes::names::Names;
use crate::smokes::smoke::Setup;
use crate::sys::child;
use crate::sys::file::{self, Links, plain};
use crate::sys::signals::Signals;
use anyhow::Context;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::fs::{ftruncate, mkdirat, mknodat, open, openat, openat2, renameat, symlinkat, unlinkat, utimensat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Maximum size of a file that is compared with an expectation.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// How long the removal of a stage may take that the standard library cannot remove.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The folders that every stage has.
const FOLDERS: [&str; 4] = ["archive", "bin", "home", "tmp"];

/// A folder that exists until [`remove`] is called.
pub(crate) struct Stage {
    /// Without links, as programs print it.
    pub(crate) root: PathBuf,
    pub(crate) names: Names,
    folder: OwnedFd,
}

/// Something on a stage, found without following a link.
struct Handle(OwnedFd);

impl Handle {
    /// A path that leads there, whatever happens on the stage.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

impl Stage {
    /// An empty stage in a new folder.
    pub(crate) fn new(folder: &Path, programs: &Path) -> anyhow::Result<Stage> {
        let cannot = || format!("cannot create a folder for the stage, {}", folder.display());
        fs::DirBuilder::new().create(folder).with_context(cannot)?;
        let root = folder.canonicalize().with_context(cannot)?;
        let mut names = Names::default();
        names.set("ROOT", root.display());
        names.set("PROGRAMS", programs.display());
        names.set("SMOKES_PID", std::process::id());
        names.set("NOW", humantime::format_rfc3339_seconds(SystemTime::now()));
        let folder = open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Stage { folder: folder.with_context(cannot)?, root, names })
    }

    /// Creates everything on the plan, except for the holder of the lock.
    pub(crate) fn set(&self, plan: &StagePlan) -> anyhow::Result<()> {
        for name in FOLDERS.into_iter().chain(plan.folders.iter().map(String::as_str)) {
            self.make(name, make_folder)?;
        }
        for (name, text) in &plan.files {
            self.write(name, text)?;
        }
        for (name, target) in &plan.links {
            let target = self.names.fill(target)?;
            self.make(name, |folder, name| symlinkat(&target, folder, name))?;
        }
        for name in &plan.fifos {
            self.make(name, |folder, name| mknodat(folder, name, FileType::Fifo, Mode::RWXU, 0))?;
        }
        for (name, size) in &plan.holes {
            self.make(name, |folder, name| ftruncate(create(folder, name)?, *size))?;
        }
        for (name, seconds) in &plan.times {
            let time = Timespec { tv_sec: *seconds, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            self.change(name, |path| Ok(utimensat(CWD, path, &times, AtFlags::empty())?))?;
        }
        // The deepest first: a folder may be closed by its mode.
        for (name, mode) in plan.modes.iter().rev() {
            self.change(name, |path| fs::set_permissions(path, Permissions::from_mode(*mode)))?;
        }
        Ok(())
    }

    /// Writes a file, its placeholders filled in.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let text = self.names.fill(text)?;
        self.make(name, |folder, name| File::from(create(folder, name)?).write_all(text.as_bytes()))
    }

    /// Links to a file elsewhere, in place of what is there.
    pub(crate) fn link(&self, name: &str, to: &Path) -> anyhow::Result<()> {
        self.make(name, |folder, name| {
            _ = unlinkat(folder, name, AtFlags::empty());
            symlinkat(to, folder, name)
        })
    }

    /// Makes a lock file disappear from its path.
    pub(crate) fn unlink(&self, lock: &str, how: Unlinked) -> anyhow::Result<()> {
        let delete = |path: &str| self.make(path, |folder, name| unlinkat(folder, name, AtFlags::empty()));
        match how {
            Unlinked::Moved => self.make(lock, |folder, name| {
                renameat(folder, name, folder, [name, OsStr::new(".old")].into_iter().collect::<OsString>())
            }),
            Unlinked::Deleted => delete(lock),
            Unlinked::DeletedWithSidecar => delete(lock).and_then(|()| delete(&format!("{lock}.meta"))),
            Unlinked::Replaced => delete(lock).and_then(|()| self.write(lock, "")),
        }
    }

    /// Makes something with a name in a folder, which is created if needed.
    fn make<E: Into<io::Error>>(
        &self,
        path: &str,
        make: impl FnOnce(BorrowedFd, &OsStr) -> Result<(), E>,
    ) -> anyhow::Result<()> {
        let parts: Vec<&OsStr> = Path::new(path).iter().collect();
        let made = parts.split_last().ok_or(Errno::INVAL.into()).and_then(|(name, parents)| {
            let mut folder = self.folder.try_clone()?;
            for parent in parents {
                make_folder(folder.as_fd(), parent)?;
                folder = open_beneath(&folder, parent, OFlags::PATH | OFlags::DIRECTORY)?;
            }
            make(folder.as_fd(), name).map_err(Into::into)
        });
        made.with_context(|| format!("cannot create {path} on the stage"))
    }

    /// Changes what is at a path, given another path that leads there without links.
    fn change(&self, path: &str, change: impl FnOnce(&Path) -> io::Result<()>) -> anyhow::Result<()> {
        let changed = self.find(path, OFlags::empty()).and_then(|found| change(&found.path()));
        changed.with_context(|| format!("cannot change {path} on the stage"))
    }

    /// The content of a file.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let found = self.find(path, OFlags::empty()).map_err(|error| plain(&error))?;
        file::read(&found.path(), Links::Follow, FILE_MAX_BYTES).map_err(|error| error.to_string())
    }

    /// Whether there is anything at a path, perhaps a link.
    pub(crate) fn has(&self, path: &str) -> io::Result<bool> {
        match self.find(path, OFlags::NOFOLLOW) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
            found => found.map(|_| true),
        }
    }

    fn find(&self, path: &str, more: OFlags) -> io::Result<Handle> {
        Ok(Handle(open_beneath(&self.folder, path.as_ref(), OFlags::PATH | more)?))
    }

    /// A command in a clean environment: nothing of the caller's may change what comes out. With a `setup` it finds the
    /// caller's programs too, and scripts find this one.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>, setup: Option<&Setup>) -> Command {
        let mut search_path = self.root.join("bin").into_os_string();
        let mut command = child::command(program);
        command.current_dir(&self.root).env_clear();
        if let Some(setup) = setup {
            search_path.push(":");
            search_path.push(&setup.env.search_path);
            // A build would replace the program under other smokes.
            command.env("XTASK_BIN", &setup.xtask);
        }
        command.env("PATH", search_path);
        command.env("HOME", self.root.join("home")).env("TMPDIR", self.root.join("tmp"));
        command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("RUST_BACKTRACE", "0"), ("COLUMNS", "100")]);
        command
    }
}

/// Removes a stage, whatever its modes and its depth. It may already be gone.
pub(crate) fn remove(root: &Path) -> io::Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            open_up(root);
            // That keeps a descriptor for each level, unlike rm.
            child::run(child::command("rm").arg("-rf").arg(root), REMOVE_TIMEOUT, &Signals::catch(&[])?)?;
            if root.symlink_metadata().is_ok() { Err(error) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Makes every folder writable again, as far as possible.
fn open_up(root: &Path) {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        _ = fs::set_permissions(&folder, Permissions::from_mode(0o700));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(entries.map(|entry| entry.path()));
    }
}

fn open_beneath(folder: &OwnedFd, name: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat2(folder, name, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn make_folder(above: BorrowedFd, name: &OsStr) -> rustix::io::Result<()> {
    match mkdirat(above, name, Mode::from_raw_mode(0o777)) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Creates or empties a file.
fn create(folder: BorrowedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, name, flags, Mode::from_raw_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(folder: &Path) -> Stage {
        Stage::new(&folder.join("stage"), Path::new("/")).unwrap()
    }

    fn plan(text: &str) -> StagePlan {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn nothing_leaves_the_stage_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("outside"), "mine").unwrap();
        let stage = stage(folder.path());
        stage.set(&plan("links = { 'up' = '..', 'file' = '../outside' }")).unwrap();
        for escape in [
            "modes = { 'file' = 0o777 }",
            "modes = { 'up/outside' = 0o777 }",
            "files = { 'up/new' = '' }",
            "files = { 'file' = '' }",
            "holes = { 'up/outside' = 9 }",
        ] {
            assert!(stage.set(&plan(escape)).is_err(), "{escape}");
        }
        assert_eq!(file::read(&folder.path().join("outside"), Links::Refuse, 9).unwrap(), b"mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_closed_stage_is_looked_at_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let stage = stage(folder.path());
        stage.set(&plan("files = { 'a/b/c' = '' }\nmodes = { 'a' = 0, 'a/b' = 0 }")).unwrap();
        assert!(crate::smokes::snapshot::snapshot(&stage.root).is_ok());
        remove(&stage.root).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
