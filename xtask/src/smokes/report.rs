//! What is printed of a run of the smokes.

use crate::cli;
use crate::output;
use crate::smokes::smoke::{Outcome, Smoke, selection};
use crate::text::{indented, shell_word};
use crate::verdict::Verdict;
use anyhow::bail;
use std::path::Path;
use std::time::Duration;

/// How a smoke ended. `annotated` is the checkout, if GitHub shows marks on its files.
pub(crate) fn text(
    smoke: &Smoke,
    outcome: &Outcome,
    took: Duration,
    options: &cli::Smokes,
    annotated: Option<&Path>,
) -> String {
    let name = &smoke.name;
    let more = match outcome {
        Outcome::Skipped(why) => return format!("SKIP: {name} ({why})\n"),
        Outcome::Passed => String::new(),
        Outcome::Blessed => format!("BLESSED: {name} (its expectation was rewritten)\n"),
        Outcome::ExpectedFailure(why) => format!("EXPECTED: {name} (the shell original fails it: {why})\n"),
        Outcome::Failed(problems) => {
            let shown: String = problems.iter().map(|problem| indented("    ", problem)).collect();
            let options: String =
                selection(options).iter().map(|word| format!(" {}", shell_word(&word.to_string_lossy()))).collect();
            let again = format!("again: cargo xtask smokes {name} --keep{options}");
            let annotation = annotated.map(|checkout| annotation(smoke, problems, checkout)).unwrap_or_default();
            format!("FAIL: {name} ({} ms)\n{shown}    {again}\n{annotation}", took.as_millis())
        }
    };
    format!("==> {name}\n{more}")
}

/// Prints the summary. `total` is the number of smokes that were chosen.
pub(crate) fn verdict(ended: &[Outcome], total: usize) -> anyhow::Result<Verdict> {
    let count = |is_counted: fn(&Outcome) -> bool| ended.iter().filter(|outcome| is_counted(outcome)).count();
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    if failed > 0 {
        let left_out = match total - ended.len() {
            0 => String::new(),
            left => format!(" {left} smoke(s) were not run."),
        };
        output::complain(&format!("ERROR: {failed} smoke(s) failed.{left_out}\n"));
        return Ok(Verdict::No);
    }
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    let expected = count(|outcome| matches!(outcome, Outcome::ExpectedFailure(_)));
    let blessed = count(|outcome| *outcome == Outcome::Blessed);
    if skipped == ended.len() {
        bail!("no smoke was run ({skipped} skipped)\nhint: `cargo xtask smokes --list` lists them");
    }
    let counts = [(skipped, "skipped"), (expected, "failed as expected"), (blessed, "blessed")];
    let counts = counts.iter().filter(|(number, _)| *number > 0);
    let counts: String = counts.map(|(number, what)| format!("{number} smoke(s) {what}.\n")).collect();
    output::print(&format!("{counts}All {} smoke(s) passed.\n", ended.len() - skipped - expected))?;
    Ok(Verdict::Yes)
}

/// A workflow command that marks the smoke's file on GitHub.
fn annotation(smoke: &Smoke, problems: &[String], checkout: &Path) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let file = property(&smoke.file.strip_prefix(checkout).unwrap_or(&smoke.file).to_string_lossy());
    format!("::error file={file},title=smoke {}::{}\n", smoke.name, data(&problems.join("\n")))
}
