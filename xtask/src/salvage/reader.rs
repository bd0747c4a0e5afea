//! Reads an export: a piece of it is in memory, and what must be kept of it.

use crate::salvage::message::{Keys, MESSAGE_MAX_BYTES, Message};
use crate::sys::file::{append_at, read_at};
use crate::sys::signals::Signals;
use crate::text::{Nesting, count, printable, size};
use memchr::memchr2_iter;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;
use std::fs::File;
use std::io;

/// How much is read at once, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Maximum size of a value before or after the messages; the exporter writes less than 2 KiB in all.
const MEMBER_MAX_BYTES: usize = 1 << 20;

/// Maximum number of members; the exporter writes 6.
const MAX_MEMBERS: usize = 100;

/// Maximum depth of a value; the exporter's are not 20 deep, and the scraper's jq may end at 256.
const MAX_DEPTH: usize = 200;

/// Offsets are kept in 40 bits.
const FILE_MAX_BYTES: u64 = 1 << 40;

/// Why the reading stopped.
pub(crate) enum Stop {
    End,
    Damaged(String),
    Io(io::Error),
}

/// What it reads, and what it has read.
pub(crate) struct Reader<'a> {
    file: &'a File,
    /// Of the file, in bytes; then without the NULs at its end.
    length: u64,
    cancel: &'a Signals,
    tell: &'a dyn Fn(String),
    buffer: Vec<u8>,
    /// What is before this in the buffer has been taken.
    at: usize,
    /// The buffer's place in the file.
    offset: u64,
    /// All but `messages` and `messageCount`, their values as they were written.
    pub(crate) members: Vec<(String, String)>,
    pub(crate) has_message_count: bool,
    /// In the order of the file.
    pub(crate) messages: Vec<Message>,
}

