//! `smokes`: the offline end-to-end suite. The cases are in `fixtures/smokes`, scripts in `scripts/tests`.

mod alone;
mod bless;
mod case;
mod discover;
mod expect;
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
mod stage;

use crate::cli::{self, Format};
use crate::env::Env;
use crate::output;
use crate::sys::signals::Signals;
use crate::target::{repo_root, workspace};
use crate::text::path;
use crate::verdict::Verdict;
use anyhow::{Context, bail};
use report::Reporter;
use skip::Skip;
use smoke::{Kind, Outcome, Setup, Smoke};
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

impl cli::Smokes {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let workspace = workspace(env);
        // For a single smoke no other is read: test runners ask for one at a time.
        let found = match &self.filters[..] {
            [name] => discover::discover(&workspace, Some(name))?,
            _ => Vec::new(),
        };
        let found = if found.is_empty() { discover::discover(&workspace, None)? } else { found };
        let mut smokes = discover::chosen(found, &self.filters)?;
        if self.bin.is_some() {
            // Scripts choose the program themselves.
            smokes.retain(|smoke| matches!(smoke.kind, Kind::Case(_)));
        }
        if self.list {
            output::print(&list(&smokes, env, &self)?)?;
            return Ok(Verdict::Yes);
        }
        if self.bless && env.ci {
            bail!("--bless is refused where CI is set\nhint: bless at home, look at the difference, commit it");
        }
        let own = std::env::current_exe().context("cannot find this program's file")?;
        let cancel = Signals::catch_requests_to_end().context("cannot catch signals")?;
        let setup = Setup {
            options: &self,
            env,
            bin: self.bin.as_ref().map_or_else(|| Ok(own.clone()), |bin| program_under_test(bin))?,
            own,
            programs: workspace.join("fixtures/smokes/programs"),
            repo_root: repo_root(env),
            cancel: &cancel,
            left: Mutex::default(),
        };
        if let (Some(folder), Some(smoke)) = (&self.on_stage, smokes.first()) {
            output::print(&output::json(&alone::run(smoke, &setup, folder)?)?)?;
            return Ok(Verdict::Yes);
        }
        // Without one no smoke can run, and none of them has failed.
        drop(tempfile::tempdir().context("cannot create folders for the stages: does TMPDIR name a folder?")?);
        orphans::adopt().context("cannot become the parent of orphans")?;
        let mut reporter = Reporter::new(&self, env, &workspace, smokes.len());
        let result = run_all(&smokes, &setup, &mut reporter);
        alone::clean_up(&setup)?;
        result?;
        if cancel.is_caught() {
            bail!("interrupted; the holders were ended and the stages removed");
        }
        reporter.verdict()
    }
}

/// The program that `--bin` names.
fn program_under_test(bin: &Path) -> anyhow::Result<PathBuf> {
    bin.canonicalize().with_context(|| format!("cannot find the program to test, `{}`", path(bin)))
}

fn list(smokes: &[Smoke], env: &Env, options: &cli::Smokes) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Listed<'a> {
        name: &'a str,
        file: &'a Path,
        skip: Option<String>,
    }
    if options.format == Format::Text {
        return Ok(smokes.iter().map(|smoke| format!("{}\n", smoke.name)).collect());
    }
    let listed = smokes.iter().map(|smoke| Listed {
        name: &smoke.name,
        file: &smoke.file,
        // A skip that is a failure is not listed: the smoke is run, and fails.
        skip: Skip::of(smoke, env, options).filter(|skip| !skip.is_failure).map(|skip| skip.why),
    });
    output::json(&listed.collect::<Vec<_>>())
}

/// Runs several cases at once, and beside them the scripts one by one: a script expects to be the only one. So do
/// README's examples, which share a file when they are rewritten.
fn run_all<'s>(smokes: &'s [Smoke], setup: &Setup, reporter: &mut Reporter) -> anyhow::Result<()> {
    let (scripts, cases): (Vec<&Smoke>, Vec<&Smoke>) =
        smokes.iter().partition(|smoke| matches!(smoke.kind, Kind::Script) || smoke.is_readme());
    let cases = Mutex::new(cases.into_iter());
    let has_failed = AtomicBool::new(false);
    let is_over = || setup.cancel.is_caught() || (setup.options.fail_fast && has_failed.load(Ordering::Relaxed));
    let (events, happened) = mpsc::channel();
    let work = |scripts: &[&'s Smoke], events: Sender<(&'s Smoke, Outcome, Duration)>| {
        let cases = iter::from_fn(|| cases.lock().ok()?.next());
        for smoke in scripts.iter().copied().chain(cases).take_while(|_| !is_over()) {
            let started = Instant::now();
            let outcome = repeated(smoke, setup);
            has_failed.fetch_or(matches!(outcome, Outcome::Failed(_)), Ordering::Relaxed);
            _ = events.send((smoke, outcome, started.elapsed()));
        }
    };
    let processors = || thread::available_parallelism().map_or(1, |number| number.get());
    let jobs = setup.options.jobs.map_or_else(processors, |jobs| jobs.0);
    thread::scope(|scope| {
        for job in 0..jobs.min(smokes.len()) {
            // The scripts come first, as they take longest.
            let (scripts, events) = (if job == 0 { &scripts[..] } else { &[] }, events.clone());
            let work = &work;
            scope.spawn(move || work(scripts, events));
        }
        drop(events);
        happened.into_iter().try_for_each(|event| reporter.report(event))
    })
}

/// Runs a smoke as often as asked for. One that passes only sometimes has failed.
fn repeated(smoke: &Smoke, setup: &Setup) -> Outcome {
    let runs = setup.options.repeat.0;
    let (mut failures, mut first_problems) = (0, None);
    for _ in 0..runs {
        let could_not = |error| Outcome::Failed(vec![format!("it could not be run: {error:#}")]);
        match alone::start(smoke, setup).unwrap_or_else(could_not) {
            Outcome::Passed => {}
            Outcome::Failed(problems) => {
                failures += 1;
                first_problems.get_or_insert(problems);
            }
            // Another run would end the same way, unless one has failed already.
            other if first_problems.is_none() => return other,
            _ => {}
        }
        if setup.cancel.is_caught() {
            return Outcome::Cancelled;
        }
    }
    let Some(mut problems) = first_problems else { return Outcome::Passed };
    if failures < runs {
        problems.insert(0, format!("flaky: it failed in {failures} of {runs} runs; the first time:"));
    }
    Outcome::Failed(problems)
}
