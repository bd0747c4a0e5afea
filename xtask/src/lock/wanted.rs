//! What a walk looks for: descriptors of the lock file, and of what was the lock file before it was deleted,
//! replaced or moved under its holder. The kernel says nothing about those at the path, and yet a scrape runs.

use crate::lock::file::LockFile;
use crate::lock::path::sidecar_path;
use crate::lock::sidecar::{Claim, Writer};
use crate::lock::table::{Entry, LockKey, LockType, fdinfo_entries};
use crate::sys::file::{StatId, followed, stat_id};
use crate::sys::mounts::{self, Mount};
use crate::sys::procfs;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How the kernel marks the path of a deleted file (`d_path` in the kernel's fs/d_path.c).
const DELETED: &[u8] = b" (deleted)";

/// What is looked for.
pub(crate) struct Wanted<'a> {
    pub(crate) claim: &'a Claim,
    /// The file now at the lock's path.
    pub(crate) current: Option<StatId>,
    /// The lock's path without links.
    folder: PathBuf,
    name: OsString,
    /// None if there is no such folder.
    folder_id: Option<StatId>,
    /// The device of the files that may be the lock; None where `stat` may report any.
    device: Option<(u32, u32)>,
    /// The mount of the folder.
    pub(crate) mount: Option<Mount>,
    /// An earlier lock file may still be held: there is none now, or this process has just created it, or a sidecar
    /// is there.
    pub(crate) may_have_predecessor: bool,
    /// The file at the path is known to be held, so another one would not change the answer.
    pub(crate) is_held: bool,
}

/// What a descriptor with a flock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Here,
    Unlinked,
    /// Another file.
    Other,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(lock: &Path, file: Option<&LockFile>, claim: &'a Claim) -> Wanted<'a> {
        let at = followed(lock);
        let folder = at.parent().unwrap_or(Path::new("/"));
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let folder_id = stat_id(CWD, &folder, AtFlags::empty()).ok();
        let current = file.map(|file| file.stat_id);
        let folders_mount = || {
            let folder = openat(CWD, &folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
            Some(mounts::find(folder).ok()?.mount)
        };
        let mount = file.map(|file| file.mount.clone()).or_else(folders_mount);
        let is_overlay = mount.as_ref().is_some_and(|mount| mount.fs_type == "overlay");
        Wanted {
            claim,
            current,
            // On overlayfs files have the devices of their layers.
            device: current.or(folder_id).filter(|_| !is_overlay).map(|(major, minor, _)| (major, minor)),
            name: at.file_name().unwrap_or_default().to_owned(),
            may_have_predecessor: current.is_none() || claim.has_sidecar(),
            is_held: false,
            mount,
            folder,
            folder_id,
        }
    }

    /// What a descriptor is, if it has a flock on a file that may be or have been the lock; `thread` is its folder in
    /// `/proc`.
    pub(crate) fn classify(
        &self,
        folder: BorrowedFd,
        pid: i32,
        thread: &str,
        fd: i32,
    ) -> io::Result<Option<(Found, LockKey)>> {
        let name = fd.to_string();
        // A process may have thousands of descriptors: this costs a fifth of reading an fdinfo.
        let id = stat_id(folder, &name, AtFlags::empty())?;
        if self.device.is_some_and(|device| device != (id.0, id.1)) {
            return Ok(None);
        }
        let is_here = self.current == Some(id);
        if !is_here && (self.is_held || !self.may_be_unlinked(folder, &name)?) {
            return Ok(None);
        }
        let info = procfs::read(&format!("{thread}/fdinfo/{fd}"))?;
        let counts = |entry: &Entry| {
            if is_here { entry.keeps_out_scrapes() } else { entry.lock_type == LockType::Flock }
        };
        let Some(key) = fdinfo_entries(&info).find(counts).and_then(|entry| entry.key) else { return Ok(None) };
        let found = if is_here {
            Found::Here
        } else {
            let shown = readlinkat(folder, &name, Vec::new())?;
            let is_in_our_namespace = procfs::has_our_mounts(thread)?;
            let file = OpenFile {
                pid,
                thread,
                is_in_our_namespace,
                id,
                mount: mount_id(folder, &name)?,
                shown: shown.as_bytes(),
            };
            if self.was_the_lock(&file)? { Found::Unlinked } else { Found::Other }
        };
        Ok(Some((found, key)))
    }

    /// Whether a file on the lock's device may be a lock file that is no longer at its path.
    fn may_be_unlinked(&self, folder: BorrowedFd, fd: &str) -> io::Result<bool> {
        let wanted = StatxFlags::INO | StatxFlags::NLINK | StatxFlags::TYPE;
        let stat = statx(folder, fd, AtFlags::STATX_DONT_SYNC, wanted)?;
        let is_regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        Ok(is_regular && (stat.stx_nlink == 0 || self.may_have_predecessor))
    }

    /// Whether a locked file was at the lock's path.
    fn was_the_lock(&self, file: &OpenFile) -> io::Result<bool> {
        let path = file.path();
        if file.is_deleted() {
            Ok(self.is_writers(file.pid) || (path.file_name() == Some(&self.name) && self.may_be_from_here(file)?))
        } else {
            let is_ours = self.is_writers(file.pid) || self.is_moved_aside(file)?;
            Ok(is_ours && !self.is_anothers(&file.resolvable(path)))
        }
    }

    /// Whether a process is the recorded one, or was started by it.
    fn is_writers(&self, pid: i32) -> bool {
        let Some(recorded) = self.claim.recorded() else { return false };
        let is_recorded = |pid: i32| u64::try_from(pid) == Ok(recorded.pid);
        match recorded.writer {
            // A sidecar that names pid 1 would claim everything.
            Writer::Running if recorded.pid != 1 => procfs::lineage(pid).any(is_recorded),
            Writer::Running | Writer::Recycled => is_recorded(pid),
            _ => false,
        }
    }

    /// Whether a deleted file with the lock's name may have been in the lock's folder: it was certainly in another one
    /// if that is where the path says, with nothing mounted over it since.
    fn may_be_from_here(&self, file: &OpenFile) -> io::Result<bool> {
        let folder = file.path().parent().unwrap_or(Path::new("/"));
        if self.folder_id.is_none() && folder == self.folder {
            return Ok(true);
        }
        for at in folder.ancestors() {
            let there = file.resolvable(at);
            if let Some(id) = stat_if_there(&there, AtFlags::empty())? {
                let is_ours = at == folder && Some(id) == self.folder_id;
                // A root of its own (chroot(2)), there or here, makes another path of it: then nothing may be found.
                let is_unclear = at != folder && (!file.is_in_our_namespace || self.mount.is_none());
                return Ok(is_ours || is_unclear || file.mount.is_none() || mount_id(CWD, &there)? != file.mount);
            }
        }
        Ok(true)
    }

    /// Whether a file is in the lock's folder under another name. A script that runs under a lock of its own, and asks
    /// for this one, is not a scrape.
    fn is_moved_aside(&self, file: &OpenFile) -> io::Result<bool> {
        let path = file.resolvable(file.path());
        let folder = stat_if_there(path.parent().unwrap_or(&path), AtFlags::empty())?;
        Ok(folder.is_some()
            && folder == self.folder_id
            && stat_if_there(&path, AtFlags::SYMLINK_NOFOLLOW)? == Some(file.id)
            && !is_open_above(file.id))
    }

    /// Whether a file has a sidecar of its own that names somebody else: it is another archive's lock.
    fn is_anothers(&self, path: &Path) -> bool {
        let pid = |claim: &Claim| claim.recorded().map(|recorded| recorded.pid);
        sidecar_path(path).symlink_metadata().is_ok()
            && pid(&Claim::read(path)).is_some_and(|named| pid(self.claim) != Some(named))
    }
}

/// A locked file that some process has open.
struct OpenFile<'a> {
    pid: i32,
    /// The folder in `/proc` of the thread that has it.
    thread: &'a str,
    /// Its process has this process's mounts.
    is_in_our_namespace: bool,
    id: StatId,
    /// None before Linux 5.8, which does not show it.
    mount: Option<u64>,
    /// Its path as the kernel shows it.
    shown: &'a [u8],
}

