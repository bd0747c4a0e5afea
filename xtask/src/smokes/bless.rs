//! `--bless`: rewrites a case's expectation in its file. Comments, layout and matching wildcards stay.

use crate::smokes::case::{Case, Expect};
use crate::smokes::expect::realigned;
use crate::smokes::names::Names;
use std::ops::Range;

/// What a program did.
pub(crate) struct Observed {
    /// None if a signal ended it.
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The text of a case file that expects what was observed.
pub(crate) fn blessed(file: &str, case: &Case, observed: &Observed, names: &Names) -> anyhow::Result<String> {
    let Expect { exit, stdout, stderr, .. } = case.expect.get_ref();
    let mut changes: Vec<(Range<usize>, String)> = Vec::new();
    if let Some(code) = observed.exit.filter(|code| code != exit.get_ref()) {
        changes.push((exit.span(), code.to_string()));
    }
    for (name, expect, text) in [("stdout", stdout, &observed.stdout), ("stderr", stderr, &observed.stderr)] {
        if let Some(is) = &expect.is {
            let pattern = realigned(&names.fill(is.get_ref())?, text);
            changes.push((is.span(), literal(&names.unfill(&pattern))));
        } else if expect.expects_nothing() && !text.is_empty() {
            // Nothing was expected so far: it goes after the exit code, into the same table.
            let end = exit.span().end;
            changes.push((end..end, format!("\n{name}.is = {}", literal(&names.unfill(text)))));
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
    use crate::smokes::discover::parse;

    #[test]
    fn only_what_differs_is_rewritten() {
        let file = "# why\nargs = ['x'] # mine\n\n[expect]\nexit = 0 # zero\nstdout.is = '''\na [..]\nold\n'''\n";
        let case: Case = parse(file).unwrap();
        let mut names = Names::default();
        names.set("ROOT", "/r");
        let observed = Observed { exit: Some(2), stdout: "a b\nnew /r/x\n".into(), stderr: "oh\n".into() };
        let expected = "# why\nargs = ['x'] # mine\n\n[expect]\nexit = 2\nstderr.is = '''\noh\n''' # zero\n\
                        stdout.is = '''\na [..]\nnew [ROOT]/x\n'''\n";
        let result = blessed(file, &case, &observed, &names).unwrap();
        assert_eq!(result, expected);
        let again = blessed(&result, &parse(&result).unwrap(), &observed, &names).unwrap();
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
