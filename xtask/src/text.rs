//! Text that somebody else wrote, made safe to print.

use serde::{Serialize, Serializer};
use std::fmt;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use unicode_width::UnicodeWidthStr;

/// Maximum length of a piece of foreign text when printed.
pub(crate) const FOREIGN_MAX_CHARS: usize = 500;

/// Text that somebody else wrote. It leaves this program only as [`printable`] makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Foreign(pub(crate) Vec<u8>);

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

impl Serialize for Foreign {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Serializes a path; what is not UTF-8 in it is replaced.
pub(crate) fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&whole(&path.to_string_lossy()))
}

/// Foreign bytes as one line of at most [`FOREIGN_MAX_CHARS`]: nothing in it moves a cursor, reorders
/// or ends the line, and no Discord token is shown.
pub(crate) fn printable(bytes: impl AsRef<[u8]>) -> String {
    let mut line = escaped(&without_tokens(bytes.as_ref()));
    if let Some((cut, _)) = line.char_indices().nth(FOREIGN_MAX_CHARS) {
        line.truncate(cut);
    }
    line
}

/// Foreign text for a sentence: printable, and in backticks.
pub(crate) fn quoted(text: impl AsRef<[u8]>) -> String {
    format!("`{}`", printable(text))
}

/// A path, escaped but never cut.
pub(crate) fn path(path: &Path) -> String {
    escaped(&without_tokens(path.as_os_str().as_bytes()))
}

/// Text of our own with foreign words in it, escaped line by line.
pub(crate) fn lines(text: &str) -> String {
    text.lines().map(|line| escaped(&without_tokens(line.as_bytes())) + "\n").collect()
}

/// Text as one word for a shell, escaped but never cut.
pub(crate) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return whole(text);
    }
    escaped(&without_tokens(format!("'{}'", text.replace('\'', r"'\''")).as_bytes()))
}

/// A path as one word for a shell.
pub(crate) fn shell_path(path: &Path) -> String {
    shell_word(&path.to_string_lossy())
}

/// Where a JSON text is, byte after byte: how deep, and whether in a string.
#[derive(Default)]
pub(crate) struct Nesting {
    pub(crate) depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Nesting {
    /// Goes on by a byte.
    pub(crate) fn pass(&mut self, byte: u8) {
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' if self.in_string => self.is_escaped = true,
            b'"' => self.in_string = !self.in_string,
            b'{' | b'[' if !self.in_string => self.depth += 1,
            b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// Every line of `text` behind `indent`.
pub(crate) fn indented(indent: &str, text: &str) -> String {
    text.lines().fold(String::new(), |all, line| all + indent + line + "\n")
}

/// Rows as a table. Each column is as wide on a terminal as its widest cell and at least `widths`; columns in
/// `right` are aligned to the right; the last column is not padded.
pub(crate) fn table<const N: usize>(rows: &[[String; N]], widths: [usize; N], right: Range<usize>) -> String {
    let width = |column: usize| {
        let widest = rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
        widest.max(widths[column])
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let cell = |row: &[String; N], column: usize| {
        let text = &row[column];
        let padding = " ".repeat(widths[column].saturating_sub(text.width()));
        match column {
            last if last + 1 == N => format!("{text}\n"),
            column if right.contains(&column) => format!("{padding}{text} "),
            _ => format!("{text}{padding} "),
        }
    };
    rows.iter().flat_map(|row| (0..N).map(move |column| cell(row, column))).collect()
}

/// A count with its noun: `1 smoke`, `2 smokes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Foreign text for a program, whole: its format escapes what it must. No Discord token is shown.
pub(crate) fn whole(text: &str) -> String {
    String::from_utf8_lossy(&without_tokens(text.as_bytes())).into_owned()
}

/// The two largest units: `2 days 5 hours`, `1 minute`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = usize::try_from(duration.as_secs()).unwrap_or(usize::MAX);
    let units = [
        (seconds / 86_400, "day"),
        (seconds / 3_600 % 24, "hour"),
        (seconds / 60 % 60, "minute"),
        (seconds % 60, "second"),
    ];
    let largest = units.iter().position(|&(number, _)| number > 0).unwrap_or(units.len() - 1);
    let next = units.get(largest + 1).filter(|&&(number, _)| number > 0);
    let words = |&(number, unit): &(usize, &str)| count(number, unit);
    next.map_or_else(|| words(&units[largest]), |next| format!("{} {}", words(&units[largest]), words(next)))
}

/// A size as `df -h` has it: rounded up, with a decimal below 10.
pub(crate) fn size(bytes: u64) -> String {
    let in_unit = |power| (u128::from(bytes) * 10).div_ceil(1024u128.pow(power));
    let (power, letter) = (1..).zip("KMGTP".chars()).find(|&(power, _)| in_unit(power) <= 10_230).unwrap_or((6, 'E'));
    match in_unit(power) {
        _ if bytes < 1024 => bytes.to_string(),
        tenths @ ..100 => format!("{}.{}{letter}", tenths / 10, tenths % 10),
        tenths => format!("{}{letter}", tenths.div_ceil(10)),
    }
}

fn escaped(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                c if (c as u32) < 0x80 && c.is_control() => _ = write!(line, "\\x{:02x}", c as u32),
                c if misleads(c) => _ = write!(line, "\\u{{{:x}}}", c as u32),
                c => line.push(c),
            }
        }
        for byte in chunk.invalid() {
            _ = write!(line, "\\x{byte:02x}");
        }
    }
    line
}

