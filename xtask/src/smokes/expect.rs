//! Compares what a program printed with what was expected: byte for byte, and within bounds, whatever it printed.

use crate::smokes::case::TextExpect;
use crate::smokes::names::Names;
use crate::smokes::pattern::{self, Line, Parts, is_open, lines};
use crate::text::printable;
use anyhow::ensure;

/// Maximum number of lines shown of a text or of a difference.
const MAX_LINES_SHOWN: usize = 200;

/// Maximum number of lines, from the first that differs, that are aligned to find a difference.
const MAX_LINES_DIFFED: usize = 400;

/// Number of equal lines shown before and after those that differ.
const CONTEXT_LINES: usize = 10;

/// What the steps of an alignment cost: a line that is missing or extra, one in place of another, and one that a `...`
/// stands for. A line is rather replaced than lost in a `...`, and the rest is rather moved than replaced.
const WRONG: usize = 4;
const REPLACED: usize = 5;
const ABSORBED: usize = 2;

/// A line of output, safe to show.
pub(crate) fn shown(line: &[u8]) -> String {
    // Such a line would be a command to GitHub, wherever in the line it is (workflow commands, version 1).
    printable(line).replace("##[", "##\\[")
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

/// The rows of a diff that are marked, with a few around each.
fn shortened(rows: &[(char, &[u8])]) -> impl Iterator<Item = String> {
    let is_near = |at: usize| {
        let near = &rows[at.saturating_sub(CONTEXT_LINES)..rows.len().min(at + CONTEXT_LINES + 1)];
        near.iter().any(|(mark, _)| *mark != ' ')
    };
    (0..rows.len()).filter_map(move |at| match is_near(at) {
        true => Some(format!("  {} {}", rows[at].0, shown(rows[at].1))),
        // Once for all that are left out.
        false => (at == 0 || is_near(at - 1)).then(|| "    …".to_owned()),
    })
}

/// The first line of `text` that matches a line of a pattern.
pub(crate) fn find_line<'t>(pattern: &str, names: &Names, text: &'t [u8]) -> anyhow::Result<Option<&'t [u8]>> {
    ensure!(!pattern.contains('\n'), "`{}` is more than a line", printable(pattern));
    let parts = Parts(names.parts(pattern)?);
    Ok(lines(text).find(|line| parts.matches(line)))
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
        let whole = Pattern::new(whole, is_asked, names)?;
        if !whole.matches(text) {
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
    /// Its last line has no LF.
    is_open: bool,
}

/// One step of an alignment: the next line of the pattern, of the text, or of both.
struct Step<'a> {
    pattern: Option<&'a str>,
    line: Option<&'a [u8]>,
    /// The line is missing, extra or another.
    is_wrong: bool,
}