impl<'a> Reader<'a> {
    /// Of a file of that many bytes; `tell` hears how far it is.
    pub(crate) fn new(file: &'a File, length: u64, cancel: &'a Signals, tell: &'a dyn Fn(String)) -> Reader<'a> {
        let (buffer, members, messages) = (Vec::new(), Vec::new(), Vec::new());
        Reader { file, length, cancel, tell, buffer, at: 0, offset: 0, members, has_message_count: false, messages }
    }

    /// Reads all of it, or as far as it can be read.
    pub(crate) fn export(&mut self) -> Result<(), Stop> {
        if self.length > FILE_MAX_BYTES {
            return Err(Stop::Damaged("it is larger than 1 TiB".to_owned()));
        }
        self.leave_out_nuls()?;
        self.skip_byte_order_mark()?;
        self.list(b"{}", Self::member)?;
        match self.peek() {
            Err(Stop::End) => Ok(()),
            Err(stop) => Err(stop),
            Ok(_) => Err(Stop::Damaged("there is text after its end".to_owned())),
        }
    }

    /// Takes a list between two brackets, item by item.
    fn list(&mut self, brackets: &[u8; 2], item: fn(&mut Self) -> Result<(), Stop>) -> Result<(), Stop> {
        let [open, close] = *brackets;
        self.expect(&[open])?;
        if self.peek()? == close {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            if self.expect(&[b',', close])? == close {
                return Ok(());
            }
        }
    }

    fn member(&mut self) -> Result<(), Stop> {
        let key: String = self.value(MEMBER_MAX_BYTES)?;
        self.expect(b":")?;
        if key == "messages" {
            if !self.messages.is_empty() {
                return Err(Stop::Damaged("it has messages twice".to_owned()));
            }
            return self.list(b"[]", Self::message);
        }
        let value: Box<RawValue> = self.value(MEMBER_MAX_BYTES)?;
        if key == "messageCount" {
            self.has_message_count = true;
            return Ok(());
        }
        set(&mut self.members, key, value.get().to_owned());
        let length: usize = self.members.iter().map(|(key, value)| key.len() + value.len()).sum();
        if self.members.len() > MAX_MEMBERS || length > MEMBER_MAX_BYTES {
            return Err(Stop::Damaged("there is too much beside the messages".to_owned()));
        }
        Ok(())
    }

    fn message(&mut self) -> Result<(), Stop> {
        if self.peek()? != b'{' {
            return Err(Stop::Damaged("a message is not an object".to_owned()));
        }
        let offset = self.position();
        let keys: Keys = self.value(MESSAGE_MAX_BYTES)?;
        let message = Message::new(offset, self.position() - offset, &keys).map_err(Stop::Damaged)?;
        self.messages.push(message);
        if self.messages.len().is_multiple_of(4096) {
            (self.tell)(format!("{} read, {}", size(self.position()), count(self.messages.len(), "message")));
        }
        Ok(())
    }

    /// Takes a value.
    fn value<T: DeserializeOwned>(&mut self, max_bytes: usize) -> Result<T, Stop> {
        self.peek()?;
        loop {
            let rest = &self.buffer[self.at..];
            let mut json = serde_json::Deserializer::from_slice(rest);
            let found = T::deserialize(&mut json);
            let length = json.into_iter::<IgnoredAny>().byte_offset();
            match found {
                _ if length > max_bytes => {
                    return Err(Stop::Damaged(format!("there is a value of more than {max_bytes} bytes")));
                }
                Err(error) if length < rest.len() => {
                    return Err(Stop::Damaged(format!("it is not an export's JSON: {}", printable(error.to_string()))));
                }
                // A number may go on in the next piece.
                Ok(value) if length < rest.len() || self.is_last() => {
                    if is_too_deep(&rest[..length]) {
                        return Err(Stop::Damaged("it is nested too deep".to_owned()));
                    }
                    if std::str::from_utf8(&rest[..length]).is_err() {
                        return Err(Stop::Damaged("it is not UTF-8".to_owned()));
                    }
                    self.at += length;
                    return Ok(value);
                }
                _ => self.more()?,
            }
        }
    }

    /// How far it has come, in bytes.
    pub(crate) fn position(&self) -> u64 {
        self.offset + self.at as u64
    }

    /// Whether the rest of the file is in memory.
    fn is_last(&self) -> bool {
        self.offset + self.buffer.len() as u64 >= self.length
    }

    /// Reads another piece.
    fn more(&mut self) -> Result<(), Stop> {
        self.check_cancelled()?;
        self.buffer.drain(..self.at);
        self.offset += self.at as u64;
        self.at = 0;
        let end = self.offset + self.buffer.len() as u64;
        // The longer a value, the less often it is read again from its start.
        let wanted = self.buffer.len().max(PIECE_BYTES) as u64;
        let wanted = wanted.min(self.length.saturating_sub(end)) as usize;
        match append_at(self.file, end, wanted, &mut self.buffer).map_err(Stop::Io)? {
            0 => Err(Stop::End),
            _ => Ok(()),
        }
    }

    fn check_cancelled(&self) -> Result<(), Stop> {
        if self.cancel.is_caught() { Err(Stop::Io(io::Error::other("interrupted"))) } else { Ok(()) }
    }

    fn leave_out_nuls(&mut self) -> Result<(), Stop> {
        let nuls = vec![0; PIECE_BYTES];
        while self.length > 0 {
            self.check_cancelled()?;
            let piece = self.length.min(PIECE_BYTES as u64);
            let bytes = read_at(self.file, self.length - piece, piece as usize).map_err(Stop::Io)?;
            if bytes != nuls[..bytes.len()] {
                let last = bytes.iter().rposition(|&byte| byte != 0);
                self.length -= piece - last.map_or(0, |last| last as u64 + 1);
                break;
            }
            self.length -= piece;
        }
        Ok(())
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), Stop> {
        self.more()?;
        let mark = &b"\xef\xbb\xbf"[..self.buffer.len().min(3)];
        self.at += if self.buffer.starts_with(mark) { mark.len() } else { 0 };
        Ok(())
    }

    /// The next byte that is not whitespace, which stays.
    fn peek(&mut self) -> Result<u8, Stop> {
        loop {
            self.at += self.buffer[self.at..].iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
            match self.buffer.get(self.at) {
                Some(&byte) => return Ok(byte),
                None => self.more()?,
            }
        }
    }

    /// Takes the next byte that is not whitespace, which must be one of these.
    fn expect(&mut self, expected: &[u8]) -> Result<u8, Stop> {
        let next = self.peek()?;
        if !expected.contains(&next) {
            let expected = String::from_utf8_lossy(expected);
            return Err(Stop::Damaged(format!("there is {} instead of one of `{expected}`", printable([next]))));
        }
        self.at += 1;
        Ok(next)
    }
}

/// Sets a key, in its place if it is there.
pub(crate) fn set(members: &mut Vec<(String, String)>, key: String, value: String) {
    match members.iter_mut().find(|(name, _)| *name == key) {
        Some(member) => member.1 = value,
        None => members.push((key, value)),
    }
}

/// Whether a value, which is JSON, is nested deeper than [`MAX_DEPTH`].
fn is_too_deep(value: &[u8]) -> bool {
    // Nearly always this is the answer, and found much faster.
    if memchr2_iter(b'{', b'[', value).nth(MAX_DEPTH).is_none() {
        return false;
    }
    let mut nesting = Nesting::default();
    value.iter().any(|byte| {
        nesting.pass(*byte);
        nesting.depth > MAX_DEPTH
    })
}
