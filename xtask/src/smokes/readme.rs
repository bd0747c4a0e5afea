//! README.md's examples as cases: a block that names its case is run in a copy of the demo, and what it shows must come
//! out.
//!
//! ```text
//! ```console NAME [exit CODE]
//! $ cargo xtask COMMAND
//! its output, with wildcards
//! ```
//! ```

use crate::smokes::case::{Case, read_text};
use crate::smokes::smoke::is_name;
use crate::text::path;
use anyhow::{Context, anyhow, bail};
use std::io;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The checkout's path, as README has it.
const CLONE: &str = "/home/you/clone";

/// How a block of a case starts.
const BLOCK: &str = "```console";

/// How its command starts.
const COMMAND: &str = "$ cargo xtask ";

/// The cases of a README, with the demo on their stages.
///
/// # Errors
/// README or the demo cannot be read; or, in place of a case, what is wrong with its block.
pub(crate) fn cases_of(readme: &Path) -> anyhow::Result<Vec<anyhow::Result<(String, Case)>>> {
    let text = read_text(readme)?;
    let cases: Vec<_> = cases(&text).collect();
    let demo = match readme.parent() {
        Some(checkout) if !cases.is_empty() => demo(checkout)?,
        _ => Vec::new(),
    };
    let with_demo = |(line, case): (usize, anyhow::Result<(String, Case)>)| {
        let (name, mut case) = case.with_context(|| format!("{}:{line}", path(readme)))?;
        case.stage.files.extend(demo.clone());
        Ok((name, case))
    };
    Ok(cases.into_iter().map(with_demo).collect())
}

/// A case of a README's text, if it is there; without the demo.
pub(crate) fn case_in(text: &str, name: &str) -> Option<Case> {
    cases(text).filter_map(|(_, case)| case.ok()).find(|(found, _)| found == name).map(|(_, case)| case)
}

/// An expectation as README shows it.
pub(crate) fn as_shown(pattern: &str) -> String {
    pattern.replace("[ROOT]", CLONE)
}

/// The cases of a README's text, each with the number of its first line. A block that is fenced otherwise is a mistake,
/// not a case that nobody runs.
fn cases(text: &str) -> impl Iterator<Item = (usize, anyhow::Result<(String, Case)>)> {
    let mut next = 0;
    text.split_inclusive('\n').enumerate().filter_map(move |(index, line)| {
        let start = next;
        next += line.len();
        let fenced = &line[line.find("```").or(line.find("~~~"))?..];
        let info = fenced.trim_matches(|c: char| c.is_whitespace() || "`~".contains(c)).to_lowercase();
        (info.contains("console") && info != "console").then(|| (index + 1, block(text, start)))
    })
}

/// Reads the block at `start`.
fn block(text: &str, start: usize) -> anyhow::Result<(String, Case)> {
    let mut lines = text[start..].split_inclusive('\n');
    let (info, command) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let (name, code) = match info.trim_end_matches('\n').split(' ').collect::<Vec<&str>>()[..] {
        [BLOCK, name] if is_name(name) => (name, 0),
        [BLOCK, name, "exit", code] if is_name(name) => {
            (name, i32::from(code.parse::<u8>().map_err(|_| anyhow!("`{code}` is not an exit code"))?))
        }
        _ => bail!("a case is written `{BLOCK} NAME` or `{BLOCK} NAME exit CODE`"),
    };
    let words =
        command.strip_prefix(COMMAND).with_context(|| format!("the command does not start with `{COMMAND}`"))?;
    if words.contains(['"', '\'', '\\', '$', '|', '>', ';', '&']) {
        bail!("the command is not made of plain words");
    }
    let at = start + info.len() + command.len();
    let is_fence = |line: &&str| line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
    let shown: String = lines.take_while(|line| !is_fence(line)).collect();
    if !text[at + shown.len()..].starts_with("```\n") {
        bail!("the block does not end with a line ```");
    }
    if shown.lines().any(|line| line.starts_with("$ ")) {
        bail!("the block has more than one command");
    }
    // An example may be of a command that writes.
    let mut case: Case = toml::from_str("args = []\nexpect = { exit = 0, writes = true }")?;
    case.args = words.split_ascii_whitespace().map(str::to_owned).collect();
    // Without a position: it cannot be rewritten.
    case.expect.exit = Spanned::new(0..0, code);
    case.expect.stdout.is = Some(Spanned::new(at..at + shown.len(), shown.replace(CLONE, "[ROOT]")));
    Ok((name.to_owned(), case))
}

/// The files of the demo, by their paths in the checkout.
fn demo(checkout: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::from("fixtures/demo")]);
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(checkout.join(&folder)).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for entry in entries.with_context(|| format!("cannot read the demo in {}", path(&folder)))? {
            // A lock that somebody has tried out is not part of it.
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let at = folder.join(entry.file_name());
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => folders.push(at),
                false => files.push((at.to_string_lossy().into_owned(), read_text(&checkout.join(&at))?)),
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_case() {
        let text =
            "x\n```console held exit 1\n$ cargo xtask lock-status --config a\nlock: /home/you/clone/a\n[..]\n```\ny\n";
        let Case { args, expect, .. } = case_in(text, "held").unwrap();
        let is = expect.stdout.is.unwrap();
        assert_eq!(args, ["lock-status", "--config", "a"]);
        assert_eq!((*expect.exit.get_ref(), &is.get_ref()[..]), (1, "lock: [ROOT]/a\n[..]\n"));
        assert_eq!(&text[is.span()], as_shown(is.get_ref()));
        assert_eq!(cases("```console\n$ x\n```\nconsole a\n`console a`\n").count(), 0, "these are no cases");
    }

    #[test]
    fn a_block_of_another_form_is_a_mistake() {
        for text in [
            "```console a\n$ cargo xtask x",
            "```console a\ncargo xtask x\n```\n",
            "```console a b\n$ cargo xtask x\n```\n",
            "```console a exit x\n$ cargo xtask x\n```\n",
            "```console a exit 300\n$ cargo xtask x\n```\n",
            "```console a\n$ cargo xtask x\nx\n$ cargo xtask y\n```\n",
            "```console a\n$ cargo xtask x | y\n```\n",
            "~~~console a\n$ cargo xtask x\n~~~\n",
            "````console a\n$ cargo xtask x\n```\n",
            "  ```console a\n  $ cargo xtask x\n  ```\n",
            "> ``` console a\n$ cargo xtask x\n```\n",
            "```console\ta\n$ cargo xtask x\n```\n",
            "- ```console a\n  $ cargo xtask x\n  ```\n",
            "1. ```Console a\n$ cargo xtask x\n```\n",
            "```{.console} a\n$ cargo xtask x\n```\n",
            "```console a\n$ cargo xtask x\nshown\n``` \nprose\n```\n",
            "```console a\n$ cargo xtask x\nshown\n````\n",
            "```console a\n$ cargo xtask x\n```sh\n```\n",
        ] {
            assert!(cases(text).all(|(_, case)| case.is_err()) && cases(text).count() == 1, "{text}");
        }
    }
}
