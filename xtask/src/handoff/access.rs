//! Whether the caller can write where a scrape writes. Checked with faccessat(2), never by writing.

use crate::sys::file::plain;
use crate::text::path;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use std::io;
use std::path::Path;

/// Why files cannot be created in a folder; None if they can, or if there is no such folder.
pub(crate) fn folder_obstacle(folder: &Path) -> Option<String> {
    if std::fs::metadata(folder).is_ok_and(|found| !found.is_dir()) {
        return Some(format!("`{}` is not a folder", path(folder)));
    }
    obstacle(folder, Access::WRITE_OK | Access::EXEC_OK)
}

/// Why a file cannot be written; None if it can, or if there is no such file.
pub(crate) fn file_obstacle(file: &Path) -> Option<String> {
    if file.is_dir() {
        return Some(format!("`{}` is a folder", path(file)));
    }
    obstacle(file, Access::WRITE_OK)
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

fn obstacle(at: &Path, access: Access) -> Option<String> {
    let why = match accessat(CWD, at, access, AtFlags::EACCESS) {
        Ok(()) | Err(Errno::NOENT) => return None,
        Err(Errno::ROFS) => "it is on a read-only file system".to_owned(),
        Err(error) => plain(&io::Error::from(error)),
    };
    Some(format!("cannot write in `{}`: {why}", path(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((nearest(&at("none/x/y")), nearest(&at("file"))), (folder.path(), at("file").as_path()));
    }
}
