//! Runs one smoke, from its stage to its outcome.

use crate::cli::Via;
use crate::env::Env;
use crate::smokes::bless::blessed;
use crate::smokes::case::{Case, Expect, Original, StagePlan, Text, Unlinked};
use crate::smokes::expect::{ADDED, check_text, decoded, excerpt, find_line, shown};
use crate::smokes::holder::LiveHolder;
use crate::smokes::names::Names;
use crate::smokes::orphans::{self, Orphans};
use crate::smokes::readme;
use crate::smokes::skip::{Skip, script_of};
use crate::smokes::smoke::{Kind, Outcome, Setup, Smoke};
use crate::smokes::stage::{self, COMPARED_MAX_BYTES, Stage, changes};
use crate::sys::child::{self, End, Finished};
use crate::sys::file::{self, Links};
use anyhow::Context;
use std::fs;
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
        let mut result = match &smoke.kind {
            Kind::Case(case, text) => run_case(smoke, case, text, setup, &mut stage, orphans),
            Kind::Script => run_script(smoke, setup, &stage, orphans),
        };
        match &mut result {
            Ok(Outcome::Failed(problems)) if setup.options.keep && matches!(smoke.kind, Kind::Case(..)) => {
                problems.push(format!("its stage is kept: {}", stage.root.display()));
            }
            Ok(Outcome::Failed(_)) => _ = stage::remove(&stage.root),
            Ok(_) => stage::remove(&stage.root).context("cannot remove the stage")?,
            Err(_) => {
                // What it has started may still write there.
                orphans.leaks(setup.cancel);
                _ = stage::remove(&stage.root);
            }
        }
        result
    });
    result.unwrap_or_else(|error| match setup.cancel.is_caught() {
        true => Outcome::Cancelled,
        false => Outcome::Failed(vec![format!("it could not be run: {error:#}")]),
    })
}

fn run_case(
    smoke: &Smoke,
    case: &Case,
    text: &str,
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
    let ran = child::run_and_look(&mut command, CASE_TIMEOUT, setup.cancel);
    let (finished, left) = ran.context("cannot start the program")?;
    orphans.settle(&known, setup.cancel);
    let may_write = case.expect.get_ref().writes;
    let changes = if may_write { Vec::new() } else { changes(&before, &snapshot()?) };
    let is_held = holder.as_ref().is_none_or(LiveHolder::is_running);
    drop(holder);
    let mut others = orphans.leaks(setup.cancel);
    others.extend(left.iter().map(|pid| format!("it left process {pid} of its group running, which was killed")));
    if finished.end == End::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    // Our own scripts must print everything.
    let is_original = setup.options.via == Via::Scripts && !setup.repo_root.join("scripts/xtask.sh").exists();
    let mut problems = mismatches(case, &finished, stage, if is_original { &ADDED } else { &[] })?;
    // No expectation can allow these.
    if !is_held {
        others.push("the holder of the lock has ended".to_owned());
    }
    if finished.is_cut {
        others.push("it printed more than 8 MiB, of which the rest was not looked at".to_owned());
    }
    if !changes.is_empty() {
        others.push(format!("the stage was changed:\n{}", excerpt(&changes.join("\n"))));
    }
    if let Some(original) = case.original.as_ref().filter(|_| is_original) {
        return against_original(original, case, &finished, &stage.names, problems);
    }
    if problems.is_empty() && others.is_empty() {
        return Ok(Outcome::Passed);
    }
    if setup.options.bless && others.is_empty() {
        if bless(smoke, case, text, &finished, stage)? {
            return Ok(Outcome::Blessed);
        }
        problems.push("--bless cannot rewrite it: only `exit` and `is` are rewritten, up to 400 lines".to_owned());
    }
    problems.extend(others);
    Ok(Outcome::Failed(problems))
}

