//! Prints a run of the smokes from its events. Nothing else prints during a run.

use crate::cli;
use crate::env::Env;
use crate::output;
use crate::smokes::smoke::{Outcome, Smoke, selection};
use crate::text::{indented, shell_word};
use crate::verdict::Verdict;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Prints, and remembers how everything ended.
pub(crate) struct Reporter<'a> {
    total: usize,
    ended: Vec<Outcome>,
    /// The checkout, if GitHub shows marks on its files.
    annotated: Option<&'a Path>,
    options: &'a cli::Smokes,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(options: &'a cli::Smokes, env: &Env, workspace: &'a Path, total: usize) -> Reporter<'a> {
        Reporter { total, ended: Vec::new(), annotated: env.github.then_some(workspace), options }
    }

    /// Prints how a smoke ended.
    pub(crate) fn report(&mut self, (smoke, outcome, took): (&Smoke, Outcome, Duration)) -> anyhow::Result<()> {
        output::print(&self.text(smoke, &outcome, took))?;
        self.ended.push(outcome);
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

    /// Prints the summary.
    pub(crate) fn verdict(self) -> anyhow::Result<Verdict> {
        let count = |is_counted: fn(&Outcome) -> bool| self.ended.iter().filter(|outcome| is_counted(outcome)).count();
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        if failed > 0 {
            let left_out = match self.total - self.ended.len() {
                0 => String::new(),
                left => format!(" {left} smoke(s) were not run."),
            };
            output::complain(&format!("ERROR: {failed} smoke(s) failed.{left_out}\n"));
            return Ok(Verdict::No);
        }
        let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let expected = count(|outcome| matches!(outcome, Outcome::ExpectedFailure(_)));
        let blessed = count(|outcome| *outcome == Outcome::Blessed);
        let passed = self.ended.len() - skipped - expected;
        if passed + expected == 0 {
            anyhow::bail!("no smoke was run ({skipped} skipped)\nhint: `cargo xtask smokes --list` lists them");
        }
        let mut text = String::new();
        for (number, what) in [(skipped, "skipped"), (expected, "failed as expected"), (blessed, "blessed")] {
            if number > 0 {
                _ = writeln!(text, "{number} smoke(s) {what}.");
            }
        }
        output::print(&format!("{text}All {passed} smoke(s) passed.\n"))?;
        Ok(Verdict::Yes)
    }

    /// A workflow command that marks the case's file on GitHub.
    fn annotation(&self, smoke: &Smoke, problems: &[String]) -> Option<String> {
        let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
        let file = property(&smoke.file.strip_prefix(self.annotated?).unwrap_or(&smoke.file).to_string_lossy());
        Some(format!("::error file={file},title=smoke {}::{}\n", property(&smoke.name), data(&problems.join("\n"))))
    }
}
