//! `--bless`: rewrites a case's expectation in its file. Comments, layout and wildcards that match stay.

use crate::smokes::case::{Case, read_text};
use crate::smokes::expect::realigned;
use crate::smokes::names::Names;
use crate::smokes::readme;
use crate::smokes::smoke::Smoke;
use crate::sys::child::{End, Finished};
use crate::text::path;
use anyhow::Context;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// Rewrites the file of a smoke if the smoke passes then. Only what the file has, whole values of `exit` and `is`, is
/// rewritten; false if that is not enough.
pub(crate) fn bless(
    smoke: &Smoke,
    finished: &Finished,
    names: &Names,
    passes: impl Fn(&Case) -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let parse = |text: &str| match smoke.is_readme() {
        true => readme::case_in(text, &smoke.name),
        false => toml::from_str(text).ok(),
    };
    let write = if smoke.is_readme() { readme::as_shown } else { literal };
    // As it is now: somebody may be editing it.
    let text = read_text(&smoke.file)?;
    let Some(case) = parse(&text) else { return Ok(false) };
    let Some(rewritten) = rewritten(&text, &case, finished, names, write)? else { return Ok(false) };
    let Some(again) = parse(&rewritten) else { return Ok(false) };
    let passes = passes(&again)?;
    if passes {
        replace(&smoke.file, &rewritten).with_context(|| format!("cannot write {}", path(&smoke.file)))?;
    }
    Ok(passes)
}

/// Puts a text in place of a file's: the old one or the new one is there at any time.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?;
    let mut new = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(&path))?;
    new.write_all(text.as_bytes())?;
    let old = fs::metadata(&path)?;
    // Only root can, and needs to.
    _ = fchown(new.as_file(), Some(old.uid()), Some(old.gid()));
    new.as_file().set_permissions(old.permissions())?;
    new.as_file().sync_all()?;
    new.persist(&path)?;
    Ok(())
}

/// A file's text with what the program printed in place of what it expects.
fn rewritten(
    file: &str,
    case: &Case,
    finished: &Finished,
    names: &Names,
    write: fn(&str) -> String,
) -> anyhow::Result<Option<String>> {
    let mut changes: Vec<(Range<usize>, String)> = Vec::new();
    let exit = &case.expect.exit;
    if let End::Exited(status) = finished.end {
        // README's examples have no place for it.
        let code = status.code().filter(|code| code != exit.get_ref() && !exit.span().is_empty());
        changes.extend(code.map(|code| (exit.span(), code.to_string())));
    }
    for (expect, bytes) in [(&case.expect.stdout, &finished.stdout), (&case.expect.stderr, &finished.stderr)] {
        let Some(is) = &expect.is else { continue };
        let Some(pattern) = realigned(is.get_ref(), bytes, names)? else { return Ok(None) };
        changes.extend((pattern != *is.get_ref()).then(|| (is.span(), write(&pattern))));
    }
    changes.sort_by_key(|(span, _)| span.start);
    let mut rewritten = file.to_owned();
    for (span, text) in changes.into_iter().rev() {
        rewritten.replace_range(span, &text);
    }
    Ok(Some(rewritten))
}

/// A TOML string: a multi-line literal where possible (TOML 1.0, String).
fn literal(text: &str) -> String {
    let is_plain = |c: char| c == '\n' || c == '\t' || !c.is_control();
    if text.chars().all(is_plain) && !text.contains("'''") && !text.ends_with('\'') {
        return format!("'''\n{text}'''");
    }
    // A JSON string is a basic string of TOML, except that TOML wants DEL escaped.
    serde_json::Value::from(text).to_string().replace('\x7f', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn rewritten_to(file: &str, code: i32, stdout: &str) -> String {
        let mut names = Names::default();
        names.set("ROOT", "/r");
        let end = End::Exited(ExitStatus::from_raw(code << 8));
        let finished = Finished { end, stdout: stdout.into(), stderr: Vec::new(), is_cut: false };
        rewritten(file, &toml::from_str(file).unwrap(), &finished, &names, literal).unwrap().unwrap()
    }

    #[test]
    fn only_what_differs_is_rewritten() {
        let file = "# why\nargs = ['x'] # mine\n\n[expect]\nexit = 0 # zero\nstdout.is = '''\na [..]\nold\n'''\n";
        let expected = file.replace("= 0", "= 2").replace("old", "new [ROOT]/x");
        assert_eq!(rewritten_to(file, 2, "a b\nnew /r/x\n"), expected);
        assert_eq!(rewritten_to(&expected, 2, "a b\nnew /r/x\n"), expected);
    }

    #[test]
    fn values_are_rewritten_in_every_form_of_table() {
        for form in [
            "args = []\n[expect]\nexit = 0\n  stdout = { is = '' }\n",
            "args = []\nexpect.exit = 0\nexpect.stdout.is = \"\"",
            "args = []\nexpect = { exit = 0, stdout = { is = \"x\" } }\n",
        ] {
            let again: Case = toml::from_str(&rewritten_to(form, 1, "a\n")).unwrap();
            assert_eq!(
                (again.expect.stdout.is.unwrap().get_ref().as_str(), *again.expect.exit.get_ref()),
                ("a\n", 1),
                "{form}"
            );
        }
    }

    #[test]
    fn texts_with_controls_are_escaped() {
        let read = |literal: String| toml::from_str::<toml::Table>(&format!("x = {literal}")).unwrap()["x"].clone();
        for text in ["", "a\n", "'''", "\x1b[31m\x7f\n", "it's'"] {
            assert_eq!(read(literal(text)).as_str(), Some(text));
        }
    }
}
