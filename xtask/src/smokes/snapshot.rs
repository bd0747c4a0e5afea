//! Everything on a stage, to see whether a program has changed it.

use crate::sys::file::{self, Links};
use crate::text;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Maximum size of a file whose content a snapshot compares. What changes it changes its times, too, unless it was
/// created a moment ago.
const COMPARED_MAX_BYTES: u64 = 64 << 10;

/// By path.
pub(crate) type Snapshot = BTreeMap<PathBuf, Seen>;

/// What a snapshot compares: inode, mode, owner, group and size; the times of the last write and change; a hash of the
/// content.
type Seen = ([u64; 5], [i64; 4], Option<u64>);

/// What is below a folder now, as far as its user can read it.
pub(crate) fn snapshot(root: &Path) -> io::Result<Snapshot> {
    let (mut snapshot, mut left) = (Snapshot::new(), vec![root.to_owned()]);
    while let Some(path) = left.pop() {
        let stat = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => continue,
            stat => stat?,
        };
        if stat.is_dir() {
            match fs::read_dir(&path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                entries => left.extend::<Vec<PathBuf>>(entries?),
            }
        }
        // None if it is too large, unreadable, or not a regular file.
        let content = file::read(&path, Links::Refuse, COMPARED_MAX_BYTES).ok().map(|bytes| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        });
        let times = [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()];
        let metadata = [stat.ino(), stat.mode().into(), stat.uid().into(), stat.gid().into(), stat.len()];
        snapshot.insert(path, (metadata, times, content));
    }
    Ok(snapshot)
}

/// The differences between two snapshots, a line each.
pub(crate) fn changes(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    let change = |path: &PathBuf| match (before.get(path), after.get(path)) {
        (Some(_), None) => Some(format!("removed {}", text::path(path))),
        (None, _) => Some(format!("created {}", text::path(path))),
        (before, now) => (before != now).then(|| format!("changed {}", text::path(path))),
    };
    paths.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let seen = || snapshot(folder.path()).unwrap();
        let before = seen();
        assert_eq!(changes(&before, &seen()), [""; 0]);
        let new = folder.path().join("new");
        fs::write(&new, "x").unwrap();
        assert!(changes(&before, &seen()).contains(&format!("created {}", new.display())));
        let before = seen();
        fs::write(&new, "y").unwrap();
        assert_eq!(changes(&before, &seen()), [format!("changed {}", new.display())]);
        let before = seen();
        fs::remove_file(&new).unwrap();
        assert!(changes(&before, &seen()).contains(&format!("removed {}", new.display())));
    }
}
