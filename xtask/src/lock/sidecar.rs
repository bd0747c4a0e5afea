//! The `.meta` sidecar: what the holder of the lock says about itself.
//!
//! The archive folder is shared, so this is the claim of a stranger: it is read within bounds, and it
//! never decides whether the lock is held.

use crate::lock::path::sidecar_path;
use crate::sys::file::{self, Links, ReadError};
use crate::sys::procfs;
use crate::text::Foreign;
use rustix::io::Errno;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Maximum size read of a sidecar.
const SIDECAR_MAX_BYTES: u64 = 64 << 10;

/// A process that started this much later than the sidecar says is another one under the same pid.
const STARTED_TOLERANCE: Duration = Duration::from_secs(2);

/// What is in the sidecar's place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nothing.
    None,
    /// Something that is not a file, and what it is.
    NotASidecar(String),
    /// Perhaps a sidecar, which could not be read, and why.
    Unreadable(String),
    /// A sidecar that names no process; the value of `pid=`, if it has one.
    NoPid(Option<Foreign>),
    Recorded(Recorded),
}

/// A sidecar with a usable pid.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Recorded {
    pub(crate) pid: u64,
    pub(crate) started: Option<Foreign>,
    #[serde(skip)]
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) cmd: Option<Foreign>,
    /// Whether the process that wrote the sidecar runs; null when that cannot be seen from here.
    #[serde(rename = "running", serialize_with = "running")]
    pub(crate) writer: Writer,
    /// `host=` names this host.
    #[serde(skip)]
    pub(crate) is_from_this_host: bool,
}

/// What has become of the process that wrote the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Writer {
    /// No process has its pid.
    Gone,
    /// Another process has its pid now.
    Recycled,
    /// It ran before this machine was last booted.
    EarlierBoot,
    /// It runs, or ran, on this other host.
    OtherHost(Foreign),
    /// It may run outside this PID namespace.
    Hidden,
    Running,
}

/// The first value of each known key.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sidecar {
    pid: Option<Foreign>,
    started: Option<Foreign>,
    cmd: Option<Foreign>,
    host: Option<Foreign>,
    boot_id: Option<Foreign>,
}

impl Claim {
    /// Reads the sidecar of the lock at `lock`. Links are not followed: whoever may write to the archive
    /// could point one at a file that only the reader may see.
    pub(crate) fn read(lock: &Path) -> Claim {
        let sidecar = match file::read_start(&sidecar_path(lock), Links::Refuse, SIDECAR_MAX_BYTES) {
            Ok(bytes) => Sidecar::parse(&bytes),
            Err(ReadError::Missing) => return Claim::None,
            // It was removed on the NFS server.
            Err(ReadError::Io(error)) if Errno::from_io_error(&error) == Some(Errno::STALE) => return Claim::None,
            Err(cause @ ReadError::NotAFile(_)) => return Claim::NotASidecar(cause.to_string()),
            Err(cause) => return Claim::Unreadable(cause.to_string()),
        };
        let Some(pid) = sidecar.pid.as_ref().and_then(usable_pid) else { return Claim::NoPid(sidecar.pid) };
        let (writer, started_at) = (sidecar.writer(pid), sidecar.started_at());
        let is_from_this_host =
            sidecar.host().is_some_and(|host| Some(host) == procfs::host().as_deref().map(str::as_bytes));
        Claim::Recorded(Recorded {
            pid,
            started: sidecar.started,
            started_at,
            cmd: sidecar.cmd,
            writer,
            is_from_this_host,
        })
    }

    /// The sidecar's claim, when it names a process.
    pub(crate) fn recorded(&self) -> Option<&Recorded> {
        match self {
            Claim::Recorded(recorded) => Some(recorded),
            Claim::None | Claim::NotASidecar(_) | Claim::Unreadable(_) | Claim::NoPid(_) => None,
        }
    }

    /// The process that the sidecar names, when it runs and plausibly wrote it.
    pub(crate) fn running_writer(&self) -> Option<i32> {
        match self {
            Claim::Recorded(Recorded { pid, writer: Writer::Running, .. }) => i32::try_from(*pid).ok(),
            _ => None,
        }
    }

    /// Whether the sidecar is the one that this process wrote.
    pub(crate) fn is_own(&self) -> bool {
        let is_own = |recorded: &Recorded| {
            recorded.pid == u64::from(std::process::id())
                && !matches!(recorded.writer, Writer::OtherHost(_) | Writer::EarlierBoot)
        };
        self.recorded().is_some_and(is_own)
    }

    /// A recorded process that holds the lock wrote the sidecar, whatever the times say: clocks are set.
    pub(crate) fn confirm_writer(&mut self, holds: impl Fn(u64) -> bool) {
        if let Claim::Recorded(recorded) = self
            && matches!(recorded.writer, Writer::Recycled | Writer::Hidden)
            && holds(recorded.pid)
        {
            recorded.writer = Writer::Running;
        }
    }

    /// Whether somebody has written a sidecar here, readable or not.
    pub(crate) fn has_sidecar(&self) -> bool {
        !matches!(self, Claim::None | Claim::NotASidecar(_))
    }
}

