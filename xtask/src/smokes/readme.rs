//! README.md's examples as cases: a block that names its case is run in a copy of the demo, and what it shows must come
//! out.
//!
//! ```text
//! ```console NAME [exit CODE]
//! $ cargo xtask COMMAND
//! its output, with wildcards
//! ```
//! ```

use crate::smokes::case::{Base, Case};
use crate::smokes::smoke::{Kind, Smoke};
use crate::sys::file::{self, Links};
use crate::text::path;
use anyhow::{Context, anyhow, bail};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The checkout's path, as README has it.
const CLONE: &str = "/home/you/clone";

/// Maximum size of README.md, and of a file of the demo.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// How a block of a case starts.
const BLOCK: &str = "```console ";

/// How its command starts.
const COMMAND: &str = "$ cargo xtask ";

/// The cases of a README. One has the base of its own name, if there is one.
///
/// # Errors
/// A block that names a case has another form, or the demo cannot be read.
pub(crate) fn smokes(readme: &Path, bases: &BTreeMap<String, Base>) -> anyhow::Result<Vec<Smoke>> {
    let text = read(readme)?;
    let folder = readme.parent().context("README.md has no folder")?;
    let demo = demo(folder)?;
    let mut smokes = Vec::new();
    for (start, _) in text.match_indices(BLOCK).filter(|(at, _)| text[..*at].is_empty() || text[..*at].ends_with('\n'))
    {
        let line = 1 + text[..start].matches('\n').count();
        let (name, mut case) = block(&text, start).with_context(|| format!("{}:{line}", path(readme)))?;
        case.stage.files.extend(demo.iter().map(|(name, text)| (Spanned::new(0..0, name.clone()), text.clone())));
        let case = case.on(bases.get(&name).unwrap_or(&Base::default()));
        smokes.push(Smoke { name, file: readme.to_owned(), kind: Kind::Case(Box::new(case), text.clone()) });
    }
    Ok(smokes)
}

/// A case of a README's text, if it is there; without the demo.
pub(crate) fn case_in(text: &str, name: &str) -> Option<Case> {
    let blocks = text.match_indices(BLOCK).filter_map(|(start, _)| block(text, start).ok());
    blocks.into_iter().find(|(found, _)| found == name).map(|(_, case)| case)
}

/// The README with another output in place of a case's.
pub(crate) fn with_output(text: &str, output: Range<usize>, pattern: &str) -> String {
    format!("{}{}{}", &text[..output.start], pattern.replace("[ROOT]", CLONE), &text[output.end..])
}

/// Reads the block at `start`.
fn block(text: &str, start: usize) -> anyhow::Result<(String, Case)> {
    let block = &text[start..];
    let end = block.find("\n```\n").context("the block does not end")? + 1;
    let (info, body) = block[..end].split_once('\n').context("the block is empty")?;
    let (name, code) = match info[BLOCK.len()..].split(' ').collect::<Vec<&str>>()[..] {
        [name] => (name, 0),
        [name, "exit", code] => (name, code.parse::<i32>().map_err(|_| anyhow!("`{code}` is no exit code"))?),
        _ => bail!("a case is written `console NAME` or `console NAME exit CODE`"),
    };
    let (command, shown) = body.split_once('\n').context("the block has no command")?;
    let command =
        command.strip_prefix(COMMAND).with_context(|| format!("the command does not start with `{COMMAND}`"))?;
    if command.contains(['"', '\'', '\\', '$', '|', '>', ';', '&']) {
        bail!("the command is not made of plain words");
    }
    let shown_at = start + end - shown.len();
    // An example may be of a command that writes.
    let mut case: Case = toml::from_str(&format!("args = []\nexpect = {{ exit = {code}, writes = true }}"))?;
    case.args = command.split_ascii_whitespace().map(str::to_owned).collect();
    let mut expect = case.expect.into_inner();
    expect.stdout.is = Some(Spanned::new(shown_at..start + end, shown.replace(CLONE, "[ROOT]")));
    case.expect = Spanned::new(start..start, expect);
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
                false => files.push((at.to_string_lossy().into_owned(), read(&checkout.join(&at))?)),
            }
        }
    }
    Ok(files)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let bytes =
        file::read(file, Links::Refuse, FILE_MAX_BYTES).with_context(|| format!("cannot read {}", path(file)))?;
    String::from_utf8(bytes).map_err(|_| anyhow!("{} is not UTF-8 text", path(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_a_case_and_can_be_rewritten() {
        let text =
            "x\n```console held exit 1\n$ cargo xtask lock-status --config a\nlock: /home/you/clone/a\n[..]\n```\ny\n";
        let (name, case) = block(text, 2).unwrap();
        let expect = case.expect.get_ref();
        let is = expect.stdout.is.as_ref().unwrap();
        assert_eq!((&name[..], &case.args[..]), ("held", &["lock-status", "--config", "a"].map(str::to_owned)[..]));
        assert_eq!((*expect.exit.get_ref(), &is.get_ref()[..]), (1, "lock: [ROOT]/a\n[..]\n"));
        let rewritten = with_output(text, is.span(), "new [ROOT]\n");
        assert_eq!(
            rewritten,
            "x\n```console held exit 1\n$ cargo xtask lock-status --config a\nnew /home/you/clone\n```\ny\n"
        );
    }

    #[test]
    fn a_block_of_another_form_is_a_mistake() {
        for text in [
            "```console a\n$ cargo xtask x",
            "```console a\ncargo xtask x\n```\n",
            "```console a b\n$ cargo xtask x\n```\n",
            "```console a exit x\n$ cargo xtask x\n```\n",
            "```console a\n$ cargo xtask x | y\n```\n",
        ] {
            assert!(block(text, 0).is_err(), "{text}");
        }
    }
}
