//! The whole command line on one page; no logic.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Look at the scrape lock and get ready for a scrape.
///
/// Exit codes: 0 safe, passed or complete; 1 the answer is no; 2 the question could not be answered.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
pub(crate) struct Xtask {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    LockStatus(LockStatus),
    LockRun(LockRun),
    Handoff(Handoff),
    VerifyReady(VerifyReady),
    Salvage(Salvage),
    Smokes(Smokes),
    Ci(Ci),
}

/// Say whether the scrape lock is held, and by whom, without taking it.
///
/// Exit 0: safe to scrape (free or stale). Exit 1: held. Exit 2: unknown. Exit 3: held for longer than --older-than.
#[derive(Args)]
pub(crate) struct LockStatus {
    #[command(flatten)]
    pub(crate) config: ConfigOption,
    #[command(flatten)]
    pub(crate) format: FormatOption,
    /// Wait until the lock is free, without ever taking it; give up after DURATION, such as 90s or 2h
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "")]
    pub(crate) wait: Option<Wait>,
    /// Leave out what the holders do, which takes a second to look at
    #[arg(long)]
    pub(crate) quick: bool,
    /// Exit 3 when the lock has been held for longer than DURATION, such as 12h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) older_than: Option<Duration>,
    /// Remove the sidecar of a scrape that was killed, while holding the lock; never the lock file
    #[arg(long, conflicts_with_all = ["wait", "format", "older_than"])]
    pub(crate) reclaim_stale: bool,
}

/// Run a command under the scrape lock, by the rules of the scrapes themselves.
///
/// Exits as the command does, with 128+N when signal N ended it; 1 when the lock is held; 2 when it cannot be taken.
#[derive(Args)]
pub(crate) struct LockRun {
    #[command(flatten)]
    pub(crate) config: ConfigOption,
    /// Wait for the lock; give up after DURATION, such as 90s or 2h
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "")]
    pub(crate) wait: Option<Wait>,
    /// Exit code when the lock is held
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 1)]
    pub(crate) conflict_exit_code: u8,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Report everything to check before a scrape or a cron install: plan, disk, compose, token, archives, lock.
