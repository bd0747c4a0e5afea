//! Whether an export is what its name says, and whole. Two small reads show most of what goes wrong: a scrape that
//! was killed leaves no end, a file that was renamed another channel's beginning.

use crate::config::channel::{channel_id, channel_text};
use crate::sys::file::Ends;
use crate::text::{Nesting, printable};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much is read at each end of a file, in bytes.
pub(crate) const END_BYTES: usize = 4096;

/// What is wrong with JSON that could be any channel's: the scraper takes it for this one, and then stops.
pub(crate) const NO_ID: &str = "has no channel.id";

/// Maximum depth of an export that is parsed whole; the exporter's are not 20 deep, and jq's own limit is 10,000.
const MAX_DEPTH: usize = 10_000;

/// The keys of an export, and those of a message: the keys before a file's last `}` show what it closes.
const EXPORT_KEYS: [&[u8]; 6] = [b"guild", b"channel", b"dateRange", b"exportedAt", b"messages", b"messageCount"];
const MESSAGE_KEYS: [&[u8]; 8] =
    [b"id", b"type", b"timestamp", b"content", b"author", b"reactions", b"mentions", b"inlineEmojis"];

/// Why the scraper would stop at an export of this channel, as far as its two ends show.
pub(crate) fn problem(ends: &Ends, channel: u128) -> Option<String> {
    let start = ends.start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&ends.start);
    let mut found = None;
    let mut json = serde_json::Deserializer::from_slice(start);
    let parsed = Seek { path: &["channel", "id"], found: &mut found }.deserialize(&mut json).and_then(|()| json.end());
    match (parsed, &ends.end) {
        (_, None) if start.trim_ascii().is_empty() => return Some(format!("{NO_ID}: it is empty")),
        (Ok(()), None) if found.is_none() => return Some(NO_ID.to_owned()),
        (Err(error), _) if error.classify() != Category::Eof => return Some(format!("is not JSON: {}", cause(&error))),
        (Err(_), None) => return Some("is truncated: it ends in the middle".to_owned()),
        _ => {}
    }
    match found.map(|id| channel_id(id.as_bytes())) {
        Some(Some(other)) if other != channel => {
            return Some(format!("belongs to channel {}, not to {}", channel_text(other), channel_text(channel)));
        }
        Some(None) => return Some("has a channel.id that is not an id".to_owned()),
        _ => {}
    }
    // As the exporter and jq write it, nothing but the end is a brace at the start of a line.
    let is_pretty = [&b"{\n"[..], b"{\r\n"].iter().any(|start_of| start.starts_with(start_of));
    let is_closed = |end: &Vec<u8>| match is_pretty {
        true => end.trim_ascii_end().ends_with(b"\n}"),
        false => closes_export(end) != Some(false),
    };
    let is_cut = !ends.end.as_ref().is_none_or(is_closed);
    is_cut.then(|| format!("is truncated: its last {END_BYTES} bytes do not close it"))
}

/// Why a whole file is not JSON. Counts its reads.
pub(crate) fn problem_inside(file: &File, reads: &AtomicUsize) -> Option<String> {
    let reader = Bounded { inner: file, reads, nesting: Nesting::default() };
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(64 << 10, reader));
    let parsed = serde::Deserialize::deserialize(&mut json).and_then(|_: IgnoredAny| json.end());
    match parsed {
        Err(error) if error.classify() == Category::Eof => Some("is truncated: it ends in the middle".to_owned()),
        Err(error) => Some(format!("is not JSON: {}", cause(&error))),
        Ok(()) => None,
    }
}

fn cause(error: &serde_json::Error) -> String {
    printable(error.to_string())
}

