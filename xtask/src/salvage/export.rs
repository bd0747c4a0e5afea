//! One pass over an export, however large: where each message begins and ends, and what stands around them. The
//! messages themselves stay in the file, to be copied byte for byte.

use crate::salvage::message::Message;
use crate::salvage::reader::{Reader, Stop};
use crate::sys::signals::Signals;
use rustix::fs::{Stat, fstat};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io;

/// An export: its file, and what is in it.
pub(crate) struct Export {
    pub(crate) file: File,
    pub(crate) stat: Stat,
    /// The members but `messages` and `messageCount`, their values as they were written.
    pub(crate) members: Vec<(String, String)>,
    /// Whether it has, or is to have, a `messageCount`.
    pub(crate) has_message_count: bool,
    /// Each id once, in the order of the ids; of several with one id, the last in the file.
    pub(crate) messages: Vec<Message>,
    pub(crate) ending: Ending,
}

/// How an export ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    /// In the middle, and all of it could be the beginning of an export. NULs at the end, which a power failure may
    /// leave, do not count.
    Cut,
    /// At something that an export cannot have, whatever comes after it.
    Damaged(String),
}

impl Ending {
    pub(crate) fn damage(&self) -> Option<&str> {
        if let Ending::Damaged(why) = self { Some(why) } else { None }
    }
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
        let mut reader = Reader::new(&file, stat.st_size.max(0) as u64, cancel, tell);
        let ending = match reader.export() {
            Ok(()) => Ending::Whole,
            Err(Stop::End) => Ending::Cut,
            Err(Stop::Damaged(why)) => Ending::Damaged(format!("{why}, at byte {}", reader.position())),
            Err(Stop::Io(error)) => return Err(error),
        };
        let Reader { members, has_message_count, mut messages, .. } = reader;
        messages.sort_unstable_by_key(|message| message.by_id());
        messages.dedup_by(|next, kept| {
            let is_same = next.id == kept.id;
            *kept = if is_same { *next } else { *kept };
            is_same
        });
        messages.shrink_to_fit();
        let has_message_count = has_message_count || ending != Ending::Whole;
        Ok(Export { file, stat, members, has_message_count, messages, ending })
    }

    /// A member's value, parsed.
    pub(crate) fn member_as<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let (_, value) = self.members.iter().find(|(name, _)| name == key)?;
        serde_json::from_str(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::salvage::message::MESSAGE_MAX_BYTES;
    use proptest::prelude::*;

    const EXPORT: &str = "\u{feff}{\r\n  \"guild\": {\"id\": \"1\"},\n  \"channel\": {\"id\": \"1000000000000001\"},\n  \"messages\": [\n    {\n      \
        \"id\": \"1\",\n      \"timestamp\": \"2026-01-01T00:00:00+00:00\",\n      \"n\": -1.5e3,\n      \"content\": \"}], \\\" {[ ü\"\n    },\n    {\"id\":\"2\",\
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
        assert!(export.has_message_count && export.members[0].1 == r#"{"id": "1"}"#);
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
        let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
        let deep = format!("{{\"messages\": [{{\"id\": \"1\", \"x\": {open}{close}}}]}}");
        let many: String = (0..200).map(|number| format!(", \"{number}\": 1")).collect();
        let many = format!("{{{}}}", &many[2..]);
        let long = format!("{{\"messages\": [{{\"id\": \"{}", "1".repeat(MESSAGE_MAX_BYTES + 1));
        for (text, why) in [
            ("[]", "instead of one of `{`"),
            ("{} x", "after its end"),
            ("{\"messages\": [7]}", "not an object"),
            ("{\"messages\": [[\"1\"]]}", "not an object"),
            ("{\"messages\": [{\"id\": 7}]}", "invalid type"),
            ("{\"messages\": [{\"timestamp\": null}]}", "missing field `id`"),
            ("{\"messages\": [{\"id\": \"1\"} {\"id\": \"2\"}]}", "instead of one of `,]`"),
            ("{\"messages\": [{\"id\": \"1\" x}]}", "not an export's JSON"),
            ("{\"messages\": [{\"id\": \"1\"}]], \"messages\": []}", "instead of one of `,}`"),
            ("{\"messages\": [{\"id\": \"1\"}], \"messages\": [{\"id\": \"2\"}]}", "messages twice"),
            ("{\"a\": \u{0}1}", "not an export's JSON"),
            ("{\"messages\": {\"k\": []}}", "instead of one of `[`"),
            ("{\"messages\": [{\"id\": \"1\", \"content\": \"\0\"", "control character"),
            (&many, "too much beside"),
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
