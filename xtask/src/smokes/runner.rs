//! Runs one smoke, from its stage to its outcome.

use crate::cli::{self, Via};
use crate::env::Env;
use crate::lock::path::sidecar_path;
use crate::smokes::bless::blessed;
use crate::smokes::case::{Case, Expect, HolderKind, StagePlan, Text, Unlinked};
use crate::smokes::expect::{ADDED, check_text};
use crate::smokes::holder::LiveHolder;
use crate::smokes::smoke::{Kind, Outcome, Setup, Smoke};
use crate::smokes::stage::{Stage, changes};
use crate::sys::child::{self, End, Finished};
use crate::sys::procfs;
use crate::text::indented;
use anyhow::Context;
use rustix::process::geteuid;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long the program under test may take.
const CASE_TIMEOUT: Duration = Duration::from_secs(10);

/// A script runs the program many times, and may start containers and virtual machines.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(600);

/// The exit code of a script that means "skipped", as in automake's test protocol.
const SKIPPED: i32 = 77;

/// Why a smoke cannot run here, if it cannot.
pub(crate) fn reason_to_skip(smoke: &Smoke, env: &Env, options: &cli::Smokes) -> Option<String> {
    let needs = match &smoke.kind {
        Kind::Script if smoke.name.contains("container") && !options.include_container => {
            return Some("pass --include-container to run".to_owned());
        }
        Kind::Script if smoke.name.contains("-vm-") && !options.include_vm => {
            return Some("pass --include-vm to run".to_owned());
        }
        Kind::Script => &["bash"],
        Kind::Case(case, _) if case.sees_all && !(procfs::sees_every_process() && geteuid().is_root()) => {
            return Some("only root outside containers may inspect every process".to_owned());
        }
        Kind::Case(case, _) if case.proves_absence && !procfs::may_inspect_every_process() => {
            return Some("not every process can be inspected here".to_owned());
        }
        Kind::Case(case, _) if options.via == Via::Scripts && script_of(case).is_none() => {
            return Some("there is no script for it, or it needs a bare PATH".to_owned());
        }
        Kind::Case(case, _) => case.stage.held()?.by.needs(),
    };
    let missing = needs.iter().find(|program| env.program(program).is_none())?;
    Some(format!("no `{missing}` on PATH"))
}

pub(crate) fn run(smoke: &Smoke, setup: &Setup) -> Outcome {
    if let Some(why) = reason_to_skip(smoke, setup.env, setup.options) {
        return Outcome::Skipped(why);
    }
    let outcome = match &smoke.kind {
        Kind::Case(case, text) => run_case(smoke, case, text, setup),
        Kind::Script => run_script(smoke, setup),
    };
    outcome.unwrap_or_else(|error| match setup.cancel.is_caught() {
        true => Outcome::Cancelled,
        false => Outcome::Failed(vec![format!("it could not be run: {error:#}")]),
    })
}

fn run_case(smoke: &Smoke, case: &Case, text: &str, setup: &Setup) -> anyhow::Result<Outcome> {
    let mut stage = Stage::new(&setup.programs)?;
    stage.set(&case.stage)?;
    let holder = start_holder(case, setup, &mut stage)?;
    let mut command = command(case, setup, &stage)?;
    let snapshot = || stage.snapshot().context("cannot read the stage");
    let before = snapshot()?;
    let finished = child::run(&mut command, CASE_TIMEOUT, setup.cancel).context("cannot start the program")?;
    let may_write = case.expect.get_ref().writes;
    let changes = if may_write { Vec::new() } else { changes(&before, &snapshot()?) };
    drop(holder);
    if finished.end == End::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    // Our own scripts must print everything.
    let is_original = setup.options.via == Via::Scripts && !setup.repo_root.join("scripts/xtask.sh").exists();
    let mut problems = mismatches(case, &finished, &stage, if is_original { &ADDED } else { &[] })?;
    // No expectation can allow these.
    let mut others = stage.marked.leaks();
    if !changes.is_empty() {
        others.insert(0, format!("the stage was changed:\n{}", indented("  ", &changes.join("\n"))));
    }
    if problems.is_empty() && others.is_empty() {
        stage.folder.close().context("cannot remove the stage")?;
        return Ok(Outcome::Passed);
    }
    if setup.options.bless && others.is_empty() && bless(smoke, case, text, &finished, &stage)? {
        return Ok(Outcome::Blessed);
    }
    problems.extend(others);
    if setup.options.keep {
        problems.push(format!("its stage is kept: {}", stage.folder.keep().display()));
    }
    match &case.original {
        Some(why) if is_original => Ok(Outcome::ExpectedFailure(why.clone())),
        _ => Ok(Outcome::Failed(problems)),
    }
}

