//! `--bless`: rewrites a case's expectation in its file. Comments, layout and wildcards that match stay.

use crate::smokes::case::{Case, Expect, TextExpect};
use crate::smokes::expect::{decoded, realigned};
use crate::smokes::names::Names;
use crate::smokes::readme;
use crate::sys::child::{End, Finished};
use std::ops::Range;

/// The text of a case file, rewritten to expect what the program printed; None if that is impossible.
pub(crate) fn blessed(
    file: &str,
    case: &Case,
    finished: &Finished,
    names: &Names,
    is_readme: bool,
) -> anyhow::Result<Option<String>> {
    let Expect { exit, stdout, stderr, .. } = case.expect.get_ref();
    let mut changes: Vec<(Range<usize>, String)> = Vec::new();
    let code = if let End::Exited(status) = finished.end { status.code() } else { None };
    if let Some(code) = code.filter(|code| code != exit.get_ref()) {
        if is_readme {
            return Ok(None);
        }
        changes.push((exit.span(), code.to_string()));
    }
    for (name, expect, bytes) in [("stdout", stdout, &finished.stdout), ("stderr", stderr, &finished.stderr)] {
        if expect.is.is_none() && (*expect != TextExpect::default() || bytes.is_empty()) {
            continue;
        }
        let written = expect.is.as_ref().map_or("", |is| is.get_ref());
        let Some(pattern) = realigned(written, &decoded(bytes), names)? else { return Ok(None) };
        match &expect.is {
            // A README shows only standard output.
            Some(is) if is_readme => return Ok(Some(readme::with_output(file, is.span(), &pattern))),
            _ if is_readme => return Ok(None),
            Some(is) => changes.push((is.span(), literal(&pattern))),
            None => changes.push(added(file, exit.span(), name, &pattern)),
        }
    }
    changes.sort_by_key(|(span, _)| span.start);
    let mut blessed = file.to_owned();
    for (span, text) in changes.into_iter().rev() {
        blessed.replace_range(span, &text);
    }
    Ok(Some(blessed))
}

/// Inserts an expectation after the exit code, in the same form of table.
fn added(file: &str, exit: Range<usize>, name: &str, pattern: &str) -> (Range<usize>, String) {
    let line = file[..exit.start].rsplit('\n').next().unwrap_or_default();
    let text = match line.trim().trim_end_matches('=').trim_end().strip_suffix("exit") {
        // A table of its own, or dotted keys: `expect.exit = 0`.
        Some(path) if path.is_empty() || path.ends_with('.') => format!("\n{path}{name}.is = {}", literal(pattern)),
        // An inline table is one line.
        _ => format!(", {name}.is = {}", one_line(pattern)),
    };
    (exit.end..exit.end, text)
}

/// A TOML string: a multi-line literal where possible (TOML 1.0, String).
fn literal(text: &str) -> String {
    let is_plain = |c: char| c == '\n' || c == '\t' || !c.is_control();
    if text.chars().all(is_plain) && !text.contains("'''") && !text.ends_with('\'') {
        return format!("'''\n{text}'''");
    }
    one_line(text)
}

fn one_line(text: &str) -> String {
    // A JSON string is a basic string of TOML, except that TOML wants DEL escaped.
    serde_json::Value::from(text).to_string().replace('\x7f', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn only_what_differs_is_rewritten() {
        let file = "# why\nargs = ['x'] # mine\n\n[expect]\nexit = 0 # zero\nstdout.is = '''\na [..]\nold\n'''\n";
        let case: Case = toml::from_str(file).unwrap();
        let mut names = Names::default();
        names.set("ROOT", "/r");
        let end = End::Exited(ExitStatus::from_raw(2 << 8));
        let finished = Finished { end, stdout: "a b\nnew /r/x\n".into(), stderr: "oh\n".into(), is_cut: false };
        let expected = "# why\nargs = ['x'] # mine\n\n[expect]\nexit = 2\nstderr.is = '''\noh\n''' # zero\n\
                        stdout.is = '''\na [..]\nnew [ROOT]/x\n'''\n";
        let result = blessed(file, &case, &finished, &names, false).unwrap().unwrap();
        assert_eq!(result, expected);
        let again = blessed(&result, &toml::from_str(&result).unwrap(), &finished, &names, false).unwrap();
        assert_eq!(again, Some(result), "a blessed case passes");
    }

    #[test]
    fn every_form_of_table_is_added_to() {
        let end = End::Exited(ExitStatus::from_raw(0));
        let finished = Finished { end, stdout: "a\n".into(), stderr: Vec::new(), is_cut: false };
        for file in
            ["args = []\nexpect.exit = 0\n", "args = []\nexpect = { exit = 0 }\n", "args = []\n[expect]\n  exit = 0\n"]
        {
            let blessed =
                blessed(file, &toml::from_str(file).unwrap(), &finished, &Names::default(), false).unwrap().unwrap();
            let again: Case = toml::from_str(&blessed).unwrap_or_else(|error| panic!("{blessed}: {error}"));
            assert_eq!(again.expect.get_ref().stdout.is.as_ref().unwrap().get_ref(), "a\n", "{blessed}");
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
