//! One case, from its stage to its outcome.

use crate::child::{self, Cancel, End, Finished};
use crate::env::Env;
use crate::flags::Via;
use crate::lock::{self, path::sidecar_path};
use crate::smokes::bless::blessed;
use crate::smokes::case::{Case, Expect, Loss};
use crate::smokes::check::{check_text, indented};
use crate::smokes::discover::parse;
use crate::smokes::holder::Holder;
use crate::smokes::stage::{Snapshot, Stage};
use crate::smokes::stray::Marked;
use crate::smokes::{Kind, Smoke, script};
use anyhow::Context;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What all smokes of a run share.
pub(crate) struct Setup<'a> {
    /// The program under test.
    pub(crate) bin: PathBuf,
    /// This program: holders are real whatever is tested.
    pub(crate) own: PathBuf,
    pub(crate) via: Via,
    pub(crate) env: &'a Env,
    pub(crate) cancel: &'a Cancel,
    pub(crate) include_container: bool,
    /// Stages of smokes that fail are left for a person to look at.
    pub(crate) keep: bool,
    /// Expectations that fail are rewritten.
    pub(crate) bless: bool,
}

/// How a smoke ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// It failed, its expectation was rewritten.
    Blessed,
    /// It could not run here, and why.
    Skipped(String),
    /// It failed as the shell originals are known to, and why.
    Known(String),
    /// What was wrong, a problem each.
    Failed(Vec<String>),
    /// It was broken off.
    Cancelled,
}

/// What came out.
pub(crate) struct Observed {
    /// None when a signal ended it.
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Why a smoke cannot run here, if it cannot.
pub(crate) fn reason_to_skip(smoke: &Smoke, env: &Env, include_container: bool) -> Option<String> {
    let Kind::Case(case, _) = &smoke.kind else { return script::reason_to_skip(smoke, env, include_container) };
    if case.sees_all && !(lock::sees_every_process() && rustix::process::geteuid().is_root()) {
        return Some("only root outside containers can inspect every process".to_owned());
    }
    let missing = case.held()?.by.needs().iter().find(|program| env.program(program).is_none())?;
    Some(format!("no `{missing}` on PATH"))
}

/// Runs a smoke.
pub(crate) fn run(smoke: &Smoke, setup: &Setup) -> Outcome {
    if let Some(why) = reason_to_skip(smoke, setup.env, setup.include_container) {
        return Outcome::Skipped(why);
    }
    let outcome = match &smoke.kind {
        Kind::Case(case, text) => run_case(smoke, case, text, setup),
        Kind::Script => script::run(smoke, setup),
    };
    outcome.unwrap_or_else(|error| match setup.cancel.is_cancelled() {
        true => Outcome::Cancelled,
        false => Outcome::Failed(vec![format!("it could not be run: {error:#}")]),
    })
}

fn run_case(smoke: &Smoke, case: &Case, text: &str, setup: &Setup) -> anyhow::Result<Outcome> {
    let mut stage = Stage::set(&case.stage)?;
    let Some(mut command) = program(setup, case) else {
        return Ok(Outcome::Skipped("there is no script for it, or it needs a bare PATH".to_owned()));
    };
    // Nothing of the caller's environment may change what comes out.
    command.env_clear();
    let marked = Marked::mark(&mut command, &stage.root);
    let holder = start_holder(case, setup, &mut stage, &marked)?;
    set_the_scene(&mut command, case, setup, &stage)?;
    let before = stage.snapshot()?;
    let finished = child::run(&mut command, case.timeout(), Some(setup.cancel)).context("cannot start the program")?;
    let changes = changes(case, &before, &stage)?;
    drop(holder);
    if finished.end == End::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    let are_originals = setup.via == Via::Scripts && !has_our_scripts(setup.env);
    let mut problems = wrong_with(case, &finished, &stage, are_originals)?;
    // What no expectation can make right.
    let others: Vec<String> = changes.into_iter().chain(marked.strays()).collect();
    if problems.is_empty() && others.is_empty() {
        stage.close()?;
        return Ok(Outcome::Passed);
    }
    if setup.bless && others.is_empty() && bless(smoke, case, text, &finished, &stage)? {
        return Ok(Outcome::Blessed);
    }
    problems.extend(others);
    if setup.keep {
        problems.push(format!("the stage is kept: {}", stage.keep().display()));
    }
    match &case.original {
        Some(why) if are_originals => Ok(Outcome::Known(why.clone())),
        _ => Ok(Outcome::Failed(problems)),
    }
}

/// Rewrites the case's expectation, if the case passes then.
fn bless(smoke: &Smoke, case: &Case, text: &str, finished: &Finished, stage: &Stage) -> anyhow::Result<bool> {
    let mended = blessed(text, case, &Observed::of(finished), &stage.names)?;
    let Ok(again) = parse(&mended) else { return Ok(false) };
    if !wrong_with(&again, finished, stage, false)?.is_empty() {
        return Ok(false);
    }
    fs::write(&smoke.file, mended).with_context(|| format!("cannot write {}", smoke.file.display()))?;
    Ok(true)
}

/// What the case's command line is given to; None when there is no script for it.
fn program(setup: &Setup, case: &Case) -> Option<Command> {
    match setup.via {
        Via::Program => Some(child::command(&setup.bin)),
        Via::Scripts => {
            let name = case.args.first().map(|name| &name.get_ref()[..]).unwrap_or_default();
            let script = original(name).filter(|_| !case.bare_path)?;
            let mut command = child::command("bash");
            command.arg(setup.env.repo_root.join("scripts").join(script));
            Some(command)
        }
    }
}

/// The case's arguments, and the little environment that it has.
fn set_the_scene(command: &mut Command, case: &Case, setup: &Setup, stage: &Stage) -> anyhow::Result<()> {
    let is_script = setup.via == Via::Scripts;
    for arg in case.args.iter().skip(usize::from(is_script)) {
        command.arg(stage.names.fill(arg.get_ref())?);
    }
    let in_stage = |name: &str| stage.root.join(name);
    let mut search_path = in_stage("bin").into_os_string();
    if is_script {
        search_path.push(":");
        search_path.push(&setup.env.search_path);
        // Built already: to build over the program under test would pull it away under others.
        command.env("XTASK_BIN", &setup.own);
    }
    command.current_dir(&stage.root).env("PATH", search_path);
    command.env("HOME", in_stage("home")).env("TMPDIR", in_stage("tmp"));
    command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("RUST_BACKTRACE", "0"), ("COLUMNS", "100")]);
    for (name, value) in &case.env {
        command.env(name, stage.names.fill(value.get_ref())?);
    }
    Ok(())
}

