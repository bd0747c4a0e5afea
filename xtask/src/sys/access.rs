//! Whether the caller can write somewhere. Looked at, never tried by writing.

use crate::sys::file::{followed, plain};
use crate::sys::procfs;
use crate::text::path;
use rustix::fs::{Access, AtFlags, CWD, Mode, Statx, StatxAttributes, StatxFlags, accessat, statx};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::ffi::CStr;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why a file cannot be opened although its mode allows it.
const PROTECTED: &str = "it is another user's, in a sticky folder where everybody may write (fs.protected_regular)";

/// Why files cannot be created in a folder; None if they can, or if there is no such folder.
pub(crate) fn folder_obstacle(folder: &Path) -> Option<String> {
    match std::fs::metadata(folder) {
        Ok(found) if !found.is_dir() => Some(format!("`{}` is not a folder", path(folder))),
        // `mkdir -p` fails there.
        Err(error) if error.kind() == ErrorKind::NotFound && folder.is_symlink() => Some(leads_nowhere(folder)),
        _ => obstacle(folder, Access::WRITE_OK | Access::EXEC_OK),
    }
}

/// The same for a folder that may have to be created, with its parents.
pub(crate) fn nearest_obstacle(folder: &Path) -> Option<String> {
    folder_obstacle(nearest(folder))
}

/// The folder, or the nearest one above it that exists.
pub(crate) fn nearest(folder: &Path) -> &Path {
    let exists = |folder: &&Path| accessat(CWD, *folder, Access::EXISTS, AtFlags::EACCESS) != Err(Errno::NOENT);
    folder.ancestors().find(exists).unwrap_or(folder)
}

/// Why a file cannot be written; None if it can, or if there is no such file.
pub(crate) fn file_obstacle(file: &Path) -> Option<String> {
    match std::fs::metadata(file) {
        Ok(found) if found.is_dir() => Some(format!("`{}` is a folder", path(file))),
        Ok(found) if is_protected(file, &found) => Some(format!("cannot open `{}`: {PROTECTED}", path(file))),
        Err(error) if error.kind() == ErrorKind::NotFound && !may_be_created(file) => Some(leads_nowhere(file)),
        _ => obstacle(file, Access::WRITE_OK),
    }
}

/// The same where anything but a regular file is in the way: to open a FIFO would wait for its other end.
pub(crate) fn regular_file_obstacle(file: &Path) -> Option<String> {
    match std::fs::metadata(file) {
        Ok(found) if !found.is_file() && !found.is_dir() => Some(format!("`{}` is not a regular file", path(file))),
        _ => file_obstacle(file),
    }
}

/// Whether a file can be opened for reading and writing, or one be created in a folder.
pub(crate) fn may_open(at: &Path) -> bool {
    let is_protected = || std::fs::metadata(at).is_ok_and(|found| is_protected(at, &found));
    accessat(CWD, at, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS).is_ok() && !is_protected()
}

/// Whether the kernel refuses to open a regular file with O_CREAT, as shells do to write it (`fs.protected_regular`,
/// proc_sys_fs(5)).
fn is_protected(file: &Path, found: &Metadata) -> bool {
    if !found.is_file() {
        return false;
    }
    let level = procfs::read("/proc/sys/fs/protected_regular").ok().and_then(|level| level.trim().parse().ok());
    let above = file.canonicalize().ok().and_then(|file| file.parent()?.metadata().ok());
    let (Some(level), Some(above)) = (level, above) else { return false };
    protects(level, above.mode(), above.uid(), found.uid(), geteuid().as_raw())
}

/// The kernel's rule (`may_create_in_sticky` in its fs/namei.c), which has no exception for root.
fn protects(level: u32, folder_mode: u32, folders_owner: u32, owner: u32, caller: u32) -> bool {
    let is_shared = folder_mode & 0o002 != 0 || (folder_mode & 0o020 != 0 && level >= 2);
    level > 0 && folder_mode & 0o1000 != 0 && is_shared && ![folders_owner, caller].contains(&owner)
}

