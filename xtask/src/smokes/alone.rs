//! Each smoke runs in a process of its own: this program once more, on a stage that it is told. So whatever a smoke
//! starts is below that process, and whatever happens to either process, the other one cleans up.

use crate::cli::{self, Via};
use crate::smokes::expect::{decoded, excerpt};
use crate::smokes::orphans::{self, Orphans};
use crate::smokes::runner;
use crate::smokes::smoke::{Outcome, Setup, Smoke};
use crate::smokes::stage;
use crate::sys::child::{self, End, Finished};
use anyhow::Context;
use nix::sys::signal::{Signal, raise};
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::PoisonError;
use std::thread::Builder;
use std::time::Duration;

/// How long a smoke's process may take beyond what the smoke itself may.
const MARGIN: Duration = Duration::from_secs(60);

/// Runs a smoke in a process of its own.
pub(crate) fn start(smoke: &Smoke, setup: &Setup) -> Outcome {
    let run = || -> anyhow::Result<Outcome> {
        let folder = new_path().context("cannot find a place for the stage")?;
        let mut command = child::command(&setup.own);
        command.arg("smokes").args(options(setup.options)).arg("--on-stage").arg(&folder).arg(&smoke.name);
        // Its lifeline: the smoke ends when this process does.
        command.stdin(Stdio::piped());
        let finished = child::run(&mut command, runner::timeout(smoke) + MARGIN, setup.cancel);
        let finished = finished.context("cannot start the smoke's process")?;
        match serde_json::from_slice(&finished.stdout) {
            Ok(outcome) if matches!(finished.end, End::Exited(_)) => Ok(outcome),
            _ => {
                // It could not clean up: what it has started may still write there.
                setup.left.lock().unwrap_or_else(PoisonError::into_inner).push(folder);
                Ok(outcome_without(&finished))
            }
        }
    };
    run().unwrap_or_else(|error| Outcome::Failed(vec![format!("it could not be run: {error:#}")]))
}

/// What became of a smoke whose process has said nothing.
fn outcome_without(finished: &Finished) -> Outcome {
    match finished.end {
        End::Cancelled => Outcome::Cancelled,
        End::TimedOut => Outcome::Failed(vec!["its process did not end in time".to_owned()]),
        End::Exited(status) => {
            let (how, said) = (child::status_text(status), excerpt(&decoded(&finished.stderr)));
            Outcome::Failed(vec![format!("its process ended with {how}, and said:\n{said}")])
        }
    }
}

/// Ends what smokes have left whose processes were killed, and removes their stages.
pub(crate) fn clean_up(setup: &Setup) -> anyhow::Result<()> {
    orphans::kill_children(drop);
    let left = setup.left.lock().unwrap_or_else(PoisonError::into_inner);
    left.iter().try_for_each(|folder| stage::remove(folder).context("cannot remove the stage"))
}

/// The options that a smoke's process must know.
fn options(options: &cli::Smokes) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let flags = [
        (options.keep, "--keep"),
        (options.bless, "--bless"),
        (options.include_container, "--include-container"),
        (options.include_vm, "--include-vm"),
        (options.via == Via::Scripts, "--via=scripts"),
    ];
    words.extend(flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag.into()));
    words.extend(options.bin.iter().flat_map(|bin| ["--bin".into(), bin.clone().into_os_string()]));
    words.extend(options.allow_skip.iter().flat_map(|name| ["--allow-skip".into(), name.into()]));
    words
}

/// A path that does not exist yet: the smoke's process makes the folder, so that there is none without it.
fn new_path() -> io::Result<PathBuf> {
    let made = tempfile::Builder::new().prefix("xtask-smoke-").make(|_| Ok(()))?;
    Ok(made.into_temp_path().keep()?)
}

/// Runs a smoke in this process, which has nothing else to do.
pub(crate) fn run(smoke: &Smoke, setup: &Setup, folder: &Path) -> anyhow::Result<Outcome> {
    let mut orphans = Orphans::adopt().context("cannot become the parent of orphans")?;
    Builder::new().spawn(end_with_parent).context("cannot start a thread")?;
    Ok(runner::run(smoke, setup, folder, &mut orphans))
}

/// Asks this process to end when its standard input does.
fn end_with_parent() {
    while io::stdin().read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
    _ = raise(Signal::SIGTERM);
}
