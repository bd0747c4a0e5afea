//! Text that others wrote, made fit for a terminal.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest piece of foreign text that is printed, in characters.
pub(crate) const LONGEST: usize = 500;

/// Foreign bytes as one line of at most [`LONGEST`] characters: nothing in it
/// moves a cursor, reorders a line or ends it, and no Discord token is shown.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut line = escaped(&without_tokens(bytes));
    if let Some((cut, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(cut);
    }
    line
}

/// A path, escaped but whole.
pub(crate) fn path(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// A count with its noun: `1 smoke`, `2 smokes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
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

/// C1 controls, line separators, invisible characters, and everything that turns
/// the reading direction (Unicode UAX #9).
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A command line may carry a token as an argument; its shape gives it away: three
/// dotted parts, the first a user id's digits in base64. The last may be cut off.
fn without_tokens(bytes: &[u8]) -> Vec<u8> {
    let is_token_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    let mut shown = Vec::with_capacity(bytes.len());
    for run in bytes.chunk_by(|a, b| is_token_byte(a) == is_token_byte(b)) {
        let mut parts: Vec<&[u8]> = run.split(|&byte| byte == b'.').collect();
        if let Some(at) = parts.windows(3).position(is_token) {
            parts.splice(at..at + 3, [&b"[token]"[..]]);
        }
        if let Some(at) = parts.windows(2).position(|pair| pair[0] == b"mfa" && pair[1].len() >= 20) {
            parts.splice(at..at + 2, [&b"[token]"[..]]);
        }
        shown.extend(parts.join(&b'.'));
    }
    shown
}

fn is_token(parts: &[&[u8]]) -> bool {
    let [id, time, signature] = parts else { return false };
    // In base64 a decimal digit comes first as M, N or O.
    let is_id = id.len() >= 23 && b"MNO".contains(&id[0]) && id.iter().all(u8::is_ascii_alphanumeric);
    is_id && (5..=8).contains(&time.len()) && !signature.is_empty()
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
        assert_eq!(printable(format!("mfa.{}", "c".repeat(84)).as_bytes()), "[token]");
        assert_eq!(
            printable(b"My-very-long-name-of-a-script.config.json"),
            "My-very-long-name-of-a-script.config.json"
        );
        assert_eq!(printable(b"bash ./scripts/run.sh --target a.b.c"), "bash ./scripts/run.sh --target a.b.c");
    }

    proptest! {
        #[test]
        fn nothing_printed_controls_a_terminal(bytes: Vec<u8>) {
            let line = printable(&bytes);
            prop_assert!(line.chars().count() <= LONGEST);
            prop_assert!(!line.chars().any(misleads));
        }
    }
}
