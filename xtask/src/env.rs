//! Every environment variable that this program reads, read once.
//!
//! An empty value counts as unset, as in the shell originals' `${NAME:-default}`.

use rustix::fs::{Access, access};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Minimum free space where `DCE_MIN_FREE_MB` does not say otherwise, in MiB.
const DEFAULT_MIN_FREE_MIB: i64 = 1024;

/// The scraper's own default.
const DEFAULT_STALE_AFTER_SECONDS: u64 = 120;

/// The environment.
pub(crate) struct Env {
    /// `XTASK_WORKSPACE`: the checkout whose script was called.
    pub(crate) called_workspace: Option<PathBuf>,
    /// `CARGO_MANIFEST_DIR`: the package that cargo runs, which need not be this one.
    pub(crate) cargo_package: Option<PathBuf>,
    /// `DCE_REPO_ROOT`: the scraper's checkout.
    pub(crate) repo_root: Option<PathBuf>,
    /// `DCE_CONFIG_FILE`: the scrape config without `--config`.
    pub(crate) config_file: Option<PathBuf>,
    /// `DCE_SCRAPE_LOCK_FILE`: the lock's path, whatever the config says.
    pub(crate) scrape_lock_file: Option<PathBuf>,
    /// `DCE_SKIP_SCRAPE_LOCK=1`: scrapes started here take no lock.
    pub(crate) skip_scrape_lock: bool,
    /// `DCE_ENV_FILE`: the file that sets the token.
    pub(crate) env_file: Option<PathBuf>,
    /// `DCE_MIN_FREE_MB`, in MiB; 0 or less means no check. The text itself when it is not a number.
    pub(crate) min_free_mib: Result<i64, OsString>,
    /// `DCE_COMPOSE_BIN`: the compose program.
    pub(crate) compose_bin: Option<OsString>,
    /// `DCE_DOCKER_BIN`: the program that takes the place of `docker`.
    pub(crate) docker_bin: Option<OsString>,
    /// `DCE_COMPOSE_FILE`: the compose file, instead of the repository's.
    pub(crate) compose_file: Option<PathBuf>,
    /// `DCE_CONTAINER_MEMORY`: the container's memory limit, such as `8g`.
    pub(crate) container_memory: Option<OsString>,
    /// `DCE_STALE_TEMP_MIN_AGE_SECONDS`: a leftover written later than so long ago may still be in use. The text itself
    /// when it is not a number.
    pub(crate) stale_after_seconds: Result<u64, OsString>,
    /// `DCE_SALVAGE_ACTIVE_TEMPS=1`: it is not.
    pub(crate) salvage_active: bool,
    /// `DISCORD_TOKEN` has a value. The value itself is never kept.
    pub(crate) has_token: bool,
    /// `DISCORD_TOKEN_FILE`: a file with the token in its first line.
    pub(crate) token_file: Option<PathBuf>,
    /// `HOME`.
    pub(crate) home: Option<PathBuf>,
    /// `PATH`, for finding programs.
    pub(crate) search_path: OsString,
    /// `GITHUB_ACTIONS=true`.
    pub(crate) github: bool,
    /// `TERM=dumb`: a terminal on which a line cannot replace itself.
    pub(crate) has_dumb_terminal: bool,
    /// `XTASK_ALLOW_SKIP`: the smokes that may be skipped in CI, separated by blanks.
    pub(crate) allowed_skips: Vec<String>,
    /// `CI`: nobody is watching, so nothing may be left out silently.
    pub(crate) ci: bool,
    /// `NO_COLOR` unset and `TERM` not `dumb`: colour is welcome on a terminal.
    pub(crate) colour: bool,
}

