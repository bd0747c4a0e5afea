//! One pass over an export, however large: where each message begins and ends, and what stands around them. The
//! messages themselves stay in the file, to be copied byte for byte.

use crate::salvage::message::{MESSAGE_MAX_BYTES, Message};
use crate::sys::file::read_at;
use crate::sys::signals::Signals;
use crate::text::{count, printable, size};
use memchr::memchr2;
use rustix::fs::{Stat, fstat};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::fs::File;
use std::io;

/// How much is read at once, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Maximum size of what stands before and after the messages; the exporter writes less than 2 KiB.
const HEAD_MAX_BYTES: usize = 1 << 20;

/// Maximum depth of a value; the exporter's are not 20 deep, and the scraper's jq may end at 256.
const MAX_DEPTH: usize = 200;

/// Offsets are kept in 40 bits.
const FILE_MAX_BYTES: u64 = 1 << 40;

/// An export: its file, and what is in it.
pub(crate) struct Export {
    pub(crate) file: File,
    pub(crate) stat: Stat,
    /// The members but `messages` and `messageCount`, their values as they were written.
    pub(crate) members: Vec<(String, String)>,
    pub(crate) has_message_count: bool,
    /// In the order of the file.
    pub(crate) messages: Vec<Message>,
    pub(crate) ending: Ending,
}

/// How an export ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    /// In the middle; NULs, which a power failure may leave, are no text.
    Cut,
    /// At something that is no export's text, whatever comes after it.
    Damaged(String),
}

/// Why the reading stopped.
enum Stop {
    End,
    Damaged(String),
    Io(io::Error),
}

/// What the scraper needs to know of a channel.
#[derive(Deserialize)]
pub(crate) struct Channel {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) category: Option<String>,
}

impl Export {
    /// Reads a file; `tell` hears how far it is.
    ///
    /// # Errors
    /// It cannot be read, or the reading was cancelled.
    pub(crate) fn read(file: File, cancel: &Signals, tell: &dyn Fn(String)) -> io::Result<Export> {
        let stat = fstat(&file)?;
        let length = length_without_nuls(&file, stat.st_size.max(0) as u64)?;
        let (members, messages, ending) = (Vec::new(), Vec::new(), Ending::Whole);
        let mut export = Export { file, stat, members, has_message_count: false, messages, ending };
        let mut text = Text { length, cancel, tell, buffer: Vec::new(), at: 0, offset: 0 };
        export.ending = match export.scan(&mut text) {
            Ok(()) => Ending::Whole,
            Err(Stop::End) => Ending::Cut,
            Err(Stop::Damaged(why)) => Ending::Damaged(format!("{why}, at byte {}", text.position())),
            Err(Stop::Io(error)) => return Err(error),
        };
        export.messages.shrink_to_fit();
        Ok(export)
    }

    fn scan(&mut self, text: &mut Text) -> Result<(), Stop> {
        if text.length > FILE_MAX_BYTES {
            return Err(Stop::Damaged("it is larger than 1 TiB".to_owned()));
        }
        text.skip_byte_order_mark(&self.file)?;
        text.expect(&self.file, b"{")?;
        if text.peek(&self.file)? == b'}' {
            text.expect(&self.file, b"}")?;
        } else {
            while self.member(text)? == b',' {}
        }
        match text.peek(&self.file) {
            Err(Stop::End) => Ok(()),
            Err(stop) => Err(stop),
            Ok(_) => Err(Stop::Damaged("there is text behind its end".to_owned())),
        }
    }

    /// Reads a key with its value; gives what comes next.
    fn member(&mut self, text: &mut Text) -> Result<u8, Stop> {
        let key: String = parse(text.value(&self.file, HEAD_MAX_BYTES)?)?;
        text.expect(&self.file, b":")?;
        if key == "messages" && text.peek(&self.file)? == b'[' {
            self.read_messages(text)?;
        } else {
            let value = text.value(&self.file, HEAD_MAX_BYTES)?;
            parse::<IgnoredAny>(value)?;
            self.has_message_count |= key == "messageCount";
            if !matches!(&key[..], "messages" | "messageCount") {
                let length: usize = self.members.iter().map(|(key, value)| key.len() + value.len()).sum();
                if length + value.len() > HEAD_MAX_BYTES {
                    return Err(Stop::Damaged(format!(
                        "there is more than {HEAD_MAX_BYTES} bytes beside the messages"
                    )));
                }
                set(&mut self.members, key, String::from_utf8_lossy(value).into_owned());
            }
        }
        text.expect(&self.file, b",}")
    }

