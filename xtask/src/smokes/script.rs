//! Smokes that are scripts: `scripts/tests/*-smoke.sh`, as the shell originals have them.

use crate::env::Env;
use crate::smokes::leak::Marked;
use crate::smokes::smoke::{Containers, Outcome, Setup, Smoke};
use crate::sys::child::{self, End};
use crate::text::indented;
use anyhow::Context;
use std::time::Duration;

/// A script runs the program many times, and may start containers.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);

/// The exit code that means "skipped", as in automake's test protocol.
const SKIPPED: i32 = 77;

/// Why a script cannot run here, if it cannot.
pub(crate) fn reason_to_skip(smoke: &Smoke, env: &Env, containers: Containers) -> Option<String> {
    if smoke.name.contains("container") && containers == Containers::Skipped {
        return Some("pass --include-container to run".to_owned());
    }
    env.program("bash").is_none().then(|| "no `bash` on PATH".to_owned())
}

/// Runs a script in a folder of its own. Nothing of the caller's environment may change what comes out.
pub(crate) fn run(smoke: &Smoke, setup: &Setup) -> anyhow::Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("xtask-smoke-").tempdir().context("cannot create a folder")?;
    let root = folder.path().canonicalize().context("cannot find the folder")?;
    let mut command = child::command("bash");
    command.arg(&smoke.file).current_dir(&root).env_clear();
    command.env("PATH", &setup.env.search_path).env("HOME", &root).env("TMPDIR", &root);
    command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("DCE_MIN_FREE_MB", "0")]);
    // A build would replace the program under other smokes.
    command.env("DCE_REPO_ROOT", &setup.repo_root).env("XTASK_BIN", &setup.own);
    let marked = Marked::mark(&mut command, &root);
    let finished = child::run(&mut command, SCRIPT_TIMEOUT, setup.cancel).context("cannot start bash")?;
    let printed = [&finished.stdout[..], &finished.stderr[..]].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let leaks = marked.leaks();
    let why_skipped = printed[0].lines().next().and_then(|line| line.strip_prefix("SKIP:")).map(str::trim);
    let mut problems = match finished.end {
        End::Cancelled => return Ok(Outcome::Cancelled),
        End::TimedOut => vec![format!("it was killed after {} s", SCRIPT_TIMEOUT.as_secs())],
        End::Exited(status)
            if leaks.is_empty() && (status.code() == Some(SKIPPED) || (status.success() && why_skipped.is_some())) =>
        {
            return Ok(Outcome::Skipped(why_skipped.unwrap_or("exit code 77").to_owned()));
        }
        End::Exited(status) if status.success() => Vec::new(),
        End::Exited(status) => vec![format!("it ended with {}", child::status_text(status))],
    };
    problems.extend(leaks);
    if problems.is_empty() {
        return Ok(Outcome::Passed);
    }
    let printed = printed.iter().filter(|text| !text.is_empty());
    problems.extend(printed.map(|text| format!("it printed:\n{}", indented("  ", text))));
    Ok(Outcome::Failed(problems))
}
