//! Compares what a program printed with what was expected: byte for byte, and within bounds, whatever it printed.

use crate::smokes::case::TextExpect;
use crate::smokes::names::Names;
use crate::smokes::pattern::{self, Line, Parts, lines};
use crate::text::printable;

/// Maximum number of lines shown of a text or of a difference.
const MAX_LINES_SHOWN: usize = 200;

/// Maximum number of lines, from the first that differs, that are aligned to find a difference.
const MAX_LINES_DIFFED: usize = 400;

/// A line of output, safe to show.
pub(crate) fn shown(line: &[u8]) -> String {
    // Such a line would be a command to GitHub, wherever in the line it is (workflow commands, version 1).
    printable(line.strip_suffix(b"\n").unwrap_or(line)).replace("##[", "##\\[")
}

/// The first lines of an output, safe to show: behind a bar they are neither lines of ours nor commands to GitHub.
pub(crate) fn excerpt(text: &[u8]) -> String {
    bounded(lines(text).map(|line| format!("  | {}", shown(line))))
}

fn bounded(mut lines: impl Iterator<Item = String>) -> String {
    let text: String = lines.by_ref().take(MAX_LINES_SHOWN).map(|line| line + "\n").collect();
    match lines.count() {
        0 => text,
        more => format!("{text}  … and {more} more lines\n"),
    }
}

/// The first line of `text` that matches a line of a pattern.
pub(crate) fn find_line<'t>(pattern: &str, names: &Names, text: &'t [u8]) -> anyhow::Result<Option<&'t [u8]>> {
    let parts = Parts(names.parts(pattern)?);
    Ok(lines(text).map(|line| line.strip_suffix(b"\n").unwrap_or(line)).find(|line| parts.matches(line)))
}

/// What is wrong with `text`, the output called `name`. Expected lines that start like one of `not_asked` are left out.
pub(crate) fn check_text(
    name: &str,
    expect: &TextExpect,
    names: &Names,
    not_asked: &[&str],
    text: &[u8],
) -> anyhow::Result<Vec<String>> {
    let is_asked = |line: &&str| !not_asked.iter().any(|start| line.starts_with(start));
    let mut problems = Vec::new();
    let nothing = (*expect == TextExpect::default()).then_some("");
    if let Some(whole) = expect.is.as_ref().map(|is| &is.get_ref()[..]).or(nothing) {
        let whole = Pattern::new(whole.split_inclusive('\n').filter(is_asked), names)?;
        if !pattern::matches(&whole.lines, text) {
            let diff = whole.difference(text);
            problems.push(format!("{name} is not as expected (- expected, + got):\n{diff}"));
        }
    }
    for pattern in expect.has.iter().map(String::as_str).filter(is_asked) {
        if find_line(pattern, names, text)?.is_none() {
            problems.push(format!("{name} lacks the line `{}`; it is:\n{}", printable(pattern), excerpt(text)));
        }
    }
    for pattern in &expect.lacks {
        if let Some(found) = find_line(pattern, names, text)? {
            problems.push(format!("{name} has the line `{}`, which `{}` forbids", shown(found), printable(pattern)));
        }
    }
    Ok(problems)
}

/// The lines of a pattern, as written and as parsed.
struct Pattern<'a> {
    written: Vec<&'a str>,
    lines: Vec<Line>,
}

/// One step of an alignment: the next line of the pattern, of the text, or of both where they match.
struct Step<'a> {
    pattern: Option<&'a str>,
    line: Option<&'a [u8]>,
    /// The line is missing or extra.
    is_wrong: bool,
}

