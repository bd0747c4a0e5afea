//! A message in an index: where it is in its file, and what it is sorted by, in 24 bytes.

use serde::Deserialize;
use std::cmp::Ordering;
use std::time::{Duration, SystemTime};

/// Lengths are kept in 24 bits; the exporter's messages have a few KiB.
pub(crate) const MESSAGE_MAX_BYTES: usize = (1 << LENGTH_BITS) - 1;
const LENGTH_BITS: u32 = 24;

/// The years that fit.
const FIRST_YEAR: u64 = 1970;
const YEARS: u64 = 128;

/// Digits of a second's fraction, as .NET writes them.
const FRACTION_DIGITS: usize = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) id: u64,
    /// 0 without a timestamp. The order is that of the text, as the scraper sorts it.
    time: u64,
    /// Offset and length.
    place: u64,
}

/// What is read of a message.
#[derive(Deserialize)]
pub(crate) struct Keys {
    id: String,
    #[serde(default)]
    timestamp: Option<String>,
}

impl Message {
    /// # Errors
    /// It cannot be sorted.
    pub(crate) fn new(offset: u64, length: u64, keys: &Keys) -> Result<Message, String> {
        let is_plain =
            keys.id.bytes().all(|byte| byte.is_ascii_digit()) && !(keys.id.starts_with('0') && keys.id.len() > 1);
        let id = keys.id.parse().ok().filter(|_| is_plain);
        let id = id.ok_or_else(|| format!("a message has the id {}", crate::text::quoted(&keys.id)))?;
        let time = keys.timestamp.as_deref().map_or(Some(0), time_key);
        let time = time.ok_or_else(|| format!("message {id} has no usable timestamp"))?;
        Ok(Message { id, time, place: offset << LENGTH_BITS | length })
    }

    /// In its file, in bytes.
    pub(crate) fn offset(self) -> u64 {
        self.place >> LENGTH_BITS
    }

    /// In bytes.
    pub(crate) fn length(self) -> u64 {
        self.place & MESSAGE_MAX_BYTES as u64
    }

    /// By id; the same message twice in the order of the file.
    pub(crate) fn by_id(self) -> (u64, u64) {
        (self.id, self.place)
    }

    /// The scraper's order: by timestamp, then by id, both as text.
    pub(crate) fn by_time(&self, other: &Message) -> Ordering {
        self.time.cmp(&other.time).then_with(|| match self.id.checked_ilog10() == other.id.checked_ilog10() {
            true => self.id.cmp(&other.id),
            false => self.id.to_string().cmp(&other.id.to_string()),
        })
    }
}

/// A timestamp such as `2026-01-31T12:34:56.789+01:00` as a number, in the order of the text (where `Z` comes last).
pub(crate) fn time_key(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize, limit: u64| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u64>().ok().filter(|number| *number < limit)
    };
    let is_shaped = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !is_shaped.iter().all(|(at, byte)| text.as_bytes().get(*at) == Some(byte)) {
        return None;
    }
    let year = number(0, 4, FIRST_YEAR + YEARS)?.checked_sub(FIRST_YEAR)?;
    let day = (year * 13 + number(5, 7, 13)?) * 32 + number(8, 10, 32)?;
    let second = ((day * 24 + number(11, 13, 24)?) * 60 + number(14, 16, 60)?) * 61 + number(17, 19, 61)?;
    let rest = &text[19..];
    let zone_at = rest.find(['+', '-', 'Z'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let mut fraction_rank = fraction_rank(fraction)?;
    // A number of 2 * 60 quarters of an hour, and `Z`.
    let hours = |zone: &str| {
        let at = 19 + zone_at;
        let (hours, minutes) = (number(at + 1, at + 3, 15)?, number(at + 4, at + 6, 60)?);
        (zone.len() == 6 && zone.as_bytes()[3] == b':' && minutes.is_multiple_of(15))
            .then_some(hours * 4 + minutes / 15)
    };
    let zone_rank = match zone.as_bytes()[0] {
        b'+' => hours(zone)?,
        b'-' => 60 + hours(zone)?,
        // After everything that begins alike, as it is no digit: the longer of two comes first.
        _ if zone == "Z" => {
            let digits = fraction.len().saturating_sub(1);
            fraction_rank += strings(FRACTION_DIGITS - digits) - 1;
            127 - digits as u64
        }
        _ => return None,
    };
    // 0 is the message without a timestamp.
    Some((second * strings(FRACTION_DIGITS) + fraction_rank) * 128 + zone_rank + 1)
}

/// The moment of such a timestamp, wherever it was written.
pub(crate) fn moment(text: &str) -> Option<SystemTime> {
    let zone_at = 19 + text.get(19..)?.find(['+', '-', 'Z'])?;
    let (local, zone) = text.split_at(zone_at);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let (hours, minutes) = if zone == "Z" { ("0", "0") } else { zone[1..].split_once(':')? };
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number < 60).map(u64::from);
    let offset = Duration::from_secs((number(hours)? * 60 + number(minutes)?) * 60);
    if zone.starts_with('-') { local.checked_add(offset) } else { local.checked_sub(offset) }
}

