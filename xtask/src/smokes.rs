//! `smokes`: the offline end-to-end suite. The cases are in `fixtures/smokes`, scripts in `scripts/tests`.

mod bless;
mod case;
mod discover;
mod expect;
mod holder;
mod leak;
mod names;
mod report;
mod runner;
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
use report::{Event, Reporter};
use smoke::{Kind, Outcome, Setup, Smoke};
use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Instant;

impl cli::Smokes {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let workspace = workspace(env);
        let cases = workspace.join("fixtures/smokes");
        let found = discover::discover(&cases, &workspace.join("scripts/tests"))?;
        let mut smokes = discover::chosen(found, &self.filters)?;
        if self.bin.is_some() {
            // Scripts run another program.
            smokes.retain(|smoke| matches!(smoke.kind, Kind::Case(..)));
        }
        if self.list {
            output::print(&list(&smokes, env, &self)?)?;
            return Ok(Verdict::Yes);
        }
        if self.bless && env.ci {
            bail!("--bless is refused where CI is set\nhint: bless at home, look at the difference, commit it");
        }
        let own = std::env::current_exe().context("cannot find this program's file")?;
        // Without it no smoke can run, which is nobody's failure.
        drop(tempfile::tempdir().context("cannot create folders for the stages: does TMPDIR name a folder?")?);
        let cancel = Signals::catch_requests_to_end().context("cannot catch signals")?;
        let setup = Setup {
            options: &self,
            env,
            bin: self.bin.as_ref().map_or_else(|| Ok(own.clone()), |bin| program_under_test(bin, env))?,
            own,
            programs: cases.join("programs"),
            repo_root: repo_root(env),
            cancel: &cancel,
        };
        let mut reporter = Reporter::new(env, &workspace, smokes.len());
        run_all(&smokes, &setup, &mut reporter)?;
        if cancel.is_caught() {
            bail!("interrupted; the holders were ended and the stages removed");
        }
        reporter.verdict()
    }
}

/// Another program to test.
fn program_under_test(bin: &Path, env: &Env) -> anyhow::Result<PathBuf> {
    let found = bin.canonicalize().with_context(|| format!("cannot find the program to test, `{}`", path(bin)))?;
    match env.program(&found.to_string_lossy()) {
        Some(_) => Ok(found),
        None => bail!("`{}` is not an executable\nhint: --bin names the program to test", path(bin)),
    }
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
        skip: runner::reason_to_skip(smoke, env, options),
    });
    output::json(&listed.collect::<Vec<_>>())
}

/// Runs several cases at once, and beside them the scripts one by one: those expect to be alone.
fn run_all<'s>(smokes: &'s [Smoke], setup: &Setup, reporter: &mut Reporter<'s>) -> anyhow::Result<()> {
    let (scripts, cases): (Vec<&Smoke>, Vec<&Smoke>) =
        smokes.iter().partition(|smoke| matches!(smoke.kind, Kind::Script));
    let cases = Mutex::new(cases.into_iter());
    let has_failed = AtomicBool::new(false);
    let is_over = || setup.cancel.is_caught() || (setup.options.fail_fast && has_failed.load(Ordering::Relaxed));
    let (events, happened) = mpsc::channel();
    let work = |scripts: &[&'s Smoke], events: Sender<Event<'s>>| {
        let cases = iter::from_fn(|| cases.lock().ok()?.next());
        for smoke in scripts.iter().copied().chain(cases).take_while(|_| !is_over()) {
            _ = events.send(Event::Started(smoke));
            let started = Instant::now();
            // A panic drops the case's stage and holder on its way, so they are gone.
            let outcome = catch_unwind(AssertUnwindSafe(|| runner::run(smoke, setup)))
                .unwrap_or_else(|_| Outcome::Failed(vec!["the runner itself panicked; see above".to_owned()]));
            has_failed.fetch_or(matches!(outcome, Outcome::Failed(_)), Ordering::Relaxed);
            _ = events.send(Event::Ended(smoke, outcome, started.elapsed()));
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