/// Finds the value at a path of keys, even in a text that ends too early.
struct Seek<'a> {
    path: &'a [&'a str],
    found: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_empty() {
            *self.found = match serde::Deserialize::deserialize(deserializer)? {
                Value::String(text) => Some(text),
                Value::Null | Value::Bool(false) => None,
                other => Some(other.to_string()),
            };
            return Ok(());
        }
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == self.path[0] {
                map.next_value_seed(Seek { path: &self.path[1..], found: &mut *self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Whether these last bytes of a file end an export, rather than one of its messages; None if they do not show it.
fn closes_export(end: &[u8]) -> Option<bool> {
    let mut rest = end.trim_ascii_end();
    if rest.last() != Some(&b'}') {
        return Some(false);
    }
    // Backwards, so that the depth is known from the start. What precedes a quote that no backslash precedes is text.
    let mut depth = 0_usize;
    let mut is_key = false;
    while let [before @ .., byte] = rest {
        rest = before;
        match byte {
            b'}' | b']' => depth += 1,
            b'{' | b'[' => match depth.checked_sub(1) {
                Some(0) | None => return Some(false),
                Some(less) => depth = less,
            },
            b'"' => {
                let (outside, text) = split_text(rest)?;
                rest = outside;
                if is_key && depth == 1 {
                    let is = |keys: &[&[u8]]| keys.contains(&text);
                    match (is(&EXPORT_KEYS), is(&MESSAGE_KEYS)) {
                        (true, _) => return Some(true),
                        (_, true) => return Some(false),
                        _ => {}
                    }
                }
            }
            // What there is between strings: blanks, numbers, `true`, `false` and `null`.
            _ if b":, \n\r\t0123456789+-.eEaflnrstu".contains(byte) => {}
            // Text outside of quotes: the file ends inside a string.
            _ => return Some(false),
        }
        is_key = *byte == b':' || is_key && byte.is_ascii_whitespace();
    }
    None
}

/// Splits off the string that ends here, whose closing quote is already taken. None if it began earlier.
fn split_text(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut open = rest.len();
    loop {
        open = rest[..open].iter().rposition(|&byte| byte == b'"')?;
        let backslashes = rest[..open].iter().rev().take_while(|&&byte| byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some((&rest[..open], &rest[open + 1..]));
        }
    }
}

/// Ends with an error where JSON is nested too deep: the parser keeps a byte for each level.
struct Bounded<'a, R> {
    inner: R,
    /// Counted, so that somebody sees that it goes on.
    reads: &'a AtomicUsize,
    nesting: Nesting,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        buffer[..length].iter().for_each(|byte| self.nesting.pass(*byte));
        if self.nesting.depth > MAX_DEPTH {
            return Err(io::Error::other("it is nested too deep"));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::{Links, open_regular};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    const CHANNEL: &str = "100000000000000001";

    fn look(text: &[u8], channel: &str) -> Option<String> {
        let ends = match text.len() {
            short if short <= 2 * END_BYTES => Ends { start: text.to_vec(), end: None },
            long => Ends { start: text[..END_BYTES].to_vec(), end: Some(text[long - END_BYTES..].to_vec()) },
        };
        problem(&ends, channel_id(channel.as_bytes()).unwrap())
    }

    /// As the exporter and as jq write it.
    fn exports(messages: usize) -> [String; 2] {
        let message = |index: usize| {
            serde_json::json!({ "id": index.to_string(), "type": "Default", "timestamp": "2026-01-01T00:00:00+00:00",
                "content": "\"}]{[ \\ \" messages \": ü", "author": { "id": "7", "name": "x" }, "attachments": [],
                "reactions": [{ "emoji": { "id": "" }, "count": 1 }], "mentions": [],
                "inlineEmojis": vec![serde_json::json!({ "id": "1", "code": "x" }); if index.is_multiple_of(9) { 200 } else { 0 }] })
        };
        let export = serde_json::json!({ "guild": { "id": "1" }, "channel": { "id": CHANNEL, "name": "general" },
            "messages": (0..messages).map(message).collect::<Vec<_>>(), "messageCount": messages });
        [serde_json::to_string_pretty(&export).unwrap() + "\r\n", export.to_string()]
    }

    #[test]
    fn a_whole_export_is_no_problem() {
        for text in exports(0).iter().chain(&exports(1)).chain(&exports(500)) {
            assert_eq!(look(text.as_bytes(), CHANNEL), None);
            assert_eq!(look(&[b"\xef\xbb\xbf", text.as_bytes()].concat(), CHANNEL), None);
        }
        assert_eq!(look(br#"{"messages":[{"id":"1"}],"channel":{"id":"100000000000000001"}}"#, CHANNEL), None);
        assert_eq!(look(br#"{"channel":{"id":100000000000000001}}"#, CHANNEL), None);
    }

    #[test]
    fn anothers_export_and_what_is_none_are_problems() {
        let [text, _] = exports(500);
        let other = look(text.as_bytes(), "200000000000000002").unwrap();
        assert_eq!(other, format!("belongs to channel {CHANNEL}, not to 200000000000000002"));
        let cases = [
            ("", "has no channel.id: it is empty"),
            ("{}", "has no channel.id"),
            (r#"{"channel":{"id":null}}"#, "has no channel.id"),
            (r#"{"channel":{"id":"secret"}}"#, "has a channel.id that is not an id"),
            (r#"{"channel":{}} x"#, "is not JSON"),
            ("[]", "is not JSON: invalid type: sequence, expected an object"),
            ("{\"channel\":{\"id\":\"1", "is truncated"),
            ("\0\0\0\0", "is not JSON"),
        ];
        for (text, expected) in cases {
            let problem = look(text.as_bytes(), CHANNEL).unwrap_or_default();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn the_last_member_tells_an_export_from_a_message() {
        let long = "x".repeat(2 * END_BYTES);
        let head = format!(r#"{{"channel":{{"id":"{CHANNEL}","topic":"{long}"}}"#);
        let is_whole = |rest: &str| look(format!("{head},{rest}").as_bytes(), CHANNEL).is_none();
        assert!(is_whole(r#""id":"1","messages":[],"messageCount":0}"#), "whatever precedes it");
        let message = format!(r#""messages":[{{"content":"{long}""#);
        assert!(is_whole(&format!(r#"{message}}}],"messageCount":1}}"#)));
        for value in [r#""id"}"#, r#""id" }"#, r#" "id" }"#] {
            assert!(is_whole(&format!(r#""messages":[],"more":{value}"#)), "a value is no key: {value}");
        }
        assert!(!is_whole(&format!(r#"{message},"mentions":[],"more":{{}}}}"#)), "a message longer than what is read");
        let texts = r#"{"content":"in } text"},"#.repeat(END_BYTES);
        assert!(!is_whole(&format!(r#""messages":[{texts}{{"content":"in }}"#)), "cut in a text");
    }

    #[test]
    fn deep_nesting_is_an_error_and_takes_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep");
        for (text, expected) in [
            ("[".repeat(1 << 20), Some("is not JSON: it is nested too deep")),
            ("[".repeat(500) + "\"[\\\"[[\"" + &"]".repeat(500), None),
            ("{\"a\": [1, 2".to_owned(), Some("is truncated: it ends in the middle")),
            ("{\"a\" 1}".to_owned(), Some("is not JSON: expected `:` at line 1 column 6")),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(
                problem_inside(&open_regular(&path, Links::Follow).unwrap(), &AtomicUsize::new(0)).as_deref(),
                expected
            );
        }
    }

    proptest! {
        #[test]
        fn a_cut_export_is_never_whole(cut in 1_usize..300_000, is_compact: bool) {
            static EXPORTS: LazyLock<[String; 2]> = LazyLock::new(|| exports(500));
            let text = &EXPORTS[usize::from(is_compact)];
            let text = text.trim_end();
            let cut = &text.as_bytes()[..text.len() - 1 - cut % (text.len() - 1)];
            let problem = look(cut, CHANNEL).unwrap_or_default();
            prop_assert!(problem.starts_with("is truncated"), "{} bytes: {problem}", cut.len());
        }
    }
}