/// Whether the original differs as the case says.
fn against_original(
    original: &Original,
    case: &Case,
    finished: &Finished,
    names: &Names,
    mut problems: Vec<String>,
) -> anyhow::Result<Outcome> {
    if problems.is_empty() {
        return Ok(Outcome::Failed(vec![format!("the original does as expected here, although `{}`", original.why)]));
    }
    let exit = original.exit.unwrap_or(*case.expect.get_ref().exit.get_ref());
    let mut is_as_said = match finished.end {
        End::Exited(status) => !original.hangs && status.code() == Some(exit),
        end => original.hangs && end == End::TimedOut,
    };
    if let Some(line) = &original.line {
        let has_line = |output: &[u8]| find_line(line, names, &decoded(output)).map(|found| found.is_some());
        is_as_said &= has_line(&finished.stdout)? || has_line(&finished.stderr)?;
    }
    if is_as_said {
        return Ok(Outcome::ExpectedFailure(original.why.clone()));
    }
    problems.insert(0, format!("the original does not differ as said: `{}`", original.why));
    Ok(Outcome::Failed(problems))
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

/// Puts the scripts of a checkout on the stage, where they find each other, except the one that searches this machine for
/// tokens. They need the real jq.
fn link_scripts(stage: &Stage, repo_root: &Path) -> anyhow::Result<()> {
    if stage.root.join("bin/jq").exists() {
        stage.unlink("bin/jq", Unlinked::Deleted)?;
    }
    for folder in ["scripts", "scripts/lib"] {
        for entry in fs::read_dir(repo_root.join(folder)).into_iter().flatten() {
            let script = entry.context("cannot read the scripts")?.path();
            let name = script.file_name().unwrap_or_default().to_string_lossy();
            if script.is_file() && name != "discover-discord-token.sh" {
                stage.link(&format!("repo/{folder}/{name}"), &script)?;
            }
        }
    }
    Ok(())
}

/// How the result differs from the expectation, without the lines that are not asked for.
fn mismatches(case: &Case, finished: &Finished, stage: &Stage, not_asked: &[&str]) -> anyhow::Result<Vec<String>> {
    let Expect { exit, stdout, stderr, files, present, absent, .. } = case.expect.get_ref();
    let mut problems = match finished.end {
        End::Exited(status) if status.code() == Some(*exit.get_ref()) => Vec::new(),
        End::Exited(status) => {
            vec![format!("it ended with {} instead of {}", child::status_text(status), exit.get_ref())]
        }
        End::TimedOut => vec![format!("it was killed after {} s", CASE_TIMEOUT.as_secs())],
        End::Cancelled => Vec::new(),
    };
    for (name, expect, bytes) in [("stdout", stdout, &finished.stdout), ("stderr", stderr, &finished.stderr)] {
        problems.extend(check_text(name, expect, &stage.names, not_asked, &decoded(bytes))?);
    }
    for (name, expect) in files {
        match file::read(&stage.root.join(name.get_ref()), Links::Refuse, COMPARED_MAX_BYTES) {
            Ok(bytes) => problems.extend(check_text(name.get_ref(), expect, &stage.names, &[], &decoded(&bytes))?),
            Err(why) => problems.push(format!("{} cannot be read: {why}", name.get_ref())),
        }
    }
    for (paths, exists, what) in [(present, true, "does not exist"), (absent, false, "still exists")] {
        let is_wrong = |path: &&Text| match stage.root.join(path.get_ref()).symlink_metadata() {
            Ok(_) => !exists,
            Err(error) if error.kind() == ErrorKind::NotFound => exists,
            // Nobody knows.
            Err(_) => true,
        };
        let wrong = paths.iter().filter(is_wrong);
        problems.extend(wrong.map(|path| format!("{} {what}", path.get_ref())));
    }
    Ok(problems)
}

/// Rewrites the case's expectation if it passes then.
fn bless(smoke: &Smoke, case: &Case, text: &str, finished: &Finished, stage: &Stage) -> anyhow::Result<bool> {
    let Some(rewritten) = blessed(text, case, finished, &stage.names, smoke.is_readme())? else { return Ok(false) };
    let again = match smoke.is_readme() {
        true => readme::case_in(&rewritten, &smoke.name),
        false => toml::from_str(&rewritten).ok(),
    };
    let passes = match again {
        Some(again) => mismatches(&again, finished, stage, &[])?.is_empty(),
        None => false,
    };
    if passes {
        let now = file::read(&smoke.file, Links::Follow, COMPARED_MAX_BYTES);
        anyhow::ensure!(now.is_ok_and(|now| now == text.as_bytes()), "{} was changed meanwhile", smoke.file.display());
        fs::write(&smoke.file, rewritten).with_context(|| format!("cannot write {}", smoke.file.display()))?;
    }
    Ok(passes)
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
    if finished.is_cut {
        problems.push("it printed more than 8 MiB".to_owned());
    }
    let printed = [&finished.stdout, &finished.stderr].map(|bytes| decoded(bytes));
    let why_skipped = printed[0].lines().next().and_then(|line| line.strip_prefix("SKIP:")).map(str::trim);
    match finished.end {
        End::Cancelled => return Ok(Outcome::Cancelled),
        End::TimedOut => problems.insert(0, format!("it was killed after {} s", SCRIPT_TIMEOUT.as_secs())),
        End::Exited(status)
            if problems.is_empty()
                && (status.code() == Some(SKIPPED) || (status.success() && why_skipped.is_some())) =>
        {
            let why = shown(why_skipped.unwrap_or("exit code 77"));
            return Ok(Skip::needed(why, smoke, setup.env, setup.options).outcome(smoke));
        }
        End::Exited(status) if status.success() => {}
        End::Exited(status) => problems.insert(0, format!("it ended with {}", child::status_text(status))),
    }
    if problems.is_empty() {
        return Ok(Outcome::Passed);
    }
    let printed = printed.iter().filter(|text| !text.is_empty());
    problems.extend(printed.map(|text| format!("it printed:\n{}", excerpt(text))));
    Ok(Outcome::Failed(problems))
}
