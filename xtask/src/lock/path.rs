//! Which file is the lock, by the host runner's rules.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The lock's name in the folder it protects.
const NAME: &str = ".dce-scrape.lock";

/// The lock's path: the override if there is one, else in the archive root, else in the repository.
pub(crate) fn lock_path(override_path: Option<&Path>, archive_root: Option<&Path>, repo_root: &Path) -> PathBuf {
    override_path.map_or_else(|| archive_root.unwrap_or(repo_root).join(NAME), Path::to_path_buf)
}

/// The sidecar of a lock: its path with `.meta` appended.
pub(crate) fn sidecar_path(lock: &Path) -> PathBuf {
    let mut path = OsString::from(lock);
    path.push(".meta");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn override_wins_over_archive_root_over_repo_root() {
        let [set, root, repo] = ["/o/my.lock", "/data", "/repo"].map(Path::new);
        assert_eq!(lock_path(Some(set), Some(root), repo), set);
        assert_eq!(lock_path(None, Some(root), repo), Path::new("/data/.dce-scrape.lock"));
        assert_eq!(lock_path(None, None, repo), Path::new("/repo/.dce-scrape.lock"));
    }

    #[test]
    fn sidecar_is_beside_the_lock() {
        assert_eq!(sidecar_path(Path::new("/o/my.lock")), Path::new("/o/my.lock.meta"));
    }
}