fn start_holder(case: &Case, setup: &Setup, stage: &mut Stage) -> anyhow::Result<Option<LiveHolder>> {
    let Some(plan) = case.stage.held() else { return Ok(None) };
    let at = plan.at.get_ref();
    // A holder creates the lock file in its folder.
    stage.create(at, |lock| if plan.by == HolderKind::Nobody { fs::write(lock, "") } else { Ok(()) })?;
    let holder = LiveHolder::start(plan, stage, setup)?;
    stage.names.set("HOLDER_PID", holder.pid);
    stage.names.set("LEADER_PID", holder.leader_pid);
    if let Some(sidecar) = &plan.sidecar {
        stage.write(&format!("{at}.meta"), sidecar)?;
    }
    if let Some(how) = plan.unlinked {
        unlink(&stage.root.join(at), how).with_context(|| format!("cannot unlink {at}"))?;
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

/// What the case runs, with its arguments and environment.
fn command(case: &Case, setup: &Setup, stage: &Stage) -> anyhow::Result<Command> {
    let script = script_of(case).filter(|_| setup.options.via == Via::Scripts);
    let mut command = match script {
        Some(_) => stage.command("bash", Some(setup)),
        None => stage.command(&setup.bin, None),
    };
    command.args(script.map(|script| setup.repo_root.join("scripts").join(script)));
    // A script is called by the name of its command.
    for arg in case.args.iter().skip(usize::from(script.is_some())) {
        command.arg(stage.names.fill(arg)?);
    }
    for (name, value) in &case.env {
        command.env(name, stage.names.fill(value)?);
    }
    Ok(command)
}

/// The script that does what the case's command does.
fn script_of(case: &Case) -> Option<&'static str> {
    match &case.args.first()?[..] {
        _ if case.bare_path => None,
        "lock-status" => Some("scrape-lock-status.sh"),
        "handoff" => Some("operator-handoff.sh"),
        "verify-ready" => Some("verify-operator-ready.sh"),
        _ => None,
    }
}

/// How the result differs from the expectation, without the lines that are not asked for.
fn mismatches(case: &Case, finished: &Finished, stage: &Stage, not_asked: &[&str]) -> anyhow::Result<Vec<String>> {
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
        problems.extend(check_text(name, expect, &stage.names, not_asked, &String::from_utf8_lossy(bytes))?);
    }
    for (paths, exists, what) in [(present, true, "does not exist"), (absent, false, "still exists")] {
        let exists_now = |path: &&Text| stage.root.join(path.get_ref()).symlink_metadata().is_ok();
        let wrong = paths.iter().filter(|path| exists_now(path) != exists);
        problems.extend(wrong.map(|path| format!("{} {what}", path.get_ref())));
    }
    Ok(problems)
}

/// Rewrites the case's expectation if it passes then.
fn bless(smoke: &Smoke, case: &Case, text: &str, finished: &Finished, stage: &Stage) -> anyhow::Result<bool> {
    let rewritten = blessed(text, case, finished, &stage.names)?;
    let passes = match toml::from_str(&rewritten) {
        Ok(again) => mismatches(&again, finished, stage, &[])?.is_empty(),
        Err(_) => false,
    };
    if passes {
        fs::write(&smoke.file, rewritten).with_context(|| format!("cannot write {}", smoke.file.display()))?;
    }
    Ok(passes)
}

/// Runs a script on an empty stage.
fn run_script(smoke: &Smoke, setup: &Setup) -> anyhow::Result<Outcome> {
    let stage = Stage::new(&setup.programs)?;
    stage.set(&StagePlan::default())?;
    let mut command = stage.command("bash", Some(setup));
    command
        .arg(&smoke.file)
        .env("DCE_REPO_ROOT", &setup.repo_root)
        .env("DCE_MIN_FREE_MB", "0")
        .envs(Env::smoke_options());
    let finished = child::run(&mut command, SCRIPT_TIMEOUT, setup.cancel).context("cannot start bash")?;
    let printed = [&finished.stdout, &finished.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let why_skipped = printed[0].lines().next().and_then(|line| line.strip_prefix("SKIP:")).map(str::trim);
    let leaks = stage.marked.leaks();
    let ended = match finished.end {
        End::Cancelled => return Ok(Outcome::Cancelled),
        End::TimedOut => Some(format!("it was killed after {} s", SCRIPT_TIMEOUT.as_secs())),
        End::Exited(status)
            if leaks.is_empty() && (status.code() == Some(SKIPPED) || (status.success() && why_skipped.is_some())) =>
        {
            return Ok(Outcome::Skipped(why_skipped.unwrap_or("exit code 77").to_owned()));
        }
        End::Exited(status) => (!status.success()).then(|| format!("it ended with {}", child::status_text(status))),
    };
    let mut problems: Vec<String> = ended.into_iter().chain(leaks).collect();
    if problems.is_empty() {
        return Ok(Outcome::Passed);
    }
    let printed = printed.iter().filter(|text| !text.is_empty());
    problems.extend(printed.map(|text| format!("it printed:\n{}", indented("  ", text))));
    Ok(Outcome::Failed(problems))
}
