//! Each smoke runs in a process of its own, which is this program with `--on-stage`: whatever the smoke starts is below
//! that process, and when either process is killed, the other one cleans up.

use crate::smokes::expect::excerpt;
use crate::smokes::orphans;
use crate::smokes::runner;
use crate::smokes::smoke::{Outcome, Setup, Smoke, selection};
use crate::sys::child::{self, End};
use crate::sys::signals::Requester;
use anyhow::Context;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::PoisonError;
use std::thread::Builder;
use std::time::Duration;

/// How long a smoke's process may take beyond the smoke's own time.
const MARGIN: Duration = Duration::from_secs(60);

/// Runs a smoke in a process of its own.
pub(crate) fn start(smoke: &Smoke, setup: &Setup) -> anyhow::Result<Outcome> {
    let (folder, options) = (new_path().context("cannot find a place for the stage")?, setup.options);
    let mut command = child::command(&setup.xtask);
    command.arg("smokes").args(selection(options));
    command.args(options.keep.then_some("--keep")).args(options.bless.then_some("--bless"));
    command.args(options.allow_skip.iter().flat_map(|name| ["--allow-skip", name]));
    command.arg("--on-stage").arg(&folder).arg(&smoke.name);
    // Its lifeline: the smoke ends when this process does.
    command.stdin(Stdio::piped());
    let finished = child::run(&mut command, runner::timeout(smoke) + MARGIN, setup.cancel);
    let finished = finished.context("cannot start the smoke's process")?;
    if matches!(finished.end, End::Exited(status) if status.success())
        && !finished.is_cut
        && let Ok(outcome) = serde_json::from_slice(&finished.stdout)
    {
        return Ok(outcome);
    }
    // It could not clean up, and what it has started may still write there.
    setup.stages_left.lock().unwrap_or_else(PoisonError::into_inner).push(folder);
    let how = match finished.end {
        End::Exited(status) => format!("ended with {}", child::status_text(status)),
        End::TimedOut | End::Cancelled => "did not end in time".to_owned(),
    };
    Ok(Outcome::Failed(vec![format!("its process {how}, and said:\n{}", excerpt(&finished.stderr))]))
}

/// A path that does not exist yet: the smoke's process creates the folder, and removes it.
fn new_path() -> io::Result<PathBuf> {
    let made = tempfile::Builder::new().prefix("xtask-smoke-").make(|_| Ok(()))?;
    Ok(made.into_temp_path().keep()?)
}

/// Runs a smoke in this process, which has nothing else to do.
pub(crate) fn run(smoke: &Smoke, setup: &Setup, folder: &Path) -> anyhow::Result<Outcome> {
    let _adopted = orphans::adopt()?;
    let request = setup.cancel.requester().context("cannot copy a pipe")?;
    Builder::new().spawn(move || end_with_parent(&request)).context("cannot start a thread")?;
    runner::run(smoke, setup, folder)
}

/// Asks this process to end when its standard input does.
fn end_with_parent(request: &Requester) {
    while io::stdin().read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
    request.end();
}
