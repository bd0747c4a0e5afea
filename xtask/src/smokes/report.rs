//! Prints a run of the smokes from its events. Nothing else prints during a run.

use crate::cli;
use crate::config::Position;
use crate::env::Env;
use crate::output;
use crate::smokes::smoke::{Kind, Outcome, Smoke, selection};
use crate::text::{indented, shell_word};
use crate::verdict::Verdict;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Number of slowest smokes shown.
const SLOWEST_SHOWN: usize = 3;

/// What happens during a run.
pub(crate) enum Event<'a> {
    Started(&'a Smoke),
    Ended(&'a Smoke, Outcome, Duration),
}

/// Prints, and remembers how everything ended.
pub(crate) struct Reporter<'a> {
    total: usize,
    running: BTreeSet<&'a str>,
    ended: Vec<(Duration, &'a str, Outcome)>,
    is_watched: bool,
    /// The checkout, if GitHub shows marks on its files.
    annotated: Option<&'a Path>,
    options: &'a cli::Smokes,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(options: &'a cli::Smokes, env: &Env, workspace: &'a Path, total: usize) -> Reporter<'a> {
        let (annotated, is_watched) = (env.github.then_some(workspace), output::is_watched(env));
        Reporter { total, running: BTreeSet::new(), ended: Vec::new(), is_watched, annotated, options }
    }

    /// Prints what happened.
    pub(crate) fn report(&mut self, event: Event<'a>) -> anyhow::Result<()> {
        match event {
            Event::Started(smoke) => _ = self.running.insert(&smoke.name),
            Event::Ended(smoke, outcome, took) => {
                self.running.remove(&smoke.name[..]);
                self.hide_status();
                output::print(&self.text(smoke, &outcome, took))?;
                self.ended.push((took, &smoke.name, outcome));
            }
        }
        self.show_status();
        Ok(())
    }

    fn text(&self, smoke: &Smoke, outcome: &Outcome, took: Duration) -> String {
        let name = &smoke.name;
        let more = match outcome {
            Outcome::Cancelled => return String::new(),
            Outcome::Skipped(why) => return format!("SKIP: {name} ({why})\n"),
            Outcome::Passed => String::new(),
            Outcome::Blessed => format!("BLESSED: {name} (its expectation was rewritten)\n"),
            Outcome::ExpectedFailure(why) => format!("EXPECTED: {name} (the shell original fails it: {why})\n"),
            Outcome::Failed(problems) => {
                let (took_ms, annotation) = (took.as_millis(), self.annotation(smoke, problems).unwrap_or_default());
                let problems: String = problems.iter().map(|problem| indented("    ", problem)).collect();
                let options = selection(self.options).into_iter();
                let options: String = options.map(|word| format!(" {}", shell_word(&word.to_string_lossy()))).collect();
                let again = format!("again: cargo xtask smokes {name} --keep{options}");
                format!("FAIL: {name} ({took_ms} ms)\n{problems}    {again}\n{annotation}")
            }
        };
        format!("==> {name}\n{more}")
    }

    fn count(&self, is_counted: fn(&Outcome) -> bool) -> usize {
        self.ended.iter().filter(|(.., outcome)| is_counted(outcome)).count()
    }

    /// Prints the summary.
    pub(crate) fn verdict(mut self) -> anyhow::Result<Verdict> {
        self.hide_status();
        let failed = self.count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let left_out = match self.total - self.ended.len() {
            0 => String::new(),
            left => format!(" {left} smoke(s) were not run."),
        };
        if failed > 0 {
            output::complain(&format!("ERROR: {failed} smoke(s) failed.{left_out}\n"));
            return Ok(Verdict::No);
        }
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let expected = self.count(|outcome| matches!(outcome, Outcome::ExpectedFailure(_)));
        let blessed = self.count(|outcome| *outcome == Outcome::Blessed);
        let passed = self.ended.len() - skipped - expected;
        if passed == 0 {
            anyhow::bail!("no smoke ran and passed ({skipped} skipped)\nhint: `cargo xtask smokes --list` lists them");
        }
        self.ended.retain(|(.., outcome)| !matches!(outcome, Outcome::Skipped(_)));
        self.ended.sort_by_key(|(took, name, _)| Reverse((*took, *name)));
        let slowest = self.ended.iter().map(|(took, name, _)| format!("{name} {} ms", took.as_millis()));
        let mut text = format!("slowest: {}\n", slowest.take(SLOWEST_SHOWN).collect::<Vec<_>>().join(", "));
        let counts = [(skipped, "skipped"), (expected, "failed as expected"), (blessed, "blessed")];
        for (number, what) in counts.into_iter().filter(|(number, _)| *number > 0) {
            _ = writeln!(text, "{number} smoke(s) {what}.");
        }
        output::print(&format!("{text}All {passed} smoke(s) passed.\n"))?;
        Ok(Verdict::Yes)
    }

    /// Shows the progress of the run on a terminal.
    fn show_status(&self) {
        if self.is_watched && !self.running.is_empty() {
            let running = self.running.iter().copied().collect::<Vec<_>>().join(", ");
            let failed = self.count(|outcome| matches!(outcome, Outcome::Failed(_)));
            let line = format!("{}/{} {failed} failed: {running}", self.ended.len(), self.total);
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
        let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
        let file = smoke.file.strip_prefix(self.annotated?).unwrap_or(&smoke.file).to_string_lossy();
        let (file, title) = (property(&file), property(&format!("smoke {}", smoke.name)));
        Some(format!("::error file={file},line={line},title={title}::{}\n", data(&problems.join("\n"))))
    }
}
