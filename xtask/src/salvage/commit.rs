//! Puts a new archive in the old one's place: written beside it, synced, renamed. A kill at any point leaves the old
//! one or the new one.

use crate::salvage::export::Export;
use crate::sys::file::remove_if_present;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, fsync, linkat, openat, statat};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// Writes a new archive at `to`; `old` is the one that was read there. With `keep_old` that one stays beside it, and its
/// path is given.
///
/// # Errors
/// It could not be written, or somebody has changed the old one; it is then still there.
pub(crate) fn replace(
    to: &Path,
    old: Option<&Export>,
    keep_old: bool,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<Option<PathBuf>> {
    let folder = to.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    // Nobody else writes here, under the scrape lock: the name need not be random, and what a kill leaves is
    // replaced by the next one. It must not end as an export's does.
    let new = beside(to, ".", ".dce-salvage");
    remove_if_present(&new)?;
    let attempt = || -> io::Result<Option<PathBuf>> {
        write_whole(&new, folder, old, write)?;
        check_unchanged(to, old)?;
        let kept = if keep_old { Some(keep(to)?) } else { None };
        fs::rename(&new, to)?;
        Ok(kept)
    };
    let kept = attempt().inspect_err(|_| _ = fs::remove_file(&new))?;
    sync_folder(folder)?;
    Ok(kept)
}

fn write_whole(
    new: &Path,
    folder: &Path,
    old: Option<&Export>,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let file = File::create_new(new)?;
    let mut out = BufWriter::with_capacity(256 << 10, &file);
    write(&mut out)?;
    out.flush()?;
    drop(out);
    // The scraper, perhaps another user, must be able to go on with it: it keeps the owner, where the caller may
    // give it away, and the mode.
    let owner = old.map_or_else(|| statat(CWD, folder, AtFlags::empty()), |old| Ok(old.stat))?;
    _ = fchown(&file, Some(Uid::from_raw(owner.st_uid)), Some(Gid::from_raw(owner.st_gid)));
    if let Some(old) = old {
        fchmod(&file, Mode::from_raw_mode(old.stat.st_mode & PERMISSIONS))?;
    }
    file.sync_all()
}

/// Whether what was read at `to`, or that there was nothing, is still so.
fn check_unchanged(to: &Path, old: Option<&Export>) -> io::Result<()> {
    let now = match statat(CWD, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => None,
        now => Some(now?),
    };
    match (now, old) {
        (None, None) => Ok(()),
        (Some(now), Some(old)) if is_same(&now, &old.stat) => Ok(()),
        _ => Err(io::Error::other("somebody has changed it in the meantime")),
    }
}

/// Whether a file is the same and was not written since.
pub(crate) fn is_same(a: &Stat, b: &Stat) -> bool {
    let identity = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    identity(a) == identity(b)
}

/// Whether an open export was not written since it was read.
pub(crate) fn is_unwritten(export: &Export) -> bool {
    fstat(&export.file).is_ok_and(|now| is_same(&now, &export.stat))
}

/// Gives a file a second name beside it.
fn keep(file: &Path) -> io::Result<PathBuf> {
    for number in 1.. {
        let kept = beside(file, "", &format!(".before-repair-{number}"));
        match linkat(CWD, file, CWD, &kept, AtFlags::empty()) {
            Err(Errno::EXIST) => {}
            linked => return linked.map(|()| kept).map_err(io::Error::from),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn beside(file: &Path, before: &str, after: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(before);
    name.push(file.file_name().unwrap_or_default());
    name.push(after);
    file.with_file_name(name)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fsync(folder)?)
}
