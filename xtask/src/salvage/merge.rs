//! Two exports of one channel as one: every message once, in the scraper's order, each copied from where it is.

use crate::salvage::export::{Export, raw, set};
use crate::salvage::message::Message;
use crate::sys::file::read_at;
use crate::sys::signals::Signals;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};

/// How much is copied at once, in bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// Closer together than this, no message fits between two others: `{"id":"1"}`.
const GAP_MAX_BYTES: u64 = 10;

/// What an archive will be.
pub(crate) struct Merged<'a> {
    sources: [Option<&'a File>; 2],
    members: Vec<(String, String)>,
    has_message_count: bool,
    /// Those of the newer export and the rest of the older one's, each in order.
    messages: [Vec<Message>; 2],
}

/// Bytes of a source that are copied together.
struct Run {
    source: usize,
    start: u64,
    end: u64,
}

impl<'a> Merged<'a> {
    /// The older and the newer one, with their messages. Where both have a message, the newer one's is taken.
    pub(crate) fn new([older, newer]: [(Option<&'a Export>, Vec<Message>); 2]) -> Merged<'a> {
        let exports = [newer.0, older.0];
        let members = exports.map(|export| export.map_or(&[][..], |export| &export.members));
        let members = merged_members(members[1], members[0]);
        let has_message_count = exports.iter().flatten().any(|export| export.has_message_count);
        let sources = exports.map(|export| export.map(|export| &export.file));
        let mut messages = [newer.1, older.1];
        for messages in &mut messages {
            messages.sort_unstable_by_key(|message| message.by_id());
            // The last one counts.
            messages.dedup_by(|next, kept| {
                let is_same = next.id == kept.id;
                *kept = if is_same { *next } else { *kept };
                is_same
            });
        }
        let [newer, older] = &mut messages;
        let mut ids = newer.iter().map(|message| message.id).peekable();
        older.retain(|message| {
            while ids.next_if(|id| *id < message.id).is_some() {}
            ids.peek() != Some(&message.id)
        });
        messages.iter_mut().for_each(|messages| messages.sort_unstable_by(Message::by_time));
        Merged { sources, members, has_message_count, messages }
    }

    /// Number of messages.
    pub(crate) fn count(&self) -> usize {
        self.messages.iter().map(Vec::len).sum()
    }

    /// Writes it as the exporter does, indented by two blanks.
    pub(crate) fn write(&self, out: &mut impl Write, cancel: &Signals, tell: &dyn Fn(u64)) -> io::Result<()> {
        let mut written = 0;
        let mut start = String::from("{\n");
        for (key, value) in &self.members {
            start += &format!("  {}: {value},\n", serde_json::to_string(key)?);
        }
        out.write_all((start + "  \"messages\": [").as_bytes())?;
        let mut separator = "\n    ";
        for run in self.runs() {
            out.write_all(separator.as_bytes())?;
            separator = ",\n    ";
            let mut at = run.start;
            while at < run.end {
                let length = (run.end - at).min(PIECE_BYTES);
                let file = self.sources[run.source].ok_or(io::ErrorKind::NotFound)?;
                let piece = read_at(file, at, length as usize)?;
                if piece.len() as u64 != length || cancel.is_caught() {
                    return Err(io::Error::other(if cancel.is_caught() {
                        "interrupted"
                    } else {
                        "a source became shorter"
                    }));
                }
                out.write_all(&piece)?;
                at += length;
                written += length;
                tell(written);
            }
        }
        let end = if self.count() == 0 { "]" } else { "\n  ]" };
        let message_count = self.has_message_count.then(|| format!(",\n  \"messageCount\": {}", self.count()));
        out.write_all(format!("{end}{}\n}}\n", message_count.unwrap_or_default()).as_bytes())
    }

    /// The messages in their order; neighbours in a source together, with what is between them.
    fn runs(&self) -> impl Iterator<Item = Run> {
        let [mut newer, mut older] = self.messages.each_ref().map(|messages| messages.iter().peekable());
        let messages = std::iter::from_fn(move || {
            let is_newers = match (newer.peek(), older.peek()) {
                (Some(a), Some(b)) => a.by_time(b).is_lt(),
                (a, _) => a.is_some(),
            };
            let next = if is_newers { newer.next() } else { older.next() };
            next.map(|message| (usize::from(!is_newers), message.offset(), message.length()))
        });
        let mut messages = messages.peekable();
        std::iter::from_fn(move || {
            let (source, start, length) = messages.next()?;
            let mut run = Run { source, start, end: start + length };
            let is_next = |run: &Run, (source, start, _): &(usize, u64, u64)| {
                *source == run.source && *start > run.end && start - run.end < GAP_MAX_BYTES
            };
            while let Some((_, start, length)) = messages.next_if(|next| is_next(&run, next)) {
                run.end = start + length;
            }
            Some(run)
        })
    }
}

/// The members as the scraper merges them (`merge_exports` of its run-discord-scrape.sh): the newer export's, but the
/// date range of both together.
fn merged_members(older: &[(String, String)], newer: &[(String, String)]) -> Vec<(String, String)> {
    let mut members = older.to_vec();
    newer.iter().cloned().for_each(|(key, value)| set(&mut members, key, value));
    if !older.is_empty() {
        let ranges = [older, newer].map(|members| {
            let range = raw(members, "dateRange").unwrap_or_default();
            serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(range).unwrap_or_default()
        });
        let [older_range, newer_range] = &ranges;
        let first = |key: &str, ranges: [&BTreeMap<String, Box<RawValue>>; 2]| {
            let values = ranges.into_iter().filter_map(|range| range.get(key)).map(|value| value.get());
            first_set(values).to_owned()
        };
        let after = first("after", [older_range, newer_range]);
        let before = first("before", [newer_range, older_range]);
        let range = format!("{{\n    \"after\": {after},\n    \"before\": {before}\n  }}");
        set(&mut members, "dateRange".to_owned(), range);
        let exported_at = first_set([newer, older].iter().filter_map(|members| raw(members, "exportedAt"))).to_owned();
        set(&mut members, "exportedAt".to_owned(), exported_at);
    }
    members
}

/// As jq's `//`.
fn first_set<'a>(mut values: impl Iterator<Item = &'a str>) -> &'a str {
    values.find(|value| !matches!(*value, "null" | "false")).unwrap_or("null")
}
