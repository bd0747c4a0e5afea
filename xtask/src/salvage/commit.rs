//! Puts a new archive in the old one's place: written beside it, synced, renamed. A kill at any point leaves the old
//! one or the new one.

use crate::salvage::export::Export;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, fsync, linkat, openat, renameat};
use rustix::fs::{statat, unlinkat};
use rustix::io::Errno;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;

/// The permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// How the names end of what is written until it is renamed: not as an export's.
pub(crate) const UNFINISHED: &str = ".dce-salvage";

/// Where an archive is, or is to be: a name in an open folder, which stays the same folder whatever becomes of its path.
pub(crate) struct Place {
    pub(crate) folder: OwnedFd,
    pub(crate) name: CString,
}

/// Writes a new archive; `old` is the one that was read there. With `keep_old` that one stays beside it, and its name is
/// given.
///
/// # Errors
/// It could not be written, or somebody has changed the old one; it is then still there.
pub(crate) fn replace(
    at: &Place,
    old: Option<&Stat>,
    keep_old: bool,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<Option<CString>> {
    // Another root's salvage has another lock, and may be at work here.
    let new = beside(at, ".", &format!(".{}{UNFINISHED}", std::process::id()))?;
    let attempt = || -> io::Result<Option<CString>> {
        write_whole(at, &new, old, write)?;
        check_unchanged(at, old)?;
        let kept = if keep_old { Some(keep(at)?) } else { None };
        renameat(&at.folder, &new, &at.folder, &at.name)?;
        Ok(kept)
    };
    let kept = attempt().inspect_err(|_| _ = unlinkat(&at.folder, &new, AtFlags::empty()))?;
    fsync(&at.folder)?;
    Ok(kept)
}

fn write_whole(
    at: &Place,
    new: &CString,
    old: Option<&Stat>,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = File::from(openat(&at.folder, new, flags, Mode::from_raw_mode(0o666))?);
    let mut out = BufWriter::with_capacity(256 << 10, &file);
    write(&mut out)?;
    out.flush()?;
    drop(out);
    // The scraper, perhaps another user, must be able to go on with it: it keeps the owner and the group, where the
    // caller may give it away, and the mode.
    let owner = old.map_or_else(|| fstat(&at.folder), |old| Ok(*old))?;
    let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    if fchown(&file, Some(user), Some(group)).is_err() {
        _ = fchown(&file, None, Some(group));
    }
    if let Some(old) = old {
        fchmod(&file, Mode::from_raw_mode(old.st_mode & PERMISSIONS))?;
    }
    file.sync_all()
}

/// Whether what was read there, or that there was nothing, is still so.
fn check_unchanged(at: &Place, old: Option<&Stat>) -> io::Result<()> {
    let now = match statat(&at.folder, &at.name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => None,
        now => Some(now?),
    };
    match (now, old) {
        (None, None) => Ok(()),
        (Some(now), Some(old)) if is_same(&now, old) => Ok(()),
        _ => Err(io::Error::other("it was changed meanwhile")),
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

/// Gives an archive a second name beside it.
fn keep(at: &Place) -> io::Result<CString> {
    for number in 1.. {
        let kept = beside(at, "", &format!(".before-repair-{number}"))?;
        match linkat(&at.folder, &at.name, &at.folder, &kept, AtFlags::empty()) {
            Err(Errno::EXIST) => {}
            linked => return linked.map(|()| kept).map_err(io::Error::from),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn beside(at: &Place, before: &str, after: &str) -> io::Result<CString> {
    Ok(CString::new([before.as_bytes(), at.name.to_bytes(), after.as_bytes()].concat())?)
}