impl<'a> Pattern<'a> {
    fn new(written: impl Iterator<Item = &'a str>, names: &Names) -> anyhow::Result<Pattern<'a>> {
        let written: Vec<&str> = written.collect();
        let lines = written.iter().map(|line| Line::parse(line, names)).collect::<anyhow::Result<Vec<Line>>>()?;
        Ok(Pattern { written, lines })
    }

    /// A line diff of a text that does not match.
    fn difference(&self, text: &[u8]) -> String {
        let same = self.lines.iter().zip(lines(text)).take_while(|(line, found)| line.matches(found)).count();
        let found: Vec<&[u8]> = lines(text).skip(same).take(MAX_LINES_DIFFED).collect();
        let marked = |mark: char, line: &[u8]| {
            let end = if line.ends_with(b"\n") { "" } else { " (no newline at the end)" };
            format!("  {mark} {}{end}", shown(line))
        };
        let step = |Step { pattern, line, is_wrong }: Step| match (pattern, line) {
            (Some(pattern), _) if is_wrong => Some(marked('-', pattern.as_bytes())),
            (_, line) => line.map(|line| marked(if is_wrong { '+' } else { ' ' }, line)),
        };
        let context = lines(text).take(same).map(|line| marked(' ', line));
        let rest = lines(text).skip(same + found.len()).count();
        let rest = (rest > 0).then(|| format!("  … {rest} lines of the output were not compared"));
        bounded(context.chain(self.steps(same, &found).into_iter().filter_map(step)).chain(rest))
    }

    /// Aligns the pattern, without its first `from` lines, with `found`, so that the fewest lines are missing or extra.
    fn steps<'s>(&'s self, from: usize, found: &[&'s [u8]]) -> Vec<Step<'s>> {
        let expected = &self.lines[from..][..(self.lines.len() - from).min(MAX_LINES_DIFFED)];
        let is_any = |e: usize| matches!(expected.get(e), Some(Line::Any));
        let matches = |e: usize, g: usize| expected[e].matches(found[g]);
        // How many lines are missing or extra from each pair of positions on.
        let mut costs = vec![vec![0; found.len() + 1]; expected.len() + 1];
        costs[expected.len()] = (0..=found.len()).rev().collect();
        for e in (0..expected.len()).rev() {
            let cost = usize::from(!is_any(e));
            costs[e][found.len()] = costs[e + 1][found.len()] + cost;
            for g in (0..found.len()).rev() {
                let (same, other) = (costs[e + 1][g + 1], costs[e + 1][g].min(costs[e][g + 1]) + cost);
                costs[e][g] = if matches(e, g) { same } else { other };
            }
        }
        let mut steps = Vec::new();
        let (mut e, mut g) = (0, 0);
        while e < expected.len() || g < found.len() {
            let is_same = e < expected.len() && g < found.len() && matches(e, g);
            let is_pattern_next = g == found.len() || (e < expected.len() && costs[e + 1][g] <= costs[e][g + 1]);
            let is_wrong = !is_same && !is_any(e);
            let pattern = (is_same || is_pattern_next).then(|| self.written[from + e]);
            let line = (is_same || !is_pattern_next).then(|| found[g]);
            e += usize::from(pattern.is_some());
            g += usize::from(line.is_some());
            steps.push(Step { pattern, line, is_wrong });
        }
        steps
    }
}

/// The pattern that matches `text` and is closest to `written`: matching lines stay as they are. None if the text is
/// too long for that, or cannot be written.
pub(crate) fn realigned(written: &str, text: &[u8], names: &Names) -> anyhow::Result<Option<String>> {
    let pattern = Pattern::new(written.split_inclusive('\n'), names)?;
    let found: Vec<&[u8]> = lines(text).take(MAX_LINES_DIFFED + 1).collect();
    let is_writable = str::from_utf8(text).is_ok() && !found.contains(&&b"...\n"[..]);
    if found.len().max(pattern.lines.len()) > MAX_LINES_DIFFED || !is_writable {
        return Ok(None);
    }
    let line = |Step { pattern, line, is_wrong }: Step| match (pattern, line) {
        (Some(pattern), _) if !is_wrong => Some(pattern.to_owned()),
        (_, line) if is_wrong => line.map(|line| names.unfill(&String::from_utf8_lossy(line))),
        _ => None,
    };
    Ok(Some(pattern.steps(0, &found).into_iter().filter_map(line).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str, not_asked: &[&str], text: &[u8]) -> Vec<String> {
        check_text("stdout", &toml::from_str(toml).unwrap(), &Names::default(), not_asked, text).unwrap()
    }

    #[test]
    fn the_originals_are_not_asked_for_our_lines() {
        let ours = "is = \"state: x\\nage: 1\\nnext: y\\n\"\nhas = ['note: z', 'state: x']";
        assert_eq!(check(ours, &["age: ", "note: ", "next: "], b"state: x\n"), [""; 0]);
        assert_eq!(check("has = ['note: z']", &["note: "], b"state: x\n"), [""; 0]);
    }

    #[test]
    fn a_realigned_pattern_keeps_what_matched() {
        let is = |written: &str, text: &str| realigned(written, text.as_bytes(), &Names::default()).unwrap();
        let cases = [
            ("a[..]\n...\nold\nz\n", "abc\n1\n2\nnew\nz\n", "a[..]\n...\nz\n"),
            ("a[..]\nold\n", "abc\nnew [..]\n", "a[..]\nnew [[]..]\n"),
            ("", "x\n", "x\n"),
            ("...\nz\n", "z\n", "...\nz\n"),
        ];
        for (written, text, expected) in cases {
            assert_eq!(is(written, text).as_deref(), Some(expected), "{written}");
        }
        assert_eq!((is("a\n", "b").as_deref(), is("", &"x\n".repeat(500))), (Some("b"), None));
        assert_eq!(realigned("", b"\xff\n", &Names::default()).unwrap(), None);
    }

    #[test]
    fn differences_are_shown_line_by_line() {
        let is = |written: &str, text: &str| {
            Pattern::new(written.split_inclusive('\n'), &Names::default()).unwrap().difference(text.as_bytes())
        };
        assert_eq!(is("a\nb\nc\n", "a\nx\nc\n"), "    a\n  - b\n  + x\n    c\n");
        assert_eq!(is("a\n", "a"), "  - a\n  + a (no newline at the end)\n");
        assert_eq!(is("", "x\r\n::error::x ##[error]\x1b[31m\n"), "  + x\\r\n  + ::error::x ##\\[error]\\x1b[31m\n");
        assert!(is("a\n...\nb\n", "a\n1\n2\nc\n").contains("  - b\n"));
    }

    #[test]
    fn a_flood_is_shown_in_part() {
        let flood = "y\n".repeat(1 << 20);
        let problems = check("is = \"a\\n\"\nhas = ['z']", &[], flood.as_bytes());
        assert!(
            problems.len() == 2 && problems.iter().all(|problem| problem.lines().count() <= 202),
            "{}",
            problems[0]
        );
        assert!(problems[0].ends_with(" more lines\n") && problems[1].ends_with(" more lines\n"));
    }

    #[test]
    fn an_invalid_byte_is_only_itself() {
        let lacks = |pattern: &str| check(&format!("has = ['{pattern}']"), &[], b"a\xffb\n");
        assert_eq!(lacks("a[..]b"), [""; 0]);
        for pattern in ["a\u{fffd}b", "ab", r"a\xffb", "aÿb"] {
            assert!(lacks(pattern)[0].ends_with("\n  | a\\xffb\n"), "{pattern}");
        }
    }

    #[test]
    fn every_wrong_expectation_is_a_problem() {
        let problems = |toml: &str| check(toml, &[], b"one\ntwo\n").len();
        assert_eq!(problems("is = \"one\\ntwo\\n\""), 0);
        assert_eq!(problems("is = \"one\\n\""), 1);
        assert_eq!(problems("has = ['two', 'o[..]']"), 0);
        assert_eq!(problems("has = ['tw', 'three']"), 2);
        assert_eq!(problems("lacks = ['three']"), 0);
        assert_eq!(problems("lacks = ['t[..]']"), 1);
        assert_eq!(problems(""), 1, "nothing expected means nothing may come");
        assert_eq!(check("is = \"a\\n\"", &[], b"a\r\n").len(), 1, "CR is not LF");
    }
}
