//! Smokes that are scripts: `scripts/tests/*-smoke.sh`, as the shell originals have them.

use crate::child::{self, End};
use crate::env::Env;
use crate::smokes::Smoke;
use crate::smokes::check::indented;
use crate::smokes::run::{Outcome, Setup};
use crate::smokes::stray::Marked;
use anyhow::Context;
use std::time::Duration;

/// A script runs the program many times, and may start containers.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The exit code that says "skipped", as in automake's test protocol.
const SKIPPED: i32 = 77;

/// Why a script is not run: those for containers are run only on demand.
pub(crate) fn reason_to_skip(smoke: &Smoke, env: &Env, include_container: bool) -> Option<String> {
    if smoke.name.contains("container") && !include_container {
        return Some("pass --include-container to run".to_owned());
    }
    env.program("bash").is_none().then(|| "no `bash` on PATH".to_owned())
}

/// Runs a script in a folder of its own, with nothing of the caller's that changes what
/// the program says.
pub(crate) fn run(smoke: &Smoke, setup: &Setup) -> anyhow::Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("xtask-smoke-").tempdir().context("cannot make a folder")?;
    let root = folder.path().canonicalize().context("cannot find the folder")?;
    let mut command = child::command("bash");
    command.arg(&smoke.file).current_dir(&root).env_clear();
    command.env("PATH", &setup.env.search_path).env("HOME", &root).env("TMPDIR", &root);
    command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("DCE_MIN_FREE_MB", "0")]);
    // Built already: to build over the program under test would pull it away under others.
    command.env("DCE_REPO_ROOT", &setup.env.repo_root).env("XTASK_BIN", &setup.own);
    let marked = Marked::mark(&mut command, &root);
    let finished = child::run(&mut command, TIMEOUT, Some(setup.cancel)).context("cannot start bash")?;
    let said = [&finished.stdout[..], &finished.stderr[..]].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let strays = marked.strays();
    let why_skipped = said[0].lines().next().and_then(|line| line.strip_prefix("SKIP:")).map(str::trim);
    let mut problems = match finished.end {
        End::Cancelled => return Ok(Outcome::Cancelled),
        End::TimedOut => vec![format!("it was ended after {} s", TIMEOUT.as_secs())],
        End::Exited(status)
            if strays.is_empty() && (status.code() == Some(SKIPPED) || (status.success() && why_skipped.is_some())) =>
        {
            return Ok(Outcome::Skipped(why_skipped.unwrap_or("exit code 77").to_owned()));
        }
        End::Exited(status) if status.success() => Vec::new(),
        End::Exited(status) => vec![format!("exit code is {}", child::code_or_signal(status))],
    };
    problems.extend(strays);
    if problems.is_empty() {
        return Ok(Outcome::Passed);
    }
    let said = said.iter().filter(|text| !text.is_empty());
    problems.extend(said.map(|text| format!("it said:\n{}", indented("  ", text))));
    Ok(Outcome::Failed(problems))
}