    fn read_messages(&mut self, text: &mut Text) -> Result<(), Stop> {
        if !self.messages.is_empty() {
            return Err(Stop::Damaged("it has messages twice".to_owned()));
        }
        text.expect(&self.file, b"[")?;
        if text.peek(&self.file)? == b']' {
            text.expect(&self.file, b"]")?;
            return Ok(());
        }
        loop {
            text.peek(&self.file)?;
            let offset = text.position();
            let bytes = text.value(&self.file, MESSAGE_MAX_BYTES)?;
            let message = Message::new(offset, bytes).map_err(Stop::Damaged)?;
            self.messages.push(message);
            if self.messages.len().is_multiple_of(4096) {
                (text.tell)(format!("{} read, {}", size(text.position()), count(self.messages.len(), "message")));
            }
            if text.expect(&self.file, b",]")? == b']' {
                return Ok(());
            }
        }
    }

    /// A member's value, parsed.
    pub(crate) fn member_as<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Option<T> {
        serde_json::from_str(raw(&self.members, key)?).ok()
    }
}

/// The value of a key, as it was written.
pub(crate) fn raw<'a>(members: &'a [(String, String)], key: &str) -> Option<&'a str> {
    members.iter().find(|(name, _)| name == key).map(|(_, value)| &value[..])
}

/// Sets a key, in its place if it is there.
pub(crate) fn set(members: &mut Vec<(String, String)>, key: String, value: String) {
    match members.iter_mut().find(|(name, _)| *name == key) {
        Some(member) => member.1 = value,
        None => members.push((key, value)),
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Stop> {
    serde_json::from_slice(bytes)
        .map_err(|error| Stop::Damaged(format!("it is not JSON: {}", printable(error.to_string()))))
}

/// How much of a file there is before the NULs at its end.
fn length_without_nuls(file: &File, mut length: u64) -> io::Result<u64> {
    let nuls = vec![0; PIECE_BYTES];
    while length > 0 {
        let piece = length.min(PIECE_BYTES as u64);
        let bytes = read_at(file, length - piece, piece as usize)?;
        length -= piece;
        if bytes != nuls[..bytes.len()] {
            let last = bytes.iter().rposition(|&byte| byte != 0);
            return Ok(length + last.map_or(0, |last| last as u64 + 1));
        }
    }
    Ok(0)
}

/// A file's text, of which a piece is in memory.
struct Text<'a> {
    length: u64,
    cancel: &'a Signals,
    tell: &'a dyn Fn(String),
    buffer: Vec<u8>,
    /// What is before this in the buffer has been taken.
    at: usize,
    /// The buffer's place in the file.
    offset: u64,
}

impl Text<'_> {
    fn position(&self) -> u64 {
        self.offset + self.at as u64
    }

    /// Reads another piece.
    fn more(&mut self, file: &File) -> Result<(), Stop> {
        if self.cancel.is_caught() {
            return Err(Stop::Io(io::Error::other("interrupted")));
        }
        self.buffer.drain(..self.at);
        self.offset += self.at as u64;
        self.at = 0;
        let end = self.offset + self.buffer.len() as u64;
        let wanted = self.length.saturating_sub(end).min(PIECE_BYTES as u64);
        let piece = read_at(file, end, wanted as usize).map_err(Stop::Io)?;
        self.buffer.extend_from_slice(&piece);
        if piece.is_empty() { Err(Stop::End) } else { Ok(()) }
    }

    fn skip_byte_order_mark(&mut self, file: &File) -> Result<(), Stop> {
        self.more(file)?;
        let mark = &b"\xef\xbb\xbf"[..self.buffer.len().min(3)];
        self.at += if self.buffer.starts_with(mark) { mark.len() } else { 0 };
        Ok(())
    }

    /// The next byte that is no blank, which stays.
    fn peek(&mut self, file: &File) -> Result<u8, Stop> {
        loop {
            let blanks = self.buffer[self.at..].iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
            self.at += blanks;
            match self.buffer.get(self.at) {
                Some(&byte) => return Ok(byte),
                None => self.more(file)?,
            }
        }
    }

    /// Takes the next byte that is no blank, which must be one of these.
    fn expect(&mut self, file: &File, expected: &[u8]) -> Result<u8, Stop> {
        let next = self.peek(file)?;
        if !expected.contains(&next) {
            let expected = String::from_utf8_lossy(expected);
            return Err(Stop::Damaged(format!("there is {} instead of `{expected}`", printable([next]))));
        }
        self.at += 1;
        Ok(next)
    }

    /// Takes a value, as it is written.
    fn value(&mut self, file: &File, max_bytes: usize) -> Result<&[u8], Stop> {
        self.peek(file)?;
        let mut end = ValueEnd::default();
        let length = loop {
            match end.find(&self.buffer[self.at..]) {
                Some(length) => break length,
                None if end.depth > MAX_DEPTH => return Err(Stop::Damaged("it is nested too deep".to_owned())),
                None if self.buffer.len() - self.at > max_bytes => {
                    return Err(Stop::Damaged(format!("there is a value of more than {max_bytes} bytes")));
                }
                None => self.more(file)?,
            }
        };
        let start = self.at;
        self.at += length;
        if length > max_bytes {
            return Err(Stop::Damaged(format!("there is a value of more than {max_bytes} bytes")));
        }
        Ok(&self.buffer[start..self.at])
    }
}

