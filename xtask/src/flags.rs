//! The whole command line on one page; no logic.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Looks at the scrape lock and readies scrapes.
///
/// Exit codes: 0 safe, passed or complete; 1 the answer is no; 2 it could not be told.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
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
    Smokes(Smokes),
    Ci(Ci),
}

/// Say whether the scrape lock is held, and by whom, without ever taking it.
///
/// Exit 0: safe to scrape (free or stale). Exit 1: held. Exit 2: cannot be told.
#[derive(Args)]
pub(crate) struct LockStatus {
    /// The scrape config, JSON or TOML [default: $DCE_CONFIG_FILE, then config/scrape-targets.json in the repository]
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// Wait until the lock is free, for at most this long (as in 90s or 2h); it is never taken
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) wait: Option<Wait>,
    /// Remove the sidecar of a scrape that was killed, while holding the lock; never the lock file
    #[arg(long, conflicts_with_all = ["wait", "format"])]
    pub(crate) reclaim_stale: bool,
}

/// Run a command under the scrape lock, as the scrapes themselves take it.
///
/// Exits as the command does, with 128+N when signal N ended it; 1 when the lock is held; 2 when it cannot be taken.
#[derive(Args)]
pub(crate) struct LockRun {
    /// The scrape config, JSON or TOML [default: $DCE_CONFIG_FILE, then config/scrape-targets.json in the repository]
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Wait for the lock, for at most this long (as in 90s or 2h)
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) wait: Option<Wait>,
    /// Exit with this when the lock is held
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 1)]
    pub(crate) conflict_exit_code: u8,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// How long to wait.
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    /// None: as long as it takes.
    pub(crate) limit: Option<Duration>,
}

impl FromStr for Wait {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Wait, Self::Err> {
        let limit = (!text.is_empty()).then(|| humantime::parse_duration(text)).transpose()?;
        Ok(Wait { limit })
    }
}

/// Report everything to know before a scrape or a cron install: plan, disk, compose, token, archives, lock.
///
/// Exit 0: complete, also when the lock is held. Exit 1: something is not ready. Exit 2: cannot be told.
#[derive(Args)]
pub(crate) struct Handoff {
    /// The scrape config, JSON or TOML [default: $DCE_CONFIG_FILE, then config/scrape-targets.json in the repository]
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// The one target that is to be scraped
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// A channel of that target; may be given more than once
    #[arg(long = "channel", value_name = "ID")]
    pub(crate) channels: Vec<String>,
    /// Leave out the disk summary; free space is checked all the same
    #[arg(long)]
    pub(crate) skip_df: bool,
    /// Exit 1 when the lock is held
    #[arg(long)]
    pub(crate) require_free: bool,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// Check that a scrape could start: config, disk, compose, token, archives.
///
/// Exit 0: ready. Exit 1: not ready. Exit 2: cannot be told.
#[derive(Args)]
pub(crate) struct VerifyReady {
    /// The scrape config, JSON or TOML [default: $DCE_CONFIG_FILE, then config/scrape-targets.json in the repository]
    #[arg(long, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Check only the config and the free space
    #[arg(long)]
    pub(crate) disk_only: bool,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) format: Format,
}

/// Run the offline end-to-end cases against this very program.
///
/// Exit 0: all passed. Exit 1: some failed. Exit 2: they could not be run.
#[derive(Args)]
pub(crate) struct Smokes {
    /// Run only the smokes whose name contains one of these or, with * or ?, is like it; a whole name selects just that one
    #[arg(value_name = "FILTER")]
    pub(crate) filters: Vec<String>,
    /// Print the names instead of running anything
    #[arg(long)]
    pub(crate) list: bool,
    /// How `--list` prints
    #[arg(long, requires = "list", value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) format: Format,
    /// How many cases run at once [default: the number of processors]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// Start no more smokes after the first that fails
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Leave the stage of a case that fails, to look at
    #[arg(long)]
    pub(crate) keep: bool,
    /// Rewrite the expectations of cases that fail, in place
    #[arg(long, conflicts_with_all = ["bin", "via"])]
    pub(crate) bless: bool,
    /// Also run the smokes that need a container engine
    #[arg(long)]
    pub(crate) include_container: bool,
    /// Test this program instead
    #[arg(long, value_name = "PATH")]
    pub(crate) bin: Option<PathBuf>,
    /// Run the cases through the program, or through the scripts of $DCE_REPO_ROOT
    #[arg(long, value_enum, default_value_t = Via::Program, value_name = "WAY", conflicts_with = "bin")]
    pub(crate) via: Via,
}

/// What a case's command line is given to.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    Program,
    Scripts,
}

/// Run what CI runs: formatting, lints, tests, smokes.
#[derive(Args)]
pub(crate) struct Ci {}

/// For people or for programs.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}
