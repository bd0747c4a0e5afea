//! Channel ids: 16 to 22 digits, in the config, in a channel map and in the names of exports.

/// The id in an export's name: `Guild - channel [ID].json`.
pub(crate) fn seeded_id(name: &[u8]) -> Option<u128> {
    let name = name.strip_suffix(b"].json")?;
    let start = name.iter().rposition(|&byte| byte == b'[')?;
    channel_id(&name[start + 1..])
}

/// A channel's id of 16 to 22 digits, after a 1 that keeps its leading zeros.
pub(crate) fn channel_id(digits: &[u8]) -> Option<u128> {
    let is_id = (16..=22).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_id.then(|| digits.iter().fold(1, |id, digit| id * 10 + u128::from(digit - b'0')))
}

/// The digits of an id.
pub(crate) fn channel_text(id: u128) -> String {
    id.to_string()[1..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_16_to_22_digits_at_the_end_of_the_name() {
        let is_seeded = |name: &str| seeded_id(name.as_bytes()).is_some();
        assert!(is_seeded("Guild - general [1234567890123456].json"));
        assert!(is_seeded("[x] a [1234567890123456789012].json"));
        for name in [
            "a [123456789012345].json",
            "a [12345678901234567890123].json",
            "a [1234567890123456] (2).json",
            "a 1234567890123456].json",
            "a [123456789012345x].json",
            "a [1234567890123456].json.tmp",
        ] {
            assert!(!is_seeded(name), "{name}");
        }
        assert_ne!(channel_id(b"0000000000000001"), channel_id(b"00000000000000001"));
        assert_eq!(channel_text(channel_id(b"0000000000000001").unwrap()), "0000000000000001");
    }
}