///
/// Exit 0: complete, even when the lock is held. Exit 1: something is not ready. Exit 2: unknown.
#[derive(Args)]
pub(crate) struct Handoff {
    #[command(flatten)]
    pub(crate) config: ConfigOption,
    /// The only target to be scraped; it may be disabled
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// A channel of that target, or of the only enabled one; may be repeated
    #[arg(long = "channel", value_name = "ID")]
    pub(crate) channels: Vec<String>,
    /// Leave out the disk summary; free space is checked all the same
    #[arg(long)]
    pub(crate) skip_df: bool,
    /// Exit 1 when the lock is held
    #[arg(long)]
    pub(crate) require_free: bool,
    /// Put what killed scrapes left into the archives, as `salvage` does
    #[arg(long, conflicts_with_all = ["require_free", "only", "ignore", "deep", "format"])]
    pub(crate) salvage_only: bool,
    #[command(flatten)]
    pub(crate) checks: CheckOptions,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// Check that a scrape could start: config, disk, compose, token, archives.
///
/// Exit 0: ready. Exit 1: not ready. Exit 2: unknown.
#[derive(Args)]
pub(crate) struct VerifyReady {
    #[command(flatten)]
    pub(crate) config: ConfigOption,
    /// The gate before every scrape: check only the config, the free space and write access to archive_root
    #[arg(long, conflicts_with = "only")]
    pub(crate) disk_only: bool,
    #[command(flatten)]
    pub(crate) checks: CheckOptions,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// Put what killed scrapes left in `.dce-temp` into the archives, under the scrape lock.
///
/// Exit 0: done. Exit 1: the lock is held, or something was not salvaged that could be. Exit 2: unknown.
#[derive(Args)]
pub(crate) struct Salvage {
    #[command(flatten)]
    pub(crate) config: ConfigOption,
    /// The only target to be salvaged; it may be disabled
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// A channel of that target, or of the only enabled one; may be repeated
    #[arg(long = "channel", value_name = "ID")]
    pub(crate) channels: Vec<String>,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Also close the channel's archive if it is itself cut off, and keep the original beside it
    #[arg(long, requires = "channels")]
    pub(crate) repair_archive: bool,
    #[command(flatten)]
    pub(crate) format: FormatOption,
}

/// Run the offline end-to-end cases against this very program.
///
/// Exit 0: all passed. Exit 1: some failed. Exit 2: they could not be run.
#[derive(Args)]
pub(crate) struct Smokes {
    /// Run only smokes whose name contains FILTER, or matches it where it has a `*`; a full name selects only that smoke
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Print the names instead of running anything
    #[arg(long)]
    pub(crate) list: bool,
    /// Output format of --list
    #[arg(long, requires = "list", value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// Number of cases to run at once [default: twice the number of processors, as they wait a lot]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<Jobs>,
    /// Start no more smokes after the first failure
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Keep the stage of a case that fails
    #[arg(long)]
    pub(crate) keep: bool,
    /// Rewrite the expectations of cases that fail, in place
    #[arg(long, conflicts_with_all = ["bin", "via"])]
    pub(crate) bless: bool,
    /// Also run the smokes that need a container engine
    #[arg(long)]
    pub(crate) include_container: bool,
    /// Also run the smokes that start virtual machines
    #[arg(long)]
    pub(crate) include_vm: bool,
    /// Test this program instead
    #[arg(long, value_name = "PATH")]
    pub(crate) bin: Option<PathBuf>,
    /// Run each smoke N times, and name those that pass only sometimes
    #[arg(long, value_name = "N", default_value_t = Jobs(1), conflicts_with = "bless")]
    pub(crate) repeat: Jobs,
    /// Where CI is set, let this smoke be skipped for want of a tool; may be repeated [default: $XTASK_ALLOW_SKIP]
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_skip: Vec<String>,
    /// Run the only smoke in this process, on a stage at PATH, and print its outcome as JSON
    #[arg(long, value_name = "PATH", hide = true)]
    pub(crate) on_stage: Option<PathBuf>,
    /// Run the cases through the program, or through the scripts of $DCE_REPO_ROOT
    #[arg(long, value_enum, default_value_t = Via::Program, value_name = "WAY", conflicts_with = "bin")]
    pub(crate) via: Via,
}

/// Run what CI runs: formatting, lints, tests with all smokes.
#[derive(Args)]
pub(crate) struct Ci {
    /// Where CI is set, let this smoke be skipped for want of a tool; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_skip: Vec<String>,
}

#[derive(Args)]
pub(crate) struct ConfigOption {
    /// Scrape config, JSON or TOML [default: $DCE_CONFIG_FILE, then config/scrape-targets.json in the repository]
    #[arg(long = "config", value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct CheckOptions {
    /// Make a failure of this check a note; may be repeated
    #[arg(long, value_name = "ID")]
    pub(crate) ignore: Vec<String>,
    /// Run only the checks whose ids start with PREFIX, silent unless one fails; may be repeated
    #[arg(long, value_name = "PREFIX")]
    pub(crate) only: Vec<String>,
    /// Parse the exports whole, not only their two ends
    #[arg(long)]
    pub(crate) deep: bool,
    /// List the checks with their ids
    #[arg(id = "checks", long = "checks")]
    pub(crate) list: bool,
}

#[derive(Args)]
pub(crate) struct FormatOption {
    /// Output format
    #[arg(id = "format", long = "format", value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) kind: Format,
}

/// For people or for programs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Through what the cases' command lines are run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    Program,
    Scripts,
}

/// How long to wait; None: as long as it takes.
#[derive(Clone, Copy)]
pub(crate) struct Wait(pub(crate) Option<Duration>);

impl FromStr for Wait {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Wait, Self::Err> {
        if text.is_empty() {
            return Ok(Wait(None));
        }
        humantime::parse_duration(text).map(|limit| Wait(Some(limit))).map_err(|_| "type a duration, such as 90s or 2h")
    }
}

/// A number, at least 1.
#[derive(Clone, Copy)]
pub(crate) struct Jobs(pub(crate) usize);

impl fmt::Display for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Jobs {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Jobs, Self::Err> {
        text.parse().ok().filter(|&jobs| jobs > 0).map(Jobs).ok_or("type a number, at least 1")
    }
}
