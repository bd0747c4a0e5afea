//! Runs one smoke, from its stage to its outcome.

use crate::cli::{self, Via};
use crate::env::Env;
use crate::smokes::bless::blessed;
use crate::smokes::case::{Case, Expect, HolderKind, Original, StagePlan, Text, Unlinked};
use crate::smokes::expect::{ADDED, check_text, decoded, excerpt};
use crate::smokes::holder::LiveHolder;
use crate::smokes::names::Names;
use crate::smokes::orphans::Orphans;
use crate::smokes::pattern;
use crate::smokes::smoke::{Kind, Outcome, Setup, Smoke};
use crate::smokes::stage::{Stage, changes};
use crate::sys::child::{self, End, Finished};
use crate::sys::procfs;
use crate::text::indented;
use anyhow::Context;
use rustix::process::geteuid;
use std::fs;
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

/// Why a smoke is not run.
pub(crate) enum Skip {
    /// It was not asked for, or its user may not.
    Because(String),
    /// There is no such program.
    NoTool(&'static str),
}

impl Skip {
    /// Why a smoke cannot run here, if it cannot.
    pub(crate) fn of(smoke: &Smoke, env: &Env, options: &cli::Smokes) -> Option<Skip> {
        let because = |why: &str| Some(Skip::Because(why.to_owned()));
        let needs = match &smoke.kind {
            Kind::Script if smoke.name.contains("container") && !options.include_container => {
                return because("pass --include-container to run");
            }
            Kind::Script if smoke.name.contains("-vm-") && !options.include_vm => {
                return because("pass --include-vm to run");
            }
            Kind::Script => &["bash"],
            Kind::Case(case, _) if case.sees_all && !(procfs::sees_every_process() && geteuid().is_root()) => {
                return because("only root outside containers may inspect every process");
            }
            Kind::Case(case, _) if case.proves_absence && !procfs::may_inspect_every_process() => {
                return because("not every process can be inspected here");
            }
            Kind::Case(..) if options.via == Via::Scripts && smoke.file.ends_with("README.md") => {
                return because("README's examples are of this program");
            }
            Kind::Case(case, _) if options.via == Via::Scripts && script_of(case).is_none() => {
                return because("there is no script for it, or it needs a bare PATH");
            }
            Kind::Case(case, _) => case.stage.held()?.by.needs(),
        };
        needs.iter().find(|program| env.program(program).is_none()).map(|program| Skip::NoTool(program))
    }

    /// Whether that fails the run: nothing may be left out silently where nobody is watching.
    pub(crate) fn is_failure(&self, smoke: &Smoke, env: &Env, options: &cli::Smokes) -> bool {
        let is_allowed = || env.allowed_skips.iter().chain(&options.allow_skip).any(|name| *name == smoke.name);
        matches!(self, Skip::NoTool(_)) && env.ci && !is_allowed()
    }

