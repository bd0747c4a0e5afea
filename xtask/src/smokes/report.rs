//! What a run of the smokes says, from its events. Nothing else prints during a run.

use crate::smokes::check::indented;
use crate::smokes::run::Outcome;
use crate::{Verdict, output};
use std::time::Duration;

/// What happens during a run.
pub(crate) struct Ended<'a> {
    pub(crate) name: &'a str,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

/// Counts what happened.
#[derive(Default)]
pub(crate) struct Report {
    ran: usize,
    skipped: usize,
    failed: usize,
}

impl Report {
    /// Says how a case ended.
    pub(crate) fn ended(&mut self, ended: &Ended) -> anyhow::Result<()> {
        let name = ended.name;
        match &ended.outcome {
            Outcome::Passed => {
                self.ran += 1;
                output::print(&format!("==> {name}\n"))
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                output::print(&format!("SKIP: {name} ({why})\n"))
            }
            Outcome::Failed(problems) => {
                self.ran += 1;
                self.failed += 1;
                let problems: String = problems.iter().map(|problem| indented("    ", problem)).collect();
                let again = format!("again: cargo xtask smokes {name}");
                output::print(&format!(
                    "==> {name}\nFAIL: {name} ({} ms)\n{problems}    {again}\n",
                    ended.took.as_millis()
                ))
            }
            Outcome::Cancelled => Ok(()),
        }
    }

    /// The last word.
    pub(crate) fn verdict(&self) -> anyhow::Result<Verdict> {
        if self.failed > 0 {
            output::complain(&format!("ERROR: {} failed.\n", smokes(self.failed)));
            return Ok(Verdict::No);
        }
        if self.ran == 0 {
            anyhow::bail!("no smoke ran ({} skipped)\nhint: `cargo xtask smokes --list` names them", self.skipped);
        }
        let skipped = if self.skipped > 0 { format!("{} skipped.\n", smokes(self.skipped)) } else { String::new() };
        output::print(&format!("{skipped}All {} smoke(s) passed.\n", self.ran))?;
        Ok(Verdict::Yes)
    }
}

fn smokes(number: usize) -> String {
    format!("{number} smoke(s)")
}