impl Writer {
    /// None when it cannot be seen from here.
    pub(crate) fn is_running(&self) -> Option<bool> {
        match self {
            Writer::Running => Some(true),
            Writer::Gone | Writer::Recycled | Writer::EarlierBoot => Some(false),
            Writer::OtherHost(_) | Writer::Hidden => None,
        }
    }
}

fn running<S: serde::Serializer>(writer: &Writer, serializer: S) -> Result<S::Ok, S::Error> {
    writer.is_running().serialize(serializer)
}

impl Sidecar {
    /// Reads `key=value` lines; the first line of a key counts, unknown keys are ignored.
    fn parse(bytes: &[u8]) -> Sidecar {
        let mut sidecar = Sidecar::default();
        for line in bytes.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(equals) = line.iter().position(|&byte| byte == b'=') else { continue };
            let value = Foreign(line[equals + 1..].to_vec());
            let slot = match &line[..equals] {
                b"pid" => &mut sidecar.pid,
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

    /// What has become of the writer; its descriptors are not looked at.
    fn writer(&self, pid: u64) -> Writer {
        let differs = |recorded: Option<&[u8]>, here: Option<String>| match (recorded, here) {
            (Some(recorded), Some(here)) => recorded != here.as_bytes(),
            _ => false,
        };
        if differs(self.host(), procfs::host()) {
            return Writer::OtherHost(self.host.clone().unwrap_or_default());
        }
        if differs(self.boot_id(), procfs::boot_id()) {
            return Writer::EarlierBoot;
        }
        let is_later =
            |recorded: SystemTime| procfs::started_at(pid).is_some_and(|now| now > recorded + STARTED_TOLERANCE);
        match procfs::is_running(pid) {
            true if !self.started_at().is_some_and(is_later) => Writer::Running,
            _ if procfs::may_be_hidden(pid) => Writer::Hidden,
            true => Writer::Recycled,
            false => Writer::Gone,
        }
    }

    /// `host=`, when it names one.
    fn host(&self) -> Option<&[u8]> {
        self.host.as_ref().map(|host| host.0.trim_ascii()).filter(|host| !host.is_empty())
    }

    /// `boot_id=`, when it is whole: a UUID of 36 characters (random(4)).
    fn boot_id(&self) -> Option<&[u8]> {
        let is_uuid = |id: &&[u8]| id.len() == 36 && id.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
        self.boot_id.as_ref().map(|id| id.0.trim_ascii()).filter(is_uuid)
    }

    /// `started=` as a time, when it is one.
    fn started_at(&self) -> Option<SystemTime> {
        let text = std::str::from_utf8(&self.started.as_ref()?.0).ok()?;
        humantime::parse_rfc3339(text.trim()).ok()
    }
}

/// `pid=` as a positive decimal. It may be larger than any real pid.
fn usable_pid(value: &Foreign) -> Option<u64> {
    let digits = std::str::from_utf8(value.0.trim_ascii()).ok()?;
    let is_decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // A decimal too large for an integer is a pid that no process has.
    is_decimal.then(|| digits.parse().unwrap_or(u64::MAX)).filter(|&pid| pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn only_a_running_writer_is_one_to_be_inspected() {
        let claim = |writer| {
            let (started, started_at, cmd) = (None, None, None);
            Claim::Recorded(Recorded { pid: 42, started, started_at, cmd, writer, is_from_this_host: true })
        };
        assert_eq!(claim(Writer::Running).running_writer(), Some(42));
        for other in [claim(Writer::Gone), claim(Writer::Hidden), claim(Writer::Recycled), Claim::None] {
            assert_eq!(other.running_writer(), None, "{other:?}");
        }
        let without = [Claim::None, Claim::NotASidecar(String::new())];
        let with = [Claim::Unreadable(String::new()), Claim::NoPid(None), claim(Writer::Gone)];
        assert!(!without.iter().any(Claim::has_sidecar) && with.iter().all(Claim::has_sidecar));
    }

    #[test]
    fn the_runners_sidecar_is_read() {
        let sidecar = Sidecar::parse(b"pid=4242\nstarted=2026-06-04T01:02:03Z\ncmd=bash ./run.sh --target a=b\n");
        assert_eq!(sidecar.pid, Some(Foreign(b"4242".into())));
        assert_eq!(sidecar.started_at(), Some(UNIX_EPOCH + Duration::from_secs(1_780_534_923)));
        assert_eq!(sidecar.cmd, Some(Foreign(b"bash ./run.sh --target a=b".into())));
        assert_eq!((sidecar.host(), sidecar.boot_id()), (None, None));
    }

    #[test]
    fn first_line_of_a_key_counts_and_unknown_ones_do_not() {
        let sidecar = Sidecar::parse(b"colour=red\npid=1\r\npid=2\n=x\nnonsense\nhost=a\nhost=b");
        assert_eq!(sidecar.pid, Some(Foreign(b"1".into())));
        assert_eq!(sidecar.host, Some(Foreign(b"a".into())));
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
        let usable = |text: &str| usable_pid(&Foreign(text.into()));
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