/// The script that does what a command does.
fn original(command: &str) -> Option<&'static str> {
    match command {
        "lock-status" => Some("scrape-lock-status.sh"),
        "handoff" => Some("operator-handoff.sh"),
        "verify-ready" => Some("verify-operator-ready.sh"),
        _ => None,
    }
}

/// Whether the scripts are our own, which must pass all there is.
fn has_our_scripts(env: &Env) -> bool {
    env.repo_root.join("scripts/xtask.sh").exists()
}

/// What is wrong with what came out. The originals have only the lines that are theirs.
fn wrong_with(case: &Case, finished: &Finished, stage: &Stage, are_originals: bool) -> anyhow::Result<Vec<String>> {
    let Expect { exit, stdout, stderr, there, gone, .. } = case.expect.get_ref();
    let mut problems: Vec<String> = wrong_end(finished.end, *exit.get_ref(), case).into_iter().collect();
    for (name, expect, output) in [("stdout", stdout, &finished.stdout), ("stderr", stderr, &finished.stderr)] {
        let expect = expect.filled(&stage.names)?;
        let expect = if are_originals { expect.without_additions() } else { expect };
        problems.extend(check_text(name, &expect, &String::from_utf8_lossy(output)));
    }
    for (paths, is_there) in [(there, true), (gone, false)] {
        for name in paths {
            if stage.path(name.get_ref())?.symlink_metadata().is_ok() != is_there {
                let what = if is_there { "is not there" } else { "is still there" };
                problems.push(format!("{} {what}", name.get_ref()));
            }
        }
    }
    Ok(problems)
}

fn wrong_end(end: End, expected: i32, case: &Case) -> Option<String> {
    match end {
        End::Exited(status) if status.code() == Some(expected) => None,
        End::Exited(status) => Some(format!("exit code is {} instead of {expected}", child::code_or_signal(status))),
        End::TimedOut => Some(format!("it was ended after {}", humantime::format_duration(case.timeout()))),
        End::Cancelled => None,
    }
}

fn changes(case: &Case, before: &Snapshot, stage: &Stage) -> anyhow::Result<Option<String>> {
    let changes = if case.expect.get_ref().writes { Vec::new() } else { before.changes(&stage.snapshot()?) };
    Ok((!changes.is_empty()).then(|| format!("the stage was changed:\n{}", indented("  ", &changes.join("\n")))))
}

impl Observed {
    fn of(finished: &Finished) -> Observed {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let exit = match finished.end {
            End::Exited(status) => status.code(),
            End::TimedOut | End::Cancelled => None,
        };
        Observed { exit, stdout: text(&finished.stdout), stderr: text(&finished.stderr) }
    }
}

fn start_holder(case: &Case, setup: &Setup, stage: &mut Stage, marked: &Marked) -> anyhow::Result<Option<Holder>> {
    let Some(plan) = case.held() else { return Ok(None) };
    let lock = stage.path_in_folder(plan.at.get_ref())?;
    let holder = Holder::start(plan, &lock, setup, marked)?;
    stage.names.set("HOLDER_PID", holder.pid);
    stage.names.set("LEADER_PID", holder.leader_pid);
    if let Some(sidecar) = &plan.sidecar {
        stage.write(&format!("{}.meta", plan.at.get_ref()), sidecar.get_ref())?;
    }
    if let Some(loss) = plan.lost {
        lose(&lock, loss).with_context(|| format!("cannot lose {}", lock.display()))?;
    }
    Ok(Some(holder))
}

fn lose(lock: &Path, loss: Loss) -> io::Result<()> {
    match loss {
        Loss::Deleted => fs::remove_file(lock),
        Loss::AllDeleted => fs::remove_file(lock).and_then(|()| fs::remove_file(sidecar_path(lock))),
        Loss::Moved => fs::rename(lock, lock.with_extension("lock.old")),
        Loss::Replaced => fs::remove_file(lock).and_then(|()| fs::write(lock, "")),
    }
}
