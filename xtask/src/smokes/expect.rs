//! Compares what a program printed with what was expected: byte for byte, and within bounds, whatever it printed.

use crate::smokes::case::TextExpect;
use crate::smokes::names::Names;
use crate::smokes::pattern::{self, Line, lines};
use crate::text::printable;

/// Maximum number of lines shown of a text or of a difference.
const MAX_LINES_SHOWN: usize = 200;

/// Maximum number of lines, from the first that differs, that are aligned to find a difference.
const MAX_LINES_DIFFED: usize = 400;

/// The first words of the lines that this program prints and the shell originals do not.
pub(crate) const ADDED: [&str; 6] = ["age: ", "open in: ", "activity: ", "waiting: ", "note: ", "next: "];

/// Invalid bytes become the characters from here on, in private use plane 16, so that they match only themselves.
const INVALID_BYTES: u32 = 0x0010_fe00;

/// Output as text. A byte that is not UTF-8 becomes a private character.
pub(crate) fn decoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // One of the private characters itself is as good as invalid: else it would match such a byte.
            match (INVALID_BYTES..INVALID_BYTES + 256).contains(&(c as u32)) {
                true => text.extend(c.encode_utf8(&mut [0; 4]).bytes().filter_map(private)),
                false => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().copied().filter_map(private));
    }
    text
}

fn private(byte: u8) -> Option<char> {
    char::from_u32(INVALID_BYTES + u32::from(byte))
}

/// A line of output, safe to show.
pub(crate) fn shown(line: &str) -> String {
    let mut bytes = Vec::with_capacity(line.len());
    for c in line.chars() {
        match u8::try_from((c as u32).wrapping_sub(INVALID_BYTES)) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    // Such a line would be a command to GitHub, wherever in the line it is (workflow commands, version 1).
    printable(line).replace("##[", "##\\[")
}

/// The first lines of an output, safe to show: behind a bar they are neither lines of ours nor commands to GitHub.
pub(crate) fn excerpt(text: &str) -> String {
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
pub(crate) fn find_line<'t>(pattern: &str, names: &Names, text: &'t str) -> anyhow::Result<Option<&'t str>> {
    // One line alone is never any number of lines.
    let line = match pattern {
        "..." => Line::Parts(vec![pattern.to_owned()]),
        _ => pattern::line(&decoded(pattern.as_bytes()), names)?,
    };
    Ok(lines(text).find(|found| line.matches(found)))
}

