//! Runs one smoke, from its stage to its outcome.

use crate::cli::Via;
use crate::env::Env;
use crate::smokes::bless::bless;
use crate::smokes::case::{Case, Expect, StagePlan};
use crate::smokes::expect::{check_text, excerpt, shown};
use crate::smokes::holder;
use crate::smokes::original::{ONLY_OURS, against_original, link_scripts, script_of};
use crate::smokes::orphans::{children, settle};
use crate::smokes::pattern::lines;
use crate::smokes::skip;
use crate::smokes::smoke::{Kind, Outcome, Setup, Smoke};
use crate::smokes::snapshot::{Snapshot, changes, snapshot};
use crate::smokes::stage::{self, Stage};
use crate::sys::child::{self, End, Finished};
use crate::sys::procfs::is_running;
use anyhow::Context;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long the program under test may take.
const CASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A script runs the program many times, and may start containers and virtual machines.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(600);

/// The exit code of a script that means "skipped", as in automake's test protocol.
const SKIPPED: i32 = 77;

/// How long a smoke may take.
pub(crate) fn timeout(smoke: &Smoke) -> Duration {
    if matches!(smoke.kind, Kind::Script) { SCRIPT_TIMEOUT } else { CASE_TIMEOUT }
}

/// Runs a smoke on a stage in a new folder.
pub(crate) fn run(smoke: &Smoke, setup: &Setup, folder: &Path) -> anyhow::Result<Outcome> {
    if let Some(outcome) = skip::instead(smoke, setup) {
        return Ok(outcome);
    }
    let mut stage = Stage::new(folder, &setup.programs)?;
    let outcome = match &smoke.kind {
        Kind::Case(case) => run_case(smoke, case, setup, &mut stage),
        Kind::Script => run_script(smoke, setup, &stage),
    };
    let mut outcome = outcome.unwrap_or_else(|error| {
        // What it has started may still write there.
        settle(&[], setup.cancel);
        Outcome::Failed(vec![format!("it could not be run: {error:#}")])
    });
    let mut problems = match &mut outcome {
        Outcome::Failed(problems) => Some(problems),
        _ => None,
    };
    if let Some(problems) = problems.as_mut().filter(|_| setup.options.keep && !setup.cancel.is_caught()) {
        problems.push(format!("its stage is kept: {}", stage.root.display()));
    } else if let Err(error) = stage::remove(&stage.root) {
        let what = format!("its stage is left: cannot remove {}: {error}", stage.root.display());
        match problems {
            Some(problems) => problems.push(what),
            None => outcome = Outcome::Failed(vec![what]),
        }
    }
    Ok(outcome)
}

fn run_case(smoke: &Smoke, case: &Case, setup: &Setup, stage: &mut Stage) -> anyhow::Result<Outcome> {
    stage.set(&case.stage)?;
    let via_scripts = setup.options.via == Via::Scripts;
    if via_scripts {
        link_scripts(stage, &setup.repo_root)?;
    }
    // Our own scripts must print everything.
    let is_original = via_scripts && !setup.repo_root.join("scripts/xtask.sh").exists();
    let original = case.original.as_ref().filter(|_| is_original);
    let held = case.stage.held.as_ref();
    let holder = held.map(|plan| holder::start(plan, stage, setup)).transpose()?;
    let mut command = command(case, setup, stage)?;
    // Links on the stage lead to the programs.
    let seen = || -> anyhow::Result<Snapshot> {
        let mut seen = snapshot(&setup.programs).context("cannot read the programs of the cases")?;
        seen.extend(snapshot(&stage.root).context("cannot read the stage")?);
        Ok(seen)
    };
    let (before, known) = (seen()?, children());
    let finished = child::run_leader(&mut command, CASE_TIMEOUT, setup.cancel).context("cannot start the program")?;
    let mut faults = settle(&known, setup.cancel);
    // What an original does otherwise may be to write.
    let may_write = case.expect.writes || original.is_some();
    let changes = if may_write { Vec::new() } else { changes(&before, &seen()?) };
    if !changes.is_empty() {
        faults.push(format!("the stage was changed:\n{}", excerpt(changes.join("\n").as_bytes())));
    }
    if let Some(holder) = holder {
        let is_running = known.iter().all(|child| is_running(child.as_raw_nonzero().get() as u64));
        if !holder.end(held.is_some_and(|plan| plan.orphaned), setup.cancel) || !is_running {
            faults.push("the holder of the lock has ended".to_owned());
        }
        faults.extend(settle(&[], setup.cancel));
    }
    faults.extend(unread(&finished));
    let mut problems = mismatches(case, &finished, stage, if is_original { &ONLY_OURS } else { &[] })?;
    if let Some(original) = original.filter(|_| faults.is_empty()) {
        return against_original(original, case, &finished, &stage.names, problems);
    }
    if setup.options.bless && faults.is_empty() && !problems.is_empty() {
        if bless(smoke, &finished, &stage.names, |case| Ok(mismatches(case, &finished, stage, &[])?.is_empty()))? {
            return Ok(Outcome::Blessed);
        }
        problems.push("--bless cannot rewrite it: it changes whole values of `exit` and `is` in the file".to_owned());
    }
    problems.extend(faults);
    Ok(if problems.is_empty() { Outcome::Passed } else { Outcome::Failed(problems) })
}

