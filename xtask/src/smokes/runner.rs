//! Runs one smoke, from its stage to its outcome.

use crate::cli::Via;
use crate::env::Env;
use crate::smokes::bless::bless;
use crate::smokes::case::{Case, Expect, StagePlan};
use crate::smokes::expect::{check_text, excerpt, shown};
use crate::smokes::holder::LiveHolder;
use crate::smokes::original::{ADDED, against_original, link_scripts, script_of};
use crate::smokes::orphans::{self, Orphans};
use crate::smokes::pattern::lines;
use crate::smokes::skip::Skip;
use crate::smokes::smoke::{Kind, Outcome, Setup, Smoke};
use crate::smokes::stage::{self, COMPARED_MAX_BYTES, Stage, changes};
use crate::sys::child::{self, End, Finished};
use crate::sys::file::{self, Links};
use anyhow::Context;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long the program under test may take.
const CASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A script runs the program many times, and may start containers and virtual machines.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(600);

/// The exit code of a script that means "skipped", as in automake's test protocol.
const SKIPPED: i32 = 77;

/// What is wrong with output of which only the beginning is known.
const CUT: &str = "it printed more than 8 MiB, of which the rest was not looked at";

/// How long a smoke may take.
pub(crate) fn timeout(smoke: &Smoke) -> Duration {
    if matches!(smoke.kind, Kind::Script) { SCRIPT_TIMEOUT } else { CASE_TIMEOUT }
}

/// Runs a smoke on a stage in a new folder.
pub(crate) fn run(smoke: &Smoke, setup: &Setup, folder: &Path, orphans: &mut Orphans) -> Outcome {
    if let Some(skip) = Skip::of(smoke, setup.env, setup.options) {
        return skip.outcome(smoke);
    }
    let result = Stage::new(folder, &setup.programs).and_then(|mut stage| {
        let mut outcome = match &smoke.kind {
            Kind::Case(case) => run_case(smoke, case, setup, &mut stage, orphans),
            Kind::Script => run_script(smoke, setup, &stage, orphans),
        };
        // What it has started may still write there, if it could not be run to its end.
        orphans.leaks(setup.cancel);
        match &mut outcome {
            Ok(Outcome::Failed(problems)) if setup.options.keep && matches!(smoke.kind, Kind::Case(_)) => {
                problems.push(format!("its stage is kept: {}", stage.root.display()));
            }
            Ok(Outcome::Failed(_)) | Err(_) => _ = stage::remove(&stage.root),
            Ok(_) => stage::remove(&stage.root).context("cannot remove the stage")?,
        }
        outcome
    });
    result.unwrap_or_else(|error| match setup.cancel.is_caught() {
        true => Outcome::Cancelled,
        false => Outcome::Failed(vec![format!("it could not be run: {error:#}")]),
    })
}

