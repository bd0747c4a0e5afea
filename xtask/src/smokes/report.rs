//! What a run of the smokes says, from its events. Nothing else prints during a run.

use crate::config::Position;
use crate::env::{self, Env, GitHub};
use crate::smokes::check::indented;
use crate::smokes::run::Outcome;
use crate::smokes::{Kind, Smoke};
use crate::{Verdict, output};
use anyhow::Context;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

/// So many of the slowest smokes are named.
const SLOWEST: usize = 3;

/// What happens during a run.
pub(crate) enum Event<'a> {
    Started(&'a str),
    Ended { smoke: &'a Smoke, outcome: Outcome, took: Duration },
}

/// Owns the terminal during a run, and counts.
pub(crate) struct Reporter<'a> {
    all: usize,
    ran: usize,
    skipped: usize,
    failed: Vec<String>,
    known: usize,
    blessed: usize,
    running: BTreeSet<String>,
    times: Vec<(Duration, String)>,
    is_watched: bool,
    /// Where GitHub wants a summary, when it runs this.
    github: Option<&'a GitHub>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(env: &'a Env, all: usize) -> Reporter<'a> {
        Reporter {
            all,
            ran: 0,
            skipped: 0,
            failed: Vec::new(),
            known: 0,
            blessed: 0,
            running: BTreeSet::new(),
            times: Vec::new(),
            is_watched: output::is_watched(env),
            github: env.github.as_ref(),
        }
    }

    /// Says what happened.
    pub(crate) fn tell(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Started(name) => _ = self.running.insert(name.to_owned()),
            Event::Ended { smoke, outcome, took } => {
                self.running.remove(&smoke.name);
                self.show_status(false);
                self.ended(smoke, outcome, took)?;
            }
        }
        self.show_status(true);
        Ok(())
    }

    fn ended(&mut self, smoke: &Smoke, outcome: Outcome, took: Duration) -> anyhow::Result<()> {
        let name = &smoke.name;
        if !matches!(outcome, Outcome::Skipped(_) | Outcome::Cancelled) {
            self.ran += 1;
            self.times.push((took, name.clone()));
        }
        match outcome {
            Outcome::Passed => output::print(&format!("==> {name}\n")),
            Outcome::Blessed => {
                self.blessed += 1;
                output::print(&format!("==> {name}\nBLESSED: {name} (its expectation was rewritten)\n"))
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                output::print(&format!("SKIP: {name} ({why})\n"))
            }
            Outcome::Known(why) => {
                self.known += 1;
                output::print(&format!("==> {name}\nKNOWN: {name} (the shell original fails it: {why})\n"))
            }
            Outcome::Failed(problems) => {
                self.failed.push(name.clone());
                let told: String = problems.iter().map(|problem| indented("    ", problem)).collect();
                let milliseconds = took.as_millis();
                let again = format!("again: cargo xtask smokes {name} --keep");
                output::print(&format!("==> {name}\nFAIL: {name} ({milliseconds} ms)\n{told}    {again}\n"))?;
                self.annotate(smoke, &problems)
            }
            Outcome::Cancelled => Ok(()),
        }
    }

    /// The last word.
    pub(crate) fn verdict(&mut self) -> anyhow::Result<Verdict> {
        self.show_status(false);
        self.summarize()?;
        if !self.failed.is_empty() {
            output::complain(&format!("ERROR: {} failed.\n", smokes(self.failed.len())));
            return Ok(Verdict::No);
        }
        if self.ran == self.known {
            anyhow::bail!(
                "no smoke ran and passed ({} skipped)\nhint: `cargo xtask smokes --list` names them",
                self.skipped
            );
        }
        let mut text = format!("slowest: {}\n", self.slowest());
        for (number, what) in
            [(self.skipped, "skipped"), (self.known, "failed as the originals do"), (self.blessed, "blessed")]
        {
            if number > 0 {
                _ = writeln!(text, "{} {what}.", smokes(number));
            }
        }
        output::print(&format!("{text}All {} smoke(s) passed.\n", self.ran - self.known))?;
        Ok(Verdict::Yes)
    }

    fn slowest(&mut self) -> String {
        self.times.sort_by(|a, b| b.cmp(a));
        let slowest = self.times.iter().take(SLOWEST);
        slowest.map(|(took, name)| format!("{name} {} ms", took.as_millis())).collect::<Vec<_>>().join(", ")
    }

    /// One line for who watches: how far it is, and what runs.
    fn show_status(&self, is_shown: bool) {
        if self.is_watched {
            let running: Vec<&str> = self.running.iter().map(String::as_str).collect();
            let done = self.ran + self.skipped;
            let line = format!("{done}/{} {} failed: {}", self.all, self.failed.len(), running.join(", "));
            output::show_progress((is_shown && !running.is_empty()).then_some(&line));
        }
    }

    /// A mark on the case's file, where GitHub shows it.
    fn annotate(&self, smoke: &Smoke, problems: &[String]) -> anyhow::Result<()> {
        if self.github.is_none() {
            return Ok(());
        }
        let line = match &smoke.kind {
            Kind::Case(case, text) => Position::of(text.as_bytes(), case.expect.span().start).line,
            Kind::Script => 1,
        };
        let file = smoke.file.strip_prefix(env::built_in()).unwrap_or(&smoke.file).display();
        let problems = problems.join("\n").replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        output::print(&format!("::error file={file},line={line},title=smoke {}::{problems}\n", smoke.name))
    }

    /// GitHub's summary of the job.
    fn summarize(&mut self) -> anyhow::Result<()> {
        let Some(summary) = self.github.and_then(|github| github.summary.as_ref()) else { return Ok(()) };
        let failed = if self.failed.is_empty() { "none".to_owned() } else { self.failed.join(", ") };
        let (ran, skipped, slowest) = (self.ran, self.skipped, self.slowest());
        let table = format!(
            "| smokes run | skipped | failed | slowest |\n|---|---|---|---|\n| {ran} | {skipped} | {failed} | {slowest} |\n"
        );
        let append = std::fs::OpenOptions::new().create(true).append(true).open(summary);
        append
            .and_then(|mut file| file.write_all(table.as_bytes()))
            .with_context(|| format!("cannot write the summary {}", summary.display()))
    }
}

fn smokes(number: usize) -> String {
    format!("{number} smoke(s)")
}