    pub(crate) fn why(&self) -> String {
        match self {
            Skip::Because(why) => why.clone(),
            Skip::NoTool(program) => format!("no `{program}` on PATH"),
        }
    }
}

/// Runs a smoke on a stage in a new folder.
pub(crate) fn run(smoke: &Smoke, setup: &Setup, folder: &Path, orphans: &mut Orphans) -> Outcome {
    if let Some(skip) = Skip::of(smoke, setup.env, setup.options) {
        return match skip.is_failure(smoke, setup.env, setup.options) {
            true => Outcome::Failed(vec![format!("{}\nhint: install it, or --allow-skip {}", skip.why(), smoke.name)]),
            false => Outcome::Skipped(skip.why()),
        };
    }
    let outcome = Stage::new(folder, &setup.programs).and_then(|stage| match &smoke.kind {
        Kind::Case(case, text) => run_case(smoke, case, text, setup, stage, orphans),
        Kind::Script => run_script(smoke, setup, stage, orphans),
    });
    outcome.unwrap_or_else(|error| {
        orphans.leaks(setup.cancel);
        match setup.cancel.is_caught() {
            true => Outcome::Cancelled,
            false => Outcome::Failed(vec![format!("it could not be run: {error:#}")]),
        }
    })
}

fn run_case(
    smoke: &Smoke,
    case: &Case,
    text: &str,
    setup: &Setup,
    mut stage: Stage,
    orphans: &mut Orphans,
) -> anyhow::Result<Outcome> {
    stage.set(&case.stage)?;
    if setup.options.via == Via::Scripts {
        link_scripts(&stage, &setup.repo_root)?;
    }
    let holder = start_holder(case, setup, &mut stage)?;
    let mut command = command(case, setup, &stage)?;
    let snapshot = || stage.snapshot().context("cannot read the stage");
    let before = snapshot()?;
    let finished = child::run(&mut command, CASE_TIMEOUT, setup.cancel).context("cannot start the program")?;
    let may_write = case.expect.get_ref().writes;
    let changes = if may_write { Vec::new() } else { changes(&before, &snapshot()?) };
    drop(holder);
    let mut others = orphans.leaks(setup.cancel);
    if finished.end == End::Cancelled {
        return Ok(Outcome::Cancelled);
    }
    // Our own scripts must print everything.
    let is_original = setup.options.via == Via::Scripts && !setup.repo_root.join("scripts/xtask.sh").exists();
    let mut problems = mismatches(case, &finished, &stage, if is_original { &ADDED } else { &[] })?;
    // No expectation can allow these.
    if finished.is_cut {
        others.push("it printed more than 8 MiB, of which the rest was not looked at".to_owned());
    }
    if !changes.is_empty() {
        others.push(format!("the stage was changed:\n{}", indented("  ", &changes.join("\n"))));
    }
    if let Some(original) = case.original.as_ref().filter(|_| is_original) {
        stage.close().context("cannot remove the stage")?;
        return Ok(against_original(original, case, &finished, problems));
    }
    if problems.is_empty() && others.is_empty() {
        stage.close().context("cannot remove the stage")?;
        return Ok(Outcome::Passed);
    }
    if setup.options.bless && others.is_empty() {
        match bless(smoke, case, text, &finished, &stage)? {
            true => return Ok(Outcome::Blessed),
            false => problems
                .push("--bless cannot rewrite it: only `exit` and `is` are rewritten, up to 400 lines".to_owned()),
        }
    }
    problems.extend(others);
    if setup.options.keep {
        problems.push(format!("its stage is kept: {}", stage.keep().display()));
    }
    Ok(Outcome::Failed(problems))
}

/// Whether the original differs as it is said to.
fn against_original(original: &Original, case: &Case, finished: &Finished, mut problems: Vec<String>) -> Outcome {
    if problems.is_empty() {
        return Outcome::Failed(vec![format!("the original does as expected here, although `{}`", original.why)]);
    }
    let exit = original.exit.unwrap_or(*case.expect.get_ref().exit.get_ref());
    let ends_so = match finished.end {
        End::Exited(status) => !original.hangs && status.code() == Some(exit),
        end => original.hangs && end == End::TimedOut,
    };
    let names = Names::default();
    let line = original.line.as_ref().map(|line| pattern::line(line, &names));
    let texts = [&finished.stdout, &finished.stderr].map(|bytes| decoded(bytes));
    let has_line = match &line {
        Some(Ok(line)) => texts.iter().any(|text| pattern::lines(text).any(|found| line.matches(found))),
        Some(Err(_)) => false,
        None => true,
    };
    if ends_so && has_line {
        return Outcome::ExpectedFailure(original.why.clone());
    }
    problems.insert(0, format!("the original does not differ as said: `{}`", original.why));
    Outcome::Failed(problems)
}

fn start_holder(case: &Case, setup: &Setup, stage: &mut Stage) -> anyhow::Result<Option<LiveHolder>> {
    let Some(plan) = case.stage.held() else { return Ok(None) };
    let at = plan.at.get_ref();
    // A holder creates the lock file in its folder.
    match plan.by {
        HolderKind::Nobody => stage.write(at, "")?,
        _ => stage.at(at, |_, _| Ok(()))?,
    }
    let holder = LiveHolder::start(plan, stage, setup)?;
    stage.names.set("HOLDER_PID", holder.pid);
    stage.names.set("LEADER_PID", holder.leader_pid);
    if let Some(sidecar) = &plan.sidecar {
        stage.write(&format!("{at}.meta"), sidecar)?;
    }
    if let Some(how) = plan.unlinked {
        stage.unlink(at, how)?;
    }
    Ok(Some(holder))
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

/// Puts the scripts of a checkout on the stage, where they find each other; but for the one that looks for tokens on this
/// machine. They need the real jq.
fn link_scripts(stage: &Stage, repo_root: &Path) -> anyhow::Result<()> {
    stage.unlink("bin/jq", Unlinked::Deleted).or_else(|error| match stage.root.join("bin/jq").exists() {
        true => Err(error),
        false => Ok(()),
    })?;
    for folder in ["scripts", "scripts/lib"] {
        let cannot_read = || format!("cannot read the scripts in {}", repo_root.join(folder).display());
        let Ok(entries) = fs::read_dir(repo_root.join(folder)) else { continue };
        for entry in entries {
            let script = entry.with_context(cannot_read)?.path();
            let name = script.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if script.is_file() && name != "discover-discord-token.sh" {
                stage.link(&format!("repo/{folder}/{name}"), &script)?;
            }
        }
    }
    Ok(())
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
        problems.extend(check_text(name, expect, &stage.names, not_asked, &decoded(bytes))?);
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
    let is_readme = smoke.file.extension().is_some_and(|ending| ending == "md");
    let Some(rewritten) = blessed(text, case, finished, &stage.names, is_readme)? else { return Ok(false) };
    let passes = match toml::from_str(&rewritten) {
        Ok(again) => mismatches(&again, finished, stage, &[])?.is_empty(),
        // Its output is all that was rewritten, and it was made to match.
        Err(_) => is_readme,
    };
    if passes {
        fs::write(&smoke.file, rewritten).with_context(|| format!("cannot write {}", smoke.file.display()))?;
    }
    Ok(passes)
}

/// Runs a script on an empty stage.
fn run_script(smoke: &Smoke, setup: &Setup, stage: Stage, orphans: &mut Orphans) -> anyhow::Result<Outcome> {
    stage.set(&StagePlan::default())?;
    let mut command = stage.command("bash", Some(setup));
    command
        .arg(&smoke.file)
        .env("DCE_REPO_ROOT", &setup.repo_root)
        .env("DCE_MIN_FREE_MB", "0")
        .envs(Env::smoke_options());
    let finished = child::run(&mut command, SCRIPT_TIMEOUT, setup.cancel).context("cannot start bash")?;
    let leaks = orphans.leaks(setup.cancel);
    stage.close().context("cannot remove the stage")?;
    let printed = [&finished.stdout, &finished.stderr].map(|bytes| decoded(bytes));
    let why_skipped = printed[0].lines().next().and_then(|line| line.strip_prefix("SKIP:")).map(str::trim);
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
    problems.extend(printed.map(|text| format!("it printed:\n{}", excerpt(text))));
    Ok(Outcome::Failed(problems))
}