/// The number of texts of at most so many digits.
fn strings(digits: usize) -> u64 {
    (0..=digits as u32).map(|length| 10_u64.pow(length)).sum()
}

/// The place of a fraction such as `.5` or nothing among all of them, in the order of the text.
fn fraction_rank(fraction: &str) -> Option<u64> {
    let digits = match fraction.strip_prefix('.') {
        Some(digits) if (1..=FRACTION_DIGITS).contains(&digits.len()) => digits,
        None if fraction.is_empty() => "",
        _ => return None,
    };
    let mut rank = 0;
    for (index, byte) in digits.bytes().enumerate() {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        rank += 1 + digit * strings(FRACTION_DIGITS - 1 - index);
    }
    Some(rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(text: &str) -> Result<Message, String> {
        Message::new(1 << 39, text.len() as u64, &serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_message_takes_24_bytes_in_the_index() {
        assert_eq!(size_of::<Message>(), 24);
        let message = message(r#"{"id":"18446744073709551615"}"#).unwrap();
        assert_eq!((message.offset(), message.length(), message.id), (1 << 39, 29, u64::MAX));
    }

    #[test]
    fn what_cannot_be_sorted_is_refused() {
        for (text, why) in [
            (r#"{"id":"18446744073709551616"}"#, "a message has the id `18446744073709551616`"),
            (r#"{"id":"01"}"#, "a message has the id `01`"),
            (r#"{"id":""}"#, "a message has the id ``"),
            (r#"{"id":"1","timestamp":"yesterday"}"#, "message 1 has no usable timestamp"),
            (r#"{"id":"1","timestamp":"2026-01-01T00:00:00+00:00é"}"#, "message 1 has no usable timestamp"),
            (r#"{"id":"1","timestamp":"2026-01-0éT00:00:00+00:00"}"#, "message 1 has no usable timestamp"),
        ] {
            assert!(message(text).unwrap_err().starts_with(why), "{text}");
        }
    }

    #[test]
    fn moments_are_compared_across_zones() {
        let late = moment("2026-01-02T00:00:00+00:00").unwrap();
        for (text, is_earlier) in [
            ("2026-01-02T02:00:00+05:00", true),
            ("2026-01-01T23:59:59.9999999Z", true),
            ("2026-01-01T20:00:00-05:30", false),
            ("2026-01-02T00:00:00.1+00:00", false),
        ] {
            assert_eq!(moment(text).unwrap() < late, is_earlier, "{text}");
        }
        for text in ["", "yesterday", "2026-01-02T00:00:00", "2026-01-02T00:00:00+é", "2026-01-02T00:00:00+x:00"] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_text(
            texts in proptest::collection::vec(r"20[0-3][0-9]-[01][0-2]-[0-2][0-9]T[01][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,7})?(Z|[+-](0[0-9]|1[0-4]):(00|15|30|45))", 2..9),
            near in r"(\.[0-9]{1,3})?(Z|[+-]0[0-1]:00)",
            nearer in r"(\.9{1,7})?(Z|[+-]0[0-1]:00)",
        ) {
            let near = [near, nearer].map(|rest| format!("{}{rest}", &texts[0][..19]));
            for a in texts.iter().chain(&near) {
                for b in texts.iter().chain(&near) {
                    prop_assert_eq!(time_key(a).unwrap().cmp(&time_key(b).unwrap()), a.cmp(b), "{} {}", a, b);
                }
            }
        }

        #[test]
        fn ids_are_sorted_as_text(a: u64, b: u64, short in 0_u64..1000) {
            let message = |id: u64| Message { id, time: 7, place: 0 };
            for b in [b, short, a / 10] {
                prop_assert_eq!(message(a).by_time(&message(b)), a.to_string().cmp(&b.to_string()));
            }
        }
    }
}
