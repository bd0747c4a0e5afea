//! Every environment variable this program reads, read once.
//!
//! An empty value is an unset one, as in the shell originals' `${NAME:-default}`.

use nix::unistd::{AccessFlags, access};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What the environment says.
pub(crate) struct Env {
    /// `DCE_REPO_ROOT`, else the workspace this program was built in.
    pub(crate) repo_root: PathBuf,
    /// `DCE_CONFIG_FILE`: the scrape config when `--config` is not given.
    pub(crate) config_file: Option<PathBuf>,
    /// `DCE_SCRAPE_LOCK_FILE`: the lock's path, whatever the config says.
    pub(crate) scrape_lock_file: Option<PathBuf>,
    /// `DCE_SKIP_SCRAPE_LOCK=1`: scrapes started here take no lock.
    pub(crate) skip_scrape_lock: bool,
    /// `PATH`, for finding programs.
    pub(crate) search_path: OsString,
    /// `CI`: nobody watches, so nothing may be silently left out.
    pub(crate) ci: bool,
    /// `NO_COLOR` unset and `TERM` not `dumb`: colour is welcome on a terminal.
    pub(crate) colour: bool,
}

impl Env {
    /// Reads the process's environment.
    pub(crate) fn read() -> Env {
        Env {
            repo_root: path("DCE_REPO_ROOT").unwrap_or_else(|| built_in().to_path_buf()),
            config_file: path("DCE_CONFIG_FILE"),
            scrape_lock_file: path("DCE_SCRAPE_LOCK_FILE"),
            skip_scrape_lock: value("DCE_SKIP_SCRAPE_LOCK").is_some_and(|value| value == "1"),
            search_path: value("PATH").unwrap_or_default(),
            ci: value("CI").is_some(),
            colour: value("NO_COLOR").is_none() && value("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

impl Env {
    /// Where on `PATH` a program is.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let is_executable = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
        std::env::split_paths(&self.search_path).map(|folder| folder.join(name)).find(is_executable)
    }
}

/// The workspace this program was built in.
pub(crate) fn built_in() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

fn path(name: &str) -> Option<PathBuf> {
    value(name).map(PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn value(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
