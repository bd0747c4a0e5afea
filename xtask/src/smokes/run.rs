//! One case, from its stage to its outcome.

use crate::child::{self, Cancel, End};
use crate::env::Env;
use crate::lock;
use crate::smokes::Smoke;
use crate::smokes::case::{LockPlan, Loss};
use crate::smokes::check::{check_text, indented};
use crate::smokes::holder::Holder;
use crate::smokes::stage::Stage;
use anyhow::Context;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A case that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Marks every process of a case.
const COOKIE: &str = "XTASK_SMOKE";

/// What all cases of a run share.
pub(crate) struct Setup<'a> {
    /// The program under test.
    pub(crate) bin: PathBuf,
    pub(crate) env: &'a Env,
    pub(crate) cancel: &'a Cancel,
}

/// How a case ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// It could not run here, and why.
    Skipped(String),
    /// What was wrong, a problem each.
    Failed(Vec<String>),
    /// It was broken off.
    Cancelled,
}

/// Why a case cannot run here, if it cannot.
pub(crate) fn reason_to_skip(smoke: &Smoke, env: &Env) -> Option<String> {
    if smoke.case.host_only && !lock::sees_every_process() {
        return Some("in a container not all processes are seen".to_owned());
    }
    let Some(LockPlan::Held(held)) = &smoke.case.stage.lock else { return None };
    let missing = held.by.needs().iter().find(|program| env.program(program).is_none())?;
    Some(format!("no `{missing}` on PATH"))
}

/// Runs a case.
pub(crate) fn run(smoke: &Smoke, setup: &Setup) -> Outcome {
    if let Some(why) = reason_to_skip(smoke, setup.env) {
        return Outcome::Skipped(why);
    }
    match problems(smoke, setup) {
        Ok(None) => Outcome::Cancelled,
        Ok(Some(problems)) if problems.is_empty() => Outcome::Passed,
        Ok(Some(problems)) => Outcome::Failed(problems),
        Err(error) => Outcome::Failed(vec![format!("the stage could not be set: {error:#}")]),
    }
}

/// What is wrong with what comes out; None when the run was broken off.
fn problems(smoke: &Smoke, setup: &Setup) -> anyhow::Result<Option<Vec<String>>> {
    let case = &smoke.case;
    let mut stage = Stage::set(&case.stage)?;
    let cookie = stage.root.to_string_lossy().into_owned();
    let holder = start_holder(smoke, setup, &mut stage, &cookie)?;
    let mut command = child::command(&setup.bin);
    command.current_dir(&stage.root).env_clear().env(COOKIE, &cookie);
    let in_stage = |name: &str| stage.root.join(name);
    command.env("PATH", in_stage("bin")).env("HOME", in_stage("home")).env("TMPDIR", in_stage("tmp"));
    command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("RUST_BACKTRACE", "0"), ("COLUMNS", "100")]);
    for arg in &case.args {
        command.arg(stage.names.fill(arg)?);
    }
    for (name, value) in &case.env {
        command.env(name, stage.names.fill(value)?);
    }
    let before = stage.snapshot()?;
    let finished = child::run(&mut command, TIMEOUT, Some(setup.cancel))
        .with_context(|| format!("cannot run {}", setup.bin.display()))?;
    let changes = if case.expect.writes { Vec::new() } else { before.changes(&stage.snapshot()?) };
    drop(holder);
    let mut problems = Vec::new();
    match finished.end {
        End::Cancelled => return Ok(None),
        End::TimedOut => problems.push(format!("it was ended after {} s", TIMEOUT.as_secs())),
        End::Exited(status) if status.code() != Some(case.expect.exit) => {
            let got = status
                .code()
                .map_or_else(|| format!("signal {}", status.signal().unwrap_or(0)), |code| code.to_string());
            problems.push(format!("exit code is {got} instead of {}", case.expect.exit));
        }
        End::Exited(_) => {}
    }
    for (name, expect, output) in
        [("stdout", &case.expect.stdout, &finished.stdout), ("stderr", &case.expect.stderr, &finished.stderr)]
    {
        let expect = expect.clone().filled(&stage.names)?;
        problems.extend(check_text(name, &expect, &String::from_utf8_lossy(output)));
    }
    if !changes.is_empty() {
        problems.push(format!("the stage was changed:\n{}", indented("  ", &changes.join("\n"))));
    }
    stage.close()?;
    Ok(Some(problems))
}

fn start_holder(smoke: &Smoke, setup: &Setup, stage: &mut Stage, cookie: &str) -> anyhow::Result<Option<Holder>> {
    let Some(LockPlan::Held(plan)) = &smoke.case.stage.lock else { return Ok(None) };
    let lock = stage.path_in_folder(&plan.at)?;
    let holder = Holder::start(plan, &lock, &setup.env.search_path, (COOKIE, cookie))?;
    stage.names.set("HOLDER_PID", holder.pid);
    stage.names.set("LEADER_PID", holder.leader_pid);
    if let Some(sidecar) = &plan.sidecar {
        stage.write(&format!("{}.meta", plan.at), sidecar)?;
    }
    if let Some(loss) = plan.lost {
        lose(&lock, loss).with_context(|| format!("cannot lose {}", lock.display()))?;
    }
    Ok(Some(holder))
}

fn lose(lock: &Path, loss: Loss) -> io::Result<()> {
    match loss {
        Loss::Deleted => fs::remove_file(lock),
        Loss::Moved => fs::rename(lock, lock.with_extension("lock.old")),
        Loss::Replaced => fs::remove_file(lock).and_then(|()| fs::write(lock, "")),
    }
}