/// Looks for the end of a value in a text that grows.
#[derive(Default)]
struct ValueEnd {
    at: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl ValueEnd {
    /// The length of the value; None if it is not all there, or nested too deep. Whether it is JSON is not its concern.
    fn find(&mut self, text: &[u8]) -> Option<usize> {
        loop {
            // Most of a text means nothing here, and is passed over at once.
            let rest = text.get(self.at..)?;
            self.at += match self.in_string {
                true if !self.is_escaped => memchr2(b'"', b'\\', rest).unwrap_or(rest.len()),
                false if self.depth > 0 => {
                    rest.iter().position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']')).unwrap_or(rest.len())
                }
                _ => 0,
            };
            let byte = *text.get(self.at)?;
            let is_first = self.at == 0;
            self.at += 1;
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => continue,
                }
                if self.in_string || self.depth > 0 {
                    continue;
                }
                return Some(self.at);
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => return Some(self.at),
                b',' | b':' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => {
                    return Some(if is_first { self.at } else { self.at - 1 });
                }
                _ => {}
            }
            if self.depth > MAX_DEPTH {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXPORT: &str = "\u{feff}{\r\n  \"guild\": {\"id\": \"1\"},\n  \"channel\": {\"id\": \"1000000000000001\"},\n  \"messages\": [\n    {\n      \
        \"id\": \"1\",\n      \"timestamp\": \"2026-01-01T00:00:00+00:00\",\n      \"content\": \"}], \\\" {[ ü\"\n    },\n    {\"id\":\"2\",\
        \"timestamp\":\"2026-01-01T00:00:01.5+00:00\"}\n  ],\n  \"messageCount\": 2\n}\n";

    fn read(text: &[u8]) -> Export {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("export.json");
        std::fs::write(&path, text).unwrap();
        let file = crate::sys::file::open_regular(&path, crate::sys::file::Links::Refuse).unwrap();
        Export::read(file, &Signals::catch(&[]).unwrap(), &|_| {}).unwrap()
    }

    #[test]
    fn messages_are_found_at_any_indentation() {
        let export = read(EXPORT.as_bytes());
        assert_eq!(export.ending, Ending::Whole);
        let found: Vec<&str> =
            export.messages.iter().map(|m| &EXPORT[m.offset() as usize..(m.offset() + m.length()) as usize]).collect();
        assert!(found[0].starts_with("{\n      \"id\": \"1\"") && found[0].ends_with("ü\"\n    }"), "{found:?}");
        assert_eq!(found[1], r#"{"id":"2","timestamp":"2026-01-01T00:00:01.5+00:00"}"#);
        assert_eq!(export.member_as::<Channel>("channel").unwrap().id, "1000000000000001");
        assert!(export.has_message_count && raw(&export.members, "guild") == Some(r#"{"id": "1"}"#));
    }

    #[test]
    fn cut_anywhere_it_has_the_messages_that_are_whole() {
        let ends: Vec<usize> =
            read(EXPORT.as_bytes()).messages.iter().map(|m| (m.offset() + m.length()) as usize).collect();
        for cut in 0..EXPORT.trim_end().len() {
            for nuls in [0, 3] {
                let text = [&EXPORT.as_bytes()[..cut], &vec![0; nuls]].concat();
                let export = read(&text);
                assert_eq!(export.ending, Ending::Cut, "{cut}");
                assert_eq!(export.messages.len(), ends.iter().filter(|end| **end <= cut).count(), "{cut}");
            }
        }
    }

    #[test]
    fn what_is_no_export_is_damaged() {
        let deep = format!("{{\"messages\": [{}", "[".repeat(100_000));
        let long = format!("{{\"messages\": [{{\"id\": \"{}", "1".repeat(MESSAGE_MAX_BYTES + PIECE_BYTES));
        for (text, why) in [
            ("[]", "instead of `{`"),
            ("{} x", "behind its end"),
            ("{\"messages\": [7]}", "message is not"),
            ("{\"messages\": [{\"id\": \"1\"} {\"id\": \"2\"}]}", "instead of `,]`"),
            ("{\"messages\": [{\"id\": \"1\" x}]}", "message is not"),
            ("{\"messages\": [{\"id\": \"1\"}]], \"messages\": []}", "instead of `,}`"),
            ("{\"messages\": [{\"id\": \"1\"}], \"messages\": [{\"id\": \"2\"}]}", "messages twice"),
            ("{\"a\": \u{0}1}", "not JSON"),
            (&deep, "too deep"),
            (&long, "a value of more than"),
        ] {
            let Ending::Damaged(found) = read(text.as_bytes()).ending else { panic!("{text:.60}") };
            assert!(found.contains(why), "{text:.60}: {found}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
            read(&[b"{\"messages\": [", &bytes[..]].concat());
        }
    }
}
