//! The shell originals, run through the same cases (`--via scripts`): what they do otherwise, a case names.

use crate::smokes::case::{Case, Original, Unlinked};
use crate::smokes::expect::find_line;
use crate::smokes::names::Names;
use crate::smokes::smoke::Outcome;
use crate::smokes::stage::Stage;
use crate::sys::child::{End, Finished};
use anyhow::Context;
use std::fs;
use std::path::Path;

/// The first words of the lines that this program prints and the shell originals do not.
pub(crate) const ONLY_OURS: [&str; 6] = ["age: ", "open in: ", "activity: ", "waiting: ", "note: ", "next: "];

/// The script that does what the case's command does.
pub(crate) fn script_of(case: &Case) -> Option<&'static str> {
    match &case.args.first()?[..] {
        _ if case.bare_path => None,
        "lock-status" => Some("scrape-lock-status.sh"),
        "handoff" => Some("operator-handoff.sh"),
        "verify-ready" => Some("verify-operator-ready.sh"),
        _ => None,
    }
}

/// Puts the scripts of a checkout on the stage, where they find each other, except the one that searches this machine for
/// tokens. They need the real jq.
pub(crate) fn link_scripts(stage: &Stage, repo_root: &Path) -> anyhow::Result<()> {
    _ = stage.unlink("bin/jq", Unlinked::Deleted);
    for folder in ["scripts", "scripts/lib"] {
        for entry in fs::read_dir(repo_root.join(folder)).into_iter().flatten() {
            let script = entry.context("cannot read the scripts")?.path();
            let name = script.file_name().unwrap_or_default().to_string_lossy();
            if script.is_file() && name != "discover-discord-token.sh" {
                stage.link(&format!("repo/{folder}/{name}"), &script)?;
            }
        }
    }
    Ok(())
}

/// Whether the original differs as the case says.
pub(crate) fn against_original(
    original: &Original,
    case: &Case,
    finished: &Finished,
    names: &Names,
    mut problems: Vec<String>,
) -> anyhow::Result<Outcome> {
    if problems.is_empty() {
        return Ok(Outcome::Failed(vec![format!("the original does as expected here, although `{}`", original.why)]));
    }
    let exit = original.exit.unwrap_or(*case.expect.exit.get_ref());
    let mut is_as_said = match finished.end {
        End::Exited(status) => !original.hangs && status.code() == Some(exit),
        end => original.hangs && end == End::TimedOut,
    };
    if let Some(line) = &original.line {
        let has_line = |output: &[u8]| Ok::<_, anyhow::Error>(find_line(line, names, output)?.is_some());
        is_as_said &= has_line(&finished.stdout)? || has_line(&finished.stderr)?;
    }
    if is_as_said {
        return Ok(Outcome::ExpectedFailure(original.why.clone()));
    }
    problems.insert(0, format!("the original does not differ as said: `{}`", original.why));
    Ok(Outcome::Failed(problems))
}