impl<'a> Pattern<'a> {
    fn new(text: &'a str, is_asked: impl Fn(&&str) -> bool, names: &Names) -> anyhow::Result<Pattern<'a>> {
        let written: Vec<&str> = text.split_terminator('\n').filter(is_asked).collect();
        let lines = written.iter().map(|line| Line::parse(line, names)).collect::<anyhow::Result<Vec<Line>>>()?;
        Ok(Pattern { written, lines, is_open: is_open(text.as_bytes()) })
    }

    fn matches(&self, text: &[u8]) -> bool {
        self.is_open == is_open(text) && pattern::matches(&self.lines, text)
    }

    /// A line diff of a text that does not match.
    fn difference(&self, text: &[u8]) -> String {
        let same = self.lines.iter().zip(lines(text)).take_while(|(line, found)| line.matches(found)).count();
        let found: Vec<&[u8]> = lines(text).skip(same).take(MAX_LINES_DIFFED).collect();
        let mut rows: Vec<(char, &[u8])> = lines(text).take(same).map(|line| (' ', line)).collect();
        for Step { pattern, line, is_wrong } in self.steps(same, &found) {
            rows.extend(pattern.filter(|_| is_wrong).map(|pattern| ('-', pattern.as_bytes())));
            rows.extend(line.map(|line| (if is_wrong { '+' } else { ' ' }, line)));
        }
        let mut shown = bounded(shortened(&rows));
        for (number, what) in [(self.lines.len(), "expected lines"), (lines(text).count(), "lines of the output")] {
            if let left @ 1.. = number.saturating_sub(same + MAX_LINES_DIFFED) {
                shown += &format!("  … {left} {what} were not compared\n");
            }
        }
        if self.is_open != is_open(text) {
            shown += "  only one of them ends with a newline\n";
        }
        shown
    }

    /// Aligns the pattern, without its first `from` lines, with `found`, so that the least is wrong.
    fn steps<'s>(&'s self, from: usize, found: &[&'s [u8]]) -> Vec<Step<'s>> {
        let expected = &self.lines[from..][..(self.lines.len() - from).min(MAX_LINES_DIFFED)];
        // What the best next step costs, what it and all that follow cost, and where it leads.
        let next = |costs: &[Vec<usize>], e: usize, g: usize| {
            let is_any = matches!(expected.get(e), Some(Line::Any));
            let (pattern, line) = (expected.get(e), found.get(g));
            let both = pattern.zip(line).filter(|_| !is_any);
            let steps = [
                both.map(|(pattern, line)| (if pattern.matches(line) { 0 } else { REPLACED }, e + 1, g + 1)),
                pattern.map(|_| (if is_any { 0 } else { WRONG }, e + 1, g)),
                line.map(|_| (if is_any { ABSORBED } else { WRONG }, e, g + 1)),
            ];
            let steps = steps.into_iter().flatten().map(|(cost, e, g)| (cost, cost + costs[e][g], e, g));
            steps.min_by_key(|(_, all, ..)| *all)
        };
        let mut costs = vec![vec![0; found.len() + 1]; expected.len() + 1];
        for e in (0..=expected.len()).rev() {
            for g in (0..=found.len()).rev() {
                costs[e][g] = next(&costs, e, g).map_or(0, |(_, all, ..)| all);
            }
        }
        let (mut steps, mut e, mut g) = (Vec::new(), 0, 0);
        while let Some((cost, _, next_e, next_g)) = next(&costs, e, g) {
            let pattern = (next_e > e).then(|| self.written[from + e]);
            steps.push(Step { pattern, line: (next_g > g).then(|| found[g]), is_wrong: cost >= WRONG });
            (e, g) = (next_e, next_g);
        }
        steps
    }
}

/// The pattern that matches `text` and is closest to `written`: matching lines stay as they are. None if the text is
/// too long for that, or cannot be written.
pub(crate) fn realigned(written: &str, text: &[u8], names: &Names) -> anyhow::Result<Option<String>> {
    let pattern = Pattern::new(written, |_| true, names)?;
    if pattern.matches(text) {
        return Ok(Some(written.to_owned()));
    }
    let found: Vec<&[u8]> = lines(text).take(MAX_LINES_DIFFED + 1).collect();
    let is_writable = str::from_utf8(text).is_ok() && !found.contains(&&b"..."[..]);
    if found.len().max(pattern.lines.len()) > MAX_LINES_DIFFED || !is_writable {
        return Ok(None);
    }
    let line = |Step { pattern, line, is_wrong }: Step| match pattern.filter(|_| !is_wrong) {
        Some(pattern) => Some(pattern.to_owned()),
        None => line.filter(|_| is_wrong).map(|line| names.unfill(&String::from_utf8_lossy(line))),
    };
    let lines: Vec<String> = pattern.steps(0, &found).into_iter().filter_map(line).collect();
    if !lines.is_empty() && lines.iter().all(|line| line == "..." || line.replace("[..]", "").is_empty()) {
        // That would match nearly anything.
        return Ok(None);
    }
    Ok(Some(lines.join("\n") + if lines.is_empty() || is_open(text) { "" } else { "\n" }))
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
            ("a[..]\n...\nold\nz\n", "abc\n1\n2\nnew\nz\n", "a[..]\n...\nnew\nz\n"),
            ("state: held\n...\n", "error\nmore\n", "error\n...\n"),
            ("a\nb\nc\n", "b\nc\nd\n", "b\nc\nd\n"),
            ("a[..]\nold\n", "abc\nnew [..]\n", "a[..]\nnew [[]..]\n"),
            ("", "x\n", "x\n"),
            ("a\n", "a", "a"),
            ("x\n", "", ""),
            ("...\nz\n", "z\n", "...\nz\n"),
        ];
        for (written, text, expected) in cases {
            assert_eq!(is(written, text).as_deref(), Some(expected), "{written}");
        }
        for (written, text) in [
            ("", &"x\n".repeat(500)[..]),
            ("", "...\n"),
            ("", "a\n..."),
            ("state: held\n...\n", ""),
            ("[..]\nz\n", "q\n"),
        ] {
            assert_eq!(is(written, text), None, "{text}");
        }
        assert_eq!(realigned("", b"\xff\n", &Names::default()).unwrap(), None);
    }

    #[test]
    fn differences_are_shown_line_by_line() {
        let is = |written: &str, text: &str| {
            Pattern::new(written, |_| true, &Names::default()).unwrap().difference(text.as_bytes())
        };
        assert_eq!(is("a\nb\nc\n", "a\nx\nc\n"), "    a\n  - b\n  + x\n    c\n");
        assert_eq!(is("a\n", "a"), "    …\n  only one of them ends with a newline\n");
        assert_eq!(is("", "x\r\n::error::x ##[error]\x1b[31m\n"), "  + x\\r\n  + ::error::x ##\\[error]\\x1b[31m\n");
        assert!(is("a\n...\nb\n", "a\n1\n2\nc\n").contains("  - b\n"));
        let (many, far) = ("x\n".repeat(300), format!("{}y\nz\n", "x\n".repeat(299)));
        let shown = format!("    …\n{}  - x\n  + y\n  + z\n", "    x\n".repeat(10));
        assert_eq!(is(&many, &far), shown, "it is what differs that is shown");
    }

    #[test]
    fn a_flood_is_shown_in_part() {
        let flood = "y\n".repeat(1 << 20);
        let problems = check("is = \"a\\n\"\nhas = ['z']", &[], flood.as_bytes());
        assert!(
            problems.len() == 2 && problems.iter().all(|problem| problem.lines().count() <= 203),
            "{}",
            problems[0]
        );
        assert!(problems[0].ends_with("  … 1048176 lines of the output were not compared\n"), "{}", problems[0]);
        assert!(problems[1].ends_with("  … and 1048376 more lines\n"), "{}", problems[1]);
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
