//! `smokes`: the offline end-to-end suite. Cases are found, chosen and run here; see
//! `fixtures/smokes` for them.

mod case;
mod check;
mod holder;
mod report;
mod run;
mod stage;

use crate::child::Cancel;
use crate::env::{self, Env};
use crate::flags::{self, Format};
use crate::{Verdict, bounded, output};
use anyhow::{Context, anyhow, bail};
use case::Case;
use report::{Ended, Report};
use run::{Outcome, Setup};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// No case file is longer, in bytes.
const LARGEST_CASE: u64 = 1 << 20;

/// A case and its name, which is its file's.
pub(crate) struct Smoke {
    pub(crate) name: String,
    pub(crate) case: Case,
}

/// Where the cases are.
pub(crate) fn folder() -> PathBuf {
    env::built_in().join("fixtures/smokes")
}

impl flags::Smokes {
    pub(crate) fn run(self, env: &Env) -> anyhow::Result<Verdict> {
        let smokes = chosen(discover(&folder())?, &self.filters)?;
        if self.list {
            output::print(&list(&smokes, self.format, env)?)?;
            return Ok(Verdict::Yes);
        }
        let bin = program_under_test(self.bin, env)?;
        // What keeps every case from running is no failure of theirs.
        drop(tempfile::tempdir().context("cannot make folders for the stages; does TMPDIR name one?")?);
        let (cancel, canceller) = Cancel::new().context("cannot make a pipe")?;
        let canceller = Mutex::new(Some(canceller));
        ctrlc::set_handler(move || drop(canceller.lock().map(|mut canceller| canceller.take())))
            .context("cannot catch Ctrl-C")?;
        let jobs = self.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let report = run_all(&smokes, &Setup { bin, env, cancel: &cancel }, jobs)?;
        if cancel.is_cancelled() {
            bail!("interrupted; every holder and stage is gone");
        }
        report.verdict()
    }
}

/// The program to test: another one, or this one.
fn program_under_test(bin: Option<PathBuf>, env: &Env) -> anyhow::Result<PathBuf> {
    let Some(bin) = bin else { return std::env::current_exe().context("cannot find this program's file") };
    let shown = crate::text::path(&bin);
    let found = bin.canonicalize().with_context(|| format!("cannot find the program to test, `{shown}`"))?;
    match env.program(&found.to_string_lossy()) {
        Some(_) => Ok(found),
        None => bail!("`{shown}` is no program that can be run\nhint: --bin names the program to test"),
    }
}

/// All cases in a folder, by name; or everything that is wrong with them.
fn discover(folder: &Path) -> anyhow::Result<Vec<Smoke>> {
    let cannot_read = || format!("cannot read the smokes in {}", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot_read)? {
        paths.push(entry.with_context(cannot_read)?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    let mut smokes = Vec::new();
    let mut mistakes = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match load(&path) {
            Ok(case) => smokes.push(Smoke { name, case }),
            Err(mistake) => mistakes.push(format!("{}:{mistake}", path.display())),
        }
    }
    if mistakes.is_empty() { Ok(smokes) } else { Err(anyhow!("these smokes cannot be run:\n{}", mistakes.join("\n"))) }
}

fn load(path: &Path) -> Result<Case, String> {
    let bytes = bounded::read(path, bounded::Links::Follow, LARGEST_CASE).map_err(|error| format!(" {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| " it is not UTF-8 text".to_owned())?;
    Case::parse(&text)
}

/// The cases that the filters choose: each filter one by its whole name, or else all
/// that contain it.
fn chosen(smokes: Vec<Smoke>, filters: &[String]) -> anyhow::Result<Vec<Smoke>> {
    for filter in filters {
        if !smokes.iter().any(|smoke| smoke.name.contains(filter.as_str())) {
            bail!("no smoke is called like `{filter}`\nhint: `cargo xtask smokes --list` names them");
        }
    }
    let is_whole_name = |filter: &String| smokes.iter().any(|smoke| smoke.name == *filter);
    let (whole, parts): (Vec<&String>, Vec<&String>) = filters.iter().partition(|filter| is_whole_name(filter));
    let is_chosen = |smoke: &Smoke| {
        filters.is_empty()
            || whole.contains(&&smoke.name)
            || parts.iter().any(|part| smoke.name.contains(part.as_str()))
    };
    Ok(smokes.into_iter().filter(is_chosen).collect())
}

fn list(smokes: &[Smoke], format: Format, env: &Env) -> anyhow::Result<String> {
    #[derive(serde::Serialize)]
    struct Listed<'a> {
        name: &'a str,
        skip: Option<String>,
    }
    match format {
        Format::Text => Ok(smokes.iter().map(|smoke| format!("{}\n", smoke.name)).collect()),
        Format::Json => {
            let listed = smokes.iter().map(|smoke| Listed { name: &smoke.name, skip: run::reason_to_skip(smoke, env) });
            output::json(&listed.collect::<Vec<_>>())
        }
    }
}

fn run_all(smokes: &[Smoke], setup: &Setup, jobs: usize) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let next = AtomicUsize::new(0);
    let (events, happened) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(smokes.len()) {
            let events = events.clone();
            let next = &next;
            scope.spawn(move || {
                while let Some(smoke) = smokes.get(next.fetch_add(1, Ordering::Relaxed))
                    && !setup.cancel.is_cancelled()
                {
                    _ = events.send(run_one(smoke, setup));
                }
            });
        }
        drop(events);
        happened.into_iter().try_for_each(|ended| report.ended(&ended))
    })?;
    Ok(report)
}

fn run_one<'a>(smoke: &'a Smoke, setup: &Setup) -> Ended<'a> {
    let started = Instant::now();
    // The case's stage and holder are dropped, and so gone, on the way out of a panic.
    let outcome = catch_unwind(AssertUnwindSafe(|| run::run(smoke, setup)))
        .unwrap_or_else(|_| Outcome::Failed(vec!["the runner itself panicked; see above".to_owned()]));
    Ended { name: &smoke.name, outcome, took: started.elapsed() }
}
