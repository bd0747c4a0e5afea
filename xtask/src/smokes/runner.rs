//! Runs one smoke, from its stage to its outcome.

use crate::cli::Via;
use crate::env::Env;
use crate::lock::path::sidecar_path;
use crate::smokes::bless::{Observed, blessed};
use crate::smokes::case::{Case, Expect, Unlinked};
use crate::smokes::discover::parse;
use crate::smokes::expect::check_text;
use crate::smokes::holder::LiveHolder;
use crate::smokes::leak::Marked;
use crate::smokes::script;
use crate::smokes::smoke::{Containers, Kind, OnFailure, Outcome, Setup, Smoke, programs};
use crate::smokes::stage::{Snapshot, Stage};
use crate::sys::child::{self, End, Finished};
use crate::sys::procfs;
use crate::text::indented;
use anyhow::Context;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long the program under test may take.
const CASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whose output it is. The shell originals have only the lines that are theirs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Ours,
    Originals,
}

/// Why a smoke cannot run here, if it cannot.
pub(crate) fn reason_to_skip(smoke: &Smoke, env: &Env, containers: Containers) -> Option<String> {
    let Kind::Case(case, _) = &smoke.kind else { return script::reason_to_skip(smoke, env, containers) };
    if case.sees_all && !(procfs::sees_every_process() && rustix::process::geteuid().is_root()) {
        return Some("only root outside containers can inspect every process".to_owned());
    }
    let missing = case.held()?.by.needs().iter().find(|program| env.program(program).is_none())?;
    Some(format!("no `{missing}` on PATH"))
}

pub(crate) fn run(smoke: &Smoke, setup: &Setup) -> Outcome {
    if let Some(why) = reason_to_skip(smoke, setup.env, setup.containers) {
        return Outcome::Skipped(why);
    }
    let outcome = match &smoke.kind {
        Kind::Case(case, text) => run_case(smoke, case, text, setup),
        Kind::Script => script::run(smoke, setup),
    };
    outcome.unwrap_or_else(|error| match setup.cancel.is_caught() {
        true => Outcome::Cancelled,
        false => Outcome::Failed(vec![format!("it could not be run: {error:#}")]),
    })
}

fn run_case(smoke: &Smoke, case: &Case, text: &str, setup: &Setup) -> anyhow::Result<Outcome> {
    let mut stage = Stage::new(&programs(&setup.workspace))?;
    stage.set(&case.stage)?;
    let Some(mut command) = program(setup, case) else {
        return Ok(Outcome::Skipped("there is no script for it, or it needs a bare PATH".to_owned()));
    };
    // Nothing of the caller's environment may change what comes out.
    command.env_clear();
    let marked = Marked::mark(&mut command, &stage.root);
    let holder = start_holder(case, setup, &mut stage, &marked)?;
    set_arguments_and_environment(&mut command, case, setup, &stage)?;
    let before = stage.snapshot()?;
    let finished = child::run(&mut command, CASE_TIMEOUT, setup.cancel).context("cannot start the program")?;
    let changes = changes(case, &before, &stage)?;
    drop(holder);
    if finished.end == End::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    let output = output_of(setup);
    let mut problems = mismatches(case, &finished, &stage, output)?;
    // No expectation can allow these.
    let others: Vec<String> = changes.into_iter().chain(marked.leaks()).collect();
    if problems.is_empty() && others.is_empty() {
        stage.close()?;
        return Ok(Outcome::Passed);
    }
    let can_bless = setup.on_failure == OnFailure::Bless && others.is_empty();
    if can_bless && bless(smoke, case, text, &finished, &stage)? {
        return Ok(Outcome::Blessed);
    }
    problems.extend(others);
    if setup.on_failure == OnFailure::KeepStage {
        problems.push(format!("its stage is kept: {}", stage.keep().display()));
    }
    match &case.original {
        Some(why) if output == Output::Originals => Ok(Outcome::ExpectedFailure(why.clone())),
        _ => Ok(Outcome::Failed(problems)),
    }
}

/// Rewrites the case's expectation if it passes then.
fn bless(smoke: &Smoke, case: &Case, text: &str, finished: &Finished, stage: &Stage) -> anyhow::Result<bool> {
    let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let exit = if let End::Exited(status) = finished.end { status.code() } else { None };
    let observed = Observed { exit, stdout: string(&finished.stdout), stderr: string(&finished.stderr) };
    let rewritten = blessed(text, case, &observed, &stage.names)?;
    let Ok(again) = parse::<Case>(&rewritten) else { return Ok(false) };
    if !mismatches(&again, finished, stage, Output::Ours)?.is_empty() {
        return Ok(false);
    }
    fs::write(&smoke.file, rewritten).with_context(|| format!("cannot write {}", smoke.file.display()))?;
    Ok(true)
}