impl<'a> OpenFile<'a> {
    fn is_deleted(&self) -> bool {
        self.shown.ends_with(DELETED)
    }

    fn path(&self) -> &'a Path {
        Path::new(OsStr::from_bytes(self.shown.strip_suffix(DELETED).unwrap_or(self.shown)))
    }

    /// A path as the kernel shows it for this file, as one that leads there from here: it starts at this process's root,
    /// or else at the other mount namespace's.
    fn resolvable(&self, path: &Path) -> PathBuf {
        if self.is_in_our_namespace {
            return path.to_path_buf();
        }
        Path::new(&format!("{}/root", self.thread)).join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Whether this process or an ancestor has a file open.
fn is_open_above(id: StatId) -> bool {
    let has_it = |pid: i32| {
        let folder = procfs::open_folder(&format!("/proc/{pid}/fd"))?;
        let fds = procfs::numbers(&folder)?;
        io::Result::Ok(fds.iter().any(|fd| stat_id(&folder, fd.to_string(), AtFlags::empty()).ok() == Some(id)))
    };
    i32::try_from(std::process::id()).is_ok_and(|own| procfs::lineage(own).any(|pid| has_it(pid).unwrap_or(false)))
}

fn stat_if_there(path: &Path, flags: AtFlags) -> io::Result<Option<StatId>> {
    match stat_id(CWD, path, flags) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        stat => stat.map(Some),
    }
}

