//! Prints a run of the smokes from its events. Nothing else prints during a run.

use crate::config::Position;
use crate::env::Env;
use crate::output;
use crate::smokes::smoke::{Kind, Outcome, Smoke};
use crate::text::indented;
use crate::verdict::Verdict;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Number of the slowest smokes named.
const SLOWEST_SHOWN: usize = 3;

/// What happens during a run.
pub(crate) enum Event<'a> {
    Started(&'a str),
    Ended { smoke: &'a Smoke, outcome: Outcome, took: Duration },
}

/// Prints, and counts.
pub(crate) struct Reporter {
    total: usize,
    ran: usize,
    skipped: usize,
    failed: usize,
    expected_failures: usize,
    blessed: usize,
    running: BTreeSet<String>,
    times: Vec<(Duration, String)>,
    is_watched: bool,
    /// The checkout, if GitHub shows marks on its files.
    annotated: Option<PathBuf>,
}

impl Reporter {
    pub(crate) fn new(env: &Env, workspace: PathBuf, total: usize) -> Reporter {
        Reporter {
            total,
            ran: 0,
            skipped: 0,
            failed: 0,
            expected_failures: 0,
            blessed: 0,
            running: BTreeSet::new(),
            times: Vec::new(),
            is_watched: output::is_watched(env),
            annotated: Some(workspace).filter(|_| env.github),
        }
    }

    /// Prints what happened.
    pub(crate) fn report(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Started(name) => _ = self.running.insert(name.to_owned()),
            Event::Ended { smoke, outcome, took } => {
                self.running.remove(&smoke.name);
                self.hide_status();
                let text = self.ended(smoke, outcome, took);
                output::print(&text)?;
            }
        }
        self.show_status();
        Ok(())
    }

    fn ended(&mut self, smoke: &Smoke, outcome: Outcome, took: Duration) -> String {
        let name = &smoke.name;
        if !matches!(outcome, Outcome::Skipped(_) | Outcome::Cancelled) {
            self.ran += 1;
            self.times.push((took, name.clone()));
        }
        match outcome {
            Outcome::Passed => format!("==> {name}\n"),
            Outcome::Blessed => {
                self.blessed += 1;
                format!("==> {name}\nBLESSED: {name} (its expectation was rewritten)\n")
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                format!("SKIP: {name} ({why})\n")
            }
            Outcome::ExpectedFailure(why) => {
                self.expected_failures += 1;
                format!("==> {name}\nEXPECTED: {name} (the shell original fails it: {why})\n")
            }
            Outcome::Failed(problems) => {
                self.failed += 1;
                let problems_text: String = problems.iter().map(|problem| indented("    ", problem)).collect();
                let (took_ms, again) = (took.as_millis(), format!("again: cargo xtask smokes {name} --keep"));
                let text = format!("==> {name}\nFAIL: {name} ({took_ms} ms)\n{problems_text}    {again}\n");
                text + &self.annotation(smoke, &problems).unwrap_or_default()
            }
            Outcome::Cancelled => String::new(),
        }
    }

    /// Prints the summary, and gives the answer.
    pub(crate) fn verdict(&mut self) -> anyhow::Result<Verdict> {
        self.hide_status();
        if self.failed > 0 {
            output::complain(&format!("ERROR: {} smoke(s) failed.\n", self.failed));
            return Ok(Verdict::No);
        }
        let passed = self.ran - self.expected_failures;
        if passed == 0 {
            let skipped = self.skipped;
            anyhow::bail!("no smoke ran and passed ({skipped} skipped)\nhint: `cargo xtask smokes --list` lists them");
        }
        self.times.sort_by(|a, b| b.cmp(a));
        let slowest =
            self.times.iter().take(SLOWEST_SHOWN).map(|(took, name)| format!("{name} {} ms", took.as_millis()));
        let mut text = format!("slowest: {}\n", slowest.collect::<Vec<_>>().join(", "));
        let counts =
            [(self.skipped, "skipped"), (self.expected_failures, "failed as expected"), (self.blessed, "blessed")];
        for (number, what) in counts.into_iter().filter(|(number, _)| *number > 0) {
            _ = writeln!(text, "{number} smoke(s) {what}.");
        }
        output::print(&format!("{text}All {passed} smoke(s) passed.\n"))?;
        Ok(Verdict::Yes)
    }

    /// Shows on a terminal how far the run is, and what is running.
    fn show_status(&self) {
        if self.is_watched && !self.running.is_empty() {
            let running: Vec<&str> = self.running.iter().map(String::as_str).collect();
            let done = self.ran + self.skipped;
            let line = format!("{done}/{} {} failed: {}", self.total, self.failed, running.join(", "));
            output::show_progress(Some(&line));
        }
    }

    fn hide_status(&self) {
        if self.is_watched {
            output::show_progress(None);
        }
    }

    /// A workflow command that marks the case's file on GitHub.
    fn annotation(&self, smoke: &Smoke, problems: &[String]) -> Option<String> {
        let line = match &smoke.kind {
            Kind::Case(case, text) => Position::of(text.as_bytes(), case.expect.span().start).line,
            Kind::Script => 1,
        };
        let file = smoke.file.strip_prefix(self.annotated.as_ref()?).unwrap_or(&smoke.file).display();
        let problems = problems.join("\n").replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        Some(format!("::error file={file},line={line},title=smoke {}::{problems}\n", smoke.name))
    }
}
