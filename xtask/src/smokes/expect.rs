//! Compares what a program printed with what was expected.

use crate::smokes::case::TextExpect;
use crate::smokes::names::Names;
use crate::text::indented;

/// Matches any part of one line.
const ANY: &str = "[..]";

/// How lines start that this program adds to those of the shell originals.
pub(crate) const ADDED: [&str; 5] = ["age: ", "open in: ", "waiting: ", "note: ", "next: "];

/// As a line of its own, matches any number of lines.
const ANY_LINES: &str = "...";

/// What is wrong with `text`, which is called `name`. Expected lines that start like one of `not_asked` are
/// left out.
pub(crate) fn check_text(
    name: &str,
    expect: &TextExpect,
    names: &Names,
    not_asked: &[&str],
    text: &str,
) -> anyhow::Result<Vec<String>> {
    let is_asked = |line: &&str| !not_asked.iter().any(|start| line.starts_with(start));
    let mut problems = Vec::new();
    let nothing = (*expect == TextExpect::default()).then_some("");
    if let Some(whole) = expect.is.as_ref().map(|is| &is.get_ref()[..]).or(nothing) {
        let whole: String = names.fill(whole)?.split_inclusive('\n').filter(is_asked).collect();
        let diff = difference(&whole, text);
        problems.extend(diff.map(|diff| format!("{name} is not as expected (- expected, + got):\n{diff}")));
    }
    for pattern in expect.has.iter().filter(|line| is_asked(&&line[..])) {
        let pattern = names.fill(pattern)?;
        if !text.lines().any(|line| line_matches(&pattern, line)) {
            problems.push(format!("{name} lacks the line `{pattern}`; it is:\n{}", indented("  ", text)));
        }
    }
    for pattern in &expect.lacks {
        let pattern = names.fill(pattern)?;
        if let Some(line) = text.lines().find(|line| line_matches(&pattern, line)) {
            problems.push(format!("{name} has the line `{line}`, which `{pattern}` forbids"));
        }
    }
    Ok(problems)
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

/// One step on the way from a pattern to a text: the next line of one of them, or of both where they match.
struct Step<'a> {
    pattern: Option<&'a str>,
    line: Option<&'a str>,
    /// Nothing matches it: the line is missing or extra.
    is_wrong: bool,
}

/// A line diff if `text` does not match `pattern`.
fn difference(pattern: &str, text: &str) -> Option<String> {
    let steps = steps(pattern, text);
    if !steps.iter().any(|step| step.is_wrong) {
        let ends_alike = pattern.is_empty() || text.is_empty() || pattern.ends_with('\n') == text.ends_with('\n');
        return (!ends_alike).then(|| "  (the last line's end differs)\n".to_owned());
    }
    let shown = steps.iter().filter_map(|Step { pattern, line, is_wrong }| match (pattern, line) {
        (Some(pattern), _) if *is_wrong => Some(format!("  - {pattern}\n")),
        (_, line) => line.map(|line| format!("  {} {line}\n", if *is_wrong { '+' } else { ' ' })),
    });
    Some(shown.collect())
}

/// The pattern that matches `text` and is as close to `pattern` as possible: matching lines keep their
/// wildcards.
pub(crate) fn realigned(pattern: &str, text: &str) -> String {
    let steps = steps(pattern, text).into_iter();
    let lines = steps.filter_map(|Step { pattern, line, is_wrong }| if is_wrong { line } else { pattern });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The shortest way from `pattern` to `text`: with the fewest lines missing or extra.
fn steps<'a>(pattern: &'a str, text: &'a str) -> Vec<Step<'a>> {
    let (expected, got): (Vec<&str>, Vec<&str>) = (pattern.lines().collect(), text.lines().collect());
    let matches = |e: usize, g: usize| expected[e] != ANY_LINES && line_matches(expected[e], got[g]);
    // The length of the way from each pair of positions to the ends.
    let mut costs = vec![vec![0; got.len() + 1]; expected.len() + 1];
    costs[expected.len()] = (0..=got.len()).rev().collect();
    for e in (0..expected.len()).rev() {
        let cost = usize::from(expected[e] != ANY_LINES);
        costs[e][got.len()] = costs[e + 1][got.len()] + cost;
        for g in (0..got.len()).rev() {
            let (same, other) = (costs[e + 1][g + 1], costs[e + 1][g].min(costs[e][g + 1]) + cost);
            costs[e][g] = if matches(e, g) { same } else { other };
        }
    }
    let mut steps = Vec::new();
    let (mut e, mut g) = (0, 0);
    while e < expected.len() || g < got.len() {
        let is_same = e < expected.len() && g < got.len() && matches(e, g);
        let is_pattern_next = g == got.len() || (e < expected.len() && costs[e + 1][g] <= costs[e][g + 1]);
        let is_wrong = !is_same && expected.get(e) != Some(&ANY_LINES);
        let pattern = (is_same || is_pattern_next).then(|| expected[e]);
        let line = (is_same || !is_pattern_next).then(|| got[g]);
        e += usize::from(pattern.is_some());
        g += usize::from(line.is_some());
        steps.push(Step { pattern, line, is_wrong });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str, not_asked: &[&str], text: &str) -> Vec<String> {
        check_text("stdout", &toml::from_str(toml).unwrap(), &Names::default(), not_asked, text).unwrap()
    }

    #[test]
    fn the_originals_are_not_asked_for_our_lines() {
        let ours = "is = \"state: x\\nage: 1\\nnext: y\\n\"\nhas = ['note: z', 'state: x']";
        assert_eq!(check(ours, &ADDED, "state: x\n"), [""; 0]);
        assert_eq!(check("has = ['note: z']", &ADDED, "state: x\n"), [""; 0]);
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
        let problems = |toml: &str| check(toml, &[], "one\ntwo\n").len();
        assert_eq!(problems("is = \"one\\ntwo\\n\""), 0);
        assert_eq!(problems("is = \"one\\n\""), 1);
        assert_eq!(problems("has = ['two', 'o[..]']"), 0);
        assert_eq!(problems("has = ['tw', 'three']"), 2);
        assert_eq!(problems("lacks = ['three']"), 0);
        assert_eq!(problems("lacks = ['t[..]']"), 1);
        assert_eq!(problems(""), 1, "nothing expected means nothing may come");
    }
}