impl Env {
    /// Reads the process's environment.
    pub(crate) fn read() -> Env {
        let is = |name: &str, value: &str| value_of(name).is_some_and(|set| set == value);
        let has_dumb_terminal = is("TERM", "dumb");
        Env {
            called_workspace: path("XTASK_WORKSPACE"),
            cargo_package: path("CARGO_MANIFEST_DIR"),
            repo_root: path("DCE_REPO_ROOT"),
            config_file: path("DCE_CONFIG_FILE"),
            scrape_lock_file: path("DCE_SCRAPE_LOCK_FILE"),
            skip_scrape_lock: is("DCE_SKIP_SCRAPE_LOCK", "1"),
            env_file: path("DCE_ENV_FILE"),
            min_free_mib: number("DCE_MIN_FREE_MB", DEFAULT_MIN_FREE_MIB),
            stale_after_seconds: number("DCE_STALE_TEMP_MIN_AGE_SECONDS", DEFAULT_STALE_AFTER_SECONDS),
            salvage_active: is("DCE_SALVAGE_ACTIVE_TEMPS", "1"),
            compose_bin: value_of("DCE_COMPOSE_BIN").filter(is_not_blank),
            docker_bin: value_of("DCE_DOCKER_BIN").filter(is_not_blank),
            compose_file: path("DCE_COMPOSE_FILE"),
            container_memory: value_of("DCE_CONTAINER_MEMORY"),
            has_token: value_of("DISCORD_TOKEN").is_some_and(|token| is_not_blank(&token)),
            token_file: path("DISCORD_TOKEN_FILE"),
            home: path("HOME"),
            search_path: value_of("PATH").unwrap_or_default(),
            github: is("GITHUB_ACTIONS", "true"),
            allowed_skips: value_of("XTASK_ALLOW_SKIP").map_or_else(Vec::new, |names| {
                names.to_string_lossy().split_ascii_whitespace().map(str::to_owned).collect()
            }),
            ci: value_of("CI").is_some(),
            has_dumb_terminal,
            colour: value_of("NO_COLOR").is_none() && !has_dumb_terminal,
        }
    }

    /// `DCE_SMOKE_*`: options of the smokes that are scripts.
    pub(crate) fn smoke_options() -> impl Iterator<Item = (OsString, OsString)> {
        all().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"DCE_SMOKE_"))
    }

    /// Finds a program on `PATH`, or at `name` itself when that has a slash.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let is_executable = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
        if name.contains('/') {
            return Some(PathBuf::from(name)).filter(is_executable);
        }
        std::env::split_paths(&self.search_path).map(|folder| folder.join(name)).find(is_executable)
    }
}

/// The environment for the command of `lock-run`: the caller's, without what the scripts and cargo
/// put into it to start this program.
pub(crate) fn for_command() -> Vec<(OsString, OsString)> {
    let is_under_cargo = value_of("CARGO_PKG_NAME").is_some_and(|name| name == env!("CARGO_PKG_NAME"));
    let is_kept = |name: &str| name != "XTASK_WORKSPACE" && !(is_under_cargo && is_set_by_cargo(name));
    let kept = all().filter(|(name, _)| name.to_str().is_none_or(is_kept));
    kept.filter_map(|(name, value)| match name.to_str() {
        Some("LD_LIBRARY_PATH") if is_under_cargo => Some((name, library_path_without_cargo(&value)?)),
        _ => Some((name, value)),
    })
    .collect()
}

/// `LD_LIBRARY_PATH` without the target folder and the toolchain, which `cargo run` and rustup put in front; None if
/// nothing is left.
fn library_path_without_cargo(libraries: &OsString) -> Option<OsString> {
    let target = std::env::current_exe().ok()?.parent()?.to_path_buf();
    let toolchain = value_of("RUSTUP_TOOLCHAIN").map(|name| Path::new("toolchains").join(name));
    let is_of_toolchain = |path: &Path| toolchain.iter().any(|end| path.ancestors().any(|at| at.ends_with(end)));
    let is_added = |path: &Path| {
        path.starts_with(&target) || is_of_toolchain(path) || path.iter().any(|folder| folder == "rustlib")
    };
    let left: Vec<PathBuf> = std::env::split_paths(libraries).filter(|path| !is_added(path)).collect();
    std::env::join_paths(&left).ok().filter(|_| !left.is_empty())
}

/// Variables that `cargo run` and rustup set (the Cargo book, "Environment Variables"). `CARGO_HOME` and the
/// like configure cargo: they are the caller's.
fn is_set_by_cargo(name: &str) -> bool {
    matches!(name, "CARGO" | "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_LINKS" | "CARGO_MANIFEST_PATH")
        || matches!(name, "CARGO_PRIMARY_PACKAGE" | "CARGO_TARGET_TMPDIR" | "RUST_RECURSION_COUNT")
        || matches!(name, "RUSTUP_TOOLCHAIN" | "RUSTUP_TOOLCHAIN_SOURCE")
        || ["CARGO_PKG_", "CARGO_BIN_"].iter().any(|start| name.starts_with(start))
}

fn number<N: FromStr>(name: &str, default: N) -> Result<N, OsString> {
    let parse = |text: OsString| text.to_str().and_then(|text| text.trim().parse().ok()).ok_or(text);
    value_of(name).map_or(Ok(default), parse)
}

fn is_not_blank(value: &OsString) -> bool {
    !value.as_encoded_bytes().trim_ascii().is_empty()
}

fn path(name: &str) -> Option<PathBuf> {
    value_of(name).map(PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn all() -> std::env::VarsOs {
    std::env::vars_os()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn value_of(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