/// What is wrong with `text`, the output called `name`. Expected lines that start like one of `not_asked` are left out.
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
        let whole = decoded(whole.as_bytes());
        let whole = Pattern::new(lines(&whole).filter(is_asked), names)?;
        if !pattern::matches(&whole.lines, text) {
            let diff = whole.difference(text);
            problems.push(format!("{name} is not as expected (- expected, + got):\n{diff}"));
        }
    }
    for pattern in expect.has.iter().map(String::as_str).filter(is_asked) {
        if find_line(pattern, names, text)?.is_none() {
            problems.push(format!("{name} lacks the line `{}`; it is:\n{}", shown(pattern), excerpt(text)));
        }
    }
    for pattern in &expect.lacks {
        if let Some(found) = find_line(pattern, names, text)? {
            problems.push(format!("{name} has the line `{}`, which `{}` forbids", shown(found), shown(pattern)));
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
    line: Option<&'a str>,
    /// The line is missing or extra.
    is_wrong: bool,
}

impl<'a> Pattern<'a> {
    fn new(written: impl Iterator<Item = &'a str>, names: &Names) -> anyhow::Result<Pattern<'a>> {
        let written: Vec<&str> = written.collect();
        let lines = written.iter().map(|line| pattern::line(line, names)).collect::<anyhow::Result<Vec<Line>>>()?;
        Ok(Pattern { written, lines })
    }

    /// A line diff of a text that does not match.
    fn difference(&self, text: &str) -> String {
        let same = self.lines.iter().zip(lines(text)).take_while(|(line, found)| line.matches(found)).count();
        let context = lines(text).take(same).map(|line| format!("    {}", shown(line)));
        let mut rest = lines(text).skip(same);
        let found: Vec<&str> = rest.by_ref().take(MAX_LINES_DIFFED).collect();
        let step = |Step { pattern, line, is_wrong }: Step| match (pattern, line) {
            (Some(pattern), _) if is_wrong => Some(format!("  - {}", shown(pattern))),
            (_, line) => line.map(|line| format!("  {} {}", if is_wrong { '+' } else { ' ' }, shown(line))),
        };
        let diff = self.steps(same, &found).into_iter().filter_map(step);
        let rest = Some(rest.count()).filter(|rest| *rest > 0);
        bounded(context.chain(diff).chain(rest.map(|rest| format!("  … {rest} lines of the output were not compared"))))
    }

    /// Aligns the pattern, without its first `from` lines, with `found`, so that the fewest lines are missing or extra.
    fn steps<'s>(&'s self, from: usize, found: &[&'s str]) -> Vec<Step<'s>> {
        let expected = &self.lines[from..][..(self.lines.len() - from).min(MAX_LINES_DIFFED)];
        let matches = |e: usize, g: usize| expected[e].matches(found[g]);
        // How many lines are missing or extra from each pair of positions on.
        let mut costs = vec![vec![0; found.len() + 1]; expected.len() + 1];
        costs[expected.len()] = (0..=found.len()).rev().collect();
        for e in (0..expected.len()).rev() {
            let cost = usize::from(expected[e] != Line::AnyLines);
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
            let is_wrong = !is_same && expected.get(e) != Some(&Line::AnyLines);
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
/// too long for that, or does not end with a newline.
pub(crate) fn realigned(written: &str, text: &str, names: &Names) -> anyhow::Result<Option<String>> {
    let pattern = Pattern::new(lines(written), names)?;
    let found: Vec<&str> = lines(text).take(MAX_LINES_DIFFED + 1).collect();
    if found.len().max(pattern.lines.len()) > MAX_LINES_DIFFED
        || found.iter().any(|line| matches!(*line, pattern::NO_NEWLINE | "..."))
    {
        return Ok(None);
    }
    let line = |Step { pattern, line, is_wrong }: Step| match (pattern, line) {
        (Some(pattern), _) if !is_wrong => Some(pattern.to_owned()),
        (_, line) if is_wrong => line.map(|line| names.unfill(line)),
        _ => None,
    };
    let steps = pattern.steps(0, &found);
    Ok(Some(steps.into_iter().filter_map(line).map(|line| line + "\n").collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str, not_asked: &[&str], text: &[u8]) -> Vec<String> {
        check_text("stdout", &toml::from_str(toml).unwrap(), &Names::default(), not_asked, &decoded(text)).unwrap()
    }

    #[test]
    fn the_originals_are_not_asked_for_our_lines() {
        let ours = "is = \"state: x\\nage: 1\\nnext: y\\n\"\nhas = ['note: z', 'state: x']";
        assert_eq!(check(ours, &ADDED, b"state: x\n"), [""; 0]);
        assert_eq!(check("has = ['note: z']", &ADDED, b"state: x\n"), [""; 0]);
    }

    #[test]
    fn a_realigned_pattern_keeps_what_matched() {
        let is = |written: &str, text: &str| realigned(written, text, &Names::default()).unwrap();
        let cases = [
            ("a[..]\n...\nold\nz\n", "abc\n1\n2\nnew\nz\n", "a[..]\n...\nz\n"),
            ("a[..]\nold\n", "abc\nnew [..]\n", "a[..]\nnew [[]..]\n"),
            ("", "x\n", "x\n"),
            ("...\nz\n", "z\n", "...\nz\n"),
        ];
        for (written, text, expected) in cases {
            assert_eq!(is(written, text).as_deref(), Some(expected), "{written}");
        }
        assert_eq!((is("a\n", "b"), is("", &"x\n".repeat(500))), (None, None));
    }

    #[test]
    fn differences_are_shown_line_by_line() {
        let is = |written: &str, text: &str| {
            Pattern::new(lines(written), &Names::default()).unwrap().difference(&decoded(text.as_bytes()))
        };
        assert_eq!(is("a\nb\nc\n", "a\nx\nc\n"), "    a\n  - b\n  + x\n    c\n");
        assert_eq!(is("a\n", "a"), "    a\n  + \\ no newline at the end\n");
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
