//! Compares what a program printed with what was expected.

use crate::smokes::case::{Text, TextExpect};
use crate::smokes::names::Names;
use crate::text::indented;
use std::fmt::Write;

/// Matches any part of one line.
const ANY: &str = "[..]";

/// How lines start that the shell originals do not have.
const ADDED: [&str; 5] = ["age: ", "open in: ", "waiting: ", "note: ", "next: "];

/// As a line of its own, matches any number of lines.
const ANY_LINES: &str = "...";

/// An expectation with its placeholders filled in.
pub(crate) struct Filled {
    is: Option<String>,
    has: Vec<String>,
    lacks: Vec<String>,
}

impl TextExpect {
    pub(crate) fn filled(&self, names: &Names) -> anyhow::Result<Filled> {
        let fill = |text: &Text| names.fill(text.get_ref());
        let nothing = self.expects_nothing().then(String::new);
        Ok(Filled {
            is: self.is.as_ref().map(fill).transpose()?.or(nothing),
            has: self.has.iter().map(fill).collect::<anyhow::Result<_>>()?,
            lacks: self.lacks.iter().map(fill).collect::<anyhow::Result<_>>()?,
        })
    }
}

impl Filled {
    /// Without the lines that this program adds to those of the shell originals.
    pub(crate) fn without_additions(self) -> Filled {
        let is_original = |line: &&str| !ADDED.iter().any(|added| line.starts_with(added));
        let keep = |lines: Vec<String>| lines.into_iter().filter(|line| is_original(&&line[..])).collect();
        let is = self.is.map(|is| is.lines().filter(is_original).fold(String::new(), |all, line| all + line + "\n"));
        Filled { is, has: keep(self.has), lacks: self.lacks }
    }
}

/// What is wrong with `text`, which is called `name`.
pub(crate) fn check_text(name: &str, expect: &Filled, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    if let Some(whole) = &expect.is {
        problems.extend(
            difference(whole, text).map(|diff| format!("{name} is not as expected (- expected, + got):\n{diff}")),
        );
    }
    for pattern in &expect.has {
        if !lines.iter().any(|line| line_matches(pattern, line)) {
            problems.push(format!("{name} lacks the line `{pattern}`; it is:\n{}", indented("  ", text)));
        }
    }
    for pattern in &expect.lacks {
        if let Some(line) = lines.iter().find(|line| line_matches(pattern, line)) {
            problems.push(format!("{name} has the line `{line}`, which `{pattern}` forbids"));
        }
    }
    problems
}