/// Controls, line separators, invisible characters and tags, and everything that turns the reading
/// direction (Unicode UAX #9).
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A command line may carry a token as an argument. Its form gives it away: three dotted parts, the
/// first a user id's digits in base64. The last part may be cut off.
fn without_tokens(bytes: &[u8]) -> Vec<u8> {
    let is_token_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    let mut shown = Vec::with_capacity(bytes.len());
    for run in bytes.chunk_by(|a, b| is_token_byte(a) == is_token_byte(b)) {
        let mut parts: Vec<Vec<u8>> = run.split(|&byte| byte == b'.').map(<[u8]>::to_vec).collect();
        while let Some((at, start)) =
            parts.windows(3).enumerate().find_map(|(at, three)| Some((at, token_start(three)?)))
        {
            let mut end = at + 3;
            // Another one may be joined to its last part.
            while parts.len() >= end + 2 && (5..=8).contains(&parts[end].len()) && parts[end + 1].len() >= 20 {
                end += 2;
            }
            let hidden = [&parts[at][..start], b"[token]"].concat();
            parts.splice(at..end, [hidden]);
        }
        if let Some(at) = parts.windows(2).position(|pair| pair[0] == b"mfa" && pair[1].len() >= 20) {
            parts.splice(at..at + 2, [b"[token]".to_vec()]);
        }
        shown.extend(parts.join(&b'.'));
    }
    shown
}