/// The program that gets the case's arguments; None if there is no script for it.
fn program(setup: &Setup, case: &Case) -> Option<Command> {
    if setup.via == Via::Program {
        return Some(child::command(&setup.bin));
    }
    let script = match &case.args.first()?.get_ref()[..] {
        _ if case.bare_path => return None,
        "lock-status" => "scrape-lock-status.sh",
        "handoff" => "operator-handoff.sh",
        "verify-ready" => "verify-operator-ready.sh",
        _ => return None,
    };
    let mut command = child::command("bash");
    command.arg(setup.repo_root.join("scripts").join(script));
    Some(command)
}

fn set_arguments_and_environment(
    command: &mut Command,
    case: &Case,
    setup: &Setup,
    stage: &Stage,
) -> anyhow::Result<()> {
    let is_script = setup.via == Via::Scripts;
    for arg in case.args.iter().skip(usize::from(is_script)) {
        command.arg(stage.names.fill(arg.get_ref())?);
    }
    let on_stage = |name: &str| stage.root.join(name);
    let mut search_path = on_stage("bin").into_os_string();
    if is_script {
        search_path.push(":");
        search_path.push(&setup.env.search_path);
        // A build would replace the program under other smokes.
        command.env("XTASK_BIN", &setup.own);
    }
    command.current_dir(&stage.root).env("PATH", search_path);
    command.env("HOME", on_stage("home")).env("TMPDIR", on_stage("tmp"));
    command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("RUST_BACKTRACE", "0"), ("COLUMNS", "100")]);
    for (name, value) in &case.env {
        command.env(name, stage.names.fill(value.get_ref())?);
    }
    Ok(())
}

/// Our own scripts must pass everything.
fn output_of(setup: &Setup) -> Output {
    let are_originals = setup.via == Via::Scripts && !setup.repo_root.join("scripts/xtask.sh").exists();
    if are_originals { Output::Originals } else { Output::Ours }
}

/// How the result differs from the expectation.
fn mismatches(case: &Case, finished: &Finished, stage: &Stage, output: Output) -> anyhow::Result<Vec<String>> {
    let Expect { exit, stdout, stderr, present, absent, .. } = case.expect.get_ref();
    let mut problems = match finished.end {
        End::Exited(status) if status.code() == Some(*exit.get_ref()) => Vec::new(),
        End::Exited(status) => {
            vec![format!("it ended with {} instead of {}", child::status_text(status), exit.get_ref())]
        }
        End::TimedOut => vec![format!("it was killed after {} s", CASE_TIMEOUT.as_secs())],
        End::Cancelled => Vec::new(),
    };
    for (name, expect, bytes) in [("stdout", stdout, &finished.stdout), ("stderr", stderr, &finished.stderr)] {
        let expect = expect.filled(&stage.names)?;
        let expect = if output == Output::Originals { expect.without_additions() } else { expect };
        problems.extend(check_text(name, &expect, &String::from_utf8_lossy(bytes)));
    }
    for (paths, exists, what) in [(present, true, "does not exist"), (absent, false, "still exists")] {
        for name in paths {
            if stage.path(name.get_ref())?.symlink_metadata().is_ok() != exists {
                problems.push(format!("{} {what}", name.get_ref()));
            }
        }
    }
    Ok(problems)
}

fn changes(case: &Case, before: &Snapshot, stage: &Stage) -> anyhow::Result<Option<String>> {
    let changes = if case.expect.get_ref().writes { Vec::new() } else { before.changes(&stage.snapshot()?) };
    Ok((!changes.is_empty()).then(|| format!("the stage was changed:\n{}", indented("  ", &changes.join("\n")))))
}

fn start_holder(case: &Case, setup: &Setup, stage: &mut Stage, marked: &Marked) -> anyhow::Result<Option<LiveHolder>> {
    let Some(plan) = case.held() else { return Ok(None) };
    let at = plan.at.get_ref();
    let lock = stage.path(at)?;
    // Only its folder: the holder creates the lock file.
    stage.create(at, |_| Ok(()))?;
    let holder = LiveHolder::start(plan, &lock, setup, marked)?;
    stage.names.set("HOLDER_PID", holder.pid);
    stage.names.set("LEADER_PID", holder.leader_pid);
    if let Some(sidecar) = &plan.sidecar {
        stage.write(&format!("{at}.meta"), sidecar.get_ref())?;
    }
    if let Some(how) = plan.unlinked {
        unlink(&lock, how).with_context(|| format!("cannot unlink {}", lock.display()))?;
    }
    Ok(Some(holder))
}

fn unlink(lock: &Path, how: Unlinked) -> io::Result<()> {
    match how {
        Unlinked::Deleted => fs::remove_file(lock),
        Unlinked::DeletedWithSidecar => fs::remove_file(lock).and_then(|()| fs::remove_file(sidecar_path(lock))),
        Unlinked::Moved => fs::rename(lock, lock.with_extension("lock.old")),
        Unlinked::Replaced => fs::remove_file(lock).and_then(|()| fs::write(lock, "")),
    }
}
