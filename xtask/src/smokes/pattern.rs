//! Patterns for texts: lines with wildcards and placeholders. They are compared byte by byte.

use crate::smokes::names::Names;
use memchr::memmem;

/// Maximum number of steps of a comparison: twice the lines of the largest output, and some.
const MAX_STEPS: usize = 20_000_000;

/// The literal parts of a line, with any bytes between one and the next.
#[derive(Debug)]
pub(crate) struct Parts(pub(crate) Vec<String>);

/// A line of a pattern.
#[derive(Debug)]
pub(crate) enum Line {
    /// Any number of lines.
    Any,
    One(Parts),
}

/// The lines of a text, split at LF alone: a CR is part of its line.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

/// Whether the last line of a text lacks its LF.
pub(crate) fn is_open(text: &[u8]) -> bool {
    !text.is_empty() && !text.ends_with(b"\n")
}

impl Parts {
    pub(crate) fn matches(&self, line: &[u8]) -> bool {
        let [first, middle @ .., last] = &self.0[..] else {
            return self.0.first().is_some_and(|part| part.as_bytes() == line);
        };
        let Some(mut rest) = line.strip_prefix(first.as_bytes()) else { return false };
        for part in middle {
            let Some(at) = memmem::find(rest, part.as_bytes()) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last.as_bytes())
    }
}

impl Line {
    /// Reads a line: `...` is any number of lines, `[..]` any text, `[NAME]` a value, and `[[]` a bracket.
    pub(crate) fn parse(line: &str, names: &Names) -> anyhow::Result<Line> {
        if line == "..." { Ok(Line::Any) } else { Ok(Line::One(Parts(names.parts(line)?))) }
    }

    /// Whether it matches one line of a text.
    pub(crate) fn matches(&self, line: &[u8]) -> bool {
        matches!(self, Line::One(parts) if parts.matches(line))
    }
}

/// Whether all lines of a text match. What takes too many steps to find out does not.
pub(crate) fn matches(pattern: &[Line], text: &[u8]) -> bool {
    let mut lines = lines(text).peekable();
    let mut at = 0;
    // Where to resume after the last `...` when what follows it does not match here.
    let mut retry = None;
    for _ in 0..MAX_STEPS {
        match (pattern.get(at), lines.peek()) {
            (Some(Line::Any), _) => {
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
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Line> {
        let mut names = Names::default();
        names.set("ROOT", "/r[..]");
        text.lines().map(|line| Line::parse(line, &names).unwrap()).collect()
    }

    #[test]
    fn wildcards_match_any_part_of_a_line() {
        for pattern in ["abc", "[..]", "a[..]", "[..]c", "a[..]c", "[..]b[..]", "abc[..]", "[..]a[..]b[..]c[..]"] {
            assert!(parsed(pattern)[0].matches(b"abc"), "{pattern}");
        }
        for pattern in ["ab", "b[..]", "[..]b", "ab[..]bc", "a[..]x[..]c", "abcd[..]", "abc\r"] {
            assert!(!parsed(pattern)[0].matches(b"abc"), "{pattern}");
        }
    }

    #[test]
    fn brackets_and_values_are_literal() {
        for (pattern, line) in
            [("[[]..]", "[..]"), ("[ROOT]/x", "/r[..]/x"), ("[x] [] [", "[x] [] ["), ("[[]ROOT]", "[ROOT]")]
        {
            assert!(parsed(pattern)[0].matches(line.as_bytes()), "{pattern}");
        }
        assert!(!parsed("[ROOT]")[0].matches(b"/r anything"));
        assert!(Line::parse("[NOBODY]", &Names::default()).is_err());
    }

    #[test]
    fn whole_texts_are_compared_line_by_line() {
        let is = |pattern: &str, text: &str| matches(&parsed(pattern), text.as_bytes());
        assert!(is("a\nb\n", "a\nb\n") && is("", "") && is("...\n", "") && is("...\n", "a\nb\n"));
        assert!(is("a\n[..]\n...\nz\n", "a\nb\nc\nd\nz\n") && is("...\nb\n...\nb\n", "b\nc\nb\nb\n"));
        assert!(!is("a\n", "a\r\n") && !is("a\nb\n", "a\rb\n") && !is("a\n", "a\n\n") && !is("a\n\n", "a\n"));
        assert!(!is("a\n", "") && !is("", "a\n") && !is("a\n...\nb\n", "a\n1\n2\nc\n"));
    }

    #[test]
    fn a_flood_of_lines_is_compared_in_time() {
        let flood = b"y\n".repeat(1 << 20);
        let started = std::time::Instant::now();
        assert!(!matches(&parsed("a\n...\ny\nz\n"), &flood) && !matches(&parsed("...\ny\nz\n"), &flood));
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}
