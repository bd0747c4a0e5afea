//! Two exports of one channel as one: every message once, in the scraper's order, each copied from where it is.

use crate::salvage::export::Export;
use crate::salvage::message::Message;
use crate::salvage::reader::set;
use crate::sys::file::append_at;
use crate::sys::signals::Signals;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{self, Write};

/// How much is copied at once, in bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// Closer together than this, no message fits between two others: `{"id":"1"}`.
const GAP_MAX_BYTES: u64 = 10;

/// What an archive will be. Of two messages with one id, the newer export's counts.
pub(crate) struct Merged {
    /// One or two, the newer one last. Of their messages, those that count, in the scraper's order.
    pub(crate) exports: Vec<Export>,
    members: Vec<(String, String)>,
}

/// Bytes of a source that are copied together.
struct Run {
    source: usize,
    start: u64,
    end: u64,
}

impl Merged {
    pub(crate) fn new(mut exports: Vec<Export>) -> Merged {
        let members = merged_members(&exports);
        if let [older, newer] = &mut exports[..] {
            let mut ids = newer.messages.iter().map(|message| message.id).peekable();
            older.messages.retain(|message| {
                while ids.next_if(|id| *id < message.id).is_some() {}
                ids.peek() != Some(&message.id)
            });
        }
        exports.iter_mut().for_each(|export| export.messages.sort_unstable_by(Message::by_time));
        Merged { exports, members }
    }

    /// Number of messages.
    pub(crate) fn count(&self) -> usize {
        self.exports.iter().map(|export| export.messages.len()).sum()
    }

    /// Writes it as the exporter does, indented by two blanks.
    pub(crate) fn write(&self, out: &mut impl Write, cancel: &Signals, tell: &dyn Fn(u64)) -> io::Result<()> {
        let mut written = 0;
        let mut start = String::from("{\n");
        for (key, value) in &self.members {
            start += &format!("  {}: {value},\n", serde_json::to_string(key)?);
        }
        out.write_all((start + "  \"messages\": [").as_bytes())?;
        let (mut separator, mut piece) = ("\n    ", Vec::new());
        for run in self.runs() {
            out.write_all(separator.as_bytes())?;
            separator = ",\n    ";
            let mut at = run.start;
            while at < run.end {
                let length = (run.end - at).min(PIECE_BYTES);
                if cancel.is_caught() {
                    return Err(io::Error::other("interrupted"));
                }
                piece.clear();
                if append_at(&self.exports[run.source].file, at, length as usize, &mut piece)? as u64 != length {
                    return Err(io::Error::other("a file shrank while it was copied"));
                }
                out.write_all(&piece)?;
                at += length;
                written += length;
                tell(written);
            }
        }
        let end = if self.count() == 0 { "]" } else { "\n  ]" };
        let has_message_count = self.exports.iter().any(|export| export.has_message_count);
        let message_count = has_message_count.then(|| format!(",\n  \"messageCount\": {}", self.count()));
        out.write_all(format!("{end}{}\n}}\n", message_count.unwrap_or_default()).as_bytes())
    }

    /// The messages in their order; neighbours in a source together, with what is between them.
    fn runs(&self) -> impl Iterator<Item = Run> {
        let mut left: Vec<_> = self.exports.iter().map(|export| export.messages.iter().peekable()).collect();
        let messages = std::iter::from_fn(move || {
            let heads = left.iter_mut().enumerate().filter_map(|(source, left)| Some((source, **left.peek()?)));
            let (source, message) = heads.min_by(|(_, a), (_, b)| a.by_time(b))?;
            left[source].next();
            Some((source, message.offset(), message.length()))
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

#[derive(Default, Deserialize)]
struct DateRange {
    after: Option<Box<RawValue>>,
    before: Option<Box<RawValue>>,
}

/// The members as the scraper merges them (`merge_exports` of its run-discord-scrape.sh): the newer export's, but the
/// date range of both together.
fn merged_members(exports: &[Export]) -> Vec<(String, String)> {
    let mut members = Vec::new();
    for (key, value) in exports.iter().flat_map(|export| &export.members) {
        set(&mut members, key.clone(), value.clone());
    }
    let [older, newer] = exports else { return members };
    let range = |export: &Export| export.member_as::<DateRange>("dateRange").unwrap_or_default();
    let (old, new) = (range(older), range(newer));
    let raw = |value: Option<Box<RawValue>>| value.map_or_else(|| "null".to_owned(), |value| value.get().to_owned());
    let (after, before) = (raw(old.after.or(new.after)), raw(new.before.or(old.before)));
    let range = format!("{{\n    \"after\": {after},\n    \"before\": {before}\n  }}");
    set(&mut members, "dateRange".to_owned(), range);
    let exported_at = |export: &Export| export.member_as::<Option<Box<RawValue>>>("exportedAt").flatten();
    set(&mut members, "exportedAt".to_owned(), raw(exported_at(newer).or_else(|| exported_at(older))));
    members
}
