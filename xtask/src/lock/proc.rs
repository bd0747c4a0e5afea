//! Reading `/proc`, and what it tells about one process (proc(5)).

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, SystemTime};

/// More than this is not read, in bytes: some 100,000 mounts.
const LONGEST: u64 = 16 << 20;

/// A `/proc` file as text. The kernel makes it: it is short and never blocks.
pub(crate) fn read(path: &str) -> io::Result<String> {
    // The kernel makes the text while it is read: one large piece is cheapest, and the size it
    // tells, which `read_to_end` on a file would ask for, is 0.
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether this process is in the initial PID namespace, where `/proc/locks` shows
/// the locks of all processes. Its inode number is fixed (`PROC_PID_INIT_INO` in the
/// kernel's include/linux/proc_ns.h).
pub(crate) fn sees_every_process() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

/// This machine's name, as `host=` in a sidecar has it.
pub(crate) fn host() -> Option<String> {
    read("/proc/sys/kernel/hostname").ok().map(|name| name.trim_end().to_owned())
}

/// This boot's id, as `boot_id=` in a sidecar has it.
pub(crate) fn boot_id() -> Option<String> {
    read("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim_end().to_owned())
}

/// Whether a process with this pid runs: only ESRCH says no, for EPERM is another
/// user's process, alive (kill(2)). A zombie has ended, and has no descriptors.
pub(crate) fn is_running(pid: u64) -> bool {
    let exists = i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH));
    exists && !read(&format!("/proc/{pid}/stat")).is_ok_and(|stat| is_ended(&stat))
}

/// Whether a pid is out of the sight of this process, which is not in the initial PID
/// namespace. None is above `PID_MAX_LIMIT`, 2^22 (the kernel's include/linux/threads.h).
pub(crate) fn may_be_out_of_sight(pid: u64) -> bool {
    pid <= 1 << 22 && !sees_every_process()
}

/// When the process started, by today's clock; accurate to a clock tick, 10 ms.
pub(crate) fn started_at(pid: u64) -> Option<SystemTime> {
    let ticks = start_ticks(&read(&format!("/proc/{pid}/stat")).ok()?)?;
    let ticks_per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
    let since_boot = Duration::from_millis(ticks.checked_mul(1000)? / ticks_per_second);
    let uptime = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    SystemTime::now().checked_sub(uptime.checked_sub(since_boot)?)
}

/// The name of the program, at most 15 bytes, without its arguments: those may
/// hold a token.
pub(crate) fn command(pid: i32) -> Option<String> {
    read(&format!("/proc/{pid}/comm")).ok().map(|comm| comm.trim_end_matches('\n').to_owned())
}

/// Field 3 of `/proc/PID/stat`: `Z` is a zombie, `X` dead.
fn is_ended(stat: &str) -> bool {
    let state = stat.rsplit_once(')').and_then(|(_, from_field_3)| from_field_3.split_ascii_whitespace().next());
    matches!(state, Some("Z" | "X" | "x"))
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot. The command, field 2, may
/// hold blanks and parentheses: the fields are counted from the last `)`.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, from_field_3) = stat.rsplit_once(')')?;
    from_field_3.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_is_counted_from_the_last_parenthesis() {
        let stat = "1946 (a) b (c) S 1 1946 1946 0 -1 4194560 110 0 0 0 0 0 0 0 20 0 1 0 43731 2494464 224 18446744073709551615 1";
        assert_eq!(start_ticks(stat), Some(43731));
        assert_eq!(start_ticks("1946 (a) S 1"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn a_zombie_has_ended() {
        assert!(is_ended("7 (a) b) Z 1 7"));
        assert!(!is_ended("7 (Z) S 1 7"));
        assert!(!is_ended(""));
    }

    #[test]
    fn own_process_runs_and_started_before_now() {
        let pid = u64::from(std::process::id());
        assert!(is_running(pid));
        let age = SystemTime::now().duration_since(started_at(pid).unwrap()).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }

    #[test]
    fn impossible_pids_do_not_run() {
        assert!(!is_running(99_999_999));
        assert!(!is_running(u64::MAX));
    }
}