/// Why another file cannot take the place of one (rename(2)); None if it can. `above` is its folder.
pub(crate) fn replace_obstacle(above: &Statx, folder: BorrowedFd, name: &CStr) -> Option<&'static str> {
    let stat = statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::UID).ok()?;
    let caller = geteuid();
    let is_sticky = above.stx_mode & Mode::SVTX.bits() as u16 != 0;
    let is_owners = [stat.stx_uid, above.stx_uid].contains(&caller.as_raw()) || caller.is_root();
    if is_sticky && !is_owners {
        Some("it is another user's, in a folder with the sticky bit")
    } else if is_frozen(&stat) || is_frozen(above) {
        Some("it or its folder is immutable or append-only (chattr)")
    } else {
        None
    }
}

/// What [`replace_obstacle`] needs to know of a folder.
pub(crate) fn above(folder: BorrowedFd) -> io::Result<Statx> {
    Ok(statx(folder, c"", AtFlags::EMPTY_PATH, StatxFlags::UID | StatxFlags::MODE)?)
}

fn is_frozen(stat: &Statx) -> bool {
    stat.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND)
}

fn obstacle(at: &Path, access: Access) -> Option<String> {
    let why = match accessat(CWD, at, access, AtFlags::EACCESS) {
        Ok(()) | Err(Errno::NOENT) => return None,
        Err(Errno::ROFS) => "it is on a read-only file system".to_owned(),
        Err(error) => plain(&io::Error::from(error)),
    };
    Some(format!("cannot write in `{}`: {why}", path(at)))
}

fn leads_nowhere(link: &Path) -> String {
    format!("`{}` is a symbolic link that leads nowhere", path(link))
}

/// Whether a file that does not exist would be created by opening it: a link must lead into a folder that exists.
fn may_be_created(file: &Path) -> bool {
    !file.is_symlink() || followed(file).parent().is_some_and(Path::is_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_users_file_in_a_shared_sticky_folder_is_protected() {
        let (root, anna, ben) = (0, 1000, 1001);
        assert!(protects(1, 0o1777, root, anna, ben) && protects(1, 0o1777, root, anna, root));
        assert!(protects(2, 0o1775, root, anna, ben) && !protects(1, 0o1775, root, anna, ben));
        for unprotected in [
            protects(0, 0o1777, root, anna, ben),
            protects(2, 0o0777, root, anna, ben),
            protects(2, 0o1755, root, anna, ben),
            protects(1, 0o1777, anna, anna, ben),
            protects(1, 0o1777, root, ben, ben),
        ] {
            assert!(!unprotected);
        }
    }

    #[test]
    fn a_folder_is_no_file_and_what_is_missing_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        assert!(file_obstacle(folder.path()).unwrap().ends_with("is a folder"));
        assert!(folder_obstacle(&at("file")).unwrap().ends_with("is not a folder"));
        for missing in [file_obstacle(&at("none")), folder_obstacle(&at("none")), nearest_obstacle(&at("none/x"))] {
            assert_eq!(missing, None);
        }
        assert_eq!((file_obstacle(&at("file")), folder_obstacle(folder.path())), (None, None));
        let link = |name: &str, to: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
        link("link", "none/x");
        assert!(file_obstacle(&at("link")).unwrap().ends_with("is a symbolic link that leads nowhere"));
        link("link to new", "new");
        assert_eq!(file_obstacle(&at("link to new")), None, "it would be created");
        assert!(folder_obstacle(&at("link to new")).unwrap().ends_with("is a symbolic link that leads nowhere"));
        assert_eq!(regular_file_obstacle("/dev/null".as_ref()).as_deref(), Some("`/dev/null` is not a regular file"));
        assert_eq!((nearest(&at("none/x/y")), nearest(&at("file"))), (folder.path(), at("file").as_path()));
    }
}