fn mount_id(folder: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Option<u64>> {
    let stat = statx(folder, name, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)?;
    Ok((stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_and_moved_files_are_recognized() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::write(real.join("aside"), "").unwrap();
        std::fs::create_dir(real.join("other")).unwrap();
        let id = stat_id(CWD, real.join("aside"), AtFlags::empty()).unwrap();
        let wanted = Wanted::new(&real.join(".dce-scrape.lock"), None, &Claim::None);
        let pid = i32::try_from(std::process::id()).unwrap();
        let here = mount_id(CWD, &real).unwrap();
        let was_the_lock = |shown: &str, mount| {
            wanted
                .was_the_lock(&OpenFile {
                    pid,
                    thread: "/proc/self",
                    is_in_our_namespace: true,
                    id,
                    mount,
                    shown: shown.as_bytes(),
                })
                .unwrap()
        };
        let below = |name: &str| format!("{}/{name}", real.display());
        assert!(was_the_lock(&below(".dce-scrape.lock (deleted)"), here));
        assert!(!was_the_lock(&below("aside (deleted)"), here));
        let others = below("other/.dce-scrape.lock (deleted)");
        assert!(!was_the_lock(&others, here), "another archive's");
        assert!(was_the_lock(&others, Some(0)), "something is mounted over its folder");
        assert!(!was_the_lock(&below("gone/.dce-scrape.lock (deleted)"), here), "another archive, deleted");
        assert!(was_the_lock(&below("aside"), here));
        assert!(!was_the_lock(&below("other"), here), "no such file is there");
        assert!(!was_the_lock("/elsewhere/aside", here));
        std::fs::write(real.join("aside.meta"), "pid=1\n").unwrap();
        assert!(!was_the_lock(&below("aside"), here), "it has a sidecar of its own");
    }

    #[test]
    fn links_are_followed_even_if_dangling() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("t")).unwrap();
        std::os::unix::fs::symlink("t/real", real.join("link")).unwrap();
        let wanted = Wanted::new(&real.join("link"), None, &Claim::None);
        assert_eq!((wanted.folder.clone(), &wanted.name[..]), (real.join("t"), OsStr::new("real")));
    }

    fn claim(text: &str) -> Claim {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lock.meta"), text).unwrap();
        Claim::read(&folder.path().join("lock"))
    }

    #[test]
    fn the_recorded_process_and_what_it_started_are_the_writers() {
        let own = i32::try_from(std::process::id()).unwrap();
        let parent = procfs::lineage(own).nth(1).unwrap();
        let is_writers =
            |text: &str, pid: i32| Wanted::new(Path::new("/nonexistent/lock"), None, &claim(text)).is_writers(pid);
        assert!(is_writers(&format!("pid={parent}\n"), own) && is_writers(&format!("pid={parent}\n"), parent));
        assert!(!is_writers(&format!("pid={own}\n"), parent) && !is_writers("pid=x\n", own));
        assert!(is_writers("pid=1\n", 1) && !is_writers("pid=1\n", own), "everything comes from pid 1");
        let recycled = format!("pid={parent}\nstarted=2001-01-01T00:00:00Z\n");
        assert!(is_writers(&recycled, parent) && !is_writers(&recycled, own));
        let elsewhere = format!("pid={parent}\nhost=elsewhere\n");
        assert!(!is_writers(&elsewhere, parent));
    }

    #[test]
    fn only_regular_files_that_may_have_gone_may_be_unlinked() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, file) = (folder.path().join("lock"), folder.path().join("file"));
        std::fs::write(&lock, "").unwrap();
        std::fs::write(&file, "").unwrap();
        let opened = openat(CWD, &file, OFlags::RDONLY, Mode::empty()).unwrap();
        let current = crate::lock::file::find(&lock).unwrap();
        let (none, some) = (Claim::None, claim("pid=99999999\n"));
        let at = openat(CWD, folder.path(), OFlags::PATH, Mode::empty()).unwrap();
        let own_fds = openat(CWD, "/proc/self/fd", OFlags::PATH, Mode::empty()).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&opened).to_string();
        let may_be = |file: Option<&LockFile>, claim: &Claim, folder: &std::os::fd::OwnedFd, name: &str| {
            Wanted::new(&lock, file, claim).may_be_unlinked(folder.as_fd(), name).unwrap()
        };
        assert!(!may_be(current.as_ref(), &none, &at, "file"), "the lock file is there, and no sidecar");
        assert!(may_be(current.as_ref(), &some, &at, "file") && may_be(None, &none, &at, "file"));
        assert!(!may_be(None, &none, &at, "."), "a folder");
        std::fs::remove_file(&file).unwrap();
        assert!(may_be(current.as_ref(), &none, &own_fds, &fd), "a deleted file");
    }

    #[test]
    fn only_a_missing_file_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let there = |name: &str| stat_if_there(&folder.path().join(name), AtFlags::empty());
        assert!(there("file").unwrap().is_some() && there("none").unwrap().is_none());
        assert!(there("file/below").is_err());
    }

    #[test]
    fn mounts_are_told_apart() {
        let id = |path: &str| mount_id(CWD, path).unwrap();
        assert!(id("/proc").is_some() && id("/proc") == id("/proc/self") && id("/proc") != id("/"));
    }

    #[test]
    fn what_is_open_here_is_found() {
        let [open, closed] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let closed = closed.into_temp_path();
        let id = |path: &Path| stat_id(CWD, path, AtFlags::empty()).unwrap();
        assert!(is_open_above(id(open.path())) && !is_open_above(id(&closed)));
    }
}
