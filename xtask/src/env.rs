//! Every environment variable this program reads, read once.
//!
//! An empty value is an unset one, as in the shell originals' `${NAME:-default}`.

use nix::unistd::{AccessFlags, access};
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// GitHub Actions' way to show results, besides commands on standard output.
pub(crate) struct GitHub {
    /// The file that its job summary is made of.
    pub(crate) summary: Option<PathBuf>,
}

/// How much must be free where `DCE_MIN_FREE_MB` says nothing, in MiB.
const DEFAULT_MIN_FREE_MIB: u64 = 1024;

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
    /// `DCE_ENV_FILE`, else `scrape.env` in the repository: where the token may be.
    pub(crate) env_file: PathBuf,
    /// `DCE_MIN_FREE_MB`, in MiB; 0 means no check. The text, when it is no number.
    pub(crate) min_free_mib: Result<u64, OsString>,
    /// `DCE_COMPOSE_BIN`: the compose program, perhaps with arguments.
    pub(crate) compose_bin: Option<OsString>,
    /// `DISCORD_TOKEN` has a value. The value itself is never kept.
    pub(crate) has_token: bool,
    /// `DISCORD_TOKEN_FILE`: a file with the token in its first line.
    pub(crate) token_file: Option<PathBuf>,
    /// `HOME`.
    pub(crate) home: Option<PathBuf>,
    /// `PATH`, for finding programs.
    pub(crate) search_path: OsString,
    /// `GITHUB_ACTIONS=true`, and `GITHUB_STEP_SUMMARY`.
    pub(crate) github: Option<GitHub>,
    /// `TERM=dumb`: a terminal on which lines cannot replace themselves.
    pub(crate) has_dumb_terminal: bool,
    /// `CI`: nobody watches, so nothing may be silently left out.
    pub(crate) ci: bool,
    /// `NO_COLOR` unset and `TERM` not `dumb`: colour is welcome on a terminal.
    pub(crate) colour: bool,
}

impl Env {
    /// Reads the process's environment.
    pub(crate) fn read() -> Env {
        let repo_root = path("DCE_REPO_ROOT").unwrap_or_else(|| built_in().to_path_buf());
        let has_dumb_terminal = value("TERM").is_some_and(|term| term == "dumb");
        Env {
            env_file: path("DCE_ENV_FILE").unwrap_or_else(|| repo_root.join("scrape.env")),
            min_free_mib: value("DCE_MIN_FREE_MB").map_or(Ok(DEFAULT_MIN_FREE_MIB), |text| {
                text.to_str().and_then(|text| text.trim().parse().ok()).ok_or(text)
            }),
            compose_bin: value("DCE_COMPOSE_BIN").filter(has_more_than_blanks),
            has_token: value("DISCORD_TOKEN").is_some_and(|token| has_more_than_blanks(&token)),
            token_file: path("DISCORD_TOKEN_FILE"),
            home: path("HOME"),
            repo_root,
            config_file: path("DCE_CONFIG_FILE"),
            scrape_lock_file: path("DCE_SCRAPE_LOCK_FILE"),
            skip_scrape_lock: value("DCE_SKIP_SCRAPE_LOCK").is_some_and(|value| value == "1"),
            search_path: value("PATH").unwrap_or_default(),
            github: value("GITHUB_ACTIONS")
                .filter(|set| set == "true")
                .map(|_| GitHub { summary: path("GITHUB_STEP_SUMMARY") }),
            ci: value("CI").is_some(),
            has_dumb_terminal,
            colour: value("NO_COLOR").is_none() && !has_dumb_terminal,
        }
    }
}

impl Env {
    /// Where a program is: on `PATH`, or at the path that its name already is.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let is_executable = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
        if name.contains('/') {
            return Some(PathBuf::from(name)).filter(is_executable);
        }
        std::env::split_paths(&self.search_path).map(|folder| folder.join(name)).find(is_executable)
    }
}

/// The workspace this program was built in.
pub(crate) fn built_in() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// All of it as it came, `NAME=value` each, for the command of `lock-run`.
pub(crate) fn all() -> Vec<CString> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    let entries = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    entries.filter_map(|entry| CString::new(entry).ok()).collect()
}

fn has_more_than_blanks(value: &OsString) -> bool {
    !value.as_encoded_bytes().trim_ascii().is_empty()
}

fn path(name: &str) -> Option<PathBuf> {
    value(name).map(PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn value(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
