//! `--bless`: rewrites a case's expectation in its file. Comments, layout and matching wildcards stay.

use crate::smokes::case::{Case, Expect, TextExpect};
use crate::smokes::expect::realigned;
use crate::smokes::names::Names;
use crate::sys::child::{End, Finished};
use std::ops::Range;

/// The text of a case file that expects what came out.
pub(crate) fn blessed(file: &str, case: &Case, finished: &Finished, names: &Names) -> anyhow::Result<String> {
    let Expect { exit, stdout, stderr, .. } = case.expect.get_ref();
    let mut changes: Vec<(Range<usize>, String)> = Vec::new();
    let code = if let End::Exited(status) = finished.end { status.code() } else { None };
    if let Some(code) = code.filter(|code| code != exit.get_ref()) {
        changes.push((exit.span(), code.to_string()));
    }
    for (name, expect, bytes) in [("stdout", stdout, &finished.stdout), ("stderr", stderr, &finished.stderr)] {
        let text = String::from_utf8_lossy(bytes);
        if let Some(is) = &expect.is {
            let pattern = realigned(&names.fill(is.get_ref())?, &text);
            changes.push((is.span(), literal(&names.unfill(&pattern))));
        } else if *expect == TextExpect::default() && !text.is_empty() {
            // Nothing was expected so far: it goes after the exit code, into the same table.
            let end = exit.span().end;
            changes.push((end..end, format!("\n{name}.is = {}", literal(&names.unfill(&text)))));
        }
    }
    changes.sort_by_key(|(span, _)| span.start);
    let mut blessed = file.to_owned();
    for (span, text) in changes.into_iter().rev() {
        blessed.replace_range(span, &text);
    }
    Ok(blessed)
}

/// A text as TOML: between `'''` without escapes where possible (TOML 1.0, String).
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

    #[test]
    fn only_what_differs_is_rewritten() {
        let file = "# why\nargs = ['x'] # mine\n\n[expect]\nexit = 0 # zero\nstdout.is = '''\na [..]\nold\n'''\n";
        let case: Case = toml::from_str(file).unwrap();
        let mut names = Names::default();
        names.set("ROOT", "/r");
        let end = End::Exited(ExitStatus::from_raw(2 << 8));
        let finished = Finished { end, stdout: "a b\nnew /r/x\n".into(), stderr: "oh\n".into() };
        let expected = "# why\nargs = ['x'] # mine\n\n[expect]\nexit = 2\nstderr.is = '''\noh\n''' # zero\n\
                        stdout.is = '''\na [..]\nnew [ROOT]/x\n'''\n";
        let result = blessed(file, &case, &finished, &names).unwrap();
        assert_eq!(result, expected);
        let again = blessed(&result, &toml::from_str(&result).unwrap(), &finished, &names).unwrap();
        assert_eq!(again, result, "a blessed case passes");
    }

    #[test]
    fn texts_with_controls_are_escaped() {
        let read = |literal: String| toml::from_str::<toml::Table>(&format!("x = {literal}")).unwrap()["x"].clone();
        for text in ["", "a\n", "'''", "\x1b[31m\x7f\n", "it's'"] {
            assert_eq!(read(literal(text)).as_str(), Some(text));
        }
    }
}
