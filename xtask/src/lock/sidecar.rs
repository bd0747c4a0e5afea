//! The `.meta` sidecar: what whoever holds the lock says of itself.
//!
//! The archive folder is shared, so this is a claim by a stranger: it is read
//! within bounds and never decides whether the lock is held.

use crate::bounded::{self, Links, ReadError};
use crate::lock::path::sidecar_path;
use std::path::Path;
use std::time::SystemTime;

/// More of a sidecar than this is not read, in bytes.
const LARGEST: u64 = 64 << 10;

/// The first value of each key that is known. Foreign text, not fit to be printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(crate) pid: Option<RecordedPid>,
    pub(crate) started: Option<Vec<u8>>,
    pub(crate) cmd: Option<Vec<u8>>,
    pub(crate) host: Option<Vec<u8>>,
    pub(crate) boot_id: Option<Vec<u8>>,
}

/// What stands behind `pid=`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RecordedPid {
    /// A positive decimal. It may be above any pid there can be.
    Usable(u64),
    /// Anything else.
    Unusable(Vec<u8>),
}

/// What stands in the sidecar's place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Sidecar(Sidecar),
    /// Something that is no sidecar, and what it is.
    NotASidecar(String),
    /// What may be a sidecar and could not be read, and why.
    Unreadable(String),
}

/// Looks at the sidecar beside `lock`. Links are not followed: whoever may write
/// to the archive could point one at a file that only the reader may see.
pub(crate) fn read(lock: &Path) -> Found {
    match bounded::read_start(&sidecar_path(lock), Links::Refuse, LARGEST) {
        Ok((bytes, _)) => Found::Sidecar(Sidecar::parse(&bytes)),
        Err(ReadError::Missing) => Found::Nothing,
        Err(cause @ ReadError::NotAFile(_)) => Found::NotASidecar(cause.to_string()),
        Err(cause) => Found::Unreadable(cause.to_string()),
    }
}

impl Sidecar {
    /// Reads `key=value` lines; the first line of a key counts, unknown ones are
    /// ignored.
    pub(crate) fn parse(bytes: &[u8]) -> Sidecar {
        let mut sidecar = Sidecar::default();
        for line in bytes.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(equals) = line.iter().position(|&byte| byte == b'=') else { continue };
            let value = line[equals + 1..].to_vec();
            let slot = match &line[..equals] {
                b"pid" => {
                    sidecar.pid.get_or_insert_with(|| RecordedPid::parse(value));
                    continue;
                }
                b"started" => &mut sidecar.started,
                b"cmd" => &mut sidecar.cmd,
                b"host" => &mut sidecar.host,
                b"boot_id" => &mut sidecar.boot_id,
                _ => continue,
            };
            slot.get_or_insert(value);
        }
        sidecar
    }

    /// `host=`, when it names one.
    pub(crate) fn host(&self) -> Option<&[u8]> {
        self.host.as_deref().map(<[u8]>::trim_ascii).filter(|host| !host.is_empty())
    }

    /// `boot_id=`, when it is whole: a UUID, 36 characters (random(4)).
    pub(crate) fn boot_id(&self) -> Option<&[u8]> {
        let is_uuid = |id: &&[u8]| id.len() == 36 && id.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
        self.boot_id.as_deref().map(<[u8]>::trim_ascii).filter(is_uuid)
    }

    /// `started=` as a time, when it is one.
    pub(crate) fn started_at(&self) -> Option<SystemTime> {
        let text = std::str::from_utf8(self.started.as_deref()?).ok()?;
        humantime::parse_rfc3339(text.trim()).ok()
    }
}

impl RecordedPid {
    fn parse(value: Vec<u8>) -> RecordedPid {
        let text = value.trim_ascii();
        let is_decimal = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(text).ok().filter(|_| is_decimal);
        // A decimal that no integer holds is a pid that no process has.
        match number.map(|digits| digits.parse().unwrap_or(u64::MAX)) {
            Some(pid) if pid > 0 => RecordedPid::Usable(pid),
            _ => RecordedPid::Unusable(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn the_runners_sidecar_is_read() {
        let sidecar = Sidecar::parse(b"pid=4242\nstarted=2026-06-04T01:02:03Z\ncmd=bash ./run.sh --target a=b\n");
        assert_eq!(sidecar.pid, Some(RecordedPid::Usable(4242)));
        assert_eq!(sidecar.started_at(), Some(UNIX_EPOCH + Duration::from_secs(1_780_534_923)));
        assert_eq!(sidecar.cmd.as_deref(), Some(&b"bash ./run.sh --target a=b"[..]));
        assert_eq!((sidecar.host, sidecar.boot_id), (None, None));
    }

    #[test]
    fn first_line_of_a_key_counts_and_unknown_ones_do_not() {
        let sidecar = Sidecar::parse(b"colour=red\npid=1\r\npid=2\n=x\nnonsense\nhost=a\nhost=b");
        assert_eq!(sidecar.pid, Some(RecordedPid::Usable(1)));
        assert_eq!(sidecar.host.as_deref(), Some(&b"a"[..]));
    }

    #[test]
    fn hosts_and_boots_that_were_cut_off_are_none() {
        let sidecar = Sidecar::parse(b"host= \nboot_id=0b6dd2d1-\n");
        assert_eq!((sidecar.host(), sidecar.boot_id()), (None, None));
        let sidecar = Sidecar::parse(b"host=nas\r\nboot_id= 0b6dd2d1-7bd5-4b22-9b1c-8a6a2f0d2d3e\n");
        assert_eq!(sidecar.host(), Some(&b"nas"[..]));
        assert_eq!(sidecar.boot_id(), Some(&b"0b6dd2d1-7bd5-4b22-9b1c-8a6a2f0d2d3e"[..]));
    }

    #[test]
    fn only_positive_decimals_are_usable_pids() {
        let usable = |text: &str| match RecordedPid::parse(text.into()) {
            RecordedPid::Usable(pid) => Some(pid),
            RecordedPid::Unusable(_) => None,
        };
        for text in ["", "0", "00", "-1", "+1", "12x", "x", "1 2", "0x10", "1.5", "٣"] {
            assert_eq!(usable(text), None, "{text}");
        }
        assert_eq!(usable("99999999"), Some(99_999_999));
        assert_eq!(usable(" 7 "), Some(7));
        assert_eq!(usable(&"9".repeat(400)), Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            Sidecar::parse(&bytes).started_at();
        }
    }
}