/// What is wrong if not all output was looked at.
fn unread(finished: &Finished) -> Option<String> {
    let why = "not all of its output was read: it was more than 8 MiB, or something still had it open after the end";
    finished.is_cut.then(|| why.to_owned())
}

/// What the case runs, with its arguments and environment.
fn command(case: &Case, setup: &Setup, stage: &Stage) -> anyhow::Result<Command> {
    let script = script_of(case).filter(|_| setup.options.via == Via::Scripts);
    let mut command = match script {
        Some(_) => stage.command("bash", Some(setup)),
        None => stage.command(&setup.bin, None),
    };
    command.args(script.map(|script| stage.root.join("repo/scripts").join(script)));
    // A script is called by the name of its command.
    for arg in case.args.iter().skip(usize::from(script.is_some())) {
        command.arg(stage.names.fill(arg)?);
    }
    for (name, value) in &case.env {
        command.env(name, stage.names.fill(value)?);
    }
    Ok(command)
}

/// How the result differs from the expectation, without the lines that are not asked for.
fn mismatches(case: &Case, finished: &Finished, stage: &Stage, not_asked: &[&str]) -> anyhow::Result<Vec<String>> {
    let Expect { exit, stdout, stderr, files, present, absent, .. } = &case.expect;
    let mut problems = Vec::new();
    problems.extend(unlike(finished.end, *exit.get_ref(), CASE_TIMEOUT));
    for (name, expect, bytes) in [("stdout", stdout, &finished.stdout), ("stderr", stderr, &finished.stderr)] {
        problems.extend(check_text(name, expect, &stage.names, not_asked, bytes)?);
    }
    for (name, expect) in files {
        match stage.read(name) {
            Ok(bytes) => problems.extend(check_text(name, expect, &stage.names, &[], &bytes)?),
            Err(why) => problems.push(format!("{name} cannot be read: {why}")),
        }
    }
    for (paths, is_wanted) in [(present, true), (absent, false)] {
        for name in paths {
            match stage.has(&stage.names.fill(name)?).with_context(|| format!("cannot look at {name}"))? {
                has if has == is_wanted => {}
                true => problems.push(format!("{name} still exists")),
                false => problems.push(format!("{name} does not exist")),
            }
        }
    }
    Ok(problems)
}

/// What is wrong with how a program ended.
fn unlike(end: End, expected: i32, timeout: Duration) -> Option<String> {
    match end {
        End::Exited(status) if status.code() == Some(expected) => None,
        End::Exited(status) => Some(format!("it ended with {} instead of {expected}", child::status_text(status))),
        End::TimedOut => Some(format!("it was killed after {timeout:?}")),
        End::Cancelled => Some("somebody interrupted its process".to_owned()),
    }
}

/// Runs a script on an empty stage.
fn run_script(smoke: &Smoke, setup: &Setup, stage: &Stage) -> anyhow::Result<Outcome> {
    stage.set(&StagePlan::default())?;
    let mut command = stage.command("bash", Some(setup));
    command
        .arg(&smoke.file)
        .env("DCE_REPO_ROOT", &setup.repo_root)
        .env("DCE_MIN_FREE_MB", "0")
        .envs(Env::smoke_options());
    let finished = child::run_leader(&mut command, SCRIPT_TIMEOUT, setup.cancel).context("cannot start bash")?;
    let mut problems = settle(&[], setup.cancel);
    problems.extend(unread(&finished));
    let skip = lines(&finished.stdout).next().and_then(|line| line.strip_prefix(b"SKIP:"));
    let code = if let End::Exited(status) = finished.end { status.code() } else { None };
    match (code, skip) {
        (Some(0 | SKIPPED), Some(why)) if problems.is_empty() => {
            return Ok(skip::lacking(shown(why.trim_ascii()), smoke, setup));
        }
        (Some(SKIPPED), None) if problems.is_empty() => {
            return Ok(skip::lacking(format!("exit code {SKIPPED}"), smoke, setup));
        }
        _ => problems.extend(unlike(finished.end, 0, SCRIPT_TIMEOUT)),
    }
    if problems.is_empty() {
        return Ok(Outcome::Passed);
    }
    let printed = [&finished.stdout, &finished.stderr].into_iter().filter(|text| !text.is_empty());
    problems.extend(printed.map(|text| format!("it printed:\n{}", excerpt(text))));
    Ok(Outcome::Failed(problems))
}
