//! `smokes`: the offline end-to-end suite. Smokes are chosen and run here; see
//! `fixtures/smokes` for the cases, and `scripts/tests` for those that are scripts.

mod bless;
mod case;
mod check;
mod discover;
mod holder;
mod report;
mod run;
mod script;
mod stage;
mod stray;

use crate::child::Cancel;
use crate::env::{self, Env};
use crate::flags::{self, Format};
use crate::{Verdict, output};
use anyhow::{Context, bail};
use case::Case;
use report::{Event, Reporter};
use run::{Outcome, Setup};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// A smoke and its name, which is its file's without the ending.
pub(crate) struct Smoke {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    /// A case, and its file's text.
    Case(Box<Case>, String),
    Script,
}

/// Where the cases are.
pub(crate) fn folder() -> PathBuf {
    env::built_in().join("fixtures/smokes")
}

impl Smoke {
    fn new(file: PathBuf, ending: &str, kind: Kind) -> Smoke {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        Smoke { name: name.strip_suffix(ending).unwrap_or(&name).to_owned(), file, kind }
    }
}

impl flags::Smokes {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let scripts = env::built_in().join("scripts/tests");
        let mut smokes = discover::chosen(discover::discover(&folder(), &scripts)?, &self.filters)?;
        if self.bin.is_some() {
            // Scripts run what they run.
            smokes.retain(|smoke| matches!(smoke.kind, Kind::Case(..)));
        }
        if self.list {
            output::print(&list(&smokes, self.format, env, self.include_container)?)?;
            return Ok(Verdict::Yes);
        }
        if self.bless && env.ci {
            bail!("--bless is refused where CI is set\nhint: bless at home, look at the difference, commit it");
        }
        let own = std::env::current_exe().context("cannot find this program's file")?;
        let bin = self.bin.map_or_else(|| Ok(own.clone()), |bin| program_under_test(&bin, env))?;
        // What keeps every smoke from running is no failure of theirs.
        drop(tempfile::tempdir().context("cannot make folders for the stages; does TMPDIR name one?")?);
        let cancel = Cancel::on_signals()?;
        let setup = Setup {
            bin,
            own,
            via: self.via,
            env,
            cancel: &cancel,
            include_container: self.include_container,
            keep: self.keep,
            bless: self.bless,
        };
        let jobs = self.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let mut reporter = Reporter::new(env, smokes.len());
        run_all(&smokes, &setup, jobs, self.fail_fast, &mut reporter)?;
        if cancel.is_cancelled() {
            bail!("interrupted; the holders were ended and the stages removed");
        }
        reporter.verdict()
    }
}

/// Another program to test.
fn program_under_test(bin: &Path, env: &Env) -> anyhow::Result<PathBuf> {
    let shown = crate::text::path(bin);
    let found = bin.canonicalize().with_context(|| format!("cannot find the program to test, `{shown}`"))?;
    match env.program(&found.to_string_lossy()) {
        Some(_) => Ok(found),
        None => bail!("`{shown}` is no program that can be run\nhint: --bin names the program to test"),
    }
}

fn list(smokes: &[Smoke], format: Format, env: &Env, include_container: bool) -> anyhow::Result<String> {
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
                skip: run::reason_to_skip(smoke, env, include_container),
            });
            output::json(&listed.collect::<Vec<_>>())
        }
    }
}

/// Runs cases at once, and scripts one after the other beside them: those were written to
/// be alone.
fn run_all(
    smokes: &[Smoke],
    setup: &Setup,
    jobs: usize,
    fail_fast: bool,
    reporter: &mut Reporter,
) -> anyhow::Result<()> {
    let (scripts, cases): (VecDeque<&Smoke>, VecDeque<&Smoke>) =
        smokes.iter().partition(|smoke| matches!(smoke.kind, Kind::Script));
    let queues = [Mutex::new(scripts), Mutex::new(cases)];
    let script_turn = Mutex::new(());
    let is_over = AtomicBool::new(false);
    let (events, happened) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(smokes.len()) {
            let events = events.clone();
            let (queues, script_turn, is_over) = (&queues, &script_turn, &is_over);
            scope.spawn(move || {
                // Whoever comes first takes the scripts, which are the longest.
                let turn = script_turn.try_lock();
                for queue in &queues[usize::from(turn.is_err())..] {
                    while !setup.cancel.is_cancelled() && !is_over.load(Ordering::Relaxed) {
                        let Some(smoke) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) else { break };
                        _ = events.send(Event::Started(&smoke.name));
                        let ended = run_one(smoke, setup);
                        if fail_fast && matches!(ended, Event::Ended { outcome: Outcome::Failed(_), .. }) {
                            is_over.store(true, Ordering::Relaxed);
                        }
                        _ = events.send(ended);
                    }
                }
            });
        }
        drop(events);
        happened.into_iter().try_for_each(|event| reporter.tell(event))
    })
}

fn run_one<'a>(smoke: &'a Smoke, setup: &Setup) -> Event<'a> {
    let started = Instant::now();
    // The case's stage and holder are dropped, and so gone, on the way out of a panic.
    let outcome = catch_unwind(AssertUnwindSafe(|| run::run(smoke, setup)))
        .unwrap_or_else(|_| Outcome::Failed(vec!["the runner itself panicked; see above".to_owned()]));
    Event::Ended { smoke, outcome, took: started.elapsed() }
}
