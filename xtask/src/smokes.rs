//! `smokes`: the offline end-to-end suite. The cases are in `fixtures/smokes`, scripts in `scripts/tests`.

mod bless;
mod case;
mod discover;
mod expect;
mod guardian;
mod holder;
mod names;
mod original;
mod orphans;
mod pattern;
mod readme;
mod report;
mod runner;
mod skip;
mod smoke;
mod snapshot;
mod stage;

use crate::cli::{self, Format};
use crate::env::Env;
use crate::output;
use crate::sys::signals::Signals;
use crate::target::{repo_root, workspace};
use crate::text::path;
use crate::verdict::Verdict;
use anyhow::{Context, anyhow, bail};
use smoke::{Kind, Outcome, Setup, Smoke};
use std::iter;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

impl cli::Smokes {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let workspace = std::path::absolute(workspace(env)).context("cannot find the checkout")?;
        let smokes = discover::discover(&workspace, &self.filters)?;
        if self.bless && env.ci {
            bail!("--bless is refused where CI is set\nhint: bless at home, look at the difference, commit it");
        }
        let cancel = Signals::catch_requests_to_end().context("cannot catch signals")?;
        let xtask = std::env::current_exe().context("cannot find this program's file")?;
        let bin = self.bin.as_ref().unwrap_or(&xtask);
        let setup = Setup {
            options: &self,
            env,
            bin: bin.canonicalize().with_context(|| format!("cannot find the program to test, `{}`", path(bin)))?,
            xtask,
            programs: workspace.join("fixtures/smokes/programs"),
            repo_root: repo_root(env),
            cancel: &cancel,
            stages_left: Mutex::default(),
        };
        if self.list {
            output::print(&list(&smokes, &setup)?)?;
            return Ok(Verdict::Yes);
        }
        if let Some(folder) = &self.on_stage {
            let is_named = |smoke: &&Smoke| self.filters.contains(&smoke.name);
            let smoke = smokes.iter().find(is_named).context("there is no such smoke any more")?;
            output::print(&output::json(&guardian::run(smoke, &setup, folder)?)?)?;
            return Ok(Verdict::Yes);
        }
        // Exit 2, not 1: nothing can run without it.
        drop(tempfile::tempdir().context("cannot create folders for the stages: does TMPDIR name a folder?")?);
        let known = orphans::children();
        let _adopted = orphans::adopt()?;
        let ended = run_all(&smokes, &setup, &workspace);
        let left = setup.stages_left.into_inner().unwrap_or_else(PoisonError::into_inner);
        // What smokes whose processes were killed have left; it cannot be told from what the caller's children left.
        if !left.is_empty() && known.is_empty() {
            orphans::settle(&[], &cancel);
        } else if !left.is_empty() {
            output::complain("ERROR: a smoke's own process was killed, and processes that it left may still run\n");
        }
        let removed = left.iter().map(|folder| (folder, stage::remove(folder)));
        for (folder, error) in removed.filter_map(|(folder, removed)| Some((folder, removed.err()?))) {
            output::complain(&format!("ERROR: cannot remove the stage {}: {error}\n", path(folder)));
        }
        let ended = ended?;
        if cancel.is_caught() {
            bail!("interrupted; the holders were ended and the stages removed");
        }
        report::verdict(&ended, smokes.len())
    }
}

fn list(smokes: &[Smoke], setup: &Setup) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Listed<'a> {
        name: &'a str,
        file: &'a Path,
        skip: Option<String>,
    }
    if setup.options.format == Format::Text {
        return Ok(smokes.iter().map(|smoke| format!("{}\n", smoke.name)).collect());
    }
    let listed = smokes.iter().map(|smoke| Listed {
        name: &smoke.name,
        file: &smoke.file,
        skip: match skip::instead(smoke, setup) {
            Some(Outcome::Skipped(why)) => Some(why),
            // What lacks something that CI is to have is run, and fails.
            _ => None,
        },
    });
    output::json(&listed.collect::<Vec<_>>())
}

/// Runs several cases at once, and beside them the scripts one by one: a script expects to be the only one. So do
/// README's examples, which share a file when they are rewritten. Prints how each ended.
fn run_all(smokes: &[Smoke], setup: &Setup, workspace: &Path) -> anyhow::Result<Vec<Outcome>> {
    let (scripts, cases): (Vec<&Smoke>, Vec<&Smoke>) =
        smokes.iter().partition(|smoke| matches!(smoke.kind, Kind::Script) || smoke.is_readme());
    let cases = Mutex::new(cases.into_iter());
    let ended = Mutex::new(Vec::new());
    let is_over = AtomicBool::new(false);
    let work = |scripts: &[&Smoke]| -> anyhow::Result<()> {
        let cases = iter::from_fn(|| cases.lock().ok()?.next());
        for smoke in scripts.iter().copied().chain(cases) {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let started = Instant::now();
            let outcome = repeated(smoke, setup);
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            let is_failure = matches!(outcome, Outcome::Failed(_)) && setup.options.fail_fast;
            is_over.fetch_or(is_failure || setup.cancel.is_caught(), Ordering::Relaxed);
            if setup.cancel.is_caught() {
                break;
            }
            let annotated = setup.env.github.then_some(workspace);
            let text = report::text(smoke, &outcome, started.elapsed(), setup.options, annotated);
            ended.push(outcome);
            output::print(&text).inspect_err(|_| is_over.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    let jobs =
        setup.options.jobs.map_or_else(|| 2 * thread::available_parallelism().map_or(1, usize::from), |jobs| jobs.0);
    thread::scope(|scope| {
        // The scripts come first, as they take longest.
        let shares = iter::once(&scripts[..]).chain(iter::repeat(&[][..])).take(jobs.min(smokes.len()));
        let workers: Vec<_> = shares.map(|scripts| scope.spawn(|| work(scripts))).collect();
        let panicked = |_| Err(anyhow!("a thread panicked"));
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(panicked))
    })?;
    Ok(ended.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs a smoke as often as asked for. One that passes only sometimes has failed.
fn repeated(smoke: &Smoke, setup: &Setup) -> Outcome {
    let (mut runs, mut failures, mut first_problems) = (0, 0, None);
    while runs < setup.options.repeat.0 {
        runs += 1;
        match guardian::start(smoke, setup).unwrap_or_else(|error| Outcome::Failed(vec![format!("{error:#}")])) {
            Outcome::Passed => {}
            Outcome::Failed(problems) => {
                failures += 1;
                first_problems.get_or_insert(problems);
            }
            // Another run would end the same way, unless one has failed already.
            other if first_problems.is_none() => return other,
            _ => {}
        }
        // With --keep, the stage of the first failure is the one to look at.
        if setup.cancel.is_caught() || (setup.options.keep && failures > 0) {
            break;
        }
    }
    let Some(mut problems) = first_problems else { return Outcome::Passed };
    if failures < runs {
        problems.insert(0, format!("flaky: it failed in {failures} of {runs} runs; the first time:"));
    }
    Outcome::Failed(problems)
}