fn run_case(
    smoke: &Smoke,
    case: &Case,
    setup: &Setup,
    stage: &mut Stage,
    orphans: &mut Orphans,
) -> anyhow::Result<Outcome> {
    stage.set(&case.stage)?;
    if setup.options.via == Via::Scripts {
        link_scripts(stage, &setup.repo_root)?;
    }
    let holder = case.stage.held().map(|plan| LiveHolder::start(plan, stage, setup)).transpose()?;
    let mut command = command(case, setup, stage)?;
    let snapshot = || stage.snapshot().context("cannot read the stage");
    let (before, known) = (snapshot()?, orphans::children());
    let finished = child::run_alone(&mut command, CASE_TIMEOUT, setup.cancel).context("cannot start the program")?;
    orphans.settle(&known, setup.cancel);
    let changes = if case.expect.writes { Vec::new() } else { changes(&before, &snapshot()?) };
    let is_held = holder.as_ref().is_none_or(LiveHolder::is_running);
    drop(holder);
    // No expectation can allow these.
    let mut others = orphans.leaks(setup.cancel);
    if finished.end == End::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    others.extend((!is_held).then(|| "the holder of the lock has ended".to_owned()));
    others.extend(finished.is_cut.then(|| CUT.to_owned()));
    others.extend(
        (!changes.is_empty()).then(|| format!("the stage was changed:\n{}", excerpt(changes.join("\n").as_bytes()))),
    );
    // Our own scripts must print everything.
    let is_original = setup.options.via == Via::Scripts && !setup.repo_root.join("scripts/xtask.sh").exists();
    let mut problems = mismatches(case, &finished, stage, if is_original { &ADDED } else { &[] })?;
    if let Some(original) = case.original.as_ref().filter(|_| is_original) {
        return against_original(original, case, &finished, &stage.names, problems);
    }
    if setup.options.bless && others.is_empty() && !problems.is_empty() {
        if bless(smoke, &finished, &stage.names, |case| Ok(mismatches(case, &finished, stage, &[])?.is_empty()))? {
            return Ok(Outcome::Blessed);
        }
        problems.push(
            "--bless cannot rewrite it: it rewrites `exit` and `is` where the file has them, up to 400 lines"
                .to_owned(),
        );
    }
    problems.extend(others);
    Ok(if problems.is_empty() { Outcome::Passed } else { Outcome::Failed(problems) })
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
    let (exit, mut problems) = (exit.get_ref(), Vec::new());
    match finished.end {
        End::Exited(status) if status.code() == Some(*exit) => {}
        End::Exited(status) => problems.push(format!("it ended with {} instead of {exit}", child::status_text(status))),
        _ => problems.push(format!("it was killed after {CASE_TIMEOUT:?}")),
    }
    for (name, expect, bytes) in [("stdout", stdout, &finished.stdout), ("stderr", stderr, &finished.stderr)] {
        problems.extend(check_text(name, expect, &stage.names, not_asked, bytes)?);
    }
    for (name, expect) in files {
        match file::read(&stage.root.join(name), Links::Refuse, COMPARED_MAX_BYTES) {
            Ok(bytes) => problems.extend(check_text(name, expect, &stage.names, &[], &bytes)?),
            Err(why) => problems.push(format!("{name} cannot be read: {why}")),
        }
    }
    let exists = |path: &str| stage.root.join(path).symlink_metadata().map_err(|error| error.kind());
    let missing = present.iter().filter(|path| exists(path).is_err());
    // What cannot be looked at may be there.
    let left = absent.iter().filter(|path| !matches!(exists(path), Err(ErrorKind::NotFound)));
    problems.extend(missing.map(|path| format!("{path} does not exist")));
    problems.extend(left.map(|path| format!("{path} still exists")));
    Ok(problems)
}

/// Runs a script on an empty stage.
fn run_script(smoke: &Smoke, setup: &Setup, stage: &Stage, orphans: &mut Orphans) -> anyhow::Result<Outcome> {
    stage.set(&StagePlan::default())?;
    let mut command = stage.command("bash", Some(setup));
    command
        .arg(&smoke.file)
        .env("DCE_REPO_ROOT", &setup.repo_root)
        .env("DCE_MIN_FREE_MB", "0")
        .envs(Env::smoke_options());
    let finished = child::run(&mut command, SCRIPT_TIMEOUT, setup.cancel).context("cannot start bash")?;
    let mut problems = orphans.leaks(setup.cancel);
    problems.extend(finished.is_cut.then(|| CUT.to_owned()));
    let why_skipped = lines(&finished.stdout).next().and_then(|line| line.strip_prefix(b"SKIP:"));
    match finished.end {
        End::Cancelled => return Ok(Outcome::Cancelled),
        End::TimedOut => problems.insert(0, format!("it was killed after {SCRIPT_TIMEOUT:?}")),
        End::Exited(status)
            if problems.is_empty()
                && (status.code() == Some(SKIPPED) || (status.success() && why_skipped.is_some())) =>
        {
            let why = shown(why_skipped.unwrap_or(b"exit code 77").trim_ascii());
            return Ok(Skip::needed(why, smoke, setup.env, setup.options).outcome(smoke));
        }
        End::Exited(status) if status.success() => {}
        End::Exited(status) => problems.insert(0, format!("it ended with {}", child::status_text(status))),
    }
    if problems.is_empty() {
        return Ok(Outcome::Passed);
    }
    let printed = [&finished.stdout, &finished.stderr].into_iter().filter(|text| !text.is_empty());
    problems.extend(printed.map(|text| format!("it printed:\n{}", excerpt(text))));
    Ok(Outcome::Failed(problems))
}
