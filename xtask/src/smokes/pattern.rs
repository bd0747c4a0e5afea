//! Patterns for texts: lines with wildcards and placeholders.

use crate::smokes::names::Names;

/// As a line of its own, matches any number of lines.
const ANY_LINES: &str = "...";

/// A line of a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    AnyLines,
    /// The literal parts, with any text between one and the next.
    Parts(Vec<String>),
}

/// Maximum number of steps of a comparison: twice the lines of the largest output, and some.
const MAX_STEPS: usize = 20_000_000;

/// Follows a last line that has no newline. With its own LF no line of a text is like it.
pub(crate) const NO_NEWLINE: &str = "\\ no newline at the end\n";

/// The lines of a text, split at LF alone: a CR is part of its line. If the last one has no newline,
/// [`NO_NEWLINE`] follows it.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> + Clone {
    let is_open = !text.is_empty() && !text.ends_with('\n');
    text.split_terminator('\n').chain(is_open.then_some(NO_NEWLINE))
}

/// Reads one line of a pattern: `[..]` is any text, `[NAME]` a value, and `[[]` a bracket.
pub(crate) fn line(line: &str, names: &Names) -> anyhow::Result<Line> {
    if line == ANY_LINES { Ok(Line::AnyLines) } else { Ok(Line::Parts(names.parts(line)?)) }
}

impl Line {
    pub(crate) fn matches(&self, line: &str) -> bool {
        let Line::Parts(parts) = self else { return false };
        // Only itself is like it: no wildcard stands for a missing newline.
        if line == NO_NEWLINE {
            return parts.len() == 1 && parts[0] == NO_NEWLINE;
        }
        let [first, middle @ .., last] = &parts[..] else { return parts.first().is_some_and(|part| part == line) };
        let Some(mut rest) = line.strip_prefix(&first[..]) else { return false };
        for part in middle {
            let Some(at) = rest.find(&part[..]) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(&last[..])
    }
}

/// Whether a whole text matches. What takes too many steps to find out does not.
pub(crate) fn matches(pattern: &[Line], text: &str) -> bool {
    let mut lines = lines(text).peekable();
    let (mut at, mut steps) = (0, 0);
    // Where to resume after the last `...` when what follows it does not match here.
    let mut retry = None;
    loop {
        steps += 1;
        if steps > MAX_STEPS {
            return false;
        }
        match (pattern.get(at), lines.peek()) {
            (Some(Line::AnyLines), _) => {
                at += 1;
                retry = Some((at, lines.clone()));
            }
            (Some(line), Some(found)) if line.matches(found) => {
                at += 1;
                lines.next();
            }
            (None, None) => return true,
            _ => {
                let Some((after, from)) = &mut retry else { return false };
                if from.next().is_none() {
                    return false;
                }
                (at, lines) = (*after, from.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Line> {
        let mut names = Names::default();
        names.set("ROOT", "/r[..]");
        lines(text).map(|text| line(text, &names).unwrap()).collect()
    }

    #[test]
    fn wildcards_match_any_part_of_a_line() {
        for pattern in ["abc", "[..]", "a[..]", "[..]c", "a[..]c", "[..]b[..]", "abc[..]", "[..]a[..]b[..]c[..]"] {
            assert!(parsed(pattern)[0].matches("abc"), "{pattern}");
        }
        for pattern in ["ab", "b[..]", "[..]b", "ab[..]bc", "a[..]x[..]c", "abcd[..]", "abc\r"] {
            assert!(!parsed(pattern)[0].matches("abc"), "{pattern}");
        }
    }

    #[test]
    fn brackets_and_values_are_literal() {
        for (pattern, line) in
            [("[[]..]", "[..]"), ("[ROOT]/x", "/r[..]/x"), ("[x] [] [", "[x] [] ["), ("[[]ROOT]", "[ROOT]")]
        {
            assert!(parsed(pattern)[0].matches(line), "{pattern}");
        }
        assert!(!parsed("[ROOT]")[0].matches("/r anything"));
        assert!(line("[NOBODY]", &Names::default()).is_err());
    }

    #[test]
    fn whole_texts_are_compared_line_by_line() {
        let is = |pattern: &str, text: &str| matches(&parsed(pattern), text);
        assert!(is("a\nb\n", "a\nb\n") && is("", "") && is("...\n", "") && is("...\n", "a\nb\n"));
        assert!(is("a\n[..]\n...\nz\n", "a\nb\nc\nd\nz\n") && is("...\nb\n...\nb\n", "b\nc\nb\nb\n"));
        assert!(!is("a\n", "a") && !is("a", "a\n") && !is("a\n", "a\r\n") && !is("a\nb\n", "a\rb\n"));
        assert!(!is("a\n", "") && !is("", "a\n") && !is("a\n...\nb\n", "a\n1\n2\nc\n"));
    }

    #[test]
    fn a_flood_of_lines_is_compared_in_time() {
        let flood = "y\n".repeat(1 << 20);
        let started = std::time::Instant::now();
        assert!(!matches(&parsed("a\n...\ny\nz\n"), &flood) && !matches(&parsed("...\ny\nz\n"), &flood));
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}