/// Whether `line` matches `pattern`, in which `[..]` matches anything.
pub(crate) fn line_matches(pattern: &str, line: &str) -> bool {
    let Some((first, mut patterns)) = pattern.split_once(ANY) else { return pattern == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    while let Some((part, after)) = patterns.split_once(ANY) {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        patterns = after;
    }
    rest.ends_with(patterns)
}

/// One step on the way from a pattern to a text.
enum Edit<'a> {
    /// A line that matches the pattern's.
    Same {
        pattern: &'a str,
        line: &'a str,
    },
    /// The line `...` itself, before the lines that it matches.
    AnyLines,
    /// A line matched by `...`.
    Any(&'a str),
    Missing(&'a str),
    Extra(&'a str),
}

/// A line diff if `text` does not match `pattern`.
fn difference(pattern: &str, text: &str) -> Option<String> {
    let edits = edits(pattern, text);
    if edits.iter().all(|edit| !matches!(edit, Edit::Missing(_) | Edit::Extra(_))) {
        let ends_alike = pattern.is_empty() || text.is_empty() || pattern.ends_with('\n') == text.ends_with('\n');
        return (!ends_alike).then(|| "  (the last line's end differs)\n".to_owned());
    }
    let mut diff = String::new();
    for edit in edits {
        _ = match edit {
            Edit::Same { line, .. } | Edit::Any(line) => writeln!(diff, "    {line}"),
            Edit::Missing(pattern) => writeln!(diff, "  - {pattern}"),
            Edit::Extra(line) => writeln!(diff, "  + {line}"),
            Edit::AnyLines => Ok(()),
        };
    }
    Some(diff)
}

/// The pattern that matches `text` and is as close to `pattern` as possible: matching lines keep their
/// wildcards.
pub(crate) fn realigned(pattern: &str, text: &str) -> String {
    edits(pattern, text).iter().fold(String::new(), |all, edit| match edit {
        Edit::Same { pattern: line, .. } | Edit::Extra(line) => all + line + "\n",
        Edit::AnyLines => all + ANY_LINES + "\n",
        Edit::Any(_) | Edit::Missing(_) => all,
    })
}

/// The shortest way from `pattern` to `text`.
fn edits<'a>(pattern: &'a str, text: &'a str) -> Vec<Edit<'a>> {
    let (expected, got): (Vec<&str>, Vec<&str>) = (pattern.lines().collect(), text.lines().collect());
    let costs = costs(&expected, &got);
    let mut edits = Vec::new();
    let (mut e, mut g, mut is_within_any) = (0, 0, false);
    while e < expected.len() || g < got.len() {
        let here = costs[e][g];
        if expected.get(e) == Some(&ANY_LINES) {
            if !is_within_any {
                edits.push(Edit::AnyLines);
            }
            // Otherwise it matches the next line.
            is_within_any = costs[e + 1][g] != here;
            if is_within_any {
                edits.push(Edit::Any(got[g]));
                g += 1;
            } else {
                e += 1;
            }
        } else if g < got.len() && matches_at(&expected, e, got[g]) && costs[e + 1][g + 1] == here {
            edits.push(Edit::Same { pattern: expected[e], line: got[g] });
            (e, g) = (e + 1, g + 1);
        } else if e < expected.len() && costs[e + 1][g] + 1 == here {
            edits.push(Edit::Missing(expected[e]));
            e += 1;
        } else {
            edits.push(Edit::Extra(got[g]));
            g += 1;
        }
    }
    edits
}

/// The number of lines to add or remove from each pair of positions to the ends.
fn costs(expected: &[&str], got: &[&str]) -> Vec<Vec<usize>> {
    let mut costs = vec![vec![0; got.len() + 1]; expected.len() + 1];
    for e in (0..=expected.len()).rev() {
        for g in (0..=got.len()).rev() {
            let is_any = expected.get(e) == Some(&ANY_LINES);
            let step = usize::from(!is_any);
            let mut ways = Vec::with_capacity(3);
            ways.extend((e < expected.len()).then(|| costs[e + 1][g] + step));
            ways.extend((g < got.len()).then(|| costs[e][g + 1] + step));
            ways.extend((g < got.len() && matches_at(expected, e, got[g])).then(|| costs[e + 1][g + 1]));
            costs[e][g] = ways.into_iter().min().unwrap_or(0);
        }
    }
    costs
}

fn matches_at(expected: &[&str], at: usize, line: &str) -> bool {
    expected.get(at).is_some_and(|pattern| line_matches(pattern, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(toml: &str) -> Filled {
        toml::from_str::<TextExpect>(toml).unwrap().filled(&Names::default()).unwrap()
    }

    #[test]
    fn the_originals_are_not_asked_for_our_lines() {
        let ours = expect("is = \"state: x\\nage: 1\\nnext: y\\n\"\nhas = ['note: z', 'state: x']");
        assert_eq!(check_text("stdout", &ours.without_additions(), "state: x\n"), [""; 0]);
        let only_ours = expect("has = ['note: z']");
        assert_eq!(check_text("stdout", &only_ours.without_additions(), "state: x\n"), [""; 0]);
    }

    #[test]
    fn a_realigned_pattern_keeps_what_matched() {
        assert_eq!(realigned("a[..]\n...\nold\nz\n", "abc\n1\n2\nnew\nz\n"), "a[..]\n...\nz\n");
        assert_eq!(realigned("a[..]\nold\n", "abc\nnew\n"), "a[..]\nnew\n");
        assert_eq!(realigned("", "x\n"), "x\n");
        assert_eq!(realigned("...\nz\n", "z\n"), "...\nz\n");
    }

    #[test]
    fn wildcards_match_any_part_of_a_line() {
        for pattern in ["abc", "[..]", "a[..]", "[..]c", "a[..]c", "[..]b[..]", "abc[..]", "[..]a[..]b[..]c[..]"] {
            assert!(line_matches(pattern, "abc"), "{pattern}");
        }
        for pattern in ["", "ab", "b[..]", "[..]b", "ab[..]bc", "a[..]x[..]c", "abcd[..]"] {
            assert!(!line_matches(pattern, "abc"), "{pattern}");
        }
    }

    #[test]
    fn whole_texts_are_compared_line_by_line() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(difference("a\n[..]\n...\nz\n", "a\nb\nc\nd\nz\n"), None);
        assert_eq!(difference("...\n", ""), None);
        assert_eq!(difference("a\n", "a"), Some("  (the last line's end differs)\n".into()));
        assert_eq!(difference("a\nb\nc\n", "a\nx\nc\n"), Some("    a\n  - b\n  + x\n    c\n".into()));
        assert_eq!(difference("", "x\n"), Some("  + x\n".into()));
        assert!(difference("a\n...\nb\n", "a\n1\n2\nc\n").unwrap().contains("  - b\n"));
    }

    #[test]
    fn every_wrong_expectation_is_a_problem() {
        let problems = |toml: &str| check_text("stdout", &expect(toml), "one\ntwo\n").len();
        assert_eq!(problems("is = \"one\\ntwo\\n\""), 0);
        assert_eq!(problems("is = \"one\\n\""), 1);
        assert_eq!(problems("has = ['two', 'o[..]']"), 0);
        assert_eq!(problems("has = ['tw', 'three']"), 2);
        assert_eq!(problems("lacks = ['three']"), 0);
        assert_eq!(problems("lacks = ['t[..]']"), 1);
        assert_eq!(problems(""), 1, "nothing expected means nothing may come");
    }
}