/// Where in the first of three dotted parts a token starts: an option may precede it without a blank.
fn token_start(parts: &[Vec<u8>]) -> Option<usize> {
    let [id, time, signature] = parts else { return None };
    let after_others = id.iter().rposition(|byte| !byte.is_ascii_alphanumeric()).map_or(0, |at| at + 1);
    // In base64 a decimal digit comes first as M, N or O.
    let start = after_others + id[after_others..].iter().position(|byte| b"MNO".contains(byte))?;
    (id.len() - start >= 23 && (5..=8).contains(&time.len()) && !signature.is_empty()).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_and_direction_characters_are_escaped() {
        assert_eq!(printable(b"a\x1b[31mb\x07\n\r\t\x7f"), "a\\x1b[31mb\\x07\\n\\r\\t\\x7f");
        assert_eq!(printable("a\u{202e}b\u{85}c\u{2028}".as_bytes()), "a\\u{202e}b\\u{85}c\\u{2028}");
        assert_eq!(printable(b"caf\xc3\xa9 \xff"), "café \\xff");
        assert_eq!(printable("\u{ad}\u{fffa}\u{e0041}".as_bytes()), "\\u{ad}\\u{fffa}\\u{e0041}");
    }

    #[test]
    fn long_text_is_cut_by_characters() {
        assert_eq!(printable("é".repeat(600).as_bytes()), "é".repeat(500));
    }

    #[test]
    fn tokens_are_not_shown() {
        let (id, time, signature) = ("M".repeat(24), "a".repeat(6), "b".repeat(27));
        let token = [id, time, signature].join(".");
        assert_eq!(printable(format!("dce -t {token} -o x.y.z").as_bytes()), "dce -t [token] -o x.y.z");
        assert_eq!(printable(format!("T=\"{token}\"\t{token}").as_bytes()), "T=\"[token]\"\\t[token]");
        assert_eq!(
            printable(format!("-t {token}. x.{token} {token}.log").as_bytes()),
            "-t [token]. x.[token] [token].log"
        );
        assert_eq!(printable(format!("-t {}", &token[..40]).as_bytes()), "-t [token]");
        assert_eq!(printable(format!("-t{token} x_{token}").as_bytes()), "-t[token] x_[token]");
        for joint in ['.', '_', '-', ' '] {
            let shown = printable(format!("x={token}{joint}{token}{joint}{token}").as_bytes());
            assert!(!shown.contains('M') && !shown.contains('b'), "{shown}");
        }
        assert_eq!(shell_word(&token), "[token]");
        assert_eq!(printable(format!("mfa.{}", "c".repeat(84)).as_bytes()), "[token]");
        assert_eq!(
            printable(b"My-very-long-name-of-a-script.config.json"),
            "My-very-long-name-of-a-script.config.json"
        );
        assert_eq!(printable(b"bash ./scripts/run.sh --target a.b.c"), "bash ./scripts/run.sh --target a.b.c");
    }

    #[test]
    fn tables_are_aligned_and_grow() {
        let rows = [["a", "b", "c"], ["long", "1", "last one"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows, [2, 3, 0], 1..2), "a      b c\nlong   1 last one\n");
    }

    #[test]
    fn columns_are_aligned_by_what_a_terminal_shows() {
        let rows = [["日本", "x"], ["e\u{301}", "x"], ["abcd", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows, [0, 0], 0..0), "日本 x\ne\u{301}    x\nabcd x\n");
    }

    #[test]
    fn durations_are_two_units_in_words() {
        let said = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(said(0), "0 seconds");
        assert_eq!(said(61), "1 minute 1 second");
        assert_eq!(said(7200), "2 hours");
        assert_eq!(said(7201), "2 hours");
        assert_eq!(said(2 * 86_400 + 5 * 3_600 + 59), "2 days 5 hours");
    }

    #[test]
    fn sizes_are_rounded_as_df_rounds_them() {
        let cases = [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10 << 10, "10K"),
            ((10 << 10) - 1, "10K"),
            ((10 << 10) + 1, "11K"),
            ((1 << 20) - 1, "1.0M"),
            (264_212_084 << 10, "252G"),
            (12_334_524 << 10, "12G"),
            (u64::MAX, "16E"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn names_are_words_for_a_shell() {
        assert_eq!(shell_word("KotOR_discord-msgs.1"), "KotOR_discord-msgs.1");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's $(rm)"), r"'it'\''s $(rm)'");
        assert_eq!(shell_word(""), "''");
    }

    proptest! {
        #[test]
        fn nothing_printed_controls_a_terminal(bytes: Vec<u8>) {
            let line = printable(&bytes);
            prop_assert!(line.chars().count() <= FOREIGN_MAX_CHARS);
            prop_assert!(!line.chars().any(misleads));
        }
    }
}
