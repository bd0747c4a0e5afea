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
mod script;
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
use smoke::{Containers, Kind, OnFailure, Outcome, Setup, Smoke};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

impl cli::Smokes {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let workspace = workspace(env);
        let found = discover::discover(&smoke::cases(&workspace), &workspace.join("scripts/tests"))?;
        let mut smokes = discover::chosen(found, &self.filters)?;
        if self.bin.is_some() {
            // Scripts run another program.
            smokes.retain(|smoke| matches!(smoke.kind, Kind::Case(..)));
        }
        let containers = if self.include_container { Containers::Included } else { Containers::Skipped };
        if self.list {
            output::print(&list(&smokes, self.format, env, containers)?)?;
            return Ok(Verdict::Yes);
        }
        if self.bless && env.ci {
            bail!("--bless is refused where CI is set\nhint: bless at home, look at the difference, commit it");
        }
        let own = std::env::current_exe().context("cannot find this program's file")?;
        // Without it no smoke can run, which is nobody's failure.
        drop(tempfile::tempdir().context("cannot create folders for the stages: does TMPDIR name a folder?")?);
        let cancel = Signals::catch_requests_to_end().context("cannot catch signals")?;
        let mut reporter = Reporter::new(env, workspace.clone(), smokes.len());
        let setup = Setup {
            bin: self.bin.as_ref().map_or_else(|| Ok(own.clone()), |bin| program_under_test(bin, env))?,
            own,
            via: self.via,
            env,
            workspace,
            repo_root: repo_root(env),
            cancel: &cancel,
            containers,
            on_failure: match (self.bless, self.keep) {
                (true, _) => OnFailure::Bless,
                (false, true) => OnFailure::KeepStage,
                (false, false) => OnFailure::RemoveStage,
            },
        };
        let processors = || std::thread::available_parallelism().map_or(1, |number| number.get());
        let run = Run { setup, is_over: AtomicBool::new(false), fail_fast: self.fail_fast };
        run.all(&smokes, self.jobs.map_or_else(processors, |jobs| jobs.0), &mut reporter)?;
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

fn list(smokes: &[Smoke], format: Format, env: &Env, containers: Containers) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Listed<'a> {
        name: &'a str,
        file: &'a Path,
        skip: Option<String>,
    }
    match format {
        Format::Text => Ok(smokes.iter().map(|smoke| format!("{}\n", smoke.name)).collect()),
        Format::Json => {
            let listed = smokes.iter().map(|smoke| Listed {
                name: &smoke.name,
                file: &smoke.file,
                skip: runner::reason_to_skip(smoke, env, containers),
            });
            output::json(&listed.collect::<Vec<_>>())
        }
    }
}

struct Run<'a> {
    setup: Setup<'a>,
    is_over: AtomicBool,
    fail_fast: bool,
}

impl Run<'_> {
    /// Runs several cases at once, and beside them the scripts one by one: those expect to be alone.
    fn all(&self, smokes: &[Smoke], jobs: usize, reporter: &mut Reporter) -> anyhow::Result<()> {
        let (scripts, cases): (VecDeque<&Smoke>, VecDeque<&Smoke>) =
            smokes.iter().partition(|smoke| matches!(smoke.kind, Kind::Script));
        let queues = [Mutex::new(scripts), Mutex::new(cases)];
        let script_turn = Mutex::new(());
        let (events, happened) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..jobs.min(smokes.len()) {
                let events = events.clone();
                let (queues, script_turn) = (&queues, &script_turn);
                scope.spawn(move || {
                    // The first to come takes the scripts, which take longest.
                    let turn = script_turn.try_lock();
                    for queue in &queues[usize::from(turn.is_err())..] {
                        while let Some(smoke) = self.next(queue) {
                            _ = events.send(Event::Started(&smoke.name));
                            _ = events.send(self.one(smoke));
                        }
                    }
                });
            }
            drop(events);
            happened.into_iter().try_for_each(|event| reporter.report(event))
        })
    }

    fn next<'s>(&self, queue: &Mutex<VecDeque<&'s Smoke>>) -> Option<&'s Smoke> {
        let is_over = self.setup.cancel.is_caught() || self.is_over.load(Ordering::Relaxed);
        queue.lock().ok().filter(|_| !is_over).and_then(|mut queue| queue.pop_front())
    }

    fn one<'s>(&self, smoke: &'s Smoke) -> Event<'s> {
        let started = Instant::now();
        // A panic drops the case's stage and holder on its way, so they are gone.
        let outcome = catch_unwind(AssertUnwindSafe(|| runner::run(smoke, &self.setup)))
            .unwrap_or_else(|_| Outcome::Failed(vec!["the runner itself panicked; see above".to_owned()]));
        if self.fail_fast && matches!(outcome, Outcome::Failed(_)) {
            self.is_over.store(true, Ordering::Relaxed);
        }
        Event::Ended { smoke, outcome, took: started.elapsed() }
    }
}
